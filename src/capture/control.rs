//! The control thread: what must happen outside the stream of records.

mod probing;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Say;
use super::looker::{Look, Looked, Looker, PATIENCE, Sight};
use super::not_captured::NotCaptured;
use super::queue::Queue;
use super::reader::{Notice, RING_INTERVAL};
use super::recheck::Recheck;
use super::threads::{CLOCK_INTERVAL, Message};
use super::unused::Unused;
use super::waits::Waits;
use crate::discover::process::process_facts;
use crate::event::record::Counter;
use crate::event::record::encode;
use crate::event::{
    Direction, Event, Fact, FileSeen, HandleFact, Missing, ProcessFacts, ProcessKey, ProcessLoss, Task,
};
use crate::failure::{Exit, Failure};
use crate::kept::Kept;
use crate::launch::Running;
use crate::losses;
use crate::printable;
use crate::probe::{Gate, Hold, News, Probe, Target, clocks, monotonic};
use crate::status::{self, Numbers, StatusLine};

/// Events of the control thread that wait for a lagging writer. Beyond that the file lacks what /proc has about
/// a process, or the name of a library.
const WAITING_MAX: usize = 4096;

/// Time between two readings of the losses by process.
const LOSSES_INTERVAL: Duration = Duration::from_secs(1);

/// How long a command that Wireshark runs may take to end after it was told to.
const COMMAND_PATIENCE: Duration = Duration::from_millis(400);

/// The control thread's belongings.
pub(super) struct Control {
    pub(super) probe: Probe,
    looker: Looker,
    pub(super) queue: Arc<Queue>,
    /// Events for the lagging writer: this thread never waits, because the command may be stopped until it
    /// acts.
    waiting: VecDeque<Event>,
    say: Say,
    /// Processes that ended and whose table entries are to be given back.
    ended: HashSet<ProcessKey>,
    /// Processes whose probed BIO functions were reported.
    told_of_bios: HashSet<ProcessKey>,
    waits: Waits,
    /// Why nothing is captured of targets.
    pub(super) not_captured: NotCaptured,
    pub(super) kept: Kept,
    /// How many losses were reported by process, and when.
    told_losses: (u64, Instant),
    recheck: Recheck,
    unused: Unused,
    /// Wireshark runs this: it waits for no command.
    pub(super) for_wireshark: bool,
    /// Whoever read the output closed it while the capture ran.
    pub(super) reader_gone: bool,
    /// The capture ends so long after it has begun.
    pub(super) duration: Option<Duration>,
}

impl Control {
    pub(super) fn new(
        probe: Probe,
        (looker, unused): (Looker, Unused),
        queue: Arc<Queue>,
        say: Say,
        waits: Waits,
        not_captured: NotCaptured,
        kept: Kept,
    ) -> Control {
        Control {
            probe,
            looker,
            queue,
            waiting: VecDeque::new(),
            say,
            ended: HashSet::new(),
            told_of_bios: HashSet::new(),
            waits,
            not_captured,
            kept,
            told_losses: (0, Instant::now()),
            recheck: Recheck::default(),
            unused,
            for_wireshark: false,
            reader_gone: false,
            duration: None,
        }
    }

    /// Whether the command must be woken up if this process dies.
    pub(super) fn outlives(&self) -> bool {
        self.waits.outlive()
    }

