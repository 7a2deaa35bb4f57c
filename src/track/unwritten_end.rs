//! The end of a connection that is not written because the other end is: what it moved, and what of
//! that was lost on the way here, which leaves no hole in the file.

use super::per_direction::PerDirection;
use super::summary::{ByReason, Traffic};
use crate::event::{Data, Direction, Missing};

#[derive(Clone, Debug, Default)]
pub(super) struct UnwrittenEnd {
    /// Bytes that were reported.
    moved: u64,
    /// Those without their payload.
    missing: ByReason,
    /// The offset of each direction, and how many of those bytes were reported.
    end: PerDirection<u64>,
    told: PerDirection<u64>,
}

impl UnwrittenEnd {
    /// It was to be written until now: `next` is its offset.
    pub fn takes_over(&mut self, next: PerDirection<u64>, traffic: &Traffic) {
        self.moved = self.moved.saturating_add(traffic.read).saturating_add(traffic.written);
        for (reason, n) in traffic.missing.iter() {
            self.missing.add(reason, n);
        }
        for direction in [Direction::Read, Direction::Write] {
            self.end[direction] = self.end[direction].max(next[direction]);
            self.told[direction] = self.told[direction].max(next[direction]);
        }
    }

    pub fn data(&mut self, data: &Data) {
        let (direction, len) = (data.direction, data.chunk_len);
        self.moved = self.moved.saturating_add(len);
        self.told[direction] = self.told[direction].saturating_add(len);
        let end = data.call_offset.saturating_add(data.chunk_offset).saturating_add(len);
        self.ends_at(direction, end);
        if let Some(reason) = data.missing {
            self.missing.add(reason, len.saturating_sub(data.payload.len() as u64));
        }
    }

    /// The direction has reached this offset.
    pub fn ends_at(&mut self, direction: Direction, end: u64) {
        self.end[direction] = self.end[direction].max(end);
    }

    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// What is missing, by reason: what was not reported did not fit into the ring.
    pub fn missing(&self) -> ByReason {
        let mut missing = self.missing;
        for direction in [Direction::Read, Direction::Write] {
            missing.add(Missing::RingFull, self.end[direction].saturating_sub(self.told[direction]));
        }
        missing
    }
}
