//! A capture in several files, each of which can be opened alone, and the end of a capture that has reached its
//! limit.
//!
//! [`Files`] takes the blocks of one long pcapng file, as [`super::PcapngWriter`] writes them, and distributes
//! them. Each file has the section header, and the interfaces of the processes with packets in it. `resume`
//! writes what a connection needs that continues from an earlier file. Every packet is in exactly one file.

mod after;
mod block;
mod names;
mod plan;
mod resume;
mod stream;
mod table;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

pub use self::plan::{DiskFull, Names, Plan};

use self::after::After;
use self::block::{Epb, OPTION_APPLE_PROCESS, STATISTICS, Statistics};
use self::resume::Resume;
use super::blocks::{self, PACKET, word};
use super::format::Format;
use super::link::Link;
use super::output::{self, OutputFile};
use crate::privilege;
use crate::synth::comment::Comment;
use crate::track::segment::WallTime;

/// Types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const APPLE_PROCESS: u32 = 0x8000_0001;
const SECOND: u64 = 1_000_000_000;
/// What a block of statistics takes at the end of a file.
const STATISTICS_LEN: u64 = 76;

/// What happened to the files, for the summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Files that were begun.
    pub files: u64,
    /// Of these, files that were deleted or overwritten, because only a limited number is kept.
    pub removed: u64,
    /// Of these, files that were deleted because the disk was full.
    pub for_room: u64,
    /// The last file.
    pub last: Option<PathBuf>,
    /// Connections that were forgotten, since too many were open: in a later file they may begin without a handshake.
    pub forgotten: u64,
}

/// Inside an [`io::Error`] whose kind is `BrokenPipe`: the capture has reached its limit.
#[derive(Debug, thiserror::Error)]
#[error("the capture has reached its limit")]
pub(super) struct Enough {
    /// Packets of the failed write that are in the files.
    pub(super) packets: u64,
}

/// Whether a write failed because the capture has reached its limit.
pub fn is_enough(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Enough>())
}

/// An interface of the whole capture.
struct Interface {
    /// Its block.
    block: Vec<u8>,
    /// Number in this file.
    here: Option<u32>,
}

/// See the module.
pub struct Files {
    plan: Plan,
    template: PathBuf,
    format: Format,
    link: Link,
    out: Option<OutputFile>,
    path: PathBuf,
    /// The name of this file, or that which gets a number.
    base: PathBuf,
    section: Vec<u8>,
    interfaces: Vec<Interface>,
    /// The process blocks of the capture, and their numbers in this file.
    processes: Vec<(Vec<u8>, Option<u32>)>,
    processes_here: u32,
    /// Of the interfaces of this file.
    statistics: Vec<Statistics>,
    /// Blocks to write, and how many of them are packets of the capture.
    pending: Vec<u8>,
    pending_packets: u64,
    /// Packets of the capture in this file, and the time of the first.
    packets: u64,
    began: WallTime,
    /// Number of this file, from 1, and of this among those of one period, from 0.
    number: u64,
    within: u64,
    /// In all files.
    packets_all: u64,
    bytes_before: u64,
    /// Packets of the current write that are in a file.
    taken: u64,
    complete: VecDeque<PathBuf>,
    resume: Resume,
    after: Option<After>,
    /// A file that is still in use, and must not be written over.
    spared: Option<PathBuf>,
    has_enough: bool,
    /// A write failed: nothing more is written.
    has_failed: bool,
    told: Arc<Mutex<Told>>,
}

impl Files {
    /// Files named after `template`. `first` is the first one, if it is already open; otherwise it is opened
    /// with the first packet, whose time is in its name.
    pub fn new(plan: Plan, template: &Path, first: Option<(OutputFile, PathBuf)>, link: Link) -> Files {
        let format = Format::of(template, link).unwrap_or_default();
        let (out, path) = first.map_or((None, PathBuf::new()), |(out, path)| (Some(out), path));
        let after = plan.then.clone().map(After::new);
        let files = Files {
            plan,
            template: template.to_owned(),
            format: out.as_ref().map_or(format, OutputFile::format),
            link,
            out,
            base: path.clone(),
            path,
            section: Vec::new(),
            interfaces: Vec::new(),
            processes: Vec::new(),
            processes_here: 0,
            statistics: Vec::new(),
            pending: Vec::new(),
            pending_packets: 0,
            packets: 0,
            began: 0,
            number: 1,
            within: 0,
            packets_all: 0,
            bytes_before: 0,
            taken: 0,
            complete: VecDeque::new(),
            resume: Resume::default(),
            after,
            spared: None,
            has_enough: false,
            has_failed: false,
            told: Arc::default(),
        };
        files.tell(|told| told.files = 1);
        files
    }

