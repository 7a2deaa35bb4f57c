//! Follows the TCP streams of a file, hands their bytes to the redaction in order, and puts what comes back where it was.
//!
//! Packets leave in the order in which they came, so one waits until all its bytes are decided. What waits is bounded:
//! then the connection of the first packet that waits is decided at once, by filling.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use foldhash::fast::RandomState;

use super::addresses;
use super::lane::{Lane, Piece};
use super::metadata;
use super::report::Report;
use super::seen::Seen;
use crate::input::container::PACKET;
use crate::input::layers::{self, Checksum, End, Segment};
use crate::input::options::options_at;
use crate::redact::{self, Conversation, Engine, Found, Kind, Side};

/// Bytes of packets that wait.
const WAITING_MAX: usize = 64 << 20;
/// Connections that are followed. One that has been silent for longest is ended then.
const FLOWS_MAX: usize = 16_384;
/// Bytes that are remembered for whoever sends them again, in all; the connections silent for longest forget theirs.
const REMEMBERED_MAX: usize = 64 << 20;

type Key = (End, End);

/// A block that waits.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// Bytes of it that are not decided.
    undecided: usize,
    checksum: Option<Checksum>,
    /// By what the sum of its words has grown.
    delta: i64,
    /// Its connection.
    flow: Option<Key>,
    /// Its number among packets; 0 if it is none.
    number: u64,
    /// Of TCP, where it lies.
    payload: Range<usize>,
    changed: u64,
    /// Its addresses have pseudonyms.
    has_pseudonyms: bool,
    /// What was replaced in it.
    kinds: BTreeSet<Kind>,
    /// Of pcapng, a packet whose comments may say so; and the byte order.
    can_say: Option<bool>,
}

impl Waiting {
    /// Puts bytes into it.
    fn put(&mut self, at: usize, new: &[u8]) {
        let old = &mut self.bytes[at..at + new.len()];
        if old == new {
            return;
        }
        let from = self.checksum.map_or(0, |sum| sum.from);
        for (i, (old, new)) in old.iter_mut().zip(new).enumerate() {
            if old != new {
                let weight = if (at + i - from).is_multiple_of(2) { 256 } else { 1 };
                self.delta += (i64::from(*new) - i64::from(*old)) * weight;
                self.changed += 1;
                *old = *new;
            }
        }
    }

    /// Makes its checksum fit.
    fn finish(mut self, report: &mut Report) -> Vec<u8> {
        if let Some(sum) = self.checksum.filter(|_| self.delta != 0)
            && let Some(bytes) = self.bytes.get_mut(sum.at..sum.at + 2)
        {
            let old = u16::from_be_bytes([bytes[0], bytes[1]]);
            bytes.copy_from_slice(&layers::adjust(old, self.delta, sum.is_udp).to_be_bytes());
        }
        if let Some(is_big) = self.can_say.filter(|_| self.changed > 0) {
            let mut words: Vec<String> = self.kinds.iter().map(|kind| kind.word()).collect();
            if words.is_empty() {
                words.push("sent-again".into());
            }
            metadata::mark_packet(&mut self.bytes, &words.join(","), is_big);
        }
        report.packet_done(self.number > 0, self.has_pseudonyms, self.changed);
        self.bytes
    }
}

struct Flow {
    number: u64,
    conversation: Conversation,
    /// From the lower end, and from the higher.
    lanes: [Lane; 2],
    last: u64,
    /// Sequence number of the SYN of each lane.
    syn: [Option<u32>; 2],
    /// It is only a part of what was redacted; see [`Engine::trust`].
    is_part: bool,
    /// A side has sent FIN or RST.
    is_over: bool,
}

/// Follows a file.
pub(super) struct Tracker {
    engine: Engine,
    flows: HashMap<Key, Flow, RandomState>,
    flows_seen: u64,
    queue: VecDeque<Waiting>,
    /// Number of the first in the queue, counted over all blocks.
    first: u64,
    queued_bytes: usize,
    packets: u64,
    remembered: usize,
    report: Report,
    recognises: bool,
    /// The file is one of several, so connections go on from one into the next.
    is_one_of_several: bool,
    /// For whoever wants to know what is in the file.
    seen: Option<Seen>,
}

