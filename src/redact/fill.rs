//! Fillers: for what is masked without anybody knowing what it is. They say nothing of the bytes but their number
//! and, in text, where words and lines end.

/// Stands for any byte of what is no text, and for a letter.
pub(super) const FILLER: u8 = b'x';

/// Letters become `x` or `X`, digits `1` (so a number stays one), white space stays, all else is a dot.
const TEXT: [u8; 256] = {
    let mut table = [b'.'; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        table[b] = match byte {
            b'a'..=b'z' => FILLER,
            b'A'..=b'Z' => b'X',
            b'0'..=b'9' => b'1',
            b' ' | b'\t' | b'\r' | b'\n' => byte,
            _ => b'.',
        };
        b += 1;
    }
    table
};

/// Fills text. Gives where the first byte that changed stands.
pub(super) fn text(bytes: &mut [u8]) -> Option<usize> {
    let first = bytes.iter().position(|b| TEXT[usize::from(*b)] != *b)?;
    bytes[first..].iter_mut().for_each(|b| *b = TEXT[usize::from(*b)]);
    Some(first)
}

/// Fills whatever it is with `x`. Gives where the first byte that changed stands.
pub fn whole(bytes: &mut [u8]) -> Option<usize> {
    let first = bytes.iter().position(|b| *b != FILLER)?;
    bytes[first..].fill(FILLER);
    Some(first)
}

/// Whether bytes look like text: then their lines stay visible.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().take(64).all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filler_stays() {
        let mut line = b"LOGIN me Pa55.w\xc3\r\n".to_vec();
        assert_eq!(text(&mut line), Some(0));
        assert_eq!(line, b"XXXXX xx Xx11.x.\r\n");
        assert_eq!(text(&mut line), None);
        let mut binary = vec![b'x', 0, 1];
        assert_eq!((whole(&mut binary), &binary[..]), (Some(1), &b"xxx"[..]));
        assert_eq!(whole(&mut binary), None);
    }
}
