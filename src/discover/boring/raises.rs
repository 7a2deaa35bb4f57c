//! Which functions raise which errors: `ERR_put_error(library, 0, reason, file, line)`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, MemorySize, OpKind,
    Register,
};
use memchr::memmem::Finder;
use object::ReadRef;

use super::super::code::{CODE_MAX, writes};
use super::super::image::Image;
use super::super::internal::Site;
use super::super::text::Text;
use super::super::unnamed::NoEntries;
use super::PLACE_MAX;

/// Instructions that are looked at for the reason of one error.
const STEPS_MAX: usize = 64;
/// Steps of the walk that looks for the arguments of a function.
const PATHS_MAX: usize = 4096;
/// Places that may hold a name of a source file.
const FILES_MAX: usize = 4096;
/// Functions that may use them; the libraries have some hundreds.
const USERS_MAX: usize = 1 << 14;
/// Most code of theirs that is decoded, in bytes; the libraries have less than one MiB.
const DECODED_MAX: u64 = 16 << 20;
/// Instructions that may be looked at in all, each time that one is.
const LOOKS_MAX: u64 = 1 << 22;
/// Longest path of a source file.
const PATH_MAX: usize = 512;

/// The source files of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Library,
    Records,
    Buffer,
    Bio,
}

/// What their paths end with, without the last letter that they may have: backwards, so that this program
/// does not hold them.
const SOURCES: [(Source, &str, &str); 4] = [
    (Source::Library, "bil_lss/lss", "its ssl_lib"),
    (Source::Records, "tkp_3s/lss", "its s3_pkt"),
    (Source::Buffer, "reffub_lss/lss", "its ssl_buffer"),
    (Source::Bio, "oib/oib", "its bio"),
];

impl Source {
    /// Number of the library in its errors.
    fn library(self) -> u32 {
        match self {
            Source::Library | Source::Records | Source::Buffer => 16,
            Source::Bio => 17,
        }
    }
}

/// A function that raises errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raiser {
    pub(super) address: u64,
    reasons: BTreeSet<(Source, u32)>,
    /// Functions that it calls, or jumps to.
    pub(super) calls: BTreeSet<u64>,
    /// Displacements of the calls through a table, up to `PLACE_MAX`.
    pub(super) places: BTreeSet<u64>,
    /// It writes to memory that is not its stack frame.
    pub(super) writes_memory: bool,
    /// It takes a handle, an address and a number, and nothing else.
    pub(super) takes_three: bool,
    /// A fourth argument as well.
    pub(super) takes_four: bool,
}

impl Raiser {
    pub(super) fn raises(&self, source: Source, reason: u32) -> bool {
        self.reasons.contains(&(source, reason))
    }
}

/// The functions that raise errors, by address.
pub(super) struct Raises(BTreeMap<u64, Raiser>);

impl Raises {
    pub(super) fn of<'d, R: ReadRef<'d>>(
        image: &Image<'d, R>,
        site: &Site<'_, 'd, R>,
    ) -> Result<Raises, NoEntries> {
        let files = files(image)?;
        let text = Text::of(image, site).ok_or(NoEntries::Unreadable)?;
        let mut users: BTreeSet<(u64, u64)> = BTreeSet::new();
        for (address, _) in text.loads().filter(|(_, target)| files.contains_key(target)) {
            users.extend(site.range_with(address));
            if users.len() > USERS_MAX {
                return Err(NoEntries::TooMuch);
            }
        }
        let functions = raisers(users, |start, len| image.code(start, len), &files)?;
        for (source, _, name) in SOURCES {
            if !functions.iter().any(|f| f.reasons.iter().any(|(s, _)| *s == source)) {
                let is_main = source == Source::Library;
                return Err(if is_main { NoEntries::NotUsed } else { NoEntries::NoErrors(name) });
            }
        }
        Ok(Raises(functions.into_iter().map(|f| (f.address, f)).collect()))
    }

    /// Functions that raise all of these.
    pub(super) fn raising<'a>(
        &'a self,
        source: Source,
        reasons: &'a [u32],
    ) -> impl Iterator<Item = &'a Raiser> + 'a {
        self.0.values().filter(move |f| reasons.iter().all(|reason| f.raises(source, *reason)))
    }

    /// Functions that raise errors and are called by this one.
    pub(super) fn called_by<'a>(&'a self, f: &'a Raiser) -> impl Iterator<Item = &'a Raiser> + 'a {
        f.calls.iter().filter_map(|address| self.0.get(address))
    }
}

