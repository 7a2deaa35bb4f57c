//! Any sequence of events: whatever comes, what goes out is a well-formed story of each connection.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use super::segment::{ConnectionId, Segment, SegmentBody, Side};
use super::{Limits, Tracker, summary};
use crate::event::*;

/// SplitMix64 (Steele, Lea, Flood 2014): the sequence depends on the seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

/// The byte that truly stands at a place.
fn byte_at(handle: HandleKey, direction: Direction, offset: u64) -> u8 {
    let HandleKey { process, address, generation } = handle;
    let n = offset.wrapping_mul(31) ^ address.wrapping_mul(7) ^ generation ^ u64::from(process.pid) << 3;
    (n ^ (n >> 8) ^ direction as u64) as u8
}

/// How wild the events are.
#[derive(Clone, Copy)]
struct Mood {
    /// Offsets, lengths and times from the whole range of numbers.
    extreme: bool,
    /// Out of this many, one record is lost.
    loss: u64,
    /// Each call is made by a thread of its own, so that its bytes can be told apart.
    threads: bool,
}

struct Source {
    random: Random,
    mood: Mood,
    time: u64,
    calls: u32,
    /// What each handle has moved: (offset, call number), read and written.
    moved: BTreeMap<HandleKey, [(u64, u32); 2]>,
}

impl Source {
    fn number(&mut self) -> u64 {
        let n = self.random.next();
        if self.mood.extreme && self.random.chance(20) {
            self.random.pick(&[n, u64::MAX, 1 << 62])
        } else {
            n % 300
        }
    }

    fn process(&mut self) -> ProcessKey {
        ProcessKey { pid: 1 + self.random.below(3) as u32, generation: 1 + self.random.below(2) }
    }

    fn handle(&mut self) -> HandleKey {
        HandleKey { process: self.process(), address: self.random.below(3), generation: self.random.below(3) }
    }

    fn task(&mut self, handle: HandleKey) -> Task {
        Task { process: handle.process, tid: self.random.below(3) as u32 }
    }

    fn call(&mut self, events: &mut Vec<Event>) {
        let handle = self.handle();
        let mut task = self.task(handle);
        if self.mood.threads {
            self.calls += 1;
            task.tid = self.calls + 2;
        }
        let direction = self.random.pick(&[Direction::Read, Direction::Write]);
        let [reads, writes] = *self.moved.entry(handle).or_default();
        let (call_offset, call_seq) = if direction == Direction::Read { reads } else { writes };
        let call_len = 1 + self.number().min(i64::MAX as u64 - 1);
        let next = (call_offset.saturating_add(call_len).min(i64::MAX as u64), call_seq.wrapping_add(1));
        self.moved.entry(handle).or_default()[direction as usize] = next;
        let call_offset =
            if self.mood.extreme && self.random.chance(30) { self.number() } else { call_offset };
        let awaits = self.random.below(3) as u32;
        let awaits_write = self.random.chance(3).then(|| writes.1.wrapping_add(awaits));
        let tuple_source =
            self.random.pick(&[TupleSource::None, TupleSource::SameCall, TupleSource::Remembered]);
        let back = self.number();
        let chunks = 1 + self.random.below(3);
        let mut at = 0;
        for i in 0..chunks {
            let chunk_len =
                if i + 1 == chunks { call_len - at } else { self.random.below(call_len - at + 1) };
            let captured = chunk_len.min(64 + self.random.below(300));
            let first = call_offset.wrapping_add(at);
            let payload: Bytes =
                (0..captured).map(|n| byte_at(handle, direction, first.wrapping_add(n))).collect();
            let missing = (captured < chunk_len).then_some(Missing::Limit);
            let data = Data {
                task,
                handle,
                library: self.random.below(4) as u32,
                direction,
                entered: self.time.saturating_sub(back),
                returned: self.time,
                call_seq,
                call_offset,
                call_len,
                chunk_offset: at,
                chunk_len,
                payload,
                missing,
                awaits_write: awaits_write.filter(|_| direction == Direction::Read),
                tuple_source,
            };
            at += chunk_len;
            if !self.random.chance(self.mood.loss) {
                if self.random.chance(40) {
                    events.push(Event::Data(data.clone()));
                }
                events.push(Event::Data(data));
            }
        }
    }

