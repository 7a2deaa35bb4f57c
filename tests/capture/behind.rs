//! An output that is slower than what is captured: what is lost is told to the byte, and nobody waits
//! for it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use nix::sys::signal::Signal;

use crate::support::capture::Running;
use crate::support::process::PATIENCE;
use crate::support::programs::{compiled, connect, exchange_server, transcript};
use crate::support::{Test, begin, until};

/// A FIFO whose reader reads nothing until it is told to.
struct Slow {
    path: PathBuf,
    go: Sender<()>,
    reader: JoinHandle<Vec<u8>>,
}

impl Slow {
    fn new(test: &Test) -> Slow {
        let path = test.path("fifo.pcapng");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let (go, told) = channel();
        let opened = path.clone();
        let reader = thread::spawn(move || {
            let mut file = File::open(opened).unwrap();
            told.recv().unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        });
        Slow { path, go, reader }
    }

    /// Lets the reader read to the end, which is the capture's.
    fn read(self, running: Running) -> (Vec<u8>, String) {
        self.go.send(()).unwrap();
        let finished = running.finish().ok();
        (self.reader.join().unwrap(), finished.stderr)
    }
}

/// One direction of one connection, as it stands in a file.
#[derive(Default)]
struct Written {
    /// Where pieces stand, and what they hold.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Bytes in all, there or not.
    len: usize,
    /// Bytes that are not there.
    missing: usize,
    /// The same, as comments tell it, by reason.
    told: HashMap<String, usize>,
}

impl Written {
    /// Whether all of it stands at its place in `truth`, and nothing is beyond.
    fn is_of(&self, truth: &[u8]) -> bool {
        self.len == truth.len()
            && self
                .pieces
                .iter()
                .all(|(at, bytes)| truth.get(*at..).is_some_and(|truth| truth.starts_with(bytes)))
    }
}

/// What stands in a file, by sender and receiver.
fn read(file: &[u8]) -> HashMap<(SocketAddr, SocketAddr), Written> {
    let mut all: HashMap<_, Written> = HashMap::new();
    let mut first = HashMap::new();
    let mut reader = PcapNgReader::new(file).unwrap();
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block.unwrap() else { continue };
        let (from, to, seq, syn, payload) = take_apart(&packet.data);
        if syn {
            first.insert((from, to), seq.wrapping_add(1));
            all.entry((from, to)).or_default();
            continue;
        }
        let at = seq.wrapping_sub(first[&(from, to)]) as usize;
        let written = all.get_mut(&(from, to)).unwrap();
        let len = payload.len() + (packet.original_len as usize - packet.data.len());
        if len > 0 {
            written.len = written.len.max(at + len);
        }
        written.missing += len - payload.len();
        if !payload.is_empty() {
            written.pieces.push((at, payload));
        }
        for option in &packet.options {
            let EnhancedPacketOption::Comment(comment) = option else { continue };
            let value =
                |key: &str| comment.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            if let (Some(missing), Some(reason)) = (value("missing"), value("reason")) {
                *written.told.entry(reason.to_owned()).or_default() += missing.parse::<usize>().unwrap();
            }
        }
    }
    all
}

/// Addresses, sequence number, whether it is a SYN, and payload of a packet that may be cut.
fn take_apart(data: &[u8]) -> (SocketAddr, SocketAddr, u32, bool, Vec<u8>) {
    let packet = LaxSlicedPacket::from_ethernet(data).unwrap();
    let (source, destination) = match packet.net.as_ref().unwrap() {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        other => panic!("{other:?}"),
    };
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!() };
    (
        SocketAddr::new(source, tcp.source_port()),
        SocketAddr::new(destination, tcp.destination_port()),
        tcp.sequence_number(),
        tcp.syn(),
        tcp.payload().to_vec(),
    )
}

/// Bytes lost, as the summary tells it.
fn lost(summary: &str) -> usize {
    let lines = summary.lines().filter_map(|line| line.strip_prefix("lost: "));
    let bytes = lines.filter_map(|line| line.split_once(" bytes in "));
    bytes.map(|(n, _)| n.replace(',', "").parse::<usize>().unwrap()).sum()
}

