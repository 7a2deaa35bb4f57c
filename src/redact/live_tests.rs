use bytes::Bytes;

use super::*;
use crate::event::{HandleKey, Missing, TupleSource};
use crate::redact::{Key, RulesBuilder};
use crate::track::segment::{Payload, RoleSource};

const SECRET: &str = "hunter2Correct77Horse";

struct Scene {
    redactor: Redactor,
    out: Vec<Segment>,
    sent: Vec<(Side, Vec<u8>)>,
}

fn process() -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: 7, generation: 1 },
        comm: "curl".into(),
        exe: format!("/home/{SECRET}@corp.example/curl"),
        args: vec!["curl".into(), "-u".into(), format!("me:{SECRET}"), format!("https://a/?token={SECRET}")],
        uid: 1000,
        container: None,
    })
}

impl Scene {
    fn new() -> Scene {
        let engine = Engine::new(RulesBuilder::default().build(Key([4; 16])).unwrap());
        Scene { redactor: Redactor::new(engine), out: vec![], sent: vec![] }
    }

    fn body(&mut self, id: u64, time: WallTime, body: SegmentBody) {
        let segment = Segment { connection: ConnectionId(id), time, body };
        let out = &mut self.out;
        self.redactor.segment(segment, &mut |segment| out.push(segment));
    }

    fn open(&mut self, id: u64) {
        let process = process();
        let connection = Connection {
            id: ConnectionId(id),
            handle: HandleKey { process: process.key, address: 1, generation: id },
            process,
            tid: 7,
            local_side: Side::Client,
            role_source: RoleSource::Kernel,
            tuple: None,
            tuple_source: TupleSource::None,
            netns: 0,
            inode: 0,
            cookie: None,
            rtt: None,
            fd: None,
            library: None,
            from_start: true,
            started: 0,
            server_name: None,
            alpn: None,
            layer_below: None,
        };
        self.body(id, 0, SegmentBody::Open(Arc::new(connection)));
    }

    fn say(&mut self, id: u64, time: WallTime, from: Side, text: &[u8], missing: u64) {
        self.sent.push((from, text.to_vec()));
        let payload = Payload {
            from,
            process: process(),
            tid: 7,
            offset: 0,
            bytes: Bytes::copy_from_slice(text),
            len: text.len() as u64 + missing,
            missing: (missing > 0).then_some(Missing::RingFull),
            redacted: vec![],
        };
        self.body(id, time, SegmentBody::Payload(payload));
    }

    fn tick(&mut self, now: WallTime) {
        let out = &mut self.out;
        self.redactor.tick(now, &mut |segment| out.push(segment));
    }

    fn shown(&self) -> String {
        format!("{:?}", self.out)
    }

    fn lens(&self) -> Vec<usize> {
        let payloads = self.out.iter().filter_map(|segment| match &segment.body {
            SegmentBody::Payload(payload) => Some(payload.bytes.len()),
            _ => None,
        });
        payloads.collect()
    }
}

#[test]
fn segments_keep_order_and_length() {
    let mut scene = Scene::new();
    scene.open(1);
    assert!(scene.out.is_empty(), "what opens a connection waits for its first bytes");
    let request = format!("GET /a HTTP/1.1\r\nHost: a\r\nCookie: sid={SECRET}\r\n\r\n");
    let (one, two) = request.split_at(48);
    scene.say(1, 1, Side::Client, one.as_bytes(), 0);
    assert!(scene.out.is_empty(), "a head is whole before any of it is shown");
    scene.open(2);
    scene.say(2, 2, Side::Client, b"GET /b HTTP/1.1\r\n\r\n", 0);
    assert_eq!(scene.lens(), [19], "another connection does not wait");
    scene.say(1, 3, Side::Client, two.as_bytes(), 0);
    scene.say(1, 4, Side::Server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0);
    scene.body(1, 5, SegmentBody::Finish(Side::Server));
    scene.body(1, 6, SegmentBody::End);
    assert_eq!(scene.lens()[1..], [one.len(), two.len(), 40]);
    assert!(!scene.shown().contains(SECRET), "{}", scene.shown());
    assert!(matches!(scene.out.last().unwrap().body, SegmentBody::End));
    assert_eq!(scene.redactor.held, 0);
}

#[test]
fn what_waits_too_long_is_masked() {
    let mut scene = Scene::new();
    scene.open(1);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n";
    scene.say(1, 10, Side::Server, format!("{head}{{\"password\":\"{SECRET}").as_bytes(), 0);
    scene.tick(HOLD_TIME);
    assert!(scene.lens().is_empty());
    scene.tick(HOLD_TIME + 10);
    assert_eq!(scene.lens().len(), 1);
    scene.say(1, HOLD_TIME + 11, Side::Server, format!("{SECRET}\"}}").as_bytes(), 0);
    scene.body(1, HOLD_TIME + 12, SegmentBody::End);
    assert!(!scene.shown().contains(SECRET) && scene.shown().contains("200 OK"), "{}", scene.shown());
    assert_eq!(scene.redactor.held, 0);
}

/// However it is cut, with whatever missing, nothing is shown and no byte is lost or added.
#[test]
fn holes_cuts_and_ends() {
    let talk = format!(
        "POST /a HTTP/1.1\r\nX-Api-Key: {SECRET}\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{{\"password\":\"{SECRET}\",\"n\":1234567890123456}}GET / HTTP/1.1\r\n\r\n"
    );
    for cut in 1..talk.len() {
        for (missing, skips) in [(0, false), (9, false), (0, true)] {
            let mut scene = Scene::new();
            scene.open(1);
            let (one, two) = talk.as_bytes().split_at(cut);
            scene.say(1, 1, Side::Client, one, missing);
            if skips {
                scene.body(1, 1, SegmentBody::Skip { from: Side::Client, reason: Missing::RingFull });
            }
            scene.say(1, 2, Side::Client, two, 0);
            if cut % 2 == 0 {
                scene.body(1, 3, SegmentBody::Reset { from: Side::Server });
            }
            scene.body(1, 4, SegmentBody::End);
            assert_eq!(scene.lens(), [one.len(), two.len()], "{cut}");
            let shown: Vec<u8> = scene
                .out
                .iter()
                .filter_map(|s| match &s.body {
                    SegmentBody::Payload(payload) => Some(payload.bytes.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            for start in 0..=SECRET.len() - 9 {
                let part = &SECRET.as_bytes()[start..start + 9];
                assert!(
                    memchr::memmem::find(&shown, part).is_none(),
                    "{cut} {}",
                    String::from_utf8_lossy(&shown)
                );
            }
            assert_eq!(scene.redactor.held, 0);
        }
    }
}

#[test]
fn a_short_first_line_of_text_does_not_wait_for_more() {
    let mut scene = Scene::new();
    scene.open(1);
    scene.say(1, 1, Side::Client, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n6\r\none 1\n\r\n";
    scene.say(1, 2, Side::Server, head, 0);
    scene.tick(HOLD_TIME * 2);
    scene.say(1, HOLD_TIME * 2, Side::Server, b"6\r\ntwo 2\n\r\n", 0);
    scene.tick(HOLD_TIME * 4);
    assert!(scene.shown().contains("one 1") && scene.shown().contains("two 2"), "{}", scene.shown());
}
