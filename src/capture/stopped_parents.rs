//! Programs that mind others stop when those stop: sudo and su do, to pass a Ctrl-Z on. Where the capture has to
//! stop processes by a signal, that has to end for them as well, or they would wait for ever.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::probe::HeldThreads;

/// How long after the capture's stop a minder's is taken for its consequence.
const WATCH: Duration = Duration::from_secs(1);
/// Time between two checks of the watched minders.
const LOOK: Duration = Duration::from_millis(10);
/// Minders above one process; also ends a walk through a tree that changes meanwhile.
const ANCESTORS_MAX: usize = 64;
/// Stops whose minders wait to be watched. Beyond that the control thread waits for the watch, which never
/// takes longer than a check.
const WATCHED_MAX: usize = 1024;

/// Continues minders.
#[derive(Debug)]
pub(super) struct StoppedParents {
    command: u32,
    watched: SyncSender<Vec<StoppedParent>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StoppedParent {
    pid: u32,
    /// In clock ticks since boot: distinguishes it from a later process with the same pid.
    start: u64,
}

impl StoppedParents {
    /// `command`: pid of the command; only it and its children can be minders. `stops`: processes that the
    /// capture stopped, and later continues.
    pub(super) fn new(command: u32, stops: HeldThreads) -> StoppedParents {
        let (watched, receiver) = sync_channel(WATCHED_MAX);
        thread::spawn(move || watch(&receiver, &stops));
        StoppedParents { command, watched }
    }

    /// To be called when `pid`, a process of the command, was stopped and before it continues.
    pub(super) fn watch_those_of(&self, pid: u32) {
        let mut parents = Vec::new();
        let mut at = pid;
        while at != self.command && parents.len() < ANCESTORS_MAX {
            let Some(parent) = stat(at).map(|stat| stat.parent) else { return };
            let Some(stat) = stat(parent) else { return };
            parents.push(StoppedParent { pid: parent, start: stat.start });
            at = parent;
        }
        // A process whose parents have exited has no minder.
        if at == self.command && !parents.is_empty() {
            let _ = self.watched.send(parents);
        }
    }
}

fn watch(receiver: &Receiver<Vec<StoppedParent>>, stops: &HeldThreads) {
    let mut watched: Vec<(StoppedParent, Instant)> = Vec::new();
    loop {
        let received = if watched.is_empty() {
            receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            receiver.recv_timeout(LOOK)
        };
        match received {
            Ok(parents) => {
                watched.retain(|(parent, _)| !parents.contains(parent));
                let until = Instant::now() + WATCH;
                watched.extend(parents.into_iter().map(|parent| (parent, until)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        watched.retain(|(parent, until)| {
            let Some(stat) = stat(parent.pid).filter(|stat| stat.start == parent.start) else { return false };
            if stat.stopped && !stops.has(parent.pid) {
                let _ = kill(Pid::from_raw(parent.pid.cast_signed()), Signal::SIGCONT);
            }
            now < *until
        });
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    stopped: bool,
    parent: u32,
    start: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in parentheses, may hold any byte.
fn parse(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&text[end + 1..]).ok()?.split_ascii_whitespace().collect();
    Some(Stat {
        stopped: *fields.first()? == "T",
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields() {
        let text = b"12 (a) T 1 \xff (x) S 34 5 6 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2";
        assert_eq!(parse(text), Some(Stat { stopped: false, parent: 34, start: 987_654 }));
        assert_eq!(parse(b"12 (a) T 34"), None);
        assert_eq!(parse(b""), None);
    }
}
