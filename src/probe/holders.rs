//! Which libraries should be probed in which processes now, and what must be removed.
//!
//! A library is probed in all processes, or in each target that has mapped it. It loses its probes there when
//! the process ends or calls exec, and everywhere when its file is opened for writing, or is no longer used
//! (`unused.rs`).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::attach::{Going, Leaving};
use super::blueprint::Blueprint;
use super::parts::{Holder, Holding, Where};
use super::{FileId, Probe, Unfollowed};
use crate::discover::Found;
use crate::event::{Library, LibraryId};

/// What [`Probe::attach`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It has probed a library where it was not probed; the functions whose calls are not followed.
    Fresh(Vec<Unfollowed>),
    /// Nothing: it is probed there already.
    Known,
    /// Nothing: the process has ended.
    Gone,
}

impl Probe {
    /// The libraries of a file, if it is new. To be reported before [`Probe::attach`], during which their first
    /// records may arrive.
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

    /// Who is to have probes in a library which `process` has mapped.
    fn holder(&self, process: Option<u32>) -> Option<Holder> {
        if !self.by_process {
            return Some(Holder::ALL);
        }
        let pid = process?;
        Some(Holder { pid: pid.cast_signed(), generation: self.process(pid)?.generation })
    }

    /// What can be probed of a library. Who has it too shares it.
    pub(super) fn blueprint(&self, found: &Found, id: LibraryId) -> Arc<Blueprint> {
        let new = || Arc::new(Blueprint::new(found, id, self.beside.get(&id).copied(), self.kernel.way));
        self.desired.blueprint(id).map_or_else(new, Arc::clone)
    }

    /// Probes a file's libraries, in all processes or in `process`, which must be a target.
    ///
    /// # Errors
    /// If a probe cannot be attached; those that were are removed again.
    pub fn attach(&mut self, found: &Found, process: Option<u32>) -> Result<Attachment, libbpf_rs::Error> {
        let key = found.key;
        let former = self.desired.leave(|a| a.file() == key.id() && a.found().key != key);
        if !former.is_empty() {
            // The old breakpoints must not stay in new code.
            self.forget_file_of(&former);
            self.bring_about(Leaving::Awaited);
        }
        let is_held = |holder: &Holder| {
            self.desired.holdings.iter().any(|a| a.found().key == key && a.holder == *holder)
        };
        let holder = match self.holder(process) {
            Some(holder) if is_held(&holder) => return Ok(Attachment::Known),
            Some(holder) => holder,
            None => return Ok(Attachment::Gone),
        };
        let known = self.libraries.get(&key).copied();
        if known.is_none() {
            // If an old probe is still there, the kernel would run the old instruction.
            self.await_gone(|file| file == key.id());
        }
        let id = known.unwrap_or(self.last_id + 1);
        if found.library.go.is_some() {
            self.kernel.set(|variables| &mut variables.go_wanted, 1);
        }
        if found.library.rustls.is_some() {
            self.kernel.follow_ciphertext();
        }
        let beside = found.library.rustls.as_ref().filter(|_| !found.library.is_rustls_alone());
        if known.is_none() && beside.is_some() {
            self.beside.insert(id, id + 1);
        }
        if known.is_none() {
            self.begin_trial(found, id);
        }
        let attachment = self.hold(found, id, holder);
        if !matches!(attachment, Ok(Attachment::Fresh(_))) {
            self.abandon_probation(found, id);
            if known.is_none() {
                // The numbers go to the next library.
                self.beside.remove(&id);
            }
            return attachment;
        }
        self.leases.take(key.id(), found.file());
        if known.is_none() {
            self.libraries.insert(key, id);
            self.last_id = self.beside.get(&id).copied().unwrap_or(id);
        }
        attachment
    }

    fn hold(&mut self, found: &Found, id: LibraryId, holder: Holder) -> Result<Attachment, libbpf_rs::Error> {
        if let Err(error) = self.begin_probation(found, id) {
            if found.library.rustls.is_none() {
                return Err(error);
            }
            self.leave_to_rustls(found, id, &error);
        }
        // Another program may have had its pid.
        self.desired.leave(|a| a.found().key == found.key && a.holder.pid == holder.pid);
        let blueprint = self.blueprint(found, id);
        let unfollowed = if self.desired.by_returns { blueprint.unfollowed.clone() } else { Vec::new() };
        self.desired.holdings.push(Holding { holder, blueprint });
        let failures = self.bring_about_in(Some(holder.pid), Leaving::Unwatched);
        let is_it = |holding: &Holding| holding.holder == holder && holding.id() == id;
        if let Err(error) = failures.of(|part| part.holder == holder && part.place == Where::Library(id)) {
            self.desired.leave(is_it);
            self.bring_about_in(Some(holder.pid), Leaving::Awaited);
            return Err(error);
        }
        if !self.desired.holdings.iter().any(is_it) {
            return Ok(Attachment::Gone);
        }
        Ok(Attachment::Fresh(unfollowed))
    }

