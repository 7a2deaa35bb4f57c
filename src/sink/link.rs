//! The header in front of the IP packets.

use pcap_file::DataLink;

/// Ethertypes.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// The file's link type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// A synthetic Ethernet header. The default, since libpcap reads files of several interfaces only
    /// with this: it compares the link type of each later interface with its own number for that of the
    /// first, and for raw IP these differ (101 in files, DLT_RAW on the system).
    #[default]
    Ethernet,
    /// Nothing: LINKTYPE_RAW.
    Raw,
}

impl Link {
    pub(super) fn data_link(self) -> DataLink {
        match self {
            Link::Raw => DataLink::RAW,
            Link::Ethernet => DataLink::ETHERNET,
        }
    }

    /// Length of that header.
    pub(super) fn len(self) -> usize {
        match self {
            Link::Raw => 0,
            Link::Ethernet => ETHERNET,
        }
    }

    /// Appends the header for the packet with this IP header.
    pub(super) fn header(self, buffer: &mut Vec<u8>, ip: &[u8]) {
        if self == Link::Ethernet {
            buffer.extend_from_slice(&ethernet(ip));
        }
    }
}

/// Destination, source, ethertype.
fn ethernet(ip: &[u8]) -> [u8; ETHERNET] {
    let six = ip.first().is_some_and(|b| b >> 4 == 6);
    let (source, destination) = if six { (8..24, 24..40) } else { (12..16, 16..20) };
    let address = |range| mac(ip.get(range).unwrap_or_default());
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&address(destination));
    header[6..12].copy_from_slice(&address(source));
    header[12..].copy_from_slice(if six { &IPV6 } else { &IPV4 });
    header
}

/// The synthetic MAC address of a host, always the same: locally administered, 02:00 and the address for IPv4,
/// 06 and a hash of it for IPv6.
fn mac(address: &[u8]) -> [u8; 6] {
    if let [a, b, c, d] = *address {
        return [2, 0, a, b, c, d];
    }
    // FNV-1a.
    let hash = address.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [6, a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_headers_fit_their_packets() {
        let mut four = [0; 40];
        four[0] = 0x45;
        four[12..20].copy_from_slice(&[10, 0, 0, 1, 192, 168, 0, 2]);
        assert_eq!(ethernet(&four), [2, 0, 192, 168, 0, 2, 2, 0, 10, 0, 0, 1, 8, 0]);
        let mut six = [0; 60];
        six[0] = 0x60;
        (six[23], six[39]) = (1, 2);
        let header = ethernet(&six);
        assert_eq!(header[12..], IPV6);
        assert_ne!(header[..6], header[6..12]);
        // Locally administered, not multicast.
        assert!([header[0], header[6]].iter().all(|b| b & 3 == 2));
        assert_eq!(ethernet(&[])[12..], IPV4, "whatever it is");
    }
}
