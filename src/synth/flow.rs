//! One connection as it is written: sequence numbers, handshake, data, holes, end.

use std::sync::Arc;

use super::comment::Comment;
use super::detect::Protocol;
use super::h2;
use super::packet::{Packet, PacketDirection};
use super::tuple::Written;
use super::wire::{Headers, Kind, Tcp};
use super::{ACK_EVERY, HOLE_MAX, NOTES_MAX, SKIP_JUMP, Stats};
use crate::event::Missing;
use crate::event::record::CHUNK_MAX;
use crate::track::segment::{Body, Connection, Payload, Process, Segment, Side, WallTime};

/// Where packets go.
pub(super) type Out<'a> = dyn FnMut(Packet<'_>) + 'a;

/// When, and by which thread.
#[derive(Clone, Copy)]
struct At {
    time: WallTime,
    tid: u32,
}

/// Bytes on their way out, and how many there truly were.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    bytes: &'a [u8],
    len: u64,
    reason: &'static str,
    /// Records that the ring refused, or whose payload was given up behind it.
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
    /// Where the next byte of the plaintext should stand.
    offset: u64,
    /// Bytes since the other side's last packet.
    unacked: u64,
    /// Something of this direction was written, or is known to be missing.
    begun: bool,
    finished: bool,
    /// HTTP/2: the next byte begins a frame, or continues one whose beginning is in the file.
    aligned: bool,
}

