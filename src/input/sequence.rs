//! TCP sequence numbers (RFC 9293, section 3.4) as places in a stream.

/// Tells where sequence numbers of one direction are in its stream, however often they wrap around.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    /// A sequence number, and where it is in the stream.
    anchor: Option<(u32, u64)>,
}

impl Sequences {
    /// Where a sequence number is in the stream, from an arbitrary zero: nearest to those that came before.
    pub(crate) fn offset(&mut self, sequence: u32) -> u64 {
        // Far from zero, so that what comes before the first has a place.
        let (from, at) = *self.anchor.get_or_insert((sequence, 1 << 33));
        let distance = i64::from(sequence.wrapping_sub(from) as i32);
        let offset = at.saturating_add_signed(distance);
        if distance > 1 << 20 {
            self.anchor = Some((sequence, offset));
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        let mut sequences = Sequences::default();
        let first = sequences.offset(u32::MAX - 1);
        assert_eq!(sequences.offset(3), first + 5);
        assert_eq!(sequences.offset(u32::MAX - 11), first - 10);
        // Six gigabytes on.
        let mut last = first;
        for step in 1..=6u64 {
            let now = sequences.offset((u32::MAX - 1).wrapping_add((step << 30) as u32));
            assert_eq!(now, last + (1 << 30));
            last = now;
        }
    }
}
