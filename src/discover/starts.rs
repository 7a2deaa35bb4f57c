//! Where the functions of a file begin and end.
//!
//! The unwind table tells it. Some programs have none, or one of little of their code: Deno, Bun, Chromium. There all
//! code is decoded, one instruction after the other, and what is called, or has its address taken by code or put somewhere by
//! the loader, begins a function if an instruction begins there. Such a function is taken to end where the next one
//! begins. So it may be too long or be cut into pieces, but neither it nor anything that is found in it by following its code
//! begins within an instruction, unless both ways to decode it err in the same place.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use object::ReadRef;

use super::image::{Image, Pointer};

/// Most functions of one file; Chrome has about a million.
const FUNCTIONS_MAX: usize = 1 << 23;
/// Longest code that is decoded as a whole, in bytes.
const LEN_MAX: u64 = 384 << 20;
/// Instructions between two looks at the clock.
const AT_ONCE: usize = 1 << 16;

/// Functions, in order.
pub(super) struct Starts {
    ranges: Vec<(u64, u64)>,
    /// Where instructions begin, if the functions were found by that.
    instructions: Option<Marks>,
}

impl Starts {
    /// As the unwind table tells it. Reads all of `.eh_frame`: gimli's search in its index overflows on a damaged one.
    pub(super) fn of_unwind_table<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Self> {
        let (address, frames) = image.section(b".eh_frame")?;
        let mut bases = BaseAddresses::default().set_eh_frame(address);
        if let Some(text) = image.section_range(b".text") {
            bases = bases.set_text(text.start);
        }
        let frames = EhFrame::new(frames, LittleEndian);
        let mut ranges = Vec::new();
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next().ok()? {
            let CieOrFde::Fde(partial) = entry else { continue };
            let frame = partial.parse(EhFrame::cie_from_offset).ok()?;
            let start = frame.initial_address();
            ranges.push((start, start.checked_add(frame.len())?));
            if ranges.len() > FUNCTIONS_MAX {
                return None;
            }
        }
        ranges.sort_unstable();
        Some(Starts { ranges, instructions: None })
    }

    /// By the unwind table if that tells of at least half of the code, else by the code.
    pub(super) fn of_code<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Self> {
        let text = image.section_range(b".text")?;
        let told = Starts::of_unwind_table(image);
        match told {
            Some(told) if told.covered(&text) >= (text.end - text.start) / 2 => Some(told),
            told => Starts::of_instructions(image, text, told.map(|told| told.ranges).unwrap_or_default()),
        }
    }

    /// How many bytes of the code are functions.
    fn covered(&self, text: &Range<u64>) -> u64 {
        let mut end = text.start;
        let mut covered = 0;
        for (start, next) in &self.ranges {
            let next = (*next).min(text.end);
            covered += next.saturating_sub(end.max(*start));
            end = end.max(next);
        }
        covered
    }

    /// By all instructions. `known`: functions of which the unwind table tells.
    fn of_instructions<'d, R: ReadRef<'d>>(
        image: &Image<'d, R>,
        text: Range<u64>,
        known: Vec<(u64, u64)>,
    ) -> Option<Self> {
        let len = text.end.checked_sub(text.start).filter(|len| *len <= LEN_MAX)?;
        let code = image.code(text.start, len)?;
        let mut instructions = Marks::new(text.start, len);
        let mut starts = Marks::new(text.start, len);
        let mut decoder = Decoder::with_ip(64, code, text.start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            if image.is_late() {
                return None;
            }
            for _ in 0..AT_ONCE {
                if !decoder.can_decode() {
                    break;
                }
                decoder.decode_out(&mut instruction);
                match instruction.code() {
                    Code::INVALID => continue,
                    Code::Call_rel32_64 => starts.set(instruction.near_branch_target()),
                    Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
                        starts.set(instruction.ip_rel_memory_address());
                    }
                    _ => {}
                }
                instructions.set(instruction.ip());
            }
        }
        for to in image.pointers().values() {
            if let Pointer::Address(address) = to {
                starts.set(*address);
            }
        }
        known.iter().for_each(|(start, _)| starts.set(*start));
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for start in starts.and(&instructions) {
            if let Some(last) = ranges.last_mut() {
                last.1 = start;
            }
            ranges.push((start, text.end));
            if ranges.len() > FUNCTIONS_MAX {
                return None;
            }
        }
        Some(Starts { ranges, instructions: Some(instructions) })
    }

    /// Where each begins and ends.
    pub(super) fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// End of the function that begins at `address`.
    pub(super) fn end_of(&self, address: u64) -> Option<u64> {
        let at = self.ranges.binary_search_by_key(&address, |(start, _)| *start).ok()?;
        self.ranges.get(at).map(|(_, end)| *end)
    }

    /// Where the function begins and ends that has an address.
    pub(super) fn range_with(&self, address: u64) -> Option<(u64, u64)> {
        let after = self.ranges.partition_point(|(start, _)| *start <= address);
        let found = self.ranges.get(after.checked_sub(1)?).copied();
        found.filter(|(_, end)| address < *end)
    }

    /// Whether nothing speaks against an instruction beginning at an address.
    pub(super) fn may_begin_instruction(&self, address: u64) -> bool {
        self.instructions.as_ref().is_none_or(|instructions| instructions.has(address))
    }
}

