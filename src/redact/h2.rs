//! HTTP/2 (RFC 9113): frames, header blocks with their continuations, and the bodies of streams.

use std::ops::Range;

use super::body::{Body, Parser, Type};
use super::engine::Engine;
use super::facts::Fact;
use super::hpack::{Field, Table};
use super::kind::Kind;
use super::weave::Weave;
use crate::proto::h2::{END_HEADERS, END_STREAM, Frame, HEADER, PADDED, PREFACE, fragment, frame};

/// Longest frame that is waited for; of DATA nothing is.
const FRAME_MAX: usize = 1 << 20;
/// Longest header block with its continuations.
const BLOCK_MAX: usize = 1 << 20;
/// Streams with a body at once, in one direction.
const STREAMS_MAX: usize = 4096;

/// Within a DATA frame.
#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u64,
    left: usize,
    padding: usize,
    is_end: bool,
}

/// One direction.
#[derive(Debug)]
pub(super) struct H2 {
    /// The preface is still to come.
    preface: bool,
    table: Table,
    data: Option<Data>,
}

/// What a call came to.
pub(super) enum Turn {
    /// So many bytes went into the weave.
    Went(usize),
    /// More is needed.
    More,
    /// What stands here is no frame.
    Lost,
}

/// Whether a frame that holds numbers holds as many as it should (RFC 9113, section 6).
fn has_its_length(frame: &Frame) -> bool {
    match frame.kind {
        2 => frame.len == 5,
        3 | 8 => frame.len == 4,
        4 => frame.len.is_multiple_of(6),
        6 => frame.len == 8,
        // A stream and its priority as text (RFC 9218).
        _ => frame.len <= 32,
    }
}

impl H2 {
    pub(super) fn new(preface: bool) -> H2 {
        H2 { preface, table: Table::default(), data: None }
    }

    /// Behind a hole, at the beginning of a frame.
    pub(super) fn after_hole() -> H2 {
        H2::new(false)
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one DATA frame.
    pub(super) fn hole(&mut self, engine: &mut Engine, weave: &mut Weave, len: u64) -> bool {
        let Some(data) = &mut self.data else { return false };
        match data.left.checked_sub(usize::try_from(len).unwrap_or(usize::MAX)) {
            Some(left) => {
                data.left = left;
                weave.lose(engine, data.stream, Kind::Lost);
                true
            }
            None => false,
        }
    }

    /// Takes what stands at the beginning of `bytes`.
    pub(super) fn step(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8]) -> Turn {
        if self.preface {
            if !bytes.starts_with(PREFACE) {
                return if PREFACE.starts_with(bytes) { Turn::More } else { Turn::Lost };
            }
            self.preface = false;
            weave.raw(PREFACE, vec![]);
            return Turn::Went(PREFACE.len());
        }
        if let Some(data) = self.data {
            return self.data(engine, weave, bytes, data);
        }
        let Some(frame) = frame(bytes) else { return Turn::More };
        if frame.kind == 0 {
            return self.begin_data(weave, bytes, &frame);
        }
        if frame.len > FRAME_MAX {
            return Turn::Lost;
        }
        let end = HEADER + frame.len;
        if bytes.len() < end {
            return Turn::More;
        }
        match frame.kind {
            1 | 5 => self.headers(engine, weave, bytes, &frame),
            // PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, PRIORITY_UPDATE: numbers.
            2 | 3 | 4 | 6 | 8 | 16 if has_its_length(&frame) => {
                if frame.kind == 3 {
                    let code = bytes[HEADER..end].first_chunk().map_or(0, |code| u32::from_be_bytes(*code));
                    engine.tell(|| Fact::Reset { stream: frame.stream, code });
                    weave.close(engine, frame.stream);
                }
                weave.raw(&bytes[..end], vec![]);
                Turn::Went(end)
            }
            kind => {
                // Of GOAWAY two numbers are known.
                let begin = if kind == 7 { (HEADER + 8).min(end) } else { HEADER };
                engine.fill_text(bytes, begin..end, Kind::Protocol);
                weave.raw(&bytes[..end], engine.take_found());
                Turn::Went(end)
            }
        }
    }

    fn begin_data(&mut self, weave: &mut Weave, bytes: &[u8], frame: &Frame) -> Turn {
        let padded = usize::from(frame.flags & PADDED != 0 && frame.len > 0);
        let Some(head) = bytes.get(..HEADER + padded) else { return Turn::More };
        let padding = if padded == 1 { usize::from(head[HEADER]) } else { 0 };
        let Some(left) = (frame.len - padded).checked_sub(padding) else { return Turn::Lost };
        weave.raw(head, vec![]);
        self.data = Some(Data { stream: frame.stream, left, padding, is_end: frame.flags & END_STREAM != 0 });
        Turn::Went(HEADER + padded)
    }

