//! Secrets in text, wherever they stand: known formats, private keys, addresses, cards, and values behind a telling
//! name.

use std::ops::Range;

use memchr::{memchr_iter, memmem};

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::{identity, named, patterns};

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// JSON, whose members are looked after elsewhere.
    Json,
    /// HTML, scripts and style sheets: values in quotes only, since the names of variables tell nothing.
    Code,
    /// Anything else.
    Plain,
}

/// Longest text without an end of a line that is waited for.
const WAIT_MAX: usize = 4096;
/// What is behind the place where such a text is cut has been looked at, so that what begins before it is whole.
const MARGIN: usize = 1024;
/// What belongs to a value may be so far before it: its name.
const CONTEXT: usize = 160;

/// A text that comes in pieces.
#[derive(Debug)]
pub(super) struct Text {
    sort: Sort,
    /// The piece before ended within a secret.
    inside: Option<Kind>,
}

impl Text {
    pub(super) fn new(sort: Sort) -> Text {
        Text { sort, inside: None }
    }

    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        if let Some(kind) = self.inside {
            let end = match self.end_of_inside(bytes, kind) {
                Some(end) => end,
                // Line by line, however they are cut.
                None if kind == Kind::PrivateKey && !last => self.cut(bytes, 0),
                None => bytes.len(),
            };
            if kind == Kind::PrivateKey {
                lines(engine, bytes, 0..end);
            } else {
                engine.cloak(bytes, 0..end, kind, Escape::Backslash);
            }
            if self.end_of_inside(bytes, kind) != Some(end) {
                return end;
            }
            self.inside = None;
            at = end;
        }
        let mut end = if last { bytes.len() } else { self.cut(bytes, at) };
        if end > at {
            let is_cut = end == bytes.len() && !last;
            (end, self.inside) = engine.within(at, |engine| match is_cut {
                true => {
                    let (len, inside) = scan_open(engine, &mut bytes[at..end], 0, self.sort);
                    (at + len, inside)
                }
                false => (end, scan(engine, &mut bytes[at..end], self.sort)),
            });
            if last {
                self.inside = None;
            }
        }
        end
    }

    fn end_of_inside(&self, bytes: &[u8], kind: Kind) -> Option<usize> {
        if kind == Kind::PrivateKey {
            return memmem::find(bytes, b"-----END");
        }
        bytes.iter().position(|b| !is_token(*b))
    }

    /// Where the last line that is whole ends; where `bytes` do if that is too far.
    fn cut(&self, bytes: &[u8], from: usize) -> usize {
        match memchr::memrchr(b'\n', &bytes[from..]) {
            Some(at) => from + at + 1,
            None if bytes.len() - from < WAIT_MAX + MARGIN => from,
            None => bytes.len(),
        }
    }
}

/// Looks for secrets in text that goes on, and has no end nearby. Gives how much of it is decided, from `least` on; what
/// follows is as it was. And the kind of the secret that the decided part ends in.
pub(super) fn scan_open(
    engine: &mut Engine,
    bytes: &mut [u8],
    least: usize,
    sort: Sort,
) -> (usize, Option<Kind>) {
    let original = bytes[least..].to_vec();
    let mark = engine.found_so_far();
    let inside = scan(engine, bytes, sort);
    let most = bytes.len().saturating_sub(MARGIN);
    let mut border = engine.border(most.max(least), CONTEXT);
    if border <= least {
        // One after the other: what belongs to the next is behind the one before.
        border = engine.last_end(most);
    }
    if border <= least {
        return (bytes.len(), inside);
    }
    bytes[border..].copy_from_slice(&original[border - least..]);
    engine.retract(mark, border);
    (border, None)
}

/// Characters of tokens.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~+/=%".contains(&byte)
}

/// Looks for secrets in a piece of text. Gives the kind of the one that it ends in.
pub(super) fn scan(engine: &mut Engine, bytes: &mut [u8], sort: Sort) -> Option<Kind> {
    let mut open = None;
    own_patterns(engine, bytes);
    let key = private_keys(engine, bytes);
    open = open.or(key.then_some(Kind::PrivateKey));
    let token = known_formats(engine, bytes);
    open = open.or(token);
    addresses(engine, bytes);
    users(engine, bytes);
    cards(engine, bytes);
    named::values(engine, bytes, sort);
    identity::scan(engine, bytes, sort);
    open
}

