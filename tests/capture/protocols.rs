//! Clients and servers of other protocols than HTTP, and HTTP inside made-up TLS.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::nginx::{Nginx, PAGE};
use crate::support::programs::{PYTHON, source};
use crate::support::{Finished, Process, Test, begin, gate, run, tshark, until};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that is up once it takes connections.
#[track_caller]
fn server(test: &Test, port: u16, words: &[&str]) -> Process {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    let mut server = Process::start(&mut command, test.path("server.err"));
    until(&format!("{} to listen", words[0]), || {
        if let Some(status) = server.ended() {
            panic!("{words:?}: {status}\n{}{}", server.rest().join("\n"), server.stderr());
        }
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    server
}

/// Whether all programs are there; reports it if not.
fn there(test: &Test, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| {
        Path::new(program).is_absolute() && Path::new(program).exists()
            || std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    match programs.iter().find(|program| !found(program)) {
        Some(program) => {
            gate::skipped(&test.name, &format!("no {program} (tests/setup protocols)"), "T2P_REQUIRE_TOOLS");
            false
        }
        None => true,
    }
}

/// Each tshark shows exactly this of the packets that have the first field, and finds nothing wrong.
#[track_caller]
fn shows(finished: &Finished, fields: &[&str], expected: &[&str]) {
    for tshark in tshark::oracles() {
        let rows = tshark.fields(&finished.file, fields[0], fields);
        let rows: Vec<_> = rows.iter().map(|row| row.join(" ").trim().replace('\x1f', ",")).collect();
        assert_eq!(rows, expected, "tshark {}", tshark.version);
        let wrong =
            "_ws.malformed || _ws.expert.severity >= 6291456 && !tcp.flags.reset == 1 || tcp.analysis.flags";
        let rows = tshark.fields(&finished.file, wrong, &["frame.number", "_ws.expert.message"]);
        assert!(rows.is_empty(), "tshark {}: {rows:?}", tshark.version);
    }
}

#[test]
fn redis() {
    let test = begin!();
    if !there(&test, &["redis-server", "redis-cli"]) {
        return;
    }
    let (cert, key) = test.certificate();
    let port = free_port().to_string();
    let folder = test.folder("redis");
    let options = ["--port", "0", "--tls-port", &port, "--bind", "127.0.0.1", "--dir", &folder, "--save", ""];
    let tls = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let words = [&["redis-server"][..], &options, &tls].concat();
    let _server = server(&test, port.parse().unwrap(), &words);
    let client =
        ["redis-cli", "-h", "localhost", "-p", &port, "--tls", "--cacert", &cert, "SET", "key", "value"];
    let finished = test.capture().run(&client).ok();
    assert_eq!(finished.text(), "OK\n");
    shows(&finished, &["resp.bulk_string.value"], &["534554,6b6579,76616c7565"]);
    shows(&finished, &["resp.string", "tcp.srcport"], &["OK 6379"]);
}

#[test]
fn mqtt() {
    let test = begin!();
    if !there(&test, &["mosquitto", "mosquitto_pub", "mosquitto_sub"]) {
        return;
    }
    let (cert, key) = test.certificate();
    let port = free_port();
    let config = test.text("mosquitto.conf");
    let text = format!(
        "user root\nallow_anonymous true\nlistener {port} 127.0.0.1\ncertfile {cert}\nkeyfile {key}\n"
    );
    std::fs::write(&config, text).unwrap();
    let broker = server(&test, port, &["mosquitto", "-c", &config]);
    let port = port.to_string();
    let client = [
        "mosquitto_pub",
        "-h",
        "localhost",
        "-p",
        &port,
        "--cafile",
        &cert,
        "-t",
        "a/b",
        "-m",
        "hi",
        "-q",
        "1",
    ];
    let finished = test.capture().run(&client).ok();
    shows(&finished, &["mqtt.topic", "mqtt.msg", "tcp.dstport"], &["a/b 6869 1883"]);
    shows(&finished, &["mqtt.msgtype"], &["1", "2", "3", "4", "14"]);

    // Both ends read the length of a packet byte by byte.
    for (number, len) in [200, 20_000].into_iter().enumerate() {
        let file = test.text("message");
        std::fs::write(&file, "x".repeat(len)).unwrap();
        let to = ["-h", "localhost", "-p", &port, "--cafile", &cert, "-t", "a/b"];
        let running =
            test.capture().output(test.path(&format!("broker{number}.pcapng"))).attach(&[broker.pid()]);
        run(Command::new("mosquitto_pub").args(to).args(["-f", &file, "-q", "1", "-r"]));
        let finished = running.stop().ok();
        // Topic, packet number and content.
        shows(&finished, &["mqtt.qos", "mqtt.topic", "mqtt.len"], &[&format!("1 a/b {}", len + 7)]);
        let words = [&["mosquitto_sub"], &to[..], &["-C", "1"]].concat();
        let finished = test.capture().output(test.path(&format!("client{number}.pcapng"))).run(&words).ok();
        assert_eq!(finished.text().trim_end().len(), len);
        shows(&finished, &["mqtt.qos", "mqtt.topic", "mqtt.len"], &[&format!("0 a/b {}", len + 5)]);
    }
}

#[test]
fn postgresql() {
    let test = begin!();
    // Debian's programs in PATH are scripts that look for the system's clusters.
    let Some(folder) = postgresql_programs() else {
        gate::skipped(&test.name, "no PostgreSQL (tests/setup protocols)", "T2P_REQUIRE_TOOLS");
        return;
    };
    let program = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let (cert, key) = test.certificate();
    let (data, port) = (test.folder("data"), free_port().to_string());
    // It refuses root.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    run(Command::new("chown").args(["65534:65534", &data, &key]));
    let setup = ["-D", &data, "-A", "trust", "-U", "me", "--no-sync", "-E", "UTF8", "--locale=C"];
    run(Command::new(nobody[0]).args(&nobody[1..]).arg(program("initdb")).args(setup));
    let settings = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_directories=".into(),
        "ssl=on".into(),
        format!("ssl_cert_file={cert}"),
        format!("ssl_key_file={key}"),
    ];
    let postgres = program("postgres");
    let mut words = [&nobody[..], &[&postgres, "-D", &data]].concat();
    words.extend(settings.iter().flat_map(|setting| ["-c", setting]));
    let _server = server(&test, port.parse().unwrap(), &words);
    let target = format!("host=localhost port={port} user=me dbname=postgres sslmode=require");
    let finished =
        test.capture().run(&[&program("psql")[..], "-X", "-At", "-c", "select 6 * 7", &target]).ok();
    assert_eq!(finished.text(), "42\n");
    shows(&finished, &["pgsql.query", "tcp.dstport"], &["select 6 * 7 5432"]);
    shows(&finished, &["pgsql.val.data"], &["3432"]);
}

fn postgresql_programs() -> Option<PathBuf> {
    let versions = Path::new("/usr/lib/postgresql").read_dir().ok()?;
    let folders = versions.map(|version| version.unwrap().path().join("bin"));
    folders
        .filter(|folder| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists()))
        .max()
}

/// Through Python, whose clients keep to the protocols.
#[test]
fn smtp_and_imap() {
    let test = begin!();
    let (cert, key) = test.certificate();
    let mut command = Command::new(PYTHON);
    command.arg(source("mail.py")).args([&cert, &key]);
    let mut server = Process::start(&mut command, test.path("mail.err"));
    let ports = server.line_after("port");
    let (smtp, imap) = ports.split_once(' ').unwrap();
    let finished = test.capture().run(&[PYTHON, &source("mail.py"), &cert, smtp, imap]).ok();
    assert_eq!(finished.text(), "3\n");
    shows(
        &finished,
        &["smtp.req.command", "smtp.req.parameter", "tcp.dstport"],
        &["ehlo me 25", "mail FROM:<a@example.org> 25", "rcpt TO:<b@example.org> 25", "data  25", "QUIT  25"],
    );
    shows(&finished, &["imf.subject"], &["hello"]);
    for tshark in tshark::oracles() {
        let commands =
            tshark.fields(&finished.file, "imap.request", &["imap.request.command", "tcp.dstport"]);
        let commands: Vec<_> = commands.iter().map(|row| row.join(" ")).collect();
        let expected = ["CAPABILITY 143", "login 143", "CAPABILITY 143", "SELECT 143", "LOGOUT 143"];
        let said = |word: &str| commands.iter().any(|c| c.eq_ignore_ascii_case(word));
        assert!(expected.iter().all(|word| said(word)), "tshark {}: {commands:?}", tshark.version);
    }
}

/// With `--framing tls` and `--link ethernet`: true ports and names, https.
#[test]
fn http_in_made_up_tls() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let port = nginx.site.address.port();
    for (protocol, field) in [("--http1.1", "http.host"), ("--http2", "http2.headers.path")] {
        let (body, url) = (test.text("body"), format!("https://localhost:{port}/page.html"));
        let client = ["curl", "-sS", "--cacert", &nginx.site.cert, protocol, "-o", &body, &url];
        let finished = test.capture().args(&["--framing", "tls", "--link", "ethernet"]).run(&client).ok();
        let expected = if protocol == "--http2" { "/page.html" } else { &format!("localhost:{port}") };
        shows(&finished, &[field, "tcp.dstport"], &[&format!("{expected} {port}")]);
        shows(&finished, &["tls.handshake.extensions_server_name"], &["localhost"]);
        for tshark in tshark::oracles() {
            let objects = tshark.objects(&finished.file, &test.path(&format!("objects{protocol}")));
            assert_eq!(objects, [PAGE.as_bytes()], "tshark {}", tshark.version);
        }
    }
}