    /// This file is never written over: the recording.
    #[must_use]
    pub fn sparing(mut self, path: Option<&Path>) -> Files {
        self.spared = path.map(Path::to_owned);
        self
    }

    /// The name of the first file, if it begins at `time`.
    pub fn first_name(plan: &Plan, template: &Path, time: WallTime) -> PathBuf {
        names::of(template, plan, 1, 0, time)
    }

    /// What is known of the files, now and later.
    pub fn told(&self) -> Arc<Mutex<Told>> {
        Arc::clone(&self.told)
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        if let Ok(mut told) = self.told.lock() {
            change(&mut told);
            told.last = Some(self.path.clone()).filter(|path| !path.as_os_str().is_empty());
        }
    }

    fn block(&mut self, kind: u32, block: &[u8]) -> io::Result<()> {
        match kind {
            SECTION => {
                self.section = block.to_vec();
                if self.out.is_some() {
                    self.begin();
                }
            }
            INTERFACE => self.interfaces.push(Interface { block: block.to_vec(), here: None }),
            APPLE_PROCESS => self.processes.push((block.to_vec(), None)),
            PACKET => self.packet(block)?,
            STATISTICS => self.final_statistics(block)?,
            _ => self.pending.extend_from_slice(block),
        }
        Ok(())
    }

    /// Writes the beginning of a file.
    fn begin(&mut self) {
        if !self.plan.rotates() {
            return self.pending.extend_from_slice(&self.section);
        }
        let comment = Comment::of_file().with("file", self.number);
        let previous =
            self.complete.back().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
        let comment: String = comment.with_some("previous_file", previous).into();
        self.pending.extend_from_slice(&block::with_comment(&self.section, &comment));
    }

    /// All packets up to this time have been written. So a file whose time is over is complete, without waiting
    /// for a packet that belongs in the next one.
    ///
    /// # Errors
    /// If it cannot be written, or the capture has reached its number of files.
    pub fn settled(&mut self, until: WallTime) -> io::Result<()> {
        if self.out.is_none()
            || self.packets == 0
            || self.has_enough
            || self.has_failed
            || !self.time_is_over(until)
        {
            return Ok(());
        }
        self.taken = 0;
        if self.plan.files_max == Some(self.number) {
            return self.enough();
        }
        let result = self.close(true);
        self.has_failed = result.is_err();
        result
    }

    fn packet(&mut self, block: &[u8]) -> io::Result<()> {
        let epb = Epb(block);
        let time = epb.time();
        if self.out.is_none() {
            self.begin_at(time)?;
        }
        if self.is_due(time, self.cost(&epb)) {
            if self.plan.files_max == Some(self.number) {
                return self.enough();
            }
            self.close(true)?;
            self.next(time)?;
        }
        let size = self.size() + self.cost(&epb);
        if self.plan.bytes_max.is_some_and(|max| self.packets_all > 0 && self.bytes_before + size > max) {
            return self.enough();
        }
        if self.packets == 0 {
            self.began = time;
        }
        if self.plan.rotates() {
            let mut resume = std::mem::take(&mut self.resume);
            let is_needed = resume.packet(&epb, self.link, &mut |made_up| self.put(Epb(made_up)));
            self.resume = resume;
            if !is_needed {
                return Ok(());
            }
        }
        self.put(epb);
        self.packets += 1;
        self.packets_all += 1;
        self.pending_packets += 1;
        if self.plan.packets_max == Some(self.packets_all) { self.enough() } else { Ok(()) }
    }

    /// Opens the first file, or the one after a file that was closed early.
    fn begin_at(&mut self, time: WallTime) -> io::Result<()> {
        if self.packets > 0 {
            return self.next(time);
        }
        self.path = names::of(&self.template, &self.plan, 1, 0, time);
        self.base = self.path.clone();
        self.open()?;
        self.begin();
        Ok(())
    }

