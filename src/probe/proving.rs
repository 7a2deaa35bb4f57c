//! Which internal functions take over from which exports: reads the evidence that the kernel side
//! gathers (`bpf/proof.bpf.h`), gives the verdict, and takes away the probes that are no longer
//! needed.
//!
//! An export is taken over when enough of its calls moved the same bytes as the internal function inside
//! them. From the verdict on a call ends with the return of the internal function. What returned
//! from there before is `pending` until the export's own probe has seen its return; only then the
//! export's probes go. One contradiction, at any time, condemns all internal functions of the library:
//! then the exports are probed again, for good.

use std::collections::HashMap;
use std::thread;

use libbpf_rs::{MapCore, MapFlags};

use super::sites::{Group, behind, is_left, site_of};
use super::skeleton::types::{self, evidence, t2p_site};
use super::{Attached, Probe, await_programs, bytes_of, cookie, from_bytes, together};
use crate::discover::Found;
use crate::discover::code::{Cost, Place};
use crate::discover::function::Function;
use crate::discover::internal::Behind;
use crate::event::{LibraryId, Verdict};
use crate::printable;

/// Calls of an export that must agree. Each moved data.
const CALLS: u32 = 16;
/// Libraries are numbered so as long as programs cannot tell them apart.
const ANY_LIBRARY: LibraryId = 0;

/// What happened to the probes of a library, for the user to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All is well.
    Detail(String),
    /// Something is odd.
    Warning(String),
    /// A library whose functions had no names has proven itself, or has not.
    Verdict(LibraryId, Verdict),
}

/// A library whose internal functions are on trial.
pub(super) struct Trial {
    id: LibraryId,
    path: String,
    exports: Vec<Export>,
    internal: Vec<t2p_site>,
    condemned: bool,
}

/// An export that may be taken over.
struct Export {
    function: Function,
    internal: t2p_site,
    place: Place,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is probed, and counts.
    Probed,
    /// The internal function counts; some calls may still have to return to the export's probe.
    Taken,
    /// It is not probed any more.
    Gone,
}

impl Probe {
    /// The number by which programs know the library.
    pub(super) fn cookie_of(&self, id: LibraryId) -> LibraryId {
        if self.has_cookie { id } else { ANY_LIBRARY }
    }

    /// Makes room for the evidence on a library's internal functions. If there is none, they are not
    /// probed.
    pub(super) fn begin_trial(&mut self, found: &Found, id: LibraryId) {
        let mut trial = Trial {
            id,
            path: found.path.to_string_lossy().into_owned(),
            exports: Vec::new(),
            internal: Vec::new(),
            condemned: false,
        };
        let may_count = |behind: &Behind| self.is_seen_to_return(found, behind.place.offset);
        for (site, behind) in behind(&found.library).filter(|(_, behind)| may_count(behind)) {
            trial.internal.push(site);
            trial.exports.extend(behind.exports.iter().map(|function| Export {
                function: *function,
                internal: site,
                place: behind.place,
                state: State::Probed,
            }));
        }
        if trial.internal.is_empty() {
            return;
        }
        // An attempt that failed may have left something under this number. Without cookies what is
        // there is that of all.
        self.trials.retain(|t| t.id != id);
        let flags = if self.has_cookie { MapFlags::ANY } else { MapFlags::NO_EXIST };
        let none = evidence::default();
        let made = trial.sites().all(|site| {
            let key = cookie(site, self.cookie_of(id)).to_ne_bytes();
            self.skeleton.maps.evidence.update(&key, bytes_of(&none), flags).is_ok()
        });
        trial.condemned = !made && self.has_cookie;
        // Without cookies all libraries are condemned together.
        trial.condemned |= !self.has_cookie && self.trials.iter().any(|t| t.condemned);
        self.trials.push(trial);
    }

    /// Whether functions may take over from the exports before them: their returns must be seen on all stacks.
    pub(super) fn has_trials(&self) -> bool {
        self.without_return_probes || !self.by_returns
    }

    /// Whether a group of probes is to be attached.
    pub(super) fn is_wanted(&self, id: LibraryId, group: Group) -> bool {
        let trial = self.trials.iter().find(|t| t.id == id);
        match group {
            Group::Base => true,
            Group::Internal => self.has_trials() && trial.is_some_and(|t| !t.condemned),
            Group::Export(function) => !trial.is_some_and(|t| {
                !t.condemned && t.exports.iter().any(|e| e.function == function && e.state == State::Gone)
            }),
        }
    }

