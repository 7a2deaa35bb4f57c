//! A capture, from start to end: owns the threads and the channels between them.
//!
//! - The ring thread reads records and puts a clock sample behind them ten times a second.
//! - The writer thread owns the [`Pipeline`]: all that lies behind the ring.
//! - The control thread (the caller's) does what must happen outside the stream: looks at new
//!   files, asks /proc, hears signals, waits for the command.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::{self, Capture, Targets, Verbosity};
use crate::discover::process::{process_facts, processes};
use crate::discover::{Discovery, Found};
use crate::event::record::encode;
use crate::event::recording::Recorder;
use crate::event::{Clock, Event, FileSeen, ProcessKey, Start};
use crate::failure::{Exit, Failure};
use crate::launch::{self, Held, Running};
use crate::pipeline::Pipeline;
use crate::probe::{Backend, Notice, Options, Probe, ProbeError, Target, monotonic, realtime};
use crate::sink;
use crate::status::{self, Numbers, StatusLine};
use crate::{privilege, probe};

/// Batches between the ring thread and the writer; each has 1 MiB at most. When the writer lags so
/// far behind, the ring thread waits, and what the ring then refuses is counted there.
const BATCHES: usize = 16;
/// Messages to the control thread. When it lags so far behind, the ring thread waits for it:
/// whoever was stopped must be let go on.
const MESSAGES: usize = 1024;
/// Events of the control thread that wait for a writer that lags. Beyond it the file lacks what /proc
/// tells of a process, or the name of a library.
const WAITING_MAX: usize = 4096;
/// How long the ring is left alone when nothing wakes its reader.
const RING_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two clock samples; so long, at most, a packet waits for its way to the file.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// Size of the ring unless the user says otherwise, and on machines with little memory.
const RING_BYTES: u32 = 64 << 20;
const RING_BYTES_SMALL: u32 = 16 << 20;
/// Less memory than this, in bytes, is little.
const MEMORY_SMALL: u64 = 4 << 30;
/// Bytes of one call that are captured. Half of the ring at most: see [`call_limit`].
const CALL_LIMIT: u64 = 64 << 20;

/// What the control thread hears.
enum Message {
    Notice(Notice),
    Signal(i32),
    /// The command has ended.
    Ended,
    /// The writer gave up.
    Writer(io::Error),
    /// The ring could not be read.
    Ring(String),
}

type Batch = Vec<Bytes>;

