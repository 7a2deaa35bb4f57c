//! Addresses and namespaces.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::capture::TLS2PCAP;
use crate::support::netns::Netns;
use crate::support::nginx::{Nginx, PAGE};
use crate::support::programs::{Told, compiled, connect, listen, transcript};
use crate::support::{Process, Test, assert_same_bytes, begin, run, tshark};

#[test]
fn ipv6() {
    let test = begin!();
    let nginx = Nginx::start_on(&test, "::1");
    for protocol in ["--http1.1", "--http2"] {
        let out = test.path(&format!("out{protocol}.pcapng"));
        let (body, url) = (test.text("body"), nginx.site.url("/page.html"));
        let words = ["curl", "-sS", "--cacert", &nginx.site.cert, protocol, "-o", &body, &url];
        let finished = test.capture().output(out).run(&words).ok();
        assert_eq!(std::fs::read(&body).unwrap(), PAGE.as_bytes());
        let logged = nginx.site.logged(1).pop().unwrap();
        for (view, tshark) in finished.views() {
            let connection = view.only();
            assert_eq!(connection.requests, [("GET".into(), "/page.html".into())], "{}", tshark.version);
            assert_eq!(connection.responses, [200], "{}", tshark.version);
            assert_eq!(connection.client, logged.client);
            assert!(connection.client.is_ipv6());
            assert_eq!(
                (connection.comment.local(), connection.comment.remote()),
                (logged.client, logged.server)
            );
        }
    }
}

#[test]
fn ipv4_on_an_ipv6_socket_is_written_as_ipv4() {
    let test = begin!();
    let dir = test.folder("server");
    let words = [vec![compiled("exchange")], listen(&test, "::", 0, &dir, "r:10 w:10 S")].concat();
    let mut running = test.capture().start(&words);
    let port = running.process.port();
    let mut client = Command::new(compiled("exchange"));
    client.args(connect("127.0.0.1", port, &test.folder("client"), "w:10 r:10 S"));
    let mut client = Process::start(&mut client, test.path("client.err"));
    let told = Told::parse(&client.line()).unwrap();
    client.wait_ok();
    let finished = running.finish().ok();
    let truth = transcript(&dir, "server", 0);
    for (view, _) in finished.views() {
        let connection = view.of(told.remote, told.local);
        assert_eq!(connection.client, told.local);
        assert_same_bytes("client", &connection.sent_by_client, &truth.received);
        assert_same_bytes("server", &connection.sent_by_server, &truth.sent);
    }
}

#[test]
fn server_in_a_network_namespace_of_its_own() {
    let test = begin!();
    let (here, there) = (Netns::new(), Netns::new());
    here.join(&there);
    let nginx = Nginx::start_in(&test, &there, "10.211.0.2:8443");
    let (body, url) = (test.text("body"), nginx.site.url("/page.html"));
    let client = ["curl", "-sS", "--http2", "--cacert", &nginx.site.cert, "-o", &body, &url];

    // The client alone, as a command.
    let words = [&here.enter()[..], &client[..]].concat();
    let finished = test.capture().run(&words).ok();
    let logged = nginx.site.logged(1).pop().unwrap();
    for (view, _) in finished.views() {
        let connection = view.of(logged.client, logged.server);
        assert_eq!((connection.requests.len(), &connection.responses[..]), (1, &[200][..]));
    }

    // The server alone, as a pid; it says the same from its side.
    let running = test.capture().output(test.path("server.pcapng")).attach(&[nginx.worker()]);
    run(Command::new(words[0]).args(&words[1..]));
    let logged = nginx.site.logged(2).pop().unwrap();
    let finished = running.stop().ok();
    for (view, _) in finished.views() {
        let connection = view.of(logged.server, logged.client);
        assert_eq!((connection.requests.len(), &connection.responses[..]), (1, &[200][..]));
        assert_eq!(connection.client, logged.client);
    }
}

/// Two connections that live at once, whose addresses and ports are all the same.
#[test]
fn two_namespaces_with_the_same_tuple_at_once() {
    const SERVER: u16 = 8443;
    const CLIENT: &str = "--bind 41234";
    let test = begin!();
    let namespaces = [Netns::new(), Netns::new()];
    let mut servers: Vec<Process> = Vec::new();
    let mut script = String::new();
    for (n, netns) in namespaces.iter().enumerate() {
        // Lengths differ, so that the two cannot pass for each other.
        let (ask, answer) = (100 + n, 2000 + n);
        let dir = test.folder(&format!("server{n}"));
        let args = listen(&test, "127.0.0.1", SERVER, &dir, &format!("r:{ask} i w:{answer} r:{ask} S"));
        let mut command = netns.command(&compiled("exchange"));
        let mut server = Process::start(command.args(args), test.path(&format!("server{n}.err")));
        assert_eq!(server.port(), SERVER);
        servers.push(server);
        let dir = test.folder(&format!("client{n}"));
        let ops = format!("{CLIENT} w:{ask} r:{answer} w:{ask} S");
        let client = connect("127.0.0.1", SERVER, &dir, &ops).join(" ");
        script += &format!("{} {} {client} & ", netns.enter().join(" "), compiled("exchange"));
    }
    let running = test.capture().start(&["sh", "-c", &(script + "wait")]);
    for server in &mut servers {
        server.line_after("waiting");
    }
    // Both connections are open and have carried data now.
    for server in &mut servers {
        server.go_on();
        server.wait_ok();
    }
    let finished = running.finish().ok();
    let end = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 2, "connections, says tshark {}", tshark.version);
        for connection in &view.connections {
            let comment = &connection.comment;
            assert_eq!((comment.local(), comment.remote()), (end(41234), end(SERVER)));
            let n = connection.sent_by_server.len() - 2000;
            let truth = transcript(&test.text(&format!("client{n}")), "client", 0);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
        assert_ne!(
            view.connections[0].written, view.connections[1].written,
            "two live connections share a written tuple"
        );
        let netns = |n: usize| view.connections[n].comment.number("netns");
        assert_ne!(netns(0), netns(1));
    }
}

/// curl in a pid namespace of its own; `around` and `inside` go before tls2pcap and before curl.
fn in_a_pid_namespace(test: Test, around: &[&str], inside: &[&str]) {
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/page.html");
    let out = test.path("out.pcapng");
    let mut words = around.to_vec();
    words.extend([TLS2PCAP, "-o", out.to_str().unwrap(), "--"]);
    words.extend(inside);
    words.extend(["curl", "-sS", "--http2", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url]);
    run(Command::new(words[0]).args(&words[1..]));
    let logged = nginx.site.logged(1).pop().unwrap();
    for tshark in tshark::oracles() {
        let view = tshark.read(&out);
        view.assert_clean(&tshark.version);
        let connection = view.of(logged.client, logged.server);
        assert_eq!((connection.requests.len(), &connection.responses[..]), (1, &[200][..]));
        assert_eq!(connection.comment.get("comm"), "curl");
    }
}

const PID_NAMESPACE: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

#[test]
fn tls2pcap_in_a_pid_namespace() {
    in_a_pid_namespace(begin!(), PID_NAMESPACE, &[]);
}

#[test]
fn command_in_a_pid_namespace_of_its_own() {
    in_a_pid_namespace(begin!(), &[], PID_NAMESPACE);
}
