//! Both ends of a connection on one host.
//!
//! Two sockets are the two ends of one connection if their tuples mirror each other and
//! - their initial sequence numbers do too, or
//! - they are in one network namespace, lived at the same time, and their sequence numbers do not contradict
//!   it. (In one namespace a tuple belongs to one socket at a time; in others the same addresses may be other
//!   connections.)

use std::collections::HashMap;

use super::segment::Tuple;
use super::slot::Slot;
use crate::event::{Bind, Monotonic, SocketKey};

/// Most handles that are entered at one tuple.
pub(super) const PER_TUPLE: usize = 16;

/// How far a computed initial sequence number may be off: the SYN and the FIN count one each.
const ISN_SLACK: u32 = 2;

/// One end of a connection, as its socket shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub slot: Slot,
    pub socket: SocketKey,
    pub netns: u32,
    isn: (u32, u32),
    bound: Monotonic,
    closed: Option<Monotonic>,
}

impl End {
    pub fn new(slot: Slot, bind: &Bind) -> End {
        let (socket, netns, isn, bound) = (bind.socket, bind.netns, bind.isn, bind.time);
        End { slot, socket, netns, isn, bound, closed: None }
    }

    /// Whether `other`, whose tuple mirrors this one's, is the other end.
    fn is_peer_of(&self, other: &End) -> bool {
        if self.socket == other.socket || self.slot == other.slot {
            return false;
        }
        match self.sequence_numbers_agree(other) {
            Some(agree) => agree,
            None => {
                let before = |a: &End, b: &End| a.closed.is_some_and(|closed| closed < b.bound);
                self.netns == other.netns && self.netns != 0 && !before(self, other) && !before(other, self)
            }
        }
    }

    /// `None` if undecided: unknown, or one agrees and one does not.
    fn sequence_numbers_agree(&self, other: &End) -> Option<bool> {
        if self.isn == (0, 0) || other.isn == (0, 0) {
            return None;
        }
        let near = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) <= ISN_SLACK;
        match (near(self.isn.0, other.isn.1), near(self.isn.1, other.isn.0)) {
            (true, true) => Some(true),
            (false, false) => Some(false),
            _ => None,
        }
    }
}

/// The ends by their tuples.
#[derive(Debug, Default)]
pub(super) struct Ends(HashMap<Tuple, Vec<End>>);

impl Ends {
    /// Enters an end; `false` if its tuple has too many.
    pub fn insert(&mut self, tuple: Tuple, end: End) -> bool {
        let ends = self.0.entry(tuple).or_default();
        ends.retain(|e| e.slot != end.slot);
        if ends.len() >= PER_TUPLE
            && let Some(closed) = ends.iter().position(|e| e.closed.is_some())
        {
            ends.remove(closed);
        }
        let room = ends.len() < PER_TUPLE;
        if room {
            ends.push(end);
        }
        room
    }

    pub fn remove(&mut self, tuple: Tuple, slot: Slot) {
        if let Some(ends) = self.0.get_mut(&tuple) {
            ends.retain(|e| e.slot != slot);
            if ends.is_empty() {
                self.0.remove(&tuple);
            }
        }
    }

    /// The socket was closed, or its handle ended.
    pub fn closed(&mut self, tuple: Tuple, slot: Slot, time: Monotonic) {
        for end in self.0.get_mut(&tuple).into_iter().flatten().filter(|e| e.slot == slot) {
            end.closed = end.closed.or(Some(time));
        }
    }

    /// The other end of `end`, the one bound last if several could be.
    pub fn peer(&self, tuple: Tuple, slot: Slot) -> Option<Slot> {
        let end = self.0.get(&tuple)?.iter().find(|e| e.slot == slot)?;
        let mirrored = Tuple { local: tuple.remote, remote: tuple.local };
        self.0.get(&mirrored)?.iter().rev().find(|e| end.is_peer_of(e)).map(|e| e.slot)
    }

