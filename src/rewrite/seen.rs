//! What is in a capture: connections, and exchanges of HTTP, as the redaction meets them. All texts are redacted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::input::container::{INTERFACE, SECTION};
use crate::input::layers::{End, Segment};
use crate::input::options::{APPLE_PROCESS, COMMENT, STATISTICS, each_option};
use crate::proto::grpc::status_name;
use crate::proto::h2::error_name;
use crate::redact::{Fact, Side};
use crate::synth::comment;

/// Connections that are remembered. Of later ones packets are in the result only if all are wanted.
const FLOWS_MAX: usize = 200_000;
/// Exchanges that are remembered.
const EXCHANGES_MAX: usize = 100_000;

/// Processes of a connection that are remembered.
const INTERFACES_MAX: usize = 64;

/// Comments of a file that are remembered, and facts of a connection.
const COMMENTS_MAX: usize = 1000;
const ABOUT_MAX: usize = 64;

/// Number of no connection.
const NO_FLOW: u32 = u32::MAX;

/// A request and its answer. Without a method, it is not known which request was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Of which connection, as Wireshark numbers them.
    pub(crate) flow: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    /// Bytes of the bodies.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// When the request's head was complete, in ns since 1970.
    pub(crate) began: u64,
    /// When the answer's head was.
    pub(crate) answered: Option<u64>,
    /// When the answer was.
    pub(crate) ended: Option<u64>,
    pub(crate) status: Option<u16>,
    pub(crate) grpc: Option<u32>,
    /// HTTP/2 gave it up, with this code.
    pub(crate) reset: Option<u32>,
    /// Its connection ended before the answer did.
    pub(crate) cut: Option<Cut>,
    /// Which side has sent the request.
    asker: Option<Side>,
}

/// How a connection ended within an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// By RST.
    Reset,
    /// By FIN.
    Closed,
}

impl Exchange {
    /// Why it counts as failed; `None`: it does not.
    pub(crate) fn failure(&self) -> Option<String> {
        if let Some(code) = self.reset.filter(|code| *code != 0 || self.ended.is_none()) {
            return Some(format!("stream reset: {}", error_name(code)));
        }
        if let Some(status) = self.grpc {
            return Some(format!("grpc-status {status}{}", status_name(status)));
        }
        let when = if self.status.is_none() { "before the answer" } else { "within the answer" };
        match (self.cut, self.status) {
            (Some(Cut::Reset), _) => Some(format!("connection reset {when}")),
            (Some(Cut::Closed), _) => Some(format!("connection closed {when}")),
            (None, Some(status @ 400..)) => Some(format!("status {status}")),
            (None, None) => Some("no answer in the capture".into()),
            (None, Some(_)) => None,
        }
    }
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Who opened it, or has sent the first request, and the other end.
    pub(crate) ends: [SocketAddr; 2],
    /// Their numbers in the file.
    pub(crate) interfaces: Vec<u32>,
    /// What comments say of it.
    pub(crate) about: HashMap<String, String>,
    pub(crate) packets: u64,
    /// Of TCP's payload.
    pub(crate) bytes: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes missing, and in how many holes. `None`: of some it is not known how many.
    pub(crate) missing: Option<u64>,
    pub(crate) holes: u64,
    pub(crate) is_reset: bool,
    pub(crate) fins: u8,
    pub(crate) is_http2: bool,
    /// Which side is the first end.
    client: Option<Side>,
    /// Exchanges that have not ended, by stream: their places in the list.
    streams: HashMap<u64, usize>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) flows: Vec<Flow>,
    pub(crate) exchanges: Vec<Exchange>,
    /// Exchanges for which there was no room.
    pub(crate) dropped: u64,
    /// Of each packet, the connection; [`u32::MAX`] for none.
    of_packet: Vec<u32>,
    time: u64,
    interface: u32,
    /// Where the section's interfaces begin in the list.
    base: u32,
    /// Name and description of each.
    pub(crate) interfaces: Vec<(String, String)>,
    /// What the file says of itself: hardware, system, program, and comments.
    pub(crate) hardware: String,
    pub(crate) system: String,
    pub(crate) program: String,
    pub(crate) comments: Vec<String>,
    /// What statistics say is missing.
    pub(crate) losses: Vec<String>,
    pub(crate) has_process_blocks: bool,
}