/// Runs a capture until it is told to end.
///
/// # Errors
/// A [`Failure`] for the user; what was captured before is in the file.
pub fn run(config: &Capture) -> Result<Exit, Failure> {
    let began = Instant::now();
    let allowed = privilege::check()?;
    let say = Say(config.verbosity);
    allowed.warnings.iter().for_each(|w| say.warn(w));

    if let Some(fd) = config.ready_fd {
        launch::keep_from_command(fd)?;
    }
    let probe = load(config)?;
    say.detail(&format!(
        "sockets are followed by {}; probes attach {}",
        probe.backend(),
        if probe.bulk() { "in bulk" } else { "one by one" }
    ));
    probe.refused().iter().for_each(|r| say.detail(&format!("not taken: {r}")));

    let mut discovery = Discovery::default();
    let found = libraries(config, &mut discovery, &say)?;

    // First of all, so that a command that is not there costs no file.
    let held = match &config.targets {
        Targets::Command(command) => Some(Held::spawn(
            command,
            &launch::Options {
                user: privilege::invoking_user(),
                stdout_to_stderr: config.output == config::Output::Stdout,
            },
        )?),
        _ => None,
    };

    // The command has been forked, and keeps the limit that it was given.
    probe::raise_open_files();
    let output = open_output(config)?;
    let recorder = open_recorder(config)?;

    let (batches, to_write) = bounded::<Batch>(BATCHES);
    let (messages, heard) = bounded(MESSAGES);
    let numbers = Arc::new(Mutex::new(Numbers::default()));
    let pipeline = Pipeline::new(output, ports(config.ports), recorder);
    let writer = spawn_writer(pipeline, to_write, messages.clone(), Arc::clone(&numbers));
    send(&batches, &[Event::Start(start(config, &probe)), Event::Clock(clock())]);

    let mut control =
        Control { probe, discovery, batches, waiting: VecDeque::new(), say, ended: HashSet::new() };
    for library in &found {
        control.attach(library)?;
    }
    match &config.targets {
        Targets::Pids(pids) => {
            for pid in pids {
                control.target(*pid, Target::Process)?;
            }
        }
        Targets::Command(_) => {
            if let Some(held) = &held {
                control.target(held.pid(), Target::Command)?;
            }
        }
        Targets::Everything | Targets::Users(_) => {}
    }
    control.probe.set_ready(true);

    let stop = Arc::new(AtomicBool::new(false));
    let ring = spawn_ring(&control, messages.clone(), Arc::clone(&stop))?;
    let ending = Arc::new(AtomicBool::new(false));
    listen_to_signals(messages.clone(), Arc::clone(&ending))?;
    tell_ready(config)?;
    let running = held.map(Held::release).transpose()?;
    if let Some(running) = &running {
        watch(running, messages)?;
    }

    let line = match config.targets {
        // The terminal belongs to the command.
        Targets::Command(_) => None,
        _ if config.verbosity == Verbosity::Quiet => None,
        _ => StatusLine::on_terminal(),
    };
    let end = control.run(&heard, running, line, &numbers, began);

    // No call that returns from now on is captured, and nobody is stopped any more; what is in the
    // ring is read to its end, and whoever was stopped goes on.
    ending.store(true, Ordering::Release);
    control.probe.set_ready(false);
    stop.store(true, Ordering::Release);
    control.see_out(&heard, &ring);
    let _ = ring.join();
    control.last_words();
    drop(control.batches);
    let written = writer.join().map_err(|_| Failure::new(Exit::Io, "the writer thread failed", ""))?;
    let path = match &config.output {
        config::Output::File(path) => Some(path.as_path()),
        config::Output::Stdout => None,
    };
    let result = match written {
        Ok(numbers) => {
            if config.verbosity > Verbosity::Quiet {
                status::say(&status::summary(&numbers, began.elapsed(), path));
            }
            end
        }
        Err(error) => Err(write_failure(config, &error)),
    };
    // Probes go last: the user need not wait for them to see the result.
    drop(control.probe);
    result
}

/// Says things on standard error, as the user wants.
#[derive(Clone, Copy)]
struct Say(Verbosity);

impl Say {
    fn warn(self, text: &str) {
        if self.0 > Verbosity::Quiet {
            status::say(&format!("tls2pcap: {text}\n"));
        }
    }
    fn detail(self, text: &str) {
        if self.0 > Verbosity::Normal {
            status::say(&format!("tls2pcap: {text}\n"));
        }
    }
}

/// The control thread's belongings.
struct Control {
    probe: Probe,
    discovery: Discovery,
    batches: Sender<Batch>,
    /// Events for the writer, which lags: this thread waits for nobody, since the command may be
    /// stopped until it acts.
    waiting: VecDeque<Event>,
    say: Say,
    /// Processes that ended and whose table entries are to be given back.
    ended: HashSet<ProcessKey>,
}

