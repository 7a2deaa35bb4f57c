//! The protocol of a connection, recognised by its first bytes, in either direction.

use super::h2;

/// Protocols that are recognised with confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Protocol {
    /// And WebSocket, which begins as HTTP/1.1.
    Http1,
    /// And gRPC.
    Http2,
    /// TLS inside TLS.
    Tls,
    Smtp,
    Imap,
    Pop3,
    Ftp,
    Nntp,
    Mqtt,
    Amqp,
    Ldap,
    Dns,
    Postgres,
    Mysql,
    Redis,
    Xmpp,
    Sip,
    Rtsp,
    Irc,
    Ssh,
    Kafka,
    Mongo,
    Cassandra,
    Diameter,
    Vnc,
}

impl Protocol {
    /// As written in comments.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "http/1",
            Protocol::Http2 => "http/2",
            Protocol::Tls => "tls",
            Protocol::Smtp => "smtp",
            Protocol::Imap => "imap",
            Protocol::Pop3 => "pop3",
            Protocol::Ftp => "ftp",
            Protocol::Nntp => "nntp",
            Protocol::Mqtt => "mqtt",
            Protocol::Amqp => "amqp",
            Protocol::Ldap => "ldap",
            Protocol::Dns => "dns",
            Protocol::Postgres => "postgresql",
            Protocol::Mysql => "mysql",
            Protocol::Redis => "redis",
            Protocol::Xmpp => "xmpp",
            Protocol::Sip => "sip",
            Protocol::Rtsp => "rtsp",
            Protocol::Irc => "irc",
            Protocol::Ssh => "ssh",
            Protocol::Kafka => "kafka",
            Protocol::Mongo => "mongodb",
            Protocol::Cassandra => "cassandra",
            Protocol::Diameter => "diameter",
            Protocol::Vnc => "vnc",
        }
    }
}

/// What the bytes of one direction reveal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// It is this.
    Known(Protocol),
    /// Nothing so far, but more bytes may.
    NeedMore,
    /// Nothing, and more bytes will not help.
    Unknown,
}

use Detection::*;
use Protocol::*;

/// The protocol of a negotiated ALPN name.
pub fn from_alpn(alpn: &str) -> Option<Protocol> {
    Some(match alpn {
        "http/1.1" | "http/1.0" | "http/0.9" => Http1,
        "h2" | "grpc-exp" => Http2,
        "imap" => Imap,
        "pop3" => Pop3,
        "ftp" => Ftp,
        "nntp" | "nnsp" => Nntp,
        "mqtt" => Mqtt,
        "dot" => Dns,
        "postgresql" => Postgres,
        "mysql" => Mysql,
        "xmpp-client" | "xmpp-server" => Xmpp,
        "sip/2" => Sip,
        "irc" => Irc,
        "smtp" => Smtp,
        _ => return None,
    })
}

const HTTP_METHODS: &[&[u8]] = &[
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"SEARCH ",
    b"MERGE ",
    b"NOTIFY ",
    b"SUBSCRIBE ",
    b"UNSUBSCRIBE ",
    b"M-SEARCH ",
    b"PURGE ",
    b"QUERY ",
];
const SIP_METHODS: &[&[u8]] = &[
    b"INVITE ",
    b"REGISTER ",
    b"MESSAGE ",
    b"BYE ",
    b"ACK ",
    b"CANCEL ",
    b"PUBLISH ",
    b"PRACK ",
    b"REFER ",
    b"UPDATE ",
    b"INFO ",
];
const RTSP_METHODS: &[&[u8]] = &[b"DESCRIBE ", b"SETUP ", b"PLAY ", b"ANNOUNCE "];
const IMAP_COMMANDS: &[&[u8]] =
    &[b"CAPABILITY", b"LOGIN ", b"AUTHENTICATE ", b"ID ", b"NAMESPACE", b"SELECT ", b"IDLE", b"UID "];
