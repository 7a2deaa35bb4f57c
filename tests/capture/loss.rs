//! What is lost: it has its place, its length and its reason in the file, and the summary says the same.

use std::path::Path;
use std::process::Command;

use libbpf_rs::{MapCore, MapHandle};
use nix::sys::signal::Signal;

use crate::support::capture::Capture;
use crate::support::nginx::{Nginx, PAGE};
use crate::support::programs::{Told, Transcript, compiled, connect, exchange_server, transcript};
use crate::support::view::{Connection, From, Hole};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, tshark, until};

/// A finished capture of the program `leap` doing `client`; an uncaptured server did `server`.
fn leap(test: &Test, capture: Capture, client: &str, server: &str) -> (Finished, Transcript) {
    let (mut peer, port) = exchange_server(test, server);
    let dir = test.folder("client");
    let head = format!("127.0.0.1 {port} --dir {dir} {client}");
    let words: Vec<String> =
        std::iter::once(compiled("leap")).chain(head.split(' ').map(String::from)).collect();
    let finished = capture.run(&words);
    peer.wait_ok();
    (finished, transcript(&dir, "client", 0))
}

fn unknown(from: From, reason: &str) -> Hole {
    Hole { from, len: None, reason: reason.into() }
}

fn known(from: From, len: usize, reason: &str) -> Hole {
    Hole { from, len: Some(len), reason: reason.into() }
}

/// A capture of `leap` in which calls were left: `holes` tell of them, and all that the others moved
/// is there.
fn left_calls(client: &str, server: &str, holes: &[Hole]) {
    let test = begin!();
    let (finished, truth) = leap(&test, test.capture(), client, server);
    let finished = finished.ok();
    for (view, _) in finished.views_but(|packet| packet.is_behind_jump()) {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        assert_eq!(connection.holes, holes);
        assert!(connection.finished);
    }
    let told = match holes.len() {
        0 => "nothing lost".to_string(),
        1 => "lost: 1 call: the return was not seen".to_string(),
        n => format!("lost: {n} calls: the return was not seen"),
    };
    assert!(finished.stderr.contains(&told), "{}", finished.stderr);
}

#[test]
fn reads_left_again_and_again_where_the_stack_stays_as_it_is() {
    let lost = unknown(From::Server, "unfinished-call");
    left_calls(
        "w:100 r:100 L:3 w:1 r:100 dr:50 S",
        "r:100 w:100 r:1 w:150 S",
        &[lost.clone(), lost.clone(), lost],
    );
}

#[test]
fn a_read_left_from_far_below_hides_no_later_read() {
    let holes = [unknown(From::Server, "unfinished-call")];
    left_calls("w:10 F w:5 r:100 dr:20 r:30 S", "r:15 w:150 S", &holes);
}

#[test]
fn a_read_left_hides_no_later_read_from_below() {
    let holes = [unknown(From::Server, "unfinished-call")];
    left_calls("w:10 L:1 w:5 dr:100 dr:20 r:30 S", "r:15 w:150 S", &holes);
}

#[test]
fn a_write_left_and_made_again() {
    let holes = [unknown(From::Client, "unfinished-call")];
    left_calls("W:100 dw:10 r:100 w:5 S", "r:110 w:100 r:5 S", &holes);
}

#[test]
fn a_handshake_that_is_left_is_no_lost_call() {
    left_calls("H w:10 dr:100 r:10 S", "r:10 w:110 S", &[]);
}

