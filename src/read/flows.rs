//! From packets to what is shown of them: follows the TCP connections of a capture, and hands their bytes to the view.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

use super::facts::{self, Known, Said};
use super::lane::{Lane, Losses, Position, Step};
use crate::filter::Filter;
use crate::input::container::{INTERFACE, Item as Block, PACKET, SECTION};
use crate::input::layers::{self, End, Segment};
use crate::input::options::{COMMENT, each_option, options_at};
use crate::proto::h1::{Looks, looks};
use crate::proto::h2::{PREFACE, is_settings};
use crate::view::{
    Bytes, Closed, Connection, Conversation, Item, Limits, Loss, Origin, Side, Told, View, WallTime,
};

/// Connections that are followed. One that has been silent for longest is ended then.
const FLOWS_MAX: usize = 16_384;
/// Bytes that all messages without an end take, about; then those of the connection that adds to them are given up.
const HELD_MAX: usize = 64 << 20;
/// Bytes of a connection, and packets, after which it is counted anew what it takes.
const COUNT_BYTES: usize = 16 << 10;
const COUNT_PACKETS: u32 = 64;
/// Bytes of segments that wait for earlier ones, of all connections.
const EARLY_MAX: usize = 64 << 20;
/// Names of interfaces that are kept, and how long they may be.
const INTERFACES_MAX: usize = 65_536;
const NAME_MAX: usize = 256;
/// Bytes that are handed on at once.
const PIECE: usize = 64 << 10;
/// What is written at once.
const WRITE_AT: usize = 64 << 10;

type Key = (End, End);

/// What was not shown, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Connections that the expression leaves out.
    pub(crate) by_filter: u64,
    /// Those about which not everything is known that it asks for.
    pub(crate) undecided: u64,
    /// Connections that were ended because too many were open.
    pub(crate) forgotten: u64,
    /// Bytes that came after the end of their connection.
    pub(crate) after_end: u64,
    /// Packets that hold no TCP.
    pub(crate) other_packets: u64,
    /// Packets in all.
    pub(crate) packets: u64,
}

/// Which connections are shown, and how much of them is kept.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) filter: Option<Filter>,
    /// Those are left out of which it is not known whether it holds.
    pub(crate) leaves_unknown: bool,
    pub(crate) limits: Limits,
}

/// What becomes of a connection.
#[derive(Debug)]
enum Stage {
    /// Nothing of it was shown.
    New,
    Shown(Box<Connection>, Box<Conversation>),
    /// It is not wanted.
    Left,
    /// All of it was shown.
    Done,
}

#[derive(Debug)]
struct Flow {
    number: u64,
    lanes: [Lane; 2],
    told: [Losses; 2],
    /// Where the first byte of each lane was.
    begun: [Option<u64>; 2],
    /// Of each lane, the end that sends.
    ends: [End; 2],
    /// The lane that the client sends, if that is known.
    client: Option<usize>,
    known: Known,
    process: String,
    began: WallTime,
    /// Sequence number of the SYN of each lane.
    syn: [Option<u32>; 2],
    stage: Stage,
    /// Number of its last packet.
    last: u64,
    reset: Option<(WallTime, usize)>,
    held: usize,
    early: usize,
    since_count: (usize, u32),
}

/// Where what is shown goes.
struct Out {
    view: Box<dyn View + Send>,
    buffer: Vec<u8>,
    to: Box<dyn Write + Send>,
    failed: Option<io::Error>,
}

