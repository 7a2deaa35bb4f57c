//! The other threads, and what they tell each other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::event::record::encode;
use crate::event::{Clock, Event};
use crate::failure::{Exit, Failure};
use crate::launch::Running;
use crate::pipeline::Pipeline;
use crate::probe::{Notice, Probe, monotonic, realtime};
use crate::sink;
use crate::status::Numbers;

/// Batches between the ring thread and the writer; each has 1 MiB at most. When the writer lags so
/// far behind, the ring thread waits, and what the ring then refuses is counted there.
pub(super) const BATCHES: usize = 16;
/// Messages to the control thread. When it lags so far behind, the ring thread waits for it:
/// whoever was stopped must be let go on.
pub(super) const MESSAGES: usize = 1024;
/// How long the ring is left alone when nothing wakes its reader.
pub(super) const RING_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two clock samples; so long, at most, a packet waits for its way to the file.
pub(super) const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// What the control thread hears.
pub(super) enum Message {
    Notice(Notice),
    Signal(i32),
    /// The command has ended.
    Ended,
    /// The writer gave up.
    Writer(io::Error),
    /// The ring could not be read.
    Ring(String),
}

pub(super) type Batch = Vec<Bytes>;
/// Puts events that user space makes behind the records that were read so far.
pub(super) fn send(batches: &Sender<Batch>, events: &[Event]) {
    // If the writer has given up there is nobody to tell.
    let _ = batches.send(events.iter().filter_map(encode).collect());
}

pub(super) fn spawn_writer(
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

pub(super) fn spawn_ring(
    probe: &Probe,
    batches: Sender<Batch>,
    messages: Sender<Message>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, Failure> {
    let ring = probe.ring().map_err(|e| {
        Failure::new(
            Exit::Kernel,
            format!("the ring buffer cannot be mapped: {e}"),
            "try a smaller --ring-size",
        )
    })?;
    Ok(thread::spawn(move || {
        let mut sampled = Instant::now();
        let mut stopping = false;
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
                // The last read must begin after the stop: records come between a read and this.
                let over = idle && stopping;
                stopping = stop.load(Ordering::Acquire);
                !over
            },
        );
        if let Err(error) = result {
            let _ = messages.send(Message::Ring(error.to_string()));
        }
    }))
}

/// `ending`: the capture is asked to end, which may wait for whoever reads the output. Who asks again
/// does not want to wait.
pub(super) fn listen_to_signals(messages: Sender<Message>, ending: Arc<AtomicBool>) -> Result<(), Failure> {
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
pub(super) fn watch(running: &Running, messages: Sender<Message>) -> Result<(), Failure> {
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
pub(super) fn clock() -> Clock {
    // The realtime of the middle of two monotonic readings.
    let before = monotonic();
    let realtime = realtime();
    let after = monotonic();
    Clock { monotonic: before + (after - before) / 2, realtime }
}
