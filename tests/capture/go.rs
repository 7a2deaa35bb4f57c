//! Programs that are written in Go, of several releases, stripped or not, wherever they are loaded.

use std::process::Command;

use crate::support::each::assert_each_on_its_socket;
use crate::support::programs::{Told, built_by_go, exchange_server, transcript};
use crate::support::view::Packet;
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, gate, run};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// Garbage is collected all the time, and stacks move.
const STRESS: [(&str, &str); 2] = [("GOGC", "1"), ("GODEBUG", "gcstoptheworld=1,gcshrinkstackoff=0")];

/// `fixtures/programs/gotls.go` by this Go; `None`, with a report, where that is missing.
fn program(test: &Test, go: &str, more: &[&str]) -> Option<String> {
    let program = built_by_go(go, "gotls", more);
    if program.is_none() {
        gate::skipped(&test.name, &format!("{go} is not there: run tests/oracles"), "T2P_REQUIRE_ORACLES");
    }
    program
}

/// Each connection that the program told of stands in the file with its own bytes and its own socket, whole.
#[track_caller]
fn assert_true(finished: &Finished, dir: &str, role: &str) {
    assert_each_on_its_socket(finished, dir, role, COUNT, |told, connection| {
        let comment = &connection.comment;
        assert!(connection.finished, "{told:?} has no end");
        assert_eq!(comment.get("tuple"), "same-call", "{told:?}");
        assert_eq!(comment.get("role"), role, "{told:?}");
        assert_eq!(comment.number("from_start"), 1, "{told:?}");
    });
}

fn listener(test: &Test, program: &str) -> (Process, u16) {
    let (cert, key) = test.certificate();
    let mut command = Command::new(program);
    command.args(["listen", &cert, &key, &test.folder("server"), &COUNT.to_string()]).envs(STRESS);
    let mut server = Process::start(&mut command, test.path("server.err"));
    let port = server.port();
    (server, port)
}

fn forty_of_a_client(test: &Test, go: &str, more: &[&str]) {
    let Some(program) = program(test, go, more) else { return };
    let (mut server, port) = listener(test, &program);
    let dir = test.folder("client");
    let words = [&program, "connect", &port.to_string(), &dir, &COUNT.to_string()];
    let finished =
        STRESS.iter().fold(test.capture(), |c, (name, value)| c.variable(name, value)).run(&words).ok();
    server.wait_ok();
    assert_true(&finished, &dir, "client");
}

