//! Conversations as they are told, in short: what came of which bytes.

use super::*;
use crate::proto::huffman;
use Side::{Client, Server};

const LIMITS: Limits = Limits { preview: 1024, hashes: true };

/// One line for each thing that is told.
fn short(told: &Told) -> Option<String> {
    let arrow = if told.from == Client { ">" } else { "<" };
    let text = |bytes: &Option<Vec<u8>>| {
        bytes.as_deref().map_or("?".into(), |b| String::from_utf8_lossy(b).into_owned())
    };
    let content = |content: &Content| {
        let plain = match &content.unpacked {
            Unpacked::Same => String::new(),
            other => format!(" {other:?}"),
        };
        let missing = if content.missing > 0 { format!(" -{}", content.missing) } else { String::new() };
        format!("{}{missing}{plain} {:?}", content.length, String::from_utf8_lossy(&content.preview))
    };
    Some(match &told.what {
        What::Head(head) if head.is_missing => format!("{arrow} head {} missing", head.exchange),
        What::Head(head) => {
            let fields: Vec<String> =
                head.fields.iter().map(|f| format!("{}={}", text(&f.name), text(&f.value))).collect();
            let first = match head.status {
                Some(status) => status.to_string(),
                None => format!("{} {}", text(&head.method), text(&head.target)),
            };
            format!("{arrow} head {} {first} {}", head.exchange, fields.join(" "))
        }
        What::Part(_, part) => {
            format!("{arrow} part {} {:?} {}", part.number, part.kind, content(&part.content))
        }
        What::End(end) => {
            let cut = end.cut.as_ref().map_or(String::new(), |cut| format!(" cut: {cut}"));
            format!("{arrow} end {} {}{cut}", end.head.exchange, content(&end.content))
        }
        What::Exchange(exchange) => format!(
            "exchange {} {}>{} {}/{} {}",
            exchange.number,
            exchange.request.as_ref().map_or("?".into(), |head| text(&head.target)),
            exchange.response.as_ref().and_then(|head| head.status).unwrap_or(0),
            exchange.sent,
            exchange.received,
            exchange.failure.as_deref().unwrap_or("ok"),
        ),
        What::Message(message) => {
            format!("{arrow} ws {} {:?} {}", message.opcode, message.code, content(&message.content))
        }
        What::Data(data) => format!("{arrow} data {}", content(data)),
        What::Skipped(n) => format!("{arrow} skipped {n}"),
        What::Note(text) => format!("{arrow} note {text}"),
    })
}

