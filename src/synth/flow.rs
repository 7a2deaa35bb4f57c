//! One connection as it is written: sequence numbers, handshake, data, holes, end.

use std::sync::Arc;

use super::comment::Comment;
use super::detect::Protocol;
use super::framing::Framing;
use super::h2::{self, Streams};
use super::packet::{Packet, PacketDirection};
use super::shape::Shape;
use super::tuple::Written;
use super::wire::{Headers, SegmentKind, Tcp};
use super::{ACK_EVERY, HOLE_MAX, NOTES_MAX, SKIP_JUMP, Stats};
use crate::event::record::CHUNK_MAX;
use crate::event::{Missing, Rtt};
use crate::track::segment::{Connection, Payload, Process, Segment, SegmentBody, Side, WallTime};

mod acknowledgment;
mod join;
mod messages;
mod resync;
mod tls;

use join::Waiting;
use messages::{Exchange, Messages};
use resync::{Frames, Label};
use tls::Tls;

/// Where packets go.
pub(super) type Out<'a> = dyn FnMut(Packet<'_>) + 'a;

/// The time of a handshake of which the kernel has measured none, ns. With 0 Wireshark takes a later packet for the
/// end of the handshake, and shows how long a program thought as the initial round-trip time.
const RTT_UNKNOWN: u64 = 1;

/// Processes of one connection that are named; others share one name.
const CALLERS_MAX: usize = 1024;

/// When, and by which thread of which process.
#[derive(Clone, Copy)]
struct At {
    time: WallTime,
    tid: u32,
    /// Index in [`Flow::callers`].
    caller: usize,
}

/// Bytes on their way out, and how many there truly were.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    bytes: &'a [u8],
    len: u64,
    reason: &'static str,
    /// Records that the ring refused, or whose payload was dropped after it.
    lost_records: u64,
}

impl<'a> Stretch<'a> {
    fn whole(bytes: &'a [u8]) -> Stretch<'a> {
        Stretch { bytes, len: bytes.len() as u64, reason: "", lost_records: 0 }
    }
}

/// One direction.
struct Direction {
    headers: Headers,
    /// Next sequence number.
    next: u32,
    /// The sequence position of the next byte of plaintext.
    offset: u64,
    /// Sequence numbers since the other side's last packet.
    unacked: u64,
    /// The last packet with some of them.
    unacked_at: Option<At>,
    /// An unknown number of bytes is missing, and nothing was written after them except perhaps the FIN.
    open_hole: bool,
    /// Something of this direction was written, or is known to be missing.
    begun: bool,
    finished: bool,
    /// HTTP/2 and WebSocket.
    frames: Frames,
    /// HTTP/1.
    messages: Messages,
    /// Other protocols whose message boundaries are known.
    shape: Option<Shape>,
}

/// HTTP/2: what became of the client's first 24 bytes.
enum Preface {
    /// Nothing is written yet.
    Awaited,
    /// A synthetic one is written. If the true one follows, this much of it is still to come.
    MadeUp(&'static [u8]),
    /// The true one is written, but for this many bytes.
    Seen(usize),
}

/// See the module.
pub(super) struct Flow {
    pub(super) connection: Arc<Connection>,
    pub(super) written: Written,
    client: Direction,
    server: Direction,
    /// `None` if the connection is not HTTP/2.
    preface: Option<Preface>,
    /// Of what is written in frames.
    framing: Framing,
    http1: bool,
    exchange: Exchange,
    /// Everything is in TLS records.
    tls: Option<Box<Tls>>,
    /// Bytes of short calls.
    waiting: Waiting,
    /// Comments for the next packet.
    notes: Vec<String>,
    /// The calls that the next packet is joined from, if more than one, as a comment.
    calls: String,
    /// The comment on the SYN.
    about: String,
    /// The processes whose calls are written: first the one that the SYN names.
    callers: Vec<Arc<Process>>,
    /// The last one that was named, and the comment of its packets.
    named: (usize, String),
    /// The latest time of a packet so far, or of what was written on the same addresses before.
    pub(super) latest: WallTime,
    /// A RST was written: nothing is acknowledged any more.
    reset: bool,
    /// See [`Flow::newly_unacknowledged`].
    ack_due: bool,
}

impl Flow {
    /// `None` if the addresses are of two families. `serial` sets the initial sequence numbers:
    /// different for any two of 2^32 following numbers.
    pub(super) fn new(
        connection: Arc<Connection>,
        written: Written,
        protocol: Option<Protocol>,
        serial: u32,
    ) -> Option<Flow> {
        let from_start = connection.from_start;
        let direction = |from, to, isn| {
            Some(Direction {
                headers: Headers::new(from, to)?,
                next: isn,
                offset: 0,
                unacked: 0,
                unacked_at: None,
                open_hole: false,
                begun: false,
                finished: false,
                frames: Frames::new(from_start),
                messages: Messages::new(from_start),
                shape: protocol.and_then(|protocol| Shape::new(protocol, from_start)),
            })
        };
        // Odd factors make these permutations of the 32-bit numbers.
        let isn = serial.wrapping_mul(0x9e37_79b1);
        Some(Flow {
            client: direction(written.client, written.server, isn)?,
            server: direction(written.server, written.client, isn.wrapping_mul(0x85eb_ca6b) ^ 0x5bd1_e995)?,
            preface: (protocol == Some(Protocol::Http2)).then_some(Preface::Awaited),
            callers: vec![Arc::clone(&connection.process)],
            connection,
            written,
            framing: Framing::Http2(Streams::default()),
            http1: protocol == Some(Protocol::Http1),
            exchange: Exchange::default(),
            tls: None,
            waiting: Waiting::default(),
            notes: Vec::new(),
            calls: String::new(),
            about: String::new(),
            named: (0, String::new()),
            latest: 0,
            reset: false,
            ack_due: false,
        })
    }

