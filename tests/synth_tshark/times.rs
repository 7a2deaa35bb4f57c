//! Times that Wireshark computes from packets which nobody has sent.

use tls2pcap::event::Rtt;

use super::*;

#[test]
fn the_initial_round_trip_time_is_what_the_kernel_has_measured_or_plainly_none() {
    let mut capture = Capture::new("times", Ports::Decode);
    let rtt = Some(Rtt { smoothed: 30, least: 20 });
    for (id, rtt, local_side, from_start) in
        [(1, rtt, Client, true), (2, rtt, Server, true), (3, rtt, Client, false), (4, None, Client, true)]
    {
        let (client, server) = (format!("10.0.0.1:4100{id}"), "10.0.0.2:443");
        capture.open(Connection { rtt, local_side, from_start, ..connection(id, &client, server) });
        capture.say(id, Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        // So long the server thinks.
        capture.time += 42_000_000;
        capture.say(id, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        capture.end(id);
    }
    capture.close();
    capture.is_clean();
    let figures = ["0.000030000", "0.000030000", "0.000020000", "0.000000001"];
    capture.shows("http.response", &["tcp.analysis.initial_rtt"], &figures);
    let sources = ["kernel", "kernel", "kernel", "none"];
    for (n, source) in sources.iter().enumerate() {
        let filter = format!("tcp.stream == {n} && frame.comment contains \"rtt_source={source}\"");
        capture.shows(&format!("{filter} && tcp.flags.syn == 1"), &["tcp.stream"], &[&n.to_string()]);
    }
}

#[test]
fn no_answer_counts_as_a_round_trip() {
    let mut capture = Capture::new("acknowledged", Ports::Decode);
    let rtt = Some(Rtt { smoothed: 30, least: 20 });
    capture.open(Connection { rtt, ..connection(1, "10.0.0.1:41001", "10.0.0.2:443") });
    for _ in 0..3 {
        capture.say(1, Client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
        capture.say(1, Client, b"ping");
        capture.time += 42_000_000;
        capture.say(1, Server, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        capture.time += 42_000_000;
    }
    capture.step(1, SegmentBody::Finish(Client));
    capture.time += 42_000_000;
    capture.step(1, SegmentBody::Finish(Server));
    capture.end(1);
    capture.close();
    capture.is_clean();
    // The handshake has a true one.
    capture.shows("tcp.analysis.ack_rtt && tcp.ack > 1", &["frame.number"], &[]);
    // Three requests and answers, and two FINs.
    capture.shows("tcp.analysis.acks_frame && tcp.len == 0 && tcp.ack > 1", &["tcp.len"], &["0"; 8]);
}