    fn fact(&mut self) -> Fact {
        let text = self.random.pick(&["", "a", "b"]).to_owned();
        let seq = self.random.below(40) as u32;
        let below = self.handle();
        self.random.pick(&[
            Fact::TlsRole(Role::Client),
            Fact::TlsRole(Role::Server),
            Fact::ServerName(text.clone()),
            Fact::Alpn(text),
            Fact::Shutdown,
            Fact::Free,
            Fact::Layer(below),
            Fact::ReadUnseen,
            Fact::CallLost(Direction::Read, Missing::Depth),
            Fact::CallLost(Direction::Write, Missing::Unfinished),
            Fact::WriteEmpty(seq),
        ])
    }

    fn other(&mut self) -> Event {
        let handle = self.handle();
        let task = self.task(handle);
        let (read, write) = (self.number(), self.number());
        let ends = Ends { read, write };
        let socket = SocketKey { address: self.random.below(6), generation: 1 };
        match self.random.below(10) {
            0..=3 => Event::Handle(HandleFact { task, handle, time: self.time, ends, fact: self.fact() }),
            4 | 5 => {
                let a = "127.0.0.1:443".parse().unwrap();
                let b = "127.0.0.1:40000".parse().unwrap();
                let (local, remote) = self.random.pick(&[(a, b), (b, a), (a, a)]);
                Event::Bind(Bind {
                    task,
                    handle,
                    time: self.time,
                    socket,
                    inode: 1,
                    cookie: None,
                    netns: self.random.below(3) as u32,
                    fd: None,
                    local,
                    remote,
                    isn: self.random.pick(&[(0, 0), (1, 2), (2, 1), (900, 1)]),
                    role: self.random.pick(&[None, Some(Role::Client), Some(Role::Server)]),
                    source: self.random.pick(&[TupleSource::SameCall, TupleSource::Layer]),
                    fresh: self.random.chance(2),
                    rtt: None,
                })
            }
            6 => {
                let (read, write) = (Some(Direction::Read), Some(Direction::Write));
                let fins =
                    self.random.pick(&[[None; 2], [read, None], [write, None], [read, write], [write, read]]);
                let resets = [Direction::Read, Direction::Write].map(|sender| Some(Closed::Reset(sender)));
                let closed = self.random.pick(&[
                    None,
                    Some(Closed::Orderly),
                    Some(Closed::Lost),
                    resets[0],
                    resets[1],
                ]);
                let read_up = fins.contains(&read) && self.random.chance(8);
                Event::SocketEnd(SocketEnd { socket, time: self.time, fins, read_up, closed })
            }
            7 if self.random.chance(4) => Event::Exit(handle.process, self.time),
            7 => Event::Process(ProcessSeen {
                key: handle.process,
                time: self.time,
                start_time: 0,
                cgroup: 0,
                uid: 0,
                gid: 0,
                parent: 0,
                netns: 0,
                comm: "p".into(),
                exe: "p".into(),
                args: vec!["p".into()],
            }),
            8 if self.random.chance(8) => Event::Final(handle, ends),
            8 if self.random.chance(3) => {
                let verdict = self.random.pick(&[Verdict::Pending, Verdict::Pending, Verdict::Proven]);
                // Of a library that turns out to be none, nothing is told from then on.
                let is_wrong = self.random.chance(20);
                Event::Verdict(self.random.below(3) as u32, if is_wrong { Verdict::Wrong } else { verdict })
            }
            8 => Event::ProcessFacts(handle.process, ProcessFacts::default()),
            _ => Event::Clock(Clock { monotonic: self.time, realtime: self.number() }),
        }
    }

