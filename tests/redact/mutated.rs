//! Damaged captures and random streams, for ten seconds or as long as is asked:
//!
//!     T2P_MUTATE=1200 [T2P_SEED=1] cargo test --release --test redact -- mutated --nocapture
//!
//! Whatever the bytes are: no crash, no hang, the same packets, and nothing new the second time. What fails is named by
//! its seed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::files::{Capture, End, Link, Talk};
use super::proof::draw::{Draw, Random};
use super::proof::{Said, samples};
use super::{Place, text};

/// Seconds, where the environment does not say how many.
const SECONDS: u64 = 10;
/// A file of a hundred kilobytes that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(name: &str, else_: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(else_, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Damages bytes in one of the ways in which parsers go wrong.
fn damage(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let len = bytes.len().max(1);
    let (at, span) = (random.below(len), 1 + random.below(len.min(64)));
    let end = (at + span).min(bytes.len());
    match random.below(10) {
        0 if at < bytes.len() => bytes[at] = random.below(256) as u8,
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.drain(at.min(end)..end)),
        3 => {
            let noise: Vec<u8> = (0..span).map(|_| random.below(256) as u8).collect();
            bytes.splice(at..at, noise);
        }
        4 => {
            let again = bytes[at.min(end)..end].to_vec();
            bytes.splice(at..at, again);
        }
        5 => bytes.truncate(at),
        // Lengths are where it hurts.
        6 if at < bytes.len() => {
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b'"', b'{', b'%'][random.below(10)]
        }
        7 => {
            let word = [
                &b"\xff\xff\xff\xff"[..],
                b"99999999999",
                b"-1",
                b"\r\n\r\n",
                b"ffffffff",
                b"\0\0\0\0",
                b"[[[[[[[[",
            ][random.below(7)];
            bytes.splice(at..at, word.iter().copied());
        }
        8 if !other.is_empty() => {
            let from = random.below(other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ if at < end => bytes[at..end].iter_mut().for_each(|b| *b = random.below(256) as u8),
        _ => {}
    }
}

/// Bytes that begin as a protocol does, or as none.
fn noise(random: &mut Random) -> Vec<u8> {
    const BEGINS: [&[u8]; 14] = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"POST / HTTP/1.1\r\nContent-Type: application/json\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\n\r\n\x28\xb5\x2f\xfd",
        b"*3\r\n$3\r\nSET\r\n",
        b"AMQP\0\0\x09\x01",
        b"\x10\x0f\0\x04MQTT\x04",
        b"\x30\x0c\x02\x01\x01\x60",
        b"\0\0\0\x10\0\x03\0\0",
        b"220 a\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    ];
    let begin = BEGINS[random.below(BEGINS.len())];
    let len = random.below(3000);
    let text = random.below(2) == 0;
    let more = (0..len).map(|_| if text { b' ' + random.below(95) as u8 } else { random.below(256) as u8 });
    begin.iter().copied().chain(more).collect()
}

/// Connections that are lost, cut, repeated and out of order.
fn capture(random: &mut Random, all: &[Said]) -> Capture {
    let mut capture = Capture::new([Link::Ethernet, Link::Cooked, Link::Raw][random.below(3)]);
    for i in 0..1 + random.below(40) {
        let mut said = match random.below(8) {
            0 => [noise(random), noise(random)],
            _ => all[random.below(all.len())].clone(),
        };
        for _ in 0..random.below(5) {
            let other = all[random.below(all.len())][random.below(2)].clone();
            let side = random.below(2);
            damage(random, &mut said[side], &other);
        }
        let server_port = [80, 443, 3306, 5432, 25, 6379][random.below(6)];
        let port = 2000 + i as u16;
        let mut talk = match random.below(4) {
            0 => Talk::in_the_middle(&mut capture, port).at(server_port),
            _ => Talk::open_at(&mut capture, port, server_port),
        };
        let at_most = [1460, 300, 40, 7][random.below(4)];
        let sides =
            if random.below(4) == 0 { [End::Server, End::Client] } else { [End::Client, End::Server] };
        for end in sides {
            for segment in said[end as usize].chunks(at_most) {
                match random.below(60) {
                    0 => {}
                    1 => {
                        talk.send(end, 0, segment, "");
                        talk.send(end, -(random.below(20) as i32), segment, "");
                    }
                    2 => drop(talk.send(end, random.below(3000) as i32, segment, "")),
                    3 => {
                        let packet = talk.send(end, 0, segment, "");
                        let len = packet.bytes.len();
                        packet.bytes.truncate(len - random.below(segment.len() + 1));
                    }
                    _ => drop(talk.send(end, 0, segment, "")),
                }
                talk.skip(end, segment.len());
            }
        }
        if random.below(3) > 0 {
            talk.close();
        }
    }
    let packets = capture.packets.len();
    for _ in 0..random.below(6) {
        let packet = &mut capture.packets[random.below(packets)];
        let at = random.below(packet.bytes.len());
        packet.bytes[at] = random.below(256) as u8;
        if random.below(3) == 0 {
            packet.comment = format!("tls2pcap=1 conn=1 pid=7 args=--password%20{at} exe=/x");
        }
    }
    for _ in 0..random.below(8) {
        capture.packets.swap(random.below(packets), random.below(packets));
    }
    capture
}

