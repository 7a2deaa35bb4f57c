//! Targets of requests and other URLs (RFC 3986): user, path, query.

use std::ops::Range;

use memchr::memmem;

use super::cloak::Escape;
use super::engine::Engine;
use super::form;
use super::kind::Kind;
use super::patterns;
use super::text::{self, Sort};

/// Shortest segment of a path that is looked at for being random.
const SEGMENT_MIN: usize = 24;

/// Works on a URL, or on the path and query of one.
pub(super) fn url(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let url = &bytes[range.clone()];
    let path = match memmem::find(url, b"://") {
        Some(at) => {
            at + 3 + url[at + 3..].iter().position(|b| b"/?#".contains(b)).unwrap_or(url.len() - at - 3)
        }
        None => 0,
    };
    let fragment = url.iter().position(|b| *b == b'#').unwrap_or(url.len()).max(path);
    let query = url[..fragment].iter().position(|b| *b == b'?').unwrap_or(fragment).max(path);
    let (path, query, fragment) = (range.start + path, range.start + query, range.start + fragment);
    segments(engine, bytes, path..query);
    form::query(engine, bytes, (query + 1).min(fragment)..fragment);
    // OAuth 2.0 gives tokens there.
    form::query(engine, bytes, (fragment + 1).min(range.end)..range.end);
    engine.within(range.start, |engine| text::scan(engine, &mut bytes[range.clone()], Sort::Plain));
}

fn segments(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut at = range.start;
    while at < range.end {
        let end = bytes[at..range.end].iter().position(|b| *b == b'/').map_or(range.end, |len| at + len);
        // What it shows when it is decoded goes with all of it.
        let is_gone = bytes[at..end].contains(&b'%') && form::encoded(engine, bytes, at..end);
        let segment = &bytes[at..end];
        if let Some(sign) = segment.iter().position(|b| *b == b';') {
            form::query(engine, bytes, at + sign + 1..end);
        } else if !is_gone && segment.len() >= SEGMENT_MIN && is_key(segment) {
            engine.cloak(bytes, at..end, Kind::Random, Escape::Percent);
        }
        at = end + 1;
    }
}

/// Random, and neither a hash nor a UUID, which name things in paths, nor a file's name.
fn is_key(segment: &[u8]) -> bool {
    !segment.contains(&b'.')
        && patterns::is_random(segment)
        && segment.iter().any(u8::is_ascii_uppercase)
        && segment.iter().any(|b| b.is_ascii_lowercase() && !b.is_ascii_hexdigit())
}
