//! What is handed over to the writer, bounded in bytes. See [`Capacity`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::event::recording;

/// A batch is full when it has this many bytes.
const BATCH: usize = 256 << 10;
/// A batch is not full yet, and then comes the longest record of the kernel side.
const BATCH_ROOM: usize = BATCH + (66 << 10);
/// From here on, in bytes, no payload is handed over.
const WHOLE_MAX: usize = 16 << 20;
/// From here on nothing is handed over.
const ALL_MAX: usize = 24 << 20;
/// Empty batches that are kept to be used again.
const SPARE: usize = 4;

/// What there is capacity for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capacity {
    /// Whole records.
    Whole,
    /// Records without payload.
    Headers,
    /// Nothing.
    None,
}

/// The queue to the writer, from any thread that has records.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Batches>,
    filled: Condvar,
    drained: Condvar,
    /// Bytes that are handed over and not written yet.
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Batches {
    queue: VecDeque<BytesMut>,
    /// A batch is being filled whose place is at the end of the queue, and the records after it.
    is_open: bool,
    behind: VecDeque<BytesMut>,
    spare: Vec<BytesMut>,
    ended: bool,
    abandoned: bool,
}

fn new_batch() -> BytesMut {
    BytesMut::with_capacity(BATCH_ROOM)
}

/// A batch that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    batch: BytesMut,
    /// Bytes of it that were handed over before.
    counted: usize,
}

