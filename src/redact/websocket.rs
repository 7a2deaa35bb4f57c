//! WebSocket (RFC 6455). Text that is JSON is taken apart as such, also in compressed messages (`permessage`); binary
//! messages are filled.

use super::body::{Body, Parser};
use super::engine::Engine;
use super::kind::Kind;
use super::permessage::{Messages, PACKED_MAX};
use super::weave::{Mask, Weave};
use crate::proto::websocket::{Deflate, Header, NoFrame, header};

/// Within a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    id: u64,
    left: u64,
    mask: Option<Mask>,
    is_end: bool,
}

/// A compressed message that goes on.
#[derive(Debug)]
struct Packed {
    id: u64,
    is_text: bool,
    bytes: Vec<u8>,
    /// Why it is masked.
    is_lost: Option<Kind>,
}

/// One direction.
#[derive(Debug)]
pub(super) struct WebSocket {
    frame: Option<Frame>,
    /// The message that its fragments belong to.
    message: Option<u64>,
    next: u64,
    packed: Option<Packed>,
    messages: Messages,
}

/// What a call came to.
pub(super) enum Turn {
    Went(usize),
    More,
    Lost,
}

impl WebSocket {
    /// `next`: the number of the next body.
    pub(super) fn new(next: u64, deflate: Deflate) -> WebSocket {
        WebSocket { frame: None, message: None, next, packed: None, messages: Messages::new(deflate) }
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one frame.
    pub(super) fn hole(&mut self, engine: &mut Engine, weave: &mut Weave, len: u64) -> bool {
        let Some(frame) = &mut self.frame else { return false };
        if frame.left < len {
            return false;
        }
        frame.left -= len;
        if let Some(mask) = &mut frame.mask {
            mask.phase = (mask.phase + (len % 4) as usize) % 4;
        }
        let (id, is_over) = (frame.id, frame.left == 0);
        if self.packed.as_ref().is_some_and(|packed| packed.id == id) {
            self.give_up(engine, weave, Kind::Lost);
        } else {
            weave.lose(engine, id, Kind::Lost);
        }
        if is_over {
            self.end(engine, weave);
        }
        true
    }

    /// A compressed message can wait no longer for its end: what is there is masked, and what follows.
    pub(super) fn give_up(&mut self, engine: &mut Engine, weave: &mut Weave, kind: Kind) {
        let Some(packed) = &mut self.packed else { return };
        if kind == Kind::Held && packed.bytes.is_empty() {
            return;
        }
        let mut bytes = std::mem::take(&mut packed.bytes);
        let kind = *packed.is_lost.get_or_insert(kind);
        let len = bytes.len();
        engine.fill_whole(&mut bytes, 0..len, kind);
        weave.decided(packed.id, &bytes, engine.take_found());
        self.messages.lose();
    }

    fn end(&mut self, engine: &mut Engine, weave: &mut Weave) {
        let Some(frame) = self.frame.take().filter(|frame| frame.is_end) else { return };
        if let Some(mut packed) = self.packed.take_if(|packed| packed.id == frame.id) {
            if packed.is_lost.is_none() {
                self.messages.message(engine, &mut packed.bytes, packed.is_text);
            }
            weave.decided(packed.id, &packed.bytes, engine.take_found());
        }
        weave.close(engine, frame.id);
    }

    /// Bytes of a message, unmasked.
    fn data(&mut self, engine: &mut Engine, weave: &mut Weave, id: u64, bytes: &[u8], mask: Option<Mask>) {
        let Some(packed) = self.packed.as_mut().filter(|packed| packed.id == id) else {
            return weave.data(engine, id, bytes, false, mask);
        };
        weave.wait(id, bytes.len(), mask);
        packed.bytes.extend_from_slice(bytes);
        if packed.is_lost.is_some() || packed.bytes.len() > PACKED_MAX {
            self.give_up(engine, weave, Kind::Compressed);
        }
    }

    /// Takes what stands at the beginning of `bytes`.
    pub(super) fn step(&mut self, engine: &mut Engine, weave: &mut Weave, bytes: &mut [u8]) -> Turn {
        if let Some(frame) = &mut self.frame {
            let len = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
            let mask = frame.mask;
            if let Some(mask) = &mut frame.mask {
                mask.apply(&mut bytes[..len]);
            }
            frame.left -= len as u64;
            let (id, is_over) = (frame.id, frame.left == 0);
            self.data(engine, weave, id, &bytes[..len], mask);
            if is_over {
                self.end(engine, weave);
            }
            return Turn::Went(len);
        }
        let Header { is_last, is_packed, opcode, mask: key, payload: left, len: head } = match header(bytes) {
            Some(Ok(header)) => header,
            Some(Err(NoFrame)) => return Turn::Lost,
            None => return Turn::More,
        };
        let is_control = opcode >= 8;
        let mask = key.map(|key| Mask { key, phase: 0 });
        let id = if opcode == 0 {
            match self.message {
                Some(id) => id,
                None => return Turn::Lost,
            }
        } else {
            let id = self.next;
            self.next += 1;
            if is_packed && !is_control {
                self.give_up(engine, weave, Kind::Lost);
                self.packed = Some(Packed { id, is_text: opcode == 1, bytes: Vec::new(), is_lost: None });
            }
            let body = match opcode {
                1 if !is_packed => Body::with(Parser::sniffing()),
                // A close: two bytes of a code, and a reason.
                8 => Body::with(Parser::text()),
                _ => Body::with(Parser::unknown()),
            };
            weave.open(engine, id, body);
            id
        };
        if !is_control {
            self.message = (!is_last).then_some(id);
        }
        weave.raw(&bytes[..head], vec![]);
        self.frame = Some(Frame { id, left, mask, is_end: is_last });
        if left == 0 {
            self.end(engine, weave);
        }
        Turn::Went(head)
    }
}
