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

/// What both ends have agreed on for the compressed messages of one direction (RFC 7692, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deflate {
    /// Messages may refer to earlier ones.
    pub(crate) takes_over: bool,
    /// How far, as a power of two: 8 to 15.
    window_bits: u8,
}

impl Deflate {
    /// By the server's Sec-WebSocket-Extensions; `None`: it has not accepted any compression.
    pub(crate) fn agreed(extensions: &str, from_client: bool) -> Option<Deflate> {
        let extensions = extensions.to_ascii_lowercase();
        let mut all = extensions.split(',').map(|one| one.split(';').map(str::trim));
        let mut parameters =
            all.find_map(|mut one| (one.next() == Some("permessage-deflate")).then_some(one))?;
        let end = if from_client { "client" } else { "server" };
        let mut agreed = Deflate::default();
        parameters.by_ref().filter_map(|one| one.strip_prefix(end)).for_each(|one| {
            let (name, value) = one.split_once('=').unwrap_or((one, ""));
            match (name.trim(), value.trim().trim_matches('"').parse()) {
                ("_no_context_takeover", _) => agreed.takes_over = false,
                ("_max_window_bits", Ok(bits @ 8..=15)) => agreed.window_bits = bits,
                _ => {}
            }
        });
        Some(agreed)
    }

    /// How far a message may refer back, in bytes.
    pub(crate) fn window(self) -> usize {
        1 << self.window_bits
    }
}

impl Default for Deflate {
    /// What holds if nothing is said.
    fn default() -> Deflate {
        Deflate { takes_over: true, window_bits: 15 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_agreed() {
        let all = "foo; client_no_context_takeover, permessage-deflate; Server_No_Context_Takeover; client_max_window_bits=\"10\"";
        let of = |from_client| Deflate::agreed(all, from_client).map(|of| (of.takes_over, of.window()));
        assert_eq!((of(true), of(false)), (Some((true, 1024)), Some((false, 32768))));
        assert_eq!(Deflate::agreed("permessage-deflate", true), Some(Deflate::default()));
        assert_eq!(Deflate::agreed("x-webkit-deflate-frame", true), None);
    }
}
