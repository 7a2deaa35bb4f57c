//! Which calls the kernel side follows.

use std::time::{Duration, Instant};

use super::Probe;
use super::skeleton::types::t2p_gate;

/// Which calls the kernel side follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// None.
    Shut,
    /// All.
    Open,
    /// Those that have begun, to their return.
    Ending,
}

impl Probe {
    /// Opens or shuts the gate. Once this returns the kernel side acts on it.
    pub fn set_gate(&mut self, gate: Gate) {
        let ready = match gate {
            Gate::Shut => t2p_gate::T2P_GATE_SHUT,
            Gate::Open => t2p_gate::T2P_GATE_OPEN,
            Gate::Ending => t2p_gate::T2P_GATE_ENDING,
        };
        self.kernel.set(|variables| &mut variables.ready, ready);
        await_programs();
    }

    /// Shuts the gate for calls that begin, waits a moment for the writes that have begun, and shuts it.
    pub fn end(&mut self) {
        /// Far longer than a write takes that does not wait for its peer.
        const PATIENCE: Duration = Duration::from_millis(100);
        const INTERVAL: Duration = Duration::from_millis(2);
        self.set_gate(Gate::Ending);
        let since = Instant::now();
        while since.elapsed() < PATIENCE && self.handles().iter().any(|handle| handle.is_writing) {
            std::thread::sleep(INTERVAL);
        }
        self.set_gate(Gate::Shut);
    }
}

/// Returns when no program runs any more that began before.
pub(super) fn await_programs() {
    /// Far longer than any takes that is not interrupted.
    const LONG: Duration = Duration::from_millis(20);
    // SAFETY: a plain system call.
    if unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // Kernels with nohz_full refuse it.
        std::thread::sleep(LONG);
    }
}
