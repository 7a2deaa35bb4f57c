//! The headers in front of the bytes of a TCP stream: link layers, IP, TCP.

use std::ops::Range;

/// An address and a port.
pub(crate) type End = ([u8; 16], u16);

/// Where a checksum stands, and from where on it counts its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub(crate) at: usize,
    pub(crate) from: usize,
    /// Of UDP, where 0 says that there is none.
    pub(crate) is_udp: bool,
}

/// A segment of TCP. All positions count from the packet's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) source: End,
    pub(crate) destination: End,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: Option<u32>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// The bytes that were captured.
    pub(crate) payload: Range<usize>,
    /// How many there were.
    pub(crate) len: usize,
    pub(crate) checksum: Option<Checksum>,
    /// Where the IP packet ends, if that is captured.
    pub(crate) end: usize,
}

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Tcp(Segment),
    /// No payload that could hold a secret.
    Harmless,
    /// Nobody looks into what begins there.
    Other {
        payload: usize,
        checksum: Option<Checksum>,
    },
}

/// Takes a packet apart.
pub(crate) fn packet(link: u32, data: &[u8]) -> Packet {
    let begins = |at: usize| Packet::Other { payload: at.min(data.len()), checksum: None };
    match link {
        // Ethernet.
        1 => {
            let mut at = 12;
            loop {
                match be16(data, at) {
                    // VLANs, one in the other.
                    Some(0x8100 | 0x88a8 | 0x9100) if at < 32 => at += 4,
                    Some(kind) => return network(kind, data, at + 2),
                    None => return begins(14),
                }
            }
        }
        // Linux cooked, both versions.
        113 => be16(data, 14).map_or(begins(16), |kind| network(kind, data, 16)),
        276 => be16(data, 0).map_or(begins(20), |kind| network(kind, data, 20)),
        // Raw IP, under its numbers in files and on systems.
        12 | 14 | 101 | 228 | 229 => ip(data, 0),
        // Loopback of BSD: the family, in whatever order. Its number says no more than IP's own version.
        0 | 108 => ip(data, 4),
        _ => begins(0),
    }
}

pub(crate) fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn network(kind: u16, data: &[u8], at: usize) -> Packet {
    match kind {
        0x0800 | 0x86dd => ip(data, at),
        // PPPoE: six bytes, then what the packet is.
        0x8864 => match be16(data, at + 6) {
            Some(0x21 | 0x57) => ip(data, at + 8),
            _ => Packet::Other { payload: (at + 6).min(data.len()), checksum: None },
        },
        // ARP.
        0x0806 => Packet::Harmless,
        _ => Packet::Other { payload: at.min(data.len()), checksum: None },
    }
}

fn ip(data: &[u8], at: usize) -> Packet {
    let parsed = match data.get(at).map(|b| b >> 4) {
        Some(4) => ip4(data, at),
        Some(6) => ip6(data, at),
        _ => None,
    };
    parsed.unwrap_or(Packet::Other { payload: at.min(data.len()), checksum: None })
}

fn ip4(data: &[u8], at: usize) -> Option<Packet> {
    let header = usize::from(data.get(at)? & 15) * 4;
    let total = usize::from(be16(data, at + 2)?);
    let fragment = be16(data, at + 6)?;
    let protocol = *data.get(at + 9)?;
    let address = |from: usize| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(data.get(from..from + 4)?);
        Some(address)
    };
    let (source, destination) = (address(at + 12)?, address(at + 16)?);
    if header < 20 {
        return None;
    }
    // 0: what a network card is to cut into packets.
    let end = if total == 0 { data.len() } else { at + total };
    let is_fragment = fragment & 0x3fff != 0;
    transport(data, at + header, end, protocol, is_fragment, source, destination)
}

fn ip6(data: &[u8], at: usize) -> Option<Packet> {
    let total = usize::from(be16(data, at + 4)?);
    let mut protocol = *data.get(at + 6)?;
    let address = |from: usize| data.get(from..from + 16).and_then(|bytes| bytes.first_chunk().copied());
    let (source, destination) = (address(at + 8)?, address(at + 24)?);
    let end = if total == 0 { data.len() } else { at + 40 + total };
    let (mut next, mut is_fragment) = (at + 40, false);
    loop {
        match protocol {
            // Options and routes.
            0 | 43 | 60 => {
                let len = usize::from(*data.get(next + 1)?);
                protocol = *data.get(next)?;
                next += (len + 1) * 8;
            }
            44 => {
                is_fragment |= be16(data, next + 2)? & 0xfff9 != 0;
                protocol = *data.get(next)?;
                next += 8;
            }
            _ => return transport(data, next, end, protocol, is_fragment, source, destination),
        }
    }
}

