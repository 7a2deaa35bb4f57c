//! Where functions return: the RET instructions that end them.
//!
//! A probe in the middle of an instruction would end the program, so the code is followed from the function's
//! beginning, within what the unwind table says are functions, and nothing is guessed: a function from which a
//! jump leads to an address in a register or in memory is not taken. What it jumps to directly ends for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};

use super::bounded::{Bounded, Deadline};
use super::image::Image;
use super::internal::Site;

/// Most instructions that are followed from one function.
const STEPS_MAX: usize = 1 << 14;
/// Longest x86 instruction.
const INSTRUCTION_MAX: u64 = 15;

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

/// File offsets of the RET instructions that end the functions at these file offsets.
pub(super) fn find(file: &File, functions: &[u64]) -> Vec<Result<Vec<u64>, Unclear>> {
    let deadline = Deadline::start();
    let data = Bounded::file(file, deadline);
    let image = Image::parse(&data, deadline).ok();
    let site = image.as_ref().and_then(|image| Site::of(image, &[]));
    let (Some(image), Some(site)) = (&image, &site) else {
        return vec![Err(Unclear::Unreadable); functions.len()];
    };
    let ranges: BTreeMap<u64, u64> = site.ranges().collect();
    let code = |address: u64| {
        let (_, end) = ranges.range(..=address).next_back()?;
        let len = end.checked_sub(address).filter(|len| *len > 0)?.min(INSTRUCTION_MAX);
        Some((image.code(address, len)?, *end))
    };
    let returns = |offset: &u64| {
        let start = image.address_of(*offset).ok_or(Unclear::Unreadable)?;
        let found = walk(start, code)?;
        found.into_iter().map(|at| image.file_offset(at).ok_or(Unclear::Code)).collect()
    };
    functions.iter().map(returns).collect()
}

/// Addresses of the returns of the function at `start`. `code` gives the bytes from an address on, and where
/// the function that has them ends.
fn walk<'c>(start: u64, code: impl Fn(u64) -> Option<(&'c [u8], u64)>) -> Result<BTreeSet<u64>, Unclear> {
    // Where each instruction ends.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut returns = BTreeSet::new();
    let mut todo = vec![start];
    while let Some(at) = todo.pop() {
        if seen.contains_key(&at) {
            continue;
        }
        let (bytes, end) = code(at).ok_or(Unclear::Code)?;
        let mut instruction = Instruction::default();
        Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode_out(&mut instruction);
        if instruction.is_invalid() {
            return Err(Unclear::Code);
        }
        if seen.len() >= STEPS_MAX {
            return Err(Unclear::NoReturn);
        }
        let next = instruction.next_ip();
        seen.insert(at, next);
        match instruction.flow_control() {
            FlowControl::Next if next < end => todo.push(next),
            // What does not return is often called last.
            FlowControl::Call | FlowControl::IndirectCall => todo.extend((next < end).then_some(next)),
            FlowControl::ConditionalBranch if next < end => {
                todo.extend([next, instruction.near_branch_target()]);
            }
            FlowControl::UnconditionalBranch => todo.push(instruction.near_branch_target()),
            FlowControl::Return if instruction.code() == Code::Retnq => {
                returns.insert(at);
            }
            FlowControl::Exception | FlowControl::Interrupt => {}
            FlowControl::IndirectBranch => return Err(Unclear::Jump),
            _ => return Err(Unclear::Code),
        }
    }
    let overlaps = seen.iter().zip(seen.keys().skip(1)).any(|((_, end), next)| end > next);
    match (overlaps, returns.is_empty()) {
        (true, _) => Err(Unclear::Code),
        (_, true) => Err(Unclear::NoReturn),
        _ => Ok(returns),
    }
}

#[cfg(test)]
mod tests {
    use super::{Unclear, walk};

    /// Functions that begin at 0, and at 32.
    fn returns(first: &[u8], second: &[u8]) -> Result<Vec<u64>, Unclear> {
        let code = |at: u64| {
            let (bytes, start) = if at < 32 { (first, 0) } else { (second, 32) };
            let rest = bytes.get(usize::try_from(at - start).ok()?..).filter(|rest| !rest.is_empty())?;
            Some((rest, start + bytes.len() as u64))
        };
        walk(0, code).map(|found| found.into_iter().collect())
    }

    #[test]
    fn each_path_is_followed_to_its_return() {
        // push rbx; je +2; pop rbx; ret; pop rbx; rep ret
        assert_eq!(returns(b"\x53\x74\x02\x5b\xc3\x5b\xf3\xc3", b""), Ok(vec![4, 6]));
        // jmp to the second function, and a return there behind a call
        assert_eq!(returns(b"\xe9\x1b\0\0\0", b"\xe8\0\0\0\0\xc3"), Ok(vec![37]));
        // a call that does not return stands last
        assert_eq!(returns(b"\x74\x01\xc3\xe8\0\0\0\0", b""), Ok(vec![2]));
        // ud2 ends a path
        assert_eq!(returns(b"\x74\x02\x0f\x0b\xc3", b""), Ok(vec![4]));
    }

    #[test]
    fn what_is_not_understood_is_not_taken() {
        assert_eq!(returns(b"\x74\x02\xff\xe0\xc3", b""), Err(Unclear::Jump)); // jmp rax
        assert_eq!(returns(b"\x74\x01\xc3\x06", b""), Err(Unclear::Code)); // no instruction
        assert_eq!(returns(b"\xc2\x08\x00", b""), Err(Unclear::Code)); // ret 8
        assert_eq!(returns(b"\x90\x90", b""), Err(Unclear::Code)); // it runs over its end
        assert_eq!(returns(b"\xeb\x40", b""), Err(Unclear::Code)); // to where no function is
        assert_eq!(returns(b"\xeb\xfe", b""), Err(Unclear::NoReturn));
        // mov eax, 0xc3, and a jump to the last four bytes of it
        assert_eq!(returns(b"\x74\x01\xb8\xc3\0\0\0\xc3", b""), Err(Unclear::Code));
    }
}
