//! A connection: what is spoken on it, and both its directions.

use super::body::Parser;
use super::engine::Engine;
use super::h1::{self, H1, Upgrade};
use super::h2::{self, H2};
use super::kind::{Found, Kind};
use super::lines::{self, Dialect, Lines};
use super::tls::{self, Tls};
use super::weave::Weave;
use super::websocket::{self, WebSocket};
use super::wire::{self, Wire};
use crate::proto::h1::{Looks, looks, looks_sip};
use crate::proto::h2::{PREFACE, is_frames, is_settings};
use crate::proto::tls::{is_hello, is_open};
use crate::proto::websocket::Deflate;

/// A direction of a connection. Which end is the client is seen by what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// One of both.
    A,
    /// The other.
    B,
}

impl Side {
    /// The opposite direction.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// What was spoken when the parser lost its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    Http1,
    Sip,
    Http2,
    /// It is the server that speaks, or not.
    Lines(Dialect, bool),
    Wire(wire::Dialect, bool),
    /// Nothing can bring it in step.
    Other,
}

#[derive(Debug)]
enum Protocol {
    /// Its first bytes will tell.
    Detect,
    Http1(H1),
    Http2(Box<H2>),
    WebSocket(Box<WebSocket>),
    Tls(Tls),
    Lines(Lines),
    Wire(Wire),
    /// All is filled, until a segment begins with what the parser can go on with. That is only looked for where bytes are
    /// missing: what is there from the beginning and makes no sense is another protocol, and what of it looks like
    /// HTTP may be a quotation.
    Filled(Parser, Was),
}

/// What the other side has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Silent,
    Http2,
    /// It is the server, or not.
    Lines(Dialect, bool),
    Wire(wire::Dialect, bool),
    Else,
}

#[derive(Debug)]
struct Half {
    protocol: Protocol,
    pending: Vec<u8>,
    weave: Weave,
    /// Seen from its first byte.
    from_start: bool,
    /// Number of the next body.
    next_body: u64,
}

/// Both directions of a connection.
///
/// Each call appends to `out` the bytes of its direction that are decided: in the end as many as were given, in
/// the same order. What was found in them goes to `found`, at its place in `out`.
#[derive(Debug)]
pub struct Conversation {
    halves: [Half; 2],
    shared: h1::Shared,
    lines: lines::Shared,
    wire: wire::Shared,
    /// What is inside TLS that encrypts nothing.
    inner: Option<Box<Conversation>>,
}

impl Conversation {
    /// `from_start`: it is seen from its first byte, in both directions.
    pub fn new(from_start: bool) -> Conversation {
        let half = || Half {
            protocol: Protocol::Detect,
            pending: Vec::new(),
            weave: Weave::default(),
            from_start,
            next_body: 0,
        };
        let mut shared = h1::Shared::default();
        if !from_start {
            shared.doubt();
        }
        Conversation {
            halves: [half(), half()],
            shared,
            lines: lines::Shared::default(),
            wire: wire::Shared::default(),
            inner: None,
        }
    }

    /// Bytes that come next, a segment's.
    pub fn push(
        &mut self,
        engine: &mut Engine,
        side: Side,
        bytes: &[u8],
        out: &mut Vec<u8>,
        found: &mut Vec<Found>,
    ) {
        let half = &mut self.halves[side as usize];
        if half.resynchronise(bytes, &self.lines, &mut self.wire) {
            self.shared.doubt();
        }
        half.pending.extend_from_slice(bytes);
        self.run(engine, side, false);
        self.halves[side as usize].weave.drain(out, found);
    }

    /// Bytes are missing; how many, if that is known.
    pub fn hole(
        &mut self,
        engine: &mut Engine,
        side: Side,
        len: Option<u64>,
        out: &mut Vec<u8>,
        found: &mut Vec<Found>,
    ) {
        self.halves[side as usize].from_start = false;
        self.above(engine, side, |inner, engine, side, out, found| inner.give_up(engine, side, out, found));
        let half = &mut self.halves[side as usize];
        let weave = &mut half.weave;
        let goes_on = half.pending.is_empty()
            && len.is_some_and(|len| match &mut half.protocol {
                Protocol::Http1(h1) => h1.hole(engine, weave, len),
                Protocol::Http2(h2) => h2.hole(engine, weave, len),
                Protocol::WebSocket(websocket) => websocket.hole(engine, weave, len),
                Protocol::Wire(wire) => wire.hole(len),
                Protocol::Detect | Protocol::Filled(..) => true,
                Protocol::Tls(_) | Protocol::Lines(_) => false,
            });
        if !goes_on {
            half.lose(engine, Kind::Lost);
            self.shared.doubt();
        }
        half.weave.drain(out, found);
    }

