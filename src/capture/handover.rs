//! What is handed over to the writer, bounded in bytes, so that a slow disk costs memory, then
//! payload, and only then makes the ring fill up. See [`Room`].

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
/// From here on, in bytes, data records are handed over without payload.
const WHOLE_MAX: usize = 16 << 20;
/// Until so much is left again: a few long holes are better than many short ones.
const WHOLE_AGAIN: usize = WHOLE_MAX / 2;
/// From here on nothing is handed over, and records stay in the ring.
const ALL_MAX: usize = 24 << 20;
/// Empty batches that are kept to be used again.
const SPARE: usize = 4;

/// What there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Whole records.
    Whole,
    /// Records without payload.
    Headers,
    /// Nothing.
    None,
}

/// Goes from whoever has records to the writer.
#[derive(Debug, Default)]
pub(super) struct Handover {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    /// Bytes that are handed over and not written yet.
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<BytesMut>,
    spare: Vec<BytesMut>,
    ended: bool,
    abandoned: bool,
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

impl Handover {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left a queue that is whole.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What there is room for beside `filling`. `before`: what the last answer was.
    pub(super) fn room(&self, filling: &Filling, before: Room) -> Room {
        let bytes = self.bytes.load(Ordering::Relaxed) + filling.new_bytes();
        let whole = if before == Room::Whole { WHOLE_MAX } else { WHOLE_AGAIN };
        match bytes {
            n if n < whole => Room::Whole,
            n if n < ALL_MAX => Room::Headers,
            _ => Room::None,
        }
    }

    /// A batch to fill: the last, if it is not full and the writer has not taken it.
    pub(super) fn open(&self) -> Filling {
        let mut state = self.state();
        if state.queue.back().is_some_and(|batch| batch.len() < BATCH)
            && let Some(batch) = state.queue.pop_back()
        {
            return Filling { counted: batch.len(), batch };
        }
        let batch = state.spare.pop().unwrap_or_else(|| BytesMut::with_capacity(BATCH_ROOM));
        Filling { batch, counted: 0 }
    }

    /// Hands over.
    pub(super) fn put(&self, filling: Filling) {
        let mut state = self.state();
        if filling.batch.is_empty() {
            state.spare.push(filling.batch);
            return;
        }
        if state.abandoned {
            return;
        }
        self.bytes.fetch_add(filling.new_bytes(), Ordering::Relaxed);
        let new = filling.new_bytes() > 0;
        state.queue.push_back(filling.batch);
        if new || state.ended {
            self.filled.notify_one();
        }
    }

    /// Hands one record over if there is room; says whether.
    pub(super) fn offer(&self, record: &[u8]) -> bool {
        let mut filling = self.open();
        let fits = self.room(&filling, Room::Headers) != Room::None;
        if fits {
            filling.add((record, &[]));
        }
        self.put(filling);
        fits
    }

    /// Hands one record over, and waits until there is room.
    pub(super) fn put_record(&self, record: &[u8]) {
        while !self.offer(record) {
            self.wait_for_room(Duration::MAX);
        }
    }

    /// Whether the writer is so far behind that payload is given up, or was not long ago.
    pub(super) fn is_behind(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= WHOLE_AGAIN
    }

    /// Waits until there is room for something, but not longer than `patience`.
    pub(super) fn wait_for_room(&self, patience: Duration) {
        let full = |_: &mut State| self.bytes.load(Ordering::Relaxed) >= ALL_MAX;
        drop(self.drained.wait_timeout_while(self.state(), patience, full));
    }

    /// Nothing more is handed over.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.filled.notify_all();
    }

    /// The next batch; waits for it. `None`: that was all.
    pub(super) fn take(&self) -> Option<Bytes> {
        let waiting = |state: &mut State| state.queue.is_empty() && !state.ended;
        let mut state = self.filled.wait_while(self.state(), waiting).unwrap_or_else(|e| e.into_inner());
        state.queue.pop_front().map(BytesMut::freeze)
    }

    /// Whether the writer has taken all there is.
    pub(super) fn is_empty(&self) -> bool {
        self.state().queue.is_empty()
    }

    /// A batch that was taken is written.
    pub(super) fn written(&self, batch: Bytes) {
        let mut state = self.state();
        self.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        if state.spare.len() < SPARE
            && let Ok(mut batch) = batch.try_into_mut()
        {
            batch.clear();
            state.spare.push(batch);
        }
        self.drained.notify_all();
    }

    /// The writer has given up: what is handed over is thrown away, now and later.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.queue.clear();
        self.bytes.store(0, Ordering::Relaxed);
        self.drained.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::recording::Player;

    fn records(batch: &Bytes) -> Vec<Bytes> {
        let mut player = Player::batch(batch.clone());
        std::iter::from_fn(|| player.next_record().unwrap()).collect()
    }

    #[test]
    fn small_pieces_come_together_in_one_batch_until_it_is_taken() {
        let handover = Handover::default();
        for record in [b"one", b"two"] {
            assert!(handover.offer(record));
        }
        let mut filling = handover.open();
        filling.add((b"th", b"ree"));
        assert!(handover.is_empty(), "its batch is the one that is being filled");
        handover.put(filling);
        let batch = handover.take().unwrap();
        assert_eq!(records(&batch), ["one", "two", "three"]);
        assert!(handover.offer(b"four"));
        assert_eq!(handover.bytes.load(Ordering::Relaxed), batch.len() + 8);
        handover.written(batch);
        handover.end();
        assert_eq!(records(&handover.take().unwrap()), ["four"]);
        assert_eq!(handover.take(), None);
    }

    #[test]
    fn first_payload_is_given_up_then_nothing_is_taken_and_all_comes_back() {
        let handover = Handover::default();
        let record = vec![0; 64 << 10];
        let mut rooms = vec![Room::Whole];
        loop {
            let mut filling = handover.open();
            let room = handover.room(&filling, rooms[rooms.len() - 1]);
            if rooms[rooms.len() - 1] != room {
                rooms.push(room);
            }
            if room == Room::None {
                handover.put(filling);
                break;
            }
            filling.add((&record, &[]));
            handover.put(filling);
        }
        assert_eq!(rooms, [Room::Whole, Room::Headers, Room::None]);
        let bytes = handover.bytes.load(Ordering::Relaxed);
        assert!((ALL_MAX..ALL_MAX + BATCH_ROOM).contains(&bytes), "{bytes}");
        assert!(!handover.offer(b"x"));
        let mut left = Vec::new();
        for before in [Room::Headers, Room::Whole] {
            while let Some(batch) = (!handover.is_empty()).then(|| handover.take().unwrap()) {
                handover.written(batch);
                left.push(handover.bytes.load(Ordering::Relaxed));
                if handover.room(&handover.open(), before) == Room::Whole {
                    break;
                }
            }
        }
        assert!(left.iter().any(|n| (WHOLE_AGAIN..WHOLE_MAX).contains(n)), "hysteresis");
        assert!(left[left.len() - 2] < WHOLE_AGAIN);
    }

    #[test]
    fn nobody_waits_for_a_writer_that_gave_up() {
        let handover = Handover::default();
        let record = vec![0; 1 << 20];
        while handover.offer(&record) {}
        handover.abandon();
        for _ in 0..100 {
            handover.put_record(&record);
        }
        assert!(!handover.is_behind());
    }
}
