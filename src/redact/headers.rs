//! Values of header fields (RFC 9110), by the field's name; the same for HTTP/1, HTTP/2, trailers and parts.

use std::ops::Range;

use super::cloak::Escape;
use super::engine::Engine;
use super::kind::Kind;
use super::text::{self, Sort};
use super::{form, identity, names, patterns, target};

/// Works on the value of the field `name`, which is in lower case.
pub(super) fn value(engine: &mut Engine, name: &str, bytes: &mut [u8], range: Range<usize>) {
    if engine.is_allowed(name) {
        return;
    }
    match name {
        "authorization" | "proxy-authorization" => authorization(engine, bytes, range),
        "www-authenticate" | "proxy-authenticate" => {
            challenge(engine, bytes, range.clone());
            scan(engine, bytes, range);
        }
        "authentication-info" | "proxy-authentication-info" => {
            parameters(engine, bytes, range, |_| true);
        }
        "cookie" | "cookie2" => cookies(engine, bytes, range),
        "set-cookie" | "set-cookie2" => {
            // What follows the first are attributes.
            let end =
                bytes[range.clone()].iter().position(|b| *b == b';').map_or(range.end, |n| range.start + n);
            cookies(engine, bytes, range.start..end);
            // Such as Domain.
            scan(engine, bytes, end..range.end);
        }
        ":authority" | "host" | "x-forwarded-host" | "x-forwarded-server" | "x-original-host" | "x-host"
            if !engine.is_shape() =>
        {
            each(bytes, range.clone(), |bytes, host| identity::host(engine, bytes, host));
            scan(engine, bytes, range);
        }
        "x-forwarded-user" | "x-remote-user" | "remote-user" | "x-user" | "x-user-name" | "x-username"
            if engine.hides_names() =>
        {
            identity::user(engine, bytes, range);
        }
        // Versions look like addresses.
        "user-agent" | "server" | "sec-ch-ua" | "sec-ch-ua-full-version-list" if !engine.is_shape() => {
            engine.within(range.start, |engine| text::scan_program(engine, &mut bytes[range]));
        }
        ":path"
        | "location"
        | "referer"
        | "content-location"
        | "destination"
        | "x-original-url"
        | "x-original-uri"
        | "x-rewrite-url"
        | "x-forwarded-uri"
        | "x-envoy-original-path"
        | "x-request-uri" => {
            target::url(engine, bytes, range);
        }
        // Tokens are among the names of protocols, since browsers let scripts set no other field.
        "sec-websocket-protocol" => {
            each(bytes, range.clone(), |bytes, item| {
                let begin = bytes[item.clone()].iter().rposition(|b| *b == b'.').map_or(0, |dot| dot + 1);
                let last = item.start + begin..item.end;
                if patterns::is_random(&bytes[last.clone()]) {
                    engine.cloak(bytes, last, Kind::Random, Escape::Header);
                }
            });
            scan(engine, bytes, range);
        }
        // The names of a form's fields are structure, those of files are not.
        "content-disposition" if engine.is_shape() => {
            if let Some(at) = memchr::memmem::find(&bytes[range.clone()], b"filename") {
                let sign = bytes[range.start + at..range.end].iter().position(|b| *b == b'=');
                let begin = sign.map_or(range.end, |sign| range.start + at + sign + 1);
                engine.cloak(bytes, begin..range.end, Kind::Value, Escape::Header);
            }
        }
        _ if engine.is_secret_header(name) => engine.cloak(bytes, range, Kind::Header, Escape::Header),
        _ if engine.is_shape() && !names::is_structure(name) => {
            engine.cloak(bytes, range, Kind::Value, Escape::Header);
        }
        _ if names::is_public_header(name) => scan(engine, bytes, range),
        _ if patterns::is_random(&bytes[range.clone()]) => {
            engine.cloak(bytes, range, Kind::Random, Escape::Header);
        }
        _ => {
            scan(engine, bytes, range.clone());
            if memchr::memchr2(b'?', b'%', &bytes[range.clone()]).is_some() {
                form::value(engine, bytes, range);
            }
        }
    }
}

/// Each of a list with commas between.
fn each(bytes: &mut [u8], range: Range<usize>, mut work: impl FnMut(&mut [u8], Range<usize>)) {
    let mut at = range.start;
    while at < range.end {
        let end = memchr::memchr(b',', &bytes[at..range.end]).map_or(range.end, |len| at + len);
        let begin = at + bytes[at..end].iter().take_while(|b| **b == b' ').count();
        let len = bytes[begin..end].trim_ascii_end().len();
        work(bytes, begin..begin + len);
        at = end + 1;
    }
}

