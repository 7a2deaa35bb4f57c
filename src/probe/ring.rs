//! Reads the rings: the one with the records, and the one with what user space must act on.
//!
//! Not by libbpf, which returns a record to the kernel as soon as it was seen: here one can inspect records
//! that are left where they are. Also the data is mapped once, not twice, which halves the memory that is
//! charged to us. The kernel's guarantees are in its `Documentation/bpf/ringbuf.rst`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::memory::page_size;

/// The kernel still writes into this record, or it has given it up.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Length and flags, and something of the kernel's own.
const HEADER: usize = 8;
/// Records are given back to the kernel when there are so many bytes of them, or a quarter of the ring.
const GIVE_BACK: usize = 256 << 10;

/// Both rings. Lives in one thread.
pub struct Rings {
    /// All that is captured.
    pub records: Ring,
    /// What user space must act on. Each record is followed by its place among the others: see
    /// [`Record::split_place`].
    pub notices: Ring,
    waker: Epoll,
}

impl Rings {
    /// `records` and `notices`: the maps, and the size of each in bytes of records.
    pub(super) fn new(
        records: (BorrowedFd<'_>, usize),
        notices: (BorrowedFd<'_>, usize),
    ) -> io::Result<Rings> {
        // By edge: what counts is that the kernel woke us, not that there is something to read.
        let waker = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (map, _) in [records, notices] {
            waker.add(map, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        }
        Ok(Rings {
            records: Ring::new(records.0, records.1)?,
            notices: Ring::new(notices.0, notices.1)?,
            waker,
        })
    }

    /// Waits until the kernel wakes us or the interval is over.
    pub fn wait(&self, interval: Duration) {
        let interval = EpollTimeout::try_from(interval).unwrap_or(EpollTimeout::ZERO);
        // A signal ends the wait early, which is harmless.
        let _ = self.waker.wait(&mut [EpollEvent::empty()], interval);
    }
}

/// Which of two positions comes first.
pub fn is_before(position: usize, other: usize) -> bool {
    (position.wrapping_sub(other) as isize) < 0
}

/// A reader of one ring.
pub struct Ring {
    /// The page with the reader's position, which we write.
    reader: MmapRaw,
    /// The page with the kernel's position, and the data.
    kernel: MmapRaw,
    page: usize,
    size: usize,
    /// Where the next record to take begins. Positions count up for ever.
    next: usize,
    /// Position up to which records were inspected.
    seen: usize,
    /// Up to where they were given back.
    given_back: usize,
}

/// A record in the ring.
pub struct Record<'a> {
    /// Its first bytes, and, where the ring's end cuts it, those that follow.
    parts: (&'a [u8], &'a [u8]),
    /// It was not inspected before.
    pub new: bool,
    /// Bytes in the ring from this record on.
    pub waiting: usize,
    /// Its position. Positions never wrap.
    pub at: usize,
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is used up.
    Taken,
    /// It is used up, and the next is left for later.
    Last,
    /// It stays, and so does all that follows.
    Left,
}

impl Record<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.parts.0.len() + self.parts.1.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies its first bytes to `to`, as many as fit, and returns their number.
    pub fn copy(&self, to: &mut [u8]) -> usize {
        let (first, second) = self.first(to.len());
        to[..first.len()].copy_from_slice(first);
        to[first.len()..first.len() + second.len()].copy_from_slice(second);
        first.len() + second.len()
    }

    /// A record of the ring of notices: its bytes, and its position in the other ring. `None`: it is shorter
    /// than a position.
    pub fn split_place(&self) -> Option<(Vec<u8>, usize)> {
        let (first, second) = self.parts;
        let mut bytes = [first, second].concat();
        let place = u64::from_ne_bytes(*bytes.last_chunk()?);
        bytes.truncate(bytes.len() - size_of::<u64>());
        Some((bytes, place as usize))
    }

    /// Its first `n` bytes, or all: in one piece, or in two.
    pub fn first(&self, n: usize) -> (&[u8], &[u8]) {
        let (first, second) = self.parts;
        let split = n.min(first.len());
        (&first[..split], &second[..(n - split).min(second.len())])
    }
}

impl Ring {
    /// A reader of the ring `map`, which holds `size` bytes of records.
    pub(super) fn new(map: BorrowedFd<'_>, size: usize) -> io::Result<Ring> {
        let page = page_size();
        let reader = MmapOptions::new().len(page).map_raw(map.as_raw_fd())?;
        let kernel =
            MmapOptions::new().offset(page as u64).len(page + size).map_raw_read_only(map.as_raw_fd())?;
        let mut ring = Ring { reader, kernel, page, size, next: 0, seen: 0, given_back: 0 };
        ring.next = ring.position().load(Ordering::Acquire);
        (ring.seen, ring.given_back) = (ring.next, ring.next);
        Ok(ring)
    }

