//! Header blocks of HTTP/2 (RFC 7541). Literal values are replaced where they stand, by others of the same length, decoded
//! and encoded. So tables have the same sizes as before, and what refers to an entry refers to the replacement.

use super::cloak::Escape;
use super::engine::Engine;
use super::headers;
use super::kind::Kind;
use crate::proto::hpack::{self, Entry, Literal, Name, Step, decoded};
use crate::proto::huffman;

/// Fills a string in Huffman code: each byte is an X.
const X_IN_HUFFMAN: u8 = 0xfc;
/// Fills a block: a field of the static table (accept-encoding).
const FIELD: u8 = 0x90;

/// A field of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// In lower case; `None`: not known, since the table is not.
    pub(super) name: Option<String>,
    pub(super) value: String,
}

/// One direction's table, with replaced values. Names that are not known may be those of secrets.
#[derive(Debug, Default)]
pub(super) struct Table(hpack::Table<Field>);

impl Table {
    /// Blocks are missing, so no entry is where it was.
    pub(super) fn forget(&mut self) {
        self.0.forget();
    }

    /// Replaces what a block holds. Gives its fields; `None` if it cannot be decoded: then it is filled, and the table
    /// forgotten.
    pub(super) fn block(&mut self, engine: &mut Engine, bytes: &mut [u8]) -> Option<Vec<Field>> {
        let mark = engine.found_so_far();
        let fields = self.fields(engine, bytes);
        if fields.is_none() {
            engine.forget_since(mark);
            self.forget();
            if bytes.iter().any(|b| *b != FIELD) {
                bytes.fill(FIELD);
                engine.note(0, Kind::Lost);
            }
        }
        fields
    }

    fn fields(&mut self, engine: &mut Engine, bytes: &mut [u8]) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (is_added, name, literal) = match hpack::step(bytes, &mut at)? {
                Step::Indexed(index) => {
                    fields.push(self.entry(index)?);
                    continue;
                }
                Step::Resize(max) => {
                    self.0.resize(max);
                    continue;
                }
                Step::Literal { is_added, name, value } => (is_added, name, value),
            };
            let (name, name_len) = match name {
                Name::Literal(literal) => {
                    let text = decoded(bytes, &literal)?;
                    let name = String::from_utf8_lossy(&text).to_ascii_lowercase();
                    (Some(name), text.len())
                }
                Name::Index(index) => {
                    let entry = self.entry(index)?;
                    let len = entry.name.as_ref().map_or(0, String::len);
                    (entry.name, len)
                }
            };
            let value = replace(engine, name.as_deref(), bytes, &literal);
            if is_added {
                let len = name_len + value.len();
                let value = String::from_utf8_lossy(&value).into_owned();
                self.0.add(Field { name: name.clone(), value }, len);
            }
            fields.push(Field { name, value: String::from_utf8_lossy(&value).into_owned() });
        }
        Some(fields)
    }

    /// An entry of either table; without a name if it is not known. `None` for 0, which is none.
    fn entry(&self, index: usize) -> Option<Field> {
        Some(match self.0.entry(index)? {
            Entry::Static(name, value) => Field { name: Some(name.to_owned()), value: value.to_owned() },
            Entry::Dynamic(field) => field.clone(),
            Entry::Unknown => Field { name: None, value: String::new() },
        })
    }
}

/// Replaces a literal value by what its name says. Gives what stands there then.
fn replace(engine: &mut Engine, name: Option<&str>, bytes: &mut [u8], literal: &Literal) -> Vec<u8> {
    let Some(mut value) = decoded(bytes, literal) else {
        let filler = if literal.is_huffman { X_IN_HUFFMAN } else { b'X' };
        let range = literal.start..literal.end;
        if bytes[range.clone()].iter().any(|b| *b != filler) {
            bytes[range].fill(filler);
            engine.note(literal.start, Kind::Lost);
        }
        return vec![b'X'; literal.end - literal.start];
    };
    let len = value.len();
    // A name that is not known may be that of a secret.
    let name = name.unwrap_or("authorization");
    let before = engine.found_so_far();
    engine.all_at(literal.start, |engine| headers::value(engine, name, &mut value, 0..len));
    if engine.found_so_far() == before {
        return value;
    }
    let mut encoded = encode(&value, literal);
    if encoded.len() != literal.end - literal.start {
        // Characters beyond ASCII have codes of any length: then all of it goes, each by one of the same length.
        value = decoded(bytes, literal).unwrap_or_default();
        let len = value.len();
        engine.all_at(literal.start, |engine| engine.cloak(&mut value, 0..len, Kind::Header, Escape::Header));
        encoded = encode(&value, literal);
    }
    debug_assert_eq!(encoded.len(), literal.end - literal.start);
    if encoded.len() == literal.end - literal.start {
        bytes[literal.start..literal.end].copy_from_slice(&encoded);
    } else {
        bytes[literal.start..literal.end].fill(if literal.is_huffman { X_IN_HUFFMAN } else { b'X' });
    }
    value
}

