//! The pcapng file: one interface per process, one block per packet.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};

use pcap_file::Endianness;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption as Idb,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption as Isb,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption as Shb};
use pcap_file::pcapng::{Block, PcapNgBlock};

use super::blocks::PACKET;
use super::link::Link;
use super::output;
use super::sorted::Sorted;
use crate::event::{ProcessKey, Start};
use crate::redact;
use crate::synth::comment;
use crate::synth::packet::{Packet, PacketDirection};
use crate::track::segment::{Process, WallTime};

/// Which packets tell what is known of their connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Comments {
    /// Each.
    All,
    /// The first of a connection, and those where there is something new.
    #[default]
    Syn,
    /// None tells anything.
    None,
}

/// Blocks are written once this many bytes have accumulated.
const FLUSH_AT: usize = 256 << 10;

/// Sorted blocks that arrive in one piece of at least this many bytes are written without copying.
const DIRECT_MIN: usize = FLUSH_AT / 2;

/// Longest packet that a reader accepts; Wireshark stops at a longer one.
pub(super) const SNAPLEN: u32 = 262_144;

/// Longest text of an option in bytes (its length field has 16 bits).
const TEXT_MAX: usize = 32_768;

/// Processes with a separate interface. Later ones share one.
const INTERFACES_MAX: usize = 16_384;

/// Comments on the interface of losses of processes without packets.
const REST_MAX: usize = 1024;

const OPTION_COMMENT: u16 = 1;
const OPTION_FLAGS: u16 = 2;
const OPTION_DROPCOUNT: u16 = 4;
/// `epb_queue`: the connection's number, which Wireshark shows as `frame.interface_queue`.
const OPTION_QUEUE: u16 = 6;
/// `epb_processid_threadid`: two u32.
const OPTION_PROCESS: u16 = 8;
/// Apple's process block (pid, then options), which Wireshark 4.6 shows as
/// `frame.darwin.process_info`. Older ones pass over it, and over the option that refers to it.
const BLOCK_APPLE_PROCESS: u32 = 0x8000_0001;
/// In it: the process's name.
const OPTION_APPLE_NAME: u16 = 2;
/// Of a packet: the number of the process's block in the file, from 0.
const OPTION_APPLE_PROCESS: u16 = 0x8001;
/// Bytes of a packet block in addition to packet, padding and options.
const PACKET_FIXED: usize = 32;

/// The file's description of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Tool and version.
    pub application: String,
    /// Kernel name and release.
    pub os: String,
    /// Processor.
    pub hardware: String,
    /// The command line, and anything else to report.
    pub comments: Vec<String>,
}

impl From<&Start> for Header {
    fn from(start: &Start) -> Header {
        let backend = (!start.backend.is_empty()).then(|| format!("socket back end: {}", start.backend));
        let comments = Some(start.command_line.clone()).into_iter().chain(backend);
        Header {
            application: start.application.clone(),
            os: start.os.clone(),
            hardware: start.hardware.clone(),
            comments: comments.filter(|c| !c.is_empty()).collect(),
        }
    }
}

/// What was written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes of the file, what is still in the buffer included.
    pub bytes: u64,
    /// Interfaces, so processes.
    pub interfaces: usize,
    /// Packets that follow later ones.
    pub late: u64,
    /// How late the latest of them is, ns.
    pub latest: u64,
}

/// What is known of a process, or of what belongs to none, at the end of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The process.
    pub process: Option<ProcessKey>,
    /// Data records that were lost.
    pub dropped: u64,
    /// What was lost, and why.
    pub comments: Vec<String>,
}

/// Counts of one interface.
#[derive(Clone, Copy, Debug)]
struct Interface {
    first: WallTime,
    last: WallTime,
    packets: u64,
    dropped: u64,
}

