//! What the user asked for, checked.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::filter::Filter as Expression;
use crate::redact::RulesBuilder;
use crate::sink::{Comments, Link, Plan};
use crate::synth::{Carrier, Ports, Selection};

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Capture from this machine.
    Capture(Capture),
    /// Write the capture file again from a recording.
    Replay(Replay),
    /// Show what a capture file holds.
    Read(Read),
    /// Remove secrets from a capture file, or search it for them.
    Redact(Redact),
    /// Make a bundle for a bug report.
    Report(Report),
    /// Put the Wireshark companion in place, or away.
    Companion(Companion),
    /// Say what can be captured.
    Doctor(Doctor),
    /// Say what a filter became: this text.
    Explain(String),
    /// Tell Wireshark of the interface that this program is.
    Extcap(Query),
}

/// See [`Config::Capture`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Where packets go; `None`: they are only served.
    pub output: Option<Output>,
    /// How messages are shown on standard output; `None`: not at all.
    pub show: Option<Show>,
    /// Into how many files packets go, and how many of them.
    pub files: Plan,
    /// Which connections, and how much of each.
    pub selection: Selection,
    /// The capture ends after this time.
    pub duration: Option<Duration>,
    /// Whom to capture.
    pub targets: Targets,
    /// More libraries to probe.
    pub libraries: Vec<PathBuf>,
    /// How sockets are followed.
    pub backend: Backend,
    /// Whether returns are probed in a way that harms programs that unwind their stacks.
    pub return_probes: bool,
    /// How server ports are written.
    pub ports: Ports,
    /// What carries the plaintext.
    pub framing: Carrier,
    /// The link layer of the packets.
    pub link: Link,
    /// Whether the file has process blocks.
    pub process_blocks: bool,
    /// How to take secrets out before anything is written; `None`: not at all.
    pub redact: Option<Redaction>,
    /// The output is no file of the user's: it is not named at the end.
    pub is_interim: bool,
    /// Where to record the events.
    pub record: Option<PathBuf>,
    /// File to create when probes are attached.
    pub ready_file: Option<PathBuf>,
    /// Descriptor to write to when probes are attached; at least 3.
    pub ready_fd: Option<RawFd>,
    /// Whether process arguments in the file are left unmasked.
    pub show_args: bool,
    /// Size of the ring buffer in bytes, a power of two; `None`: the program's choice.
    pub ring_size: Option<u32>,
    /// Bytes of each record that are kept, at least 1; `None`: all.
    pub snaplen: Option<u32>,
    /// Whether a loss shows in the exit status.
    pub fail_on_loss: bool,
    /// Whether each packet is written immediately.
    pub packet_buffered: bool,
    /// Which packets carry comments.
    pub comments: Comments,
    /// Where to serve the capture to Wireshark.
    pub serve: Option<SocketAddr>,
    /// Wireshark runs this: a command's output is not visible, and the end may not take a second.
    pub for_wireshark: bool,
    /// How much to say on standard error.
    pub verbosity: Verbosity,
}

/// See [`Config::Replay`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The recording.
    pub input: PathBuf,
    /// Where packets go.
    pub output: Output,
    /// How to take secrets out; `None`: not at all.
    pub redact: Option<Redaction>,
    /// Which connections, and how much of each.
    pub selection: Selection,
    /// Into how many files, and how many of them.
    pub files: Plan,
    /// How server ports are written.
    pub ports: Ports,
    /// What carries the plaintext.
    pub framing: Carrier,
    /// The link layer of the packets.
    pub link: Link,
    /// Whether a loss shows in the exit status.
    pub fail_on_loss: bool,
    /// Whether the file has process blocks.
    pub process_blocks: bool,
    /// Which packets carry comments.
    pub comments: Comments,
    /// How much to say on standard error.
    pub verbosity: Verbosity,
}

/// See [`Config::Doctor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doctor {
    /// Only these processes; empty: all.
    pub pids: Vec<u32>,
    /// For machines.
    pub json: bool,
}

