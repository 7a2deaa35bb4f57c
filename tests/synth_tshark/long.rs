//! Long messages of the protocols in [`super::matrix`].

use super::*;

/// Field and value that a long message must show.
pub(super) type Shown = (&'static str, &'static str);

fn varint(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn be16(n: usize) -> [u8; 2] {
    (n as u16).to_be_bytes()
}

fn be32(n: usize) -> [u8; 4] {
    (n as u32).to_be_bytes()
}

/// A BER element with a length of two bytes.
fn ber(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, 0x82], &be16(content.len())[..], content].concat()
}

fn http2_data(stream: u32, last: bool, body: &[u8]) -> Vec<u8> {
    let chunks = body.chunks(16_384);
    let count = chunks.len();
    chunks
        .enumerate()
        .flat_map(|(i, chunk)| frame(0, u8::from(last && i + 1 == count), stream, chunk))
        .collect()
}

/// A request and an answer with `n` bytes of content each, and what they must show.
pub(super) fn exchange(name: &str, n: usize) -> [(Vec<u8>, Shown); 2] {
    let text = "x".repeat(n);
    let x = text.as_bytes();
    let line = |begin: &str, end: &str| format!("{begin}{text}{end}").into_bytes();
    match name {
        "HTTP/1" => {
            let head = format!("\r\nHost: a\r\nContent-Length: {n}\r\n\r\n");
            [
                (line(&format!("POST /long HTTP/1.1{head}"), ""), ("http.request.uri", "/long")),
                (line(&format!("HTTP/1.1 203 Long{head}"), ""), ("http.response.code", "203")),
            ]
        }
        "HTTP/2" => {
            let post = frame(1, 4, 5, b"\x83\x87\x04\x05/long");
            let answer = frame(1, 4, 5, &[0x8d]);
            [
                ([post, http2_data(5, true, x)].concat(), ("http2.headers.path", "/long")),
                ([answer, http2_data(5, true, x)].concat(), ("http2.headers.status", "404")),
            ]
        }
        "gRPC" => {
            let head = |first: &[u8]| frame(1, 4, 5, &[first, b"\x0f\x10\x10application/grpc"].concat());
            let message = [&[0x0a][..], &varint(n), x].concat();
            let body = [&[0][..], &be32(message.len()), &message].concat();
            let post = b"\x83\x87\x04\x05/long";
            [
                ([head(post), http2_data(5, true, &body)].concat(), ("http2.headers.path", "/long")),
                ([head(&[0x8d]), http2_data(5, true, &body)].concat(), ("http2.headers.status", "404")),
            ]
        }
        "WebSocket" => {
            let masked: Vec<u8> = x.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(a, b)| a ^ b).collect();
            let client = [&[0x82, 0xfe][..], &be16(n), &[1, 2, 3, 4], &masked].concat();
            let server = [&[0x82, 0x7e][..], &be16(n), x].concat();
            let shown = ("websocket.opcode", "2");
            [(client, shown), (server, shown)]
        }
        "IMAP" => [
            (line("a3 SEARCH TEXT ", "\r\n"), ("imap.request", "a3 SEARCH")),
            (line("* SEARCH 1\r\na3 OK ", "\r\n"), ("imap.response", "a3 OK")),
        ],
        "POP3" => [
            (line("XTND ", "\r\n"), ("pop.request.command", "XTND")),
            (line("+OK long\r\n", "\r\n.\r\n"), ("pop.response.description", "long")),
        ],
        "SMTP" => [
            (line("RCPT TO:<", "@b>\r\n"), ("smtp.req.command", "RCPT")),
            (line("251-", "\r\n251 OK\r\n"), ("smtp.response.code", "251")),
        ],
        "LDAP" => {
            let message = |operation: Vec<u8>| ber(0x30, &[&[2, 1, 9][..], &operation].concat());
            let ask = [&b"\x80\x171.3.6.1.4.1.4203.1.11.3"[..], &ber(0x81, x)].concat();
            let answer = [&b"\x0a\x01\0\x04\0"[..], &ber(0x04, x)].concat();
            [
                (message(ber(0x77, &ask)), ("ldap.messageID", "9")),
                (message(ber(0x78, &answer)), ("ldap.messageID", "9")),
            ]
        }
        "MQTT" => {
            let publish = [&[0x30][..], &varint(6 + n), b"\0\x04long", x].concat();
            [(publish.clone(), ("mqtt.topic", "long")), (publish, ("mqtt.topic", "long"))]
        }
        "AMQP" => {
            let method = |method: u8| {
                let arguments = [&be32(n)[..], x].concat();
                [&[1, 0, 0][..], &be32(4 + arguments.len()), &[0, 10, 0, method], &arguments, &[0xce]]
                    .concat()
            };
            [(method(21), ("amqp.method.method", "21")), (method(20), ("amqp.method.method", "20"))]
        }
        "DNS over TLS" => {
            let message = |flags: [u8; 2]| {
                let head =
                    [&[0x12, 9][..], &flags, &[0, 1, 0, 0, 0, 0, 0, 1], b"\x04long\x03org\0\0\x01\0\x01"];
                // Padding (RFC 7830) in an OPT record.
                let option = [&[0, 12][..], &be16(n), x].concat();
                let opt = [&[0, 0, 41, 16, 0, 0, 0, 0, 0][..], &be16(option.len()), &option].concat();
                let message = [head.concat(), opt].concat();
                [&be16(message.len())[..], &message].concat()
            };
            let shown = ("dns.qry.name", "long.org");
            [(message([1, 0]), shown), (message([0x81, 0x80]), shown)]
        }
        "SIP" => {
            let message = |first: &str| {
                let head = format!(
                    "{first}\r\nVia: SIP/2.0/TLS c;branch=z9hG4bK3\r\nFrom: <sip:c@d>;tag=1\r\nTo: <sip:a@b>\r\n\
                     Call-ID: 1\r\nCSeq: 3 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: {n}\r\n\r\n"
                );
                line(&head, "")
            };
            [
                (message("MESSAGE sip:a@b SIP/2.0"), ("sip.Method", "MESSAGE")),
                (message("SIP/2.0 202 Accepted"), ("sip.Status-Code", "202")),
            ]
        }
        "XMPP" => {
            let message = line("<message to='long'><body>", "</body></message>");
            [(message.clone(), ("xmpp.to", "long")), (message, ("xmpp.to", "long"))]
        }
        "Redis" => [
            (
                line(&format!("*2\r\n$4\r\nECHO\r\n${n}\r\n"), "\r\n"),
                ("resp.bulk_string.value", "4543484f,7878"),
            ),
            (line(&format!("${n}\r\n"), "\r\n"), ("resp.bulk_string.value", "7878")),
        ],
        "PostgreSQL" => {
            let message =
                |kind: u8, text: &[u8]| [&[kind][..], &be32(4 + text.len() + 1), text, &[0]].concat();
            let ready = b"Z\0\0\0\x05I";
            [
                (message(b'Q', &line("select 'long", "'")), ("pgsql.query", "select 'long")),
                (
                    [message(b'C', &line("SELECT long", "")), ready.to_vec()].concat(),
                    ("pgsql.type", "Command completion"),
                ),
            ]
        }
        "MySQL" => {
            let packet = |sequence: u8, body: &[u8]| {
                let [a, b, c, _] = (body.len() as u32).to_le_bytes();
                [&[a, b, c, sequence][..], body].concat()
            };
            [
                (packet(0, &line("\x03select 'long", "'")), ("mysql.query", "select 'long")),
                (packet(1, &[&b"\0\0\0\x02\0\0\0"[..], x].concat()), ("mysql.affected_rows", "0")),
            ]
        }
        "Kafka" => {
            let message = |parts: &[&[u8]]| {
                let body = parts.concat();
                [&be32(body.len())[..], &body].concat()
            };
            let ask = message(&[b"\0\x03\0\0\0\0\0\x07\0\x02me", &be32(1), &be16(n), x]);
            let answer = message(&[&be32(7), &be32(1), &be32(1), &be16(n), x, &be32(9), &be32(0)]);
            [(ask, ("kafka.request_key", "3")), (answer, ("kafka.correlation_id", "7"))]
        }
        "MongoDB" => {
            let message = |id: u32, to: u32| {
                let string =
                    [&b"\x02s\0"[..], &(n as u32 + 1).to_le_bytes(), x, b"\0\x02$db\0\x02\0\0\0a\0\0"];
                let string = string.concat();
                let document = [&(4 + string.len() as u32).to_le_bytes()[..], &string].concat();
                let len = 16 + 5 + document.len() as u32;
                [&[len, id, to, 2013].map(u32::to_le_bytes).concat()[..], &[0; 5], &document].concat()
            };
            [(message(5, 0), ("mongo.request_id", "5")), (message(6, 5), ("mongo.response_to", "5"))]
        }
        other => panic!("no long message of {other}"),
    }
}
