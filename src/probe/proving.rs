//! Which internal functions replace which exports: reads the evidence that the kernel side gathers
//! (`bpf/proof.bpf.h`), gives the verdict, and removes the probes that are no longer needed.
//!
//! An export is replaced when enough of its calls moved the same bytes as the internal function inside them.
//! From the verdict on, a call ends with the return of the internal function. A call that returned from there
//! before is `pending` until the export's own probe has seen its return; only then are the export's probes
//! removed. One contradiction, at any time, rejects all internal functions of the library: then the exports are
//! probed again, permanently.

use std::collections::HashMap;

use libbpf_rs::{MapCore, MapFlags};

use super::attach::Leaving;
use super::gate::await_programs;
use super::map_value::{bytes_of, from_bytes};
use super::parts::Where;
use super::sites::{behind, is_left, site_of};
use super::skeleton::types::{self, evidence, t2p_site};
use super::{Probe, cookie};
use crate::discover::Found;
use crate::discover::code::{Cost, Place};
use crate::discover::function::Function;
use crate::discover::internal::Behind;
use crate::event::{LibraryId, Verdict};
use crate::printable;

/// Calls of an export that must agree. Each moved data.
const CALLS: u32 = 16;
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
    pub id: LibraryId,
    path: String,
    exports: Vec<Export>,
    internal: Vec<t2p_site>,
    standing: Standing,
}

