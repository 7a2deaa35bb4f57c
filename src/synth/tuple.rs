//! The 5-tuples that are written: no two live connections share one.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::ports::{CLIENT_PORTS, is_owned};

/// The server's address where the true one is not known (RFC 5737: for documentation, so no real
/// host has it). Clients are the other hosts of its network.
pub const MADE_UP_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Client ports tried on one address before the search goes elsewhere: the next to be tried were
/// given out longest ago, so so many in use in a row mean that there are too many.
const ATTEMPTS: usize = 1024;

/// Addresses and ports of both ends, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Who opened the connection.
    pub client: SocketAddr,
    /// Who accepted it.
    pub server: SocketAddr,
}

impl Written {
    /// Wireshark tells conversations apart regardless of direction.
    fn key(self) -> (SocketAddr, SocketAddr) {
        if self.client <= self.server { (self.client, self.server) } else { (self.server, self.client) }
    }
}

/// Gives out tuples and takes them back. Holds as many as there are live connections.
#[derive(Debug)]
pub struct Tuples {
    live: HashSet<(SocketAddr, SocketAddr)>,
    /// Where the search for a free client port goes on.
    next_port: u16,
    next_host: u8,
}

impl Default for Tuples {
    fn default() -> Tuples {
        Tuples { live: HashSet::new(), next_port: *CLIENT_PORTS.start(), next_host: 2 }
    }
}

impl Tuples {
    /// The tuple that is wished for, or the same with another client port if that is taken, if both
    /// ends are the same, or if `avoid_owned` is set and a dissector owns the client's port.
    /// Made-up addresses if not one port is free.
    pub fn allocate(&mut self, wish: Written, avoid_owned: bool) -> Written {
        let usable = wish.client != wish.server && !(avoid_owned && is_owned(wish.client.port()));
        if usable && self.live.insert(wish.key()) {
            return wish;
        }
        self.search(wish).unwrap_or_else(|| self.make_up(wish.server.port()))
    }

    /// Addresses for a connection whose own are not known.
    pub fn make_up(&mut self, server_port: u16) -> Written {
        let server = SocketAddr::new(MADE_UP_SERVER.into(), server_port);
        loop {
            let [a, b, c, _] = MADE_UP_SERVER.octets();
            let client = IpAddr::V4(Ipv4Addr::new(a, b, c, self.next_host));
            // 253 hosts with [`ATTEMPTS`] ports each: more than there are live connections.
            if let Some(written) = self.search(Written { client: SocketAddr::new(client, 0), server }) {
                return written;
            }
            self.next_host = if self.next_host >= 254 { 2 } else { self.next_host + 1 };
        }
    }

    /// The next free client port of the range that no dissector owns, among [`ATTEMPTS`].
    fn search(&mut self, wish: Written) -> Option<Written> {
        for _ in 0..ATTEMPTS {
            let port = self.next_port;
            self.next_port = if port >= *CLIENT_PORTS.end() { *CLIENT_PORTS.start() } else { port + 1 };
            let mut written = wish;
            written.client.set_port(port);
            if !is_owned(port) && written.client != written.server && self.live.insert(written.key()) {
                return Some(written);
            }
        }
        None
    }

    /// No tuple is in use.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The connection is over.
    pub fn release(&mut self, written: Written) {
        self.live.remove(&written.key());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(client: &str, server: &str) -> Written {
        Written { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    #[test]
    fn a_tuple_is_given_once_until_it_is_released() {
        let mut tuples = Tuples::default();
        let a = wish("127.0.0.1:40001", "127.0.0.1:80");
        assert_eq!(tuples.allocate(a, false), a);
        let other = tuples.allocate(a, false);
        assert_ne!(other, a);
        assert_eq!((other.client.ip(), other.server), (a.client.ip(), a.server));
        let mirrored = Written { client: a.server, server: a.client };
        assert_ne!(tuples.allocate(mirrored, false), mirrored, "direction makes no difference");
        tuples.release(a);
        assert_eq!(tuples.allocate(a, false), a);
    }

    #[test]
    fn a_client_port_that_a_dissector_owns_is_changed_where_it_would_win() {
        let a = wish("127.0.0.1:40000", "127.0.0.1:8443");
        assert_eq!(Tuples::default().allocate(a, false), a);
        assert!(!is_owned(Tuples::default().allocate(a, true).client.port()));
    }

    #[test]
    fn when_no_port_is_left_the_address_is_made_up() {
        let mut tuples = Tuples::default();
        let a = wish("127.0.0.1:40001", "127.0.0.1:80");
        let mut seen = HashSet::new();
        for _ in 0..30_000 {
            assert!(seen.insert(tuples.allocate(a, false).key()));
        }
        let last = tuples.allocate(a, false);
        assert_eq!(last.server, SocketAddr::new(MADE_UP_SERVER.into(), 80));
        assert_ne!(last.client.ip(), last.server.ip());
    }

    #[test]
    fn both_ends_alike_get_a_client_port_of_their_own() {
        let a = wish("127.0.0.1:80", "127.0.0.1:80");
        assert_ne!(Tuples::default().allocate(a, false).client, a.server);
    }
}
