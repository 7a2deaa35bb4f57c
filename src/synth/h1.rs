//! HTTP/1 messages, only to find out where one ends.

use super::detect;
use crate::track::segment::Side;

/// The longest head that is read.
pub const HEAD_MAX: usize = 64 << 10;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes, then the next message.
    Length(u64),
    /// Bytes up to an end that the head does not give.
    Open,
    /// No more messages: another protocol.
    Upgraded,
    /// No more messages: WebSocket.
    WebSocket,
}

/// A message of this side begins here.
pub fn begins(side: Side, bytes: &[u8]) -> bool {
    match side {
        Side::Client => detect::client(bytes) == detect::Detection::Known(detect::Protocol::Http1),
        Side::Server => status(bytes).is_some(),
    }
}

/// The status of a response that begins here.
fn status(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(b"HTTP/1.")?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let ends = rest.get(3).is_none_or(|b| matches!(b, b' ' | b'\r'));
    (version[0].is_ascii_digit() && version[1] == b' ' && ends)
        .then(|| digits.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0')))
}

/// What a request means for its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The response has no body.
    Head,
    /// If it is granted, another protocol follows.
    Connect,
    /// Nothing.
    Other,
}

/// What this request means for its response.
pub fn request(head: &[u8]) -> Request {
    if head.starts_with(b"HEAD ") {
        Request::Head
    } else if head.starts_with(b"CONNECT ") {
        Request::Connect
    } else {
        Request::Other
    }
}

/// A response after which the true one follows.
pub fn is_interim(head: &[u8]) -> bool {
    matches!(status(head), Some(100 | 102..200))
}

/// Length of the head that begins here, with the empty line; `None` if it does not end here.
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// What follows this head, which if it is a response's answers `request`.
pub fn body(head: &[u8], request: Request) -> BodyLength {
    let status = status(head);
    match status {
        Some(101) if head.to_ascii_lowercase().windows(9).any(|w| w == b"websocket") => {
            return BodyLength::WebSocket;
        }
        Some(101) => return BodyLength::Upgraded,
        Some(100..200 | 204 | 304) => return BodyLength::Length(0),
        Some(200..300) if request == Request::Connect => return BodyLength::Upgraded,
        Some(_) if request == Request::Head => return BodyLength::Length(0),
        _ => {}
    }
    let (mut length, mut coded) = (None, false);
    for (name, value) in fields(head) {
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
        }
        coded |= is_coding(name);
    }
    match length {
        _ if coded => BodyLength::Open,
        Some(length) => BodyLength::Length(length),
        // A request without either has no body; such a response ends with the connection.
        None if status.is_none() => BodyLength::Length(0),
        None => BodyLength::Open,
    }
}

/// Names and values of a head.
fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|b| *b == b'\n').skip(1).filter_map(|line| {
        let mut parts = line.splitn(2, |b| *b == b':');
        Some((parts.next()?, parts.next()?))
    })
}

fn is_coding(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"transfer-encoding")
}

/// The body that follows this head is chunked.
pub fn is_chunked(head: &[u8]) -> bool {
    fields(head).any(|(name, _)| is_coding(name))
}

/// A synthetic head for `len` bytes that are part of some message; its size does not depend on `len` up to 10
/// GB.
pub fn made_up(side: Side, len: u64) -> String {
    let first = match side {
        Side::Client => "POST made-up HTTP/1.1",
        Side::Server => "HTTP/1.1 200 made-up",
    };
    format!("{first}\r\nContent-Length: {len:010}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_its_body() {
        for (head, request, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 12 \r\n\r\n", Request::Other, BodyLength::Length(12)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Request::Head, BodyLength::Length(0)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Request::Other, BodyLength::Open),
            ("HTTP/1.1 200 OK\r\n\r\n", Request::Connect, BodyLength::Upgraded),
            ("HTTP/1.0 200 OK\r\n\r\n", Request::Other, BodyLength::Open),
            ("HTTP/1.1 304 No\r\nContent-Length: 12\r\n\r\n", Request::Other, BodyLength::Length(0)),
            (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
                Request::Other,
                BodyLength::WebSocket,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Request::Other, BodyLength::Length(0)),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                Request::Other,
                BodyLength::Length(0),
            ),
            ("PUT / HTTP/1.1\r\nContent-Length: 7\r\n\r\n", Request::Other, BodyLength::Length(7)),
        ] {
            assert_eq!(body(head.as_bytes(), request), expected, "{head}");
            assert_eq!(head_len(head.as_bytes()), Some(head.len()));
        }
    }

    #[test]
    fn a_message_is_told_from_a_body() {
        assert!(begins(Side::Server, b"HTTP/1.1 200 OK\r\n") && begins(Side::Server, b"HTTP/1.0 404"));
        for bytes in [&b"HTTP/1.1 2xx"[..], b"HTTP/2 200", b"HTTP/1.1 20", b"", b"<html>"] {
            assert!(!begins(Side::Server, bytes));
        }
        assert!(begins(Side::Client, b"GET / HTTP/1.1\r\n") && !begins(Side::Client, b"GETTING"));
    }

    #[test]
    fn a_made_up_head_has_its_room() {
        for side in [Side::Client, Side::Server] {
            let head = made_up(side, 1 << 30);
            assert!(head.len() == made_up(side, 0).len() && begins(side, head.as_bytes()), "{head}");
            assert_eq!(body(head.as_bytes(), Request::Other), BodyLength::Length(1 << 30));
        }
    }
}
