//! The table of connections, and the wait for the protocol of each.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;

use super::comment::{Comment, Seconds};
use super::detect::{self, Detection, Protocol};
use super::flow::{Flow, Out, with_peer};
use super::ports::{CLIENT_PORTS, CLIENT_PORTS_APART, Ports, Stream, TLS, apart, is_owned, server_port};
use super::select::{Choice, Selection};
use super::tls::{self, Carrier, Handshake};
use super::tuple::{Identity, Tuples, Written};
use super::{CONNECTIONS_MAX, HOLD_BYTES, HOLD_SEGMENTS, HOLD_TIME, HOLD_TIME_UNKNOWN, HOLD_TOTAL, Stats};
use crate::event::TupleSource;
use crate::filter::Facts;
use crate::track::segment::{
    Connection, ConnectionId, Payload, Process, Segment, SegmentBody, Side, Tuple, WallTime,
};

/// The server's port if the true one is unknown.
const MADE_UP_PORT: u16 = 443;

/// First bytes of a direction that are examined.
const PEEK: usize = 1024;

/// Turns segments into packets.
///
/// A connection's SYN is written late, together with its first bytes, once these reveal the protocol: the
/// written port depends on it and never changes afterwards. The wait is bounded by [`HOLD_TIME`],
/// [`HOLD_BYTES`], [`HOLD_SEGMENTS`] and [`HOLD_TOTAL`].
pub struct Synthesizer {
    ports: Ports,
    carrier: Carrier,
    selection: Selection,
    live: HashMap<ConnectionId, Stage>,
    tuples: Tuples,
    /// Who waits, until when.
    waiting: BTreeSet<(WallTime, ConnectionId)>,
    /// Connections whose last data must be acknowledged at the next tick; each at most once.
    unacknowledged: Vec<ConnectionId>,
    held_bytes: usize,
    serial: u32,
    stats: Stats,
}

enum Stage {
    Held(Box<Hold>),
    /// It is not wanted.
    Left,
    Written(Box<Flow>),
}

/// A connection that is not written yet.
struct Hold {
    connection: Arc<Connection>,
    server_name: Option<String>,
    alpn: Option<String>,
    peer: Option<Arc<Process>>,
    segments: Vec<Segment>,
    bytes: usize,
    /// Time of the first segment.
    since: Option<WallTime>,
    /// When the wait ends.
    until: WallTime,
    client: Peek,
    server: Peek,
}

/// The first bytes of a direction, without a gap.
#[derive(Default)]
struct Peek {
    bytes: Vec<u8>,
    closed: bool,
}

impl Peek {
    fn add(&mut self, payload: &Payload) {
        if !self.closed {
            let room = PEEK - self.bytes.len();
            self.bytes.extend_from_slice(&payload.bytes[..payload.bytes.len().min(room)]);
            self.closed = self.bytes.len() == PEEK || (payload.bytes.len() as u64) < payload.len;
        }
    }

    /// Whether the first line is there, or will be.
    fn has_line(&self) -> bool {
        !self.closed || self.bytes.contains(&b'\n')
    }

    /// `None` until data was sent.
    fn verdict(&self, tell: impl Fn(&[u8]) -> Detection) -> Option<Detection> {
        match (self.bytes.is_empty(), self.closed) {
            (true, false) => None,
            (true, true) => Some(Detection::Unknown),
            (false, closed) => match tell(&self.bytes) {
                Detection::NeedMore if closed => Some(detect::cut_short(&self.bytes)),
                verdict => Some(verdict),
            },
        }
    }
}

/// What the first bytes revealed.
#[derive(Clone, Copy, Default)]
struct Decision {
    protocol: Option<Protocol>,
    /// See [`Stream::begins`].
    begins: bool,
}

impl Hold {
    fn new(connection: Arc<Connection>) -> Hold {
        Hold {
            server_name: connection.server_name.clone(),
            alpn: connection.alpn.clone(),
            connection,
            peer: None,
            segments: Vec::new(),
            bytes: 0,
            since: None,
            until: 0,
            client: Peek::default(),
            server: Peek::default(),
        }
    }

