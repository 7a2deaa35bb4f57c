//! What is found in the code of a library that has no names for its functions, and why it is not.

use super::function::Offsets;

/// Why the functions of a library without names were not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEntries {
    /// Machine code is decoded for x86-64 only.
    #[error("machine code of this processor is not decoded")]
    Machine,
    /// Its code or constants are missing, or longer than what is searched.
    #[error("its code cannot be read, or is longer than what is searched")]
    Unreadable,
    /// Far more than any library has.
    #[error("more code in it uses the names of its source files than is searched")]
    TooMuch,
    /// No code uses the name of the library's main source file.
    #[error("no code in it raises its errors")]
    NotUsed,
    /// The names of source files are there, and no code uses them as errors do.
    #[error("no code in it raises errors of {0}")]
    NoErrors(&'static str),
    /// No function does what this one must do.
    #[error("no function in it does what {0} does")]
    Missing(&'static str),
    /// Several do.
    #[error("{1} functions in it could be {0}")]
    Ambiguous(&'static str, usize),
    /// It takes other arguments, or begins where no function begins.
    #[error("what does in it what {0} does has other arguments")]
    Arguments(&'static str),
    /// Several versions of a library are known, and this is none of them.
    #[error("its version is not known, or is not among those that are found without names")]
    Version,
    /// In Rust, panics tell where they are in the source, unless paths are trimmed.
    #[error("no panic in it tells that it is in a file in which rustls makes keys of ring or aws-lc-rs")]
    NoPlaces,
    /// One function is not what it should be next to another.
    #[error("what looks like {0} in it does not call what looks like {1}, or has other arguments")]
    NoWrapper(&'static str, &'static str),
}

/// Functions of OpenSSL, or of a library like it, that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) offsets: Offsets,
    /// File offsets of `BIO_write` and `BIO_read`.
    pub(super) bio: (u64, u64),
}
