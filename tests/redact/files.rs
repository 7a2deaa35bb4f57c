//! Capture files in the making, with right checksums.

use etherparse::PacketBuilder;

/// What stands in front of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    Vlan,
    Raw,
    Cooked,
    Cooked2,
    Loopback,
}

impl Link {
    pub const ALL: [Link; 6] =
        [Link::Ethernet, Link::Vlan, Link::Raw, Link::Cooked, Link::Cooked2, Link::Loopback];

    pub fn number(self) -> u32 {
        match self {
            Link::Ethernet | Link::Vlan => 1,
            Link::Raw => 101,
            Link::Cooked => 113,
            Link::Cooked2 => 276,
            Link::Loopback => 0,
        }
    }

    fn header(self, six: bool) -> Vec<u8> {
        let kind: [u8; 2] = if six { [0x86, 0xdd] } else { [8, 0] };
        let zeros = |n| vec![0u8; n];
        match self {
            Link::Ethernet => [zeros(12), kind.to_vec()].concat(),
            Link::Vlan => [zeros(12), vec![0x81, 0, 0, 7], kind.to_vec()].concat(),
            Link::Raw => vec![],
            Link::Cooked => [vec![0, 0, 0, 1, 0, 6], zeros(8), kind.to_vec()].concat(),
            Link::Cooked2 => [kind.to_vec(), zeros(6), vec![0, 1, 0, 6], zeros(8)].concat(),
            Link::Loopback => vec![if six { 30 } else { 2 }, 0, 0, 0],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

use End::{Client, Server};

/// A packet: how long it was, and what is kept of it.
#[derive(Clone, Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub len: usize,
    pub comment: String,
    /// Of its connection.
    pub is_last: bool,
}

/// Packets of connections.
pub struct Capture {
    pub link: Link,
    pub packets: Vec<Packet>,
    pub six: bool,
    /// Addresses of client and server.
    pub fours: [[u8; 4]; 2],
    pub sixes: [[u8; 16]; 2],
    /// Of Ethernet.
    pub hardware: [[u8; 6]; 2],
}

impl Capture {
    pub fn new(link: Link) -> Capture {
        Capture {
            link,
            packets: vec![],
            six: false,
            fours: [[10, 0, 0, 1], [10, 0, 0, 2]],
            sixes: [[1; 16], [2; 16]],
            hardware: [[0; 6]; 2],
        }
    }

    /// Classic pcap, with microseconds.
    pub fn pcap(&self) -> Vec<u8> {
        let mut file: Vec<u8> = [0xa1b2_c3d4u32, 4 << 16 | 2, 0, 0, 262_144, self.link.number()]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        for (i, packet) in self.packets.iter().enumerate() {
            let head = [1_700_000_000, i as u32 * 10, packet.bytes.len() as u32, packet.len as u32];
            file.extend(head.iter().flat_map(|word| word.to_le_bytes()));
            file.extend_from_slice(&packet.bytes);
        }
        file
    }

    /// pcapng, in either byte order, with the packets' comments.
    pub fn pcapng(&self, big: bool) -> Vec<u8> {
        let mut file = block(big, 0x0a0d_0d0a, &section(big));
        let mut interface = half(big, self.link.number() as u16);
        interface.extend([0; 6]);
        file.extend(block(big, 1, &interface));
        for (i, packet) in self.packets.iter().enumerate() {
            let words = [0, 0x0006_0b00, i as u32 * 10, packet.bytes.len() as u32, packet.len as u32];
            let mut body: Vec<u8> = words.iter().flat_map(|w| word(big, *w)).collect();
            body.extend(padded(&packet.bytes));
            if !packet.comment.is_empty() {
                body.extend(option(big, 1, packet.comment.as_bytes()));
                body.extend([0; 4]);
            }
            file.extend(block(big, 6, &body));
        }
        file
    }
}

pub fn section(big: bool) -> Vec<u8> {
    [word(big, 0x1a2b_3c4d), half(big, 1), half(big, 0), vec![0xff; 8]].concat()
}

pub fn word(big: bool, word: u32) -> Vec<u8> {
    if big { word.to_be_bytes().to_vec() } else { word.to_le_bytes().to_vec() }
}

pub fn half(big: bool, half: u16) -> Vec<u8> {
    if big { half.to_be_bytes().to_vec() } else { half.to_le_bytes().to_vec() }
}

pub fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

pub fn option(big: bool, code: u16, value: &[u8]) -> Vec<u8> {
    [half(big, code), half(big, value.len() as u16), padded(value)].concat()
}

pub fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let len = word(big, body.len() as u32 + 12);
    [word(big, kind), len.clone(), body.to_vec(), len].concat()
}

/// A connection that talks.
pub struct Talk<'a> {
    capture: &'a mut Capture,
    port: u16,
    server_port: u16,
    next: [u32; 2],
}

