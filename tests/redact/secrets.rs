//! Secrets in each place, in segments of all lengths.

use std::io::Write;

use super::files::{Capture, End, Link, Talk};
use super::{Place, SECRET, base64, judge, text, tls2pcap};

fn request(line: &str, headers: &str, media: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{line} HTTP/1.1\r\nHost: a.example\r\n{headers}");
    if !body.is_empty() {
        head += &format!("Content-Type: {media}\r\nContent-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn answer(headers: &str, media: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{headers}Content-Type: {media}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

/// Name, what the client says, what the server says.
fn exchanges() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let ok = || answer("", "application/json", b"{\"ok\":true}");
    let get = |headers: String| (request("GET /a?x=1", &headers, "", b""), ok());
    let post = |media: &str, body: &str| (request("POST /a", "", media, body.as_bytes()), ok());
    let s = SECRET;
    let basic = base64(format!("me:{s}").as_bytes());
    let jwt = format!(
        "eyJhbGciOiJIUzI1NiJ9.{}.{s}",
        base64(format!("{{\"sub\":\"{s}\"}}").as_bytes()).replace('=', "")
    );
    let all = vec![
        ("basic", get(format!("Authorization: Basic {basic}\r\n"))),
        ("bearer", get(format!("Authorization: Bearer {s}\r\n"))),
        ("jwt", get(format!("Authorization: Bearer {jwt}\r\n"))),
        ("jwt elsewhere", post("text/plain", &format!("see {jwt} there"))),
        ("digest", get(format!("Authorization: Digest username=\"{s}\", realm=\"r\", nonce=\"{s}\", uri=\"/\", response=\"{s}\"\r\n"))),
        ("aws", get(format!("Authorization: AWS4-HMAC-SHA256 Credential={s}/20261130/eu/s3/aws4_request, SignedHeaders=host, Signature={s}\r\n"))),
        ("proxy", get(format!("Proxy-Authorization: Basic {basic}\r\n"))),
        ("cookie", get(format!("Cookie: a=b; sid={s}; c=d\r\n"))),
        ("api key", get(format!("X-Api-Key: {s}\r\n"))),
        ("csrf", get(format!("X-CSRF-Token: {s}\r\n"))),
        ("referer", get(format!("Referer: http://me:{s}@b/?token={s}\r\n"))),
        ("set-cookie", (get(String::new()).0, answer(&format!("Set-Cookie: sid={s}; Path=/; HttpOnly\r\n"), "text/plain", b"hello"))),
        ("location", (get(String::new()).0, answer(&format!("Location: /x?code=1&access_token={s}\r\n"), "text/plain", b"hello"))),
        ("query", (request(&format!("GET /a?password={s}&b=c"), "", "", b""), ok())),
        ("form", post("application/x-www-form-urlencoded", &format!("user=me&pass%77ord={s}&b=c"))),
        ("json", post("application/json", &format!("{{\"user\":\"me\",\"password\":\"{s}\",\"n\":3}}"))),
        ("json deep", post("application/json", &format!("{{\"auth\":{{\"a\":[\"{s}\",{{\"b\":\"{s}\"}}]}},\"n\":3}}"))),
        ("graphql", post("application/json", &format!("{{\"query\":\"mutation {{ login(password: \\\"{s}\\\") {{ id }} }}\",\"variables\":{{\"password\":\"{s}\"}}}}"))),
        ("answer", (get(String::new()).0, answer("", "application/json", format!("{{\"access_token\":\"{s}\",\"token_type\":\"Bearer\"}}").as_bytes()))),
        ("xml", post("text/xml", &format!("<a><password>{s}</password><b token=\"{s}\"/></a>"))),
        ("multipart", post("multipart/form-data; boundary=Xy", &format!("--Xy\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n{s}\r\n--Xy\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\nhello\r\n--Xy--\r\n"))),
        ("github", post("text/plain", &format!("see ghp_{s}{s} there"))),
        ("pem", post("text/plain", &format!("-----BEGIN PRIVATE KEY-----\n{s}\n-----END PRIVATE KEY-----\n"))),
        ("mail", post("text/plain", &format!("write to {s}@corp.example, please"))),
        ("chunked", (format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n15\r\n{{\"n\":1,\"password\":\"{}\r\n{:x}\r\n{}\"}}\r\n0\r\n\r\n", &s[..2], s.len(), &s[2..]).into_bytes(), ok())),
        ("gzip", {
            let body = gzip(&format!("{{\"password\":\"{s}\",\"text\":\"{}\"}}", "more text ".repeat(30)));
            (get(String::new()).0, answer("Content-Encoding: gzip\r\n", "application/json", &body))
        }),
        ("binary", (request("POST /a", "", "application/octet-stream", format!("\0\u{1}{s}").as_bytes()), ok())),
    ];
    all.into_iter().map(|(name, (client, server))| (name, client, server)).collect()
}

#[test]
fn http1_in_segments_of_all_lengths() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    let lengths = [1460, 700, 97, 31, 13, 5];
    for (i, (_, client, server)) in exchanges().iter().enumerate() {
        for (j, at_most) in lengths.iter().enumerate() {
            let mut talk = Talk::open(&mut capture, 20_000 + (i * lengths.len() + j) as u16);
            talk.say(End::Client, client, *at_most);
            talk.say(End::Server, server, *at_most);
            talk.close();
        }
    }
    let input = place.write("in.pcapng", &capture.pcapng(false));
    judge(&input, &place.redact(&input, &[]));
}

#[test]
fn at_every_packet_border() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Raw);
    let mut port = 1000;
    for (_, client, server) in exchanges() {
        // Two segments, cut around where the secret begins and ends, and every few bytes elsewhere.
        let whole = client.len().max(server.len());
        for cut in (1..whole).step_by(9) {
            port += 1;
            let mut talk = Talk::open(&mut capture, port);
            for (end, bytes) in [(End::Client, &client), (End::Server, &server)] {
                let (one, two) = bytes.split_at(cut.min(bytes.len()));
                talk.say(end, one, 1460);
                talk.say(end, two, 1460);
            }
        }
    }
    let input = place.write("in.pcap", &capture.pcap());
    let output = place.redact(&input, &[]);
    super::assert_hidden(&std::fs::read(output).unwrap(), "the file");
}

