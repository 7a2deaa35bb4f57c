//! However the bytes of a message are split over calls, each release decodes the same of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::matrix::{Case, cases};

/// The bytes of one side at a time, and how each is split: lengths of its pieces but the last.
type Script = Vec<(Side, Vec<u8>, Vec<usize>)>;

/// What tells messages apart, beside what each protocol's messages must show.
const MORE: &[&str] = &[
    "mqtt.msgtype",
    "mqtt.len",
    "amqp.type",
    "amqp.length",
    "kafka.len",
    "pgsql.length",
    "mysql.packet_length",
    "mongo.message_length",
    "dns.id",
    "http2.type",
    "http2.length",
    "websocket.opcode",
    "http.content_length",
    "resp.bulk_string.length",
    "sip.CSeq",
    "xmpp.to",
    "xmpp.from",
    "grpc.message_length",
];

/// Ways to split all that is said: by the first bytes of each message, by all of it, by larger pieces.
fn splits(len: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![1; len - 1], vec![1; 24.min(len - 1)], vec![100; (len - 1) / 100]];
    all.extend((1..len.min(25)).map(|at| vec![at]));
    all.extend([len - 1, len.saturating_sub(2).max(1)].map(|at| vec![at]));
    all
}

fn script(case: &Case, n: usize) -> Vec<(Side, Vec<u8>)> {
    let [ask, answer] = long::exchange(case.name, n);
    let mut all = case.begin.clone();
    all.push((Client, case.middle[0].clone()));
    all.push((Server, case.middle[1].clone()));
    all.push((Client, ask.0));
    all.push((Server, answer.0));
    all
}

/// One connection for each way.
fn scripts(case: &Case, n: usize) -> Vec<Script> {
    let script = script(case, n);
    let longest = script.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
    let whole = script.iter().map(|(side, bytes)| (*side, bytes.clone(), Vec::new())).collect();
    let mut all = vec![whole];
    for i in 0..splits(longest).len() {
        let split = |(side, bytes): &(Side, Vec<u8>)| {
            let splits = splits(bytes.len());
            (*side, bytes.clone(), splits[i.min(splits.len() - 1)].clone())
        };
        all.push(script.iter().map(split).collect());
    }
    all
}

/// Which ways of which protocols some release decodes otherwise than the whole.
fn differing(n: usize, tls: bool, ways: impl Fn(usize) -> bool) -> Vec<String> {
    let cases = cases();
    let name = format!("pieces-{n}-{tls}");
    let mut capture = if tls { Capture::in_tls(&name) } else { Capture::new(&name, Ports::Decode) };
    // Nothing waits long enough to be written for that.
    capture.step = 5_000;
    let process = connection(1, "10.0.0.1:1", "10.0.0.1:2").process;
    let mut streams = Vec::new();
    for (c, case) in cases.iter().enumerate() {
        for (way, script) in scripts(case, n).into_iter().enumerate().filter(|(way, _)| ways(*way)) {
            let id = streams.len() as u64 + 1;
            capture.open(Connection {
                process: process.clone(),
                alpn: case.alpn.map(str::to_owned),
                ..connection(id, &format!("10.0.{way}.{c}:41000"), &format!("10.1.{way}.{c}:{}", case.port))
            });
            let lens: Vec<_> = script.iter().map(|(_, _, lens)| lens.first().copied()).collect();
            for (side, bytes, lens) in script {
                let mut rest = &bytes[..];
                for len in lens {
                    let (piece, after) = rest.split_at(len);
                    capture.say(id, side, piece);
                    rest = after;
                }
                capture.say(id, side, rest);
            }
            capture.wait();
            capture.end(id);
            streams.push((case.name, way, lens));
        }
    }
    capture.close();
    let mut fields = vec!["tcp.stream", "tcp.srcport", "_ws.malformed"];
    let shown: BTreeSet<_> = cases.iter().flat_map(|case| case.shown).map(|(field, _)| field).collect();
    fields.extend(shown.into_iter().filter(|field| *field != "frame.protocols"));
    fields.extend(MORE);
    let wrong = RefCell::new(Vec::new());
    capture.ask("tcp.len > 0", &fields, |judge, lines| {
        // By stream, side and field: all values in order.
        let mut seen = vec![BTreeMap::<(bool, usize), Vec<&str>>::new(); streams.len()];
        for line in &lines {
            let stream: usize = line[0].parse().unwrap();
            for (column, value) in line.iter().enumerate().skip(2).filter(|(_, value)| !value.is_empty()) {
                let all = seen[stream].entry((line[1] == "41000", column)).or_default();
                all.extend(value.split(','));
            }
        }
        let mut whole = &seen[0];
        for ((name, way, lens), seen) in streams.iter().zip(&seen) {
            if *way == 0 {
                whole = seen;
            }
            let columns: BTreeSet<_> = whole.keys().chain(seen.keys()).collect();
            let differ = columns.into_iter().filter(|key| whole.get(key) != seen.get(key));
            let differ: BTreeSet<_> = differ.map(|(_, column)| fields[*column]).collect();
            let malformed = seen.keys().any(|(_, column)| fields[*column] == "_ws.malformed");
            if !differ.is_empty() || malformed {
                let judge = judge.rsplit('/').next().unwrap();
                wrong.borrow_mut().push(format!("{judge}, {name}, first pieces {lens:?}: {differ:?}"));
            }
        }
    });
    wrong.into_inner()
}

#[test]
fn pieces_of_messages_decode_as_the_whole() {
    let wrong = differing(200, false, |_| true);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pieces_of_messages_decode_as_the_whole_inside_tls() {
    let wrong = differing(200, true, |_| true);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pieces_of_long_messages_decode_as_the_whole() {
    // Not byte by byte.
    let mut wrong = differing(17_000, false, |way| way != 1);
    // The releases show a value of Redis in parts if it lies in several packets, and read no command of POP3
    // that does. None is malformed.
    wrong.retain(|way| {
        !(way.contains(", Redis,") || way.contains(", POP3,")) || way.contains("_ws.malformed")
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}
