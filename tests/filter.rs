//! Filter expressions against tshark's display filter: two hundred of them choose the same connections of the same
//! traffic, in tshark 4.0, 4.4 and 4.6. And what is left out leaves a file that dissects.

#[allow(dead_code)]
#[path = "capture/support/gate.rs"]
mod gate;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use tls2pcap::event::{HandleKey, ProcessKey, TupleSource};
use tls2pcap::filter::{Filter, Names};
use tls2pcap::sink::{Format, Header, OutputFile, PcapngWriter};
use tls2pcap::synth::packet::Packet;
use tls2pcap::synth::{Ports, Selection, Synthesizer};
use tls2pcap::track::segment::{
    Connection, ConnectionId, Payload, Process, RoleSource, Segment, SegmentBody, Side, Tuple,
};

const CONNECTIONS: u64 = 40;
const SECOND: u64 = 1_000_000_000;
const BEGIN: u64 = 1_796_000_000 * SECOND;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

struct Machine;

impl Names for Machine {
    fn user(&self, name: &str) -> Option<u32> {
        (name == "alice").then_some(1001)
    }
    fn port(&self, name: &str) -> Option<u16> {
        (name == "https").then_some(443)
    }
}

const COMMS: [&str; 4] = ["curl", "nginx", "python3", "a b"];
const NAMES: [&str; 3] = ["a.example.org", "b.example.org", "example.net"];
const PORTS: [u16; 4] = [443, 8443, 9000, 50_051];

fn connection(id: u64) -> Connection {
    let n = id as usize;
    let process = Arc::new(Process {
        key: ProcessKey { pid: 100 + id as u32 % 7, generation: 1 },
        comm: COMMS[n % 4].into(),
        exe: format!("/usr/bin/{}", COMMS[n % 4]),
        args: vec![],
        uid: 1000 + id as u32 % 3,
        container: None,
    });
    let (client, server) = match n % 3 {
        0 => (format!("[2001:db8::{}]:{}", n % 5, 40_000 + n), format!("[2001:db8:1::1]:{}", PORTS[n % 4])),
        _ => (
            format!("10.{}.0.{}:{}", n % 2, 1 + n % 5, 40_000 + n),
            format!("192.0.2.{}:{}", 1 + n % 4, PORTS[n % 4]),
        ),
    };
    let local_side = if n % 5 < 3 { Side::Client } else { Side::Server };
    let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
    let (local, remote) = if local_side == Side::Client { (client, server) } else { (server, client) };
    Connection {
        id: ConnectionId(id),
        handle: HandleKey { process: process.key, address: 0xabc, generation: id },
        process,
        tid: 11,
        local_side,
        role_source: RoleSource::Kernel,
        tuple: Some(Tuple { local, remote }),
        tuple_source: TupleSource::SameCall,
        netns: 1 + id as u32 % 2,
        inode: 2,
        cookie: None,
        rtt: None,
        fd: Some(3),
        library: None,
        from_start: true,
        started: BEGIN,
        server_name: Some(NAMES[n % 3].into()),
        alpn: Some(if n.is_multiple_of(2) { "h2" } else { "http/1.1" }.into()),
        layer_below: None,
    }
}

/// Connection `n` begins in second `n`: an HTTP/1 or HTTP/2 request, or SMTP, and an answer.
fn write(path: &Path, selection: Selection) -> u64 {
    let header = Header::default();
    let output = OutputFile::create(path, Format::default()).unwrap();
    let mut writer = PcapngWriter::new(output, &header, false).unwrap();
    let mut synthesizer = Synthesizer::new(Ports::Keep).with_selection(selection);
    // One more, since the last interval of tshark's statistics is cut off. None begins where an interval does.
    for id in 1..=CONNECTIONS + 1 {
        let time = BEGIN + id * SECOND + if id == 1 { SECOND / 5 } else { SECOND / 2 };
        let connection = connection(id);
        let process = Arc::clone(&connection.process);
        let said: [(Side, Vec<u8>); 2] = match id % 4 {
            0 => [
                (Side::Server, b"220 mail.example.org ESMTP ready\r\n".to_vec()),
                (Side::Client, b"EHLO a\r\n".to_vec()),
            ],
            1 | 2 => [
                (Side::Client, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()),
                (
                    Side::Server,
                    [b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n".to_vec(), vec![b'x'; 3000]].concat(),
                ),
            ],
            _ => [
                (
                    Side::Client,
                    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0, 0, 0, 4, 0, 0, 0, 0, 0]].concat(),
                ),
                (Side::Server, vec![0, 0, 0, 4, 0, 0, 0, 0, 0]),
            ],
        };
        let mut step = |body: SegmentBody| {
            let segment = Segment { connection: ConnectionId(id), time, body };
            synthesizer.segment(&segment, &mut |packet: Packet<'_>| writer.packet(&packet).unwrap());
        };
        step(SegmentBody::Open(Arc::new(connection)));
        for (from, bytes) in said {
            let len = bytes.len() as u64;
            let process = Arc::clone(&process);
            let bytes = Bytes::from(bytes);
            step(SegmentBody::Payload(Payload {
                from,
                process,
                tid: 1,
                offset: 0,
                bytes,
                len,
                missing: None,
                redacted: vec![],
            }));
        }
        step(SegmentBody::Finish(Side::Client));
        step(SegmentBody::Finish(Side::Server));
        step(SegmentBody::End);
    }
    let packets = writer.counts().packets;
    writer.finish(0, &[]).unwrap();
    packets
}

