//! DNS over TCP (RFC 1035, section 4.2.2) and over TLS (RFC 7858): messages with a length of two bytes. They hold no secrets by
//! themselves, so they stay, but for text. Names and addresses get the same pseudonyms as everywhere if they are to
//! have some, each label where it is written, so that pointers to it stay valid.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::super::cloak::Escape;
use super::super::engine::Engine;
use super::super::identity;
use super::super::kind::Kind;
use super::{Length, said};

/// The length, and the header behind it.
const HEAD: usize = 2;
const HEADER: usize = 12;

/// Most labels of a name (RFC 1035, section 3.1: 255 bytes).
const LABELS_MAX: usize = 128;

/// A query, alone in its message.
pub(super) fn is_client(bytes: &[u8]) -> bool {
    let Some(&[len, low, _, _, flags, more, 0, 1, 0, 0, 0, 0, 0, 0..=2, first, second]) = bytes.first_chunk()
    else {
        return false;
    };
    // An operation of type 0, no answer, no error; of flags RD, AD and CD.
    let is_query = flags & !1 == 0 && more & !0x30 == 0;
    let is_name = first == 0 || first < 64 && (second.is_ascii_alphanumeric() || b"_-*".contains(&second));
    is_query && is_name && u16::from_be_bytes([len, low]) >= 17
}

pub(super) fn length(bytes: &[u8]) -> Length {
    match bytes {
        [high, low, ..] => match usize::from(u16::from_be_bytes([*high, *low])) {
            len @ HEADER.. => Length::of(HEAD, len),
            _ => Length::Lost,
        },
        _ => Length::More,
    }
}

/// Whether a message of this side can be read up to its end.
pub(super) fn is_certain(bytes: &[u8], is_server: bool) -> bool {
    let flags = bytes.get(HEAD + 2..HEAD + 4);
    // No flag of those that must be zero, and an operation that exists.
    let is_own = flags.is_some_and(|flags| {
        (flags[0] & 0x80 != 0) == is_server && flags[0] & 0x78 <= 0x30 && flags[1] & 0x40 == 0
    });
    is_own && read(bytes).is_some()
}

/// What a message holds, by where it is.
#[derive(Default)]
struct Content {
    /// Names, by their labels.
    names: Vec<Vec<Range<usize>>>,
    /// Text that may be anything.
    texts: Vec<Range<usize>>,
    /// Addresses, of four or sixteen bytes, or of as many as their network has, and bits of that.
    addresses: Vec<(Range<usize>, bool, usize)>,
    /// Names of hosts as text.
    hosts: Vec<Range<usize>>,
    /// What is not known.
    others: Vec<Range<usize>>,
}

fn word16(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)))
}

/// A message as a whole; `None`: it is none.
fn read(bytes: &[u8]) -> Option<Content> {
    let mut content = Content::default();
    let counts: Vec<usize> = (0..4).map(|i| word16(bytes, HEAD + 4 + 2 * i)).collect::<Option<_>>()?;
    let mut at = HEAD + HEADER;
    for _ in 0..counts[0] {
        at = content.name(bytes, at)? + 4;
    }
    for _ in 0..counts[1..].iter().sum() {
        at = content.record(bytes, at)?;
    }
    (at == bytes.len()).then_some(content)
}

