//! IP and TCP headers.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TcpOptionElement};

/// Most bytes of TCP payload in one IPv4 packet.
pub const MAX_PAYLOAD_V4: usize = 65_495;
/// Most bytes of TCP payload in one IPv6 packet.
pub const MAX_PAYLOAD_V6: usize = 65_515;

/// Longest headers: IPv6, TCP with all its options.
const MAX_HEADERS: usize = Ipv6Header::LEN + TcpHeader::MAX_LEN;

const TTL: u8 = 64;
/// Always announced. It means something only together with [`WINDOW_SCALE`].
const WINDOW: u16 = 65_535;
/// The largest value: a window of 1 GiB is never full, because pure ACKs are more frequent.
const WINDOW_SCALE: u8 = 14;

/// The fields of a TCP header beyond its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; the ACK flag is set if there is one.
    pub ack: Option<u32>,
    /// What the segment is for.
    pub kind: SegmentKind,
}

/// The purpose of a TCP segment: its flags in addition to ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// SYN, with options.
    Syn,
    /// Payload: PSH.
    Data,
    /// Nothing but the ACK.
    Ack,
    /// FIN.
    Fin,
    /// RST.
    Rst,
}

/// Makes the headers of one direction of one connection.
#[derive(Clone, Debug)]
pub struct Headers {
    ip: Ip,
    tcp: TcpHeader,
    /// All that is the same in every segment without options; what differs is 0.
    template: Built,
    /// Sum of the template's IPv4 header, and of TCP's and the pseudo header.
    sums: (u32, u32),
}

#[derive(Clone, Debug)]
enum Ip {
    V4(Ipv4Header),
    V6(Ipv6Header),
}

/// Finished headers.
#[derive(Clone, Debug)]
pub struct Built {
    bytes: [u8; MAX_HEADERS],
    len: usize,
}

impl Built {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Headers {
    /// Headers from `source` to `destination`; `None` if one is IPv4 and the other IPv6.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Headers> {
        let ip = match (source.ip(), destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                // An atomic datagram (RFC 6864): don't fragment, identification 0.
                let mut ip = Ipv4Header::new(0, TTL, IpNumber::TCP, s.octets(), d.octets()).ok()?;
                ip.dont_fragment = true;
                Ip::V4(ip)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => Ip::V6(Ipv6Header {
                hop_limit: TTL,
                next_header: IpNumber::TCP,
                source: s.octets(),
                destination: d.octets(),
                ..Ipv6Header::default()
            }),
            _ => return None,
        };
        let mut tcp = TcpHeader::new(source.port(), destination.port(), 0, 0);
        tcp.ack = false;
        let mut template = Built { bytes: [0; MAX_HEADERS], len: 0 };
        let addresses = match &ip {
            Ip::V4(ip) => {
                let mut ip = ip.clone();
                (ip.total_len, ip.header_checksum) = (0, 0);
                template.push(&ip.to_bytes());
                u32::from(sum(&ip.source)) + u32::from(sum(&ip.destination))
            }
            Ip::V6(ip) => {
                template.push(&ip.to_bytes());
                u32::from(sum(&ip.source)) + u32::from(sum(&ip.destination))
            }
        };
        let ip_sum = u32::from(sum(template.as_slice()));
        let ports = u32::from(sum(&tcp.to_bytes()));
        template.push(&tcp.to_bytes());
        tcp.window_size = WINDOW;
        let pseudo = addresses + u32::from(IpNumber::TCP.0) + ports;
        Some(Headers { ip, tcp, template, sums: (ip_sum, pseudo) })
    }

    /// Most bytes of payload in one packet.
    pub fn max_payload(&self) -> usize {
        match self.ip {
            Ip::V4(_) => MAX_PAYLOAD_V4,
            Ip::V6(_) => MAX_PAYLOAD_V6,
        }
    }

