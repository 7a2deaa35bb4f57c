//! Functions that were found in code without names: whether they are what they were taken for. Gathers nothing
//! itself; the kernel side holds each call against the records that leave and enter (`bpf/probation.bpf.h`).

use std::collections::HashMap;
use std::io;

use libbpf_rs::{Link, MapCore, MapFlags};

use super::proving::{News, discard};
use super::sites::Group;
use super::skeleton::types::{evidence, t2p_cookie_bit, t2p_site, verdict};
use super::{Probe, await_programs, bytes_of, cookie};
use crate::discover::Found;
use crate::event::{LibraryId, Verdict};

/// Calls that must agree, of reads and of writes.
const CALLS: u32 = 16;
/// Set in the key of the evidence.
const EVIDENCE: u64 = 1 << t2p_cookie_bit::T2P_COOKIE_PROBATION.0;
/// Why it is condemned.
const WRONG: &str = "its functions are not what they were taken for";
const NO_RETURNS: &str = "its functions have no names, and to check what is found needs return probes, which do harm to \
                          programs with coroutines before Linux 6.13";
const UNCLEAR: &str =
    "its functions have no names, and to check what is found it must be known where BIO_read returns";
const SITES: [t2p_site; 2] = [t2p_site::T2P_SITE_READ, t2p_site::T2P_SITE_WRITE];

/// A library whose functions were found in its code.
pub(super) struct Probation {
    id: LibraryId,
    path: String,
    state: State,
}

enum State {
    /// Each call is held against the records, which these probes see: of a process, or of all (-1).
    Running(Vec<(i32, Link)>),
    /// Its calls are taken as they are.
    Proven,
    /// It is not probed any more, for this reason.
    Condemned(&'static str),
}

impl Probe {
    /// Before a library is probed whose functions were found in its code.
    ///
    /// # Errors
    /// If what they tell cannot be checked. Then [`Probe::abandon_probation`] is due, and as well if the library
    /// cannot be probed after all.
    pub(super) fn begin_probation(
        &mut self,
        found: &Found,
        id: LibraryId,
        pid: i32,
    ) -> Result<(), libbpf_rs::Error> {
        let other = |what: &str| Err(io::Error::other(what.to_owned()).into());
        let library = &found.library;
        let Some(bio) = library.bio.filter(|_| library.has_to_prove_itself()) else {
            return Ok(());
        };
        if !self.has_cookie {
            return other("its functions have no names, and to check what is found needs Linux 5.15");
        }
        let known = self.probations.iter().position(|p| p.id == id);
        match known.map(|at| &self.probations[at].state) {
            Some(State::Condemned(why)) => return other(why),
            Some(State::Proven) => return Ok(()),
            _ if self.without_return_probes && library.returns.of(bio.1).is_err() => return other(UNCLEAR),
            _ if self.by_returns && !self.without_return_probes => return other(NO_RETURNS),
            Some(State::Running(_)) => {}
            None => {
                for site in SITES {
                    let key = (cookie(site, id) | EVIDENCE).to_ne_bytes();
                    self.skeleton.maps.evidence.update(
                        &key,
                        bytes_of(&evidence::default()),
                        MapFlags::ANY,
                    )?;
                    if !self.judge(id, site, verdict::VERDICT_PROBATION) {
                        return other("no room to check what its functions tell");
                    }
                }
            }
        }
        let returns = library.returns.of(bio.1).unwrap_or_default();
        let links = self.attach_records(pid, &found.attach_path(), bio, returns)?;
        let links = links.into_iter().map(|link| (pid, link));
        match known.map(|at| &mut self.probations[at].state) {
            Some(State::Running(all)) => all.extend(links),
            _ => {
                let path = found.path.to_string_lossy().into_owned();
                self.probations.push(Probation { id, path, state: State::Running(links.collect()) });
            }
        }
        self.want_records(true);
        Ok(())
    }

    /// A library could not be probed in a process (-1: in all): undoes what [`Probe::begin_probation`] did for it. Its
    /// other probes there must be gone.
    pub(super) fn abandon_probation(&mut self, found: &Found, id: LibraryId, pid: i32) {
        if found.library.bio.is_none() || !found.library.has_to_prove_itself() || !self.has_cookie {
            return;
        }
        let known = self.probations.iter().position(|p| p.id == id);
        match known.map(|at| &mut self.probations[at].state) {
            Some(State::Proven | State::Condemned(_)) => return,
            Some(State::Running(links)) => {
                links.retain(|(of, _)| *of != pid);
                if !links.is_empty() {
                    return;
                }
            }
            None => {}
        }
        self.probations.retain(|p| p.id != id);
        // What still runs must not find that nothing is checked.
        await_programs();
        for site in SITES {
            // There may be none.
            let _ = self.skeleton.maps.verdicts.delete(&cookie(site, id).to_ne_bytes());
            let _ = self.skeleton.maps.evidence.delete(&(cookie(site, id) | EVIDENCE).to_ne_bytes());
        }
        self.want_records(self.probations.iter().any(|p| !matches!(p.state, State::Proven)));
    }

    /// A library is not probed any more in a process: what has checked it there.
    pub(super) fn leave_probation(&mut self, id: LibraryId, pid: i32) -> Vec<Link> {
        let running = self.probations.iter_mut().filter(|p| p.id == id);
        let links =
            running.filter_map(|p| if let State::Running(links) = &mut p.state { Some(links) } else { None });
        links.flat_map(|links| links.extract_if(.., |(of, _)| *of == pid)).map(|(_, link)| link).collect()
    }

    /// Return probes are forbidden from now on, without which nothing can be checked: what is not proven
    /// yet is not captured any more. To be called after the other libraries' return probes were exchanged. When it
    /// returns the probes are gone.
    pub(super) fn end_probations_without_returns(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let mut gone = Vec::new();
        let mut probations = std::mem::take(&mut self.probations);
        for probation in probations.iter_mut().filter(|p| !matches!(p.state, State::Proven)) {
            gone.append(&mut self.take_links(probation.id, Group::Base));
            if let State::Running(links) = &mut probation.state {
                gone.extend(links.drain(..).map(|(_, link)| link));
                probation.state = State::Condemned(NO_RETURNS);
                news.push(News::Warning(format!(
                    "{}: {NO_RETURNS}; it is not captured any more",
                    probation.path
                )));
            }
        }
        self.probations = probations;
        news
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
                gone.extend(links.drain(..).map(|(_, link)| link));
                probation.state = State::Condemned(WRONG);
                news.push(News::Verdict(probation.id, Verdict::Wrong));
                news.push(News::Warning(format!(
                    "{}: what looks like SSL_read and SSL_write in its code does not agree with its TLS records; \
                     it is not captured any more",
                    probation.path
                )));
            } else if read.agreed >= CALLS
                && write.agreed >= CALLS
                && SITES.iter().all(|site| self.judge(probation.id, *site, verdict::VERDICT_NONE))
            {
                gone.extend(links.drain(..).map(|(_, link)| link));
                probation.state = State::Proven;
                news.push(News::Verdict(probation.id, Verdict::Proven));
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
            // SAFETY: as in `set_gate`.
            unsafe { std::ptr::from_mut(&mut bss.probation_wanted).write_volatile(u32::from(wanted)) };
        }
    }
}
