//! Connections over MPTCP. What goes through one of its sockets is in the file as one TCP connection.

use std::path::Path;
use std::process::Command;

use crate::support::programs::{Told, compiled, connect, exchange_server, transcript};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, gate};

const SERVER: &str = "--mptcp 1 r:5 w:300 r:20000 w:40000 S";
const CLIENT: &str = "--mptcp 1 w:5 r:300 w:20000 r:40000 S";

/// Whether this kernel has it; else this is reported.
fn has_multipath(test: &Test) -> bool {
    let has = Path::new("/proc/sys/net/mptcp/enabled").exists();
    if !has {
        gate::skipped(&test.name, "this kernel is built without MPTCP", "T2P_REQUIRE_MPTCP");
    }
    has
}

/// The one connection, as this end tells of it, without `written` and `read` bytes.
#[track_caller]
fn assert_rest(finished: &Finished, told: &Told, dir: &str, role: &str, written: usize, read: usize) {
    let truth = transcript(dir, role, 0);
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 1, "tshark {}", tshark.version);
        let connection = view.of(told.local, told.remote);
        let (sent, received) = match role {
            "client" => (&connection.sent_by_client, &connection.sent_by_server),
            _ => (&connection.sent_by_server, &connection.sent_by_client),
        };
        assert_same_bytes("sent", sent, &truth.sent[written..]);
        assert_same_bytes("received", received, &truth.received[read..]);
        assert_eq!(connection.comment.number("fd"), u64::from(told.fd));
        assert_eq!(connection.comment.number("from_start"), u64::from(written + read == 0));
    }
}

/// A client over MPTCP, whose connection is whole.
fn client_of(test: &Test, server: &str) {
    if !has_multipath(test) {
        return;
    }
    let (mut server, port) = exchange_server(test, server);
    let dir = test.folder("client");
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, CLIENT)].concat();
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert_rest(&finished, &Told::all(&finished.text())[0], &dir, "client", 0, 0);
}

#[test]
fn both_ends_over_several_paths() {
    let test = begin!();
    client_of(&test, SERVER);
}

/// The peer knows nothing of it, and the connection has one path for good.
#[test]
fn a_peer_without_it() {
    let test = begin!();
    client_of(&test, &SERVER.replace("--mptcp 1 ", ""));
}

/// A server that is joined while its connection is in use: it reads before it writes.
#[test]
fn a_connection_that_is_older_than_the_capture() {
    let test = begin!();
    if !has_multipath(&test) {
        return;
    }
    let (mut server, port) = exchange_server(&test, &SERVER.replace("w:300", "w:300 i"));
    let dir = test.folder("client");
    let mut command = Command::new(compiled("exchange"));
    command.args(connect("127.0.0.1", port, &dir, CLIENT));
    let mut client = Process::start(&mut command, test.path("client.err"));
    let line = server.line_after("connection ");
    server.line_after("waiting");
    let running = test.capture().attach(&[server.pid()]);
    server.go_on();
    client.wait_ok();
    server.wait_ok();
    let finished = running.finish().ok();
    let told = &Told::all(&format!("connection {line}\n"))[0];
    assert_rest(&finished, told, &test.text("server"), "server", 300, 5);
}
