//! The protocol state of the two directions of a connection, so that a file that begins in the middle of it can
//! begin with what a reader needs.

use super::table::{DEFAULT_MAX, Table};
use crate::synth::{h2, websocket};

/// A request's head, or an answer's, that is kept.
const HEAD_MAX: usize = 8 << 10;
/// The payload of a frame with header fields that is kept until it is complete, and a block of several such
/// frames.
const BLOCK_MAX: usize = 64 << 10;
/// Setting: the largest table of the peer's encoder.
const HEADER_TABLE_SIZE: u16 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const ACK: u8 = 1;

/// Bytes at the beginning of a file that are in no other, and their name in the comment.
pub(super) type MadeUp = (&'static str, Vec<u8>);

/// Position of a direction among its frames.
#[derive(Clone, Debug)]
enum StreamPosition {
    /// So many bytes of a frame's header are there.
    Header([u8; 10], usize),
    /// So many bytes of the payload are missing, of a frame with this header.
    Payload(u64, [u8; 10]),
    /// A hole may have hidden where a frame begins.
    Lost,
}

const BEGIN: StreamPosition = StreamPosition::Header([0; 10], 0);

/// One direction.
#[derive(Clone, Debug)]
struct Line {
    place: StreamPosition,
    table: Table,
    /// Frames of an incomplete header block, as they were written; their fields, and whether some are missing.
    frames: Vec<u8>,
    block: Vec<u8>,
    is_damaged: bool,
    /// The table size that this side allows the other, if it set one.
    allowed: Option<u32>,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            place: BEGIN,
            table: Table::default(),
            frames: Vec::new(),
            block: Vec::new(),
            is_damaged: false,
            allowed: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamProtocol {
    Undecided,
    Other,
    Http1,
    Http2,
    WebSocket,
}

/// See the module. The sides are 0, the client, and 1, the server.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    kind: StreamProtocol,
    /// The client's first bytes until they reveal the protocol; with HTTP/1 the last request's head. With
    /// WebSocket that, and the response's.
    heads: [Vec<u8>; 2],
    lines: [Line; 2],
}

impl Default for Stream {
    fn default() -> Stream {
        Stream { kind: StreamProtocol::Undecided, heads: Default::default(), lines: Default::default() }
    }
}

impl Stream {
    /// Bytes that are kept for this.
    pub(super) fn weight(&self) -> usize {
        let lines = self.lines.iter().map(|line| line.table.size() + line.frames.len() + line.block.len());
        lines.sum::<usize>() + self.heads.iter().map(Vec::len).sum::<usize>()
    }

    /// The limit for tables is reached.
    pub(super) fn forget_tables(&mut self) {
        self.lines.iter_mut().for_each(|line| line.table.forget());
    }

    /// The next bytes of one side, and how many are missing after them.
    pub(super) fn take(&mut self, side: usize, bytes: &[u8], missing: u64) {
        match self.kind {
            StreamProtocol::Undecided => self.decide(side, bytes, missing),
            StreamProtocol::Other => {}
            StreamProtocol::Http1 => self.http1(side, bytes, missing),
            StreamProtocol::Http2 | StreamProtocol::WebSocket => self.framed(side, bytes, missing),
        }
    }

    /// An unknown number of bytes is missing here. Readers continue with a frame after it.
    pub(super) fn jump(&mut self, side: usize) {
        let line = &mut self.lines[side];
        (line.place, line.is_damaged) = (BEGIN, false);
        line.frames.clear();
        line.block.clear();
        line.table.forget();
    }

    fn decide(&mut self, side: usize, bytes: &[u8], missing: u64) {
        if side == 1 {
            if bytes.starts_with(b"HTTP/1.") {
                self.kind = StreamProtocol::Http1;
                self.http1(side, bytes, missing);
            } else if !bytes.is_empty() || missing > 0 {
                self.kind = StreamProtocol::Other;
            }
            return;
        }
        let head = &mut self.heads[0];
        let before = head.len();
        head.extend_from_slice(&bytes[..bytes.len().min(h2::PREFACE.len() - before)]);
        let is_whole = head.len() == h2::PREFACE.len();
        if *head == h2::PREFACE[..head.len()] && (is_whole || missing == 0) {
            if is_whole {
                head.clear();
                self.kind = StreamProtocol::Http2;
                self.framed(0, &bytes[h2::PREFACE.len() - before..], missing);
            }
            return;
        }
        let is_request = before == 0 && head.first().is_some_and(u8::is_ascii_uppercase);
        head.clear();
        self.kind = if is_request { StreamProtocol::Http1 } else { StreamProtocol::Other };
        if is_request {
            self.http1(side, bytes, missing);
        }
    }

    /// Waits for an upgrade to WebSocket. Messages begin with a packet.
    fn http1(&mut self, side: usize, bytes: &[u8], missing: u64) {
        // Only looked for where there is one: most packets are parts of bodies.
        let head = || {
            let bytes = &bytes[..bytes.len().min(HEAD_MAX)];
            let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
            bytes.get(..end)
        };
        if side == 0 {
            if bytes.starts_with(b"GET ") {
                self.heads[0] = head().unwrap_or_default().to_vec();
            } else if bytes.first().is_some_and(u8::is_ascii_uppercase) {
                self.heads[0].clear();
            }
        } else if bytes.starts_with(b"HTTP/1.1 101")
            && let Some(head) = head()
        {
            let text = String::from_utf8_lossy(head).to_ascii_lowercase();
            if text.lines().any(|line| line.starts_with("upgrade:") && line.contains("websocket")) {
                self.kind = StreamProtocol::WebSocket;
                self.heads[1] = head.to_vec();
                self.framed(1, &bytes[head.len()..], missing);
            }
        }
    }

    fn framed(&mut self, side: usize, mut bytes: &[u8], mut missing: u64) {
        let is_http2 = self.kind == StreamProtocol::Http2;
        while !bytes.is_empty() || missing > 0 {
            let line = &mut self.lines[side];
            match &mut line.place {
                StreamPosition::Lost => return,
                StreamPosition::Header(header, n) => {
                    let Some((&byte, rest)) = bytes.split_first() else {
                        line.place = StreamPosition::Lost;
                        line.table.forget();
                        return;
                    };
                    (header[*n], bytes) = (byte, rest);
                    *n += 1;
                    let whole = if is_http2 { h2::HEADER } else { websocket::header_len(&header[..*n]) };
                    if *n < whole {
                        continue;
                    }
                    let header = *header;
                    let len = match header.first_chunk() {
                        Some(header) if is_http2 => h2::payload_len(header),
                        _ => websocket::payload_len(&header[..whole]),
                    };
                    line.place = StreamPosition::Payload(len, header);
                    if is_http2 {
                        line.begin(&header, len);
                    }
                    if len == 0 {
                        self.ended(side, header);
                    }
                }
                StreamPosition::Payload(left, header) => {
                    let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let (now, rest) = bytes.split_at(n);
                    bytes = rest;
                    *left -= n as u64;
                    let gone = if bytes.is_empty() { missing.min(*left) } else { 0 };
                    missing -= gone;
                    *left -= gone;
                    let (left, header) = (*left, *header);
                    if is_http2 {
                        line.keep(&header, now, gone > 0);
                    }
                    if left == 0 {
                        self.ended(side, header);
                    }
                }
            }
        }
    }

    /// A frame is over.
    fn ended(&mut self, side: usize, header: [u8; 10]) {
        let line = &mut self.lines[side];
        line.place = BEGIN;
        if self.kind == StreamProtocol::Http2
            && let Some(size) = line.end(&header)
        {
            line.allowed = Some(size);
        }
    }

    /// What the sides must have sent, in this order, at the beginning of a file that continues here.
    pub(super) fn beginning(&self) -> Vec<(usize, MadeUp)> {
        let mut said = Vec::new();
        match self.kind {
            StreamProtocol::Undecided | StreamProtocol::Other | StreamProtocol::Http1 => return said,
            StreamProtocol::WebSocket => {
                let heads = self.heads.iter().enumerate();
                said.extend(heads.map(|(side, head)| (side, ("websocket-upgrade", head.clone()))));
            }
            StreamProtocol::Http2 => {
                said.push((0, ("h2-preface", h2::PREFACE.to_vec())));
                // Each allows what the other's table takes, as soon as that agrees.
                for (side, line) in self.lines.iter().enumerate() {
                    if let Some(size) = line.allowed.filter(|size| *size as usize != DEFAULT_MAX) {
                        let setting = [&HEADER_TABLE_SIZE.to_be_bytes()[..], &size.to_be_bytes()].concat();
                        said.push((side, ("h2-settings", frame(SETTINGS, 0, &setting))));
                        said.push((1 - side, ("h2-settings", frame(SETTINGS, ACK, &[]))));
                    }
                }
                for (side, line) in self.lines.iter().enumerate() {
                    let block = line.table.rebuilt();
                    said.extend(block.map(|b| (side, ("h2-header-table", frame(HEADERS, END_HEADERS, &b)))));
                }
            }
        }
        let lines = self.lines.iter().enumerate();
        said.extend(
            lines.filter_map(|(side, line)| Some((side, line.begun(self.kind == StreamProtocol::Http2)?))),
        );
        said
    }
}

impl Line {
    /// A frame of HTTP/2 begins.
    fn begin(&mut self, header: &[u8; 10], len: u64) {
        if !is_kept(header[3]) {
            return;
        }
        if header[3] != CONTINUATION {
            self.frames.clear();
            self.block.clear();
            self.is_damaged = false;
        }
        self.is_damaged |= len as usize + self.frames.len() > BLOCK_MAX;
        if self.is_damaged {
            self.frames.clear();
        } else {
            self.frames.extend_from_slice(&header[..h2::HEADER]);
        }
    }

    fn keep(&mut self, header: &[u8; 10], bytes: &[u8], has_hole: bool) {
        if !is_kept(header[3]) {
            return;
        }
        self.is_damaged |= has_hole;
        if !self.is_damaged {
            self.frames.extend_from_slice(bytes);
        }
    }

    /// A frame of HTTP/2 is complete: takes its header fields, or the table size that it allows.
    fn end(&mut self, header: &[u8; 10]) -> Option<u32> {
        let (kind, flags) = (header[3], header[4]);
        if !is_kept(kind) {
            return None;
        }
        let len = h2::payload_len(header.first_chunk()?) as usize;
        let payload = match self.is_damaged {
            true => None,
            false => self.frames.len().checked_sub(len).and_then(|at| self.frames.get(at..)),
        };
        if kind == SETTINGS {
            let settings = payload.filter(|_| flags & ACK == 0).unwrap_or_default().chunks_exact(6);
            let mut sizes = settings.filter(|s| u16::from_be_bytes([s[0], s[1]]) == HEADER_TABLE_SIZE);
            let size = sizes.next_back().map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]));
            self.frames.clear();
            return size;
        }
        match payload.and_then(|payload| fields(kind, flags, payload)).map(<[u8]>::to_vec) {
            Some(part) => self.block.extend_from_slice(&part),
            None => self.is_damaged = true,
        }
        if flags & END_HEADERS != 0 {
            match self.is_damaged {
                true => self.table.forget(),
                false => self.table.block(&self.block),
            }
            self.frames.clear();
            self.block.clear();
            self.is_damaged = false;
        }
        None
    }

    /// What must precede the rest of a frame, or of a header block.
    fn begun(&self, is_http2: bool) -> Option<MadeUp> {
        if is_http2 && !self.frames.is_empty() && !self.is_damaged {
            let mut begun = self.frames.clone();
            // Between two frames of one block there may be the header of the second.
            if let StreamPosition::Header(header, n) = &self.place {
                begun.extend_from_slice(&header[..*n]);
            }
            return Some(("h2-frame-begin", begun));
        }
        match &self.place {
            StreamPosition::Header(_, 0) | StreamPosition::Lost => None,
            StreamPosition::Header(header, n) => {
                let name = if is_http2 { "h2-frame-begin" } else { "websocket-frame-begin" };
                Some((name, header[..*n].to_vec()))
            }
            StreamPosition::Payload(left, header) if is_http2 => {
                let whole = header[3] == DATA && header[4] & PADDED == 0 && *left <= h2::MAX_FRAME;
                let mut again = h2::wrapper(*left);
                if whole {
                    again[3..].copy_from_slice(&header[3..h2::HEADER]);
                }
                Some(("h2-frame-header", again.to_vec()))
            }
            StreamPosition::Payload(left, _) => {
                Some(("websocket-frame-header", websocket::wrapper(*left).to_vec()))
            }
        }
    }
}

/// Frames whose payload is of interest.
fn is_kept(kind: u8) -> bool {
    matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION | SETTINGS)
}

/// The part of a header block in the payload of a frame.
fn fields(kind: u8, flags: u8, mut payload: &[u8]) -> Option<&[u8]> {
    if kind == CONTINUATION {
        return Some(payload);
    }
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (&len, rest) = payload.split_first()?;
        (padding, payload) = (usize::from(len), rest);
    }
    let before = match kind {
        PUSH_PROMISE => 4,
        _ if flags & PRIORITY != 0 => 5,
        _ => 0,
    };
    payload.get(before..payload.len().checked_sub(padding)?)
}

/// A frame on stream 0, where no request is.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = h2::wrapper(payload.len() as u64).to_vec();
    (frame[3], frame[4]) = (kind, flags);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
