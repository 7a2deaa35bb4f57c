//! One capture: what it owns from its beginning to its end, and the four stages that it passes through.

use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::command_streams::{CommandStderr, CommandStreams};
use super::control::Control;
use super::looker::{Look, Looker};
use super::not_captured::NotCaptured;
use super::queue::Queue;
use super::signals::Signals;
use super::target_pids::TargetPids;
use super::threads::{
    MESSAGES, Message, ReaderWatch, Waiting, Written, await_writer, spawn_ring, spawn_writer, watch,
};
use super::unused::Unused;
use super::waits::Waits;
use super::{Say, outputs, setup};
use crate::config::{self, Capture, Follow, Targets, Verbosity};
use crate::discover::process::is_gone;
use crate::discover::{Bio, Discovery, Found};
use crate::event::Event;
use crate::event::record::encode;
use crate::failure::{Exit, Failure};
use crate::kept::Kept;
use crate::launch::{self, Held};
use crate::outlets::Outlets;
use crate::pipeline::Pipeline;
use crate::printable;
use crate::probe::{Gate, Probe, clocks, may_choose_returns, monotonic};
use crate::read::{LiveView, Shown};
use crate::sink;
use crate::status::{Cut, Loss, Numbers, Reason, StatusLine};
use crate::{limits, privilege, rewrite};

/// A capture in progress.
pub(super) struct Session<'c> {
    config: &'c Capture,
    began: Instant,
    say: Say,
    // In this order the fields are dropped when a stage fails.
    control: Control,
    writer: JoinHandle<Written>,
    outlet: Outlet,
    signals: Signals,
    heard: Receiver<Message>,
    messages: Sender<Message>,
    numbers: Arc<Mutex<Numbers>>,
    command: Option<Held>,
    command_stderr: Option<CommandStderr>,
    targets: Targeted,
}

/// Whom to capture, and what is to be probed first of all.
struct Targeted {
    pids: TargetPids,
    /// Those of -p, and their children.
    tree: Vec<u32>,
    /// Libraries, those of -p with their process.
    libraries: Vec<(Option<u32>, Found)>,
    /// BIO functions of processes that are already running: they may have connections whose socket only their
    /// records reveal.
    bios: Vec<(u32, io::Result<Vec<Bio>>)>,
    /// Some program switches stacks.
    has_switcher: bool,
}

/// What is known of the outputs.
struct Outlet {
    /// Somebody reads the output while it is written.
    is_live: bool,
    /// Its other end, if it is a pipe.
    pipe: Option<OwnedFd>,
    unserved: Option<sink::serve::Unserved>,
    files: Option<Arc<Mutex<sink::rotate::Told>>>,
    shown: Option<Shown>,
}

