//! AMQP 0-9-1 (its specification, chapter 2.3; RabbitMQ) and 1.0 (OASIS, parts 2 and 5): frames. Of 0-9-1 what logs in and what is
//! carried is known, of 1.0 what logs in.

use std::ops::Range;

use super::super::engine::Engine;
use super::super::kind::Kind;
use super::{Length, data, secret, word};

/// How a connection begins, and each time that the protocol changes.
const HEADER: usize = 8;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;

/// Longest frame whose length is believed.
const LENGTH_MAX: usize = 1 << 30;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shared {
    is_one: bool,
}

pub(super) fn is_client(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [b'A', b'M', b'Q', b'P', 0, 0, 9, 0 | 1, ..] | [b'A', b'M', b'Q', b'P', 0 | 2 | 3, 1, 0, 0, ..]
    )
}

pub(super) fn length(bytes: &[u8], shared: &Shared) -> Length {
    if bytes.starts_with(b"AMQP") {
        return if is_client(bytes) {
            Length::Known { head: HEADER, whole: HEADER }
        } else if bytes.len() < HEADER {
            Length::More
        } else {
            Length::Lost
        };
    }
    let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    if shared.is_one {
        return match (word(0), bytes.get(4..6)) {
            (Some(len @ 8..LENGTH_MAX), Some(&[2..=255, 0 | 1])) => Length::of(8, len - 8),
            (Some(8..LENGTH_MAX), None) | (None, _) => Length::More,
            _ => Length::Lost,
        };
    }
    match (bytes.first().copied(), word(3)) {
        (Some(METHOD..=BODY | HEARTBEAT), Some(len @ ..LENGTH_MAX)) => Length::of(7, len + 1),
        (Some(METHOD..=BODY | HEARTBEAT) | None, None) => Length::More,
        _ => Length::Lost,
    }
}

/// Whether a frame ends as it must, and has a class, method or format that is known.
pub(super) fn is_certain(bytes: &[u8], shared: &Shared) -> bool {
    if shared.is_one {
        let begin = usize::from(*bytes.get(4).unwrap_or(&0)) * 4;
        // Empty, or a performative.
        return bytes.len() == begin || matches!(bytes.get(begin..begin + 3), Some([0, 0x53, 0x10..=0x18]));
    }
    let number = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    bytes.ends_with(&[END])
        && match bytes[0] {
            METHOD => {
                METHODS.iter().any(|(class, kind, _)| (number(7), number(9)) == (Some(*class), Some(*kind)))
            }
            CONTENT_HEADER => bytes.len() >= 22 && number(7) == Some(60) && number(9) == Some(0),
            HEARTBEAT => bytes.len() == 8 && number(1) == Some(0),
            _ => false,
        }
}

pub(super) fn message(engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8]) {
    if bytes.starts_with(b"AMQP") {
        shared.is_one = bytes[5] == 1;
        return;
    }
    let end = bytes.len();
    if shared.is_one {
        return performative(engine, bytes);
    }
    if bytes[end - 1] != END {
        return engine.fill_whole(bytes, 7..end, Kind::Lost);
    }
    let done = match bytes[0] {
        METHOD => method(engine, bytes, end - 1),
        // Properties: class, weight, size, then flags and what they say.
        CONTENT_HEADER => properties(engine, bytes, end - 1),
        BODY => {
            data(engine, bytes, 7..end - 1);
            Some(())
        }
        _ => Some(()),
    };
    if done.is_none() {
        engine.fill_whole(bytes, 7.min(end - 1)..end - 1, Kind::Lost);
    }
}

fn short(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let range = *at + 1..*at + 1 + usize::from(*bytes.get(*at)?);
    bytes.get(range.clone())?;
    *at = range.end;
    Some(range)
}

fn long(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let len = u32::from_be_bytes(*bytes.get(*at..)?.first_chunk()?) as usize;
    let range = *at + 4..(*at + 4).checked_add(len)?;
    bytes.get(range.clone())?;
    *at = range.end;
    Some(range)
}

