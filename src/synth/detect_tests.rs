use super::*;

fn ldap_bind() -> Vec<u8> {
    b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00".to_vec()
}

#[test]
fn a_client_is_recognised_by_what_it_says_first() {
    let mysql = [&b"\x40\0\0\x02\x85\xae\xff\x19\0\0\0\x01\x2d"[..], &[0; 23], b"root\0"].concat();
    let samples: &[(&[u8], Protocol)] = &[
        (b"GET / HTTP/1.1\r\n", Http1),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Http1),
        (b"GET http://a.example/ HTTP/1.1\r\n", Http1),
        (h2::PREFACE, Http2),
        (b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0", Http2),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", Tls),
        (b"EHLO me\r\n", Smtp),
        (b"a1 LOGIN u p\r\n", Imap),
        (b"CAPA\r\n", Pop3),
        (b"PBSZ 0\r\n", Ftp),
        (b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test", Mqtt),
        (b"AMQP\0\0\x09\x01", Amqp),
        (&ldap_bind(), Ldap),
        (b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01", Dns),
        (b"\0\0\0\x13\0\x03\0\0user\0me\0\0", Postgres),
        (&mysql, Mysql),
        (b"*1\r\n$4\r\nPING\r\n", Redis),
        (b"<?xml version='1.0'?><stream:stream to='a'>", Xmpp),
        (b"REGISTER sip:a.example SIP/2.0\r\n", Sip),
        (b"OPTIONS rtsp://a/b RTSP/1.0\r\n", Rtsp),
        (b"OPTIONS sip:a SIP/2.0\r\n", Sip),
        (b"CAP LS 302\r\n", Irc),
        (b"SSH-2.0-x\r\n", Ssh),
        (b"\0\0\0\x15\0\x12\0\x03\0\0\0\x01\0\x07console\x04\x01\x31\x01", Kafka),
        (b"\x20\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x0b", Mongo),
        (b"\x04\0\0\0\x05\0\0\0\0", Cassandra),
        (b"\x01\0\0\x80\x80\0\x01\x01\0\0\0\0", Diameter),
    ];
    for (bytes, protocol) in samples {
        assert_eq!(client(bytes), Known(*protocol), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_server_may_speak_first() {
    let samples: &[(&[u8], u16, Protocol)] = &[
        (b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64", 443, Http2),
        (b"220 mail.example ESMTP ready\r\n", 443, Smtp),
        (b"220 welcome\r\n", 465, Smtp),
        (b"220 ProFTPD Server\r\n", 443, Ftp),
        (b"* OK IMAP4rev1\r\n", 993, Imap),
        (b"+OK ready\r\n", 995, Pop3),
        (b"200 InterNetNews\r\n", 443, Nntp),
        (b"HTTP/1.1 200 OK\r\n", 443, Http1),
        (b"RFB 003.008\n", 443, Vnc),
        (b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0", 443, Mysql),
    ];
    for (bytes, port, protocol) in samples {
        assert_eq!(server(bytes, *port), Known(*protocol), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(server(b"220 hello\r\n", 443), Unknown, "SMTP and FTP begin so");
}

#[test]
fn every_prefix_waits_for_more_or_knows_and_never_says_something_else() {
    let samples: &[(&[u8], Protocol)] = &[
        (b"GET / HTTP/1.1\r\n", Http1),
        (h2::PREFACE, Http2),
        (b"PUT /x HTTP/1.1\r\n", Http1),
        (b"PROPFIND /x HTTP/1.1\r\n", Http1),
        (b"EHLO me\r\n", Smtp),
        (b"*12\r\n$4\r\nPING\r\n", Redis),
        (b"INVITE sip:a SIP/2.0\r\n", Sip),
    ];
    for (bytes, protocol) in samples {
        for end in 0..bytes.len() {
            let verdict = client(&bytes[..end]);
            assert!(matches!(verdict, NeedMore) || verdict == Known(*protocol), "{verdict:?} at {end}");
        }
    }
}

#[test]
fn other_bytes_are_not_taken_for_a_protocol() {
    let samples: &[&[u8]] = &[
        b"hello world, this is a line",
        b"{\"jsonrpc\": \"2.0\", \"id\": 1}",
        b"GETTING started is easy",
        b"PING\r\n",
        &[0; 64],
        &[0xff; 64],
        b"the LOGIN page of the site",
        b"\x00\x00\x00\x10binary length first",
        b"field=value&other=thing",
        b"INFO {\"server_id\":\"x\"}\r\n",
    ];
    for bytes in samples {
        assert_eq!(client(bytes), Unknown, "{:?}", String::from_utf8_lossy(bytes));
        assert!(!matches!(server(bytes, 443), Known(_)), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut state = 1u64;
    let mut bytes = Vec::new();
    for round in 0..20_000 {
        bytes.clear();
        for _ in 0..round % 40 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Small values reach further into the formats than random ones.
            let byte = (state >> 33) as u8;
            bytes.push(if state >> 63 == 0 { byte } else { byte & 3 });
        }
        client(&bytes);
        server(&bytes, 443);
    }
}
