//! What is missing from a capture, and why: what the kernel side counted, and what was found after the ring, in
//! total and by process. Pure.

use std::collections::HashMap;

use crate::event::record::Counter;
use crate::event::{Counters, Missing, ProcessKey, ProcessLoss};
use crate::sink::pcapng::Statistics;
use crate::status::{Loss, Note, Reason, Share};
use crate::synth::Stats;
use crate::synth::comment::Comment;
use crate::track::summary::{Summary, Traffic};

/// What the kernel side counts as lost: where it counts events, and bytes if it knows them.
const COUNTED: [(Reason, Counter, Option<Counter>); 15] = [
    (Reason::RingFull, Counter::RingFull, Some(Counter::RingFullBytes)),
    (Reason::FactLost, Counter::FactLost, None),
    (Reason::NoticeLost, Counter::NoticeLost, None),
    (Reason::Unreadable, Counter::Unreadable, Some(Counter::UnreadableBytes)),
    (Reason::CallLimit, Counter::Limit, Some(Counter::LimitBytes)),
    (Reason::Sendfile, Counter::Sendfile, Some(Counter::SendfileBytes)),
    (Reason::Unfinished, Counter::Unfinished, None),
    (Reason::Depth, Counter::Depth, None),
    (Reason::ThreadsFull, Counter::ThreadsFull, None),
    (Reason::OtherStack, Counter::OtherStack, None),
    (Reason::HandlesFull, Counter::HandlesFull, None),
    (Reason::ProcessesFull, Counter::ProcessesFull, None),
    (Reason::SocketsFull, Counter::SocketsFull, None),
    (Reason::MissedRuns, Counter::MissedRuns, None),
    (Reason::Unheld, Counter::Unheld, None),
];

/// How much was lost for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Amount {
    events: u64,
    bytes: Option<u64>,
}

/// Processes for which dropped payload is counted separately; the rest is only in the sum.
const SHED_MAX: usize = 16_384;

/// Data records whose payload was dropped because the output was too slow.
#[derive(Clone, Debug, Default)]
pub struct Shed {
    events: u64,
    bytes: u64,
    by_process: HashMap<ProcessKey, (u64, u64)>,
}

impl Shed {
    /// Counts a record of a process.
    pub fn add(&mut self, process: ProcessKey, bytes: u64) {
        let more = |n: u64, by: u64| n.saturating_add(by);
        (self.events, self.bytes) = (more(self.events, 1), more(self.bytes, bytes));
        if self.by_process.len() < SHED_MAX || self.by_process.contains_key(&process) {
            let (events, sum) = self.by_process.entry(process).or_default();
            (*events, *sum) = (more(*events, 1), more(*sum, bytes));
        }
    }
}

impl Amount {
    /// Of a reason that leaves holes, some must be left.
    fn is_loss(&self, reason: Reason) -> bool {
        self.bytes != Some(0) || missing_for(reason).is_none()
    }

    fn less(&mut self, bytes: u64) {
        self.bytes = self.bytes.map(|all| all.saturating_sub(bytes));
    }
}

/// The reason as streams have it, if it is one that leaves holes of known length.
fn missing_for(reason: Reason) -> Option<Missing> {
    match reason {
        Reason::RingFull => Some(Missing::RingFull),
        Reason::WriterBehind => Some(Missing::WriterBehind),
        Reason::Unreadable => Some(Missing::Unreadable),
        Reason::CallLimit => Some(Missing::Limit),
        Reason::Sendfile => Some(Missing::Sendfile),
        _ => None,
    }
}

/// All that is missing.
#[derive(Debug)]
pub struct Losses {
    total: Vec<(Reason, Amount)>,
    by_process: Vec<(ProcessKey, Reason, Amount)>,
    notes: Vec<Note>,
}

/// How often the kernel side counted a loss.
pub fn events(counters: &Counters) -> u64 {
    COUNTED.iter().map(|(_, events, _)| counted(counters, *events)).fold(0, u64::saturating_add)
}

fn counted(counters: &Counters, index: Counter) -> u64 {
    counters.0.get(index as usize).copied().unwrap_or(0)
}

