//! `tls2pcap redact`: writes a capture file anew without its secrets, or says where they are.
//!
//! Blocks, packets, lengths, times and order stay. `input` reads, `tracker` hands
//! them to [`crate::redact`] and puts back what comes, `metadata` looks after all that is no packet.

mod addresses;
mod lane;
mod metadata;
mod report;
mod rules;
pub(crate) mod seen;
pub(crate) mod select;
mod tracker;

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use self::report::Report;
use self::seen::Seen;
use self::tracker::Tracker;
use crate::config::{Output, Redact, Verbosity};
use crate::failure::{Exit, Failure};
use crate::input::container::{PACKET, ReadError, Reader, SECTION};
use crate::printable;
use crate::redact::{self, Engine, Kind};
use crate::sink;

pub(crate) use self::rules::fresh_key;
pub use self::rules::{engine, live_engine};

/// What is written at once.
const WRITE_AT: usize = 1 << 20;

/// Of the header of classic pcap, bytes that readers must ignore (draft-ietf-opsawg-pcap: Reserved2).
const BRAND: Range<usize> = 12..16;

/// Redacts, or checks.
///
/// # Errors
/// A [`Failure`] for the user. If the input is damaged, what came before the damage is written.
pub fn run(config: &Redact) -> Result<Exit, Failure> {
    let rules = rules::rules(&config.redaction)?;
    let name = match config.input.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => config.input.display().to_string(),
    };
    let bad_input = |error: ReadError| {
        let cure = match error {
            ReadError::Io(_) => "give a file that can be read",
            ReadError::Format => "give a file that tls2pcap or tcpdump has written",
            ReadError::Cut(_) | ReadError::Damaged(_) => {
                "what came before is done; get the file anew, if it is a copy"
            }
        };
        Failure::new(Exit::Io, format!("{name}: {error}"), cure)
    };
    if let Some(Output::File(path)) = &config.output
        && sink::is_same_file(&config.input, path)
    {
        return Err(Failure::new(Exit::Usage, "the capture would be overwritten", "give -o another name"));
    }
    let input: Box<dyn Read> = match config.input.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&config.input).map_err(|error| bad_input(error.into()))?),
    };
    let mut reader = Reader::new(input).map_err(bad_input)?;
    let mark = rules.mark();
    let report = Report::new(config.output.is_none());
    let mut tracker = Tracker::new(Engine::new(rules), report);
    let mut out = match &config.output {
        Some(output) => Some(Writer::create(output, config, &reader)?),
        None => None,
    };
    let end = rewrite(&mut reader, &mut tracker, &mark, &mut |bytes| {
        if let Some(out) = &mut out {
            out.write(bytes);
        }
    });
    let written = match out {
        Some(out) => out.finish(),
        None => Ok(()),
    };
    let report = tracker.report();
    if config.output.is_some() && config.verbosity > Verbosity::Quiet {
        printable::say(&report.summary());
        if reader.is_classic() {
            printable::say(
                "classic pcap says only to tls2pcap that it is redacted: editcap makes pcapng of it\n",
            );
        }
    }
    written?;
    let mut exit = Exit::Success;
    if config.output.is_none() {
        exit = check(report, config)?;
    }
    match end {
        Ok(()) => Ok(exit),
        Err(error) => Err(bad_input(error)),
    }
}

/// What became of a file.
pub(crate) struct Outcome {
    /// What was replaced: its kind, whether it was masked whole, how often.
    pub(crate) kinds: Vec<(Kind, u64)>,
    /// What is in the file.
    pub(crate) seen: Seen,
    /// It holds packets and nothing else.
    pub(crate) is_classic: bool,
    /// Why it was not read to its end.
    pub(crate) damage: Option<String>,
}

/// Redacts a capture and remembers what is in it. Without `write`, it is a check.
///
/// # Errors
/// If the input cannot be read at all, with its reason.
pub(crate) fn observe(
    input: impl Read + 'static,
    engine: Engine,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Outcome, io::Error> {
    let mut reader = Reader::new(input).map_err(|error| io::Error::other(error.to_string()))?;
    let mark = engine.rules().mark();
    let mut tracker = Tracker::new(engine, Report::new(false));
    tracker.observe();
    let mut failed = None;
    let mut put = |bytes: &[u8]| {
        if failed.is_none() {
            failed = write(bytes).err();
        }
    };
    let damage = rewrite(&mut reader, &mut tracker, &mark, &mut put).err().map(|error| error.to_string());
    match failed {
        Some(error) => Err(error),
        None => Ok(Outcome {
            kinds: tracker.report().kinds(),
            seen: tracker.take_seen(),
            is_classic: reader.is_classic(),
            damage,
        }),
    }
}

/// Says what a check found.
fn check(report: &mut Report, config: &Redact) -> Result<Exit, Failure> {
    if report.is_clean() {
        if config.verbosity > Verbosity::Quiet {
            printable::say("no secret found\n");
        }
        return Ok(Exit::Success);
    }
    let places = report.places();
    match io::stdout().write_all(places.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::of_output("standard output", &error));
        }
        _ => {}
    }
    if config.verbosity > Verbosity::Quiet {
        match report.unnamed() {
            0 => {}
            more => printable::say(&format!("and {more} places more\n")),
        }
        printable::say(
            "there are secrets, or what is not understood: tls2pcap redact IN -o OUT takes them out\n",
        );
    }
    Ok(Exit::Secrets)
}

