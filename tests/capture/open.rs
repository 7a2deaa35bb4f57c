//! Connections that were open before the capture, and connections whose both ends are seen.

use std::process::Command;

use crate::support::nginx::{Nginx, PAGE, Site};
use crate::support::programs::{PYTHON, Told, blocks_in_read, compiled, connect, listen, source, transcript};
use crate::support::view::Connection;
use crate::support::{Process, Test, assert_same_bytes, begin, until};

fn get(path: &str) -> (String, String) {
    ("GET".into(), path.into())
}

/// A keep-alive client that has made its first request and waits.
fn client_in_the_middle(test: &Test, nginx: &Nginx, protocol: &str, paths: &[&str]) -> (Process, Told) {
    let mut command = Command::new(PYTHON);
    command.arg(source("keepalive.py")).args([protocol, &nginx.site.address.port().to_string()]).args(paths);
    let mut client = Process::start(&mut command, test.path("client.err"));
    let told = Told::parse(&client.line()).unwrap();
    client.line_after("waiting");
    (client, told)
}

#[test]
fn keep_alive_http1_opened_before_the_capture() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let paths = ["/echo/before", "/page.html", "/echo/last"];
    let (mut client, told) = client_in_the_middle(&test, &nginx, "http1", &paths);
    let running = test.capture().attach(&[client.pid()]);
    client.go_on();
    client.line_after("waiting");
    client.go_on();
    client.wait_ok();
    let finished = running.stop().ok();
    for (view, tshark) in finished.views() {
        let connection = view.of(told.local, told.remote);
        assert_eq!(view.requests(), [get("/page.html"), get("/echo/last")], "tshark {}", tshark.version);
        assert_eq!(view.responses(), [200, 200], "tshark {}", tshark.version);
        assert_eq!(connection.client, told.local);
        assert_eq!(connection.comment.number("from_start"), 0);
        assert_eq!(connection.comment.number("fd"), u64::from(told.fd));
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert!(objects.contains(&PAGE.as_bytes().to_vec()), "tshark {}", tshark.version);
    }
}

#[test]
fn keep_alive_http2_opened_before_the_capture() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let paths = ["/echo/before", "/page.html", "/echo/last"];
    let (mut client, told) = client_in_the_middle(&test, &nginx, "http2", &paths);
    let running = test.capture().attach(&[client.pid()]);
    client.go_on();
    client.line_after("waiting");
    client.go_on();
    client.wait_ok();
    let finished = running.stop().ok();
    for (view, tshark) in finished.views() {
        let connection = view.of(told.local, told.remote);
        assert_eq!(view.requests(), [get("/page.html"), get("/echo/last")], "tshark {}", tshark.version);
        assert_eq!(connection.comment.number("from_start"), 0);
        assert!(connection.sent_by_client.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(connection.sent_by_server.windows(PAGE.len()).any(|w| w == PAGE.as_bytes()));
        let marked = tshark.fields(&finished.file, "frame.comment contains \"synthetic=\"", &["tcp.payload"]);
        assert!(!marked.is_empty(), "the made-up preface is not marked");
    }
}

/// nginx is captured from the middle of an HTTP/2 connection on; the client is not.
#[test]
fn http2_server_whose_connection_was_open_before() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (mut client, told) = client_in_the_middle(&test, &nginx, "http2", &["/echo/before", "/page.html"]);
    let running = test.capture().attach(&[nginx.worker()]);
    client.go_on();
    client.wait_ok();
    nginx.site.logged(2);
    let finished = running.stop().ok();
    for (view, tshark) in finished.views() {
        let connection = view.of(told.remote, told.local);
        assert_eq!(connection.requests, [get("/page.html")], "tshark {}", tshark.version);
        assert_eq!(connection.client, told.local);
        assert!(connection.sent_by_server.windows(PAGE.len()).any(|w| w == PAGE.as_bytes()));
    }
}

/// A read that was blocked when the probes came returns unseen: no byte after it is misplaced.
#[test]
fn read_blocked_at_the_attach() {
    let test = begin!();
    let mut server = Command::new(compiled("exchange"));
    let dir = test.folder("server");
    server.args(listen(&test, "127.0.0.1", 0, &dir, "r:10 w:10 i w:500 r:20 w:300 S"));
    let mut server = Process::start(&mut server, test.path("server.err"));
    let port = server.port();
    let mut client = Command::new(compiled("exchange"));
    let dir = test.folder("client");
    client.args(connect("127.0.0.1", port, &dir, "w:10 r:10 r:500 w:20 r:300 S"));
    let mut client = Process::start(&mut client, test.path("client.err"));
    let told = Told::parse(&client.line()).unwrap();
    server.line_after("waiting");
    until("the client to block in its read", || blocks_in_read(&told).then_some(()));
    let running = test.capture().attach(&[client.pid()]);
    server.go_on();
    server.wait_ok();
    client.wait_ok();
    let finished = running.stop().ok();
    let truth = transcript(&dir, "client", 0);
    for (view, tshark) in finished.views() {
        let connection = view.of(told.local, told.remote);
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent[10..]);
        // The 500 bytes came in the unseen read; what follows them must stand, and nothing else.
        assert!(
            connection.sent_by_server.ends_with(&truth.received[510..]),
            "tshark {}: {} bytes of the server",
            tshark.version,
            connection.sent_by_server.len()
        );
        assert!(connection.sent_by_server.len() <= 800, "a byte of before the capture");
        assert_eq!(connection.comment.number("from_start"), 0);
    }
}

