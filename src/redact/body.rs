//! What a message carries, by its type.

use std::collections::VecDeque;

use super::engine::Engine;
use super::events::Events;
use super::fill;
use super::form::{self, Form};
use super::json::Json;
use super::kind::{Found, Kind};
use super::multipart::{self, Multipart};
use super::packed::{Format, Packed};
use super::protobuf::Messages;
use super::text::{Sort, Text};
use super::xml::Xml;

/// What a body is said to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Type {
    /// `type/subtype`, in lower case.
    media: String,
    boundary: Option<String>,
    /// Of a charset that has the characters of ASCII where ASCII has them.
    is_odd: bool,
    packed: Option<Format>,
    /// In what messages of gRPC are compressed that say they are.
    messages: Option<Format>,
    /// How many multipart bodies it is in.
    depth: u8,
}

/// Deepest nesting of multipart bodies; what is deeper is unknown.
const DEPTH_MAX: u8 = 8;

fn format(encoding: &str) -> Option<Format> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" | "aws-chunked" => None,
        "gzip" | "x-gzip" => Some(Format::Gzip),
        "deflate" => Some(Format::Deflate),
        "br" => Some(Format::Brotli),
        "zstd" => Some(Format::Zstd),
        _ => Some(Format::Other),
    }
}

impl Type {
    /// By the values of Content-Type and Content-Encoding, empty if there is none.
    pub(super) fn new(content_type: &str, content_encoding: &str) -> Type {
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let charset = multipart::parameter(content_type, "charset").unwrap_or_default().to_ascii_lowercase();
        let packed = format(content_encoding);
        let boundary = multipart::parameter(content_type, "boundary").filter(|b| !b.is_empty());
        let is_odd =
            charset.starts_with("utf-16") || charset.starts_with("utf-32") || charset.contains("ebcdic");
        Type { media, boundary, is_odd, packed, messages: None, depth: 0 }
    }

    /// The same, with what gRPC says of its messages.
    pub(super) fn with_messages_in(self, encoding: &str) -> Type {
        Type { messages: format(encoding), ..self }
    }

    /// A part of a multipart body that is so deep.
    pub(super) fn within(self, depth: u8) -> Type {
        Type { depth, ..self }
    }
}

/// What takes a body apart.
#[derive(Debug)]
pub(super) enum Parser {
    Text(Text),
    Json(Json),
    Form(Form),
    Xml(Xml),
    Events(Events),
    Messages(Messages),
    Multipart(Box<Multipart>),
    Packed(Box<Packed>),
    /// Pictures, sound and fonts, if they begin as such.
    Media,
    /// They do.
    Kept,
    /// JSON or text: the first character tells.
    Sniff,
    /// Said to be a text, which its beginning must not contradict.
    Begin(Box<Parser>),
    /// Nobody knows. Whether it is text is seen at its beginning.
    Unknown(Option<bool>, Kind),
}

impl Parser {
    pub(super) fn unknown() -> Parser {
        Parser::Unknown(None, Kind::Body)
    }

    pub(super) fn text() -> Parser {
        Parser::Begin(Box::new(Parser::Text(Text::new(Sort::Plain))))
    }

    pub(super) fn sniffing() -> Parser {
        Parser::Begin(Box::new(Parser::Sniff))
    }

    pub(super) fn of(of: &Type) -> Parser {
        if let Some(format) = of.packed {
            return Parser::Packed(Box::new(Packed::new(format, Type { packed: None, ..of.clone() })));
        }
        match Parser::by_name(of) {
            text @ (Parser::Text(_) | Parser::Json(_) | Parser::Form(_) | Parser::Xml(_) | Parser::Sniff) => {
                Parser::Begin(Box::new(text))
            }
            other => other,
        }
    }

    fn by_name(of: &Type) -> Parser {
        let media = of.media.as_str();
        let (main, sub) = media.split_once('/').unwrap_or((media, ""));
        if of.is_odd {
            return Parser::unknown();
        }
        match (main, sub) {
            ("multipart", _) => match &of.boundary {
                Some(boundary) if of.depth < DEPTH_MAX => {
                    Parser::Multipart(Box::new(Multipart::new(boundary, of.depth + 1)))
                }
                _ => Parser::unknown(),
            },
            ("application", "x-www-form-urlencoded") => Parser::Form(Form::default()),
            ("application", "grpc" | "grpc+proto" | "grpc+json") => {
                Parser::Messages(Messages::new(sub == "grpc+json", of.messages))
            }
            ("text", "event-stream") => Parser::Events(Events::default()),
            ("text", "html") | ("application", "xhtml+xml") => Parser::Xml(Xml::new(true)),
            (
                "text" | "application",
                "json" | "x-ndjson" | "ndjson" | "jsonlines" | "csp-report" | "reports+json",
            ) => Parser::Json(Json::default()),
            (_, sub) if sub.ends_with("+json") => Parser::Json(Json::default()),
            ("text" | "application", "xml") => Parser::Xml(Xml::new(false)),
            (_, sub) if sub.ends_with("+xml") => Parser::Xml(Xml::new(false)),
            ("text" | "application", "javascript" | "ecmascript" | "x-javascript" | "css") => {
                Parser::Text(Text::new(Sort::Code))
            }
            ("text", _) | ("application", "yaml" | "x-yaml" | "toml" | "graphql" | "sql") => Parser::Sniff,
            ("image" | "font" | "audio" | "video", _) => Parser::Media,
            _ => Parser::unknown(),
        }
    }

