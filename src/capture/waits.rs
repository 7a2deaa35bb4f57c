//! Who of the command waits for a look, and how it is let go on.

use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Say;
use super::holder::Holder;
use super::minders::Minders;
use crate::failure::{Exit, Failure};
use crate::launch::Held;
use crate::probe::{Hold, HoldWay, Probe};

/// How.
pub(super) enum Waits {
    /// There is no command: nobody ever waits.
    Nobody,
    /// Unseen.
    Traced(Holder),
    /// By signals, where it cannot be done otherwise.
    Signalled(Minders),
}

impl Waits {
    /// Chooses the way for a command, and has the kernel side take it.
    ///
    /// # Errors
    /// If too few descriptors or threads are left.
    pub(super) fn of(probe: &mut Probe, held: Option<&Held>, say: Say) -> Result<Waits, Failure> {
        let Some(held) = held else { return Ok(Waits::Nobody) };
        let failed = |e: io::Error| {
            Failure::new(Exit::Io, format!("nothing can be kept open to hold the command: {e}"), "")
        };
        match Holder::spawn(probe.holds().map_err(failed)?, held.pid()) {
            Ok(holder) => {
                probe.hold_by(HoldWay::Tracer);
                Ok(Waits::Traced(holder))
            }
            Err(error) => {
                say.warn(&format!(
                    "the command cannot be traced ({error}): while a file that it maps is looked at it is stopped by a signal, which whoever started it sees"
                ));
                probe.hold_by(HoldWay::Signal);
                Ok(Waits::Signalled(Minders::new(held.pid(), probe.stops().map_err(failed)?)))
            }
        }
    }

    /// Whether the command must be woken up if this process dies.
    pub(super) fn outlive(&self) -> bool {
        matches!(self, Waits::Signalled(_))
    }

    /// Whether a thread of the command ran no more of its program before it was held. `None`: it was not.
    pub(super) fn was_in_time(&self, hold: Option<Hold>) -> bool {
        match (self, hold) {
            (Waits::Nobody, _) | (Waits::Signalled(_), Some(_)) => true,
            (Waits::Traced(holder), Some(hold)) => holder.was_in_time(hold),
            (Waits::Traced(_) | Waits::Signalled(_), None) => false,
        }
    }

    /// Lets a thread go on.
    pub(super) fn end(&self, probe: &Probe, hold: Hold) {
        match self {
            Waits::Nobody => {}
            Waits::Traced(holder) => holder.end(hold),
            Waits::Signalled(minders) => {
                minders.watch_those_of(hold.pid);
                probe.end_stop(hold.pid);
                // It belongs to the command, and stays stopped until this. If it was killed it is gone.
                let _ = kill(Pid::from_raw(hold.pid.cast_signed()), Signal::SIGCONT);
            }
        }
    }
}
