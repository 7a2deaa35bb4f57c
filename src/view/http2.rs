//! HTTP/2 (RFC 9113), one direction: frames, header blocks, and what they say of streams.

use std::sync::Arc;

use super::exchange::{Context, Exchanges, Open, STREAMS_MAX, Stream, fields_size, missing_head};
use super::{Field, Head, MessageKind, Protocol, Side, What};
use crate::proto::h2::{
    END_HEADERS, END_STREAM, Frame, HEADER, PADDED, PREFACE, error_name, fragment, frame,
};
use crate::proto::hpack::{self, Entry, Name, Step, decoded};

/// Longest frame that is waited for; DATA, and what nobody knows, is not.
const FRAME_MAX: usize = 1 << 20;
/// Longest header block with its continuations.
const BLOCK_MAX: usize = 1 << 20;
/// Most fields of a block, so that short references cannot become much memory.
const FIELDS_MAX: usize = 4096;
/// Most bytes of the fields of a block.
const FIELDS_SIZE_MAX: usize = 1 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const KNOWN_MAX: u8 = 9;

#[derive(Clone, Copy, Debug)]
enum Expecting {
    Frame,
    /// Within a DATA frame.
    Data {
        stream: u64,
        left: usize,
        padding: usize,
        is_end: bool,
    },
    /// So many bytes are of no interest; whether nobody knows what they are.
    Skip(usize, bool),
}

/// A header block that goes on in CONTINUATION frames.
#[derive(Debug)]
struct Block {
    first: Frame,
    promised: Option<u64>,
    bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct H2 {
    /// The preface is still to come.
    preface: bool,
    table: hpack::Table<Field>,
    state: Expecting,
    block: Option<Block>,
}

/// What a call came to.
pub(super) enum Turn {
    Went(usize),
    More,
    Lost,
}

impl H2 {
    pub(super) fn new(preface: bool) -> H2 {
        H2 { preface, table: hpack::Table::default(), state: Expecting::Frame, block: None }
    }

    pub(super) fn held(&self) -> usize {
        2 * self.table.size() + self.block.as_ref().map_or(0, |block| block.bytes.capacity())
    }