/// The same of what names programs and their versions, which look like addresses and are none.
pub(super) fn scan_program(engine: &mut Engine, bytes: &mut [u8]) {
    let versions = engine.spare_addresses(true);
    scan(engine, bytes, Sort::Plain);
    engine.spare_addresses(versions);
}

/// Tokens of known formats. Gives the kind of the one that it ends in.
fn known_formats(engine: &mut Engine, bytes: &mut [u8]) -> Option<Kind> {
    let mut open = None;
    let all: Vec<Range<usize>> = engine.patterns().tokens.find_iter(bytes).map(|m| m.range()).collect();
    for mut range in all {
        // What looks like the prefix of one may be the end of a word in front of another.
        for _ in 0..INNER_MAX {
            if begins(bytes, range.start, is_word) {
                break;
            }
            match engine.patterns().tokens.find(&bytes[range.start + 1..range.end]) {
                Some(inner) => range.start += 1 + inner.start(),
                None => {
                    range.start = range.end;
                    break;
                }
            }
        }
        if range.start < range.end && begins(bytes, range.start, is_word) {
            let kind = if bytes[range.clone()].starts_with(b"eyJ") { Kind::Jwt } else { Kind::Token };
            open = open.or((range.end == bytes.len()).then_some(kind));
            let end = range.end - trailing_dots(&bytes[range.clone()]);
            engine.cloak(bytes, range.start..end, kind, Escape::Backslash);
        }
    }
    open
}

/// So often another token is looked for within what begins as one.
const INNER_MAX: usize = 4;

/// Whether a word can begin there: after what is no part of one, or after an escape of JSON or a URL.
pub(super) fn begins(bytes: &[u8], at: usize, is_part: impl Fn(u8) -> bool) -> bool {
    match &bytes[..at] {
        [] | [.., b'\\', _] | [.., b'%', _, _] | [.., b'\\', b'u', _, _, _, _] => true,
        [.., before] => !is_part(*before),
    }
}

/// What is a secret wherever it is, and whatever is around it: private keys, and tokens of known formats.
pub(super) fn tokens(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let part = &mut bytes[range.clone()];
    engine.within(range.start, |engine| {
        private_keys(engine, part);
        known_formats(engine, part);
    });
}

