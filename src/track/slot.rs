//! Handles by number, which is shorter than their key.

/// Where a handle stands in the table; used again after it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot(pub u32);