    fn side(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn note(&mut self, comment: Comment, stats: &mut Stats) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(comment.into());
        } else {
            stats.comments_dropped += 1;
        }
    }

    fn comment(&self) -> Comment {
        Comment::new(self.connection.id)
    }

    /// Writes one packet of `from`; `original` is its true length of payload.
    fn emit(
        &mut self,
        from: Side,
        kind: SegmentKind,
        (payload, original, dropped): (&[u8], usize, u64),
        at: At,
        out: &mut Out,
    ) {
        self.acknowledge_before(from, at, out);
        let peer = self.side(from.peer());
        // Only the SYN has nothing to acknowledge.
        let ack = (kind != SegmentKind::Syn || from == Side::Server).then_some(peer.next);
        (peer.unacked, peer.unacked_at) = (0, None);
        let reset = self.reset;
        let side = self.side(from);
        let headers = side.headers.build(Tcp { seq: side.next, ack, kind }, payload, original);
        let headers = headers.as_slice();
        let phantom = u32::from(matches!(kind, SegmentKind::Syn | SegmentKind::Fin));
        let advance = u32::try_from(original).unwrap_or(u32::MAX);
        side.next = side.next.wrapping_add(advance).wrapping_add(phantom);
        side.open_hole &= kind != SegmentKind::Data;
        // Wireshark 4.0 objects to a pure ACK of a FIN right after a hole.
        if kind == SegmentKind::Data || (kind == SegmentKind::Fin && !side.open_hole) {
            side.unacked += u64::from(advance + phantom);
            side.unacked_at = Some(at).filter(|_| !reset);
        }
        let due = side.unacked >= ACK_EVERY;
        let outbound = from == self.connection.local_side;
        let process = &self.callers[at.caller];
        if kind == SegmentKind::Data && self.named.0 != at.caller {
            self.named = (at.caller, with_caller(Comment::again(&self.about), process).into());
            self.notes.push(with_caller(Comment::new(self.connection.id), process).into());
        }
        out(Packet {
            process,
            tid: at.tid,
            connection: self.connection.id,
            time: at.time,
            after: self.latest,
            direction: if outbound { PacketDirection::Outbound } else { PacketDirection::Inbound },
            headers,
            payload,
            original_len: u32::try_from(headers.len()).unwrap_or(0).saturating_add(advance),
            dropped,
            comments: &self.notes,
            about: if at.caller == 0 { &self.about } else { &self.named.1 },
            calls: &self.calls,
        });
        self.latest = self.latest.max(at.time);
        self.notes.clear();
        self.calls.clear();
        if due {
            self.emit(from.peer(), SegmentKind::Ack, (&[], 0, 0), at, out);
        }
    }

