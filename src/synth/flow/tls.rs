//! The plaintext inside synthetic TLS.
//!
//! What Wireshark 4.0 to 4.6 does, and what follows:
//!
//! - A record with a missing part is not decoded, and a gap between records puts that direction out of step. So
//!   what is missing is written as zeros: as many as keep readers of the plaintext in step, which is not always
//!   as many as are missing. Sequence numbers are those of the records.
//! - In frames (HTTP/2, WebSocket) the frame that the hole interrupts is filled up; what is missing after it is
//!   not written at all. A part of a frame after the hole gets a synthetic header.
//! - In HTTP/1 a body of known length is filled up, and a head is ended. Bytes that begin no message are a
//!   continuation if a line ends in them; otherwise a synthetic line end is added.
//! - A comment is on the first record of zeros, or on an empty record if there are none.

use super::messages::MessagePosition as Message;
use super::resync::{FramePosition, Label};
use super::{At, Comment, Flow, Out, Stretch};
use crate::event::Missing;
use crate::synth::Stats;
use crate::synth::chunks::Chunks;
use crate::synth::framing::Framing;
use crate::synth::h1;
use crate::synth::tls::{self, Handshake};
use crate::synth::wire::SegmentKind;
use crate::track::segment::{Side, WallTime};

/// Zeros that are written in one piece.
const ZEROS: usize = 3 * tls::RECORD_MAX;

/// Bytes on their way into records.
#[derive(Default)]
pub(super) struct Tls {
    records: Vec<u8>,
}

impl Flow {
    /// The handshake of TLS, after that of TCP: everything that follows is in records.
    pub(in crate::synth) fn handshake(
        &mut self,
        handshake: Handshake<'_>,
        time: WallTime,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let at = self.at(time);
        for (from, bytes) in [
            (Side::Client, handshake.client_hello()),
            (Side::Server, handshake.server_hello()),
            (Side::Client, tls::change_cipher_spec()),
            (Side::Server, tls::change_cipher_spec()),
        ] {
            let comment = self.comment().with("synthetic", "tls-handshake");
            self.note(comment, stats);
            self.emit(from, SegmentKind::Data, (&bytes, bytes.len(), 0), at, out);
        }
        self.tls = Some(Box::default());
        // Synthetic bytes can be written wherever they are needed: no place is reserved for them.
        for from in [Side::Client, Side::Server] {
            self.side(from).messages.within_tls();
        }
    }

    /// Writes bytes, and zeros after them, `len` in total. Without any, an empty record is written.
    pub(super) fn records(
        &mut self,
        from: Side,
        mut bytes: &[u8],
        len: u64,
        mut lost_records: u64,
        at: At,
        out: &mut Out,
    ) {
        let max = self.side(from).headers.max_payload();
        let mut records = self.tls.as_mut().map(|tls| std::mem::take(&mut tls.records)).unwrap_or_default();
        let mut zeros = len - bytes.len() as u64;
        // Records of equal size, so that those of one call fit into one packet.
        let size = bytes.len().div_ceil(bytes.len().div_ceil(tls::RECORD_MAX).max(1));
        loop {
            let (now, later) = bytes.split_at(bytes.len().min(size));
            bytes = later;
            let filled = zeros.min((tls::RECORD_MAX - now.len()) as u64) as usize;
            let filled = if later.is_empty() { filled } else { 0 };
            zeros -= filled as u64;
            if records.len() + now.len() + filled + tls::OVERHEAD
                > max.min(ZEROS + ZEROS / 3 + 4 * tls::OVERHEAD)
            {
                self.emit(from, SegmentKind::Data, (&records, records.len(), lost_records), at, out);
                lost_records = 0;
                records.clear();
            }
            tls::record(&mut records, now, filled);
            if later.is_empty() && zeros == 0 {
                break;
            }
        }
        self.emit(from, SegmentKind::Data, (&records, records.len(), lost_records), at, out);
        records.clear();
        if let Some(tls) = &mut self.tls {
            tls.records = records;
        }
    }

