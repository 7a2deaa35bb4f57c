//! Packets of several processes stand in order of time in the file; what had to come late says so.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::programs::{
    Told, blocks_in_write, compiled, connect, exchange_server, listen, transcript,
};
use crate::support::tshark::{self, Tshark};
use crate::support::{Process, Test, assert_same_bytes, begin, gate, run, until};

/// Runs a tool of a release on a file; what it says on stdout.
fn tool(name: &str, tshark: &Tshark, args: &[&str]) -> Option<String> {
    let name = format!("{name}-{}", tshark.version);
    match gate::cached_tool(&name) {
        Some(path) => Some(String::from_utf8(run(Command::new(path).args(args))).unwrap()),
        None => {
            gate::skipped(
                &format!("what {name} says"),
                "not found (run tests/oracles)",
                "T2P_REQUIRE_ORACLES",
            );
            None
        }
    }
}

/// What capinfos of each release says of the order.
#[track_caller]
fn assert_order(file: &Path, expected: bool) {
    for tshark in tshark::oracles() {
        if let Some(text) = tool("capinfos", tshark, &["-o", file.to_str().unwrap()]) {
            let expected = if expected { "True" } else { "False" };
            let line = text.lines().find(|line| line.starts_with("Strict time order:")).unwrap();
            assert!(line.ends_with(expected), "{} says: {line}", tshark.version);
        }
    }
}

#[test]
fn packets_of_many_processes_are_in_order_of_time() {
    const PROCESSES: usize = 8;
    const CONNECTIONS: usize = 12;
    let test = begin!();
    let ops = format!("--times {} r:3000 w:20000 r:10 w:10 S", PROCESSES * CONNECTIONS);
    let (mut server, port) = exchange_server(&test, &ops);
    let ops = "--threads 3 --times 4 w:3000 r:20000 w:10 r:10 S";
    let mut script = String::new();
    for n in 0..PROCESSES {
        let words = connect("127.0.0.1", port, &test.folder(&format!("client{n}")), ops).join(" ");
        script += &format!("{} {words} > {} & ", compiled("exchange"), test.text(&format!("out{n}")));
    }
    let finished = test.capture().run(&["sh", "-c", &format!("{script} wait")]).ok();
    server.wait_ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert!(!finished.stderr.contains(" late "), "{}", finished.stderr);
    assert_order(&finished.file, true);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), PROCESSES * CONNECTIONS, "tshark {}", tshark.version);
        for n in 0..PROCESSES {
            let told = Told::all(&fs::read_to_string(test.path(&format!("out{n}"))).unwrap());
            assert_eq!(told.len(), CONNECTIONS);
            for told in told {
                let truth = transcript(&test.text(&format!("client{n}")), "client", told.index);
                let connection = view.of(told.local, told.remote);
                assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
                assert_same_bytes("server", &connection.sent_by_server, &truth.received);
            }
        }
    }
}

/// A write stands where it began, and nobody knows of it before it is over.
#[test]
fn a_write_that_took_long_is_late_and_says_so() {
    let test = begin!();
    let (mut slow, port) = exchange_server(&test, "--window 4096 r:100 i r:8000000 w:10 S");
    let dir = test.folder("client");
    let blocked = connect("127.0.0.1", port, &dir, "w:100 w:8000000 r:10 S").join(" ");
    let mut server = Command::new(compiled("exchange"));
    server.args(listen(&test, "127.0.0.1", 0, &test.folder("quick-server"), "r:10 w:20 r:200 w:20 S"));
    let mut server = Process::start(&mut server, test.path("quick-server.err"));
    let quick_port = server.port();
    let quick_dir = test.folder("quick");
    let quick = connect("127.0.0.1", quick_port, &quick_dir, "i w:10 r:20 w:200 r:20 S").join(" ");
    let exchange = compiled("exchange");
    let script = format!("{exchange} {blocked} & {exchange} {quick}; wait");
    let mut running = test.capture().start(&["sh", "-c", &script]);
    // Both say where they are, in any order, and the quick one that it waits.
    let lines: Vec<String> = (0..3).map(|_| running.process.line()).collect();
    let told = Told::all(&lines.join("\n"));
    let of = |port| told.iter().find(|told| told.remote.port() == port).unwrap().clone();
    let (blocked, quick) = (of(port), of(quick_port));
    slow.line_after("waiting");
    until("the program to block in its second write", || blocks_in_write(&blocked).then_some(()));
    running.process.go_on();
    let file = test.path("out.pcapng");
    let sent = || transcript(&quick_dir, "client", quick.index).sent;
    until("what the other has said to be in the file", || {
        let (written, sent) = (fs::read(&file).ok()?, sent());
        // Behind what the blocked one has sent, which is of the same pattern.
        (sent.len() == 210 && written.windows(20).any(|bytes| bytes == &sent[190..])).then_some(())
    });
    slow.go_on();
    let finished = running.finish().ok();
    slow.wait_ok();
    server.wait_ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert!(finished.stderr.contains(" ms late in the file (late=)"), "{}", finished.stderr);
    assert_order(&finished.file, false);
    for (view, tshark) in finished.views() {
        for (told, dir) in [(&blocked, &dir), (&quick, &quick_dir)] {
            let truth = transcript(dir, "client", told.index);
            let connection = view.of(told.local, told.remote);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
        // Late are all packets of that write and the ACKs of them but no other, and no later than is said.
        let (mut high, mut late) = (0.0_f64, 0);
        let fields = ["frame.time_epoch", "frame.comment", "tcp.srcport", "tcp.dstport", "tcp.len"];
        for row in tshark.fields(&finished.file, "", &fields) {
            let time: f64 = row[0].parse().unwrap();
            if let Some(by) = row[1].split("late=").nth(1) {
                let by: f64 = by.split(' ').next().unwrap().parse().unwrap();
                assert!((high - time - by).abs() < 1e-5, "{row:?} behind {high}");
                let from = if row[4] == "0" { &row[3] } else { &row[2] };
                assert_eq!(*from, blocked.local.port().to_string());
                late += usize::from(row[4] != "0");
            } else {
                assert!(time >= high, "{row:?} behind {high}");
            }
            high = high.max(time);
        }
        assert!(late > 100, "{late} packets of 8,000,000 bytes");
    }
    reordered(&test, &finished.file);
}

/// What brings a file into order afterwards: reordercap, for 4.0 with a way round that the documentation names.
fn reordered(test: &Test, file: &Path) {
    let file = file.to_str().unwrap();
    for tshark in tshark::oracles() {
        let [first, out] =
            ["first", "sorted"].map(|name| test.text(&format!("{name}-{}.pcapng", tshark.version)));
        let mut input = file;
        if tshark.version == "4.0" {
            run(Command::new(tshark.path()).args(["-2", "-r", file, "-w", &first]));
            input = &first;
        }
        if tool("reordercap", tshark, &[input, &out]).is_none() {
            continue;
        }
        assert_order(Path::new(&out), true);
        let all = |file: &str| {
            let fields =
                ["frame.time_epoch", "frame.interface_name", "tcp.seq_raw", "tcp.srcport", "frame.comment"];
            let mut rows = tshark.fields(Path::new(file), "", &fields);
            rows.sort();
            rows
        };
        assert_eq!(all(&out), all(file), "{}", tshark.version);
    }
}
