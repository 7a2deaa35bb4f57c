//! The command line: arguments to [`Config`].

mod arguments;
mod capture;
mod choices;
mod files;
mod rules;
mod selection;
mod show;
mod targets;
mod tips;
mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use self::arguments::{Arguments, Sub};
use self::files::FileOptions;
use crate::config::{self, Capture, Config, Output, Read, Redact, Replay, Verbosity, View};
use crate::extcap;
use crate::failure::{Exit, Failure};
use crate::{sink, synth};

const SHORT_USAGE: &str = "\
tls2pcap shows what programs really send and receive over TLS, as a capture file for Wireshark.

  sudo tls2pcap -o FILE -- COMMAND...   capture a command
  sudo tls2pcap -o FILE -p PID          capture a running process
  sudo tls2pcap -o FILE --all           capture every program that uses TLS
  tls2pcap --help                       all options, examples, exit status
";

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
        // If standard error cannot be written, nothing can be reported.
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
            if summary && (matches!(format, View::Hex) || body.is_given()) {
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
                    "the bundle needs a separate file",
                    "give -o another name, such as bundle.zip",
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
                usage("there is no expression to explain", "give one: tls2pcap -d port 443 and not comm curl")
            })?;
            Ok(Config::Explain(filter.explained()))
        }
        None => Ok(Config::Capture(capture::capture(parsed, dashes)?)),
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
        let cure = "name a capture file, or what to capture: -p PID, or -- COMMAND";
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

/// A call by Wireshark, which shows the user one sentence of standard error.
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

/// A word that no filter begins with, if the command line has one: clap's message about what follows it would
/// not help.
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
    ports: synth::Ports,
    fail_on_loss: bool,
    quiet: bool,
) -> Result<Replay, Failure> {
    if input == output {
        return Err(usage("the recording would be overwritten by the capture file", "give -o another name"));
    }
    let output = output_of(output)?;
    let (files, duration) = files.checked(Some(&output), None)?;
    if duration.is_some() {
        return Err(usage(
            "a recording is replayed completely, without -a duration:",
            "give -c or --max-bytes",
        ));
    }
    Ok(Replay {
        input,
        output,
        files,
        selection: Default::default(),
        redact: None,
        ports,
        framing: synth::Carrier::Plain,
        link: sink::Link::default(),
        fail_on_loss,
        process_blocks: false,
        comments: sink::Comments::default(),
        verbosity: verbosity(quiet, false),
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
