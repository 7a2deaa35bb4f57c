//! Writes a stream anew, so that it says another text of the same length in as many bytes: its blocks and their codes stay
//! where they can, tokens that are still true stay, and blocks of nothing make up for what was saved.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use super::bits::{Bits, Reader};
use super::code::{Encoder, LONGEST, fixed_lengths};
use super::parse::{Costs, Finder};
use super::read::{Block, Coding, ORDER, Stream, read};
use super::{DISTANCES, END, LENGTHS, Token, WINDOW, place};

/// Longest part that is spelled anew. Beyond, letter by letter.
const ANEW_MAX: usize = 256 << 10;
/// Bits that are made up for by blocks of nothing; if it is more, copies are spelled out first.
const EMPTY_MAX: usize = 640;
/// Bits of a block of nothing with fixed codes, and of a stored one that begins with a byte.
const EMPTY: usize = 10;
const EMPTY_STORED: usize = 40;
/// Copies that are tried to be split, so that the length comes out.
const SPLITS_MAX: usize = 512;

/// Codes of a block, and what says them.
#[derive(Debug)]
struct Codes {
    is_fixed: bool,
    header: Bits,
    literals: Encoder,
    distances: Encoder,
}

impl Codes {
    fn fixed() -> Codes {
        let (literals, distances) = fixed_lengths();
        let (literals, distances) = (Encoder::new(literals), Encoder::new(distances));
        Codes { is_fixed: true, header: Bits::default(), literals, distances }
    }

    /// Those of a block, as they are written in `source`.
    fn own(source: &[u8], header: Range<usize>, literals: &[u8], distances: &[u8]) -> Option<Codes> {
        let mut reader = Reader::new(source);
        reader.skip(header.start).ok()?;
        let mut bits = Bits::default();
        while bits.len() < header.len() {
            let count = (header.len() - bits.len()).min(16);
            bits.push(reader.take(count).ok()? as u32, count);
        }
        Some(Codes {
            is_fixed: false,
            header: bits,
            literals: Encoder::new(literals.to_vec()),
            distances: Encoder::new(distances.to_vec()),
        })
    }

    /// Those that spell these tokens in the fewest bits.
    fn fitting(tokens: &[Token]) -> Codes {
        let (mut literals, mut distances) = ([0; 286], [0; DISTANCES.len()]);
        literals[END] = 1;
        for token in tokens {
            match *token {
                Token::Literal(byte) => literals[usize::from(byte)] += 1,
                Token::Copy { len, distance } => {
                    literals[END + 1 + place(&LENGTHS, len)] += 1;
                    distances[place(&DISTANCES, distance)] += 1;
                }
            }
        }
        let literals = Encoder::fitting(&literals, LONGEST);
        let distances = Encoder::fitting(&distances, LONGEST);
        Codes {
            is_fixed: false,
            header: header(literals.lengths(), distances.lengths()),
            literals,
            distances,
        }
    }

    /// Bits of a token; `None`: it has no code.
    fn bits(&self, token: Token) -> Option<usize> {
        let bits = match token {
            Token::Literal(byte) => self.literals.len(usize::from(byte))?,
            Token::Copy { len, distance } => {
                let (of_len, of_distance) = (place(&LENGTHS, len), place(&DISTANCES, distance));
                self.literals.len(END + 1 + of_len)?
                    + u32::from(LENGTHS[of_len].1)
                    + self.distances.len(of_distance)?
                    + u32::from(DISTANCES[of_distance].1)
            }
        };
        Some(bits as usize)
    }

    /// Bits of a block of these tokens.
    fn size(&self, tokens: &[Token]) -> Option<usize> {
        let all = tokens.iter().try_fold(0usize, |sum, token| Some(sum + self.bits(*token)?))?;
        Some(3 + self.header.len() + all + self.literals.len(END)? as usize)
    }

    fn write(&self, tokens: &[Token], out: &mut Bits) {
        out.push(if self.is_fixed { 1 } else { 2 }, 2);
        out.extend(&self.header);
        for token in tokens {
            match *token {
                Token::Literal(byte) => self.literals.write(usize::from(byte), out),
                Token::Copy { len, distance } => {
                    let (of_len, of_distance) = (place(&LENGTHS, len), place(&DISTANCES, distance));
                    self.literals.write(END + 1 + of_len, out);
                    out.push(u32::from(len - LENGTHS[of_len].0), usize::from(LENGTHS[of_len].1));
                    self.distances.write(of_distance, out);
                    out.push(
                        u32::from(distance - DISTANCES[of_distance].0),
                        usize::from(DISTANCES[of_distance].1),
                    );
                }
            }
        }
        self.literals.write(END, out);
    }
}

