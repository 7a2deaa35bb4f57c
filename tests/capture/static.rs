//! Programs that contain their TLS library, and those that bring one along; with symbols, or with symbols elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::each::assert_each_on_its_socket;
use crate::support::programs::{compiled_as, connect, exchange_server};
use crate::support::{Finished, Test, begin, copy_program, gate, run};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// Each connection that the program told of stands in the file with its own bytes and its own socket, whole.
#[track_caller]
fn assert_true(finished: &Finished, dir: &str, tuple: &str) {
    assert_each_on_its_socket(finished, dir, "client", COUNT, |told, connection| {
        let comment = &connection.comment;
        assert!(connection.finished, "{told:?} has no end");
        assert_eq!(comment.get("tuple"), tuple, "{told:?}");
        assert_eq!(comment.number("from_start"), 1, "{told:?}");
    });
}

/// A copy of the program `exchange` that contains OpenSSL; `None`, with a report, where it cannot be built.
fn program(test: &Test) -> Option<PathBuf> {
    let only_openssl = ["-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic", "-ldl"];
    let copy = test.path("program");
    copy_program(built(test, "exchange-static", &only_openssl)?, &copy);
    Some(copy)
}

fn built(test: &Test, name: &str, libraries: &[&str]) -> Option<String> {
    let archive = Command::new("cc").arg("-print-file-name=libssl.a").output();
    if !archive.is_ok_and(|out| out.stdout.starts_with(b"/")) {
        gate::skipped(&test.name, "OpenSSL's libssl.a is not installed", "T2P_REQUIRE_TOOLS");
        return None;
    }
    Some(compiled_as(name, "exchange", &[&["-Wl,--build-id"], libraries].concat()))
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

/// Captures forty connections of the program.
#[track_caller]
fn captured(test: &Test, program: &Path) {
    let dir = test.folder("client");
    let program = program.to_str().unwrap();
    captured_as(test, &[program], &dir, &dir);
}

/// The same, by a command whose last word is the program; `inside` is what the program calls the folder `dir`.
#[track_caller]
fn captured_as(test: &Test, command: &[&str], inside: &str, dir: &str) {
    let (mut server, port) = exchange_server(test, &format!("--threads {COUNT} r:1000 w:20000 r:10 w:10 S"));
    let ops = format!("--threads {COUNT} w:1000 r:20000 b x:10 R:10 S");
    let words: Vec<String> = command.iter().map(|word| word.to_string()).collect();
    let words = [words, connect("127.0.0.1", port, inside, &ops)].concat();
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert_true(&finished, dir, "same-call");
    for (view, _) in finished.views() {
        let library = view.connections[0].comment.get("library").to_owned();
        // Of a program in a root of its own, the path as this process sees it.
        assert!(library.ends_with(&format!("{} OpenSSL", command.last().unwrap())), "{library}");
    }
}

/// In a root folder of its own, where all that there is of its symbols is a debug file named by the build-id.
#[test]
fn openssl_in_the_program_with_a_debug_file_by_build_id_in_its_own_root() {
    let test = begin!();
    let Some(built) = built(&test, "exchange-whole", &["-static", "-lssl", "-lcrypto"]) else { return };
    let root = PathBuf::from(test.folder("root"));
    let program = root.join("program");
    copy_program(built, &program);
    let notes = String::from_utf8(run(Command::new("readelf").arg("-n").arg(&program))).unwrap();
    let id = notes.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).expect("a build-id");
    let place = root.join(format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::rename(split(&program), place).unwrap();
    let dir = test.folder("root/client");
    captured_as(&test, &["chroot", root.to_str().unwrap(), "/program"], "/client", &dir);
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

#[test]
fn openssl_in_the_program_without_symbols() {
    let test = begin!();
    let Some(program) = program(&test) else { return };
    split(&program);
    captured(&test, &program);
}
