//! Between track and synth: segments of connections come, and leave without secrets.
//!
//! The bytes of a segment may be decided later than those that follow on other connections, so each connection has a queue of
//! its own. What waits for longer than [`HOLD_TIME`], or is more than [`HELD_MAX`] in all, is decided by filling.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::arguments;
use super::conversation::{self, Conversation};
use super::engine::Engine;
use super::kind::{Found, Kind};
use super::note;
use crate::event::{Library, ProcessKey};
use crate::track::segment::{Connection, ConnectionId, Process, Segment, SegmentBody, Side, Tuple, WallTime};

/// How long a segment waits for the rest of a value or of a compressed body, in ns.
pub const HOLD_TIME: u64 = 1_000_000_000;

/// Bytes that wait, of all connections.
pub const HELD_MAX: usize = 64 << 20;

/// Processes whose names are remembered. At the bound all are forgotten.
const PROCESSES_MAX: usize = 4096;

/// A segment that waits.
#[derive(Debug)]
struct Waiting {
    segment: Segment,
    /// What is decided of its payload.
    bytes: Vec<u8>,
    undecided: usize,
    kinds: BTreeSet<Kind>,
}

/// A connection.
#[derive(Debug)]
struct Held {
    conversation: Conversation,
    queue: VecDeque<Waiting>,
    /// Number of the first in the queue.
    first: u64,
    /// Of each side, the numbers of those with undecided bytes.
    undecided: [VecDeque<u64>; 2],
}

/// Takes secrets out of what [`crate::track`] gives.
pub struct Redactor {
    engine: Engine,
    connections: HashMap<ConnectionId, Held>,
    /// Undecided bytes.
    held: usize,
    processes: HashMap<ProcessKey, (Arc<Process>, Arc<Process>)>,
    libraries: Vec<(Arc<Library>, Arc<Library>)>,
    kinds: BTreeMap<Kind, u64>,
}

trait Counts {
    fn extend_by(&mut self, found: &[Found]);
}

impl Counts for BTreeMap<Kind, u64> {
    fn extend_by(&mut self, found: &[Found]) {
        for one in found {
            *self.entry(one.kind).or_default() += 1;
        }
    }
}

fn side(from: Side) -> conversation::Side {
    match from {
        Side::Client => conversation::Side::A,
        Side::Server => conversation::Side::B,
    }
}

impl Redactor {
    /// One that works by the rules of `engine`.
    pub fn new(engine: Engine) -> Redactor {
        Redactor {
            engine,
            connections: HashMap::new(),
            held: 0,
            processes: HashMap::new(),
            libraries: Vec::new(),
            kinds: BTreeMap::new(),
        }
    }

    /// How often what kind was found so far.
    pub fn kinds(&self) -> &BTreeMap<Kind, u64> {
        &self.kinds
    }

    /// What the file says of itself.
    pub fn mark(&self) -> String {
        self.engine.rules().mark()
    }

