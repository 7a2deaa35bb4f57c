//! The encoding of events: ring records as the kernel lays them out (`bpf/tls2pcap.h`), and the
//! records that user space adds.
//!
//! `src/probe/layout.rs` has the compiler compare the structs here with what the C header
//! compiles to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use bytes::Bytes;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::numbers::{self, State, Type};
use super::*;

pub use super::numbers::Counter;

/// Longest payload of one data record, in bytes.
pub const CHUNK_MAX: usize = numbers::CHUNK_MAX as usize;

/// Why a record could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record ends before its fields do.
    #[error("record of type {kind} is cut short: {have} bytes")]
    Short {
        /// Its type; 0 if even that is missing.
        kind: u16,
        /// Its length in bytes.
        have: usize,
    },
    /// No such type.
    #[error("unknown record type {0}")]
    UnknownType(u16),
    /// A field holds what no kernel side writes.
    #[error("record of type {kind}: field {field} is out of range")]
    Field {
        /// The record's type.
        kind: u16,
        /// The field.
        field: &'static str,
    },
}

macro_rules! raw {
    ($(#[$m:meta])* $name:ident { $($field:ident: $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $t),* }
    };
}

raw!(
    /// `struct t2p_head`.
    RawHead { kind: u16, reserved: u16, tgid: u32, tid: u32, library: u32, process: u64 }
);
raw!(
    /// `struct t2p_data`.
    RawData {
        head: RawHead, handle: u64, generation: u64, entered: u64, returned: u64,
        call_offset: u64, call_len: u64, chunk_offset: u64, chunk_len: u64,
        captured: u32, call_seq: u32, awaits_write: u32,
        direction: u8, function: u8, missing: u8, tuple_source: u8,
    }
);
raw!(
    /// `struct t2p_bind`.
    RawBind {
        head: RawHead, handle: u64, generation: u64, time: u64,
        socket: u64, socket_generation: u64, inode: u64, cookie: u64,
        netns: u32, local_isn: u32, remote_isn: u32, fd: i32,
        local: [u8; 16], remote: [u8; 16], local_port: u16, remote_port: u16,
        family: u8, role: u8, tuple_source: u8, fresh: u8, rtt: u32, rtt_min: u32,
    }
);
raw!(
    /// `struct t2p_handle`.
    RawHandle {
        head: RawHead, handle: u64, generation: u64, time: u64,
        read_end: u64, write_end: u64, other: u64, other_generation: u64,
        call_seq: u32, fact: u8, direction: u8, text_len: u16, text: [u8; 256],
    }
);
raw!(
    /// `struct t2p_socket`.
    RawSocket {
        head: RawHead, time: u64, socket: u64, socket_generation: u64,
        error: u32, before: u8, after: u8, flags: u8, reserved: u8,
    }
);
raw!(
    /// `struct t2p_process`.
    RawProcess {
        head: RawHead, time: u64, start_time: u64, cgroup: u64,
        uid: u32, gid: u32, parent: u32, netns: u32,
        exe_len: u16, args_len: u16, exe_whole: u32,
        comm: [u8; 16], exe: [u8; 768], args: [u8; 1024],
    }
);
raw!(
    /// `struct t2p_exit`.
    RawExit { head: RawHead, time: u64 }
);
raw!(
    /// `struct t2p_file`.
    RawFile { head: RawHead, time: u64, inode: u64, device: u32, stopped: u32 }
);
raw!(
    /// `struct t2p_no_socket`.
    RawNoSocket { head: RawHead, time: u64, stopped: u32, other_stack: u32 }
);

impl RawData {
    /// The fixed part of a data record, if `record` is one.
    pub fn of(record: &[u8]) -> Option<RawData> {
        let kind = record.first_chunk().map(|kind| u16::from_ne_bytes(*kind))?;
        if kind == Type::Data as u16 {
            RawData::read_from_prefix(record).ok().map(|(data, _)| data)
        } else {
            None
        }
    }

    /// The record, without payload.
    pub fn as_record(&self) -> &[u8] {
        self.as_bytes()
    }

    /// How much of the record is in use: before exact-size records the rest is unused.
    pub fn record_len(&self) -> usize {
        size_of::<RawData>().saturating_add(self.captured as usize)
    }

    /// The same record without its payload, which is dropped because the writer is behind. What was missing
    /// before stays missing for its own reason: that part is a separate record.
    pub fn shed(mut self) -> (RawData, Option<RawData>) {
        let captured = u64::from(std::mem::take(&mut self.captured));
        if captured == 0 {
            return (self, None);
        }
        let before =
            (self.missing != numbers::Missing::None as u8 && captured < self.chunk_len).then(|| RawData {
                chunk_offset: self.chunk_offset.saturating_add(captured),
                chunk_len: self.chunk_len - captured,
                ..self
            });
        (RawData { chunk_len: captured, missing: numbers::Missing::WriterBehind as u8, ..self }, before)
    }
}

impl RawHead {
    fn process(&self) -> ProcessKey {
        ProcessKey { pid: self.tgid, generation: self.process }
    }
    fn task(&self) -> Task {
        Task { process: self.process(), tid: self.tid }
    }
}

/// Decodes one record. Payload is a slice of `record`, not a copy.
///
/// # Errors
/// [`RecordError`] for whatever neither the kernel side nor [`encode`] writes.
pub fn decode(record: &Bytes) -> Result<Event, RecordError> {
    decode_within(record, 0..record.len())
}

/// Decodes the record at offset `at` of `records`. Payload is a slice of `records`.
///
/// # Errors
/// As [`decode`].
pub fn decode_within(records: &Bytes, at: Range<usize>) -> Result<Event, RecordError> {
    let begin = at.start;
    let record = records.get(at).unwrap_or_default();
    let head: RawHead = fixed(record, 0)?;
    let kind = head.kind;
    let bad = |field| RecordError::Field { kind, field };
    let mut fields = Fields { kind, rest: &record[size_of::<RawHead>()..], have: record.len() };
    let handle_of = |address, generation| HandleKey { process: head.process(), address, generation };
    Ok(match Type::of(kind).ok_or(RecordError::UnknownType(kind))? {
        Type::Data => {
            let raw: RawData = fixed(record, kind)?;
            let captured = raw.captured as usize;
            let from = size_of::<RawData>();
            if captured > CHUNK_MAX || captured as u64 > raw.chunk_len {
                return Err(bad("captured"));
            }
            if raw.chunk_offset.checked_add(raw.chunk_len).is_none_or(|end| end > raw.call_len) {
                return Err(bad("chunk_len"));
            }
            if raw.call_offset.checked_add(raw.call_len).is_none_or(|end| end > i64::MAX as u64) {
                return Err(bad("call_len"));
            }
            if record.len() < from + captured {
                return Err(RecordError::Short { kind, have: record.len() });
            }
            let missing = match numbers::Missing::of(raw.missing).ok_or(bad("missing"))? {
                numbers::Missing::None => None,
                numbers::Missing::Unreadable => Some(Missing::Unreadable),
                numbers::Missing::Limit => Some(Missing::Limit),
                numbers::Missing::Sendfile => Some(Missing::Sendfile),
                numbers::Missing::Snaplen => Some(Missing::Snaplen),
                numbers::Missing::WriterBehind => Some(Missing::WriterBehind),
            };
            if missing.is_none() && (captured as u64) < raw.chunk_len {
                return Err(bad("missing"));
            }
            Event::Data(Data {
                task: head.task(),
                handle: handle_of(raw.handle, raw.generation),
                library: head.library,
                direction: direction(raw.direction).ok_or(bad("direction"))?,
                entered: raw.entered,
                returned: raw.returned,
                call_seq: raw.call_seq,
                call_offset: raw.call_offset,
                call_len: raw.call_len,
                chunk_offset: raw.chunk_offset,
                chunk_len: raw.chunk_len,
                payload: records.slice(begin + from..begin + from + captured),
                missing,
                awaits_write: raw.awaits_write.checked_sub(1),
                tuple_source: tuple_source(raw.tuple_source).ok_or(bad("tuple_source"))?,
            })
        }
        Type::Bind => {
            let raw: RawBind = fixed(record, kind)?;
            let family = numbers::Family::of(raw.family).ok_or(bad("family"))?;
            let address = |bytes: [u8; 16], port| match family {
                numbers::Family::Ipv4 => {
                    SocketAddr::new(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(), port)
                }
                numbers::Family::Ipv6 => SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes)), port),
            };
            Event::Bind(Bind {
                task: head.task(),
                handle: handle_of(raw.handle, raw.generation),
                time: raw.time,
                socket: SocketKey { address: raw.socket, generation: raw.socket_generation },
                inode: raw.inode,
                cookie: (raw.cookie != 0).then_some(raw.cookie),
                netns: raw.netns,
                fd: u32::try_from(raw.fd).ok(),
                local: address(raw.local, raw.local_port),
                remote: address(raw.remote, raw.remote_port),
                isn: (raw.local_isn, raw.remote_isn),
                role: match numbers::Role::of(raw.role).ok_or(bad("role"))? {
                    numbers::Role::Unknown => None,
                    numbers::Role::Client => Some(Role::Client),
                    numbers::Role::Server => Some(Role::Server),
                },
                source: tuple_source(raw.tuple_source).ok_or(bad("tuple_source"))?,
                fresh: raw.fresh != 0,
                rtt: (raw.rtt != 0).then_some(Rtt { smoothed: raw.rtt, least: raw.rtt_min }),
            })
        }
        Type::Handle => {
            let raw: RawHandle = fixed(record, kind)?;
            let text = || text(raw.text.get(..usize::from(raw.text_len)).unwrap_or(&raw.text));
            let fact = match numbers::Fact::of(raw.fact).ok_or(bad("fact"))? {
                numbers::Fact::Client => Fact::TlsRole(Role::Client),
                numbers::Fact::Server => Fact::TlsRole(Role::Server),
                numbers::Fact::ServerName => Fact::ServerName(text()),
                numbers::Fact::Alpn => Fact::Alpn(text()),
                numbers::Fact::Shutdown => Fact::Shutdown,
                numbers::Fact::Free => Fact::Free,
                numbers::Fact::Layer => Fact::Layer(handle_of(raw.other, raw.other_generation)),
                numbers::Fact::ReadUnseen => Fact::ReadUnseen,
                numbers::Fact::CallLost => {
                    Fact::CallLost(direction(raw.direction).ok_or(bad("direction"))?, why_lost(raw.call_seq))
                }
                numbers::Fact::WriteEmpty => Fact::WriteEmpty(raw.call_seq),
            };
            Event::Handle(HandleFact {
                task: head.task(),
                handle: handle_of(raw.handle, raw.generation),
                time: raw.time,
                ends: Ends { read: raw.read_end, write: raw.write_end },
                fact,
            })
        }
        Type::Socket => {
            let raw: RawSocket = fixed(record, kind)?;
            let socket = SocketKey { address: raw.socket, generation: raw.socket_generation };
            let state = |number, field| State::of(number).ok_or(bad(field));
            let states = (state(raw.before, "before")?, state(raw.after, "after")?);
            Event::SocketEnd(SocketEnd::new(socket, raw.time, states, raw.error, raw.flags))
        }
        Type::Process => {
            let raw: RawProcess = fixed(record, kind)?;
            let args = raw.args.get(..usize::from(raw.args_len)).unwrap_or(&raw.args);
            Event::Process(ProcessSeen {
                key: head.process(),
                time: raw.time,
                start_time: raw.start_time,
                cgroup: raw.cgroup,
                uid: raw.uid,
                gid: raw.gid,
                parent: raw.parent,
                netns: raw.netns,
                comm: text(until_nul(&raw.comm)),
                exe: path(raw.exe.get(..usize::from(raw.exe_len)).unwrap_or(&raw.exe), raw.exe_whole != 0),
                args: split_args(args),
            })
        }
        Type::Exit => {
            let raw: RawExit = fixed(record, kind)?;
            Event::Exit(head.process(), raw.time)
        }
        Type::File => {
            let raw: RawFile = fixed(record, kind)?;
            Event::File(FileSeen {
                pid: head.tgid,
                tid: head.tid,
                time: raw.time,
                device: raw.device,
                inode: raw.inode,
                stopped: raw.stopped != 0,
            })
        }
        Type::NoSocket => {
            let raw: RawNoSocket = fixed(record, kind)?;
            Event::NoSocket(NoSocket {
                process: head.process(),
                library: head.library,
                tid: head.tid,
                time: raw.time,
                stopped: raw.stopped != 0,
                other_stack: raw.other_stack != 0,
            })
        }
        Type::Start => Event::Start(Start {
            application: fields.text()?,
            os: fields.text()?,
            hardware: fields.text()?,
            command_line: fields.text()?,
            backend: fields.text()?,
            show_args: fields.number()? != 0,
            time: fields.number()?,
            sort_time: fields.number()?,
        }),
        Type::Clock => Event::Clock(Clock { monotonic: fields.number()?, realtime: fields.number()? }),
        Type::ProcessFacts => Event::ProcessFacts(
            head.process(),
            ProcessFacts { exe: fields.option()?, args: fields.list()?, container: fields.option()? },
        ),
        Type::Library => {
            Event::Library(Library { id: head.library, path: fields.text()?, version: fields.text()? })
        }
        Type::Verdict => {
            let number = fields.number()?;
            let known = VERDICTS.into_iter().find(|verdict| *verdict as u64 == number);
            Event::Verdict(head.library, known.ok_or(RecordError::Field { kind, field: "verdict" })?)
        }
        Type::Counters => {
            let n = fields.count()?;
            Event::Counters(Counters((0..n).map(|_| fields.number()).collect::<Result<_, _>>()?))
        }
        Type::Final => Event::Final(
            handle_of(fields.number()?, fields.number()?),
            Ends { read: fields.number()?, write: fields.number()? },
        ),
        Type::Losses => {
            let n = fields.count()?;
            Event::Losses((0..n).map(|_| fields.loss()).collect::<Result<_, _>>()?)
        }
        Type::Stop => Event::Stop(fields.number()?),
    })
}

