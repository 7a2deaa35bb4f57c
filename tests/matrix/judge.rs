//! What a guest brought back with one back end, against what its programs really moved.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::guest::{BIG, MEGA};
use crate::support::capture::TLS2PCAP;
use crate::support::nginx::{Logged, PAGE, big_file};
use crate::support::programs::{Told, Transcript, transcript};
use crate::support::tshark::{self, Tshark};
use crate::support::view::{Connection, FIELDS, From, Packet, View, unhex};
use crate::support::{Finished, Test, assert_same_bytes, gate, run};

/// Answers that the program `duplex` awaits.
const DUPLEX: usize = 1000;
/// Connections of the program `exchange` in the command's capture that have no gap of unknown length.
const OTHERS: usize = 7;

/// Judges all captures of backends.sh with one back end; `dir` is what it left. With the `first` one
/// there are more.
pub fn backend(test: &Test, dir: &Path, backend: &str, first: bool) {
    let text = fs::read_to_string(dir.join("access.log")).unwrap();
    let log: Vec<Logged> = text.lines().map(logged).collect();
    assert_eq!(log[0].uri, "/echo/before");
    let is_old = gate::cached_tool("openssl-1.1.1").is_some();
    // Captures follow each other, and so do their requests in the log.
    let mut rest = &log[1..];
    let mut next = |count: usize| {
        let (now, then) =
            rest.split_at_checked(count).unwrap_or_else(|| panic!("requests are missing in {text}"));
        rest = then;
        now
    };
    let (of_system, of_command) = (next(22), next(2 + usize::from(is_old)));
    let (of_pid, of_user) = if first { (next(2), next(3)) } else { (next(0), next(0)) };
    assert!(rest.is_empty(), "{rest:?}");

    let names = ["system", "command", "pid", "user"];
    for name in if first { &names[..] } else { &names[..2] } {
        let finished = finished(dir, name, backend);
        replays(test, dir, name, &finished);
        // The command's last connection has a gap of unknown length.
        let filter = match *name {
            "command" => format!("tcp.stream < {}", of_command.len() + OTHERS),
            _ => String::new(),
        };
        for tshark in tshark::oracles() {
            let mut view = View::new(tshark.fields(&finished.file, &filter, FIELDS));
            view.packets.iter_mut().for_each(permit_reset);
            view.assert_clean(&tshark.version);
            let of = Judged { dir, finished: &finished, view: &view, tshark, test };
            match *name {
                "system" => of.system(of_system),
                "command" => of.command(of_command),
                "pid" => of.pid(of_pid),
                _ => of.user(of_user),
            }
        }
    }
}

/// Who is not captured has the code that it has without a capture; a target has breakpoints in it.
#[track_caller]
pub fn bystanders(dir: &Path, first: bool) {
    let code = |of: &str| fs::read_to_string(dir.join(format!("code.{of}"))).unwrap();
    let unprobed = code("unprobed");
    assert_eq!(unprobed.len(), "  -\n".len() + 64, "{unprobed}");
    assert_eq!(code("beside-command"), unprobed, "beside a command");
    if first {
        assert_eq!(code("beside-pid"), unprobed, "beside a process of -p");
        assert_ne!(code("of-pid"), unprobed, "a process of -p");
    }
}

/// A capture that came back: it ended well, and its sockets were followed as was asked.
#[track_caller]
pub fn finished(dir: &Path, name: &str, backend: &str) -> Finished {
    let text = |kind: &str| fs::read_to_string(dir.join(format!("{name}.{kind}"))).unwrap();
    let finished = Finished {
        status: text("status").trim().parse().unwrap(),
        stdout: text("out").into_bytes(),
        stderr: text("err"),
        file: dir.join(format!("{name}.pcapng")),
    };
    let finished = finished.ok();
    let said = format!("sockets are followed by {backend};");
    assert!(finished.stderr.contains(&said), "{}", finished.stderr);
    finished
}

/// The recording gives, here, the same bytes as it did in the guest.
#[track_caller]
pub fn replays(test: &Test, dir: &Path, name: &str, finished: &Finished) {
    let again = test.path("again.pcapng");
    run(Command::new(TLS2PCAP).arg("replay").arg(dir.join(format!("{name}.t2p"))).arg("-o").arg(&again));
    let (live, replayed) = (fs::read(&finished.file).unwrap(), fs::read(&again).unwrap());
    assert_same_bytes(&format!("{name}, replayed"), &replayed, &live);
}

