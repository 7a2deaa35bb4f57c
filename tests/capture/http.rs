//! Ordinary HTTP clients and servers.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::netns::Netns;
use crate::support::nginx::{BIG, Nginx, PAGE, Site, big_file};
use crate::support::programs::{PYTHON, python_server, source};
use crate::support::view::{Connection, Packet, View};
use crate::support::{Finished, Test, assert_same_bytes, begin, gate, run};

fn get(path: &str) -> (String, String) {
    ("GET".into(), path.into())
}

/// curl's arguments: trust the site, be quiet, print the kernel's addresses, keep the body.
fn curl<'a>(site: &'a Site, protocol: &'a str, body: &'a str, url: &'a str) -> Vec<&'a str> {
    let format = "%{local_ip} %{local_port} %{remote_ip} %{remote_port}\\n";
    vec!["curl", "-sS", "--cacert", &site.cert, protocol, "-w", format, "-o", body, url]
}

/// The two ends that curl printed.
fn ends(line: &str) -> (SocketAddr, SocketAddr) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [local, local_port, remote, remote_port] = words[..] else { panic!("curl printed {line:?}") };
    let end = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
    (end(local, local_port), end(remote, remote_port))
}

/// The connection is that of `local` and `remote`, and says who made it and how that was learnt.
#[track_caller]
fn assert_tuple(connection: &Connection, local: SocketAddr, remote: SocketAddr, comm: &str) {
    assert_eq!((connection.comment.local(), connection.comment.remote()), (local, remote));
    assert_eq!(connection.client, local, "the client's written address");
    assert_eq!(connection.server.ip(), remote.ip(), "the server's written address");
    assert_eq!(connection.comment.get("comm"), comm);
    let pid = connection.comment.number("pid");
    assert_eq!(connection.interface, format!("{comm}[{pid}]"));
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Asks for one file with curl: it is listed, its bytes are the served ones, the tuple is true.
fn one_file(test: &Test, protocol: &str, path: &str, expected: &[u8]) {
    let nginx = Nginx::start(test);
    let (body, url) = (test.text("body"), nginx.site.url(path));
    let before = now();
    let finished = test.capture().run(&curl(&nginx.site, protocol, &body, &url)).ok();
    let after = now();
    assert_same_bytes("what curl got", &std::fs::read(&body).unwrap(), expected);
    let (local, remote) = ends(&finished.text());
    let logged = nginx.site.logged(1);
    assert_eq!((logged[0].client, logged[0].server), (local, remote), "curl and nginx disagree");
    assert_eq!((&logged[0].uri[..], logged[0].status), (path, 200));

    for (view, tshark) in finished.views() {
        let connection = view.only();
        assert_eq!(view.requests(), [get(path)], "tshark {}", tshark.version);
        assert_eq!(view.responses(), [200], "tshark {}", tshark.version);
        assert_tuple(connection, local, remote, "curl");
        assert!(connection.finished, "no FIN from both sides");
        for packet in &view.packets {
            assert!((before..after).contains(&packet.time), "packet {} at {}", packet.number, packet.time);
        }
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert_eq!(objects.len(), 1, "tshark {} exports", tshark.version);
        assert_same_bytes("the exported object", &objects[0], expected);
    }
}

#[test]
fn curl_http1_small_page() {
    one_file(&begin!(), "--http1.1", "/page.html", PAGE.as_bytes());
}

#[test]
fn curl_http2_small_page() {
    one_file(&begin!(), "--http2", "/page.html", PAGE.as_bytes());
}

#[test]
fn curl_http1_20_mb() {
    one_file(&begin!(), "--http1.1", "/big", &std::fs::read(big_file()).unwrap());
}

#[test]
fn curl_http2_20_mb() {
    one_file(&begin!(), "--http2", "/big", &std::fs::read(big_file()).unwrap());
}

#[test]
fn curl_http2_ten_parallel_streams() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let dir = test.folder("bodies");
    let mut words = vec!["curl", "-sS", "--cacert", &nginx.site.cert, "--http2", "--parallel"];
    // Without --parallel-immediate, curl waits for one connection and multiplexes over it.
    let (pattern, url) = (format!("{dir}/#1"), nginx.site.url("/echo/[0-9]"));
    words.extend(["-o", &pattern, &url]);
    let finished = test.capture().run(&words).ok();
    let logged = nginx.site.logged(10);
    assert!(logged.iter().all(|l| l.protocol == "HTTP/2.0" && l.client == logged[0].client));
    assert_ten(&test, &finished, &dir);
    for (view, _) in finished.views() {
        assert_tuple(view.only(), logged[0].client, logged[0].server, "curl");
    }
}

