//! What the user sees of the numbers: a line while the capture runs, a summary at its end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Stderr, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::printable;
use crate::sink;

/// The text for [`Cut::Output`]: only the file shows how much of it was written.
const FAILED: &str = "lost: everything after the write error, amount unknown; the numbers above include it\n";

/// Least time between two states of the line.
const INTERVAL: Duration = Duration::from_millis(200);

/// How much was captured so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Processes that moved TLS data.
    pub processes: u64,
    /// Connections.
    pub connections: u64,
    /// Bytes of plaintext, captured.
    pub bytes: u64,
    /// Packets written.
    pub packets: u64,
    /// What is missing; entries with no events are not shown.
    pub lost: Vec<Loss>,
    /// What is no loss, but worth knowing; those with no events are not shown.
    pub notes: Vec<Note>,
    /// Why there was more, of which nothing is known.
    pub cut_short: Option<Cut>,
    /// What became of the files, if there may be several.
    pub files: Option<sink::rotate::Told>,
}

/// What the numbers end with, before the end of the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The recording.
    Recording,
    /// Whoever read the output closed it, having seen enough: no loss.
    Reader,
    /// As much was written as was asked for: no loss.
    Enough,
    /// Writing failed.
    Output,
    /// A second signal hastened the end.
    Hastened,
    /// The file was deleted meanwhile.
    Deleted,
    /// Another program changed the file meanwhile.
    Changed,
}

impl Numbers {
    /// The same, ending early.
    #[must_use]
    pub fn cut(self, cut: Cut) -> Numbers {
        Numbers { cut_short: Some(cut), ..self }
    }

    /// Whether anything is missing that should be in the file.
    pub fn has_lost(&self) -> bool {
        self.lost.iter().any(|loss| loss.events > 0)
    }
}

/// What is missing for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: Reason,
    /// How often.
    pub events: u64,
    /// How many bytes; `None` if unknown.
    pub bytes: Option<u64>,
    /// By process, the worst first.
    pub by_process: Vec<Share>,
}

/// What one process lost for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The process, as `curl[1234]`.
    pub process: String,
    /// How often.
    pub events: u64,
    /// How many bytes; `None` if unknown.
    pub bytes: Option<u64>,
}

/// Why something is missing from the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Data records that the ring refused.
    RingFull,
    /// Data records whose payload was dropped because the output was too slow.
    WriterBehind,
    /// Records without payload that the ring refused.
    FactLost,
    /// What the ring of notices refused: a new file that is mapped, or a process that needs other probes.
    NoticeLost,
    /// The program's buffer could not be read.
    Unreadable,
    /// Calls longer than the longest that is captured.
    CallLimit,
    /// SSL_sendfile.
    Sendfile,
    /// Reads that were blocked when the probes came.
    ReadBeforeAttach,
    /// Calls whose return was never seen.
    Unfinished,
    /// Calls nested deeper than is followed.
    Depth,
    /// The table of threads was full.
    ThreadsFull,
    /// Calls on stacks where their return was not probed.
    OtherStack,
    /// A table of handles was full.
    HandlesFull,
    /// The table of processes was full.
    ProcessesFull,
    /// The table of sockets was full.
    SocketsFull,
    /// The table of connections was full.
    ConnectionsFull,
    /// Records that came after the end of their connection.
    Late,
    /// Probes of libraries or processes that the kernel did not run.
    MissedRuns,
    /// Files that a process of the command mapped and ran on with before they were inspected.
    Unheld,
    /// Records that could not be decoded.
    BadRecord,
    /// Packets that no client got: there is no file, and clients were too slow.
    NotServed,
    /// Holes in the file that were not counted anywhere.
    Unknown,
}

