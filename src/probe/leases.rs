//! Removes the probes of a file before it is written to.
//!
//! A breakpoint is at an offset of a file. If the file is rewritten in place, the next process that runs it
//! would get the old breakpoints in new code. A read lease (fcntl) makes the kernel request it back when a
//! process opens the file for writing, and that process waits until it is returned, for
//! /proc/sys/fs/lease-break-time at most (45 s). A file that is being executed cannot be opened for writing at
//! all.
//!
//! Some file systems have no leases, and without CAP_LEASE there are none on files of other users.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

pub(super) use crate::discover::FileId;

/// The files of which we know before they are written to.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<FileId, Lease>);

/// A read lease on a file. What asks for it is SIGIO.
#[derive(Debug)]
struct Lease(Arc<File>);

impl Leases {
    /// Takes a lease on a file, unless there is one.
    pub(super) fn take(&mut self, id: FileId, file: &Arc<File>) {
        if self.0.contains_key(&id) {
            return;
        }
        if set(file, libc::F_RDLCK) {
            self.0.insert(id, Lease(Arc::clone(file)));
        }
    }

    /// Those that are asked for.
    pub(super) fn asked(&self) -> Vec<FileId> {
        self.0.iter().filter(|(_, lease)| lease.is_asked_for()).map(|(id, _)| *id).collect()
    }

    /// Gives back all but those that are needed.
    pub(super) fn keep(&mut self, is_needed: impl Fn(FileId) -> bool) {
        self.0.retain(|id, _| is_needed(*id));
    }
}

impl Lease {
    fn is_asked_for(&self) -> bool {
        // SAFETY: a plain system call. It returns what the lease must become.
        let wanted = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) };
        wanted != libc::F_RDLCK
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Else it would last as long as the file is open.
        set(&self.0, libc::F_UNLCK);
    }
}

fn set(file: &File, lease: i32) -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) == 0 }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_writer_waits_until_the_lease_is_given_back() {
        let _sigio = signal_hook::iterator::Signals::new([libc::SIGIO]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library");
        std::fs::write(&path, "old").unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        let mut leases = Leases::default();
        leases.take((1, 2), &file);
        assert_eq!(leases.asked(), []);
        let writing = std::thread::spawn(move || OpenOptions::new().write(true).open(path).unwrap());
        while leases.asked().is_empty() {
            assert!(!writing.is_finished(), "the file system knows no leases");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(leases.asked(), [(1, 2)]);
        leases.keep(|id| id != (1, 2));
        let _writer = writing.join().unwrap();
        // Somebody may write to it now.
        leases.take((1, 2), &file);
        assert!(leases.0.is_empty());
    }
}
