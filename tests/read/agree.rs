//! Exchanges of all kinds, with holes among them: what is shown is what was said, and what each tshark shows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tls2pcap::synth::Carrier;
use tls2pcap::track::segment::Side::{self, Client, Server};

use super::make::{Capture, Encoder, PREFACE, Random, frame};
use super::{gate, json, of};

/// A message as it was said.
#[derive(Clone, Debug)]
struct Said {
    connection: u64,
    from: &'static str,
    /// Method and target, or status.
    first: String,
    fields: Vec<(String, String)>,
    /// Unpacked.
    body: Vec<u8>,
}

struct Made {
    capture: Capture,
    random: Random,
    said: Vec<Said>,
    /// Connections with holes.
    holed: BTreeSet<u64>,
    holes: bool,
    count: u64,
}

fn side(from: Side) -> &'static str {
    if from == Client { "client" } else { "server" }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

impl Made {
    /// Says bytes in several calls, some of which may be cut.
    fn calls(&mut self, id: u64, from: Side, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = (1 + self.random.below(9000)).min(bytes.len());
            let (call, rest) = bytes.split_at(len);
            if self.holes && self.random.is_one_in(12) {
                self.holed.insert(id - 1);
                // Of some calls nothing is there.
                let there = if self.random.is_one_in(2) { 0 } else { self.random.below(len + 1) };
                self.capture.cut(id, from, &call[..there], len as u64);
            } else {
                self.capture.say(id, from, call);
            }
            bytes = rest;
        }
    }

    fn fields(&mut self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        for i in 0..self.random.below(6) {
            let len = self.random.below(200);
            let value: String = (0..len).map(|_| char::from(b'a' + self.random.below(26) as u8)).collect();
            fields.push((format!("x-field-{i}"), format!("v{value}")));
        }
        fields.push(("accept".into(), "*/*".into()));
        fields
    }

    fn say(&mut self, id: u64, from: Side, first: String, fields: &[(String, String)], body: &[u8]) {
        let said = Said {
            connection: id - 1,
            from: side(from),
            first,
            fields: fields.to_vec(),
            body: body.to_vec(),
        };
        self.said.push(said);
    }

    fn next_path(&mut self) -> String {
        self.count += 1;
        format!("/p{}/r{}.txt", self.random.below(100), self.count)
    }

    fn http1(&mut self, id: u64) {
        self.capture.open(id);
        for _ in 0..1 + self.random.below(6) {
            let method = ["GET", "POST", "PUT", "HEAD", "DELETE"][self.random.below(5)];
            let path = self.next_path();
            let has_body = matches!(method, "POST" | "PUT");
            let body = if has_body { self.random.body(5000) } else { vec![] };
            let mut fields = vec![("Host".to_owned(), format!("host{id}.example"))];
            fields.extend(self.fields());
            self.message(
                id,
                Client,
                &format!("{method} {path} HTTP/1.1"),
                format!("{method} {path}"),
                fields,
                &body,
                has_body,
            );
            let status = [200, 201, 204, 304, 404, 500][self.random.below(6)];
            let has_none = method == "HEAD" || matches!(status, 204 | 304);
            let body = if has_none { vec![] } else { self.random.body(30_000) };
            let fields = self.fields();
            self.message(
                id,
                Server,
                &format!("HTTP/1.1 {status} Reason"),
                status.to_string(),
                fields,
                &body,
                !has_none,
            );
            self.capture.tick();
        }
        self.capture.end(id);
    }

    #[allow(clippy::too_many_arguments)]
    fn message(
        &mut self,
        id: u64,
        from: Side,
        line: &str,
        first: String,
        mut fields: Vec<(String, String)>,
        body: &[u8],
        has_body: bool,
    ) {
        let mut sent = body.to_vec();
        if has_body {
            fields.push(("Content-Type".into(), "text/plain".into()));
            if self.random.is_one_in(3) {
                fields.push(("Content-Encoding".into(), "gzip".into()));
                sent = gzip(&sent);
            }
            if self.random.is_one_in(2) {
                fields.push(("Transfer-Encoding".into(), "chunked".into()));
                let mut chunks = Vec::new();
                for chunk in sent.chunks(1 + self.random.below(4000)) {
                    chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    chunks.extend(chunk);
                    chunks.extend(b"\r\n");
                }
                chunks.extend(b"0\r\n\r\n");
                sent = chunks;
            } else {
                fields.push(("Content-Length".into(), sent.len().to_string()));
            }
        }
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let bytes = [format!("{line}\r\n{lines}\r\n").as_bytes(), &sent].concat();
        self.say(id, from, first, &fields, body);
        self.calls(id, from, &bytes);
    }

    fn http2(&mut self, id: u64, is_grpc: bool) {
        self.capture.open(id);
        let mut encoders = [Encoder::default(), Encoder::default()];
        self.calls(id, Client, &[PREFACE, &frame(4, 0, 0, &[])].concat());
        self.capture.say(id, Server, &frame(4, 0, 0, &[]));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for n in 0..1 + self.random.below(8) {
            let stream = 2 * n as u32 + 1;
            let method = if is_grpc { "POST" } else { ["GET", "POST", "PUT"][self.random.below(3)] };
            let path = self.next_path();
            let mut fields = vec![
                pair(":method", method),
                pair(":scheme", "https"),
                pair(":authority", &format!("host{id}.example")),
                pair(":path", &path),
            ];
            fields.extend(self.fields());
            if is_grpc {
                fields.push(pair("content-type", "application/grpc"));
                fields.push(pair("te", "trailers"));
            } else {
                fields.push(pair("content-type", "text/plain"));
            }
            let body = if method == "GET" { vec![] } else { self.body(is_grpc) };
            self.stream(
                id,
                Client,
                stream,
                &mut encoders[0],
                format!("{method} {path}"),
                &fields,
                &body,
                &[],
            );
            let status = if is_grpc { 200 } else { [200, 404, 503][self.random.below(3)] };
            let mut fields = vec![pair(":status", &status.to_string())];
            fields.extend(self.fields());
            let trailers =
                if is_grpc { vec![pair("grpc-status", ["0", "5"][self.random.below(2)])] } else { vec![] };
            fields.push(pair("content-type", if is_grpc { "application/grpc" } else { "text/plain" }));
            let body = self.body(is_grpc);
            self.stream(id, Server, stream, &mut encoders[1], status.to_string(), &fields, &body, &trailers);
            self.capture.tick();
        }
        self.capture.end(id);
    }

    fn body(&mut self, is_grpc: bool) -> Vec<u8> {
        if !is_grpc {
            return self.random.body(20_000);
        }
        let mut body = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let message = self.random.body(3000);
            body.push(0);
            body.extend((message.len() as u32).to_be_bytes());
            body.extend(message);
        }
        body
    }

    #[allow(clippy::too_many_arguments)]
    fn stream(
        &mut self,
        id: u64,
        from: Side,
        stream: u32,
        encoder: &mut Encoder,
        first: String,
        fields: &[(String, String)],
        body: &[u8],
        trailers: &[(String, String)],
    ) {
        self.say(id, from, first, &[fields, trailers].concat(), body);
        let block = encoder.block(fields);
        let end = u8::from(body.is_empty() && trailers.is_empty());
        if block.len() > 20 && self.random.is_one_in(3) {
            self.calls(
                id,
                from,
                &[frame(1, end, stream, &block[..20]), frame(9, 4, stream, &block[20..])].concat(),
            );
        } else {
            self.calls(id, from, &frame(1, 4 | end, stream, &block));
        }
        let chunks: Vec<&[u8]> = body.chunks(1 + self.random.below(8000)).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            let end = u8::from(i + 1 == chunks.len() && trailers.is_empty());
            if self.random.is_one_in(4) {
                let payload = [&[7][..], chunk, &[0; 7]].concat();
                self.calls(id, from, &frame(0, 8 | end, stream, &payload));
            } else {
                self.calls(id, from, &frame(0, end, stream, chunk));
            }
        }
        if !trailers.is_empty() {
            let block = encoder.block(trailers);
            self.calls(id, from, &frame(1, 5, stream, &block));
        }
    }

    fn websocket(&mut self, id: u64) {
        self.capture.open(id);
        let path = self.next_path();
        let fields = vec![
            ("Host".to_owned(), "a".to_owned()),
            ("Upgrade".into(), "websocket".into()),
            ("Connection".into(), "Upgrade".into()),
            ("Sec-WebSocket-Key".into(), "dGhlIHNhbXBsZSBub25jZQ==".into()),
            ("Sec-WebSocket-Version".into(), "13".into()),
        ];
        self.message(id, Client, &format!("GET {path} HTTP/1.1"), format!("GET {path}"), fields, &[], false);
        let fields =
            vec![("Upgrade".to_owned(), "websocket".to_owned()), ("Connection".into(), "Upgrade".into())];
        self.message(id, Server, "HTTP/1.1 101 Switching Protocols", "101".into(), fields, &[], false);
        for _ in 0..1 + self.random.below(10) {
            let from = if self.random.is_one_in(2) { Client } else { Server };
            let body = self.random.body(600);
            let mut bytes = vec![0x81];
            let bit = if from == Client { 0x80 } else { 0 };
            match body.len() {
                len @ ..126 => bytes.push(bit | len as u8),
                len => bytes.extend([&[bit | 126][..], &(len as u16).to_be_bytes()].concat()),
            }
            let key = [9, 8, 7, 6];
            if from == Client {
                bytes.extend(key);
                bytes.extend(body.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
            } else {
                bytes.extend(&body);
            }
            self.say(id, from, "websocket".into(), &[], &body);
            self.calls(id, from, &bytes);
        }
        self.capture.end(id);
    }
}

