//! Programs that are written in Go, of several releases, stripped or not, wherever they are loaded.

use std::process::Command;

use crate::support::programs::{Told, built_by_go, transcript};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, gate};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// Garbage is collected all the time, and stacks move.
const STRESS: [(&str, &str); 2] = [("GOGC", "1"), ("GODEBUG", "gcstoptheworld=1,gcshrinkstackoff=0")];

/// `fixtures/programs/gotls.go` by this Go; `None`, with a report, where that is missing.
fn program(test: &Test, go: &str, more: &[&str]) -> Option<String> {
    let program = built_by_go(go, "gotls", more);
    if program.is_none() {
        gate::skipped(&test.name, &format!("{go} is not there: run tests/oracles"), "T2P_REQUIRE_ORACLES");
    }
    program
}

/// Each connection that the program told of stands in the file with its own bytes and its socket, and
/// there is no other.
#[track_caller]
fn assert_each_on_its_socket(finished: &Finished, text: &str, dir: &str, role: &str) {
    let told = Told::all(text);
    assert_eq!(told.len(), COUNT, "{text}\n{}", finished.stderr);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let truth = transcript(dir, role, told.index);
            let (client, server) = match role {
                "client" => (&truth.sent, &truth.received),
                _ => (&truth.received, &truth.sent),
            };
            assert_same_bytes(&format!("client of {told:?}"), &connection.sent_by_client, client);
            assert_same_bytes(&format!("server of {told:?}"), &connection.sent_by_server, server);
            assert!(connection.finished, "{told:?} has no end");
            let comment = &connection.comment;
            assert_eq!(comment.get("tuple"), "same-call", "{told:?}");
            assert_eq!(comment.get("role"), role, "{told:?}");
            assert_eq!(comment.number("fd"), u64::from(told.fd), "{told:?}");
            assert_eq!(comment.number("from_start"), 1, "{told:?}");
        }
    }
}

fn listener(test: &Test, program: &str) -> (Process, u16) {
    let (cert, key) = test.certificate();
    let mut command = Command::new(program);
    command.args(["listen", &cert, &key, &test.folder("server"), &COUNT.to_string()]).envs(STRESS);
    let mut server = Process::start(&mut command, test.path("server.err"));
    let port = server.port();
    (server, port)
}

fn forty_of_a_client(test: &Test, go: &str, more: &[&str]) {
    let Some(program) = program(test, go, more) else { return };
    let (mut server, port) = listener(test, &program);
    let dir = test.folder("client");
    let words = [&program, "connect", &port.to_string(), &dir, &COUNT.to_string()];
    let finished =
        STRESS.iter().fold(test.capture(), |c, (name, value)| c.variable(name, value)).run(&words).ok();
    server.wait_ok();
    assert_each_on_its_socket(&finished, &finished.text(), &dir, "client");
}

fn forty_of_a_server(test: &Test, go: &str, more: &[&str]) {
    let Some(program) = program(test, go, more) else { return };
    let (cert, key) = test.certificate();
    let dir = test.folder("server");
    let words = [&program, "listen", &cert, &key, &dir, &COUNT.to_string()];
    let mut running =
        STRESS.iter().fold(test.capture(), |c, (name, value)| c.variable(name, value)).start(&words);
    let port = running.process.port();
    let mut client = Command::new(&program);
    client.args(["connect", &port.to_string(), &test.folder("client"), &COUNT.to_string()]);
    Process::start(&mut client, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    assert_each_on_its_socket(&finished, &finished.text(), &dir, "server");
}

#[test]
fn client_of_1_19() {
    forty_of_a_client(&begin!(), "go-1.19", &[]);
}

#[test]
fn client_of_1_24_stripped() {
    forty_of_a_client(&begin!(), "go-1.24", &["-ldflags=-s -w"]);
}

#[test]
fn client_of_the_newest_stripped_at_any_address() {
    forty_of_a_client(&begin!(), "go-sid", &["-ldflags=-s -w", "-buildmode=pie"]);
}

#[test]
fn server_of_1_19_stripped_at_any_address() {
    forty_of_a_server(&begin!(), "go-1.19", &["-ldflags=-s -w", "-buildmode=pie"]);
}

#[test]
fn server_of_1_24() {
    forty_of_a_server(&begin!(), "go-1.24", &[]);
}

#[test]
fn server_of_the_newest() {
    forty_of_a_server(&begin!(), "go-sid", &[]);
}