/// Those of the functions, in order, that raise errors. What overlaps the one before it is no function.
fn raisers<'d>(
    ranges: impl IntoIterator<Item = (u64, u64)>,
    code: impl Fn(u64, u64) -> Option<&'d [u8]>,
    files: &HashMap<u64, Source>,
) -> Result<Vec<Raiser>, NoEntries> {
    let looks = Cell::new(LOOKS_MAX);
    let (mut decoded, mut last_end) = (0, 0);
    let mut raisers = Vec::new();
    for (start, end) in ranges {
        let Some(len) = end.checked_sub(start).filter(|len| *len <= CODE_MAX && start >= last_end) else {
            continue;
        };
        last_end = end;
        decoded += len;
        if decoded > DECODED_MAX {
            return Err(NoEntries::TooMuch);
        }
        raisers.extend(code(start, len).and_then(|code| raiser(code, start, files, &looks)));
        if looks.get() == 0 {
            return Err(NoEntries::TooMuch);
        }
    }
    Ok(raisers)
}

/// Addresses of the names of the source files.
fn files<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Result<HashMap<u64, Source>, NoEntries> {
    let (start, constants) = image.section(b".rodata").ok_or(NoEntries::Unreadable)?;
    let mut files = HashMap::new();
    for (source, backwards, _) in SOURCES {
        let stem: String = backwards.chars().rev().collect();
        for extension in [".cc\0", ".c\0"] {
            let name = format!("{stem}{extension}");
            for at in Finder::new(&name).find_iter(constants) {
                let path = &constants[at.saturating_sub(PATH_MAX)..at];
                let len = path.iter().rev().take_while(|b| b.is_ascii_graphic() || **b == b' ').count();
                files.insert(start.checked_add((at - len) as u64).ok_or(NoEntries::Unreadable)?, source);
                if files.len() > FILES_MAX {
                    return Err(NoEntries::TooMuch);
                }
            }
        }
    }
    Ok(files)
}

/// What a function of this code does, if it raises errors. Takes what it looks at off `looks`.
fn raiser(code: &[u8], start: u64, files: &HashMap<u64, Source>, looks: &Cell<u64>) -> Option<Raiser> {
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().collect();
    if instructions.iter().any(Instruction::is_invalid) {
        return None;
    }
    let body = Body::new(&instructions, start, start + code.len() as u64, looks);
    let mut found = Raiser { address: start, ..Raiser::default() };
    for (index, i) in instructions.iter().enumerate() {
        match i.code() {
            Code::Lea_r64_m if i.is_ip_rel_memory_operand() => {
                let Some(source) = files.get(&i.ip_rel_memory_address()) else { continue };
                if i.op0_register() != Register::RCX {
                    continue;
                }
                let Some(call) = body.next_call(index) else { continue };
                if body.values_at(call, index, Register::RDI) == BTreeSet::from([source.library()]) {
                    let reasons = body.values_at(call, index, Register::RDX);
                    found.reasons.extend(reasons.into_iter().map(|reason| (*source, reason)));
                }
            }
            Code::Call_rel32_64 => {
                found.calls.insert(i.near_branch_target());
            }
            Code::Jmp_rel32_64 | Code::Jmp_rel8_64 if !body.contains(i.near_branch_target()) => {
                found.calls.insert(i.near_branch_target());
            }
            Code::Call_rm64 | Code::Jmp_rm64
                if i.op0_kind() == OpKind::Memory
                    && i.memory_base().is_gpr64()
                    && i.memory_index() == Register::None
                    && i.memory_displacement64() <= PLACE_MAX =>
            {
                found.places.insert(i.memory_displacement64());
            }
            _ => {}
        }
    }
    if found.reasons.is_empty() {
        return None;
    }
    found.writes_memory = body.writes_memory();
    let taken = body.arguments();
    found.takes_three = taken == [true, true, true, false, false, false];
    found.takes_four = taken == [true, true, true, true, false, false];
    Some(found)
}

/// Which arguments the function of this code takes, as far as it reads them before its first call; `None`: it is not understood.
pub(in super::super) fn arguments(code: &[u8], start: u64) -> Option<[bool; 6]> {
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().collect();
    if instructions.iter().any(Instruction::is_invalid) {
        return None;
    }
    let looks = Cell::new(LOOKS_MAX);
    let taken = Body::new(&instructions, start, start + code.len() as u64, &looks).arguments();
    (looks.get() > 0).then_some(taken)
}

