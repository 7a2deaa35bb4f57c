//! From [`crate::track::segment::Segment`] to [`packet::Packet`]: connections become TCP connections that stock
//! Wireshark dissects.
//!
//! Every byte is in its true place. Missing bytes are written as packets whose true length is in their headers
//! or, if it is unknown how many are missing, as a jump of [`SKIP_JUMP`] in the sequence numbers; a comment
//! says how many and why.

mod chunks;
pub mod comment;
mod detect;
mod flow;
mod framing;
mod h1;
pub(crate) mod h2;
pub mod packet;
mod ports;
mod select;
mod shape;
mod synthesizer;
pub(crate) mod tls;
mod tuple;
pub(crate) mod websocket;
pub(crate) mod wire;

pub use ports::{DATA_PORT, Ports, is_owned};
pub use select::Selection;
pub use synthesizer::Synthesizer;
pub use tls::Carrier;
pub use tuple::MADE_UP_SERVER;

/// The longest that a connection's first bytes wait until their protocol is known, ns. The sink lets packets
/// wait as long ([`crate::event::SORT_TIME`]), so they find their place.
pub const HOLD_TIME: u64 = 500_000_000;

/// The same if the client's first bytes match no known protocol, so that only the server's can reveal it: a
/// live reader sees a packet within 100 ms.
pub const HOLD_TIME_UNKNOWN: u64 = 50_000_000;

/// The most bytes of one connection that wait; then the protocol counts as unknown.
pub const HOLD_BYTES: usize = 64 << 10;

/// The most segments of one connection that wait.
pub const HOLD_SEGMENTS: usize = 64;

/// The most bytes of all connections that wait; at this bound the connection that adds to them stops waiting.
pub const HOLD_TOTAL: usize = 16 << 20;

/// The most bytes of one direction that wait after a hole until the next frame of HTTP/2, or the end of a line
/// in HTTP/1, is found. They wait no longer than [`HOLD_TIME`], and count in [`HOLD_TOTAL`].
pub const HELD_MAX: usize = 256 << 10;

/// Calls of at least this many bytes are written immediately. Shorter ones wait if they end in the middle of a
/// message, until this many bytes have accumulated.
pub const JOIN_MAX: usize = 4 << 10;

/// The longest that they wait, ns; then they are written at the next tick.
pub const JOIN_TIME: u64 = 100_000_000;

/// The most live connections. Further ones are refused and counted.
pub const CONNECTIONS_MAX: usize = 65_536;

/// The most comments that wait for a connection's next packet; more are dropped and counted.
pub const NOTES_MAX: usize = 16;

/// The longest hole that is written in its true length: it takes one packet for each 64 KiB.
pub const HOLE_MAX: u64 = 1 << 30;

/// The most zeros that are written for one hole inside TLS. Behind a longer one, what follows may not be
/// dissected; none is longer in HTTP/2.
pub const FILL_MAX: u64 = 16 << 20;

/// The most bytes of holes longer than a packet that are written in their true length in one file, and how many more
/// for each byte that was captured: some 30 MB of headers, and two bytes. Beyond, a hole is a jump.
pub const HOLES_FREE: u64 = 16 << 30;
/// See [`HOLES_FREE`].
pub const HOLES_PER_BYTE: u64 = 1024;

/// A hole that takes no separate packet.
const HOLE_SHORT: u64 = 64 << 10;

/// The most zeros that are written inside TLS in one file, and how many more for each byte that was captured. Beyond,
/// holes are not filled.
pub const FILL_FREE: u64 = 16 << 20;
/// See [`FILL_FREE`].
pub const FILL_PER_BYTE: u64 = 16;

/// Jump in the sequence numbers if the number of missing bytes is unknown, or over [`HOLE_MAX`]. In a message
/// of HTTP/1 that is known to be longer, it is more.
pub const SKIP_JUMP: u32 = 1000;

/// A pure ACK is written at least once in this many bytes of one direction, so that readers can
/// forget what is acknowledged and sequence numbers stay comparable over 4 GiB.
pub const ACK_EVERY: u64 = 16 << 20;

/// What the synthesis counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections written.
    pub connections: u64,
    /// Connections refused at [`CONNECTIONS_MAX`].
    pub connections_refused: u64,
    /// Connections whose written client or address had to differ from the true one because it was
    /// taken, because another connection had it, or because a dissector would have claimed it.
    pub tuples_changed: u64,
    /// Connections with synthetic addresses.
    pub tuples_made_up: u64,
    /// Written tuples that were forgotten, so that another connection may be written on them.
    pub tuples_forgotten: u64,
    /// Connections whose protocol was still open when the wait for it ended.
    pub decided_early: u64,
    /// Connections that the filter leaves out.
    pub left_by_filter: u64,
    /// Connections for which it is unknown whether the filter matches.
    pub undecided: u64,
    /// Connections that the filter keeps, of which the sample takes one in N.
    pub chosen: u64,
    /// Connections that the sample leaves out.
    pub left_by_sample: u64,
    /// Segments of connections that never opened, were refused, or have ended.
    pub segments_orphaned: u64,
    /// Connections opened a second time while they lived.
    pub opened_twice: u64,
    /// Duplicate bytes that were left out.
    pub overlapping_bytes: u64,
    /// Bytes that are holes of known length.
    pub missing_bytes: u64,
    /// Holes of unknown length.
    pub unknown_holes: u64,
    /// Comments dropped at [`NOTES_MAX`].
    pub comments_dropped: u64,
    /// Bytes that were captured.
    pub captured_bytes: u64,
    /// Zeros written inside TLS for bytes that are missing.
    pub filled_bytes: u64,
    /// Bytes of holes that were written in their true length and are longer than a packet.
    pub hole_bytes: u64,
    /// Holes written shorter than they are, so that the file does not grow out of proportion.
    pub holes_shortened: u64,
}

impl Stats {
    /// How many of the `wanted` zeros may be written for one hole.
    fn fill_room(&self, wanted: u64) -> u64 {
        let all = FILL_FREE.saturating_add(self.captured_bytes.saturating_mul(FILL_PER_BYTE));
        wanted.min(FILL_MAX).min(all.saturating_sub(self.filled_bytes))
    }

    /// The same, and they are written.
    fn fill(&mut self, wanted: u64) -> u64 {
        let filled = self.fill_room(wanted);
        self.holes_shortened += u64::from(filled < wanted);
        self.filled_bytes = self.filled_bytes.saturating_add(filled);
        filled
    }

    /// Whether a hole may be written at its true length; then it counts as written.
    fn spare_hole(&mut self, missing: u64) -> bool {
        if missing <= HOLE_SHORT {
            return true;
        }
        let all = HOLES_FREE.saturating_add(self.captured_bytes.saturating_mul(HOLES_PER_BYTE));
        let is_spared = missing <= HOLE_MAX && self.hole_bytes.saturating_add(missing) <= all;
        if is_spared {
            self.hole_bytes += missing;
        } else {
            self.holes_shortened += 1;
        }
        is_spared
    }
}
