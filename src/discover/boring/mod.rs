//! Finds the functions of BoringSSL and AWS-LC in a program that has no names for them.
//!
//! Nothing here knows a build. Every error that the library raises names the source file it is raised in and
//! a reason; the reasons are numbers of the public interface. So the code itself tells which functions
//! raise what (`raises`), and what the source says about each function singles it out:
//!
//! - The table of TLS's methods holds the one function that refuses to write after a shutdown and a retried
//!   write that changed. `SSL_write` raises "uninitialized" and "handshake failure", and calls that method of the
//!   table.
//! - `SSL_do_handshake` is what it calls and raises "connection type not set"; the function that waits for a record is
//!   the other one that raises the two, and calls it too.
//! - `SSL_read` and `SSL_peek` refuse QUIC and call that function; only `SSL_read` then takes what it gave out of
//!   the library's buffer, so writes to memory.
//! - `SSL_new` raises "null SSL_CTX"; a handle ends with the table's method that takes off what the method
//!   before it put in.
//! - `BIO_read` and `BIO_write` are what the functions call that raise "BIO not set", with and without "buffer too
//!   small".
//!
//! Exactly one function must fit each, all must begin where functions begin (`starts`), and each must take
//! its arguments as the function does. That is the static half of the proof. The other one is given by the running
//! program: see `bpf/probation.bpf.h`.

mod raises;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use object::{ReadRef, elf};

pub(super) use self::raises::arguments;
use self::raises::{Raiser, Raises, Source};
use super::function::{Function, Offsets};
use super::image::{Image, Pointer};
use super::internal::Site;
use super::unnamed::{Entries, NoEntries};

/// Reasons of the SSL library, as its header numbers them; they never change.
const SHOULD_NOT_HAVE_BEEN_CALLED: u32 = 66;
const BAD_WRITE_RETRY: u32 = 118;
const BIO_NOT_SET: u32 = 119;
const BUFFER_TOO_SMALL: u32 = 121;
const CONNECTION_TYPE_NOT_SET: u32 = 134;
const NULL_SSL_CTX: u32 = 185;
const PROTOCOL_IS_SHUTDOWN: u32 = 194;
const SSL_HANDSHAKE_FAILURE: u32 = 215;
const UNINITIALIZED: u32 = 226;
/// Of its BIOs.
const BIO_UNINITIALIZED: u32 = 114;
const BIO_UNSUPPORTED_METHOD: u32 = 115;

/// Places in the table of methods: those that make and end what a handle needs for its protocol.
const MAKES: u64 = 8;
const ENDS: u64 = 16;
/// The last place that may be that of writing.
const PLACE_MAX: u64 = 256;
/// Tables that may hold a function; each protocol has one.
const TABLES_MAX: usize = 16;

/// Finds all, or nothing.
pub(super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<Entries, NoEntries> {
    if image.machine != elf::EM_X86_64 {
        return Err(NoEntries::Machine);
    }
    let site = Site::of_code(image).ok_or(NoEntries::Unreadable)?;
    let raises = Raises::of(image, &site)?;
    let pointers = image.pointers();
    let found = Search { image, site: &site, raises: &raises, pointer_at: &|at| pointers.get(&at).copied() };
    let (mut functions, bios) = found.all(pointers.iter().map(|(at, to)| (*at, *to)))?;
    let offset = |at: u64| {
        if site.is_function(at) { image.file_offset(at) } else { None }.ok_or(NoEntries::Unreadable)
    };
    let mut offsets = Offsets::default();
    functions.sort_unstable();
    for (function, address) in &functions {
        offsets.set(*function, offset(*address)?);
    }
    site.improve(&mut offsets, &functions);
    Ok(Entries { offsets, bio: (offset(bios.0)?, offset(bios.1)?) })
}

type Functions = Vec<(Function, u64)>;

struct Search<'a, 'd, R: ReadRef<'d>> {
    image: &'a Image<'d, R>,
    site: &'a Site<'a, 'd, R>,
    raises: &'a Raises,
    pointer_at: &'a dyn Fn(u64) -> Option<Pointer<'d>>,
}

