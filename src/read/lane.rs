//! One direction of a TCP connection in a file: puts segments in order, and knows what is missing.

use std::collections::BTreeMap;

use crate::input::sequence::Sequences;
use crate::view::{Origin, WallTime};

/// Bytes, and segments, that wait for earlier ones, before those count as missing.
const EARLY_BYTES: usize = 256 << 10;
const EARLY_MAX: usize = 64;

/// A segment's place in the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) time: WallTime,
    /// From an arbitrary zero.
    pub(super) offset: u64,
    /// Bytes that follow it and were not captured.
    pub(super) cut: u64,
    pub(super) origin: Origin,
}

/// What comes next in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Bytes at this offset.
    Bytes(u64, &'a [u8]),
    /// So many are missing, or nobody knows how many.
    Hole(Option<u64>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Where the stream goes on; `None` before its first byte.
    pub(super) next: Option<u64>,
    sequences: Sequences,
    early: BTreeMap<u64, Vec<(Position, Vec<u8>)>>,
    early_count: usize,
    early_bytes: usize,
    /// Behind this nothing comes.
    pub(super) fin: Option<(u64, WallTime)>,
    /// Bytes that are there.
    pub(super) bytes: u64,
}

/// What comments have said is missing in one direction, and was not met yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    said: u64,
    /// Bytes of which nobody knows how many.
    is_unknown: bool,
}

impl Losses {
    /// A comment says that so many bytes are missing.
    pub(super) fn say(&mut self, len: Option<u64>) {
        match len {
            Some(len) => self.said = self.said.saturating_add(len),
            None => self.is_unknown = true,
        }
    }

    /// Of so many missing bytes, how many no comment has told of; `None`: none.
    pub(super) fn untold(&mut self, len: Option<u64>) -> Option<Option<u64>> {
        if std::mem::take(&mut self.is_unknown) {
            return None;
        }
        let Some(len) = len else { return Some(None) };
        let told = len.min(self.said);
        self.said -= told;
        (len > told).then_some(Some(len - told))
    }
}

impl Lane {
    /// Where a sequence number is in the stream.
    pub(super) fn offset(&mut self, sequence: u32) -> u64 {
        self.sequences.offset(sequence)
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.early_bytes
    }

