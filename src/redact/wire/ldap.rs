//! LDAP (RFC 4511), in BER of definite lengths.

use std::ops::Range;

use super::super::cloak::Escape;
use super::super::engine::Engine;
use super::super::kind::Kind;
use super::{Length, data, said, secret};

/// Deepest nesting; what is deeper is masked.
const DEPTH_MAX: usize = 32;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 4;

/// An element: its tag, where its contents are, and where it ends.
struct Element {
    tag: u8,
    range: Range<usize>,
}

/// The element at `at`, within `end`.
fn element(bytes: &[u8], at: usize, end: usize) -> Option<Element> {
    let (tag, first) = (*bytes.get(at)?, usize::from(*bytes.get(at + 1)?));
    let (begin, len) = match first {
        0..=0x7f => (at + 2, first),
        0x81..=0x84 => {
            let own = first - 0x80;
            let len = bytes.get(at + 2..at + 2 + own)?.iter().fold(0, |len, b| len << 8 | usize::from(*b));
            (at + 2 + own, len)
        }
        _ => return None,
    };
    let stop = begin.checked_add(len).filter(|stop| *stop <= end)?;
    Some(Element { tag, range: begin..stop })
}

/// Elements side by side; `None` if they do not fill the range.
fn elements(bytes: &[u8], range: Range<usize>) -> Option<Vec<Element>> {
    let mut all = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let one = element(bytes, at, range.end)?;
        at = one.range.end;
        all.push(one);
    }
    Some(all)
}

/// A bind or search request, or an extended one as STARTTLS, with a small number.
pub(super) fn is_client(bytes: &[u8]) -> bool {
    let Length::Known { head, .. } = length(bytes) else { return false };
    let rest = bytes.get(head..).unwrap_or_default();
    let Some(number) = element(rest, 0, rest.len()) else { return false };
    number.tag == 2
        && (1..=4).contains(&number.range.len())
        && matches!(rest.get(number.range.end), Some(0x60 | 0x63 | 0x77))
}

pub(super) fn length(bytes: &[u8]) -> Length {
    match *bytes {
        [SEQUENCE, len @ 0..=0x7f, ..] => Length::of(2, usize::from(len)),
        [SEQUENCE, first @ 0x81..=0x84, ref rest @ ..] => {
            let own = usize::from(first - 0x80);
            match rest.get(..own) {
                Some(len) => Length::of(2 + own, len.iter().fold(0, |len, b| len << 8 | usize::from(*b))),
                None => Length::More,
            }
        }
        [] | [SEQUENCE] => Length::More,
        _ => Length::Lost,
    }
}

/// Whether a message has a number and one of the operations of its side, and all its elements end where it does.
pub(super) fn is_certain(bytes: &[u8], is_server: bool) -> bool {
    let parts = element(bytes, 0, bytes.len()).and_then(|whole| elements(bytes, whole.range));
    let Some([number, operation, ..]) = parts.as_deref() else { return false };
    let is_own = match operation.tag {
        0x61 | 0x64 | 0x65 | 0x67 | 0x69 | 0x6b | 0x6d | 0x6f | 0x73 | 0x78 | 0x79 => is_server,
        // Unbinding, abandoning, deleting: no elements.
        0x42 => return !is_server && operation.range.is_empty() && number.tag == 2,
        0x60 | 0x63 | 0x66 | 0x68 | 0x6c | 0x6e | 0x77 => !is_server,
        _ => false,
    };
    is_own
        && number.tag == 2
        && (1..=4).contains(&number.range.len())
        && elements(bytes, operation.range.clone()).is_some_and(|parts| !parts.is_empty())
}

pub(super) fn message(engine: &mut Engine, bytes: &mut [u8]) {
    let parts = element(bytes, 0, bytes.len()).and_then(|whole| elements(bytes, whole.range));
    let Some([number, operation, controls @ ..]) = parts.as_deref() else {
        return engine.fill_whole(bytes, 0..bytes.len(), Kind::Lost);
    };
    if number.tag != 2 {
        return engine.fill_whole(bytes, number.range.start..bytes.len(), Kind::Lost);
    }
    if self::operation(engine, bytes, operation).is_none() {
        engine.fill_whole(bytes, operation.range.clone(), Kind::Lost);
    }
    for control in controls {
        leaves(engine, bytes, control.range.clone(), DEPTH_MAX);
    }
}

