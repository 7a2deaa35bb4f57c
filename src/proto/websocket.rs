//! WebSocket (RFC 6455): the headers of frames.

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last frame of a message.
    pub(crate) is_last: bool,
    /// RSV1: the message is compressed (RFC 7692).
    pub(crate) is_packed: bool,
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    /// Length of the payload.
    pub(crate) payload: u64,
    /// Length of the header, with the mask.
    pub(crate) len: usize,
}

/// These bytes begin no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoFrame;

/// The header that begins here; `None`: it is longer.
pub(crate) fn header(bytes: &[u8]) -> Option<Result<Header, NoFrame>> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (opcode, is_last) = (*first & 15, *first & 0x80 != 0);
    if *first & 0x30 != 0 || !matches!(opcode, 0..=2 | 8..=10) || (opcode >= 8 && !is_last) {
        return Some(Err(NoFrame));
    }
    let long = match *second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let is_masked = *second & 0x80 != 0;
    let rest = rest.get(..long + if is_masked { 4 } else { 0 })?;
    let payload = match long {
        0 => u64::from(*second & 0x7f),
        _ => rest[..long].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
    };
    let mask = rest[long..].first_chunk::<4>().copied();
    Some(Ok(Header { is_last, is_packed: *first & 0x40 != 0, opcode, mask, payload, len: 2 + rest.len() }))
}
