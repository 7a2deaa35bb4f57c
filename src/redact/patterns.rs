//! Secrets that show what they are wherever they stand. Fields are found by parsers; this comes on top.
//!
//! After a prefix any letter counts, since a replacement may have other ones than the format allows.

use regex::bytes::Regex;

/// A format of tokens.
struct Format {
    /// Begins it, and stays.
    prefix: &'static str,
    /// Fewest characters after that.
    least: usize,
}

type Giver = (&'static str, &'static str, &'static [(&'static str, usize)]);

/// Who gives out the tokens, where that is documented, their prefixes, and the fewest characters after these.
const FORMATS: &[Giver] = &[
    (
        "GitHub",
        "https://docs.github.com/authentication/keeping-your-account-and-data-secure/about-authentication-to-github#githubs-token-formats",
        &[("ghp_", 30), ("gho_", 30), ("ghu_", 30), ("ghs_", 30), ("ghr_", 30), ("github_pat_", 22)],
    ),
    (
        "GitLab",
        "https://docs.gitlab.com/security/tokens/#token-prefixes",
        &[
            ("glpat-", 20),
            ("gloas-", 20),
            ("gldt-", 20),
            ("glrt-", 20),
            ("glcbt-", 20),
            ("glptt-", 20),
            ("glft-", 20),
            ("glimt-", 20),
            ("glagent-", 20),
            ("glsoat-", 20),
            ("glffct-", 20),
        ],
    ),
    (
        "AWS access key",
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids",
        &[("AKIA", 16), ("ASIA", 16), ("ABIA", 16), ("ACCA", 16)],
    ),
    (
        "Google",
        "https://cloud.google.com/docs/authentication/api-keys and https://developers.google.com/identity/protocols/oauth2",
        &[("AIza", 35), ("GOCSPX-", 20), ("ya29.", 20)],
    ),
    (
        "Slack",
        "https://api.slack.com/authentication/token-types",
        &[
            ("xoxb-", 10),
            ("xoxp-", 10),
            ("xoxa-", 10),
            ("xoxr-", 10),
            ("xoxs-", 10),
            ("xoxe-", 10),
            ("xoxe.", 10),
            ("xapp-", 10),
        ],
    ),
    (
        "Stripe",
        "https://docs.stripe.com/keys",
        &[("sk_live_", 16), ("sk_test_", 16), ("rk_live_", 16), ("rk_test_", 16), ("whsec_", 24)],
    ),
    ("npm", "https://docs.npmjs.com/about-access-tokens", &[("npm_", 36)]),
    ("PyPI", "https://pypi.org/help/#apitoken", &[("pypi-", 50)]),
    ("RubyGems", "https://guides.rubygems.org/api-key-scopes/", &[("rubygems_", 40)]),
    ("Anthropic", "https://docs.anthropic.com/en/api/overview", &[("sk-ant-", 20)]),
    ("OpenAI", "https://platform.openai.com/docs/api-reference/authentication", &[("sk-", 32)]),
    ("Hugging Face", "https://huggingface.co/docs/hub/security-tokens", &[("hf_", 30)]),
    (
        "DigitalOcean",
        "https://docs.digitalocean.com/reference/api/create-personal-access-token/",
        &[("dop_v1_", 60), ("doo_v1_", 60), ("dor_v1_", 60)],
    ),
    ("SendGrid", "https://docs.sendgrid.com/ui/account-and-settings/api-keys", &[("SG.", 60)]),
    ("Twilio", "https://www.twilio.com/docs/iam/api-keys", &[("SK0", 31), ("SK1", 31), ("SK2", 31)]),
    (
        "Shopify",
        "https://shopify.dev/docs/apps/build/authentication-authorization",
        &[("shpat_", 32), ("shpca_", 32), ("shppa_", 32), ("shpss_", 32)],
    ),
    ("Docker", "https://docs.docker.com/security/access-tokens/", &[("dckr_pat_", 20)]),
    (
        "HashiCorp Vault",
        "https://developer.hashicorp.com/vault/docs/concepts/tokens",
        &[("hvs.", 20), ("hvb.", 20)],
    ),
    ("Databricks", "https://docs.databricks.com/dev-tools/auth/pat", &[("dapi", 32)]),
    (
        "Grafana",
        "https://grafana.com/docs/grafana/latest/administration/service-accounts/",
        &[("glsa_", 32), ("glc_", 32)],
    ),
    (
        "Linear",
        "https://developers.linear.app/docs/graphql/working-with-the-graphql-api",
        &[("lin_api_", 32)],
    ),
    (
        "Atlassian",
        "https://support.atlassian.com/atlassian-account/docs/manage-api-tokens-for-your-atlassian-account/",
        &[("ATATT3", 50)],
    ),
    (
        "Square",
        "https://developer.squareup.com/docs/build-basics/access-tokens",
        &[("sq0atp-", 20), ("sq0csp-", 20)],
    ),
    ("age", "https://github.com/FiloSottile/age", &[("AGE-SECRET-KEY-1", 50)]),
    ("Sentry", "https://docs.sentry.io/account/auth-tokens/", &[("sntrys_", 32), ("sntryu_", 32)]),
];