impl<'c> Session<'c> {
    /// Loads the kernel side, starts the command, which waits, and opens the output. Nothing is captured yet.
    ///
    /// # Errors
    /// A [`Failure`]: there may be an output without a packet, and nothing else is left.
    pub(super) fn prepare(config: &'c Capture) -> Result<Session<'c>, Failure> {
        let began = Instant::now();
        let say = Say(config.verbosity);
        privilege::raise();
        limits::raise();
        privilege::check()?.warnings.iter().for_each(|warning| say.warn(warning));
        if let Some(fd) = config.ready_fd {
            launch::keep_from_command(fd)?;
        }
        let redaction = config.redact.as_ref();
        let engine = redaction
            .map(|redaction| privilege::as_user(|| rewrite::live_engine(redaction, &config.selection)))
            .transpose()?;
        let (mut targets, mut discovery, not_captured) = Targeted::find(config, say)?;
        let mut probe = setup::load(config, &targets.libraries)?;
        tell_of_probes(config, &probe, say);

        let server =
            config.serve.map(|address| outputs::listen(config, address, &targets.pids, &say)).transpose()?;
        // Before the output, so that a missing command does not overwrite a file.
        let (command, command_stderr) = hold_command(config)?;
        let mut opened = privilege::as_user(|| outputs::open_output(config))?;
        let (recorder, recording) = privilege::as_user(|| outputs::open_recorder(config))?;
        let output = opened.as_mut().map(|(output, _)| output);
        // Of several files each may go while the next is written.
        let whereabouts =
            output.filter(|_| !config.files.rotates()).and_then(sink::OutputFile::take_whereabouts);
        let kept = Kept::new(whereabouts, recording);

        let output = opened.as_ref().map(|(output, _)| output);
        let is_live =
            server.is_some() || config.show.is_some() || output.is_some_and(sink::OutputFile::is_live);
        let is_compressed = output.is_some_and(|output| output.format().is_compressed());
        let pipe = output.and_then(sink::OutputFile::pipe);
        // What is also in a file is not lost.
        let unserved = server.as_ref().filter(|_| output.is_none()).map(sink::Server::unserved);
        let path = match &config.output {
            Some(config::Output::File(path)) => Some(path.as_path()),
            Some(config::Output::Stdout) | None => None,
        };
        let (file, files) = outputs::sink(&config.files, path, opened, config.link, config.record.as_deref());
        let view = outputs::view(config)?;
        let shown = view.as_ref().map(LiveView::shown);

        let queue = Arc::new(Queue::default());
        let (messages, heard) = bounded(MESSAGES);
        let numbers = Arc::new(Mutex::new(Numbers::default()));
        // From here on there is a file to be ended well.
        let signals = Signals::listen(messages.clone(), Arc::clone(&queue), config.for_wireshark)?;
        let mut pipeline = Pipeline::new(Outlets { file, server, view }, config.ports, recorder)
            .with_process_blocks(config.process_blocks)
            .with_carrier(config.framing)
            .with_link(config.link)
            .with_comments(config.comments)
            .with_redaction(engine)
            .with_selection(config.selection.clone())
            .with_settled(Outlets::settled)
            .gathering(is_compressed);
        if config.packet_buffered {
            pipeline = pipeline.unbuffered();
        }
        let writer =
            spawn_writer(pipeline, is_live, Arc::clone(&queue), messages.clone(), Arc::clone(&numbers));
        let first = [Event::Start(setup::start(config, &probe, is_live)), Event::Clock(clocks())];
        first.iter().filter_map(encode).for_each(|record| queue.put_record(&record));

        let waits = Waits::of(&mut probe, command.as_ref(), config.targets.are_followed(), say)?;
        targets.bios = targets.tree.iter().map(|pid| (*pid, discovery.bios_of(*pid))).collect();
        targets.has_switcher = discovery.has_seen_switcher();
        let looker = Looker::spawn(discovery, messages.clone())?;
        let unused = Unused::new(messages.clone());
        let mut control = Control::new(probe, (looker, unused), queue, say, waits, not_captured, kept);
        control.for_wireshark = config.for_wireshark;
        control.duration = config.duration;
        let outlet = Outlet { is_live, pipe, unserved, files, shown };
        Ok(Session {
            config,
            began,
            say,
            control,
            writer,
            outlet,
            signals,
            heard,
            messages,
            numbers,
            command,
            command_stderr,
            targets,
        })
    }

    /// Attaches all probes, and lets calls be captured.
    ///
    /// # Errors
    /// A [`Failure`] if there would be nothing to capture.
    pub(super) fn attach(&mut self) -> Result<(), Failure> {
        let Session { config, control, targets, .. } = self;
        let pids = &targets.pids;
        // Waiting for the reader of the output may have taken long.
        pids.gone().map_or(Ok(()), Err)?;
        // A library that the user named must be probed. Any other that cannot be does not end the capture,
        // unless all fail in the same way.
        let must = !config.libraries.is_empty() || matches!(config.targets, Targets::Pids { .. });
        control.mind_coroutines(targets.has_switcher);
        let command = self.command.as_ref().map(Held::pid);
        targets.tree.iter().chain(&command).try_for_each(|pid| control.target(*pid))?;
        // Their pids may be others' by now.
        pids.ended().into_iter().for_each(|pid| control.probe.remove_target(pid));
        let (mut attached, mut refused) = (0, None);
        for (process, library) in targets.libraries.iter().take_while(|_| self.signals.asked().is_none()) {
            let process = process.or(command);
            match control.attach(library, process) {
                Ok(_) => {
                    attached += 1;
                    process.iter().for_each(|pid| control.probe.mark_probed_ahead(*pid, library));
                }
                Err(_) if process.is_some_and(is_gone) && pids.gone().is_none() => {}
                Err(failure) if must => return Err(pids.gone().unwrap_or(failure)),
                Err(failure) => {
                    self.say.warn(&failure.to_string());
                    refused = Some(failure);
                }
            }
        }
        if let (0, Some(failure)) = (attached, refused) {
            return Err(failure);
        }
        std::mem::take(&mut targets.bios).into_iter().for_each(|(pid, bios)| control.watch(pid, bios));
        pids.ended().into_iter().for_each(|pid| control.probe.remove_target(pid));
        control.probe.set_gate(Gate::Open);
        // What arrived since they were inspected.
        for pid in setup::tree(&config.targets) {
            if !targets.tree.contains(&pid) {
                control.target(pid)?;
            }
            control.look(Look::Process(pid));
        }
        Ok(())
    }

    /// Captures until the command ends, a signal comes, or something fails.
    ///
    /// # Errors
    /// A [`Failure`] if the capture does not even begin.
    pub(super) fn run(&mut self) -> Result<Ran, Failure> {
        let Session { config, control, signals, .. } = self;
        let stop = Arc::new(AtomicBool::new(false));
        let queue = Arc::clone(&control.queue);
        let ring =
            spawn_ring(&control.probe, self.outlet.is_live, queue, self.messages.clone(), Arc::clone(&stop))?;
        let is_told = !config.for_wireshark && config.verbosity > Verbosity::Quiet;
        let waits_for_reader = self.outlet.pipe.is_some() && is_told;
        let pipe = self.outlet.pipe.take();
        let reader = pipe.map(|pipe| ReaderWatch::new(pipe, self.messages.clone())).transpose()?;
        // Who has asked for the end already gets it, and the command never runs.
        let asked = signals.asked();
        let command = self.command.take();
        let not_run = asked.filter(|_| command.is_some()).map(Exit::of_signal);
        let command = command.filter(|_| asked.is_none());
        if asked.is_none() {
            privilege::as_user(|| outputs::tell_ready(config))?;
        }
        signals.running();
        let outlives = control.outlives();
        let running = command.map(|command| command.release(outlives)).transpose()?;
        std::mem::take(&mut self.targets.pids).watch(self.messages.clone());
        if let Some(running) = &running {
            watch(running, self.messages.clone())?;
        }
        let end = control.run(&self.heard, running, status_line(config), &self.numbers, self.began);
        let end = end.map(|end| not_run.unwrap_or(end));
        Ok(Ran { end, ring, stop, reader, waits_for_reader })
    }

    /// Writes what is left, removes the probes and reports what was captured.
    ///
    /// # Errors
    /// Why the capture ended, or its output cannot be written. What could be written is.
    pub(super) fn finish(self, ran: Ran) -> Result<Exit, Failure> {
        let Session { config, say, mut control, signals, outlet, .. } = self;
        let Ran { end, ring, stop, reader, waits_for_reader } = ran;
        // Calls that begin from now on are not captured, and no thread is stopped any more. The ring is read to
        // its end, and stopped threads continue.
        signals.ending();
        let waiting = waits_for_reader.then(Waiting::for_reader);
        let ended = monotonic();
        control.probe.end();
        stop.store(true, Ordering::Release);
        control.see_out(&self.heard, &ring, ended);
        let _ = ring.join();
        control.last_words();
        // Wireshark expects messages when the pipe ends.
        if let (Some(mut said), Ok(Exit::Command(1..))) = (self.command_stderr, &end) {
            said.say();
        }
        // It holds the pipe open, and its end is to be that of the capture.
        drop(reader);
        control.queue.end();
        let Written { mut numbers, failed } = await_writer(self.writer, &signals, &self.numbers)?;
        // The writer notices only if it has something to write.
        if control.reader_gone {
            numbers.cut_short.get_or_insert(Cut::Reader);
        }
        numbers.lost.extend(outlet.unserved.map(|unserved| Loss {
            reason: Reason::NotServed,
            events: unserved.packets(),
            bytes: None,
            by_process: Vec::new(),
        }));
        drop(waiting);
        numbers.files = outlet.files.and_then(|told| told.lock().map(|told| told.clone()).ok());
        let path = match &config.output {
            Some(config::Output::File(path)) if !config.is_interim => Some(path.as_path()),
            Some(_) | None => None,
        };
        let is_wanted = config.verbosity > Verbosity::Quiet;
        let kept = control.kept.summarise(&numbers, self.began.elapsed(), path, is_wanted);
        if is_wanted && numbers.connections == 0 {
            let is_part = numbers.has_lost() || numbers.cut_short.is_some();
            printable::say(&control.not_captured.of_nothing(is_part));
        }
        let left_out = outlet.shown.as_ref().map_or(0, Shown::left_out);
        if is_wanted && left_out > 0 {
            say.warn(&format!("{left_out} packets were not shown, because the reader was too slow"));
        }
        let failed = failed.or_else(|| outlet.shown.and_then(|shown| shown.failed()));
        signals.written();
        let result = match failed {
            None => kept.and(end).map(|exit| exit.or_loss(config.fail_on_loss && numbers.has_lost())),
            Some(error) => Err(outputs::write_failure(config, &error)),
        };
        tell_memory(&control.probe, "at the end", say);
        // Probes go last: the user need not wait for them to see the result.
        if config.for_wireshark {
            control.probe.leave()
        } else if signals.hastened().is_none() {
            drop(control.probe)
        }
        signals.die_if_hastened();
        result
    }
}

/// What a capture needs to end.
pub(super) struct Ran {
    end: Result<Exit, Failure>,
    ring: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    reader: Option<ReaderWatch>,
    /// A message is shown if a reader delays the end.
    waits_for_reader: bool,
}

impl Targeted {
    /// Inspects the targets. Also returns the discovery, and why some of them are not captured.
    fn find(config: &Capture, say: Say) -> Result<(Targeted, Discovery, NotCaptured), Failure> {
        let mut not_captured = NotCaptured::new(&config.targets, say);
        let mut discovery = Discovery::default();
        if not_captured.are_wanted() {
            discovery = discovery.explaining();
        }
        if config.return_probes && !may_choose_returns() {
            discovery = discovery.noticing_switchers();
        }
        let pids = TargetPids::of(&config.targets, say)?;
        let tree = setup::tree(&config.targets);
        let libraries = setup::libraries(config, &tree, &mut discovery, &say, &mut not_captured)?;
        if let Targets::Pids { pids, follow: Follow::New } = &config.targets {
            setup::children_left_out(pids, &mut discovery).iter().for_each(|text| say.warn(text));
        }
        let targeted = Targeted { pids, tree, libraries, bios: Vec::new(), has_switcher: false };
        Ok((targeted, discovery, not_captured))
    }
}

/// Starts the command, if there is one. It waits. For Wireshark its output is not shown unless it fails.
fn hold_command(config: &Capture) -> Result<(Option<Held>, Option<CommandStderr>), Failure> {
    let streams = config.for_wireshark.then(CommandStreams::new).transpose()?;
    let command = match &config.targets {
        Targets::Command(command) => Some(privilege::as_user(|| {
            let options = launch::Options {
                user: privilege::invoking_user(),
                stdout_to_stderr: config.output == Some(config::Output::Stdout) || config.show.is_some(),
                streams: streams.as_ref().map(CommandStreams::descriptors),
            };
            Held::spawn(command, &options)
        })?),
        _ => None,
    };
    Ok((command, streams.map(CommandStreams::begin)))
}

/// The line that shows the progress of the capture, if there is a terminal for it.
fn status_line(config: &Capture) -> Option<StatusLine<io::Stderr>> {
    match config.targets {
        // The terminal belongs to the command.
        Targets::Command(_) => None,
        _ if config.verbosity == Verbosity::Quiet => None,
        // The view would be written over.
        _ if config.show.is_some() && io::stdout().is_terminal() => None,
        _ => StatusLine::on_terminal(),
    }
}

/// How sockets are followed, and which processes have breakpoints.
fn tell_of_probes(config: &Capture, probe: &Probe, say: Say) {
    say.detail(&format!(
        "sockets are followed by {}; probes attach {}",
        probe.backend(),
        if probe.bulk() { "in bulk" } else { "one by one" }
    ));
    probe.refused().iter().for_each(|reason| say.detail(&format!("not used: {reason}")));
    tell_memory(probe, "at the start", say);
    say.detail(match &config.targets {
        Targets::Command(_) => "probes are only in processes of the command",
        Targets::Pids { .. } => "probes are only in the processes of -p",
        Targets::Everything => "probes are in every process that has mapped a TLS library",
        Targets::Users(_) => {
            "probes are in every process that has mapped a TLS library, including other users' processes: their calls are not recorded, but pay for the probes"
        }
    });
}

/// Memory that is not this process's own.
fn tell_memory(probe: &Probe, when: &str, say: Say) {
    if let (true, Ok((ring, tables))) = (say.is_verbose(), probe.memory()) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        say.detail(&format!(
            "kernel memory {when}: {:.1} MiB for the ring buffer, {:.1} MiB for tables",
            mib(ring),
            mib(tables)
        ));
    }
}
