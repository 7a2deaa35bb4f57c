//! Which TLS code a file carries that cannot be probed, as far as its symbols and constants tell.
//!
//! For files that define no function of a library that is known: a stripped program still holds texts of
//! the library that was linked into it. A text proves that the code is there, not that it is used.

use std::fmt;
use std::fs::File;

use memchr::memmem::{self, Finder};
use object::{ReadRef, elf};

use super::bounded::{Bounded, Deadline};
use super::image::Image;
use super::unnamed::NoEntries;
use super::version;

/// Longest constants that are searched, in bytes; Chrome's have about 60 MiB.
const CONSTANTS_MAX: u64 = 256 << 20;

/// TLS code that cannot be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Likely {
    /// Whose it is.
    pub stack: Stack,
    /// Its version as its makers write it, if it is known: `0.23.37`.
    pub version: Option<String>,
    /// Why its functions are not found in its code, where that was tried.
    pub unfound: Option<NoEntries>,
}

impl Likely {
    /// Why it is not captured.
    pub fn why(&self) -> String {
        let why = self.stack.why();
        self.unfound.map_or_else(|| why.to_owned(), |unfound| format!("{why}, and {unfound}"))
    }
}

/// Whose TLS code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stack {
    /// OpenSSL, its functions without names.
    OpenSsl,
    /// LibreSSL, the same.
    LibreSsl,
    /// BoringSSL, the same.
    BoringSsl,
    /// AWS-LC, the same.
    AwsLc,
    /// GnuTLS, the same.
    GnuTls,
    /// rustls.
    Rustls,
    /// wolfSSL.
    WolfSsl,
    /// Mbed TLS.
    MbedTls,
    /// s2n-tls.
    S2n,
    /// Botan.
    Botan,
    /// Java's own TLS, in Java.
    Java,
    /// Another that speaks TLS 1.3.
    Other,
}

impl Stack {
    /// What its makers call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stack::OpenSsl => "OpenSSL",
            Stack::LibreSsl => "LibreSSL",
            Stack::BoringSsl => "BoringSSL",
            Stack::AwsLc => "AWS-LC",
            Stack::GnuTls => "GnuTLS",
            Stack::Rustls => "rustls",
            Stack::WolfSsl => "wolfSSL",
            Stack::MbedTls => "Mbed TLS",
            Stack::S2n => "s2n-tls",
            Stack::Botan => "Botan",
            Stack::Java => "Java",
            Stack::Other => "an unknown TLS library",
        }
    }

    /// Whether tls2pcap knows the functions of this library, so that only their names are missing.
    const fn is_known(self) -> bool {
        self.is_of_openssl() || matches!(self, Stack::GnuTls | Stack::Rustls)
    }

    /// Whether it has OpenSSL's functions.
    const fn is_of_openssl(self) -> bool {
        matches!(self, Stack::OpenSsl | Stack::LibreSsl | Stack::BoringSsl | Stack::AwsLc)
    }

    /// Why it is not captured.
    pub const fn why(self) -> &'static str {
        match self {
            Stack::Java => "Java's own TLS (JSSE) is not captured",
            Stack::Other => "its TLS code is of a library that is not recognised",
            _ if self.is_known() => "the names of its functions are stripped",
            _ => "this library is not captured yet",
        }
    }

    /// What would help; empty if nothing is known to.
    pub const fn help(self) -> &'static str {
        match self {
            Stack::Rustls => "use a build with symbols (strip = false or \"debuginfo\" in its profile)",
            _ if self.is_known() => {
                "install its debug symbols, or use a build with symbols (not stripped), or one that loads a shared library"
            }
            Stack::Java => "use a provider that calls OpenSSL, as netty-tcnative",
            _ => "",
        }
    }
}

impl fmt::Display for Likely {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.stack.as_str();
        match &self.version {
            Some(version) => write!(f, "contains {name} {version}")?,
            None => write!(f, "contains {name}")?,
        }
        write!(f, ": {}", self.why())
    }
}

/// Functions that tell the library in whose file they are defined, by the beginning of their names.
const FUNCTIONS: [(&[u8], Stack); 5] = [
    (b"wolfSSL_write", Stack::WolfSsl),
    (b"mbedtls_ssl_write", Stack::MbedTls),
    (b"s2n_send", Stack::S2n),
    (b"_ZN5Botan3TLS7Channel13received_data", Stack::Botan),
    (b"JNI_CreateJavaVM", Stack::Java),
];

