//! Programs with rustls, of several releases, in one thread with all their connections open at once.

use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol};

use crate::doctor::Told as Doctor;
use crate::support::each::assert_each_on_its_socket;
use crate::support::nginx::Nginx;
use crate::support::programs::{Told, built_by_cargo, transcript};
use crate::support::view::Packet;
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, copy_program, gate, run};

/// Connections that one program has open at once.
const COUNT: usize = 40;

/// `fixtures/programs/NAME`; `None`, with a report, where its crates are missing.
fn program(test: &Test, name: &str, more: &[&str]) -> Option<String> {
    let program = built_by_cargo(name, more);
    if program.is_none() {
        gate::skipped(&test.name, "the crates are not there: run tests/oracles", "T2P_REQUIRE_ORACLES");
    }
    program
}

/// Each connection that the program told of stands in the file with its own bytes and its own socket, whole.
#[track_caller]
fn assert_true(finished: &Finished, dir: &str, role: &str) {
    assert_each_on_its_socket(finished, dir, role, COUNT, |told, connection| {
        let comment = &connection.comment;
        assert!(connection.finished, "{told:?} has no end");
        assert_eq!(comment.get("tuple"), "ciphertext", "{told:?}");
        assert_eq!(comment.get("role"), role, "{told:?}");
        assert_eq!(comment.number("from_start"), 1, "{told:?}");
    });
}

fn words<'w>(test: &Test, program: &'w str, options: &[&'w str]) -> Vec<String> {
    let (cert, key) = test.certificate();
    let own = [program, "listen", &cert, &key, &test.folder("server"), &COUNT.to_string()].map(String::from);
    own.into_iter().chain(options.iter().map(ToString::to_string)).collect()
}

fn listener(test: &Test, program: &str, options: &[&str]) -> (Process, u16) {
    let words = words(test, program, options);
    let mut server = Process::start(Command::new(&words[0]).args(&words[1..]), test.path("server.err"));
    let port = server.port();
    (server, port)
}

fn client_words(program: &str, port: u16, dir: &str, options: &[&str]) -> Vec<String> {
    let own = [program, "connect", &port.to_string(), dir, &COUNT.to_string()].map(String::from);
    own.into_iter().chain(options.iter().map(ToString::to_string)).collect()
}

/// The program is captured as a client, then as a server, with each of these options.
fn forty(test: &Test, name: &str, more: &[&str], variants: &[&[&str]]) {
    let Some(program) = program(test, name, more) else { return };
    for options in variants {
        let own = |role: &str| Test::begin(&format!("{}-{role}-{}", test.name, options.join("-")));
        let Some((client, server)) = own("client").zip(own("server")) else { return };
        forty_of_a_client(&client, &program, options);
        forty_of_a_server(&server, &program, options);
    }
}

fn forty_of_a_server(test: &Test, program: &str, options: &[&str]) {
    let mut running = test.capture().start(&words(test, program, options));
    let port = running.process.port();
    let client = client_words(program, port, &test.folder("client"), options);
    Process::start(Command::new(&client[0]).args(&client[1..]), test.path("client.err")).wait_ok();
    assert_true(&running.finish().ok(), &test.text("server"), "server");
}

fn forty_of_a_client(test: &Test, program: &str, options: &[&str]) {
    let (mut server, port) = listener(test, program, options);
    let dir = test.folder("client");
    let finished = test.capture().run(&client_words(program, port, &dir, options)).ok();
    server.wait_ok();
    assert_true(&finished, &dir, "client");
}

#[test]
fn forty_of_0_23_that_change_keys() {
    forty(&begin!(), "rustls-0.23", &["--features", "ring"], &[&["tls13", "rekey"]]);
}

#[test]
fn forty_of_0_23_with_tls_1_2() {
    forty(&begin!(), "rustls-0.23", &["--features", "ring"], &[&["tls12"]]);
}

#[test]
fn forty_of_0_23_with_chacha() {
    let variants: [&[&str]; 2] = [&["tls12", "chacha"], &["tls13", "chacha"]];
    forty(&begin!(), "rustls-0.23", &["--features", "ring"], &variants);
}

