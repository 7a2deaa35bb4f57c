//! What is heard of handles that share a socket.

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
        rtt: None,
    })
}

fn fact(handle: HandleKey, fact: Fact, write: u64) -> Event {
    Event::Handle(HandleFact { task: TASK, handle, time: 0, ends: Ends { read: 0, write }, fact })
}

/// What is heard, short: which handle, and where its bytes stand.
fn heard(joined: &mut Joined, now: Monotonic, event: Event) -> Vec<String> {
    let mut out = Vec::new();
    joined.take(event, now, &Limits::default(), &Handles::default(), &mut out);
    let waiting = joined.members.values().filter_map(|member| member.waiting.as_ref());
    assert_eq!(joined.held, waiting.map(|waiting| waiting.bytes).sum::<usize>());
    assert_eq!(joined.members.len(), joined.by_process.len());
    assert_eq!(joined.connections.len(), joined.named.len());
    let short = |told: Told| match told {
        Told::Event(Event::Data(d)) => format!(
            "{:?} {:x} {}+{} call {} {}",
            d.direction,
            d.handle.address,
            d.call_offset,
            d.call_len,
            d.call_seq,
            d.tuple_source.as_str()
        ),
        Told::Event(Event::Bind(b)) => format!("bind {:x}", b.handle.address),
        Told::Event(Event::Handle(f)) => format!("{:?} {:x} {:?}", f.fact, f.handle.address, f.ends),
        Told::Event(Event::Final(handle, ends)) => {
            format!("final {:x} {} {}", handle.address, ends.read, ends.write)
        }
        Told::Event(Event::SocketEnd(_)) => "closed".into(),
        Told::Event(other) => format!("{other:?}"),
        Told::Late(len) => format!("late {len}"),
        Told::Absorb { from, into } => format!("absorb {:x} {:x}", from.address, into.address),
    };
    out.into_iter().map(short).collect()
}

#[test]
fn directions_and_keys_of_a_socket_are_one_connection() {
    let mut joined = Joined::default();
    let mut hear = |event| heard(&mut joined, 0, event);
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
    let mut joined = Joined::default();
    let second = Limits::default().socket_time;
    assert!(heard(&mut joined, 0, data(writer(1), 0, 0, 5)).is_empty());
    let clock = || Event::Clock(Clock { monotonic: 0, realtime: 0 });
    assert_eq!(heard(&mut joined, second - 1, clock()).len(), 1);
    assert_eq!(heard(&mut joined, second, clock())[0], "Write 10 0+5 call 0 none");
    assert_eq!(heard(&mut joined, second, data(writer(1), 1, 5, 1)), ["Write 10 5+1 call 1 none"]);
    let amount = Limits::default().opening_bytes + 1;
    assert_eq!(heard(&mut joined, second, data(reader(1), 0, 0, amount)).len(), 1);
    assert!(heard(&mut joined, second, data(reader(2), 0, 0, 3)).is_empty());
    assert_eq!(heard(&mut joined, second, Event::Stop(second)).len(), 2);
}

#[test]
fn what_is_over_is_forgotten() {
    let mut joined = Joined::default();
    for n in 0..2 * CLOSED_MAX as u64 {
        let socket = SocketKey { address: n, generation: 1 };
        heard(&mut joined, 0, bind(key(n, n), socket));
        let closed = Some(Closed::Orderly);
        let end = SocketEnd { socket, time: 0, fins: [None; 2], read_up: false, closed };
        heard(&mut joined, 0, Event::SocketEnd(end));
    }
    assert_eq!((joined.members.len(), joined.connections.len()), (CLOSED_MAX, CLOSED_MAX));
    heard(&mut joined, 0, Event::Exit(PROCESS, 0));
    assert!(joined.members.is_empty() && joined.connections.is_empty());
}
