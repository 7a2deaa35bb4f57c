//! Where the messages of a protocol end, only to find out whether a call ends in the middle of one.
//!
//! HTTP is not here: [`super::flow`] follows its messages for other reasons too.

use super::detect::Protocol;
use super::h1;

/// The longest header that announces a length.
const HEADER_MAX: usize = 16;

/// The longest head of SIP and RTSP.
const HEAD_MAX: usize = 4096;

/// Longer messages are taken for a misread length.
const MESSAGE_MAX: u64 = 1 << 30;

/// The messages of one direction.
#[derive(Debug)]
pub struct Shape {
    protocol: Protocol,
    place: Expecting,
    /// AMQP 1.0, whose frames differ from those of 0-9-1.
    amqp_one: bool,
    /// The first byte seen began a message, and no byte was missing since.
    sure: bool,
}

#[derive(Debug)]
enum Expecting {
    /// In the header of a message.
    Header([u8; HEADER_MAX], usize),
    /// So many bytes before the next message.
    Body(u64),
    /// In lines.
    Lines(Lines),
    /// In XML (XMPP).
    Xml(Xml),
    /// In a head that an empty line ends.
    Head(Vec<u8>),
    /// In RESP (Redis).
    Resp(Resp),
    /// Nobody knows.
    Lost,
}

/// A value of RESP: this many elements of it are still to come.
#[derive(Clone, Copy, Debug, Default)]
struct Resp {
    elements: u64,
    kind: u8,
    number: u64,
    /// In a line, or in the bytes that it announced.
    in_line: bool,
    bytes: u64,
}

/// The last line.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    /// Its first bytes, and how many they are.
    begin: [u8; 4],
    len: usize,
    ended: bool,
}

/// Elements of XML that are open, but for that of the stream.
#[derive(Clone, Copy, Debug, Default)]
struct Xml {
    depth: u32,
    tag: Option<Tag>,
}

/// In a tag.
#[derive(Clone, Copy, Debug, Default)]
struct Tag {
    /// Its first bytes, and how many they are.
    begin: [u8; 14],
    len: usize,
    quote: Option<u8>,
    last: u8,
}

/// What the beginning of a header shows.
enum Told {
    /// The header is at least so long.
    Needs(usize),
    /// So many bytes follow it.
    Follow(u64),
    Nonsense,
}

impl Shape {
    /// `None` if it is unknown where this protocol's messages end. `from_start`: the first byte begins one.
    pub fn new(protocol: Protocol, from_start: bool) -> Option<Shape> {
        let place = begin(protocol)?;
        Some(Shape { protocol, place, amqp_one: false, sure: from_start })
    }

    /// No message is open, or that is unknown.
    pub fn is_between(&self) -> bool {
        match &self.place {
            Expecting::Header(_, n) => *n == 0,
            Expecting::Body(_) => false,
            Expecting::Lines(lines) => lines.is_between(self.protocol),
            Expecting::Xml(xml) => xml.depth == 0 && xml.tag.is_none(),
            Expecting::Head(head) => head.is_empty(),
            Expecting::Resp(resp) => resp.elements == 0,
            Expecting::Lost => true,
        }
    }

    /// Bytes are missing.
    pub fn missing(&mut self, len: Option<u64>) {
        match (&mut self.place, len) {
            (Expecting::Body(left), Some(len)) if len < *left => *left -= len,
            (Expecting::Body(left), Some(len)) if len == *left => self.begin(),
            _ => {
                self.begin();
                self.sure = false;
            }
        }
    }

