//! What a file says of a packet beside its bytes, and what that makes known of a connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::filter::Facts;
use crate::input::layers::End;
use crate::synth::comment;
use crate::view::{Connection, Origin, Side};

/// Facts of a connection that are kept.
const FACTS_MAX: usize = 64;

/// What the comments of a packet say.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) pairs: Vec<(String, String)>,
}

impl Said {
    /// Adds a comment, if it is one of ours.
    pub(super) fn add(&mut self, text: &[u8]) {
        let pairs = str::from_utf8(text).ok().and_then(|text| comment::parse(text).ok());
        self.pairs.extend(pairs.unwrap_or_default());
        self.pairs.truncate(4 * FACTS_MAX);
    }

    fn value(&self, wanted: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
    }

    /// What is missing from here on.
    pub(super) fn missing(&self) -> impl Iterator<Item = Missing<'_>> {
        let mut pairs = self.pairs.iter().peekable();
        std::iter::from_fn(move || {
            let (_, value) = pairs.by_ref().find(|(key, _)| key == "missing")?;
            let mut next =
                |wanted: &str| pairs.next_if(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
            let reason = next("reason");
            let filled = next("filled").map(|filled| filled.parse().unwrap_or(0));
            Some(Missing { length: value.parse().ok(), reason, filled })
        })
    }

    /// Whether a program said the bytes of this packet.
    pub(super) fn origin(&self) -> Origin {
        match self.value("synthetic") {
            None => Origin::Program,
            Some("h2-frame-header" | "websocket-frame-header" | "http1-head" | "http1-byte") => {
                Origin::Filler
            }
            Some(_) => Origin::Setup,
        }
    }
}

/// See [`Said::missing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing<'a> {
    /// How many bytes; `None`: nobody knows.
    pub(super) length: Option<u64>,
    pub(super) reason: Option<&'a str>,
    /// Inside synthetic TLS: so many zeros are in their place.
    pub(super) filled: Option<u64>,
}

/// What is kept of a connection before it opens.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) facts: BTreeMap<String, String>,
}

impl Known {
    pub(super) fn add(&mut self, said: &Said) {
        for (key, value) in &said.pairs {
            // What is said of packets is no fact of the connection.
            let is_passing = matches!(
                key.as_str(),
                "missing"
                    | "reason"
                    | "synthetic"
                    | "filled"
                    | "late"
                    | "redacted"
                    | "calls"
                    | "first_call"
                    | "after_fin"
                    | "already_written"
            );
            if !is_passing && (self.facts.len() < FACTS_MAX || self.facts.contains_key(key)) {
                self.facts.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.facts.get(key).map(String::as_str)
    }

    /// Which end the process is.
    pub(super) fn role(&self) -> Option<Side> {
        match self.text("role") {
            Some("client") => Some(Side::Client),
            Some("server") => Some(Side::Server),
            _ => None,
        }
    }

    /// The true addresses of client and server, else those in the packets.
    pub(super) fn ends(&self, client: End, server: End) -> [SocketAddr; 2] {
        let of = |key: &str| self.text(key)?.parse().ok();
        let (local, remote) = (of("local"), of("remote"));
        let (true_client, true_server) = match self.role() {
            Some(Side::Client) => (local, remote),
            Some(Side::Server) => (remote, local),
            None => (None, None),
        };
        [true_client.unwrap_or(address(client)), true_server.unwrap_or(address(server))]
    }
}

pub(super) fn address((ip, port): End) -> SocketAddr {
    let ip = match ip.first_chunk::<4>() {
        // That an IPv6 address ends in twelve zero bytes is not to be expected.
        Some(four) if ip[4..].iter().all(|b| *b == 0) => IpAddr::V4(Ipv4Addr::from(*four)),
        _ => IpAddr::V6(Ipv6Addr::from(ip)),
    };
    SocketAddr::new(ip, port)
}

/// What an expression asks for.
pub(super) fn of(connection: &Connection) -> Facts<'_> {
    let text = |key: &str| connection.facts.get(key).map(String::as_str);
    // Where the process is known, so is whether it is in a container.
    let is_ours = text("comm").is_some_and(|comm| !comm.is_empty());
    let is_made_up = text("tuple") == Some("none");
    let end = |end: SocketAddr| Some(end).filter(|_| !is_made_up);
    let library = text("library").map(|library| library.split(' ').next().unwrap_or_default());
    Facts {
        client: end(connection.client),
        server: end(connection.server),
        pid: text("pid").and_then(|pid| pid.parse().ok()),
        comm: text("comm").filter(|comm| !comm.is_empty()),
        exe: text("exe"),
        uid: text("uid").and_then(|uid| uid.parse().ok()),
        container: text("container").or(if is_ours { Some("") } else { None }),
        netns: text("netns").and_then(|netns| netns.parse().ok()),
        sni: text("sni"),
        alpn: text("alpn"),
        library,
        library_version: text("library").and_then(|library| library.split_once(' ')).map_or("", |(_, v)| v),
        is_client: connection.role.map(|role| role == Side::Client),
        proto: text("proto"),
    }
}
