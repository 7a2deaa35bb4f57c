//! MySQL's protocol (MySQL source code documentation, "Client/Server Protocol"), of MariaDB too: packets with a length of three bytes
//! and a number. The server speaks first.

use std::ops::Range;

use super::super::engine::Engine;
use super::super::kind::Kind;
use super::sql;
use super::{Length, data, said, secret, user, zero};

const HEAD: usize = 4;

/// Capabilities of the client.
const WITH_DB: u32 = 8;
const SSL: u32 = 1 << 11;
const PROTOCOL_41: u32 = 1 << 9;
const SECURE: u32 = 1 << 15;
const PLUGIN: u32 = 1 << 19;
const ATTRIBUTES: u32 = 1 << 20;
const LENGTH_ENCODED: u32 = 1 << 21;
const SESSION_TRACK: u32 = 1 << 23;
const QUERY_ATTRIBUTES: u32 = 1 << 27;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The client's answer to the server's greeting is to come.
    #[default]
    Greeting,
    /// It has said who it is; what is said until the server agrees are passwords.
    Login,
    Commands,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    phase: Phase,
    capabilities: u32,
    /// What the server says is the answer to a statement in text.
    is_text: bool,
}

impl Shared {
    /// A command comes, and what was before is missing.
    pub(super) fn begins_behind_hole(&mut self) {
        self.phase = Phase::Commands;
        self.is_text = false;
    }
}

/// Whether a packet is a command, or one of an answer whose packets are numbered from 1. `number`: that of the packet before.
pub(super) fn is_certain(bytes: &[u8], is_server: bool, number: &mut Option<u8>, shared: &Shared) -> bool {
    let [code, body @ ..] = &bytes[HEAD.min(bytes.len())..] else { return false };
    if is_server {
        let expected = number.map_or(1, |before| before.wrapping_add(1));
        *number = Some(bytes[3]);
        // A last packet with a status must come, or an error, or that all went well.
        return shared.phase == Phase::Commands && bytes[3] == expected;
    }
    bytes[3] == 0
        && match code {
            1 | 9 | 14 | 31 => body.is_empty(),
            2 | 3 | 22 => !body.is_empty() && str::from_utf8(body).is_ok(),
            25 | 26 => body.len() == 4,
            27 => body.len() == 2,
            _ => false,
        }
}

pub(super) fn is_server(bytes: &[u8]) -> bool {
    // A first packet of protocol 10: the server's version, printable, up to a zero.
    let [len, high, 0, 0, 10, version @ ..] = bytes else { return false };
    let len = usize::from(*len) | usize::from(*high) << 8;
    (40..1024).contains(&len)
        && version.first().is_some_and(u8::is_ascii_digit)
        && version.iter().take(60).take_while(|b| **b != 0).all(|b| (b' '..=b'~').contains(b))
}

/// The client's answer to a greeting that was sent before TLS began: its capabilities, and zeros in front of the name.
pub(super) fn is_client(bytes: &[u8]) -> bool {
    let Some(payload) = bytes.get(HEAD..HEAD + 32) else { return false };
    let capabilities = payload.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let len = usize::from(bytes[0]) | usize::from(bytes[1]) << 8;
    (1..=3).contains(&bytes[3])
        && bytes[2] == 0
        && (32..8192).contains(&len)
        && capabilities & (PROTOCOL_41 | SECURE) == PROTOCOL_41 | SECURE
        && payload[9..28].iter().all(|b| *b == 0)
}

/// Whether so few bytes may be the beginning of that.
pub(super) fn may_be_client(bytes: &[u8]) -> bool {
    bytes.len() < 4 || (bytes.len() < HEAD + 32 && bytes[2] == 0 && (1..=3).contains(&bytes[3]))
}

pub(super) fn length(bytes: &[u8]) -> Length {
    match bytes {
        [a, b, c, _, ..] => Length::of(HEAD, usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16),
        _ => Length::More,
    }
}

pub(super) fn message(engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8], is_server: bool) {
    if bytes.len() == HEAD {
        return;
    }
    let done = match is_server {
        true => server(engine, shared, bytes),
        false => client(engine, shared, bytes),
    };
    if done.is_none() {
        engine.fill_whole(bytes, HEAD..bytes.len(), Kind::Lost);
    }
}

