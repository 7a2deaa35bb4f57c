//! A capture, from start to end: owns the threads and the channels between them.
//!
//! - The ring thread reads records, hands them over and regularly adds a clock sample.
//! - The writer thread owns the [`Pipeline`](crate::pipeline::Pipeline): everything after the ring.
//! - The control thread (the caller's) does what must happen outside the stream: inspects new files, reads
//!   /proc, handles signals, waits for the command.

mod command_streams;
mod control;
mod holder;
mod looker;
mod not_captured;
mod outputs;
mod queue;
mod reader;
mod recheck;
mod session;
mod setup;
mod signals;
mod stopped_parents;
mod target_pids;
mod threads;
mod tracee;
mod unused;
mod waits;

use self::session::Session;
use crate::config::{Capture, Verbosity};
use crate::failure::{Exit, Failure};
use crate::printable;

pub(crate) use self::outputs::{format, sink as sink_of};
pub(crate) use self::setup::{children_left_out, longest_call, refusal};
pub(crate) use self::tracee::may_trace;

/// Runs a capture until it is told to end.
///
/// # Errors
/// A [`Failure`] for the user; what was captured before is in the file.
pub fn run(config: &Capture) -> Result<Exit, Failure> {
    let mut session = Session::prepare(config)?;
    session.attach()?;
    let end = session.run()?;
    session.finish(end)
}

/// Says things on standard error, as the user wants.
#[derive(Clone, Copy)]
struct Say(Verbosity);

impl Say {
    fn warn(self, text: &str) {
        if self.0 > Verbosity::Quiet {
            printable::say(&format!("tls2pcap: {text}\n"));
        }
    }
    fn is_verbose(self) -> bool {
        self.0 > Verbosity::Normal
    }
    fn detail(self, text: &str) {
        if self.is_verbose() {
            printable::say(&format!("tls2pcap: {text}\n"));
        }
    }
}
