//! Whether the machine code of a Go function is what it is taken for, and where it returns.

use std::collections::HashSet;
use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::ReadRef;

use super::super::code::CODE_MAX;
use super::super::image::Image;

/// The check of the stack's size stands among so many instructions at the beginning.
const CHECK_MAX: usize = 4;
/// Offset of `stackguard0` in the runtime's `g`, which all code relies on.
const STACK_GUARD: u64 = 16;

/// Why a function is not probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// It does not lie in the file's code, or is longer than what is decoded.
    #[error("it lies outside the code, or is too long")]
    Outside,
    /// Go before 1.17, or built with `GOEXPERIMENT=noregabi`.
    #[error("its arguments are on the stack (built with Go before 1.17)")]
    StackAbi,
    /// It does not begin as Go's functions do.
    #[error("it does not begin with the check of the stack")]
    NoCheck,
    /// Some bytes are no instructions, or a branch leads into the middle of one.
    #[error("its code is not understood")]
    Code,
    /// It ends in another function.
    #[error("it is left by a jump")]
    Jump,
    /// The table has its name only.
    #[error("it is inlined where it is called")]
    Inlined,
    /// Which of them is called is not known.
    #[error("there are several of that name")]
    Several,
    /// What reads TLS writes it too, at least alerts.
    #[error("there is none")]
    Missing,
    /// It never returns.
    #[error("it has no return")]
    NoReturn,
}

/// A function that is understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// File offset of the instruction that is probed at the entry: arguments and stack pointer are as there.
    pub entry: u64,
    /// File offsets of its RET instructions.
    pub returns: Vec<u64>,
}

pub(super) fn check<'d, R: ReadRef<'d>>(image: &Image<'d, R>, range: Range<u64>) -> Result<Checked, Unclear> {
    let len = range.end.checked_sub(range.start).filter(|len| *len <= CODE_MAX).ok_or(Unclear::Outside)?;
    let code = image.code(range.start, len).ok_or(Unclear::Outside)?;
    let offset = image.file_offset(range.start).ok_or(Unclear::Outside)?;
    let (entry, returns) = decode(code, range.start)?;
    let offset_of = |address: u64| offset + (address - range.start);
    Ok(Checked { entry: offset_of(entry), returns: returns.into_iter().map(offset_of).collect() })
}

/// Addresses of the entry's probe and of the returns in the function that begins at `start`.
fn decode(code: &[u8], start: u64) -> Result<(u64, Vec<u64>), Unclear> {
    // Up to the next function the linker fills with INT3.
    let len = code.iter().rposition(|byte| *byte != 0xcc).map_or(0, |last| last + 1);
    let code = &code[..len];
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().collect();
    let checked = stack_check(&instructions)?;
    let mut places = HashSet::new();
    let mut targets = HashSet::new();
    let mut returns = Vec::new();
    for instruction in &instructions {
        if instruction.is_invalid() {
            return Err(Unclear::Code);
        }
        places.insert(instruction.ip());
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {}
            // UD2 behind calls that do not return; INT3.
            FlowControl::Exception | FlowControl::Interrupt => {}
            FlowControl::Return if instruction.code() == Code::Retnq => returns.push(instruction.ip()),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                targets.insert(instruction.near_branch_target());
            }
            FlowControl::IndirectBranch => return Err(Unclear::Jump),
            FlowControl::Return | FlowControl::XbeginXabortXend => return Err(Unclear::Code),
        }
    }
    let end = start + code.len() as u64;
    if targets.iter().any(|target| !(start..end).contains(target)) {
        return Err(Unclear::Jump);
    }
    if !targets.is_subset(&places) {
        return Err(Unclear::Code);
    }
    if returns.is_empty() {
        return Err(Unclear::NoReturn);
    }
    // Behind the check a probe is hit once even if the stack has to grow; and PUSH, which stands there from
    // Go 1.21 on, is emulated.
    let behind =
        instructions.get(checked).filter(|i| i.code() == Code::Push_r64 && !targets.contains(&i.ip()));
    Ok((behind.map_or(start, Instruction::ip), returns))
}

