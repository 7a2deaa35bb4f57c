//! The 5-tuples that are written: no two live connections share one, and a written one is reused only when the
//! true one is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::ports::{CLIENT_PORTS, is_owned};
use crate::track::segment::WallTime;

/// The server's address if the true one is unknown (RFC 5737: for documentation, so no real host has it).
/// Clients are the other hosts of its network.
pub const MADE_UP_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Client ports tried on one address before the search moves on. The next candidates were released longest ago,
/// so this many in use in a row mean that there are too many.
const ATTEMPTS: usize = 1024;

/// Tuples that are remembered after their connections have ended, 40 bytes each or so. Beyond, the
/// oldest is forgotten, and Wireshark may find its ports reused.
pub const USED_MAX: usize = 1 << 17;

/// Addresses and ports of both ends, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Written {
    /// Who opened the connection.
    pub client: SocketAddr,
    /// Who accepted it.
    pub server: SocketAddr,
}

impl Written {
    /// Wireshark identifies conversations regardless of direction.
    fn key(self) -> (SocketAddr, SocketAddr) {
        if self.client <= self.server { (self.client, self.server) } else { (self.server, self.client) }
    }
}

/// What makes two connections on one written tuple one after the other the same as what was on the
/// wire: the true tuple, in the same network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The true tuple; `None` if it is unknown.
    pub truth: Option<Written>,
    /// Network namespace.
    pub netns: u32,
    /// TLS inside the TLS of another connection with this tuple.
    pub layered: bool,
}

/// Of a tuple that was given out.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// Hash of its last owner.
    identity: u64,
    /// The latest time of what was written on it.
    latest: WallTime,
}

/// Gives out tuples and takes them back.
#[derive(Debug)]
pub struct Tuples {
    /// As many as there are live connections.
    live: HashSet<(SocketAddr, SocketAddr)>,
    /// Hashes of the last [`USED_MAX`] tuples that were given out.
    used: HashMap<u64, Used>,
    /// Their order.
    oldest: VecDeque<u64>,
    forgotten: u64,
    /// Where the search for a free client port continues.
    next_port: u16,
    next_host: u8,
    /// Where it continues.
    ports: RangeInclusive<u16>,
}

impl Default for Tuples {
    fn default() -> Tuples {
        Tuples::new(CLIENT_PORTS)
    }
}

impl Tuples {
    /// Where a client's port must change, it is taken from `ports`.
    pub fn new(ports: RangeInclusive<u16>) -> Tuples {
        Tuples {
            live: HashSet::new(),
            used: HashMap::new(),
            oldest: VecDeque::new(),
            forgotten: 0,
            next_port: *ports.start(),
            next_host: 2,
            ports,
        }
    }
}

