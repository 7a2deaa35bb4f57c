//! Which names of headers and fields mean a secret, and which of headers mean none.

use std::sync::OnceLock;

use super::arguments::{self, is_secret_name};

/// Headers whose value is replaced whole.
const SECRET_HEADERS: &[&str] = &[
    "x-goog-iap-jwt-assertion",
    "x-amz-security-token",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-csrftoken",
    "x-xsrf-token",
    "x-ms-client-principal",
    "cf-access-jwt-assertion",
    "cf-access-client-secret",
    "x-forwarded-client-cert",
    "x-plex-token",
    "x-shopify-access-token",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-slack-signature",
    "stripe-signature",
    "x-gitlab-token",
    "x-key",
    "sec-websocket-protocol-token",
    "x-postmark-server-token",
    "apikey",
    "api-key",
    "dpop",
];

/// Headers whose value is public by what it means, however random it looks.
const PUBLIC_HEADERS: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-patch",
    "accept-post",
    "accept-ranges",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "access-control-request-headers",
    "access-control-request-method",
    "age",
    "allow",
    "alt-svc",
    "cache-control",
    "cf-cache-status",
    "cf-ray",
    "connection",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-range",
    "content-security-policy",
    "content-security-policy-report-only",
    "content-type",
    "date",
    "digest",
    "etag",
    "expect",
    "expires",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-status",
    "grpc-timeout",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "max-forwards",
    "nel",
    "origin",
    "permissions-policy",
    "pragma",
    "priority",
    "range",
    "report-to",
    "repr-digest",
    "retry-after",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "server",
    "server-timing",
    "strict-transport-security",
    "te",
    "timing-allow-origin",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "vary",
    "via",
    "warning",
    "x-content-type-options",
    "x-frame-options",
    "x-xss-protection",
    ":authority",
    ":method",
    ":protocol",
    ":scheme",
    ":status",
];

/// What Wireshark needs to take messages apart, and what is structure: stays with `--level shape`.
const STRUCTURE_HEADERS: &[&str] = &[
    ":method",
    ":protocol",
    ":scheme",
    ":status",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "grpc-encoding",
    "grpc-status",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "sec-websocket-extensions",
    "sec-websocket-version",
];

/// Words of fields that mean a secret, beside those of command lines.
const FIELDS: &[&str] = &[
    "csrf",
    "xsrf",
    "csrfmiddlewaretoken",
    "cvv",
    "cvc",
    "cvv2",
    "ssn",
    "iban",
    "pan",
    "cardnumber",
    "accountnumber",
    "samlresponse",
    "samlrequest",
    "assertion",
    "verifier",
    "passcode",
    "passwords",
    "mfa",
    "totp",
    "pwhash",
    "sas",
    "viewstate",
    "eventvalidation",
    "logintoken",
    "accesstoken",
];

/// Words that mean a secret if they end in one of these.
const ENDS: &[&str] = &[
    "sessid",
    "sessionid",
    "sessionkey",
    "csrftoken",
    "privatekey",
    "secretkey",
    "accesskey",
    "passwort",
    "kennwort",
];

/// Last words of names of what belongs to a secret, and is none.
const ABOUT: &[&str] = &[
    "arn",
    "name",
    "uri",
    "endpoint",
    "count",
    "length",
    "description",
    "policy",
    "label",
    "hint",
    "placeholder",
];

/// Whether a header of this name, in lower case, is replaced whole.
pub(super) fn is_secret_header(name: &str) -> bool {
    // Of gRPC, fields that end so hold bytes that nobody knows.
    SECRET_HEADERS.contains(&name)
        || name.ends_with("-bin")
        || (is_secret_field(name) && !is_public_header(name))
}

/// Whether a header's value says nothing secret, however it looks.
pub(super) fn is_public_header(name: &str) -> bool {
    PUBLIC_HEADERS.contains(&name)
}

/// Whether a header is structure.
pub(super) fn is_structure(name: &str) -> bool {
    STRUCTURE_HEADERS.contains(&name)
}

/// Three letters, of which the rarest of each word that means a secret are remembered, so that most names need no more than a
/// look.
struct Hints([u64; HINTS / 64]);

const HINTS: usize = 1 << 12;