impl Tracker {
    pub(super) fn new(engine: Engine, report: Report) -> Tracker {
        Tracker {
            engine,
            flows: HashMap::default(),
            flows_seen: 0,
            queue: VecDeque::new(),
            first: 0,
            queued_bytes: 0,
            packets: 0,
            remembered: 0,
            report,
            recognises: false,
            is_one_of_several: false,
            seen: None,
        }
    }

    /// From now on, remembers what is in the file.
    pub(super) fn observe(&mut self) {
        self.engine.observe();
        self.seen = Some(Seen::default());
    }

    /// What was in the file.
    pub(super) fn take_seen(&mut self) -> Seen {
        self.seen.take().unwrap_or_default()
    }

    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Whether what comes was redacted before by rules that let no more stay.
    /// `is_one_of_several`: it is a part of a capture.
    pub(super) fn recognise(&mut self, recognises: bool, is_one_of_several: bool) {
        if (self.recognises, self.is_one_of_several) != (recognises, is_one_of_several) {
            self.end_all();
            self.recognises = recognises;
            self.is_one_of_several = is_one_of_several;
            self.engine.recognise(recognises);
        }
    }

    pub(super) fn report(&mut self) -> &mut Report {
        &mut self.report
    }

    /// A block that is no packet, and ready. Of pcapng, its type and the byte order.
    pub(super) fn block(&mut self, bytes: Vec<u8>, kind: Option<(u32, bool)>, found: &[Found]) {
        if let (Some(seen), Some((kind, is_big))) = (&mut self.seen, kind) {
            seen.block(kind, &bytes, is_big);
        }
        for one in found {
            self.report.found(None, None, one.kind);
        }
        self.queue(bytes, None, None, 0);
    }

    fn queue(&mut self, bytes: Vec<u8>, checksum: Option<Checksum>, flow: Option<Key>, number: u64) -> u64 {
        self.queued_bytes += bytes.len();
        self.queue.push_back(Waiting {
            bytes,
            undecided: 0,
            checksum,
            delta: 0,
            flow,
            number,
            payload: 0..0,
            changed: 0,
            has_pseudonyms: false,
            kinds: BTreeSet::new(),
            can_say: None,
        });
        self.first + self.queue.len() as u64 - 1
    }

    /// A packet: its block, where it lies in it, its link type; `missing`: bytes are missing before it; `can_say`: it may have
    /// comments, in this byte order; `found`: what was found in its options.
    pub(super) fn packet(
        &mut self,
        (bytes, at, link): (Vec<u8>, Range<usize>, u32),
        (time, interface): (u64, u32),
        missing: bool,
        can_say: Option<bool>,
        found: &[Found],
    ) {
        self.packets += 1;
        let number = self.packets;
        if let Some(seen) = &mut self.seen {
            seen.packet(time, interface);
        }
        for one in found {
            self.report.found(Some(number), None, one.kind);
        }
        // Where it is queued nobody looks at its options any more.
        let options = can_say.filter(|_| self.seen.is_some()).and_then(|is_big| {
            let at = options_at(PACKET, &bytes, is_big)?;
            let block = bytes.get(at..)?.to_vec();
            (block.len() > 4).then_some((block, is_big))
        });
        let begins = can_say.is_some() && metadata::says_beginning(&bytes, at.end);
        self.content((bytes, at, link), (missing, begins), number);
        if let (Some(seen), Some((block, is_big))) = (&mut self.seen, options) {
            seen.options(&block, 0, is_big);
        }
        let number = self.first + self.queue.len() as u64 - 1;
        if let Some(waiting) = self.waiting(number) {
            waiting.can_say = can_say;
            waiting.kinds.extend(found.iter().map(|one| one.kind));
            waiting.changed += found.len() as u64;
        }
    }

