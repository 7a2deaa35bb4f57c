//! Which probes there should be now, and why. Pure: `attach.rs` makes it so.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::blueprint::Blueprint;
use super::probation::Probation;
use super::proving::Trial;
use super::sites::{Group, Kind};
use super::stacks::Followed;
use crate::discover::{Bio, FileId, Found};
use crate::event::{LibraryId, ProcessKey};

/// Who has probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Holder {
    /// -1: all processes.
    pub pid: i32,
    /// That of the process, which changes when it calls exec; 0 for all processes.
    pub generation: u64,
}

impl Holder {
    pub(super) const ALL: Holder = Holder { pid: -1, generation: 0 };
}

impl From<ProcessKey> for Holder {
    fn from(process: ProcessKey) -> Holder {
        Holder { pid: process.pid.cast_signed(), generation: process.generation }
    }
}

/// Where probes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    Library(LibraryId),
    /// BIO functions at these offsets (write, read) of a file.
    Bio(FileId, u64, u64),
}

/// What is probed, in the order in which it is attached: a call that is seen to begin has its return probed, and an
/// export whose call is seen has the function behind it probed. It is taken away in the reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum What {
    /// BIO_write and BIO_read: the records that they move.
    Records,
    /// Return probes of functions.
    ReturnProbes(Group, Kind),
    /// The instructions with which functions return.
    Returns(Group, Kind),
    /// Entries of functions, or entries and returns in one.
    Entries(Group, Kind),
}

/// Probes that come and go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Part {
    pub what: What,
    pub place: Place,
    pub holder: Holder,
}

/// Why there should be probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Why {
    /// A target has mapped the library, or all processes are captured.
    Mapped,
    /// The functions behind exports may be cheaper to probe.
    Trial,
    /// Functions that were found in code without names have to prove themselves.
    Probation,
    /// Handles of the process have no socket.
    IntoMemory,
    /// The process makes calls on stacks of coroutines.
    Coroutines,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Mapped => "mapped",
            Why::Trial => "on trial behind an export",
            Why::Probation => "to check functions that were found in code",
            Why::IntoMemory => "it encrypts into memory",
            Why::Coroutines => "it has coroutines",
        })
    }
}

/// A library that should be probed, in a process or in all.
#[derive(Clone)]
pub(super) struct Holding {
    pub holder: Holder,
    pub blueprint: Arc<Blueprint>,
}

impl Holding {
    pub(super) fn id(&self) -> LibraryId {
        self.blueprint.id
    }

    pub(super) fn found(&self) -> &Found {
        &self.blueprint.found
    }

    pub(super) fn file(&self) -> FileId {
        self.found().key.id()
    }
}

/// What is known of those who are captured, and of how they are.
#[derive(Default)]
pub(super) struct State {
    pub holdings: Vec<Holding>,
    /// Libraries whose functions behind exports are on trial.
    pub trials: Vec<Trial>,
    /// Libraries whose functions were found in their code.
    pub probations: Vec<Probation>,
    /// Processes with coroutines.
    pub stacks: HashMap<ProcessKey, Followed>,
    /// Processes that encrypt into memory, or may.
    pub into_memory: HashMap<ProcessKey, Vec<Bio>>,
    /// There are no return probes of libraries in C, now or ever: see [`super::Probe::avoid_return_probes`].
    pub by_returns: bool,
    /// There never are any.
    pub without_return_probes: bool,
    /// A program can choose at each entry whether the return is probed: those with coroutines need return instructions,
    /// all others have return probes.
    pub chooses_returns: bool,
}

