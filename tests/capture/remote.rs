//! Captures that Wireshark reads from elsewhere: through ssh, and over TCP.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::lives::waiting_client;
use crate::support::capture::TLS2PCAP;
use crate::support::nginx::Nginx;
use crate::support::process::{children, code};
use crate::support::programs::{exchange_server, transcript};
use crate::support::{Process, assert_same_bytes, begin, gate, run, tshark, until};

const SSHD: &str = "/usr/sbin/sshd";

/// What docs/wireshark.md says for another host, with a sshd of the test's own.
#[test]
fn through_ssh() {
    let test = begin!();
    if !Path::new(SSHD).exists() || Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
        return gate::skipped(&test.name, "there is no sshd (openssh-server) or no ssh", "T2P_REQUIRE_TOOLS");
    }
    let nginx = Nginx::start(&test);
    let folder = test.folder("ssh");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    for key in ["host", "user"] {
        run(Command::new("ssh-keygen").args([
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            &format!("{folder}/{key}"),
        ]));
    }
    fs::copy(format!("{folder}/user.pub"), format!("{folder}/authorized")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("{folder}/config");
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    );
    fs::write(&config, text).unwrap();
    // Where sshd's monitor leaves its child without rights; Debian's service makes it.
    fs::create_dir_all("/run/sshd").unwrap();
    let mut sshd =
        Process::start(Command::new(SSHD).args(["-D", "-e", "-f", &config]), test.path("sshd.err"));
    until("sshd to listen", || {
        assert!(sshd.ended().is_none(), "{}", sshd.stderr());
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let url = nginx.site.url("/page.html");
    let remote =
        format!("{TLS2PCAP} -q -o - -- curl -sS --http1.1 --cacert {} -o /dev/null {url}", nginx.site.cert);
    let ssh = format!(
        "ssh -F none -p {port} -i {folder}/user -o IdentitiesOnly=yes -o BatchMode=yes \
         -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={folder}/known 127.0.0.1 '{remote}'"
    );
    for tshark in tshark::oracles() {
        let file = test.text("remote.pcapng");
        let script = format!("{ssh} | {} -q -i - -w {file}", tshark.path().display());
        run(Command::new("sh").args(["-c", &script]).env("HOME", &folder).stdin(Stdio::null()));
        let requests =
            tshark.fields(Path::new(&file), "http.request", &["http.request.uri", "frame.interface_name"]);
        assert_eq!(requests.len(), 1, "{}", tshark.version);
        assert!(requests[0][1].starts_with("curl["), "{requests:?}");
        fs::remove_file(&file).unwrap();
    }
}

/// The address that tls2pcap says it serves at.
fn address(capture: &Process) -> String {
    until("tls2pcap to listen", || {
        let said = capture.stderr();
        let (_, rest) = said.split_once("TCP@")?;
        rest.split([';', '\n']).next().filter(|_| rest.contains('\n')).map(str::to_owned)
    })
}

fn curl(nginx: &Nginx) -> Vec<String> {
    let url = nginx.site.url("/page.html");
    ["curl", "-sS", "--http1.1", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url]
        .map(str::to_owned)
        .into()
}

/// Nothing begins before the first client is there, so it gets everything.
#[test]
fn served_over_tcp_to_the_client_that_it_waits_for() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    for tshark in tshark::oracles() {
        let mut command = Command::new(TLS2PCAP);
        command.args(["--pcap-over-ip", "0", "--"]).args(curl(&nginx));
        let mut capture = Process::start(&mut command, test.path("tls2pcap.err"));
        let at = address(&capture);
        assert!(at.starts_with("127.0.0.1:"), "{at}");
        assert_eq!(children(capture.pid()), [0; 0], "the command runs before anybody sees it");
        let file = test.text("tcp.pcapng");
        run(Command::new(tshark.path()).args(["-q", "-i", &format!("TCP@{at}"), "-w", &file]));
        capture.wait_ok();
        let shown = tshark.fields(Path::new(&file), "http", &["http.request.uri", "http.response.code"]);
        assert_eq!(shown.len(), 2, "{}", tshark.version);
        fs::remove_file(&file).unwrap();
    }
}

/// Before anybody is connected, and after.
#[test]
fn the_end_of_the_process_ends_what_is_served() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "--times 2 r:10 w:20 S");
    for is_seen in [false, true] {
        let (mut client, told) = waiting_client(&test, &format!("client-{is_seen}"), port);
        let ready = test.path("ready");
        let mut command = Command::new(TLS2PCAP);
        command
            .args(["--pcap-over-ip", "127.0.0.1:0", "-p", &told.pid.to_string(), "--ready-file"])
            .arg(&ready);
        let mut capture = Process::start(&mut command, test.path("tls2pcap.err"));
        let at = address(&capture);
        if !is_seen {
            client.go_on();
            client.wait_ok();
            assert_eq!(code(capture.wait()), 5);
            let why = format!("process {} has ended before the capture began", told.pid);
            assert!(capture.stderr().contains(&why), "{}", capture.stderr());
            continue;
        }
        let mut stream = TcpStream::connect(&at).unwrap();
        until("the capture to begin", || ready.exists().then_some(()));
        client.go_on();
        let mut served = Vec::new();
        stream.read_to_end(&mut served).unwrap();
        capture.wait_ok();
        client.wait_ok();
        let file = test.path("served.pcapng");
        fs::write(&file, served).unwrap();
        let truth = transcript(&test.text(&format!("client-{is_seen}")), "client", 0);
        for tshark in tshark::oracles() {
            let view = tshark.read(&file);
            let connection = view.only();
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
    }
    server.wait_ok();
}

