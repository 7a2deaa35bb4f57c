//! No port of any release's dissector gets bytes that are not its own.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use tls2pcap::synth::is_owned;

use super::*;

/// Where bytes of no known protocol are most likely those of the port's own dissector: it carries TLS
/// there after a STARTTLS, or the true port is its port for TLS.
const LIKELY: &[u16] = &[
    20, 21, 25, 53, 110, 119, 143, 389, 587, 1433, 1883, 3268, 3306, 3389, 3868, 5060, 5222, 5432, 5672,
    5900, 6379, 6667, 9042, 9092, 27017,
];
/// Their ports for TLS, whose dissector hands on to them.
const LIKELY_IN_TLS: &[u16] = &[465, 636, 853, 993, 995, 5061, 5671, 8883];

const HTTP: [&[u8]; 2] =
    [b"GET /owned HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];
const UNKNOWN: [&[u8]; 2] = [b"something that nobody knows", b"an answer in kind"];

/// All that some release's dissector asks for.
fn owned() -> Vec<u16> {
    (0..=u16::MAX).filter(|port| is_owned(*port)).collect()
}

#[test]
fn the_list_of_owned_ports_is_that_of_the_releases() {
    let judges: Vec<_> = judges().into_iter().filter(|judge| judge.is_absolute()).collect();
    if judges.len() < 3 {
        return skipped("the list of owned ports", "it needs the three releases of tshark");
    }
    let mut all = BTreeSet::new();
    for tshark in judges {
        let output = Command::new(&tshark).args(["-G", "decodes"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ports = text.lines().filter_map(|line| line.strip_prefix("tcp.port\t")?.split('\t').next());
        all.extend(ports.map(|port| port.parse::<u16>().unwrap()));
    }
    let known: BTreeSet<_> = owned().into_iter().collect();
    assert_eq!(all.difference(&known).collect::<Vec<_>>(), Vec::<&u16>::new(), "not known here");
    assert_eq!(known.difference(&all).collect::<Vec<_>>(), Vec::<&u16>::new(), "owned by nobody");
}

/// A connection for each port: `addresses` makes client and server of it.
fn each(
    capture: &mut Capture,
    ids: Range<u64>,
    ports: &[u16],
    said: [&[u8]; 2],
    addresses: impl Fn(u64, u16) -> (String, String),
) {
    // One interface: readers are slow with thousands.
    let process = connection(1, "10.0.0.1:1", "10.0.0.1:2").process;
    for (id, port) in ids.zip(ports) {
        let (client, server) = addresses(id, *port);
        let process = Arc::clone(&process);
        capture.open(Connection { process, ..connection(id, &client, &server) });
        capture.say(id, Client, said[0]);
        capture.say(id, Server, said[1]);
        capture.wait();
        capture.end(id);
    }
}

/// Four connections for each port: with HTTP/1 and unknown bytes, as the server's port and as the client's.
fn check(mut capture: Capture, in_tls: bool) {
    let ports: Vec<u16> = owned().into_iter().filter(|port| *port > 0).collect();
    let count = ports.len() as u64;
    let on = |id: u64, client: u16, server: u16| {
        let host = format!("{}.{}", id / 250, id % 250 + 1);
        (format!("10.1.{host}:{client}"), format!("10.2.{host}:{server}"))
    };
    let begin = |n: u64| 1 + n * count..1 + (n + 1) * count;
    each(&mut capture, begin(0), &ports, HTTP, |id, port| on(id, 41_000, port));
    each(&mut capture, begin(1), &ports, HTTP, |id, port| on(id, port, 8443));
    each(&mut capture, begin(2), &ports, UNKNOWN, |id, port| on(id, 41_000, port));
    each(&mut capture, begin(3), &ports, UNKNOWN, |id, port| on(id, port, 12_345));
    capture.close();
    let fields = ["tcp.stream", "tcp.dstport", "frame.protocols", "_ws.malformed"];
    // Each side's only message; of TLS, its record.
    let filter = "tcp.flags.push == 1 && (!tls.record || tls.record.content_type == 23)";
    capture.ask(filter, &fields, |judge, lines| {
        assert_eq!(lines.len() as u64, 8 * count, "{judge}");
        let mut wrong = Vec::new();
        // The port that the client asked on, which speaks first.
        let mut written: HashMap<u64, u16> = HashMap::new();
        for line in &lines {
            let stream: u64 = line[0].parse().unwrap();
            let last = line[2].rsplit(':').next().unwrap();
            let written = *written.entry(stream).or_insert_with(|| line[1].parse().unwrap());
            let port = ports[(stream % count) as usize];
            let right = match stream / count {
                0 | 1 => last == "http",
                _ => {
                    last == "data"
                        || in_tls && last == "tls"
                        || LIKELY.contains(&written)
                        || in_tls && LIKELY_IN_TLS.contains(&written)
                }
            };
            if !right || !line[3].is_empty() && last == "http" {
                wrong.push(format!("{port}: {line:?}"));
            }
        }
        assert!(wrong.is_empty(), "{judge}: {} of {}: {wrong:#?}", wrong.len(), lines.len());
    });
}

#[test]
fn plaintext_reaches_no_wrong_dissector() {
    check(Capture::new("ports-plain", Ports::Decode), false);
}

#[test]
fn tls_reaches_no_wrong_dissector() {
    check(Capture::in_tls("ports-tls"), true);
}
