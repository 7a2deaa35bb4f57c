//! NSS: its own calls one by one beside plain files and sockets, and real programs that use it.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::support::each::assert_each_on_its_socket;
use crate::support::nginx::{Nginx, PAGE};
use crate::support::programs::{compiled_with, exchange_server};
use crate::support::view::Packet;
use crate::support::{Finished, Test, begin, gate, run};

/// Connections that one event loop has open at once.
const MANY: usize = 40;

/// The test program; `None`, with a report, where it cannot be built.
fn program(test: &Test) -> Option<String> {
    if !Path::new("/usr/include/nss/ssl.h").exists() || !Path::new("/usr/include/nspr/nspr.h").exists() {
        gate::skipped(&test.name, "the headers of NSS and NSPR are not installed", "T2P_REQUIRE_TOOLS");
        return None;
    }
    let options = ["-I/usr/include/nss", "-I/usr/include/nspr", "-lssl3", "-lnss3", "-lnspr4"];
    Some(compiled_with("nss", &options))
}

/// NSS's database with the test's certificate as `localhost`; `None`, with a report, without its tools.
fn database(test: &Test) -> Option<String> {
    if Command::new("certutil").arg("-H").output().is_err() {
        gate::skipped(&test.name, "NSS's tools (libnss3-tools) are not installed", "T2P_REQUIRE_TOOLS");
        return None;
    }
    let (cert, key) = test.certificate();
    let (database, bundle) = (format!("sql:{}", test.folder("nssdb")), test.text("bundle.p12"));
    run(Command::new("certutil").args(["-N", "-d", &database, "--empty-password"]));
    run(Command::new("openssl")
        .args(["pkcs12", "-export", "-name", "localhost", "-passout", "pass:"])
        .args(["-in", &cert, "-inkey", &key, "-out", &bundle]));
    run(Command::new("pk12util").args(["-i", &bundle, "-d", &database, "-W", ""]));
    run(Command::new("certutil").args(["-M", "-n", "localhost", "-t", "CT,,", "-d", &database]));
    Some(database)
}

/// Each connection that the program told of stands in the file with its own bytes and its own socket.
#[track_caller]
fn assert_true(finished: &Finished, dir: &str, role: &str, count: usize) {
    assert_each_on_its_socket(finished, dir, role, count, |told, connection| {
        let comment = &connection.comment;
        assert_eq!(comment.get("tuple"), "same-call", "{told:?}");
        assert_eq!(comment.get("role"), role);
        assert_eq!(comment.number("from_start"), 1, "{told:?}");
        assert!(comment.get("library").contains(" NSS 3."), "{}", comment.get("library"));
        assert!(connection.finished, "no FIN from both sides: {told:?}");
    });
}

/// Captures a client that does `ops` on each of `count` connections at once, against OpenSSL, and writes to a
/// plain socket too where `ops` say so.
fn check(test: &Test, count: usize, ops: &str, peer: &str) {
    let Some(program) = program(test) else { return };
    let (mut server, port) = exchange_server(test, &format!("--threads {count} {peer}"));
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_port = plain.local_addr().unwrap().port();
    let heard = std::thread::spawn(move || {
        // A socket of NSPR, and one of NSS for which TLS is switched off.
        [plain.accept(), plain.accept()].map(|accepted| {
            let mut bytes = Vec::new();
            accepted.unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes
        })
    });
    let dir = test.folder("client");
    let words = format!("{program} connect {port} {plain_port} {count} {dir} {ops}");
    let finished = test.capture().run(&words.split(' ').collect::<Vec<_>>()).ok();
    server.wait_ok();
    let marks = heard.join().unwrap();
    for marks in marks {
        assert!(marks.iter().all(|b| *b == b'#') && marks.is_empty() != ops.contains("x:"), "a plain socket");
    }
    assert_true(&finished, &dir, "client", count);
    let file = std::fs::read(&finished.file).unwrap();
    assert!(!file.windows(64).any(|w| w == [b'#'; 64]), "what was plain stands in the file");
    for (view, _) in finished.views() {
        assert!(view.connections.iter().all(|c| c.comment.get("sni") == "localhost"));
    }
}

