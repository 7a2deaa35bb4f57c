//! A whole capture at a glance: processes, servers, exchanges, losses.

use std::collections::BTreeMap;

use serde::Serialize;

use super::json;
use super::style::{self, Ink, Line, Style};
use super::{Connection, Exchange, Item, View, WallTime, What};

/// Processes and servers that are counted by themselves.
const NAMES_MAX: usize = 4096;
/// Rows that are shown of each table.
const ROWS: usize = 10;
/// Longest text of a request, in characters.
const TEXT_MAX: usize = 100;
const OTHERS: &str = "others";

#[derive(Clone, Debug, Default, Serialize)]
struct Count {
    connections: u64,
    exchanges: u64,
    failed: u64,
    client_bytes: u64,
    server_bytes: u64,
}

/// An exchange, as a row.
#[derive(Clone, Debug, Serialize)]
struct Row {
    connection: u64,
    exchange: u64,
    server: String,
    request: String,
    status: Option<u16>,
    took_ns: Option<u64>,
    bytes: u64,
    failure: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Lost {
    holes: u64,
    bytes: u64,
    /// Holes of which nobody knows how long they are.
    unknown: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Summary {
    style: Style,
    is_json: bool,
    total: Count,
    first: Option<WallTime>,
    last: WallTime,
    processes: BTreeMap<String, Count>,
    servers: BTreeMap<String, Count>,
    protocols: BTreeMap<String, u64>,
    slowest: Vec<Row>,
    largest: Vec<Row>,
    failed: Vec<Row>,
    losses: BTreeMap<String, Lost>,
    messages: u64,
    skipped: u64,
}

impl Summary {
    /// In this style, or as JSON.
    pub fn new(style: Style, is_json: bool) -> Summary {
        Summary {
            style,
            is_json,
            total: Count::default(),
            first: None,
            last: 0,
            processes: BTreeMap::new(),
            servers: BTreeMap::new(),
            protocols: BTreeMap::new(),
            slowest: Vec::new(),
            largest: Vec::new(),
            failed: Vec::new(),
            losses: BTreeMap::new(),
            messages: 0,
            skipped: 0,
        }
    }

    fn count(&mut self, connection: &Connection, add: impl Fn(&mut Count)) {
        add(&mut self.total);
        for (table, name) in
            [(&mut self.processes, connection.process.clone()), (&mut self.servers, connection.server_name())]
        {
            if !name.is_empty() {
                add(entry(table, name));
            }
        }
    }

    fn exchange(&mut self, connection: &Connection, exchange: &Exchange) {
        let failed = u64::from(exchange.failure.is_some());
        self.count(connection, |count| {
            count.exchanges += 1;
            count.failed += failed;
        });
        let head = exchange.request.as_deref();
        let text = |bytes: Option<&[u8]>| style::text(bytes.unwrap_or(b"?")).into_owned();
        let authority = head.and_then(|head| head.authority.as_deref());
        let request = match head {
            Some(head) => {
                let text = format!("{} {}", text(head.method.as_deref()), text(head.target.as_deref()));
                match text.char_indices().nth(TEXT_MAX) {
                    Some((at, _)) => format!("{}…", &text[..at]),
                    None => text,
                }
            }
            None => "(request missing)".into(),
        };
        let row = Row {
            connection: connection.number,
            exchange: exchange.number,
            server: authority.map_or_else(|| connection.server_name(), |name| text(Some(name))),
            request,
            status: exchange.response.as_ref().and_then(|head| head.status),
            took_ns: exchange.took(),
            bytes: exchange.sent + exchange.received,
            failure: exchange.failure.clone(),
        };
        if row.failure.is_some() && self.failed.len() < ROWS {
            self.failed.push(row.clone());
        }
        if let Some(took) = row.took_ns {
            keep(&mut self.slowest, row.clone(), took, |row| row.took_ns.unwrap_or(0));
        }
        if row.bytes > 0 {
            let bytes = row.bytes;
            keep(&mut self.largest, row, bytes, |row| row.bytes);
        }
    }

    fn text(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, line: Line| self.style.line(out, 0, 4, &line);
        let total = &self.total;
        let span = self.last.saturating_sub(self.first.unwrap_or(self.last));
        let of = style::counted;
        let mut line = Line::default().add(
            Ink::Bold,
            &format!("{}, {}", of(total.connections, "connection"), of(total.exchanges, "exchange")),
        );
        if total.failed > 0 {
            line = line.add(Ink::Bad, &format!(", {} failed", style::grouped(total.failed)));
        }
        if self.messages > 0 {
            line = line.add(Ink::Plain, &format!(", {}", of(self.messages, "WebSocket message")));
        }
        let (sent, received) = (style::grouped(total.client_bytes), style::grouped(total.server_bytes));
        line = line.add(Ink::Plain, &format!("; → {sent}, ← {received} bytes in {}", style::span(span)));
        put(out, line);
        if let Some(first) = self.first {
            let text = format!("{} to {} UTC", style::date(first, false), style::date(self.last, false));
            put(out, Line::default().add(Ink::Dim, &text));
        }
        let protocols: Vec<String> =
            self.protocols.iter().map(|(name, n)| format!("{name} {}", style::grouped(*n))).collect();
        if !protocols.is_empty() {
            put(out, Line::default().add(Ink::Dim, &format!("protocols: {}", protocols.join(", "))));
        }
        for (title, table) in [("Processes", &self.processes), ("Servers", &self.servers)] {
            self.table(title, table, out);
        }
        for (title, rows) in
            [("Slowest", &self.slowest), ("Largest", &self.largest), ("Failed", &self.failed)]
        {
            if rows.is_empty() {
                continue;
            }
            out.push(b'\n');
            put(out, Line::default().add(Ink::Bold, title));
            for row in rows {
                put(out, row.line());
            }
            let more = total.failed.saturating_sub(rows.len() as u64);
            if title == "Failed" && more > 0 {
                put(out, Line::default().add(Ink::Dim, &format!("  and {} more", style::grouped(more))));
            }
        }
        if !self.losses.is_empty() || self.skipped > 0 {
            out.push(b'\n');
            put(out, Line::default().add(Ink::Bold, "Missing"));
        }
        for (reason, lost) in &self.losses {
            let places = of(lost.holes, "hole");
            let unknown = match lost.unknown {
                0 => String::new(),
                n => format!(", {} of unknown length", style::grouped(n)),
            };
            let text = format!("  {} in {places}{unknown}: {reason}", style::bytes(lost.bytes));
            put(out, Line::default().add(Ink::Bad, &text));
        }
        if self.skipped > 0 {
            let text =
                format!("  {} cannot be understood without what is missing", style::bytes(self.skipped));
            put(out, Line::default().add(Ink::Notice, &text));
        }
    }

    fn table(&self, title: &str, table: &BTreeMap<String, Count>, out: &mut Vec<u8>) {
        if table.is_empty() {
            return;
        }
        out.push(b'\n');
        self.style.line(out, 0, 4, &Line::default().add(Ink::Bold, title));
        let mut rows: Vec<_> = table.iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse((count.exchanges, count.connections)));
        for (name, count) in rows.iter().take(ROWS) {
            let mut line = Line::default().add(Ink::Name, &format!("  {name}")).add(
                Ink::Plain,
                &format!(
                    "  {}, {}",
                    style::counted(count.connections, "connection"),
                    style::counted(count.exchanges, "exchange")
                ),
            );
            if count.failed > 0 {
                line = line.add(Ink::Bad, &format!(", {} failed", style::grouped(count.failed)));
            }
            let (sent, received) = (style::grouped(count.client_bytes), style::grouped(count.server_bytes));
            self.style.line(out, 0, 4, &line.add(Ink::Dim, &format!("; → {sent}, ← {received} bytes")));
        }
        if rows.len() > ROWS {
            let text = format!("  and {} more", style::grouped((rows.len() - ROWS) as u64));
            self.style.line(out, 0, 4, &Line::default().add(Ink::Dim, &text));
        }
    }

    fn json(&self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Record<'a> {
            v: u32,
            r#type: &'a str,
            first: Option<String>,
            last: Option<String>,
            total: &'a Count,
            websocket_messages: u64,
            protocols: &'a BTreeMap<String, u64>,
            processes: &'a BTreeMap<String, Count>,
            servers: &'a BTreeMap<String, Count>,
            slowest: &'a [Row],
            largest: &'a [Row],
            failed: &'a [Row],
            losses: &'a BTreeMap<String, Lost>,
            skipped: u64,
        }
        let record = Record {
            v: json::VERSION,
            r#type: "summary",
            first: self.first.map(|time| style::date(time, true)),
            last: self.first.map(|_| style::date(self.last, true)),
            total: &self.total,
            websocket_messages: self.messages,
            protocols: &self.protocols,
            processes: &self.processes,
            servers: &self.servers,
            slowest: &self.slowest,
            largest: &self.largest,
            failed: &self.failed,
            losses: &self.losses,
            skipped: self.skipped,
        };
        json::write(out, &record);
    }
}

