//! The format of a capture file, determined by its name, and the conversion of whole pcapng blocks into it.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};

use super::blocks;
use super::link::Link;
use crate::redact;

/// Of zlib's 1 to 9.
const LEVEL: u32 = 2;

/// Is in the header of each gzip member of a pcapng, for readers of the file's beginning such as the Wireshark
/// plugin.
const GZIP_COMMENT: &str = "tls2pcap";

/// Type of a Section Header Block.
const SECTION: u32 = 0x0a0d_0d0a;

/// Where its options begin, and the code of a comment.
const SECTION_OPTIONS: usize = 24;
const COMMENT: u16 = 1;

/// Classic pcap, little-endian, with nanoseconds.
const PCAP_MAGIC: u32 = 0xa1b2_3c4d;
/// Its length in a file, and that of a packet's header.
const PCAP_HEADER: usize = 24;
const PCAP_PACKET: usize = 16;

/// Endings of compressed files.
const COMPRESSED: &[&str] = &["gz", "zst", "lz4", "xz", "bz2", "lzma", "br", "z", "zip", "7z", "tgz"];

/// Endings of names that promise what is not written, and what to do instead.
const REFUSED: [(&[&str], &str); 3] = [
    (COMPRESSED, "name it .pcapng.gz, or compress it on the way: tls2pcap -o - | zstd >FILE.pcapng.zst"),
    (&["cap", "dmp", "snoop", "erf"], "name it .pcapng, or .pcap for classic pcap"),
    (
        &["json", "har", "txt", "log", "csv", "xml", "pdml", "html"],
        "name it .pcapng and convert it: tshark -r FILE.pcapng -T json",
    ),
];

/// The format of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// Classic pcap, which has only packets, with this link type; otherwise pcapng.
    classic: Option<Link>,
    /// Compressed, each write as a separate member. So the file is complete after each write.
    gzip: bool,
}

/// A name that promises what cannot be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("tls2pcap does not write .{ending} files")]
pub struct Unknown {
    ending: String,
    /// What to do.
    pub cure: &'static str,
}

impl Format {
    /// The format that `path` implies; pcapng if it implies none. `link` is the link type of the packets.
    ///
    /// # Errors
    /// If its extension is that of a format which is not written here.
    pub fn of(path: &Path, link: Link) -> Result<Format, Unknown> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (rest, gzip) = match name.strip_suffix(".gz") {
            Some(rest) => (rest, true),
            None => (name.as_str(), false),
        };
        let ending = ending(rest);
        if let Some((_, cure)) = REFUSED.iter().find(|(endings, _)| endings.contains(&ending)) {
            return Err(Unknown { ending: ending.to_owned(), cure });
        }
        Ok(Format { classic: (ending == "pcap").then_some(link), gzip })
    }

    /// For what has its format already, and is at most to be compressed.
    #[must_use]
    pub fn as_it_is(self) -> Format {
        Format { classic: None, ..self }
    }

    /// Whether it holds packets only: no processes, no comments, no statistics.
    pub fn is_classic(self) -> bool {
        self.classic.is_some()
    }

    /// Whether it is compressed, so that fewer and larger writes make it smaller.
    pub fn is_compressed(self) -> bool {
        self.gzip
    }

    /// Converts whole pcapng blocks into the bytes of one write.
    pub(super) fn encode(self, blocks: &[u8]) -> Cow<'_, [u8]> {
        let plain = match self.classic {
            Some(link) => Cow::Owned(classic(blocks, link)),
            None => Cow::Borrowed(blocks),
        };
        if !self.gzip || plain.is_empty() {
            return plain;
        }
        let head = match self.classic {
            Some(_) => GzBuilder::new(),
            None => GzBuilder::new().comment(GZIP_COMMENT),
        };
        let mut member = head.write(Vec::with_capacity(plain.len() / 2), Compression::new(LEVEL));
        // Memory takes all.
        let _ = member.write_all(&plain);
        Cow::Owned(member.finish().unwrap_or_default())
    }

    /// Of the first `end` bytes of what [`encode`](Self::encode) made: the length that ends at the border
    /// of a block, a packet or a member, and the packets in it.
    pub(super) fn whole(self, encoded: &[u8], end: usize) -> (usize, u64) {
        let encoded = &encoded[..end];
        match (self.gzip, self.classic) {
            // A gzip member is complete or useless, and this one is not complete: something is left to write.
            (true, _) => (0, 0),
            (false, None) => {
                let len = blocks::each(encoded).map(|(_, block)| block.len()).sum();
                (len, blocks::packets(&encoded[..len]))
            }
            (false, Some(_)) => classic_packets(encoded),
        }
    }

    /// How many bytes of `blocks` are in a file of which `whole` bytes with this many packets were written.
    pub(super) fn taken(self, blocks: &[u8], whole: usize, packets: u64) -> usize {
        match (self.gzip, self.classic) {
            (true, _) => 0,
            (false, None) => whole,
            (false, Some(_)) => {
                let mut left = packets;
                let taken = blocks::each(blocks).take_while(|(kind, _)| {
                    let is_there = *kind != blocks::PACKET || left > 0;
                    left -= u64::from(*kind == blocks::PACKET && is_there);
                    is_there
                });
                taken.map(|(_, block)| block.len()).sum()
            }
        }
    }
}

