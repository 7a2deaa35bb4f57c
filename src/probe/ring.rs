//! Reads the ring: gathers records in batches that share one buffer, and picks out what the
//! control thread must know at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::event::record::{RawData, RawHead};
use crate::event::{Event, FileSeen, NoSocket, ProcessKey, record};

/// A batch is handed on when it has this many bytes, or when the ring is empty.
const BATCH_BYTES: usize = 1 << 20;

/// What the control thread must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A file is mapped that was not looked at yet.
    File(FileSeen),
    /// A process encrypts into memory: probe its BIO functions.
    NoSocket(NoSocket),
    /// A process carries TLS: ask /proc about it.
    Process(ProcessKey),
    /// A process has ended.
    Exit(ProcessKey),
}

/// A reader of the ring. Lives in one thread.
pub struct Ring {
    map: MapHandle,
}

/// Gathers records.
struct Batch {
    buffer: BytesMut,
    ends: Vec<usize>,
    notices: Vec<Notice>,
}

impl Ring {
    pub(super) fn new(map: MapHandle) -> Result<Ring, libbpf_rs::Error> {
        Ok(Ring { map })
    }

    /// Reads until `more` says no; hands batches of records to `batch` and notices to `notice`.
    /// Between reads it calls `more` at least every `interval`, with whether the ring was empty.
    ///
    /// # Errors
    /// If the ring cannot be mapped.
    pub fn run(
        self,
        interval: Duration,
        mut batch: impl FnMut(Vec<Bytes>),
        mut notice: impl FnMut(Notice),
        mut more: impl FnMut(bool) -> bool,
    ) -> Result<(), libbpf_rs::Error> {
        let state = Rc::new(RefCell::new(Batch {
            buffer: BytesMut::with_capacity(BATCH_BYTES),
            ends: Vec::new(),
            notices: Vec::new(),
        }));
        let filling = Rc::clone(&state);
        let mut builder = RingBufferBuilder::new();
        builder.add(&self.map, move |record| filling.borrow_mut().push(record))?;
        let ring: RingBuffer<'_> = builder.build()?;
        loop {
            ring.consume_raw();
            let records = {
                let mut state = state.borrow_mut();
                state.notices.drain(..).for_each(&mut notice);
                state.take()
            };
            let idle = records.is_empty();
            if !idle {
                batch(records);
            }
            // Also when the ring never runs empty.
            if !more(idle) {
                return Ok(());
            }
            if idle {
                ring_wait(&ring, interval);
            }
        }
    }
}

/// What a callback returns to end the read early, because the batch is full: any negative number.
const FULL: i32 = -1;

/// Waits until the kernel wakes us or the interval is over, without reading.
fn ring_wait(ring: &RingBuffer<'_>, interval: Duration) {
    let mut poll = libc::pollfd { fd: ring.epoll_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd. An error or a signal ends the wait early, which is harmless.
    unsafe { libc::poll(&mut poll, 1, interval.as_millis() as i32) };
}

impl Batch {
    fn push(&mut self, record: &[u8]) -> i32 {
        let record = &record[..used(record)];
        self.buffer.extend_from_slice(record);
        self.ends.push(self.buffer.len());
        if !is_data(record) {
            self.notices.extend(notice_of(record));
        }
        if self.buffer.len() >= BATCH_BYTES { FULL } else { 0 }
    }

    fn take(&mut self) -> Vec<Bytes> {
        if self.ends.is_empty() {
            return Vec::new();
        }
        let all = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(BATCH_BYTES)).freeze();
        let mut from = 0;
        self.ends.drain(..).map(|end| all.slice(std::mem::replace(&mut from, end)..end)).collect()
    }
}

fn is_data(record: &[u8]) -> bool {
    record.first_chunk().is_some_and(|kind| u16::from_ne_bytes(*kind) == record::DATA)
}

/// How much of a record means something: before exact-size records the rest is unused room.
fn used(record: &[u8]) -> usize {
    const CAPTURED: usize = std::mem::offset_of!(RawData, captured);
    if !is_data(record) {
        return record.len();
    }
    let captured = record.get(CAPTURED..).and_then(|r| r.first_chunk()).map_or(0, |c| u32::from_ne_bytes(*c));
    record.len().min(size_of::<RawData>() + captured as usize)
}

fn notice_of(record: &[u8]) -> Option<Notice> {
    const { assert!(size_of::<RawHead>() == 24) };
    match record::decode(&Bytes::copy_from_slice(record)).ok()? {
        Event::File(file) => Some(Notice::File(file)),
        Event::NoSocket(process) => Some(Notice::NoSocket(process)),
        Event::Process(process) => Some(Notice::Process(process.key)),
        Event::Exit(key, _) => Some(Notice::Exit(key)),
        _ => None,
    }
}
