//! Which instructions of a file may load one of many addresses, or call one of many functions.
//!
//! All code is searched for byte patterns, which is fast and knows no instructions: whoever asks must decode the
//! function around a place before it believes what is found there.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions};
use object::ReadRef;

use super::code::CODE_MAX;
use super::image::Image;
use super::internal::Site;

/// Longest code that is searched, in bytes; Codex and Chrome have 200 to 260 MiB.
const LEN_MAX: u64 = 384 << 20;

/// The executable section of ordinary code.
pub(super) struct Text<'d> {
    start: u64,
    code: &'d [u8],
}

impl<'d> Text<'d> {
    /// `None`: it cannot be read, or is longer than what is searched.
    pub(super) fn of<R: ReadRef<'d>>(image: &Image<'d, R>, site: &Site<'_, 'd, R>) -> Option<Self> {
        let range = site.text();
        let len = range.end.checked_sub(range.start).filter(|len| *len <= LEN_MAX)?;
        Some(Text { start: range.start, code: image.code(range.start, len)? })
    }

    /// Places in what may be `lea r64, [rip + x]`, and the addresses that they load.
    pub(super) fn loads(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        const LEA: u8 = 0x8d;
        memchr::memchr_iter(LEA, self.code).filter_map(|at| {
            let [modrm, distance @ ..] = self.code.get(at + 1..at + 6)?.first_chunk::<5>()?;
            // Without a base.
            (modrm & 0xc7 == 5).then(|| self.target(at, 6, *distance))
        })
    }

    /// Places of what may be a call or a jump, with a distance of 32 bits, and where they lead.
    pub(super) fn calls(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        const CALL: u8 = 0xe8;
        const JUMP: u8 = 0xe9;
        memchr::memchr2_iter(CALL, JUMP, self.code).filter_map(|at| {
            let distance = self.code.get(at + 1..at + 5)?.first_chunk::<4>()?;
            Some(self.target(at, 5, *distance))
        })
    }

    fn target(&self, at: usize, len: u64, distance: [u8; 4]) -> (u64, u64) {
        let address = self.start + at as u64;
        (address, (address + len).wrapping_add_signed(i64::from(i32::from_le_bytes(distance))))
    }
}

/// Addresses that the function from `start` to `end` loads; `None`: its code is not understood, or longer than what is
/// decoded.
pub(super) fn loaded<'d, R: ReadRef<'d>>(
    image: &Image<'d, R>,
    start: u64,
    end: u64,
) -> Option<BTreeSet<u64>> {
    let len = end.checked_sub(start).filter(|len| *len <= CODE_MAX)?;
    let mut loaded = BTreeSet::new();
    for instruction in Decoder::with_ip(64, image.code(start, len)?, start, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return None;
        }
        if instruction.code() == Code::Lea_r64_m && instruction.is_ip_rel_memory_operand() {
            loaded.insert(instruction.ip_rel_memory_address());
        }
    }
    Some(loaded)
}
