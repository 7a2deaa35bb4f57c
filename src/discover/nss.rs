//! Finds NSS's reading and writing functions, which have no names.
//!
//! PR_Read and PR_Write serve plain files and sockets too, so the SSL layer's own functions are probed. Their
//! addresses stand in one table of libssl3, NSPR's `PRIOMethods`, or in the code that fills it, where the
//! compiler has taken the table apart. A table is believed if it is of layered descriptors, all its
//! methods are beginnings of functions, the two that NSPR itself provides stand at their places by name,
//! and there is only one.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{Code, Decoder, DecoderOptions};
use object::ReadRef;

use super::code::CODE_MAX;
use super::function::Function;
use super::image::{Image, Pointer};
use super::internal::Site;
use super::stores;

/// `PR_DESC_LAYERED`: what a table of methods begins with.
const LAYERED: u64 = 4;
/// The places of a `PRIOMethods` that hold functions of the SSL layer, counted from its beginning in 8 bytes.
const METHODS: [u64; 24] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25];
/// Those that hold functions of NSPR, which have names.
const NAMED: [(u64, &[u8]); 2] = [(22, b"PR_EmulateAcceptRead"), (30, b"PR_EmulateSendFile")];
/// Those that are probed.
const PROBED: [(u64, Function); 8] = [
    (1, Function::NssClose),
    (2, Function::NssRead),
    (3, Function::NssWrite),
    (11, Function::NssWritev),
    (13, Function::NssAccept),
    (16, Function::NssShutdown),
    (17, Function::NssRecv),
    (18, Function::NssSend),
];
/// Sections that may hold the table.
const SECTIONS: [&[u8]; 4] = [b".data.rel.ro", b".data.rel.ro.local", b".data", b".rodata"];
/// Longest code in which the function that fills the table is looked for, in bytes.
const TEXT_MAX: u64 = 64 << 20;

/// Why NSS's functions were not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMethods {
    /// Machine code is decoded for x86-64 only; or the unwind table cannot be read.
    #[error("unwind table or code cannot be read")]
    Unreadable,
    /// No table is one.
    #[error("no table of the SSL layer's methods is found in it")]
    None,
    /// Several are, and differ.
    #[error("{0} tables could be that of the SSL layer's methods")]
    Ambiguous(usize),
}

type Table = [u64; PROBED.len()];

/// The functions, and their addresses.
pub(super) fn methods<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    site: &Site<'_, 'd, R>,
) -> Result<Vec<(Function, u64)>, NoMethods> {
    let pointers = image.pointers();
    let mut tables = BTreeSet::new();
    for name in SECTIONS {
        let Some((start, bytes)) = image.section(name) else { continue };
        let word = |address: u64| -> Option<u64> {
            let at = usize::try_from(address.checked_sub(start)?).ok()?;
            Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
        };
        // Packed relocations keep what they add to in its place.
        let load =
            |address: u64| pointers.get(&address).copied().or_else(|| word(address).map(Pointer::Address));
        // Addresses are what the file says: the next multiple may lie beyond the last address.
        let Some(first) = start.checked_next_multiple_of(8) else { continue };
        let ends = start.saturating_add(bytes.len() as u64);
        for at in (first..ends).step_by(8).filter(|at| word(*at) == Some(LAYERED)) {
            tables.extend(table(site, at, &load));
        }
    }
    if tables.is_empty() {
        for (start, code) in fillers(image, site) {
            let load = |address: u64| pointers.get(&address).copied();
            let stored = stores::stores(code, start, &load);
            let layered = stored.iter().filter(|(_, value)| **value == Pointer::Address(LAYERED));
            for (at, _) in layered {
                tables.extend(table(site, *at, &|address| stored.get(&address).copied()));
            }
        }
    }
    match (tables.len(), tables.first()) {
        (1, Some(table)) => Ok(PROBED.iter().zip(table).map(|((_, f), address)| (*f, *address)).collect()),
        (0, _) => Err(NoMethods::None),
        (n, _) => Err(NoMethods::Ambiguous(n)),
    }
}

/// What is probed of the table at `at`, if it is one.
fn table<'d, R: ReadRef<'d>>(
    site: &Site<'_, 'd, R>,
    at: u64,
    load: &dyn Fn(u64) -> Option<Pointer<'d>>,
) -> Option<Table> {
    let entry = |index: u64| load(at.checked_add(index * 8)?);
    for (index, name) in NAMED {
        let is_it = match entry(index)? {
            Pointer::Import(import) => import == name,
            Pointer::Address(address) => site.name_at(address).as_deref() == Some(name),
        };
        if !is_it {
            return None;
        }
    }
    let mut methods = HashMap::new();
    for index in METHODS {
        let Some(Pointer::Address(address)) = entry(index) else { return None };
        if !site.is_function(address) {
            return None;
        }
        methods.insert(index, address);
    }
    let once = |address| methods.values().filter(|other| **other == address).count() == 1;
    let mut table = Table::default();
    for (slot, (index, _)) in table.iter_mut().zip(PROBED) {
        *slot = *methods.get(&index).filter(|address| once(**address))?;
    }
    Some(table)
}

/// The functions that ask NSPR for its methods, to put others in their place.
fn fillers<'d, R: ReadRef<'d>>(image: &Image<'d, R>, site: &Site<'_, 'd, R>) -> Vec<(u64, &'d [u8])> {
    const ASKED: &[u8] = b"PR_GetDefaultIOMethods";
    if site.text().end.saturating_sub(site.text().start) > TEXT_MAX {
        return Vec::new();
    }
    let mut names: HashMap<u64, bool> = HashMap::new();
    let mut is_asked =
        |target| *names.entry(target).or_insert_with(|| site.name_at(target).as_deref() == Some(ASKED));
    let mut found = Vec::new();
    for (start, end) in site.ranges() {
        let len = end.saturating_sub(start);
        let Some(code) = (len <= CODE_MAX).then(|| image.code(start, len)).flatten() else { continue };
        let calls =
            Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().any(|i| match i.code() {
                Code::Call_rel32_64 => is_asked(i.near_branch_target()),
                Code::Call_rm64 if i.is_ip_rel_memory_operand() => {
                    site.import_in(i.ip_rel_memory_address()) == Some(ASKED)
                }
                _ => false,
            });
        if calls {
            found.push((start, code));
        }
    }
    found
}