fn transport(
    data: &[u8],
    at: usize,
    end: usize,
    protocol: u8,
    is_fragment: bool,
    source: [u8; 16],
    destination: [u8; 16],
) -> Option<Packet> {
    // A sum of the pseudo header only, which the network card was to complete, says nothing of the payload.
    // Of a segment that it is to cut the length is not in it.
    let partial = [end.saturating_sub(at), 0].map(|len| partial(&source, &destination, protocol, len));
    let at_place = |sum: usize, is_udp| {
        let own = be16(data, at + sum)?;
        (!partial.contains(&own) || protocol == 1).then_some(Checksum { at: at + sum, from: at, is_udp })
    };
    let other = |header: usize, checksum: Option<usize>, is_udp| {
        let checksum = checksum.and_then(|sum| at_place(sum, is_udp));
        Some(Packet::Other { payload: (at + header).min(data.len()), checksum })
    };
    match protocol {
        _ if is_fragment => other(0, None, false),
        6 => {
            let header = usize::from(data.get(at + 12)? >> 4) * 4;
            if header < 20 || at + header > end {
                return None;
            }
            let flags = *data.get(at + 13)?;
            let stop = end.min(data.len());
            let begin = (at + header).min(stop);
            Some(Packet::Tcp(Segment {
                source: (source, be16(data, at)?),
                destination: (destination, be16(data, at + 2)?),
                sequence: be32(data, at + 4)?,
                acknowledged: be32(data, at + 8).filter(|_| flags & 16 != 0),
                syn: flags & 2 != 0,
                fin: flags & 1 != 0,
                rst: flags & 4 != 0,
                payload: begin..stop,
                len: end - at - header,
                checksum: at_place(16, false),
                end: stop,
            }))
        }
        17 => other(8, Some(6), true),
        // Errors quote packets, and echoes say anything.
        1 => other(8, Some(2), false),
        58 if data.get(at).is_some_and(|kind| *kind > 129) => Some(Packet::Harmless),
        58 => other(8, Some(2), false),
        _ => other(0, None, false),
    }
}

/// The sum of the pseudo header (RFC 9293, section 3.1), which stands for a checksum that is computed later.
pub(crate) fn partial(source: &[u8; 16], destination: &[u8; 16], protocol: u8, len: usize) -> u16 {
    let words = source.chunks(2).chain(destination.chunks(2));
    let sum: u64 = words.map(|word| u64::from(word[0]) << 8 | u64::from(word[1])).sum();
    let mut sum = sum + u64::from(protocol) + len as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum after bytes were replaced; `delta`: the sum of what each word grew by. What was right stays right, and what was
/// wrong is so by as much as before (RFC 1624).
pub(crate) fn adjust(sum: u16, delta: i64, is_udp: bool) -> u16 {
    if delta.rem_euclid(0xffff) == 0 || (is_udp && sum == 0) {
        return sum;
    }
    let words = (i64::from(!sum) + delta).rem_euclid(0xffff);
    let new = match u16::try_from(words) {
        Ok(0) | Err(_) => 0,
        Ok(words) => !words,
    };
    if is_udp && new == 0 { 0xffff } else { new }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(w.get(1).copied().unwrap_or(0)));
        let mut sum: u64 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn a_checksum_stays_right() {
        for len in 2..40 {
            let old: Vec<u8> = (0..len).map(|i: u8| i.wrapping_mul(37).wrapping_add(11)).collect();
            let mut new = old.clone();
            let mut delta = 0;
            for (i, byte) in new.iter_mut().enumerate().skip(1) {
                let before = i64::from(*byte);
                *byte = byte.wrapping_mul(91).wrapping_add(5);
                delta += (i64::from(*byte) - before) * if i % 2 == 0 { 256 } else { 1 };
            }
            assert_eq!(adjust(sum(&old), delta, false), sum(&new), "{len}");
        }
    }

    #[test]
    fn layers_are_found() {
        let mut tcp = vec![0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        tcp.extend_from_slice(&[0, 80, 1, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        tcp.extend_from_slice(b"abc");
        let of = |link: u32, head: &[u8]| match packet(link, &[head, &tcp].concat()) {
            Packet::Tcp(segment) => (segment.payload.start - head.len(), segment.len, segment.sequence),
            other => panic!("{other:?}"),
        };
        let mut ethernet = [0u8; 14];
        ethernet[12] = 8;
        let mut vlan = [0u8; 18];
        (vlan[12], vlan[16]) = (0x81, 8);
        let mut cooked = [0u8; 16];
        cooked[14] = 8;
        let mut cooked2 = [0u8; 20];
        cooked2[0] = 8;
        let mut pppoe = [0u8; 22];
        (pppoe[12], pppoe[13], pppoe[21]) = (0x88, 0x64, 0x21);
        for (link, head) in [
            (1, &ethernet[..]),
            (1, &vlan),
            (1, &pppoe),
            (113, &cooked),
            (276, &cooked2),
            (101, &[]),
            (0, &[2, 0, 0, 0]),
        ] {
            assert_eq!(of(link, head), (40, 3, 7), "{link}");
        }
        for len in 0..tcp.len() {
            packet(101, &tcp[..len]);
            packet(1, &tcp[..len]);
        }
        let sum = |tcp: &[u8]| match packet(101, tcp) {
            Packet::Tcp(segment) => segment.checksum,
            other => panic!("{other:?}"),
        };
        assert!(sum(&tcp).is_some());
        let own = partial(
            &[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            6,
            23,
        );
        tcp[36..38].copy_from_slice(&own.to_be_bytes());
        assert_eq!(sum(&tcp), None, "a sum that the network card was to complete");
        tcp[6] = 0x20;
        assert_eq!(packet(101, &tcp), Packet::Other { payload: 20, checksum: None }, "a fragment");
        assert_eq!(packet(147, &tcp), Packet::Other { payload: 0, checksum: None }, "an unknown link type");
    }
}
