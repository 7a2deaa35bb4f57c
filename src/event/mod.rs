//! What happened, in types: the only input of [`crate::track`].
//!
//! Most events come from the kernel as ring records ([`record`]). User space adds the others: clock samples,
//! /proc data, counters. Both have one encoding, so a recording ([`recording`]) of the encoded events holds
//! every input of what follows.

mod end;
pub mod numbers;
pub mod record;
pub mod recording;

use std::net::SocketAddr;

use bytes::Bytes;

pub use end::{Closed, SocketEnd};

/// Nanoseconds of `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns` gives them.
pub type Monotonic = u64;

/// Which process: a pid and the generation that the kernel side assigns when it first sees the process and
/// again at each exec, so a recycled pid is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Thread group id, as the pid namespace of tls2pcap numbers it.
    pub pid: u32,
    /// Time of first sight, or of the first sight after the last exec.
    pub generation: u64,
}

/// A thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// The process it belongs to.
    pub process: ProcessKey,
    /// Thread id, as the pid namespace of tls2pcap numbers it.
    pub tid: u32,
}

/// Which TLS handle (`SSL *`) of which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleKey {
    /// The process that owns the handle.
    pub process: ProcessKey,
    /// Address of the handle.
    pub address: u64,
    /// Distinguishes handles that live at one address in turn.
    pub generation: u64,
}

/// Which kernel socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey {
    /// Address of the `struct sock`.
    pub address: u64,
    /// Distinguishes sockets that live at one address in turn.
    pub generation: u64,
}

/// Index of a probed library (the attach cookie); 0 is unknown.
pub type LibraryId = u32;

/// Whether a TLS call brought bytes into the program or took them out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The program received the bytes.
    Read,
    /// The program sent the bytes.
    Write,
}

/// Why bytes are missing from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missing {
    /// The ring buffer was full, so the record never left the kernel.
    RingFull,
    /// The program's buffer could not be read.
    Unreadable,
    /// The call was longer than the longest call that is captured.
    Limit,
    /// The bytes went from a file to the socket without passing through the program.
    Sendfile,
    /// The user asked for a shorter capture.
    Snaplen,
    /// A read that was blocked when the probes were attached returned unseen.
    Unseen,
    /// The return of a call was never seen.
    Unfinished,
    /// A call was nested deeper than is followed.
    Depth,
    /// The kernel's table of threads was full.
    ThreadsFull,
    /// The output did not accept the bytes as fast as they arrived.
    WriterBehind,
    /// The call was made on a stack that is not its thread's own, where its return was not probed.
    OtherStack,
}

impl Missing {
    /// The reason, as written in comments and summaries.
    pub fn as_str(self) -> &'static str {
        match self {
            Missing::RingFull => "ring-full",
            Missing::Unreadable => "unreadable",
            Missing::Limit => "call-limit",
            Missing::Sendfile => "sendfile",
            Missing::Snaplen => "snaplen",
            Missing::Unseen => "read-before-attach",
            Missing::Unfinished => "unfinished-call",
            Missing::Depth => "nested-call",
            Missing::ThreadsFull => "threads-full",
            Missing::WriterBehind => "writer-behind",
            Missing::OtherStack => "other-stack",
        }
    }
}

/// How a connection's 5-tuple was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TupleSource {
    /// Unknown: the written tuple is synthetic, and marked so.
    None,
    /// The socket was used inside the call that moved the first bytes, and carried its record.
    SameCall,
    /// An earlier call of the same handle used the socket, which is still open.
    Remembered,
    /// A later call of the same handle used the socket. Records of the ring never say so.
    LaterCall,
    /// The handle's bytes went through another handle, whose tuple it is (TLS inside TLS).
    Layer,
    /// The handle encrypts into memory, and one of its TLS records was seen at the socket.
    Ciphertext,
    /// The handle is older than the capture, and it is the socket that its library holds for it.
    Descriptor,
}

impl TupleSource {
    /// The source, as written in comments.
    pub fn as_str(self) -> &'static str {
        match self {
            TupleSource::None => "none",
            TupleSource::SameCall => "same-call",
            TupleSource::Remembered => "remembered",
            TupleSource::LaterCall => "later-call",
            TupleSource::Layer => "layer",
            TupleSource::Ciphertext => "ciphertext",
            TupleSource::Descriptor => "descriptor",
        }
    }
}