/// Texts that tell a library, the surest first. They are kept backwards: forwards, this program would hold
/// them too.
const TEXTS: [(&[u8], Stack); 7] = [
    (&backwards(b"ssl/ssl_lib.cc\0"), Stack::BoringSsl),
    (&backwards(b"ssl/ssl_lib.c\0"), Stack::OpenSsl),
    (&backwards(b"Enabled GnuTLS "), Stack::GnuTls),
    (&backwards(b"/rustls-"), Stack::Rustls),
    (&backwards(b"wolfSSL error occurred"), Stack::WolfSsl),
    (&backwards(b"=> fetch input"), Stack::MbedTls),
    // A label of TLS 1.3's key schedule.
    (&backwards(b"c hs traffic"), Stack::Other),
];

const fn backwards<const N: usize>(text: &[u8; N]) -> [u8; N] {
    let mut turned = [0; N];
    let mut at = 0;
    while at < N {
        turned[N - 1 - at] = text[at];
        at += 1;
    }
    turned
}

/// Whether a file can speak TLS at all: the labels from which TLS 1.3 and 1.2 derive their keys.
pub(super) fn may_speak_tls<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> bool {
    const LABELS: [&[u8]; 2] = [&backwards(b"c hs traffic"), &backwards(b"master secret")];
    LABELS.iter().any(|turned| {
        let text: Vec<u8> = turned.iter().rev().copied().collect();
        memmem::find(constants(image), &text).is_some()
    })
}

/// Which library of OpenSSL's family it is.
pub(super) fn make<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<&'static str> {
    of_openssl(image).map(|likely| likely.stack.as_str())
}

/// OpenSSL or its like.
pub(super) fn of_openssl<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Likely> {
    in_constants(constants(image)).filter(|likely| likely.stack.is_of_openssl())
}

/// rustls, beside another library.
pub(super) fn rustls<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Likely> {
    let constants = constants(image);
    let (turned, stack) = TEXTS.iter().find(|(_, stack)| *stack == Stack::Rustls)?;
    let text: Vec<u8> = turned.iter().rev().copied().collect();
    Finder::new(&text).find_iter(constants).find_map(|at| judge(*stack, constants, at, text.len()))
}

/// Versions of rustls that the file contains, as names of source files tell; each once.
pub(super) fn rustls_versions<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Vec<String> {
    let constants = constants(image);
    let Some((turned, stack)) = TEXTS.iter().find(|(_, stack)| *stack == Stack::Rustls) else {
        return Vec::new();
    };
    let text: Vec<u8> = turned.iter().rev().copied().collect();
    let mut versions: Vec<String> = Vec::new();
    for at in Finder::new(&text).find_iter(constants) {
        let version = judge(*stack, constants, at, text.len()).and_then(|likely| likely.version);
        versions.extend(version.filter(|new| !versions.contains(new)));
    }
    versions
}

fn constants<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> &'d [u8] {
    let of_file = || {
        let range = image.section_range(b".rodata")?;
        (range.end - range.start <= CONSTANTS_MAX).then(|| image.section(b".rodata"))?.map(|(_, bytes)| bytes)
    };
    of_file().unwrap_or_default()
}

/// Looks for TLS code in a file that is no TLS library that is known.
pub(super) fn find(file: &File) -> Option<Likely> {
    let deadline = Deadline::start();
    find_in(&Bounded::file(file, deadline), deadline)
}

/// As [`find`], from any source of bytes.
fn find_in<'d, R: ReadRef<'d>>(data: R, deadline: Deadline) -> Option<Likely> {
    let image = Image::parse(data, deadline).ok()?;
    let by_function = [elf::SHT_DYNSYM, elf::SHT_SYMTAB]
        .into_iter()
        .filter_map(|kind| image.symbols(kind))
        .find_map(|symbols| {
            let stack_of = |name: &[u8]| {
                FUNCTIONS.iter().find(|(known, _)| name.starts_with(known)).map(|known| known.1)
            };
            symbols.functions().find_map(|(name, _)| stack_of(name))
        });
    let constants = constants(&image);
    match by_function {
        Some(stack) => Some(Likely { stack, version: version_of(stack, constants), unfound: None }),
        None => in_constants(constants),
    }
}

fn in_constants(constants: &[u8]) -> Option<Likely> {
    TEXTS.iter().find_map(|(turned, stack)| {
        let text: Vec<u8> = turned.iter().rev().copied().collect();
        Finder::new(&text).find_iter(constants).find_map(|at| judge(*stack, constants, at, text.len()))
    })
}