/// HTTP/2: what became of the client's first 24 bytes.
enum Preface {
    /// Nothing is written yet.
    Awaited,
    /// A made-up one is written. If the true one follows, this much of it is still to come.
    MadeUp(&'static [u8]),
    /// The true one is written.
    Seen,
}

/// See the module.
pub(super) struct Flow {
    connection: Arc<Connection>,
    pub(super) written: Written,
    client: Direction,
    server: Direction,
    /// `None` if the connection is not HTTP/2.
    preface: Option<Preface>,
    /// Comments for the next packet.
    notes: Vec<String>,
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
        let aligned = connection.from_start;
        let direction = |from, to, isn| {
            Some(Direction {
                headers: Headers::new(from, to)?,
                next: isn,
                offset: 0,
                unacked: 0,
                begun: false,
                finished: false,
                aligned,
            })
        };
        // Odd factors make these permutations of the 32-bit numbers.
        let isn = serial.wrapping_mul(0x9e37_79b1);
        Some(Flow {
            client: direction(written.client, written.server, isn)?,
            server: direction(written.server, written.client, isn.wrapping_mul(0x85eb_ca6b) ^ 0x5bd1_e995)?,
            preface: (protocol == Some(Protocol::Http2)).then_some(Preface::Awaited),
            connection,
            written,
            notes: Vec::new(),
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
        kind: Kind,
        (payload, original, dropped): (&[u8], usize, u64),
        at: At,
        out: &mut Out,
    ) {
        let peer = self.side(from.peer());
        // Only the SYN has nothing to acknowledge.
        let ack = (kind != Kind::Syn || from == Side::Server).then_some(peer.next);
        peer.unacked = 0;
        let side = self.side(from);
        let headers = side.headers.build(Tcp { seq: side.next, ack, kind }, payload, original);
        let headers = headers.as_slice();
        let phantom = u32::from(matches!(kind, Kind::Syn | Kind::Fin));
        let advance = u32::try_from(original).unwrap_or(u32::MAX);
        side.next = side.next.wrapping_add(advance).wrapping_add(phantom);
        side.unacked += u64::from(advance);
        let due = side.unacked >= ACK_EVERY;
        let outbound = from == self.connection.local_side;
        out(Packet {
            process: &self.connection.process,
            tid: at.tid,
            connection: self.connection.id,
            time: at.time,
            direction: if outbound { PacketDirection::Outbound } else { PacketDirection::Inbound },
            headers,
            payload,
            original_len: u32::try_from(headers.len()).unwrap_or(0).saturating_add(advance),
            dropped,
            comments: &self.notes,
        });
        self.notes.clear();
        if due {
            self.emit(from.peer(), Kind::Ack, (&[], 0, 0), at, out);
        }
    }

    /// A packet of the connection itself, not of a call.
    fn control(&mut self, from: Side, kind: Kind, time: WallTime, out: &mut Out) {
        let at = At { time, tid: self.connection.tid };
        self.emit(from, kind, (&[], 0, 0), at, out);
    }

    /// The handshake, with a comment on the SYN.
    pub(super) fn open(&mut self, comment: Comment, time: WallTime, stats: &mut Stats, out: &mut Out) {
        self.note(comment, stats);
        self.control(Side::Client, Kind::Syn, time, out);
        self.control(Side::Server, Kind::Syn, time, out);
        self.control(Side::Client, Kind::Ack, time, out);
    }

    /// Whatever happens between handshake and end.
    pub(super) fn segment(&mut self, segment: &Segment, stats: &mut Stats, out: &mut Out) {
        let time = segment.time;
        match &segment.body {
            Body::Payload(payload) => self.payload(payload, time, stats, out),
            Body::Skip { from, reason } => {
                stats.unknown_holes += 1;
                self.jump(
                    *from,
                    "unknown",
                    reason.as_str(),
                    u64::from(*reason == Missing::RingFull),
                    time,
                    stats,
                    out,
                );
            }
            Body::Peer(process) => {
                let comment = with_peer(self.comment(), process);
                self.note(comment, stats);
            }
            Body::ServerName(name) => {
                let comment = self.comment().with("sni", name);
                self.note(comment, stats);
            }
            Body::Alpn(name) => {
                let comment = self.comment().with("alpn", name);
                self.note(comment, stats);
            }
            Body::Finish(side) => self.fin(*side, time, out),
            Body::Reset { from } => {
                self.control(*from, Kind::Rst, time, out);
                self.client.finished = true;
                self.server.finished = true;
            }
            Body::Open(_) | Body::End => {}
        }
    }

    fn fin(&mut self, side: Side, time: WallTime, out: &mut Out) {
        if self.side(side).finished {
            return;
        }
        self.side(side).finished = true;
        self.control(side, Kind::Fin, time, out);
        if self.side(side.peer()).finished {
            self.control(side.peer(), Kind::Ack, time, out);
        }
    }

    fn payload(&mut self, payload: &Payload, time: WallTime, stats: &mut Stats, out: &mut Out) {
        let from = payload.from;
        let at = At { time, tid: payload.tid };
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
            self.stretch(
                from,
                Stretch { bytes: &[], len, reason: "unaccounted", lost_records: 0 },
                at,
                stats,
                out,
            );
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
        let missing = len - bytes.len() as u64;
        let dropped = matches!(payload.missing, Some(Missing::RingFull | Missing::WriterBehind));
        let stretch = Stretch {
            bytes,
            len,
            reason: payload.missing.map_or("unaccounted", Missing::as_str),
            lost_records: if dropped { missing.div_ceil(CHUNK_MAX as u64) } else { 0 },
        };
        if self.preface.is_some() {
            self.http2(from, stretch, at, stats, out);
        } else {
            self.stretch(from, stretch, at, stats, out);
        }
    }

    /// HTTP/2 needs a preface first, and frames from their beginning.
    fn http2(&mut self, from: Side, mut stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        if let Some(Preface::Awaited) = self.preface {
            let n = stretch.bytes.len().min(h2::PREFACE.len());
            if from == Side::Client && n > 0 && stretch.bytes[..n] == h2::PREFACE[..n] {
                self.preface = Some(Preface::Seen);
                self.client.aligned = true;
            } else {
                let comment = self.comment().with("synthetic", "h2-preface");
                self.note(comment, stats);
                self.stretch(Side::Client, Stretch::whole(h2::PREFACE), at, stats, out);
                self.preface = Some(Preface::MadeUp(h2::PREFACE));
            }
        }
        if from == Side::Client {
            self.absorb_preface(&mut stretch, stats);
            if stretch.len == 0 {
                return;
            }
        }
        if !self.side(from).aligned {
            let whole = stretch.bytes.len() as u64 == stretch.len;
            let boundary = h2::boundary(stretch.bytes, whole);
            self.side(from).aligned = boundary.is_some();
            let end = boundary.map_or(stretch.len, |at| at as u64);
            let mut part = stretch;
            if boundary.is_some() {
                let at = boundary.unwrap_or(0);
                part = Stretch::whole(&stretch.bytes[..at]);
                stretch.bytes = &stretch.bytes[at..];
            }
            stretch.len -= end;
            self.wrapped(from, Stretch { len: end, ..part }, at, stats, out);
            if stretch.len == 0 {
                return;
            }
        }
        self.stretch(from, stretch, at, stats, out);
    }

    /// The client's true preface, if the server spoke first, so that it had to be written before its
    /// time: it is not written again.
    fn absorb_preface(&mut self, stretch: &mut Stretch, stats: &mut Stats) {
        let Some(Preface::MadeUp(left)) = &mut self.preface else { return };
        if left.is_empty() {
            return;
        }
        let n = stretch.bytes.len().min(left.len());
        if n == 0 || stretch.bytes[..n] != left[..n] {
            *left = &[];
            self.client.aligned = false;
            return;
        }
        *left = &left[n..];
        stretch.bytes = &stretch.bytes[n..];
        stretch.len -= n as u64;
        if left.is_empty() {
            self.client.aligned = true;
            let comment = self.comment().with("already_written", "h2-preface");
            self.note(comment, stats);
        }
    }

    /// A part of a frame whose beginning is not in the file: made-up frame headers keep readers in
    /// step without a byte left out.
    fn wrapped(&mut self, from: Side, mut stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        if stretch.len > HOLE_MAX {
            return self.stretch(from, stretch, at, stats, out);
        }
        while stretch.len > 0 {
            let len = stretch.len.min(h2::MAX_FRAME);
            let n = stretch.bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let comment = self.comment().with("synthetic", "h2-frame-header").with("for", len);
            self.note(comment, stats);
            self.stretch(from, Stretch::whole(&h2::wrapper(len)), at, stats, out);
            self.stretch(from, Stretch { bytes: &stretch.bytes[..n], len, ..stretch }, at, stats, out);
            stretch.bytes = &stretch.bytes[n..];
            stretch.len -= len;
        }
    }

    /// Writes bytes as packets of true length: what is missing at the end of `bytes` is cut off the
    /// packet, and packets of headers only stand for the rest.
    fn stretch(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        let Stretch { mut bytes, mut len, reason, lost_records } = stretch;
        let max = self.side(from).headers.max_payload();
        self.side(from).begun = true;
        let missing = len - bytes.len() as u64;
        stats.missing_bytes = stats.missing_bytes.saturating_add(missing);
        let mut labelled = missing == 0;
        while len > 0 {
            if bytes.is_empty() && len > HOLE_MAX {
                return self.jump(from, len, reason, lost_records, at.time, stats, out);
            }
            let original = usize::try_from(len).map_or(max, |len| len.min(max));
            let captured = bytes.len().min(original);
            let mut dropped = 0;
            if captured < original && !labelled {
                labelled = true;
                dropped = lost_records;
                let comment = self.comment().with("missing", missing).with("reason", reason);
                self.note(comment, stats);
            }
            self.emit(from, Kind::Data, (&bytes[..captured], original, dropped), at, out);
            bytes = &bytes[captured..];
            len -= original as u64;
        }
    }

    /// A hole that cannot be written in its true length: a small one instead, and the comment says
    /// what is known.
    #[allow(clippy::too_many_arguments)]
    fn jump(
        &mut self,
        from: Side,
        missing: impl std::fmt::Display,
        reason: &str,
        dropped: u64,
        time: WallTime,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let comment = self.comment().with("missing", missing).with("reason", reason);
        self.note(comment, stats);
        let joined = !self.connection.from_start;
        let side = self.side(from);
        side.aligned = false;
        if !std::mem::replace(&mut side.begun, true) && joined {
            // Whatever came before the capture is not there either: the comment will do, on the
            // next packet.
            return;
        }
        side.next = side.next.wrapping_add(SKIP_JUMP);
        let at = At { time, tid: self.connection.tid };
        self.emit(from, Kind::Ack, (&[], 0, dropped), at, out);
    }
}

/// Names the process at the other end.
pub(super) fn with_peer(comment: Comment, process: &Process) -> Comment {
    let comment = comment.with("peer_pid", process.key.pid).with("peer_comm", &process.comm);
    comment.with_some("peer_exe", Some(&process.exe).filter(|exe| !exe.is_empty()))
}
