//! Programs that begin while the ring is full: that is about bytes, and must not be about who is followed.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::lives::library;
use crate::loss::{assert_stream, replay};
use crate::support::programs::{
    PYTHON, Told, compiled, connect, exchange_server, listen, source, transcript,
};
use crate::support::view::From;
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, until};

/// State of a thread or process, as ps shows it; `None` if there is none.
fn state(of: &Path) -> Option<char> {
    let stat = fs::read_to_string(of.join("stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn is_stopped(pid: u32) -> bool {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.all(|task| state(&task.path()) == Some('T'))
}

/// Captures `before`, then a program that fills the ring while tls2pcap does not read it, then `second`; that is to be
/// held before it gets far, since it does what has to be acted upon. Then tls2pcap goes on. Returns the pid
/// of the second as well.
fn behind_a_full_ring(
    test: &Test,
    (folder, options): (&str, &[&str]),
    before: &str,
    second: &str,
) -> (Finished, u32) {
    // Data records of 128 and of 120 bytes: the ring takes 16,376 bytes, all of them from these.
    let writes = format!("{} {}", ["w:9"; 7].join(" "), ["w:1"; 140].join(" "));
    let mut server = Command::new(compiled("exchange"));
    server.args(listen(test, "127.0.0.1", 0, &test.folder("full-server"), "r:213 w:10 S"));
    let mut server = Process::start(&mut server, test.path("full-server.err"));
    let dir = test.folder("full");
    let fills = connect("127.0.0.1", server.port(), &dir, &format!("w:10 i {writes} i r:10 S")).join(" ");
    let recording = test.text("full.t2p");
    let script = format!("{before} && {} {fills} && echo second $$ && exec {second}", compiled("exchange"));
    let capture = test.capture().variable("LD_LIBRARY_PATH", folder).args(options).args(&[
        "--ring-size",
        "16K",
        "-v",
        "--record",
        &recording,
    ]);
    let mut running = capture.start(&["sh", "-c", &script]);
    let mut told = None;
    let told = loop {
        match running.process.line() {
            line if line.starts_with("waiting") => break told.expect("a connection"),
            line => told = Told::parse(&line).or(told),
        }
    };
    let file = test.path("out.pcapng");
    until("the ring to be read", || {
        let written = fs::read(&file).ok()?;
        written.windows(10).any(|text| text == b"c00000 000").then_some(())
    });
    let frozen = running.process.freeze_but("holder");
    running.process.go_on();
    running.process.line_after("waiting");
    running.process.go_on();
    let pid = running.process.line_after("second ").parse().unwrap();
    until("the second program to be held, or to end", || {
        let state = state(Path::new(&format!("/proc/{pid}")));
        matches!(state, None | Some('t' | 'Z')).then_some(())
    });
    frozen.thaw();
    let finished = running.finish().ok();
    server.wait_ok();
    let truth = transcript(&dir, "client", 0);
    for (view, _) in finished.views() {
        let full = view.of(told.local, told.remote);
        assert_stream(full, From::Client, &truth.sent);
        assert_stream(full, From::Server, &truth.received);
        assert!(full.holes.iter().any(|hole| hole.reason == "ring-full"), "{}", finished.stderr);
    }
    // Notices stand in the recording, each at its place.
    let again = test.path("again.pcapng");
    replay(&recording, &again);
    assert!(fs::read(again).unwrap() == fs::read(file).unwrap(), "the replay differs from what was captured");
    (finished, pid)
}

/// The second program's connections are whole, each on its socket.
#[track_caller]
fn assert_whole(finished: &Finished, pid: u32, dir: &str, count: usize, tuple: &str) {
    let mut told = Told::all(&finished.text());
    told.retain(|told| told.pid == pid);
    assert_eq!(told.len(), count, "{}", finished.text());
    for (view, _) in finished.views() {
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let truth = transcript(dir, "client", told.index);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
            assert!(connection.holes.is_empty(), "{:?}", connection.holes);
            assert_eq!(connection.comment.get("tuple"), tuple);
            assert_eq!(connection.comment.number("pid"), u64::from(pid));
            assert!(!connection.comment.get("comm").is_empty());
        }
    }
}

#[test]
fn a_library_that_is_new_is_probed() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "--times 2 r:5 w:40 z S");
    let folder = test.folder("lib");
    let new = format!("{folder}/new-libssl.so.3");
    fs::copy(library("libssl.so.3"), &new).unwrap();
    let late = |library: &str| format!("{} {library} 127.0.0.1 {port} hello", compiled("late"));
    let (finished, pid) = behind_a_full_ring(
        &test,
        (&folder, &[]),
        &(late(&library("libssl.so.3")) + " >/dev/null"),
        &late(&new),
    );
    server.wait_ok();
    let truth = transcript(&test.text("server"), "server", 1);
    for (view, _) in finished.views() {
        let second = view.connections.iter().find(|c| c.comment.number("pid") == u64::from(pid));
        let second = second.unwrap_or_else(|| panic!("the second is not there:\n{}", finished.stderr));
        assert_same_bytes("client", &second.sent_by_client, b"hello");
        assert_same_bytes("server", &second.sent_by_server, &truth.sent);
        assert!(second.holes.is_empty() && second.finished, "{:?}", second.holes);
        assert_eq!(second.comment.number("from_start"), 1);
        assert_eq!(second.comment.get("comm"), "late");
        assert!(second.comment.get("library").contains(&new), "{:?}", second.comment);
    }
}

#[test]
fn a_program_that_encrypts_into_memory_is_followed() {
    const COUNT: usize = 2;
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "--threads 4 r:1000 w:2000 r:10 w:10 z S");
    let program = |dir: &str| format!("{PYTHON} {} connect {port} {COUNT} {dir}", source("eventloop.py"));
    let [before, second] = ["before", "second"].map(|dir| test.folder(dir));
    let (finished, pid) = behind_a_full_ring(&test, ("", &[]), &program(&before), &program(&second));
    server.wait_ok();
    assert_whole(&finished, pid, &second, COUNT, "ciphertext");
}

/// The other ring has its end too: a thousand files at once, while nobody looks.
#[test]
fn who_was_not_looked_at_is_told() {
    const SCRIPT: &str = "import mmap, sys\nprint('ready', flush=True)\nsys.stdin.readline()\n\
        for n in range(1500):\n with open(f'{sys.argv[1]}/{n}', 'wb+') as f:\n  f.write(b'x')\n  f.flush()\n  \
        mmap.mmap(f.fileno(), 1).close()\nprint('done', flush=True)\nsys.stdin.readline()";
    let test = begin!();
    let mut command = Command::new(PYTHON);
    command.args(["-I", "-c", SCRIPT, &test.folder("files")]);
    command.env("LD_PRELOAD", library("libssl.so.3"));
    let mut program = Process::start(&mut command, test.path("program.err"));
    program.line_after("ready");
    let running = test.capture().args(&["--fail-on-loss"]).attach(&[program.pid()]);
    running.process.signal(Signal::SIGSTOP);
    until("tls2pcap to stop", || is_stopped(running.process.pid()).then_some(()));
    program.go_on();
    program.line_after("done");
    running.process.signal(Signal::SIGCONT);
    let finished = running.stop();
    program.go_on();
    program.wait_ok();
    assert_eq!(finished.status, 6, "{}", finished.stderr);
    let who = format!("[{}] ", program.pid());
    for words in ["new files or processes: too many at the same time", "with --lib)", &who] {
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
}
