//! What makes a connection: which handle writes it, its facts, its opening, its peer.

use std::sync::Arc;

use super::handle::{Handle, View};
use super::local_peers::End;
use super::per_direction::PerDirection;
use super::segment::{Connection, ConnectionId, RoleSource, Side, Tuple};
use super::slot::Slot;
use super::stream::{About, First, Item, Out, Peer, Stream};
use super::tracker::{Tracker, Why};
use crate::event::{Bind, Data, Direction, HandleKey, Role, Task, TupleSource};

/// Layers of TLS inside TLS that are followed.
const LAYERS: usize = 8;

impl Tracker {
    /// The handle is about to carry its first bytes: it becomes the view of its connection that is
    /// written, unless the other end was first.
    pub(super) fn claim(&mut self, slot: Slot, first: First, out: Out) {
        let id = ConnectionId(self.connections + 1);
        let mut peer = Peer::Unknown;
        if let Some(other_slot) = self.peer_of(slot)
            && let Some(other) = self.handles.get_mut(other_slot)
        {
            match other.view {
                View::Idle => {
                    other.view = View::UnwrittenEnd { owner: slot, id };
                    peer = Peer::Known(other.key.process, self.now);
                }
                View::Owner(_) | View::Ended { id: Some(_), second: false, .. } => {
                    self.become_second(slot, other_slot);
                    return;
                }
                View::UnwrittenEnd { .. } | View::Ended { .. } => {}
            }
        }
        self.connections = id.0;
        let Some(handle) = self.handles.get_mut(slot) else { return };
        let mut stream = Stream::new(id, first);
        stream.peer = peer;
        handle.view = View::Owner(Box::new(stream));
        // What it moved as the second view is missing here.
        handle.next = PerDirection::default();
        let skips = std::mem::take(&mut handle.skips);
        for direction in [Direction::Read, Direction::Write] {
            if let Some((reason, time)) = skips[direction] {
                self.send(slot, time, Item::Skip { direction, reason }, out);
            }
        }
    }

    fn peer_of(&self, slot: Slot) -> Option<Slot> {
        self.ends.peer(self.handles.get(slot)?.tuple()?, slot)
    }

    fn become_second(&mut self, slot: Slot, owner: Slot) {
        let Some(process) = self.handles.get(slot).map(|h| h.key.process) else { return };
        let now = self.now;
        let Some(other) = self.handles.get_mut(owner) else { return };
        let id = match &mut other.view {
            View::Owner(stream) => {
                if matches!(stream.peer, Peer::Unknown) {
                    stream.peer = Peer::Known(process, now);
                }
                stream.id
            }
            View::Ended { id: Some(id), second: false, .. } => *id,
            _ => return,
        };
        if let Some(handle) = self.handles.get_mut(slot) {
            handle.view = View::UnwrittenEnd { owner, id };
        }
    }

    /// Registers the handle's socket under the tuple where its peer will search, and searches for its peer.
    pub(super) fn pair(&mut self, slot: Slot, bind: Bind, out: Out) {
        let tuple = Tuple { local: bind.local, remote: bind.remote };
        for old in self.ends.replaced(tuple, bind.netns, bind.socket) {
            // The tuple is used again: its previous owner has ended. One that carried nothing may not even
            // know, and is just no longer searched for.
            self.ends.remove(tuple, old);
            if old != slot && self.handles.get(old).is_some_and(|h| h.stream().is_some()) {
                self.end(old, Why::Closed, bind.time, out);
            }
        }
        let Some(handle) = self.handles.get_mut(slot) else { return };
        // A layered handle has the tuple of the handle below it, which represents both.
        let layered = handle.below.is_some() || bind.source == TupleSource::Layer;
        let end = End::new(slot, &bind);
        // It has waited for its socket.
        if let Some(stream) = handle.stream_mut().filter(|stream| !stream.is_open()) {
            stream.first.learns(bind.source);
        }
        handle.bind = Some(Box::new(bind));
        if layered {
            return;
        }
        let unwritten = handle.stream().is_none_or(|stream| !stream.is_open());
        if !self.ends.insert(tuple, end) {
            self.bounds.unindexed += 1;
            return;
        }
        if unwritten && let Some(other) = self.peer_of(slot) {
            self.meet(slot, other, out);
        }
        self.open_if_known(slot, out);
    }