impl Control {
    fn attach(&mut self, found: &Found) -> Result<(), Failure> {
        match self.probe.attach(found) {
            Ok(Some(library)) => {
                self.say.detail(&format!("probed: {} ({})", library.path, library.version));
                self.tell(Event::Library(library));
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(Failure::new(
                Exit::Kernel,
                format!("{}: probes cannot be attached: {error:#}", found.path.display()),
                "",
            )),
        }
    }

    fn target(&self, pid: u32, target: Target) -> Result<(), Failure> {
        self.probe.add_target(pid, target).map_err(|error| {
            Failure::new(Exit::Kernel, format!("process {pid} cannot be made a target: {error}"), "")
        })
    }

    /// Gives the writer an event, now or as soon as it can take one.
    fn tell(&mut self, event: Event) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(event);
        }
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some(event) = self.waiting.front() {
            if let Err(TrySendError::Full(_)) = self.batches.try_send(encode(event).into_iter().collect()) {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Until the command ends, a signal comes, or something fails.
    fn run(
        &mut self,
        heard: &Receiver<Message>,
        mut running: Option<Running>,
        mut line: Option<StatusLine<io::Stderr>>,
        numbers: &Mutex<Numbers>,
        began: Instant,
    ) -> Result<Exit, Failure> {
        let mut kept_house = Instant::now();
        let result = loop {
            if kept_house.elapsed() >= CLOCK_INTERVAL {
                kept_house = Instant::now();
                self.keep_house();
            }
            match heard.recv_timeout(CLOCK_INTERVAL) {
                Ok(Message::Notice(Notice::File(file))) => self.look_at(&file),
                Ok(Message::Notice(Notice::Process(key))) => self.ask(key),
                Ok(Message::Notice(Notice::Exit(key))) => {
                    self.ended.insert(key);
                }
                Ok(Message::Signal(signal)) => match &running {
                    // The command decides when to end; a Ctrl-C it has heard itself.
                    Some(running) if signal != SIGINT => running.forward(signal),
                    Some(_) => {}
                    None => break Ok(Exit::Success),
                },
                Ok(Message::Ended) => {
                    break running.as_mut().map_or(Ok(Exit::Success), status_of);
                }
                Ok(Message::Writer(error)) => {
                    if let Some(line) = &mut line {
                        line.clear();
                    }
                    // A reader that has seen enough is no failure.
                    if error.kind() != io::ErrorKind::BrokenPipe {
                        self.say.warn(&format!("writing failed, the capture ends: {error}"));
                    }
                    self.probe.set_ready(false);
                    // The command goes on without us, and whatever it maps must not wait.
                    break match &mut running {
                        Some(running) => self.let_finish(heard, running),
                        None => Ok(Exit::Success),
                    };
                }
                Ok(Message::Ring(error)) => {
                    break Err(Failure::new(
                        Exit::Kernel,
                        format!("the ring buffer cannot be read: {error}"),
                        "",
                    ));
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
        if !self.ended.is_empty() {
            self.probe.forget(&std::mem::take(&mut self.ended));
        }
        match self.probe.counters() {
            // They are the sums since the start: newer ones follow.
            Ok(counters) if self.waiting.is_empty() => self.tell(Event::Counters(counters)),
            _ => self.pass_on(),
        }
    }

    /// After the writer gave up: keeps the command going until it ends.
    fn let_finish(&mut self, heard: &Receiver<Message>, running: &mut Running) -> Result<Exit, Failure> {
        while let Ok(message) = heard.recv() {
            match message {
                Message::Notice(Notice::File(file)) => self.resume(&file),
                Message::Signal(signal) if signal != SIGINT => running.forward(signal),
                Message::Ended => break,
                _ => {}
            }
        }
        status_of(running)
    }

    /// Until the ring is read to its end: hears what the ring thread still has to say, so that it
    /// never waits for us, and lets go on whom the kernel side stopped.
    fn see_out(&mut self, heard: &Receiver<Message>, ring: &JoinHandle<()>) {
        loop {
            match heard.recv_timeout(RING_INTERVAL) {
                Ok(Message::Notice(Notice::File(file))) => self.resume(&file),
                Ok(Message::Notice(Notice::Process(key))) => self.ask(key),
                Ok(_) => {}
                Err(_) if ring.is_finished() => break,
                Err(_) => {}
            }
        }
    }

    /// Asks /proc about a process.
    fn ask(&mut self, key: ProcessKey) {
        self.tell(Event::ProcessFacts(key, process_facts(key.pid)));
    }

    /// A process maps a file for the first time: it may be a TLS library.
    fn look_at(&mut self, file: &FileSeen) {
        // A process that is gone, or whose mappings are hidden, has no library to probe.
        if let Ok(in_process) = self.discovery.libraries_of(file.pid, Some(file.inode)) {
            for found in &in_process.found {
                if let Err(failure) = self.attach(found) {
                    self.say.warn(&failure.to_string());
                }
            }
            for (path, error) in &in_process.unreadable {
                self.say.detail(&format!("{}: not looked at: {error}", path.display()));
            }
        }
        self.resume(file);
    }

    fn resume(&self, file: &FileSeen) {
        self.probe.mark_seen(file);
        if file.stopped {
            // SAFETY: a plain system call. The pid is that of a process that the kernel side
            // stopped because it belongs to the command; it stays stopped until this.
            unsafe { libc::kill(file.pid as i32, libc::SIGCONT) };
        }
    }

    /// What stands at the end of the stream of events.
    fn last_words(&mut self) {
        let mut events: Vec<Event> = self.waiting.drain(..).collect();
        events.extend(self.probe.counters().map(Event::Counters));
        events.extend(self.probe.ends().into_iter().map(|(handle, ends)| Event::Final(handle, ends)));
        events.extend([Event::Clock(clock()), Event::Stop(monotonic())]);
        send(&self.batches, &events);
    }
}

/// The status of a command that has ended.
fn status_of(running: &mut Running) -> Result<Exit, Failure> {
    running
        .wait()
        .map_err(|error| Failure::new(Exit::Io, format!("the command's status is lost: {error}"), ""))
}

/// Puts events that user space makes behind the records that were read so far.
fn send(batches: &Sender<Batch>, events: &[Event]) {
    // If the writer has given up there is nobody to tell.
    let _ = batches.send(events.iter().filter_map(encode).collect());
}

fn spawn_writer(
    mut pipeline: Pipeline<sink::Output>,
    batches: Receiver<Batch>,
    messages: Sender<Message>,
    numbers: Arc<Mutex<Numbers>>,
) -> JoinHandle<io::Result<Numbers>> {
    thread::spawn(move || {
        let mut told = Instant::now();
        let failed = batches.iter().find_map(|batch| {
            if told.elapsed() >= CLOCK_INTERVAL {
                told = Instant::now();
                if let Ok(mut numbers) = numbers.lock() {
                    *numbers = pipeline.numbers();
                }
            }
            batch.iter().find_map(|record| pipeline.record(record).err())
        });
        let Some(error) = failed else { return pipeline.finish() };
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        let numbers = pipeline.numbers();
        let copy = io::Error::new(error.kind(), error.to_string());
        let _ = messages.send(Message::Writer(copy));
        // The channel stays open until the ring thread has ended; what comes is thrown away.
        batches.iter().for_each(drop);
        if broken_pipe { Ok(numbers) } else { Err(error) }
    })
}

fn spawn_ring(
    control: &Control,
    messages: Sender<Message>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, Failure> {
    let ring = control.probe.ring().map_err(|e| {
        Failure::new(
            Exit::Kernel,
            format!("the ring buffer cannot be mapped: {e}"),
            "try a smaller --ring-size",
        )
    })?;
    let batches = control.batches.clone();
    Ok(thread::spawn(move || {
        let mut sampled = Instant::now();
        let clocks = batches.clone();
        let result = ring.run(
            RING_INTERVAL,
            |batch| drop(batches.send(batch)),
            |notice| drop(messages.send(Message::Notice(notice))),
            |idle| {
                if sampled.elapsed() >= CLOCK_INTERVAL {
                    sampled = Instant::now();
                    send(&clocks, &[Event::Clock(clock())]);
                }
                !(idle && stop.load(Ordering::Acquire))
            },
        );
        if let Err(error) = result {
            let _ = messages.send(Message::Ring(error.to_string()));
        }
    }))
}

/// `ending`: the capture is asked to end, which may wait for whoever reads the output. Who asks again
/// does not want to wait.
fn listen_to_signals(messages: Sender<Message>, ending: Arc<AtomicBool>) -> Result<(), Failure> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::new(Exit::Io, format!("signals cannot be handled: {e}"), ""))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if ending.load(Ordering::Acquire) {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            let _ = messages.send(Message::Signal(signal));
        }
    });
    Ok(())
}

/// Tells when the command ends.
fn watch(running: &Running, messages: Sender<Message>) -> Result<(), Failure> {
    let pidfd: OwnedFd = running
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Failure::new(Exit::Io, format!("the command cannot be watched: {e}"), ""))?;
    thread::spawn(move || {
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, whose descriptor this thread owns.
        while unsafe { libc::poll(&mut poll, 1, -1) } < 1 {}
        let _ = messages.send(Message::Ended);
    });
    Ok(())
}

fn load(config: &Capture) -> Result<Probe, Failure> {
    let ring_bytes = config.ring_size.unwrap_or_else(ring_bytes);
    let options = Options {
        backend: match config.backend {
            config::Backend::Auto => None,
            config::Backend::Kprobe => Some(Backend::Kprobe),
            config::Backend::Fentry => Some(Backend::Fentry),
            config::Backend::Tracepoint => Some(Backend::Tracepoint),
        },
        targets_only: matches!(config.targets, Targets::Pids(_) | Targets::Command(_)),
        uids: match &config.targets {
            Targets::Users(uids) => uids.clone(),
            _ => Vec::new(),
        },
        pids: match &config.targets {
            Targets::Pids(pids) => pids.clone(),
            _ => Vec::new(),
        },
        call_limit: call_limit(ring_bytes),
        ring_bytes,
        verbose: config.verbosity == Verbosity::Verbose,
    };
    Probe::load(&options).map_err(|error| match &error {
        ProbeError::NoBtf => Failure::new(
            Exit::Kernel,
            error.to_string(),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, as those of all current distributions are",
        ),
        ProbeError::NotPermitted(_) => {
            Failure::new(Exit::NotPermitted, error.to_string(), "run it with sudo")
        }
        ProbeError::NoBackend(_) => Failure::new(Exit::Kernel, error.to_string(), ""),
        ProbeError::BackendMissing { others, .. } => Failure::new(
            Exit::Kernel,
            error.to_string(),
            format!("leave --backend out, or choose one that works here: {others}"),
        ),
        ProbeError::Failed(..) => Failure::new(Exit::Kernel, error.to_string(), ""),
    })
}

fn ring_bytes() -> u32 {
    let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
    if memory < MEMORY_SMALL { RING_BYTES_SMALL } else { RING_BYTES }
}

/// A call is read at once when it returns, so it must fit into what the ring can hold.
fn call_limit(ring_bytes: u32) -> u64 {
    CALL_LIMIT.min(u64::from(ring_bytes) / 2).max(1 << 20)
}

/// The libraries to probe from the start.
fn libraries(config: &Capture, discovery: &mut Discovery, say: &Say) -> Result<Vec<Found>, Failure> {
    let mut all = Vec::new();
    for path in &config.libraries {
        all.push(discovery.at(path).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("--lib {}: {error}", path.display()),
                "name a library or program that has OpenSSL's functions",
            )
        })?);
    }
    match &config.targets {
        Targets::Pids(pids) => {
            let mut without = Vec::new();
            for pid in pids {
                let found = of_pid(*pid, discovery)?;
                if found.is_empty() {
                    without.push(pid.to_string());
                }
                all.extend(found);
            }
            if all.is_empty() {
                return Err(no_library(&without));
            }
            if config.libraries.is_empty() {
                for pid in without {
                    say.warn(&format!("process {pid} has no TLS library; it is captured if it loads one"));
                }
            }
        }
        Targets::Command(_) => all.extend(discovery.installed()),
        Targets::Everything | Targets::Users(_) => {
            all.extend(discovery.installed());
            for pid in processes() {
                // Processes end while we look.
                all.extend(discovery.libraries_of(pid, None).map(|p| p.found).unwrap_or_default());
            }
        }
    }
    Ok(all)
}

