//! The command line: readiness, summary, back ends.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::Nginx;
use crate::support::programs::{compiled, connect, exchange_server};
use crate::support::{Process, begin, gate, until};

#[test]
fn ready_fd_is_told_and_closed() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:10 w:10 S");
    let mut client = Command::new(compiled("exchange"));
    client.args(connect("127.0.0.1", port, &test.folder("client"), "i w:10 r:10 S"));
    let mut client = Process::start(&mut client, test.path("client.err"));
    client.line_after("waiting");
    // The pipe of the shell's fd 3 is tls2pcap's alone, so cat ends when that closes it.
    let script = format!(
        "{{ exec {TLS2PCAP} -q -o {} --ready-fd 3 -p {} 3>&1 >/dev/null; }} | {{ cat; echo closed; cat >/dev/null; }}",
        test.text("out.pcapng"),
        client.pid()
    );
    let mut shell = Process::start(Command::new("sh").args(["-c", &script]), test.path("sh.err"));
    assert_eq!(shell.line(), "ready");
    assert_eq!(shell.line(), "closed");
    client.go_on();
    client.wait_ok();
    server.wait_ok();
    // It was started by a shell: find it by its parent, and end it.
    let pid = until("tls2pcap", || find(&["-p", &client.pid().to_string()]));
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    shell.wait_ok();
}

/// The tls2pcap whose arguments hold these words one after the other.
fn find(words: &[&str]) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let args: Vec<&str> = std::str::from_utf8(&line).ok()?.split('\0').collect();
        (args[0] == TLS2PCAP && args.windows(words.len()).any(|w| w == words)).then_some(pid)
    })
}

#[test]
fn summary_names_the_counts() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/page.html");
    let words = ["curl", "-sS", "--http1.1", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    let finished = test.capture().run(&words).ok();
    let summary = finished.stderr.to_lowercase();
    for word in ["process", "connection", "byte", "packet", "lost"] {
        assert!(summary.contains(word), "no {word} in the summary:\n{}", finished.stderr);
    }
    assert!(!summary.contains('\r') && !summary.contains('\x1b'), "a status line, but stderr is no terminal");

    let quiet = test.capture().output(test.path("q.pcapng")).args(&["-q"]).run(&words).ok();
    assert_eq!(quiet.stderr, "", "-q says nothing when all is well");
}

#[test]
fn secrets_among_the_arguments_are_not_in_the_file() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/page.html");
    let secret = "correct-horse-battery-staple";
    let user = format!("someone:{secret}");
    // The server never hears of the password: it is only an argument.
    let words = ["curl", "-sS", "--cacert", &nginx.site.cert, "--proxy-user", &user, "-o", "/dev/null", &url];
    let holds = |file: &std::path::Path| {
        fs::read(file).unwrap().windows(secret.len()).any(|w| w == secret.as_bytes())
    };
    let finished = test.capture().run(&words).ok();
    assert!(!holds(&finished.file), "the command line stands in the file");
    let shown = test.capture().output(test.path("shown.pcapng")).args(&["--show-args"]).run(&words).ok();
    assert!(holds(&shown.file), "--show-args does not show them");
}

#[test]
fn each_back_end_that_this_kernel_has() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/page.html");
    let words = ["curl", "-sS", "--http2", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    let mut worked = 0;
    for backend in ["kprobe", "fentry", "tracepoint"] {
        let out = test.path(&format!("{backend}.pcapng"));
        let finished = test.capture().output(out).args(&["--backend", backend]).run(&words);
        if finished.status == 4 {
            finished.failed(4, &[backend]);
            gate::skipped(&format!("back end {backend}"), "this kernel lacks it", "T2P_REQUIRE_BACKENDS");
            continue;
        }
        let finished = finished.ok();
        worked += 1;
        let logged = nginx.site.logged(worked).pop().unwrap();
        for (view, _) in finished.views() {
            let connection = view.of(logged.client, logged.server);
            assert_eq!(connection.responses, [200], "{backend}");
            assert_eq!(connection.comment.get("tuple"), "same-call", "{backend}");
        }
    }
    assert!(worked > 0, "no back end works here");
}
