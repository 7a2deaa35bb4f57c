//! PostgreSQL's protocol, version 3 (PostgreSQL documentation, chapter "Message Formats"): messages with a letter and a length; the
//! client's first has no letter.

use std::ops::Range;

use super::super::engine::Engine;
use super::super::kind::Kind;
use super::sql;
use super::{Length, data, said, secret, user, word, zero};

/// What the client's first messages ask for, instead of a version.
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSSAPI: u32 = 80_877_104;

/// Longest message whose length is believed.
const LENGTH_MAX: usize = 1 << 30;
/// Longest first message.
const START_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Answers of one byte that are to come: whether the server encrypts.
    asked: u32,
    /// The client has asked for a session.
    has_started: bool,
}

impl Shared {
    /// A message of the client comes, and what was before is missing.
    pub(super) fn begins_behind_hole(&mut self) {
        *self = Shared { asked: 0, has_started: true };
    }
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word16(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)))
}

/// Whether a message begins a connection, and how long it is.
fn start(bytes: &[u8]) -> Option<usize> {
    let (len, code) = (word32(bytes, 0)? as usize, word32(bytes, 4)?);
    let is_one = match code {
        CANCEL => (16..=START_MAX).contains(&len),
        TLS | GSSAPI => len == 8,
        // A version: 3.0, or 3.2.
        code => code >> 16 == 3 && code & 0xffff < 16 && (9..=START_MAX).contains(&len),
    };
    is_one.then_some(len)
}

pub(super) fn is_client(bytes: &[u8]) -> bool {
    start(bytes).is_some()
}

pub(super) fn length(bytes: &[u8], shared: &mut Shared, is_server: bool, is_first: bool) -> Length {
    let Some(first) = bytes.first().copied() else { return Length::More };
    if is_server && shared.asked > 0 && matches!(first, b'S' | b'N' | b'G') {
        return Length::Known { head: 1, whole: 1 };
    }
    if !is_server && (is_first || !shared.has_started) {
        return match start(bytes) {
            Some(len) => Length::Known { head: 8, whole: len },
            None if bytes.len() < 8 => Length::More,
            None => Length::Lost,
        };
    }
    let known: &[u8] = if is_server { b"RKSTDCEZN123nstAIdcGHWVv" } else { b"QPBDECHSXFpdcf" };
    if !known.contains(&first) {
        return Length::Lost;
    }
    framed(bytes)
}

/// How long a message is that has a letter.
pub(super) fn framed(bytes: &[u8]) -> Length {
    match word32(bytes, 1) {
        Some(len) if (4..LENGTH_MAX).contains(&(len as usize)) => Length::of(5, len as usize - 4),
        Some(_) => Length::Lost,
        None => Length::More,
    }
}

/// Whether a message is complete in itself, as its letter wants it.
pub(super) fn is_certain(bytes: &[u8], is_server: bool) -> bool {
    let body = &bytes[5..];
    let zeros = || memchr::memchr_iter(0, body).count();
    let is_text = |count| body.ends_with(&[0]) && zeros() == count && str::from_utf8(body).is_ok();
    match (is_server, bytes[0]) {
        (true, b'Z') => matches!(body, [b'I' | b'T' | b'E']),
        (true, b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c') | (false, b'S' | b'X' | b'H' | b'c') => {
            body.is_empty()
        }
        (true, b'C') | (false, b'Q' | b'f') => is_text(1),
        (true, b'S') => is_text(2),
        (true, b'E' | b'N') => {
            body.starts_with(b"S") && body.ends_with(&[0, 0]) && str::from_utf8(body).is_ok()
        }
        (true, b'D') => {
            let Some(count) = word16(body, 0) else { return false };
            let end = (0..count).try_fold(2usize, |at, _| match word32(body, at)? {
                u32::MAX => Some(at + 4),
                len => (at + 4).checked_add(len as usize).filter(|end| *end <= body.len()),
            });
            end == Some(body.len())
        }
        (true, b'T') => {
            let Some(count) = word16(body, 0) else { return false };
            let end = (0..count)
                .try_fold(2usize, |at, _| Some(zero(body, at) + 19).filter(|end| *end <= body.len()));
            end == Some(body.len())
        }
        (true, b't') => word16(body, 0).is_some_and(|count| body.len() == 2 + 4 * count),
        (false, b'E') => body.len() >= 5 && memchr::memchr(0, body) == Some(body.len() - 5),
        (false, b'C' | b'D') => matches!(body, [b'S' | b'P', .., 0]) && zeros() == 1,
        // A name, a text, and numbers.
        (false, b'P') => {
            let text = zero(body, zero(body, 0) + 1) + 1;
            word16(body, text).is_some_and(|count| body.len() == text + 2 + 4 * count)
        }
        _ => false,
    }
}

pub(super) fn message(
    engine: &mut Engine,
    shared: &mut Shared,
    bytes: &mut [u8],
    is_server: bool,
    is_first: bool,
) {
    let end = bytes.len();
    if is_server && end == 1 {
        shared.asked -= 1;
        return;
    }
    let done = match is_server {
        false if is_first || !shared.has_started => begin(engine, shared, bytes),
        false => client(engine, bytes),
        true => server(engine, bytes),
    };
    if done.is_none() {
        engine.fill_whole(bytes, 5.min(end)..end, Kind::Lost);
    }
}

