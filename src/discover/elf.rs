//! Whether an ELF file defines the functions of a TLS library, or Go's `crypto/tls`, and where.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use object::{ReadCacheOps, ReadRef, elf};

use super::boring;
use super::bounded::{Bounded, Deadline};
use super::code::Place;
use super::debug;
use super::function::{Family, Function, Offsets};
use super::go::{self, Go};
use super::image::{Image, Symbols};
use super::internal::{self, Internal, NoInternal, Site};
use super::likely::{self, Likely, Stack};
use super::maps::Whereabouts;
use super::nss::{self, NoMethods};
use super::openssl;
use super::reason::NotTls;
use super::returns::{self, Returns, Wanted};
use super::rustls::{self, Rustls};
use super::unnamed::NoEntries;
use super::version;

/// A file that defines a TLS library's functions: a shared library, or a program that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLibrary {
    /// Whose functions they are; `None`: there are only those of Go or rustls.
    pub family: Option<Family>,
    /// The functions.
    pub offsets: Offsets,
    /// OpenSSL's functions behind them.
    pub internal: Internal,
    /// File offsets of `BIO_write` and `BIO_read`, if they are in this file.
    pub bio: Option<(u64, u64)>,
    /// Where the functions return.
    pub returns: Returns,
    /// Go's own TLS, in a program that was written in Go.
    pub go: Option<Go>,
    /// rustls, in a program that contains it.
    pub rustls: Option<Rustls>,
    /// Its version as far as this file tells, such as `OpenSSL 3.0.17`.
    pub version: Option<String>,
    /// Of OpenSSL's family, if its version is not known: which of them, as far as its source shows.
    pub make: Option<&'static str>,
    /// Another TLS library in the same file, which cannot be probed.
    pub also: Option<NotTls>,
    /// What named the functions.
    pub named_by: NamedBy,
}

impl TlsLibrary {
    /// Whether there is nothing but rustls in it.
    pub fn is_rustls_alone(&self) -> bool {
        self.rustls.is_some() && self.family.is_none() && self.go.is_none()
    }

    /// Whether its functions were found in its code: they have to prove themselves while they run. Those of rustls do so with
    /// each record.
    pub fn has_to_prove_itself(&self) -> bool {
        self.named_by == NamedBy::Code && self.family.is_some()
    }
}

/// Where the places of functions come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The symbols that other programs link to (`.dynsym`).
    Dynamic,
    /// The full symbol table (`.symtab`), which stripping removes.
    Full,
    /// The mini debug info that is packed into the file.
    MiniDebugInfo,
    /// A separate debug file.
    DebugFile(PathBuf),
    /// Go's table of functions, which stays.
    Pclntab,
    /// Nothing: they were found in the code, and have to prove themselves.
    Code,
}

/// What is to be added to the file's name; nothing for its own tables.
impl fmt::Display for NamedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedBy::Dynamic | NamedBy::Full | NamedBy::Pclntab => Ok(()),
            NamedBy::Code => f.write_str(", by its code"),
            NamedBy::MiniDebugInfo => f.write_str(", by its mini debug info"),
            NamedBy::DebugFile(path) => write!(f, ", by the debug file {}", crate::printable::path(path)),
        }
    }
}

/// Reads the file's symbol tables; if they do not have what is looked for, those of its mini debug info and of
/// the debug files that belong to it.
///
/// # Errors
/// [`NotTls`] says why the file cannot be probed; an unreadable file counts as damaged.
pub fn classify(file: &File, at: &Whereabouts) -> Result<TlsLibrary, NotTls> {
    let deadline = Deadline::start();
    classify_bounded(&Bounded::file(file, deadline), at, deadline)
}

/// As [`classify`], from any source of bytes.
#[cfg(test)]
pub(super) fn classify_from<S: ReadCacheOps>(source: S, at: &Whereabouts) -> Result<TlsLibrary, NotTls> {
    let deadline = Deadline::start();
    classify_bounded(&Bounded::new(source, super::bounded::BYTES_MAX, deadline), at, deadline)
}

