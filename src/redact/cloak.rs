//! Replaces a value by another of the same length that has the same kinds of characters: keyed, so that nobody finds the
//! value by trying, and the same for the same value, so that it can be followed through a file.
//!
//! Letters and digits are drawn from small sets: [`SETS`]. In a file that says it was redacted, a value made of these alone
//! is a replacement, and stays. Nowhere else: there each value is replaced, whatever its letters, and by another one.
//!
//! Each set is of one length in HPACK's Huffman code (RFC 7541, Appendix B), and a replacement has as many of each
//! length as the value, shuffled: so it is as long in HTTP/2 as the value was, and the same there as elsewhere. Hexadecimal
//! digits become such digits.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::rules::Key;
use crate::proto::huffman;

/// What replacements are made of, by the length of the Huffman code: 5 and 6 bits, 7 for lower and upper case, 8; digits of
/// 5 and 6. No digit is 0, so that a number stays a number; the letters of 5 and 6 bits are hexadecimal digits.
const SETS: [[u8; 2]; 7] = [*b"ac", *b"df", *b"qx", *b"DF", *b"XZ", *b"12", *b"47"];

/// Stand for characters beyond ASCII, by their length in UTF-8.
const TWO: [u8; 2] = *b"\xc3\xa9";
const THREE: [u8; 3] = *b"\xe2\x80\xa2";
const FOUR: [u8; 4] = *b"\xf0\x9f\x94\x92";

/// What must stay valid around the characters of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// A header: no text beyond ASCII is expected.
    Header,
    /// A URL or form: `%` and two hexadecimal digits are a character.
    Percent,
    /// A string of JSON, or text that may quote one: `\` and what follows are a character.
    Backslash,
    /// XML: `&` to `;` is a character.
    Entity,
}

/// What becomes of a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Keep,
    /// This takes its place.
    Fixed(u8),
    /// One of a set, which may change its place with others of letters or digits.
    Any(u8),
    /// One of this set.
    Here(u8),
}

/// Makes replacements.
#[derive(Clone)]
pub(super) struct Cloak {
    key: Key,
    /// What looks like a replacement is one.
    recognises: bool,
}

impl Cloak {
    pub(super) fn new(key: Key) -> Cloak {
        Cloak { key, recognises: false }
    }

    /// Whether the values to come may be replacements of an earlier run.
    pub(super) fn recognise(&mut self, recognises: bool) {
        self.recognises = recognises;
    }

    /// Replaces `value`. Gives whether it changed: it always does, unless it is a replacement already, or has nothing but
    /// punctuation.
    pub(super) fn replace(&self, value: &mut [u8], escape: Escape) -> bool {
        self.replace_in(value, escape, b"")
    }

    /// The same, by what is around the value too.
    pub(super) fn replace_in(&self, value: &mut [u8], escape: Escape, around: &[u8]) -> bool {
        let slots = slots(value, escape);
        let stays = |(slot, byte): (&Slot, &u8)| match slot {
            Slot::Keep => true,
            Slot::Fixed(fixed) => fixed == byte,
            Slot::Any(set) | Slot::Here(set) => self.recognises && SETS[usize::from(*set)].contains(byte),
        };
        if slots.iter().zip(value.iter()).all(stays) {
            return false;
        }
        let mut random = Random::new(&self.key, &[value, around].concat());
        for _ in 0..TRIES {
            let new = draw(slots.clone(), value, &mut random);
            if new != value {
                value.copy_from_slice(&new);
                return true;
            }
        }
        // Each draw gave the value itself. Another letter of its set at one place is enough.
        let drawn = |slot: &Slot| matches!(slot, Slot::Any(_) | Slot::Here(_));
        if let Some(at) = slots.iter().position(drawn)
            && let Slot::Any(set) | Slot::Here(set) = slots[at]
        {
            let [one, other] = SETS[usize::from(set)];
            value[at] = if value[at] == one { other } else { one };
        }
        true
    }
}

/// How often a replacement is drawn that must differ from its value.
const TRIES: usize = 8;

fn draw(mut slots: Vec<Slot>, value: &[u8], random: &mut Random) -> Vec<u8> {
    shuffle(&mut slots, random, |set| set < 5);
    shuffle(&mut slots, random, |set| set >= 5);
    let bytes = slots.iter().zip(value).map(|(slot, byte)| match slot {
        Slot::Keep => *byte,
        Slot::Fixed(fixed) => *fixed,
        Slot::Any(set) | Slot::Here(set) => SETS[usize::from(*set)][usize::from(random.next() & 1 == 1)],
    });
    bytes.collect()
}

/// Lets the slots of some sets change places.
fn shuffle(slots: &mut [Slot], random: &mut Random, which: impl Fn(u8) -> bool) {
    let places: Vec<usize> =
        (0..slots.len()).filter(|i| matches!(slots[*i], Slot::Any(set) if which(set))).collect();
    for i in (1..places.len()).rev() {
        let j = (random.next() % (i as u64 + 1)) as usize;
        slots.swap(places[i], places[j]);
    }
}

/// The set of a letter or digit.
fn set(byte: u8) -> Option<u8> {
    Some(match byte {
        b'a' | b'c' | b'e' | b'i' | b'o' | b's' | b't' => 0,
        b'b' | b'd' | b'f' | b'g' | b'h' | b'l' | b'm' | b'n' | b'p' | b'r' | b'u' | b'A' => 1,
        b'a'..=b'z' => 2,
        b'X' | b'Z' => 4,
        b'B'..=b'Y' => 3,
        b'0'..=b'2' => 5,
        b'3'..=b'9' => 6,
        _ => return None,
    })
}

