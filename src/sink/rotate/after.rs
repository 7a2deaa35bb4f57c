//! The command that is run with each file that is complete.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::printable;
use crate::privilege::{self, User};

/// Files that wait for the command. It is not run for further ones, which is reported.
const WAITING_MAX: usize = 1024;
/// It gets only otherwise unused processor time.
const NICE: i32 = 19;

/// Runs the command on one file at a time, in parallel with the capture.
pub(super) struct After {
    files: Option<SyncSender<PathBuf>>,
    thread: Option<JoinHandle<()>>,
}

impl After {
    pub(super) fn new(command: String) -> After {
        let (files, wanted) = sync_channel::<PathBuf>(WAITING_MAX);
        let user = privilege::invoking_user();
        let thread = thread::spawn(move || {
            for file in wanted {
                let said = match run(&command, &file, user.clone()) {
                    Ok(status) if status.success() => continue,
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                printable::say(&format!("tls2pcap: -z {command} {}: {said}\n", file.display()));
            }
        });
        After { files: Some(files), thread: Some(thread) }
    }

    /// This file is complete.
    pub(super) fn file(&self, path: PathBuf) {
        if let Some(Err(TrySendError::Full(path))) = self.files.as_ref().map(|files| files.try_send(path)) {
            printable::say(&format!(
                "tls2pcap: -z is not run with {}: {WAITING_MAX} files wait for it already\n",
                path.display()
            ));
        }
    }
}

impl Drop for After {
    /// Waits until the command has had all files.
    fn drop(&mut self) {
        self.files = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(command: &str, file: &PathBuf, user: Option<User>) -> io::Result<std::process::ExitStatus> {
    let mut run = Command::new(command);
    // Its output is not part of a capture on standard output.
    run.arg(file).stdin(Stdio::null()).stdout(io::stderr());
    let user = user.map(|user| (user.uid, user.gid, user.groups));
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        run.pre_exec(move || {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            if let Some((uid, gid, groups)) = &user {
                let changed = libc::setgroups(groups.len(), groups.as_ptr()) == 0
                    && libc::setresgid(*gid, *gid, *gid) == 0
                    && libc::setresuid(*uid, *uid, *uid) == 0;
                if !changed {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    run.status()
}
