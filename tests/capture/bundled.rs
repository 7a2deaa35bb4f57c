//! Real programs of many connections: clients of Python, packages of PyPI that bring a TLS library along, and Node.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nginx::Nginx;
use crate::support::programs::{PYTHON, Told, compiled_as, has_node, source};
use crate::support::view::Packet;
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, gate, run, until};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// Python with the packages; `None`, with a report, where it is missing.
fn python(test: &Test) -> Option<String> {
    python_with(test, "python-wheels")
}

/// The same with older packages.
fn older_python(test: &Test) -> Option<String> {
    python_with(test, "python-wheels-older")
}

fn python_with(test: &Test, name: &str) -> Option<String> {
    let python = gate::cached_tool(name).map(|path| path.to_str().unwrap().to_owned());
    if python.is_none() {
        let why = "packages of PyPI are not there: run tests/oracles";
        gate::skipped(&test.name, why, "T2P_REQUIRE_ORACLES");
    }
    python
}

/// Each path stands on the connection (local and remote address) on which the server or the program itself saw
/// it, with its answer, and on no other.
#[track_caller]
fn assert_each_on_its_socket(finished: &Finished, seen: &[(String, SocketAddr, SocketAddr)], tuple: &str) {
    assert_each_but(finished, seen, tuple, |_| false);
}

