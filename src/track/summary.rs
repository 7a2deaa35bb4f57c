//! What the tracker counts.

use std::collections::HashMap;

use super::handle::{Handle, View};
use super::tracker::Tracker;
use crate::event::{Missing, ProcessKey};

/// All reasons, in the order of their declaration.
const REASONS: [Missing; 11] = [
    Missing::RingFull,
    Missing::Unreadable,
    Missing::Limit,
    Missing::Sendfile,
    Missing::Snaplen,
    Missing::Unseen,
    Missing::Unfinished,
    Missing::Depth,
    Missing::ThreadsFull,
    Missing::WriterBehind,
    Missing::OtherStack,
];

/// A number for each reason why bytes are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByReason([u64; REASONS.len()]);

impl ByReason {
    /// The number for one reason.
    pub fn get(&self, reason: Missing) -> u64 {
        self.0[reason as usize]
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The reasons whose number is not 0.
    pub fn iter(&self) -> impl Iterator<Item = (Missing, u64)> + '_ {
        REASONS.into_iter().zip(self.0).filter(|(_, n)| *n != 0)
    }

    pub(crate) fn add(&mut self, reason: Missing, n: u64) {
        let sum = &mut self.0[reason as usize];
        *sum = sum.saturating_add(n);
    }

    fn merge(&mut self, other: &ByReason) {
        for (reason, n) in other.iter() {
            self.add(reason, n);
        }
    }
}

/// What went through the connections of a process, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections whose written view is the process's.
    pub connections: u64,
    /// Plaintext bytes read and captured.
    pub read: u64,
    /// Plaintext bytes written and captured.
    pub written: u64,
    /// Bytes that were moved but are missing. With `read` and `written`: all that was moved.
    pub missing: ByReason,
    /// Holes of unknown length.
    pub skips: ByReason,
    /// Bytes that are not written because the other end of their connection, on the same host, is.
    pub second_view: u64,
    /// What is missing of those: it leaves no hole in the file.
    pub second_missing: ByReason,
}

impl Traffic {
    pub(super) fn merge(&mut self, other: &Traffic) {
        self.connections += other.connections;
        self.read = self.read.saturating_add(other.read);
        self.written = self.written.saturating_add(other.written);
        self.missing.merge(&other.missing);
        self.skips.merge(&other.skips);
        self.second_view = self.second_view.saturating_add(other.second_view);
        self.second_missing.merge(&other.second_missing);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Traffic::default()
    }
}

/// The traffic of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSummary {
    /// The process.
    pub key: ProcessKey,
    /// Its command name; empty if it was never introduced.
    pub comm: String,
    /// Its traffic.
    pub traffic: Traffic,
}

/// How often a bound of [`super::Limits`] was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// How often a handle's records were released out of order because of their age.
    pub held_time: u64,
    /// The same because of the handle's number of bytes or records.
    pub held_amount: u64,
    /// The same because of the bytes held by all handles.
    pub held_total: u64,
    /// Connections opened before /proc was read for their process, because of the time.
    pub opening_time: u64,
    /// The same because of the bytes held.
    pub opening_amount: u64,
    /// Events about new handles that found the table full of living ones.
    pub handles_refused: u64,
    /// Bytes of such events.
    pub handles_refused_bytes: u64,
    /// Processes that found the table full of living ones: they have no name and no row.
    pub processes_refused: u64,
    /// Ended processes whose row was folded into [`Summary::others`].
    pub processes_evicted: u64,
    /// Libraries that found the table full: connections do not name them.
    pub libraries_refused: u64,
    /// Handles that were not entered at their tuple or socket, because it had too many.
    pub unindexed: u64,
}

/// What should not happen, and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anomalies {
    /// Duplicate bytes, which were left out.
    pub overlap: u64,
    /// Bytes written after the handle's close_notify, left out.
    pub after_finish: u64,
    /// Bytes moved after the end of their connection, left out.
    pub after_end: u64,
    /// Bytes of handles of which only the end is known, or nothing else is remembered.
    pub unheard: u64,
    /// Records that were left out because of the two above.
    pub late: u64,
    /// Records whose numbers contradict each other, left out.
    pub impossible: u64,
    /// Handles that got another socket without becoming another handle: left as they were.
    pub rebound: u64,
}

/// Everything counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Processes that carried bytes, by pid and generation.
    pub processes: Vec<ProcessSummary>,
    /// Traffic of processes that are not in `processes` (see [`Bounds`]).
    pub others: Traffic,
    /// Traffic of all.
    pub total: Traffic,
    /// Connections that are open now.
    pub open: u64,
    /// Bounds reached.
    pub bounds: Bounds,
    /// Anomalies met.
    pub anomalies: Anomalies,
}

impl Tracker {
    /// Everything counted so far. It visits all handles: for once a second, not for each event.
    pub fn summary(&self) -> Summary {
        let mut live: HashMap<ProcessKey, Traffic> = HashMap::new();
        let mut open = 0;
        for (_, handle) in self.handles.iter() {
            if let Some(traffic) = traffic_of(handle) {
                live.entry(handle.key.process).or_default().merge(&traffic);
            }
            for (caller, traffic) in handle.stream().into_iter().flat_map(|s| &s.callers) {
                live.entry(*caller).or_default().merge(traffic);
            }
            open += u64::from(handle.stream().is_some_and(|s| s.is_open()));
        }
        let (processes, others) = self.processes.rows(&live);
        let mut total = others;
        processes.iter().for_each(|row| total.merge(&row.traffic));
        Summary { processes, others, total, open, bounds: self.bounds, anomalies: self.anomalies }
    }
}

/// What was not yet given to the handle's process.
pub(super) fn traffic_of(handle: &Handle) -> Option<Traffic> {
    let mut traffic = match &handle.view {
        View::Ended { .. } => return None,
        View::Owner(stream) => stream.traffic,
        View::Idle | View::UnwrittenEnd { .. } => Traffic::default(),
    };
    traffic.second_view = handle.second.moved();
    traffic.second_missing = handle.second.missing();
    for (reason, _) in [handle.skips.read, handle.skips.write].into_iter().flatten() {
        traffic.skips.add(reason, 1);
    }
    (!traffic.is_empty()).then_some(traffic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_number() {
        let mut by = ByReason::default();
        for (i, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            by.add(reason, i as u64);
        }
        by.add(Missing::Snaplen, u64::MAX);
        assert_eq!((by.get(Missing::Limit), by.get(Missing::Snaplen), by.total()), (2, u64::MAX, u64::MAX));
        assert_eq!(by.iter().next(), Some((Missing::Unreadable, 1)));
    }
}
