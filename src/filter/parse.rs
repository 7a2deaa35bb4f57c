//! Text to [`Expr`]. Errors say where they are.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use super::{DEPTH_MAX, Ends, Expr, Names, Pattern, TEXT_MAX, Test};

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    text: String,
    /// Where, in bytes of the text.
    pub at: Range<usize>,
    /// What.
    pub message: String,
    /// It is the first word, which is none of a filter: perhaps no filter was meant.
    pub is_no_filter: bool,
}

/// Most of a line that is shown with an error, in characters.
const SHOWN: usize = 60;

impl fmt::Display for FilterError {
    /// The message, and below it the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chars = |range: Range<usize>| self.text.get(range).map_or(0, |text| text.chars().count());
        let before = chars(0..self.at.start);
        let skipped = before.saturating_sub(SHOWN / 2);
        let line: String = self
            .text
            .chars()
            .skip(skipped)
            .take(SHOWN)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let marks = chars(self.at.clone()).clamp(1, SHOWN - (before - skipped));
        let begin = if skipped > 0 { "…" } else { "" };
        let indent = before - skipped + usize::from(skipped > 0);
        write!(f, "{}\n  {begin}{line}\n  {:indent$}{}", self.message, "", "^".repeat(marks))
    }
}

/// The protocols that `proto` takes, as comments have them.
pub const PROTOCOLS: [&str; 25] = [
    "http/1",
    "http/2",
    "tls",
    "smtp",
    "imap",
    "pop3",
    "ftp",
    "nntp",
    "mqtt",
    "amqp",
    "ldap",
    "dns",
    "postgresql",
    "mysql",
    "redis",
    "xmpp",
    "sip",
    "rtsp",
    "irc",
    "ssh",
    "kafka",
    "mongodb",
    "cassandra",
    "diameter",
    "vnc",
];

/// Words of pcap-filter that make no sense here, and why.
const FOREIGN: &[(&[&str], &str)] = &[
    (
        &["udp", "icmp", "icmp6", "sctp", "arp", "rarp", "igmp", "dns", "quic", "dtls"],
        "only TLS over TCP is captured",
    ),
    (
        &[
            "ether",
            "vlan",
            "mpls",
            "pppoed",
            "pppoes",
            "wlan",
            "gateway",
            "broadcast",
            "multicast",
            "inbound",
            "outbound",
        ],
        "programs are captured, not packets on a wire",
    ),
    (
        &["less", "greater", "len", "protochain"],
        "connections are selected as a whole: use -s or --head to keep less of each",
    ),
    (&["cgroup"], "the cgroup of a connection is unknown: use container, or -p PID --follow"),
    (&["ifname", "on"], "interfaces of the file are processes: use pid or comm"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Not,
    And,
    Or,
    Word(String),
    /// In quotation marks: never a keyword.
    Quoted(String),
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, Range<usize>)>,
    at: usize,
    depth: usize,
    names: &'a dyn Names,
    /// Qualifiers that a value without any has: `port 80 or 443`.
    last: Option<Qualifiers>,
}

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Qualifiers {
    family: Option<bool>,
    ends: Ends,
    kind: Primitive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Primitive {
    Host,
    Net,
    Port,
    PortRange,
    Own(Own),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Pid,
    Comm,
    Exe,
    Uid,
    User,
    Container,
    Netns,
    Sni,
    Alpn,
    Library,
    Role,
    Proto,
}

const KINDS: [(&str, Primitive); 16] = [
    ("host", Primitive::Host),
    ("net", Primitive::Net),
    ("port", Primitive::Port),
    ("portrange", Primitive::PortRange),
    ("pid", Primitive::Own(Own::Pid)),
    ("comm", Primitive::Own(Own::Comm)),
    ("exe", Primitive::Own(Own::Exe)),
    ("uid", Primitive::Own(Own::Uid)),
    ("user", Primitive::Own(Own::User)),
    ("container", Primitive::Own(Own::Container)),
    ("netns", Primitive::Own(Own::Netns)),
    ("sni", Primitive::Own(Own::Sni)),
    ("alpn", Primitive::Own(Own::Alpn)),
    ("library", Primitive::Own(Own::Library)),
    ("role", Primitive::Own(Own::Role)),
    ("proto", Primitive::Own(Own::Proto)),
];

fn kind(word: &str) -> Option<Primitive> {
    KINDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind)
}

