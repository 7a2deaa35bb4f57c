//! The other threads, and their messages.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::looker::Looked;
use super::queue::Queue;
use super::reader::{Notice, Reader};
use super::signals::{MOMENT, Signals};
use super::unused::Answer;
use crate::failure::{Exit, Failure};
use crate::launch::Running;
use crate::outlets::Outlets;
use crate::pipeline::{NotRecorded, Pipeline};
use crate::printable;
use crate::privilege;
use crate::probe::Probe;
use crate::sink;
use crate::status::{Cut, Numbers};

/// Messages to the control thread. If it lags so far behind, the ring thread waits for it, because stopped
/// threads must be released.
pub(super) const MESSAGES: usize = 1024;
/// Time between two clock samples; so long, at most, a packet waits for its way to the file.
pub(super) const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// The same for a live reader: what waits for a time does not wait much longer.
const CLOCK_INTERVAL_LIVE: Duration = Duration::from_millis(25);
/// How long the writer may take to give up: it cannot while it waits for the reader of the output.
const GIVING_UP: Duration = Duration::from_millis(500);
/// Time between two checks whether the writer has ended.
const WRITER_INTERVAL: Duration = Duration::from_millis(5);
/// What the control thread hears.
pub(super) enum Message {
    Notice(Notice),
    /// An inspection has finished.
    Looked(Looked),
    /// The users of some files were determined.
    Unused(Answer),
    Signal(i32),
    /// Somebody opens a file for writing that is probed.
    FileWanted,
    /// Somebody asks for the numbers so far.
    NumbersWanted,
    /// The command has ended.
    Ended,
    /// A process given with -p has ended, and so many of them are left.
    Gone {
        pid: u32,
        left: usize,
    },
    /// The writer gave up.
    Writer(io::Error),
}

/// What the writer has done.
pub(super) struct Written {
    pub(super) numbers: Numbers,
    /// Why it ended before the capture; a reader that has seen enough is no reason.
    pub(super) failed: Option<io::Error>,
}

impl Written {
    /// The capture ended before its end.
    fn cut(numbers: Numbers, error: io::Error) -> Written {
        let (cut, failed) = match &error {
            error if sink::is_enough(error) => (Cut::Enough, None),
            error if is_reader_gone(error) => (Cut::Reader, None),
            _ => (Cut::Output, Some(error)),
        };
        Written { numbers: numbers.cut(cut), failed }
    }
}

/// Whether it was the reader of the capture, and not the recording.
fn is_reader_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe && !NotRecorded::is_in(error)
}

/// What the writer has done, once it has ended. If the end is hastened and it cannot end, what it has done so far.
pub(super) fn await_writer(
    writer: JoinHandle<Written>,
    signals: &Signals,
    numbers: &Mutex<Numbers>,
) -> Result<Written, Failure> {
    while !writer.is_finished() {
        if signals.hastened().is_some_and(|(_, at)| at.elapsed() >= GIVING_UP) {
            let numbers = numbers.lock().map(|n| n.clone()).unwrap_or_default();
            return Ok(Written { numbers: numbers.cut(Cut::Hastened), failed: None });
        }
        thread::sleep(WRITER_INTERVAL);
    }
    writer.join().map_err(|_| Failure::new(Exit::Io, "the writer thread failed", ""))
}

pub(super) fn spawn_writer(
    mut pipeline: Pipeline<Outlets>,
    live: bool,
    queue: Arc<Queue>,
    messages: Sender<Message>,
    numbers: Arc<Mutex<Numbers>>,
) -> JoinHandle<Written> {
    thread::spawn(move || {
        go_first();
        privilege::lower();
        let mut told = Instant::now();
        let failed = loop {
            let Some(batch) = queue.take() else {
                if queue.is_given_up() {
                    let numbers = pipeline.give_up();
                    return Written { numbers: numbers.cut(Cut::Hastened), failed: None };
                }
                if let Err(error) = pipeline.flush() {
                    break error;
                }
                let numbers = pipeline.numbers();
                return match pipeline.finish() {
                    Ok(numbers) => Written { numbers, failed: None },
                    Err(error) => Written::cut(numbers, error),
                };
            };
            if told.elapsed() >= CLOCK_INTERVAL {
                told = Instant::now();
                if let Ok(mut numbers) = numbers.lock() {
                    *numbers = pipeline.numbers();
                }
            }
            match pipeline.batch(batch) {
                Ok(batch) => queue.written(batch),
                Err(error) => break error,
            }
            if live
                && queue.is_empty()
                && let Err(error) = pipeline.flush()
            {
                break error;
            }
        };
        queue.give_up();
        let kind = if is_reader_gone(&failed) { failed.kind() } else { io::ErrorKind::Other };
        let _ = messages.send(Message::Writer(io::Error::new(kind, failed.to_string())));
        Written::cut(pipeline.give_up(), failed)
    })
}

/// `live`: the output is read while it is written.
pub(super) fn spawn_ring(
    probe: &Probe,
    live: bool,
    queue: Arc<Queue>,
    messages: Sender<Message>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, Failure> {
    let mapped = probe.rings().and_then(|rings| Ok((rings, probe.ended()?)));
    let (rings, ended) = mapped.map_err(|e| {
        Failure::new(
            Exit::Kernel,
            format!("the ring buffer cannot be mapped: {e}"),
            "try a smaller --ring-size",
        )
    })?;
    let clock_interval = if live { CLOCK_INTERVAL_LIVE } else { CLOCK_INTERVAL };
    let reader = Reader { rings, queue, ended, clock_interval };
    Ok(thread::spawn(move || {
        go_first();
        privilege::lower();
        reader.run(&stop, |notice| drop(messages.send(Message::Notice(notice))));
    }))
}

/// Says what is waited for, if that takes long.
#[derive(Debug)]
pub(super) struct Waiting {
    _end: Sender<()>,
}

impl Waiting {
    /// For the reader of standard output or a pipe, until this is dropped.
    pub(super) fn for_reader() -> Waiting {
        let (_end, ended) = bounded(0);
        thread::spawn(move || {
            if ended.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) {
                printable::say(
                    "tls2pcap: waiting for the reader of the capture to take the rest; press Ctrl-C again to stop waiting\n",
                );
            }
        });
        Waiting { _end }
    }
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

/// Reports when the pipe has no reader any more, even while nothing is written to it.
#[derive(Debug)]
pub(super) struct ReaderWatch {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the watch.
    end: Option<OwnedFd>,
}

impl ReaderWatch {
    pub(super) fn new(pipe: OwnedFd, messages: Sender<Message>) -> Result<ReaderWatch, Failure> {
        let (ended, end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|e| Failure::new(Exit::Io, format!("the output cannot be watched: {e}"), ""))?;
        let thread = thread::spawn(move || {
            let of = |fd: &OwnedFd| libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
            let mut polls = [of(&pipe), of(&ended)];
            // SAFETY: valid pollfds, whose descriptors this thread owns.
            while unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) } < 1 {}
            if polls[0].revents != 0 && polls[1].revents == 0 {
                let _ = messages.send(Message::Writer(io::ErrorKind::BrokenPipe.into()));
            }
        });
        Ok(ReaderWatch { thread: Some(thread), end: Some(end) })
    }
}

impl Drop for ReaderWatch {
    fn drop(&mut self) {
        self.end = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The calling thread gets priority over ordinary ones, if that is permitted (CAP_SYS_NICE): among many busy
/// threads of the captured programs it would get too little time to keep up with them.
fn go_first() {
    const NICE: i32 = -15;
    // SAFETY: a plain system call. On Linux it is about this thread only; if refused, nothing changes.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
