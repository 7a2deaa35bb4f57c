//! Scenes from the lives of connections.

use bytes::Bytes;

use super::segment::{Connection, RoleSource, Segment, SegmentBody, Side};
use super::{Limits, Tracker};
use crate::event::*;

const MS: u64 = 1_000_000;
const CLIENT: (&str, &str) = ("10.0.0.1:40000", "10.0.0.2:443");
const SERVER: (&str, &str) = ("10.0.0.2:443", "10.0.0.1:40000");

const KB: usize = 1_024;

fn kilobyte() -> &'static str {
    String::from_utf8(vec![b'x'; KB]).unwrap().leak()
}

struct Scene {
    tracker: Tracker,
    segments: Vec<Segment>,
    told: usize,
}

fn process(pid: u32) -> ProcessKey {
    ProcessKey { pid, generation: 1 }
}

fn handle(pid: u32, address: u64) -> HandleKey {
    HandleKey { process: process(pid), address, generation: 1 }
}

fn data(
    handle: HandleKey,
    direction: Direction,
    seq: u32,
    offset: u64,
    text: &'static str,
    time: u64,
) -> Data {
    Data {
        task: Task { process: handle.process, tid: handle.process.pid + direction as u32 },
        handle,
        library: 0,
        direction,
        entered: time,
        returned: time + 2,
        call_seq: seq,
        call_offset: offset,
        call_len: text.len() as u64,
        chunk_offset: 0,
        chunk_len: text.len() as u64,
        payload: Bytes::from_static(text.as_bytes()),
        missing: None,
        awaits_write: None,
        tuple_source: TupleSource::SameCall,
    }
}

fn read(handle: HandleKey, seq: u32, offset: u64, text: &'static str, time: u64) -> Data {
    data(handle, Direction::Read, seq, offset, text, time)
}

fn write(handle: HandleKey, seq: u32, offset: u64, text: &'static str, time: u64) -> Data {
    data(handle, Direction::Write, seq, offset, text, time)
}

fn bind(handle: HandleKey, socket: u64, (local, remote): (&str, &str), time: u64) -> Bind {
    Bind {
        task: Task { process: handle.process, tid: handle.process.pid },
        handle,
        time,
        socket: SocketKey { address: socket, generation: 1 },
        inode: socket + 1_000,
        cookie: None,
        netns: 5,
        fd: Some(3),
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        isn: (0, 0),
        role: None,
        source: TupleSource::SameCall,
        fresh: true,
        rtt: None,
    }
}

fn fact(handle: HandleKey, time: u64, fact: Fact) -> HandleFact {
    let task = Task { process: handle.process, tid: handle.process.pid };
    HandleFact { task, handle, time, ends: Ends::default(), fact }
}

fn socket_end(socket: u64, time: u64, fins: [Option<Direction>; 2], closed: Option<Closed>) -> Event {
    let socket = SocketKey { address: socket, generation: 1 };
    Event::SocketEnd(SocketEnd { socket, time, fins, read_up: false, closed })
}

/// Nothing but that the socket is closed, or has received a RST.
fn closed(socket: u64, time: u64, reset: bool) -> Event {
    let how = if reset { Closed::Reset(Direction::Read) } else { Closed::Orderly };
    socket_end(socket, time, [None; 2], Some(how))
}

/// Nothing waits for its socket: most stories are of something else.
fn prompt() -> Limits {
    Limits { socket_time: 0, ..Limits::default() }
}

impl Scene {
    fn new() -> Scene {
        Scene::with(prompt())
    }

    fn with(limits: Limits) -> Scene {
        let mut scene = Scene { tracker: Tracker::new(limits), segments: Vec::new(), told: 0 };
        scene.event(Event::Clock(Clock { monotonic: 0, realtime: 1_000 }));
        for pid in [1, 2, 3] {
            scene.event(Event::ProcessFacts(process(pid), ProcessFacts::default()));
        }
        scene
    }

    fn event(&mut self, event: Event) -> &mut Scene {
        self.tracker.event(event, &mut |segment| self.segments.push(segment));
        self
    }

    fn data(&mut self, data: Data) -> &mut Scene {
        self.event(Event::Data(data))
    }

    fn bind(&mut self, bind: Bind) -> &mut Scene {
        self.event(Event::Bind(bind))
    }

    fn fact(&mut self, handle: HandleKey, time: u64, what: Fact) -> &mut Scene {
        self.event(Event::Handle(fact(handle, time, what)))
    }

    fn clock(&mut self, time: u64) -> &mut Scene {
        self.event(Event::Clock(Clock { monotonic: time, realtime: time + 1_000 }))
    }

