//! What leaves [`crate::synth`]: packets, ready to be written.

use std::sync::Arc;

use crate::track::segment::{ConnectionId, Process, WallTime};

/// Seen from the captured process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketDirection {
    /// The process received it.
    Inbound,
    /// The process sent it.
    Outbound,
}

/// One synthesised IP packet (LINKTYPE_RAW).
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// The process whose interface it appears on.
    pub process: &'a Arc<Process>,
    /// The thread that made the call.
    pub tid: u32,
    /// The connection it belongs to.
    pub connection: ConnectionId,
    /// When.
    pub time: WallTime,
    /// The latest time of its connection so far: it is placed after that, whatever its own time is.
    pub after: WallTime,
    /// Which way.
    pub direction: PacketDirection,
    /// IP and TCP headers, with checksums.
    pub headers: &'a [u8],
    /// Payload that follows the headers.
    pub payload: &'a [u8],
    /// Length of the whole packet, at least `headers.len() + payload.len()`.
    pub original_len: u32,
    /// Packets' worth of records lost just before this one (epb_dropcount).
    pub dropped: u64,
    /// Comments, one per line of Wireshark's "Packet comments".
    pub comments: &'a [String],
    /// What was known of the connection when it opened: the comment on its SYN.
    pub about: &'a str,
    /// The calls of its bytes, if more than one: a comment for readers of single calls.
    pub calls: &'a str,
}