fn slots(value: &[u8], escape: Escape) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(byte) = value.get(at).copied() {
        let rest = &value[at..];
        match (byte, escape) {
            (b'%', Escape::Percent | Escape::Header) if is_percent(rest) => {
                slots.push(Slot::Keep);
                let decoded = u8::from_str_radix(str::from_utf8(&rest[1..3]).unwrap_or_default(), 16);
                let hidden = decoded.is_ok_and(|b| b.is_ascii_alphanumeric() || !b.is_ascii());
                slots.extend(rest[1..3].iter().map(|b| match set(*b) {
                    Some(set) if hidden => Slot::Here(set),
                    _ => Slot::Keep,
                }));
            }
            (b'\\', Escape::Backslash) if rest.len() > 1 => {
                slots.extend([Slot::Keep, Slot::Keep]);
                if rest[1] == b'u' && rest.len() >= 6 && rest[2..6].iter().all(u8::is_ascii_hexdigit) {
                    // U+2022, a bullet.
                    slots.extend(b"2022".map(Slot::Fixed));
                }
            }
            (b'&', Escape::Entity) if entity(rest).is_some() => {
                slots.extend(vec![Slot::Keep; entity(rest).unwrap_or(1)]);
            }
            (b'!' | b'?', _) => slots.push(Slot::Fixed(b'!')),
            (b'$' | b'@' | b'~', _) => slots.push(Slot::Fixed(b'~')),
            (0x80.., Escape::Header) => slots.push(Slot::Fixed(huffman::like(byte))),
            (0x80.., _) => match character(rest) {
                2 => slots.extend(TWO.map(Slot::Fixed)),
                3 => slots.extend(THREE.map(Slot::Fixed)),
                4 => slots.extend(FOUR.map(Slot::Fixed)),
                _ => slots.push(Slot::Fixed(b'x')),
            },
            _ => slots.push(set(byte).map_or(Slot::Keep, Slot::Any)),
        }
        at = slots.len();
    }
    slots
}

fn is_percent(rest: &[u8]) -> bool {
    rest.len() >= 3 && rest[1..3].iter().all(u8::is_ascii_hexdigit)
}

/// Length of a reference as `&lt;`.
fn entity(rest: &[u8]) -> Option<usize> {
    const NAMED: [&[u8]; 5] = [b"&lt;", b"&gt;", b"&amp;", b"&quot;", b"&apos;"];
    NAMED.iter().find(|name| rest.starts_with(name)).map(|name| name.len())
}

/// Length of the character beyond ASCII that begins here, 1 if it is none.
fn character(rest: &[u8]) -> usize {
    let len = match rest[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return 1,
    };
    if rest.get(..len).is_some_and(|bytes| str::from_utf8(bytes).is_ok()) { len } else { 1 }
}

/// Numbers that follow from key and value: splitmix64, begun with what only who has the key can tell from chance.
pub(super) struct Random(u64, u64);

impl Random {
    pub(super) fn new(key: &Key, value: &[u8]) -> Random {
        let mut hasher = SipHasher24::new_with_key(&key.0);
        hasher.write(value);
        let hash = hasher.finish128();
        Random(hash.h1, hash.h2)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.1 = self.1.rotate_left(23).wrapping_add(z);
        (z ^ (z >> 31)) ^ self.1 >> 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(value: &str, escape: Escape) -> String {
        let mut bytes = value.as_bytes().to_vec();
        let cloak = Cloak::new(Key([7; 16]));
        cloak.replace(&mut bytes, escape);
        let once = bytes.clone();
        let mut again = Cloak::new(Key([8; 16]));
        again.recognise(true);
        assert!(!again.replace(&mut bytes, escape), "{value}: once more changes nothing");
        assert_eq!(once.len(), value.len());
        String::from_utf8(once).unwrap()
    }

    #[test]
    fn the_same_value_has_the_same_replacement() {
        let one = replaced("hunter2-correct.horse", Escape::Header);
        assert_eq!(one, replaced("hunter2-correct.horse", Escape::Percent));
        assert_ne!(one, replaced("hunter2-correct.horsf", Escape::Header));
        assert_eq!((&one[7..8], &one[15..16]), ("-", "."), "punctuation stays: {one}");
    }

    #[test]
    fn no_value_stays_because_of_its_letters() {
        for value in
            ["4111 1111 1111 1111", "1", "47", "a", "X", "acdfqxDFXZ", "1247", "acac", "a%61", "\u{e9}a"]
        {
            for key in 0..64 {
                let mut bytes = value.as_bytes().to_vec();
                assert!(Cloak::new(Key([key; 16])).replace(&mut bytes, Escape::Percent), "{value}");
                assert_ne!(bytes, value.as_bytes(), "{value}");
            }
        }
    }

    #[test]
    fn each_is_as_long_in_huffman_code() {
        for value in ["Zm9vOmJhcg==", "AAAA", "p@$$w0rd!?~", "XYZ", "deadBEEF00ff", "a=b%2Fc%41%c3%a9"] {
            for escape in [Escape::Header, Escape::Percent] {
                let out = replaced(value, escape);
                assert_eq!(huffman::len(out.as_bytes()), huffman::len(value.as_bytes()), "{value} {out}");
            }
        }
    }

    #[test]
    fn what_surrounds_characters_stays_valid() {
        let out = replaced(r#"a\"b\u00e9c\nü€"#, Escape::Backslash);
        assert!(serde_json::from_str::<String>(&format!("\"{out}\"")).is_ok(), "{out}");
        let hex = replaced("deadbeef0099", Escape::Header);
        assert!(hex.bytes().all(|b| b.is_ascii_hexdigit()), "{hex}");
        assert!(replaced("1a&lt;b", Escape::Entity).contains("&lt;"));
    }
}