fn client(engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8]) -> Option<()> {
    match shared.phase {
        Phase::Greeting => {
            shared.capabilities = u32::from_le_bytes(*bytes.get(HEAD..)?.first_chunk()?);
            if shared.capabilities & PROTOCOL_41 == 0 {
                return None;
            }
            // What asks for TLS ends in front of the name.
            if shared.capabilities & SSL != 0 && bytes.len() == HEAD + 32 {
                return Some(());
            }
            shared.phase = Phase::Login;
            identification(engine, shared.capabilities, bytes, HEAD + 32)
        }
        Phase::Login => {
            secret(engine, bytes, HEAD..bytes.len());
            Some(())
        }
        Phase::Commands => command(engine, shared, bytes),
    }
}

/// Name, password, database, plug-in, attributes.
fn identification(engine: &mut Engine, capabilities: u32, bytes: &mut [u8], at: usize) -> Option<()> {
    let has = |flag| capabilities & flag != 0;
    let end = bytes.len();
    let name = at..zero(bytes, at);
    let mut at = name.end + 1;
    user(engine, bytes, name);
    let password = if has(LENGTH_ENCODED) || has(SECURE) {
        counted(bytes, &mut at)?
    } else {
        let password = at..zero(bytes, at);
        at = password.end + 1;
        password
    };
    if !password.is_empty() {
        engine.fill_whole(bytes, password, Kind::Authorization);
    }
    for flag in [WITH_DB, PLUGIN] {
        if has(flag) && at < end {
            let text = at..zero(bytes, at);
            at = text.end + 1;
            said(engine, bytes, text);
        }
    }
    if has(ATTRIBUTES) && at < end {
        attributes(engine, bytes, &mut at)?;
    }
    Some(())
}

/// What a client says of itself, and others: names and values.
fn attributes(engine: &mut Engine, bytes: &mut [u8], at: &mut usize) -> Option<()> {
    let all = counted(bytes, at)?;
    let mut own = all.start;
    while own < all.end {
        let name = counted(bytes, &mut own)?;
        let value = counted(bytes, &mut own)?;
        match &bytes[name] {
            b"_os_user" | b"os_user" | b"program_user" => user(engine, bytes, value),
            name if engine.is_secret_field(name) => secret(engine, bytes, value),
            _ => said(engine, bytes, value),
        }
    }
    Some(())
}

/// COM_CHANGE_USER: name, password, database, character set, plug-in, attributes.
fn another(engine: &mut Engine, capabilities: u32, bytes: &mut [u8]) -> Option<()> {
    let name = HEAD + 1..zero(bytes, HEAD + 1);
    let mut at = name.end + 1;
    user(engine, bytes, name);
    let password = match capabilities & SECURE != 0 {
        true => counted(bytes, &mut at)?,
        false => at..zero(bytes, at),
    };
    at = password.end;
    if !password.is_empty() {
        engine.fill_whole(bytes, password, Kind::Authorization);
    }
    let database = at.min(bytes.len())..zero(bytes, at);
    // Its end, and a character set of two bytes.
    at = zero(bytes, database.end + 3) + 1;
    said(engine, bytes, database);
    match capabilities & ATTRIBUTES != 0 && at < bytes.len() {
        true => attributes(engine, bytes, &mut at),
        false => Some(()),
    }
}

fn command(engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8]) -> Option<()> {
    // Only a command begins to count anew.
    if bytes[3] != 0 {
        data(engine, bytes, HEAD..bytes.len());
        return Some(());
    }
    let end = bytes.len();
    let code = bytes[HEAD];
    shared.is_text = matches!(code, 3 | 4);
    match code {
        // Close, statistics, ping, reset: numbers and nothing.
        1 | 9 | 14 | 25 | 26 | 27 | 31 => {}
        // The name of a database.
        2 => said(engine, bytes, HEAD + 1..end),
        3 | 22 => {
            let mut at = HEAD + 1;
            if code == 3 && shared.capabilities & QUERY_ATTRIBUTES != 0 {
                // None, and one set of these.
                if bytes.get(at..at + 2)? != [0, 1] {
                    return None;
                }
                at += 2;
            }
            sql::statement(engine, bytes, at..end, b"'\"");
        }
        // Another user.
        17 => {
            shared.phase = Phase::Login;
            another(engine, shared.capabilities, bytes)?;
        }
        _ => data(engine, bytes, HEAD + 1..end),
    }
    Some(())
}