#[test]
fn curl_http2_parallel_immediate_connections() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let dir = test.folder("bodies");
    let mut words = vec!["curl", "-sS", "--cacert", &nginx.site.cert, "--http2", "--parallel"];
    let (pattern, url) = (format!("{dir}/#1"), nginx.site.url("/echo/[0-9]"));
    words.extend(["--parallel-immediate", "-o", &pattern, &url]);
    let finished = test.capture().run(&words).ok();
    assert_ten(&test, &finished, &dir);
    assert_each_logged_request_is_on_its_connection(&finished, &nginx, 10);
}

/// Ten requests, ten answers; the exported objects are the bodies that curl saved in `dir`.
fn assert_ten(test: &Test, finished: &Finished, dir: &str) {
    let mut bodies: Vec<Vec<u8>> = (0..10).map(|n| std::fs::read(format!("{dir}/{n}")).unwrap()).collect();
    bodies.sort();
    for (view, tshark) in finished.views() {
        let mut requests = view.requests();
        requests.sort();
        assert_eq!(requests, (0..10).map(|n| get(&format!("/echo/{n}"))).collect::<Vec<_>>());
        assert_eq!(view.responses(), [200; 10], "tshark {}", tshark.version);
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert_eq!(objects, bodies, "objects exported by tshark {}", tshark.version);
    }
}

/// Each request that nginx logged stands on the connection that nginx logged, with one answer.
fn assert_each_logged_request_is_on_its_connection(finished: &Finished, nginx: &Nginx, count: usize) {
    let logged = nginx.site.logged(count);
    assert_eq!(logged.len(), count);
    for (view, tshark) in finished.views() {
        assert_eq!(view.requests().len(), count, "requests, says tshark {}", tshark.version);
        assert_eq!(view.responses(), vec![200; count], "tshark {}", tshark.version);
        for request in &logged {
            let connection = view.of(request.client, request.server);
            assert!(
                connection.requests.contains(&get(&request.uri)),
                "{request:?}: {:?}",
                connection.requests
            );
        }
        for connection in &view.connections {
            assert_eq!(connection.requests.len(), connection.responses.len(), "{}", connection.client);
        }
    }
}

#[test]
fn python_urllib_uses_the_ex_calls() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/echo");
    let finished = test.capture().run(&[PYTHON, &source("requests.py"), "1", "1", &url]).ok();
    assert_each_logged_request_is_on_its_connection(&finished, &nginx, 1);
    for (view, _) in finished.views() {
        assert!(view.only().comment.get("comm").starts_with("python3"));
    }
}

#[test]
fn two_hundred_short_connections_in_a_loop() {
    let test = begin!();
    // Over loopback Linux gives ports out again after a second, so that two connections may have the same.
    let netns = Netns::new();
    run(netns.command("sh").args(["-c", "echo 0 >/proc/sys/net/ipv4/tcp_tw_reuse"]));
    let nginx = Nginx::start_in(&test, &netns, "127.0.0.1:8443");
    let url = nginx.site.url("/echo");
    let program = source("requests.py");
    let words = [&netns.enter()[..], &[PYTHON, &program, "200", "1", &url]].concat();
    let finished = test.capture().run(&words).ok();
    assert_each_logged_request_is_on_its_connection(&finished, &nginx, 200);
}

#[test]
fn thirty_short_processes_in_a_loop() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let script = format!(
        "i=0; while [ $i -lt 30 ]; do curl -sS --http1.1 --cacert {} -o /dev/null {}/$i || exit 9; i=$((i+1)); done",
        nginx.site.cert,
        nginx.site.url("/echo")
    );
    let finished = test.capture().run(&["sh", "-c", &script]).ok();
    assert_each_logged_request_is_on_its_connection(&finished, &nginx, 30);
    for (view, _) in finished.views() {
        let mut pids: Vec<u64> = view.connections.iter().map(|c| c.comment.number("pid")).collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 30, "each curl is a process of its own");
        for connection in &view.connections {
            assert_eq!(connection.comment.get("exe"), "/usr/bin/curl", "however short its life");
        }
    }
}

