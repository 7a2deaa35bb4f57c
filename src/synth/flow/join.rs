//! Short calls that end in the middle of a message wait for the next ones and are written with them.
//!
//! What Wireshark 4.0 to 4.6 does, and what follows: several dissectors misread a message whose header is split
//! over two packets (MQTT, LDAP, MongoDB, HTTP/2's preface) or whose lines or values are (POP3, SMTP, Redis,
//! XMPP; in TLS also AMQP and HTTP/2). Programs read and write that way: mosquitto reads the length of a packet
//! byte by byte.
//!
//! - Only a short call ([`JOIN_MAX`]) that does not end a message waits, at most [`JOIN_TIME`]. So each call
//!   that ends a message is in the file immediately, and two messages of two calls are two packets.
//! - Nothing is joined across data of the other side, across a hole, or from two threads.
//! - The packet's time is that of its last call: no byte is in the file before it was sent or received.

use std::fmt::Write;

use super::messages::MessagePosition as Message;
use super::resync::FramePosition;
use super::{At, Flow, Out, Preface, Stretch};
use crate::synth::comment::Seconds;
use crate::synth::framing::Framing;
use crate::synth::{JOIN_MAX, JOIN_TIME, Stats, h1, h2};
use crate::track::segment::{Side, WallTime};

/// This many bytes show whether a message of HTTP/1 begins with them.
const STRANGE: usize = 16;

/// Bytes of one direction that wait for the rest of their message.
#[derive(Default)]
pub(super) struct Waiting {
    from: Option<Side>,
    bytes: Vec<u8>,
    /// Lengths of the calls, and how many in a row were so long.
    calls: Vec<(usize, usize)>,
    /// Time of the first.
    since: WallTime,
    /// When the last was made, and by which thread.
    last: Option<At>,
}

impl Waiting {
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// When they wait no longer.
    pub(super) fn until(&self) -> Option<WallTime> {
        self.from.map(|_| self.since.saturating_add(JOIN_TIME))
    }

    fn add(&mut self, bytes: &[u8], at: At) {
        if bytes.is_empty() {
            return;
        }
        if self.calls.is_empty() {
            self.since = at.time;
        }
        self.bytes.extend_from_slice(bytes);
        self.last = Some(at);
        match self.calls.last_mut() {
            Some((len, count)) if *len == bytes.len() => *count += 1,
            _ => self.calls.push((bytes.len(), 1)),
        }
    }

    /// The calls as a comment has them: `1x3,130`.
    fn calls(&self) -> String {
        let mut text = String::new();
        for (len, count) in &self.calls {
            let separator = if text.is_empty() { "" } else { "," };
            // Writing to a string never fails.
            let _ = match count {
                1 => write!(text, "{separator}{len}"),
                count => write!(text, "{separator}{len}x{count}"),
            };
        }
        text
    }
}