fn make(seed: u64, holes: bool, connections: u64) -> Made {
    make_with(Carrier::Plain, seed, holes, connections)
}

fn make_with(carrier: Carrier, seed: u64, holes: bool, connections: u64) -> Made {
    let mut made = Made {
        capture: Capture::with(carrier),
        random: Random(seed),
        said: vec![],
        holed: BTreeSet::new(),
        holes,
        count: 0,
    };
    for id in 1..=connections {
        match made.random.below(4) {
            0 | 1 => made.http1(id),
            2 => {
                let is_grpc = made.random.is_one_in(2);
                made.http2(id, is_grpc);
            }
            _ => made.websocket(id),
        }
    }
    made.capture.close();
    made
}

/// What is said of a message in JSON.
fn first_of(record: &Value) -> Option<String> {
    match (record["method"].as_str(), record["status"].as_u64()) {
        (Some(method), _) => Some(format!("{method} {}", record["target"].as_str()?)),
        (None, Some(status)) => Some(status.to_string()),
        (None, None) => None,
    }
}

fn fields_of(record: &Value) -> Vec<(String, String)> {
    let of = |key: &str| record[key].as_array().cloned().unwrap_or_default();
    let all = [of("headers"), of("trailers")].concat();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    all.iter().map(|field| (text(&field["name"]), text(&field["value"]))).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn is_http(record: &Value) -> bool {
    record["protocol"].as_str().is_some_and(|protocol| protocol.starts_with("http"))
}

/// Every complete message that is shown was said so; and where nothing is missing, all that was said is shown.
fn assert_true(made: &Made, records: &[Value]) {
    type Line = (u64, String, String, Vec<(String, String)>, usize, String);
    let mut truth: BTreeMap<Line, i64> = BTreeMap::new();
    for said in &made.said {
        let line = (
            said.connection,
            said.from.to_owned(),
            said.first.clone(),
            said.fields.clone(),
            said.body.len(),
            hash(&said.body),
        );
        *truth.entry(line).or_default() += 1;
    }
    let (mut complete, mut incomplete) = (0, 0);
    for record in of(records, "message").filter(|r| is_http(r) || r["protocol"] == "websocket") {
        let body = &record["body"];
        if body["plain_complete"] != true || record["head_missing"] == true {
            incomplete += 1;
            continue;
        }
        complete += 1;
        let is_websocket = record["protocol"] == "websocket";
        let Some(first) = first_of(record).or(is_websocket.then(|| "websocket".into())) else {
            // What the table said is lost.
            assert!(made.holed.contains(&record["connection"].as_u64().unwrap()), "{record}");
            continue;
        };
        let line = (
            record["connection"].as_u64().unwrap(),
            record["from"].as_str().unwrap().to_owned(),
            first,
            fields_of(record),
            body["plain_length"].as_u64().unwrap() as usize,
            body["sha256"].as_str().unwrap().to_owned(),
        );
        // Of a table that has lost blocks some fields are not known.
        if line.3.iter().any(|(name, value)| name == "?" || value == "?") {
            assert!(made.holed.contains(&line.0));
            continue;
        }
        // Trailers may be missing, with what ends a stream.
        let is_near = made.holed.contains(&line.0)
            && truth.keys().any(|t| t.0 == line.0 && t.2 == line.2 && t.5 == line.5);
        match truth.get_mut(&line) {
            Some(left) if *left > 0 => *left -= 1,
            _ if is_near => {}
            _ => panic!("nobody said so: {line:?}\n{record}"),
        }
    }
    for (line, left) in &truth {
        assert!(*left == 0 || made.holed.contains(&line.0), "not shown: {line:?}");
    }
    assert!(complete > made.said.len() / 3, "{complete} complete, {incomplete} not, of {}", made.said.len());
    assert_eq!(incomplete > 0, !made.holed.is_empty());
}

fn tshark(program: &Path, file: &Path, args: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new(program);
    command.args(["-n", "-r"]).arg(file).args(args).env("HOME", "/nonexistent").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Per connection, sorted.
type Lines = BTreeMap<u64, Vec<String>>;

/// What a field of tshark says, each value one line.
fn asked(program: &Path, file: &Path, filter: &str, fields: &[&str], join: &str) -> Lines {
    let mut args = vec!["-Y", filter, "-T", "fields", "-E", "aggregator=|", "-e", "tcp.stream"];
    args.extend(fields.iter().flat_map(|field| ["-e", field]));
    let mut lines = Lines::new();
    for row in tshark(program, file, &args) {
        let stream = row[0].split('|').next().unwrap().parse().unwrap();
        let columns: Vec<Vec<&str>> = row[1..].iter().map(|column| column.split('|').collect()).collect();
        for i in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
            let values: Vec<&str> =
                columns.iter().map(|column| column.get(i).copied().unwrap_or("")).collect();
            let line = values.join(join);
            if !line.trim().is_empty() {
                lines.entry(stream).or_default().push(line);
            }
        }
    }
    lines.values_mut().for_each(|lines| lines.sort());
    lines
}

fn shown(records: &[Value], of_record: impl Fn(&Value) -> Vec<String>) -> Lines {
    let mut lines = Lines::new();
    for record in of(records, "message") {
        let own = of_record(record);
        if !own.is_empty() {
            lines.entry(record["connection"].as_u64().unwrap()).or_default().extend(own);
        }
    }
    lines.values_mut().for_each(|lines| lines.sort());
    lines
}

/// Where nothing is missing both say the same; elsewhere all that tshark says, and did not make up, is shown.
fn assert_same(made: &Made, what: &str, judge: &str, theirs: &Lines, ours: &Lines) {
    let all: BTreeSet<&u64> = theirs.keys().chain(ours.keys()).collect();
    assert!(!all.is_empty(), "{judge}: {what}");
    let none = vec![];
    let (mut total, mut lacking) = (0, Vec::new());
    for connection in all {
        let (theirs, ours) = (theirs.get(connection).unwrap_or(&none), ours.get(connection).unwrap_or(&none));
        if !made.holed.contains(connection) {
            assert_eq!(theirs, ours, "{judge}: {what} of {connection}");
            continue;
        }
        for line in theirs.iter().filter(|line| !line.contains("made-up") && !line.contains("unknown")) {
            total += 1;
            if !ours.contains(line) {
                lacking.push(line.clone());
            }
        }
    }
    // Of a head of which only a part of the first line is there, tshark shows that part.
    assert!(lacking.len() * 100 <= total * 3, "{judge}: {what}: {} of {total}: {lacking:?}", lacking.len());
}

fn judged(made: &Made, records: &[Value]) {
    let file = made.capture.path();
    let protocol = |wanted: &'static str| move |record: &Value| record["protocol"] == wanted;
    let requests =
        shown(records, |record| match record["method"].is_string() && protocol("http/1")(record) {
            true => first_of(record).into_iter().collect(),
            false => vec![],
        });
    let statuses = shown(records, |record| match record["status"].is_u64() && is_http(record) {
        true => vec![record["status"].to_string()],
        false => vec![],
    });
    let lines = |name: &'static str| {
        shown(records, move |record| match protocol(name)(record) {
            true => fields_of(record).iter().map(|(name, value)| format!("{name}: {value}")).collect(),
            false => vec![],
        })
    };
    let (fields1, fields2) = (lines("http/1"), lines("http/2"));
    let messages = |name: &'static str| {
        shown(records, move |record| match protocol(name)(record) && record["body"]["complete"] == true {
            true => vec![record["body"]["length"].to_string()],
            false => vec![],
        })
    };
    let (grpc, websocket) = (messages("grpc"), messages("websocket"));
    for (judge, program) in gate::tsharks() {
        let ask = |filter: &str, fields: &[&str], join: &str| asked(program, &file, filter, fields, join);
        let theirs = ask("http.request && !http2", &["http.request.method", "http.request.uri"], " ");
        assert_same(made, "requests", judge, &theirs, &requests);
        let mut theirs = ask("http.response && !http2", &["http.response.code"], "");
        for (stream, codes) in ask("http2.headers.status", &["http2.headers.status"], "") {
            theirs.entry(stream).or_default().extend(codes);
        }
        theirs.values_mut().for_each(|codes| codes.sort());
        theirs.values_mut().for_each(|codes| codes.retain(|code| code.parse::<u16>().is_ok()));
        if made.holed.is_empty() {
            assert_same(made, "statuses", judge, &theirs, &statuses);
        }
        let theirs = ask("http && !http2", &["http.request.line", "http.response.line"], "");
        let theirs: Lines = theirs
            .into_iter()
            .map(|(stream, lines)| {
                let mut lines: Vec<String> =
                    lines.iter().map(|l| l.replace("\\r\\n", "").trim_end().to_owned()).collect();
                lines.sort();
                (stream, lines)
            })
            .collect();
        if made.holed.is_empty() {
            assert_same(made, "fields", judge, &theirs, &fields1);
        }
        let theirs = ask("http2.header.name", &["http2.header.name", "http2.header.value"], ": ");
        if made.holed.is_empty() {
            assert_same(made, "fields of HTTP/2", judge, &theirs, &fields2);
        }
        let paths = |lines: &Lines| -> Lines {
            let of =
                |lines: &Vec<String>| lines.iter().filter(|l| l.starts_with(":path: ")).cloned().collect();
            lines
                .iter()
                .map(|(stream, lines)| (*stream, of(lines)))
                .filter(|(_, l): &(u64, Vec<String>)| !l.is_empty())
                .collect()
        };
        assert_same(made, "paths of HTTP/2", judge, &paths(&theirs), &paths(&fields2));
        if made.holed.is_empty() {
            let theirs = ask("grpc.message_length", &["grpc.message_length"], "");
            // It misses a few where one frame ends and another begins.
            let count = |lines: &Lines| lines.values().map(Vec::len).sum::<usize>();
            for (stream, lines) in &theirs {
                assert!(lines.iter().all(|line| grpc[stream].contains(line)), "{judge}: gRPC of {stream}");
            }
            assert!(count(&theirs) <= count(&grpc) && count(&theirs) * 10 > count(&grpc) * 9, "{judge}");
            let theirs = ask("websocket.payload_length", &["websocket.payload_length"], "");
            let lengths = ask("websocket.payload_length_ext_16", &["websocket.payload_length_ext_16"], "");
            let mut both = Lines::new();
            for (stream, all) in theirs.into_iter().chain(lengths) {
                both.entry(stream).or_default().extend(all.into_iter().filter(|len| len != "126"));
            }
            both.values_mut().for_each(|lengths| lengths.sort());
            assert_same(made, "messages of WebSocket", judge, &both, &websocket);
        }
        bodies(made, records, judge, program, &file);
    }
}

