//! A connection: what is spoken on it, and both its directions.

use super::content::{Limits, Reader};
use super::exchange::{Context, Exchanges};
use super::http1::{self, H1, Upgrade};
use super::http2::{self, H2};
use super::websocket::{self, WebSocket};
use super::{Side, Told, WallTime, What};
use crate::proto::h1::{Looks, looks};
use crate::proto::h2::{HEADER, PREFACE, is_frames, is_settings};
use crate::proto::tls::{self, is_hello, is_open};

/// Fewest bytes of a packet that may begin a message after a hole: a method and a target.
const BEGIN: usize = 16;

/// Whether a program said these bytes, or who wrote the file put them there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It did.
    Program,
    /// They are in the place of missing ones, so that readers find the next message.
    Filler,
    /// They precede what the program said, so that readers understand it.
    Setup,
}

#[derive(Debug)]
enum Protocol {
    /// Its first bytes will tell.
    Detect,
    Http1(Box<H1>),
    Http2(Box<H2>),
    WebSocket(Box<WebSocket>),
    /// Synthetic TLS: so many bytes of plaintext to come in the record, then of what stands for a hash.
    Tls(usize, usize),
    /// Another protocol.
    Other,
    /// Bytes are missing, and where the next message begins is not known; of which protocol it is.
    Lost(Was),
}

#[derive(Debug)]
enum Was {
    Http1,
    Http2,
    WebSocket(Box<WebSocket>),
}

#[derive(Debug)]
struct Half {
    protocol: Protocol,
    pending: Vec<u8>,
    from_start: bool,
    /// Bytes that nobody understood since the last that were.
    skipped: u64,
    /// Inside TLS: so many zeros come in the place of missing bytes, and whether more are missing behind them.
    filled: u64,
    is_longer: bool,
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct Conversation {
    halves: [Half; 2],
    exchanges: Exchanges,
    limits: Limits,
    /// What is inside TLS that encrypts nothing.
    inner: Option<Box<Conversation>>,
}

impl Conversation {
    /// `from_start`: it is seen from its first byte, in both directions.
    pub fn new(from_start: bool, limits: Limits) -> Conversation {
        let half = || Half {
            protocol: Protocol::Detect,
            pending: Vec::new(),
            from_start,
            skipped: 0,
            filled: 0,
            is_longer: false,
        };
        let mut exchanges = Exchanges::default();
        if !from_start {
            exchanges.doubt();
        }
        Conversation { halves: [half(), half()], exchanges, limits, inner: None }
    }

    /// Bytes that it takes in memory, about.
    pub fn held(&self) -> usize {
        let half = |half: &Half| {
            half.pending.capacity()
                + match &half.protocol {
                    Protocol::Http1(h1) => h1.held(),
                    Protocol::Http2(h2) => h2.held(),
                    Protocol::WebSocket(websocket) => websocket.held(),
                    _ => 0,
                }
        };
        let halves: usize = self.halves.iter().map(half).sum();
        halves + self.exchanges.held() + self.inner.as_ref().map_or(0, |inner| inner.held())
    }

