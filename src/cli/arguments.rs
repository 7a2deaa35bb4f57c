//! The options, as clap parses them and as `--help` shows them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::files::{self, FileOptions};
use super::selection::{self, SelectionOptions};
use super::{rules, show, values};
use crate::config::{self, Backend, View};
use crate::sink::{Comments, Link};
use crate::synth::{Carrier, Ports};

const ABOUT: &str = "Shows what programs really say over TLS, as a capture file for Wireshark";

const LONG_ABOUT: &str = "\
Shows what programs really say over TLS, as a capture file for Wireshark.

The plaintext is taken where programs hand it to OpenSSL, GnuTLS, NSS, BoringSSL, Go or rustls,
together with the socket it goes through, and written as ordinary TCP packets (pcapng). Stock
Wireshark decodes them: no keys, no proxy, no change to the program. Whom to capture is said with
-p, -u, --all or a command. The capture ends with Ctrl-C, with the command, or when all processes
given with -p have ended.";

const AFTER_HELP: &str = "\
Examples:
  sudo tls2pcap -o curl.pcapng -- curl https://example.org/
        run a command (as you, not as root) and capture it and its children
  sudo tls2pcap -f text -- curl https://example.org/
        see what it says, without a file
  sudo tls2pcap -o web.pcapng -p 1234
        capture a running process until it ends, or until Ctrl-C
  sudo tls2pcap -o - --all | wireshark -k -i -
        capture every program and watch it live
  tls2pcap replay session.t2p -o session.pcapng
        make the capture file anew from a recording; needs no privileges
  tls2pcap read web.pcapng
        what was said, as text; needs no privileges
  tls2pcap redact web.pcapng -o share.pcapng
        the same capture without passwords, cookies and tokens, to give to others
  sudo tls2pcap report --errors -o bundle.zip -- curl https://example.org/
        all that a bug report needs, without secrets

Exit status:
  0    all went well
  1    capturing or writing failed, or an output file was deleted or changed meanwhile; what
       was captured before is kept
  2    wrong usage
  3    not permitted: privileges are missing, or the kernel is locked down
  4    the kernel lacks what is needed
  5    no such process, or no TLS library in it
  6    with --fail-on-loss: something that should be in the file is missing
  7    with redact --check: there is a secret in the file, or what is not understood; with report:
       its own check found one, so there is no bundle
  126  the command cannot be executed
  127  the command was not found
  Else the command's own status; 128+n if signal n ended it.";

