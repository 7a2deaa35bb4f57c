//! One JSON object a line; docs/views.md is its schema.

use std::collections::HashSet;
use std::net::SocketAddr;

use serde::Serialize;

use super::style::date;
use super::text::opcode_name;
use super::{
    Closed, Connection, Content, End, Exchange, Field, Head, Item, Loss, Message, MessageKind, Part,
    PartKind, Protocol, Side, Told, Unpacked, View, WallTime, What,
};
use crate::printable;

/// Version of the schema. New keys and types do not change it.
pub(super) const VERSION: u32 = 1;
/// Processes that are told once; of more, some are told again.
const PROCESSES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct Json {
    processes: HashSet<String>,
}

/// Bytes as text, or as hexadecimal digits where they are none.
#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Hex { hex: String },
}

fn value(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Hex { hex: hex(bytes) },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

#[derive(Serialize)]
struct Record<'a, T> {
    v: u32,
    r#type: &'a str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct ProcessRecord<'a> {
    name: &'a str,
    pid: Option<u32>,
    comm: &'a str,
    exe: Option<&'a String>,
    uid: Option<u32>,
    container: Option<&'a String>,
}

#[derive(Serialize)]
struct ConnectionRecord<'a> {
    conn: Option<u64>,
    client: SocketAddr,
    server: SocketAddr,
    process: Option<&'a str>,
    role: Option<&'a str>,
    from_start: bool,
    facts: &'a std::collections::BTreeMap<String, String>,
}

#[derive(Serialize)]
struct FieldRecord {
    name: Option<Value>,
    value: Option<Value>,
}

fn fields(fields: &[Field]) -> Vec<FieldRecord> {
    let of = |text: &Option<Vec<u8>>| text.as_deref().map(value);
    fields.iter().map(|field| FieldRecord { name: of(&field.name), value: of(&field.value) }).collect()
}

#[derive(Serialize)]
struct BodyRecord {
    length: u64,
    missing: u64,
    complete: bool,
    coding: Option<String>,
    plain_length: Option<u64>,
    plain_complete: bool,
    not_unpacked: Option<&'static str>,
    sha256: Option<String>,
    text: Option<String>,
    hex: Option<String>,
    truncated: bool,
}

fn body(content: &Content) -> BodyRecord {
    let shown = content.preview_text();
    let plain = content.plain_length();
    BodyRecord {
        length: content.length,
        missing: content.missing,
        complete: content.is_complete,
        coding: Some(content.coding.clone()).filter(|coding| !coding.is_empty()),
        plain_length: plain,
        plain_complete: content.is_complete
            && matches!(content.unpacked, Unpacked::Same | Unpacked::Whole(_)),
        not_unpacked: match content.unpacked {
            Unpacked::Not(why) => Some(why),
            _ => None,
        },
        sha256: content.sha256.map(|hash| hex(&hash)),
        text: shown.map(str::to_owned),
        hex: shown.is_none().then(|| hex(&content.preview)),
        truncated: plain.is_none_or(|len| len > content.preview.len() as u64),
    }
}

#[derive(Serialize, Default)]
struct MessageRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u64>,
    from: &'a str,
    protocol: &'a str,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_missing: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_cut: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<FieldRecord>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trailers: Option<Vec<FieldRecord>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    body: Option<BodyRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

#[derive(Serialize)]
struct ExchangeRecord<'a> {
    exchange: u64,
    stream: Option<u64>,
    method: Option<Value>,
    target: Option<Value>,
    authority: Option<Value>,
    status: Option<u16>,
    grpc_status: Option<u32>,
    request_time: Option<String>,
    response_time: Option<String>,
    end_time: Option<String>,
    waited_ns: Option<u64>,
    took_ns: Option<u64>,
    sent: u64,
    received: u64,
    failure: Option<&'a str>,
}

#[derive(Serialize)]
struct LossRecord<'a> {
    from: &'a str,
    length: Option<u64>,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct DataRecord<'a> {
    from: &'a str,
    body: BodyRecord,
}

#[derive(Serialize)]
struct NoteRecord<'a> {
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