/// Replacements are made of few letters. A secret made of the same must not be taken for one.
#[test]
fn no_secret_stays_because_of_its_letters() {
    let place = Place::new();
    let secrets = ["4111 1111 1111 1111", "acdfqxDFXZ1247", "1247", "qqqq", "7"];
    let mut capture = Capture::new(Link::Ethernet);
    for (i, secret) in secrets.iter().enumerate() {
        let mut talk = Talk::open(&mut capture, 6000 + i as u16);
        let head = format!("Cookie: sid={secret}\r\nX-Api-Key: {secret}\r\n");
        let body = format!("{{\"password\":\"{secret}\",\"note\":\"card 4111 1111 1111 1111\"}}");
        talk.say(End::Client, &request("POST /a", &head, "application/json", body.as_bytes()), 1460);
        talk.say(End::Server, &answer("", "application/json", b"{}"), 1460);
        talk.close();
    }
    for (name, bytes) in [("in.pcapng", capture.pcapng(false)), ("in.pcap", capture.pcap())] {
        let input = place.write(name, &bytes);
        let output = std::fs::read(place.redact(&input, &[])).unwrap();
        for secret in secrets {
            for (before, after) in
                [("sid=", "\r"), ("X-Api-Key: ", "\r"), ("password\":\"", "\""), ("card ", "\"")]
            {
                let secret = if before == "card " { "4111 1111 1111 1111" } else { secret };
                let shown = format!("{before}{secret}{after}");
                assert!(memchr::memmem::find(&bytes, shown.as_bytes()).is_some());
                assert!(memchr::memmem::find(&output, shown.as_bytes()).is_none(), "{name} shows {shown}");
            }
        }
        // With rules that it was not made by, nothing in it counts as a replacement.
        let check = tls2pcap(
            &["redact", "--check", text(&place.path(&name.replace("in", "once")))],
            &["--field", "note"],
        );
        assert_eq!(check.status.code(), Some(7), "{name}");
    }
}

