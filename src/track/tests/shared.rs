//! One socket that several handles use.

use super::*;

/// The processes of the payloads, in order.
fn callers(scene: &Scene) -> Vec<u32> {
    let caller = |s: &Segment| match &s.body {
        SegmentBody::Payload(p) => Some(p.process.key.pid),
        _ => None,
    };
    scene.segments.iter().filter_map(caller).collect()
}

fn ends(handle: HandleKey, fact: Fact, read: u64, write: u64, time: u64) -> Event {
    let task = Task { process: handle.process, tid: handle.process.pid };
    Event::Handle(HandleFact { task, handle, time, ends: Ends { read, write }, fact })
}

/// The same handle of a parent and its child.
fn forked() -> (HandleKey, HandleKey) {
    (handle(1, 8), handle(2, 8))
}

#[test]
fn what_the_parent_learnt_stays_when_the_child_goes_on() {
    let mut s = Scene::new();
    let (parent, child) = forked();
    s.fact(parent, 5, Fact::TlsRole(Role::Server)).fact(parent, 5, Fact::ServerName("a.test".into()));
    s.fact(parent, 5, Fact::Alpn("h2".into())).bind(bind(parent, 1, SERVER, 6));
    s.fact(parent, 8, Fact::Free);
    s.bind(Bind { fresh: false, ..bind(child, 1, SERVER, 9) });
    s.data(read(child, 0, 0, "get", 10)).data(write(child, 0, 0, "ok", 20));
    s.event(Event::Exit(process(1), 25)).event(Event::Exit(process(2), 30)).event(closed(1, 31, false));
    assert_eq!(s.tell(), "1.open 1.C0:get 1.S0:ok 1.Sfin 1.Cfin 1.end");
    let c = s.connection(1);
    assert_eq!((c.process.key.pid, c.from_start, c.local_side), (1, true, Side::Server));
    assert_eq!((c.server_name.as_deref(), c.alpn.as_deref()), (Some("a.test"), Some("h2")));
    assert_eq!(callers(&s), [2, 2]);
    let summary = s.tracker.summary();
    let rows: Vec<_> =
        summary.processes.iter().map(|r| (r.key.pid, r.traffic.read, r.traffic.written)).collect();
    assert_eq!((rows, summary.total.connections), (vec![(1, 0, 0), (2, 3, 2)], 1));
}

#[test]
fn processes_that_take_turns_write_one_stream() {
    let mut s = Scene::new();
    let (parent, child) = forked();
    s.bind(bind(parent, 1, SERVER, 1));
    s.data(read(parent, 0, 0, "one", 10))
        .data(write(parent, 0, 0, "1", 12))
        .data(read(parent, 1, 3, "two", 14));
    s.bind(bind(child, 1, SERVER, 15)).data(write(child, 0, 0, "22", 16));
    s.data(read(parent, 2, 6, "three", 20)).data(write(parent, 1, 1, "333", 22));
    s.data(read(parent, 3, 11, "four", 24)).data(write(child, 1, 2, "4", 26));
    // The parent's next write is lost, and the last one of the child.
    s.data(write(parent, 3, 9, "5", 30)).event(ends(child, Fact::Free, 0, 7, 31));
    s.data(write(parent, 4, 10, "6", 32));
    assert_eq!(
        s.tell(),
        "1.open 1.C0:one 1.S0:1 1.C3:two 1.S1:22 1.C6:three 1.S3:333 1.C11:four 1.S6:4 1.S7:[5 ring-full] \
         1.S12:5 1.S13:[4 ring-full] 1.S17:6"
    );
    assert_eq!(callers(&s), [1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1]);
    assert_eq!(s.tracker.summary().anomalies, Default::default());
}

#[test]
fn a_handle_that_follows_another_goes_on_in_its_connection() {
    let mut s = Scene::new();
    let (first, second, layer) = (handle(1, 8), handle(1, 9), handle(1, 10));
    s.bind(bind(first, 1, CLIENT, 1)).data(write(first, 0, 0, "a", 10)).fact(first, 11, Fact::Free);
    s.bind(bind(second, 1, CLIENT, 12)).data(write(second, 0, 0, "b", 13));
    // While that lives, another one of the same process is a layer.
    s.bind(bind(layer, 1, CLIENT, 14)).data(write(layer, 0, 0, "c", 15));
    s.event(Event::Exit(process(1), 20)).event(closed(1, 21, false));
    assert_eq!(s.tell(), "1.open 1.C0:a 1.C1:b 2.open 2.C0:c 1.Cfin 1.Sfin 1.end 2.Cfin 2.Sfin 2.end");
}

#[test]
fn a_connection_ends_with_its_socket_or_the_capture() {
    let mut s = Scene::new();
    let h = handle(1, 8);
    s.bind(bind(h, 1, CLIENT, 1)).data(write(h, 0, 0, "a", 10)).event(Event::Exit(process(1), 11));
    assert_eq!(s.tell(), "1.open 1.C0:a", "another process may have the socket");
    s.event(Event::Stop(20));
    assert_eq!(s.tell(), "1.Cfin 1.Sfin 1.end", "nobody had it");
    s.tracker.assert_empty();

    let mut s = Scene::new();
    s.bind(bind(h, 1, CLIENT, 1)).data(write(h, 0, 0, "a", 10)).event(Event::Stop(20));
    assert_eq!(s.tell(), "1.open 1.C0:a 1.end", "it lives on");
}

#[test]
fn what_a_child_told_before_its_socket_was_known_goes_on_in_the_connection() {
    let mut s = Scene::new();
    let (parent, child) = forked();
    let child = HandleKey { process: process(7), ..child };
    s.bind(bind(parent, 1, SERVER, 1)).data(read(parent, 0, 0, "get ", 10));
    // From memory, so that no socket shows; and the process is not introduced yet, so it waits.
    let unbound = |data: Data| Data { tuple_source: TupleSource::None, ..data };
    s.fact(child, 11, Fact::Alpn("h2".into())).data(unbound(read(child, 0, 0, "it", 12)));
    assert_eq!(s.tell(), "1.open 1.C0:get ");
    s.bind(Bind { fresh: false, ..bind(child, 1, SERVER, 13) }).data(write(child, 0, 0, "ok", 14));
    assert_eq!(s.tell(), "1.alpn=h2", "the caller's name is awaited");
    s.event(Event::ProcessFacts(process(7), ProcessFacts::default()));
    assert_eq!(s.tell(), "1.C4:it 1.S0:ok");
    assert_eq!(callers(&s), [1, 7, 7]);
}

#[test]
fn a_read_in_one_process_awaits_the_writes_of_its_own_handle() {
    let mut s = Scene::new();
    let (parent, child) = forked();
    s.bind(bind(parent, 1, SERVER, 1)).bind(bind(child, 1, SERVER, 2));
    s.data(write(child, 0, 0, "ab", 3)).data(write(parent, 0, 0, "c", 6));
    s.data(Data { awaits_write: Some(1), ..read(parent, 0, 0, "x", 12) });
    assert_eq!(s.tell(), "1.open 1.S0:ab 1.S2:c");
    s.data(write(parent, 1, 1, "d", 11));
    assert_eq!(s.tell(), "1.S3:d 1.C0:x");
    s.data(Data { awaits_write: Some(2), ..read(parent, 1, 1, "y", 15) });
    s.fact(parent, 20, Fact::WriteEmpty(2));
    assert_eq!(s.tell(), "1.C1:y");
}
