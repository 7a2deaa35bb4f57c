//! Values in text behind a name that means a secret.

use std::ops::Range;

use memchr::memmem;

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::text::{Sort, is_word};

/// Values behind a name that means a secret: `name=value`, `"name": "value"`, and JSON in a string of JSON.
pub(super) fn values(engine: &mut Engine, bytes: &mut [u8], sort: Sort) {
    if sort == Sort::Json {
        // In strings: `name=value`, `Name: value`, and JSON or GraphQL within.
        let quoted = memmem::find_iter(bytes, br#"\""#).filter_map(|at| {
            let spaces = bytes[..at].iter().rev().take_while(|b| **b == b' ').count();
            let before = (at - spaces).checked_sub(1).filter(|i| bytes[*i] == b':');
            before.or((bytes.get(at + 2) == Some(&b':')).then_some(at + 2))
        });
        let is_sign =
            |at: &usize| bytes[*at] == b'=' || at.checked_sub(1).is_some_and(|before| is_word(bytes[before]));
        let signs: Vec<usize> =
            memchr::memchr2_iter(b'=', b':', bytes).filter(is_sign).chain(quoted).collect();
        return signs.into_iter().for_each(|sign| by_name(engine, bytes, sign, sort));
    }
    let mut at = 0;
    while let Some(len) = memchr::memchr2(b'=', b':', &bytes[at..]) {
        by_name(engine, bytes, at + len, sort);
        at += len + 1;
    }
}

/// The value behind a sign, by the name in front of it.
fn by_name(engine: &mut Engine, bytes: &mut [u8], sign: usize, sort: Sort) {
    // In code, the name of a variable tells nothing: only what is in quotation marks counts, and parameters of URLs.
    let is_bare = sort == Sort::Code && !is_quote_next(bytes, sign + 1);
    if is_bare && bytes[sign] == b':' {
        return;
    }
    let Some(name) = name_before(bytes, sign) else { return };
    let sort = match is_bare {
        true if matches!(bytes[..name.start], [.., b'?' | b'&' | b';']) => Sort::Plain,
        true => return,
        false => sort,
    };
    // It may begin with the letter of an escape: `\nsid=x`.
    let inner = name.start + escape_len(&bytes[..name.start], &bytes[name.clone()])..name.end;
    let kind = match (&bytes[name], &bytes[inner.clone()]) {
        (name, inner) if engine.is_secret_field(name) || engine.is_secret_field(inner) => Kind::Assignment,
        (name, inner) if engine.is_user_field(name) || engine.is_user_field(inner) => Kind::Name,
        _ => return,
    };
    // An argument of a command line ends where its quotation marks do.
    let is_argument = bytes[..inner.start].ends_with(b"'");
    let name = &bytes[inner];
    let is_quoted = matches!(bytes[..sign].trim_ascii_end(), [.., b'"' | b'\'']);
    let is_line = bytes[sign] == b':' && LINES.iter().any(|line| name.eq_ignore_ascii_case(line));
    let how = Behind { sort, is_line, is_argument, may_be_nested: is_quoted };
    let Some(value) = value_behind(bytes, sign + 1, how) else { return };
    // What is between such a word and other signs in JSON's strings is code.
    let is_spoken = sort == Sort::Json && bytes[sign] == b':' && !is_quoted && !is_line;
    let is_code =
        is_spoken && !matches!(bytes.get(value.end), None | Some(b' ' | b'"' | b'\'' | b'`' | b'\\'));
    if !(is_code || sort == Sort::Code && is_kind_of_token(name, &bytes[value.clone()])) {
        engine.cloak(bytes, value, kind, Escape::Backslash);
    }
}

fn is_quote_next(bytes: &[u8], at: usize) -> bool {
    let next = bytes[at..].iter().take(SPACES_MAX).find(|b| !matches!(b, b' ' | b'\t'));
    matches!(next, Some(b'"' | b'\'' | b'`' | b'\\'))
}

/// Fields of which all of a line is the value.
const LINES: [&[u8]; 4] = [b"cookie", b"set-cookie", b"authorization", b"proxy-authorization"];

/// Most spaces around a sign.
const SPACES_MAX: usize = 32;

/// The name in front of `=` or `:`, maybe in quotes.
fn name_before(bytes: &[u8], sign: usize) -> Option<Range<usize>> {
    let mut end = sign;
    let between = |b: u8| b"\"'\\ \t]".contains(&b);
    while end > 0 && sign - end < SPACES_MAX && between(bytes[end - 1]) {
        end -= 1;
    }
    let len = bytes[..end].iter().rev().take(64).take_while(|b| is_word(**b) || **b == b'[').count();
    (len > 0).then(|| end - len..end)
}