/// The same in every run, as replays need it.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Tuples {
    /// The tuple that is wished for, or the same with another client port if that is taken, if
    /// another connection had it, if both ends are the same, or if `avoid_owned` is set and a
    /// dissector owns the client's port. Made-up addresses if not one port is free.
    pub fn allocate(&mut self, wish: Written, identity: Identity, avoid_owned: bool) -> Written {
        let usable = wish.client != wish.server && !(avoid_owned && is_owned(wish.client.port()));
        let anothers = self.used.get(&hash(wish.key())).is_some_and(|had| had.identity != hash(identity));
        if usable && !anothers && self.live.insert(wish.key()) {
            self.remember(wish, identity);
            return wish;
        }
        match self.search(wish) {
            Some(written) => {
                self.remember(written, identity);
                written
            }
            None => self.make_up(wish.server.port(), identity),
        }
    }

    /// Addresses for a connection whose own are unknown.
    pub fn make_up(&mut self, server_port: u16, identity: Identity) -> Written {
        let server = SocketAddr::new(MADE_UP_SERVER.into(), server_port);
        loop {
            let [a, b, c, _] = MADE_UP_SERVER.octets();
            let client = IpAddr::V4(Ipv4Addr::new(a, b, c, self.next_host));
            // 253 hosts with [`ATTEMPTS`] ports each: more than the number of live connections.
            if let Some(written) = self.search(Written { client: SocketAddr::new(client, 0), server }) {
                self.remember(written, identity);
                return written;
            }
            self.next_host = if self.next_host >= 254 { 2 } else { self.next_host + 1 };
        }
    }

    /// The next free client port of the range that no dissector owns, among [`ATTEMPTS`]; preferably one that
    /// was never used.
    fn search(&mut self, wish: Written) -> Option<Written> {
        let mut second_hand = None;
        for _ in 0..ATTEMPTS {
            let port = self.next_port;
            self.next_port = if port >= *self.ports.end() { *self.ports.start() } else { port + 1 };
            let mut written = wish;
            written.client.set_port(port);
            let key = written.key();
            if is_owned(port) || written.client == written.server || self.live.contains(&key) {
                continue;
            }
            if !self.used.contains_key(&hash(key)) {
                self.live.insert(key);
                return Some(written);
            }
            second_hand.get_or_insert(written);
        }
        let written = second_hand?;
        self.live.insert(written.key());
        Some(written)
    }

    fn remember(&mut self, written: Written, identity: Identity) {
        let key = hash(written.key());
        if let Some(used) = self.used.get_mut(&key) {
            used.identity = hash(identity);
            return;
        }
        self.used.insert(key, Used { identity: hash(identity), latest: 0 });
        self.oldest.push_back(key);
        if self.oldest.len() > USED_MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.used.remove(&oldest);
            self.forgotten += 1;
        }
    }

    /// Tuples that were forgotten at [`USED_MAX`].
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// No tuple is in use.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The latest time that earlier connections wrote on this tuple: the new one must not precede it.
    pub fn latest(&self, written: Written) -> WallTime {
        self.used.get(&hash(written.key())).map_or(0, |used| used.latest)
    }

    /// The connection is over. `latest`: the latest time of its packets.
    pub fn release(&mut self, written: Written, latest: WallTime) {
        self.live.remove(&written.key());
        if let Some(used) = self.used.get_mut(&hash(written.key())) {
            used.latest = used.latest.max(latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(client: &str, server: &str) -> Written {
        Written { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn of(truth: Written, netns: u32) -> Identity {
        Identity { truth: Some(truth), netns, layered: false }
    }

    #[test]
    fn a_tuple_is_given_once_until_it_is_released() {
        let mut tuples = Tuples::default();
        let a = wish("127.0.0.1:40001", "127.0.0.1:80");
        assert_eq!(tuples.allocate(a, of(a, 1), false), a);
        let other = tuples.allocate(a, of(a, 1), false);
        assert_ne!(other, a);
        assert_eq!((other.client.ip(), other.server), (a.client.ip(), a.server));
        let mirrored = Written { client: a.server, server: a.client };
        assert_ne!(tuples.allocate(mirrored, of(a, 1), false), mirrored, "direction makes no difference");
        tuples.release(a, 0);
        assert_eq!(tuples.allocate(a, of(a, 1), false), a);
    }

    #[test]
    fn a_client_port_that_a_dissector_owns_is_changed_where_it_would_win() {
        let a = wish("127.0.0.1:40000", "127.0.0.1:8443");
        assert_eq!(Tuples::default().allocate(a, of(a, 1), false), a);
        assert!(!is_owned(Tuples::default().allocate(a, of(a, 1), true).client.port()));
    }

    #[test]
    fn when_no_port_is_left_the_address_is_made_up() {
        let mut tuples = Tuples::default();
        let a = wish("127.0.0.1:40001", "127.0.0.1:80");
        let mut seen = HashSet::new();
        for _ in 0..30_000 {
            assert!(seen.insert(tuples.allocate(a, of(a, 1), false).key()));
        }
        let last = tuples.allocate(a, of(a, 1), false);
        assert_eq!(last.server, SocketAddr::new(MADE_UP_SERVER.into(), 80));
        assert_ne!(last.client.ip(), last.server.ip());
    }

    #[test]
    fn both_ends_alike_get_a_client_port_of_their_own() {
        let a = wish("127.0.0.1:80", "127.0.0.1:80");
        assert_ne!(Tuples::default().allocate(a, of(a, 1), false).client, a.server);
    }

    #[test]
    fn what_another_connection_had_is_not_given_again_but_a_true_tuple_returns() {
        let mut tuples = Tuples::default();
        let a = wish("127.0.0.1:41234", "127.0.0.1:80");
        let mut seen = HashSet::new();
        for netns in [1, 2, 3] {
            let written = tuples.allocate(a, of(a, netns), false);
            assert!(seen.insert(written.key()));
            tuples.release(written, 0);
        }
        let layered = tuples.allocate(a, Identity { layered: true, ..of(a, 1) }, false);
        assert!(seen.insert(layered.key()));
        // The server's true port was another, and both are written as 80.
        let mapped = tuples.allocate(a, of(wish("127.0.0.1:41234", "127.0.0.1:443"), 1), false);
        assert!(seen.insert(mapped.key()));
        assert_eq!(tuples.allocate(a, of(a, 1), false), a, "the true tuple returned");
    }

    #[test]
    fn the_memory_of_used_tuples_is_bounded() {
        let mut tuples = Tuples::default();
        let ports = 1..=u16::MAX;
        for host in 1..=3u8 {
            for port in ports.clone() {
                let a = Written {
                    client: SocketAddr::from(([10, 0, 0, host], port)),
                    server: SocketAddr::from(([10, 0, 1, 1], 80)),
                };
                let written = tuples.allocate(a, of(a, 1), false);
                assert_eq!(written, a);
                tuples.release(written, 0);
            }
        }
        assert_eq!((tuples.used.len(), tuples.oldest.len()), (USED_MAX, USED_MAX));
        assert_eq!(tuples.forgotten() as usize, 3 * usize::from(u16::MAX) - USED_MAX);
    }
}
