//! HTTP/2 framing, only to find frames in the middle of a connection.

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

/// A synthetic frame header for `len` bytes that are part of some frame, so that a reader that counts frames
/// stays in step. On stream 0.
pub fn wrapper(len: u64) -> [u8; HEADER] {
    let len = u32::try_from(len.min(MAX_FRAME)).unwrap_or(0).to_be_bytes();
    [len[1], len[2], len[3], WRAPPER, 0, 0, 0, 0, 0]
}

/// Length of the frame that begins here, header included; `None` if no such frame makes sense.
fn frame(bytes: &[u8], streams: &Streams) -> Option<usize> {
    let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEADER>()?;
    let len = u32::from_be_bytes([0, a, b, c]);
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    if stream >= 1 << 31 || len > PLAUSIBLE || !streams.allow(stream) {
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

/// How well the bytes from an offset on form a chain of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Broken,
    /// That many frame headers, the last frame ends where the bytes end.
    Exact(usize),
    /// This many frame headers; the last frame, or its header, continues.
    Open(usize),
}

fn chain(mut bytes: &[u8], streams: &Streams) -> Chain {
    let mut frames = 0;
    while bytes.len() >= HEADER {
        let Some(len) = frame(bytes, streams) else { return Chain::Broken };
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
    matches!(chain(bytes, &Streams::default()), Chain::Exact(1..) | Chain::Open(2..))
}

/// A server's first frame: SETTINGS, not acknowledged.
pub fn is_settings(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[3] == 4 && bytes[4] == 0 && frame(bytes, &Streams::default()).is_some()
}

/// Length of the payload that a frame header announces.
pub fn payload_len(header: &[u8; HEADER]) -> u64 {
    u64::from(u32::from_be_bytes([0, header[0], header[1], header[2]]))
}

/// These bytes, the first of which begins a frame, are complete frames.
pub fn are_whole(mut bytes: &[u8]) -> bool {
    while let Some(header) = bytes.first_chunk() {
        let end = usize::try_from(payload_len(header)).map_or(usize::MAX, |len| HEADER + len);
        let Some(rest) = bytes.get(end..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// The streams of a connection, so far: the highest of the client's and of the server's, 0 if there
/// is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams {
    highest: [u32; 2],
}

impl Streams {
    /// A frame header went by, in either direction.
    pub fn see(&mut self, header: &[u8; HEADER]) {
        let stream = stream(header);
        let highest = &mut self.highest[(stream % 2) as usize];
        *highest = stream.max(*highest);
    }

    /// A frame of a stream that went by begins here.
    fn knows(&self, bytes: &[u8]) -> bool {
        let known = |id| (1..=self.highest[(id % 2) as usize]).contains(&id);
        bytes.first_chunk().is_some_and(|header| known(stream(header)))
    }

    /// A frame of this stream may follow, if streams are numbered in order.
    fn allow(&self, stream: u32) -> bool {
        const AHEAD: u32 = 10_000;
        match (stream, self.highest) {
            (0, _) | (_, [0, 0]) => true,
            (stream, [_, odd]) if stream % 2 == 1 => odd == 0 || stream <= odd.saturating_add(AHEAD),
            (stream, [even, _]) => even > 0 && stream <= even.saturating_add(AHEAD),
        }
    }
}

fn stream(header: &[u8; HEADER]) -> u32 {
    u32::from_be_bytes([header[5], header[6], header[7], header[8]])
}

/// Where the first frame begins in bytes of an HTTP/2 connection, searched from `from` on. The start of a call
/// is more likely than any other place, and `bytes` begin with one.
///
/// # Errors
/// If it cannot be found with confidence: the first place where it may still be, once more bytes follow.
pub fn boundary(bytes: &[u8], from: usize, streams: &Streams) -> Result<usize, usize> {
    let (mut weak, mut open) = (None, None);
    for at in from..bytes.len() {
        // Zeros before the header of a short frame look like empty SETTINGS.
        if at > 0 && bytes[at..].starts_with(&[0, 0, 0, 4, 0]) {
            continue;
        }
        match chain(&bytes[at..], streams) {
            Chain::Broken => continue,
            Chain::Exact(1..) | Chain::Open(2..) => return Ok(at),
            Chain::Open(1) if at == 0 || streams.knows(&bytes[at..]) => {
                weak.get_or_insert(at);
            }
            _ => {}
        }
        open.get_or_insert(at);
    }
    weak.ok_or(open.unwrap_or(bytes.len()))
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
        let streams = Streams::default();
        let boundary = |bytes: &[u8]| boundary(bytes, 0, &streams).ok();
        let frames = [make(1, 4, 5, b"\x88\x76\x01x"), make(0, 1, 5, &[b'<'; 200])].concat();
        assert_eq!(boundary(&frames), Some(0));
        assert!(is_frames(&frames));
        for rest in [&b"rest of some page, in text"[..], &[0; 100], &[0xff; 33]] {
            let bytes = [rest, &frames].concat();
            assert_eq!(boundary(&bytes), Some(rest.len()));
            assert_eq!(boundary(&bytes[..bytes.len() - 1]), Some(rest.len()), "two headers will do");
            assert!(!is_frames(&bytes));
        }
    }

    #[test]
    fn text_zeros_and_noise_have_no_boundary() {
        for bytes in [&[0; 500][..], &[b' '; 500], b"", b"x", b"<html><body>a page</body></html>"] {
            assert!(boundary(bytes, 0, &Streams::default()).is_err());
            assert!(!is_frames(bytes));
        }
    }

    #[test]
    fn one_header_will_do_if_its_stream_is_known() {
        let bytes = [&[b'x'; 100][..], &make(0, 0, 5, &[b'<'; 200])[..50]].concat();
        let mut streams = Streams::default();
        assert_eq!(boundary(&bytes, 0, &streams), Err(100));
        streams.see(&[0, 0, 1, 1, 4, 0, 0, 0, 7]);
        assert_eq!(boundary(&bytes, 0, &streams), Ok(100));
        assert_eq!(boundary(&bytes[..107], 0, &streams), Err(99), "xx and a header's first bytes");
    }

    #[test]
    fn a_wrapped_part_is_a_frame_that_readers_ignore() {
        assert_eq!(wrapper(0x012345), [0x01, 0x23, 0x45, 0xfe, 0, 0, 0, 0, 0]);
        assert_eq!(wrapper(u64::MAX)[..3], [0xff; 3]);
    }
}