/// A peer may close before it has read all, and then the kernel does reset.
fn permit_reset(packet: &mut Packet) {
    let harmless = |c: &str| c.contains("(RST)") || c.starts_with("tls2pcap=");
    packet.complaints.retain(|c| !harmless(c));
}

/// A line of nginx's log.
fn logged(line: &str) -> Logged {
    let words: Vec<&str> = line.split(' ').collect();
    let [ip, port, server_ip, server_port, protocol, uri, status] = words[..] else {
        panic!("nginx logged {line:?}");
    };
    let address = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
    Logged {
        client: address(ip, port),
        server: address(server_ip, server_port),
        protocol: protocol.into(),
        uri: uri.into(),
        status: status.parse().unwrap(),
    }
}

/// The body that nginx sent for a request.
fn body(request: &Logged) -> Vec<u8> {
    match request.uri.as_str() {
        "/page.html" => PAGE.into(),
        "/mega" => fs::read(big_file()).unwrap()[..MEGA].into(),
        "/big" => fs::read(big_file()).unwrap()[..BIG].into(),
        uri => format!("you asked for {uri} from port {}\n", request.client.port()).into_bytes(),
    }
}

/// One capture as one tshark sees it.
struct Judged<'a> {
    dir: &'a Path,
    finished: &'a Finished,
    view: &'a View,
    tshark: &'a Tshark,
    test: &'a Test,
}