/// What begins a stream and appears nowhere else: from the client.
const CLIENT_WORDS: &[(&[u8], Protocol)] = &[
    (b"EHLO ", Smtp),
    (b"HELO ", Smtp),
    (b"LHLO ", Smtp),
    (b"MAIL FROM:", Smtp),
    (b"CAPA\r\n", Pop3),
    (b"STAT\r\n", Pop3),
    (b"UIDL", Pop3),
    (b"PBSZ ", Ftp),
    (b"PROT ", Ftp),
    (b"FEAT\r\n", Ftp),
    (b"MODE READER", Nntp),
    (b"AUTHINFO ", Nntp),
    (b"CAP LS", Irc),
    (b"NICK ", Irc),
    (b"SSH-2.0-", Ssh),
    (b"SSH-1.99-", Ssh),
    (b"AMQP\x00\x00\x09\x01", Amqp),
    (b"AMQP\x00\x01\x00\x00", Amqp),
    (b"AMQP\x03\x01\x00\x00", Amqp),
    (b"SIP/2.0 ", Sip),
];
/// The same from the server.
const SERVER_WORDS: &[(&[u8], Protocol)] = &[
    (b"HTTP/1.0 ", Http1),
    (b"HTTP/1.1 ", Http1),
    (b"* OK", Imap),
    (b"* PREAUTH", Imap),
    (b"* CAPABILITY", Imap),
    (b"SSH-2.0-", Ssh),
    (b"SSH-1.99-", Ssh),
    (b"RFB 003.", Vnc),
    (b"SIP/2.0 ", Sip),
    (b"RTSP/1.0 ", Rtsp),
    (b"331 ", Ftp),
    (b"-NOAUTH ", Redis),
];

/// What the client's first bytes reveal.
pub fn client(bytes: &[u8]) -> Detection {
    if bytes.starts_with(h2::PREFACE) {
        return Known(Http2);
    }
    if h2::PREFACE.starts_with(bytes) {
        return NeedMore;
    }
    let text = request_line(bytes).or(words(bytes, CLIENT_WORDS)).or(imap_command(bytes)).or(xmpp(bytes));
    text.or(resp(bytes)).or(client_binary(bytes)).or(frames(bytes))
}

/// The best guess from first bytes that are too few, if no more follow: the rest was left out.
pub fn cut_short(bytes: &[u8]) -> Detection {
    if bytes.starts_with(b"PRI *") && h2::PREFACE.starts_with(bytes) { Known(Http2) } else { Unknown }
}

/// What the server's first bytes reveal. `port` is its true port: a hint if several protocols share a greeting.
pub fn server(bytes: &[u8], port: u16) -> Detection {
    if h2::is_settings(bytes) {
        return Known(Http2);
    }
    words(bytes, SERVER_WORDS)
        .or(greeting(bytes, port))
        .or(server_binary(bytes))
        .or(xmpp(bytes))
        .or(frames(bytes))
}

impl Detection {
    /// The stronger of two.
    fn or(self, other: Detection) -> Detection {
        match (self, other) {
            (Known(_), _) => self,
            (_, Known(_)) => other,
            (NeedMore, _) | (_, NeedMore) => NeedMore,
            _ => Unknown,
        }
    }
}

fn frames(bytes: &[u8]) -> Detection {
    if h2::is_frames(bytes) { Known(Http2) } else { Unknown }
}

fn words(bytes: &[u8], words: &[(&[u8], Protocol)]) -> Detection {
    match words.iter().find(|(word, _)| bytes.starts_with(word)) {
        Some((_, protocol)) => Known(*protocol),
        None => more_if(words.iter().any(|(word, _)| word.starts_with(bytes))),
    }
}

fn more_if(condition: bool) -> Detection {
    if condition { NeedMore } else { Unknown }
}

/// `METHOD target`, as HTTP, SIP and RTSP begin.
fn request_line(bytes: &[u8]) -> Detection {
    let all = || HTTP_METHODS.iter().chain(SIP_METHODS).chain(RTSP_METHODS);
    let Some(method) = all().find(|method| bytes.starts_with(method)) else {
        return more_if(all().any(|method| method.starts_with(bytes)));
    };
    let target = &bytes[method.len()..];
    let schemes: [(&[u8], _); 5] =
        [(b"sip:", Sip), (b"sips:", Sip), (b"tel:", Sip), (b"rtsp:", Rtsp), (b"rtsps:", Rtsp)];
    if let Known(protocol) = words(target, &schemes) {
        return Known(protocol);
    }
    if !HTTP_METHODS.contains(method) {
        return more_if(words(target, &schemes) == NeedMore);
    }
    match target {
        [b'/' | b'*', ..] => Known(Http1),
        // A URL, or host:port of CONNECT.
        [first, rest @ ..] if first.is_ascii_alphanumeric() || *first == b'[' => {
            if words(target, &schemes) == NeedMore {
                NeedMore
            } else if rest.contains(&b':') {
                Known(Http1)
            } else {
                more_if(rest.len() < 64)
            }
        }
        [] => NeedMore,
        _ => Unknown,
    }
}

