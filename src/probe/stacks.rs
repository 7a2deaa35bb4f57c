//! Calls of coroutines, where the user has chosen return probes. Linux takes the returns of one thread to come in the
//! reverse order of the calls; return probes kill a program that goes over to another stack in between. On such stacks
//! (`bpf/stack.bpf.h` tells which) return instructions are probed instead.

use std::collections::HashSet;

use libbpf_rs::Link;

use super::Probe;
use super::returns::{Return, Unfollowed};
use super::sites::{Group, Programs, Role, Site};
use crate::discover::Found;
use crate::event::{LibraryId, ProcessKey};

/// What is followed so in a process.
#[derive(Default)]
pub(super) struct Followed {
    ids: HashSet<LibraryId>,
    /// In this process only. They last as long as it is known.
    links: Vec<(LibraryId, Link)>,
}

impl Probe {
    /// Probes the return instructions of a process's TLS libraries. Where the kernel cannot be told at each
    /// entry to leave the return alone, all return probes go.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn follow_stacks(
        &mut self,
        process: ProcessKey,
        found: &[Found],
    ) -> Result<Vec<Unfollowed>, libbpf_rs::Error> {
        let mut unclear = Vec::new();
        let mut followed = self.stacks.remove(&process).unwrap_or_default();
        let mut result = Ok(());
        for found in found {
            // One that is not probed yet is followed when it is.
            let Some(id) = self.libraries.get(&found.key).copied() else { continue };
            if !followed.ids.insert(id) {
                continue;
            }
            let (returns, not) = self.returns_of(found);
            unclear.extend(not);
            if self.programs == Programs::Session {
                result = self.add_returns(process, found, id, &returns, &mut followed);
            }
            if result.is_err() {
                followed.ids.remove(&id);
                break;
            }
        }
        self.stacks.insert(process, followed);
        result?;
        unclear.extend(self.avoid_return_probes()?);
        Ok(unclear)
    }

    /// Takes away what is followed in a library.
    pub(super) fn forget_stacks_in(&mut self, id: LibraryId) -> Vec<Link> {
        let mut links = Vec::new();
        for followed in self.stacks.values_mut() {
            followed.ids.remove(&id);
            links.extend(followed.links.extract_if(.., |(of, _)| *of == id).map(|(_, link)| link));
        }
        links
    }

    /// The process of this pid, if it has coroutines.
    pub fn with_stacks(&self, pid: u32) -> Option<ProcessKey> {
        self.stacks.keys().find(|process| process.pid == pid).copied()
    }

    /// Whether processes with coroutines use a library: they need its exports, since where the functions behind
    /// them return is seldom known.
    pub(super) fn has_coroutines(&self, id: LibraryId) -> bool {
        self.stacks.values().any(|followed| followed.ids.contains(&id))
    }

    /// Probes return instructions in a process, and exports that are not probed any more.
    fn add_returns(
        &self,
        process: ProcessKey,
        found: &Found,
        id: LibraryId,
        returns: &[Return],
        followed: &mut Followed,
    ) -> Result<(), libbpf_rs::Error> {
        let path = found.attach_path();
        let pid = process.pid as i32;
        let of_returns = self.attach_returns(pid, &path, returns, self.cookie_of(id))?;
        followed.links.extend(of_returns.into_iter().map(|link| (id, link)));
        let is_gone = |group| matches!(group, Group::Export(_)) && !self.is_wanted(id, group);
        let gone: Vec<Site> = self.sites_of(found).into_iter().filter(|site| is_gone(site.group)).collect();
        if !gone.is_empty() {
            followed.links.push((id, self.attach_bulk(pid, &path, &gone, self.cookie_of(id))?));
        }
        Ok(())
    }

    /// Where the kernel cannot be told at each entry to leave the return alone: sets no return probes any more, and
    /// takes those away that there are. To be called before a program with coroutines runs, or as soon as
    /// it is known for one. Returns the functions whose calls are not followed any more.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn avoid_return_probes(&mut self) -> Result<Vec<Unfollowed>, libbpf_rs::Error> {
        if self.programs == Programs::Session || self.by_returns {
            return Ok(Vec::new());
        }
        self.by_returns = true;
        self.tell_by_returns();
        self.bios.clear();
        let mut all = std::mem::take(&mut self.attached);
        let mut unclear = Vec::new();
        let result = all.iter_mut().try_for_each(|attached| {
            unclear.extend(self.probe_returns(attached, |_| true)?);
            attached.links.retain(|(_, role, _)| *role != Role::ReturnProbe);
            Ok(())
        });
        self.attached = all;
        let news = self.end_probations_without_returns();
        self.unsaid.extend(news);
        for id in self.libraries.values().copied().collect::<Vec<_>>() {
            // Where they return is seldom known.
            self.acquit(id);
        }
        result.map(|()| unclear)
    }

    /// Tells the kernel side whether there are return probes.
    pub(super) fn tell_by_returns(&mut self) {
        let by_returns = u32::from(self.by_returns);
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: as in `set_gate`.
            unsafe { std::ptr::from_mut(&mut bss.by_returns).write_volatile(by_returns) };
        }
    }
}
