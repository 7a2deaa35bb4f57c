//! Keeps readers in step with the messages of HTTP/1, whatever is missing.
//!
//! What Wireshark 4.0 to 4.6 does, and what follows:
//!
//! - A complete packet with a head that announces a length reserves the sequence numbers of its body. What
//!   arrives in them is not dissected, and the next message is found right after it, also in the middle of a
//!   packet. If any of it is missing, the message is not shown.
//! - A truncated packet with a head is shown, but reserves nothing.
//! - Bytes that begin no message and are not reserved are a "Continuation", to the end of their packet. But if
//!   no line ends in the packet, the next one is added, and a message that begins there is not seen. So bytes
//!   after a hole are written in packets in which a line ends; what follows the last line end waits
//!   ([`HELD_MAX`], [`crate::synth::HOLD_TIME`]).
//! - After a hole, `HTTP/` begins a response that takes everything that follows, even if it is the rest of a
//!   request's first line. A synthetic byte before it, in the hole, makes it a continuation.
//! - If no line ends, or the length of the rest is known, a synthetic head at the end of the hole reserves the
//!   rest. Because a byte of the hole is in it, it is not shown as a message.

use std::collections::VecDeque;

use super::resync::{Frames, HeaderSpace, Label};
use super::{At, Flow, Out, Stretch};
use crate::synth::chunks::Chunks;
use crate::synth::framing::Framing;
use crate::synth::h1::{self, BodyLength, Request};
use crate::synth::{HELD_MAX, HOLE_MAX, SKIP_JUMP, Stats};
use crate::track::segment::{Side, WallTime};

/// This much of a hole's end waits: enough for a synthetic head and a missing byte.
const ROOM: u64 = 64;

/// The longest rest of a body that a synthetic head announces.
const REST_MAX: u64 = 1 << 30;

/// Few chunks of a body are longer.
const CHUNK: u32 = 1 << 20;

/// The most requests whose answers are awaited.
const REQUESTS_MAX: usize = 1024;

/// What both directions know.
#[derive(Default)]
pub(super) struct Exchange {
    /// The requests without an answer.
    requests: VecDeque<Request>,
    /// Another protocol has taken over.
    upgraded: bool,
    /// It is WebSocket.
    websocket: bool,
}

/// The messages of one direction.
pub(super) struct Messages {
    place: MessagePosition,
    room: Option<HeaderSpace>,
    held: Vec<u8>,
    /// Their calls, each with its end in `held`.
    calls: Vec<(usize, At)>,
    /// Inside TLS, in a body with chunks.
    chunks: Option<Chunks>,
    in_tls: bool,
}

pub(super) enum MessagePosition {
    /// Before a message, or in its head: its bytes so far.
    Head(Vec<u8>),
    /// So many bytes before the next message.
    Body(u64),
    /// Behind the last message.
    Upgraded,
    /// In a message; only its own framing shows where it ends.
    Open,
    /// Behind a hole.
    Lost,
}

const BORDER: MessagePosition = MessagePosition::Head(Vec::new());

