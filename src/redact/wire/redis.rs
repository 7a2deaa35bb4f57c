//! RESP, of Redis and its kin (<https://redis.io/docs/latest/develop/reference/protocol-spec/>): a command is an array of strings; answers
//! are lines and strings, nested as they may be.

use std::ops::Range;

use super::super::cloak::Escape;
use super::super::engine::Engine;
use super::super::kind::Kind;
use super::super::text;
use super::{Turn, data, said, secret, user, word};

/// Longest line, and longest string that is waited for; what is longer is masked.
const LINE_MAX: usize = 16 << 10;
const STRING_MAX: usize = 64 << 10;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Redis {
    /// Of a string that is too long, so many bytes are still to come.
    long: usize,
    /// A string of this length, and what ends its line, come next.
    string: Option<usize>,
    command: Command,
}

/// A command of which arguments are to come.
#[derive(Debug, Default)]
struct Command {
    left: usize,
    count: usize,
    /// Its name and the arguments that say what others mean, in upper case, each cut.
    words: Vec<String>,
}

/// Arguments that are remembered, and bytes of each.
const WORDS_MAX: usize = 64;
const WORD_MAX: usize = 64;

pub(super) fn is_client(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(b"*") else { return false };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    (1..8).contains(&digits)
        && rest[digits..].starts_with(b"\r\n$")
        && rest.get(digits + 3).is_some_and(u8::is_ascii_digit)
}

/// Commands that a connection can go on with.
const COMMANDS: [&[u8]; 60] = [
    b"APPEND",
    b"AUTH",
    b"BLPOP",
    b"BRPOP",
    b"CLIENT",
    b"CONFIG",
    b"DECR",
    b"DECRBY",
    b"DEL",
    b"DISCARD",
    b"ECHO",
    b"EVAL",
    b"EVALSHA",
    b"EXEC",
    b"EXISTS",
    b"EXPIRE",
    b"EXPIREAT",
    b"GET",
    b"GETDEL",
    b"GETEX",
    b"GETSET",
    b"HDEL",
    b"HELLO",
    b"HEXISTS",
    b"HGET",
    b"HGETALL",
    b"HINCRBY",
    b"HKEYS",
    b"HLEN",
    b"HMGET",
    b"HMSET",
    b"HSET",
    b"INCR",
    b"INCRBY",
    b"INFO",
    b"KEYS",
    b"LLEN",
    b"LPOP",
    b"LPUSH",
    b"LRANGE",
    b"MGET",
    b"MSET",
    b"MULTI",
    b"PEXPIRE",
    b"PING",
    b"PUBLISH",
    b"RPOP",
    b"RPUSH",
    b"SADD",
    b"SCAN",
    b"SELECT",
    b"SET",
    b"SETEX",
    b"SETNX",
    b"SMEMBERS",
    b"SREM",
    b"SUBSCRIBE",
    b"TTL",
    b"XADD",
    b"ZADD",
];

/// Deepest nesting of replies that are certain.
const DEPTH_MAX: usize = 8;

/// A number behind a letter, and how long the line is.
fn numbered(bytes: &[u8], letter: u8) -> Option<(usize, usize)> {
    let line = bytes.strip_prefix(&[letter])?;
    let end = memchr::memchr(b'\r', &line[..line.len().min(12)])?;
    let number =
        str::from_utf8(&line[..end]).ok().filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    (line.get(end + 1) == Some(&b'\n')).then_some((number, end + 3))
}

/// A string, with its length in front. Gives it, and how long it is with that.
fn counted(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, head) = numbered(bytes, b'$')?;
    let text = bytes.get(head..head.checked_add(len)?)?;
    bytes[head + len..].starts_with(b"\r\n").then_some((text, head + len + 2))
}

/// Length of a known command that is complete.
pub(super) fn request(bytes: &[u8]) -> Option<usize> {
    let (count, mut at) = numbered(bytes, b'*')?;
    for i in 0..count {
        let (text, len) = counted(&bytes[at..])?;
        if i == 0 && !COMMANDS.contains(&&text.to_ascii_uppercase()[..]) {
            return None;
        }
        at += len;
    }
    (count > 0).then_some(at)
}

/// Length of a reply that is complete.
pub(super) fn reply(bytes: &[u8]) -> Option<usize> {
    nested(bytes, DEPTH_MAX)
}

