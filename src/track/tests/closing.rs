//! The end of a connection as its socket tells it.

use super::*;
use Direction::{Read, Write};

/// A client that has sent "get".
fn asked(client: HandleKey) -> Scene {
    let mut s = Scene::new();
    s.bind(bind(client, 1, CLIENT, 1)).data(write(client, 0, 0, "get", 10));
    assert_eq!(s.tell(), "1.open 1.C0:get");
    s
}

fn fin(time: u64, fins: [Option<Direction>; 2]) -> Event {
    socket_end(1, time, fins, None)
}

#[test]
fn what_is_read_after_the_peers_fin_has_come_was_sent_before_it() {
    let h = handle(1, 8);
    let mut s = asked(h);
    s.event(fin(11, [Some(Read), None])).data(read(h, 0, 0, "ok", 20)).data(write(h, 1, 3, "bye", 25));
    assert_eq!(s.tell(), "1.S0:ok 1.C3:bye");
    s.event(fin(30, [Some(Read), Some(Write)]));
    s.event(socket_end(1, 31, [Some(Read), Some(Write)], Some(Closed::Orderly))).fact(h, 32, Fact::Free);
    assert_eq!(s.tell(), "1.Sfin 1.Cfin 1.end");
}

#[test]
fn what_is_read_after_this_sides_fin_stands_behind_it() {
    let h = handle(1, 8);
    let mut s = asked(h);
    s.event(fin(13, [Some(Write), None])).data(read(h, 0, 0, "early", 11)).data(read(h, 1, 5, "ok", 20));
    assert_eq!(s.tell(), "1.S0:early 1.Cfin 1.S5:ok");
    s.event(socket_end(1, 31, [Some(Write), Some(Read)], Some(Closed::Orderly))).fact(h, 32, Fact::Free);
    assert_eq!(s.tell(), "1.Sfin 1.end");
    let c = s.times();
    assert_eq!(c[c.len() - 4..], [1_013, 1_022, 1_031, 1_031]);
}

#[test]
fn a_peers_fin_that_is_read_stands_before_what_is_answered() {
    let h = handle(1, 8);
    let mut s = Scene::new();
    s.bind(bind(h, 1, SERVER, 1)).data(read(h, 0, 0, "get", 10)).event(fin(11, [Some(Read), None]));
    let read_up = |time| match fin(time, [Some(Read), None]) {
        Event::SocketEnd(end) => Event::SocketEnd(SocketEnd { read_up: true, ..end }),
        other => other,
    };
    s.event(read_up(15)).data(write(h, 0, 0, "ok", 14));
    assert_eq!(s.tell(), "1.open 1.C0:get 1.Cfin 1.S0:ok");
    s.event(socket_end(1, 31, [Some(Read), Some(Write)], Some(Closed::Orderly))).fact(h, 32, Fact::Free);
    assert_eq!(s.tell(), "1.Sfin 1.end");
}

#[test]
fn a_reset_hides_no_fin_that_came_before_it() {
    let h = handle(1, 8);
    let mut s = asked(h);
    s.data(read(h, 0, 0, "ok", 12)).event(fin(13, [Some(Read), None])).event(Event::Exit(process(1), 14));
    s.event(socket_end(1, 15, [Some(Read), None], Some(Closed::Reset(Write))));
    assert_eq!(s.tell(), "1.S0:ok 1.Sfin 1.Crst 1.end");

    let mut s = asked(h);
    s.event(Event::Exit(process(1), 14)).event(fin(15, [Some(Write), None]));
    s.event(socket_end(1, 16, [Some(Write), None], Some(Closed::Reset(Read))));
    assert_eq!(s.tell(), "1.Cfin 1.Srst 1.end");
}

#[test]
fn a_connection_that_is_lost_has_no_end() {
    let h = handle(1, 8);
    let mut s = asked(h);
    s.event(socket_end(1, 15, [None; 2], Some(Closed::Lost))).fact(h, 16, Fact::Free);
    assert_eq!(s.tell(), "1.end");
}

#[test]
fn a_close_notify_ends_tls_and_the_socket_the_connection() {
    let h = handle(1, 8);
    let mut s = asked(h);
    s.fact(h, 11, Fact::Shutdown).data(read(h, 0, 0, "ok", 12));
    assert_eq!(s.tell(), "1.S0:ok");
    // The other session's handle is made before this one's is freed.
    let next = handle(1, 9);
    s.bind(bind(next, 1, CLIENT, 20)).fact(h, 21, Fact::Free).data(write(next, 0, 0, "again", 22));
    assert_eq!(s.tell(), "1.C3:again");
    s.event(fin(30, [Some(Read), None])).event(fin(31, [Some(Read), Some(Write)]));
    s.event(socket_end(1, 32, [Some(Read), Some(Write)], Some(Closed::Orderly))).fact(next, 33, Fact::Free);
    assert_eq!(s.tell(), "1.Sfin 1.Cfin 1.end");

    let mut s = asked(h);
    s.fact(h, 11, Fact::Shutdown).event(Event::Stop(20));
    assert_eq!(s.tell(), "1.Cfin 1.end", "it goes on, without data of this side");
}