/// The code of one function.
struct Body<'a> {
    instructions: &'a [Instruction],
    range: std::ops::Range<u64>,
    /// From where instructions are branched to, by index.
    branches: HashMap<usize, Vec<usize>>,
    looks: &'a Cell<u64>,
}

impl<'a> Body<'a> {
    fn new(instructions: &'a [Instruction], start: u64, end: u64, looks: &'a Cell<u64>) -> Self {
        let mut body = Body { instructions, range: start..end, branches: HashMap::new(), looks };
        for (from, i) in instructions.iter().enumerate() {
            if matches!(i.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch)
                && let Some(to) = body.index_of(i.near_branch_target())
            {
                body.branches.entry(to).or_default().push(from);
            }
        }
        body
    }

    /// Whether so many more instructions may be looked at.
    fn look(&self, count: usize) -> bool {
        self.looks.set(self.looks.get().saturating_sub(count as u64));
        self.looks.get() > 0
    }

    fn contains(&self, address: u64) -> bool {
        self.range.contains(&address)
    }

    fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, Instruction::ip).ok()
    }

    /// The call that is made next, on a path without conditions.
    fn next_call(&self, from: usize) -> Option<usize> {
        let mut at = from + 1;
        for _ in 0..STEPS_MAX {
            let i = self.instructions.get(at)?;
            match i.flow_control() {
                FlowControl::Next => at += 1,
                FlowControl::UnconditionalBranch => at = self.index_of(i.near_branch_target())?,
                FlowControl::Call => return Some(at),
                _ => return None,
            }
        }
        None
    }

    /// Constants that a register may hold at the call, on the paths that lead there through `through`; empty
    /// if one of them is not known.
    fn values_at(&self, call: usize, through: usize, register: Register) -> BTreeSet<u32> {
        let mut value = None;
        let mut at = through + 1;
        while at != call {
            if !self.look(1) {
                return BTreeSet::new();
            }
            let i = &self.instructions[at];
            if let Some(written) = written(i, register) {
                value = Some(written);
            }
            at = match i.flow_control() {
                FlowControl::UnconditionalBranch => match self.index_of(i.near_branch_target()) {
                    Some(target) => target,
                    None => return BTreeSet::new(),
                },
                _ => at + 1,
            };
        }
        match value {
            Some(known) => known.into_iter().collect(),
            None => self.values_before(through, register).unwrap_or_default(),
        }
    }

    /// Constants that a register may hold before an instruction; `None` if one of them is not known.
    fn values_before(&self, at: usize, register: Register) -> Option<BTreeSet<u32>> {
        let mut values = BTreeSet::new();
        let mut seen = BTreeSet::from([at]);
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            let mut before: Vec<usize> = self.branches.get(&at).cloned().unwrap_or_default();
            if !self.look(before.len() + 1) {
                return None;
            }
            let previous = at.checked_sub(1)?;
            let falls = matches!(
                self.instructions[previous].flow_control(),
                FlowControl::Next
                    | FlowControl::ConditionalBranch
                    | FlowControl::Call
                    | FlowControl::IndirectCall
            );
            before.extend(falls.then_some(previous));
            for index in before {
                let i = &self.instructions[index];
                match i.flow_control() {
                    FlowControl::Call | FlowControl::IndirectCall => return None,
                    _ => {}
                }
                match written(i, register) {
                    Some(value) => {
                        values.insert(value?);
                    }
                    None if seen.len() > STEPS_MAX => return None,
                    None => todo.extend(seen.insert(index).then_some(index)),
                }
            }
        }
        Some(values)
    }

    fn has_frame_pointer(&self) -> bool {
        self.instructions.iter().any(|i| {
            matches!(i.code(), Code::Mov_r64_rm64 | Code::Mov_rm64_r64)
                && i.op0_register() == Register::RBP
                && i.op1_register() == Register::RSP
        })
    }

    fn writes_memory(&self) -> bool {
        let has_frame_pointer = self.has_frame_pointer();
        let mut info = InstructionInfoFactory::new();
        self.instructions.iter().any(|i| {
            info.info(i).used_memory().iter().any(|memory| {
                let is_frame =
                    memory.base() == Register::RSP || has_frame_pointer && memory.base() == Register::RBP;
                writes(memory.access()) && !is_frame
            })
        })
    }

    /// Which arguments are read before their registers are written, on any path up to its first call; the first
    /// three count as read if they are still there at a call through a pointer.
    fn arguments(&self) -> [bool; 6] {
        use Register::{R8, R9, RCX, RDI, RDX, RSI};
        const ARGUMENTS: [Register; 6] = [RDI, RSI, RDX, RCX, R8, R9];
        let number = |register: Register| ARGUMENTS.iter().position(|a| *a == register.full_register());
        let mut taken = [false; 6];
        let mut info = InstructionInfoFactory::new();
        let mut seen = BTreeSet::new();
        let mut todo = vec![(0, [false; 6])];
        while let Some((at, mut gone)) = todo.pop() {
            let is_new = |seen: &mut BTreeSet<_>| seen.len() < PATHS_MAX && seen.insert((at, gone));
            let Some(i) = self.instructions.get(at).filter(|_| self.look(1) && is_new(&mut seen)) else {
                continue;
            };
            let is_zeroing = matches!(i.code(), Code::Xor_r32_rm32 | Code::Xor_rm32_r32)
                && i.op1_kind() == OpKind::Register
                && i.op0_register() == i.op1_register();
            let used = info.info(i).used_registers();
            for register in used.iter().filter(|r| reads(r.access()) && !is_zeroing) {
                if let Some(n) = number(register.register()).filter(|n| !gone[*n]) {
                    taken[n] = true;
                }
            }
            for register in used.iter().filter(|r| writes(r.access())) {
                if let Some(n) = number(register.register()) {
                    gone[n] = true;
                }
            }
            match i.flow_control() {
                FlowControl::Next => todo.push((at + 1, gone)),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    if i.flow_control() == FlowControl::ConditionalBranch {
                        todo.push((at + 1, gone));
                    }
                    todo.extend(self.index_of(i.near_branch_target()).map(|to| (to, gone)));
                }
                FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                    (0..3).filter(|n| !gone[*n]).for_each(|n| taken[n] = true);
                }
                _ => {}
            }
        }
        taken
    }
}

