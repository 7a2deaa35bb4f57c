//! HTTP/1 (RFC 9112), one direction: messages one after the other, with their bodies.

use std::sync::Arc;

use super::exchange::{Context, Exchanges, Open, missing_head};
use super::{Field, Head, MessageKind, Protocol, Side};
use crate::proto::h1::{LINE_MAX, Length, Looks, chunk_size, head_len, length, looks, name_len};

/// Longest head that is waited for.
const HEAD_MAX: usize = 128 << 10;

const NO_REQUEST: &str = "its request is missing, so its end is unknown";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expecting {
    Head,
    Sized(u64),
    ChunkSize,
    Chunk(u64),
    /// The end of a chunk's line.
    ChunkEnd,
    Trailers,
    ToEnd,
}

/// What the connection becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// With the value of Sec-WebSocket-Extensions.
    WebSocket(String),
    Http2,
    /// What its first bytes say.
    Tunnel,
}

/// What a call came to.
pub(super) enum Turn {
    /// So many bytes are done.
    Went(usize),
    More,
    /// The same, and what follows in both directions is another protocol.
    Over(usize, Upgrade),
    /// What stands here is no HTTP.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(super) struct H1 {
    state: Expecting,
    message: Option<Open>,
    /// What is read was made up by the writer of the file: a head in the place of a missing one.
    is_rest: bool,
    /// The request that this answers is missing. If it was a HEAD, no body follows, whatever the head says.
    is_doubtful: bool,
}

impl H1 {
    pub(super) fn new() -> H1 {
        H1 { state: Expecting::Head, message: None, is_rest: false, is_doubtful: false }
    }

    pub(super) fn held(&self) -> usize {
        self.message.as_ref().map_or(0, Open::held)
    }

    pub(super) fn is_at_head(&self) -> bool {
        self.state == Expecting::Head && self.message.is_none()
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one body.
    pub(super) fn hole(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, len: u64) -> bool {
        match &mut self.state {
            Expecting::Sized(left) | Expecting::Chunk(left) if *left >= len => *left -= len,
            Expecting::ToEnd => {}
            _ => return false,
        }
        if let Some(open) = &mut self.message {
            open.lose(context, len);
        }
        match self.state {
            Expecting::Sized(0) => self.end(context, exchanges, None),
            Expecting::Chunk(0) => self.state = Expecting::ChunkEnd,
            _ => {}
        }
        true
    }

    /// A packet begins with an answer while the one before may go on: nobody knows whether it does.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful && self.state == Expecting::ToEnd
    }

    /// Nothing more comes, or it cannot be read.
    pub(super) fn stop(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, why: Option<&str>) {
        if self.message.is_some() || self.is_rest {
            let is_end = self.state == Expecting::ToEnd && why.is_none() && !self.is_doubtful;
            let why = why.or(Some(NO_REQUEST).filter(|_| self.is_doubtful()));
            self.end(
                context,
                exchanges,
                if is_end { None } else { Some(why.unwrap_or("connection closed")) },
            );
        }
    }

    fn end(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, cut: Option<&str>) {
        self.state = Expecting::Head;
        (self.is_rest, self.is_doubtful) = (false, false);
        let Some(open) = self.message.take() else { return };
        let (number, kind) = (open.head.exchange, open.head.kind);
        let len = open.end(context, cut.map(str::to_owned));
        match kind {
            MessageKind::Request | MessageKind::Promise => exchanges.asked(number, context.time, len),
            MessageKind::Response => exchanges.done(context, len, cut),
            MessageKind::Interim => {}
        }
    }

