//! Connections, streams and processes: from [`crate::event::Event`] to [`segment::Segment`].
//!
//! [`Tracker`] is a function of the events alone: its only time is theirs, and its current time is the latest
//! that any event has carried. So a recording gives the same segments as the capture.
//!
//! - **Order** (`order`): a write is placed where its call was entered, a read where it returned. A read that
//!   returned while a write was in flight is held back until that write is complete.
//! - **Holes**: every record carries its offset, so a gap is a [`segment::Payload`] without bytes, of exact
//!   length. Duplicates are left out.
//! - **Opening** (`connection`): a [`segment::Connection`] never changes, so the first segments wait for what
//!   /proc has about the process, but not for long: a live capture must be readable.
//! - **Sockets** (`joined`): a socket is one connection, whichever process calls. Handles of one socket (of a
//!   parent and its child; in rustls, of each direction and key) become one handle before the rest of `track`
//!   sees them.
//! - **Pairs** (`local_peers`): of two ends on one host, the first to carry bytes is written, until it ends. What the
//!   other moves is counted but not written, also after that.
//! - **End** (`ending`): FINs and a RST are in the order in which the socket had them. A connection whose
//!   socket is known ends with that, immediately if all its handles are freed, otherwise a moment later; or
//!   when the socket's tuple is used again. Any other ends with its handle or its process. All end with the
//!   capture. Then only those that are known to be closed, or that no process has any more, get a
//!   [`segment::SegmentBody::Finish`] or [`segment::SegmentBody::Reset`].
//!
//! # Bounds
//!
//! All are in [`Limits`], or constants of this module. Reaching one is counted in [`summary::Bounds`] or
//! [`summary::Anomalies`].
//!
//! | what | default | at the bound |
//! |---|---|---|
//! | handles | 65,536 | the one that was freed first is forgotten, or else the one whose connection ended first; if all live, events about a new one are refused, with their bytes counted |
//! | freed handles (or their process has exited), remembered so that late records do not open them again | 4,096 | the one that was freed first is forgotten |
//! | processes | 16,384 | the one that exited first is forgotten, its row folded into `others`; if all live, a new one has no name |
//! | libraries | 4,096 | a new one has no name |
//! | records held back for order, per handle | 4 MiB, 4,096 records, 2 s | all that the handle holds back are released as they are |
//! | the same, in total | 64 MiB | the same, for the handle that adds one |
//! | segments that wait for what /proc has about their process, per connection | 256 KiB, 50 ms | they are written with what is known |
//! | handles with a known socket | 65,536 | a further one is a separate connection |
//! | connections on one socket (layers) | 16 | the same |
//! | connections whose socket is open and whose handles are all freed | 1,024 | the oldest ends |
//! | connections whose socket is closed and whose handles are not freed, remembered | 1,024 | the oldest is forgotten |
//! | segments that wait until the handle's socket is known | 256 KiB, 1 s | the connection opens with synthetic addresses |
//! | the same, in total | 32 MiB | the same, for the connection that adds one |
//! | wait for the last bytes after a socket is closed | 1 s without data | the connection ends |
//! | wait for what /proc has about the process at the other end | 50 ms, checked with each segment | it is announced with what is known |
//! | handles with one tuple, or on one socket | 16 | further ones find no peer, or miss the socket's end |
//! | layers of TLS inside TLS | 8 | the tuple further down is not searched for |
//! | clock samples | 128 | the oldest is forgotten |

mod clock;
mod connection;
mod ending;
mod handle;
mod joined;
mod local_peers;
mod order;
mod per_direction;
mod process;
#[cfg(test)]
mod random;
pub mod segment;
mod slot;
mod stream;
pub mod summary;
#[cfg(test)]
mod tests;
mod timers;
mod tracker;
mod unwritten_end;
mod verdict;

pub use tracker::Tracker;

/// Bounds of a [`Tracker`]; see the table of this module. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handles, living and ended.
    pub handles: usize,
    /// Handles that were freed.
    pub ended: usize,
    /// Processes.
    pub processes: usize,
    /// Libraries.
    pub libraries: usize,
    /// Bytes that a handle holds for order.
    pub held_bytes: usize,
    /// Records that a handle holds for order.
    pub held_records: usize,
    /// How long a handle holds a record for order.
    pub held_time: u64,
    /// Bytes that all handles hold for order.
    pub held_total: usize,
    /// Bytes that a connection holds before it opens.
    pub opening_bytes: usize,
    /// How long a connection holds segments before it opens.
    pub opening_time: u64,
    /// The same, while the handle's socket is unknown; 0: do not wait for it.
    pub socket_time: u64,
    /// Bytes that all connections hold before they open.
    pub opening_total: usize,
    /// How long after its socket's end, and after the last data, a connection ends.
    pub closed_time: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handles: 65_536,
            ended: 4_096,
            processes: 16_384,
            libraries: 4_096,
            held_bytes: 4 << 20,
            held_records: 4_096,
            held_time: 2_000_000_000,
            held_total: 64 << 20,
            opening_bytes: 256 << 10,
            opening_time: 50_000_000,
            socket_time: 1_000_000_000,
            opening_total: 32 << 20,
            closed_time: 1_000_000_000,
        }
    }
}
