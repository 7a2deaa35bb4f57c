//! What is on disk: recordings, files that grow, files cut short, stdout.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::capture::{Capture, TLS2PCAP};
use crate::support::nginx::{Nginx, PAGE};
use crate::support::programs::{PYTHON, Told, source};
use crate::support::{Finished, Process, Test, assert_same_bytes, begin, copy_program, tshark, until};

/// setpriv's words for: as nobody, without any right.
pub const AS_NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
];

/// A copy of tls2pcap that any user may run.
pub fn public_copy(test: &Test) -> String {
    let copy = test.path("tls2pcap");
    copy_program(TLS2PCAP, &copy);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy.to_str().unwrap().to_string()
}

/// Captures and records a command, replays as nobody, and compares the two files.
fn replays_to_the_same(test: &Test, args: &[&str], words: &[&str]) {
    let record = test.text("r.t2p");
    let finished = test.capture().args(&["--record", &record]).args(args).run(words).ok();
    for file in [&record, finished.file.to_str().unwrap()] {
        let mode = fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file} holds secrets and is not private");
    }
    let room = test.folder("room");
    fs::set_permissions(&room, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&record, fs::Permissions::from_mode(0o644)).unwrap();
    let again = format!("{room}/b.pcapng");
    let replay = Command::new(AS_NOBODY[0])
        .args(&AS_NOBODY[1..])
        .args([&public_copy(test), "replay", &record, "-o", &again])
        .args(args)
        .output()
        .unwrap();
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    let (live, replayed) = (fs::read(&finished.file).unwrap(), fs::read(&again).unwrap());
    assert!(live.len() > 1000, "only {} bytes: nothing was captured", live.len());
    assert_same_bytes("the replayed file", &replayed, &live);
}

#[test]
fn recording_replays_to_the_same_bytes() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (cert, url) = (&nginx.site.cert, nginx.site.url("/big"));
    let script = format!(
        "curl -sS --http2 --cacert {cert} -o /dev/null {url} & curl -sS --http1.1 --cacert {cert} -o /dev/null {url}; wait"
    );
    replays_to_the_same(&test, &[], &["sh", "-c", &script]);
}

#[test]
fn recording_replays_to_the_same_bytes_with_ports_kept() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/page.html");
    let words = ["curl", "-sS", "--http1.1", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    replays_to_the_same(&test, &["--ports", "keep"], &words);
}

#[test]
fn ports_keep_leaves_the_true_port() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/page.html");
    let words = ["curl", "-sS", "--http1.1", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    let finished = test.capture().args(&["--ports", "keep"]).run(&words).ok();
    for (view, _) in finished.views() {
        assert_eq!(view.only().server, nginx.site.address);
    }
}

/// A capture of a keep-alive client whose first request is over, and which waits.
pub fn halfway(test: &Test, capture: Capture) -> (Nginx, Process, crate::support::capture::Running) {
    let nginx = Nginx::start(test);
    let port = nginx.site.address.port().to_string();
    let paths = ["/echo/before", "/page.html", "/echo/last"];
    let mut command = Command::new(PYTHON);
    command.arg(source("keepalive.py")).args(["http1", &port]).args(paths);
    let mut client = Process::start(&mut command, test.path("client.err"));
    Told::parse(&client.line()).unwrap();
    client.line_after("waiting");
    let running = capture.attach(&[client.pid()]);
    client.go_on();
    client.line_after("waiting");
    (nginx, client, running)
}

/// What the file of [`halfway`] must hold while the capture runs, or after it was killed.
pub fn sees_the_page(file: &Path) {
    for tshark in tshark::oracles() {
        until("the response to be readable in the growing file", || {
            (tshark.count_so_far(file, "http.response.code == 200") == 1).then_some(())
        });
        // Releases from 4.4 on show the URI of the request with its response, too.
        let asked = "http.request.method && http.request.uri == \"/page.html\"";
        assert_eq!(tshark.count_so_far(file, asked), 1, "tshark {}", tshark.version);
    }
}

#[test]
fn file_is_readable_while_it_grows() {
    let test = begin!();
    let (_nginx, mut client, running) = halfway(&test, test.capture());
    sees_the_page(&test.path("out.pcapng"));
    client.go_on();
    client.wait_ok();
    let finished = running.stop().ok();
    for (view, _) in finished.views() {
        assert_eq!(view.responses(), [200, 200]);
    }
}

#[test]
fn file_is_readable_after_kill_9() {
    let test = begin!();
    let (_nginx, mut client, mut running) = halfway(&test, test.capture());
    sees_the_page(&test.path("out.pcapng"));
    running.process.signal(Signal::SIGKILL);
    running.process.wait();
    sees_the_page(&test.path("out.pcapng"));
    // The captured program lives on.
    client.go_on();
    client.wait_ok();
}

#[test]
fn each_signal_that_ends_a_capture_ends_it_well() {
    let test = begin!();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let inner = Test::unprivileged(&test.name);
        let (_nginx, mut client, mut running) = halfway(&inner, inner.capture());
        running.process.signal(signal);
        running.process.wait_ok();
        client.go_on();
        client.wait_ok();
        let view = tshark::any().read(&inner.path("out.pcapng"));
        view.assert_clean("any");
        assert_eq!(view.responses(), [200], "signal {signal}");
    }
}

/// How many blocks a pcapng file has; fails where it is not one from the first byte to the last.
pub fn blocks(bytes: &[u8]) -> usize {
    let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        assert!(at + 12 <= bytes.len(), "stray bytes at the end");
        if at == 0 {
            assert_eq!(number(0), 0x0A0D_0D0A, "no section header: {:?}", &bytes[..bytes.len().min(80)]);
        }
        let length = number(at + 4);
        assert!(
            length >= 12 && length % 4 == 0 && at + length <= bytes.len(),
            "block {count} at {at}: {length}"
        );
        assert_eq!(number(at + length - 4), length, "block {count} at {at}");
        at += length;
        count += 1;
    }
    count
}

