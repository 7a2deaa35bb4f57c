//! Secrets in text, wherever they stand: known formats, private keys, addresses, cards, and values behind a telling
//! name.

use std::ops::Range;

use memchr::{memchr_iter, memmem};

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::{identity, patterns};

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

/// Longest text without an end of a line or value that is waited for.
const WAIT_MAX: usize = 4096;

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
        let end = if last { bytes.len() } else { self.cut(bytes, at) };
        if end > at {
            self.inside = engine.within(at, |engine| scan(engine, &mut bytes[at..end], self.sort));
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

    /// Where the last value that is whole ends.
    fn cut(&self, bytes: &[u8], from: usize) -> usize {
        let near = bytes.len().saturating_sub(WAIT_MAX).max(from);
        let tail = &bytes[near..];
        let ends: &[&[u8]] = match self.sort {
            Sort::Json => &[b"\" "],
            Sort::Code => &[b"\n", b";> "],
            Sort::Plain => &[b"\n", b" "],
        };
        for (i, end) in ends.iter().enumerate() {
            // The second best only if the best is too far.
            if i > 0 && tail.len() < WAIT_MAX {
                break;
            }
            let found = match end {
                [end] => memchr::memrchr(*end, tail),
                _ => tail.iter().rposition(|b| end.contains(b)),
            };
            if let Some(at) = found {
                return near + at + 1;
            }
        }
        if tail.len() >= WAIT_MAX { bytes.len() } else { near }
    }
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
    named(engine, bytes, sort);
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
    for range in all {
        let begins = range.start == 0 || !is_word(bytes[range.start - 1]);
        if begins {
            let kind = if bytes[range.clone()].starts_with(b"eyJ") { Kind::Jwt } else { Kind::Token };
            open = open.or((range.end == bytes.len()).then_some(kind));
            let end = range.end - trailing_dots(&bytes[range.clone()]);
            engine.cloak(bytes, range.start..end, kind, Escape::Backslash);
        }
    }
    open
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

fn is_word(byte: u8) -> bool {
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
    let local = |b: &u8| b.is_ascii_alphanumeric() || b"._%+-".contains(b);
    let domain = |b: &u8| b.is_ascii_alphanumeric() || b".-".contains(b);
    let signs: Vec<usize> = memchr_iter(b'@', bytes).collect();
    for at in signs {
        let before = bytes[..at].iter().rev().take(64).take_while(|b| local(b)).count();
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
            let begins = bytes[at].is_ascii_digit()
                && !at
                    .checked_sub(1)
                    .is_some_and(|b| bytes[b].is_ascii_alphanumeric() || b".-_/".contains(&bytes[b]));
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

/// Values behind a name that means a secret: `name=value`, `"name": "value"`, and JSON in a string of JSON.
fn named(engine: &mut Engine, bytes: &mut [u8], sort: Sort) {
    let signs: Vec<usize> = match sort {
        Sort::Json => {
            // In strings: `name=value`, and JSON or GraphQL within.
            let quoted = memmem::find_iter(bytes, br#"\""#).filter_map(|at| {
                let spaces = bytes[..at].iter().rev().take_while(|b| **b == b' ').count();
                let before = (at - spaces).checked_sub(1).filter(|i| bytes[*i] == b':');
                before.or((bytes.get(at + 2) == Some(&b':')).then_some(at + 2))
            });
            memchr_iter(b'=', bytes).chain(quoted).collect()
        }
        _ => memchr::memchr2_iter(b'=', b':', bytes).collect(),
    };
    for sign in signs {
        let Some(name) = name_before(bytes, sign) else { continue };
        let kind = match &bytes[name] {
            name if engine.is_secret_field(name) => Kind::Assignment,
            name if engine.is_user_field(name) => Kind::Name,
            _ => continue,
        };
        if let Some(value) = value_behind(bytes, sign + 1, sort) {
            engine.cloak(bytes, value, kind, Escape::Backslash);
        }
    }
}

/// The name in front of `=` or `:`, maybe in quotes.
fn name_before(bytes: &[u8], sign: usize) -> Option<Range<usize>> {
    let mut end = sign;
    let quote = |b: u8| b == b'"' || b == b'\'' || b == b'\\' || b == b' ' || b == b']';
    while end > 0 && sign - end < 4 && quote(bytes[end - 1]) {
        end -= 1;
    }
    let len = bytes[..end].iter().rev().take(64).take_while(|b| is_word(**b) || **b == b'[').count();
    (len > 0).then(|| end - len..end)
}

fn value_behind(bytes: &[u8], mut at: usize, sort: Sort) -> Option<Range<usize>> {
    let from = at;
    while bytes.get(at) == Some(&b' ') && at - from < 4 {
        at += 1;
    }
    let quote = match bytes.get(at..)? {
        [b'\\', q @ (b'"' | b'\''), ..] => {
            at += 2;
            Some(*q)
        }
        [q @ (b'"' | b'\'' | b'`'), ..] if sort != Sort::Json => {
            at += 1;
            Some(*q)
        }
        _ => None,
    };
    let rest = &bytes[at..];
    let len = match (quote, sort) {
        (Some(quote), _) => {
            rest.iter().position(|b| *b == quote || *b == b'\\' || *b == b'\n').unwrap_or(rest.len())
        }
        (None, Sort::Code) => return None,
        (None, _) => {
            let word = |rest: &[u8]| {
                rest.iter().position(|b| b"&\"'<>\\,;` \t\r\n){}".contains(b)).unwrap_or(rest.len())
            };
            let first = word(rest);
            // `Authorization: Bearer x`.
            let scheme = rest[..first].to_ascii_lowercase();
            let is_scheme =
                [&b"bearer"[..], b"basic", b"digest", b"negotiate", b"token"].contains(&&scheme[..]);
            if is_scheme && rest.get(first) == Some(&b' ') {
                at += first + 1;
                word(&bytes[at..])
            } else {
                first
            }
        }
    };
    let value = &bytes[at..at + len];
    let is_literal = [&b"true"[..], b"false", b"null", b"none", b"undefined", b""].contains(&value);
    (!is_literal).then(|| at..at + len)
}
