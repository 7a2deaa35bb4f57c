//! Programs whose TLS calls go over to another stack before they return: they must live, and each byte is to be
//! in its own connection.

use std::process::Command;

use crate::lives::library;
use crate::support::each::assert_each_on_its_socket;
use crate::support::programs::{compiled, exchange_server};
use crate::support::{Process, Test, begin};

/// A server for so many clients, and the words of the program that has them in coroutines.
fn clients(test: &Test, coroutines: usize, threads: usize) -> (Process, Vec<String>, usize) {
    let count = coroutines + usize::from(threads == 1);
    let (server, port) = exchange_server(test, &format!("--times {count} r:1000 w:20000 r:3000 w:500 z"));
    let numbers = [coroutines.to_string(), threads.to_string()];
    let head = [compiled("coroutines"), "127.0.0.1".into(), port.to_string(), test.folder("client")];
    let pairs = ["1000:20000".into(), "3000:500".into()];
    (server, [head.to_vec(), numbers.to_vec(), pairs.to_vec()].concat(), count)
}

/// A folder with an OpenSSL of the test's own: return probes of whoever else uses the system's would kill the program.
fn own_openssl(test: &Test) -> String {
    let folder = test.folder("lib");
    for name in ["libssl.so.3", "libcrypto.so.3"] {
        std::fs::copy(library(name), format!("{folder}/{name}")).unwrap();
    }
    folder
}

/// All that they move is in the file, from the first byte.
#[track_caller]
fn assert_followed(test: &Test, coroutines: usize, threads: usize) {
    let (mut server, words, count) = clients(test, coroutines, threads);
    let mut running =
        test.capture().variable("LD_LIBRARY_PATH", &own_openssl(test)).args(&["-v"]).start(&words);
    running.process.go_on();
    let finished = running.finish().ok();
    server.wait_ok();
    assert!(finished.stderr.contains(" has coroutines: "), "{}", finished.stderr);
    assert_each_on_its_socket(&finished, &test.text("client"), "client", count, |_, _| {});
}

#[test]
fn two_coroutines_inside_a_call_of_their_thread() {
    assert_followed(&begin!(), 2, 1);
}

#[test]
fn forty_coroutines() {
    assert_followed(&begin!(), 40, 1);
}

#[test]
fn coroutines_that_go_on_in_another_thread() {
    assert_followed(&begin!(), 40, 3);
}

/// Nobody stops it, so what it moves before its returns are probed is lost, and told.
#[test]
fn a_process_that_runs_already_lives() {
    let test = begin!();
    let (mut server, words, _) = clients(&test, 10, 2);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("LD_LIBRARY_PATH", own_openssl(&test));
    let mut program = Process::start(&mut command, test.path("program.err"));
    while program.line() != "ready" {}
    let running = test.capture().args(&["-v"]).attach(&[program.pid()]);
    program.go_on();
    program.wait_ok();
    server.wait_ok();
    let finished = running.stop().ok();
    assert!(finished.stderr.contains(" has coroutines: "), "{}", finished.stderr);
    let losses = finished.stderr.lines().filter(|line| line.starts_with("lost: "));
    losses.for_each(|line| assert!(line.contains("made by coroutines"), "{}", finished.stderr));
}