/// The buffer is gone when the call returns, all of it or the last page.
#[test]
fn a_buffer_that_cannot_be_read_is_a_hole_of_its_length() {
    let test = begin!();
    let client = "w:100 u:8000 w:10 u:100000 w:10 r:10 S";
    let (finished, truth) = leap(&test, test.capture().args(&["--fail-on-loss"]), client, "r:108120 w:10 S");
    assert_eq!(finished.status, 6, "{}", finished.stderr);
    // A part of a call is 64,512 bytes: the first of the longer one can be read.
    let holes = [known(From::Client, 8000, "unreadable"), known(From::Client, 35_488, "unreadable")];
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_eq!(connection.holes, holes);
        assert_stream(connection, From::Client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
    }
    for words in ["lost: 43,488 bytes in 2 data records: the program's memory", "] 43,488 bytes\n"] {
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
}

/// The bytes that are there stand at their places, and what is missing is told.
#[track_caller]
pub fn assert_stream(connection: &Connection, from: From, truth: &[u8]) {
    let length: usize = connection.turns.iter().filter(|turn| turn.0 == from).map(|turn| turn.1).sum();
    assert_eq!(length, truth.len(), "the stream has its true length");
    let told: usize = connection.holes.iter().filter(|h| h.from == from).filter_map(|h| h.len).sum();
    let there = match from {
        From::Client => &connection.sent_by_client,
        From::Server => &connection.sent_by_server,
    };
    assert_eq!(there.len() + told, truth.len(), "what is missing is told");
}

/// Five writes, each inside the one before: four are followed, and the fifth takes the place of the
/// fourth, which leaves a hole. All that is written later is there.
#[test]
fn a_call_given_up_for_one_that_is_nested_too_deep() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "--times 5 r:200 z");
    let dir = test.folder("client");
    let words = [compiled("nest"), "127.0.0.1".into(), port.to_string(), "--dir".into(), dir.clone()];
    let finished = test.capture().run(&[&words[..], &["5".into(), "100".into()]].concat()).ok();
    peer.wait_ok();
    let told = Told::all(&finished.text());
    for (view, _) in finished.views_but(|packet| packet.is_behind_jump()) {
        assert_eq!(view.connections.len(), 5);
        for told in &told {
            let truth = transcript(&dir, "client", told.index);
            let sent = &view.of(told.local, told.remote).sent_by_client;
            let holes = &view.of(told.local, told.remote).holes;
            if told.index == 3 {
                assert_same_bytes("the fourth", sent, &truth.sent[100..]);
                assert_eq!(*holes, [unknown(From::Client, "nested-call")]);
            } else {
                assert_same_bytes(&format!("client of {told:?}"), sent, &truth.sent);
                assert!(holes.is_empty(), "{holes:?}");
            }
        }
    }
    assert!(finished.stderr.contains("lost: 1 call: nested too deeply"), "{}", finished.stderr);
}

#[test]
fn snaplen_keeps_the_beginning_of_each_record_and_the_length_of_all() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "r:200129 w:20 r:20 S");
    let dir = test.folder("client");
    let client = "w:99 w:100 w:101 w:129024 w:70805 r:20 w:20 S";
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, client)].concat();
    let finished = test.capture().args(&["--snaplen", "100", "--fail-on-loss"]).run(&words).ok();
    peer.wait_ok();
    let truth = transcript(&dir, "client", 0);
    let kept: Vec<u8> =
        [0..99, 99..199, 199..299, 300..400, 64_812..64_912, 129_324..129_424, 193_836..193_936]
            .into_iter()
            .flat_map(|range| &truth.sent[range])
            .chain(&truth.sent[200_129..])
            .copied()
            .collect();
    let holes = [1, 64_412, 64_412, 64_412, 6_193].map(|len| known(From::Client, len, "snaplen"));
    for (view, tshark) in finished.views() {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, &kept);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        assert_eq!(connection.holes, holes);
        assert_stream(connection, From::Client, &truth.sent);
        let cut = tshark.fields(&finished.file, "frame.cap_len < frame.len", &["frame.number"]);
        assert_eq!(cut.len(), 5);
    }
    for words in ["nothing lost\n", "note: 199,430 bytes beyond --snaplen left out, as requested\n"] {
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
}