fn method(engine: &mut Engine, bytes: &mut [u8], end: usize) -> Option<()> {
    let number = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let (class, kind) = (number(7)?, number(9)?);
    let mut at = 11;
    match (class, kind) {
        // Connection.Start: version, what the server is, mechanisms, languages.
        (10, 10) => {
            at += 2;
            table(engine, bytes, &mut at, DEPTH_MAX)?;
        }
        // Start-Ok: what the client is, a mechanism, its response, a language.
        (10, 11) => {
            table(engine, bytes, &mut at, DEPTH_MAX)?;
            short(bytes, &mut at)?;
            let response = long(bytes, &mut at)?;
            plain(engine, bytes, response);
        }
        // Secure, and the answer; a new secret, with a reason.
        (10, 20 | 21 | 70) => {
            let response = long(bytes, &mut at)?;
            plain(engine, bytes, response);
        }
        // What opens, closes, declares and delivers: names and tables, with their lengths.
        _ => {
            let (.., arguments) = METHODS.iter().find(|(c, k, _)| (*c, *k) == (class, kind))?;
            for argument in arguments.bytes() {
                match argument {
                    b'b' => at += 1,
                    b'h' => at += 2,
                    b'w' => at += 4,
                    b'd' => at += 8,
                    b'T' => table(engine, &mut bytes[..end], &mut at, DEPTH_MAX)?,
                    _ => {
                        let text = match argument {
                            b's' => short(&bytes[..end], &mut at)?,
                            _ => long(&bytes[..end], &mut at)?,
                        };
                        word(engine, bytes, text);
                    }
                }
            }
            return (at == end).then_some(());
        }
    }
    Some(())
}

/// Arguments of methods by class and number: `s` and `S` are texts, `T` a table; `b`, `h`, `w` and `d` have one, two, four and eight
/// bytes.
const METHODS: [(u16, u16, &str); 51] = [
    (10, 30, "hwh"),
    (10, 31, "hwh"),
    (10, 40, "ssb"),
    (10, 41, "s"),
    (10, 50, "hshh"),
    (10, 51, ""),
    (10, 60, "s"),
    (10, 61, ""),
    (20, 10, "s"),
    (20, 11, "S"),
    (20, 20, "b"),
    (20, 21, "b"),
    (20, 40, "hshh"),
    (20, 41, ""),
    (40, 10, "hssbT"),
    (40, 11, ""),
    (40, 20, "hsb"),
    (40, 21, ""),
    (40, 30, "hsssbT"),
    (40, 31, ""),
    (40, 40, "hsssbT"),
    (40, 51, ""),
    (50, 10, "hsbT"),
    (50, 11, "sww"),
    (50, 20, "hsssbT"),
    (50, 21, ""),
    (50, 30, "hsb"),
    (50, 31, "w"),
    (50, 40, "hsb"),
    (50, 41, "w"),
    (50, 50, "hsssT"),
    (50, 51, ""),
    (60, 10, "whb"),
    (60, 11, ""),
    (60, 20, "hssbT"),
    (60, 21, "s"),
    (60, 30, "sb"),
    (60, 31, "s"),
    (60, 40, "hssb"),
    (60, 50, "hsss"),
    (60, 60, "sdbss"),
    (60, 70, "hsb"),
    (60, 71, "dbssw"),
    (60, 72, "s"),
    (60, 80, "db"),
    (60, 90, "db"),
    (60, 110, "b"),
    (60, 111, ""),
    (60, 120, "db"),
    (85, 10, "b"),
    (85, 11, ""),
];

/// PLAIN (RFC 4616) has zeros between names and the password; AMQPLAIN a table.
fn plain(engine: &mut Engine, bytes: &mut [u8], response: Range<usize>) {
    let parts: Vec<usize> =
        memchr::memchr_iter(0, &bytes[response.clone()]).map(|at| response.start + at).collect();
    match parts[..] {
        [first, second] if first < second => {
            super::user(engine, bytes, first + 1..second);
            secret(engine, bytes, second + 1..response.end);
        }
        _ => secret(engine, bytes, response),
    }
}

/// Deepest nesting of tables.
const DEPTH_MAX: usize = 16;