#[test]
fn lengths_of_writes_and_reads() {
    let lengths = [1, 2, 16383, 16384, 16385, 65536, 70000];
    let ops = |op: char| lengths.map(|n| format!("{op}:{n}")).join(" ");
    let client = format!("z:0 {} {} z:0 {} {} b:0", ops('w'), ops('r'), ops('s'), ops('R'));
    let server = format!("{0} {1} {0} {1} z S", ops('r'), ops('w'));
    check(&begin!(), 1, &client, &server);
}

#[test]
fn vectors_and_peeks() {
    check(&begin!(), 1, "f:0 v:10 v:5000 v:100000 p:10 p:40000 b:0", "r:10 r:5000 r:100000 w:10 w:40000 z S");
}

#[test]
fn plain_files_and_sockets_never_appear() {
    check(&begin!(), 2, "x:5000 w:100 x:100 r:1000 x:20000 s:10 x:7 b:0", "r:100 w:1000 r:10 z S");
}

/// What a connection is known by stays the same when a layer is pushed above, which exchanges descriptors.
#[test]
fn a_layer_above_ssl() {
    check(&begin!(), 3, "w:100 l:0 w:1000 r:1000 l:0 s:20000 R:5 b:0", "r:100 r:1000 w:1000 r:20000 w:5 z S");
}

/// The socket's buffer is small, so that nearly every write is a partial one.
#[test]
fn forty_connections_in_one_event_loop() {
    check(
        &begin!(),
        MANY,
        "w:50000 r:1000 s:30000 R:10 v:20 w:5 b:0",
        "r:50000 w:1000 r:30000 w:10 r:20 r:5 z S",
    );
}

#[test]
fn a_server() {
    let test = begin!();
    let (Some(program), Some(database)) = (program(&test), database(&test)) else { return };
    let dir = test.folder("server");
    let words = format!("{program} listen {database} localhost 3 {dir} r:100 w:70000 R:5 v:1000 b:0");
    let mut running = test.capture().start(&words.split(' ').collect::<Vec<_>>());
    let port = running.process.port().to_string();
    let client = crate::support::programs::compiled("exchange");
    let client_dir = test.folder("client");
    let words =
        format!("connect 127.0.0.1 {port} --dir {client_dir} --threads 3 w:100 r:70000 w:5 r:1000 z S");
    run(Command::new(client).args(words.split(' ')));
    assert_true(&running.finish().ok(), &dir, "server", 3);
}

#[test]
fn tstclnt() {
    let test = begin!();
    if Command::new("tstclnt").output().is_err() {
        return gate::skipped(
            &test.name,
            "NSS's tools (libnss3-tools) are not installed",
            "T2P_REQUIRE_TOOLS",
        );
    }
    let Some(database) = database(&test) else { return };
    let nginx = Nginx::start(&test);
    let request = test.text("request");
    std::fs::write(&request, "GET /page.html HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let port = nginx.site.address.port().to_string();
    let words = ["tstclnt", "-4", "-h", "localhost", "-p", &port, "-d", &database, "-A", &request];
    let finished = test.capture().run(&words).ok();
    assert!(finished.text().contains(PAGE), "{finished:?}");
    let logged = nginx.site.logged(1);
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        assert_eq!(view.connections.len(), 1);
        let connection = view.of(logged[0].client, logged[0].server);
        assert_eq!(view.responses(), [200], "tshark {}", tshark.version);
        assert_eq!(connection.comment.get("sni"), "localhost");
        assert_eq!(connection.comment.get("comm"), "tstclnt");
        assert_eq!(tshark.objects(&finished.file, &test.path("objects")), [PAGE.as_bytes()]);
    }
}