fn forty_of_a_server(test: &Test, go: &str, more: &[&str]) {
    let Some(program) = program(test, go, more) else { return };
    let (cert, key) = test.certificate();
    let dir = test.folder("server");
    let words = [&program, "listen", &cert, &key, &dir, &COUNT.to_string()];
    let mut running =
        STRESS.iter().fold(test.capture(), |c, (name, value)| c.variable(name, value)).start(&words);
    let port = running.process.port();
    let mut client = Command::new(&program);
    client.args(["connect", &port.to_string(), &test.folder("client"), &COUNT.to_string()]);
    Process::start(&mut client, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    assert_true(&finished, &dir, "server");
}

#[test]
fn client_of_1_19() {
    forty_of_a_client(&begin!(), "go-1.19", &[]);
}

#[test]
fn client_of_1_24_stripped() {
    forty_of_a_client(&begin!(), "go-1.24", &["-ldflags=-s -w"]);
}

#[test]
fn client_of_the_newest_stripped_at_any_address() {
    forty_of_a_client(&begin!(), "go-sid", &["-ldflags=-s -w", "-buildmode=pie"]);
}

#[test]
fn server_of_1_19_stripped_at_any_address() {
    forty_of_a_server(&begin!(), "go-1.19", &["-ldflags=-s -w", "-buildmode=pie"]);
}

#[test]
fn server_of_1_24() {
    forty_of_a_server(&begin!(), "go-1.24", &[]);
}

#[test]
fn server_of_the_newest() {
    forty_of_a_server(&begin!(), "go-sid", &[]);
}

/// A server of HTTP by net/http.
fn http_server(test: &Test, program: &str) -> (Process, u16) {
    let (cert, key) = test.certificate();
    let mut command = Command::new(program);
    command.args(["serve", &cert, &key]).envs(STRESS);
    let mut server = Process::start(&mut command, test.path("server.err"));
    let port = server.port();
    (server, port)
}

/// Asks by net/http, twenty times at once; all that was asked and answered is in the file.
fn twenty_requests(test: &Test, go: &str, more: &[&str], protocol: &str, proto: &str) {
    const REQUESTS: usize = 20;
    let Some(program) = program(test, go, more) else { return };
    let (_server, port) = http_server(test, &program);
    let dir = test.folder("bodies");
    let base = format!("https://127.0.0.1:{port}");
    let words = [&program, "get", &base, &dir, &REQUESTS.to_string(), protocol];
    let finished = test.capture().run(&words).ok();
    let mut bodies: Vec<Vec<u8>> =
        (0..REQUESTS).map(|n| std::fs::read(format!("{dir}/{n}")).unwrap()).collect();
    bodies.sort();
    let text = finished.text();
    let answers: Vec<Vec<&str>> =
        text.lines().filter_map(|l| Some(l.strip_prefix("answer ")?.split(' ').collect())).collect();
    assert_eq!(answers.len(), REQUESTS, "{text}");
    for (view, tshark) in finished.views() {
        for answer in &answers {
            let [length, local, spoken] = answer[..] else { panic!("{answer:?}") };
            assert_eq!(spoken, proto);
            let remote = format!("127.0.0.1:{port}").parse().unwrap();
            let connection = view.of(local.parse().unwrap(), remote);
            let path = format!("/{length}");
            assert!(connection.requests.iter().any(|(_, p)| *p == path), "no {path} on {local}");
            assert_eq!(connection.comment.get("tuple"), "same-call");
        }
        assert_eq!(view.requests().len(), REQUESTS, "tshark {}", tshark.version);
        assert_eq!(view.responses(), [200; REQUESTS], "tshark {}", tshark.version);
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        for body in &bodies {
            assert!(
                objects.contains(body),
                "tshark {} exports no body of {} bytes",
                tshark.version,
                body.len()
            );
        }
    }
}

#[test]
fn http1_client() {
    twenty_requests(&begin!(), "go-sid", &[], "h1", "HTTP/1.1");
}

#[test]
fn http2_client_stripped() {
    twenty_requests(&begin!(), "go-1.24", &["-ldflags=-s -w"], "h2", "HTTP/2.0");
}

#[test]
fn http2_client_of_1_19() {
    twenty_requests(&begin!(), "go-1.19", &[], "h2", "HTTP/2.0");
}

/// curl asks a Go server that is captured, over HTTP/1.1 and HTTP/2.
#[test]
fn curl_asks_a_server() {
    let test = begin!();
    let Some(program) = program(&test, "go-sid", &["-ldflags=-s -w"]) else { return };
    let (mut server, port) = http_server(&test, &program);
    let running = test.capture().attach(&[server.pid()]);
    let (cert, _) = test.certificate();
    let format = "%{local_ip}:%{local_port}";
    let mut told = Vec::new();
    let mut bodies = Vec::new();
    for protocol in ["--http1.1", "--http2"] {
        for length in [5, 300_000] {
            let body = test.text("body");
            let url = format!("https://127.0.0.1:{port}/{length}");
            let mut curl = Command::new("curl");
            curl.args(["-sS", protocol, "--cacert", &cert, "-w", format, "-o", &body, &url]);
            let local = String::from_utf8(run(&mut curl)).unwrap();
            told.push((local.parse().unwrap(), length));
            bodies.push(std::fs::read(&body).unwrap());
        }
    }
    bodies.sort();
    server.go_on();
    server.wait_ok();
    let finished = running.stop().ok();
    let own = format!("127.0.0.1:{port}").parse().unwrap();
    // When curl has closed its socket, Go still sends its alert, and hears of a reset.
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        for (client, length) in &told {
            let connection = view.of(own, *client);
            assert_eq!(connection.requests, [("GET".to_string(), format!("/{length}"))]);
            assert_eq!(connection.responses, [200]);
            assert_eq!(connection.comment.get("role"), "server");
        }
        assert_eq!(view.connections.len(), told.len(), "tshark {}", tshark.version);
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert!(objects == bodies, "tshark {} shows other bodies in {:?}", tshark.version, finished.file);
    }
}