    /// What came out since the last time.
    fn tell(&mut self) -> String {
        let words: Vec<_> = self.segments[self.told..].iter().map(word).collect();
        self.told = self.segments.len();
        words.join(" ")
    }

    fn connection(&self, id: u64) -> &Connection {
        let open = |s: &&Segment| s.connection.0 == id && matches!(s.body, SegmentBody::Open(_));
        match &self.segments.iter().find(open).expect("it opened").body {
            SegmentBody::Open(connection) => connection,
            _ => unreachable!(),
        }
    }

    fn times(&self) -> Vec<u64> {
        self.segments.iter().map(|s| s.time).collect()
    }
}

fn letter(side: Side) -> char {
    if side == Side::Client { 'C' } else { 'S' }
}

fn word(segment: &Segment) -> String {
    let body = match &segment.body {
        SegmentBody::Open(_) => "open".into(),
        SegmentBody::Payload(p) => {
            let hole = p.missing.map_or(String::new(), |m| format!("[{} {}]", p.len, m.as_str()));
            format!("{}{}:{}{hole}", letter(p.from), p.offset, String::from_utf8_lossy(&p.bytes))
        }
        SegmentBody::Skip { from, reason } => format!("{}[? {}]", letter(*from), reason.as_str()),
        SegmentBody::Peer(process) => format!("peer={}", process.key.pid),
        SegmentBody::ServerName(name) => format!("sni={name}"),
        SegmentBody::Alpn(name) => format!("alpn={name}"),
        SegmentBody::Finish(side) => format!("{}fin", letter(*side)),
        SegmentBody::Reset { from } => format!("{}rst", letter(*from)),
        SegmentBody::End => "end".into(),
    };
    format!("{}.{body}", segment.connection.0)
}

/// Functions that were found in code without names have to prove themselves; until they have, nothing is written.
#[test]
fn what_is_not_proven_waits() {
    let story = |verdict: Option<Verdict>| {
        let mut s = Scene::with(Limits::default());
        let h = handle(1, 8);
        let of = |data: Data| Data { library: 7, ..data };
        s.event(Event::Verdict(7, Verdict::Pending));
        s.bind(bind(h, 1, CLIENT, 6));
        s.data(of(write(h, 0, 0, "get", 10))).data(of(read(h, 0, 0, "ok", 20)));
        assert_eq!(s.tell(), "");
        // Of another library.
        let other = handle(2, 9);
        s.bind(bind(other, 2, ("10.0.0.1:40001", "10.0.0.2:443"), 21)).data(write(other, 0, 0, "o", 22));
        assert_eq!(s.tell(), "2.open 2.C0:o");
        match verdict {
            Some(verdict) => s.event(Event::Verdict(7, verdict)),
            // It has told nothing in a second.
            None => s.clock(1_100 * MS),
        };
        let told = s.tell();
        s.data(of(write(h, 1, 3, "more", 1_200 * MS)));
        s.event(closed(1, 1_300 * MS, false)).event(Event::Stop(1_400 * MS));
        (told, s.tell())
    };
    let known = "1.open 1.C0:get 1.S0:ok";
    assert_eq!(story(Some(Verdict::Proven)), (known.into(), "1.C3:more 1.Cfin 1.Sfin 1.end 2.end".into()));
    assert_eq!(story(None), (known.into(), "1.C3:more 1.Cfin 1.Sfin 1.end 2.end".into()));
    assert_eq!(story(Some(Verdict::Wrong)), (String::new(), "2.end".into()));
}

#[test]
fn a_plain_exchange() {
    let mut s = Scene::new();
    let h = handle(1, 8);
    s.fact(h, 5, Fact::TlsRole(Role::Client)).fact(h, 5, Fact::ServerName("a.test".into()));
    s.bind(bind(h, 1, CLIENT, 6));
    s.data(write(h, 0, 0, "get", 10)).data(read(h, 0, 0, "ok", 20));
    s.fact(h, 25, Fact::Alpn("h2".into())).fact(h, 26, Fact::Alpn("h2".into()));
    s.fact(h, 30, Fact::Shutdown)
        .fact(h, 31, Fact::Shutdown)
        .fact(h, 38, Fact::Free)
        .event(closed(1, 40, false));
    s.data(read(h, 1, 2, "late", 50));
    assert_eq!(s.tell(), "1.open 1.C0:get 1.S0:ok 1.alpn=h2 1.Cfin 1.Sfin 1.end");
    assert_eq!(s.times(), [1_010, 1_010, 1_022, 1_025, 1_040, 1_040, 1_040]);
    let c = s.connection(1);
    assert_eq!(
        (c.local_side, c.role_source, c.from_start, c.started),
        (Side::Client, RoleSource::Tls, true, 1_005)
    );
    assert_eq!((c.inode, c.fd, c.netns, c.server_name.as_deref()), (1_001, Some(3), 5, Some("a.test")));
    assert_eq!((c.tuple.unwrap().local, c.tuple_source), (CLIENT.0.parse().unwrap(), TupleSource::SameCall));
    let summary = s.tracker.summary();
    let row = &summary.processes[0];
    assert_eq!((row.key.pid, row.traffic.connections, row.traffic.read, row.traffic.written), (1, 1, 2, 3));
    assert_eq!((summary.open, summary.anomalies.after_end, summary.total), (0, 4, row.traffic));
}

