//! Which connections are wanted: expressions in the grammar of pcap-filter(7), with words of our own. Pure.
//!
//! ```text
//! text → parse → Filter, which is checked → verdict of the Facts of a connection: yes, no or unknown
//!                                         → needs: what the kernel side can decide
//! ```
//!
//! A connection is decided as a whole and once, before its first byte is written, by what appears in its comment. So `src`
//! is the end that opened it (the client), and `dst` the one that accepted it.

mod explain;
mod parse;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

pub use parse::{FilterError, PROTOCOLS};

/// Longest expression, in bytes.
pub const TEXT_MAX: usize = 64 << 10;
/// Deepest nesting of parentheses and negations.
pub const DEPTH_MAX: usize = 200;

/// What names in an expression stand for.
pub trait Names {
    /// The id of a user.
    fn user(&self, name: &str) -> Option<u32>;
    /// The TCP port of a service.
    fn port(&self, name: &str) -> Option<u16>;
}

/// What is known of a connection when it is decided. What is `None` is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Who opened it.
    pub client: Option<SocketAddr>,
    /// Who accepted it.
    pub server: Option<SocketAddr>,
    /// The captured process.
    pub pid: Option<u32>,
    /// Its command name.
    pub comm: Option<&'a str>,
    /// Path of its executable.
    pub exe: Option<&'a str>,
    /// Its effective user id.
    pub uid: Option<u32>,
    /// Id, then a space and the name, of its container; `Some("")`: it is in none.
    pub container: Option<&'a str>,
    /// Inode of the network namespace.
    pub netns: Option<u32>,
    /// Server name.
    pub sni: Option<&'a str>,
    /// Negotiated protocol.
    pub alpn: Option<&'a str>,
    /// Path of the TLS library.
    pub library: Option<&'a str>,
    /// Its name and version, as it tells them.
    pub library_version: &'a str,
    /// Whether the process is the client.
    pub is_client: Option<bool>,
    /// What the bytes were recognised as, as the comment has it.
    pub proto: Option<&'a str>,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Either,
    Client,
    Server,
    Both,
}

/// Text to compare with: `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(String);

/// What one test asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// Addresses of a network; a host is one of full length.
    Net(Ends, IpAddr, u8),
    Ports(Ends, u16, u16),
    /// TCP over IPv4 or IPv6, or either, which all connections are.
    Tcp,
    Family {
        six: bool,
    },
    Pid(u32),
    Uid(u32),
    Netns(u32),
    Client(bool),
    Comm(Pattern),
    Exe(Pattern),
    Container(Pattern),
    Sni(Pattern),
    Alpn(Pattern),
    Library(Pattern),
    /// As comments have it; several for one word.
    Proto(Vec<&'static str>),
}

/// An expression in its structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// What it asks for, and where it stands in the text.
    Test(Test, Range<usize>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

/// An expression that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    expr: Expr,
}

/// What the kernel side can decide by what it knows: a connection of anybody else is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// It is of one of these processes.
    Pids(Vec<u32>),
    /// It is of one of these users.
    Uids(Vec<u32>),
}

impl Filter {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(text: &str, names: &dyn Names) -> Result<Filter, FilterError> {
        Ok(Filter { text: text.to_owned(), expr: parse::parse(text, names)? })
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a connection is wanted; `None`: it depends on what is not known.
    pub fn verdict(&self, facts: &Facts<'_>) -> Option<bool> {
        self.expr.verdict(facts)
    }

    /// What can be decided before there is a connection.
    pub fn needs(&self) -> Needs {
        let pids = self.expr.needed(&|test| match test {
            Test::Pid(pid) => Some(*pid),
            _ => None,
        });
        let uids = || {
            self.expr.needed(&|test| match test {
                Test::Uid(uid) => Some(*uid),
                _ => None,
            })
        };
        pids.map(Needs::Pids).or_else(|| uids().map(Needs::Uids)).unwrap_or(Needs::Nothing)
    }
}

impl Expr {
    fn verdict(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Expr::Test(test, _) => test.verdict(facts),
            Expr::Not(expr) => expr.verdict(facts).map(|verdict| !verdict),
            Expr::And(all) => combined(all, facts, false),
            Expr::Or(any) => combined(any, facts, true),
        }
    }