const VERDICTS: [Verdict; 3] = [Verdict::Pending, Verdict::Proven, Verdict::Wrong];

fn head(kind: Type, process: ProcessKey, library: LibraryId) -> RawHead {
    let kind = kind as u16;
    RawHead { kind, reserved: 0, tgid: process.pid, tid: 0, library, process: process.generation }
}

/// Encodes an event that user space makes.
///
/// # Panics
/// Never for the events that user space makes; the others arrive encoded from the kernel, and this returns
/// `None` for them.
pub fn encode(event: &Event) -> Option<Bytes> {
    let mut out = Writer(Vec::new());
    let none = ProcessKey { pid: 0, generation: 0 };
    match event {
        Event::Start(start) => {
            out.head(Type::Start, none, 0);
            for s in [&start.application, &start.os, &start.hardware, &start.command_line, &start.backend] {
                out.text(s);
            }
            out.number(u64::from(start.show_args));
            out.number(start.time);
            out.number(start.sort_time);
        }
        Event::Clock(clock) => {
            out.head(Type::Clock, none, 0);
            out.number(clock.monotonic);
            out.number(clock.realtime);
        }
        Event::ProcessFacts(key, facts) => {
            out.head(Type::ProcessFacts, *key, 0);
            out.option(facts.exe.as_deref());
            out.number(facts.args.len() as u64);
            facts.args.iter().for_each(|arg| out.text(arg));
            out.option(facts.container.as_deref());
        }
        Event::Library(library) => {
            out.head(Type::Library, none, library.id);
            out.text(&library.path);
            out.text(&library.version);
        }
        Event::Verdict(library, verdict) => {
            out.head(Type::Verdict, none, *library);
            out.number(*verdict as u64);
        }
        Event::Counters(counters) => {
            out.head(Type::Counters, none, 0);
            out.number(counters.0.len() as u64);
            counters.0.iter().for_each(|n| out.number(*n));
        }
        // Of a call that had not returned when the capture ended.
        Event::Handle(fact) if fact.fact == Fact::CallLost(Direction::Write, Missing::Unfinished) => {
            let raw = RawHandle {
                head: head(Type::Handle, fact.handle.process, 0),
                handle: fact.handle.address,
                generation: fact.handle.generation,
                time: fact.time,
                read_end: fact.ends.read,
                write_end: fact.ends.write,
                call_seq: Counter::Unfinished as u32,
                fact: numbers::Fact::CallLost as u8,
                direction: numbers::Direction::Write as u8,
                ..FromZeros::new_zeroed()
            };
            out.0.extend_from_slice(raw.as_bytes());
        }
        Event::Final(handle, ends) => {
            out.head(Type::Final, handle.process, 0);
            for n in [handle.address, handle.generation, ends.read, ends.write] {
                out.number(n);
            }
        }
        Event::Losses(losses) => {
            out.head(Type::Losses, none, 0);
            out.number(losses.len() as u64);
            for loss in losses {
                let (pid, reason) = (loss.process.pid.into(), loss.reason.into());
                for n in [pid, loss.process.generation, reason, loss.events, loss.bytes] {
                    out.number(n);
                }
            }
        }
        Event::Stop(time) => {
            out.head(Type::Stop, none, 0);
            out.number(*time);
        }
        _ => return None,
    }
    Some(Bytes::from(out.0))
}