/// A table: names, each with a value of a type. Steps over it.
fn table(engine: &mut Engine, bytes: &mut [u8], at: &mut usize, depth: usize) -> Option<()> {
    let range = long(bytes, at)?;
    let mut own = range.start;
    while own < range.end {
        let name = short(bytes, &mut own)?;
        let is_secret = engine.is_secret_field(&bytes[name]);
        value(engine, bytes, &mut own, is_secret, depth)?;
    }
    (own == range.end).then_some(())
}

fn value(engine: &mut Engine, bytes: &mut [u8], at: &mut usize, is_secret: bool, depth: usize) -> Option<()> {
    let kind = *bytes.get(*at)?;
    *at += 1;
    *at += match kind {
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'V' => 0,
        b'S' | b'x' => {
            let text = long(bytes, at)?;
            if is_secret {
                secret(engine, bytes, text)
            } else {
                word(engine, bytes, text)
            }
            0
        }
        b'F' if depth > 0 => {
            table(engine, bytes, at, depth - 1)?;
            0
        }
        b'A' if depth > 0 => {
            let all = long(bytes, at)?;
            let mut own = all.start;
            while own < all.end {
                value(engine, bytes, &mut own, is_secret, depth - 1)?;
            }
            0
        }
        _ => return None,
    };
    Some(())
}

fn properties(engine: &mut Engine, bytes: &mut [u8], end: usize) -> Option<()> {
    let flags = u16::from_be_bytes(*bytes.get(19..)?.first_chunk()?);
    let mut at = 21;
    // Fourteen properties, in order: texts, but for a table, two bytes and a time.
    for bit in 0..14 {
        if flags & (0x8000 >> bit) == 0 {
            continue;
        }
        match bit {
            2 => table(engine, &mut bytes[..end], &mut at, DEPTH_MAX)?,
            3 | 4 => at += 1,
            9 => at += 8,
            _ => {
                let text = short(&bytes[..end], &mut at)?;
                // Its user's id.
                if bit == 11 { super::user(engine, bytes, text) } else { word(engine, bytes, text) }
            }
        }
    }
    (at == end).then_some(())
}

/// A frame of 1.0: of SASL what authenticates is replaced; all else is masked but for its head and type.
fn performative(engine: &mut Engine, bytes: &mut [u8]) {
    let begin = usize::from(bytes[4]) * 4;
    let end = bytes.len();
    if begin >= end {
        return;
    }
    // Mechanisms and outcomes say nothing secret.
    if bytes[5] == 1 && matches!(bytes.get(begin..begin + 3), Some([0, 0x53, 0x40 | 0x44])) {
        return;
    }
    let kind = if bytes[5] == 1 { Kind::Authorization } else { Kind::Data };
    strings(engine, bytes, begin, end, kind);
}

/// Texts and binary values of a frame, in the coding of types of part 1; what has no such coding is masked.
fn strings(engine: &mut Engine, bytes: &mut [u8], mut at: usize, end: usize, kind: Kind) {
    while at < end {
        let constructor = bytes[at];
        let width = |at: usize, len: usize| {
            let digits = bytes.get(at + 1..at + 1 + len)?;
            Some(digits.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
        };
        // A descriptor, then its value; lists and maps have lengths and counts, then what is in them.
        let (skip, text) = match constructor {
            0 => (1, 0),
            0x40..=0x4f => (1, 0),
            0x50..=0x5f => (2, 0),
            0x60..=0x6f => (3, 0),
            0x70..=0x7f => (5, 0),
            0x80..=0x8f => (9, 0),
            0x90..=0x9f => (17, 0),
            0xa0..=0xaf => (2, width(at, 1).unwrap_or(end)),
            0xb0..=0xbf => (5, width(at, 4).unwrap_or(end)),
            0xc0..=0xcf => (3, 0),
            0xd0..=0xdf => (9, 0),
            _ => (0, end - at),
        };
        let begin = (at + skip).min(end);
        let stop = begin.saturating_add(text).min(end);
        // Symbols are names of the protocol's own: mechanisms, capabilities.
        if !matches!(constructor, 0xa3 | 0xb3) && begin < stop {
            match kind {
                Kind::Authorization => secret(engine, bytes, begin..stop),
                _ => data(engine, bytes, begin..stop),
            }
        }
        at = stop.max(begin).max(at + 1);
    }
}
