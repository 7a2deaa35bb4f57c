//! rustls in a program without names: its functions, by the tables of methods that hold them.
//!
//! What encrypts and what decrypts is called through a table. A key is made by a function that returns it with its
//! table, so that function loads the table's address; and it can panic, so it also loads that of a place in the source, which
//! names one of four files of rustls. So these files lead to functions, those to tables, and those to the methods:
//!
//! - Rust's tables hold the function that drops a value, its size, its alignment, and the methods in the order of the source
//!   (library/core/src/ptr/metadata.rs; the order is not promised, so everything here is checked).
//! - `MessageEncrypter` has two methods, `encrypt` and `encrypted_payload_len`. The latter adds a number to its argument:
//!   one for each protection of records.
//! - `MessageDecrypter` has one, `decrypt`. In TLS 1.3 its key is as large as that which encrypts. In TLS 1.2 what makes it is
//!   the method after the one that makes the other, in the table of the algorithm.
//!
//! Every method must begin where a function begins (`starts`). Whether it is what it was taken for, each record shows by
//! its lengths (`bpf/rustls.bpf.h`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
use memchr::memmem::Finder;
use object::{ReadRef, elf};

use super::super::code::CODE_MAX;
use super::super::image::{Image, Pointer, Stored};
use super::super::internal::Site;
use super::super::text::{self, Text};
use super::super::unnamed::NoEntries;
use super::{Protection, Rustls, RustlsFunction, RustlsPlace};

/// Longest path of a source file.
const PATH_MAX: u64 = 512;
/// Places in these files that code may name; two providers have some forty.
const PLACES_MAX: usize = 4096;
/// Functions that may do so.
const USERS_MAX: usize = 1024;
/// Size of what encrypts or decrypts, in bytes: a key, and what goes into nonces.
const SIZES: std::ops::RangeInclusive<u64> = 32..=4096;
/// Its alignments.
const ALIGNMENTS: std::ops::RangeInclusive<u64> = 8..=64;
/// Instructions of `encrypted_payload_len`.
const STEPS_MAX: usize = 16;

/// One of the files in which keys are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Source {
    is_tls13: bool,
    provider: &'static str,
    /// As [`RustlsFunction::owned`].
    owned: bool,
}

/// What their paths end with, behind the folder of rustls: backwards, so that this program does not hold them.
const FILES: [(&str, bool, &str); 4] = [
    ("sr.21slt/gnir/otpyrc/crs/", false, "ring"),
    ("sr.31slt/gnir/otpyrc/crs/", true, "ring"),
    ("sr.21slt/sr_cl_swa/otpyrc/crs/", false, "aws-lc-rs"),
    ("sr.31slt/sr_cl_swa/otpyrc/crs/", true, "aws-lc-rs"),
];
/// Files that 0.23 has and 0.22 lacks.
const NEW_FILES: [&str; 2] = ["sr.dnuobni/egassem/sgsm/crs/sltsur", "sr.dnuobtuo/egassem/sgsm/crs/sltsur"];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Unnamed {
    pub(in super::super) rustls: Rustls,
    /// Of which versions, as far as names of folders tell.
    pub(in super::super) versions: BTreeSet<String>,
}

/// Finds all, or nothing.
pub(in super::super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<Unnamed, NoEntries> {
    let files = files(image)?;
    if image.machine != elf::EM_X86_64 {
        return Err(NoEntries::Machine);
    }
    let site = Site::of_code(image).ok_or(NoEntries::Unreadable)?;
    let search = Search { image, site: &site, pointers: image.pointers(), stored: image.stored() };
    let (sources, versions) = search.sources(&files)?;
    let makers = search.makers(&sources)?;
    let mut places = search.of_tls13(&makers)?;
    places.extend(search.of_tls12(&makers)?);
    finish(&sources, places, versions)
}

/// Where the names of the files of interest are.
struct Files<'d> {
    /// Address of the constants.
    start: u64,
    constants: &'d [u8],
    /// Addresses at which names end, and which of [`FILES`] they name.
    ends: BTreeMap<u64, (bool, &'static str)>,
    /// There are [`NEW_FILES`].
    are_new: bool,
}

fn files<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<Files<'d>, NoEntries> {
    let (start, constants) = image.section(b".rodata").ok_or(NoEntries::NoPlaces)?;
    let forwards = |backwards: &str| -> String { backwards.chars().rev().collect() };
    let mut ends = BTreeMap::new();
    for (backwards, is_tls13, provider) in FILES {
        let name = forwards(backwards);
        for at in Finder::new(&name).find_iter(constants) {
            ends.insert(start.saturating_add((at + name.len()) as u64), (is_tls13, provider));
            if ends.len() > PLACES_MAX {
                return Err(NoEntries::TooMuch);
            }
        }
    }
    if ends.is_empty() {
        return Err(NoEntries::NoPlaces);
    }
    let is_there = |backwards: &str| Finder::new(&forwards(backwards)).find(constants).is_some();
    Ok(Files { start, constants, ends, are_new: NEW_FILES.into_iter().any(is_there) })
}

