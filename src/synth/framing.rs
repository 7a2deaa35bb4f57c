//! Protocols whose frames announce their length: what [`super::flow`] must know of them.

use super::h2::{self, Streams};
use super::websocket;
use crate::track::segment::Side;

/// Longest header from which a frame's length can be read.
pub const HEADER_MAX: usize = 10;

/// A protocol of frames, and what is known of the connection.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    /// And gRPC.
    Http2(Streams),
    /// After its upgrade.
    WebSocket,
}

impl Framing {
    /// Length of the header that begins so.
    pub fn header_len(&self, begin: &[u8]) -> usize {
        match self {
            Framing::Http2(_) => h2::HEADER,
            Framing::WebSocket => websocket::header_len(begin),
        }
    }

    /// Advances over a whole header: returns how many bytes follow it before the next frame.
    pub fn payload_len(&mut self, header: &[u8]) -> u64 {
        match (self, header.first_chunk()) {
            (Framing::Http2(streams), Some(header)) => {
                streams.see(header);
                h2::payload_len(header)
            }
            (Framing::Http2(_), None) => 0,
            (Framing::WebSocket, _) => websocket::payload_len(header),
        }
    }

    /// How many bytes follow before the next frame, if a partial header shows it.
    pub fn left(&self, header: &[u8]) -> Option<u64> {
        match self {
            Framing::Http2(_) => {
                let len = header.first_chunk::<3>()?;
                let [a, b, c] = *len;
                Some((h2::HEADER - header.len()) as u64 + u64::from(u32::from_be_bytes([0, a, b, c])))
            }
            Framing::WebSocket => None,
        }
    }

    /// A synthetic header for `len` bytes, at most [`h2::MAX_FRAME`], that are part of some frame; of a type
    /// that no dissector knows.
    pub fn made_up(&self, len: u64) -> Vec<u8> {
        match self {
            Framing::Http2(_) => h2::wrapper(len).to_vec(),
            Framing::WebSocket => websocket::wrapper(len).to_vec(),
        }
    }

    /// The frame that begins so carries data, in which zeros are no harm.
    pub fn is_data(&self, begin: &[u8]) -> bool {
        match self {
            Framing::Http2(_) => begin.len() >= h2::HEADER && begin[3] == 0,
            Framing::WebSocket => begin.len() >= websocket::header_len(begin),
        }
    }

    /// What the comment calls it.
    pub fn made_up_name(&self) -> &'static str {
        match self {
            Framing::Http2(_) => "h2-frame-header",
            Framing::WebSocket => "websocket-frame-header",
        }
    }

    /// Where the first frame of this side begins in bytes that begin with a call, searched from `from` on.
    /// `last`: where their last call begins.
    ///
    /// # Errors
    /// If it cannot be found with confidence: the first place where it may still be, once more bytes follow.
    pub fn boundary(&self, side: Side, bytes: &[u8], from: usize, last: usize) -> Result<usize, usize> {
        match self {
            Framing::Http2(streams) => h2::boundary(bytes, from, streams),
            Framing::WebSocket => websocket::boundary(side, bytes, from, last),
        }
    }
}
