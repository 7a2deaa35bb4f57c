//! Multipart bodies (RFC 2046, section 5.1; RFC 7578 for forms): each part by its name and type.

use memchr::memmem;

use super::body::{Parser, Type};
use super::cloak::Escape;
use super::engine::Engine;
use super::headers;
use super::kind::Kind;

/// Longest header of a part that is waited for.
const HEAD_MAX: usize = 16 << 10;
/// Longest secret that is waited for.
const SECRET_MAX: usize = 64 << 10;

#[derive(Debug)]
enum State {
    /// In front of the first part.
    Preamble,
    /// Behind a delimiter.
    Head,
    /// In a part.
    Content(Parser),
    /// In a part that is a secret.
    Secret,
    /// Behind the last part, or lost.
    Epilogue,
}

/// Parts that come in pieces.
#[derive(Debug)]
pub(super) struct Multipart {
    /// CR, LF, two dashes and the boundary.
    delimiter: Vec<u8>,
    state: State,
    /// In how many such bodies a part is.
    depth: u8,
}

impl Multipart {
    /// `depth`: in how many such bodies each part is, this one included.
    pub(super) fn new(boundary: &str, depth: u8) -> Multipart {
        Multipart { delimiter: format!("\r\n--{boundary}").into_bytes(), state: State::Preamble, depth }
    }

    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(&mut self, engine: &mut Engine, bytes: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let done = match &mut self.state {
                State::Preamble => {
                    let first = &self.delimiter[2..];
                    let rest = &bytes[at..];
                    match memmem::find(rest, first) {
                        Some(len) => {
                            let begin = at + len;
                            engine.fill_text(bytes, at..begin, Kind::Body);
                            self.state = State::Head;
                            len + first.len()
                        }
                        None if last => {
                            engine.fill_text(bytes, at..bytes.len(), Kind::Body);
                            bytes.len() - at
                        }
                        None => {
                            let len = rest.len().saturating_sub(first.len());
                            engine.fill_text(bytes, at..at + len, Kind::Body);
                            return at + len;
                        }
                    }
                }
                State::Head => match self.head(engine, &mut bytes[at..], at, last) {
                    0 => return at,
                    len => len,
                },
                State::Epilogue => {
                    engine.fill_text(bytes, at..bytes.len(), Kind::Body);
                    bytes.len() - at
                }
                State::Content(_) | State::Secret => match self.content(engine, bytes, at, last) {
                    0 => return at,
                    len => len,
                },
            };
            at += done;
        }
        at
    }

    /// The rest of the delimiter's line, and the part's header. Gives its length, 0 if it is not there yet.
    fn head(&mut self, engine: &mut Engine, rest: &mut [u8], at: usize, last: bool) -> usize {
        if rest.starts_with(b"--") {
            self.state = State::Epilogue;
            return 2;
        }
        // Without a header the delimiter's own line ends it.
        let end = memmem::find(rest, b"\r\n\r\n");
        let Some(end) = end.filter(|end| *end <= HEAD_MAX) else {
            if !last && rest.len() <= HEAD_MAX {
                return 0;
            }
            self.state = State::Epilogue;
            return engine.within(at, |engine| {
                engine.fill_text(rest, 0..rest.len(), Kind::Body);
                rest.len()
            });
        };
        let (mut name, mut media, mut encoding) = (None, None, String::new());
        let mut line = memmem::find(rest, b"\r\n").map_or(end, |i| i + 2);
        while line < end {
            let stop = memmem::find(&rest[line..end], b"\r\n").map_or(end, |i| line + i);
            if let Some(colon) = rest[line..stop].iter().position(|b| *b == b':') {
                let header = String::from_utf8_lossy(&rest[line..line + colon]).to_ascii_lowercase();
                let text = String::from_utf8_lossy(&rest[line + colon + 1..stop]).trim().to_owned();
                match header.as_str() {
                    "content-disposition" => name = parameter(&text, "name"),
                    "content-type" => media = Some(text),
                    "content-transfer-encoding" => encoding = text.to_ascii_lowercase(),
                    _ => {}
                }
                engine.within(at, |engine| headers::value(engine, &header, rest, line + colon + 1..stop));
            }
            line = stop + 2;
        }
        let is_secret = name.is_some_and(|name| {
            engine.is_secret_field(name.as_bytes()) || engine.is_user_field(name.as_bytes())
        });
        self.state = match media {
            _ if is_secret => State::Secret,
            _ if matches!(encoding.as_str(), "base64" | "quoted-printable") => {
                State::Content(Parser::unknown())
            }
            Some(media) => State::Content(Parser::of(&Type::new(&media, "").within(self.depth))),
            None => State::Content(Parser::sniffing()),
        };
        end + 4
    }

    /// What stands in front of the next delimiter. Gives the length of what is decided.
    fn content(&mut self, engine: &mut Engine, bytes: &mut [u8], at: usize, last: bool) -> usize {
        let found = memmem::find(&bytes[at..], &self.delimiter);
        let (end, is_whole) = match found {
            Some(len) => (at + len, true),
            None if last => (bytes.len(), true),
            None => (bytes.len().saturating_sub(self.delimiter.len()).max(at), false),
        };
        let inner = &mut bytes[at..end];
        let len = inner.len();
        let done = match &mut self.state {
            State::Content(parser) => engine.within(at, |engine| parser.step(engine, inner, is_whole)),
            _ if !is_whole && len <= SECRET_MAX => 0,
            _ => {
                engine.cloak(bytes, at..end, Kind::Part, Escape::Backslash);
                len
            }
        };
        if !is_whole || done < len || found.is_none() {
            return done;
        }
        self.state = State::Head;
        done + self.delimiter.len()
    }
}

/// The parameter of a header, as in `form-data; name="x"`.
pub(super) fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|part| {
        let (found, text) = part.split_once('=')?;
        found.trim().eq_ignore_ascii_case(name).then(|| text.trim().trim_matches('"').to_owned())
    })
}
