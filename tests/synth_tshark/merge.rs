//! A file merged with a packet capture of the same connection: neither harms the other.

use super::*;
use crate::link::run;

/// Packets of curl asking nginx for `/fx1` to `/fx3` over TLS, taken by tcpdump, and the secrets.
const ENCRYPTED: &str = "fixtures/captures/http2-with-keys.pcapng";
/// Its connection, when it begins, and how many packets it has.
const TUPLE: [&str; 2] = ["127.0.0.1:38874", "127.0.0.1:18443"];
const BEGIN: u64 = 1_795_442_420_692_000_000;
const PACKETS: usize = 23;

/// What a connection carries, and what each release shows of it: of packets with the first field, the values of the second.
type Kind = (&'static str, Carrier, fn(&mut Capture), [&'static str; 2], &'static [&'static str]);

/// All of them are written on the true server port.
const KINDS: [Kind; 3] = [
    (
        "http1",
        Carrier::Plain,
        |capture| {
            for n in 1..=3 {
                capture.say(1, Client, format!("GET /ours{n} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                capture.say(1, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
            }
        },
        ["http.request.method", "http.request.uri"],
        &["/ours1", "/ours2", "/ours3"],
    ),
    (
        "http2-in-tls",
        Carrier::Tls,
        |capture| {
            capture.say(1, Client, &[PREFACE, &frame(4, 0, 0, b"")].concat());
            capture.say(1, Server, &frame(4, 0, 0, b""));
            for n in 1..=3 {
                capture.say(1, Client, &request(2 * n - 1, &format!("/ours{n}")));
                capture.say(1, Server, &response(2 * n - 1, b"hi"));
            }
        },
        ["http2.headers.path", "http2.headers.path"],
        &["/ours1", "/ours2", "/ours3"],
    ),
    (
        "unknown",
        Carrier::Plain,
        |capture| {
            capture.say(1, Client, b"\x01\x02\x03");
            capture.wait();
            capture.say(1, Server, b"\x04\x05");
        },
        ["data.data", "data.data"],
        &["010203", "0405"],
    ),
];

/// The connection in a file of ours.
fn ours(name: &str, ports: Ports, carrier: Carrier, say: fn(&mut Capture)) -> Capture {
    let mut capture =
        Capture::of(&format!("merge-{name}-{ports:?}"), Synthesizer::new(ports).with_carrier(carrier));
    capture.time = BEGIN;
    capture.open(connection(1, TUPLE[0], TUPLE[1]));
    say(&mut capture);
    capture.step(1, SegmentBody::Finish(Client));
    capture.step(1, SegmentBody::Finish(Server));
    capture.end(1);
    capture.close();
    capture
}

/// Merges it with the packets, by each release's mergecap, and has `check` look at what each judge shows of all packets in
/// each of the files: these fields. Files that differ in nothing but the first block, where mergecap
/// names itself, are one.
fn merged(capture: &mut Capture, fields: &[&str], check: impl Fn(&str, &[Vec<String>])) {
    let packets = Path::new(env!("CARGO_MANIFEST_DIR")).join(ENCRYPTED);
    let own = std::mem::take(&mut capture.path);
    let mut judged: Vec<Vec<u8>> = Vec::new();
    for version in ["-4.0", "-4.4", "-4.6"] {
        capture.path = own.with_extension(format!("merged{version}"));
        let files = [&capture.path, &own, &packets].map(|path| path.to_str().unwrap());
        if run(&format!("mergecap{version}"), &[&["-w"], &files[..]].concat()).is_some() {
            let file = std::fs::read(&capture.path).unwrap();
            let first = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
            if !judged.iter().any(|before| before == &file[first..]) {
                // One run of each judge for all that is asked.
                capture.ask("", fields, |judge, rows| check(judge, &rows));
                judged.push(file[first..].to_vec());
            }
            std::fs::remove_file(&capture.path).unwrap();
        }
    }
    assert!(!judged.is_empty(), "no mergecap is there: run tests/oracles");
    capture.path = own;
}

#[test]
fn a_file_can_be_merged_with_the_encrypted_packets() {
    for (name, carrier, say, [with, field], expected) in KINDS {
        let mut capture = ours(name, Ports::Apart, carrier, say);
        capture.ask("frame.number == 1", &["tcp.srcport", "tcp.dstport", "frame.comment"], |judge, lines| {
            assert_eq!(lines[0][..2], ["8874", "18443"], "{judge}, {name}");
            assert!(lines[0][2].contains(" written_client=127.0.0.1:8874 "), "{judge}: {lines:?}");
            assert!(lines[0][2].contains(" local=127.0.0.1:38874 "), "{judge}: {lines:?}");
        });
        let mut fields = vec![
            "tcp.srcport",
            "tcp.dstport",
            "tcp.analysis.flags",
            "_ws.malformed",
            "_ws.expert.message",
            "http2.headers.path",
        ];
        // tshark shows a field that is asked for twice in one place only.
        let [with, field] = [with, field].map(|field| {
            fields.iter().position(|f| *f == field).unwrap_or_else(|| {
                fields.push(field);
                fields.len() - 1
            })
        });
        merged(&mut capture, &fields, |judge, rows| {
            let of =
                |port: &str| rows.iter().filter(|row| row[..2].iter().any(|p| p == port)).collect::<Vec<_>>();
            let shown = |rows: &[&Vec<String>], with: usize, at: usize| {
                let rows = rows.iter().filter(|row| !row[with].is_empty());
                rows.flat_map(|row| row[at].split(',').map(str::to_owned)).collect::<Vec<_>>()
            };
            let (ours, theirs) = (of("8874"), of("38874"));
            for row in rows {
                assert!(row[2..4].iter().all(String::is_empty), "{judge}, {name}: {row:?}");
            }
            assert_eq!(shown(&ours, with, field), expected, "{judge}, {name}");
            assert_eq!(shown(&theirs, 5, 5), ["/fx1", "/fx2", "/fx3"], "{judge}, {name}");
            assert_eq!(theirs.len(), PACKETS, "{judge}, {name}");
        });
    }
}

#[test]
fn on_the_true_ports_each_ruins_the_other() {
    for (name, carrier, say, ..) in KINDS {
        let mut capture = ours(name, Ports::Decode, carrier, say);
        merged(&mut capture, &["tcp.analysis.flags", "frame.number"], |judge, rows| {
            assert!(rows.iter().any(|row| !row[0].is_empty()), "{judge}, {name}");
        });
    }
}

#[test]
fn ports_that_are_mapped_keep_the_clients() {
    let mut capture = Capture::new("merge-mapped", Ports::Apart);
    let connections = [
        ("10.0.0.1:41000", "10.0.0.2:443", "41000 80"),
        ("10.0.0.1:41001", "10.0.0.2:8443", "11001 8443"),
        ("10.0.0.1:1025", "10.0.0.2:8443", "31025 8443"),
    ];
    for (id, (client, server, _)) in (1..).zip(connections) {
        capture.open(connection(id, client, server));
        capture.say(id, Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.end(id);
    }
    capture.close();
    capture.is_clean();
    let expected = connections.map(|(_, _, ports)| ports);
    capture.shows("http.request", &["tcp.srcport", "tcp.dstport"], &expected);
}