impl Messages {
    pub(super) fn new(from_start: bool) -> Messages {
        let (place, room) =
            if from_start { (BORDER, None) } else { (MessagePosition::Lost, Some(HeaderSpace::Beginning)) };
        Messages { place, room, held: Vec::new(), calls: Vec::new(), chunks: None, in_tls: false }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn since(&self) -> Option<WallTime> {
        self.calls.first().map(|(_, at)| at.time)
    }

    /// Synthetic bytes never replace missing ones.
    pub(super) fn within_tls(&mut self) {
        self.room = None;
        self.in_tls = true;
    }

    pub(super) fn chunks(&mut self) -> &mut Option<Chunks> {
        &mut self.chunks
    }

    pub(super) fn place(&self) -> &MessagePosition {
        &self.place
    }

    /// So many bytes are left of the body.
    pub(super) fn body_left(&mut self, left: u64) {
        self.place = if left > 0 { MessagePosition::Body(left) } else { BORDER };
    }

    /// Marks it as unknown where the next message begins; returns what was known before.
    pub(super) fn lost(&mut self) -> MessagePosition {
        std::mem::replace(&mut self.place, MessagePosition::Lost)
    }

    /// Where in what is held to begin a packet in which a line ends; `None` if nowhere.
    fn last_line(&self) -> Option<usize> {
        let line = self.held.iter().rposition(|b| *b == b'\n')?;
        // The line must not be empty.
        self.held[..line].iter().rposition(|b| !b"\r\n".contains(b))
    }

    /// Advances over the bytes of a call; returns where in them the last message begins, if it does not end in
    /// them.
    fn walk(&mut self, side: Side, bytes: &[u8], exchange: &mut Exchange) -> Option<usize> {
        let mut begin = None;
        let mut at = 0;
        if matches!(self.place, MessagePosition::Open | MessagePosition::Lost)
            && self.chunks.is_none()
            && h1::begins(side, bytes)
        {
            self.place = BORDER;
        }
        while at < bytes.len() && !exchange.upgraded {
            match &mut self.place {
                MessagePosition::Open | MessagePosition::Lost | MessagePosition::Upgraded => {
                    let Some(chunks) = &mut self.chunks else { return begin };
                    let (len, ends) = chunks.walk(&bytes[at..]);
                    at += len;
                    if !ends {
                        return begin;
                    }
                    self.chunks = None;
                    self.place = BORDER;
                    begin = None;
                }
                MessagePosition::Body(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    at += n;
                    *left -= n as u64;
                }
                MessagePosition::Head(head) => {
                    let before = head.len();
                    if before == 0 {
                        begin = Some(at);
                    }
                    let more = &bytes[at..][..(bytes.len() - at).min(h1::HEAD_MAX - before)];
                    // Most heads arrive complete: then only they are copied.
                    let end = if before == 0 { h1::head_len(more) } else { None };
                    head.extend_from_slice(&more[..end.unwrap_or(more.len())]);
                    // Earlier bytes were searched.
                    let searched = before.saturating_sub(3);
                    let Some(len) = h1::head_len(&head[searched..]).map(|len| searched + len) else {
                        let strange = before == 0 && more.len() > 16 && !h1::begins(side, more);
                        if head.len() >= h1::HEAD_MAX || strange {
                            self.place = MessagePosition::Open;
                        }
                        return begin;
                    };
                    at += len - before;
                    head.truncate(len);
                    let chunked = self.in_tls && h1::is_chunked(head);
                    self.place = exchange.after(side, head);
                    self.chunks =
                        (chunked && matches!(self.place, MessagePosition::Open)).then(Chunks::default);
                    if let MessagePosition::Upgraded = self.place {
                        return Some(at);
                    }
                }
            }
            if matches!(self.place, MessagePosition::Body(0)) {
                self.place = BORDER;
                begin = None;
            }
        }
        begin
    }
}

impl Exchange {
    pub(super) fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// No messages of HTTP/1 follow.
    pub(super) fn is_over(&self) -> bool {
        self.upgraded
    }

    /// A head went by.
    pub(super) fn after(&mut self, side: Side, head: &[u8]) -> MessagePosition {
        if !h1::begins(side, head) {
            return MessagePosition::Open;
        }
        let request = match side {
            Side::Client => {
                if self.requests.len() < REQUESTS_MAX {
                    self.requests.push_back(h1::request(head));
                }
                Request::Other
            }
            Side::Server if h1::is_interim(head) => Request::Other,
            Side::Server => self.requests.pop_front().unwrap_or(Request::Other),
        };
        match h1::body(head, request) {
            BodyLength::Length(len) => MessagePosition::Body(len),
            BodyLength::Open => MessagePosition::Open,
            upgraded @ (BodyLength::Upgraded | BodyLength::WebSocket) => {
                self.upgraded = true;
                self.websocket = upgraded == BodyLength::WebSocket;
                MessagePosition::Upgraded
            }
        }
    }
}

impl Flow {
    /// Writes bytes of HTTP/1, and what is missing after them.
    pub(super) fn messages(
        &mut self,
        from: Side,
        stretch: Stretch,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        if self.exchange.upgraded {
            return self.upgraded(from, stretch, at, stats, out);
        }
        let bytes = stretch.bytes;
        let whole = bytes.len() as u64 == stretch.len;
        let messages = &mut self.side(from).messages;
        if matches!(messages.place, MessagePosition::Lost) && !bytes.is_empty() {
            if h1::begins(from, bytes) {
                self.written_out(from, true, stats, out);
            } else {
                messages.held.extend_from_slice(bytes);
                messages.calls.push((messages.held.len(), at));
                self.lines(from, stats, out);
                if whole {
                    return;
                }
            }
        }
        if !whole && (!bytes.is_empty() || !self.side(from).messages.held.is_empty()) {
            self.written_out(from, false, stats, out);
        }
        let side = match from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        let lost = matches!(side.messages.place, MessagePosition::Lost) && !h1::begins(from, bytes);
        let begin = side.messages.walk(from, bytes, &mut self.exchange);
        if let (MessagePosition::Upgraded, Some(end)) = (&side.messages.place, begin) {
            self.stretch(from, Stretch::whole(&bytes[..end]), at, stats, out);
            self.side(from).frames = Frames::new(true);
            let rest = Stretch { bytes: &bytes[end..], len: stretch.len - end as u64, ..stretch };
            return self.upgraded(from, rest, at, stats, out);
        }
        if whole {
            return self.stretch(from, stretch, at, stats, out);
        }
        // Those that are lost are written.
        let bytes = if lost { &[] } else { bytes };
        let hole = stretch.len - stretch.bytes.len() as u64;
        self.interrupted(
            from,
            Stretch { bytes, len: bytes.len() as u64 + hole, ..stretch },
            begin,
            at,
            stats,
            out,
        );
    }

