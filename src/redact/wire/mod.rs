//! Protocols of servers for data and messages: what logs in is replaced, what they carry is looked into if it is JSON, else masked,
//! and what says how they work stays. Where a parser has lost its place, all is masked until a segment is certainly made of messages.

mod amqp;
mod certain;
mod dns;
mod ldap;
mod mqtt;
mod mysql;
mod postgres;
mod redis;
mod sql;

use std::ops::Range;

pub(super) use certain::is_certain;

use super::cloak::Escape;
use super::engine::Engine;
use super::fill;
use super::json::Json;
use super::kind::Kind;
use super::patterns;
use super::text::{self, Sort};

/// Longest message that is waited for; what is longer is masked but for its head.
const MESSAGE_MAX: usize = 1 << 20;

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RESP, versions 2 and 3.
    Redis,
    /// Versions 3.1, 3.1.1 and 5.
    Mqtt,
    Ldap,
    Postgres,
    Mysql,
    /// Versions 0-9-1 and 1.0.
    Amqp,
    Dns,
}

/// What both directions know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    mqtt: mqtt::Version,
    postgres: postgres::Shared,
    mysql: mysql::Shared,
    amqp: amqp::Shared,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Wire {
    dialect: Dialect,
    is_server: bool,
    /// Bytes of a message that is too long, which are masked.
    fill: usize,
    redis: redis::Redis,
    /// No message has been seen.
    is_first: bool,
}

/// What a call came to.
pub(super) enum Turn {
    /// So many bytes are decided.
    Went(usize),
    /// More is needed.
    More,
    /// What stands here is no message.
    Lost,
}

/// How long the message is that begins here.
enum Length {
    /// So many bytes, the first of which are its head.
    Known { head: usize, whole: usize },
    /// Too few bytes to tell.
    More,
    /// There is none.
    Lost,
}

impl Length {
    /// `len`: of what follows the head.
    fn of(head: usize, len: usize) -> Length {
        match head.checked_add(len) {
            Some(whole) => Length::Known { head, whole },
            None => Length::Lost,
        }
    }
}

/// What a connection begins with, as far as the client says it; `None`: none of these, or too few bytes to tell.
pub(super) fn client(bytes: &[u8]) -> Option<Dialect> {
    type Begins = fn(&[u8]) -> bool;
    let begins: [(Dialect, Begins); 7] = [
        (Dialect::Redis, redis::is_client),
        (Dialect::Mqtt, mqtt::is_client),
        (Dialect::Ldap, ldap::is_client),
        (Dialect::Postgres, postgres::is_client),
        (Dialect::Amqp, amqp::is_client),
        (Dialect::Dns, dns::is_client),
        (Dialect::Mysql, mysql::is_client),
    ];
    begins.iter().find(|(_, is)| is(bytes)).map(|(dialect, _)| *dialect)
}

/// Whether so few bytes may be the beginning of what [`client`] knows.
pub(super) fn may_be_client(bytes: &[u8]) -> bool {
    bytes.len() < 16 && matches!(bytes.first(), Some(b'*' | 0x10 | 0x30 | 0 | 1 | b'A'))
        || mysql::may_be_client(bytes)
}

/// The same of the server.
pub(super) fn server(bytes: &[u8]) -> Option<Dialect> {
    mysql::is_server(bytes).then_some(Dialect::Mysql)
}

/// Whether so few bytes may be the beginning of what [`server`] knows.
pub(super) fn may_be_server(bytes: &[u8]) -> bool {
    bytes.len() < 16 && (bytes.len() < 5 || bytes[3..5] == [0, 10])
}

impl Wire {
    pub(super) fn new(dialect: Dialect, is_server: bool) -> Wire {
        Wire { dialect, is_server, fill: 0, redis: redis::Redis::default(), is_first: true }
    }

    /// The same in the middle of a connection, at the beginning of a message.
    pub(super) fn behind_hole(dialect: Dialect, is_server: bool, shared: &mut Shared) -> Wire {
        if !is_server {
            shared.postgres.begins_behind_hole();
            shared.mysql.begins_behind_hole();
        }
        Wire { is_first: false, ..Wire::new(dialect, is_server) }
    }

    /// Of which protocol, and whether it is the server's direction.
    pub(super) fn role(&self) -> (Dialect, bool) {
        (self.dialect, self.is_server)
    }