    /// The same direction at the beginning of a frame, after bytes that may have changed its table.
    pub(super) fn after_hole() -> H2 {
        H2::new(false)
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one frame without header fields.
    pub(super) fn hole(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, len: u64) -> bool {
        let len_here = usize::try_from(len).unwrap_or(usize::MAX);
        match &mut self.state {
            Expecting::Data { stream, left, .. } if *left >= len_here => {
                *left -= len_here;
                let (stream, is_whole) = (*stream, *left == 0);
                if let Some(open) = open_of(context, exchanges, stream, true) {
                    open.lose(context, len);
                }
                if is_whole {
                    self.end_data(context, exchanges);
                }
                true
            }
            Expecting::Skip(left, _) if *left >= len_here => {
                *left -= len_here;
                if *left == 0 {
                    self.state = Expecting::Frame;
                }
                true
            }
            _ => false,
        }
    }

    /// Takes what stands at the beginning of `bytes`.
    pub(super) fn step(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        bytes: &[u8],
    ) -> Turn {
        if self.preface {
            if !bytes.starts_with(PREFACE) {
                return if PREFACE.starts_with(bytes) { Turn::More } else { Turn::Lost };
            }
            self.preface = false;
            return Turn::Went(PREFACE.len());
        }
        match self.state {
            Expecting::Data { left: 0, padding, .. } => {
                let len = padding.min(bytes.len());
                self.pad(padding - len);
                return Turn::Went(len);
            }
            Expecting::Data { stream, left, padding, is_end } => {
                let len = left.min(bytes.len());
                if !context.is_synthetic
                    && let Some(open) = open_of(context, exchanges, stream, true)
                {
                    open.feed(context, &bytes[..len]);
                }
                self.state = Expecting::Data { stream, left: left - len, padding, is_end };
                if len == left {
                    self.end_data(context, exchanges);
                }
                return Turn::Went(len);
            }
            Expecting::Skip(left, is_unknown) => {
                let len = left.min(bytes.len());
                if is_unknown && !context.is_synthetic {
                    context.tell(What::Skipped(len as u64));
                }
                self.state =
                    if len == left { Expecting::Frame } else { Expecting::Skip(left - len, is_unknown) };
                return Turn::Went(len);
            }
            Expecting::Frame => {}
        }
        let Some(frame) = frame(bytes) else { return Turn::More };
        // Nothing may come within a header block.
        if self.block.is_some() != (frame.kind == CONTINUATION) {
            return Turn::Lost;
        }
        match frame.kind {
            DATA => self.begin_data(context, exchanges, bytes, &frame),
            HEADERS | PUSH_PROMISE | CONTINUATION | RST_STREAM | GOAWAY => {
                if frame.len > FRAME_MAX {
                    return Turn::Lost;
                }
                let Some(payload) = bytes.get(HEADER..HEADER + frame.len) else { return Turn::More };
                if self.whole(context, exchanges, &frame, payload) {
                    Turn::Went(HEADER + frame.len)
                } else {
                    Turn::Lost
                }
            }
            kind => {
                self.state = if frame.len == 0 {
                    Expecting::Frame
                } else {
                    Expecting::Skip(frame.len, kind > KNOWN_MAX)
                };
                Turn::Went(HEADER)
            }
        }
    }

    fn pad(&mut self, left: usize) {
        self.state = match left {
            0 => Expecting::Frame,
            left => Expecting::Data { stream: 0, left: 0, padding: left, is_end: false },
        };
    }

    fn begin_data(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        bytes: &[u8],
        frame: &Frame,
    ) -> Turn {
        let padded = usize::from(frame.flags & PADDED != 0 && frame.len > 0);
        let Some(head) = bytes.get(..HEADER + padded) else { return Turn::More };
        let padding = if padded == 1 { usize::from(head[HEADER]) } else { 0 };
        let Some(left) = (frame.len - padded).checked_sub(padding).filter(|_| frame.stream != 0) else {
            return Turn::Lost;
        };
        let is_end = frame.flags & END_STREAM != 0;
        self.state = Expecting::Data { stream: frame.stream, left, padding, is_end };
        if left == 0 {
            self.end_data(context, exchanges);
        }
        Turn::Went(HEADER + padded)
    }

    fn end_data(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges) {
        let Expecting::Data { stream, padding, is_end, .. } = self.state else { return };
        self.pad(padding);
        if is_end {
            end_side(context, exchanges, stream);
        }
    }

    /// A frame that is all there. Gives whether it makes sense.
    fn whole(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        frame: &Frame,
        payload: &[u8],
    ) -> bool {
        let number = |at: usize| payload.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        match frame.kind {
            RST_STREAM => {
                let Some(code) = number(0) else { return false };
                reset(context, exchanges, frame.stream, code);
                true
            }
            GOAWAY => {
                let (Some(last), Some(code)) = (number(0), number(4)) else { return false };
                let last = last & 0x7fff_ffff;
                let last = if last == 0x7fff_ffff { String::new() } else { format!(", last stream {last}") };
                if !context.is_synthetic {
                    context.tell(What::Note(format!("GOAWAY {}{last}", error_name(code))));
                }
                true
            }
            CONTINUATION => {
                let Some(mut block) = self.block.take().filter(|block| block.first.stream == frame.stream)
                else {
                    return false;
                };
                if block.bytes.len() + payload.len() > BLOCK_MAX {
                    return false;
                }
                block.bytes.extend_from_slice(payload);
                self.fragment(context, exchanges, block, frame.flags)
            }
            kind => {
                let Some((range, _)) = fragment(frame, payload) else { return false };
                let promised = (kind == PUSH_PROMISE).then(|| {
                    let at = range.start - 4;
                    u64::from(number(at).unwrap_or(0) & 0x7fff_ffff)
                });
                let block = Block { first: *frame, promised, bytes: payload[range].to_vec() };
                self.fragment(context, exchanges, block, frame.flags)
            }
        }
    }

    fn fragment(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        block: Block,
        flags: u8,
    ) -> bool {
        if flags & END_HEADERS == 0 {
            self.block = Some(block);
            return true;
        }
        let fields = self.fields(&block.bytes);
        let Some(fields) = fields else {
            // The table's state is not known any more.
            self.table.forget();
            if !context.is_synthetic {
                context.tell(What::Note(format!(
                    "header fields of stream {} cannot be decoded",
                    block.first.stream
                )));
            }
            return true;
        };
        // On stream 0 stands what rebuilds the table.
        if context.is_synthetic || block.first.stream == 0 {
            return true;
        }
        match block.promised {
            Some(promised) => promise(context, exchanges, promised, fields),
            None => headers(context, exchanges, &block.first, fields),
        }
        true
    }

    /// The fields of a block; `None` if it is none.
    fn fields(&mut self, bytes: &[u8]) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        let (mut at, mut size) = (0, 0);
        while at < bytes.len() {
            let field = match hpack::step(bytes, &mut at)? {
                Step::Indexed(index) => self.entry(index)?,
                Step::Resize(max) => {
                    self.table.resize(max);
                    continue;
                }
                Step::Literal { is_added, name, value } => {
                    let name = match name {
                        Name::Index(index) => self.entry(index)?.name,
                        Name::Literal(literal) => Some(decoded(bytes, &literal)?.to_ascii_lowercase()),
                    };
                    let field = Field { name, value: Some(decoded(bytes, &value)?) };
                    if is_added {
                        let len = |text: &Option<Vec<u8>>| text.as_ref().map_or(0, Vec::len);
                        self.table.add(field.clone(), len(&field.name) + len(&field.value));
                    }
                    field
                }
            };
            size += fields_size(std::slice::from_ref(&field));
            if fields.len() >= FIELDS_MAX || size > FIELDS_SIZE_MAX {
                return None;
            }
            fields.push(field);
        }
        Some(fields)
    }

