//! The command line: arguments to [`Config`].

mod files;
mod rules;
mod selection;
mod show;
mod targets;
mod tips;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use self::files::FileOptions;
use self::selection::SelectionOptions;
use crate::config::{self, Capture, Config, Follow, Output, Read, Redact, Replay, Verbosity};
use crate::extcap;
use crate::failure::{Exit, Failure};
use crate::sink;

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

const SHORT_USAGE: &str = "\
tls2pcap shows what programs really say over TLS, as a capture file for Wireshark.

  sudo tls2pcap -o FILE -- COMMAND...   capture a command
  sudo tls2pcap -o FILE -p PID          capture a running process
  sudo tls2pcap -o FILE --all           capture every program that uses TLS
  tls2pcap --help                       all options, examples, exit status
";

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
struct Arguments {
    #[command(subcommand)]
    sub: Option<Sub>,

    /// Capture file to write; `-` is standard output
    ///
    /// Its name says the format: pcapng, but classic pcap if it ends in .pcap, which holds neither
    /// processes nor comments. With .gz after that it is compressed, and can be read while it grows.
    ///
    /// On standard output stands nothing but the capture: a command that is run then writes its
    /// own output to standard error.
    #[arg(short, long, visible_short_alias = 'w', alias = "write", value_name = "FILE")]
    output: Option<PathBuf>,

    /// Show what is said on standard output, beside or in place of a file
    ///
    /// A command that is run then writes its own output to standard error. docs/views.md describes what is shown;
    /// `tls2pcap read` shows a file the same way.
    #[arg(short = 'f', long, value_enum, value_name = "FORMAT")]
    format: Option<show::View>,

    #[command(flatten)]
    body: show::Body,

    /// Capture this process, and children that it has from then on; may be given several times
    #[arg(short, long = "pid", value_name = "PID", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pids: Vec<u32>,

    /// With -p, capture the children that there are already, too, and theirs
    #[arg(long, requires = "pids", conflicts_with = "no_follow")]
    follow: bool,

    /// With -p, capture no children
    #[arg(long, requires = "pids")]
    no_follow: bool,

    /// Capture the processes of this user (name or number); may be given several times
    #[arg(short, long = "uid", value_name = "USER")]
    users: Vec<String>,

    /// Capture every program on this machine that uses TLS, those that start later too
    #[arg(long)]
    all: bool,

    /// Probe this library or program too; may be given several times
    ///
    /// For what is not found by itself: libraries are found in the mappings of running processes
    /// and in the folders where distributions put them.
    #[arg(long = "lib", value_name = "PATH")]
    libraries: Vec<PathBuf>,

    /// How to follow sockets in the kernel
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    backend: Backend,

    /// Use the kernel's return probes, not breakpoints where functions return
    ///
    /// They cost less where single-stepping is dear, and see functions whose returns are not found. But a
    /// return probe replaces the return address on the stack: exceptions and cancelled threads that pass
    /// such a call end the program or skip its handlers, and backtraces end there.
    #[arg(long)]
    return_probes: bool,

    /// How server ports are written
    #[arg(long, value_enum, value_name = "HOW", default_value = "decode")]
    ports: Ports,

    /// What the plaintext stands in
    #[arg(long, value_enum, value_name = "WHAT", default_value = "plain")]
    framing: Framing,

    /// Link layer of the packets
    #[arg(long, value_enum, value_name = "TYPE", default_value = "ethernet")]
    link: Link,

    /// Which packets carry comments
    ///
    /// The fields tls2pcap.* of the Wireshark plugin are taken from them.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "syn")]
    comments: Comments,