fn nested(bytes: &[u8], depth: usize) -> Option<usize> {
    let line = memchr::memmem::find(&bytes[..bytes.len().min(512)], b"\r\n")?;
    let word = bytes.get(1..line)?;
    let is_number = |word: &[u8]| {
        let digits = word.strip_prefix(b"-").unwrap_or(word);
        (1..20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    };
    match bytes[0] {
        b'+' => matches!(word, b"OK" | b"PONG" | b"QUEUED").then_some(line + 2),
        // Errors begin with a word in capitals.
        b'-' => {
            let first = word.split(|b| *b == b' ').next()?;
            (first.len() >= 3 && first.iter().all(u8::is_ascii_uppercase)).then_some(line + 2)
        }
        b':' => is_number(word).then_some(line + 2),
        b'_' => word.is_empty().then_some(line + 2),
        b'$' | b'*' if word == b"-1" => Some(line + 2),
        b'$' => counted(bytes).map(|(_, len)| len),
        letter @ (b'*' | b'~' | b'>' | b'%') if depth > 0 => {
            let (count, mut at) = numbered(bytes, letter)?;
            let count = if letter == b'%' { count.checked_mul(2)? } else { count };
            for _ in 0..count {
                at += nested(bytes.get(at..)?, depth - 1)?;
            }
            Some(at)
        }
        _ => None,
    }
}

impl Redis {
    pub(super) fn step(&mut self, engine: &mut Engine, is_server: bool, bytes: &mut [u8]) -> Turn {
        if self.long > 0 {
            let len = self.long.min(bytes.len());
            self.long -= len;
            engine.fill_whole(bytes, 0..len, Kind::Data);
            if self.long == 0 {
                self.string = Some(0);
                self.command.argument(b"");
            }
            return Turn::Went(len);
        }
        if let Some(len) = self.string {
            return self.string(engine, is_server, bytes, len);
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() < LINE_MAX { Turn::More } else { Turn::Lost };
        };
        let number = || {
            let digits = bytes[1..end].trim_ascii_end();
            str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i64>().ok())
        };
        if end == 0 || bytes[end - 1] != b'\r' {
            return Turn::Lost;
        }
        match bytes[0] {
            b'*' if !is_server => match number() {
                Some(count @ 0..=1_000_000) if self.command.left == 0 => {
                    self.command = Command { left: count as usize, count: count as usize, words: Vec::new() };
                }
                _ => return Turn::Lost,
            },
            b'$' | b'=' | b'!' if is_server || self.command.left > 0 => match number() {
                Some(-1) => {}
                Some(len @ 0..=0x2000_0000) if len as usize > STRING_MAX => self.long = len as usize,
                Some(len @ 0..=0x2000_0000) => self.string = Some(len as usize),
                _ => return Turn::Lost,
            },
            _ if !is_server => return Turn::Lost,
            b'*' | b'%' | b'~' | b'>' | b'|' | b':' | b'(' if number().is_some() || bytes[0] == b'(' => {
                if bytes[1..end].iter().any(|b| !b"0123456789+-\r".contains(b)) {
                    return Turn::Lost;
                }
            }
            b',' | b'#' | b'_' if end < 40 => {}
            b'+' => said(engine, bytes, 1..end - 1),
            b'-' => {
                // It may quote what was sent.
                super::sql::quoted(engine, bytes, 1..end - 1, b"'\"`");
                said(engine, bytes, 1..end - 1);
            }
            _ => return Turn::Lost,
        }
        Turn::Went(end + 1)
    }

    fn string(&mut self, engine: &mut Engine, is_server: bool, bytes: &mut [u8], len: usize) -> Turn {
        if bytes.len() < len + 2 {
            return Turn::More;
        }
        if bytes[len..len + 2] != *b"\r\n" {
            return Turn::Lost;
        }
        self.string = None;
        if is_server {
            data(engine, bytes, 0..len);
        } else if self.command.left > 0 {
            let own = bytes[..len].to_vec();
            self.command.work(engine, bytes, 0..len);
            self.command.argument(&own);
        }
        Turn::Went(len + 2)
    }
}

impl Command {
    /// One of its arguments has gone by.
    fn argument(&mut self, value: &[u8]) {
        self.left = self.left.saturating_sub(1);
        if self.words.len() < WORDS_MAX {
            self.words
                .push(String::from_utf8_lossy(&value[..value.len().min(WORD_MAX)]).to_ascii_uppercase());
        }
    }

