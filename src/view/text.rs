//! Exchanges as a conversation: who to whom, heads and bodies, and how long it took.

use std::sync::Arc;

use super::hex::{arrow, loss_line};
use super::style::{self, Ink, Line, Style};
use super::{
    Closed, Connection, Content, End, Exchange, Field, Head, Item, Message, MessageKind, Part, PartKind,
    Protocol, Side, Told, Unpacked, View, WallTime, What,
};

/// Columns that what is said is indented by.
const INDENT: usize = 4;
/// Bytes that are shown of what is no text.
const HEX_SHOWN: usize = 24;

/// See the module.
#[derive(Debug)]
pub struct Text {
    style: Style,
    /// What was written last: connection, exchange and side.
    last: Option<(u64, u64, Side)>,
    is_begun: bool,
}

/// `15:04:05.123456 #0 curl[8752] → example.org:443`.
pub(super) fn who(connection: &Connection, time: WallTime, from: Side, exchange: u64) -> Line {
    let number = match exchange {
        0 => format!(" #{} ", connection.number),
        exchange => format!(" #{}/{exchange} ", connection.number),
    };
    let [client, server] = ends(connection);
    Line::default()
        .add(Ink::Dim, &style::clock(time))
        .add(Ink::Bold, &number)
        .add(Ink::Client, &client)
        .add(Ink::Plain, &format!(" {} ", arrow(from)))
        .add(Ink::Server, &server)
}

/// What both ends are called.
pub(super) fn ends(connection: &Connection) -> [String; 2] {
    let peer = |key: &str| {
        connection
            .facts
            .get("peer_comm")
            .map(|comm| format!("{comm}[{}]", connection.facts.get(key).map_or("?", String::as_str)))
    };
    let own = Some(connection.process.clone()).filter(|name| !name.is_empty());
    let (client, server) = match connection.role {
        Some(Side::Client) => {
            (own, peer("peer_pid").map(|name| format!("{name} {}", connection.server_name())))
        }
        Some(Side::Server) => {
            (peer("peer_pid"), own.map(|name| format!("{name} {}", connection.server_name())))
        }
        None => (None, None),
    };
    [
        client.unwrap_or_else(|| connection.client.to_string()),
        server.unwrap_or_else(|| connection.server_name()),
    ]
}

impl Text {
    /// Text in this style.
    pub fn new(style: Style) -> Text {
        Text { style, last: None, is_begun: false }
    }

    fn line(&self, out: &mut Vec<u8>, line: &Line) {
        self.style.line(out, INDENT, 2, line);
    }

    /// A line that says who says the following; none if they go on.
    fn begin(&mut self, connection: &Connection, told: &Told, exchange: u64, about: &str, out: &mut Vec<u8>) {
        let now = Some((connection.number, exchange, told.from));
        if self.last == now && exchange > 0 {
            return;
        }
        self.gap(out);
        self.last = now;
        let mut line = who(connection, told.time, told.from, exchange);
        if !about.is_empty() {
            line = line.add(Ink::Dim, &format!("  {about}"));
        }
        self.style.line(out, 0, 2, &line);
    }