    fn story(seed: u64, mood: Mood, steps: usize) -> Vec<Event> {
        let mut source = Source { random: Random(seed), mood, time: 1_000, calls: 0, moved: BTreeMap::new() };
        let mut events = Vec::new();
        for _ in 0..steps {
            let step = source.number();
            source.time = source.time.saturating_add(step);
            if source.mood.extreme && source.random.chance(50) {
                source.time = 1_000;
            }
            if source.random.chance(2) {
                source.call(&mut events);
            } else {
                let event = source.other();
                events.push(event);
            }
            // Records of different processors overtake each other.
            let n = events.len();
            if n > 1 && source.random.chance(10) {
                events.swap(n - 1, n - 2);
            }
        }
        events.push(Event::Stop(source.time));
        events.push(source.other());
        events
    }
}

#[derive(Default)]
struct Told {
    handle: Option<(HandleKey, Side)>,
    next: [u64; 2],
    /// How far the calls of each handle have come.
    own: BTreeMap<(HandleKey, bool), u64>,
    finished: [bool; 2],
    time: u64,
    peers: u32,
    ended: bool,
}

/// Checks each connection's story; gives the number of bytes that the payloads stand for.
fn check(events: &[Event], segments: &[Segment]) -> u128 {
    let call = |event: &Event| match event {
        Event::Data(data) => Some((data.task.tid, data.clone())),
        _ => None,
    };
    let mut calls: BTreeMap<u32, Vec<Data>> = BTreeMap::new();
    for (tid, data) in events.iter().filter_map(call) {
        calls.entry(tid).or_default().push(data);
    }
    let handles: HashSet<_> = calls.values().flatten().map(|data| data.handle).collect();
    let only = handles.len() == 1;
    let mut connections: BTreeMap<ConnectionId, Told> = BTreeMap::new();
    let mut bytes = 0;
    for segment in segments {
        let told = connections.entry(segment.connection).or_default();
        assert!(!told.ended, "after the end: {segment:?}");
        assert!(segment.time >= told.time, "back in time: {segment:?}");
        told.time = segment.time;
        assert_eq!(
            matches!(segment.body, SegmentBody::Open(_)),
            told.handle.is_none(),
            "opens first, once: {segment:?}"
        );
        match &segment.body {
            SegmentBody::Open(c) => {
                assert_eq!(c.id, segment.connection);
                assert!(c.started <= segment.time);
                assert_eq!(c.tuple.is_none(), c.tuple_source == TupleSource::None);
                told.handle = Some((c.handle, c.local_side));
                assert!(c.layer_below.is_none_or(|below| below != c.id));
            }
            SegmentBody::Payload(p) => {
                let (handle, local) = told.handle.unwrap();
                let side = p.from as usize;
                assert!(!told.finished[side], "after its end: {p:?}");
                assert_eq!(p.offset, told.next[side], "offsets follow each other");
                assert!(p.len > 0 && p.bytes.len() as u64 <= p.len);
                assert_eq!(p.missing.is_some(), (p.bytes.len() as u64) < p.len);
                told.next[side] = p.offset.checked_add(p.len).unwrap();
                bytes += u128::from(p.len);
                let direction = if p.from == local { Direction::Write } else { Direction::Read };
                let calls = calls.get(&p.tid).map_or(&[][..], |calls| calls);
                if p.bytes.is_empty() {
                    // Nothing to compare.
                } else if calls.iter().all(|c| c.call_seq == calls[0].call_seq && c.handle == calls[0].handle)
                {
                    let Data { handle, call_offset, call_len, .. } = calls[0];
                    assert_eq!((handle.process, calls[0].direction), (p.process.key, direction));
                    let end = told.own.entry((handle, p.from == local)).or_default();
                    let fits = |at: &u64| {
                        let at = |n: usize| byte_at(handle, direction, at.wrapping_add(n as u64));
                        p.bytes.iter().enumerate().all(|(n, byte)| *byte == at(n))
                    };
                    let range = call_offset.max(*end)..call_offset + call_len.min(4_096);
                    if call_len < 4_096 {
                        let at = range.clone().find(fits);
                        let at = at.unwrap_or_else(|| panic!("bytes out of their place: {p:?} {range:?}"));
                        *end = at + p.bytes.len() as u64;
                    }
                } else if only {
                    for (n, byte) in p.bytes.iter().enumerate() {
                        let true_byte = byte_at(handle, direction, p.offset + n as u64);
                        assert_eq!(*byte, true_byte, "a byte out of its place");
                    }
                }
            }
            SegmentBody::Skip { from, .. } => assert!(!told.finished[*from as usize]),
            SegmentBody::Finish(side) => {
                assert!(!std::mem::replace(&mut told.finished[*side as usize], true))
            }
            SegmentBody::Peer(_) => {
                told.peers += 1;
                assert_eq!(told.peers, 1);
            }
            SegmentBody::ServerName(_) | SegmentBody::Alpn(_) | SegmentBody::Reset { .. } => {}
            SegmentBody::End => told.ended = true,
        }
    }
    assert!(connections.values().all(|told| told.ended), "after the stop, all have ended");
    bytes
}