    /// Takes a segment. `is_hole`: what is missing before it does not come later.
    pub(super) fn take(
        &mut self,
        place: Position,
        bytes: &[u8],
        is_hole: bool,
        on: &mut dyn FnMut(&Position, Step<'_>),
    ) {
        let next = *self.next.get_or_insert(place.offset);
        if place.offset > next && !is_hole {
            self.early_count += 1;
            self.early_bytes += bytes.len();
            self.early.entry(place.offset).or_default().push((place, bytes.to_vec()));
            if self.early_count > EARLY_MAX || self.early_bytes > EARLY_BYTES {
                self.skip(on);
            }
        } else {
            self.place(&place, bytes, on);
        }
        self.take_early(on);
    }

    /// The peer has all up to here: what is not in the file is missing.
    pub(super) fn acknowledged(&mut self, sequence: u32, on: &mut dyn FnMut(&Position, Step<'_>)) {
        let Some(next) = self.next else { return };
        let acknowledged = self.offset(sequence);
        if acknowledged > next && self.first_early().is_some_and(|early| early < acknowledged) {
            self.skip(on);
            self.take_early(on);
        }
    }

    /// The stream is known to go on there. `len`: what is missing before it, if that is known.
    pub(super) fn jump(&mut self, place: &Position, is_known: bool, on: &mut dyn FnMut(&Position, Step<'_>)) {
        let Some(next) = self.next.filter(|next| place.offset > *next) else { return };
        self.next = Some(place.offset);
        on(place, Step::Hole(is_known.then(|| place.offset - next)));
    }

    /// Whether the FIN has come, and all before it.
    pub(super) fn is_complete(&self) -> bool {
        self.fin.is_some_and(|(fin, _)| self.next.is_none_or(|next| next >= fin))
    }

    /// Nothing more comes: what waits follows a hole.
    pub(super) fn flush(&mut self, on: &mut dyn FnMut(&Position, Step<'_>)) {
        while self.first_early().is_some() {
            self.skip(on);
            self.take_early(on);
        }
    }

    fn first_early(&self) -> Option<u64> {
        self.early.first_key_value().map(|(offset, _)| *offset)
    }

    /// The stream goes on with what waits first.
    fn skip(&mut self, on: &mut dyn FnMut(&Position, Step<'_>)) {
        let first = self.early.first_key_value().and_then(|(_, all)| all.first()).map(|(place, _)| *place);
        if let Some(place) = first {
            self.jump(&place, true, on);
        }
    }

    fn take_early(&mut self, on: &mut dyn FnMut(&Position, Step<'_>)) {
        while let Some(mut entry) = self.early.first_entry() {
            if self.next.is_none_or(|next| *entry.key() > next) {
                return;
            }
            let (place, bytes) = entry.get_mut().remove(0);
            if entry.get().is_empty() {
                entry.remove();
            }
            self.early_count -= 1;
            self.early_bytes -= bytes.len();
            self.place(&place, &bytes, on);
        }
    }

    /// A segment that begins where the stream is, or before: what of it came before is left out.
    fn place(&mut self, place: &Position, bytes: &[u8], on: &mut dyn FnMut(&Position, Step<'_>)) {
        if self.next.is_some_and(|next| place.offset > next) {
            self.jump(place, true, on);
        }
        let next = self.next.unwrap_or(place.offset);
        let old = next - place.offset;
        let end = place.offset + bytes.len() as u64;
        if end > next {
            let new = &bytes[usize::try_from(old).unwrap_or(usize::MAX).min(bytes.len())..];
            self.next = Some(end);
            self.bytes += new.len() as u64;
            on(place, Step::Bytes(next, new));
        }
        let next = self.next.unwrap_or(end);
        if place.cut > 0 && end + place.cut > next {
            self.next = Some(end + place.cut);
            on(place, Step::Hole(Some(end + place.cut - next)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64, cut: u64) -> Position {
        Position { time: 0, offset, cut, origin: Origin::Program }
    }

    #[test]
    fn segments_come_in_order_once_and_holes_are_said() {
        let mut lane = Lane::default();
        let mut seen = Vec::new();
        let mut on = |_: &Position, step: Step<'_>| match step {
            Step::Bytes(_, bytes) => seen.extend_from_slice(bytes),
            Step::Hole(len) => seen.extend(format!("<{}>", len.unwrap()).bytes()),
        };
        lane.take(place(100, 0), b"ab", false, &mut on);
        lane.take(place(104, 0), b"ef", false, &mut on);
        lane.take(place(100, 0), b"abcd", false, &mut on);
        lane.take(place(106, 3), b"g", false, &mut on);
        lane.take(place(112, 0), b"m", false, &mut on);
        lane.flush(&mut on);
        assert_eq!(String::from_utf8(seen).unwrap(), "abcdefg<3><2>m");
    }

    #[test]
    fn what_comes_early_is_bounded() {
        let mut lane = Lane::default();
        let mut holes = 0;
        lane.take(place(0, 0), b"a", false, &mut |_, _| {});
        for i in 1..=100 {
            lane.take(place(i * 10, 0), b"b", false, &mut |_, step| {
                holes += u64::from(matches!(step, Step::Hole(_)))
            });
        }
        assert!(lane.early_count <= EARLY_MAX && holes > 0);
    }

    #[test]
    fn what_a_comment_has_told_is_not_told_again() {
        let mut losses = Losses::default();
        assert_eq!(losses.untold(Some(9)), Some(Some(9)));
        losses.say(Some(5));
        assert_eq!((losses.untold(Some(9)), losses.untold(Some(1))), (Some(Some(4)), Some(Some(1))));
        losses.say(None);
        assert_eq!((losses.untold(Some(1000)), losses.untold(None)), (None, Some(None)));
    }
}
