//! The ring thread: takes records from the ring, and picks out what the control thread must know immediately.
//!
//! Records on which that thread must act arrive through a separate ring, which is read first and immediately: a
//! stopped thread may be waiting. They are kept until their position among the other records is reached.
//!
//! It never waits for the writer. If the queue has no capacity for payload, records stay in the ring while it
//! is less than half full; they are only inspected there. Then payload is dropped, from the oldest record on,
//! until three quarters of the ring are free: a few long holes are better than many short ones. Only if there
//! is no capacity for headers either does the ring fill up, and the kernel side counts what it refuses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::queue::{Capacity, Filling, Queue};
use crate::event::record::{self, RawData};
use crate::event::{Event, FileSeen, NoSocket, ProcessKey};
use crate::probe::{Disposition, Record, Rings, UnreportedEnds, clocks, exit_of, is_before, process_of};

/// How long the ring is left alone when nothing wakes its reader.
pub(super) const RING_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two checks for ends of handles and processes that did not fit into the ring.
const ENDED_INTERVAL: Duration = Duration::from_millis(100);
/// How long it is left alone while records stay in it because the hand-over is full.
const STUCK_INTERVAL: Duration = Duration::from_millis(2);

/// Records of the ring of notices that wait for their place. Beyond that those about files, which no later
/// stage needs, are not handed over, and others stay in that ring.
const NOTED_MAX: usize = 4096;

/// What the control thread must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A file is mapped that was not inspected yet.
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
    /// A record is being written, and those after it wait.
    Busy,
    /// A notice is being written, and records after it must not precede it.
    Early,
}

pub(super) struct Reader<K = UnreportedEnds> {
    pub(super) rings: Rings,
    pub(super) queue: Arc<Queue>,
    pub(super) ended: K,
    /// Time between two clock samples.
    pub(super) clock_interval: Duration,
}

/// See [`UnreportedEnds`].
pub(super) trait Kept {
    fn take(&self) -> Vec<Vec<u8>>;
    fn of(&self, process: ProcessKey) -> Vec<Vec<u8>>;
}

impl Kept for UnreportedEnds {
    fn take(&self) -> Vec<Vec<u8>> {
        UnreportedEnds::take(self)
    }
    fn of(&self, process: ProcessKey) -> Vec<Vec<u8>> {
        UnreportedEnds::of(self, process)
    }
}

/// Ends of handles and processes that did not arrive through the ring, to be reported when the ring has been
/// read up to a position.
#[derive(Default)]
struct Deferred {
    until: usize,
    /// The same of the ring of notices: a process may be introduced there.
    heard: usize,
    records: Vec<Vec<u8>>,
}

impl Deferred {
    fn take_of(&mut self, process: ProcessKey) -> Vec<Vec<u8>> {
        self.records.extract_if(.., |record| process_of(record) == Some(process)).collect()
    }
}

/// Records of the ring of notices, in the order of their positions in the other ring.
#[derive(Default)]
struct Noted(VecDeque<(usize, Vec<u8>)>);

impl Noted {
    fn add(&mut self, place: usize, record: Vec<u8>) {
        let at = self.0.partition_point(|(before, _)| !is_before(place, *before));
        self.0.insert(at, (place, record));
    }

    /// Whether none is left before a position.
    fn is_told_before(&self, position: usize) -> bool {
        self.0.front().is_none_or(|(place, _)| is_before(position, *place))
    }

    /// Hands over those before a position.
    fn tell_before(&mut self, position: usize, filling: &mut Filling) {
        let due = self.0.partition_point(|(place, _)| !is_before(position, *place));
        self.0.drain(..due).for_each(|(_, record)| filling.add((&record, &[])));
    }
}

