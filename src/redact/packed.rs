//! Compressed bodies. Those in gzip, deflate, Brotli and Zstandard (RFC 1952, 1950, 1951, 7932, 8878) are looked into. One
//! of gzip or deflate that holds a secret is spelled anew in its length (`deflate`), or packed anew. If that does not fit,
//! and in all other formats, it becomes a body of the same format and length that says what it was: stored blocks,
//! which can have any length.

use std::io::{Read, Write};
use std::ops::Range;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::{Compression, Crc, GzBuilder};

use super::body::{Body, Type};
use super::deflate::{Past, spell};
use super::engine::Engine;
use super::kind::Kind;
use crate::proto::deflate::{WINDOW, read};

/// Longest body that is waited for.
const PACKED_MAX: usize = 4 << 20;
/// Longest that is unpacked.
const UNPACKED_MAX: u64 = 64 << 20;
/// Longest that is spelled anew, unpacked.
const RESPELLED_MAX: usize = 16 << 20;

/// What a body that was replaced says: a string of JSON, so that it is valid in most places.
const SAID: &[u8] = b"redacted by tls2pcap ";

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    /// What HTTP calls deflate: zlib, or without its frame.
    Deflate,
    Brotli,
    Zstd,
    /// Another, or several one after the other.
    Other,
}

/// A compressed body that comes in pieces.
#[derive(Debug)]
pub(super) struct Packed {
    format: Format,
    inner: Type,
    is_lost: bool,
}

impl Packed {
    pub(super) fn new(format: Format, inner: Type) -> Packed {
        Packed { format, inner, is_lost: false }
    }

    /// Works on what is there. Gives how many bytes are decided: all at the end, none before.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        self.is_lost |= bytes.len() > PACKED_MAX;
        if self.is_lost {
            engine.fill_whole(bytes, 0..bytes.len(), Kind::Compressed);
            return bytes.len();
        }
        if !last {
            return 0;
        }
        if bytes.is_empty() {
            return 0;
        }
        // Of what it says nobody may know the type any more.
        if filler(self.format, bytes, said).is_some_and(|filler| filler[..] == *bytes) {
            return bytes.len();
        }
        let plain = unpack(self.format, bytes).filter(|_| !engine.is_shape());
        if plain.is_none() && engine.trusts() {
            return bytes.len();
        }
        let Some(mut plain) = plain else {
            self.replace(engine, bytes, &[]);
            return bytes.len();
        };
        let old = (plain.len() <= RESPELLED_MAX).then(|| plain.clone());
        let found = Body::new(self.inner.clone()).whole(engine, &mut plain);
        if found.is_empty() && !has_hidden_text(self.format, bytes) {
            return bytes.len();
        }
        if let Some(body) = old.and_then(|old| respelled(self.format, bytes, &old, &plain)) {
            bytes.copy_from_slice(&body);
            found.iter().for_each(|kind| engine.note(0, *kind));
            return bytes.len();
        }
        if self.format == Format::Gzip
            && let Some(packed) = pack(&plain, bytes.len())
        {
            bytes.copy_from_slice(&packed);
            found.iter().for_each(|kind| engine.note(0, *kind));
            return bytes.len();
        }
        self.replace(engine, bytes, &found);
        bytes.len()
    }

    fn replace(&self, engine: &mut Engine, bytes: &mut [u8], found: &[Kind]) {
        let before = engine.found_so_far();
        fill(engine, Some(self.format), bytes, 0..bytes.len(), said);
        if engine.found_so_far() > before {
            found.iter().for_each(|kind| engine.note(0, *kind));
        }
    }
}

/// Replaces something compressed by what is valid, has the same length, and says what it was, as `says` gives it for a length.
pub(super) fn fill(
    engine: &mut Engine,
    format: Option<Format>,
    bytes: &mut [u8],
    range: Range<usize>,
    says: fn(usize) -> Vec<u8>,
) {
    let value = &mut bytes[range.clone()];
    let Some(filler) = format.and_then(|format| filler(format, value, says)) else {
        return engine.fill_whole(bytes, range, Kind::Compressed);
    };
    if filler[..] != *value {
        value.copy_from_slice(&filler);
        engine.note(range.start, Kind::Compressed);
    }
}

fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [a, b, ..] if a & 15 == 8 && (u32::from(*a) << 8 | u32::from(*b)) % 31 == 0)
}

