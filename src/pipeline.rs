//! Everything after the ring, in one line: record → event → track → redact → synth → sink. Live capture and
//! replay both use it, so they give the same bytes.

use std::io::{self, Write};
use std::ops::Range;

use bytes::Bytes;

use crate::event::recording::{Player, Recorder};
use crate::event::{Counters, Event, Missing, ProcessLoss, SORT_TIME, SORT_TIME_LIVE, record};
use crate::losses::{Losses, Shed};
use crate::redact::{Engine, Redactor};
use crate::sink::pcapng::Counts;
use crate::sink::{Comments, Header, Link, PcapngWriter};
use crate::status::{Note, Numbers};
use crate::synth::{Carrier, HOLD_TIME, HOLD_TIME_UNKNOWN, Ports, Selection, Synthesizer};
use crate::track::segment::{Segment, WallTime};
use crate::track::summary::Summary;
use crate::track::{Limits, Tracker};

/// How long packets wait for a compressed file, at most, once they are in order: what is older than a second is to
/// be in it, and samples of the clock are 0.1 s apart.
const GATHER_TIME: u64 = 300_000_000;

/// Bounds the wait in `synth`, and keeps the file less than a second behind.
const _: () = assert!(SORT_TIME >= HOLD_TIME && SORT_TIME + GATHER_TIME <= 800_000_000);
const _: () = assert!(SORT_TIME_LIVE >= HOLD_TIME_UNKNOWN);

/// Inside an [`io::Error`]: it was the recording that could not be written, not the capture file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotRecorded(io::Error);

impl NotRecorded {
    /// Whether this is inside `error`.
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<NotRecorded>())
    }
}

fn not_recorded(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), NotRecorded(error))
}

/// The modules after the ring, in order.
pub struct Pipeline<W: Write> {
    recorder: Option<Recorder<Box<dyn Write + Send>>>,
    tracker: Tracker,
    redactor: Option<Box<Redactor>>,
    synthesizer: Synthesizer,
    output: Destination<W>,
    process_blocks: bool,
    link: Link,
    comments: Comments,
    now: WallTime,
    counters: Counters,
    by_process: Vec<ProcessLoss>,
    /// The last record has come.
    stopped: bool,
    undecodable: u64,
    /// Data records without their payload because this thread was behind.
    shed: Shed,
    /// Each packet is written immediately.
    unbuffered: bool,
    /// See [`gathering`](Self::gathering).
    gathering: bool,
    /// When the output was last written because of the time.
    flushed: WallTime,
    /// See [`with_settled`](Self::with_settled).
    settled: Option<Settled<W>>,
}

/// Tells an output up to which time it has all packets.
type Settled<W> = fn(&mut W, WallTime) -> io::Result<()>;

/// The file's header needs the first event, so the writer begins with it.
enum Destination<W: Write> {
    Waiting(W),
    Open(Box<PcapngWriter<W>>),
    /// The header could not be written.
    Lost,
}

impl<W: Write> Pipeline<W> {
    /// A line that ends in `out`. With `recorder` every record is recorded before it is used.
    pub fn new(out: W, ports: Ports, recorder: Option<Recorder<Box<dyn Write + Send>>>) -> Pipeline<W> {
        Pipeline {
            recorder,
            tracker: Tracker::new(Limits::default()),
            redactor: None,
            synthesizer: Synthesizer::new(ports),
            output: Destination::Waiting(out),
            process_blocks: false,
            link: Link::default(),
            comments: Comments::default(),
            now: 0,
            counters: Counters::default(),
            by_process: Vec::new(),
            stopped: false,
            undecodable: 0,
            shed: Shed::default(),
            unbuffered: false,
            gathering: false,
            flushed: 0,
            settled: None,
        }
    }

    /// See [`PcapngWriter::with_process_blocks`].
    pub fn with_process_blocks(mut self, wanted: bool) -> Pipeline<W> {
        self.process_blocks = wanted;
        self
    }

    /// See [`PcapngWriter::with_link`].
    pub fn with_link(mut self, link: Link) -> Pipeline<W> {
        self.link = link;
        self
    }

    /// Takes secrets out of all that is written.
    pub fn with_redaction(self, engine: Option<Engine>) -> Pipeline<W> {
        Pipeline { redactor: engine.map(|engine| Box::new(Redactor::new(engine))), ..self }
    }

