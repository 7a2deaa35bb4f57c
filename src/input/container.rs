//! Capture files as they are read: pcapng by blocks, classic pcap by packets, either byte order. Nothing of them is
//! interpreted that is not needed.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use flate2::bufread::MultiGzDecoder;

/// Longest block or packet that is taken.
const BLOCK_MAX: usize = 64 << 20;

pub(crate) const SECTION: u32 = 0x0a0d_0d0a;
pub(crate) const INTERFACE: u32 = 1;
pub(crate) const OLD_PACKET: u32 = 2;
pub(crate) const SIMPLE_PACKET: u32 = 3;
pub(crate) const PACKET: u32 = 6;

/// What the file cannot be read for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The system's error, or the compressed data is damaged.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Neither pcapng nor pcap.
    #[error("neither pcapng nor pcap")]
    Format,
    /// It ends within a block or packet.
    #[error("it ends in the middle of packet {0}")]
    Cut(u64),
    /// A length makes no sense.
    #[error("it is damaged after packet {0}")]
    Damaged(u64),
}

/// A piece of a file.
#[derive(Debug)]
pub(crate) struct Item {
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    /// In pcapng, what it is.
    pub(crate) kind: u32,
    /// The packet's bytes in it, and their link type, if it is a packet.
    pub(crate) packet: Option<(Range<usize>, u32)>,
    /// When the packet was captured, in ns since 1970; 0 if unknown.
    pub(crate) time: u64,
    /// In pcapng, the packet's interface.
    pub(crate) interface: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Pcapng,
    /// With this link type.
    Pcap(u32),
}

/// A file that is read once, front to back.
pub(crate) struct Reader {
    input: Box<dyn BufRead>,
    layout: Layout,
    section: Section,
    /// Of classic pcap, the file's header is still to be given.
    header: Option<Vec<u8>>,
}

/// What the blocks so far say of those that follow.
#[derive(Debug, Default)]
pub(crate) struct Section {
    is_big: bool,
    /// Link types of the section's interfaces.
    links: Vec<u32>,
    /// Snapshot lengths of the same, for packets that do not say how long they are.
    snaps: Vec<u32>,
    /// Of the same: units of time in a second, and what is added to times, in seconds.
    clocks: Vec<(u64, i64)>,
    packets: u64,
}

impl Reader {
    /// Looks at the beginning of a file, which may be compressed by gzip.
    pub(crate) fn new(input: impl Read + 'static) -> Result<Reader, ReadError> {
        let mut input: Box<dyn BufRead> = Box::new(BufReader::with_capacity(1 << 20, input));
        if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            input = Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(input)));
        }
        let mut first = [0; 4];
        input.read_exact(&mut first).map_err(|_| ReadError::Format)?;
        let mut reader = Reader { input, layout: Layout::Pcapng, section: Section::default(), header: None };
        match u32::from_le_bytes(first) {
            SECTION => reader.header = Some(first.to_vec()),
            magic @ (0xa1b2_c3d4 | 0xa1b2_3c4d) => {
                reader.section.clocks = vec![(units_of(magic), 0)];
                reader.begin_pcap(first)?;
            }
            magic @ (0xd4c3_b2a1 | 0x4d3c_b2a1) => {
                reader.section.is_big = true;
                reader.section.clocks = vec![(units_of(magic.swap_bytes()), 0)];
                reader.begin_pcap(first)?;
            }
            _ => return Err(ReadError::Format),
        }
        Ok(reader)
    }

    fn begin_pcap(&mut self, first: [u8; 4]) -> Result<(), ReadError> {
        let mut header = first.to_vec();
        header.resize(24, 0);
        self.input.read_exact(&mut header[4..]).map_err(|_| ReadError::Format)?;
        self.layout = Layout::Pcap(self.word(&header, 20) & 0x0fff_ffff);
        self.header = Some(header);
        Ok(())
    }

    /// Whether it is classic pcap, which holds packets and nothing else.
    pub(crate) fn is_classic(&self) -> bool {
        self.layout != Layout::Pcapng
    }

    /// The byte order of what was read last.
    pub(crate) fn is_big(&self) -> bool {
        self.section.is_big
    }

    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        self.section.word(bytes, at)
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, ReadError> {
        match self.layout {
            Layout::Pcapng => self.block(),
            Layout::Pcap(link) => self.classic_packet(link),
        }
    }

    /// Appends so many bytes. Gives how many there were.
    fn read(&mut self, bytes: &mut Vec<u8>, len: usize) -> Result<usize, ReadError> {
        Ok(self.input.by_ref().take(len as u64).read_to_end(bytes)?)
    }

    fn classic_packet(&mut self, link: u32) -> Result<Option<Item>, ReadError> {
        if let Some(bytes) = self.header.take() {
            return Ok(Some(Item { bytes, kind: SECTION, packet: None, time: 0, interface: 0 }));
        }
        let mut bytes = Vec::with_capacity(2048);
        match self.read(&mut bytes, 16)? {
            0 => return Ok(None),
            16 => {}
            _ => return Err(ReadError::Cut(self.section.packets + 1)),
        }
        let len = self.word(&bytes, 8) as usize;
        if len > BLOCK_MAX {
            return Err(ReadError::Damaged(self.section.packets));
        }
        if self.read(&mut bytes, len)? < len {
            return Err(ReadError::Cut(self.section.packets + 1));
        }
        self.section.packets += 1;
        let units = self.section.clocks.first().map_or(1_000_000, |clock| clock.0);
        let (seconds, rest) = (u64::from(self.word(&bytes, 0)), u64::from(self.word(&bytes, 4)));
        let time = seconds * 1_000_000_000 + rest.saturating_mul(1_000_000_000 / units);
        Ok(Some(Item { packet: Some((16..16 + len, link)), bytes, kind: PACKET, time, interface: 0 }))
    }

    fn block(&mut self) -> Result<Option<Item>, ReadError> {
        let cut = ReadError::Cut(self.section.packets + 1);
        let mut bytes = self.header.take().unwrap_or_default();
        let missing = 8 - bytes.len();
        let had = bytes.len();
        match self.read(&mut bytes, missing)? {
            0 if had == 0 => return Ok(None),
            read if read < missing => return Err(cut),
            _ => {}
        }
        if bytes[..4] == SECTION.to_le_bytes() {
            if self.read(&mut bytes, 4)? < 4 {
                return Err(cut);
            }
            self.section.begin(&bytes)?;
        }
        let len = self.word(&bytes, 4) as usize;
        if len < bytes.len() + 4 || !len.is_multiple_of(4) || len > BLOCK_MAX {
            return Err(ReadError::Damaged(self.section.packets));
        }
        let rest = len - bytes.len();
        if self.read(&mut bytes, rest)? < rest {
            return Err(cut);
        }
        if self.word(&bytes, len - 4) as usize != len {
            return Err(ReadError::Damaged(self.section.packets));
        }
        self.section.block(bytes).map(Some)
    }
}