/// What says the codes of a block (RFC 1951, section 3.2.7).
fn header(literals: &[u8], distances: &[u8]) -> Bits {
    let used = |lengths: &[u8], least: usize| {
        lengths.iter().rposition(|len| *len > 0).map_or(least, |at| least.max(at + 1))
    };
    let (count, more) = (used(literals, END + 1), used(distances, 1));
    let all = [&literals[..count], &distances[..more]].concat();
    // Symbol, and the number behind it with its bits.
    let mut runs: Vec<(usize, u32, usize)> = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let len = all[at];
        let run = all[at..].iter().take_while(|other| **other == len).count();
        let (taken, entry) = match (len, run) {
            (0, 11..) => (run.min(138), (18, run.min(138) as u32 - 11, 7)),
            (0, 3..) => (run, (17, run as u32 - 3, 3)),
            (_, 4..) => {
                runs.push((usize::from(len), 0, 0));
                let more = (run - 1).min(6);
                (more + 1, (16, more as u32 - 3, 2))
            }
            _ => (1, (usize::from(len), 0, 0)),
        };
        runs.push(entry);
        at += taken;
    }
    let mut counts = [0; ORDER.len()];
    runs.iter().for_each(|(symbol, ..)| counts[*symbol] += 1);
    let code = Encoder::fitting(&counts, 7);
    let own = ORDER.iter().rposition(|place| code.len(*place).is_some()).map_or(4, |at| at + 1).max(4);
    let mut out = Bits::default();
    out.push((count - 257) as u32, 5);
    out.push((more - 1) as u32, 5);
    out.push((own - 4) as u32, 4);
    ORDER[..own].iter().for_each(|place| out.push(code.len(*place).unwrap_or(0), 3));
    for (symbol, number, bits) in runs {
        code.write(symbol, &mut out);
        out.push(number, bits);
    }
    out
}

/// A block that is to be written.
#[derive(Clone, Debug)]
struct Draft {
    /// `None`: stored.
    codes: Option<Rc<Codes>>,
    tokens: Vec<Token>,
    is_last: bool,
    /// Bits, of a stored one those of its bytes.
    size: usize,
}

impl Draft {
    /// Where a block ends that begins at this bit.
    fn end(&self, at: usize) -> usize {
        let end = match self.codes {
            Some(_) => at + self.size,
            None => (at + 3).next_multiple_of(8) + 32 + self.size,
        };
        if self.is_last { end.next_multiple_of(8) } else { end }
    }

    fn write(&self, out: &mut Bits) {
        out.push(u32::from(self.is_last), 1);
        match &self.codes {
            Some(codes) => codes.write(&self.tokens, out),
            None => {
                let byte = |token: &Token| if let Token::Literal(byte) = token { *byte } else { 0 };
                stored(&self.tokens.iter().map(byte).collect::<Vec<u8>>(), out);
            }
        }
        if self.is_last {
            out.align();
        }
    }
}

/// A stored block behind its first bit.
fn stored(bytes: &[u8], out: &mut Bits) {
    out.push(0, 2);
    out.align();
    let len = bytes.len() as u16;
    out.bytes(&len.to_le_bytes());
    out.bytes(&(!len).to_le_bytes());
    out.bytes(bytes);
}

/// Writes a stream so that it says `text`, which is as long as what it said, in as many bytes. `source`: the stream as
/// it is. `past`: what was said before it, as far as it may refer to it, up to `window` bytes back. `None`: it does not fit.
pub(crate) fn rewrite(
    stream: &Stream,
    source: &[u8],
    past: &[u8],
    window: usize,
    text: &[u8],
) -> Option<Vec<u8>> {
    if stream.len != text.len() || past.len() > WINDOW {
        return None;
    }
    let all = [past, text].concat();
    let work = Work { stream, source, base: past.len(), all: &all, window, finder: OnceCell::new() };
    let out = work.drafts().into_iter().find_map(|drafts| fit(drafts, &all[past.len()..], source.len()))?;
    // Nobody should see what this module has got wrong.
    let says = read(&out, text.len()).ok()?.text(past)?;
    (says == text && out.len() == source.len()).then_some(out)
}

struct Work<'a> {
    stream: &'a Stream,
    source: &'a [u8],
    /// Where the text begins in `all`.
    base: usize,
    all: &'a [u8],
    window: usize,
    finder: OnceCell<Finder<'a>>,
}

