//! The control thread: what must happen outside the stream of records.

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
use crate::discover::process::{self, process_facts};
use crate::discover::{Bio, Found, InProcess};
use crate::event::record::Counter;
use crate::event::record::encode;
use crate::event::{
    Direction, Event, Fact, FileSeen, HandleFact, Missing, NoSocket, ProcessFacts, ProcessKey, ProcessLoss,
    Task, Verdict,
};
use crate::failure::{Exit, Failure};
use crate::kept::Kept;
use crate::launch::Running;
use crate::losses;
use crate::printable;
use crate::probe::{
    Attachment, Gate, Hold, News, Probe, Target, Unfollowed, clocks, described, is_denied, monotonic,
};
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

    /// Probes a library, of a command in this process. Functions that are not followed are reported.
    pub(super) fn attach(&mut self, found: &Found, process: Option<u32>) -> Result<Attachment, Failure> {
        let libraries = self.probe.new_libraries(found);
        for library in &libraries {
            self.tell(Event::Library(library.clone()));
        }
        if let Some(library) = libraries.first().filter(|_| found.library.has_to_prove_itself()) {
            self.tell(Event::Verdict(library.id, Verdict::Pending));
        }
        match self.probe.attach(found, process) {
            Ok(Attachment::Fresh(unclear)) => {
                let symbols = &found.library.named_by;
                for library in &libraries {
                    self.say.detail(&format!(
                        "probed: {} ({}){symbols}",
                        printable::line(&library.path),
                        library.version
                    ));
                }
                if !libraries.is_empty() {
                    if self.say.is_verbose() {
                        described(found).iter().for_each(|line| self.say.detail(line));
                    }
                    self.tell_unfollowed(unclear);
                }
                Ok(Attachment::Fresh(Vec::new()))
            }
            // If the process has exited, its number is free for the next library.
            Ok(attachment) => Ok(attachment),
            Err(error) => {
                let denied = is_denied(&error);
                Err(Failure::new(
                    if denied { Exit::NotPermitted } else { Exit::Kernel },
                    format!("{}: probes cannot be attached: {error:#}", printable::path(&found.path)),
                    if denied { "run it with sudo" } else { "" },
                ))
            }
        }
    }

    pub(super) fn target(&mut self, pid: u32) -> Result<(), Failure> {
        self.probe.add_target(pid, self.waits.target()).map_err(|error| {
            Failure::new(Exit::Kernel, format!("process {pid} cannot be made a target: {error}"), "")
        })?;
        // Nobody would hear of an end that came before.
        if process::is_gone(pid) {
            self.probe.remove_target(pid);
        }
        Ok(())
    }

    /// A process that is already running may have connections whose socket only their records reveal.
    pub(super) fn watch(&mut self, pid: u32, bios: io::Result<Vec<Bio>>) {
        let result = bios.map_err(|e| e.to_string());
        let result = result.and_then(|bios| self.probe.watch_bio(pid, &bios).map_err(|e| format!("{e:#}")));
        if let Err(error) = result {
            self.say.detail(&format!("process {pid}: its BIO functions cannot be probed: {error}"));
        }
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
        mut running: Option<Running>,
        mut line: Option<StatusLine<io::Stderr>>,
        numbers: &Mutex<Numbers>,
        began: Instant,
    ) -> Result<Exit, Failure> {
        let mut kept_house = Instant::now();
        // All processes that were given have ended.
        let mut only_children = false;
        // When the command is waited for no longer.
        let mut patience: Option<Instant> = None;
        let until = self.duration.and_then(|duration| Instant::now().checked_add(duration));
        let result = loop {
            if until.is_some_and(|until| Instant::now() >= until) {
                self.probe.set_gate(Gate::Shut);
                // As at the end of the output, the command continues without us.
                break match &mut running {
                    Some(running) => {
                        self.say.warn("the time is over: the command continues, but is no longer captured");
                        self.let_finish(heard, running)
                    }
                    None => Ok(Exit::Success),
                };
            }
            if patience.is_some_and(|until| Instant::now() >= until) {
                break Ok(Exit::Success);
            }
            if kept_house.elapsed() >= CLOCK_INTERVAL {
                kept_house = Instant::now();
                if only_children && !self.probe.has_targets() {
                    break Ok(Exit::Success);
                }
                self.keep_house();
                let warnings = self.kept.look();
                if let (false, Some(line)) = (warnings.is_empty(), &mut line) {
                    line.clear();
                }
                warnings.iter().for_each(|text| self.say.warn(text));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match heard.recv_timeout(left.map_or(CLOCK_INTERVAL, |left| left.min(CLOCK_INTERVAL))) {
                Ok(Message::Notice(Notice::File(file))) => self.look(Look::File(file)),
                Ok(Message::Notice(Notice::NoSocket(seen))) if seen.other_stack => {
                    self.look(Look::Stacks(seen));
                }
                Ok(Message::Notice(Notice::NoSocket(seen))) => self.look(Look::Bios(seen)),
                Ok(Message::Looked(looked)) => self.looked(looked),
                Ok(Message::Unused(answer)) => self.unused.answered(&mut self.probe, answer),
                Ok(Message::FileWanted) => self.yield_files(),
                Ok(Message::NumbersWanted) => {
                    if let Some(line) = &mut line {
                        line.clear();
                    }
                    let numbers = numbers.lock().map(|n| n.clone()).unwrap_or_default();
                    status::say(&status::so_far(&numbers, began.elapsed()));
                }
                Ok(Message::Notice(Notice::Process(key))) => self.ask(key),
                Ok(Message::Notice(Notice::Exit(key))) => {
                    self.told_of_bios.remove(&key);
                    self.ended.insert(key);
                }
                Ok(Message::Signal(signal)) => {
                    match &running {
                        // The command decides when to end; a Ctrl-C it has heard itself.
                        Some(running) if self.for_wireshark => {
                            running.forward(SIGTERM);
                            patience = patience.or(Some(Instant::now() + COMMAND_PATIENCE));
                        }
                        Some(running) if signal != SIGINT => running.forward(signal),
                        Some(_) => {}
                        None => break Ok(Exit::Success),
                    }
                    // Who is stopped hears no signal.
                    self.let_waiting_go(Duration::ZERO);
                }
                Ok(Message::Ended) => {
                    let status = running.as_mut().map_or(Ok(Exit::Success), status_of);
                    // It was told to end: its status is not an error.
                    break if patience.is_some() { Ok(Exit::Success) } else { status };
                }
                Ok(Message::Gone { pid, left }) => {
                    self.probe.remove_target(pid);
                    if let Some(line) = &mut line {
                        line.clear();
                    }
                    let followed = left == 0 && self.probe.has_targets();
                    let more = if followed { "; the capture continues with its children" } else { "" };
                    self.say.warn(&format!("process {pid} has ended{more}"));
                    if left == 0 && !followed {
                        break Ok(Exit::Success);
                    }
                    only_children = followed;
                }
                Ok(Message::Writer(error)) => {
                    if let Some(line) = &mut line {
                        line.clear();
                    }
                    // A reader that has seen enough is no failure.
                    self.reader_gone = error.kind() == io::ErrorKind::BrokenPipe;
                    if !self.reader_gone {
                        self.say.warn(&format!("writing failed, the capture ends: {error}"));
                    }
                    self.probe.set_gate(Gate::Shut);
                    if let (true, Some(running)) = (self.for_wireshark, &running) {
                        running.forward(SIGTERM);
                        patience = patience.or(Some(Instant::now() + COMMAND_PATIENCE));
                        continue;
                    }
                    // The command continues without us, and must not wait at any file that it maps.
                    break match &mut running {
                        Some(running) => self.let_finish(heard, running),
                        None => Ok(Exit::Success),
                    };
                }
                Err(_) => {}
            }
            if let Some(line) = &mut line
                && line.is_due(Instant::now())
            {
                let numbers = numbers.lock().map(|n| n.clone()).unwrap_or_default();
                let width = line.width();
                line.update(Instant::now(), &status::line(&numbers, began.elapsed(), width), width);
            }
        };
        if let Some(line) = &mut line {
            line.clear();
        }
        result
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

    fn looked(&mut self, looked: Looked) {
        match (self.looker.over(), looked.sight) {
            (Some(Look::File(file)), Sight::Libraries(found)) => {
                self.mind_coroutines(looked.has_seen_switcher);
                self.found_in(&file, found);
            }
            (Some(Look::Process(pid)), Sight::Libraries(Ok(in_process))) => {
                for found in &in_process.found {
                    match self.attach(found, Some(pid)) {
                        Ok(attached) => {
                            self.not_captured.library(&found.path, matches!(attached, Attachment::Fresh(_)));
                            self.probe.mark_probed_ahead(pid, found);
                        }
                        Err(_) if process::is_gone(pid) => {}
                        Err(failure) => self.say.warn(&failure.to_string()),
                    }
                }
            }
            (Some(Look::Bios(seen)), Sight::Bios(bios)) => self.probe_bio(&seen, bios),
            (Some(look @ Look::Stacks(seen)), Sight::Found(found)) => {
                self.follow_stacks(seen.process, &found);
                self.let_go_after(&look);
            }
            _ => {}
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

    /// A process has mapped a file for the first time: it may be a TLS library.
    fn found_in(&mut self, file: &FileSeen, looked: io::Result<InProcess>) {
        // A process that has exited or unmapped the file has nothing to probe, but the next one that maps it
        // has. Processes outside this pid namespace (pid 0) can never be inspected.
        if file.pid != 0 && looked.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            if self.recheck.count(file, Instant::now()) {
                self.probe.mark_resting(file);
            }
            self.not_looked_at(file);
            return;
        }
        // One whose mappings are hidden has no library to probe either. Late: something was not probed when the file was
        // mapped.
        let (mut is_library, mut is_late) = (false, false);
        if let Ok(in_process) = looked {
            for found in &in_process.found {
                let is_it = found.mapped.is_some_and(|(_, inode)| inode == file.inode);
                let attached = match self.attach(found, Some(file.pid)) {
                    // Who has ended needs none, and others do.
                    Err(_) if self.probe.has_holders() && process::is_gone(file.pid) => Ok(Attachment::Gone),
                    attached => attached,
                };
                match attached {
                    Ok(attached) => {
                        let is_fresh = matches!(attached, Attachment::Fresh(_));
                        is_library |= is_it;
                        is_late |= is_fresh || is_it && attached == Attachment::Gone;
                        self.not_captured.library(&found.path, is_fresh && !file.stopped);
                        if is_it && attached == Attachment::Known {
                            self.probe.note_heir();
                        }
                        if is_it && attached != Attachment::Gone {
                            self.probe.mark_probed_in(file);
                            self.probe.note_user(found, file);
                        }
                    }
                    Err(failure) => {
                        self.not_captured.not_attached(file.pid, &found.path);
                        self.say.warn(&failure.to_string());
                    }
                }
            }
            in_process.plain.iter().for_each(|file| self.probe.mark_plain(file));
            for (path, why) in &in_process.unprobed {
                self.not_captured.unprobed(file.pid, path, why);
            }
            if let Some(process) = self.probe.with_stacks(file.pid) {
                self.follow_stacks(process, &in_process.found);
            }
            for (path, error) in &in_process.unreadable {
                self.say.detail(&format!("{}: not inspected: {error}", printable::path(path)));
            }
        }
        if is_late {
            self.check_in_time(file);
        }
        self.probe.mark_seen(file, is_library);
        if file.stopped && !is_library {
            // It may be about to remove what ended processes of the command have left.
            self.probe.let_go();
            self.probe.await_unmountable();
        }
        self.let_go_after(&Look::File(*file));
    }

    /// A process opens a probed file for writing, and waits until its probes are removed.
    fn yield_files(&mut self) {
        for path in self.probe.yield_files() {
            self.say.warn(&format!(
                "{}: it is opened for writing, so its probes are removed: programs that run it are no longer captured. \
                 Those that are started later are",
                printable::path(&path)
            ));
        }
    }

    /// A process encrypts into memory: its records reveal which sockets they pass through.
    fn probe_bio(&mut self, seen: &NoSocket, bios: io::Result<Vec<Bio>>) {
        let pid = seen.process.pid;
        let result = bios.map_err(|e| e.to_string()).and_then(|bios| {
            let paths: Vec<_> = bios.iter().map(|bio| printable::path(&bio.path)).collect();
            self.probe.attach_bio(seen.process, &bios).map_err(|e| format!("{e:#}"))?;
            Ok(paths.join(", "))
        });
        // They may go and come again.
        let is_news = self.told_of_bios.insert(seen.process);
        match result {
            Ok(_) if !is_news => {}
            Ok(paths) if paths.is_empty() => self.say.detail(&format!(
                "process {pid} encrypts into memory, and its library has no BIO functions to probe"
            )),
            Ok(paths) => self
                .say
                .detail(&format!("process {pid} encrypts into memory: probed the BIO functions of {paths}")),
            Err(error) => self.say.detail(&format!(
                "process {pid} encrypts into memory; its BIO functions cannot be probed: {error}"
            )),
        }
        self.let_go_after(&Look::Bios(*seen));
    }

    /// A process makes TLS calls on stacks of coroutines, where return probes do harm or none are.
    fn follow_stacks(&mut self, process: ProcessKey, found: &[Found]) {
        let pid = process.pid;
        match self.probe.follow_stacks(process, found) {
            Ok(unclear) => {
                self.say.detail(&format!("process {pid} has coroutines: probed the returns of its TLS library"));
                self.tell_unfollowed(unclear);
            }
            Err(error) => self.say.warn(&format!(
                "process {pid} has coroutines; their TLS calls are not captured: probes cannot be attached: {error:#}"
            )),
        }
    }

    fn tell_unfollowed(&self, functions: Vec<Unfollowed>) {
        for Unfollowed { function, path, why, moves_data } in functions {
            if moves_data {
                self.say.warn(&format!(
                    "{function} of {path}: its calls are not captured, because its returns were not found: {why} \
                     (--return-probes captures them)"
                ));
            } else {
                self.say.detail(&format!("{function} of {path}: its return is not seen: {why}"));
            }
        }
    }

    /// Takes return probes away if there are programs that these would harm.
    pub(super) fn mind_coroutines(&mut self, has_seen_switcher: bool) {
        if !has_seen_switcher {
            return;
        }
        match self.probe.avoid_return_probes() {
            Ok(unclear) => self.tell_unfollowed(unclear),
            Err(error) => self.say.warn(&format!("calls of coroutines are not captured: {error:#}")),
        }
    }

    /// A process ran on although it is unknown whether it has mapped a TLS library.
    fn not_looked_at(&mut self, file: &FileSeen) {
        self.check_in_time(file);
        self.resume(file);
    }

    /// Whether a process was held before it ran on with a file that it has mapped. If not, that is counted.
    fn check_in_time(&mut self, file: &FileSeen) {
        if let Err(why) = self.waits.in_time(Look::File(*file).held()) {
            self.say.detail(&format!("process {} was not held at a file that it mapped: {why}", file.pid));
            self.probe.note_unheld(file.pid);
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
