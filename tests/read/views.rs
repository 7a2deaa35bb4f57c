//! The views themselves: what they show of a small file, of damaged ones, and to whom.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use tls2pcap::track::segment::Side::{Client, Server};

use super::files::{self, End, Link, Talk};
use super::make::{Capture, Random};
use super::{json, of, read, text};

/// Two connections: one answers, one fails; bytes are missing in the second.
fn small() -> Capture {
    let mut capture = Capture::new();
    capture.open(1);
    capture.say(1, Client, b"POST /form?a=1 HTTP/1.1\r\nHost: a.example\r\nX-Evil: \x1b]0;owned\x07\xe2\x80\xae\r\nContent-Length: 5\r\n\r\nhello");
    capture.say(1, Server, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"a\": \"\x1b[2J\"}");
    capture.end(1);
    capture.open(2);
    capture.say(2, Client, b"GET /missing HTTP/1.1\r\nHost: b.example\r\n\r\n");
    capture.say(2, Server, b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nbegin");
    capture.cut(2, Server, b"", 90);
    capture.say(2, Server, b"end!!");
    capture.end(2);
    capture.close();
    capture
}

#[test]
fn text_reads_like_a_conversation() {
    let capture = small();
    let shown = text(&capture.path(), &[]);
    for expected in [
        " #0 10.0.0.1:20001 → 10.0.0.2:443  client python3[1001]  sni=host1.example  proto=http/1\n",
        " #0/1 python3[1001] → host1.example:443\n    POST /form?a=1 HTTP/1.1\n    Host: a.example\n",
        "    X-Evil: \\u{1b}]0;owned\\u{7}\\u{202e}\n",
        "    5 bytes\n    hello\n",
        " #0/1 python3[1001] ← host1.example:443\n    HTTP/1.1 200 OK\n",
        "    13 bytes application/json\n    {\"a\": \"\\u{1b}[2J\"}\n    answered after 1.00 ms\n",
        " #1 curl[1002] ← host2.example:443  90 bytes missing (ring-full)\n",
        "    10 bytes, 90 bytes missing\n    beginend!!\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "nothing commands a terminal");
    let brief = text(&capture.path(), &["--body", "0"]);
    assert!(brief.contains("    5 bytes\n\n") && !brief.contains("hello"), "{brief}");
}

#[test]
fn json_has_the_same_and_an_expression_chooses() {
    let capture = small();
    let records = json(&capture.path(), &[]);
    assert!(records.iter().all(|record| record["v"] == 1 && record["time"].as_str().unwrap().ends_with('Z')));
    let kinds: Vec<&str> = records.iter().map(|record| record["type"].as_str().unwrap()).collect();
    let first = ["process", "connection", "message", "message", "exchange", "close"];
    let second = ["process", "connection", "message", "loss", "message", "exchange", "close"];
    assert_eq!(kinds, [&first[..], &second].concat());
    assert_eq!(records[0]["pid"], 1001);
    assert_eq!(records[4]["waited_ns"], 1_000_000);
    assert_eq!((&records[4]["sent"], &records[4]["received"]), (&5.into(), &13.into()));
    assert_eq!((&records[9]["length"], &records[9]["reason"]), (&90.into(), &"ring-full".into()));
    assert_eq!(records[11]["failure"], "status 404");
    let raw = text(&capture.path(), &["-f", "json"]);
    assert!(!raw.contains('\u{1b}') && !raw.contains('\u{202e}') && raw.contains("\\u202e"), "{raw}");
    for (words, connections) in [
        (&["comm", "curl"][..], 1),
        (&["port", "443", "and", "pid", "1001"], 1),
        (&["host", "10.0.0.1"], 2),
        (&["sni", "host2.example", "or", "proto", "smtp"], 1),
        (&["port", "80"], 0),
        (&["container", "nobody"], 0),
        (&["alpn", "h2"], 2),
        (&["--unknown", "leave", "alpn", "h2"], 0),
    ] {
        assert_eq!(of(&json(&capture.path(), words), "connection").count(), connections, "{words:?}");
    }
    let wrong = read(&capture.path(), &["port", "frob", "and"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(wrong.stdout.is_empty());
}

#[test]
fn hex_shows_every_byte_and_a_summary_the_whole() {
    let capture = small();
    let shown = text(&capture.path(), &["-f", "hex"]);
    let rows = [
        " #1 curl[1002] → host2.example:443  42 bytes\n",
        "00000000  47 45 54 20 2f 6d 69 73  73 69 6e 67 20 48 54 54  |GET /missing HTT|\n",
        "  90 bytes missing (ring-full)\n",
        "0000008e  65 6e 64 21 21                                    |end!!|\n00000093\n",
    ];
    rows.iter().for_each(|row| assert!(shown.contains(row), "{row:?} is not in\n{shown}"));
    let summary = text(&capture.path(), &["--summary"]);
    for line in [
        "2 connections, 2 exchanges, 1 failed;",
        "protocols: http/1 2\n",
        "  curl[1002]  1 connection, 1 exchange, 1 failed;",
        "  #1/1 GET /missing  b.example  ",
        "  90 bytes in 1 hole: ring-full\n",
    ] {
        assert!(summary.contains(line), "{line:?} is not in\n{summary}");
    }
    let records = json(&capture.path(), &["--summary"]);
    assert_eq!(records.len(), 1);
    assert_eq!(
        (&records[0]["total"]["exchanges"], &records[0]["losses"]["ring-full"]["bytes"]),
        (&2.into(), &90.into())
    );
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let mut capture = Capture::new();
    for id in 1..=40 {
        capture.open(id);
        for _ in 0..20 {
            capture.say(id, Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            capture.say(
                id,
                Server,
                &[b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n", &[b'x'; 3000][..]].concat(),
            );
        }
        capture.end(id);
    }
    capture.close();
    for format in ["text", "json", "hex"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
        command.arg("read").arg(capture.path()).args(["-f", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{format}");
    }
}

#[test]
fn files_of_others_and_standard_input() {
    for (link, six, big) in
        [(Link::Ethernet, false, false), (Link::Cooked2, true, true), (Link::Raw, false, true)]
    {
        let mut capture = files::Capture::new(link);
        capture.six = six;
        let mut talk = Talk::open(&mut capture, 2000);
        talk.say(End::Client, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 7);
        // Sent twice, and not in order.
        talk.send(End::Server, 19, b"Content-Length: 2\r\n\r\nhi", "");
        talk.send(End::Server, 0, b"HTTP/1.1 200 OK\r\n\x20\x20", "");
        talk.send(End::Server, 0, b"HTTP/1.1 200 OK\r\n\x20\x20", "");
        talk.close();
        for bytes in [capture.pcap(), capture.pcapng(big)] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
            command.args(["read", "-f", "json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(&bytes).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            let shown = String::from_utf8(output.stdout).unwrap();
            assert!(shown.contains("\"target\":\"/a\"") && shown.contains("\"from\":\"client\""), "{shown}");
        }
    }
}

#[test]
fn damaged_files_end_with_a_word_and_what_came_before() {
    let capture = small();
    let whole = std::fs::read(capture.path()).unwrap();
    let path = capture.place().join("damaged.pcapng");
    let mut random = Random(3);
    for round in 0..250 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(random.below(bytes.len())),
            _ => {
                for _ in 0..1 + random.below(12) {
                    let at = random.below(bytes.len());
                    bytes[at] = random.below(256) as u8;
                }
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let args: &[&str] = match round % 5 {
            0 => &["-f", "hex"],
            1 => &["-f", "json"],
            2 => &["--summary"],
            _ => &[],
        };
        let output = read(&path, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{round}: {:?} {said}", output.status);
        assert_eq!(output.status.code() == Some(1), said.contains("tls2pcap: "), "{round}: {said}");
        assert!(!output.stdout.contains(&0x1b), "{round}");
    }
    // What was there before the end is shown.
    std::fs::write(&path, &whole[..whole.len() - 100]).unwrap();
    let output = read(&path, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("POST /form"));
    let nothing = read(&capture.place().join("nothing"), &[]);
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(1), 0));
}

#[test]
fn packets_with_noise_in_them_neither_crash_nor_hang() {
    let mut random = Random(5);
    let mut capture = files::Capture::new(Link::Ethernet);
    for port in 0..8 {
        let mut talk = Talk::open(&mut capture, 2000 + port);
        talk.say(
            End::Client,
            b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            30,
        );
        talk.say(
            End::Server,
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
            30,
        );
        talk.close();
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("in.pcap");
    for round in 0..150 {
        let mut packets = capture.packets.clone();
        for _ in 0..1 + random.below(20) {
            let packet = random.below(packets.len());
            let at = random.below(packets[packet].bytes.len());
            packets[packet].bytes[at] = random.below(256) as u8;
        }
        let noisy = files::Capture { packets, ..files::Capture::new(capture.link) };
        std::fs::write(&path, noisy.pcap()).unwrap();
        let output = read(&path, if round % 2 == 0 { &["-f", "json"] } else { &[] });
        assert!(output.status.success(), "{round}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
