//! Handles by number, which is shorter than their key.

/// Index of a handle in the table; reused after the handle is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot(pub u32);
