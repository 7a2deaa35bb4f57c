//! From events to segments: what each event does.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Limits;
use super::clock::WallClock;
use super::handle::{Handle, Handles, View};
use super::joined::{Joined, Told};
use super::local_peers::{Ends, PER_TUPLE};
use super::order::{self, Step};
use super::process::Processes;
use super::segment::{Process, Segment};
use super::slot::Slot;
use super::stream::{About, First, Item, Out};
use super::summary::{Anomalies, Bounds, Traffic, traffic_of};
use super::timers::{Timer, Timers};
use crate::event::{self, *};

/// Why a handle ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its connection is closed. The program may still have the handle.
    Closed,
    /// The program has freed it, or has ended.
    Freed,
    /// The capture ends; the connection may live on.
    Gone,
}

/// Follows every handle from its first event to its end, and emits the plaintext of each connection in order.
/// See [`super`] for what it holds back and how long.
#[derive(Debug)]
pub struct Tracker {
    pub(super) limits: Limits,
    pub(super) now: Monotonic,
    pub(super) clock: WallClock,
    pub(super) processes: Processes,
    pub(super) libraries: HashMap<LibraryId, Arc<Library>>,
    /// Of libraries whose functions have no names; what is proven is not here.
    pub(super) verdicts: HashMap<LibraryId, Verdict>,
    pub(super) handles: Handles,
    pub(super) ends: Ends,
    pub(super) sockets: HashMap<SocketKey, Vec<Slot>>,
    pub(super) timers: Timers,
    pub(super) connections: u64,
    /// Bytes held for order.
    pub(super) held: usize,
    /// Bytes that wait for their connection to open.
    pub(super) opening: usize,
    pub(super) bounds: Bounds,
    pub(super) anomalies: Anomalies,
    joined: Joined,
    /// What `joined` makes of an event; kept to reuse its memory.
    heard: Vec<Told>,
    stopped: bool,
}

impl Default for Tracker {
    fn default() -> Tracker {
        Tracker::new(Limits::default())
    }
}

impl Tracker {
    /// A tracker without any events.
    pub fn new(limits: Limits) -> Tracker {
        Tracker {
            limits,
            now: 0,
            clock: WallClock::default(),
            processes: Processes::new(limits.processes),
            libraries: HashMap::new(),
            verdicts: HashMap::new(),
            handles: Handles::default(),
            ends: Ends::default(),
            sockets: HashMap::new(),
            timers: Timers::default(),
            connections: 0,
            held: 0,
            opening: 0,
            bounds: Bounds::default(),
            anomalies: Anomalies::default(),
            joined: Joined::default(),
            heard: Vec::new(),
            stopped: false,
        }
    }

    /// Takes the next event and gives the segments that follow from it. After [`Event::Stop`]
    /// nothing follows any more.
    pub fn event(&mut self, event: Event, out: &mut impl FnMut(Segment)) {
        if self.stopped {
            return;
        }
        if self.joined.is_idle(&event) {
            self.take(event, out);
            return;
        }
        let now = time_of(&event).map_or(self.now, |time| time.max(self.now));
        let mut heard = std::mem::take(&mut self.heard);
        self.joined.take(event, now, &self.limits, &self.handles, &mut heard);
        for told in heard.drain(..) {
            match told {
                Told::Event(event) => self.take(event, out),
                Told::Absorb { from, into } => self.absorb(&from, &into, out),
                Told::Late(len) => self.late(len),
            }
        }
        self.heard = heard;
    }

    /// What is known of a process.
    pub fn process(&self, key: ProcessKey) -> Arc<Process> {
        self.processes.get(key)
    }

    /// After the stop nothing is held and nothing is waited for.
    #[cfg(test)]
    pub(super) fn assert_empty(&self) {
        assert_eq!((self.held, self.opening), (0, 0));
        assert_eq!(self.timers.expired(Monotonic::MAX), None);
        assert!(self.sockets.is_empty());
        assert!(self.handles.len() <= self.limits.handles);
    }