#[test]
fn selfserv() {
    let test = begin!();
    if Command::new("selfserv").output().is_err() {
        return gate::skipped(
            &test.name,
            "NSS's tools (libnss3-tools) are not installed",
            "T2P_REQUIRE_TOOLS",
        );
    }
    let Some(database) = database(&test) else { return };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port_text = port.to_string();
    let mut command = Command::new("selfserv");
    command.args(["-p", &port_text, "-d", &database, "-n", "localhost", "-V", "tls1.2:tls1.3"]);
    let server = crate::support::Process::start(&mut command, test.path("selfserv.err"));
    crate::support::until("selfserv to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let running = test.capture().attach(&[server.pid()]);
    let url = format!("https://127.0.0.1:{port}/");
    let (cert, _) = test.certificate();
    let body = run(Command::new("curl").args(["-sS", "--http1.0", "--cacert", &cert, &url]));
    let finished = running.stop().ok();
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        let connection = view.only();
        assert_eq!((view.requests().len(), view.responses()), (1, vec![200]), "tshark {}", tshark.version);
        assert_eq!(connection.comment.local().port(), port);
        assert_eq!(connection.comment.get("role"), "server");
        assert!(connection.sent_by_server.ends_with(&body), "the body that curl got");
    }
}

/// Nothing but `localhost` is reached, and nothing is asked that a page did not ask for.
const FIREFOX_PREFERENCES: &str = r#"
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.preonboarding.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.getAddons.cache.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
user_pref("network.proxy.no_proxies_on", "localhost");
user_pref("security.OCSP.enabled", 0);
user_pref("termsofuse.bypassNotification", true);
"#;

/// A browser with an NSS of its own, and its HTTP/2.
#[test]
fn firefox() {
    let test = begin!();
    let Some(program) =
        ["firefox-esr", "firefox"].into_iter().find(|p| Path::new("/usr/bin").join(p).exists())
    else {
        return gate::skipped(
            &test.name,
            "Firefox is not installed (tests/setup browser)",
            "T2P_REQUIRE_FIREFOX",
        );
    };
    let nginx = Nginx::start(&test);
    let address = nginx.site.address;
    let profile = test.folder("profile");
    std::fs::write(format!("{profile}/user.js"), FIREFOX_PREFERENCES).unwrap();
    let fingerprint = run(Command::new("openssl").args([
        "x509",
        "-noout",
        "-fingerprint",
        "-sha256",
        "-in",
        &nginx.site.cert,
    ]));
    let fingerprint = String::from_utf8(fingerprint).unwrap();
    let (_, fingerprint) = fingerprint.trim().split_once('=').unwrap();
    let trusted = format!("localhost:{}:\tOID.2.16.840.1.101.3.4.2.1\t{fingerprint}\t\n", address.port());
    std::fs::write(format!("{profile}/cert_override.txt"), trusted).unwrap();
    let url = format!("https://localhost:{}/page.html", address.port());
    let picture = test.text("page.png");
    let words = [program, "--headless", "--no-remote", "--profile", &profile, "--screenshot", &picture, &url];
    let finished = test.capture().variable("HOME", &test.folder("home")).run(&words).ok();
    assert!(Path::new(&picture).exists(), "{finished:?}");
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    let logged = nginx.site.logged(1);
    assert_eq!((&*logged[0].uri, &*logged[0].protocol), ("/page.html", "HTTP/2.0"));
    for (view, tshark) in finished.views_but(Packet::is_reset) {
        let connection = view.of(logged[0].client, logged[0].server);
        let comment = &connection.comment;
        assert_eq!(connection.requests[0], ("GET".into(), "/page.html".into()), "tshark {}", tshark.version);
        assert_eq!(connection.responses[0], 200);
        assert_eq!((comment.get("sni"), comment.get("alpn")), ("localhost", "h2"));
        assert_eq!((comment.get("tuple"), comment.get("role")), ("same-call", "client"));
        assert!(comment.get("library").contains(" NSS 3."), "{}", comment.get("library"));
        let objects = tshark.objects(&finished.file, &test.path("objects"));
        assert!(objects.iter().any(|object| object == PAGE.as_bytes()), "the page is not among the objects");
    }
}
