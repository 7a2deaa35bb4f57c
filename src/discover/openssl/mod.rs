//! Finds the functions of OpenSSL 3 in a program that has no names for them.
//!
//! Every error that OpenSSL raises names the function that raises it (`ERR_set_debug`), so the code that uses the text
//! `ssl_read_internal` is that function. Of those that raise nothing, or whose text others use too, it is proven that they wrap
//! one of those (`flow`): `SSL_read` and `SSL_read_ex` do nothing but call `ssl_read_internal`, `BIO_read` nothing but call
//! `bio_read_intern`.
//!
//! All must begin where functions begin (`starts`). That is the static half of the proof. The other one is given by
//! the running program, as for BoringSSL: see `bpf/probation.bpf.h`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use memchr::memmem::Finder;
use object::{ReadRef, elf};

use super::boring;
use super::code::CODE_MAX;
use super::function::{Function, Offsets};
use super::image::Image;
use super::internal::Site;
use super::text::{self, Text};
use super::unnamed::{Entries, NoEntries};

/// Places that may hold the name of a function.
const TEXTS_MAX: usize = 256;
/// Functions that may use these, or call those that were found.
const USERS_MAX: usize = 1 << 14;

const READ: &str = "SSL_read";
const WRITE: &str = "SSL_write";
const PEEK: &str = "SSL_peek";
const NEW: &str = "SSL_new";
const HANDSHAKE: &str = "SSL_do_handshake";
const SHUTDOWN: &str = "SSL_shutdown";
const READ_INTERNAL: &str = "ssl_read_internal";
const WRITE_INTERNAL: &str = "ssl_write_internal";
const PEEK_INTERNAL: &str = "ssl_peek_internal";
const BIO_READ_INTERNAL: &str = "bio_read_intern";
const BIO_WRITE_INTERNAL: &str = "bio_write_intern";
/// Functions that raise errors.
const NAMES: [&str; 11] = [
    READ,
    WRITE,
    PEEK,
    NEW,
    HANDSHAKE,
    SHUTDOWN,
    READ_INTERNAL,
    WRITE_INTERNAL,
    PEEK_INTERNAL,
    BIO_READ_INTERNAL,
    BIO_WRITE_INTERNAL,
];

/// Finds all, or nothing.
pub(super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<Entries, NoEntries> {
    if image.machine != elf::EM_X86_64 {
        return Err(NoEntries::Machine);
    }
    let site = Site::of_code(image).ok_or(NoEntries::Unreadable)?;
    let text = Text::of(image, &site).ok_or(NoEntries::Unreadable)?;
    let users = users(image, &site, &text)?;
    let found = Search::new(image, &site, &text, users)?;
    let (mut functions, bios) = found.all()?;
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
/// Functions by the texts that they use.
type Users = BTreeMap<&'static str, BTreeSet<u64>>;

fn users<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    site: &Site<'_, 'd, R>,
    text: &Text<'d>,
) -> Result<Users, NoEntries> {
    let (start, constants) = image.section(b".rodata").ok_or(NoEntries::Unreadable)?;
    let mut texts: HashMap<u64, &'static str> = HashMap::new();
    for name in NAMES {
        let with_end = [name.as_bytes(), b"\0"].concat();
        for at in Finder::new(&with_end).find_iter(constants) {
            texts.insert(start.checked_add(at as u64).ok_or(NoEntries::Unreadable)?, name);
            if texts.len() > TEXTS_MAX {
                return Err(NoEntries::TooMuch);
            }
        }
    }
    let mut ranges: BTreeSet<(u64, u64)> = BTreeSet::new();
    for (at, _) in text.loads().filter(|(_, target)| texts.contains_key(target)) {
        ranges.extend(site.range_with(at));
        if ranges.len() > USERS_MAX {
            return Err(NoEntries::TooMuch);
        }
    }
    let mut users = Users::new();
    for (start, end) in ranges {
        for at in text::loaded(image, start, end).unwrap_or_default() {
            if let Some(name) = texts.get(&at) {
                users.entry(*name).or_default().insert(start);
            }
        }
    }
    if users.is_empty() { Err(NoEntries::NotUsed) } else { Ok(users) }
}

struct Search<'a, 'd, R: ReadRef<'d>> {
    image: &'a Image<'d, R>,
    site: &'a Site<'a, 'd, R>,
    users: Users,
    /// Functions that may call, or jump to, those that use the texts.
    callers: HashMap<u64, BTreeSet<u64>>,
}

