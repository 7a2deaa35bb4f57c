//! When data is acknowledged: at its own time.
//!
//! It is unknown when the peer's kernel acknowledged. If the next packet of the other side did it, Wireshark
//! would show the time to the response as the round-trip time of each request (`tcp.analysis.ack_rtt`). So a
//! pure ACK with the same time precedes it, and the field is absent. It is written when the other side sends
//! more, or at the next tick, before the sink releases the data, so it gets its place in order of time.

use super::{At, Flow, Out, SegmentKind};
use crate::track::segment::Side;

impl Flow {
    /// Before a packet of `from`, acknowledges what the peer sent at another time.
    pub(super) fn acknowledge_before(&mut self, from: Side, at: At, out: &mut Out) {
        let peer = self.side(from.peer());
        if peer.unacked_at.is_some_and(|said| said.time != at.time) {
            self.acknowledge(from, out);
        }
    }

    /// Acknowledges what the peer of `from` has sent.
    pub(super) fn acknowledge(&mut self, from: Side, out: &mut Out) {
        let peer = self.side(from.peer());
        let Some(said) = peer.unacked_at.take().filter(|_| peer.unacked > 0) else { return };
        // The comments are for the packet with data.
        let (notes, calls) = (std::mem::take(&mut self.notes), std::mem::take(&mut self.calls));
        self.emit(from, SegmentKind::Ack, (&[], 0, 0), said, out);
        (self.notes, self.calls) = (notes, calls);
    }

    /// The same for both sides: time has passed, or nothing follows.
    pub(in crate::synth) fn acknowledge_all(&mut self, out: &mut Out) {
        self.ack_due = false;
        for from in [Side::Client, Side::Server] {
            self.acknowledge(from, out);
        }
    }

    /// Whether this is the first time since the last [`Flow::acknowledge_all`] that there is something to acknowledge.
    pub(in crate::synth) fn newly_unacknowledged(&mut self) -> bool {
        let due = self.client.unacked_at.is_some() || self.server.unacked_at.is_some();
        due && !std::mem::replace(&mut self.ack_due, true)
    }
}
