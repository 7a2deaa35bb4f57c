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

const ABOUT: &str = "Shows what programs really send and receive over TLS, as a capture file for Wireshark";

const LONG_ABOUT: &str = "\
Shows what programs really send and receive over TLS, as a capture file for Wireshark.

tls2pcap reads the plaintext where programs pass it to OpenSSL, GnuTLS, NSS, BoringSSL, Go or
rustls, finds the socket that carries it, and writes ordinary TCP packets (pcapng). Stock Wireshark
decodes them: no keys, no proxy, no change to the program. Select the processes with -p, -u, --all
or a command. The capture ends with Ctrl-C, with the command, or when all processes given with -p
have ended.";

const AFTER_HELP: &str = "\
Examples:
  sudo tls2pcap -o curl.pcapng -- curl https://example.org/
        run a command (as you, not as root) and capture it and its children
  sudo tls2pcap -f text -- curl https://example.org/
        show its messages, without a file
  sudo tls2pcap -o web.pcapng -p 1234
        capture a running process until it ends, or until Ctrl-C
  sudo tls2pcap -o - --all | wireshark -k -i -
        capture every program and watch it live
  tls2pcap replay session.t2p -o session.pcapng
        write the capture file again from a recording; needs no privileges
  tls2pcap read web.pcapng
        the messages as text; needs no privileges
  tls2pcap redact web.pcapng -o share.pcapng
        the same capture without passwords, cookies and tokens, to share
  sudo tls2pcap report --errors -o bundle.zip -- curl https://example.org/
        everything that a bug report needs, without secrets

