//! A thread of another process that is held by tracing it.
//!
//! Only its tracer sees that a traced thread is stopped: its parent gets no SIGCHLD, and no wait returns,
//! whatever its flags. If the tracer dies in any way, the thread continues. All of this must happen in one
//! thread, which is the tracer.

#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;
use std::thread;
use std::time::Duration;

use libc::{c_int, c_uint, pid_t};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::probe::SyscallReturn;

/// A thread that was seized by the calling thread.
#[derive(Debug)]
pub(super) struct Tracee {
    tid: pid_t,
    /// It is a child of this process, which waits for its end itself.
    is_own_child: bool,
}

/// Its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has not stopped yet, or nothing has changed.
    Nothing,
    /// It has stopped, with the signal that it was about to get, or 0.
    Trapped(c_int),
    /// It is no more, or no longer ours.
    Gone,
}

impl Tracee {
    /// Seizes a thread and asks it to stop.
    ///
    /// # Errors
    /// `EPERM` if it is already traced, or this is not permitted; `ESRCH` if it does not exist.
    pub(super) fn seize(tid: u32, is_own_child: bool) -> Result<Tracee, Errno> {
        let tid = pid_t::try_from(tid).map_err(|_| Errno::ESRCH)?;
        request(libc::PTRACE_SEIZE, tid, 0)?;
        // It fails only if the thread ends, which shows later.
        let _ = request(libc::PTRACE_INTERRUPT, tid, 0);
        Ok(Tracee { tid, is_own_child })
    }

    /// Where it reenters its program. It must be stopped. `None`: unknown.
    pub(super) fn place(&self) -> Option<SyscallReturn> {
        #[cfg(target_arch = "x86_64")]
        {
            let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
            let to = registers.as_mut_ptr().cast::<libc::c_void>();
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: the request fills in that structure, all zeros of which are valid.
            let registers = unsafe {
                Errno::result(libc::ptrace(libc::PTRACE_GETREGS, self.tid, none, to)).ok()?;
                registers.assume_init()
            };
            Some(SyscallReturn { call: registers.orig_rax, ip: registers.rip, sp: registers.rsp })
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Never waits.
    pub(super) fn look(&self) -> Seen {
        const ALL: c_int = libc::WSTOPPED | libc::WEXITED;
        let Some((code, status)) = self.wait(ALL | libc::WNOWAIT) else { return Seen::Gone };
        match code {
            0 => Seen::Nothing,
            libc::CLD_TRAPPED | libc::CLD_STOPPED => {
                let _ = self.wait(libc::WSTOPPED);
                let is_event = status >> 8 == libc::PTRACE_EVENT_STOP;
                Seen::Trapped(if is_event { 0 } else { status & 0x7f })
            }
            _ => {
                // Its parent hears of its end only after its tracer.
                if !self.is_own_child {
                    let _ = self.wait(libc::WEXITED);
                }
                Seen::Gone
            }
        }
    }

    /// Continues it, with the signal that it was about to get. It must be stopped.
    ///
    /// # Errors
    /// If it is being killed: then wait for its end.
    pub(super) fn detach(&self, signal: c_int) -> Result<(), Errno> {
        request(libc::PTRACE_DETACH, self.tid, signal)
    }

    /// The result of `waitid` for it: code and status, zeros if nothing has changed. `None`: it does not exist.
    fn wait(&self, flags: c_int) -> Option<(c_int, c_int)> {
        let flags = flags | libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: all zeros are a valid siginfo_t, which waitid may fill. What is read of it is what waitid gives.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let waited = libc::waitid(libc::P_PID, self.tid as libc::id_t, &raw mut info, flags);
            Errno::result(waited).ok()?;
            if info.si_pid() == 0 { Some((0, 0)) } else { Some((info.si_code, info.si_status())) }
        }
    }
}

/// Holds a child of this process, and lets it go.
///
/// # Errors
/// Why that cannot be done.
pub(super) fn try_on(child: u32) -> Result<(), Errno> {
    /// It waits, and so stops immediately.
    const LOOKS: u32 = 1000;
    const LOOK: Duration = Duration::from_millis(1);
    let tracee = Tracee::seize(child, true)?;
    for _ in 0..LOOKS {
        match tracee.look() {
            Seen::Trapped(signal) => return tracee.detach(signal),
            Seen::Gone => return Err(Errno::ESRCH),
            Seen::Nothing => thread::sleep(LOOK),
        }
    }
    Err(Errno::ETIMEDOUT)
}

/// Whether this process may trace another.
///
/// # Errors
/// Why not.
pub(crate) fn may_trace() -> Result<(), Errno> {
    // SAFETY: the child calls nothing but what is async-signal-safe, and never returns.
    let child = match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: it waits for a signal.
            unsafe { libc::pause() };
        },
        pid => Errno::result(pid)?,
    };
    let tried = try_on(child.unsigned_abs());
    let child = Pid::from_raw(child);
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    tried
}

