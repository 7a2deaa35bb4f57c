//! Where functions return: at the RET instructions that end them, or where their callers go on.
//!
//! A return probe of the kernel would tell it too, but it replaces the return address on the stack: exceptions,
//! cancelled threads and backtraces then end at that function. A breakpoint on an instruction changes nothing that a
//! program sees. It must not stand in the middle of an instruction, which would end the program, so the code is
//! followed from the function's beginning, within what are functions (`starts`), and nothing is guessed: a
//! function that is left by a jump to an address in a register or in memory is not taken, unless that is a table of
//! jumps inside of it, or one of methods (`methods`). What it jumps to ends for it.

mod cheap;
mod methods;

use std::collections::BTreeMap;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register,
};
use object::ReadRef;

use super::code::{Cost, is_emulated, writes};
use super::image::{Image, Symbols};
use super::internal::Site;

use self::methods::{Methods, Source};

pub use self::cheap::{Cheap, Value};

/// Most instructions that are followed from one function.
const STEPS_MAX: usize = 1 << 14;
/// Ways from one instruction to another that are followed: a table of jumps has one to each instruction.
const WAYS_MAX: usize = 1 << 18;
/// Returns of one function for which something cheaper is looked for.
const CHEAP_MAX: usize = 128;
/// Longest x86 instruction.
const INSTRUCTION_MAX: usize = 15;
/// Longest function that is decoded.
const FUNCTION_MAX: u64 = 1 << 20;
/// Most code that is searched for calls of a function.
const SEARCHED_MAX: u64 = 64 << 20;
/// Most instructions that are looked back or ahead.
const NEAR: usize = 16;
/// Most entries of a table of jumps.
const ENTRIES_MAX: u64 = 512;

/// Why it is not known where a function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The file has no unwind table, or is for another processor.
    #[error("the unwind table cannot be read")]
    Unreadable,
    /// Some bytes are no instructions, or overlap others.
    #[error("its code is not understood")]
    Code,
    /// It ends in a function that only the running program knows.
    #[error("it is left by a jump")]
    Jump,
    /// It never returns, or is too long.
    #[error("it has no return, or is too long")]
    NoReturn,
}

/// A place that a function passes when it returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Return {
    /// A RET instruction.
    Ret {
        /// Its file offset.
        at: u64,
        /// Cheap instructions of which one is passed right before it, and nothing that matters after that. Empty: there
        /// are none.
        cheap: Vec<Cheap>,
    },
    /// An instruction that its caller comes to right after the call, with stack pointer and result unchanged.
    Behind {
        /// Its file offset.
        at: u64,
        /// What a probe there costs.
        cost: Cost,
    },
}

impl Return {
    /// What a probe costs there, if cheap instructions may be taken.
    pub fn cost(&self) -> Cost {
        match self {
            Return::Ret { cheap, .. } if cheap.is_empty() => Cost::Stepped,
            Return::Ret { .. } => Cost::Emulated,
            Return::Behind { cost, .. } => *cost,
        }
    }
}

/// Where the functions of a file return, by the file offsets at which they are probed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns(BTreeMap<u64, Result<Vec<Return>, Unclear>>);

impl Returns {
    /// Of the function that is probed at this file offset.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn of(&self, offset: u64) -> Result<&[Return], Unclear> {
        match self.0.get(&offset) {
            Some(Ok(found)) => Ok(found),
            Some(Err(why)) => Err(*why),
            None => Err(Unclear::Unreadable),
        }
    }
}

/// Functions that are probed.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// File offsets at which they are probed.
    pub(super) functions: Vec<u64>,
    /// Where functions begin that are left in a way that only their callers see, and where they are probed.
    pub(super) called: Vec<(u64, u64)>,
}

/// Where these functions of a file return. Every symbol table helps to follow jumps.
pub(super) fn find<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    tables: &[Symbols<'d>],
    wanted: &Wanted,
) -> Returns {
    find_in(Site::of(image, tables), image, wanted)
}