/// How many instructions check the stack's size, at the function's beginning. The check also shows that the
/// goroutine is in R14, as in code whose arguments are in registers.
fn stack_check(instructions: &[Instruction]) -> Result<usize, Unclear> {
    let mut register = Register::RSP;
    for (index, instruction) in instructions.iter().take(CHECK_MAX).enumerate() {
        if instruction.segment_prefix() == Register::FS {
            return Err(Unclear::StackAbi);
        }
        match instruction.mnemonic() {
            // A large frame: LEA R12, [RSP-n]; a very large one: MOV R12, RSP; SUB R12, n; JB.
            Mnemonic::Lea if instruction.memory_base() == Register::RSP => {
                register = instruction.op0_register()
            }
            Mnemonic::Mov if instruction.op1_register() == Register::RSP => {
                register = instruction.op0_register()
            }
            Mnemonic::Sub if instruction.op0_register() == register && register != Register::RSP => {}
            Mnemonic::Jb => {}
            Mnemonic::Cmp
                if instruction.op0_register() == register
                    && instruction.op1_kind() == OpKind::Memory
                    && instruction.memory_base() == Register::R14
                    && instruction.memory_index() == Register::None
                    && instruction.memory_displacement64() == STACK_GUARD =>
            {
                let branch = instructions.get(index + 1).ok_or(Unclear::NoCheck)?;
                return if branch.mnemonic() == Mnemonic::Jbe {
                    Ok(index + 2)
                } else {
                    Err(Unclear::NoCheck)
                };
            }
            _ => return Err(Unclear::NoCheck),
        }
        if ![Register::RSP, Register::R12, Register::R13].contains(&register) {
            return Err(Unclear::NoCheck);
        }
    }
    Err(Unclear::NoCheck)
}

#[cfg(test)]
mod tests {
    use super::{Unclear, decode};

    const CHECK: &[u8] = b"\x49\x3b\x66\x10\x76\x02"; // cmp rsp, [r14+16]; jbe over the next two bytes

    fn after_check(code: &[u8]) -> Result<(u64, Vec<u64>), Unclear> {
        decode(&[CHECK, code].concat(), 0x1000)
    }

    #[test]
    fn entry_and_returns() {
        // push rbp; ret; jmp to the start; padding
        assert_eq!(after_check(b"\x55\xc3\xeb\xf6\xcc\xcc\xcc"), Ok((0x1006, vec![0x1007])));
        // sub rsp is no better place than the start
        assert_eq!(after_check(b"\x90\xc3\xeb\xf6\xc3"), Ok((0x1000, vec![0x1007, 0x100a])));
        // a branch to the push: it would be hit again
        assert_eq!(after_check(b"\x55\xc3\xeb\xfc"), Ok((0x1000, vec![0x1007])));
        // lea r12, [rsp-80]; cmp r12, [r14+16]; jbe; push rbp; ret; jmp to the start
        let large = b"\x4c\x8d\x64\x24\xb0\x4d\x3b\x66\x10\x76\x02\x55\xc3\xeb\xf1";
        assert_eq!(decode(large, 0), Ok((11, vec![12])));
    }

    #[test]
    fn what_is_not_understood_is_not_probed() {
        assert_eq!(after_check(b"\x55\xc3\xe9\0\x10\0\0"), Err(Unclear::Jump)); // jmp out
        assert_eq!(after_check(b"\x55\xc3\xff\xe0"), Err(Unclear::Jump)); // jmp rax
        assert_eq!(after_check(b"\x55\xc3\xeb\xf7"), Err(Unclear::Code)); // jmp into the first instruction
        assert_eq!(after_check(b"\x55\xc3\x06\x90"), Err(Unclear::Code)); // no instruction
        assert_eq!(after_check(b"\x55\xc3\xc2\x08\x00"), Err(Unclear::Code)); // ret 8
        assert_eq!(after_check(b"\x55\x90\xeb\xf6"), Err(Unclear::NoReturn));
        assert_eq!(decode(b"\x55\xc3", 0), Err(Unclear::NoCheck));
        assert_eq!(decode(b"", 0), Err(Unclear::NoCheck));
        // mov rcx, fs:[-8]; cmp rsp, [rcx+16]
        let old = b"\x64\x48\x8b\x0c\x25\xf8\xff\xff\xff\x48\x3b\x61\x10\x76\x01\xc3";
        assert_eq!(decode(old, 0), Err(Unclear::StackAbi));
    }
}