/// To wait for a library that perhaps never comes would look like a capture that works.
fn no_library(pids: &[String]) -> Failure {
    let (who, has) = if pids.len() == 1 { ("process", "has") } else { ("processes", "have") };
    Failure::new(
        Exit::NoTarget,
        format!("{who} {} {has} no TLS library that is known here (OpenSSL)", pids.join(", ")),
        "if it loads one later, start it under the capture: tls2pcap -o FILE -- COMMAND\n\
         if it has OpenSSL elsewhere, name that library or program: --lib PATH",
    )
}

fn of_pid(pid: u32, discovery: &mut Discovery) -> Result<Vec<Found>, Failure> {
    match discovery.libraries_of(pid, None) {
        Ok(in_process) => Ok(in_process.found),
        Err(error) if Path::new(&format!("/proc/{pid}")).exists() => Err(Failure::new(
            Exit::NotPermitted,
            format!("the mappings of process {pid} cannot be read: {error}"),
            "run it with sudo",
        )),
        Err(_) => Err(Failure::new(
            Exit::NoTarget,
            format!("there is no process {pid}"),
            "find it with: pgrep -a NAME",
        )),
    }
}

fn open_output(config: &Capture) -> Result<sink::Output, Failure> {
    let path = match &config.output {
        config::Output::File(path) => path.as_path(),
        config::Output::Stdout => Path::new("-"),
    };
    let output = sink::Output::create(path).map_err(|error| write_failure(config, &error))?;
    give_to_user(&output);
    Ok(output)
}