    fn take(&mut self, event: Event, out: Out) {
        if let Some(time) = time_of(&event) {
            self.now = self.now.max(time);
            self.expire(out);
        }
        match event {
            Event::Data(data) => self.data(data, out),
            Event::Bind(bind) => self.bind(bind, out),
            Event::Handle(fact) => self.fact(fact, out),
            Event::SocketEnd(end) => self.socket_end(end, out),
            Event::Process(seen) => {
                let time = seen.time;
                if let Some(before) = self.processes.seen(seen, &mut self.bounds) {
                    self.exit(before, time, out);
                }
            }
            Event::ProcessFacts(key, facts) => {
                self.processes.facts(key, facts, &mut self.bounds);
                for slot in self.processes.handles(key) {
                    self.open_if_known(slot, out);
                }
            }
            Event::Exit(key, time) => self.exit(key, time, out),
            Event::Clock(clock) => self.clock.sample(clock),
            Event::Library(library) => {
                if self.libraries.len() < self.limits.libraries || self.libraries.contains_key(&library.id) {
                    self.libraries.insert(library.id, Arc::new(library));
                } else {
                    self.bounds.libraries_refused += 1;
                }
            }
            Event::Verdict(library, verdict) => self.verdict(library, verdict, out),
            Event::Final(key, ends) => {
                if let Some(slot) = self.heard_of(key, ends) {
                    self.release(slot, out);
                    self.fill(slot, Direction::Read, ends.read, self.now, out);
                    self.fill(slot, Direction::Write, ends.write, self.now, out);
                }
            }
            Event::Stop(_) => {
                self.stopped = true;
                let mut slots: Vec<_> = self.handles.iter().map(|(s, h)| (h.connection(), s)).collect();
                slots.sort_unstable();
                slots.into_iter().for_each(|(_, slot)| self.end(slot, Why::Gone, self.now, out));
            }
            Event::NoSocket(_) | Event::File(_) | Event::Start(_) | Event::Counters(_) | Event::Losses(_) => {
            }
        }
    }

    fn expire(&mut self, out: Out) {
        while let Some((slot, timer)) = self.timers.expired(self.now) {
            let Some(handle) = self.handles.get_mut(slot) else { return };
            self.timers.set(&mut handle.deadlines, slot, timer, None);
            match timer {
                Timer::Held => {
                    self.bounds.held_time += 1;
                    self.release(slot, out);
                }
                Timer::Opening => {
                    self.bounds.opening_time += 1;
                    self.open(slot, out);
                }
                Timer::Closed => {
                    let closed = handle.ending.closed().unwrap_or(self.now);
                    self.end(slot, Why::Closed, closed, out);
                }
            }
        }
    }

    /// Index of the handle; it is added if the table has room. `bytes` are those of the event.
    fn slot(&mut self, key: HandleKey, time: Monotonic, tid: u32, bytes: u64) -> Option<Slot> {
        if let Some(slot) = self.handles.find(&key) {
            return Some(slot);
        }
        if self.handles.len() >= self.limits.handles && !self.forget() {
            self.bounds.handles_refused += 1;
            self.bounds.handles_refused_bytes = self.bounds.handles_refused_bytes.saturating_add(bytes);
            return None;
        }
        let slot = self.handles.insert(Handle::new(key, tid, time));
        self.processes.add_handle(key.process, slot, &mut self.bounds);
        Some(slot)
    }

    /// Index of the handle, if anything is known of it that its end could concern. A forgotten one would come
    /// back as a connection that lost everything.
    fn heard_of(&mut self, key: HandleKey, ends: event::Ends) -> Option<Slot> {
        let slot = self.handles.find(&key);
        if slot.is_none() {
            let bytes = ends.read.saturating_add(ends.write);
            self.anomalies.unheard = self.anomalies.unheard.saturating_add(bytes);
        }
        slot
    }

    fn bound_gone(&mut self) {
        while self.handles.gone_len() > self.limits.ended {
            self.forget();
        }
    }

    fn forget(&mut self) -> bool {
        let Some((slot, handle)) = self.handles.forget() else { return false };
        self.processes.remove_handle(handle.key.process, slot);
        handle.callers.iter().for_each(|caller| self.processes.remove_handle(*caller, slot));
        if let Some(tuple) = handle.tuple() {
            self.ends.remove(tuple, slot);
        }
        true
    }

