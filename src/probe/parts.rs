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
pub(super) enum Where {
    Library(LibraryId),
    /// BIO functions at these offsets (write, read) of a file.
    Bio(FileId, u64, u64),
}

/// What is probed, in the order in which it is attached: a call whose entry is seen has its return probed, and
/// an export whose call is seen has its internal function probed. It is removed in the reverse order.
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
    pub place: Where,
    pub holder: Holder,
}

/// Why there should be probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Why {
    /// A target has mapped the library, or all processes are captured.
    Mapped,
    /// The internal functions may be cheaper to probe.
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
            Why::Trial => "on trial for an export",
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

/// What is known of the captured processes.
#[derive(Default)]
pub(super) struct Desired {
    pub holdings: Vec<Holding>,
    /// Libraries whose internal functions are on trial.
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

impl Desired {
    /// The probes that there should be, and why. `pid`: those of this process only; -1: that all have.
    pub(super) fn wanted(&self, pid: Option<i32>) -> BTreeMap<Part, Why> {
        let is_its = |holder: Holder| pid.is_none_or(|pid| holder.pid == pid);
        let mut all = BTreeMap::new();
        for holding in self.holdings.iter().filter(|holding| is_its(holding.holder)) {
            let (id, holder) = (holding.id(), holding.holder);
            let place = Where::Library(id);
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
                let place = Where::Library(blueprint.id);
                let is_needed = |what: &What| match what {
                    What::Returns(_, kind) => *kind == Kind::C,
                    // No return instruction of its internal function is known.
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
                let place = Where::Bio(bio.id, bio.write, bio.read);
                all.insert(Part { what: What::Records, place, holder }, Why::IntoMemory);
            }
        }
        all
    }

    /// Whether something of a library is to be probed where the library is.
    pub(super) fn is_wanted(&self, id: LibraryId, what: What) -> bool {
        let group = match what {
            What::Records => return self.is_on_probation(id),
            What::ReturnProbes(group, _) | What::Returns(group, _) | What::Entries(group, _) => group,
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
        // rustls in the same file proves itself with each record.
        let is_of_rustls = matches!(
            what,
            What::ReturnProbes(_, Kind::Rustls)
                | What::Returns(_, Kind::Rustls)
                | What::Entries(_, Kind::Rustls)
        );
        let is_condemned = |probation: &Probation| probation.id == id && probation.is_condemned();
        is_in_way
            && (is_of_rustls || !self.probations.iter().any(is_condemned))
            && match group {
                Group::Base => true,
                Group::Internal => trial().is_some_and(Trial::has_internal),
                Group::Export(function) => !trial().is_some_and(|trial| trial.has_taken_over(function)),
            }
    }

    fn is_on_probation(&self, id: LibraryId) -> bool {
        self.probations.iter().any(|probation| probation.id == id && probation.is_running())
    }

    /// Whether trials may begin: functions may take over from exports whose returns are seen on all stacks.
    pub(super) fn has_trials(&self) -> bool {
        self.without_return_probes || !self.by_returns
    }

    /// The blueprint of a library that some process has.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::blueprint::Way;
    use super::super::sites::Programs;
    use super::*;
    use crate::discover::Discovery;
    use crate::discover::function::Function;

    const WAY: Way = Way { programs: Programs::Bulk, has_cookie: true, without_return_probes: false };
    const ONE: Holder = Holder { pid: 1, generation: 10 };

    /// A library with two exports, as a process that maps it has it.
    fn holding(folder: &Path, holder: Holder) -> Holding {
        let (source, library) = (folder.join("ssl.c"), folder.join("ssl.so"));
        let code = "int SSL_write(void *s, const void *b, int n) { return n; }
            int SSL_read(void *s, void *b, int n) { return n; }";
        std::fs::write(&source, code).unwrap();
        let mut cc = std::process::Command::new("cc");
        assert!(cc.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap().success());
        let found = Discovery::default().at(&library).unwrap();
        Holding { holder, blueprint: Arc::new(Blueprint::new(&found, 7, None, WAY)) }
    }

    fn whats(desired: &Desired) -> Vec<(Holder, What)> {
        desired.wanted(None).keys().map(|part| (part.holder, part.what)).collect()
    }

    #[test]
    fn who_maps_a_library_has_its_functions_probed_and_one_way_to_see_returns() {
        let folder = tempfile::tempdir().unwrap();
        let mut desired = Desired { holdings: vec![holding(folder.path(), ONE)], ..Desired::default() };
        let (base, kind) = (Group::Base, Kind::C);
        let (entries, returns) = (What::Entries(base, kind), What::Returns(base, kind));
        let return_probes = What::ReturnProbes(base, kind);
        assert_eq!(whats(&desired), [(ONE, return_probes), (ONE, entries)]);
        desired.by_returns = true;
        assert_eq!(whats(&desired), [(ONE, returns), (ONE, entries)]);
        assert!(desired.wanted(Some(2)).is_empty());
        desired.leave(|holding| holding.holder == ONE);
        assert!(whats(&desired).is_empty());
    }

    #[test]
    fn a_process_with_coroutines_has_return_instructions_beside_what_all_have() {
        let folder = tempfile::tempdir().unwrap();
        let all = holding(folder.path(), Holder::ALL);
        let process = ProcessKey { pid: 5, generation: 50 };
        let mut desired =
            Desired { chooses_returns: true, holdings: vec![all.clone()], ..Desired::default() };
        let before = whats(&desired);
        desired.stacks.insert(process, Followed::of([all.blueprint]));
        let mut expected = before;
        expected.push((Holder::from(process), What::Returns(Group::Base, Kind::C)));
        expected.sort_by_key(|(holder, what)| (*what, *holder));
        assert_eq!(whats(&desired), expected);
    }

    #[test]
    fn a_trial_adds_what_is_behind_and_its_end_takes_it_away() {
        let folder = tempfile::tempdir().unwrap();
        let desired = Desired { holdings: vec![holding(folder.path(), ONE)], ..Desired::default() };
        let export = What::Entries(Group::Export(Function::Read), Kind::C);
        let behind = What::Entries(Group::Internal, Kind::C);
        // Nothing is known of either.
        assert!(desired.is_wanted(7, export) && !desired.is_wanted(7, behind));
        let tried = |trial| Desired { trials: vec![trial], ..Desired::default() };
        let running = tried(Trial::example(7, Function::Read, false, false));
        assert!(running.is_wanted(7, export) && running.is_wanted(7, behind));
        let over = tried(Trial::example(7, Function::Read, true, false));
        assert!(!over.is_wanted(7, export) && over.is_wanted(7, behind));
        let condemned = tried(Trial::example(7, Function::Read, true, true));
        assert!(condemned.is_wanted(7, export) && !condemned.is_wanted(7, behind));
    }

    #[test]
    fn a_library_that_is_not_what_it_seemed_does_not_take_rustls_in_its_file_away() {
        let desired = Desired {
            probations: vec![Probation::condemned(7)],
            without_return_probes: true,
            by_returns: true,
            ..Desired::default()
        };
        for (kind, is_wanted) in [(Kind::C, false), (Kind::Rustls, true)] {
            for what in [What::Entries(Group::Base, kind), What::Returns(Group::Base, kind)] {
                assert_eq!(desired.is_wanted(7, what), is_wanted, "{what:?}");
            }
        }
    }
}
