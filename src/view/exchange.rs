//! Which answer belongs to which request.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::content::{Limits, Reader};
use super::parts::Splitter;
use super::{End, Exchange, Field, Head, MessageKind, Side, Told, WallTime, What};
use crate::proto::grpc;
use crate::proto::pairing::Pairing;

/// Streams of HTTP/2 that are open at once.
pub(super) const STREAMS_MAX: usize = 4096;

/// Streams that are remembered as reset.
const RESET_MAX: usize = 64;

/// When, who, and what becomes of it.
pub(super) struct Context<'a> {
    pub(super) time: WallTime,
    pub(super) from: Side,
    /// No program said these bytes.
    pub(super) is_synthetic: bool,
    pub(super) limits: Limits,
    pub(super) out: &'a mut dyn FnMut(Told),
}

impl Context<'_> {
    pub(super) fn tell(&mut self, what: What) {
        (self.out)(Told { time: self.time, from: self.from, what });
    }
}

/// A message whose end has not come.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) head: Arc<Head>,
    reader: Reader,
    pub(super) trailers: Vec<Field>,
}

impl Open {
    pub(super) fn new(head: Arc<Head>, limits: Limits) -> Open {
        let media = head.text("content-type").to_ascii_lowercase();
        let splitter = if head.is_grpc() {
            Splitter::grpc(&head.text("grpc-encoding"), limits)
        } else if media.starts_with("text/event-stream") {
            Splitter::events(limits)
        } else {
            Splitter::None
        };
        // A transfer that is packed is packed outermost, and whoever packs twice is not unpacked.
        let transfer = head.text("transfer-encoding").to_ascii_lowercase();
        let transfer = transfer.strip_suffix("chunked").unwrap_or(&transfer).trim_end_matches([' ', ',']);
        let content = head.text("content-encoding");
        let coding = match (transfer, content.as_str()) {
            ("" | "identity", content) => content.to_owned(),
            (transfer, "" | "identity") => transfer.to_owned(),
            (transfer, content) => format!("{content}, {transfer}"),
        };
        Open { reader: Reader::new(&coding, splitter, limits), head, trailers: Vec::new() }
    }

    pub(super) fn held(&self) -> usize {
        self.reader.held() + fields_size(&self.head.fields) + fields_size(&self.trailers)
    }

    pub(super) fn feed(&mut self, context: &mut Context<'_>, bytes: &[u8]) {
        let head = &self.head;
        self.reader.feed(bytes, &mut |part| context.tell(What::Part(Arc::clone(head), part)));
    }

    pub(super) fn lose(&mut self, context: &mut Context<'_>, len: u64) {
        let head = &self.head;
        self.reader.lose(len, &mut |part| context.tell(What::Part(Arc::clone(head), part)));
    }

    /// Ends it. Gives the length of its body.
    pub(super) fn end(self, context: &mut Context<'_>, cut: Option<String>) -> u64 {
        let Open { head, reader, trailers } = self;
        let length = reader.length();
        let told = Arc::clone(&head);
        let (content, parts) =
            reader.finish(cut.is_none(), &mut |part| context.tell(What::Part(Arc::clone(&told), part)));
        context.tell(What::End(End { head, content, trailers, parts, cut }));
        length
    }

    pub(super) fn length(&self) -> u64 {
        self.reader.length()
    }
}

/// Memory that fields take, about.
pub(super) fn fields_size(fields: &[Field]) -> usize {
    let len = |text: &Option<Vec<u8>>| text.as_ref().map_or(0, Vec::capacity);
    fields.iter().map(|field| size_of::<Field>() + len(&field.name) + len(&field.value)).sum()
}

/// A stream of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) exchange: Exchange,
    pub(super) request: Option<Open>,
    pub(super) response: Option<Open>,
    pub(super) is_asked: bool,
    pub(super) is_answered: bool,
}

/// The exchanges of a connection that are not complete.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    count: u64,
    /// Of HTTP/1: requests without an answer.
    waiting: Pairing<Exchange>,
    /// The one whose answer is coming.
    answering: Option<Exchange>,
    pub(super) streams: HashMap<u64, Stream>,
    /// Of HTTP/2: streams that were reset last. What still comes in them is of no interest.
    reset: VecDeque<u64>,
}

/// Why an exchange counts as failed by what its answer says.
fn failure(exchange: &Exchange) -> Option<String> {
    if let Some(status) = exchange.grpc.filter(|status| *status != 0) {
        return Some(format!("grpc-status {status}{}", grpc::status_name(status)));
    }
    let status = exchange.response.as_ref()?.status?;
    (status >= 400).then(|| format!("status {status}"))
}

impl Exchanges {
    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub(super) fn was_reset(&self, id: u64) -> bool {
        self.reset.contains(&id)
    }

