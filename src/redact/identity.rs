//! Addresses, host names and user names wherever they are, if they are to have pseudonyms. All keep their length, in HPACK's Huffman
//! code too.
//!
//! A host name is replaced label by label, each by what the labels behind it and the key say, so that hosts of one domain stay
//! hosts of one domain. The last label of several stays.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use memchr::{memchr_iter, memmem};

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::text::Sort;

/// Longest name of a host (RFC 1035, section 3.1), and of an IPv6 address in text.
const NAME_MAX: usize = 255;
const SIX_MAX: usize = 45;

/// Last labels by which a name with dots is taken for a host's in text: names that end in others are as often those of files or
/// members.
const LAST_LABELS: [&str; 48] = [
    "com",
    "net",
    "org",
    "edu",
    "gov",
    "mil",
    "int",
    "info",
    "biz",
    "io",
    "dev",
    "app",
    "cloud",
    "internal",
    "local",
    "lan",
    "corp",
    "intranet",
    "home",
    "private",
    "localdomain",
    "example",
    "test",
    "invalid",
    "arpa",
    "eu",
    "de",
    "fr",
    "uk",
    "nl",
    "ch",
    "at",
    "it",
    "es",
    "se",
    "no",
    "dk",
    "fi",
    "cz",
    "jp",
    "cn",
    "kr",
    "br",
    "ca",
    "au",
    "us",
    "ru",
    "ua",
];

/// Where folders of users are.
const HOMES: [&[u8]; 5] = [b"/home/", b"/Users/", b"\\Users\\", b"\\\\Users\\\\", b"/~"];

/// Folders there that are nobody's.
const SHARED: [&[u8]; 4] = [b"Shared", b"Public", b"Default", b"linuxbrew"];

/// Works on a piece of text.
pub(super) fn scan(engine: &mut Engine, bytes: &mut [u8], sort: Sort) {
    if engine.hides_names() {
        urls(engine, bytes);
        homes(engine, bytes);
        if sort != Sort::Code {
            names(engine, bytes);
        }
    }
    if engine.hides_addresses() {
        // What ends in an IPv4 address before that.
        colons(engine, bytes);
        fours(engine, bytes);
    }
}

/// Works on what is known for a host, maybe with its port: `a.example:443`, `[::1]:80`, `10.0.0.5`.
pub(super) fn host(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let text = &bytes[range.clone()];
    if text.starts_with(b"[") {
        let end = text.iter().position(|b| *b == b']').unwrap_or(text.len());
        return address(engine, bytes, range.start + 1..range.start + end.max(1));
    }
    let port = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let colon = text.len() - port;
    let end = match colon > 0 && text[colon - 1] == b':' && memchr_iter(b':', text).count() == 1 {
        true => range.start + colon - 1,
        false => range.end,
    };
    match is_address(&bytes[range.start..end]) {
        true => address(engine, bytes, range.start..end),
        false => name(engine, bytes, range.start..end),
    }
}

/// Works on what is known for the name of a user.
pub(super) fn user(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    if engine.hides_names() {
        engine.cloak(bytes, range, Kind::Name, Escape::Header);
    }
}

/// Works on four numbers with commas between, as of FTP (RFC 959, section 5.3.2): the last four of six are an address and a port.
pub(super) fn commas(engine: &mut Engine, bytes: &mut [u8]) {
    if !engine.hides_addresses() {
        return;
    }
    let Some(begin) = bytes.iter().position(u8::is_ascii_digit) else { return };
    let part = |b: &u8| b.is_ascii_digit() || *b == b',';
    let len = bytes[begin..].iter().take_while(|b| part(b)).count();
    let numbers: Vec<&[u8]> = bytes[begin..begin + len].split(|b| *b == b',').collect();
    let octet = |text: &&[u8]| str::from_utf8(text).ok().and_then(|text| text.parse::<u8>().ok());
    let (6, Some(octets)) = (numbers.len(), numbers[..4].iter().map(octet).collect::<Option<Vec<u8>>>())
    else {
        return;
    };
    let end = begin + numbers[..4].iter().map(|number| number.len() + 1).sum::<usize>() - 1;
    let Some(octets) = octets.first_chunk::<4>() else { return };
    let new = Ipv4Addr::from(engine.addresses().v4(*octets)).to_string().replace('.', ",");
    put(engine, bytes, begin..end, new.as_bytes(), Kind::Address);
}

