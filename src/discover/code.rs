//! Where in a function a probe is cheap.
//!
//! The kernel emulates a few instructions under a breakpoint; all others it copies aside and
//! single-steps, which costs several times more. Where a function does not begin with one of the few, a later
//! instruction serves as well, as long as stack pointer, arguments and memory still are as at the
//! entry.

use std::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register,
};
use object::ReadRef;

use super::image::Image;

/// Longest function that is decoded, in bytes.
pub(super) const CODE_MAX: u64 = 1 << 14;
/// Most instructions that are passed over in search of a cheap one.
const SKIP_MAX: usize = 8;

/// What a probe costs at each hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The kernel emulates the instruction that the breakpoint displaced.
    Emulated,
    /// It single-steps a copy of it.
    Stepped,
    /// Machine code of this processor is not decoded.
    Unknown,
}

/// Where a function is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// File offset of the function.
    pub function: u64,
    /// File offset of the probed instruction: that of the function, or a little behind it.
    pub offset: u64,
    /// What a probe there costs.
    pub cost: Cost,
}

impl Place {
    /// The function's first instruction, which is not decoded.
    pub(super) fn start(offset: u64) -> Place {
        Place { function: offset, offset, cost: Cost::Unknown }
    }
}

/// The best place for a probe in the function at `range`, which lies at the file offset `offset`.
pub(super) fn place<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    range: Range<u64>,
    offset: u64,
) -> Option<Place> {
    let start = range.start;
    let len = range.end.checked_sub(start).filter(|len| *len <= CODE_MAX)?;
    let code = image.code(start, len)?;
    let first = Decoder::with_ip(64, code, start, DecoderOptions::NONE).iter().next()?;
    if first.is_invalid() {
        return None;
    }
    let place = |at: u64, cost| Place { function: offset, offset: offset + (at - start), cost };
    Some(match cheap(code, start) {
        Some(at) if at == start || !is_branch_target(code, start, at) => place(at, Cost::Emulated),
        _ => place(start, Cost::Stepped),
    })
}

/// Address of the first instruction that is emulated, if nothing before it changes what a probe reads.
fn cheap(code: &[u8], start: u64) -> Option<u64> {
    let mut info = InstructionInfoFactory::new();
    let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(SKIP_MAX) {
        let at = (instruction.ip() - start) as usize;
        if is_emulated(code.get(at..at + instruction.len())?) {
            return Some(instruction.ip());
        }
        if !changes_nothing(&mut info, &instruction) {
            return None;
        }
    }
    None
}

/// Whether every x86-64 kernel from 5.8 on emulates the instruction. Calls are no places for probes: what the kernel
/// puts on the stack for them, most kernels do not put on the shadow stack of a process that has one.
pub(super) fn is_emulated(bytes: &[u8]) -> bool {
    match bytes {
        [0x50..=0x57] | [0x41, 0x50..=0x57] => true, // push
        [0x90] | [0x66, 0x90] => true,               // nop
        [0xeb, _] | [0x70..=0x7f, _] => true,        // jmp, jcc
        [0xe9, _, _, _, _] | [0x0f, 0x80..=0x8f, _, _, _, _] => true, // jmp, jcc
        _ => false,
    }
}

/// Whether stack pointer, arguments and memory stay as they are.
fn changes_nothing(info: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    use Register::{R8, R9, RCX, RDI, RDX, RSI, RSP};
    if matches!(instruction.code(), Code::Endbr64 | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64) {
        return true;
    }
    let used = info.info(instruction);
    instruction.flow_control() == FlowControl::Next
        && !instruction.is_invalid()
        && used.used_memory().is_empty()
        && used.used_registers().iter().filter(|r| writes(r.access())).all(|r| {
            let full = r.register().full_register();
            full.is_gpr() && ![RSP, RDI, RSI, RDX, RCX, R8, R9].contains(&full)
        })
}

/// Whether something is changed by such an access.
pub(super) fn writes(access: OpAccess) -> bool {
    !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

/// Whether the function may branch to the instruction at `at`, which is no endbr64.
fn is_branch_target(code: &[u8], start: u64, at: u64) -> bool {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let is_guarded = decoder.iter().next().is_some_and(|first| first.code() == Code::Endbr64);
    decoder.into_iter().any(|instruction| match instruction.flow_control() {
        // Of code that is compiled for CET these lead to an endbr64, unless they say otherwise (notrack).
        FlowControl::IndirectBranch => !is_guarded || instruction.segment_prefix() == Register::DS,
        _ => instruction.is_invalid() || instruction.near_branch_target() == at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_over_and_what_is_not() {
        let at = |code: &[u8]| cheap(code, 0x1000).map(|a| a - 0x1000);
        assert_eq!(at(b"\x55\xc3"), Some(0)); // push rbp
        assert_eq!(at(b"\x41\x57\xc3"), Some(0)); // push r15
        assert_eq!(at(b"\xf3\x0f\x1e\xfa\x41\x56"), Some(4)); // endbr64; push r14
        assert_eq!(at(b"\x49\x89\xfa\x31\xc0\x53"), Some(5)); // mov r10, rdi; xor eax, eax; push rbx
        assert_eq!(at(b"\xf3\x0f\x1e\xfa\x0f\x1f\x44\x00\x00\x53"), Some(9)); // nop5; push rbx
        assert_eq!(at(b"\xf3\x0f\x1e\xfa\x0f\x1f\x44\x00\x00\xe8\0\0\0\0"), None); // nop5; call
        assert_eq!(at(b"\x48\x83\xec\x18\x55"), None); // sub rsp, 24
        assert_eq!(at(b"\x49\x89\xc8\x31\xc9\xeb\x00"), None); // mov r8, rcx: an argument
        assert_eq!(at(b"\x48\x8b\x07\x55"), None); // mov rax, [rdi]: may fault, and then come again
        assert_eq!(at(b"\x48\x53"), None); // push rbx with a REX prefix that kernels do not take
        assert_eq!(at(b"\x66\xe8\x00\x00\x00\x00"), None); // 16-bit call
        assert_eq!(at(b"\x41\x90"), None); // xchg r8, rax
        assert_eq!(at(b"\xf3\x0f\x1e\xfa"), None);
    }

    #[test]
    fn a_loop_to_the_place_forbids_it() {
        // endbr64; push rbx; jmp to the push
        assert!(is_branch_target(b"\xf3\x0f\x1e\xfa\x53\xeb\xfd", 0, 4));
        assert!(!is_branch_target(b"\xf3\x0f\x1e\xfa\x53\xeb\xfe", 0, 4));
        assert!(!is_branch_target(b"\xf3\x0f\x1e\xfa\x53\xff\xe0", 0, 4)); // jmp rax
        assert!(is_branch_target(b"\xf3\x0f\x1e\xfa\x53\x3e\xff\xe0", 0, 4)); // notrack jmp rax
        assert!(is_branch_target(b"\x66\x0f\x1f\x40\x00\x53\xff\xe0", 0, 5)); // not for CET
    }
}
