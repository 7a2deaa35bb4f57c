//! Holds threads of the command while something is looked at, without anybody seeing it: as their tracer, for that
//! time. See [`Tracee`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use libc::c_int;
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::looker::PATIENCE;
use super::tracee::{self, Seen, Tracee};
use crate::probe::{Hold, Holds, monotonic};

/// Time between two looks whether a thread stands still that was asked to.
const LOOK: Duration = Duration::from_millis(1);
/// The same, whether one that does was killed: its parent hears of it only then.
const LOOK_HELD: Duration = Duration::from_millis(10);
/// Nobody is held longer, even if it was forgotten.
const LONGEST: Duration = PATIENCE.saturating_add(Duration::from_secs(5));
/// Nobody is held who has run for longer than this since the kernel side asked, ns.
const FRESH: u64 = 100_000_000;
/// Holds that ended before they began which are remembered.
const EARLY_MAX: usize = 1024;

/// The thread that does it. Once this is dropped, nobody is held.
#[derive(Debug)]
pub(super) struct Holder {
    ended: Option<Sender<Hold>>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Holder {
    /// `command`: pid of a child of this process, which is held for a moment to see whether that can be done.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn spawn(mut holds: Holds, command: u32) -> io::Result<Holder> {
        let bell = holds.bell();
        let (ended, orders) = unbounded();
        let (tell, told) = bounded(1);
        let thread = thread::Builder::new().name("holder".into()).spawn(move || {
            go_first();
            let tried = tracee::try_on(command);
            let can = tried.is_ok();
            let _ = tell.send(tried);
            if can {
                hold(&mut holds, &orders, Threads::new(command));
            }
        })?;
        told.recv().unwrap_or(Err(Errno::EIO))?;
        Ok(Holder { ended: Some(ended), bell, thread: Some(thread) })
    }

    /// Lets a thread go on.
    pub(super) fn end(&self, hold: Hold) {
        if let Some(ended) = &self.ended {
            let _ = ended.send(hold);
        }
        let _ = self.bell.write(1);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.ended = None;
        let _ = self.bell.write(1);
        // With the thread, the kernel lets all go that it traces.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn hold(holds: &mut Holds, orders: &Receiver<Hold>, mut threads: Threads) {
    loop {
        holds.wait(threads.patience());
        holds.take(|hold| threads.begin(hold));
        threads.look();
        loop {
            match orders.try_recv() {
                Ok(hold) => threads.end(hold),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }
}

/// Who is to be held runs until this thread has seized it.
fn go_first() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: a plain system call with a parameter of this frame, about this thread only. Refused, all goes on as
    // before: a thread may then run a little of its program before it is held.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) };
}

/// The threads that are held.
struct Threads {
    command: u32,
    held: Vec<Held>,
    /// Holds that have ended, and are still to begin.
    early: VecDeque<Hold>,
}

struct Held {
    pid: u32,
    tid: u32,
    /// The times of the holds that have not ended.
    times: Vec<u64>,
    state: State,
    since: Instant,
}

enum State {
    /// It is asked to stand still, or is being killed.
    Asked(Tracee),
    /// It does, and is to get this signal when it goes on.
    Trapped(Tracee, c_int),
    /// It cannot be held.
    Free,
}

impl Threads {
    fn new(command: u32) -> Threads {
        Threads { command, held: Vec::new(), early: VecDeque::new() }
    }

    /// How long to wait until the next [`look`](Self::look).
    fn patience(&self) -> Option<Duration> {
        let asked = self.held.iter().any(|held| matches!(held.state, State::Asked(_)));
        let traced = self.held.iter().any(|held| !matches!(held.state, State::Free));
        if asked { Some(LOOK) } else { traced.then_some(LOOK_HELD) }
    }

    fn begin(&mut self, hold: Hold) {
        if let Some(at) = self.early.iter().position(|early| *early == hold) {
            self.early.remove(at);
            return;
        }
        if let Some(held) = self.held.iter_mut().find(|held| held.tid == hold.tid) {
            held.times.push(hold.time);
            return;
        }
        // Of each process one thread. If a third calls exec, that waits until this thread has seen the end of the first,
        // and this one, were it to seize the second, would wait for exec.
        let is_alone = self.held.iter().all(|held| held.pid != hold.pid || matches!(held.state, State::Free));
        // If tls2pcap was stopped meanwhile, it may sleep in the kernel by now, and would be woken.
        let is_fresh = monotonic().saturating_sub(hold.time) < FRESH;
        // Who has a debugger stays with that.
        let seized =
            (is_alone && is_fresh).then(|| Tracee::seize(hold.tid, hold.tid == self.command).ok()).flatten();
        let state = seized.map_or(State::Free, State::Asked);
        let Hold { pid, tid, time } = hold;
        self.held.push(Held { pid, tid, times: vec![time], state, since: Instant::now() });
    }

    fn end(&mut self, hold: Hold) {
        let is_it = |held: &&mut Held| held.tid == hold.tid && held.times.contains(&hold.time);
        match self.held.iter_mut().find(is_it) {
            Some(held) => held.times.retain(|time| *time != hold.time),
            None => {
                self.early.truncate(EARLY_MAX - 1);
                self.early.push_front(hold);
            }
        }
        self.look();
    }

    /// Sees what has become of them, and lets those go that need not wait any more.
    fn look(&mut self) {
        self.held.retain_mut(|held| {
            if held.since.elapsed() >= LONGEST {
                held.times.clear();
            }
            held.state = std::mem::replace(&mut held.state, State::Free).looked_at(held.times.is_empty());
            !matches!(held.state, State::Free) || !held.times.is_empty()
        });
    }
}

impl State {
    fn looked_at(self, goes_on: bool) -> State {
        let (tracee, trapped) = match self {
            State::Asked(tracee) => (tracee, None),
            State::Trapped(tracee, signal) => (tracee, Some(signal)),
            State::Free => return State::Free,
        };
        let trapped = match tracee.look() {
            Seen::Gone => return State::Free,
            Seen::Trapped(signal) => Some(signal),
            Seen::Nothing => trapped,
        };
        match trapped {
            None => State::Asked(tracee),
            Some(signal) if !goes_on => State::Trapped(tracee, signal),
            Some(signal) => match tracee.detach(signal) {
                Ok(()) => State::Free,
                // It is being killed: its end is to be seen.
                Err(_) => State::Asked(tracee),
            },
        }
    }
}
