//! Takes a stream apart.

use std::ops::Range;

use super::bits::Reader;
use super::code::{self, Decoder};
use super::{DISTANCES, END, Invalid, LENGTHS, Token};

/// Most blocks of a stream: an empty one takes ten bits.
const BLOCKS_MAX: usize = 1 << 12;
/// In which order the lengths of the code of lengths come (RFC 1951, section 3.2.7).
pub(super) const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// How a block spells its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Stored,
    Fixed,
    /// With codes of its own, by their lengths. `header`: the bits that say them, without the first three.
    Dynamic {
        header: Range<usize>,
        literals: Vec<u8>,
        distances: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) coding: Coding,
    /// It says that it is the last. One of nothing may follow, in a message of WebSocket.
    pub(crate) is_last: bool,
    /// Which of the stream's tokens are its own.
    pub(crate) tokens: Range<usize>,
}

/// A stream that ends with its bytes: with a last block, or a stored one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) blocks: Vec<Block>,
    pub(crate) tokens: Vec<Token>,
    /// Bytes of text.
    pub(crate) len: usize,
}

/// Reads blocks up to the end of `bytes`, where one must end; of up to `text_max` bytes of text.
///
/// # Errors
///
/// It is no such stream.
pub(crate) fn read(bytes: &[u8], text_max: usize) -> Result<Stream, Invalid> {
    let mut reader = Reader::new(bytes);
    let mut stream = Stream::default();
    while reader.left() > 0 || stream.blocks.is_empty() {
        if stream.blocks.len() >= BLOCKS_MAX {
            return Err(Invalid);
        }
        let is_last = reader.take(1)? == 1;
        let first = stream.tokens.len();
        let coding = match reader.take(2)? {
            0 => {
                reader.align();
                let (len, inverse) = (reader.take(16)?, reader.take(16)?);
                if len != !inverse & 0xffff {
                    return Err(Invalid);
                }
                stream.tokens.extend(reader.bytes(len)?.iter().map(|byte| Token::Literal(*byte)));
                stream.len += len;
                Coding::Stored
            }
            1 => {
                let (literals, distances) = code::fixed()?;
                tokens(&mut reader, &mut stream, literals, distances, text_max)?;
                Coding::Fixed
            }
            2 => {
                let from = reader.at();
                let (literals, distances) = lengths(&mut reader)?;
                let header = from..reader.at();
                let codes = (Decoder::new(&literals, true)?, Decoder::new(&distances, true)?);
                tokens(&mut reader, &mut stream, &codes.0, &codes.1, text_max)?;
                Coding::Dynamic { header, literals, distances }
            }
            _ => return Err(Invalid),
        };
        if stream.len > text_max {
            return Err(Invalid);
        }
        if is_last {
            reader.align();
        }
        stream.blocks.push(Block { coding, is_last, tokens: first..stream.tokens.len() });
    }
    let ends = stream.blocks.last().is_some_and(|block| block.is_last || block.coding == Coding::Stored);
    if ends { Ok(stream) } else { Err(Invalid) }
}

fn tokens(
    reader: &mut Reader<'_>,
    stream: &mut Stream,
    literals: &Decoder,
    distances: &Decoder,
    text_max: usize,
) -> Result<(), Invalid> {
    loop {
        let symbol = literals.read(reader)?;
        let token = match u8::try_from(symbol) {
            Ok(byte) => Token::Literal(byte),
            Err(_) if symbol == END => return Ok(()),
            Err(_) => {
                let (least, more) = *LENGTHS.get(symbol - END - 1).ok_or(Invalid)?;
                let len = least + reader.take(usize::from(more))? as u16;
                let (least, more) = *DISTANCES.get(distances.read(reader)?).ok_or(Invalid)?;
                Token::Copy { len, distance: least + reader.take(usize::from(more))? as u16 }
            }
        };
        stream.len += token.len();
        if stream.len > text_max {
            return Err(Invalid);
        }
        stream.tokens.push(token);
    }
}

/// The lengths of a block's codes: of literals and lengths, and of distances.
fn lengths(reader: &mut Reader<'_>) -> Result<(Vec<u8>, Vec<u8>), Invalid> {
    let literals = reader.take(5)? + 257;
    let distances = reader.take(5)? + 1;
    let count = reader.take(4)? + 4;
    if literals > 286 || distances > 30 {
        return Err(Invalid);
    }
    let mut own = [0u8; ORDER.len()];
    for place in &ORDER[..count] {
        own[*place] = reader.take(3)? as u8;
    }
    let decoder = Decoder::new(&own, false)?;
    let mut all: Vec<u8> = Vec::with_capacity(literals + distances);
    while all.len() < literals + distances {
        let (value, times) = match decoder.read(reader)? {
            16 => (*all.last().ok_or(Invalid)?, 3 + reader.take(2)?),
            17 => (0, 3 + reader.take(3)?),
            18 => (0, 11 + reader.take(7)?),
            len => (len as u8, 1),
        };
        all.extend(std::iter::repeat_n(value, times));
    }
    // A block must have an end.
    if all.len() > literals + distances || all[END] == 0 {
        return Err(Invalid);
    }
    let distances = all.split_off(literals);
    Ok((all, distances))
}

impl Stream {
    /// What it says after `past`; `None`: it refers to what was before that.
    pub(crate) fn text(&self, past: &[u8]) -> Option<Vec<u8>> {
        let mut all = Vec::with_capacity(past.len() + self.len);
        all.extend_from_slice(past);
        for token in &self.tokens {
            match *token {
                Token::Literal(byte) => all.push(byte),
                Token::Copy { len, distance } => {
                    let from = all.len().checked_sub(usize::from(distance))?;
                    (from..from + usize::from(len)).for_each(|at| all.push(all[at]));
                }
            }
        }
        Some(all.split_off(past.len()))
    }
}
