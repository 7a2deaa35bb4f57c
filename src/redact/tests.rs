//! Whole conversations: what they show afterwards, however they are cut.

use std::io::Write;

use super::*;

pub(in crate::redact) const SECRET: &str = "hunter2Correct77Horse";

fn engine() -> Engine {
    with(RulesBuilder::default())
}

fn with(rules: RulesBuilder) -> Engine {
    Engine::new(rules.build(Key([9; 16])).unwrap())
}

/// What both sides say, in turns.
pub(in crate::redact) type Talk<'a> = &'a [(Side, &'a [u8])];

/// A talk in segments of at most so many bytes.
fn run(engine: &mut Engine, talk: Talk<'_>, at_most: usize) -> (Vec<Vec<u8>>, Vec<Kind>) {
    let mut conversation = Conversation::new(true);
    let mut outs = vec![Vec::new(), Vec::new()];
    let mut found = Vec::new();
    for (side, bytes) in talk {
        for segment in bytes.chunks(at_most) {
            conversation.push(engine, *side, segment, &mut outs[*side as usize], &mut found);
        }
    }
    for side in [Side::A, Side::B] {
        conversation.end(engine, side, &mut outs[side as usize], &mut found);
    }
    for side in [Side::A, Side::B] {
        let given: usize = talk.iter().filter(|(s, _)| *s == side).map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(outs[side as usize].len(), given);
    }
    (outs, found.into_iter().map(|found| found.kind).collect())
}

/// The same, in one piece, and then cut everywhere: the result must not depend on that. Redacted twice, nothing changes.
pub(in crate::redact) fn redacted(talk: Talk<'_>) -> (Vec<Vec<u8>>, Vec<Kind>) {
    let (outs, found) = run(&mut engine(), talk, usize::MAX);
    for at_most in [1, 2, 3, 7, 64, 1000] {
        let (again, _) = run(&mut engine(), talk, at_most);
        for side in 0..2 {
            assert_eq!(lossy(&again[side]), lossy(&outs[side]), "in segments of {at_most}");
        }
    }
    let mut rest = outs.clone();
    let taken: Vec<(Side, Vec<u8>)> = talk
        .iter()
        .map(|(side, bytes)| {
            let tail = rest[*side as usize].split_off(bytes.len());
            (*side, std::mem::replace(&mut rest[*side as usize], tail))
        })
        .collect();
    let twice: Vec<(Side, &[u8])> = taken.iter().map(|(side, bytes)| (*side, &bytes[..])).collect();
    let mut other = Engine::new(RulesBuilder::default().build(Key([5; 16])).unwrap());
    other.recognise(true);
    let (again, more) = run(&mut other, &twice, usize::MAX);
    assert_eq!(more, [], "{}", lossy(&outs[0]));
    assert_eq!(again, outs);
    (outs, found)
}

pub(in crate::redact) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A request and its answer. The secret must be gone, and all else in `kept` still there.
fn exchange(request: &str, answer: &str, kept: &[&str]) -> String {
    let (outs, found) = redacted(&[(Side::A, request.as_bytes()), (Side::B, answer.as_bytes())]);
    let text = lossy(&outs[0]) + &lossy(&outs[1]);
    assert!(!text.contains(SECRET), "{text}");
    for kept in kept {
        assert!(text.contains(kept), "{kept} is missing: {text}");
    }
    assert_eq!(found.is_empty(), !(request.to_owned() + answer).contains(SECRET), "{found:?}\n{text}");
    text
}

fn get(headers: &str) -> String {
    format!("GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n\r\n")
}

fn post(media: &str, body: &str) -> String {
    format!(
        "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}";

#[test]
fn headers_that_are_secrets() {
    for (header, kept) in [
        (format!("Authorization: Bearer {SECRET}"), "Authorization: Bearer "),
        (format!("Authorization: Basic {SECRET}=="), "Authorization: Basic "),
        (format!("authorization: {SECRET}"), "authorization: "),
        (format!("Proxy-Authorization: Negotiate {SECRET}"), "Negotiate "),
        (
            format!(
                "Authorization: Digest username=\"{SECRET}\", realm=\"r\", uri=\"/x?token={SECRET}\", response=\"{SECRET}\""
            ),
            "realm=\"r\", uri=\"/x?token=",
        ),
        (
            format!(
                "Authorization: AWS4-HMAC-SHA256 Credential={SECRET}/20261130/eu/s3/aws4_request, SignedHeaders=host, Signature={SECRET}"
            ),
            "/20261130/eu/s3/aws4_request, SignedHeaders=host, Signature=",
        ),
        (format!("Cookie: theme=dark; sid={SECRET}"), "; sid="),
        (format!("X-Api-Key: {SECRET}"), "X-Api-Key: "),
        (format!("X-CSRF-Token: {SECRET}"), "X-CSRF-Token: "),
        (format!("X-Whatever: {SECRET}A9bX8"), "X-Whatever: "),
        (format!("Referer: https://a.example/x?y=z&access_token={SECRET}#top"), "y=z&access_token="),
        (format!("Referer: https://me:{SECRET}@a.example/x"), "@a.example/x"),
        (format!("X-Text: ghp_{SECRET}{SECRET} is it"), "X-Text: ghp_"),
        (format!(" folded {SECRET}"), " "),
        (format!("no field {SECRET}"), ""),
    ] {
        exchange(&get(&header), OK, &["GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n", kept, "{}"]);
    }
    let set = format!("HTTP/1.1 204 No Content\r\nSet-Cookie: sid={SECRET}; Path=/; Secure\r\n\r\n");
    exchange(&get("A: b"), &set, &["Set-Cookie: sid=", "; Path=/; Secure\r\n\r\n"]);
}

#[test]
fn targets_and_forms() {
    for query in ["password=", "a=b&client_secret=", "x=1;token=", "api%5Fkey=", "user[password]="] {
        let request = format!("GET /p/a.js?{query}{SECRET}&z=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        exchange(&request, OK, &["GET /p/a.js?", "&z=1 HTTP/1.1"]);
        let body = format!("{query}{SECRET}&z=1");
        exchange(&post("application/x-www-form-urlencoded", &body), OK, &["&z=1"]);
    }
    let request = format!("GET /cb?state=a&code={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n");
    exchange(&request, OK, &["GET /cb?state=a&code="]);
    exchange("GET /a?code=404&b=1&code=DE HTTP/1.1\r\nHost: a\r\n\r\n", OK, &["?code=404&b=1&code=DE "]);
    let request = format!("GET /reset/{SECRET}Zq8xW/done HTTP/1.1\r\nHost: a\r\n\r\n");
    exchange(&request, OK, &["GET /reset/", "/done HTTP"]);
    exchange(
        "GET /assets/app.3f2a9c77.js?v=1.2.3 HTTP/1.1\r\nHost: a\r\n\r\n",
        OK,
        &["app.3f2a9c77.js?v=1.2.3"],
    );
}

#[test]
fn json_members() {
    for body in [
        format!("{{\"user\":\"me\",\"password\":\"{SECRET}\",\"n\":12}}"),
        format!("{{\"user\":\"me\",\"a\":[{{\"auth\":{{\"x\":[1,\"{SECRET}\"]}}}}],\"n\":12}}"),
        format!("{{\"user\":\"me\",\"note\":\"ghp_{SECRET}{SECRET}\",\"n\":12}}"),
        format!("{{\"user\":\"me\",\"note\":\"{{\\\"password\\\":\\\"{SECRET}\\\"}}\",\"n\":12}}"),
        format!("{{\"user\":\"me\",\"q\":\"login(password: \\\"{SECRET}\\\") {{ id }}\",\"n\":12}}"),
        format!("{{\"user\":\"me\",\"url\":\"https://x/?token={SECRET}\",\"n\":12}}"),
        format!("{{\"user\":\"me\",\"secret\":\"a\\\"\\u00e9{SECRET}\",\"n\":12}}"),
        format!("{{\"user\":\"me\",\"mail\":\"{SECRET}@corp.example\",\"n\":12}}"),
    ] {
        let text =
            exchange(&post("application/json; charset=utf-8", &body), OK, &["\"user\":\"me\"", "\"n\":12}"]);
        let out = text.split("\r\n\r\n").nth(1).unwrap();
        let json = out.split("HTTP/1.1 200").next().unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{json}");
    }
    let clean = "{\"name\":\"x\",\"tokens\":7,\"max_tokens\":4096,\"url\":\"https://a.example/b\",\"ok\":true,\"f\":-1.5e3}";
    exchange(&post("application/json", clean), OK, &[clean]);
    let long = format!("{{\"password\":\"{}\",\"n\":12}}", SECRET.repeat(2000));
    exchange(&post("application/json", &long), OK, &["\"n\":12}"]);
}

#[test]
fn other_bodies() {
    exchange(
        &post(
            "text/xml",
            &format!("<a xmlns:s='u'><s:Password>{SECRET}</s:Password><b token=\"{SECRET}\">text</b></a>"),
        ),
        OK,
        &["<s:Password>", "</s:Password><b token=\"", "\">text</b></a>"],
    );
    exchange(
        &post(
            "text/html",
            &format!(
                "<p>Hi</p><input type=hidden name=\"csrf_token\" value=\"{SECRET}\"><script>var a={{password:\"{SECRET}\",b:c.token}}</script>"
            ),
        ),
        OK,
        &["<p>Hi</p><input type=hidden name=\"csrf_token\" value=\"", "b:c.token}</script>"],
    );
    exchange(
        &post(
            "text/html",
            &format!(
                "<input type=hidden name=csrf_token value={SECRET}><input name = token value = '{SECRET}'><p class=a>"
            ),
        ),
        OK,
        &["<input type=hidden name=csrf_token value=", "><input name = token value = '", "'><p class=a>"],
    );
    exchange(
        &post("text/plain", &format!("PASSWORD={SECRET}\nhost = a\n")),
        OK,
        &["PASSWORD=", "\nhost = a\n"],
    );
    exchange(
        &post(
            "text/plain",
            &format!(
                "a\n-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----\nb\n"
            ),
        ),
        OK,
        &["-----BEGIN RSA PRIVATE KEY-----\n", "-----END RSA PRIVATE KEY-----\nb\n"],
    );
    exchange(
        &post(
            "multipart/form-data; boundary=XyZ",
            &format!(
                "--XyZ\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n{SECRET}\r\n--XyZ\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\nhello\r\n--XyZ\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.json\"\r\nContent-Type: application/json\r\n\r\n{{\"token\":\"{SECRET}\",\"a\":1}}\r\n--XyZ--\r\n"
            ),
        ),
        OK,
        &["name=\"password\"\r\n\r\n", "\r\n--XyZ\r\n", "hello", "\"a\":1}\r\n--XyZ--\r\n"],
    );
    let events = format!("data: {{\"a\":1,\"api_key\":\"{SECRET}\"}}\n\nevent: x\ndata: text\n\n");
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{events}");
    exchange(&get("A: b"), &answer, &["data: {\"a\":1,\"api_key\":\"", "event: x\ndata: text\n\n"]);
    let text = exchange(&post("application/octet-stream", SECRET), OK, &[]);
    assert!(text.contains("xxxxxx1Xxxxxxx11Xxxxx"), "{text}");
    let png = "\u{89}PNG";
    assert!(!exchange(&post("image/png", &format!("{png}{SECRET}")), OK, &[]).contains("PNG"), "no picture");
}

#[test]
fn chunks_pipelines_and_answers_without_bodies() {
    let (a, b) = SECRET.split_at(8);
    let chunked = format!(
        "POST /x HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         e\r\n{{\"password\":\"\r\n8;x=y\r\n{a}\r\nd\r\n{b}\r\n2\r\n\"}}\r\n0\r\nX-Token: {SECRET}\r\n\r\nGET /next HTTP/1.1\r\nHost: b\r\n\r\n"
    );
    let text = exchange(
        &chunked,
        OK,
        &["e\r\n{\"password\":\"\r\n8;", "\"}\r\n0\r\nX-Token: ", "GET /next HTTP/1.1\r\nHost: b"],
    );
    assert!(!text.contains(a) && !text.contains(b), "{text}");
    let asked = "HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    let answers = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a={SECRET}\r\nContent-Length: 0\r\n\r\n"
    );
    exchange(asked, &answers, &["304 Not Modified", "100 Continue", "Set-Cookie: a="]);
}

/// What was shown once.
#[test]
fn secrets_behind_escapes_and_in_odd_places() {
    let token = format!("ghp_{SECRET}{SECRET}");
    let json = [
        format!("{{\"n\":\"see\\n{token}\"}}"),
        format!("{{\"n\":\"see\\u003d{token}\"}}"),
        format!("{{\"n\":\"x\\nsid={SECRET}\"}}"),
        format!("{{\"n\":\"x\\u0026sid={SECRET}\"}}"),
        format!("{{\"n\":[\"Authorization: Bearer {SECRET}\",\"Cookie: a=b; c={SECRET}\"]}}"),
        format!("{{\"n\":\"bad password: {SECRET}\"}}"),
        format!("{{\"n\":\"dsn password='{SECRET}' and password: '{SECRET}'\"}}"),
        format!("{{\"n\":\"{{\\\"auth\\\":{{\\\"x\\\":[\\\"{SECRET}\\\"]}}}}\"}}"),
        format!("{{\"n\":[{{\"name\":\"DB_PASSWORD\",\"value\":\"{SECRET}\"}}]}}"),
        format!("{{\"password\":{{\"type\":\"string\",\"value\":\"{SECRET}\"}}}}"),
    ];
    for body in json {
        exchange(&post("application/json", &body), OK, &["{\""]);
        // The type that curl sends unless it is told another.
        exchange(&post("application/x-www-form-urlencoded", &body), OK, &["{\""]);
    }
    exchange(
        &post("application/x-www-form-urlencoded", &format!("{{\"password\":\"{SECRET}\",\"a\":\"b=c\"}}")),
        OK,
        &["{\"password\":\"", "\"a\":\"b=c\"}"],
    );
    for text in [
        format!("password:\t{SECRET}\n"),
        format!("password            = {SECRET}\n"),
        format!("password = \"a\\\"{SECRET}\"\n"),
        format!("\"secrets\": [\"{SECRET}\"]\n"),
        format!("Cookie: a=b; c={SECRET}\n"),
        format!("j\u{f6}rg.o'{SECRET}@corp.example\n"),
        format!("task-{}.{token}\n", "a1b2-".repeat(8)),
    ] {
        let text = exchange(&post("text/plain", &text), OK, &["\n"]);
        assert!(!text.contains("rg.o'"), "{text}");
    }
    exchange(
        &post("text/plain", &format!("curl -H 'Cookie: a=b; c={SECRET}' -H 'Accept: */*'\n")),
        OK,
        &["curl -H 'Cookie: ", "' -H 'Accept: */*'"],
    );
    for page in [
        format!("<p><input id=x name=password value=\"{SECRET}\">"),
        format!("<p><input type=password name=f value=\"{SECRET}\">"),
        format!("<p><a href=\"/x?access_token={SECRET}\">a</a>"),
        format!("<p><script>go('/x?a=b&token={SECRET}')</script>"),
    ] {
        exchange(&post("text/html", &page), OK, &["<p>"]);
    }
    for xml in [
        format!("<a><secretValue>{SECRET}</secretValue></a>"),
        format!("<a><add key=\"DbPassword\" value=\"{SECRET}\"/></a>"),
    ] {
        exchange(&post("text/xml", &xml), OK, &["<a>"]);
    }
    for target in [
        format!("/u/{SECRET}%40corp.example/x"),
        format!("/a?next=https%3A%2F%2Fb%2F%3Fu%3Dhttps%253A%252F%252Fc%252F%253Ftoken%253D{SECRET}"),
        format!("/a?next=%2Fcb%3Fstate%3D1%26code%3D{SECRET}"),
        format!("/a?f=%7B%22auth%22%3A%7B%22x%22%3A%5B%22{SECRET}%22%5D%7D%7D"),
    ] {
        exchange(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), OK, &[" HTTP/1.1"]);
    }
    for header in [
        format!("X-Original-URI: /cb?code={SECRET}"),
        format!("X-User: {SECRET}%40corp.example"),
        format!("X-Trace-Bin: {SECRET}"),
        format!("Sec-WebSocket-Protocol: chat, base64url.bearer.{SECRET}A9bX8"),
    ] {
        exchange(&get(&header), OK, &["Host: a.example"]);
    }
}

/// Text that is said to be in ASCII and is not, or is compressed though nobody says so.
#[test]
fn bodies_that_are_not_what_they_are_said_to_be() {
    let wide: Vec<u8> = format!("password={SECRET}").bytes().flat_map(|b| [b, 0]).collect();
    let packed = gzip(&format!("password={SECRET}"), 6);
    let head = |encoding: &str, len: usize| {
        format!("POST / HTTP/1.1\r\nContent-Type: text/plain\r\n{encoding}Content-Length: {len}\r\n\r\n")
            .into_bytes()
    };
    for (body, encoding) in
        [(&wide, ""), (&packed, ""), (&packed, "Content-Encoding: gzip\r\nContent-Encoding: identity\r\n")]
    {
        let head = head(encoding, body.len());
        let (outs, _) = redacted(&[(Side::A, &[&head[..], body].concat())]);
        assert!(memchr::memmem::find(&outs[0], &body[12..24]).is_none(), "{}", lossy(&outs[0]));
    }
}

/// Wherever a long line is cut.
#[test]
fn long_lines_show_nothing_where_they_are_cut() {
    let (mut line, mut seed) = (String::new(), 1usize);
    for i in 0..60 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        line += &"lorem ".repeat(60 + (seed >> 40) % 60);
        line += &match i % 3 {
            0 => format!("ghp_{SECRET}{SECRET} "),
            1 => format!("password='{SECRET}' "),
            _ => format!("{SECRET}@corp.example "),
        };
    }
    exchange(&post("text/plain", &line), OK, &["lorem"]);
    exchange(&post("text/javascript", &line), OK, &["lorem"]);
    exchange(&post("application/json", &format!("{{\"n\":\"{line}\"}}")), OK, &["lorem"]);
    exchange(&post("text/xml", &format!("<a>{}</a>", line.repeat(3))), OK, &["lorem"]);
}

/// Each deeper one costs stack, and time.
#[test]
fn multipart_bodies_end_somewhere() {
    let mut body = String::new();
    for i in 0..20_000 {
        body += &format!("--b{i}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", i + 1);
    }
    body += SECRET;
    let request = post("multipart/mixed; boundary=b0", &body);
    let (outs, _) = run(&mut engine(), &[(Side::A, request.as_bytes())], usize::MAX);
    assert!(!lossy(&outs[0]).contains(SECRET));
}

fn gzip(text: &str, level: u32) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

#[test]
fn compressed_bodies() {
    for (text, level, is_secret) in [
        (format!("{{\"password\":\"{SECRET}\",\"a\":\"{}\"}}", "long text ".repeat(50)), 1, true),
        (format!("{{\"password\":\"{SECRET}\"}}"), 9, true),
        ("{\"a\":1}".to_owned(), 6, false),
    ] {
        let body = gzip(&text, level);
        let head = format!(
            "POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), &body].concat();
        let (outs, found) = redacted(&[(Side::A, &request)]);
        assert_eq!(!found.is_empty(), is_secret);
        let mut plain = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&outs[0][head.len()..]), &mut plain)
            .unwrap();
        assert!(!plain.contains(SECRET), "{plain}");
        assert!(serde_json::from_str::<serde_json::Value>(&plain).is_ok(), "{plain}");
        assert_eq!(plain == text, !is_secret);
        assert!(plain.starts_with(&text[..6]), "{plain}");
    }
}

#[test]
fn what_the_header_of_gzip_says_goes() {
    for text in ["{\"a\":1}".to_owned(), format!("{{\"password\":\"{SECRET}\"}}")] {
        let builder = flate2::GzBuilder::new().comment(format!("token={SECRET}")).extra(SECRET.as_bytes());
        let mut packer = builder.write(Vec::new(), flate2::Compression::default());
        packer.write_all(text.as_bytes()).unwrap();
        let body = packer.finish().unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (outs, _) = redacted(&[(Side::A, &[head.as_bytes(), &body].concat())]);
        assert!(!lossy(&outs[0]).contains(SECRET), "{text}");
        let mut plain = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&outs[0][head.len()..]), &mut plain)
            .unwrap();
        assert_eq!(plain.len(), text.len());
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

fn literal(first: u8, name: &str, value: &str, huffman: bool) -> Vec<u8> {
    let string = |text: &str| {
        let mut code = text.as_bytes().to_vec();
        if huffman {
            code.clear();
            crate::proto::huffman::encode(text.as_bytes(), &mut code);
        }
        let mut out = vec![code.len() as u8 | if huffman { 0x80 } else { 0 }];
        assert!(code.len() < 127);
        out.extend(code);
        out
    };
    [vec![first], string(name), string(value)].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn http2_in_all_its_forms() {
    for huffman in [false, true] {
        // Added to the table, not, never.
        for first in [0x40, 0, 0x10] {
            let block = [
                vec![0x82, 0x86, 0x84],
                literal(first, "authorization", &format!("Bearer {SECRET}"), huffman),
                literal(first, "x-kept", "kept", huffman),
                literal(first, "content-type", "application/json", huffman),
            ]
            .concat();
            let (one, two) = block.split_at(block.len() / 2);
            let body = format!("{{\"password\":\"{SECRET}\",\"a\":1}}");
            let (left, right) = body.as_bytes().split_at(20);
            let client = [
                PREFACE.to_vec(),
                frame(4, 0, 0, &[]),
                // Padded, with priority, and continued.
                frame(1, 0x28, 1, &[&[3, 0, 0, 0, 0, 16], one, &[7, 7, 7]].concat()),
                frame(9, 4, 1, two),
                frame(0, 8, 1, &[&[2], left, &[9, 9]].concat()),
                frame(8, 0, 0, &[0, 0, 1, 0]),
                frame(0, 1, 1, right),
            ]
            .concat();
            let server = [frame(4, 0, 0, &[]), frame(1, 5, 1, &[0x88])].concat();
            let (outs, found) = redacted(&[(Side::A, &client), (Side::B, &server)]);
            assert!(found.contains(&Kind::Authorization) && found.contains(&Kind::Json), "{found:?}");
            assert!(!lossy(&outs[0]).contains(SECRET));
            assert_eq!(outs[1], server);
            // All that is no value is where it was.
            let fields = outs[0].iter().zip(&client).filter(|(a, b)| a != b).count();
            assert!(fields <= SECRET.len() * 2 + 8, "{fields} bytes differ");
        }
    }
}

#[test]
fn websocket_messages() {
    let request = "GET /s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let key = [1u8, 2, 3, 4];
    let mask = |text: &str| text.bytes().enumerate().map(|(i, b)| b ^ key[i % 4]).collect::<Vec<u8>>();
    let (a, b) = (format!("{{\"token\":\"{}", &SECRET[..9]), format!("{}\",\"n\":1}}", &SECRET[9..]));
    let client = [
        [&[1, 0x80 | a.len() as u8], &key[..], &mask(&a)].concat(),
        [&[0x89, 0x80 | 2], &key[..], &mask("hi")].concat(),
        [&[0x80, 0x80 | b.len() as u8], &key[..], &mask(&b)].concat(),
    ]
    .concat();
    let server = [&[0x81, 5], &b"hello"[..], &[0xc1, 7, 0xaa, 0x56, 4, 0, 1, 2, 3]].concat();
    let (outs, found) = redacted(&[
        (Side::A, request.as_bytes()),
        (Side::B, answer.as_bytes()),
        (Side::A, &client),
        (Side::B, &server),
    ]);
    assert!(found.contains(&Kind::Json) && found.contains(&Kind::Compressed), "{found:?}");
    let first = &outs[0][request.len() + 6..][..a.len()];
    let first: String = first.iter().enumerate().map(|(i, b)| char::from(b ^ key[i % 4])).collect();
    assert!(first.starts_with("{\"token\":\"") && !first.contains("hunter2C"), "{first}");
    assert!(lossy(&outs[1]).contains("hello"));
}

/// Compressed messages that refer to earlier ones, each in one frame or two, and a ping within.
#[test]
fn compressed_websocket_messages() {
    let mut sender = flate2::Compress::new(flate2::Compression::new(6), false);
    let mut messages = Vec::new();
    for i in 0..40 {
        let text = match i % 4 {
            3 => format!("{{\"n\":{i},\"kept\":\"nothing to hide here {i}\"}}"),
            _ => format!("{{\"n\":{i},\"token\":\"{SECRET}{}\",\"kept\":\"more text of it {i}\"}}", i / 8),
        };
        let before = sender.total_out();
        let mut out = vec![0; 4096];
        sender.compress(text.as_bytes(), &mut out, flate2::FlushCompress::Sync).unwrap();
        out.truncate((sender.total_out() - before) as usize - 4);
        messages.push(out);
    }
    let frames = messages.iter().flat_map(|message| {
        let (one, two) = message.split_at(message.len() / 2);
        [&[0x41, one.len() as u8][..], one, &[0x89, 0], &[0x80, two.len() as u8], two].concat()
    });
    let request = "GET /s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let server = [answer.as_bytes(), &frames.collect::<Vec<u8>>()].concat();
    let (outs, found) = redacted(&[(Side::A, request.as_bytes()), (Side::B, &server)]);
    assert!(found.contains(&Kind::Json), "{found:?}");
    let mut receiver = flate2::Decompress::new(false);
    let mut at = answer.len();
    for (i, message) in messages.iter().enumerate() {
        let out = &outs[1][at..at + message.len() + 6];
        at += out.len();
        let half = message.len() / 2;
        let bytes = [&out[2..2 + half], &out[6 + half..], &[0, 0, 0xff, 0xff]].concat();
        let (mut plain, before) = (vec![0; 4096], receiver.total_out());
        receiver.decompress(&bytes, &mut plain, flate2::FlushDecompress::Sync).unwrap();
        plain.truncate((receiver.total_out() - before) as usize);
        let text = lossy(&plain);
        assert!(!text.contains(&SECRET[..9]), "{text}");
        let kept = if i % 4 == 3 { "\"kept\":\"nothing to hide here" } else { "\"kept\":\"more text of it" };
        assert!(text.starts_with(&format!("{{\"n\":{i},")) && text.contains(kept), "{i}: {text}");
    }
}

#[test]
fn what_is_not_understood_is_filled() {
    let own = format!("LOGIN me {SECRET}\r\n");
    let (outs, found) = redacted(&[(Side::A, own.as_bytes()), (Side::B, b"hi, +OK\r\n")]);
    assert_eq!(lossy(&outs[0]), "XXXXX xx xxxxxx1Xxxxxxx11Xxxxx\r\n");
    assert_eq!(lossy(&outs[1]), "xx. .XX\r\n");
    assert_eq!(found, [Kind::Protocol, Kind::Protocol]);
    let binary = [&[0, 0, 0, 9][..], SECRET.as_bytes()].concat();
    assert!(redacted(&[(Side::A, &binary)]).0[0].iter().all(|b| *b == b'x'));
}

#[test]
fn logins_of_mail_and_ftp() {
    for (talk, kept) in [
        (
            vec![
                (Side::B, "220 mail.example ESMTP\r\n".to_owned()),
                (Side::A, "EHLO a.example\r\n".into()),
                (Side::B, "250-mail.example\r\n250 AUTH PLAIN LOGIN\r\n".into()),
                (Side::A, format!("AUTH PLAIN {SECRET}\r\n")),
                (Side::B, "235 ok\r\n".into()),
                (Side::A, format!("MAIL FROM:<{SECRET}@corp.example>\r\nDATA\r\n")),
                (Side::A, format!("Subject: {SECRET}\r\n\r\n-\r\ntoken={SECRET}\r\n.\r\nQUIT\r\n")),
            ],
            vec![
                "EHLO a.example\r\n",
                "AUTH PLAIN ",
                "MAIL FROM:<",
                "\r\n\r\nx\r\nxxxxx.xxxxxx",
                "\r\n.\r\nQUIT\r\n",
                "250 AUTH PLAIN LOGIN",
            ],
        ),
        (
            vec![
                (Side::B, "220 mail\r\n".to_owned()),
                (Side::A, "AUTH LOGIN\r\n".into()),
                (Side::B, "334 VXNlcm5hbWU6\r\n".into()),
                (Side::A, format!("{SECRET}=\r\n")),
                (Side::B, "535 no\r\n".into()),
            ],
            vec!["AUTH LOGIN\r\n", "=\r\n", "535 no"],
        ),
        (
            vec![
                (Side::B, "220 ftp\r\n".to_owned()),
                (Side::A, format!("USER me\r\nPASS {SECRET}\r\nRETR a.txt\r\n")),
                (Side::B, "331 x\r\n230 Hi\r\n".into()),
            ],
            vec!["USER me\r\nPASS ", "\r\nRETR a.txt\r\n", "230 Hi"],
        ),
        (
            vec![
                (Side::B, "+OK ready\r\n".to_owned()),
                (Side::A, format!("USER me\r\nPASS {SECRET}\r\nRETR 1\r\n")),
                (Side::B, format!("+OK\r\n+OK\r\n+OK 9 octets\r\nSubject: {SECRET}\r\n.\r\n")),
            ],
            vec!["USER me\r\nPASS ", "+OK 9 octets\r\nXxxxxxx. ", "\r\n.\r\n"],
        ),
        (
            vec![
                (Side::B, "* OK ready\r\n".to_owned()),
                (
                    Side::A,
                    format!(
                        "a LOGIN me {SECRET}\r\nb SELECT INBOX\r\nc LOGIN {{2}}\r\nme {SECRET}\r\nd FETCH 1 BODY[]\r\n"
                    ),
                ),
                (
                    Side::B,
                    format!(
                        "a OK done\r\n* 3 EXISTS\r\n* 1 FETCH (BODY[] {{{}}}\r\n* OK {SECRET})\r\nd OK\r\n",
                        SECRET.len() + 5
                    ),
                ),
            ],
            vec![
                "a LOGIN ",
                "\r\nb SELECT INBOX\r\nc LOGIN {2}\r\nxx ",
                "d FETCH 1 BODY[]",
                "a OK done\r\n* 3 EXISTS\r\n",
                "d OK\r\n",
            ],
        ),
    ] {
        let talk: Vec<(Side, &[u8])> = talk.iter().map(|(side, text)| (*side, text.as_bytes())).collect();
        let (outs, found) = redacted(&talk);
        let text = lossy(&outs[0]) + &lossy(&outs[1]);
        assert!(!text.contains(SECRET) && found.contains(&Kind::Authorization), "{text}");
        for kept in kept {
            assert!(text.contains(kept), "{kept} is missing: {text}");
        }
    }
}

/// The request that an answer answers is missing. Was it a HEAD, what follows is no body, but the next answer.
#[test]
fn an_answer_to_a_missing_head() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 400\r\n\r\n";
    for framing in ["Content-Length: 400", "Transfer-Encoding: chunked", "Connection: close"] {
        let next =
            format!("HTTP/1.1 200 OK\r\nSet-Cookie: zz={SECRET}\r\nX-Long: {}\r\n\r\n", "a ".repeat(200));
        let head = head.replace("Content-Length: 400", framing);
        let (mut engine, mut conversation) = (engine(), Conversation::new(true));
        let mut outs = [Vec::new(), Vec::new()];
        let mut found = Vec::new();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        conversation.push(&mut engine, Side::A, request, &mut outs[0], &mut found);
        conversation.push(&mut engine, Side::B, OK.as_bytes(), &mut outs[1], &mut found);
        conversation.hole(&mut engine, Side::A, Some(31), &mut outs[0], &mut found);
        for piece in [&head, &next] {
            conversation.push(&mut engine, Side::B, piece.as_bytes(), &mut outs[1], &mut found);
        }
        conversation.end(&mut engine, Side::B, &mut outs[1], &mut found);
        let text = lossy(&outs[1]);
        assert!(!text.contains(SECRET) && text.contains("Set-Cookie: zz="), "{framing}: {text}");
        assert!(found.iter().any(|found| found.kind == Kind::Cookie), "{framing}: {found:?}");
    }
}

/// A talk of one side with a hole in it: gives what is left.
fn with_hole(bytes: &[u8], hole: std::ops::Range<usize>) -> Vec<u8> {
    let (mut engine, mut conversation) = (engine(), Conversation::new(true));
    let (mut out, mut found) = (Vec::new(), Vec::new());
    conversation.push(&mut engine, Side::A, &bytes[..hole.start], &mut out, &mut found);
    conversation.hole(&mut engine, Side::A, Some(hole.len() as u64), &mut out, &mut found);
    conversation.push(&mut engine, Side::A, &bytes[hole.end..], &mut out, &mut found);
    conversation.end(&mut engine, Side::A, &mut out, &mut found);
    assert_eq!(out.len(), bytes.len() - hole.len());
    out
}

#[test]
fn beside_holes_no_secret_is_shown() {
    let body = format!("{{\"a\":\"b\",\"password\":\"{SECRET}\",\"c\":\"d\"}}");
    let mut talk =
        post("application/json", &body).replace("Host:", &format!("Authorization: Bearer {SECRET}\r\nHost:"));
    talk += &get(&format!("Cookie: sid={SECRET}"));
    for start in (0..talk.len()).step_by(3) {
        for len in [1, 5, 40] {
            let out = lossy(&with_hole(talk.as_bytes(), start..(start + len).min(talk.len())));
            for at in 0..SECRET.len() - 9 {
                assert!(!out.contains(&SECRET[at..at + 9]), "hole of {len} at {start}: {out}");
            }
        }
    }
}

#[test]
fn noise_neither_hangs_nor_changes_its_length() {
    let mut seed = 7u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let talks: Vec<Vec<u8>> = vec![
        post("application/json", &format!("{{\"password\":\"{SECRET}\",\"a\":[1,2,{{}}]}}")).into_bytes(),
        [
            PREFACE,
            &frame(4, 0, 0, &[]),
            &frame(1, 4, 1, &literal(0x40, "cookie", SECRET, true)),
            &frame(0, 1, 1, b"{\"a\":1}"),
        ]
        .concat(),
        post(
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\ny\r\n--b--\r\n",
        )
        .into_bytes(),
        post("application/grpc", "\0\0\0\0\x05\x0a\x03abc").into_bytes(),
    ];
    for round in 0..3000 {
        let mut talk = talks[round % talks.len()].clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % talk.len();
            match random() % 3 {
                0 => talk[at] = random() as u8,
                1 => drop(talk.drain(at..(at + random() % 20).min(talk.len()))),
                _ => talk.insert(at, random() as u8),
            }
            if talk.is_empty() {
                talk.push(0);
            }
        }
        let at_most = 1 + random() % 50;
        run(&mut engine(), &[(Side::A, &talk), (Side::B, &talk)], at_most);
    }
}

