//! Compressed messages of WebSocket (RFC 7692), one direction. Each may refer to what those before it said. Who redacts one changes
//! what later ones refer to: so each text keeps its length, and what the sender meant is remembered beside what
//! readers of the result see.

use super::body::{Body, Parser};
use super::deflate::{self, Past};
use super::engine::Engine;
use super::kind::Kind;
use super::packed;
use crate::proto::deflate::{Coding, Stream, Token, read, rewrite};
use crate::proto::websocket::Deflate;

/// Longest message that is waited for, in bytes as they are sent.
pub(super) const PACKED_MAX: usize = 4 << 20;
/// Longest text of one.
const TEXT_MAX: usize = 16 << 20;
/// What a sender leaves out at the end of each message: the rest of an empty block (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// See the module.
#[derive(Debug)]
pub(super) struct Messages {
    agreed: Deflate,
    past: Past,
}

/// What a message says.
struct Said {
    stream: Stream,
    text: Vec<u8>,
    /// Which bytes are not known, since they refer to what is not.
    is_unknown: Vec<bool>,
}

impl Messages {
    pub(super) fn new(agreed: Deflate) -> Messages {
        Messages { agreed, past: Past::default() }
    }

    /// A message was not seen as a whole, or not understood. What refers to it is not known.
    pub(super) fn lose(&mut self) {
        self.past = Past::default();
    }

    /// Replaces what the next message says.
    pub(super) fn message(&mut self, engine: &mut Engine, message: &mut [u8], is_text: bool) {
        let source = [&*message, &TAIL].concat();
        let Some(said) = self.read(&source) else {
            self.lose();
            if !engine.trusts() {
                packed::say_so(engine, message);
            }
            return;
        };
        let Said { stream, text, is_unknown } = said;
        let is_known = !is_unknown.contains(&true);
        let mut new = text.clone();
        let mut found = vec![Kind::Compressed];
        if is_known && text == packed::said(text.len()) {
            found.clear();
        } else if is_known {
            let parser = if is_text { Parser::sniffing() } else { Parser::unknown() };
            found = Body::with(parser).whole(engine, &mut new);
        } else if engine.trusts() {
            self.remember(&text, &text, &is_unknown);
            return;
        }
        let window = self.agreed.window();
        let spelled =
            is_known.then(|| deflate::spell(&stream, &source, &self.past, window, &text, &new)).flatten();
        let spelled = spelled.or_else(|| {
            // What hides all.
            let all = [packed::said(text.len()), vec![super::fill::FILLER; text.len()]];
            all.into_iter().find_map(|text| {
                let bytes = rewrite(&stream, &source, &self.past.is, window, &text)?;
                Some(deflate::Spelled { bytes, text })
            })
        });
        let Some(spelled) = spelled.filter(|spelled| spelled.bytes.ends_with(&TAIL)) else {
            self.lose();
            packed::say_so(engine, message);
            return;
        };
        let bytes = &spelled.bytes[..message.len()];
        if *message != *bytes {
            message.copy_from_slice(bytes);
            // There may be nothing new to replace, but a reference to what was replaced.
            let own = if found.is_empty() { vec![Kind::Compressed] } else { found };
            own.into_iter().for_each(|kind| engine.note(0, kind));
        }
        self.remember(&text, &spelled.text, &is_unknown);
    }

    fn remember(&mut self, was: &[u8], is: &[u8], is_unknown: &[bool]) {
        if self.agreed.takes_over {
            self.past.push(was, is, is_unknown);
        }
    }

    /// Takes a message apart; `None`: it is none.
    fn read(&self, source: &[u8]) -> Option<Said> {
        let stream = read(source, TEXT_MAX).ok()?;
        let last = stream.blocks.last()?;
        if last.coding != Coding::Stored || !last.tokens.is_empty() || last.is_last {
            return None;
        }
        let base = self.past.was.len();
        let (mut all, mut is_unknown) = (self.past.was.clone(), self.past.is_unknown.clone());
        for token in &stream.tokens {
            match *token {
                Token::Literal(byte) => {
                    all.push(byte);
                    is_unknown.push(false);
                }
                Token::Copy { len, distance } => {
                    for _ in 0..len {
                        match all.len().checked_sub(usize::from(distance)) {
                            Some(from) => {
                                all.push(all[from]);
                                is_unknown.push(is_unknown[from]);
                            }
                            // What is not known, as the capture begins later, or has lost it.
                            None => {
                                all.push(b'?');
                                is_unknown.push(true);
                            }
                        }
                    }
                }
            }
        }
        Some(Said { stream, text: all.split_off(base), is_unknown: is_unknown.split_off(base) })
    }
}

#[cfg(test)]
#[path = "permessage_tests.rs"]
mod tests;