    /// Works on what is there; `last`: nothing follows, so all is decided. Gives how many bytes are decided; these
    /// are not shown again.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        match self {
            Parser::Text(_) | Parser::Kept if engine.is_shape() => {
                *self = Parser::Unknown(None, Kind::Value);
                self.step(engine, bytes, last)
            }
            Parser::Text(text) => text.step(engine, bytes, last),
            Parser::Json(json) => json.step(engine, bytes, last),
            Parser::Form(form) => form.step(engine, bytes, last),
            Parser::Xml(xml) => xml.step(engine, bytes, last),
            Parser::Events(events) => events.step(engine, bytes, last),
            Parser::Messages(messages) => messages.step(engine, bytes, last),
            Parser::Multipart(multipart) => multipart.step(engine, bytes, last),
            Parser::Packed(packed) => packed.step(engine, bytes, last),
            Parser::Kept => bytes.len(),
            Parser::Begin(text) => {
                // A line is text, however short.
                let is_line = bytes.len() >= 4
                    && bytes.ends_with(b"\n")
                    && bytes.iter().all(|b| *b >= b' ' || b"\t\r\n".contains(b));
                if bytes.len() < BEGIN && !last && !is_line {
                    return 0;
                }
                *self = match begin(bytes) {
                    Begin::Text if matches!(**text, Parser::Form(_)) && form::is_other(bytes) => {
                        Parser::Sniff
                    }
                    Begin::Text => std::mem::replace(text, Parser::Kept),
                    Begin::Packed(format) => Parser::Packed(Box::new(Packed::new(
                        format,
                        Type { media: "text/plain".into(), ..Type::default() },
                    ))),
                    Begin::Neither => Parser::unknown(),
                };
                self.step(engine, bytes, last)
            }
            Parser::Media => {
                if bytes.len() < 16 && !last {
                    return 0;
                }
                *self = if is_media(bytes) { Parser::Kept } else { Parser::unknown() };
                self.step(engine, bytes, last)
            }
            Parser::Sniff => {
                let Some(first) = bytes.iter().find(|b| !b.is_ascii_whitespace()) else {
                    return bytes.len();
                };
                *self = match first {
                    // Of what is no JSON, as `[1.2] - changes`, that parser would mask all.
                    b'{' | b'[' if form::looks_like_json(bytes) => Parser::Json(Json::default()),
                    b'<' => Parser::Xml(Xml::new(false)),
                    _ => Parser::Text(Text::new(Sort::Plain)),
                };
                self.step(engine, bytes, last)
            }
            Parser::Unknown(is_text, kind) => {
                let kind = *kind;
                match *is_text.get_or_insert_with(|| fill::is_text(bytes)) {
                    true => engine.fill_text(bytes, 0..bytes.len(), kind),
                    false => engine.fill_whole(bytes, 0..bytes.len(), kind),
                }
                bytes.len()
            }
        }
    }
}

/// So many bytes tell whether something is a text.
const BEGIN: usize = 16;

enum Begin {
    Text,
    Packed(Format),
    Neither,
}