/// As [`find`], by what is known of the code; `None`: nothing.
pub(super) fn find_in<'d, R: ReadRef<'d>>(
    site: Option<Site<'_, 'd, R>>,
    image: &Image<'d, R>,
    wanted: &Wanted,
) -> Returns {
    let Some(site) = &site else { return Returns::default() };
    let file = File { image, site, methods: Methods::default() };
    let own = |offset: &u64| (*offset, file.own(*offset));
    let mut found: BTreeMap<u64, _> = wanted.functions.iter().map(own).collect();
    found.extend(wanted.called.iter().map(|(start, offset)| {
        let behind = file.behind(*start);
        (*offset, behind.unwrap_or_else(|| file.own(*offset)))
    }));
    Returns(found)
}

struct File<'a, 'd, R: ReadRef<'d>> {
    image: &'a Image<'d, R>,
    site: &'a Site<'a, 'd, R>,
    methods: Methods,
}

/// The code of a function.
#[derive(Clone, Copy)]
struct Function<'c> {
    start: u64,
    bytes: &'c [u8],
}

impl Function<'_> {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The instruction at an address; `None`: it is none.
    fn decode(&self, at: u64) -> Option<Instruction> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let bytes = self.bytes.get(from..self.bytes.len().min(from.saturating_add(INSTRUCTION_MAX)))?;
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).iter().next()?;
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Every instruction from the first on; `None`: they do not end where the function does.
    fn all(&self) -> Option<Vec<Instruction>> {
        let decoder = Decoder::with_ip(64, self.bytes, self.start, DecoderOptions::NONE);
        let mut all = Vec::new();
        for instruction in decoder {
            if instruction.is_invalid() || all.len() >= STEPS_MAX {
                return None;
            }
            all.push(instruction);
        }
        (all.last()?.next_ip() == self.end()).then_some(all)
    }
}

impl<'d, R: ReadRef<'d>> Program<'d> for File<'_, 'd, R> {
    fn function(&self, address: u64) -> Option<Function<'d>> {
        let (start, end) = self.site.range_with(address)?;
        let len = end.checked_sub(start).filter(|len| (1..=FUNCTION_MAX).contains(len))?;
        Some(Function { start, bytes: self.image.code(start, len)? })
    }

    fn leads_to(&self, at: u64) -> Option<u64> {
        let name = match self.site.import_in(at) {
            Some(name) => name.to_vec(),
            None if !self.site.text().contains(&at) => self.site.name_at(at)?,
            None => return None,
        };
        self.site.address_named(&name)
    }

    fn targets(&self, from: Source) -> Vec<u64> {
        self.methods.targets(from, self.image, self.site, self)
    }

    fn distance(&self, at: u64) -> Option<i32> {
        Some(i32::from_le_bytes(self.image.bytes_at(at, 4)?.try_into().ok()?))
    }
}

impl<'d, R: ReadRef<'d>> File<'_, 'd, R> {
    /// By its own code.
    fn own(&self, offset: u64) -> Result<Vec<Return>, Unclear> {
        let start = self.image.address_of(offset).ok_or(Unclear::Unreadable)?;
        let walked = walk(start, self)?;
        if !walked.seen.keys().all(|at| self.site.may_begin_instruction(*at)) {
            return Err(Unclear::Code);
        }
        let offset = |address| self.image.file_offset(address).ok_or(Unclear::Code);
        let returns = walked.returns().into_iter().enumerate().map(|(index, at)| {
            // Looking for these is dear, and no function that matters has so many returns.
            let cheap = if index < CHEAP_MAX { cheap::before(&walked, at) } else { Vec::new() }.into_iter();
            let cheap = cheap.map(|found| Ok(Cheap { at: offset(found.at)?, ..found }));
            Ok(Return::Ret { at: offset(at)?, cheap: cheap.collect::<Result<_, Unclear>>()? })
        });
        returns.collect()
    }

