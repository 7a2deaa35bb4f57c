//! Whether an ELF file defines OpenSSL's functions, or those of Go's `crypto/tls`, and where.

use std::fs::File;

use object::{ReadCache, ReadRef, elf};

use super::function::{Function, Offsets};
use super::go::{self, Go};
pub use super::image::NotTls;
use super::image::{Image, Symbols};
use super::internal::{self, Internal, NoInternal};
use super::version;

/// A file that defines OpenSSL's functions: a shared library, or a program that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLibrary {
    /// The exported functions.
    pub offsets: Offsets,
    /// The functions behind them.
    pub internal: Internal,
    /// Go's own TLS, in a program that was written in Go.
    pub go: Option<Go>,
    /// Its version as far as this file tells, such as `OpenSSL 3.0.17`.
    pub version: Option<String>,
}

/// Reads the file's symbol tables.
///
/// # Errors
/// [`NotTls`] says why the file cannot be probed; an unreadable file counts as damaged.
pub fn classify(file: &File) -> Result<TlsLibrary, NotTls> {
    classify_data(&ReadCache::new(file))
}

/// Version that the file's constants tell, such as `OpenSSL 3.0.17`.
pub fn version(file: &File) -> Option<String> {
    version_of(&Image::parse(&ReadCache::new(file)).ok()?)
}

/// File offsets of `BIO_write` and `BIO_read`, through which OpenSSL gives and takes TLS records.
pub fn bio(file: &File) -> Option<(u64, u64)> {
    let data = ReadCache::new(file);
    let image = Image::parse(&data).ok()?;
    [elf::SHT_DYNSYM, elf::SHT_SYMTAB].into_iter().filter_map(|kind| image.symbols(kind)).find_map(
        |symbols| {
            let offset = |wanted: &[u8]| {
                let (_, address) = symbols.functions().find(|(name, _)| *name == wanted)?;
                image.file_offset(address)
            };
            Some((offset(b"BIO_write")?, offset(b"BIO_read")?))
        },
    )
}

/// As [`classify`], from any source of bytes.
pub(super) fn classify_data<'d, R: ReadRef<'d>>(data: R) -> Result<TlsLibrary, NotTls> {
    let image = Image::parse(data)?;
    let go = go::find(&image);
    // The dynamic table is what other programs link to, so it wins; a static program has only the
    // other one.
    let tables: Vec<_> =
        [elf::SHT_DYNSYM, elf::SHT_SYMTAB].into_iter().filter_map(|kind| image.symbols(kind)).collect();
    for symbols in &tables {
        let mut offsets = offsets(symbols, &image);
        if offsets.get(Function::Read).is_some() && offsets.get(Function::Write).is_some() {
            let internal = internal::find(&image, &tables, &mut offsets);
            // A Go program may contain a C library as well.
            let go = go.and_then(Result::ok);
            return Ok(TlsLibrary { offsets, internal, go, version: version_of(&image) });
        }
    }
    let go = go.ok_or(NotTls::NoSymbols)?.map_err(NotTls::Go)?;
    Ok(TlsLibrary {
        offsets: Offsets::default(),
        internal: Internal { read: Err(NoInternal::NoExport), write: Err(NoInternal::NoExport) },
        version: Some(go::version(&image)),
        go: Some(go),
    })
}

/// File offsets of the functions of interest.
fn offsets<'d, R: ReadRef<'d>>(symbols: &Symbols<'d>, image: &Image<'d, R>) -> Offsets {
    let mut offsets = Offsets::default();
    for (name, address) in symbols.functions() {
        let Some(function) = Function::from_symbol(name) else { continue };
        if offsets.get(function).is_some() {
            continue;
        }
        if let Some(offset) = image.file_offset(address) {
            offsets.set(function, offset);
        }
    }
    offsets
}

fn version_of<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<String> {
    version::scan(image.section(b".rodata")?.1)
}
