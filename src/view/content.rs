//! Bodies as they come: unpacked piece by piece, measured, hashed, and not kept but for their beginnings.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

use super::parts::Splitter;
use super::{Content, Part, Unpacked};

/// Bytes of Brotli and Zstandard that are kept until the body is complete. Longer ones are not unpacked.
const PACKED_MAX: usize = 4 << 20;
/// Largest window of Zstandard (RFC 9659 asks no more of who speaks HTTP).
const WINDOW_MAX: u64 = 8 << 20;
/// Most bytes that a body is unpacked to.
const UNPACKED_MAX: u64 = 256 << 20;
/// What a decoder of deflate takes, about.
const INFLATER: usize = 48 << 10;
const BUFFER: usize = 16 << 10;

/// What is wanted of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each that are kept to be shown.
    pub preview: usize,
    /// Whether hashes are wanted.
    pub hashes: bool,
}

/// A stream of deflate in one of its three frames.
#[derive(Debug)]
pub(super) struct Inflater {
    inner: Box<Decompress>,
    is_gzip: bool,
}

/// What a decoder says is no stream of its kind.
pub(super) struct Broken;

impl Inflater {
    fn gzip() -> Inflater {
        Inflater { inner: Box::new(Decompress::new_gzip(15)), is_gzip: true }
    }

    fn deflate(has_zlib_header: bool) -> Inflater {
        Inflater { inner: Box::new(Decompress::new(has_zlib_header)), is_gzip: false }
    }

    /// Of WebSocket's messages (RFC 7692), which may refer to earlier ones.
    pub(super) fn messages() -> Inflater {
        Inflater::deflate(false)
    }