    fn entry(&self, index: usize) -> Option<Field> {
        Some(match self.table.entry(index)? {
            Entry::Static(name, value) => Field { name: Some(name.into()), value: Some(value.into()) },
            Entry::Dynamic(field) => field.clone(),
            Entry::Unknown => Field { name: None, value: None },
        })
    }
}

/// The message of this side in a stream; one that has lost its head, if `or_rest`, where there is none.
fn open_of<'a>(
    context: &mut Context<'_>,
    exchanges: &'a mut Exchanges,
    id: u64,
    or_rest: bool,
) -> Option<&'a mut Open> {
    if exchanges.was_reset(id) {
        return None;
    }
    let stream = stream(context, exchanges, id)?;
    let number = stream.exchange.number;
    let is_client = context.from == Side::Client;
    if if is_client { stream.is_asked } else { stream.is_answered } {
        return None;
    }
    let slot = if is_client { &mut stream.request } else { &mut stream.response };
    if slot.is_none() && or_rest && !context.is_synthetic {
        let head = Arc::new(missing_head(context, number, Protocol::Http2, id));
        context.tell(What::Head(Arc::clone(&head)));
        *slot = Some(Open::new(head, context.limits));
    }
    slot.as_mut()
}

/// A stream, which begins if there is none.
fn stream<'a>(context: &mut Context<'_>, exchanges: &'a mut Exchanges, id: u64) -> Option<&'a mut Stream> {
    if !exchanges.streams.contains_key(&id) {
        if exchanges.streams.len() >= STREAMS_MAX {
            let oldest = exchanges.streams.keys().min().copied()?;
            exchanges.end_stream(context, oldest, Some("too many open streams"));
        }
        let mut new = Stream::default();
        new.exchange.number = exchanges.next();
        exchanges.streams.insert(id, new);
    }
    exchanges.streams.get_mut(&id)
}

fn reset(context: &mut Context<'_>, exchanges: &mut Exchanges, id: u64, code: u32) {
    if context.is_synthetic {
        return;
    }
    exchanges.remember_reset(id);
    let why = format!("stream reset ({})", error_name(code));
    exchanges.end_stream(context, id, Some(&why));
}

