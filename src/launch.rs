//! Runs the command to be captured: held at a gate before exec, so that its pid can be made a target first, and
//! as the user who called sudo.
//!
//! Forked by hand: `std::process::Command::spawn` returns only after exec.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_char, c_int};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::failure::{Exit, Failure};
use crate::limits;
use crate::privilege::User;

/// Status of a child whose gate never opened; only the parent that abandoned it sees this.
const ABANDONED: c_int = 125;
/// What comes through the gate for a command that is to get SIGCONT when its parent dies.
const WAKES: u8 = b'w';
/// Environment variables that sudo adds for the commands it runs.
const SUDO_VARIABLES: [&str; 4] = ["SUDO_COMMAND", "SUDO_GID", "SUDO_UID", "SUDO_USER"];

/// How to run the command.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Run as this user; `None`: as this process.
    pub user: Option<User>,
    /// Let the command's standard output go to standard error, because the capture is written to standard
    /// output.
    pub stdout_to_stderr: bool,
    /// Descriptors of this process that are the command's standard input and output, and its
    /// standard error.
    pub streams: Option<(RawFd, RawFd)>,
}

/// A child that waits before exec. Dropped, or when this process dies, the child ends without
/// having run anything.
#[derive(Debug)]
pub struct Held {
    child: Child,
    name: OsString,
    /// Write end of the pipe on which the child waits for a byte.
    gate: OwnedFd,
    /// Read end of the pipe that exec closes, or that reports why exec failed.
    report: File,
}

/// The command runs.
#[derive(Debug)]
pub struct Running(Child);

#[derive(Debug)]
struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<Exit>,
}

impl Held {
    /// Forks the child and leaves it at the gate. `command` is the program and its arguments.
    ///
    /// # Errors
    /// [`Exit::NotFound`] if there is no such program, if that is known before exec; [`Exit::Io`] if no process
    /// can be made.
    pub fn spawn(command: &[OsString], options: &Options) -> Result<Held, Failure> {
        let Some(name) = command.first() else {
            return Err(Failure::new(Exit::NotFound, "no command is given", "name a command after --"));
        };
        if is_surely_missing(name) {
            return Err(exec_failure(name, io::Error::from(Errno::ENOENT)));
        }
        let failed = |what: &str, error: Errno| {
            Failure::new(Exit::Io, format!("{}: {what} failed: {}", shown(name), error.desc()), "")
        };
        let (gate_read, gate) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e))?;
        let (report, report_write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e))?;
        let plan = Plan::new(command, options, &gate_read, &gate, &report_write)
            .ok_or_else(|| failed("exec", Errno::EINVAL))?;

        // Until the child has put the handlers of this process aside, no signal may reach them.
        let mask =
            SigSet::all().thread_swap_mask(signal::SigmaskHow::SIG_SETMASK).map_err(|e| failed("fork", e))?;
        // SAFETY: the child calls nothing but `Plan::run`, which is async-signal-safe and never
        // returns, so that locks held by other threads at this moment do not matter.
        let forked = unsafe { libc::fork() };
        if forked == 0 {
            // SAFETY: this is a child just forked, and `plan` was made before.
            unsafe { plan.run() }
        }
        let forked = Errno::result(forked).map_err(|e| failed("fork", e));
        mask.thread_set_mask().map_err(|e| failed("fork", e))?;
        let pid = Pid::from_raw(forked?);
        drop((gate_read, report_write));
        // If this fails, the gate closes with the return, and the child ends.
        let pidfd = pidfd_open(pid).map_err(|e| failed("pidfd_open", e))?;
        let child = Child { pid, pidfd, ended: None };
        Ok(Held { child, name: name.clone(), gate, report: report.into() })
    }

    /// Pid of the child, which the command will keep; in this process's pid namespace.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Lets the child proceed to exec, and waits until it has. `wakes`: it gets SIGCONT when this process dies.
    ///
    /// # Errors
    /// [`Exit::NotFound`], [`Exit::NotExecutable`], or [`Exit::NotPermitted`] if the child cannot become its
    /// user.
    pub fn release(self, wakes: bool) -> Result<Running, Failure> {
        let Held { mut child, name, gate, mut report } = self;
        // A child that was killed meanwhile shows when it is waited for.
        let _ = File::from(gate).write_all(&[if wakes { WAKES } else { b'x' }]);
        let mut text = Vec::new();
        let read = report.read_to_end(&mut text);
        match (read, text.first_chunk::<5>()) {
            (Ok(_), None) => Ok(Running(child)),
            (Err(error), _) => Err(exec_failure(&name, error)),
            (Ok(_), Some([stage, errno @ ..])) => {
                // It ends right after its report.
                let _ = child.wait();
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes(*errno));
                Err(if *stage == Stage::Exec as u8 {
                    exec_failure(&name, error)
                } else {
                    Failure::new(
                        Exit::NotPermitted,
                        format!("{}: cannot be run as the user who called sudo: {error}", shown(&name)),
                        "run tls2pcap as root without sudo to run the command as root",
                    )
                })
            }
        }
    }
}