/// Puts a pseudonym in its place, unless it is there. What is of another length is replaced like a value.
fn put(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, new: &[u8], kind: Kind) {
    if new.len() == range.len() {
        engine.place(bytes, range.start, new, kind);
    } else {
        engine.cloak(bytes, range, kind, Escape::Header);
    }
}

fn is_address(text: &[u8]) -> bool {
    let text = str::from_utf8(text).unwrap_or_default();
    text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok()
}

/// Works on an address, which may have a zone.
fn address(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    if !engine.hides_addresses() {
        return;
    }
    let zone = bytes[range.clone()].iter().position(|b| *b == b'%').unwrap_or(range.len());
    let range = range.start..range.start + zone;
    let text = String::from_utf8_lossy(&bytes[range.clone()]).into_owned();
    if let Ok(four) = text.parse::<Ipv4Addr>() {
        let new = Ipv4Addr::from(engine.addresses().v4(four.octets())).to_string();
        put(engine, bytes, range, new.as_bytes(), Kind::Address);
    } else if let Ok(six) = text.parse::<Ipv6Addr>() {
        let new = Ipv6Addr::from(engine.addresses().v6(six.octets()));
        let new = spelled(&text, new);
        put(engine, bytes, range, new.as_bytes(), Kind::Address);
    }
}

/// An IPv6 address, spelled as another one is: with the same groups, zeros and letters.
fn spelled(like: &str, address: Ipv6Addr) -> String {
    let segments = address.segments();
    let is_upper = like.bytes().any(|b| b.is_ascii_uppercase());
    let (front, back) = like.split_once("::").map_or((like, ""), |(front, back)| (front, back));
    let groups = |text: &str| text.split(':').map(|g| if g.contains('.') { 2 } else { 1 }).sum::<usize>();
    let spell = |text: &str, mut at: usize| {
        let mut out = Vec::new();
        for group in text.split(':') {
            if group.contains('.') {
                let [.., a, b, c, d] = address.octets();
                out.push(format!("{a}.{b}.{c}.{d}"));
            } else {
                let segment = segments.get(at).copied().unwrap_or(0);
                out.push(match is_upper {
                    true => format!("{segment:0len$X}", len = group.len()),
                    false => format!("{segment:0len$x}", len = group.len()),
                });
            }
            at += 1;
        }
        out.join(":")
    };
    let mut out = if front.is_empty() { String::new() } else { spell(front, 0) };
    if like.contains("::") {
        out += "::";
        if !back.is_empty() {
            out += &spell(back, 8usize.saturating_sub(groups(back)));
        }
    }
    out
}

/// Works on the name of a host.
fn name(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    if let Some(new) = host_labels(engine, &bytes[range.clone()]) {
        engine.place(bytes, range.start, &new, Kind::Name);
    }
}

/// The pseudonym of a host's name; `None`: it stays.
pub(super) fn host_labels(engine: &Engine, text: &[u8]) -> Option<Vec<u8>> {
    let lower = text.to_ascii_lowercase();
    let is_local = lower == b"localhost" || lower.ends_with(b".localhost");
    if !engine.hides_names() || is_local || text.is_empty() || !text.iter().any(u8::is_ascii_alphabetic) {
        return None;
    }
    let mut new = text.to_vec();
    let dots: Vec<usize> =
        memchr_iter(b'.', text.trim_ascii_end()).filter(|at| at + 1 < text.len()).collect();
    let mut at = 0;
    for end in dots.iter().copied().chain(dots.is_empty().then_some(text.len())) {
        if &lower[at..end] != b"*" {
            // What is behind it, as it was.
            engine.label(&mut new[at..end], &lower[end..]);
        }
        at = end + 1;
    }
    Some(new)
}

