//! Functions that were found in code without names: whether they are what they were taken for. Gathers nothing
//! itself; the kernel side holds each call against the records that leave and enter (`bpf/probation.bpf.h`).

use std::collections::HashMap;
use std::io;

use libbpf_rs::{MapCore, MapFlags};

use super::attach::Leaving;
use super::gate::await_programs;
use super::map_value::bytes_of;
use super::proving::News;
use super::skeleton::types::{evidence, t2p_cookie_bit, t2p_site, verdict};
use super::{Probe, cookie};
use crate::discover::Found;
use crate::event::{LibraryId, Verdict};
use crate::printable;

/// Calls that must agree, of reads and of writes.
const CALLS: u32 = 16;
/// Set in the key of the evidence.
const EVIDENCE: u64 = 1 << t2p_cookie_bit::T2P_COOKIE_PROBATION.0;
/// Why it is condemned.
const WRONG: &str = "its functions are not what they were taken for";
const NO_RETURNS: &str = "its functions have no names, and checking those that were found needs return probes, which harm \
                          programs with coroutines before Linux 6.13";
const UNCLEAR: &str =
    "its functions have no names, and checking those that were found requires knowing where BIO_read returns";
const SITES: [t2p_site; 2] = [t2p_site::T2P_SITE_READ, t2p_site::T2P_SITE_WRITE];

/// A library whose functions were found in its code.
pub(super) struct Probation {
    pub id: LibraryId,
    path: String,
    state: State,
}

enum State {
    /// Each call is held against the records.
    Running,
    /// Its calls are taken as they are.
    Proven,
    /// It is not probed any more, for this reason.
    Condemned(&'static str),
}

impl Probation {
    #[cfg(test)]
    pub(super) fn condemned(id: LibraryId) -> Probation {
        Probation { id, path: "program".into(), state: State::Condemned(WRONG) }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    pub(super) fn is_condemned(&self) -> bool {
        matches!(self.state, State::Condemned(_))
    }
}

impl Probe {
    /// Before a library is probed whose functions were found in its code.
    ///
    /// # Errors
    /// If its functions cannot be checked. Then call [`Probe::abandon_probation`], also if the library cannot
    /// be probed after all.
    pub(super) fn begin_probation(&mut self, found: &Found, id: LibraryId) -> Result<(), libbpf_rs::Error> {
        let other = |what: &str| Err(io::Error::other(what.to_owned()).into());
        let library = &found.library;
        let Some(bio) = library.bio.filter(|_| library.has_to_prove_itself()) else {
            return Ok(());
        };
        let way = self.kernel.way;
        if !way.has_cookie {
            return other("its functions have no names, and checking those that were found needs Linux 5.15");
        }
        let known = self.desired.probations.iter().find(|p| p.id == id);
        match known.map(|probation| &probation.state) {
            Some(State::Condemned(why)) => return other(why),
            Some(State::Proven) => return Ok(()),
            _ if way.without_return_probes && library.returns.of(bio.1).is_err() => return other(UNCLEAR),
            _ if self.desired.by_returns && !way.without_return_probes => return other(NO_RETURNS),
            Some(State::Running) => {}
            None => {
                for site in SITES {
                    let key = (cookie(site, id) | EVIDENCE).to_ne_bytes();
                    let evidence = evidence::default();
                    self.kernel.skeleton.maps.evidence.update(&key, bytes_of(&evidence), MapFlags::ANY)?;
                    if !self.judge(id, site, verdict::VERDICT_PROBATION) {
                        return other("the table for checking its functions is full");
                    }
                }
                let path = found.path.to_string_lossy().into_owned();
                self.desired.probations.push(Probation { id, path, state: State::Running });
            }
        }
        self.want_records(true);
        Ok(())
    }

