//! Joins the handles of one socket: a socket is one TCP connection, whichever process calls.
//!
//! Several handles share a socket
//! - after a fork, if parent and child both use it, each with its copy of the handle or with one in shared
//!   memory;
//! - after a handle was freed and another one created, in the same process or in one that was passed the
//!   socket;
//! - in rustls, where a handle represents one direction for as long as one key is used (a *side*).
//!
//! The rest of `track` sees one handle for each connection: the first one seen with the socket. The calls of
//! the others continue where the direction ended; each keeps the process that made it. Such a connection ends
//! with its socket, not with a handle or a process: another process may still have it.
//!
//! Two live handles of one process are layers (TLS inside TLS), or something unknown: they stay separate.
//!
//! The socket of a side is known by its ciphertext, for sent data a moment after the call. Until then its data
//! waits. A key that follows another continues where that one ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use foldhash::HashMap;

use super::Limits;
use super::handle::{Handles, View};
use super::per_direction::PerDirection;
use super::stream::Stream;
use crate::event::*;

/// Set in the address of a side.
const SIDE: u64 = 1 << numbers::HANDLE_BIT_SIDE;
/// The direction that it represents.
const WRITES: u64 = 1 << numbers::HANDLE_BIT_WRITES;
/// Connections that are remembered although their socket is closed, because their handles may still report
/// something.
const CLOSED_MAX: usize = 1024;
/// Connections whose socket is open although no handle of it is known any more.
const ORPHANS_MAX: usize = 1024;
/// Handles that are followed.
const MEMBERS_MAX: usize = 65_536;
/// Connections that are distinguished on one socket.
const PER_SOCKET: usize = 16;

/// The same handle as what follows is to know it.
fn plain(key: HandleKey) -> HandleKey {
    HandleKey { address: key.address & !(SIDE | WRITES), ..key }
}

fn is_side(key: HandleKey) -> bool {
    key.address & SIDE != 0
}

/// The direction that a side represents.
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

/// `a <= b` for call numbers, which wrap.
fn not_after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

/// The offset of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub bytes: u64,
    /// Number of the next call.
    pub calls: u32,
}

/// The offset of a member by its own count, and what is added to that for its place in the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    own: Reach,
    base: Reach,
}

impl Progress {
    /// The connection has reached `reach`: the member's next call continues there. The offset that is added may
    /// be negative.
    fn rebase(&mut self, reach: Reach) {
        self.base.bytes = reach.bytes.wrapping_sub(self.own.bytes);
        self.base.calls = reach.calls.wrapping_sub(self.own.calls);
    }

    /// Moves the member and the connection on to `end`, by the member's count.
    fn ends_at(&mut self, end: u64, reach: &mut Reach) {
        if end > self.own.bytes {
            self.rebase(*reach);
            self.own.bytes = end;
            reach.bytes = reach.bytes.max(self.base.bytes.wrapping_add(end));
        }
    }

    /// Gives a call its place in the connection. `None` if that is before its beginning: a late record of what
    /// the member had reported separately.
    fn call(&mut self, data: &Data, reach: &mut Reach) -> Option<(u64, u32)> {
        // Not for the other parts of a call, or duplicates.
        if data.call_offset >= self.own.bytes && not_after(self.own.calls, data.call_seq) {
            self.rebase(*reach);
        }
        let offset = data.call_offset.checked_add_signed(self.base.bytes.cast_signed())?;
        let end = data.call_offset.saturating_add(data.call_len);
        self.own.bytes = self.own.bytes.max(end);
        let seq = self.base.calls.wrapping_add(data.call_seq);
        reach.bytes = reach.bytes.max(offset.saturating_add(data.call_len));
        if not_after(self.own.calls, data.call_seq) {
            self.own.calls = data.call_seq.wrapping_add(1);
            reach.calls = seq.wrapping_add(1);
        }
        Some((offset, seq))
    }

    /// The number in the connection of a call that may still arrive.
    fn seq(&self, seq: u32, reach: Reach) -> u32 {
        let base = if not_after(self.own.calls, seq) {
            reach.calls.wrapping_sub(self.own.calls)
        } else {
            self.base.calls
        };
        base.wrapping_add(seq)
    }
}

/// Events of a side that wait.
#[derive(Debug)]
struct Waiting {
    events: Vec<Event>,
    bytes: usize,
    since: Monotonic,
}

/// A handle.
#[derive(Debug, Default)]
struct Member {
    /// Its connection; `None`: still unknown, or never known.
    connection: Option<u64>,
    progress: PerDirection<Progress>,
    waiting: Option<Box<Waiting>>,
    /// A side that becomes a separate connection, because nothing reveals its socket.
    alone: bool,
    /// It has sent its close_notify: another session of TLS may follow it.
    shut: bool,
}