/// What is written of a connection whose both ends were captured: one view, and both processes.
#[track_caller]
fn assert_one_view(connection: &Connection, comments: &[String], pids: [u64; 2]) {
    let owner = connection.comment.number("pid");
    let peer = if owner == pids[0] { pids[1] } else { pids[0] };
    assert!(pids.contains(&owner), "{owner} is none of {pids:?}");
    let named = format!("peer_pid={peer}");
    assert!(
        comments.iter().any(|c| c.split(' ').any(|w| w == named)),
        "no {named} in the comments of {}: {comments:?}",
        connection.client
    );
}

#[test]
fn both_ends_of_a_connection_are_written_once() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (mut client, told) =
        client_in_the_middle(&test, &nginx, "http1", &["/echo/before", "/page.html", "/big"]);
    let pids = [client.pid(), nginx.worker()];
    let running = test.capture().attach(&pids);
    client.go_on();
    client.line_after("waiting");
    client.go_on();
    client.wait_ok();
    nginx.site.logged(3);
    let finished = running.stop().ok();
    for (view, tshark) in finished.views() {
        let connection = view.only();
        assert_eq!(view.requests(), [get("/page.html"), get("/big")], "tshark {}", tshark.version);
        assert_eq!(view.responses(), [200, 200], "tshark {}", tshark.version);
        assert_eq!(connection.client, told.local);
        let comments: Vec<String> = view.packets.iter().flat_map(|p| p.comments.clone()).collect();
        assert_one_view(connection, &comments, pids.map(u64::from));
    }
}

#[test]
fn a_command_that_is_client_and_server() {
    let test = begin!();
    let site = Site::prepare(&test, "127.0.0.1");
    let body = test.text("body");
    let curl = format!("curl -sS --http2 --cacert {} -o {body}", site.cert);
    let script = format!(
        "{nginx} & server=$!; \
         until {curl} {page} 2>/dev/null; do kill -0 $server || exit 9; sleep 0.02; done; \
         {curl} {big}; status=$?; kill $server; wait $server; exit $status",
        nginx = site.command().join(" "),
        page = site.url("/page.html"),
        big = site.url("/echo/again"),
    );
    let finished = test.capture().run(&["sh", "-c", &script]).ok();
    let logged = site.logged(2);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 2, "each connection once, says tshark {}", tshark.version);
        assert_eq!(view.requests(), [get("/page.html"), get("/echo/again")]);
        assert_eq!(view.responses(), [200, 200]);
        for (connection, request) in view.connections.iter().zip(&logged) {
            assert_eq!(connection.client, request.client);
            let owner = connection.comment.get("comm");
            assert!(["curl", "nginx"].contains(&owner), "{owner}");
        }
    }
}

#[test]
fn two_programs_of_one_shell_with_transcripts() {
    let test = begin!();
    let (server_dir, client_dir) = (test.folder("server"), test.folder("client"));
    let exchange = compiled("exchange");
    let server = listen(&test, "127.0.0.1", 0, &server_dir, "--times 5 r:1000 w:70000 S").join(" ");
    let client = connect("127.0.0.1", 0, &client_dir, "--times 5 w:1000 r:70000 S").join(" ");
    let client = client.replacen("127.0.0.1 0", "127.0.0.1 $port", 1);
    let pipe = test.text("pipe");
    let script = format!(
        "mkfifo {pipe}; {exchange} {server} >{pipe} & exec 3<{pipe}; read word port <&3; \
         {exchange} {client}; status=$?; cat <&3 >/dev/null; wait; exit $status"
    );
    let finished = test.capture().run(&["sh", "-c", &script]).ok();
    let told = Told::all(&finished.text());
    assert_eq!(told.len(), 5);
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), 5, "each connection once");
        for told in &told {
            let truth = transcript(&client_dir, "client", told.index);
            let connection = view.connections.iter().find(|c| c.client == told.local).unwrap();
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
    }
}
