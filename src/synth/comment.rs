//! The one grammar of packet comments.
//!
//! ```text
//! comment = pair *( " " pair )        ; the first pair is tls2pcap=1, the grammar's version
//! pair    = key "=" value
//! key     = 1*( a-z / 0-9 / "_" )
//! value   = *( any character but white space, control and "%" / "%" hex hex )
//! ```
//!
//! A value is UTF-8; white space, control characters and `%` are escaped byte by byte, such as `%20`. It may
//! contain `=`. It has at most [`MAX_VALUE`] bytes before escaping; a longer one is truncated and ends in `…`.
//! An absent key means unknown. New keys do not change the version, so readers skip keys that they do not know.
//!
//! | key | value |
//! |---|---|
//! | `conn` | number of the connection in this capture; on every comment of a packet |
//! | `pid` `tid` `comm` `exe` `uid` | the captured process; if several use the connection, the one seen first with it |
//! | `container` | its container's id, then its name if the runtime stores it |
//! | `library` | TLS library: path, then its version if known |
//! | `handle` | address of the TLS handle in the process, hexadecimal |
//! | `fd` `inode` `cookie` `netns` | the socket |
//! | `rtt_us` `rtt_min_us` | the connection's round-trip time as measured by the kernel when the socket was learned: smoothed, and the minimum of the last minutes. The written handshake takes as long |
//! | `rtt_source` | `kernel`, or `none`: then the handshake is 1 ns long |
//! | `local` `remote` | the socket's true addresses and ports |
//! | `tuple` | how they were learned: `same-call` `remembered` `later-call` `descriptor` `layer` `ciphertext` `none` |
//! | `written_client` `written_server` | address and port in the packets, if not the true ones |
//! | `role` | `client` or `server`: which end the process is |
//! | `role_source` | `kernel` `tls` `guess` |
//! | `layer_below` | the connection that carries this one |
//! | `sni` `alpn` | handshake facts |
//! | `framing` | if TLS was requested: `tls`, or `plain` |
//! | `framing_reason` | why plain: `port` (Wireshark expects no TLS there, or would take its content for another protocol) or `protocol` (it does not decode it in TLS on that port) |
//! | `written_alpn` | the protocol name in synthetic TLS, if none was learned |
//! | `proto` | the recognised protocol; decides `written_server` |
//! | `start` | when the handle was first seen: seconds since 1970 with nine decimals |
//! | `filter` | `unknown`: something that the filter asks for is unknown, and the connection was kept |
//! | `from_start` | 1: seen from its first byte; 0: joined in progress |
//! | `caller_pid` `caller_comm` `caller_exe` | the process whose calls are written from this packet on, if several use the connection; each packet's interface names it too |
//! | `peer_pid` `peer_comm` `peer_exe` | the process at the other end, if that is captured too |
//! | `missing` | bytes that are not in the file from here on, or `unknown`; in statistics: in total |
//! | `filled` | inside TLS: this many zeros of plaintext are written for missing bytes, from this packet on |
//! | `reason` | why |
//! | `times` | in statistics: how often |
//! | `synthetic` | the bytes of this packet are synthetic: `h2-preface`; in place of missing bytes, `h2-frame-header` (or the missing part of one), `websocket-frame-header`, `http1-head` and `http1-byte`; inside TLS, where they replace no missing bytes, also `tls-handshake`, `http1-end` (the end of an interrupted head or body) and `http1-line-end`; if a file begins in the middle of a connection, also `h2-settings` and `h2-header-table` (on stream 0: what rebuilds the table), `h2-frame-begin` and `websocket-frame-begin` (bytes that are in the previous file, too), and `websocket-upgrade` |
//! | `calls` | with `--comments all`: lengths of the calls that the packet's bytes came in, if more than one: `1x3,130` is three of one byte and one of 130 |
//! | `first_call` | when the first of them was made: seconds since 1970 with nine decimals |
//! | `continued_from` | the connection continues from this file of the capture: its handshake here is synthetic, before its true sequence numbers |
//! | `file` `previous_file` | of the whole file: which of several it is, from 1, and the name of the previous one |
//! | `already_written` | `h2-preface`: these bytes of the client appear earlier, as synthetic ones |
//! | `late` | this packet follows others in the file that are up to this many seconds later |
//! | `redacted` `level` `redact_headers` `redact_fields` `redact_patterns` `redact_allowed` | of the whole file: this version of tls2pcap has redacted it, at this level, with this many rules of the user |
//! | `redact_format` `redact_rules` `redact_exceptions` | of the whole file: how replacements look, and eight bits of a hash of the rules that the user added and of the exceptions: a later run recognises its replacements by these |
//! | `redact_addresses` `redact_names` | of the whole file: `pseudonyms` if addresses, or names of hosts and users, were replaced |
//! | `redacted` | of a packet: kinds of the values that were replaced in it, such as `cookie,JSON-member`; `sent-again`: it repeats bytes of an earlier packet |
//! | `after_fin` | 1: bytes of a side that had announced that it sends no more |

use std::fmt::{self, Display, Write};

