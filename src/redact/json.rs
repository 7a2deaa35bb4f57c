//! JSON (RFC 8259), one value or many one after the other: members by their names, at any depth.

use std::ops::Range;

use memchr::memchr2;

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::text::{self, Sort};

/// Deepest nesting; what is deeper is filled.
const DEPTH_MAX: usize = 512;
/// A string up to this length is waited for; a longer one goes in pieces.
const STRING_MAX: usize = 16 << 10;
/// How long these are, but for what an escape needs.
const PIECE: usize = 4096;
/// The longest value is waited for that is no string.
const WORD_MAX: usize = 64;

/// An object or array that is open.
#[derive(Clone, Copy, Debug)]
struct Open {
    is_object: bool,
    is_secret: bool,
    /// Nothing of it was seen yet.
    is_first: bool,
    /// Its first member's value comes, which may say that this is a schema.
    may_be_schema: bool,
    /// It was a secret, and describes one: some of its members are secrets all the same.
    is_schema: bool,
    /// What comes is a name for the value of another member.
    is_named: bool,
    /// It was one, of a secret.
    names_secret: bool,
}

/// First members of objects that describe a field, not its value.
const SCHEMA: [&[u8]; 3] = [b"shape", b"$ref", b"documentation"];
/// The same by their value, if the name is `type`.
const TYPES: [&[u8]; 9] =
    [b"string", b"object", b"integer", b"number", b"boolean", b"array", b"structure", b"list", b"map"];

/// What such an object says of the value itself.
const OF_VALUE: [&[u8]; 6] = [b"value", b"default", b"const", b"enum", b"example", b"examples"];

/// Members that name what another member of the object holds, and that one.
const NAMES: [&[u8]; 4] = [b"name", b"key", b"header", b"field"];
const VALUES: [&[u8]; 4] = [b"value", b"values", b"val", b"content"];

/// JSON that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Json {
    open: Vec<Open>,
    /// The next string is a member's name.
    name_is_next: bool,
    /// The next value is a secret.
    secret_is_next: bool,
    /// It is the name of a user, if it is a string.
    user_is_next: bool,
    /// Within a long string, which is a secret or not.
    long: Option<bool>,
    /// Where that began in what is shown now.
    long_at: usize,
    /// The piece before ended within a secret of this kind.
    inside: Option<Kind>,
    /// Too deep.
    is_lost: bool,
}