/// All of a body, if it is whole and of bounded length.
fn unpack(format: Format, bytes: &[u8]) -> Option<Vec<u8>> {
    fn all(reader: impl Read) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        reader.take(UNPACKED_MAX + 1).read_to_end(&mut plain).ok()?;
        (plain.len() as u64 <= UNPACKED_MAX).then_some(plain)
    }
    match format {
        Format::Gzip => all(MultiGzDecoder::new(bytes)),
        // What follows the end would be shown as it is.
        Format::Deflate if is_zlib(bytes) => {
            let mut decoder = ZlibDecoder::new(bytes);
            all(&mut decoder).filter(|_| decoder.into_inner().is_empty())
        }
        Format::Deflate => {
            let mut decoder = DeflateDecoder::new(bytes);
            all(&mut decoder).filter(|_| decoder.into_inner().is_empty())
        }
        Format::Brotli => unbrotli(bytes),
        Format::Zstd => zstandard(bytes),
        Format::Other => None,
    }
}

/// Whether the header of gzip has a comment or an extra field, which no type describes.
fn has_hidden_text(format: Format, bytes: &[u8]) -> bool {
    let header = |bytes| flate2::bufread::GzDecoder::new(bytes).header().cloned();
    format == Format::Gzip && header(bytes).is_some_and(|h| h.extra().is_some() || h.comment().is_some())
}

/// Where a body's stream of deflate is, without its frame; `None`: it has none, or several.
fn stream_of(format: Format, bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    match format {
        Format::Gzip => {
            let mut reader = bytes;
            let header = flate2::bufread::GzDecoder::new(&mut reader).header()?.clone();
            // What its header says would stay.
            if header.extra().is_some() || header.filename().is_some() || header.comment().is_some() {
                return None;
            }
            Some(bytes.len() - reader.len()..bytes.len().checked_sub(8)?)
        }
        Format::Deflate if is_zlib(bytes) => Some(2..bytes.len().checked_sub(4)?),
        Format::Deflate => Some(0..bytes.len()),
        Format::Brotli | Format::Zstd | Format::Other => None,
    }
}