    /// One of these must hold for a connection to be wanted.
    fn needed(&self, which: &impl Fn(&Test) -> Option<u32>) -> Option<Vec<u32>> {
        let mut found = match self {
            Expr::Test(test, _) => vec![which(test)?],
            Expr::Not(_) => return None,
            Expr::And(all) => all.iter().filter_map(|e| e.needed(which)).min_by_key(Vec::len)?,
            Expr::Or(any) => any.iter().map(|e| e.needed(which)).collect::<Option<Vec<Vec<u32>>>>()?.concat(),
        };
        found.sort_unstable();
        found.dedup();
        Some(found)
    }
}

/// The verdict that one of them decides if it is `deciding`; else unknown if one is.
fn combined(parts: &[Expr], facts: &Facts<'_>, deciding: bool) -> Option<bool> {
    let mut verdict = Some(!deciding);
    for part in parts {
        match part.verdict(facts) {
            Some(found) if found == deciding => return Some(deciding),
            Some(_) => {}
            None => verdict = None,
        }
    }
    verdict
}

impl Ends {
    /// The verdict of one end or both.
    fn verdict(self, facts: &Facts<'_>, of: impl Fn(SocketAddr) -> bool) -> Option<bool> {
        let (client, server) = (facts.client.map(&of), facts.server.map(&of));
        match self {
            Ends::Client => client,
            Ends::Server => server,
            Ends::Either => match (client, server) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Ends::Both => match (client, server) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
        }
    }
}

impl Test {
    fn verdict(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Test::Net(ends, net, len) => ends.verdict(facts, |end| is_in(end.ip(), *net, *len)),
            Test::Ports(ends, low, high) => ends.verdict(facts, |end| (*low..=*high).contains(&end.port())),
            Test::Tcp => Some(true),
            Test::Family { six } => facts.server.map(|end| end.ip().to_canonical().is_ipv6() == *six),
            Test::Pid(pid) => facts.pid.map(|found| found == *pid),
            Test::Uid(uid) => facts.uid.map(|found| found == *uid),
            Test::Netns(netns) => facts.netns.map(|found| found == *netns),
            Test::Client(is_client) => facts.is_client.map(|found| found == *is_client),
            Test::Comm(pattern) => facts.comm.map(|comm| pattern.fits(comm)),
            Test::Exe(pattern) => facts.exe.map(|exe| {
                let name = if pattern.0.contains('/') { exe } else { exe.rsplit('/').next().unwrap_or(exe) };
                pattern.fits(name)
            }),
            Test::Container(pattern) => facts.container.map(|container| {
                let (id, name) = container.split_once(' ').unwrap_or((container, ""));
                // Ids are given by their beginning, as everywhere.
                let is_id = pattern.0.len() >= ID_MIN && id.starts_with(&pattern.0);
                !container.is_empty() && (is_id || pattern.fits(id) || pattern.fits(name))
            }),
            Test::Sni(pattern) => facts.sni.map(|name| pattern.fits_any_case(name.trim_end_matches('.'))),
            Test::Alpn(pattern) => facts.alpn.map(|name| pattern.fits_any_case(name)),
            Test::Library(pattern) => {
                let version = facts.library_version;
                facts.library.map(|path| pattern.is_within(path) || pattern.is_within(version))
            }
            Test::Proto(names) => facts.proto.map(|proto| names.contains(&proto)),
        }
    }
}

/// The shortest beginning of a container's id.
const ID_MIN: usize = 4;

fn is_in(address: IpAddr, net: IpAddr, len: u8) -> bool {
    match (address.to_canonical(), net) {
        (IpAddr::V4(a), IpAddr::V4(net)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            a.to_bits() & mask == net.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(net)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            a.to_bits() & mask == net.to_bits() & mask
        }
        _ => false,
    }
}

impl Pattern {
    fn fits(&self, text: &str) -> bool {
        fits(self.0.as_bytes(), text.as_bytes())
    }

    fn fits_any_case(&self, text: &str) -> bool {
        fits(self.0.to_ascii_lowercase().as_bytes(), text.to_ascii_lowercase().as_bytes())
    }

    /// Whether it fits a part of the text, in any case.
    fn is_within(&self, text: &str) -> bool {
        let pattern = format!("*{}*", self.0.to_ascii_lowercase());
        fits(pattern.as_bytes(), text.to_ascii_lowercase().as_bytes())
    }
}

/// Whether a pattern fits a whole text. Takes no longer than the product of their lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit.
    let mut again: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((after, from)) = again else { return false };
                again = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests;
