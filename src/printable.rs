//! Foreign text on a terminal. Paths, names of processes and arguments are whatever their owners like: with control
//! characters they could retitle a terminal, hide what follows, or imitate messages of this program.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

/// The text on one line: control characters, including line ends, and those that change the direction of text
/// appear as `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe)
}

/// The same of a path; bytes that are not UTF-8 become U+FFFD.
pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy()).into_owned()
}

/// Text of several lines: line ends stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_unsafe(c))
}

fn escaped(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// C0 and C1 controls, line and paragraph separators, and the controls of the Unicode bidirectional algorithm
/// (UAX #9).
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes to standard error, which may have been closed: `eprint!` would panic then.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(lines(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_escaped() {
        let title = "x\u{1b}]0;owned\u{7}y";
        assert_eq!(line(title), "x\\u{1b}]0;owned\\u{7}y");
        assert_eq!(line("a\ntls2pcap: nothing lost"), "a\\u{a}tls2pcap: nothing lost");
        assert_eq!(lines("a\nb\r\u{9b}31m"), "a\nb\\u{d}\\u{9b}31m");
        assert_eq!(line("fdp.\u{202e}exe"), "fdp.\\u{202e}exe");
        assert_eq!(path(Path::new("/tmp/ä b")), "/tmp/ä b");
    }
}