mod closing;
mod shared;

#[test]
fn a_role_is_the_kernels_then_the_calls_then_a_guess() {
    let role = |kernel, tls: Option<Role>, tuple: Option<(&str, &str)>| {
        let mut s = Scene::new();
        let h = handle(1, 8);
        if let Some(tuple) = tuple {
            s.bind(Bind { role: kernel, ..bind(h, 1, tuple, 1) });
        }
        if let Some(tls) = tls {
            s.fact(h, 2, Fact::TlsRole(tls));
        }
        s.data(write(h, 0, 0, "x", 3));
        let c = s.connection(1);
        (c.local_side, c.role_source)
    };
    use Role::{Client, Server};
    assert_eq!(role(Some(Server), Some(Client), Some(CLIENT)), (Side::Server, RoleSource::Kernel));
    assert_eq!(role(None, Some(Server), Some(CLIENT)), (Side::Server, RoleSource::Tls));
    assert_eq!(role(None, None, Some(CLIENT)), (Side::Client, RoleSource::Guess));
    assert_eq!(role(None, None, Some(SERVER)), (Side::Server, RoleSource::Guess));
    assert_eq!(role(None, None, None), (Side::Client, RoleSource::Guess));
}

#[test]
fn without_a_socket_there_is_no_tuple_and_only_a_handshake_makes_a_start() {
    let mut s = Scene::new();
    let source = |d: Data| Data { tuple_source: TupleSource::None, ..d };
    s.data(source(write(handle(1, 8), 0, 0, "x", 10)));
    s.fact(handle(1, 9), 11, Fact::TlsRole(Role::Server)).data(source(read(handle(1, 9), 0, 0, "y", 12)));
    s.fact(handle(1, 10), 13, Fact::TlsRole(Role::Server)).data(source(read(handle(1, 10), 0, 7, "z", 14)));
    s.bind(bind(handle(1, 11), 4, CLIENT, 15)).data(source(read(handle(1, 11), 0, 0, "z", 16)));
    let facts = |id| {
        let c = s.connection(id);
        (c.tuple, c.tuple_source, c.from_start, c.inode)
    };
    assert_eq!(facts(1), (None, TupleSource::None, false, 0));
    assert_eq!(facts(2), (None, TupleSource::None, true, 0));
    assert_eq!(facts(3), (None, TupleSource::None, false, 0), "its first bytes were missed");
    assert_eq!(facts(4), (None, TupleSource::None, true, 0), "a tuple that is not the handle's any more");
}

#[test]
fn data_waits_for_the_socket_of_its_handle_but_not_for_long() {
    let limits = Limits { opening_bytes: 3 * KB, ..Limits::default() };
    let joined = |d: Data| Data { tuple_source: TupleSource::None, ..d };
    let mut s = Scene::with(limits);
    let h = handle(1, 8);
    s.data(joined(read(h, 0, 0, "a", 10))).data(joined(read(h, 1, 1, "b", 900 * MS)));
    assert_eq!(s.tell(), "");
    s.bind(Bind { fresh: false, ..bind(h, 1, CLIENT, 901 * MS) }).data(read(h, 2, 2, "c", 902 * MS));
    assert_eq!(s.tell(), "1.open 1.S0:a 1.S1:b 1.S2:c");
    let c = s.connection(1);
    assert_eq!((c.tuple.unwrap().local, c.tuple_source), (CLIENT.0.parse().unwrap(), TupleSource::LaterCall));
    assert!(!c.from_start && c.inode == 1_001);
    // Nothing tells it in time; or there is too much to wait with.
    s.data(joined(read(handle(1, 9), 0, 0, "a", 2_000 * MS))).clock(2_999 * MS);
    assert_eq!(s.tell(), "");
    s.clock(3_000 * MS).bind(bind(handle(1, 9), 2, SERVER, 3_001 * MS));
    assert_eq!(s.tell(), "2.open 2.S0:a");
    for n in 0..4 {
        s.data(joined(read(handle(1, 10), n, u64::from(n) * KB as u64, kilobyte(), 3_100 * MS)));
    }
    assert!(s.tell().starts_with("3.open 3.S0:xxx"));
    assert_eq!(s.connection(3).tuple_source, TupleSource::None);
    // The process ends first.
    s.data(joined(read(handle(1, 11), 0, 0, "a", 3_200 * MS))).event(Event::Exit(process(1), 3_201 * MS));
    assert!(s.tell().contains("4.open 4.S0:a"));
}