impl<'a, 'd, R: ReadRef<'d>> Search<'a, 'd, R> {
    fn new(
        image: &'a Image<'d, R>,
        site: &'a Site<'a, 'd, R>,
        text: &Text<'d>,
        users: Users,
    ) -> Result<Self, NoEntries> {
        let mut callers: HashMap<u64, BTreeSet<u64>> =
            users.values().flatten().map(|user| (*user, BTreeSet::new())).collect();
        for (at, target) in text.calls() {
            if let Some(callers) = callers.get_mut(&target) {
                callers.extend(site.range_with(at).map(|(start, _)| start));
                if callers.len() > USERS_MAX {
                    return Err(NoEntries::TooMuch);
                }
            }
        }
        Ok(Search { image, site, users, callers })
    }

    /// The functions that are probed, and `BIO_write` and `BIO_read`.
    fn all(&self) -> Result<(Functions, (u64, u64)), NoEntries> {
        let read_internal = self.only(READ_INTERNAL)?;
        let write_internal = self.only(WRITE_INTERNAL)?;
        let mut functions = vec![
            (Function::Read, self.wrapper(READ, Function::Read, READ_INTERNAL, read_internal)?),
            (Function::Write, self.wrapper(WRITE, Function::Write, WRITE_INTERNAL, write_internal)?),
            (Function::New, self.called(NEW)?),
            (Function::DoHandshake, self.called(HANDSHAKE)?),
        ];
        functions.extend(self.called(SHUTDOWN).ok().map(|at| (Function::Shutdown, at)));
        if let Ok(internal) = self.only(PEEK_INTERNAL) {
            let peek = self.wrapper(PEEK, Function::Read, PEEK_INTERNAL, internal).ok();
            functions.extend(peek.map(|at| (Function::Peek, at)));
        }
        // From 3.3 on, flags come before the place for the count.
        let taken = self.arguments(write_internal).ok_or(NoEntries::Arguments(WRITE_INTERNAL))?;
        let has_flags = taken[4];
        if self
            .site
            .wraps(Function::Write, functions[1].1, write_internal)
            .is_some_and(|has| has != has_flags)
        {
            return Err(NoEntries::Arguments(WRITE_INTERNAL));
        }
        let others = [
            (Function::ReadEx, read_internal, false),
            (Function::WriteEx, write_internal, has_flags),
            (Function::WriteEx2, write_internal, true),
        ];
        for (function, internal, flags) in others {
            if function == Function::WriteEx2 && !has_flags {
                continue;
            }
            let wrappers: BTreeSet<u64> = self.wrappers(function, internal, flags).collect();
            match (wrappers.first(), wrappers.len()) {
                (Some(only), 1) => functions.push((function, *only)),
                // It may be left out of the program.
                (None, _) => {}
                (_, many) => return Err(NoEntries::Ambiguous(function.symbol(), many)),
            }
        }
        let bios = (
            self.bio("BIO_write", Function::Write, BIO_WRITE_INTERNAL)?,
            self.bio("BIO_read", Function::Read, BIO_READ_INTERNAL)?,
        );
        let mut addresses: Vec<u64> = functions.iter().map(|(_, address)| *address).collect();
        addresses.extend([read_internal, write_internal, bios.0, bios.1]);
        addresses.sort_unstable();
        match addresses.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(NoEntries::Ambiguous("one of those", 2)),
            false => Ok((functions, bios)),
        }
    }

    fn users(&self, name: &'static str) -> Result<&BTreeSet<u64>, NoEntries> {
        self.users.get(name).ok_or(NoEntries::Missing(name))
    }

    /// The function that uses this text.
    fn only(&self, name: &'static str) -> Result<u64, NoEntries> {
        one(name, self.users(name)?)
    }

    /// The same, if something calls it: no part of a function that was split off.
    fn called(&self, name: &'static str) -> Result<u64, NoEntries> {
        let only = self.only(name)?;
        let is_called = self.callers.get(&only).is_some_and(|callers| !callers.is_empty());
        is_called.then_some(only).ok_or(NoEntries::Arguments(name))
    }

    /// The function that uses this text and wraps another, as `like` does. From 4.0 on they do more than that, and it must
    /// do for the static half of the proof that one of these arguments calls the other.
    fn wrapper(
        &self,
        name: &'static str,
        like: Function,
        inner: &'static str,
        internal: u64,
    ) -> Result<u64, NoEntries> {
        let users = self.users(name)?;
        let wraps = |user: &&u64| self.site.wraps(like, **user, internal).is_some();
        let calls = |user: &&u64| {
            let is_caller = self.callers.get(&internal).is_some_and(|callers| callers.contains(user));
            is_caller && self.takes_three(**user)
        };
        let proven: BTreeSet<u64> = users.iter().filter(wraps).copied().collect();
        let found = match proven.is_empty() {
            true => users.iter().filter(calls).copied().collect(),
            false => proven,
        };
        if found.is_empty() { Err(NoEntries::NoWrapper(name, inner)) } else { one(name, &found) }
    }

    /// What takes an address and a length, and wraps the function that uses this text or has it in itself.
    fn bio(&self, name: &'static str, like: Function, inner: &'static str) -> Result<u64, NoEntries> {
        let users = self.users(inner)?;
        let found = match users.first() {
            Some(only) if users.len() == 1 => self.wrappers(like, *only, false).collect(),
            // Its `_ex` form takes a fourth argument.
            _ => users.iter().copied().filter(|user| self.takes_three(*user)).collect(),
        };
        one(name, &found)
    }

    /// Whether a function takes a length as its third argument, and nothing after it.
    fn takes_three(&self, start: u64) -> bool {
        self.arguments(start).is_some_and(|taken| taken[2..] == [true, false, false, false])
    }

    fn arguments(&self, start: u64) -> Option<[bool; 6]> {
        let (_, end) = self.site.range_with(start)?;
        let len = end.checked_sub(start).filter(|len| *len <= CODE_MAX)?;
        boring::arguments(self.image.code(start, len)?, start)
    }

    /// All that wrap a function, which gets flags or not.
    fn wrappers(&self, like: Function, internal: u64, has_flags: bool) -> impl Iterator<Item = u64> + '_ {
        let callers = self.callers.get(&internal).into_iter().flatten().copied();
        callers.filter(move |caller| self.site.wraps(like, *caller, internal) == Some(has_flags))
    }
}

fn one(name: &'static str, found: &BTreeSet<u64>) -> Result<u64, NoEntries> {
    match (found.first(), found.len()) {
        (Some(only), 1) => Ok(*only),
        (None, _) => Err(NoEntries::Missing(name)),
        (_, many) => Err(NoEntries::Ambiguous(name, many)),
    }
}