    /// Headers of a segment with `payload`, whose true length is `original_len` bytes, at most
    /// [`max_payload`](Self::max_payload).
    ///
    /// The TCP checksum of a segment with missing bytes cannot be known: it is 0, and readers do not verify it
    /// because the packet is truncated.
    pub fn build(&mut self, tcp: Tcp, payload: &[u8], original_len: usize) -> Built {
        let max = self.max_payload();
        let payload = &payload[..payload.len().min(max)];
        let original_len = original_len.clamp(payload.len(), max);
        if tcp.kind == SegmentKind::Syn {
            self.with_options(tcp, payload, original_len)
        } else {
            self.fixed(tcp, payload, original_len)
        }
    }

    fn fixed(&self, tcp: Tcp, payload: &[u8], original_len: usize) -> Built {
        let mut built = self.template.clone();
        let ip_len = built.len - TcpHeader::MIN_LEN;
        let (ip, header) = built.bytes.split_at_mut(ip_len);
        // At most 65,535: see MAX_PAYLOAD_V4 and _V6.
        let tcp_len = (TcpHeader::MIN_LEN + original_len) as u16;
        match self.ip {
            Ip::V4(_) => {
                let total = tcp_len + Ipv4Header::MIN_LEN as u16;
                ip[2..4].copy_from_slice(&total.to_be_bytes());
                ip[10..12].copy_from_slice(&(!fold(self.sums.0 + u32::from(total))).to_be_bytes());
            }
            Ip::V6(_) => ip[4..6].copy_from_slice(&tcp_len.to_be_bytes()),
        }
        let flag = match tcp.kind {
            SegmentKind::Syn => 2,
            SegmentKind::Data => 8,
            SegmentKind::Ack => 0,
            SegmentKind::Fin => 1,
            SegmentKind::Rst => 4,
        };
        let flags = flag | if tcp.ack.is_some() { 16 } else { 0 };
        let window = if tcp.kind == SegmentKind::Rst { 0 } else { WINDOW };
        let ack = tcp.ack.unwrap_or(0);
        header[4..8].copy_from_slice(&tcp.seq.to_be_bytes());
        header[8..12].copy_from_slice(&ack.to_be_bytes());
        header[13] = flags;
        header[14..16].copy_from_slice(&window.to_be_bytes());
        if payload.len() == original_len {
            let halves = |n: u32| (n >> 16) + (n & 0xffff);
            let all = self.sums.1
                + halves(tcp.seq)
                + halves(ack)
                + [tcp_len, u16::from(flags), window, sum(payload)].map(u32::from).iter().sum::<u32>();
            header[16..18].copy_from_slice(&(!fold(all)).to_be_bytes());
        }
        built
    }

    fn with_options(&mut self, tcp: Tcp, payload: &[u8], original_len: usize) -> Built {
        let mss = u16::try_from(self.max_payload()).unwrap_or(u16::MAX);
        let header = &mut self.tcp;
        header.sequence_number = tcp.seq;
        header.ack = tcp.ack.is_some();
        header.acknowledgment_number = tcp.ack.unwrap_or(0);
        header.syn = true;
        // Ten bytes of options fit into the forty that are available.
        let _ = header.set_options(&[
            TcpOptionElement::MaximumSegmentSize(mss),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(WINDOW_SCALE),
        ]);
        let whole = payload.len() == original_len;
        let tcp_len = header.header_len() + original_len;
        let mut built = Built { bytes: [0; MAX_HEADERS], len: 0 };
        // Neither length nor checksum can fail: the payload was truncated to fit.
        let checksum = match &mut self.ip {
            Ip::V4(ip) => {
                let _ = ip.set_payload_len(tcp_len);
                ip.header_checksum = ip.calc_header_checksum();
                built.push(&ip.to_bytes());
                header.calc_checksum_ipv4_raw(ip.source, ip.destination, if whole { payload } else { &[] })
            }
            Ip::V6(ip) => {
                let _ = ip.set_payload_length(tcp_len);
                built.push(&ip.to_bytes());
                header.calc_checksum_ipv6_raw(ip.source, ip.destination, if whole { payload } else { &[] })
            }
        };
        header.checksum = if whole { checksum.unwrap_or(0) } else { 0 };
        built.push(&header.to_bytes());
        built
    }
}

