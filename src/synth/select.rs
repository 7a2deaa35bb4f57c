//! Which connections are written, and how much of each.

use crate::event::Missing;
use crate::filter::{Facts, Filter};
use crate::track::segment::{Payload, Segment, SegmentBody, Side};

use super::Stats;

/// What is wanted; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only connections for which this holds.
    pub filter: Option<Filter>,
    /// Connections for which the result is unknown are left out too.
    pub leaves_unknown: bool,
    /// One in this many of those connections, completely; at least 1.
    pub sample: Option<u64>,
    /// So many bytes of each direction; of the rest only how much it is.
    pub head: Option<u64>,
    /// Nothing of what the captured process sends.
    pub no_writes: bool,
    /// Nothing of what it receives.
    pub no_reads: bool,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Write,
    /// Nobody knows whether it is wanted.
    WriteUnknown,
    Leave,
}

impl Selection {
    /// Decides a connection, once.
    pub(super) fn choose(&self, facts: &Facts<'_>, stats: &mut Stats) -> Choice {
        let verdict = self.filter.as_ref().map_or(Some(true), |filter| filter.verdict(facts));
        stats.undecided += u64::from(verdict.is_none());
        if !verdict.unwrap_or(!self.leaves_unknown) {
            stats.left_by_filter += u64::from(verdict.is_some());
            return Choice::Leave;
        }
        let number = stats.chosen;
        stats.chosen += 1;
        if self.sample.is_some_and(|n| !number.is_multiple_of(n)) {
            stats.left_by_sample += 1;
            return Choice::Leave;
        }
        if verdict.is_none() { Choice::WriteUnknown } else { Choice::Write }
    }

    /// What is left of a segment, if it is less. `local`: the side of the captured process.
    pub(super) fn cut(&self, segment: &Segment, local: Side) -> Option<Segment> {
        let SegmentBody::Payload(payload) = &segment.body else { return None };
        let is_unwanted = if payload.from == local { self.no_writes } else { self.no_reads };
        let head = if is_unwanted { 0 } else { self.head? };
        let room = usize::try_from(head.saturating_sub(payload.offset)).unwrap_or(usize::MAX);
        if room >= payload.bytes.len() {
            return None;
        }
        let bytes = payload.bytes.slice(..room);
        let missing = payload.missing.or(Some(Missing::Snaplen));
        Some(Segment {
            body: SegmentBody::Payload(Payload { bytes, missing, ..payload.clone() }),
            ..*segment
        })
    }
}