    fn content(
        &mut self,
        (mut bytes, at, link): (Vec<u8>, Range<usize>, u32),
        (missing, begins): (bool, bool),
        number: u64,
    ) {
        // Before anything else, so that all that follows knows the pseudonyms only.
        let has_pseudonyms = self.engine.hides_addresses()
            && addresses::replace(self.engine.addresses(), link, &mut bytes[at.clone()]);
        if has_pseudonyms {
            self.report.found(Some(number), None, Kind::Address);
        }
        let packet = layers::packet(link, &bytes[at.clone()]);
        let place = self.first + self.queue.len() as u64;
        let shift = |sum: Checksum| Checksum { at: sum.at + at.start, from: sum.from + at.start, ..sum };
        match packet {
            layers::Packet::Harmless => {
                self.queue(bytes, None, None, number);
            }
            layers::Packet::Other { payload, checksum } => {
                let place = self.queue(bytes, checksum.map(shift), None, number);
                self.fill(place, at.start + payload..at.end, Kind::Protocol);
            }
            layers::Packet::Tcp(segment) => {
                let (a, b) = (segment.source, segment.destination);
                let key = if a <= b { (a, b) } else { (b, a) };
                let side = if a <= b { Side::A } else { Side::B };
                let place = self.queue(bytes, segment.checksum.map(shift), Some(key), number);
                self.trailer(place, at.start + segment.end..at.end);
                self.segment(place, (key, side), &segment, at.start, (missing, begins));
            }
        }
        if let Some(waiting) = self.waiting(place) {
            waiting.has_pseudonyms = has_pseudonyms;
        }
    }

    /// Behind the end of an IP packet there is padding, which may be anything.
    fn trailer(&mut self, place: u64, range: Range<usize>) {
        let Some(waiting) = self.waiting(place) else { return };
        let number = waiting.number;
        if waiting.bytes.get(range.clone()).is_some_and(|bytes| bytes.iter().any(|b| *b != 0)) {
            let zeros = vec![0; range.len()];
            let (checksum, delta) = (waiting.checksum.take(), waiting.delta);
            waiting.put(range.start, &zeros);
            (waiting.checksum, waiting.delta) = (checksum, delta);
            waiting.kinds.insert(Kind::Padding);
            self.report.found(Some(number), None, Kind::Padding);
        }
    }

    fn waiting(&mut self, place: u64) -> Option<&mut Waiting> {
        let index = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(index)
    }

    /// Fills bytes of a packet.
    fn fill(&mut self, place: u64, range: Range<usize>, kind: Kind) {
        let flow = self.waiting(place).and_then(|waiting| waiting.flow);
        let flow = flow.and_then(|key| self.flows.get(&key)).map(|flow| flow.number);
        let Some(waiting) = self.waiting(place) else { return };
        let number = waiting.number;
        let mut new = waiting.bytes[range.clone()].to_vec();
        if redact::fill_whole(&mut new).is_some() {
            waiting.put(range.start, &new);
            waiting.kinds.insert(kind);
            self.report.found(Some(number), flow, kind);
        }
    }

