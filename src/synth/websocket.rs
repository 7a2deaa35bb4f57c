//! WebSocket framing, only to find frames after a hole.

use crate::track::segment::Side;

/// Few frames are longer.
const PLAUSIBLE: u64 = 16 << 20;

/// Length of the header that begins so, without the masking key.
pub fn header_len(begin: &[u8]) -> usize {
    match begin.get(1).map(|len| len & 0x7f) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    }
}

/// Bytes that follow a header of [`header_len`]: the masking key and the payload.
pub fn payload_len(header: &[u8]) -> u64 {
    let Some((&[_, first], rest)) = header.split_first_chunk() else { return 0 };
    let extended = rest.iter().fold(0u64, |len, byte| len << 8 | u64::from(*byte));
    let len = if rest.is_empty() { u64::from(first & 0x7f) } else { extended };
    len.saturating_add(if first & 0x80 != 0 { 4 } else { 0 })
}

/// A synthetic header, of a control frame that no RFC assigns.
pub fn wrapper(len: u64) -> [u8; 10] {
    let mut header = [0; 10];
    header[..2].copy_from_slice(&[0x8b, 127]);
    header[2..].copy_from_slice(&len.to_be_bytes());
    header
}

/// The shortest possible synthetic header in a hole of `room` bytes, for what follows it in the hole and `len`
/// bytes more.
pub fn small_wrapper(room: u64, len: u64) -> Option<Vec<u8>> {
    let behind = |header: u64| room.checked_sub(header)?.checked_add(len);
    if let Some(len) = behind(2).and_then(|len| u8::try_from(len).ok()).filter(|len| *len < 126) {
        return Some(vec![0x8b, len]);
    }
    let [a, b] = u16::try_from(behind(4)?).ok()?.to_be_bytes();
    Some(vec![0x8b, 126, a, b])
}

/// Length of the frame that begins here; `None` if no such frame makes sense.
fn frame(side: Side, bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(..header_len(bytes))?;
    let (kind, first) = (header[0] & 0x0f, header[1] & 0x7f);
    let len = payload_len(header);
    let payload = if header[1] & 0x80 != 0 { len.checked_sub(4)? } else { len };
    let sound = header[0] & 0x30 == 0
        && (header[1] & 0x80 != 0) == (side == Side::Client)
        && match kind {
            // What is not the last fragment has no reason to be empty.
            0..=2 => header[0] & 0x80 != 0 || payload > 0,
            8..=10 => header[0] & 0xc0 == 0x80 && first < 126,
            _ => false,
        }
        && match first {
            126 => payload >= 126,
            127 => (65_536..PLAUSIBLE).contains(&payload),
            _ => true,
        };
    sound.then(|| header.len() as u64 + len)
}

/// How many frames follow each other up to the end of the bytes; whether a long one is among them, and
/// whether the last ends there.
fn chain(side: Side, mut bytes: &[u8]) -> Option<(usize, bool, bool)> {
    let (mut frames, mut long) = (0, false);
    while bytes.len() >= header_len(bytes) {
        let len = frame(side, bytes)?;
        frames += 1;
        long |= len > 130;
        match usize::try_from(len).ok().and_then(|len| bytes.get(len..)) {
            Some([]) => return Some((frames, long, true)),
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    Some((frames, long, false))
}

/// See [`super::framing::Framing::boundary`].
pub fn boundary(side: Side, bytes: &[u8], from: usize, last: usize) -> Result<usize, usize> {
    let mut open = None;
    for at in from..bytes.len() {
        let Some((frames, long, ends)) = chain(side, &bytes[at..]) else { continue };
        // A header may be only two bytes, so it takes more than one, or a long length, or a call that
        // begins or ends just there.
        let sure = match (at == 0 || at == last, frames) {
            (_, 0) => false,
            (true, frames) => ends || at == 0 && (frames > 1 || long),
            (false, frames) => frames > 5 || ends && (frames > 3 || long),
        };
        if sure {
            return Ok(at);
        }
        open.get_or_insert(at);
    }
    Err(open.unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(kind: u8, masked: bool, len: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let head = match len {
            0..126 => vec![0x80 | kind, mask | len as u8],
            126..65_536 => [&[0x80 | kind, mask | 126][..], &(len as u16).to_be_bytes()].concat(),
            _ => [&[0x80 | kind, mask | 127][..], &(len as u64).to_be_bytes()].concat(),
        };
        [&head[..], &vec![7; if masked { 4 + len } else { len }]].concat()
    }

    #[test]
    fn a_header_tells_its_length() {
        for masked in [false, true] {
            for len in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
                let frame = make(2, masked, len);
                let header = header_len(&frame);
                assert_eq!(header as u64 + payload_len(&frame[..header]), frame.len() as u64);
            }
        }
        assert_eq!(payload_len(&wrapper(77)), 77);
        assert_eq!(payload_len(&[0x82]), 0);
        for (room, len, expected) in [(1, 5, None), (2, 125, Some(2)), (3, 125, None), (4, 300, Some(4))] {
            let header = small_wrapper(room, len);
            assert_eq!(header.as_ref().map(Vec::len), expected, "{room} {len}");
            assert!(header.is_none_or(|h| payload_len(&h) == room - h.len() as u64 + len));
        }
    }

    #[test]
    fn the_boundary_is_found_after_the_rest_of_a_frame() {
        for (side, masked) in [(Side::Server, false), (Side::Client, true)] {
            let frames = [make(1, masked, 5), make(2, masked, 300)].concat();
            assert_eq!(boundary(side, &frames, 0, 0), Ok(0));
            assert!(boundary(side.peer(), &frames, 0, 0).is_err(), "masks tell the sides apart");
            let bytes = [&[0xff; 50][..], &frames].concat();
            assert_eq!(boundary(side, &bytes, 0, 0), Ok(50));
            let bytes = [&[0xff; 50][..], &make(1, masked, 5)].concat();
            assert_eq!(boundary(side, &bytes, 0, 50), Ok(50), "a call begins there");
        }
    }
}