    /// The handle, of which nothing is written yet, turns out to have a peer.
    fn meet(&mut self, slot: Slot, other: Slot, out: Out) {
        let claimed = self.handles.get(slot).and_then(|h| h.stream()).map(|stream| stream.id);
        let Some(handle) = self.handles.get_mut(other) else { return };
        match (&handle.view, claimed) {
            (View::Idle, Some(id)) => {
                handle.view = View::UnwrittenEnd { owner: slot, id };
                let peer = Peer::Known(handle.key.process, self.now);
                if let Some(stream) = self.handles.get_mut(slot).and_then(|h| h.stream_mut()) {
                    stream.peer = peer;
                }
                return;
            }
            (View::Owner(_) | View::Ended { id: Some(_), second: false, .. }, _) => {}
            _ => return,
        }
        if let Some(handle) = self.handles.get_mut(slot)
            && let Some(stream) = handle.stream()
        {
            // What waits is the other's to report.
            self.opening -= stream.waiting();
            let traffic = stream.all_traffic();
            handle.second.takes_over(handle.next, &traffic);
            self.timers.set(&mut handle.deadlines, slot, super::timers::Timer::Opening, None);
        }
        self.become_second(slot, other);
        self.announce(other, false, out);
    }

    /// How long the handle's connection waits, before it opens, for something that is still unknown.
    pub(super) fn awaited(&self, slot: Slot) -> Option<u64> {
        let handle = self.handles.get(slot)?;
        let process = handle.key.process;
        if let Some(stream) = handle.stream().filter(|s| s.is_open()) {
            let waits = stream.awaits.is_some_and(|caller| !self.processes.is_settled(caller));
            return waits.then_some(self.limits.opening_time);
        }
        let waits = self.limits.socket_time > 0;
        if waits && handle.stream().is_some_and(|stream| self.is_unproven(stream.first.library)) {
            return Some(self.limits.socket_time);
        }
        if waits && handle.bind.is_none() && handle.below.is_none() {
            return Some(self.limits.socket_time);
        }
        (!self.processes.is_settled(process)).then_some(self.limits.opening_time)
    }

    /// Opens the handle's connection, unless there is still something to wait for.
    pub(super) fn open_if_known(&mut self, slot: Slot, out: Out) {
        if self.awaited(slot).is_none() {
            self.open(slot, out);
        }
    }