/// Compiled patterns.
pub(super) struct Patterns {
    /// All of [`FORMATS`], and JSON Web Tokens (RFC 7519: three parts, the first an object, so `eyJ`).
    pub(super) tokens: Regex,
    /// The user's.
    pub(super) own: Vec<Regex>,
}

/// The public header, and at least something of the claims.
const JWT: &str = r"eyJ[0-9A-Za-z_-]{5,}\.[0-9A-Za-z_-]{2,}\.?[0-9A-Za-z_-]*(?:\.[0-9A-Za-z_-]+)*";

fn formats() -> impl Iterator<Item = Format> {
    FORMATS.iter().flat_map(|(_, _, all)| all.iter()).map(|(prefix, least)| Format { prefix, least: *least })
}

impl Patterns {
    pub(super) fn new(own: Vec<Regex>) -> Patterns {
        let formats =
            formats().map(|f| format!(r"{}[0-9A-Za-z_.-]{{{},}}", regex::escape(f.prefix), f.least));
        let all: Vec<String> = formats.chain([JWT.to_owned()]).collect();
        // What is compiled is fixed, and tests compile it.
        let tokens = Regex::new(&format!("(?-u){}", all.join("|")));
        Patterns { tokens: tokens.unwrap_or_else(|error| unreachable!("{error}")), own }
    }
}

/// Length of what begins a token and says what it is: the prefix of a known format, the header of a JSON Web Token.
pub(super) fn public_prefix(value: &[u8]) -> usize {
    if value.starts_with(b"eyJ") {
        let is_part =
            |part: &[u8]| part.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let mut parts = value.split(|b| *b == b'.');
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        if first.len() >= 8 && is_part(first) && second.is_some_and(|part| part.len() >= 2 && is_part(part)) {
            return first.len() + 1;
        }
    }
    let fits = |f: &Format| {
        value.starts_with(f.prefix.as_bytes())
            && value.len() >= f.prefix.len() + f.least
            && value.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    formats().filter(fits).map(|f| f.prefix.len()).max().unwrap_or(0)
}

/// Length of the card number that begins here, with its single spaces or dashes: digits of a network's range
/// (ISO/IEC 7812; the ranges as the networks publish them) that pass Luhn's check.
pub(super) fn card(text: &[u8]) -> Option<usize> {
    let mut digits = [0u8; 20];
    let (mut count, mut at, mut end) = (0, 0, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'0'..=b'9' if count < 20 => {
                digits[count] = byte - b'0';
                count += 1;
                end = at + 1;
            }
            b' ' | b'-' if at == end && count > 0 => {}
            _ => break,
        }
        at += 1;
    }
    if text.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
        return None;
    }
    let number = &digits[..count];
    let lead = number.iter().take(4).fold(0u32, |n, d| n * 10 + u32::from(*d));
    let known = matches!(
        (lead, count),
        (4000..=4999, 13 | 16 | 19)
            | (5100..=5599 | 2221..=2720 | 3528..=3589, 16)
            | (3400..=3499 | 3700..=3799, 15)
            | (3000..=3059 | 3600..=3699 | 3800..=3999, 14)
            | (6011 | 6440..=6599 | 6200..=6299, 16..=19)
    );
    (known && luhn(number)).then_some(end)
}