/// What is thought of the internal functions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// They may take over, or have.
    Trusted,
    /// They are not what they seemed, and go.
    Condemned,
    /// The same, but an export cannot be probed again. What the internal functions report is better than
    /// nothing, and says what is missing.
    Needed,
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
        self.kernel.way.number(id)
    }

    /// Adds entries for the evidence on a library's internal functions. If the table is full, they are not
    /// probed.
    pub(super) fn begin_trial(&mut self, found: &Found, id: LibraryId) {
        // An attempt that failed may have left something under this number. Without cookies what is
        // there is that of all.
        self.desired.trials.retain(|trial| trial.id != id);
        if !self.desired.has_trials() {
            return;
        }
        let mut trial = Trial {
            id,
            path: found.path.to_string_lossy().into_owned(),
            exports: Vec::new(),
            internal: Vec::new(),
            standing: Standing::Trusted,
        };
        let way = self.kernel.way;
        let may_count = |behind: &Behind| way.is_seen_to_return(found, behind.place.offset);
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
        let flags = if way.has_cookie { MapFlags::ANY } else { MapFlags::NO_EXIST };
        let none = evidence::default();
        let made = trial.sites().all(|site| {
            let key = cookie(site, self.cookie_of(id)).to_ne_bytes();
            self.kernel.skeleton.maps.evidence.update(&key, bytes_of(&none), flags).is_ok()
        });
        // Without cookies all libraries are condemned together.
        let others = !way.has_cookie && self.desired.trials.iter().any(|t| !t.is_trusted());
        if others || !made && way.has_cookie {
            trial.standing = Standing::Condemned;
        }
        self.desired.trials.push(trial);
    }

    /// Acts on what the kernel side has found out. To be called now and then. Waits for
    /// probes to go only if something is not what it seemed.
    pub fn settle(&mut self) -> Vec<News> {
        if !self.desired.trials.is_empty() || !self.desired.probations.is_empty() {
            let evidence = self.evidence();
            let news = self.end_probations(&evidence);
            self.unsaid.extend(news);
            let way = self.kernel.way;
            let of = |id, site| -> evidence {
                evidence.get(&cookie(site, way.number(id))).copied().unwrap_or_default()
            };
            let disagrees = |trial: &Trial| trial.sites().any(|site| of(trial.id, site).disagreed > 0);
            let trials = self.desired.trials.iter().filter(|trial| trial.is_trusted() && disagrees(trial));
            for id in trials.map(|trial| trial.id).collect::<Vec<_>>() {
                self.acquit(id);
            }
            if way.has_cookie {
                self.take_over(|id, export| of(id, site_of(export)));
            }
        }
        std::mem::take(&mut self.unsaid)
    }

    /// Gives verdicts, and removes probes that are no longer needed. `of`: the evidence on a library's export.
    fn take_over(&mut self, of: impl Fn(LibraryId, Function) -> evidence) {
        let (mut verdict, mut is_change) = (false, false);
        let mut trials = std::mem::take(&mut self.desired.trials);
        for trial in trials.iter_mut().filter(|trial| trial.is_trusted()) {
            let id = trial.id;
            for export in &mut trial.exports {
                let Export { function, internal, place, state } = *export;
                let seen = of(id, function);
                match state {
                    // The internal function first: its calls count before the export's cease to.
                    State::Probed
                        if seen.agreed >= CALLS
                            && [internal, site_of(function)]
                                .iter()
                                .all(|site| self.judge(id, *site, types::verdict::VERDICT_TAKEN)) =>
                    {
                        export.state = State::Taken;
                        verdict = true;
                    }
                    // Taken before this round, so every program that still counts for the export is done.
                    State::Taken if seen.pending <= 0 && !self.has_coroutines(id) => {
                        export.state = State::Gone;
                        is_change = true;
                        self.unsaid.push(News::Detail(format!(
                            "{} of {}: {} proven after {} calls; the export is no longer probed",
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
        self.desired.trials = trials;
        if verdict {
            await_programs();
        }
        if is_change {
            self.bring_about(Leaving::Unwatched);
        }
    }

    /// The internal functions of a library are of no use any more, for whatever reason: its exports are probed again.
    pub(super) fn acquit(&mut self, id: LibraryId) {
        let is_it = |trial: &Trial| trial.id == id && trial.is_trusted();
        let Some(at) = self.desired.trials.iter().position(is_it) else { return };
        let gone = |trial: &Trial, state| -> Vec<Function> {
            let of = trial.exports.iter().filter(|export| export.state == state);
            of.map(|export| export.function).collect()
        };
        let trial = &mut self.desired.trials[at];
        let late = trial.exports.iter().any(|export| export.state != State::Probed);
        let again = gone(trial, State::Gone);
        let path = trial.path.clone();
        // Before the internal functions go.
        trial.exports.iter_mut().for_each(|export| export.state = State::Probed);
        if !again.is_empty() {
            let failures = self.bring_about(Leaving::Awaited);
            if let Err(error) = failures.of(|part| part.place == Where::Library(id)) {
                let trial = &mut self.desired.trials[at];
                trial.standing = Standing::Needed;
                let lost = trial.exports.iter_mut().filter(|export| again.contains(&export.function));
                lost.for_each(|export| export.state = State::Gone);
                self.bring_about(Leaving::Awaited);
                self.unsaid.push(News::Warning(format!(
                    "{path}: its exports cannot be probed again, although its internal functions are not what they seemed: {error:#}"
                )));
                return;
            }
        }
        let trial = &mut self.desired.trials[at];
        trial.standing = Standing::Condemned;
        let exports: Vec<_> = trial.exports.iter().map(|export| site_of(export.function)).collect();
        let internal = trial.internal.clone();
        for site in exports {
            // It may never have had one.
            let key = cookie(site, self.cookie_of(id)).to_ne_bytes();
            let _ = self.kernel.skeleton.maps.verdicts.delete(&key);
        }
        for site in internal {
            // If it fails the evidence speaks for itself.
            self.judge(id, site, types::verdict::VERDICT_CONDEMNED);
        }
        await_programs();
        self.bring_about(Leaving::Unwatched);
        let text = format!(
            "{path}: the internal functions of SSL_read and SSL_write are not what they seemed; only the exports are probed"
        );
        self.unsaid.push(if late { News::Warning(text) } else { News::Detail(text) });
    }

    pub(super) fn judge(&self, id: LibraryId, site: t2p_site, verdict: types::verdict) -> bool {
        let key = cookie(site, self.cookie_of(id)).to_ne_bytes();
        self.kernel.skeleton.maps.verdicts.update(&key, &verdict.0.to_ne_bytes(), MapFlags::ANY).is_ok()
    }

    fn evidence(&self) -> HashMap<u64, evidence> {
        /// Entries that one system call brings.
        const BATCH: u32 = 1024;
        let map = &self.kernel.skeleton.maps.evidence;
        let Ok(entries) = map.lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY) else {
            return HashMap::new();
        };
        entries
            .filter_map(|(key, value)| Some((u64::from_ne_bytes(*key.first_chunk()?), from_bytes(&value)?)))
            .collect()
    }
}

impl Trial {
    /// Of one export, which its internal function has replaced or not.
    #[cfg(test)]
    pub(super) fn example(id: LibraryId, function: Function, is_gone: bool, is_condemned: bool) -> Trial {
        let state = if is_gone { State::Gone } else { State::Probed };
        let internal = t2p_site::T2P_SITE_READ_INTERNAL;
        let place = Place { function: 0, offset: 0, cost: Cost::Emulated };
        let exports = vec![Export { function, internal, place, state }];
        let standing = if is_condemned { Standing::Condemned } else { Standing::Trusted };
        Trial { id, path: String::new(), exports, internal: vec![internal], standing }
    }

    fn is_trusted(&self) -> bool {
        self.standing == Standing::Trusted
    }

    /// Whether the internal functions are probed.
    pub(super) fn has_internal(&self) -> bool {
        self.standing != Standing::Condemned
    }

    /// Whether an export is not probed any more.
    pub(super) fn has_taken_over(&self, function: Function) -> bool {
        let is_gone = |export: &Export| export.function == function && export.state == State::Gone;
        self.has_internal() && self.exports.iter().any(is_gone)
    }

    fn sites(&self) -> impl Iterator<Item = t2p_site> + '_ {
        self.internal.iter().copied().chain(self.exports.iter().map(|e| site_of(e.function)))
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

/// The cost of the probes on the returns of the function that is probed at this offset; `None`: its returns are
/// unknown.
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

/// The message about a function whose returns are unknown, if they matter.
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