impl Row {
    fn line(&self) -> Line {
        let took = self.took_ns.map_or("-".to_owned(), style::span);
        let mut line = Line::default()
            .add(Ink::Bold, &format!("  #{}/{} ", self.connection, self.exchange))
            .add(Ink::Plain, &format!("{}  ", self.request))
            .add(Ink::Server, &self.server)
            .add(Ink::Dim, &format!("  {took}, {}", style::bytes(self.bytes)));
        match (&self.failure, self.status) {
            (Some(why), _) => line = line.add(Ink::Bad, &format!("  {why}")),
            (None, Some(status)) => line = line.add(Ink::Good, &format!("  {status}")),
            (None, None) => {}
        }
        line
    }
}

/// Of a name, or of all for which there is no room.
fn entry(table: &mut BTreeMap<String, Count>, name: String) -> &mut Count {
    let name = if table.len() < NAMES_MAX || table.contains_key(&name) { name } else { OTHERS.to_owned() };
    table.entry(name).or_default()
}

/// Keeps a row if it is among the largest.
fn keep(rows: &mut Vec<Row>, row: Row, key: u64, of: fn(&Row) -> u64) {
    let at = rows.partition_point(|other| of(other) >= key);
    if at < ROWS {
        rows.insert(at, row);
        rows.truncate(ROWS);
    }
}