#[test]
fn a_check_finds_each_before() {
    let place = Place::new();
    for (name, client, server) in exchanges() {
        let mut capture = Capture::new(Link::Ethernet);
        let mut talk = Talk::open(&mut capture, 2000);
        talk.say(End::Client, &client, 1460);
        talk.say(End::Server, &server, 1460);
        let input = place.write("in.pcap", &capture.pcap());
        let check = tls2pcap(&["redact", "--check", text(&input)], &[]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!(check.status.code(), Some(7), "{name}");
        let line: Vec<&str> = said.lines().next().unwrap().split('\t').collect();
        assert!(matches!(line[..], ["4" | "5", "0", _]), "{name}: {said}");
        super::assert_hidden(said.as_bytes(), name);
    }
}

pub fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A field that is not in Huffman code.
pub fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
    let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![first], string(name), string(value)].concat()
}

#[test]
fn http2_with_references_to_what_was_replaced() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    let s = SECRET;
    for (i, at_most) in [1460, 50, 11, 3].into_iter().enumerate() {
        let first = [
            vec![0x83, 0x86, 0x84, 0x41, 1, b'a'],
            literal(0x40, "authorization", &format!("Bearer {s}")),
            literal(0x10, "cookie", &format!("sid={s}")),
            literal(0, "x-api-key", s),
            literal(0x40, "content-type", "application/json"),
        ]
        .concat();
        let body = format!("{{\"password\":\"{s}\",\"n\":1}}");
        // The same again, from the table, then with a smaller one.
        let second = [0x82, 0x86, 0x84, 0xc0, 0xbf];
        let third = [
            &[0x20, 0x3f, 0xe1, 0x1f, 0x82, 0x86, 0x84][..],
            &literal(0x40, "authorization", &format!("Bearer {s}")),
        ]
        .concat();
        let client = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(1, 0, 1, &first[..40]),
            frame(9, 4, 1, &first[40..]),
            frame(0, 8, 1, &[&[4], &body.as_bytes()[..20], &[0; 4]].concat()),
            frame(0, 1, 1, &body.as_bytes()[20..]),
            frame(1, 5, 3, &second),
            frame(1, 5, 5, &third),
        ]
        .concat();
        let server = [
            frame(4, 0, 0, &[]),
            frame(4, 1, 0, &[]),
            frame(
                1,
                4,
                1,
                &[
                    vec![0x88],
                    literal(0x40, "set-cookie", &format!("a={s}; Path=/")),
                    literal(0, "content-type", "application/json"),
                ]
                .concat(),
            ),
            frame(0, 1, 1, format!("{{\"token\":\"{s}\"}}").as_bytes()),
            frame(1, 5, 3, &[0x88, 0xbe]),
        ]
        .concat();
        let mut talk = Talk::open(&mut capture, 3000 + i as u16);
        talk.say(End::Client, &client, at_most);
        talk.say(End::Server, &server, at_most);
        talk.close();
    }
    let input = place.write("in.pcapng", &capture.pcapng(true));
    judge(&input, &place.redact(&input, &[]));
}

#[test]
fn the_same_secret_has_the_same_replacement_with_a_key() {
    let place = Place::new();
    let key = place.write("key", &[7; 32]);
    let mut outs = Vec::new();
    for name in ["a.pcap", "b.pcap"] {
        let mut capture = Capture::new(Link::Ethernet);
        let mut talk = Talk::open(&mut capture, 2000);
        talk.say(
            End::Client,
            &request("GET /a", &format!("Cookie: sid={SECRET}\r\nX-Api-Key: {SECRET}\r\n"), "", b""),
            1460,
        );
        let input = place.write(name, &capture.pcap());
        let output = place.path("out.pcap");
        assert!(
            tls2pcap(&["redact", text(&input), "-o", text(&output)], &["--key", text(&key)]).status.success()
        );
        outs.push(std::fs::read(output).unwrap());
    }
    assert_eq!(outs[0], outs[1]);
    let shown = String::from_utf8_lossy(&outs[0]).into_owned();
    let value = |name: &str| shown.split(name).nth(1).unwrap()[..SECRET.len()].to_owned();
    assert_eq!(value("sid="), value("X-Api-Key: "));
    let short = place.write("short", b"too short");
    let refused = tls2pcap(&["redact", "x.pcap", "-o", "y.pcap", "--key", text(&short)], &[]);
    assert_eq!(refused.status.code(), Some(2));
}

