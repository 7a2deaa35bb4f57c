//! The Huffman code of HPACK (RFC 7541, Appendix B). It is canonical: the lengths say all.

use std::sync::OnceLock;

/// Length of each symbol's code in bits; the last is that of the end of the string, which is never written.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

const LONGEST: usize = 30;

struct Code {
    codes: [u32; 257],
    /// By length: the first code, and where its symbol stands in `symbols`.
    first: [(u32, u16); LONGEST + 2],
    /// By length, then by number.
    symbols: [u16; 257],
}

fn code() -> &'static Code {
    static CODE: OnceLock<Code> = OnceLock::new();
    CODE.get_or_init(|| {
        let mut code = Code { codes: [0; 257], first: [(0, 0); LONGEST + 2], symbols: [0; 257] };
        let (mut next, mut place) = (0u32, 0u16);
        for len in 1..=LONGEST {
            next <<= 1;
            code.first[len] = (next, place);
            for (symbol, of) in LENGTHS.iter().enumerate() {
                if usize::from(*of) == len {
                    code.codes[symbol] = next;
                    code.symbols[usize::from(place)] = symbol as u16;
                    next += 1;
                    place += 1;
                }
            }
        }
        code.first[LONGEST + 1] = (next << 1, place);
        code
    })
}

/// Length of the encoded text in bits.
#[cfg(test)]
pub(crate) fn len(text: &[u8]) -> usize {
    text.iter().map(|b| usize::from(LENGTHS[usize::from(*b)])).sum()
}

/// A byte beyond ASCII, always the same, whose code is as long as that of this one.
pub(crate) fn like(byte: u8) -> u8 {
    let len = LENGTHS[usize::from(byte)];
    (0x80..=0xff).find(|b| LENGTHS[usize::from(*b)] == len).unwrap_or(byte)
}

/// Appends the encoded text, padded with ones.
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let code = code();
    let (mut bits, mut count) = (0u64, 0);
    for byte in text {
        let len = LENGTHS[usize::from(*byte)];
        bits = bits << len | u64::from(code.codes[usize::from(*byte)]);
        count += len;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

/// The text that was encoded; `None` if that is no valid code, or padded in another way than [`encode`] does.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let code = code();
    let mut text = Vec::with_capacity(bytes.len() * 2);
    let (mut current, mut len) = (0u32, 0);
    for byte in bytes {
        for bit in (0..8).rev() {
            current = current << 1 | u32::from(byte >> bit & 1);
            len += 1;
            if len > LONGEST {
                return None;
            }
            let (first, place) = code.first[len];
            let count = u32::from(code.first[len + 1].1 - place);
            if current >= first && current - first < count {
                let symbol = code.symbols[usize::from(place) + (current - first) as usize];
                // The end of the string is an error.
                text.push(u8::try_from(symbol).ok()?);
                (current, len) = (0, 0);
            }
        }
    }
    (len < 8 && current == (1 << len) - 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_complete_and_that_of_the_rfc() {
        let kraft: u64 = LENGTHS.iter().map(|len| 1u64 << (32 - len)).sum();
        assert_eq!(kraft, 1 << 32);
        // RFC 7541, C.4.1 and C.6.1.
        for (text, hex) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out.iter().map(|b| format!("{b:02x}")).collect::<String>(), hex);
            assert_eq!(decode(&out).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn every_byte_comes_back_and_noise_is_refused() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        encode(&all, &mut out);
        assert_eq!(decode(&out).unwrap(), all);
        assert_eq!(decode(&[0xff; 8]), None);
        assert_eq!(decode(&[0]), None, "padding is ones");
        assert!((0x80..=0xff).all(|b| LENGTHS[usize::from(like(b))] == LENGTHS[usize::from(b)]));
    }
}
