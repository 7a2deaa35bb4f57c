//! Compares what stands in a capture file with what the load sent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::Res;
use crate::load::{Connection, Report};
use crate::packets::{self, Packet};

const STAMP: usize = 16;

/// A direction of a connection, as the file has it.
#[derive(Clone, Default)]
struct Direction {
    base: u32,
    next: u64,
    captured: u64,
    labelled: u64,
    unlabelled: u64,
    hash: Sha256,
    content: Option<Content>,
    wrong: u64,
    /// Where the bytes without a hole before `next` begin.
    run: u64,
    whole: u64,
}

/// A connection of the file.
struct Captured {
    /// Values of the comment on the SYN.
    handle: String,
    /// Client, server.
    ports: [Option<u16>; 2],
    server: bool,
    /// By who sends: client, server.
    directions: [Direction; 2],
}

/// All that a file has.
#[derive(Default)]
pub struct Scan {
    connections: Vec<Captured>,
    live: HashMap<[(u32, u16); 2], usize>,
    pub packets: u64,
}

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Bytes that were sent; on both sides if both must be in the file.
    pub sent: u64,
    pub captured: u64,
    /// Bytes that the file says are missing.
    pub labelled: u64,
    pub streams: u64,
    /// Streams with the hash of what was sent.
    pub equal: u64,
    /// Messages in the file with every byte; only if the content was compared.
    pub whole: u64,
    /// What must not be: bytes not as they were sent, holes without a label, streams of another length.
    pub wrong: Vec<String>,
}

/// The bytes of a stream, made as the load makes them.
#[derive(Clone)]
struct Content {
    message: Vec<u8>,
    number: u64,
}

impl Content {
    fn new(seed: u64, size: u64) -> Content {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut letter = || {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            b"abcdefghijklmnopqrstuvwxyz012345"[(x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 59) as usize]
        };
        let mut content = Content { message: (0..size).map(|_| letter()).collect(), number: u64::MAX };
        content.stamp(0);
        content
    }

    fn stamp(&mut self, number: u64) {
        if self.number != number {
            self.number = number;
            let tail = self.message.len() - STAMP;
            self.message[..STAMP].copy_from_slice(format!("<{number:014x}>").as_bytes());
            self.message[tail..].copy_from_slice(format!("[{number:014x}]").as_bytes());
        }
    }

    /// How many of the bytes are not those of the stream at this offset.
    fn differences(&mut self, mut offset: u64, mut bytes: &[u8]) -> u64 {
        let mut wrong = 0;
        while !bytes.is_empty() {
            let at = (offset % self.message.len() as u64) as usize;
            self.stamp(offset / self.message.len() as u64);
            let (part, rest) = bytes.split_at(bytes.len().min(self.message.len() - at));
            let expected = &self.message[at..at + part.len()];
            if part != expected {
                wrong += part.iter().zip(expected).filter(|(a, b)| a != b).count() as u64;
            }
            offset += part.len() as u64;
            bytes = rest;
        }
        wrong
    }
}

impl Direction {
    fn data(&mut self, packet: &Packet<'_>) {
        // Streams are longer than sequence numbers: the nearest place to the last one.
        let ahead = packet.seq.wrapping_sub(self.base).wrapping_sub(self.next as u32) as i32;
        let at = self.next.saturating_add_signed(i64::from(ahead));
        if at != self.next {
            self.unlabelled += at.abs_diff(self.next);
            (self.next, self.run) = (at, at);
        }
        let captured = packet.payload.len() as u64;
        if let Some(content) = &mut self.content {
            self.wrong += content.differences(at, packet.payload);
            let size = content.message.len() as u64;
            let before = (self.next / size).max(self.run.div_ceil(size));
            self.whole += ((at + captured) / size).saturating_sub(before);
        }
        self.hash.update(packet.payload);
        self.captured += captured;
        self.labelled += packet.len - captured.min(packet.len);
        self.next = at + packet.len;
        if captured < packet.len {
            self.run = self.next;
        }
    }
}

impl Scan {
    /// Reads a file. `sent`: compare each byte at its place, which the hash of a stream with holes
    /// cannot tell.
    pub fn read(file: impl Read, sent: Option<&Report>) -> io::Result<Scan> {
        let mut scan = Scan::default();
        scan.packets =
            packets::read(BufReader::with_capacity(1 << 20, file), |packet| scan.packet(packet, sent))?;
        Ok(scan)
    }

