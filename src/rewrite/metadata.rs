//! What a pcapng file says beside its packets: comments, names and descriptions are looked through like payload; options and
//! blocks that are not known are emptied.

use std::ops::Range;

use crate::input::container::{INTERFACE, OLD_PACKET, PACKET, SECTION, SIMPLE_PACKET};
use crate::input::options::{APPLE_PROCESS, COMMENT, NAMES, STATISTICS, each_option, half_words, options_at};
use crate::redact::{self, Engine, Found, Kind, MARK};

/// Keys, as of TLS: Decryption Secrets Block.
const SECRETS: u32 = 10;
/// Custom blocks: their maker's number, then anything.
const CUSTOM: [u32; 2] = [0x0000_0bad, 0x4000_0bad];
/// What an option holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Comment,
    Text,
    Host,
    CommandLine,
    Number,
    /// An IPv4 address, then maybe a mask; an IPv6 address, then maybe a length; a hardware address of six or eight bytes.
    Four,
    Six,
    Hardware,
    /// A hash of the packet as it was, behind a byte that says which.
    Hash,
    Unknown,
}

fn holds(kind: u32, option: u16) -> Holds {
    match (kind, option) {
        (_, COMMENT) => Holds::Comment,
        (SECTION, 2..=4) => Holds::Text,
        (INTERFACE, 3) => Holds::CommandLine,
        (INTERFACE, 2 | 11 | 12 | 15 | 18) => Holds::Text,
        (INTERFACE, 4) | (NAMES, 3) => Holds::Four,
        (INTERFACE, 5) | (NAMES, 4) => Holds::Six,
        (INTERFACE, 6 | 7) => Holds::Hardware,
        (INTERFACE, 8..=17) | (STATISTICS, 2..=8) => Holds::Number,
        (PACKET, 3) | (OLD_PACKET, 3) => Holds::Hash,
        (PACKET, 2 | 4..=8 | 0x8001) | (OLD_PACKET, 2) => Holds::Number,
        (NAMES, 2) => Holds::Host,
        (APPLE_PROCESS, 2) => Holds::Text,
        _ => Holds::Unknown,
    }
}

/// Works on a block; of a packet, on its options. Gives what was found.
pub(super) fn block(engine: &mut Engine, kind: u32, bytes: &mut [u8], is_big: bool) -> Vec<Found> {
    let end = bytes.len().saturating_sub(4);
    let mut found = Vec::new();
    if kind == NAMES {
        records(engine, &mut bytes[..end], is_big, &mut found);
    }
    match options_at(kind, bytes, is_big) {
        Some(at) => options(engine, kind, &mut bytes[..end], at, is_big, &mut found),
        None if kind == SIMPLE_PACKET => {}
        None if kind == SECRETS => {
            // The lines of a key log stay lines.
            if let Some(keys) = bytes.get_mut(16..end)
                && redact::fill_whole(keys).is_some()
            {
                found.push(Found { at: 16, kind: Kind::PrivateKey });
            }
        }
        None => {
            let begin = if CUSTOM.contains(&kind) { 12 } else { 8 };
            empty(bytes, begin.min(end)..end, &mut found);
        }
    }
    found
}

/// Gives an address its pseudonym.
fn pseudonym(engine: &Engine, what: Holds, value: &mut [u8]) -> Vec<Found> {
    if !engine.hides_addresses() {
        return vec![];
    }
    let old = value.to_vec();
    if what == Holds::Four
        && let Some(own) = value.first_chunk_mut()
    {
        *own = engine.addresses().v4(*own);
    } else if what == Holds::Six
        && let Some(own) = value.first_chunk_mut()
    {
        *own = engine.addresses().v6(*own);
    } else if what == Holds::Hardware
        && let Some(own) = value.first_chunk_mut()
    {
        *own = engine.addresses().mac(*own);
        // Of the longer form, what is behind these.
        value[6..].fill(0);
    }
    if old == value { vec![] } else { vec![Found { at: 0, kind: Kind::Address }] }
}

/// Addresses, and the names of their hosts.
fn records(engine: &mut Engine, bytes: &mut [u8], is_big: bool, found: &mut Vec<Found>) {
    let mut at = 8;
    while let Some((record, len)) = half_words(bytes, at, is_big).filter(|(record, _)| *record != 0) {
        let begin = at + 4;
        let end = begin + usize::from(len);
        let Some(value) = bytes.get_mut(begin..end) else { return };
        let (what, len) = if record == 1 { (Holds::Four, 4) } else { (Holds::Six, 16) };
        let mut own = pseudonym(engine, what, &mut value[..len.min(end - begin)]);
        let mut name = len.min(value.len());
        let parts: Vec<usize> = value[name..].split(|b| *b == 0).map(<[u8]>::len).collect();
        for len in parts {
            let range = name..name + len;
            let names = redact::host(engine, &mut value[range.clone()]);
            own.extend(names.into_iter().map(|one| Found { at: one.at + range.start as u64, ..one }));
            name = range.end + 1;
        }
        found.extend(own.into_iter().map(|one| Found { at: one.at + begin as u64, ..one }));
        at = begin + (end - begin).next_multiple_of(4);
    }
}

