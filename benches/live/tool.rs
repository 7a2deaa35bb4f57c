//! Runs a capturing program beside a load, and takes its measure.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Res;

/// The program that is measured.
pub const TLS2PCAP: &str = env!("CARGO_BIN_EXE_tls2pcap");

/// How long a program may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A capture in progress.
pub struct Running {
    child: Child,
    /// Captures that write to standard output.
    pub out: Option<ChildStdout>,
    errors: PathBuf,
    /// From its start until it captured.
    pub ready: Duration,
    cpu_at_ready: f64,
    ended: bool,
}

/// What a capture cost, and said.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    pub ready: Duration,
    /// Processor time from readiness to the end, in µs.
    pub cpu: f64,
    /// Largest resident memory, in bytes.
    pub memory: u64,
    /// Bytes of kernel memory for its BPF maps at the end, without rings.
    pub tables: u64,
    /// Bytes that its summary says are lost.
    pub lost: u64,
}

impl Running {
    /// Starts tls2pcap on one process; returns when it captures. Writes to `output`; `-` is a pipe.
    pub fn tls2pcap(work: &Path, output: &Path, pid: u32, library: &Path, more: &[&str]) -> Res<Running> {
        let errors = work.join("tls2pcap.err");
        let (mut told, ready) = io::pipe()?;
        // SAFETY: takes from our own descriptor the flag that closes it in programs we start.
        unsafe { libc::fcntl(ready.as_raw_fd(), libc::F_SETFD, 0) };
        let began = Instant::now();
        let mut child = Command::new(TLS2PCAP)
            .arg("-o")
            .arg(output)
            .args(["-p", &pid.to_string(), "--ready-fd", &ready.as_raw_fd().to_string(), "--lib"])
            .arg(library)
            .args(more)
            .stdin(Stdio::null())
            .stdout(if output == Path::new("-") { Stdio::piped() } else { Stdio::null() })
            .stderr(File::create(&errors)?)
            .spawn()?;
        drop(ready);
        let mut word = String::new();
        told.read_to_string(&mut word)?;
        let ready = began.elapsed();
        let out = child.stdout.take();
        let running = Running { cpu_at_ready: cpu(child.id()), child, out, errors, ready, ended: false };
        if word != "ready\n" {
            return Err(format!("tls2pcap does not start: {}", fs::read_to_string(&running.errors)?).into());
        }
        Ok(running)
    }

    /// Takes over another program that was started with its errors going to `errors`.
    pub fn other(child: Child, errors: &Path, ready: Duration) -> Running {
        Running {
            cpu_at_ready: cpu(child.id()),
            child,
            out: None,
            errors: errors.into(),
            ready,
            ended: false,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes: now, and at its largest.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
        };
        (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
    }

    /// Bytes that the kernel charges for its BPF maps, without rings.
    fn tables(&self) -> u64 {
        const RING: &str = "27"; // BPF_MAP_TYPE_RINGBUF
        let entries = fs::read_dir(format!("/proc/{}/fdinfo", self.pid())).into_iter().flatten().flatten();
        let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let field = |text: &str, name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let sizes: HashMap<String, u64> = texts
            .filter(|text| field(text, "map_type:").is_some_and(|kind| kind != RING))
            .filter_map(|text| Some((field(&text, "map_id:")?, field(&text, "memlock:")?.parse().ok()?)))
            .collect();
        sizes.values().sum()
    }

    /// Ends it as Ctrl-C does, and waits.
    pub fn end(mut self) -> Res<Ended> {
        let (_, memory) = self.memory();
        let tables = self.tables();
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGINT)?;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        let mut status = 0;
        let asked = Instant::now();
        loop {
            // SAFETY: a child of ours that nobody has waited for, and two places to write to.
            let waited =
                unsafe { libc::wait4(self.pid() as i32, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
            match waited {
                0 if asked.elapsed() > PATIENCE => self.child.kill()?,
                0 => {}
                -1 => return Err(io::Error::last_os_error().into()),
                _ => break,
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.ended = true;
        // SAFETY: all zeroes are a valid value, and wait4 has written it.
        let usage = unsafe { usage.assume_init() };
        let micros = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
        Ok(Ended {
            ready: self.ready,
            cpu: micros(usage.ru_utime) + micros(usage.ru_stime) - self.cpu_at_ready,
            memory,
            tables,
            lost: lost(&fs::read_to_string(&self.errors)?),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After an error; else it was waited for, and the number may be another's.
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Processor time that a process has had, in µs.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    // SAFETY: asks for a constant.
    ticks * 1e6 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Sum of the lines "lost: 1,234 bytes in …".
fn lost(summary: &str) -> u64 {
    let lines = summary.lines().filter_map(|line| line.strip_prefix("lost: ")?.split_once(" byte"));
    lines.filter_map(|(number, _)| number.replace(',', "").parse::<u64>().ok()).sum()
}