impl<'d, R: ReadRef<'d>> Search<'_, 'd, R> {
    /// The functions that are probed, and `BIO_write` and `BIO_read`.
    fn all(
        &self,
        pointers: impl Iterator<Item = (u64, Pointer<'d>)>,
    ) -> Result<(Functions, (u64, u64)), NoEntries> {
        let library = |reasons: &'static [u32]| self.raises.raising(Source::Library, reasons);

        let writes = self.writes_records()?;
        let held = pointers.filter(|(_, to)| *to == Pointer::Address(writes)).map(|(at, _)| at);
        let held_at: Vec<u64> = held.take(TABLES_MAX + 1).collect();
        if held_at.len() > TABLES_MAX {
            return Err(NoEntries::Ambiguous("its table of methods", held_at.len()));
        }
        let both = || library(&[UNINITIALIZED, SSL_HANDSHAKE_FAILURE]);
        let bases = held_at.iter().flat_map(|at| (0..=PLACE_MAX).step_by(8).map(move |place| (*at, place)));
        let all: Vec<(u64, u64)> =
            bases.filter_map(|(at, place)| Some((place, self.table(at, place)?))).collect();
        let tables = |f: &Raiser| -> Vec<u64> {
            all.iter().filter(|(place, _)| f.places.contains(place)).map(|(_, base)| *base).collect()
        };
        let write = one("SSL_write", both().filter(|f| !tables(f).is_empty()))?;
        let table = match tables(write)[..] {
            [table] => table,
            ref many => return Err(NoEntries::Ambiguous("its table of methods", many.len())),
        };

        let handshake = one(
            "SSL_do_handshake",
            library(&[CONNECTION_TYPE_NOT_SET]).filter(|f| write.calls.contains(&f.address)),
        )?;
        let waits = one(
            "the function behind SSL_read",
            both().filter(|f| f.address != write.address && f.calls.contains(&handshake.address)),
        )?;
        let readers = || {
            library(&[SHOULD_NOT_HAVE_BEEN_CALLED])
                .filter(|f| f.address != write.address && f.calls.contains(&waits.address))
        };
        let read = one("SSL_read", readers().filter(|f| f.writes_memory))?;
        let peek = at_most_one("SSL_peek", readers().filter(|f| !f.writes_memory))?;
        let new = one("SSL_new", library(&[NULL_SSL_CTX]).filter(|f| f.places.contains(&MAKES)))?;

        for (name, function) in [("SSL_write", Some(write)), ("SSL_read", Some(read)), ("SSL_peek", peek)] {
            if function.is_some_and(|f| !f.takes_three) {
                return Err(NoEntries::Arguments(name));
            }
        }
        let mut functions = vec![
            (Function::Read, read.address),
            (Function::Write, write.address),
            (Function::DoHandshake, handshake.address),
            (Function::New, new.address),
        ];
        functions.extend(peek.map(|f| (Function::Peek, f.address)));
        functions.extend(self.ends(table).map(|address| (Function::Free, address)));
        let bios = self.bios()?;
        let mut addresses: Vec<u64> = functions.iter().map(|(_, address)| *address).collect();
        addresses.extend([waits.address, bios.0, bios.1]);
        addresses.sort_unstable();
        match addresses.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(NoEntries::Ambiguous("one of those", 2)),
            false => Ok((functions, bios)),
        }
    }

    /// The method that makes records of what is written.
    fn writes_records(&self) -> Result<u64, NoEntries> {
        let retries = |f: &Raiser| f.raises(Source::Records, BAD_WRITE_RETRY);
        let is_it = |f: &&Raiser| retries(f) || self.raises.called_by(f).any(retries);
        let refuses = self.raises.raising(Source::Records, &[PROTOCOL_IS_SHUTDOWN]);
        Ok(one("tls_write_app_data", refuses.filter(is_it))?.address)
    }

