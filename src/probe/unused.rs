//! Files that all processes have probes in and that are no longer used. Nothing reports the end of the last
//! user, so /proc is checked: see `capture/unused.rs`.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use super::attach::Leaving;
use super::load::own_pid_namespace;
use super::parts::Holding;
use super::{FileId, Probe};
use crate::discover::Found;
use crate::discover::maps::Mapped;
use crate::event::FileSeen;

/// How files with probes appear to other processes, by file.
pub(super) type Users = HashMap<FileId, SeenAs>;

/// How a file appears to other processes, and which one had it mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenAs {
    /// To the kernel side. On overlayfs it is another device than in /proc.
    device: u32,
    inode: u64,
    /// In /proc/PID/maps.
    mapped: Mapped,
    pid: u32,
}

/// A file that may be unused.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which one.
    pub id: FileId,
    /// The file itself.
    pub file: Arc<File>,
    /// How it appears in /proc/PID/maps.
    pub mapped: Mapped,
    /// The process that had it mapped at the last check.
    pub pid: u32,
}

impl Probe {
    /// A process has mapped a file that is probed.
    pub fn note_user(&mut self, found: &Found, file: &FileSeen) {
        if let (false, Some(mapped)) = (self.by_process, found.mapped) {
            let seen = SeenAs { device: file.device, inode: file.inode, mapped, pid: file.pid };
            self.users.insert(found.key.id(), seen);
        }
    }

    /// A process was found that has mapped the file.
    pub fn note_other_user(&mut self, id: FileId, pid: u32) {
        if let Some(seen) = self.users.get_mut(&id) {
            seen.pid = pid;
        }
    }

    /// Files that all processes have probes in and that a process had mapped once. Empty where /proc does not show every
    /// process of this host.
    pub fn candidates(&self) -> Vec<Candidate> {
        if self.by_process || own_pid_namespace() != 0 {
            return Vec::new();
        }
        let candidate = |holding: &Holding| {
            let id = holding.file();
            let SeenAs { mapped, pid, .. } = *self.users.get(&id)?;
            Some(Candidate { id, file: Arc::clone(holding.found().file()), mapped, pid })
        };
        self.desired.holdings.iter().filter_map(candidate).collect()
    }

    /// From now on the kernel side reports processes that map one of these files.
    pub fn watch_users(&self, files: &[Candidate]) {
        for seen in files.iter().filter_map(|file| self.users.get(&file.id)) {
            self.forget_file(seen.inode, seen.device);
        }
    }

    /// Removes the probes of a file that no process has mapped, unless one has since [`Probe::watch_users`].
    pub fn let_file_go(&mut self, id: FileId) {
        let is_told = self.users.get(&id).is_none_or(|seen| self.is_told(seen.inode, seen.device));
        if !is_told {
            self.users.remove(&id);
            self.desired.leave(|holding| holding.file() == id);
            self.bring_about(Leaving::Unwatched);
        }
    }
}