    /// Where the callers of the function at `start` go on; `None`: one does not call but jump there, or there is none.
    fn behind(&self, start: u64) -> Option<Result<Vec<Return>, Unclear>> {
        const CALL: u8 = 0xe8;
        let text = self.site.text();
        let len = text.end.checked_sub(text.start).filter(|len| *len <= SEARCHED_MAX)?;
        let code = self.image.code(text.start, len)?;
        let mut returns = Vec::new();
        for (index, window) in code.windows(5).enumerate() {
            let (opcode, distance) = (window[0], &window[1..]);
            let is_conditional = matches!(opcode, 0x80..=0x8f) && index > 0 && code[index - 1] == 0x0f;
            if !matches!(opcode, CALL | 0xe9) && !is_conditional {
                continue;
            }
            let next = text.start + index as u64 + 5;
            let distance = i64::from(i32::from_le_bytes(distance.try_into().expect("four bytes")));
            if next.wrapping_add_signed(distance) != start {
                continue;
            }
            // A caller that cannot be read may be a true one.
            let function = self.function(next - 5)?;
            let all = function.all()?;
            // It may be part of another instruction.
            match all.iter().find(|i| i.next_ip() == next).map(Instruction::flow_control) {
                Some(FlowControl::Call) => {}
                Some(FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) => return None,
                _ => continue,
            }
            let (at, cost) = cheap_behind(&function, next)?;
            let Some(at) = self.image.file_offset(at) else { return Some(Err(Unclear::Code)) };
            returns.push(Return::Behind { at, cost });
        }
        (!returns.is_empty()).then_some(Ok(returns))
    }
}

/// The first emulated instruction from `next` on, behind a call, with nothing before it that changes result, stack
/// pointer or memory; else that at `next`.
fn cheap_behind(function: &Function<'_>, next: u64) -> Option<(u64, Cost)> {
    let mut info = InstructionInfoFactory::new();
    let mut at = next;
    for _ in 0..NEAR {
        let Some(instruction) = function.decode(at) else { break };
        let from = (at - function.start) as usize;
        if is_emulated(&function.bytes[from..from + instruction.len()]) {
            return Some((at, Cost::Emulated));
        }
        let memory = info.info(&instruction).used_memory().iter().any(|m| writes(m.access()));
        if memory || instruction.flow_control() != FlowControl::Next || !keeps_result(&mut info, &instruction)
        {
            break;
        }
        at = instruction.next_ip();
    }
    function.decode(next).map(|_| (next, Cost::Stepped))
}

/// Whether the result and the stack pointer stay as they are.
fn keeps_result(info: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    info.info(instruction)
        .used_registers()
        .iter()
        .filter(|r| writes(r.access()))
        .all(|r| ![Register::RAX, Register::RSP].contains(&r.register().full_register()))
}

/// What code is followed in.
trait Program<'c> {
    /// The function that has an address.
    fn function(&self, address: u64) -> Option<Function<'c>>;
    /// The function of this file that a jump through the table of imports leads to; `at`: what jumps there, or the place in
    /// the table.
    fn leads_to(&self, at: u64) -> Option<u64>;
    /// The functions that such a jump may lead to; none if that is not known.
    fn targets(&self, from: Source) -> Vec<u64>;
    /// An entry of a table of jumps.
    fn distance(&self, at: u64) -> Option<i32>;
}

/// How one instruction comes after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is the next.
    Falls,
    /// By a jump.
    Jumps,
    /// By a table of jumps, perhaps.
    Chooses,
}

/// The code of a function and of what it jumps to.
#[derive(Debug, Default)]
struct Walked {
    start: u64,
    seen: BTreeMap<u64, Instruction>,
    /// What comes after each instruction, and before it.
    after: BTreeMap<u64, Vec<u64>>,
    before: BTreeMap<u64, Vec<(u64, Step)>>,
    /// How many of these there are.
    ways: usize,
}

impl Walked {
    fn returns(&self) -> Vec<u64> {
        let is_return = |i: &&Instruction| i.flow_control() == FlowControl::Return;
        self.seen.values().filter(is_return).map(Instruction::ip).collect()
    }

    fn step(&mut self, from: u64, to: u64, how: Step) {
        self.ways += 1;
        self.after.entry(from).or_default().push(to);
        self.before.entry(to).or_default().push((from, how));
    }
}

