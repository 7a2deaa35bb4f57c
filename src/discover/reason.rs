//! Why a file cannot be probed.

use super::go::NotGo;
use super::image::NotImage;
use super::likely::Likely;
use super::nss::NoMethods;
use super::rustls::NotRustls;

/// Why a file is not a TLS library that can be probed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTls {
    /// Not an ELF file.
    #[error("not an ELF file")]
    NotElf,
    /// For another processor, or a 32-bit file.
    #[error("a 32-bit file, or for another processor")]
    OtherMachine,
    /// Headers or tables contradict each other, or are longer than what is read.
    #[error("damaged ELF file")]
    Damaged,
    /// Reading it takes more time or memory than one file may take.
    #[error("reading its tables takes more than 10 seconds or 512 MiB, or it is a sparse file")]
    TooCostly,
    /// Neither symbol table defines the functions of a library that is known.
    #[error(
        "defines neither SSL_read and SSL_write nor GnuTLS's or NSS's functions (another TLS library, or stripped)"
    )]
    NoSymbols,
    /// It has OpenSSL's names, and hands everything to another library, which is probed itself.
    #[error("passes all on to another TLS library")]
    Wrapper,
    /// It is NSS, but where it reads and writes is not found.
    #[error("NSS, but {0}")]
    Nss(NoMethods),
    /// A Go program that cannot be probed.
    #[error("a Go program: {0}")]
    Go(NotGo),
    /// It contains rustls, which cannot be probed.
    #[error("{0}")]
    Rustls(NotRustls),
    /// It carries TLS code that cannot be probed. Told by [`super::Discovery::explaining`], and where functions were
    /// looked for in the code.
    #[error("{0}")]
    Likely(Likely),
}

impl NotTls {
    /// What would help; empty if nothing is known to.
    pub fn help(&self) -> &'static str {
        match self {
            NotTls::Likely(likely) => likely.stack.help(),
            NotTls::Go(NotGo::StackAbi) => "build it with Go 1.17 or later",
            NotTls::OtherMachine => "use the 64-bit program",
            _ => "",
        }
    }
}

impl From<NotImage> for NotTls {
    fn from(why: NotImage) -> NotTls {
        match why {
            NotImage::NotElf => NotTls::NotElf,
            NotImage::OtherMachine => NotTls::OtherMachine,
            NotImage::Damaged => NotTls::Damaged,
        }
    }
}