    /// The other side sends, or time has passed: most likely the next byte begins a message, if it is unknown
    /// what the last one was.
    pub fn paused(&mut self) {
        if !self.sure {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.place = begin(self.protocol).unwrap_or(Expecting::Lost);
    }

    /// Bytes go by.
    pub fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match &mut self.place {
                Expecting::Lost => return,
                Expecting::Lines(lines) => return lines.walk(bytes),
                Expecting::Xml(xml) => return bytes.iter().for_each(|byte| xml.step(*byte)),
                Expecting::Resp(resp) => resp.walk(bytes),
                Expecting::Body(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.begin();
                    }
                    &bytes[n..]
                }
                Expecting::Header(header, n) => {
                    header[*n] = bytes[0];
                    *n += 1;
                    let header = &header[..*n];
                    match told(self.protocol, header, self.amqp_one) {
                        Told::Needs(needed) if needed > header.len() && needed <= HEADER_MAX => {}
                        Told::Follow(left) if left <= MESSAGE_MAX => {
                            if self.protocol == Protocol::Amqp && header.starts_with(b"AMQP") {
                                self.amqp_one = header.ends_with(&[1, 0, 0]);
                            }
                            self.place = Expecting::Body(left);
                            if left == 0 {
                                self.begin();
                            }
                        }
                        _ => self.place = Expecting::Lost,
                    }
                    &bytes[1..]
                }
                Expecting::Head(head) => {
                    let before = head.len();
                    head.extend_from_slice(&bytes[..bytes.len().min(HEAD_MAX - before)]);
                    match h1::head_len(head) {
                        Some(len) => {
                            let left = content_length(&head[..len]);
                            self.place = Expecting::Body(left);
                            if left == 0 {
                                self.begin();
                            }
                            &bytes[len - before..]
                        }
                        None if head.len() >= HEAD_MAX => {
                            self.place = Expecting::Lost;
                            return;
                        }
                        // Line ends between messages keep a connection alive.
                        None if head.iter().all(|b| b"\r\n".contains(b)) => {
                            self.begin();
                            return;
                        }
                        None => return,
                    }
                }
            };
        }
    }
}

fn begin(protocol: Protocol) -> Option<Expecting> {
    match protocol {
        Protocol::Mqtt
        | Protocol::Amqp
        | Protocol::Ldap
        | Protocol::Dns
        | Protocol::Postgres
        | Protocol::Mysql
        | Protocol::Kafka
        | Protocol::Mongo
        | Protocol::Cassandra
        | Protocol::Diameter
        | Protocol::Tls => Some(Expecting::Header([0; HEADER_MAX], 0)),
        Protocol::Smtp | Protocol::Imap | Protocol::Pop3 | Protocol::Ftp | Protocol::Nntp | Protocol::Irc => {
            Some(Expecting::Lines(Lines::default()))
        }
        Protocol::Xmpp => Some(Expecting::Xml(Xml::default())),
        Protocol::Sip | Protocol::Rtsp => Some(Expecting::Head(Vec::new())),
        Protocol::Redis => Some(Expecting::Resp(Resp::default())),
        Protocol::Http1 | Protocol::Http2 | Protocol::Ssh | Protocol::Vnc => None,
    }
}

