//! A foreign file as its parsers see it: they get so many bytes of it, for so long, and then nothing more.
//!
//! Whoever wrote the file may have meant it to be expensive: tables of zeros that take no room on disk, millions of
//! symbols that share one long name. Each parser has limits of its own, but only this one holds for all of them
//! together, whatever they do.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use object::{ReadCache, ReadCacheOps, ReadRef};

/// Most bytes that are read of one file, at the same time the most memory that it takes.
pub(super) const BYTES_MAX: u64 = 512 << 20;
/// How many times the bytes that a file takes on disk may be read. Compressed file systems store less than they show,
/// and parts of a file are read again as parts of others.
const TIMES_STORED: u64 = 8;
/// What may be read in any case.
const BYTES_MIN: u64 = 16 << 20;
/// Time on a processor that the parsers of one file may take. The largest browsers take two to three seconds.
pub(super) const TIME_MAX: Duration = Duration::from_secs(10);

/// Reads between two looks at the clock, which is a system call.
const READS_AT_ONCE: u32 = 64;

/// The end of the time that a file may take, in processor time of the thread that asks: it is the same on a busy
/// machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Duration);

impl Deadline {
    /// [`TIME_MAX`] from now.
    pub(super) fn start() -> Deadline {
        Deadline::after(TIME_MAX)
    }

    /// So much time from now.
    pub(super) fn after(time: Duration) -> Deadline {
        Deadline(busy() + time)
    }

    /// Whether the time is over.
    pub(super) fn is_over(self) -> bool {
        busy() >= self.0
    }
}

/// How long this thread has run.
fn busy() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

/// Bytes of a file, read on demand and kept.
#[derive(Debug)]
pub(super) struct Bounded<S: ReadCacheOps> {
    bytes: ReadCache<S>,
    /// Which pieces were admitted, so that they count once.
    pieces: RefCell<HashSet<(u64, u64)>>,
    left: Cell<u64>,
    deadline: Deadline,
    refused: Cell<bool>,
    reads: Cell<u32>,
    /// The deadline was over.
    over: Cell<bool>,
}

impl<'f> Bounded<&'f File> {
    /// A file, by the deadline. What is sparse in it is not worth reading.
    pub(super) fn file(file: &'f File, deadline: Deadline) -> Self {
        let stored = file.metadata().map_or(0, |m| match m.blocks() {
            // Not every file system counts them.
            0 => m.len(),
            blocks => blocks.saturating_mul(512),
        });
        let most = stored.saturating_mul(TIMES_STORED).clamp(BYTES_MIN, BYTES_MAX);
        Bounded::new(file, most, deadline)
    }
}

impl<S: ReadCacheOps> Bounded<S> {
    /// At most so many bytes of a source.
    pub(super) fn new(source: S, most: u64, deadline: Deadline) -> Self {
        Bounded {
            bytes: ReadCache::new(source),
            pieces: RefCell::default(),
            left: Cell::new(most),
            deadline,
            refused: Cell::new(false),
            reads: Cell::new(0),
            over: Cell::new(false),
        }
    }

    /// Whether a piece was refused for its size, so that something may not have been found.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.get()
    }

    fn admit(&self, offset: u64, size: u64) -> Result<(), ()> {
        let reads = self.reads.replace(self.reads.get().wrapping_add(1));
        if reads.is_multiple_of(READS_AT_ONCE) && self.deadline.is_over() {
            self.over.set(true);
        }
        if self.over.get() {
            return Err(());
        }
        if self.pieces.borrow().contains(&(offset, size)) {
            return Ok(());
        }
        let Some(left) = self.left.get().checked_sub(size) else {
            self.refused.set(true);
            return Err(());
        };
        self.left.set(left);
        self.pieces.borrow_mut().insert((offset, size));
        Ok(())
    }
}

impl<'d, S: ReadCacheOps> ReadRef<'d> for &'d Bounded<S> {
    fn len(self) -> Result<u64, ()> {
        (&self.bytes).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'d [u8], ()> {
        // What lies beyond the end is not there, whatever its size.
        if offset.checked_add(size).is_none_or(|end| self.len().is_ok_and(|len| end > len)) {
            return Err(());
        }
        self.admit(offset, size)?;
        (&self.bytes).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'d [u8], ()> {
        self.admit(range.start, 1)?;
        (&self.bytes).read_bytes_at_until(range, delimiter)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    #[test]
    fn bytes_count_once_and_too_many_are_refused() {
        let bounded = Bounded::new(Cursor::new(vec![7; 100]), 50, Deadline::start());
        for _ in 0..3 {
            assert_eq!((&bounded).read_bytes_at(10, 40), Ok(&[7; 40][..]));
        }
        assert_eq!((&bounded).read_bytes_at(90, 20), Err(()));
        assert!(!bounded.has_refused());
        assert_eq!((&bounded).read_bytes_at(0, 11), Err(()));
        assert!(bounded.has_refused());
        assert_eq!((&bounded).read_bytes_at(0, 10), Ok(&[7; 10][..]));
        assert_eq!((&bounded).read_bytes_at(50, 1), Err(()));
    }

    #[test]
    fn time_runs_out() {
        let over = Deadline(Duration::ZERO);
        assert_eq!((&Bounded::new(Cursor::new(vec![7; 100]), 50, over)).read_bytes_at(0, 1), Err(()));
    }

    #[test]
    fn what_is_sparse_is_not_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        file.set_len(1 << 30).unwrap();
        let bounded = Bounded::file(&file, Deadline::start());
        assert_eq!((&bounded).read_bytes_at(0, BYTES_MIN + 1), Err(()));
        assert!(bounded.has_refused());
    }
}
