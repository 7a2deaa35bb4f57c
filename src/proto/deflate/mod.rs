//! Deflate (RFC 1951): a stream taken apart into blocks and tokens, and written again so that it says something else in
//! as many bytes.

mod bits;
mod code;
mod parse;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use read::{Coding, Stream, read};
pub(crate) use write::rewrite;

/// Farthest that a token can refer back, in bytes.
pub(crate) const WINDOW: usize = 1 << 15;
/// Longest text that a token copies.
const COPY_MAX: usize = 258;
/// Shortest.
const COPY_MIN: usize = 3;

/// This is no stream of deflate, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid;

impl From<bits::TooShort> for Invalid {
    fn from(_: bits::TooShort) -> Invalid {
        Invalid
    }
}

/// A piece of text as a stream spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Literal(u8),
    /// So many bytes of what was said so many bytes before.
    Copy {
        len: u16,
        distance: u16,
    },
}

impl Token {
    /// Bytes of text.
    pub(crate) fn len(self) -> usize {
        match self {
            Token::Literal(_) => 1,
            Token::Copy { len, .. } => usize::from(len),
        }
    }
}

/// The symbol that ends a block.
const END: usize = 256;
/// By symbol from 257: the shortest length, and how many bits follow (RFC 1951, section 3.2.5).
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
/// By symbol: the shortest distance, and how many bits follow.
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The last entry of a table whose number is at most this one.
fn place(table: &[(u16, u8)], number: u16) -> usize {
    table.partition_point(|(least, _)| *least <= number).saturating_sub(1)
}