#[test]
fn a_socket_that_ciphertext_tells_late_leaves_the_start_as_it_is() {
    let mut s = Scene::new();
    let late = |h, time| Bind { fresh: false, source: TupleSource::Ciphertext, ..bind(h, 1, CLIENT, time) };
    s.fact(handle(1, 8), 1, Fact::TlsRole(Role::Server)).bind(late(handle(1, 8), 2));
    s.data(read(handle(1, 8), 0, 0, "x", 3));
    s.bind(late(handle(1, 9), 4)).data(read(handle(1, 9), 0, 0, "x", 5));
    assert!(s.connection(1).from_start);
    assert!(!s.connection(2).from_start, "it was open before");
}

#[test]
fn holes_have_their_exact_length_and_place() {
    let mut s = Scene::new();
    let h = handle(1, 8);
    s.bind(bind(h, 1, CLIENT, 1));
    s.data(read(h, 3, 7, "abc", 10));
    s.data(read(h, 5, 12, "de", 20));
    let cut = Data { call_len: 9, chunk_len: 9, missing: Some(Missing::Limit), ..read(h, 6, 14, "fg", 30) };
    s.data(cut);
    // The same again, and one that begins in what is filled.
    s.data(read(h, 6, 14, "fghijklmn", 31)).data(read(h, 7, 21, "12345", 40));
    assert_eq!(
        s.tell(),
        "1.open 1.S0:[7 ring-full] 1.S7:abc 1.S10:[2 ring-full] 1.S12:de 1.S14:fg[9 call-limit] 1.S23:345"
    );
    let summary = s.tracker.summary();
    assert_eq!(summary.anomalies.overlap, 9 + 2);
    assert_eq!(
        (summary.total.missing.get(Missing::RingFull), summary.total.missing.get(Missing::Limit)),
        (9, 7)
    );
    assert_eq!(summary.total.read, 3 + 2 + 2 + 3);
}

#[test]
fn what_is_lost_at_the_end_of_a_direction_is_a_hole_before_its_end() {
    let mut s = Scene::new();
    let ends = |h, fact, read, write| {
        let task = Task { process: process(1), tid: 1 };
        Event::Handle(HandleFact { task, handle: h, time: 50, ends: Ends { read, write }, fact })
    };
    let (a, b, c, d) = (handle(1, 8), handle(1, 9), handle(1, 10), handle(1, 11));
    s.data(write(a, 0, 0, "abc", 10)).data(write(b, 0, 0, "b", 10));
    s.event(ends(a, Fact::Shutdown, 9, 5)).event(ends(a, Fact::Free, 9, 5));
    assert_eq!(
        s.tell(),
        "1.open 1.C0:abc 2.open 2.C0:b 1.C3:[2 ring-full] 1.Cfin 1.S0:[9 ring-full] 1.Sfin 1.end"
    );
    s.bind(bind(c, 3, CLIENT, 49)).event(ends(c, Fact::Free, 0, 4)).event(ends(d, Fact::Free, 2, 5));
    s.event(closed(3, 51, false));
    assert_eq!(s.tell(), "3.open 3.C0:[4 ring-full] 3.Cfin 3.Sfin 3.end", "all of it lost");
    s.event(Event::Final(b, Ends { read: 2, write: 1 })).event(Event::Stop(90));
    s.data(write(d, 0, 0, "x", 99));
    assert_eq!(s.tell(), "2.S0:[2 ring-full] 2.end");
    assert_eq!(s.tracker.summary().anomalies.unheard, 7);
}