    /// Writes what follows the last message.
    fn upgraded(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        if stretch.len == 0 {
            return;
        }
        if !self.exchange.websocket {
            self.written_out(from, false, stats, out);
            return self.stretch(from, stretch, at, stats, out);
        }
        self.framing = Framing::WebSocket;
        match std::mem::replace(&mut self.side(from).messages.place, MessagePosition::Upgraded) {
            MessagePosition::Upgraded => {}
            MessagePosition::Head(head) if head.is_empty() => self.side(from).frames = Frames::new(true),
            _ => {
                self.written_out(from, false, stats, out);
                self.side(from).frames = if self.tls.is_some() { Frames::new(false) } else { Frames::lost() };
            }
        }
        self.framed(from, stretch, at, stats, out);
    }

    /// Bytes followed by a hole. `begin`: where in them the message begins that it damages.
    fn interrupted(
        &mut self,
        from: Side,
        stretch: Stretch,
        begin: Option<usize>,
        at: At,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        if self.tls.is_some() {
            return self.interrupted_filled(from, stretch, at, stats, out);
        }
        let Stretch { bytes, len, reason, lost_records } = stretch;
        let hole = len - bytes.len() as u64;
        let max = self.side(from).headers.max_payload();
        let begin = begin.filter(|begin| bytes.len() - begin < max && hole <= HOLE_MAX);
        let messages = &mut self.side(from).messages;
        let left = match messages.place {
            MessagePosition::Body(left) => Some(left),
            _ => None,
        };
        // The part of the message after the hole.
        let rest = left.and_then(|left| left.checked_sub(hole));
        messages.place = match rest {
            Some(0) => BORDER,
            Some(rest) => MessagePosition::Body(rest),
            None => MessagePosition::Lost,
        };
        let label = Label { missing: hole, reason, lost_records };
        let ends = rest == Some(0);
        let covered = rest.is_some_and(|rest| rest > 0 && rest <= REST_MAX) && hole > ROOM;
        stats.missing_bytes = stats.missing_bytes.saturating_add(hole);
        if let Some(begin) = begin
            && (rest.is_none() || ends || covered)
        {
            // The head can be shown.
            let (before, cut) = bytes.split_at(begin);
            self.stretch(from, Stretch::whole(before), at, stats, out);
            self.label(label, stats);
            let room = if ends { 0 } else { ROOM.min(hole - 1) };
            self.packets(from, cut, (cut.len() as u64 + hole - room, lost_records), at, stats, out);
            if room > 0 {
                self.side(from).messages.room = Some(HeaderSpace::Hole { len: room, at, labels: Vec::new() });
                if let Some(rest) = rest {
                    self.room_written(from, Some(rest), stats, out);
                }
            }
            return;
        }
        self.stretch(from, Stretch::whole(bytes), at, stats, out);
        // Up to the end of the message, readers know their way.
        let reserved = left.unwrap_or(0).min(hole);
        let before = self.side(from).messages.room.take();
        let (waiting, mut labels) = match before {
            Some(HeaderSpace::Hole { len, labels, .. }) => (len, labels),
            Some(HeaderSpace::Beginning) | None => (0, Vec::new()),
        };
        let room = ROOM.min(waiting + hole - reserved);
        labels.push(label);
        if room < waiting + hole {
            labels.drain(..).for_each(|label| self.label(label, stats));
            if hole > HOLE_MAX {
                self.jump(from, SKIP_JUMP - ROOM as u32, lost_records, at, out);
            } else {
                self.packets(from, &[], (waiting + hole - room, lost_records), at, stats, out);
            }
        }
        if room > 0 {
            self.side(from).messages.room = Some(HeaderSpace::Hole { len: room, at, labels });
        }
    }

    /// An unknown number of bytes is missing in HTTP/1: returns how far to jump so that readers do not search
    /// for the next message in the body of this one.
    pub(super) fn message_skipped(&mut self, from: Side, at: At, stats: &mut Stats, out: &mut Out) -> u32 {
        self.written_out(from, false, stats, out);
        let reserved = match std::mem::replace(&mut self.side(from).messages.place, MessagePosition::Lost) {
            _ if self.exchange.upgraded => return SKIP_JUMP,
            MessagePosition::Body(left) => u32::try_from(left.min(REST_MAX)).unwrap_or(0),
            MessagePosition::Open => CHUNK,
            MessagePosition::Head(_) | MessagePosition::Lost | MessagePosition::Upgraded => 0,
        };
        // The end of the jump waits, as that of any hole.
        self.side(from).messages.room = Some(HeaderSpace::Hole { len: ROOM, at, labels: Vec::new() });
        reserved.saturating_add(SKIP_JUMP) - ROOM as u32
    }

