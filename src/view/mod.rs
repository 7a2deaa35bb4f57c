//! What connections say, as messages and exchanges: the same for a file that is read and for a capture that goes on. Pure.
//!
//! ```text
//! bytes and holes of both directions, in order → Conversation → Told
//!                                                 ├ http1, http2, websocket   frames and heads
//!                                                 ├ content: coding, gRPC messages, events
//!                                                 └ exchange: which answer belongs to which request
//! Item (a connection, what it tells, what is missing) → text, json, hex, summary → bytes to write
//! ```
//!
//! What cannot be decoded is said, and never guessed. Everything that is kept has a bound; [`Conversation::held`] says how
//! much that is.

mod content;
mod conversation;
mod exchange;
mod hex;
mod http1;
mod http2;
mod json;
mod parts;
mod style;
mod summary;
mod text;
mod websocket;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

pub use content::Limits;
pub use conversation::{Conversation, Origin};
pub use hex::Hex;
pub use json::Json;
pub use style::Style;
pub use summary::Summary;
pub use text::Text;

pub use crate::track::segment::{Side, WallTime};

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// In HTTP/2 in lower case. `None`: it stands in a part of the header table that was not seen.
    pub name: Option<Vec<u8>>,
    /// The same.
    pub value: Option<Vec<u8>>,
}

impl Field {
    fn is(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Which protocol a message is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Asks.
    Request,
    /// Answers.
    Response,
    /// Announces a response: status 100 to 199.
    Interim,
    /// A request that the server makes for the client (PUSH_PROMISE).
    Promise,
}

/// The beginning of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the exchange that it belongs to, in its connection, from 1.
    pub exchange: u64,
    /// Who sent it.
    pub from: Side,
    /// See there.
    pub protocol: Protocol,
    /// HTTP/2's number; 0 in HTTP/1.
    pub stream: u64,
    /// See there.
    pub kind: MessageKind,
    /// When it was complete.
    pub time: WallTime,
    /// `1.1`; of HTTP/2 `2`.
    pub version: String,
    /// Of a request, if known.
    pub method: Option<Vec<u8>>,
    /// Path and query of a request, or whatever its target is.
    pub target: Option<Vec<u8>>,
    /// Host of a request, with a port if one is said.
    pub authority: Option<Vec<u8>>,
    /// Of a response.
    pub status: Option<u16>,
    /// Of a response of HTTP/1.
    pub reason: Vec<u8>,
    /// In order; of HTTP/2 with those whose names begin with a colon.
    pub fields: Vec<Field>,
    /// It is missing: only the rest of the message is there.
    pub is_missing: bool,
    /// Its rest is missing: there may be more fields.
    pub is_cut: bool,
    /// It is not followed by a body.
    pub is_all: bool,
}

impl Head {
    /// The value of the first field of this name.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.is(name))?.value.as_deref()
    }

    /// The same as text; empty if there is none.
    fn text(&self, name: &str) -> String {
        self.value(name).map_or(String::new(), |value| String::from_utf8_lossy(value).trim().to_owned())
    }

    /// Whether it is of gRPC.
    pub fn is_grpc(&self) -> bool {
        self.value("content-type").is_some_and(|of| of.to_ascii_lowercase().starts_with(b"application/grpc"))
    }
}

/// How far a body could be unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// It was not packed.
    Same,
    /// All of it, to so many bytes.
    Whole(u64),
    /// Its beginning, to so many bytes.
    Part(u64),
    /// It is not, for this reason.
    Not(&'static str),
}

/// What a body, or a message within one, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes of it that are there, as they were sent, without chunk lines, padding and masks.
    pub length: u64,
    /// Bytes of it that are known to be missing.
    pub missing: u64,
    /// Its end was seen, and nothing before it is missing.
    pub is_complete: bool,
    /// How it is packed, as `gzip`; empty if it is not.
    pub coding: String,
    /// See there.
    pub unpacked: Unpacked,
    /// SHA-256 of the whole, unpacked, if it was asked for and all of it is there.
    pub sha256: Option<[u8; 32]>,
    /// The beginning, unpacked.
    pub preview: Vec<u8>,
}

impl Content {
    /// How many unpacked bytes are known.
    pub fn plain_length(&self) -> Option<u64> {
        match self.unpacked {
            Unpacked::Same => Some(self.length),
            Unpacked::Whole(len) | Unpacked::Part(len) => Some(len),
            Unpacked::Not(_) => None,
        }
    }

    /// The beginning as text, if it is text; a character that is cut at its end is left out.
    pub fn preview_text(&self) -> Option<&str> {
        let text = match str::from_utf8(&self.preview) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() => {
                str::from_utf8(&self.preview[..error.valid_up_to()]).ok()?
            }
            Err(_) => return None,
        };
        let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{1b}');
        (!text.contains(is_odd)).then_some(text)
    }
}

/// What a body is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// A message of gRPC.
    Grpc,
    /// A server-sent event; its type and id, if it has any.
    Event {
        /// `message` if none is said.
        name: String,
        /// See there.
        id: Option<String>,
    },
}

