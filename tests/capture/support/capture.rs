//! Runs the built tls2pcap. Every capture here is limited to a command or to pids.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::process::{Process, code, until};
use super::tshark::{self, Tshark};
use super::view::{Packet, View};

/// The program under test.
pub const TLS2PCAP: &str = env!("CARGO_BIN_EXE_tls2pcap");

/// A capture that is being prepared.
pub struct Capture {
    args: Vec<String>,
    environment: Vec<(String, String)>,
    file: PathBuf,
    dir: PathBuf,
}

/// A capture in the background; killed when dropped.
pub struct Running {
    /// tls2pcap itself. Its stdin and stdout are those of the command, if there is one.
    pub process: Process,
    file: PathBuf,
}

/// A capture that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status, as a shell shows it.
    pub status: i32,
    /// What stood on stdout.
    pub stdout: Vec<u8>,
    /// What stood on stderr.
    pub stderr: String,
    /// The capture file.
    pub file: PathBuf,
}

impl Capture {
    /// Writes to `file`; `dir` is for what else is needed.
    pub fn new(file: PathBuf, dir: &Path) -> Capture {
        Capture { args: Vec::new(), environment: Vec::new(), file, dir: dir.into() }
    }

    /// More arguments for tls2pcap.
    pub fn args(mut self, args: &[&str]) -> Capture {
        self.args.extend(args.iter().map(|a| a.to_string()));
        self
    }

    /// A variable of the environment.
    pub fn variable(mut self, name: &str, value: &str) -> Capture {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another output file.
    pub fn output(mut self, file: impl Into<PathBuf>) -> Capture {
        self.file = file.into();
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(TLS2PCAP);
        command.arg("-o").arg(&self.file).args(&self.args);
        command.env_remove("SUDO_UID").env_remove("SUDO_GID").env_remove("SUDO_USER");
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Captures a command, and returns when that has ended.
    #[track_caller]
    pub fn run<S: AsRef<str>>(self, words: &[S]) -> Finished {
        self.start(words).finish()
    }

    /// Captures a command in the background.
    #[track_caller]
    pub fn start<S: AsRef<str>>(self, words: &[S]) -> Running {
        let mut command = self.command();
        command.arg("--").args(words.iter().map(|w| w.as_ref()));
        Running { process: Process::start(&mut command, self.dir.join("tls2pcap.err")), file: self.file }
    }

    /// Captures processes in the background; returns when the probes are in.
    #[track_caller]
    pub fn attach(self, pids: &[u32]) -> Running {
        assert!(!pids.is_empty(), "a capture must have targets");
        let ready = self.dir.join("ready");
        // Of an earlier capture of the same test.
        let _ = fs::remove_file(&ready);
        let mut command = self.command();
        command.arg("--ready-file").arg(&ready);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let mut running =
            Running { process: Process::start(&mut command, self.dir.join("tls2pcap.err")), file: self.file };
        until("tls2pcap to be ready", || {
            if let Some(status) = running.process.ended() {
                panic!("tls2pcap ended: {status}\n{}", running.process.stderr());
            }
            (fs::read(&ready).ok()? == b"ready\n").then_some(())
        });
        running
    }

    /// Captures processes and expects that to fail at once.
    #[track_caller]
    pub fn attach_in_vain(self, pids: &[u32]) -> Finished {
        assert!(!pids.is_empty(), "a capture must have targets");
        let mut command = self.command();
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        Running { process: Process::start(&mut command, self.dir.join("tls2pcap.err")), file: self.file }
            .finish()
    }
}

impl Running {
    /// Ends the capture as Ctrl-C does.
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.process.signal(Signal::SIGINT);
        self.finish()
    }

    /// Waits for the end of the command.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let status = code(self.process.wait());
        let mut stdout = self.process.rest().join("\n");
        if !stdout.is_empty() {
            stdout.push('\n');
        }
        Finished { status, stdout: stdout.into_bytes(), stderr: self.process.stderr(), file: self.file }
    }
}

impl Finished {
    /// Fails if it did not end well.
    #[track_caller]
    pub fn ok(self) -> Finished {
        assert_eq!(self.status, 0, "tls2pcap failed:\n{}", self.stderr);
        self
    }

    /// Fails unless it ended with this status and one clear message that holds one of `words`.
    #[track_caller]
    pub fn failed(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "stderr:\n{}", self.stderr);
        let message = self.stderr.to_lowercase();
        assert!(words.iter().any(|w| message.contains(w)), "none of {words:?} in:\n{}", self.stderr);
        assert!(!message.contains("panicked"), "{}", self.stderr);
    }

    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What each tshark at hand sees in the file, with that tshark. Each finds it clean. A RST is no fault: many programs
    /// close with unread data. `closing.rs` compares what is written with what was sent.
    #[track_caller]
    pub fn views(&self) -> Vec<(View, &'static Tshark)> {
        self.views_but(Packet::is_reset)
    }

    /// The same; they may find fault with packets that are `expected` to look odd.
    #[track_caller]
    pub fn views_but(&self, expected: fn(&Packet) -> bool) -> Vec<(View, &'static Tshark)> {
        let views: Vec<_> = tshark::oracles().iter().map(|t| (t.read(&self.file), t)).collect();
        for (view, tshark) in &views {
            view.assert_clean_but(&tshark.version, expected);
        }
        views
    }
}
