//! The dynamic table of HPACK (RFC 7541) of one direction, and a header block that rebuilds it in another decoder.
//!
//! Strings are kept as they were encoded. Only their decoded lengths matter here, since they decide what is evicted.

use std::collections::VecDeque;

use crate::proto::hpack::NAMES;
use crate::proto::huffman;

/// Default size of a table, in bytes (RFC 9113, section 6.5.2).
pub(super) const DEFAULT_MAX: usize = 4096;
/// The largest table that is kept. A larger one counts as unknown.
const KEPT_MAX: usize = 64 << 10;
/// What RFC 7541, section 4.1 adds to the size of an entry.
const ENTRY: usize = 32;

/// A string as it was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Literal {
    is_huffman: bool,
    bytes: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// An entry of the static table, from 1.
    Static(usize),
    Literal(Literal),
}

#[derive(Clone, Debug)]
struct Entry {
    name: Name,
    name_len: usize,
    value: Literal,
    size: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The newest first. Older ones may be unknown: what is known is the newest in one run.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Default for Table {
    fn default() -> Table {
        Table { entries: VecDeque::new(), size: 0, max: DEFAULT_MAX }
    }
}

impl Table {
    /// Blocks are missing: what was known is worth nothing.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
        self.size = 0;
    }

    /// Bytes that this takes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Takes a complete header block. One that cannot be decoded discards the table.
    pub(super) fn block(&mut self, block: &[u8]) {
        if self.fields(block).is_none() {
            self.forget();
        }
    }

    fn fields(&mut self, block: &[u8]) -> Option<()> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                integer(&mut rest, 7)?;
                continue;
            }
            if first & 0xe0 == 0x20 {
                self.max = integer(&mut rest, 5)?;
                if self.max > KEPT_MAX {
                    self.forget();
                }
                self.evict();
                continue;
            }
            let is_added = first & 0x40 != 0;
            let index = integer(&mut rest, if is_added { 6 } else { 4 })?;
            let name = match index {
                0 => {
                    let (literal, len) = string(&mut rest)?;
                    Some((Name::Literal(literal), len))
                }
                1..=61 => Some((Name::Static(index), NAMES[index - 1].len())),
                _ => self.entries.get(index - 62).map(|entry| (entry.name.clone(), entry.name_len)),
            };
            let (value, value_len) = string(&mut rest)?;
            if !is_added {
                continue;
            }
            match name {
                Some((name, name_len)) if self.max <= KEPT_MAX => {
                    let size = name_len + value_len + ENTRY;
                    self.size += size;
                    self.entries.push_front(Entry { name, name_len, value, size });
                    self.evict();
                }
                // Its name is that of an entry from before: nothing older can be given at its place any more.
                _ => self.forget(),
            }
        }
        Some(())
    }

    fn evict(&mut self) {
        while self.size > self.max {
            let Some(entry) = self.entries.pop_back() else { break };
            self.size -= entry.size;
        }
    }

    /// A header block that gives a new decoder this table; `None` if that has it already.
    pub(super) fn rebuilt(&self) -> Option<Vec<u8>> {
        if self.entries.is_empty() && self.max == DEFAULT_MAX {
            return None;
        }
        let mut block = Vec::with_capacity(self.size);
        if self.max != DEFAULT_MAX {
            put_integer(&mut block, 0x20, 5, self.max);
        }
        for entry in self.entries.iter().rev() {
            match &entry.name {
                Name::Static(index) => put_integer(&mut block, 0x40, 6, *index),
                Name::Literal(name) => {
                    block.push(0x40);
                    put_string(&mut block, name);
                }
            }
            put_string(&mut block, &entry.value);
        }
        Some(block)
    }
}

/// RFC 7541, section 5.1.
fn integer(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let (&first, mut after) = rest.split_first()?;
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, more) = after.split_first()?;
            after = more;
            value = value.checked_add(usize::from(byte & 0x7f).checked_shl(shift)?)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
    }
    *rest = after;
    Some(value)
}

fn put_integer(out: &mut Vec<u8>, flags: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | mask as u8);
    let mut value = value - mask;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A string, and its decoded length.
fn string(rest: &mut &[u8]) -> Option<(Literal, usize)> {
    let is_huffman = rest.first()? & 0x80 != 0;
    let len = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    let decoded = if is_huffman { huffman::decode(bytes)?.len() } else { len };
    Some((Literal { is_huffman, bytes: bytes.into() }, decoded))
}

fn put_string(out: &mut Vec<u8>, literal: &Literal) {
    put_integer(out, if literal.is_huffman { 0x80 } else { 0 }, 7, literal.bytes.len());
    out.extend_from_slice(&literal.bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    /// The responses of RFC 7541, C.6, with a table of 256 bytes that evicts.
    #[test]
    fn a_rebuilt_table_is_that_of_the_rfc() {
        let blocks = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        let mut table = Table::default();
        table.block(&bytes("3fe101"));
        let sizes = blocks.map(|block| {
            table.block(&bytes(block));
            table.size()
        });
        assert_eq!(sizes, [222, 222, 215]);
        let mut again = Table::default();
        again.block(&table.rebuilt().unwrap());
        assert_eq!((again.size(), again.max), (215, 256));
        assert_eq!(again.rebuilt(), table.rebuilt());
    }

    #[test]
    fn what_is_no_block_forgets_and_never_panics() {
        let whole = bytes("4882 6402 5885 aec3 771a 4b7f 00ff ff");
        for end in 0..whole.len() {
            let mut table = Table::default();
            table.block(&whole[..end]);
            let _ = table.rebuilt();
        }
        let mut table = Table::default();
        table.block(&bytes("4882 6402"));
        assert_eq!(table.size(), ENTRY + 7 + 3);
        table.block(&bytes("3fff ffff ffff ffff"));
        assert_eq!(table.size(), 0);
        // An unknown name.
        table.block(&bytes("4882 6402 7f10 01 61"));
        assert_eq!(table.rebuilt(), None);
    }
}
