//! WebSocket (RFC 6455), one direction: messages, unpacked where they are (RFC 7692).

use super::content::{Inflater, Limits, Reader};
use super::exchange::Context;
use super::parts::Splitter;
use super::{Message, Side, Unpacked, What};
use crate::proto::websocket::{Deflate, Header, NoFrame, header};

/// Packed bytes of a message that are kept until it is complete; a longer one is not unpacked.
const PACKED_MAX: usize = 4 << 20;
/// Most bytes that a message is unpacked to.
const UNPACKED_MAX: usize = 64 << 20;
/// What a sender leaves out at the end of each message (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A message, or a control frame, that goes on.
#[derive(Debug)]
struct Open {
    opcode: u8,
    reader: Reader,
    /// Of a packed one: what is packed.
    packed: Option<Vec<u8>>,
    /// The first bytes of a close.
    code: Vec<u8>,
    missing: u64,
}

/// Within a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: u64,
    mask: Option<[u8; 4]>,
    phase: usize,
    is_last: bool,
    is_control: bool,
}

/// How messages of this direction are packed.
#[derive(Debug)]
enum Packing {
    /// Nobody has said; they cannot be unpacked.
    Unknown,
    /// Each by itself.
    Each,
    /// Each refers to those before it.
    All(Inflater),
    /// They do, but bytes are missing.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(super) struct WebSocket {
    frame: Option<Frame>,
    message: Option<Open>,
    control: Option<Open>,
    packing: Packing,
}

/// What a call came to.
pub(super) enum Turn {
    Went(usize),
    More,
    Lost,
}

impl WebSocket {
    /// `extensions`: what the server has accepted.
    pub(super) fn new(from: Side, extensions: &str) -> WebSocket {
        let packing = match Deflate::agreed(extensions, from == Side::Client) {
            None => Packing::Unknown,
            Some(agreed) if agreed.takes_over => Packing::All(Inflater::messages()),
            Some(_) => Packing::Each,
        };
        WebSocket { frame: None, message: None, control: None, packing }
    }

