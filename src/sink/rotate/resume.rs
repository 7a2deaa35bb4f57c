//! Connections that span files. Each file can be opened alone, so a connection that continues in another file
//! begins there with a synthetic TCP handshake, before the true sequence numbers, and with what its protocol
//! needs.
//!
//! All of that is read from the packets as they are written, so it does not matter where they come from.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::block::{Epb, put};
use super::stream::Stream;
use crate::sink::link::Link;
use crate::synth::comment::Comment;
use crate::synth::tls;
use crate::synth::wire::{Headers, SegmentKind, Tcp};

/// Connections that are followed; beyond, the one that has been silent for most files is forgotten.
const CONNECTIONS_MAX: usize = 65_536;
/// Bytes of tables, heads and comments of all of them. Beyond, header tables are forgotten.
const BYTES_MAX: usize = 64 << 20;
/// The comment of a connection that is repeated, at most.
const ABOUT_MAX: usize = 8 << 10;
/// Records of the handshake in synthetic TLS, of each side.
const HELLOS_MAX: usize = 4 << 10;
/// The beginning of the randoms in synthetic TLS.
const MADE_UP_TLS: &[u8] = b"made up by tls2pcap";
/// Facts that are learned after the SYN, and repeated.
const LEARNT: [&str; 5] = ["sni=", "alpn=", "peer_pid=", "peer_comm=", "peer_exe="];

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;

/// What is known of a connection that its next file may need.
struct Connection {
    /// The last file with a packet of it.
    file: u64,
    /// The comment on its SYN.
    about: String,
    /// Client and server.
    ends: [SocketAddr; 2],
    is_client_local: bool,
    /// Next sequence number of each.
    next: [u32; 2],
    finished: [bool; 2],
    reset: bool,
    /// Records of the handshake in synthetic TLS, and the ChangeCipherSpec of each side.
    hellos: Option<[[Vec<u8>; 2]; 2]>,
    has_data: bool,
    stream: Stream,
    /// What all that takes.
    weight: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct Resume {
    connections: HashMap<u32, Connection>,
    file: u64,
    weight: usize,
    /// Connections that were forgotten.
    forgotten: u64,
}

/// The required fields of a TCP packet.
struct Packet<'a> {
    ends: [SocketAddr; 2],
    seq: u32,
    flags: u8,
    /// Bytes of payload that there truly were.
    len: u64,
    payload: &'a [u8],
}

fn parse<'a>(ip: &'a [u8]) -> Option<Packet<'a>> {
    let (source, destination, header, total): (IpAddr, IpAddr, usize, usize) = match ip.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(IpAddr::from(*ip.get(at..)?.first_chunk::<4>()?));
            let header = usize::from(ip.first()? & 15) * 4;
            (address(12)?, address(16)?, header, usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])))
        }
        6 => {
            let address = |at: usize| Some(IpAddr::from(*ip.get(at..)?.first_chunk::<16>()?));
            let len = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
            (address(8)?, address(24)?, 40, 40 + len)
        }
        _ => return None,
    };
    let tcp = ip.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let tcp_header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Packet {
        ends: [SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?)],
        seq: u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?),
        flags: *tcp.get(13)?,
        len: total.checked_sub(header + tcp_header)? as u64,
        payload: tcp.get(tcp_header..)?,
    })
}

