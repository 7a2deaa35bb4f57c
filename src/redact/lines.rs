//! SMTP (RFC 5321, 4954), POP3 (RFC 1939, 5034), IMAP (RFC 9051) and FTP (RFC 959): commands and replies. What logs in is
//! replaced, what is carried is filled; so is each line that is no command or reply that is known.

use super::cloak::Escape;
use super::engine::Engine;
use super::fill;
use super::identity;
use super::kind::Kind;
use super::text::{self, Sort};

/// Longest line that is waited for.
const LINE_MAX: usize = 16 << 10;

/// Which of them, as the server's first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// SMTP or FTP: replies begin with three digits.
    Codes,
    Pop3,
    Imap,
}

/// The server's first line; `None`: it is of none of them.
pub(super) fn greeting(bytes: &[u8]) -> Option<Dialect> {
    let line = &bytes[..bytes.len().min(5)];
    match line {
        [b'2', b'2', b'0', b' ' | b'-', ..] => Some(Dialect::Codes),
        [b'+', b'O', b'K', b' ' | b'\r', ..] => Some(Dialect::Pop3),
        [b'*', b' ', b'O', b'K', b' ', ..] => Some(Dialect::Imap),
        _ => None,
    }
}

/// Commands whose arguments are looked through.
const PLAIN: &[&str] = &[
    "USER", // SMTP
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "RSET", "VRFY", "NOOP", "HELP", "QUIT", "STARTTLS",
    // POP3
    "STAT", "LIST", "RETR", "DELE", "TOP", "UIDL", "CAPA", "STLS", // FTP
    "CWD", "CDUP", "PWD", "TYPE", "MODE", "STRU", "PORT", "PASV", "EPSV", "EPRT", "STOR", "NLST", "SYST",
    "FEAT", "OPTS", "SIZE", "MDTM", "MLSD", "MLST", "REST", "ABOR", "RNFR", "RNTO", "MKD", "RMD", "APPE",
    "CLNT", "PBSZ", "PROT", "SITE",
];

/// Those of IMAP, behind a tag.
const IMAP: &[&str] = &[
    "CAPABILITY",
    "NOOP",
    "LOGOUT",
    "STARTTLS",
    "SELECT",
    "EXAMINE",
    "LIST",
    "LSUB",
    "STATUS",
    "IDLE",
    "FETCH",
    "UID",
    "STORE",
    "CHECK",
    "CLOSE",
    "EXPUNGE",
    "NAMESPACE",
    "ENABLE",
    "UNSELECT",
    "ID",
    "SUBSCRIBE",
];

/// Of replies of IMAP what follows the star or a number.
const REPLIES: &[&str] = &[
    "OK",
    "NO",
    "BAD",
    "BYE",
    "PREAUTH",
    "CAPABILITY",
    "FLAGS",
    "LIST",
    "LSUB",
    "SEARCH",
    "STATUS",
    "ENABLED",
    "EXISTS",
    "RECENT",
    "EXPUNGE",
];

/// What both directions know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The last reply asks for a letter, or for more of a login.
    wants_more: bool,
}

/// Commands without and with arguments that are certain, of each dialect: nobody writes such a line in a letter.
const CERTAIN: [(Dialect, &[&str]); 3] = [
    (
        Dialect::Codes,
        &[
            "MAIL FROM:<",
            "RCPT TO:<",
            "RSET",
            "QUIT",
            "NOOP",
            "DATA",
            "PASV",
            "EPSV",
            "FEAT",
            "SYST",
            "PWD",
            "CDUP",
            "TYPE I",
            "TYPE A",
            "RETR ",
            "STOR ",
            "CWD ",
            "EHLO ",
        ],
    ),
    (Dialect::Pop3, &["STAT", "LIST", "UIDL", "NOOP", "RSET", "QUIT", "CAPA", "RETR ", "DELE "]),
    (Dialect::Imap, &[]),
];

