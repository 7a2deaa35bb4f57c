//! Captures in the making: what programs say goes through synth and sink into a file, and is remembered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use tls2pcap::event::{HandleKey, Missing, ProcessKey, TupleSource};
use tls2pcap::sink::{Format, Header, OutputFile, PcapngWriter};
use tls2pcap::synth::{Carrier, Ports, Synthesizer};
use tls2pcap::track::segment::{
    Connection, ConnectionId, Payload, Process, RoleSource, Segment, SegmentBody, Side, Tuple,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A file that grows by what connections say.
pub struct Capture {
    synthesizer: Synthesizer,
    writer: Option<PcapngWriter<OutputFile>>,
    place: TempDir,
    time: u64,
    offsets: HashMap<(u64, Side), u64>,
}

fn process(id: u64) -> Arc<Process> {
    let comm = if id.is_multiple_of(2) { "curl" } else { "python3" };
    Arc::new(Process {
        key: ProcessKey { pid: 1000 + (id % 3) as u32, generation: 1 },
        comm: comm.into(),
        exe: format!("/usr/bin/{comm}"),
        args: vec![comm.into()],
        uid: 1000,
        container: None,
    })
}

impl Capture {
    pub fn new() -> Capture {
        Capture::with(Carrier::Plain)
    }

    /// In TCP, or in synthetic TLS.
    pub fn with(carrier: Carrier) -> Capture {
        let place = tempfile::tempdir().unwrap();
        let output = OutputFile::create(&place.path().join("a.pcapng"), Format::default()).unwrap();
        let header = Header { application: "tls2pcap test".into(), ..Header::default() };
        Capture {
            synthesizer: Synthesizer::new(Ports::Decode).with_carrier(carrier),
            writer: Some(PcapngWriter::new(output, &header, false).unwrap()),
            place,
            time: 1_700_000_000_000_000_000,
            offsets: HashMap::new(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.place.path().join("a.pcapng")
    }

    pub fn place(&self) -> &Path {
        self.place.path()
    }

    fn step(&mut self, id: u64, body: SegmentBody) {
        self.time += 1_000_000;
        let writer = self.writer.as_mut().unwrap();
        let segment = Segment { connection: ConnectionId(id), time: self.time, body };
        self.synthesizer.segment(&segment, &mut |packet| writer.packet(&packet).unwrap());
    }

    /// A connection, numbered from 1.
    pub fn open(&mut self, id: u64) {
        let process = process(id);
        let port = 20_000 + id as u16;
        let connection = Connection {
            id: ConnectionId(id),
            handle: HandleKey { process: process.key, address: 0xabc, generation: id },
            process,
            tid: 11,
            local_side: Side::Client,
            role_source: RoleSource::Kernel,
            tuple: Some(Tuple {
                local: ([10, 0, 0, 1], port).into(),
                remote: ([10, 0, (id / 200) as u8, 2], 443).into(),
            }),
            tuple_source: TupleSource::SameCall,
            netns: 1,
            inode: 2,
            cookie: None,
            rtt: None,
            fd: Some(3),
            library: None,
            from_start: true,
            started: self.time,
            server_name: Some(format!("host{id}.example")),
            alpn: None,
            layer_below: None,
        };
        self.step(id, SegmentBody::Open(Arc::new(connection)));
    }

    /// A call of which only the beginning is there.
    pub fn cut(&mut self, id: u64, from: Side, bytes: &[u8], len: u64) {
        let offset = self.offsets.entry((id, from)).or_default();
        let bytes = Bytes::copy_from_slice(bytes);
        let missing = ((bytes.len() as u64) < len).then_some(Missing::RingFull);
        let process = process(id);
        let payload =
            Payload { from, process, tid: 12, offset: *offset, bytes, len, missing, redacted: vec![] };
        *offset += len;
        self.step(id, SegmentBody::Payload(payload));
    }

    pub fn say(&mut self, id: u64, from: Side, bytes: &[u8]) {
        self.cut(id, from, bytes, bytes.len() as u64);
    }

    pub fn tick(&mut self) {
        self.time += 100_000_000;
        let writer = self.writer.as_mut().unwrap();
        self.synthesizer.tick(self.time, &mut |packet| writer.packet(&packet).unwrap());
    }

    pub fn end(&mut self, id: u64) {
        self.step(id, SegmentBody::Finish(Side::Client));
        self.step(id, SegmentBody::Finish(Side::Server));
        self.step(id, SegmentBody::End);
    }

    pub fn close(&mut self) {
        let mut writer = self.writer.take().unwrap();
        self.synthesizer.finish(self.time, &mut |packet| writer.packet(&packet).unwrap());
        writer.finish(self.time, &[]).unwrap();
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An encoder of HPACK that adds most fields to its table and refers to what is there.
#[derive(Default)]
pub struct Encoder {
    /// The newest first.
    table: Vec<(String, String)>,
}

impl Encoder {
    pub fn block(&mut self, fields: &[(String, String)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            if let Some(at) = self.table.iter().position(|entry| entry == &(name.clone(), value.clone())) {
                // From 62 on; two bytes beyond 126.
                match at + 62 {
                    index @ ..127 => out.push(0x80 | index as u8),
                    index => out.extend([0xff, (index - 127) as u8]),
                }
                continue;
            }
            // What is different each time would only fill the table.
            let is_added = value.len() < 40 && self.table.len() < 60;
            out.push(if is_added { 0x40 } else { 0 });
            for text in [name, value] {
                match text.len() {
                    len @ ..127 => out.push(len as u8),
                    len => {
                        let rest = len - 127;
                        out.push(0x7f);
                        if rest < 128 {
                            out.push(rest as u8);
                        } else {
                            out.extend([(rest % 128) as u8 | 0x80, (rest / 128) as u8]);
                        }
                    }
                }
                out.extend(text.as_bytes());
            }
            if is_added {
                self.table.insert(0, (name.clone(), value.clone()));
            }
        }
        out
    }
}

/// Numbers that are the same each time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    pub fn is_one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Text that no other has.
    pub fn body(&mut self, most: usize) -> Vec<u8> {
        let len = self.below(most);
        let mut body: Vec<u8> = (0..len).map(|_| b' ' + self.below(90) as u8).collect();
        body.extend(format!("<{}>", self.0).bytes());
        body
    }
}