/// The output takes nothing until the command has ended, and yet the command ends: it sends more than
/// can be kept, and then runs a program that nobody has looked at, so that it is stopped meanwhile.
#[test]
fn an_output_that_stalls_stops_nobody_and_costs_payload_only() {
    let test = begin!();
    let slow = Slow::new(&test);
    let (_server, port) = exchange_server(&test, "--times 2 r:40000000 w:10 S");
    let (dir, done, other) = (test.folder("client"), test.text("done"), test.text("other"));
    let (second, first) = (test.folder("second"), compiled("exchange"));
    let ops = ["w:1000000"; 40].join(" ") + " r:10 S";
    let script = format!(
        "{first} {} && cp {first} {other} && {other} {} && touch {done}",
        connect("127.0.0.1", port, &dir, &ops).join(" "),
        connect("127.0.0.1", port, &second, &ops).join(" "),
    );
    let capture = test.capture().output(&slow.path).args(&["--ring-size", "4"]);
    let running = capture.start(&["sh", "-c", &script]);
    until("the command to end although nobody reads", || Path::new(&done).exists().then_some(()));
    let (file, summary) = slow.read(running);
    let written = read(&file);
    let truths = [transcript(&dir, "client", 0), transcript(&second, "client", 0)];
    assert_eq!(written.len(), 4, "two connections, two directions");
    let mut told = 0;
    for one in written.values() {
        assert_eq!(one.missing, one.told.values().sum::<usize>(), "{:?}", one.told);
        // On a busy machine the ring thread may get no time while the small ring fills up.
        let known = |reason: &String| ["writer-behind", "ring-full"].contains(&reason.as_str());
        assert!(one.told.keys().all(known), "{:?}", one.told);
        let found = truths.iter().any(|t| one.is_of(&t.sent) || one.is_of(&t.received));
        assert!(found, "{} bytes, missing {:?}\n{summary}", one.len, one.told);
        told += one.missing;
    }
    let there: usize = written.values().flat_map(|w| &w.pieces).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(there + told, 80_000_020);
    // On a busy machine the writer sorts as much as it may before it writes for the first time.
    let (handed_over, sorted) = (18 << 20, 33 << 20);
    assert!((79_000_000 - handed_over - sorted..70_000_000).contains(&told), "{told} lost, of 80 MB");
    assert_eq!(lost(&summary), told, "{summary}");
    assert!(summary.contains("faster disk"), "no cure:\n{summary}");
}

