//! The ends of handles for which the ring had no room.

use std::io;

use bytes::Bytes;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapImpl};

use crate::event::record::decode;

/// What the kernel side kept instead of putting it into the ring. At most 1024; what is beyond that is
/// counted as lost.
pub struct Ended(MapHandle);

impl Ended {
    pub(super) fn new(map: &MapImpl<'_>) -> io::Result<Ended> {
        MapHandle::try_from(map).map(Ended).map_err(io::Error::other)
    }

    /// Takes out all records that are there. Each is one of the ring's, and belongs behind all that the
    /// ring holds at this moment.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let taken = |key: Vec<u8>| {
            let record = self.0.lookup(&key, MapFlags::ANY).ok().flatten()?;
            // The kernel side enters it first, and writes it then; what is not whole yet cannot be decoded.
            let is_whole = decode(&Bytes::copy_from_slice(&record)).is_ok();
            (is_whole && self.0.delete(&key).is_ok()).then_some(record)
        };
        let keys: Vec<Vec<u8>> = self.0.keys().collect();
        keys.into_iter().filter_map(taken).collect()
    }
}
