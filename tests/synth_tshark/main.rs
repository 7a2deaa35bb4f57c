//! Segments through synth and sink into a file; then what stock Wireshark says of it.
//!
//! The judges are `tshark-4.0`, `-4.4` and `-4.6` in `$T2P_CACHE/bin` (`tests/.cache/bin`), and the
//! system's `tshark`, if it is of another release. One that is absent is named as skipped; with
//! `T2P_REQUIRE_ORACLES=1`, or if none is there, that is a failure.

mod export;
#[allow(dead_code)]
#[path = "../capture/support/gate.rs"]
mod gate;
mod link;
mod long;
mod matrix;
mod merge;
mod pieces;
mod ports;
mod resync;
mod times;
mod tls;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tls2pcap::event::{HandleKey, Missing, ProcessKey, TupleSource};
use tls2pcap::sink::pcapng::Statistics;
use tls2pcap::sink::{Format, Header, OutputFile, PcapngWriter};
use tls2pcap::synth::{Carrier, DATA_PORT, HOLD_TIME, Ports, Synthesizer};
use tls2pcap::track::segment::{
    Connection, ConnectionId, Payload, Process, RoleSource, Segment, SegmentBody, Side, Tuple,
};

use Side::{Client, Server};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The tsharks that there are.
fn judges() -> Vec<PathBuf> {
    static SYSTEM: OnceLock<Option<String>> = OnceLock::new();
    let fetched = gate::tsharks();
    let system = SYSTEM.get_or_init(gate::system_tshark);
    let is_new = system.as_ref().is_some_and(|system| fetched.iter().all(|(release, _)| release != system));
    fetched.iter().map(|(_, path)| path.clone()).chain(is_new.then(|| "tshark".into())).collect()
}

fn skipped(what: &str, why: &str) {
    gate::skipped(what, why, "T2P_REQUIRE_ORACLES");
}

/// A capture in the making, and then its file.
struct Capture {
    synthesizer: Synthesizer,
    writer: Option<PcapngWriter<OutputFile>>,
    path: PathBuf,
    time: u64,
    /// Time between two steps.
    step: u64,
    /// Next offset by connection and side.
    offsets: std::collections::HashMap<(u64, Side), u64>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        if std::env::var_os("T2P_KEEP").is_none() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn process(pid: u32) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid, generation: 1 },
        comm: "curl".into(),
        exe: "/usr/bin/curl".into(),
        args: vec!["curl".into(), "-u".into(), "me:hidden".into()],
        uid: 0,
        container: None,
    })
}

fn connection(id: u64, client: &str, server: &str) -> Connection {
    let process = process(1000 + id as u32);
    Connection {
        id: ConnectionId(id),
        handle: HandleKey { process: process.key, address: 0xabc, generation: id },
        process,
        tid: 11,
        local_side: Client,
        role_source: RoleSource::Kernel,
        tuple: Some(Tuple { local: client.parse().unwrap(), remote: server.parse().unwrap() }),
        tuple_source: TupleSource::SameCall,
        netns: 1,
        inode: 2,
        cookie: None,
        rtt: None,
        fd: Some(3),
        library: None,
        from_start: true,
        started: 1_700_000_000_000_000_000,
        server_name: None,
        alpn: None,
        layer_below: None,
    }
}

impl Capture {
    fn new(name: &str, ports: Ports) -> Capture {
        Capture::of(name, Synthesizer::new(ports))
    }

    /// With `--framing tls`.
    fn in_tls(name: &str) -> Capture {
        Capture::of(name, Synthesizer::new(Ports::Decode).with_carrier(Carrier::Tls))
    }

    fn of(name: &str, synthesizer: Synthesizer) -> Capture {
        let path = std::env::temp_dir().join(format!("tls2pcap-{name}-{}.pcapng", std::process::id()));
        let header = Header { application: "tls2pcap test".into(), ..Header::default() };
        let writer =
            PcapngWriter::new(OutputFile::create(&path, Format::default()).unwrap(), &header, false).unwrap();
        Capture {
            synthesizer,
            writer: Some(writer),
            path,
            time: 1_700_000_000_000_000_000,
            step: 1_000_000,
            offsets: Default::default(),
        }
    }

    fn step(&mut self, id: u64, body: SegmentBody) {
        self.time += self.step;
        let writer = self.writer.as_mut().unwrap();
        let segment = Segment { connection: ConnectionId(id), time: self.time, body };
        self.synthesizer.segment(&segment, &mut |packet| writer.packet(&packet).unwrap());
    }