#[test]
fn four_python_threads_on_separate_connections() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/echo");
    let finished = test.capture().run(&[PYTHON, &source("requests.py"), "40", "4", &url]).ok();
    assert_each_logged_request_is_on_its_connection(&finished, &nginx, 40);
}

/// One request with `openssl s_client`, and the page in the answer.
fn s_client(test: &Test, openssl: &str) -> View {
    // A network of its own, so that its kernel can say whether a RST was sent.
    let netns = Netns::new();
    let nginx = Nginx::start_in(test, &netns, "127.0.0.1:8443");
    let script = format!(
        "printf 'GET /page.html HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' | \
         {openssl} s_client -quiet -ign_eof -CAfile {} -connect {}",
        nginx.site.cert, nginx.site.address
    );
    let words = [&netns.enter()[..], &["sh", "-c", &script]].concat();
    let finished = test.capture().run(&words).ok();
    assert!(finished.text().contains(PAGE), "{finished:?}");
    let logged = nginx.site.logged(1);
    // nginx resets the connection if s_client's close_notify comes after it has closed.
    let mut views = finished.views_but(Packet::is_reset);
    for (view, tshark) in &views {
        assert!(!view.only().reset || netns.resets() > 0, "a RST that nobody sent");
        assert_eq!((view.requests(), view.responses()), (vec![get("/page.html")], vec![200]));
        assert_tuple(view.only(), logged[0].client, logged[0].server, view.only().comment.get("comm"));
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert_eq!(objects, [PAGE.as_bytes()], "tshark {}", tshark.version);
    }
    views.remove(0).0
}

#[test]
fn openssl_s_client() {
    let view = s_client(&begin!(), "openssl");
    assert_eq!(view.only().comment.get("comm"), "openssl");
    assert_eq!(view.only().comment.get("tuple"), "same-call");
}

#[test]
fn openssl_1_1_1_s_client() {
    let test = begin!();
    match gate::cached_tool("openssl-1.1.1") {
        Some(openssl) => {
            s_client(&test, openssl.to_str().unwrap());
        }
        None => {
            gate::skipped(&test.name, "openssl-1.1.1 not found (run tests/oracles)", "T2P_REQUIRE_ORACLES")
        }
    }
}

#[test]
fn openssl_s_server_www_goes_through_the_ssl_bio() {
    let test = begin!();
    let (cert, key) = test.certificate();
    // -naccept ends the server, and with it the capture, after one connection.
    let words = ["openssl", "s_server", "-www", "-accept", "127.0.0.1:0", "-naccept", "1"];
    let mut running = test.capture().start(&[&words[..], &["-cert", &cert, "-key", &key]].concat());
    let port: u16 = running.process.line_after("ACCEPT 127.0.0.1:").parse().unwrap();
    let url = format!("https://127.0.0.1:{port}/");
    let body = run(Command::new("curl").args(["-sS", "--http1.0", "--cacert", &cert, &url]));
    assert!(String::from_utf8_lossy(&body).contains("s_server"));
    let finished = running.finish().ok();
    for (view, tshark) in finished.views() {
        assert_eq!((view.requests(), view.responses()), (vec![get("/")], vec![200]));
        assert_eq!(view.only().comment.local(), SocketAddr::from(([127, 0, 0, 1], port)));
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert_eq!(objects.len(), 1);
        assert_same_bytes("the exported object", &objects[0], &body);
    }
}