    /// Takes what stands at the beginning of `bytes`; `last`: nothing follows.
    pub(super) fn step(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        bytes: &[u8],
        last: bool,
    ) -> Turn {
        if self.is_doubtful && self.message.as_ref().is_some_and(|open| open.length() == 0) {
            const VERSION: &[u8] = b"HTTP/1.";
            if VERSION.starts_with(&bytes[..bytes.len().min(VERSION.len())]) {
                if bytes.len() < VERSION.len() && !last {
                    return Turn::More;
                }
                self.end(context, exchanges, None);
            }
        }
        match self.state {
            Expecting::Head => self.head(context, exchanges, bytes, last),
            Expecting::Sized(left) | Expecting::Chunk(left) => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.feed(context, &bytes[..len]);
                if let Some(open) =
                    self.message.as_ref().filter(|open| open.head.kind == MessageKind::Request)
                {
                    exchanges.sends(open.head.exchange, open.length());
                }
                match (left - len as u64, self.state) {
                    (0, Expecting::Chunk(_)) => self.state = Expecting::ChunkEnd,
                    (0, _) => self.end(context, exchanges, None),
                    (left, Expecting::Chunk(_)) => self.state = Expecting::Chunk(left),
                    (left, _) => self.state = Expecting::Sized(left),
                }
                Turn::Went(len)
            }
            Expecting::ToEnd => {
                self.feed(context, bytes);
                Turn::Went(bytes.len())
            }
            Expecting::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => self.go(Expecting::ChunkSize, 2),
                [b'\n', ..] => self.go(Expecting::ChunkSize, 1),
                [] | [b'\r'] => Turn::More,
                _ => Turn::Lost,
            },
            Expecting::ChunkSize => {
                let Some(end) = memchr::memchr(b'\n', bytes) else {
                    return if bytes.len() < LINE_MAX { Turn::More } else { Turn::Lost };
                };
                match chunk_size(&bytes[..end]) {
                    Some((0, _)) => self.go(Expecting::Trailers, end + 1),
                    Some((size, _)) => self.go(Expecting::Chunk(size), end + 1),
                    None => Turn::Lost,
                }
            }
            Expecting::Trailers => {
                let (len, at) = match bytes {
                    [b'\r', b'\n', ..] => (2, 0),
                    [b'\n', ..] => (1, 0),
                    [] | [b'\r'] => return Turn::More,
                    _ => match head_len(bytes) {
                        Some(len) => (len, len),
                        None if bytes.len() < HEAD_MAX => return Turn::More,
                        None => return Turn::Lost,
                    },
                };
                if let Some(open) = &mut self.message {
                    open.trailers = fields(&bytes[..at]);
                }
                self.end(context, exchanges, None);
                Turn::Went(len)
            }
        }
    }

    fn go(&mut self, state: Expecting, len: usize) -> Turn {
        self.state = state;
        Turn::Went(len)
    }

    fn feed(&mut self, context: &mut Context<'_>, bytes: &[u8]) {
        if self.is_rest && self.message.is_none() && !context.is_synthetic && !bytes.is_empty() {
            let head = missing_head(context, 0, Protocol::Http1, 0);
            let head = Arc::new(head);
            context.tell(super::What::Head(Arc::clone(&head)));
            self.message = Some(Open::new(head, context.limits));
        }
        if let Some(open) = self.message.as_mut().filter(|_| !context.is_synthetic) {
            open.feed(context, bytes);
        }
    }

    fn head(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        bytes: &[u8],
        last: bool,
    ) -> Turn {
        // Empty lines between messages.
        let empty = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if empty > 0 {
            return Turn::Went(empty);
        }
        match looks(bytes) {
            Looks::Yes => {}
            Looks::Maybe if !last => return Turn::More,
            Looks::Maybe | Looks::No => return Turn::Lost,
        }
        let len = match head_len(bytes) {
            Some(len) => len,
            None if bytes.len() < HEAD_MAX && !last => return Turn::More,
            None => return Turn::Lost,
        };
        self.message(context, exchanges, &bytes[..len], false)
    }

    /// What is there of a head whose rest is missing.
    pub(super) fn cut(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, bytes: &[u8]) -> bool {
        let end = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        let is_head = self.is_at_head() && looks(bytes) == Looks::Yes && end > 0 && !context.is_synthetic;
        is_head && !matches!(self.message(context, exchanges, &bytes[..end], true), Turn::Lost)
    }

    fn message(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        head: &[u8],
        is_cut: bool,
    ) -> Turn {
        let len = head.len();
        let line = memchr::memchr(b'\n', head).map_or(len, |end| end + 1);
        let first = head[..line].trim_ascii_end();
        let is_answer = first.starts_with(b"HTTP/");
        if is_answer != (context.from == Side::Server) {
            return Turn::Lost;
        }
        let fields = fields(&head[line..]);
        match is_answer {
            true => self.answer(context, exchanges, first, fields, (len, is_cut)),
            false => self.request(context, exchanges, first, fields, (len, is_cut)),
        }
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        line: &[u8],
        fields: Vec<Field>,
        (len, is_cut): (usize, bool),
    ) -> Turn {
        let method = line.split(|b| *b == b' ').next().unwrap_or_default();
        let end = line.iter().rposition(|b| *b == b' ').unwrap_or(line.len());
        let target = line.get(method.len() + 1..end).unwrap_or_default();
        let mut head = Head {
            kind: MessageKind::Request,
            method: Some(method.to_vec()),
            target: Some(target.to_vec()),
            version: version(line.get(end + 1..).unwrap_or_default()),
            fields,
            is_missing: false,
            is_cut,
            ..missing_head(context, 0, Protocol::Http1, 0)
        };
        head.authority = head.value("host").map(<[u8]>::to_vec);
        let body = body_length(&head);
        if context.is_synthetic {
            return self.rest(exchanges, body, len);
        }
        head.exchange = exchanges.next();
        head.is_all = body == Length::Sized(0) && !is_cut;
        let head = Arc::new(head);
        exchanges.asks(context, &head);
        let is_connect = head.method.as_deref() == Some(b"CONNECT");
        self.begin(context, exchanges, head, body);
        // Whether it is granted, the answer says; until then nobody may send anything.
        if is_connect { Turn::Over(len, Upgrade::Tunnel) } else { Turn::Went(len) }
    }

    fn answer(
        &mut self,
        context: &mut Context<'_>,
        exchanges: &mut Exchanges,
        line: &[u8],
        fields: Vec<Field>,
        (len, is_cut): (usize, bool),
    ) -> Turn {
        let status =
            line.get(9..12).and_then(|status| str::from_utf8(status).ok()?.parse().ok()).unwrap_or(0);
        let is_interim = (100..200).contains(&status) && status != 101;
        let mut head = Head {
            kind: if is_interim { MessageKind::Interim } else { MessageKind::Response },
            status: Some(status),
            reason: line.get(13..).unwrap_or_default().to_vec(),
            version: version(line.get(..8).unwrap_or_default()),
            fields,
            is_missing: false,
            is_cut,
            ..missing_head(context, 0, Protocol::Http1, 0)
        };
        let body = body_length(&head);
        if context.is_synthetic {
            return self.rest(exchanges, body, len);
        }
        let (number, request) = exchanges.answered_next(is_interim);
        self.is_doubtful = request.is_none() && !is_interim;
        let method = request.as_ref().and_then(|request| request.method.clone()).unwrap_or_default();
        let is_tunnel = method == b"CONNECT" && (200..300).contains(&status);
        let has_none =
            is_interim || status == 101 || status == 204 || status == 304 || method == b"HEAD" || is_tunnel;
        let body = if has_none { Length::Sized(0) } else { body };
        head.exchange = number;
        head.is_all = body == Length::Sized(0) && !is_cut;
        let upgrade = match head.text("upgrade").to_ascii_lowercase().as_str() {
            "websocket" => Upgrade::WebSocket(head.text("sec-websocket-extensions")),
            "h2c" => Upgrade::Http2,
            _ => Upgrade::Tunnel,
        };
        let head = Arc::new(head);
        if !is_interim {
            exchanges.answers(&head);
        }
        self.begin(context, exchanges, head, body);
        match status {
            101 => Turn::Over(len, upgrade),
            _ if is_tunnel => Turn::Over(len, Upgrade::Tunnel),
            _ => Turn::Went(len),
        }
    }

    fn begin(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, head: Arc<Head>, body: Length) {
        context.tell(super::What::Head(Arc::clone(&head)));
        let is_cut = head.is_cut;
        self.message = Some(Open::new(head, context.limits));
        self.state = state_of(body);
        if is_cut {
            self.end(context, exchanges, Some("bytes are missing"));
        } else if self.state == Expecting::Head {
            self.end(context, exchanges, None);
        }
    }

    /// What follows is the rest of a message whose head is missing.
    fn rest(&mut self, exchanges: &mut Exchanges, body: Length, len: usize) -> Turn {
        exchanges.doubt();
        self.state = state_of(body);
        self.is_rest = self.state != Expecting::Head;
        Turn::Went(len)
    }
}