#[test]
fn what_is_spoken_is_recognised_in_little() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    for (protocol, name) in [("--http1.1", "http/1"), ("--http2", "http/2")] {
        let (body, url) = (test.text("body"), nginx.site.url("/page.html"));
        let words = ["curl", "-sS", "--cacert", &nginx.site.cert, protocol, "-o", &body, &url];
        let finished =
            test.capture().output(test.path(&name.replace('/', "."))).args(&["-s", "16"]).run(&words).ok();
        assert_same_bytes("what curl got", &std::fs::read(&body).unwrap(), PAGE.as_bytes());
        for tshark in tshark::oracles() {
            let view = tshark.read(&finished.file);
            assert_eq!(view.only().comment.get("proto"), name);
            assert_eq!(view.only().server.port(), 80);
        }
    }
}

/// A ring of 1 MiB, and calls that are longer: what is missing from the file is what is told, in the
/// packets, in the statistics and in the summary, and is what was sent beside what is there.
#[test]
fn what_the_ring_refuses_is_told_to_the_byte() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "r:40000010 w:10 S");
    let dir = test.folder("client");
    let client = "w:3000000 w:3000000 w:3000000 w:3000000 w:3000000 w:3000000 w:22000000 w:10 r:10 S";
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, client)].concat();
    let recording = test.text("lost.t2p");
    let args = ["--ring-size", "1", "--fail-on-loss", "--record", &recording];
    let finished = test.capture().args(&args).run(&words);
    peer.wait_ok();
    assert_eq!(finished.status, 6, "{}", finished.stderr);
    let truth = transcript(&dir, "client", 0);
    let told = Told::all(&finished.text());
    let mut missing = 0;
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_stream(connection, From::Client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        missing = truth.sent.len() - connection.sent_by_client.len();
        let bytes: usize =
            connection.holes.iter().filter(|h| h.reason == "ring-full").filter_map(|h| h.len).sum();
        let told = lost_bytes(&finished, "the ring buffer was full");
        assert_eq!(told, bytes, "{}", finished.stderr);
        assert!(bytes > 0, "nothing was tested: {}", finished.stderr);
    }
    let all = lost_bytes(&finished, "the ring buffer was full") + lost_bytes(&finished, "longest call");
    assert_eq!(all, missing, "{}", finished.stderr);
    assert!(finished.stderr.contains(&format!("      exchange[{}] ", told[0].pid)), "{}", finished.stderr);
    let file = std::fs::read(&finished.file).unwrap();
    let limit = lost_bytes(&finished, "longest call");
    let comment = format!("tls2pcap=1 pid={} missing={limit} reason=call-limit times=7", told[0].pid);
    assert!(file.windows(comment.len()).any(|w| w == comment.as_bytes()), "no {comment}");
    // The recording has it all.
    let again = test.path("again.pcapng");
    let replayed = replay(&recording, &again);
    assert_eq!(replayed.status, 6, "{}", replayed.stderr);
    assert_same_bytes("the replayed file", &std::fs::read(&again).unwrap(), &file);
    let lines = |text: &str| {
        text.lines().skip(1).filter(|l| !l.starts_with("written")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(lines(&replayed.stderr), lines(&finished.stderr));
}

/// A program that ends without freeing its handle, and whose last bytes the ring refused, in all likelihood.
#[test]
fn what_is_lost_before_the_process_ends_has_its_place() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "z");
    let dir = test.folder("client");
    let ops = format!("{} X", ["w:1400"; 3000].join(" "));
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, &ops)].concat();
    let finished = test.capture().args(&["--ring-size", "4K"]).run(&words);
    peer.wait_ok();
    let truth = transcript(&dir, "client", 0);
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_stream(connection, From::Client, &truth.sent);
        let missing = truth.sent.len() - connection.sent_by_client.len();
        assert_eq!(lost_bytes(&finished, "the ring buffer was full"), missing, "{}", finished.stderr);
    }
}

/// The kernel side's table of handles of a running capture.
fn handles_of(capture: u32) -> MapHandle {
    let folder = std::fs::read_dir(format!("/proc/{capture}/fdinfo")).unwrap();
    let texts = folder.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok());
    let mut maps = texts.filter_map(id).filter_map(|id| MapHandle::from_map_id(id).ok());
    maps.find(|map| map.name() == "handles").expect("a table of handles")
}