#[derive(Parser)]
#[command(
    name = "tls2pcap",
    bin_name = "tls2pcap",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "tls2pcap -o FILE [OPTIONS] [-- COMMAND [ARGS...]]\n       tls2pcap replay RECORDING -o FILE\n       tls2pcap read CAPTURE [EXPRESSION]\n       tls2pcap redact CAPTURE -o FILE\n       tls2pcap report CAPTURE|-p PID|-- COMMAND -o BUNDLE.zip\n       tls2pcap doctor [-p PID] [--json]\n       tls2pcap wireshark install|uninstall|status"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) sub: Option<Sub>,

    /// Capture file to write; `-` is standard output
    ///
    /// Its name says the format: pcapng, but classic pcap if it ends in .pcap, which holds neither
    /// processes nor comments. With .gz after that it is compressed, and can be read while it grows.
    ///
    /// On standard output stands nothing but the capture: a command that is run then writes its
    /// own output to standard error.
    #[arg(short, long, visible_short_alias = 'w', alias = "write", value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Show what is said on standard output, beside or in place of a file
    ///
    /// A command that is run then writes its own output to standard error. docs/views.md describes what is shown;
    /// `tls2pcap read` shows a file the same way.
    #[arg(short = 'f', long, value_enum, value_name = "FORMAT")]
    pub(super) format: Option<View>,

    #[command(flatten)]
    pub(super) body: show::ShowOptions,

    /// Capture this process, and children that it has from then on; may be given several times
    #[arg(short, long = "pid", value_name = "PID", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(super) pids: Vec<u32>,

    /// With -p, capture the children that there are already, too, and theirs
    #[arg(long, requires = "pids", conflicts_with = "no_follow")]
    pub(super) follow: bool,

    /// With -p, capture no children
    #[arg(long, requires = "pids")]
    pub(super) no_follow: bool,

    /// Capture the processes of this user (name or number); may be given several times
    #[arg(short, long = "uid", value_name = "USER")]
    pub(super) users: Vec<String>,

    /// Capture every program on this machine that uses TLS, those that start later too
    #[arg(long)]
    pub(super) all: bool,

    /// Probe this library or program too; may be given several times
    ///
    /// For what is not found by itself: libraries are found in the mappings of running processes
    /// and in the folders where distributions put them.
    #[arg(long = "lib", value_name = "PATH")]
    pub(super) libraries: Vec<PathBuf>,

    /// How to follow sockets in the kernel
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(super) backend: Backend,

    /// Use the kernel's return probes, not breakpoints where functions return
    ///
    /// They cost less where single-stepping is dear, and see functions whose returns are not found. But a
    /// return probe replaces the return address on the stack: exceptions and cancelled threads that pass
    /// such a call end the program or skip its handlers, and backtraces end there.
    #[arg(long)]
    pub(super) return_probes: bool,

    /// How server ports are written
    #[arg(long, value_enum, value_name = "HOW", default_value = "decode")]
    pub(super) ports: Ports,

    /// What the plaintext stands in
    #[arg(long, value_enum, value_name = "WHAT", default_value = "plain")]
    pub(super) framing: Carrier,

    /// Link layer of the packets
    #[arg(long, value_enum, value_name = "TYPE", default_value = "ethernet")]
    pub(super) link: Link,

    /// Which packets carry comments
    ///
    /// The fields tls2pcap.* of the Wireshark plugin are taken from them.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "syn")]
    pub(super) comments: Comments,

    /// Serve the capture to Wireshark at this TCP port: wireshark -k -i TCP@127.0.0.1:PORT
    ///
    /// Unencrypted, to whoever connects: so only to this machine, unless ADDR is given. With -o the
    /// capture begins at once, without it with the first client. Who connects later sees the
    /// connections that begin from then on.
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = values::serve_address)]
    pub(super) pcap_over_ip: Option<SocketAddr>,

    /// Write a block for each process, which Wireshark 4.6 shows as frame.darwin.process_info
    ///
    /// Older releases, tcpdump and editcap pass over them; mergecap 4.6 drops them and warns.
    #[arg(long)]
    pub(super) process_blocks: bool,

    #[command(flatten)]
    pub(super) redact: rules::Live,

    /// Record all events to this file, for `tls2pcap replay`
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,

    /// Create this file, with the text `ready`, once probes are attached
    #[arg(long, value_name = "PATH")]
    pub(super) ready_file: Option<PathBuf>,

    /// Write `ready` to this open descriptor once probes are attached, and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(super) ready_fd: Option<i32>,

    /// Let the arguments of the command stand in the file's header; they may hold secrets
    #[arg(long)]
    pub(super) show_args: bool,

    /// Size of the ring buffer between kernel and tls2pcap, a power of two: 64 or 64M is MiB, 512K KiB
    ///
    /// From one memory page (4K) to 1024 MiB. A larger one loses less when programs write faster than
    /// tls2pcap can read.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = values::ring_size)]
    pub(super) ring_size: Option<u32>,

    /// Keep at most this many bytes (1K: KiB, 1M: MiB) of each piece of a call; 0 keeps all
    ///
    /// A call is captured in pieces of up to 64,512 bytes, each of which becomes a packet. What is left
    /// out keeps its room in the sequence numbers, and does not count as lost.
    #[arg(short, long, value_name = "BYTES", allow_negative_numbers = true, default_value = "0", value_parser = values::snaplen)]
    pub(super) snaplen: u32,

    /// End with status 6 if something is lost
    ///
    /// That is all that the summary names as lost. A command's own status goes first, unless it is 0.
    #[arg(long)]
    pub(super) fail_on_loss: bool,

    /// Write each packet as soon as it is there
    ///
    /// Costs more time, of the captured programs too. Without it packets wait a moment, so that they stand in
    /// order of time: in a pipe they are within 100 ms, in a file within 0.7 s, in a compressed one within a second.
    #[arg(short = 'U', long)]
    pub(super) packet_buffered: bool,

    /// End after this time: seconds, or with a unit, as 1.5s, 10m, 2h
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = files::duration)]
    pub(super) duration: Option<Duration>,

    /// Say what is found and what is not, and why
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// Only connections for which this holds, in the words of tcpdump and more (docs/filter.md)
    ///
    /// host, net, port, portrange with src (client) and dst (server), tcp, ip, ip6; pid, comm, exe, uid, user,
    /// container, netns, sni, alpn, library, role, proto; and, or, not, parentheses. As in: port 443 and not comm curl.
    /// Each connection is decided once, before its first byte is written.
    #[arg(value_name = "EXPRESSION")]
    pub(super) expression: Vec<String>,

    /// Command to run and capture, with its children
    ///
    /// Under sudo it runs as the user who called sudo.
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,

    /// Show what the expression became and where each part is decided, and capture nothing
    #[arg(short = 'd', long = "explain")]
    pub(super) explain: bool,

    #[command(flatten)]
    pub(super) selection: SelectionOptions,

    #[command(flatten)]
    pub(super) files: FileOptions,
}

