//! HTTP/1 (RFC 9112): requests and answers one after the other, with their bodies. The same for SIP (RFC 3261), whose
//! messages look alike: both ends ask, and a body has a length or is not there.

use memchr::memmem;

use super::body::{Body, Parser, Type};
use super::cloak::Escape;
use super::engine::Engine;
use super::facts::{self, Fact};
use super::kind::Kind;
use super::weave::Weave;
use super::{headers, target};
use crate::proto::h1::{LINE_MAX, Length, Looks, chunk_size, head_len, length, looks, looks_sip, name_len};
use crate::proto::pairing::Pairing;

/// Longest head that is waited for.
const HEAD_MAX: usize = 256 << 10;

/// What both directions know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Requests whose answer has not come.
    asked: Pairing<Asked>,
    /// Number of the last exchange.
    exchanges: u64,
    /// What the server has changed to.
    pub(super) upgraded: Option<Upgrade>,
    /// Which extensions of WebSocket it has accepted.
    pub(super) extensions: String,
}

impl Shared {
    /// Messages may be missing.
    pub(super) fn doubt(&mut self) {
        self.asked.doubt();
    }

    fn next(&mut self) -> u64 {
        self.exchanges += 1;
        self.exchanges
    }
}

/// What is remembered of a request.
#[derive(Debug)]
struct Asked {
    method: Method,
    /// Number of the exchange.
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Head,
    Connect,
    Other,
}

/// What comes after an answer with status 101, or 200 to CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    WebSocket,
    Http2,
    /// What its first bytes say.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// A body of known length.
    Sized(u64),
    /// In front of a chunk's length.
    ChunkSize,
    Chunk(u64),
    /// The end of a chunk's line.
    ChunkEnd,
    Trailers,
    ToEnd,
}

/// One direction.
#[derive(Debug)]
pub(super) struct H1 {
    is_sip: bool,
    state: State,
    /// Number of the body.
    body: u64,
    /// Number of the exchange.
    exchange: u64,
    /// Which request this answers is not certain. If it was a HEAD, no body follows, whatever the head says.
    is_doubtful: bool,
}

/// What a call came to.
pub(super) enum Turn {
    /// So many bytes went into the weave.
    Went(usize),
    /// More is needed.
    More,
    /// The same, and what follows is another protocol.
    Over(usize, Upgrade),
    /// What stands here is no HTTP.
    Lost,
}

impl H1 {
    /// `body`: the number of the next body.
    pub(super) fn new(body: u64) -> H1 {
        H1 { is_sip: false, state: State::Head, body, exchange: 0, is_doubtful: false }
    }

    /// The same of SIP.
    pub(super) fn sip(body: u64) -> H1 {
        H1 { is_sip: true, ..H1::new(body) }
    }

    pub(super) fn is_sip(&self) -> bool {
        self.is_sip
    }

    /// The number of the next body.
    pub(super) fn next_body(&self) -> u64 {
        self.body + 1
    }