    /// Whether a library is probed for certain processes only.
    pub fn has_holders(&self) -> bool {
        self.by_process
    }

    /// Takes the probes of processes away that have ended or become another program. Nobody waits for that.
    pub fn let_go(&mut self) {
        let desired = &self.desired;
        let of_processes = desired.stacks.keys().chain(desired.into_memory.keys());
        let mut holders: BTreeSet<Holder> = of_processes.map(|process| Holder::from(*process)).collect();
        holders.extend(desired.holdings.iter().map(|holding| holding.holder).filter(|h| *h != Holder::ALL));
        holders.retain(|holder| {
            let now = self.process(holder.pid.cast_unsigned());
            now.is_none_or(|process| process.generation != holder.generation)
        });
        if !holders.is_empty() {
            self.forget_holders(&holders);
            self.bring_about(Leaving::Unwatched);
        }
        self.give_leases_back();
    }

    /// Captures this process no more: it has ended.
    pub(super) fn let_process_go(&mut self, pid: u32) {
        let pid = pid.cast_signed();
        self.desired.leave(|holding| holding.holder.pid == pid);
        self.bring_about_in(Some(pid), Leaving::Unwatched);
    }

    /// Those of files that have no probes any more.
    fn give_leases_back(&mut self) {
        self.going.retain(|going| !going.thread.is_finished());
        let going = self.going.iter().flat_map(|going| going.files.iter().copied());
        let needed: BTreeSet<FileId> =
            self.attached.values().map(|probes| probes.file).chain(going).collect();
        self.leases.keep(|id| needed.contains(&id));
    }

    /// Until no released probe is left in the files that are waited for.
    pub fn await_gone(&mut self, is_awaited: impl Fn(FileId) -> bool) {
        for Going { thread, .. } in
            self.going.extract_if(.., |going| going.files.iter().any(|id| is_awaited(*id)))
        {
            // It does nothing that can fail.
            let _ = thread.join();
        }
    }

    /// Until no file system is busy because of released probes. The root file system always is.
    pub fn await_unmountable(&mut self) {
        if !self.going.is_empty() {
            let root = std::fs::metadata("/").map_or(0, |root| root.dev());
            self.await_gone(|(device, _)| device != root);
            self.give_leases_back();
        }
    }

    /// Removes the probes of files that a process is opening for writing, and waits until they are removed;
    /// returns those files.
    pub fn yield_files(&mut self) -> Vec<PathBuf> {
        let asked = self.leases.asked();
        let mut paths: Vec<PathBuf> = Vec::new();
        let former = self.desired.leave(|holding| asked.contains(&holding.file()));
        for holding in &former {
            self.forget_found(holding.found());
            if !paths.contains(&holding.found().path) {
                paths.push(holding.found().path.clone());
            }
        }
        self.forget_file_of(&former);
        let bios = self.desired.into_memory.values_mut();
        bios.for_each(|bios| bios.retain(|bio| !asked.contains(&bio.id)));
        self.bring_about(Leaving::Awaited);
        // What was released before may be in the same files.
        self.await_gone(|id| asked.contains(&id));
        self.leases.keep(|id| !asked.contains(&id));
        paths
    }

    /// Forgets what else is probed in the files of these libraries.
    fn forget_file_of(&mut self, former: &[Holding]) {
        former.iter().for_each(|holding| self.forget_stacks_in(holding.id()));
        for bios in self.desired.into_memory.values_mut() {
            bios.retain(|bio| !former.iter().any(|holding| holding.file() == bio.id));
        }
    }

    /// A process that is captured has a child that is not, with breakpoints from its parent.
    pub fn note_heir(&mut self) {
        self.has_heirs = !self.follow;
    }

    /// Removes breakpoints from processes that have inherited them and are not targets.
    pub fn disinherit(&mut self) {
        // A single probe disappears when it is hit in another process.
        if !std::mem::take(&mut self.has_heirs) || !self.bulk() {
            return;
        }
        let (mut links, mut files, mut done) = (Vec::new(), Vec::new(), BTreeSet::new());
        // When one is removed, the kernel checks which processes should have a breakpoint there. In this
        // process none is hit.
        for (part, probes) in &self.attached {
            // Once for all that have it.
            if let Some(path) = self.attach_path(part).filter(|_| done.insert((part.place, part.what))) {
                links.extend(self.kernel.attach_to_none(&path, &probes.offsets));
                files.push(probes.file);
            }
        }
        self.discard([links, Vec::new()], files);
    }
}