impl Resume {
    /// Another file begins.
    pub(super) fn next_file(&mut self) {
        self.file += 1;
        let file = self.file;
        let is_over = |c: &Connection| c.reset || c.finished == [true; 2];
        self.connections.retain(|_, c| !is_over(c) || c.file + 1 >= file);
        self.weight = self.connections.values().map(|c| c.weight).sum();
        let mut excess = self.connections.len().saturating_sub(CONNECTIONS_MAX);
        if excess > 0 {
            let mut ids: Vec<_> = self.connections.iter().map(|(id, c)| (c.file, *id)).collect();
            ids.sort_unstable();
            for (_, id) in ids {
                if excess == 0 {
                    break;
                }
                self.forget(id);
                excess -= 1;
            }
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(connection) = self.connections.remove(&id) {
            self.weight -= connection.weight;
            self.forgotten += 1;
        }
    }

    /// Connections that were forgotten, perhaps while live: if they continue, it is without a handshake.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Writes to `out` the blocks that must precede this packet, with the packet's interface, and learns from
    /// the packet. `false`: those blocks already say what the packet says, and it is left out.
    pub(super) fn packet(&mut self, epb: &Epb<'_>, link: Link, out: &mut dyn FnMut(&[u8])) -> bool {
        let Some(id) = epb.queue() else { return true };
        let Some(packet) = epb.packet().get(link.len()..).and_then(parse) else { return true };
        if packet.flags & (SYN | ACK) == SYN {
            if self.connections.len() >= 2 * CONNECTIONS_MAX {
                let oldest = self.connections.iter().min_by_key(|(_, c)| c.file).map(|(id, _)| *id);
                oldest.into_iter().for_each(|id| self.forget(id));
            }
            let about = epb.comments().find(|c| c.starts_with("tls2pcap=") && c.contains(" pid="));
            let about = about.filter(|about| about.len() <= ABOUT_MAX).unwrap_or_default().to_owned();
            let connection = Connection {
                file: self.file,
                weight: about.len() + size_of::<Connection>(),
                about,
                ends: packet.ends,
                is_client_local: epb.is_outbound(),
                next: [packet.seq.wrapping_add(1), 0],
                finished: [false; 2],
                reset: false,
                hellos: None,
                has_data: false,
                stream: Stream::default(),
            };
            self.weight += connection.weight;
            if let Some(before) = self.connections.insert(id, connection) {
                self.weight -= before.weight;
            }
            return true;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return true };
        if connection.file != self.file && connection.is_said_anyway(&packet, epb) {
            return false;
        }
        if connection.file != self.file {
            connection.begin_again(id, epb, link, out);
            connection.file = self.file;
        }
        connection.take(&packet);
        if !connection.about.is_empty() {
            epb.comments().for_each(|comment| connection.learn(comment));
        }
        let weight = connection.weight();
        self.weight = self.weight - connection.weight + weight;
        connection.weight = weight;
        if self.weight > BYTES_MAX {
            connection.stream.forget_tables();
        }
        true
    }
}

impl Connection {
    fn weight(&self) -> usize {
        let hellos = self.hellos.iter().flatten().flatten().map(Vec::len).sum::<usize>();
        size_of::<Connection>() + self.about.len() + hellos + self.stream.weight()
    }

    fn learn(&mut self, comment: &str) {
        if !comment.starts_with("tls2pcap=") || comment.contains(" pid=") {
            return;
        }
        for pair in comment.split(' ').filter(|pair| LEARNT.iter().any(|key| pair.starts_with(key))) {
            if self.about.len() + pair.len() < ABOUT_MAX && !self.about.split(' ').any(|p| p == pair) {
                self.about.push(' ');
                self.about.push_str(pair);
            }
        }
    }

    /// A pure ACK that does not report a hole either. A handshake acknowledges everything before it.
    fn is_said_anyway(&self, packet: &Packet<'_>, epb: &Epb<'_>) -> bool {
        let side = usize::from(packet.ends[0] != self.ends[0]);
        let is_ack = packet.flags & (FIN | SYN | RST) == 0 && packet.len == 0;
        let has_news = epb.dropped() > 0 || epb.comments().any(|comment| comment != self.about);
        is_ack && packet.seq == self.next[side] && !has_news
    }

    fn take(&mut self, packet: &Packet<'_>) {
        let side = usize::from(packet.ends[0] != self.ends[0]);
        if packet.flags & SYN != 0 {
            self.next[side] = packet.seq.wrapping_add(1);
            return;
        }
        if packet.flags & RST != 0 {
            self.reset = true;
            return;
        }
        if packet.seq != self.next[side] {
            self.stream.jump(side);
        }
        let fin = u32::from(packet.flags & FIN != 0);
        self.next[side] = packet.seq.wrapping_add(packet.len as u32).wrapping_add(fin);
        self.finished[side] |= fin > 0;
        if packet.len == 0 {
            return;
        }
        if !std::mem::replace(&mut self.has_data, true)
            && packet.payload.windows(MADE_UP_TLS.len()).any(|w| w == MADE_UP_TLS)
        {
            self.hellos = Some(Default::default());
        }
        let Some(hellos) = &mut self.hellos else {
            let missing = packet.len.saturating_sub(packet.payload.len() as u64);
            return self.stream.take(side, packet.payload, missing);
        };
        // Records are complete in their packets, and nothing is missing.
        let mut rest = packet.payload;
        while let Some(&[kind, _, _, high, low]) = rest.first_chunk() {
            let len = 5 + usize::from(u16::from_be_bytes([high, low]));
            let Some((record, after)) = rest.split_at_checked(len) else { break };
            rest = after;
            if kind == APPLICATION_DATA {
                let end = len.saturating_sub(tls::OVERHEAD - 5);
                self.stream.take(side, record.get(5..end).unwrap_or_default(), 0);
            } else {
                let kept = &mut hellos[usize::from(kind == CHANGE_CIPHER_SPEC)][side];
                if kept.len() + len <= HELLOS_MAX {
                    kept.extend_from_slice(record);
                }
            }
        }
    }