/// Under sudo the user is to be able to read what was asked for. A file that was there before keeps
/// its owner, since it may be another's.
fn give_to_user(output: &sink::Output) {
    if let (Some(file), Some(user)) = (output.created(), privilege::invoking_user()) {
        // Some file systems know no owners; the file then stays root's.
        let _ = privilege::give_to(&user, file);
    }
}

fn write_failure(config: &Capture, error: &io::Error) -> Failure {
    let (name, cure) = match &config.output {
        config::Output::File(path) => {
            (path.display().to_string(), "choose another file with -o, or make room")
        }
        config::Output::Stdout => {
            ("standard output".into(), "send it to a file or a program: tls2pcap -o - | wireshark -k -i -")
        }
    };
    Failure::new(Exit::Io, format!("{name}: cannot be written: {error}"), cure)
}

fn open_recorder(config: &Capture) -> Result<Option<Recorder<Box<dyn Write + Send>>>, Failure> {
    let Some(path) = &config.record else { return Ok(None) };
    let failed = |error: io::Error| {
        Failure::new(
            Exit::Io,
            format!("{}: the recording cannot be written: {error}", path.display()),
            "choose another file with --record",
        )
    };
    let output = sink::Output::create(path).map_err(failed)?;
    give_to_user(&output);
    let buffered: Box<dyn Write + Send> = Box::new(BufWriter::with_capacity(256 << 10, output));
    Recorder::new(buffered).map(Some).map_err(failed)
}

