//! Calls of OpenSSL, one by one: what a program really moved against what stands in the file.

use std::collections::HashSet;
use std::process::Command;

use crate::support::Finished;
use crate::support::programs::{
    PYTHON, Told, compiled, connect, exchange_server, listen, python_server, source, transcript,
};
use crate::support::tshark;
use crate::support::view::From;
use crate::support::{Process, Test, assert_same_bytes, begin, process};

/// A finished capture of the program `exchange`, and what that said and did.
struct Exchanged {
    finished: Finished,
    told: Vec<Told>,
    dir: String,
    role: &'static str,
}

/// Captures an exchange client doing `client`; an uncaptured server does `server`.
fn exchange(test: &Test, client: &str, server: &str) -> Exchanged {
    let (mut peer, port) = exchange_server(test, server);
    let dir = test.folder("client");
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, client)].concat();
    let finished = test.capture().run(&words).ok();
    peer.wait_ok();
    let told = Told::all(&finished.text());
    assert!(!told.is_empty(), "{finished:?}");
    Exchanged { finished, told, dir, role: "client" }
}

/// Captures an exchange server doing `server`; an uncaptured client does `client`.
fn exchange_at_server(test: &Test, client: &str, server: &str) -> Exchanged {
    let dir = test.folder("server");
    let words = [vec![compiled("exchange")], listen(test, "127.0.0.1", 0, &dir, server)].concat();
    let mut running = test.capture().start(&words);
    let port = running.process.port();
    let mut command = Command::new(compiled("exchange"));
    command.args(connect("127.0.0.1", port, &test.folder("client"), client));
    Process::start(&mut command, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    let told = Told::all(&finished.text());
    assert!(!told.is_empty(), "{finished:?}");
    Exchanged { finished, told, dir, role: "server" }
}

impl Exchanged {
    /// Every connection that the program told of stands in the file, alone, with its bytes, its
    /// addresses, its descriptor and its thread.
    #[track_caller]
    fn assert_true(&self) {
        for (view, tshark) in self.finished.views() {
            assert_eq!(
                view.connections.len(),
                self.told.len(),
                "connections, says tshark {}",
                tshark.version
            );
            for told in &self.told {
                let connection = view.of(told.local, told.remote);
                let truth = transcript(&self.dir, self.role, told.index);
                let (client, server, opener) = match self.role {
                    "client" => (&truth.sent, &truth.received, told.local),
                    _ => (&truth.received, &truth.sent, told.remote),
                };
                assert_same_bytes(&format!("client of {told:?}"), &connection.sent_by_client, client);
                assert_same_bytes(&format!("server of {told:?}"), &connection.sent_by_server, server);
                assert_eq!(connection.client, opener);
                assert_eq!(connection.comment.number("fd"), u64::from(told.fd), "{told:?}");
                assert_eq!(connection.comment.number("pid"), u64::from(told.pid), "{told:?}");
                assert_eq!(connection.comment.number("tid"), u64::from(told.tid), "{told:?}");
                assert!(connection.finished, "no FIN from both sides: {told:?}");
            }
            // The user's way to the bytes: Follow TCP Stream.
            let first = &view.connections[0];
            let (client, server) = tshark.follow(&self.finished.file, 0);
            assert_same_bytes("the followed client", &client, &first.sent_by_client);
            assert_same_bytes("the followed server", &server, &first.sent_by_server);
        }
    }
}

#[test]
fn write_and_read() {
    exchange(&begin!(), "w:1 r:1 w:5 r:100 S", "r:1 w:1 r:5 w:100 S").assert_true();
}

#[test]
fn write_ex_and_read_ex() {
    exchange(&begin!(), "x:1 R:1 x:5 R:100 S", "R:1 x:1 R:5 x:100 S").assert_true();
}

#[test]
fn the_server_side() {
    exchange_at_server(&begin!(), "w:7 r:100000 S", "r:7 x:100000 S").assert_true();
}

#[test]
fn the_server_may_speak_first() {
    exchange(&begin!(), "r:40 w:40 S", "w:40 r:40 S").assert_true();
}

#[test]
fn tls_1_2() {
    exchange(&begin!(), "--tls12 1 w:10 r:20000 S", "r:10 w:20000 S").assert_true();
}

#[test]
fn lengths_around_a_tls_record() {
    let lengths = [1, 2, 15, 16, 17, 16383, 16384, 16385, 32767, 32768, 32769];
    let ops = |op: &str| lengths.map(|n| format!("{op}:{n}")).join(" ");
    let (client, server) = (ops("w"), ops("r"));
    exchange(&begin!(), &format!("{client} r:100 S"), &format!("{server} w:100 S")).assert_true();
}

#[test]
fn lengths_around_a_record_of_the_ring() {
    // T2P_CHUNK_MAX of bpf/tls2pcap.h is 64512, the longest IPv4 payload 65495.
    let lengths = [64511, 64512, 64513, 65495, 65496, 65535, 65536, 65537, 129023, 129024, 129025];
    let ops = |op: &str| lengths.map(|n| format!("{op}:{n}")).join(" ");
    let (client, server) = (ops("x"), ops("R"));
    exchange(&begin!(), &format!("{client} r:100 S"), &format!("{server} w:100 S")).assert_true();
}

/// The room that records have before they are of exact size: EMIT_CLASS of bpf/emit.bpf.h.
#[test]
fn lengths_around_each_size_of_record() {
    let lengths = [256, 1536, 4352, 16640].map(|n| [n - 1, n, n + 1]).concat();
    let ops = |op: &str| lengths.iter().map(|n| format!("{op}:{n}")).collect::<Vec<_>>().join(" ");
    let (client, server) = (ops("w"), ops("r"));
    exchange(&begin!(), &format!("{client} r:100 S"), &format!("{server} x:100 S")).assert_true();
}

#[test]
fn calls_that_move_nothing() {
    exchange(&begin!(), "x:0 w:10 x:0 r:10 x:0 S", "x:0 r:10 w:10 S").assert_true();
}

/// From Linux 5.17 on a call may be as long as half the ring.
#[test]
fn one_call_of_64_mebibytes_with_a_ring_of_128() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "r:67108864 w:10 S");
    let dir = test.folder("client");
    let ops = "w:67108864 r:10 S";
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, ops)].concat();
    let finished = test.capture().args(&["--ring-size", "128"]).run(&words).ok();
    peer.wait_ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    let truth = transcript(&dir, "client", 0);
    let tshark = &tshark::oracles()[0];
    let view = tshark.read(&finished.file);
    assert_same_bytes("client", &view.only().sent_by_client, &truth.sent);
    assert_same_bytes("server", &view.only().sent_by_server, &truth.received);
}

