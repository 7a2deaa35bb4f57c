//! GnuTLS: its own calls one by one, and real programs that use it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::support::each::assert_each_on_its_socket;
use crate::support::nginx::{BIG, Nginx, PAGE, big_file};
use crate::support::programs::{compiled_with, exchange_server, transcript};
use crate::support::view::{From, Packet};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, gate, run, until};

/// Connections that one event loop has open at once.
const MANY: usize = 40;

/// The test program; `None`, with a report, where it cannot be built.
fn program(test: &Test) -> Option<String> {
    if !Path::new("/usr/include/gnutls/gnutls.h").exists() {
        gate::skipped(&test.name, "GnuTLS's headers are not installed", "T2P_REQUIRE_TOOLS");
        return None;
    }
    Some(compiled_with("gnutls", &["-lgnutls"]))
}

/// Whether a program is there; else it is reported.
fn has(test: &Test, program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        gate::skipped(&test.name, &format!("{program} is not installed"), "T2P_REQUIRE_TOOLS");
    }
    there
}

/// Each connection that the program told of stands in the file with its own bytes and its own socket.
#[track_caller]
fn assert_true(finished: &Finished, dir: &str, role: &str, count: usize, tuples: &[&str]) {
    assert_each_on_its_socket(finished, dir, role, count, |told, connection| {
        let comment = &connection.comment;
        assert!(tuples.contains(&comment.get("tuple")), "{} of {told:?}", comment.get("tuple"));
        assert_eq!(comment.number("from_start"), 1, "{told:?}");
        assert!(comment.get("library").contains(" GnuTLS 3."), "{}", comment.get("library"));
        assert!(connection.finished, "no FIN from both sides: {told:?}");
    });
}

/// Captures a client that does `ops` on each of `count` connections at once, against OpenSSL.
fn client(test: &Test, count: usize, options: &[&str], ops: &str, peer: &str) -> Option<(Finished, String)> {
    let program = program(test)?;
    let (mut server, port) = exchange_server(test, &format!("--threads {count} {peer}"));
    let dir = test.folder("client");
    let mut words = vec![program, "connect".into(), port.to_string(), count.to_string(), dir.clone()];
    words.extend(options.iter().map(|o| o.to_string()));
    words.extend(ops.split(' ').map(String::from));
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    Some((finished, dir))
}

fn check(test: &Test, count: usize, ops: &str, peer: &str) {
    if let Some((finished, dir)) = client(test, count, &[], ops, peer) {
        assert_true(&finished, &dir, "client", count, &["same-call"]);
    }
}

#[test]
fn lengths_of_sends_and_receives() {
    let lengths = [1, 2, 16383, 16384, 16385, 65536, 70000];
    let ops = |op: char| lengths.map(|n| format!("{op}:{n}")).join(" ");
    let (sent, received) = (ops('s'), ops('r'));
    check(&begin!(), 1, &format!("z:0 {sent} z:0 {received} b:0 o:0"), &format!("{received} {} S", ops('w')));
}

#[test]
fn each_way_to_send() {
    let ops = "d:100000 g:40000 c:50000 f:100000 s:10 c:10 r:1 b:0 o:0";
    check(&begin!(), 1, ops, "r:100000 r:40000 r:50000 r:100000 r:10 r:10 w:1 S");
}

#[test]
fn each_way_to_receive() {
    check(&begin!(), 1, "s:1 q:50000 p:16384 p:65536 r:3 b:0 o:0", "r:1 w:50000 w:16384 w:65536 w:3 S");
}

/// The socket's buffer is small, so that nearly every record has to be retried.
#[test]
fn forty_connections_that_retry_in_one_event_loop() {
    let ops = "s:30000 r:1000 n:100000 c:40000 r:10 n:20 s:5 b:0 o:0";
    check(&begin!(), MANY, ops, "r:30000 w:1000 r:100000 r:40000 w:10 r:20 r:5 S");
}

#[test]
fn a_retry_without_its_buffer() {
    check(&begin!(), 1, "n:300000 r:2 n:100 b:0 o:0", "r:300000 w:2 r:100 S");
}