impl Member {
    /// Takes out what waits.
    fn take(&mut self) -> (Vec<Event>, usize) {
        self.waiting.take().map_or((Vec::new(), 0), |waiting| (waiting.events, waiting.bytes))
    }
}

#[derive(Debug)]
struct Joint {
    /// The first member, whose name the connection has.
    handle: HandleKey,
    socket: SocketKey,
    source: TupleSource,
    /// It has, or had, more than one member, or sides: then its members' calls get new places.
    shared: bool,
    reach: PerDirection<Reach>,
    members: BTreeSet<HandleKey>,
    closed: Option<Monotonic>,
}

/// Events for the rest of `track`.
#[derive(Debug)]
pub(super) enum Told {
    Event(Event),
    /// What was reported of a handle continues in the connection of another.
    Absorb {
        from: HandleKey,
        into: HandleKey,
    },
    /// This many bytes arrived too late to be placed.
    Late(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Joined {
    members: HashMap<HandleKey, Member>,
    by_process: BTreeSet<HandleKey>,
    connections: BTreeMap<u64, Joint>,
    made: u64,
    at_socket: HashMap<SocketKey, Vec<u64>>,
    /// By the handle that it is named after.
    named: HashMap<HandleKey, u64>,
    /// Connections that are shared.
    shared: usize,
    closed: VecDeque<u64>,
    orphans: VecDeque<u64>,
    /// Sides that wait, in the order in which they began to.
    waiting: VecDeque<HandleKey>,
    held: usize,
}

/// Whom an event is about.
fn subject(event: &Event) -> Option<HandleKey> {
    match event {
        Event::Data(data) => Some(data.handle),
        Event::Bind(bind) => Some(bind.handle),
        Event::Handle(fact) => Some(fact.handle),
        Event::Final(key, _) => Some(*key),
        _ => None,
    }
}

impl Joined {
    /// Whether every event passes unchanged.
    pub fn is_idle(&self, event: &Event) -> bool {
        match event {
            Event::Data(data) => self.shared == 0 && !is_side(data.handle),
            Event::Bind(_) => false,
            _ => {
                self.members.is_empty() && self.connections.is_empty() && !subject(event).is_some_and(is_side)
            }
        }
    }

    /// Whether the handle's connection ends with its socket.
    pub fn is_kept(&self, key: &HandleKey) -> bool {
        self.named.contains_key(key)
    }

    /// Returns the events to pass on for an event, in order.
    pub fn take(
        &mut self,
        event: Event,
        now: Monotonic,
        limits: &Limits,
        handles: &Handles,
        out: &mut Vec<Told>,
    ) {
        while let Some(key) = self.waiting.front().copied() {
            let since = self.members.get(&key).and_then(|m| m.waiting.as_ref()).map(|waiting| waiting.since);
            if since.is_some_and(|since| {
                now.saturating_sub(since) < limits.socket_time && !matches!(event, Event::Stop(_))
            }) {
                break;
            }
            self.waiting.pop_front();
            self.leave_alone(key, out);
        }
        let Some(key) = subject(&event) else {
            match event {
                Event::SocketEnd(end) => {
                    out.push(Told::Event(event));
                    if end.closed.is_some() {
                        self.close(end, out);
                    }
                    return;
                }
                Event::Exit(process, time) => self.exit(process, time, out),
                Event::Stop(time) => {
                    // Nobody that was seen has these any more.
                    let orphans = |c: &Joint| c.members.is_empty();
                    let ids: Vec<_> =
                        self.connections.iter().filter(|(_, c)| orphans(c)).map(|(id, _)| *id).collect();
                    ids.into_iter().for_each(|id| self.over(id, time, out));
                }
                _ => {}
            }
            out.push(Told::Event(event));
            return;
        };
        if let Event::Bind(bind) = event {
            self.bind(key, bind, handles, out);
            return;
        }
        if is_side(key) && !self.members.contains_key(&key) && !self.add(key) {
            // It passes under its own name.
            out.push(Told::Event(event));
            return;
        }
        let Some(member) = self.members.get_mut(&key) else {
            // A record that arrives after its handle was freed has no place among what others have reported
            // since.
            let is_shared = |id| self.connections.get(id).is_some_and(|joint| joint.shared);
            out.push(match event {
                Event::Data(data) if self.named.get(&key).is_some_and(is_shared) => {
                    Told::Late(data.chunk_len)
                }
                event => Told::Event(event),
            });
            return;
        };
        if !is_side(key) || member.connection.is_some() || member.alone {
            self.tell(key, event, out);
            return;
        }
        if member.waiting.is_none() && is_free(&event) {
            self.remove(key);
            return;
        }
        let bytes = if let Event::Data(data) = &event { data.payload.len() } else { 0 };
        let waiting = member.waiting.get_or_insert_with(|| {
            self.waiting.push_back(key);
            Box::new(Waiting { events: Vec::new(), bytes: 0, since: now })
        });
        waiting.events.push(event);
        waiting.bytes += bytes;
        self.held += bytes;
        if waiting.bytes > limits.opening_bytes || self.held > limits.opening_total {
            self.leave_alone(key, out);
        }
    }

    /// `false` if the table is full.
    fn add(&mut self, key: HandleKey) -> bool {
        let room = self.members.len() < MEMBERS_MAX;
        if room {
            self.members.insert(key, Member::default());
            self.by_process.insert(key);
        }
        room
    }

    fn remove(&mut self, key: HandleKey) -> Option<Member> {
        self.by_process.remove(&key);
        self.members.remove(&key)
    }

    /// The handle's socket is known.
    fn bind(&mut self, key: HandleKey, bind: Bind, handles: &Handles, out: &mut Vec<Told>) {
        if !self.members.contains_key(&key) && !self.add(key) {
            out.push(Told::Event(Event::Bind(Bind { handle: plain(key), ..bind })));
            return;
        }
        let Some(member) = self.members.get(&key) else { return };
        if member.alone {
            out.push(Told::Event(Event::Bind(Bind { handle: plain(key), ..bind })));
            return;
        }
        if let Some(joint) = member.connection.and_then(|id| self.connections.get(&id)) {
            // The kernel makes another handle if it is another socket. A side has but one.
            if !is_side(key) {
                out.push(Told::Event(Event::Bind(Bind { handle: joint.handle, ..bind })));
            }
            return;
        }
        let before = Before::of(handles, &plain(key));
        let mut found = self.joinable(key, bind.socket).filter(|_| !before.over);
        if let Some(id) = found
            && let Some(joint) = self.connections.get_mut(&id)
        {
            if !joint.shared {
                joint.reach = Before::of(handles, &joint.handle).reach;
                self.share(id);
            }
            if let Some(joint) = self.connections.get(&id).filter(|_| !is_side(key)) {
                out.push(Told::Event(Event::Bind(Bind { handle: joint.handle, ..bind })));
                if joint.handle != key {
                    out.push(Told::Absorb { from: key, into: joint.handle });
                }
            }
        } else {
            out.push(Told::Event(Event::Bind(Bind { handle: plain(key), ..bind.clone() })));
            found = self.begin(key, &bind);
        }
        self.join(key, found, before, out);
    }

    /// A connection for the handle; `None` if its socket has too many already.
    fn begin(&mut self, key: HandleKey, bind: &Bind) -> Option<u64> {
        let at_socket = self.at_socket.entry(bind.socket).or_default();
        if at_socket.len() >= PER_SOCKET {
            return None;
        }
        self.made += 1;
        at_socket.push(self.made);
        let joint = Joint {
            handle: plain(key),
            socket: bind.socket,
            source: bind.source,
            shared: false,
            reach: PerDirection::default(),
            members: BTreeSet::new(),
            closed: None,
        };
        self.named.insert(joint.handle, self.made);
        self.connections.insert(self.made, joint);
        if is_side(key) {
            self.share(self.made);
        }
        Some(self.made)
    }

    /// From now on the calls of all its members get new places.
    fn share(&mut self, id: u64) {
        let Some(joint) = self.connections.get_mut(&id) else { return };
        joint.shared = true;
        self.shared += 1;
        for key in &joint.members {
            if let Some(member) = self.members.get_mut(key) {
                for direction in [Direction::Read, Direction::Write] {
                    member.progress[direction] =
                        Progress { own: joint.reach[direction], base: Reach::default() };
                }
            }
        }
    }

    /// The connection on this socket that the handle continues.
    fn joinable(&self, key: HandleKey, socket: SocketKey) -> Option<u64> {
        let is_busy = |other: &HandleKey| {
            let both_sides = is_side(key) && is_side(*other);
            let shut = || self.members.get(other).is_some_and(|member| member.shut);
            other.process == key.process && !both_sides && !shut()
        };
        let free: Vec<_> = self
            .at_socket
            .get(&socket)?
            .iter()
            .filter_map(|id| Some((*id, self.connections.get(id)?)))
            .filter(|(_, joint)| !joint.members.iter().any(is_busy))
            .collect();
        // Of several layers, which a child has all, the one of the same handle.
        let same = free.iter().rev().find(|(_, joint)| joint.handle.address == plain(key).address);
        same.or(free.last()).map(|(id, _)| *id)
    }

    /// The handle becomes a member: waiting events are passed on.
    fn join(&mut self, key: HandleKey, id: Option<u64>, before: Before, out: &mut Vec<Told>) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.connection = id;
        let (events, bytes) = member.take();
        self.held -= bytes;
        if let Some(joint) = id.and_then(|id| self.connections.get_mut(&id)) {
            joint.members.insert(key);
            if joint.shared {
                for direction in [Direction::Read, Direction::Write] {
                    let (reach, own) = (&mut joint.reach[direction], before.reach[direction]);
                    if joint.handle == key {
                        member.progress[direction] = Progress { own: *reach, base: Reach::default() };
                    } else if before.written {
                        member.progress[direction].own = own;
                        member.progress[direction].rebase(*reach);
                    } else {
                        // What it has reported before belongs to the connection: see `Told::Absorb`.
                        member.progress[direction] = Progress { own, base: *reach };
                        reach.bytes = reach.bytes.saturating_add(own.bytes);
                        reach.calls = reach.calls.wrapping_add(own.calls);
                    }
                }
            }
        }
        for event in events {
            self.tell(key, event, out);
        }
    }

    /// Turns an event of a member into one of its connection.
    fn tell(&mut self, key: HandleKey, mut event: Event, out: &mut Vec<Told>) {
        if let Event::Handle(HandleFact { fact: Fact::Layer(below), .. }) = &mut event {
            *below = self.name(*below);
        }
        let Some(member) = self.members.get_mut(&key) else { return };
        member.shut |= matches!(&event, Event::Handle(HandleFact { fact: Fact::Shutdown, .. }));
        let Some((id, joint)) = member.connection.and_then(|id| Some((id, self.connections.get_mut(&id)?)))
        else {
            if is_free(&event) {
                self.remove(key);
            }
            out.push(Told::Event(renamed(event, plain(key))));
            return;
        };
        let handle = joint.handle;
        let mut reached = |own: Ends| {
            if !joint.shared {
                return own;
            }
            for direction in [Direction::Read, Direction::Write] {
                if !is_side(key) || direction == self::direction(key) {
                    member.progress[direction].ends_at(of(own, direction), &mut joint.reach[direction]);
                }
            }
            Ends { read: joint.reach.read.bytes, write: joint.reach.write.bytes }
        };
        match event {
            Event::Data(data) if joint.shared => out.push(placed(member, joint, data)),
            // The connection continues. The handle's last loss shows now.
            Event::Handle(HandleFact { fact: Fact::Free, ends, time, .. }) => {
                let ends = reached(ends);
                out.push(Told::Event(Event::Final(handle, ends)));
                joint.members.remove(&key);
                self.remove(key);
                self.abandoned(id, time, out);
            }
            Event::Handle(fact) => {
                let (fact, ends) = (HandleFact { handle, ..fact }, reached(fact.ends));
                let what = match fact.fact {
                    Fact::WriteEmpty(seq) if joint.shared => {
                        Fact::WriteEmpty(member.progress.write.seq(seq, joint.reach.write))
                    }
                    what => what,
                };
                out.push(Told::Event(Event::Handle(HandleFact { fact: what, ends, ..fact })));
            }
            Event::Final(_, ends) => out.push(Told::Event(Event::Final(handle, reached(ends)))),
            other => out.push(Told::Event(renamed(other, handle))),
        }
    }

    /// The name under which a handle is passed on.
    fn name(&self, key: HandleKey) -> HandleKey {
        let id = self.members.get(&key).and_then(|member| member.connection);
        id.and_then(|id| self.connections.get(&id)).map_or(plain(key), |joint| joint.handle)
    }

    /// If no handle of the connection is known any more, it ends with its socket.
    fn abandoned(&mut self, id: u64, time: Monotonic, out: &mut Vec<Told>) {
        let Some(joint) = self.connections.get(&id).filter(|joint| joint.members.is_empty()) else { return };
        if joint.closed.is_some() {
            self.over(id, time, out);
            return;
        }
        self.orphans.push_back(id);
        if self.orphans.len() > ORPHANS_MAX
            && let Some(oldest) = self.orphans.pop_front()
            && self.connections.get(&oldest).is_some_and(|joint| joint.members.is_empty())
        {
            self.over(oldest, time, out);
        }
    }

    /// The connection ends.
    fn over(&mut self, id: u64, time: Monotonic, out: &mut Vec<Told>) {
        let Some(joint) = self.forget(id) else { return };
        let task = Task { process: joint.handle.process, tid: 0 };
        let (handle, ends) = (joint.handle, Ends::default());
        let time = joint.closed.unwrap_or(time);
        out.push(Told::Event(Event::Handle(HandleFact { task, handle, time, ends, fact: Fact::Free })));
    }

    fn forget(&mut self, id: u64) -> Option<Joint> {
        let joint = self.connections.remove(&id)?;
        self.shared -= usize::from(joint.shared);
        self.named.remove(&joint.handle);
        if let Some(at_socket) = self.at_socket.get_mut(&joint.socket) {
            at_socket.retain(|other| *other != id);
            if at_socket.is_empty() {
                self.at_socket.remove(&joint.socket);
            }
        }
        for key in &joint.members {
            self.remove(*key);
        }
        Some(joint)
    }

    /// Nothing reveals the side's socket in time: it becomes a separate connection.
    fn leave_alone(&mut self, key: HandleKey, out: &mut Vec<Told>) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if member.connection.is_some() || member.waiting.is_none() {
            return;
        }
        let (events, bytes) = member.take();
        self.held -= bytes;
        // Records of the handshake and their like are nothing to show.
        member.alone = events.iter().any(|event| matches!(event, Event::Data(_)));
        let (alone, gone) = (member.alone, events.iter().any(is_free));
        if gone {
            self.remove(key);
        }
        if alone {
            out.extend(events.into_iter().map(|event| Told::Event(renamed(event, plain(key)))));
        }
    }

