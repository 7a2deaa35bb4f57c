//! Fields of forms and query strings: `name=value&name=value` (WHATWG URL, section 5).

use std::ops::Range;

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::patterns;
use super::text::{self, Sort};

/// Longest field that is waited for; a longer one is a secret from there on.
const FIELD_MAX: usize = 64 << 10;

/// A form that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// Within the value of a field that is too long.
    is_long: bool,
}

impl Form {
    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let end = memchr::memchr(b'&', &bytes[at..]).map(|len| at + len);
            let stop = match end {
                Some(end) => end,
                None if last || self.is_long || bytes.len() - at > FIELD_MAX => bytes.len(),
                None => return at,
            };
            if self.is_long {
                engine.cloak(bytes, at..stop, Kind::Form, Escape::Percent);
            } else {
                field(engine, bytes, at..stop, Kind::Form);
            }
            self.is_long = end.is_none() && !last;
            at = (stop + 1).min(bytes.len());
        }
        bytes.len()
    }
}

/// All fields of a query string.
pub(super) fn query(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut at = range.start;
    while at < range.end {
        let end = bytes[at..range.end]
            .iter()
            .position(|b| *b == b'&' || *b == b';')
            .map_or(range.end, |len| at + len);
        field(engine, bytes, at..end, Kind::Query);
        at = end + 1;
    }
}

/// One field.
fn field(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, kind: Kind) {
    let sign = bytes[range.clone()].iter().position(|b| *b == b'=');
    let Some(sign) = sign.map(|len| range.start + len) else {
        // A value without a name.
        if engine.is_shape() {
            engine.cloak(bytes, range, Kind::Value, Escape::Percent);
        } else {
            value(engine, bytes, range);
        }
        return;
    };
    let name = decoded(&bytes[range.start..sign]);
    let behind = sign + 1..range.end;
    if engine.is_secret_field(&name) || is_grant(engine, &name, &bytes[behind.clone()]) {
        engine.cloak(bytes, behind, kind, Escape::Percent);
    } else if engine.is_user_field(&name) {
        engine.cloak(bytes, behind, Kind::Name, Escape::Percent);
    } else if engine.is_shape() {
        engine.cloak(bytes, behind, Kind::Value, Escape::Percent);
    } else if !engine.is_allowed(&String::from_utf8_lossy(&name).to_ascii_lowercase()) {
        value(engine, bytes, behind);
    }
}

/// Shortest code that is taken for one that grants something; a shorter one may be a status or a country.
const CODE_MIN: usize = 6;

/// Authorization codes of OAuth 2.0 (RFC 6749, section 4.1.2), and those that come by mail or SMS. Elsewhere a `code` is none.
fn is_grant(engine: &Engine, name: &[u8], value: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"code")
        && value.len() >= CODE_MIN
        && value.iter().any(u8::is_ascii_digit)
        && !engine.is_allowed("code")
}

/// A value whose name says nothing.
pub(super) fn value(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    if patterns::is_random(&bytes[range.clone()]) {
        engine.cloak(bytes, range, Kind::Random, Escape::Percent);
        return;
    }
    let mut plain = decoded(&bytes[range.clone()]);
    if plain[..] != bytes[range.clone()] {
        // Where it stands in the value is not known any more: then all of it goes.
        let before = engine.found_so_far();
        let kind = engine.all_at(range.start, |engine| {
            text::scan(engine, &mut plain, Sort::Plain);
            engine.forget_since(before)
        });
        if let Some(kind) = kind {
            engine.cloak(bytes, range, kind, Escape::Percent);
            return;
        }
    }
    engine.within(range.start, |engine| text::scan(engine, &mut bytes[range.clone()], Sort::Plain));
}

/// Without `%` and `+`.
pub(super) fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|hex| str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}
