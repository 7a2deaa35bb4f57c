//! Finds the functions behind SSL_read and SSL_write, and where to probe them and the exports.
//!
//! OpenSSL's own code (BIO_f_ssl, so `openssl s_server -www`) calls these without going through the
//! exports, and a probe there is often much cheaper. A probe in the middle of an instruction would
//! crash every user of the library, so a function without a name is taken only if machine code and
//! unwind table agree: both exports call it directly, a frame description begins at it, it is the
//! only such function, and both exports are proven to be wrappers of it (`flow`).

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Register};
use object::{ReadRef, elf};

use super::code::{self, CODE_MAX, Place};
use super::flow::{self, Surroundings, Unproven};
use super::function::{Function, Offsets};
use super::image::{Image, Symbols};
use super::starts::Starts;

/// The functions behind the exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Internal {
    /// `ssl_read_internal`, which SSL_read and SSL_read_ex both call.
    pub read: Result<Behind, NoInternal>,
    /// `ssl_write_internal`, which SSL_write and SSL_write_ex (or SSL_write_ex2) both call.
    pub write: Result<Behind, NoInternal>,
}

impl Internal {
    pub(super) fn none(why: NoInternal) -> Internal {
        Internal { read: Err(why), write: Err(why) }
    }
}

/// A function behind exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Where it is probed.
    pub place: Place,
    /// The exports that are proven to be wrappers of it.
    pub exports: Vec<Function>,
}

/// Why no internal function was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInternal {
    /// Machine code is decoded for x86-64 only.
    #[error("machine code of this processor is not decoded")]
    Machine,
    /// One of the two exports is missing (BoringSSL, OpenSSL before 1.1.1).
    #[error("the library lacks the _ex function")]
    NoExport,
    /// The functions were found in the code, and have to prove themselves otherwise.
    #[error("its functions have no names")]
    Unnamed,
    /// The exports or the unwind table cannot be read.
    #[error("unwind table or code cannot be read")]
    Unreadable,
    /// The exports call no function in common.
    #[error("the exports call no function in common")]
    NoneCommon,
    /// They call several, and nothing tells which it is.
    #[error("the exports call {0} functions in common")]
    Ambiguous(usize),
    /// One of the two exports is more than a wrapper, as far as can be shown.
    #[error("{} {}", .0.symbol(), .1)]
    Unproven(Function, Unproven),
}

/// Every symbol table of the file helps to tell functions apart. Also improves the places of `exports`.
pub(super) fn find<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    tables: &[Symbols<'d>],
    exports: &mut Offsets,
) -> Internal {
    if image.machine != elf::EM_X86_64 {
        return Internal::none(NoInternal::Machine);
    }
    let Some(site) = Site::of(image, tables) else { return Internal::none(NoInternal::Unreadable) };
    site.improve(exports, &[]);
    // From 3.3 on, SSL_write_ex is a jump to SSL_write_ex2.
    let write_ex2 = site.address_of(Function::WriteEx2.symbol()).map(|_| Function::WriteEx2);
    let write_ex = write_ex2.unwrap_or(Function::WriteEx);
    let read = site.common(Function::Read, Function::ReadEx);
    let write = site.common(Function::Write, write_ex);
    let read_at = site.choose("ssl_read_internal", &read, &write);
    let write_at = site.choose("ssl_write_internal", &write, &read);
    Internal {
        read: read_at.and_then(|at| site.behind(at, [Function::Read, Function::ReadEx], None)),
        write: write_at.and_then(|at| {
            let jumps = write_ex2.map(|_| Function::WriteEx);
            site.behind(at, [Function::Write, write_ex], jumps)
        }),
    }
}

/// What is known of the code in a file.
pub(super) struct Site<'a, 'd, R: ReadRef<'d>> {
    image: &'a Image<'d, R>,
    tables: &'a [Symbols<'d>],
    starts: Rc<Starts>,
    text: Range<u64>,
    /// Places that the loader fills, and with what.
    imports: HashMap<u64, &'d [u8]>,
}

type Callees = Result<BTreeSet<u64>, NoInternal>;