/// The labels of a name that stands for an address or a network, the last number first: of `5.0.0.10.in-addr.arpa`, and of
/// `ip6.arpa` (RFC 1035, section 3.5; RFC 3596, section 2.5). `None`: it stands for none.
pub(super) fn reversed(engine: &Engine, labels: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
    let [numbers @ .., zone, arpa] = labels else { return None };
    if !arpa.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let number = |label: &&[u8], radix| u8::from_str_radix(str::from_utf8(label).ok()?, radix).ok();
    let mut new: Vec<Vec<u8>> = if zone.eq_ignore_ascii_case(b"in-addr") && numbers.len() <= 4 {
        let mut four = [0; 4];
        for (own, label) in four.iter_mut().zip(numbers.iter().rev()) {
            *own = number(label, 10)?;
        }
        let hides = engine.hides_addresses();
        let four = if hides { engine.addresses().v4(four) } else { four };
        four[..numbers.len()].iter().rev().map(|own| own.to_string().into_bytes()).collect()
    } else if zone.eq_ignore_ascii_case(b"ip6") && numbers.len() <= 32 {
        let mut six = [0; 16];
        for (i, label) in numbers.iter().rev().enumerate() {
            let digit = number(label, 16).filter(|digit| *digit < 16)?;
            six[i / 2] |= digit << (4 * (1 - i % 2));
        }
        let six = if engine.hides_addresses() { engine.addresses().v6(six) } else { six };
        let digits: Vec<u8> = six.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
        digits[..numbers.len()].iter().rev().map(|digit| format!("{digit:x}").into_bytes()).collect()
    } else {
        return None;
    };
    new.extend([zone.to_vec(), arpa.to_vec()]);
    Some(new)
}

/// Hosts in URLs.
fn urls(engine: &mut Engine, bytes: &mut [u8]) {
    let mut starts: Vec<usize> = memmem::find_iter(bytes, b"://").map(|at| at + 3).collect();
    // In JSON, and in the value of a parameter.
    starts.extend(memmem::find_iter(bytes, br":\/\/").map(|at| at + 5));
    starts.extend(memmem::find_iter(bytes, b"%3A%2F%2F").map(|at| at + 9));
    for start in starts {
        let is_host = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$'()*+,;=:[]@".contains(b) || *b >= 0x80;
        let end = start + bytes[start..].iter().take(NAME_MAX * 2).take_while(|b| is_host(b)).count();
        let user = bytes[start..end].iter().rposition(|b| *b == b'@').map_or(0, |at| at + 1);
        let is_part = |b: &u8| !b"!$'()+,;=".contains(b);
        let len = bytes[start + user..end].iter().take_while(|b| is_part(b)).count();
        let mut end = start + user + len;
        // The end of a sentence.
        while end > start + user && matches!(bytes[end - 1], b'.' | b':') {
            end -= 1;
        }
        host(engine, bytes, start + user..end);
    }
}