    /// What precedes the first packet in another file.
    fn begin_again(&self, id: u32, epb: &Epb<'_>, link: Link, out: &mut dyn FnMut(&[u8])) {
        let [client, server] = self.ends;
        let (Some(to_server), Some(to_client)) = (Headers::new(client, server), Headers::new(server, client))
        else {
            return;
        };
        let has_comments = !self.about.is_empty();
        let comment = || Comment::of_file().with("conn", id);
        let mut data: Vec<(usize, &'static str, Vec<u8>)> = Vec::new();
        for records in self.hellos.iter().flatten() {
            data.extend(records.iter().enumerate().map(|(side, r)| (side, "tls-handshake", r.clone())));
        }
        for (side, (name, bytes)) in self.stream.beginning() {
            // Synthetic TLS needs no preface, because of its ALPN.
            if self.hellos.is_none() {
                data.push((side, name, bytes));
            } else if name != "h2-preface" {
                let mut records = Vec::new();
                bytes.chunks(tls::RECORD_MAX).for_each(|part| tls::record(&mut records, part, 0));
                data.push((side, name, records));
            }
        }
        data.retain(|(_, _, bytes)| !bytes.is_empty());
        let made_up =
            |side: usize| data.iter().filter(|d| d.0 == side).map(|d| d.2.len() as u32).sum::<u32>();
        let begin = |side: usize| {
            let fin = u32::from(self.finished[side]);
            self.next[side].wrapping_sub(fin).wrapping_sub(made_up(side))
        };
        let mut headers = [to_server, to_client];
        let mut seq = [begin(0), begin(1)];
        let mut write = |side: usize, tcp: Tcp, payload: &[u8], comment: Option<String>| {
            let built = headers[side].build(tcp, payload, payload.len());
            let mut packet = Vec::with_capacity(link.len() + built.as_slice().len() + payload.len());
            link.header(&mut packet, built.as_slice());
            packet.extend_from_slice(built.as_slice());
            packet.extend_from_slice(payload);
            let is_outbound = (side == 0) == self.is_client_local;
            out(&put(epb, &packet, is_outbound, comment.as_deref().filter(|_| has_comments)));
        };
        let about = Comment::again(&self.about).with("continued_from", self.file + 1);
        let syn = |side: usize| seq[side].wrapping_sub(1);
        write(0, Tcp { seq: syn(0), ack: None, kind: SegmentKind::Syn }, &[], Some(about.into()));
        write(1, Tcp { seq: syn(1), ack: Some(seq[0]), kind: SegmentKind::Syn }, &[], None);
        write(0, Tcp { seq: seq[0], ack: Some(seq[1]), kind: SegmentKind::Ack }, &[], None);
        for (side, name, bytes) in &data {
            let max = headers_max(client);
            for part in bytes.chunks(max) {
                let comment = comment().with("synthetic", name);
                let tcp = Tcp { seq: seq[*side], ack: Some(seq[1 - side]), kind: SegmentKind::Data };
                write(*side, tcp, part, Some(comment.into()));
                seq[*side] = seq[*side].wrapping_add(part.len() as u32);
            }
        }
        for side in (0..2).filter(|side| self.finished[*side]) {
            write(side, Tcp { seq: seq[side], ack: Some(seq[1 - side]), kind: SegmentKind::Fin }, &[], None);
            seq[side] = seq[side].wrapping_add(1);
        }
    }
}

fn headers_max(end: SocketAddr) -> usize {
    if end.is_ipv4() { crate::synth::wire::MAX_PAYLOAD_V4 } else { crate::synth::wire::MAX_PAYLOAD_V6 }
}
