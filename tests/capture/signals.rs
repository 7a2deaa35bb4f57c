//! How signals end a capture: however many there are, and whenever they come, nothing is lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::files::blocks;
use crate::support::capture::{Running, TLS2PCAP};
use crate::support::process::code;
use crate::support::programs::{Told, compiled, connect, exchange_server, transcript};
use crate::support::{Process, Test, assert_same_bytes, begin, tshark, until};

/// A client that has said all it has to say while it was captured, and keeps its connection.
struct Client {
    process: Process,
    told: Told,
    dir: String,
}

impl Client {
    const OPS: &str = "i w:300000 r:200000 i S";
    const SERVER_OPS: &str = "r:300000 w:200000 z";

    fn start(test: &Test, name: &str, port: u16) -> Client {
        let dir = test.folder(name);
        let mut command = Command::new(compiled("exchange"));
        command.args(connect("127.0.0.1", port, &dir, Client::OPS));
        let mut process = Process::start(&mut command, test.path(&format!("{name}.err")));
        let told = Told::parse(&process.line()).unwrap();
        process.line_after("waiting");
        Client { process, told, dir }
    }

    fn talk(&mut self) {
        self.process.go_on();
        self.process.line_after("waiting");
    }

    /// The file holds all that was said.
    fn assert_whole(&self, file: &Path, what: &str) {
        let truth = transcript(&self.dir, "client", 0);
        assert_eq!((truth.sent.len(), truth.received.len()), (300_000, 200_000));
        assert!(blocks(&fs::read(file).unwrap()) > 5, "{what}");
        let view = tshark::any().read(file);
        let connection = view.of(self.told.local, self.told.remote);
        assert_same_bytes(what, &connection.sent_by_client, &truth.sent);
        assert_same_bytes(what, &connection.sent_by_server, &truth.received);
    }

    fn end(mut self) {
        self.process.go_on();
        self.process.wait_ok();
    }
}

/// The distance between two signals, or from the start to the first, is what is tested: it is no wait for anything.
fn apart(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

fn send(running: &Running, signal: Signal) {
    // It may have ended before the second comes.
    let _ = kill(Pid::from_raw(running.process.pid() as i32), signal);
}

#[test]
fn a_second_signal_within_a_moment_costs_nothing() {
    use Signal::{SIGHUP, SIGINT, SIGTERM};
    let test = begin!();
    let runs = [
        (0, SIGTERM, SIGTERM),
        (1, SIGTERM, SIGTERM),
        (2, SIGINT, SIGINT),
        (4, SIGTERM, SIGTERM),
        (6, SIGINT, SIGTERM),
        (8, SIGTERM, SIGTERM),
        (11, SIGHUP, SIGTERM),
        (15, SIGTERM, SIGTERM),
        (20, SIGINT, SIGINT),
        (25, SIGTERM, SIGHUP),
        (30, SIGTERM, SIGTERM),
    ];
    let (_server, port) = exchange_server(&test, &format!("--times {} {}", runs.len(), Client::SERVER_OPS));
    for (ms, first, second) in runs {
        let what = format!("{second} {ms} ms after {first}");
        let mut client = Client::start(&test, &format!("client{ms}"), port);
        let _ = fs::remove_file(test.path("ready"));
        let running = test.capture().output(test.path(&format!("{ms}.pcapng"))).attach(&[client.told.pid]);
        client.talk();
        send(&running, first);
        apart(ms);
        send(&running, second);
        let finished = running.finish();
        assert_eq!(finished.status, 0, "{what}: {}", finished.stderr);
        assert!(finished.stderr.contains("\nnothing lost\n"), "{what}: {}", finished.stderr);
        client.assert_whole(&finished.file, &what);
        client.end();
    }
}

/// `timeout` signals its child, and then the process group, of which that is a member.
#[test]
fn timeout_ends_a_capture_well() {
    let test = begin!();
    const RUNS: usize = 5;
    let (_server, port) = exchange_server(&test, &format!("--times {RUNS} {}", Client::SERVER_OPS));
    for run in 0..RUNS {
        let mut client = Client::start(&test, &format!("client{run}"), port);
        let (file, ready) = (test.path(&format!("{run}.pcapng")), test.path(&format!("ready{run}")));
        let mut command = Command::new("timeout");
        command.args(["-k", "50", "1000", TLS2PCAP, "-p", &client.told.pid.to_string()]);
        command.arg("-o").arg(&file).arg("--ready-file").arg(&ready);
        let mut timeout = Process::start(&mut command, test.path("timeout.err"));
        until("tls2pcap to be ready", || {
            assert!(timeout.ended().is_none(), "{}", timeout.stderr());
            ready.exists().then_some(())
        });
        client.talk();
        timeout.signal(Signal::SIGTERM);
        let status = timeout.wait();
        assert!(status.success(), "{status}: {}", timeout.stderr());
        assert!(timeout.stderr().contains("\nnothing lost\n"), "{}", timeout.stderr());
        client.assert_whole(&file, "ended by timeout");
        client.end();
    }
}

/// It may count them, as a server does that is impatient at the second.
#[test]
fn a_command_gets_a_signal_once() {
    let test = begin!();
    let script = "trap 'echo term' TERM; trap 'echo hup; exit 7' HUP; echo up; while :; do sleep 0.01; done";
    let mut running = test.capture().start(&["sh", "-c", script]);
    running.process.line_after("up");
    send(&running, Signal::SIGTERM);
    assert_eq!(running.process.line(), "term");
    send(&running, Signal::SIGTERM);
    apart(30);
    send(&running, Signal::SIGHUP);
    assert_eq!(running.process.line(), "hup");
    let finished = running.finish();
    assert_eq!((finished.status, finished.text().as_str()), (7, ""), "{}", finished.stderr);
}

/// And the command does not hear of it.
#[test]
fn the_numbers_so_far_are_printed_when_they_are_asked_for() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 i r:5 S");
    let dir = test.folder("client");
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, "w:5 r:40 i w:5 S")].concat();
    let mut running = test.capture().start(&words);
    running.process.line_after("waiting");
    until("both messages to be counted", || {
        send(&running, Signal::SIGUSR1);
        let said = running.process.stderr();
        let line = said.lines().rfind(|line| line.starts_with("tls2pcap: so far: "))?;
        line.contains("1 process, 1 connection, 45 bytes of plaintext").then_some(())
    });
    assert!(running.process.stderr().contains("nothing lost so far"), "{}", running.process.stderr());
    server.go_on();
    running.process.go_on();
    let finished = running.finish().ok();
    server.wait_ok();
    assert!(finished.stderr.contains("50 bytes of plaintext"), "{}", finished.stderr);
}