#[test]
fn one_call_of_a_mebibyte() {
    exchange(&begin!(), "w:1048576 r:1 S", "r:1048576 w:1 S").assert_true();
}

/// A call may be longer than the stated limit: then what is beyond is a gap of exact length.
#[test]
fn one_call_of_three_megabytes() {
    let test = begin!();
    let done = exchange(&test, "w:3000000 r:10 w:10 S", "r:3000000 w:10 r:10 S");
    let truth = transcript(&done.dir, "client", 0);
    for (view, tshark) in done.finished.views() {
        let connection = view.only();
        let whole = connection.sent_by_client.len() == truth.sent.len();
        if whole {
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        } else {
            let first = connection.sent_by_client.len() - 10;
            assert!(first >= 1 << 20, "only {first} bytes of the call were kept");
            assert_same_bytes("beginning", &connection.sent_by_client[..first], &truth.sent[..first]);
            assert_same_bytes("end", &connection.sent_by_client[first..], &truth.sent[3_000_000..]);
            let length: usize = connection.turns.iter().filter(|t| t.0 == From::Client).map(|t| t.1).sum();
            assert_eq!(length, truth.sent.len(), "the gap has its exact length");
            let gap = tshark.fields(&done.finished.file, "frame.cap_len < frame.len", &["frame.comment"]);
            assert!(gap.iter().any(|row| row[0].contains("call-limit")), "{gap:?}");
        }
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
    }
}

