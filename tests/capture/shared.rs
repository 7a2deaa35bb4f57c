//! One socket that several processes use, or several handles one after the other: it is one connection, and each
//! packet names the process of its call.

use std::process::Command;

use crate::support::programs::{Told, compiled, transcript};
use crate::support::view::{Connection, From, Packet, View};
use crate::support::{Process, Test, assert_same_bytes, begin};

/// The interface of each byte that one end sent.
fn interfaces(view: &View, from: From) -> Vec<String> {
    let connection = view.only();
    let source = if from == From::Client { connection.written.0 } else { connection.written.1 };
    let each = |p: &Packet| vec![p.interface.clone(); p.len()];
    view.packets.iter().filter(|p| p.source == source).flat_map(each).collect()
}

/// The process of each byte that the program says it moved: `what` is `S` or `R`.
fn callers(dir: &str, what: &str) -> Vec<String> {
    let log = std::fs::read_to_string(format!("{dir}/callers")).unwrap();
    let call = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0] == what).then(|| vec![format!("shared[{}]", words[1]); words[2].parse().unwrap()])
    };
    log.lines().filter_map(call).flatten().collect()
}

fn assert_same_callers(what: &str, found: &[String], truth: &[String]) {
    let first = (0..truth.len().max(found.len())).find(|n| found.get(*n) != truth.get(*n));
    assert!(first.is_none(), "{what}, byte {first:?}: {:?}", first.map(|n| (found.get(n), truth.get(n))));
}

/// Captures the server in this mode; `check` gets what each tshark sees.
fn served(test: &Test, mode: &str, processes: usize, check: impl Fn(&Connection, &Told)) {
    let (cert, key) = test.certificate();
    let dir = test.folder("server");
    let program = compiled("shared");
    let words = [&program, "listen", "127.0.0.1", "0", "--dir", &dir, mode, &cert, &key];
    let mut running = test.capture().start(&words);
    let port = running.process.port();
    let mut client = Command::new(&program);
    client.args(["connect", "127.0.0.1", &port.to_string(), "--dir", &test.folder("client"), mode]);
    let mut client = Process::start(&mut client, test.path("client.err"));
    let told = Told::parse(&running.process.line()).unwrap();
    client.wait_ok();
    let finished = running.finish().ok();
    let truth = transcript(&dir, "server", 0);
    let (sent, received) = (callers(&dir, "S"), callers(&dir, "R"));
    let mut all: Vec<_> = sent.iter().chain(&received).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), processes, "processes that moved bytes");
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, &truth.received);
        assert_same_bytes("server", &connection.sent_by_server, &truth.sent);
        assert_same_callers("client", &interfaces(&view, From::Client), &received);
        assert_same_callers("server", &interfaces(&view, From::Server), &sent);
        let comment = &connection.comment;
        assert_eq!((comment.local(), comment.remote()), (told.local, told.remote));
        assert_eq!(connection.client, told.remote);
        assert_eq!(comment.get("from_start"), "1");
        assert!(connection.finished, "the end of the socket is in the file");
        check(connection, &told);
    }
}

#[test]
fn one_tls_object_in_memory_that_two_processes_share() {
    let test = begin!();
    served(&test, "memory", 2, |connection, told| {
        assert_eq!(connection.comment.number("pid"), u64::from(told.pid));
    });
}

#[test]
fn a_child_goes_on_after_the_handshake_of_its_parent() {
    let test = begin!();
    served(&test, "handshake", 1, |connection, told| {
        assert_eq!(connection.comment.number("pid"), u64::from(told.pid), "the parent opened it");
        assert_eq!(connection.interface, format!("shared[{}]", told.pid));
    });
}

#[test]
fn a_child_answers_what_its_parent_has_read() {
    let test = begin!();
    served(&test, "request", 2, |_, _| ());
}

#[test]
fn a_child_reads_the_rest_of_a_record_from_memory() {
    let test = begin!();
    served(&test, "buffered", 2, |_, _| ());
}

#[test]
fn tls_begun_anew_on_the_same_socket() {
    let test = begin!();
    served(&test, "follow", 1, |_, _| ());
}

#[test]
fn a_socket_that_is_passed_on_to_processes_with_handles_of_their_own() {
    let test = begin!();
    served(&test, "passed", 6, |_, _| ());
}
