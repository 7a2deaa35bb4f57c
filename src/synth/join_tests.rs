//! Short calls of one message are one packet.

use super::*;
use crate::synth::{JOIN_MAX, JOIN_TIME};

const MQTT: &str = "127.0.0.1:8883";
const CONNECT: &[u8] = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test";

fn publish(len: usize) -> Vec<u8> {
    let mut message = vec![0x30, len as u8 | 0x80, (len >> 7) as u8, 0, 1, b't'];
    message.resize(3 + len, b'x');
    message
}

/// A connection of MQTT whose first messages are written.
fn begun() -> Run {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, MQTT));
    run.step(1, data(Side::Client, 0, CONNECT));
    run.step(1, data(Side::Server, 0, b"\x20\x02\0\0"));
    run.log.0.clear();
    run
}

/// What the client says next, in pieces.
fn say(run: &mut Run, offset: &mut u64, bytes: &[u8], pieces: &[usize]) {
    let mut rest = bytes;
    for len in pieces {
        run.step(1, data(Side::Client, *offset, &rest[..*len]));
        *offset += *len as u64;
        rest = &rest[*len..];
    }
}

fn payloads(run: &Run) -> Vec<&[u8]> {
    run.log.0.iter().filter(|p| !p.payload.is_empty()).map(|p| &p.payload[..]).collect()
}

#[test]
fn a_message_in_pieces_is_one_packet_and_each_message_has_its_own() {
    let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
    let message = publish(200);
    say(&mut run, &mut offset, &message, &[1, 1, 1]);
    assert!(run.log.0.is_empty(), "{:?}", run.log.0);
    say(&mut run, &mut offset, &message[3..], &[200]);
    assert_eq!(payloads(&run), [&message[..]]);
    assert_eq!(run.log.0[0].time, run.time, "the time of the last call");
    assert!(run.log.0[0].calls.contains(" calls=1x3,200 first_call="), "{:?}", run.log.0[0]);
    // Whole messages wait for nothing, however short they are.
    say(&mut run, &mut offset, b"\xc0\0", &[2]);
    say(&mut run, &mut offset, b"\xc0\0", &[2]);
    assert_eq!(payloads(&run)[1..], [b"\xc0\0", b"\xc0\0"]);
    assert_eq!(run.log.0[1].calls, "");
    // Of a long one, what has come together is enough.
    let message = publish(16_000);
    say(&mut run, &mut offset, &message, &[1, 1, 1, 1000, 4000, 1000, 10_000]);
    let lens: Vec<_> = payloads(&run)[3..].iter().map(|p| p.len()).collect();
    assert_eq!(lens, [5003, 11_000]);
    run.log.0.iter().for_each(|p| assert!(comment::parse(&p.calls).is_ok() || p.calls.is_empty()));
}

#[test]
fn what_waits_is_written_before_the_other_side_and_in_time() {
    let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
    let message = publish(200);
    say(&mut run, &mut offset, &message, &[1, 1]);
    let said = run.time;
    run.step(1, data(Side::Server, 4, b"\xd0\0"));
    assert_eq!(payloads(&run), [&message[..2], b"\xd0\0"]);
    assert_eq!(run.log.0[0].time, said);
    // Nothing follows.
    say(&mut run, &mut offset, &message[2..], &[1]);
    run.tick(JOIN_TIME / 2);
    assert_eq!(payloads(&run).len(), 2);
    run.tick(JOIN_TIME / 2);
    assert_eq!(payloads(&run).len(), 3);
    assert!(run.synthesizer.waiting.is_empty() && run.synthesizer.held_bytes == 0);
    // Too late for what came before, even without a tick.
    say(&mut run, &mut offset, &message[3..], &[1]);
    run.time += JOIN_TIME;
    say(&mut run, &mut offset, &message[4..], &[199]);
    assert_eq!(payloads(&run)[3..], [&message[3..4], &message[4..]]);
    for body in
        [SegmentBody::Finish(Side::Server), SegmentBody::Reset { from: Side::Server }, SegmentBody::End]
    {
        let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
        say(&mut run, &mut offset, &message, &[1]);
        run.step(1, body);
        assert_eq!(run.log.0[0].payload, message[..1]);
        assert!(run.synthesizer.waiting.is_empty() && run.synthesizer.held_bytes == 0);
    }
    let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
    say(&mut run, &mut offset, &message, &[1]);
    run.synthesizer.finish(run.time, &mut |packet| run.log.add(packet));
    assert_eq!(payloads(&run), [&message[..1]]);
}