    /// Writes this many zeros for what is missing, within the limit, with a comment.
    fn filled(&mut self, from: Side, label: Label, zeros: u64, at: At, stats: &mut Stats, out: &mut Out) {
        let zeros = stats.fill(zeros);
        let comment = self.comment().with("missing", label.missing).with("reason", label.reason);
        self.note(comment.with("filled", zeros), stats);
        self.records(from, &[], zeros, label.lost_records, at, out);
    }

    /// A hole in what is no known protocol of messages or frames.
    pub(super) fn stretch_filled(
        &mut self,
        from: Side,
        stretch: Stretch,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let label = self.hole_label(&stretch, stats);
        self.captured(from, stretch.bytes, at, out);
        self.filled(from, label, label.missing, at, stats, out);
    }

    fn hole_label(&self, stretch: &Stretch, stats: &mut Stats) -> Label {
        let missing = stretch.len - stretch.bytes.len() as u64;
        stats.missing_bytes = stats.missing_bytes.saturating_add(missing);
        Label { missing, reason: stretch.reason, lost_records: stretch.lost_records }
    }

    fn captured(&mut self, from: Side, bytes: &[u8], at: At, out: &mut Out) {
        if !bytes.is_empty() {
            self.records(from, bytes, bytes.len() as u64, 0, at, out);
        }
    }

    /// Bytes of frames followed by a hole; the frames of the bytes are known. `begin`: where in them the frame
    /// begins that the hole damages.
    pub(super) fn broken_filled(
        &mut self,
        from: Side,
        stretch: Stretch,
        begin: Option<usize>,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let label = self.hole_label(&stretch, stats);
        let mut framing = self.framing;
        let frames = &mut self.side(from).frames;
        let place = frames.place();
        let (left, exact) = rest_of_frame(place, &framing);
        let is_short = stats.fill_room(label.missing) == label.missing;
        let goes_on = exact && label.missing <= left && is_short;
        if goes_on {
            frames.walk_zeros(label.missing, &mut framing);
        } else {
            frames.doubt();
        }
        self.framing = framing;
        // Zeros are harmless only in data: any other frame is written as one of unknown type, unless readers
        // have already seen some of it.
        let cut = begin.map(|begin| &stretch.bytes[begin..]).filter(|cut| !framing.is_data(cut));
        let Some(cut) = cut else {
            self.captured(from, stretch.bytes, at, out);
            return self.filled(from, label, if goes_on { label.missing } else { left }, at, stats, out);
        };
        self.captured(from, &stretch.bytes[..stretch.bytes.len() - cut.len()], at, out);
        let len = cut.len() as u64 + if goes_on { left } else { 0 };
        let comment = self.comment().with("synthetic", framing.made_up_name());
        self.note(comment, stats);
        let header = framing.made_up(len);
        self.records(from, &header, header.len() as u64, 0, at, out);
        self.captured(from, cut, at, out);
        self.filled(from, label, if goes_on { label.missing } else { 0 }, at, stats, out);
    }

    /// A hole of unknown length.
    pub(super) fn skip_filled(
        &mut self,
        from: Side,
        reason: Missing,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let mut behind = &[][..];
        let zeros = if self.preface.is_some() || self.exchange.is_websocket() {
            self.close_side(from, stats, out);
            let framing = self.framing;
            let frames = &mut self.side(from).frames;
            let (left, _) = rest_of_frame(frames.place(), &framing);
            frames.doubt();
            left
        } else if self.http1 {
            self.written_out(from, false, stats, out);
            let (zeros, end) = self.message_ended(from, at, stats, out);
            behind = end;
            zeros
        } else {
            0
        };
        let zeros = stats.fill(zeros);
        let comment = self.comment().with("missing", "unknown").with("reason", reason.as_str());
        self.note(comment.with("filled", zeros), stats);
        let lost_records = u64::from(reason == Missing::RingFull);
        self.records(from, &[], zeros, lost_records, at, out);
        self.made_up_end(from, behind, at, stats, out);
    }

