//! Real programs of many connections: clients of Python, packages of PyPI that bring a TLS library along, and Node.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nginx::Nginx;
use crate::support::programs::{PYTHON, Told, source};
use crate::support::view::Packet;
use crate::support::{Finished, Process, Test, begin, gate, run, until};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// Python with the packages; `None`, with a report, where it is missing.
fn python(test: &Test) -> Option<String> {
    let python = gate::cached_tool("python-wheels").map(|path| path.to_str().unwrap().to_owned());
    if python.is_none() {
        let why = "packages of PyPI are not there: run tests/oracles";
        gate::skipped(&test.name, why, "T2P_REQUIRE_ORACLES");
    }
    python
}

fn has_node(test: &Test) -> bool {
    let there = Command::new("node").arg("--version").output().is_ok();
    if !there {
        gate::skipped(&test.name, "Node is not installed", "T2P_REQUIRE_TOOLS");
    }
    there
}

/// Each path stands on the connection (local and remote address) on which the server or the program itself saw
/// it, with its answer, and on no other.
#[track_caller]
fn assert_each_on_its_socket(finished: &Finished, seen: &[(String, SocketAddr, SocketAddr)], tuple: &str) {
    let mut paths: BTreeMap<(SocketAddr, SocketAddr), Vec<&str>> = BTreeMap::new();
    for (path, local, remote) in seen {
        paths.entry((*local, *remote)).or_default().push(path);
    }
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert_eq!(paths.len(), COUNT, "connections that were seen");
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for ((local, remote), paths) in &paths {
            let connection = view.of(*local, *remote);
            let client = connection.client;
            let asked: Vec<&str> = connection.requests.iter().map(|(_, path)| &**path).collect();
            assert_eq!(&asked, paths, "of {client}, tshark {}", tshark.version);
            assert_eq!(connection.responses, [200, 200]);
            for path in paths {
                let answer = format!("you asked for {path}");
                let text = String::from_utf8_lossy(&connection.sent_by_server);
                assert!(text.contains(&answer), "{client} has no {answer}: {text}");
            }
            assert_eq!(connection.comment.get("tuple"), tuple, "{client}");
            assert_eq!(connection.comment.number("from_start"), 1, "{client}");
        }
    }
}

/// What nginx saw.
fn logged(nginx: &Nginx) -> Vec<(String, SocketAddr, SocketAddr)> {
    nginx.site.logged(2 * COUNT).into_iter().map(|l| (l.uri, l.client, l.server)).collect()
}

/// What the program told of its requests.
fn told(finished: &Finished) -> Vec<(String, SocketAddr, SocketAddr)> {
    let text = finished.text();
    let seen = text.lines().filter_map(|line| {
        let (path, rest) = line.strip_prefix("request ")?.split_once(" local=")?;
        let (local, remote) = rest.split_once(" remote=")?;
        Some((path.to_owned(), local.parse().unwrap(), remote.parse().unwrap()))
    });
    seen.collect()
}

/// Captures a client of clients.py, which uses the system's OpenSSL.
fn python_client(name: &str, tuple: &str) {
    let test = begin!();
    let import = Command::new(PYTHON).args(["-I", "-c", &format!("import {name}")]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        return gate::skipped(&test.name, &format!("python3-{name} is not installed"), "T2P_REQUIRE_TOOLS");
    }
    let nginx = Nginx::start(&test);
    let url = format!("https://localhost:{}", nginx.site.address.port());
    // -I: what is beside the script is no module.
    let words = [PYTHON, "-I", &source("clients.py"), name, &nginx.site.cert, &url, &COUNT.to_string()];
    let finished = test.capture().run(&words).ok();
    let mut told = told(&finished);
    assert_each_on_its_socket(&finished, &told, tuple);
    let mut logged = logged(&nginx);
    told.sort();
    logged.sort();
    assert_eq!(told, logged, "what the program told and what nginx saw");
    for (view, _) in finished.views() {
        for connection in &view.connections {
            let index = connection.requests[0].1.rsplit('-').next().unwrap();
            let body = format!("what client {index} has to send\n").repeat(1000);
            let sent = String::from_utf8_lossy(&connection.sent_by_client);
            assert!(
                sent.ends_with(&format!("\r\n\r\n{body}")),
                "{}: {} bytes",
                connection.client,
                sent.len()
            );
            assert_eq!(connection.comment.get("sni"), "localhost");
        }
    }
}

#[test]
fn python_requests() {
    python_client("requests", "same-call");
}

#[test]
fn python_aiohttp_on_one_event_loop() {
    python_client("aiohttp", "ciphertext");
}

#[test]
fn curl_cffi_with_its_boringssl() {
    let test = begin!();
    let Some(python) = python(&test) else { return };
    let nginx = Nginx::start(&test);
    let url = format!("https://localhost:{}", nginx.site.address.port());
    let words = [&python, &source("bundled.py"), "curl_cffi", &nginx.site.cert, &url, &COUNT.to_string()];
    let finished = test.capture().run(&words).ok();
    assert_each_on_its_socket(&finished, &logged(&nginx), "same-call");
    for (view, _) in finished.views() {
        let library = view.connections[0].comment.get("library");
        assert!(library.ends_with(" BoringSSL"), "{library}");
    }
}