/// What begins so: text in a charset that has ASCII's characters where ASCII has them, or what compresses such.
fn begin(bytes: &[u8]) -> Begin {
    let begin = &bytes[..bytes.len().min(BEGIN)];
    let is_control = |b: &u8| matches!(b, 0..=8 | 0x0e..=0x1a | 0x1c | 0x1d | 0x1f);
    match begin {
        [0x1f, 0x8b, ..] => Begin::Packed(Format::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Begin::Packed(Format::Zstd),
        // UTF-16.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Begin::Neither,
        _ if begin.iter().any(is_control) => Begin::Neither,
        _ => Begin::Text,
    }
}

/// How files of pictures, sound, films and fonts begin.
fn is_media(bytes: &[u8]) -> bool {
    const BEGINS: [&[u8]; 17] = [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF87a",
        b"GIF89a",
        b"BM",
        b"\0\0\x01\0",
        b"wOFF",
        b"wOF2",
        b"\0\x01\0\0",
        b"OTTO",
        b"ID3",
        b"OggS",
        b"fLaC",
        b"\x1a\x45\xdf\xa3",
        b"II*\0",
        b"MM\0*",
        b"\xff\xfb",
    ];
    let is_riff = bytes.starts_with(b"RIFF") && matches!(bytes.get(8..12), Some(b"WEBP" | b"WAVE" | b"AVI "));
    is_riff || bytes.get(4..8) == Some(b"ftyp") || BEGINS.iter().any(|begin| bytes.starts_with(begin))
}

/// A body that comes in pieces, and what became of it so far.
#[derive(Debug)]
pub(super) struct Body {
    parser: Parser,
    /// Not decided yet.
    pending: Vec<u8>,
    /// Decided, and not taken yet.
    out: VecDeque<u8>,
    /// Bytes that were taken.
    taken: u64,
    /// Counted from the body's beginning.
    found: VecDeque<Found>,
    is_ended: bool,
}

impl Body {
    pub(super) fn new(of: Type) -> Body {
        Body::with(Parser::of(&of))
    }

    pub(super) fn with(parser: Parser) -> Body {
        Body {
            parser,
            pending: Vec::new(),
            out: VecDeque::new(),
            taken: 0,
            found: VecDeque::new(),
            is_ended: false,
        }
    }

    /// Works on a body that is all there. Gives what was found in it.
    pub(super) fn whole(mut self, engine: &mut Engine, bytes: &mut [u8]) -> Vec<Kind> {
        let outer = engine.take_found();
        self.feed(engine, bytes, true);
        let out: Vec<u8> = self.out.into();
        bytes.copy_from_slice(&out);
        let mut kinds: Vec<Kind> = self.found.iter().map(|found| found.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        engine.put_back(outer);
        kinds
    }

    /// Adds what comes next.
    pub(super) fn feed(&mut self, engine: &mut Engine, bytes: &[u8], last: bool) {
        self.pending.extend_from_slice(bytes);
        self.is_ended |= last;
        let mut at = 0;
        while at < self.pending.len() {
            let base = self.taken + self.out.len() as u64;
            let len = self.parser.step(engine, &mut self.pending[at..], last);
            self.note(engine, base);
            if len == 0 {
                break;
            }
            self.out.extend(&self.pending[at..at + len]);
            at += len;
        }
        self.pending.drain(..at);
        if last && !self.pending.is_empty() {
            self.lose(engine, Kind::Lost);
        }
    }

    /// Adds bytes that were decided elsewhere, with what was found in them.
    pub(super) fn decided(&mut self, bytes: &[u8], found: Vec<Found>) {
        let base = self.taken + self.out.len() as u64;
        self.found.extend(found.into_iter().map(|found| Found { at: base + found.at, ..found }));
        self.out.extend(bytes);
    }

    /// What follows does not belong to what came before: all that is undecided is filled, and what follows as well.
    pub(super) fn lose(&mut self, engine: &mut Engine, kind: Kind) {
        self.parser = Parser::Unknown(None, kind);
        let base = self.taken + self.out.len() as u64;
        let mut pending = std::mem::take(&mut self.pending);
        // What begins a value, as a quotation mark, ends the one before, also when this is redacted once more.
        let mark = usize::from(pending.first().is_some_and(u8::is_ascii_punctuation));
        engine.within(mark, |engine| self.parser.step(engine, &mut pending[mark..], true));
        self.note(engine, base);
        self.out.extend(&pending);
    }

    fn note(&mut self, engine: &mut Engine, base: u64) {
        self.found
            .extend(engine.take_found().into_iter().map(|found| Found { at: base + found.at, ..found }));
    }

    pub(super) fn is_undecided(&self) -> bool {
        !self.pending.is_empty()
    }

    /// All was fed and taken.
    pub(super) fn is_done(&self) -> bool {
        self.is_ended && self.out.is_empty() && self.pending.is_empty()
    }

    /// Takes up to so many decided bytes, and what was found in them, counted from where `into` ends. Gives how many.
    pub(super) fn take(&mut self, most: usize, into: &mut Vec<u8>, found: &mut Vec<Found>) -> usize {
        let len = most.min(self.out.len());
        let begin = into.len() as u64;
        let end = self.taken + len as u64;
        while let Some(first) = self.found.front().copied().filter(|found| found.at < end) {
            found.push(Found { at: begin + first.at.saturating_sub(self.taken), ..first });
            self.found.pop_front();
        }
        let (front, back) = self.out.as_slices();
        into.extend_from_slice(&front[..len.min(front.len())]);
        into.extend_from_slice(&back[..len.saturating_sub(front.len())]);
        self.out.drain(..len);
        self.taken = end;
        len
    }
}