/// The same body, saying `new` instead of `old`, or something that shows less; `None`: that does not fit.
fn respelled(format: Format, bytes: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let part = stream_of(format, bytes)?;
    let source = bytes.get(part.clone())?;
    let stream = read(source, old.len()).ok()?;
    let is_one = stream.blocks.iter().position(|block| block.is_last) == Some(stream.blocks.len() - 1);
    if !is_one || stream.text(&[]).as_deref() != Some(old) {
        return None;
    }
    let spelled = spell(&stream, source, &Past::default(), WINDOW, old, new)?;
    let mut out = bytes.to_vec();
    out[part.clone()].copy_from_slice(&spelled.bytes);
    let mut crc = Crc::new();
    match format {
        Format::Gzip => {
            crc.update(&spelled.text);
            out[part.end..part.end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        }
        _ if part.end < bytes.len() => out[part.end..].copy_from_slice(&adler(&spelled.text).to_be_bytes()),
        _ => {}
    }
    Some(out)
}

/// A body in Brotli. What follows its end would be shown as it is, so nothing may.
fn unbrotli(bytes: &[u8]) -> Option<Vec<u8>> {
    use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
    let mut state =
        BrotliState::new(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
    let (mut plain, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let (mut left, mut at, mut total) = (bytes.len(), 0, 0);
    loop {
        let (mut room, mut end) = (buffer.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            bytes,
            &mut room,
            &mut end,
            &mut buffer,
            &mut total,
            &mut state,
        );
        plain.extend_from_slice(&buffer[..end]);
        if plain.len() as u64 > UNPACKED_MAX {
            return None;
        }
        match result {
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultSuccess => return (left == 0).then_some(plain),
            BrotliResult::NeedsMoreInput | BrotliResult::ResultFailure => return None,
        }
    }
}

/// All frames of a body in Zstandard. One that may be skipped can hold anything, so a body with such is none of ours.
fn zstandard(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        let room = UNPACKED_MAX + 1 - plain.len() as u64;
        let decoder = ruzstd::decoding::StreamingDecoder::new(&mut bytes).ok()?;
        decoder.take(room).read_to_end(&mut plain).ok()?;
        if plain.len() as u64 > UNPACKED_MAX {
            return None;
        }
    }
    Some(plain)
}

/// Packed in gzip, made as long as is asked by a comment in its header; `None` if it does not fit.
fn pack(plain: &[u8], len: usize) -> Option<Vec<u8>> {
    let pack = |head: GzBuilder| {
        let mut packer = head.write(Vec::with_capacity(len), Compression::best());
        packer.write_all(plain).ok()?;
        packer.finish().ok()
    };
    let packed = pack(GzBuilder::new())?;
    match len.checked_sub(packed.len())? {
        0 => Some(packed),
        room => {
            let comment: Vec<u8> =
                SAID.iter().copied().chain(std::iter::repeat(b'.')).take(room - 1).collect();
            pack(GzBuilder::new().comment(comment)).filter(|packed| packed.len() == len)
        }
    }
}

/// Makes a message of WebSocket's permessage-deflate (RFC 7692) say what it was, or masks it if it is too short.
pub(super) fn say_so(engine: &mut Engine, message: &mut [u8]) {
    let Some(filler) = message_filler(message.len()) else {
        engine.fill_whole(message, 0..message.len(), Kind::Compressed);
        return;
    };
    if filler[..] != *message {
        message.copy_from_slice(&filler);
        engine.note(0, Kind::Compressed);
    }
}

/// A message of this length that refers to no other.
fn message_filler(len: usize) -> Option<Vec<u8>> {
    let (room, blocks) = stored_room(len.checked_sub(1)?)?;
    let mut out = Vec::with_capacity(len);
    stored(&said(room), blocks, false, &mut out);
    // The beginning of an empty block, the rest of which every receiver adds.
    out.push(0);
    Some(out)
}

/// What a body of so many bytes says.
pub(super) fn said(len: usize) -> Vec<u8> {
    match len {
        0 | 1 => vec![b'1'; len],
        _ => std::iter::once(b'"').chain(text(len - 2)).chain([b'"']).collect(),
    }
}

/// The same as text.
pub(super) fn text(len: usize) -> impl Iterator<Item = u8> {
    SAID.iter().copied().chain(std::iter::repeat(b'.')).take(len)
}

/// A valid body of the same format and length; `None` if there is none.
fn filler(format: Format, bytes: &[u8], said: fn(usize) -> Vec<u8>) -> Option<Vec<u8>> {
    let len = bytes.len();
    match format {
        Format::Gzip => {
            let (room, blocks) = stored_room(len.checked_sub(18)?)?;
            let text = said(room);
            let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
            stored(&text, blocks, true, &mut out);
            let mut crc = Crc::new();
            crc.update(&text);
            out.extend_from_slice(&crc.sum().to_le_bytes());
            out.extend_from_slice(&crc.amount().to_le_bytes());
            Some(out)
        }
        Format::Deflate if is_zlib(bytes) => {
            let (room, blocks) = stored_room(len.checked_sub(6)?)?;
            let text = said(room);
            let mut out = vec![0x78, 0x01];
            stored(&text, blocks, true, &mut out);
            out.extend_from_slice(&adler(&text).to_be_bytes());
            Some(out)
        }
        Format::Deflate => {
            let (room, blocks) = stored_room(len)?;
            let mut out = Vec::with_capacity(len);
            stored(&said(room), blocks, true, &mut out);
            Some(out)
        }
        Format::Brotli => brotli(len, said),
        Format::Zstd => zstd(len, said),
        Format::Other => None,
    }
}

const STORED_MAX: usize = 0xffff;

/// How much fits into stored blocks of so many bytes in all, and how many blocks these are.
fn stored_room(len: usize) -> Option<(usize, usize)> {
    let blocks = len.div_ceil(5 + STORED_MAX).max(1);
    Some((len.checked_sub(5 * blocks)?, blocks))
}

/// Stored blocks of deflate (RFC 1951, section 3.2.4), the last of which may be empty.
fn stored(text: &[u8], blocks: usize, last: bool, out: &mut Vec<u8>) {
    for i in 0..blocks {
        let part = &text[(i * STORED_MAX).min(text.len())..text.len().min((i + 1) * STORED_MAX)];
        let len = part.len() as u16;
        out.push(u8::from(last && i + 1 == blocks));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// Adler-32 (RFC 1950, section 8.2).
fn adler(text: &[u8]) -> u32 {
    let (a, b) = text.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

/// Uncompressed meta-blocks of Brotli (RFC 7932, section 9.2), in a window of 64 KiB.
fn brotli(len: usize, said: fn(usize) -> Vec<u8>) -> Option<Vec<u8>> {
    let blocks = len.checked_sub(1)?.div_ceil(3 + 0x1_0000);
    let room = (len - 1).checked_sub(3 * blocks).filter(|room| *room >= blocks)?;
    let text = said(room);
    let mut out = Vec::with_capacity(len);
    let mut at = 0;
    for i in 0..blocks {
        // None may be empty.
        let part = (room - at - (blocks - i - 1)).min(0x1_0000);
        // Not the last; four digits of length; uncompressed. The first has the window's bit in front.
        let word = ((part - 1) as u32) << 3 | 1 << 19;
        let word = if i == 0 { word << 1 } else { word };
        out.extend_from_slice(&word.to_le_bytes()[..3]);
        out.extend_from_slice(&text[at..at + part]);
        at += part;
    }
    // The last, and empty.
    out.push(3);
    Some(out)
}

/// Raw blocks of Zstandard (RFC 8878, section 3.1.1), in a window of 2 MiB.
fn zstd(len: usize, said: fn(usize) -> Vec<u8>) -> Option<Vec<u8>> {
    const BLOCK_MAX: usize = 128 << 10;
    let room = len.checked_sub(6)?;
    let blocks = room.div_ceil(3 + BLOCK_MAX).max(1);
    let text = said(room.checked_sub(3 * blocks)?);
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 11 << 3];
    for i in 0..blocks {
        let part = &text[(i * BLOCK_MAX).min(text.len())..text.len().min((i + 1) * BLOCK_MAX)];
        let header = u32::from(i + 1 == blocks) | (part.len() as u32) << 3;
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(part);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_have_every_length_and_unpack() {
        for len in (23..400).chain([
            65_535 + 22,
            65_558,
            65_560,
            65_563,
            131_100,
            200_000,
            131_093,
            131_094,
            131_098,
        ]) {
            let bytes = vec![0; len];
            let packed = filler(Format::Gzip, &bytes, said).unwrap_or_else(|| panic!("{len}"));
            assert_eq!(packed.len(), len);
            let plain = unpack(Format::Gzip, &packed).unwrap_or_else(|| panic!("{len}"));
            assert!(serde_json::from_slice::<serde_json::Value>(&plain).is_ok() || plain.is_empty());
            let mut zlib = bytes.clone();
            zlib[..2].copy_from_slice(&[0x78, 0x9c]);
            let packed = filler(Format::Deflate, &zlib, said).unwrap();
            assert_eq!((packed.len(), unpack(Format::Deflate, &packed).is_some()), (len, true), "{len}");
            for format in [Format::Deflate, Format::Brotli, Format::Zstd] {
                assert_eq!(filler(format, &bytes, said).unwrap().len(), len, "{format:?}");
            }
            assert_eq!(message_filler(len).unwrap().len(), len);
        }
        assert_eq!(filler(Format::Gzip, &[0; 22], said), None);
    }

    /// Made by Node.js and by zstd.
    const PACKED: [(Format, &[u8]); 2] = [
        (Format::Brotli, b"\x0b\x11\x80{\x22a\x22:1,\x22password\x22:\x22hunter2Correct\x22}\x03"),
        (
            Format::Zstd,
            b"(\xb5/\xfd$#\x19\x01\x00{\x22a\x22:1,\x22password\x22:\x22hunter2Correct\x22}\xd8\x87\xcc\x93",
        ),
    ];

    #[test]
    fn brotli_and_zstandard_are_looked_into() {
        for (format, packed) in PACKED {
            assert_eq!(
                unpack(format, packed).as_deref(),
                Some(&b"{\"a\":1,\"password\":\"hunter2Correct\"}"[..]),
                "{format:?}"
            );
            for len in 0..packed.len() {
                assert_eq!(
                    unpack(format, &packed[..len]).filter(|plain| !plain.is_empty()),
                    None,
                    "{format:?} {len}"
                );
            }
            assert_eq!(
                unpack(format, &[packed, b"secret"].concat()),
                None,
                "{format:?}: what follows would be shown"
            );
            let filler = filler(format, &[0; 100], said).unwrap();
            let plain = unpack(format, &filler).unwrap();
            assert!(plain.starts_with(b"\"redacted by tls2pcap"), "{format:?}");
        }
        let plain = b"token=hunter2Correct77Horse";
        let zlib = |bytes: &[u8]| {
            let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        };
        assert_eq!(unpack(Format::Deflate, &zlib(plain)).unwrap(), plain);
        assert_eq!(unpack(Format::Deflate, &[zlib(plain), plain.to_vec()].concat()), None);
    }

    #[test]
    fn gzip_is_padded_by_a_comment() {
        let plain = b"hello hello hello hello".to_vec();
        let shortest = pack(&plain, 1000).unwrap();
        assert_eq!(shortest.len(), 1000);
        assert_eq!(unpack(Format::Gzip, &shortest).unwrap(), plain);
        assert_eq!(pack(&plain, 20), None);
    }
}