fn classify_bounded<S: ReadCacheOps>(
    data: &Bounded<S>,
    at: &Whereabouts,
    deadline: Deadline,
) -> Result<TlsLibrary, NotTls> {
    let classified = || {
        let image = Image::parse(data, deadline)?;
        let library = classify_image(&image, data, at, deadline)?;
        Ok(TlsLibrary { returns: returns_of(&image, &library), ..library })
    };
    let result = classified();
    // What was found in part of a table may not be what the whole tells.
    let in_part = deadline.is_over() || result.is_err() && data.has_refused();
    if in_part { Err(NotTls::TooCostly) } else { result }
}

/// Where the functions return that are probed.
fn returns_of<'d, R: ReadRef<'d>>(image: &Image<'d, R>, library: &TlsLibrary) -> Returns {
    let mut functions: Vec<u64> = library.offsets.places().map(|(_, place)| place.offset).collect();
    functions.extend(library.rustls.iter().flat_map(|rustls| &rustls.places).map(|place| place.entry));
    functions.extend(library.bio.map(|(_, read)| read));
    let internal = [&library.internal.read, &library.internal.write];
    let called = internal.into_iter().flatten().filter_map(|behind| {
        let Place { function, offset, .. } = behind.place;
        Some((image.address_of(function)?, offset))
    });
    let wanted = Wanted { functions, called: called.collect() };
    // Only what was found by the code has its returns looked for there.
    match library.named_by {
        NamedBy::Code => returns::find_in(Site::of_code(image), image, &wanted),
        _ => returns::find(image, &own_tables(image), &wanted),
    }
}

fn classify_image<'d, S: ReadCacheOps>(
    image: &Image<'d, &'d Bounded<S>>,
    data: &'d Bounded<S>,
    at: &Whereabouts,
    deadline: Deadline,
) -> Result<TlsLibrary, NotTls> {
    match of_tables(image, &own_tables(image), true) {
        Err(NotTls::NoSymbols) if likely::may_speak_tls(image) => {}
        result => return result,
    }
    if let Some(library) =
        debug::embedded(image).and_then(|inside| of_debug(data, &inside[..], deadline, true))
    {
        return Ok(TlsLibrary { named_by: NamedBy::MiniDebugInfo, ..library });
    }
    for (path, file) in at.debug_files(image, deadline) {
        if let Some(library) = of_debug(data, &Bounded::file(&file, deadline), deadline, false) {
            return Ok(TlsLibrary { named_by: NamedBy::DebugFile(path), ..library });
        }
    }
    of_code(image)
}

/// By its code alone, of the libraries whose functions can be found there.
fn of_code<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<TlsLibrary, NotTls> {
    let (rustls, no_rustls) = rustls_of_code(image);
    let found = match (c_of_code(image), &rustls) {
        (Some(Ok(found)), _) => found,
        (Some(Err(why)), None) => return Err(why),
        (None, None) => {
            let is_code = |why: &NotTls| !matches!(why, NotTls::Likely(likely) if likely.unfound == Some(NoEntries::NoPlaces));
            // Else there are texts alone.
            return Err(no_rustls.filter(is_code).unwrap_or(NotTls::NoSymbols));
        }
        (why, Some(rustls)) => {
            return Ok(TlsLibrary {
                family: None,
                offsets: Offsets::default(),
                internal: Internal::none(NoInternal::Unnamed),
                bio: None,
                returns: Returns::default(),
                go: None,
                version: Some(rustls.to_string()),
                make: None,
                also: why.and_then(Result::err).or(no_rustls),
                named_by: NamedBy::Code,
                rustls: Some(rustls.clone()),
            });
        }
    };
    Ok(TlsLibrary { rustls, also: no_rustls, ..found })
}

/// OpenSSL and its like. `None`: there is none, as far as texts tell.
fn c_of_code<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Result<TlsLibrary, NotTls>> {
    let mut likely = likely::of_openssl(image)?;
    let mut found = match likely.stack {
        Stack::BoringSsl | Stack::AwsLc => boring::find(image).map(|found| (found.offsets, found.bio)),
        Stack::OpenSsl => openssl::find(image).map(|found| (found.offsets, found.bio)),
        _ => return None,
    };
    // Of one there may be texts alone, and of the other all.
    if found == Err(NoEntries::NotUsed)
        && likely.stack != Stack::OpenSsl
        && let Ok(other) = openssl::find(image)
    {
        likely.stack = Stack::OpenSsl;
        found = Ok((other.offsets, other.bio));
    }
    match found {
        Ok((offsets, bio)) => Some(Ok(TlsLibrary {
            family: Some(Family::OpenSsl),
            offsets,
            internal: Internal::none(NoInternal::Unnamed),
            bio: Some(bio),
            returns: Returns::default(),
            go: None,
            rustls: None,
            version: version_of(image, Family::OpenSsl).filter(|_| likely.stack == Stack::OpenSsl),
            make: Some(likely.stack.as_str()),
            also: None,
            named_by: NamedBy::Code,
        })),
        // Texts alone.
        Err(NoEntries::NotUsed) => None,
        Err(why) => Some(Err(NotTls::Likely(Likely { unfound: Some(why), ..likely }))),
    }
}