/// The same, where tshark may find fault with some packets.
#[track_caller]
fn assert_each_but(
    finished: &Finished,
    seen: &[(String, SocketAddr, SocketAddr)],
    tuple: &str,
    but: fn(&Packet) -> bool,
) {
    let mut paths: BTreeMap<(SocketAddr, SocketAddr), Vec<&str>> = BTreeMap::new();
    for (path, local, remote) in seen {
        paths.entry((*local, *remote)).or_default().push(path);
    }
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert_eq!(paths.len(), COUNT, "connections that were seen");
    for (view, tshark) in finished.views_but(but) {
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
    finished.text().lines().filter_map(request).collect()
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
    if !has_node(&test, 12) {
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
    // The server of older ones does not end.
    if !has_node(&test, 14) {
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

/// A line of a server about a request: the path, its own address and the client's.
fn request(line: &str) -> Option<(String, SocketAddr, SocketAddr)> {
    let (path, rest) = line.strip_prefix("request ")?.split_once(" local=")?;
    let (local, remote) = rest.split_once(" remote=")?;
    Some((path.to_owned(), local.parse().unwrap(), remote.parse().unwrap()))
}

/// All answers of a gRPC server stand on the connection on which they were asked for; what was asked, too. The
/// library is known by its code alone.
#[track_caller]
fn assert_all_was_said(finished: &Finished, seen: &[(String, SocketAddr, SocketAddr)]) {
    for (view, _) in finished.views_but(Packet::is_reset) {
        for (path, local, remote) in seen {
            let connection = view.of(*local, *remote);
            let said = |all: &[u8], text: &str| {
                assert!(memchr::memmem::find(all, text.as_bytes()).is_some(), "{text} is missing");
            };
            let is_one = path.starts_with("/echo/one-");
            if is_one {
                said(&connection.sent_by_client, &format!("question of {path}"));
            }
            for part in 0..if is_one { 1 } else { 5 } {
                let text = format!("part {part} of you asked for {path}");
                said(&connection.sent_by_server, &format!("{text:.<3000}"));
            }
            let library = connection.comment.get("library");
            assert!(
                library.contains("/grpc/_cython/cygrpc.") && library.ends_with(" BoringSSL"),
                "{library}"
            );
        }
    }
}

fn grpc_client(python: fn(&Test) -> Option<String>) {
    let test = begin!();
    let Some(python) = python(&test) else { return };
    let (cert, key) = test.certificate();
    let (script, calls) = (source("rpc.py"), (2 * COUNT).to_string());
    let mut server = Command::new(&python);
    server.args([&script, "listen", &cert, &key, &calls]);
    let mut server = Process::start(&mut server, test.path("server.err"));
    let port = server.port().to_string();
    let words = [&python, &script, "connect", &port, &cert, &COUNT.to_string()];
    let finished = test.capture().args(&["-v"]).run(&words).ok();
    let lines = server.rest();
    server.wait_ok();
    let seen: Vec<_> =
        lines.iter().filter_map(|l| request(l)).map(|(p, server, client)| (p, client, server)).collect();
    // Both ends close at once, and with that each other's GOAWAY unread.
    assert_each_but(&finished, &seen, "ciphertext", Packet::is_reset);
    assert_all_was_said(&finished, &seen);
    let proven = "SSL_read and SSL_write proven after";
    assert!(finished.stderr.contains(proven), "{}", finished.stderr);
}

fn grpc_server(python: fn(&Test) -> Option<String>) {
    let test = begin!();
    let Some(python) = python(&test) else { return };
    let (cert, key) = test.certificate();
    let (script, calls) = (source("rpc.py"), (2 * COUNT).to_string());
    let mut running = test.capture().start(&[&python, &script, "listen", &cert, &key, &calls]);
    let port = running.process.port().to_string();
    let mut client = Command::new(&python);
    client.args([&script, "connect", &port, &cert, &COUNT.to_string()]);
    Process::start(&mut client, test.path("client.err")).wait_ok();
    let finished = running.finish().ok();
    let seen: Vec<_> = finished.text().lines().filter_map(request).collect();
    // Both ends close at once, and with that each other's GOAWAY unread.
    assert_each_but(&finished, &seen, "ciphertext", Packet::is_reset);
    assert_all_was_said(&finished, &seen);
}

/// grpcio's BoringSSL has no symbols at all.
#[test]
fn grpcio_client() {
    grpc_client(python);
}

#[test]
fn grpcio_server() {
    grpc_server(python);
}

/// Built from BoringSSL's sources of years ago.
#[test]
fn grpcio_client_of_an_older_release() {
    grpc_client(older_python);
}

#[test]
fn grpcio_server_of_an_older_release() {
    grpc_server(older_python);
}

/// Rust programs that contain BoringSSL, built by clang. `before`: words before those of the program.
fn primp(test: &Test, before: &[&str]) {
    let Some(python) = older_python(test) else { return };
    let nginx = Nginx::start(test);
    let url = format!("https://localhost:{}", nginx.site.address.port());
    let program = [&python, &source("bundled.py"), "primp", &nginx.site.cert, &url, &COUNT.to_string()];
    let words: Vec<&str> = before.iter().copied().chain(program).collect();
    let finished = test.capture().args(&["-v"]).run(&words).ok();
    assert!(finished.stderr.contains("primp.abi3.so (BoringSSL), by its code"), "{}", finished.stderr);
    assert_each_on_its_socket(&finished, &logged(&nginx), "same-call");
}

#[test]
fn primp_with_its_boringssl() {
    primp(&begin!(), &[]);
}

/// That a child of the process was stopped a moment before does not let the process go before its library,
/// which takes long to look at, is probed.
#[test]
fn primp_in_a_process_that_just_had_a_child() {
    primp(&begin!(), &["/bin/sh", "-c", "/bin/true; exec \"$@\"", "sh"]);
}

/// What looks like BoringSSL's functions, but tells more bytes than its records can carry, is not taken at its word.
#[test]
fn functions_that_contradict_their_records() {
    let test = begin!();
    let program = compiled_as("boring-less", "boring", &["-s", "-DLESS=40"]);
    let mut running = test.capture().start(&[&program]);
    until("the contradiction to be said", || {
        running.process.go_on();
        let said = running.process.stderr();
        said.contains("does not agree with its TLS records; it is no longer captured").then_some(())
    });
    running.process.close_stdin();
    let finished = running.finish().ok();
    for (view, _) in finished.views() {
        assert!(view.connections.iter().all(|c| c.sent_by_client.is_empty() && c.sent_by_server.is_empty()));
    }
}

/// The same program with records as they should be: all it writes is captured, though it has no socket.
#[test]
fn functions_that_agree_with_their_records() {
    let test = begin!();
    let program = compiled_as("boring-true", "boring", &["-s"]);
    let mut running = test.capture().args(&["-v"]).start(&[&program]);
    for _ in 0..40 {
        running.process.go_on();
    }
    running.process.close_stdin();
    let finished = running.finish().ok();
    let texts: String = (0..40).map(|i| format!("{i:100}")).collect();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), 1);
        let written = [&view.connections[0].sent_by_client, &view.connections[0].sent_by_server];
        assert!(written.iter().any(|sent| **sent == texts.as_bytes()));
    }
}

/// No byte is lost to a proof: reads that are smaller than their records prove the function together, and all of
/// them are in the file, the first too.
#[test]
fn reads_that_are_smaller_than_their_records() {
    let test = begin!();
    let program = compiled_as("boring-reads", "boring", &["-s"]);
    for size in ["8192", "16383", "1000", "16384"] {
        let words = ["env", &format!("READ={size}"), &program];
        let mut running = test.capture().start(&words);
        for _ in 0..20 {
            running.process.go_on();
        }
        running.process.close_stdin();
        let finished = running.finish().ok();
        assert!(finished.stderr.contains("nothing lost"), "{size}: {}", finished.stderr);
        let expected: String = (0..20 * 2048).map(|number| format!("{number:7}\n")).collect();
        for (view, _) in finished.views() {
            let read = [&view.only().sent_by_client, &view.only().sent_by_server];
            let read = read.iter().find(|sent| !sent.is_empty()).expect("something was read");
            assert_same_bytes(size, read, expected.as_bytes());
        }
    }
}

/// The same with records that cannot carry so much: the contradiction is found, whatever the size of the reads.
#[test]
fn small_reads_that_contradict_their_records() {
    let test = begin!();
    let program = compiled_as("boring-reads-less", "boring", &["-s", "-DLESS=40"]);
    for size in ["8192", "16384"] {
        let words = ["env", &format!("READ={size}"), &program];
        let mut running = test.capture().start(&words);
        until("the contradiction to be said", || {
            running.process.go_on();
            let said = running.process.stderr();
            said.contains("does not agree with its TLS records; it is no longer captured").then_some(())
        });
        running.process.close_stdin();
        running.finish().ok();
    }
}

/// Where the code does not say what is looked for, that is told, and nothing else happens.
#[test]
fn grpcio_that_cannot_be_understood_is_named_with_the_reason() {
    let test = begin!();
    let Some(python) = python(&test) else { return };
    let nginx = Nginx::start(&test);
    let target = format!("localhost:{}", nginx.site.address.port());
    let asked = run(Command::new(&python).args(["-c", "import grpc; print(grpc.__path__[0])"]));
    let package = test.folder("changed");
    run(Command::new("cp").arg("-r").arg(String::from_utf8(asked).unwrap().trim()).arg(&package));
    let folder = Path::new(&package).join("grpc/_cython");
    let mut files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let library = files.find(|path| path.to_string_lossy().ends_with(".so")).unwrap();
    let mut bytes = std::fs::read(&library).unwrap();
    let name = b"/s3_pkt.cc\0";
    let at = memchr::memmem::find(&bytes, name).expect("the name of a source file");
    bytes[at + 1] = b'x';
    std::fs::write(&library, bytes).unwrap();
    let script = source("bundled.py");
    let inner = format!(
        "import sys; sys.path.insert(0, {package:?}); sys.argv.insert(1, 'grpc'); exec(open({script:?}).read())"
    );
    let words = [&python, "-c", &inner, &nginx.site.cert, &target];
    let finished = test.capture().run(&words).ok();
    let why = "contains BoringSSL: the names of its functions are stripped, and no code in it raises errors of its s3_pkt";
    let said = finished.stderr.lines().find(|line| line.contains("contains BoringSSL")).unwrap_or_default();
    assert!(said.contains("/grpc/_cython/cygrpc.") && said.contains(why), "{}", finished.stderr);
    for (view, _) in finished.views() {
        assert!(view.connections.is_empty());
    }
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
