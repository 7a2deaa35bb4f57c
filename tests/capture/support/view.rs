//! What a tshark sees in a file: packets, connections, HTTP messages.

use std::net::{IpAddr, SocketAddr};

use super::comment::Comment;

/// What is asked of each packet; [`View::new`] reads them in this order.
pub const FIELDS: &[&str] = &[
    "frame.number",
    "frame.time_epoch",
    "frame.interface_name",
    "frame.comment",
    "tcp.stream",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.flags",
    "tcp.len",
    "tcp.payload",
    "tcp.analysis.flags",
    "_ws.malformed",
    "_ws.expert.severity",
    "_ws.expert.message",
    "http.request.method",
    "http.request.uri",
    "http.response.code",
    "http2.headers.method",
    "http2.headers.path",
    "http2.headers.status",
];

/// The FIN flag.
pub const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;
const ACK: u32 = 16;
/// Expert severity "warning"; what is worse is greater.
const WARNING: u32 = 0x0060_0000;

/// Who sent something, as the SYN tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Who sent the SYN.
    Client,
    /// Who answered it.
    Server,
}

/// A packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Place in the file, from 1.
    pub number: u32,
    /// Seconds since 1970.
    pub time: f64,
    /// Name of the interface.
    pub interface: String,
    /// Its comments.
    pub comments: Vec<String>,
    /// Index of its connection in [`View::connections`].
    pub stream: usize,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// HTTP/1 and HTTP/2 requests in it: method and path.
    pub requests: Vec<(String, String)>,
    /// HTTP/1 and HTTP/2 responses in it: status.
    pub responses: Vec<u16>,
    /// What tshark finds wrong with it.
    pub complaints: Vec<String>,
    sequence: u32,
    /// Flags of its TCP header.
    pub flags: u32,
    len: u32,
    payload: Vec<u8>,
}

/// A TCP connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who sent the SYN: its true address, which the comment tells where another is written.
    pub client: SocketAddr,
    /// Client and server as they stand in the packets.
    pub written: (SocketAddr, SocketAddr),
    /// Who answered, as written.
    pub server: SocketAddr,
    /// The facts on the SYN.
    pub comment: Comment,
    /// Name of the interface of the SYN.
    pub interface: String,
    /// The client's bytes.
    pub sent_by_client: Vec<u8>,
    /// The server's bytes.
    pub sent_by_server: Vec<u8>,
    /// Requests, in the order of the file.
    pub requests: Vec<(String, String)>,
    /// Responses, in the order of the file.
    pub responses: Vec<u16>,
    /// Whether it has an end: both sides said that they send no more, or one reset it.
    pub finished: bool,
    /// Whether a RST was written.
    pub reset: bool,
    /// Who sent how many bytes, packet by packet in the order of the file.
    pub turns: Vec<(From, usize)>,
    /// The holes that comments tell of, in the order of the file.
    pub holes: Vec<Hole>,
}

/// A hole, as a comment tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Whose bytes are missing.
    pub from: From,
    /// How many; `None` if nobody knows.
    pub len: Option<usize>,
    /// Why.
    pub reason: String,
}

/// What a tshark sees in a file.
#[derive(Debug)]
pub struct View {
    /// All packets, in the order of the file.
    pub packets: Vec<Packet>,
    /// All connections, in the order of their first packets.
    pub connections: Vec<Connection>,
}

impl Packet {
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// It, or one that it answers, is behind a hole of unknown length: tshark says so and nothing else.
    pub fn is_behind_jump(&self) -> bool {
        let expected = [
            "Previous segment(s) not captured",
            "ACKed segment that wasn't captured",
            "Connection finish (FIN)",
            "This frame undergoes the connection closing",
        ];
        let is_expected = |complaint: &String| {
            // A comment is an expert message as well.
            complaint == "TCP analysis flags"
                || complaint.starts_with("tls2pcap=1 ")
                || expected.iter().any(|e| complaint.starts_with(e))
        };
        self.complaints.iter().all(is_expected)
    }

    /// It is a RST, and tshark says so and nothing else.
    pub fn is_reset(&self) -> bool {
        self.flags & RST != 0 && self.complaints == ["Connection reset (RST)"]
    }
}

