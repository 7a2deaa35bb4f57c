//! Recognises a TLS stack whose functions have no names, by the constants of the protocol and by what its own
//! source leaves in a program, so that it can be told what is not captured.

use std::fmt;

use memchr::memmem::Finder;
use object::ReadRef;

use super::image::Image;

/// Most bytes of constants that are searched in one file.
const CONSTANTS_MAX: usize = 128 << 20;

/// A TLS stack that was recognised by its constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// OpenSSL.
    OpenSsl,
    /// Google's BoringSSL.
    BoringSsl,
    /// Amazon's AWS-LC.
    AwsLc,
    /// LibreSSL.
    LibreSsl,
    /// rustls, and its version where the program tells.
    Rustls(Option<Version>),
    /// wolfSSL.
    WolfSsl,
    /// Mbed TLS.
    MbedTls,
    /// Amazon's s2n-tls.
    S2n,
    /// TLS 1.3 of unknown make.
    Unknown,
}

/// Major, minor and patch number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u16, pub u16, pub u16);

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stack::OpenSsl => "OpenSSL",
            Stack::BoringSsl => "BoringSSL",
            Stack::AwsLc => "AWS-LC",
            Stack::LibreSsl => "LibreSSL",
            Stack::Rustls(Some(Version(major, minor, patch))) => {
                return write!(f, "rustls {major}.{minor}.{patch}");
            }
            Stack::Rustls(None) => "rustls",
            Stack::WolfSsl => "wolfSSL",
            Stack::MbedTls => "Mbed TLS",
            Stack::S2n => "s2n-tls",
            Stack::Unknown => "a TLS library of unknown make",
        })
    }
}

/// Labels by which TLS 1.3 and 1.2 derive keys: no implementation can do without them. In capitals, which they are
/// not, so that this program is not taken for one.
const TLS13: &[u8] = b"C HS TRAFFIC";
const TLS12: &[u8] = b"MASTER SECRET";

fn has_label(constants: &[u8], label: &[u8]) -> bool {
    has(constants, &std::hint::black_box(label).to_ascii_lowercase())
}

/// Whether the file may contain a TLS stack, of whichever age.
pub(super) fn may_speak_tls<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> bool {
    let constants = constants(image);
    has_label(constants, TLS13) || has_label(constants, TLS12)
}

/// The TLS stack in the file; `None` if there is none that speaks TLS 1.3.
pub(super) fn recognise<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Stack> {
    let constants = constants(image);
    if !has_label(constants, TLS13) {
        return None;
    }
    // rustls may use AWS-LC's or OpenSSL's ciphers, but not their TLS: the source file of that tells.
    let tls_of_openssl = [&b"ssl/ssl_lib.c"[..], b"ssl\\ssl_lib.c"].iter().any(|path| has(constants, path));
    Some(match () {
        () if tls_of_openssl => match () {
            () if has(constants, b"aws-lc/ssl/") || has(constants, b"AWS-LC ") => Stack::AwsLc,
            () if has(constants, b"ssl/ssl_lib.cc") || has(constants, b"boringssl") => Stack::BoringSsl,
            () if has(constants, b"LibreSSL ") => Stack::LibreSsl,
            () => Stack::OpenSsl,
        },
        () if has(constants, b"rustls") => Stack::Rustls(rustls_version(constants)),
        () if has(constants, b"wolfSSL") => Stack::WolfSsl,
        () if has(constants, b"s2n_") => Stack::S2n,
        () if has(constants, b"mbedtls") || has(constants, b"Mbed TLS") => Stack::MbedTls,
        () => Stack::Unknown,
    })
}

/// rustls beside another TLS library.
pub(super) fn rustls<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Stack> {
    let constants = constants(image);
    let version = rustls_version(constants).filter(|_| has_label(constants, TLS13))?;
    Some(Stack::Rustls(Some(version)))
}

/// Cargo's folder of the source, in the places that panics tell.
fn rustls_version(constants: &[u8]) -> Option<Version> {
    Finder::new(b"/rustls-").find_iter(constants).find_map(|at| {
        let rest = &constants[at + 8..constants.len().min(at + 32)];
        let end = rest.iter().position(|b| *b == b'/')?;
        let number = std::str::from_utf8(&rest[..end]).ok()?;
        // 0.24.0-dev.0 is 0.24.0 here.
        let mut parts = number.split(['.', '-', '+']).map(str::parse);
        Some(Version(parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
    })
}

fn constants<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> &'d [u8] {
    let all = image.section(b".rodata").map_or(&[][..], |(_, bytes)| bytes);
    &all[..all.len().min(CONSTANTS_MAX)]
}

fn has(constants: &[u8], text: &[u8]) -> bool {
    memchr::memmem::find(constants, text).is_some()
}

#[cfg(test)]
mod tests {
    use super::{Version, rustls_version};

    #[test]
    fn version_of_rustls_by_the_folder_of_its_source() {
        let cases: [(&[u8], Option<Version>); 6] = [
            (b"/x/rustls-pki-types-1.9.0/src/lib.rs/x/rustls-0.23.12/src/conn.rs", Some(Version(0, 23, 12))),
            (b"/rustls-0.24.0-dev.0/src/", Some(Version(0, 24, 0))),
            (b"/rustls-0.23/src/", None),
            (b"/rustls-0.23.12", None),
            (b"/rustls-99999.1.1/", None),
            (b"/rustls-", None),
        ];
        for (text, version) in cases {
            assert_eq!(rustls_version(text), version, "{}", text.escape_ascii());
        }
    }
}