/// `tag COMMAND`, after STARTTLS.
fn imap_command(bytes: &[u8]) -> Detection {
    let tag = bytes.iter().take(16).take_while(|b| b.is_ascii_alphanumeric() || **b == b'.').count();
    if tag == 0 || bytes.get(tag) != Some(&b' ') {
        return Unknown;
    }
    let command = bytes[tag + 1..].get(..13).unwrap_or(&bytes[tag + 1..]).to_ascii_uppercase();
    let found = IMAP_COMMANDS.iter().any(|c| command.starts_with(c));
    // The tag must count: a word and a command's name can be a sentence.
    if found && bytes[..tag].iter().any(u8::is_ascii_digit) { Known(Imap) } else { Unknown }
}

fn xmpp(bytes: &[u8]) -> Detection {
    const OPEN: &[u8] = b"<stream:stream";
    if bytes.starts_with(b"<?xml") || bytes.starts_with(OPEN) {
        if bytes.windows(OPEN.len()).any(|w| w == OPEN) {
            return Known(Xmpp);
        }
        return more_if(bytes.len() < 128);
    }
    more_if(b"<?xml".starts_with(bytes) || OPEN.starts_with(bytes))
}

/// An array of bulk strings: `*2\r\n$3\r\n`.
fn resp(bytes: &[u8]) -> Detection {
    let Some(rest) = bytes.strip_prefix(b"*") else { return more_if(bytes.is_empty()) };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    match &rest[digits..] {
        [] => more_if(digits < 7),
        _ if digits == 0 => Unknown,
        tail if tail.starts_with(b"\r\n$") => Known(Redis),
        tail => more_if(b"\r\n$".starts_with(tail)),
    }
}

/// Greetings whose first word several protocols share.
fn greeting(bytes: &[u8], port: u16) -> Detection {
    if bytes.starts_with(b"+OK") {
        return Known(Pop3);
    }
    if let Some(code) = bytes.first_chunk::<4>().filter(|c| matches!(c[3], b' ' | b'-')) {
        let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default().to_ascii_uppercase();
        let says = |word: &[u8]| line.windows(word.len()).any(|w| w == word);
        return match &code[..3] {
            b"220" if says(b"SMTP") || matches!(port, 25 | 465 | 587 | 2525) => Known(Smtp),
            b"220" if says(b"FTP") || matches!(port, 21 | 990) => Known(Ftp),
            // EHLO or USER will decide.
            b"220" => Unknown,
            b"200" | b"201" if says(b"NNTP") || says(b"INTERNETNEWS") || matches!(port, 119 | 563) => {
                Known(Nntp)
            }
            _ => Unknown,
        };
    }
    more_if(b"+OK".starts_with(bytes) || b"220 ".starts_with(bytes) || b"200 ".starts_with(bytes))
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|b| usize::from(u16::from_be_bytes(*b)))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    be32(bytes, at).map(u32::swap_bytes)
}

/// A TLS record that holds a handshake message of this type.
fn tls_record(bytes: &[u8], message: u8) -> bool {
    matches!(bytes, [22, 3, 0..=4, _, _, first, ..] if *first == message)
}

fn client_binary(bytes: &[u8]) -> Detection {
    /// `None` if there are too few bytes.
    type Test = fn(&[u8]) -> Option<bool>;
    let tests: [(Test, Protocol); 10] = [
        (|b| Some(tls_record(b, 1)), Tls),
        (mqtt, Mqtt),
        (postgres, Postgres),
        (mysql_login, Mysql),
        (dns_query, Dns),
        (ldap, Ldap),
        (kafka, Kafka),
        (mongo, Mongo),
        (cassandra, Cassandra),
        (diameter, Diameter),
    ];
    tests.iter().find(|(test, _)| test(bytes) == Some(true)).map_or(
        // Some of these lengths are split from the rest by programs that write them alone.
        more_if(bytes.len() < 6),
        |(_, protocol)| Known(*protocol),
    )
}

fn server_binary(bytes: &[u8]) -> Detection {
    if tls_record(bytes, 2) {
        return Known(Tls);
    }
    if mysql_greeting(bytes) == Some(true) {
        return Known(Mysql);
    }
    more_if(bytes.len() < 6)
}

