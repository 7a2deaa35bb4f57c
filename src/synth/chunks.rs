//! Chunked bodies of HTTP/1, only to find out where one ends.

/// Position of the next byte in such a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// In the line with a chunk's size: its value so far, whether it has any digit, whether it is complete.
    Size { size: u64, begun: bool, told: bool },
    /// So many bytes before the end of a chunk.
    Data(u64),
    /// After a chunk: this many bytes of the line end are still to come.
    DataEnd(u8),
    /// Behind the last chunk, in a line with this many bytes.
    Trailer(u64),
}

/// What ends a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Before the zeros.
    pub before: &'static [u8],
    /// Zeros.
    pub zeros: u64,
    /// Behind them.
    pub behind: &'static [u8],
}

impl Default for Chunks {
    fn default() -> Chunks {
        Chunks::Size { size: 0, begun: false, told: false }
    }
}

impl Chunks {
    /// Advances over bytes: returns how many belong to the body, and whether it ends with them.
    pub fn walk(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            at += 1;
            *self = match *self {
                Chunks::Size { size: 0, .. } if *byte == b'\n' => Chunks::Trailer(0),
                Chunks::Size { size, .. } if *byte == b'\n' => Chunks::Data(size),
                Chunks::Size { size, told: false, .. } if byte.is_ascii_hexdigit() => {
                    let digit = char::from(*byte).to_digit(16).unwrap_or(0);
                    let size = size.saturating_mul(16).saturating_add(digit.into());
                    Chunks::Size { size, begun: true, told: false }
                }
                Chunks::Size { size, begun, .. } => Chunks::Size { size, begun, told: true },
                Chunks::Data(left) => {
                    let more = bytes.len() - at;
                    let n = usize::try_from(left - 1).unwrap_or(usize::MAX).min(more);
                    at += n;
                    match left - 1 - n as u64 {
                        0 => Chunks::DataEnd(2),
                        left => Chunks::Data(left),
                    }
                }
                Chunks::DataEnd(2) if *byte == b'\r' => Chunks::DataEnd(1),
                Chunks::DataEnd(_) => Chunks::default(),
                Chunks::Trailer(0) if *byte == b'\n' => return (at, true),
                Chunks::Trailer(_) if *byte == b'\n' => Chunks::Trailer(0),
                // The line end's first byte is none of the line.
                Chunks::Trailer(len) => Chunks::Trailer(len + u64::from(*byte != b'\r')),
            };
        }
        (at, false)
    }

    /// What ends the body here.
    pub fn end(self) -> End {
        const LAST: &[u8] = b"\r\n0\r\n\r\n";
        match self {
            Chunks::Size { begun: false, .. } => End { before: b"0\r\n\r\n", ..End::default() },
            Chunks::Size { size: 0, .. } => End { before: b"\r\n\r\n", ..End::default() },
            Chunks::Size { size, .. } => End { before: b"\r\n", zeros: size, behind: LAST },
            Chunks::Data(left) => End { before: b"", zeros: left, behind: LAST },
            Chunks::DataEnd(2) => End { before: LAST, ..End::default() },
            Chunks::DataEnd(_) => End { before: &LAST[1..], ..End::default() },
            Chunks::Trailer(0) => End { before: b"\r\n", ..End::default() },
            Chunks::Trailer(_) => End { before: b"\r\n\r\n", ..End::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"4\r\nabcd\r\n1A;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: 1\r\n\r\n";

    #[test]
    fn a_body_ends_where_it_ends_however_it_is_split() {
        for first in 0..BODY.len() {
            let mut chunks = Chunks::default();
            assert_eq!(chunks.walk(&BODY[..first]), (first, false));
            let rest = [&BODY[first..], b"HTTP"].concat();
            assert_eq!(chunks.walk(&rest), (BODY.len() - first, true), "split at {first}");
        }
    }

    #[test]
    fn an_end_is_one_wherever_it_is_made_up() {
        for first in 0..BODY.len() {
            // In the middle of a line end's two bytes the first one is there already.
            let mut chunks = Chunks::default();
            chunks.walk(&BODY[..first]);
            let End { before, zeros, behind } = chunks.end();
            let end = [before, &vec![0; zeros as usize], behind].concat();
            let (len, done) = chunks.walk(&end);
            assert!(done && len == end.len(), "at {first}: {end:?}");
        }
    }
}
