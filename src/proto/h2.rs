//! HTTP/2 (RFC 9113): frames, where they begin, and the header blocks in them.

use std::ops::Range;

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header.
pub(crate) const HEADER: usize = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY: u8 = 0x20;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Of what follows the header.
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u64,
}

/// The header that begins here.
pub(crate) fn frame(bytes: &[u8]) -> Option<Frame> {
    let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEADER>()?;
    let len = u32::from_be_bytes([0, a, b, c]) as usize;
    Some(Frame { len, kind, flags, stream: u64::from(u32::from_be_bytes(stream) & 0x7fff_ffff) })
}

/// Whether a server begins like this: with SETTINGS.
pub(crate) fn is_settings(bytes: &[u8]) -> bool {
    frame(bytes)
        .is_some_and(|f| f.kind == 4 && f.stream == 0 && f.flags & !1 == 0 && f.len % 6 == 0 && f.len < 600)
}

/// Whether a segment behind a hole begins with a frame: all that is in it are frames, the last maybe cut.
pub(crate) fn is_frames(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(frame) = frame(&bytes[at..]) {
        let on_stream = matches!(frame.kind, 0..=3 | 5 | 9);
        let on_none = matches!(frame.kind, 4 | 6 | 7);
        let fits = match frame.kind {
            2 => frame.len == 5,
            3 | 8 => frame.len == 4,
            4 => frame.len % 6 == 0,
            6 => frame.len == 8,
            _ => frame.len <= 1 << 14,
        };
        let known_flags = match frame.kind {
            0 => 0x09,
            1 => 0x2d,
            4 | 6 => 0x01,
            5 => 0x0c,
            9 => 0x04,
            _ => 0,
        };
        let sound = frame.kind <= 9
            && fits
            && frame.flags & !known_flags == 0
            && !(on_stream && frame.stream == 0)
            && !(on_none && frame.stream != 0);
        if !sound {
            return false;
        }
        at += HEADER + frame.len;
        if at >= bytes.len() {
            return true;
        }
    }
    false
}

/// Where the header block lies in the payload of HEADERS or PUSH_PROMISE, and how long the padding behind it is; `None` if
/// they do not fit in.
pub(crate) fn fragment(frame: &Frame, payload: &[u8]) -> Option<(Range<usize>, usize)> {
    let (mut begin, mut padding) = (0, 0);
    if frame.flags & PADDED != 0 {
        padding = usize::from(payload.first().copied().unwrap_or(0));
        begin += 1;
    }
    if frame.kind == 5 {
        begin += 4;
    } else if frame.flags & PRIORITY != 0 {
        begin += 5;
    }
    (begin + padding <= payload.len()).then(|| (begin..payload.len() - padding, padding))
}

/// Name of an error code (RFC 9113, section 7).
pub(crate) fn error_name(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}