    pub(super) fn held(&self) -> usize {
        let of = |open: &Open| open.reader.held() + open.packed.as_ref().map_or(0, Vec::capacity);
        let open: usize = self.message.iter().chain(&self.control).map(of).sum();
        open + if matches!(self.packing, Packing::All(_)) { 48 << 10 } else { 0 }
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one frame.
    pub(super) fn hole(&mut self, context: &mut Context<'_>, len: u64) -> bool {
        let Some(frame) = self.frame.as_mut().filter(|frame| frame.left >= len) else { return false };
        frame.left -= len;
        frame.phase = (frame.phase + (len % 4) as usize) % 4;
        let is_over = frame.left == 0;
        let open = if frame.is_control { &mut self.control } else { &mut self.message };
        if let Some(open) = open {
            open.missing += len;
            open.reader.lose(len, &mut |_| {});
            open.packed = open.packed.take().map(|_| Vec::new());
        }
        if is_over {
            self.end_frame(context);
        }
        true
    }

    /// What is being read cannot be read any further, and messages may be missing.
    pub(super) fn lose(&mut self, context: &mut Context<'_>) {
        self.frame = None;
        for open in [self.message.take(), self.control.take()].into_iter().flatten() {
            tell(context, open, &mut self.packing, false);
        }
        if matches!(self.packing, Packing::All(_)) {
            self.packing = Packing::Lost;
        }
    }

    /// Takes what stands at the beginning of `bytes`.
    pub(super) fn step(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Turn {
        let Some(frame) = &mut self.frame else { return self.begin(context, bytes) };
        let len = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
        let mut piece = bytes[..len].to_vec();
        if let Some(mask) = frame.mask {
            piece.iter_mut().enumerate().for_each(|(i, b)| *b ^= mask[(frame.phase + i) % 4]);
            frame.phase = (frame.phase + len) % 4;
        }
        frame.left -= len as u64;
        let is_over = frame.left == 0;
        let open = if frame.is_control { &mut self.control } else { &mut self.message };
        if let Some(open) = open.as_mut().filter(|_| !context.is_synthetic) {
            open.take(&piece);
        }
        if is_over {
            self.end_frame(context);
        }
        Turn::Went(len)
    }

    fn begin(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Turn {
        // A frame of an unknown type stands for missing ones.
        if context.is_synthetic && bytes.first() == Some(&0x8b) {
            let long = match bytes.get(1) {
                None => return Turn::More,
                Some(127) => 8,
                Some(126) => 2,
                Some(_) => 0,
            };
            let Some(head) = bytes.get(..2 + long) else { return Turn::More };
            let left = match long {
                0 => u64::from(head[1]),
                _ => head[2..].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
            };
            self.lose(context);
            self.frame =
                (left > 0).then_some(Frame { left, mask: None, phase: 0, is_last: true, is_control: true });
            return Turn::Went(2 + long);
        }
        let Header { is_last, is_packed, opcode, mask, payload, len } = match header(bytes) {
            Some(Ok(header)) => header,
            Some(Err(NoFrame)) => return Turn::Lost,
            None => return Turn::More,
        };
        let is_control = opcode >= 8;
        if opcode != 0 || self.message.is_none() {
            let open = Open::new(opcode, is_packed, context.limits);
            match is_control {
                true => self.control = Some(open),
                false => {
                    if let Some(before) = self.message.replace(open) {
                        tell(context, before, &mut self.packing, false);
                    }
                }
            }
        }
        self.frame = Some(Frame { left: payload, mask, phase: 0, is_last, is_control });
        if payload == 0 {
            self.end_frame(context);
        }
        Turn::Went(len)
    }

    fn end_frame(&mut self, context: &mut Context<'_>) {
        let Some(frame) = self.frame.take().filter(|frame| frame.is_last) else { return };
        let open = if frame.is_control { self.control.take() } else { self.message.take() };
        if let Some(open) = open {
            // Without its beginning a message is not complete.
            let is_whole = open.opcode != 0;
            tell(context, open, &mut self.packing, is_whole);
        }
    }
}

impl Open {
    fn new(opcode: u8, is_packed: bool, limits: Limits) -> Open {
        Open {
            opcode,
            reader: Reader::new("", Splitter::None, limits),
            packed: is_packed.then(Vec::new),
            code: Vec::new(),
            missing: 0,
        }
    }

    fn take(&mut self, mut piece: &[u8]) {
        if self.opcode == 8 && self.code.len() < 2 {
            let len = (2 - self.code.len()).min(piece.len());
            self.code.extend_from_slice(&piece[..len]);
            piece = &piece[len..];
        }
        match &mut self.packed {
            Some(packed) => {
                let room = (PACKED_MAX + 1).saturating_sub(packed.len());
                packed.extend_from_slice(&piece[..room.min(piece.len())]);
                self.reader.count(piece.len() as u64);
            }
            None => self.reader.feed(piece, &mut |_| {}),
        }
    }
}

fn tell(context: &mut Context<'_>, open: Open, packing: &mut Packing, is_whole: bool) {
    let Open { opcode, reader, packed, code, missing } = open;
    let code = code.first_chunk().map(|code| u16::from_be_bytes(*code));
    let (mut content, _) = reader.finish(is_whole, &mut |_| {});
    content.length += code.map_or(0, |_| 2);
    if let Some(packed) = packed {
        content.coding = "permessage-deflate".into();
        content.sha256 = None;
        let why = if missing > 0 || !is_whole {
            Some("bytes are missing")
        } else if packed.len() > PACKED_MAX {
            Some("too long to unpack")
        } else {
            None
        };
        content.unpacked = match why {
            Some(why) => {
                if matches!(packing, Packing::All(_)) {
                    *packing = Packing::Lost;
                }
                Unpacked::Not(why)
            }
            None => unpack(context, packing, &packed, &mut content),
        };
    }
    context.tell(What::Message(Message { opcode, code, content }));
}

fn unpack(
    context: &Context<'_>,
    packing: &mut Packing,
    packed: &[u8],
    content: &mut super::Content,
) -> Unpacked {
    let mut plain = Reader::plain(context.limits);
    let mut on = |bytes: &[u8]| {
        plain.feed(bytes, &mut |_| {});
        plain.length() <= UNPACKED_MAX as u64
    };
    let mut own = Inflater::messages();
    let inflater = match packing {
        Packing::Unknown => return Unpacked::Not("the compression was negotiated before the capture"),
        Packing::Lost => return Unpacked::Not("an earlier message is missing"),
        Packing::Each => &mut own,
        Packing::All(inflater) => inflater,
    };
    // A message that ends its stream begins a new one.
    let fed = inflater.feed(packed, &mut on).and_then(|is_ended| match is_ended {
        true => Ok(true),
        false => inflater.feed(&TAIL, &mut on),
    });
    match fed {
        Ok(is_ended) => {
            if let (true, Packing::All(inflater)) = (is_ended, &mut *packing) {
                *inflater = Inflater::messages();
            }
            let (unpacked, _) = plain.finish(true, &mut |_| {});
            content.preview = unpacked.preview;
            content.sha256 = unpacked.sha256;
            Unpacked::Whole(unpacked.length)
        }
        Err(_) => {
            if matches!(packing, Packing::All(_)) {
                *packing = Packing::Lost;
            }
            Unpacked::Not("not valid")
        }
    }
}