    fn data(&mut self, mut data: Data, out: Out) {
        if self.verdicts.get(&data.library) == Some(&Verdict::Wrong) {
            return;
        }
        let Some(slot) = self.slot(data.handle, data.entered, data.task.tid, data.chunk_len) else { return };
        let chunk_end = data.chunk_offset.checked_add(data.chunk_len);
        if chunk_end.is_none_or(|end| end > data.call_len)
            || data.call_offset.checked_add(data.call_len).is_none()
        {
            self.anomalies.impossible += 1;
            return;
        }
        if data.payload.len() as u64 > data.chunk_len {
            self.anomalies.impossible += 1;
            data.payload.truncate(usize::try_from(data.chunk_len).unwrap_or(usize::MAX));
        }
        if matches!(self.handles.get(slot), Some(Handle { view: View::Idle, .. })) {
            let first = First {
                tid: data.task.tid,
                library: data.library,
                tuple_source: data.tuple_source,
                at_start: (data.call_offset, data.chunk_offset) == (0, 0),
            };
            self.claim(slot, first, out);
        }
        let Some(handle) = self.handles.get_mut(slot) else { return };
        match handle.view {
            View::Idle | View::Owner(_) => {}
            View::UnwrittenEnd { .. } => {
                handle.second.data(&data);
                return;
            }
            View::Ended { second: true, .. } => {
                let traffic = Traffic { second_view: data.chunk_len, ..Traffic::default() };
                self.processes.count(data.handle.process, &traffic);
                return;
            }
            View::Ended { .. } => {
                self.late(data.chunk_len);
                return;
            }
        }
        let told = &mut handle.told[data.direction];
        told.bytes = told.bytes.max(data.call_offset + data.call_len);
        told.calls = data.call_seq.wrapping_add(1);
        let before = handle.order.bytes();
        let ready = handle.order.offer(data, self.now);
        self.held += handle.order.bytes() - before;
        if let Some(data) = ready {
            self.place(slot, data, out);
            return;
        }
        self.pump(slot, false, out);
        self.bound_held(slot, out);
    }

    /// Bytes arrived after the end of their handle.
    pub(super) fn late(&mut self, len: u64) {
        self.anomalies.late += 1;
        self.anomalies.after_end = self.anomalies.after_end.saturating_add(len);
    }

    fn bound_held(&mut self, slot: Slot, out: Out) {
        let Some(handle) = self.handles.get(slot) else { return };
        if !handle.order.is_holding() {
            return;
        }
        let limits = &self.limits;
        if handle.order.bytes() > limits.held_bytes || handle.order.records() > limits.held_records {
            self.bounds.held_amount += 1;
        } else if self.held > limits.held_total {
            self.bounds.held_total += 1;
        } else {
            return;
        }
        self.release(slot, out);
    }

    /// Lets all go that the handle holds.
    pub(super) fn release(&mut self, slot: Slot, out: Out) {
        self.pump(slot, true, out);
    }

    /// Lets go what need not be held.
    fn pump(&mut self, slot: Slot, force: bool, out: Out) {
        while let Some(handle) = self.handles.get_mut(slot) {
            let before = handle.order.bytes();
            let step = handle.order.next(force);
            self.held -= before - handle.order.bytes();
            match step {
                Some(Step::Data(data)) => self.place(slot, data, out),
                Some(Step::Lost { direction, until, place, task }) => {
                    self.gap(slot, direction, until, place, task, out);
                }
                None => {
                    let until = handle.order.since().map(|t| t.saturating_add(self.limits.held_time));
                    self.timers.set(&mut handle.deadlines, slot, Timer::Held, until);
                    return;
                }
            }
        }
    }

    /// Puts a record whose turn it is into its place in the stream.
    pub(super) fn place(&mut self, slot: Slot, data: Data, out: Out) {
        let direction = data.direction;
        let (start, time) = (data.call_offset + data.chunk_offset, order::place(&data));
        let end = start + data.chunk_len;
        let Some(handle) = self.handles.get_mut(slot) else { return };
        if handle.stream().is_some_and(|s| s.finished[direction]) {
            self.anomalies.late += 1;
            self.anomalies.after_finish = self.anomalies.after_finish.saturating_add(data.chunk_len);
            return;
        }
        let again = handle.next[direction].min(end).saturating_sub(start);
        self.anomalies.overlap = self.anomalies.overlap.saturating_add(again);
        let len = data.chunk_len - again;
        if len == 0 {
            return;
        }
        match (direction, handle.ending.before_read(time)) {
            (Direction::Write, _) => handle.ending.sends(),
            (Direction::Read, Some(sent)) => self.finish(slot, Direction::Write, sent, out),
            (Direction::Read, None) => {}
        }
        self.gap(slot, direction, start, time, data.task, out);
        let cut = usize::try_from(again).unwrap_or(usize::MAX).min(data.payload.len());
        let bytes = if cut == 0 { data.payload } else { data.payload.slice(cut..) };
        // The kernel gives a reason with every short record; a recording may lack it.
        let missing = ((bytes.len() as u64) < len).then_some(data.missing.unwrap_or(Missing::Unreadable));
        let (caller, tid) = (self.caller(slot, data.task.process), data.task.tid);
        let item = Item::Bytes { direction, caller, tid, offset: start + again, bytes, len, missing };
        self.advance(slot, direction, end);
        self.send(slot, time, item, out);
    }