    /// Not in a call.
    fn at(&self, time: WallTime) -> At {
        At { time, tid: self.connection.tid, caller: 0 }
    }

    /// The index of a process whose call is written.
    fn caller(&mut self, process: &Arc<Process>) -> usize {
        if let Some(known) = self.callers.iter().position(|caller| caller.key == process.key) {
            return known;
        }
        match self.callers.len() {
            ..CALLERS_MAX => self.callers.push(Arc::clone(process)),
            CALLERS_MAX => self.callers.push(Arc::new(Process::others())),
            _ => {}
        }
        self.callers.len() - 1
    }

    /// A packet of the connection itself, not of a call.
    fn control(&mut self, from: Side, kind: SegmentKind, time: WallTime, out: &mut Out) {
        let at = self.at(time);
        self.emit(from, kind, (&[], 0, 0), at, out);
    }

    /// The handshake, with a comment on the SYN. It ends at `time`, and takes one round trip if the kernel has
    /// measured it: for the side that sent the SYN until the answer arrived, for the other side until that was
    /// acknowledged.
    pub(super) fn open(&mut self, comment: Comment, time: WallTime, stats: &mut Stats, out: &mut Out) {
        self.about = comment.clone().into();
        self.note(comment, stats);
        let took = self.connection.rtt.map_or(RTT_UNKNOWN, |rtt| self.round_trip(rtt));
        let began = time.saturating_sub(took);
        let answered = if self.connection.local_side == Side::Client { time } else { began };
        self.control(Side::Client, SegmentKind::Syn, began, out);
        self.control(Side::Server, SegmentKind::Syn, answered, out);
        self.control(Side::Client, SegmentKind::Ack, time, out);
    }

    /// That of the SYN, or what is nearest to it, in ns.
    fn round_trip(&self, rtt: Rtt) -> u64 {
        let micros = if self.connection.from_start { rtt.smoothed } else { rtt.least };
        (u64::from(micros) * 1_000).max(RTT_UNKNOWN)
    }

    /// Whatever happens between handshake and end.
    pub(super) fn segment(&mut self, segment: &Segment, stats: &mut Stats, out: &mut Out) {
        let time = segment.time;
        if let SegmentBody::Skip { .. } | SegmentBody::Finish(_) | SegmentBody::Reset { .. } = &segment.body {
            self.joined(stats, out);
        }
        match &segment.body {
            SegmentBody::Payload(payload) => self.payload(payload, time, stats, out),
            SegmentBody::Skip { from, reason } => self.skip(*from, *reason, time, stats, out),
            SegmentBody::Peer(process) => {
                let comment = with_peer(self.comment(), process);
                self.note(comment, stats);
            }
            SegmentBody::ServerName(name) => {
                let comment = self.comment().with("sni", name);
                self.note(comment, stats);
            }
            SegmentBody::Alpn(name) => {
                let comment = self.comment().with("alpn", name);
                self.note(comment, stats);
            }
            SegmentBody::Finish(side) => {
                self.close_side(*side, stats, out);
                self.fin(*side, time, out);
            }
            SegmentBody::Reset { from } => {
                self.close(stats, out);
                self.control(*from, SegmentKind::Rst, time, out);
                self.client.finished = true;
                self.server.finished = true;
                self.reset = true;
            }
            SegmentBody::Open(_) | SegmentBody::End => {}
        }
    }

