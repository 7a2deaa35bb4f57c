//! TLS 1.2 without encryption, as Wireshark 4.0 to 4.6 decodes it without keys: a synthetic handshake that
//! selects a NULL cipher, then records of plaintext, each with a MAC of zeros, which Wireshark skips.

use super::detect::Protocol;
use super::ports;
use crate::track::segment::ConnectionId;

/// Most bytes of plaintext in one record.
pub const RECORD_MAX: usize = 1 << 14;

/// Bytes of a record in addition to its plaintext.
pub const OVERHEAD: usize = HEADER + MAC;

const HEADER: usize = 5;
/// Of MD5.
const MAC: usize = 16;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const VERSION: [u8; 2] = [3, 3];
/// TLS_RSA_WITH_NULL_MD5.
const CIPHER: [u8; 2] = [0, 1];

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_HELLO_DONE: u8 = 14;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Longest server name, and longest protocol name, that is written.
const NAME_MAX: usize = 255;

/// Starts the randoms, so that no key log ever matches, and a reader sees what they are.
const RANDOM: &[u8; 24] = b"made up by tls2pcap     ";

/// TLS ports on which the plaintext's dissector is known inside TLS too.
const PROTOCOLS: &[(u16, Protocol)] = &[
    (465, Protocol::Smtp),
    (636, Protocol::Ldap),
    (853, Protocol::Dns),
    (993, Protocol::Imap),
    (995, Protocol::Pop3),
    (5061, Protocol::Sip),
    (5671, Protocol::Amqp),
    (8883, Protocol::Mqtt),
];

/// The framing of the plaintext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// TCP.
    #[default]
    Plain,
    /// TLS without encryption on the true port, where Wireshark decodes that; otherwise TCP.
    Tls,
}

/// Whether stock Wireshark decodes this protocol in TLS on this port.
///
/// # Errors
/// Why not, as written in comments.
pub fn decodes(port: u16, protocol: Option<Protocol>) -> Result<(), &'static str> {
    if !ports::is_tls(port) {
        return Err("port");
    }
    match protocol {
        Some(Protocol::Http1 | Protocol::Http2) => Ok(()),
        None if ports::TLS.contains(&port) => Ok(()),
        // The protocol of the port's table is known better in plain.
        None if ports::plain_of(port).is_some() => Err("protocol"),
        // Show it as data rather than as another protocol.
        None if ports::is_owned(port) => Err("port"),
        None => Ok(()),
        Some(protocol) if PROTOCOLS.contains(&(port, protocol)) => Ok(()),
        Some(_) => Err("protocol"),
    }
}

/// The ALPN name that makes Wireshark decode what was recognised, wherever it begins.
pub fn alpn(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Http1 => Some("http/1.1"),
        Protocol::Http2 => Some("h2"),
        _ => None,
    }
}

/// Appends a record with these bytes and this many zeros after them, together at most [`RECORD_MAX`].
pub fn record(out: &mut Vec<u8>, bytes: &[u8], zeros: usize) {
    header(out, APPLICATION_DATA, bytes.len() + zeros + MAC);
    out.extend_from_slice(bytes);
    out.resize(out.len() + zeros + MAC, 0);
}

fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    out.extend_from_slice(&VERSION);
    out.extend_from_slice(&(len as u16).to_be_bytes());
}

/// The facts of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    pub connection: ConnectionId,
    pub server_name: Option<&'a str>,
    pub alpn: Option<&'a str>,
}

impl Handshake<'_> {
    /// The client's first record.
    pub fn client_hello(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        if let Some(name) = self.server_name.filter(|name| (1..=NAME_MAX).contains(&name.len())) {
            // A list of one name of type 0, host name.
            let entry = [&[0][..], &sized16(name.as_bytes())].concat();
            extension(&mut extensions, SERVER_NAME, &sized16(&entry));
        }
        self.alpn(&mut extensions);
        let body = [&self.hello(b'c')[..], &sized16(&CIPHER), &[1, 0], &sized16(&extensions)].concat();
        message(&[(CLIENT_HELLO, body)])
    }

    /// The server's answer. The second message keeps Wireshark from believing that a session is resumed.
    pub fn server_hello(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        self.alpn(&mut extensions);
        let body = [&self.hello(b's')[..], &CIPHER, &[0], &sized16(&extensions)].concat();
        message(&[(SERVER_HELLO, body), (SERVER_HELLO_DONE, Vec::new())])
    }

    /// Version, random, no session id.
    fn hello(&self, side: u8) -> Vec<u8> {
        let mut hello = [&VERSION[..], RANDOM, &self.connection.0.to_be_bytes(), &[0]].concat();
        hello[VERSION.len() + RANDOM.len() - 1] = side;
        hello
    }

    fn alpn(&self, extensions: &mut Vec<u8>) {
        if let Some(alpn) = self.alpn.filter(|alpn| (1..=NAME_MAX).contains(&alpn.len())) {
            let entry = [&[alpn.len() as u8][..], alpn.as_bytes()].concat();
            extension(extensions, ALPN, &sized16(&entry));
        }
    }
}

/// The record after which a side's records are without encryption, as agreed.
pub fn change_cipher_spec() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 1);
    header(&mut out, CHANGE_CIPHER_SPEC, 1);
    out.push(1);
    out
}

/// A record with handshake messages.
fn message(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (kind, body) in messages {
        let [_, length @ ..] = (body.len() as u32).to_be_bytes();
        content.push(*kind);
        content.extend_from_slice(&length);
        content.extend_from_slice(body);
    }
    let mut out = Vec::new();
    header(&mut out, HANDSHAKE, content.len());
    out.extend_from_slice(&content);
    out
}

fn sized16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(out: &mut Vec<u8>, kind: u16, body: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&sized16(body));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_what_follows() {
        let long = "x".repeat(300);
        for name in [None, Some("example.org"), Some(""), Some(&long[..])] {
            let handshake = Handshake { connection: ConnectionId(7), server_name: name, alpn: name };
            for record in [handshake.client_hello(), handshake.server_hello(), change_cipher_spec()] {
                let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
                assert_eq!(len, record.len() - HEADER, "{name:?}");
                if record[0] == HANDSHAKE {
                    let first = usize::from(u16::from_be_bytes([record[7], record[8]]));
                    assert!(first + 4 <= len);
                }
            }
            let named = handshake.client_hello().windows(11).any(|w| w == b"example.org");
            assert_eq!(named, name == Some("example.org"));
        }
        let mut out = Vec::new();
        record(&mut out, b"abc", 2);
        record(&mut out, &[7; RECORD_MAX], 0);
        assert_eq!(out[..10], [23, 3, 3, 0, 21, b'a', b'b', b'c', 0, 0]);
        assert_eq!(out.len(), 5 + 2 * OVERHEAD + RECORD_MAX);
    }
}