    /// `begins`: its comment says that the connection begins here, and not in an earlier file.
    fn segment(
        &mut self,
        place: u64,
        (key, side): (Key, Side),
        segment: &Segment,
        shift: usize,
        (missing, begins): (bool, bool),
    ) {
        let lane = side as usize;
        let is_new = segment.syn
            && self.flows.get(&key).is_some_and(|flow| match flow.syn[lane] {
                Some(syn) => syn != segment.sequence,
                // A connection that was met in the middle, or whose answer this is.
                None => flow.syn[1 - lane].is_none() || flow.lanes[lane].next.is_some(),
            });
        if is_new {
            self.end_flow(&key);
        }
        if !self.flows.contains_key(&key) {
            self.make_room();
            let flow = Flow {
                number: self.flows_seen,
                conversation: Conversation::new(segment.syn),
                lanes: [Lane::default(), Lane::default()],
                last: 0,
                syn: [None; 2],
                is_part: self.recognises && self.is_one_of_several && !begins,
                is_over: false,
            };
            self.flows.insert(key, flow);
            self.flows_seen += 1;
        }
        let packets = self.packets;
        let Some(flow) = self.flows.get_mut(&key) else { return };
        flow.last = packets;
        if let Some(seen) = &mut self.seen {
            seen.segment(flow.number, side, segment);
        }
        let own = &mut flow.lanes[lane];
        let mut sequence = segment.sequence;
        if segment.syn {
            flow.syn[lane] = Some(sequence);
            sequence = sequence.wrapping_add(1);
        }
        let offset = own.offset(sequence);
        if segment.syn {
            own.next.get_or_insert(offset);
        }
        // What the peer has said before comes before.
        if let Some(acknowledged) = segment.acknowledged {
            self.acknowledged(key, side.other(), acknowledged);
        }
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let own = &mut flow.lanes[lane];
        if segment.len > 0 {
            let captured = segment.payload.len();
            let next = *own.next.get_or_insert(offset);
            let piece = Piece {
                packet: place,
                at: segment.payload.start + shift,
                offset,
                len: captured,
                cut: segment.len - captured,
            };
            if let Some(waiting) = self.waiting(place) {
                waiting.undecided += captured;
                waiting.payload = piece.at..piece.at + captured;
            }
            if offset > next && !missing {
                let is_too_much =
                    self.flows.get_mut(&key).is_some_and(|flow| flow.lanes[lane].put_aside(piece));
                if is_too_much {
                    self.skip_hole(key, side);
                }
            } else {
                if offset > next {
                    self.hole(key, side, offset);
                }
                self.place(key, side, piece);
            }
            self.take_early(key, side);
        }
        if segment.fin || segment.rst {
            self.fin(key, side, offset + segment.len as u64, segment.rst);
        }
        self.bound_remembered();
    }