    /// Serve the capture to Wireshark at this TCP port: wireshark -k -i TCP@127.0.0.1:PORT
    ///
    /// Unencrypted, to whoever connects: so only to this machine, unless ADDR is given. With -o the
    /// capture begins at once, without it with the first client. Who connects later sees the
    /// connections that begin from then on.
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = serve_address)]
    pcap_over_ip: Option<SocketAddr>,

    /// Write a block for each process, which Wireshark 4.6 shows as frame.darwin.process_info
    ///
    /// Older releases, tcpdump and editcap pass over them; mergecap 4.6 drops them and warns.
    #[arg(long)]
    process_blocks: bool,

    #[command(flatten)]
    redact: rules::Live,

    /// Record all events to this file, for `tls2pcap replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Create this file, with the text `ready`, once probes are attached
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,

    /// Write `ready` to this open descriptor once probes are attached, and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    ready_fd: Option<i32>,

    /// Let the arguments of the command stand in the file's header; they may hold secrets
    #[arg(long)]
    show_args: bool,

    /// Size of the ring buffer between kernel and tls2pcap, a power of two: 64 or 64M is MiB, 512K KiB
    ///
    /// From one memory page (4K) to 1024 MiB. A larger one loses less when programs write faster than
    /// tls2pcap can read.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = ring_size)]
    ring_size: Option<u32>,

    /// Keep at most this many bytes (1K: KiB, 1M: MiB) of each piece of a call; 0 keeps all
    ///
    /// A call is captured in pieces of up to 64,512 bytes, each of which becomes a packet. What is left
    /// out keeps its room in the sequence numbers, and does not count as lost.
    #[arg(short, long, value_name = "BYTES", allow_negative_numbers = true, default_value = "0", value_parser = snaplen)]
    snaplen: u32,

    /// End with status 6 if something is lost
    ///
    /// That is all that the summary names as lost. A command's own status goes first, unless it is 0.
    #[arg(long)]
    fail_on_loss: bool,

    /// Write each packet as soon as it is there
    ///
    /// Costs more time, of the captured programs too. Without it packets wait a moment, so that they stand in
    /// order of time: in a pipe they are within 100 ms, in a file within 0.7 s, in a compressed one within a second.
    #[arg(short = 'U', long)]
    packet_buffered: bool,

    /// End after this time: seconds, or with a unit, as 1.5s, 10m, 2h
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = files::duration)]
    duration: Option<Duration>,

    /// Say what is found and what is not, and why
    #[arg(short, long)]
    verbose: bool,

    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// Only connections for which this holds, in the words of tcpdump and more (docs/filter.md)
    ///
    /// host, net, port, portrange with src (client) and dst (server), tcp, ip, ip6; pid, comm, exe, uid, user,
    /// container, netns, sni, alpn, library, role, proto; and, or, not, parentheses. As in: port 443 and not comm curl.
    /// Each connection is decided once, before its first byte is written.
    #[arg(value_name = "EXPRESSION")]
    expression: Vec<String>,

    /// Command to run and capture, with its children
    ///
    /// Under sudo it runs as the user who called sudo.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Show what the expression became and where each part is decided, and capture nothing
    #[arg(short = 'd', long = "explain")]
    explain: bool,

    #[command(flatten)]
    selection: SelectionOptions,

    #[command(flatten)]
    files: FileOptions,
}

#[derive(Subcommand)]
enum Sub {
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
        framing: Framing,

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
        format: show::View,

        #[command(flatten)]
        body: show::Body,

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
        #[arg(long, value_name = "TIME", value_parser = seconds)]
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
enum CompanionTask {
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

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    /// The first that works
    Auto,
    /// kprobes: every kernel built with them
    Kprobe,
    /// fentry: cheaper, where the kernel has trampolines
    Fentry,
    /// Typed tracepoints: kernels without the others, 6.12 or later
    Tracepoint,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ports {
    /// Mapped to a port where Wireshark decodes plaintext (443 to 80); the true one is in the comment
    Decode,
    /// As they were
    Keep,
    /// As decode; where a server port stays, the client's is written 30000 lower (or higher), so
    /// that the file can be merged with a packet capture of the same connections
    Apart,
}

#[derive(Clone, Copy, ValueEnum)]
enum Framing {
    /// TCP, readable by any tool
    Plain,
    /// Made-up TLS without encryption on the true ports, with server name and ALPN; plain where
    /// Wireshark would not decode that. Missing bytes are zeros
    Tls,
}

#[derive(Clone, Copy, ValueEnum)]
enum Link {
    /// Each packet has a synthetic Ethernet header
    Ethernet,
    /// None, packets begin with IP: tcpdump and all that use libpcap then read only the first process
    Raw,
}

impl From<Framing> for config::Framing {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Plain => config::Framing::Plain,
            Framing::Tls => config::Framing::Tls,
        }
    }
}