impl Running {
    /// Pid of the command, in this process's pid namespace.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// The command's status, if it has ended; never blocks.
    ///
    /// # Errors
    /// If the child is not this process's any more.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        self.0.status(Some(WaitPidFlag::WNOHANG))
    }

    /// Waits for the command's end.
    ///
    /// # Errors
    /// As [`Running::try_wait`].
    pub fn wait(&mut self) -> io::Result<Exit> {
        self.0.wait()
    }

    /// Sends the command a signal that this process received (SIGTERM, SIGHUP). A Ctrl-C needs no
    /// forwarding: the terminal sends it to both.
    pub fn forward(&self, signal: c_int) {
        let Ok(signal) = Signal::try_from(signal) else { return };
        if self.0.ended.is_none() {
            // Not waited for yet, so the pid is still the child's; it may have ended, though.
            let _ = signal::kill(self.0.pid, signal);
        }
    }
}

/// Readable once the command has ended.
impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

/// Keeps an inherited descriptor from the command: its other end would never see it closed.
///
/// # Errors
/// [`Exit::Usage`] if the descriptor is not open.
pub fn keep_from_command(fd: RawFd) -> Result<(), Failure> {
    // SAFETY: fcntl on a number; a number that is no open descriptor gives EBADF.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(result).map(drop).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("descriptor {fd} is not open: {}", error.desc()),
            "open it, for example with 3>file",
        )
    })
}

impl Child {
    fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.status(None)? {
                return Ok(exit);
            }
        }
    }

    fn status(&mut self, flags: Option<WaitPidFlag>) -> io::Result<Option<Exit>> {
        if self.ended.is_none() {
            let number = |n: c_int| Some(Exit::Command(u8::try_from(n & 0xff).unwrap_or(u8::MAX)));
            self.ended = match waitpid(self.pid, flags) {
                Ok(WaitStatus::Exited(_, status)) => number(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => number(128 + signal as c_int),
                Ok(_) | Err(Errno::EINTR) => None,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(self.ended)
    }
}

/// A descriptor of a process, which becomes readable when it has ended.
///
/// # Errors
/// `ESRCH` if there is none; `EINVAL` or `ENOENT` if it is a thread, not the first of its process.
pub(crate) fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two numbers and gives a new descriptor or an error.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the descriptor was just created, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn shown(name: &OsStr) -> std::path::Display<'_> {
    Path::new(name).display()
}

/// As the shell reports it.
fn exec_failure(name: &OsStr, error: io::Error) -> Failure {
    let name = shown(name);
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Exit::NotFound,
            format!("{name}: command not found"),
            "check its name; under sudo, PATH may differ: give the full path",
        ),
        _ => Failure::new(
            Exit::NotExecutable,
            format!("{name}: cannot be executed: {error}"),
            "give a program that this user may execute",
        ),
    }
}

