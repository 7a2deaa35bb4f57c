//! XML and HTML: elements and attributes by their names; of HTML, also the fields of forms.

use std::ops::Range;

use memchr::memchr;

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::text::{self, Sort};

/// A tag or text up to this length is waited for.
const WAIT_MAX: usize = 64 << 10;
/// Deepest nesting within a secret element that is counted.
const DEPTH_MAX: u32 = 1 << 20;

/// XML that comes in pieces.
#[derive(Debug)]
pub(super) struct Xml {
    is_html: bool,
    /// How deep within an element that is a secret; 0: in none.
    depth: u32,
    /// A script or style sheet of HTML, up to its end.
    in_script: bool,
}

impl Xml {
    pub(super) fn new(is_html: bool) -> Xml {
        Xml { is_html, depth: 0, in_script: false }
    }

    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        // Where a part begins that goes on.
        let mut open = None;
        while at < bytes.len() {
            let (end, is_whole) = match self.part(bytes, at) {
                Some(end) => (end, true),
                None => (bytes.len(), false),
            };
            if !is_whole && !last && end - at <= WAIT_MAX {
                break;
            }
            let is_tag = bytes[at] == b'<' && !self.in_script;
            if is_tag {
                self.tag(engine, bytes, at..end);
            } else {
                self.in_script &= !is_whole;
                if self.depth > 0 {
                    engine.cloak(bytes, at..end, Kind::Xml, Escape::Entity);
                } else if engine.is_shape() {
                    engine.cloak(bytes, at..end, Kind::Value, Escape::Entity);
                } else if !is_whole && !last {
                    open = Some(at);
                }
            }
            at = end;
        }
        let sort = if self.is_html { Sort::Code } else { Sort::Plain };
        match open {
            Some(least) => text::scan_open(engine, bytes, least, sort).0,
            None => {
                text::scan(engine, &mut bytes[..at], sort);
                at
            }
        }
    }

    /// Where the tag or text that begins at `at` ends.
    fn part(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let rest = &bytes[at..];
        let ends_with = |end: &[u8]| memchr::memmem::find(rest, end).map(|i| at + i + end.len());
        if self.in_script {
            return memchr::memmem::find(rest, b"</s").map(|i| at + i);
        }
        if rest[0] != b'<' {
            return memchr(b'<', rest).map(|i| at + i);
        }
        if rest.starts_with(b"<!--") {
            return ends_with(b"-->");
        }
        if rest.starts_with(b"<![CDATA[") {
            return ends_with(b"]]>");
        }
        let mut quote = None;
        rest.iter()
            .position(|b| {
                match (quote, b) {
                    (None, b'>') => return true,
                    (None, b'"' | b'\'') => quote = Some(*b),
                    (Some(q), b) if q == *b => quote = None,
                    _ => {}
                }
                false
            })
            .map(|i| at + i + 1)
    }

    fn tag(&mut self, engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
        let tag = &bytes[range.clone()];
        if tag.starts_with(b"<![CDATA[") {
            let inner = range.start + 9..range.end.saturating_sub(3).max(range.start + 9);
            if self.depth > 0 {
                engine.cloak(bytes, inner, Kind::Xml, Escape::Backslash);
            } else if engine.is_shape() {
                engine.cloak(bytes, inner, Kind::Value, Escape::Backslash);
            }
            return;
        }
        if tag.starts_with(b"<!") || tag.starts_with(b"<?") {
            return;
        }
        let is_end = tag.get(1) == Some(&b'/');
        let begin = 1 + usize::from(is_end);
        let name_len = tag[begin.min(tag.len())..].iter().take_while(|b| !b" \t\r\n/>".contains(b)).count();
        let name = tag.get(begin..begin + name_len).unwrap_or_default().to_vec();
        let is_empty = tag.ends_with(b"/>");
        if is_end {
            self.depth = self.depth.saturating_sub(1);
            return;
        }
        // Without its namespace.
        let local = name.rsplit(|b| *b == b':').next().unwrap_or_default();
        // Elements of HTML have names of its own; what is a secret there is a field of a form.
        let begins = self.depth > 0
            || (!self.is_html && (engine.is_secret_field(local) || engine.is_user_field(local)));
        if begins && !is_empty {
            self.depth = (self.depth + 1).min(DEPTH_MAX);
        }
        let is_script = [&b"script"[..], b"style"].iter().any(|script| name.eq_ignore_ascii_case(script));
        self.in_script = self.is_html && !is_empty && is_script;
        attributes(engine, bytes, range.start + begin + name_len..range.end);
    }
}

/// `name="value"`; and where one is called `name`, `id` or `key`, another called `value` or `content` by what that says.
fn attributes(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut all: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    let mut at = range.start;
    while let Some(sign) = memchr(b'=', bytes.get(at..range.end).unwrap_or_default()).map(|i| at + i) {
        let is_space = u8::is_ascii_whitespace;
        let spaces = bytes[at..sign].iter().rev().take_while(|b| is_space(b)).count();
        let name_end = sign - spaces;
        let name = bytes[at..name_end].iter().rev().take_while(|b| !is_space(b)).count();
        let behind = bytes[sign + 1..range.end].iter().take_while(|b| is_space(b)).count();
        let first = sign + 1 + behind;
        let (begin, end) = match bytes[first..range.end].first() {
            Some(quote @ (b'"' | b'\'')) => {
                let len = memchr(*quote, &bytes[first + 1..range.end]);
                (first + 1, len.map_or(range.end, |len| first + 1 + len))
            }
            // In HTML quotation marks may be left out.
            _ => {
                let len = bytes[first..range.end].iter().position(|b| is_space(b) || *b == b'>');
                (first, len.map_or(range.end, |len| first + len))
            }
        };
        all.push((name_end - name..name_end, begin..end));
        at = (end + 1).min(range.end);
    }
    let is =
        |bytes: &[u8], range: &Range<usize>, name: &[u8]| bytes[range.clone()].eq_ignore_ascii_case(name);
    let by_name = all.iter().any(|(name, value)| {
        let value = &bytes[value.clone()];
        let names = [&b"name"[..], b"id", b"key"].iter().any(|other| is(bytes, name, other));
        (names && engine.is_secret_field(value))
            || (is(bytes, name, b"type") && value.eq_ignore_ascii_case(b"password"))
    });
    for (name, value) in all {
        let is_value = is(bytes, &name, b"value") || is(bytes, &name, b"content");
        let name = bytes[name].to_vec();
        // A key of the keyboard.
        let is_key = value.len() <= 1 && name.eq_ignore_ascii_case(b"accesskey");
        if (by_name && is_value) || (engine.is_secret_field(&name) && !is_key) {
            engine.cloak(bytes, value, Kind::Xml, Escape::Entity);
        } else if engine.is_user_field(&name) {
            engine.cloak(bytes, value, Kind::Name, Escape::Entity);
        } else if engine.is_shape() {
            engine.cloak(bytes, value, Kind::Value, Escape::Entity);
        }
    }
}