impl Reason {
    /// As written in comments.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::RingFull => "ring-full",
            Reason::WriterBehind => "writer-behind",
            Reason::FactLost => "ring-full-facts",
            Reason::NoticeLost => "not-looked-at",
            Reason::Unreadable => "unreadable",
            Reason::CallLimit => "call-limit",
            Reason::Sendfile => "sendfile",
            Reason::ReadBeforeAttach => "read-before-attach",
            Reason::Unfinished => "unfinished-call",
            Reason::Depth => "nested-call",
            Reason::ThreadsFull => "threads-full",
            Reason::OtherStack => "other-stack",
            Reason::HandlesFull => "handles-full",
            Reason::ProcessesFull => "processes-full",
            Reason::SocketsFull => "sockets-full",
            Reason::ConnectionsFull => "connections-full",
            Reason::Late => "after-end",
            Reason::MissedRuns => "missed-runs",
            Reason::Unheld => "probed-late",
            Reason::BadRecord => "bad-record",
            Reason::NotServed => "not-served",
            Reason::Unknown => "unknown",
        }
    }

    /// What there are `events` of, one and many, and why they are missing.
    fn text(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Reason::RingFull => ("data record", "data records", "the ring buffer was full"),
            Reason::WriterBehind => ("data record", "data records", "the output was slower than the capture"),
            Reason::FactLost => {
                ("record of a connection", "records of connections", "the ring buffer was full")
            }
            Reason::NoticeLost => (
                "new file or process",
                "new files or processes",
                "too many at the same time to inspect, so TLS libraries may not be probed",
            ),
            Reason::Unreadable => ("data record", "data records", "the program's memory could not be read"),
            Reason::CallLimit => ("call", "calls", "longer than the longest call that is captured"),
            Reason::Sendfile => {
                ("call", "calls", "sent by the kernel from a file, never in the program's memory")
            }
            Reason::ReadBeforeAttach => ("read", "reads", "already waiting when the capture began"),
            Reason::Unfinished => ("call", "calls", "the return was not seen"),
            Reason::Depth => ("call", "calls", "nested too deeply"),
            Reason::ThreadsFull => {
                ("call", "calls", "its process or user had used up its share of the table of calls")
            }
            Reason::OtherStack => ("call", "calls", "made by coroutines before their returns were probed"),
            Reason::HandlesFull => {
                ("call", "calls", "its process or user had used up its share of the table of TLS handles")
            }
            Reason::ProcessesFull => ("call", "calls", "too many processes at the same time"),
            Reason::SocketsFull => (
                "call",
                "calls",
                "its process or user had used up its share of the table of sockets; the addresses are unknown",
            ),
            Reason::ConnectionsFull => ("connection", "connections", "too many at the same time"),
            Reason::Late => ("data record", "data records", "moved after the end of the connection"),
            Reason::Unheld => (
                "mapped file",
                "mapped files",
                "not inspected before the process ran on: TLS calls may be missing",
            ),
            Reason::MissedRuns => ("probe run", "probe runs", "skipped by the kernel"),
            Reason::BadRecord => ("record", "records", "not understood, which is a bug in tls2pcap"),
            Reason::NotServed => ("packet", "packets", "no client was fast enough for them"),
            Reason::Unknown => ("hole or more", "holes or more", "reason unknown"),
        }
    }

    /// What the user can do.
    fn cure(self) -> Option<&'static str> {
        match self {
            Reason::RingFull | Reason::FactLost => {
                Some("use a larger --ring-size, or capture less with -p or -u")
            }
            Reason::NoticeLost => Some("name the library or program with --lib"),
            Reason::WriterBehind => {
                Some("write to a faster disk or reader, or capture less with -p, -u or -s")
            }
            Reason::NotServed => Some("write to a file too, with -o, or capture less with -p, -u or -s"),
            Reason::CallLimit => {
                Some("use a larger --ring-size: half of it is the longest call, up to 64 MiB")
            }
            Reason::ThreadsFull
            | Reason::HandlesFull
            | Reason::ProcessesFull
            | Reason::SocketsFull
            | Reason::ConnectionsFull => Some("capture less with -p or -u"),
            Reason::ReadBeforeAttach => Some("start the program under the capture: tls2pcap … -- COMMAND"),
            Reason::BadRecord | Reason::Unknown => Some("please report this, with a file made by --record"),
            Reason::Unreadable
            | Reason::Sendfile
            | Reason::Unfinished
            | Reason::Depth
            | Reason::OtherStack
            | Reason::Late
            | Reason::Unheld
            | Reason::MissedRuns => None,
        }
    }
}