impl Flow {
    /// Takes the bytes of a call, which may wait.
    pub(super) fn join(&mut self, from: Side, stretch: Stretch, at: At, stats: &mut Stats, out: &mut Out) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let max = self.side(from).headers.max_payload();
        let fits = waiting.from == Some(from)
            && waiting.last.is_some_and(|last| (last.caller, last.tid) == (at.caller, at.tid))
            && at.time.saturating_sub(waiting.since) < JOIN_TIME
            && waiting.bytes.len() + stretch.bytes.len() <= max;
        if waiting.from.is_some() && !fits {
            self.waiting = waiting;
            self.joined(stats, out);
            waiting = std::mem::take(&mut self.waiting);
        }
        let missing = stretch.len - stretch.bytes.len() as u64;
        let side = self.side(from);
        if let Some(shape) = &mut side.shape {
            shape.walk(stretch.bytes);
            if missing > 0 {
                shape.missing(Some(missing));
            }
        }
        if let Some(shape) = &mut self.side(from.peer()).shape {
            shape.paused();
        }
        let alone = waiting.from.is_none();
        let len = waiting.bytes.len() + stretch.bytes.len();
        let short = missing == 0 && len < JOIN_MAX;
        if alone && !(short && self.is_open(from, stretch.bytes)) {
            self.waiting = waiting;
            return self.data(from, stretch, at, stats, out);
        }
        waiting.from = Some(from);
        waiting.add(stretch.bytes, at);
        if short && self.is_open(from, &waiting.bytes) {
            self.waiting = waiting;
            return;
        }
        self.waiting = waiting;
        self.write_joined(missing, stretch, stats, out);
    }

    /// Writes what waits.
    pub(super) fn joined(&mut self, stats: &mut Stats, out: &mut Out) {
        self.write_joined(0, Stretch::whole(&[]), stats, out);
    }

    /// Time has passed: writes what has waited long enough.
    pub(in crate::synth) fn joined_if(
        &mut self,
        due: impl Fn(WallTime) -> bool,
        stats: &mut Stats,
        out: &mut Out,
    ) {
        if self.waiting.until().is_some_and(due) {
            if let Some(shape) = self.waiting.from.and_then(|from| self.side(from).shape.as_mut()) {
                shape.paused();
            }
            self.joined(stats, out);
        }
    }

    /// Writes what waits, followed by a hole, which `last` describes.
    fn write_joined(&mut self, missing: u64, last: Stretch, stats: &mut Stats, out: &mut Out) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let (Some(from), Some(at)) = (waiting.from.take(), waiting.last) else { return };
        if waiting.calls.len() > 1 || waiting.calls.iter().any(|(_, count)| *count > 1) {
            self.calls = self
                .comment()
                .with("calls", waiting.calls())
                .with("first_call", Seconds(waiting.since))
                .into();
        }
        let stretch = Stretch { bytes: &waiting.bytes, len: waiting.bytes.len() as u64 + missing, ..last };
        self.data(from, stretch, at, stats, out);
        // If its bytes wait elsewhere, nothing more is known.
        self.calls.clear();
        waiting.bytes.clear();
        waiting.calls.clear();
        self.waiting = waiting;
    }

    /// A message of this side is open after these bytes, which are not written yet.
    fn is_open(&self, from: Side, bytes: &[u8]) -> bool {
        let side = match from {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        if let Some(shape) = &side.shape {
            return !shape.is_between();
        }
        if let Some(preface) = &self.preface {
            let (before, rest) = match preface {
                _ if from == Side::Server => (&[][..], bytes),
                Preface::Awaited => bytes.split_at(bytes.len().min(h2::PREFACE.len())),
                Preface::Seen(left) => bytes.split_at(bytes.len().min(*left)),
                Preface::MadeUp(left) => {
                    let n = bytes.len().min(left.len());
                    bytes.split_at(if bytes[..n] == left[..n] { n } else { 0 })
                }
            };
            return match (preface, from) {
                (Preface::Awaited, Side::Client) if !h2::PREFACE.starts_with(before) => false,
                (Preface::Awaited, Side::Client) if before.len() < h2::PREFACE.len() => true,
                (Preface::Awaited, Side::Client) => frame_open(FramePosition::border(), rest, self.framing),
                _ => !side.frames.is_seeking() && frame_open(side.frames.place(), rest, self.framing),
            };
        }
        if !self.http1 {
            return false;
        }
        if self.exchange.is_websocket() {
            let framing = Framing::WebSocket;
            return match side.messages.place() {
                Message::Upgraded => {
                    !side.frames.is_seeking() && frame_open(side.frames.place(), bytes, framing)
                }
                _ => frame_open(FramePosition::border(), bytes, framing),
            };
        }
        if self.exchange.is_over() {
            return false;
        }
        match side.messages.place() {
            Message::Head(head) if head.is_empty() => {
                (bytes.len() <= STRANGE || h1::begins(from, bytes)) && h1::head_len(bytes).is_none()
            }
            Message::Head(head) => {
                h1::head_len(&[&head[head.len().saturating_sub(3)..], bytes].concat()).is_none()
            }
            Message::Body(left) => (bytes.len() as u64) < *left,
            Message::Upgraded | Message::Open | Message::Lost => false,
        }
    }
}

fn frame_open(mut place: FramePosition, bytes: &[u8], mut framing: Framing) -> bool {
    place.walk(bytes, &mut framing);
    !matches!(place, FramePosition::Header(_, 0) | FramePosition::Unknown)
}