#[test]
fn a_handle_is_remembered_as_long_as_its_program_may_use_it() {
    let mut s = Scene::with(Limits { ended: 0, ..prompt() });
    let (h, other) = (handle(1, 8), handle(1, 9));
    s.bind(bind(h, 1, CLIENT, 1)).data(write(h, 0, 0, "x", 10)).event(closed(1, 20, false)).clock(1_001 * MS);
    assert_eq!(s.tell(), "1.open 1.C0:x 1.Cfin 1.Sfin 1.end");
    s.data(write(other, 0, 0, "y", 1_002 * MS)).fact(other, 1_003 * MS, Fact::Free);
    assert_eq!(s.tell(), "2.open 2.C0:y 2.Cfin 2.Sfin 2.end");
    s.data(read(h, 0, 0, "late", 1_004 * MS));
    assert_eq!((s.tell(), s.tracker.summary().anomalies.after_end), (String::new(), 4));
}

#[test]
fn holes_of_unknown_length() {
    let mut s = Scene::new();
    let (h, idle) = (handle(1, 8), handle(1, 9));
    s.fact(h, 5, Fact::ReadUnseen).fact(idle, 5, Fact::ReadUnseen).fact(idle, 6, Fact::Free);
    s.data(read(h, 0, 0, "a", 10));
    s.data(Data { awaits_write: Some(0), ..read(h, 1, 1, "b", 20) });
    s.fact(h, 30, Fact::CallLost(Direction::Write, Missing::Unfinished)).fact(
        h,
        31,
        Fact::CallLost(Direction::Read, Missing::Unfinished),
    );
    assert_eq!(
        s.tell(),
        "1.open 1.S[? read-before-attach] 1.S0:a 1.C[? unfinished-call] 1.S1:b 1.S[? unfinished-call]"
    );
    let skips = s.tracker.summary().total.skips;
    assert_eq!((skips.get(Missing::Unseen), skips.get(Missing::Unfinished)), (2, 2));
    assert_eq!(s.times(), [1_005, 1_005, 1_012, 1_022, 1_022, 1_031]);
}

#[test]
fn full_duplex_answers_stand_behind_their_requests() {
    let mut s = Scene::new();
    let h = handle(1, 8);
    let slow = Data { returned: 40, ..write(h, 0, 0, "get", 10) };
    s.data(Data { awaits_write: Some(0), ..read(h, 0, 0, "ok", 18) }).data(read(h, 1, 2, "ay", 25));
    assert_eq!(s.tell(), "");
    s.data(slow);
    assert_eq!(s.tell(), "1.open 1.C0:get 1.S0:ok 1.S2:ay");
    assert_eq!(s.times(), [1_010, 1_010, 1_020, 1_027]);
    // The end does not wait for a write that will not come, nor do the counters call it a bound.
    s.data(Data { awaits_write: Some(1), ..read(h, 2, 4, "!", 50) }).fact(h, 60, Fact::Free);
    assert_eq!(s.tell(), "1.S4:! 1.Cfin 1.Sfin 1.end");
    assert_eq!(s.tracker.summary().bounds, Default::default());
}

#[test]
fn holding_is_bounded_in_time_and_amount() {
    let waiting = |h, seq, offset, time| Data { awaits_write: Some(9), ..read(h, seq, offset, "x", time) };
    let (a, b) = (handle(1, 8), handle(1, 9));
    let limits = Limits { held_records: 2, ..prompt() };
    let mut s = Scene::with(limits);
    s.data(waiting(a, 0, 0, 10)).data(waiting(a, 1, 1, MS));
    s.clock(limits.held_time);
    assert_eq!(s.tell(), "");
    s.clock(limits.held_time + 12);
    assert_eq!(s.tell(), "1.open 1.S0:x 1.S1:x");
    s.data(waiting(a, 2, 2, 3_000 * MS)).data(waiting(a, 3, 3, 3_000 * MS));
    assert_eq!(s.tell(), "");
    s.data(waiting(a, 4, 4, 3_000 * MS));
    assert_eq!(s.tell(), "1.S2:x 1.S3:x 1.S4:x");
    // A write that comes after all is late, but in time order at least for the clock.
    s.data(write(a, 9, 0, "w", 5));
    assert_eq!(s.tell(), "1.C0:w");
    assert!(s.times().is_sorted());

    let mut all = Scene::with(Limits { held_total: 2 * KB, ..limits });
    let long = |h| Data {
        call_len: KB as u64,
        chunk_len: KB as u64,
        payload: kilobyte().into(),
        ..waiting(h, 0, 0, 10)
    };
    all.data(long(a)).data(long(b));
    assert_eq!(all.segments.iter().map(|s| s.connection.0).collect::<Vec<_>>(), [2, 2]);
    let bounds = (s.tracker.summary().bounds, all.tracker.summary().bounds);
    assert_eq!((bounds.0.held_time, bounds.0.held_amount, bounds.1.held_total), (1, 1, 1));
}