fn reads(access: iced_x86::OpAccess) -> bool {
    use iced_x86::OpAccess;
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// What an instruction writes to a register: `None`: nothing; `Some(None)`: nothing that is known.
fn written(i: &Instruction, register: Register) -> Option<Option<u32>> {
    let is_target =
        i.op_count() > 0 && i.op0_kind() == OpKind::Register && i.op0_register().full_register() == register;
    match i.code() {
        Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 | Code::Mov_r64_imm64 | Code::Mov_rm64_imm32
            if is_target =>
        {
            let value = match i.op1_kind() {
                OpKind::Immediate32 => i.immediate32(),
                OpKind::Immediate32to64 => u32::try_from(i.immediate32to64()).ok()?,
                _ => u32::try_from(i.immediate64()).ok()?,
            };
            return Some(Some(value));
        }
        Code::Xor_r32_rm32 | Code::Xor_rm32_r32 if is_target && i.op1_register() == i.op0_register() => {
            return Some(Some(0));
        }
        _ => {}
    }
    let mut info = InstructionInfoFactory::new();
    let used = info.info(i);
    let is_written =
        used.used_registers().iter().any(|u| u.register().full_register() == register && writes(u.access()));
    is_written.then_some(None)
}

/// Fields that a function fills and empties, by their distance from the address in some register.
#[derive(Debug, Default)]
pub(super) struct Stores {
    /// With what stands in a register.
    pub(super) values: BTreeSet<u64>,
    /// With 0.
    pub(super) zeros: BTreeSet<u64>,
}

/// The stores of 8 bytes of the function at an address.
pub(super) fn stores<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    site: &Site<'_, 'd, R>,
    address: u64,
) -> Option<Stores> {
    let (start, end) = site.ranges().find(|(start, _)| *start == address)?;
    let code = image.code(start, end.checked_sub(start).filter(|len| *len <= CODE_MAX)?)?;
    let mut stores = Stores::default();
    for i in Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter() {
        let is_field = i.op_count() == 2
            && i.op0_kind() == OpKind::Memory
            && matches!(i.memory_size(), MemorySize::UInt64 | MemorySize::Int64)
            && i.memory_base().is_gpr64()
            && i.memory_base() != Register::RSP
            && i.memory_index() == Register::None;
        match i.code() {
            Code::Mov_rm64_r64 if is_field => stores.values.insert(i.memory_displacement64()),
            Code::Mov_rm64_imm32 if is_field && i.immediate32to64() == 0 => {
                stores.zeros.insert(i.memory_displacement64())
            }
            _ => false,
        };
    }
    Some(stores)
}
