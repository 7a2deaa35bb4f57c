//! Which protocols each release of Wireshark decodes: the tables of docs/wireshark.md.
//!
//! `TLS2PCAP_BLESS=1` writes them anew, if all three releases are there.

use std::collections::BTreeSet;

use super::*;
use crate::long::{Shown, exchange};

/// Content of the long messages: one whose length takes two bytes in MQTT, one longer than a record of TLS.
const LONG: [usize; 2] = [200, 17_000];

const BEGIN: &str = "<!-- matrix begin -->\n";
const END: &str = "<!-- matrix end -->\n";

/// A protocol: how a connection begins, and an exchange in the middle of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) alpn: Option<&'static str>,
    pub(super) begin: Vec<(Side, Vec<u8>)>,
    /// The client's message, and the server's.
    pub(super) middle: [Vec<u8>; 2],
    pub(super) shown: [Shown; 2],
}

impl Case {
    /// What each message of both sides must show, and in how many packets.
    fn all_shown(&self) -> Vec<(Side, Shown, usize)> {
        let long = exchange(self.name, LONG[0]).map(|(_, shown)| shown);
        let sides = [Client, Server].into_iter();
        let middle = sides.clone().zip(self.shown).map(|(side, shown)| (side, shown, 1));
        middle.chain(sides.zip(long).map(|(side, shown)| (side, shown, LONG.len()))).collect()
    }
}

fn case(
    name: &'static str,
    port: u16,
    begin: &[(Side, &[u8])],
    middle: [&[u8]; 2],
    shown: [Shown; 2],
) -> Case {
    Case {
        name,
        port,
        alpn: None,
        begin: begin.iter().map(|(side, bytes)| (*side, bytes.to_vec())).collect(),
        middle: middle.map(<[u8]>::to_vec),
        shown,
    }
}

/// In front of `bytes`, their number and so many more.
fn sized(bytes: &[u8], more: u32) -> Vec<u8> {
    [&(bytes.len() as u32 + more).to_be_bytes()[..], bytes].concat()
}

fn http2_case(name: &'static str, port: u16) -> Case {
    let settings = frame(4, 0, 0, &[]);
    let start = [PREFACE, &settings, &request(1, "/first")].concat();
    let answer = [settings, response(1, b"hello")].concat();
    Case {
        alpn: Some("h2"),
        ..case(
            name,
            port,
            &[(Client, &start), (Server, &answer)],
            [&request(3, "/later"), &response(3, b"body")],
            [("http2.headers.path", "/later"), ("http2.headers.status", "200")],
        )
    }
}

/// HEADERS with a content type of gRPC, and a message of Protobuf.
fn grpc_message(stream: u32, first: &[u8], text: &str) -> Vec<u8> {
    // 0x5f: content-type, never before indexed.
    let block = [first, b"\x0f\x10\x10application/grpc"].concat();
    let len = text.len() as u8;
    let message = [&[0, 0, 0, 0, len + 2, 0x0a, len][..], text.as_bytes()].concat();
    [frame(1, 4, stream, &block), frame(0, 0, stream, &message)].concat()
}

fn grpc_case() -> Case {
    let get = b"\x83\x87\x04\x04/a/b";
    let start = [PREFACE, &frame(4, 0, 0, &[]), &grpc_message(1, get, "")].concat();
    let answer = [frame(4, 0, 0, &[]), grpc_message(1, &[0x88], "")].concat();
    Case {
        alpn: Some("h2"),
        ..case(
            "gRPC",
            50_051,
            &[(Client, &start), (Server, &answer)],
            [&grpc_message(3, get, "hello"), &grpc_message(3, &[0x88], "goodbye")],
            [("grpc.message_length", "7"), ("grpc.message_length", "9")],
        )
    }
}

/// An extended operation of LDAP, or its result.
fn ldap(id: u8, operation: &[u8]) -> Vec<u8> {
    let body = [&[2, 1, id][..], operation].concat();
    [&[0x30, body.len() as u8][..], &body].concat()
}