fn told(protocol: Protocol, header: &[u8], amqp_one: bool) -> Told {
    use Told::{Follow, Needs, Nonsense};
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let little = |bytes: &[u8]| bytes.iter().rfold(0u64, |n, byte| n << 8 | u64::from(*byte));
    // A length of itself and of what follows it.
    let with_itself = |len: u64, header: u64| len.checked_sub(header).map_or(Nonsense, Follow);
    match protocol {
        Protocol::Mqtt => match header {
            [_, len @ ..] if len.len() > 4 => Nonsense,
            [_, len @ .., last] if last & 0x80 == 0 => {
                let higher = len.iter().rfold(u64::from(*last), |n, byte| n << 7 | u64::from(byte & 0x7f));
                Follow(higher)
            }
            _ => Needs(header.len() + 1),
        },
        Protocol::Amqp if header.starts_with(b"AMQP") => {
            if header.len() < 8 {
                Needs(8)
            } else {
                Follow(0)
            }
        }
        Protocol::Amqp if amqp_one => match header {
            [a, b, c, d] => with_itself(number(&[*a, *b, *c, *d]), 4),
            _ => Needs(4),
        },
        Protocol::Amqp => match header {
            [_, _, _, len @ ..] if len.len() == 4 => Follow(number(len) + 1),
            _ => Needs(7),
        },
        Protocol::Ldap => match header {
            [_, len, more @ ..] if len & 0x80 != 0 => {
                let count = usize::from(len & 0x7f);
                if more.len() < count { Needs(2 + count) } else { Follow(number(more)) }
            }
            [_, len] => Follow((*len).into()),
            _ => Needs(2),
        },
        Protocol::Dns => {
            if header.len() < 2 {
                Needs(2)
            } else {
                Follow(number(header))
            }
        }
        Protocol::Kafka => {
            if header.len() < 4 {
                Needs(4)
            } else {
                Follow(number(header))
            }
        }
        Protocol::Postgres => match header {
            // A startup message has no type.
            [0, len @ ..] if len.len() == 3 => with_itself(number(len), 4),
            [0, ..] => Needs(4),
            [_, len @ ..] if len.len() == 4 => with_itself(number(len), 4),
            _ => Needs(5),
        },
        Protocol::Mysql => {
            if header.len() < 4 {
                Needs(4)
            } else {
                Follow(little(&header[..3]))
            }
        }
        Protocol::Mongo => {
            if header.len() < 16 {
                Needs(16)
            } else {
                with_itself(little(&header[..4]), 16)
            }
        }
        Protocol::Cassandra => match header {
            // Version 5 has another framing after the handshake.
            [version, ..] if version & 0x7f > 4 => Nonsense,
            [version, _, _, _, len @ ..] if version & 0x7f < 3 && len.len() == 4 => Follow(number(len)),
            [_, _, _, _, _, len @ ..] if len.len() == 4 => Follow(number(len)),
            _ => Needs(header.len() + 1),
        },
        Protocol::Diameter => {
            if header.len() < 4 {
                Needs(4)
            } else {
                with_itself(number(&header[1..]), 4)
            }
        }
        Protocol::Tls => {
            if header.len() < 5 {
                Needs(5)
            } else {
                Follow(number(&header[3..]))
            }
        }
        _ => Nonsense,
    }
}

/// Of SIP, also in its compact form, and RTSP.
fn content_length(head: &[u8]) -> u64 {
    let lines = head.split(|b| *b == b'\n');
    let mut value = lines.filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = line[..colon].trim_ascii();
        let is_it = name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"l");
        is_it.then(|| line[colon + 1..].trim_ascii())
    });
    let number = value.next_back().and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    number.filter(|len| *len <= MESSAGE_MAX).unwrap_or(0)
}

impl Lines {
    fn walk(&mut self, bytes: &[u8]) {
        let Some((last, before)) = bytes.split_last() else { return };
        let begin = before.iter().rposition(|b| *b == b'\n').map(|at| at + 1);
        if begin.is_some() || self.ended {
            self.len = 0;
        }
        let line = &bytes[begin.unwrap_or(0)..];
        let n = line.len().min(self.begin.len() - self.len);
        self.begin[self.len..self.len + n].copy_from_slice(&line[..n]);
        self.len += n;
        self.ended = *last == b'\n';
    }

    fn is_between(&self, protocol: Protocol) -> bool {
        let goes_on = match self.begin {
            // A reply of several lines.
            [a, b, c, b'-'] => {
                matches!(protocol, Protocol::Smtp | Protocol::Ftp)
                    && self.len == 4
                    && [a, b, c].iter().all(u8::is_ascii_digit)
            }
            _ => false,
        };
        self.len == 0 || self.ended && !goes_on
    }
}

impl Xml {
    fn step(&mut self, byte: u8) {
        let Some(tag) = &mut self.tag else {
            self.tag = (byte == b'<').then(Tag::default);
            return;
        };
        match (tag.quote, byte) {
            (None, b'>') => {
                let name = &tag.begin[..tag.len];
                match name.first() {
                    Some(b'?' | b'!') => {}
                    _ if name.starts_with(b"stream:stream") => self.depth = 0,
                    Some(b'/') => self.depth = self.depth.saturating_sub(1),
                    _ if tag.last == b'/' => {}
                    _ => self.depth = self.depth.saturating_add(1),
                }
                self.tag = None;
                return;
            }
            (None, b'\'' | b'"') => tag.quote = Some(byte),
            (Some(quote), _) if quote == byte => tag.quote = None,
            _ => {}
        }
        if tag.len < tag.begin.len() {
            tag.begin[tag.len] = byte;
            tag.len += 1;
        }
        tag.last = byte;
    }
}