    /// Bytes of HTTP/1 followed by a hole; the messages of the bytes are known.
    pub(super) fn interrupted_filled(
        &mut self,
        from: Side,
        stretch: Stretch,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        let label = self.hole_label(&stretch, stats);
        self.captured(from, stretch.bytes, at, out);
        let messages = &mut self.side(from).messages;
        let mut behind = &[][..];
        let chunks = *messages.chunks();
        let is_short = stats.fill_room(label.missing) == label.missing;
        let zeros = match (messages.place(), chunks) {
            // The message continues after the hole, or ends with it.
            (Message::Body(left), _) if label.missing <= *left && is_short => {
                let rest = *left - label.missing;
                messages.body_left(rest);
                label.missing
            }
            (Message::Open, Some(Chunks::Data(left))) if label.missing < left && is_short => {
                *messages.chunks() = Some(Chunks::Data(left - label.missing));
                label.missing
            }
            // Only the connection's end ends it.
            (Message::Open, None) => label.missing,
            _ => {
                let (zeros, end) = self.message_ended(from, at, stats, out);
                behind = end;
                zeros
            }
        };
        self.filled(from, label, zeros, at, stats, out);
        self.made_up_end(from, behind, at, stats, out);
    }

    /// After a hole the search for messages restarts: ends a head that the hole interrupts, and returns how
    /// many zeros end the message, and what follows them.
    fn message_ended(
        &mut self,
        from: Side,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) -> (u64, &'static [u8]) {
        let messages = &mut self.side(from).messages;
        let chunks = messages.chunks().take();
        match (messages.lost(), chunks) {
            (Message::Body(left), _) => (left, &[]),
            (Message::Open, Some(chunks)) => {
                let end = chunks.end();
                self.made_up_end(from, end.before, at, stats, out);
                (end.zeros, end.behind)
            }
            (Message::Head(mut head), _) if !head.is_empty() => {
                const END: &[u8] = b"\r\n\r\n";
                head.extend_from_slice(END);
                let whole = h1::head_len(&head).unwrap_or(head.len());
                let place = if h1::begins(from, &head) {
                    self.exchange.after(from, &head[..whole])
                } else {
                    Message::Lost
                };
                // A body without end would take all that follows.
                let end = match place {
                    Message::Open if h1::is_chunked(&head[..whole]) => b"\r\n\r\n0\r\n\r\n",
                    Message::Open | Message::Lost => &b"\r\nContent-Length: 0\r\n\r\n"[..],
                    _ => END,
                };
                self.made_up_end(from, end, at, stats, out);
                (if let Message::Body(left) = place { left } else { 0 }, &[])
            }
            _ => (0, &[]),
        }
    }

    /// Synthetic bytes that end a message.
    fn made_up_end(&mut self, from: Side, bytes: &[u8], at: At, stats: &mut Stats, out: &mut Out) {
        if !bytes.is_empty() {
            let comment = self.comment().with("synthetic", "http1-end");
            self.note(comment, stats);
            self.records(from, bytes, bytes.len() as u64, 0, at, out);
        }
    }

    /// Bytes follow a hole and begin no message; a message follows them: one line must end in them.
    pub(super) fn line_ended(&mut self, from: Side, at: At, stats: &mut Stats, out: &mut Out) {
        let comment: Comment = self.comment().with("synthetic", "http1-line-end");
        self.note(comment, stats);
        self.records(from, b"~\r\n", 3, 0, at, out);
    }
}

/// How many bytes end the frame that is interrupted here, if what is missing of its header is zero, and
/// whether the frame is truly so long.
fn rest_of_frame(place: FramePosition, framing: &Framing) -> (u64, bool) {
    match place {
        FramePosition::Unknown => (0, false),
        FramePosition::Payload(left) => (left, true),
        FramePosition::Header(_, 0) => (0, true),
        FramePosition::Header(mut header, n) => {
            if let Some(left) = framing.left(&header[..n]) {
                return (left, true);
            }
            let mut end = n;
            while end < framing.header_len(&header[..end]) {
                header[end] = 0;
                end += 1;
            }
            let mut framing = *framing;
            ((end - n) as u64 + framing.payload_len(&header[..end]), false)
        }
    }
}