    pub(super) fn remember_reset(&mut self, id: u64) {
        if self.reset.len() >= RESET_MAX {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Of every message of HTTP/2 that this side has not ended, bytes may be missing.
    pub(super) fn lose(&mut self, context: &mut Context<'_>) {
        let is_client = context.from == Side::Client;
        let mut open: Vec<(u64, &mut Open)> = self
            .streams
            .iter_mut()
            .filter_map(|(id, s)| {
                let open = if is_client { s.request.as_mut() } else { s.response.as_mut() };
                Some((*id, open?))
            })
            .collect();
        open.sort_unstable_by_key(|(id, _)| *id);
        open.into_iter().for_each(|(_, open)| open.lose(context, 0));
    }

    /// Messages of HTTP/1 may be missing.
    pub(super) fn doubt(&mut self) {
        self.waiting.doubt();
    }

    pub(super) fn held(&self) -> usize {
        let of = |exchange: &Exchange| {
            let heads = [&exchange.request, &exchange.response];
            size_of::<Exchange>() + heads.into_iter().flatten().map(|h| fields_size(&h.fields)).sum::<usize>()
        };
        let open = |open: &Option<Open>| open.as_ref().map_or(0, Open::held);
        let streams = self.streams.values();
        self.waiting.iter().chain(&self.answering).map(of).sum::<usize>()
            + streams.map(|s| of(&s.exchange) + open(&s.request) + open(&s.response)).sum::<usize>()
    }

    /// A request of HTTP/1.
    pub(super) fn asks(&mut self, context: &mut Context<'_>, head: &Arc<Head>) {
        for exchange in self.waiting.give_up() {
            give_up(context, exchange, "the response is missing");
        }
        let request = Some(Arc::clone(head));
        let exchange = Exchange { number: head.exchange, request, ..Exchange::default() };
        if let Some(first) = self.waiting.ask(exchange) {
            give_up(context, first, "too many requests are waiting for a response");
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Exchange> {
        let mut all = self.answering.iter_mut().chain(self.waiting.last_first());
        all.find(|exchange| exchange.number == number)
    }

    /// So many bytes of a request's body of HTTP/1 were sent by now.
    pub(super) fn sends(&mut self, number: u64, sent: u64) {
        if let Some(exchange) = self.find(number) {
            exchange.sent = sent;
        }
    }

    /// A request of HTTP/1 is complete.
    pub(super) fn asked(&mut self, number: u64, time: WallTime, sent: u64) {
        if let Some(exchange) = self.find(number) {
            (exchange.asked, exchange.sent) = (Some(time), sent);
        }
    }

    /// The number that an answer of HTTP/1 has, and its request.
    pub(super) fn answered_next(&mut self, is_interim: bool) -> (u64, Option<Arc<Head>>) {
        if self.answering.is_none() {
            self.answering = self.waiting.answer();
        }
        let exchange = match self.answering.take() {
            Some(exchange) => exchange,
            None => Exchange { number: self.next(), ..Exchange::default() },
        };
        let known = (exchange.number, exchange.request.clone());
        if is_interim && exchange.request.is_some() {
            self.waiting.put_back(exchange);
        } else if !is_interim {
            self.answering = Some(exchange);
        }
        known
    }

    /// The head of an answer of HTTP/1 is there.
    pub(super) fn answers(&mut self, head: &Arc<Head>) {
        if let Some(exchange) = &mut self.answering {
            exchange.response = Some(Arc::clone(head));
        }
    }

    /// An answer of HTTP/1 is complete.
    pub(super) fn done(&mut self, context: &mut Context<'_>, received: u64, cut: Option<&str>) {
        let Some(mut exchange) = self.answering.take() else { return };
        exchange.received = received;
        exchange.failure = failure(&exchange).or(cut.map(|why| format!("{why} within the response")));
        if cut.is_none() {
            exchange.ended = Some(context.time);
        }
        context.tell(What::Exchange(exchange));
        if cut.is_none() {
            self.waiting.done();
        }
    }

    /// A stream of HTTP/2 has ended on both sides, or is given up.
    pub(super) fn end_stream(&mut self, context: &mut Context<'_>, id: u64, cut: Option<&str>) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let Stream { mut exchange, request, response, is_answered, .. } = stream;
        let (asker, cut_owned) = (Side::Client, cut.map(str::to_owned));
        let from = context.from;
        if let Some(open) = request {
            context.from = asker;
            exchange.sent = open.end(context, cut_owned.clone());
        }
        if let Some(open) = response {
            context.from = asker.peer();
            exchange.received = open.end(context, cut_owned);
        }
        context.from = from;
        let when = if exchange.response.is_none() { "before the response" } else { "within the response" };
        let cut = cut.filter(|_| !is_answered).map(|why| format!("{why} {when}"));
        exchange.failure = cut.or_else(|| failure(&exchange));
        if exchange.request.is_some() || exchange.response.is_some() {
            context.tell(What::Exchange(exchange));
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self, context: &mut Context<'_>, why: &str) {
        let mut ids: Vec<u64> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.end_stream(context, id, Some(why));
        }
        for exchange in self.waiting.take_all() {
            give_up(context, exchange, &format!("{why} before the response"));
        }
    }
}

fn give_up(context: &mut Context<'_>, exchange: Exchange, why: &str) {
    let from = context.from;
    context.from = Side::Client;
    context.tell(What::Exchange(Exchange { failure: Some(why.to_owned()), ..exchange }));
    context.from = from;
}

/// A head whose message has lost it.
pub(super) fn missing_head(
    context: &Context<'_>,
    exchange: u64,
    protocol: super::Protocol,
    stream: u64,
) -> Head {
    Head {
        exchange,
        from: context.from,
        protocol,
        stream,
        kind: if context.from == Side::Client { MessageKind::Request } else { MessageKind::Response },
        time: context.time,
        version: String::new(),
        method: None,
        target: None,
        authority: None,
        status: None,
        reason: Vec::new(),
        fields: Vec::new(),
        is_missing: true,
        is_cut: false,
        is_all: false,
    }
}