    fn open(&mut self, connection: Connection) {
        self.step(connection.id.0, SegmentBody::Open(Arc::new(connection)));
    }

    fn cut(&mut self, id: u64, from: Side, bytes: &[u8], len: u64) {
        let offset = self.offsets.entry((id, from)).or_default();
        let bytes = Bytes::copy_from_slice(bytes);
        let missing = ((bytes.len() as u64) < len).then_some(Missing::RingFull);
        let process = process(1000 + id as u32);
        let payload =
            Payload { from, process, tid: 12, offset: *offset, bytes, len, missing, redacted: vec![] };
        *offset += len;
        self.step(id, SegmentBody::Payload(payload));
    }

    fn say(&mut self, id: u64, from: Side, bytes: &[u8]) {
        self.cut(id, from, bytes, bytes.len() as u64);
    }

    fn wait(&mut self) {
        self.time += HOLD_TIME;
        let writer = self.writer.as_mut().unwrap();
        self.synthesizer.tick(self.time, &mut |packet| writer.packet(&packet).unwrap());
    }

    fn end(&mut self, id: u64) {
        self.step(id, SegmentBody::End);
    }

    fn close(&mut self) {
        let mut writer = self.writer.take().unwrap();
        self.synthesizer.finish(self.time, &mut |packet| writer.packet(&packet).unwrap());
        // What was lost by nobody in particular stands on an interface without packets.
        let lost = Statistics { comments: vec!["tls2pcap=1 missing=1".into()], ..Statistics::default() };
        writer.finish(self.time, &[lost]).unwrap();
    }

