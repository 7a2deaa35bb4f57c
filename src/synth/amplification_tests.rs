//! A small recording makes no huge file, whatever it says is missing.

use std::sync::Arc;

use bytes::Bytes;

use super::tests::{connection, data, hole, process};
use super::*;
use crate::synth::{Carrier, FILL_FREE, FILL_PER_BYTE, HOLES_FREE, HOLES_PER_BYTE};
use crate::track::segment::{ConnectionId, Payload, Segment, SegmentBody, Side};

/// What a story makes of a synthesizer: bytes in packets, and packets.
fn size(carrier: Carrier, story: impl IntoIterator<Item = SegmentBody>) -> (u64, u64, Stats) {
    let mut synthesizer = Synthesizer::new(Ports::Decode).with_carrier(carrier);
    let (mut bytes, mut packets) = (0, 0);
    let mut out = |packet: crate::synth::packet::Packet<'_>| {
        bytes += (packet.headers.len() + packet.payload.len()) as u64;
        packets += 1;
    };
    let open = SegmentBody::Open(Arc::new(connection(1, "127.0.0.1:40001", "127.0.0.1:443")));
    for body in [open].into_iter().chain(story) {
        synthesizer.segment(&Segment { connection: ConnectionId(1), time: 2_000_000_000, body }, &mut out);
    }
    synthesizer.finish(2_000_000_000, &mut out);
    let stats = synthesizer.stats();
    (bytes, packets, stats)
}

/// The first bytes of the client, and then holes of the server, with a byte between them.
fn holes(
    begin: &'static [u8],
    answer: &'static [u8],
    len: u64,
    count: u64,
) -> impl Iterator<Item = SegmentBody> {
    let at = answer.len() as u64;
    let each = move |n: u64| {
        let offset = at + n * (len + 1);
        [hole(Side::Server, offset, len), data(Side::Server, offset + len, b"x")]
    };
    [data(Side::Client, 0, begin), data(Side::Server, 0, answer)].into_iter().chain((0..count).flat_map(each))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n";
const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// The frame behind it says that it has 2^62 bytes.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x82\x7f\x40\0\0\0\0\0\0\0";
const MORE: u64 = 100_000;

#[test]
fn zeros_for_missing_bytes_are_bounded_in_all() {
    for (begin, answer) in [(GET, ENDLESS), (&b"no known protocol"[..], &b"at all"[..]), (UPGRADE, UPGRADED)]
    {
        let (bytes, _, stats) = size(Carrier::Tls, holes(begin, answer, 15 << 20, 60));
        let captured = stats.captured_bytes;
        assert_eq!(captured, (begin.len() + answer.len() + 60) as u64);
        assert!(bytes < FILL_FREE + captured * FILL_PER_BYTE + MORE, "{bytes}");
        assert!(stats.holes_shortened > 0);
    }
    // What was captured makes room.
    let much = SegmentBody::Payload(Payload {
        from: Side::Server,
        process: process(),
        tid: 1,
        offset: 1,
        len: 4 << 20,
        bytes: Bytes::from(vec![0; 4 << 20]),
        missing: None,
        redacted: vec![],
    });
    let story = [data(Side::Client, 0, b"no known"), data(Side::Server, 0, b"x"), much];
    let begin = 1 + (4 << 20);
    let story = story.into_iter().chain((0..5).map(|n| hole(Side::Server, begin + n * (10 << 20), 10 << 20)));
    let (bytes, _, stats) = size(Carrier::Tls, story);
    assert_eq!((stats.filled_bytes, stats.holes_shortened), (50 << 20, 0));
    assert!(bytes > 54 << 20);
}

#[test]
fn packets_without_bytes_are_bounded_in_all() {
    let most = HOLES_FREE / 65_000;
    for (begin, answer) in [(GET, ENDLESS), (&b"no known protocol"[..], &b"at all"[..]), (UPGRADE, UPGRADED)]
    {
        let (_, packets, stats) = size(Carrier::Plain, holes(begin, answer, 1 << 30, 100));
        let captured = stats.captured_bytes;
        // Acknowledgments, too.
        let allowed = (most + captured * HOLES_PER_BYTE / 65_000) * 5 / 4 + 1_000;
        assert!(packets < allowed, "{packets} packets, {allowed}");
        assert!(packets > most / 2, "{packets}");
    }
}

/// Nothing takes for ever.
#[test]
fn holes_of_impossible_lengths() {
    for carrier in [Carrier::Plain, Carrier::Tls] {
        for (begin, answer) in [(GET, ENDLESS), (&b"no known"[..], &b"protocol"[..]), (UPGRADE, UPGRADED)] {
            for len in [1 << 34, 1 << 60, (1 << 62) - 1] {
                let (bytes, packets, _) = size(carrier, holes(begin, answer, len, 1));
                assert!(bytes < FILL_FREE + MORE && packets < 30_000, "{len}: {bytes} bytes, {packets}");
            }
        }
    }
}