#[test]
fn forty_of_0_23_with_aws_lc_rs() {
    forty(&begin!(), "rustls-0.23", &["--features", "aws-lc-rs"], &[&["tls13", "rekey"], &["tls12"]]);
}

#[test]
fn forty_of_0_23_with_aws_lc_rs_and_chacha() {
    let test = begin!();
    let Some(program) = program(&test, "rustls-0.23", &["--features", "aws-lc-rs"]) else { return };
    for options in [["tls13", "chacha"], ["tls12", "chacha"]] {
        let Some(own) = Test::begin(&format!("{}-{}", test.name, options[0])) else { return };
        forty_of_a_client(&own, &program, &options);
    }
}

/// tokio-rustls, in one thread.
#[test]
fn forty_tasks_of_one_thread() {
    let variants: [&[&str]; 2] = [&["tls13", "tasks"], &["tls12", "tasks"]];
    forty(&begin!(), "rustls-0.23", &["--features", "ring"], &variants);
}

/// Tasks go over from one thread to the other.
#[test]
fn forty_tasks_of_two_threads() {
    forty(&begin!(), "rustls-0.23", &["--features", "ring"], &[&["tls13", "tasks", "threads"]]);
}

/// As programs with reqwest are: tokio-rustls, and aws-lc-rs.
#[test]
fn forty_tasks_with_aws_lc_rs() {
    forty(&begin!(), "rustls-0.23", &["--features", "aws-lc-rs"], &[&["tls13", "tasks"]]);
}

#[test]
fn forty_of_0_22() {
    forty(&begin!(), "rustls-0.22", &[], &[&["tls12"], &["tls13"]]);
}

#[test]
fn forty_of_0_21() {
    forty(&begin!(), "rustls-0.21", &[], &[&["tls12"], &["tls13"], &["tls12", "chacha"]]);
}

/// The connections are open before the capture begins.
fn attached_late(test: &Test, features: &str, options: &[&str]) {
    let Some(program) = program(test, "rustls-0.23", &["--features", features]) else { return };
    let (mut server, port) = listener(test, &program, options);
    let dir = test.text("server");
    let client = client_words(&program, port, &test.folder("client"), &[options, &["wait"]].concat());
    let mut client = Process::start(Command::new(&client[0]).args(&client[1..]), test.path("client.err"));
    client.line_after("all are open");
    let running = test.capture().attach(&[server.pid()]);
    client.go_on();
    client.wait_ok();
    server.wait_ok();
    let told = Told::all(&server.rest().join("\n"));
    let finished = running.stop().ok();
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), COUNT, "tshark {}", tshark.version);
        for told in &told {
            let connection = view.of(told.local, told.remote);
            let truth = transcript(&dir, "server", told.index);
            // Before the capture: one byte and three were read, three written.
            assert_same_bytes(&format!("server of {told:?}"), &connection.sent_by_server, &truth.sent[3..]);
            assert_same_bytes(
                &format!("client of {told:?}"),
                &connection.sent_by_client,
                &truth.received[4..],
            );
            assert_eq!(connection.comment.get("tuple"), "ciphertext");
            assert_eq!(connection.comment.number("from_start"), 0);
        }
    }
}

#[test]
fn server_that_runs_already() {
    attached_late(&begin!(), "ring", &["tls13"]);
}

#[test]
fn server_that_runs_already_with_aws_lc_rs() {
    attached_late(&begin!(), "aws-lc-rs", &["tls12"]);
}

