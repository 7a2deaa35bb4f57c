//! A table of functions in each layout, and damaged ones.

use super::code::Unclear;
use super::table::Table;

/// A table with the functions `a.F` and `a.(*T).M`, 16 bytes each.
fn table(magic: u8, wide: bool) -> Vec<u8> {
    let names = b"\0a.F\0a.(*T).M\0";
    let head = if wide { 8 + 7 * 8 } else { 8 + 8 * 8 };
    let (at_names, at_others) = (head, head + names.len().next_multiple_of(8));
    let number = |n: u64| if wide { n.to_le_bytes().to_vec() } else { (n as u32).to_le_bytes().to_vec() };
    let width = if wide { 8 } else { 4 };
    let mut functions: Vec<u8> = Vec::new();
    for n in [0x1000, 5 * width, 0x1010, 6 * width + 4, 0x1020] {
        functions.extend(number(n));
    }
    for (place, name) in [(0x1000, 1u32), (0x1010, 5)] {
        functions.extend(number(place));
        functions.extend(name.to_le_bytes());
    }
    let mut words: Vec<usize> = vec![2, 0];
    if !wide {
        words.push(0x40_0000);
    }
    words.extend([at_names, at_others, at_others, at_others, at_others]);
    let mut bytes = vec![magic, 0xff, 0xff, 0xff, 0, 0, 1, 8];
    bytes.extend(words.iter().flat_map(|w| (*w as u64).to_le_bytes()));
    bytes.extend(names);
    bytes.resize(at_others, 0);
    bytes.extend(functions);
    bytes
}

#[test]
fn functions_in_every_layout() {
    for (magic, wide) in [(0xfa, true), (0xf0, false), (0xf1, false)] {
        let bytes = table(magic, wide);
        let parsed = Table::parse(&bytes).unwrap_or_else(|| panic!("{magic:x}"));
        let found = parsed.methods(b"a.(*T).", &["M", "N"]);
        assert_eq!(found, [Some(Ok(0x1010..0x1020)), None], "{magic:x}");
        assert_eq!(parsed.methods(b"a.", &["F"]), [Some(Ok(0x1000..0x1010))], "{magic:x}");
    }
    assert!(Table::parse(&table(0xfb, false)).is_none(), "a layout that is not read");
}

#[test]
fn functions_without_a_place_or_with_two() {
    let bytes = table(0xf1, false);
    let method = bytes.len() - 4;
    let mut inlined = bytes.clone();
    inlined[method..].copy_from_slice(&0u32.to_le_bytes());
    let of = |bytes: &[u8]| Table::parse(bytes).unwrap().methods(b"a.", &["F", "(*T).M"]);
    assert_eq!(of(&inlined), [Some(Ok(0x1000..0x1010)), Some(Err(Unclear::Inlined))]);
    let mut twice = bytes;
    twice[method..].copy_from_slice(&1u32.to_le_bytes());
    assert_eq!(of(&twice), [Some(Err(Unclear::Several)), Some(Err(Unclear::Inlined))]);
}

#[test]
fn damaged_tables_harm_nobody() {
    for (magic, wide) in [(0xfa, true), (0xf1, false)] {
        let bytes = table(magic, wide);
        for end in 0..bytes.len() {
            if let Some(table) = Table::parse(&bytes[..end]) {
                table.methods(b"a.", &["F"]);
            }
        }
        for at in 8..bytes.len() {
            for value in [0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                if let Some(table) = Table::parse(&bytes) {
                    table.methods(b"a.", &["F"]);
                }
            }
        }
    }
}