impl<'a, 'd, R: ReadRef<'d>> Site<'a, 'd, R> {
    /// `None`: there is no unwind table, or machine code of this processor is not decoded.
    pub(super) fn of(image: &'a Image<'d, R>, tables: &'a [Symbols<'d>]) -> Option<Self> {
        if image.machine != elf::EM_X86_64 {
            return None;
        }
        Site::with(image, tables, Rc::new(Starts::of_unwind_table(image)?))
    }

    /// Of a file without names, where functions may be found by the code instead of the unwind table.
    pub(super) fn of_code(image: &'a Image<'d, R>) -> Option<Self> {
        if image.machine != elf::EM_X86_64 {
            return None;
        }
        Site::with(image, &[], image.starts()?)
    }

    fn with(image: &'a Image<'d, R>, tables: &'a [Symbols<'d>], starts: Rc<Starts>) -> Option<Self> {
        let text = image.section_range(b".text")?;
        Some(Site { image, tables, starts, text, imports: image.imports() })
    }

    /// Where to probe the function at this address.
    fn place(&self, address: u64) -> Option<Place> {
        let end = self.starts.end_of(address)?;
        code::place(self.image, address..end, self.image.file_offset(address)?)
    }

    /// Takes better places for functions: of exports, and of those at addresses that are found otherwise.
    pub(super) fn improve(&self, offsets: &mut Offsets, found: &[(Function, u64)]) {
        offsets.improve(|function| {
            let known = found.iter().find(|(f, _)| *f == function).map(|(_, address)| *address);
            self.place(known.or_else(|| self.address_of(function.symbol()))?)
        });
    }

    /// Whether an export does nothing but jump to another, with the same first three arguments.
    pub(super) fn only_jumps(&self, from: Function, to: Function) -> bool {
        use Register::{RDI, RDX, RSI, RSP};
        let range = || {
            let start = self.address_of(from.symbol())?;
            let len = self.starts.end_of(start)?.checked_sub(start).filter(|len| *len <= CODE_MAX)?;
            Some((start, self.image.code(start, len)?))
        };
        let Some((start, code)) = range() else { return false };
        let mut info = InstructionInfoFactory::new();
        for instruction in &mut Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            if matches!(instruction.code(), Code::Jmp_rel32_64 | Code::Jmp_rel8_64) {
                let name = self.name_at(instruction.near_branch_target());
                return name.as_deref() == Some(to.symbol().as_bytes());
            }
            let used = info.info(&instruction);
            let harmless = instruction.flow_control() == FlowControl::Next
                && !instruction.is_invalid()
                && used.used_memory().is_empty()
                && used
                    .used_registers()
                    .iter()
                    .filter(|r| code::writes(r.access()))
                    .all(|r| ![RDI, RSI, RDX, RSP].contains(&r.register().full_register()));
            if !harmless {
                return false;
            }
        }
        false
    }

    /// The executable section of ordinary code.
    pub(super) fn text(&self) -> Range<u64> {
        self.text.clone()
    }

    /// Where functions begin and end.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.starts.ranges().iter().copied()
    }

    /// Where the function begins and ends that has an address.
    pub(super) fn range_with(&self, address: u64) -> Option<(u64, u64)> {
        self.starts.range_with(address)
    }

    /// Whether nothing speaks against an instruction beginning at an address, in code that is followed from a function.
    pub(super) fn may_begin_instruction(&self, address: u64) -> bool {
        self.starts.may_begin_instruction(address)
    }

    /// Name of the import whose address the loader puts at a place.
    pub(super) fn import_in(&self, address: u64) -> Option<&'d [u8]> {
        self.imports.get(&address).copied()
    }

    /// Proves that both exports are wrappers of the function at `address`; `jumps` may be one as well,
    /// by a jump to the second of them.
    fn behind(
        &self,
        address: u64,
        exports: [Function; 2],
        jumps: Option<Function>,
    ) -> Result<Behind, NoInternal> {
        let wraps = |function: Function, through| {
            let start = self.address_of(function.symbol()).ok_or(NoInternal::NoExport)?;
            self.wraps_by(&|at| self.name_at(at), (function, start), address, through)
                .map_err(|why| NoInternal::Unproven(function, why))
                .map(drop)
        };
        for function in exports {
            wraps(function, None)?;
        }
        let also = jumps.filter(|function| wraps(*function, Some(exports[1])).is_ok());
        Ok(Behind {
            place: self.place(address).ok_or(NoInternal::Unreadable)?,
            exports: exports.into_iter().chain(also).collect(),
        })
    }

    /// Proves that the function at `start` is a wrapper of that at `address` as an export is, in a file without names.
    /// Tells what [`flow::wraps`] does.
    pub(super) fn wraps(&self, export: Function, start: u64, address: u64) -> Option<bool> {
        let name_at = |at| match self.is_function(at) {
            true => Some(Vec::new()),
            false => self.name_at(at),
        };
        self.wraps_by(&name_at, (export, start), address, None).ok()
    }

    /// What [`flow::wraps`] says of an export, where `name_at` tells functions.
    fn wraps_by(
        &self,
        name_at: &dyn Fn(u64) -> Option<Vec<u8>>,
        (export, start): (Function, u64),
        address: u64,
        through: Option<Function>,
    ) -> Result<bool, Unproven> {
        let import_in = |at| self.imports.get(&at).map(|name| name.to_vec());
        let around =
            Surroundings { image: self.image, text: self.text.clone(), name_at, import_in: &import_in };
        flow::wraps(&around, export, start, address, through)
    }

    /// Name of the function at an address, or of the import that a PLT entry there jumps to.
    pub(super) fn name_at(&self, address: u64) -> Option<Vec<u8>> {
        if self.text.contains(&address) {
            return self.functions().find(|(_, at)| *at == address).map(|(name, _)| name.to_vec());
        }
        /// endbr64 and jmp, the latter perhaps with a prefix.
        const ENTRY: u64 = 11;
        let code = self.image.code(address, ENTRY)?;
        let mut entry = Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter();
        let jump = entry.find(|i| i.code() != Code::Endbr64)?;
        let slot = (jump.code() == Code::Jmp_rm64 && jump.is_ip_rel_memory_operand())
            .then(|| jump.ip_rel_memory_address())?;
        self.imports.get(&slot).map(|name| name.to_vec())
    }

    pub(super) fn functions(&self) -> impl Iterator<Item = (&'d [u8], u64)> + '_ {
        self.tables.iter().flat_map(Symbols::functions)
    }

    fn address_of(&self, symbol: &str) -> Option<u64> {
        self.address_named(symbol.as_bytes())
    }

    pub(super) fn address_named(&self, symbol: &[u8]) -> Option<u64> {
        self.functions().find(|(name, _)| *name == symbol).map(|(_, address)| address)
    }

    pub(super) fn is_function(&self, address: u64) -> bool {
        self.text.contains(&address) && self.starts.end_of(address).is_some()
    }

    /// The functions that both call directly.
    fn common(&self, one: Function, other: Function) -> Callees {
        let callees = |function: Function| {
            let address = self.address_of(function.symbol()).ok_or(NoInternal::NoExport)?;
            callees(self.image, &self.starts, address).ok_or(NoInternal::Unreadable)
        };
        let mut common = &callees(one)? & &callees(other)?;
        common.retain(|target| self.is_function(*target));
        Ok(common)
    }

    /// The one function in `common` that is not also in `opposite`. Where a program kept its
    /// symbols, the name that OpenSSL's source gives it decides instead.
    fn choose(&self, name: &str, common: &Callees, opposite: &Callees) -> Result<u64, NoInternal> {
        let chosen = match self.address_of(name).filter(|address| self.is_function(*address)) {
            Some(named) => named,
            None => {
                let mut rest = common.clone()?;
                // What reading and writing share is a helper, and so is what has another name
                // (error raising in a static program).
                opposite.iter().flatten().for_each(|address| {
                    rest.remove(address);
                });
                self.functions().for_each(|(_, address)| {
                    rest.remove(&address);
                });
                match (rest.len(), rest.first()) {
                    (1, Some(only)) => *only,
                    (0, _) => return Err(NoInternal::NoneCommon),
                    (n, _) => return Err(NoInternal::Ambiguous(n)),
                }
            }
        };
        Ok(chosen)
    }
}

/// Targets of direct calls, and of jumps that leave the function.
fn callees<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    starts: &Starts,
    function: u64,
) -> Option<BTreeSet<u64>> {
    let end = starts.end_of(function)?;
    let len = end.checked_sub(function).filter(|len| *len <= CODE_MAX)?;
    let mut targets = BTreeSet::new();
    for instruction in Decoder::with_ip(64, image.code(function, len)?, function, DecoderOptions::NONE) {
        let target = instruction.near_branch_target();
        match instruction.code() {
            Code::INVALID => return None,
            Code::Call_rel32_64 => {
                targets.insert(target);
            }
            Code::Jmp_rel32_64 | Code::Jmp_rel8_64 if !(function..end).contains(&target) => {
                targets.insert(target);
            }
            _ => {}
        }
    }
    Some(targets)
}