impl From<Link> for config::Link {
    fn from(link: Link) -> Self {
        match link {
            Link::Raw => config::Link::Raw,
            Link::Ethernet => config::Link::Ethernet,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Comments {
    /// Each packet, with what is known of its connection
    All,
    /// The first of a connection, and those where something is missing, made up or learnt
    Syn,
    /// None: then the plugin knows only pid and name, and what is missing is not said where it is
    None,
}

impl From<Comments> for config::Comments {
    fn from(comments: Comments) -> Self {
        match comments {
            Comments::All => config::Comments::All,
            Comments::Syn => config::Comments::Syn,
            Comments::None => config::Comments::None,
        }
    }
}

impl From<Backend> for config::Backend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => config::Backend::Auto,
            Backend::Kprobe => config::Backend::Kprobe,
            Backend::Fentry => config::Backend::Fentry,
            Backend::Tracepoint => config::Backend::Tracepoint,
        }
    }
}

impl From<Ports> for config::Ports {
    fn from(ports: Ports) -> Self {
        match ports {
            Ports::Decode => config::Ports::Decode,
            Ports::Keep => config::Ports::Keep,
            Ports::Apart => config::Ports::Apart,
        }
    }
}

/// Why the command line leads to no run: help was asked for, or it is wrong.
#[derive(Debug)]
pub struct Stop(Reason);

#[derive(Debug)]
enum Reason {
    Clap(clap::Error),
    NoArguments,
    Failure(Failure),
}