fn scan(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    engine.within(range.start, |engine| text::scan(engine, &mut bytes[range], Sort::Plain));
}

/// `name=value; name=value` (RFC 6265).
fn cookies(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let mut at = range.start;
    while at < range.end {
        let end = bytes[at..range.end].iter().position(|b| *b == b';').map_or(range.end, |len| at + len);
        let value = bytes[at..end].iter().position(|b| *b == b'=').map_or(at, |len| at + len + 1);
        engine.cloak(bytes, value..end, Kind::Cookie, Escape::Header);
        at = end + 1;
    }
}

/// Schemes (IANA's registry, and what else is in use) whose name may stay. With parameters, or without.
const SCHEMES: &[(&str, bool)] = &[
    ("basic", false),
    ("bearer", false),
    ("negotiate", false),
    ("ntlm", false),
    ("token", false),
    ("apikey", false),
    ("dpop", false),
    ("privatetoken", false),
    ("genie", false),
    ("digest", true),
    ("aws4-hmac-sha256", true),
    ("hoba", true),
    ("oauth", true),
    ("mutual", true),
    ("scram-sha-1", true),
    ("scram-sha-256", true),
    ("signature", true),
    ("hawk", true),
    ("vapid", true),
];

/// Parameters of credentials that are no secret.
const PUBLIC_PARAMETERS: [&[u8]; 9] =
    [b"realm", b"algorithm", b"qop", b"nc", b"uri", b"signedheaders", b"headers", b"charset", b"stale"];

/// Credentials (RFC 9110, section 11.4): what follows the scheme.
fn authorization(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let value = &bytes[range.clone()];
    let Some(space) = value.iter().position(|b| *b == b' ') else {
        return engine.cloak(bytes, range, Kind::Authorization, Escape::Header);
    };
    let scheme = String::from_utf8_lossy(&value[..space]).to_ascii_lowercase();
    let rest = range.start + space + 1..range.end;
    match SCHEMES.iter().find(|(name, _)| *name == scheme) {
        None => engine.cloak(bytes, range, Kind::Authorization, Escape::Header),
        Some((_, false)) => engine.cloak(bytes, rest, Kind::Authorization, Escape::Header),
        Some((_, true)) => parameters(engine, bytes, rest, |name| !PUBLIC_PARAMETERS.contains(&name)),
    }
}

/// A challenge (RFC 9110, section 11.6.1) holds nonces, and what Negotiate and NTLM say.
fn challenge(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>) {
    let value = bytes[range.clone()].to_ascii_lowercase();
    for scheme in [&b"negotiate "[..], b"ntlm "] {
        if value.starts_with(scheme) {
            return engine.cloak(
                bytes,
                range.start + scheme.len()..range.end,
                Kind::Authorization,
                Escape::Header,
            );
        }
    }
    parameters(engine, bytes, range, |name| [&b"nonce"[..], b"opaque", b"salt"].contains(&name));
}

/// `name="value", name=value`; those that `is_secret` says are replaced. One without a name is.
fn parameters(engine: &mut Engine, bytes: &mut [u8], range: Range<usize>, is_secret: impl Fn(&[u8]) -> bool) {
    let mut at = range.start;
    while at < range.end {
        let mut quoted = false;
        let len = bytes[at..range.end].iter().position(|b| {
            quoted ^= *b == b'"';
            *b == b',' && !quoted
        });
        let end = len.map_or(range.end, |len| at + len);
        let sign = bytes[at..end].iter().position(|b| *b == b'=').map_or(end, |len| at + len);
        // In a challenge the scheme may stand in front.
        let name = bytes[at..sign].trim_ascii().to_ascii_lowercase();
        let name = name.rsplit(|b| *b == b' ').next().unwrap_or_default();
        if sign == end {
            if is_secret(b"") {
                engine.cloak(bytes, at..end, Kind::Authorization, Escape::Header);
            }
        } else if name == b"credential" {
            // An access key's id; what follows is date, region and service.
            let stop = bytes[sign..end].iter().position(|b| *b == b'/').map_or(end, |len| sign + len);
            engine.cloak(bytes, sign + 1..stop, Kind::Authorization, Escape::Header);
        } else if name == b"uri" {
            target::url(engine, bytes, sign + 1..end);
        } else if is_secret(name) {
            engine.cloak(bytes, sign + 1..end, Kind::Authorization, Escape::Header);
        }
        at = end + 1;
    }
}