impl<K: Kept> Reader<K> {
    /// Reads until `stop` is set and the ring is empty.
    pub(super) fn run(mut self, stop: &AtomicBool, mut notice: impl FnMut(Notice)) {
        let mut sampled = Instant::now();
        // A clock sample, and up to where the ring was written then.
        let mut sample = None;
        let mut stopping = false;
        let mut shedding = false;
        let mut notices = Vec::new();
        let mut deferred = Deferred::default();
        let mut noted = Noted::default();
        let mut asked = Instant::now();
        loop {
            // A writer that is behind needs no samples to know that time passes.
            if sample.is_none() && sampled.elapsed() >= self.clock_interval && !self.queue.is_full() {
                sampled = Instant::now();
                // In this order: what was before it is in the ring by then.
                let clock = record::encode(&Event::Clock(clocks()));
                sample = clock.map(|clock| (clock, self.rings.records.written()));
            }
            let round = self.round(&mut shedding, &mut deferred, &mut noted, &mut notices);
            notices.drain(..).for_each(&mut notice);
            if self.tell(&mut deferred, &noted, &mut notices)
                && (asked.elapsed() >= ENDED_INTERVAL || stopping)
            {
                asked = Instant::now();
                // In this order: what is in the ring when they are taken precedes them.
                let records = self.ended.take();
                let (until, heard) = (self.rings.records.written(), self.rings.notices.written());
                deferred = Deferred { until, heard, records };
                self.tell(&mut deferred, &noted, &mut notices);
            }
            // A wait for a time must not end before what is still in the ring.
            let taken = self.rings.records.taken();
            if let Some((clock, _)) = sample.take_if(|(_, until)| !is_before(taken, *until)) {
                self.queue.offer(&clock);
            }
            // The last read must begin after the stop: records come between a read and this.
            if round == Round::Empty && stopping && deferred.records.is_empty() && noted.0.is_empty() {
                return;
            }
            stopping = stop.load(Ordering::Acquire);
            match round {
                Round::Empty | Round::Busy => self.rings.wait(RING_INTERVAL),
                Round::Early => self.rings.wait(STUCK_INTERVAL),
                Round::Stuck => self.queue.wait_for_room(Capacity::Whole, STUCK_INTERVAL),
                Round::Full => {}
            }
        }
    }

    /// Hands over what came aside, if its turn has come; whether nothing is left of it.
    fn tell(&self, deferred: &mut Deferred, noted: &Noted, notices: &mut Vec<Notice>) -> bool {
        let is_due = !is_before(self.rings.records.taken(), deferred.until)
            && self.rings.notices.has_seen(deferred.heard)
            && noted.is_told_before(deferred.until);
        if is_due {
            let left = deferred.records.iter().position(|record| !self.queue.offer(record));
            let told = deferred.records.drain(..left.unwrap_or(deferred.records.len()));
            notices.extend(told.filter_map(|record| exit_of(&record)).map(Notice::Exit));
        }
        deferred.records.is_empty()
    }

    /// Reads the ring of notices; whether all was there that was begun.
    fn hear(&mut self, noted: &mut Noted, notices: &mut Vec<Notice>) -> bool {
        let ring = &mut self.rings.notices;
        let begun = ring.written();
        ring.take(begun, |record| {
            let Some((bytes, place)) = record.split_place() else { return Disposition::Taken };
            let notice = notice_of(&bytes);
            let is_full = noted.0.len() >= NOTED_MAX;
            let is_needed = !matches!(notice, Some(Notice::File(_)));
            if is_full && is_needed {
                return Disposition::Left;
            }
            notices.extend(notice.filter(|_| record.new));
            if !is_full {
                noted.add(place, bytes);
            }
            Disposition::Taken
        });
        ring.look_ahead(|record| {
            notices.extend(record.split_place().and_then(|(bytes, _)| notice_of(&bytes)));
        });
        ring.has_seen(begun)
    }