    /// Whether the next file begins with a packet of this many bytes.
    fn is_due(&self, time: WallTime, len: u64) -> bool {
        let plan = &self.plan;
        self.packets > 0
            && (plan.packets.is_some_and(|max| self.packets >= max)
                || plan.bytes.is_some_and(|max| self.size() + len > max)
                || self.time_is_over(time))
    }

    /// Whether this time belongs in a later file.
    fn time_is_over(&self, time: WallTime) -> bool {
        let interval = self.plan.interval.map(seconds);
        self.period_is_over(time) || interval.is_some_and(|n| time / n > self.began / n)
    }

    /// Whether this time is beyond [`Plan::seconds`] of this file.
    fn period_is_over(&self, time: WallTime) -> bool {
        self.plan.seconds.is_some_and(|n| time >= self.began.saturating_add(seconds(n)))
    }

    /// Bytes of this file, with those that are still to be written. Of compressed ones the latter count as they are.
    fn size(&self) -> u64 {
        let written = self.out.as_ref().map_or(0, OutputFile::sent);
        written + self.pending.len() as u64 + STATISTICS_LEN * self.statistics.len() as u64
    }

    /// Bytes that a packet adds, with those of its interface if that is new in this file.
    fn cost(&self, epb: &Epb<'_>) -> u64 {
        let id = epb.interface() as usize;
        let new = self.interfaces.get(id).filter(|interface| interface.here.is_none());
        let process = self.processes.get(id).map_or(0, |(block, _)| block.len());
        let interface = new.map_or(0, |new| (new.block.len() + process) as u64 + STATISTICS_LEN);
        epb.0.len() as u64 + interface
    }

    /// A packet, on its interface in this file.
    fn put(&mut self, epb: Epb<'_>) {
        let time = epb.time();
        let here = self.interface(epb.interface(), time);
        let at = self.pending.len();
        self.pending.extend_from_slice(epb.0);
        self.pending[at + 8..at + 12].copy_from_slice(&here.to_le_bytes());
        let process = epb.options().find(|(code, ..)| *code == OPTION_APPLE_PROCESS);
        if let Some((_, place, value)) = process
            && let Some(process) = word(value, 0)
        {
            let here = self.processes.get(process as usize).and_then(|(_, here)| *here).unwrap_or(process);
            self.pending[at + place..at + place + 4].copy_from_slice(&here.to_le_bytes());
        }
        if let Some(statistics) = self.statistics.get_mut(here as usize) {
            statistics.first = statistics.first.min(time);
            statistics.last = statistics.last.max(time);
            statistics.packets += 1;
            statistics.dropped += epb.dropped();
        }
    }

    /// The number of an interface in this file, which has it from now on.
    fn interface(&mut self, id: u32, time: WallTime) -> u32 {
        let Some(interface) = self.interfaces.get_mut(id as usize) else { return id };
        if let Some(here) = interface.here {
            return here;
        }
        let here = self.statistics.len() as u32;
        interface.here = Some(here);
        self.pending.extend_from_slice(&interface.block);
        // The block of its process, which has the same number in the capture.
        if let Some((block, number)) = self.processes.get_mut(id as usize) {
            self.pending.extend_from_slice(block);
            *number = Some(self.processes_here);
            self.processes_here += 1;
        }
        self.statistics.push(Statistics { first: time, last: time, packets: 0, dropped: 0 });
        here
    }

    fn final_statistics(&mut self, block: &[u8]) -> io::Result<()> {
        let id = word(block, 8).unwrap_or(0);
        let says_loss = block.len() > STATISTICS_LEN as usize || block::dropped(block) > 0;
        let known = self.interfaces.get(id as usize).and_then(|interface| interface.here);
        if self.out.is_none() {
            // The last file is already complete, and has everything except what was lost.
            if self.packets > 0 && !says_loss {
                return Ok(());
            }
            // With the time at which they were made, so that a replay gives the same name.
            self.begin_at(Some(Epb(block).time()).filter(|time| *time > 0).unwrap_or_else(now))?;
        }
        if known.is_none() && !says_loss && !self.statistics.is_empty() {
            return Ok(());
        }
        let here = self.interface(id, 0);
        let at = self.pending.len();
        self.pending.extend_from_slice(block);
        self.pending[at + 8..at + 12].copy_from_slice(&here.to_le_bytes());
        Ok(())
    }

