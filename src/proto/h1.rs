//! HTTP/1 (RFC 9112), as far as it is written: how messages begin, and what of them is the body.

use memchr::memmem;

/// Longest line of a chunk.
pub(crate) const LINE_MAX: usize = 4096;

/// How a first line is told from anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    Yes,
    No,
    /// Too short to tell.
    Maybe,
}

/// Whether bytes begin a message.
pub(crate) fn looks(bytes: &[u8]) -> Looks {
    looks_like(b"HTTP/1.", bytes)
}

/// Whether bytes begin a message of SIP.
pub(crate) fn looks_sip(bytes: &[u8]) -> Looks {
    // `SIP/2.0 200` is one shorter than `HTTP/1.1 200`.
    if bytes.starts_with(b"SIP/2.0 ") && bytes.len() >= 11 {
        return if bytes[8..11].iter().all(u8::is_ascii_digit) { Looks::Yes } else { Looks::No };
    }
    if bytes.len() >= 8 && bytes.starts_with(b"SIP/") {
        return if bytes.starts_with(b"SIP/2.0 ") { Looks::Maybe } else { Looks::No };
    }
    looks_like(b"SIP/2.", bytes)
}

/// `version`: all but its last digit.
fn looks_like(version: &'static [u8], bytes: &[u8]) -> Looks {
    let short = &bytes[..bytes.len().min(version.len())];
    if version.starts_with(short) {
        return match bytes.len() {
            0..12 => Looks::Maybe,
            _ if bytes[9..12].iter().all(u8::is_ascii_digit) && bytes[8] == b' ' => Looks::Yes,
            _ => Looks::No,
        };
    }
    let method = bytes.iter().take(24).take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    match bytes.get(method) {
        None if method < 24 => return Looks::Maybe,
        Some(b' ') if method >= 3 => {}
        _ => return Looks::No,
    }
    let line = &bytes[..bytes.len().min(16 << 10)];
    match memchr::memchr(b'\n', line) {
        Some(end) => {
            let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
            let last = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
            let is_version = last.len() == version.len() + 1 && last.starts_with(version);
            if is_version { Looks::Yes } else { Looks::No }
        }
        // A line of text goes on for so long only if it is a request.
        None if line.iter().any(|b| !(b' '..=b'~').contains(b) && *b != b'\r') => Looks::No,
        None if bytes.len() < 16 << 10 => Looks::Maybe,
        None => Looks::No,
    }
}

/// Length of the head that begins here, with the empty line; `None` if it does not end here.
pub(crate) fn head_len(bytes: &[u8]) -> Option<usize> {
    let strict = memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4);
    strict.or_else(|| memmem::find(bytes, b"\n\n").map(|end| end + 2))
}

/// Where a body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// After so many bytes, which may be none.
    Sized(u64),
    /// In chunks.
    Chunked,
    /// Where the connection does.
    ToEnd,
}

/// By the values of the fields, the transfer coding in lower case; of messages that may have a body.
pub(crate) fn length(transfer_encoding: &str, content_length: Option<u64>, is_answer: bool) -> Length {
    match (transfer_encoding, content_length) {
        ("", Some(len)) => Length::Sized(len),
        ("", None) if is_answer => Length::ToEnd,
        ("", None) => Length::Sized(0),
        (coding, _) if coding.ends_with("chunked") => Length::Chunked,
        _ if is_answer => Length::ToEnd,
        _ => Length::Sized(0),
    }
}

/// The size in a chunk's line, and how many digits it has.
pub(crate) fn chunk_size(line: &[u8]) -> Option<(u64, usize)> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let size = u64::from_str_radix(str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
    Some((size, digits))
}

/// Length of a field's name in a line of a head; `None` if the line is no field, or continues one.
pub(crate) fn name_len(line: &[u8]) -> Option<usize> {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let colon = line.iter().position(|b| *b == b':')?;
    (colon > 0 && line[..colon].iter().all(token)).then_some(colon)
}