/// rustls, and what cannot be probed of it.
fn rustls_of_code<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> (Option<Rustls>, Option<NotTls>) {
    let likely = likely::rustls(image);
    let found = match (&likely, rustls::find_unnamed(image)) {
        (None, Err(NoEntries::NoPlaces)) => return (None, None),
        (_, found) => found,
    };
    // Folders do not always tell the version.
    let likely = likely.unwrap_or(Likely { stack: Stack::Rustls, version: None, unfound: None });
    match found {
        Ok(found) => {
            let is_other = |version: &String| !found.versions.contains(version);
            let other = likely::rustls_versions(image).into_iter().find(is_other);
            let unfound = Some(NoEntries::Version);
            let also = other.map(|version| Likely { version: Some(version), unfound, ..likely });
            (Some(found.rustls), also.map(NotTls::Likely))
        }
        Err(why) => (None, Some(NotTls::Likely(Likely { unfound: Some(why), ..likely }))),
    }
}

/// With the symbols of another file that was split off from this one, and may be `embedded` in it.
fn of_debug<'d, R: ReadRef<'d>, S: ReadRef<'d>>(
    data: R,
    debug: S,
    deadline: Deadline,
    embedded: bool,
) -> Option<TlsLibrary> {
    let image = Image::parse(data, deadline).ok()?;
    let debug = Image::parse(debug, deadline).ok()?;
    let needs_no_id = embedded && debug.build_id().is_none();
    if !needs_no_id && debug.build_id() != image.build_id() {
        return None;
    }
    let tables = [debug.symbols(elf::SHT_SYMTAB)?];
    of_tables(&image, &tables, false).ok()
}

/// Version that the file's constants tell, such as `OpenSSL 3.0.17`.
pub fn version(file: &File) -> Option<String> {
    let deadline = Deadline::start();
    version_of(&Image::parse(&Bounded::file(file, deadline), deadline).ok()?, Family::OpenSsl)
}

/// Whether a file has or uses functions that go over to another stack, as coroutines do. Who brings such code
/// of its own, without a name, is not recognised.
pub fn switches_stacks(file: &File) -> bool {
    /// Of the C library: who uses them counts.
    const USED: [&[u8]; 1] = [b"swapcontext"];
    /// Of libraries for coroutines: who has them counts, too.
    const KNOWN: [&[u8]; 7] = [
        b"jump_fcontext",
        b"ontop_fcontext",
        b"bthread_jump_fcontext",
        b"coctx_swap",
        b"coro_transfer",
        b"acosw",
        b"fiber_switchContext",
    ];
    let deadline = Deadline::start();
    let data = Bounded::file(file, deadline);
    let Ok(image) = Image::parse(&data, deadline) else { return false };
    own_tables(&image).iter().any(|symbols| {
        symbols.names().any(|(name, is_defined)| KNOWN.contains(&name) || !is_defined && USED.contains(&name))
    })
}

/// File offsets of `BIO_write` and `BIO_read`, through which OpenSSL gives and takes TLS records, in a libcrypto; and
/// where the latter returns.
pub(super) fn bio(file: &File) -> Option<((u64, u64), Returns)> {
    let deadline = Deadline::start();
    let data = Bounded::file(file, deadline);
    let image = Image::parse(&data, deadline).ok()?;
    let tables = own_tables(&image);
    let (write, read) = tables.iter().find_map(|symbols| bio_in(&image, symbols))?;
    let wanted = Wanted { functions: vec![read], ..Wanted::default() };
    Some(((write, read), returns::find(&image, &tables, &wanted)))
}

fn bio_in<'d, R: ReadRef<'d>>(image: &Image<'d, R>, symbols: &Symbols<'d>) -> Option<(u64, u64)> {
    let offset = |wanted: &[u8]| {
        let (_, address) = symbols.functions().find(|(name, _)| *name == wanted)?;
        image.file_offset(address)
    };
    Some((offset(b"BIO_write")?, offset(b"BIO_read")?))
}