impl Filling {
    /// Appends a record, which may come in two parts.
    pub(super) fn add(&mut self, record: (&[u8], &[u8])) {
        recording::add(&mut self.batch, record);
    }

    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= BATCH
    }

    fn new_bytes(&self) -> usize {
        self.batch.len() - self.counted
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, Batches> {
        // Whoever panicked has left a queue that is whole.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The capacity that is left next to `filling`.
    pub(super) fn room(&self, filling: &Filling) -> Capacity {
        self.room_beside(filling.new_bytes())
    }

    fn room_beside(&self, new_bytes: usize) -> Capacity {
        match self.bytes.load(Ordering::Relaxed) + new_bytes {
            n if n < WHOLE_MAX => Capacity::Whole,
            n if n < ALL_MAX => Capacity::Headers,
            _ => Capacity::None,
        }
    }

    /// A batch to fill: the last, if it is not full and the writer has not taken it. For one thread only.
    /// Records that others hand over until it is [`put`](Self::put) back stay after it.
    pub(super) fn open(&self) -> Filling {
        let mut state = self.state();
        state.is_open = true;
        let batch = match state.queue.pop_back() {
            Some(last) if last.len() < BATCH => last,
            last => {
                state.queue.extend(last);
                state.spare.pop().unwrap_or_else(new_batch)
            }
        };
        Filling { counted: batch.len(), batch }
    }

    /// Hands over.
    pub(super) fn put(&self, filling: Filling) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.is_open = false;
        if filling.batch.is_empty() {
            state.spare.push(filling.batch);
        } else if !state.abandoned {
            self.bytes.fetch_add(filling.new_bytes(), Ordering::Relaxed);
            state.queue.push_back(filling.batch);
        }
        state.queue.append(&mut state.behind);
        // Nothing new may be news all the same: while it was open, the writer found the queue empty.
        self.filled.notify_one();
    }

    /// Hands one record over if there is capacity; returns whether. For any thread.
    pub(super) fn offer(&self, record: &[u8]) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        if self.room_beside(0) == Capacity::None {
            return false;
        }
        if state.abandoned {
            return true;
        }
        let queue = if state.is_open { &mut state.behind } else { &mut state.queue };
        if queue.back().is_none_or(|last| last.len() >= BATCH) {
            let batch = state.spare.pop().unwrap_or_else(new_batch);
            queue.push_back(batch);
        }
        if let Some(last) = queue.back_mut() {
            let before = last.len();
            recording::add(last, (record, &[]));
            self.bytes.fetch_add(last.len() - before, Ordering::Relaxed);
        }
        self.filled.notify_one();
        true
    }

    /// Hands one record over, and waits until there is capacity.
    pub(super) fn put_record(&self, record: &[u8]) {
        while !self.offer(record) {
            self.wait_for_room(Capacity::Headers, Duration::MAX);
        }
    }

    /// Whether there is no capacity for payload.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= WHOLE_MAX
    }

    /// Waits until there is capacity for whole records, or for headers, but not longer than `patience`.
    pub(super) fn wait_for_room(&self, room: Capacity, patience: Duration) {
        let max = if room == Capacity::Whole { WHOLE_MAX } else { ALL_MAX };
        let full = |_: &mut Batches| self.bytes.load(Ordering::Relaxed) >= max;
        drop(self.drained.wait_timeout_while(self.state(), patience, full));
    }

    /// Nothing more is handed over. A batch that was not put back never will be: the records after it are
    /// handed over.
    pub(super) fn end(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.ended = true;
        state.queue.append(&mut state.behind);
        drop(guard);
        self.filled.notify_all();
    }

    /// The next batch; waits for it. `None`: that was all.
    pub(super) fn take(&self) -> Option<Bytes> {
        let waiting = |state: &mut Batches| state.queue.is_empty() && !state.ended && !state.abandoned;
        let mut state = self.filled.wait_while(self.state(), waiting).unwrap_or_else(|e| e.into_inner());
        state.queue.pop_front().map(BytesMut::freeze)
    }

    /// Whether the writer has taken all there is.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() && state.behind.is_empty()
    }

    /// A batch that was taken is written.
    pub(super) fn written(&self, batch: Bytes) {
        let mut state = self.state();
        if !state.abandoned {
            self.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        }
        if state.spare.len() < SPARE
            && let Ok(mut batch) = batch.try_into_mut()
        {
            batch.clear();
            state.spare.push(batch);
        }
        self.drained.notify_all();
    }

    /// Records are discarded, now and later: the writer has given up, or must do so. Returns the number of
    /// bytes that were not written.
    pub(super) fn give_up(&self) -> usize {
        let mut state = self.state();
        state.abandoned = true;
        state.queue.clear();
        state.behind.clear();
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.drained.notify_all();
        self.filled.notify_all();
        bytes
    }

    /// Whether [`give_up`](Self::give_up) was called.
    pub(super) fn is_given_up(&self) -> bool {
        self.state().abandoned
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::recording::Player;

    fn records(batch: &Bytes) -> Vec<Bytes> {
        let mut player = Player::batch(batch.clone());
        std::iter::from_fn(|| player.next_record().unwrap()).collect()
    }

    #[test]
    fn small_pieces_come_together_in_one_batch_until_it_is_taken() {
        let queue = Queue::default();
        for record in [b"one", b"two"] {
            assert!(queue.offer(record));
        }
        let mut filling = queue.open();
        filling.add((b"th", b"ree"));
        assert!(queue.is_empty(), "its batch is the one that is being filled");
        queue.put(filling);
        let batch = queue.take().unwrap();
        assert_eq!(records(&batch), ["one", "two", "three"]);
        assert!(queue.offer(b"four"));
        assert_eq!(queue.bytes.load(Ordering::Relaxed), batch.len() + 8);
        queue.written(batch);
        queue.end();
        assert_eq!(records(&queue.take().unwrap()), ["four"]);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn first_there_is_no_room_for_payload_then_for_nothing_and_all_comes_back() {
        let queue = Queue::default();
        let record = vec![0; 64 << 10];
        let mut rooms = Vec::new();
        let mut look = || {
            let filling = queue.open();
            rooms.push(queue.room(&filling));
            queue.put(filling);
        };
        look();
        while queue.offer(&record) {
            look();
        }
        assert!(!queue.offer(b"x"));
        assert!(queue.is_full());
        let bytes = queue.bytes.load(Ordering::Relaxed);
        assert!((ALL_MAX..ALL_MAX + record.len() + 4).contains(&bytes), "{bytes}");
        while !queue.is_empty() {
            queue.written(queue.take().unwrap());
            look();
        }
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
        rooms.dedup();
        use Capacity::{Headers, None, Whole};
        assert_eq!(rooms, [Whole, Headers, None, Headers, Whole]);
    }

    /// Waits until this process's thread sleeps.
    fn await_sleep(thread: &str) {
        let stat = format!("/proc/self/task/{thread}/stat");
        while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_batch_that_was_opened_for_nothing_wakes_the_writer() {
        let queue = Arc::new(Queue::default());
        assert!(queue.offer(b"one"));
        let filling = queue.open();
        let (tell, told) = std::sync::mpsc::channel();
        let writer = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                tell.send(nix::unistd::gettid().to_string()).unwrap();
                let batch = queue.take().unwrap();
                tell.send(format!("{:?}", records(&batch))).unwrap();
            })
        };
        await_sleep(&told.recv().unwrap());
        queue.put(filling);
        let batch = told.recv_timeout(Duration::from_secs(10));
        queue.end();
        writer.join().unwrap();
        assert_eq!(batch.as_deref(), Ok("[b\"one\"]"));
    }

    #[test]
    fn records_of_one_thread_stay_in_order_beside_another() {
        const RECORDS: u32 = 20_000;
        let queue = Arc::new(Queue::default());
        let of = |from: u8| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                for n in 0..RECORDS {
                    let mut record = vec![from];
                    record.extend(n.to_ne_bytes());
                    if from == 0 {
                        let mut filling = queue.open();
                        filling.add((&record, &[]));
                        queue.put(filling);
                    } else {
                        queue.put_record(&record);
                    }
                }
            })
        };
        let writers = [of(0), of(1)];
        let mut next = [0; 2];
        while next != [RECORDS; 2] {
            let batch = queue.take().unwrap();
            for record in records(&batch) {
                let n = &mut next[usize::from(record[0])];
                assert_eq!(record[1..], n.to_ne_bytes());
                *n += 1;
            }
            queue.written(batch);
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    }

    #[test]
    fn the_end_is_told_though_a_batch_never_came_back() {
        let queue = Queue::default();
        assert!(queue.offer(b"one"));
        drop(queue.open());
        assert!(queue.offer(b"end"));
        queue.end();
        assert_eq!(records(&queue.take().unwrap()), ["end"]);
    }

    #[test]
    fn nobody_waits_for_a_writer_that_gave_up() {
        let queue = Queue::default();
        let record = vec![0; 1 << 20];
        while queue.offer(&record) {}
        queue.give_up();
        for _ in 0..100 {
            queue.put_record(&record);
        }
        assert!(!queue.is_full());
    }
}