impl Json {
    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        self.long_at = 0;
        let mut end = self.members(engine, bytes, last);
        let mut from = 0;
        if let Some(kind) = self.inside.take() {
            let stop = bytes[..end].iter().position(|b| !b.is_ascii_alphanumeric() && !b"-_.+/=".contains(b));
            from = stop.unwrap_or(end);
            engine.cloak(bytes, 0..from, kind, Escape::Backslash);
            self.inside = stop.is_none().then_some(kind);
        }
        if from >= end {
            return end;
        }
        let goes_on = self.long == Some(false) && !last && !engine.is_shape();
        if goes_on && self.long_at < end {
            let (piece, least) = (&mut bytes[from..end], self.long_at.saturating_sub(from));
            let original = piece.to_vec();
            let (len, inside) =
                engine.within(from, |engine| text::scan_open(engine, piece, least, Sort::Json));
            // Between two characters.
            let whole = whole(&original, least, len);
            piece[whole..].copy_from_slice(&original[whole..]);
            (end, self.inside) = (from + whole, inside);
        } else {
            let open = engine.within(from, |engine| text::scan(engine, &mut bytes[from..end], Sort::Json));
            self.inside = open.filter(|_| self.long.is_some());
        }
        end
    }

    fn members(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.is_lost {
                engine.fill_text(bytes, at..bytes.len(), Kind::Body);
                return bytes.len();
            }
            if let Some(is_secret) = self.long {
                match piece(bytes, at, last) {
                    Some(end) => at = self.long_string(engine, bytes, at..end, is_secret),
                    None => return at,
                }
                continue;
            }
            match bytes[at] {
                b' ' | b'\t' | b'\r' | b'\n' | b':' => at += 1,
                b',' => {
                    self.name_is_next = self.open.last().is_some_and(|open| open.is_object);
                    self.secret_is_next = false;
                    self.user_is_next = false;
                    at += 1;
                }
                byte @ (b'{' | b'[') => {
                    let is_secret = self.is_secret();
                    self.open.push(Open {
                        is_object: byte == b'{',
                        is_secret,
                        is_first: true,
                        may_be_schema: false,
                        is_schema: false,
                        is_named: false,
                        names_secret: false,
                    });
                    self.is_lost = self.open.len() > DEPTH_MAX;
                    self.name_is_next = byte == b'{';
                    self.secret_is_next = false;
                    self.user_is_next = false;
                    at += 1;
                }
                b'}' | b']' => {
                    self.open.pop();
                    self.name_is_next = false;
                    self.secret_is_next = false;
                    self.user_is_next = false;
                    at += 1;
                }
                b'"' => match string(bytes, at + 1) {
                    Some(end) if end - at <= STRING_MAX => {
                        self.string(engine, bytes, at + 1..end);
                        at = end + 1;
                    }
                    None if !last && bytes.len() - at <= STRING_MAX => return at,
                    _ => {
                        self.long = Some(self.name_is_next || self.is_secret());
                        at += 1;
                        self.long_at = at;
                    }
                },
                b'-' | b'0'..=b'9' => {
                    let number = |b: &u8| b.is_ascii_digit() || b"+-.eE".contains(b);
                    let end = at + bytes[at..].iter().take_while(|b| number(b)).count();
                    if end == bytes.len() && !last && end - at < WORD_MAX {
                        return at;
                    }
                    self.number(engine, bytes, at..end);
                    at = end;
                }
                byte if byte.is_ascii_alphabetic() => {
                    let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
                    if end == bytes.len() && !last && end - at < WORD_MAX {
                        return at;
                    }
                    if ![&b"true"[..], b"false", b"null"].contains(&&bytes[at..end]) {
                        engine.fill_text(bytes, at..end, Kind::Body);
                    }
                    at = end;
                }
                // In front of some answers, against scripts that include them: )]}',
                b')' | b'\'' | b';' | b'&' | 0x1e | 0xef | 0xbb | 0xbf => at += 1,
                _ => {
                    engine.fill_text(bytes, at..at + 1, Kind::Body);
                    at += 1;
                }
            }
        }
        at
    }

    fn is_secret(&self) -> bool {
        self.secret_is_next || self.open.last().is_some_and(|open| open.is_secret)
    }

    fn string(&mut self, engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
        if self.name_is_next {
            self.name_is_next = false;
            self.secret_is_next = engine.is_secret_field(&bytes[range.clone()]);
            self.user_is_next = engine.is_user_field(&bytes[range.clone()]);
            let name = &bytes[range];
            if let Some(open) = self.open.last_mut().filter(|open| open.is_secret) {
                open.is_secret = !(open.is_first && SCHEMA.contains(&name));
                open.is_schema = !open.is_secret;
                open.may_be_schema = open.is_first && name == b"type";
                open.is_first = false;
            }
            if let Some(open) = self.open.last_mut() {
                self.secret_is_next |= (open.is_schema && OF_VALUE.contains(&name))
                    || (open.names_secret && VALUES.contains(&name));
                open.is_named = NAMES.contains(&name);
            }
            return;
        }
        if let Some(open) = self.open.last_mut() {
            let value = &bytes[range.clone()];
            if std::mem::take(&mut open.may_be_schema) {
                open.is_secret = !TYPES.contains(&value);
                open.is_schema = !open.is_secret;
            }
            if std::mem::take(&mut open.is_named) {
                open.names_secret = engine.is_secret_field(value);
            }
        }
        if self.is_secret() {
            engine.cloak(bytes, range, Kind::Json, Escape::Backslash);
        } else if self.user_is_next {
            engine.cloak(bytes, range, Kind::Name, Escape::Backslash);
        } else if engine.is_shape() {
            engine.cloak(bytes, range, Kind::Value, Escape::Backslash);
        }
    }

    fn number(&mut self, engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
        let kind = match self.is_secret() {
            true => Kind::Json,
            false if engine.is_shape() => Kind::Value,
            false => return,
        };
        // The letter of an exponent must stay.
        let digits = bytes[range.clone()].iter().position(|b| b.is_ascii_alphabetic());
        engine.cloak(
            bytes,
            range.start..digits.map_or(range.end, |len| range.start + len),
            kind,
            Escape::Header,
        );
    }

    /// A piece of a string. Gives where what follows it begins.
    fn long_string(
        &mut self,
        engine: &mut Engine,
        bytes: &mut [u8],
        range: Range<usize>,
        is_secret: bool,
    ) -> usize {
        let end = range.end;
        if is_secret {
            engine.cloak(bytes, range, Kind::Json, Escape::Backslash);
        } else if engine.is_shape() {
            engine.cloak(bytes, range, Kind::Value, Escape::Backslash);
        }
        if bytes.get(end) != Some(&b'"') {
            return end;
        }
        self.long = None;
        self.name_is_next = false;
        end + 1
    }
}

/// Where the next piece of a long string ends: at its quotation mark, or where it is long enough, between two characters.
/// `None` if that is not there yet.
fn piece(bytes: &[u8], start: usize, last: bool) -> Option<usize> {
    let mut at = start;
    while at - start < PIECE {
        // Up to there no character is longer than a byte.
        let most = bytes.len().min(start + PIECE);
        at = memchr2(b'"', b'\\', bytes.get(at..most)?).map_or(most, |len| at + len);
        match bytes[at..] {
            _ if at - start >= PIECE => break,
            [b'"', ..] => return Some(at),
            [b'\\', b'u', ..] if bytes.len() - at >= 6 => at += 6,
            [b'\\', escaped, ..] if escaped != b'u' || last => at += 2,
            [b'\\', ..] if last => at += 1,
            [] if last => return Some(at),
            _ => return None,
        }
    }
    Some(at.min(bytes.len()))
}

/// The last place up to `end` that is between two characters of a string that goes on at `at`.
fn whole(bytes: &[u8], mut at: usize, end: usize) -> usize {
    // None that begins before is as long as this.
    const LONGEST: usize = 6;
    if end - at >= LONGEST && !bytes[end - LONGEST..end].contains(&b'\\') {
        return end;
    }
    loop {
        let next = match bytes[at..] {
            [b'\\', b'u', ..] => at + 6,
            [b'\\', ..] => at + 2,
            [] => return at,
            _ => at + 1,
        };
        if next > end {
            return at;
        }
        at = next;
    }
}

/// Where the string that goes on at `at` ends: at its quotation mark.
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let found = at + memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[found] == b'"' {
            return Some(found);
        }
        at = found + 2;
    }
}