fn address((ip, port): End) -> SocketAddr {
    let ip = match ip.first_chunk::<4>() {
        // That an IPv6 address ends in twelve zero bytes is not to be expected.
        Some(four) if ip[4..].iter().all(|b| *b == 0) => IpAddr::V4(Ipv4Addr::from(*four)),
        _ => IpAddr::V6(Ipv6Addr::from(ip)),
    };
    SocketAddr::new(ip, port)
}

impl Seen {
    /// The connection of a packet, by its number from 0.
    pub(crate) fn flow_of(&self, packet: usize) -> Option<usize> {
        self.of_packet.get(packet).filter(|flow| **flow != NO_FLOW).map(|flow| *flow as usize)
    }

    /// Time of the last packet.
    pub(crate) fn end(&self) -> u64 {
        self.flows.iter().map(|flow| flow.last).max().unwrap_or(self.time)
    }

    pub(super) fn packet(&mut self, time: u64, interface: u32) {
        self.of_packet.push(NO_FLOW);
        (self.time, self.interface) = (time, self.base + interface);
    }

    /// A block that is no packet, after it was redacted.
    pub(super) fn block(&mut self, kind: u32, bytes: &[u8], is_big: bool) {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        match kind {
            SECTION => {
                self.base = self.interfaces.len() as u32;
                for (option, value) in each_option(bytes, 24, is_big) {
                    match option {
                        2 => self.hardware = text(value),
                        3 => self.system = text(value),
                        4 => self.program = text(value),
                        COMMENT if self.comments.len() < COMMENTS_MAX => self.comments.push(text(value)),
                        _ => {}
                    }
                }
            }
            INTERFACE => {
                let find = |wanted| {
                    let mut all = each_option(bytes, 16, is_big);
                    all.find(|(option, _)| *option == wanted).map_or(String::new(), |(_, value)| text(value))
                };
                self.interfaces.push((find(2), find(3)));
            }
            STATISTICS => {
                let comments = each_option(bytes, 20, is_big).filter(|(option, _)| *option == COMMENT);
                let room = COMMENTS_MAX.saturating_sub(self.losses.len());
                self.losses.extend(comments.take(room).map(|(_, value)| text(value)));
            }
            APPLE_PROCESS => self.has_process_blocks = true,
            _ => {}
        }
    }

    /// Options of the packet that was taken last, after they were redacted.
    pub(super) fn options(&mut self, block: &[u8], at: usize, is_big: bool) {
        let flow = self.of_packet.last().copied().unwrap_or(NO_FLOW);
        let Some(flow) = self.flows.get_mut(flow as usize) else { return };
        for (_, value) in each_option(block, at, is_big).filter(|(option, _)| *option == COMMENT) {
            let pairs = str::from_utf8(value).ok().and_then(|text| comment::parse(text).ok());
            for (key, value) in pairs.unwrap_or_default() {
                if flow.about.len() < ABOUT_MAX {
                    flow.about.entry(key).or_insert(value);
                }
            }
        }
    }

    pub(super) fn segment(&mut self, flow: u64, side: Side, segment: &Segment) {
        let number = flow as usize;
        if let Some(of) = self.of_packet.last_mut() {
            *of = u32::try_from(flow).unwrap_or(NO_FLOW);
        }
        if number == self.flows.len() && number < FLOWS_MAX {
            // A SYN with an acknowledgment is the server's.
            let is_client = !segment.syn || segment.acknowledged.is_none();
            let ends = [address(segment.source), address(segment.destination)];
            self.flows.push(Flow {
                ends: if is_client { ends } else { [ends[1], ends[0]] },
                interfaces: Vec::new(),
                about: HashMap::new(),
                packets: 0,
                bytes: 0,
                first: self.time,
                last: self.time,
                missing: Some(0),
                holes: 0,
                is_reset: false,
                fins: 0,
                is_http2: false,
                client: Some(if is_client { side } else { side.other() }),
                streams: HashMap::new(),
            });
        }
        let Some(flow) = self.flows.get_mut(number) else { return };
        flow.packets += 1;
        if !flow.interfaces.contains(&self.interface) && flow.interfaces.len() < INTERFACES_MAX {
            flow.interfaces.push(self.interface);
        }
        flow.bytes += segment.len as u64;
        flow.last = flow.last.max(self.time);
        flow.is_reset |= segment.rst;
        flow.fins |= u8::from(segment.fin) << side as u8;
    }