fn encode(value: &[u8], literal: &Literal) -> Vec<u8> {
    if !literal.is_huffman {
        return value.to_vec();
    }
    let mut encoded = Vec::with_capacity(literal.end - literal.start);
    huffman::encode(value, &mut encoded);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::rules::{Key, RulesBuilder};

    fn engine() -> Engine {
        Engine::new(RulesBuilder::default().build(Key([1; 16])).unwrap())
    }

    fn field(name: &str, value: &str) -> Field {
        Field { name: Some(name.into()), value: value.into() }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 7541, C.4.1 to C.4.3, with Huffman code.
        let mut table = Table::default();
        let mut engine = engine();
        let mut first = bytes("828684418cf1e3c2e5f23a6ba0ab90f4ff");
        let all = table.block(&mut engine, &mut first).unwrap();
        let expected =
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        assert_eq!(all, expected.map(|(name, value)| field(name, value)));
        let second = table.block(&mut engine, &mut bytes("828684be5886a8eb10649cbf")).unwrap();
        assert_eq!(second[3..], [field(":authority", "www.example.com"), field("cache-control", "no-cache")]);
        assert_eq!(table.0.size(), 110);
        assert!(engine.take_found().is_empty());
    }

    #[test]
    fn a_secret_is_replaced_at_its_origin() {
        let mut table = Table::default();
        let mut engine = engine();
        // cookie, added to the table, in Huffman code.
        let secret = b"session=hunter2-Secret";
        let mut code = Vec::new();
        huffman::encode(secret, &mut code);
        let mut block = vec![0x40 | 32, 0x80 | code.len() as u8];
        block.extend_from_slice(&code);
        let before = block.clone();
        let fields = table.block(&mut engine, &mut block).unwrap();
        assert_eq!(block.len(), before.len());
        assert_ne!(block, before);
        let value = huffman::decode(&block[2..]).unwrap();
        assert_eq!((value.len(), &value[..8]), (secret.len(), &b"session="[..]));
        let reference = table.block(&mut engine, &mut [0xbe]).unwrap();
        assert_eq!(reference, fields);
        assert_eq!(engine.take_found().len(), 1);
        engine.recognise(true);
        assert_eq!(Table::default().block(&mut engine, &mut block).unwrap(), fields);
        assert!(engine.take_found().is_empty(), "twice changes nothing");
    }

    #[test]
    fn characters_beyond_ascii_keep_the_length() {
        for value in ["sid=p\u{e4}ssw\u{f6}rt-\u{20ac}uro9", "sid=\u{1f512}\u{1f512}", "sid=a\\u00e9b\u{e9}"]
        {
            for name in [":path", "cookie", "x-note"] {
                let value = if name == ":path" { format!("/a?password={value}") } else { value.to_owned() };
                let mut code = Vec::new();
                huffman::encode(value.as_bytes(), &mut code);
                let mut block =
                    [&[0, name.len() as u8], name.as_bytes(), &[0x80 | code.len() as u8], &code].concat();
                let mut engine = engine();
                Table::default().block(&mut engine, &mut block).unwrap();
                let after = huffman::decode(&block[3 + name.len()..]).unwrap();
                assert_eq!(after.len(), value.len());
                engine.take_found();
                engine.recognise(true);
                Table::default().block(&mut engine, &mut block).unwrap();
                assert!(engine.take_found().is_empty(), "{name}: twice changes nothing");
            }
        }
    }

    #[test]
    fn what_is_no_block_is_filled() {
        let mut table = Table::default();
        let mut engine = engine();
        let mut block = vec![0x40, 0x85, 0xff, 0xff];
        assert_eq!(table.block(&mut engine, &mut block), None);
        assert_eq!(block, [FIELD; 4]);
        assert!(table.block(&mut engine, &mut block).is_some());
        // A name from a table that is not known.
        let mut block = vec![0x40 | 63, 0x10, 3, b'a', b'b', b'b'];
        let fields = table.block(&mut engine, &mut block).unwrap();
        assert_eq!(fields[0].name, None);
        assert_ne!(&block[3..], b"abb");
    }
}