    fn fin(&mut self, side: Side, time: WallTime, out: &mut Out) {
        if self.side(side).finished {
            return;
        }
        self.side(side).finished = true;
        self.control(side, SegmentKind::Fin, time, out);
        if self.side(side.peer()).finished {
            self.control(side.peer(), SegmentKind::Ack, time, out);
        }
    }

    fn payload(&mut self, payload: &Payload, time: WallTime, stats: &mut Stats, out: &mut Out) {
        let from = payload.from;
        let at = At { time, tid: payload.tid, caller: self.caller(&payload.process) };
        stats.captured_bytes = stats.captured_bytes.saturating_add(payload.bytes.len() as u64);
        let (mut bytes, mut len) = (&payload.bytes[..], payload.len.max(payload.bytes.len() as u64));
        let expected = self.side(from).offset;
        if payload.offset < expected {
            // Twice the same bytes: their place is taken.
            let overlap = (expected - payload.offset).min(len);
            stats.overlapping_bytes = stats.overlapping_bytes.saturating_add(overlap);
            bytes = bytes.get(usize::try_from(overlap).unwrap_or(usize::MAX)..).unwrap_or_default();
            len -= overlap;
        }
        if payload.offset > expected {
            let len = payload.offset - expected;
            let gap = Stretch { bytes: &[], len, reason: "unaccounted", lost_records: 0 };
            self.join(from, gap, at, stats, out);
        }
        if len == 0 {
            return;
        }
        let side = self.side(from);
        side.offset = payload.offset.max(expected).saturating_add(len);
        if side.finished {
            let comment = self.comment().with("after_fin", 1);
            self.note(comment, stats);
        }
        if !payload.redacted.is_empty() {
            let kinds: Vec<String> = payload.redacted.iter().map(|kind| kind.replace(' ', "-")).collect();
            let comment = self.comment().with("redacted", kinds.join(","));
            self.note(comment, stats);
        }
        let missing = len - bytes.len() as u64;
        let dropped = matches!(payload.missing, Some(Missing::RingFull | Missing::WriterBehind));
        let stretch = Stretch {
            bytes,
            len,
            reason: payload.missing.map_or("unaccounted", Missing::as_str),
            lost_records: if dropped { missing.div_ceil(CHUNK_MAX as u64) } else { 0 },
        };
        self.join(from, stretch, at, stats, out);
    }

    fn data(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        self.side(from).begun = true;
        if self.preface.is_some() {
            self.http2(from, stretch, at, stats, out);
        } else if self.http1 {
            self.messages(from, stretch, at, stats, out);
        } else {
            self.stretch(from, stretch, at, stats, out);
        }
    }

    /// HTTP/2 needs a preface first, and frames from their beginning.
    fn http2(&mut self, from: Side, mut stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        if let Some(Preface::Awaited) = self.preface {
            let n = stretch.bytes.len().min(h2::PREFACE.len());
            if from == Side::Client && n > 0 && stretch.bytes[..n] == h2::PREFACE[..n] {
                self.preface = Some(Preface::Seen(h2::PREFACE.len()));
                self.client.frames.begin_after(h2::PREFACE.len());
            } else {
                self.made_up_preface(h2::PREFACE, at, stats, out);
            }
        }
        if let (Side::Server, Some(Preface::Seen(left @ 1..))) = (from, &self.preface) {
            // Its rest must precede what the server sends.
            let (_, rest) = h2::PREFACE.split_at(h2::PREFACE.len() - left);
            self.made_up_preface(rest, at, stats, out);
            self.client.frames = Frames::new(true);
        }
        if from == Side::Client {
            self.apart(&mut stretch, at, stats, out);
            self.absorb_preface(&mut stretch, stats);
            if stretch.len == 0 {
                return;
            }
        }
        self.framed(from, stretch, at, stats, out);
    }