    /// `None` if more bytes may reveal more.
    fn decision(&self) -> Option<Decision> {
        let port = addresses(&self.connection).map_or(0, |written| written.server.port());
        let client = self.client.verdict(detect::client);
        let server = self.server.verdict(|bytes| detect::server(bytes, port));
        let alpn = self.alpn.as_deref().and_then(detect::from_alpn);
        match (client, server) {
            (Some(Detection::Known(protocol)), _) => {
                Some(Decision { protocol: Some(protocol), begins: self.client.has_line() })
            }
            (Some(Detection::NeedMore), _) => None,
            (_, Some(Detection::Known(protocol))) => {
                Some(Decision { protocol: Some(protocol), begins: false })
            }
            (None, None) => None,
            _ if alpn.is_some() => Some(Decision { protocol: alpn, begins: false }),
            (Some(Detection::Unknown), Some(Detection::Unknown)) => Some(Decision::default()),
            _ => None,
        }
    }

    /// How long to wait for what may reveal more. In the middle of a connection the client's bytes reveal
    /// little, so the server's are worth more.
    fn patience(&self) -> u64 {
        let client = self.connection.from_start.then(|| self.client.verdict(detect::client)).flatten();
        if matches!(client, Some(Detection::Unknown)) { HOLD_TIME_UNKNOWN } else { HOLD_TIME }
    }

    /// When nothing more is waited for.
    fn last_decision(&self) -> Decision {
        self.decision().unwrap_or_else(|| Decision {
            protocol: self.alpn.as_deref().and_then(detect::from_alpn),
            begins: false,
        })
    }
}

/// The true addresses, if they are known and of one family.
fn addresses(connection: &Connection) -> Option<Written> {
    let Tuple { local, remote } = connection.tuple?;
    let [local, remote] = [local, remote].map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()));
    let (client, server) = match connection.local_side {
        Side::Client => (local, remote),
        Side::Server => (remote, local),
    };
    (client.is_ipv4() == server.is_ipv4()).then_some(Written { client, server })
}

impl Synthesizer {
    /// A synthesis without connections.
    pub fn new(ports: Ports) -> Synthesizer {
        Synthesizer {
            ports,
            carrier: Carrier::default(),
            selection: Selection::default(),
            live: HashMap::default(),
            tuples: Tuples::new(if ports == Ports::Apart { CLIENT_PORTS_APART } else { CLIENT_PORTS }),
            waiting: BTreeSet::new(),
            unacknowledged: Vec::new(),
            held_bytes: 0,
            serial: 0,
            stats: Stats::default(),
        }
    }

    /// Sets the framing of the plaintext. To be called before the first segment.
    pub fn with_carrier(self, carrier: Carrier) -> Synthesizer {
        Synthesizer { carrier, ..self }
    }

    /// Sets which connections are written, and how much of each. To be called before the first segment.
    pub fn with_selection(self, selection: Selection) -> Synthesizer {
        Synthesizer { selection, ..self }
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        Stats { tuples_forgotten: self.tuples.forgotten(), ..self.stats }
    }

    /// Takes one step of one connection; `out` gets the packets that are ready.
    ///
    /// No sequence of segments is an error: what makes no sense is counted and left out.
    pub fn segment(&mut self, segment: &Segment, out: &mut Out) {
        let id = segment.connection;
        if let SegmentBody::Open(connection) = &segment.body {
            return self.open(id, connection);
        }
        match self.live.get_mut(&id) {
            None => self.stats.segments_orphaned += 1,
            Some(Stage::Held(_)) => self.hold(segment, out),
            Some(Stage::Left) => {
                if let SegmentBody::End = segment.body {
                    self.live.remove(&id);
                }
            }
            Some(Stage::Written(flow)) => {
                let cut = self.selection.cut(segment, flow.connection.local_side);
                let segment = cut.as_ref().unwrap_or(segment);
                let before = (flow.held(), flow.held_until());
                match segment.body {
                    SegmentBody::End => flow.close(&mut self.stats, out),
                    _ => flow.segment(segment, &mut self.stats, out),
                }
                if self.held_bytes - before.0 + flow.held() >= HOLD_TOTAL {
                    flow.joined_if(|_| true, &mut self.stats, out);
                    flow.release(&mut self.stats, out);
                }
                let after = (flow.held(), flow.held_until());
                if flow.newly_unacknowledged() {
                    self.unacknowledged.push(id);
                }
                if let SegmentBody::End = segment.body {
                    self.tuples.release(flow.written, flow.latest);
                    self.live.remove(&id);
                }
                self.count_held(id, before, after);
            }
        }
    }