fn tell_ready(config: &Capture) -> Result<(), Failure> {
    if let Some(path) = &config.ready_file {
        std::fs::write(path, "ready\n").map_err(|error| {
            Failure::new(
                Exit::Io,
                format!("{}: cannot be written: {error}", path.display()),
                "choose another --ready-file",
            )
        })?;
    }
    if let Some(fd) = config.ready_fd {
        // SAFETY: the user gave us this descriptor to write to and to close; `keep_from_command`
        // has found it open, and nothing else here uses it.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.write_all(b"ready\n").map_err(|error| {
            Failure::new(
                Exit::Io,
                format!("descriptor {fd}: cannot be written: {error}"),
                "give --ready-fd a descriptor that is open for writing",
            )
        })?;
    }
    Ok(())
}

fn start(config: &Capture, probe: &Probe) -> Start {
    let (os, hardware) = machine();
    Start {
        application: concat!("tls2pcap ", env!("CARGO_PKG_VERSION")).into(),
        os,
        hardware,
        command_line: command_line(config),
        backend: probe.backend().to_string(),
        show_args: config.show_args,
        time: monotonic(),
    }
}

/// The command line as it stands in the file: the arguments of the command only if asked for.
fn command_line(config: &Capture) -> String {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let own = match &config.targets {
        Targets::Command(command) if !config.show_args => args.len() - command.len() + 1,
        _ => args.len(),
    };
    let mut line = args[..own.min(args.len())].join(" ");
    if own < args.len() {
        line.push_str(" …");
    }
    line
}

fn machine() -> (String, String) {
    let Ok(name) = nix::sys::utsname::uname() else { return Default::default() };
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    (format!("{} {}", text(name.sysname()), text(name.release())), text(name.machine()))
}

fn clock() -> Clock {
    // The realtime of the middle of two monotonic readings.
    let before = probe::monotonic();
    let realtime = realtime();
    let after = probe::monotonic();
    Clock { monotonic: before + (after - before) / 2, realtime }
}

pub(crate) fn ports(ports: config::Ports) -> crate::synth::Ports {
    match ports {
        config::Ports::Decode => crate::synth::Ports::Decode,
        config::Ports::Keep => crate::synth::Ports::Keep,
    }
}