    fn close(&mut self, closed: SocketEnd, out: &mut Vec<Told>) {
        for id in self.at_socket.get(&closed.socket).cloned().unwrap_or_default() {
            let Some(joint) = self.connections.get_mut(&id) else { continue };
            joint.closed = Some(closed.time);
            if joint.members.is_empty() {
                self.over(id, closed.time, out);
                continue;
            }
            self.closed.push_back(id);
            if self.closed.len() > CLOSED_MAX
                && let Some(oldest) = self.closed.pop_front()
            {
                self.forget(oldest);
            }
        }
    }

    fn exit(&mut self, process: ProcessKey, time: Monotonic, out: &mut Vec<Told>) {
        let first = HandleKey { process, address: 0, generation: 0 };
        let last = HandleKey { process, address: u64::MAX, generation: u64::MAX };
        let keys: Vec<_> = self.by_process.range(first..=last).copied().collect();
        for key in keys {
            self.leave_alone(key, out);
            let Some(mut member) = self.remove(key) else { continue };
            self.held -= member.take().1;
            let Some(id) = member.connection else { continue };
            if let Some(joint) = self.connections.get_mut(&id) {
                joint.members.remove(&key);
                self.abandoned(id, time, out);
            }
        }
    }
}

/// A call at its place in the connection.
fn placed(member: &mut Member, joint: &mut Joint, data: Data) -> Told {
    let handle = joint.handle;
    if data.call_offset.checked_add(data.call_len).is_none() {
        return Told::Event(Event::Data(Data { handle, ..data }));
    }
    let direction = data.direction;
    let Some((call_offset, call_seq)) = member.progress[direction].call(&data, &mut joint.reach[direction])
    else {
        return Told::Late(data.chunk_len);
    };
    let awaits_write = data.awaits_write.map(|seq| member.progress.write.seq(seq, joint.reach.write));
    let from_ciphertext = joint.source == TupleSource::Ciphertext;
    let tuple_source = if from_ciphertext { joint.source } else { data.tuple_source };
    Told::Event(Event::Data(Data { handle, call_offset, call_seq, awaits_write, tuple_source, ..data }))
}

/// What a handle has reported before its socket was known, as the rest of `track` knows it.
struct Before {
    reach: PerDirection<Reach>,
    /// That is written already, as another connection.
    written: bool,
    /// It has ended, or the other end is written.
    over: bool,
}

impl Before {
    fn of(handles: &Handles, key: &HandleKey) -> Before {
        let Some(handle) = handles.find(key).and_then(|slot| handles.get(slot)) else {
            return Before { reach: PerDirection::default(), written: false, over: false };
        };
        Before {
            reach: handle.reach(),
            written: handle.stream().is_some_and(Stream::is_open),
            over: matches!(handle.view, View::UnwrittenEnd { .. } | View::Ended { .. }),
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

#[cfg(test)]
#[path = "joined_tests.rs"]
mod tests;
