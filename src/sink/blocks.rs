//! A sequence of pcapng blocks.

/// Type of an Enhanced Packet Block.
pub(super) const PACKET: u32 = 6;

/// Each whole block with its type.
pub(crate) fn each(mut blocks: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, len) = (word(blocks, 0)?, word(blocks, 4)? as usize);
        let (block, rest) = blocks.split_at_checked(len).filter(|_| len > 0)?;
        blocks = rest;
        Some((kind, block))
    })
}

/// Each option of a block whose options begin at `at`: code, place of the value in the block, value.
pub(super) fn options(block: &[u8], mut at: usize) -> impl Iterator<Item = (u16, usize, &[u8])> {
    let end = block.len().saturating_sub(4);
    std::iter::from_fn(move || {
        let head = word(block.get(..end)?, at)?;
        let (code, len) = (head as u16, (head >> 16) as usize);
        let value = block.get(at + 4..at + 4 + len).filter(|_| code != 0)?;
        let place = at + 4;
        at += 4 + len.next_multiple_of(4);
        Some((code, place, value))
    })
}

/// How many packets there are.
pub(super) fn packets(blocks: &[u8]) -> u64 {
    each(blocks).filter(|(kind, _)| *kind == PACKET).count() as u64
}

/// The number at offset `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