#[test]
fn a_connection_waits_for_its_process_but_not_for_long() {
    let h = handle(7, 8);
    let introduce = |s: &mut Scene| {
        let facts = ProcessFacts { exe: Some("/bin/curl".into()), ..ProcessFacts::default() };
        s.event(Event::ProcessFacts(process(7), facts));
    };
    let mut s = Scene::new();
    s.data(write(h, 0, 0, "a", 10)).fact(h, 11, Fact::Alpn("h2".into()));
    assert_eq!(s.tell(), "");
    introduce(&mut s);
    assert_eq!(s.tell(), "1.open 1.C0:a");
    let c = s.connection(1);
    assert_eq!((&*c.process.exe, c.alpn.as_deref()), ("/bin/curl", Some("h2")));

    let mut late = Scene::new();
    late.data(write(h, 0, 0, "a", 10)).clock(50 * MS);
    assert_eq!(late.tell(), "");
    late.clock(50 * MS + 12);
    introduce(&mut late);
    assert_eq!(late.tell(), "1.open 1.C0:a");
    assert_eq!(late.connection(1).process.exe, "", "it never changes");
    assert_eq!(late.tracker.summary().bounds.opening_time, 1);

    let mut gone = Scene::new();
    gone.data(write(h, 0, 0, "a", 10)).event(Event::Exit(process(7), 20));
    assert_eq!(gone.tell(), "1.open 1.C0:a 1.Cfin 1.Sfin 1.end");

    let mut much = Scene::with(Limits { opening_bytes: 3 * KB, ..prompt() });
    much.data(write(h, 0, 0, kilobyte(), 10)).data(write(h, 1, KB as u64, kilobyte(), 11));
    assert_eq!(much.tell(), "");
    much.data(write(h, 2, 2 * KB as u64, kilobyte(), 12));
    assert_eq!(much.segments.len(), 4);
    assert_eq!(much.tracker.summary().bounds.opening_amount, 1);
}

#[test]
fn both_ends_on_one_host_are_written_once() {
    let (client, server) = (handle(1, 8), handle(2, 9));
    let mut s = Scene::new();
    s.bind(bind(client, 1, CLIENT, 1));
    s.data(write(client, 0, 0, "get", 10));
    assert_eq!(s.tell(), "1.open 1.C0:get");
    s.bind(bind(server, 2, SERVER, 11));
    assert_eq!(s.tell(), "1.peer=2");
    s.data(read(server, 0, 0, "get", 12))
        .data(write(server, 0, 0, "ok", 13))
        .data(read(client, 0, 0, "ok", 14));
    // A RST that the server received is the client's.
    s.event(closed(2, 15, true)).fact(client, 16, Fact::Free).event(closed(1, 16, false));
    s.data(write(server, 1, 2, "more", 17));
    s.fact(server, 18, Fact::Free);
    assert_eq!(s.tell(), "1.S0:ok 1.Crst 1.end");
    let summary = s.tracker.summary();
    let seconds: Vec<_> = summary.processes.iter().map(|r| (r.key.pid, r.traffic.second_view)).collect();
    assert_eq!(seconds, [(1, 0), (2, 9)]);
    assert_eq!(summary.total.connections, 1);

    // What the end that is not written lost is told apart: by what came, and by how far it is.
    let mut s = Scene::new();
    s.bind(bind(client, 1, CLIENT, 1)).data(write(client, 0, 0, "get", 10)).bind(bind(server, 2, SERVER, 11));
    s.data(Data {
        payload: Bytes::new(),
        missing: Some(Missing::WriterBehind),
        ..read(server, 0, 0, "get", 12)
    });
    s.data(write(server, 1, 100, "ok", 13)).fact(server, 14, Fact::Free);
    let missing = s.tracker.summary().total.second_missing;
    assert_eq!((missing.get(Missing::WriterBehind), missing.get(Missing::RingFull)), (3, 100));
    assert_eq!(s.tracker.summary().total.missing.total(), 0);

    // Both were bound before: the peer follows the opening, and the owner's end mutes the other,
    // even when the owner is forgotten.
    let mut s = Scene::with(Limits { ended: 0, ..prompt() });
    s.bind(bind(server, 2, SERVER, 1)).bind(bind(client, 1, CLIENT, 1));
    s.data(write(client, 0, 0, "get", 10)).event(Event::Exit(process(1), 11));
    s.event(closed(1, 11, false)).data(read(server, 0, 0, "get", 12));
    assert_eq!(s.tell(), "1.open 1.C0:get 1.peer=2 1.Cfin 1.Sfin 1.end");
    // One process that talks to itself is one connection, too.
    let (own, again) = (handle(2, 10), handle(2, 99));
    s.bind(bind(again, 3, ("[::1]:443", "[::1]:50005"), 20)).bind(bind(
        own,
        4,
        ("[::1]:50005", "[::1]:443"),
        20,
    ));
    s.data(write(own, 0, 0, "hi", 21)).data(read(again, 0, 0, "hi", 22));
    assert_eq!(s.tell(), "2.open 2.C0:hi 2.peer=2");
}

