//! `tls2pcap read`: what a capture file holds, as text, JSON or hex. `facts` and `flows` make connections of packets, `lane` puts
//! bytes in order, [`crate::view`] says what they mean. `live` shows a capture that goes on by the same way.

mod facts;
mod flows;
mod lane;
mod live;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use self::flows::{Left, Plan, Viewer};
pub use self::live::{LiveView, Shown};
use crate::config::{self, Verbosity};
use crate::failure::{Exit, Failure};
use crate::input::container::{ReadError, Reader};
use crate::printable;
use crate::status::StatusLine;
use crate::view::{Hex, Json, Limits, Style, Summary, Text, View};

/// Blocks after which it is looked whether something is to be said.
const LOOK_EVERY: u64 = 1024;
/// Columns of a terminal that does not say how many it has.
const WIDTH: u16 = 80;

/// Shows a file.
///
/// # Errors
/// A [`Failure`] for the user. If the input is damaged, what came before the damage is shown.
pub fn run(config: &config::Read) -> Result<Exit, Failure> {
    let is_stdin = config.input.as_os_str() == "-";
    let name = if is_stdin { "standard input".to_owned() } else { config.input.display().to_string() };
    let bad_input = |error: ReadError| {
        let cure = match error {
            ReadError::Io(_) => "give a file that can be read",
            ReadError::Format => "give a file that tls2pcap or tcpdump wrote",
            ReadError::Cut(_) | ReadError::Damaged(_) => {
                "what came before is shown; if the file is a copy, copy it again"
            }
        };
        Failure::new(Exit::Io, format!("{name}: {error}"), cure)
    };
    let (input, len): (Box<dyn Read>, Option<u64>) = if is_stdin {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&config.input).map_err(|error| bad_input(error.into()))?;
        let len = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        (Box::new(file), len)
    };
    let read = Arc::new(AtomicU64::new(0));
    let mut reader = Reader::new(Counted { input, read: Arc::clone(&read) }).map_err(bad_input)?;
    let view = view(config.show.format, config.summary);
    let plan = Plan {
        filter: config.filter.clone(),
        leaves_unknown: config.leaves_unknown,
        limits: limits(config.show.format, config.show.body),
    };
    let mut viewer = Viewer::new(plan, view, Box::new(io::stdout()));
    let mut progress = Progress::new(config, len, read);
    let mut blocks = 0u64;
    let end = loop {
        match reader.next() {
            Ok(Some(block)) => viewer.block(&block, reader.is_classic(), reader.is_big()),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        blocks += 1;
        if viewer.has_failed() {
            break Ok(());
        }
        if blocks.is_multiple_of(LOOK_EVERY) {
            progress.look();
        }
    };
    viewer.finish();
    progress.clear();
    if let Some(error) = viewer.failed() {
        return match error.kind() {
            // Who has seen enough misses nothing.
            io::ErrorKind::BrokenPipe => Ok(Exit::Success),
            _ => Err(Failure::of_output("standard output", &error)),
        };
    }
    if config.verbosity > Verbosity::Quiet {
        printable::say(&left(viewer.left(), config));
    }
    end.map(|()| Exit::Success).map_err(bad_input)
}

/// What was not shown, in words.
fn left(left: Left, config: &config::Read) -> String {
    let of = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let connections = |n: u64| of(n, "connection", "connections");
    let mut text = String::new();
    let mut say = |line: String| text.push_str(&format!("note: {line}\n"));
    if left.by_filter > 0 {
        say(format!("{} left out by the expression", connections(left.by_filter)));
    }
    if left.undecided > 0 {
        let what = if config.leaves_unknown { "left out" } else { "shown" };
        let n = connections(left.undecided);
        say(format!("{n} {what} although something that the expression asks for is unknown"));
    }
    if left.forgotten > 0 {
        let n = connections(left.forgotten);
        say(format!("{n} ended early, because too many were open at the same time"));
    }
    if left.after_end > 0 {
        let n = of(left.after_end, "byte", "bytes");
        say(format!("{n} after the end of their connection not shown"));
    }
    if left.other_packets > 0 && left.other_packets == left.packets {
        say("none of the packets is TCP".into());
    }
    text
}

/// Makes text of what is read.
fn view(format: config::View, summary: bool) -> Box<dyn View + Send> {
    match (format, summary) {
        (config::View::Json, true) => Box::new(Summary::new(style(), true)),
        (_, true) => Box::new(Summary::new(style(), false)),
        (config::View::Text, false) => Box::new(Text::new(style())),
        (config::View::Json, false) => Box::new(Json::new()),
        (config::View::Hex, false) => Box::new(Hex::new(style())),
    }
}

/// Bytes of each body that are shown, and whether hashes are.
fn limits(format: config::View, body: usize) -> Limits {
    Limits { preview: body, hashes: format == config::View::Json }
}

/// Colours on terminals only, and not where nobody wants them (<https://no-color.org>).
fn style() -> Style {
    let out = io::stdout();
    let is_terminal = out.is_terminal();
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Style {
        is_coloured: is_terminal && !set("NO_COLOR") && !is_dumb,
        width: is_terminal
            .then(|| usize::from(terminal_size::terminal_size_of(&out).map_or(WIDTH, |(width, _)| width.0))),
    }
}

/// Counts what is read.
struct Counted {
    input: Box<dyn Read>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// How far it is, for who waits: on a terminal on which nothing else is written.
struct Progress {
    line: Option<StatusLine<io::Stderr>>,
    len: Option<u64>,
    read: Arc<AtomicU64>,
    began: Instant,
}

impl Progress {
    fn new(config: &config::Read, len: Option<u64>, read: Arc<AtomicU64>) -> Progress {
        let is_wanted =
            config.verbosity > Verbosity::Quiet && (config.summary || !io::stdout().is_terminal());
        let line = if is_wanted { StatusLine::on_terminal() } else { None };
        Progress { line, len, read, began: Instant::now() }
    }

    fn look(&mut self) {
        let Some(line) = &mut self.line else { return };
        let (now, elapsed) = (Instant::now(), self.began.elapsed().as_secs());
        // Short work needs no words.
        if elapsed == 0 || !line.is_due(now) {
            return;
        }
        let read = self.read.load(Ordering::Relaxed);
        let megabytes = |n: u64| n as f64 / 1e6;
        let text = match self.len.filter(|len| *len > 0) {
            Some(len) => {
                let share = (read.saturating_mul(100) / len).min(100);
                let rest = elapsed.saturating_mul(len.saturating_sub(read)) / read.max(1);
                format!("read {share} % of {:.0} MB, {rest} s left", megabytes(len))
            }
            None => format!("read {:.0} MB", megabytes(read)),
        };
        let width = line.width();
        line.update(now, &text, width);
    }

    fn clear(&mut self) {
        if let Some(line) = &mut self.line {
            line.clear();
        }
    }
}
