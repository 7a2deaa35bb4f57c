//! One direction of a TCP connection in a file: which bytes of which packets stand where in its stream.

use std::collections::{BTreeMap, VecDeque};

use crate::input::sequence::Sequences;

/// Bytes of a packet that belong to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The packet's number in the file.
    pub(super) packet: u64,
    /// Where the bytes begin in its block.
    pub(super) at: usize,
    /// Where they begin in the stream, from an arbitrary zero.
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Bytes that follow them and were not captured.
    pub(super) cut: usize,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.len as u64 + self.cut as u64
    }

    /// What of it lies from `from` on, up to `to`; bytes that were not captured only at its end.
    pub(super) fn part(&self, from: u64, to: u64) -> Option<Piece> {
        let (from, to) = (from.max(self.offset), to.min(self.end()));
        if from >= to {
            return None;
        }
        let captured = self.offset + self.len as u64;
        let skip = (from - self.offset) as usize;
        let len = captured.min(to).saturating_sub(from) as usize;
        Some(Piece {
            packet: self.packet,
            at: self.at + skip.min(self.len),
            offset: from,
            len,
            cut: (to - from) as usize - len,
        })
    }
}

/// Last bytes that were given out, for those who send them again.
const WINDOW: usize = 64 << 10;
/// Bytes, and segments, that wait for earlier ones, before those count as missing.
const EARLY_BYTES: usize = 256 << 10;
const EARLY_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Where the stream goes on; `None` before its first byte.
    pub(super) next: Option<u64>,
    sequences: Sequences,
    /// Pieces that were handed to the parser, in order, and have not come back.
    pub(super) waiting: VecDeque<Piece>,
    /// Bytes of the first of them that have.
    pub(super) done: usize,
    /// Those that came once more meanwhile.
    pub(super) again: Vec<Piece>,
    early: BTreeMap<u64, Vec<Piece>>,
    early_count: usize,
    early_bytes: usize,
    /// What was given out, up to `given`.
    window: VecDeque<u8>,
    pub(super) given: u64,
    /// Behind this nothing comes.
    pub(super) fin: Option<u64>,
}

impl Lane {
    /// Where a sequence number is in the stream.
    pub(super) fn offset(&mut self, sequence: u32) -> u64 {
        self.sequences.offset(sequence)
    }

    /// Puts aside what comes too early. Gives whether that is so much that the bytes before it count as missing.
    pub(super) fn put_aside(&mut self, piece: Piece) -> bool {
        self.early_count += 1;
        self.early_bytes += piece.len;
        self.early.entry(piece.offset).or_default().push(piece);
        self.early_count > EARLY_MAX || self.early_bytes > EARLY_BYTES
    }

    /// The first piece that was put aside, if it goes on where the stream is, or before.
    pub(super) fn take_early(&mut self) -> Option<Piece> {
        let first = self.first_early()?;
        if first > self.next? {
            return None;
        }
        let mut entry = self.early.first_entry()?;
        let piece = entry.get_mut().remove(0);
        if entry.get().is_empty() {
            entry.remove();
        }
        self.early_count -= 1;
        self.early_bytes -= piece.len;
        Some(piece)
    }

    /// Where the first piece that was put aside begins.
    pub(super) fn first_early(&self) -> Option<u64> {
        self.early.first_key_value().map(|(offset, _)| *offset)
    }

    /// Remembers what was given out at this place of the stream.
    pub(super) fn remember(&mut self, offset: u64, bytes: &[u8]) {
        if offset != self.given {
            self.window.clear();
        }
        self.given = offset + bytes.len() as u64;
        let keep = &bytes[bytes.len().saturating_sub(WINDOW)..];
        if keep.len() < bytes.len() {
            self.window.clear();
        }
        self.window.extend(keep);
        let over = self.window.len().saturating_sub(WINDOW);
        self.window.drain(..over);
    }

    /// What was given out there, if it is still known.
    pub(super) fn remembered(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let begin = self.given - self.window.len() as u64;
        let from = usize::try_from(offset.checked_sub(begin)?).ok()?;
        (from + len <= self.window.len()).then(|| self.window.range(from..from + len).copied().collect())
    }

    /// Bytes that are remembered.
    pub(super) fn window_len(&self) -> usize {
        self.window.len()
    }

    /// Forgets what was given out.
    pub(super) fn forget(&mut self) -> usize {
        std::mem::take(&mut self.window).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut() {
        let piece = Piece { packet: 1, at: 10, offset: 100, len: 10, cut: 5 };
        assert_eq!(piece.part(0, 200), Some(piece));
        assert_eq!(piece.part(104, 200), Some(Piece { at: 14, offset: 104, len: 6, ..piece }));
        assert_eq!(piece.part(0, 104), Some(Piece { len: 4, cut: 0, ..piece }));
        assert_eq!(piece.part(112, 200), Some(Piece { at: 20, offset: 112, len: 0, cut: 3, ..piece }));
        assert_eq!(piece.part(115, 200), None);
    }

    #[test]
    fn the_window_gives_back_what_was_given() {
        let mut lane = Lane::default();
        lane.remember(1000, b"abcdef");
        lane.remember(1006, b"gh");
        assert_eq!(lane.remembered(1004, 4).unwrap(), b"efgh");
        assert_eq!(lane.remembered(999, 4), None);
        lane.remember(2000, b"xyz");
        assert_eq!(lane.remembered(1004, 4), None, "a hole lies between");
        lane.remember(2003, &vec![b'a'; WINDOW * 2]);
        assert_eq!(lane.remembered(2003 + WINDOW as u64, WINDOW).unwrap().len(), WINDOW);
    }
}
