//! rustls in a program: the functions that encrypt and decrypt one record.
//!
//! They are methods of trait objects, so the compiler cannot inline them, and each has a symbol. A function
//! is taken only if its name says which protection of records it is: by that, what is captured is proven for
//! each record (`bpf/rustls.bpf.h`). In a program without names, `tables` finds them.

mod tables;

use std::fmt;

use object::ReadRef;

use super::image::{Image, Symbols};
use super::internal::Site;
use super::likely;

pub(super) use self::tables::find as find_unnamed;

/// How a record is protected, which says how much longer that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protection {
    /// TLS 1.3, whatever the cipher.
    Tls13,
    /// TLS 1.2 with AES-GCM.
    Tls12Gcm,
    /// TLS 1.2 with ChaCha20-Poly1305.
    Tls12ChaCha,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protection::Tls13 => "TLS 1.3",
            Protection::Tls12Gcm => "TLS 1.2, AES-GCM",
            Protection::Tls12ChaCha => "TLS 1.2, ChaCha20-Poly1305",
        })
    }
}

/// A function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RustlsFunction {
    /// It encrypts a record, else it decrypts one.
    pub encrypts: bool,
    /// Which records.
    pub protection: Protection,
    /// Of rustls before 0.23, whose records own their bytes.
    pub owned: bool,
}

/// Where a function is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustlsPlace {
    /// Which it is.
    pub function: RustlsFunction,
    /// Its name, or what it does if it has none.
    pub name: String,
    /// File offset of its first instruction.
    pub entry: u64,
}

/// The rustls of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rustls {
    /// The functions that are probed.
    pub places: Vec<RustlsPlace>,
    /// Such as `0.23.37`, if it is known.
    pub version: Option<String>,
}

impl fmt::Display for Rustls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "rustls {version}"),
            None => f.write_str("rustls"),
        }
    }
}

/// Why the connections of a program with rustls cannot be captured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRustls {
    /// Which version it is, the names of source files in the program tell.
    #[error(
        "which version of rustls it contains is not known, or is not among those that are captured (0.21 to 0.23)"
    )]
    Version,
    /// Its ciphers are of a library that is not known.
    #[error("its rustls encrypts by {0}, which is not captured")]
    Provider(String),
    /// Only one direction has a function with a name.
    #[error("its rustls lacks the names of some functions")]
    Incomplete,
    /// A name stands where no function begins, or two different ones in one place.
    #[error("the names of its rustls functions do not fit its code")]
    Unclear,
}

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Known(Protection, bool, Trait),
    /// Of another provider, in this crate.
    Other(String),
}

/// Where the trait stands tells the version, in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trait {
    /// `rustls::cipher`, up to 0.21.
    Old,
    /// `rustls::crypto::cipher`, from 0.22 on.
    New,
}

/// Reads a demangled name such as `<rustls::crypto::ring::tls13::X as rustls::crypto::cipher::MessageEncrypter>::encrypt`.
fn named(name: &str) -> Option<Named> {
    let (of, method) = name.strip_prefix('<')?.split_once(">::")?;
    let (owner, of_trait) = of.split_once(" as ")?;
    let encrypts = match method {
        "encrypt" => true,
        "decrypt" => false,
        _ => return None,
    };
    let (home, trait_name) = of_trait.rsplit_once("::")?;
    if trait_name != if encrypts { "MessageEncrypter" } else { "MessageDecrypter" } {
        return None;
    }
    let home = match home {
        "rustls::cipher" => Trait::Old,
        "rustls::crypto::cipher" => Trait::New,
        _ => return None,
    };
    let (module, owner_name) = owner.rsplit_once("::")?;
    let Some(module) = module.strip_prefix("rustls::") else {
        return Some(Named::Other(module.split("::").next()?.to_owned()));
    };
    // Those that refuse, or pass on, are no protection.
    if owner_name.starts_with("Invalid") || owner_name.starts_with("PassThrough") {
        return None;
    }
    let has = |part: &str| module.split("::").any(|m| m == part);
    let protection = match (has("tls13"), has("tls12")) {
        (true, false) => Protection::Tls13,
        (false, true) if owner_name.starts_with("Gcm") => Protection::Tls12Gcm,
        (false, true) if owner_name.starts_with("ChaCha20Poly1305") => Protection::Tls12ChaCha,
        _ => return Some(Named::Other(owner.to_owned())),
    };
    Some(Named::Known(protection, encrypts, home))
}

/// Looks for rustls. `None`: there is none with names.
pub(super) fn find<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    tables: &[Symbols<'d>],
) -> Option<Result<Rustls, NotRustls>> {
    // Cheap to tell for nearly all symbols.
    let mark = memchr::memmem::Finder::new(b"crypter");
    let mut all: Vec<(Named, String, u64)> = Vec::new();
    for (symbol, address) in tables.iter().flat_map(Symbols::functions) {
        if !symbol.starts_with(b"_") || mark.find(symbol).is_none() {
            continue;
        }
        let Ok(symbol) = std::str::from_utf8(symbol) else { continue };
        let name = format!("{:#}", rustc_demangle::demangle(symbol));
        if let Some(named) = named(&name) {
            all.push((named, name, address));
        }
    }
    (!all.is_empty()).then(|| judge(image, tables, all))
}

