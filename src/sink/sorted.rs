//! Packets wait briefly, so that they are in order of time in the file.
//!
//! Data of several processes arrives in the order in which their calls return, and some of it waits on the way:
//! for its protocol, for the rest of its message, after a hole. So packets wait here too, as whole blocks,
//! until nothing earlier is expected, and are released in order of time; those of one connection in the order
//! of arrival. A later arrival is written immediately, labelled with how late it is.
//!
//! Most blocks arrive in order. They are not moved: adjacent blocks are released in one piece.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::track::segment::WallTime;

/// Blocks that wait, in bytes with what is known of each. Beyond that, those with the earliest times are
/// released.
pub(super) const SORT_MAX: usize = 32 << 20;

/// What is left then.
const SORT_LEFT: usize = SORT_MAX / 8 * 7;

/// Blocks are kept in pieces of this many bytes, plus the block that fills one.
const PIECE: usize = 256 << 10;

/// Data that is read together with a clock sample can be slightly later. Data that is later by more than this,
/// ns, is from before the clock was set back.
const AHEAD_MAX: u64 = 1_000_000_000;

/// Pieces of memory kept for reuse.
const SPARE_MAX: usize = 8;

/// Where a block waits. In order of time, then of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    time: WallTime,
    serial: u64,
    piece: u64,
    at: usize,
    len: usize,
}

#[derive(Debug, Default)]
struct Piece {
    blocks: Vec<u8>,
    /// So many blocks in it still wait.
    waiting: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pieces: VecDeque<Piece>,
    /// Number of the first.
    first: u64,
    spare: Vec<Vec<u8>>,
    /// Those that arrived in order.
    queue: VecDeque<Entry>,
    /// Packets that followed later ones.
    strays: BinaryHeap<Reverse<Entry>>,
    serial: u64,
    /// What the pieces take.
    bytes: usize,
    /// The latest time of those that were released.
    gone: WallTime,
    /// The latest time of all.
    latest: WallTime,
    /// When its lateness was last reported.
    ticked: WallTime,
}

impl Sorted {
    /// How late a packet of this time would be in the file; `after` is the latest time of its connection so
    /// far.
    pub fn late(&self, time: WallTime, after: WallTime) -> u64 {
        self.gone.max(after).saturating_sub(time)
    }

    /// Takes a block, which `write` appends.
    pub fn add(&mut self, time: WallTime, write: impl FnOnce(&mut Vec<u8>)) {
        if self.pieces.back().is_none_or(|piece| piece.blocks.len() >= PIECE) {
            let blocks = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PIECE * 2));
            self.pieces.push_back(Piece { blocks, waiting: 0 });
        }
        let number = self.first + self.pieces.len() as u64 - 1;
        let Some(piece) = self.pieces.back_mut() else { return };
        let at = piece.blocks.len();
        write(&mut piece.blocks);
        let len = piece.blocks.len() - at;
        piece.waiting += 1;
        let entry = Entry { time, serial: self.serial, piece: number, at, len };
        self.serial += 1;
        self.bytes += len;
        self.latest = self.latest.max(time);
        if self.queue.back().is_none_or(|last| *last < entry) {
            self.queue.push_back(entry);
        } else {
            self.strays.push(Reverse(entry));
        }
    }

    /// Whether more waits than may.
    pub fn is_full(&self) -> bool {
        self.size() > SORT_MAX
    }

    fn size(&self) -> usize {
        self.bytes + (self.queue.len() + self.strays.len()) * size_of::<Entry>()
    }

    /// Releases those that are not later than `until`: `out` gets pieces of whole blocks, and their number.
    pub fn up_to(&mut self, until: WallTime, out: impl FnMut(&[u8], u64)) {
        self.pass(|_, entry| entry.time <= until, out);
    }

    /// Enough of them to get below the limit again.
    pub fn make_room(&mut self, out: impl FnMut(&[u8], u64)) {
        self.pass(|sorted, _| sorted.size() > SORT_LEFT, out);
    }

    /// It is `now`, and nothing before `until` is expected any more.
    pub fn tick(&mut self, now: WallTime, until: WallTime, out: impl FnMut(&[u8], u64)) {
        // A clock that was set back must not lengthen a wait, nor make new packets count as late.
        if now < self.ticked || self.latest > now.saturating_add(AHEAD_MAX) {
            self.up_to(WallTime::MAX, out);
            (self.latest, self.gone) = (self.latest.min(now), self.gone.min(now));
        } else {
            self.up_to(until, out);
        }
        self.ticked = now;
    }

    fn pass(&mut self, is_due: impl Fn(&Sorted, &Entry) -> bool, mut out: impl FnMut(&[u8], u64)) {
        // Adjacent blocks: the piece, its offset, their number.
        let mut run = (0, 0..0, 0);
        while let Some(entry) = self.next().filter(|entry| is_due(self, entry)) {
            self.remove(&entry);
            self.gone = self.gone.max(entry.time);
            if (run.0, run.1.end) == (entry.piece, entry.at) {
                run.1.end += entry.len;
                run.2 += 1;
            } else {
                self.tell(&run, &mut out);
                run = (entry.piece, entry.at..entry.at + entry.len, 1);
            }
            let is_over = self.piece(entry.piece).is_some_and(|piece| piece.waiting == 1);
            if is_over {
                self.tell(&run, &mut out);
                run = (0, 0..0, 0);
            }
            self.leave(entry.piece);
        }
        self.tell(&run, &mut out);
    }

    fn next(&self) -> Option<Entry> {
        let stray = self.strays.peek().map(|Reverse(entry)| *entry);
        [self.queue.front().copied(), stray].into_iter().flatten().min()
    }

    fn remove(&mut self, entry: &Entry) {
        if self.queue.front() == Some(entry) {
            self.queue.pop_front();
        } else {
            self.strays.pop();
        }
    }

    fn piece(&self, number: u64) -> Option<&Piece> {
        self.pieces.get(usize::try_from(number - self.first).ok()?)
    }

    fn tell(&self, run: &(u64, std::ops::Range<usize>, u64), out: &mut impl FnMut(&[u8], u64)) {
        let (number, at, count) = run;
        if *count > 0
            && let Some(blocks) = self.piece(*number).and_then(|piece| piece.blocks.get(at.clone()))
        {
            out(blocks, *count);
        }
    }

    /// One block less waits in a piece, whose memory is used again when none does.
    fn leave(&mut self, number: u64) {
        let at = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        let Some(piece) = self.pieces.get_mut(at) else { return };
        piece.waiting -= 1;
        if piece.waiting > 0 {
            return;
        }
        let mut blocks = std::mem::take(&mut piece.blocks);
        self.bytes -= blocks.len();
        blocks.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(blocks);
        }
        while self.pieces.front().is_some_and(|piece| piece.waiting == 0) {
            self.pieces.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
#[path = "sorted_tests.rs"]
mod tests;
