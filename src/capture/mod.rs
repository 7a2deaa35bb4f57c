//! A capture, from start to end: owns the threads and the channels between them.
//!
//! - The ring thread reads records, hands them over and puts a clock sample behind them now and then.
//! - The writer thread owns the [`Pipeline`]: all that lies behind the ring.
//! - The control thread (the caller's) does what must happen outside the stream: looks at new
//!   files, asks /proc, hears signals, waits for the command.

mod aside;
mod control;
mod given;
mod handover;
mod holder;
mod looker;
mod minders;
mod reader;
mod reasons;
mod setup;
mod signals;
mod threads;
mod tracee;
mod unused;
mod vain;
mod waits;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::bounded;

use self::aside::Aside;
use self::control::Control;
use self::given::Given;
use self::handover::Handover;
use self::looker::{Look, Looker};
use self::reasons::Reasons;
use self::signals::Signals;
use self::threads::{MESSAGES, ReaderWatch, Waiting, Written, await_writer, spawn_ring, spawn_writer, watch};
use self::unused::Unused;
use self::waits::Waits;
use crate::config::{self, Capture, Follow, Targets, Verbosity};
use crate::discover::Discovery;
use crate::discover::process::is_gone;
use crate::event::Event;
use crate::event::record::encode;
use crate::failure::{Exit, Failure};
use crate::kept::Kept;
use crate::launch::{self, Held};
use crate::limits;
use crate::pipeline::Pipeline;
use crate::privilege;
use crate::probe::{Gate, Probe, clocks, may_choose_returns, monotonic};
use crate::read::LiveView;
use crate::rewrite;
use crate::sink;
use crate::status::{self, Cut, Loss, Numbers, Reason, StatusLine};

pub(crate) use self::setup::{children_left_out, format, longest_call, ports, refusal, sink as sink_of};
pub(crate) use self::tracee::may_trace;