impl Losses {
    /// From what the kernel side counted, in total and by process, and what was found after the ring.
    /// `undecodable`: records that were not understood.
    pub fn new(
        counters: &Counters,
        processes: &[ProcessLoss],
        shed: &Shed,
        summary: &Summary,
        stats: &Stats,
        undecodable: u64,
    ) -> Losses {
        let mut by_process = Vec::new();
        for loss in processes {
            let Some((reason, _, bytes)) = COUNTED.iter().find(|c| c.1 as u32 == loss.reason) else {
                continue;
            };
            let bytes = (bytes.is_some() || *reason == Reason::HandlesFull).then_some(loss.bytes);
            by_process.push((loss.process, *reason, Amount { events: loss.events, bytes }));
        }
        for process in &summary.processes {
            let events = process.traffic.skips.get(Missing::Unseen);
            if events > 0 {
                by_process.push((process.key, Reason::ReadBeforeAttach, Amount { events, bytes: None }));
            }
        }
        for (process, (events, bytes)) in &shed.by_process {
            by_process.push((*process, Reason::WriterBehind, amount(*events, Some(*bytes))));
        }
        // What the end that is not written has lost is no loss of the file.
        let of_second =
            |traffic: &Traffic, reason| missing_for(reason).map_or(0, |m| traffic.second_missing.get(m));
        for process in &summary.processes {
            for (key, reason, amount) in &mut by_process {
                if *key == process.key {
                    amount.less(of_second(&process.traffic, *reason));
                }
            }
        }
        by_process.retain(|(_, reason, amount)| amount.is_loss(*reason));
        by_process.sort_by_key(|(key, reason, _)| (*key, *reason));
        let mut total: Vec<(Reason, Amount)> = COUNTED
            .iter()
            .map(|(reason, events, bytes)| {
                let bytes = bytes.map(|bytes| counted(counters, bytes));
                (*reason, Amount { events: counted(counters, *events), bytes })
            })
            .collect();
        let bounds = &summary.bounds;
        for (reason, amount) in &mut total {
            if *reason == Reason::HandlesFull {
                let of_processes = by_process.iter().filter(|p| p.1 == Reason::HandlesFull);
                let known = of_processes.filter_map(|p| p.2.bytes).fold(0, u64::saturating_add);
                let whole = counted(counters, Counter::LossesFull) == 0;
                amount.events = amount.events.saturating_add(bounds.handles_refused);
                amount.bytes = whole.then(|| known.saturating_add(bounds.handles_refused_bytes));
            }
        }
        let anomalies = &summary.anomalies;
        let late = anomalies.after_end.saturating_add(anomalies.after_finish);
        let bad = undecodable.saturating_add(anomalies.impossible);
        total.extend([
            (Reason::WriterBehind, amount(shed.events, Some(shed.bytes))),
            (Reason::ReadBeforeAttach, amount(summary.total.skips.get(Missing::Unseen), None)),
            (Reason::ConnectionsFull, amount(stats.connections_refused, None)),
            (Reason::Late, amount(anomalies.late, Some(late))),
            (Reason::BadRecord, amount(bad, None)),
        ]);
        let mut unknown = 0;
        for (reason, amount) in &mut total {
            amount.less(of_second(&summary.total, *reason));
            // A hole that the kernel side did not count was made after it.
            let in_file = missing_for(*reason).map_or(0, |m| summary.total.missing.get(m));
            let Some(bytes) = amount.bytes.filter(|bytes| *bytes < in_file) else { continue };
            if *reason == Reason::RingFull {
                // No record says so: it was inferred from what did not arrive.
                unknown = in_file - bytes;
            } else {
                (amount.events, amount.bytes) = (amount.events.max(1), Some(in_file));
            }
        }
        total.push((Reason::Unknown, self::amount(u64::from(unknown > 0), Some(unknown))));
        total.retain(|(reason, amount)| amount.events > 0 && amount.is_loss(*reason));
        let count = |index| counted(counters, index);
        let notes = vec![
            Note::Snaplen(count(Counter::SnaplenBytes)),
            Note::NotTcp(count(Counter::NotTcp)),
            Note::LeftByFilter(stats.left_by_filter),
            Note::Undecided(stats.undecided),
            Note::LeftBySample(stats.left_by_sample),
            Note::MadeUp(stats.tuples_made_up),
            Note::Conflict(count(Counter::Conflict)),
            Note::MissedSocketRuns(count(Counter::MissedSocketRuns)),
            Note::Shortened(stats.holes_shortened),
            Note::Unattributed(count(Counter::LossesFull)),
        ];
        Losses { total, by_process, notes }
    }

    /// For people; `name` names a process.
    pub fn told(&self, name: impl Fn(ProcessKey) -> String) -> (Vec<Loss>, Vec<Note>) {
        let lost = self.total.iter().map(|(reason, Amount { events, bytes })| {
            let mut shares: Vec<_> = self.by_process.iter().filter(|p| p.1 == *reason).collect();
            shares.sort_by_key(|(key, _, amount)| (std::cmp::Reverse((amount.bytes, amount.events)), *key));
            let by_process = shares
                .into_iter()
                .map(|(key, _, amount)| Share {
                    process: name(*key),
                    events: amount.events,
                    bytes: amount.bytes,
                })
                .collect();
            Loss { reason: *reason, events: *events, bytes: *bytes, by_process }
        });
        (lost.collect(), self.notes.clone())
    }