    /// What a written connection holds has changed.
    fn count_held(
        &mut self,
        id: ConnectionId,
        (before, until): (usize, Option<WallTime>),
        (after, now_until): (usize, Option<WallTime>),
    ) {
        self.held_bytes = self.held_bytes - before + after;
        if until != now_until {
            until.map(|until| self.waiting.remove(&(until, id)));
            now_until.map(|until| self.waiting.insert((until, id)));
        }
    }

    fn open(&mut self, id: ConnectionId, connection: &Arc<Connection>) {
        if self.live.contains_key(&id) {
            self.stats.opened_twice += 1;
        } else if self.live.len() >= CONNECTIONS_MAX {
            self.stats.connections_refused += 1;
        } else {
            self.live.insert(id, Stage::Held(Box::new(Hold::new(connection.clone()))));
        }
    }

    fn hold(&mut self, segment: &Segment, out: &mut Out) {
        let id = segment.connection;
        let Some(Stage::Held(hold)) = self.live.get_mut(&id) else { return };
        let mut decided = false;
        match &segment.body {
            // These go into the SYN's comment.
            SegmentBody::Peer(process) => hold.peer = Some(process.clone()),
            SegmentBody::ServerName(name) => hold.server_name = Some(name.clone()),
            SegmentBody::Alpn(name) => hold.alpn = Some(name.clone()),
            body => {
                let mut held = segment.clone();
                if let SegmentBody::Payload(payload) = &mut held.body {
                    // A slice would keep all the records of its batch in memory.
                    payload.bytes = Bytes::copy_from_slice(&payload.bytes);
                }
                hold.segments.push(held);
                let since = *hold.since.get_or_insert(segment.time);
                match body {
                    SegmentBody::Payload(payload) => {
                        hold.bytes += payload.bytes.len();
                        self.held_bytes += payload.bytes.len();
                        match payload.from {
                            Side::Client => hold.client.add(payload),
                            Side::Server => hold.server.add(payload),
                        }
                    }
                    SegmentBody::Skip { from: Side::Client, .. } => hold.client.closed = true,
                    SegmentBody::Skip { from: Side::Server, .. } => hold.server.closed = true,
                    SegmentBody::End | SegmentBody::Reset { .. } => decided = true,
                    _ => {}
                }
                let until = since.saturating_add(hold.patience());
                if until != hold.until {
                    self.waiting.remove(&(hold.until, id));
                    self.waiting.insert((until, id));
                    hold.until = until;
                }
            }
        }
        decided |= hold.decision().is_some();
        let full =
            hold.bytes >= HOLD_BYTES || hold.segments.len() >= HOLD_SEGMENTS || self.held_bytes >= HOLD_TOTAL;
        if decided || full {
            self.stats.decided_early += u64::from(!decided);
            self.write(id, segment.time, out);
        }
    }

    /// Writes a held connection, and all of it that was held.
    fn write(&mut self, id: ConnectionId, now: WallTime, out: &mut Out) {
        let hold = match self.live.remove(&id) {
            Some(Stage::Held(hold)) => hold,
            Some(written) => {
                self.live.insert(id, written);
                return;
            }
            None => return,
        };
        self.held_bytes -= hold.bytes;
        self.waiting.remove(&(hold.until, id));
        let decision = hold.last_decision();
        let choice = self.selection.choose(&hold.facts(decision.protocol), &mut self.stats);
        if choice == Choice::Leave {
            if !hold.segments.iter().any(|segment| segment.body == SegmentBody::End) {
                self.live.insert(id, Stage::Left);
            }
            return;
        }
        let framing = self.framing(&hold.connection, decision);
        let written = self.tuple(&hold.connection, decision, framing == ChosenCarrier::Tls);
        let Some(mut flow) = Flow::new(hold.connection.clone(), written, decision.protocol, self.serial)
        else {
            // Only for addresses of two families, which are never written.
            return self.tuples.release(written, 0);
        };
        flow.latest = self.tuples.latest(written);
        self.serial = self.serial.wrapping_add(1);
        self.stats.connections += 1;
        let time = hold.since.unwrap_or(now);
        let comment = hold.comment(written, decision.protocol, framing);
        let unknown = (choice == Choice::WriteUnknown).then_some("unknown");
        flow.open(comment.with_some("filter", unknown), time, &mut self.stats, out);
        if framing == ChosenCarrier::Tls {
            flow.handshake(hold.handshake(decision.protocol), time, &mut self.stats, out);
        }
        self.live.insert(id, Stage::Written(Box::new(flow)));
        for segment in &hold.segments {
            self.segment(segment, out);
        }
    }