/// A table of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Table {
    /// Of the values that have these methods.
    size: u64,
    alignment: u64,
    /// The first method.
    first: u64,
    /// What the second one adds, if it is `encrypted_payload_len`.
    adds: Option<u64>,
}

/// A function that makes keys.
#[derive(Debug)]
struct Maker {
    sources: BTreeSet<Source>,
    table: Table,
}

impl Maker {
    fn source(&self, is_tls13: bool) -> Option<Source> {
        self.sources.iter().copied().find(|source| source.is_tls13 == is_tls13)
    }
}

struct Search<'a, 'd, R: ReadRef<'d>> {
    image: &'a Image<'d, R>,
    site: &'a Site<'a, 'd, R>,
    pointers: &'a HashMap<u64, Pointer<'d>>,
    stored: Stored<'d>,
}

impl<'d, R: ReadRef<'d>> Search<'_, 'd, R> {
    fn pointer(&self, at: u64) -> Option<u64> {
        match self.pointers.get(&at)? {
            Pointer::Address(address) => Some(*address),
            Pointer::Import(_) => None,
        }
    }

    /// A number at a place that the loader leaves alone.
    fn number(&self, at: u64) -> Option<u64> {
        if self.pointers.contains_key(&at) { None } else { self.stored.word(at) }
    }

    fn function(&self, at: u64) -> Option<u64> {
        self.pointer(at).filter(|address| self.site.is_function(*address))
    }

    /// Addresses of what panics tell of their place (`core::panic::Location`) in these files, and versions.
    fn sources(&self, files: &Files<'d>) -> Result<(HashMap<u64, Source>, BTreeSet<String>), NoEntries> {
        let Files { start, constants, ends, are_new } = files;
        let (mut sources, mut versions) = (HashMap::new(), BTreeSet::new());
        for (at, to) in self.pointers {
            let Pointer::Address(path) = to else { continue };
            let Some((end, (is_tls13, provider))) =
                path.checked_add(1).and_then(|from| ends.range(from..).next())
            else {
                continue;
            };
            let len = end - path;
            // Newer compilers count the zero behind it.
            let is_its_length = |told: u64| told == len || told == len + 1;
            if len > PATH_MAX || !self.number(at.wrapping_add(8)).is_some_and(is_its_length) {
                continue;
            }
            let from = path.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
            let Some(path) = from.and_then(|from| constants.get(from..from + len as usize)) else { continue };
            let owned = match version(path) {
                Some(Some(version)) if version.starts_with("0.23.") => {
                    versions.insert(version.to_owned());
                    false
                }
                Some(Some(version)) if version.starts_with("0.22.") => {
                    versions.insert(version.to_owned());
                    true
                }
                Some(None) if *are_new => false,
                Some(_) => return Err(NoEntries::Version),
                None => continue,
            };
            sources.insert(*at, Source { is_tls13: *is_tls13, provider, owned });
            if sources.len() > PLACES_MAX {
                return Err(NoEntries::TooMuch);
            }
        }
        if sources.is_empty() { Err(NoEntries::NoPlaces) } else { Ok((sources, versions)) }
    }

    /// The functions that name these places and load one table of what may be a key's methods.
    fn makers(&self, sources: &HashMap<u64, Source>) -> Result<BTreeMap<u64, Maker>, NoEntries> {
        let text = Text::of(self.image, self.site).ok_or(NoEntries::Unreadable)?;
        let mut users: BTreeSet<(u64, u64)> = BTreeSet::new();
        for (at, _) in text.loads().filter(|(_, target)| sources.contains_key(target)) {
            users.extend(self.site.range_with(at));
            if users.len() > USERS_MAX {
                return Err(NoEntries::TooMuch);
            }
        }
        let mut makers = BTreeMap::new();
        for (start, end) in users {
            let Some(loaded) = text::loaded(self.image, start, end) else { continue };
            let own: BTreeSet<Source> = loaded.iter().filter_map(|at| sources.get(at).copied()).collect();
            let mut tables: Vec<Table> = loaded.iter().filter_map(|at| self.table(*at)).collect();
            tables.sort_unstable();
            tables.dedup();
            if let ([table], false) = (&tables[..], own.is_empty()) {
                makers.insert(start, Maker { sources: own, table: *table });
            }
        }
        Ok(makers)
    }