/// See [`Config::Read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The capture file; `-` is standard input.
    pub input: PathBuf,
    /// Which connections; `None`: all.
    pub filter: Option<Expression>,
    /// Connections for which the result of the expression is unknown are left out.
    pub leaves_unknown: bool,
    /// How it is shown.
    pub show: Show,
    /// Only a summary.
    pub summary: bool,
    /// How much to say on standard error.
    pub verbosity: Verbosity,
}

/// How messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Show {
    /// See there.
    pub format: View,
    /// Bytes of each body that are shown.
    pub body: usize,
}

/// A form in which messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As a conversation.
    Text,
    /// One object a line.
    Json,
    /// Bytes, as hexdump shows them.
    Hex,
}

/// See [`Config::Redact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redact {
    /// The capture file; `-` is standard input.
    pub input: PathBuf,
    /// Where the redacted file is written; `None`: it is only searched for secrets.
    pub output: Option<Output>,
    /// How.
    pub redaction: Redaction,
    /// How much to say on standard error.
    pub verbosity: Verbosity,
}

/// See [`Config::Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it is made of.
    pub source: Source,
    /// The bundle.
    pub output: PathBuf,
    /// What of it is wanted.
    pub filter: Filter,
    /// How to redact.
    pub redaction: Redaction,
    /// How much to say on standard error.
    pub verbosity: Verbosity,
}

/// Where the capture of a report comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file; `-` is standard input.
    File(PathBuf),
    /// It is made, redacted, into a file that this names by `output` only for the time being.
    Capture(Box<Capture>),
}

/// Which connections are wanted: those that each of these wants. Empty lists want all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Processes, by name, pid, or both: `curl`, `123`, `curl[123]`.
    pub processes: Vec<String>,
    /// Numbers, as Wireshark's `tcp.stream` in the whole capture.
    pub connections: Vec<u64>,
    /// Hosts: names or addresses.
    pub hosts: Vec<String>,
    /// Only what was active in the last so many seconds of the capture.
    pub since: Option<u64>,
    /// Only where an exchange has failed.
    pub errors: bool,
}

/// How to redact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    /// What is to be replaced.
    pub rules: RulesBuilder,
    /// File with more rules.
    pub file: Option<PathBuf>,
    /// File whose bytes make the key, so that several files get the same replacements; `None`: a random key.
    pub key: Option<PathBuf>,
}

/// See [`Config::Companion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// Install the files in Wireshark's folders.
    Install {
        /// Overwrite what the user changed, too.
        force: bool,
    },
    /// Take them away.
    Uninstall {
        /// Remove what the user changed, too.
        force: bool,
    },
    /// Say what is there.
    Status,
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output, on which nothing else is written then.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Which children of processes are captured with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// None.
    Nobody,
    /// Those that begin during the capture, and theirs.
    New,
    /// Those that there are, too.
    Tree,
}

impl Targets {
    /// Whether children of targets are targets.
    pub fn are_followed(&self) -> bool {
        matches!(self, Targets::Command(_) | Targets::Pids { follow: Follow::New | Follow::Tree, .. })
    }

    /// Whether single processes are meant, and not all or those of users.
    pub fn are_processes(&self) -> bool {
        matches!(self, Targets::Pids { .. } | Targets::Command(_))
    }
}

/// Whom to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every TLS program.
    Everything,
    /// These processes.
    Pids {
        /// Not empty.
        pids: Vec<u32>,
        /// Whom else.
        follow: Follow,
    },
    /// All processes of these users; not empty.
    Users(Vec<u32>),
    /// This command and its children; not empty.
    Command(Vec<OsString>),
}

/// How sockets are followed in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The first that works.
    #[default]
    Auto,
    /// kprobes.
    Kprobe,
    /// fentry.
    Fentry,
    /// Typed tracepoints.
    Tracepoint,
}

/// How much to say on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only errors.
    Quiet,
    /// Warnings, status line and summary.
    #[default]
    Normal,
    /// Also what was found and what was not, and why.
    Verbose,
}

/// What Wireshark asks of an external capture interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Which interfaces there are.
    Interfaces,
    /// The link types of the interface.
    Links,
    /// The options of the interface.
    Options,
    /// What there is to choose from for an option, now.
    Reload(String),
    /// Whether a capture filter can be honoured.
    Filter(String),
}