fn run(events: &[Event], limits: Limits) -> (Vec<Segment>, Tracker) {
    let mut segments = Vec::new();
    let mut tracker = Tracker::new(limits);
    for event in events {
        tracker.event(event.clone(), &mut |segment| segments.push(segment));
    }
    (segments, tracker)
}

/// Limits so small that all of them are met.
fn narrow() -> Limits {
    Limits {
        handles: 40,
        ended: 6,
        processes: 4,
        libraries: 2,
        held_bytes: 1_500,
        held_records: 4,
        held_time: 4_000,
        held_total: 1_800,
        opening_bytes: 1_000,
        opening_time: 1_500,
        socket_time: 1_500,
        opening_total: 1_500,
        closed_time: 300,
    }
}

#[test]
fn every_story_is_well_formed_and_always_the_same() {
    let mut met = summary::Bounds::default();
    let mut seen = HashSet::new();
    for seed in 0..400 {
        let mood = Mood {
            extreme: seed % 4 == 3,
            loss: if seed % 2 == 0 { 10 } else { 1_000 },
            threads: seed % 5 != 0,
        };
        let limits = if seed % 3 == 0 { Limits::default() } else { narrow() };
        let events = Source::story(seed, mood, 400);
        let (segments, tracker) = run(&events, limits);
        let bytes = check(&events, &segments);
        assert_eq!(run(&events, limits).0, segments, "seed {seed}");
        let summary = tracker.summary();
        let total = summary.total;
        if !mood.extreme {
            assert_eq!(bytes, u128::from(total.read + total.written + total.missing.total()), "seed {seed}");
        }
        let opened = segments.iter().filter(|s| matches!(s.body, SegmentBody::Open(_))).count();
        assert_eq!((total.connections, summary.open), (opened as u64, 0));
        tracker.assert_empty();
        met.held_time += summary.bounds.held_time;
        met.held_amount += summary.bounds.held_amount;
        met.held_total += summary.bounds.held_total;
        met.opening_time += summary.bounds.opening_time;
        met.opening_amount += summary.bounds.opening_amount;
        met.handles_refused += summary.bounds.handles_refused;
        met.processes_refused += summary.bounds.processes_refused;
        met.processes_evicted += summary.bounds.processes_evicted;
        for segment in &segments {
            seen.insert(std::mem::discriminant(&segment.body));
        }
    }
    // The test would be worth little if it did not come to where it hurts.
    let each = [
        met.held_time,
        met.held_amount,
        met.held_total,
        met.opening_time,
        met.opening_amount,
        met.handles_refused,
        met.processes_refused,
        met.processes_evicted,
    ];
    assert!(each.iter().all(|n| *n > 0), "{met:?}");
    assert_eq!(seen.len(), 9, "all kinds of segments appear");
}

