//! Header compression of HTTP/2 (RFC 7541): the tables, and what a header block is made of.

use std::collections::VecDeque;

use super::huffman;

/// Size of a table that nobody changed, in bytes (RFC 9113, section 6.5.2).
const TABLE_SIZE: usize = 4096;
/// Largest table that is kept. Of a larger one the oldest entries are not known.
const TABLE_MAX: usize = 1 << 20;
/// What RFC 7541, section 4.1 adds to the size of an entry.
const ENTRY: usize = 32;

/// RFC 7541, Appendix A: names; the values of those that have some follow in [`VALUES`].
pub(crate) const NAMES: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// Values of the entries from the second on.
const VALUES: [&str; 15] = [
    "GET",
    "POST",
    "/",
    "/index.html",
    "http",
    "https",
    "200",
    "204",
    "206",
    "304",
    "400",
    "404",
    "500",
    "",
    "gzip, deflate",
];

/// A string within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) is_huffman: bool,
}

/// A field's name: that of an entry, or a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Index(usize),
    Literal(Literal),
}

/// A piece of a header block (RFC 7541, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field that is an entry.
    Indexed(usize),
    /// The table's size changes.
    Resize(usize),
    /// A field with a value of its own; `is_added`: it becomes an entry.
    Literal { is_added: bool, name: Name, value: Literal },
}

/// The piece that begins at `at`; `None` if there is no valid one.
pub(crate) fn step(bytes: &[u8], at: &mut usize) -> Option<Step> {
    let first = *bytes.get(*at)?;
    if first & 0x80 != 0 {
        return Some(Step::Indexed(integer(bytes, at, 7)?));
    }
    if first & 0xe0 == 0x20 {
        return Some(Step::Resize(integer(bytes, at, 5)?));
    }
    let is_added = first & 0x40 != 0;
    let name = match integer(bytes, at, if is_added { 6 } else { 4 })? {
        0 => Name::Literal(string(bytes, at)?),
        index => Name::Index(index),
    };
    Some(Step::Literal { is_added, name, value: string(bytes, at)? })
}

/// What an index stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a, T> {
    /// Name and value in the static table.
    Static(&'static str, &'static str),
    /// In the dynamic table.
    Dynamic(&'a T),
    /// It was added by a block that was not seen, or there is no such entry.
    Unknown,
}

/// One direction's dynamic table.
#[derive(Debug)]
pub(crate) struct Table<T> {
    /// The newest first, with their sizes. Older ones may be unknown.
    entries: VecDeque<(T, usize)>,
    size: usize,
    max: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { entries: VecDeque::new(), size: 0, max: TABLE_SIZE }
    }
}

impl<T> Table<T> {
    /// Blocks are missing, so no entry is where it was.
    pub(crate) fn forget(&mut self) {
        self.entries.clear();
        self.size = 0;
    }

    /// Size of the known entries, as RFC 7541, section 4.1 has it.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// An entry of either table; `None` for 0, which is none.
    pub(crate) fn entry(&self, index: usize) -> Option<Entry<'_, T>> {
        let index = index.checked_sub(1)?;
        if let Some(name) = NAMES.get(index) {
            let value = index.checked_sub(1).and_then(|i| VALUES.get(i)).copied().unwrap_or_default();
            return Some(Entry::Static(name, value));
        }
        let known = self.entries.get(index - NAMES.len());
        Some(known.map_or(Entry::Unknown, |(entry, _)| Entry::Dynamic(entry)))
    }

    /// Adds an entry; `len` is that of name and value together.
    pub(crate) fn add(&mut self, entry: T, len: usize) {
        let size = len + ENTRY;
        self.size += size;
        self.entries.push_front((entry, size));
        self.evict();
    }

    pub(crate) fn resize(&mut self, max: usize) {
        self.max = max.min(TABLE_MAX);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.max {
            let Some((_, size)) = self.entries.pop_back() else { break };
            self.size -= size;
        }
    }
}

/// An integer (RFC 7541, section 5.1).
fn integer(bytes: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1u8 << prefix) - 1;
    let mut value = usize::from(bytes.get(*at)? & mask);
    *at += 1;
    if value < usize::from(mask) {
        return Some(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string (RFC 7541, section 5.2).
fn string(bytes: &[u8], at: &mut usize) -> Option<Literal> {
    let is_huffman = bytes.get(*at)? & 0x80 != 0;
    let len = integer(bytes, at, 7)?;
    let (start, end) = (*at, at.checked_add(len)?);
    if end > bytes.len() {
        return None;
    }
    *at = end;
    Some(Literal { start, end, is_huffman })
}

/// The text of a string; `None` if its Huffman code is not valid.
pub(crate) fn decoded(bytes: &[u8], literal: &Literal) -> Option<Vec<u8>> {
    let bytes = &bytes[literal.start..literal.end];
    if literal.is_huffman { huffman::decode(bytes) } else { Some(bytes.to_vec()) }
}
