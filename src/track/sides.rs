//! Handles that stand for one direction of a connection, as far as one key goes (rustls), joined to
//! connections by their sockets. What follows hears of one handle for each connection.
//!
//! A side tells its socket by its ciphertext, which for what is sent is a moment later. Until then its data
//! waits. A key that follows another goes on where that has ended.

use std::collections::{HashMap, VecDeque};

use super::Limits;
use super::both::Both;
use crate::event::*;

/// Set in the address of such a handle; see `T2P_HANDLE_SIDE` in `bpf/tls2pcap.h`.
const SIDE: u64 = 1 << 63;
/// The direction that it stands for.
const WRITES: u64 = 1 << 62;
/// Connections whose socket is closed and whose sides may still tell something.
const CLOSED_MAX: usize = 1024;
/// Sides that are followed.
const SIDES_MAX: usize = 65_536;

/// The same handle as what follows is to know it.
fn plain(key: HandleKey) -> HandleKey {
    HandleKey { address: key.address & !(SIDE | WRITES), ..key }
}

fn direction(key: HandleKey) -> Direction {
    if key.address & WRITES == 0 { Direction::Read } else { Direction::Write }
}

fn of(ends: Ends, direction: Direction) -> u64 {
    match direction {
        Direction::Read => ends.read,
        Direction::Write => ends.write,
    }
}

fn is_free(event: &Event) -> bool {
    matches!(event, Event::Handle(HandleFact { fact: Fact::Free, .. }))
}

/// How far one direction of a connection has come.
#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    bytes: u64,
    calls: u32,
}

#[derive(Debug)]
struct Side {
    /// Its connection's socket; `None`: not known yet, or never.
    socket: Option<SocketKey>,
    /// What came before it in its direction.
    base: Reach,
    /// What it has told and nobody has heard.
    waiting: Vec<Event>,
    bytes: usize,
    since: Monotonic,
    /// It goes on by itself, since nothing tells its socket.
    alone: bool,
}

#[derive(Debug)]
struct Joined {
    /// The first side, whose name the connection has.
    handle: HandleKey,
    source: TupleSource,
    reach: Both<Reach>,
    sides: Vec<HandleKey>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sides {
    sides: HashMap<HandleKey, Side>,
    joined: HashMap<SocketKey, Joined>,
    closed: VecDeque<SocketKey>,
    /// Sides that wait, in the order in which they began to.
    waiting: VecDeque<HandleKey>,
    held: usize,
}

/// Whom an event is about, if that is a side.
fn side_of(event: &Event) -> Option<HandleKey> {
    let key = match event {
        Event::Data(data) => data.handle,
        Event::Bind(bind) => bind.handle,
        Event::Handle(fact) => fact.handle,
        Event::Final(key, _) => *key,
        _ => return None,
    };
    (key.address & SIDE != 0).then_some(key)
}

impl Sides {
    /// Whether all is to be heard as it is.
    pub fn is_idle(&self, event: &Event) -> bool {
        self.sides.is_empty() && side_of(event).is_none()
    }

    /// Gives what is to be heard of an event, in order.
    pub fn take(&mut self, event: Event, now: Monotonic, limits: &Limits, out: &mut Vec<Event>) {
        while let Some(key) = self.waiting.front().copied() {
            let side = self.sides.get(&key).filter(|side| !side.waiting.is_empty());
            if side.is_some_and(|side| {
                now.saturating_sub(side.since) < limits.socket_time && !matches!(event, Event::Stop(_))
            }) {
                break;
            }
            self.waiting.pop_front();
            self.leave_alone(key, out);
        }
        let Some(key) = side_of(&event) else {
            match event {
                Event::SocketClosed(closed) => self.close(closed.socket),
                Event::Exit(process, _) => self.exit(process, out),
                _ => {}
            }
            out.push(event);
            return;
        };
        if !self.sides.contains_key(&key) {
            if self.sides.len() >= SIDES_MAX {
                // It is heard of by its own name.
                out.push(event);
                return;
            }
            let side = Side {
                socket: None,
                base: Reach::default(),
                waiting: Vec::new(),
                bytes: 0,
                since: now,
                alone: false,
            };
            self.sides.insert(key, side);
        }
        if let Event::Bind(bind) = event {
            self.bind(key, bind, out);
            return;
        }
        let Some(side) = self.sides.get_mut(&key) else { return };
        if side.socket.is_some() || side.alone {
            self.tell(key, event, out);
            return;
        }
        if side.waiting.is_empty() && is_free(&event) {
            self.sides.remove(&key);
            return;
        }
        let bytes = if let Event::Data(data) = &event { data.payload.len() } else { 0 };
        if side.waiting.is_empty() {
            side.since = now;
            self.waiting.push_back(key);
        }
        side.waiting.push(event);
        side.bytes += bytes;
        self.held += bytes;
        if side.bytes > limits.opening_bytes || self.held > limits.opening_total {
            self.leave_alone(key, out);
        }
    }

