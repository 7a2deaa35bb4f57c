//! Messages of gRPC: frames with a length, and in them Protocol Buffers, whose fields have numbers and no names. So
//! any text may be a secret: all of it is replaced. Numbers stay.

use std::ops::Range;

use super::cloak::Escape;
use super::engine::Engine;
use super::json::Json;
use super::kind::Kind;
use super::packed::{self, Format};

/// Longest message that is waited for.
const MESSAGE_MAX: usize = 4 << 20;
/// Deepest nesting that is looked into.
const DEPTH_MAX: usize = 64;

/// Messages that come in pieces.
#[derive(Debug)]
pub(super) struct Messages {
    /// They are JSON.
    is_json: bool,
    /// In what those are compressed that say they are.
    packed: Option<Format>,
    /// So much of a message is filled.
    fill: usize,
}

impl Messages {
    pub(super) fn new(is_json: bool, packed: Option<Format>) -> Messages {
        Messages { is_json, packed, fill: 0 }
    }

    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.fill > 0 {
                let end = bytes.len().min(at.saturating_add(self.fill));
                engine.fill_whole(bytes, at..end, Kind::Body);
                self.fill -= end - at;
                at = end;
                continue;
            }
            let Some([flag, len @ ..]) = bytes[at..].first_chunk::<5>().copied() else {
                if last {
                    engine.fill_whole(bytes, at..bytes.len(), Kind::Body);
                    at = bytes.len();
                }
                break;
            };
            let len = u32::from_be_bytes(len) as usize;
            let (begin, end) = (at + 5, (at + 5).saturating_add(len));
            if flag > 1 || len > MESSAGE_MAX {
                (self.fill, at) = (len, begin);
            } else if end <= bytes.len() {
                if flag == 1 {
                    // It is not looked into, since all that is text would go.
                    let says = if self.is_json { packed::said } else { said };
                    packed::fill(engine, self.packed, bytes, begin..end, says);
                } else if self.is_json {
                    let text = &mut bytes[begin..end];
                    engine.within(begin, |engine| Json::default().step(engine, text, true));
                } else if is_message(&bytes[begin..end], DEPTH_MAX) {
                    message(engine, bytes, begin..end, DEPTH_MAX);
                } else {
                    engine.fill_whole(bytes, begin..end, Kind::Body);
                }
                at = end;
            } else if last {
                (self.fill, at) = (len, begin);
            } else {
                break;
            }
        }
        at
    }
}

/// Reads a number of up to 64 bits, and how long it is.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// The next field: where its bytes stand if it has a length, and where it ends.
fn field(bytes: &[u8], at: usize) -> Option<(Option<Range<usize>>, usize)> {
    let (tag, len) = varint(&bytes[at..])?;
    if tag >> 3 == 0 || tag >> 3 >= 1 << 29 {
        return None;
    }
    let at = at + len;
    let (range, end) = match tag & 7 {
        0 => (None, at + varint(&bytes[at..])?.1),
        1 => (None, at + 8),
        5 => (None, at + 4),
        2 => {
            let (len, own) = varint(&bytes[at..])?;
            let end = (at + own).checked_add(usize::try_from(len).ok()?)?;
            (Some(at + own..end), end)
        }
        _ => return None,
    };
    (end <= bytes.len()).then_some((range, end))
}

fn is_message(bytes: &[u8], depth: usize) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        match field(bytes, at) {
            Some((_, end)) if depth > 0 => at = end,
            _ => return false,
        }
    }
    true
}

/// Whether it is a message that holds no numbers.
fn is_text_only(bytes: &[u8], depth: usize) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        match field(bytes, at) {
            Some((Some(_), end)) if depth > 0 => at = end,
            _ => return false,
        }
    }
    true
}

/// A message of so many bytes that says what it stands for: a field with a text.
fn said(len: usize) -> Vec<u8> {
    // Four digits of its length, of which the last may be zeros.
    let Some(text) = len.checked_sub(5) else { return packed::said(len) };
    let digit = |shift: u32, more: u8| ((text >> shift) as u8 & 0x7f) | more;
    let head = [0x0a, digit(0, 0x80), digit(7, 0x80), digit(14, 0x80), digit(21, 0)];
    head.into_iter().chain(packed::text(text)).collect()
}

fn message(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, depth: usize) {
    let mut at = range.start;
    while at < range.end {
        let Some((inner, end)) = field(&bytes[..range.end], at) else { return };
        if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
            let value = &bytes[inner.clone()];
            let has_lines = value.iter().any(|b| b"\t\r\n".contains(b));
            let is_text = value.iter().all(|b| (*b >= b' ' && *b != 0x7f) || b"\t\r\n".contains(b))
                && str::from_utf8(value).is_ok();
            // Tags and lengths may be the ends of lines.
            if is_text && !(has_lines && depth > 0 && is_text_only(value, depth - 1)) {
                engine.cloak(bytes, inner, Kind::Text, Escape::Backslash);
            } else if depth > 0 && is_message(value, depth - 1) {
                message(engine, bytes, inner, depth - 1);
            } else {
                engine.fill_whole(bytes, inner, Kind::Text);
            }
        }
        at = end;
    }
}