    /// See [`Synthesizer::with_carrier`].
    pub fn with_carrier(mut self, carrier: Carrier) -> Pipeline<W> {
        self.synthesizer = self.synthesizer.with_carrier(carrier);
        self
    }

    /// See [`Synthesizer::with_selection`].
    pub fn with_selection(mut self, selection: Selection) -> Pipeline<W> {
        self.synthesizer = self.synthesizer.with_selection(selection);
        self
    }

    /// See [`PcapngWriter::with_comments`].
    pub fn with_comments(self, comments: Comments) -> Pipeline<W> {
        Pipeline { comments, ..self }
    }

    /// Writes each packet immediately.
    pub fn unbuffered(self) -> Pipeline<W> {
        Pipeline { unbuffered: true, ..self }
    }

    /// Whether to write once a second at most, unless more has come together than is kept: what is
    /// compressed together gets smaller.
    pub fn gathering(self, gathering: bool) -> Pipeline<W> {
        Pipeline { gathering, ..self }
    }

    /// Tells the output, now and then, up to which time it has all packets.
    pub fn with_settled(self, settled: Settled<W>) -> Pipeline<W> {
        Pipeline { settled: Some(settled), ..self }
    }

    /// Takes a batch of records, as [`crate::event::recording::add`] makes it, and gives it back: its
    /// memory can be used again unless some of it is held.
    ///
    /// # Errors
    /// If the capture file or the recording cannot be written.
    pub fn batch(&mut self, batch: Bytes) -> io::Result<Bytes> {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&batch).map_err(not_recorded)?;
        }
        let mut player = Player::batch(batch);
        loop {
            match player.next_at() {
                Ok(Some(at)) => self.record_within(player.records(), at)?,
                Ok(None) => break,
                Err(_) => {
                    self.undecodable += 1;
                    break;
                }
            }
        }
        Ok(player.into_records())
    }

    /// Takes one record, which is not recorded.
    ///
    /// # Errors
    /// If the capture file cannot be written.
    pub fn record(&mut self, record: &Bytes) -> io::Result<()> {
        self.record_within(record, 0..record.len())
    }

    /// Takes the record at offset `at` of `records`, which is not recorded.
    ///
    /// # Errors
    /// If the capture file cannot be written.
    pub fn record_within(&mut self, records: &Bytes, at: Range<usize>) -> io::Result<()> {
        match record::decode_within(records, at) {
            Ok(event) => self.event(event),
            Err(_) => {
                self.undecodable += 1;
                Ok(())
            }
        }
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        match &event {
            Event::Start(start) => {
                self.output = match std::mem::replace(&mut self.output, Destination::Lost) {
                    Destination::Waiting(out) => {
                        let mut header = Header::from(start);
                        if let Some(redactor) = &mut self.redactor {
                            header.comments =
                                header.comments.iter().map(|text| redactor.comment(text)).collect();
                            header.comments.push(redactor.mark());
                        }
                        let show_args = start.show_args && self.redactor.is_none();
                        let writer = PcapngWriter::new(out, &header, show_args)?;
                        let writer = writer.with_process_blocks(self.process_blocks);
                        let writer = writer.with_link(self.link).with_comments(self.comments);
                        let mut writer = writer.with_sort_time(start.sort_time);
                        if self.unbuffered {
                            writer.unbuffered();
                        }
                        Destination::Open(Box::new(writer))
                    }
                    other => other,
                };
            }
            Event::Counters(counters) => self.counters = counters.clone(),
            Event::Losses(losses) => self.by_process = losses.clone(),
            Event::Clock(clock) => self.now = clock.realtime,
            Event::Data(data) if data.missing == Some(Missing::WriterBehind) => {
                self.shed.add(data.handle.process, data.chunk_len);
            }
            _ => {}
        }
        let tick = matches!(event, Event::Clock(_));
        let stop = matches!(event, Event::Stop(_));
        self.stopped |= stop;
        let Destination::Open(writer) = &mut self.output else { return Ok(()) };
        let mut result = Ok(());
        let mut write = |packet: crate::synth::packet::Packet<'_>| {
            if result.is_ok() {
                result = writer.packet(&packet);
            }
        };
        let synthesizer = &mut self.synthesizer;
        match &mut self.redactor {
            None => self.tracker.event(event, &mut |segment| synthesizer.segment(&segment, &mut write)),
            Some(redactor) => {
                let mut on = |segment: Segment| synthesizer.segment(&segment, &mut write);
                self.tracker.event(event, &mut |segment| redactor.segment(segment, &mut on));
                if tick {
                    redactor.tick(self.now, &mut on);
                }
                if stop {
                    redactor.finish(&mut on);
                }
            }
        }
        if tick {
            synthesizer.tick(self.now, &mut write);
        }
        if stop {
            synthesizer.finish(self.now, &mut write);
        }
        result?;
        if stop {
            writer.sort_all()?;
        }
        if tick {
            writer.tick(self.now)?;
            self.flush_recorder()?;
            if !self.gathering || self.now.abs_diff(self.flushed) >= GATHER_TIME {
                self.flushed = self.now;
                self.flush_output()?;
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Whether the last record of a capture has come.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// There are no more records, although the capture continued: writes what waited for them.
    ///
    /// # Errors
    /// If the capture file cannot be written.
    pub fn cut_short(&mut self) -> io::Result<()> {
        // As of the latest time that was heard of.
        self.event(Event::Stop(0))
    }

    /// Brings everything that is buffered to the files; they end at a block border.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.flush_recorder()?;
        self.flush_output()
    }

    fn flush_recorder(&mut self) -> io::Result<()> {
        self.recorder.as_mut().map_or(Ok(()), Recorder::flush).map_err(not_recorded)
    }

    fn flush_output(&mut self) -> io::Result<()> {
        match &mut self.output {
            Destination::Open(writer) => writer.flush(),
            Destination::Waiting(_) | Destination::Lost => Ok(()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        let (Some(settled), Destination::Open(writer)) = (self.settled, &mut self.output) else {
            return Ok(());
        };
        let (until, out) = writer.settled(self.now);
        settled(out, until)
    }

    /// After a write error: what was captured so far goes wherever it still can, and the capture file ends with
    /// it. Returns how much it contains.
    pub fn give_up(mut self) -> Numbers {
        // Later failures do not matter: the first one is reported.
        if let Some(mut recorder) = self.recorder.take() {
            let _ = recorder.flush();
        }
        if !self.stopped {
            let _ = self.cut_short();
        }
        let _ = self.flush();
        let numbers = self.numbers();
        let _ = self.finish();
        numbers
    }

    /// Writes the end of the file, and returns how much was captured.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<Numbers> {
        self.flush()?;
        let summary = self.tracker.summary();
        let losses = self.losses(&summary);
        let numbers = self.numbers();
        let mut statistics = losses.statistics();
        if let Some(redactor) = &mut self.redactor {
            for comment in statistics.iter_mut().flat_map(|entry| &mut entry.comments) {
                *comment = redactor.comment(comment);
            }
        }
        if let Destination::Open(writer) = self.output {
            writer.finish(self.now, &statistics)?;
        }
        Ok(numbers)
    }

    fn losses(&self, summary: &Summary) -> Losses {
        let stats = self.synthesizer.stats();
        Losses::new(&self.counters, &self.by_process, &self.shed, summary, &stats, self.undecodable)
    }

    /// How much was captured so far, and what is missing.
    pub fn numbers(&self) -> Numbers {
        let summary = self.tracker.summary();
        let total = &summary.total;
        let counts = match &self.output {
            Destination::Open(writer) => writer.counts(),
            Destination::Waiting(_) | Destination::Lost => Counts::default(),
        };
        let packets = counts.packets;
        let (lost, mut notes) = self.losses(&summary).told(|key| self.tracker.process(key).name());
        // With -U order was not asked for.
        if !self.unbuffered {
            notes.push(Note::Late { packets: counts.late, by: counts.latest });
        }
        if let Some(redactor) = &self.redactor {
            let of =
                |masked| redactor.kinds().iter().filter(move |(kind, _)| kind.is_masked_whole() == masked);
            let count = |masked| of(masked).map(|(_, n)| n).sum();
            notes.push(Note::Redacted { replaced: count(false), masked: count(true) });
        }
        Numbers {
            processes: summary.processes.len() as u64,
            connections: total.connections,
            bytes: total.read + total.written,
            packets,
            lost,
            notes,
            cut_short: None,
            files: None,
        }
    }
}
