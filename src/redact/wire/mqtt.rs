//! MQTT (OASIS standards, versions 3.1.1 and 5.0; IBM's 3.1): packets with a type and a length.

use std::ops::Range;

use super::super::engine::Engine;
use super::super::kind::Kind;
use super::{Length, data, secret, user, word};

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// The protocol's version, as the client has said it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Version(u8);

impl Version {
    fn has_properties(self) -> bool {
        self.0 >= 5
    }
}

pub(super) fn is_client(bytes: &[u8]) -> bool {
    let Some((len, own)) = bytes.get(1..).and_then(number) else { return false };
    let rest = bytes.get(1 + own..).unwrap_or_default();
    bytes[0] == CONNECT << 4
        && len >= 10
        && (rest.starts_with(b"\0\x04MQTT") || rest.starts_with(b"\0\x06MQIsdp"))
}

/// A number of up to four bytes, and how many they are.
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

pub(super) fn length(bytes: &[u8]) -> Length {
    match bytes {
        [first, ..] if first >> 4 == 0 => Length::Lost,
        [_, rest @ ..] => match number(rest) {
            Some((len, own)) => Length::of(1 + own, len),
            None if rest.len() >= 4 => Length::Lost,
            None => Length::More,
        },
        [] => Length::More,
    }
}

/// Whether a packet is one that this side sends in a session, with the flags and length that it must have.
pub(super) fn is_certain(bytes: &[u8], head: usize, is_server: bool) -> bool {
    let (kind, flags, len) = (bytes[0] >> 4, bytes[0] & 15, bytes.len() - head);
    match kind {
        PUBLISH => {
            let mut at = head;
            let has_name = |topic: &[u8]| {
                !topic.is_empty()
                    && str::from_utf8(topic)
                        .is_ok_and(|t| !t.contains(['#', '+']) && !t.chars().any(char::is_control))
            };
            flags & 6 != 6
                && string(bytes, &mut at).is_some_and(|topic| has_name(&bytes[topic]))
                && bytes.len() >= at + if flags & 6 > 0 { 2 } else { 0 }
        }
        // PUBREL is the only one of these with a flag.
        PUBACK..=PUBCOMP => flags == if kind == 6 { 2 } else { 0 } && (2..=4).contains(&len),
        SUBSCRIBE | UNSUBSCRIBE => !is_server && flags == 2 && len >= 5,
        SUBACK | UNSUBACK => is_server && flags == 0 && (2..64).contains(&len),
        // PINGREQ, PINGRESP.
        12 => !is_server && flags == 0 && len == 0,
        13 => is_server && flags == 0 && len == 0,
        _ => false,
    }
}

/// A string with its length of two bytes. Steps over it.
fn string(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let len = usize::from(u16::from_be_bytes(*bytes.get(*at..)?.first_chunk()?));
    let range = *at + 2..*at + 2 + len;
    bytes.get(range.clone())?;
    *at = range.end;
    Some(range)
}

pub(super) fn message(engine: &mut Engine, version: &mut Version, bytes: &mut [u8], head: usize) {
    let mut at = head;
    let whole = match bytes[0] >> 4 {
        CONNECT => connect(engine, version, bytes, &mut at),
        PUBLISH => publish(engine, *version, bytes, &mut at),
        AUTH => {
            at += 1;
            properties(engine, bytes, &mut at)
        }
        SUBSCRIBE | UNSUBSCRIBE => subscribe(engine, *version, bytes, &mut at),
        // Numbers; then, in version 5, properties, with the reason.
        kind => {
            at += match kind {
                CONNACK => 2,
                PUBACK..=PUBCOMP => 3,
                SUBACK | UNSUBACK => 2,
                DISCONNECT => 1,
                _ => 0,
            };
            match version.has_properties() && at < bytes.len() {
                true => properties(engine, bytes, &mut at),
                false => Some(()),
            }
        }
    };
    if whole.is_none() {
        engine.fill_whole(bytes, at.min(bytes.len())..bytes.len(), Kind::Lost);
    }
}

fn connect(engine: &mut Engine, version: &mut Version, bytes: &mut [u8], at: &mut usize) -> Option<()> {
    const USER: u8 = 0x80;
    const PASSWORD: u8 = 0x40;
    const WILL: u8 = 4;
    string(bytes, at)?;
    let (level, flags) = (*bytes.get(*at)?, *bytes.get(*at + 1)?);
    version.0 = level;
    // Level, flags, the time between signs of life.
    *at += 4;
    if version.has_properties() {
        properties(engine, bytes, at)?;
    }
    let client = string(bytes, at)?;
    word(engine, bytes, client);
    if flags & WILL != 0 {
        if version.has_properties() {
            properties(engine, bytes, at)?;
        }
        let topic = string(bytes, at)?;
        word(engine, bytes, topic);
        let payload = string(bytes, at)?;
        data(engine, bytes, payload);
    }
    if flags & USER != 0 {
        let name = string(bytes, at)?;
        user(engine, bytes, name);
    }
    if flags & PASSWORD != 0 {
        let password = string(bytes, at)?;
        secret(engine, bytes, password);
    }
    (*at == bytes.len()).then_some(())
}

fn publish(engine: &mut Engine, version: Version, bytes: &mut [u8], at: &mut usize) -> Option<()> {
    let topic = string(bytes, at)?;
    word(engine, bytes, topic);
    if bytes[0] & 6 != 0 {
        *at += 2;
    }
    if version.has_properties() {
        properties(engine, bytes, at)?;
    }
    let payload = *at..bytes.len();
    bytes.get(payload.clone())?;
    data(engine, bytes, payload);
    Some(())
}

fn subscribe(engine: &mut Engine, version: Version, bytes: &mut [u8], at: &mut usize) -> Option<()> {
    *at += 2;
    if version.has_properties() {
        properties(engine, bytes, at)?;
    }
    while *at < bytes.len() {
        let topic = string(bytes, at)?;
        word(engine, bytes, topic);
        if bytes[0] >> 4 == SUBSCRIBE {
            *at += 1;
        }
    }
    Some(())
}

/// Properties of version 5 (section 2.2.2). Steps over them.
fn properties(engine: &mut Engine, bytes: &mut [u8], at: &mut usize) -> Option<()> {
    let Some((len, own)) = bytes.get(*at..).and_then(number) else {
        // An AUTH packet may have none.
        return (*at >= bytes.len()).then_some(());
    };
    let mut own = *at + own;
    let end = own.checked_add(len).filter(|end| *end <= bytes.len())?;
    *at = own;
    while own < end {
        let kind = bytes[own];
        own += 1;
        match kind {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => own += 1,
            0x13 | 0x21 | 0x22 | 0x23 => own += 2,
            0x02 | 0x11 | 0x18 | 0x27 => own += 4,
            0x0b => own += number(&bytes[own..])?.1,
            // Correlation data, authentication data.
            0x09 | 0x16 => {
                let value = string(bytes, &mut own)?;
                if kind == 0x16 { secret(engine, bytes, value) } else { data(engine, bytes, value) }
            }
            0x26 => {
                let name = string(bytes, &mut own)?;
                let value = string(bytes, &mut own)?;
                match engine.is_secret_field(&bytes[name]) {
                    true => secret(engine, bytes, value),
                    false => word(engine, bytes, value),
                }
            }
            0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c | 0x1f => {
                let value = string(bytes, &mut own)?;
                word(engine, bytes, value);
            }
            _ => return None,
        }
        *at = own.min(end);
    }
    *at = end;
    (own == end).then_some(())
}
