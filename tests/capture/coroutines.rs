//! Programs whose TLS calls go over to another stack before they return: they must live, and each byte is to be
//! in its own connection.

use std::process::Command;

use crate::lives::library;
use crate::support::each::assert_each_on_its_socket;
use crate::support::programs::{compiled, exchange_server};
use crate::support::{Finished, Process, Test, begin};

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
pub fn own_openssl(test: &Test) -> String {
    let folder = test.folder("lib");
    for name in ["libssl.so.3", "libcrypto.so.3"] {
        std::fs::copy(library(name), format!("{folder}/{name}")).unwrap();
    }
    folder
}

/// All that they move is in the file, from the first byte.
#[track_caller]
fn assert_followed(test: &Test, coroutines: usize, threads: usize, options: &[&str]) -> Finished {
    let (mut server, words, count) = clients(test, coroutines, threads);
    let mut running =
        test.capture().variable("LD_LIBRARY_PATH", &own_openssl(test)).args(options).start(&words);
    running.process.go_on();
    let finished = running.finish().ok();
    server.wait_ok();
    assert_each_on_its_socket(&finished, &test.text("client"), "client", count, |_, _| {});
    finished
}

#[test]
fn two_coroutines_inside_a_call_of_their_thread() {
    assert_followed(&begin!(), 2, 1, &[]);
}

#[test]
fn forty_coroutines() {
    assert_followed(&begin!(), 40, 1, &[]);
}

#[test]
fn coroutines_that_go_on_in_another_thread() {
    assert_followed(&begin!(), 40, 3, &[]);
}

/// Beside return probes each process with coroutines is told, and others of its probes take their place.
#[test]
fn coroutines_where_return_probes_are_chosen() {
    let finished = assert_followed(&begin!(), 40, 3, &["--return-probes", "-v"]);
    assert!(finished.stderr.contains(" has coroutines: "), "{}", finished.stderr);
}

/// A program whose coroutines exist before the capture does.
#[track_caller]
fn running_already(test: &Test, options: &[&str]) -> Finished {
    let (mut server, words, _) = clients(test, 10, 2);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("LD_LIBRARY_PATH", own_openssl(test));
    let mut program = Process::start(&mut command, test.path("program.err"));
    while program.line() != "ready" {}
    let running = test.capture().args(options).attach(&[program.pid()]);
    program.go_on();
    program.wait_ok();
    server.wait_ok();
    running.stop().ok()
}

#[test]
fn a_process_that_runs_already_is_followed() {
    let test = begin!();
    let finished = running_already(&test, &[]);
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
}

/// Nobody stops it, so what it moves before its returns are probed is lost, and told.
#[test]
fn a_process_that_runs_already_lives_with_return_probes() {
    let finished = running_already(&begin!(), &["--return-probes", "-v"]);
    assert!(finished.stderr.contains(" has coroutines: "), "{}", finished.stderr);
    let losses = finished.stderr.lines().filter(|line| line.starts_with("lost: "));
    losses.for_each(|line| assert!(line.contains("made by coroutines"), "{}", finished.stderr));
}
