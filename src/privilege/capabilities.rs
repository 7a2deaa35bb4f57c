//! Capabilities of the program file: whoever may run it has them, so they are in effect only where they
//! are needed, and never where something is opened whose name the user gave.
//!
//! Root keeps its own: what it names, it may have.

use caps::{CapSet, CapsHashSet};
use nix::unistd;

/// From now on the calling thread, and threads that it starts, have only the user's own rights.
pub fn lower() {
    if !unistd::geteuid().is_root() {
        // It takes away only: nothing refuses that.
        let _ = caps::clear(None, CapSet::Ambient);
        let _ = caps::clear(None, CapSet::Effective);
    }
}

/// From now on the calling thread has all rights that this process was given.
pub fn raise() {
    if !unistd::geteuid().is_root() {
        let permitted = caps::read(None, CapSet::Permitted).unwrap_or_default();
        // What is permitted may be effective.
        let _ = caps::set(None, CapSet::Effective, &permitted);
    }
}

/// Does something with only the user's own rights.
pub fn as_user<T>(act: impl FnOnce() -> T) -> T {
    struct Restore(CapsHashSet);
    impl Drop for Restore {
        fn drop(&mut self) {
            if !unistd::geteuid().is_root() {
                let _ = caps::set(None, CapSet::Effective, &self.0);
            }
        }
    }
    let restore = Restore(caps::read(None, CapSet::Effective).unwrap_or_default());
    lower();
    let result = act();
    drop(restore);
    result
}
