//! `tls2pcap report`: a capture without secrets, and what there is to say of it, in one file for a bug report.
//!
//! Takes a capture, or makes one that is redacted before it is written; redacts it, takes the connections that are wanted, checks the
//! result, and packs it. Nothing is sent anywhere.

mod filter;
mod summary;

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};
use zip::write::SimpleFileOptions;

use crate::config::{Capture, Filter, Output, Redaction, Report, Source, Verbosity};
use crate::failure::{Exit, Failure};
use crate::printable;
use crate::redact::{self, Engine};
use crate::rewrite::seen::Seen;
use crate::rewrite::select::{Taken, select};
use crate::rewrite::{self, Outcome};
use crate::{capture, doctor, privilege};

use self::summary::Summary;

/// What issue trackers take at most: GitHub takes 25 MB.
const SIZE_MAX: u64 = 25_000_000;

/// Makes the bundle.
///
/// # Errors
/// A [`Failure`] for the user. Then there is no bundle.
pub fn run(config: &Report) -> Result<Exit, Failure> {
    // What is wrong with the rules shows before anything is captured.
    privilege::as_user(|| rewrite::engine(&config.redaction))?;
    let room = privilege::as_user(|| tempfile::Builder::new().prefix("tls2pcap-report-").tempdir());
    let room = room.map_err(|error| unwritable("a temporary folder", &error))?;
    let config = &privilege::as_user(|| with_key(config, &room))?;
    let engine = privilege::as_user(|| rewrite::engine(&config.redaction))?;
    let (input, is_live) = match &config.source {
        Source::File(path) => (path.clone(), false),
        Source::Capture(capture) => (captured(capture, &config.redaction, &room)?, true),
    };
    let made = privilege::as_user(|| make(config, engine, &input, &room))?;
    let doctor = doctor::of(&made.pids())?;
    privilege::as_user(|| pack(config, &made, &cleaned(&doctor, &config.redaction)?, is_live))?;
    Ok(Exit::Success)
}

/// With a key, if there is none: the same name is to have the same pseudonym in all that is in the bundle.
fn with_key(config: &Report, room: &TempDir) -> Result<Report, Failure> {
    let mut config = config.clone();
    if config.redaction.key.is_none() {
        let path = room.path().join("key");
        let written = private(&path)?.write_all(&rewrite::fresh_key()?);
        written.map_err(|error| unwritable(path.display(), &error))?;
        config.redaction.key = Some(path);
    }
    Ok(config)
}

fn unwritable(name: impl std::fmt::Display, error: &io::Error) -> Failure {
    Failure::of_output(name, error)
}

/// Captures, redacted, into a file in `room`.
fn captured(config: &Capture, redaction: &Redaction, room: &TempDir) -> Result<PathBuf, Failure> {
    let path = room.path().join("live.pcapng");
    let config = Capture {
        output: Some(Output::File(path.clone())),
        redact: Some(redaction.clone()),
        is_interim: true,
        ..config.clone()
    };
    // That the command failed is what the report is about.
    capture::run(&config)?;
    Ok(path)
}

/// What goes into a bundle.
struct Made {
    capture: PathBuf,
    name: &'static str,
    seen: Seen,
    taken: Taken,
    kinds: Vec<(redact::Kind, u64)>,
    damage: Option<String>,
    /// The mark of its rules.
    mark: String,
}

impl Made {
    fn pids(&self) -> Vec<u32> {
        let flows = self.taken.streams.keys().filter_map(|flow| self.seen.flows.get(*flow));
        flows.filter_map(|flow| flow.about.get("pid")?.parse().ok()).collect()
    }
}

fn make(config: &Report, engine: Engine, input: &Path, room: &TempDir) -> Result<Made, Failure> {
    let name = if input.as_os_str() == "-" { "standard input".into() } else { input.display().to_string() };
    let bad_input = |error: io::Error| {
        Failure::new(Exit::Io, format!("{name}: {error}"), "give a capture that tls2pcap or tcpdump wrote")
    };
    let source: Box<dyn Read> = match input.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(input).map_err(bad_input)?),
    };
    let whole = room.path().join("whole");
    let mark = engine.rules().mark();
    let mut out = BufWriter::with_capacity(1 << 20, private(&whole)?);
    let outcome = rewrite::observe(source, engine, |bytes| out.write_all(bytes)).map_err(bad_input)?;
    out.flush().map_err(|error| unwritable(whole.display(), &error))?;
    let Outcome { kinds, mut seen, is_classic, damage } = outcome;
    seen.finish();
    let wanted = pseudonyms(&config.filter, &config.redaction)?;
    let chosen = filter::choose(&wanted, &seen, is_classic)?;
    let is_part = chosen.iter().any(|wanted| !wanted) || !config.filter.is_empty();
    if chosen.iter().all(|wanted| !wanted) && is_part {
        return Err(Failure::new(
            Exit::Usage,
            format!("{name}: none of {} connections is selected", seen.flows.len()),
            filter::hint(&config.filter, &seen),
        ));
    }
    let capture = room.path().join("capture");
    let mut out = BufWriter::with_capacity(1 << 20, private(&capture)?);
    let keeps = |flow: Option<usize>| match flow {
        Some(flow) => chosen.get(flow).copied().unwrap_or(!is_part),
        None => !is_part,
    };
    let again = File::open(&whole).map_err(bad_input)?;
    let taken = select(again, &seen, keeps, is_part, |bytes| out.write_all(bytes));
    let taken = taken.map_err(|error| unwritable(capture.display(), &error))?;
    out.flush().map_err(|error| unwritable(capture.display(), &error))?;
    let _ = std::fs::remove_file(&whole);
    check(&capture, &config.redaction)?;
    let name = if is_classic { "capture.pcap" } else { "capture.pcapng" };
    Ok(Made { capture, name, seen, taken, kinds, damage, mark })
}