/// A bit for each byte of the code.
struct Marks {
    start: u64,
    bits: Vec<u64>,
}

impl Marks {
    fn new(start: u64, len: u64) -> Marks {
        Marks { start, bits: vec![0; (len / 64 + 1) as usize] }
    }

    fn place(&self, address: u64) -> Option<(usize, u64)> {
        let at = address.checked_sub(self.start)?;
        let word = usize::try_from(at / 64).ok().filter(|word| *word < self.bits.len())?;
        Some((word, 1 << (at % 64)))
    }

    /// Nothing, if it is outside.
    fn set(&mut self, address: u64) {
        if let Some((word, bit)) = self.place(address) {
            self.bits[word] |= bit;
        }
    }

    fn has(&self, address: u64) -> bool {
        self.place(address).is_some_and(|(word, bit)| self.bits[word] & bit != 0)
    }

    /// Addresses that are marked in both, which are of the same code.
    fn and<'m>(&'m self, other: &'m Marks) -> impl Iterator<Item = u64> + 'm {
        self.bits.iter().zip(&other.bits).enumerate().flat_map(move |(index, (one, two))| {
            let both = one & two;
            let bits = (0..64).filter(move |bit| both >> bit & 1 == 1);
            bits.map(move |bit| self.start + 64 * index as u64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::process::Command;

    use super::super::bounded::Deadline;
    use super::super::elf::own_tables;
    use super::*;

    const NO_TABLE: [&str; 2] = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];

    fn compiled(folder: &Path, options: &[&str]) -> Vec<u8> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs/boring.c");
        let out = folder.join("program");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-w", "-fPIE", "-pie", "-o"]).args([&out, &source]).args(options);
        assert!(cc.status().expect("a C compiler is needed").success());
        std::fs::read(out).unwrap()
    }

    /// Addresses of all instructions, as binutils tell them.
    fn instructions(program: &Path) -> BTreeSet<u64> {
        let output = Command::new("objdump").args(["-d", "-j", ".text"]).arg(program).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let address = |line: &str| u64::from_str_radix(line.trim_start().split_once(":\t")?.0, 16).ok();
        text.lines().filter_map(address).collect()
    }

    #[test]
    fn without_an_unwind_table_what_is_called_or_pointed_to_begins_a_function() {
        let folder = tempfile::tempdir().unwrap();
        let data = compiled(folder.path(), &NO_TABLE);
        let image = Image::parse(&data[..], Deadline::start()).ok().unwrap();
        let starts = Starts::of_code(&image).unwrap();
        let instructions = instructions(&folder.path().join("program"));
        for (start, end) in starts.ranges() {
            assert!(start < end && instructions.contains(start), "{start:#x}");
        }
        let tables = own_tables(&image);
        for name in ["SSL_read", "SSL_write", "SSL_do_handshake", "BIO_read", "BIO_write", "main"] {
            let mut all = tables.iter().flat_map(|table| table.functions());
            let (_, address) = all.find(|(n, _)| *n == name.as_bytes()).unwrap();
            assert!(starts.end_of(address).is_some(), "{name}");
        }
        // Nothing within an instruction passes.
        let text = image.section_range(b".text").unwrap();
        for at in text.filter(|at| !instructions.contains(at)) {
            assert!(!starts.may_begin_instruction(at) && starts.end_of(at).is_none(), "{at:#x}");
        }
    }

    #[test]
    fn the_unwind_table_is_believed_where_it_tells_of_most_code() {
        let folder = tempfile::tempdir().unwrap();
        let data = compiled(folder.path(), &[]);
        let image = Image::parse(&data[..], Deadline::start()).ok().unwrap();
        let starts = Starts::of_code(&image).unwrap();
        assert!(starts.instructions.is_none());
        assert_eq!(starts.ranges, Starts::of_unwind_table(&image).unwrap().ranges);
    }
}