    /// Where the table of methods begins that has a function at `at`, its place being `place`: with a
    /// flag, two functions after it.
    fn table(&self, at: u64, place: u64) -> Option<u64> {
        if !(ENDS + 8..=PLACE_MAX).contains(&place) || !place.is_multiple_of(8) {
            return None;
        }
        let base = at.checked_sub(place)?;
        let is_function = |place| self.method(base, place).is_some_and(|f| self.site.is_function(f));
        // Not datagrams.
        let flag = self.image.bytes_at(base, 8)?;
        ((self.pointer_at)(base).is_none() && flag == [0; 8] && (MAKES..=place).step_by(8).all(is_function))
            .then_some(base)
    }

    fn method(&self, table: u64, place: u64) -> Option<u64> {
        match (self.pointer_at)(table.checked_add(place)?)? {
            Pointer::Address(address) => Some(address),
            Pointer::Import(_) => None,
        }
    }

    /// What ends a handle: it empties the field of the handle that the method before it fills.
    fn ends(&self, table: u64) -> Option<u64> {
        let (makes, ends) = (self.method(table, MAKES)?, self.method(table, ENDS)?);
        let fills = raises::stores(self.image, self.site, makes)?;
        let empties = raises::stores(self.image, self.site, ends)?;
        fills.values.iter().any(|at| empties.zeros.contains(at)).then_some(ends)
    }

    /// `BIO_write` and `BIO_read`, by whom the library calls to empty and to fill its buffers.
    fn bios(&self) -> Result<(u64, u64), NoEntries> {
        let too_small = |f: &Raiser| f.raises(Source::Buffer, BUFFER_TOO_SMALL);
        let fills = |f: &&Raiser| too_small(f) || self.raises.called_by(f).any(too_small);
        let users = || self.raises.raising(Source::Buffer, &[BIO_NOT_SET]);
        let bio = |name, user: &Raiser| {
            let refuses = [BIO_UNSUPPORTED_METHOD, BIO_UNINITIALIZED];
            let is_called = |f: &&Raiser| {
                user.calls.contains(&f.address)
                    || self.raises.called_by(user).any(|between| between.calls.contains(&f.address))
            };
            let found = one(name, self.raises.raising(Source::Bio, &refuses).filter(is_called))?;
            if found.takes_three || found.takes_four {
                Ok(found.address)
            } else {
                Err(NoEntries::Arguments(name))
            }
        };
        // A compiler may have made several of one, and all must lead to the same.
        let agreed = |name, what, users: &mut dyn Iterator<Item = &Raiser>| {
            let found = users.map(|user| bio(name, user)).collect::<Result<BTreeSet<u64>, _>>()?;
            match (found.first(), found.len()) {
                (Some(only), 1) => Ok(*only),
                (None, _) => Err(NoEntries::Missing(what)),
                (_, many) => Err(NoEntries::Ambiguous(name, many)),
            }
        };
        let read = agreed("BIO_read", "the function that fills its buffer", &mut users().filter(fills))?;
        let empties = &mut users().filter(|f| !fills(f));
        Ok((agreed("BIO_write", "the function that empties its buffer", empties)?, read))
    }
}

fn one<'a>(name: &'static str, found: impl Iterator<Item = &'a Raiser>) -> Result<&'a Raiser, NoEntries> {
    at_most_one(name, found)?.ok_or(NoEntries::Missing(name))
}

fn at_most_one<'a>(
    name: &'static str,
    mut found: impl Iterator<Item = &'a Raiser>,
) -> Result<Option<&'a Raiser>, NoEntries> {
    let first = found.next();
    match found.count() {
        0 => Ok(first),
        more => Err(NoEntries::Ambiguous(name, more + 1)),
    }
}
