//! Holds threads of the command during an inspection, unnoticed: by tracing them for that time. See [`Tracee`].
//!
//! A thread waits in the kernel until it is seized, preferably from another processor: so two threads do it,
//! each pinned to a different processor.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use libc::c_int;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::EventFd;
use nix::unistd::Pid;

use super::looker::PATIENCE;
use super::tracee::{self, Seen, Tracee};
use crate::probe::{Hold, Holds, SyscallReturn, monotonic};

/// Time between two checks whether a thread that was asked to stop has stopped.
const LOOK: Duration = Duration::from_millis(1);
/// The same, whether one that does was killed: its parent hears of it only then.
const LOOK_HELD: Duration = Duration::from_millis(10);
/// Nobody is held longer, even if it was forgotten. Where probes are attached one by one (before Linux 6.6) and there is
/// hardly any processor time, that alone may take a minute.
const LONGEST: Duration = PATIENCE.saturating_add(Duration::from_secs(120));
/// A thread that was asked to stop does so as soon as it leaves the kernel, but it may have to wait for a
/// processor.
const LONGEST_STOP: Duration = Duration::from_secs(5);
/// No thread is held that has run for longer than this since the kernel side asked, ns. It waits half as long.
const FRESH: u64 = 600_000_000;
/// Holds that ended before they began which are remembered.
const EARLY_MAX: usize = 1024;

/// The threads that do it. Once this is dropped, no thread is held.
#[derive(Debug)]
pub(super) struct Holder(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    orders: Option<Sender<Order>>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// Why a thread may have run some of its program before it was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// The kernel side did not ask for it: another process traces it, or the ring was full.
    NotAsked,
    /// Another thread of its process is held.
    Another,
    /// It was asked for too long ago.
    Stale,
    /// It cannot be traced, or has ended.
    Refused(Errno),
    /// It was seized, but had run on.
    WentOn,
    /// It ended while it was held.
    Ended,
    /// It has not stopped yet, or is not held any more.
    Unknown,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Late::NotAsked => f.write_str("it is traced by another process, or too many wait"),
            Late::Another => f.write_str("another of its threads is held"),
            Late::Stale => f.write_str("tls2pcap got no processor for too long"),
            Late::Refused(error) => write!(f, "it cannot be traced: {error}"),
            Late::WentOn => f.write_str("tls2pcap got no processor in time"),
            Late::Ended => f.write_str("it ended meanwhile"),
            Late::Unknown => f.write_str("it did not stop in time, or was held for too long"),
        }
    }
}

/// What is to be done with a thread.
#[derive(Clone, Debug)]
enum Order {
    End(Hold),
    /// Whether it stood still in time.
    Ask(Hold, Sender<Result<(), Late>>),
}

impl Holder {
    /// `command`: pid of the command, if there is one: a child of this process. It is held for a moment to see whether that
    /// can be done; else another one is.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn spawn([holds, more]: [Holds; 2], command: Option<u32>) -> io::Result<Holder> {
        let busy = Busy::default();
        let processors = processors();
        let (first, goes_first) = Worker::spawn(holds, command, busy.clone(), processors.first().copied())?;
        let mut workers = vec![first];
        if let (true, Some(processor)) = (goes_first, processors.get(1)) {
            workers.push(Worker::spawn(more, command, busy, Some(*processor))?.0);
        }
        Ok(Holder(workers))
    }

    /// Releases a thread.
    pub(super) fn end(&self, hold: Hold) {
        self.order(&Order::End(hold));
    }

    /// Whether a thread stood still before it ran any more of its program. Waits until it does, for five seconds at most.
    ///
    /// # Errors
    /// Why it did not, or may not have.
    pub(super) fn in_time(&self, hold: Hold) -> Result<(), Late> {
        let (answer, answered) = bounded(1);
        self.order(&Order::Ask(hold, answer));
        answered.recv_timeout(LONGEST_STOP).unwrap_or(Err(Late::Unknown))
    }

    /// Only one of them holds the thread.
    fn order(&self, order: &Order) {
        for Worker { orders, bell, .. } in &self.0 {
            let _ = orders.as_ref().map(|orders| orders.send(order.clone()));
            let _ = bell.write(1);
        }
    }
}