/// The dynamic table is what other programs link to, so it goes first; a static program has only the other one.
pub(super) fn own_tables<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Vec<Symbols<'d>> {
    [elf::SHT_DYNSYM, elf::SHT_SYMTAB].into_iter().filter_map(|kind| image.symbols(kind)).collect()
}

/// What these symbols tell of the file. `own`: they stand in the file itself.
pub(super) fn of_tables<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    tables: &[Symbols<'d>],
    own: bool,
) -> Result<TlsLibrary, NotTls> {
    let go = if own { go::find(image) } else { None };
    let rustls = rustls::find(image, tables);
    for symbols in tables {
        let mut offsets = offsets(symbols, image);
        let is_there = |family: &Family| family.known_by().iter().all(|f| offsets.get(*f).is_some());
        let Some(family) = Family::ALL.into_iter().find(is_there) else { continue };
        if !own && !begin_functions(image, tables) {
            continue;
        }
        offsets.keep(family);
        let version = version_of(image, family);
        let named_by = if symbols.kind == elf::SHT_DYNSYM { NamedBy::Dynamic } else { NamedBy::Full };
        let internal = match family {
            Family::OpenSsl => {
                // Its calls are those of a handle inside another's.
                let imports = image.imports();
                let passes_on = |f: Function| imports.values().any(|import| *import == f.symbol().as_bytes());
                if passes_on(Function::GnutlsSend) || passes_on(Function::NssImport) {
                    return Err(NotTls::Wrapper);
                }
                internal::find(image, tables, &mut offsets)
            }
            Family::GnuTls => {
                gnutls(image, tables, &mut offsets);
                Internal::none(NoInternal::NoExport)
            }
            Family::Nss => {
                nss(image, tables, &mut offsets).map_err(NotTls::Nss)?;
                Internal::none(NoInternal::NoExport)
            }
        };
        // A Go program may contain a C library as well.
        let go = go.and_then(Result::ok);
        let bio = tables.iter().find_map(|symbols| bio_in(image, symbols));
        let nameless = family == Family::OpenSsl && version.is_none();
        let make = if nameless { likely::make(image) } else { None };
        let (rustls, also) = match rustls {
            Some(Ok(rustls)) => (Some(rustls), None),
            Some(Err(why)) => (None, Some(NotTls::Rustls(why))),
            None => rustls_of_code(image),
        };
        let family = Some(family);
        let returns = Returns::default();
        return Ok(TlsLibrary {
            family,
            offsets,
            internal,
            bio,
            returns,
            go,
            rustls,
            version,
            make,
            also,
            named_by,
        });
    }
    let (go, rustls) = match (go, rustls) {
        (Some(Ok(go)), rustls) => (Some(go), rustls.and_then(Result::ok)),
        (_, Some(rustls)) => (None, Some(rustls.map_err(NotTls::Rustls)?)),
        (Some(Err(why)), None) => return Err(NotTls::Go(why)),
        (None, None) => return Err(NotTls::NoSymbols),
    };
    Ok(TlsLibrary {
        family: None,
        offsets: Offsets::default(),
        internal: Internal::none(NoInternal::NoExport),
        bio: None,
        returns: Returns::default(),
        version: Some(match &rustls {
            Some(rustls) if go.is_none() => rustls.to_string(),
            _ => go::version(image),
        }),
        make: None,
        also: None,
        named_by: if go.is_some() { NamedBy::Pclntab } else { NamedBy::Full },
        go,
        rustls,
    })
}

/// Whether all functions of interest begin where the unwind table says that functions begin, if the file has
/// one: a probe elsewhere would end its program.
fn begin_functions<'d, R: ReadRef<'d>>(image: &Image<'d, R>, tables: &[Symbols<'d>]) -> bool {
    let Some(site) = Site::of(image, tables) else { return true };
    let probed = |name: &[u8]| {
        Function::from_symbol(name).is_some() || [&b"BIO_write"[..], b"BIO_read"].contains(&name)
    };
    let mut of_interest = tables.iter().flat_map(Symbols::functions).filter(|(name, _)| probed(name));
    of_interest.all(|(_, address)| site.is_function(address))
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
