//! The order of a handle's records: a write is placed at its entry, a read at its return.
//!
//! Records arrive when calls return. In a full-duplex program the response to a request can be read before the
//! write of the request has returned, so it arrives first; the kernel side marks such a read with the write
//! that was in flight. It is held back here until that write is complete, and everything that the handle reads
//! meanwhile queues after it. The chunks of one call stay together: until a call's last chunks have arrived,
//! the other direction waits.
//!
//! This code has no bounds: the caller checks how much is held and since when, and forces a release.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::event::{Data, Direction, Monotonic, Task};

/// The next step in the handle.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record.
    Data(Data),
    /// The rest of a call, or the write that a read awaits, is lost. Its place is here.
    Lost {
        /// In which direction.
        direction: Direction,
        /// Everything up to this offset that has not arrived is lost.
        until: u64,
        /// Place in time.
        place: Monotonic,
        /// Who made the call, or the next write.
        task: Task,
    },
}

/// Room for records that an empty queue keeps.
const KEPT: usize = 16;

/// The place of a record in time.
pub(super) fn place(data: &Data) -> Monotonic {
    match data.direction {
        Direction::Read => data.returned,
        Direction::Write => data.entered,
    }
}

/// `a <= b` for call numbers, which wrap.
fn not_after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

#[derive(Debug)]
struct Held {
    data: Data,
    since: Monotonic,
}

/// A call of which some chunks were released and others are still to come.
#[derive(Clone, Copy, Debug)]
struct Partial {
    direction: Direction,
    seq: u32,
    task: Task,
    place: Monotonic,
    returned: Monotonic,
    /// Offset of the call's end.
    end: u64,
}

/// What is known of past calls.
#[derive(Debug, Default)]
struct Progress {
    partial: Option<Partial>,
    /// The last write that no read needs to await any more.
    done: Option<u32>,
    /// The last write that moved nothing, and when that was known. Its number is used again.
    empty: Option<(u32, Monotonic)>,
    /// Reads that returned up to here await nothing.
    settled: Option<Monotonic>,
}

enum Choice {
    Read,
    Write,
    /// The rest of the partial call is lost.
    LostRest,
    /// The write that the first read awaits is lost.
    LostWrite,
    Wait,
}

impl Progress {
    /// The write that `read` still has to wait for.
    fn awaits(&self, read: &Data) -> Option<u32> {
        let seq = read.awaits_write?;
        let done = self.done.is_some_and(|done| not_after(seq, done))
            || self.empty.is_some_and(|(empty, time)| not_after(seq, empty) && read.returned <= time)
            || self.settled.is_some_and(|time| read.returned <= time);
        (!done).then_some(seq)
    }

    /// The next records: the first read and the first write.
    fn choose(&self, read: Option<&Data>, write: Option<&Data>, force: bool) -> Choice {
        if let Some(partial) = self.partial {
            let (same, other, choice) = match partial.direction {
                Direction::Read => (read, write, Choice::Read),
                Direction::Write => (write, read, Choice::Write),
            };
            match same {
                Some(next) if next.call_seq == partial.seq => return choice,
                Some(_) => return Choice::LostRest,
                // A thread's next record shows that its last call has sent all that it could. In Go what the
                // same thread did before may have been another goroutine's, and be held for this very call.
                None if other.is_some_and(|o| o.task == partial.task && o.returned > partial.returned) => {
                    return Choice::LostRest;
                }
                // Its rest may still arrive: it is not declared lost.
                None if force => {}
                None => return Choice::Wait,
            }
        }
        match (read, write) {
            (None, None) => Choice::Wait,
            (None, Some(_)) => Choice::Write,
            (Some(read), None) if force || self.awaits(read).is_none() => Choice::Read,
            (Some(_), None) => Choice::Wait,
            (Some(read), Some(write)) => match self.awaits(read) {
                Some(seq) if not_after(write.call_seq, seq) => Choice::Write,
                _ if write.entered < read.returned => Choice::Write,
                Some(_) => Choice::LostWrite,
                None => Choice::Read,
            },
        }
    }