    /// Bytes that come next, a packet's.
    pub fn push(&mut self, at: (WallTime, Side), bytes: &[u8], origin: Origin, out: &mut dyn FnMut(Told)) {
        let from = at.1;
        if origin == Origin::Filler && self.is_filled(at, bytes.len() as u64, out) {
            return;
        }
        let limits = self.limits;
        let half = &mut self.halves[from as usize];
        if let Protocol::Http1(h1) = &mut half.protocol
            && h1.is_doubtful()
            && bytes.starts_with(b"HTTP/1.")
        {
            h1.stop(
                &mut Context { time: at.0, from, is_synthetic: false, limits, out: &mut *out },
                &mut self.exchanges,
                None,
            );
        }
        half.resynchronise(bytes, origin == Origin::Filler);
        if half.skipped > 0 && !matches!(half.protocol, Protocol::Lost(_)) {
            half.tell_skipped(&mut Context { time: at.0, from, is_synthetic: false, limits, out: &mut *out });
        }
        // Most packets are taken whole, and nothing is copied.
        let mut pending = std::mem::take(&mut half.pending);
        if pending.is_empty() {
            let done = self.run(at, bytes, origin, false, out);
            pending.extend_from_slice(&bytes[done..]);
        } else {
            pending.extend_from_slice(bytes);
            let done = self.run(at, &pending, origin, false, out);
            pending.drain(..done);
        }
        self.halves[from as usize].pending = pending;
        // What one side said may have waited for the other.
        let other = (at.0, from.peer());
        let waits = &mut self.halves[other.1 as usize];
        if matches!(waits.protocol, Protocol::Detect) && !waits.pending.is_empty() {
            let mut pending = std::mem::take(&mut waits.pending);
            let done = self.run(other, &pending, Origin::Program, false, out);
            pending.drain(..done);
            self.halves[other.1 as usize].pending = pending;
        }
    }

    /// Inside synthetic TLS, so many zeros come next in the place of missing bytes; `is_longer`: more are missing behind them.
    pub fn filled(&mut self, from: Side, zeros: u64, is_longer: bool) {
        let half = &mut self.halves[from as usize];
        half.filled = half.filled.saturating_add(zeros);
        half.is_longer |= is_longer;
    }

    /// What is inside TLS.
    fn plain(
        &mut self,
        (time, from): (WallTime, Side),
        mut bytes: &[u8],
        origin: Origin,
        out: &mut dyn FnMut(Told),
    ) {
        let half = &mut self.halves[from as usize];
        let Some(inner) = &mut self.inner else { return };
        let zeros = usize::try_from(half.filled).unwrap_or(usize::MAX).min(bytes.len());
        if zeros > 0 {
            half.filled -= zeros as u64;
            inner.hole((time, from), Some(zeros as u64), out);
            bytes = &bytes[zeros..];
        }
        if half.filled == 0 && std::mem::take(&mut half.is_longer) {
            inner.hole((time, from), None, out);
        }
        if !bytes.is_empty() {
            inner.push((time, from), bytes, origin, out);
        }
    }

    /// Bytes in the place of missing ones. Gives whether they are as good as missing: else they tell where it goes on.
    fn is_filled(&mut self, (time, from): (WallTime, Side), len: u64, out: &mut dyn FnMut(Told)) -> bool {
        let limits = self.limits;
        let context = &mut Context { time, from, is_synthetic: false, limits, out };
        let half = &mut self.halves[from as usize];
        let is_within = half.pending.is_empty()
            && match &mut half.protocol {
                Protocol::Http1(h1) => h1.hole(context, &mut self.exchanges, len),
                Protocol::Http2(h2) => h2.hole(context, &mut self.exchanges, len),
                Protocol::WebSocket(websocket) => websocket.hole(context, len),
                _ => return false,
            };
        if !is_within {
            half.lose(context, &mut self.exchanges);
        }
        is_within
    }

    /// Bytes are missing; how many, if that is known.
    pub fn hole(&mut self, (time, from): (WallTime, Side), len: Option<u64>, out: &mut dyn FnMut(Told)) {
        if let Some(inner) = &mut self.inner {
            inner.hole((time, from), None, out);
        }
        let limits = self.limits;
        let context = &mut Context { time, from, is_synthetic: false, limits, out };
        let half = &mut self.halves[from as usize];
        half.from_start = false;
        let goes_on = half.pending.is_empty()
            && len.is_some_and(|len| match &mut half.protocol {
                Protocol::Http1(h1) => h1.hole(context, &mut self.exchanges, len),
                Protocol::Http2(h2) => h2.hole(context, &mut self.exchanges, len),
                Protocol::WebSocket(websocket) => websocket.hole(context, len),
                Protocol::Detect | Protocol::Lost(_) => {
                    self.exchanges.doubt();
                    true
                }
                Protocol::Other => true,
                Protocol::Tls(..) => false,
            });
        if !goes_on {
            half.lose(context, &mut self.exchanges);
        }
    }

