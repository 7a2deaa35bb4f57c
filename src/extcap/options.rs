//! The options of the interface. Each is one of the command line's, but for the command to run.

use std::ffi::OsString;
use std::fmt::Write as _;

use super::{processes, usage};
use crate::event::record::CHUNK_MAX;
use crate::failure::Failure;

/// The command to run, as one text. On the command line it stands behind `--`.
pub(super) const COMMAND: &str = "--command";

/// An option as the dialog shows it.
pub(super) struct Option_ {
    /// Its name on the command line.
    call: &'static str,
    /// The tab it stands on.
    group: &'static str,
    /// What stands before it.
    label: &'static str,
    tooltip: &'static str,
    kind: Control,
}

enum Control {
    /// One of the processes that there are.
    Process,
    /// One of these: value, text. The first is the default.
    Choice(&'static [(&'static str, &'static str)]),
    Flag,
    /// From 0, the default, to this.
    Number(usize),
    /// Text that fits this pattern; what is shown while it is empty.
    Text(&'static str, &'static str),
    /// A file that exists.
    File,
}

use Control::{Choice, File, Flag, Number, Process, Text};

const WHOM: &str = "Whom";
const PACKETS: &str = "Packets";
const KERNEL: &str = "Kernel";

const fn option(
    call: &'static str,
    group: &'static str,
    label: &'static str,
    kind: Control,
    tooltip: &'static str,
) -> Option_ {
    Option_ { call, group, label, tooltip, kind }
}

/// In the order of the dialog. One of the first four is to be chosen: Wireshark keeps options by profile, and comes with none
/// of them when it has changed to another.
#[rustfmt::skip]
const OPTIONS: [Option_; 11] = [
    option("--pid", WHOM, "Process", Process, "Capture this process and the children that it starts from now on. The list shows processes with a TLS library."),
    option(COMMAND, WHOM, "Or run", Text(".*", "curl https://example.org/"), "Run this command and capture it and its children, from the first byte. It is run without a shell: for pipes and variables use sh -c '…'. It ends with the capture."),
    option("--uid", WHOM, "Or user", Text("^[A-Za-z0-9_.$-]*$", "name or number"), "Capture all processes of this user."),
    option("--all", WHOM, "Or every program", Flag, "Capture every program on this machine that uses TLS, including those that start later."),
    option("--ports", PACKETS, "Server ports", Choice(&[("decode", "mapped, so that Wireshark decodes"), ("keep", "unchanged"), ("apart", "different from any packet capture")]), "443 becomes 80 and so on; the true port is in the comment and in tls2pcap.server_port."),
    option("--framing", PACKETS, "Framing", Choice(&[("plain", "TCP"), ("tls", "synthetic TLS without encryption")]), "Write the plaintext into TCP, or into synthetic TLS on the true ports, with server name and ALPN."),
    option("--comments", PACKETS, "Comments", Choice(&[("syn", "on the first packet of a connection"), ("all", "on each packet"), ("none", "none")]), "What is known about process and connection. The fields tls2pcap.* are taken from them."),
    option("--process-blocks", PACKETS, "Process blocks", Flag, "Wireshark 4.6 shows them as frame.darwin.process_info, without any plugin."),
    option("--snaplen", PACKETS, "Bytes of each piece", Number(CHUNK_MAX), "Keep at most this many bytes of each piece of a call; 0 keeps all."),
    option("--backend", KERNEL, "Sockets are followed by", Choice(&[("auto", "the first that works"), ("fentry", "fentry"), ("kprobe", "kprobes"), ("tracepoint", "typed tracepoints")]), "Kernels differ; auto finds what works."),
    option("--lib", KERNEL, "Library", File, "Probe this library or program too: for one that is not found automatically."),
];

impl Option_ {
    pub(super) fn is_flag(&self) -> bool {
        matches!(self.kind, Flag)
    }
}

pub(super) fn find(call: &str) -> Option<&'static Option_> {
    OPTIONS.iter().find(|option| option.call == call && call != COMMAND)
}

/// All options.
pub(super) fn sentences() -> String {
    let mut out = String::new();
    for (number, option) in OPTIONS.iter().enumerate() {
        let Option_ { call, group, label, tooltip, kind } = option;
        let _ = write!(
            out,
            "arg {{number={number}}}{{call={call}}}{{display={label}}}{{tooltip={tooltip}}}{{group={group}}}"
        );
        let _ = match kind {
            Process => writeln!(out, "{{type=selector}}{{reload=true}}{{placeholder=Look again}}"),
            Choice(_) => writeln!(out, "{{type=selector}}"),
            Flag => writeln!(out, "{{type=boolflag}}{{default=false}}"),
            Number(max) => writeln!(out, "{{type=unsigned}}{{range=0,{max}}}{{default=0}}"),
            Text(pattern, hint) => {
                writeln!(out, "{{type=string}}{{validation={pattern}}}{{placeholder={hint}}}")
            }
            File => writeln!(out, "{{type=fileselect}}{{mustexist=true}}"),
        };
        match kind {
            Process => processes(&mut out, number),
            Choice(values) => {
                for (index, (value, text)) in values.iter().enumerate() {
                    sentence(&mut out, number, value, text, index == 0);
                }
            }
            _ => {}
        }
    }
    out
}

/// What there is to choose from for an option.
pub(super) fn reload(name: &str) -> Result<String, Failure> {
    let mut out = String::new();
    for (number, option) in OPTIONS.iter().enumerate() {
        if option.call.trim_start_matches('-') == name && matches!(option.kind, Process) {
            processes(&mut out, number);
            return Ok(out);
        }
    }
    Err(usage(format!("'{name}' has no list to reload"), ""))
}

fn processes(out: &mut String, number: usize) {
    sentence(out, number, "", "none", true);
    for candidate in processes::candidates() {
        sentence(out, number, &candidate.pid.to_string(), &candidate.shown, false);
    }
}

fn sentence(out: &mut String, number: usize, value: &str, text: &str, default: bool) {
    // A process calls itself what it likes.
    let text: String = text
        .chars()
        .map(|c| match c {
            '{' => '(',
            '}' => ')',
            c if c.is_control() => '?',
            c => c,
        })
        .collect();
    let _ = writeln!(out, "value {{arg={number}}}{{value={value}}}{{display={text}}}{{default={default}}}");
}

/// A command line in its words, as a shell would see them.
pub(super) fn words(line: &str) -> Result<Vec<OsString>, Failure> {
    let words = shell_words::split(line).map_err(|_| {
        usage(format!("the command has an unclosed quote: {line}"), "close it, or put a \\ before it")
    })?;
    if words.is_empty() && !line.is_empty() {
        return Err(usage("the command is blank", "name one, or leave the field empty"));
    }
    Ok(words.into_iter().map(OsString::from).collect())
}

/// A command line without its arguments.
pub(super) fn program(line: &str) -> String {
    match shell_words::split(line).unwrap_or_default().as_slice() {
        [program] => program.clone(),
        [program, ..] => format!("{program} …"),
        [] => String::new(),
    }
}