    fn give_up_partial(&mut self) -> Option<Partial> {
        let partial = self.partial.take()?;
        if partial.direction == Direction::Write {
            self.done_up_to(partial.seq);
        }
        Some(partial)
    }

    fn done_up_to(&mut self, seq: u32) {
        if self.done.is_none_or(|done| not_after(done, seq)) {
            self.done = Some(seq);
        }
    }

    fn passed(&mut self, data: &Data) {
        let complete = data.chunk_offset.saturating_add(data.chunk_len) >= data.call_len;
        let (direction, seq) = (data.direction, data.call_seq);
        self.partial = (!complete).then(|| Partial {
            direction,
            seq,
            task: data.task,
            place: place(data),
            returned: data.returned,
            end: data.call_offset.saturating_add(data.call_len),
        });
        if direction == Direction::Write {
            self.done_up_to(if complete { seq } else { seq.wrapping_sub(1) });
        }
    }
}

/// What a handle holds back.
#[derive(Debug, Default)]
pub(super) struct Order {
    reads: VecDeque<Held>,
    writes: VecDeque<Held>,
    bytes: usize,
    progress: Progress,
}

impl Order {
    /// Takes a record, and returns it if its turn is now. If not, others may be due: ask [`Order::next`].
    pub fn offer(&mut self, data: Data, now: Monotonic) -> Option<Data> {
        if !self.is_holding() {
            let (read, write) = match data.direction {
                Direction::Read => (Some(&data), None),
                Direction::Write => (None, Some(&data)),
            };
            if matches!(self.progress.choose(read, write, false), Choice::Read | Choice::Write) {
                self.progress.passed(&data);
                return Some(data);
            }
        }
        self.bytes += cost(&data);
        // A slice would keep all the records of its batch in memory.
        let data = Data { payload: Bytes::copy_from_slice(&data.payload), ..data };
        match data.direction {
            Direction::Read => self.reads.push_back(Held { data, since: now }),
            Direction::Write => self.writes.push_back(Held { data, since: now }),
        }
        None
    }

    /// The next step; `None` if everything must wait. With `force`, nothing waits.
    pub fn next(&mut self, force: bool) -> Option<Step> {
        let (read, write) = (self.reads.front(), self.writes.front());
        let choice = self.progress.choose(read.map(|h| &h.data), write.map(|h| &h.data), force);
        let held = match choice {
            Choice::Read => self.reads.pop_front(),
            Choice::Write => self.writes.pop_front(),
            Choice::LostRest => {
                let Partial { direction, task, place, end: until, .. } = self.progress.give_up_partial()?;
                return Some(Step::Lost { direction, until, place, task });
            }
            Choice::LostWrite => {
                let (read, write) = (&read?.data, &write?.data);
                self.progress.done_up_to(write.call_seq.wrapping_sub(1));
                return Some(Step::Lost {
                    direction: Direction::Write,
                    until: write.call_offset,
                    place: read.returned,
                    task: write.task,
                });
            }
            Choice::Wait => None,
        };
        let Held { data, .. } = held?;
        self.bytes -= cost(&data);
        for queue in [&mut self.reads, &mut self.writes] {
            if queue.is_empty() && queue.capacity() > KEPT {
                *queue = VecDeque::new();
            }
        }
        self.progress.passed(&data);
        Some(Step::Data(data))
    }

    /// The write with this number, in flight until `time`, moved nothing.
    pub fn write_empty(&mut self, seq: u32, time: Monotonic) {
        self.progress.empty = Some((seq, time));
    }

    /// No write that was in flight before `time` will arrive any more.
    pub fn settle(&mut self, time: Monotonic) {
        self.progress.settled = self.progress.settled.max(Some(time));
        if matches!(self.progress.partial, Some(Partial { direction: Direction::Write, .. })) {
            self.progress.give_up_partial();
        }
    }

    /// Whether anything is held.
    pub fn is_holding(&self) -> bool {
        !self.reads.is_empty() || !self.writes.is_empty()
    }

    /// Place in time of the first record that is held.
    pub fn earliest(&self) -> Option<Monotonic> {
        [self.reads.front(), self.writes.front()].into_iter().flatten().map(|h| place(&h.data)).min()
    }