impl Section {
    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        word(bytes, at, self.is_big)
    }

    /// The byte order of what was taken last.
    pub(crate) fn is_big(&self) -> bool {
        self.is_big
    }

    /// A section header, at least its first 12 bytes.
    fn begin(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        self.is_big = match bytes[8..12] {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return Err(ReadError::Damaged(self.packets)),
        };
        self.links.clear();
        self.snaps.clear();
        self.clocks.clear();
        Ok(())
    }

    /// A whole block that this program has just written.
    pub(crate) fn own(&mut self, bytes: Vec<u8>) -> Result<Item, ReadError> {
        if bytes.len() < 12 {
            return Err(ReadError::Damaged(self.packets));
        }
        if bytes[..4] == SECTION.to_le_bytes() {
            self.begin(&bytes)?;
        }
        self.block(bytes)
    }

    /// A whole block, at least 12 bytes.
    fn block(&mut self, bytes: Vec<u8>) -> Result<Item, ReadError> {
        let (kind, len) = (self.word(&bytes, 0), bytes.len());
        let packet = match kind {
            INTERFACE if len >= 20 => {
                self.links.push(self.word(&bytes, 8) & 0xffff);
                // The link type is of 16 bits, in the file's order.
                if self.is_big {
                    let link = u32::from(u16::from_be_bytes([bytes[8], bytes[9]]));
                    self.links.pop();
                    self.links.push(link);
                }
                self.snaps.push(self.word(&bytes, 12));
                self.clocks.push(self.clock(&bytes));
                None
            }
            PACKET | OLD_PACKET if len >= 32 => {
                let interface = match kind {
                    PACKET => self.word(&bytes, 8) as usize,
                    _ if self.is_big => usize::from(u16::from_be_bytes([bytes[8], bytes[9]])),
                    _ => usize::from(u16::from_le_bytes([bytes[8], bytes[9]])),
                };
                let captured = self.word(&bytes, 20) as usize;
                if captured > len - 32 {
                    return Err(ReadError::Damaged(self.packets));
                }
                let link = self.links.get(interface).copied().unwrap_or(u32::MAX);
                Some((28..28 + captured, link))
            }
            SIMPLE_PACKET if len >= 16 => {
                let snap = self.snaps.first().copied().filter(|snap| *snap > 0).unwrap_or(u32::MAX);
                let captured = (self.word(&bytes, 8).min(snap) as usize).min(len - 16);
                Some((12..12 + captured, self.links.first().copied().unwrap_or(u32::MAX)))
            }
            PACKET | OLD_PACKET | SIMPLE_PACKET | INTERFACE => return Err(ReadError::Damaged(self.packets)),
            _ => None,
        };
        self.packets += u64::from(packet.is_some());
        let mut interface = 0;
        let mut time = 0;
        if kind == PACKET && packet.is_some() {
            interface = self.word(&bytes, 8);
            let ticks = u64::from(self.word(&bytes, 12)) << 32 | u64::from(self.word(&bytes, 16));
            let (units, offset) = self.clocks.get(interface as usize).copied().unwrap_or((1_000_000, 0));
            let ns = u128::from(ticks) * 1_000_000_000 / u128::from(units.max(1));
            let ns = i128::try_from(ns).unwrap_or(0) + i128::from(offset) * 1_000_000_000;
            time = u64::try_from(ns).unwrap_or(0);
        }
        Ok(Item { bytes, kind, packet, time, interface })
    }

    /// An interface's if_tsresol and if_tsoffset.
    fn clock(&self, block: &[u8]) -> (u64, i64) {
        let (mut units, mut offset) = (1_000_000, 0);
        for (option, value) in super::options::each_option(block, 16, self.is_big) {
            match (option, value) {
                (9, [n @ 0..=19, ..]) => units = 10u64.pow(u32::from(*n)),
                (9, [n @ 0x80..=0xbf, ..]) => units = 1 << (n & 0x7f),
                (14, value) if value.len() == 8 => {
                    let [a, b] = [0, 4].map(|at| u64::from(word(value, at, self.is_big)));
                    offset = (if self.is_big { a << 32 | b } else { b << 32 | a }) as i64;
                }
                _ => {}
            }
        }
        (units, offset)
    }
}

/// Units of time in a second, by the file's first word.
fn units_of(magic: u32) -> u64 {
    if magic == 0xa1b2_3c4d { 1_000_000_000 } else { 1_000_000 }
}

/// The number at offset `at`; 0 beyond the end.
pub(crate) fn word(bytes: &[u8], at: usize, is_big: bool) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    if is_big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}