pub(super) fn parse(text: &str, names: &dyn Names) -> Result<Expr, FilterError> {
    if text.len() > TEXT_MAX {
        return Err(error(text, 0..0, format!("longer than {TEXT_MAX} bytes")));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0, names, last: None };
    let expr = parser.expression()?;
    match parser.peek() {
        None => Ok(expr),
        Some((Token::Close, at)) => Err(error(text, at, "no parenthesis is open here")),
        Some((_, at)) => Err(error(text, at, "and, or, or the end is expected here")),
    }
}

fn error(text: &str, at: Range<usize>, message: impl Into<String>) -> FilterError {
    FilterError { text: text.to_owned(), at, message: message.into(), is_no_filter: false }
}

fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, FilterError> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let mut double = |c: char| chars.next_if(|(_, next)| *next == c).is_some();
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '!' if double('=') => {
                return Err(error(
                    text,
                    at..at + 2,
                    "values cannot be compared: use not, and a word such as port",
                ));
            }
            '!' => Token::Not,
            '&' if double('&') => Token::And,
            '|' if double('|') => Token::Or,
            '&' | '|' => return Err(error(text, at..at + 1, format!("use {c}{c}"))),
            '=' | '<' | '>' | '[' | ']' => {
                return Err(error(
                    text,
                    at..at + 1,
                    "values cannot be compared: use a word and a value, such as port 443",
                ));
            }
            '"' | '\'' => {
                let end = text[at + 1..].find(c).map(|end| at + 1 + end);
                let Some(end) = end else {
                    return Err(error(text, at..at + 1, "the quotation is not closed"));
                };
                while chars.next_if(|(next, _)| *next <= end).is_some() {}
                tokens.push((Token::Quoted(text[at + 1..end].to_owned()), at..end + 1));
                continue;
            }
            _ => {
                let is_end = |c: char| c.is_whitespace() || "()!&|=<>[]\"'".contains(c);
                let mut end = at + c.len_utf8();
                // Brackets around IPv6 are not of pcap-filter.
                while let Some((next, c)) = chars.next_if(|(_, c)| !is_end(*c)) {
                    end = next + c.len_utf8();
                }
                let word = &text[at..end];
                let token = match word {
                    "and" => Token::And,
                    "or" => Token::Or,
                    "not" => Token::Not,
                    _ => Token::Word(word.to_owned()),
                };
                tokens.push((token, at..end));
                continue;
            }
        };
        let end = chars.peek().map_or(text.len(), |(next, _)| *next);
        tokens.push((token, at..end));
    }
    Ok(tokens)
}