    pub(super) fn hole(&mut self, flow: u64, len: Option<u64>) {
        if let Some(flow) = self.flows.get_mut(flow as usize) {
            flow.holes += 1;
            flow.missing = flow.missing.zip(len).map(|(a, b)| a + b);
        }
    }

    pub(super) fn facts(&mut self, flow: u64, side: Side, facts: Vec<Fact>) {
        for fact in facts {
            self.fact(flow, side, fact);
        }
    }

    fn fact(&mut self, number: u64, side: Side, fact: Fact) {
        let (time, exchanges) = (self.time, &mut self.exchanges);
        let Some(flow) = self.flows.get_mut(number as usize) else { return };
        // At the bound; gives its place otherwise.
        let mut begin = |flow: &mut Flow, stream: u64, exchange: Exchange| {
            if exchanges.len() >= EXCHANGES_MAX {
                self.dropped += 1;
                return;
            }
            flow.streams.insert(stream, exchanges.len());
            exchanges.push(Exchange { flow: number, began: time, ..exchange });
        };
        match fact {
            Fact::Request { stream, is_http2, method, target, host } => {
                if flow.client != Some(side) {
                    flow.client = Some(side);
                    flow.ends.swap(0, 1);
                }
                flow.is_http2 |= is_http2;
                let asker = Some(side);
                begin(flow, stream, Exchange { method, target, host, asker, ..Exchange::default() });
            }
            Fact::Answer { stream, is_stray, status } => {
                if is_stray {
                    let asker = Some(side.other());
                    begin(flow, stream, Exchange { asker, ..Exchange::default() });
                }
                if let Some(exchange) = flow.streams.get(&stream).map(|at| &mut exchanges[*at]) {
                    exchange.status = Some(status);
                    exchange.answered = Some(time);
                }
            }
            Fact::Body { stream, len } => {
                if let Some(at) = flow.streams.get(&stream).copied() {
                    let exchange = &mut exchanges[at];
                    match exchange.asker == Some(side) {
                        true => exchange.sent += len,
                        false => exchange.received += len,
                    }
                }
            }
            Fact::Grpc { stream, status } => {
                if let Some(at) = flow.streams.get(&stream).copied() {
                    exchanges[at].grpc = Some(status);
                }
            }
            Fact::End { stream } => {
                if let Some(at) = flow.streams.get(&stream).copied()
                    && exchanges[at].asker != Some(side)
                {
                    exchanges[at].ended = Some(time);
                    flow.streams.remove(&stream);
                }
            }
            Fact::Reset { stream, code } => {
                if let Some(at) = flow.streams.remove(&stream) {
                    exchanges[at].reset = Some(code);
                }
            }
        }
    }

    /// Nothing more comes: says what became of exchanges that have not ended.
    pub(crate) fn finish(&mut self) {
        for exchange in &mut self.exchanges {
            let Some(flow) = self.flows.get(exchange.flow as usize) else { continue };
            if exchange.ended.is_some() || exchange.reset.is_some() {
                continue;
            }
            // Of an answer that goes up to the end of its connection, the FIN is the end.
            let peer_is_done = exchange.asker.is_some_and(|asker| flow.fins >> asker.other() as u8 & 1 == 1);
            exchange.cut = match (flow.is_reset, peer_is_done) {
                (true, _) => Some(Cut::Reset),
                (false, true) if exchange.status.is_some() && !flow.is_http2 => {
                    exchange.ended = Some(flow.last);
                    None
                }
                // Where bytes are missing, the answer may be among them.
                (false, true) if exchange.status.is_none() && flow.holes > 0 => None,
                (false, true) => Some(Cut::Closed),
                (false, false) => None,
            };
        }
    }
}