impl State {
    /// The probes that there should be, and why. `pid`: those of this process only; -1: that all have.
    pub(super) fn wanted(&self, pid: Option<i32>) -> BTreeMap<Part, Why> {
        let is_its = |holder: Holder| pid.is_none_or(|pid| holder.pid == pid);
        let mut all = BTreeMap::new();
        for holding in self.holdings.iter().filter(|holding| is_its(holding.holder)) {
            let (id, holder) = (holding.id(), holding.holder);
            let place = Place::Library(id);
            if self.is_on_probation(id) {
                all.insert(Part { what: What::Records, place, holder }, Why::Probation);
            }
            for what in holding.blueprint.parts().filter(|what| self.is_wanted(id, *what)) {
                let is_behind = matches!(what, What::Entries(Group::Internal, _));
                all.insert(Part { what, place, holder }, if is_behind { Why::Trial } else { Why::Mapped });
            }
        }
        let stacks = self.stacks.iter().filter(|_| self.chooses_returns);
        for (holder, followed) in stacks.map(|(process, followed)| (Holder::from(*process), followed)) {
            if !is_its(holder) {
                continue;
            }
            for blueprint in followed.libraries() {
                let place = Place::Library(blueprint.id);
                let is_needed = |what: &What| match what {
                    What::Returns(_, kind) => *kind == Kind::C,
                    // The function behind it has no return instruction that is known.
                    What::Entries(Group::Export(_), _) => !self.is_wanted(blueprint.id, *what),
                    _ => false,
                };
                for what in blueprint.parts().filter(is_needed) {
                    all.entry(Part { what, place, holder }).or_insert(Why::Coroutines);
                }
            }
        }
        for (process, bios) in &self.into_memory {
            let holder = Holder::from(*process);
            for bio in bios.iter().filter(|_| is_its(holder)) {
                let place = Place::Bio(bio.id, bio.write, bio.read);
                all.insert(Part { what: What::Records, place, holder }, Why::IntoMemory);
            }
        }
        all
    }

    /// Whether something of a library is to be probed where the library is.
    pub(super) fn is_wanted(&self, id: LibraryId, what: What) -> bool {
        let (group, kind) = match what {
            What::Records => return self.is_on_probation(id),
            What::ReturnProbes(group, kind) | What::Returns(group, kind) | What::Entries(group, kind) => {
                (group, kind)
            }
        };
        let is_in_way = match what {
            // Nothing yields inside the functions of rustls.
            What::ReturnProbes(_, Kind::Rustls) => !self.without_return_probes,
            What::ReturnProbes(..) => !self.by_returns,
            What::Returns(_, Kind::Rustls) => self.without_return_probes,
            What::Returns(_, Kind::C) => self.by_returns,
            _ => true,
        };
        let trial = || self.trials.iter().find(|trial| trial.id == id);
        is_in_way
            && !self.probations.iter().any(|probation| probation.id == id && probation.is_condemned())
            && match group {
                Group::Base => true,
                Group::Internal => self.has_trials() && trial().is_some_and(Trial::has_internal),
                Group::Export(function) => !trial().is_some_and(|trial| trial.has_taken_over(function)),
            }
            && (kind == Kind::C || group == Group::Base)
    }

    fn is_on_probation(&self, id: LibraryId) -> bool {
        self.probations.iter().any(|probation| probation.id == id && probation.is_running())
    }

    /// Whether functions may take over from the exports before them: their returns must be seen on all stacks.
    pub(super) fn has_trials(&self) -> bool {
        self.without_return_probes || !self.by_returns
    }

    /// The blueprint of a library that somebody has.
    pub(super) fn blueprint(&self, id: LibraryId) -> Option<&Arc<Blueprint>> {
        let holding = self.holdings.iter().find(|holding| holding.id() == id);
        holding.map(|holding| &holding.blueprint).or_else(|| {
            let mut followed = self.stacks.values().flat_map(Followed::libraries);
            followed.find(|blueprint| blueprint.id == id)
        })
    }

    /// The BIO functions of a process.
    pub(super) fn bio(&self, holder: Holder, (file, write, read): (FileId, u64, u64)) -> Option<&Bio> {
        let of_process = self.into_memory.iter().filter(|(process, _)| Holder::from(**process) == holder);
        let mut all = of_process.flat_map(|(_, bios)| bios);
        all.find(|bio| (bio.id, bio.write, bio.read) == (file, write, read))
    }

    /// Takes holdings out.
    pub(super) fn leave(&mut self, is_it: impl Fn(&Holding) -> bool) -> Vec<Holding> {
        self.holdings.extract_if(.., |holding| is_it(holding)).collect()
    }
}