/// Sum of 16-bit words in network byte order, with the carries added in (RFC 1071). The last byte of an odd
/// number counts as a word.
fn sum(bytes: &[u8]) -> u16 {
    // Wide lanes that never overflow: the compiler makes vector instructions of this.
    let mut lanes = [0u64; 8];
    let add = |lanes: &mut [u64; 8], bytes: &[u8]| {
        for (lane, word) in lanes.iter_mut().zip(bytes.chunks_exact(4)) {
            *lane += u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
    };
    let (blocks, rest) = bytes.as_chunks::<32>();
    blocks.iter().for_each(|block| add(&mut lanes, block));
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    add(&mut lanes, &last);
    // Carries may be added in any byte order; the sum is then in that order.
    let total = lanes.iter().map(|lane| (lane >> 32) + (lane & 0xffff_ffff)).sum::<u64>();
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    fold((total >> 16) as u32 + (total & 0xffff) as u32).swap_bytes()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn headers_parse_back_with_right_checksums() {
        for (s, d) in [("1.2.3.4:5", "6.7.8.9:80"), ("[2001:db8::1]:5", "[::1]:80")] {
            let mut headers = Headers::new(s.parse().unwrap(), d.parse().unwrap()).unwrap();
            let biggest = vec![7; headers.max_payload()];
            for (kind, payload) in [
                (SegmentKind::Syn, &[][..]),
                (SegmentKind::Data, b"hello"),
                (SegmentKind::Data, &biggest),
                (SegmentKind::Fin, &[]),
                (SegmentKind::Ack, &[]),
                (SegmentKind::Rst, &[]),
            ] {
                let built = headers.build(Tcp { seq: 9, ack: Some(8), kind }, payload, payload.len());
                let packet = [built.as_slice(), payload].concat();
                let sliced = SlicedPacket::from_ip(&packet).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!() };
                let expected = match sliced.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => {
                        let header = ip.header();
                        let fresh = header.to_header().calc_header_checksum();
                        assert_eq!(header.header_checksum(), fresh);
                        tcp.to_header().calc_checksum_ipv4_raw(header.source(), header.destination(), payload)
                    }
                    NetSlice::Ipv6(ip) => tcp.to_header().calc_checksum_ipv6_raw(
                        ip.header().source(),
                        ip.header().destination(),
                        payload,
                    ),
                    NetSlice::Arp(_) => panic!(),
                };
                assert_eq!(tcp.checksum(), expected.unwrap());
                assert_eq!(tcp.payload(), payload);
                assert_eq!((tcp.syn(), tcp.fin()), (kind == SegmentKind::Syn, kind == SegmentKind::Fin));
            }
        }
    }

    #[test]
    fn sums_of_any_length_are_those_of_the_rfc() {
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
        let full = vec![0xff; 65_536];
        for bytes in (0..100).map(|n| &bytes[n..2 * n]).chain([&bytes[..], &full, &full[..65_535]]) {
            let words = bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
            let mut expected: u64 = words.map(u64::from).sum();
            while expected > 0xffff {
                expected = (expected >> 16) + (expected & 0xffff);
            }
            assert_eq!(u64::from(sum(bytes)), expected, "{} bytes", bytes.len());
        }
    }

    #[test]
    fn a_cut_packet_keeps_its_true_length() {
        let (s, d) = ("1.2.3.4:5".parse().unwrap(), "6.7.8.9:80".parse().unwrap());
        let mut headers = Headers::new(s, d).unwrap();
        let built = headers.build(Tcp { seq: 9, ack: Some(8), kind: SegmentKind::Data }, b"cut", 1000);
        assert_eq!(built.as_slice()[2..4], 1040u16.to_be_bytes());
        assert_eq!(built.as_slice()[36..38], [0, 0], "no checksum can be known");
    }
}