/// Writes packets as pcapng.
///
/// Each write to `W` is one `write_all` of whole blocks, so the file is readable at any moment; call
/// [`flush`](Self::flush) as often as readers should see something new. Packets are put into order of time if
/// [`tick`](Self::tick) reports the time.
pub struct PcapngWriter<W: Write> {
    out: W,
    /// Whole blocks that are not written yet: interfaces, and packets that have their place.
    buffer: PcapNgWriter<Vec<u8>>,
    /// Packets in the buffer.
    buffered: u64,
    /// Packets that wait for their place.
    sorted: Sorted,
    /// How long they wait, ns.
    sort_time: u64,
    interfaces: HashMap<ProcessKey, u32>,
    /// The last process and its interface.
    last: Option<(ProcessKey, u32)>,
    statistics: Vec<Interface>,
    show_args: bool,
    /// See [`FLUSH_AT`].
    flush_at: usize,
    process_blocks: bool,
    link: Link,
    comments: Comments,
    counts: Counts,
    /// Packets that are in the output: not those in the buffer.
    packets_out: u64,
    /// A write failed, so interfaces may be missing: nothing may follow.
    failed: bool,
}

impl<W: Write> PcapngWriter<W> {
    /// Begins a file: its header is written immediately. `show_args`: interface descriptions show secrets in
    /// command lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W, header: &Header, show_args: bool) -> io::Result<PcapngWriter<W>> {
        let text = |text| Cow::Owned(clean(text));
        let mut options = vec![
            Shb::Hardware(text(&header.hardware)),
            Shb::OS(text(&header.os)),
            Shb::UserApplication(text(&header.application)),
        ];
        options.extend(header.comments.iter().map(|c| Shb::Comment(text(c))));
        let section = SectionHeaderBlock { endianness: Endianness::Little, options, ..Default::default() };
        let buffer =
            PcapNgWriter::with_section_header(Vec::with_capacity(FLUSH_AT * 2), section).map_err(other)?;
        let mut writer = PcapngWriter {
            out,
            buffer,
            buffered: 0,
            sorted: Sorted::default(),
            sort_time: 0,
            interfaces: HashMap::new(),
            last: None,
            statistics: Vec::new(),
            show_args,
            flush_at: FLUSH_AT,
            process_blocks: false,
            link: Link::default(),
            comments: Comments::default(),
            counts: Counts::default(),
            packets_out: 0,
            failed: false,
        };
        writer.counts.bytes = writer.buffer.get_ref().len() as u64;
        writer.flush()?;
        Ok(writer)
    }

    /// From now on each packet is written immediately.
    pub fn unbuffered(&mut self) {
        self.flush_at = 0;
    }

    /// Writes a block for each process too, and which one each packet belongs to. To be called before
    /// the first packet. Not by default: mergecap 4.6 drops
    /// the blocks and then warns of each packet.
    pub fn with_process_blocks(mut self, wanted: bool) -> PcapngWriter<W> {
        self.process_blocks = wanted;
        self
    }

    /// Sets the link type. To be called before the first packet.
    pub fn with_link(mut self, link: Link) -> PcapngWriter<W> {
        self.link = link;
        self
    }

    /// Packets wait so long, in ns and up to the next tick, for earlier ones.
    pub fn with_sort_time(self, sort_time: u64) -> PcapngWriter<W> {
        PcapngWriter { sort_time, ..self }
    }

    /// Which packets carry comments.
    pub fn with_comments(self, comments: Comments) -> PcapngWriter<W> {
        PcapngWriter { comments, ..self }
    }

    /// What was written so far. After a write failed, only packets that were written count.
    pub fn counts(&self) -> Counts {
        let packets = if self.failed { self.packets_out } else { self.counts.packets };
        Counts { packets, interfaces: self.statistics.len(), ..self.counts }
    }

    /// Adds a packet, which waits for its place.
    ///
    /// # Errors
    /// Those of the output, if there is too much that waits.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let id = self.interface(packet)?;
        if let Some(interface) = self.statistics.get_mut(id as usize) {
            interface.first = interface.first.min(packet.time);
            interface.last = interface.last.max(packet.time);
            interface.packets += 1;
            interface.dropped += packet.dropped;
        }
        let process_block = (self.process_blocks && (id as usize) < INTERFACES_MAX).then_some(id);
        let late = self.sorted.late(packet.time, packet.after);
        self.counts.late += u64::from(late > 0);
        self.counts.latest = self.counts.latest.max(late);
        let late =
            (late > 0 && self.comments != Comments::None).then(|| comment::late(packet.connection, late));
        // Most packets have no comment.
        let (about, own, calls) = match self.comments {
            Comments::All if packet.comments.iter().all(|c| c != packet.about) => {
                (packet.about, packet.comments, packet.calls)
            }
            Comments::All => ("", packet.comments, packet.calls),
            Comments::Syn => ("", packet.comments, ""),
            Comments::None => ("", &[][..], ""),
        };
        let some = |comment| Some(comment).filter(|c: &&str| !c.is_empty()).into_iter();
        let comments = some(about).chain(own.iter().map(String::as_str)).chain(some(calls));
        let comments = comments.chain(late.as_deref());
        self.counts.packets += 1;
        let (link, bytes) = (self.link, &mut self.counts.bytes);
        self.sorted.add(packet.time.max(packet.after), |blocks| {
            let before = blocks.len();
            packet_block(blocks, id, process_block, link, packet, comments);
            *bytes += (blocks.len() - before) as u64;
        });
        if self.sort_time == 0 {
            self.move_on(|sorted, out| sorted.up_to(WallTime::MAX, out))
        } else if self.sorted.is_full() {
            self.move_on(|sorted, out| sorted.make_room(out))
        } else {
            Ok(())
        }
    }

    /// It is `now`: packets that have waited long enough for earlier ones get their place.
    ///
    /// # Errors
    /// Those of the output.
    pub fn tick(&mut self, now: WallTime) -> io::Result<()> {
        let until = now.saturating_sub(self.sort_time);
        self.move_on(|sorted, out| sorted.tick(now, until, out))
    }

    /// Up to which time all packets are in the output, if it is `now` and everything was flushed; and the output.
    pub fn settled(&mut self, now: WallTime) -> (WallTime, &mut W) {
        (now.saturating_sub(self.sort_time), &mut self.out)
    }

    /// Nothing follows, so all packets are placed.
    ///
    /// # Errors
    /// Those of the output.
    pub fn sort_all(&mut self) -> io::Result<()> {
        self.move_on(|sorted, out| sorted.up_to(WallTime::MAX, out))
    }

    /// Takes the waiting packets that `which` releases.
    fn move_on(&mut self, which: impl FnOnce(&mut Sorted, &mut dyn FnMut(&[u8], u64))) -> io::Result<()> {
        let mut sorted = std::mem::take(&mut self.sorted);
        let mut result = Ok(());
        which(&mut sorted, &mut |blocks, packets| {
            // What follows a failed write is dropped.
            if result.is_ok() {
                result = self.blocks(blocks, packets);
            }
        });
        self.sorted = sorted;
        result
    }

    fn blocks(&mut self, blocks: &[u8], packets: u64) -> io::Result<()> {
        if blocks.len() >= DIRECT_MIN {
            self.flush()?;
            return self.write(blocks, packets);
        }
        let buffer = self.buffer.get_mut();
        buffer.extend_from_slice(blocks);
        self.buffered += packets;
        if buffer.len() >= self.flush_at { self.flush() } else { Ok(()) }
    }

    /// The interface of the packet's process.
    fn interface(&mut self, packet: &Packet<'_>) -> io::Result<u32> {
        let process = packet.process;
        if let Some((key, id)) = self.last
            && key == process.key
        {
            return Ok(id);
        }
        if let Some(id) = self.interfaces.get(&process.key) {
            self.last = Some((process.key, *id));
            return Ok(*id);
        }
        let id = self.statistics.len().min(INTERFACES_MAX);
        let number = u32::try_from(id).map_err(io::Error::other)?;
        if id < INTERFACES_MAX {
            self.interfaces.insert(process.key, number);
        }
        if id == self.statistics.len() {
            let (name, description) = if id < INTERFACES_MAX {
                (process.name(), description(process, self.show_args))
            } else {
                ("others".to_owned(), format!("processes beyond the first {INTERFACES_MAX}"))
            };
            let description = Idb::IfDescription(clean(&description).into());
            let options = vec![Idb::IfName(clean(&name).into()), description, Idb::IfTsResol(9)];
            self.interface_block(options)?;
            let time = packet.time;
            self.statistics.push(Interface { first: time, last: time, packets: 0, dropped: 0 });
            if self.process_blocks && id < INTERFACES_MAX {
                let buffer = self.buffer.get_mut();
                let before = buffer.len();
                process_block(buffer, process);
                self.counts.bytes += (buffer.len() - before) as u64;
            }
        }
        Ok(number)
    }

    fn interface_block(&mut self, options: Vec<Idb<'_>>) -> io::Result<()> {
        self.block(InterfaceDescriptionBlock { linktype: self.link.data_link(), snaplen: SNAPLEN, options })
    }

    fn block<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        let block: Block = block.into_block();
        self.counts.bytes += self.buffer.write_block(&block).map_err(other)? as u64;
        Ok(())
    }

    /// Writes what has accumulated, except what waits for its place.
    ///
    /// # Errors
    /// Those of the output. What was to be written is then dropped, and so is everything that follows.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.buffer.get_ref().is_empty() {
            return Ok(());
        }
        let mut blocks = std::mem::take(self.buffer.get_mut());
        let packets = std::mem::take(&mut self.buffered);
        let result = self.write(&blocks, packets);
        blocks.clear();
        *self.buffer.get_mut() = blocks;
        result
    }

    fn write(&mut self, blocks: &[u8], packets: u64) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        let result = self.out.write_all(blocks).and_then(|()| self.out.flush());
        match &result {
            Ok(()) => self.packets_out += packets,
            Err(error) => self.packets_out += output::packets_before(error),
        }
        self.failed = result.is_err();
        result
    }

    /// Ends the file with a statistics block per interface: packets received and lost, time of the first and
    /// the last, what was lost. `now` is the time of the statistics. Losses of processes without packets are on
    /// a separate interface. A file without packets has one interface too.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self, now: WallTime, told: &[Statistics]) -> io::Result<(W, Counts)> {
        self.sort_all()?;
        let mut of_interface: HashMap<u32, &Statistics> = HashMap::new();
        let mut rest = Statistics::default();
        for entry in told {
            match entry.process.and_then(|key| self.interfaces.get(&key)) {
                Some(id) => drop(of_interface.insert(*id, entry)),
                None => {
                    rest.dropped = rest.dropped.saturating_add(entry.dropped);
                    rest.comments.extend(entry.comments.iter().take(REST_MAX - rest.comments.len()).cloned());
                }
            }
        }
        // libpcap refuses a file without any interface.
        let own = match (rest.comments.is_empty(), self.statistics.is_empty()) {
            (false, _) => Some(("lost", "losses of processes without packets")),
            (true, true) => Some(("none", "no packets were captured")),
            (true, false) => None,
        };
        if let Some((name, description)) = own {
            let description = Idb::IfDescription(description.into());
            let options = vec![Idb::IfName(name.into()), description, Idb::IfTsResol(9)];
            self.interface_block(options)?;
            let id = u32::try_from(self.statistics.len()).map_err(io::Error::other)?;
            self.statistics.push(Interface { first: now, last: now, packets: 0, dropped: 0 });
            of_interface.insert(id, &rest);
        }
        for (id, interface) in std::mem::take(&mut self.statistics).iter().enumerate() {
            let interface_id = u32::try_from(id).map_err(io::Error::other)?;
            let told = of_interface.get(&interface_id);
            let dropped = interface.dropped.max(told.map_or(0, |told| told.dropped));
            let mut options = vec![
                Isb::IsbStartTime(halves(interface.first)),
                Isb::IsbEndTime(halves(interface.last)),
                Isb::IsbIfRecv(interface.packets + dropped),
                Isb::IsbIfDrop(dropped),
            ];
            options.extend(told.iter().flat_map(|told| &told.comments).map(|c| Isb::Comment(cut(c).into())));
            self.block(InterfaceStatisticsBlock { interface_id, timestamp: halves(now), options })?;
            self.counts.interfaces = id + 1;
        }
        self.flush()?;
        Ok((self.out, self.counts))
    }
}