/// What is no loss, but worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// So many bytes are beyond `--snaplen`.
    Snaplen(u64),
    /// So many calls were on QUIC or DTLS handles.
    NotTcp(u64),
    /// So many connections were left out by the filter.
    LeftByFilter(u64),
    /// For this many connections it was unknown whether the filter matches.
    Undecided(u64),
    /// So many connections were left out by the sample.
    LeftBySample(u64),
    /// This many connections are written with synthetic addresses.
    MadeUp(u64),
    /// So many calls used more than one TCP socket.
    Conflict(u64),
    /// So many runs of the probes of sockets were skipped by the kernel.
    MissedSocketRuns(u64),
    /// So many holes are written shorter than they are, or not filled.
    Shortened(u64),
    /// This many losses are not counted by process.
    Unattributed(u64),
    /// With `--redact`: this many values were replaced, and this many pieces masked that no parser understood.
    Redacted {
        /// Values.
        replaced: u64,
        /// Pieces.
        masked: u64,
    },
    /// This many packets follow later ones.
    Late {
        /// How many.
        packets: u64,
        /// How late the latest is, ns.
        by: u64,
    },
}

impl Note {
    fn text(self) -> Option<String> {
        let (n, text) = match self {
            Note::Snaplen(n) => {
                (n, format!("{} beyond --snaplen left out, as requested", count(n, "byte", "bytes")))
            }
            Note::NotTcp(n) => {
                (n, format!("{} of QUIC or DTLS, which tls2pcap does not write", count(n, "call", "calls")))
            }
            Note::MadeUp(n) => {
                (n, format!("{} with synthetic addresses, tuple=none", count(n, "connection", "connections")))
            }
            Note::LeftByFilter(n) => (
                n,
                format!(
                    "{} left out by the filter, as requested; the numbers above include them",
                    count(n, "connection", "connections")
                ),
            ),
            Note::Undecided(n) => {
                let what = count(n, "connection", "connections");
                (
                    n,
                    format!(
                        "{what} for which something that the filter asks for is unknown (filter=unknown, or left out with --unknown leave)"
                    ),
                )
            }
            Note::LeftBySample(n) => (
                n,
                format!(
                    "{} left out by --sample, as requested; the numbers above include them",
                    count(n, "connection", "connections")
                ),
            ),
            Note::Conflict(n) => {
                let calls = count(n, "call", "calls");
                (n, format!("{calls} used several TCP sockets, so none was assigned to the connection"))
            }
            Note::MissedSocketRuns(n) => {
                let runs = count(n, "probe run", "probe runs");
                (
                    n,
                    format!(
                        "{runs} on sockets skipped by the kernel: an address or the end of a connection may be missing"
                    ),
                )
            }
            Note::Shortened(n) => {
                let holes = count(n, "hole", "holes");
                (
                    n,
                    format!(
                        "{holes} not written at full length, to limit the size of the file; what follows may not be decoded"
                    ),
                )
            }
            Note::Unattributed(n) => (
                n,
                format!(
                    "{} not counted by process: too many processes lost something",
                    count(n, "loss", "losses")
                ),
            ),
            Note::Redacted { replaced, masked } => {
                let values = count(replaced, "value", "values");
                (1, format!("redacted: {values} replaced, {} masked whole", grouped(masked)))
            }
            Note::Late { packets, by } => {
                let late = count(packets, "packet is", "packets are");
                // Rounded up: the latest is not later than that.
                let (by, most) = (by.div_ceil(1_000_000), if packets == 1 { "" } else { " up to" });
                (packets, format!("{late}{most} {} ms late in the file (late=)", grouped(by)))
            }
        };
        (n > 0).then_some(text)
    }
}

/// How many processes are named for a reason.
const WORST: usize = 3;