impl<'a> Work<'a> {
    fn finder(&self) -> &Finder<'a> {
        self.finder.get_or_init(|| Finder::new(self.all, self.window))
    }

    /// Ways to write it, the one that changes least first.
    fn drafts(&self) -> impl Iterator<Item = Vec<Draft>> + '_ {
        let efforts = [(false, false), (false, true), (true, false), (true, true)];
        let efforts = efforts.into_iter().filter(|(is_anew, _)| !is_anew || self.stream.len <= ANEW_MAX);
        efforts.filter_map(|(is_anew, any_codes)| {
            let (mut at, mut spelled) = (self.base, 0);
            let blocks = self.stream.blocks.iter();
            blocks
                .map(|block| {
                    let begin = at;
                    at += self.stream.tokens[block.tokens.clone()]
                        .iter()
                        .map(|token| token.len())
                        .sum::<usize>();
                    self.draft(block, begin..at, is_anew, any_codes, &mut spelled)
                })
                .collect()
        })
    }

    /// One block, which says this part. `spelled`: bytes that were spelled anew so far.
    fn draft(
        &self,
        block: &Block,
        part: Range<usize>,
        is_anew: bool,
        any_codes: bool,
        spelled: &mut usize,
    ) -> Option<Draft> {
        let own = match &block.coding {
            Coding::Stored => return Some(self.stored(block, part)),
            Coding::Fixed => Codes::fixed(),
            Coding::Dynamic { header, literals, distances } => {
                Codes::own(self.source, header.clone(), literals, distances)?
            }
        };
        let costs = Costs::of(&own.literals, &own.distances);
        let old = &self.stream.tokens[block.tokens.clone()];
        let mut tokens;
        if is_anew {
            let kept = self.kept(old, part.start);
            tokens = self.finder().parse(part.clone(), &kept, &costs);
            if !own.is_fixed {
                // Codes depend on the tokens, and these on what they cost.
                let codes = Codes::fitting(&tokens);
                let costs = Costs::of(&codes.literals, &codes.distances);
                tokens = self.finder().parse(part, &kept, &costs);
            }
        } else {
            tokens = self.mend(old, part.start, &costs, spelled);
        }
        let mut choice = Vec::new();
        if any_codes || !own.is_fixed {
            choice.push(Codes::fitting(&tokens));
        }
        if any_codes && !own.is_fixed {
            choice.push(Codes::fixed());
        }
        choice.push(own);
        let sized = choice.into_iter().filter_map(|codes| Some((codes.size(&tokens)?, codes)));
        let (size, codes) = sized.min_by_key(|(size, _)| *size)?;
        Some(Draft { codes: Some(Rc::new(codes)), tokens, is_last: block.is_last, size })
    }

    fn stored(&self, block: &Block, part: Range<usize>) -> Draft {
        let tokens: Vec<Token> = self.all[part].iter().map(|byte| Token::Literal(*byte)).collect();
        Draft { codes: None, size: tokens.len() * 8, tokens, is_last: block.is_last }
    }

    /// Copies that still say what is there, by their places.
    fn kept(&self, tokens: &[Token], mut at: usize) -> Vec<(usize, Token)> {
        let mut kept = Vec::new();
        for token in tokens {
            if self.is_true(*token, at) && token.len() > 1 {
                kept.push((at, *token));
            }
            at += token.len();
        }
        kept
    }

    /// Whether a token says what stands at this place.
    fn is_true(&self, token: Token, at: usize) -> bool {
        match token {
            Token::Literal(byte) => self.all[at] == byte,
            Token::Copy { len, distance } => at.checked_sub(usize::from(distance)).is_some_and(|from| {
                let len = usize::from(len);
                self.all[from..from + len] == self.all[at..at + len]
            }),
        }
    }

    /// The same tokens but for copies that say something else. `spelled`: bytes of those so far.
    fn mend(&self, tokens: &[Token], begin: usize, costs: &Costs, spelled: &mut usize) -> Vec<Token> {
        let mut out = Vec::with_capacity(tokens.len());
        let mut at = begin;
        for token in tokens {
            let part = at..at + token.len();
            at = part.end;
            match token {
                Token::Copy { .. } if self.is_true(*token, part.start) => out.push(*token),
                Token::Copy { .. } if *spelled + part.len() <= ANEW_MAX => {
                    *spelled += part.len();
                    out.extend(self.finder().parse(part, &[], costs));
                }
                _ => out.extend(self.all[part].iter().map(|byte| Token::Literal(*byte))),
            }
        }
        out
    }
}

/// Blocks of nothing: with fixed codes, then stored, then with fixed codes.
#[derive(Clone, Copy, Debug)]
struct Padding {
    first: usize,
    stored: usize,
    last: usize,
}

/// Where blocks of nothing can be put in: what follows a last block is not read.
fn gap(drafts: &[Draft]) -> usize {
    drafts.iter().position(|draft| draft.is_last).unwrap_or(drafts.len() - 1)
}

fn end(drafts: &[Draft], from: usize) -> usize {
    drafts.iter().fold(from, |at, draft| draft.end(at))
}

