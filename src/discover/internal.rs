//! Finds the functions behind SSL_read and SSL_write, which OpenSSL's own code (BIO_f_ssl, so
//! `openssl s_server -www`) calls without going through the exports.
//!
//! A probe in the middle of an instruction would crash every user of the library, so a function
//! is taken only if machine code and unwind table agree: both exports call it directly, a frame
//! description begins at it, and it is the only such function.

use std::collections::BTreeSet;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};
use iced_x86::{Code, Decoder, DecoderOptions};
use object::{ReadRef, elf};

use super::elf::{Image, Symbols};
use super::function::Function;

/// Longest function that is decoded, in bytes.
const CODE_MAX: u64 = 1 << 14;
/// Most functions of one file; Chrome has about a million.
const FUNCTIONS_MAX: usize = 1 << 23;

/// The functions behind the exports, as file offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Internal {
    /// What SSL_read and SSL_read_ex both call.
    pub read: Result<u64, NoInternal>,
    /// What SSL_write and SSL_write_ex both call.
    pub write: Result<u64, NoInternal>,
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
    /// The exports or the unwind table cannot be read.
    #[error("unwind table or code cannot be read")]
    Unreadable,
    /// The exports call no function in common.
    #[error("the exports call no function in common")]
    NoneCommon,
    /// They call several, and nothing tells which it is.
    #[error("the exports call {0} functions in common")]
    Ambiguous(usize),
}

pub(super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>, symbols: &Symbols<'d>) -> Internal {
    let unwind = Unwind::parse(image);
    let pair = |a, b, name| common_callee(image, symbols, unwind.as_ref(), a, b, name);
    Internal {
        read: pair(Function::Read, Function::ReadEx, b"ssl_read_internal"),
        write: pair(Function::Write, Function::WriteEx, b"ssl_write_internal"),
    }
}

/// The function that both exports call. `name` is what OpenSSL's source calls it: where a program
/// kept its symbols, the name decides among several.
fn common_callee<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    symbols: &Symbols<'d>,
    unwind: Option<&Unwind>,
    one: Function,
    other: Function,
    name: &[u8],
) -> Result<u64, NoInternal> {
    if image.machine != elf::EM_X86_64 {
        return Err(NoInternal::Machine);
    }
    let address_of = |wanted: &[u8]| symbols.functions().find(|(n, _)| *n == wanted).map(|(_, a)| a);
    let one = address_of(one.symbol().as_bytes()).ok_or(NoInternal::NoExport)?;
    let other = address_of(other.symbol().as_bytes()).ok_or(NoInternal::NoExport)?;

    let unwind = unwind.ok_or(NoInternal::Unreadable)?;
    let text = image.section_range(b".text").ok_or(NoInternal::Unreadable)?;
    let callees = |function| callees(image, unwind, function).ok_or(NoInternal::Unreadable);
    let mut common = &callees(one)? & &callees(other)?;
    common.retain(|target| text.contains(target) && unwind.starts_at(*target));

    let chosen = match address_of(name).filter(|address| common.contains(address)) {
        Some(named) => named,
        None => {
            // What has a name is something else: error raising in a static program, an export.
            symbols.functions().for_each(|(_, address)| {
                common.remove(&address);
            });
            match common.len() {
                0 => return Err(NoInternal::NoneCommon),
                1 => common.first().copied().ok_or(NoInternal::NoneCommon)?,
                n => return Err(NoInternal::Ambiguous(n)),
            }
        }
    };
    image.file_offset(chosen).ok_or(NoInternal::Unreadable)
}

/// Targets of direct calls, and of jumps that leave the function.
fn callees<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    unwind: &Unwind,
    function: u64,
) -> Option<BTreeSet<u64>> {
    let end = unwind.end_of(function)?;
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

/// Where functions begin and end, as the unwind table tells it, in order.
struct Unwind(Vec<(u64, u64)>);

impl Unwind {
    /// Reads all of `.eh_frame`: gimli's search in its index overflows on a damaged one.
    fn parse<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Self> {
        let (address, frames) = image.section(b".eh_frame")?;
        let mut bases = BaseAddresses::default().set_eh_frame(address);
        if let Some(text) = image.section_range(b".text") {
            bases = bases.set_text(text.start);
        }
        let frames = EhFrame::new(frames, LittleEndian);
        let mut functions = Vec::new();
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next().ok()? {
            let CieOrFde::Fde(partial) = entry else { continue };
            let frame = partial.parse(EhFrame::cie_from_offset).ok()?;
            let start = frame.initial_address();
            functions.push((start, start.checked_add(frame.len())?));
            if functions.len() > FUNCTIONS_MAX {
                return None;
            }
        }
        functions.sort_unstable();
        Some(Unwind(functions))
    }

    /// End of the function that begins at `address`.
    fn end_of(&self, address: u64) -> Option<u64> {
        let at = self.0.binary_search_by_key(&address, |(start, _)| *start).ok()?;
        self.0.get(at).map(|(_, end)| *end)
    }

    fn starts_at(&self, address: u64) -> bool {
        self.end_of(address).is_some()
    }
}