    /// Works on the next argument.
    fn work(&self, engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
        let at = self.count - self.left;
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let word_at = |back: usize| words.len().checked_sub(back).and_then(|at| words.get(at)).copied();
        let (last, before) = (word_at(1).unwrap_or_default(), word_at(2).unwrap_or_default());
        let is_number = range.len() <= 10 && bytes[range.clone()].iter().all(u8::is_ascii_digit);
        match *words.as_slice() {
            [] if is_name(&bytes[range.clone()]) => structure(engine, bytes, range),
            [] => data(engine, bytes, range),
            ["ACL" | "CONFIG" | "SENTINEL" | "CLIENT"] => structure(engine, bytes, range),
            ["HELLO" | "MIGRATE", ..]
                if !matches!(last, "AUTH" | "AUTH2")
                    && before != "AUTH2"
                    && OPTIONS.iter().any(|word| bytes[range.clone()].eq_ignore_ascii_case(word)) =>
            {
                structure(engine, bytes, range);
            }
            ["AUTH"] if self.count == 2 => secret(engine, bytes, range),
            ["AUTH"] => user(engine, bytes, range),
            ["AUTH", ..] => secret(engine, bytes, range),
            // More arguments than are remembered: none is known.
            _ if at >= WORDS_MAX => data(engine, bytes, range),
            ["HELLO" | "MIGRATE", .., "AUTH2"] => user(engine, bytes, range),
            ["HELLO", .., "AUTH"] => user(engine, bytes, range),
            ["MIGRATE", .., "AUTH"] => secret(engine, bytes, range),
            ["HELLO" | "MIGRATE", ..] if matches!(before, "AUTH" | "AUTH2") => secret(engine, bytes, range),
            ["HELLO" | "MIGRATE", ..] => word(engine, bytes, range),
            ["ACL", "SETUSER"] => user(engine, bytes, range),
            ["ACL", "SETUSER", ..] => match bytes[range.start..range.end].first() {
                Some(b'>' | b'<' | b'#' | b'!') => secret(engine, bytes, range.start + 1..range.end),
                _ => word(engine, bytes, range),
            },
            ["CONFIG" | "SENTINEL", "SET", ..] if is_secret_setting(engine, last) => {
                secret(engine, bytes, range)
            }
            ["ACL" | "CONFIG" | "SENTINEL" | "CLIENT" | "COMMAND" | "INFO" | "CLUSTER" | "MEMORY", ..] => {
                word(engine, bytes, range);
            }
            [command, ..] if is_number && !WITH_VALUES.contains(&command) => said(engine, bytes, range),
            ["ECHO" | "PING" | "EVAL" | "SCRIPT" | "FUNCTION" | "RESTORE"] => data(engine, bytes, range),
            // A key; keys and fields of hashes in turn with their values.
            [_] => word(engine, bytes, range),
            ["HSET" | "HMSET" | "HSETNX", ..] if at.is_multiple_of(2) => word(engine, bytes, range),
            ["MSET" | "MSETNX", ..] if !at.is_multiple_of(2) => word(engine, bytes, range),
            ["HGET" | "HMGET" | "HDEL" | "HEXISTS" | "DEL" | "EXISTS" | "MGET" | "UNLINK", ..] => {
                word(engine, bytes, range);
            }
            // Behind what was shown, and may be the name of a secret.
            [_, _] | ["HSET" | "HMSET" | "HSETNX" | "MSET" | "MSETNX", ..]
                if !engine.is_shape() && engine.is_secret_field(last.as_bytes()) =>
            {
                engine.cloak(bytes, range, Kind::Assignment, Escape::Header);
            }
            _ => data(engine, bytes, range),
        }
    }
}

/// Whether it can be the name of a command.
fn is_name(word: &[u8]) -> bool {
    word.len() <= 32 && word.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// Commands whose numbers may be values: of all others they are positions, times and counts.
const WITH_VALUES: [&str; 26] = [
    "SET",
    "SETNX",
    "SETEX",
    "PSETEX",
    "GETSET",
    "APPEND",
    "SETRANGE",
    "MSET",
    "MSETNX",
    "HSET",
    "HMSET",
    "HSETNX",
    "LPUSH",
    "RPUSH",
    "LPUSHX",
    "RPUSHX",
    "LSET",
    "LINSERT",
    "LREM",
    "LPOS",
    "SADD",
    "SREM",
    "SISMEMBER",
    "ZADD",
    "XADD",
    "PUBLISH",
];

/// Words of commands that say what comes next.
const OPTIONS: [&[u8]; 6] = [b"AUTH", b"AUTH2", b"SETNAME", b"COPY", b"REPLACE", b"KEYS"];

/// What says how the rest is to be read: it stays, unless it is a token.
fn structure(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    text::tokens(engine, bytes, range);
}

fn is_secret_setting(engine: &mut Engine, name: &str) -> bool {
    name.contains("PASS")
        || name.contains("AUTH")
        || engine.is_secret_field(name.to_ascii_lowercase().as_bytes())
}