impl Worker {
    /// Also returns whether it has priority over all other threads of its processor.
    fn spawn(
        mut holds: Holds,
        command: Option<u32>,
        busy: Busy,
        processor: Option<usize>,
    ) -> io::Result<(Worker, bool)> {
        let bell = holds.bell();
        let (send, orders) = unbounded();
        let (tell, told) = bounded(1);
        let thread = thread::Builder::new().name("holder".into()).spawn(move || {
            let goes_first = go_first();
            if goes_first {
                stay_on(processor);
            }
            let tried = command.map_or_else(tracee::may_trace, tracee::try_on);
            let can = tried.is_ok();
            let _ = tell.send(tried.map(|()| goes_first));
            if can {
                hold(&mut holds, goes_first, &orders, Threads::new(command, busy));
            }
        })?;
        let goes_first = told.recv().unwrap_or(Err(Errno::EIO))?;
        Ok((Worker { orders: Some(send), bell, thread: Some(thread) }, goes_first))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.bell.write(1);
        // With the thread, the kernel lets all go that it traces.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn hold(holds: &mut Holds, goes_first: bool, orders: &Receiver<Order>, mut threads: Threads) {
    loop {
        if goes_first {
            holds.tell_processor();
        }
        holds.wait(threads.patience());
        holds.take(|hold, place| threads.begin(hold, place));
        threads.look();
        loop {
            let order = orders.try_recv();
            // An order about a hold is sent after this thread was notified of the hold.
            holds.take(|hold, place| threads.begin(hold, place));
            match order {
                Ok(Order::End(hold)) => threads.end(hold),
                Ok(Order::Ask(hold, answer)) => threads.ask(hold, answer),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }
}

/// The thread to hold runs until this thread has seized it. Returns whether this thread now has priority over
/// all others.
fn go_first() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: a plain system call with a parameter of this frame, about this thread only. If refused, nothing
    // changes: a thread may then run a little of its program before it is held, which is noticed.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0
    }
}

/// The processors that this process may use.
fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false)).collect()
}

