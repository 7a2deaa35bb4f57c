//! What a parser sees of exchanges on its way, for summaries: with replaced values, as they stand in the result.

/// Facts that are kept until they are taken. More are left out: a segment has fewer.
pub(super) const FACTS_MAX: usize = 65_536;

/// Longest text in a fact, in bytes.
const TEXT_MAX: usize = 1024;

/// A fact about a message of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A request.
    Request {
        /// HTTP/2's number; in HTTP/1, that of the exchange on its connection, from 1.
        stream: u64,
        /// Of HTTP/2.
        is_http2: bool,
        /// As `GET`.
        method: String,
        /// Path and query.
        target: String,
        /// Host, and its port if that is said.
        host: String,
    },
    /// An answer that is none of those that announce another.
    Answer {
        /// See [`Fact::Request`].
        stream: u64,
        /// Of HTTP/1: it is not known which request this answers, so the number is a new one.
        is_stray: bool,
        /// As 200.
        status: u16,
    },
    /// So many bytes of a body, as they were sent.
    Body {
        /// See [`Fact::Request`].
        stream: u64,
        /// Without chunk headers and padding.
        len: u64,
    },
    /// gRPC's status, which is not 0.
    Grpc {
        /// See [`Fact::Request`].
        stream: u64,
        /// As in `grpc-status`.
        status: u32,
    },
    /// The message is complete.
    End {
        /// See [`Fact::Request`].
        stream: u64,
    },
    /// HTTP/2 gave a stream up.
    Reset {
        /// See [`Fact::Request`].
        stream: u64,
        /// RFC 9113, section 7.
        code: u32,
    },
}

/// A text for a fact.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]).into_owned()
}
