//! SQL: what is in quotation marks is a value, and replaced.

use std::ops::Range;

use super::super::cloak::Escape;
use super::super::engine::Engine;
use super::super::kind::Kind;
use super::super::text::{self, Sort};

/// A statement; `marks`: those that are around values.
pub(super) fn statement(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, marks: &[u8]) {
    if engine.is_shape() {
        return engine.fill_text(bytes, range, Kind::Value);
    }
    quoted(engine, bytes, range.clone(), marks);
    engine.within(range.start, |engine| text::scan(engine, &mut bytes[range], Sort::Plain));
}

/// What stands between quotation marks that are around values, up to the end if one is not closed; two of them are one. What
/// PostgreSQL puts between `$` signs, and comments, are masked. Where it depends on the server's settings what ends a value or a
/// comment, all that follows is masked.
pub(super) fn quoted(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, marks: &[u8]) {
    let mut at = range.start;
    while at < range.end {
        let rest = &bytes[at..range.end];
        match rest {
            [mark @ (b'\'' | b'"' | b'`'), ..] => {
                let mark = *mark;
                let len = memchr::memchr(mark, &rest[1..]);
                let inside = &rest[1..len.map_or(rest.len(), |len| 1 + len)];
                // A backslash hides it, or does not.
                if inside.ends_with(b"\\") {
                    return engine.fill_text(bytes, at + 1..range.end, Kind::Data);
                }
                let end = at + 1 + inside.len();
                if marks.contains(&mark) {
                    engine.cloak(bytes, at + 1..end, Kind::Value, Escape::Backslash);
                }
                at = end + 1;
            }
            [b'$', ..] if dollar(rest).is_some() => {
                let len = dollar(rest).unwrap_or(1);
                let body = at + len;
                let end =
                    memchr::memmem::find(&rest[len..], &rest[..len]).map_or(range.end, |len| body + len);
                engine.fill_text(bytes, body..end, Kind::Data);
                at = (end + len).min(range.end);
            }
            [b'/', b'*', ..] => {
                let end = memchr::memmem::find(&rest[2..], b"*/").map(|len| at + 2 + len);
                // Where comments nest it does not end there.
                let is_nested = memchr::memmem::find(&rest[2..], b"/*").is_some();
                let Some(end) = end.filter(|_| !is_nested) else {
                    return engine.fill_text(bytes, at + 2..range.end, Kind::Data);
                };
                engine.fill_text(bytes, at + 2..end, Kind::Data);
                at = end + 2;
            }
            [b'-', b'-', ..] | [b'#', ..] => return engine.fill_text(bytes, at..range.end, Kind::Data),
            _ => at += 1,
        }
    }
}

/// Length of `$tag$`.
fn dollar(text: &[u8]) -> Option<usize> {
    let len = text[1..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    (text.get(1 + len) == Some(&b'$') && !text[1].is_ascii_digit()).then_some(len + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::rules::{Key, RulesBuilder};

    #[test]
    fn no_value_is_shown_whatever_is_around_it() {
        const SECRET: &str = "hunter2Correct";
        for (text, kept) in [
            ("SELECT 'SECRET', a FROM b", "', a FROM b"),
            ("SELECT 'it''s SECRET', a", "', a"),
            (r"SELECT 'a\\', 'SECRET'", "SELECT '"),
            (r"SELECT 'a\\', 'SECRET', 'SECRET'", "SELECT '"),
            ("SELECT \"it's\", 'SECRET' FROM c", "SELECT \""),
            ("SELECT `it's`, 'SECRET' FROM c", "SELECT `"),
            ("SELECT 1 -- it's\n, 'SECRET'", "SELECT 1 "),
            ("SELECT 5--3, 'SECRET'", "SELECT 5"),
            ("SELECT 1 # it's\n, 'SECRET'", "SELECT 1 "),
            ("/* it's SECRET */ SELECT 'SECRET' FROM b", "*/ SELECT '"),
            ("/* a /* b */ ' */ SELECT 'SECRET'", "/*"),
            ("SELECT $$SECRET$$, $a$it's SECRET$a$, $1 FROM b", ", $1 FROM b"),
            ("SELECT 'SECRET", "SELECT '"),
            ("ALTER USER u PASSWORD 'SECRET'", "ALTER USER u PASSWORD '"),
        ] {
            for marks in [&b"'"[..], b"'\""] {
                let mut engine = Engine::new(RulesBuilder::default().build(Key([3; 16])).unwrap());
                let mut bytes = text.replace("SECRET", SECRET).into_bytes();
                let len = bytes.len();
                statement(&mut engine, &mut bytes, 0..len, marks);
                let once = String::from_utf8(bytes.clone()).unwrap();
                assert!(!once.contains(&SECRET[..9]) && once.contains(kept), "{once}");
                engine.take_found();
                engine.recognise(true);
                statement(&mut engine, &mut bytes, 0..len, marks);
                assert_eq!(engine.take_found(), [], "{once}");
            }
        }
    }
}