    /// Nothing more comes in this direction, or, if `is_reset`, in both.
    pub fn end(&mut self, (time, from): (WallTime, Side), why: Option<&str>, out: &mut dyn FnMut(Told)) {
        let pending = std::mem::take(&mut self.halves[from as usize].pending);
        let done = self.run((time, from), &pending, Origin::Program, true, out);
        self.halves[from as usize].skipped += (pending.len() - done) as u64;
        if let Some(inner) = &mut self.inner {
            inner.end((time, from), why, out);
        }
        let context = &mut Context { time, from, is_synthetic: false, limits: self.limits, out };
        let half = &mut self.halves[from as usize];
        match &mut half.protocol {
            Protocol::Http1(h1) => h1.stop(context, &mut self.exchanges, why),
            Protocol::WebSocket(websocket) => websocket.lose(context),
            _ => {}
        }
        half.tell_skipped(context);
    }

    /// Nothing more comes at all; [`Conversation::end`] was called for both sides.
    pub fn close(&mut self, time: WallTime, why: &str, out: &mut dyn FnMut(Told)) {
        if let Some(inner) = &mut self.inner {
            inner.close(time, why, out);
        }
        let context =
            &mut Context { time, from: Side::Server, is_synthetic: false, limits: self.limits, out };
        self.exchanges.end(context, why);
    }

    /// Gives up what waits, to make room.
    pub fn give_up(&mut self, (time, from): (WallTime, Side), out: &mut dyn FnMut(Told)) {
        if let Some(inner) = &mut self.inner {
            inner.give_up((time, from), out);
        }
        for from in [Side::Client, Side::Server] {
            let context = &mut Context { time, from, is_synthetic: false, limits: self.limits, out };
            self.halves[from as usize].from_start = false;
            self.halves[from as usize].lose(context, &mut self.exchanges);
        }
        let context = &mut Context { time, from, is_synthetic: false, limits: self.limits, out };
        context.tell(What::Note("too much memory is used: unfinished messages are dropped".into()));
        self.exchanges.end(context, "dropped, to limit memory");
    }

    /// Whether TLS that begins here encrypts nothing; `None`: that is not known yet.
    fn is_open_tls(&self, own: &[u8], from: Side) -> Option<bool> {
        if self.inner.is_some() {
            return Some(true);
        }
        let peer = &self.halves[from.peer() as usize];
        is_open(own, matches!(peer.protocol, Protocol::Detect).then_some(peer.pending.as_slice()))
    }