    /// The side's socket is known.
    fn bind(&mut self, key: HandleKey, bind: Bind, out: &mut Vec<Event>) {
        let direction = direction(key);
        let Some(side) = self.sides.get_mut(&key) else { return };
        if side.alone {
            out.push(Event::Bind(Bind { handle: plain(key), ..bind }));
            return;
        }
        if side.socket.is_some() {
            return;
        }
        let socket = bind.socket;
        side.socket = Some(socket);
        let joined = self.joined.entry(socket).or_insert_with(|| {
            out.push(Event::Bind(Bind { handle: plain(key), ..bind.clone() }));
            Joined {
                handle: plain(key),
                source: bind.source,
                reach: Both::default(),
                sides: Vec::new(),
            }
        });
        side.base = joined.reach[direction];
        joined.sides.push(key);
        self.held -= std::mem::take(&mut side.bytes);
        for event in std::mem::take(&mut side.waiting) {
            self.tell(key, event, out);
        }
    }

    /// What a side tells, as told of its connection.
    fn tell(&mut self, key: HandleKey, event: Event, out: &mut Vec<Event>) {
        let direction = direction(key);
        let Some(side) = self.sides.get_mut(&key) else { return };
        let base = side.base;
        let Some(joined) = side.socket.and_then(|socket| self.joined.get_mut(&socket)) else {
            if is_free(&event) {
                self.sides.remove(&key);
            }
            out.push(renamed(event, plain(key)));
            return;
        };
        let reach = &mut joined.reach[direction];
        let mut moved_to = |bytes: u64| reach.bytes = reach.bytes.max(base.bytes.saturating_add(bytes));
        match &event {
            Event::Data(data) => {
                moved_to(data.call_offset.saturating_add(data.call_len));
                reach.calls = base.calls.wrapping_add(data.call_seq).wrapping_add(1);
            }
            Event::Handle(fact) => moved_to(of(fact.ends, direction)),
            Event::Final(_, ends) => moved_to(of(*ends, direction)),
            _ => {}
        }
        let ends = Ends { read: joined.reach.read.bytes, write: joined.reach.write.bytes };
        let handle = joined.handle;
        match event {
            Event::Data(data) => out.push(Event::Data(Data {
                handle,
                call_offset: base.bytes.saturating_add(data.call_offset),
                call_seq: base.calls.wrapping_add(data.call_seq),
                tuple_source: joined.source,
                ..data
            })),
            // Its key is no more. What was lost of it last shows now; the connection goes on.
            Event::Handle(HandleFact { fact: Fact::Free, .. }) => {
                joined.sides.retain(|side| *side != key);
                self.sides.remove(&key);
                out.push(Event::Final(handle, ends));
            }
            Event::Handle(fact) => out.push(Event::Handle(HandleFact { handle, ends, ..fact })),
            Event::Final(..) => out.push(Event::Final(handle, ends)),
            other => out.push(other),
        }
    }

    /// Nothing tells the side's socket in time: it is a connection by itself.
    fn leave_alone(&mut self, key: HandleKey, out: &mut Vec<Event>) {
        let Some(side) = self.sides.get_mut(&key) else { return };
        if side.socket.is_some() || side.waiting.is_empty() {
            return;
        }
        self.held -= std::mem::take(&mut side.bytes);
        let waiting = std::mem::take(&mut side.waiting);
        // Records of the handshake and their like are nothing to show.
        side.alone = waiting.iter().any(|event| matches!(event, Event::Data(_)));
        let (alone, gone) = (side.alone, waiting.iter().any(is_free));
        if gone {
            self.sides.remove(&key);
        }
        if alone {
            out.extend(waiting.into_iter().map(|event| renamed(event, plain(key))));
        }
    }

    fn close(&mut self, socket: SocketKey) {
        if !self.joined.contains_key(&socket) {
            return;
        }
        self.closed.push_back(socket);
        if self.closed.len() > CLOSED_MAX
            && let Some(oldest) = self.closed.pop_front()
            && let Some(joined) = self.joined.remove(&oldest)
        {
            joined.sides.iter().for_each(|key| drop(self.sides.remove(key)));
        }
    }

    fn exit(&mut self, process: ProcessKey, out: &mut Vec<Event>) {
        if self.sides.is_empty() {
            return;
        }
        let mut of_process: Vec<HandleKey> =
            self.sides.keys().filter(|key| key.process == process).copied().collect();
        of_process.sort_unstable();
        for key in of_process {
            self.leave_alone(key, out);
            if let Some(side) = self.sides.remove(&key) {
                self.held -= side.bytes;
                if let Some(socket) = side.socket {
                    self.joined.remove(&socket);
                }
            }
        }
    }
}

fn renamed(event: Event, handle: HandleKey) -> Event {
    match event {
        Event::Data(data) => Event::Data(Data { handle, ..data }),
        Event::Bind(bind) => Event::Bind(Bind { handle, ..bind }),
        Event::Handle(fact) => Event::Handle(HandleFact { handle, ..fact }),
        Event::Final(_, ends) => Event::Final(handle, ends),
        other => other,
    }
}