fn operation(engine: &mut Engine, bytes: &mut [u8], operation: &Element) -> Option<()> {
    // Unbinding, abandoning, deleting: a name, a number or nothing.
    if operation.tag & 0x20 == 0 {
        if operation.tag == 0x4a {
            name(engine, bytes, operation.range.clone());
        }
        return Some(());
    }
    let parts = elements(bytes, operation.range.clone())?;
    match operation.tag {
        // Bind: version, name, what authenticates.
        0x60 => {
            let [_, user, credentials] = &parts[..] else { return None };
            name(engine, bytes, user.range.clone());
            if credentials.tag == 0x80 {
                secret(engine, bytes, credentials.range.clone());
            } else {
                // SASL: a mechanism, then what it says.
                let all = elements(bytes, credentials.range.clone()).filter(|_| credentials.tag == 0xa3)?;
                all.iter().skip(1).for_each(|one| secret(engine, bytes, one.range.clone()));
            }
        }
        // Search: base, scope, aliases, two limits, types only, filter, attributes.
        0x63 => {
            let [base, .., filter, _] = &parts[..] else { return None };
            name(engine, bytes, base.range.clone());
            self::filter(engine, bytes, filter, DEPTH_MAX);
        }
        // An entry that was found, or is added: a name, then attributes.
        0x64 | 0x68 => {
            let [entry, attributes] = &parts[..] else { return None };
            name(engine, bytes, entry.range.clone());
            values(engine, bytes, attributes, DEPTH_MAX);
        }
        // Changes.
        0x66 => {
            let [entry, changes] = &parts[..] else { return None };
            name(engine, bytes, entry.range.clone());
            values(engine, bytes, changes, DEPTH_MAX);
        }
        // Comparison: a name, then an attribute and a value.
        0x6e => {
            let [entry, pair] = &parts[..] else { return None };
            name(engine, bytes, entry.range.clone());
            let pair = elements(bytes, pair.range.clone())?;
            pair.iter().skip(1).for_each(|value| data(engine, bytes, value.range.clone()));
        }
        // Renaming.
        0x6c => {
            parts.iter().filter(|one| one.tag != 1).for_each(|one| name(engine, bytes, one.range.clone()))
        }
        // Extended requests and answers, and what comes in between: an identifier, then anything.
        0x77..=0x79 => {
            for one in &parts {
                match one.tag {
                    0x80 if operation.tag != 0x78 => {}
                    0x8a | 0x0a => {}
                    OCTETS => said(engine, bytes, one.range.clone()),
                    _ => leaves(engine, bytes, one.range.clone(), DEPTH_MAX),
                }
            }
        }
        // Results: a code, a name, a text; then what SASL says. References.
        0x61 | 0x65 | 0x67 | 0x69 | 0x6b | 0x6d | 0x6f | 0x73 => {
            for one in &parts {
                match one.tag {
                    0x87 => secret(engine, bytes, one.range.clone()),
                    OCTETS => name(engine, bytes, one.range.clone()),
                    0xa3 => said(engine, bytes, one.range.clone()),
                    _ => {}
                }
            }
        }
        _ => return None,
    }
    Some(())
}

/// A distinguished name (RFC 4514), or text: it stays, unless users have pseudonyms.
fn name(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut at = range.start;
    while engine.hides_names() && at < range.end {
        let end =
            bytes[at..range.end].iter().position(|b| b",+".contains(b)).map_or(range.end, |len| at + len);
        if let Some(sign) = memchr::memchr(b'=', &bytes[at..end]) {
            engine.cloak(bytes, at + sign + 1..end, Kind::Name, Escape::Backslash);
        }
        at = end + 1;
    }
    said(engine, bytes, range);
}

/// Values of attributes: each set holds those of one.
fn values(engine: &mut Engine, bytes: &mut [u8], of: &Element, depth: usize) {
    let Some(parts) = elements(bytes, of.range.clone()).filter(|_| depth > 0) else {
        return engine.fill_whole(bytes, of.range.clone(), Kind::Lost);
    };
    for part in parts {
        match (of.tag, part.tag) {
            (SET, _) => data(engine, bytes, part.range),
            (_, SEQUENCE | SET) => values(engine, bytes, &part, depth - 1),
            _ => {}
        }
    }
}

/// What a search looks for (RFC 4511, section 4.5.1.7): names of attributes stay, values are masked.
fn filter(engine: &mut Engine, bytes: &mut [u8], filter: &Element, depth: usize) {
    // Presence: the name of an attribute.
    if filter.tag == 0x87 {
        return;
    }
    let Some(parts) = elements(bytes, filter.range.clone()).filter(|_| depth > 0) else {
        return engine.fill_whole(bytes, filter.range.clone(), Kind::Lost);
    };
    match filter.tag {
        0xa0..=0xa2 => parts.iter().for_each(|part| self::filter(engine, bytes, part, depth - 1)),
        0xa4 => {
            for part in parts.iter().skip(1) {
                leaves(engine, bytes, part.range.clone(), 1);
            }
        }
        // An extensible match: its third part is the value.
        0xa9 => parts.iter().filter(|p| p.tag == 0x83).for_each(|p| data(engine, bytes, p.range.clone())),
        _ => parts.iter().skip(1).for_each(|part| data(engine, bytes, part.range.clone())),
    }
}

/// Masks all texts in what may be BER, and the whole if it is none.
fn leaves(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, depth: usize) {
    let Some(parts) = elements(bytes, range.clone()).filter(|_| depth > 0) else {
        return data(engine, bytes, range);
    };
    for part in parts {
        match part.tag {
            // Numbers and the like.
            1 | 2 | 5 | 10 => {}
            OCTETS if is_identifier(&bytes[part.range.clone()]) => {}
            tag if tag & 0x20 != 0 => leaves(engine, bytes, part.range, depth - 1),
            // What is packed in a string may be BER.
            OCTETS if bytes.get(part.range.start) == Some(&SEQUENCE) => {
                leaves(engine, bytes, part.range, depth - 1);
            }
            _ => data(engine, bytes, part.range),
        }
    }
}

/// An object identifier in text, as `1.2.840.113556.1.4.319`.
fn is_identifier(text: &[u8]) -> bool {
    memchr::memchr_iter(b'.', text).count() > 4 && text.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}