    /// Of a file with rustls in it, only that is probed: the other library's functions cannot be checked.
    pub(super) fn leave_to_rustls(&mut self, found: &Found, id: LibraryId, error: &libbpf_rs::Error) {
        if self.desired.probations.iter().any(|probation| probation.id == id) {
            return;
        }
        let path = found.path.to_string_lossy().into_owned();
        self.unsaid.push(News::Warning(format!(
            "{}: only its rustls is captured, and not its {}: {error:#}",
            printable::line(&path),
            found.version
        )));
        self.desired.probations.push(Probation {
            id,
            path,
            state: State::Condemned("its functions cannot be checked"),
        });
    }

    /// A library could not be probed in a process, or in all: undoes what [`Probe::begin_probation`] did for
    /// it, unless other processes have it. Its probes there must be removed.
    pub(super) fn abandon_probation(&mut self, found: &Found, id: LibraryId) {
        let is_known = self.desired.probations.iter().any(|p| p.id == id);
        let is_running = self.desired.probations.iter().any(|p| p.id == id && p.is_running());
        let is_on_probation = found.library.bio.is_some() && found.library.has_to_prove_itself();
        if !is_on_probation
            || !self.kernel.way.has_cookie
            || is_known && !is_running
            || self.desired.holdings.iter().any(|holding| holding.id() == id)
        {
            return;
        }
        self.desired.probations.retain(|p| p.id != id);
        // What still runs must not find that nothing is checked.
        await_programs();
        for site in SITES {
            // There may be none.
            let maps = &self.kernel.skeleton.maps;
            let _ = maps.verdicts.delete(&cookie(site, id).to_ne_bytes());
            let _ = maps.evidence.delete(&(cookie(site, id) | EVIDENCE).to_ne_bytes());
        }
        self.want_records_if_needed();
    }

    /// Return probes are forbidden from now on, and nothing can be checked without them: what is not yet proven
    /// is no longer captured. To be called after the other libraries' return probes were exchanged. When it
    /// returns the probes are removed.
    pub(super) fn end_probations_without_returns(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        for probation in self.desired.probations.iter_mut().filter(|probation| probation.is_running()) {
            probation.state = State::Condemned(NO_RETURNS);
            news.push(News::Warning(format!("{}: {NO_RETURNS}; it is no longer captured", probation.path)));
        }
        self.bring_about(Leaving::Awaited);
        news
    }

    /// Acts on what the kernel side has found out.
    pub(super) fn end_probations(&mut self, seen: &HashMap<u64, evidence>) -> Vec<News> {
        let mut news = Vec::new();
        let mut probations = std::mem::take(&mut self.desired.probations);
        for probation in probations.iter_mut().filter(|probation| probation.is_running()) {
            let of = |site| seen.get(&(cookie(site, probation.id) | EVIDENCE)).copied().unwrap_or_default();
            let [read, write] = SITES.map(of);
            if read.disagreed > 0 || write.disagreed > 0 {
                // The verdict stays: calls that are still in progress are not reported.
                probation.state = State::Condemned(WRONG);
                news.push(News::Verdict(probation.id, Verdict::Wrong));
                news.push(News::Warning(format!(
                    "{}: what looks like SSL_read and SSL_write in its code does not agree with its TLS records; \
                     it is no longer captured",
                    probation.path
                )));
            } else if read.agreed >= CALLS
                && write.agreed >= CALLS
                && SITES.iter().all(|site| self.judge(probation.id, *site, verdict::VERDICT_NONE))
            {
                probation.state = State::Proven;
                news.push(News::Verdict(probation.id, Verdict::Proven));
                news.push(News::Detail(format!(
                    "{}: SSL_read and SSL_write proven after {} and {} calls",
                    probation.path, read.agreed, write.agreed
                )));
            }
        }
        self.desired.probations = probations;
        if !news.is_empty() {
            await_programs();
            self.bring_about(Leaving::Unwatched);
            self.want_records_if_needed();
        }
        news
    }

    /// While probes of a rejected library are still being removed, their calls are checked.
    fn want_records_if_needed(&mut self) {
        let wanted = self.desired.probations.iter().any(|p| !matches!(p.state, State::Proven));
        self.want_records(wanted);
    }

    fn want_records(&mut self, wanted: bool) {
        self.kernel.set(|variables| &mut variables.probation_wanted, u32::from(wanted));
    }
}
