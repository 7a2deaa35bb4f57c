//! Conversations dealt out to many files: every byte is in exactly one of them, each opens by itself, and tshark 4.0, 4.4
//! and 4.6 read in all of them together what they read in one.

#[allow(dead_code)]
#[path = "capture/support/gate.rs"]
mod gate;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use tls2pcap::event::{HandleKey, Missing, ProcessKey, TupleSource};
use tls2pcap::sink;
use tls2pcap::sink::{Files, Format, Header, Link, OutputFile, PcapngWriter};
use tls2pcap::synth::packet::Packet;
use tls2pcap::synth::{Carrier, Ports, Synthesizer};
use tls2pcap::track::segment::{
    Connection, ConnectionId, Payload, Process, RoleSource, Segment, SegmentBody, Side, Tuple,
};

use Side::{Client, Server};

/// Deterministic: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// What was said, in order: connection, side, bytes, and whether they are missing.
type Said = Vec<(u64, Side, Vec<u8>, bool)>;

fn process(pid: u32) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid, generation: 1 },
        comm: format!("p{pid}"),
        exe: "/usr/bin/p".into(),
        args: vec!["p".into()],
        uid: 0,
        container: None,
    })
}

fn connection(id: u64) -> Connection {
    let process = process(1000 + id as u32 % 3);
    let is_six = id % 2 == 1;
    let ends = if is_six { ("[2001:db8::1]", "[2001:db8::2]") } else { ("10.0.0.1", "10.0.0.2") };
    Connection {
        id: ConnectionId(id),
        handle: HandleKey { process: process.key, address: 0xabc, generation: id },
        process,
        tid: 11,
        local_side: if id % 4 < 2 { Client } else { Server },
        role_source: RoleSource::Kernel,
        tuple: Some(match id % 4 < 2 {
            true => Tuple {
                local: format!("{}:{}", ends.0, 50_000 + id).parse().unwrap(),
                remote: format!("{}:443", ends.1).parse().unwrap(),
            },
            false => Tuple {
                local: format!("{}:443", ends.1).parse().unwrap(),
                remote: format!("{}:{}", ends.0, 50_000 + id).parse().unwrap(),
            },
        }),
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that goes into the dynamic table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0x40, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// Requests whose fields are those of earlier ones, by the dynamic table; header blocks of two frames, padding,
/// priorities, uploads and downloads.
fn http2(id: u64, random: &mut Random, said: &mut Said) {
    said.push((id, Client, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat(), false));
    // The server allows a larger table, and the client's encoder uses it.
    said.push((id, Server, frame(4, 0, 0, &[0, 1, 0, 0, 0x20, 0]), false));
    said.push((id, Client, frame(4, 1, 0, &[]), false));
    said.push((id, Server, frame(4, 1, 0, &[]), false));
    for n in 0..40u32 {
        let stream = 1 + 2 * n;
        let path = format!("/{id}/{n}");
        let mut block = if n == 0 { vec![0x3f, 0xe1, 0x3f] } else { Vec::new() };
        block.extend([0x83, 0x87, 0x44, path.len() as u8]);
        block.extend(path.as_bytes());
        if n % 3 == 0 {
            block.extend(literal("x-n", &n.to_string()));
        } else {
            // The literal of the third request before, or nearer: behind paths that were added.
            block.push(0x80 | (62 + n as u8 % 3));
        }
        let headers = match n % 4 {
            0 => {
                let (a, b) = block.split_at(block.len() / 2);
                [frame(1, 0, stream, a), frame(9, 4, stream, b)].concat()
            }
            1 => frame(1, 4 | 8, stream, &[&[3][..], &block, &[0; 3]].concat()),
            2 => frame(1, 4 | 0x20, stream, &[&[0, 0, 0, 0, 15][..], &block].concat()),
            _ => frame(1, 4, stream, &block),
        };
        let upload = frame(0, 1, stream, &vec![b'u'; random.below(3000)]);
        pieces(id, Client, &[headers, upload].concat(), random, said);
        let mut block = vec![0x88];
        block.extend(if n % 5 == 0 { literal("y-n", &n.to_string()) } else { vec![0xbe] });
        let padded = frame(0, 8, stream, &[&[9][..], &vec![b'd'; random.below(9000)], &[0; 9]].concat());
        pieces(
            id,
            Server,
            &[frame(1, 4, stream, &block), padded, frame(0, 1, stream, b"end")].concat(),
            random,
            said,
        );
    }
}

fn websocket(id: u64, random: &mut Random, said: &mut Said) {
    let ask = format!(
        "GET /ws/{id} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    said.push((id, Client, ask.into_bytes(), false));
    said.push((id, Server, answer.into(), false));
    for n in 0..60 {
        let text = format!("message {n} of {id} ").repeat(1 + random.below(40));
        let (side, mask) = if n % 2 == 0 { (Client, 0x80) } else { (Server, 0) };
        let mut message = match text.len() {
            len @ ..126 => vec![0x81, len as u8 | mask],
            len => [&[0x81, 126 | mask][..], &(len as u16).to_be_bytes()].concat(),
        };
        if side == Client {
            message.extend([1, 2, 3, 4]);
            message.extend(text.bytes().zip([1, 2, 3, 4].iter().cycle()).map(|(a, b)| a ^ b));
        } else {
            message.extend(text.bytes());
        }
        pieces(id, side, &message, random, said);
    }
}

fn http1(id: u64, random: &mut Random, said: &mut Said) {
    for n in 0..40 {
        said.push((id, Client, format!("GET /{id}/{n} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(), false));
        let body = "text of a page\n".repeat(random.below(300));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        pieces(id, Server, answer.as_bytes(), random, said);
    }
}

fn pieces(id: u64, side: Side, mut bytes: &[u8], random: &mut Random, said: &mut Said) {
    while !bytes.is_empty() {
        let limit = if random.below(3) == 0 { 60 } else { 6000 };
        let (now, later) = bytes.split_at((1 + random.below(limit)).min(bytes.len()));
        said.push((id, side, now.to_vec(), false));
        bytes = later;
    }
}

/// All of them at once, each in its own order.
fn mixed(random: &mut Random, holes: bool) -> Said {
    let mut each: Vec<Said> = Vec::new();
    for id in 1..=6 {
        let mut said = Said::new();
        match id % 3 {
            0 => http2(id, random, &mut said),
            1 => websocket(id, random, &mut said),
            _ => http1(id, random, &mut said),
        }
        said.reverse();
        each.push(said);
    }
    let mut all = Said::new();
    while each.iter().any(|said| !said.is_empty()) {
        let at = random.below(each.len());
        for _ in 0..1 + random.below(12) {
            all.extend(each[at].pop());
        }
    }
    if holes {
        for step in all.iter_mut().skip(40) {
            step.3 = random.below(50) == 0;
        }
    }
    all
}

/// Writes what was said, through `out`.
fn write(said: &Said, carrier: Carrier, out: impl Write) {
    let header = Header { application: "tls2pcap test".into(), ..Header::default() };
    let mut writer = PcapngWriter::new(out, &header, false).unwrap();
    let mut synthesizer = Synthesizer::new(Ports::Decode).with_carrier(carrier);
    let mut time = 1_796_000_000_000_000_000;
    let mut offsets: HashMap<(u64, Side), u64> = HashMap::new();
    let mut step = |id: u64, body: SegmentBody, time: u64, writer: &mut PcapngWriter<_>| {
        let segment = Segment { connection: ConnectionId(id), time, body };
        synthesizer.segment(&segment, &mut |packet: Packet<'_>| writer.packet(&packet).unwrap());
        synthesizer.tick(time, &mut |packet: Packet<'_>| writer.packet(&packet).unwrap());
    };
    for id in 1..=6 {
        step(id, SegmentBody::Open(Arc::new(connection(id))), time, &mut writer);
    }
    for (id, from, bytes, missing) in said {
        time += 1_000_000;
        let offset = offsets.entry((*id, *from)).or_default();
        let len = bytes.len() as u64;
        let payload = Payload {
            from: *from,
            process: process(1000 + *id as u32 % 3),
            tid: 12,
            offset: *offset,
            bytes: if *missing { Bytes::new() } else { Bytes::copy_from_slice(bytes) },
            len,
            missing: missing.then_some(Missing::RingFull),
            redacted: vec![],
        };
        *offset += len;
        step(*id, SegmentBody::Payload(payload), time, &mut writer);
    }
    for id in 1..=6 {
        time += 1_000_000_000;
        // One side of some, so that a file can begin between the two.
        step(id, SegmentBody::Finish(Client), time, &mut writer);
        step(id, SegmentBody::Finish(Server), time + 10, &mut writer);
        step(id, SegmentBody::End, time + 20, &mut writer);
    }
    writer.finish(time, &[]).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// Fields of all packets of a file; several values of one are separated by commas.
fn ask(tshark: &Path, file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new(tshark);
    command.args(["-n", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-r"]).arg(file);
    command.args(["-T", "fields", "-E", "occurrence=a"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The packets of files with data that is not made up, from IP on, with their length: how often each is there.
fn data_of(files: &[PathBuf]) -> BTreeMap<(usize, Vec<u8>), usize> {
    let mut found = BTreeMap::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let (mut at, mut interfaces) = (0, 0);
        while at < bytes.len() {
            let block = &bytes[at..at + word(&bytes, at + 4)];
            assert_eq!(word(block, 4), word(block, block.len() - 4));
            at += block.len();
            interfaces += usize::from(word(block, 0) == 1);
            if word(block, 0) != 6 {
                continue;
            }
            assert!(word(block, 8) < interfaces, "an interface that the file does not have");
            let (captured, original) = (word(block, 20), word(block, 24));
            let packet = &block[28 + 14..28 + captured];
            let ip = if packet[0] >> 4 == 4 { 20 } else { 40 };
            let headers = ip + usize::from(packet[ip + 12] >> 4) * 4;
            let is_made_up = block[28 + captured..].windows(10).any(|w| w == b"synthetic=");
            if original > 14 + headers && !is_made_up {
                *found.entry((original, packet.to_vec())).or_default() += 1;
            }
        }
    }
    found
}

/// What one release reads in files.
struct Shown {
    /// Header fields of HTTP/2, requests of HTTP/1, messages of WebSocket: sorted.
    fields: Vec<String>,
    requests: Vec<String>,
    messages: Vec<String>,
    /// What it finds fault with.
    wrong: Vec<String>,
}

fn shown(tshark: &Path, files: &[PathBuf]) -> Shown {
    let mut shown = Shown { fields: vec![], requests: vec![], messages: vec![], wrong: vec![] };
    let fields = [
        "frame.comment",
        "http2.header.name",
        "http2.header.value",
        "http.request.uri",
        "websocket.payload.text",
        "tcp.analysis.flags",
        "tcp.checksum.status",
        "ip.checksum.status",
        "_ws.malformed",
        "_ws.expert.message",
        // From 4.4 on the URI is shown with the answer, too.
        "http.request.method",
    ];
    for file in files {
        for line in ask(tshark, file, &fields) {
            let each = |at: usize| line[at].split(',').filter(|value| !value.is_empty()).map(str::to_owned);
            if !line[0].contains("synthetic=h2-header-table") {
                shown.fields.extend(each(1).chain(each(2)));
            }
            shown
                .requests
                .extend(each(3).filter(|_| !line[10].is_empty() && !line[0].contains("synthetic=")));
            shown.messages.extend(each(4));
            let is_bad = |at: usize| line[at].split(',').any(|status| status == "0" || status == "Bad");
            if !line[5].is_empty() || is_bad(6) || is_bad(7) || !line[8].is_empty() {
                shown.wrong.push(format!("{}: {}", file.display(), line.join(" ")));
            }
        }
    }
    [&mut shown.fields, &mut shown.requests, &mut shown.messages].into_iter().for_each(|list| list.sort());
    shown
}

/// `judged`: tsharks read the files, of which there are few then.
fn is_dealt_out(name: &str, plan: sink::Plan, carrier: Carrier, holes: bool, judged: bool) {
    let folder = tempfile::tempdir().unwrap();
    let [one, many] = ["one", "many"].map(|name| folder.path().join(name));
    [&one, &many].iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ name.len() as u64);
    let said = mixed(&mut random, holes);
    let whole = one.join("a.pcapng");
    write(&said, carrier, OutputFile::create(&whole, Format::default()).unwrap());
    let split = Files::new(plan.clone(), &many.join("a.pcapng"), None, Link::default());
    let told = split.told();
    write(&said, carrier, split);
    let (whole, parts) = (vec![whole], files(&many));
    if std::env::var_os("T2P_KEEP").is_some() {
        println!("{name}: {}", folder.keep().display());
    }
    assert_eq!(told.lock().unwrap().files, parts.len() as u64);
    let least = if judged { 5 } else { 300 };
    assert!(parts.len() > least, "{name}: only {} files", parts.len());
    let data = data_of(&parts);
    assert!(data.values().all(|n| *n == 1), "{name}: a packet is in two files");
    assert!(data == data_of(&whole), "{name}: packets are missing");
    for (release, tshark) in gate::tsharks().iter().filter(|_| judged) {
        let (split, whole) = (shown(tshark, &parts), shown(tshark, &whole));
        // Holes are no fault, and what is in them may end a header block.
        if holes {
            continue;
        }
        assert!(split.wrong.is_empty(), "{name}, tshark {release}: {:#?}", split.wrong);
        let counts = [whole.fields.len(), whole.messages.len(), whole.requests.len()];
        assert!(counts[0] > 400 && counts[1] > 100 && counts[2] > 70, "{counts:?}");
        assert_eq!(split.fields, whole.fields, "{name}, tshark {release}");
        assert_eq!(split.requests, whole.requests, "{name}, tshark {release}");
        // A message that goes on in another file is shown in none.
        let missing = whole.messages.len() - split.messages.len();
        assert!(
            missing <= 4 * parts.len(),
            "{name}, tshark {release}: {missing} of {}",
            whole.messages.len()
        );
        let odd: Vec<_> = split.messages.iter().filter(|text| !whole.messages.contains(text)).collect();
        assert!(odd.is_empty(), "{name}, tshark {release}: {odd:?}");
    }
}

fn numbered(plan: sink::Plan) -> sink::Plan {
    sink::Plan { names: sink::Names::NumberTime, ..plan }
}

#[test]
fn three_hundred_files_hold_each_byte_once() {
    for (carrier, holes) in [(Carrier::Plain, false), (Carrier::Plain, true), (Carrier::Tls, true)] {
        let plan = numbered(sink::Plan { packets: Some(2), ..sink::Plan::default() });
        is_dealt_out("packets", plan, carrier, holes, false);
    }
}

#[test]
fn files_of_a_size() {
    let plan = numbered(sink::Plan { bytes: Some(90_000), ..sink::Plan::default() });
    is_dealt_out("size", plan, Carrier::Plain, false, true);
}

#[test]
fn files_within_made_up_tls() {
    let plan = numbered(sink::Plan { packets: Some(131), ..sink::Plan::default() });
    is_dealt_out("tls", plan, Carrier::Tls, false, true);
}