fn begin(engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8]) -> Option<()> {
    match word32(bytes, 4)? {
        TLS | GSSAPI => shared.asked += 1,
        // A process, and the secret that lets others cancel what it does.
        CANCEL => engine.fill_whole(bytes, 12..bytes.len(), Kind::Authorization),
        _ => {
            shared.has_started = true;
            let mut at = 8;
            while at < bytes.len() && bytes[at] != 0 {
                let name = at..zero(bytes, at);
                let value = name.end + 1..zero(bytes, name.end + 1);
                at = value.end + 1;
                if value.is_empty() {
                    continue;
                }
                match &bytes[name] {
                    b"user" => user(engine, bytes, value),
                    name if engine.is_secret_field(name) => secret(engine, bytes, value),
                    _ => said(engine, bytes, value),
                }
            }
        }
    }
    Some(())
}

fn client(engine: &mut Engine, bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len();
    match bytes[0] {
        b'Q' => sql::statement(engine, bytes, 5..zero(bytes, 5), b"'"),
        b'P' => {
            let name = zero(bytes, 5);
            said(engine, bytes, 5..name);
            let text = (name + 1).min(end);
            sql::statement(engine, bytes, text..zero(bytes, text), b"'");
        }
        b'B' => {
            let portal = zero(bytes, 5);
            let mut at = zero(bytes, portal + 1) + 1;
            at += 2 + 2 * word16(bytes, at)?;
            fields(engine, bytes, at)?;
        }
        b'F' => {
            let at = 9;
            fields(engine, bytes, at + 2 + 2 * word16(bytes, at)?)?;
        }
        b'p' => {
            // The first answer of SASL begins with the mechanism, then its length.
            let name = zero(bytes, 5);
            let mechanism = &bytes[5..name];
            let is_sasl = mechanism.starts_with(b"SCRAM-") || mechanism == b"OAUTHBEARER";
            let begin = if is_sasl { name + 5 } else { 5 };
            let stop = if !is_sasl && bytes.ends_with(&[0]) { end - 1 } else { end };
            if begin < stop {
                secret(engine, bytes, begin..stop);
            }
        }
        b'd' => data(engine, bytes, 5..end),
        // A name, then a limit; a letter, then a name; a reason.
        b'E' | b'f' => said(engine, bytes, 5..zero(bytes, 5)),
        b'C' | b'D' => said(engine, bytes, 6.min(end)..zero(bytes, 6.min(end))),
        _ => {}
    }
    Some(())
}

fn server(engine: &mut Engine, bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len();
    match bytes[0] {
        b'R' => {
            let begin = match word32(bytes, 5)? {
                // A salt; what GSSAPI and SASL say.
                5 | 8 | 11 | 12 => 9,
                _ => end,
            };
            if begin < end {
                secret(engine, bytes, begin..end);
            }
        }
        b'K' => engine.fill_whole(bytes, 9.min(end)..end, Kind::Authorization),
        b'D' => fields(engine, bytes, 5)?,
        b'E' | b'N' => {
            let mut at = 5;
            while at < end && bytes[at] != 0 {
                let text = at + 1..zero(bytes, at + 1);
                match bytes[at] {
                    b'S' | b'V' | b'C' | b'P' | b'F' | b'L' | b'R' | b's' | b't' | b'c' | b'd' | b'n' => {}
                    b'M' => {
                        sql::quoted(engine, bytes, text.clone(), b"\"'");
                        said(engine, bytes, text.clone());
                    }
                    // Details and statements.
                    _ => engine.fill_text(bytes, text.clone(), Kind::Data),
                }
                at = text.end + 1;
            }
        }
        b'A' => {
            let channel = zero(bytes, 9);
            word(engine, bytes, 9..channel);
            let text = (channel + 1).min(end);
            data(engine, bytes, text..zero(bytes, text));
        }
        b'S' => {
            let name = zero(bytes, 5);
            let value = (name + 1).min(end);
            let own = bytes[5..name].to_vec();
            match &own[..] {
                b"session_authorization" => user(engine, bytes, value..zero(bytes, value)),
                _ => said(engine, bytes, value..zero(bytes, value)),
            }
        }
        b'T' => columns(engine, bytes)?,
        b'd' | b'V' => data(engine, bytes, 5..end),
        _ => {}
    }
    Some(())
}

/// How many values, each with its length, or -1 for none.
fn fields(engine: &mut Engine, bytes: &mut [u8], mut at: usize) -> Option<()> {
    let count = word16(bytes, at)?;
    at += 2;
    for _ in 0..count {
        let len = word32(bytes, at)?;
        at += 4;
        if len != u32::MAX {
            let value: Range<usize> = at..at.checked_add(len as usize)?;
            bytes.get(value.clone())?;
            at = value.end;
            data(engine, bytes, value);
        }
    }
    Some(())
}

/// Names of columns, each with 18 bytes of numbers.
fn columns(engine: &mut Engine, bytes: &mut [u8]) -> Option<()> {
    let count = word16(bytes, 5)?;
    let mut at = 7;
    for _ in 0..count {
        let name = at..zero(bytes, at);
        at = name.end + 19;
        if at > bytes.len() {
            return None;
        }
        said(engine, bytes, name);
    }
    Some(())
}