#[test]
fn nothing_is_joined_over_a_hole_or_of_two_threads() {
    let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
    let message = publish(200);
    say(&mut run, &mut offset, &message, &[1, 1]);
    run.step(1, hole(Side::Client, offset, 1));
    offset += 1;
    say(&mut run, &mut offset, &message[3..], &[200]);
    run.tick(JOIN_TIME);
    assert_eq!(payloads(&run), [&message[..2], &message[3..]]);
    assert_eq!(run.log.value(0, "missing").as_deref(), Some("1"));
    assert!(run.log.0[0].calls.contains(" calls=1x2 "), "{:?}", run.log.0[0]);

    let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
    say(&mut run, &mut offset, &message, &[1]);
    let SegmentBody::Payload(mut payload) = data(Side::Client, offset, &message[1..]) else { unreachable!() };
    payload.tid += 1;
    run.step(1, SegmentBody::Payload(payload));
    assert_eq!(payloads(&run), [&message[..1], &message[1..]]);
}

#[test]
fn heads_and_frames_wait_for_their_end() {
    for (protocol, pieces, expected) in [
        (
            "h1",
            vec![&b"GET / HT"[..], b"TP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"GET /2 HTTP/1.1\r\n\r\n"],
            vec![27, 19],
        ),
        // A body does not wait for its head, nor the head for it.
        ("h1", vec![b"PUT / HTTP/1.1\r\nContent-Length: 6\r\n", b"\r\n", b"abc", b"def"], vec![37, 6]),
        (
            "h2",
            vec![
                b"PRI * HTTP/2.0\r\n",
                b"\r\nSM\r\n\r\n",
                b"\0\0\0\x04\0",
                b"\0\0\0\0",
                b"\0\0\x08\x06\0\0\0\0\0",
                b"12345678",
            ],
            vec![24, 9, 17],
        ),
    ] {
        let mut run = Run::new(Ports::Decode);
        let alpn = (protocol == "h2").then(|| "h2".to_owned());
        run.open(Connection { alpn, ..connection(1, CLIENT, SERVER) });
        let mut offset = 0;
        for piece in pieces {
            run.step(1, data(Side::Client, offset, piece));
            offset += piece.len() as u64;
        }
        let lens: Vec<_> = payloads(&run).iter().map(|p| p.len()).collect();
        assert_eq!(lens, expected, "{protocol}");
        run.log.assert_continuous();
    }
}

#[test]
fn bytes_of_no_known_protocol_stay_apart() {
    let mut run = Run::new(Ports::Decode);
    run.open(connection(1, CLIENT, SERVER));
    for i in 0..3 {
        run.step(1, data(Side::Client, i, b"?"));
        run.tick(HOLD_TIME);
    }
    assert_eq!(payloads(&run), [b"?"; 3]);
}

#[test]
fn what_waits_is_bounded() {
    let (mut run, mut offset) = (begun(), CONNECT.len() as u64);
    let message = publish(16_000);
    for piece in message.chunks(1) {
        run.step(1, data(Side::Client, offset, piece));
        offset += 1;
        assert!(run.synthesizer.held_bytes < JOIN_MAX);
    }
    assert!(payloads(&run).iter().all(|p| p.len() <= JOIN_MAX));
    assert_eq!(payloads(&run).concat(), message);
}