fn request(request: c_uint, tid: pid_t, data: c_int) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests above reads or writes memory; `data` is a number in all of them.
    let result = unsafe { libc::ptrace(request, tid, none, data as usize as *mut libc::c_void) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// A child that waits for its stdin.
    fn child() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn until(mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    fn is_held(child: &Child) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.contains(") t ")
    }

    fn trapped(tracee: &Tracee) -> c_int {
        let mut signal = None;
        until(|| match tracee.look() {
            Seen::Trapped(with) => {
                signal = Some(with);
                true
            }
            seen => {
                assert_eq!(seen, Seen::Nothing);
                false
            }
        });
        signal.unwrap()
    }

    #[test]
    fn a_thread_is_held_and_goes_on_where_it_was() {
        let mut child = child();
        for _ in 0..2 {
            let tracee = Tracee::seize(child.id(), true).unwrap();
            assert_eq!(trapped(&tracee), 0);
            assert!(is_held(&child));
            assert_eq!(tracee.look(), Seen::Nothing);
            assert_eq!(Tracee::seize(child.id(), true).unwrap_err(), Errno::EPERM);
            tracee.detach(0).unwrap();
            until(|| !is_held(&child));
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn it_is_known_where_a_thread_enters_its_program() {
        let mut child = child();
        // It has read its libraries by now.
        let is_reading = |child: &Child| {
            let syscall = std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap();
            syscall.starts_with("0 0x0 ").then(|| {
                let mut numbers = syscall.split_ascii_whitespace().rev();
                let mut number = || u64::from_str_radix(&numbers.next().unwrap()[2..], 16).unwrap();
                let (ip, sp) = (number(), number());
                SyscallReturn { call: 0, ip, sp }
            })
        };
        until(|| is_reading(&child).is_some());
        let place = is_reading(&child).unwrap();
        let tracee = Tracee::seize(child.id(), true).unwrap();
        trapped(&tracee);
        assert_eq!(tracee.place(), Some(place));
        assert!(!place.is_same(SyscallReturn { sp: place.sp + 8, ..place }));
        assert!(
            SyscallReturn { sp: 0, ..place }.is_same(place)
                && !SyscallReturn { ip: 1, ..place }.is_same(place)
        );
        tracee.detach(0).unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn it_goes_on_when_its_tracer_is_no_more() {
        let mut child = child();
        let pid = child.id();
        std::thread::spawn(move || trapped(&Tracee::seize(pid, true).unwrap())).join().unwrap();
        until(|| !is_held(&child));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn one_that_is_killed_is_still_its_parents() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = child();
        let tracee = Tracee::seize(child.id(), true).unwrap();
        trapped(&tracee);
        child.kill().unwrap();
        until(|| tracee.look() == Seen::Gone);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(tracee.look(), Seen::Gone);
        assert_eq!(Tracee::seize(child.id(), true).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn a_signal_that_comes_meanwhile_is_not_lost() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = child();
        let tracee = Tracee::seize(child.id(), true).unwrap();
        trapped(&tracee);
        // SAFETY: a plain system call on a child that was not waited for.
        assert_eq!(unsafe { libc::kill(child.id() as pid_t, libc::SIGTERM) }, 0);
        tracee.detach(0).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