/// What was captured, and what was lost.
fn totals(numbers: &Numbers, duration: Duration) -> String {
    let mut text = format!(
        "{}, {}, {} of plaintext in {} over {:.1} s\n",
        count(numbers.processes, "process", "processes"),
        count(numbers.connections, "connection", "connections"),
        count(numbers.bytes, "byte", "bytes"),
        count(numbers.packets, "packet", "packets"),
        duration.as_secs_f64(),
    );
    for loss in numbers.lost.iter().filter(|loss| loss.events > 0) {
        // Writing to a String cannot fail.
        let _ = loss_line(&mut text, loss);
    }
    text
}

/// The numbers of a running capture, several lines.
pub fn so_far(numbers: &Numbers, duration: Duration) -> String {
    let nothing = if numbers.has_lost() { "" } else { "nothing lost so far\n" };
    format!("tls2pcap: so far: {}{nothing}", totals(numbers, duration))
}

/// The summary at the end, several lines. `file` is the capture file; `None` is standard output.
pub fn summary(numbers: &Numbers, duration: Duration, file: Option<&Path>) -> String {
    let mut text = totals(numbers, duration);
    match numbers.cut_short {
        Some(Cut::Recording) => {
            text.push_str("lost: everything after the damage in the recording, amount unknown\n");
        }
        Some(Cut::Output) => text.push_str(FAILED),
        Some(Cut::Hastened) => {
            text.push_str("lost: the end of the capture, skipped after a second signal, amount unknown\n");
        }
        Some(Cut::Deleted) => text.push_str("lost: everything that was written: the file was deleted during the capture\n"),
        Some(Cut::Changed) => {
            text.push_str("lost: whatever another program overwrote or truncated in the file, amount unknown\n");
        }
        Some(Cut::Reader) => {
            let closed = file.map_or("standard output".into(), |file| file.display().to_string());
            let _ = writeln!(text, "note: the reader closed {closed}: nothing was captured after that");
        }
        Some(Cut::Enough) => text.push_str(
            "note: ended as requested; bytes and connections include what was read from the ring together with the last packets\n",
        ),
        None if !numbers.has_lost() => text.push_str("nothing lost\n"),
        None => {}
    }
    for note in numbers.notes.iter().filter_map(|note| note.text()) {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(file) = file {
        let classic = sink::Format::of(file, sink::Link::default()).is_ok_and(sink::Format::is_classic);
        let without = if classic {
            " as classic pcap, without processes, comments and losses: name it .pcapng to keep them"
        } else {
            ""
        };
        let partly = if numbers.cut_short == Some(Cut::Output) { "partly " } else { "" };
        match &numbers.files {
            Some(told) => files_line(&mut text, partly, told, without),
            None => {
                let _ = writeln!(text, "{partly}written to {}{without}", file.display());
            }
        }
    }
    text
}

fn files_line(text: &mut String, partly: &str, told: &sink::rotate::Told, without: &str) {
    // Not even the first could be opened.
    let Some(last) = told.last.as_ref().map(|path| path.display()) else { return };
    let _ = match told.files {
        1 => writeln!(text, "{partly}written to {last}{without}"),
        n => writeln!(
            text,
            "{partly}written to {}, the last of them {last}{without}",
            count(n, "file", "files")
        ),
    };
    if told.removed > 0 {
        let _ = writeln!(
            text,
            "note: {} deleted to make room for later ones, as requested",
            count(told.removed, "file was", "files were")
        );
    }
    if told.for_room > 0 {
        let _ = writeln!(
            text,
            "note: the disk was full: {} deleted to free space",
            count(told.for_room, "file was", "files were")
        );
    }
    if told.forgotten > 0 {
        let n = count(told.forgotten, "connection", "connections");
        let _ =
            writeln!(text, "note: {n} may continue in a later file without a handshake: too many were open");
    }
}

fn loss_line(text: &mut String, loss: &Loss) -> std::fmt::Result {
    let (one, many, why) = loss.reason.text();
    let bytes = |bytes: Option<u64>| bytes.map(|n| count(n, "byte", "bytes"));
    text.push_str("lost: ");
    if let Some(bytes) = bytes(loss.bytes) {
        write!(text, "{bytes} in ")?;
    }
    write!(text, "{}: {why}", count(loss.events, one, many))?;
    if let Some(cure) = loss.reason.cure() {
        write!(text, " ({cure})")?;
    }
    text.push('\n');
    let share = |share: &Share| {
        let amount = bytes(share.bytes).unwrap_or_else(|| count(share.events, one, many));
        format!("{} {amount}", printable::line(&share.process))
    };
    let mut shares: Vec<String> = loss.by_process.iter().take(WORST).map(share).collect();
    if let Some(more) = loss.by_process.len().checked_sub(WORST).filter(|more| *more > 0) {
        shares.push(format!("{} more", grouped(more as u64)));
    }
    if !shares.is_empty() {
        writeln!(text, "      {}", shares.join(", "))?;
    }
    Ok(())
}

/// The line while the capture runs, at most `width` characters.
pub fn line(numbers: &Numbers, elapsed: Duration, width: usize) -> String {
    let lost: u64 = numbers.lost.iter().map(|loss| loss.events).fold(0, u64::saturating_add);
    let mut text = format!(
        "{} s  {}  {}  {}  {}",
        elapsed.as_secs(),
        count(numbers.processes, "process", "processes"),
        count(numbers.connections, "connection", "connections"),
        scaled(numbers.bytes),
        count(numbers.packets, "packet", "packets"),
    );
    if lost > 0 {
        let _ = write!(text, "  lost {}", grouped(lost));
    }
    text.chars().take(width).collect()
}

fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n), if n == 1 { one } else { many })
}

