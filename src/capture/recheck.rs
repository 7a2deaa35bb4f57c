//! Files that were inspected without result: the process that mapped them had exited, or no longer had them
//! mapped.
//!
//! Such an inspection reveals nothing about the file, so it must be repeated when the file is mapped again. But
//! a program that maps and unmaps one in a loop must not keep the capture busy: after some inspections the file
//! rests.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::event::FileSeen;

/// Consecutive inspections without result after which a file rests.
const LOOKS: u32 = 8;
/// For so long. Who maps it in this time and keeps it mapped is not captured, which is counted.
const REST: Duration = Duration::from_secs(1);
/// Most files whose inspections are counted; beyond that all counts restart.
const FILES_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Recheck {
    looks: HashMap<(u64, u32), u32>,
    resting: VecDeque<(Instant, FileSeen)>,
}

impl Recheck {
    /// Counts an inspection; whether the file must rest.
    pub(super) fn count(&mut self, file: &FileSeen, now: Instant) -> bool {
        if self.looks.len() >= FILES_MAX {
            self.looks.clear();
        }
        let looks = self.looks.entry((file.inode, file.device)).or_default();
        *looks += 1;
        let rests = *looks >= LOOKS && self.resting.len() < FILES_MAX;
        if rests {
            *looks = 0;
            self.resting.push_back((now, *file));
        }
        rests
    }

    /// A file that has rested, to be inspected again.
    pub(super) fn next_rested(&mut self, now: Instant) -> Option<FileSeen> {
        let (since, _) = self.resting.front()?;
        (now.saturating_duration_since(*since) >= REST)
            .then(|| self.resting.pop_front())?
            .map(|(_, file)| file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_rests_after_some_looks_and_is_looked_at_again() {
        let file = |inode| FileSeen { pid: 1, tid: 1, time: 0, device: 3, inode, stopped: false };
        let (mut recheck, now) = (Recheck::default(), Instant::now());
        for _ in 0..2 {
            assert!((1..LOOKS).all(|_| !recheck.count(&file(1), now) && !recheck.count(&file(2), now)));
            assert!(recheck.count(&file(1), now));
            assert_eq!(recheck.next_rested(now + REST / 2), None);
            assert_eq!(recheck.next_rested(now + REST), Some(file(1)));
            assert_eq!(recheck.next_rested(now + REST), None);
            assert!(recheck.count(&file(2), now));
            assert_eq!(recheck.next_rested(now + REST), Some(file(2)));
        }
    }

    #[test]
    fn there_are_bounds() {
        let (mut recheck, now) = (Recheck::default(), Instant::now());
        for inode in 0..4 * FILES_MAX as u64 {
            for _ in 0..LOOKS {
                recheck.count(&FileSeen { pid: 1, tid: 1, time: 0, device: 3, inode, stopped: false }, now);
            }
        }
        assert!(recheck.looks.len() <= FILES_MAX && recheck.resting.len() <= FILES_MAX);
    }
}