impl Hints {
    fn of(words: impl Iterator<Item = &'static str>) -> Hints {
        // From the most frequent letter of English to the rarest.
        let rank = |byte: u8| b"etaoinshrdlcumwfgypbvkjxqz".iter().position(|b| *b == byte).unwrap_or(26);
        let mut hints = Hints([0; HINTS / 64]);
        for word in words {
            let rarest =
                word.as_bytes().windows(3).max_by_key(|three| three.iter().map(|b| rank(*b)).sum::<usize>());
            if let Some([a, b, c]) = rarest {
                let at = Hints::at(*a, *b, *c);
                hints.0[at / 64] |= 1 << (at % 64);
            }
        }
        hints
    }

    fn at(a: u8, b: u8, c: u8) -> usize {
        let word = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
        (word.wrapping_mul(0x9e37_79b1) >> 20) as usize
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & 1 << (at % 64) != 0
    }
}

/// Whether a name can be that of a secret at all; quick, and wrong for few names that are none.
pub(super) fn may_be_secret_field(name: &[u8]) -> bool {
    static ALL: OnceLock<Hints> = OnceLock::new();
    let hints = ALL.get_or_init(|| {
        // `key` is one together with the word before it.
        let words = [arguments::NAMES, arguments::ENDS, FIELDS, ENDS, &["key"]];
        Hints::of(words.into_iter().flatten().copied())
    });
    let (mut a, mut b) = (0, 0);
    name.iter().any(|byte| {
        let c = byte.to_ascii_lowercase();
        let is_hint = hints.has(Hints::at(a, b, c)) || (b == b'p' && c == b'w');
        (a, b) = (b, c);
        // Letters beyond ASCII may have lower case within.
        is_hint || !byte.is_ascii()
    })
}

/// Whether a field of a query, a form, JSON, XML or multipart is a secret.
pub(super) fn is_secret_field(name: &str) -> bool {
    let capital = name.rfind(|c: char| c.is_ascii_uppercase() || !c.is_ascii_alphanumeric()).unwrap_or(0);
    let last = name[capital..].trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if ABOUT.iter().any(|about| last.eq_ignore_ascii_case(about)) {
        return false;
    }
    if is_secret_name(name) {
        return true;
    }
    let lower = name.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let last_is_place = lower.ends_with("url") || lower.ends_with("file") || lower.ends_with("type");
    !last_is_place && words.any(|w| FIELDS.contains(&w) || ENDS.iter().any(|end| w.ends_with(end)))
}

/// Last words of names of fields that hold a user's name.
const USERS: &[&str] = &[
    "user",
    "username",
    "login",
    "loginname",
    "userid",
    "nickname",
    "firstname",
    "lastname",
    "surname",
    "fullname",
    "displayname",
    "owner",
    "principal",
    "hostname",
];

/// Whether a field of this name holds the name of a user or host.
pub(super) fn is_user_field(name: &str) -> bool {
    let joined: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if USERS.contains(&joined.as_str()) {
        return true;
    }
    let capital = name.rfind(|c: char| c.is_ascii_uppercase() || !c.is_ascii_alphanumeric()).unwrap_or(0);
    let last = name[capital..].trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    USERS.iter().any(|user| last.eq_ignore_ascii_case(user)) || joined.ends_with("username")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for name in [
            "password",
            "userPassword",
            "access_token",
            "X-Api-Key",
            "PHPSESSID",
            "csrfToken",
            "client_secret",
            "card_cvv",
            "__VIEWSTATE",
        ] {
            assert!(is_secret_field(name) && may_be_secret_field(name.as_bytes()), "{name}");
        }
        let words = [arguments::NAMES, arguments::ENDS, FIELDS, ENDS].concat();
        for name in words {
            assert!(may_be_secret_field(name.as_bytes()), "{name}");
            assert!(may_be_secret_field(format!("X_{}9", name.to_uppercase()).as_bytes()), "{name}");
        }
        assert!(may_be_secret_field(b"apiKey") && !may_be_secret_field(b"description"));
        for name in [
            "name",
            "id",
            "token_type",
            "max_tokens",
            "author",
            "path",
            "keywords",
            "secretName",
            "secret_arn",
            "description",
            "monkey",
            "key_id",
            "expires_in",
        ] {
            assert!(!is_secret_field(name), "{name}");
        }
        assert!(is_secret_header("x-auth-token") && is_secret_header("private-token"));
        assert!(!is_secret_header("sec-websocket-key") && !is_secret_header("content-type"));
    }
}
