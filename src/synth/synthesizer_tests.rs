use bytes::Bytes;
use etherparse::{SlicedPacket, TransportSlice};

use super::*;
use crate::event::{HandleKey, Missing, ProcessKey, TupleSource};
use crate::synth::comment;
use crate::synth::packet::Packet;
use crate::synth::{HOLE_MAX, SKIP_JUMP};
use crate::track::segment::RoleSource;

pub(super) fn process() -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: 10, generation: 1 },
        comm: "curl".into(),
        exe: "/usr/bin/curl".into(),
        args: vec![],
        uid: 1000,
        container: None,
    })
}

pub(super) fn connection(id: u64, local: &str, remote: &str) -> Connection {
    let process = process();
    Connection {
        id: ConnectionId(id),
        handle: HandleKey { process: process.key, address: 0xabc, generation: id },
        process,
        tid: 11,
        local_side: Side::Client,
        role_source: RoleSource::Kernel,
        tuple: Some(Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() }),
        tuple_source: TupleSource::SameCall,
        netns: 1,
        inode: 2,
        cookie: None,
        rtt: None,
        fd: Some(3),
        library: None,
        from_start: true,
        started: 1_500_000_000,
        server_name: Some("a.example".into()),
        alpn: None,
        layer_below: None,
    }
}

pub(super) fn data(from: Side, offset: u64, bytes: &[u8]) -> SegmentBody {
    let bytes = Bytes::copy_from_slice(bytes);
    SegmentBody::Payload(Payload {
        from,
        process: process(),
        tid: 12,
        offset,
        len: bytes.len() as u64,
        bytes,
        missing: None,
        redacted: vec![],
    })
}

pub(super) fn hole(from: Side, offset: u64, len: u64) -> SegmentBody {
    let missing = Some(Missing::RingFull);
    SegmentBody::Payload(Payload {
        from,
        process: process(),
        tid: 12,
        offset,
        bytes: Bytes::new(),
        len,
        missing,
        redacted: vec![],
    })
}

/// A packet, taken apart.
#[derive(Clone, Debug)]
struct Seen {
    time: WallTime,
    source: u16,
    destination: u16,
    seq: u32,
    ack: u32,
    flags: String,
    payload: Vec<u8>,
    original: usize,
    dropped: u64,
    comments: Vec<String>,
    calls: String,
}

/// The packets but for pure ACKs of data and FINs, and all.
#[derive(Default)]
struct Log(Vec<Seen>, Vec<Seen>);

impl Log {
    fn add(&mut self, packet: Packet<'_>) {
        let bytes = [packet.headers, packet.payload].concat();
        // Headers of packets that are cut say more than there is.
        let sliced = SlicedPacket::from_ip(&bytes).ok();
        let tcp = match sliced.and_then(|s| s.transport) {
            Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
            _ => {
                let ip = if packet.headers[0] >> 4 == 4 { 20 } else { 40 };
                etherparse::TcpHeader::from_slice(&packet.headers[ip..]).unwrap().0
            }
        };
        let named = [(tcp.syn, 'S'), (tcp.fin, 'F'), (tcp.rst, 'R'), (tcp.psh, 'P'), (tcp.ack, 'A')];
        let seen = Seen {
            time: packet.time,
            source: tcp.source_port,
            destination: tcp.destination_port,
            seq: tcp.sequence_number,
            ack: tcp.acknowledgment_number,
            flags: named.iter().filter(|(set, _)| *set).map(|(_, c)| *c).collect(),
            payload: packet.payload.to_vec(),
            original: packet.original_len as usize - packet.headers.len(),
            dropped: packet.dropped,
            comments: packet.comments.to_vec(),
            calls: packet.calls.to_owned(),
        };
        let is_answered = |said: &Seen| {
            said.source == seen.destination && said.time == seen.time && said.flags.contains(['P', 'F'])
        };
        if seen.flags != "A" || !seen.comments.is_empty() || !self.1.iter().any(is_answered) {
            self.0.push(seen.clone());
        }
        self.1.push(seen);
        for comment in packet.comments {
            comment::parse(comment).unwrap();
        }
    }

