//! After any hole, readers find the next frame, and every byte stands where it truly stood.

use std::collections::BTreeMap;

use super::*;

/// A small generator (SplitMix64): the same numbers on each run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub fn body(&mut self, len: usize) -> Vec<u8> {
        match self.next(3) {
            0 => (0..len).map(|i| b"<p>some text of a page</p>\r\n"[i % 28]).collect(),
            1 => (0..len).map(|_| self.next(256) as u8).collect(),
            _ => vec![0; len],
        }
    }
}

/// Where the calls of a program end.
#[derive(Clone, Copy, PartialEq)]
pub enum Calls {
    Any,
    /// Only where a frame does.
    Aligned,
    /// Also where a message does.
    Ended,
}

/// One direction as it was sent, and what of it is captured.
#[derive(Default)]
pub struct Sent {
    pub bytes: Vec<u8>,
    /// Where each message or frame lies.
    pub units: Vec<(usize, usize)>,
    /// What is missing, in order; `true`: nobody knows how much.
    pub holes: Vec<(usize, usize, bool)>,
    /// The bytes before this one were before the capture.
    pub begin: usize,
}

impl Sent {
    pub fn unit(&mut self, bytes: &[u8]) {
        self.units.push((self.bytes.len(), self.bytes.len() + bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// Holes of some bytes or of many, from `first` on, not two without a byte in between.
    pub fn punch(&mut self, random: &mut Random, first: usize, least: u64, unknown: bool) {
        let mut at = first;
        for _ in 0..=random.next(5) {
            at += 1 + random.next(self.bytes.len() as u64 / 3) as usize;
            let small = least > 9 || self.holes.iter().any(|hole| hole.1 - hole.0 < 9);
            let len = match random.next(4) {
                // Two that leave no room for a made-up header, in the headers of two frames one after
                // the other, are one too many.
                0 if !small => 1 + random.next(12),
                0 | 1 => least + random.next(30),
                2 => least + random.next(3000),
                _ => least + random.next(150_000),
            };
            // Often at the border of a frame, or next to it.
            let near = |at: usize| self.units.iter().map(|u| u.0).find(|border| *border >= at).unwrap_or(at);
            let mut end = at + len as usize;
            if random.next(3) == 0 {
                at = near(at) + random.next(12) as usize;
                end = end.max(at + if small { least as usize } else { 1 });
            }
            if random.next(4) == 0 {
                end = end.max(near(end) + random.next(12) as usize);
            }
            if end >= self.bytes.len() {
                return;
            }
            self.holes.push((at, end, unknown && random.next(3) == 0));
            at = end;
        }
    }

    /// The segments that the calls of a program make of it, each with the number of its message.
    pub fn segments(&self, random: &mut Random, from: Side, calls: Calls) -> Vec<(usize, SegmentBody)> {
        let mut segments = Vec::new();
        let mut at = self.begin;
        let mut offset = 0;
        while at < self.bytes.len() {
            let most = if random.next(4) == 0 { 200 } else { 20_000 };
            let mut end = (at + 1 + random.next(most) as usize).min(self.bytes.len());
            let border = self.units.iter().map(|unit| unit.1).find(|border| *border > at);
            if calls == Calls::Ended {
                // Wireshark takes a chunked body whose last line end is split for malformed.
                let border = border.unwrap_or(end);
                end = if border - end.min(border) < 4 { border } else { end };
            }
            if calls == Calls::Aligned || at == 0 {
                end = self.units.iter().map(|unit| unit.1).find(|border| *border >= end).unwrap_or(end);
            }
            while at < end {
                let unit = self.units.iter().take_while(|unit| unit.1 <= at).count();
                let hole = self.holes.iter().find(|hole| hole.1 > at && hole.0 < end);
                let (first, last, unknown) = *hole.unwrap_or(&(end, end, false));
                let (first, last) = (first.max(at), last.min(end));
                let bytes = Bytes::copy_from_slice(&self.bytes[at..first]);
                let len = if unknown { bytes.len() } else { last - at } as u64;
                let missing = (len > bytes.len() as u64).then_some(Missing::RingFull);
                if len > 0 {
                    let process = process(1001);
                    let payload =
                        Payload { from, process, tid: 1, offset, bytes, len, missing, redacted: vec![] };
                    segments.push((unit, SegmentBody::Payload(payload)));
                }
                // A hole of unknown length counts once, at its end.
                if unknown && hole.is_some_and(|hole| hole.1 <= end) {
                    segments.push((unit, SegmentBody::Skip { from, reason: Missing::Unfinished }));
                }
                offset += len;
                at = last;
            }
        }
        segments
    }

    pub fn captured(&self, from: usize, to: usize) -> bool {
        from >= self.begin && !self.holes.iter().any(|hole| hole.0 < to && from < hole.1)
    }

    /// Every captured byte stands in the file where it stood in the stream, counted from the first.
    fn check_bytes(&self, what: &str, packets: &[(u64, Vec<u8>, bool)]) {
        // Before the first byte, something may be made up.
        let real =
            packets.iter().position(|packet| !packet.2 && !packet.1.is_empty()).unwrap_or(packets.len());
        let begin = if self.begin > 0 { packets.get(real).map_or(0, |packet| packet.0 - 1) } else { 0 };
        let packets: BTreeMap<_, _> =
            packets.iter().filter(|p| !p.2 && !p.1.is_empty()).map(|p| (p.0 - 1 - begin, &p.1[..])).collect();
        let mut packets = packets.into_iter();
        let (mut offset, mut bytes) = (0, &[][..]);
        let (mut place, mut expected) = (self.begin, 0);
        while place < self.bytes.len() {
            if let Some(hole) = self.holes.iter().find(|hole| hole.0 <= place && place < hole.1) {
                expected += if hole.2 { 1000 } else { (hole.1 - place) as u64 };
                place = hole.1;
                continue;
            }
            if bytes.is_empty() {
                (offset, bytes) = packets.next().unwrap_or_else(|| panic!("{what}: no byte {place}"));
            }
            assert_eq!(offset, expected, "{what}: where byte {place} stands");
            let hole = self.holes.iter().map(|hole| hole.0).find(|begin| *begin > place);
            let n = bytes.len().min(hole.unwrap_or(self.bytes.len()) - place);
            assert_eq!(bytes[..n], self.bytes[place..place + n], "{what}: bytes from {place} on");
            bytes = &bytes[n..];
            (offset, expected, place) = (offset + n as u64, expected + n as u64, place + n);
        }
        assert!(bytes.is_empty() && packets.next().is_none(), "{what}: bytes that nobody sent");
    }
}

/// Both directions in turns.
pub fn play(
    capture: &mut Capture,
    random: &mut Random,
    connection: Connection,
    [client, server]: [&Sent; 2],
    calls: Calls,
) {
    let id = connection.id.0;
    capture.open(connection);
    let mut client = client.segments(random, Client, calls).into_iter().peekable();
    let mut server = server.segments(random, Server, calls).into_iter().peekable();
    capture.step(id, client.next().unwrap().1);
    while let Some(side) = match (client.peek(), server.peek()) {
        // No answer before its request.
        (Some(one), Some(two)) if calls == Calls::Ended && one.0 <= two.0 => Some(Client),
        (Some(_), Some(_)) if calls == Calls::Ended => Some(Server),
        (Some(_), Some(_)) => Some(if random.next(2) == 0 { Client } else { Server }),
        (one, two) => one.map(|_| Client).or(two.map(|_| Server)),
    } {
        let next = if side == Client { client.next() } else { server.next() };
        capture.step(id, next.unwrap().1);
    }
    capture.end(id);
}

/// What the judges show of each connection and side: sequence number, bytes, whether they are made up.
pub fn check_bytes(capture: &Capture, what: &str, sent: &[[Sent; 2]]) {
    let fields = ["tcp.stream", "tcp.srcport", "tcp.seq", "tcp.payload", "frame.comment"];
    capture.ask("tcp.len > 0", &fields, |judge, lines| {
        for (stream, sides) in sent.iter().enumerate() {
            for (sent, server) in sides.iter().zip([false, true]) {
                let of = |line: &&Vec<String>| {
                    line[0] == stream.to_string() && (line[1] == "80" || line[1] == "443") == server
                };
                let packets: Vec<_> = lines
                    .iter()
                    .filter(of)
                    .map(|line| {
                        let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
                        let pairs = line[3].as_bytes().chunks(2);
                        let bytes = pairs.map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
                        (line[2].parse().unwrap(), bytes, line[4].contains("synthetic="))
                    })
                    .collect();
                sent.check_bytes(&format!("{judge}: {what}: stream {stream} server {server}"), &packets);
            }
        }
    });
}

fn with(name: &str, carrier: Carrier) -> Capture {
    let name = format!("{name}-{carrier:?}");
    if carrier == Carrier::Tls { Capture::in_tls(&name) } else { Capture::new(&name, Ports::Decode) }
}

fn rounds(carrier: Carrier) -> u64 {
    if carrier == Carrier::Tls { 2 } else { 5 }
}

fn check(capture: &Capture, carrier: Carrier, what: &str, sent: &[[Sent; 2]]) {
    if carrier == Carrier::Tls {
        check_records(capture, what, sent);
    } else {
        check_bytes(capture, what, sent);
    }
}

/// Inside TLS all captured bytes stand in the records in their order, and but for what is said to be made
/// up, only zeros between them.
fn check_records(capture: &Capture, what: &str, sent: &[[Sent; 2]]) {
    let fields = ["tcp.stream", "tcp.srcport", "tcp.payload", "frame.comment"];
    capture.ask("tcp.len > 0", &fields, |judge, lines| {
        for (stream, sides) in sent.iter().enumerate() {
            for (sent, server) in sides.iter().zip([false, true]) {
                let mut plain = Vec::new();
                for line in &lines {
                    if line[0] != stream.to_string()
                        || (line[1] == "443") != server
                        || line[3].contains("synthetic=")
                    {
                        continue;
                    }
                    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
                    let bytes: Vec<u8> = line[2]
                        .as_bytes()
                        .chunks(2)
                        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
                        .collect();
                    let mut records = &bytes[..];
                    while let [23, 3, 3, a, b, rest @ ..] = records {
                        let (record, next) = rest.split_at(usize::from(u16::from_be_bytes([*a, *b])));
                        plain.extend_from_slice(&record[..record.len() - 16]);
                        records = next;
                    }
                    assert!(records.is_empty(), "{judge}: {what}: a part of a record");
                }
                let mut left = &plain[..];
                let mut at = sent.begin;
                while at < sent.bytes.len() {
                    if let Some(hole) = sent.holes.iter().find(|hole| hole.0 <= at && at < hole.1) {
                        at = hole.1;
                        continue;
                    }
                    let end = sent.holes.iter().map(|hole| hole.0).find(|begin| *begin > at);
                    let piece = &sent.bytes[at..end.unwrap_or(sent.bytes.len())];
                    let zeros = left.iter().take_while(|byte| **byte == 0).count();
                    let found = (0..=zeros).find(|zeros| left[*zeros..].starts_with(piece));
                    let Some(found) = found else {
                        panic!("{judge}: {what}: stream {stream} server {server}: no bytes from {at} on");
                    };
                    left = &left[found + piece.len()..];
                    at += piece.len();
                }
                assert!(left.iter().all(|byte| *byte == 0), "{judge}: {what}: bytes that nobody sent");
            }
        }
    });
}

/// Every frame can be told from the others by type, length and stream.
fn http2_sides(random: &mut Random) -> [Sent; 2] {
    let (mut client, mut server) = (Sent::default(), Sent::default());
    client.unit(PREFACE);
    client.unit(&frame(4, 0, 0, b""));
    server.unit(&frame(4, 0, 0, b""));
    for stream in (1..40).step_by(2) {
        client.unit(&request(stream, "/"));
    }
    let mut len = 0;
    for stream in (1..40).step_by(2) {
        server.unit(&frame(1, 4, stream, &[0x88]));
        for side in [&mut client, &mut server] {
            for _ in 0..random.next(4) {
                len += 1;
                let more = [0, 100, 3000, 16_000, 90_000][random.next(5) as usize];
                let body = random.body(more + len);
                side.unit(&frame(0, 0, stream, &body));
            }
            if random.next(2) == 0 {
                side.unit(&frame(8, 0, stream, &[0, 0, 1, 0]));
            }
        }
    }
    [client, server]
}

#[test]
fn http2_after_any_hole() {
    http2_holes(Carrier::Plain);
}

#[test]
fn http2_in_tls_after_any_hole() {
    http2_holes(Carrier::Tls);
}

fn http2_holes(carrier: Carrier) {
    let rounds = std::env::var("T2P_ROUNDS").map_or(rounds(carrier), |n| n.parse().unwrap());
    let first = std::env::var("T2P_SEED").map_or(0, |n| n.parse().unwrap());
    for seed in first..first + rounds {
        let mut random = Random(seed);
        let mut capture = with(&format!("holes-{seed}"), carrier);
        let mut sent = Vec::new();
        for id in 1..=4 {
            let joined = id % 2 == 0;
            let calls = [Calls::Any, Calls::Aligned][random.next(2) as usize];
            let mut sides = http2_sides(&mut random);
            for side in &mut sides {
                let mut first = side.units[1].1;
                if joined {
                    side.begin = first + random.next(20_000) as usize % (side.bytes.len() - first);
                    first = side.begin;
                }
                side.punch(&mut random, first, 9, seed % 2 == 1);
            }
            let connection = Connection {
                from_start: !joined,
                alpn: Some("h2".into()),
                ..connection(id, &format!("10.0.0.1:4100{id}"), "10.0.0.2:443")
            };
            play(&mut capture, &mut random, connection, [&sides[0], &sides[1]], calls);
            sent.push(sides);
        }
        capture.close();
        let what = format!("seed {seed}");
        check(&capture, carrier, &what, &sent);
        let fields = ["tcp.stream", "tcp.srcport", "http2.type", "http2.length", "http2.streamid"];
        capture.ask("http2", &fields, |judge, lines| {
            for (stream, sides) in sent.iter().enumerate() {
                for (sent, server) in sides.iter().zip([false, true]) {
                    let of = |line: &&Vec<String>| {
                        line[0] == stream.to_string() && (line[1] == "80" || line[1] == "443") == server
                    };
                    let mut shown = Vec::new();
                    for line in lines.iter().filter(of) {
                        let [kinds, lens, streams] = [2, 3, 4].map(|i| {
                            line[i].split(',').filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>()
                        });
                        shown.extend(kinds.iter().zip(&lens).zip(&streams).map(|((k, l), s)| (*k, *l, *s)));
                    }
                    let what = format!("{judge}: {what}: stream {stream} server {server}");
                    let (mut expected, mut headless) = (Vec::new(), Vec::new());
                    for (begin, end) in &sent.units {
                        let head = &sent.bytes[*begin..];
                        if head.starts_with(PREFACE) {
                            continue;
                        }
                        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                        let unit = (u32::from(head[3]), len, u32::from(head[8]));
                        expected.push(unit);
                        if !sent.captured(*begin, begin + 3) {
                            headless.push((unit.0, unit.2));
                        }
                        // As long as no stream of a joined connection is known, one header alone is
                        // no evidence.
                        let evident = sent.begin == 0 || sent.captured(*begin, end + 9);
                        if evident && sent.captured(*begin, *end) {
                            assert!(
                                shown.contains(&unit),
                                "{what}: {unit:?} at {begin}..{end} is not shown, holes {:?}, begin {}",
                                sent.holes,
                                sent.begin
                            );
                        }
                    }
                    // Made-up headers, and those of which only the length could be made up.
                    shown.retain(|unit| unit.0 < 10);
                    for unit in &shown {
                        // Zeros may stand in a header of which the first bytes came in an earlier call.
                        let torn = carrier == Carrier::Tls && unit.2 == 0;
                        let known = torn || expected.contains(unit) || headless.contains(&(unit.0, unit.2));
                        assert!(known, "{what}: {unit:?} was never sent");
                    }
                }
            }
        });
    }
}

/// Every message can be told from the others by its number.
fn http1_sides(random: &mut Random) -> [Sent; 2] {
    let (mut client, mut server) = (Sent::default(), Sent::default());
    for n in 0..60 {
        let len = [0, 10, 300, 5000, 60_000][random.next(5) as usize];
        let body = random.body(len);
        let request = match random.next(3) {
            0 => format!("POST /{n:02} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n"),
            _ => format!("GET /{n:02} HTTP/1.1\r\nHost: a\r\n\r\n"),
        };
        let post = if request.starts_with("POST") { &body[..] } else { &[] };
        client.unit(&[request.as_bytes(), post].concat());
        // No HEAD: if such a request is missing, readers expect a body.
        if random.next(3) == 0 {
            let mut message =
                format!("HTTP/1.1 200 R{n:02}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in body.chunks(1 + random.next(20_000) as usize) {
                message.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                message.extend_from_slice(chunk);
                message.extend_from_slice(b"\r\n");
            }
            message.extend_from_slice(b"0\r\n\r\n");
            server.unit(&message);
        } else {
            let message = format!("HTTP/1.1 200 R{n:02}\r\nContent-Length: {len}\r\n\r\n");
            server.unit(&[message.as_bytes(), &body].concat());
        }
    }
    [client, server]
}

#[test]
fn http1_after_any_hole() {
    http1_holes(Carrier::Plain);
}

#[test]
fn http1_in_tls_after_any_hole() {
    http1_holes(Carrier::Tls);
}

fn http1_holes(carrier: Carrier) {
    let rounds = std::env::var("T2P_ROUNDS").map_or(rounds(carrier), |n| n.parse().unwrap());
    let first = std::env::var("T2P_SEED").map_or(0, |n| n.parse().unwrap());
    for seed in first..first + rounds {
        let mut random = Random(seed);
        let mut capture = with(&format!("gaps-{seed}"), carrier);
        let mut sent = Vec::new();
        for id in 1..=4 {
            let joined = id % 2 == 0;
            let mut sides = http1_sides(&mut random);
            for side in &mut sides {
                if joined {
                    side.begin = 1 + random.next(side.bytes.len() as u64 / 2) as usize;
                }
                let first = side.begin;
                side.punch(&mut random, first, 70, false);
            }
            let connection = Connection {
                from_start: !joined,
                alpn: Some("http/1.1".into()),
                ..connection(id, &format!("10.0.0.1:4100{id}"), "10.0.0.2:443")
            };
            play(&mut capture, &mut random, connection, [&sides[0], &sides[1]], Calls::Ended);
            sent.push(sides);
        }
        capture.close();
        let what = format!("seed {seed}");
        check(&capture, carrier, &what, &sent);
        let fields = ["tcp.stream", "tcp.srcport", "http.request.uri", "http.response.phrase"];
        capture.ask("http", &fields, |judge, lines| {
            for (stream, sides) in sent.iter().enumerate() {
                for (sent, server) in sides.iter().zip([false, true]) {
                    let of = |line: &&Vec<String>| {
                        line[0] == stream.to_string() && (line[1] == "80" || line[1] == "443") == server
                    };
                    let field = |line: &Vec<String>| line[2 + usize::from(server)].clone();
                    let shown: Vec<_> = lines.iter().filter(of).map(field).collect();
                    let shown: Vec<_> = shown.iter().flat_map(|names| names.split(',')).collect();
                    let what = format!("{judge}: {what}: stream {stream} server {server}");
                    for (n, (begin, end)) in sent.units.iter().enumerate() {
                        let name = if server { format!("R{n:02}") } else { format!("/{n:02}") };
                        if sent.captured(*begin, *end) {
                            assert!(
                                shown.contains(&name.as_str()),
                                "{what}: {name} at {begin}..{end} is not shown, holes {:?}, begin {}",
                                sent.holes,
                                sent.begin
                            );
                        }
                    }
                    let times = |name| shown.iter().filter(|other| **other == name).count();
                    // Shorter ones were cut.
                    for name in shown.iter().filter(|name| name.len() >= 3) {
                        let n = name[1..].parse::<usize>().unwrap_or(usize::MAX);
                        assert!(n < 60 && times(*name) == 1, "{what}: {name} is shown");
                    }
                }
            }
        });
    }
}

/// Every frame can be told from the others of its side by its length.
fn websocket_sides(random: &mut Random) -> [Sent; 2] {
    let (mut client, mut server) = (Sent::default(), Sent::default());
    client.unit(b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    server.unit(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    for n in 0..100usize {
        for (side, mask) in [(&mut client, 0x80), (&mut server, 0)] {
            let len = n + [0, 200, 5000, 70_000][random.next(4) as usize];
            let mut frame = match len {
                0..126 => vec![0x82, mask | len as u8],
                126..65_536 => [&[0x82, mask | 126][..], &(len as u16).to_be_bytes()].concat(),
                _ => [&[0x82, mask | 127][..], &(len as u64).to_be_bytes()].concat(),
            };
            if mask > 0 {
                frame.extend_from_slice(b"\x12\x34\x56\x78");
            }
            frame.extend_from_slice(&random.body(len));
            side.unit(&frame);
        }
    }
    [client, server]
}

#[test]
fn websocket_after_any_hole() {
    websocket_holes(Carrier::Plain);
}

#[test]
fn websocket_in_tls_after_any_hole() {
    websocket_holes(Carrier::Tls);
}

fn websocket_holes(carrier: Carrier) {
    let rounds = std::env::var("T2P_ROUNDS").map_or(rounds(carrier), |n| n.parse().unwrap());
    let first = std::env::var("T2P_SEED").map_or(0, |n| n.parse().unwrap());
    for seed in first..first + rounds {
        let mut random = Random(seed);
        let mut capture = with(&format!("frames-{seed}"), carrier);
        let mut sent = Vec::new();
        for id in 1..=3 {
            let mut sides = websocket_sides(&mut random);
            for side in &mut sides {
                let first = side.units[0].1;
                side.punch(&mut random, first, 12, false);
            }
            let connection = connection(id, &format!("10.0.0.1:4100{id}"), "10.0.0.2:443");
            play(&mut capture, &mut random, connection, [&sides[0], &sides[1]], Calls::Ended);
            sent.push(sides);
        }
        capture.close();
        let what = format!("seed {seed}");
        check(&capture, carrier, &what, &sent);
        let fields = [
            "tcp.stream",
            "tcp.srcport",
            "websocket.payload_length",
            "websocket.payload_length_ext_16",
            "websocket.payload_length_ext_64",
        ];
        capture.ask("websocket", &fields, |judge, lines| {
            for (stream, sides) in sent.iter().enumerate() {
                for (sent, server) in sides.iter().zip([false, true]) {
                    let of = |line: &&Vec<String>| {
                        line[0] == stream.to_string() && (line[1] == "80" || line[1] == "443") == server
                    };
                    let lengths = |line: &Vec<String>| line[2..].join(",");
                    let shown: Vec<_> = lines.iter().filter(of).map(lengths).collect();
                    let shown: Vec<usize> =
                        shown.iter().flat_map(|n| n.split(',')).filter_map(|n| n.parse().ok()).collect();
                    let what = format!("{judge}: {what}: stream {stream} server {server}");
                    for (begin, end) in &sent.units[1..] {
                        let extra = if server { 0 } else { 4 };
                        let whole = end - begin;
                        let head = extra + [2, 4, 10][usize::from(whole > 131) + usize::from(whole > 65_549)];
                        if sent.captured(*begin, *end) {
                            assert!(
                                shown.contains(&(whole - head)),
                                "{what}: {begin}..{end} is not shown, holes {:?}",
                                sent.holes
                            );
                        }
                    }
                }
            }
        });
    }
}

#[test]
fn after_holes_of_unknown_and_of_huge_length() {
    let mut capture = Capture::new("unknown-holes", Ports::Decode);
    let skip = |from| SegmentBody::Skip { from, reason: Missing::Unfinished };
    // HTTP/1: the hole is in a body of known length, in one with chunks, between messages.
    let heads: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\nsome of it",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\nsome of it",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    for (id, head) in (1..).zip(heads) {
        capture.open(connection(id, &format!("10.0.0.1:4100{id}"), "10.0.0.2:443"));
        capture.say(id, Client, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.say(id, Server, head);
        capture.step(id, skip(Server));
        capture.say(id, Server, b"the rest of some body without a line end");
        capture.say(id, Client, b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.say(id, Server, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        capture.step(id, skip(Client));
        capture.say(id, Client, b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.cut(id, Server, b"", 5 << 30);
        capture.say(id, Server, b"HTTP/1.1 204 No\r\n\r\n");
        capture.end(id);
    }
    // HTTP/2: in a frame, with the rest of one behind it; and the server speaks while the client's
    // preface is not whole.
    capture.open(connection(4, "10.0.0.1:41004", "10.0.0.2:443"));
    let settings = frame(4, 0, 0, b"");
    capture.say(4, Client, &PREFACE[..10]);
    capture.say(4, Server, &settings);
    capture.say(4, Client, &[&PREFACE[10..], &settings, &request(1, "/1")].concat());
    capture.say(
        4,
        Server,
        &[frame(1, 4, 1, &[0x88]), frame(0, 0, 1, &[b'x'; 9000])[..5000].to_vec()].concat(),
    );
    capture.step(4, skip(Server));
    capture.say(4, Server, &[&b"the rest of some frame"[..], &response(1, b"body")].concat());
    capture.cut(4, Server, &frame(0, 0, 1, &[b'x'; 9000])[..50], 5 << 30);
    capture.step(4, skip(Client));
    capture.say(4, Client, &request(3, "/2"));
    capture.say(4, Server, &[&b"the rest of some frame"[..], &response(3, b"body")].concat());
    // Nothing follows, or not soon.
    capture.cut(4, Client, b"", 40);
    capture.say(4, Client, b"the rest of some frame");
    capture.wait();
    capture.say(4, Client, &request(5, "/3"));
    capture.say(4, Server, &response(5, b"body"));
    capture.cut(4, Server, b"", 40);
    capture.close();
    let requests = ["0 /1", "0 /2", "0 /3", "1 /1", "1 /2", "1 /3", "2 /1", "2 /2", "2 /3"];
    capture.shows("http.request", &["tcp.stream", "http.request.uri"], &requests);
    let responses = ["0 404", "0 204", "1 404", "1 204", "2 200", "2 404", "2 204"];
    capture.shows("http.response", &["tcp.stream", "http.response.code"], &responses);
    capture.shows("http2.headers.path", &["http2.headers.path"], &["/1", "/2", "/3"]);
    capture.shows("http2.headers.status", &["http2.headers.status"], &["200", "200", "200", "200"]);
}