/// Whether exec will find no such program. Spares the attaching of probes for a mistyped name;
/// whatever is not sure is left to exec, which may run as another user.
fn is_surely_missing(name: &OsStr) -> bool {
    let missing = |path: &Path| fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if name.as_bytes().contains(&b'/') {
        return missing(Path::new(name));
    }
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).all(|folder| missing(&folder.join(name))))
}

/// Where the child failed.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    User = 1,
    Exec = 2,
}

/// All that the child needs, made before the fork: it must not allocate.
struct Plan {
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    gate_read: RawFd,
    gate_write: RawFd,
    report: RawFd,
    user: Option<(libc::uid_t, libc::gid_t, Vec<libc::gid_t>)>,
    stdout_to_stderr: bool,
    streams: Option<(RawFd, RawFd)>,
    /// What `argv` and `envp` point into.
    _strings: Vec<CString>,
}

impl Plan {
    /// `None` if an argument contains a NUL.
    fn new(
        command: &[OsString],
        options: &Options,
        gate_read: &OwnedFd,
        gate_write: &OwnedFd,
        report: &OwnedFd,
    ) -> Option<Plan> {
        let strings = |items: &[OsString]| -> Option<Vec<CString>> {
            items.iter().map(|item| CString::new(item.as_bytes()).ok()).collect()
        };
        let (args, env) = (strings(command)?, strings(&environment(options.user.as_ref()))?);
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
        };
        Some(Plan {
            argv: pointers(&args),
            envp: pointers(&env),
            gate_read: gate_read.as_raw_fd(),
            gate_write: gate_write.as_raw_fd(),
            report: report.as_raw_fd(),
            user: options.user.as_ref().map(|user| (user.uid, user.gid, user.groups.clone())),
            stdout_to_stderr: options.stdout_to_stderr,
            streams: options.streams,
            // Moving a CString moves no bytes: the pointers stay good.
            _strings: args.into_iter().chain(env).collect(),
        })
    }

    /// The child's life up to exec.
    ///
    /// # Safety
    /// Only in a child just forked, with all signals blocked.
    unsafe fn run(&self) -> ! {
        // SAFETY: everything called here is async-signal-safe (execvpe of glibc and musl keeps its
        // buffers on the stack), and all pointers are to memory that `self` owns.
        unsafe {
            self.reset_signals();
            // With its own copy of the write end open, the child would never see the gate abandoned.
            libc::close(self.gate_write);
            let mut byte = 0u8;
            loop {
                match libc::read(self.gate_read, (&raw mut byte).cast(), 1) {
                    1 => break,
                    -1 if *libc::__errno_location() == libc::EINTR => {}
                    _ => libc::_exit(ABANDONED),
                }
            }
            limits::restore();
            // The command gets no privilege that was meant for the capture.
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            if let Some((uid, gid, groups)) = &self.user {
                let changed = libc::setgroups(groups.len(), groups.as_ptr()) == 0
                    && libc::setresgid(*gid, *gid, *gid) == 0
                    && libc::setresuid(*uid, *uid, *uid) == 0;
                if !changed {
                    self.fail(Stage::User);
                }
            }
            // If this program is killed while the command is stopped for an inspection (see
            // `probe::HoldWay::Signal`), nothing else would continue it.
            if byte == WAKES {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT);
            }
            if self.stdout_to_stderr {
                libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO);
            }
            if let Some((null, stderr)) = self.streams {
                libc::dup2(null, libc::STDIN_FILENO);
                libc::dup2(null, libc::STDOUT_FILENO);
                libc::dup2(stderr, libc::STDERR_FILENO);
            }
            libc::execvpe(self.argv[0], self.argv.as_ptr(), self.envp.as_ptr());
            self.fail(Stage::Exec)
        }
    }

    /// Handlers of the parent must not run here; what was ignored stays so, as with nohup. SIGPIPE
    /// is ignored by every Rust program, and the command expects the default.
    ///
    /// # Safety
    /// As [`Plan::run`].
    unsafe fn reset_signals(&self) {
        // SAFETY: sigaction and sigprocmask on memory of this frame; all zeroes is a valid value
        // of both structs (default handler, empty mask).
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            for number in 1..libc::SIGRTMAX() + 1 {
                let mut now: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(number, std::ptr::null(), &raw mut now) == 0
                    && (now.sa_sigaction != libc::SIG_IGN || number == libc::SIGPIPE)
                {
                    libc::sigaction(number, &raw const default, std::ptr::null_mut());
                }
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
    }

    /// Tells the parent why, and ends.
    ///
    /// # Safety
    /// As [`Plan::run`].
    unsafe fn fail(&self, stage: Stage) -> ! {
        // SAFETY: writes five bytes of this frame to a descriptor of this process.
        unsafe {
            let [a, b, c, d] = (*libc::__errno_location()).to_ne_bytes();
            let text = [stage as u8, a, b, c, d];
            libc::write(self.report, text.as_ptr().cast(), text.len());
            libc::_exit(ABANDONED)
        }
    }
}