    fn flags(&self) -> Vec<&str> {
        self.1.iter().map(|p| p.flags.as_str()).collect()
    }

    fn value(&self, packet: usize, key: &str) -> Option<String> {
        let pairs = self.0[packet].comments.iter().flat_map(|c| comment::parse(c).unwrap());
        pairs.into_iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// No packet of a direction leaves a hole or goes back.
    fn assert_continuous(&self) {
        let mut next: HashMap<(u16, u16), u32> = HashMap::default();
        for packet in &self.1 {
            let phantom = u32::from(packet.flags.contains(['S', 'F']));
            let end = packet.seq.wrapping_add(packet.original as u32).wrapping_add(phantom);
            let key = (packet.source, packet.destination);
            let expected = next.insert(key, end);
            assert!(packet.flags.contains('S') || expected == Some(packet.seq), "{packet:?}");
            if packet.flags.contains('A') {
                let other = next[&(packet.destination, packet.source)];
                assert_eq!(packet.ack, other, "{packet:?}");
            }
        }
    }
}

#[path = "join_tests.rs"]
mod joins;

struct Run {
    synthesizer: Synthesizer,
    log: Log,
    time: WallTime,
}

impl Run {
    fn new(ports: Ports) -> Run {
        Run { synthesizer: Synthesizer::new(ports), log: Log::default(), time: 2_000_000_000 }
    }

    fn open(&mut self, connection: Connection) {
        let id = connection.id.0;
        self.step(id, SegmentBody::Open(Arc::new(connection)));
    }

    fn step(&mut self, id: u64, body: SegmentBody) {
        self.time += 1000;
        let segment = Segment { connection: ConnectionId(id), time: self.time, body };
        self.synthesizer.segment(&segment, &mut |packet| self.log.add(packet));
    }