#[test]
fn a_peer_that_is_not_known_yet_is_announced_when_it_is_or_at_the_end() {
    let (client, stranger) = (handle(1, 8), handle(9, 9));
    let scene = || {
        let mut s = Scene::new();
        s.bind(bind(client, 1, CLIENT, 1)).bind(bind(stranger, 2, SERVER, 2));
        s.data(write(client, 0, 0, "a", 10));
        assert_eq!(s.tell(), "1.open 1.C0:a");
        s
    };
    let mut s = scene();
    s.event(Event::ProcessFacts(process(9), ProcessFacts::default())).data(write(client, 1, 1, "b", 11));
    assert_eq!(s.tell(), "1.peer=9 1.C1:b");
    let mut s = scene();
    s.data(write(client, 1, 1, "b", 60 * MS));
    assert_eq!(s.tell(), "1.peer=9 1.C1:b");
    let mut s = scene();
    s.event(Event::Stop(11));
    assert_eq!(s.tell(), "1.peer=9 1.end");
}

#[test]
fn the_same_addresses_in_two_namespaces_are_two_connections() {
    let mut s = Scene::new();
    let other = |b: Bind| Bind { netns: 6, ..b };
    s.bind(bind(handle(1, 1), 1, CLIENT, 1)).bind(other(bind(handle(2, 2), 2, SERVER, 1)));
    s.bind(other(bind(handle(3, 3), 3, CLIENT, 1)));
    for (pid, address) in [(1, 1), (2, 2), (3, 3)] {
        s.data(write(handle(pid, address), 0, 0, "x", 10));
    }
    // 2 and 3 share a namespace; 1 is elsewhere.
    assert_eq!(s.tell(), "1.open 1.C0:x 2.open 2.S0:x 2.peer=3");
    // Through a veth: other namespaces, one connection, as the sequence numbers show.
    let mut s = Scene::new();
    s.bind(Bind { isn: (70, 90), ..bind(handle(1, 1), 1, CLIENT, 1) });
    s.bind(Bind { isn: (91, 70), ..other(bind(handle(2, 2), 2, SERVER, 1)) });
    s.data(write(handle(1, 1), 0, 0, "x", 10)).data(write(handle(2, 2), 0, 0, "x", 10));
    assert_eq!(s.tell(), "1.open 1.C0:x 1.peer=2");
}

#[test]
fn tls_inside_tls_takes_the_tuple_below_and_pairs_with_nothing() {
    let (outer, inner, proxy) = (handle(1, 1), handle(1, 2), handle(2, 3));
    let mut s = Scene::new();
    s.bind(Bind { role: Some(Role::Client), ..bind(outer, 1, CLIENT, 1) });
    s.data(write(outer, 0, 0, "CONNECT", 10));
    s.bind(bind(proxy, 2, SERVER, 11)).data(read(proxy, 0, 0, "CONNECT", 12));
    s.fact(inner, 20, Fact::Layer(outer)).fact(inner, 21, Fact::TlsRole(Role::Client));
    s.data(write(outer, 1, 7, "crypt", 22));
    s.data(Data { tuple_source: TupleSource::Layer, ..write(inner, 0, 0, "get", 22) });
    assert_eq!(s.tell(), "1.open 1.C0:CONNECT 1.peer=2 1.C7:crypt 2.open 2.C0:get");
    let c = s.connection(2);
    assert_eq!((c.tuple, c.tuple_source), (s.connection(1).tuple, TupleSource::Layer));
    assert_eq!((c.layer_below.unwrap().0, c.role_source, c.from_start), (1, RoleSource::Kernel, true));
    // Layers that bite their own tail end somewhere.
    let (a, b) = (handle(3, 1), handle(3, 2));
    s.fact(a, 30, Fact::Layer(b)).fact(b, 30, Fact::Layer(a)).fact(a, 30, Fact::Layer(a));
    s.data(write(a, 0, 0, "x", 31)).data(write(b, 0, 0, "y", 32));
    assert_eq!(s.tell(), "3.open 3.C0:x 4.open 4.C0:y");
}

