//! What must not be shown. Here: [`arguments`] of command lines. What takes secrets out of the
//! plaintext itself maps segments to segments, and belongs here as well.

mod arguments;

pub use arguments::arguments;
