//! Fields of forms and query strings: `name=value&name=value` (WHATWG URL, section 5).

use std::ops::Range;

use super::cloak::Escape;
use super::engine::Engine;
use super::json::Json;
use super::kind::Kind;
use super::patterns;
use super::text::{self, Sort};

/// Longest field that is waited for; a longer one is a secret from there on.
const FIELD_MAX: usize = 64 << 10;

/// So often a value is decoded that holds another URL, which holds another.
const LAYERS: u8 = 4;

/// Whether a body that is said to be a form is something else: what `curl -d` sends, and others, has this type by default.
pub(super) fn is_other(begin: &[u8]) -> bool {
    matches!(begin.trim_ascii_start().first(), Some(b'{' | b'[' | b'<'))
}

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
                field(engine, bytes, at..stop, Kind::Form, LAYERS);
            }
            self.is_long = end.is_none() && !last;
            at = (stop + 1).min(bytes.len());
        }
        bytes.len()
    }
}

/// All fields of a query string.
pub(super) fn query(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    fields(engine, bytes, range, LAYERS);
}

fn fields(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, layers: u8) {
    let mut at = range.start;
    while at < range.end {
        let end = bytes[at..range.end]
            .iter()
            .position(|b| *b == b'&' || *b == b';')
            .map_or(range.end, |len| at + len);
        field(engine, bytes, at..end, Kind::Query, layers);
        at = end + 1;
    }
}

/// One field. `layers`: how often its value may be decoded.
fn field(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, kind: Kind, layers: u8) {
    let sign = bytes[range.clone()].iter().position(|b| *b == b'=');
    let Some(sign) = sign.map(|len| range.start + len) else {
        // A value without a name.
        if engine.is_shape() {
            engine.cloak(bytes, range, Kind::Value, Escape::Percent);
        } else {
            plain(engine, bytes, range, layers);
        }
        return;
    };
    let name = decoded(&bytes[range.start..sign]);
    if name.len() >= NAME_MIN {
        // What is no form may be taken for one.
        plain(engine, bytes, range.start..sign, layers);
    }
    let behind = sign + 1..range.end;
    if engine.is_secret_field(&name) || is_grant(engine, &name, &bytes[behind.clone()]) {
        engine.cloak(bytes, behind, kind, Escape::Percent);
    } else if engine.is_user_field(&name) {
        engine.cloak(bytes, behind, Kind::Name, Escape::Percent);
    } else if engine.is_shape() {
        engine.cloak(bytes, behind, Kind::Value, Escape::Percent);
    } else if !engine.is_allowed(&String::from_utf8_lossy(&name).to_ascii_lowercase()) {
        plain(engine, bytes, behind, layers);
    }
}

/// Shortest name that may be something else.
const NAME_MIN: usize = 20;

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
    plain(engine, bytes, range, LAYERS);
}

fn plain(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, layers: u8) {
    if patterns::is_random(&bytes[range.clone()]) {
        engine.cloak(bytes, range, Kind::Random, Escape::Percent);
    } else if !covered(engine, bytes, range.clone(), layers) {
        engine.within(range.start, |engine| text::scan(engine, &mut bytes[range.clone()], Sort::Plain));
    }
}

/// Looks into what is encoded, or a URL or JSON itself. Where in what is encoded a secret is, is not known any more: all of it
/// goes. Gives whether it does.
pub(super) fn encoded(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) -> bool {
    covered(engine, bytes, range, LAYERS)
}

/// Whether a value is an object or a list, and no word in brackets.
pub(super) fn looks_like_json(text: &[u8]) -> bool {
    let mut is_open = false;
    for byte in text.iter().filter(|b| !b.is_ascii_whitespace()) {
        match byte {
            b'{' | b'[' => is_open = true,
            b'"' => return is_open,
            _ => return false,
        }
    }
    is_open
}

fn covered(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, layers: u8) -> bool {
    let text = &bytes[range.clone()];
    let mut plain = decoded(text);
    let is_same = plain[..] == *text;
    let is_json = looks_like_json(&plain);
    let query = plain.iter().position(|b| *b == b'?').map(|at| at + 1);
    if is_same {
        if let (Some(begin), true) = (query, layers > 0) {
            fields(engine, bytes, range.start + begin..range.end, layers - 1);
        }
        if is_json {
            engine.within(range.start, |engine| Json::default().step(engine, &mut bytes[range], true));
        }
        return false;
    }
    let before = engine.found_so_far();
    let kind = engine.all_at(range.start, |engine| {
        if let (Some(begin), true) = (query, layers > 0) {
            let end = plain.len();
            fields(engine, &mut plain, begin..end, layers - 1);
        }
        if is_json {
            Json::default().step(engine, &mut plain, true);
        } else {
            text::scan(engine, &mut plain, Sort::Plain);
            if layers > 0 {
                let end = plain.len();
                covered(engine, &mut plain, 0..end, layers - 1);
            }
        }
        engine.forget_since(before)
    });
    if let Some(kind) = kind {
        engine.cloak(bytes, range, kind, Escape::Percent);
    }
    kind.is_some()
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
