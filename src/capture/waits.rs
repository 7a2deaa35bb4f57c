//! Which threads of the command, or of the processes of -p, wait for an inspection, and how they are released.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Say;
use super::holder::{Holder, Late};
use super::stopped_parents::StoppedParents;
use crate::failure::{Exit, Failure};
use crate::launch::Held;
use crate::probe::{Hold, HoldWay, Probe, Target};

/// How.
pub(super) enum Waits {
    /// Nothing ever waits, in a capture of all: `false`. Or something should, and cannot.
    Nobody { should: bool },
    /// Unseen.
    Traced(Holder),
    /// By signals, where it cannot be done otherwise.
    Signalled(StoppedParents),
}

impl Waits {
    /// Chooses the way for a command, or for the processes of -p if these `wait`, and has the kernel side take it.
    ///
    /// # Errors
    /// If too few descriptors or threads are left.
    pub(super) fn of(probe: &mut Probe, held: Option<&Held>, wait: bool, say: Say) -> Result<Waits, Failure> {
        if held.is_none() && !wait {
            return Ok(Waits::Nobody { should: false });
        }
        let failed = |e: io::Error| {
            Failure::new(Exit::Io, format!("no descriptor can be opened to hold the command: {e}"), "")
        };
        match Holder::spawn(probe.holds().map_err(failed)?, held.map(Held::pid)) {
            Ok(holder) => {
                probe.hold_by(HoldWay::Tracer);
                Ok(Waits::Traced(holder))
            }
            // A signal would stop programs that are not ours, and may outlive us.
            Err(error) if held.is_none() => {
                say.warn(&format!(
                    "processes cannot be traced ({error}): they do not wait for probes, and TLS calls right after they load a TLS library or begin may be missing"
                ));
                Ok(Waits::Nobody { should: true })
            }
            Err(error) => {
                say.warn(&format!(
                    "the command cannot be traced ({error}): while a file that it maps is inspected, it is stopped by a signal, which its parent sees"
                ));
                probe.hold_by(HoldWay::Signal);
                let command = held.map_or(0, Held::pid);
                Ok(Waits::Signalled(StoppedParents::new(command, probe.stops().map_err(failed)?)))
            }
        }
    }

    /// What happens to targets that map a file.
    pub(super) fn target(&self) -> Target {
        match self {
            Waits::Nobody { .. } => Target::GoesOn,
            Waits::Traced(_) | Waits::Signalled(_) => Target::Waits,
        }
    }

    /// Whether the command must be woken up if this process dies.
    pub(super) fn outlive(&self) -> bool {
        matches!(self, Waits::Signalled(_))
    }

    /// Whether a thread of the command ran no more of its program before it was held. `None`: it was not.
    ///
    /// # Errors
    /// Why it did, or may have.
    pub(super) fn in_time(&self, hold: Option<Hold>) -> Result<(), Late> {
        match (self, hold) {
            (Waits::Nobody { should: false }, _) | (Waits::Signalled(_), Some(_)) => Ok(()),
            (Waits::Traced(holder), Some(hold)) => holder.in_time(hold),
            (Waits::Nobody { should: true }, _) => Err(Late::Refused(Errno::EPERM)),
            (Waits::Traced(_) | Waits::Signalled(_), None) => Err(Late::NotAsked),
        }
    }

    /// Releases a thread.
    pub(super) fn end(&self, probe: &Probe, hold: Hold) {
        match self {
            Waits::Nobody { .. } => {}
            Waits::Traced(holder) => holder.end(hold),
            Waits::Signalled(parents) => {
                parents.watch_those_of(hold.pid);
                probe.end_stop(hold.pid);
                // It belongs to the command, and stays stopped until this. If it was killed it no longer
                // exists.
                let _ = kill(Pid::from_raw(hold.pid.cast_signed()), Signal::SIGCONT);
            }
        }
    }
}