    fn packet(&mut self, packet: &Packet<'_>, sent: Option<&Report>) {
        let [source, destination] = packet.ends;
        if packet.syn && !packet.ack {
            let value = |key: &str| {
                let mut pairs = packet.comments.iter().flat_map(|c| c.split(' '));
                pairs.find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            };
            let server = value("role") == Some("server");
            let port = |end: &str| value(end)?.rsplit(':').next()?.parse().ok();
            let (local, remote) = (port("local"), port("remote"));
            let mut captured = Captured {
                handle: value("handle").unwrap_or_default().into(),
                ports: if server { [remote, local] } else { [local, remote] },
                server,
                directions: Default::default(),
            };
            let connection =
                sent.and_then(|s| s.connections.iter().find(|c| captured.is(c)).zip(Some(s.size)));
            if let Some((connection, size)) = connection {
                for (i, direction) in captured.directions.iter_mut().enumerate() {
                    direction.content = Some(Content::new(connection.number * 2 + i as u64 + 1, size));
                }
            }
            self.live.insert([source, destination], self.connections.len());
            self.connections.push(captured);
        }
        let (at, from_server) = match self.live.get(&[source, destination]) {
            Some(at) => (*at, 0),
            None => match self.live.get(&[destination, source]) {
                Some(at) => (*at, 1),
                None => return,
            },
        };
        let direction = &mut self.connections[at].directions[from_server];
        if packet.syn {
            direction.base = packet.seq.wrapping_add(1);
        } else if packet.len > 0 {
            direction.data(packet);
        }
    }

    /// Compares. `views`: how many ends of each connection must be in the file.
    pub fn compare(&self, sent: &Report, views: u64) -> Verdict {
        let mut verdict = Verdict::default();
        let mut by_handle: HashMap<&str, Vec<&Captured>> = HashMap::new();
        for captured in &self.connections {
            by_handle.entry(&captured.handle).or_default().push(captured);
        }
        for connection in &sent.connections {
            let ends =
                connection.handles.iter().flat_map(|h| by_handle.get(h.as_str()).into_iter().flatten());
            let ends: Vec<&&Captured> = ends.filter(|c| c.is(connection)).collect();
            if ends.len() as u64 != views {
                verdict.wrong.push(format!("connection {}: {} times", connection.number, ends.len()));
            }
            for (i, stream) in connection.streams.iter().enumerate().filter(|(_, s)| s.bytes > 0) {
                verdict.sent += stream.bytes * views;
                verdict.streams += views;
                for end in &ends {
                    let direction = &end.directions[i];
                    verdict.captured += direction.captured;
                    verdict.labelled += direction.labelled;
                    verdict.whole += direction.whole;
                    let hash: String =
                        direction.hash.clone().finalize().iter().map(|b| format!("{b:02x}")).collect();
                    verdict.equal += u64::from(hash == stream.sha256 && direction.captured == stream.bytes);
                    if direction.wrong > 0 || direction.unlabelled > 0 || direction.next != stream.bytes {
                        verdict.wrong.push(format!(
                            "connection {} {}: {} wrong bytes, {} missing without a label, {} of {} bytes long",
                            connection.number,
                            if i == 0 { "c2s" } else { "s2c" },
                            direction.wrong,
                            direction.unlabelled,
                            direction.next,
                            stream.bytes,
                        ));
                    }
                }
            }
        }
        verdict
    }
}

impl Captured {
    fn is(&self, sent: &Connection) -> bool {
        let handle = &sent.handles[usize::from(self.server)];
        self.handle == *handle && (sent.ports == [0, 0] || self.ports == sent.ports.map(Some))
    }
}

/// What tshark's "follow stream" shows of a file has the hashes of what was sent; `None`: there is
/// no tshark here. For small files.
pub fn judged_by_tshark(file: &Path, sent: &Report) -> Option<Res<bool>> {
    let mut shown = Vec::new();
    for stream in 0..sent.connections.len() {
        let follow = format!("follow,tcp,raw,{stream}");
        let mut tshark = Command::new("tshark");
        let output = tshark.arg("-r").arg(file).args(["-q", "-z", &follow]).output().ok()?;
        let mut hashes = [Sha256::new(), Sha256::new()];
        // Six lines of head, then a line for each packet; the server's begin with a tab.
        for line in String::from_utf8_lossy(&output.stdout).lines().skip(6).filter(|l| !l.starts_with('=')) {
            let hex = line.trim().as_bytes();
            let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
            let bytes: Vec<u8> = hex.chunks_exact(2).map(|c| digit(c[0]) << 4 | digit(c[1])).collect();
            hashes[usize::from(line.starts_with('\t'))].update(bytes);
        }
        shown.push(hashes.map(|h| h.finalize().iter().map(|b| format!("{b:02x}")).collect::<String>()));
    }
    let mut expected: Vec<[&str; 2]> = sent
        .connections
        .iter()
        .map(|c| [c.streams[0].sha256.as_str(), c.streams[1].sha256.as_str()])
        .collect();
    expected.sort();
    shown.sort();
    Some(Ok(shown.iter().map(|s| [s[0].as_str(), s[1].as_str()]).eq(expected)))
}

/// Opens and compares a file whole.
pub fn check(file: &Path, sent: &Report, views: u64) -> Res<Verdict> {
    Ok(Scan::read(File::open(file)?, Some(sent))?.compare(sent, views))
}
