//! Huffman codes as deflate has them (RFC 1951, section 3.2.2): canonical, so that the lengths say all.

use std::sync::OnceLock;

use super::Invalid;
use super::bits::{Bits, Reader};

/// Longest code of a literal, length or distance, in bits.
pub(super) const LONGEST: usize = 15;
/// Codes of so many bits are found at once.
const FAST: usize = 10;

/// What reads a code.
#[derive(Debug)]
pub(super) struct Decoder {
    /// By the next bits: length and symbol; 0 if the code is longer.
    fast: Vec<u16>,
    /// By length, how many codes there are.
    count: [u16; LONGEST + 1],
    /// By length, then by number.
    symbols: Vec<u16>,
}

impl Decoder {
    /// By the length of each symbol's code, 0 for none. `may_lack`: the code may have no symbol, or one.
    pub(super) fn new(lengths: &[u8], may_lack: bool) -> Result<Decoder, Invalid> {
        let mut count = [0u16; LONGEST + 1];
        lengths.iter().for_each(|len| count[usize::from(*len)] += 1);
        count[0] = 0;
        let mut left = 1i32;
        for of in &count[1..] {
            left = (left << 1) - i32::from(*of);
            if left < 0 {
                return Err(Invalid);
            }
        }
        let longest = (1..=LONGEST).rev().find(|len| count[*len] > 0).unwrap_or(0);
        if left > 0 && !(may_lack && longest <= 1) {
            return Err(Invalid);
        }
        let mut place = [0u16; LONGEST + 2];
        for len in 1..=LONGEST {
            place[len + 1] = place[len] + count[len];
        }
        let mut symbols = vec![0; lengths.len()];
        for (symbol, len) in lengths.iter().enumerate().filter(|(_, len)| **len > 0) {
            symbols[usize::from(place[usize::from(*len)])] = symbol as u16;
            place[usize::from(*len)] += 1;
        }
        let mut fast = vec![0; 1 << FAST];
        for (symbol, (code, len)) in codes(lengths).into_iter().zip(lengths).enumerate() {
            let len = usize::from(*len);
            if (1..=FAST).contains(&len) {
                let entry = (len << 12 | symbol) as u16;
                (usize::from(code)..1 << FAST).step_by(1 << len).for_each(|at| fast[at] = entry);
            }
        }
        Ok(Decoder { fast, count, symbols })
    }

    pub(super) fn read(&self, reader: &mut Reader<'_>) -> Result<usize, Invalid> {
        let bits = reader.peek();
        let entry = usize::from(self.fast[bits as usize & ((1 << FAST) - 1)]);
        if entry > 0 {
            reader.skip(entry >> 12)?;
            return Ok(entry & 0xfff);
        }
        let (mut code, mut first, mut index) = (0u32, 0u32, 0u32);
        for len in 1..=LONGEST {
            code |= bits >> (len - 1) & 1;
            let count = u32::from(self.count[len]);
            if code < first + count {
                reader.skip(len)?;
                return self
                    .symbols
                    .get((index + code - first) as usize)
                    .map(|s| usize::from(*s))
                    .ok_or(Invalid);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Invalid)
    }
}

/// The code of each symbol, its first bit the lowest.
fn codes(lengths: &[u8]) -> Vec<u16> {
    let mut counts = [0u16; LONGEST + 1];
    lengths.iter().filter(|len| **len > 0).for_each(|len| counts[usize::from(*len)] += 1);
    let mut next = [0u16; LONGEST + 1];
    let mut code = 0u16;
    for (first, shorter) in next[1..].iter_mut().zip(counts) {
        code = (code + shorter) << 1;
        *first = code;
    }
    lengths
        .iter()
        .map(|len| {
            let len = usize::from(*len);
            let code = next[len];
            next[len] = next[len].wrapping_add(1);
            if len == 0 { 0 } else { code.reverse_bits() >> (16 - len) }
        })
        .collect()
}

/// What writes a code.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    lengths: Vec<u8>,
    codes: Vec<u16>,
}

impl Encoder {
    pub(super) fn new(lengths: Vec<u8>) -> Encoder {
        Encoder { codes: codes(&lengths), lengths }
    }

    /// The lengths that make a text of these symbols shortest, or nearly so. At least two symbols have a code, as
    /// there are readers that want a complete one.
    pub(super) fn fitting(counts: &[u32], longest: usize) -> Encoder {
        Encoder::new(fitting(counts, longest))
    }

    pub(super) fn lengths(&self) -> &[u8] {
        &self.lengths
    }

    /// Bits of a symbol's code; `None`: it has none.
    pub(super) fn len(&self, symbol: usize) -> Option<u32> {
        self.lengths.get(symbol).filter(|len| **len > 0).map(|len| u32::from(*len))
    }

    pub(super) fn write(&self, symbol: usize, out: &mut Bits) {
        out.push(u32::from(self.codes[symbol]), usize::from(self.lengths[symbol]));
    }
}

fn fitting(counts: &[u32], longest: usize) -> Vec<u8> {
    let mut counts = counts.to_vec();
    while counts.iter().filter(|count| **count > 0).count() < 2 {
        if let Some(none) = counts.iter_mut().find(|count| **count == 0) {
            *none = 1;
        }
    }
    loop {
        let lengths = unlimited(&counts);
        if lengths.iter().all(|len| usize::from(*len) <= longest) {
            return lengths;
        }
        // Flatter, until the tree is.
        counts.iter_mut().filter(|count| **count > 0).for_each(|count| *count = *count / 2 + 1);
    }
}

/// Huffman's algorithm. There are at least two symbols.
fn unlimited(counts: &[u32]) -> Vec<u8> {
    let mut leaves: Vec<usize> = (0..counts.len()).filter(|symbol| counts[*symbol] > 0).collect();
    leaves.sort_by_key(|symbol| counts[*symbol]);
    // Leaves first, then what joins two nodes, in order of their weights.
    let mut weights: Vec<u64> = leaves.iter().map(|symbol| u64::from(counts[*symbol])).collect();
    let mut parents = vec![0; leaves.len() * 2 - 1];
    let (mut leaf, mut inner) = (0, leaves.len());
    for node in leaves.len()..leaves.len() * 2 - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let takes_leaf = leaf < leaves.len() && (inner >= node || weights[leaf] <= weights[inner]);
            let child = if takes_leaf { &mut leaf } else { &mut inner };
            weight += weights[*child];
            parents[*child] = node;
            *child += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0u8; parents.len()];
    for node in (0..parents.len() - 1).rev() {
        depths[node] = depths[parents[node]].saturating_add(1);
    }
    let mut lengths = vec![0; counts.len()];
    leaves.iter().zip(&depths).for_each(|(symbol, depth)| lengths[*symbol] = *depth);
    lengths
}

/// Lengths of the fixed codes: of literals and lengths, and of distances (RFC 1951, section 3.2.6).
pub(super) fn fixed_lengths() -> (Vec<u8>, Vec<u8>) {
    let literals = (0..288u16).map(|symbol| match symbol {
        0..144 => 8,
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    });
    (literals.collect(), vec![5; 32])
}

/// What reads the fixed codes.
pub(super) fn fixed() -> Result<&'static (Decoder, Decoder), Invalid> {
    static FIXED: OnceLock<Option<(Decoder, Decoder)>> = OnceLock::new();
    let make = || {
        let (literals, distances) = fixed_lengths();
        Some((Decoder::new(&literals, false).ok()?, Decoder::new(&distances, false).ok()?))
    };
    FIXED.get_or_init(make).as_ref().ok_or(Invalid)
}