impl Stop {
    /// Prints help to standard output, or the error to standard error.
    pub fn report(&self) -> Exit {
        // There is nobody left to tell that standard error cannot be written.
        let _ = match &self.0 {
            Reason::Clap(error) => error.print(),
            Reason::NoArguments => io::stderr().write_all(SHORT_USAGE.as_bytes()),
            Reason::Failure(failure) => writeln!(io::stderr(), "tls2pcap: {failure}"),
        };
        match &self.0 {
            Reason::Clap(error) if !error.use_stderr() => Exit::Success,
            Reason::Failure(failure) => failure.exit,
            _ => Exit::Usage,
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop(Reason::Failure(failure))
    }
}

/// Parses and checks a command line, the program's name first.
///
/// # Errors
/// [`Stop`], if help was asked for or the command line makes no sense.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Config, Stop> {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.len() <= 1 {
        return Err(Stop(Reason::NoArguments));
    }
    if extcap::is_call(&args) {
        return for_wireshark(&args);
    }
    let dashes = args.iter().any(|arg| arg == "--");
    let parsed = Arguments::command()
        .try_get_matches_from(&args)
        .and_then(|matches| Arguments::from_arg_matches(&matches))
        .map_err(|error| stray_word(&args, &error).map_or_else(|| refusal(error), Stop::from))?;
    match parsed.sub {
        Some(Sub::Replay {
            input,
            expression,
            selection,
            output,
            files,
            ports,
            framing,
            link,
            fail_on_loss,
            process_blocks,
            comments,
            redact,
            quiet,
        }) => {
            let replay = replay(input, output, *files, ports, fail_on_loss, quiet)?;
            let (framing, link, comments) = (framing.into(), link.into(), comments.into());
            let selection = selection.checked(&expression)?;
            let redact = redact.into();
            Ok(Config::Replay(Replay {
                selection,
                framing,
                link,
                process_blocks,
                comments,
                redact,
                ..replay
            }))
        }
        Some(Sub::Read { input, expression, format, body, summary, unknown, quiet }) => {
            if summary && (matches!(format, show::View::Hex) || body.is_given()) {
                return Err(usage("--summary shows no bytes", "leave out -f hex and --body").into());
            }
            Ok(Config::Read(Read {
                input,
                filter: selection::filter(&expression)?,
                leaves_unknown: matches!(unknown, selection::Unknown::Leave),
                show: body.checked(format)?,
                summary,
                verbosity: verbosity(quiet, false),
            }))
        }
        Some(Sub::Redact { input, output, check: _, rules, quiet }) => {
            if output.as_ref().is_some_and(|output| *output == input && input != Path::new("-")) {
                return Err(usage("the capture would be overwritten", "give -o another name").into());
            }
            Ok(Config::Redact(Redact {
                input,
                output: output.map(output_of).transpose()?,
                redaction: rules.into(),
                verbosity: verbosity(quiet, false),
            }))
        }
        Some(Sub::Report {
            input,
            output,
            pids,
            processes,
            connections,
            hosts,
            since,
            errors,
            rules,
            quiet,
            command,
        }) => {
            let source = report_source(input, &pids, command, quiet)?;
            if output.as_os_str() == "-" || matches!(&source, config::Source::File(input) if *input == output)
            {
                return Err(usage(
                    "the bundle needs a file of its own",
                    "give -o another name, as bundle.zip",
                )
                .into());
            }
            let filter = config::Filter { processes, connections, hosts, since, errors };
            let verbosity = verbosity(quiet, false);
            Ok(Config::Report(config::Report { source, output, filter, redaction: rules.into(), verbosity }))
        }
        Some(Sub::Wireshark { task }) => Ok(Config::Companion(task.into())),
        Some(Sub::Doctor { mut pids, json }) => {
            pids.sort_unstable();
            pids.dedup();
            Ok(Config::Doctor(config::Doctor { pids, json }))
        }
        None if parsed.explain => {
            let selection = parsed.selection.checked(&parsed.expression)?;
            let filter = selection.filter.ok_or_else(|| {
                usage("there is no expression to explain", "say one: tls2pcap -d port 443 and not comm curl")
            })?;
            Ok(Config::Explain(filter.explained()))
        }
        None => Ok(Config::Capture(capture(parsed, dashes)?)),
    }
}

/// What a report is made of. A capture is what the same words make without `report`.
fn report_source(
    input: Option<PathBuf>,
    pids: &[u32],
    command: Vec<OsString>,
    quiet: bool,
) -> Result<config::Source, Stop> {
    if let Some(input) = input {
        return Ok(config::Source::File(input));
    }
    if pids.is_empty() && command.is_empty() {
        let cure = "name a capture file, or say whom to capture: -p PID, or -- COMMAND";
        return Err(usage("there is nothing to report on", cure).into());
    }
    let mut line: Vec<OsString> = ["tls2pcap", "--redact", "-o", "capture.pcapng"].map(OsString::from).into();
    line.extend(quiet.then(|| "-q".into()));
    line.extend(pids.iter().map(|pid| format!("--pid={pid}").into()));
    if !command.is_empty() {
        line.push("--".into());
        line.extend(command);
    }
    match parse(line)? {
        Config::Capture(capture) => Ok(config::Source::Capture(Box::new(capture))),
        _ => Err(usage("there is nothing to report on", "name a capture file").into()),
    }
}

/// Seconds, as 30s, 5m or 2h.
fn seconds(text: &str) -> Result<u64, String> {
    let unit = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)].into_iter();
    let mut parts = unit.filter_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = parts.next().unwrap_or((text, 1));
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(factor)).ok_or_else(|| "not a time, as 30s, 5m or 2h".into())
}

