//! Who has probes: which libraries should be probed in which processes now, and what has to go.
//!
//! A library is probed in all processes, or in each target that has mapped it. It loses its probes there when the
//! process ends or calls exec, and everywhere when its file is opened for writing.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use libbpf_rs::Link;

use super::sites::Role;
use super::{Attached, FileId, Probe, Unfollowed, detach};
use crate::discover::Found;
use crate::event::{Library, LibraryId};

/// Probes that are being taken away, and the files that they are in.
pub(super) struct Going {
    files: Vec<FileId>,
    thread: JoinHandle<()>,
}

impl Probe {
    /// The libraries of a file, if it is new. To be told before [`Probe::attach`], during which their first records
    /// may come.
    pub fn new_libraries(&self, found: &Found) -> Vec<Library> {
        if self.libraries.contains_key(&found.key) {
            return Vec::new();
        }
        let id = self.last_id + 1;
        let path = found.path.to_string_lossy().into_owned();
        let own = Library { id, path: path.clone(), version: found.version.clone() };
        let beside = found.library.rustls.as_ref().filter(|_| !found.library.is_rustls_alone());
        let beside = beside.map(|rustls| Library { id: id + 1, path, version: rustls.to_string() });
        [Some(own), beside].into_iter().flatten().collect()
    }

    /// The process that is to have probes in a library which `process` has mapped, with its generation. -1: all have
    /// them.
    fn holder(&self, process: Option<u32>) -> Option<(i32, u64)> {
        if !self.by_process {
            return Some((-1, 0));
        }
        let pid = process?;
        Some((pid as i32, self.process(pid)?.generation))
    }

    /// Whether a library is probed already in a process, which is the same program still.
    fn is_held(&self, found: &Found, (pid, generation): (i32, u64)) -> bool {
        let is_it = |a: &Attached| a.found.key == found.key && (a.pid, a.generation) == (pid, generation);
        self.attached.iter().any(is_it)
    }

    /// Probes a file's libraries, in all processes or in `process`, which must be a target. Returns whether they were not
    /// probed there, and the functions whose calls by coroutines are not followed.
    ///
    /// # Errors
    /// If a probe cannot be attached; those that were are taken away again.
    pub fn attach(
        &mut self,
        found: &Found,
        process: Option<u32>,
    ) -> Result<(bool, Vec<Unfollowed>), libbpf_rs::Error> {
        let former = self.take_away(|a| a.found.key.id() == found.key.id() && a.found.key != found.key);
        // The old breakpoints must not stay in new code.
        detach(former);
        let Some(holder) = self.holder(process).filter(|holder| !self.is_held(found, *holder)) else {
            return Ok((false, Vec::new()));
        };
        let known = self.libraries.get(&found.key).copied();
        if known.is_none() {
            // Where an old probe still stands, the kernel would run the old instruction.
            self.await_gone(|file| file == found.key.id());
        }
        let id = known.unwrap_or(self.last_id + 1);
        if found.library.go.is_some() {
            self.follow_goroutines();
        }
        if found.library.rustls.is_some() {
            self.follow_ciphertext();
        }
        let beside = found.library.rustls.as_ref().filter(|_| !found.library.is_rustls_alone());
        if known.is_none() && beside.is_some() {
            self.beside.insert(id, id + 1);
        }
        let (pid, _) = holder;
        let former = self.take_away(|a| a.found.key == found.key && a.pid == pid);
        self.discard(former, vec![found.key.id()]);
        if known.is_none() && self.has_trials() {
            self.begin_trial(found, id);
        }
        let unfollowed = match self.attach_in(found, id, holder) {
            Ok((attached, unfollowed)) => {
                self.attached.push(attached);
                unfollowed
            }
            Err(error) => {
                self.abandon_probation(found, id, pid);
                if known.is_none() {
                    // The numbers go to the next library.
                    self.beside.remove(&id);
                }
                return Err(error);
            }
        };
        self.leases.take(found.key.id(), found.file());
        if known.is_none() {
            self.libraries.insert(found.key, id);
            self.last_id = self.beside.get(&id).copied().unwrap_or(id);
        }
        Ok((true, unfollowed))
    }

    /// Whether a library is probed for certain processes only.
    pub fn has_holders(&self) -> bool {
        self.by_process
    }