    fn gap(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_begun, true) {
            out.push(b'\n');
        }
    }

    fn open(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        self.gap(out);
        self.last = None;
        let mut line = Line::default()
            .add(Ink::Dim, &style::date(connection.began, false))
            .add(Ink::Bold, &format!(" #{} ", connection.number))
            .add(Ink::Client, &connection.client.to_string())
            .add(Ink::Plain, " → ")
            .add(Ink::Server, &connection.server.to_string());
        let facts = &connection.facts;
        if !connection.process.is_empty() {
            let role = match connection.role {
                Some(Side::Client) => "client ",
                Some(Side::Server) => "server ",
                None => "",
            };
            line = line.add(Ink::Plain, &format!("  {role}{}", connection.process));
        }
        for key in ["sni", "alpn", "proto", "container"] {
            if let Some(value) = facts.get(key) {
                line = line.add(Ink::Dim, &format!("  {key}={value}"));
            }
        }
        if facts.get("tuple").is_some_and(|tuple| tuple == "none") {
            line = line.add(Ink::Notice, "  addresses unknown");
        }
        if !connection.from_start {
            line = line.add(Ink::Notice, "  joined in progress");
        }
        self.style.line(out, 0, 2, &line);
    }

    fn head(&mut self, connection: &Connection, told: &Told, head: &Head, out: &mut Vec<u8>) {
        self.begin(connection, told, head.exchange, "", out);
        if head.is_missing {
            return self.line(out, &Line::default().add(Ink::Bad, "the head of this message is missing"));
        }
        self.line(out, &first_line(head));
        self.fields(&head.fields, out);
        if head.is_cut {
            self.line(out, &Line::default().add(Ink::Bad, "the rest of this head is missing"));
        }
        if !head.is_all {
            out.push(b'\n');
        }
    }

    fn fields(&self, fields: &[Field], out: &mut Vec<u8>) {
        for field in fields {
            let (name, value) = match (&field.name, &field.value) {
                (Some(name), _) if [&b":method"[..], b":path", b":status"].contains(&&name[..]) => continue,
                (name, value) => (name, value),
            };
            let line = match name {
                Some(name) => Line::default().add(Ink::Name, &style::text(name)),
                None => Line::default().add(Ink::Bad, "<unknown>"),
            };
            let line = match value {
                Some(value) => line.add(Ink::Plain, &format!(": {}", style::text(value))),
                None => line
                    .add(Ink::Plain, ": ")
                    .add(Ink::Bad, "<unknown>")
                    .add(Ink::Dim, " (it refers to a header field that is not in the capture)"),
            };
            self.line(out, &line);
        }
    }

    fn end(&mut self, connection: &Connection, told: &Told, end: &End, out: &mut Vec<u8>) {
        let head = &end.head;
        if (head.is_all && end.cut.is_none() || head.is_cut)
            && end.content.length == 0
            && end.trailers.is_empty()
        {
            return;
        }
        self.begin(connection, told, head.exchange, &label(head), out);
        let media = head.value("content-type").map(style::text).unwrap_or_default();
        let what = match end.parts {
            0 => String::new(),
            1 => ", 1 message".into(),
            parts => format!(", {} messages", style::grouped(parts)),
        };
        self.content(&end.content, &format!("{media}{what}"), end.cut.as_deref(), end.parts == 0, out);
        self.fields(&end.trailers, out);
    }

    /// How much, of what kind, and what it is.
    fn content(&self, content: &Content, about: &str, cut: Option<&str>, shows: bool, out: &mut Vec<u8>) {
        let mut line = Line::default().add(Ink::Dim, &size(content));
        if !about.is_empty() {
            line = line.add(Ink::Dim, &format!(" {}", about.trim_start_matches(", ")));
        }
        if content.missing > 0 {
            line = line.add(Ink::Bad, &format!(", {} missing", style::bytes(content.missing)));
        }
        match cut {
            Some(cut) => line = line.add(Ink::Bad, &format!(", not complete: {cut}")),
            None if !content.is_complete && content.missing == 0 => {
                line = line.add(Ink::Bad, ", bytes may be missing");
            }
            None => {}
        }
        self.line(out, &line);
        if shows {
            self.preview(content, out);
        }
    }

    fn preview(&self, content: &Content, out: &mut Vec<u8>) {
        if content.preview.is_empty() {
            return;
        }
        let Some(text) = content.preview_text() else {
            let bytes = &content.preview[..content.preview.len().min(HEX_SHOWN)];
            let mut text: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            if content.plain_length().is_none_or(|len| len > bytes.len() as u64) {
                text.push("…".into());
            }
            return self.line(out, &Line::default().add(Ink::Plain, &text.join(" ")));
        };
        for line in text.trim_end_matches(['\r', '\n']).split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line).replace('\t', "    ");
            self.line(out, &Line::default().add(Ink::Plain, &line));
        }
        let rest = content.plain_length().unwrap_or(0).saturating_sub(content.preview.len() as u64);
        if rest > 0 {
            self.line(out, &Line::default().add(Ink::Dim, &format!("… {} more", style::bytes(rest))));
        }
    }

    fn part(
        &mut self,
        connection: &Connection,
        told: &Told,
        head: &Arc<Head>,
        part: &Part,
        out: &mut Vec<u8>,
    ) {
        self.begin(connection, told, head.exchange, &label(head), out);
        let about = match &part.kind {
            PartKind::Grpc => format!("gRPC message {}", part.number),
            PartKind::Event { name, id } => {
                let id = id.as_ref().map_or(String::new(), |id| format!(", id {id}"));
                format!("event {name}{id}")
            }
        };
        let cut = (!part.content.is_complete).then_some("its end is missing");
        self.content(&part.content, &format!(", {about}"), cut, true, out);
    }

    fn message(&mut self, connection: &Connection, told: &Told, message: &Message, out: &mut Vec<u8>) {
        self.begin(connection, told, 0, "", out);
        let kind = opcode_name(message.opcode);
        let code = message.code.map_or(String::new(), |code| format!(" {code}"));
        let cut = (!message.content.is_complete).then_some("parts of it are missing");
        self.content(&message.content, &format!("WebSocket {kind}{code}"), cut, true, out);
    }

    fn exchange(&mut self, connection: &Connection, told: &Told, exchange: &Exchange, out: &mut Vec<u8>) {
        let about = exchange.request.as_ref().map_or(String::new(), |head| label(head));
        let asker = if exchange.response.is_some() { Side::Server } else { Side::Client };
        let told = Told { from: asker, ..told.clone() };
        let mut line = Line::default();
        let mut is_empty = true;
        if let Some(waited) = exchange.waited() {
            is_empty = false;
            let took = exchange.took().filter(|took| *took != waited);
            let took = took.map_or(String::new(), |took| format!(", complete after {}", style::span(took)));
            line = line.add(Ink::Dim, &format!("answered after {}{took}", style::span(waited)));
        }
        // What the status says needs not be said again.
        let failure = exchange.failure.as_ref().filter(|why| !why.starts_with("status "));
        if let Some(why) = failure {
            line = line.add(Ink::Bad, &format!("{}failed: {why}", if is_empty { "" } else { ", " }));
            is_empty = false;
        }
        if !is_empty {
            self.begin(connection, &told, exchange.number, &about, out);
            self.line(out, &line);
        }
    }

    fn told(&mut self, connection: &Connection, told: &Told, out: &mut Vec<u8>) {
        match &told.what {
            What::Head(head) => self.head(connection, told, head, out),
            What::Part(head, part) => self.part(connection, told, head, part, out),
            What::End(end) => self.end(connection, told, end, out),
            What::Exchange(exchange) => self.exchange(connection, told, exchange, out),
            What::Message(message) => self.message(connection, told, message, out),
            What::Data(content) => {
                self.begin(connection, told, 0, "", out);
                self.content(content, "", None, true, out);
            }
            What::Skipped(len) => {
                self.begin(connection, told, 0, "", out);
                let text = format!("{} cannot be understood without what is missing", style::bytes(*len));
                self.line(out, &Line::default().add(Ink::Notice, &text));
            }
            What::Note(text) => {
                self.begin(connection, told, 0, "", out);
                self.line(out, &Line::default().add(Ink::Notice, text));
            }
        }
    }

    fn closed(&mut self, connection: &Connection, closed: &Closed, out: &mut Vec<u8>) {
        let how = match (closed.is_open, closed.is_reset) {
            (true, _) => return,
            (_, true) => "reset",
            (_, false) => "closed",
        };
        self.gap(out);
        self.last = None;
        let [sent, received] = closed.bytes.map(style::grouped);
        let line = who(connection, closed.time, closed.by.unwrap_or(Side::Client), 0);
        let ink = if closed.is_reset { Ink::Bad } else { Ink::Dim };
        let text = format!("  {how}; → {sent}, ← {received} bytes");
        self.style.line(out, 0, 2, &line.add(ink, &text));
    }
}