/// How many bits of padding are needed; `None`: it is too long already.
fn missing(drafts: &[Draft], len: usize) -> Option<usize> {
    (len * 8).checked_sub(end(drafts, 0).next_multiple_of(8))
}

/// Writes blocks in this many bytes.
fn fit(mut drafts: Vec<Draft>, text: &[u8], len: usize) -> Option<Vec<u8>> {
    let room = missing(&drafts, len)?;
    if room > EMPTY_MAX {
        let tight = drafts.clone();
        loosen(&mut drafts, text, room - EMPTY_MAX / 2);
        if missing(&drafts, len).is_none() {
            drafts = tight;
        }
    }
    let padding = padding(&drafts, len).or_else(|| split(&mut drafts, text, len))?;
    let mut out = Bits::default();
    let at = gap(&drafts);
    for (i, draft) in drafts.iter().enumerate() {
        if i == at {
            // Not the last, of type 1, and the end.
            (0..padding.first).for_each(|_| out.push(2, EMPTY));
            for _ in 0..padding.stored {
                out.push(0, 1);
                stored(&[], &mut out);
            }
            (0..padding.last).for_each(|_| out.push(2, EMPTY));
        }
        draft.write(&mut out);
    }
    Some(out.into_bytes())
}

/// What must be put in; `None`: nothing does.
fn padding(drafts: &[Draft], len: usize) -> Option<Padding> {
    let (before, behind) = drafts.split_at(gap(drafts));
    let (from, goal) = (end(before, 0), len * 8);
    let after = |at: usize| end(behind, at).next_multiple_of(8);
    for first in 0..8 {
        if after(from + first * EMPTY) == goal {
            return Some(Padding { first, stored: 0, last: 0 });
        }
    }
    for first in 0..8 {
        let at = (from + first * EMPTY + 3).next_multiple_of(8) + 32;
        for last in 0..8 {
            let more = goal.checked_sub(after(at + last * EMPTY));
            if let Some(more) = more.filter(|more| more.is_multiple_of(EMPTY_STORED)) {
                return Some(Padding { first, stored: 1 + more / EMPTY_STORED, last });
            }
        }
    }
    None
}

/// Spells copies out, as long as there is room for it.
fn loosen(drafts: &mut [Draft], text: &[u8], mut room: usize) {
    let mut at = 0;
    for draft in drafts {
        let tokens = std::mem::take(&mut draft.tokens);
        for token in tokens {
            let part = &text[at..at + token.len()];
            at += token.len();
            let more = draft.codes.as_ref().filter(|_| part.len() > 1).and_then(|codes| {
                let all =
                    part.iter().try_fold(0, |sum, byte| Some(sum + codes.bits(Token::Literal(*byte))?))?;
                all.checked_sub(codes.bits(token)?).filter(|more| *more <= room)
            });
            match more {
                Some(more) => {
                    room -= more;
                    draft.size += more;
                    draft.tokens.extend(part.iter().map(|byte| Token::Literal(*byte)));
                }
                None => draft.tokens.push(token),
            }
        }
    }
}

/// Splits a copy in two, or one of its bytes off, so that some padding fits.
fn split(drafts: &mut [Draft], text: &[u8], len: usize) -> Option<Padding> {
    let (mut at, mut tries) = (0, 0);
    for i in 0..drafts.len() {
        for k in 0..drafts[i].tokens.len() {
            let token = drafts[i].tokens[k];
            let part = &text[at..at + token.len()];
            at += token.len();
            let (Token::Copy { len: whole, distance }, Some(codes)) = (token, drafts[i].codes.clone()) else {
                continue;
            };
            let copy = |len: u16| match len {
                1..3 => {
                    part[part.len() - usize::from(len)..].iter().map(|byte| Token::Literal(*byte)).collect()
                }
                len => vec![Token::Copy { len, distance }],
            };
            let off = |count: u16| {
                let literals = part[..usize::from(count)].iter().map(|byte| Token::Literal(*byte));
                literals.chain(copy(whole - count)).collect::<Vec<Token>>()
            };
            let two = |first: u16| [copy(first), copy(whole - first)].concat();
            let ways = (1..whole.min(4)).map(off).chain((3..whole.saturating_sub(2).min(40)).map(two));
            let size = drafts[i].size;
            for way in ways {
                tries += 1;
                let bits = way.iter().try_fold(0, |sum, token| Some(sum + codes.bits(*token)?));
                let (Some(bits), Some(old)) = (bits, codes.bits(token)) else { continue };
                drafts[i].size = size + bits - old;
                if let Some(padding) = missing(drafts, len).and_then(|_| padding(drafts, len)) {
                    drafts[i].tokens.splice(k..=k, way);
                    return Some(padding);
                }
            }
            drafts[i].size = size;
            if tries > SPLITS_MAX {
                return None;
            }
        }
    }
    None
}