/// Bytes that a TLS call moved, or a part of them, or the fact that they are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Who made the call.
    pub task: Task,
    /// On which handle.
    pub handle: HandleKey,
    /// In which library.
    pub library: LibraryId,
    /// Read or write.
    pub direction: Direction,
    /// When the call began.
    pub entered: Monotonic,
    /// When it returned.
    pub returned: Monotonic,
    /// Number of the call among the calls of its direction that moved data; wraps.
    pub call_seq: u32,
    /// Offset of the call's first byte in its direction of the handle.
    pub call_offset: u64,
    /// How many bytes the call moved.
    pub call_len: u64,
    /// Offset of this part in the call.
    pub chunk_offset: u64,
    /// How many bytes of the stream this part represents, at least `payload.len()`.
    pub chunk_len: u64,
    /// The bytes; a prefix of the part if `missing` says so.
    pub payload: Bytes,
    /// Why `payload` is shorter than `chunk_len`.
    pub missing: Option<Missing>,
    /// The call number of the write that was in flight when this read returned.
    pub awaits_write: Option<u32>,
    /// How the handle's socket was known at this call.
    pub tuple_source: TupleSource,
}

/// Who opened a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// This side sent the SYN.
    Client,
    /// This side accepted the connection.
    Server,
}

/// The round-trip time of a TCP connection as the kernel has measured it, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    /// Smoothed. After one measurement, that of the SYN, it is this.
    pub smoothed: u32,
    /// The least of the last minutes.
    pub least: u32,
}

/// The socket of a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Whose call used the socket.
    pub task: Task,
    /// The handle.
    pub handle: HandleKey,
    /// When.
    pub time: Monotonic,
    /// The socket.
    pub socket: SocketKey,
    /// Inode of the socket, as `/proc/PID/fd` shows it.
    pub inode: u64,
    /// Socket cookie (SO_COOKIE), if one was ever requested.
    pub cookie: Option<u64>,
    /// Inode of the network namespace.
    pub netns: u32,
    /// File descriptor of the socket in the process.
    pub fd: Option<u32>,
    /// Local address. IPv4-mapped IPv6 is IPv4 here.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// Initial sequence numbers (local, remote), computed from the socket's counters; each may be
    /// off by one.
    pub isn: (u32, u32),
    /// Which side opened the connection, if the kernel knows.
    pub role: Option<Role>,
    /// How the handle was bound to the socket.
    pub source: TupleSource,
    /// Bound before the handle moved any byte, so the stream is seen from its start.
    pub fresh: bool,
    /// The round-trip time when it was bound, if the kernel has measured it.
    pub rtt: Option<Rtt>,
}

/// A fact about a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleFact {
    /// Who made the call.
    pub task: Task,
    /// The handle.
    pub handle: HandleKey,
    /// When.
    pub time: Monotonic,
    /// Bytes that the handle has read and written so far, captured or not.
    pub ends: Ends,
    /// What.
    pub fact: Fact,
}

/// The offset of each direction of a handle, in bytes, captured or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub write: u64,
}

/// See [`HandleFact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The TLS call says that this side is the TLS client, or server.
    TlsRole(Role),
    /// Server name (SNI).
    ServerName(String),
    /// Negotiated application protocol.
    Alpn(String),
    /// This side's close_notify is sent: it writes no more.
    Shutdown,
    /// The handle was freed.
    Free,
    /// The handle's bytes go through this handle of the same process.
    Layer(HandleKey),
    /// A read that was blocked when the probes were attached returned unseen, with an unknown number of bytes.
    ReadUnseen,
    /// A call was not followed to its return: it is unknown whether it moved bytes.
    CallLost(Direction, Missing),
    /// The write with this call number, which some read awaits, moved nothing.
    WriteEmpty(u32),
}

/// A process that carries TLS, as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSeen {
    /// The process.
    pub key: ProcessKey,
    /// When it was seen.
    pub time: Monotonic,
    /// When it started, ns of `CLOCK_BOOTTIME`.
    pub start_time: u64,
    /// Id of its cgroup (v2).
    pub cgroup: u64,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Pid of its parent.
    pub parent: u32,
    /// Inode of its network namespace.
    pub netns: u32,
    /// Name of the main thread's command, at most 15 bytes.
    pub comm: String,
    /// Path of the executable; only its end, without a leading slash, if the path is longer than the kernel side reads.
    pub exe: String,
    /// The arguments, `argv[0]` first; truncated at 1 KiB in total.
    pub args: Vec<String>,
}

