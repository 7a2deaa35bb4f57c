//! Finds a library's version among its constants.

use memchr::memmem;

/// Longest version that is believed, in bytes.
const VERSION_MAX: usize = 40;

/// The first text such as `OpenSSL 3.0.17 1 Jul 2025` in the bytes, without its date; else one such as
/// `AWS-LC 5.12.0`.
pub(super) fn scan(constants: &[u8]) -> Option<String> {
    for at in memmem::find_iter(constants, b"SSL ") {
        let number = at + 4;
        let Some(name) =
            ["OpenSSL", "LibreSSL"].into_iter().find(|n| constants[..number - 1].ends_with(n.as_bytes()))
        else {
            continue;
        };
        let Some(version) = number_at(&constants[number..]) else { continue };
        // BoringSSL calls itself "OpenSSL 1.1.1 (compatible; BoringSSL)", and AWS-LC did so too.
        let rest = &constants[number + version.len()..];
        if rest.starts_with(b" (compatible; BoringSSL") {
            return Some("BoringSSL".to_owned());
        }
        if rest.starts_with(b" (compatible; AWS-LC") {
            return aws_lc(rest).or_else(|| Some("AWS-LC".to_owned()));
        }
        return Some(format!("{name} {version}"));
    }
    aws_lc(constants)
}

fn aws_lc(constants: &[u8]) -> Option<String> {
    memmem::find_iter(constants, b"AWS-LC ")
        .find_map(|at| number_at(&constants[at + 7..]))
        .map(|number| format!("AWS-LC {number}"))
}

/// The number that ends with a space or the string, behind a text in the bytes.
pub(super) fn behind<'c>(constants: &'c [u8], text: &[u8]) -> Option<&'c str> {
    memmem::find_iter(constants, text).find_map(|at| number(constants.get(at + text.len()..)?, 2))
}

/// A version of three parts that ends with a space, a bracket or the string: "OpenSSL 3.0 legacy provider"
/// stands in OpenSSL too.
fn number_at(bytes: &[u8]) -> Option<&str> {
    number(bytes, 3)
}

fn number(bytes: &[u8], parts: usize) -> Option<&str> {
    let end = bytes.iter().take(VERSION_MAX).position(|b| matches!(b, 0 | b' ' | b')'))?;
    let version = std::str::from_utf8(&bytes[..end]).ok()?;
    let good = version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~".contains(c));
    (good && version.split('.').count() >= parts).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::{behind, scan};

    #[test]
    fn versions_behind_a_text() {
        let text = b"Enabled GnuTLS %s\0Enabled GnuTLS 3.7.9 logging...\0";
        assert_eq!(behind(text, b"Enabled GnuTLS "), Some("3.7.9"));
        assert_eq!(behind(b"Version: NSS 3.87\0", b"Version: NSS "), Some("3.87"));
        assert_eq!(behind(b"Version: NSS 3\0", b"Version: NSS "), None);
        for end in 0..text.len() {
            behind(&text[..end], b"Enabled GnuTLS ");
        }
    }

    #[test]
    fn version_texts() {
        let cases: [(&[u8], Option<&str>); 11] = [
            (b"\0OpenSSL 3.0.17 1 Jul 2025\0", Some("OpenSSL 3.0.17")),
            (b"OpenSSL 1.1.1w  11 Sep 2023\0", Some("OpenSSL 1.1.1w")),
            (
                b"enable OpenSSL 3.0 legacy provider\0OpenSSL 3.0.13+quic 30 Jan 2024\0",
                Some("OpenSSL 3.0.13+quic"),
            ),
            (b"LibreSSL 3.8.2\0", Some("LibreSSL 3.8.2")),
            (b"OpenSSL 1.1.1 (compatible; BoringSSL)\0", Some("BoringSSL")),
            (b"OpenSSL 1.1.1 (compatible; AWS-LC 1.50.1)\0", Some("AWS-LC 1.50.1")),
            (b"OpenSSL 1.1.1 (compatible; AWS-LC FIPS)\0", Some("AWS-LC")),
            (b"AWS-LC KEM method\0AWS-LC 5.12.0\0", Some("AWS-LC 5.12.0")),
            (b"NoSSL 1.2.3 \0", None),
            (b"OpenSSL 3.0.17", None),
            (b"SSL 1", None),
        ];
        for (bytes, version) in cases {
            assert_eq!(scan(bytes).as_deref(), version, "{}", bytes.escape_ascii());
            for end in 0..bytes.len() {
                scan(&bytes[..end]);
            }
        }
    }
}
