//! Processes of a test: waited for by condition, and gone when the test ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        // What /proc and the files of other programs tell comes with no signal.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process in the background, in a process group of its own; the group is killed when this is
/// dropped before the process was waited for.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: PathBuf,
    what: String,
}

impl Process {
    /// Starts a command; its stderr goes to the file `stderr`.
    #[track_caller]
    pub fn start(command: &mut Command, stderr: PathBuf) -> Process {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&stderr).unwrap());
        command.process_group(0);
        // Under nohup it would ignore SIGHUP too, and so would tls2pcap.
        // SAFETY: signal(2) is async-signal-safe, and SIG_DFL is a valid disposition.
        unsafe {
            command.pre_exec(|| match libc::signal(libc::SIGHUP, libc::SIG_DFL) {
                libc::SIG_ERR => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Process { child, stdin, lines, stderr, what }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// The next line of its stdout.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(e) => panic!("{}: no line on stdout ({e})\n{}", self.what, self.stderr()),
        }
    }

    /// The rest of the next line of its stdout that begins with `start`.
    #[track_caller]
    pub fn line_after(&mut self, start: &str) -> String {
        loop {
            if let Some(rest) = self.line().strip_prefix(start) {
                return rest.trim().to_string();
            }
        }
    }

    /// The port that a server says it listens on.
    #[track_caller]
    pub fn port(&mut self) -> u16 {
        self.line_after("port").parse().unwrap()
    }

    /// All lines of stdout that were not read yet, up to its end.
    pub fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest.push(line);
        }
        rest
    }

    /// Sends a line to its stdin.
    pub fn go_on(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.group(), signal).unwrap_or_else(|e| panic!("{}: {e}", self.what));
    }

    /// Its pid, which is also its process group's.
    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Lets none of its threads run but the one of this name, until [`Frozen::thaw`]: the calling thread becomes their
    /// tracer.
    #[track_caller]
    pub fn freeze_but(&self, name: &str) -> Frozen {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let others = tasks.filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() != name)
        });
        let threads: Vec<i32> = others.map(|t| t.file_name().to_str().unwrap().parse().unwrap()).collect();
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            threads.iter().for_each(|thread| ptrace(request, *thread));
        }
        for thread in &threads {
            // SAFETY: nothing is written for a null pointer.
            let waited = unsafe { libc::waitpid(*thread, std::ptr::null_mut(), libc::__WALL) };
            assert_eq!(waited, *thread, "{}", std::io::Error::last_os_error());
        }
        Frozen(threads)
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended() {
            return status;
        }
        // SAFETY: a plain system call; the pid is that of a child which was not waited for.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.child.id(), 0) };
        assert!(fd >= 0, "{}: {}", self.what, std::io::Error::last_os_error());
        // SAFETY: just opened, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut end = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let deadline = Instant::now() + PATIENCE;
        // SAFETY: one valid pollfd. A signal ends the wait early.
        while unsafe { libc::poll(&mut end, 1, PATIENCE.as_millis() as i32) } < 1 {
            assert!(Instant::now() < deadline, "{} does not end\n{}", self.what, self.stderr());
        }
        self.child.wait().unwrap()
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub fn wait_ok(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{}: {status}\n{}", self.what, self.stderr());
    }
}

/// Threads that do not run. See [`Process::freeze_but`].
pub struct Frozen(Vec<i32>);

impl Frozen {
    /// They go on.
    pub fn thaw(self) {
        self.0.iter().for_each(|thread| ptrace(libc::PTRACE_DETACH, *thread));
    }
}

#[track_caller]
fn ptrace(request: libc::c_uint, thread: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the requests that are made here read and write no memory.
    let result = unsafe { libc::ptrace(request, thread, none, none) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Its leader is not reaped yet, so the group is this test's own.
            let _ = killpg(self.group(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The exit status as a shell shows it: 128 + n for signal n.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(pid) {
            found.push(child);
        }
    }
    found
}

/// Inode of the socket that `fd` of a process is.
pub fn socket_inode(pid: u32, fd: u32) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
