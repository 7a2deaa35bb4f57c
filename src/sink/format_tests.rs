use std::io::Read;

use flate2::read::MultiGzDecoder;

use super::super::{Header, PcapngWriter};
use super::*;

fn of(name: &str) -> Result<Format, Unknown> {
    Format::of(Path::new(name), Link::Ethernet)
}

#[test]
fn the_name_says_the_format() {
    let classic = Some(Link::Ethernet);
    for (name, classic, gzip) in [
        ("x.pcapng", None, false),
        ("x", None, false),
        ("/dev/fd/63", None, false),
        ("a.pcap/x", None, false),
        ("x.2026", None, false),
        ("x.gz", None, true),
        ("x.pcapng.gz", None, true),
        ("X.PCAPNG.GZ", None, true),
        ("x.pcap", classic, false),
        ("x.pcap.gz", classic, true),
    ] {
        assert_eq!(of(name), Ok(Format { classic, gzip }), "{name}");
    }
    for name in ["x.pcapng.zst", "x.lz4", "x.pcap.xz", "x.cap", "x.cap.gz", "x.json", "x.pcapng.gz.gz"] {
        assert!(!of(name).unwrap_err().cure.is_empty(), "{name}");
    }
}

/// A file of blocks, with a packet of each of these lengths.
fn blocks(packets: &[usize]) -> Vec<u8> {
    let header = Header { application: "tls2pcap".into(), ..Header::default() };
    let mut file = PcapngWriter::new(Vec::new(), &header, false).unwrap().finish(0, &[]).unwrap().0;
    for (number, len) in packets.iter().enumerate() {
        let padded = len.next_multiple_of(4);
        let total = u32::try_from(32 + padded).unwrap();
        let time = 1_700_000_000_123_456_789_u64 + number as u64;
        let (high, low, len) = ((time >> 32) as u32, time as u32, *len as u32);
        for word in [blocks::PACKET, total, 0, high, low, len, len + 7] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.resize(file.len() + padded, 7);
        file.extend_from_slice(&total.to_le_bytes());
    }
    file
}

#[test]
fn members_of_gzip_make_one_file() {
    let parts = [blocks(&[60, 1]), blocks(&[]), blocks(&[1000; 50])];
    let gzip = of("x.gz").unwrap();
    let members: Vec<_> = parts.iter().map(|part| gzip.encode(part)).collect();
    let mut file = Vec::new();
    MultiGzDecoder::new(&members.concat()[..]).read_to_end(&mut file).unwrap();
    assert_eq!(file, parts.concat());
    assert!(members[2].len() < 1000);
    assert!(members[0][..64].windows(8).any(|bytes| bytes == b"tls2pcap"), "for the plugin");
    assert!(of("x.pcapng").unwrap().encode(&[]).is_empty() && gzip.encode(&[]).is_empty());
}

#[test]
fn classic_pcap_has_the_packets() {
    for (link, number) in [(Link::Ethernet, 1), (Link::Raw, 101)] {
        let pcap = Format::of(Path::new("x.pcap"), link).unwrap();
        let file = pcap.encode(&blocks(&[60, 1, 0])).into_owned();
        let word = |at| blocks::word(&file, at).unwrap();
        assert_eq!((file.len(), word(0), word(20)), (24 + 3 * 16 + 61, 0xa1b2_3c4d, number));
        let packet = |at| [word(at), word(at + 4), word(at + 8), word(at + 12)];
        assert_eq!(packet(24), [1_700_000_000, 123_456_789, 60, 67]);
        assert_eq!(packet(24 + 16 + 60), [1_700_000_000, 123_456_790, 1, 8]);
    }
}

#[test]
fn the_end_of_what_is_whole_is_found() {
    let plain = blocks(&[60, 1]);
    let pcap = of("x.pcap").unwrap();
    let classic = pcap.encode(&plain);
    let head = plain.len() - 92 - 36;
    for (end, expected) in [
        (3, (0, 0)),
        (head + 91, (head, 0)),
        (head + 92, (head + 92, 1)),
        (plain.len() - 1, (head + 92, 1)),
        (plain.len(), (plain.len(), 2)),
    ] {
        assert_eq!(Format::default().whole(&plain, end), expected, "{end}");
    }
    for (end, expected) in [
        (3, (0, 0)),
        (23, (0, 0)),
        (24, (24, 0)),
        (99, (24, 0)),
        (100, (100, 1)),
        (116, (100, 1)),
        (117, (117, 2)),
    ] {
        assert_eq!(pcap.whole(&classic, end), expected, "{end}");
    }
    // Behind the header of the file.
    assert_eq!(pcap.whole(&classic[24..], 80), (76, 1));
    let gzip = of("x.gz").unwrap();
    let member = gzip.encode(&plain);
    assert_eq!(gzip.whole(&member, member.len() - 1), (0, 0));
}