    /// What is missing up to `until` never left the kernel.
    fn gap(&mut self, slot: Slot, direction: Direction, until: u64, time: Monotonic, task: Task, out: Out) {
        let Some(handle) = self.handles.get(slot) else { return };
        let offset = handle.next[direction];
        if offset >= until || handle.stream().is_none_or(|s| s.finished[direction]) {
            return;
        }
        self.advance(slot, direction, until);
        let (len, missing) = (until - offset, Some(Missing::RingFull));
        let (caller, tid) = (self.caller(slot, task.process), task.tid);
        let item = Item::Bytes { direction, caller, tid, offset, bytes: Bytes::new(), len, missing };
        self.send(slot, time, item, out);
    }

    /// The process of a call, if it is not that of the handle's connection. Before its first bytes are written,
    /// its name is awaited as that of the connection's own process is.
    pub(super) fn caller(&mut self, slot: Slot, process: ProcessKey) -> Option<ProcessKey> {
        let handle = self.handles.get_mut(slot).filter(|h| h.key.process != process)?;
        if handle.callers.insert(process) {
            self.processes.add_handle(process, slot, &mut self.bounds);
            let is_settled = self.processes.is_settled(process);
            if let Some(stream) = handle.stream_mut().filter(|s| s.is_flowing() && !is_settled) {
                stream.awaits = Some(process);
            }
        }
        Some(process)
    }

