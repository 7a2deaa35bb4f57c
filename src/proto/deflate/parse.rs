//! Spells a text in tokens that take few bits.

use std::cell::Cell;
use std::ops::Range;

use super::code::Encoder;
use super::{COPY_MAX, COPY_MIN, DISTANCES, END, LENGTHS, Token, place};

/// Bits of a symbol that has no code yet, about.
const NEW: u32 = 12;
/// Earlier places that are looked at for each.
const TRIES: usize = 64;
/// A copy of so many bytes is long enough.
const LONG: usize = 128;

/// How many bits each token takes, if each symbol had a code.
pub(super) struct Costs {
    literals: Vec<u32>,
    /// By length.
    lengths: Vec<u32>,
    distances: Vec<u32>,
}

impl Costs {
    pub(super) fn of(literals: &Encoder, distances: &Encoder) -> Costs {
        let bits = |code: &Encoder, symbol| code.len(symbol).unwrap_or(NEW);
        let of_length = |len: usize| {
            let symbol = place(&LENGTHS, len as u16);
            bits(literals, END + 1 + symbol) + u32::from(LENGTHS[symbol].1)
        };
        Costs {
            literals: (0..END).map(|byte| bits(literals, byte)).collect(),
            lengths: (0..=COPY_MAX).map(of_length).collect(),
            distances: (0..DISTANCES.len())
                .map(|symbol| bits(distances, symbol) + u32::from(DISTANCES[symbol].1))
                .collect(),
        }
    }

    fn of_token(&self, token: Token) -> u32 {
        match token {
            Token::Literal(byte) => self.literals[usize::from(byte)],
            Token::Copy { len, distance } => {
                self.lengths[usize::from(len)] + self.distances[place(&DISTANCES, distance)]
            }
        }
    }
}

/// Most bytes that are compared for one text: some 0.3 s, while ordinary text takes a hundredth.
const LOOKS_MAX: u64 = 1 << 28;

/// Finds what a text can be copied from.
pub(super) struct Finder<'a> {
    text: &'a [u8],
    /// By place, the one before that may begin in the same way, plus one; 0 if there is none.
    before: Vec<u32>,
    window: usize,
    /// Bytes that may still be compared. After that nothing more is found.
    left: Cell<u64>,
}

impl<'a> Finder<'a> {
    /// `text`: all that can be referred to, up to `window` bytes back.
    pub(super) fn new(text: &'a [u8], window: usize) -> Finder<'a> {
        const BITS: u32 = 15;
        let mut heads = vec![0u32; 1 << BITS];
        let mut before = vec![0; text.len()];
        for (at, three) in text.windows(COPY_MIN).enumerate() {
            let word = u32::from_le_bytes([three[0], three[1], three[2], 0]);
            let head = &mut heads[(word.wrapping_mul(0x9e37_79b1) >> (32 - BITS)) as usize];
            before[at] = std::mem::replace(head, at as u32 + 1);
        }
        let left = LOOKS_MAX.min(1 << 20 | (text.len() as u64) << 10);
        Finder { text, before, window, left: Cell::new(left) }
    }

    /// The tokens of a part that take the fewest bits. `given`: some that say what is there, by their places, in order.
    pub(super) fn parse(&self, part: Range<usize>, given: &[(usize, Token)], costs: &Costs) -> Vec<Token> {
        let base = part.start;
        let mut best = vec![(u32::MAX, Token::Literal(0)); part.len() + 1];
        best[0].0 = 0;
        let mut given = given.iter().peekable();
        for at in part.clone() {
            let here = best[at - base].0;
            let mut offer = |token: Token| {
                let cost = here + costs.of_token(token);
                let there = &mut best[at - base + token.len()];
                if cost < there.0 {
                    *there = (cost, token);
                }
            };
            offer(Token::Literal(self.text[at]));
            while let Some((_, token)) = given.next_if(|(place, _)| *place <= at) {
                offer(*token);
            }
            let most = COPY_MAX.min(part.end - at);
            let mut known = COPY_MIN - 1;
            for from in self.places(at) {
                let len = self.common(from, at, most);
                let Some(left) = self.left.get().checked_sub(len as u64 + 1) else { break };
                self.left.set(left);
                let distance = (at - from) as u16;
                let shortest = if len >= LONG { len } else { known + 1 };
                for len in shortest..=len {
                    offer(Token::Copy { len: len as u16, distance });
                }
                known = known.max(len);
                if known >= LONG.min(most) {
                    break;
                }
            }
        }
        let mut tokens = Vec::new();
        let mut at = part.len();
        while at > 0 {
            let token = best[at].1;
            tokens.push(token);
            at -= token.len();
        }
        tokens.reverse();
        tokens
    }

    /// Where what stands at `at` may have stood before, the nearest first.
    fn places(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let next = |place: &usize| self.before[*place].checked_sub(1).map(|before| before as usize);
        let window = self.window;
        std::iter::successors(next(&at), next).take_while(move |from| at - from <= window).take(TRIES)
    }

    /// How many bytes are the same at two places.
    fn common(&self, from: usize, at: usize, most: usize) -> usize {
        self.text[from..].iter().zip(&self.text[at..at + most]).take_while(|(a, b)| a == b).count()
    }
}