/// A message within a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u64,
    /// See there.
    pub kind: PartKind,
    /// What is in it.
    pub content: Content,
}

/// The end of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How it began.
    pub head: Arc<Head>,
    /// The body; of a message that has none, an empty one.
    pub content: Content,
    /// Fields behind the body.
    pub trailers: Vec<Field>,
    /// Messages within the body.
    pub parts: u64,
    /// Why it is not complete.
    pub cut: Option<String>,
}

/// A request and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// In its connection, from 1.
    pub number: u64,
    /// `None`: it is missing.
    pub request: Option<Arc<Head>>,
    /// `None`: there is none.
    pub response: Option<Arc<Head>>,
    /// When the request was complete.
    pub asked: Option<WallTime>,
    /// When the answer was.
    pub ended: Option<WallTime>,
    /// Bytes of the bodies, as they were sent.
    pub sent: u64,
    /// See there.
    pub received: u64,
    /// gRPC's status.
    pub grpc: Option<u32>,
    /// Why it failed; `None`: it did not.
    pub failure: Option<String>,
}

impl Exchange {
    /// From the request's head to the answer's, ns.
    pub fn waited(&self) -> Option<u64> {
        Some(self.response.as_ref()?.time.saturating_sub(self.request.as_ref()?.time))
    }

    /// From the request's head to the end of the answer, ns.
    pub fn took(&self) -> Option<u64> {
        Some(self.ended?.saturating_sub(self.request.as_ref()?.time))
    }
}

/// A message of WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// RFC 6455, section 5.2: 1 text, 2 binary, 8 close, 9 ping, 10 pong; 0: its beginning is missing.
    pub opcode: u8,
    /// Of a close, its status.
    pub code: Option<u16>,
    /// What is in it; of a close, the reason.
    pub content: Content,
}

/// What a conversation tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A message begins.
    Head(Arc<Head>),
    /// A part of its body.
    Part(Arc<Head>, Part),
    /// It ends.
    End(End),
    /// A request has its answer, or will have none.
    Exchange(Exchange),
    /// A message of WebSocket.
    Message(Message),
    /// Bytes of a protocol that is not taken apart.
    Data(Content),
    /// So many bytes are there, but not what is needed to understand them.
    Skipped(u64),
    /// Something else that is worth a line.
    Note(String),
}

/// See [`What`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When.
    pub time: WallTime,
    /// Who said it.
    pub from: Side,
    /// See there.
    pub what: What,
}

/// What is known of a connection when its first bytes are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Wireshark's `tcp.stream`.
    pub number: u64,
    /// The number that tls2pcap gave it.
    pub conn: Option<u64>,
    /// The true addresses where they are known, else those in the packets.
    pub client: SocketAddr,
    /// See there.
    pub server: SocketAddr,
    /// `curl[1234]`; empty if it is not known.
    pub process: String,
    /// Who the process is: `None` if it is not known.
    pub role: Option<Side>,
    /// What else comments say of it.
    pub facts: BTreeMap<String, String>,
    /// When its first packet was seen.
    pub began: WallTime,
    /// It is seen from its first byte.
    pub from_start: bool,
}

impl Connection {
    /// What the server is called: by the client, or by its address.
    pub fn server_name(&self) -> String {
        match self.facts.get("sni") {
            Some(name) => format!("{name}:{}", self.server.port()),
            None => self.server.to_string(),
        }
    }
}

/// Bytes are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When, as far as that can be said.
    pub time: WallTime,
    /// Who sent them.
    pub from: Side,
    /// How many; `None`: nobody knows.
    pub length: Option<u64>,
    /// Why, as comments say it.
    pub reason: Option<String>,
}

/// Bytes in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes<'a> {
    /// When they were sent.
    pub time: WallTime,
    /// Who sent them.
    pub from: Side,
    /// Counted from the first byte of this direction.
    pub offset: u64,
    /// See there.
    pub bytes: &'a [u8],
    /// No program said them.
    pub is_synthetic: bool,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// When.
    pub time: WallTime,
    /// By RST, and not by FIN.
    pub is_reset: bool,
    /// Who began to close it.
    pub by: Option<Side>,
    /// The capture ended before it did.
    pub is_open: bool,
    /// Bytes from the client, and from the server.
    pub bytes: [u64; 2],
}

/// What a view shows, in order.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A connection, before anything else of it.
    Open(&'a Connection),
    /// What it tells.
    Told(&'a Connection, &'a Told),
    /// What is missing of it.
    Loss(&'a Connection, &'a Loss),
    /// Its bytes.
    Bytes(&'a Connection, Bytes<'a>),
    /// Its end, after everything else of it.
    Closed(&'a Connection, Closed),
}

/// Makes text of items.
pub trait View {
    /// Appends what is to be written.
    fn item(&mut self, item: Item<'_>, out: &mut Vec<u8>);

    /// Whether it wants what connections tell; else only bytes.
    fn wants_messages(&self) -> bool {
        true
    }

    /// Nothing more comes.
    fn finish(&mut self, _out: &mut Vec<u8>) {}
}