/// Even when the command itself prints.
#[test]
fn stdout_holds_only_the_capture() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let mut command = Command::new(TLS2PCAP);
    command.args(["-o", "-", "--", "curl", "-sS", "--http1.1", "--cacert", &nginx.site.cert]);
    let output = command.arg(nginx.site.url("/page.html")).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(blocks(&output.stdout) > 5);
    assert!(stderr.contains(PAGE), "what the command prints goes to stderr then: {stderr}");
    let file = test.path("stdout.pcapng");
    fs::write(&file, &output.stdout).unwrap();
    let view = tshark::any().read(&file);
    assert_eq!(view.responses(), [200]);
}

/// A reader that goes away, as `head` does, ends the capture without an outcry.
#[test]
fn reader_of_stdout_that_goes_away() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let script = format!(
        "{{ {TLS2PCAP} -q -o - -- curl -sS --http1.1 --cacert {} -o /dev/null {}; echo status $? >&2; }} | \
         head -c 100 | wc -c",
        nginx.site.cert,
        nginx.site.url("/big")
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "status 0\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100");
}

/// A capture of a client that has said nothing yet, and its server.
fn talking(test: &Test, args: &[&str]) -> (Nginx, Process, crate::support::capture::Running) {
    let nginx = Nginx::start(test);
    let port = nginx.site.address.port().to_string();
    let mut command = Command::new(PYTHON);
    command.arg(source("keepalive.py")).args(["http1", &port, "/echo/before", "/page.html", "/echo/last"]);
    let mut client = Process::start(&mut command, test.path("client.err"));
    Told::parse(&client.line()).unwrap();
    client.line_after("waiting");
    let running = test.capture().args(args).attach(&[client.pid()]);
    (nginx, client, running)
}

/// Does something to the capture file or the recording while it is written, and gives the end of the capture.
fn after(name: &str, recording: bool, act: impl FnOnce(&std::path::Path)) -> (Finished, Test) {
    let test = Test::unprivileged(name);
    let record = test.text("r.t2p");
    let (_nginx, mut client, running) = talking(&test, &["--record", &record]);
    let file = if recording { test.path("r.t2p") } else { test.path("out.pcapng") };
    client.go_on();
    client.line_after("waiting");
    until("the file to have something", || (fs::metadata(&file).ok()?.len() > 0).then_some(()));
    act(&file);
    client.go_on();
    client.wait_ok();
    (running.finish(), test)
}

#[test]
fn a_file_that_is_deleted_meanwhile_is_not_said_to_be_written() {
    let test = begin!();
    for recording in [false, true] {
        let (finished, _) = after(&test.name, recording, |file| fs::remove_file(file).unwrap());
        let name = if recording { "r.t2p" } else { "out.pcapng" };
        finished.failed(1, &[&format!("{name}: was deleted before it was complete")]);
        assert_eq!(finished.stderr.contains("nothing lost"), recording, "{}", finished.stderr);
        assert_eq!(finished.stderr.contains("out.pcapng\n"), recording, "{}", finished.stderr);
    }
}

/// As long as the capture runs, all can still be had, and that is said.
#[test]
fn who_deletes_a_file_is_told_where_it_can_be_had() {
    let test = begin!();
    let (_nginx, mut client, running) = talking(&test, &[]);
    fs::remove_file(test.path("out.pcapng")).unwrap();
    client.go_on();
    client.line_after("waiting");
    let place = until("the place to be told", || {
        let said = running.process.stderr();
        let (_, place) = said.split_once("its contents can be copied from ")?;
        Some(place.lines().next()?.to_owned())
    });
    for tshark in tshark::oracles() {
        until("the page to be there", || {
            fs::copy(&place, test.path("copy.pcapng")).unwrap();
            (tshark.count_so_far(&test.path("copy.pcapng"), "http.response.code == 200") == 1).then_some(())
        });
    }
    client.go_on();
    client.wait_ok();
    running.finish().failed(1, &["was deleted"]);
}

#[test]
fn a_file_that_is_renamed_meanwhile_is_found_again() {
    let test = begin!();
    let rename = |file: &std::path::Path| {
        fs::rename(file, file.with_file_name("elsewhere.pcapng")).unwrap();
        fs::write(file, "another file").unwrap();
    };
    let (finished, inner) = after(&test.name, false, rename);
    let finished = finished.ok();
    let now = inner.path("elsewhere.pcapng");
    assert!(finished.stderr.contains(&format!("\nwritten to {}\n", now.display())), "{}", finished.stderr);
    assert!(finished.stderr.contains("out.pcapng was renamed during the capture\n"), "{}", finished.stderr);
    assert_eq!(tshark::any().read(&now).responses(), [200, 200]);
    assert_eq!(fs::read(inner.path("out.pcapng")).unwrap(), b"another file");
}

#[test]
fn a_file_that_another_program_changes_meanwhile() {
    let test = begin!();
    for text in ["", "another program's"] {
        for recording in [false, true] {
            let (finished, _) = after(&test.name, recording, |file| fs::write(file, text).unwrap());
            finished.failed(1, &["another program has changed the file", "was changed by another program"]);
            assert!(!finished.stderr.contains("nothing lost"), "{}", finished.stderr);
            let says_so =
                finished.stderr.contains("lost: whatever another program overwrote or truncated in the file");
            assert_eq!(says_so, !recording, "{}", finished.stderr);
        }
    }
}