fn empty(bytes: &mut [u8], range: Range<usize>, found: &mut Vec<Found>) {
    if bytes[range.clone()].iter().any(|b| *b != 0) {
        bytes[range.clone()].fill(0);
        found.push(Found { at: range.start as u64, kind: Kind::Metadata });
    }
}

fn options(
    engine: &mut Engine,
    kind: u32,
    bytes: &mut [u8],
    mut at: usize,
    is_big: bool,
    found: &mut Vec<Found>,
) {
    while let Some((option, len)) = half_words(bytes, at, is_big) {
        let (begin, len) = (at + 4, usize::from(len));
        let Some(value) = bytes.get_mut(begin..begin + len) else { break };
        if option == 0 {
            at = begin;
            break;
        }
        let own = match holds(kind, option) {
            Holds::Comment => redact::comment(engine, value),
            Holds::Text => redact::note(engine, value),
            Holds::CommandLine => redact::command_line(engine, value),
            Holds::Host => redact::host(engine, value),
            Holds::Number => vec![],
            Holds::Four | Holds::Six | Holds::Hardware => pseudonym(engine, holds(kind, option), value),
            Holds::Hash => {
                empty(bytes, (begin + 1).min(begin + len)..begin + len, found);
                vec![]
            }
            Holds::Unknown => {
                empty(bytes, begin..begin + len, found);
                vec![]
            }
        };
        found.extend(own.into_iter().map(|one| Found { at: one.at + begin as u64, ..one }));
        at = begin + len.next_multiple_of(4);
    }
    // Behind the options nothing can stand.
    let end = bytes.len();
    empty(bytes, at.min(end)..end, found);
}

/// Whether a packet's comment says that bytes are missing before it.
pub(super) fn says_missing(bytes: &[u8], packet_end: usize) -> bool {
    let rest = bytes.get(packet_end..).unwrap_or_default();
    memchr::memmem::find(rest, b" missing=").is_some()
}

/// Whether a packet's comment describes its connection, and does not say that this goes on from another file.
pub(super) fn says_beginning(bytes: &[u8], packet_end: usize) -> bool {
    let rest = bytes.get(packet_end..).unwrap_or_default();
    let says = |text: &[u8]| memchr::memmem::find(rest, text).is_some();
    says(b"tls2pcap=1 conn=") && !says(b" continued_from=")
}

/// What a section header says of redactions.
pub(super) fn marks(section: &[u8], is_big: bool) -> Vec<String> {
    let all = each_option(section, 24, is_big);
    let marks = all.filter(|(option, value)| *option == COMMENT && value.starts_with(MARK.as_bytes()));
    marks.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

/// Whether a section header says that the file is one of several.
pub(super) fn is_one_of_several(section: &[u8], is_big: bool) -> bool {
    let mut all = each_option(section, 24, is_big);
    all.any(|(option, value)| option == COMMENT && value.starts_with(b"tls2pcap=1 file="))
}

/// Adds a comment to a section header, unless it is there.
pub(super) fn mark(section: &mut Vec<u8>, text: &str, is_big: bool) {
    add_comment(section, 24, text, is_big);
}

/// Says in a comment what was replaced in a packet, if it is of a kind that has comments.
pub(super) fn mark_packet(block: &mut Vec<u8>, kinds: &str, is_big: bool) {
    let at = options_at(PACKET, block, is_big);
    if let Some(at) = at.filter(|at| at + 4 <= block.len()) {
        add_comment(block, at, &format!("{MARK}{kinds}"), is_big);
    }
}

/// The same for a block whose options begin at `at`.
fn add_comment(section: &mut Vec<u8>, mut at: usize, text: &str, is_big: bool) {
    let end = section.len() - 4;
    while let Some((option, len)) = half_words(&section[..end], at, is_big) {
        let value = at + 4..(at + 4 + usize::from(len)).min(end);
        if option == 0 {
            break;
        }
        if option == COMMENT && section[value.clone()] == *text.as_bytes() {
            return;
        }
        at += 4 + usize::from(len).next_multiple_of(4);
    }
    let at = at.min(end);
    let had_options = at < end;
    let pair = |a: u16, b: u16| match is_big {
        true => [a.to_be_bytes(), b.to_be_bytes()].concat(),
        false => [a.to_le_bytes(), b.to_le_bytes()].concat(),
    };
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut option = pair(COMMENT, len);
    option.extend_from_slice(&text.as_bytes()[..usize::from(len)]);
    option.resize(option.len().next_multiple_of(4), 0);
    if !had_options {
        option.extend_from_slice(&pair(0, 0));
    }
    section.splice(at..at, option);
    let len = section.len() as u32;
    let word = if is_big { len.to_be_bytes() } else { len.to_le_bytes() };
    section[4..8].copy_from_slice(&word);
    let tail = section.len() - 4;
    section[tail..].copy_from_slice(&word);
}