#[test]
fn own_rules_and_shape() {
    let rules = RulesBuilder {
        headers: vec!["X-Mine".into()],
        fields: vec!["nick".into()],
        patterns: vec!["order-([0-9]+)".into()],
        allowed: vec!["token".into()],
        ..RulesBuilder::default()
    };
    let request = "GET /a?nick=bert&token=abc HTTP/1.1\r\nX-Mine: abc\r\nX-O: order-123456\r\n\r\n";
    let (outs, found) = run(&mut with(rules), &[(Side::A, request.as_bytes())], 1000);
    let text = lossy(&outs[0]);
    assert!(text.contains("&token=abc HTTP") && text.contains("order-") && !text.contains("bert"), "{text}");
    assert!(!text.contains("123456") && !text.contains("X-Mine: abc"), "{text}");
    assert_eq!(found.len(), 3);
    let shape = RulesBuilder { level: Level::Shape, ..RulesBuilder::default() };
    let request =
        post("application/json", "{\"name\":\"bert\",\"n\":35,\"ok\":true}").replace("/a ", "/a/b?q=bert ");
    let (outs, _) = run(&mut with(shape), &[(Side::A, request.as_bytes())], 1000);
    let text = lossy(&outs[0]);
    assert!(
        text.starts_with("POST /a/b?q=") && text.contains("{\"name\":\"") && !text.contains("bert"),
        "{text}"
    );
    assert!(
        text.contains("\"ok\":true}") && !text.contains("35,") && text.contains("Content-Length: 32"),
        "{text}"
    );
}