    /// Writes what is held up to its last line end.
    fn lines(&mut self, from: Side, stats: &mut Stats, out: &mut Out) {
        let messages = &mut self.side(from).messages;
        let held = &messages.held;
        let keep = match messages.last_line() {
            Some(keep) if held.len() - keep < HELD_MAX => keep,
            None if held.len() < HELD_MAX => return,
            _ => held.len(),
        };
        self.room_written(from, None, stats, out);
        self.held_written(from, keep, stats, out);
    }

    fn held_written(&mut self, from: Side, keep: usize, stats: &mut Stats, out: &mut Out) {
        let messages = &mut self.side(from).messages;
        let mut held = std::mem::take(&mut messages.held);
        let mut calls = std::mem::take(&mut messages.calls);
        let mut begin = 0;
        calls.retain_mut(|(end, at)| {
            let until = keep.min(*end);
            if begin < until {
                self.stretch(from, Stretch::whole(&held[begin..until]), *at, stats, out);
                begin = until;
            }
            *end -= until;
            *end > 0
        });
        held.drain(..keep);
        let messages = &mut self.side(from).messages;
        messages.held = held;
        messages.calls = calls;
    }

    /// Writes all that is held. `border`: a message follows.
    pub(super) fn written_out(&mut self, from: Side, border: bool, stats: &mut Stats, out: &mut Out) {
        let max = self.side(from).headers.max_payload();
        let messages = &mut self.side(from).messages;
        let all = messages.held.len();
        let line = messages.last_line();
        if let Some(line) = line.filter(|line| all - line <= max) {
            // One packet, as a line must end in it.
            let around = messages.calls.iter().find(|(end, _)| *end >= line).copied();
            let last = messages.calls.last().copied();
            messages.calls.retain(|(end, _)| *end < line);
            messages.calls.extend(around.map(|(_, at)| (line, at)));
            messages.calls.extend(last);
        }
        let cover = border && all > 0 && line.is_none();
        let last = messages.calls.last().map(|(_, at)| *at);
        self.room_written(from, cover.then_some(all as u64), stats, out);
        self.held_written(from, all, stats, out);
        if let Some(at) = last.filter(|_| cover && self.tls.is_some()) {
            self.line_ended(from, at, stats, out);
        }
    }

    /// Writes the end of a hole, with a synthetic head if the rest of the message after it is known.
    fn room_written(&mut self, from: Side, rest: Option<u64>, stats: &mut Stats, out: &mut Out) {
        let tls = self.tls.is_some();
        let messages = &mut self.side(from).messages;
        let Some(room) = messages.room.take() else {
            let at = messages.calls.first().map(|(_, at)| *at);
            if let Some(at) = at.filter(|_| tls && messages.held.starts_with(b"HTTP/")) {
                self.byte_made_up(from, at, stats, out);
            }
            return;
        };
        let size = h1::made_up(from, 0).len() as u64;
        let (len, at, labels) = match (room, messages.calls.first()) {
            (HeaderSpace::Hole { len, at, labels }, _) => (len, at, labels),
            // And a byte that is not there.
            (HeaderSpace::Beginning, Some((_, at))) if rest.is_some() => (size + 1, *at, Vec::new()),
            (HeaderSpace::Beginning, _) => return,
        };
        let mut lost_records = 0;
        for label in labels {
            lost_records += label.lost_records;
            self.label(label, stats);
        }
        if let Some(rest) = rest.filter(|_| len > size) {
            let missing = len - size;
            let head = h1::made_up(from, missing + rest);
            let comment = self.comment().with("synthetic", "http1-head");
            self.note(comment, stats);
            self.packets(from, head.as_bytes(), (size, lost_records), at, stats, out);
            return self.packets(from, &[], (missing, 0), at, stats, out);
        }
        // The rest of a request's first line would be taken for a response without end.
        if self.side(from).messages.held.starts_with(b"HTTP/") {
            self.packets(from, &[], (len - 1, lost_records), at, stats, out);
            return self.byte_made_up(from, at, stats, out);
        }
        self.packets(from, &[], (len, lost_records), at, stats, out);
    }

    fn byte_made_up(&mut self, from: Side, at: At, stats: &mut Stats, out: &mut Out) {
        let comment = self.comment().with("synthetic", "http1-byte");
        self.note(comment, stats);
        self.packets(from, b"~", (1, 0), at, stats, out);
    }
}
