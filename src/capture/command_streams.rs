//! The output of a command that Wireshark has started: it is not shown unless the command fails.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::printable;

/// Bytes of its last words that are kept: Wireshark shows 1,024.
const KEPT: usize = 700;
/// How long they are waited for when the command has ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the command's standard input, output and error lead.
pub(super) struct CommandStreams {
    null: File,
    read: PipeReader,
    write: PipeWriter,
}

/// The command's standard error.
pub(super) struct CommandStderr {
    last: Arc<Mutex<VecDeque<u8>>>,
    ended: Receiver<()>,
}

impl CommandStreams {
    pub(super) fn new() -> Result<CommandStreams, Failure> {
        let failed = |e: io::Error| Failure::new(Exit::Io, format!("the command cannot be run: {e}"), "");
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
        let (read, write) = io::pipe().map_err(failed)?;
        Ok(CommandStreams { null, read, write })
    }

    /// For [`crate::launch::Options::streams`]; good as long as this lives.
    pub(super) fn descriptors(&self) -> (RawFd, RawFd) {
        (self.null.as_raw_fd(), self.write.as_raw_fd())
    }

    /// To be called when the command has them.
    pub(super) fn begin(self) -> CommandStderr {
        let last = Arc::new(Mutex::new(VecDeque::with_capacity(KEPT)));
        let (tell, ended) = channel();
        let (mut read, kept) = (self.read, Arc::clone(&last));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = read.read(&mut bytes) {
                if let Ok(mut kept) = kept.lock() {
                    kept.extend(&bytes[..n]);
                    let excess = kept.len().saturating_sub(KEPT);
                    kept.drain(..excess);
                }
            }
            let _ = tell.send(());
        });
        CommandStderr { last, ended }
    }
}

impl CommandStderr {
    /// Passes its last words on.
    pub(super) fn say(&mut self) {
        // A child that outlives the command may hold the pipe open.
        let _ = self.ended.recv_timeout(PATIENCE);
        if let Ok(mut last) = self.last.lock() {
            printable::say(&String::from_utf8_lossy(last.make_contiguous()));
        }
    }
}