    /// Passes the writer an event, now or as soon as it can take one.
    fn tell(&mut self, event: Event) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(event);
        }
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some(event) = self.waiting.front() {
            if encode(event).is_some_and(|record| !self.queue.offer(&record)) {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Until the command ends, a signal comes, or something fails.
    pub(super) fn run(
        &mut self,
        heard: &Receiver<Message>,
        running: Option<Running>,
        line: Option<StatusLine<io::Stderr>>,
        numbers: &Mutex<Numbers>,
        began: Instant,
    ) -> Result<Exit, Failure> {
        let until = self.duration.and_then(|duration| Instant::now().checked_add(duration));
        let mut course = Course {
            heard,
            running,
            line,
            numbers,
            began,
            kept_house: Instant::now(),
            only_children: false,
            patience: None,
        };
        let end = loop {
            if until.is_some_and(|until| Instant::now() >= until) {
                if course.running.is_some() {
                    self.say.warn("the time is over: the command continues, but is no longer captured");
                }
                break self.go_without(&mut course);
            }
            if course.patience.is_some_and(|until| Instant::now() >= until) {
                break Ok(Exit::Success);
            }
            if course.kept_house.elapsed() >= CLOCK_INTERVAL {
                course.kept_house = Instant::now();
                if course.only_children && !self.probe.has_targets() {
                    break Ok(Exit::Success);
                }
                self.keep_house();
                let warnings = self.kept.look();
                if !warnings.is_empty() {
                    course.clear_line();
                }
                warnings.iter().for_each(|text| self.say.warn(text));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let message = heard.recv_timeout(left.map_or(CLOCK_INTERVAL, |left| left.min(CLOCK_INTERVAL)));
            if let Some(end) = message.ok().and_then(|message| self.hear(message, &mut course)) {
                break end;
            }
            course.update_line();
        };
        course.clear_line();
        end
    }

    /// Acts on a message. Returns how the capture ends, if it does.
    fn hear(&mut self, message: Message, course: &mut Course<'_>) -> Option<Result<Exit, Failure>> {
        match message {
            Message::Notice(Notice::File(file)) => self.look(Look::File(file)),
            Message::Notice(Notice::NoSocket(seen)) if seen.other_stack => self.look(Look::Stacks(seen)),
            Message::Notice(Notice::NoSocket(seen)) => self.look(Look::Bios(seen)),
            Message::Notice(Notice::Process(key)) => self.ask(key),
            Message::Notice(Notice::Exit(key)) => {
                self.told_of_bios.remove(&key);
                self.ended.insert(key);
            }
            Message::Looked(looked) => self.looked(looked),
            Message::Unused(answer) => self.unused.answered(&mut self.probe, answer),
            Message::FileWanted => self.yield_files(),
            Message::NumbersWanted => {
                course.clear_line();
                printable::say(&status::so_far(&course.numbers(), course.began.elapsed()));
            }
            Message::Signal(signal) => {
                match &course.running {
                    // The command decides when to end; a Ctrl-C it has heard itself.
                    Some(_) if self.for_wireshark => course.end_command(),
                    Some(running) if signal != SIGINT => running.forward(signal),
                    Some(_) => {}
                    None => return Some(Ok(Exit::Success)),
                }
                // Who is stopped hears no signal.
                self.let_waiting_go(Duration::ZERO);
            }
            Message::Ended => {
                let status = course.running.as_mut().map_or(Ok(Exit::Success), status_of);
                // It was told to end: its status is not an error.
                return Some(if course.patience.is_some() { Ok(Exit::Success) } else { status });
            }
            Message::Gone { pid, left } => {
                self.probe.remove_target(pid);
                course.clear_line();
                let followed = left == 0 && self.probe.has_targets();
                let more = if followed { "; the capture continues with its children" } else { "" };
                self.say.warn(&format!("process {pid} has ended{more}"));
                if left == 0 && !followed {
                    return Some(Ok(Exit::Success));
                }
                course.only_children = followed;
            }
            Message::Writer(error) => {
                course.clear_line();
                // A reader that has seen enough is no failure.
                self.reader_gone = error.kind() == io::ErrorKind::BrokenPipe;
                if !self.reader_gone {
                    self.say.warn(&format!("writing failed, the capture ends: {error}"));
                }
                if self.for_wireshark && course.running.is_some() {
                    self.probe.set_gate(Gate::Shut);
                    course.end_command();
                } else {
                    return Some(self.go_without(course));
                }
            }
        }
        None
    }

    /// The capture has ended. A command continues without it, and must not wait at any file that it maps.
    fn go_without(&mut self, course: &mut Course<'_>) -> Result<Exit, Failure> {
        self.probe.set_gate(Gate::Shut);
        match &mut course.running {
            Some(running) => self.let_finish(course.heard, running),
            None => Ok(Exit::Success),
        }
    }

    /// What is to be done now and then.
    fn keep_house(&mut self) {
        for hold in self.let_waiting_go(PATIENCE) {
            let pid = hold.pid;
            self.say.warn(&format!(
                "process {pid} continues: inspecting a file that it has mapped takes longer than {} s. What it sends and receives over TLS until then is not captured",
                PATIENCE.as_secs()
            ));
        }
        if self.waits.target() == Target::GoesOn {
            self.probe.load_ahead();
        }
        self.probe.let_go();
        self.unused.look(&self.probe);
        self.probe.disinherit();
        self.probe.stop_watching();
        while let Some(file) = self.recheck.next_rested(Instant::now()) {
            self.probe.mark_unseen(&file);
        }
        if !self.ended.is_empty() {
            self.probe.forget(&std::mem::take(&mut self.ended));
        }
        for news in self.probe.settle() {
            match news {
                News::Detail(text) => self.say.detail(&text),
                News::Warning(text) => self.say.warn(&text),
                News::Verdict(library, verdict) => self.tell(Event::Verdict(library, verdict)),
            }
        }
        match self.probe.counters() {
            // They are the sums since the start: newer ones follow.
            Ok(counters) if self.waiting.is_empty() && !self.queue.is_full() => {
                let lost = losses::events(&counters);
                self.tell(Event::Counters(counters));
                let (told, at) = self.told_losses;
                if lost != told && at.elapsed() >= LOSSES_INTERVAL {
                    self.told_losses = (lost, Instant::now());
                    let losses = self.probe.losses();
                    self.tell(Event::Losses(losses));
                }
            }
            _ => self.pass_on(),
        }
    }

    /// After the writer gave up: keeps the command running until it ends.
    fn let_finish(&mut self, heard: &Receiver<Message>, running: &mut Running) -> Result<Exit, Failure> {
        self.look_no_more();
        while let Ok(message) = heard.recv() {
            match message {
                Message::Notice(Notice::File(file)) => self.resume(&file),
                Message::Notice(Notice::NoSocket(seen)) => self.let_go_after(&Look::Bios(seen)),
                Message::Signal(signal) if signal != SIGINT => running.forward(signal),
                Message::FileWanted => self.yield_files(),
                Message::Ended => break,
                _ => {}
            }
        }
        status_of(running)
    }

    /// Until the ring is read to its end: receives what the ring thread still sends, so that it never waits for
    /// us, and releases the threads that the kernel side stopped. `ended`: when the capture ended, ns.
    pub(super) fn see_out(&mut self, heard: &Receiver<Message>, ring: &JoinHandle<()>, ended: u64) {
        self.look_no_more();
        hear_out(
            heard,
            || ring.is_finished(),
            |message| match message {
                Message::Notice(Notice::File(file)) if file.time < ended => self.not_looked_at(&file),
                Message::Notice(Notice::File(file)) => self.resume(&file),
                Message::Notice(Notice::NoSocket(seen)) => self.let_go_after(&Look::Bios(seen)),
                Message::Notice(Notice::Process(key)) => self.ask(key),
                Message::FileWanted => self.yield_files(),
                _ => {}
            },
        );
    }

    /// Asks /proc about a process.
    fn ask(&mut self, key: ProcessKey) {
        let facts = process_facts(key.pid);
        // Not those of the program that it has become meanwhile.
        let facts = if self.probe.is_replaced(key) { ProcessFacts::default() } else { facts };
        self.tell(Event::ProcessFacts(key, facts));
    }

    /// Requests an inspection. If too many are queued, a stopped thread continues, and the file is inspected
    /// when it is mapped again.
    pub(super) fn look(&mut self, look: Look) {
        if self.looker.order(look) {
            return;
        }
        match look {
            Look::File(file) => {
                self.probe.note_unheld(file.pid);
                self.resume(&file);
            }
            other => self.let_go_after(&other),
        }
    }

    /// Releases those that have waited this long for an inspection, and returns them.
    fn let_waiting_go(&mut self, waited: Duration) -> Vec<Hold> {
        let holds: Vec<Hold> = std::iter::from_fn(|| self.looker.next_waiting(waited)).collect();
        holds.iter().for_each(|hold| self.let_go(*hold));
        holds
    }

    /// The capture ends: nothing is worth waiting for.
    fn look_no_more(&mut self) {
        for look in self.looker.give_up() {
            match look {
                Look::File(file) => self.not_looked_at(&file),
                other => self.let_go_after(&other),
            }
        }
    }

    fn resume(&self, file: &FileSeen) {
        self.let_go_after(&Look::File(*file));
    }

    /// Releases the thread that waits for an inspection, if any.
    fn let_go_after(&self, look: &Look) {
        if let Some(hold) = look.held() {
            self.let_go(hold);
        }
    }

    fn let_go(&self, hold: Hold) {
        self.waits.end(&self.probe, hold);
    }

    /// The end of the stream of events.
    pub(super) fn last_words(&mut self) {
        let mut events: Vec<Event> = self.waiting.drain(..).collect();
        let handles = self.probe.handles();
        let (mut losses, mut counters) = (self.probe.losses(), self.probe.counters());
        for handle in handles.iter().filter(|handle| handle.is_writing) {
            // Bytes of it may have been sent to the peer; it is unknown how many.
            let reason = Counter::Unfinished as u32;
            let process = handle.key.process;
            match losses.iter_mut().find(|loss| (loss.process, loss.reason) == (process, reason)) {
                Some(loss) => loss.events += 1,
                None => losses.push(ProcessLoss { process, reason, events: 1, bytes: 0 }),
            }
            if let Some(sum) = counters.as_mut().ok().and_then(|c| c.0.get_mut(reason as usize)) {
                *sum += 1;
            }
            events.push(Event::Handle(HandleFact {
                task: Task { process, tid: 0 },
                handle: handle.key,
                time: monotonic(),
                ends: handle.ends,
                fact: Fact::CallLost(Direction::Write, Missing::Unfinished),
            }));
        }
        events.extend(counters.map(Event::Counters));
        events.extend(Some(losses).filter(|losses| !losses.is_empty()).map(Event::Losses));
        events.extend(handles.iter().map(|handle| Event::Final(handle.key, handle.ends)));
        events.extend([Event::Clock(clocks()), Event::Stop(monotonic())]);
        events.iter().filter_map(encode).for_each(|record| self.queue.put_record(&record));
    }
}

/// The state of a running capture.
struct Course<'a> {
    heard: &'a Receiver<Message>,
    running: Option<Running>,
    line: Option<StatusLine<io::Stderr>>,
    numbers: &'a Mutex<Numbers>,
    began: Instant,
    kept_house: Instant,
    /// All processes of -p have ended.
    only_children: bool,
    /// When waiting for the command ends.
    patience: Option<Instant>,
}

impl Course<'_> {
    fn numbers(&self) -> Numbers {
        self.numbers.lock().map(|numbers| numbers.clone()).unwrap_or_default()
    }

    fn clear_line(&mut self) {
        if let Some(line) = &mut self.line {
            line.clear();
        }
    }

    fn update_line(&mut self) {
        if self.line.as_ref().is_some_and(|line| line.is_due(Instant::now())) {
            let (numbers, elapsed) = (self.numbers(), self.began.elapsed());
            if let Some(line) = &mut self.line {
                let width = line.width();
                line.update(Instant::now(), &status::line(&numbers, elapsed, width), width);
            }
        }
    }

    /// Tells the command to end, with a bounded wait.
    fn end_command(&mut self) {
        if let Some(running) = &self.running {
            running.forward(SIGTERM);
            self.patience = self.patience.or(Some(Instant::now() + COMMAND_PATIENCE));
        }
    }
}

/// Receives everything from a sender that may have finished.
fn hear_out<T>(heard: &Receiver<T>, is_finished: impl Fn() -> bool, mut act: impl FnMut(T)) {
    // In this order: what was sent before the end can be received.
    while !is_finished() {
        if let Ok(message) = heard.recv_timeout(RING_INTERVAL) {
            act(message);
        }
    }
    heard.try_iter().for_each(act);
}

/// The status of a command that has ended.
fn status_of(running: &mut Running) -> Result<Exit, Failure> {
    running
        .wait()
        .map_err(|error| Failure::new(Exit::Io, format!("the command's status is lost: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_who_finishes_are_heard() {
        let (tell, heard) = crossbeam_channel::unbounded();
        let mut last = None;
        let finishing = || {
            let _ = tell.send("stopped: let it go on");
            true
        };
        hear_out(&heard, finishing, |message| last = Some(message));
        assert!(last.is_some());
    }
}