/// A record of TLS 1.2.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &(body.len() as u16).to_be_bytes()[..], body].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&[kind], &len[1..], body].concat()
}

#[test]
fn made_up_tls_is_looked_into_and_other_tls_is_not() {
    let place = Place::new();
    for (suite, is_open) in [([0, 1], true), ([0xc0, 0x2f], false)] {
        let mut capture = Capture::new(Link::Ethernet);
        let mut talk = Talk::open(&mut capture, 3000).at(8443);
        let hello = |list: &[u8]| [&[3, 3], &[7; 32][..], &[0], list].concat();
        let client = handshake(1, &hello(&[&[0, 2], &suite[..], &[1, 0]].concat()));
        let server = [handshake(2, &hello(&[&suite[..], &[0]].concat())), handshake(14, &[])].concat();
        let ccs = record(20, &[1]);
        talk.say(End::Client, &record(22, &client), 1000);
        talk.say(End::Server, &[record(22, &server), ccs.clone()].concat(), 1000);
        talk.say(End::Client, &ccs, 1000);
        let sent = request("GET /a", &format!("Cookie: sid={SECRET}\r\n"), "", b"");
        let (one, two) = sent.split_at(60);
        let data = |plain: &[u8]| record(23, &[plain, &[0; 16]].concat());
        talk.say(End::Client, &[data(one), data(two)].concat(), 70);
        talk.say(
            End::Server,
            &data(&answer(&format!("Set-Cookie: sid={SECRET}\r\n"), "text/plain", b"hello")),
            1000,
        );
        let input = place.write("in.pcap", &capture.pcap());
        let output = place.redact(&input, &[]);
        let bytes = std::fs::read(&output).unwrap();
        super::assert_hidden(&bytes, "the file");
        let shown = memchr::memmem::find(&bytes, b"Set-Cookie: sid=").is_some();
        assert_eq!(shown, is_open);
        if is_open {
            judge(&input, &output);
        }
    }
}

#[test]
fn at_level_shape_only_structure_stays() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    for (i, (_, client, server)) in exchanges().into_iter().enumerate() {
        let mut talk = Talk::open(&mut capture, 4000 + i as u16);
        talk.say(End::Client, &client, 300);
        talk.say(End::Server, &server, 300);
    }
    let input = place.write("in.pcap", &capture.pcap());
    let output = place.redact(&input, &["--level", "shape"]);
    let bytes = std::fs::read(&output).unwrap();
    super::assert_hidden(&bytes, "the file");
    let shows = |text: &str| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
    for kept in ["POST /a HTTP/1.1", "GET /a?x=", "X-Api-Key: ", "{\"ok\":true}", "\"user\":\""] {
        assert!(shows(kept), "{kept}");
    }
    for gone in ["a.example", "hello", "corp", "mutation", "user=me"] {
        assert!(!shows(gone), "{gone}");
    }
}

#[test]
fn compressed_bodies_that_are_not_looked_into_stay_valid() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    let all =
        [("br", 5), ("br", 70_000), ("gzip", 23), ("gzip", 70_000), ("deflate", 15), ("deflate", 80_000)];
    for (i, (encoding, len)) in all.into_iter().enumerate() {
        let mut talk = Talk::open(&mut capture, 5000 + i as u16);
        talk.say(End::Client, &request("GET /a", "", "", b""), 1460);
        let mut body: Vec<u8> = (0..len).map(|i| (i * 7 + 13) as u8).collect();
        if encoding == "deflate" {
            body[..2].copy_from_slice(&[0x78, 0x9c]);
        }
        let head = format!("Content-Encoding: {encoding}\r\n");
        talk.say(End::Server, &answer(&head, "text/plain", &body), 1460);
    }
    let input = place.write("in.pcap", &capture.pcap());
    let output = place.redact(&input, &[]);
    for (release, program) in super::gate::tsharks() {
        let shown = super::tshark(program, &output, &["-V", "-Y", "http.response"]);
        let unpacked = shown.lines().filter(|line| line.contains("Content-encoded") && line.contains(" -> "));
        assert_eq!(unpacked.count(), all.len(), "tshark {release}");
    }
}