    /// Wireshark 4.0 loses step if a frame continues after the packet in which the preface ends: then the
    /// preface gets a separate packet.
    fn apart(&mut self, stretch: &mut Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        let Some(Preface::Seen(left)) = &mut self.preface else { return };
        let n = stretch.bytes.len().min(*left);
        *left -= n;
        let (preface, rest) = stretch.bytes.split_at(n);
        let one_packet = stretch.len == stretch.bytes.len() as u64
            && stretch.bytes.len() <= self.client.headers.max_payload();
        if n > 0 && !(one_packet && h2::are_whole(rest)) {
            self.framed(Side::Client, Stretch::whole(preface), at, stats, out);
            stretch.bytes = rest;
            stretch.len -= n as u64;
        }
    }

    fn made_up_preface(&mut self, bytes: &'static [u8], at: At, stats: &mut Stats, out: &mut Out) {
        let comment = self.comment().with("synthetic", "h2-preface");
        self.note(comment, stats);
        self.stretch(Side::Client, Stretch::whole(bytes), at, stats, out);
        self.preface = Some(Preface::MadeUp(bytes));
    }

    /// The client's true preface, if it had to be written early, because the server sent first or because it is
    /// missing: it is not written again.
    fn absorb_preface(&mut self, stretch: &mut Stretch, stats: &mut Stats) {
        let Some(Preface::MadeUp(left)) = &mut self.preface else { return };
        if left.is_empty() {
            return;
        }
        let missing = stretch.bytes.is_empty() && stretch.len >= left.len() as u64;
        let n = if missing { left.len() } else { stretch.bytes.len().min(left.len()) };
        if !self.connection.from_start || n == 0 || !missing && stretch.bytes[..n] != left[..n] {
            *left = &[];
            self.client.frames.doubt();
            return;
        }
        *left = &left[n..];
        let done = left.is_empty();
        stretch.bytes = stretch.bytes.get(n..).unwrap_or_default();
        stretch.len -= n as u64;
        if missing {
            stats.missing_bytes = stats.missing_bytes.saturating_add(n as u64);
            self.label(Label { missing: n as u64, reason: stretch.reason, lost_records: 0 }, stats);
        }
        if done {
            let comment = self.comment().with("already_written", "h2-preface");
            self.note(comment, stats);
        }
    }

    /// A packet with a synthetic frame header, or the missing part of it, in a hole of `len` bytes.
    fn made_up(
        &mut self,
        from: Side,
        bytes: &[u8],
        (len, lost_records): (u64, u64),
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let comment = self.comment().with("synthetic", self.framing.made_up_name());
        self.note(comment, stats);
        self.packets(from, bytes, (len, lost_records), at, stats, out);
    }

    /// Writes bytes as packets of true length: what is missing at the end of `bytes` is truncated from the
    /// packet, and packets with only headers represent the rest.
    fn stretch(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        let Stretch { bytes, len, reason, lost_records } = stretch;
        let max = self.side(from).headers.max_payload();
        let missing = len - bytes.len() as u64;
        if missing == 0 {
            return self.packets(from, bytes, (len, 0), at, stats, out);
        }
        if self.tls.is_some() {
            return self.stretch_filled(from, stretch, at, stats, out);
        }
        stats.missing_bytes = stats.missing_bytes.saturating_add(missing);
        let (before, cut) = bytes.split_at(bytes.len() / max * max);
        self.packets(from, before, (before.len() as u64, 0), at, stats, out);
        let label = Label { missing, reason, lost_records };
        if missing > HOLE_MAX {
            self.packets(from, cut, (cut.len() as u64, 0), at, stats, out);
            self.label(label, stats);
            self.jump(from, SKIP_JUMP, lost_records, at, out);
        } else {
            self.label(label, stats);
            self.packets(from, cut, (cut.len() as u64 + missing, lost_records), at, stats, out);
        }
    }