impl View {
    /// From the values of [`FIELDS`].
    #[track_caller]
    pub fn new(rows: Vec<Vec<String>>) -> View {
        let packets: Vec<Packet> = rows.iter().map(|row| packet(row)).collect();
        let streams = packets.iter().map(|p| p.stream + 1).max().unwrap_or(0);
        let connections = (0..streams).map(|s| connection(&packets, s)).collect();
        View { packets, connections }
    }

    /// Fails if tshark has anything against the file.
    #[track_caller]
    pub fn assert_clean(&self, version: &str) {
        self.assert_clean_but(version, |_| false);
    }

    /// Fails if tshark has anything against the file that is not `expected`.
    #[track_caller]
    pub fn assert_clean_but(&self, version: &str, expected: impl Fn(&Packet) -> bool) {
        let complaints: Vec<String> = self
            .packets
            .iter()
            .filter(|p| !p.complaints.is_empty() && !expected(p))
            .map(|p| {
                format!("packet {} {}→{}: {}", p.number, p.source, p.destination, p.complaints.join("; "))
            })
            .collect();
        assert!(
            complaints.is_empty(),
            "tshark {version} finds fault with {} packets:\n{}",
            complaints.len(),
            complaints[..complaints.len().min(20)].join("\n")
        );
    }

    /// The only connection.
    #[track_caller]
    pub fn only(&self) -> &Connection {
        assert_eq!(self.connections.len(), 1, "connections: {:#?}", self.summary());
        &self.connections[0]
    }

    /// The connection whose local and remote address, as the kernel says, are these.
    #[track_caller]
    pub fn of(&self, local: SocketAddr, remote: SocketAddr) -> &Connection {
        let mut found =
            self.connections.iter().filter(|c| c.comment.local() == local && c.comment.remote() == remote);
        let first = found.next();
        let first =
            first.unwrap_or_else(|| panic!("no connection {local}→{remote} in {:#?}", self.summary()));
        assert!(found.next().is_none(), "{local}→{remote} stands twice in {:#?}", self.summary());
        first
    }

    /// All requests, in the order of the file.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.packets.iter().flat_map(|p| p.requests.clone()).collect()
    }

    /// All responses, in the order of the file.
    pub fn responses(&self) -> Vec<u16> {
        self.packets.iter().flat_map(|p| p.responses.clone()).collect()
    }

    fn summary(&self) -> Vec<String> {
        let line = |c: &Connection| {
            format!("{}→{} {} + {} bytes", c.client, c.server, c.sent_by_client.len(), c.sent_by_server.len())
        };
        self.connections.iter().map(line).collect()
    }
}

fn several(value: &str) -> Vec<&str> {
    value.split('\x1f').filter(|v| !v.is_empty()).collect()
}

#[track_caller]
fn packet(row: &[String]) -> Packet {
    let mut values = row.iter().map(String::as_str);
    let mut next = || values.next().unwrap_or("");
    let number = next().parse().unwrap();
    let time = next().parse().unwrap();
    let interface = next().to_string();
    let comments: Vec<String> = several(next()).into_iter().map(String::from).collect();
    let stream = next().parse().unwrap_or_else(|_| panic!("packet {number} is not TCP: {row:?}"));
    let (v4, v6) = ((next(), next()), (next(), next()));
    let (source, destination) = if v4.0.is_empty() { v6 } else { v4 };
    let mut end = |ip: &str| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), next().parse().unwrap());
    let (source, destination) = (end(source), end(destination));
    let sequence = next().parse().unwrap();
    let flags = u32::from_str_radix(next().trim_start_matches("0x"), 16).unwrap();
    let len = next().parse().unwrap();
    let payload = unhex(next());
    let mut complaints = Vec::new();
    if !next().is_empty() {
        complaints.push("TCP analysis flags".to_string());
    }
    if !next().is_empty() {
        complaints.push("malformed".to_string());
    }
    let severities: Vec<u32> = several(next()).iter().map(|s| s.parse().unwrap()).collect();
    let messages = several(next());
    if severities.iter().any(|s| *s >= WARNING) || !complaints.is_empty() {
        complaints.extend(messages.iter().map(|m| m.to_string()));
    }
    let methods = several(next());
    let uris = several(next());
    let codes = several(next());
    let h2_methods = several(next());
    let h2_paths = several(next());
    let h2_codes = several(next());
    let pairs = |methods: Vec<&str>, paths: Vec<&str>| -> Vec<(String, String)> {
        methods.iter().zip(paths).map(|(m, p)| (m.to_string(), p.to_string())).collect()
    };
    let mut requests = pairs(methods, uris);
    requests.extend(pairs(h2_methods, h2_paths));
    let responses = codes.iter().chain(&h2_codes).map(|c| c.parse().unwrap()).collect();
    Packet {
        number,
        time,
        interface,
        comments,
        stream,
        source,
        destination,
        requests,
        responses,
        complaints,
        sequence,
        flags,
        len,
        payload,
    }
}

