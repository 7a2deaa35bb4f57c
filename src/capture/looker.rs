//! Inspects the files of other processes on a separate thread.
//!
//! A file may be large, or made to be expensive. Meanwhile the control thread serves signals, and releases
//! threads that have waited too long.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::threads::Message;
use crate::discover::{Bio, Discovery, Found, InProcess};
use crate::event::{FileSeen, NoSocket};
use crate::failure::{Exit, Failure};
use crate::probe::Hold;

/// How long a thread of the command waits for one inspection.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Most queued inspections. More are refused.
const WAITING_MAX: usize = 4096;

/// What is to be looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// TLS libraries of a process that has just mapped a file.
    File(FileSeen),
    /// TLS libraries of a process that runs already.
    Process(u32),
    /// BIO functions of a process that encrypts into memory.
    Bios(NoSocket),
    /// TLS libraries of a process that has coroutines.
    Stacks(NoSocket),
}

impl Look {
    /// The thread that is held until this is done.
    pub(super) fn held(&self) -> Option<Hold> {
        let hold = |pid, tid, time| Hold { pid, tid, time };
        match self {
            Look::File(file) => file.stopped.then_some(hold(file.pid, file.tid, file.time)),
            Look::Process(_) => None,
            Look::Bios(seen) | Look::Stacks(seen) => {
                seen.stopped.then_some(hold(seen.process.pid, seen.tid, seen.time))
            }
        }
    }

    fn went_on(&mut self) {
        match self {
            Look::File(file) => file.stopped = false,
            Look::Process(_) => {}
            Look::Bios(seen) | Look::Stacks(seen) => seen.stopped = false,
        }
    }
}

/// The result of an inspection.
pub(super) enum Sight {
    /// For [`Look::File`] and [`Look::Process`].
    Libraries(io::Result<InProcess>),
    /// For [`Look::Bios`].
    Bios(io::Result<Vec<Bio>>),
    /// For [`Look::Stacks`]; nothing if the process has exited.
    Found(Vec<Found>),
}

/// A finished inspection.
pub(super) struct Looked {
    pub(super) sight: Sight,
    /// Some inspected process can switch stacks.
    pub(super) has_seen_switcher: bool,
}

/// The queued inspections, done one at a time, in order.
pub(super) struct Looker {
    orders: Sender<Look>,
    /// The first is being done.
    looks: VecDeque<(Look, Instant)>,
}

impl Looker {
    /// `messages` receives each finished inspection.
    ///
    /// # Errors
    /// If no thread can be created.
    pub(super) fn spawn(discovery: Discovery, messages: Sender<Message>) -> Result<Looker, Failure> {
        let (orders, ordered) = bounded(1);
        thread::Builder::new()
            .name("looker".into())
            .spawn(move || work(discovery, &ordered, &messages))
            .map_err(|e| Failure::new(Exit::Io, format!("no thread can be started: {e}"), ""))?;
        Ok(Looker { orders, looks: VecDeque::new() })
    }

    /// Queues an inspection. Whether it will be done.
    pub(super) fn order(&mut self, look: Look) -> bool {
        if self.looks.len() >= WAITING_MAX {
            return false;
        }
        self.looks.push_back((look, Instant::now()));
        if self.looks.len() == 1 {
            self.begin();
        }
        true
    }

    /// The first inspection is finished: returns what it was for.
    pub(super) fn over(&mut self) -> Option<Look> {
        let over = self.looks.pop_front();
        self.begin();
        over.map(|(look, _)| look)
    }

    /// The next thread that has waited this long; the caller releases it now.
    pub(super) fn next_waiting(&mut self, since: Duration) -> Option<Hold> {
        let waits =
            |(look, ordered): &&mut (Look, Instant)| look.held().is_some() && ordered.elapsed() >= since;
        let (look, _) = self.looks.iter_mut().find(waits)?;
        let hold = look.held();
        look.went_on();
        hold
    }

    /// Ends all inspections; returns those that were queued.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Look> + use<> {
        std::mem::take(&mut self.looks).into_iter().map(|(look, _)| look)
    }

    fn begin(&mut self) {
        if let Some((look, _)) = self.looks.front() {
            // There is a free place: one is done at a time.
            let _ = self.orders.try_send(*look);
        }
    }
}

fn work(mut discovery: Discovery, ordered: &Receiver<Look>, messages: &Sender<Message>) {
    for look in ordered {
        let sight = match look {
            Look::File(file) => Sight::Libraries(libraries(&mut discovery, &file)),
            Look::Process(pid) => Sight::Libraries(discovery.libraries_of(pid, None)),
            Look::Bios(seen) => Sight::Bios(discovery.bios_of(seen.process.pid)),
            Look::Stacks(seen) => Sight::Found(
                discovery.libraries_of(seen.process.pid, None).map(|p| p.found).unwrap_or_default(),
            ),
        };
        let has_seen_switcher = discovery.has_seen_switcher();
        if messages.send(Message::Looked(Looked { sight, has_seen_switcher })).is_err() {
            return;
        }
    }
}

fn libraries(discovery: &mut Discovery, file: &FileSeen) -> io::Result<InProcess> {
    let mut in_process = discovery.libraries_of(file.pid, Some(file.inode))?;
    // Who waits now need not wait for each library again.
    if file.stopped {
        in_process.plain = discovery.plain_ahead_of(file.pid, file.inode);
    }
    Ok(in_process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pid: u32, stopped: bool) -> Look {
        Look::File(FileSeen { pid, tid: pid, time: 0, device: 3, inode: 4, stopped })
    }

    #[test]
    fn who_waits_goes_on_once_and_in_order() {
        // One inspection never ends.
        let (orders, _ordered) = bounded(1);
        let mut looker = Looker { orders, looks: VecDeque::new() };
        for (pid, stopped) in [(1, true), (2, false), (3, true)] {
            assert!(looker.order(file(pid, stopped)));
        }
        assert_eq!(looker.next_waiting(PATIENCE), None);
        let mut going = || looker.next_waiting(Duration::ZERO).map(|hold| hold.tid);
        assert_eq!([going(), going(), going()], [Some(1), Some(3), None]);
        // The inspections are done anyway.
        assert!(
            (1..=3).all(|pid| matches!(looker.over(), Some(Look::File(f)) if f.pid == pid && !f.stopped))
        );
        assert!(looker.over().is_none());
    }

    #[test]
    fn too_many_looks_are_refused() {
        let (orders, _ordered) = bounded(1);
        let mut looker = Looker { orders, looks: VecDeque::new() };
        assert_eq!(
            (0..2 * WAITING_MAX as u32).filter(|pid| looker.order(file(*pid, true))).count(),
            WAITING_MAX
        );
        assert_eq!(looker.give_up().count(), WAITING_MAX);
    }
}