/// Whether a segment is certainly a command or replies, so that a parser that has lost its place can go on.
pub(super) fn is_certain(dialect: Dialect, is_server: bool, shared: &Shared, segment: &[u8]) -> bool {
    let Some(text) = segment.strip_suffix(b"\r\n").filter(|text| fill::is_text(text) && text.is_ascii())
    else {
        return false;
    };
    let mut lines = text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if is_server {
        return lines.all(|line| is_certain_reply(dialect, line));
    }
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    match dialect {
        _ if shared.wants_more => false,
        // A tag with a number, and a command.
        Dialect::Imap => {
            let mut words = line.split(|b| *b == b' ');
            let (tag, verb) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let digits = tag.iter().position(u8::is_ascii_digit).unwrap_or(tag.len());
            tag.len() <= 12
                && tag[..digits].iter().all(u8::is_ascii_alphabetic)
                && is_number(&tag[digits..])
                && IMAP.iter().any(|known| verb == known.as_bytes())
        }
        _ => {
            CERTAIN.iter().filter(|(of, _)| *of == dialect).flat_map(|(_, known)| known.iter()).any(|known| {
                match line.strip_prefix(known.as_bytes()) {
                    Some(rest) if known.ends_with('<') => memchr::memchr(b'>', rest).is_some(),
                    Some(rest) if known.ends_with(' ') && dialect == Dialect::Pop3 => is_number(rest),
                    Some(rest) if known.ends_with(' ') => !rest.is_empty() && !rest.contains(&b' '),
                    Some(rest) => rest.is_empty(),
                    None => false,
                }
            })
        }
    }
}

/// The same of one line of a server.
fn is_certain_reply(dialect: Dialect, line: &[u8]) -> bool {
    match dialect {
        Dialect::Codes => matches!(
            line,
            [b'1'..=b'5', b'0'..=b'5', b'0'..=b'9', b' ' | b'-', ..] if !line.starts_with(b"334")
        ),
        Dialect::Pop3 => line.starts_with(b"+OK") || line.starts_with(b"-ERR"),
        Dialect::Imap => {
            let mut words = line.split(|b| *b == b' ');
            let tag = words.next().unwrap_or_default();
            let word = words.next().unwrap_or_default();
            match tag {
                b"*" => {
                    word == b"OK"
                        || word == b"BYE"
                        || matches!(words.next(), Some(b"EXISTS" | b"RECENT" | b"EXPUNGE"))
                }
                tag => tag.last().is_some_and(u8::is_ascii_digit) && matches!(word, b"OK" | b"NO" | b"BAD"),
            }
        }
    }
}

/// One direction.
#[derive(Debug)]
pub(super) struct Lines {
    dialect: Dialect,
    is_server: bool,
    /// Up to a line with a dot: a letter that is sent.
    in_letter: bool,
    /// So many bytes follow whatever they are.
    literal: usize,
    /// The end of a line that was too long.
    in_line: bool,
}

impl Lines {
    pub(super) fn new(dialect: Dialect, is_server: bool) -> Lines {
        Lines { dialect, is_server, in_letter: false, literal: 0, in_line: false }
    }

    /// Which dialect, and whether it is the server's direction.
    pub(super) fn role(&self) -> (Dialect, bool) {
        (self.dialect, self.is_server)
    }

