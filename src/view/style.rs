//! How text looks: colours, widths, times, sizes; and that nothing foreign commands the terminal.

use std::borrow::Cow;
use std::fmt::Write;

use super::WallTime;
use crate::printable;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub is_coloured: bool,
    /// Columns of the terminal; `None`: lines may be of any length.
    pub width: Option<usize>,
}

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Dim,
    Bold,
    Name,
    Good,
    Notice,
    Bad,
    Client,
    Server,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Dim => "\u{1b}[2m",
            Ink::Bold => "\u{1b}[1m",
            Ink::Name => "\u{1b}[36m",
            Ink::Good => "\u{1b}[32m",
            Ink::Notice => "\u{1b}[33m",
            Ink::Bad => "\u{1b}[1;31m",
            Ink::Client => "\u{1b}[1;34m",
            Ink::Server => "\u{1b}[1;35m",
        }
    }
}

/// A line in the making: pieces of text with their inks.
#[derive(Debug, Default)]
pub(super) struct Line(Vec<(Ink, String)>);

impl Line {
    /// Adds foreign or own text.
    pub(super) fn add(mut self, ink: Ink, text: &str) -> Line {
        self.0.push((ink, printable::line(text).into_owned()));
        self
    }

    /// The same if there is any.
    pub(super) fn add_some(self, ink: Ink, text: Option<&str>) -> Line {
        match text {
            Some(text) => self.add(ink, text),
            None => self,
        }
    }
}

impl Style {
    /// Appends a line, broken where the terminal ends; what follows is `hang` columns further in than `indent`.
    pub(super) fn line(self, out: &mut Vec<u8>, indent: usize, hang: usize, line: &Line) {
        let width = self.width.map(|width| width.max(indent + hang + 8));
        let mut text = " ".repeat(indent);
        let mut column = indent;
        for (ink, piece) in &line.0 {
            let is_inked = self.is_coloured && *ink != Ink::Plain && !piece.is_empty();
            if is_inked {
                text.push_str(ink.code());
            }
            for c in piece.chars() {
                let columns = columns_of(c);
                if width.is_some_and(|width| column + columns > width) {
                    text.push('\n');
                    text.extend(std::iter::repeat_n(' ', indent + hang));
                    column = indent + hang;
                }
                text.push(c);
                column += columns;
            }
            if is_inked {
                text.push_str("\u{1b}[0m");
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
        out.extend_from_slice(text.as_bytes());
    }
}

/// Columns that a character takes, about: those of East Asia (UAX #11) and pictures take two, marks that are set on others none.
fn columns_of(c: char) -> usize {
    match u32::from(c) {
        0..0x300 => 1,
        0x300..=0x36f | 0x1ab0..=0x1aff | 0x20d0..=0x20ff | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
        0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1f64f | 0x1f900..=0x1f9ff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Bytes as text; what is no UTF-8 is escaped as `\xff`.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

/// `1,234 bytes`.
pub(super) fn bytes(n: u64) -> String {
    counted(n, "byte")
}

/// `1,234 things`.
pub(super) fn counted(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `1,234,567`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A span of time.
pub(super) fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// A time of the day in UTC, with microseconds.
pub(super) fn clock(ns: WallTime) -> String {
    let second = ns / 1_000_000_000 % 86_400;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{hour:02}:{minute:02}:{:02}.{:06}", second % 60, ns % 1_000_000_000 / 1000)
}

/// Date and time in UTC (RFC 3339), with nanoseconds if `is_exact`.
pub(super) fn date(ns: WallTime, is_exact: bool) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    time.strftime(if is_exact { "%Y-%m-%dT%H:%M:%S%.9fZ" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_where_the_terminal_ends_and_nothing_commands_it() {
        let line = Line::default().add(Ink::Name, "name: ").add(Ink::Plain, &"値".repeat(10));
        let mut out = Vec::new();
        Style { is_coloured: false, width: Some(20) }.line(&mut out, 2, 4, &line);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("  name: {}\n      {}\n", "値".repeat(6), "値".repeat(4)));
        let line = Line::default().add(Ink::Bad, "a\u{1b}]0;x\u{7}\nb\u{202e}").add(Ink::Plain, "");
        for is_coloured in [false, true] {
            let mut out = Vec::new();
            Style { is_coloured, width: None }.line(&mut out, 0, 0, &line);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.matches('\u{1b}').count(), if is_coloured { 2 } else { 0 }, "{text:?}");
            assert!(!text.contains('\u{7}') && !text.contains('\u{202e}') && text.lines().count() == 1);
        }
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(1_234_567), "1,234,567 bytes");
        assert_eq!(
            (span(999), span(1_500_000), span(17_200_000_000)),
            ("999 ns".into(), "1.50 ms".into(), "17.20 s".into())
        );
        assert_eq!(clock(1_700_000_000_123_456_789), "22:13:20.123456");
        assert_eq!(text(b"a\xffb"), "a\\xffb");
    }
}