    /// For the end of the file: an entry for each process that lost something, and one for what no
    /// process is known to have lost.
    pub fn statistics(&self) -> Vec<Statistics> {
        let mut rest: HashMap<Reason, Amount> = self.total.iter().copied().collect();
        let mut entries: Vec<Statistics> = Vec::new();
        for (key, reason, amount) in &self.by_process {
            if let Some(rest) = rest.get_mut(reason) {
                rest.events = rest.events.saturating_sub(amount.events);
                rest.bytes = rest.bytes.map(|n| n.saturating_sub(amount.bytes.unwrap_or(0)));
            }
            if entries.last().is_none_or(|entry| entry.process != Some(*key)) {
                entries.push(Statistics { process: Some(*key), ..Statistics::default() });
            }
            if let Some(entry) = entries.last_mut() {
                if matches!(reason, Reason::RingFull | Reason::WriterBehind) {
                    entry.dropped += amount.events;
                }
                entry.comments.push(comment(Some(*key), *reason, amount));
            }
        }
        let mut others = Statistics::default();
        for (reason, _) in &self.total {
            let Some(amount) = rest.get(reason).filter(|amount| amount.events > 0) else { continue };
            if matches!(reason, Reason::RingFull | Reason::WriterBehind) {
                others.dropped += amount.events;
            }
            others.comments.push(comment(None, *reason, amount));
        }
        if !others.comments.is_empty() {
            entries.push(others);
        }
        entries
    }
}

fn amount(events: u64, bytes: Option<u64>) -> Amount {
    Amount { events, bytes }
}

fn comment(process: Option<ProcessKey>, reason: Reason, amount: &Amount) -> String {
    let comment = Comment::of_file().with_some("pid", process.map(|key| key.pid));
    let comment = match amount.bytes {
        Some(bytes) => comment.with("missing", bytes),
        None => comment.with("missing", "unknown"),
    };
    comment.with("reason", reason.as_str()).with("times", amount.events).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(counts: &[(Counter, u64)]) -> Counters {
        let mut all = vec![0; Counter::LossesFull as usize + 1];
        counts.iter().for_each(|(counter, n)| all[*counter as usize] = *n);
        Counters(all)
    }

    fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, generation: 1 }
    }

    fn lost(pid: u32, reason: Counter, events: u64, bytes: u64) -> ProcessLoss {
        ProcessLoss { process: key(pid), reason: reason as u32, events, bytes }
    }

    #[test]
    fn the_worst_come_first_and_the_parts_make_the_whole() {
        let counters = counters(&[
            (Counter::RingFull, 10),
            (Counter::RingFullBytes, 1000),
            (Counter::Unfinished, 3),
            (Counter::SnaplenBytes, 7),
        ]);
        let processes = [
            lost(5, Counter::RingFull, 6, 100),
            lost(7, Counter::RingFull, 1, 600),
            lost(7, Counter::Unfinished, 3, 0),
        ];
        let losses =
            Losses::new(&counters, &processes, &Shed::default(), &Summary::default(), &Stats::default(), 0);
        let (lost, notes) = losses.told(|key| format!("p[{}]", key.pid));
        let share = |process: &str, events, bytes| Share { process: process.into(), events, bytes };
        let expected = [
            Loss {
                reason: Reason::RingFull,
                events: 10,
                bytes: Some(1000),
                by_process: vec![share("p[7]", 1, Some(600)), share("p[5]", 6, Some(100))],
            },
            Loss {
                reason: Reason::Unfinished,
                events: 3,
                bytes: None,
                by_process: vec![share("p[7]", 3, None)],
            },
        ];
        assert_eq!(lost, expected);
        assert_eq!(notes[0], Note::Snaplen(7));
        let entries: Vec<_> = losses
            .statistics()
            .into_iter()
            .map(|entry| (entry.process.map(|key| key.pid), entry.dropped, entry.comments.join("; ")))
            .collect();
        let of = |text: &str| text.to_owned();
        let expected = [
            (Some(5), 6, of("tls2pcap=1 pid=5 missing=100 reason=ring-full times=6")),
            (
                Some(7),
                1,
                of("tls2pcap=1 pid=7 missing=600 reason=ring-full times=1; \
                    tls2pcap=1 pid=7 missing=unknown reason=unfinished-call times=3"),
            ),
            (None, 3, of("tls2pcap=1 missing=300 reason=ring-full times=3")),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_hole_in_the_file_is_a_loss_though_nobody_counted_it() {
        let mut summary = Summary::default();
        summary.total.missing.add(Missing::RingFull, 5488);
        let losses = Losses::new(&counters(&[]), &[], &Shed::default(), &summary, &Stats::default(), 0);
        let of = |reason, events, bytes| Loss { reason, events, bytes: Some(bytes), by_process: vec![] };
        assert_eq!(losses.told(|_| String::new()).0, [of(Reason::Unknown, 1, 5488)]);
        let counted = counters(&[(Counter::RingFull, 3), (Counter::RingFullBytes, 5000)]);
        let losses = Losses::new(&counted, &[], &Shed::default(), &summary, &Stats::default(), 0);
        let expected = [of(Reason::RingFull, 3, 5000), of(Reason::Unknown, 1, 488)];
        assert_eq!(losses.told(|_| String::new()).0, expected);
    }

    #[test]
    fn what_was_asked_for_is_no_loss() {
        let counters = counters(&[
            (Counter::Snaplen, 1),
            (Counter::NotTcp, 1),
            (Counter::Conflict, 1),
            (Counter::Twice, 1),
        ]);
        let losses = Losses::new(&counters, &[], &Shed::default(), &Summary::default(), &Stats::default(), 0);
        assert!(losses.total.is_empty() && losses.statistics().is_empty());
        assert_eq!(events(&counters), 0);
    }
}
