//! Which processes of the command wait for user space, and not because they stopped by themselves.

use std::io;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::Probe;

/// The kernel side's own table of them.
#[derive(Debug)]
pub struct Stops(MapHandle);

impl Stops {
    /// Whether the process waits for [`Probe::end_stop`].
    pub fn has(&self, pid: u32) -> bool {
        self.0.lookup(&pid.to_ne_bytes(), MapFlags::ANY).is_ok_and(|found| found.is_some())
    }
}

impl Probe {
    /// # Errors
    /// If no descriptor is left for it.
    pub fn stops(&self) -> io::Result<Stops> {
        MapHandle::try_from(&self.skeleton.maps.stopped).map(Stops).map_err(io::Error::other)
    }

    /// The process waits no more. To be called before it is sent SIGCONT.
    pub fn end_stop(&self, pid: u32) {
        // If it is not there it has ended.
        let _ = self.skeleton.maps.stopped.delete(&pid.to_ne_bytes());
    }
}
