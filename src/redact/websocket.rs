//! WebSocket (RFC 6455). Text that is JSON is taken apart as such. Compressed messages (RFC 7692) refer to earlier ones, so
//! each becomes a stored one of the same length; binary ones are filled.

use super::body::{Body, Parser, Type};
use super::engine::Engine;
use super::kind::Kind;
use super::weave::{Mask, Weave};
use crate::proto::websocket::{Header, NoFrame, header};

/// Within a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    id: u64,
    left: u64,
    mask: Option<Mask>,
    is_end: bool,
}

/// One direction.
#[derive(Debug)]
pub(super) struct WebSocket {
    frame: Option<Frame>,
    /// The message that its fragments belong to.
    message: Option<u64>,
    next: u64,
}

/// What a call came to.
pub(super) enum Turn {
    Went(usize),
    More,
    Lost,
}

impl WebSocket {
    /// `next`: the number of the next body.
    pub(super) fn new(next: u64) -> WebSocket {
        WebSocket { frame: None, message: None, next }
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
        weave.lose(engine, frame.id, Kind::Lost);
        if frame.left == 0 {
            self.end(engine, weave);
        }
        true
    }

    fn end(&mut self, engine: &mut Engine, weave: &mut Weave) {
        if let Some(frame) = self.frame.take().filter(|frame| frame.is_end) {
            weave.close(engine, frame.id);
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
            let (id, is_end) = (frame.id, frame.left == 0 && frame.is_end);
            weave.data(engine, id, &bytes[..len], is_end, mask);
            if frame.left == 0 {
                self.frame = None;
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
            let body = match opcode {
                1 | 2 if is_packed => Body::new(Type::packed_message()),
                1 => Body::with(Parser::sniffing()),
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