    pub(super) fn is_at_head(&self) -> bool {
        self.state == State::Head
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one body.
    pub(super) fn hole(&mut self, engine: &mut Engine, weave: &mut Weave, len: u64) -> bool {
        match &mut self.state {
            State::Sized(left) | State::Chunk(left) if *left >= len => {
                *left -= len;
                let is_end = self.state == State::Sized(0);
                weave.lose(engine, self.body, Kind::Lost);
                if is_end {
                    self.end_body(engine, weave);
                }
                true
            }
            State::ToEnd => {
                weave.lose(engine, self.body, Kind::Lost);
                true
            }
            _ => false,
        }
    }

    fn end_body(&mut self, engine: &mut Engine, weave: &mut Weave) {
        weave.close(engine, self.body);
        engine.tell(|| Fact::End { stream: self.exchange });
        self.body += 1;
        self.state = State::Head;
    }

    /// Takes what stands at the beginning of `bytes`; `last`: nothing follows.
    pub(super) fn step(
        &mut self,
        engine: &mut Engine,
        shared: &mut Shared,
        weave: &mut Weave,
        bytes: &mut [u8],
        last: bool,
    ) -> Turn {
        if std::mem::take(&mut self.is_doubtful) && self.state != State::Head {
            const VERSION: &[u8] = b"HTTP/1.";
            if VERSION.starts_with(&bytes[..bytes.len().min(VERSION.len())]) {
                if bytes.len() < VERSION.len() && !last {
                    self.is_doubtful = true;
                    return Turn::More;
                }
                self.end_body(engine, weave);
            }
        }
        match self.state {
            State::Head => self.head(engine, shared, weave, bytes, last),
            State::Sized(left) | State::Chunk(left) => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - len as u64;
                let is_chunk = matches!(self.state, State::Chunk(_));
                engine.tell(|| Fact::Body { stream: self.exchange, len: len as u64 });
                weave.data(engine, self.body, &bytes[..len], left == 0 && !is_chunk, None);
                match (left, is_chunk) {
                    (0, true) => self.state = State::ChunkEnd,
                    (0, false) => {
                        engine.tell(|| Fact::End { stream: self.exchange });
                        self.body += 1;
                        self.state = State::Head;
                    }
                    (left, true) => self.state = State::Chunk(left),
                    (left, false) => self.state = State::Sized(left),
                }
                Turn::Went(len)
            }
            State::ToEnd => {
                engine.tell(|| Fact::Body { stream: self.exchange, len: bytes.len() as u64 });
                weave.data(engine, self.body, bytes, last, None);
                Turn::Went(bytes.len())
            }
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => self.raw(weave, &bytes[..2], State::ChunkSize),
                [b'\n', ..] => self.raw(weave, &bytes[..1], State::ChunkSize),
                [] | [b'\r'] => Turn::More,
                _ => Turn::Lost,
            },
            State::ChunkSize => self.chunk(engine, weave, bytes),
            State::Trailers => self.trailers(engine, weave, bytes),
        }
    }

    fn raw(&mut self, weave: &mut Weave, bytes: &[u8], next: State) -> Turn {
        weave.raw(bytes, vec![]);
        self.state = next;
        Turn::Went(bytes.len())
    }

    fn chunk(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8]) -> Turn {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() < LINE_MAX { Turn::More } else { Turn::Lost };
        };
        let Some((size, digits)) = chunk_size(&bytes[..end]) else { return Turn::Lost };
        // Extensions say anything.
        let stop = if bytes[..end].ends_with(b"\r") { end - 1 } else { end };
        engine.cloak(bytes, digits..stop, Kind::Protocol, Escape::Header);
        weave.raw(&bytes[..=end], engine.take_found());
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
        Turn::Went(end + 1)
    }

    fn trailers(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8]) -> Turn {
        let len = match bytes {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            [] | [b'\r'] => return Turn::More,
            _ => match memmem::find(bytes, b"\r\n\r\n") {
                Some(end) => end + 4,
                None if bytes.len() < HEAD_MAX => return Turn::More,
                None => return Turn::Lost,
            },
        };
        fields(engine, &mut bytes[..len], 0, false);
        weave.close(engine, self.body);
        engine.tell(|| Fact::End { stream: self.exchange });
        weave.raw(&bytes[..len], engine.take_found());
        self.body += 1;
        self.state = State::Head;
        Turn::Went(len)
    }

    fn head(
        &mut self,
        engine: &mut Engine,
        shared: &mut Shared,
        weave: &mut Weave,
        bytes: &mut [u8],
        last: bool,
    ) -> Turn {
        // Empty lines between messages.
        let empty = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if empty > 0 {
            return self.raw(weave, &bytes[..empty], State::Head);
        }
        match if self.is_sip { looks_sip(bytes) } else { looks(bytes) } {
            Looks::No => return Turn::Lost,
            Looks::Maybe if !last => return Turn::More,
            Looks::Maybe => return Turn::Lost,
            Looks::Yes => {}
        }
        let len = match head_len(bytes) {
            Some(len) => len,
            None if last => bytes.len(),
            None if bytes.len() < HEAD_MAX => return Turn::More,
            None => return Turn::Lost,
        };
        let head = &mut bytes[..len];
        let line = memchr::memchr(b'\n', head).map_or(len, |end| end + 1);
        let is_answer = head.starts_with(b"HTTP/") || head.starts_with(b"SIP/");
        let status = if is_answer {
            // The reason may be any text.
            let end = head[..line].trim_ascii_end().len();
            engine.within(0, |engine| super::text::scan(engine, &mut head[..end], super::text::Sort::Plain));
            str::from_utf8(head.get(9..12).unwrap_or_default())
                .ok()
                .and_then(|status| status.parse().ok())
                .unwrap_or(0u16)
        } else {
            let begin = head.iter().position(|b| *b == b' ').map_or(line, |at| at + 1);
            let end = head[..line].trim_ascii_end().iter().rposition(|b| *b == b' ').unwrap_or(begin);
            let target = begin.min(end)..end.max(begin);
            if head.starts_with(b"CONNECT ") {
                super::identity::host(engine, head, target.clone());
            }
            target::url(engine, head, target);
            0
        };
        let method = match head.split(|b| *b == b' ').next() {
            Some(b"HEAD") => Method::Head,
            Some(b"CONNECT") => Method::Connect,
            _ => Method::Other,
        };
        let fields = fields(engine, head, line, self.is_sip);
        if self.is_sip {
            weave.raw(head, engine.take_found());
            self.state = match fields.length {
                Some(len @ 1..) => {
                    weave.open(
                        engine,
                        self.body,
                        Body::new(Type::new(&fields.content_type, &fields.content_encoding)),
                    );
                    State::Sized(len)
                }
                _ => State::Head,
            };
            return Turn::Went(len);
        }
        if !is_answer {
            let mut words = head[..line].trim_ascii_end().split(|b| *b == b' ');
            shared.asked.give_up();
            self.exchange = shared.next();
            shared.asked.ask(Asked { method, number: self.exchange });
            engine.tell(|| Fact::Request {
                stream: self.exchange,
                is_http2: false,
                method: facts::text(words.next().unwrap_or_default()),
                target: facts::text(words.next().unwrap_or_default()),
                host: fields.host.clone(),
            });
        }
        weave.raw(head, engine.take_found());
        if is_answer {
            self.answer(engine, shared, weave, status, &fields, len)
        } else {
            self.begin_body(engine, weave, &fields, false);
            if method == Method::Connect { Turn::Over(len, Upgrade::Tunnel) } else { Turn::Went(len) }
        }
    }

    fn answer(
        &mut self,
        engine: &mut Engine,
        shared: &mut Shared,
        weave: &mut Weave,
        status: u16,
        fields: &Fields,
        len: usize,
    ) -> Turn {
        if (100..200).contains(&status) && status != 101 {
            return Turn::Went(len);
        }
        let is_unsure = shared.asked.is_unsure();
        let asked = shared.asked.answer();
        shared.asked.done();
        self.is_doubtful = is_unsure || asked.is_none();
        self.exchange = asked.as_ref().map_or_else(|| shared.next(), |asked| asked.number);
        engine.tell(|| Fact::Answer { stream: self.exchange, is_stray: asked.is_none(), status });
        let method = asked.map_or(Method::Other, |asked| asked.method);
        if status == 101 {
            engine.tell(|| Fact::End { stream: self.exchange });
            let upgrade = match fields.upgrade.as_str() {
                "websocket" => Upgrade::WebSocket,
                "h2c" => Upgrade::Http2,
                _ => Upgrade::Tunnel,
            };
            shared.upgraded = Some(upgrade);
            shared.extensions.clone_from(&fields.extensions);
            return Turn::Over(len, upgrade);
        }
        if method == Method::Connect && (200..300).contains(&status) {
            engine.tell(|| Fact::End { stream: self.exchange });
            return Turn::Over(len, Upgrade::Tunnel);
        }
        if method != Method::Head && status != 204 && status != 304 {
            self.begin_body(engine, weave, fields, true);
        } else {
            engine.tell(|| Fact::End { stream: self.exchange });
        }
        Turn::Went(len)
    }

    /// RFC 9112, section 6.3.
    fn begin_body(&mut self, engine: &mut Engine, weave: &mut Weave, fields: &Fields, is_answer: bool) {
        self.state = match length(&fields.transfer_encoding, fields.length, is_answer) {
            Length::Sized(0) => State::Head,
            Length::Sized(len) => State::Sized(len),
            Length::Chunked => State::ChunkSize,
            Length::ToEnd => State::ToEnd,
        };
        if self.state != State::Head {
            let body = match fields.transfer_encoding.contains(',') {
                // Compressed for the transfer only.
                true => Body::with(Parser::unknown()),
                false => Body::new(Type::new(&fields.content_type, &fields.content_encoding)),
            };
            weave.open(engine, self.body, body);
        } else {
            engine.tell(|| Fact::End { stream: self.exchange });
        }
    }
}