    /// Takes bytes apart. Gives how many are done; the others are to be shown again with those that follow.
    fn run(
        &mut self,
        (time, from): (WallTime, Side),
        bytes: &[u8],
        origin: Origin,
        last: bool,
        out: &mut dyn FnMut(Told),
    ) -> usize {
        let (limits, is_synthetic) = (self.limits, origin != Origin::Program);
        if matches!(self.halves[from as usize].protocol, Protocol::Detect) && is_hello(bytes) {
            match self.is_open_tls(bytes, from) {
                Some(true) => {
                    self.inner.get_or_insert_with(|| Box::new(Conversation::new(true, limits)));
                    self.halves[from as usize].protocol = Protocol::Tls(0, 0);
                }
                None if !last => return 0,
                _ => self.halves[from as usize].protocol = Protocol::Other,
            }
        }
        let mut at = 0;
        while at < bytes.len() {
            let other_is_http2 = matches!(self.halves[from.peer() as usize].protocol, Protocol::Http2(_));
            let context = &mut Context { time, from, is_synthetic, limits, out };
            let half = &mut self.halves[from as usize];
            let rest = &bytes[at..];
            let turn = match &mut half.protocol {
                Protocol::Detect => match half.detect(rest, other_is_http2, last) {
                    Some(protocol) => {
                        half.protocol = protocol;
                        continue;
                    }
                    None => Turn::More,
                },
                Protocol::Http1(h1) => match h1.step(context, &mut self.exchanges, rest, last) {
                    http1::Turn::Went(len) => Turn::Went(len),
                    http1::Turn::More => Turn::More,
                    http1::Turn::Lost => Turn::Lost,
                    http1::Turn::Over(len, upgrade) => {
                        at += len;
                        self.upgrade(from, &upgrade);
                        continue;
                    }
                },
                Protocol::Http2(h2) => match h2.step(context, &mut self.exchanges, rest) {
                    http2::Turn::Went(len) => Turn::Went(len),
                    http2::Turn::More => Turn::More,
                    http2::Turn::Lost => Turn::Lost,
                },
                Protocol::WebSocket(websocket) => match websocket.step(context, rest) {
                    websocket::Turn::Went(len) => Turn::Went(len),
                    websocket::Turn::More => Turn::More,
                    websocket::Turn::Lost => Turn::Lost,
                },
                Protocol::Tls(plain, hash) => match tls_step(plain, hash, rest) {
                    Record::Plain(len) => {
                        self.plain((time, from), &rest[..len], origin, out);
                        Turn::Went(len)
                    }
                    Record::Other(turn) => turn,
                },
                Protocol::Other => {
                    if !is_synthetic {
                        let mut reader = Reader::plain(limits);
                        reader.feed(rest, &mut |_| {});
                        let (content, _) = reader.finish(true, &mut |_| {});
                        context.tell(What::Data(content));
                    }
                    Turn::Went(rest.len())
                }
                Protocol::Lost(_) => {
                    if !is_synthetic {
                        half.skipped += rest.len() as u64;
                    }
                    Turn::Went(rest.len())
                }
            };
            let half = &mut self.halves[from as usize];
            match turn {
                Turn::Went(len) => at += len,
                Turn::More => break,
                Turn::Lost
                    if half.cut_head(
                        &mut Context { time, from, is_synthetic, limits, out: &mut *out },
                        &mut self.exchanges,
                        &bytes[at..],
                    ) =>
                {
                    at = bytes.len();
                }
                Turn::Lost => {
                    half.lose(&mut Context { time, from, is_synthetic, limits, out }, &mut self.exchanges)
                }
            }
        }
        at
    }