    /// So many bytes are missing. Gives whether it goes on all the same: they were of one message that is masked.
    pub(super) fn hole(&mut self, len: u64) -> bool {
        match self.fill.checked_sub(usize::try_from(len).unwrap_or(usize::MAX)) {
            Some(left) if self.fill > 0 => {
                self.fill = left;
                true
            }
            _ => false,
        }
    }

    /// Takes what stands at the beginning of `bytes`.
    pub(super) fn step(&mut self, engine: &mut Engine, shared: &mut Shared, bytes: &mut [u8]) -> Turn {
        if self.fill > 0 {
            let len = self.fill.min(bytes.len());
            self.fill -= len;
            engine.fill_whole(bytes, 0..len, Kind::Data);
            return Turn::Went(len);
        }
        if self.dialect == Dialect::Redis {
            return self.redis.step(engine, self.is_server, bytes);
        }
        let length = match self.dialect {
            Dialect::Redis => Length::Lost,
            Dialect::Mqtt => mqtt::length(bytes),
            Dialect::Ldap => ldap::length(bytes),
            Dialect::Postgres => postgres::length(bytes, &mut shared.postgres, self.is_server, self.is_first),
            Dialect::Mysql => mysql::length(bytes),
            Dialect::Amqp => amqp::length(bytes, &shared.amqp),
            Dialect::Dns => dns::length(bytes),
        };
        let (head, whole) = match length {
            Length::Known { head, whole } => (head, whole),
            Length::More => return Turn::More,
            Length::Lost => return Turn::Lost,
        };
        if whole > MESSAGE_MAX {
            if bytes.len() < head {
                return Turn::More;
            }
            self.fill = whole - head;
            return Turn::Went(head);
        }
        if bytes.len() < whole {
            return Turn::More;
        }
        let message = &mut bytes[..whole];
        let (is_server, is_first) = (self.is_server, std::mem::take(&mut self.is_first));
        match self.dialect {
            Dialect::Redis => {}
            Dialect::Mqtt => mqtt::message(engine, &mut shared.mqtt, message, head),
            Dialect::Ldap => ldap::message(engine, message),
            Dialect::Postgres => {
                postgres::message(engine, &mut shared.postgres, message, is_server, is_first)
            }
            Dialect::Mysql => mysql::message(engine, &mut shared.mysql, message, is_server),
            Dialect::Amqp => amqp::message(engine, &mut shared.amqp, message),
            Dialect::Dns => dns::message(engine, message),
        }
        Turn::Went(whole)
    }
}

/// A password, or what stands for one.
fn secret(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    match fill::is_text(&bytes[range.clone()]) {
        true => engine.cloak(bytes, range, Kind::Authorization, Escape::Header),
        false => engine.fill_whole(bytes, range, Kind::Authorization),
    }
}

/// The name of a user: it stays unless users have pseudonyms, but it may be a token.
fn user(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    super::identity::user(engine, bytes, range.clone());
    word(engine, bytes, range);
}

/// What names something: a key, a topic, a client.
fn word(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut at = range.start;
    while at < range.end {
        let end =
            bytes[at..range.end].iter().position(|b| b":/.|".contains(b)).map_or(range.end, |len| at + len);
        if patterns::is_random(&bytes[at..end]) {
            engine.cloak(bytes, at..end, Kind::Random, Escape::Header);
        }
        at = end + 1;
    }
    said(engine, bytes, range);
}

/// Text of the protocol itself.
fn said(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    if engine.is_shape() {
        engine.cloak(bytes, range, Kind::Value, Escape::Header);
    } else {
        engine.within(range.start, |engine| text::scan(engine, &mut bytes[range], Sort::Plain));
    }
}

/// What is carried: JSON by its members, all else is masked.
fn data(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let value = &mut bytes[range.clone()];
    match value {
        [b'{', .., b'}'] | [b'[', .., b']'] if fill::is_text(value) => {
            engine.within(range.start, |engine| Json::default().step(engine, value, true));
        }
        _ if fill::is_text(value) => engine.fill_text(bytes, range, Kind::Data),
        _ => engine.fill_whole(bytes, range, Kind::Data),
    }
}

/// Where the text ends that goes up to a zero byte: there, or at the end.
fn zero(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).and_then(|rest| memchr::memchr(0, rest)).map_or(bytes.len(), |len| at + len)
}

#[cfg(test)]
mod hole_tests;
#[cfg(test)]
mod tests;