/// A filter that knows hosts by their pseudonyms too, as they are in the capture now.
fn pseudonyms(filter: &Filter, redaction: &Redaction) -> Result<Filter, Failure> {
    let mut engine = rewrite::engine(redaction)?;
    let mut filter = filter.clone();
    if engine.rules().have_pseudonyms() {
        let own = filter.hosts.iter().map(|host| {
            let mut bytes = host.as_bytes().to_vec();
            redact::host(&mut engine, &mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let own: Vec<String> = own.collect();
        filter.hosts.extend(own);
    }
    Ok(filter)
}

/// A file that nobody else reads.
fn private(path: &Path) -> Result<File, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| unwritable(path.display(), &error))
}

/// Looks for secrets in what is to be given away.
fn check(path: &Path, redaction: &Redaction) -> Result<(), Failure> {
    let file = File::open(path).map_err(|error| unwritable(path.display(), &error))?;
    let engine = rewrite::engine(redaction)?;
    let outcome = rewrite::observe(file, engine, |_| Ok(()));
    let outcome = outcome.map_err(|error| unwritable(path.display(), &error))?;
    if outcome.kinds.is_empty() {
        return Ok(());
    }
    let kinds: Vec<String> = outcome.kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    Err(Failure::new(
        Exit::Secrets,
        format!(
            "the check found something in the redacted capture, so no bundle was written: {}",
            kinds.join(", ")
        ),
        "this is a bug in tls2pcap, or the capture is damaged: try --level shape, or leave the connection out",
    ))
}

/// Text that comes from this machine, without secrets.
fn cleaned(text: &str, redaction: &Redaction) -> Result<String, Failure> {
    let mut engine = rewrite::engine(redaction)?;
    let mut bytes = text.as_bytes().to_vec();
    redact::note(&mut engine, &mut bytes);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn pack(config: &Report, made: &Made, doctor: &str, is_live: bool) -> Result<(), Failure> {
    let failed = |error: &io::Error| unwritable(config.output.display(), error);
    let folder = config.output.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(|error| failed(&error))?;
    let summary = Summary { made, is_live, filter: &config.filter };
    let text = summary.text();
    let zipped = write_zip(file.as_file_mut(), made, doctor, &text);
    zipped.map_err(|error| failed(&error))?;
    let size = file.as_file().metadata().map_or(0, |metadata| metadata.len());
    file.persist(&config.output).map_err(|error| failed(&error.error))?;
    if config.verbosity > Verbosity::Quiet {
        printable::say(&summary.line());
        printable::say(&format!(
            "{} written, {:.1} MB: the check found no secret in it; read summary.md before you publish it\n",
            config.output.display(),
            size as f64 / 1e6
        ));
    }
    if size > SIZE_MAX {
        printable::say(&format!(
            "tls2pcap: the bundle is larger than the 25 MB that most issue trackers take\n  {}\n",
            summary.how_to_shrink()
        ));
    }
    Ok(())
}

fn write_zip(file: &mut File, made: &Made, doctor: &str, summary: &str) -> io::Result<()> {
    let mut zip = zip::ZipWriter::new(BufWriter::new(file));
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .large_file(made.capture.metadata()?.len() > u64::from(u32::MAX) / 2)
        .unix_permissions(0o644);
    zip.start_file("summary.md", options)?;
    zip.write_all(summary.as_bytes())?;
    zip.start_file("replaced.tsv", options)?;
    zip.write_all(summary::places(&made.taken).as_bytes())?;
    zip.start_file("doctor.json", options)?;
    zip.write_all(doctor.as_bytes())?;
    zip.start_file(made.name, options)?;
    io::copy(&mut File::open(&made.capture)?, &mut zip)?;
    let mut out = zip.finish()?;
    out.flush()?;
    out.rewind()
}