/// curl asks a server that is captured, twice on each connection.
#[test]
fn curl_asks_a_server() {
    let test = begin!();
    let Some(program) = program(&test, "rustls-0.23", &["--features", "ring"]) else { return };
    let (cert, key) = test.certificate();
    let mut server =
        Process::start(Command::new(&program).args(["serve", &cert, &key]), test.path("server.err"));
    let port = server.port();
    let running = test.capture().attach(&[server.pid()]);
    let mut told = Vec::new();
    let mut bodies = Vec::new();
    for lengths in [[5, 300_000], [70_000, 1]] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http1.1", "--cacert", &cert, "-w", "%{local_ip}:%{local_port}\n"]);
        let files = lengths.map(|length| test.text(&format!("body.{length}")));
        for (length, file) in lengths.iter().zip(&files) {
            curl.args(["-o", file, &format!("https://127.0.0.1:{port}/{length}")]);
        }
        let text = String::from_utf8(run(&mut curl)).unwrap();
        let local: Vec<&str> = text.lines().collect();
        assert_eq!(local[0], local[1], "curl opened two connections");
        told.push((local[0].parse().unwrap(), lengths));
        bodies.extend(files.iter().map(|file| std::fs::read(file).unwrap()));
    }
    bodies.sort();
    server.go_on();
    server.wait_ok();
    let finished = running.stop().ok();
    let own = format!("127.0.0.1:{port}").parse().unwrap();
    // When curl has closed its socket, the server still sends its alert, and hears of a reset.
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        for (client, lengths) in &told {
            let connection = view.of(own, *client);
            let asked = lengths.map(|length| ("GET".to_string(), format!("/{length}")));
            assert_eq!(connection.requests, asked);
            assert_eq!(connection.responses, [200, 200]);
            assert_eq!(connection.comment.get("role"), "server");
        }
        assert_eq!(view.connections.len(), told.len(), "tshark {}", tshark.version);
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert!(objects == bodies, "tshark {} shows other bodies in {:?}", tshark.version, finished.file);
    }
}

/// What has OpenSSL's functions too, as rustup has, is not said to speak by them.
#[test]
fn program_with_openssl_as_well() {
    let test = begin!();
    let Some(program) = program(&test, "rustls-0.23", &["--features", "ring"]) else { return };
    let copy = test.text("program");
    // A function that never runs stands for them.
    let bytes = std::fs::read(&program).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let is_idle = |name: &str| name.contains("InvalidMessageEncrypter") && name.contains("7encrypt17h");
    let idle = file.symbols().find(|symbol| symbol.name().is_ok_and(is_idle)).unwrap().address();
    let at = idle - file.section_by_name(".text").unwrap().address();
    let add = ["SSL_read", "SSL_write"].map(|name| format!("--add-symbol={name}=.text:{at},function,global"));
    tool(&["objcopy", &add[0], &add[1], &program, &copy]);
    let (mut server, port) = listener(&test, &copy, &["tls13"]);
    let dir = test.folder("client");
    let words = client_words(&copy, port, &dir, &["tls13"]);
    let finished = test.capture().args(&["-v"]).run(&words).ok();
    server.wait_ok();
    assert_true(&finished, &dir, "client");
    for (view, _) in finished.views() {
        for connection in &view.connections {
            let library = connection.comment.get("library");
            assert!(library.starts_with(&copy) && library.contains("rustls 0.23."), "{library}");
        }
    }
    let probed: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(&copy)).collect();
    assert!(
        probed.iter().any(|line| line.contains("probed") && line.contains("(rustls 0.23.")),
        "{probed:?}"
    );
}

fn tool(words: &[&str]) {
    run(Command::new(words[0]).args(&words[1..]));
}

/// A copy of the program, and of that without symbols the debug file.
fn split(test: &Test, program: &str) -> (String, String) {
    let (copy, debug) = (test.text("program"), test.text("program.debug"));
    copy_program(program, &copy);
    tool(&["objcopy", "--only-keep-debug", &copy, &debug]);
    tool(&["strip", &copy]);
    (copy, debug)
}

#[test]
fn symbols_in_a_debug_file() {
    let test = begin!();
    let Some(program) = program(&test, "rustls-0.23", &["--features", "ring"]) else { return };
    let (copy, debug) = split(&test, &program);
    tool(&["objcopy", &format!("--add-gnu-debuglink={debug}"), &copy]);
    forty_of_a_client(&test, &copy, &["tls13"]);
}