    /// What the peer has, and the file not yet, is missing.
    fn acknowledged(&mut self, key: Key, side: Side, sequence: u32) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let lane = &mut flow.lanes[side as usize];
        let Some(next) = lane.next else { return };
        let acknowledged = lane.offset(sequence);
        // Far ahead of all: not of this stream.
        if acknowledged > next && lane.first_early().is_some_and(|early| early < acknowledged) {
            self.skip_hole(key, side);
            self.take_early(key, side);
        }
    }

    fn fin(&mut self, key: Key, side: Side, at: u64, is_reset: bool) {
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.lanes[side as usize].fin = Some(at);
            flow.is_over = true;
        }
        if is_reset {
            self.flush(&key, true);
        } else {
            self.end_if_complete(key, side);
        }
    }

    fn end_if_complete(&mut self, key: Key, side: Side) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let lane = &mut flow.lanes[side as usize];
        if lane.fin.is_some_and(|fin| lane.next.is_none_or(|next| next >= fin)) {
            lane.fin = None;
            self.engine.trust(flow.is_part);
            let (mut out, mut found) = (Vec::new(), Vec::new());
            flow.conversation.end(&mut self.engine, side, &mut out, &mut found);
            self.give(key, side, &out, &found);
        }
    }

    /// All that was put aside and fits now.
    fn take_early(&mut self, key: Key, side: Side) {
        while let Some(piece) =
            self.flows.get_mut(&key).and_then(|flow| flow.lanes[side as usize].take_early())
        {
            self.place(key, side, piece);
        }
        self.end_if_complete(key, side);
    }

    /// The stream goes on with what was put aside first.
    fn skip_hole(&mut self, key: Key, side: Side) {
        let early = self.flows.get(&key).and_then(|flow| flow.lanes[side as usize].first_early());
        if let Some(early) = early {
            self.hole(key, side, early);
        }
    }

    /// The stream goes on there, and all before is missing.
    fn hole(&mut self, key: Key, side: Side, to: u64) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let lane = &mut flow.lanes[side as usize];
        let len = lane.next.map(|next| to.saturating_sub(next));
        if len == Some(0) {
            return;
        }
        lane.next = Some(to);
        if let Some(seen) = &mut self.seen {
            seen.hole(flow.number, len);
        }
        flow.is_part |= self.recognises;
        self.engine.trust(flow.is_part);
        let (mut out, mut found) = (Vec::new(), Vec::new());
        flow.conversation.hole(&mut self.engine, side, len, &mut out, &mut found);
        self.give(key, side, &out, &found);
    }

    /// A piece that begins where the stream is, or before.
    fn place(&mut self, key: Key, side: Side, piece: Piece) {
        let Some(next) = self.flows.get(&key).and_then(|flow| flow.lanes[side as usize].next) else { return };
        if let Some(old) = piece.part(0, next) {
            self.once_more(key, side, old);
        }
        let Some(new) = piece.part(next, u64::MAX) else { return };
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let lane = &mut flow.lanes[side as usize];
        lane.next = Some(new.offset + new.len as u64);
        if new.len > 0 {
            lane.waiting.push_back(new);
            let (mut out, mut found) = (Vec::new(), Vec::new());
            // Its place in the queue is known, since it came from there.
            if let Some(waiting) = self.queue.get(new.packet.wrapping_sub(self.first) as usize) {
                let bytes = &waiting.bytes[new.at..new.at + new.len];
                self.engine.trust(flow.is_part);
                flow.conversation.push(&mut self.engine, side, bytes, &mut out, &mut found);
            }
            self.give(key, side, &out, &found);
        }
        if new.cut > 0 {
            self.hole(key, side, new.offset + (new.len + new.cut) as u64);
        }
    }

    /// Bytes that were sent before: they become what those became.
    fn once_more(&mut self, key: Key, side: Side, piece: Piece) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let lane = &mut flow.lanes[side as usize];
        let given = lane.given;
        if let Some(late) =
            piece.part(given, u64::MAX).filter(|late| late.len > 0 && !lane.waiting.is_empty())
        {
            lane.again.push(late);
            if let Some(early) = piece.part(0, given) {
                self.known(key, side, early);
            }
        } else {
            self.known(key, side, piece);
        }
    }

    /// Bytes that were given out before.
    fn known(&mut self, key: Key, side: Side, piece: Piece) {
        let remembered = self
            .flows
            .get(&key)
            .and_then(|flow| flow.lanes[side as usize].remembered(piece.offset, piece.len));
        match remembered {
            Some(bytes) => {
                if let Some(waiting) = self.waiting(piece.packet) {
                    waiting.put(piece.at, &bytes);
                }
            }
            None => self.fill(piece.packet, piece.at..piece.at + piece.len, Kind::Lost),
        }
        if let Some(waiting) = self.waiting(piece.packet) {
            waiting.undecided -= piece.len;
        }
    }

    /// Puts what is decided into the packets that it is of.
    fn give(&mut self, key: Key, side: Side, out: &[u8], found: &[Found]) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        if let Some(seen) = &mut self.seen {
            seen.facts(flow.number, side, self.engine.take_facts());
        }
        let lane = &mut flow.lanes[side as usize];
        let number = flow.number;
        let mut at = 0;
        let mut found = found.iter().peekable();
        while at < out.len() {
            let Some(piece) = lane.waiting.front().copied() else { break };
            let len = (piece.len - lane.done).min(out.len() - at);
            let bytes = &out[at..at + len];
            let place = piece.at + lane.done;
            let offset = piece.offset + lane.done as u64;
            if let Some(waiting) = self.queue.get_mut(piece.packet.wrapping_sub(self.first) as usize) {
                waiting.put(place, bytes);
                waiting.undecided -= len;
                while let Some(one) = found.next_if(|found| found.at < (at + len) as u64) {
                    waiting.kinds.insert(one.kind);
                    self.report.found(Some(waiting.number), Some(number), one.kind);
                }
            }
            let before = self.remembered;
            lane.remember(offset, bytes);
            self.remembered = before + len;
            at += len;
            lane.done += len;
            if lane.done == piece.len {
                lane.waiting.pop_front();
                lane.done = 0;
            }
        }
        let given = lane.given;
        let (ready, waits): (Vec<Piece>, Vec<Piece>) = std::mem::take(&mut lane.again)
            .into_iter()
            .partition(|piece| piece.offset + piece.len as u64 <= given || lane.waiting.is_empty());
        lane.again = waits;
        for piece in ready {
            self.known(key, side, piece);
        }
    }

    /// Decides all that waits in a connection. `ends`: nothing more of it comes.
    fn flush(&mut self, key: &Key, ends: bool) {
        for side in [Side::A, Side::B] {
            loop {
                let early = self.flows.get(key).and_then(|flow| flow.lanes[side as usize].first_early());
                if early.is_none() {
                    break;
                }
                self.skip_hole(*key, side);
                self.take_early(*key, side);
            }
            let Some(flow) = self.flows.get_mut(key) else { return };
            let (mut out, mut found) = (Vec::new(), Vec::new());
            // What a whole capture says further on is in another file.
            let is_cut = self.recognises && self.is_one_of_several && !flow.is_over;
            self.engine.trust(flow.is_part || is_cut);
            if ends && !is_cut {
                flow.conversation.end(&mut self.engine, side, &mut out, &mut found);
            } else {
                flow.conversation.give_up(&mut self.engine, side, &mut out, &mut found);
            }
            self.give(*key, side, &out, &found);
        }
    }

    fn end_flow(&mut self, key: &Key) {
        self.flush(key, true);
        if let Some(mut flow) = self.flows.remove(key) {
            let freed: usize = flow.lanes.iter_mut().map(Lane::forget).sum();
            self.remembered = self.remembered.saturating_sub(freed);
        }
    }

    /// Ends the connection that has been silent for longest, if there are too many.
    fn make_room(&mut self) {
        if self.flows.len() < FLOWS_MAX {
            return;
        }
        let mut all: Vec<(u64, Key)> = self.flows.iter().map(|(key, flow)| (flow.last, *key)).collect();
        all.sort_unstable();
        for (_, key) in all.into_iter().take(FLOWS_MAX / 8) {
            self.end_flow(&key);
        }
    }

    fn bound_remembered(&mut self) {
        if self.remembered <= REMEMBERED_MAX {
            return;
        }
        // What was counted is more than what is kept.
        let mut all: Vec<(u64, Key)> = self.flows.iter().map(|(key, flow)| (flow.last, *key)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        self.remembered = 0;
        for (_, key) in all {
            let Some(flow) = self.flows.get_mut(&key) else { continue };
            for lane in &mut flow.lanes {
                let len = lane.window_len();
                if self.remembered + len > REMEMBERED_MAX / 2 {
                    lane.forget();
                } else {
                    self.remembered += len;
                }
            }
        }
    }

    /// Takes the blocks that are ready, and makes those that wait too long so.
    pub(super) fn ready(&mut self, write: &mut dyn FnMut(&[u8])) {
        loop {
            while self.queue.front().is_some_and(|waiting| waiting.undecided == 0) {
                let Some(waiting) = self.queue.pop_front() else { break };
                self.first += 1;
                self.queued_bytes -= waiting.bytes.len();
                write(&waiting.finish(&mut self.report));
            }
            if self.queued_bytes <= WAITING_MAX {
                return;
            }
            match self.queue.front().and_then(|waiting| waiting.flow) {
                Some(key) if self.flows.contains_key(&key) => self.flush(&key, false),
                _ => {}
            }
            // Were something left, it would be shown as it is.
            if self.queue.front().is_some_and(|first| first.undecided > 0) {
                self.abandon();
            }
        }
    }

    /// The first that waits is of no connection that is followed: all its payload goes.
    fn abandon(&mut self) {
        debug_assert!(false, "a connection that is flushed leaves nothing undecided");
        let place = self.first;
        if let Some(first) = self.queue.front_mut() {
            first.undecided = 0;
            let range = first.payload.clone();
            self.fill(place, range, Kind::Held);
        }
    }

    fn end_all(&mut self) {
        let mut keys: Vec<(u64, Key)> = self.flows.iter().map(|(key, flow)| (flow.number, *key)).collect();
        keys.sort_unstable();
        for (_, key) in keys {
            self.end_flow(&key);
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self, mut write: impl FnMut(&[u8])) {
        self.end_all();
        self.ready(&mut write);
        while !self.queue.is_empty() {
            self.abandon();
            self.ready(&mut write);
        }
    }
}
