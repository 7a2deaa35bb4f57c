//! What lies behind the ring, stage by stage, beside a plain write of the same bytes:
//!
//!     cargo bench --bench offline [-- MILLISECONDS]
//!
//! Events are made up here: 32 connections of one process, written to in turn, in messages of one
//! length. Each row is the CPU time of one event (user and system, this thread's), the best of several
//! runs, each stage with those before it; the last column is the whole line into a file on tmpfs, divided
//! by plain 256 KiB writes of that very file. The time limit is for each figure (300).

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::time::{ClockId, clock_gettime};
use tls2pcap::event::record::{self, RawBind, RawData, RawHead, RawProcess};
use tls2pcap::event::recording::{self, Player};
use tls2pcap::event::{Clock, Event, ProcessFacts, ProcessKey, SORT_TIME, Start};
use tls2pcap::pipeline::Pipeline;
use tls2pcap::sink::{Format, OutputFile};
use tls2pcap::synth::{Ports, Synthesizer};
use tls2pcap::track::Tracker;
use zerocopy::{FromZeros, IntoBytes};

const CONNECTIONS: u64 = 32;
/// Bytes of plaintext in one recording, and events at most.
const BYTES: usize = 64 << 20;
const EVENTS: usize = 200_000;
const PROCESS: ProcessKey = ProcessKey { pid: 1000, generation: 1 };

fn main() {
    let number = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let patience = Duration::from_millis(number.unwrap_or(300));
    println!("CPU time in nanoseconds an event; whole ÷ plain: CPU of the line ÷ CPU of plain writes");
    println!(
        "{:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>14}",
        "bytes", "decode", "+track", "+synth", "+sink", "+write", "plain", "whole ÷ plain"
    );
    let file = scratch();
    for len in [64, 512, 1400, 16_384, 64_512] {
        let events = (BYTES / len).min(EVENTS);
        let recording = recording(len, events);
        let each = |total: Duration| total.as_nanos() as f64 / events as f64;
        let decode = best(patience, || decode(&recording));
        let track = best(patience, || track(&recording));
        let synth = best(patience, || synth(&recording));
        let sink = best(patience, || whole(&recording, io::sink()));
        let write = best(patience, || {
            whole(&recording, OutputFile::create(&file, Format::default()).expect("the scratch file"))
        });
        let written = std::fs::read(&file).expect("the scratch file");
        let plain = best(patience, || plain(&written, &file));
        let figures = [decode, track, synth, sink, write, plain].map(each);
        print!("{len:>8}");
        figures.iter().for_each(|figure| print!(" {figure:>8.0}"));
        println!(" {:>14.2}", figures[4] / figures[5]);
    }
    let _ = std::fs::remove_file(file);
}

/// On tmpfs, where the disk plays no part.
fn scratch() -> PathBuf {
    let folder = PathBuf::from("/dev/shm");
    let folder = if folder.is_dir() { folder } else { std::env::temp_dir() };
    folder.join(format!("tls2pcap-bench-{}", std::process::id()))
}

/// CPU time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it").into()
}

/// The least CPU time that a run takes.
fn best(patience: Duration, mut run: impl FnMut()) -> Duration {
    run();
    let (began, mut best) = (cpu(), Duration::MAX);
    for runs in 0.. {
        if runs >= 3 && cpu() - began >= patience {
            break;
        }
        let before = cpu();
        run();
        best = best.min(cpu() - before);
    }
    best
}

fn each(recording: &Bytes, mut use_event: impl FnMut(Event)) {
    let mut player = Player::batch(recording.clone());
    while let Some(at) = player.next_at().expect("made here") {
        use_event(record::decode_within(player.records(), at).expect("made here"));
    }
}

fn decode(recording: &Bytes) {
    each(recording, |event| drop(black_box(event)));
}

fn track(recording: &Bytes) {
    let mut tracker = Tracker::default();
    each(recording, |event| tracker.event(event, &mut |segment| drop(black_box(segment))));
}

fn synth(recording: &Bytes) {
    let mut tracker = Tracker::default();
    let mut synthesizer = Synthesizer::new(Ports::Decode);
    let mut out = |packet: tls2pcap::synth::packet::Packet<'_>| {
        black_box(packet.headers);
    };
    each(recording, |event| tracker.event(event, &mut |segment| synthesizer.segment(&segment, &mut out)));
}

fn whole(recording: &Bytes, out: impl Write) {
    let mut pipeline = Pipeline::new(out, Ports::Decode, None);
    let batch = pipeline.batch(recording.clone()).expect("the scratch file");
    drop(black_box(batch));
    let numbers = pipeline.finish().expect("the scratch file");
    assert!(numbers.packets > 0);
}

fn plain(written: &[u8], file: &std::path::Path) {
    let mut out = File::create(file).expect("the scratch file");
    written.chunks(256 << 10).for_each(|part| out.write_all(part).expect("the scratch file"));
}

fn head(kind: u16) -> RawHead {
    RawHead {
        kind,
        reserved: 0,
        tgid: PROCESS.pid,
        tid: PROCESS.pid,
        library: 0,
        process: PROCESS.generation,
    }
}

fn recording(len: usize, events: usize) -> Bytes {
    let mut batch = BytesMut::new();
    let mut add = |first: &[u8], second: &[u8]| recording::add(&mut batch, (first, second));
    for event in [
        Event::Start(Start {
            application: "bench".into(),
            time: 1,
            sort_time: SORT_TIME,
            ..Start::default()
        }),
        Event::Clock(Clock { monotonic: 1, realtime: 1_700_000_000_000_000_000 }),
        Event::ProcessFacts(
            PROCESS,
            ProcessFacts { exe: Some("/bin/bench".into()), ..ProcessFacts::default() },
        ),
    ] {
        add(&record::encode(&event).expect("user space's"), &[]);
    }
    let mut process = RawProcess { head: head(5), time: 2, ..RawProcess::new_zeroed() };
    process.comm[..5].copy_from_slice(b"bench");
    add(process.as_bytes(), &[]);
    for n in 0..CONNECTIONS {
        let mut bind = RawBind {
            head: head(2),
            handle: n,
            generation: n + 1,
            time: 3,
            socket: n + 1,
            socket_generation: 1,
            local_port: 40_000 + n as u16,
            remote_port: 443,
            family: 4,
            role: 1,
            tuple_source: 1,
            fresh: 1,
            ..RawBind::new_zeroed()
        };
        bind.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        bind.remote[..4].copy_from_slice(&[127, 0, 0, 2]);
        add(bind.as_bytes(), &[]);
    }
    let payload: Vec<u8> = b"GET / HTTP/1.1\r\n".iter().copied().cycle().take(len).collect();
    for n in 0..events as u64 {
        let (handle, seq) = (n % CONNECTIONS, n / CONNECTIONS);
        let time = 10 + n * 1000;
        let data = RawData {
            head: head(1),
            handle,
            generation: handle + 1,
            entered: time,
            returned: time + 500,
            call_offset: seq * len as u64,
            call_len: len as u64,
            chunk_len: len as u64,
            captured: len as u32,
            call_seq: seq as u32,
            direction: 1,
            function: 5,
            tuple_source: 1,
            ..RawData::new_zeroed()
        };
        add(data.as_bytes(), &payload);
    }
    add(&record::encode(&Event::Stop(1 << 50)).expect("user space's"), &[]);
    batch.freeze()
}