/// Whether the name implies compression of any kind.
pub fn is_compressed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    COMPRESSED.contains(&ending(&name))
}

/// What follows the last dot.
fn ending(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, ending)| ending)
}

/// Blocks of pcapng as classic pcap: its header for that of a section, and the packets.
fn classic(blocks: &[u8], link: Link) -> Vec<u8> {
    let mut pcap = Vec::with_capacity(blocks.len());
    for (kind, block) in blocks::each(blocks) {
        let words = match kind {
            SECTION => {
                // Version 2.4; two fields that are 0, the second unless the file is redacted.
                let brand = u32::from_le_bytes(brand(block));
                vec![PCAP_MAGIC, 4 << 16 | 2, 0, brand, super::pcapng::SNAPLEN, link.data_link().into()]
            }
            blocks::PACKET => {
                let field = |at| blocks::word(block, at).unwrap_or(0);
                let time = u64::from(field(12)) << 32 | u64::from(field(16));
                let (seconds, nanoseconds) = (time / 1_000_000_000, time % 1_000_000_000);
                vec![seconds as u32, nanoseconds as u32, field(20), field(24)]
            }
            _ => continue,
        };
        words.iter().for_each(|word| pcap.extend_from_slice(&word.to_le_bytes()));
        if kind == blocks::PACKET {
            let captured = blocks::word(block, 20).unwrap_or(0) as usize;
            pcap.extend_from_slice(block.get(28..28 + captured).unwrap_or_default());
        }
    }
    pcap
}

/// What the header of classic pcap holds in place of the comments of pcapng: that the file is redacted.
fn brand(section: &[u8]) -> [u8; 4] {
    let comments = || blocks::options(section, SECTION_OPTIONS).filter(|(code, ..)| *code == COMMENT);
    let is_one_of_several = comments().any(|(_, _, value)| value.starts_with(b"tls2pcap=1 file="));
    comments()
        .find_map(|(_, _, value)| redact::brand_of(str::from_utf8(value).ok()?, is_one_of_several))
        .unwrap_or_default()
}

/// Length of the complete packets at the beginning, and their number. The file's header may come first.
fn classic_packets(pcap: &[u8]) -> (usize, u64) {
    let (mut at, mut packets) = (0, 0);
    if blocks::word(pcap, 0) == Some(PCAP_MAGIC) {
        at = PCAP_HEADER;
        if pcap.len() < at {
            return (0, 0);
        }
    }
    while let Some(captured) = blocks::word(pcap, at + 8) {
        let next = at + PCAP_PACKET + captured as usize;
        if next > pcap.len() {
            break;
        }
        (at, packets) = (next, packets + 1);
    }
    (at, packets)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