fn other(error: pcap_file::PcapError) -> io::Error {
    match error {
        pcap_file::PcapError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

/// A time as pcapng has it, high half first, for pcap-file, which writes it as one number.
fn halves(time: WallTime) -> u64 {
    time.rotate_left(32)
}

/// The command line as a shell would take it.
fn description(process: &Process, show_args: bool) -> String {
    if process.args.is_empty() {
        return process.exe.clone();
    }
    let redacted;
    let args = if show_args {
        &process.args
    } else {
        redacted = redact::arguments(&process.args);
        &redacted
    };
    let quoted: Vec<Cow<'_, str>> = args.iter().map(|arg| quote(arg)).collect();
    quoted.join(" ")
}

fn quote(arg: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+*".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        arg.into()
    } else {
        format!("'{}'", arg.replace('\'', "'\\''")).into()
    }
}

/// Text for an option: no control characters, not too long.
fn clean(text: &str) -> String {
    let text = cut(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most [`TEXT_MAX`] bytes, ending at a character.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// Appends the block that names a process. The n-th of them is the process of interface n.
fn process_block(buffer: &mut Vec<u8>, process: &Process) {
    let name = clean(&process.comm);
    let name_len = if name.is_empty() { 0 } else { 4 + name.len() + padding(name.len()) };
    // Type, length, pid, options and their end, length.
    let total = u32::try_from(20 + name_len).unwrap_or(u32::MAX);
    for word in [BLOCK_APPLE_PROCESS, total, process.key.pid] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    if !name.is_empty() {
        option(buffer, OPTION_APPLE_NAME, name.as_bytes());
    }
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&total.to_le_bytes());
}

/// Appends an Enhanced Packet Block.
///
/// By hand: pcap-file takes a packet only as one slice, and has no name for option 8.
fn packet_block<'a>(
    buffer: &mut Vec<u8>,
    interface: u32,
    process_block: Option<u32>,
    link: Link,
    packet: &Packet<'_>,
    comments: impl Iterator<Item = &'a str> + Clone,
) {
    let captured = link.len() + packet.headers.len() + packet.payload.len();
    let comments = comments.map(cut);
    // Flags (8), queue (8), process and thread (12), end (4).
    let mut options =
        32 + if packet.dropped > 0 { 12 } else { 0 } + if process_block.is_some() { 8 } else { 0 };
    options += comments.clone().map(|c| 4 + c.len() + padding(c.len())).sum::<usize>();
    let total = PACKET_FIXED + captured + padding(captured) + options;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    buffer.reserve(total);
    let before = buffer.len();
    let (high, low) = ((packet.time >> 32) as u32, packet.time as u32);
    let original = packet.original_len.saturating_add(number(link.len())).max(number(captured));
    for word in [PACKET, number(total), interface, high, low, number(captured), original] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    link.header(buffer, packet.headers);
    buffer.extend_from_slice(packet.headers);
    buffer.extend_from_slice(packet.payload);
    buffer.extend_from_slice(&[0; 3][..padding(captured)]);
    let direction: u32 = match packet.direction {
        PacketDirection::Inbound => 1,
        PacketDirection::Outbound => 2,
    };
    option(buffer, OPTION_FLAGS, &direction.to_le_bytes());
    if packet.dropped > 0 {
        option(buffer, OPTION_DROPCOUNT, &packet.dropped.to_le_bytes());
    }
    // A connection's number is counted up from 1; far beyond 2^32 of them it would repeat.
    option(buffer, OPTION_QUEUE, &(packet.connection.0 as u32).to_le_bytes());
    let mut process = [0; 8];
    process[..4].copy_from_slice(&packet.process.key.pid.to_le_bytes());
    process[4..].copy_from_slice(&packet.tid.to_le_bytes());
    option(buffer, OPTION_PROCESS, &process);
    if let Some(number) = process_block {
        option(buffer, OPTION_APPLE_PROCESS, &number.to_le_bytes());
    }
    for comment in comments {
        option(buffer, OPTION_COMMENT, comment.as_bytes());
    }
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&number(total).to_le_bytes());
    debug_assert_eq!(buffer.len() - before, total);
}

fn option(buffer: &mut Vec<u8>, code: u16, value: &[u8]) {
    buffer.extend_from_slice(&code.to_le_bytes());
    // Values are shorter than TEXT_MAX.
    buffer.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    buffer.extend_from_slice(value);
    buffer.extend_from_slice(&[0; 3][..padding(value.len())]);
}

#[cfg(test)]
#[path = "pcapng_tests.rs"]
mod tests;
