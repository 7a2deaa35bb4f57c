//! Streams as files have them: cut, lost, sent twice, out of order; and files that are damaged.

use super::files::{Capture, End, Link, Talk};
use super::{Place, SECRET, assert_hidden, judge, text, tls2pcap};

fn post() -> Vec<u8> {
    let body = format!("{{\"user\":\"me\",\"password\":\"{SECRET}\",\"n\":3}}");
    format!("POST /a HTTP/1.1\r\nHost: a\r\nCookie: sid={SECRET}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn each_link_layer_and_both_versions_of_ip() {
    for link in Link::ALL {
        let place = Place::new();
        let mut capture = Capture::new(link);
        for six in [false, true] {
            capture.six = six;
            let mut talk = Talk::open(&mut capture, 2000);
            talk.say(End::Client, &post(), 40);
        }
        let input = place.write("in.pcap", &capture.pcap());
        let output = place.redact(&input, &[]);
        let bytes = std::fs::read(&output).unwrap();
        let parsed = memchr::memmem::find_iter(&bytes, b"POST /a HTTP").count();
        assert_eq!(parsed, 2, "{link:?}");
        judge(&input, &output);
    }
}

#[test]
fn sent_twice_and_out_of_order() {
    let place = Place::new();
    let bytes = post();
    let mut capture = Capture::new(Link::Ethernet);
    let mut talk = Talk::open(&mut capture, 2000);
    let segments: Vec<&[u8]> = bytes.chunks(30).collect();
    for pair in segments.chunks(2) {
        // The second first; then once more, with what came before.
        let second = pair.get(1).copied().unwrap_or_default();
        if !second.is_empty() {
            talk.send(End::Client, pair[0].len() as i32, second, "");
        }
        talk.send(End::Client, 0, pair[0], "");
        talk.skip(End::Client, pair[0].len() + second.len());
        talk.send(End::Client, -((pair[0].len() + second.len()) as i32), &[pair[0], second].concat(), "");
    }
    let input = place.write("in.pcap", &capture.pcap());
    let output = place.redact(&input, &[]);
    judge(&input, &output);
    let check = tls2pcap(&["redact", "--check", text(&input)], &[]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("cookie") && said.contains("JSON member"), "{said}");
}

#[test]
fn beside_holes_and_cut_packets() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    let bytes = [post(), post()].concat();
    for (i, hole) in (0..bytes.len() - 30).step_by(7).enumerate() {
        for (kind, gap) in [1usize, 10, 30].into_iter().enumerate() {
            let mut talk = Talk::open(&mut capture, 2000 + (i * 8 + kind * 2) as u16);
            let (one, two) = (&bytes[..hole], &bytes[hole + gap..]);
            talk.say(End::Client, one, 100);
            talk.skip(End::Client, gap);
            talk.say(End::Client, two, 100);
            // Acknowledged, so it is a hole.
            talk.say(End::Server, b"HTTP/1.1 204 No Content\r\n\r\n", 100);
            // The same, cut by a snapshot length.
            let mut talk = Talk::open(&mut capture, 2001 + (i * 8 + kind * 2) as u16);
            talk.say(End::Client, one, 100);
            let packet = talk.send(End::Client, 0, &bytes[hole..hole + gap], "");
            packet.bytes.truncate(packet.len - gap);
            talk.skip(End::Client, gap);
            talk.say(End::Client, two, 100);
        }
    }
    let input = place.write("in.pcap", &capture.pcap());
    let output = place.redact(&input, &[]);
    assert_hidden(&std::fs::read(&output).unwrap(), "the file");
    // In the middle of a connection, from each byte on.
    let mut capture = Capture::new(Link::Ethernet);
    for start in 0..bytes.len() {
        let mut talk = Talk::in_the_middle(&mut capture, 2000 + start as u16);
        talk.say(End::Client, &bytes[start..], 64);
    }
    let input = place.write("middle.pcap", &capture.pcap());
    assert_hidden(&std::fs::read(place.redact(&input, &[])).unwrap(), "the file");
}

#[test]
fn what_is_not_tcp_or_not_understood_is_filled() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Raw);
    let mut udp = Vec::new();
    let payload = format!("token={SECRET}");
    etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 9999)
        .write(&mut udp, payload.as_bytes())
        .unwrap();
    let len = udp.len();
    capture.packets.push(super::files::Packet { bytes: udp, len, comment: String::new(), is_last: false });
    let mut talk = Talk::open(&mut capture, 2000).at(5555);
    talk.say(End::Client, format!("LOGIN me {SECRET}\r\n").as_bytes(), 1000);
    let input = place.write("in.pcap", &capture.pcap());
    let output = place.redact(&input, &[]);
    judge(&input, &output);
    let bytes = std::fs::read(&output).unwrap();
    assert!(memchr::memmem::find(&bytes, b"XXXXX xx ").is_some());
}

#[test]
fn damaged_files_keep_their_packets() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    for port in 0..6 {
        let mut talk = Talk::open(&mut capture, 2000 + port);
        talk.say(End::Client, &post(), 80);
        talk.say(End::Server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 80);
        talk.close();
    }
    let mut seed = 11u64;
    let mut random = move |most: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % most
    };
    for round in 0..150 {
        let mut packets = Capture { packets: capture.packets.clone(), ..Capture::new(capture.link) };
        for _ in 0..1 + random(20) {
            let packet = random(packets.packets.len());
            let bytes = &mut packets.packets[packet].bytes;
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        let file = packets.pcap();
        let input = place.write("in.pcap", &file);
        let output = place.path("out.pcap");
        let done = tls2pcap(&["redact", "-q", text(&input), "-o", text(&output)], &[]);
        assert!(done.status.success(), "{round}: {}", String::from_utf8_lossy(&done.stderr));
        let after = std::fs::read(&output).unwrap();
        assert_eq!(after.len(), file.len(), "{round}");
        // Headers of packets stay.
        let mut at = 24;
        for packet in &packets.packets {
            assert_eq!(after[at..at + 16], file[at..at + 16]);
            at += 16 + packet.bytes.len();
        }
    }
    // Cut anywhere: what is whole is done, and it is said.
    let whole = capture.pcapng(false);
    for cut in (0..whole.len()).step_by(211) {
        let input = place.write("cut.pcapng", &whole[..cut]);
        let output = place.path("out.pcapng");
        let done = tls2pcap(&["redact", "-q", text(&input), "-o", text(&output)], &[]);
        assert!(
            matches!(done.status.code(), Some(0 | 1)),
            "{cut}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}
