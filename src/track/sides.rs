//! Handles that stand for one direction of a connection, as far as one key goes (rustls), joined to
//! connections by their sockets. What follows hears of one handle for each connection.
//!
//! A side tells its socket by its ciphertext, which for what is sent is a moment later. Until then its data
//! waits. A key that follows another goes on where that has ended.

use std::collections::{HashMap, VecDeque};

use super::Limits;
use super::both::Both;
use crate::event::*;

/// Set in the address of such a handle.
const SIDE: u64 = 1 << numbers::HANDLE_BIT_SIDE;
/// The direction that it stands for.
const WRITES: u64 = 1 << numbers::HANDLE_BIT_WRITES;
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
            Joined { handle: plain(key), source: bind.source, reach: Both::default(), sides: Vec::new() }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SOCKET: SocketKey = SocketKey { address: 9, generation: 1 };
    const PROCESS: ProcessKey = ProcessKey { pid: 1, generation: 1 };
    const TASK: Task = Task { process: PROCESS, tid: 1 };

    fn key(address: u64, generation: u64) -> HandleKey {
        HandleKey { process: PROCESS, address: address | SIDE, generation }
    }

    fn writer(generation: u64) -> HandleKey {
        key(0x10 | WRITES, generation)
    }

    fn reader(generation: u64) -> HandleKey {
        key(0x20, generation)
    }

    fn data(handle: HandleKey, call_seq: u32, call_offset: u64, len: usize) -> Event {
        Event::Data(Data {
            task: TASK,
            handle,
            library: 0,
            direction: direction(handle),
            entered: 0,
            returned: 0,
            call_seq,
            call_offset,
            call_len: len as u64,
            chunk_offset: 0,
            chunk_len: len as u64,
            payload: Bytes::from(vec![0; len]),
            missing: None,
            awaits_write: None,
            tuple_source: TupleSource::None,
        })
    }

    fn bind(handle: HandleKey, socket: SocketKey) -> Event {
        let local = "127.0.0.1:1".parse().unwrap();
        Event::Bind(Bind {
            task: TASK,
            handle,
            time: 0,
            socket,
            inode: 0,
            cookie: None,
            netns: 0,
            fd: None,
            local,
            remote: local,
            isn: (0, 0),
            role: None,
            source: TupleSource::Ciphertext,
            fresh: true,
        })
    }

    fn fact(handle: HandleKey, fact: Fact, write: u64) -> Event {
        Event::Handle(HandleFact { task: TASK, handle, time: 0, ends: Ends { read: 0, write }, fact })
    }

    /// What is heard, short: which handle, and where its bytes stand.
    fn heard(sides: &mut Sides, now: Monotonic, event: Event) -> Vec<String> {
        let mut out = Vec::new();
        sides.take(event, now, &Limits::default(), &mut out);
        let waiting: usize = sides.sides.values().map(|side| side.bytes).sum();
        assert_eq!(sides.held, waiting);
        let short = |event: Event| match event {
            Event::Data(d) => format!(
                "{:?} {:x} {}+{} call {} {}",
                d.direction,
                d.handle.address,
                d.call_offset,
                d.call_len,
                d.call_seq,
                d.tuple_source.as_str()
            ),
            Event::Bind(b) => format!("bind {:x}", b.handle.address),
            Event::Handle(f) => format!("{:?} {:x} {:?}", f.fact, f.handle.address, f.ends),
            Event::Final(handle, ends) => format!("final {:x} {} {}", handle.address, ends.read, ends.write),
            Event::SocketClosed(_) => "closed".into(),
            other => format!("{other:?}"),
        };
        out.into_iter().map(short).collect()
    }

    #[test]
    fn directions_and_keys_of_a_socket_are_one_connection() {
        let mut sides = Sides::default();
        let mut hear = |event| heard(&mut sides, 0, event);
        assert!(hear(data(writer(1), 0, 0, 5)).is_empty());
        assert_eq!(hear(bind(reader(1), SOCKET)), ["bind 20"]);
        assert_eq!(hear(data(reader(1), 0, 0, 7)), ["Read 20 0+7 call 0 ciphertext"]);
        assert_eq!(hear(bind(writer(1), SOCKET)), ["Write 20 0+5 call 0 ciphertext"]);
        assert_eq!(hear(data(writer(1), 1, 5, 4)), ["Write 20 5+4 call 1 ciphertext"]);
        // Another key; three bytes of the one before were lost, as is told when it ends.
        assert!(hear(data(writer(2), 0, 0, 6)).is_empty());
        assert_eq!(hear(fact(writer(1), Fact::Free, 12)), ["final 20 7 12"]);
        assert_eq!(hear(bind(writer(2), SOCKET)), ["Write 20 12+6 call 2 ciphertext"]);
        let lost = Fact::CallLost(Direction::Write, Missing::Unfinished);
        assert_eq!(
            hear(fact(writer(2), lost, 6)),
            ["CallLost(Write, Unfinished) 20 Ends { read: 7, write: 18 }"]
        );
        assert_eq!(hear(Event::Final(writer(2), Ends { read: 0, write: 8 })), ["final 20 7 20"]);
        // The same address, another socket.
        assert!(hear(data(writer(3), 0, 0, 1)).is_empty());
        let other = SocketKey { address: 8, generation: 1 };
        assert_eq!(hear(bind(writer(3), other)), ["bind 10", "Write 10 0+1 call 0 ciphertext"]);
    }

    #[test]
    fn what_has_no_socket_in_time_is_heard_by_itself() {
        let mut sides = Sides::default();
        let second = Limits::default().socket_time;
        assert!(heard(&mut sides, 0, data(writer(1), 0, 0, 5)).is_empty());
        let clock = || Event::Clock(Clock { monotonic: 0, realtime: 0 });
        assert_eq!(heard(&mut sides, second - 1, clock()).len(), 1);
        assert_eq!(heard(&mut sides, second, clock())[0], "Write 10 0+5 call 0 none");
        assert_eq!(heard(&mut sides, second, data(writer(1), 1, 5, 1)), ["Write 10 5+1 call 1 none"]);
        let amount = Limits::default().opening_bytes + 1;
        assert_eq!(heard(&mut sides, second, data(reader(1), 0, 0, amount)).len(), 1);
        assert!(heard(&mut sides, second, data(reader(2), 0, 0, 3)).is_empty());
        assert_eq!(heard(&mut sides, second, Event::Stop(second)).len(), 2);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut sides = Sides::default();
        for n in 0..2 * CLOSED_MAX as u64 {
            let socket = SocketKey { address: n, generation: 1 };
            heard(&mut sides, 0, bind(key(n, n), socket));
            heard(&mut sides, 0, Event::SocketClosed(SocketClosed { socket, time: 0, reset: false }));
        }
        assert_eq!((sides.sides.len(), sides.joined.len()), (CLOSED_MAX, CLOSED_MAX));
        heard(&mut sides, 0, Event::Exit(PROCESS, 0));
        assert!(sides.sides.is_empty() && sides.joined.is_empty());
    }
}
