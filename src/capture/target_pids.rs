//! The processes given with -p: when all have ended, so does the capture.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::Say;
use super::threads::Message;
use crate::config::Targets;
use crate::discover::process::process_of_thread;
use crate::failure::{Exit, Failure};
use crate::launch::pidfd_open;

/// The processes, held by descriptors, which never lead to a later process of the same pid.
#[derive(Debug, Default)]
pub(super) struct TargetPids {
    watched: Vec<(u32, OwnedFd)>,
    /// How many there are whose end cannot be seen.
    others: usize,
}

impl TargetPids {
    /// Those of `targets`: none unless they are pids.
    ///
    /// # Errors
    /// [`Exit::NoTarget`] if there is no such process.
    pub(super) fn of(targets: &Targets, say: Say) -> Result<TargetPids, Failure> {
        let Targets::Pids { pids, .. } = targets else { return Ok(TargetPids::default()) };
        let mut target_pids = TargetPids::default();
        for pid in pids {
            match pidfd_open(Pid::from_raw(pid.cast_signed())) {
                Ok(fd) => target_pids.watched.push((*pid, fd)),
                Err(error) => match process_of_thread(*pid) {
                    Some(process) => return Err(thread_given(*pid, process)),
                    None if matches!(error, Errno::ESRCH | Errno::EINVAL) => return Err(no_process(*pid)),
                    None => {
                        target_pids.others += 1;
                        say.warn(&format!("the end of process {pid} will not be seen: {}", error.desc()));
                    }
                },
            }
        }
        Ok(target_pids)
    }

    /// Those that have ended.
    pub(super) fn ended(&self) -> Vec<u32> {
        poll(&self.watched, 0).unwrap_or_default()
    }

    /// Why nothing can be captured, if that is so because all have ended already.
    pub(super) fn gone(&self) -> Option<Failure> {
        let ended = self.ended();
        let all = !ended.is_empty() && ended.len() == self.watched.len() + self.others;
        all.then(|| {
            let (who, has) = if ended.len() == 1 { ("process", "has") } else { ("processes", "have") };
            let pids: Vec<String> = ended.iter().map(u32::to_string).collect();
            let message = format!("{who} {} {has} ended before the capture began", pids.join(", "));
            Failure::new(Exit::NoTarget, message, "")
        })
    }

    /// Tells of the end of each, in the order in which they end.
    pub(super) fn watch(self, messages: Sender<Message>) {
        let TargetPids { watched: mut living, others } = self;
        if living.is_empty() {
            return;
        }
        thread::spawn(move || {
            while !living.is_empty() {
                // Without memory, say: then no more ends are seen, and Ctrl-C ends the capture.
                let Ok(ended) = poll(&living, -1) else { return };
                living.retain(|(pid, _)| !ended.contains(pid));
                let left = living.len() + others;
                for (after, pid) in (left..left + ended.len()).rev().zip(ended) {
                    let _ = messages.send(Message::Gone { pid, left: after });
                }
            }
        });
    }
}

/// Which of them have ended; `timeout` in milliseconds, -1 for none.
fn poll(processes: &[(u32, OwnedFd)], timeout: i32) -> io::Result<Vec<u32>> {
    let of = |(_, fd): &(u32, OwnedFd)| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls: Vec<libc::pollfd> = processes.iter().map(of).collect();
    loop {
        // SAFETY: valid pollfds, whose descriptors are open.
        if unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout) } >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(processes.iter().zip(&polls).filter(|(_, poll)| poll.revents != 0).map(|((pid, _), _)| *pid).collect())
}

pub(super) fn no_process(pid: u32) -> Failure {
    Failure::new(Exit::NoTarget, format!("there is no process {pid}"), "find it with: pgrep -a NAME")
}

fn thread_given(tid: u32, process: u32) -> Failure {
    Failure::new(
        Exit::NoTarget,
        format!("{tid} is a thread of process {process}"),
        format!("give the process, which is captured with all its threads: -p {process}"),
    )
}