    /// The next file, for a packet of this time.
    fn next(&mut self, time: WallTime) -> io::Result<()> {
        self.number += 1;
        // A name by strftime that has not changed since gets a number.
        let base = names::of(&self.template, &self.plan, self.number, 0, time);
        self.within = if self.period_is_over(time) && base != self.base { 0 } else { self.within + 1 };
        self.base = base;
        self.path = names::of(&self.template, &self.plan, self.number, self.within, time);
        self.make_room();
        self.open()?;
        self.packets = 0;
        self.interfaces.iter_mut().for_each(|interface| interface.here = None);
        self.processes.iter_mut().for_each(|process| process.1 = None);
        self.processes_here = 0;
        self.statistics.clear();
        self.resume.next_file();
        self.begin();
        let forgotten = self.resume.forgotten();
        self.tell(|told| {
            told.files += 1;
            told.forgotten = forgotten;
        });
        Ok(())
    }

    /// Only this many files are kept.
    fn make_room(&mut self) {
        let same = self.complete.iter().position(|path| *path == self.path);
        if let Some(at) = same {
            self.complete.remove(at);
            self.tell(|told| told.removed += 1);
        }
        while self.plan.keep.is_some_and(|keep| self.complete.len() as u64 >= keep) && self.drop_oldest() {
            self.tell(|told| told.removed += 1);
        }
    }

    /// Deletes the oldest complete file; `false` if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.complete.pop_front() else { return false };
        // It may have been moved, for example by -z, and then does not count.
        let _ = std::fs::remove_file(&oldest);
        true
    }

    fn open(&mut self) -> io::Result<()> {
        if self.spared.as_ref().is_some_and(|spared| output::is_same_file(spared, &self.path)) {
            let message = format!("{} is the recording, and would be overwritten", self.path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let output = privilege::as_user(|| OutputFile::create(&self.path, self.format))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))?;
        if self.plan.rotates() && output.is_live() {
            let message =
                format!("{} is not a regular file, so no further file can follow it", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        output.give_to_user();
        self.out = Some(output);
        self.tell(|_| ());
        Ok(())
    }

    /// Ends this file. `with_statistics`: those of this file, because those of the capture are still unknown.
    fn close(&mut self, with_statistics: bool) -> io::Result<()> {
        if self.out.is_none() {
            return Ok(());
        }
        if with_statistics {
            for (id, statistics) in self.statistics.iter().enumerate() {
                self.pending.extend_from_slice(&block::statistics(id as u32, statistics));
            }
        }
        self.flush_pending()?;
        self.bytes_before += self.out.take().map_or(0, |out| out.sent());
        if self.plan.rotates() {
            self.complete.push_back(self.path.clone());
        }
        if let Some(after) = &self.after {
            after.file(self.path.clone());
        }
        Ok(())
    }

    fn flush_pending(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let (Some(out), false) = (&mut self.out, rest.is_empty()) {
            let Err(error) = out.write_all(rest) else { break };
            let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            rest = rest.get(output::taken_before(&error)..).unwrap_or_default();
            let may_drop = is_full && self.plan.disk_full == DiskFull::DropOldest;
            if !may_drop || !self.drop_oldest() {
                // Some of the packets that were written are synthetic: report no more than were to be written.
                self.taken += output::packets_before(&error).min(self.pending_packets);
                return Err(output::partly(error, self.taken));
            }
            self.tell(|told| told.for_room += 1);
        }
        self.taken += std::mem::take(&mut self.pending_packets);
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    fn enough(&mut self) -> io::Result<()> {
        self.close(true)?;
        self.has_enough = true;
        Err(self.has_enough_error())
    }

    fn has_enough_error(&self) -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, Enough { packets: self.taken })
    }
}

impl Write for Files {
    /// All of `blocks`, whole blocks of pcapng, or an error.
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        self.taken = 0;
        if self.has_enough {
            return Err(self.has_enough_error());
        }
        if self.has_failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        let mut result = Ok(());
        for (kind, block) in blocks::each(blocks) {
            result = self.block(kind, block);
            if result.is_err() {
                break;
            }
        }
        let result = result.and_then(|()| self.flush_pending());
        self.has_failed = result.is_err();
        result.map(|()| blocks.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A write error was reported when it happened.
        let _ = self.close(false);
    }
}

/// In ns.
fn seconds(n: u64) -> u64 {
    n.saturating_mul(SECOND)
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
