//! The judge itself: a good file passes, and each thing that the tests rely on finding is found.

use std::fs;
use std::panic::catch_unwind;

use etherparse::PacketBuilder;

use crate::support::Test;
use crate::support::tshark::{Tshark, oracles};

/// A TCP segment: from the client?, sequence number, flags (`S`, `F`, none), payload.
type Segment<'a> = (bool, u32, &'a str, &'a [u8]);

const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const COMMENT: &str =
    "tls2pcap=1 conn=1 pid=7 exe=/a%20b local=127.0.0.1:40000 remote=127.0.0.1:443 tuple=same-call";

/// A clean exchange.
fn good<'a>() -> Vec<Segment<'a>> {
    vec![
        (true, 99, "S", b""),
        (false, 499, "S", b""),
        (true, 100, "", REQUEST),
        (false, 500, "", RESPONSE),
        (true, 100 + REQUEST.len() as u32, "F", b""),
        (false, 500 + RESPONSE.len() as u32, "F", b""),
    ]
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() + 12) as u32;
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), &body, &length.to_le_bytes()].concat()
}

/// A file of these segments, the first with [`COMMENT`].
fn write(test: &Test, segments: &[Segment]) -> std::path::PathBuf {
    let mut file = block(0x0A0D_0D0A, b"\x4d\x3c\x2b\x1a\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    file.extend(block(1, b"\x65\0\0\0\0\0\0\0"));
    let mut next = [100, 500];
    for (index, (client, seq, flags, payload)) in segments.iter().enumerate() {
        let (from, to) = if *client { (40000, 80) } else { (80, 40000) };
        let mut builder = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64).tcp(from, to, *seq, 65535);
        if index > 0 {
            builder = builder.ack(next[usize::from(*client)]);
        }
        builder = match *flags {
            "S" => builder.syn(),
            "F" => builder.fin(),
            _ => builder.psh(),
        };
        let end = seq + payload.len() as u32 + u32::from(!flags.is_empty());
        next[usize::from(!*client)] = end;
        let mut packet = Vec::new();
        builder.write(&mut packet, payload).unwrap();
        let length = (packet.len() as u32).to_le_bytes();
        let mut body = [&[0; 12][..], &length, &length, &packet].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        if index == 0 {
            body.extend([1, 0, COMMENT.len() as u8, 0]);
            body.extend(COMMENT.as_bytes());
        }
        file.extend(block(6, &body));
    }
    let path = test.path("judge.pcapng");
    fs::write(&path, file).unwrap();
    path
}

/// Whether a tshark has no objection.
fn passes(tshark: &Tshark, test: &Test, segments: &[Segment]) -> bool {
    let file = write(test, segments);
    catch_unwind(|| tshark.read(&file).assert_clean(&tshark.version)).is_ok()
}

#[test]
fn good_file_passes_and_is_read_whole() {
    let test = Test::unprivileged("judge");
    let file = write(&test, &good());
    for tshark in oracles() {
        let view = tshark.read(&file);
        view.assert_clean(&tshark.version);
        let connection = view.only();
        assert_eq!(connection.sent_by_client, REQUEST);
        assert_eq!(connection.sent_by_server, RESPONSE);
        assert_eq!(connection.requests, [("GET".to_string(), "/x".to_string())]);
        assert_eq!(connection.responses, [200]);
        assert!(connection.finished && !connection.reset);
        assert_eq!(connection.comment.get("exe"), "/a b");
        assert_eq!(connection.comment.remote().port(), 443);
        assert_eq!(tshark.follow(&file, 0), (REQUEST.to_vec(), RESPONSE.to_vec()));
        assert_eq!(tshark.objects(&file, &test.path("objects")), [b"hello"]);
    }
}

#[test]
fn bad_files_do_not_pass() {
    let test = Test::unprivileged("judge");
    for tshark in oracles() {
        assert!(passes(tshark, &test, &good()));
        let mut gap = good();
        gap[3].1 += 1;
        assert!(!passes(tshark, &test, &gap), "tshark {} lets a gap pass", tshark.version);
        let mut twice = good();
        twice.insert(3, twice[2]);
        assert!(!passes(tshark, &test, &twice), "tshark {} lets a repetition pass", tshark.version);
        let mut no_syn = good();
        no_syn.remove(0);
        assert!(!passes(tshark, &test, &no_syn), "tshark {} needs no SYN", tshark.version);
    }
}
