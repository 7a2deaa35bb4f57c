//! Made-up TLS, as `--framing tls` writes it: TLS 1.2 (RFC 5246) with the cipher suite `TLS_RSA_WITH_NULL_MD5`, so that what
//! it carries stands there in plain, and 16 bytes in the place of a hash. Of all other TLS nothing is shown.

use std::ops::Range;

use super::engine::Engine;
use super::identity;
use super::kind::Kind;
use super::weave::Weave;
use crate::proto::tls::{APPLICATION_DATA, HANDSHAKE, HASH, HEADER};

/// Where a client's hello names its server (RFC 6066, section 3).
fn server_name(record: &[u8]) -> Option<Range<usize>> {
    const CLIENT_HELLO: u8 = 1;
    let byte = |at: usize| record.get(at).map(|len| usize::from(*len));
    let word = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
    if record.first() != Some(&HANDSHAKE) || record.get(HEADER) != Some(&CLIENT_HELLO) {
        return None;
    }
    // Type and length, version, random; then the session's id, suites, compressions, and the length of all extensions.
    let mut at = HEADER + 4 + 2 + 32;
    at += 1 + byte(at)?;
    at += 2 + word(at)?;
    at += 1 + byte(at)? + 2;
    while let (Some(kind), Some(len)) = (word(at), word(at + 2)) {
        // The list's length, the type of its only entry, and the name's length.
        if kind == 0 {
            let (begin, len) = (at + 9, word(at + 7)?);
            return record.get(begin..begin + len).map(|_| begin..begin + len);
        }
        at += 4 + len;
    }
    None
}

/// A record.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Bytes of plaintext to come, then of the hash.
    plain: usize,
    hash: usize,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Tls {
    record: Option<Record>,
}

/// What a call came to.
pub(super) enum Turn {
    /// So many bytes went into the weave.
    Went(usize),
    /// So many bytes at the beginning are plaintext, whose place in the weave is kept.
    Plain(usize),
    More,
    Lost,
}

impl Tls {
    /// Takes what stands at the beginning of `bytes`.
    pub(super) fn step(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8]) -> Turn {
        if let Some(record) = &mut self.record {
            if record.plain > 0 {
                let len = record.plain.min(bytes.len());
                record.plain -= len;
                weave.layer(len);
                return Turn::Plain(len);
            }
            let len = record.hash.min(bytes.len());
            record.hash -= len;
            if record.hash == 0 {
                self.record = None;
            }
            let hash = &mut bytes[..len];
            if let Some(at) = hash.iter().position(|b| *b != 0) {
                hash.fill(0);
                engine.note(at, Kind::Padding);
            }
            weave.raw(hash, engine.take_found());
            return Turn::Went(len);
        }
        let Some([kind, 3, 0..=4, high, low]) = bytes.first_chunk::<HEADER>().copied() else {
            return if bytes.len() < HEADER { Turn::More } else { Turn::Lost };
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if kind == APPLICATION_DATA {
            let Some(plain) = len.checked_sub(HASH) else { return Turn::Lost };
            self.record = Some(Record { plain, hash: HASH });
            weave.raw(&bytes[..HEADER], vec![]);
            return Turn::Went(HEADER);
        }
        let end = HEADER + len;
        if bytes.len() < end {
            return Turn::More;
        }
        // Hellos, the end of the server's, and changes of the cipher: that is all that is made up.
        let is_known = match kind {
            HANDSHAKE => matches!(bytes.get(HEADER), Some(1 | 2 | 14)),
            20 => len == 1,
            _ => false,
        };
        if !is_known {
            engine.fill_whole(bytes, HEADER..end, Kind::Protocol);
        } else if let Some(name) = server_name(&bytes[..end]) {
            identity::host(engine, bytes, name);
        }
        weave.raw(&bytes[..end], engine.take_found());
        Turn::Went(end)
    }
}