/// What /proc had about a process after the kernel saw it. Empty or `None` if the process exited before /proc
/// was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Path of the executable.
    pub exe: Option<String>,
    /// All arguments.
    pub args: Vec<String>,
    /// Container id, from the cgroup's path; then a space and its name, if that is known.
    pub container: Option<String>,
}

/// Whether the functions of a library are what they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not known yet: its data waits.
    Pending,
    /// They are.
    Proven,
    /// They are not: its data was never plaintext of TLS.
    Wrong,
}

/// A probed library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its number in [`Data::library`].
    pub id: LibraryId,
    /// Path under which it was found.
    pub path: String,
    /// For example `OpenSSL 3.0.17`; empty if unknown.
    pub version: String,
}

/// How the capture was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Tool and version.
    pub application: String,
    /// Kernel name and release.
    pub os: String,
    /// Processor.
    pub hardware: String,
    /// The command line, without the arguments of a command that the capture runs.
    pub command_line: String,
    /// Socket back end in use.
    pub backend: String,
    /// Secrets in command lines are shown.
    pub show_args: bool,
    /// When probes were attached.
    pub time: Monotonic,
    /// How long packets wait to be written in order of time, ns.
    pub sort_time: u64,
}

/// See [`Start::sort_time`]: enough for everything after the ring, except waiting for a socket. With the time
/// between two clock samples it keeps a file less than a second behind.
pub const SORT_TIME: u64 = 500_000_000;

/// The same if the output is read live.
pub const SORT_TIME_LIVE: u64 = 50_000_000;

/// One sample of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Monotonic,
    /// `CLOCK_REALTIME`, ns since 1970.
    pub realtime: u64,
}

/// What a process lost for one reason since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLoss {
    /// The process; its generation is 0 if it was never followed.
    pub process: ProcessKey,
    /// Index in [`Counters`] of what counts such events.
    pub reason: u32,
    /// How often.
    pub events: u64,
    /// How many bytes, if known.
    pub bytes: u64,
}

/// What the kernel side counted since the start, by `t2p_counter` index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub Vec<u64>);

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// TLS bytes.
    Data(Data),
    /// A handle's socket.
    Bind(Bind),
    /// A fact about a handle.
    Handle(HandleFact),
    /// A step in the end of a socket.
    SocketEnd(SocketEnd),
    /// A process carries TLS.
    Process(ProcessSeen),
    /// A process has exited.
    Exit(ProcessKey, Monotonic),
    /// A file was mapped for the first time: of interest to discovery only.
    File(FileSeen),
    /// A process encrypts into memory, so its sockets are learned later; or it calls on other stacks.
    NoSocket(NoSocket),
    /// First event: how the capture was started.
    Start(Start),
    /// Time passes.
    Clock(Clock),
    /// What /proc had about a process.
    ProcessFacts(ProcessKey, ProcessFacts),
    /// A library is probed.
    Library(Library),
    /// The verdict on the functions of a library that were found in its code, without names.
    Verdict(LibraryId, Verdict),
    /// Counters of the kernel side.
    Counters(Counters),
    /// What the kernel side counted as lost by process; it replaces the one before.
    Losses(Vec<ProcessLoss>),
    /// At the end of the capture, or of the process: the offsets of a handle that is still live.
    Final(HandleKey, Ends),
    /// The capture is over.
    Stop(Monotonic),
}

/// A process makes TLS calls that use no socket, as programs do that encrypt into memory and send later; or
/// calls on stacks that are not its threads' own, as coroutines do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSocket {
    /// Which.
    pub process: ProcessKey,
    /// The TLS library.
    pub library: LibraryId,
    /// The thread that made the call.
    pub tid: u32,
    /// When.
    pub time: Monotonic,
    /// The thread waits until it is released.
    pub stopped: bool,
    /// It is the latter.
    pub other_stack: bool,
}

/// A file was mapped or executed that was not seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// Pid of the process that maps it.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// When.
    pub time: Monotonic,
    /// Device, `major << 20 | minor`.
    pub device: u32,
    /// Inode.
    pub inode: u64,
    /// The thread waits until it is released.
    pub stopped: bool,
}