use crate::track::segment::{ConnectionId, WallTime};

/// Version of the grammar.
pub const VERSION: u32 = 1;

/// Longest value in bytes, before escaping.
pub const MAX_VALUE: usize = 1024;

/// The comment of a packet that is this many nanoseconds late in the file.
pub fn late(connection: ConnectionId, by: u64) -> String {
    Comment::new(connection).with("late", Seconds(by)).into()
}

/// A comment in the making.
#[derive(Clone, Debug)]
pub struct Comment(String);

impl Comment {
    /// Begins a comment of the whole file.
    pub fn of_file() -> Comment {
        Comment(format!("tls2pcap={VERSION}"))
    }

    /// Begins a comment of a connection.
    pub fn new(connection: ConnectionId) -> Comment {
        Comment(format!("tls2pcap={VERSION} conn={}", connection.0))
    }

    /// Goes on with a finished comment.
    pub fn again(comment: &str) -> Comment {
        Comment(comment.to_owned())
    }

    /// Adds a pair. `key` must be of the grammar.
    pub fn with(mut self, key: &'static str, value: impl Display) -> Comment {
        debug_assert!(is_key(key), "{key}");
        self.0.push(' ');
        self.0.push_str(key);
        self.0.push('=');
        // Escape only fails to stop a Display that continues after the truncation.
        let _ = write!(Escape { out: &mut self.0, left: MAX_VALUE }, "{value}");
        self
    }

    /// Adds a pair if there is a value.
    pub fn with_some(self, key: &'static str, value: Option<impl Display>) -> Comment {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

impl From<Comment> for String {
    fn from(comment: Comment) -> String {
        comment.0
    }
}

struct Escape<'a> {
    out: &'a mut String,
    left: usize,
}

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.left < c.len_utf8() {
                self.out.push('…');
                self.left = 0;
                return Err(fmt::Error);
            }
            self.left -= c.len_utf8();
            if c == '%' || c.is_whitespace() || c.is_control() {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    write!(self.out, "%{byte:02X}")?;
                }
            } else {
                self.out.push(c);
            }
        }
        Ok(())
    }
}

/// A time in seconds since 1970 with nine decimals.
pub(super) struct Seconds(pub WallTime);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Why a text is not one of our comments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not begin with `tls2pcap=1`.
    #[error("not a comment of version {VERSION}")]
    Version,
    /// A part is no pair of key and value.
    #[error("not a pair: {0:?}")]
    Pair(String),
    /// An escape is not `%` and two hexadecimal digits, or the bytes are no UTF-8.
    #[error("bad escape in the value of {0}")]
    Escape(String),
}

/// Takes a comment apart: its pairs in order, without the version.
///
/// # Errors
/// [`ParseError`] for whatever [`Comment`] does not write.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, ParseError> {
    let mut parts = text.split(' ');
    let version = parts.next().and_then(|p| p.strip_prefix("tls2pcap="));
    if version.and_then(|v| v.parse().ok()) != Some(VERSION) {
        return Err(ParseError::Version);
    }
    parts
        .map(|part| {
            let (key, value) = part
                .split_once('=')
                .filter(|(key, _)| is_key(key))
                .ok_or_else(|| ParseError::Pair(part.to_owned()))?;
            let value = unescape(value).ok_or_else(|| ParseError::Escape(key.to_owned()))?;
            Ok((key.to_owned(), value))
        })
        .collect()
}

fn unescape(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut out = Vec::with_capacity(value.len());
    while let Some(b) = bytes.next() {
        out.push(if b == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            b
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_comes_back() {
        for value in ["", "a b", "100%", "a=b", "x\n\ty\0", "é\u{2028}\u{85}ü", "%20", " "] {
            let text = String::from(Comment::new(ConnectionId(7)).with("exe", value).with("pid", 1));
            assert!(!text.chars().any(char::is_control), "{text:?}");
            let pairs = parse(&text).unwrap();
            let expected = [("conn", "7"), ("exe", value), ("pid", "1")];
            assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        }
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let text = String::from(Comment::new(ConnectionId(1)).with("exe", "é".repeat(600)).with("pid", 2));
        let pairs = parse(&text).unwrap();
        assert_eq!(pairs[1].1, format!("{}…", "é".repeat(512)));
        assert_eq!(pairs[2], ("pid".into(), "2".into()));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        assert_eq!(parse("a comment"), Err(ParseError::Version));
        assert_eq!(parse("tls2pcap=2 conn=1"), Err(ParseError::Version));
        assert_eq!(parse("tls2pcap=1 conn"), Err(ParseError::Pair("conn".into())));
        assert_eq!(parse("tls2pcap=1 A=1"), Err(ParseError::Pair("A=1".into())));
        assert_eq!(parse("tls2pcap=1 a=%2"), Err(ParseError::Escape("a".into())));
        assert_eq!(parse("tls2pcap=1 a=%+2"), Err(ParseError::Escape("a".into())));
        assert_eq!(parse("tls2pcap=1 a=%FF"), Err(ParseError::Escape("a".into())));
    }
}