/// The connections are open, and the goroutines of the server block in their reads, before the capture begins.
#[test]
fn server_that_runs_already() {
    let test = begin!();
    let Some(program) = program(&test, "go-1.24", &[]) else { return };
    let (mut server, port) = listener(&test, &program);
    let dir = test.text("server");
    let mut client = Command::new(&program);
    client.args(["connect", &port.to_string(), &test.folder("client"), &COUNT.to_string(), "wait"]);
    let mut client = Process::start(&mut client, test.path("client.err"));
    client.line_after("all are open");
    let running = test.capture().attach(&[server.pid()]);
    client.go_on();
    client.wait_ok();
    server.wait_ok();
    let told = Told::all(&server.rest().join("\n"));
    let finished = running.stop().ok();
    for (view, tshark) in finished.views_but(Packet::is_behind_jump) {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let truth = transcript(&dir, "server", told.index);
            // Before the capture: one byte and three were read, three written.
            assert_same_bytes(&format!("server of {told:?}"), &connection.sent_by_server, &truth.sent[3..]);
            // The read that was blocked is the first that the client sent afterwards: one byte.
            assert_same_bytes(
                &format!("client of {told:?}"),
                &connection.sent_by_client,
                &truth.received[5..],
            );
            assert_eq!(connection.comment.number("from_start"), 0);
        }
    }
}

/// The linker drops what is never called: `(*Conn).Read` and `Close`, here.
#[track_caller]
fn only_written_to(test: &Test, go: &str, more: &[&str]) {
    const CONNECTIONS: usize = 8;
    const LENGTHS: [usize; 6] = [11, 1, 16_385, 3_000_000, 40_000, 5];
    let Some(program) = built_by_go(go, "gowrite", more) else {
        gate::skipped(&test.name, &format!("{go} is not there: run tests/oracles"), "T2P_REQUIRE_ORACLES");
        return;
    };
    let code = std::fs::read(&program).unwrap();
    for name in ["Read", "Close"] {
        let name = format!("crypto/tls.(*Conn).{name}\0");
        assert!(memchr::memmem::find(&code, name.as_bytes()).is_none(), "it has {name}");
    }
    let total: usize = LENGTHS.iter().sum();
    let (mut server, port) = exchange_server(test, &format!("--threads {CONNECTIONS} r:{total} s"));
    let dir = test.folder("client");
    let mut words = vec![program, port.to_string(), dir.clone(), CONNECTIONS.to_string()];
    words.extend(LENGTHS.map(|length| length.to_string()));
    let finished =
        STRESS.iter().fold(test.capture(), |c, (name, value)| c.variable(name, value)).run(&words).ok();
    server.wait_ok();
    assert_each_on_its_socket(&finished, &dir, "client", CONNECTIONS, |told, connection| {
        assert_eq!(connection.sent_by_client.len(), total);
        assert!(connection.finished, "{told:?} has no end");
        assert_eq!(connection.comment.get("tuple"), "same-call", "{told:?}");
        assert_eq!(connection.comment.get("role"), "client", "{told:?}");
        assert_eq!(connection.comment.number("from_start"), 1, "{told:?}");
    });
}

#[test]
fn client_of_1_24_that_only_writes() {
    only_written_to(&begin!(), "go-1.24", &[]);
}

#[test]
fn client_of_the_newest_that_only_writes_stripped() {
    only_written_to(&begin!(), "go-sid", &["-ldflags=-s -w"]);
}

/// Where arguments are on the stack it is said, and nothing is captured.
#[test]
fn program_of_1_15_is_not_probed() {
    let test = begin!();
    let Some(program) = program(&test, "go-1.15", &[]) else { return };
    let (server, _) = http_server(&test, &program);
    test.capture().attach_in_vain(&[server.pid()]).failed(5, &["built with go before 1.17"]);
}
