//! Messages within a body: those of gRPC, and server-sent events.

use super::content::{Limits, Reader};
use super::{Part, PartKind};

/// Longest name or id of an event that is kept, in bytes.
const TEXT_MAX: usize = 256;
/// What precedes a message of gRPC: whether it is packed, and its length.
const PREFIX: usize = 5;

/// What takes a body apart.
#[derive(Debug)]
pub(super) enum Splitter {
    None,
    Grpc(Box<Grpc>),
    Events(Box<Events>),
    /// It did, up to a hole; so many parts.
    Lost(u64),
}

impl Splitter {
    pub(super) fn grpc(coding: &str, limits: Limits) -> Splitter {
        Splitter::Grpc(Box::new(Grpc {
            coding: coding.to_owned(),
            limits,
            prefix: [0; PREFIX],
            filled: 0,
            message: None,
            count: 0,
        }))
    }

    pub(super) fn events(limits: Limits) -> Splitter {
        Splitter::Events(Box::new(Events::new(limits)))
    }

    pub(super) fn held(&self) -> usize {
        match self {
            Splitter::Grpc(grpc) => grpc.message.as_ref().map_or(0, |(_, reader)| reader.held()),
            Splitter::Events(events) => events.line.capacity() + events.data.held(),
            _ => 0,
        }
    }

    /// Unpacked bytes of the body.
    pub(super) fn take(&mut self, bytes: &[u8], on: &mut dyn FnMut(Part)) {
        match self {
            Splitter::Grpc(grpc) => grpc.take(bytes, on),
            Splitter::Events(events) => events.take(bytes, on),
            Splitter::None | Splitter::Lost(_) => {}
        }
    }

    /// Bytes are missing: where the next message begins is not known.
    pub(super) fn lose(&mut self, on: &mut dyn FnMut(Part)) {
        let count = self.finish(on);
        if !matches!(self, Splitter::None) {
            *self = Splitter::Lost(count);
        }
    }

    /// Ends what has begun. Gives how many parts there were.
    pub(super) fn finish(&mut self, on: &mut dyn FnMut(Part)) -> u64 {
        match self {
            Splitter::Grpc(grpc) => grpc.end(false, on),
            Splitter::Events(events) => events.count,
            Splitter::Lost(count) => *count,
            Splitter::None => 0,
        }
    }
}

/// Messages of gRPC.
#[derive(Debug)]
pub(super) struct Grpc {
    /// The value of grpc-encoding.
    coding: String,
    limits: Limits,
    prefix: [u8; PREFIX],
    filled: usize,
    /// Bytes that it lacks, and what is there.
    message: Option<(u64, Reader)>,
    count: u64,
}

impl Grpc {
    fn take(&mut self, mut bytes: &[u8], on: &mut dyn FnMut(Part)) {
        while !bytes.is_empty() {
            let Some((left, reader)) = &mut self.message else {
                let len = (PREFIX - self.filled).min(bytes.len());
                self.prefix[self.filled..self.filled + len].copy_from_slice(&bytes[..len]);
                self.filled += len;
                bytes = &bytes[len..];
                if self.filled == PREFIX {
                    self.filled = 0;
                    let [flag, length @ ..] = self.prefix;
                    let coding = if flag & 1 == 1 { self.coding.as_str() } else { "" };
                    let reader = Reader::new(coding, Splitter::None, self.limits);
                    self.message = Some((u64::from(u32::from_be_bytes(length)), reader));
                    self.end_if_whole(on);
                }
                continue;
            };
            let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            reader.feed(&bytes[..len], &mut |_| {});
            *left -= len as u64;
            bytes = &bytes[len..];
            self.end_if_whole(on);
        }
    }

    fn end_if_whole(&mut self, on: &mut dyn FnMut(Part)) {
        if matches!(self.message, Some((0, _))) {
            self.end(true, on);
        }
    }

    fn end(&mut self, is_whole: bool, on: &mut dyn FnMut(Part)) -> u64 {
        if let Some((_, reader)) = self.message.take() {
            self.count += 1;
            let (content, _) = reader.finish(is_whole, &mut |_| {});
            on(Part { number: self.count, kind: PartKind::Grpc, content });
        }
        self.count
    }
}

/// Server-sent events (WHATWG HTML, section 9.2).
#[derive(Debug)]
pub(super) struct Events {
    limits: Limits,
    /// Of the line that is being read: its beginning, up to the value's.
    line: Vec<u8>,
    /// The value has not begun: it is still the field's name.
    is_field: bool,
    /// The line's value goes to the data.
    is_data: bool,
    /// The last byte was CR, so LF ends no line.
    after_cr: bool,
    /// A blank may precede the value.
    at_value: bool,
    name: String,
    id: Option<String>,
    data: Reader,
    has_data: bool,
    count: u64,
}

impl Events {
    fn new(limits: Limits) -> Events {
        Events {
            limits,
            line: Vec::new(),
            is_field: true,
            is_data: false,
            after_cr: false,
            at_value: false,
            name: String::new(),
            id: None,
            data: Reader::plain(limits),
            has_data: false,
            count: 0,
        }
    }

    fn take(&mut self, mut bytes: &[u8], on: &mut dyn FnMut(Part)) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes);
            self.piece(&bytes[..end.unwrap_or(bytes.len())]);
            let Some(end) = end else { return };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(on);
        }
    }

    /// A piece of a line.
    fn piece(&mut self, mut piece: &[u8]) {
        if self.is_field {
            let colon = memchr::memchr(b':', piece);
            let name = &piece[..colon.unwrap_or(piece.len())];
            self.line.extend_from_slice(&name[..name.len().min(TEXT_MAX.saturating_sub(self.line.len()))]);
            let Some(colon) = colon else { return };
            piece = &piece[colon + 1..];
            (self.is_field, self.at_value) = (false, true);
            self.begin_value();
        }
        if self.at_value && !piece.is_empty() {
            self.at_value = false;
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        if self.is_data {
            self.data.feed(piece, &mut |_| {});
        } else {
            self.line
                .extend_from_slice(&piece[..piece.len().min((2 * TEXT_MAX).saturating_sub(self.line.len()))]);
        }
    }

    fn begin_value(&mut self) {
        self.is_data = self.line == b"data";
        if self.is_data && std::mem::replace(&mut self.has_data, true) {
            self.data.feed(b"\n", &mut |_| {});
        }
        self.line.push(b':');
    }

    fn end_line(&mut self, on: &mut dyn FnMut(Part)) {
        if self.is_field && !self.line.is_empty() {
            self.begin_value();
        }
        let line = std::mem::take(&mut self.line);
        (self.is_field, self.is_data, self.at_value) = (true, false, false);
        if line.is_empty() {
            return self.dispatch(on);
        }
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        if let Some(name) = line.strip_prefix(b"event:") {
            self.name = text(name);
        } else if let Some(id) = line.strip_prefix(b"id:") {
            self.id = Some(text(id));
        }
    }

    fn dispatch(&mut self, on: &mut dyn FnMut(Part)) {
        let name = std::mem::take(&mut self.name);
        if !std::mem::take(&mut self.has_data) {
            return;
        }
        self.count += 1;
        let data = std::mem::replace(&mut self.data, Reader::plain(self.limits));
        let (content, _) = data.finish(true, &mut |_| {});
        let name = if name.is_empty() { "message".into() } else { name };
        on(Part { number: self.count, kind: PartKind::Event { name, id: self.id.clone() }, content });
    }
}