/// A token at the end of a sentence.
fn trailing_dots(token: &[u8]) -> usize {
    token.iter().rev().take_while(|b| **b == b'.').count()
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn own_patterns(engine: &mut Engine, bytes: &mut [u8]) {
    let mut all: Vec<Range<usize>> = Vec::new();
    for pattern in &engine.patterns().own {
        if pattern.captures_len() > 1 {
            let groups = pattern.captures_iter(bytes);
            all.extend(groups.filter_map(|groups| Some(groups.get(1).or(groups.get(0))?.range())));
        } else {
            all.extend(pattern.find_iter(bytes).map(|found| found.range()));
        }
    }
    for range in all {
        engine.cloak(bytes, range, Kind::Pattern, Escape::Backslash);
    }
}

/// PEM (RFC 7468). Gives whether one is open at the end.
fn private_keys(engine: &mut Engine, bytes: &mut [u8]) -> bool {
    let mut at = 0;
    while let Some(found) = memmem::find(&bytes[at..], b"-----BEGIN ") {
        let label = at + found + 11;
        let line = &bytes[label..bytes.len().min(label + 64)];
        let Some(dashes) = memmem::find(line, b"-----") else {
            at = label;
            continue;
        };
        let body = label + dashes + 5;
        at = body;
        if memmem::find(&bytes[label..body], b"PRIVATE KEY").is_none() {
            continue;
        }
        let end = memmem::find(&bytes[body..], b"-----END");
        let stop = end.map_or(bytes.len(), |end| body + end);
        lines(engine, bytes, body..stop);
        if end.is_none() {
            return true;
        }
        at = stop;
    }
    false
}

/// Each line of a key by itself, so that it does not matter how many there are at once.
fn lines(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut at = range.start;
    while at < range.end {
        let end = memchr::memchr(b'\n', &bytes[at..range.end]).map_or(range.end, |len| at + len);
        engine.cloak(bytes, at..end, Kind::PrivateKey, Escape::Backslash);
        at = end + 1;
    }
}

/// Endings of file names that follow an @ in names such as `icon@2x.png`.
const NO_DOMAINS: [&[u8]; 12] =
    [b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"js", b"mjs", b"css", b"json", b"map", b"ts"];

/// E-mail addresses (the dot-atoms of RFC 5322, section 3.4.1).
fn addresses(engine: &mut Engine, bytes: &mut [u8]) {
    let local = |b: &u8| b.is_ascii_alphanumeric() || b"._%+-'".contains(b) || !b.is_ascii();
    let domain = |b: &u8| b.is_ascii_alphanumeric() || b".-".contains(b) || !b.is_ascii();
    let signs: Vec<usize> = memchr_iter(b'@', bytes).collect();
    for at in signs {
        let before = bytes[..at].iter().rev().take(64).take_while(|b| local(b)).count();
        // A quotation mark in front.
        let marks = bytes[at - before..at].iter().take_while(|b| **b == b'\'').count();
        let before = before - marks;
        let after = bytes[at + 1..].iter().take(255).take_while(|b| domain(b)).count();
        let name = &bytes[at + 1..at + 1 + after];
        let Some(dot) = name.iter().rposition(|b| *b == b'.') else { continue };
        // At the end of a sentence.
        let (dot, after) = match dot + 1 == after {
            true => (name[..dot].iter().rposition(|b| *b == b'.').unwrap_or(0), dot),
            false => (dot, after),
        };
        let top = &name[(dot + 1).min(after)..after];
        let is_top = top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic) && dot > 0;
        if before == 0 || !is_top || NO_DOMAINS.contains(&&top.to_ascii_lowercase()[..]) {
            continue;
        }
        // A URL's user, and its host: the one is looked after there, the other stays.
        let url = bytes[..at].iter().rev().take(256).take_while(|b| !is_url_end(**b)).count();
        if bytes[..at - url].ends_with(b"://") {
            continue;
        }
        engine.cloak(bytes, at - before..at, Kind::Email, Escape::Percent);
        match engine.hides_names() {
            true => identity::host(engine, bytes, at + 1..at + 1 + after),
            false => engine.cloak(bytes, at + 1..at + 1 + dot, Kind::Email, Escape::Percent),
        }
    }
}

/// What a URL's user and host end at.
fn is_url_end(byte: u8) -> bool {
    b"/?#\"'<>\\ \t\r\n,`".contains(&byte)
}

/// `scheme://user:secret@host` (RFC 3986, section 3.2.1).
fn users(engine: &mut Engine, bytes: &mut [u8]) {
    let all: Vec<usize> = memmem::find_iter(bytes, b"://").map(|at| at + 3).collect();
    for start in all {
        let stop = bytes[start..].iter().position(|b| is_url_end(*b));
        let end = stop.map_or(bytes.len(), |stop| start + stop);
        if let Some(at) = bytes[start..end].iter().rposition(|b| *b == b'@') {
            engine.cloak(bytes, start..start + at, Kind::UserInfo, Escape::Percent);
        }
    }
}

/// Steps over text in strides that no card number fits between.
fn cards(engine: &mut Engine, bytes: &mut [u8]) {
    let part = |b: u8| b.is_ascii_digit() || b == b' ' || b == b'-';
    let mut probe = 12;
    while probe < bytes.len() {
        if !part(bytes[probe]) {
            probe += 13;
            continue;
        }
        let before = bytes[..probe].iter().rev().take_while(|b| part(**b)).count();
        let after = bytes[probe..].iter().take_while(|b| part(**b)).count();
        let (start, end) = (probe - before, probe + after);
        probe = end + 12;
        if end - start < 13 {
            continue;
        }
        let mut at = start;
        while at + 13 <= end {
            let part = |b: u8| b.is_ascii_alphanumeric() || b".-_/".contains(&b);
            let begins = bytes[at].is_ascii_digit() && self::begins(bytes, at, part);
            match patterns::card(&bytes[at..]).filter(|_| begins) {
                Some(len) => {
                    engine.cloak(bytes, at..at + len, Kind::Card, Escape::Header);
                    at += len;
                }
                None => at += 1,
            }
        }
    }
}