    /// Nothing more comes in this direction.
    pub fn end(&mut self, engine: &mut Engine, side: Side, out: &mut Vec<u8>, found: &mut Vec<Found>) {
        self.run(engine, side, true);
        self.above(engine, side, |inner, engine, side, out, found| inner.end(engine, side, out, found));
        let half = &mut self.halves[side as usize];
        if !half.pending.is_empty() {
            half.lose(engine, Kind::Lost);
        }
        if let Protocol::WebSocket(websocket) = &mut half.protocol {
            websocket.give_up(engine, &mut half.weave, Kind::Lost);
        }
        half.weave.close_all(engine);
        half.weave.drain(out, found);
    }

    /// What waits can wait no longer: it is filled.
    pub fn give_up(&mut self, engine: &mut Engine, side: Side, out: &mut Vec<u8>, found: &mut Vec<Found>) {
        self.above(engine, side, |inner, engine, side, out, found| inner.give_up(engine, side, out, found));
        let half = &mut self.halves[side as usize];
        if !half.pending.is_empty() {
            half.lose(engine, Kind::Held);
            self.shared.doubt();
        }
        if let Protocol::WebSocket(websocket) = &mut half.protocol {
            websocket.give_up(engine, &mut half.weave, Kind::Held);
        }
        half.weave.give_up(engine, Kind::Held);
        half.weave.drain(out, found);
    }

    /// Lets what is inside TLS act, and takes what it has decided.
    fn above(
        &mut self,
        engine: &mut Engine,
        side: Side,
        act: impl FnOnce(&mut Conversation, &mut Engine, Side, &mut Vec<u8>, &mut Vec<Found>),
    ) {
        if let Some(inner) = &mut self.inner {
            let (mut out, mut found) = (Vec::new(), Vec::new());
            act(inner, engine, side, &mut out, &mut found);
            self.halves[side as usize].weave.layer_decided(&out, found);
        }
    }

    /// Whether TLS that begins here encrypts nothing; `None`: that is not known yet.
    fn is_open_tls(&self, own: &[u8], side: Side) -> Option<bool> {
        if self.inner.is_some() {
            return Some(true);
        }
        let peer = &self.halves[side.other() as usize];
        is_open(own, matches!(peer.protocol, Protocol::Detect).then_some(peer.pending.as_slice()))
    }

    fn run(&mut self, engine: &mut Engine, side: Side, last: bool) {
        self.run_one(engine, side, last);
        // What one side said may have waited for the other.
        let other = &self.halves[side.other() as usize];
        if matches!(other.protocol, Protocol::Detect) && is_hello(&other.pending) {
            self.run_one(engine, side.other(), false);
        }
    }