impl Content {
    /// A name. Gives where it ends.
    fn name(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        let mut labels = Vec::new();
        let mut end = None;
        loop {
            let len = usize::from(*bytes.get(at)?);
            match len {
                0 => break,
                1..64 if labels.len() < LABELS_MAX => {
                    labels.push(at + 1..at + 1 + len);
                    at += 1 + len;
                }
                0xc0.. => {
                    let to = HEAD + (word16(bytes, at)? & 0x3fff);
                    end.get_or_insert(at + 2);
                    // Only back, so that it ends.
                    at = Some(to).filter(|to| *to < at && *to >= HEAD + HEADER)?;
                    if labels.len() >= LABELS_MAX {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        self.names.push(labels);
        Some(end.unwrap_or(at + 1)).filter(|end| *end <= bytes.len())
    }

    /// A resource record. Gives where it ends.
    fn record(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let at = self.name(bytes, at)?;
        let (kind, len) = (word16(bytes, at)?, word16(bytes, at + 8)?);
        let data = at + 10..at + 10 + len;
        bytes.get(data.clone())?;
        if len > 0 {
            self.data(bytes, kind, data.clone())?;
        }
        Some(data.end)
    }

    /// What a record says, by its type.
    fn data(&mut self, bytes: &[u8], kind: usize, data: Range<usize>) -> Option<()> {
        let (start, end) = (data.start, data.end);
        let own = &bytes[..end];
        match kind {
            1 if data.len() == 4 => self.addresses.push((data, false, 32)),
            28 if data.len() == 16 => self.addresses.push((data, true, 128)),
            // NS, CNAME, PTR, DNAME; MX, SRV, the first of RP and SOA.
            2 | 5 | 12 | 39 => (self.name(own, start)? == end).then_some(())?,
            15 | 18 | 36 => (self.name(own, start + 2)? == end).then_some(())?,
            33 => (self.name(own, start + 6)? == end).then_some(())?,
            17 => {
                let next = self.name(own, start)?;
                (self.name(own, next)? == end).then_some(())?;
            }
            6 => {
                let next = self.name(own, start)?;
                (self.name(own, next)? + 20 == end).then_some(())?;
            }
            // NSEC, RRSIG: a name among numbers.
            47 => _ = self.name(own, start)?,
            46 => _ = self.name(own, start + 18)?,
            // TXT, SPF, HINFO: texts with their lengths. NAPTR has some, and a name.
            16 | 99 | 13 => (self.texts(own, start, usize::MAX)? == end).then_some(())?,
            35 => {
                let next = self.texts(own, start + 4, 3)?;
                (self.name(own, next)? == end).then_some(())?;
            }
            // URI, CAA.
            256 => self.texts.push((start + 4).min(end)..end),
            257 => {
                let tag = usize::from(*own.get(start + 1)?);
                self.texts.push((start + 2 + tag).min(end)..end);
            }
            // SVCB, HTTPS.
            64 | 65 => self.service(own, start)?,
            41 => self.options(own, start)?,
            // Keys, signatures and hashes of DNSSEC, certificates, places: no names or addresses.
            29 | 37 | 43 | 44 | 48 | 50..=53 | 59..=61 | 63 | 250 => {}
            _ => self.others.push(data),
        }
        Some(())
    }

    fn texts(&mut self, bytes: &[u8], mut at: usize, most: usize) -> Option<usize> {
        for _ in 0..most {
            let Some(len) = bytes.get(at) else { break };
            let text = at + 1..at + 1 + usize::from(*len);
            bytes.get(text.clone())?;
            at = text.end;
            self.texts.push(text);
        }
        Some(at)
    }

    /// RFC 9460, section 2.2: a priority, a name, parameters.
    fn service(&mut self, bytes: &[u8], start: usize) -> Option<()> {
        let mut at = self.name(bytes, start + 2)?;
        while at < bytes.len() {
            let (key, len) = (word16(bytes, at)?, word16(bytes, at + 2)?);
            let value = at + 4..at + 4 + len;
            bytes.get(value.clone())?;
            at = value.end;
            match key {
                4 => self.addresses.extend(value.step_by(4).map(|at| (at..at + 4, false, 32))),
                6 => self.addresses.extend(value.step_by(16).map(|at| (at..at + 16, true, 128))),
                // What a server must have, its protocols, its port, and whether there are others.
                0..=3 => {}
                // Keys for an encrypted hello, with a name in each.
                5 => match hello_names(bytes, value.clone()) {
                    Some(names) => self.hosts.extend(names),
                    None => self.others.push(value),
                },
                _ => self.others.push(value),
            }
        }
        self.addresses.iter().all(|(range, ..)| range.end <= bytes.len()).then_some(())
    }

    /// Options of EDNS: the client's network (RFC 7871).
    fn options(&mut self, bytes: &[u8], mut at: usize) -> Option<()> {
        while at < bytes.len() {
            let (code, len) = (word16(bytes, at)?, word16(bytes, at + 2)?);
            let value = at + 4..at + 4 + len;
            bytes.get(value.clone())?;
            at = value.end;
            if code == 8 && len >= 4 {
                let (family, bits) = (word16(bytes, value.start)?, usize::from(bytes[value.start + 2]));
                let address = value.start + 4..value.end;
                match (family, address.len()) {
                    (1, 0..=4) | (2, 0..=16) => self.addresses.push((address, family == 2, bits)),
                    _ => self.others.push(address),
                }
            }
        }
        Some(())
    }
}

/// Where the names are in a list of configurations for the encrypted Client Hello (RFC 9849, section 4).
fn hello_names(bytes: &[u8], list: Range<usize>) -> Option<Vec<Range<usize>>> {
    let bytes = &bytes[..list.end];
    let mut names = Vec::new();
    let mut at = list.start + 2;
    while at < list.end {
        let end = at + 4 + word16(bytes, at + 2)?;
        // Of the version that is in use: a number, a method, its key, ciphers, a length.
        if word16(bytes, at)? != 0xfe0d {
            return None;
        }
        let key = at + 7;
        let ciphers = key + 2 + word16(bytes, key)?;
        let name = ciphers + 2 + word16(bytes, ciphers)? + 1;
        let name = name + 1..name + 1 + usize::from(*bytes.get(name)?);
        names.push(Some(name).filter(|name| name.end <= end)?);
        at = end;
    }
    (at == list.end).then_some(names)
}

pub(super) fn message(engine: &mut Engine, bytes: &mut [u8]) {
    let Some(content) = read(bytes) else {
        return engine.fill_whole(bytes, HEAD..bytes.len(), Kind::Lost);
    };
    for text in content.texts {
        said(engine, bytes, text);
    }
    for host in content.hosts {
        identity::host(engine, bytes, host);
    }
    let hides = engine.hides_names() || engine.hides_addresses();
    for other in content.others.into_iter().filter(|_| hides) {
        engine.fill_whole(bytes, other, Kind::Data);
    }
    if engine.hides_addresses() {
        content.addresses.into_iter().for_each(|(at, is_six, bits)| address(engine, bytes, at, is_six, bits));
    }
    if engine.is_shape() {
        for label in content.names.into_iter().flatten() {
            engine.cloak(bytes, label, Kind::Value, Escape::Header);
        }
    } else if hides {
        names(engine, bytes, &content.names);
    }
}

/// An address, or the beginning of one that has so many bits.
fn address(engine: &mut Engine, bytes: &mut [u8], at: Range<usize>, is_six: bool, bits: usize) {
    let own = &bytes[at.clone()];
    let mut new = match is_six {
        true => {
            let mut six = [0; 16];
            six[..own.len()].copy_from_slice(own);
            engine.addresses().v6(six).to_vec()
        }
        false => {
            let mut four = [0; 4];
            four[..own.len()].copy_from_slice(own);
            engine.addresses().v4(four).to_vec()
        }
    };
    new.truncate(own.len());
    // Bits behind the network's are zero.
    for (i, byte) in new.iter_mut().enumerate() {
        let left = bits.saturating_sub(i * 8).min(8);
        *byte &= !(0xff_u16 >> left) as u8;
    }
    engine.place(bytes, at.start, &new, Kind::Address);
}

/// Names, each label once.
fn names(engine: &mut Engine, bytes: &mut [u8], names: &[Vec<Range<usize>>]) {
    // A last label stays if any name has others in front of it.
    let behind_others: HashSet<usize> =
        names.iter().filter(|name| name.len() > 1).filter_map(|name| Some(name.last()?.start)).collect();
    let mut new: BTreeMap<usize, (Vec<u8>, Kind)> = BTreeMap::new();
    let mut seen = HashSet::new();
    for name in names.iter().filter(|name| seen.insert(name.first().map(|label| label.start))) {
        let texts: Vec<&[u8]> = name.iter().map(|label| &bytes[label.clone()]).collect();
        let made = match identity::reversed(engine, &texts) {
            Some(labels) => labels.into_iter().map(|label| (label, Kind::Address)).collect(),
            None => host(engine, &texts, name.last().is_some_and(|last| behind_others.contains(&last.start))),
        };
        for (label, (text, kind)) in name.iter().zip(made) {
            if text.len() == label.len() {
                new.entry(label.start).or_insert((text, kind));
            }
        }
    }
    for (at, (text, kind)) in new {
        engine.place(bytes, at, &text, kind);
    }
}

/// The pseudonyms of a host's labels.
fn host(engine: &Engine, labels: &[&[u8]], keeps_last: bool) -> Vec<(Vec<u8>, Kind)> {
    let name = labels.join(&b'.');
    let stays = labels.len() - usize::from(keeps_last && !labels.is_empty());
    let made = identity::host_labels(engine, &name).unwrap_or_else(|| name.clone());
    let mut made: Vec<Vec<u8>> = cut(&made, labels);
    for (own, label) in made.iter_mut().zip(labels).skip(stays) {
        own.clear();
        own.extend_from_slice(label);
    }
    made.into_iter().map(|label| (label, Kind::Name)).collect()
}

/// A joined name in labels of the same lengths.
fn cut(name: &[u8], labels: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut at = 0;
    let part = |label: &&[u8]| {
        let part = name[at..at + label.len()].to_vec();
        at += label.len() + 1;
        part
    };
    labels.iter().map(part).collect()
}
