//! HTTP/2 framing, as far as it takes to join a connection in the middle.

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header.
pub const HEADER: usize = 9;

/// Longest payload that a frame header can announce.
pub const MAX_FRAME: u64 = 0xff_ffff;

/// A frame type that no RFC assigns. Readers must ignore such a frame (RFC 9113, 5.5), so its
/// payload can be anything.
const WRAPPER: u8 = 0xfe;

/// The largest frame that most programs are willing to receive is 16 KiB, few go to 1 MiB.
const PLAUSIBLE: u32 = 1 << 20;

/// A made-up frame header in front of `len` bytes that are a part of some frame, so that a reader
/// that counts frames stays in step. On stream 0.
pub fn wrapper(len: u64) -> [u8; HEADER] {
    let len = u32::try_from(len.min(MAX_FRAME)).unwrap_or(0).to_be_bytes();
    [len[1], len[2], len[3], WRAPPER, 0, 0, 0, 0, 0]
}

/// Length of the frame that begins here, header included; `None` if no such frame makes sense.
fn frame(bytes: &[u8]) -> Option<usize> {
    let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEADER>()?;
    let len = u32::from_be_bytes([0, a, b, c]);
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    if stream >= 1 << 31 || len > PLAUSIBLE {
        return None;
    }
    let own = stream != 0;
    let sound = match kind {
        // An empty DATA frame has no point but to end its stream.
        0 => own && flags & !0x09 == 0 && (len > 0 || flags & 1 != 0),
        1 => own && flags & !0x2d == 0 && len > 0,
        2 => own && flags == 0 && len == 5,
        3 => own && flags == 0 && len == 4,
        4 => !own && flags & !0x01 == 0 && len.is_multiple_of(6) && len <= 600 && (flags == 0 || len == 0),
        5 => own && flags & !0x0c == 0 && len > 4,
        6 => !own && flags & !0x01 == 0 && len == 8,
        7 => !own && flags == 0 && (8..=4096).contains(&len),
        8 => flags == 0 && len == 4,
        9 => own && flags & !0x04 == 0 && len > 0,
        16 => !own && flags == 0 && (4..=1024).contains(&len),
        _ => false,
    };
    sound.then_some(HEADER + len as usize)
}

/// How the bytes from a place on look as a chain of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Broken,
    /// That many frame headers, the last frame ends where the bytes end.
    Exact(usize),
    /// That many frame headers, and the last frame goes on, or its header does.
    Open(usize),
}

fn chain(mut bytes: &[u8]) -> Chain {
    let mut frames = 0;
    while bytes.len() >= HEADER {
        let Some(len) = frame(bytes) else { return Chain::Broken };
        frames += 1;
        match bytes.get(len..) {
            Some(rest) => bytes = rest,
            None => return Chain::Open(frames),
        }
    }
    if bytes.is_empty() { Chain::Exact(frames) } else { Chain::Open(frames) }
}

/// The bytes of one call are HTTP/2 frames, with confidence.
pub fn is_frames(bytes: &[u8]) -> bool {
    matches!(chain(bytes), Chain::Exact(1..) | Chain::Open(2..))
}

/// A server's first frame: SETTINGS, not acknowledged.
pub fn is_settings(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[3] == 4 && bytes[4] == 0 && frame(bytes).is_some()
}

/// Where the first frame begins in the bytes of a call of an HTTP/2 connection; `None` if nowhere
/// with confidence. `whole`: these are all the bytes of the call.
pub fn boundary(bytes: &[u8], whole: bool) -> Option<usize> {
    // Most calls begin with a frame, so less evidence will do there.
    if !bytes.is_empty() && matches!(chain(bytes), Chain::Exact(1..) | Chain::Open(1..)) {
        return Some(0);
    }
    (1..bytes.len().saturating_sub(HEADER - 1)).find(|at| match chain(&bytes[*at..]) {
        Chain::Exact(1..) => whole,
        Chain::Open(2..) => true,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn the_boundary_is_found_after_the_rest_of_a_frame() {
        let frames = [make(1, 4, 5, b"\x88\x76\x01x"), make(0, 1, 5, &[b'<'; 200])].concat();
        assert_eq!(boundary(&frames, true), Some(0));
        assert!(is_frames(&frames));
        for rest in [&b"rest of some page, in text"[..], &[0; 100], &[0xff; 33]] {
            let bytes = [rest, &frames].concat();
            assert_eq!(boundary(&bytes, true), Some(rest.len()));
            assert_eq!(boundary(&bytes[..bytes.len() - 1], true), Some(rest.len()), "two headers will do");
            assert!(!is_frames(&bytes));
        }
    }

    #[test]
    fn text_zeros_and_noise_have_no_boundary() {
        for bytes in [&[0; 500][..], &[b' '; 500], b"", b"x", b"<html><body>a page</body></html>"] {
            assert_eq!(boundary(bytes, true), None);
            assert!(!is_frames(bytes));
        }
    }

    #[test]
    fn a_wrapped_part_is_a_frame_that_readers_ignore() {
        assert_eq!(wrapper(0x012345), [0x01, 0x23, 0x45, 0xfe, 0, 0, 0, 0, 0]);
        assert_eq!(wrapper(u64::MAX)[..3], [0xff; 3]);
    }
}