    fn run_one(&mut self, engine: &mut Engine, side: Side, last: bool) {
        if matches!(self.halves[side as usize].protocol, Protocol::Detect) {
            let own = &self.halves[side as usize].pending;
            if is_hello(own) {
                match self.is_open_tls(own, side) {
                    Some(true) => {
                        self.inner.get_or_insert_with(|| Box::new(Conversation::new(true)));
                        self.halves[side as usize].protocol = Protocol::Tls(Tls::default());
                    }
                    None if !last => return,
                    _ => {
                        self.halves[side as usize].protocol =
                            Protocol::Filled(Parser::Unknown(None, Kind::Protocol), Was::Other)
                    }
                }
            }
        }
        let other = &self.halves[side.other() as usize];
        let other = match &other.protocol {
            Protocol::Http2(_) => Other::Http2,
            Protocol::Lines(lines) => {
                let (dialect, is_server) = lines.role();
                Other::Lines(dialect, is_server)
            }
            Protocol::Wire(wire) => {
                let (dialect, is_server) = wire.role();
                Other::Wire(dialect, is_server)
            }
            Protocol::Filled(_, Was::Lines(dialect, is_server)) => Other::Lines(*dialect, *is_server),
            Protocol::Filled(_, Was::Wire(dialect, is_server)) => Other::Wire(*dialect, *is_server),
            Protocol::Detect if other.pending.is_empty() => Other::Silent,
            _ => Other::Else,
        };
        let half = &mut self.halves[side as usize];
        let mut pending = std::mem::take(&mut half.pending);
        let mut at = 0;
        while at < pending.len() {
            let rest = &mut pending[at..];
            match &mut half.protocol {
                Protocol::Detect => match half.detect(rest, other, last) {
                    Some(protocol) => half.protocol = protocol,
                    None => break,
                },
                Protocol::Http1(h1) => {
                    half.next_body = h1.next_body();
                    if h1.is_at_head()
                        && !rest.starts_with(b"HTTP/")
                        && let Some(upgrade) = self.shared.upgraded.take()
                    {
                        half.upgrade(upgrade, true, &self.shared.extensions);
                        continue;
                    }
                    match h1.step(engine, &mut self.shared, &mut half.weave, rest, last) {
                        h1::Turn::Went(len) => at += len,
                        h1::Turn::More => break,
                        h1::Turn::Over(len, upgrade) => {
                            at += len;
                            half.next_body = h1.next_body();
                            half.upgrade(upgrade, false, &self.shared.extensions);
                        }
                        h1::Turn::Lost => {
                            let was = if h1.is_sip() { Was::Sip } else { Was::Http1 };
                            half.fall_out(engine, was);
                            self.shared.doubt();
                        }
                    }
                }
                Protocol::Http2(h2) => match h2.step(engine, &mut half.weave, rest) {
                    h2::Turn::Went(len) => at += len,
                    h2::Turn::More => break,
                    h2::Turn::Lost => half.fall_out(engine, Was::Http2),
                },
                Protocol::Lines(lines) => {
                    let len = lines.step(engine, &mut self.lines, rest, last);
                    half.weave.raw(&rest[..len], engine.take_found());
                    if len == 0 {
                        break;
                    }
                    at += len;
                }
                Protocol::Wire(wire) => match wire.step(engine, &mut self.wire, rest) {
                    wire::Turn::Went(len) => {
                        half.weave.raw(&rest[..len], engine.take_found());
                        at += len;
                    }
                    wire::Turn::More => break,
                    wire::Turn::Lost => {
                        let (dialect, is_server) = wire.role();
                        engine.take_found();
                        half.fall_out(engine, Was::Wire(dialect, is_server));
                    }
                },
                Protocol::Tls(tls) => match tls.step(engine, &mut half.weave, rest) {
                    tls::Turn::Went(len) => at += len,
                    tls::Turn::Plain(len) => {
                        if let Some(inner) = &mut self.inner {
                            let (mut out, mut found) = (Vec::new(), Vec::new());
                            inner.push(engine, side, &rest[..len], &mut out, &mut found);
                            half.weave.layer_decided(&out, found);
                        }
                        at += len;
                    }
                    tls::Turn::More => break,
                    tls::Turn::Lost => half.fall_out(engine, Was::Other),
                },
                Protocol::WebSocket(websocket) => match websocket.step(engine, &mut half.weave, rest) {
                    websocket::Turn::Went(len) => at += len,
                    websocket::Turn::More => break,
                    websocket::Turn::Lost => half.fall_out(engine, Was::Other),
                },
                Protocol::Filled(parser, _) => {
                    at += parser.step(engine, rest, true);
                    half.weave.raw(rest, engine.take_found());
                }
            }
        }
        pending.drain(..at);
        half.pending = pending;
    }
}

impl Half {
    /// What the first bytes are; `None`: too few to tell.
    fn detect(&self, bytes: &[u8], other: Other, last: bool) -> Option<Protocol> {
        let other_is_http2 = other == Other::Http2;
        let foreign = || {
            let kind = if self.from_start { Kind::Protocol } else { Kind::Lost };
            Some(Protocol::Filled(Parser::Unknown(None, kind), Was::Http1))
        };
        let lost = |was| Some(Protocol::Filled(Parser::Unknown(None, Kind::Lost), was));
        if bytes.starts_with(PREFACE) {
            return Some(Protocol::Http2(Box::new(H2::new(true))));
        }
        if is_settings(bytes) || (other_is_http2 && bytes.len() >= 9 && is_frames(bytes)) {
            return Some(Protocol::Http2(Box::new(H2::new(false))));
        }
        match other {
            Other::Lines(dialect, is_server) if self.from_start => {
                return Some(Protocol::Lines(Lines::new(dialect, !is_server)));
            }
            Other::Lines(dialect, is_server) => return lost(Was::Lines(dialect, !is_server)),
            // Who answers the one who spoke first.
            Other::Wire(dialect, is_server) if self.from_start => {
                return Some(Protocol::Wire(Wire::new(dialect, !is_server)));
            }
            Other::Wire(dialect, is_server) => return lost(Was::Wire(dialect, !is_server)),
            Other::Silent if self.from_start => match lines::greeting(bytes) {
                Some(dialect) => return Some(Protocol::Lines(Lines::new(dialect, true))),
                None if bytes.len() < 5 && matches!(bytes[0], b'2' | b'+' | b'*') && !last => return None,
                None => {}
            },
            _ => {}
        }
        if self.from_start && other == Other::Silent {
            if let Some(dialect) = wire::client(bytes) {
                return Some(Protocol::Wire(Wire::new(dialect, false)));
            }
            if let Some(dialect) = wire::server(bytes) {
                return Some(Protocol::Wire(Wire::new(dialect, true)));
            }
            if !last && (wire::may_be_client(bytes) || wire::may_be_server(bytes)) {
                return None;
            }
        }
        let may_be_http2 = PREFACE.starts_with(bytes) || (other_is_http2 && bytes.len() < 9);
        match looks(bytes) {
            Looks::Yes => Some(Protocol::Http1(H1::new(self.next_body))),
            _ if looks_sip(bytes) != Looks::No => match looks_sip(bytes) {
                Looks::Yes => Some(Protocol::Http1(H1::sip(self.next_body))),
                _ if !last => None,
                _ => foreign(),
            },
            _ if last => foreign(),
            Looks::Maybe => None,
            Looks::No if may_be_http2 => None,
            Looks::No => foreign(),
        }
    }

