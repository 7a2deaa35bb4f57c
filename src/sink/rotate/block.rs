//! Blocks of pcapng as [`crate::sink::PcapngWriter`] writes them: little-endian, taken apart and put together.

use crate::sink::blocks::{PACKET, options, word};
use crate::track::segment::WallTime;

const OPTION_COMMENT: u16 = 1;
const OPTION_FLAGS: u16 = 2;
const OPTION_DROPCOUNT: u16 = 4;
const OPTION_QUEUE: u16 = 6;
const OPTION_PROCESS: u16 = 8;
pub(super) const OPTION_APPLE_PROCESS: u16 = 0x8001;
const OUTBOUND: u8 = 2;
/// Bytes before the packet.
const PACKET_AT: usize = 28;

/// An Enhanced Packet Block.
#[derive(Clone, Copy)]
pub(super) struct Epb<'a>(pub(super) &'a [u8]);

impl<'a> Epb<'a> {
    pub(super) fn interface(&self) -> u32 {
        word(self.0, 8).unwrap_or(0)
    }

    /// In ns.
    pub(super) fn time(&self) -> WallTime {
        let half = |at| u64::from(word(self.0, at).unwrap_or(0));
        half(12) << 32 | half(16)
    }

    /// The captured bytes, link layer included.
    pub(super) fn packet(&self) -> &'a [u8] {
        let captured = word(self.0, 20).unwrap_or(0) as usize;
        self.0.get(PACKET_AT..).and_then(|rest| rest.get(..captured)).unwrap_or_default()
    }

    /// Each option: code, place of the value in the block, value.
    pub(super) fn options(&self) -> impl Iterator<Item = (u16, usize, &'a [u8])> + use<'a> {
        options(self.0, PACKET_AT + self.packet().len().next_multiple_of(4))
    }

    fn option(&self, wanted: u16) -> Option<&'a [u8]> {
        self.options().find(|(code, ..)| *code == wanted).map(|(_, _, value)| value)
    }

    /// The connection's number.
    pub(super) fn queue(&self) -> Option<u32> {
        word(self.option(OPTION_QUEUE)?, 0)
    }

    /// Records lost before it.
    pub(super) fn dropped(&self) -> u64 {
        let value = self.option(OPTION_DROPCOUNT).and_then(|value| value.first_chunk::<8>());
        value.map_or(0, |value| u64::from_le_bytes(*value))
    }

    pub(super) fn is_outbound(&self) -> bool {
        self.option(OPTION_FLAGS).and_then(<[u8]>::first).is_some_and(|flags| flags & 3 == OUTBOUND)
    }

    pub(super) fn comments(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let comments = self.options().filter(|(code, ..)| *code == OPTION_COMMENT);
        comments.filter_map(|(_, _, value)| std::str::from_utf8(value).ok())
    }
}

/// A block for a whole synthetic packet, with the interface, time and process of another.
pub(super) fn put(like: &Epb<'_>, packet: &[u8], is_outbound: bool, comment: Option<&str>) -> Vec<u8> {
    let len = packet.len() as u32;
    let time = like.time();
    let mut block = Vec::with_capacity(packet.len() + 128);
    for word in [PACKET, 0, like.interface(), (time >> 32) as u32, time as u32, len, len] {
        block.extend_from_slice(&word.to_le_bytes());
    }
    block.extend_from_slice(packet);
    pad(&mut block);
    option(&mut block, OPTION_FLAGS, &[if is_outbound { OUTBOUND } else { 1 }, 0, 0, 0]);
    for code in [OPTION_QUEUE, OPTION_PROCESS, OPTION_APPLE_PROCESS] {
        if let Some(value) = like.option(code) {
            option(&mut block, code, value);
        }
    }
    if let Some(comment) = comment {
        option(&mut block, OPTION_COMMENT, comment.as_bytes());
    }
    end(&mut block);
    block
}

/// Statistics of an interface in one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistics {
    pub(super) first: WallTime,
    pub(super) last: WallTime,
    pub(super) packets: u64,
    pub(super) dropped: u64,
}

/// Type of an Interface Statistics Block.
pub(super) const STATISTICS: u32 = 5;
const START_TIME: u16 = 2;
const END_TIME: u16 = 3;
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;

/// A block of statistics, as of the last packet.
pub(super) fn statistics(interface: u32, told: &Statistics) -> Vec<u8> {
    let halves = |time: WallTime| [((time >> 32) as u32).to_le_bytes(), (time as u32).to_le_bytes()].concat();
    let mut block = Vec::new();
    for word in [STATISTICS, 0, interface] {
        block.extend_from_slice(&word.to_le_bytes());
    }
    block.extend_from_slice(&halves(told.last));
    option(&mut block, START_TIME, &halves(told.first));
    option(&mut block, END_TIME, &halves(told.last));
    option(&mut block, RECEIVED, &(told.packets + told.dropped).to_le_bytes());
    option(&mut block, DROPPED, &told.dropped.to_le_bytes());
    end(&mut block);
    block
}

/// Records lost, of a block of statistics whose first options are those of [`statistics`].
pub(super) fn dropped(block: &[u8]) -> u64 {
    let value = block.get(60..68).and_then(<[u8]>::first_chunk::<8>);
    value.map_or(0, |value| u64::from_le_bytes(*value))
}

/// The section header with one comment more.
pub(super) fn with_comment(section: &[u8], comment: &str) -> Vec<u8> {
    // If there are options, their end and the length are at the end.
    let mut block = section.get(..section.len().saturating_sub(8)).unwrap_or_default().to_vec();
    if section.len() <= 28 {
        block = section.get(..24).unwrap_or_default().to_vec();
    }
    option(&mut block, OPTION_COMMENT, comment.as_bytes());
    end(&mut block);
    block
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend_from_slice(&code.to_le_bytes());
    block.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    block.extend_from_slice(value);
    pad(block);
}

fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}

/// Ends the options and sets the length.
fn end(block: &mut Vec<u8>) {
    block.extend_from_slice(&[0; 4]);
    let len = block.len() as u32 + 4;
    block.extend_from_slice(&len.to_le_bytes());
    block[4..8].copy_from_slice(&len.to_le_bytes());
}