impl<'a> Talk<'a> {
    /// With its handshake.
    pub fn open(capture: &'a mut Capture, port: u16) -> Talk<'a> {
        Talk::in_the_middle(capture, port).open_now()
    }

    /// The same on another port than 80.
    pub fn open_at(capture: &'a mut Capture, port: u16, server_port: u16) -> Talk<'a> {
        Talk::in_the_middle(capture, port).at(server_port).open_now()
    }

    fn open_now(self) -> Talk<'a> {
        let mut talk = self;
        talk.next = [1000, u32::MAX - 50];
        talk.send(Client, 0, &[], "syn");
        talk.send(Server, 0, &[], "syn ack");
        talk.next = [1001, u32::MAX - 49];
        talk.send(Client, 0, &[], "ack");
        talk
    }

    pub fn in_the_middle(capture: &'a mut Capture, port: u16) -> Talk<'a> {
        Talk { capture, port, server_port: 80, next: [1001, u32::MAX - 49] }
    }

    /// On another port than 80.
    pub fn at(mut self, server_port: u16) -> Talk<'a> {
        self.server_port = server_port;
        self
    }

    /// A segment that begins so far behind the next byte.
    pub fn send(&mut self, from: End, ahead: i32, bytes: &[u8], flags: &str) -> &mut Packet {
        let lane = from as usize;
        let sequence = self.next[lane].wrapping_add_signed(ahead);
        let (fours, sixes) = (self.capture.fours, self.capture.sixes);
        let ip = match self.capture.six {
            true => PacketBuilder::ipv6(sixes[lane], sixes[1 - lane], 64),
            false => PacketBuilder::ipv4(fours[lane], fours[1 - lane], 64),
        };
        let (source, destination) = match from {
            Client => (self.port, self.server_port),
            Server => (self.server_port, self.port),
        };
        let mut tcp = ip.tcp(source, destination, sequence, 65_535);
        if flags.contains("syn") {
            tcp = tcp.syn();
        }
        if flags.contains("fin") {
            tcp = tcp.fin();
        }
        if flags != "syn" {
            tcp = tcp.ack(self.next[1 - lane].wrapping_add(u32::from(flags == "syn ack")));
        }
        if !bytes.is_empty() {
            tcp = tcp.psh();
        }
        let mut packet = self.capture.link.header(self.capture.six);
        if matches!(self.capture.link, Link::Ethernet | Link::Vlan) {
            packet[..6].copy_from_slice(&self.capture.hardware[1 - lane]);
            packet[6..12].copy_from_slice(&self.capture.hardware[lane]);
        }
        tcp.write(&mut packet, bytes).unwrap();
        let len = packet.len();
        self.capture.packets.push(Packet { bytes: packet, len, comment: String::new(), is_last: false });
        self.capture.packets.last_mut().unwrap()
    }

    /// Bytes in segments of at most so many.
    pub fn say(&mut self, from: End, bytes: &[u8], at_most: usize) {
        for segment in bytes.chunks(at_most.max(1)) {
            self.send(from, 0, segment, "");
            self.skip(from, segment.len());
        }
    }

    /// Bytes that are not in the file.
    pub fn skip(&mut self, from: End, len: usize) {
        let next = &mut self.next[from as usize];
        *next = next.wrapping_add(len as u32);
    }

    /// Both ends close.
    pub fn close(&mut self) {
        for end in [Client, Server] {
            self.send(end, 0, &[], "fin").is_last = end == Server;
            self.skip(end, 1);
        }
    }
}