    pub(super) fn advance(&mut self, slot: Slot, direction: Direction, end: u64) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        handle.next[direction] = end;
        if handle.ending.closed().is_some() {
            let until = self.now.saturating_add(self.limits.closed_time);
            self.timers.set(&mut handle.deadlines, slot, Timer::Closed, Some(until));
        }
    }

    /// Accounts for what is lost at the end of a direction that moved `end` bytes in total.
    fn fill(&mut self, slot: Slot, direction: Direction, end: u64, time: Monotonic, out: Out) {
        let Some(handle) = self.handles.get(slot) else { return };
        let task = Task { process: handle.key.process, tid: handle.tid };
        if end > 0 && matches!(handle.view, View::Idle) {
            let tuple_source = handle.bind.as_ref().map_or(TupleSource::None, |b| b.source);
            self.claim(slot, First { tid: task.tid, library: 0, tuple_source, at_start: false }, out);
        }
        if let Some(handle) = self.handles.get_mut(slot)
            && matches!(handle.view, View::UnwrittenEnd { .. })
        {
            handle.second.ends_at(direction, end);
        }
        self.gap(slot, direction, end, time, task, out);
    }

    fn fact(&mut self, event: HandleFact, out: Out) {
        let HandleFact { task, handle: key, time, ends, fact } = event;
        let slot = match fact {
            Fact::Shutdown | Fact::Free => self.heard_of(key, ends),
            _ => self.slot(key, time, task.tid, 0),
        };
        let Some(slot) = slot else { return };
        let Some(handle) = self.handles.get_mut(slot) else { return };
        if matches!(handle.view, View::Ended { .. }) {
            if fact == Fact::Free {
                self.handles.gone(slot);
                self.bound_gone();
            }
            return;
        }
        match fact {
            Fact::TlsRole(role) => {
                handle.tls_role = Some(role);
                handle.handshake |= matches!(handle.view, View::Idle);
            }
            Fact::ServerName(name) => {
                if !name.is_empty() && handle.server_name.as_ref() != Some(&name) {
                    handle.server_name = Some(name.clone());
                    self.aside(slot, time, Item::ServerName(name), out);
                }
            }
            Fact::Alpn(name) => {
                if !name.is_empty() && handle.alpn.as_ref() != Some(&name) {
                    handle.alpn = Some(name.clone());
                    self.aside(slot, time, Item::Alpn(name), out);
                }
            }
            Fact::Shutdown => {
                self.release(slot, out);
                self.fill(slot, Direction::Write, ends.write, time, out);
                match self.handles.get_mut(slot).filter(|h| h.bind.is_some()) {
                    Some(handle) => handle.ending.shut(time),
                    None => self.finish(slot, Direction::Write, time, out),
                }
            }
            Fact::Free => {
                self.release(slot, out);
                self.fill(slot, Direction::Read, ends.read, time, out);
                self.fill(slot, Direction::Write, ends.write, time, out);
                self.end(slot, Why::Freed, time, out);
            }
            Fact::Layer(below) => self.layer(slot, below),
            Fact::ReadUnseen => self.skip(slot, Direction::Read, Missing::Unseen, time, out),
            Fact::CallLost(Direction::Read, reason) => {
                self.release(slot, out);
                self.skip(slot, Direction::Read, reason, time, out);
            }
            Fact::CallLost(Direction::Write, reason) => {
                // Its bytes, if any, precede the reads that await it.
                handle.order.settle(time);
                self.skip(slot, Direction::Write, reason, time, out);
                self.pump(slot, false, out);
            }
            Fact::WriteEmpty(seq) => {
                handle.order.write_empty(seq, time);
                self.pump(slot, false, out);
            }
        }
    }

    /// A fact about the connection that has no place in the order. If the connection has not opened, it will
    /// open with it.
    pub(super) fn aside(&mut self, slot: Slot, time: Monotonic, item: Item, out: Out) {
        let Some(handle) = self.handles.get(slot) else { return };
        if handle.stream().is_some_and(|s| s.is_open()) {
            // What is held back has earlier times: this must not move them.
            let time = handle.order.earliest().map_or(time, |held| held.min(time));
            self.send(slot, time, item, out);
        }
    }

    /// A hole of unknown length. One before the first bytes waits for them: alone it does not make a connection
    /// worth showing, and is only counted.
    pub(super) fn skip(
        &mut self,
        slot: Slot,
        direction: Direction,
        reason: Missing,
        time: Monotonic,
        out: Out,
    ) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        match &handle.view {
            View::Idle => handle.skips[direction] = Some((reason, time)),
            View::Owner(stream) if !stream.finished[direction] => {
                let time = handle.order.earliest().map_or(time, |held| held.min(time));
                self.send(slot, time, Item::Skip { direction, reason }, out);
            }
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, slot: Slot, direction: Direction, time: Monotonic, out: Out) {
        let stream = self.handles.get(slot).and_then(|h| h.stream());
        if stream.is_some_and(|s| s.has_output() && !s.finished[direction]) {
            self.send(slot, time, Item::Finish(direction), out);
        }
    }

    fn bind(&mut self, bind: Bind, out: Out) {
        let Some(slot) = self.slot(bind.handle, bind.time, bind.task.tid, 0) else { return };
        let Some(handle) = self.handles.get_mut(slot) else { return };
        if matches!(handle.view, View::Ended { .. }) {
            return;
        }
        if let Some(known) = &mut handle.bind {
            if known.socket == bind.socket {
                known.fd = known.fd.or(bind.fd);
                known.role = known.role.or(bind.role);
                return;
            }
            // The kernel makes another handle of it then.
            self.anomalies.rebound += 1;
            if !matches!(handle.view, View::Idle) {
                return;
            }
            self.unbind(slot);
        }
        self.enter(slot, bind, out);
    }

    fn unbind(&mut self, slot: Slot) {
        let Some(handle) = self.handles.get_mut(slot) else { return };
        let tuple = handle.tuple();
        if let Some(bind) = handle.bind.take() {
            forget_at_socket(&mut self.sockets, bind.socket, slot);
        }
        handle.ending = Default::default();
        if let Some(tuple) = tuple {
            self.ends.remove(tuple, slot);
        }
    }

    fn enter(&mut self, slot: Slot, bind: Bind, out: Out) {
        let at_socket = self.sockets.entry(bind.socket).or_default();
        if at_socket.len() < PER_TUPLE {
            at_socket.push(slot);
        } else {
            self.bounds.unindexed += 1;
        }
        self.pair(slot, bind, out);
    }

    fn exit(&mut self, key: ProcessKey, time: Monotonic, out: Out) {
        self.processes.exit(key);
        for slot in self.processes.handles(key) {
            self.open_if_known(slot, out);
            // If it has a socket, it ends with that, or lives on in another process.
            let ends = |h: &Handle| h.key.process == key && !self.joined.is_kept(&h.key);
            if self.handles.get(slot).is_some_and(ends) {
                self.end(slot, Why::Freed, time, out);
                self.handles.gone(slot);
            }
        }
        self.bound_gone();
    }

    /// Ends a handle, and its connection.
    pub(super) fn end(&mut self, slot: Slot, why: Why, time: Monotonic, out: Out) {
        self.release(slot, out);
        self.open(slot, out);
        let Some(handle) = self.handles.get(slot) else { return };
        if matches!(handle.view, View::Ended { .. }) {
            return;
        }
        if let Some(stream) = handle.stream().filter(|s| s.has_output()) {
            let steps = handle.ending.rest(&stream.finished, stream.reset, why != Why::Gone, time);
            self.announce(slot, true, out);
            steps.into_iter().for_each(|(time, step)| self.send(slot, time, step, out));
            self.send(slot, time, Item::End, out);
        }
        let Some(handle) = self.handles.get_mut(slot) else { return };
        if let Some(traffic) = traffic_of(handle) {
            self.processes.count(handle.key.process, &traffic);
        }
        for (caller, traffic) in handle.stream().into_iter().flat_map(|s| &s.callers) {
            self.processes.count(*caller, traffic);
        }
        let (id, second) = (handle.connection(), matches!(handle.view, View::UnwrittenEnd { .. }));
        handle.order = order::Order::default();
        (handle.server_name, handle.alpn) = (None, None);
        self.timers.clear(&mut handle.deadlines, slot);
        if let Some(bind) = &handle.bind {
            forget_at_socket(&mut self.sockets, bind.socket, slot);
        }
        if let Some(tuple) = handle.tuple() {
            self.ends.closed(tuple, slot, time);
        }
        self.handles.ended(slot, id, second, why != Why::Closed);
        self.bound_gone();
    }

    /// Gives a step to the handle's stream, and opens it if it may.
    pub(super) fn send(&mut self, slot: Slot, time: Monotonic, item: Item, out: Out) {
        self.announce(slot, false, out);
        let awaited = self.awaited(slot);
        let Some(handle) = self.handles.get_mut(slot) else { return };
        let Some(stream) = handle.stream_mut() else { return };
        let about = About { clock: &self.clock, processes: &self.processes };
        self.opening += stream.put(about, time, item, out);
        if stream.is_flowing() {
            return;
        }
        if let Some(patience) = awaited {
            if stream.waiting() <= self.limits.opening_bytes && self.opening <= self.limits.opening_total {
                if stream.items() == 1 {
                    let until = self.now.saturating_add(patience);
                    self.timers.set(&mut handle.deadlines, slot, Timer::Opening, Some(until));
                }
                return;
            }
            self.bounds.opening_amount += 1;
        }
        self.open(slot, out);
    }
}

fn forget_at_socket(sockets: &mut HashMap<SocketKey, Vec<Slot>>, socket: SocketKey, slot: Slot) {
    if let Some(slots) = sockets.get_mut(&socket) {
        slots.retain(|s| *s != slot);
        if slots.is_empty() {
            sockets.remove(&socket);
        }
    }
}

fn time_of(event: &Event) -> Option<Monotonic> {
    match event {
        Event::Data(data) => Some(data.returned),
        Event::Bind(bind) => Some(bind.time),
        Event::Handle(fact) => Some(fact.time),
        Event::SocketEnd(end) => Some(end.time),
        Event::Process(seen) => Some(seen.time),
        Event::Exit(_, time) | Event::Stop(time) => Some(*time),
        Event::File(file) => Some(file.time),
        Event::NoSocket(seen) => Some(seen.time),
        Event::Start(start) => Some(start.time),
        Event::Clock(event::Clock { monotonic, .. }) => Some(*monotonic),
        Event::ProcessFacts(..)
        | Event::Library(_)
        | Event::Verdict(..)
        | Event::Counters(_)
        | Event::Losses(_)
        | Event::Final(..) => None,
    }
}