    /// The table at an address, if it may be that of `MessageEncrypter` or `MessageDecrypter`.
    fn table(&self, at: u64) -> Option<Table> {
        let word = |index: u64| at.checked_add(8 * index);
        let drops = word(0)?;
        // Values that need no dropping have no function for it.
        if self.function(drops).is_none() && self.number(drops) != Some(0) {
            return None;
        }
        let size = self.number(word(1)?).filter(|size| SIZES.contains(size))?;
        let alignment = self.number(word(2)?).filter(|a| ALIGNMENTS.contains(a) && a.is_power_of_two())?;
        let first = self.function(word(3)?)?;
        let second = self.function(word(4)?);
        let adds = second.and_then(|second| self.adds(second));
        // Another trait has more methods. Behind one method another table may begin: a function, and a size.
        let has_more = adds.is_none() && second.is_some() && self.function(word(5)?).is_some();
        (!has_more).then_some(Table { size, alignment, first, adds })
    }

    /// What the function at an address adds to its second argument, if that is all that it does.
    fn adds(&self, address: u64) -> Option<u64> {
        let (start, end) = self.site.range_with(address).filter(|(start, _)| *start == address)?;
        let len = end.checked_sub(start).filter(|len| *len <= CODE_MAX)?;
        added(self.image.code(start, len)?, start)
    }

    /// What encrypts and decrypts records of TLS 1.3.
    fn of_tls13(&self, makers: &BTreeMap<u64, Maker>) -> Result<Vec<(Source, RustlsPlace)>, NoEntries> {
        let its = |maker: &Maker| Some((maker.source(true)?, maker.table));
        let tables: BTreeSet<(Source, Table)> = makers.values().filter_map(its).collect();
        let encrypts = |source: Source| {
            let all = tables.iter().filter(move |(s, table)| *s == source && table.adds.is_some());
            all.map(|(_, table)| table)
        };
        let mut places = Vec::new();
        let sources: BTreeSet<Source> = tables.iter().map(|(source, _)| *source).collect();
        for source in sources {
            let mut count = 0;
            for table in encrypts(source) {
                if protection(table.adds) != Some(Protection::Tls13) {
                    return Err(NoEntries::Arguments(ENCRYPT));
                }
                places.push(self.place(true, Protection::Tls13, source, table.first)?);
                count += 1;
            }
            for (_, table) in tables.iter().filter(|(s, table)| *s == source && table.adds.is_none()) {
                let like = |other: &Table| (other.size, other.alignment) == (table.size, table.alignment);
                if encrypts(source).any(like) {
                    places.push(self.place(false, Protection::Tls13, source, table.first)?);
                    count -= 1;
                }
            }
            match count {
                0 => {}
                1.. => return Err(NoEntries::Missing(DECRYPT)),
                _ => return Err(NoEntries::Ambiguous(DECRYPT, places.len())),
            }
        }
        Ok(places)
    }

    /// The same of TLS 1.2.
    fn of_tls12(&self, makers: &BTreeMap<u64, Maker>) -> Result<Vec<(Source, RustlsPlace)>, NoEntries> {
        let is_maker = |maker: &Maker| maker.table.adds.is_some() && maker.source(false).is_some();
        let mut held: BTreeMap<u64, Vec<u64>> =
            makers.iter().filter(|(_, maker)| is_maker(maker)).map(|(start, _)| (*start, vec![])).collect();
        for (at, to) in self.pointers {
            if let Pointer::Address(address) = to
                && let Some(places) = held.get_mut(address)
            {
                places.push(*at);
            }
        }
        let mut places = Vec::new();
        for (start, held_at) in held {
            let maker = &makers[&start];
            let (Some(source), Some(protection)) = (maker.source(false), protection(maker.table.adds)) else {
                continue;
            };
            if protection == Protection::Tls13 {
                // Of a function with both, by inlining, nothing is known.
                return Err(NoEntries::Arguments(ENCRYPT));
            }
            places.push(self.place(true, protection, source, maker.table.first)?);
            let after = |at: &u64| self.function(at.checked_add(8)?);
            let others: BTreeSet<u64> = held_at.iter().filter_map(after).collect();
            let decrypts = others.iter().filter_map(|other| makers.get(other));
            let decrypts: Vec<&Maker> = decrypts.filter(|m| m.table.adds.is_none()).collect();
            match decrypts[..] {
                [one] if one.source(false) == Some(source) => {
                    places.push(self.place(false, protection, source, one.table.first)?);
                }
                [] | [_] => return Err(NoEntries::Missing(DECRYPT)),
                ref many => return Err(NoEntries::Ambiguous(DECRYPT, many.len())),
            }
        }
        Ok(places)
    }