/// One of our words, and what the display filter says for it.
fn word(random: &mut Random) -> (String, String) {
    let four = format!("10.{}.0.{}", random.below(2), 1 + random.below(5));
    let server = format!("192.0.2.{}", 1 + random.below(4));
    let six = format!("2001:db8::{}", random.below(5));
    let port = PORTS[random.below(4)];
    let client_port = 40_000 + random.below(42);
    let said = |key: &str, value: &str| format!("frame.comment contains \" {key}={value} \"");
    let range = |field: &str, low: usize, high: usize| format!("({field} >= {low} && {field} <= {high})");
    match random.below(24) {
        0 => (format!("host {four}"), format!("ip.addr == {four}")),
        1 => (format!("src {four}"), format!("ip.src == {four}")),
        2 => (format!("dst host {server}"), format!("ip.dst == {server}")),
        3 => (format!("ip6 host {six}"), format!("ipv6.addr == {six}")),
        4 => ("net 10.1".into(), "ip.addr == 10.1.0.0/16".into()),
        5 => ("src net 10.0.0.0 mask 255.255.255.252".into(), "ip.src == 10.0.0.0/30".into()),
        6 => ("net 2001:db8:1::/48".into(), "ipv6.addr == 2001:db8:1::/48".into()),
        7 => (format!("port {port}"), format!("tcp.port == {port}")),
        8 => (format!("tcp dst port {port}"), format!("tcp.dstport == {port}")),
        9 => (format!("src port {client_port}"), format!("tcp.srcport == {client_port}")),
        10 => {
            let either = [range("tcp.srcport", 8000, client_port), range("tcp.dstport", 8000, client_port)];
            (format!("portrange 8000-{client_port}"), format!("({})", either.join(" || ")))
        }
        11 => ("ip".into(), "ip".into()),
        12 => ("ip6".into(), "ipv6".into()),
        13 => ("tcp".into(), "tcp".into()),
        14 => {
            let pid = (100 + random.below(7)).to_string();
            (format!("pid {pid}"), said("pid", &pid))
        }
        15 => {
            let comm = COMMS[random.below(4)];
            (format!("comm '{comm}'"), said("comm", &comm.replace(' ', "%20")))
        }
        16 => ("exe /usr/bin/*n*".into(), "(frame.comment matches \" exe=/usr/bin/[^ ]*n\")".into()),
        17 => ("user alice".into(), said("uid", "1001")),
        18 => (format!("netns {}", 1 + port % 2), said("netns", &(1 + port % 2).to_string())),
        19 => {
            let name = NAMES[random.below(3)];
            (format!("sni {name}"), said("sni", name))
        }
        20 => ("sni *.example.org".into(), "(frame.comment matches \" sni=[^ ]*[.]example[.]org \")".into()),
        21 => ("alpn h2".into(), said("alpn", "h2")),
        22 => ("role server".into(), said("role", "server")),
        _ => match random.below(3) {
            0 => ("proto http".into(), "(frame.comment matches \" proto=http/[12] \")".into()),
            1 => ("proto http/2".into(), said("proto", "http/2")),
            _ => ("proto smtp".into(), said("proto", "smtp")),
        },
    }
}

fn expression(random: &mut Random, depth: usize) -> (String, String) {
    if depth == 0 || random.below(5) == 0 {
        return word(random);
    }
    let (a, b) = (expression(random, depth - 1), expression(random, depth - 1));
    match random.below(5) {
        0 => (format!("not ({})", a.0), format!("!({})", a.1)),
        1 | 2 => (format!("({}) and ({})", a.0, b.0), format!("(({}) && ({}))", a.1, b.1)),
        3 => (format!("({}) or ({})", a.0, b.0), format!("(({}) || ({}))", a.1, b.1)),
        _ => (format!("! ({}) && ({})", a.0, b.0), format!("(!({}) && ({}))", a.1, b.1)),
    }
}

/// In which seconds each of these filters has a SYN of a client.
fn seconds(tshark: &Path, file: &Path, filters: &[String]) -> Vec<BTreeSet<u64>> {
    let syn = "tcp.flags.syn == 1 && tcp.flags.ack == 0";
    let columns: Vec<String> = filters.iter().map(|filter| format!("{syn} && ({filter})")).collect();
    let told = Command::new(tshark)
        .args(["-n", "-q", "-r"])
        .arg(file)
        .args(["-z", &format!("io,stat,1,frame,{}", columns.join(","))])
        .output()
        .unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut found = vec![BTreeSet::new(); filters.len()];
    let mut rows = 0;
    for line in text.lines().filter(|line| line.contains("<>")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let second: u64 = cells[1].split("<>").next().unwrap().trim().parse().unwrap();
        // The interval, frames and bytes of all packets, then those of each filter.
        for (at, found) in found.iter_mut().enumerate() {
            if cells[4 + 2 * at].parse::<u64>().unwrap() > 0 {
                found.insert(second);
            }
        }
        rows += 1;
    }
    assert!(rows as u64 >= CONNECTIONS, "{text}");
    found
}