fn promise(context: &mut Context<'_>, exchanges: &mut Exchanges, id: u64, fields: Vec<Field>) {
    let Some(stream) = stream(context, exchanges, id) else { return };
    let number = stream.exchange.number;
    let mut head = head_of(context, number, id, fields);
    (head.kind, head.is_all) = (MessageKind::Promise, true);
    stream.is_asked = true;
    let head = Arc::new(head);
    stream.exchange.request = Some(Arc::clone(&head));
    stream.exchange.asked = Some(context.time);
    context.tell(What::Head(Arc::clone(&head)));
    Open::new(head, context.limits).end(context, None);
}

fn head_of(context: &Context<'_>, number: u64, stream: u64, fields: Vec<Field>) -> Head {
    let missing = missing_head(context, number, Protocol::Http2, stream);
    let mut head = Head { fields, version: "2".into(), is_missing: false, ..missing };
    let own = |name: &str| head.value(name).map(<[u8]>::to_vec);
    let (method, target) = (own(":method"), own(":path"));
    let authority = own(":authority").or_else(|| own("host"));
    let status = own(":status").and_then(|status| str::from_utf8(&status).ok()?.parse().ok());
    (head.method, head.target, head.authority, head.status) = (method, target, authority, status);
    head
}

fn headers(context: &mut Context<'_>, exchanges: &mut Exchanges, frame: &Frame, fields: Vec<Field>) {
    let id = frame.stream;
    let is_end = frame.flags & END_STREAM != 0;
    if exchanges.was_reset(id) {
        return;
    }
    let is_client = context.from == Side::Client;
    let Some(stream) = stream(context, exchanges, id) else { return };
    let number = stream.exchange.number;
    let mut head = head_of(context, number, id, fields);
    let slot = if is_client { &mut stream.request } else { &mut stream.response };
    // Trailers have none of the fields that begin with a colon. Names that are not known may be such.
    let is_first = match is_client {
        true => {
            head.method.is_some()
                || stream.exchange.request.is_none() && head.fields.iter().any(|f| f.name.is_none())
        }
        false => head.status.is_some() || slot.is_none() && head.fields.iter().any(|f| f.name.is_none()),
    };
    let grpc = head.text("grpc-status").parse().ok();
    stream.exchange.grpc = stream.exchange.grpc.or(grpc);
    if !is_first {
        if let Some(open) = open_of(context, exchanges, id, true) {
            open.trailers = head.fields;
        }
    } else if matches!(head.status, Some(100..200)) {
        (head.kind, head.is_all) = (MessageKind::Interim, true);
        let head = Arc::new(head);
        context.tell(What::Head(Arc::clone(&head)));
        Open::new(head, context.limits).end(context, None);
        return;
    } else {
        head.is_all = is_end;
        let head = Arc::new(head);
        if let Some(before) = slot.take() {
            before.end(context, Some("another message follows".into()));
        }
        let Some(stream) = exchanges.streams.get_mut(&id) else { return };
        let open = Open::new(Arc::clone(&head), context.limits);
        if is_client {
            (stream.exchange.request, stream.request) = (Some(Arc::clone(&head)), Some(open));
        } else {
            (stream.exchange.response, stream.response) = (Some(Arc::clone(&head)), Some(open));
        }
        context.tell(What::Head(head));
    }
    if is_end {
        end_side(context, exchanges, id);
    }
}

/// This side has said all in a stream.
fn end_side(context: &mut Context<'_>, exchanges: &mut Exchanges, id: u64) {
    let Some(stream) = exchanges.streams.get_mut(&id).filter(|_| !context.is_synthetic) else { return };
    if context.from == Side::Client {
        if let Some(open) = stream.request.take() {
            stream.exchange.sent = open.end(context, None);
        }
        stream.is_asked = true;
        stream.exchange.asked = Some(context.time);
    } else {
        if let Some(open) = stream.response.take() {
            stream.exchange.received = open.end(context, None);
        }
        stream.is_answered = true;
        stream.exchange.ended = Some(context.time);
    }
    // Of a request that was not seen the end may not be either.
    if stream.is_answered && (stream.is_asked || stream.request.is_none()) {
        exchanges.end_stream(context, id, None);
    }
}