    /// The comment on the next packet says that bytes are missing after it, or in it.
    fn label(&mut self, label: Label, stats: &mut Stats) {
        let comment = self.comment().with("missing", label.missing).with("reason", label.reason);
        let filled = self.tls.is_some().then_some(label.missing);
        self.note(comment.with_some("filled", filled), stats);
    }

    /// Packets for `bytes` and what is missing after them, `len` bytes in total.
    fn packets(
        &mut self,
        from: Side,
        mut bytes: &[u8],
        (mut len, mut lost_records): (u64, u64),
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let missing = len - bytes.len() as u64;
        if self.tls.is_some() {
            let len = bytes.len() as u64 + stats.fill(missing);
            return if len > 0 {
                self.records(from, bytes, len, lost_records, at, out)
            };
        }
        if !stats.spare_hole(missing) {
            self.packets(from, bytes, (bytes.len() as u64, 0), at, stats, out);
            return self.jump(from, SKIP_JUMP, lost_records, at, out);
        }
        let max = self.side(from).headers.max_payload();
        while len > 0 {
            let original = usize::try_from(len).map_or(max, |len| len.min(max));
            let captured = bytes.len().min(original);
            self.emit(from, SegmentKind::Data, (&bytes[..captured], original, lost_records), at, out);
            lost_records = 0;
            bytes = &bytes[captured..];
            len -= original as u64;
        }
    }

    /// Bytes are missing; it is unknown how many.
    fn skip(&mut self, from: Side, reason: Missing, time: WallTime, stats: &mut Stats, out: &mut Out) {
        stats.unknown_holes += 1;
        let at = self.at(time);
        let lost_records = u64::from(reason == Missing::RingFull);
        let comment = self.comment().with("missing", "unknown").with("reason", reason.as_str());
        let joined = !self.connection.from_start;
        let side = self.side(from);
        if let Some(shape) = &mut side.shape {
            shape.missing(None);
        }
        if !std::mem::replace(&mut side.begun, true) && joined {
            // What precedes the capture is not there either: the comment is enough, on the next packet.
            self.note(comment, stats);
        } else if self.tls.is_some() {
            self.skip_filled(from, reason, at, stats, out);
        } else if self.preface.is_some() || self.exchange.is_websocket() {
            self.skipped(from, comment, lost_records, at, stats, out);
        } else {
            let by = if self.http1 { self.message_skipped(from, at, stats, out) } else { SKIP_JUMP };
            self.note(comment, stats);
            self.jump(from, by, lost_records, at, out);
        }
    }

    /// Skips sequence numbers for a hole that cannot be written at its true length.
    fn jump(&mut self, from: Side, by: u32, lost_records: u64, at: At, out: &mut Out) {
        self.acknowledge_before(from, at, out);
        // What precedes the hole; after it there may be nothing that could be acknowledged.
        self.acknowledge(from.peer(), out);
        let side = self.side(from);
        side.open_hole = true;
        side.next = side.next.wrapping_add(by);
        self.emit(from, SegmentKind::Ack, (&[], 0, lost_records), at, out);
    }
}

/// Names the process whose call is written.
fn with_caller(comment: Comment, process: &Process) -> Comment {
    let comment = comment.with("caller_pid", process.key.pid).with("caller_comm", &process.comm);
    comment.with_some("caller_exe", Some(&process.exe).filter(|exe| !exe.is_empty()))
}

/// Names the process at the other end.
pub(super) fn with_peer(comment: Comment, process: &Process) -> Comment {
    let comment = comment.with("peer_pid", process.key.pid).with("peer_comm", &process.comm);
    comment.with_some("peer_exe", Some(&process.exe).filter(|exe| !exe.is_empty()))
}
