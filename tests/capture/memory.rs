//! Programs that encrypt into memory and send later: which connection carries what is told by the
//! ciphertext alone.

use std::io::Read;
use std::net::TcpListener;
use std::process::Command;

use crate::support::each::assert_each_on_its_socket;
use crate::support::programs::{PYTHON, exchange_server, has_node, python_server, source};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin};

/// Connections that one event loop has open at once.
const COUNT: usize = 40;

/// Each connection that the program told of stands in the file with its own bytes and its socket, known by its
/// records.
#[track_caller]
fn assert_true(finished: &Finished, dir: &str, role: &str) {
    assert_each_on_its_socket(finished, dir, role, COUNT, |told, connection| {
        assert_eq!(connection.comment.get("tuple"), "ciphertext", "{told:?}");
    });
}

/// A server for [`COUNT`] connections.
fn server(test: &Test) -> (Process, u16) {
    exchange_server(test, &format!("--threads {COUNT} r:1000 w:2000 r:10 w:10 z S"))
}

#[test]
fn asyncio_client() {
    let test = begin!();
    let (mut server, port) = server(&test);
    let dir = test.folder("client");
    let script = source("eventloop.py");
    let words = [PYTHON, &script, "connect", &port.to_string(), &COUNT.to_string(), &dir];
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert_true(&finished, &dir, "client");
}

#[test]
fn asyncio_server() {
    let test = begin!();
    let (cert, key) = test.certificate();
    let dir = test.folder("server");
    let script = source("eventloop.py");
    let words = [PYTHON, &script, "listen", &cert, &key, &COUNT.to_string(), &dir];
    let mut running = test.capture().start(&words);
    let port = running.process.port();
    let mut client = Command::new(PYTHON);
    client.args([&script, "connect", &port.to_string(), &COUNT.to_string(), &test.folder("client")]);
    Process::start(&mut client, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    assert_true(&finished, &dir, "server");
}

/// The connections are open before the capture begins.
#[test]
fn asyncio_server_that_runs_already() {
    let test = begin!();
    let (mut server, port) = python_server(&test, "keepalive_asyncio.py", &[]);
    let script = source("keepalive_asyncio.py");
    let mut command = Command::new(PYTHON);
    command.args([&script, "connect", &port.to_string(), &COUNT.to_string()]);
    let mut client = Process::start(&mut command, test.path("client.err"));
    client.line_after("all are open");
    let running = test.capture().attach(&[server.pid()]);
    client.go_on();
    let told: Vec<(u16, Vec<u8>)> = (0..COUNT)
        .map(|_| {
            let line = client.line_after("spoke ");
            let (port, text) = line.split_once(' ').unwrap();
            (port.parse().unwrap(), text.replace('|', "\n").into_bytes())
        })
        .collect();
    client.wait_ok();
    server.wait_ok();
    let finished = running.stop().ok();
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for (port, text) in &told {
            let found = view.connections.iter().find(|c| c.client.port() == *port);
            let connection = found.unwrap_or_else(|| panic!("nothing of the connection from port {port}"));
            assert_same_bytes(&format!("port {port}"), &connection.sent_by_client, text);
            assert_eq!(connection.comment.get("tuple"), "ciphertext");
            assert_eq!(connection.comment.number("from_start"), 0);
        }
    }
}

#[test]
fn node_client() {
    let test = begin!();
    if !has_node(&test, 12) {
        return;
    }
    let (mut server, port) = server(&test);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_port = plain.local_addr().unwrap().port().to_string();
    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        plain.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    let dir = test.folder("client");
    let script = source("eventloop.js");
    let words = ["node", &script, &port.to_string(), &plain_port, &COUNT.to_string(), &dir];
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert_eq!(heard.join().unwrap().lines().count(), COUNT);
    assert_true(&finished, &dir, "client");
}
