//! The segments of one connection, before and after it opens.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::WallClock;
use super::per_direction::PerDirection;
use super::process::Processes;
use super::segment::{Connection, ConnectionId, Payload, Process, Segment, SegmentBody, Side, WallTime};
use super::summary::Traffic;
use crate::event::{Direction, LibraryId, Missing, Monotonic, ProcessKey, TupleSource};

/// Where segments go.
pub(super) type Out<'a> = &'a mut dyn FnMut(Segment);

/// What a stream needs to know to be written.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub clock: &'a WallClock,
    pub processes: &'a Processes,
}

/// A step in a connection's life, while it may be unknown which side is which: a direction represents the side
/// that sends in it.
#[derive(Debug)]
pub(super) enum Item {
    Bytes {
        direction: Direction,
        /// Whose call it was, if that is not the process of the connection itself.
        caller: Option<ProcessKey>,
        tid: u32,
        offset: u64,
        bytes: Bytes,
        len: u64,
        missing: Option<Missing>,
    },
    Skip {
        direction: Direction,
        reason: Missing,
    },
    Peer(Arc<Process>),
    ServerName(String),
    Alpn(String),
    Finish(Direction),
    Reset(Direction),
    End,
}

/// What the first bytes of a connection revealed.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub tid: u32,
    pub library: LibraryId,
    pub tuple_source: TupleSource,
    /// They are the first of their direction.
    pub at_start: bool,
}

impl First {
    /// The socket is known now.
    pub fn learns(&mut self, source: TupleSource) {
        self.tuple_source = match (self.tuple_source, source) {
            (TupleSource::None, TupleSource::SameCall) => TupleSource::LaterCall,
            (TupleSource::None, source) => source,
            (known, _) => known,
        };
    }
}

/// What is known of a connection once it is open.
#[derive(Debug)]
struct Open {
    local: Side,
    process: Arc<Process>,
}

/// The process at the other end, on the same host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Unknown,
    /// Known since then, and to be announced.
    Known(ProcessKey, Monotonic),
    Announced,
}

/// The written view of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub id: ConnectionId,
    pub first: First,
    pub peer: Peer,
    /// Who sends no more.
    pub finished: PerDirection<bool>,
    /// Who reset the connection.
    pub reset: Option<Direction>,
    /// Of the connection's own process.
    pub traffic: Traffic,
    /// Of other processes that use the same socket.
    pub callers: HashMap<ProcessKey, Traffic>,
    /// The process whose name is awaited, before its first bytes are written.
    pub awaits: Option<ProcessKey>,
    open: Option<Open>,
    /// What waits for the opening, or for a caller's name.
    items: Vec<(Monotonic, Item)>,
    waiting: usize,
    last: WallTime,
}

