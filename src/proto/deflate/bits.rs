//! Streams of bits, the first of a byte its lowest (RFC 1951, section 3.1.1).

/// Fewer bits are left than are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooShort;

/// Reads bits.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// The number of the next bit.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    /// Up to 16 bits that come next; zeros where there are none.
    pub(super) fn peek(&self) -> u32 {
        let from = self.at / 8;
        let word = match self.bytes.get(from..).and_then(|rest| rest.first_chunk::<4>()) {
            Some(word) => u32::from_le_bytes(*word),
            None => {
                let rest = self.bytes.get(from..).unwrap_or_default();
                rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
            }
        };
        word >> (self.at % 8) & 0xffff
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<(), TooShort> {
        if count > self.left() {
            return Err(TooShort);
        }
        self.at += count;
        Ok(())
    }

    /// A number of up to 16 bits.
    pub(super) fn take(&mut self, count: usize) -> Result<usize, TooShort> {
        let value = self.peek() & ((1 << count) - 1);
        self.skip(count)?;
        Ok(value as usize)
    }

    /// Goes on to the next byte.
    pub(super) fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// So many bytes. The reader is at the beginning of one.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], TooShort> {
        let from = self.at / 8;
        let bytes = from.checked_add(count).and_then(|to| self.bytes.get(from..to)).ok_or(TooShort)?;
        self.at += count * 8;
        Ok(bytes)
    }
}

/// Bits that were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A number of up to 32 bits, its lowest first.
    pub(super) fn push(&mut self, mut value: u32, mut count: usize) {
        while count > 0 {
            let used = self.len % 8;
            if used == 0 {
                self.bytes.push(0);
            }
            let now = (8 - used).min(count);
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value & ((1 << now) - 1)) as u8) << used;
            }
            value = value.checked_shr(now as u32).unwrap_or(0);
            self.len += now;
            count -= now;
        }
    }

    pub(super) fn extend(&mut self, other: &Bits) {
        for (i, byte) in other.bytes.iter().enumerate() {
            self.push(u32::from(*byte), (other.len - i * 8).min(8));
        }
    }

    /// Goes on to the next byte.
    pub(super) fn align(&mut self) {
        self.len = self.bytes.len() * 8;
    }

    /// Whole bytes. The writer is at the beginning of one.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.len = self.bytes.len() * 8;
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