/// 1234567 is `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits with a decimal unit.
fn scaled(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // Exact up to 2^53, and three digits are shown.
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        // Below this, the value still shows as at most 999.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

/// A line that is rewritten in place.
#[derive(Debug)]
pub struct StatusLine<W: Write> {
    out: W,
    last: Option<Instant>,
    shown: bool,
}

impl StatusLine<Stderr> {
    /// On standard error, if that is a terminal. Not for a capture that runs a command: the
    /// terminal is the command's.
    pub fn on_terminal() -> Option<Self> {
        let err = io::stderr();
        err.is_terminal().then(|| StatusLine::new(err))
    }

    /// Width of the terminal in characters.
    pub fn width(&self) -> usize {
        terminal_size::terminal_size_of(&self.out).map_or(80, |(width, _)| usize::from(width.0))
    }
}

impl<W: Write> StatusLine<W> {
    /// On anything that understands a terminal's control characters.
    pub fn new(out: W) -> Self {
        StatusLine { out, last: None, shown: false }
    }

    /// Whether the last state is old enough for the next: five a second at most.
    pub fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL)
    }

    /// Replaces the shown text with `text`, if that is due. `width` is the terminal's: the last column stays
    /// free, so that no terminal wraps.
    pub fn update(&mut self, now: Instant, text: &str, width: usize) {
        if !self.is_due(now) {
            return;
        }
        self.last = Some(now);
        self.shown = true;
        let text: String = text.chars().take(width.saturating_sub(1)).collect();
        self.put(&format!("\r{text}\x1b[K"));
    }

    /// Removes the line; to be called before anything else is printed.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.last = None;
            self.put("\r\x1b[K");
        }
    }

    fn put(&mut self, text: &str) {
        // A terminal that was closed must not end the capture.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(process: &str, events: u64, bytes: Option<u64>) -> Share {
        Share { process: process.into(), events, bytes }
    }

    fn numbers() -> Numbers {
        Numbers {
            files: None,
            processes: 1,
            connections: 12,
            bytes: 1_234_567,
            packets: 890,
            lost: vec![
                Loss {
                    reason: Reason::RingFull,
                    events: 1_004,
                    bytes: Some(65_536),
                    by_process: vec![share("curl[12]", 1_000, Some(65_000)), share("sh[7]", 4, Some(536))],
                },
                Loss { reason: Reason::Unreadable, events: 0, bytes: Some(0), by_process: vec![] },
                Loss {
                    reason: Reason::Unfinished,
                    events: 7,
                    bytes: None,
                    by_process: (1..=5).rev().map(|n| share("a[1]", n, None)).collect(),
                },
            ],
            notes: vec![
                Note::Snaplen(12_345),
                Note::NotTcp(0),
                Note::MadeUp(1),
                Note::Late { packets: 12, by: 1_234_000_001 },
            ],
            cut_short: None,
        }
    }

    #[test]
    fn summary_names_each_loss_and_its_cure() {
        let expected = "\
1 process, 12 connections, 1,234,567 bytes of plaintext in 890 packets over 12.3 s
lost: 65,536 bytes in 1,004 data records: the ring buffer was full (use a larger --ring-size, or capture less with -p or -u)
      curl[12] 65,000 bytes, sh[7] 536 bytes
lost: 7 calls: the return was not seen
      a[1] 5 calls, a[1] 4 calls, a[1] 3 calls, 2 more
note: 12,345 bytes beyond --snaplen left out, as requested
note: 1 connection with synthetic addresses, tuple=none
note: 12 packets are up to 1,235 ms late in the file (late=)
written to out.pcapng
";
        assert_eq!(
            summary(&numbers(), Duration::from_millis(12_345), Some(Path::new("out.pcapng"))),
            expected
        );
        let clean = summary(&Numbers::default(), Duration::ZERO, None);
        assert_eq!(
            clean,
            "0 processes, 0 connections, 0 bytes of plaintext in 0 packets over 0.0 s\nnothing lost\n"
        );
        for (cut, file, expected) in [
            (Cut::Recording, None, "lost: everything after the damage in the recording, amount unknown"),
            (Cut::Output, None, FAILED.trim_end()),
            (
                Cut::Hastened,
                None,
                "lost: the end of the capture, skipped after a second signal, amount unknown",
            ),
            (Cut::Reader, None, "note: the reader closed standard output: nothing was captured after that"),
            (Cut::Reader, Some("f"), "note: the reader closed f: nothing was captured after that"),
        ] {
            let numbers = Numbers { cut_short: Some(cut), ..Numbers::default() };
            let text = summary(&numbers, Duration::ZERO, file.map(Path::new));
            assert_eq!(text.lines().nth(1), Some(expected));
            assert!(!text.contains("nothing lost"), "{text}");
        }
        let asked = Numbers { notes: vec![Note::Snaplen(1)], ..Numbers::default() };
        assert!(!asked.has_lost() && numbers().has_lost());
    }

    #[test]
    fn line_fits() {
        let full = "75 s  1 process  12 connections  1.23 MB  890 packets  lost 1,011";
        assert_eq!(line(&numbers(), Duration::from_secs(75), 200), full);
        assert_eq!(line(&numbers(), Duration::from_secs(75), 15), &full[..15]);
    }

    #[test]
    fn numbers_for_people() {
        let cases = [
            (0, "0", "0 B"),
            (999, "999", "999 B"),
            (1_000, "1,000", "1.00 kB"),
            (9_994, "9,994", "9.99 kB"),
            (9_995, "9,995", "10.0 kB"),
            (99_950, "99,950", "100 kB"),
            (999_499, "999,499", "999 kB"),
            (999_500, "999,500", "1.00 MB"),
            (12_345_678, "12,345,678", "12.3 MB"),
            (u64::MAX, "18,446,744,073,709,551,615", "18.4 EB"),
        ];
        for (n, with_groups, with_unit) in cases {
            assert_eq!((grouped(n).as_str(), scaled(n).as_str()), (with_groups, with_unit), "{n}");
        }
    }

    #[test]
    fn status_line_is_rewritten_at_most_five_times_a_second_and_cleared_once() {
        let start = Instant::now();
        let mut status = StatusLine::new(Vec::new());
        status.clear();
        for ms in [0, 1, 199, 200, 399, 401] {
            status.update(start + Duration::from_millis(ms), &format!("{ms} ms and more"), 7);
        }
        status.clear();
        status.clear();
        assert_eq!(
            String::from_utf8(status.out).unwrap(),
            "\r0 ms a\x1b[K\r200 ms\x1b[K\r401 ms\x1b[K\r\x1b[K"
        );
    }
}
