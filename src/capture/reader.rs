//! The ring thread: takes records out of the ring, and picks out what the control thread must know at
//! once.
//!
//! It never waits for the writer. When there is no room for payload in the hand-over, records stay in
//! the ring, while that is less than half full; they are only looked at. Then payload is given up, from
//! the oldest record on, until three quarters of the ring are free: a few long holes are better than
//! many short ones. Only when there is no room for headers either does the ring fill up, and the
//! kernel side counts what it refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::handover::{Handover, Room};
use crate::event::record::{self, RawData};
use crate::event::{Event, FileSeen, NoSocket, ProcessKey};
use crate::probe::{Ended, Record, Ring, Verdict, clocks, exit_of, process_of};

/// How long the ring is left alone when nothing wakes its reader.
pub(super) const RING_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two looks for ends of handles and processes that the ring had no room for.
const ENDED_INTERVAL: Duration = Duration::from_millis(100);
/// How long it is left alone while records stay in it because the hand-over is full.
const STUCK_INTERVAL: Duration = Duration::from_millis(2);

/// What the control thread must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A file is mapped that was not looked at yet.
    File(FileSeen),
    /// A process encrypts into memory: probe its BIO functions.
    NoSocket(NoSocket),
    /// A process carries TLS: ask /proc about it.
    Process(ProcessKey),
    /// A process has ended.
    Exit(ProcessKey),
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The ring is empty.
    Empty,
    /// A batch is full; there may be more.
    Full,
    /// The hand-over is full: records stay where they are.
    Stuck,
}

pub(super) struct Reader {
    pub(super) ring: Ring,
    pub(super) handover: Arc<Handover>,
    pub(super) ended: Ended,
    /// Time between two clock samples.
    pub(super) clock_interval: Duration,
}

/// Ends of handles and processes that came by another way than the ring, to be told when the ring has been read up
/// to a position.
#[derive(Default)]
struct Aside {
    until: usize,
    records: Vec<Vec<u8>>,
}

impl Aside {
    fn take_of(&mut self, process: ProcessKey) -> Vec<Vec<u8>> {
        self.records.extract_if(.., |record| process_of(record) == Some(process)).collect()
    }
}

impl Reader {
    /// Reads until `stop` is set and the ring is empty.
    pub(super) fn run(mut self, stop: &AtomicBool, mut notice: impl FnMut(Notice)) {
        let mut sampled = Instant::now();
        let mut stopping = false;
        let mut shedding = false;
        let mut notices = Vec::new();
        let mut aside = Aside::default();
        let mut asked = Instant::now();
        loop {
            let round = self.round(&mut shedding, &mut aside, &mut notices);
            notices.drain(..).for_each(&mut notice);
            if self.tell(&mut aside, &mut notices) && (asked.elapsed() >= ENDED_INTERVAL || stopping) {
                asked = Instant::now();
                // In this order: what is in the ring when they are taken stands before them.
                let records = self.ended.take();
                aside = Aside { until: self.ring.written(), records };
                self.tell(&mut aside, &mut notices);
            }
            // Who is behind needs no samples to know that time passes.
            if sampled.elapsed() >= self.clock_interval && !self.handover.is_full() {
                sampled = Instant::now();
                if let Some(sample) = record::encode(&Event::Clock(clocks())) {
                    self.handover.offer(&sample);
                }
            }
            // The last read must begin after the stop: records come between a read and this.
            if round == Round::Empty && stopping && aside.records.is_empty() {
                return;
            }
            stopping = stop.load(Ordering::Acquire);
            match round {
                Round::Empty => self.ring.wait(RING_INTERVAL),
                Round::Stuck => self.handover.wait_for_room(Room::Whole, STUCK_INTERVAL),
                Round::Full => {}
            }
        }
    }

    /// Hands over what came aside, if its turn has come; whether nothing is left of it.
    fn tell(&self, aside: &mut Aside, notices: &mut Vec<Notice>) -> bool {
        let is_due = self.ring.taken().wrapping_sub(aside.until) as isize >= 0;
        if is_due {
            let left = aside.records.iter().position(|record| !self.handover.offer(record));
            let told = aside.records.drain(..left.unwrap_or(aside.records.len()));
            notices.extend(told.filter_map(|record| exit_of(&record)).map(Notice::Exit));
        }
        aside.records.is_empty()
    }

    fn round(&mut self, shedding: &mut bool, aside: &mut Aside, notices: &mut Vec<Notice>) -> Round {
        let mut filling = self.handover.open();
        let mut round = Round::Empty;
        let size = self.ring.size();
        self.ring.take(|record| {
            let room = self.handover.room(&filling);
            *shedding = room != Room::Whole && record.waiting >= if *shedding { size / 4 } else { size / 2 };
            if room == Room::None || room == Room::Headers && !*shedding {
                round = Round::Stuck;
                return Verdict::Left;
            }
            match data_of(record) {
                Some(data) if *shedding => {
                    let (shed, rest) = data.shed();
                    filling.add((shed.as_record(), &[]));
                    if let Some(rest) = rest {
                        filling.add((rest.as_record(), &[]));
                    }
                }
                Some(data) => filling.add(record.first(data.record_len())),
                None => {
                    let notice = notice_of(record);
                    let ended = if let Some(Notice::Exit(process)) = notice { Some(process) } else { None };
                    if let Some(process) = ended {
                        // After its end nothing can be said of its streams: so before, what they lack there.
                        for end in aside.take_of(process).into_iter().chain(self.ended.of(process)) {
                            filling.add((&end, &[]));
                        }
                    }
                    filling.add(record.first(record.len()));
                    notices.extend(notice.filter(|_| record.new || ended.is_some()));
                }
            }
            if filling.is_full() {
                round = Round::Full;
                return Verdict::Last;
            }
            Verdict::Taken
        });
        self.handover.put(filling);
        if round == Round::Stuck {
            // Whoever was stopped waits for the control thread, not for the disk.
            self.ring.look_ahead(|record| {
                if data_of(record).is_none() {
                    // The table entries of a process that ended are needed until its record is taken.
                    notices.extend(notice_of(record).filter(|notice| !matches!(notice, Notice::Exit(_))));
                }
            });
        }
        round
    }
}

fn data_of(record: &Record<'_>) -> Option<RawData> {
    let mut head = [0; size_of::<RawData>()];
    let len = record.copy(&mut head);
    RawData::of(&head[..len])
}

fn notice_of(record: &Record<'_>) -> Option<Notice> {
    let (first, second) = record.first(record.len());
    match record::decode(&Bytes::from([first, second].concat())).ok()? {
        Event::File(file) => Some(Notice::File(file)),
        Event::NoSocket(process) => Some(Notice::NoSocket(process)),
        Event::Process(process) => Some(Notice::Process(process.key)),
        Event::Exit(key, _) => Some(Notice::Exit(key)),
        _ => None,
    }
}