impl Judged<'_> {
    /// Every program; both ends of each connection are captured, and one view is written.
    #[track_caller]
    fn system(&self, log: &[Logged]) {
        self.nothing_lost();
        self.http(log, Vec::new());
        let kept = self.of(&log[0]);
        assert_eq!(kept.requests.len(), 1, "the connection opened before the capture: {:?}", kept.requests);

        let told = self.told("duplex");
        let duplex = self.between(told.local, told.remote)[0];
        self.holds(duplex, &transcript(&self.text("duplex"), "client", 0));
        let (mut asked, mut answered, mut early) = (Lines::default(), Lines::default(), 0);
        for (from, len) in &duplex.turns {
            match from {
                From::Client => asked.advance(&duplex.sent_by_client, *len),
                From::Server => answered.advance(&duplex.sent_by_server, *len),
            }
            early += usize::from(answered.seen > asked.seen);
        }
        assert_eq!((asked.seen, answered.seen, early), (DUPLEX, DUPLEX, 0), "answers before their requests");

        let told = self.told("netns0");
        let twins = self.between(told.local, told.remote);
        assert_eq!(twins.len(), 2, "two namespaces used {} at once", told.local);
        assert_ne!(twins[0].written, twins[1].written);
        assert_ne!(twins[0].comment.get("netns"), twins[1].comment.get("netns"));
        for n in 0..2 {
            let truth = transcript(&self.text(&format!("netns{n}")), "client", 0);
            let twin = twins.iter().find(|c| c.sent_by_client.len() == truth.sent.len());
            self.holds(twin.unwrap_or_else(|| panic!("no twin of {} bytes", truth.sent.len())), &truth);
        }
    }

    /// A command and its children.
    #[track_caller]
    fn command(&self, log: &[Logged]) {
        // A write is cut short by a signal; a long call may be cut at the limit of the kernel.
        self.lost_only(&["the return was not seen", "longer than the longest call"]);
        self.http(log, Vec::new());
        if let Some(old) = log.get(2) {
            // Without attach cookies (before 5.15) the kernel side cannot tell the library.
            let library = self.of(old).comment.find("library");
            assert!(library.is_none_or(|l| l.contains("1.1.1")), "{library:?}");
        }
        for name in ["lengths", "seccomp", "killed", "first", "second", "multipath"] {
            let told = self.told(name);
            let connection = self.view.of(told.local, told.remote);
            self.holds(connection, &transcript(&self.text(name), "client", 0));
            assert_eq!(connection.comment.number("fd"), u64::from(told.fd), "{name}");
            assert_eq!(connection.comment.number("pid"), u64::from(told.pid), "{name}");
            assert_eq!(connection.comment.get("tuple"), "same-call", "{name}");
        }
        self.long();

        assert_eq!(self.view.connections.len(), log.len() + OTHERS);
        self.stuck(&format!("tcp.stream == {}", self.view.connections.len()));
    }

    /// A process that was killed inside a write: what came before, and a gap of unknown length.
    #[track_caller]
    fn stuck(&self, filter: &str) {
        let truth = transcript(&self.text("stuck"), "client", 0);
        let told = self.told("stuck");
        let rows =
            self.tshark.fields(&self.finished.file, filter, &["tcp.srcport", "tcp.payload", "frame.comment"]);
        let from = |port: u16| -> Vec<u8> {
            rows.iter().filter(|r| r[0] == port.to_string()).flat_map(|r| unhex(&r[1])).collect()
        };
        assert_same_bytes("what was written before", &from(told.local.port()), &truth.sent);
        assert_same_bytes("what was read before", &from(told.remote.port()), &truth.received);
        let labelled = |r: &&Vec<String>| r[2].contains("missing=unknown reason=unfinished-call");
        assert_eq!(rows.iter().filter(labelled).count(), 1, "{rows:?}");
    }

    /// A call of three million bytes: whole, or a prefix of 1 MiB at least and a labelled gap of
    /// exact length.
    #[track_caller]
    fn long(&self) {
        let told = self.told("long");
        let connection = self.view.of(told.local, told.remote);
        let truth = transcript(&self.text("long"), "client", 0);
        let sent = &connection.sent_by_client;
        if sent.len() < truth.sent.len() {
            let first = sent.len() - 10;
            assert!(first >= 1 << 20, "only {first} bytes of the call were kept");
            assert_same_bytes("beginning", &sent[..first], &truth.sent[..first]);
            assert_same_bytes("end", &sent[first..], &truth.sent[3_000_000..]);
            let length: usize = connection.turns.iter().filter(|t| t.0 == From::Client).map(|t| t.1).sum();
            assert_eq!(length, truth.sent.len(), "the gap has its exact length");
            let gap =
                self.tshark.fields(&self.finished.file, "frame.cap_len < frame.len", &["frame.comment"]);
            assert!(gap.iter().any(|row| row[0].contains("call-limit")), "{gap:?}");
        } else {
            assert_same_bytes("client", sent, &truth.sent);
        }
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
    }

    /// nginx's worker, and `openssl s_server -www`, whose calls go through BIO_f_ssl.
    #[track_caller]
    fn pid(&self, log: &[Logged]) {
        self.nothing_lost();
        self.http(log, vec![fs::read(self.dir.join("s_server.body")).unwrap()]);
        for request in log {
            let comment = &self.of(request).comment;
            assert_eq!((comment.local(), comment.get("comm")), (request.server, "nginx"));
        }
        let s_server = self.view.connections.iter().find(|c| c.comment.get("comm") == "openssl");
        let s_server = s_server.expect("a connection of s_server");
        assert_eq!((s_server.comment.local().port(), &s_server.responses[..]), (4433, &[200][..]));
        assert_eq!(self.view.connections.len(), 3);
    }

    /// One user's programs; the same programs of root, before and after, are not captured.
    #[track_caller]
    fn user(&self, log: &[Logged]) {
        self.nothing_lost();
        self.http(&log[1..2], Vec::new());
        assert_eq!(log[1].uri, "/echo/user");
        assert_eq!(self.view.connections.len(), 4);
        assert!(self.view.connections.iter().all(|c| c.comment.number("uid") == 1000));

        // A program never seen before is whole, and so is the second of a library. What the first one of it says
        // before the library is probed may be missing, and nothing says that it were there.
        for name in ["brief", "new", "again"] {
            let (told, truth) = (self.told(name), transcript(&self.text(name), "client", 0));
            let connection = self.view.of(told.local, told.remote);
            let from_start = connection.comment.number("from_start");
            if name == "new" && connection.sent_by_client.len() < truth.sent.len() {
                assert_same_bytes("what was written later", &connection.sent_by_client, &truth.sent[50..]);
                assert_same_bytes("what was read", &connection.sent_by_server, &truth.received);
                assert_eq!(from_start, 0);
            } else {
                self.holds(connection, &truth);
                assert!(from_start == 1 || name == "new", "{name}");
            }
            assert_eq!(connection.comment.get("tuple"), "same-call", "{name}");
            let library = connection.comment.find("library");
            let is_new = library.is_none_or(|l| l.starts_with("/opt/new/") == (name != "brief"));
            assert!(is_new, "{name}: {library:?}");
        }
    }

    /// Each request that nginx logged stands on the connection that nginx logged, with one answer;
    /// the exported objects are the bodies that nginx sent, and `more`.
    #[track_caller]
    fn http(&self, log: &[Logged], more: Vec<Vec<u8>>) {
        let version = &self.tshark.version;
        let count = log.len() + more.len();
        assert_eq!(
            self.view.requests().len(),
            count,
            "requests, says tshark {version}: {:?}",
            self.view.requests()
        );
        assert_eq!(self.view.responses(), vec![200; count], "responses, says tshark {version}");
        for request in log {
            assert_eq!(request.status, 200);
            let connection = self.of(request);
            let asked = ("GET".to_string(), request.uri.clone());
            assert!(connection.requests.contains(&asked), "{request:?}: {:?}", connection.requests);
            assert_eq!(connection.requests.len(), connection.responses.len(), "{request:?}");
            assert_eq!(connection.client, request.client, "the client's written address");
            let comm = connection.comment.get("comm");
            assert_eq!(connection.interface, format!("{comm}[{}]", connection.comment.number("pid")));
        }
        let mut expected: Vec<Vec<u8>> = log.iter().map(body).chain(more).collect();
        expected.sort();
        let name = format!("objects-{}", self.finished.file.file_stem().unwrap().to_str().unwrap());
        let folder = self.test.path(&name);
        let objects = self.tshark.objects(&self.finished.file, &folder);
        fs::remove_dir_all(folder.with_extension(version)).ok();
        assert_eq!(objects.len(), expected.len(), "objects exported by tshark {version}");
        for (object, expected) in objects.iter().zip(&expected) {
            assert_same_bytes(&format!("an object exported by tshark {version}"), object, expected);
        }
    }

    /// The connection of a request that nginx logged, whichever end is written.
    #[track_caller]
    fn of(&self, request: &Logged) -> &Connection {
        let found = self.between(request.client, request.server);
        assert_eq!(found.len(), 1, "connections of {request:?}");
        found[0]
    }

    /// The connections between two addresses, whichever end is written.
    #[track_caller]
    fn between(&self, a: SocketAddr, b: SocketAddr) -> Vec<&Connection> {
        let ends = |c: &&Connection| {
            let (local, remote) = (c.comment.local(), c.comment.remote());
            (local, remote) == (a, b) || (local, remote) == (b, a)
        };
        let found: Vec<&Connection> = self.view.connections.iter().filter(ends).collect();
        assert!(!found.is_empty(), "no connection between {a} and {b}");
        found
    }

    #[track_caller]
    fn holds(&self, connection: &Connection, truth: &Transcript) {
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
    }

    /// What a client of the test programs said of its connection.
    #[track_caller]
    fn told(&self, name: &str) -> Told {
        let text = fs::read_to_string(self.dir.join(name).join("told")).unwrap();
        Told::all(&text).pop().unwrap_or_else(|| panic!("{name} said {text:?}"))
    }

    fn text(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_string()
    }

    #[track_caller]
    fn nothing_lost(&self) {
        self.lost_only(&[]);
    }

    /// Nothing is lost but for these reasons.
    #[track_caller]
    fn lost_only(&self, reasons: &[&str]) {
        // A preemptible kernel skips runs of programs that another task is in; which, it does not say.
        let is_told = |line: &str| line.contains("probe run") || reasons.iter().any(|r| line.contains(r));
        let lost = self.finished.stderr.lines().filter(|l| l.starts_with("lost:") && !is_told(l));
        assert_eq!(lost.count(), 0, "{}", self.finished.stderr);
    }
}

/// Counts the lines of a stream that goes by.
#[derive(Default)]
struct Lines {
    at: usize,
    seen: usize,
}

impl Lines {
    fn advance(&mut self, stream: &[u8], len: usize) {
        self.seen += stream[self.at..self.at + len].iter().filter(|b| **b == b'\n').count();
        self.at += len;
    }
}