#[test]
fn functions_of_the_program_s_own_that_use_the_socket() {
    let test = begin!();
    let done = client(&test, MANY, &["--own"], "s:20000 r:3000 b:0 o:0", "r:20000 w:3000 S");
    if let Some((finished, dir)) = done {
        assert_true(&finished, &dir, "client", MANY, &["same-call"]);
    }
}

/// Nothing but the program itself knows which socket it is: no tuple is better than a wrong one.
#[test]
fn functions_of_the_program_s_own_that_use_memory() {
    let test = begin!();
    let done = client(&test, 3, &["--memory"], "s:20000 r:3000 b:0 o:0", "r:20000 w:3000 S");
    let Some((finished, dir)) = done else { return };
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 3, "tshark {}", tshark.version);
        let mut sent: Vec<Vec<u8>> = (0..3).map(|index| transcript(&dir, "client", index).sent).collect();
        for connection in &view.connections {
            assert_eq!(connection.comment.get("tuple"), "none");
            assert_eq!(connection.comment.get("role"), "client");
            assert!(connection.client.ip().to_string().starts_with("192.0.2."), "{}", connection.client);
            let at = sent.iter().position(|s| *s == connection.sent_by_client);
            sent.remove(at.expect("the bytes of one of the connections, whole"));
        }
    }
}

/// Captures one end of two GnuTLS programs, where all connections but the first resume with 0-RTT data.
fn early(test: &Test, role: &str) {
    let Some(program) = program(test) else { return };
    let (cert, key) = test.certificate();
    let dirs = [test.folder("client"), test.folder("server")];
    let count = "3";
    let server = [
        &program, "listen", &cert, &key, count, &dirs[1], "--early", "1", "e:16384", "r:10", "s:100", "b:0",
        "o:0",
    ];
    let ops = ["--early", "16384", "s:10", "r:100", "b:0", "o:0"];
    let client = |port: &str| {
        [&[&program, "connect", port, count, &dirs[0]][..], &ops]
            .concat()
            .into_iter()
            .map(String::from)
            .collect()
    };
    let finished = if role == "server" {
        let mut running = test.capture().start(&server);
        let words: Vec<String> = client(&running.process.port().to_string());
        run(Command::new(&words[0]).args(&words[1..]));
        running.finish().ok()
    } else {
        let mut command = Command::new(server[0]);
        command.args(&server[1..]);
        let mut server = Process::start(&mut command, test.path("server.err"));
        let words: Vec<String> = client(&server.port().to_string());
        let finished = test.capture().run(&words).ok();
        server.wait_ok();
        finished
    };
    let dir = if role == "server" { &dirs[1] } else { &dirs[0] };
    // A server has taken the bytes from the socket in its handshake.
    assert_true(&finished, dir, role, 3, &["same-call", "remembered"]);
    for (view, _) in finished.views() {
        let lengths: Vec<usize> = view.connections.iter().map(|c| c.sent_by_client.len()).collect();
        assert_eq!(lengths, [10, 16394, 16394]);
        assert!(view.connections.iter().all(|c| c.comment.get("role") == role));
    }
}

#[test]
fn early_data_of_a_client() {
    early(&begin!(), "client");
}

#[test]
fn early_data_at_a_server() {
    early(&begin!(), "server");
}

/// The program's page and body, and the addresses that nginx saw.
fn against_nginx(test: &Test, words: &[&str], nginx: &Nginx, body: &str, expected: &[u8], path: &str) {
    let finished = test.capture().run(words).ok();
    assert_same_bytes("what it got", &std::fs::read(body).unwrap(), expected);
    let logged = nginx.site.logged(1);
    for (view, tshark) in finished.views() {
        let connection = view.of(logged[0].client, logged[0].server);
        assert_eq!(view.connections.len(), 1);
        assert_eq!(view.requests(), [("GET".to_string(), path.to_string())], "tshark {}", tshark.version);
        assert_eq!(view.responses(), [200]);
        assert_eq!(connection.comment.get("tuple"), "same-call");
        assert_eq!(connection.comment.number("from_start"), 1);
        assert!(
            connection.comment.get("library").contains("GnuTLS"),
            "{}",
            connection.comment.get("library")
        );
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert_eq!(objects.len(), 1);
        assert_same_bytes("the exported object", &objects[0], expected);
    }
}