/// What a head says of what follows.
#[derive(Debug, Default)]
struct Fields {
    length: Option<u64>,
    transfer_encoding: String,
    content_type: String,
    content_encoding: String,
    upgrade: String,
    /// Of WebSocket.
    extensions: String,
    host: String,
}

/// Short names of fields of SIP that matter here.
const SHORT: [(&str, &str); 3] = [("l", "content-length"), ("c", "content-type"), ("e", "content-encoding")];

/// Replaces values in the lines from `at` on.
fn fields(engine: &mut Engine, head: &mut [u8], mut at: usize, is_sip: bool) -> Fields {
    let mut fields = Fields::default();
    while at < head.len() {
        let end = memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |len| at + len);
        let stop = if end > at && head[end - 1] == b'\r' { end - 1 } else { end };
        match name_len(&head[at..stop]) {
            Some(colon) => {
                let mut name = String::from_utf8_lossy(&head[at..at + colon]).to_ascii_lowercase();
                // SIP has short forms (RFC 3261, section 7.3.3).
                if let Some((_, long)) = SHORT.iter().find(|(short, _)| is_sip && *short == name) {
                    name = (*long).to_owned();
                }
                let begin = at + colon + 1;
                let begin =
                    begin + head[begin..stop].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                headers::value(engine, &name, head, begin..stop);
                let text = || String::from_utf8_lossy(&head[begin..stop]).trim().to_owned();
                match name.as_str() {
                    "content-length" => fields.length = text().parse().ok(),
                    // Several such fields are one list.
                    "transfer-encoding" if !fields.transfer_encoding.is_empty() => {
                        fields.transfer_encoding += &format!(",{}", text().to_ascii_lowercase());
                    }
                    "transfer-encoding" => fields.transfer_encoding = text().to_ascii_lowercase(),
                    "content-type" => fields.content_type = text(),
                    "content-encoding" if !fields.content_encoding.is_empty() => {
                        fields.content_encoding += &format!(",{}", text());
                    }
                    "content-encoding" => fields.content_encoding = text(),
                    "host" => fields.host = text(),
                    "sec-websocket-extensions" => fields.extensions = text(),
                    "upgrade" => fields.upgrade = text().to_ascii_lowercase(),
                    _ => {}
                }
            }
            // No field, or the continuation of one.
            _ => engine.fill_text(head, at..stop, Kind::Lost),
        }
        at = end + 1;
    }
    fields
}