    /// What the connection is written in.
    fn framing(&self, connection: &Connection, decision: Decision) -> ChosenCarrier {
        let port = addresses(connection).map_or(MADE_UP_PORT, |truth| truth.server.port());
        match self.carrier {
            Carrier::Plain => ChosenCarrier::Plain(None),
            Carrier::Tls => match tls::decodes(port, decision.protocol) {
                Ok(()) => ChosenCarrier::Tls,
                Err(why) => ChosenCarrier::Plain(Some(why)),
            },
        }
    }

    /// The addresses and ports to write.
    fn tuple(&mut self, connection: &Connection, decision: Decision, tls: bool) -> Written {
        let Decision { protocol, begins } = decision;
        let truth = addresses(connection);
        let layered = connection.tuple_source == TupleSource::Layer;
        let identity = Identity { truth, netns: connection.netns, layered };
        let Some(truth) = truth else {
            self.stats.tuples_made_up += 1;
            // There is no true port to keep.
            let stream = Stream { port: MADE_UP_PORT, protocol, begins, from_start: true };
            let port = if tls { MADE_UP_PORT } else { server_port(stream) };
            return self.tuples.make_up(port, identity);
        };
        let mut wish = truth;
        let mut avoid_owned = false;
        if tls {
            avoid_owned = self.ports != Ports::Keep && !TLS.contains(&wish.server.port());
        } else if self.ports != Ports::Keep {
            let port = truth.server.port();
            wish.server.set_port(server_port(Stream {
                port,
                protocol,
                begins,
                from_start: connection.from_start,
            }));
            // The server's port is asked first, and then it makes no difference.
            avoid_owned = !is_owned(wish.server.port());
        }
        if self.ports == Ports::Apart && wish == truth {
            wish.client.set_port(apart(truth.client.port()));
        }
        let written = self.tuples.allocate(wish, identity, avoid_owned);
        self.stats.tuples_changed += u64::from(written != wish);
        written
    }

    /// Time passes: writes what has waited long enough. Call it at least every [`HOLD_TIME`].
    pub fn tick(&mut self, now: WallTime, out: &mut Out) {
        // A clock that was set back must not lengthen a wait.
        let due = |until: WallTime| until <= now || until - now > HOLD_TIME;
        loop {
            let oldest = self.waiting.first().filter(|(until, _)| due(*until));
            let Some((_, id)) = oldest.or(self.waiting.last().filter(|(until, _)| due(*until))) else {
                break;
            };
            let id = *id;
            match self.live.get_mut(&id) {
                Some(Stage::Written(flow)) => {
                    let before = (flow.held(), flow.held_until());
                    flow.joined_if(due, &mut self.stats, out);
                    flow.release(&mut self.stats, out);
                    let after = (flow.held(), flow.held_until());
                    if flow.newly_unacknowledged() {
                        self.unacknowledged.push(id);
                    }
                    self.count_held(id, before, after);
                }
                _ => {
                    self.stats.decided_early += 1;
                    self.write(id, now, out);
                }
            }
        }
        for id in std::mem::take(&mut self.unacknowledged) {
            if let Some(Stage::Written(flow)) = self.live.get_mut(&id) {
                flow.acknowledge_all(out);
            }
        }
    }

    /// The capture has ended: writes what is held back. Connections that live on get no FIN.
    pub fn finish(&mut self, now: WallTime, out: &mut Out) {
        let mut ids: Vec<_> = self.live.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.write(id, now, out);
            if let Some(Stage::Written(flow)) = self.live.get_mut(&id) {
                let before = (flow.held(), flow.held_until());
                flow.close(&mut self.stats, out);
                self.count_held(id, before, (0, None));
            }
        }
    }
}