/// Whole bodies, as tshark exports them, unpacked.
fn bodies(made: &Made, records: &[Value], judge: &str, program: &Path, file: &Path) {
    // That release exports none of HTTP/2.
    let is_old = judge.starts_with("4.0");
    let folder = made.capture.place().join(format!("objects-{judge}"));
    let option = format!("http,{}", folder.display());
    tshark(program, file, &["--export-objects", &option, "-Y", "frame.number == 0"]);
    let theirs: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| hash(&std::fs::read(entry.unwrap().path()).unwrap()))
        .collect();
    let is_grpc = |record: &Value| fields_of(record).iter().any(|(_, value)| value == "application/grpc");
    let ours: BTreeMap<String, &Value> = of(records, "message")
        .filter(|r| {
            is_http(r) && !is_grpc(r) && r["body"]["plain_length"].as_u64().is_some_and(|len| len > 0)
        })
        .filter_map(|r| Some((r["body"]["sha256"].as_str()?.to_owned(), r)))
        .collect();
    assert!(!theirs.is_empty() && !ours.is_empty());
    let mut found = 0;
    for (hash, record) in &ours {
        let connection = record["connection"].as_u64().unwrap();
        if theirs.contains(hash) {
            found += 1;
        } else if !(made.holed.contains(&connection) || is_old && record["protocol"] == "http/2") {
            panic!("{judge} does not export what is shown: {record}");
        }
    }
    assert!(found > ours.len() / 4, "{judge}: {found} of {}", ours.len());
}

#[test]
fn exchanges_of_all_kinds() {
    let made = make(1, false, 160);
    let records = json(&made.capture.path(), &[]);
    assert_true(&made, &records);
    assert_eq!(of(&records, "loss").count(), 0);
    judged(&made, &records);
}

#[test]
fn exchanges_in_synthetic_tls() {
    for (seed, holes) in [(11, false), (12, true), (13, true)] {
        let made = make_with(Carrier::Tls, seed, holes, 60);
        let records = json(&made.capture.path(), &[]);
        assert_true(&made, &records);
        assert_eq!(of(&records, "loss").count() > 0, holes);
    }
}

#[test]
fn exchanges_with_holes() {
    for seed in 2..5 {
        let made = make(seed, true, 120);
        assert!(made.holed.len() > 30);
        let records = json(&made.capture.path(), &[]);
        assert_true(&made, &records);
        let lost: BTreeSet<u64> = of(&records, "loss").map(|r| r["connection"].as_u64().unwrap()).collect();
        assert!(lost.is_subset(&made.holed));
        judged(&made, &records);
    }
}