#[test]
fn the_layer_below_opens_first() {
    let (outer, inner) = (handle(9, 1), handle(9, 2));
    let mut s = Scene::with(Limits { opening_bytes: KB, ..prompt() });
    s.fact(inner, 1, Fact::Layer(outer)).data(write(outer, 0, 0, "o", 2));
    s.data(write(inner, 0, 0, kilobyte(), 3));
    assert!(s.tell().starts_with("1.open 1.C0:o 2.open 2.C0:xxx"));
    assert_eq!(s.connection(2).layer_below.unwrap().0, 1);
}

#[test]
fn a_closed_socket_ends_its_connection_when_its_last_bytes_are_read() {
    let mut s = Scene::new();
    let (a, b) = (handle(1, 8), handle(1, 9));
    s.bind(bind(a, 1, CLIENT, 1)).data(write(a, 0, 0, "x", 10)).event(closed(1, 20, true));
    s.data(read(a, 0, 0, "tail", 900 * MS)).clock(1_800 * MS);
    assert_eq!(s.tell(), "1.open 1.C0:x 1.S0:tail");
    s.clock(1_901 * MS);
    assert_eq!(s.tell(), "1.Srst 1.end");
    s.bind(bind(b, 2, SERVER, 2_000 * MS)).data(write(b, 0, 0, "y", 2_000 * MS)).event(closed(
        2,
        2_001 * MS,
        false,
    ));
    s.event(Event::Exit(process(1), 2_002 * MS));
    assert_eq!(s.tell(), "2.open 2.S0:y 2.Sfin 2.Cfin 2.end");
}

#[test]
fn a_tuple_that_comes_back_ends_what_had_it() {
    let mut s = Scene::new();
    let (a, b) = (handle(1, 8), handle(1, 9));
    s.bind(bind(a, 1, CLIENT, 1)).data(write(a, 0, 0, "x", 10));
    // The same socket again tells nothing new; another one is the kernel's error.
    s.bind(bind(a, 1, CLIENT, 11)).bind(bind(a, 7, SERVER, 12));
    s.bind(bind(b, 2, CLIENT, 20)).data(write(b, 0, 0, "y", 21));
    assert_eq!(s.tell(), "1.open 1.C0:x 1.Cfin 1.Sfin 1.end 2.open 2.C0:y");
    assert_eq!(s.tracker.summary().anomalies.rebound, 1);
}

#[test]
fn an_exec_ends_the_connections_of_what_the_process_was() {
    let mut s = Scene::new();
    let seen = |generation| {
        Event::Process(ProcessSeen {
            key: ProcessKey { pid: 1, generation },
            time: 15,
            start_time: 0,
            cgroup: 0,
            uid: 0,
            gid: 0,
            parent: 0,
            netns: 0,
            comm: "x".into(),
            exe: "x".into(),
            args: Vec::new(),
        })
    };
    s.event(seen(1)).data(write(handle(1, 8), 0, 0, "x", 10)).event(seen(2));
    assert_eq!(s.tell(), "1.open 1.C0:x 1.Cfin 1.Sfin 1.end");
}

#[test]
fn a_full_table_of_handles_forgets_the_ended_and_refuses_for_the_living() {
    let mut s = Scene::with(Limits { handles: 2, ..prompt() });
    s.data(write(handle(1, 1), 0, 0, "a", 10)).data(write(handle(1, 2), 0, 0, "b", 11));
    s.data(write(handle(1, 3), 0, 0, "refused", 12));
    assert_eq!(s.tell(), "1.open 1.C0:a 2.open 2.C0:b");
    s.fact(handle(1, 1), 13, Fact::Free).data(write(handle(1, 4), 0, 0, "c", 14));
    assert_eq!(s.tell(), "1.Cfin 1.Sfin 1.end 3.open 3.C0:c");
    let bounds = s.tracker.summary().bounds;
    assert_eq!((bounds.handles_refused, bounds.handles_refused_bytes), (1, 7));
}

#[test]
fn nothing_is_written_after_a_close_notify() {
    let mut s = Scene::new();
    let h = handle(1, 8);
    s.data(write(h, 0, 0, "x", 10)).fact(h, 11, Fact::Shutdown).data(write(h, 1, 1, "late", 12));
    s.data(read(h, 0, 0, "answer", 13));
    assert_eq!(s.tell(), "1.open 1.C0:x 1.Cfin 1.S0:answer");
    assert_eq!(s.tracker.summary().anomalies.after_finish, 4);
}