    /// Works on what is there. Gives how many bytes are decided.
    pub(super) fn step(
        &mut self,
        engine: &mut Engine,
        shared: &mut Shared,
        bytes: &mut [u8],
        last: bool,
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.literal > 0 {
                let end = bytes.len().min(at.saturating_add(self.literal));
                engine.fill_text(bytes, at..end, Kind::Protocol);
                self.literal -= end - at;
                at = end;
                continue;
            }
            let end = memchr::memchr(b'\n', &bytes[at..]).map(|len| at + len + 1);
            let stop = match end {
                Some(end) => end,
                None if last || self.in_line || bytes.len() - at > LINE_MAX => bytes.len(),
                None => break,
            };
            if self.in_line || (end.is_none() && !last) {
                engine.fill_text(bytes, at..stop, Kind::Protocol);
            } else {
                let line = &mut bytes[at..stop];
                let len = line.trim_ascii_end().len();
                if self.is_server {
                    let asks = [&b"354"[..], b"334", b"+ "];
                    shared.wants_more = asks.iter().any(|ask| line.starts_with(ask)) || line[..len] == *b"+";
                }
                engine.within(at, |engine| self.line(engine, &mut line[..len]));
            }
            self.in_line = end.is_none() && !last;
            at = stop;
        }
        at
    }

    fn line(&mut self, engine: &mut Engine, line: &mut [u8]) {
        if self.in_letter {
            self.in_letter = line != b".";
            if self.in_letter {
                fill(engine, line);
            }
            return;
        }
        if self.dialect == Dialect::Imap {
            self.literal = literal(line);
        }
        if self.is_server { self.reply(engine, line) } else { self.command(engine, line) }
    }

    fn reply(&self, engine: &mut Engine, line: &mut [u8]) {
        let is_known = match self.dialect {
            Dialect::Codes => {
                line.len() > 3 && line[..3].iter().all(u8::is_ascii_digit) && matches!(line[3], b' ' | b'-')
            }
            Dialect::Pop3 => line.starts_with(b"+OK") || line.starts_with(b"-ERR"),
            Dialect::Imap => {
                // A star or a tag, maybe a number, and a word.
                let mut words = line.split(|b| *b == b' ').skip(1);
                let first = words.next().unwrap_or_default();
                let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
                let word = if is_number { words.next().unwrap_or_default() } else { first };
                REPLIES.iter().any(|reply| word.eq_ignore_ascii_case(reply.as_bytes()))
            }
        };
        // What a server asks in a login.
        if line.starts_with(b"+ ") || line.starts_with(b"334 ") {
            let begin = line.iter().position(|b| *b == b' ').map_or(0, |at| at + 1);
            engine.cloak(line, begin..line.len(), Kind::Authorization, Escape::Header);
        } else if line == b"." || line == b"+" {
        } else if is_known {
            if line.starts_with(b"227 ")
                && let Some(open) = line.iter().position(|b| *b == b'(')
            {
                engine.within(open, |engine| identity::commas(engine, &mut line[open..]));
            }
            text::scan(engine, line, Sort::Plain);
        } else {
            fill(engine, line);
        }
    }

    fn command(&mut self, engine: &mut Engine, line: &mut [u8]) {
        let mut starts = vec![0];
        starts.extend(line.iter().enumerate().filter(|(_, b)| **b == b' ').map(|(at, _)| at + 1));
        let word = |i: usize| {
            let start = starts.get(i).copied().unwrap_or(line.len());
            let end = starts.get(i + 1).map_or(line.len(), |next| next - 1);
            String::from_utf8_lossy(&line[start..end.max(start)]).to_ascii_uppercase()
        };
        let (skip, known) = if self.dialect == Dialect::Imap { (1, IMAP) } else { (0, PLAIN) };
        let verb = word(skip);
        // Where what is no part of the command begins.
        let secret = match verb.as_str() {
            "PASS" | "ACCT" | "LOGIN" => Some(skip + 1),
            "APOP" | "AUTH" | "AUTHENTICATE" => Some(skip + 2),
            "DATA" => {
                self.in_letter = true;
                return;
            }
            "BDAT" => {
                self.literal = word(skip + 1).parse().unwrap_or(0);
                return;
            }
            "DONE" if self.dialect == Dialect::Imap => return,
            verb if known.contains(&verb) => None,
            // A password or a piece of one, as it is asked for.
            _ => Some(0),
        };
        match secret {
            // Such as TLS behind STARTTLS.
            _ if !fill::is_text(line) => engine.fill_whole(line, 0..line.len(), Kind::Protocol),
            Some(word) => {
                let begin = starts.get(word).copied().unwrap_or(line.len());
                // What says how many bytes follow is no part of them.
                let end = match self.literal > 0 {
                    true => line.iter().rposition(|b| *b == b'{').unwrap_or(line.len()),
                    false => line.len(),
                };
                engine.cloak(line, begin.min(end)..end, Kind::Authorization, Escape::Header);
            }
            None => {
                let begin = starts.get(skip + 1).copied().unwrap_or(line.len());
                match verb.as_str() {
                    "USER" => identity::user(engine, line, begin..line.len()),
                    "EHLO" | "HELO" | "LHLO" => identity::host(engine, line, begin..line.len()),
                    "PORT" => {
                        engine.within(begin, |engine| identity::commas(engine, &mut line[begin..]));
                    }
                    _ => {}
                }
                text::scan(engine, line, Sort::Plain);
            }
        }
    }
}

/// Fills a line. It must not become a dot, which ends a letter.
fn fill(engine: &mut Engine, line: &mut [u8]) {
    if line.len() == 1 {
        engine.fill_whole(line, 0..1, Kind::Protocol);
    } else {
        engine.fill_text(line, 0..line.len(), Kind::Protocol);
    }
}

/// How many bytes follow a line of IMAP that ends so: `{7}`, or `{7+}`.
fn literal(line: &[u8]) -> usize {
    let Some(open) = line.iter().rposition(|b| *b == b'{') else { return 0 };
    let inside = line[open + 1..].strip_suffix(b"}").unwrap_or_default();
    let digits = inside.strip_suffix(b"+").unwrap_or(inside);
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
