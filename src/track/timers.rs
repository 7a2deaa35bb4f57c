//! What is to happen when event time has passed.

use std::collections::BTreeSet;

use super::slot::Slot;
use crate::event::Monotonic;

/// What a handle can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Records held for order go out.
    Held,
    /// The connection opens without data from /proc.
    Opening,
    /// The connection of a closed socket ends.
    Closed,
}

/// A handle's deadlines, by [`Timer`].
#[derive(Debug, Default)]
pub(super) struct Deadlines([Option<Monotonic>; 3]);

/// The deadlines of all handles.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Monotonic, Slot, Timer)>);

impl Timers {
    /// Sets, moves or (`None`) clears one deadline of a handle.
    pub fn set(&mut self, own: &mut Deadlines, slot: Slot, timer: Timer, at: Option<Monotonic>) {
        let own = &mut own.0[timer as usize];
        if *own == at {
            return;
        }
        if let Some(before) = *own {
            self.0.remove(&(before, slot, timer));
        }
        if let Some(at) = at {
            self.0.insert((at, slot, timer));
        }
        *own = at;
    }

    /// Clears all deadlines of a handle.
    pub fn clear(&mut self, own: &mut Deadlines, slot: Slot) {
        for timer in [Timer::Held, Timer::Opening, Timer::Closed] {
            self.set(own, slot, timer, None);
        }
    }

    /// The earliest deadline, if it has passed. It remains until it is cleared.
    pub fn expired(&self, now: Monotonic) -> Option<(Slot, Timer)> {
        self.0.first().filter(|(at, ..)| *at <= now).map(|(_, slot, timer)| (*slot, *timer))
    }
}