    /// Ends that had this tuple in this namespace with another socket: that socket is closed.
    pub fn replaced(&self, tuple: Tuple, netns: u32, socket: SocketKey) -> Vec<Slot> {
        let ends = self.0.get(&tuple).into_iter().flatten();
        ends.filter(|e| netns != 0 && e.netns == netns && e.socket != socket).map(|e| e.slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: (&str, &str) = ("127.0.0.1:40000", "127.0.0.1:443");

    fn tuple(local: &str, remote: &str) -> Tuple {
        Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    fn end(n: u32, netns: u32, isn: (u32, u32), bound: u64) -> End {
        let socket = SocketKey { address: n.into(), generation: 1 };
        End { slot: Slot(n), socket, netns, isn, bound, closed: None }
    }

    fn paired(client: End, server: End) -> bool {
        let mut ends = Ends::default();
        assert!(ends.insert(tuple(T.0, T.1), client));
        assert!(ends.insert(tuple(T.1, T.0), server));
        let there = ends.peer(tuple(T.0, T.1), client.slot);
        assert_eq!(there.is_some(), ends.peer(tuple(T.1, T.0), server.slot).is_some(), "symmetric");
        there == Some(server.slot)
    }

    #[test]
    fn one_namespace_is_enough_unless_time_or_sequence_numbers_speak_against_it() {
        let unknown = (0, 0);
        assert!(paired(end(1, 7, unknown, 10), end(2, 7, unknown, 11)));
        assert!(paired(end(1, 7, (100, 900), 10), end(2, 7, (899, 102), 11)));
        assert!(paired(end(1, 7, (100, 900), 10), end(2, 7, (5_000, 101), 11)), "read while it moved");
        assert!(!paired(end(1, 7, (100, 900), 10), end(2, 7, (5_000, 6_000), 11)));
        let closed = |end: End, at| End { closed: Some(at), ..end };
        assert!(!paired(closed(end(1, 7, unknown, 10), 15), end(2, 7, unknown, 16)));
        assert!(paired(closed(end(1, 7, unknown, 10), 15), end(2, 7, unknown, 15)));
        assert!(paired(closed(end(1, 7, (u32::MAX, 5), 10), 15), end(2, 7, (5, 1), 16)), "accepted late");
        assert!(!paired(end(1, 0, unknown, 10), end(2, 0, unknown, 11)), "unknown is not one namespace");
    }

    #[test]
    fn other_namespaces_need_sequence_numbers_that_agree() {
        assert!(!paired(end(1, 7, (0, 0), 10), end(2, 8, (0, 0), 11)));
        assert!(!paired(end(1, 7, (100, 900), 10), end(2, 8, (900, 5_000), 11)));
        assert!(paired(end(1, 7, (100, 900), 10), end(2, 8, (901, 99), 11)));
    }

    #[test]
    fn a_socket_is_not_its_own_peer_and_a_tuple_is_bounded() {
        let own = tuple(T.0, T.0);
        let mut ends = Ends::default();
        for i in 0..PER_TUPLE as u32 {
            let socket = SocketKey { address: 1, generation: 1 };
            assert!(ends.insert(own, End { socket, ..end(i, 7, (0, 0), 1) }));
        }
        assert!(!ends.insert(own, end(99, 7, (0, 0), 1)));
        ends.closed(own, Slot(4), 2);
        assert!(ends.insert(own, end(99, 7, (0, 0), 1)), "in the place of a closed one");
        ends.remove(own, Slot(99));
        assert!(
            ends.insert(own, End { socket: SocketKey { address: 1, generation: 1 }, ..end(4, 7, (0, 0), 1) })
        );
        assert_eq!(ends.peer(own, Slot(0)), None);
        let other = SocketKey { address: 2, generation: 1 };
        assert_eq!(ends.replaced(own, 7, other).len(), PER_TUPLE);
        assert_eq!(ends.replaced(own, 8, other).len(), 0);
        (0..PER_TUPLE as u32).for_each(|i| ends.remove(own, Slot(i)));
        assert!(ends.0.is_empty());
    }
}
