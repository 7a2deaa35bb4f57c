//! Reads what a capture file must have here: packets of IPv4 and TCP with comments. A reader of its
//! own, so that an error of the writer's crate is not made twice.

use std::io::{self, Read};

/// A TCP packet of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Address and port: source, destination.
    pub ends: [(u32, u16); 2],
    pub seq: u32,
    pub syn: bool,
    pub ack: bool,
    /// Payload, as far as it is in the file.
    pub payload: &'a [u8],
    /// Length of the payload as the IP header tells it.
    pub len: u64,
    pub comments: Vec<&'a str>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn u16be(bytes: &[u8], at: usize) -> io::Result<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]])).ok_or_else(|| bad("short packet"))
}

fn u32be(bytes: &[u8], at: usize) -> io::Result<u32> {
    Ok(u32::from(u16be(bytes, at)?) << 16 | u32::from(u16be(bytes, at + 2)?))
}

fn u32le(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|b| b.first_chunk()).ok_or_else(|| bad("short block"))?;
    Ok(u32::from_le_bytes(*four))
}

/// Hands every packet to `each`; returns how many there were.
///
/// # Errors
/// Those of `file`, and if it is no capture of IPv4 and TCP in little-endian pcapng.
pub fn read(mut file: impl Read, mut each: impl FnMut(&Packet<'_>)) -> io::Result<u64> {
    let mut packets = 0;
    let mut block = Vec::new();
    loop {
        let mut head = [0; 8];
        match file.read(&mut head[..1])? {
            0 => return Ok(packets),
            _ => file.read_exact(&mut head[1..])?,
        }
        let len = u32le(&head, 4)? as usize;
        if !(12..=1 << 20).contains(&len) {
            return Err(bad("a block of impossible length"));
        }
        block.resize(len - 8, 0);
        file.read_exact(&mut block)?;
        if u32le(&head, 0)? == 6 {
            packets += 1;
            each(&parse(&block[..len - 12])?);
        }
    }
}

/// Length of the synthetic Ethernet header.
const ETHERNET: usize = 14;

fn parse(block: &[u8]) -> io::Result<Packet<'_>> {
    let (captured, whole) = (u32le(block, 12)? as usize, u32le(block, 16)? as usize);
    let frame = block.get(20..20 + captured).ok_or_else(|| bad("short block"))?;
    let data = frame.get(ETHERNET..).ok_or_else(|| bad("short packet"))?;
    let whole = whole.saturating_sub(ETHERNET);
    let ip = usize::from(data.first().ok_or_else(|| bad("short packet"))? & 15) * 4;
    if data[0] >> 4 != 4 || usize::from(u16be(data, 2)?) != whole || data.get(9) != Some(&6) {
        return Err(bad("not the IPv4 and TCP that was expected"));
    }
    let headers = ip + usize::from(u16be(data, ip + 12)? >> 12) * 4;
    let flags = u16be(data, ip + 12)?;
    let mut comments = Vec::new();
    let mut options = block.get(20 + captured.next_multiple_of(4)..).unwrap_or_default();
    while options.len() >= 4 {
        let (kind, len) = (u32le(options, 0)? as u16, (u32le(options, 0)? >> 16) as usize);
        let value = options.get(4..4 + len).ok_or_else(|| bad("short option"))?;
        if kind == 1 {
            comments.push(std::str::from_utf8(value).map_err(|_| bad("a comment that is not UTF-8"))?);
        }
        options = options.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Packet {
        ends: [(u32be(data, 12)?, u16be(data, ip)?), (u32be(data, 16)?, u16be(data, ip + 2)?)],
        seq: u32be(data, ip + 4)?,
        syn: flags & 2 != 0,
        ack: flags & 16 != 0,
        payload: data.get(headers..).unwrap_or_default(),
        len: (whole as u64).checked_sub(headers as u64).ok_or_else(|| bad("short packet"))?,
        comments,
    })
}