#[test]
fn peeked_bytes_count_once() {
    let test = begin!();
    exchange(&test, "p:100 P:100 r:60 p:10 r:40 w:1 S", "w:100 r:1 S").assert_true();
}

/// How often the program had to repeat a write. A small window at its peer makes sure that it has to.
fn retries(done: &Exchanged) -> u32 {
    let text = done.finished.text();
    let line = text.lines().find(|l| l.starts_with("retries")).unwrap_or_else(|| panic!("{text}"));
    line.rsplit('=').next().unwrap().parse().unwrap()
}

#[test]
fn retried_writes_count_once_with_partial_writes() {
    let test = begin!();
    let done = exchange(&test, "w:10 n:2000000 r:10 S", "--window 4096 r:2000010 w:10 S");
    assert!(retries(&done) > 0, "no write was ever retried, so nothing was tested");
    done.assert_true();
}

#[test]
fn retried_writes_count_once_with_whole_writes() {
    let test = begin!();
    let done = exchange(&test, "w:10 N:900000 r:10 S", "--window 4096 r:900010 w:10 S");
    assert!(retries(&done) > 0, "no write was ever retried, so nothing was tested");
    done.assert_true();
}

#[test]
fn retried_writes_count_once_from_another_place() {
    let test = begin!();
    let done = exchange(&test, "w:10 m:900000 r:10 S", "--window 4096 r:900010 w:10 S");
    assert!(retries(&done) > 0, "no write was ever retried, so nothing was tested");
    done.assert_true();
}

/// One socket call fills OpenSSL's buffer; the reads after it use no socket.
#[test]
fn reads_of_what_openssl_has_buffered() {
    exchange(&begin!(), "w:10 d:40000 w:10 S", "r:10 w:40000 r:10 S").assert_true();
}

/// Handshake messages in mid-stream are no plaintext, and move no offset.
#[test]
fn new_keys_in_mid_stream() {
    exchange(&begin!(), "w:100 k w:100 r:50 k r:50 w:1 S", "r:100 k w:50 r:100 k w:50 r:1 S").assert_true();
}

#[test]
fn renegotiation() {
    let server = "--tls12 1 --renegotiate 1 r:100 r:50 w:50 r:100 w:1 S";
    exchange(&begin!(), "--tls12 1 w:100 g w:50 r:50 g w:100 r:1 S", server).assert_true();
}

const EARLY_CLIENT: &str = "--resume 1 w:10 r:10 S / e:5000 w:10 r:10 S";
const EARLY_SERVER: &str = "--resume 1 r:10 w:10 S / E:5000 r:10 w:10 S";

#[test]
fn early_data_counts_once() {
    exchange(&begin!(), EARLY_CLIENT, EARLY_SERVER).assert_true();
}

#[test]
fn early_data_read_by_a_server_counts_once() {
    exchange_at_server(&begin!(), EARLY_CLIENT, EARLY_SERVER).assert_true();
}

#[test]
fn handles_freed_and_made_again() {
    // SSL_new after SSL_free gives the same address, and the kernel the same descriptor.
    let test = begin!();
    let done = exchange(&test, "--times 60 w:30 r:40 S", "--times 60 r:30 w:40 S");
    assert!(done.told.iter().all(|t| t.fd == done.told[0].fd));
    done.assert_true();
}

#[test]
fn handle_cleared_and_used_again() {
    exchange(&begin!(), "--times 10 w:30 r:40 S c", "--times 10 r:30 w:40 S").assert_true();
}

#[test]
fn one_sided_shutdown_closes_one_side() {
    // The client says that it is done; the server still sends.
    exchange(&begin!(), "w:10 s z", "r:10 z w:1000 S").assert_true();
}