/// Follows the function at `start` to all its returns.
fn walk<'c>(start: u64, program: &impl Program<'c>) -> Result<Walked, Unclear> {
    let mut walked = Walked { start, ..Walked::default() };
    let mut has_return = false;
    let mut todo = vec![start];
    while let Some(at) = todo.pop() {
        if walked.seen.contains_key(&at) {
            continue;
        }
        let code = program.function(at).ok_or(Unclear::Code)?;
        let instruction = code.decode(at).ok_or(Unclear::Code)?;
        if walked.seen.len() >= STEPS_MAX || walked.ways > WAYS_MAX {
            return Err(Unclear::NoReturn);
        }
        let next = instruction.next_ip();
        let has_next = next < code.end();
        walked.seen.insert(at, instruction);
        let mut steps = Vec::new();
        match instruction.flow_control() {
            FlowControl::Next if has_next => steps.push((next, Step::Falls)),
            // What does not return is often called last.
            FlowControl::Call | FlowControl::IndirectCall => {
                steps.extend(has_next.then_some((next, Step::Falls)));
            }
            FlowControl::ConditionalBranch if has_next => {
                steps.extend([(next, Step::Falls), (instruction.near_branch_target(), Step::Jumps)]);
            }
            FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                steps.push((program.leads_to(target).unwrap_or(target), Step::Jumps));
            }
            FlowControl::Return if instruction.code() == Code::Retnq => has_return = true,
            FlowControl::Exception | FlowControl::Interrupt => {}
            FlowControl::IndirectBranch => {
                let through = instruction.is_ip_rel_memory_operand();
                let target = through.then(|| program.leads_to(instruction.ip_rel_memory_address())).flatten();
                if let Some(target) = target {
                    steps.push((target, Step::Jumps));
                } else {
                    let all = code.all().ok_or(Unclear::Jump)?;
                    if let Some(places) = chosen_by(&all, &instruction, program) {
                        places.into_iter().for_each(|to| walked.step(at, to, Step::Chooses));
                        // Where it ends is not known, so all of the function is followed.
                        todo.extend(all.iter().map(Instruction::ip));
                    } else {
                        let from = methods::source(&all, &instruction).ok_or(Unclear::Jump)?;
                        steps.extend(program.targets(from).into_iter().map(|to| (to, Step::Jumps)));
                        if steps.is_empty() {
                            return Err(Unclear::Jump);
                        }
                    }
                }
            }
            _ => return Err(Unclear::Code),
        }
        for (to, how) in steps {
            walked.step(at, to, how);
            todo.push(to);
        }
    }
    let overlaps =
        walked.seen.iter().zip(walked.seen.keys().skip(1)).any(|((_, i), next)| i.next_ip() > *next);
    match (overlaps, has_return) {
        (true, _) => Err(Unclear::Code),
        (_, false) => Err(Unclear::NoReturn),
        _ => Ok(walked),
    }
}

/// Where a jump may lead that chooses by a table: one of distances, to which the table's own address was added just
/// before, or of addresses. As many places as the table may have, so some are wrong. `None`: it is no such jump.
fn chosen_by<'c>(all: &[Instruction], jump: &Instruction, program: &impl Program<'c>) -> Option<Vec<u64>> {
    if jump.op0_kind() == OpKind::Memory {
        // These hold the addresses themselves, and nothing is known of them but that they are in the function.
        let is_table = jump.memory_index() != Register::None && jump.memory_index_scale() == 8;
        return is_table.then(|| all.iter().map(Instruction::ip).collect());
    }
    let at = all.binary_search_by_key(&jump.ip(), Instruction::ip).ok()?;
    let mut info = InstructionInfoFactory::new();
    let register = jump.op0_register();
    let mut writes_to = |i: &Instruction, register: Register| {
        let used = info.info(i);
        used.used_registers().iter().any(|r| writes(r.access()) && r.register().full_register() == register)
    };
    let sum = all[..at].iter().rev().take(NEAR).find(|i| writes_to(i, register))?;
    if !matches!(sum.code(), Code::Add_r64_rm64 | Code::Add_rm64_r64) || sum.op1_kind() != OpKind::Register {
        return None;
    }
    let mut places = Vec::new();
    // The address may be kept in either register, and loaded anywhere in the function.
    for lea in all.iter().filter(|i| i.code() == Code::Lea_r64_m && i.is_ip_rel_memory_operand()) {
        if ![sum.op0_register(), sum.op1_register()].contains(&lea.op0_register()) {
            continue;
        }
        let table = lea.ip_rel_memory_address();
        let entries = (0..ENTRIES_MAX).map_while(|n| program.distance(table.wrapping_add(4 * n)));
        places.extend(entries.map(|distance| table.wrapping_add_signed(distance.into())));
        if places.len() > WAYS_MAX {
            return None;
        }
    }
    (!places.is_empty()).then_some(places)
}

#[cfg(test)]
mod tests;