/// This process's environment as `NAME=value`; for another user, that user's.
fn environment(user: Option<&User>) -> Vec<OsString> {
    let join = |name: &OsStr, value: &OsStr| {
        let mut item = name.to_owned();
        item.push("=");
        item.push(value);
        item
    };
    let own: [(&str, &OsStr); 4] = match user {
        None => return std::env::vars_os().map(|(name, value)| join(&name, &value)).collect(),
        Some(user) => [
            ("HOME", user.home.as_os_str()),
            ("SHELL", user.shell.as_os_str()),
            ("USER", OsStr::new(&user.name)),
            ("LOGNAME", OsStr::new(&user.name)),
        ],
    };
    let replaced =
        |name: &OsStr| own.iter().any(|(n, _)| name == *n) || SUDO_VARIABLES.iter().any(|n| name == *n);
    let kept = std::env::vars_os().filter(|(name, _)| !replaced(name));
    let own = own.iter().filter(|(_, value)| !value.is_empty());
    kept.map(|(name, value)| join(&name, &value))
        .chain(own.map(|(name, value)| join(OsStr::new(name), value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn words(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    fn hold(text: &[&str]) -> Held {
        Held::spawn(&words(text), &Options::default()).unwrap()
    }

    fn status(text: &[&str]) -> u8 {
        hold(text).release(false).unwrap().wait().unwrap().code()
    }

    #[test]
    fn the_status_is_the_commands() {
        assert_eq!(status(&["true"]), 0);
        assert_eq!(status(&["sh", "-c", "exit 42"]), 42);
        assert_eq!(status(&["sh", "-c", "kill -TERM $$"]), 128 + 15);
        assert_eq!(status(&["sh", "-c", "test \"$1\" = 'a b' && test $# = 2", "sh", "a b", ""]), 0);
    }

    #[test]
    fn nothing_runs_before_the_gate_opens_and_the_pid_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let held = hold(&["sh", "-c", "echo $$ >\"$0\"", file.to_str().unwrap()]);
        let exe = fs::read_link(format!("/proc/{}/exe", held.pid())).unwrap();
        assert_eq!(exe, std::env::current_exe().unwrap());
        assert!(!file.exists());
        let pid = held.pid();
        let mut running = held.release(false).unwrap();
        assert_eq!(running.pid(), pid);
        assert_eq!(running.wait().unwrap(), Exit::Command(0));
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{pid}\n"));
    }

    #[test]
    fn an_abandoned_child_ends_without_running() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("never");
        let held = hold(&["touch", file.to_str().unwrap()]);
        let pid = held.child.pid;
        drop(held);
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, ABANDONED)));
        assert!(!file.exists());
    }

    #[test]
    fn not_found_and_not_executable_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string();
        fs::write(path("plain"), "x").unwrap();
        fs::write(path("script"), "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(path("script"), fs::Permissions::from_mode(0o755)).unwrap();
        let spawn = |name: OsString| Held::spawn(&[name], &Options::default());
        let exit = |name: OsString| spawn(name).unwrap().release(false).unwrap_err().exit;
        assert_eq!(spawn("no-such-command-here".into()).unwrap_err().exit, Exit::NotFound);
        assert_eq!(spawn(path("missing")).unwrap_err().exit, Exit::NotFound);
        assert_eq!(exit(path("plain")), Exit::NotExecutable);
        assert_eq!(exit(folder.path().into()), Exit::NotExecutable);
        assert_eq!(exit(path("script")), Exit::NotFound);
        assert_eq!(spawn("nul\0inside".into()).unwrap_err().exit, Exit::Io);
    }

    #[test]
    fn the_command_starts_with_default_signals_and_no_foreign_descriptors() {
        // SIGPIPE is ignored in this process. A shell cannot undo an ignored signal, so it shows.
        assert_eq!(status(&["sh", "-c", "kill -PIPE $$"]), 128 + 13);
        let mask = "test $(sed -n 's/^SigBlk:[[:space:]]*//p' /proc/self/status) = 0000000000000000";
        assert_eq!(status(&["sh", "-c", mask]), 0);
        // The child's ends of the gate and of the report are closed after exec.
        let folder = tempfile::tempdir().unwrap();
        let names = folder.path().join("names");
        let held = hold(&["sh", "-c", "! ls -l /proc/$$/fd | grep -F -f \"$0\"", names.to_str().unwrap()]);
        let name = |fd: RawFd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string();
        let pipes = [name(held.gate.as_raw_fd()), name(held.report.as_raw_fd())];
        assert!(pipes.iter().all(|pipe| pipe.starts_with("pipe:")));
        fs::write(&names, pipes.join("\n")).unwrap();
        assert_eq!(held.release(false).unwrap().wait().unwrap().code(), 0);
    }

    #[test]
    fn a_signal_is_forwarded_and_the_end_shows_on_the_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = "trap 'exit 7' TERM; echo up >\"$0\"; while :; do read x <\"$0\"; done";
        let mut running = hold(&["sh", "-c", script, fifo.to_str().unwrap()]).release(false).unwrap();
        assert_eq!(fs::read_to_string(&fifo).unwrap(), "up\n");
        assert_eq!(running.try_wait().unwrap(), None);
        running.forward(libc::SIGTERM);
        let mut poll = libc::pollfd { fd: running.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd of this frame.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 60_000) }, 1);
        assert_eq!(running.try_wait().unwrap(), Some(Exit::Command(7)));
        assert_eq!(running.wait().unwrap(), Exit::Command(7));
        running.forward(libc::SIGTERM);
    }

    #[test]
    fn standard_output_can_go_to_standard_error() {
        let options = Options { stdout_to_stderr: true, ..Options::default() };
        let check = words(&["sh", "-c", "test $(readlink /proc/$$/fd/1) = $(readlink /proc/$$/fd/2)"]);
        let exit = Held::spawn(&check, &options).unwrap().release(false).unwrap().wait().unwrap();
        assert_eq!(exit.code(), 0);
    }

    #[test]
    fn under_sudo_the_command_is_the_users() {
        let user = User {
            name: "someone".into(),
            uid: 54321,
            gid: 54322,
            groups: vec![54322, 54323],
            home: "/nonexistent".into(),
            shell: "/bin/sh".into(),
        };
        let options = Options { user: Some(user), ..Options::default() };
        let script = r#"test "$(id -u) $(id -g) $(id -G)" = "54321 54322 54322 54323" &&
            test "$HOME $USER $LOGNAME" = "/nonexistent someone someone" && test -z "$SUDO_UID" &&
            grep -q '^CapEff:.0*$' /proc/self/status && grep -q '^CapPrm:.0*$' /proc/self/status"#;
        let held = Held::spawn(&words(&["sh", "-c", script]), &options).unwrap();
        if nix::unistd::geteuid().is_root() {
            assert_eq!(held.release(false).unwrap().wait().unwrap().code(), 0);
        } else {
            assert_eq!(held.release(false).unwrap_err().exit, Exit::NotPermitted);
        }
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_refused() {
        assert_eq!(keep_from_command(1_000_000).unwrap_err().exit, Exit::Usage);
    }
}