/// One thread reads and one writes, without a pause and without regard to each other; the kernel
/// side does what it says. Gives the records in the order of the ring.
fn full_duplex(random: &mut Random, loss: u64) -> Vec<Data> {
    let process = ProcessKey { pid: 1, generation: 1 };
    let handle = HandleKey { process, address: 1, generation: 1 };
    let mut calls: Vec<Data> = Vec::new();
    for direction in [Direction::Write, Direction::Read] {
        let (mut time, mut call_offset) = (1_000, 0);
        for call_seq in 0..40 {
            // Even times for the one, odd ones for the other: nothing happens at the same time.
            let entered = time + 2 + 2 * random.below(50);
            let returned = entered + 2 + 2 * random.below(200);
            // The return probe of 12 chunks takes 48 at most, and then the thread goes on.
            time = returned + 60;
            let call_len = 1 + random.below(12);
            let odd = direction as u64;
            calls.push(Data {
                task: Task { process, tid: 10 + direction as u32 },
                handle,
                library: 0,
                direction,
                entered: entered + odd,
                returned: returned + odd,
                call_seq,
                call_offset,
                call_len,
                chunk_offset: 0,
                chunk_len: call_len,
                payload: Bytes::new(),
                missing: None,
                awaits_write: None,
                tuple_source: TupleSource::None,
            });
            call_offset += call_len;
        }
    }
    // Each call's chunks, and when each is reserved: the return probe takes its time.
    let chunks: Vec<Vec<(u64, u64, u64)>> = calls
        .iter()
        .map(|call| {
            let (mut at, mut time, mut chunks) = (0, call.returned, Vec::new());
            while at < call.call_len {
                let chunk_len = (1 + random.below(6)).min(call.call_len - at);
                chunks.push((time, at, chunk_len));
                at += chunk_len;
                time += 1 + random.below(4);
            }
            chunks
        })
        .collect();
    // A write is in flight until all its records are in the ring.
    let in_flight = |time: u64| {
        let mut all = calls.iter().zip(&chunks);
        let write = all.find(|(c, chunks)| {
            let last = chunks.last().map_or(c.returned, |chunk| chunk.0);
            c.direction == Direction::Write && c.entered < time && time <= last
        });
        write.map(|(c, _)| c.call_seq)
    };
    let mut ring = Vec::new();
    for (call, chunks) in calls.iter().zip(&chunks) {
        let awaits_write = in_flight(call.returned).filter(|_| call.direction == Direction::Read);
        for &(time, at, chunk_len) in chunks {
            let bytes = (0..chunk_len).map(|n| byte_at(handle, call.direction, call.call_offset + at + n));
            let payload = bytes.collect();
            if !random.chance(loss) {
                ring.push((
                    time,
                    Data { chunk_offset: at, chunk_len, payload, awaits_write, ..call.clone() },
                ));
            }
        }
    }
    ring.sort_by_key(|(time, chunk)| (*time, chunk.direction as u8));
    ring.into_iter().map(|(_, chunk)| chunk).collect()
}

#[test]
fn a_full_duplex_program_shows_every_call_in_its_true_place() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let loss = [u64::MAX, 8][seed as usize % 2];
        let ring = full_duplex(&mut random, loss);
        let mut events: Vec<Event> = ring.iter().cloned().map(Event::Data).collect();
        events.push(Event::Stop(100_000));
        let (segments, tracker) = run(&events, Limits::default());
        check(&events, &segments);
        assert_eq!(tracker.summary().anomalies, summary::Anomalies::default());

        let place = |data: &Data| match data.direction {
            Direction::Read => data.returned,
            Direction::Write => data.entered,
        };
        let mut expected: Vec<_> = ring.iter().map(|d| (place(d), d.payload.clone())).collect();
        expected.sort_by_key(|(place, _)| *place);
        let told = segments.iter().filter_map(|s| match &s.body {
            SegmentBody::Payload(p) if p.missing.is_none() => Some((s.time, p.bytes.clone())),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), expected, "seed {seed}");
        if loss == u64::MAX {
            assert_eq!(tracker.summary().total.missing.total(), 0);
        }
    }
}
