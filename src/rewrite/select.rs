//! Takes connections out of a capture: their packets whole, and of all else what belongs to them.

use std::collections::HashMap;
use std::io::{self, Read};

use super::seen::Seen;
use crate::input::container::{INTERFACE, PACKET, ReadError, Reader, SECTION, word};
use crate::input::options::{APPLE_PROCESS, COMMENT, NAMES, STATISTICS, each_option, options_at};
use crate::redact::MARK;

/// Packets whose replacements are named.
const PLACES_MAX: usize = 10_000;

/// What was taken.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) packets: u64,
    /// Number of each connection in the result, by its number before.
    pub(crate) streams: HashMap<usize, u64>,
    /// Packet, connection in the result, and what was replaced there.
    pub(crate) places: Vec<(u64, Option<u64>, String)>,
    /// How many packets have what kind of replacement.
    pub(crate) kinds: HashMap<String, u64>,
}

/// Copies what `keeps` wants: connections by their numbers; `None` stands for packets of none. `is_part`: not all is wanted, so that
/// processes without packets go too.
pub(crate) fn select(
    input: impl Read + 'static,
    seen: &Seen,
    keeps: impl Fn(Option<usize>) -> bool,
    is_part: bool,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Taken> {
    let other = |error: ReadError| io::Error::other(error.to_string());
    let mut reader = Reader::new(input).map_err(other)?;
    // Process blocks are counted by their places: then all interfaces stay.
    let drops_interfaces = is_part && !seen.has_process_blocks;
    let wanted = |interface: usize| {
        !drops_interfaces
            || seen
                .flows
                .iter()
                .enumerate()
                .any(|(i, flow)| flow.interfaces.contains(&(interface as u32)) && keeps(Some(i)))
    };
    let mut taken = Taken::default();
    let (mut packet, mut base, mut in_section) = (0, 0, 0);
    // Of the section: the new number of each interface.
    let mut numbers: Vec<Option<u32>> = Vec::new();
    while let Some(item) = reader.next().map_err(other)? {
        let mut bytes = item.bytes;
        let is_big = reader.is_big();
        if reader.is_classic() {
            let flow = item.packet.is_some().then(|| seen.flow_of(packet));
            packet += usize::from(item.packet.is_some());
            if flow.is_none_or(&keeps) {
                if let Some(flow) = flow {
                    taken.packet(flow, &[]);
                }
                write(&bytes)?;
            }
            continue;
        }
        if let Some(_at) = &item.packet {
            let flow = seen.flow_of(packet);
            packet += 1;
            if !keeps(flow) {
                continue;
            }
            let kinds = match options_at(item.kind, &bytes, is_big).filter(|_| item.kind == PACKET) {
                Some(at) => replaced(&bytes, at, is_big),
                None => vec![],
            };
            taken.packet(flow, &kinds);
            if item.kind == PACKET {
                let number = numbers.get(item.interface as usize).copied().flatten();
                set_word(&mut bytes, 8, number.unwrap_or(item.interface), is_big);
            }
            write(&bytes)?;
            continue;
        }
        match item.kind {
            SECTION => {
                base += in_section;
                in_section = 0;
                numbers.clear();
            }
            INTERFACE => {
                let is_wanted = wanted(base + in_section);
                in_section += 1;
                let next = numbers.iter().flatten().count() as u32;
                numbers.push(is_wanted.then_some(next));
                if !is_wanted {
                    continue;
                }
            }
            STATISTICS => {
                let interface = word(&bytes, 8, is_big);
                match numbers.get(interface as usize).copied() {
                    Some(Some(number)) => set_word(&mut bytes, 8, number, is_big),
                    Some(None) => continue,
                    None => {}
                }
            }
            // Names of hosts that nobody may have talked to, and whatever else there is.
            NAMES if is_part => continue,
            APPLE_PROCESS => {}
            _ if is_part => continue,
            _ => {}
        }
        write(&bytes)?;
    }
    Ok(taken)
}

fn set_word(bytes: &mut [u8], at: usize, value: u32, is_big: bool) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&if is_big { value.to_be_bytes() } else { value.to_le_bytes() });
    }
}

/// What the comments of a packet say was replaced in it.
fn replaced(block: &[u8], at: usize, is_big: bool) -> Vec<String> {
    let mut kinds = Vec::new();
    for (option, value) in each_option(block, at, is_big).filter(|(option, _)| *option == COMMENT) {
        debug_assert_eq!(option, COMMENT);
        let text = String::from_utf8_lossy(value);
        let said = text.strip_prefix(MARK).or_else(|| {
            let rest = text.strip_prefix("tls2pcap=1 conn=")?;
            rest.split(' ').find_map(|pair| pair.strip_prefix("redacted="))
        });
        kinds.extend(said.unwrap_or_default().split(',').filter(|kind| !kind.is_empty()).map(str::to_owned));
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

impl Taken {
    fn packet(&mut self, flow: Option<usize>, kinds: &[String]) {
        self.packets += 1;
        let next = self.streams.len() as u64;
        let stream = flow.map(|flow| *self.streams.entry(flow).or_insert(next));
        for kind in kinds {
            *self.kinds.entry(kind.clone()).or_default() += 1;
        }
        if !kinds.is_empty() && self.places.len() < PLACES_MAX {
            self.places.push((self.packets, stream, kinds.join(", ")));
        }
    }
}