#[track_caller]
fn connection(packets: &[Packet], stream: usize) -> Connection {
    let of: Vec<&Packet> = packets.iter().filter(|p| p.stream == stream).collect();
    let syn = of[0];
    assert!(
        syn.flags & (SYN | ACK) == SYN && of.get(1).is_some_and(|p| p.flags & (SYN | ACK) == SYN | ACK),
        "connection {}→{} does not begin with SYN and SYN-ACK",
        syn.source,
        syn.destination
    );
    let comment = Comment::parse(&syn.comments);
    // A port of Wireshark's own is changed on the client's side too, and said so.
    let client = match comment.find("written_client") {
        _ if comment.get("tuple") == "none" => syn.source,
        Some(_) if comment.get("role") == "client" => comment.local(),
        Some(_) => comment.remote(),
        None => syn.source,
    };
    let mut connection = Connection {
        client,
        written: (syn.source, syn.destination),
        server: syn.destination,
        comment,
        interface: syn.interface.clone(),
        sent_by_client: Vec::new(),
        sent_by_server: Vec::new(),
        requests: of.iter().flat_map(|p| p.requests.clone()).collect(),
        responses: of.iter().flat_map(|p| p.responses.clone()).collect(),
        finished: false,
        reset: of.iter().any(|p| p.flags & RST != 0),
        turns: Vec::new(),
        holes: Vec::new(),
    };
    let mut next = [syn.sequence.wrapping_add(1), of[1].sequence.wrapping_add(1)];
    let mut fins = [false; 2];
    for packet in &of[2..] {
        let from = if packet.source == syn.source { From::Client } else { From::Server };
        let side = from as usize;
        // Where nobody knows how many bytes are missing, the sequence numbers jump.
        let holes: Vec<Hole> = packet.comments.iter().filter_map(|comment| hole(from, comment)).collect();
        if holes.iter().any(|hole| hole.len.is_none()) {
            next[side] = packet.sequence;
        }
        connection.holes.extend(holes);
        assert_eq!(
            packet.sequence, next[side],
            "packet {} of {}→{} is not where its direction goes on",
            packet.number, packet.source, packet.destination
        );
        next[side] = next[side].wrapping_add(packet.len);
        if packet.flags & FIN != 0 {
            fins[side] = true;
            next[side] = next[side].wrapping_add(1);
        }
        if packet.len > 0 {
            connection.turns.push((from, packet.len as usize));
            let stream = match from {
                From::Client => &mut connection.sent_by_client,
                From::Server => &mut connection.sent_by_server,
            };
            stream.extend_from_slice(&packet.payload);
        }
    }
    connection.finished = fins == [true, true] || connection.reset;
    connection
}

/// What a comment says of a hole.
fn hole(from: From, comment: &str) -> Option<Hole> {
    let comment = Comment::parse(&[comment.to_string()]);
    let len = comment.find("missing")?.parse().ok();
    Some(Hole { from, len, reason: comment.get("reason").to_string() })
}

/// Bytes of hexadecimal text.
pub fn unhex(hex: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => b - b'0',
        b'a'..=b'f' => b - b'a' + 10,
        b'A'..=b'F' => b - b'A' + 10,
        _ => panic!("{b:?} is no hexadecimal digit"),
    };
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