    /// Takes the probes of processes away that have ended or become another program. Nobody waits for that.
    pub fn let_go(&mut self) {
        if !self.by_process {
            return;
        }
        let mut pids: Vec<i32> = self.attached.iter().map(|attached| attached.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let now: Vec<(i32, Option<u64>)> = pids
            .into_iter()
            .map(|pid| (pid, self.process(pid as u32).map(|process| process.generation)))
            .collect();
        let is_over = |attached: &Attached| {
            now.iter().any(|(pid, generation)| {
                *pid == attached.pid && generation.is_none_or(|generation| generation != attached.generation)
            })
        };
        let files = self.files_of(is_over);
        let links = self.take_away(is_over);
        self.discard(links, files);
        self.give_leases_back();
    }

    /// Those of files that have no probes any more.
    fn give_leases_back(&mut self) {
        self.going.retain(|going| !going.thread.is_finished());
        let mut needed = self.files_of(|_| true);
        needed.extend(self.going.iter().flat_map(|going| &going.files));
        needed.extend(self.bios.values().flatten().map(|(id, _)| *id));
        self.leases.keep(|id| needed.contains(&id));
    }

    pub(super) fn files_of(&self, is_it: impl Fn(&Attached) -> bool) -> Vec<FileId> {
        self.attached
            .iter()
            .filter(|attached| is_it(attached))
            .map(|attached| attached.found.key.id())
            .collect()
    }

    /// Until no probe is left that was let go in the files that are waited for.
    pub fn await_gone(&mut self, is_awaited: impl Fn(FileId) -> bool) {
        for Going { thread, .. } in
            self.going.extract_if(.., |going| going.files.iter().any(|id| is_awaited(*id)))
        {
            // It does nothing that can fail.
            let _ = thread.join();
        }
    }

    /// Until no file system is busy because of probes that were let go. The one of the root always is.
    pub fn await_unmountable(&mut self) {
        if !self.going.is_empty() {
            let root = std::fs::metadata("/").map_or(0, |root| root.dev());
            self.await_gone(|(device, _)| device != root);
            self.give_leases_back();
        }
    }

    /// Takes the probes of files away that somebody opens for writing, and waits for now; those files.
    pub fn yield_files(&mut self) -> Vec<PathBuf> {
        let asked = self.leases.asked();
        let mut paths = Vec::new();
        for file in &asked {
            let is_it = |attached: &Attached| attached.found.key.id() == *file;
            let mut ids: Vec<LibraryId> = Vec::new();
            for attached in self.attached.iter().filter(|attached| is_it(attached)) {
                self.forget_found(&attached.found);
                if !ids.contains(&attached.id) {
                    ids.push(attached.id);
                    paths.push(attached.found.path.clone());
                }
            }
            let mut links = self.take_away(is_it);
            links.extend(ids.iter().flat_map(|id| self.forget_stacks_in(*id)).collect::<Vec<_>>());
            for of_process in self.bios.values_mut() {
                links.extend(of_process.extract_if(.., |(id, _)| id == file).map(|(_, link)| link));
            }
            detach(links);
        }
        // What was let go before may be of the same files.
        self.await_gone(|id| asked.contains(&id));
        self.leases.keep(|id| !asked.contains(&id));
        paths
    }

    /// A process that is captured has a child that is not, with breakpoints from its parent.
    pub fn note_heir(&mut self) {
        self.has_heirs = !self.follow;
    }

    /// Takes breakpoints away from those who have inherited them and are no targets.
    pub fn disinherit(&mut self) {
        // A probe that stands alone goes by itself where it is hit in another process.
        if !std::mem::take(&mut self.has_heirs) || !self.programs.in_bulk() {
            return;
        }
        let mut links = Vec::new();
        // When one goes the kernel looks who is to have a breakpoint there. In this process nobody meets it.
        for attached in &self.attached {
            let offsets = self.offsets_of(attached);
            links.extend(self.attach_to_none(attached, &offsets));
        }
        self.discard(links, self.files_of(|_| true));
    }

    /// Takes what is attached out of the tables; its probes go when the links are dropped, those of entries first.
    pub(super) fn take_away(&mut self, is_it: impl Fn(&Attached) -> bool) -> Vec<Link> {
        let mut taken = Vec::new();
        for attached in self.attached.extract_if(.., |attached| is_it(attached)).collect::<Vec<_>>() {
            taken.extend(attached.links.into_iter().map(|(_, role, link)| (role, link)));
            let of_probation = self.leave_probation(attached.id, attached.pid);
            taken.extend(of_probation.into_iter().map(|link| (Role::ReturnProbe, link)));
        }
        taken.sort_by_key(|(role, _)| *role);
        taken.into_iter().map(|(_, link)| link).collect()
    }

    /// Detaches from these files; the kernel takes its time for that.
    pub(super) fn discard(&mut self, links: Vec<Link>, files: Vec<FileId>) {
        if links.is_empty() {
            return;
        }
        self.going.retain(|going| !going.thread.is_finished());
        self.going.push(Going { files, thread: thread::spawn(move || detach(links)) });
    }
}