fn mqtt(b: &[u8]) -> Option<bool> {
    if *b.first()? != 0x10 {
        return Some(false);
    }
    let length = 1 + b[1..].iter().take(3).take_while(|b| **b >= 0x80).count() + 1;
    let name = b.get(length..)?;
    Some(name.starts_with(b"\0\x04MQTT") || name.starts_with(b"\0\x06MQIsdp"))
}

/// StartupMessage of protocol 3, or CancelRequest.
fn postgres(b: &[u8]) -> Option<bool> {
    let (len, code) = (be32(b, 0)?, be32(b, 4)?);
    // A request of Kafka can begin like the first two numbers.
    let named = code & !0xff == 0x0003_0000 && (len == 9 || b.get(8)?.is_ascii_lowercase());
    Some((8..=10_000).contains(&len) && (named || code == 80_877_102 && len == 16))
}

/// HandshakeResponse41 after the SSLRequest.
fn mysql_login(b: &[u8]) -> Option<bool> {
    let len = le32(b, 0)? & 0xff_ffff;
    let capabilities = le32(b, 4)?;
    let filler = b.get(13..32)?;
    Some(
        len >= 32
            && (1..=2).contains(&b[3])
            && capabilities & 0xa00 == 0xa00
            && filler.iter().all(|byte| *byte == 0),
    )
}

fn mysql_greeting(b: &[u8]) -> Option<bool> {
    let len = le32(b, 0)? & 0xff_ffff;
    let version = b.get(5..)?;
    let end = version.iter().take(64).position(|byte| *byte == 0)?;
    Some(
        b[3] == 0
            && b[4] == 10
            && (40..=512).contains(&len)
            && end > 2
            && version[..end].iter().all(u8::is_ascii_graphic)
            && version[0].is_ascii_digit(),
    )
}

/// A standard query with one question, after its length.
fn dns_query(b: &[u8]) -> Option<bool> {
    let len = be16(b, 0)?;
    let [flags, questions, answers, authorities, additional] = [4, 6, 8, 10, 12].map(|at| be16(b, at));
    let label = usize::from(*b.get(14)?);
    Some(
        (17..=1024).contains(&len)
            && b.len() >= 2 + len
            && flags? & !0x0130 == 0
            && (questions?, answers?, authorities?) == (1, 0, 0)
            && additional? <= 2
            && label <= 63
            && 14 + label < 2 + len,
    )
}

/// SEQUENCE { messageID INTEGER, request }.
fn ldap(b: &[u8]) -> Option<bool> {
    const REQUESTS: [u8; 9] = [0x60, 0x42, 0x63, 0x66, 0x68, 0x4a, 0x6c, 0x6e, 0x77];
    let header = match *b.get(1)? {
        0..=0x7f => 2,
        n @ 0x81..=0x84 => 2 + usize::from(n & 7),
        _ => return Some(false),
    };
    let id = usize::from(*b.get(header + 1)?);
    Some(
        b[0] == 0x30 && b[header] == 2 && (1..=4).contains(&id) && REQUESTS.contains(b.get(header + 2 + id)?),
    )
}

/// ApiVersions, which every client of this decade sends first.
fn kafka(b: &[u8]) -> Option<bool> {
    let len = be32(b, 0)? as usize;
    let (key, version, id) = (be16(b, 4)?, be16(b, 6)?, be16(b, 12)?);
    Some((10..=1024).contains(&len) && key == 18 && version <= 5 && (id == 0xffff || id + 10 <= len))
}

/// OP_MSG or OP_QUERY that answers nothing.
fn mongo(b: &[u8]) -> Option<bool> {
    let (len, to, op) = (le32(b, 0)?, le32(b, 8)?, le32(b, 12)?);
    Some((17..=48_000_000).contains(&len) && to == 0 && (op == 2013 || op == 2004))
}

/// OPTIONS or STARTUP.
fn cassandra(b: &[u8]) -> Option<bool> {
    let len = be32(b, 5)?;
    Some(
        (3..=5).contains(&b[0])
            && b[1] & !0x1f == 0
            && ((b[4] == 5 && len == 0) || (b[4] == 1 && (2..=512).contains(&len))),
    )
}

/// Capabilities-Exchange-Request.
fn diameter(b: &[u8]) -> Option<bool> {
    let (head, command, application) = (be32(b, 0)?, be32(b, 4)?, be32(b, 8)?);
    let len = head & 0xff_ffff;
    Some(
        head >> 24 == 1
            && len % 4 == 0
            && (20..=65_536).contains(&len)
            && command == 0x8000_0101
            && application == 0,
    )
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