/// Users in paths of their folders.
fn homes(engine: &mut Engine, bytes: &mut [u8]) {
    for home in HOMES {
        let starts: Vec<usize> = memmem::find_iter(bytes, home).map(|at| at + home.len()).collect();
        for start in starts {
            let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b) || *b >= 0x80;
            let len = bytes[start..].iter().take(64).take_while(|b| is_name(b)).count();
            if len > 0 && !SHARED.contains(&&bytes[start..start + len]) {
                user(engine, bytes, start..start + len);
            }
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Names of hosts in text: with dots, and a last label that is one of hosts.
fn names(engine: &mut Engine, bytes: &mut [u8]) {
    let dots: Vec<usize> = memchr_iter(b'.', bytes).collect();
    let mut done = 0;
    for dot in dots {
        if dot < done {
            continue;
        }
        let before = bytes[done..dot].iter().rev().take(NAME_MAX).take_while(|b| is_name(**b)).count();
        let after = bytes[dot..].iter().take(NAME_MAX).take_while(|b| is_name(**b)).count();
        let mut start = dot - before;
        let mut end = dot + after;
        done = end.max(dot + 1);
        // An escape in front of it.
        if start > 0 && bytes[start - 1] == b'\\' && before > 1 {
            start += 1;
        } else if start > 0 && bytes[start - 1] == b'%' && before > 2 {
            start += 2;
        }
        while end > start && matches!(bytes[end - 1], b'.' | b'-') {
            end -= 1;
        }
        while start < end && matches!(bytes[start], b'.' | b'-') {
            start += 1;
        }
        let last = bytes[start..end].rsplit(|b| *b == b'.').next().unwrap_or_default().to_ascii_lowercase();
        let is_host =
            bytes[start..end].contains(&b'.') && LAST_LABELS.iter().any(|label| last == label.as_bytes());
        if is_host {
            name(engine, bytes, start..end);
        }
    }
}

/// IPv4 addresses in text.
fn fours(engine: &mut Engine, bytes: &mut [u8]) {
    let mut done = 0;
    for dot in memchr_iter(b'.', bytes).collect::<Vec<_>>() {
        if dot < done {
            continue;
        }
        let part = |b: &u8| b.is_ascii_digit() || *b == b'.';
        let before = bytes[done..dot].iter().rev().take(4).take_while(|b| b.is_ascii_digit()).count();
        let after = bytes[dot..].iter().take(64).take_while(|b| part(b)).count();
        let (start, mut end) = (dot - before, dot + after);
        done = end;
        while end > start && bytes[end - 1] == b'.' {
            end -= 1;
        }
        // What is a part of a word is none, nor is the version of a program.
        let ends = !bytes.get(end).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
        if (1..=3).contains(&before) && ends && begins(bytes, start) && is_address(&bytes[start..end]) {
            address(engine, bytes, start..end);
        }
    }
}

/// Whether a word can begin there: behind no letter, unless that is of an escape.
fn begins(bytes: &[u8], start: usize) -> bool {
    match &bytes[..start] {
        [.., b'\\', _] | [.., b'%', _, _] => true,
        [.., before] => !before.is_ascii_alphanumeric() && *before != b'_',
        [] => true,
    }
}

/// IPv6 addresses in text, and those of hardware.
fn colons(engine: &mut Engine, bytes: &mut [u8]) {
    let is_part = |b: u8| b.is_ascii_hexdigit() || b == b':' || b == b'.';
    let mut done = 0;
    for colon in memchr_iter(b':', bytes).collect::<Vec<_>>() {
        if colon < done {
            continue;
        }
        let before = bytes[done..colon].iter().rev().take(5).take_while(|b| b.is_ascii_hexdigit()).count();
        let after = bytes[colon..].iter().take(SIX_MAX + 1).take_while(|b| is_part(**b)).count();
        let mut start = colon - before;
        let mut end = colon + after;
        done = end;
        while end > colon + 1
            && (bytes[end - 1] == b'.' || (bytes[end - 1] == b':' && bytes[end - 2] != b':'))
        {
            end -= 1;
        }
        // `\n` and `%20` in front of it may look like digits of it.
        if start > 0 && bytes[start - 1] == b'\\' && before > 0 {
            start += 1;
        } else if start > 0 && bytes[start - 1] == b'%' && before > 1 {
            start += 2;
        }
        let ends = !bytes.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        if !ends || !begins(bytes, start) {
            continue;
        }
        if hardware(&bytes[start..end]).is_some() {
            self::mac(engine, bytes, start..end);
        } else if memchr_iter(b':', &bytes[start..end]).count() > 1 && is_address(&bytes[start..end]) {
            address(engine, bytes, start..end);
        }
    }
}

/// Six bytes in hexadecimal with colons between.
fn hardware(text: &[u8]) -> Option<[u8; 6]> {
    let mut out = [0; 6];
    if text.len() != 17 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.split(|b| *b == b':')) {
        *byte = str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())?;
    }
    Some(out)
}

fn mac(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let Some(own) = hardware(&bytes[range.clone()]) else { return };
    let is_upper = bytes[range.clone()].iter().any(u8::is_ascii_uppercase);
    let new: Vec<String> = engine.addresses().mac(own).iter().map(|byte| format!("{byte:02x}")).collect();
    let new = new.join(":");
    let new = if is_upper { new.to_ascii_uppercase() } else { new };
    put(engine, bytes, range, new.as_bytes(), Kind::Address);
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