fn fixed<T: FromBytes>(record: &[u8], kind: u16) -> Result<T, RecordError> {
    T::read_from_prefix(record).map(|(t, _)| t).map_err(|_| RecordError::Short { kind, have: record.len() })
}

/// Why a call was lost; 0 in older recordings.
fn why_lost(counter: u32) -> Missing {
    match counter {
        n if n == Counter::Depth as u32 => Missing::Depth,
        n if n == Counter::ThreadsFull as u32 => Missing::ThreadsFull,
        n if n == Counter::OtherStack as u32 => Missing::OtherStack,
        _ => Missing::Unfinished,
    }
}

fn direction(raw: u8) -> Option<Direction> {
    Some(match numbers::Direction::of(raw)? {
        numbers::Direction::Read => Direction::Read,
        numbers::Direction::Write => Direction::Write,
    })
}

fn tuple_source(raw: u8) -> Option<TupleSource> {
    Some(match numbers::TupleSource::of(raw)? {
        numbers::TupleSource::None => TupleSource::None,
        numbers::TupleSource::SameCall => TupleSource::SameCall,
        numbers::TupleSource::Remembered => TupleSource::Remembered,
        numbers::TupleSource::Layer => TupleSource::Layer,
        numbers::TupleSource::Ciphertext => TupleSource::Ciphertext,
        numbers::TupleSource::Descriptor => TupleSource::Descriptor,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The path whose names are `names`, the last one first, each with its NUL. Not `whole`: it has more names
/// before these, and no leading slash.
fn path(names: &[u8], whole: bool) -> String {
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    if names.is_empty() {
        return String::new();
    }
    let mut names: Vec<&[u8]> = names.split(|b| *b == 0).collect();
    names.reverse();
    let path = text(&names.join(&b'/'));
    if whole { format!("/{path}") } else { path }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn split_args(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() { Vec::new() } else { bytes.split(|b| *b == 0).map(text).collect() }
}

/// Reads the fields of user space's records: numbers are 8 bytes, text is a number and the bytes.
struct Fields<'a> {
    kind: u16,
    rest: &'a [u8],
    have: usize,
}

impl Fields<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], RecordError> {
        let short = RecordError::Short { kind: self.kind, have: self.have };
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }
    fn number(&mut self) -> Result<u64, RecordError> {
        self.take(8).map(|b| u64::from_ne_bytes(b.try_into().unwrap_or_default()))
    }
    /// A number of things that each take 8 bytes at least.
    fn count(&mut self) -> Result<usize, RecordError> {
        let n = self.number()?;
        usize::try_from(n)
            .ok()
            .filter(|n| *n <= self.rest.len() / 8)
            .ok_or(RecordError::Field { kind: self.kind, field: "count" })
    }
    fn narrow(&mut self) -> Result<u32, RecordError> {
        let bad = RecordError::Field { kind: self.kind, field: "number" };
        u32::try_from(self.number()?).map_err(|_| bad)
    }
    fn loss(&mut self) -> Result<ProcessLoss, RecordError> {
        Ok(ProcessLoss {
            process: ProcessKey { pid: self.narrow()?, generation: self.number()? },
            reason: self.narrow()?,
            events: self.number()?,
            bytes: self.number()?,
        })
    }
    fn text(&mut self) -> Result<String, RecordError> {
        let n = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        self.take(n).map(text)
    }
    fn option(&mut self) -> Result<Option<String>, RecordError> {
        Ok(if self.number()? == 0 { None } else { Some(self.text()?) })
    }
    fn list(&mut self) -> Result<Vec<String>, RecordError> {
        let n = self.count()?;
        (0..n).map(|_| self.text()).collect()
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn head(&mut self, kind: Type, process: ProcessKey, library: LibraryId) {
        self.0.extend_from_slice(head(kind, process, library).as_bytes());
    }
    fn number(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_ne_bytes());
    }
    fn text(&mut self, s: &str) {
        self.number(s.len() as u64);
        self.0.extend_from_slice(s.as_bytes());
    }
    fn option(&mut self, s: Option<&str>) {
        self.number(u64::from(s.is_some()));
        if let Some(s) = s {
            self.text(s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_from_their_last_name_on() {
        assert_eq!(path(b"curl\0bin\0usr\0", true), "/usr/bin/curl");
        assert_eq!(path(b"curl\0bin\0", false), "bin/curl");
        assert_eq!(path(b"memfd:x\0", true), "/memfd:x");
        assert_eq!(path(b"", true), "");
        assert_eq!(path(b"\0\0\0", true), "///", "not a path, and no reason to fall over");
        assert_eq!(path(b"\xff", true), "/\u{fffd}");
    }

    fn samples() -> Vec<Event> {
        let key = ProcessKey { pid: 7, generation: 9 };
        vec![
            Event::Start(Start {
                application: "a".into(),
                os: "L".into(),
                time: 3,
                sort_time: 4,
                ..Start::default()
            }),
            Event::Clock(Clock { monotonic: 1, realtime: 2 }),
            Event::ProcessFacts(
                key,
                ProcessFacts {
                    exe: Some("/bin/é".into()),
                    args: vec!["x".into(), "".into()],
                    container: None,
                },
            ),
            Event::Library(Library { id: 4, path: "/l".into(), version: "OpenSSL 3".into() }),
            Event::Verdict(4, Verdict::Pending),
            Event::Verdict(4, Verdict::Proven),
            Event::Verdict(4, Verdict::Wrong),
            Event::Counters(Counters(vec![1, 2, 3])),
            Event::Losses(vec![ProcessLoss { process: key, reason: 2, events: 3, bytes: 4 }]),
            Event::Final(HandleKey { process: key, address: 1, generation: 2 }, Ends { read: 5, write: 6 }),
            Event::Handle(HandleFact {
                task: Task { process: key, tid: 0 },
                handle: HandleKey { process: key, address: 1, generation: 2 },
                time: 3,
                ends: Ends { read: 5, write: 6 },
                fact: Fact::CallLost(Direction::Write, Missing::Unfinished),
            }),
            Event::Stop(8),
        ]
    }

    #[test]
    fn what_user_space_encodes_decodes_to_the_same() {
        for event in samples() {
            let record = encode(&event).unwrap();
            assert_eq!(decode(&record), Ok(event));
        }
    }

    #[test]
    fn every_record_cut_anywhere_is_refused_and_never_panics() {
        let data = RawData {
            head: RawHead { kind: Type::Data as u16, reserved: 0, tgid: 1, tid: 1, library: 0, process: 1 },
            handle: 1,
            generation: 1,
            entered: 1,
            returned: 2,
            call_offset: 0,
            call_len: 5,
            chunk_offset: 0,
            chunk_len: 5,
            captured: 5,
            call_seq: 0,
            awaits_write: 0,
            direction: 0,
            function: 1,
            missing: 0,
            tuple_source: 0,
        };
        let mut bytes = data.as_bytes().to_vec();
        bytes.extend_from_slice(b"hello");
        let mut records: Vec<Bytes> = samples().iter().map(|e| encode(e).unwrap()).collect();
        records.push(bytes.into());
        for record in records {
            decode(&record).unwrap();
            for end in 0..record.len() {
                assert!(decode(&record.slice(..end)).is_err(), "cut at {end} of {record:?}");
            }
        }
    }

    #[test]
    fn what_is_shed_keeps_its_length_and_what_was_missing_its_reason() {
        let head = RawHead { kind: Type::Data as u16, reserved: 0, tgid: 1, tid: 1, library: 0, process: 1 };
        let whole =
            RawData { head, call_len: 9, chunk_len: 9, captured: 9, ..zerocopy::FromZeros::new_zeroed() };
        let parts = |raw: RawData| {
            let (first, second) = raw.shed();
            [Some(first), second]
                .into_iter()
                .flatten()
                .map(|raw| {
                    let Ok(Event::Data(data)) = decode(&Bytes::copy_from_slice(raw.as_bytes())) else {
                        panic!()
                    };
                    assert!(data.payload.is_empty());
                    (data.chunk_offset, data.chunk_len, data.missing)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(whole), [(0, 9, Some(Missing::WriterBehind))]);
        let cut = RawData { captured: 4, missing: 4, ..whole };
        assert_eq!(parts(cut), [(0, 4, Some(Missing::WriterBehind)), (4, 5, Some(Missing::Snaplen))]);
        let unreadable = RawData { captured: 0, missing: 1, ..whole };
        assert_eq!(parts(unreadable), [(0, 9, Some(Missing::Unreadable))]);
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let good = RawData {
            head: RawHead { kind: Type::Data as u16, reserved: 0, tgid: 1, tid: 1, library: 0, process: 1 },
            handle: 1,
            generation: 1,
            entered: 1,
            returned: 2,
            call_offset: 0,
            call_len: 5,
            chunk_offset: 0,
            chunk_len: 5,
            captured: 0,
            call_seq: 0,
            awaits_write: 0,
            direction: 0,
            function: 1,
            missing: 1,
            tuple_source: 0,
        };
        let refused = |raw: RawData| decode(&Bytes::copy_from_slice(raw.as_bytes())).is_err();
        assert!(!refused(good));
        assert!(refused(RawData { captured: 6, ..good }));
        assert!(refused(RawData { chunk_offset: 1, ..good }));
        assert!(refused(RawData { chunk_offset: u64::MAX, ..good }));
        assert!(refused(RawData { call_offset: u64::MAX, ..good }));
        assert!(refused(RawData { missing: 0, ..good }));
        assert!(refused(RawData { missing: 9, ..good }));
        assert!(refused(RawData { direction: 2, ..good }));
    }
}
