//! Whether an ELF file defines the functions of a TLS library, or Go's `crypto/tls`, and where.

use std::fs::File;

use object::{ReadCache, ReadRef, elf};

use super::function::{Family, Function, Offsets};
use super::go::{self, Go};
pub use super::image::NotTls;
use super::image::{Image, Symbols};
use super::internal::{self, Internal, NoInternal, Site};
use super::nss::{self, NoMethods};
use super::version;

/// A file that defines a TLS library's functions: a shared library, or a program that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLibrary {
    /// Whose functions they are; `None`: there are only Go's own.
    pub family: Option<Family>,
    /// The functions.
    pub offsets: Offsets,
    /// OpenSSL's functions behind them.
    pub internal: Internal,
    /// Go's own TLS, in a program that was written in Go.
    pub go: Option<Go>,
    /// Its version as far as this file tells, such as `OpenSSL 3.0.17`.
    pub version: Option<String>,
    /// What named the functions.
    pub named_by: NamedBy,
}

/// Where the places of functions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The symbols that other programs link to (`.dynsym`).
    Dynamic,
    /// The full symbol table (`.symtab`), which stripping removes.
    Full,
    /// Go's table of functions, which stays.
    Pclntab,
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
    version_of(&Image::parse(&ReadCache::new(file)).ok()?, Family::OpenSsl)
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
        let is_there = |family: &Family| family.known_by().iter().all(|f| offsets.get(*f).is_some());
        let Some(family) = Family::ALL.into_iter().find(is_there) else { continue };
        offsets.keep(family);
        let version = version_of(&image, family);
        let named_by = if symbols.kind == elf::SHT_DYNSYM { NamedBy::Dynamic } else { NamedBy::Full };
        let internal = match family {
            Family::OpenSsl => {
                // Its calls are those of a handle inside another's.
                let imports = image.imports();
                let passes_on = |f: Function| imports.values().any(|import| *import == f.symbol().as_bytes());
                if passes_on(Function::GnutlsSend) || passes_on(Function::NssImport) {
                    return Err(NotTls::Wrapper);
                }
                internal::find(&image, &tables, &mut offsets)
            }
            Family::GnuTls => {
                gnutls(&image, &tables, &mut offsets);
                Internal::none(NoInternal::NoExport)
            }
            Family::Nss => {
                nss(&image, &tables, &mut offsets).map_err(NotTls::Nss)?;
                Internal::none(NoInternal::NoExport)
            }
        };
        // A Go program may contain a C library as well.
        let go = go.and_then(Result::ok);
        return Ok(TlsLibrary { family: Some(family), offsets, internal, go, version, named_by });
    }
    let go = go.ok_or(NotTls::NoSymbols)?.map_err(NotTls::Go)?;
    Ok(TlsLibrary {
        family: None,
        offsets: Offsets::default(),
        internal: Internal::none(NoInternal::NoExport),
        version: Some(go::version(&image)),
        go: Some(go),
        named_by: NamedBy::Pclntab,
    })
}

/// Takes cheap places. gnutls_record_send is nothing but gnutls_record_send2, in most builds.
fn gnutls<'d, R: ReadRef<'d>>(image: &Image<'d, R>, tables: &[Symbols<'d>], offsets: &mut Offsets) {
    let Some(site) = Site::of(image, tables) else { return };
    site.improve(offsets, &[]);
    if offsets.get(Function::GnutlsSend2).is_some()
        && site.only_jumps(Function::GnutlsSend, Function::GnutlsSend2)
    {
        offsets.drop(Function::GnutlsSend);
    }
}

/// Adds the methods of the SSL layer, which have no names.
fn nss<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    tables: &[Symbols<'d>],
    offsets: &mut Offsets,
) -> Result<(), NoMethods> {
    let site = Site::of(image, tables).ok_or(NoMethods::Unreadable)?;
    let methods = nss::methods(image, &site)?;
    for (function, address) in &methods {
        offsets.set(*function, image.file_offset(*address).ok_or(NoMethods::Unreadable)?);
    }
    site.improve(offsets, &methods);
    Ok(())
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

fn version_of<'d, R: ReadRef<'d>>(image: &Image<'d, R>, family: Family) -> Option<String> {
    let constants = image.section(b".rodata")?.1;
    match family {
        Family::OpenSsl => version::scan(constants),
        Family::GnuTls => version::behind(constants, b"Enabled GnuTLS ").map(|n| format!("GnuTLS {n}")),
        Family::Nss => version::behind(constants, b"Version: NSS ").map(|n| format!("NSS {n}")),
    }
}