    /// Memory that the held records take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of held records.
    pub fn records(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// Since when the oldest is held.
    pub fn since(&self) -> Option<Monotonic> {
        [self.reads.front(), self.writes.front()].into_iter().flatten().map(|h| h.since).min()
    }
}

fn cost(data: &Data) -> usize {
    data.payload.len() + size_of::<Held>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{HandleKey, ProcessKey, TupleSource};

    fn call(direction: Direction, seq: u32, entered: u64, returned: u64) -> Data {
        let process = ProcessKey { pid: 1, generation: 1 };
        Data {
            // Full duplex: one thread reads, one writes.
            task: Task { process, tid: 1 + direction as u32 },
            handle: HandleKey { process, address: 1, generation: 1 },
            library: 0,
            direction,
            entered,
            returned,
            call_seq: seq,
            call_offset: u64::from(seq) * 10,
            call_len: 10,
            chunk_offset: 0,
            chunk_len: 10,
            payload: Bytes::from_static(b"0123456789"),
            missing: None,
            awaits_write: None,
            tuple_source: TupleSource::None,
        }
    }

    fn read(seq: u32, returned: u64, awaits_write: Option<u32>) -> Data {
        Data { awaits_write, ..call(Direction::Read, seq, returned - 1, returned) }
    }

    fn write(seq: u32, entered: u64) -> Data {
        call(Direction::Write, seq, entered, entered + 15)
    }

    fn chunk(call: Data, at: u64, len: u64) -> Data {
        Data { chunk_offset: at, chunk_len: len, ..call }
    }

    /// Feeds records and lists what was released, `|` where the next record was fed.
    fn run(order: &mut Order, records: impl IntoIterator<Item = Data>) -> String {
        let mut log = String::new();
        for (i, data) in records.into_iter().enumerate() {
            if i > 0 {
                log.push('|');
            }
            match order.offer(data, 0) {
                Some(data) => log.push_str(&name(&Step::Data(data))),
                None => drain(order, false, &mut log),
            }
        }
        log
    }

    fn drain(order: &mut Order, force: bool, log: &mut String) {
        while let Some(step) = order.next(force) {
            log.push_str(&name(&step));
        }
    }

    fn name(step: &Step) -> String {
        match step {
            Step::Data(d) => {
                let way = if d.direction == Direction::Read { 'r' } else { 'w' };
                let chunk = if d.chunk_len == 10 { String::new() } else { format!(".{}", d.chunk_offset) };
                format!("{way}{}{chunk} ", d.call_seq)
            }
            Step::Lost { direction: Direction::Read, until, .. } => format!("lost-r<{until} "),
            Step::Lost { until, .. } => format!("lost-w<{until} "),
        }
    }

    #[test]
    fn what_awaits_nothing_goes_straight_through() {
        let log = run(&mut Order::default(), [write(0, 10), read(0, 30, None), write(1, 40)]);
        assert_eq!(log, "w0 |r0 |w1 ");
    }

    #[test]
    fn a_thread_that_goes_on_with_another_goroutine_has_not_lost_the_rest_of_its_write() {
        let mut of_writer = read(0, 20, Some(0));
        of_writer.task.tid = write(0, 10).task.tid;
        let mut order = Order::default();
        let log = run(&mut order, [of_writer, chunk(write(0, 10), 0, 6), chunk(write(0, 10), 6, 4)]);
        assert_eq!(log, "|w0.0 |w0.6 r0 ");
    }

    #[test]
    fn an_answer_waits_for_its_request_and_later_reads_queue_behind() {
        let mut order = Order::default();
        let log = run(&mut order, [read(0, 20, Some(0)), read(1, 22, None), write(0, 10), read(2, 50, None)]);
        assert_eq!(log, "||w0 r0 r1 |r2 ");
        assert_eq!((order.bytes(), order.records(), order.since()), (0, 0, None));
    }

    #[test]
    fn all_chunks_of_a_write_stand_before_the_read_that_awaits_it() {
        let w = || write(0, 10);
        let log = run(
            &mut Order::default(),
            [chunk(w(), 0, 4), read(0, 20, Some(0)), chunk(w(), 4, 4), chunk(w(), 8, 2)],
        );
        assert_eq!(log, "w0.0 ||w0.4 |w0.8 r0 ");
    }

    #[test]
    fn a_read_that_comes_between_the_chunks_of_a_write_waits_unasked() {
        let log = run(
            &mut Order::default(),
            [chunk(write(0, 10), 0, 4), read(0, 20, None), chunk(write(0, 10), 4, 6)],
        );
        assert_eq!(log, "w0.0 ||w0.4 r0 ");
    }

    #[test]
    fn a_write_that_comes_between_the_chunks_of_a_read_waits() {
        let r = || read(0, 20, None);
        let log = run(&mut Order::default(), [chunk(r(), 0, 4), write(0, 21), chunk(r(), 4, 6)]);
        assert_eq!(log, "r0.0 ||r0.4 w0 ");
    }

    #[test]
    fn a_lost_last_chunk_shows_in_the_next_call_of_its_direction_or_thread() {
        let log = run(
            &mut Order::default(),
            [chunk(write(0, 10), 0, 4), read(0, 20, Some(0)), read(1, 21, Some(0)), write(1, 40)],
        );
        assert_eq!(log, "w0.0 |||lost-w<10 r0 r1 w1 ");

        let by_one_thread = |mut data: Data| {
            data.task.tid = 7;
            data
        };
        let records = [chunk(read(0, 10, None), 0, 4), write(0, 40)].map(by_one_thread);
        assert_eq!(run(&mut Order::default(), records), "r0.0 |lost-r<10 w0 ");
        let records = [chunk(write(0, 10), 0, 4), read(0, 40, None)].map(by_one_thread);
        assert_eq!(run(&mut Order::default(), records), "w0.0 |lost-w<10 r0 ");
    }

    #[test]
    fn a_lost_write_leaves_its_hole_before_the_read() {
        let mut order = Order::default();
        let log = run(
            &mut order,
            [write(0, 1), read(0, 20, Some(1)), read(1, 50, Some(2)), write(2, 40), read(2, 60, None)],
        );
        assert_eq!(log, "w0 |||lost-w<20 r0 w2 r1 |r2 ");
    }

    #[test]
    fn a_write_that_moved_nothing_is_not_awaited_but_its_number_is_used_again() {
        let mut order = Order::default();
        let mut log = run(&mut order, [write(0, 1), read(0, 20, Some(1))]);
        order.write_empty(1, 30);
        drain(&mut order, false, &mut log);
        assert_eq!(log, "w0 |r0 ");
        // One that returned before the news, and one that awaits the next write of that number.
        assert_eq!(
            run(&mut order, [read(1, 29, Some(1)), read(2, 40, Some(1)), write(1, 35)]),
            "r1 ||w1 r2 "
        );
    }

    #[test]
    fn force_and_settling_let_go() {
        let mut order = Order::default();
        let mut log = run(&mut order, [read(0, 20, Some(5)), read(1, 21, Some(6))]);
        order.settle(20);
        drain(&mut order, false, &mut log);
        assert_eq!(log, "|r0 ");
        assert_eq!(order.since(), Some(0));
        drain(&mut order, true, &mut log);
        assert_eq!(log, "|r0 r1 ");
        // What was released by force may still be completed.
        let mut log = run(&mut order, [chunk(write(5, 1), 0, 4), read(2, 22, None)]);
        drain(&mut order, true, &mut log);
        log.push_str(&run(&mut order, [chunk(write(5, 1), 4, 6)]));
        assert_eq!(log, "w5.0 |r2 w5.4 ");
        // A write arrives after all: late, but not lost.
        assert_eq!(run(&mut order, [write(6, 10), read(3, 30, Some(6))]), "w6 |r3 ");
    }

    #[test]
    fn call_numbers_wrap() {
        let at = |data: Data, seq| Data { call_seq: seq, ..data };
        let log = run(
            &mut Order::default(),
            [at(write(0, 1), u32::MAX), read(0, 20, Some(u32::MAX)), read(1, 30, Some(0)), write(0, 25)],
        );
        assert_eq!(log, format!("w{} |r0 ||w0 r1 ", u32::MAX));
    }
}