    fn data(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8], mut data: Data) -> Turn {
        let len = data.left.min(bytes.len());
        data.left -= len;
        let is_whole = data.left == 0;
        if len > 0 {
            engine.tell(|| Fact::Body { stream: data.stream, len: len as u64 });
        }
        if is_whole && data.is_end {
            engine.tell(|| Fact::End { stream: data.stream });
        }
        weave.data(engine, data.stream, &bytes[..len], is_whole && data.is_end, None);
        if !is_whole {
            self.data = Some(data);
            return Turn::Went(len);
        }
        // What is padded says nothing (RFC 9113, section 6.1: zeros).
        let padding = data.padding.min(bytes.len() - len);
        let pad = &mut bytes[len..len + padding];
        if let Some(at) = pad.iter().position(|b| *b != 0) {
            pad.fill(0);
            engine.note(at, Kind::Padding);
        }
        weave.raw(pad, engine.take_found());
        data.padding -= padding;
        // The end was told.
        data.is_end = false;
        self.data = (data.padding > 0).then_some(data);
        Turn::Went(len + padding)
    }

    /// HEADERS or PUSH_PROMISE, with all their CONTINUATIONs.
    fn headers(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8], first: &Frame) -> Turn {
        let end = HEADER + first.len;
        let Some((block, padding)) = fragment(first, &bytes[HEADER..end]) else { return Turn::Lost };
        let mut parts: Vec<Range<usize>> =
            std::iter::once(block.start + HEADER..block.end + HEADER).collect();
        let (mut at, mut is_end) = (end, first.flags & END_HEADERS != 0);
        while !is_end {
            let Some(next) = frame(&bytes[at..]) else { return Turn::More };
            if next.kind != 9 || next.stream != first.stream || at + next.len > BLOCK_MAX {
                return Turn::Lost;
            }
            if bytes.len() < at + HEADER + next.len {
                return Turn::More;
            }
            parts.push(at + HEADER..at + HEADER + next.len);
            at += HEADER + next.len;
            is_end = next.flags & END_HEADERS != 0;
        }
        let mut block: Vec<u8> = parts.iter().flat_map(|part| &bytes[part.clone()]).copied().collect();
        let fields = self.table.block(engine, &mut block);
        // Where a value lies within the block says where it lies within the frames.
        let mut found = engine.take_found();
        let mut from = 0;
        for part in &parts {
            let len = part.len();
            for found in found.iter_mut().filter(|f| (from..from + len).contains(&(f.at as usize))) {
                found.at = found.at - from as u64 + part.start as u64;
            }
            bytes[part.clone()].copy_from_slice(&block[from..from + len]);
            from += len;
        }
        if padding > 0 && bytes[end - padding..end].iter().any(|b| *b != 0) {
            bytes[end - padding..end].fill(0);
            engine.note(end - padding, Kind::Padding);
            found.extend(engine.take_found());
        }
        found.sort_by_key(|found| found.at);
        weave.raw(&bytes[..at], found);
        if first.kind == 1 {
            self.begin_or_end(engine, weave, first, fields.unwrap_or_default());
        }
        Turn::Went(at)
    }

    fn begin_or_end(&mut self, engine: &mut Engine, weave: &mut Weave, frame: &Frame, fields: Vec<Field>) {
        let is_end = frame.flags & END_STREAM != 0;
        let stream = frame.stream;
        let value = |name: &str| {
            fields.iter().find(|f| f.name.as_deref() == Some(name)).map_or("", |field| field.value.as_str())
        };
        let encodings: Vec<&str> = fields
            .iter()
            .filter(|f| f.name.as_deref() == Some("content-encoding"))
            .map(|field| field.value.as_str())
            .collect();
        if !value(":method").is_empty() {
            engine.tell(|| Fact::Request {
                is_http2: true,
                stream,
                method: value(":method").to_owned(),
                target: value(":path").to_owned(),
                host: value(":authority").to_owned(),
            });
        }
        if let Ok(status @ 200..) = value(":status").parse() {
            engine.tell(|| Fact::Answer { stream, is_stray: false, status });
        }
        if let Ok(status @ 1..) = value("grpc-status").parse() {
            engine.tell(|| Fact::Grpc { stream, status });
        }
        if is_end {
            engine.tell(|| Fact::End { stream });
            return weave.close(engine, stream);
        }
        // More will follow an interim answer.
        if value(":status").starts_with('1') || weave.has(frame.stream) {
            return;
        }
        if weave.open_bodies() >= STREAMS_MAX {
            weave.lose_all(engine, Kind::Held);
        }
        let body = match value(":method") {
            "CONNECT" => Body::with(Parser::unknown()),
            _ => Body::new(
                Type::new(value("content-type"), &encodings.join(","))
                    .with_messages_in(value("grpc-encoding")),
            ),
        };
        weave.open(engine, frame.stream, body);
    }
}
