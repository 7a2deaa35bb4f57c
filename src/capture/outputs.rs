//! The outputs of a capture: files, standard output, clients, the terminal, the recording.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::Say;
use super::target_pids::TargetPids;
use crate::config::{self, Capture, Verbosity};
use crate::event::recording::Recorder;
use crate::failure::{Exit, Failure};
use crate::pipeline::NotRecorded;
use crate::read::LiveView;
use crate::sink;
use crate::sink::Whereabouts;

/// Opens the output, or the first of several files, and gives its name.
pub(super) fn open_output(config: &Capture) -> Result<Option<(sink::OutputFile, PathBuf)>, Failure> {
    let path = match &config.output {
        Some(config::Output::File(path)) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            sink::Files::first_name(&config.files, path, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
        }
        Some(config::Output::Stdout) => PathBuf::from("-"),
        None => return Ok(None),
    };
    let output = sink::OutputFile::create(&path, format(&path, config.link))
        .map_err(|error| write_failure(config, &error))?;
    if config.files.rotates() && output.is_live() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{} is not a regular file, so no further file can follow it", path.display()),
            "leave out -C, -G and -b, or name a file",
        ));
    }
    output.give_to_user();
    Ok(Some((output, path)))
}

/// Deals packets out to files, if there is anything to be dealt out or counted.
pub(crate) fn sink(
    plan: &sink::Plan,
    template: Option<&Path>,
    opened: Option<(sink::OutputFile, PathBuf)>,
    link: sink::Link,
    recording: Option<&Path>,
) -> (Option<sink::Sink>, Option<Arc<Mutex<sink::rotate::Told>>>) {
    if *plan == sink::Plan::default() {
        return (opened.map(|(output, _)| sink::Sink::One(output)), None);
    }
    let files = sink::Files::new(plan.clone(), template.unwrap_or(Path::new("-")), opened, link);
    let files = files.sparing(recording);
    let told = plan.rotates().then(|| files.told());
    (Some(sink::Sink::Many(Box::new(files))), told)
}

/// Listens for clients, and waits for the first if there is no other output.
pub(super) fn listen(
    config: &Capture,
    address: SocketAddr,
    target_pids: &TargetPids,
    say: &Say,
) -> Result<sink::Server, Failure> {
    let server = sink::Server::listen(address, say.0 > Verbosity::Quiet).map_err(|error| {
        Failure::new(
            Exit::Io,
            format!("{address}: cannot listen: {error}"),
            "give --pcap-over-ip a free port, without an address or with one of this machine",
        )
    })?;
    let address = server.address();
    if !address.ip().is_loopback() {
        say.warn(&format!(
            "anyone who can reach {address} can read the plaintext: there is no encryption and no password"
        ));
    }
    let begins = if config.output.is_none() { "; the capture begins then" } else { "" };
    say.warn(&format!("connect with: wireshark -k -i TCP@{address}{begins}"));
    if config.output.is_none() {
        while !server.wait_for_client() {
            target_pids.gone().map_or(Ok(()), Err)?;
        }
    }
    Ok(server)
}

/// Begins to show messages, if requested.
pub(super) fn view(config: &Capture) -> Result<Option<LiveView>, Failure> {
    let is_alone = config.output.is_none() && config.serve.is_none();
    config
        .show
        .map(|show| LiveView::begin(show, is_alone))
        .transpose()
        .map_err(|error| Failure::new(Exit::Io, format!("messages cannot be shown: {error}"), "leave out -f"))
}

pub(super) fn write_failure(config: &Capture, error: &io::Error) -> Failure {
    let recording = config.record.as_ref().filter(|_| NotRecorded::is_in(error));
    if let Some(path) = recording {
        return recording_failure(path, error);
    }
    match &config.output {
        Some(config::Output::File(path)) => Failure::of_output(path.display(), error),
        Some(config::Output::Stdout) | None => Failure::new(
            Exit::Io,
            format!("standard output: cannot be written: {error}"),
            "send it to a file or a program: tls2pcap -o - | wireshark -k -i -",
        ),
    }
}

fn recording_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Io,
        format!("{}: the recording cannot be written: {error}", path.display()),
        "choose another file with --record",
    )
}

/// Writes the recording.
type BoxedRecorder = Recorder<Box<dyn Write + Send>>;

pub(super) fn open_recorder(
    config: &Capture,
) -> Result<(Option<BoxedRecorder>, Option<Whereabouts>), Failure> {
    let Some(path) = &config.record else { return Ok((None, None)) };
    let failed = |error: io::Error| recording_failure(path, &error);
    // The capture file is there by now.
    if is_output(config, path) {
        return Err(Failure::new(
            Exit::Usage,
            "--record and -o name the same file",
            "give them different names",
        ));
    }
    let mut output = sink::OutputFile::create(path, sink::Format::default()).map_err(failed)?.of_records();
    output.give_to_user();
    let whereabouts = output.take_whereabouts();
    let buffered: Box<dyn Write + Send> = Box::new(BufWriter::with_capacity(256 << 10, output));
    let recorder = Recorder::new(buffered).map_err(failed)?;
    Ok((Some(recorder), whereabouts))
}

/// Whether a path leads to the capture file.
fn is_output(config: &Capture, path: &Path) -> bool {
    matches!(&config.output, Some(config::Output::File(output)) if sink::is_same_file(path, output))
}

pub(super) fn tell_ready(config: &Capture) -> Result<(), Failure> {
    if let Some(path) = &config.ready_file {
        let is_recording = config.record.as_ref().is_some_and(|record| sink::is_same_file(path, record));
        if is_recording || is_output(config, path) {
            return Err(Failure::new(
                Exit::Usage,
                "--ready-file names a file that the capture is written to",
                "give them different names",
            ));
        }
        sink::write_public(path, "ready\n").map_err(|error| {
            Failure::new(
                Exit::Io,
                format!("{}: cannot be written: {error}", path.display()),
                "choose another --ready-file",
            )
        })?;
    }
    if let Some(fd) = config.ready_fd {
        // SAFETY: the user gave us this descriptor to write to and to close; `keep_from_command`
        // has found it open, and nothing else here uses it.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.write_all(b"ready\n").map_err(|error| {
            Failure::new(
                Exit::Io,
                format!("descriptor {fd}: cannot be written: {error}"),
                "give --ready-fd a descriptor that is open for writing",
            )
        })?;
    }
    Ok(())
}

/// The format of a capture file. The command line has no names that promise another one.
pub(crate) fn format(path: &Path, link: sink::Link) -> sink::Format {
    sink::Format::of(path, link).unwrap_or_default()
}