#[test]
fn wget() {
    let test = begin!();
    let version = Command::new("wget").arg("--version").output();
    if !version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("+ssl/gnutls")) {
        return gate::skipped(&test.name, "no wget that uses GnuTLS", "T2P_REQUIRE_TOOLS");
    }
    let big = std::fs::read(big_file()).unwrap();
    assert_eq!(big.len(), BIG);
    for (path, expected) in [("/page.html", PAGE.as_bytes()), ("/big", &big)] {
        let test = begin!();
        let nginx = Nginx::start(&test);
        let (body, url) = (test.text("body"), nginx.site.url(path));
        let words = ["wget", "-q", "--ca-certificate", &nginx.site.cert, "-O", &body, &url];
        against_nginx(&test, &words, &nginx, &body, expected, path);
    }
}

/// A curl that is given libcurl's GnuTLS build, over HTTP/2: the same interface under another name.
#[test]
fn curl_with_gnutls_over_http2() {
    let test = begin!();
    let Some(library) =
        ["/usr/lib/x86_64-linux-gnu/libcurl-gnutls.so.4"].into_iter().find(|p| Path::new(p).exists())
    else {
        return gate::skipped(&test.name, "libcurl3-gnutls is not installed", "T2P_REQUIRE_TOOLS");
    };
    let nginx = Nginx::start(&test);
    let (body, url) = (test.text("body"), nginx.site.url("/page.html"));
    let program = compiled_with("curl", &["-ldl"]);
    let words = [&program[..], library, &nginx.site.cert, &url, &body];
    against_nginx(&test, &words, &nginx, &body, PAGE.as_bytes(), "/page.html");
}

#[test]
fn gnutls_serv() {
    let test = begin!();
    if !has(&test, "gnutls-serv") {
        return;
    }
    let (cert, key) = test.certificate();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("gnutls-serv");
    let port_text = port.to_string();
    command.args(["--http", "--port", &port_text, "--x509certfile", &cert, "--x509keyfile", &key]);
    let server = Process::start(&mut command, test.path("serv.err"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("gnutls-serv to listen", || std::net::TcpStream::connect(address).ok());
    let running = test.capture().attach(&[server.pid()]);
    let url = format!("https://127.0.0.1:{port}/");
    let body = run(Command::new("curl").args(["-sS", "--http1.0", "--cacert", &cert, &url]));
    let served = running.stop().ok();
    for (view, tshark) in served.views_but(Packet::is_reset) {
        let connection = view.only();
        assert_eq!((view.requests().len(), view.responses()), (1, vec![200]), "tshark {}", tshark.version);
        assert_eq!(connection.comment.local(), address);
        assert!(connection.sent_by_server.ends_with(&body));
        assert_eq!(connection.comment.get("role"), "server");
        assert_eq!(connection.turns[0].0, From::Client);
    }
}

#[test]
fn gnutls_cli() {
    let test = begin!();
    if !has(&test, "gnutls-cli") {
        return;
    }
    let nginx = Nginx::start(&test);
    let (cert, port) = (&nginx.site.cert, nginx.site.address.port());
    let script = format!(
        "printf 'GET /page.html HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' | \
         gnutls-cli --x509cafile {cert} --alpn http/1.1 --sni-hostname localhost --verify-hostname localhost \
         -p {port} 127.0.0.1"
    );
    let finished = test.capture().run(&["sh", "-c", &script]).ok();
    assert!(finished.text().contains(PAGE), "{finished:?}");
    let logged = nginx.site.logged(1);
    // nginx resets the connection if the client's close_notify comes after it has closed.
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        let connection = view.of(logged[0].client, logged[0].server);
        assert_eq!(view.responses(), [200], "tshark {}", tshark.version);
        assert_eq!(connection.comment.get("sni"), "localhost");
        assert_eq!(connection.comment.get("alpn"), "http/1.1");
        assert_eq!(connection.comment.get("comm"), "gnutls-cli");
        assert_eq!(tshark.objects(&finished.file, &test.path("objects")), [PAGE.as_bytes()]);
    }
}