impl View for Summary {
    fn item(&mut self, item: Item<'_>, _out: &mut Vec<u8>) {
        match item {
            Item::Open(connection) => {
                self.first = Some(self.first.map_or(connection.began, |first| first.min(connection.began)));
                self.count(connection, |count| count.connections += 1);
            }
            Item::Told(connection, told) => {
                self.last = self.last.max(told.time);
                match &told.what {
                    What::Exchange(exchange) => self.exchange(connection, exchange),
                    What::Message(_) => self.messages += 1,
                    What::Skipped(n) => self.skipped += n,
                    _ => {}
                }
            }
            Item::Loss(_, loss) => {
                let reason = loss.reason.clone().unwrap_or_else(|| "not in the file".into());
                let full = self.losses.len() >= NAMES_MAX && !self.losses.contains_key(&reason);
                let lost = self.losses.entry(if full { OTHERS.into() } else { reason }).or_default();
                lost.holes += 1;
                lost.bytes = lost.bytes.saturating_add(loss.length.unwrap_or(0));
                lost.unknown += u64::from(loss.length.is_none());
            }
            Item::Closed(connection, closed) => {
                self.last = self.last.max(closed.time);
                let [client, server] = closed.bytes;
                self.count(connection, |count| {
                    count.client_bytes += client;
                    count.server_bytes += server;
                });
                let proto = connection.facts.get("proto").map_or("unknown", String::as_str);
                let proto = if self.protocols.len() < NAMES_MAX { proto } else { OTHERS };
                *self.protocols.entry(proto.to_owned()).or_default() += 1;
            }
            Item::Bytes(..) => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        match self.is_json {
            true => self.json(out),
            false => self.text(out),
        }
    }
}