    fn tick(&mut self, after: u64) {
        self.time += after;
        self.synthesizer.tick(self.time, &mut |packet| self.log.add(packet));
    }
}

const CLIENT: &str = "127.0.0.1:40001";
const SERVER: &str = "127.0.0.1:443";

#[test]
fn a_connection_from_its_syn_to_its_last_ack() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    assert!(run.log.0.is_empty(), "the SYN waits for the data");
    run.step(1, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    run.step(1, data(Side::Server, 0, b"HTTP/1.1 204 No\r\n\r\n"));
    run.step(1, SegmentBody::Finish(Side::Server));
    run.step(1, SegmentBody::Finish(Side::Client));
    run.step(1, SegmentBody::End);
    assert_eq!(run.log.flags(), ["S", "SA", "A", "PA", "A", "PA", "FA", "A", "FA", "A"]);
    run.log.assert_continuous();
    let ports: Vec<_> = run.log.1.iter().map(|p| p.source).collect();
    assert_eq!(ports, [40_001, 80, 40_001, 40_001, 80, 80, 80, 40_001, 40_001, 80]);
    let times: Vec<_> = run.log.1.iter().map(|p| p.time).collect();
    assert_eq!(
        [times[3], times[6], times[8]],
        [times[4], times[7], times[9]],
        "each is acknowledged at its own time"
    );
    assert_eq!(
        run.log.0[0].time + 1,
        run.log.0[3].time,
        "the SYN has the time of the first data, but for 1 ns"
    );
    for (key, value) in [
        ("conn", "1"),
        ("pid", "10"),
        ("tid", "11"),
        ("comm", "curl"),
        ("exe", "/usr/bin/curl"),
        ("uid", "1000"),
        ("fd", "3"),
        ("local", CLIENT),
        ("remote", SERVER),
        ("written_server", "127.0.0.1:80"),
        ("tuple", "same-call"),
        ("role", "client"),
        ("sni", "a.example"),
        ("proto", "http/1"),
        ("start", "1.500000000"),
        ("from_start", "1"),
    ] {
        assert_eq!(run.log.value(0, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(run.log.value(0, "written_client"), None);
}

#[test]
fn with_keep_the_ports_are_the_true_ones() {
    let mut run = Run::new(Ports::Keep);
    run.open(connection(1, "127.0.0.1:40000", SERVER));
    run.step(1, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!((run.log.0[0].source, run.log.0[0].destination), (40_000, 443));
    assert_eq!(run.log.value(0, "written_server"), None);
}

#[test]
fn first_bytes_wait_for_what_tells_the_protocol_but_not_for_ever() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    run.step(1, data(Side::Client, 0, b"GE"));
    assert!(run.log.0.is_empty());
    run.step(1, data(Side::Client, 2, b"T / HTTP/1.1\r\n\r\n"));
    assert_eq!(run.log.0[0].destination, 80);
    assert_eq!(run.log.0.len(), 4, "one head, one packet");

    run.open(connection(2, "127.0.0.1:40002", SERVER));
    run.step(2, data(Side::Client, 0, b"something else"));
    run.tick(HOLD_TIME_UNKNOWN - 1_000_000);
    assert_eq!(run.log.0.len(), 4);
    run.tick(1_000_000);
    assert_eq!(run.log.0[4].destination, super::super::DATA_PORT);
    run.step(2, data(Side::Client, 14, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(run.log.0[8].destination, super::super::DATA_PORT, "the decision stays");

    run.open(Connection { from_start: false, ..connection(4, "127.0.0.1:40004", SERVER) });
    run.step(4, data(Side::Client, 0, b"the middle of something"));
    let before = run.log.0.len();
    run.tick(HOLD_TIME - 1_000_000);
    assert_eq!(run.log.0.len(), before, "here the answer may still tell");
    run.tick(1_000_000);
    assert!(run.log.0.len() > before);

    run.open(connection(3, "127.0.0.1:40003", SERVER));
    let before = run.log.0.len();
    run.step(3, data(Side::Client, 0, &[0xaa; HOLD_BYTES]));
    assert!(run.log.0.len() > before, "too much to hold");
    assert_eq!(run.synthesizer.held_bytes, 0);
    assert!(run.synthesizer.waiting.is_empty());
}

#[test]
fn a_clock_that_is_set_back_makes_nobody_wait_longer() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    run.step(1, data(Side::Client, 0, b"something else"));
    run.synthesizer.tick(5, &mut |packet| run.log.add(packet));
    assert_eq!(run.log.0.len(), 4);
}

#[test]
fn tuples_of_live_connections_differ_and_returning_ones_get_fresh_sequence_numbers() {
    let mut run = Run::new(Ports::Decode);
    for id in 1..=2 {
        run.open(connection(id, CLIENT, SERVER));
        run.step(id, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    }
    let second = run.log.0[4].clone();
    assert_ne!(second.source, 40_001);
    let written = format!("127.0.0.1:{}", second.source);
    assert_eq!(run.log.value(4, "written_client"), Some(written));
    run.step(1, SegmentBody::End);
    run.step(2, SegmentBody::End);
    let at = run.log.0.len();
    run.open(connection(3, CLIENT, SERVER));
    run.step(3, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(run.log.0[at].source, 40_001);
    assert_ne!(run.log.0[at].seq, run.log.0[0].seq);
    assert_eq!(run.synthesizer.stats().tuples_changed, 1);
}

#[test]
fn a_connection_without_addresses_is_marked() {
    let mut run = Run::new(Ports::Keep);
    let unknown =
        |id| Connection { tuple: None, tuple_source: TupleSource::None, ..connection(id, CLIENT, SERVER) };
    for id in 1..=2 {
        run.open(unknown(id));
        run.step(id, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    }
    assert_eq!(run.log.value(0, "tuple").as_deref(), Some("none"));
    assert_eq!(run.log.value(0, "local"), None);
    assert_eq!(run.log.value(0, "written_server").as_deref(), Some("192.0.2.1:80"));
    assert_ne!(run.log.0[0].source, run.log.0[4].source);
}

#[test]
fn sequence_numbers_wrap_and_are_acknowledged_in_time() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    run.step(1, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    let mut offset = 0;
    for _ in 0..5 {
        run.step(1, hole(Side::Server, offset, HOLE_MAX));
        offset += HOLE_MAX;
    }
    run.step(1, data(Side::Server, offset, b"after 5 GiB"));
    run.log.assert_continuous();
    let acks = run.log.1.iter().filter(|p| p.flags == "A").count();
    assert!(acks > 300, "{acks}");
    assert_eq!(run.synthesizer.stats().missing_bytes, 5 * HOLE_MAX);
}

#[test]
fn missing_bytes_keep_their_place_and_say_why() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    run.step(1, data(Side::Client, 0, b"EHLO me\r\n"));
    let cut = Payload {
        from: Side::Server,
        process: process(),
        tid: 12,
        offset: 0,
        bytes: Bytes::from_static(b"250 a mail server\n"),
        len: 100_000,
        missing: Some(Missing::Limit),
        redacted: vec![],
    };
    run.step(1, SegmentBody::Payload(cut));
    assert_eq!((run.log.0[4].payload.len(), run.log.0[4].original), (18, 65_495));
    assert_eq!((run.log.0[5].payload.len(), run.log.0[5].original), (0, 34_505));
    assert_eq!(run.log.value(4, "missing").as_deref(), Some("99982"));
    assert_eq!(run.log.value(4, "reason").as_deref(), Some("call-limit"));
    run.step(1, hole(Side::Server, 100_000, 70_000));
    assert_eq!(run.log.value(6, "missing").as_deref(), Some("70000"));
    assert_eq!((run.log.0[6].dropped, run.log.0[7].dropped), (2, 0));
    run.step(1, data(Side::Server, 170_010, b"later\n"));
    assert_eq!(run.log.value(8, "missing").as_deref(), Some("10"));
    assert_eq!(run.log.value(8, "reason").as_deref(), Some("unaccounted"));
    run.log.assert_continuous();

    let before = run.log.0.last().unwrap().clone();
    run.step(1, SegmentBody::Skip { from: Side::Server, reason: Missing::Unfinished });
    let skip = run.log.0.last().unwrap().clone();
    assert_eq!(skip.seq, before.seq + 6 + SKIP_JUMP);
    let last = run.log.0.len() - 1;
    assert_eq!(run.log.value(last, "missing").as_deref(), Some("unknown"));
    assert_eq!(run.log.value(last, "reason").as_deref(), Some("unfinished-call"));

    run.step(1, hole(Side::Server, 170_016, u64::MAX / 2));
    let last = run.log.0.len() - 1;
    assert_eq!(run.log.value(last, "missing"), Some((u64::MAX / 2).to_string()));
}

#[test]
fn what_was_cut_short_is_recognised_and_put_where_it_is_decoded() {
    let cases: [(&[u8], _); 3] =
        [(b"GET /inde", "http/1"), (b"PRI * HTTP/2", "http/2"), (b"GET / HTTP/1.1\r\n\r\n", "http/1")];
    for (number, (bytes, protocol)) in cases.into_iter().enumerate() {
        let mut run = Run::new(Ports::Decode);
        run.open(connection(1, CLIENT, "10.0.0.2:34567"));
        let cut = Payload {
            from: Side::Client,
            process: process(),
            tid: 12,
            offset: 0,
            bytes: Bytes::from_static(bytes),
            len: 500,
            missing: Some(Missing::Snaplen),
            redacted: vec![],
        };
        run.step(1, SegmentBody::Payload(cut));
        run.step(1, data(Side::Server, 0, b"?"));
        assert_eq!(run.log.value(0, "proto").as_deref(), Some(protocol));
        // Readers recognise HTTP/1 on any port by its first line, if that is there.
        assert_eq!(run.log.0[0].destination, if number == 2 { 34_567 } else { 80 });
    }
}

#[test]
fn bytes_that_come_twice_are_written_once() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    run.step(1, data(Side::Client, 0, b"GET / HTTP/1.1\r\n"));
    run.step(1, data(Side::Client, 5, b" HTTP/1.1\r\nHost: a\r\n\r\n"));
    run.step(1, data(Side::Client, 0, b"GET /"));
    let all: Vec<u8> = run.log.0.iter().flat_map(|p| p.payload.clone()).collect();
    assert_eq!(all, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(run.synthesizer.stats().overlapping_bytes, 16);
}

#[test]
fn facts_that_come_late_stand_on_the_next_packet() {
    let mut run = Run::new(Ports::Decode);
    run.open(Connection { server_name: None, ..connection(1, CLIENT, SERVER) });
    run.step(1, SegmentBody::ServerName("early.example".into()));
    run.step(1, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(run.log.value(0, "sni").as_deref(), Some("early.example"));
    run.step(1, SegmentBody::Peer(process()));
    run.step(1, SegmentBody::Alpn("http/1.1".into()));
    run.step(1, data(Side::Server, 0, b"HTTP/1.1 204 No\r\n\r\n"));
    assert_eq!(run.log.value(4, "peer_pid").as_deref(), Some("10"));
    assert_eq!(run.log.value(4, "alpn").as_deref(), Some("http/1.1"));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn http2_joined_in_the_middle_of_a_frame_stays_in_step() {
    let mut run = Run::new(Ports::Decode);
    let joined = Connection { from_start: false, alpn: Some("h2".into()), ..connection(1, CLIENT, SERVER) };
    run.open(joined);
    let rest = [&b"rest of DATA"[..], &frame(0, 0, 3, b"whole"), &frame(0, 1, 3, b"end")].concat();
    run.step(1, data(Side::Server, 0, b"more of a page, without any frame"));
    run.step(1, data(Side::Server, 33, &rest));
    run.step(1, data(Side::Client, 0, &frame(1, 5, 5, b"\x82\x84")));
    let written: Vec<_> = run.log.0[3..].iter().map(|p| p.payload.clone()).collect();
    let expected: [&[u8]; 5] = [
        super::super::h2::PREFACE,
        // Up to the first frame, over both calls.
        b"\0\0\x2d\xfe\0\0\0\0\0",
        b"more of a page, without any frame",
        &rest,
        &frame(1, 5, 5, b"\x82\x84"),
    ];
    assert_eq!(written, expected);
    assert_eq!(run.log.value(3, "synthetic").as_deref(), Some("h2-preface"));
    assert_eq!(run.log.value(4, "synthetic").as_deref(), Some("h2-frame-header"));
    assert_eq!(run.log.0[3].source, 40_001, "the client's");
    run.log.assert_continuous();
}

#[test]
fn a_server_that_speaks_http2_first_does_not_double_the_preface() {
    for split in [1, 10, 24, 30] {
        let mut run = Run::new(Ports::Decode);
        run.open(connection(1, CLIENT, SERVER));
        run.step(1, data(Side::Server, 0, &frame(4, 0, 0, b"\0\x03\0\0\0\x64")));
        let client = [&super::super::h2::PREFACE[..], &frame(4, 0, 0, b"")].concat();
        run.step(1, data(Side::Client, 0, &client[..split]));
        run.step(1, data(Side::Client, split as u64, &client[split..]));
        let sent = run.log.0.iter().filter(|p| p.destination == 80).flat_map(|p| p.payload.clone());
        assert_eq!(sent.collect::<Vec<_>>(), client);
        let last = run.log.0.iter().position(|p| p.comments.iter().any(|c| c.contains("already_written")));
        assert!(last.is_some());
        run.log.assert_continuous();
    }
}

#[test]
fn resets_ends_and_nonsense() {
    let mut run = Run::new(Ports::Decode);
    run.step(9, data(Side::Client, 0, b"x"));
    run.step(9, SegmentBody::End);
    assert_eq!(run.synthesizer.stats().segments_orphaned, 2);
    run.open(connection(1, CLIENT, SERVER));
    run.open(connection(1, CLIENT, SERVER));
    assert_eq!(run.synthesizer.stats().opened_twice, 1);
    run.step(1, data(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n"));
    run.step(1, SegmentBody::Reset { from: Side::Server });
    run.step(1, data(Side::Client, 18, b"late"));
    run.step(1, SegmentBody::End);
    assert_eq!(run.log.flags(), ["S", "SA", "A", "PA", "A", "RA", "PA"]);
    assert_eq!(run.log.value(5, "after_fin").as_deref(), Some("1"));
    run.open(connection(2, CLIENT, SERVER));
    run.step(2, SegmentBody::End);
    assert_eq!(run.log.flags()[7..], ["S", "SA", "A"], "nobody said that it is over");
    assert!(run.synthesizer.live.is_empty() && run.synthesizer.tuples.is_empty());
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next(of.len() as u64) as usize]
    }

    fn body(&mut self, id: u64) -> SegmentBody {
        let from = self.pick(&[Side::Client, Side::Server]);
        match self.next(20) {
            0..=1 => {
                let addresses =
                    ["1.2.3.4:443", "5.6.7.8:40000", "[::1]:443", "[::ffff:1.2.3.4]:1", "0.0.0.0:0"];
                let tuple = Tuple {
                    local: self.pick(&addresses).parse().unwrap(),
                    remote: self.pick(&addresses).parse().unwrap(),
                };
                let base = connection(id, CLIENT, SERVER);
                SegmentBody::Open(Arc::new(Connection {
                    tuple: Some(tuple).filter(|_| self.next(4) > 0),
                    from_start: self.next(2) == 0,
                    alpn: self.pick(&[None, Some("h2"), Some("http/1.1"), Some("x y%")]).map(str::to_owned),
                    local_side: from,
                    ..base
                }))
            }
            2 => SegmentBody::Skip { from, reason: Missing::Unseen },
            3 => SegmentBody::Peer(process()),
            4 => SegmentBody::ServerName("\0 %".into()),
            5 => SegmentBody::Alpn("h2".into()),
            6 => SegmentBody::Finish(from),
            7 => SegmentBody::Reset { from },
            8 => SegmentBody::End,
            _ => {
                let heads: [&[u8]; 5] = [
                    b"GET / HTTP/1.1\r\n",
                    &super::super::h2::PREFACE[..],
                    b"PRI *",
                    b"\0\0\0\x04\0\0\0\0\0",
                    b"",
                ];
                let mut bytes = self.pick(&heads).to_vec();
                bytes.resize(bytes.len() + self.pick(&[0, 1, 9, 500, 70_000]), self.next(256) as u8);
                let missing = self.pick(&[0, 0, 0, 1, 70_000, HOLE_MAX / 64, u64::MAX - 100_000]);
                SegmentBody::Payload(Payload {
                    from,
                    process: process(),
                    tid: 1,
                    offset: self.pick(&[0, 1, 100, 70_000, u64::MAX, self.0 % 1000]),
                    len: bytes.len() as u64 + missing,
                    bytes: bytes.into(),
                    missing: None,
                    redacted: vec![],
                })
            }
        }
    }
}

/// Whatever comes, nothing panics, every packet is sound, and what is held stays within its bounds
/// and is given back.
#[test]
fn any_sequence_of_segments_is_survived() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let ports = random.pick(&[Ports::Decode, Ports::Keep]);
        // Few: filling long holes takes long.
        let carrier = if seed % 12 == 0 { Carrier::Tls } else { Carrier::Plain };
        let mut synthesizer = Synthesizer::new(ports).with_carrier(carrier);
        let mut check = |packet: Packet<'_>| {
            let whole = packet.headers.len() + packet.payload.len();
            assert!(packet.original_len as usize >= whole && packet.original_len <= 65_575);
            for comment in packet.comments {
                comment::parse(comment).unwrap();
            }
        };
        for _ in 0..300 {
            let id = random.next(6);
            let time = random.next(5_000_000_000);
            let segment = Segment { connection: ConnectionId(id), time, body: random.body(id) };
            synthesizer.segment(&segment, &mut check);
            if random.next(20) == 0 {
                synthesizer.tick(random.next(5_000_000_000), &mut check);
            }
            assert!(synthesizer.held_bytes <= HOLD_TOTAL);
            assert!(synthesizer.live.len() <= 6);
        }
        synthesizer.finish(0, &mut check);
        assert_eq!((synthesizer.held_bytes, synthesizer.waiting.len()), (0, 0));
        for id in 0..6 {
            synthesizer.segment(
                &Segment { connection: ConnectionId(id), time: 0, body: SegmentBody::End },
                &mut check,
            );
        }
        assert!(synthesizer.tuples.is_empty());
    }
}