/// A call by Wireshark, which shows the user what is said on standard error: one sentence.
fn for_wireshark(args: &[OsString]) -> Result<Config, Stop> {
    let line = match extcap::parse(args)? {
        extcap::Call::Query(query) => return Ok(Config::Extcap(query)),
        extcap::Call::Capture(line) => line,
    };
    match parse(line) {
        Ok(Config::Capture(capture)) => Ok(Config::Capture(Capture { for_wireshark: true, ..capture })),
        Err(Stop(Reason::Clap(error))) => {
            let text = error.to_string();
            let sentence = text.lines().next().unwrap_or_default();
            Err(usage(sentence.trim_start_matches("error: "), "").into())
        }
        other => other,
    }
}

/// A word that is none of a filter, if the command line has one: what clap says of what follows it would not help.
fn stray_word(args: &[OsString], error: &clap::Error) -> Option<Failure> {
    // Help is no error.
    if !error.use_stderr() {
        return None;
    }
    let matches = Arguments::command().ignore_errors(true).try_get_matches_from(args).ok()?;
    let word = matches.get_many::<String>("expression")?.next()?;
    selection::is_stray(word)
}

/// What clap has no good words for.
fn refusal(error: clap::Error) -> Stop {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) if error.kind() == ErrorKind::UnknownArgument => {
            match tips::ours_for(option) {
                Some(tip) => usage(format!("there is no option {option}"), tip).into(),
                None => Stop(Reason::Clap(error)),
            }
        }
        _ => Stop(Reason::Clap(error)),
    }
}

fn replay(
    input: PathBuf,
    output: PathBuf,
    files: FileOptions,
    ports: Ports,
    fail_on_loss: bool,
    quiet: bool,
) -> Result<Replay, Failure> {
    if input == output {
        return Err(usage("the recording would be overwritten by the capture file", "give -o another name"));
    }
    let output = output_of(output)?;
    let (files, duration) = files.checked(Some(&output), None)?;
    if duration.is_some() {
        return Err(usage("a recording is replayed whole, without -a duration:", "give -c or --max-bytes"));
    }
    Ok(Replay {
        input,
        output,
        files,
        selection: Default::default(),
        redact: None,
        ports: ports.into(),
        framing: config::Framing::Plain,
        link: config::Link::default(),
        fail_on_loss,
        process_blocks: false,
        comments: config::Comments::default(),
        verbosity: verbosity(quiet, false),
    })
}