fn server(engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len();
    let (first, number) = (bytes[HEAD], bytes[3]);
    match first {
        // An error: its number, a state, a text that may quote what was sent.
        0xff => {
            let state = if bytes.get(HEAD + 3) == Some(&b'#') { 6 } else { 0 };
            let text = (HEAD + 3 + state).min(end)..end;
            sql::quoted(engine, bytes, text.clone(), b"'\"");
            said(engine, bytes, text);
        }
        _ if shared.phase == Phase::Greeting && number == 0 && first == 10 => greeting(engine, bytes)?,
        // More is wanted: another way, with a challenge.
        0xfe | 1 if shared.phase == Phase::Login => {
            let begin = if first == 0xfe { zero(bytes, HEAD + 1) + 1 } else { HEAD + 1 };
            if begin < end {
                engine.fill_whole(bytes, begin..end, Kind::Authorization);
            }
        }
        0 if shared.phase == Phase::Login => {
            shared.phase = Phase::Commands;
            numbers_and_text(engine, shared.capabilities, bytes)?;
        }
        _ if shared.phase != Phase::Commands => return None,
        0 if number == 1 => numbers_and_text(engine, shared.capabilities, bytes)?,
        0xfe if end <= HEAD + 9 => {}
        // How many columns follow.
        _ if end == HEAD + 1 && number == 1 => {}
        _ if shared.is_text || is_column(bytes) => {
            let column = is_column(bytes);
            let mut at = HEAD;
            while at < end {
                if bytes[at] == 0xfb {
                    at += 1;
                    continue;
                }
                let value = counted(bytes, &mut at)?;
                if !column && !value.is_empty() {
                    data(engine, bytes, value);
                }
            }
        }
        _ => data(engine, bytes, HEAD..end),
    }
    Some(())
}

/// A column's description begins with the catalogue, which is always called so.
fn is_column(bytes: &[u8]) -> bool {
    bytes.get(HEAD..).is_some_and(|rest| rest.starts_with(b"\x03def"))
}

/// The server's version, then numbers and, in two parts, a challenge.
fn greeting(engine: &mut Engine, bytes: &mut [u8]) -> Option<()> {
    let version = zero(bytes, HEAD + 1);
    said(engine, bytes, HEAD + 1..version);
    let first = version + 5;
    bytes.get(first..first + 8)?;
    engine.fill_whole(bytes, first..first + 8, Kind::Authorization);
    // Behind it zero, flags, a character set, a state, flags, a length, ten of zero.
    let second = first + 8 + 1 + 2 + 1 + 2 + 2 + 1 + 10;
    if second < bytes.len() {
        let end = zero(bytes, second).max((second + 12).min(bytes.len()));
        engine.fill_whole(bytes, second..end.min(bytes.len()), Kind::Authorization);
    }
    Some(())
}

/// That all went well: two numbers, a state, warnings, and a text, maybe with its length.
fn numbers_and_text(engine: &mut Engine, capabilities: u32, bytes: &mut [u8]) -> Option<()> {
    let mut at = HEAD + 1;
    number(bytes, &mut at)?;
    number(bytes, &mut at)?;
    at = (at + 4).min(bytes.len());
    let text = match capabilities & SESSION_TRACK != 0 && at < bytes.len() {
        true => counted(bytes, &mut at)?,
        false => at..bytes.len(),
    };
    if !text.is_empty() {
        said(engine, bytes, text);
    }
    Some(())
}

/// A number of one byte, or of two, three or eight behind a mark. Steps over it.
fn number(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let first = *bytes.get(*at)?;
    let len = match first {
        0..=0xfa => {
            *at += 1;
            return Some(usize::from(first));
        }
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let digits = bytes.get(*at + 1..*at + 1 + len)?;
    *at += 1 + len;
    usize::try_from(digits.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))).ok()
}

/// A text with its length. Steps over it.
fn counted(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let len = number(bytes, at)?;
    let range = *at..at.checked_add(len)?;
    bytes.get(range.clone())?;
    *at = range.end;
    Some(range)
}
