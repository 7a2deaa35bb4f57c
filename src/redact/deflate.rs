//! Deflate that holds secrets: says something else in as many bytes. The best text is tried first, then ones that take less
//! room, since a copy of what was replaced may no longer be a copy, and a stream has little room for what is spelled out.

use crate::proto::deflate::{Stream, Token, WINDOW, rewrite};

/// What was said before, as far as can be referred to, and what readers of the result see there.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) was: Vec<u8>,
    pub(super) is: Vec<u8>,
    /// Which bytes of it stand for a value that was replaced.
    is_hidden: Vec<bool>,
    /// Which bytes of `was` are not known.
    pub(super) is_unknown: Vec<bool>,
}

impl Past {
    /// Adds what was said next, and what readers see of it. Bytes of it may not be known.
    pub(super) fn push(&mut self, was: &[u8], is: &[u8], is_unknown: &[bool]) {
        self.is_hidden.extend(hidden(was, is));
        self.was.extend_from_slice(was);
        self.is.extend_from_slice(is);
        self.is_unknown.extend_from_slice(is_unknown);
        let over = self.is.len().saturating_sub(WINDOW);
        self.is_hidden.drain(..over);
        self.was.drain(..over);
        self.is.drain(..over);
        self.is_unknown.drain(..over);
    }
}

/// What a stream becomes.
pub(super) struct Spelled {
    pub(super) bytes: Vec<u8>,
    /// What readers see.
    pub(super) text: Vec<u8>,
}

/// How far the text may differ from the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copies {
    /// A value that was replaced may show a replacement of another one that it shared letters with.
    InValues,
    /// What was no secret may show one too.
    Anywhere,
}

/// Writes a stream that says `old` behind `past` so that it says `new`, or something that shows less; `None`: nothing of
/// that fits. `source`: the stream as it is.
pub(super) fn spell(
    stream: &Stream,
    source: &[u8],
    past: &Past,
    window: usize,
    old: &[u8],
    new: &[u8],
) -> Option<Spelled> {
    let unchanged = stream.text(&past.is);
    let ways: [&dyn Fn() -> Vec<u8>; 4] = [
        &|| new.to_vec(),
        &|| copied(stream, past, old, new, Copies::InValues),
        &|| copied(stream, past, old, new, Copies::Anywhere),
        &|| filled(old, new),
    ];
    ways.into_iter().find_map(|way| {
        let text = way();
        let bytes = match unchanged.as_ref() == Some(&text) {
            true => source.to_vec(),
            false => rewrite(stream, source, &past.is, window, &text)?,
        };
        Some(Spelled { bytes, text })
    })
}

/// The text that is wanted, but for copies of what was replaced, which stay copies where they show nothing.
fn copied(stream: &Stream, past: &Past, old: &[u8], new: &[u8], copies: Copies) -> Vec<u8> {
    let base = past.is.len();
    let own = hidden(old, new);
    let mut all = [&past.is[..], new].concat();
    let mut is_hidden = [&past.is_hidden[..], &own].concat();
    let mut at = 0;
    for token in &stream.tokens {
        let part = at..at + token.len();
        at = part.end;
        let Token::Copy { distance, .. } = token else { continue };
        let Some(shift) = (base + part.start).checked_sub(usize::from(*distance)) else { continue };
        let mut shown = Vec::with_capacity(part.len());
        let mut same = 0;
        let is_fine = part.clone().all(|at| {
            let from = shift + (at - part.start);
            let byte = match from.checked_sub(base + part.start) {
                Some(inner) => shown[inner],
                None => all[from],
            };
            shown.push(byte);
            // A replacement has some letters of its value by chance, but not several in a row.
            same = if own[at] && byte == old[at] && byte != new[at] { same + 1 } else { 0 };
            byte == new[at]
                || same < 3
                    && is_hidden[from]
                    && (own[at] || copies == Copies::Anywhere)
                    && is_alike(byte, new[at])
        });
        if is_fine {
            for (at, byte) in part.zip(shown) {
                is_hidden[base + at] |= byte != new[at];
                all[base + at] = byte;
            }
        }
    }
    all.split_off(base)
}

/// Whether one may stand where the other does, so that numbers stay numbers.
fn is_alike(a: u8, b: u8) -> bool {
    a.is_ascii_digit() && b.is_ascii_digit() || a.is_ascii_alphabetic() && b.is_ascii_alphabetic()
}

/// Letters and digits that stand together, of which some were replaced.
fn values(old: &[u8], new: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut values = Vec::new();
    let mut at = 0;
    while at < new.len() {
        let len = new[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        if old[at..at + len] != new[at..at + len] {
            values.push(at..at + len);
        }
        at += len + 1;
    }
    values
}

/// Which bytes stand for a value that was replaced.
fn hidden(old: &[u8], new: &[u8]) -> Vec<bool> {
    let mut is_hidden: Vec<bool> = old.iter().zip(new).map(|(a, b)| a != b).collect();
    values(old, new).into_iter().for_each(|value| is_hidden[value].fill(true));
    is_hidden
}

/// The same text with replacements that take less room: `x` and 1.
fn filled(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = new.to_vec();
    for value in values(old, new) {
        // What follows a backslash is no letter.
        let is_escape = value.start > 0 && new[value.start - 1] == b'\\';
        for byte in out[value].iter_mut().skip(if is_escape { 5 } else { 0 }) {
            *byte = if byte.is_ascii_digit() { b'1' } else { b'x' };
        }
    }
    out
}