/// The smallest ring there is, and an output that takes nothing for a long time.
#[test]
fn a_ring_of_one_page_and_a_slow_output_lose_what_they_say() {
    let test = begin!();
    let slow = Slow::new(&test);
    let (_server, port) = exchange_server(&test, "--times 3 r:13100000 w:30000 S");
    let (dir, done) = (test.folder("client"), test.text("done"));
    let ops = ["w:1000 w:100 w:7000"; 1500].join(" ") + " w:950000 r:30000 S";
    let script = format!(
        "{} {} && touch {done}",
        compiled("exchange"),
        connect("127.0.0.1", port, &dir, &format!("--times 3 {ops}")).join(" "),
    );
    let capture = test.capture().output(&slow.path).args(&["--ring-size", "4K"]);
    let running = capture.start(&["sh", "-c", &script]);
    until("the command to end although nobody reads", || Path::new(&done).exists().then_some(()));
    let (file, summary) = slow.read(running);
    let written = read(&file);
    let truths = [0, 1, 2].map(|i| transcript(&dir, "client", i));
    let (mut told, mut there) = (0, 0);
    for one in written.values() {
        assert_eq!(one.missing, one.told.values().sum::<usize>(), "{:?}", one.told);
        let found = truths.iter().any(|t| one.is_of(&t.sent) || one.is_of(&t.received));
        assert!(found, "{} bytes, missing {:?}\n{summary}", one.len, one.told);
        told += one.missing;
        there += one.pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    let moved: usize = truths.iter().map(|t| t.sent.len() + t.received.len()).sum();
    let (lost, real) = (lost(&summary), moved - there);
    assert_eq!((told, lost), (real, real), "{summary}");
    assert!(there > 0 && told > 0, "{there} there, {told} lost");
}

/// The recorder records what went on behind the hand-over, not what came before it.
#[test]
fn what_was_given_up_is_given_up_in_the_recording_too() {
    let test = begin!();
    let slow = Slow::new(&test);
    // More than is handed over and sorted while nobody reads.
    let (_server, port) = exchange_server(&test, "r:70000000 w:10 S");
    let (dir, recording, done) = (test.folder("client"), test.text("r.t2p"), test.text("done"));
    let ops = ["w:500000"; 140].join(" ") + " r:10 S";
    let script = format!(
        "{} {} && touch {done}",
        compiled("exchange"),
        connect("127.0.0.1", port, &dir, &ops).join(" ")
    );
    let capture = test.capture().output(&slow.path).args(&["--ring-size", "1", "--record", &recording]);
    let running = capture.start(&["sh", "-c", &script]);
    until("the command to end although nobody reads", || Path::new(&done).exists().then_some(()));
    let (live, summary) = slow.read(running);
    assert!(lost(&summary) > 0, "{summary}");
    let again = test.path("again.pcapng");
    let mut replay = std::process::Command::new(crate::support::capture::TLS2PCAP);
    replay.arg("replay").arg(&recording).arg("-o").arg(&again);
    crate::support::run(&mut replay);
    assert!(fs::read(again).unwrap() == live, "the replay differs from what was captured");
}

/// Reads a FIFO as it is written: what has come so far, and how to wait for more.
struct Live {
    bytes: std::sync::mpsc::Receiver<Vec<u8>>,
    file: Vec<u8>,
}

impl Live {
    fn new(path: &Path) -> Live {
        mkfifo(path, Mode::S_IRWXU).unwrap();
        let path = path.to_owned();
        let (send, bytes) = channel();
        thread::spawn(move || {
            let mut file = File::open(path).unwrap();
            let mut buffer = vec![0; 1 << 20];
            while let Ok(n @ 1..) = file.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Live { bytes, file: Vec::new() }
    }

    /// Waits until `text` has come, and gives how long that took.
    fn wait_for(&mut self, text: &[u8]) -> Duration {
        let began = Instant::now();
        while !self.file.windows(text.len()).any(|window| window == text) {
            self.file.extend(self.bytes.recv_timeout(PATIENCE).expect("no packet comes"));
        }
        began.elapsed()
    }
}

/// Each request is seen in the pipe before the program goes on, so nothing that comes later can have
/// brought it: neither more traffic nor the end.
fn seen_at_once(test: &Test, options: &[&str]) -> Vec<Duration> {
    let path = test.path("live.pcapng");
    let mut live = Live::new(&path);
    let (_server, port) = exchange_server(test, "r:777 w:10 r:777 r:777 w:10 r:777 S");
    let dir = test.folder("client");
    let mut command = vec![compiled("exchange")];
    command.extend(connect("127.0.0.1", port, &dir, "w:777 i r:10 w:777 i w:777 i r:10 w:777 i S"));
    let mut running = test.capture().output(&path).args(options).start(&command);
    let mut took = Vec::new();
    for line in [5, 17, 29, 41] {
        running.process.line_after("waiting");
        // The text of exchange says where it stands.
        took.push(live.wait_for(format!("c00000 {:012} ", line * 64).as_bytes()));
        running.process.go_on();
    }
    running.finish().ok();
    took.sort();
    println!("{}: each seen after {took:?}", test.name);
    took
}

#[test]
fn who_reads_a_pipe_sees_packets_within_100_ms() {
    let test = begin!();
    let took = seen_at_once(&test, &[]);
    // The machine may be busy with other tests: the best of four is meant, and the worst ten times it.
    assert!(took[0] < Duration::from_millis(100) && took[3] < Duration::from_secs(1), "{took:?}");
}

#[test]
fn packet_buffered_needs_no_tick() {
    let test = begin!();
    let took = seen_at_once(&test, &["-U"]);
    assert!(took[0] < Duration::from_millis(50) && took[3] < Duration::from_secs(1), "{took:?}");
}

#[test]
fn who_waits_for_a_reader_is_told_and_may_give_up() {
    let test = begin!();
    let slow = Slow::new(&test);
    let (_server, port) = exchange_server(&test, "r:1000000 w:10 S");
    let ops = connect("127.0.0.1", port, &test.folder("client"), "w:1000000 r:10 S");
    let running = test.capture().output(&slow.path).start(&[vec![compiled("exchange")], ops].concat());
    until("that it waits to be said", || {
        running.process.stderr().contains("press Ctrl-C again to stop waiting").then_some(())
    });
    running.process.signal(Signal::SIGINT);
    let finished = running.finish();
    assert_eq!(finished.status, 128 + Signal::SIGINT as i32, "{}", finished.stderr);
    assert!(
        finished.stderr.contains("ended by a second signal: the end of the capture is not written"),
        "{}",
        finished.stderr
    );
    // The summary does not wait for the reader either.
    let lost = "lost: the end of the capture, skipped after a second signal, amount unknown\n";
    assert!(finished.stderr.contains(lost), "{}", finished.stderr);
    assert!(!finished.stderr.contains("nothing lost"), "{}", finished.stderr);
}
