//! Options of pcapng blocks, as they are read.

use super::container::{self, INTERFACE, OLD_PACKET, PACKET, SECTION};

/// Name Resolution Block.
pub(crate) const NAMES: u32 = 4;
/// Interface Statistics Block.
pub(crate) const STATISTICS: u32 = 5;
/// Of a process: its number, then options.
pub(crate) const APPLE_PROCESS: u32 = 0x8000_0001;

/// An option of any block.
pub(crate) const COMMENT: u16 = 1;

/// Where the options of a block begin; `None` if it has none, or is not known.
pub(crate) fn options_at(kind: u32, bytes: &[u8], is_big: bool) -> Option<usize> {
    let padded = |len: u32| (len as usize).saturating_add(3) & !3;
    Some(match kind {
        SECTION => 24,
        INTERFACE => 16,
        PACKET | OLD_PACKET => 28 + padded(container::word(bytes, 20, is_big)),
        STATISTICS => 20,
        APPLE_PROCESS => 12,
        NAMES => {
            let mut at = 8;
            loop {
                let (record, len) = half_words(bytes, at, is_big)?;
                at += 4 + padded(u32::from(len));
                if record == 0 {
                    break at;
                }
            }
        }
        _ => return None,
    })
}

/// Code and length of the option at `at`.
pub(crate) fn half_words(bytes: &[u8], at: usize, is_big: bool) -> Option<(u16, u16)> {
    let [a, b, c, d] = *bytes.get(at..)?.first_chunk()?;
    Some(match is_big {
        true => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        false => (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
    })
}

/// The options of a block that begin at `at`, with their values.
pub(crate) fn each_option(block: &[u8], mut at: usize, is_big: bool) -> impl Iterator<Item = (u16, &[u8])> {
    let block = &block[..block.len().saturating_sub(4)];
    std::iter::from_fn(move || {
        let (option, len) = half_words(block, at, is_big).filter(|(option, _)| *option != 0)?;
        let value = block.get(at + 4..at + 4 + usize::from(len))?;
        at += 4 + usize::from(len).next_multiple_of(4);
        Some((option, value))
    })
}