#[derive(Clone, Debug)]
enum Do {
    Say(Side, Vec<u8>),
    Hole(Side, Option<u64>),
    Fill(Side, Vec<u8>),
    End(Option<&'static str>),
}

fn say(side: Side, bytes: impl AsRef<[u8]>) -> Do {
    Do::Say(side, bytes.as_ref().to_vec())
}

fn told(from_start: bool, steps: &[Do]) -> Vec<String> {
    let mut conversation = Conversation::new(from_start, LIMITS);
    let mut out = Vec::new();
    let mut on = |told: Told| out.extend(short(&told));
    for (time, step) in steps.iter().enumerate() {
        let time = time as u64 * 1000;
        match step {
            Do::Say(side, bytes) => conversation.push((time, *side), bytes, Origin::Program, &mut on),
            Do::Fill(side, bytes) => conversation.push((time, *side), bytes, Origin::Filler, &mut on),
            Do::Hole(side, len) => conversation.hole((time, *side), *len, &mut on),
            Do::End(why) => {
                conversation.end((time, Client), *why, &mut on);
                conversation.end((time, Server), *why, &mut on);
                conversation.close(time, why.unwrap_or("connection closed"), &mut on);
            }
        }
    }
    out
}

/// The same, each byte alone, must say the same.
fn told_in_any_pieces(steps: &[Do], expected: &[&str]) {
    assert_eq!(told(true, steps), expected);
    let bytewise: Vec<Do> = steps
        .iter()
        .flat_map(|step| match step {
            Do::Say(side, bytes) => bytes.iter().map(|b| say(*side, [*b])).collect(),
            other => vec![other.clone()],
        })
        .collect();
    assert_eq!(told(true, &bytewise), expected);
}

#[test]
fn http1_with_all_kinds_of_bodies() {
    let steps = [
        say(Client, "POST /a?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
        say(
            Server,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
        ),
        say(
            Client,
            "HEAD /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\nX-Long: a\r\n b\r\n\r\n",
        ),
        say(Server, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHTTP/1.0 404 Not Found\r\n\r\nto the end"),
        Do::End(None),
    ];
    told_in_any_pieces(
        &steps,
        &[
            "> head 1 POST /a?x=1 Host=a Content-Length=5",
            "> end 1 5 \"hello\"",
            "< head 1 100 ",
            "< end 1 0 \"\"",
            "< head 1 200 Transfer-Encoding=chunked",
            "< end 1 5 \"abcde\"",
            "exchange 1 /a?x=1>200 5/5 ok",
            "> head 2 HEAD /b Host=a",
            "> end 2 0 \"\"",
            "> head 3 GET /c Host=a X-Long=a b",
            "> end 3 0 \"\"",
            "< head 2 200 Content-Length=100",
            "< end 2 0 \"\"",
            "exchange 2 /b>200 0/0 ok",
            "< head 3 404 ",
            "< end 3 10 \"to the end\"",
            "exchange 3 /c>404 0/10 status 404",
        ],
    );
}

#[test]
fn holes_in_http1_are_said_and_nothing_is_paired_by_guess() {
    // In a body of known length it goes on.
    let within = [
        say(Client, "GET /a HTTP/1.1\r\n\r\n"),
        say(Server, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        Do::Hole(Server, Some(4)),
        say(Server, "hij"),
        say(Client, "GET /b HTTP/1.1\r\n\r\n"),
        say(Server, "HTTP/1.1 204 No Content\r\n\r\n"),
    ];
    assert_eq!(
        told(true, &within)[2..],
        [
            "< head 1 200 Content-Length=10",
            "< end 1 6 -4 \"abchij\"",
            "exchange 1 /a>200 0/6 ok",
            "> head 2 GET /b ",
            "> end 2 0 \"\"",
            "< head 2 204 ",
            "< end 2 0 \"\"",
            "exchange 2 /b>204 0/0 ok",
        ]
    );
    // The answer to /a is missing: that to /b is not taken for it.
    let beyond = [
        say(Client, "GET /a HTTP/1.1\r\n\r\n"),
        Do::Hole(Server, Some(50)),
        say(Server, "the rest of a body"),
        say(Client, "GET /b HTTP/1.1\r\n\r\n"),
        say(Server, "HTTP/1.1 204 No Content\r\n\r\n"),
        Do::End(None),
    ];
    let lines = told(true, &beyond);
    assert!(lines.contains(&"exchange 1 /a>0 0/0 the response is missing".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"exchange 2 /b>204 0/0 ok".to_owned()), "{lines:#?}");
    // A head in the place of a missing one is none of a program's.
    let filled = [
        say(Client, "GET /a HTTP/1.1\r\n\r\n"),
        say(Server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        Do::Hole(Server, Some(500)),
        Do::Fill(Server, b"HTTP/1.1 200 made-up\r\nContent-Length: 0000000007\r\n\r\n".to_vec()),
        say(Server, "the end"),
        say(Client, "GET /b HTTP/1.1\r\n\r\n"),
        say(Server, "HTTP/1.1 204 No Content\r\n\r\n"),
    ];
    assert_eq!(
        told(true, &filled)[3..],
        [
            "< end 1 3 \"abc\" cut: bytes are missing",
            "exchange 1 /a>200 0/3 bytes are missing within the response",
            "< head 0 missing",
            "< end 0 7 \"the end\"",
            "> head 2 GET /b ",
            "> end 2 0 \"\"",
            "< head 2 204 ",
            "< end 2 0 \"\"",
            "exchange 2 /b>204 0/0 ok",
        ]
    );
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal that is added to the table, in Huffman code if `packed`.
fn added(name: &str, value: &str, packed: bool) -> Vec<u8> {
    let string = |text: &str| {
        let mut code = text.as_bytes().to_vec();
        if packed {
            code.clear();
            huffman::encode(text.as_bytes(), &mut code);
        }
        [vec![code.len() as u8 | if packed { 0x80 } else { 0 }], code].concat()
    };
    [vec![0x40], string(name), string(value)].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// GET and a path, both added.
fn get(path: &str) -> Vec<u8> {
    [vec![0x82], added(":path", path, true)].concat()
}

#[test]
fn http2_and_grpc() {
    let message = |text: &str| [&[0, 0, 0, 0, text.len() as u8], text.as_bytes()].concat();
    let grpc = added("content-type", "application/grpc", false);
    let padded = [vec![3], b"ab".to_vec(), vec![0; 3]].concat();
    let steps = [
        say(Client, PREFACE),
        say(Client, frame(4, 0, 0, &[])),
        say(Server, frame(4, 0, 0, &[0, 1, 0, 0, 16, 0])),
        // In two frames.
        say(Client, frame(1, 0, 1, &get("/s/M")[..4])),
        say(Client, frame(9, 4, 1, &[&get("/s/M")[4..], &grpc].concat())),
        say(Client, frame(0, 0, 1, &message("one")[..4])),
        say(Client, frame(0, 1, 1, &[&message("one")[4..], &message("two")].concat())),
        say(Server, frame(1, 4, 1, &[vec![0x88], grpc.clone()].concat())),
        say(Server, frame(0, 8, 1, &[vec![3], message("three"), vec![0; 3]].concat())),
        say(Server, frame(1, 5, 1, &added("grpc-status", "5", true))),
        // The table says the path.
        say(Client, frame(1, 5, 3, &[0x82, 0xbf])),
        say(Server, frame(1, 4, 3, &[0x88])),
        say(Server, frame(0, 9, 3, &padded)),
        say(Client, frame(1, 5, 5, &get("/reset"))),
        say(Server, frame(3, 0, 5, &[0, 0, 0, 8])),
        say(Server, frame(0, 0, 5, b"late")),
        say(Server, frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 2])),
        Do::End(None),
    ];
    told_in_any_pieces(
        &steps,
        &[
            "> head 1 GET /s/M :method=GET :path=/s/M content-type=application/grpc",
            "> part 1 Grpc 3 \"one\"",
            "> part 2 Grpc 3 \"two\"",
            "> end 1 16 \"\\0\\0\\0\\0\\u{3}one\\0\\0\\0\\0\\u{3}two\"",
            "< head 1 200 :status=200 content-type=application/grpc",
            "< part 1 Grpc 5 \"three\"",
            "< end 1 10 \"\\0\\0\\0\\0\\u{5}three\"",
            "exchange 1 /s/M>200 16/10 grpc-status 5 (NOT_FOUND)",
            "> head 2 GET /s/M :method=GET :path=/s/M",
            "> end 2 0 \"\"",
            "< head 2 200 :status=200",
            "< end 2 2 \"ab\"",
            "exchange 2 /s/M>200 0/2 ok",
            "> head 3 GET /reset :method=GET :path=/reset",
            "> end 3 0 \"\"",
            "exchange 3 /reset>0 0/0 stream reset (CANCEL) before the response",
            "< note GOAWAY INTERNAL_ERROR, last stream 5",
        ],
    );
}

#[test]
fn what_the_table_had_before_a_hole_is_unknown() {
    let steps = [
        say(Client, PREFACE),
        say(Client, frame(1, 5, 1, &get("/a"))),
        // A block that adds to the table may be in it.
        Do::Hole(Client, Some(60)),
        Do::Fill(Client, frame(0xfe, 0, 0, &[])),
        say(Client, frame(1, 5, 3, &[0x82, 0xbe])),
        say(Client, frame(1, 5, 5, &get("/c"))),
        say(Client, frame(1, 5, 7, &[0x82, 0xbe])),
    ];
    let lines = told(true, &steps);
    let heads: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.contains("head")).collect();
    assert_eq!(
        heads,
        [
            "> head 1 GET /a :method=GET :path=/a",
            "> head 2 GET ? :method=GET ?=?",
            "> head 3 GET /c :method=GET :path=/c",
            "> head 4 GET /c :method=GET :path=/c",
        ]
    );
    // A frame of a body may be in it, so that body is not complete.
    let steps = [
        say(Client, PREFACE),
        say(Client, frame(1, 4, 1, &get("/a"))),
        say(Client, frame(0, 0, 1, b"one")),
        Do::Hole(Client, Some(12)),
        Do::Fill(Client, frame(0xfe, 0, 0, &[])),
        say(Client, frame(0, 1, 1, b"three")),
    ];
    let mut conversation = Conversation::new(true, LIMITS);
    let mut is_complete = None;
    for step in &steps {
        let mut on = |told: Told| {
            if let What::End(end) = told.what {
                is_complete = Some(end.content.is_complete);
            }
        };
        match step {
            Do::Say(side, bytes) => conversation.push((0, *side), bytes, Origin::Program, &mut on),
            Do::Fill(side, bytes) => conversation.push((0, *side), bytes, Origin::Filler, &mut on),
            Do::Hole(side, len) => conversation.hole((0, *side), *len, &mut on),
            Do::End(_) => {}
        }
    }
    assert_eq!(is_complete, Some(false));
    // A hole within DATA moves nothing.
    let steps = [
        say(Client, PREFACE),
        say(Client, frame(1, 4, 1, &get("/a"))),
        say(Client, &frame(0, 1, 1, &[b'x'; 100])[..29]),
        Do::Hole(Client, Some(50)),
        say(Client, [b'y'; 30]),
        say(Client, frame(1, 5, 3, &[0x82, 0xbe])),
    ];
    let lines = told(true, &steps);
    assert_eq!(lines[1][..17], *"> end 1 50 -50 \"x");
    assert_eq!(lines[2], "> head 2 GET /a :method=GET :path=/a");
}

#[test]
fn bodies_are_unpacked_and_broken_ones_are_not_believed() {
    use std::io::Write;
    let plain = b"data: one\n\nevent: e\nid: 7\ndata: two\ndata: lines\n\n: comment\n\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(plain).unwrap();
    let packed = gzip.finish().unwrap();
    let answer = |bytes: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        [head.as_bytes(), bytes].concat()
    };
    let steps = [say(Client, "GET / HTTP/1.1\r\n\r\n"), say(Server, answer(&packed))];
    let lines = told(true, &steps);
    assert_eq!(lines[3], "< part 1 Event { name: \"message\", id: None } 3 \"one\"");
    assert_eq!(lines[4], "< part 2 Event { name: \"e\", id: Some(\"7\") } 9 \"two\\nlines\"");
    assert!(lines[5].contains(&format!("{} Whole({})", packed.len(), plain.len())), "{}", lines[5]);
    for cut in 0..packed.len() {
        let steps = [say(Client, "GET / HTTP/1.1\r\n\r\n"), say(Server, answer(&packed[..cut]))];
        let line = told(true, &steps).into_iter().find(|line| line.starts_with("< end")).unwrap();
        assert!(cut == 0 || !line.contains("Whole"), "{cut}: {line}");
    }
    let mut broken = packed.clone();
    broken[12] ^= 0x55;
    let line = told(true, &[say(Client, "GET / HTTP/1.1\r\n\r\n"), say(Server, answer(&broken))]);
    assert!(!line.iter().any(|line| line.contains("Whole")), "{line:?}");
}

#[test]
fn websocket_messages() {
    let mask = |kind: u8, text: &[u8]| {
        let key = [1, 2, 3, 4];
        let masked: Vec<u8> = text.iter().enumerate().map(|(i, b)| b ^ key[i % 4]).collect();
        [&[kind, 0x80 | text.len() as u8], &key[..], &masked].concat()
    };
    let upgrade = "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let steps = [
        say(Client, upgrade),
        say(Server, accept),
        say(Client, mask(0x81, b"hello")),
        say(Server, [&[0x01, 3][..], b"one", &[0x89, 1], b"p", &[0x80, 3], b"two"].concat()),
        say(Client, mask(0x88, b"\x03\xe8bye")),
    ];
    told_in_any_pieces(
        &steps,
        &[
            "> head 1 GET /ws Upgrade=websocket",
            "> end 1 0 \"\"",
            "< head 1 101 Upgrade=websocket",
            "< end 1 0 \"\"",
            "exchange 1 /ws>101 0/0 ok",
            "> ws 1 None 5 \"hello\"",
            "< ws 9 None 1 \"p\"",
            "< ws 1 None 6 \"onetwo\"",
            "> ws 8 Some(1000) 5 \"bye\"",
        ],
    );
    // RFC 7692, section 7.2.3.2: the second refers to the first.
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let first = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let second = [0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00];
    let steps = [say(Client, upgrade), say(Server, accept), say(Server, [&first[..], &second].concat())];
    let lines = told(true, &steps);
    assert_eq!(lines[5..], ["< ws 1 None 7 Whole(5) \"Hello\"", "< ws 1 None 5 Whole(5) \"Hello\""]);
    let steps = [
        say(Client, upgrade),
        say(Server, accept),
        say(Server, &first[..5]),
        Do::Hole(Server, Some(4)),
        say(Server, second),
    ];
    let lines = told(true, &steps);
    assert!(lines[5].contains("-4 Not(\"bytes are missing\")"), "{}", lines[5]);
    assert!(lines[6].contains("Not(\"an earlier message is missing\")"), "{}", lines[6]);
}

#[test]
fn noise_neither_hangs_nor_takes_memory() {
    let mut seed = 7u64;
    let mut random = move |most: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % most
    };
    let seeds: [Vec<u8>; 5] = [
        b"POST / HTTP/1.1\r\nContent-Encoding: br\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 9\r\n\r\n(\xb5/\xfd$#abc".to_vec(),
        [PREFACE, &frame(1, 4, 1, &get("/a")), &frame(0, 1, 1, b"abc")].concat(),
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00".to_vec(),
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".to_vec(),
    ];
    for _ in 0..3000 {
        let mut steps = Vec::new();
        for _ in 0..1 + random(12) {
            let side = if random(2) == 0 { Client } else { Server };
            let mut bytes = seeds[random(seeds.len())].clone();
            for _ in 0..random(4) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            let cut = random(bytes.len() + 1);
            steps.push(match random(6) {
                0 => Do::Hole(side, if random(2) == 0 { None } else { Some(random(1000) as u64) }),
                1 => Do::Fill(side, bytes[..cut].to_vec()),
                2 => say(side, &bytes[..cut]),
                _ => say(side, bytes),
            });
        }
        steps.push(Do::End(if random(2) == 0 { None } else { Some("connection reset") }));
        let mut conversation = Conversation::new(random(2) == 0, LIMITS);
        let mut on = |told: Told| drop(short(&told));
        for step in &steps {
            if let Do::Say(side, bytes) = step {
                conversation.push((0, *side), bytes, Origin::Program, &mut on);
            }
            assert!(conversation.held() < 1 << 20);
        }
        told(random(2) == 0, &steps);
    }
}

#[test]
fn what_precedes_a_file_that_goes_on_is_understood_and_not_told() {
    let mut conversation = Conversation::new(false, LIMITS);
    let mut lines = Vec::new();
    for (origin, bytes) in [
        (Origin::Setup, PREFACE.to_vec()),
        (Origin::Setup, frame(4, 0, 0, &[])),
        // What rebuilds the table is on stream 0.
        (Origin::Setup, frame(1, 5, 0, &get("/before"))),
        (Origin::Program, frame(1, 5, 9, &[0x82, 0xbe])),
    ] {
        conversation.push((0, Client), &bytes, origin, &mut |told| lines.extend(short(&told)));
    }
    assert_eq!(lines, ["> head 1 GET /before :method=GET :path=/before", "> end 1 0 \"\""]);
}