/// Nobody reads the ring when processes end. They are heard of all the same, and nothing of them stays.
#[test]
fn ends_of_processes_that_the_ring_refuses() {
    const COUNT: usize = 8;
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, &format!("--threads {} z", COUNT + 1));
    let client = |n: usize, ops: &str| {
        let mut command = Command::new(compiled("exchange"));
        command.args(connect("127.0.0.1", port, &test.folder(&format!("client{n}")), &format!("i {ops}")));
        let mut client = Process::start(&mut command, test.path(&format!("client{n}.err")));
        client.line_after("waiting");
        client
    };
    // The first fills the ring. The next are not heard of when they begin, and of all ends the rest of the ring has room for few.
    let first = format!("w:10 {} {} X", ["w:1000"; 300].join(" "), ["w:1"; 50].join(" "));
    let mut clients: Vec<Process> =
        (0..=COUNT).map(|n| client(n, if n == 0 { &first } else { "w:10 X" })).collect();
    let pids: Vec<u32> = clients.iter().map(Process::pid).collect();
    let running = test.capture().args(&["--ring-size", "4K"]).attach(&pids);
    let handles = handles_of(running.process.pid());
    running.process.signal(Signal::SIGSTOP);
    let mut last = clients.pop().unwrap();
    for client in &mut clients {
        client.go_on();
        client.wait();
    }
    assert_eq!(handles.keys().count(), COUNT, "they ended without freeing their handles");
    running.process.signal(Signal::SIGCONT);
    until("the handles to be given back", || (handles.keys().count() == 0).then_some(()));
    let (file, tshark) = (test.path("out.pcapng"), tshark::any());
    until("the end of the connection", || {
        (tshark.count_so_far(&file, "tcp.flags.fin == 1") >= 2).then_some(())
    });
    last.go_on();
    last.wait();
    let finished = running.finish().ok();
    peer.wait_ok();
    assert!(lost_bytes(&finished, "the ring buffer was full") > 290_000, "{}", finished.stderr);
}

/// A recording, replayed to a file.
pub fn replay(recording: &str, out: &Path) -> Finished {
    let output = std::process::Command::new(crate::support::capture::TLS2PCAP)
        .args(["replay", "--fail-on-loss", recording, "-o"])
        .arg(out)
        .output()
        .unwrap();
    Finished {
        status: crate::support::process::code(output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        file: out.into(),
    }
}

/// The bytes that the summary says were lost for the reason with these words; 0 if it has none.
fn lost_bytes(finished: &Finished, words: &str) -> usize {
    let line =
        finished.stderr.lines().find(|l| l.starts_with("lost: ") && l.contains(words) && l.contains(" in "));
    line.map_or(0, |line| line.split(' ').nth(1).unwrap().replace(',', "").parse().unwrap())
}

/// A loss shows in the status only where all else went well, and only if asked for.
#[test]
fn the_commands_own_status_goes_first() {
    let test = begin!();
    let cases =
        [(&["--fail-on-loss"][..], "exit 3", 3), (&[], "exit 0", 0), (&["--fail-on-loss"], "exit 0", 6)];
    for (number, (args, end, status)) in cases.into_iter().enumerate() {
        let test = Test::begin(&format!("{} {number}", test.name)).unwrap();
        let (mut peer, port) = exchange_server(&test, "r:5000 z");
        let dir = test.folder("client");
        let script = format!("{} 127.0.0.1 {port} --dir {dir} u:5000; {end}", compiled("leap"));
        let finished = test.capture().args(args).run(&["sh", "-c", &script]);
        peer.wait_ok();
        assert_eq!(finished.status, status, "{}", finished.stderr);
        assert!(finished.stderr.contains("lost: 5,000 bytes"), "{}", finished.stderr);
    }
}