/// Beside a file, clients come and go; one that does not read holds nobody up.
#[test]
fn served_over_tcp_beside_a_file() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let running = test.capture().args(&["--pcap-over-ip", "127.0.0.1:0"]).attach(&[nginx.worker()]);
    let at = address(&running.process);
    let ask = || drop(run(Command::new("curl").args(&curl(&nginx)[1..])));
    ask();
    until("the first request to be written", || {
        (tshark::any().count_so_far(&test.path("out.pcapng"), "http") == 2).then_some(())
    });
    let idle = TcpStream::connect(&at).unwrap();
    let mut late = TcpStream::connect(&at).unwrap();
    until("both clients to be welcome", || {
        (running.process.stderr().matches(" is connected").count() == 2).then_some(())
    });
    ask();
    until("the second request to be written", || {
        (tshark::any().count_so_far(&test.path("out.pcapng"), "http") == 4).then_some(())
    });
    running.process.signal(Signal::SIGINT);
    let mut served = Vec::new();
    late.read_to_end(&mut served).unwrap();
    let finished = running.finish().ok();
    drop(idle);
    let file = test.path("served.pcapng");
    fs::write(&file, served).unwrap();
    for tshark in tshark::oracles() {
        let number = |file: &Path| {
            let rows = tshark.fields(file, "http.request", &["tcp.srcport"]);
            rows.into_iter().map(|mut row| row.remove(0)).collect::<Vec<_>>()
        };
        let all = number(&finished.file);
        assert_eq!((all.len(), number(&file)), (2, all[1..].to_vec()), "{}", tshark.version);
        let whole = tshark.fields(&file, "frame.number == 1 && tcp.flags.syn == 1", &["frame.comment"]);
        assert_eq!(whole.len(), 1, "the connection that began later is there from its SYN on");
    }
}

/// Whoever is too slow is sent away. If nobody else has the capture, that is a loss.
#[test]
fn what_the_only_client_was_too_slow_for_is_lost_unless_it_is_in_a_file() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let url = nginx.site.url("/big");
    // So slow that the writer keeps up.
    let curl = format!(
        "for i in 1 2 3 4; do curl -sS --limit-rate 30M --http1.1 --cacert {} -o /dev/null {url} || exit 9; done",
        nginx.site.cert
    );
    let file = test.text("out.pcapng");
    for output in [&[][..], &["-o", &file]] {
        let mut command = Command::new(TLS2PCAP);
        command.args(["--fail-on-loss", "--pcap-over-ip", "0"]).args(output).args(["--", "sh", "-c"]);
        let mut capture = Process::start(command.arg(format!("read go; {curl}")), test.path("tls2pcap.err"));
        let client = TcpStream::connect(address(&capture)).unwrap();
        until("the client to be welcome", || capture.stderr().contains(" is connected").then_some(()));
        capture.go_on();
        let (status, said) = (code(capture.wait()), capture.stderr());
        drop(client);
        assert!(said.contains("too slow, disconnected"), "{said}");
        let lost = said.lines().find_map(|line| line.strip_suffix(" or capture less with -p, -u or -s)"));
        if output.is_empty() {
            let told = lost.and_then(|line| line.strip_prefix("lost: "));
            let why = " packets: no client was fast enough for them (write to a file too, with -o,";
            let count = told.and_then(|line| line.strip_suffix(why)).expect(&said);
            assert!(count.replace(',', "").parse::<u64>().unwrap() > 500, "{said}");
            assert_eq!((status, said.contains("nothing lost")), (6, false), "{said}");
        } else {
            assert_eq!((status, lost, said.contains("nothing lost")), (0, None, true), "{said}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_said_and_so_is_an_open_door() {
    let test = begin!();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let marker = test.path("the-command-ran");
    let finished = test.capture().args(&["--pcap-over-ip", &port]).run(&["touch", marker.to_str().unwrap()]);
    finished.failed(1, &["cannot listen"]);
    assert!(!marker.exists());
    let open = test.capture().args(&["--pcap-over-ip", "0.0.0.0:0"]).run(&["true"]).ok();
    assert!(open.stderr.contains("no encryption and no password"), "{}", open.stderr);
}
