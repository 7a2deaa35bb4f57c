//! Writes a capture file again from a recording: everything after the ring, without privileges.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use memmap2::Mmap;

use crate::capture::{format, sink_of};
use crate::config::{Output, Replay, Verbosity};
use crate::event::recording::{Player, RecordingError};
use crate::failure::{Exit, Failure};
use crate::kept::Kept;
use crate::outlets::Outlets;
use crate::pipeline::Pipeline;
use crate::status::{Cut, Numbers};
use crate::{rewrite, sink};

/// Replays a recording.
///
/// # Errors
/// A [`Failure`] for the user. If the recording is damaged, what came before the damage is written.
pub fn run(config: &Replay) -> Result<Exit, Failure> {
    let began = Instant::now();
    let bad_input = |error: RecordingError| {
        let cure = match error {
            RecordingError::NotARecording => "give a file that tls2pcap --record wrote",
            RecordingError::CutShort | RecordingError::Damaged(_) => {
                "what came before is written; if the recording is a copy, copy it again"
            }
        };
        Failure::new(Exit::Io, format!("{}: {error}", config.input.display()), cure)
    };
    if let Output::File(path) = &config.output
        && sink::is_same_file(&config.input, path)
    {
        let message = "the recording would be overwritten by the capture file";
        return Err(Failure::new(Exit::Usage, message, "give -o another name"));
    }
    let recording = read(&config.input).map_err(|error| {
        Failure::new(Exit::Io, format!("{}: {error}", config.input.display()), "give a file that can be read")
    })?;
    let mut player = Player::new(recording).map_err(bad_input)?;
    let (path, name) = match &config.output {
        Output::File(path) => (path.as_path(), path.display().to_string()),
        Output::Stdout => (Path::new("-"), "standard output".into()),
    };
    let bad_output = |error: io::Error| Failure::of_output(&name, &error);
    let engine = config
        .redact
        .as_ref()
        .map(|redaction| rewrite::live_engine(redaction, &config.selection))
        .transpose()?;
    let format = format(path, config.link);
    // The first of several files is named after its first packet.
    let mut output = match config.files.rotates() {
        true => None,
        false => Some(sink::OutputFile::create(path, format).map_err(bad_output)?),
    };
    if output.as_ref().is_some_and(|output| output.is_same_as(&config.input)) {
        let message = "the capture file would be appended to the recording";
        return Err(Failure::new(Exit::Usage, message, "send it to another file"));
    }
    let kept = Kept::new(output.as_mut().and_then(sink::OutputFile::take_whereabouts), None);
    let opened = output.map(|output| (output, path.to_owned()));
    let (sink, files) = sink_of(&config.files, Some(path), opened, config.link, Some(&config.input));
    let mut pipeline = Pipeline::new(Outlets { file: sink, server: None, view: None }, config.ports, None)
        .with_process_blocks(config.process_blocks)
        .with_carrier(config.framing)
        .with_link(config.link)
        .with_comments(config.comments)
        .with_redaction(engine)
        .with_selection(config.selection.clone())
        .with_settled(Outlets::settled)
        .gathering(format.is_compressed());
    let (mut numbers, damage, failed) = match play(&mut player, &mut pipeline) {
        Ok(damage) => {
            let numbers = pipeline.numbers();
            let (numbers, is_enough) = match pipeline.finish() {
                Ok(numbers) => (numbers, false),
                Err(error) if sink::is_enough(&error) => (numbers, true),
                Err(error) => return Err(bad_output(error)),
            };
            let cut = if is_enough { Some(Cut::Enough) } else { damage.as_ref().map(|_| Cut::Recording) };
            (Numbers { cut_short: cut, ..numbers }, damage, None)
        }
        Err(error) if sink::is_enough(&error) => {
            (Numbers { cut_short: Some(Cut::Enough), ..pipeline.give_up() }, None, None)
        }
        // Who has seen enough misses nothing.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            let numbers = Numbers { cut_short: Some(Cut::Reader), ..pipeline.give_up() };
            (numbers, None, None)
        }
        Err(error) => {
            (Numbers { cut_short: Some(Cut::Output), ..pipeline.give_up() }, None, Some(bad_output(error)))
        }
    };
    numbers.files = files.and_then(|told| told.lock().map(|told| told.clone()).ok());
    let file = (config.output != Output::Stdout).then_some(path);
    let kept = kept.summarise(&numbers, began.elapsed(), file, config.verbosity > Verbosity::Quiet);
    if let Some(failure) = failed {
        return Err(failure);
    }
    kept?;
    let exit = Exit::Success.or_loss(config.fail_on_loss && numbers.has_lost());
    damage.map_or(Ok(exit), |error| Err(bad_input(error)))
}

/// Plays all there is; gives what is wrong with the recording.
fn play(player: &mut Player, pipeline: &mut Pipeline<Outlets>) -> io::Result<Option<RecordingError>> {
    let damage = loop {
        match player.next_at() {
            Ok(Some(at)) => pipeline.record_within(player.records(), at)?,
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    if pipeline.is_stopped() {
        return Ok(damage);
    }
    pipeline.cut_short()?;
    Ok(damage.or(Some(RecordingError::CutShort)))
}

/// The bytes of a file: mapped if it is a regular file, since recordings are large.
fn read(path: &Path) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > 0 {
        // SAFETY: the mapping is private and only read. A process that truncates the file meanwhile ends this
        // program by SIGBUS, which harms nothing else.
        return Ok(Bytes::from_owner(unsafe { Mmap::map(&file)? }));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
