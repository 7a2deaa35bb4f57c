//! Libraries whose functions were found in their code, without names, and have to prove themselves: until they have,
//! their connections are not opened. Of functions that turn out to be others, nothing is written.

use super::handle::View;
use super::slot::Slot;
use super::stream::Out;
use super::timers::Timer;
use super::tracker::Tracker;
use crate::event::{LibraryId, Verdict};

impl Tracker {
    pub(super) fn is_unproven(&self, library: LibraryId) -> bool {
        self.verdicts.get(&library) == Some(&Verdict::Pending)
    }

    pub(super) fn verdict(&mut self, library: LibraryId, verdict: Verdict, out: Out) {
        match verdict {
            Verdict::Proven => {
                self.verdicts.remove(&library);
            }
            _ if self.verdicts.len() < self.limits.libraries || self.verdicts.contains_key(&library) => {
                self.verdicts.insert(library, verdict);
            }
            // It is written as it arrives.
            _ => self.bounds.libraries_refused += 1,
        }
        if verdict == Verdict::Pending {
            return;
        }
        let is_of = |view: &View| match view {
            View::Owner(stream) => stream.first.library == library && !stream.is_open(),
            _ => false,
        };
        let of_library = self.handles.iter().filter(|(_, handle)| is_of(&handle.view));
        let mut waiting: Vec<_> = of_library.map(|(slot, handle)| (handle.connection(), slot)).collect();
        waiting.sort_unstable();
        for (_, slot) in waiting {
            match verdict {
                Verdict::Wrong => self.discard(slot),
                _ => self.open_if_known(slot, out),
            }
        }
    }

    /// What waits of the handle is none of TLS's.
    fn discard(&mut self, slot: Slot) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        let Some(stream) = handle.stream() else { return };
        self.opening -= stream.waiting();
        handle.view = View::Idle;
        self.timers.set(&mut handle.deadlines, slot, Timer::Opening, None);
    }
}