impl Out {
    fn item(&mut self, item: Item<'_>) {
        if self.failed.is_none() {
            self.view.item(item, &mut self.buffer);
            if self.buffer.len() >= WRITE_AT {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        if self.failed.is_none() && !self.buffer.is_empty() {
            self.failed = self.to.write_all(&self.buffer).and_then(|()| self.to.flush()).err();
        }
        self.buffer.clear();
    }
}

/// See the module.
pub(crate) struct Viewer {
    plan: Plan,
    out: Out,
    flows: HashMap<Key, Flow>,
    count: u64,
    interfaces: Vec<String>,
    held: usize,
    early: usize,
    left: Left,
    time: WallTime,
}

impl Viewer {
    pub(crate) fn new(plan: Plan, view: Box<dyn View + Send>, to: Box<dyn Write + Send>) -> Viewer {
        Viewer {
            plan,
            out: Out { view, buffer: Vec::with_capacity(2 * WRITE_AT), to, failed: None },
            flows: HashMap::new(),
            count: 0,
            interfaces: Vec::new(),
            held: 0,
            early: 0,
            left: Left::default(),
            time: 0,
        }
    }

    /// Takes a block, or a packet of classic pcap; `is_big`: its byte order.
    pub(crate) fn block(&mut self, block: &Block, is_classic: bool, is_big: bool) {
        match (&block.packet, block.kind) {
            (Some((range, link)), kind) => {
                let mut said = Said::default();
                if !is_classic
                    && kind == PACKET
                    && let Some(at) = options_at(kind, &block.bytes, is_big)
                {
                    let options = each_option(&block.bytes, at, is_big);
                    options.filter(|(code, _)| *code == COMMENT).for_each(|(_, text)| said.add(text));
                }
                self.packet(block, range.clone(), *link, &said);
            }
            (None, SECTION) => self.interfaces.clear(),
            (None, INTERFACE) if !is_classic && self.interfaces.len() < INTERFACES_MAX => {
                let name = each_option(&block.bytes, 16, is_big).find(|(code, _)| *code == 2);
                let name = name.map_or(String::new(), |(_, name)| {
                    String::from_utf8_lossy(&name[..name.len().min(NAME_MAX)]).into_owned()
                });
                self.interfaces.push(name);
            }
            _ => {}
        }
    }

    /// Writes what is known by now.
    pub(crate) fn write(&mut self) {
        self.out.write();
    }

    /// What could not be written, once.
    pub(crate) fn failed(&mut self) -> Option<io::Error> {
        self.out.failed.take()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.out.failed.is_some()
    }

    pub(crate) fn left(&self) -> Left {
        self.left
    }

    /// Nothing more comes.
    pub(crate) fn finish(&mut self) {
        let mut keys: Vec<(u64, Key)> = self.flows.iter().map(|(key, flow)| (flow.number, *key)).collect();
        keys.sort_unstable();
        for (_, key) in keys {
            self.end_flow(&key);
        }
        if self.out.failed.is_none() {
            self.out.view.finish(&mut self.out.buffer);
        }
        self.out.write();
    }

    fn packet(&mut self, block: &Block, range: Range<usize>, link: u32, said: &Said) {
        self.left.packets += 1;
        self.time = if block.time > 0 { block.time } else { self.time };
        let data = &block.bytes[range];
        let layers::Packet::Tcp(segment) = layers::packet(link, data) else {
            self.left.other_packets += 1;
            return;
        };
        let (a, b) = (segment.source, segment.destination);
        let (key, lane) = if a <= b { ((a, b), 0) } else { ((b, a), 1) };
        self.begin(key, lane, &segment, block.interface as usize);
        let Some(mut flow) = self.flows.remove(&key) else { return };
        flow.last = self.left.packets;
        flow.known.add(said);
        self.segment(&mut flow, lane, &segment, &data[segment.payload.clone()], said);
        self.flows.insert(key, flow);
    }

    /// Makes sure that there is a connection.
    fn begin(&mut self, key: Key, lane: usize, segment: &Segment, interface: usize) {
        let is_new = segment.syn
            && self.flows.get(&key).is_some_and(|flow| match flow.syn[lane] {
                Some(syn) => syn != segment.sequence,
                // A connection that was met in the middle, or whose answer this is.
                None => flow.syn[1 - lane].is_none() || flow.lanes[lane].next.is_some(),
            });
        if is_new {
            self.end_flow(&key);
        }
        if self.flows.contains_key(&key) {
            return;
        }
        self.make_room();
        let interface = self.interfaces.get(interface).cloned().unwrap_or_default();
        let is_process = interface
            .strip_suffix(']')
            .and_then(|name| name.rsplit_once('['))
            .is_some_and(|(_, pid)| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()));
        let flow = Flow {
            number: self.count,
            lanes: Default::default(),
            told: Default::default(),
            begun: [None; 2],
            ends: [key.0, key.1],
            client: segment.syn.then_some(if segment.acknowledged.is_none() { lane } else { 1 - lane }),
            known: Known::default(),
            process: if is_process { interface } else { String::new() },
            began: self.time,
            syn: [None; 2],
            stage: Stage::New,
            last: 0,
            reset: None,
            held: 0,
            early: 0,
            since_count: (0, 0),
        };
        self.count += 1;
        self.flows.insert(key, flow);
    }

    fn segment(&mut self, flow: &mut Flow, lane: usize, segment: &Segment, payload: &[u8], said: &Said) {
        let mut sequence = segment.sequence;
        if segment.syn {
            flow.syn[lane] = Some(sequence);
            sequence = sequence.wrapping_add(1);
        }
        let offset = flow.lanes[lane].offset(sequence);
        if segment.syn {
            flow.lanes[lane].next.get_or_insert(offset);
        }
        flow.begun[lane].get_or_insert(offset);
        let cut = (segment.len - payload.len()) as u64;
        let place = Position { time: self.time, offset, cut, origin: said.origin() };
        let mut is_hole = false;
        for missing in said.missing() {
            let place = Position { origin: Origin::Program, ..place };
            self.loss(flow, lane, place.time, missing.length, missing.reason);
            if let Some(filled) = missing.filled {
                let side = flow.side(lane);
                if let Stage::Shown(_, conversation) = &mut flow.stage {
                    conversation.filled(side, filled, missing.length.is_none_or(|len| len > filled));
                }
                continue;
            }
            is_hole = true;
            flow.told[lane].say(missing.length);
            if missing.length.is_none() {
                self.steps(flow, lane, |lane, on| lane.jump(&place, false, on));
            } else if segment.len == 0 {
                self.steps(flow, lane, |lane, on| lane.jump(&place, true, on));
            }
        }
        if segment.len > 0 {
            let piece = payload;
            self.steps(flow, lane, |lane, on| lane.take(place, piece, is_hole, on));
        }
        if let Some(acknowledged) = segment.acknowledged {
            self.steps(flow, 1 - lane, |lane, on| lane.acknowledged(acknowledged, on));
        }
        self.early = self.early.saturating_sub(flow.early);
        flow.early = flow.lanes.iter().map(Lane::waiting).sum();
        self.early += flow.early;
        if self.early > EARLY_MAX {
            self.flush(flow);
        }
        if segment.fin {
            let time = self.time;
            flow.lanes[lane].fin.get_or_insert((offset + segment.len as u64, time));
        }
        if segment.rst {
            flow.reset.get_or_insert((self.time, lane));
        }
        if segment.rst || flow.lanes.iter().all(Lane::is_complete) {
            self.close(flow);
        }
    }

    /// Lets a lane act, and passes on what comes of it.
    fn steps(
        &mut self,
        flow: &mut Flow,
        lane: usize,
        act: impl FnOnce(&mut Lane, &mut dyn FnMut(&Position, Step<'_>)),
    ) {
        let mut own = std::mem::take(&mut flow.lanes[lane]);
        act(&mut own, &mut |place, step| match step {
            Step::Bytes(offset, bytes) => self.bytes(flow, lane, place, offset, bytes),
            Step::Hole(len) => self.hole(flow, lane, place, len),
        });
        flow.lanes[lane] = own;
    }

    fn hole(&mut self, flow: &mut Flow, lane: usize, place: &Position, len: Option<u64>) {
        if let Some(untold) = flow.told[lane].untold(len) {
            self.loss(flow, lane, place.time, untold, None);
        }
        self.open(flow, lane, &[], place.time);
        let side = flow.side(lane);
        let Flow { stage: Stage::Shown(connection, conversation), .. } = flow else { return };
        if self.out.view.wants_messages() {
            let out = &mut self.out;
            conversation.hole((place.time, side), len, &mut |told| out.item(Item::Told(connection, &told)));
        }
    }

    fn loss(&mut self, flow: &mut Flow, lane: usize, time: WallTime, len: Option<u64>, reason: Option<&str>) {
        self.open(flow, lane, &[], time);
        let from = flow.side(lane);
        let Stage::Shown(connection, _) = &flow.stage else { return };
        let loss = Loss { time, from, length: len, reason: reason.map(str::to_owned) };
        self.out.item(Item::Loss(connection, &loss));
    }

    fn bytes(&mut self, flow: &mut Flow, lane: usize, place: &Position, offset: u64, bytes: &[u8]) {
        self.open(flow, lane, bytes, place.time);
        let from = flow.side(lane);
        let (stage, out) = (&mut flow.stage, &mut self.out);
        let Stage::Shown(connection, conversation) = stage else {
            if let Stage::Done = stage {
                self.left.after_end += bytes.len() as u64;
            }
            return;
        };
        if !out.view.wants_messages() {
            let offset = offset - flow.begun[lane].unwrap_or(offset);
            let is_synthetic = place.origin != Origin::Program;
            return out.item(Item::Bytes(
                connection,
                Bytes { time: place.time, from, offset, bytes, is_synthetic },
            ));
        }
        for piece in bytes.chunks(PIECE) {
            let mut on = |told: Told| out.item(Item::Told(connection, &told));
            conversation.push((place.time, from), piece, place.origin, &mut on);
        }
        flow.since_count.0 += bytes.len();
        flow.since_count.1 += 1;
        if flow.since_count.0 < COUNT_BYTES && flow.since_count.1 < COUNT_PACKETS {
            return;
        }
        flow.since_count = (0, 0);
        self.held = self.held.saturating_sub(flow.held);
        flow.held = conversation.held();
        if self.held + flow.held > HELD_MAX {
            let mut on = |told: Told| out.item(Item::Told(connection, &told));
            conversation.give_up((place.time, from), &mut on);
            flow.held = conversation.held();
        }
        self.held += flow.held;
    }

    /// Decides what becomes of a connection, with its first bytes.
    fn open(&mut self, flow: &mut Flow, lane: usize, bytes: &[u8], time: WallTime) {
        if !matches!(flow.stage, Stage::New) {
            return;
        }
        let is_request =
            bytes.starts_with(PREFACE) || (looks(bytes) == Looks::Yes && !bytes.starts_with(b"HTTP/"));
        let is_answer = looks(bytes) == Looks::Yes && !is_request;
        let client = *flow.client.get_or_insert_with(|| match (is_request, is_answer) {
            (true, _) => lane,
            (_, true) => 1 - lane,
            // Servers have the lower ports.
            _ if flow.ends[0].1 < flow.ends[1].1 => 1,
            _ => 0,
        });
        let proto = if bytes.starts_with(PREFACE) || (lane != client && is_settings(bytes)) {
            Some("http/2")
        } else {
            (is_request || is_answer).then_some("http/1")
        };
        if let Some(proto) = proto {
            flow.known.facts.entry("proto".into()).or_insert_with(|| proto.to_owned());
        }
        let facts = &flow.known.facts;
        let [client_end, server_end] = flow.known.ends(flow.ends[client], flow.ends[1 - client]);
        let process = match (facts.get("comm"), facts.get("pid")) {
            (Some(comm), Some(pid)) => format!("{}[{pid}]", if comm.is_empty() { "?" } else { comm }),
            _ => flow.process.clone(),
        };
        let from_start = match facts.get("from_start") {
            Some(said) => said == "1",
            None => flow.syn.iter().any(Option::is_some),
        };
        let connection = Connection {
            number: flow.number,
            conn: facts.get("conn").and_then(|conn| conn.parse().ok()),
            client: client_end,
            server: server_end,
            process,
            role: flow.known.role(),
            facts: std::mem::take(&mut flow.known.facts),
            began: if flow.began > 0 { flow.began } else { time },
            from_start,
        };
        let verdict =
            self.plan.filter.as_ref().map_or(Some(true), |filter| filter.verdict(&facts::of(&connection)));
        self.left.undecided += u64::from(verdict.is_none());
        if !verdict.unwrap_or(!self.plan.leaves_unknown) {
            self.left.by_filter += u64::from(verdict.is_some());
            flow.stage = Stage::Left;
            return;
        }
        self.out.item(Item::Open(&connection));
        let conversation = Conversation::new(connection.from_start, self.plan.limits);
        flow.stage = Stage::Shown(Box::new(connection), Box::new(conversation));
    }

    /// What waits follows a hole.
    fn flush(&mut self, flow: &mut Flow) {
        for lane in [0, 1] {
            self.steps(flow, lane, Lane::flush);
        }
        self.early = self.early.saturating_sub(std::mem::take(&mut flow.early));
    }

    /// Ends a connection, by FIN, RST or the end of the capture.
    fn close(&mut self, flow: &mut Flow) {
        self.flush(flow);
        self.open(flow, flow.client.unwrap_or(0), &[], self.time);
        let (fins, reset) = (flow.lanes.each_ref().map(|lane| lane.fin), flow.reset);
        let client = flow.client.unwrap_or(0);
        let bytes = [flow.lanes[client].bytes, flow.lanes[1 - client].bytes];
        let first = (0..2).filter_map(|lane| Some((fins[lane]?.1, lane))).min();
        let by = reset.or(first).map(|(_, lane)| flow.side(lane));
        if let Stage::Shown(connection, conversation) = &mut flow.stage {
            let out = &mut self.out;
            let is_open = reset.is_none() && fins.iter().all(Option::is_none);
            let why = match (reset, is_open) {
                (Some(_), _) => "connection reset",
                (None, true) => "the capture ends",
                (None, false) => "connection closed",
            };
            let last = reset.map_or(self.time, |(time, _)| time);
            let mut on = |told: Told| out.item(Item::Told(connection, &told));
            for lane in [client, 1 - client] {
                let side = if lane == client { Side::Client } else { Side::Server };
                // A side that has said FIN has said all.
                let is_whole = fins[lane].is_some();
                let time = fins[lane].map_or(last, |(_, time)| time);
                conversation.end((time, side), Some(why).filter(|_| !is_whole), &mut on);
            }
            conversation.close(last, why, &mut on);
            let closed = Closed { time: last, is_reset: reset.is_some(), by, is_open, bytes };
            out.item(Item::Closed(connection, closed));
        }
        self.held = self.held.saturating_sub(std::mem::take(&mut flow.held));
        flow.stage = match flow.stage {
            Stage::Left => Stage::Left,
            _ => Stage::Done,
        };
    }

    fn end_flow(&mut self, key: &Key) {
        if let Some(mut flow) = self.flows.remove(key)
            && matches!(flow.stage, Stage::New | Stage::Shown(..))
        {
            self.close(&mut flow);
        }
    }

    /// Ends connections that have been silent for longest, if there are too many.
    fn make_room(&mut self) {
        if self.flows.len() < FLOWS_MAX {
            return;
        }
        let is_live = |flow: &Flow| !matches!(flow.stage, Stage::Left | Stage::Done);
        let mut all: Vec<(bool, u64, Key)> =
            self.flows.iter().map(|(key, flow)| (is_live(flow), flow.last, *key)).collect();
        all.sort_unstable();
        for (is_live, _, key) in all.into_iter().take(FLOWS_MAX / 8) {
            self.left.forgotten += u64::from(is_live);
            self.end_flow(&key);
        }
    }
}

impl Flow {
    fn side(&self, lane: usize) -> Side {
        if self.client.unwrap_or(0) == lane { Side::Client } else { Side::Server }
    }
}