/// All of a file; the error is that of the input.
fn rewrite(
    reader: &mut Reader,
    tracker: &mut Tracker,
    mark: &str,
    write: &mut dyn FnMut(&[u8]),
) -> Result<(), ReadError> {
    let end = loop {
        let item = match reader.next() {
            Ok(Some(item)) => item,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let mut bytes = item.bytes;
        if item.kind == SECTION {
            let rules = tracker.engine().rules();
            let (is_met, is_one_of_several) = match reader.is_classic() {
                true => {
                    let brand = bytes[BRAND].first_chunk().copied().unwrap_or_default();
                    (rules.are_met_by_brand(brand), redact::is_one_of_several(brand))
                }
                false => {
                    let marks = metadata::marks(&bytes, reader.is_big());
                    let is_met = marks.iter().any(|mark| rules.are_met_by(mark));
                    (is_met, metadata::is_one_of_several(&bytes, reader.is_big()))
                }
            };
            if reader.is_classic() {
                let brand = rules.brand(is_one_of_several);
                bytes[BRAND].copy_from_slice(&brand);
            }
            tracker.recognise(is_met, is_one_of_several);
        }
        let found = match reader.is_classic() {
            true => vec![],
            false => metadata::block(tracker.engine(), item.kind, &mut bytes, reader.is_big()),
        };
        match item.packet {
            Some((at, link)) => {
                let missing = !reader.is_classic() && metadata::says_missing(&bytes, at.end);
                let can_say = (item.kind == PACKET && !reader.is_classic()).then_some(reader.is_big());
                tracker.packet((bytes, at, link), (item.time, item.interface), missing, can_say, &found);
            }
            None => {
                if item.kind == SECTION && !reader.is_classic() {
                    metadata::mark(&mut bytes, mark, reader.is_big());
                }
                let kind = (!reader.is_classic()).then_some((item.kind, reader.is_big()));
                tracker.block(bytes, kind, &found);
            }
        }
        tracker.ready(write);
    };
    tracker.finish(write);
    end
}

/// The output, and what is to be written to it.
struct Writer {
    output: sink::OutputFile,
    name: String,
    buffer: Vec<u8>,
    failed: Option<io::Error>,
}

impl Writer {
    fn create(output: &Output, config: &Redact, reader: &Reader) -> Result<Writer, Failure> {
        let (path, name) = match output {
            Output::File(path) => (path.as_path(), path.display().to_string()),
            Output::Stdout => (Path::new("-"), "standard output".into()),
        };
        let format = sink::Format::of(path, sink::Link::default()).unwrap_or_default();
        if *output != Output::Stdout && format.is_classic() != reader.is_classic() {
            let (is, cure) = match reader.is_classic() {
                true => ("classic pcap", "name the output .pcap"),
                false => ("pcapng", "name the output .pcapng"),
            };
            return Err(Failure::new(Exit::Usage, format!("the input is {is}, and stays so"), cure));
        }
        let output = sink::OutputFile::create(path, format.as_it_is());
        let output = output.map_err(|error| Failure::of_output(&name, &error))?;
        if output.is_same_as(&config.input) {
            return Err(Failure::new(
                Exit::Usage,
                "the capture would be appended to itself",
                "send it to another file",
            ));
        }
        // Blocks of pcapng end where packets do; so do the packets of classic pcap, but they are no blocks.
        let output = if reader.is_classic() { output.of_records() } else { output };
        Ok(Writer { output, name, buffer: Vec::with_capacity(WRITE_AT * 2), failed: None })
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
            if self.buffer.len() >= WRITE_AT {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.output.write_all(&self.buffer) {
            self.failed = Some(error);
        }
        self.buffer.clear();
    }

    fn finish(mut self) -> Result<(), Failure> {
        if self.failed.is_none() && !self.buffer.is_empty() {
            self.flush();
        }
        match self.failed {
            // Who has seen enough misses nothing.
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::of_output(&self.name, &error))
            }
            _ => Ok(()),
        }
    }
}