    /// Hands on what `bytes` unpack to. Gives whether the stream has ended with them.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        on: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, Broken> {
        let mut buffer = [0; BUFFER];
        loop {
            let (taken, given) = (self.inner.total_in(), self.inner.total_out());
            let status = self.inner.decompress(bytes, &mut buffer, FlushDecompress::None);
            let status = status.map_err(|_| Broken)?;
            bytes = &bytes[(self.inner.total_in() - taken) as usize..];
            let len = (self.inner.total_out() - given) as usize;
            if len > 0 && !on(&buffer[..len]) {
                return Err(Broken);
            }
            match status {
                // Another member may follow.
                Status::StreamEnd if self.is_gzip && !bytes.is_empty() => *self = Inflater::gzip(),
                Status::StreamEnd => return if bytes.is_empty() { Ok(true) } else { Err(Broken) },
                _ if bytes.is_empty() && len < BUFFER => return Ok(false),
                Status::BufError if len == 0 => {
                    return if bytes.is_empty() { Ok(false) } else { Err(Broken) };
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

#[derive(Debug)]
enum Decoder {
    Plain,
    Inflate(Inflater),
    /// Deflate, whose first bytes tell whether it has zlib's frame.
    Deflate(Vec<u8>),
    /// It is unpacked when it is complete.
    Brotli(Vec<u8>),
    Zstd(Vec<u8>),
    /// It cannot be, or no longer.
    None(&'static str),
}

/// What was unpacked.
#[derive(Debug)]
struct Plain {
    limits: Limits,
    length: u64,
    hash: Option<Sha256>,
    preview: Vec<u8>,
    splitter: Splitter,
}

impl Plain {
    /// Gives whether more may come.
    fn take(&mut self, bytes: &[u8], on: &mut dyn FnMut(Part)) -> bool {
        self.length += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        let room = self.limits.preview.saturating_sub(self.preview.len());
        self.preview.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.splitter.take(bytes, on);
        self.length <= UNPACKED_MAX
    }
}

/// A body that comes in pieces.
#[derive(Debug)]
pub(super) struct Reader {
    coding: String,
    decoder: Decoder,
    plain: Plain,
    length: u64,
    missing: u64,
    /// Some are missing, of which nobody knows how many.
    is_lossy: bool,
    /// The packed stream has ended.
    is_ended: bool,
    is_empty: bool,
}

impl Reader {
    /// `coding`: the value of Content-Encoding.
    pub(super) fn new(coding: &str, splitter: Splitter, limits: Limits) -> Reader {
        let coding = coding.trim().to_ascii_lowercase();
        let (coding, decoder) = match coding.as_str() {
            "" | "identity" | "aws-chunked" => (String::new(), Decoder::Plain),
            "gzip" | "x-gzip" => (coding, Decoder::Inflate(Inflater::gzip())),
            "deflate" => (coding, Decoder::Deflate(Vec::new())),
            "br" => (coding, Decoder::Brotli(Vec::new())),
            "zstd" => (coding, Decoder::Zstd(Vec::new())),
            _ => (coding, Decoder::None("unknown coding")),
        };
        let hash = limits.hashes.then(Sha256::new);
        let plain = Plain { limits, length: 0, hash, preview: Vec::new(), splitter };
        Reader {
            coding,
            decoder,
            plain,
            length: 0,
            missing: 0,
            is_lossy: false,
            is_ended: false,
            is_empty: true,
        }
    }

    /// A body as it is.
    pub(super) fn plain(limits: Limits) -> Reader {
        Reader::new("", Splitter::None, limits)
    }

    /// Bytes that it takes in memory.
    pub(super) fn held(&self) -> usize {
        let decoder = match &self.decoder {
            Decoder::Inflate(_) => INFLATER,
            Decoder::Deflate(bytes) | Decoder::Brotli(bytes) | Decoder::Zstd(bytes) => bytes.capacity(),
            Decoder::Plain | Decoder::None(_) => 0,
        };
        decoder + self.plain.preview.capacity() + self.plain.splitter.held() + size_of::<Reader>()
    }

    /// Bytes so far, as they were sent.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], on: &mut dyn FnMut(Part)) {
        if bytes.is_empty() {
            return;
        }
        self.length += bytes.len() as u64;
        self.is_empty = false;
        let plain = &mut self.plain;
        let failed = match &mut self.decoder {
            Decoder::Plain => {
                plain.take(bytes, on);
                // It costs nothing to go on.
                None
            }
            Decoder::None(_) => None,
            Decoder::Inflate(inflater) if self.is_ended && !inflater.is_gzip => Some("not valid"),
            Decoder::Inflate(inflater) => match inflater.feed(bytes, &mut |bytes| plain.take(bytes, on)) {
                Ok(is_ended) => {
                    self.is_ended = is_ended;
                    None
                }
                Err(Broken) => Some(too_long_or(plain, "not valid")),
            },
            Decoder::Deflate(first) => {
                first.extend_from_slice(bytes);
                if first.len() < 2 {
                    return;
                }
                let is_zlib =
                    first[0] & 15 == 8 && (u16::from(first[0]) << 8 | u16::from(first[1])) % 31 == 0;
                let mut inflater = Inflater::deflate(is_zlib);
                let fed = inflater.feed(first, &mut |bytes| plain.take(bytes, on));
                self.decoder = Decoder::Inflate(inflater);
                match fed {
                    Ok(is_ended) => {
                        self.is_ended = is_ended;
                        None
                    }
                    Err(Broken) => Some(too_long_or(plain, "not valid")),
                }
            }
            Decoder::Brotli(packed) | Decoder::Zstd(packed) => {
                packed.extend_from_slice(bytes);
                (packed.len() > PACKED_MAX).then_some("too long to unpack")
            }
        };
        if let Some(why) = failed {
            self.decoder = Decoder::None(why);
        }
    }

    /// Bytes that somebody else unpacks.
    pub(super) fn count(&mut self, len: u64) {
        self.length += len;
    }

    /// So many bytes of it are missing; 0: maybe some are, and nobody knows how many.
    pub(super) fn lose(&mut self, len: u64, on: &mut dyn FnMut(Part)) {
        self.missing = self.missing.saturating_add(len);
        self.is_lossy = true;
        self.plain.hash = None;
        if !matches!(self.decoder, Decoder::Plain) {
            self.unpack_rest(on);
            self.decoder = Decoder::None("bytes are missing");
        }
        self.plain.splitter.lose(on);
    }

    /// What waits for the end.
    fn unpack_rest(&mut self, on: &mut dyn FnMut(Part)) {
        let plain = &mut self.plain;
        let done = match &self.decoder {
            Decoder::Brotli(packed) => unbrotli(packed, &mut |bytes| plain.take(bytes, on)),
            Decoder::Zstd(packed) => zstandard(packed, &mut |bytes| plain.take(bytes, on)),
            _ => return,
        };
        self.is_ended = done.is_ok();
        if done.is_err() {
            self.decoder = Decoder::None(too_long_or(plain, "not valid"));
        }
    }

    /// Ends it; `is_whole`: its end was seen. Gives how many parts it had.
    pub(super) fn finish(mut self, is_whole: bool, on: &mut dyn FnMut(Part)) -> (Content, u64) {
        self.unpack_rest(on);
        let parts = self.plain.splitter.finish(on);
        let is_complete = is_whole && !self.is_lossy;
        let length = self.plain.length;
        let unpacked = match self.decoder {
            Decoder::Plain => Unpacked::Same,
            _ if self.is_empty => Unpacked::Same,
            Decoder::None(why) if length == 0 => Unpacked::Not(why),
            Decoder::None(_) => Unpacked::Part(length),
            _ if self.is_ended && is_complete => Unpacked::Whole(length),
            _ => Unpacked::Part(length),
        };
        let is_known = is_complete && matches!(unpacked, Unpacked::Same | Unpacked::Whole(_));
        let content = Content {
            length: self.length,
            missing: self.missing,
            is_complete,
            coding: self.coding,
            unpacked,
            sha256: self.plain.hash.filter(|_| is_known).map(|hash| hash.finalize().into()),
            preview: self.plain.preview,
        };
        (content, parts)
    }
}

fn too_long_or(plain: &Plain, why: &'static str) -> &'static str {
    if plain.length > UNPACKED_MAX { "too long to unpack" } else { why }
}

fn unbrotli(packed: &[u8], on: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Broken> {
    use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
    let alloc = StandardAlloc::default;
    let mut state = BrotliState::new(alloc(), alloc(), alloc());
    let mut buffer = vec![0; BUFFER];
    let (mut left, mut at, mut total) = (packed.len(), 0, 0);
    loop {
        let (mut room, mut end) = (buffer.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            packed,
            &mut room,
            &mut end,
            &mut buffer,
            &mut total,
            &mut state,
        );
        if end > 0 && !on(&buffer[..end]) {
            return Err(Broken);
        }
        match result {
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultSuccess => return if left == 0 { Ok(()) } else { Err(Broken) },
            BrotliResult::NeedsMoreInput | BrotliResult::ResultFailure => return Err(Broken),
        }
    }
}

fn zstandard(mut packed: &[u8], on: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    while !packed.is_empty() {
        let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(&mut packed, WINDOW_MAX);
        let mut decoder = decoder.map_err(|_| Broken)?;
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) if on(&buffer[..len]) => {}
                Ok(_) | Err(_) => return Err(Broken),
            }
        }
    }
    Ok(())
}