    /// The handle's bytes go through another handle: it has no end of its own.
    pub(super) fn layer(&mut self, slot: Slot, below: HandleKey) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        if handle.key == below {
            return;
        }
        handle.below = Some(below);
        if matches!(handle.view, View::UnwrittenEnd { .. }) {
            handle.view = View::Idle;
        }
        if let Some(tuple) = handle.tuple() {
            self.ends.remove(tuple, slot);
        }
    }

    /// Names the process at the other end, once, after the opening: when everything is known about it, when
    /// that has taken too long, or (`at_once`) now.
    pub(super) fn announce(&mut self, slot: Slot, at_once: bool, out: Out) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        let Some(stream) = handle.stream_mut().filter(|s| s.is_open()) else { return };
        let Peer::Known(process, since) = stream.peer else { return };
        let late = self.now >= since.saturating_add(self.limits.opening_time);
        if at_once || late || self.processes.is_settled(process) {
            stream.peer = Peer::Announced;
            // It gets the time of the previous segment, because what follows may be earlier than this fact.
            let about = About { clock: &self.clock, processes: &self.processes };
            self.opening += stream.put(about, 0, Item::Peer(self.processes.get(process)), out);
        }
    }

    /// Writes what waits. If it waits for the opening of the handle's connection: first the one that
    /// carries it is opened.
    pub(super) fn open(&mut self, slot: Slot, out: Out) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        let Some(stream) = handle.stream_mut() else { return };
        if stream.is_open() && stream.awaits.is_some() {
            self.opening -= stream.waiting();
            stream.flow(About { clock: &self.clock, processes: &self.processes }, out);
            self.timers.set(&mut handle.deadlines, slot, super::timers::Timer::Opening, None);
            return;
        }
        if stream.first_time().is_none() {
            return;
        }
        let mut chain = vec![slot];
        while let Some(below) = chain.last().and_then(|s| self.below(*s)) {
            if chain.len() > LAYERS || chain.contains(&below) {
                break;
            }
            chain.push(below);
        }
        for slot in chain.into_iter().rev() {
            let Some(connection) = self.describe(slot) else { continue };
            let Some(handle) = self.handles.get_mut(slot) else { continue };
            self.timers.set(&mut handle.deadlines, slot, super::timers::Timer::Opening, None);
            if let Some(stream) = handle.stream_mut() {
                self.opening -= stream.waiting();
                stream.open(About { clock: &self.clock, processes: &self.processes }, connection, out);
            }
            self.announce(slot, false, out);
        }
    }

    fn below(&self, slot: Slot) -> Option<Slot> {
        self.handles.find(self.handles.get(slot)?.below.as_ref()?)
    }

    /// The socket that carries the handle's bytes, and whether other handles are between.
    fn carrier(&self, slot: Slot) -> (Option<&Bind>, bool) {
        let bind_of = |slot| self.handles.get(slot).and_then(|h| h.bind.as_deref());
        let (mut at, mut carrier) = (slot, (bind_of(slot), false));
        for _ in 0..LAYERS {
            let Some(below) = self.below(at) else { break };
            at = below;
            if let Some(bind) = bind_of(at) {
                carrier = (Some(bind), true);
            }
        }
        carrier
    }

    /// The handle's socket turns out to be that of a connection that has begun: its segments, and what is known
    /// of it, continue there.
    pub(super) fn absorb(&mut self, from: &HandleKey, into: &HandleKey, out: Out) {
        let (Some(from), Some(into)) = (self.handles.find(from), self.handles.find(into)) else { return };
        self.release(from, out);
        self.release(into, out);
        let Some(handle) = self.handles.get_mut(from) else { return };
        self.timers.set(&mut handle.deadlines, from, super::timers::Timer::Opening, None);
        let (caller, key, now) = (handle.key.process, handle.key, self.now);
        let (role, handshake) = (handle.tls_role, handle.handshake);
        let (server_name, alpn) = (handle.server_name.take(), handle.alpn.take());
        let (first, items) = match &mut handle.view {
            View::Owner(stream) if !stream.is_open() => {
                self.opening -= stream.waiting();
                let told = (Some(stream.first), stream.take_back());
                handle.view = View::Idle;
                told
            }
            // It is already written as a separate connection.
            _ => (None, Vec::new()),
        };
        self.end(from, Why::Gone, now, out);
        if let (Some(mut first), Some(handle @ Handle { view: View::Idle, .. })) =
            (first, self.handles.get(into))
        {
            if let Some(bind) = &handle.bind {
                first.learns(bind.source);
            }
            self.claim(into, first, out);
        }
        let Some(handle) = self.handles.get_mut(into) else { return };
        let base = handle.reach();
        handle.tls_role = handle.tls_role.or(role);
        handle.handshake |= handshake;
        let told = |what: &mut Option<String>, name: Option<String>| {
            let new = name.filter(|_| what.is_none())?;
            *what = Some(new.clone());
            Some(new)
        };
        let server_name = told(&mut handle.server_name, server_name).map(Item::ServerName);
        let alpn = told(&mut handle.alpn, alpn).map(Item::Alpn);
        for item in server_name.into_iter().chain(alpn) {
            self.aside(into, now, item, out);
        }
        for (time, item) in items {
            let (direction, other, tid, offset, bytes, len, missing) = match item {
                Item::Bytes { direction, caller, tid, offset, bytes, len, missing } => {
                    (direction, caller, tid, offset, bytes, len, missing)
                }
                // Its socket says how the connection ends, which that handle was not told.
                Item::Finish(_) | Item::Reset(_) | Item::End => continue,
                Item::Skip { direction, reason } => {
                    self.skip(into, direction, reason, time, out);
                    continue;
                }
                item => {
                    self.send(into, time, item, out);
                    continue;
                }
            };
            let data = Data {
                task: Task { process: other.unwrap_or(caller), tid },
                handle: key,
                library: 0,
                direction,
                entered: time,
                returned: time,
                call_seq: 0,
                call_offset: base[direction].bytes.saturating_add(offset),
                call_len: len,
                chunk_offset: 0,
                chunk_len: len,
                payload: bytes,
                missing,
                awaits_write: None,
                tuple_source: TupleSource::None,
            };
            match self.handles.get_mut(into).map(|h| &mut h.view) {
                Some(View::Owner(_)) => self.place(into, data, out),
                Some(View::UnwrittenEnd { .. }) => {
                    if let Some(handle) = self.handles.get_mut(into) {
                        handle.second.data(&data);
                    }
                }
                _ => self.late(len),
            }
        }
    }

    /// What is known of a connection that is about to open; `None` if it is not.
    fn describe(&self, slot: Slot) -> Option<Connection> {
        let handle = self.handles.get(slot)?;
        let stream = handle.stream()?;
        stream.first_time()?;
        let First { tid, library, tuple_source, at_start } = stream.first;
        let (bind, layered) = self.carrier(slot);
        let tuple_source = match bind {
            None => TupleSource::None,
            Some(_) if layered => TupleSource::Layer,
            Some(bind) if bind.source == TupleSource::Ciphertext => TupleSource::Ciphertext,
            Some(bind)
                if (bind.source, tuple_source) == (TupleSource::Descriptor, TupleSource::Remembered) =>
            {
                TupleSource::Descriptor
            }
            Some(_) => tuple_source,
        };
        // The socket was no longer the handle's when the first bytes moved: its role holds, its
        // addresses may be another's by now.
        let socket = bind.filter(|_| tuple_source != TupleSource::None);
        let tuple = socket.map(|b| Tuple { local: b.local, remote: b.remote });
        let kernel = bind.and_then(|b| b.role).map(|role| (role, RoleSource::Kernel));
        let tls = handle.tls_role.map(|role| (role, RoleSource::Tls));
        let (role, role_source) = kernel.or(tls).unwrap_or((guess_role(tuple), RoleSource::Guess));
        // Ciphertext may reveal the socket after the first bytes have moved.
        let late = |b: &Bind| b.source == TupleSource::Ciphertext && handle.handshake;
        let fresh = handle.bind.as_ref().map_or(handle.handshake, |b| b.fresh || late(b));
        Some(Connection {
            id: stream.id,
            process: self.processes.get(handle.key.process),
            tid,
            handle: handle.key,
            local_side: Side::from(role),
            role_source,
            tuple,
            tuple_source,
            netns: socket.map_or(0, |b| b.netns),
            inode: socket.map_or(0, |b| b.inode),
            cookie: socket.and_then(|b| b.cookie),
            rtt: socket.and_then(|b| b.rtt),
            fd: socket.and_then(|b| b.fd),
            library: self.libraries.get(&library).map(Arc::clone),
            from_start: at_start && fresh,
            started: self.clock.wall(handle.first_seen),
            server_name: handle.server_name.clone(),
            alpn: handle.alpn.clone(),
            layer_below: self
                .below(slot)
                .and_then(|below| self.handles.get(below)?.connection())
                .filter(|below| *below != stream.id),
        })
    }
}

/// Servers listen on the lower port, mostly. Without a tuple: most programs are clients.
fn guess_role(tuple: Option<Tuple>) -> Role {
    match tuple {
        Some(tuple) if tuple.local.port() < tuple.remote.port() => Role::Server,
        _ => Role::Client,
    }
}