#[derive(Subcommand)]
pub(super) enum Sub {
    /// Make a capture file from a recording
    Replay {
        /// File that `--record` wrote
        #[arg(value_name = "RECORDING")]
        input: PathBuf,

        /// Only connections for which this holds (docs/filter.md)
        #[arg(value_name = "EXPRESSION")]
        expression: Vec<String>,

        #[command(flatten)]
        selection: Box<SelectionOptions>,

        /// Capture file to write; `-` is standard output
        #[arg(short, long, visible_short_alias = 'w', alias = "write", value_name = "FILE")]
        output: PathBuf,

        #[command(flatten)]
        files: Box<FileOptions>,

        /// How server ports are written
        #[arg(long, value_enum, value_name = "HOW", default_value = "decode")]
        ports: Ports,

        /// What the plaintext stands in
        #[arg(long, value_enum, value_name = "WHAT", default_value = "plain")]
        framing: Carrier,

        /// Link layer of the packets
        #[arg(long, value_enum, value_name = "TYPE", default_value = "ethernet")]
        link: Link,

        /// End with status 6 if something was lost
        #[arg(long)]
        fail_on_loss: bool,

        /// Write a block for each process, which Wireshark 4.6 shows as frame.darwin.process_info
        #[arg(long)]
        process_blocks: bool,

        /// Which packets carry comments
        #[arg(long, value_enum, value_name = "WHICH", default_value = "syn")]
        comments: Comments,

        #[command(flatten)]
        redact: rules::Live,

        /// Say nothing but errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// Show what a capture file holds: exchanges as a conversation, as JSON, or bytes as hex
    ///
    /// Reads pcapng and pcap, also compressed by gzip, with TCP in plain text. HTTP/1, HTTP/2, gRPC, WebSocket and server-sent
    /// events are taken apart, bodies unpacked. What is missing is said at its place. docs/views.md describes what is
    /// shown, and the schema of the JSON.
    Read {
        /// Capture file to read; `-` is standard input
        #[arg(value_name = "CAPTURE")]
        input: PathBuf,

        /// Only connections for which this holds (docs/filter.md)
        #[arg(value_name = "EXPRESSION")]
        expression: Vec<String>,

        /// How to show it
        #[arg(short = 'f', long, value_enum, value_name = "FORMAT", default_value = "text")]
        format: View,

        #[command(flatten)]
        body: show::ShowOptions,

        /// Show only a summary: processes, servers, exchanges (slowest, largest, failed), what is missing
        #[arg(long)]
        summary: bool,

        /// What becomes of connections of which it is not known whether the expression holds
        #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
        unknown: selection::Unknown,

        /// Say nothing but errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// Take secrets out of a capture file, so that it can be given to others
    ///
    /// Reads pcapng and pcap, also compressed by gzip, with TCP in plain text. Packets, lengths and times stay;
    /// credentials, cookies, tokens and the like become others of the same length and kind, the same value always the same.
    /// What is not understood is masked whole. docs/sharing.md says what is replaced, and what that cannot promise.
    Redact {
        /// Capture file to read; `-` is standard input
        #[arg(value_name = "CAPTURE")]
        input: PathBuf,

        /// Capture file to write; `-` is standard output
        #[arg(short, long, value_name = "FILE", required_unless_present = "check")]
        output: Option<PathBuf>,

        /// Write nothing, but say where secrets are: packet, TCP stream and kind, one a line
        ///
        /// Numbers are those of Wireshark. Ends with status 7 if there is anything that would be replaced.
        #[arg(long, conflicts_with_all = ["output", "key"])]
        check: bool,

        #[command(flatten)]
        rules: rules::Rules,

        /// Say nothing but errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// Make a bundle for a bug report: a capture without secrets, and a summary of it
    ///
    /// Takes a capture file, or makes a capture of a command or of processes, redacted before it is written. The bundle is a zip
    /// file with the redacted capture, summary.md, what was replaced where, and what doctor says. It is checked for secrets
    /// before it is written, and sent nowhere. Each kind of choice below narrows it to whole connections.
    Report {
        /// Capture file to take; `-` is standard input
        #[arg(value_name = "CAPTURE", conflicts_with_all = ["report_pids", "report_command"])]
        input: Option<PathBuf>,

        /// Bundle to write, as bundle.zip
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,

        /// Capture this process, until it ends or until Ctrl-C; may be given several times
        #[arg(short, long = "pid", id = "report_pids", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
        pids: Vec<u32>,

        /// Only connections of this process: curl, 123 or curl[123]; may be given several times
        #[arg(long = "process", value_name = "NAME")]
        processes: Vec<String>,

        /// Only this connection, by its tcp.stream in Wireshark; may be given several times
        #[arg(long = "conn", value_name = "N")]
        connections: Vec<u64>,

        /// Only connections to or from this host, by name or address; may be given several times
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,

        /// Only connections that were active in the last part of the capture: 30s, 5m or 2h
        #[arg(long, value_name = "TIME", value_parser = values::seconds)]
        since: Option<u64>,

        /// Only connections with an exchange that failed: status 400 or higher, a gRPC error, a reset, no answer
        #[arg(long)]
        errors: bool,

        #[command(flatten)]
        rules: rules::Rules,

        /// Say nothing but errors
        #[arg(short, long)]
        quiet: bool,

        /// Command to run and capture, with its children
        #[arg(last = true, id = "report_command", value_name = "COMMAND", conflicts_with = "report_pids")]
        command: Vec<OsString>,
    },

    /// Say which processes speak TLS, whether they can be captured, and why not
    ///
    /// Captures nothing. Ends with status 0 if a capture would work, 3 if privileges are missing, 4 if the
    /// kernel lacks what is needed, 5 if a process given with -p is not there or cannot be captured.
    Doctor {
        /// Look at this process only; may be given several times
        #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
        pids: Vec<u32>,

        /// Write JSON, as docs/doctor.md describes it
        #[arg(long)]
        json: bool,
    },

    /// Put fields, a menu, a profile and a capture interface into Wireshark
    ///
    /// They are installed for the user only; under sudo, for the user who called sudo.
    Wireshark {
        #[command(subcommand)]
        task: CompanionTask,
    },
}

#[derive(Subcommand)]
pub(super) enum CompanionTask {
    /// Put Lua plugin, profile and interface where Wireshark looks; files that were changed stay
    Install {
        /// Overwrite files that were changed
        #[arg(long)]
        force: bool,
    },
    /// Remove what was installed; files that were changed stay
    Uninstall {
        /// Remove files that were changed, too
        #[arg(long)]
        force: bool,
    },
    /// Say what is installed, and where, and whether Wireshark may capture
    Status,
}

impl From<CompanionTask> for config::Companion {
    fn from(task: CompanionTask) -> Self {
        match task {
            CompanionTask::Install { force } => config::Companion::Install { force },
            CompanionTask::Uninstall { force } => config::Companion::Uninstall { force },
            CompanionTask::Status => config::Companion::Status,
        }
    }
}