/// How many letters of a word belong to an escape that begins before it.
fn escape_len(before: &[u8], word: &[u8]) -> usize {
    match (before, word) {
        ([.., b'\\'], [b'u', hex @ ..]) if hex.len() > 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => 5,
        ([.., b'\\'], [b'n' | b't' | b'r' | b'b' | b'f', _, ..]) => 1,
        _ => 0,
    }
}

/// Whether a value is what a parser calls its tokens, and such: nobody but a person makes secrets of lower-case words alone.
fn is_kind_of_token(name: &[u8], value: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let chosen = [&b"pass"[..], b"pwd", b"secret", b"key"];
    chosen.iter().all(|word| memmem::find(&name, word).is_none())
        && value.iter().all(|b| b.is_ascii_lowercase() || b". _-/:".contains(b))
}

/// How a value is looked for.
#[derive(Clone, Copy)]
struct Behind {
    sort: Sort,
    /// It goes on up to the end of the line.
    is_line: bool,
    /// Or up to the next quotation mark.
    is_argument: bool,
    /// It may be a list or an object.
    may_be_nested: bool,
}

fn value_behind(bytes: &[u8], mut at: usize, how: Behind) -> Option<Range<usize>> {
    let Behind { sort, is_line, is_argument, may_be_nested } = how;
    let from = at;
    while at - from < SPACES_MAX && matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    let (quote, is_escaped) = match bytes.get(at..)? {
        [b'\\', q @ (b'"' | b'\''), ..] => (Some(*q), true),
        [q @ (b'"' | b'\'' | b'`'), ..] if sort != Sort::Json || *q != b'"' => (Some(*q), false),
        _ => (None, false),
    };
    at += usize::from(quote.is_some()) + usize::from(is_escaped);
    let rest = &bytes[at..];
    let len = match (quote, sort) {
        (Some(quote), _) => quoted_len(rest, quote, is_escaped, sort),
        (None, Sort::Code) => return None,
        (None, _) if may_be_nested && matches!(rest.first(), Some(b'[' | b'{')) => nested_len(rest, sort),
        (None, _) => {
            let ends: &[u8] = match (is_line, sort) {
                (true, Sort::Json) => b"\"\\\r\n",
                (true, _) if is_argument => b"\"'\r\n",
                (true, _) => b"\"\r\n",
                (false, _) => b"&\"'<>\\,;` \t\r\n){}",
            };
            let word =
                |rest: &[u8], ends: &[u8]| rest.iter().position(|b| ends.contains(b)).unwrap_or(rest.len());
            // `Authorization: Bearer x`.
            let first = word(rest, b"\"' \t\r\n,;");
            let scheme = rest[..first].to_ascii_lowercase();
            let is_scheme =
                [&b"bearer"[..], b"basic", b"digest", b"negotiate", b"token"].contains(&&scheme[..]);
            if is_scheme && rest.get(first) == Some(&b' ') {
                at += first + 1;
            }
            word(&bytes[at..], ends)
        }
    };
    let value = &bytes[at..at + len];
    let is_literal = [&b"true"[..], b"false", b"null", b"none", b"undefined", b""].contains(&value);
    (!is_literal).then(|| at..at + len)
}

/// Length of what stands in quotation marks. `is_escaped`: these are `\"`, since all is in a string itself.
fn quoted_len(rest: &[u8], quote: u8, is_escaped: bool, sort: Sort) -> usize {
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        at += match (&rest[at..], is_escaped) {
            ([b'\\', next, ..], true) if *next == quote => return at,
            // An escape within: `\\\"`, `\\n`.
            ([b'\\', b'\\', b'\\', _, ..], true) => 4,
            ([b'\\', b'\\', _, ..], true) => 3,
            ([b'\\', _, ..], _) => 2,
            // The end of the string that it is in.
            ([b'"', ..], _) if is_escaped || sort == Sort::Json => return at,
            _ if !is_escaped && *byte == quote => return at,
            ([b'\n', ..], _) if quote != b'`' => return at,
            _ => 1,
        };
    }
    rest.len()
}

/// Longest list or object that is looked for the end of.
const NESTED_MAX: usize = 4096;

/// Length of a list or object with all that is in it.
fn nested_len(rest: &[u8], sort: Sort) -> usize {
    let mut depth = 0usize;
    for (at, byte) in rest.iter().enumerate().take(NESTED_MAX) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 1 => return at + 1,
            b']' | b'}' => depth -= 1,
            // The end of the string that it is in.
            b'"' if sort == Sort::Json && at > 0 && rest[at - 1] != b'\\' => return at,
            _ => {}
        }
    }
    rest.len().min(NESTED_MAX)
}
