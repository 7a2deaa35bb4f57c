//! Bytes as `hexdump -C` shows them, with a line that says of whom they are.

use super::style::{self, Ink, Style};
use super::{Bytes, Connection, Item, Loss, Side, View};

/// See the module.
#[derive(Debug)]
pub struct Hex {
    style: Style,
}

impl Hex {
    /// Bytes in this style.
    pub fn new(style: Style) -> Hex {
        Hex { style }
    }

    fn bytes(&self, connection: &Connection, bytes: &Bytes<'_>, out: &mut Vec<u8>) {
        let note = if bytes.is_synthetic { ", synthetic" } else { "" };
        let size = format!("  {}{note}", style::bytes(bytes.bytes.len() as u64));
        let line = super::text::who(connection, bytes.time, bytes.from, 0).add(Ink::Dim, &size);
        self.style.line(out, 0, 2, &line);
        let last = bytes.offset + bytes.bytes.len() as u64;
        for (i, row) in bytes.bytes.chunks(16).enumerate() {
            let at = bytes.offset + i as u64 * 16;
            row_of(at, row, out);
        }
        out.extend_from_slice(format!("{last:08x}\n").as_bytes());
    }
}

/// One line: offset, 16 bytes, and what of them is ASCII.
fn row_of(at: u64, row: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(format!("{at:08x} ").as_bytes());
    for i in 0..16 {
        if i % 8 == 0 {
            out.push(b' ');
        }
        match row.get(i) {
            Some(byte) => {
                out.extend_from_slice(&[
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                    b' ',
                ]);
            }
            None => out.extend_from_slice(b"   "),
        }
    }
    out.extend_from_slice(b" |");
    out.extend(row.iter().map(|b| if (b' '..=b'~').contains(b) { *b } else { b'.' }));
    out.extend_from_slice(b"|\n");
}

impl View for Hex {
    fn item(&mut self, item: Item<'_>, out: &mut Vec<u8>) {
        match item {
            Item::Bytes(connection, bytes) => self.bytes(connection, &bytes, out),
            Item::Loss(connection, loss) => loss_line(self.style, connection, loss, out),
            Item::Open(_) | Item::Told(..) | Item::Closed(..) => {}
        }
    }

    fn wants_messages(&self) -> bool {
        false
    }
}

/// What is missing, and why.
pub(super) fn loss_line(style: Style, connection: &Connection, loss: &Loss, out: &mut Vec<u8>) {
    let what = match loss.length {
        Some(len) => format!("{} missing", style::bytes(len)),
        None => "bytes are missing, unknown how many".into(),
    };
    let why = loss.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
    let line = super::text::who(connection, loss.time, loss.from, 0);
    style.line(out, 0, 2, &line.add(Ink::Bad, &format!("  {what}{why}")));
}

/// `→` from client to server.
pub(super) fn arrow(from: Side) -> &'static str {
    match from {
        Side::Client => "→",
        Side::Server => "←",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_hexdump() {
        let mut out = Vec::new();
        row_of(0, b"GET / HTTP/1.1\r\n", &mut out);
        row_of(16, b"ab\xff", &mut out);
        let expected = "00000000  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  |GET / HTTP/1.1..|\n00000010  61 62 ff                                          |ab.|\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