/// A program without symbols is captured as a client, then as a server, with each of these options.
fn forty_without_symbols(test: &Test, name: &str, more: &[&str], variants: &[&[&str]]) {
    let Some(program) = program(test, name, more) else { return };
    let (copy, _) = split(test, &program);
    for options in variants {
        let own = |role: &str| Test::begin(&format!("{}-{role}-{}", test.name, options.join("-")));
        let Some((client, server)) = own("client").zip(own("server")) else { return };
        forty_of_a_client(&client, &copy, options);
        forty_of_a_server(&server, &copy, options);
    }
}

#[test]
fn forty_of_0_23_without_symbols() {
    let variants: [&[&str]; 4] =
        [&["tls13", "rekey"], &["tls13", "chacha"], &["tls12"], &["tls12", "chacha"]];
    forty_without_symbols(&begin!(), "rustls-0.23", &["--features", "ring"], &variants);
}

#[test]
fn forty_of_0_23_with_aws_lc_rs_and_without_symbols() {
    let variants: [&[&str]; 2] = [&["tls13", "rekey"], &["tls12"]];
    forty_without_symbols(&begin!(), "rustls-0.23", &["--features", "aws-lc-rs"], &variants);
}

#[test]
fn forty_of_0_22_without_symbols() {
    forty_without_symbols(&begin!(), "rustls-0.22", &[], &[&["tls12"], &["tls13"]]);
}

/// A program as it is released, without symbols.
#[test]
fn uv_asks_nginx() {
    let test = begin!();
    let Some(uv) = gate::cached_tool("uv") else {
        return gate::skipped(&test.name, "uv is not there: run tests/oracles", "T2P_REQUIRE_ORACLES");
    };
    let nginx = Nginx::start(&test);
    let host = format!("localhost:{}", nginx.site.address.port());
    let own = [uv.to_str().unwrap(), "pip", "install", "--no-cache", "--no-config", "--system"];
    let more = ["--target", &test.folder("target"), "--allow-insecure-host", &host];
    let index = ["--index-url", &format!("https://{host}/simple")];
    // nginx has no index, so uv fails.
    let finished = test.capture().args(&["-v"]).run(&[&own[..], &more, &index, &["one"]].concat());
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    assert!(finished.stderr.contains("(rustls 0.23.36), by its code"), "{}", finished.stderr);
    let logged = nginx.site.logged(1);
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        assert!(!view.connections.is_empty(), "tshark {}", tshark.version);
        for asked in &logged {
            let connection = view.of(asked.client, asked.server);
            assert!(connection.requests.iter().any(|(_, path)| *path == asked.uri), "{}", asked.uri);
            assert_eq!(connection.responses, [asked.status]);
            assert_eq!(connection.comment.get("tuple"), "ciphertext");
        }
    }
}

/// Captures of a program whose functions are not found say why it is not in the file, and doctor does.
#[test]
fn stripped_program_of_0_21_is_named() {
    let test = begin!();
    let Some(program) = program(&test, "rustls-0.21", &[]) else { return };
    let (copy, _) = split(&test, &program);
    let (server, port) = listener(&test, &copy, &["tls13"]);
    let why = ["contains rustls 0.21.", "the names of its functions are stripped"];
    let told = Doctor::of(server.pid());
    assert_eq!(told.status, 5, "{:#}", told.report);
    let library = told.library(server.pid(), "rustls");
    assert_eq!((&library["captured"], &library["linked"]), (&false.into(), &"static".into()));
    assert!(library["reason"].as_str().unwrap().contains(why[1]), "{library:#}");
    assert!(library["help"].as_str().unwrap().contains("strip = false"), "{library:#}");

    test.capture().attach_in_vain(&[server.pid()]).failed(5, &why);
    let words = client_words(&copy, port, &test.folder("client"), &["tls13"]);
    let finished = test.capture().args(&["-v"]).run(&words).ok();
    let said = finished.stderr.lines().find(|line| line.contains(why[0])).unwrap_or_default();
    assert!(said.contains(&copy) && said.contains(why[1]), "{}", finished.stderr);
    let summary = finished.stderr.split("0 connections").nth(1).unwrap();
    assert!(summary.contains(why[0]), "the summary gives no reason:\n{}", finished.stderr);
}
