//! Whether bytes are certainly messages of a protocol: then a parser that has lost its place can go on with them. Stricter than the
//! parsers themselves, and what may hold anything, as passwords and copied data, is not certain.

use super::{Dialect, Length, Shared, amqp, dns, ldap, mqtt, mysql, postgres, redis};

/// Messages that are enough if the last one goes on behind the bytes.
const CHAIN: usize = 4;

/// Whether a segment is made of messages, up to its end, or begins with several. `is_server`: the server says them.
pub(in crate::redact) fn is_certain(
    dialect: Dialect,
    is_server: bool,
    shared: &Shared,
    segment: &[u8],
) -> bool {
    let mut at = 0;
    // Of MySQL, the number of the packet before.
    let mut number = None;
    for count in 0.. {
        let rest = &segment[at..];
        if rest.is_empty() {
            return count > 0;
        }
        let len = match dialect {
            Dialect::Redis if is_server => redis::reply(rest),
            Dialect::Redis => redis::request(rest),
            Dialect::Mqtt => {
                framed(mqtt::length(rest), rest, |message, head| mqtt::is_certain(message, head, is_server))
            }
            Dialect::Ldap => {
                framed(ldap::length(rest), rest, |message, _| ldap::is_certain(message, is_server))
            }
            Dialect::Postgres => {
                framed(postgres::framed(rest), rest, |message, _| postgres::is_certain(message, is_server))
            }
            Dialect::Mysql => framed(mysql::length(rest), rest, |message, _| {
                mysql::is_certain(message, is_server, &mut number, &shared.mysql)
            }),
            Dialect::Dns => framed(dns::length(rest), rest, |message, _| dns::is_certain(message, is_server)),
            Dialect::Amqp => framed(amqp::length(rest, &shared.amqp), rest, |message, _| {
                amqp::is_certain(message, &shared.amqp)
            }),
        };
        match len {
            Some(len) => at += len,
            None => return count >= CHAIN,
        }
    }
    false
}

/// Length of a message that is there and passes.
fn framed(length: Length, bytes: &[u8], is_certain: impl FnOnce(&[u8], usize) -> bool) -> Option<usize> {
    let Length::Known { head, whole } = length else { return None };
    let message = bytes.get(..whole).filter(|_| whole >= head)?;
    is_certain(message, head).then_some(whole)
}