    /// Acts on what the kernel side has found out. To be called now and then; never waits for
    /// probes to go.
    pub fn settle(&mut self) -> Vec<News> {
        if self.trials.is_empty() && self.probations.is_empty() {
            return Vec::new();
        }
        let evidence = self.evidence();
        let mut news = std::mem::take(&mut self.unsaid);
        news.extend(self.end_probations(&evidence));
        let mut trials = std::mem::take(&mut self.trials);
        let of = |probe: &Probe, trial: &Trial, site| -> evidence {
            evidence.get(&cookie(site, probe.cookie_of(trial.id))).copied().unwrap_or_default()
        };
        for trial in trials.iter_mut().filter(|t| !t.condemned) {
            if trial.sites().any(|site| of(self, trial, site).disagreed > 0) {
                news.push(self.condemn(trial));
            }
        }
        if self.has_cookie {
            self.take_over(&mut trials, &mut news, |probe, trial, export| of(probe, trial, site_of(export)));
        }
        self.trials = trials;
        news
    }

    /// Gives verdicts, and takes probes away that nobody needs any more.
    fn take_over(
        &mut self,
        trials: &mut [Trial],
        news: &mut Vec<News>,
        of: impl Fn(&Probe, &Trial, Function) -> evidence,
    ) {
        let mut verdict = false;
        let mut links = Vec::new();
        for trial in trials.iter_mut().filter(|t| !t.condemned) {
            for index in 0..trial.exports.len() {
                let Export { function, internal, place, state } = trial.exports[index];
                let seen = of(self, trial, function);
                match state {
                    // The internal function first: its calls count before the export's cease to.
                    State::Probed
                        if seen.agreed >= CALLS
                            && [internal, site_of(function)]
                                .iter()
                                .all(|site| self.judge(trial.id, *site, types::verdict::VERDICT_TAKEN)) =>
                    {
                        trial.exports[index].state = State::Taken;
                        verdict = true;
                    }
                    // Taken before this round, so every program that still counts for the export is done.
                    State::Taken if seen.pending <= 0 && !self.has_coroutines(trial.id) => {
                        trial.exports[index].state = State::Gone;
                        links.extend(self.take_links(trial.id, Group::Export(function)));
                        news.push(News::Detail(format!(
                            "{} of {}: {} proven after {} calls; the export is not probed any more",
                            function.symbol(),
                            trial.path,
                            describe(place),
                            seen.agreed,
                        )));
                    }
                    _ => {}
                }
            }
        }
        if verdict {
            await_programs();
        }
        discard(links);
    }

    /// The internal functions of a library are not what they were taken for.
    pub(super) fn condemn(&mut self, trial: &mut Trial) -> News {
        let mut late = false;
        for export in trial.exports.iter_mut().filter(|e| e.state != State::Probed) {
            late = true;
            if export.state == State::Gone
                && let Err(error) = self.attach_again(trial.id, export.function)
            {
                // What the internal function tells is better than nothing, and says what it lacks.
                trial.condemned = true;
                return News::Warning(format!(
                    "{} of {}: it cannot be probed again: {error:#}",
                    export.function.symbol(),
                    trial.path
                ));
            }
        }
        trial.condemned = true;
        for export in &mut trial.exports {
            let key = cookie(site_of(export.function), self.cookie_of(trial.id)).to_ne_bytes();
            // It may never have had one.
            let _ = self.skeleton.maps.verdicts.delete(&key);
            export.state = State::Probed;
        }
        for site in &trial.internal {
            // If it fails the evidence speaks for itself.
            self.judge(trial.id, *site, types::verdict::VERDICT_CONDEMNED);
        }
        await_programs();
        discard(self.take_links(trial.id, Group::Internal));
        let text = format!(
            "{}: the functions behind SSL_read and SSL_write are not what they seemed; only the exports are probed",
            trial.path
        );
        if late { News::Warning(text) } else { News::Detail(text) }
    }

    /// A library's internal functions are of no use any more, for whatever reason.
    pub(super) fn acquit(&mut self, id: LibraryId) {
        let mut trials = std::mem::take(&mut self.trials);
        for trial in trials.iter_mut().filter(|t| t.id == id && !t.condemned) {
            self.condemn(trial);
        }
        self.trials = trials;
    }

    pub(super) fn judge(&self, id: LibraryId, site: t2p_site, verdict: types::verdict) -> bool {
        let key = cookie(site, self.cookie_of(id)).to_ne_bytes();
        self.skeleton.maps.verdicts.update(&key, bytes_of(&verdict), MapFlags::ANY).is_ok()
    }

    fn attach_again(&mut self, id: LibraryId, function: Function) -> Result<(), libbpf_rs::Error> {
        let mut all = std::mem::take(&mut self.attached);
        let result = all.iter_mut().filter(|a| a.id == id).try_for_each(|attached| {
            let group = Group::Export(function);
            if self.by_returns {
                self.probe_returns(attached, |of| of == group)?;
            }
            let of_export: Vec<_> =
                self.sites_of(&attached.found).into_iter().filter(|s| s.group == group).collect();
            of_export.chunk_by(together(self.programs)).try_for_each(|run| self.attach_run(attached, run))
        });
        self.attached = all;
        result
    }