/// A program that may do nothing but read, write and exit is not killed by being watched.
#[test]
fn program_under_strict_seccomp_survives() {
    let test = begin!();
    // The first exchange gets OpenSSL the memory that it may not ask for later.
    let done = exchange(&test, "w:100 r:100 q w:100 r:100 X", "r:100 w:100 r:100 w:100 z");
    let truth = transcript(&done.dir, "client", 0);
    assert_eq!((truth.sent.len(), truth.received.len()), (200, 200));
    for (view, _) in done.finished.views() {
        assert_same_bytes("client", &view.only().sent_by_client, &truth.sent);
        assert_same_bytes("server", &view.only().sent_by_server, &truth.received);
    }
}

#[test]
fn handles_freed_without_a_shutdown() {
    let test = begin!();
    let done = exchange(&test, "--times 3 w:10 r:10", "--times 3 r:10 w:10 z");
    for (view, _) in done.finished.views() {
        assert_eq!(view.connections.len(), 3);
        for told in &done.told {
            let truth = transcript(&done.dir, "client", told.index);
            let connection = view.of(told.local, told.remote);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
    }
}

#[test]
fn four_threads_on_separate_connections() {
    let test = begin!();
    let client = "--threads 4 --times 5 w:3000 r:70000 x:1 R:1 S";
    let done = exchange(&test, client, "--threads 4 --times 5 r:3000 w:70000 r:1 w:1 S");
    let mut tids: Vec<u32> = done.told.iter().map(|t| t.tid).collect();
    tids.sort();
    tids.dedup();
    assert_eq!(tids.len(), 4);
    done.assert_true();
}

#[test]
fn two_thousand_threads_at_once() {
    let test = begin!();
    let client = "--threads 2000 w:100 b r:200 S";
    let done = exchange(&test, client, "--threads 2000 r:100 w:200 S");
    assert!(done.finished.stderr.contains("nothing lost"), "{}", done.finished.stderr);
    let tids: HashSet<u32> = done.told.iter().map(|t| t.tid).collect();
    assert_eq!(tids.len(), 2000);
    done.assert_true();
}

#[test]
fn full_duplex_keeps_requests_before_their_answers() {
    const COUNT: usize = 20_000;
    let test = begin!();
    let (mut server, port) = python_server(&test, "answer.py", &[]);
    let dir = test.folder("client");
    let words = [compiled("duplex"), "127.0.0.1".into(), port.to_string(), COUNT.to_string(), dir.clone()];
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    let truth = transcript(&dir, "client", 0);
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_same_bytes("requests", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("answers", &connection.sent_by_server, &truth.received);
        let (mut asked, mut answered) = (Ends::new(&truth.sent), Ends::new(&truth.received));
        let mut early = 0;
        for (from, len) in &connection.turns {
            match from {
                From::Client => asked.advance(*len),
                From::Server => answered.advance(*len),
            }
            early += usize::from(answered.lines > asked.lines);
        }
        assert_eq!((asked.lines, answered.lines), (COUNT, COUNT));
        assert_eq!(early, 0, "packets with an answer stand before the request");
    }
}

/// Counts the lines of a stream that goes by.
struct Ends<'a> {
    rest: &'a [u8],
    lines: usize,
}

impl<'a> Ends<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Ends { rest, lines: 0 }
    }

    fn advance(&mut self, len: usize) {
        let (now, rest) = self.rest.split_at(len);
        self.lines += now.iter().filter(|b| **b == b'\n').count();
        self.rest = rest;
    }
}

/// A descriptor and an inode as /proc shows them while the program is still there.
#[test]
fn descriptor_and_inode_are_those_of_proc() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "r:10 w:10 z S");
    let dir = test.folder("client");
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, "w:10 r:10 i S")].concat();
    let mut running = test.capture().start(&words);
    let told = Told::parse(&running.process.line()).unwrap();
    assert_eq!(running.process.line(), "waiting");
    let inode = process::socket_inode(told.pid, told.fd).expect("the descriptor is a socket");
    running.process.go_on();
    let finished = running.finish().ok();
    peer.wait_ok();
    for (view, _) in finished.views() {
        let comment = &view.of(told.local, told.remote).comment;
        assert_eq!((comment.number("fd"), comment.number("inode")), (u64::from(told.fd), inode));
        assert_eq!(comment.get("tuple"), "same-call");
        assert_eq!(comment.number("uid"), 0);
        assert!(comment.get("exe").ends_with("/exchange"), "{comment:?}");
    }
}