/// Pins this thread to the processor. If refused, the kernel side is told when it runs elsewhere.
fn stay_on(processor: Option<usize>) {
    let mut set = CpuSet::new();
    if processor.is_some_and(|processor| set.set(processor).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// The processes of which a thread is held.
#[derive(Clone, Debug, Default)]
struct Busy(Arc<Mutex<Vec<u32>>>);

/// A thread of this process is held, until this is dropped.
struct Turn {
    pid: u32,
    busy: Busy,
}

impl Busy {
    /// `None`: one is held already.
    fn turn(&self, pid: u32) -> Option<Turn> {
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pids.contains(&pid) {
            return None;
        }
        pids.push(pid);
        Some(Turn { pid, busy: self.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.pid);
    }
}

/// The threads that are held.
struct Threads {
    command: Option<u32>,
    busy: Busy,
    held: Vec<Held>,
    /// Holds that have ended, and are still to begin.
    early: VecDeque<Hold>,
}

struct Held {
    tid: u32,
    /// The times of the holds that have not ended.
    times: Vec<u64>,
    state: Stage,
    since: Instant,
    /// Where it must stop.
    place: Option<SyscallReturn>,
    /// Whether it did, if known.
    in_time: Option<Result<(), Late>>,
    /// Who wants to know.
    asking: Vec<Sender<Result<(), Late>>>,
}

enum Stage {
    /// It is asked to stop, or is being killed.
    Asked(Tracee, Option<Turn>),
    /// It has stopped, and gets this signal when it continues.
    Trapped(Tracee, Option<Turn>, c_int),
    /// It cannot be held.
    Free,
}

/// The state of a thread that was asked to stop.
enum Met {
    Standing(Option<SyscallReturn>),
    /// It runs no more.
    Gone,
}

impl Threads {
    fn new(command: Option<u32>, busy: Busy) -> Threads {
        Threads { command, busy, held: Vec::new(), early: VecDeque::new() }
    }

    /// How long to wait until the next [`look`](Self::look).
    fn patience(&self) -> Option<Duration> {
        let asked = self.held.iter().any(|held| matches!(held.state, Stage::Asked(..)));
        let traced = self.held.iter().any(|held| !matches!(held.state, Stage::Free));
        if asked { Some(LOOK) } else { traced.then_some(LOOK_HELD) }
    }

    fn begin(&mut self, hold: Hold, place: Option<SyscallReturn>) {
        if let Some(at) = self.early.iter().position(|early| *early == hold) {
            self.early.remove(at);
            return;
        }
        if let Some(held) = self.held.iter_mut().find(|held| held.tid == hold.tid) {
            held.times.push(hold.time);
            // It has run on since the previous hold.
            held.know(Err(Late::WentOn));
            return;
        }
        // Of each process one thread. If a third calls exec, that waits until this thread has seen the end of the first,
        // and this one, were it to seize the second, would wait for exec.
        let turn = self.busy.turn(hold.pid);
        // If tls2pcap was stopped meanwhile, it may sleep in the kernel by now, and would be woken.
        let is_fresh = monotonic().saturating_sub(hold.time) < FRESH;
        // Who has a debugger stays with that.
        let seized = turn.ok_or(Late::Another).and_then(|turn| {
            if !is_fresh {
                return Err(Late::Stale);
            }
            let tracee = Tracee::seize(hold.tid, Some(hold.tid) == self.command).map_err(Late::Refused)?;
            Ok(Stage::Asked(tracee, Some(turn)))
        });
        let (state, in_time) = match seized {
            Ok(state) => (state, None),
            Err(late) => (Stage::Free, Some(Err(late))),
        };
        let Hold { tid, time, .. } = hold;
        let (times, since, asking) = (vec![time], Instant::now(), Vec::new());
        self.held.push(Held { tid, times, state, since, place, in_time, asking });
    }

    /// Answers as soon as it is known whether a thread stopped in time.
    fn ask(&mut self, hold: Hold, answer: Sender<Result<(), Late>>) {
        let is_it = |held: &&mut Held| held.tid == hold.tid && held.times.contains(&hold.time);
        if let Some(held) = self.held.iter_mut().find(is_it) {
            held.asking.push(answer);
            held.answer();
        }
    }

    fn end(&mut self, hold: Hold) {
        let is_it = |held: &&mut Held| held.tid == hold.tid && held.times.contains(&hold.time);
        match self.held.iter_mut().find(is_it) {
            Some(held) => held.times.retain(|time| *time != hold.time),
            // Or the other thread holds it.
            None => {
                self.early.truncate(EARLY_MAX - 1);
                self.early.push_front(hold);
            }
        }
        self.look();
    }

    /// Checks their state, and releases those that need not wait any more.
    fn look(&mut self) {
        self.held.retain_mut(|held| {
            if held.since.elapsed() >= LONGEST {
                held.times.clear();
            }
            let (state, met) =
                std::mem::replace(&mut held.state, Stage::Free).looked_at(held.times.is_empty());
            held.state = state;
            match met {
                Some(Met::Standing(place)) => {
                    let is_same = held.place.zip(place).is_none_or(|(wanted, place)| wanted.is_same(place));
                    held.know(is_same.then_some(()).ok_or(Late::WentOn));
                }
                // It was killed, or has ended: it is unknown which.
                Some(Met::Gone) => held.know(Err(Late::Ended)),
                None => {}
            }
            !matches!(held.state, Stage::Free) || !held.times.is_empty()
        });
    }
}

impl Held {
    /// What is known first counts.
    fn know(&mut self, in_time: Result<(), Late>) {
        self.in_time.get_or_insert(in_time);
        self.answer();
    }

    fn answer(&mut self) {
        if let Some(in_time) = self.in_time {
            for answer in self.asking.drain(..) {
                let _ = answer.send(in_time);
            }
        }
    }
}

impl Stage {
    /// What it is now, and how the thread was met if that is news.
    fn looked_at(self, goes_on: bool) -> (Stage, Option<Met>) {
        let (tracee, turn, trapped) = match self {
            Stage::Asked(tracee, turn) => (tracee, turn, None),
            Stage::Trapped(tracee, turn, signal) => (tracee, turn, Some(signal)),
            Stage::Free => return (Stage::Free, None),
        };
        let (trapped, met) = match tracee.look() {
            Seen::Gone => return (Stage::Free, Some(Met::Gone)),
            Seen::Trapped(signal) => (Some(signal), Some(Met::Standing(tracee.place()))),
            Seen::Nothing => (trapped, None),
        };
        let state = match trapped {
            None => Stage::Asked(tracee, turn),
            Some(signal) if !goes_on => Stage::Trapped(tracee, turn, signal),
            Some(signal) => {
                // Before it continues: the other thread may have to hold it again immediately.
                let again = turn.map(|turn| (turn.busy.clone(), turn.pid));
                match tracee.detach(signal) {
                    Ok(()) => Stage::Free,
                    // It is being killed: its end is to be seen.
                    Err(_) => Stage::Asked(tracee, again.and_then(|(busy, pid)| busy.turn(pid))),
                }
            }
        };
        (state, met)
    }
}