fn dns(id: u8, response: bool, name: &str) -> Vec<u8> {
    let mut message = vec![0x12, id, if response { 0x81 } else { 1 }, if response { 0x80 } else { 0 }];
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    [&(message.len() as u16).to_be_bytes()[..], &message].concat()
}

fn sip(first: &str, sequence: &str) -> Vec<u8> {
    format!(
        "{first}\r\nVia: SIP/2.0/TLS c;branch=z9hG4bK{sequence}\r\nFrom: <sip:c@d>;tag=1\r\nTo: <sip:a@b>\r\n\
         Call-ID: 1\r\nCSeq: {sequence}\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn mysql(sequence: u8, body: &[u8]) -> Vec<u8> {
    [&[body.len() as u8, 0, 0, sequence][..], body].concat()
}

fn mysql_case() -> Case {
    // What comes before the client asks for TLS is not in TLS.
    let login = [
        &b"\x8d\xae\xbf\x19\x00\x00\x00\x01\xff"[..],
        &[0; 23],
        b"me\0\x14aaaaaaaaaaaaaaaaaaaamysql_native_password\0",
    ]
    .concat();
    let ok = b"\0\0\0\x02\0\0\0";
    case(
        "MySQL",
        3306,
        &[(Client, &mysql(2, &login)), (Server, &mysql(3, ok))],
        [&mysql(0, b"\x03select 7"), &mysql(1, ok)],
        [("mysql.query", "select 7"), ("mysql.affected_rows", "0")],
    )
}

fn kafka(key: u16, id: u8, more: &[u8]) -> Vec<u8> {
    let head = [&key.to_be_bytes()[..], &[0, 0, 0, 0, 0, id, 0, 2], b"me"].concat();
    sized(&[&head, more].concat(), 0)
}

fn mongo(id: u8, to: u8, document: &[u8]) -> Vec<u8> {
    let len = 16 + 5 + document.len();
    let head = [len as u32, id.into(), to.into(), 2013].map(u32::to_le_bytes).concat();
    [&head[..], &[0; 5], document].concat()
}

pub(super) fn cases() -> Vec<Case> {
    const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    const STREAM: &[u8] = b"<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
    const PING: &[u8] = b"\x1a\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x02\0\0\0a\0\0";
    const DONE: &[u8] = b"\x11\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f\0";
    const ASK: &[u8] = b"\x77\x19\x80\x171.3.6.1.4.1.4203.1.11.3";
    let http1: [&[u8]; 2] =
        [b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"];
    let http1_begin: [(Side, &[u8]); 2] = [
        (Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (Server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
    ];
    let http1_shown = [("http.request.uri", "/later"), ("http.response.code", "404")];
    let websocket: [&[u8]; 2] = [b"\x81\x85\x01\x02\x03\x04iggmn", b"\x81\x03you"];
    vec![
        case("HTTP/1", 443, &http1_begin, http1, http1_shown),
        case("HTTP/1", 8443, &http1_begin, http1, http1_shown),
        case("HTTP/1", 9000, &http1_begin, http1, http1_shown),
        http2_case("HTTP/2", 443),
        http2_case("HTTP/2", 8443),
        grpc_case(),
        case(
            "WebSocket",
            443,
            &[(Client, UPGRADE), (Server, UPGRADED)],
            websocket,
            [("websocket.payload_length", "5"), ("websocket.payload_length", "3")],
        ),
        case(
            "IMAP",
            993,
            &[
                (Server, b"* OK IMAP4rev1 ready\r\n"),
                (Client, b"a1 LOGIN \"me\" \"x\"\r\n"),
                (Server, b"a1 OK done\r\n"),
            ],
            [b"a2 SELECT INBOX\r\n", b"* 3 EXISTS\r\na2 OK done\r\n"],
            [("imap.request", "a2 SELECT"), ("imap.response", "a2 OK")],
        ),
        case(
            "POP3",
            995,
            &[(Server, b"+OK ready\r\n"), (Client, b"USER me\r\n"), (Server, b"+OK\r\n")],
            [b"RETR 1\r\n", b"+OK 5 octets\r\nhello\r\n.\r\n"],
            [("pop.request.command", "RETR"), ("pop.response.indicator", "+OK")],
        ),
        case(
            "SMTP",
            465,
            &[(Server, b"220 mail ESMTP\r\n"), (Client, b"EHLO me\r\n"), (Server, b"250 mail\r\n")],
            [b"MAIL FROM:<a@b>\r\n", b"250 OK\r\n"],
            [("smtp.req.command", "MAIL"), ("smtp.response.code", "250")],
        ),
        case(
            "LDAP",
            636,
            &[
                (Client, &ldap(1, b"\x60\x07\x02\x01\x03\x04\0\x80\0")),
                (Server, &ldap(1, b"\x61\x07\x0a\x01\0\x04\0\x04\0")),
            ],
            [&ldap(7, ASK), &ldap(7, b"\x78\x07\x0a\x01\0\x04\0\x04\0")],
            [("ldap.messageID", "7"), ("ldap.messageID", "7")],
        ),
        case(
            "MQTT",
            8883,
            &[(Client, b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test"), (Server, b"\x20\x02\0\0")],
            [b"\x30\x05\0\x01thi", b"\x30\x05\0\x01tyo"],
            [("mqtt.topic", "t"), ("mqtt.topic", "t")],
        ),
        case(
            "AMQP",
            5671,
            &[
                (Client, b"AMQP\0\0\x09\x01"),
                (Server, b"\x01\0\0\0\0\0\x1c\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce"),
            ],
            [b"\x01\0\x01\0\0\0\x05\0\x14\0\x0a\0\xce", b"\x01\0\x01\0\0\0\x08\0\x14\0\x0b\0\0\0\0\xce"],
            [("amqp.method.class", "20"), ("amqp.method.class", "20")],
        ),
        case(
            "DNS over TLS",
            853,
            &[(Client, &dns(1, false, "example.com")), (Server, &dns(1, true, "example.com"))],
            [&dns(2, false, "example.org"), &dns(2, true, "example.org")],
            [("dns.qry.name", "example.org"), ("dns.qry.name", "example.org")],
        ),
        case(
            "SIP",
            5061,
            &[
                (Client, &sip("REGISTER sip:b SIP/2.0", "1 REGISTER")),
                (Server, &sip("SIP/2.0 200 OK", "1 REGISTER")),
            ],
            [&sip("OPTIONS sip:a@b SIP/2.0", "2 OPTIONS"), &sip("SIP/2.0 404 No", "2 OPTIONS")],
            [("sip.Method", "OPTIONS"), ("sip.Status-Code", "404")],
        ),
        case(
            "XMPP",
            5223,
            &[(Client, STREAM), (Server, STREAM)],
            [b"<message to='a'><body>hi</body></message>", b"<presence from='a'/>"],
            [("frame.protocols", "xmpp"), ("frame.protocols", "xmpp")],
        ),
        case(
            "Redis",
            6380,
            &[(Client, b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n"), (Server, b"+OK\r\n")],
            [b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"],
            [("resp.bulk_string.value", "50494e47"), ("resp.string", "PONG")],
        ),
        case(
            "PostgreSQL",
            5432,
            &[(Client, b"\0\0\0\x11\0\x03\0\0user\0me\0\0"), (Server, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")],
            [b"Q\0\0\0\x0dselect 7\0", b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"],
            [("pgsql.query", "select 7"), ("pgsql.type", "Command completion")],
        ),
        mysql_case(),
        case(
            "Kafka",
            9093,
            &[(Client, &kafka(18, 1, &[])), (Server, &sized(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], 0))],
            [&kafka(3, 2, &[0; 4]), &sized(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0], 0)],
            [("kafka.request_key", "3"), ("kafka.correlation_id", "2")],
        ),
        case(
            "MongoDB",
            27_018,
            &[(Client, &mongo(1, 0, PING)), (Server, &mongo(2, 1, DONE))],
            [&mongo(3, 0, PING), &mongo(4, 3, DONE)],
            [("mongo.request_id", "3"), ("mongo.response_to", "3")],
        ),
    ]
}

/// What the releases show of each case: by case, the written port and whether in TLS, and for each
/// release whether all is right.
fn shown(name: &str, tls: bool, from_start: bool) -> Vec<(String, Vec<String>)> {
    let cases = cases();
    let mut capture = if tls { Capture::in_tls(name) } else { Capture::new(name, Ports::Decode) };
    for (id, case) in (1..).zip(&cases) {
        capture.open(Connection {
            from_start,
            alpn: case.alpn.map(str::to_owned),
            ..connection(id, "10.0.0.1:41000", &format!("10.0.1.{id}:{}", case.port))
        });
        for (side, bytes) in case.begin.iter().filter(|_| from_start) {
            capture.say(id, *side, bytes);
        }
        capture.say(id, Client, &case.middle[0]);
        capture.say(id, Server, &case.middle[1]);
        for n in LONG {
            let [ask, answer] = exchange(case.name, n);
            capture.say(id, Client, &ask.0);
            capture.say(id, Server, &answer.0);
        }
        capture.wait();
        capture.end(id);
    }
    capture.close();
    let mut fields = vec!["tcp.stream", "tcp.srcport", "tcp.dstport", "frame.comment", "_ws.malformed"];
    let shown: Vec<_> = cases.iter().map(Case::all_shown).collect();
    fields.extend(shown.iter().flatten().map(|(_, (field, _), _)| *field).collect::<BTreeSet<_>>());
    let all = std::cell::RefCell::new(vec![(String::new(), Vec::new()); cases.len()]);
    capture.ask("ip", &fields, |judge, lines| {
        for (i, shown) in shown.iter().enumerate() {
            let rows: Vec<_> = lines.iter().filter(|row| row[0] == i.to_string()).collect();
            let port = &rows[0][2];
            let is_tls = rows[0][3].contains(" framing=tls");
            let mut wrong = rows.iter().any(|row| !row[4].is_empty());
            for (side, (field, value), times) in shown {
                let column = fields.iter().position(|f| f == field).unwrap();
                let port_of = if *side == Client { 2 } else { 1 };
                let right = rows.iter().filter(|row| row[port_of] == *port && row[column].contains(value));
                wrong |= right.count() < *times;
            }
            let (written, verdicts) = &mut all.borrow_mut()[i];
            *written = if is_tls { format!("{port}, TLS") } else { port.clone() };
            if judge.contains('/') {
                verdicts.push(if wrong { "no" } else { "yes" }.to_owned());
            }
        }
    });
    all.into_inner()
}

fn table(tls: bool) -> String {
    let name = if tls { "tls" } else { "plain" };
    let start = shown(&format!("matrix-{name}"), tls, true);
    let joined = shown(&format!("matrix-{name}-joined"), tls, false);
    let mut text = "| protocol | port | from its first byte: written on | 4.0 | 4.4 | 4.6 | joined: written on | 4.0 | 4.4 | 4.6 |\n|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
    for ((case, (one, first)), (two, second)) in cases().iter().zip(start).zip(joined) {
        let cells =
            [&[case.name.to_owned(), case.port.to_string(), one][..], &first, &[two], &second].concat();
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

#[test]
fn the_documentation_says_what_is_decoded() {
    if judges().iter().filter(|judge| judge.is_absolute()).count() < 3 {
        return skipped("the documentation's matrix", "it needs the three releases of tshark");
    }
    let tables = format!(
        "{BEGIN}\nWith `--framing plain`:\n\n{}\nWith `--framing tls`:\n\n{}\n{END}",
        table(false),
        table(true)
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/wireshark.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (text.find(BEGIN).unwrap(), text.find(END).unwrap() + END.len());
    if std::env::var_os("TLS2PCAP_BLESS").is_some() {
        std::fs::write(&path, [&text[..begin], &tables, &text[end..]].concat()).unwrap();
    } else {
        assert_eq!(text[begin..end], tables, "docs/wireshark.md");
    }
}