    /// Room for records, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where the next record to take begins. Positions count up for ever.
    pub fn taken(&self) -> usize {
        self.next
    }

    /// Up to where the kernel has written.
    pub fn written(&self) -> usize {
        self.end().load(Ordering::Acquire)
    }

    /// Gives the records that are there before the position `until` to `use_record`, in order, until it leaves some.
    pub fn take(&mut self, until: usize, mut use_record: impl FnMut(&Record<'_>) -> Disposition) {
        let often = GIVE_BACK.min(self.size / 4);
        while is_before(self.next, until)
            && let Some((record, end)) = self.record_at(self.next)
        {
            let verdict = record.map_or(Disposition::Taken, |record| use_record(&record));
            if verdict == Disposition::Left {
                break;
            }
            self.next = end;
            if is_before(self.seen, end) {
                self.seen = end;
            }
            if self.next.wrapping_sub(self.given_back) >= often {
                self.give_back();
            }
            if verdict == Disposition::Last {
                break;
            }
        }
        self.give_back();
    }

    /// Shows `look` the available records that are not taken and were not inspected before.
    pub fn look_ahead(&mut self, mut look: impl FnMut(&Record<'_>)) {
        while let Some((record, end)) = self.record_at(self.seen) {
            if let Some(record) = record {
                look(&record);
            }
            self.seen = end;
        }
    }

    /// Whether all records before a position were inspected.
    pub fn has_seen(&self, until: usize) -> bool {
        !is_before(self.seen, until)
    }

    fn give_back(&mut self) {
        if self.given_back != self.next {
            self.given_back = self.next;
            self.position().store(self.next, Ordering::Release);
        }
    }

    /// The record at a position, unless it was discarded, and the position of the next; `None` if there is none
    /// yet.
    fn record_at(&self, at: usize) -> Option<(Option<Record<'_>>, usize)> {
        let waiting = self.end().load(Ordering::Acquire).wrapping_sub(at);
        if waiting == 0 {
            return None;
        }
        let length = self.length_at(at).load(Ordering::Acquire);
        if length & BUSY != 0 {
            return None;
        }
        let len = (length & !(BUSY | DISCARDED)) as usize;
        let end = at.wrapping_add((HEADER + len).next_multiple_of(8));
        let record = (length & DISCARDED == 0).then(|| Record {
            parts: self.bytes(at.wrapping_add(HEADER), len),
            new: !is_before(at, self.seen),
            waiting,
            at,
        });
        Some((record, end))
    }

    fn position(&self) -> &AtomicUsize {
        // SAFETY: a page of ours that the kernel reads; it begins with the position, an unsigned long.
        unsafe { &*self.reader.as_ptr().cast::<AtomicUsize>() }
    }

    fn end(&self) -> &AtomicUsize {
        // SAFETY: a page that the kernel writes; it begins with its position, an unsigned long.
        unsafe { &*self.kernel.as_ptr().cast::<AtomicUsize>() }
    }

    fn length_at(&self, at: usize) -> &AtomicU32 {
        let offset = self.page + (at & (self.size - 1));
        debug_assert!(offset.is_multiple_of(HEADER));
        // SAFETY: positions are multiples of 8 and the size is a power of two, so the four bytes lie
        // within the mapping and are aligned.
        unsafe { &*self.kernel.as_ptr().add(offset).cast::<AtomicU32>() }
    }

    /// The kernel writes nothing here until the record is given back, which needs `&mut self`.
    fn bytes(&self, at: usize, len: usize) -> (&[u8], &[u8]) {
        let len = len.min(self.size);
        let from = at & (self.size - 1);
        let first = len.min(self.size - from);
        let data = self.kernel.as_ptr().wrapping_add(self.page);
        // SAFETY: both parts lie in the data, which is `size` bytes long; they are not written to while
        // they are borrowed, as said above.
        unsafe {
            (
                std::slice::from_raw_parts(data.wrapping_add(from), first),
                std::slice::from_raw_parts(data, len - first),
            )
        }
    }
}

/// A ring in a file, written to as the kernel does it.
#[cfg(test)]
pub mod ring_of_file {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    /// The kernel's side of it.
    pub struct Kernel {
        map: MmapRaw,
        page: usize,
        size: usize,
    }

    /// A ring of so many bytes, of a power of two of pages.
    fn ring(size: usize) -> (Ring, Kernel) {
        let page = page_size();
        let file: File = tempfile::tempfile().unwrap();
        file.set_len((2 * page + size) as u64).unwrap();
        let map = MmapOptions::new().len(2 * page + size).map_raw(&file).unwrap();
        (Ring::new(file.as_fd(), size).unwrap(), Kernel { map, page, size })
    }

    /// Both rings, which nothing wakes.
    pub fn rings(records: usize, notices: usize) -> (Rings, Kernel, Kernel) {
        let waker = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let ((records, first), (notices, second)) = (ring(records), ring(notices));
        (Rings { records, notices, waker }, first, second)
    }

    impl Kernel {
        fn at(&self, offset: usize) -> *mut u8 {
            self.map.as_mut_ptr().wrapping_add(offset)
        }

        fn position(&self, page: usize) -> &AtomicUsize {
            // SAFETY: within the mapping and aligned.
            unsafe { &*self.at(page * self.page).cast::<AtomicUsize>() }
        }

        fn length(&self, at: usize) -> &AtomicU32 {
            // SAFETY: within the mapping and aligned, as the positions are.
            unsafe { &*self.at(2 * self.page + (at & (self.size - 1))).cast::<AtomicU32>() }
        }

        /// Up to where it has written.
        pub fn written(&self) -> usize {
            self.position(1).load(Ordering::Acquire)
        }

        /// Room for a record; `None` if the ring is full.
        pub fn reserve(&self, len: usize) -> Option<usize> {
            let at = self.written();
            let end = at.wrapping_add((HEADER + len).next_multiple_of(8));
            if end.wrapping_sub(self.position(0).load(Ordering::Acquire)) > self.size - 1 {
                return None;
            }
            self.length(at).store(len as u32 | BUSY, Ordering::Relaxed);
            self.position(1).store(end, Ordering::Release);
            Some(at)
        }

        /// Fills it.
        pub fn submit(&self, at: usize, record: &[u8]) {
            assert_eq!(self.length(at).load(Ordering::Relaxed), record.len() as u32 | BUSY);
            for (index, byte) in record.iter().enumerate() {
                let offset = at.wrapping_add(HEADER + index) & (self.size - 1);
                // SAFETY: within the mapping; nothing reads it while the record is busy.
                unsafe { self.at(2 * self.page + offset).write(*byte) };
            }
            self.length(at).store(record.len() as u32, Ordering::Release);
        }

        /// Writes a record; whether it fitted.
        pub fn put(&self, record: &[u8]) -> bool {
            self.reserve(record.len()).inspect(|at| self.submit(*at, record)).is_some()
        }
    }
}