/// nginx's worker is captured, curl is not.
fn server_side(test: &Test, protocol: &str) {
    let nginx = Nginx::start(test);
    let worker = nginx.worker();
    let running = test.capture().attach(&[worker]);
    for (path, body) in [("/page.html", "page"), ("/big", "big")] {
        let (body, url) = (test.text(body), nginx.site.url(path));
        let words = curl(&nginx.site, protocol, &body, &url);
        run(Command::new(words[0]).args(&words[1..]));
    }
    let logged = nginx.site.logged(2);
    let finished = running.stop().ok();
    let big = std::fs::read(big_file()).unwrap();
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 2);
        assert_eq!(view.requests(), [get("/page.html"), get("/big")], "tshark {}", tshark.version);
        assert_eq!(view.responses(), [200, 200]);
        for request in &logged {
            let connection = view.of(request.server, request.client);
            assert_eq!(connection.requests, [get(&request.uri)]);
            assert_eq!(connection.client, request.client, "curl opened the connection");
            assert_eq!(connection.comment.number("pid"), u64::from(worker));
            assert_eq!(connection.comment.get("comm"), "nginx");
        }
        let mut objects = tshark.objects(&finished.file, &test.path("objects"));
        objects.sort_by_key(Vec::len);
        assert_eq!(objects[0], PAGE.as_bytes());
        assert_eq!(objects[1].len(), BIG);
        assert_same_bytes("the exported object", &objects[1], &big);
    }
}

#[test]
fn nginx_as_the_server_http1() {
    server_side(&begin!(), "--http1.1");
}

#[test]
fn nginx_as_the_server_http2() {
    server_side(&begin!(), "--http2");
}

#[test]
fn server_that_forks_its_workers() {
    let test = begin!();
    let (cert, key) = test.certificate();
    let mut running = test.capture().start(&[PYTHON, &source("prefork.py"), &cert, &key, "3"]);
    let port = running.process.port();
    let mut bodies: Vec<Vec<u8>> = (0..3)
        .map(|n| {
            let url = format!("https://127.0.0.1:{port}/{n}");
            run(Command::new("curl").args(["-sS", "--http1.1", "--cacert", &cert, &url]))
        })
        .collect();
    bodies.sort();
    let finished = running.finish().ok();
    for (view, tshark) in finished.views() {
        assert_eq!(view.requests(), [get("/0"), get("/1"), get("/2")]);
        assert_eq!(view.responses(), [200; 3]);
        let mut said: Vec<Vec<u8>> = view
            .connections
            .iter()
            .map(|c| format!("worker {}\n", c.comment.number("pid")).into_bytes())
            .collect();
        said.sort();
        assert_eq!(said, bodies, "each connection is written as that of the worker that served it");
        assert_eq!(tshark.objects(&finished.file, &test.path("objects")), bodies);
    }
}

#[test]
fn curl_through_an_https_proxy() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (mut proxy, port) = python_server(&test, "connect_proxy.py", &[]);
    let proxy_url = format!("https://127.0.0.1:{port}");
    let (body, url) = (test.text("body"), nginx.site.url("/page.html"));
    let mut words = curl(&nginx.site, "--http1.1", &body, &url);
    words.extend(["--proxy", &proxy_url, "--proxy-cacert", &nginx.site.cert]);
    let finished = test.capture().run(&words).ok();
    assert_eq!(std::fs::read(&body).unwrap(), PAGE.as_bytes());
    let (local, remote) = ends(&finished.text());
    assert_eq!(remote.port(), port, "curl's socket is that to the proxy");
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), 2, "one connection to the proxy, one through it");
        let to = |method: &str| {
            view.connections.iter().find(|c| c.requests.iter().any(|r| r.0 == method)).unwrap_or_else(|| {
                panic!("tshark {} sees no {method}: {:?}", tshark.version, view.requests())
            })
        };
        let (outer, inner) = (to("CONNECT"), to("GET"));
        assert_eq!((outer.comment.local(), outer.comment.remote()), (local, remote));
        assert_eq!(outer.responses, [200]);
        assert_eq!((&inner.requests[..], &inner.responses[..]), (&[get("/page.html")][..], &[200][..]));
        assert!(inner.sent_by_server.ends_with(PAGE.as_bytes()));
        // What follows the proxy's answer is TLS again: records of a handshake.
        let head = outer.sent_by_server.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        assert_eq!(outer.sent_by_server[head + 4..][..2], [0x16, 3]);
        assert_eq!(inner.comment.get("tuple"), "layer");
    }
    proxy.close_stdin();
    proxy.wait_ok();
}