impl Hold {
    /// The name that is written although none was learned: that of the recognised protocol.
    fn made_up_alpn(&self, protocol: Option<Protocol>) -> Option<&'static str> {
        protocol.filter(|_| self.alpn.is_none()).and_then(tls::alpn)
    }

    fn handshake(&self, protocol: Option<Protocol>) -> Handshake<'_> {
        Handshake {
            connection: self.connection.id,
            server_name: self.server_name.as_deref(),
            alpn: self.alpn.as_deref().or(self.made_up_alpn(protocol)),
        }
    }

    /// What is known of it, as the comment of the SYN has it.
    fn facts(&self, protocol: Option<Protocol>) -> Facts<'_> {
        let connection = &self.connection;
        let process = &connection.process;
        let known = !process.comm.is_empty();
        let truth = addresses(connection);
        Facts {
            client: truth.map(|truth| truth.client),
            server: truth.map(|truth| truth.server),
            pid: Some(process.key.pid),
            comm: Some(process.comm.as_str()).filter(|_| known),
            exe: Some(process.exe.as_str()).filter(|exe| !exe.is_empty()),
            uid: Some(process.uid).filter(|_| known),
            container: process.container.as_deref().or(known.then_some("")),
            netns: Some(connection.netns).filter(|n| *n != 0),
            sni: self.server_name.as_deref(),
            alpn: self.alpn.as_deref(),
            library: connection.library.as_ref().map(|library| library.path.as_str()),
            library_version: connection.library.as_ref().map_or("", |library| library.version.as_str()),
            is_client: Some(connection.local_side == Side::Client),
            proto: protocol.map(Protocol::as_str),
        }
    }

    /// The comment of the SYN.
    fn comment(&self, written: Written, protocol: Option<Protocol>, framing: ChosenCarrier) -> Comment {
        let connection = &self.connection;
        let process = &connection.process;
        // Only an introduced process has a name.
        let known = !process.comm.is_empty();
        let truth = addresses(connection);
        let library = connection.library.as_ref().map(|library| {
            let separator = if library.version.is_empty() { "" } else { " " };
            format!("{}{separator}{}", library.path, library.version)
        });
        let changed = |a: SocketAddr, truth: Option<SocketAddr>| Some(a).filter(|a| Some(*a) != truth);
        let comment = Comment::new(connection.id)
            .with("pid", process.key.pid)
            .with("tid", connection.tid)
            .with_some("comm", known.then_some(&process.comm))
            .with_some("exe", Some(&process.exe).filter(|exe| !exe.is_empty()))
            .with_some("uid", known.then_some(process.uid))
            .with_some("container", process.container.as_ref())
            .with_some("library", library)
            .with("handle", format_args!("{:#x}", connection.handle.address))
            .with_some("fd", connection.fd)
            .with_some("inode", Some(connection.inode).filter(|n| *n != 0))
            .with_some("cookie", connection.cookie)
            .with_some("rtt_us", connection.rtt.map(|rtt| rtt.smoothed))
            .with_some("rtt_min_us", connection.rtt.map(|rtt| rtt.least))
            .with("rtt_source", if connection.rtt.is_some() { "kernel" } else { "none" })
            .with_some("netns", Some(connection.netns).filter(|n| *n != 0))
            .with_some("local", connection.tuple.map(|t| t.local))
            .with_some("remote", connection.tuple.map(|t| t.remote))
            .with("tuple", connection.tuple_source.as_str())
            .with_some("written_client", changed(written.client, truth.map(|t| t.client)))
            .with_some("written_server", changed(written.server, truth.map(|t| t.server)))
            .with("role", if connection.local_side == Side::Client { "client" } else { "server" })
            .with("role_source", connection.role_source.as_str())
            .with_some("layer_below", connection.layer_below.map(|id| id.0))
            .with_some("sni", self.server_name.as_ref())
            .with_some("alpn", self.alpn.as_ref())
            .with_some("proto", protocol.map(Protocol::as_str))
            .with_some("framing", framing.as_str())
            .with_some("framing_reason", framing.reason())
            .with_some("written_alpn", self.made_up_alpn(protocol).filter(|_| framing == ChosenCarrier::Tls))
            .with("start", Seconds(connection.started))
            .with("from_start", u8::from(connection.from_start));
        match &self.peer {
            Some(peer) => with_peer(comment, peer),
            None => comment,
        }
    }
}

/// What a connection is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChosenCarrier {
    /// TCP, though TLS was asked for if there is a reason.
    Plain(Option<&'static str>),
    Tls,
}

impl ChosenCarrier {
    /// For the comment, if it is not what was asked for by default.
    fn as_str(self) -> Option<&'static str> {
        match self {
            ChosenCarrier::Plain(None) => None,
            ChosenCarrier::Plain(Some(_)) => Some("plain"),
            ChosenCarrier::Tls => Some("tls"),
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            ChosenCarrier::Plain(reason) => reason,
            ChosenCarrier::Tls => None,
        }
    }
}

#[cfg(test)]
#[path = "amplification_tests.rs"]
mod amplification_tests;
#[cfg(test)]
#[path = "synthesizer_tests.rs"]
mod tests;