fn judge<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    tables: &[Symbols<'d>],
    all: Vec<(Named, String, u64)>,
) -> Result<Rustls, NotRustls> {
    let versions = likely::rustls_versions(image);
    let minor = |n: &str| {
        versions.iter().any(|v| v.strip_prefix("0.").is_some_and(|v| v.split('.').next() == Some(n)))
    };
    let site = Site::of(image, tables);
    let mut places: Vec<RustlsPlace> = Vec::new();
    for (named, name, address) in all {
        let (protection, encrypts, home) = match named {
            Named::Known(protection, encrypts, home) => (protection, encrypts, home),
            Named::Other(whose) => return Err(NotRustls::Provider(whose)),
        };
        let owned = match home {
            Trait::Old if minor("21") => true,
            Trait::New if minor("22") && !minor("23") => true,
            Trait::New if minor("23") && !minor("22") => false,
            _ => return Err(NotRustls::Version),
        };
        if site.as_ref().is_some_and(|site| !site.is_function(address)) {
            return Err(NotRustls::Unclear);
        }
        let entry = image.file_offset(address).ok_or(NotRustls::Unclear)?;
        let function = RustlsFunction { encrypts, protection, owned };
        match places.iter().find(|place| place.entry == entry) {
            None => places.push(RustlsPlace { function, name, entry }),
            Some(known) if known.function == function => {}
            Some(_) => return Err(NotRustls::Unclear),
        }
    }
    // Both directions of each protection: one of them alone would be half a conversation.
    let has = |protection, encrypts| {
        places.iter().any(|p| p.function.protection == protection && p.function.encrypts == encrypts)
    };
    let both = |protection| has(protection, true) == has(protection, false);
    if ![Protection::Tls13, Protection::Tls12Gcm, Protection::Tls12ChaCha].into_iter().all(both) {
        return Err(NotRustls::Incomplete);
    }
    places.sort_by_key(|place| (place.function, place.entry));
    Ok(Rustls { places, version: versions.into_iter().next() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_function_protects() {
        let known = |p, e, t| Some(Named::Known(p, e, t));
        let cases = [
            (
                "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$7encrypt17ha24c5a8716781ae3E",
                known(Protection::Tls13, true, Trait::New),
            ),
            (
                "_ZN109_$LT$rustls..crypto..ring..tls12..GcmMessageDecrypter$u20$as$u20$rustls..crypto..cipher..MessageDecrypter$GT$7decrypt17hc3c303a5c1e8e4ecE.llvm.7096387828251541782",
                known(Protection::Tls12Gcm, false, Trait::New),
            ),
            (
                "_ZN115_$LT$rustls..crypto..aws_lc_rs..tls13..AeadMessageDecrypter$u20$as$u20$rustls..crypto..cipher..MessageDecrypter$GT$7decrypt17h8f27f4c4505a96caE",
                known(Protection::Tls13, false, Trait::New),
            ),
            // By Rust's newer way of naming (v0).
            (
                "_RNvXs2_NtNtNtCsdsGIwzez58J_6rustls6crypto4ring5tls13NtB5_21Tls13MessageEncrypterNtNtB9_6cipher16MessageEncrypter7encrypt",
                known(Protection::Tls13, true, Trait::New),
            ),
            (
                "_RNvXs2_NtNtNtCsdsGIwzez58J_6rustls6crypto4ring5tls12NtB5_32ChaCha20Poly1305MessageDecrypterNtNtB9_6cipher16MessageDecrypter7decrypt",
                known(Protection::Tls12ChaCha, false, Trait::New),
            ),
            (
                "_RNvXs2_NtNtNtCsdsGIwzez58J_6rustls6crypto4ring5tls13NtB5_21Tls13MessageEncrypterNtNtB9_6cipher16MessageEncrypter21encrypted_payload_len",
                None,
            ),
            (
                "_ZN111_$LT$rustls..crypto..ring..tls13..Tls13MessageEncrypter$u20$as$u20$rustls..crypto..cipher..MessageEncrypter$GT$21encrypted_payload_len17ha24c5a8716781ae3E",
                None,
            ),
            (
                "_ZN108_$LT$rustls..crypto..cipher..InvalidMessageDecrypter$u20$as$u20$rustls..crypto..cipher..MessageDecrypter$GT$7decrypt17hf6180efe576b4dc8E",
                None,
            ),
        ];
        for (symbol, expected) in cases {
            assert_eq!(named(&format!("{:#}", rustc_demangle::demangle(symbol))), expected, "{symbol}");
        }
        let plain = [
            (
                "<rustls::tls12::cipher::ChaCha20Poly1305MessageDecrypter as rustls::cipher::MessageDecrypter>::decrypt",
                known(Protection::Tls12ChaCha, false, Trait::Old),
            ),
            (
                "<rustls_openssl::tls13::Tls13Crypter as rustls::crypto::cipher::MessageEncrypter>::encrypt",
                Some(Named::Other("rustls_openssl".into())),
            ),
            ("<a::b as rustls::crypto::cipher::MessageEncrypter>::decrypt", None),
            ("encrypt", None),
        ];
        for (name, expected) in plain {
            assert_eq!(named(name), expected, "{name}");
        }
    }
}
