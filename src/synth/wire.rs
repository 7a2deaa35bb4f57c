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
/// The largest there is: a window of 1 GiB is never full, since pure ACKs come more often.
const WINDOW_SCALE: u8 = 14;

/// What a TCP header says beyond its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; the ACK flag is set if there is one.
    pub ack: Option<u32>,
    /// What the segment is for.
    pub kind: Kind,
}

/// What a TCP segment is for: its flags beside ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
        Some(Headers { ip, tcp: TcpHeader::new(source.port(), destination.port(), 0, WINDOW) })
    }

    /// Most bytes of payload in one packet.
    pub fn max_payload(&self) -> usize {
        match self.ip {
            Ip::V4(_) => MAX_PAYLOAD_V4,
            Ip::V6(_) => MAX_PAYLOAD_V6,
        }
    }

    /// Headers of a segment with `payload`, of which there truly were `original_len` bytes, at
    /// most [`max_payload`](Self::max_payload).
    ///
    /// The TCP checksum of a segment whose bytes are not all there cannot be known: it is 0, and
    /// readers do not verify it as the packet is not whole.
    pub fn build(&mut self, tcp: Tcp, payload: &[u8], original_len: usize) -> Built {
        let max = self.max_payload();
        let mss = u16::try_from(max).unwrap_or(u16::MAX);
        let header = &mut self.tcp;
        header.sequence_number = tcp.seq;
        header.ack = tcp.ack.is_some();
        header.acknowledgment_number = tcp.ack.unwrap_or(0);
        header.syn = tcp.kind == Kind::Syn;
        header.psh = tcp.kind == Kind::Data;
        header.fin = tcp.kind == Kind::Fin;
        header.rst = tcp.kind == Kind::Rst;
        header.window_size = if header.rst { 0 } else { WINDOW };
        let options: &[TcpOptionElement] = if header.syn {
            &[
                TcpOptionElement::MaximumSegmentSize(mss),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(WINDOW_SCALE),
            ]
        } else {
            &[]
        };
        if !header.options.is_empty() || !options.is_empty() {
            // Ten bytes of options fit into the forty that there is room for.
            let _ = header.set_options(options);
        }
        let payload = &payload[..payload.len().min(max)];
        let original_len = original_len.clamp(payload.len(), max);
        let whole = payload.len() == original_len;
        let tcp_len = header.header_len() + original_len;
        let mut built = Built { bytes: [0; MAX_HEADERS], len: 0 };
        // Neither length nor checksum can fail: the payload was cut to what fits.
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

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn headers_parse_back_with_right_checksums() {
        for (s, d) in [("1.2.3.4:5", "6.7.8.9:80"), ("[2001:db8::1]:5", "[::1]:80")] {
            let mut headers = Headers::new(s.parse().unwrap(), d.parse().unwrap()).unwrap();
            let biggest = vec![7; headers.max_payload()];
            for (kind, payload) in
                [(Kind::Syn, &[][..]), (Kind::Data, b"hello"), (Kind::Data, &biggest), (Kind::Fin, &[])]
            {
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
                assert_eq!((tcp.syn(), tcp.fin()), (kind == Kind::Syn, kind == Kind::Fin));
            }
        }
    }

    #[test]
    fn a_cut_packet_keeps_its_true_length() {
        let (s, d) = ("1.2.3.4:5".parse().unwrap(), "6.7.8.9:80".parse().unwrap());
        let mut headers = Headers::new(s, d).unwrap();
        let built = headers.build(Tcp { seq: 9, ack: Some(8), kind: Kind::Data }, b"cut", 1000);
        assert_eq!(built.as_slice()[2..4], 1040u16.to_be_bytes());
        assert_eq!(built.as_slice()[36..38], [0, 0], "no checksum can be known");
    }
}