/// Each process has one value: the whole path, as /proc/PID/exe has it.
#[test]
fn executables_by_their_whole_path() {
    let test = begin!();
    let (mut peer, port) = exchange_server(&test, "--times 6 r:10 w:10 S");
    let (program, dir) = (compiled("exchange"), test.folder("programs"));
    let deep = format!("{dir}/{}/{}", "d".repeat(200), "e".repeat(200));
    // Longer than the kernel side reads: only /proc knows it.
    let deeper = format!("{deep}/{0}/{0}", "f".repeat(200));
    let client = |name| format!("connect 127.0.0.1 {port} --dir {} w:10 r:10 S", test.folder(name));
    let [link, copy, mount, memory, hidden, far] = ["1", "2", "3", "4", "5", "6"].map(client);
    let memfd = "import os, sys; fd = os.memfd_create('hidden'); os.write(fd, open(sys.argv[1], 'rb').read()); \
                 os.execv(f'/proc/self/fd/{fd}', sys.argv[1:])";
    let script = format!(
        "mkdir -p {deeper} && cp {program} {deep}/copy && cp {program} {deeper}/copy && cp {program} {dir}/removed && \
         ln -s {program} {dir}/link && touch {dir}/mounted && mount --bind {program} {dir}/mounted || exit 9; \
         {dir}/link {link} && {deep}/copy {copy} && {dir}/mounted {mount} && {PYTHON} -c \"{memfd}\" {program} {memory} && \
         (exec 3<{dir}/removed; rm {dir}/removed; exec /proc/self/fd/3 {hidden}) && {deeper}/copy {far}"
    );
    let finished =
        test.capture().run(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script]).ok();
    peer.wait_ok();
    let program = std::fs::canonicalize(program).unwrap().display().to_string();
    let (mounted, removed) = (format!("{dir}/mounted"), format!("{dir}/removed"));
    let (deep, deeper) = (format!("{deep}/copy"), format!("{deeper}/copy"));
    let expected = [&program, &deep, &mounted, "/memfd:hidden", &removed, &deeper];
    let told = Told::all(&finished.text());
    assert_eq!(told.len(), expected.len(), "{finished:?}");
    for (view, _) in finished.views() {
        for (told, expected) in told.iter().zip(expected) {
            assert_eq!(view.of(told.local, told.remote).comment.get("exe"), expected);
        }
    }
}

/// What a callback sends through other sockets is not what the connection runs on.
#[test]
fn a_callback_that_logs_through_a_socket() {
    for kind in ["unix", "udp"] {
        let test = begin!();
        let (cert, key) = test.certificate();
        let words = [PYTHON, &source("logging_server.py"), &cert, &key, kind];
        let mut running = test.capture().start(&words);
        let port = running.process.port();
        let client = "import socket, ssl, sys; \
             plain = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); \
             tls = ssl._create_unverified_context().wrap_socket(plain, server_hostname='localhost'); \
             tls.sendall(b'hello'); assert tls.recv(100) == b'to you, hello'; tls.unwrap()";
        let mut command = Command::new(PYTHON);
        command.args(["-c", client, &port.to_string()]);
        Process::start(&mut command, test.path("client.err")).wait_ok();
        let finished = running.finish().ok();
        for (view, _) in finished.views() {
            let connection = view.only();
            assert_same_bytes("client", &connection.sent_by_client, b"hello");
            assert_same_bytes("server", &connection.sent_by_server, b"to you, hello");
            assert_eq!(connection.comment.local().port(), port, "{kind}");
        }
    }
}
