//! Synthetic TLS, as `--framing tls` writes it: TLS 1.2 (RFC 5246) with the cipher suite `TLS_RSA_WITH_NULL_MD5`.

/// Length of a record's header.
pub(crate) const HEADER: usize = 5;
/// What is in the place of MD5's hash, in bytes.
pub(crate) const HASH: usize = 16;
const NULL_MD5: [u8; 2] = [0, 1];

pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Longest handshake that is waited for.
const HELLO_MAX: usize = 64 << 10;

/// Whether a connection may begin like this: with a handshake.
pub(crate) fn is_hello(bytes: &[u8]) -> bool {
    matches!(bytes, [HANDSHAKE, 3, 0..=4, ..])
}

/// Whether TLS that begins with these bytes encrypts nothing; `None`: that is not known yet. `peer`: what the other side
/// has said, as long as it is not known what that is.
pub(crate) fn is_open(own: &[u8], peer: Option<&[u8]>) -> Option<bool> {
    match own.get(5) {
        // A server's hello says it itself.
        Some(2) => has_null_cipher(own),
        // Whether a client gets it, the server says.
        Some(1) => match peer.filter(|_| own.len() <= HELLO_MAX) {
            Some(peer) => has_null_cipher(peer),
            None => Some(false),
        },
        Some(_) => Some(false),
        None => None,
    }
}

/// Whether the server has chosen a cipher suite that encrypts nothing; `None`: its hello is not there yet.
fn has_null_cipher(bytes: &[u8]) -> Option<bool> {
    // Header, type and length, version, random; then the session's id and the suite.
    let Some(id) = bytes.get(43) else { return (!is_hello(bytes) && !bytes.is_empty()).then_some(false) };
    let at = 44 + usize::from(*id);
    let suite = bytes.get(at..at + 2)?;
    Some(is_hello(bytes) && bytes[5] == 2 && suite == NULL_MD5)
}
