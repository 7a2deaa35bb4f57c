//! Calls of coroutines, if the user has chosen return probes. Linux expects the returns of one thread in the
//! reverse order of the calls; return probes kill a program that switches to another stack in between. On such
//! stacks (see `bpf/stack.bpf.h`) return instructions are probed instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Probe;
use super::attach::Leaving;
use super::blueprint::Blueprint;
use super::parts::Holder;
use super::returns::Unfollowed;
use super::sites::Programs;
use crate::discover::Found;
use crate::event::{LibraryId, ProcessKey};

/// The libraries that are followed so in a process.
#[derive(Default)]
pub(super) struct Followed(BTreeMap<LibraryId, Arc<Blueprint>>);

impl Followed {
    #[cfg(test)]
    pub(super) fn of(blueprints: impl IntoIterator<Item = Arc<Blueprint>>) -> Followed {
        Followed(blueprints.into_iter().map(|blueprint| (blueprint.id, blueprint)).collect())
    }

    pub(super) fn libraries(&self) -> impl Iterator<Item = &Arc<Blueprint>> {
        self.0.values()
    }
}

impl Probe {
    /// Probes the return instructions of a process's TLS libraries. If the kernel cannot be told at each entry
    /// to leave the return alone, all return probes are removed.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn follow_stacks(
        &mut self,
        process: ProcessKey,
        found: &[Found],
    ) -> Result<Vec<Unfollowed>, libbpf_rs::Error> {
        let mut unclear = Vec::new();
        for found in found {
            // One that is not probed yet is followed when it is.
            let Some(id) = self.libraries.get(&found.key).copied() else { continue };
            if self.desired.stacks.get(&process).is_some_and(|followed| followed.0.contains_key(&id)) {
                continue;
            }
            let blueprint = self.blueprint(found, id);
            unclear.extend(blueprint.unfollowed.iter().cloned());
            self.desired.stacks.entry(process).or_default().0.insert(id, blueprint);
            let holder = Holder::from(process);
            let failures = self.bring_about_in(Some(holder.pid), Leaving::Unwatched);
            if let Err(error) = failures.of(|part| part.holder == holder) {
                self.desired.stacks.entry(process).or_default().0.remove(&id);
                self.bring_about_in(Some(holder.pid), Leaving::Unwatched);
                return Err(error);
            }
        }
        unclear.extend(self.avoid_return_probes()?);
        Ok(unclear)
    }

    /// Forgets that a library is followed.
    pub(super) fn forget_stacks_in(&mut self, id: LibraryId) {
        self.desired.stacks.values_mut().for_each(|followed| drop(followed.0.remove(&id)));
    }

    /// The process of this pid, if it has coroutines.
    pub fn with_stacks(&self, pid: u32) -> Option<ProcessKey> {
        self.desired.stacks.keys().find(|process| process.pid == pid).copied()
    }

    /// Whether processes with coroutines use a library: they need its exports, because the returns of its
    /// internal functions are seldom known.
    pub(super) fn has_coroutines(&self, id: LibraryId) -> bool {
        self.desired.stacks.values().any(|followed| followed.0.contains_key(&id))
    }

    /// If the kernel cannot be told at each entry to leave the return alone: sets no more return probes, and
    /// removes existing ones. To be called before a program with coroutines runs, or as soon as one is known.
    /// Returns the functions whose calls are no longer followed.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn avoid_return_probes(&mut self) -> Result<Vec<Unfollowed>, libbpf_rs::Error> {
        if self.kernel.way.programs == Programs::Session || self.desired.by_returns {
            return Ok(Vec::new());
        }
        self.desired.into_memory.clear();
        self.bring_about(Leaving::Awaited);
        self.desired.by_returns = true;
        self.tell_by_returns();
        let failures = self.bring_about(Leaving::Awaited);
        let unclear = self.desired.holdings.iter().flat_map(|holding| holding.blueprint.unfollowed.clone());
        let mut unclear: Vec<Unfollowed> = unclear.collect();
        unclear.dedup();
        let news = self.end_probations_without_returns();
        self.unsaid.extend(news);
        for id in self.libraries.values().copied().collect::<Vec<_>>() {
            // Where they return is seldom known.
            self.acquit(id);
        }
        failures.of(|_| true).map(|()| unclear)
    }

    /// Tells the kernel side whether there are return probes.
    pub(super) fn tell_by_returns(&mut self) {
        let by_returns = u32::from(self.desired.by_returns);
        self.kernel.set(|variables| &mut variables.by_returns, by_returns);
    }
}