    /// A comment of the file, without secrets.
    pub fn comment(&mut self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let found = note::comment(&mut self.engine, &mut bytes);
        self.count(&found);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn count(&mut self, found: &[Found]) {
        self.kinds.extend_by(found);
    }

    fn name(&mut self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let found = note::note(&mut self.engine, &mut bytes);
        self.count(&found);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn host(&mut self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let found = note::host(&mut self.engine, &mut bytes);
        self.count(&found);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn tuple(&mut self, tuple: Tuple) -> Tuple {
        if !self.engine.hides_addresses() {
            return tuple;
        }
        self.count(&[Found { at: 0, kind: Kind::Address }]);
        let own = self.engine.addresses();
        let pseudonym = |end: SocketAddr| {
            let ip = match end.ip() {
                IpAddr::V4(four) => own.v4(four.octets()).into(),
                IpAddr::V6(six) => own.v6(six.octets()).into(),
            };
            SocketAddr::new(ip, end.port())
        };
        Tuple { local: pseudonym(tuple.local), remote: pseudonym(tuple.remote) }
    }

    /// A process whose names and arguments hold no secrets.
    fn process(&mut self, process: &Arc<Process>) -> Arc<Process> {
        if let Some((before, after)) = self.processes.get(&process.key)
            && (Arc::ptr_eq(before, process) || before == process)
        {
            return Arc::clone(after);
        }
        let args: Vec<String> = arguments(&process.args).iter().map(|arg| self.name(arg)).collect();
        let after = Arc::new(Process {
            key: process.key,
            comm: self.name(&process.comm),
            exe: self.name(&process.exe),
            args,
            uid: process.uid,
            container: process.container.as_ref().map(|text| self.name(text)),
        });
        if self.processes.len() >= PROCESSES_MAX {
            self.processes.clear();
        }
        self.processes.insert(process.key, (Arc::clone(process), Arc::clone(&after)));
        after
    }

    fn library(&mut self, library: &Arc<Library>) -> Arc<Library> {
        if let Some((_, after)) = self.libraries.iter().find(|(before, _)| Arc::ptr_eq(before, library)) {
            return Arc::clone(after);
        }
        let path = self.name(&library.path);
        let after = match path == library.path {
            true => Arc::clone(library),
            false => Arc::new(Library { path, ..(**library).clone() }),
        };
        if self.libraries.len() >= PROCESSES_MAX {
            self.libraries.clear();
        }
        self.libraries.push((Arc::clone(library), Arc::clone(&after)));
        after
    }

    fn connection(&mut self, connection: &Connection) -> Arc<Connection> {
        Arc::new(Connection {
            process: self.process(&connection.process),
            library: connection.library.as_ref().map(|library| self.library(library)),
            server_name: connection.server_name.as_ref().map(|name| self.host(name)),
            tuple: connection.tuple.map(|tuple| self.tuple(tuple)),
            ..connection.clone()
        })
    }

    /// Takes a segment; gives those that are ready.
    pub fn segment(&mut self, mut segment: Segment, out: &mut dyn FnMut(Segment)) {
        let id = segment.connection;
        segment.body = match segment.body {
            SegmentBody::Open(connection) => {
                let held = Held {
                    conversation: Conversation::new(connection.from_start),
                    queue: VecDeque::new(),
                    first: 0,
                    undecided: Default::default(),
                };
                self.connections.insert(id, held);
                SegmentBody::Open(self.connection(&connection))
            }
            SegmentBody::Payload(payload) => {
                let process = self.process(&payload.process);
                SegmentBody::Payload(crate::track::segment::Payload { process, ..payload })
            }
            SegmentBody::Peer(process) => SegmentBody::Peer(self.process(&process)),
            SegmentBody::ServerName(name) => SegmentBody::ServerName(self.host(&name)),
            other => other,
        };
        let Some(held) = self.connections.get_mut(&id) else {
            // Nothing comes of a connection that was not opened; its bytes would be shown as they are.
            debug_assert!(false, "a segment of a connection that is not open");
            if !matches!(segment.body, SegmentBody::Payload(_)) {
                out(segment);
            }
            return;
        };
        let engine = &mut self.engine;
        let mut found = Vec::new();
        let both = [Side::Client, Side::Server];
        let is_over = matches!(segment.body, SegmentBody::End);
        let payload = match &segment.body {
            SegmentBody::Payload(payload) => Some((payload.from, payload.bytes.clone(), payload.len)),
            _ => None,
        };
        let skip = match &segment.body {
            SegmentBody::Skip { from, .. } => Some(*from),
            _ => None,
        };
        let ends: &[Side] = match &segment.body {
            SegmentBody::Finish(Side::Client) => &both[..1],
            SegmentBody::Finish(Side::Server) => &both[1..],
            SegmentBody::Reset { .. } | SegmentBody::End => &both,
            _ => &[],
        };
        let len = payload.as_ref().map_or(0, |(_, bytes, _)| bytes.len());
        let number = held.first + held.queue.len() as u64;
        held.queue.push_back(Waiting { segment, bytes: Vec::new(), undecided: len, kinds: BTreeSet::new() });
        self.held += len;
        let mut decided = Vec::new();
        if let Some((from, bytes, all)) = payload {
            if !bytes.is_empty() {
                held.undecided[side(from) as usize].push_back(number);
                held.conversation.push(engine, side(from), &bytes, &mut decided, &mut found);
            }
            let missing = all.saturating_sub(bytes.len() as u64);
            if missing > 0 {
                held.conversation.hole(engine, side(from), Some(missing), &mut decided, &mut found);
            }
            self.held -= held.give(from, &decided, &found);
        }
        if let Some(from) = skip {
            held.conversation.hole(engine, side(from), None, &mut decided, &mut found);
            self.held -= held.give(from, &decided, &found);
        }
        for from in ends {
            decided.clear();
            self.kinds.extend_by(&found);
            found.clear();
            held.conversation.end(engine, side(*from), &mut decided, &mut found);
            self.held -= held.give(*from, &decided, &found);
        }
        held.release(false, out);
        if is_over {
            self.held -= held.abandon(out);
            self.connections.remove(&id);
        }
        self.count(&found);
        if self.held > HELD_MAX {
            self.give_up(WallTime::MAX, out);
        }
    }

    /// It is `now`: what has waited too long waits no longer.
    pub fn tick(&mut self, now: WallTime, out: &mut dyn FnMut(Segment)) {
        self.give_up(now.saturating_sub(HOLD_TIME), out);
    }

    /// Decides what has waited since before `until`.
    fn give_up(&mut self, until: WallTime, out: &mut dyn FnMut(Segment)) {
        let is_old = |held: &Held| held.waits_since().is_some_and(|time| time <= until);
        let mut ids: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, held)| is_old(held)).map(|(id, _)| *id).collect();
        // A replay gives the same file.
        ids.sort_unstable();
        for id in ids {
            let Some(held) = self.connections.get_mut(&id) else { continue };
            for from in [Side::Client, Side::Server] {
                if !held.undecided[side(from) as usize].is_empty() {
                    let (mut decided, mut found) = (Vec::new(), Vec::new());
                    held.conversation.give_up(&mut self.engine, side(from), &mut decided, &mut found);
                    self.kinds.extend_by(&found);
                    self.held -= held.give(from, &decided, &found);
                }
            }
            held.release(true, out);
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self, out: &mut dyn FnMut(Segment)) {
        self.give_up(WallTime::MAX, out);
    }
}

impl Held {
    /// Since when something waits.
    fn waits_since(&self) -> Option<WallTime> {
        let waits = |waiting: &&Waiting| waiting.undecided > 0;
        self.queue.iter().find(waits).or(self.queue.front()).map(|waiting| waiting.segment.time)
    }

    /// Puts decided bytes into the segments that they are of. Gives how many.
    fn give(&mut self, from: Side, mut decided: &[u8], found: &[Found]) -> usize {
        let given = decided.len();
        let mut found = found.iter().peekable();
        let numbers = &mut self.undecided[side(from) as usize];
        while let Some(number) = numbers.front() {
            let Some(waiting) = self.queue.get_mut((number - self.first) as usize) else { break };
            let (now, later) = decided.split_at(waiting.undecided.min(decided.len()));
            waiting.bytes.extend_from_slice(now);
            waiting.undecided -= now.len();
            decided = later;
            let end = (given - decided.len()) as u64;
            while let Some(one) = found.next_if(|one| one.at < end) {
                waiting.kinds.insert(one.kind);
            }
            if waiting.undecided > 0 {
                break;
            }
            numbers.pop_front();
        }
        debug_assert!(decided.is_empty(), "more bytes came back than were given");
        given - decided.len()
    }

    /// Lets those go that are decided and have nothing undecided before them. What opens a connection waits for its first
    /// bytes, which decide how it is written, unless it is too late.
    fn release(&mut self, is_late: bool, out: &mut dyn FnMut(Segment)) {
        while let Some(first) = self.queue.front().filter(|first| first.undecided == 0) {
            let opens = matches!(first.segment.body, SegmentBody::Open(_));
            if opens && !is_late && self.queue.get(1).is_none_or(|next| next.undecided > 0) {
                return;
            }
            let Some(Waiting { mut segment, bytes, kinds, .. }) = self.queue.pop_front() else { return };
            self.first += 1;
            if let SegmentBody::Payload(payload) = &mut segment.body
                && payload.bytes != bytes
            {
                payload.bytes = bytes.into();
                payload.redacted = kinds.into_iter().map(Kind::name).collect();
            }
            out(segment);
        }
    }

    /// The connection is over: what is left goes, without the bytes that nobody has decided. Gives how many these are.
    fn abandon(&mut self, out: &mut dyn FnMut(Segment)) -> usize {
        let mut left = 0;
        for waiting in &mut self.queue {
            debug_assert_eq!(waiting.undecided, 0, "a connection that has ended leaves nothing undecided");
            left += waiting.undecided;
            waiting.bytes.resize(waiting.bytes.len() + waiting.undecided, super::fill::FILLER);
            waiting.undecided = 0;
        }
        self.release(true, out);
        left
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