/// Whenever the signal comes, the command does not outlive it, and what stands in the file is whole.
#[test]
fn a_signal_while_the_capture_is_set_up() {
    let test = begin!();
    for ms in (0..400).step_by(40) {
        let file = test.path(&format!("{ms}.pcapng"));
        let pid = test.text(&format!("{ms}.pid"));
        let mut running =
            test.capture().output(&file).start(&["sh", "-c", "echo $$ >$0; exec sleep 1000", &pid]);
        apart(ms);
        send(&running, Signal::SIGTERM);
        let status = code(running.process.wait());
        assert_eq!(status, 128 + Signal::SIGTERM as i32, "after {ms} ms: {}", running.process.stderr());
        if file.exists() {
            assert!(blocks(&fs::read(&file).unwrap()) > 0, "after {ms} ms");
            assert!(running.process.stderr().contains("written to"), "{}", running.process.stderr());
        }
        if let Some(pid) = fs::read_to_string(&pid).ok().and_then(|pid| pid.trim().parse().ok()) {
            until("the command to end", || kill(Pid::from_raw(pid), None).is_err().then_some(()));
        }
    }
}

/// The recording goes to somebody who does not read it, so that the end waits.
#[test]
fn a_later_signal_hastens_an_end_that_is_whole_all_the_same() {
    let test = begin!();
    let (_server, port) = exchange_server(&test, Client::SERVER_OPS);
    let mut client = Client::start(&test, "client", port);
    let fifo = test.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let reader = {
        let fifo = fifo.clone();
        thread::spawn(move || fs::File::open(fifo).unwrap())
    };
    let mut running = test.capture().args(&["--record", fifo.to_str().unwrap()]).attach(&[client.told.pid]);
    let _reader = reader.join().unwrap();
    client.talk();
    let began = Instant::now();
    let status = until("the capture to be given up", || {
        send(&running, Signal::SIGINT);
        running.process.ended()
    });
    let said = running.process.stderr();
    assert_eq!(code(status), 128 + Signal::SIGINT as i32, "{said}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}: {said}", began.elapsed());
    assert!(said.contains("\nlost: the end of the capture, skipped after a second signal"), "{said}");
    assert!(said.contains("\nwritten to ") && !said.contains("nothing lost"), "{said}");
    assert!(blocks(&fs::read(test.path("out.pcapng")).unwrap()) > 0);
    client.end();
}

/// As nohup does it.
#[test]
fn an_ignored_hangup_stays_ignored() {
    let test = begin!();
    let (_server, port) = exchange_server(&test, Client::SERVER_OPS);
    let mut client = Client::start(&test, "client", port);
    let (file, ready) = (test.path("out.pcapng"), test.path("ready"));
    let script = format!(
        "trap '' HUP; exec {TLS2PCAP} -o {} --ready-file {} -p {}",
        file.display(),
        ready.display(),
        client.told.pid
    );
    let mut capture = Process::start(Command::new("sh").args(["-c", &script]), test.path("capture.err"));
    until("tls2pcap to be ready", || ready.exists().then_some(()));
    capture.signal(Signal::SIGHUP);
    client.talk();
    capture.signal(Signal::SIGTERM);
    capture.wait_ok();
    client.assert_whole(&file, "after a hangup");
    client.end();
}