/// Runs a capture until it is told to end.
///
/// # Errors
/// A [`Failure`] for the user; what was captured before is in the file.
pub fn run(config: &Capture) -> Result<Exit, Failure> {
    let began = Instant::now();
    privilege::raise();
    limits::raise();
    let allowed = privilege::check()?;
    let say = Say(config.verbosity);
    allowed.warnings.iter().for_each(|w| say.warn(w));

    if let Some(fd) = config.ready_fd {
        launch::keep_from_command(fd)?;
    }
    let engine = config
        .redact
        .as_ref()
        .map(|redaction| privilege::as_user(|| rewrite::live_engine(redaction, &config.selection)))
        .transpose()?;
    let mut reasons = Reasons::new(&config.targets, say);
    let mut discovery = Discovery::default();
    if reasons.are_wanted() {
        discovery = discovery.explaining();
    }
    if config.return_probes && !may_choose_returns() {
        discovery = discovery.noticing_switchers();
    }
    let given = Given::of(&config.targets, say)?;
    let tree = setup::tree(&config.targets);
    let found = setup::libraries(config, &tree, &mut discovery, &say, &mut reasons)?;
    if let Targets::Pids { pids, follow: Follow::New } = &config.targets {
        children_left_out(pids, &mut discovery).iter().for_each(|text| say.warn(text));
    }
    let mut probe = setup::load(config, &found)?;
    say.detail(&format!(
        "sockets are followed by {}; probes attach {}",
        probe.backend(),
        if probe.bulk() { "in bulk" } else { "one by one" }
    ));
    probe.refused().iter().for_each(|r| say.detail(&format!("not taken: {r}")));
    tell_memory(&probe, "at the start", say);
    say.detail(match &config.targets {
        Targets::Command(_) => "probes stand in processes of the command only",
        Targets::Pids { .. } => "probes stand in the processes of -p only",
        Targets::Everything => "probes stand in every process that has mapped a TLS library",
        Targets::Users(_) => {
            "probes stand in every process that has mapped a TLS library, those of other users too: their calls are not recorded, but pay for the probes"
        }
    });

    let server = config.serve.map(|address| setup::listen(config, address, &given, &say)).transpose()?;

    // First of all, so that a command that is not there costs no file.
    let aside = config.for_wireshark.then(Aside::new).transpose()?;
    let held = match &config.targets {
        Targets::Command(command) => Some(privilege::as_user(|| {
            let options = launch::Options {
                user: privilege::invoking_user(),
                stdout_to_stderr: config.output == Some(config::Output::Stdout) || config.show.is_some(),
                aside: aside.as_ref().map(Aside::descriptors),
            };
            Held::spawn(command, &options)
        })?),
        _ => None,
    };
    let mut aside = aside.map(Aside::begin);

    let mut opened = privilege::as_user(|| setup::open_output(config))?;
    let (recorder, recording) = privilege::as_user(|| setup::open_recorder(config))?;
    let output = opened.as_mut().map(|(output, _)| output);
    // Of several files each may go while the next is written.
    let whereabouts = output.filter(|_| !config.files.rotates()).and_then(sink::Output::take_whereabouts);
    let kept = Kept::new(whereabouts, recording);

    let output = opened.as_ref().map(|(output, _)| output);
    let live = server.is_some() || config.show.is_some() || output.is_some_and(sink::Output::is_live);
    let pipe = output.and_then(sink::Output::pipe);
    // What stands in a file too is not lost.
    let unserved = server.as_ref().filter(|_| output.is_none()).map(sink::Server::unserved);
    let gathering = output.is_some_and(|output| output.format().is_compressed());
    let path = match &config.output {
        Some(config::Output::File(path)) => Some(path.as_path()),
        Some(config::Output::Stdout) | None => None,
    };
    let (file, files) = setup::sink(&config.files, path, opened, config.link, config.record.as_deref());
    let view = setup::view(config)?;
    let shown = view.as_ref().map(LiveView::shown);
    let output = sink::Fan { file, server, view };
    let handover = Arc::new(Handover::default());
    let (messages, heard) = bounded(MESSAGES);
    let numbers = Arc::new(Mutex::new(Numbers::default()));
    // From here on there is a file to be ended well.
    let signals = Signals::listen(messages.clone(), Arc::clone(&handover), config.for_wireshark)?;
    let mut pipeline = Pipeline::new(output, ports(config.ports), recorder)
        .with_process_blocks(config.process_blocks)
        .with_carrier(config.framing.into())
        .with_link(config.link.into())
        .with_comments(config.comments)
        .with_redaction(engine)
        .with_selection(config.selection.clone())
        .with_settled(sink::Fan::settled)
        .gathering(gathering);
    if config.packet_buffered {
        pipeline = pipeline.unbuffered();
    }
    let writer = spawn_writer(pipeline, live, Arc::clone(&handover), messages.clone(), Arc::clone(&numbers));
    let first = [Event::Start(setup::start(config, &probe, live)), Event::Clock(clocks())];
    first.iter().filter_map(encode).for_each(|record| handover.put_record(&record));

    let waits = Waits::of(&mut probe, held.as_ref(), config.targets.are_followed(), say)?;
    let outlives = waits.outlive();
    // Those that run already may have connections whose socket only their records tell.
    let watched: Vec<_> = match &config.targets {
        Targets::Pids { .. } => tree.iter().map(|pid| (*pid, discovery.bios_of(*pid))).collect(),
        _ => Vec::new(),
    };
    let has_seen_switcher = discovery.has_seen_switcher();
    let looker = Looker::spawn(discovery, messages.clone())?;
    let unused = Unused::new(messages.clone());
    let mut control = Control::new(probe, (looker, unused), handover, say, waits, reasons, kept);
    control.for_wireshark = config.for_wireshark;
    control.duration = config.duration;
    // Waiting for whoever reads the output may have taken long.
    given.gone().map_or(Ok(()), Err)?;
    // A library that the user named must be probed. Of others one that cannot be stops nobody, unless
    // it is the same with all.
    let must = !config.libraries.is_empty() || matches!(config.targets, Targets::Pids { .. });
    control.mind_coroutines(has_seen_switcher);
    match &config.targets {
        Targets::Pids { .. } => tree.iter().try_for_each(|pid| control.target(*pid))?,
        Targets::Command(_) => held.iter().try_for_each(|held| control.target(held.pid()))?,
        Targets::Everything | Targets::Users(_) => {}
    }
    // Their pids may be others' by now.
    given.ended().into_iter().for_each(|pid| control.probe.remove_target(pid));
    let (mut attached, mut refused) = (0, None);
    for (process, library) in found.iter().take_while(|_| signals.asked().is_none()) {
        let process = process.or(held.as_ref().map(Held::pid));
        match control.attach(library, process) {
            Ok(_) => {
                attached += 1;
                process.iter().for_each(|pid| control.probe.mark_probed_ahead(*pid, library));
            }
            Err(_) if process.is_some_and(is_gone) && given.gone().is_none() => {}
            Err(failure) if must => return Err(given.gone().unwrap_or(failure)),
            Err(failure) => {
                say.warn(&failure.to_string());
                refused = Some(failure);
            }
        }
    }
    if let (0, Some(failure)) = (attached, refused) {
        return Err(failure);
    }
    watched.into_iter().for_each(|(pid, bios)| control.watch(pid, bios));
    given.ended().into_iter().for_each(|pid| control.probe.remove_target(pid));
    control.probe.set_gate(Gate::Open);
    // What came since they were looked at.
    for pid in setup::tree(&config.targets) {
        if !tree.contains(&pid) {
            control.target(pid)?;
        }
        control.look(Look::Process(pid));
    }

    let stop = Arc::new(AtomicBool::new(false));
    let handover = Arc::clone(&control.handover);
    let ring = spawn_ring(&control.probe, live, handover, messages.clone(), Arc::clone(&stop))?;
    let has_reader = pipe.is_some() && !config.for_wireshark && config.verbosity > Verbosity::Quiet;
    let reader = pipe.map(|pipe| ReaderWatch::new(pipe, messages.clone())).transpose()?;
    // Who has asked for the end already gets it, and the command never runs.
    let asked = signals.asked();
    let not_run = asked.filter(|_| held.is_some()).map(Exit::of_signal);
    let held = held.filter(|_| asked.is_none());
    if asked.is_none() {
        privilege::as_user(|| setup::tell_ready(config))?;
    }
    signals.running();
    let running = held.map(|held| held.release(outlives)).transpose()?;
    given.watch(messages.clone());
    if let Some(running) = &running {
        watch(running, messages)?;
    }

    let line = match config.targets {
        // The terminal belongs to the command.
        Targets::Command(_) => None,
        _ if config.verbosity == Verbosity::Quiet => None,
        // The view would be written over.
        _ if config.show.is_some() && io::stdout().is_terminal() => None,
        _ => StatusLine::on_terminal(),
    };
    let end = control.run(&heard, running, line, &numbers, began);
    let end = end.map(|end| not_run.unwrap_or(end));

    // No call that begins from now on is captured, and nobody is stopped any more; what is in the
    // ring is read to its end, and whoever was stopped goes on.
    signals.ending();
    let waiting = has_reader.then(Waiting::for_reader);
    let ended = monotonic();
    control.probe.end();
    stop.store(true, Ordering::Release);
    control.see_out(&heard, &ring, ended);
    let _ = ring.join();
    control.last_words();
    // Wireshark looks for words when the pipe ends.
    if let (Some(aside), Ok(Exit::Command(1..))) = (&mut aside, &end) {
        aside.say();
    }
    // It holds the pipe open, and its end is to be that of the capture.
    drop(reader);
    control.handover.end();
    let Written { mut numbers, failed } = await_writer(writer, &signals, &numbers)?;
    // The writer notices only if it has something to write.
    if control.reader_gone {
        numbers.cut_short.get_or_insert(Cut::Reader);
    }
    numbers.lost.extend(unserved.map(|unserved| Loss {
        reason: Reason::NotServed,
        events: unserved.packets(),
        bytes: None,
        by_process: Vec::new(),
    }));
    drop(waiting);
    let path = match &config.output {
        Some(config::Output::File(path)) if !config.is_interim => Some(path.as_path()),
        Some(_) | None => None,
    };
    numbers.files = files.and_then(|told| told.lock().map(|told| told.clone()).ok());
    let is_wanted = config.verbosity > Verbosity::Quiet;
    let kept = control.kept.summarise(&numbers, began.elapsed(), path, is_wanted);
    if is_wanted && numbers.connections == 0 {
        let is_part = numbers.has_lost() || numbers.cut_short.is_some();
        status::say(&control.reasons.of_nothing(is_part));
    }
    let left_out = shown.as_ref().map_or(0, |shown| shown.left_out());
    if is_wanted && left_out > 0 {
        say.warn(&format!("{left_out} packets were not shown, since whoever reads was too slow"));
    }
    let failed = failed.or_else(|| shown.and_then(|shown| shown.failed()));
    signals.written();
    let result = match failed {
        None => kept.and(end).map(|exit| exit.or_loss(config.fail_on_loss && numbers.has_lost())),
        Some(error) => Err(setup::write_failure(config, &error)),
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

/// Says things on standard error, as the user wants.
#[derive(Clone, Copy)]
struct Say(Verbosity);

impl Say {
    fn warn(self, text: &str) {
        if self.0 > Verbosity::Quiet {
            status::say(&format!("tls2pcap: {text}\n"));
        }
    }
    fn is_verbose(self) -> bool {
        self.0 > Verbosity::Normal
    }
    fn detail(self, text: &str) {
        if self.is_verbose() {
            status::say(&format!("tls2pcap: {text}\n"));
        }
    }
}