impl Stream {
    pub fn new(id: ConnectionId, first: First) -> Stream {
        Stream {
            id,
            first,
            peer: Peer::Unknown,
            finished: PerDirection::default(),
            reset: None,
            traffic: Traffic::default(),
            callers: HashMap::new(),
            awaits: None,
            open: None,
            items: Vec::new(),
            waiting: 0,
            last: 0,
        }
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether steps are written immediately.
    pub fn is_flowing(&self) -> bool {
        self.open.is_some() && self.awaits.is_none()
    }

    /// Whether it is written, or will be.
    pub fn has_output(&self) -> bool {
        self.open.is_some() || !self.items.is_empty()
    }

    /// When the first thing happened that waits for the opening.
    pub fn first_time(&self) -> Option<Monotonic> {
        self.items.first().filter(|_| self.open.is_none()).map(|(time, _)| *time)
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Number of steps that wait.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Everything that was moved, by all callers.
    pub fn all_traffic(&self) -> Traffic {
        let mut all = self.traffic;
        self.callers.values().for_each(|traffic| all.merge(traffic));
        all
    }

    fn traffic_of(&mut self, caller: Option<ProcessKey>) -> &mut Traffic {
        match caller {
            Some(key) => self.callers.entry(key).or_default(),
            None => &mut self.traffic,
        }
    }

    /// Takes the next step; gives the bytes that it makes wait.
    pub fn put(&mut self, about: About, time: Monotonic, mut item: Item, out: Out) -> usize {
        match &item {
            Item::Bytes { direction, caller, bytes, len, missing, .. } => {
                let traffic = self.traffic_of(*caller);
                let sum = match direction {
                    Direction::Read => &mut traffic.read,
                    Direction::Write => &mut traffic.written,
                };
                *sum = sum.saturating_add(bytes.len() as u64);
                if let Some(reason) = missing {
                    traffic.missing.add(*reason, len - bytes.len() as u64);
                }
            }
            Item::Skip { reason, .. } => self.traffic.skips.add(*reason, 1),
            Item::Finish(direction) => self.finished[*direction] = true,
            _ => {}
        }
        if self.is_flowing() {
            self.write(about, time, item, out);
            return 0;
        }
        let cost = item.cost();
        if let Item::Bytes { bytes, .. } = &mut item {
            // A slice would keep all the records of its batch in memory.
            *bytes = Bytes::copy_from_slice(bytes);
        }
        self.waiting += cost;
        self.items.push((time, item));
        cost
    }

    /// Takes back what waits for the opening.
    pub fn take_back(&mut self) -> Vec<(Monotonic, Item)> {
        self.waiting = 0;
        std::mem::take(&mut self.items)
    }

    /// Opens: writes what has waited.
    pub fn open(&mut self, about: About, connection: Connection, out: Out) {
        if self.open.is_some() {
            return;
        }
        self.open = Some(Open { local: connection.local_side, process: Arc::clone(&connection.process) });
        self.traffic.connections = 1;
        let start = self.items.first().map_or(0, |(time, _)| about.clock.wall(*time));
        self.last = start;
        let connection = Connection { started: connection.started.min(start), ..connection };
        out(Segment { connection: self.id, time: start, body: SegmentBody::Open(Arc::new(connection)) });
        self.flow(about, out);
    }

    /// Writes what has waited.
    pub fn flow(&mut self, about: About, out: Out) {
        self.awaits = None;
        for (time, item) in self.take_back() {
            self.write(about, time, item, out);
        }
    }

    /// Times within a connection never go backwards: a record that was released out of order, or a wall clock
    /// that was set back, must not make a response older than its request, because readers compute with the
    /// differences. Such a segment gets the time of the previous one.
    fn write(&mut self, about: About, time: Monotonic, item: Item, out: Out) {
        let Some(Open { local, process }) = &self.open else { return };
        let local = *local;
        let side = |direction| match direction {
            Direction::Write => local,
            Direction::Read => local.peer(),
        };
        self.last = self.last.max(about.clock.wall(time));
        let body = match item {
            Item::Bytes { direction, caller, tid, offset, bytes, len, missing } => {
                let process = caller.map_or_else(|| Arc::clone(process), |key| about.processes.get(key));
                SegmentBody::Payload(Payload {
                    from: side(direction),
                    process,
                    tid,
                    offset,
                    bytes,
                    len,
                    missing,
                    redacted: Vec::new(),
                })
            }
            Item::Skip { direction, reason } => SegmentBody::Skip { from: side(direction), reason },
            Item::Peer(process) => SegmentBody::Peer(process),
            Item::ServerName(name) => SegmentBody::ServerName(name),
            Item::Alpn(name) => SegmentBody::Alpn(name),
            Item::Finish(direction) => SegmentBody::Finish(side(direction)),
            Item::Reset(direction) => SegmentBody::Reset { from: side(direction) },
            Item::End => SegmentBody::End,
        };
        out(Segment { connection: self.id, time: self.last, body });
    }
}

impl Item {
    fn cost(&self) -> usize {
        let payload = if let Item::Bytes { bytes, .. } = self { bytes.len() } else { 0 };
        payload + size_of::<(Monotonic, Item)>()
    }
}
