//! Calls of coroutines. Linux takes the returns of one thread to come in the reverse order of the calls; return
//! probes kill a program that goes over to another stack in between. On such stacks (`bpf/stack.bpf.h` tells
//! which) return instructions are probed instead.

use std::collections::HashSet;

use libbpf_rs::{Link, UprobeMultiOpts, UprobeOpts};

use super::sites::{Group, Kind, Programs, Site, sites};
use super::skeleton::types::t2p_site;
use super::{Attached, COOKIE_RETURN, Probe, cookie};
use crate::discover::Found;
use crate::discover::returns::Unclear;
use crate::event::{LibraryId, ProcessKey};
use crate::printable;

/// What is followed so in a process.
#[derive(Default)]
pub(super) struct Followed {
    ids: HashSet<LibraryId>,
    /// In this process only. They last as long as it is known.
    links: Vec<Link>,
}

/// A return instruction.
struct Return {
    site: t2p_site,
    offset: u64,
    group: Group,
}

/// A function whose returns are not known: its site, its library's path, why.
pub type Unfollowed = (String, String, Unclear);

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
        followed.links.extend(self.attach_returns(pid, &path, returns, self.cookie_of(id))?);
        let is_gone = |group| matches!(group, Group::Export(_)) && !self.is_wanted(id, group);
        let gone: Vec<Site> =
            sites(&found.library, self.programs).into_iter().filter(|site| is_gone(site.group)).collect();
        if !gone.is_empty() {
            followed.links.push(self.attach_bulk(pid, &path, &gone, self.cookie_of(id))?);
        }
        Ok(())
    }

    /// Return instructions of what is probed of a library, and the functions where they are not known.
    fn returns_of(&self, found: &Found) -> (Vec<Return>, Vec<Unfollowed>) {
        let wanted = |site: &Site| {
            site.kind == Kind::C
                && (site.entry.is_none() || self.programs == Programs::Session && !site.alone)
        };
        let functions: Vec<Site> = sites(&found.library, self.programs).into_iter().filter(wanted).collect();
        let offsets: Vec<u64> = functions.iter().map(|site| site.offset).collect();
        let mut known = HashSet::new();
        let (mut returns, mut unclear) = (Vec::new(), Vec::new());
        for (site, found_returns) in functions.iter().zip(found.returns(&offsets)) {
            match found_returns {
                Ok(at) => returns.extend(at.into_iter().filter_map(|offset| {
                    // Functions that end in the same one share its returns.
                    let is_new = known.insert((offset, site.group == Group::Internal));
                    is_new.then_some(Return { site: site.site, offset, group: site.group })
                })),
                Err(why) => {
                    let mut places = found.library.offsets.places();
                    let named = places.find(|(_, place)| place.offset == site.offset);
                    let name = named.map_or("the function behind SSL_read or SSL_write", |(f, _)| f.symbol());
                    unclear.push((name.to_owned(), printable::path(&found.path), why));
                }
            }
        }
        (returns, unclear)
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
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: as in `set_gate`.
            unsafe { std::ptr::from_mut(&mut bss.by_returns).write_volatile(1) };
        }
        self.bios.clear();
        let mut all = std::mem::take(&mut self.attached);
        let mut unclear = Vec::new();
        let result = all.iter_mut().try_for_each(|attached| {
            unclear.extend(self.exchange(attached)?);
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

    /// Probes return instructions of a library, and takes its return probes away. Returns the functions whose
    /// calls are not followed any more.
    pub(super) fn exchange(&self, attached: &mut Attached) -> Result<Vec<Unfollowed>, libbpf_rs::Error> {
        let (returns, unclear) = self.returns_of(&attached.found);
        let path = attached.found.attach_path();
        let id = self.cookie_of(attached.id);
        if self.programs == Programs::Bulk {
            for run in returns.chunk_by(|a, b| a.group == b.group) {
                let link = self.attach_returns(attached.pid, &path, run, id)?;
                attached.links.extend(link.map(|link| (run[0].group, true, link)));
            }
        } else {
            for at in &returns {
                let (site, offset, group) = (at.site, at.offset, at.group);
                let site = Site { site, offset, entry: None, kind: Kind::C, group, alone: false };
                let options = UprobeOpts {
                    cookie: if self.has_cookie { cookie(at.site, id) | COOKIE_RETURN } else { 0 },
                    ..UprobeOpts::default()
                };
                let program = self.program(self.programs.name(&site))?;
                let link =
                    program.attach_uprobe_with_opts(attached.pid, &path, at.offset as usize, options)?;
                attached.links.push((at.group, true, link));
            }
        }
        attached.links.retain(|(_, is_no_return_probe, _)| *is_no_return_probe);
        Ok(unclear)
    }

    fn attach_returns(
        &self,
        pid: i32,
        path: &std::path::Path,
        returns: &[Return],
        id: LibraryId,
    ) -> Result<Option<Link>, libbpf_rs::Error> {
        if returns.is_empty() {
            return Ok(None);
        }
        let of_session = self.programs == Programs::Session;
        let options = UprobeMultiOpts {
            offsets: returns.iter().map(|r| r.offset as usize).collect(),
            cookies: returns.iter().map(|r| cookie(r.site, id) | COOKIE_RETURN).collect(),
            session: of_session,
            ..UprobeMultiOpts::default()
        };
        let program = self.program(if of_session { "ssl_session" } else { "ssl_return_any" })?;
        program.attach_uprobe_multi_with_opts(pid, path, "", options).map(Some)
    }
}