Exit status:
  0    success
  1    capturing or writing failed, or an output file was deleted or changed during the capture;
       what was captured before is kept
  2    wrong usage
  3    not permitted: privileges are missing, or the kernel is locked down
  4    the kernel lacks a required feature
  5    no such process, or no TLS library in it
  6    with --fail-on-loss: something that should be in the file is missing
  7    with redact --check: the file has a secret, or bytes that are not understood; with report:
       its own check found one, so no bundle was written
  126  the command cannot be executed
  127  the command was not found
  Otherwise the command's own status; 128+n if signal n ended it.";

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
    /// Its name determines the format: pcapng, or classic pcap if it ends in .pcap, which has no
    /// processes and no comments. With .gz after that it is compressed, and can be read while it grows.
    ///
    /// With `-`, standard output has only the capture: a command writes its own output to standard error.
    #[arg(short, long, visible_short_alias = 'w', alias = "write", value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Show messages on standard output, in addition to a file or instead of one
    ///
    /// A command then writes its own output to standard error. docs/views.md describes what is shown;
    /// `tls2pcap read` shows a file the same way.
    #[arg(short = 'f', long, value_enum, value_name = "FORMAT")]
    pub(super) format: Option<View>,

    #[command(flatten)]
    pub(super) body: show::ShowOptions,

    /// Capture this process and the children that it starts from now on; may be repeated
    #[arg(short, long = "pid", value_name = "PID", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(super) pids: Vec<u32>,

    /// With -p, also capture children that already exist, and their descendants
    #[arg(long, requires = "pids", conflicts_with = "no_follow")]
    pub(super) follow: bool,

    /// With -p, capture no children
    #[arg(long, requires = "pids")]
    pub(super) no_follow: bool,

    /// Capture the processes of this user (name or number); may be repeated
    #[arg(short, long = "uid", value_name = "USER")]
    pub(super) users: Vec<String>,

    /// Capture every program on this machine that uses TLS, including those that start later
    #[arg(long)]
    pub(super) all: bool,

    /// Probe this library or program too; may be repeated
    ///
    /// For those that are not found automatically. Libraries are found in the mappings of running
    /// processes and in the folders where distributions install them.
    #[arg(long = "lib", value_name = "PATH")]
    pub(super) libraries: Vec<PathBuf>,

    /// How to follow sockets in the kernel
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(super) backend: Backend,

    /// Use the kernel's return probes, not breakpoints where functions return
    ///
    /// They cost less where single-stepping is expensive, and see functions whose returns are not found. But a
    /// return probe replaces the return address on the stack: an exception or thread cancellation that
    /// unwinds through such a call ends the program or skips handlers, and backtraces stop there.
    #[arg(long)]
    pub(super) return_probes: bool,

    /// How server ports are written
    #[arg(long, value_enum, value_name = "HOW", default_value = "decode")]
    pub(super) ports: Ports,

    /// What carries the plaintext
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

    /// Serve the capture to Wireshark on this TCP port: wireshark -k -i TCP@127.0.0.1:PORT
    ///
    /// Unencrypted and without a password, so only on this machine unless ADDR is given. With -o the
    /// capture begins immediately, otherwise with the first client. A client that connects later sees
    /// the connections that begin after that.
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = values::serve_address)]
    pub(super) pcap_over_ip: Option<SocketAddr>,

    /// Write a block for each process, which Wireshark 4.6 shows as frame.darwin.process_info
    ///
    /// Older releases, tcpdump and editcap ignore them; mergecap 4.6 drops them and warns.
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

    /// Do not mask process arguments in the file; they may contain secrets
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
    /// out keeps its place in the sequence numbers, and does not count as lost.
    #[arg(short, long, value_name = "BYTES", allow_negative_numbers = true, default_value = "0", value_parser = values::snaplen)]
    pub(super) snaplen: u32,

    /// Exit with status 6 if anything is lost
    ///
    /// Everything that the summary reports as lost counts. A command's own status takes precedence,
    /// unless it is 0.
    #[arg(long)]
    pub(super) fail_on_loss: bool,

    /// Write each packet immediately
    ///
    /// Costs more time, also in the captured programs. Otherwise packets wait briefly to be put in order of
    /// time: they appear in a pipe within 100 ms, in a file within 0.7 s, in a compressed file within a second.
    #[arg(short = 'U', long)]
    pub(super) packet_buffered: bool,

    /// End after this time: seconds, or with a unit, such as 1.5s, 10m, 2h
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = files::duration)]
    pub(super) duration: Option<Duration>,

    /// Print details: what is found and what is not, and why
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Print only errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// Only connections that match this: tcpdump's keywords and more (docs/filter.md)
    ///
    /// host, net, port, portrange with src (client) and dst (server), tcp, ip, ip6; pid, comm, exe, uid, user,
    /// container, netns, sni, alpn, library, role, proto; and, or, not, parentheses. Example: port 443 and not comm
    /// curl. A connection is kept or left out before its first byte is written.
    #[arg(value_name = "EXPRESSION")]
    pub(super) expression: Vec<String>,

    /// Command to run and capture, with its children
    ///
    /// Under sudo it runs as the user who called sudo.
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,

    /// Show how the expression was understood and where each part is decided; capture nothing
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

        /// Only connections that match this (docs/filter.md)
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

        /// What carries the plaintext
        #[arg(long, value_enum, value_name = "WHAT", default_value = "plain")]
        framing: Carrier,

        /// Link layer of the packets
        #[arg(long, value_enum, value_name = "TYPE", default_value = "ethernet")]
        link: Link,

        /// Exit with status 6 if anything was lost
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

        /// Print only errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// Show the contents of a capture file: exchanges as a conversation or as JSON, or bytes as hex
    ///
    /// Reads pcapng and pcap (gzip too) with plaintext over TCP. HTTP/1, HTTP/2, gRPC, WebSocket and server-sent events are
    /// decoded, bodies unpacked, missing bytes shown in their place. docs/views.md describes the views, and the schema of
    /// the JSON.
    Read {
        /// Capture file to read; `-` is standard input
        #[arg(value_name = "CAPTURE")]
        input: PathBuf,

        /// Only connections that match this (docs/filter.md)
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

        /// What to do with a connection if something that the expression asks for is unknown
        #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
        unknown: selection::Unknown,

        /// Print only errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// Remove secrets from a capture file, so that it can be shared
    ///
    /// Reads pcapng and pcap (gzip too) with plaintext over TCP. Packets, lengths and times stay the same;
    /// credentials, cookies, tokens and similar values are replaced by others of the same length and kind, each value
    /// always by the same one. What is not understood is masked whole. docs/sharing.md says what is replaced, and what
    /// that cannot promise.
    Redact {
        /// Capture file to read; `-` is standard input
        #[arg(value_name = "CAPTURE")]
        input: PathBuf,

        /// Capture file to write; `-` is standard output
        #[arg(short, long, value_name = "FILE", required_unless_present = "check")]
        output: Option<PathBuf>,

        /// Write nothing, but list where secrets are: packet, TCP stream and kind, one per line
        ///
        /// Numbers are those of Wireshark. Exits with status 7 if anything would be replaced.
        #[arg(long, conflicts_with_all = ["output", "key"])]
        check: bool,

        #[command(flatten)]
        rules: rules::Rules,

        /// Print only errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// Make a bundle for a bug report: a capture without secrets, and a summary of it
    ///
    /// Takes a capture file, or captures a command or processes, redacted before anything is written. The bundle is a zip
    /// file with the redacted capture, summary.md, what was replaced where, and doctor's findings. It is checked for
    /// secrets before it is written, and is not sent anywhere. Each kind of option below selects whole connections.
    Report {
        /// Capture file to read; `-` is standard input
        #[arg(value_name = "CAPTURE", conflicts_with_all = ["report_pids", "report_command"])]
        input: Option<PathBuf>,

        /// Bundle to write, such as bundle.zip
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,

        /// Capture this process, until it ends or until Ctrl-C; may be repeated
        #[arg(short, long = "pid", id = "report_pids", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
        pids: Vec<u32>,

        /// Only connections of this process: curl, 123 or curl[123]; may be repeated
        #[arg(long = "process", value_name = "NAME")]
        processes: Vec<String>,

        /// Only this connection, by its tcp.stream in Wireshark; may be repeated
        #[arg(long = "conn", value_name = "N")]
        connections: Vec<u64>,

        /// Only connections to or from this host, by name or address; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,

        /// Only connections that were active in the last part of the capture: 30s, 5m or 2h
        #[arg(long, value_name = "TIME", value_parser = values::seconds)]
        since: Option<u64>,

        /// Only connections with an exchange that failed: status 400 or higher, a gRPC error, a reset, no response
        #[arg(long)]
        errors: bool,

        #[command(flatten)]
        rules: rules::Rules,

        /// Print only errors
        #[arg(short, long)]
        quiet: bool,

        /// Command to run and capture, with its children
        #[arg(last = true, id = "report_command", value_name = "COMMAND", conflicts_with = "report_pids")]
        command: Vec<OsString>,
    },

    /// List the processes that use TLS, whether they can be captured, and why not
    ///
    /// Captures nothing. Exits with status 0 if a capture would work, 3 if privileges are missing, 4 if the
    /// kernel lacks a required feature, 5 if a process given with -p does not exist or cannot be captured.
    Doctor {
        /// Only this process; may be repeated
        #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
        pids: Vec<u32>,

        /// Write JSON, as docs/doctor.md describes it
        #[arg(long)]
        json: bool,
    },

    /// Add fields, a menu, a profile and a capture interface to Wireshark
    ///
    /// They are installed for one user; under sudo, for the user who called sudo.
    Wireshark {
        #[command(subcommand)]
        task: CompanionTask,
    },
}

#[derive(Subcommand)]
pub(super) enum CompanionTask {
    /// Install Lua plugin, profile and interface; files that were changed are kept
    Install {
        /// Overwrite files that were changed
        #[arg(long)]
        force: bool,
    },
    /// Remove what was installed; files that were changed are kept
    Uninstall {
        /// Also remove files that were changed
        #[arg(long)]
        force: bool,
    },
    /// Show what is installed, and where, and whether Wireshark may capture
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