fn luhn(digits: &[u8]) -> bool {
    let double = |d: u8| if d > 4 { d * 2 - 9 } else { d * 2 };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| u32::from(if i % 2 == 1 { double(*d) } else { *d }))
        .sum();
    sum.is_multiple_of(10)
}

/// Whether a value looks drawn at random: at least 20 characters of Base64 or hexadecimal digits that change their class
/// as often as chance does, as identifiers and words do not.
pub(super) fn is_random(value: &[u8]) -> bool {
    if value.len() < 20 {
        return false;
    }
    let class = |b: u8| match b {
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        b'0'..=b'9' => 3,
        b'+' | b'/' | b'-' | b'_' | b'=' | b'.' | b'%' => 4,
        _ => 0u8,
    };
    let mut seen = [0usize; 5];
    let mut changes = 0;
    let mut last = 0;
    for byte in value {
        let class = class(*byte);
        if class == 0 {
            return false;
        }
        seen[usize::from(class)] += 1;
        changes += usize::from(class != last && class != 4 && last != 4);
        last = class;
    }
    let letters = seen[1] + seen[2];
    // A UUID or a hash, or Base64.
    let hexadecimal =
        value.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-') && seen[3] >= 4 && letters >= 4;
    let mixed = seen[1] >= 3 && seen[2] >= 3 && seen[3] >= 1 && seen[4] * 6 <= value.len();
    (hexadecimal && changes * 4 >= value.len()) || (mixed && changes * 10 >= value.len() * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_formats_are_found() {
        let patterns = Patterns::new(vec![]);
        for (_, source, all) in FORMATS {
            assert!(source.starts_with("https://"), "{source}");
            for (prefix, least) in *all {
                let token = format!("{prefix}{}", "a1B2".repeat(20).get(..*least).unwrap());
                let text = format!("see {token}\" end");
                let found = patterns.tokens.find(text.as_bytes()).map(|m| m.range());
                assert_eq!(found, Some(4..4 + token.len()), "{token}");
                assert!(public_prefix(token.as_bytes()) >= prefix.len(), "{token}");
            }
        }
        let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln";
        assert_eq!(public_prefix(jwt.as_bytes()), 20);
        assert!(patterns.tokens.is_match(jwt.as_bytes()));
    }

    #[test]
    fn cards_are_checked() {
        for number in ["4111111111111111", "4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"] {
            assert_eq!(card(number.as_bytes()), Some(number.len()), "{number}");
        }
        for number in ["4111111111111112", "1234567890123456", "41111111111111110000000", "4111111111111111a"]
        {
            assert_eq!(card(number.as_bytes()), None, "{number}");
        }
    }

    #[test]
    fn random_values_are_told_from_names() {
        for value in [
            "hT9x2KqLm4Zp8VbN1cYw",
            "9f86d081884c7d659a2feaa0c55ad015",
            "4f9c2b1e-8d3a-4c6b-9e7f-1a2b3c4d5e6f",
        ] {
            assert!(is_random(value.as_bytes()), "{value}");
        }
        for value in [
            "application-settings-page",
            "AbstractSingletonProxyFactoryBean",
            "20261130084810123456",
            "short1A",
        ] {
            assert!(!is_random(value.as_bytes()), "{value}");
        }
    }
}