fn state_of(body: Length) -> Expecting {
    match body {
        Length::Sized(0) => Expecting::Head,
        Length::Sized(len) => Expecting::Sized(len),
        Length::Chunked => Expecting::ChunkSize,
        Length::ToEnd => Expecting::ToEnd,
    }
}

/// By what the head says; whether there may be a body is another question.
fn body_length(head: &Head) -> Length {
    let codings: Vec<String> = head
        .fields
        .iter()
        .filter(|field| field.is("transfer-encoding"))
        .map(|field| {
            String::from_utf8_lossy(field.value.as_deref().unwrap_or_default()).trim().to_ascii_lowercase()
        })
        .collect();
    let len = head.value("content-length").and_then(|len| str::from_utf8(len).ok()?.trim().parse().ok());
    length(&codings.join(", "), len, head.kind == MessageKind::Response || head.kind == MessageKind::Interim)
}

fn version(text: &[u8]) -> String {
    let text = text.strip_prefix(b"HTTP/").unwrap_or(text);
    String::from_utf8_lossy(&text[..text.len().min(8)]).into_owned()
}

/// The fields in the lines of a head or of trailers. A line that continues another is added to that.
fn fields(lines: &[u8]) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    for line in lines.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match (name_len(line), fields.last_mut()) {
            (Some(len), _) => fields.push(Field {
                name: Some(line[..len].to_vec()),
                value: Some(line[len + 1..].trim_ascii().to_vec()),
            }),
            // RFC 9112, section 5.2.
            (None, Some(Field { value: Some(value), .. }))
                if line.starts_with(b" ") || line.starts_with(b"\t") =>
            {
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
            }
            (None, _) => {}
        }
    }
    fields
}