#[test]
fn node_http2_client() {
    let test = begin!();
    if !has_node(&test) {
        return;
    }
    let nginx = Nginx::start(&test);
    let port = nginx.site.address.port().to_string();
    let words = ["node", &source("http2.js"), "connect", &port, &nginx.site.cert, &COUNT.to_string()];
    let finished = test.capture().run(&words).ok();
    assert_each_on_its_socket(&finished, &logged(&nginx), "ciphertext");
}

#[test]
fn node_http2_server() {
    let test = begin!();
    if !has_node(&test) {
        return;
    }
    let (cert, key) = test.certificate();
    let (script, count) = (source("http2.js"), COUNT.to_string());
    let mut running = test.capture().start(&["node", &script, "listen", &cert, &key, &count]);
    let port = running.process.port().to_string();
    let mut client = Command::new("node");
    client.args([&script, "connect", &port, &cert, &count]);
    Process::start(&mut client, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    assert_each_on_its_socket(&finished, &told(&finished), "ciphertext");
}

#[test]
fn psycopg2_with_its_libssl() {
    let test = begin!();
    let Some(python) = python(&test) else { return };
    let Some(programs) = postgresql_programs() else {
        return gate::skipped(&test.name, "PostgreSQL is not installed", "T2P_REQUIRE_TOOLS");
    };
    let (_server, port) = postgresql(&test, &programs);
    let dsn = format!("host=127.0.0.1 port={port} user=me dbname=postgres sslmode=require");
    let words = [&python, &source("bundled.py"), "psycopg2", &dsn, &COUNT.to_string()];
    let finished = test.capture().run(&words).ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    let told = Told::all(&finished.text());
    assert_eq!(told.len(), COUNT);
    // PostgreSQL closes without reading the client's close_notify.
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let sent = String::from_utf8_lossy(&connection.sent_by_client);
            assert!(sent.contains(&format!("select 'question {:02}'", told.index)), "{told:?}: {sent}");
            let received = String::from_utf8_lossy(&connection.sent_by_server);
            assert!(received.contains(&format!("answer {:02} ", told.index).repeat(3000)), "{told:?}");
            assert_eq!(connection.comment.get("tuple"), "same-call");
            assert_eq!(connection.comment.number("fd"), u64::from(told.fd));
            let library = connection.comment.get("library");
            assert!(library.contains("psycopg2_binary.libs/libssl-"), "{library}");
            assert!(library.contains(" OpenSSL"), "{library}");
        }
    }
}

/// grpcio's BoringSSL has no symbols at all: that is said, and nothing else happens.
#[test]
fn grpcio_is_named_with_the_reason() {
    let test = begin!();
    let Some(python) = python(&test) else { return };
    let nginx = Nginx::start(&test);
    let target = format!("localhost:{}", nginx.site.address.port());
    let words = [&python, &source("bundled.py"), "grpc", &nginx.site.cert, &target];
    let finished = test.capture().run(&words).ok();
    let said = finished.stderr.lines().filter(|line| line.contains("contains BoringSSL")).collect::<Vec<_>>();
    assert!(!said.is_empty(), "{}", finished.stderr);
    let why = "contains BoringSSL: the names of its functions are stripped";
    assert!(said[0].contains("/grpc/_cython/cygrpc.") && said[0].contains(why), "{}", said[0]);
}

fn postgresql_programs() -> Option<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql").read_dir().ok()?;
    let folders = versions.map(|version| version.unwrap().path().join("bin"));
    folders.filter(|folder| ["initdb", "postgres"].iter().all(|name| folder.join(name).exists())).max()
}

/// A PostgreSQL with TLS, and its port.
fn postgresql(test: &Test, programs: &Path) -> (Process, u16) {
    let program = |name: &str| programs.join(name).to_str().unwrap().to_owned();
    let (cert, key) = test.certificate();
    let data = test.folder("data");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // It refuses root.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    run(Command::new("chown").args(["65534:65534", &data, &key]));
    let setup = ["-D", &data, "-A", "trust", "-U", "me", "--no-sync", "-E", "UTF8", "--locale=C"];
    run(Command::new(nobody[0]).args(&nobody[1..]).arg(program("initdb")).args(setup));
    let settings = [
        format!("port={port}"),
        "max_connections=60".into(),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_directories=".into(),
        "ssl=on".into(),
        format!("ssl_cert_file={cert}"),
        format!("ssl_key_file={key}"),
    ];
    let mut command = Command::new(nobody[0]);
    command.args(&nobody[1..]).arg(program("postgres")).args(["-D", &data]);
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    let mut server = Process::start(&mut command, test.path("postgresql.err"));
    until("PostgreSQL to listen", || {
        if let Some(status) = server.ended() {
            panic!("PostgreSQL: {status}\n{}", server.stderr());
        }
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (server, port)
}