impl Resp {
    /// Up to the end of a line or of announced bytes; returns what follows.
    fn walk<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.bytes > 0 {
            let n = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(bytes.len());
            self.bytes -= n as u64;
            self.elements -= u64::from(self.bytes == 0);
            return &bytes[n..];
        }
        if !self.in_line {
            // What follows the last value begins a new one.
            self.elements = self.elements.max(1);
            *self = Resp { elements: self.elements, kind: bytes[0], in_line: true, ..Resp::default() };
        }
        let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
        for digit in bytes[..end].iter().filter(|b| b.is_ascii_digit()) {
            self.number = self.number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        }
        if bytes[..end].contains(&b'-') {
            // Nothing, instead of a number of bytes or elements.
            self.kind = b'-';
        }
        if bytes[end - 1] == b'\n' {
            self.in_line = false;
            self.line_ended();
        }
        &bytes[end..]
    }

    fn line_ended(&mut self) {
        let number = self.number.min(MESSAGE_MAX);
        match self.kind {
            // A line end follows the bytes.
            b'$' | b'!' | b'=' => self.bytes = number + 2,
            b'*' | b'~' | b'>' => self.elements = (self.elements - 1).saturating_add(number),
            b'%' => self.elements = (self.elements - 1).saturating_add(2 * number),
            _ => self.elements -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::*;

    fn publish(len: usize) -> Vec<u8> {
        let mut message = vec![0x30, len as u8 | 0x80, (len >> 7) as u8];
        message.resize(3 + len, 0xff);
        message
    }

    /// Whole messages, one in each call.
    fn messages() -> Vec<(Protocol, Vec<Vec<u8>>)> {
        let bytes = |all: &[&[u8]]| all.iter().map(|one| one.to_vec()).collect::<Vec<_>>();
        let sip = b"MESSAGE sip:a SIP/2.0\r\nl: 4\r\n\r\nbody";
        let ber = [&[0x30, 0x82, 1, 0][..], &[7; 256]].concat();
        let mongo = [&b"\x14\0\0\0"[..], &[9; 16]].concat();
        vec![
            (Mqtt, vec![vec![0x10, 0], publish(200), publish(300), vec![0xd0, 0]]),
            (Amqp, bytes(&[b"AMQP\0\0\x09\x01", b"\x01\0\0\0\0\0\x02ab\xce", b"\x08\0\0\0\0\0\0\xce"])),
            (
                Amqp,
                bytes(&[
                    b"AMQP\x03\x01\0\0",
                    b"\0\0\0\x09\x02\x01\0\0x",
                    b"AMQP\0\x01\0\0",
                    b"\0\0\0\x08\x02\0\0\0",
                ]),
            ),
            (Ldap, bytes(&[b"\x30\x03abc", &ber])),
            (Dns, bytes(&[b"\0\x03abc", b"\0\x01a"])),
            (Kafka, bytes(&[b"\0\0\0\x03abc"])),
            (Postgres, bytes(&[b"\0\0\0\x09\0\x03\0\0\0", b"Q\0\0\0\x06a\0", b"X\0\0\0\x04"])),
            (Mysql, bytes(&[b"\x01\0\0\0\x0e", b"\x02\0\0\x01ab"])),
            (Mongo, bytes(&[&mongo, &mongo])),
            (Cassandra, bytes(&[b"\x04\0\0\0\x05\0\0\0\x01a", b"\x84\0\0\0\x06\0\0\0\0"])),
            (Cassandra, bytes(&[b"\x02\0\0\x05\0\0\0\x01a"])),
            (
                Diameter,
                bytes(&[b"\x01\0\0\x06ab", b"\x01\0\0\x14\x80\0\x01\x01\0\0\0\0\0\0\0\x01\0\0\0\x01"]),
            ),
            (Tls, bytes(&[b"\x16\x03\x01\0\x02ab"])),
            (Sip, bytes(&[sip, b"\r\n", b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\n\r\n"])),
            (
                Redis,
                bytes(&[
                    b"*2\r\n$4\r\nECHO\r\n$3\r\na\nb\r\n",
                    b"+OK\r\n",
                    b"$-1\r\n",
                    b"*0\r\n",
                    b"*-1\r\n",
                    b"PING\r\n",
                    b"%1\r\n+a\r\n:1\r\n",
                    b"$0\r\n\r\n",
                    b"-ERR 5 wrong\r\n",
                    b"*1\r\n*1\r\n:-7\r\n",
                ]),
            ),
            (Imap, bytes(&[b"a1 NOOP\r\n", b"* 1 EXISTS\r\na1 OK\r\n"])),
            (Smtp, bytes(&[b"220 hi\r\n", b"250-a\r\n250-b\r\n250 c\r\n", b"221 bye\r\n"])),
            (
                Xmpp,
                bytes(&[
                    b"<?xml version='1.0'?>",
                    b"<stream:stream a='/>'>",
                    b"<a b='c>'><d/>x</a>",
                    b"<d/>",
                    b"</stream:stream>",
                ]),
            ),
        ]
    }

    #[test]
    fn a_message_is_open_until_its_last_byte_however_it_is_split() {
        for (protocol, messages) in messages() {
            for size in [1, 2, 3, 7, usize::MAX] {
                let mut shape = Shape::new(protocol, true).unwrap();
                for message in &messages {
                    let mut left = message.len();
                    for piece in message.chunks(size.min(message.len())) {
                        left -= piece.len();
                        shape.walk(piece);
                        // Text may look complete before it is, and line ends alone are no message.
                        let vague = matches!(shape.place, Expecting::Lines(_)) || message == b"\r\n";
                        if left == 0 || !vague {
                            let context = format!("{protocol:?} {message:?}, pieces of {size}, {left} left");
                            assert_eq!(shape.is_between(), left == 0, "{context}");
                        }
                    }
                }
                // All at once, too.
                let mut shape = Shape::new(protocol, true).unwrap();
                shape.walk(&messages.concat());
                assert!(shape.is_between(), "{protocol:?}");
            }
        }
    }

    #[test]
    fn a_hole_in_a_body_leaves_the_border_where_it_is() {
        let mut shape = Shape::new(Kafka, true).unwrap();
        shape.walk(b"\0\0\0\x10abc");
        shape.missing(Some(12));
        assert!(!shape.is_between());
        shape.walk(b"x");
        assert!(shape.is_between());
        shape.walk(b"\0\0\0\x10abc");
        shape.missing(Some(13));
        assert!(shape.is_between());
        // Beyond it, or of unknown length, nothing is known for sure.
        for len in [Some(100), None] {
            let mut shape = Shape::new(Kafka, true).unwrap();
            shape.walk(b"\0\0\0\x10abc");
            shape.missing(len);
            assert!(shape.is_between() && !shape.sure);
            shape.walk(b"rest of a message");
            shape.paused();
            assert!(shape.is_between());
        }
    }

    #[test]
    fn noise_never_panics() {
        let mut noise = 1u32;
        for protocol in messages().into_iter().map(|(protocol, _)| protocol) {
            for _ in 0..2_000 {
                let mut shape = Shape::new(protocol, true).unwrap();
                for _ in 0..8 {
                    let bytes: Vec<u8> = (0..noise % 9)
                        .map(|_| {
                            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            b"\r\n*$%-0189\0\x01\x02\xff\x7f>A"[(noise >> 24) as usize % 17]
                        })
                        .collect();
                    noise = noise.wrapping_add(1);
                    shape.walk(&bytes);
                    if noise.is_multiple_of(5) {
                        shape.missing(noise.is_multiple_of(2).then_some(3));
                    }
                }
            }
        }
    }
}