fn capture(args: Arguments, dashes: bool) -> Result<Capture, Failure> {
    let selection = args.selection.checked(&args.expression)?;
    if dashes && args.command.is_empty() {
        return Err(usage(
            "no command follows --",
            "name a command to capture it, or say whom else to capture",
        ));
    }
    if args.output.is_none() && args.pcap_over_ip.is_none() && args.format.is_none() {
        let cure = "say -o FILE.pcapng, -o - for standard output, or -f text to see what is said";
        return Err(usage("no output file is given", cure));
    }
    if args.format.is_none() && args.body.is_given() {
        return Err(usage("--body is about what -f shows", "say -f text or -f json too"));
    }
    if args.format.is_some() && args.output.as_deref() == Some(Path::new("-")) {
        return Err(usage(
            "-o - and -f both need standard output",
            "give -o a file, or leave one of them out",
        ));
    }
    let show = args.format.map(|format| args.body.checked(format)).transpose()?;
    for (option, path) in [("--record", &args.record), ("--ready-file", &args.ready_file)] {
        if path.as_deref() == Some(Path::new("-")) {
            return Err(usage(format!("{option} cannot be standard output"), "give it the name of a file"));
        }
        if path.is_some() && *path == args.output {
            return Err(usage(format!("{option} and -o name the same file"), "give them different names"));
        }
    }
    if let Some(path) = args.record.as_ref().filter(|path| sink::is_compressed(path)) {
        return Err(usage(
            format!("--record {}: recordings are not compressed", path.display()),
            "give it another name, as FILE.t2p, and compress it later",
        ));
    }
    if args.record.is_some() && args.record == args.ready_file {
        return Err(usage("--record and --ready-file name the same file", "give them different names"));
    }
    let redact: Option<config::Redaction> = args.redact.into();
    if redact.is_some() && args.record.is_some() {
        return Err(usage(
            "--record keeps all that was captured, secrets too, so it is not possible with --redact",
            "leave one of them out; a recording can be redacted later: tls2pcap replay --redact",
        ));
    }
    if redact.is_some() && args.show_args {
        return Err(usage("--show-args shows what --redact takes out", "leave one of them out"));
    }
    let follow = match (args.follow, args.no_follow) {
        (true, _) => Follow::Tree,
        (_, true) => Follow::Nobody,
        _ => Follow::New,
    };
    let output = args.output.map(output_of).transpose()?;
    let (files, duration) = args.files.checked(output.as_ref(), args.duration)?;
    Ok(Capture {
        selection: selection.clone(),
        targets: targets::targets(args.pids, follow, &args.users, args.all, args.command, &selection)?,
        output,
        show,
        files,
        duration,
        serve: args.pcap_over_ip,
        comments: args.comments.into(),
        for_wireshark: false,
        libraries: args.libraries,
        backend: args.backend.into(),
        return_probes: args.return_probes,
        ports: args.ports.into(),
        framing: args.framing.into(),
        link: args.link.into(),
        process_blocks: args.process_blocks,
        redact,
        is_interim: false,
        record: args.record,
        ready_file: args.ready_file,
        ready_fd: args.ready_fd,
        show_args: args.show_args,
        ring_size: args.ring_size,
        snaplen: Some(args.snaplen).filter(|n| *n > 0),
        fail_on_loss: args.fail_on_loss,
        packet_buffered: args.packet_buffered,
        verbosity: verbosity(args.quiet, args.verbose),
    })
}

/// Bytes to keep.
fn snaplen(text: &str) -> Result<u32, String> {
    let (digits, shift) = match (text.strip_suffix(['K', 'k']), text.strip_suffix(['M', 'm'])) {
        (Some(digits), _) => (digits, 10),
        (_, Some(digits)) => (digits, 20),
        _ => (text, 0),
    };
    let number: u32 = digits.parse().map_err(|_| "not a number of bytes, as 256 or 1K".to_owned())?;
    u32::try_from(u64::from(number) << shift).map_err(|_| "more than any call has".to_owned())
}

/// Bytes of a ring.
fn ring_size(text: &str) -> Result<u32, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 20),
    };
    let number: u32 = digits.parse().map_err(|_| "not a number, as 64 or 512K".to_owned())?;
    let bytes = u64::from(number) << shift;
    let page = crate::probe::page_size() as u64;
    if !bytes.is_power_of_two() {
        return Err("not a power of two, as 64, 128 or 512K".into());
    }
    if bytes < page {
        return Err(format!("less than a memory page, which is {}K", page >> 10));
    }
    u32::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 30).ok_or_else(|| "more than 1024 MiB".into())
}

/// Where to listen; a port alone is one of this machine's loopback.
fn serve_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        "neither a port nor a numeric address with a port, as 0.0.0.0:57012 or [::]:57012".into()
    })
}

fn output_of(path: PathBuf) -> Result<Output, Failure> {
    if path == Path::new("-") {
        return Ok(Output::Stdout);
    }
    match sink::Format::of(&path, sink::Link::default()) {
        Ok(_) => Ok(Output::File(path)),
        Err(unknown) => Err(usage(format!("-o {}: {unknown}", path.display()), unknown.cure)),
    }
}

fn verbosity(quiet: bool, verbose: bool) -> Verbosity {
    match (quiet, verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}

fn usage(message: impl Into<String>, cure: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message, cure)
}

#[cfg(test)]
mod tests;
