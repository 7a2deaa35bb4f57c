//! Functions that were found in code without names: whether they are what they were taken for. Gathers nothing
//! itself; the kernel side holds each call against the records that leave and enter (`bpf/probation.bpf.h`).

use std::collections::HashMap;
use std::io;

use libbpf_rs::{Link, MapCore, MapFlags};

use super::proving::{News, discard};
use super::sites::Group;
use super::skeleton::types::{evidence, t2p_site};
use super::{Probe, await_programs, bytes_of, cookie};
use crate::discover::Found;
use crate::discover::elf::NamedBy;
use crate::event::LibraryId;

/// Calls that must agree, of reads and of writes.
const CALLS: u32 = 16;
/// `VERDICT_NONE` and `VERDICT_PROBATION` of `bpf/maps.bpf.h`.
const NONE: u32 = 0;
const PROBATION: u32 = 3;
/// `PROBATION_EVIDENCE` of `bpf/probation.bpf.h`.
const EVIDENCE: u64 = 128;
const SITES: [t2p_site; 2] = [t2p_site::T2P_SITE_READ, t2p_site::T2P_SITE_WRITE];

/// A library whose functions were found in its code.
pub(super) struct Probation {
    id: LibraryId,
    path: String,
    state: State,
}

enum State {
    /// Each call is held against the records, which these probes see.
    Running(Vec<Link>),
    /// Its calls are taken as they are.
    Proven,
    /// It is not probed any more.
    Condemned,
}

impl Probe {
    /// Before a library is probed whose functions were found in its code.
    ///
    /// # Errors
    /// If what they tell cannot be checked.
    pub(super) fn begin_probation(
        &mut self,
        found: &Found,
        id: LibraryId,
        pid: i32,
    ) -> Result<(), libbpf_rs::Error> {
        let other = |what: &str| Err(io::Error::other(what.to_owned()).into());
        let Some(bio) = found.library.bio.filter(|_| found.library.named_by == NamedBy::Code) else {
            return Ok(());
        };
        if !self.has_cookie {
            return other("its functions have no names, and to check what is found needs Linux 5.15");
        }
        let known = self.probations.iter().position(|p| p.id == id);
        match known.map(|at| &self.probations[at].state) {
            Some(State::Condemned) => return other("its functions are not what they were taken for"),
            Some(State::Proven) => return Ok(()),
            Some(State::Running(_)) => {}
            None => {
                for site in SITES {
                    let key = (cookie(site, id) | EVIDENCE).to_ne_bytes();
                    self.skeleton.maps.evidence.update(
                        &key,
                        bytes_of(&evidence::default()),
                        MapFlags::ANY,
                    )?;
                    if !self.judge(id, site, PROBATION) {
                        return other("no room to check what its functions tell");
                    }
                }
            }
        }
        let links = self.attach_records(pid, &found.attach_path(), bio)?;
        match known.map(|at| &mut self.probations[at].state) {
            Some(State::Running(all)) => all.extend(links),
            _ => {
                let path = found.path.to_string_lossy().into_owned();
                self.probations.push(Probation { id, path, state: State::Running(links) });
            }
        }
        self.want_records(true);
        Ok(())
    }

    /// Acts on what the kernel side has found out.
    pub(super) fn end_probations(&mut self, seen: &HashMap<u64, evidence>) -> Vec<News> {
        let mut news = Vec::new();
        let mut gone = Vec::new();
        let mut probations = std::mem::take(&mut self.probations);
        for probation in &mut probations {
            let State::Running(links) = &mut probation.state else { continue };
            let of = |site| seen.get(&(cookie(site, probation.id) | EVIDENCE)).copied().unwrap_or_default();
            let [read, write] = SITES.map(of);
            if read.disagreed > 0 || write.disagreed > 0 {
                // The verdict stays: calls that are still on their way are not told.
                gone.append(&mut self.take_links(probation.id, Group::Base));
                gone.append(links);
                probation.state = State::Condemned;
                news.push(News::Warning(format!(
                    "{}: what looks like SSL_read and SSL_write in its code does not agree with its TLS records; \
                     it is not captured any more",
                    probation.path
                )));
            } else if read.agreed >= CALLS
                && write.agreed >= CALLS
                && SITES.iter().all(|site| self.judge(probation.id, *site, NONE))
            {
                gone.append(links);
                probation.state = State::Proven;
                news.push(News::Detail(format!(
                    "{}: SSL_read and SSL_write proven after {} and {} calls",
                    probation.path, read.agreed, write.agreed
                )));
            }
        }
        if !gone.is_empty() {
            await_programs();
            discard(gone);
            // While probes of the condemned are still going, their calls are looked at.
            self.want_records(probations.iter().any(|p| !matches!(p.state, State::Proven)));
        }
        self.probations = probations;
        news
    }

    fn want_records(&mut self, wanted: bool) {
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: as in `set_ready`.
            unsafe { std::ptr::from_mut(&mut bss.probation_wanted).write_volatile(u32::from(wanted)) };
        }
    }
}