#[test]
fn two_hundred_expressions_choose_what_a_display_filter_chooses() {
    let folder = tempfile::tempdir().unwrap();
    let all = folder.path().join("all.pcapng");
    write(&all, Selection::default());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let pairs: Vec<(String, String)> = (0..220).map(|n| expression(&mut random, n % 4)).collect();
    // The connections that each leaves in a file of its own.
    let chosen: Vec<BTreeSet<u64>> = pairs
        .iter()
        .map(|(text, _)| {
            let filter = Filter::new(text, &Machine).unwrap_or_else(|error| panic!("{error}"));
            let path = folder.path().join("some.pcapng");
            write(&path, Selection { filter: Some(filter), ..Selection::default() });
            let bytes = std::fs::read(&path).unwrap();
            (1..=CONNECTIONS)
                .filter(|id| {
                    let begin = format!("tls2pcap=1 conn={id} pid=");
                    bytes.windows(begin.len()).any(|window| window == begin.as_bytes())
                })
                .collect()
        })
        .collect();
    let sizes: BTreeSet<usize> = chosen.iter().map(BTreeSet::len).collect();
    assert!(sizes.len() > 15, "expressions that choose all alike: {sizes:?}");
    for (release, tshark) in gate::tsharks() {
        for (at, pairs) in pairs.chunks(22).enumerate() {
            let filters: Vec<String> = pairs.iter().map(|(_, display)| display.clone()).collect();
            let found = seconds(tshark, &all, &filters);
            // The first packet, of connection 1, begins second 0.
            for (n, (text, display)) in pairs.iter().enumerate() {
                let ids = found[n].iter().map(|second| second + 1);
                let found: BTreeSet<u64> = ids.filter(|id| *id <= CONNECTIONS).collect();
                assert_eq!(chosen[22 * at + n], found, "tshark {release}: {text}: {display}");
            }
        }
    }
}

#[test]
fn what_is_cut_keeps_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let sums = |tshark: &Path| {
        let told = Command::new(tshark)
            .args(["-n", "-r"])
            .arg(&path)
            .args([
                "-T",
                "fields",
                "-e",
                "tcp.len",
                "-e",
                "http.response.code",
                "-e",
                "_ws.malformed",
                "-e",
                "tcp.analysis.flags",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        let sum: u64 = cells.iter().filter_map(|cells| cells[0].parse::<u64>().ok()).sum();
        let answers = cells.iter().filter(|cells| !cells[1].is_empty()).count();
        assert!(cells.iter().all(|cells| cells[2].is_empty() && cells[3].is_empty()), "{text}");
        (sum, answers)
    };
    let none = Selection::default;
    write(&path, none());
    let whole: Vec<_> = gate::tsharks().iter().map(|(_, tshark)| sums(tshark)).collect();
    assert!(whole.iter().all(|(_, answers)| *answers == 21), "{whole:?}");
    for (selection, answers) in [
        (Selection { head: Some(60), ..none() }, 21),
        // Connections of which the process is the client read the answers.
        (Selection { no_reads: true, ..none() }, 8),
        (Selection { no_writes: true, ..none() }, 13),
    ] {
        write(&path, selection.clone());
        for ((release, tshark), (sum, _)) in gate::tsharks().iter().zip(&whole) {
            let found = sums(tshark);
            assert_eq!((found.0, found.1), (*sum, answers), "tshark {release}: {selection:?}");
        }
    }
    let all = write(&path, none());
    let some = write(&path, Selection { sample: Some(4), ..none() });
    assert!(all > 3 * some && some > 0, "{all} {some}");
}

#[test]
fn an_expression_works_in_replay() {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recordings/curl-http1.t2p");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.pcapng");
    let replay = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
        let told = command.args(["replay", recording, "-o"]).arg(&out).args(words).output().unwrap();
        (told.status.code(), String::from_utf8(told.stderr).unwrap())
    };
    let (status, whole) = replay(&[]);
    assert_eq!((status, whole.contains("left out")), (Some(0), false), "{whole}");
    let (status, same) = replay(&["comm", "curl", "and", "not", "role", "server"]);
    let line = |text: &str| text.lines().next().unwrap().split(" over ").next().unwrap().to_owned();
    assert_eq!((status, line(&same)), (Some(0), line(&whole)));
    let (status, none) = replay(&["not", "comm", "curl"]);
    assert!(
        status == Some(0) && none.contains("in 0 packets") && none.contains("1 connection left out"),
        "{none}"
    );
    let (_, none) = replay(&["--comm", "wget", "--comm", "nginx"]);
    assert!(none.contains("1 connection left out"), "{none}");
    let (status, error) = replay(&["port", "htps"]);
    assert!(status == Some(2) && error.contains("\n  port htps\n       ^^^^"), "{error}");
}
