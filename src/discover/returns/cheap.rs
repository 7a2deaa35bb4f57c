//! Emulated instructions that tell of a return as well as the RET itself, which is single-stepped.
//!
//! From the RET the code is followed backwards, on all ways that lead there, as long as nothing changes memory. If each
//! comes to a jump that the kernel emulates, these jumps are probed instead: a conditional one counts when it goes that
//! way. What the result is, and how deep the stack, is known there already.

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};

use super::{Step, Walked};
use crate::discover::code::writes;

/// Most instructions between a jump and the RET.
const NEAR: usize = 16;
/// Most jumps that stand for one RET. Each that is passed costs a trap.
const JUMPS_MAX: usize = 4;
/// Most words on the stack between the stack pointer there and the return address: 10 bits of an attach cookie.
const DEPTH_MAX: i64 = 1023;
/// Bytes of a word on the stack.
const WORD: i64 = 8;
/// Most instructions behind a jump that are looked at to see whether it is in a loop.
const BEHIND_MAX: usize = 4096;
/// Results that are constants have 4 bits of an attach cookie.
const CONSTANTS: std::ops::RangeInclusive<i64> = -8..=7;

/// A jump that the kernel emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cheap {
    /// Its file offset; its address, while it is looked for.
    pub at: u64,
    /// So many words are still on the stack above the return address.
    pub depth: u16,
    /// What the function is about to return.
    pub value: Value,
    /// It leads to the RET under this condition, as machine code numbers conditions; `None`: always.
    pub when: Option<u8>,
}

/// A result. Registers are numbered as machine code does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is in its place.
    Ready,
    /// In this register.
    Whole(u8),
    /// The lower half of this register, with its sign.
    Signed(u8),
    /// The same without.
    Unsigned(u8),
    /// This.
    Constant(i8),
    /// The lower half of this.
    Half(i8),
}

/// The jumps that stand for the RET at `ret`; empty: some way there passes none.
pub(super) fn before(walked: &Walked, ret: u64) -> Vec<Cheap> {
    all_before(walked, ret).unwrap_or_default()
}

fn all_before(walked: &Walked, ret: u64) -> Option<Vec<Cheap>> {
    let mut found: Vec<Cheap> = Vec::new();
    // With the instructions from there on, the last first.
    let mut todo: Vec<(u64, Vec<Instruction>)> = vec![(ret, Vec::new())];
    while let Some((at, path)) = todo.pop() {
        if at == walked.start || path.len() > NEAR {
            return None;
        }
        for (from, how) in walked.before.get(&at)? {
            let before = walked.seen.get(from)?;
            let when = match (before.flow_control(), how) {
                (FlowControl::Next, Step::Falls) => {
                    todo.push((*from, path.iter().copied().chain([*before]).collect()));
                    continue;
                }
                (FlowControl::UnconditionalBranch, Step::Jumps) => None,
                (FlowControl::ConditionalBranch, _) if before.is_jcc_short_or_near() => {
                    // In the order of machine code, from 1 on. The lowest bit inverts it.
                    let condition = (before.condition_code() as u8).checked_sub(1)?;
                    Some(condition ^ u8::from(*how == Step::Falls))
                }
                _ => return None,
            };
            if is_in_loop(walked, *from) || found.len() >= JUMPS_MAX {
                return None;
            }
            let (depth, value) = outcome(&path)?;
            found.push(Cheap { at: *from, depth, value, when });
        }
    }
    Some(found)
}

/// Whether an instruction may come after itself: then it may be passed often in one call. Of one with too much behind
/// it that is supposed.
fn is_in_loop(walked: &Walked, at: u64) -> bool {
    let mut seen = std::collections::HashSet::new();
    let mut todo = vec![at];
    while let Some(from) = todo.pop() {
        for to in walked.after.get(&from).into_iter().flatten() {
            if *to == at {
                return true;
            }
            if seen.insert(*to) {
                todo.push(*to);
            }
        }
        if seen.len() > BEHIND_MAX {
            return true;
        }
    }
    false
}

/// What these instructions, the last first, take from the stack, and what they make the result; `None`: they do more.
fn outcome(path: &[Instruction]) -> Option<(u16, Value)> {
    let mut info = InstructionInfoFactory::new();
    let mut depth = 0i64;
    let mut value = Value::Ready;
    let mut changed: Vec<Register> = Vec::new();
    for i in path.iter().rev() {
        let (to, from) = (i.op0_register(), i.op1_register());
        let by_register = i.op_count() == 2 && i.op1_kind() == OpKind::Register;
        let is_result =
            i.op_count() > 0 && i.op0_kind() == OpKind::Register && to.full_register() == Register::RAX;
        match i.code() {
            Code::Pop_r64 if to != Register::RAX && to != Register::RSP => {
                depth += 1;
                changed.push(to);
                continue;
            }
            Code::Add_rm64_imm8 | Code::Add_rm64_imm32 if to == Register::RSP => {
                let by = i.immediate(1) as i64;
                depth += (by % WORD == 0).then_some(by / WORD)?;
                continue;
            }
            Code::Cdqe => {
                value = (value == Value::Ready).then_some(Value::Signed(Register::RAX.number() as u8))?;
                continue;
            }
            _ => {}
        }
        if is_result {
            let is_there = !changed.contains(&from.full_register())
                && (from.full_register() != Register::RAX || value == Value::Ready);
            let number = from.number() as u8;
            value = match i.code() {
                Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if by_register && is_there => Value::Whole(number),
                Code::Mov_r32_rm32 | Code::Mov_rm32_r32 if by_register && is_there => Value::Unsigned(number),
                Code::Movsxd_r64_rm32 if by_register && is_there => Value::Signed(number),
                Code::Xor_r32_rm32 | Code::Xor_rm32_r32 if by_register && to == from => Value::Constant(0),
                Code::Mov_r32_imm32 => Value::Half(constant(i64::from(i.immediate(1) as i32))?),
                Code::Mov_rm64_imm32 => Value::Constant(constant(i.immediate(1) as i64)?),
                Code::Or_rm32_imm8 if i.immediate(1) as i64 == -1 => Value::Half(-1),
                Code::Or_rm64_imm8 if i.immediate(1) as i64 == -1 => Value::Constant(-1),
                _ => return None,
            };
            continue;
        }
        let used = info.info(i);
        let writes_memory = used.used_memory().iter().any(|m| writes(m.access()));
        for register in used.used_registers().iter().filter(|r| writes(r.access())) {
            let full = register.register().full_register();
            if full == Register::RAX || full == Register::RSP {
                return None;
            }
            changed.push(full);
        }
        if writes_memory || i.flow_control() != FlowControl::Next {
            return None;
        }
    }
    (0..=DEPTH_MAX).contains(&depth).then_some((depth as u16, value))
}

fn constant(value: i64) -> Option<i8> {
    CONSTANTS.contains(&value).then_some(value as i8)
}