    /// The protocol changes, in this direction or, by an answer, in both.
    fn upgrade(&mut self, from: Side, upgrade: &Upgrade) {
        let sides =
            if from == Side::Server { [Side::Client, Side::Server].as_slice() } else { &[Side::Client] };
        for side in sides {
            let half = &mut self.halves[*side as usize];
            // After CONNECT it has changed already.
            if *side != from && !matches!(&half.protocol, Protocol::Http1(h1) if h1.is_at_head()) {
                continue;
            }
            half.protocol = match upgrade {
                Upgrade::WebSocket(extensions) => {
                    Protocol::WebSocket(Box::new(WebSocket::new(*side, extensions)))
                }
                Upgrade::Http2 => Protocol::Http2(Box::new(H2::new(*side == Side::Client))),
                Upgrade::Tunnel => Protocol::Detect,
            };
        }
    }
}

enum Turn {
    Went(usize),
    More,
    Lost,
}

enum Record {
    Plain(usize),
    Other(Turn),
}

/// Takes what stands at the beginning of `bytes`, of synthetic TLS.
fn tls_step(plain: &mut usize, hash: &mut usize, bytes: &[u8]) -> Record {
    if *plain > 0 {
        let len = (*plain).min(bytes.len());
        *plain -= len;
        return Record::Plain(len);
    }
    if *hash > 0 {
        let len = (*hash).min(bytes.len());
        *hash -= len;
        return Record::Other(Turn::Went(len));
    }
    let Some([kind, 3, 0..=4, high, low]) = bytes.first_chunk::<{ tls::HEADER }>().copied() else {
        return Record::Other(if bytes.len() < tls::HEADER { Turn::More } else { Turn::Lost });
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    (*plain, *hash) = match kind {
        tls::APPLICATION_DATA => (len.saturating_sub(tls::HASH), len.min(tls::HASH)),
        _ => (0, len),
    };
    Record::Other(Turn::Went(tls::HEADER))
}

impl Half {
    /// What the first bytes are; `None`: too few to tell.
    fn detect(&self, bytes: &[u8], other_is_http2: bool, last: bool) -> Option<Protocol> {
        let foreign = || Some(if self.from_start { Protocol::Other } else { Protocol::Lost(Was::Http1) });
        if bytes.starts_with(PREFACE) {
            return Some(Protocol::Http2(Box::new(H2::new(true))));
        }
        if is_settings(bytes) || (other_is_http2 && bytes.len() >= 9 && is_frames(bytes)) {
            return Some(Protocol::Http2(Box::new(H2::new(false))));
        }
        let may_be_http2 = PREFACE.starts_with(bytes) || (other_is_http2 && bytes.len() < 9);
        match looks(bytes) {
            Looks::Yes => Some(Protocol::Http1(Box::new(H1::new()))),
            _ if last => foreign(),
            Looks::Maybe => None,
            Looks::No if may_be_http2 => None,
            Looks::No if other_is_http2 => Some(Protocol::Lost(Was::Http2)),
            Looks::No => foreign(),
        }
    }

    /// What is there of a head whose rest is missing is told. Gives whether that is all of it.
    fn cut_head(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges, bytes: &[u8]) -> bool {
        match &mut self.protocol {
            Protocol::Http1(h1) => h1.cut(context, exchanges, bytes),
            _ => false,
        }
    }

    /// What comes is not what should come, or it is missing.
    fn lose(&mut self, context: &mut Context<'_>, exchanges: &mut Exchanges) {
        let was = match &mut self.protocol {
            Protocol::Http1(h1) => {
                if h1.cut(context, exchanges, &self.pending) {
                    self.pending.clear();
                }
                h1.stop(context, exchanges, Some("bytes are missing"));
                exchanges.doubt();
                Was::Http1
            }
            Protocol::Http2(_) => {
                exchanges.lose(context);
                Was::Http2
            }
            Protocol::WebSocket(_) => match std::mem::replace(&mut self.protocol, Protocol::Other) {
                Protocol::WebSocket(mut websocket) => {
                    websocket.lose(context);
                    Was::WebSocket(websocket)
                }
                _ => return,
            },
            Protocol::Lost(_) => {
                self.skipped += std::mem::take(&mut self.pending).len() as u64;
                return;
            }
            Protocol::Detect => Was::Http1,
            Protocol::Tls(..) | Protocol::Other => {
                self.protocol = Protocol::Other;
                return;
            }
        };
        self.skipped += std::mem::take(&mut self.pending).len() as u64;
        self.protocol = Protocol::Lost(was);
    }

    /// After a hole, a packet may begin with a message or a frame; one that fills the hole does.
    fn resynchronise(&mut self, packet: &[u8], is_filler: bool) {
        if !matches!(self.protocol, Protocol::Lost(_)) {
            return;
        }
        self.protocol = match std::mem::replace(&mut self.protocol, Protocol::Detect) {
            // A head may go on in the next packet; if it does not, it is none.
            Protocol::Lost(Was::Http1) if looks(packet) != Looks::No && packet.len() >= BEGIN => {
                Protocol::Http1(Box::new(H1::new()))
            }
            Protocol::Lost(Was::Http1) if packet.starts_with(PREFACE) => {
                Protocol::Http2(Box::new(H2::new(true)))
            }
            Protocol::Lost(Was::Http2) if is_frames(packet) || (is_filler && packet.len() >= HEADER) => {
                Protocol::Http2(Box::new(H2::after_hole()))
            }
            Protocol::Lost(Was::WebSocket(websocket)) if is_filler => Protocol::WebSocket(websocket),
            lost => lost,
        };
    }

    fn tell_skipped(&mut self, context: &mut Context<'_>) {
        match std::mem::take(&mut self.skipped) {
            0 => {}
            n => context.tell(What::Skipped(n)),
        }
    }
}