/// How long it is, and was when it was sent.
fn size(content: &Content) -> String {
    let sent = style::bytes(content.length);
    match &content.unpacked {
        Unpacked::Same => sent,
        Unpacked::Whole(len) => format!("{} ({sent} of {})", style::bytes(*len), content.coding),
        Unpacked::Part(len) => {
            format!("{sent} of {}, of which {} could be unpacked", content.coding, style::bytes(*len))
        }
        Unpacked::Not(why) => format!("{sent} of {}, not unpacked: {why}", content.coding),
    }
}

fn first_line(head: &Head) -> Line {
    let version = format!("HTTP/{}", head.version);
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|b| style::text(b).into_owned());
    match head.kind {
        MessageKind::Request | MessageKind::Promise => {
            let line = Line::default()
                .add_some(Ink::Notice, Some("promised: ").filter(|_| head.kind == MessageKind::Promise));
            let unknown = || "<unknown>".to_owned();
            let method = text(&head.method).unwrap_or_else(unknown);
            let target = match head.protocol {
                // CONNECT has no path.
                Protocol::Http2 => text(&head.target).or_else(|| text(&head.authority)),
                Protocol::Http1 => text(&head.target),
            };
            line.add(Ink::Bold, &format!("{method} {}", target.unwrap_or_else(unknown)))
                .add(Ink::Dim, &format!(" {version}"))
        }
        MessageKind::Response | MessageKind::Interim => {
            let ink = match head.status {
                Some(100..=299) => Ink::Good,
                Some(300..=399) => Ink::Notice,
                _ => Ink::Bad,
            };
            let status = head.status.map_or("<unknown>".into(), |status| status.to_string());
            Line::default()
                .add(Ink::Dim, &format!("{version} "))
                .add(ink, format!("{status} {}", style::text(&head.reason)).trim_end())
        }
    }
}

/// What a message is, where its head was shown before.
fn label(head: &Head) -> String {
    match (&head.method, head.status) {
        (Some(method), _) => {
            let target = head.target.as_deref().map(style::text).unwrap_or_default();
            let short: String = target.chars().take(60).collect();
            format!("{} {short}{}", style::text(method), if short.len() < target.len() { "…" } else { "" })
        }
        (None, Some(status)) => status.to_string(),
        (None, None) => String::new(),
    }
}

/// RFC 6455, section 5.2.
pub(super) fn opcode_name(opcode: u8) -> &'static str {
    match opcode {
        1 => "text",
        2 => "binary",
        8 => "close",
        9 => "ping",
        10 => "pong",
        _ => "message without its beginning",
    }
}

impl View for Text {
    fn item(&mut self, item: Item<'_>, out: &mut Vec<u8>) {
        match item {
            Item::Open(connection) => self.open(connection, out),
            Item::Told(connection, told) => self.told(connection, told, out),
            Item::Loss(connection, loss) => {
                self.gap(out);
                self.last = None;
                loss_line(self.style, connection, loss, out);
            }
            Item::Closed(connection, closed) => self.closed(connection, &closed, out),
            Item::Bytes(..) => {}
        }
    }
}