    /// `extensions`: of WebSocket, as the server has accepted them.
    fn upgrade(&mut self, upgrade: Upgrade, is_client: bool, extensions: &str) {
        self.protocol = match upgrade {
            Upgrade::WebSocket => {
                let deflate = Deflate::agreed(extensions, is_client).unwrap_or_default();
                Protocol::WebSocket(Box::new(WebSocket::new(self.next_body, deflate)))
            }
            Upgrade::Http2 => Protocol::Http2(Box::new(H2::new(is_client))),
            Upgrade::Tunnel => Protocol::Detect,
        };
    }

    /// What comes is not what should come.
    fn fall_out(&mut self, engine: &mut Engine, was: Was) {
        if let Protocol::WebSocket(websocket) = &mut self.protocol {
            websocket.give_up(engine, &mut self.weave, Kind::Lost);
        }
        self.weave.lose_all(engine, Kind::Lost);
        self.protocol = Protocol::Filled(Parser::Unknown(None, Kind::Lost), was);
    }

    /// Fills what waits, and what follows.
    fn lose(&mut self, engine: &mut Engine, kind: Kind) {
        let was = match &self.protocol {
            Protocol::Http2(_) => Was::Http2,
            Protocol::Filled(_, was) => *was,
            Protocol::WebSocket(_) | Protocol::Tls(_) => Was::Other,
            Protocol::Lines(lines) => {
                let (dialect, is_server) = lines.role();
                Was::Lines(dialect, is_server)
            }
            Protocol::Wire(wire) => {
                let (dialect, is_server) = wire.role();
                Was::Wire(dialect, is_server)
            }
            Protocol::Http1(h1) if h1.is_sip() => Was::Sip,
            Protocol::Http1(_) | Protocol::Detect => Was::Http1,
        };
        self.fall_out(engine, was);
        let mut pending = std::mem::take(&mut self.pending);
        let mut parser = Parser::Unknown(None, kind);
        parser.step(engine, &mut pending, true);
        self.weave.raw(&pending, engine.take_found());
    }

    /// Where all is filled, a segment may begin with a message or a frame. Gives whether it does.
    fn resynchronise(&mut self, segment: &[u8], lines: &lines::Shared, wire: &mut wire::Shared) -> bool {
        if let Protocol::Filled(_, was) = &self.protocol
            && self.pending.is_empty()
            && !self.from_start
        {
            match was {
                Was::Http1 if looks(segment) == Looks::Yes => {
                    // Bodies that were lost keep their numbers.
                    self.next_body += 1;
                    self.protocol = Protocol::Http1(H1::new(self.next_body));
                }
                Was::Sip if looks_sip(segment) == Looks::Yes => {
                    self.next_body += 1;
                    self.protocol = Protocol::Http1(H1::sip(self.next_body));
                }
                Was::Http2 if is_frames(segment) => {
                    self.protocol = Protocol::Http2(Box::new(H2::after_hole()));
                }
                Was::Lines(dialect, is_server) if lines::is_certain(*dialect, *is_server, lines, segment) => {
                    self.protocol = Protocol::Lines(Lines::new(*dialect, *is_server));
                }
                Was::Wire(dialect, is_server) if wire::is_certain(*dialect, *is_server, wire, segment) => {
                    self.protocol = Protocol::Wire(Wire::behind_hole(*dialect, *is_server, wire));
                }
                _ => return false,
            }
            return true;
        }
        false
    }
}
