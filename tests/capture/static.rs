//! Programs that contain their TLS library, and those that bring one along; with symbols, or with symbols elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::programs::{Told, compiled_as, connect, exchange_server, transcript};
use crate::support::{Finished, Test, assert_same_bytes, begin, gate, run};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// Each connection that the program told of stands in the file with its own bytes and its socket, and
/// there is no other.
#[track_caller]
fn assert_each_on_its_socket(finished: &Finished, dir: &str, tuple: &str) {
    let text = finished.text();
    let told = Told::all(&text);
    assert_eq!(told.len(), COUNT, "{text}\n{}", finished.stderr);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let truth = transcript(dir, "client", told.index);
            assert_same_bytes(&format!("client of {told:?}"), &connection.sent_by_client, &truth.sent);
            assert_same_bytes(&format!("server of {told:?}"), &connection.sent_by_server, &truth.received);
            assert!(connection.finished, "{told:?} has no end");
            let comment = &connection.comment;
            assert_eq!(comment.get("tuple"), tuple, "{told:?}");
            assert_eq!(comment.number("fd"), told.fd.into(), "{told:?}");
            assert_eq!(comment.number("from_start"), 1, "{told:?}");
        }
    }
}

/// A copy of the program `exchange` that contains OpenSSL; `None`, with a report, where it cannot be built.
fn program(test: &Test) -> Option<PathBuf> {
    let archive = Command::new("cc").arg("-print-file-name=libssl.a").output();
    if !archive.is_ok_and(|out| out.stdout.starts_with(b"/")) {
        gate::skipped(&test.name, "OpenSSL's libssl.a is not installed", "T2P_REQUIRE_TOOLS");
        return None;
    }
    let libraries =
        ["-Wl,--build-id", "-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic", "-ldl", "-Wl,--as-needed"];
    let built = compiled_as("exchange-static", "exchange", &libraries);
    let copy = test.path("program");
    std::fs::copy(built, &copy).unwrap();
    Some(copy)
}

fn tool(words: &[&str]) {
    run(Command::new(words[0]).args(&words[1..]));
}

/// Splits the symbols off; the debug file's path.
fn split(program: &Path) -> PathBuf {
    let debug = program.with_extension("debug");
    let [from, to] = [program, &debug].map(|path| path.to_str().unwrap());
    tool(&["objcopy", "--only-keep-debug", from, to]);
    tool(&["strip", from]);
    debug
}

/// Captures forty connections of the program; what tells where its symbols are must be in what is said.
#[track_caller]
fn captured(test: &Test, program: &Path) {
    let (mut server, port) = exchange_server(test, &format!("--threads {COUNT} r:1000 w:20000 r:10 w:10 S"));
    let dir = test.folder("client");
    let ops = format!("--threads {COUNT} w:1000 r:20000 b x:10 R:10 S");
    let words = [vec![program.to_str().unwrap().to_owned()], connect("127.0.0.1", port, &dir, &ops)].concat();
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert_each_on_its_socket(&finished, &dir, "same-call");
    for (view, _) in finished.views() {
        let library = view.connections[0].comment.get("library").to_owned();
        assert!(library.starts_with(program.to_str().unwrap()), "{library}");
        assert!(library.contains(" OpenSSL"), "{library}");
    }
}

#[test]
fn openssl_in_the_program_with_symbols() {
    let test = begin!();
    let Some(program) = program(&test) else { return };
    captured(&test, &program);
}

#[test]
fn openssl_in_the_program_with_a_debug_file_by_link() {
    let test = begin!();
    let Some(program) = program(&test) else { return };
    let debug = split(&program);
    let link = format!("--add-gnu-debuglink={}", debug.display());
    tool(&["objcopy", &link, program.to_str().unwrap()]);
    captured(&test, &program);
}

#[test]
fn openssl_in_the_program_with_mini_debug_info() {
    let test = begin!();
    let Some(program) = program(&test) else { return };
    // As gdb's manual makes it: the names of functions only.
    let text =
        String::from_utf8(run(Command::new("nm").args(["-P", "--defined-only"]).arg(&program))).unwrap();
    let functions = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let name = words.next()?;
        words.next().filter(|kind| ["T", "t"].contains(kind)).map(|_| format!("{name}\n"))
    });
    let list = test.text("functions");
    std::fs::write(&list, functions.collect::<String>()).unwrap();
    let debug = split(&program).to_str().unwrap().to_owned();
    tool(&["objcopy", "-S", "--remove-section", ".comment", "--keep-symbols", &list, &debug]);
    tool(&["xz", &debug]);
    let section = format!(".gnu_debugdata={debug}.xz");
    tool(&["objcopy", "--add-section", &section, program.to_str().unwrap()]);
    captured(&test, &program);
}

/// Nothing is captured, and it is said why.
#[test]
fn openssl_in_the_program_without_symbols() {
    let test = begin!();
    let Some(program) = program(&test) else { return };
    split(&program);
    let (mut server, port) = exchange_server(&test, "r:10 w:10 S");
    let dir = test.folder("client");
    let words = [vec![program.to_str().unwrap().to_owned()], connect("127.0.0.1", port, &dir, "w:10 r:10 S")]
        .concat();
    let finished = test.capture().run(&words);
    server.wait_ok();
    let said = format!("{}: contains OpenSSL, whose functions have no names", program.display());
    assert!(finished.stderr.contains(&said), "{}", finished.stderr);
}