#[derive(Serialize)]
struct ClosedRecord<'a> {
    how: &'a str,
    by: Option<&'a str>,
    client_bytes: u64,
    server_bytes: u64,
}

/// Appends an object and the end of its line. Characters that could command a terminal are escaped.
pub(super) fn write(out: &mut Vec<u8>, record: &impl Serialize) {
    let begin = out.len();
    // Memory takes all, and these types have no keys but strings.
    if serde_json::to_writer(&mut *out, record).is_err() {
        out.truncate(begin);
        return;
    }
    let is_harmless = |b: &u8| b.is_ascii() && *b != 0x7f;
    if !out[begin..].iter().all(is_harmless) {
        let text = String::from_utf8_lossy(&out[begin..]).into_owned();
        out.truncate(begin);
        for c in text.chars() {
            if printable::is_unsafe(c) {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    out.push(b'\n');
}

impl Json {
    /// Lines of JSON.
    pub fn new() -> Json {
        Json::default()
    }

    fn put(out: &mut Vec<u8>, r#type: &str, time: WallTime, connection: &Connection, rest: impl Serialize) {
        let connection = Some(connection.number);
        write(out, &Record { v: VERSION, r#type, time: date(time, true), connection, rest });
    }

    fn open(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        let name = connection.process.as_str();
        let is_new = !name.is_empty() && self.processes.insert(name.to_owned());
        if self.processes.len() > PROCESSES_MAX {
            self.processes.clear();
        }
        let facts = &connection.facts;
        if is_new {
            let (comm, pid) =
                name.strip_suffix(']').and_then(|name| name.rsplit_once('[')).unwrap_or((name, ""));
            let rest = ProcessRecord {
                name,
                pid: pid.parse().ok(),
                comm,
                exe: facts.get("exe"),
                uid: facts.get("uid").and_then(|uid| uid.parse().ok()),
                container: facts.get("container"),
            };
            let time = date(connection.began, true);
            write(out, &Record { v: VERSION, r#type: "process", time, connection: None, rest });
        }
        let rest = ConnectionRecord {
            conn: connection.conn,
            client: connection.client,
            server: connection.server,
            process: Some(name).filter(|name| !name.is_empty()),
            role: connection.role.map(side),
            from_start: connection.from_start,
            facts,
        };
        Json::put(out, "connection", connection.began, connection, rest);
    }

    fn told(connection: &Connection, told: &Told, out: &mut Vec<u8>) {
        let from = side(told.from);
        match &told.what {
            // Its end has all.
            What::Head(_) => {}
            What::End(end) => Json::put(out, "message", end.head.time, connection, message(end, told.time)),
            What::Part(head, part) => {
                Json::put(out, "message", told.time, connection, self::part(head, part))
            }
            What::Message(message) => {
                Json::put(out, "message", told.time, connection, websocket(message, from))
            }
            What::Exchange(exchange) => {
                let time =
                    exchange.request.as_ref().or(exchange.response.as_ref()).map_or(told.time, |h| h.time);
                Json::put(out, "exchange", time, connection, self::exchange(exchange));
            }
            What::Data(content) => {
                Json::put(out, "data", told.time, connection, DataRecord { from, body: body(content) });
            }
            What::Skipped(n) => {
                let rest = NoteRecord { from, skipped: Some(*n), text: None };
                Json::put(out, "note", told.time, connection, rest);
            }
            What::Note(text) => {
                let rest = NoteRecord { from, skipped: None, text: Some(text) };
                Json::put(out, "note", told.time, connection, rest);
            }
        }
    }

    fn loss(connection: &Connection, loss: &Loss, out: &mut Vec<u8>) {
        let rest = LossRecord { from: side(loss.from), length: loss.length, reason: loss.reason.as_deref() };
        Json::put(out, "loss", loss.time, connection, rest);
    }

    fn closed(connection: &Connection, closed: &Closed, out: &mut Vec<u8>) {
        let how = match (closed.is_open, closed.is_reset) {
            (true, _) => "open",
            (_, true) => "reset",
            (_, false) => "closed",
        };
        let [client_bytes, server_bytes] = closed.bytes;
        let rest = ClosedRecord { how, by: closed.by.map(side), client_bytes, server_bytes };
        Json::put(out, "close", closed.time, connection, rest);
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http/1",
        Protocol::Http2 => "http/2",
    }
}

fn stream(head: &Head) -> Option<u64> {
    Some(head.stream).filter(|stream| *stream > 0)
}

fn message(end: &End, time: WallTime) -> MessageRecord<'_> {
    let head = &end.head;
    MessageRecord {
        exchange: Some(head.exchange).filter(|number| *number > 0),
        stream: stream(head),
        from: side(head.from),
        protocol: protocol(head.protocol),
        kind: match head.kind {
            MessageKind::Request => "request",
            MessageKind::Response => "response",
            MessageKind::Interim => "interim",
            MessageKind::Promise => "promise",
        },
        version: Some(head.version.as_str()).filter(|version| !version.is_empty()),
        method: head.method.as_deref().map(value),
        target: head.target.as_deref().map(value),
        authority: head.authority.as_deref().map(value),
        status: head.status,
        reason: Some(&head.reason[..]).filter(|reason| !reason.is_empty()).map(value),
        head_missing: Some(true).filter(|_| head.is_missing),
        head_cut: Some(true).filter(|_| head.is_cut),
        headers: Some(fields(&head.fields)),
        trailers: Some(&end.trailers).filter(|trailers| !trailers.is_empty()).map(|f| fields(f)),
        body: Some(body(&end.content)),
        cut: end.cut.as_deref(),
        ended: Some(date(time, true)),
        ..MessageRecord::default()
    }
}

fn part<'a>(head: &'a Head, part: &'a Part) -> MessageRecord<'a> {
    let (protocol, kind, event, id) = match &part.kind {
        PartKind::Grpc => ("grpc", "message", None, None),
        PartKind::Event { name, id } => ("sse", "event", Some(name.as_str()), id.as_deref()),
    };
    MessageRecord {
        exchange: Some(head.exchange).filter(|number| *number > 0),
        stream: stream(head),
        from: side(head.from),
        protocol,
        kind,
        number: Some(part.number),
        event,
        id,
        body: Some(body(&part.content)),
        ..MessageRecord::default()
    }
}

fn websocket<'a>(message: &Message, from: &'a str) -> MessageRecord<'a> {
    MessageRecord {
        from,
        protocol: "websocket",
        kind: if message.opcode == 0 { "rest" } else { opcode_name(message.opcode) },
        code: message.code,
        body: Some(body(&message.content)),
        ..MessageRecord::default()
    }
}

fn exchange(exchange: &Exchange) -> ExchangeRecord<'_> {
    let request = exchange.request.as_deref();
    let response = exchange.response.as_deref();
    let of = |get: fn(&Head) -> &Option<Vec<u8>>| request.and_then(|head| get(head).as_deref().map(value));
    ExchangeRecord {
        exchange: exchange.number,
        stream: request.or(response).and_then(stream),
        method: of(|head| &head.method),
        target: of(|head| &head.target),
        authority: of(|head| &head.authority),
        status: response.and_then(|head| head.status),
        grpc_status: exchange.grpc,
        request_time: request.map(|head| date(head.time, true)),
        response_time: response.map(|head| date(head.time, true)),
        end_time: exchange.ended.map(|time| date(time, true)),
        waited_ns: exchange.waited(),
        took_ns: exchange.took(),
        sent: exchange.sent,
        received: exchange.received,
        failure: exchange.failure.as_deref(),
    }
}

impl View for Json {
    fn item(&mut self, item: Item<'_>, out: &mut Vec<u8>) {
        match item {
            Item::Open(connection) => self.open(connection, out),
            Item::Told(connection, told) => Json::told(connection, told, out),
            Item::Loss(connection, loss) => Json::loss(connection, loss, out),
            Item::Closed(connection, closed) => Json::closed(connection, &closed, out),
            Item::Bytes(..) => {}
        }
    }
}