impl Parser<'_> {
    fn peek(&self) -> Option<(Token, Range<usize>)> {
        self.tokens.get(self.at).cloned()
    }

    /// The next word that is not in quotation marks.
    fn word(&self) -> Option<&str> {
        match self.tokens.get(self.at) {
            Some((Token::Word(word), _)) => Some(word),
            _ => None,
        }
    }

    fn accept(&mut self, word: &str) -> bool {
        let is_it = self.word() == Some(word);
        self.at += usize::from(is_it);
        is_it
    }

    fn place(&self) -> Range<usize> {
        self.tokens.get(self.at).map_or(self.text.len()..self.text.len(), |(_, at)| at.clone())
    }

    fn error(&self, at: Range<usize>, message: impl Into<String>) -> FilterError {
        error(self.text, at, message)
    }

    /// As in pcap-filter, `and` and `or` bind alike, from the left.
    fn expression(&mut self) -> Result<Expr, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(self.place(), format!("nested more than {DEPTH_MAX} levels deep")));
        }
        let mut expr = self.term()?;
        loop {
            match self.peek() {
                Some((Token::And, _)) => {
                    self.at += 1;
                    let right = self.term()?;
                    expr = match expr {
                        Expr::And(mut all) => {
                            all.push(right);
                            Expr::And(all)
                        }
                        left => Expr::And(vec![left, right]),
                    };
                }
                Some((Token::Or, _)) => {
                    self.at += 1;
                    let right = self.term()?;
                    expr = match expr {
                        Expr::Or(mut any) => {
                            any.push(right);
                            Expr::Or(any)
                        }
                        left => Expr::Or(vec![left, right]),
                    };
                }
                _ => break,
            }
        }
        self.depth -= 1;
        Ok(expr)
    }

    fn term(&mut self) -> Result<Expr, FilterError> {
        let mut negations = 0usize;
        while let Some((Token::Not, _)) = self.peek() {
            self.at += 1;
            negations += 1;
        }
        let expr = match self.peek() {
            Some((Token::Open, open)) => {
                self.at += 1;
                let expr = self.expression()?;
                if !matches!(self.peek(), Some((Token::Close, _))) {
                    return Err(self.error(open, "this parenthesis is not closed"));
                }
                self.at += 1;
                expr
            }
            _ => self.primitive()?,
        };
        Ok(if negations % 2 == 1 { Expr::Not(Box::new(expr)) } else { expr })
    }

    fn primitive(&mut self) -> Result<Expr, FilterError> {
        let begin = self.place();
        let (mut family, mut is_tcp) = (None, false);
        if self.accept("ip") {
            family = Some(false);
        } else if self.accept("ip6") {
            family = Some(true);
        } else {
            is_tcp = self.accept("tcp");
        }
        let ends = self.ends()?;
        let found = self.word().and_then(kind);
        let qualifiers = match (found, ends) {
            (Some(kind), ends) => {
                self.at += 1;
                let is_of_network = !matches!(kind, Primitive::Own(_));
                if !is_of_network && (ends.is_some() || family.is_some() || is_tcp) {
                    return Err(self.error(
                        begin.start..self.tokens[self.at - 1].1.end,
                        "src, dst, ip, ip6 and tcp go with host, net, port and portrange",
                    ));
                }
                if is_tcp && matches!(kind, Primitive::Host | Primitive::Net) {
                    return Err(self.error(begin, "tcp goes with port and portrange: use tcp and host …"));
                }
                if family.is_some() && matches!(kind, Primitive::Port | Primitive::PortRange) {
                    return Err(self.error(begin, "ip and ip6 go with host and net: use ip and port …"));
                }
                Qualifiers { family, ends: ends.unwrap_or(Ends::Either), kind }
            }
            (None, Some(ends)) if !is_tcp => Qualifiers { family, ends, kind: Primitive::Host },
            (None, Some(_)) => return Err(self.error(self.place(), "port or portrange is expected here")),
            (None, None) if is_tcp => return Ok(Expr::Test(Test::Tcp, begin)),
            (None, None) => match family {
                Some(six) => return Ok(Expr::Test(Test::Family { six }, begin)),
                None => match self.last {
                    Some(last) if self.is_value() => last,
                    _ => return Err(self.not_expected()),
                },
            },
        };
        self.last = Some(qualifiers);
        // `port (80 or 443)`.
        if let (Some((Token::Open, open)), true) = (self.peek(), found.is_some() || ends.is_some()) {
            self.at += 1;
            let expr = self.expression()?;
            if !matches!(self.peek(), Some((Token::Close, _))) {
                return Err(self.error(open, "this parenthesis is not closed"));
            }
            self.at += 1;
            return Ok(expr);
        }
        let test = self.value(qualifiers)?;
        let end = self.tokens[self.at - 1].1.end;
        let expr = Expr::Test(test, begin.start..end);
        Ok(match qualifiers.family {
            Some(six) => Expr::And(vec![Expr::Test(Test::Family { six }, begin), expr]),
            None => expr,
        })
    }

    /// `src`, `dst`, `src or dst`, `src and dst`.
    fn ends(&mut self) -> Result<Option<Ends>, FilterError> {
        let (one, other) = match self.word() {
            Some("src") => (Ends::Client, "dst"),
            Some("dst") => (Ends::Server, "src"),
            _ => return Ok(None),
        };
        self.at += 1;
        let joined = match self.peek() {
            Some((Token::Or, _)) => Ends::Either,
            Some((Token::And, _)) => Ends::Both,
            _ => return Ok(Some(one)),
        };
        if !matches!(self.tokens.get(self.at + 1), Some((Token::Word(word), _)) if word == other) {
            return Err(self.error(self.place(), "a value is expected before this"));
        }
        self.at += 2;
        Ok(Some(joined))
    }

    /// Whether a value may be meant, and no word of the grammar.
    fn is_value(&self) -> bool {
        match self.tokens.get(self.at) {
            Some((Token::Quoted(_), _)) => true,
            Some((Token::Word(word), _)) => {
                let is_foreign = FOREIGN.iter().any(|(words, _)| words.contains(&word.as_str()));
                !is_foreign && !["tcp", "ip", "ip6", "src", "dst"].contains(&word.as_str())
            }
            _ => false,
        }
    }

    fn not_expected(&self) -> FilterError {
        let at = self.place();
        let Some(word) = self.word() else {
            return self.error(at, "a word such as host, port, pid, comm or sni is expected here");
        };
        if let Some((_, why)) = FOREIGN.iter().find(|(words, _)| words.contains(&word)) {
            return self.error(at, format!("'{word}': {why}"));
        }
        let known = KINDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let message =
            format!("'{word}' is not a word of a filter: {known}, tcp, ip, ip6, src, dst, and, or, not");
        FilterError { is_no_filter: self.at == 0, ..self.error(at, message) }
    }

    fn value(&mut self, qualifiers: Qualifiers) -> Result<Test, FilterError> {
        let at = self.place();
        let value = match self.tokens.get(self.at) {
            Some((Token::Word(word) | Token::Quoted(word), _)) => word.clone(),
            _ => return Err(self.error(at, "a value is expected here")),
        };
        self.at += 1;
        let wrong = |what: &str| self.error(at.clone(), format!("'{value}' is {what}"));
        let ends = qualifiers.ends;
        let own = match qualifiers.kind {
            Primitive::Host => {
                let address: IpAddr = value.parse().map_err(|_| {
                    wrong("not a numeric address; names are not resolved, but sni matches the server's name")
                })?;
                let address = address.to_canonical();
                return self
                    .family_fits(qualifiers, address, at)
                    .map(|address| Test::Net(ends, address, if address.is_ipv4() { 32 } else { 128 }));
            }
            Primitive::Net => {
                let (address, len) = self.net(&value, &at)?;
                return self.family_fits(qualifiers, address, at).map(|net| Test::Net(ends, net, len));
            }
            Primitive::Port => {
                let port =
                    self.port(&value).ok_or_else(|| wrong("neither a port nor the name of a service"))?;
                return Ok(Test::Ports(ends, port, port));
            }
            Primitive::PortRange => {
                // Names of services may have a hyphen.
                let mut splits = value.match_indices('-').filter_map(|(split, _)| {
                    Some((self.port(&value[..split])?, self.port(&value[split + 1..])?))
                });
                let one = self.port(&value).map(|port| (port, port));
                let (low, high) =
                    splits.next().or(one).ok_or_else(|| wrong("not a range of ports, such as 8000-8080"))?;
                return Ok(Test::Ports(ends, low.min(high), low.max(high)));
            }
            Primitive::Own(own) => own,
        };
        let number = || value.parse::<u32>().map_err(|_| wrong("not a number"));
        if value.is_empty() {
            return Err(wrong("empty"));
        }
        let pattern = || Pattern(value.clone());
        Ok(match own {
            Own::Pid => Test::Pid(number()?),
            Own::Netns => Test::Netns(number()?),
            Own::Uid => Test::Uid(number()?),
            Own::User => {
                let id = value.parse().ok().or_else(|| self.names.user(&value));
                Test::Uid(id.ok_or_else(|| wrong("not a user of this machine"))?)
            }
            Own::Comm => Test::Comm(pattern()),
            Own::Exe => Test::Exe(pattern()),
            Own::Container => Test::Container(pattern()),
            Own::Sni => Test::Sni(Pattern(value.trim_end_matches('.').to_owned())),
            Own::Alpn => Test::Alpn(pattern()),
            Own::Library => Test::Library(pattern()),
            Own::Role => match value.as_str() {
                "client" => Test::Client(true),
                "server" => Test::Client(false),
                _ => return Err(wrong("neither client nor server")),
            },
            Own::Proto => {
                let lower = value.to_ascii_lowercase();
                let found: Vec<_> = match lower.as_str() {
                    "http" => vec!["http/1", "http/2"],
                    "http1" | "h1" | "http/1.1" => vec!["http/1"],
                    "http2" | "h2" | "grpc" => vec!["http/2"],
                    "postgres" => vec!["postgresql"],
                    "mongo" => vec!["mongodb"],
                    name => PROTOCOLS.iter().copied().filter(|known| *known == name).collect(),
                };
                if found.is_empty() {
                    let known = PROTOCOLS.join(", ");
                    return Err(wrong(&format!("not a recognised protocol: http, {known}")));
                }
                Test::Proto(found)
            }
        })
    }

    fn port(&self, text: &str) -> Option<u16> {
        text.parse().ok().or_else(|| self.names.port(text))
    }

    fn family_fits(&self, q: Qualifiers, address: IpAddr, at: Range<usize>) -> Result<IpAddr, FilterError> {
        match q.family {
            Some(six) if six != address.is_ipv6() => {
                let (said, is) = if six { ("ip6", "IPv4") } else { ("ip", "IPv6") };
                Err(self.error(at, format!("{said} does not go with an {is} address")))
            }
            _ => Ok(address),
        }
    }

    /// `10`, `10.1`, `10.1.2.0/24`, `10.0.0.0 mask 255.0.0.0`, `2001:db8::/32`.
    fn net(&mut self, value: &str, at: &Range<usize>) -> Result<(IpAddr, u8), FilterError> {
        let wrong = |what: String| error(self.text, at.clone(), what);
        let (address, len) = match value.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (value, None),
        };
        let net = match address.parse::<IpAddr>() {
            Ok(net) => net.to_canonical(),
            Err(_) => {
                let bytes: Option<Vec<u8>> = address.split('.').map(|byte| byte.parse().ok()).collect();
                let bytes = bytes.filter(|bytes| (1..4).contains(&bytes.len()));
                let bytes = bytes.ok_or_else(|| {
                    wrong(format!("'{value}' is not a network, such as 10.0.0.0/8 or 2001:db8::/32"))
                })?;
                let mut all = [0; 4];
                all[..bytes.len()].copy_from_slice(&bytes);
                if len.is_none()
                    && !matches!(self.tokens.get(self.at), Some((Token::Word(w), _)) if w == "mask")
                {
                    return Ok((Ipv4Addr::from(all).into(), bytes.len() as u8 * 8));
                }
                Ipv4Addr::from(all).into()
            }
        };
        let max = if net.is_ipv4() { 32 } else { 128 };
        let len = match len {
            Some(len) => len
                .parse()
                .ok()
                .filter(|len| *len <= max)
                .ok_or_else(|| wrong(format!("'{len}' is not a length of a network, from 0 to {max}")))?,
            None if self.accept("mask") => {
                let at = self.place();
                let mask = self.word().and_then(|word| word.parse::<Ipv4Addr>().ok()).map(Ipv4Addr::to_bits);
                let mask =
                    mask.filter(|mask| net.is_ipv4() && mask.leading_ones() + mask.trailing_zeros() >= 32);
                let Some(mask) = mask else {
                    return Err(
                        self.error(at, "a mask of an IPv4 network is expected here, such as 255.255.0.0")
                    );
                };
                self.at += 1;
                mask.leading_ones() as u8
            }
            None => max,
        };
        let beyond = match net {
            IpAddr::V4(net) => net.to_bits() & u32::MAX.checked_shr(u32::from(len)).unwrap_or(0) != 0,
            IpAddr::V6(net) => net.to_bits() & u128::MAX.checked_shr(u32::from(len)).unwrap_or(0) != 0,
        };
        match beyond {
            true => Err(error(
                self.text,
                at.clone(),
                format!("'{value}' has bits beyond the network's {len}: use host, or clear them"),
            )),
            false => Ok((net, len)),
        }
    }
}