    /// Those of entries first: an entry that is seen has its return probed.
    pub(super) fn take_links(&mut self, id: LibraryId, group: Group) -> Vec<libbpf_rs::Link> {
        let mut taken: Vec<_> = self
            .attached
            .iter_mut()
            .filter(|a| a.id == id)
            .flat_map(|a: &mut Attached| a.links.extract_if(.., |(of, _, _)| *of == group))
            .collect();
        taken.sort_by_key(|(_, role, _)| *role);
        taken.into_iter().map(|(_, _, link)| link).collect()
    }

    fn evidence(&self) -> HashMap<u64, evidence> {
        /// Entries that one system call brings.
        const BATCH: u32 = 1024;
        let map = &self.skeleton.maps.evidence;
        let Ok(entries) = map.lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY) else {
            return HashMap::new();
        };
        entries
            .filter_map(|(key, value)| Some((u64::from_ne_bytes(*key.first_chunk()?), from_bytes(&value)?)))
            .collect()
    }
}

impl Trial {
    fn sites(&self) -> impl Iterator<Item = t2p_site> + '_ {
        self.internal.iter().copied().chain(self.exports.iter().map(|e| site_of(e.function)))
    }
}

/// Detaches; the kernel takes its time for that.
pub(super) fn discard(links: Vec<libbpf_rs::Link>) {
    if !links.is_empty() {
        thread::spawn(move || drop(links));
    }
}

/// How a library's data is probed, a line for each function.
pub fn described(found: &Found) -> Vec<String> {
    let others = |function| {
        matches!(
            function,
            Function::GnutlsRecv
                | Function::GnutlsSend
                | Function::GnutlsSend2
                | Function::NssRead
                | Function::NssRecv
                | Function::NssWrite
                | Function::NssSend
        )
    };
    let line = |(function, place): (Function, Place)| {
        let returns = returning(found, place.offset).unwrap_or_default();
        let path = printable::path(&found.path);
        let head = format!("{} of {path}: {}{returns}", function.symbol(), describe(place));
        match note(found, function) {
            Some(note) => Some(format!("{head}; {note}")),
            None => others(function).then_some(head),
        }
    };
    found.library.offsets.places().filter_map(line).collect()
}

/// Whether there is a better site for one of OpenSSL's reads and writes, or why not.
pub fn note(found: &Found, function: Function) -> Option<String> {
    let internal = &found.library.internal;
    let behind = match function {
        Function::Read | Function::ReadEx => &internal.read,
        Function::Write | Function::WriteEx | Function::WriteEx2 => &internal.write,
        _ => return None,
    };
    let may_count = |behind: &Behind| {
        behind.exports.contains(&function) && found.library.returns.of(behind.place.offset).is_ok()
    };
    Some(match behind {
        Ok(behind) if may_count(behind) => {
            let returns = returning(found, behind.place.offset).unwrap_or_default();
            format!("on trial: {}{returns}", describe(behind.place))
        }
        Ok(_) => "no other site: not shown to be a wrapper".into(),
        Err(why) => format!("no other site: {why}"),
    })
}

/// What probes cost where the function returns that is probed at this offset; `None`: it is not known where.
fn returning(found: &Found, offset: u64) -> Option<String> {
    let returns = found.library.returns.of(offset).ok()?;
    let stepped = returns.iter().filter(|at| at.cost() != Cost::Emulated).count();
    Some(match (returns.len(), stepped) {
        (1, 0) => ", 1 cheap return".into(),
        (n, 0) => format!(", {n} cheap returns"),
        (1, _) => ", 1 single-stepped return".into(),
        (n, stepped) => format!(", {n} returns, {stepped} single-stepped"),
    })
}

/// What is said of a function whose returns are not known, if they are of interest.
pub fn unseen_return(found: &Found, function: Function) -> Option<String> {
    let place = found.library.offsets.places().find(|(f, _)| *f == function)?.1;
    let why = found.library.returns.of(place.offset).err().filter(|_| is_left(function))?;
    let what = if function.moves_data() { "its calls are not captured" } else { "its return is not seen" };
    Some(format!("{what}: {why}"))
}

fn describe(place: Place) -> String {
    let cost = match place.cost {
        Cost::Emulated => "cheap site",
        Cost::Stepped => "single-stepped site",
        Cost::Unknown => "site",
    };
    format!("{cost} +{:#x}", place.offset)
}
