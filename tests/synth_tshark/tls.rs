//! Plaintext inside made-up TLS.

use super::*;

/// Notes and worse of any layer; the reader's own limits are none.
const EXPERT: &str =
    "_ws.expert.severity >= 4194304 && !tcp.flags.fin == 1 || _ws.malformed || tcp.analysis.flags";

fn is_without_notes(capture: &Capture) {
    capture.shows(EXPERT, &["frame.number", "_ws.expert.message"], &[]);
}

fn joined(id: u64, port: u16) -> Connection {
    Connection { from_start: false, ..connection(id, "10.0.0.1:41000", &format!("10.0.1.{id}:{port}")) }
}

#[test]
fn a_connection_stands_on_its_true_ports_with_its_names() {
    let mut capture = Capture::in_tls("tls-names");
    for (id, port, name, alpn) in [
        (1, 443, Some("one.example"), Some("http/1.1")),
        (2, 8443, Some("two.example"), None),
        (3, 50_051, None, Some("h2")),
    ] {
        capture.open(Connection {
            server_name: name.map(str::to_owned),
            alpn: alpn.map(str::to_owned),
            ..connection(id, "10.0.0.1:41000", &format!("10.0.1.{id}:{port}"))
        });
    }
    for id in [1, 2] {
        capture.say(id, Client, format!("GET /{id} HTTP/1.1\r\nHost: name\r\n\r\n").as_bytes());
        capture.say(id, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        capture.say(id, Server, &[b'x'; 64_512]);
        capture.say(id, Server, &[b'x'; 100_000 - 64_512]);
    }
    capture.say(3, Client, &[PREFACE, &frame(4, 0, 0, b""), &request(1, "/3")].concat());
    capture.say(3, Server, &[frame(4, 0, 0, b""), response(1, b"body")].concat());
    for id in 1..=3 {
        capture.step(id, SegmentBody::Finish(Client));
        capture.end(id);
    }
    capture.close();
    is_without_notes(&capture);
    capture.is_clean();
    capture.shows(
        "http.request",
        &["tcp.dstport", "http.request.full_uri"],
        &["443 https://name/1", "8443 https://name/2"],
    );
    capture.shows("http.response", &["http.content_length"], &["100000"; 2]);
    capture.shows("http2.headers.path", &["tcp.dstport", "http2.headers.path"], &["50051 /3"]);
    capture.shows("http2.headers.status", &["http2.headers.status"], &["200"]);
    capture.shows(
        "tls.handshake.type == 1",
        &["tls.handshake.extensions_server_name", "tls.handshake.extensions_alpn_str"],
        &["one.example\thttp/1.1".replace('\t', " ").as_str(), "two.example http/1.1", "h2"],
    );
    capture.shows("frame.comment contains \"framing=tls\"", &["tcp.stream"], &["0", "1", "2"]);
    capture.shows("frame.comment contains \"written_alpn=http/1.1\"", &["tcp.stream"], &["1"]);
    let handshake = "frame.comment contains \"synthetic=tls-handshake\" && tcp.stream == 0";
    capture.shows(handshake, &["tls.record.content_type"], &["22", "22", "20", "20"]);
}

#[test]
fn where_tls_is_not_decoded_it_is_plain() {
    let mut capture = Capture::in_tls("tls-plain");
    for (id, port) in [(1, 9200), (2, 5432), (3, 8080), (4, 6380)] {
        capture.open(connection(id, "10.0.0.1:41000", &format!("10.0.1.{id}:{port}")));
    }
    for id in [1, 3] {
        capture.say(id, Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    capture.say(2, Client, b"\0\0\0\x11\0\x03\0\0user\0me\0\0");
    capture.say(4, Client, b"*1\r\n$4\r\nPING\r\n");
    capture.close();
    is_without_notes(&capture);
    capture.shows("http.request", &["tcp.dstport"], &["9200", "8080"]);
    capture.shows("tls && http", &["tcp.dstport"], &["9200"]);
    capture.shows("pgsql && !tls", &["tcp.dstport"], &["5432"]);
    capture.shows("resp && !tls", &["tcp.dstport"], &["6379"]);
    let reason = "frame.comment contains \"framing=plain framing_reason=";
    capture.shows(&format!("{reason}port\""), &["tcp.dstport"], &["8080", "5432"]);
    capture.shows(&format!("{reason}protocol\""), &["tcp.dstport"], &["6379"]);
}

#[test]
fn http1_goes_on_behind_holes() {
    let mut capture = Capture::in_tls("tls-http1-holes");
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
    for id in 1..=6 {
        capture.open(connection(id, "10.0.0.1:41000", &format!("10.0.1.{id}:443")));
        capture.say(id, Client, b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        match id {
            // The end of a call with head and body.
            1 => capture.cut(id, Server, &[&head[..], &[b'x'; 500]].concat(), head.len() as u64 + 100_000),
            // All of a body.
            2 => {
                capture.say(id, Server, head);
                capture.cut(id, Server, b"", 100_000);
            }
            // Nobody knows how much.
            3 => {
                capture.say(id, Server, &[&head[..], &[b'x'; 99_000]].concat());
                capture.step(id, SegmentBody::Skip { from: Server, reason: Missing::Unfinished });
            }
            // More than the rest of the body.
            4 => {
                capture.say(id, Server, head);
                capture.cut(id, Server, b"", 150_000);
                capture.say(id, Server, b"no line ends here");
            }
            // A part of a head.
            5 => capture.cut(id, Server, &head[..25], head.len() as u64 + 100_000),
            // All of a message.
            _ => capture.cut(id, Server, b"", head.len() as u64 + 100_000),
        }
        capture.say(id, Client, b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.say(id, Server, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        capture.end(id);
    }
    capture.close();
    is_without_notes(&capture);
    capture.shows("http.request", &["http.request.uri"], &["/first", "/second"].repeat(6));
    let responses =
        ["0 200", "0 404", "1 200", "1 404", "2 200", "2 404", "3 200", "3 404", "4 200", "4 404", "5 404"];
    capture.shows("http.response", &["tcp.stream", "http.response.code"], &responses);
    capture.ask("frame.comment contains \"missing=\"", &["tcp.stream", "frame.comment"], |judge, lines| {
        let texts: Vec<_> =
            lines.iter().map(|l| format!("{} {}", l[0], l[1].rsplit("missing=").next().unwrap())).collect();
        let expected = [
            "0 99500 reason=ring-full filled=99500",
            "1 100000 reason=ring-full filled=100000",
            "2 unknown reason=unfinished-call filled=1000",
            "3 150000 reason=ring-full filled=100000",
            "4 100018 reason=ring-full filled=0",
            "5 100043 reason=ring-full filled=0",
        ];
        assert_eq!(texts, expected, "{judge}");
    });
}

#[test]
fn http2_goes_on_behind_holes() {
    let mut capture = Capture::in_tls("tls-http2-holes");
    for (id, hole) in [(1, 16_384 - 500), (2, 3 * 16_384), (3, 1 << 40)] {
        capture.open(connection(id, "10.0.0.1:41000", &format!("10.0.1.{id}:443")));
        capture.say(id, Client, &[PREFACE, &frame(4, 0, 0, b""), &request(1, "/first")].concat());
        capture.say(id, Server, &[frame(4, 0, 0, b""), frame(1, 4, 1, &[0x88])].concat());
        let begun = &frame(0, 0, 1, &[b'x'; 16_384])[..9 + 500];
        capture.cut(id, Server, begun, begun.len() as u64 + hole);
        if id > 1 {
            capture.say(id, Server, b"the rest of a frame");
        }
        capture.say(id, Client, &request(3, "/second"));
        capture.say(id, Server, &response(3, b"body"));
        capture.step(id, SegmentBody::Skip { from: Server, reason: Missing::Unfinished });
        capture.say(id, Client, &request(5, "/third"));
        capture.say(id, Server, &[&b"rest"[..], &response(5, b"body")].concat());
        capture.end(id);
    }
    capture.close();
    is_without_notes(&capture);
    capture.shows("http2.headers.path", &["http2.headers.path"], &["/first", "/second", "/third"].repeat(3));
    capture.shows("http2.headers.status", &["http2.headers.status"], &["200"; 9]);
    let filled = |n| format!("frame.comment contains \"filled={n}\"");
    capture.shows(&filled("15884"), &["tcp.stream"], &["0", "1", "2"]);
    assert!(std::fs::metadata(&capture.path).unwrap().len() < 200_000);
}

#[test]
fn joined_in_progress() {
    let mut capture = Capture::in_tls("tls-joined");
    let alpn = Some("h2".to_owned());
    capture.open(Connection { alpn: alpn.clone(), ..joined(1, 443) });
    capture.say(1, Client, &request(5, "/one"));
    capture.say(1, Server, &response(5, b"body"));
    capture.open(Connection { alpn, ..joined(2, 50_051) });
    capture.say(2, Server, &[&b"the end of a frame"[..], &response(7, b"body")].concat());
    capture.say(
        2,
        Client,
        &[&b"rest of an upload"[..], &frame(0, 1, 9, b"last"), &request(11, "/two")].concat(),
    );
    capture.say(2, Server, &response(11, b"body"));
    capture.open(joined(3, 8443));
    capture.say(3, Server, &[b'x'; 5000]);
    capture.say(3, Client, b"GET /three HTTP/1.1\r\nHost: a\r\n\r\n");
    capture.say(3, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    capture.close();
    is_without_notes(&capture);
    capture.shows("http2.headers.path", &["tcp.dstport", "http2.headers.path"], &["443 /one", "50051 /two"]);
    capture.shows(
        "http2.headers.status",
        &["tcp.stream", "http2.streamid"],
        &["0 5,5", "1 0,7,7", "1 11,11"],
    );
    capture.shows("http.request", &["tcp.dstport", "http.request.uri"], &["8443 /three"]);
    capture.shows("http.response", &["tcp.srcport"], &["8443"]);
}

#[test]
fn websocket_after_its_upgrade() {
    let mut capture = Capture::in_tls("tls-websocket");
    capture.open(connection(1, "10.0.0.1:41000", "10.0.1.1:443"));
    capture.say(1, Client, b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    capture.say(1, Server, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi");
    let mut message = vec![0x81, 126, 4, 0];
    message.extend_from_slice(&[b'm'; 1024]);
    capture.cut(1, Server, &message[..200], message.len() as u64);
    capture.say(1, Server, b"\x81\x03you");
    capture.close();
    is_without_notes(&capture);
    capture.shows("websocket", &["websocket.payload_length"], &["2", "126", "3"]);
}

#[test]
fn other_protocols_with_a_hole_of_any_length() {
    let mut capture = Capture::in_tls("tls-other");
    capture.open(connection(1, "10.0.0.1:41000", "10.0.1.1:993"));
    capture.say(1, Server, b"* OK IMAP4rev1 ready\r\n");
    capture.say(1, Client, b"a1 CAPABILITY\r\n");
    capture.cut(1, Server, b"* CAP", 1 << 50);
    capture.say(1, Client, b"a2 LOGOUT\r\n");
    capture.close();
    capture.shows("imap.request", &["imap.request.command"], &["CAPABILITY", "LOGOUT"]);
    let len = std::fs::metadata(&capture.path).unwrap().len();
    assert!((16 << 20..17 << 20).contains(&len), "{len}");
}
