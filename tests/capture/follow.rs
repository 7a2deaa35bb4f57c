//! `-p` and the children of a process: those that it has from then on, those that there are, or none.

use std::process::Command;

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::Nginx;
use crate::support::programs::{Told, compiled, python_server, transcript};
use crate::support::{Process, Test, assert_same_bytes, begin, run};

/// A server that passes each message's connection to a new process: see fixtures/programs/shared.c.
fn server(test: &Test) -> (Process, u16) {
    let (cert, key) = test.certificate();
    let dir = test.folder("server");
    let mut command = Command::new(compiled("shared"));
    command.args(["listen", "127.0.0.1", "0", "--dir", &dir, "passed", &cert, &key]);
    let mut server = Process::start(&mut command, test.path("server.err"));
    let port = server.port();
    (server, port)
}

fn client(test: &Test, port: u16) -> Process {
    let mut command = Command::new(compiled("shared"));
    command.args(["connect", "127.0.0.1", &port.to_string(), "--dir", &test.folder("client"), "passed"]);
    Process::start(&mut command, test.path("client.err"))
}

#[test]
fn children_that_a_process_has_from_then_on() {
    let test = begin!();
    let (mut server, port) = server(&test);
    let running = test.capture().attach(&[server.pid()]);
    client(&test, port).wait_ok();
    let told = Told::parse(&server.line()).unwrap();
    server.wait_ok();
    // All have ended, and so does the capture.
    let finished = running.finish().ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    let truth = transcript(&test.text("server"), "server", 0);
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, &truth.received);
        assert_same_bytes("server", &connection.sent_by_server, &truth.sent);
        assert_eq!((connection.comment.local(), connection.comment.remote()), (told.local, told.remote));
        assert_eq!(connection.comment.get("from_start"), "1");
        assert!(
            !view.packets.iter().any(|p| p.interface == format!("shared[{}]", told.pid)),
            "the parent is silent"
        );
    }
}

#[test]
fn children_that_are_not_wanted() {
    let test = begin!();
    let (mut server, port) = server(&test);
    let running = test.capture().args(&["--no-follow"]).attach(&[server.pid()]);
    client(&test, port).wait_ok();
    server.wait_ok();
    let finished = running.finish().ok();
    for (view, _) in finished.views() {
        assert!(view.packets.is_empty());
    }
}

#[test]
fn children_that_there_are() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let fetch = || {
        run(Command::new("curl").args([
            "-sS",
            "--http1.1",
            "--cacert",
            &nginx.site.cert,
            &nginx.site.url("/page.html"),
        ]))
    };
    let finished = {
        let running = test.capture().attach(&[nginx.pid()]);
        fetch();
        running.stop().ok()
    };
    let said = format!("a child with a TLS library, captured only with --follow: nginx[{}]", nginx.worker());
    assert!(finished.stderr.contains(&said), "{}", finished.stderr);
    let doctor = run(Command::new(TLS2PCAP).args(["doctor", "-p", &nginx.pid().to_string()]));
    let doctor = String::from_utf8(doctor).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(doctor.contains(&said), "{doctor}");
    for (view, _) in finished.views() {
        assert!(view.packets.is_empty());
    }
    let page = fetch();
    let finished = {
        let running = test.capture().args(&["--follow"]).attach(&[nginx.pid()]);
        assert_eq!(fetch(), page);
        running.stop().ok()
    };
    assert!(!finished.stderr.contains("--follow"), "{}", finished.stderr);
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_eq!(connection.comment.number("pid"), u64::from(nginx.worker()));
        assert!(connection.sent_by_server.ends_with(&page));
    }
}

/// The capture lasts as long as some process of the tree does.
#[test]
fn a_tree_whose_root_ends_first() {
    let test = begin!();
    let (server, port) = python_server(&test, "prefork.py", &["2"]);
    let finished = {
        let running = test.capture().args(&["--follow"]).attach(&[server.pid()]);
        server.signal(nix::sys::signal::Signal::SIGKILL);
        for _ in 0..2 {
            let (cert, _) = test.certificate();
            run(Command::new("curl").args([
                "-sSk",
                "--cacert",
                &cert,
                &format!("https://127.0.0.1:{port}/"),
            ]));
        }
        running.finish().ok()
    };
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), 2);
    }
}

/// A shell has no TLS library; what is run in it has.
#[test]
fn what_a_shell_runs() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let done = test.text("done");
    let url = nginx.site.url("/page.html");
    let script = format!(
        "read line; for n in 1 2; do curl -sS --http1.1 --cacert {} {url} >{done}; done; read line",
        nginx.site.cert
    );
    let mut shell = Process::start(Command::new("sh").args(["-c", &script]), test.path("shell.err"));
    let refused = test.capture().attach_in_vain(&[shell.pid()]);
    assert_eq!(refused.status, 5, "{}", refused.stderr);
    let running = test.capture().args(&["--follow"]).attach(&[shell.pid()]);
    shell.go_on();
    shell.go_on();
    shell.wait_ok();
    let finished = running.finish().ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), 2);
        for connection in &view.connections {
            assert_eq!((connection.comment.get("comm"), connection.comment.get("from_start")), ("curl", "1"));
            assert_eq!(connection.responses, [200]);
        }
    }
}