    fn place(
        &self,
        encrypts: bool,
        protection: Protection,
        source: Source,
        address: u64,
    ) -> Result<(Source, RustlsPlace), NoEntries> {
        let what = if encrypts { ENCRYPT } else { DECRYPT };
        let entry = if self.site.is_function(address) { self.image.file_offset(address) } else { None };
        let place = RustlsPlace {
            function: RustlsFunction { encrypts, protection, owned: source.owned },
            name: format!("{what} ({protection}, {})", source.provider),
            entry: entry.ok_or(NoEntries::Arguments(what))?,
        };
        Ok((source, place))
    }
}

/// Their names in messages.
const ENCRYPT: &str = "MessageEncrypter::encrypt";
const DECRYPT: &str = "MessageDecrypter::decrypt";

/// The version in the path of a file of rustls, if its folder tells it; `None`: it is no file of rustls. Folders are called
/// `rustls-0.23.46` by cargo, `rustls` where it is vendored, `crates__rustls-0.23.46` by Bazel.
fn version(path: &[u8]) -> Option<Option<&str>> {
    let (folders, _) = std::str::from_utf8(path).ok()?.rsplit_once("/src/crypto/")?;
    let name = folders.rsplit('/').next()?;
    let (before, after) = name.rsplit_once("rustls")?;
    if before.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    match after.strip_prefix('-') {
        None => after.is_empty().then_some(None),
        Some(version) => version.starts_with(|c: char| c.is_ascii_digit()).then_some(Some(version)),
    }
}

/// What is added to a record that is protected so.
fn protection(adds: Option<u64>) -> Option<Protection> {
    match adds? {
        // The type, and a tag.
        17 => Some(Protection::Tls13),
        // A nonce, and a tag.
        24 => Some(Protection::Tls12Gcm),
        16 => Some(Protection::Tls12ChaCha),
        _ => None,
    }
}

/// The number that a function adds to its second argument, if it returns the sum and does nothing else.
fn added(code: &[u8], start: u64) -> Option<u64> {
    use Register::{RAX, RBP, RSI, RSP};
    /// RAX and RSI, as sums with the argument.
    struct Sums {
        rax: Option<u64>,
        rsi: Option<u64>,
    }
    impl Sums {
        fn of(&mut self, register: Register) -> Option<&mut Option<u64>> {
            match register {
                RAX => Some(&mut self.rax),
                RSI => Some(&mut self.rsi),
                _ => None,
            }
        }
    }
    let mut sums = Sums { rax: None, rsi: Some(0) };
    for i in Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().take(STEPS_MAX) {
        match i.code() {
            Code::Endbr64 => {}
            // A frame pointer.
            Code::Push_r64 | Code::Pop_r64 if i.op0_register() == RBP => {}
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if i.op0_register() == RBP && i.op1_register() == RSP => {
            }
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if !is_memory(&i) => {
                let value = *sums.of(i.op1_register())?;
                *sums.of(i.op0_register())? = value;
            }
            Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_RAX_imm32 if !is_memory(&i) => {
                let sum = sums.of(i.op0_register())?;
                *sum = Some((*sum)?.checked_add(i.immediate(1))?);
            }
            Code::Lea_r64_m if i.memory_index() == Register::None && !i.is_ip_rel_memory_operand() => {
                let value = (*sums.of(i.memory_base())?)?.checked_add(i.memory_displacement64())?;
                *sums.of(i.op0_register())? = Some(value);
            }
            // A check for overflow, which leads to a panic.
            Code::Jb_rel8_64 | Code::Jb_rel32_64 => {}
            Code::Retnq => return sums.rax,
            _ => return None,
        }
    }
    None
}

fn is_memory(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == iced_x86::OpKind::Memory)
}

/// Something must be found for each of the files, and no function be two things.
fn finish(
    sources: &HashMap<u64, Source>,
    found: Vec<(Source, RustlsPlace)>,
    versions: BTreeSet<String>,
) -> Result<Unnamed, NoEntries> {
    if sources.values().any(|source| found.iter().all(|(its, _)| its != source)) {
        return Err(NoEntries::Missing(ENCRYPT));
    }
    let mut places: Vec<RustlsPlace> = found.into_iter().map(|(_, place)| place).collect();
    places.sort_by_key(|place| (place.function, place.entry));
    places.dedup_by_key(|place| (place.function, place.entry));
    let mut entries: Vec<u64> = places.iter().map(|place| place.entry).collect();
    entries.sort_unstable();
    if entries.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(NoEntries::Ambiguous(ENCRYPT, 2));
    }
    Ok(Unnamed { rustls: Rustls { places, version: versions.first().cloned() }, versions })
}

#[cfg(test)]
mod tests;