    fn round(
        &mut self,
        shedding: &mut bool,
        deferred: &mut Deferred,
        noted: &mut Noted,
        notices: &mut Vec<Notice>,
    ) -> Round {
        // In this order: records before this position and after a notice are taken after it.
        let until = self.rings.records.written();
        if !self.hear(noted, notices) {
            return Round::Early;
        }
        let mut filling = self.queue.open();
        let mut round = Round::Empty;
        let size = self.rings.records.size();
        self.rings.records.take(until, |record| {
            let room = self.queue.room(&filling);
            *shedding =
                room != Capacity::Whole && record.waiting >= if *shedding { size / 4 } else { size / 2 };
            if room == Capacity::None || room == Capacity::Headers && !*shedding {
                round = Round::Stuck;
                return Disposition::Left;
            }
            noted.tell_before(record.at, &mut filling);
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
                    let notice = notice_in(record);
                    let ended = if let Some(Notice::Exit(process)) = notice { Some(process) } else { None };
                    if let Some(process) = ended {
                        // After its end nothing can be reported of its streams: so report before it what they
                        // lack.
                        for end in deferred.take_of(process).into_iter().chain(self.ended.of(process)) {
                            filling.add((&end, &[]));
                        }
                    }
                    filling.add(record.first(record.len()));
                    notices.extend(notice.filter(|_| record.new || ended.is_some()));
                }
            }
            if filling.is_full() {
                round = Round::Full;
                return Disposition::Last;
            }
            Disposition::Taken
        });
        if round == Round::Empty && self.queue.room(&filling) != Capacity::None {
            noted.tell_before(self.rings.records.taken(), &mut filling);
        }
        if round == Round::Empty && is_before(self.rings.records.taken(), until) {
            round = Round::Busy;
        }
        self.queue.put(filling);
        if round == Round::Stuck {
            // Whoever was stopped waits for the control thread, not for the disk.
            self.rings.records.look_ahead(|record| {
                if data_of(record).is_none() {
                    // The table entries of a process that ended are needed until its record is taken.
                    notices.extend(notice_in(record).filter(|notice| !matches!(notice, Notice::Exit(_))));
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

fn notice_in(record: &Record<'_>) -> Option<Notice> {
    let (first, second) = record.first(record.len());
    notice_of(&[first, second].concat())
}

fn notice_of(record: &[u8]) -> Option<Notice> {
    match record::decode(&Bytes::copy_from_slice(record)).ok()? {
        Event::File(file) => Some(Notice::File(file)),
        Event::NoSocket(process) => Some(Notice::NoSocket(process)),
        Event::Process(process) => Some(Notice::Process(process.key)),
        Event::Exit(key, _) => Some(Notice::Exit(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;
    use crate::event::recording::Player;
    use crate::probe::ring_of_file::{Kernel, rings};

    /// What the kernel side keeps because the ring is full.
    type KeptHere = Arc<Mutex<Vec<Vec<u8>>>>;

    impl Kept for KeptHere {
        fn take(&self) -> Vec<Vec<u8>> {
            std::mem::take(&mut *self.lock().unwrap())
        }
        fn of(&self, _: ProcessKey) -> Vec<Vec<u8>> {
            Vec::new()
        }
    }

    fn reader(bytes: usize, clock_interval: Duration) -> (Reader<KeptHere>, Kernel, Kernel) {
        let (rings, records, notices) = rings(bytes, 64 << 10);
        let reader = Reader { rings, queue: Arc::default(), ended: KeptHere::default(), clock_interval };
        (reader, records, notices)
    }

    /// What is in the hand-over now, as numbers; `None` for a clock sample.
    fn numbers(queue: &Queue) -> Vec<Option<u32>> {
        let mut numbers = Vec::new();
        while !queue.is_empty() {
            let batch = queue.take().unwrap();
            let mut player = Player::batch(batch.clone());
            while let Some(record) = player.next_record().unwrap() {
                let is_clock = matches!(record::decode(&record), Ok(Event::Clock(_)));
                numbers.push((!is_clock).then(|| u32::from_ne_bytes(*record.last_chunk().unwrap())));
            }
            drop(player);
            queue.written(batch);
        }
        numbers
    }

    /// No record that is known, with a number at its end.
    fn numbered(n: u32, len: usize) -> Vec<u8> {
        let mut record = vec![0xff; len];
        record.extend(n.to_ne_bytes());
        record
    }

    #[test]
    fn a_clock_sample_stands_behind_what_was_in_the_ring_before_it() {
        let (reader, records, _) = reader(1 << 20, Duration::ZERO);
        for n in 0..12 {
            assert!(records.put(&numbered(n, 60_000)));
        }
        let queue = Arc::clone(&reader.queue);
        reader.run(&AtomicBool::new(true), |_| ());
        let told = numbers(&queue);
        let clock = told.iter().position(Option::is_none).unwrap();
        assert_eq!(told[..clock], (0..12).map(Some).collect::<Vec<_>>());
    }

    /// A program that was interrupted continues when this is asked for the second time.
    struct Interrupted(Kernel, usize, AtomicU32);

    impl Kept for Interrupted {
        fn take(&self) -> Vec<Vec<u8>> {
            if self.2.fetch_add(1, Ordering::Relaxed) == 1 {
                self.0.submit(self.1, &numbered(1, 4));
            }
            Vec::new()
        }
        fn of(&self, _: ProcessKey) -> Vec<Vec<u8>> {
            Vec::new()
        }
    }

    #[test]
    fn at_the_end_a_record_is_awaited_that_is_being_written() {
        let (Reader { rings, queue, .. }, records, _) = reader(1 << 20, Duration::MAX);
        assert!(records.put(&numbered(0, 4)));
        let busy = records.reserve(8).unwrap();
        assert!(records.put(&numbered(2, 4)));
        let ended = Interrupted(records, busy, AtomicU32::new(0));
        let told = Arc::clone(&queue);
        let reader = Reader { rings, queue, ended, clock_interval: Duration::MAX };
        reader.run(&AtomicBool::new(true), |_| ());
        assert_eq!(numbers(&told), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn whatever_way_records_come_they_are_told_in_order() {
        const RECORDS: u32 = 10_000;
        let (reader, records, notices) = reader(64 << 10, Duration::from_millis(1));
        let (queue, kept) = (Arc::clone(&reader.queue), Arc::clone(&reader.ended));
        let stop = Arc::new(AtomicBool::new(false));
        let kernel = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut random = 1u32;
                for n in 0..RECORDS {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    match random >> 24 {
                        0..16 => kept.lock().unwrap().push(numbered(n, 4)),
                        16..64 => {
                            let at = loop {
                                match notices.reserve(16) {
                                    Some(at) => break at,
                                    None => thread::yield_now(),
                                }
                            };
                            // As in the kernel: the position is read once the notice has space.
                            let place = (records.written() as u64).to_ne_bytes();
                            notices.submit(at, &[numbered(n, 4), place.to_vec()].concat());
                        }
                        len => {
                            while !records.put(&numbered(n, len as usize * 4)) {
                                thread::yield_now();
                            }
                        }
                    }
                }
                stop.store(true, Ordering::Release);
                kept
            })
        };
        let reading = thread::spawn(move || reader.run(&stop, |_| ()));
        let mut told = Vec::new();
        while !reading.is_finished() {
            told.extend(numbers(&queue).into_iter().flatten());
            thread::yield_now();
        }
        reading.join().unwrap();
        assert!(kernel.join().unwrap().lock().unwrap().is_empty());
        told.extend(numbers(&queue).into_iter().flatten());
        assert_eq!(told.len(), RECORDS as usize);
        // What is kept may come later, and not earlier.
        let mut random = 1u32;
        let is_kept: Vec<bool> = (0..RECORDS)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random >> 24 < 16
            })
            .collect();
        let (mut next, mut seen) = (0, vec![false; RECORDS as usize]);
        for n in told {
            assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} twice");
            if is_kept[n as usize] {
                assert!(next >= n, "{n} before {next}");
            } else {
                assert_eq!(n, next);
                next += 1;
            }
            while next < RECORDS && is_kept[next as usize] {
                next += 1;
            }
        }
    }

    #[test]
    fn notices_go_to_their_places_however_they_come() {
        let mut noted = Noted::default();
        // Positions wrap.
        for (place, record) in [(0, "c"), (usize::MAX - 7, "a"), (16, "e"), (usize::MAX - 7, "b"), (8, "d")] {
            noted.add(place, record.into());
        }
        let queue = Queue::default();
        let mut filling = queue.open();
        noted.tell_before(usize::MAX - 15, &mut filling);
        filling.add((b"before", &[]));
        noted.tell_before(usize::MAX - 7, &mut filling);
        filling.add((b"first", &[]));
        noted.tell_before(8, &mut filling);
        filling.add((b"second", &[]));
        queue.put(filling);
        let mut player = Player::batch(queue.take().unwrap());
        let records: Vec<Bytes> = std::iter::from_fn(|| player.next_record().unwrap()).collect();
        assert_eq!(records, ["before", "a", "b", "first", "c", "d", "second"]);
        assert!(noted.is_told_before(8) && !noted.is_told_before(16));
    }
}
