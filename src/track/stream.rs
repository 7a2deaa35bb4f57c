//! The segments of one connection, before and after it opens.

use std::sync::Arc;

use bytes::Bytes;

use super::both::Both;
use super::clock::WallClock;
use super::segment::{Body, Connection, ConnectionId, Payload, Process, Segment, Side, WallTime};
use super::summary::Traffic;
use crate::event::{Direction, LibraryId, Missing, Monotonic, ProcessKey, TupleSource};

/// Where segments go.
pub(super) type Out<'a> = &'a mut dyn FnMut(Segment);

/// A step in a connection's life, while it may still be unknown which side is which: a direction
/// stands for who sends in it.
#[derive(Debug)]
pub(super) enum Item {
    Bytes { direction: Direction, tid: u32, offset: u64, bytes: Bytes, len: u64, missing: Option<Missing> },
    Skip { direction: Direction, reason: Missing },
    Peer(Arc<Process>),
    ServerName(String),
    Alpn(String),
    Finish(Direction),
    Reset(Direction),
    End,
}

/// What the first bytes of a connection told.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub tid: u32,
    pub library: LibraryId,
    pub tuple_source: TupleSource,
    /// They are the first of their direction.
    pub at_start: bool,
}

#[derive(Debug)]
enum State {
    /// What /proc tells of the process is awaited.
    Opening {
        items: Vec<(Monotonic, Item)>,
        bytes: usize,
    },
    Open {
        local: Side,
    },
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
    pub finished: Both<bool>,
    /// Who reset the connection.
    pub reset: Option<Direction>,
    pub traffic: Traffic,
    state: State,
    last: WallTime,
}

impl Stream {
    pub fn new(id: ConnectionId, first: First) -> Stream {
        Stream {
            id,
            first,
            peer: Peer::Unknown,
            finished: Both::default(),
            reset: None,
            traffic: Traffic::default(),
            state: State::Opening { items: Vec::new(), bytes: 0 },
            last: 0,
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether it is written, or will be.
    pub fn has_output(&self) -> bool {
        self.first_time().is_some() || self.is_open()
    }

    /// When the first thing happened that waits for the opening.
    pub fn first_time(&self) -> Option<Monotonic> {
        match &self.state {
            State::Opening { items, .. } => items.first().map(|(time, _)| *time),
            State::Open { .. } => None,
        }
    }

    /// Bytes that wait for the opening.
    pub fn waiting(&self) -> usize {
        match &self.state {
            State::Opening { bytes, .. } => *bytes,
            State::Open { .. } => 0,
        }
    }

    /// Number of steps that wait for the opening.
    pub fn items(&self) -> usize {
        match &self.state {
            State::Opening { items, .. } => items.len(),
            State::Open { .. } => 0,
        }
    }

    /// Takes the next step; gives the bytes that it makes wait.
    pub fn put(&mut self, clock: &WallClock, time: Monotonic, mut item: Item, out: Out) -> usize {
        match &item {
            Item::Bytes { direction, bytes, len, missing, .. } => {
                let sum = match direction {
                    Direction::Read => &mut self.traffic.read,
                    Direction::Write => &mut self.traffic.written,
                };
                *sum = sum.saturating_add(bytes.len() as u64);
                if let Some(reason) = missing {
                    self.traffic.missing.add(*reason, len - bytes.len() as u64);
                }
            }
            Item::Skip { reason, .. } => self.traffic.skips.add(*reason, 1),
            Item::Finish(direction) => self.finished[*direction] = true,
            _ => {}
        }
        match &mut self.state {
            State::Opening { items, bytes } => {
                let cost = item.cost();
                if let Item::Bytes { bytes, .. } = &mut item {
                    // A slice would keep all the records that came with it.
                    *bytes = Bytes::copy_from_slice(bytes);
                }
                *bytes += cost;
                items.push((time, item));
                cost
            }
            State::Open { local } => {
                let local = *local;
                self.write(clock, time, local, item, out);
                0
            }
        }
    }

    /// Opens: writes what has waited.
    pub fn open(&mut self, clock: &WallClock, connection: Connection, out: Out) {
        let local = connection.local_side;
        let State::Opening { items, .. } = std::mem::replace(&mut self.state, State::Open { local }) else {
            return;
        };
        self.traffic.connections = 1;
        let start = items.first().map_or(0, |(time, _)| clock.wall(*time));
        self.last = start;
        let connection = Connection { started: connection.started.min(start), ..connection };
        out(Segment { connection: self.id, time: start, body: Body::Open(Arc::new(connection)) });
        for (time, item) in items {
            self.write(clock, time, local, item, out);
        }
    }

    /// Times within a connection never go backwards: a record that was let go out of its place, or
    /// a wall clock that was set back, must not make an answer older than its request, for readers
    /// compute with the differences. Such a time is that of the segment before.
    fn write(&mut self, clock: &WallClock, time: Monotonic, local: Side, item: Item, out: Out) {
        let side = |direction| match direction {
            Direction::Write => local,
            Direction::Read => local.peer(),
        };
        self.last = self.last.max(clock.wall(time));
        let body = match item {
            Item::Bytes { direction, tid, offset, bytes, len, missing } => {
                Body::Payload(Payload { from: side(direction), tid, offset, bytes, len, missing })
            }
            Item::Skip { direction, reason } => Body::Skip { from: side(direction), reason },
            Item::Peer(process) => Body::Peer(process),
            Item::ServerName(name) => Body::ServerName(name),
            Item::Alpn(name) => Body::Alpn(name),
            Item::Finish(direction) => Body::Finish(side(direction)),
            Item::Reset(direction) => Body::Reset { from: side(direction) },
            Item::End => Body::End,
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
