//! Which socket a handle has, where that is not told by its first call.

use std::net::TcpListener;
use std::process::Command;

use crate::support::each::assert_each_on_its_socket;
use crate::support::programs::{Told, compiled, connect, exchange_server, transcript};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, gate};

/// A capture that joins `command` where it first waits.
fn joined(test: &Test, command: &mut Command) -> Finished {
    let mut client = Process::start(command, test.path("client.err"));
    let line = client.line_after("connection ");
    client.line_after("waiting");
    let running = test.capture().attach(&[client.pid()]);
    client.go_on();
    client.wait_ok();
    let mut finished = running.finish().ok();
    finished.stdout = format!("connection {line}\n").into_bytes();
    finished
}

/// The one connection, from `skip` bytes of the server on, on the socket that the program told of.
#[track_caller]
fn assert_rest(finished: &Finished, dir: &str, skip: usize, tuples: &[&str]) {
    let told = &Told::all(&finished.text())[0];
    let truth = transcript(dir, "client", 0);
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 1, "tshark {}", tshark.version);
        let connection = view.of(told.local, told.remote);
        assert_same_bytes("the client", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("the server", &connection.sent_by_server, &truth.received[skip..]);
        let tuple = connection.comment.get("tuple");
        assert!(tuples.contains(&tuple), "{tuple}");
        assert_eq!(connection.comment.number("fd"), u64::from(told.fd));
        assert_eq!(connection.comment.number("from_start"), 0);
    }
}

/// Two thousand reads use no socket, since all they return is in a record that has come before the capture. The
/// library itself knows the socket.
#[test]
fn small_pieces_of_a_record_that_came_before_the_capture() {
    small_pieces(&begin!(), Command::new(compiled("exchange")));
}

/// The same with an OpenSSL that keeps it elsewhere, as all do from 3.2 on.
#[test]
fn small_pieces_by_openssl_3_5() {
    let test = begin!();
    let Some(tool) = gate::cached_tool("openssl-3.5") else {
        return gate::skipped(&test.name, "openssl-3.5 not found (run tests/oracles)", "T2P_REQUIRE_ORACLES");
    };
    let root = tool.parent().unwrap().parent().unwrap().join("suites/openssl-3.5");
    let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu")).arg(compiled("exchange"));
    small_pieces(&test, command);
}

/// `command` runs `exchange`.
fn small_pieces(test: &Test, mut command: Command) {
    let (mut server, port) = exchange_server(test, "w:16000 r:50 w:100 S");
    let dir = test.folder("client");
    command.args(connect("127.0.0.1", port, &dir, "r:1000 i d:15000 w:50 r:100 S"));
    let finished = joined(test, &mut command);
    server.wait_ok();
    assert_rest(&finished, &dir, 1000, &["descriptor"]);
}

fn in_its_own_way(way: &str, tuples: &[&str]) {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "w:65536 r:50 w:100 z");
    let dir = test.folder("client");
    let mut command = Command::new(compiled("sockets"));
    command.args([way, &port.to_string(), &dir]);
    let finished = joined(&test, &mut command);
    server.wait_ok();
    assert_rest(&finished, &dir, 1000, tuples);
}

/// Nobody but the program knows the socket until a read needs the next record: what was read before waits.
#[test]
fn data_waits_for_the_first_read_that_uses_the_socket() {
    in_its_own_way("late", &["later-call"]);
}

/// So much is read from memory that the handle seems to have no socket. Its first write shows the opposite: by the
/// socket that it uses, or first by its record, if that is looked for already.
#[test]
fn a_handle_that_seemed_to_have_no_socket() {
    in_its_own_way("ahead", &["later-call", "ciphertext"]);
}

/// A callback logs each message over a TCP connection of its own, inside calls that use no other socket.
#[test]
fn a_log_over_tcp_inside_the_calls_of_a_handle() {
    logged_over_tcp(&[]);
}

/// What the callback logs begins as a TLS record does.
#[test]
fn a_log_of_records_over_tcp_inside_the_calls_of_a_handle() {
    logged_over_tcp(&["records"]);
}

fn logged_over_tcp(how: &[&str]) {
    let test = begin!();
    let log = TcpListener::bind("127.0.0.1:0").unwrap();
    let log_port = log.local_addr().unwrap().port().to_string();
    let (mut server, port) = exchange_server(&test, "r:10 w:100 w:100 w:100 r:20 w:30 z");
    let dir = test.folder("client");
    let (program, port) = (compiled("sockets"), port.to_string());
    let words = [&[&program, "logs", &port, &dir, &log_port], how].concat();
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert_each_on_its_socket(&finished, &dir, "client", 1, |_, connection| {
        assert!(["same-call", "descriptor"].contains(&connection.comment.get("tuple")));
        assert_eq!(connection.comment.number("from_start"), 1);
    });
}

#[test]
fn a_handle_that_the_program_gives_a_second_socket() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:10 w:20 / r:10 w:20");
    let dir = test.folder("client");
    let finished = test.capture().run(&[&compiled("sockets"), "moves", &port.to_string(), &dir]).ok();
    server.wait_ok();
    assert_each_on_its_socket(&finished, &dir, "client", 2, |_, connection| {
        assert_eq!(connection.comment.get("tuple"), "same-call");
    });
}

/// Of one socket to write to and one to read from, the connection stands on the first.
#[test]
fn one_socket_for_each_direction() {
    let test = begin!();
    let (cert, key) = test.certificate();
    let (clients, servers) = (test.folder("client"), test.folder("server"));
    let mut command = Command::new(compiled("sockets"));
    command.args(["serve", &cert, &key, &servers]);
    let mut server = Process::start(&mut command, test.path("server.err"));
    let port = server.port().to_string();
    let finished = test.capture().run(&[&compiled("sockets"), "two", &port, &clients]).ok();
    server.wait_ok();
    assert_each_on_its_socket(&finished, &clients, "client", 1, |_, connection| {
        assert_eq!(connection.comment.get("tuple"), "same-call");
    });
}

/// Its first bytes come through the other socket.
#[test]
fn one_socket_for_each_direction_of_a_server() {
    let test = begin!();
    let (cert, key) = test.certificate();
    let (clients, servers) = (test.folder("client"), test.folder("server"));
    let mut running = test.capture().start(&[&compiled("sockets"), "serve", &cert, &key, &servers]);
    let port = running.process.port().to_string();
    let mut command = Command::new(compiled("sockets"));
    command.args(["two", &port, &clients]);
    Process::start(&mut command, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    assert_each_on_its_socket(&finished, &servers, "server", 1, |_, connection| {
        assert_eq!(connection.comment.get("tuple"), "remembered");
    });
}

/// A probe cannot read the name while the program tells it, since its page is not in memory yet.
#[test]
fn server_name_that_nobody_has_touched_before() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:50 w:50 S");
    let command =
        [vec![compiled("exchange")], connect("127.0.0.1", port, &test.folder("client"), "w:50 r:50 S")];
    let finished = test.capture().run(&command.concat()).ok();
    server.wait_ok();
    for (view, tshark) in finished.views() {
        let names: Vec<_> = view.connections.iter().map(|connection| connection.comment.get("sni")).collect();
        assert_eq!(names, ["localhost"], "tshark {}", tshark.version);
    }
}