/// Redacts within the time that it may take.
fn redact(from: &Path, to: &Path, seed: u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
    command.args(["redact", "-q", text(from), "-o", text(to)]).stdin(Stdio::null());
    let errors = to.with_extension("errors");
    command.stderr(std::fs::File::create(&errors).unwrap());
    let (began, mut child) = (Instant::now(), command.spawn().unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("seed {seed}: it hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "seed {seed}: {status}: {}", std::fs::read_to_string(errors).unwrap());
}

#[test]
fn damaged_captures_and_noise_keep_their_packets() {
    let (seconds, first) = (number("T2P_MUTATE", SECONDS), number("T2P_SEED", 1));
    let all = samples(&mut Draw::new(17));
    let place = Place::new();
    let began = Instant::now();
    let (mut seed, mut bytes, mut changed) = (first, 0, Vec::new());
    let mut kinds = std::collections::BTreeMap::new();
    while began.elapsed() < Duration::from_secs(seconds) || seed == first {
        let capture = capture(&mut Random::new(seed), &all);
        let is_classic = seed % 3 == 0;
        let (names, file) = match is_classic {
            true => (["in.pcap", "once.pcap", "twice.pcap"], capture.pcap()),
            false => (["in.pcapng", "once.pcapng", "twice.pcapng"], capture.pcapng(seed % 2 == 0)),
        };
        bytes += file.len();
        place.write(names[0], &file);
        let [input, once, twice] = names.map(|name| place.path(name));
        redact(&input, &once, seed);
        redact(&once, &twice, seed);
        let (one, two) = (std::fs::read(&once).unwrap(), std::fs::read(&twice).unwrap());
        if one != two {
            changed.push(seed);
            let check = super::tls2pcap(&["redact", "--check", text(&once)], &[]).stdout;
            for line in String::from_utf8(check).unwrap().lines() {
                *kinds.entry(line.rsplit('\t').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
            }
        }
        if is_classic {
            assert_eq!(one.len(), file.len(), "seed {seed}");
            let mut at = 24;
            for packet in &capture.packets {
                assert_eq!(one[at..at + 16], file[at..at + 16], "seed {seed}");
                at += 16 + packet.bytes.len();
            }
        } else {
            assert_eq!(lengths(&one, seed % 2 == 0), lengths(&file, seed % 2 == 0), "seed {seed}");
        }
        seed += 1;
    }
    println!(
        "{} captures, {} MB; once more, {} change: {kinds:?} {changed:?}",
        seed - first,
        bytes >> 20,
        changed.len()
    );
}

/// Of each packet of a pcapng file: its time and lengths.
fn lengths(file: &[u8], is_big: bool) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at + 12 <= file.len() {
        let word = |at: usize| {
            let word = *file[at..].first_chunk().unwrap();
            if is_big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        if word(at) == 6 {
            all.push(file[at + 8..at + 28].to_vec());
        }
        at += word(at + 4) as usize;
    }
    all
}