    /// Asks every judge for these fields of the packets that pass the filter, if there is one.
    fn ask(&self, filter: &str, fields: &[&str], judge: impl Fn(&str, Vec<Vec<String>>)) {
        for tshark in judges() {
            let mut command = Command::new(&tshark);
            command.args(["-n", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
            command.arg("-r").arg(&self.path).args(["-T", "fields"]);
            if !filter.is_empty() {
                command.args(["-Y", filter]);
            }
            command.args(fields.iter().flat_map(|field| ["-e", field]));
            let output = command.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {errors}", tshark.display());
            let text = String::from_utf8(output.stdout).unwrap();
            let lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect());
            judge(&tshark.display().to_string(), lines.collect());
        }
    }

    /// Every judge shows exactly these lines, fields joined by a blank.
    fn shows(&self, filter: &str, fields: &[&str], expected: &[&str]) {
        self.ask(filter, fields, |judge, lines| {
            let lines: Vec<_> = lines.iter().map(|line| line.join(" ").trim().to_owned()).collect();
            assert_eq!(lines, expected, "{judge}: {filter}");
        });
    }

    /// Nothing is wrong at the TCP and IP layers.
    fn is_clean(&self) {
        let wrong =
            "tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0 || _ws.malformed";
        self.shows(wrong, &["frame.number", "_ws.expert.message"], &[]);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS of `GET https://a/<path>` without Huffman codes and dynamic table.
fn request(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    frame(1, 5, stream, &block)
}

/// HEADERS with status 200, and DATA.
fn response(stream: u32, body: &[u8]) -> Vec<u8> {
    [frame(1, 4, stream, &[0x88]), frame(0, 1, stream, body)].concat()
}

#[test]
fn http1_and_metadata() {
    let mut capture = Capture::new("http1", Ports::Decode);
    for (id, client, server) in [
        (1, "10.0.0.1:41000", "10.0.0.2:443"),
        (2, "10.0.0.1:40000", "10.0.0.2:8443"),
        (3, "[2001:db8::1]:41000", "[2001:db8::2]:443"),
        (4, "10.0.0.1:41003", "10.0.0.2:9000"),
    ] {
        let mut connection = connection(id, client, server);
        if id == 4 {
            connection.local_side = Server;
            connection.tuple = connection.tuple.map(|t| Tuple { local: t.remote, remote: t.local });
        }
        capture.open(connection);
        for round in 0..2 {
            capture.say(id, Client, format!("GET /{id}/{round} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            capture.say(id, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n");
            capture.say(id, Server, &[b'x'; 150_000]);
        }
        capture.step(id, SegmentBody::Finish(Server));
        capture.end(id);
    }
    capture.close();
    capture.is_clean();
    let expected: Vec<String> = (1..=4).flat_map(|id| (0..2).map(move |n| format!("/{id}/{n}"))).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    capture.shows("http.request", &["http.request.uri"], &expected);
    capture.shows("http.response", &["http.content_length"], &["150000"; 8]);
    let syns = ["curl[1001] 41000 80", "curl[1002]", "curl[1003] 41000 80", "curl[1004] 41003 80"];
    capture.ask(
        "tcp.flags.syn == 1 && tcp.flags.ack == 0",
        &[
            "frame.interface_name",
            "tcp.srcport",
            "tcp.dstport",
            "frame.comment",
            "frame.packet_flags_direction",
        ],
        |judge, lines| {
            assert_eq!(lines.len(), 4, "{judge}");
            for (line, expected) in lines.iter().zip(syns) {
                assert!(line[..3].join(" ").starts_with(expected), "{judge}: {line:?}");
                assert!(line[3].starts_with("tls2pcap=1 conn="), "{judge}: {line:?}");
            }
            assert_eq!(lines[1][2], "8443", "{judge}: a port that nobody owns stays");
            assert_ne!(lines[1][1], "40000", "{judge}: a dissector owns this client port");
            assert!(lines[1][3].contains(" written_client=10.0.0.1:"), "{judge}: {:?}", lines[1]);
            let directions: Vec<_> = lines.iter().map(|line| line[4].as_str()).collect();
            assert!(
                directions[0] == directions[1] && directions[0] != directions[3],
                "{judge}: {directions:?}"
            );
        },
    );
    let shown = "frame.comment contains \"pid=1001 \" && frame.interface_description == \"curl -u ***\"";
    capture.shows(shown, &["frame.number"], &["1"]);
}

#[test]
fn kept_ports_are_true() {
    let mut capture = Capture::new("keep", Ports::Keep);
    capture.open(connection(1, "10.0.0.1:40000", "10.0.0.2:8443"));
    capture.say(1, Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    capture.end(1);
    capture.close();
    capture.is_clean();
    capture.shows("tcp.len > 0", &["tcp.srcport", "tcp.dstport"], &["40000 8443"]);
}

#[test]
fn http2_from_the_start() {
    for server_first in [false, true] {
        let mut capture = Capture::new(&format!("h2-{server_first}"), Ports::Decode);
        capture.open(connection(1, "10.0.0.1:41000", "10.0.0.2:50051"));
        let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
        if server_first {
            capture.say(1, Server, &settings);
        }
        capture.say(1, Client, &[PREFACE, &settings, &request(1, "/a")].concat());
        if !server_first {
            capture.say(1, Server, &settings);
        }
        capture.say(1, Server, &response(1, b"hello"));
        // A frame that is split over calls.
        let more = request(3, "/b");
        capture.say(1, Client, &more[..5]);
        capture.say(1, Client, &more[5..]);
        capture.say(1, Server, &response(3, &[b'x'; 16_000]));
        capture.end(1);
        capture.close();
        capture.is_clean();
        capture.shows("http2.headers.path", &["http2.headers.path", "tcp.dstport"], &["/a 80", "/b 80"]);
        capture.shows("http2.headers.status", &["http2.headers.status"], &["200", "200"]);
        // Both sides' SETTINGS are decoded, whoever spoke first.
        capture
            .ask("http2.type == 4", &["tcp.srcport"], |judge, lines| assert_eq!(lines.len(), 2, "{judge}"));
    }
}

#[test]
fn http2_joined_in_progress() {
    let mut capture = Capture::new("h2-joined", Ports::Decode);
    // 1: at frame borders, known by ALPN. 2: in the middle of frames, both ways.
    let alpn = Some("h2".to_owned());
    capture.open(Connection {
        from_start: false,
        alpn: alpn.clone(),
        ..connection(1, "10.0.0.1:41001", "10.0.0.2:443")
    });
    capture.say(1, Client, &request(5, "/one"));
    capture.say(1, Server, &response(5, b"body"));
    capture.open(Connection { from_start: false, alpn, ..connection(2, "10.0.0.1:41002", "10.0.0.2:443") });
    capture.say(2, Server, b"only the rest of a frame");
    capture.say(2, Server, &[&b"the end of it"[..], &response(7, b"body")].concat());
    capture.say(
        2,
        Client,
        &[&b"rest of an upload"[..], &frame(0, 1, 9, b"last"), &request(11, "/two")].concat(),
    );
    capture.say(2, Server, &response(11, b"body"));
    // 3: without ALPN, told by its frames.
    capture.open(Connection { from_start: false, ..connection(3, "10.0.0.1:41003", "10.0.0.2:443") });
    capture.say(3, Client, &request(5, "/three"));
    capture.say(3, Server, &response(5, b"body"));
    capture.close();
    capture.is_clean();
    let paths = ["/one", "/two", "/three"];
    capture.shows("http2.headers.path", &["http2.headers.path"], &paths);
    capture.shows(
        "http2.headers.status",
        &["tcp.stream", "http2.streamid"],
        &["0 5,5", "1 0,7,7", "1 11,11", "2 5,5"],
    );
    let made_up = "frame.comment contains \"synthetic=h2-preface\"";
    capture.shows(made_up, &["tcp.stream", "tcp.len"], &["0 24", "1 24", "2 24"]);
    // No byte of a part of a frame is left out.
    let part: String = b"only the rest of a frame".iter().map(|b| format!("{b:02x}")).collect();
    capture.ask("tcp.stream == 1", &["tcp.payload"], |judge, lines| {
        assert!(lines.iter().any(|line| line[0] == part), "{judge}: {lines:?}");
    });
}

#[test]
fn what_is_missing() {
    let mut capture = Capture::new("missing", Ports::Decode);
    // 1: the end of a call, 2: all of a call, 3: nobody knows how much. 4: HTTP/2, all of a call.
    for id in 1..=3 {
        capture.open(connection(id, &format!("10.0.0.1:4100{id}"), "10.0.0.2:443"));
        capture.say(id, Client, b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
        match id {
            1 => capture.cut(id, Server, &[&head[..], &[b'x'; 500]].concat(), head.len() as u64 + 100_000),
            2 => {
                capture.say(id, Server, head);
                capture.cut(id, Server, b"", 100_000);
            }
            _ => {
                capture.say(id, Server, &[&head[..], &[b'x'; 99_000]].concat());
                capture.step(id, SegmentBody::Skip { from: Server, reason: Missing::Unfinished });
            }
        }
        capture.say(id, Client, b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.say(id, Server, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        capture.end(id);
    }
    capture.open(connection(4, "10.0.0.1:41004", "10.0.0.2:443"));
    capture.say(4, Client, &[PREFACE, &frame(4, 0, 0, b""), &request(1, "/first")].concat());
    capture.say(4, Server, &[frame(4, 0, 0, b""), frame(1, 4, 1, &[0x88])].concat());
    capture.cut(4, Server, &frame(0, 0, 1, &[b'x'; 16_384])[..500], 9 + 16_384);
    capture.cut(4, Server, b"", 9 + 16_384);
    capture.say(4, Client, &request(3, "/second"));
    capture.say(4, Server, &response(3, b"body"));
    capture.step(4, SegmentBody::Skip { from: Server, reason: Missing::Unfinished });
    capture.say(4, Client, &request(5, "/third"));
    capture.say(4, Server, &[&b"rest"[..], &response(5, b"body")].concat());
    capture.close();
    let paths = ["/first", "/second", "/first", "/second", "/first", "/second"];
    capture.shows("http.request", &["http.request.uri"], &paths);
    // Where a body's last byte is not there, its head is not shown apart; the rest is right.
    capture.shows(
        "http.response",
        &["tcp.stream", "http.response.code"],
        &["0 200", "0 404", "1 404", "2 404"],
    );
    capture.shows("http2.headers.path", &["http2.headers.path"], &["/first", "/second", "/third"]);
    capture.shows("http2.headers.status", &["http2.headers.status"], &["200", "200", "200"]);
    // Only a jump, and what acknowledges it, is an anomaly at the TCP layer.
    capture.shows("tcp.analysis.flags", &["tcp.stream"], &["2", "2", "3", "3"]);
    capture.ask("frame.comment contains \"missing=\"", &["tcp.stream", "frame.comment"], |judge, lines| {
        let texts: Vec<_> =
            lines.iter().map(|l| (l[0].as_str(), l[1].rsplit("missing=").next().unwrap())).collect();
        let expected = [
            ("0", "99500 reason=ring-full"),
            ("1", "100000 reason=ring-full"),
            ("2", "unknown reason=unfinished-call"),
            ("3", "15893 reason=ring-full"),
            ("3", "16393 reason=ring-full"),
            ("3", "unknown reason=unfinished-call"),
        ];
        assert_eq!(texts, expected, "{judge}");
    });
    capture.shows("frame.drop_count", &["tcp.stream", "frame.drop_count"], &["0 2", "1 2", "3 1", "3 1"]);
    capture.shows("tcp.checksum.status == 0 || _ws.malformed", &["frame.number"], &[]);
}

#[test]
fn the_same_tuple_again_and_at_once() {
    let mut capture = Capture::new("tuples", Ports::Decode);
    let (client, server) = ("127.0.0.1:41000", "127.0.0.1:443");
    // 1 and 2 live at once, in namespaces of their own; 3 comes after; 4 has no addresses; 5 is
    // inside 3.
    for id in [1, 2] {
        capture.open(Connection { netns: id as u32, ..connection(id, client, server) });
    }
    for round in 0..2 {
        for id in [1, 2] {
            capture.say(id, Client, format!("GET /{id}/{round} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        }
        for id in [2, 1] {
            capture.say(id, Server, format!("HTTP/1.1 20{id} OK\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
    }
    capture.end(1);
    capture.end(2);
    capture.open(connection(3, client, server));
    capture.open(Connection {
        tuple: None,
        tuple_source: TupleSource::None,
        ..connection(4, client, server)
    });
    let layered = Connection {
        tuple_source: TupleSource::Layer,
        layer_below: Some(ConnectionId(3)),
        ..connection(5, client, server)
    };
    capture.open(layered);
    for id in 3..=5 {
        capture.say(id, Client, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        capture.say(id, Server, format!("HTTP/1.1 20{id} OK\r\nContent-Length: 0\r\n\r\n").as_bytes());
    }
    capture.close();
    let requests = ["0 /1/0", "1 /2/0", "0 /1/1", "1 /2/1", "2 /3", "3 /4", "4 /5"];
    capture.shows("http.request", &["tcp.stream", "http.request.uri"], &requests);
    let responses = ["1 202", "0 201", "1 202", "0 201", "2 203", "3 204", "4 205"];
    capture.shows("http.response", &["tcp.stream", "http.response.code"], &responses);
    capture.shows("frame.comment contains \"tuple=none\"", &["tcp.stream", "ip.dst"], &["3 192.0.2.1"]);
    capture.shows("frame.comment contains \"layer_below=3\"", &["tcp.stream"], &["4"]);
    // A tuple that returns is no anomaly but for this note.
    capture.shows("tcp.analysis.flags && !tcp.analysis.reused_ports", &["frame.number"], &[]);
}

#[test]
fn many_short_connections_on_one_tuple() {
    let mut capture = Capture::new("many", Ports::Decode);
    for id in 1..=200 {
        capture.open(connection(id, "127.0.0.1:41000", "127.0.0.1:443"));
        capture.say(id, Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        capture.say(id, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        capture.end(id);
    }
    capture.close();
    capture.ask("http.request", &["tcp.stream"], |judge, lines| {
        let streams: Vec<_> = lines.iter().map(|l| l[0].parse::<usize>().unwrap()).collect();
        assert_eq!(streams, (0..200).collect::<Vec<_>>(), "{judge}");
    });
    capture.shows("http.response && !http.request_in", &["frame.number"], &[]);
}

#[test]
fn unknown_plaintext_is_shown_as_data() {
    let mut capture = Capture::new("unknown", Ports::Decode);
    capture.open(connection(1, "10.0.0.1:41000", "10.0.0.2:443"));
    capture.say(1, Client, b"something that nobody knows");
    capture.wait();
    capture.say(1, Server, b"an answer in kind");
    capture.end(1);
    capture.close();
    capture.is_clean();
    let port = DATA_PORT.to_string();
    let texts = [b"something that nobody knows".as_slice(), b"an answer in kind"];
    let lines = texts.map(|text| text.iter().map(|b| format!("{b:02x}")).collect::<String>());
    capture.shows(&format!("tcp.port == {port} && data"), &["data.data"], &[&lines[0], &lines[1]]);
}

/// One exchange: the true server port, who speaks first, what they say, the dissector (or two: in 4.0
/// the TLS dissector owns MongoDB's only port).
type Exchange = (u16, Side, &'static [u8], &'static [u8], &'static str);

#[test]
fn other_protocols_are_decoded() {
    let hello: &[u8] = &tls_client_hello();
    let hello: &'static [u8] = Box::leak(hello.to_vec().into());
    let mysql: &'static [u8] = Box::leak(mysql_greeting().into());
    let exchanges: &[Exchange] = &[
        (465, Server, b"220 mail ESMTP\r\n", b"EHLO me\r\n", "smtp"),
        (587, Client, b"EHLO me\r\n", b"250 mail\r\n", "smtp"),
        (993, Server, b"* OK IMAP4rev1 ready\r\n", b"a1 CAPABILITY\r\n", "imap"),
        (143, Client, b"a1 CAPABILITY\r\n", b"a1 OK done\r\n", "imap"),
        (995, Server, b"+OK ready\r\n", b"USER me\r\n", "pop"),
        (990, Server, b"220 FTP ready\r\n", b"USER me\r\n", "ftp"),
        (563, Server, b"200 NNTP ready\r\n", b"MODE READER\r\n", "nntp"),
        (8883, Client, b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test", b"\x20\x02\0\0", "mqtt"),
        (5671, Client, b"AMQP\0\0\x09\x01", b"\x01\0\0\0\0\0\x1c\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce", "amqp"),
        (636, Client, b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", b"", "ldap"),
        (853, Client, b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01", b"", "dns"),
        (5432, Client, b"\0\0\0\x12\0\x03\0\0user\0me\0\0", b"R\0\0\0\x08\0\0\0\0", "pgsql"),
        (3306, Server, mysql, b"", "mysql"),
        (6380, Client, b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n", "resp"),
        (5223, Client, b"<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>", b"", "xmpp"),
        (5061, Client, b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TLS c\r\nFrom: <sip:c>\r\nTo: <sip:a>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", b"", "sip"),
        (322, Client, b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n", "rtsp"),
        (6697, Client, b"NICK me\r\nUSER me 0 * :me\r\n", b":server 001 me :hi\r\n", "irc"),
        (443, Client, b"SSH-2.0-a\r\n", b"SSH-2.0-b\r\n", "ssh"),
        (9093, Client, b"\0\0\0\x11\0\x12\0\0\0\0\0\x01\0\x07console", b"", "kafka"),
        (27018, Client, b"\x2f\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x1a\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x02\0\0\0a\0\0", b"", "mongo|tls"),
        (9142, Client, b"\x04\0\0\0\x05\0\0\0\0", b"", "cql"),
        (5658, Client, b"\x01\0\0\x14\x80\0\x01\x01\0\0\0\0\0\0\0\x01\0\0\0\x01", b"", "diameter"),
        (443, Server, b"RFB 003.008\n", b"RFB 003.008\n", "vnc"),
        (3128, Client, hello, b"", "tls"),
        (443, Client, b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi", "websocket"),
    ];
    let mut capture = Capture::new("protocols", Ports::Decode);
    for (id, (port, first, one, two, _)) in (1..).zip(exchanges) {
        capture.open(connection(id, &format!("10.0.0.{id}:41000"), &format!("10.0.1.1:{port}")));
        capture.say(id, *first, one);
        capture.say(id, first.peer(), two);
        capture.end(id);
    }
    capture.close();
    capture.is_clean();
    capture.ask("tcp.len > 0", &["tcp.stream", "frame.protocols"], |judge, lines| {
        let mut wrong = Vec::new();
        for (stream, (port, .., dissector)) in exchanges.iter().enumerate() {
            let of = |line: &&Vec<String>| line[0] == stream.to_string();
            let seen: Vec<_> = lines.iter().filter(of).map(|line| line[1].as_str()).collect();
            if !seen
                .iter()
                .any(|protocols| protocols.split(':').any(|p| dissector.split('|').any(|d| d == p)))
            {
                wrong.push((port, dissector, seen.join(" ")));
            }
        }
        assert!(wrong.is_empty(), "{judge}: {wrong:#?}");
    });
}

fn tls_client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0, 0, 0]);
    let len = body.len() as u8;
    [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat()
}

fn mysql_greeting() -> Vec<u8> {
    let body = [
        &b"\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15"[..],
        &[0; 10],
        b"abcdefghijkl\0mysql_native_password\0",
    ]
    .concat();
    [&[body.len() as u8, 0, 0, 0][..], &body].concat()
}