/// What a text at this place tells.
fn judge(stack: Stack, constants: &[u8], at: usize, len: usize) -> Option<Likely> {
    let stack = match stack {
        Stack::BoringSsl => {
            let start = at.saturating_sub(200);
            let path = &constants[start..at];
            let path = path.rsplit(|b| *b == 0).next().unwrap_or_default();
            if memmem::find(path, b"aws-lc").is_some() { Stack::AwsLc } else { Stack::BoringSsl }
        }
        Stack::OpenSsl if version::scan(constants).is_some_and(|v| v.starts_with("LibreSSL")) => {
            Stack::LibreSsl
        }
        // Without its number it is the text of a program that looks for it.
        Stack::GnuTls => {
            let version = number(constants.get(at + len..)?, b' ')?;
            return Some(Likely { stack, version: Some(version.to_owned()), unfound: None });
        }
        // The crates about rustls are called rustls-something.
        Stack::Rustls => {
            let version = number(constants.get(at + len..)?, b'/')?;
            return Some(Likely { stack, version: Some(version.to_owned()), unfound: None });
        }
        _ => stack,
    };
    Some(Likely { stack, version: version_of(stack, constants), unfound: None })
}

fn version_of(stack: Stack, constants: &[u8]) -> Option<String> {
    let own = |text: String| Some(text.split_once(' ')?.1.to_owned());
    match stack {
        Stack::OpenSsl | Stack::LibreSsl => own(version::scan(constants)?),
        Stack::WolfSsl => version::behind(constants, b"wolfSSL ").map(str::to_owned),
        _ => None,
    }
}

/// Digits and dots up to `end`.
fn number(bytes: &[u8], end: u8) -> Option<&str> {
    const MAX: usize = 24;
    let len = bytes.iter().take(MAX).position(|b| *b == end)?;
    let text = std::str::from_utf8(&bytes[..len]).ok()?;
    let good = text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.');
    (good && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c))).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(constants: &[u8]) -> Option<String> {
        in_constants(constants).map(|likely| likely.to_string())
    }

    #[test]
    fn texts_tell_the_library_and_its_version() {
        let stripped = "the names of its functions are stripped";
        let cases: [(&[u8], Option<String>); 12] = [
            (
                b"\0../ssl/ssl_lib.c\0OpenSSL 3.0.17 1 Jul 2025\0c hs traffic\0",
                Some(format!("contains OpenSSL 3.0.17: {stripped}")),
            ),
            (b"ssl/ssl_lib.c\0LibreSSL 3.8.2\0", Some(format!("contains LibreSSL 3.8.2: {stripped}"))),
            (
                b"x\0third_party/boringssl/src/ssl/ssl_lib.cc\0",
                Some(format!("contains BoringSSL: {stripped}")),
            ),
            (b"/aws-lc\0x/ssl/ssl_lib.cc\0", Some(format!("contains BoringSSL: {stripped}"))),
            (b"\0/aws-lc/ssl/ssl_lib.cc\0", Some(format!("contains AWS-LC: {stripped}"))),
            (b"Enabled GnuTLS 3.7.9 logging...\0", Some(format!("contains GnuTLS 3.7.9: {stripped}"))),
            (
                b"/x/rustls-pemfile-2.1.0/src/lib.rs/x/rustls-0.23.37/src/conn.rs",
                Some(format!("contains rustls 0.23.37: {}", Stack::Rustls.why())),
            ),
            (b"/rustls-native-certs-0.7.0/src/lib.rs/rustls-", None),
            (
                b"wolfSSL error occurred, error = %d\0wolfSSL 5.5.4\0",
                Some("contains wolfSSL 5.5.4: this library is not captured yet".into()),
            ),
            (b"=> fetch input\0", Some("contains Mbed TLS: this library is not captured yet".into())),
            (
                b"tls13 c hs traffic\0",
                Some(
                    "contains an unknown TLS library: its TLS code is of a library that is not recognised"
                        .into(),
                ),
            ),
            (b"myssl/ssl_lib.cpp\0SSL 1.2", None),
        ];
        for (constants, expected) in cases {
            assert_eq!(told(constants), expected, "{}", constants.escape_ascii());
            for end in 0..constants.len() {
                told(&constants[..end]);
            }
        }
    }

    #[test]
    fn texts_backwards_tell_nothing() {
        for (turned, _) in TEXTS {
            assert_eq!(in_constants(turned), None, "{}", turned.escape_ascii());
        }
        assert_eq!(in_constants(b"Enabled GnuTLS Version: NSS "), None);
        assert_eq!(find_in(&b"no ELF file"[..], Deadline::start()), None);
    }
}
