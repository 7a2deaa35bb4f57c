//! What leaves [`crate::track`]: the plaintext of connections, in order.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::{HandleKey, Library, Missing, ProcessKey, Role, Rtt, TupleSource};

/// Nanoseconds since 1970, UTC.
pub type WallTime = u64;

/// Number of a connection in this capture, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One end of a connection. The client is the end that opened the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Opened the connection.
    Client,
    /// Accepted it.
    Server,
}

impl Side {
    /// The other end.
    pub fn peer(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

impl From<Role> for Side {
    fn from(role: Role) -> Side {
        match role {
            Role::Client => Side::Client,
            Role::Server => Side::Server,
        }
    }
}

/// How it is known which end is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleSource {
    /// The kernel: which side opened the TCP connection.
    Kernel,
    /// The TLS call (`SSL_connect`, `SSL_accept` and their kin).
    Tls,
    /// A guess from the port numbers.
    Guess,
}

impl RoleSource {
    /// As written in comments.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleSource::Kernel => "kernel",
            RoleSource::Tls => "tls",
            RoleSource::Guess => "guess",
        }
    }
}

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Pid and generation.
    pub key: ProcessKey,
    /// Command name; empty if the process was never introduced.
    pub comm: String,
    /// Path of the executable.
    pub exe: String,
    /// Arguments, `argv[0]` first.
    pub args: Vec<String>,
    /// Effective user id.
    pub uid: u32,
    /// Container id, then a space and its name, if that is known.
    pub container: Option<String>,
}

impl Process {
    /// Represents all that do not fit into the table.
    pub fn others() -> Process {
        Process {
            key: ProcessKey { pid: 0, generation: 0 },
            comm: "others".to_owned(),
            exe: String::new(),
            args: Vec::new(),
            uid: 0,
            container: None,
        }
    }

    /// `curl[1234]`.
    pub fn name(&self) -> String {
        let comm = if self.comm.is_empty() { "?" } else { &self.comm };
        format!("{comm}[{}]", self.key.pid)
    }
}

/// Local and remote address of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The captured process's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// What is known of a connection when its first bytes appear. It never changes afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its number.
    pub id: ConnectionId,
    /// The process that was first seen with the socket. Each payload names its own.
    pub process: Arc<Process>,
    /// Thread that moved the first bytes.
    pub tid: u32,
    /// The TLS handle.
    pub handle: HandleKey,
    /// Which end `process` is.
    pub local_side: Side,
    /// How that is known.
    pub role_source: RoleSource,
    /// The socket's addresses; `None` if they are unknown.
    pub tuple: Option<Tuple>,
    /// How they were learned.
    pub tuple_source: TupleSource,
    /// Network namespace's inode; 0 if unknown.
    pub netns: u32,
    /// Socket's inode; 0 if unknown.
    pub inode: u64,
    /// Socket cookie, if the kernel has one.
    pub cookie: Option<u64>,
    /// The round-trip time, as the kernel has measured it.
    pub rtt: Option<Rtt>,
    /// The socket's file descriptor.
    pub fd: Option<u32>,
    /// The TLS library.
    pub library: Option<Arc<Library>>,
    /// Seen from the first byte on (`false`: the connection was open before the capture, or its
    /// beginning was missed).
    pub from_start: bool,
    /// When the handle was first seen.
    pub started: WallTime,
    /// Server name (SNI), if known by now.
    pub server_name: Option<String>,
    /// Negotiated protocol, if known by now.
    pub alpn: Option<String>,
    /// The connection that carries this one (TLS inside TLS).
    pub layer_below: Option<ConnectionId>,
}

/// Plaintext in one direction, or a hole in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Who sent it.
    pub from: Side,
    /// Process that made the call.
    pub process: Arc<Process>,
    /// Thread that made the call.
    pub tid: u32,
    /// Offset of the first byte in its direction, counted from the first byte seen.
    pub offset: u64,
    /// The bytes: all of them, or a prefix, or none.
    pub bytes: Bytes,
    /// How many bytes there truly were, at least `bytes.len()`.
    pub len: u64,
    /// Why `bytes` is shorter than `len`.
    pub missing: Option<Missing>,
    /// Names of the kinds of what was replaced in `bytes`; empty where nothing is redacted.
    pub redacted: Vec<&'static str>,
}

/// See [`Segment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentBody {
    /// The connection's first segment, before anything else of it.
    Open(Arc<Connection>),
    /// Bytes, or a hole of known length.
    Payload(Payload),
    /// Bytes are missing here; it is unknown how many.
    Skip {
        /// In which direction.
        from: Side,
        /// Why.
        reason: Missing,
    },
    /// The process at the other end, on the same host, is known now.
    Peer(Arc<Process>),
    /// Learnt after the connection opened.
    ServerName(String),
    /// Learnt after the connection opened.
    Alpn(String),
    /// This side sends no more.
    Finish(Side),
    /// The connection was reset.
    Reset {
        /// Who sent the RST.
        from: Side,
    },
    /// Nothing follows: whatever is held back must be written and the tuple released. It says nothing about a
    /// side that did not finish.
    End,
}

/// One step in the life of one connection. Segments of one connection are in their true order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Of which connection.
    pub connection: ConnectionId,
    /// When it happened.
    pub time: WallTime,
    /// What.
    pub body: SegmentBody,
}
