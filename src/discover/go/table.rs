//! Go's table of functions (pclntab), in the layouts of Go 1.16, 1.18 and 1.20.

use std::ops::Range;

use memchr::memmem;
use object::ReadRef;

use super::super::image::Image;
use super::code::Unclear;

/// Most functions of a program; the largest known have less than half a million.
const FUNCTIONS_MAX: u64 = 1 << 23;
/// Most places that look like the beginning of a table.
const CANDIDATES_MAX: usize = 8;
/// Sections that hold the table, most likely first. Linkers other than Go's own make it a part of the last.
const SECTIONS: [&[u8]; 3] = [b".gopclntab", b".data.rel.ro.gopclntab", b".data.rel.ro"];
/// Behind the first byte of the magic number: no flags, instructions of any length, words of 8 bytes.
const BEGINNING: &[u8] = &[0xff, 0xff, 0xff, 0, 0, 1, 8];
/// Where the address of the code stands in Go's description of the program (moduledata, a section from 1.26 on).
const MODULE_TEXT: usize = 22 * 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Go 1.16 and 1.17: places of functions are addresses of 8 bytes.
    Addresses,
    /// From Go 1.18 on: they are relative to the code, in 4 bytes.
    Relative,
}

/// A table of functions.
#[derive(Debug)]
pub(super) struct Table<'d> {
    layout: Layout,
    /// Address that places are relative to; 0: the table does not tell.
    text: u64,
    names: &'d [u8],
    /// Starts with pairs of place and offset here of a function's description, and the end of the last.
    functions: &'d [u8],
    count: usize,
}

impl<'d> Table<'d> {
    /// What looks like a table.
    pub(super) fn candidates<R: ReadRef<'d>>(image: &Image<'d, R>) -> impl Iterator<Item = Table<'d>> {
        let contents = SECTIONS.iter().filter_map(|name| Some(image.section(name)?.1));
        contents
            .flat_map(|bytes| {
                let starts = memmem::find_iter(bytes, BEGINNING).filter_map(|at| at.checked_sub(1));
                starts.filter_map(|start| Table::parse(&bytes[start..]))
            })
            .take(CANDIDATES_MAX)
    }

    /// Whether the table is that of Go 1.2 to 1.15.
    pub(super) fn is_old<R: ReadRef<'d>>(image: &Image<'d, R>) -> bool {
        SECTIONS.iter().filter_map(|name| image.section(name)).any(|(_, bytes)| {
            memmem::find_iter(bytes, BEGINNING)
                .any(|at| at.checked_sub(1).is_some_and(|first| bytes[first] == 0xfb))
        })
    }

    pub(super) fn parse(bytes: &'d [u8]) -> Option<Table<'d>> {
        let layout = match bytes.first()? {
            0xfa => Layout::Addresses,
            0xf0 | 0xf1 => Layout::Relative,
            _ => return None,
        };
        let word = |index: usize| u64_at(bytes, 8 + index * 8);
        let part = |index: usize| usize::try_from(word(index)?).ok();
        let count = word(0).filter(|count| (1..=FUNCTIONS_MAX).contains(count))? as usize;
        // The number of files stands second; then, in the later layout, the address of the code. Then places of parts.
        let (text, first) = match layout {
            Layout::Addresses => (0, 2),
            Layout::Relative => (word(2)?, 3),
        };
        let table = Table {
            layout,
            text,
            names: bytes.get(part(first)?..part(first + 1)?)?,
            functions: bytes.get(part(first + 4)?..)?,
            count,
        };
        let entries = (count * 2 + 1) * table.width();
        (entries <= table.functions.len()).then_some(table)
    }

    /// Bytes of a number in the list of functions.
    fn width(&self) -> usize {
        match self.layout {
            Layout::Addresses => 8,
            Layout::Relative => 4,
        }
    }

    fn number(&self, index: usize) -> Option<u64> {
        let at = index * self.width();
        match self.layout {
            Layout::Addresses => u64_at(self.functions, at),
            Layout::Relative => u32_at(self.functions, at).map(u64::from),
        }
    }

    /// Where the functions of these names lie, relative to a base. Each name begins with `prefix`. `None`: the
    /// program has no such function.
    pub(super) fn methods<const N: usize>(
        &self,
        prefix: &[u8],
        names: &[&str; N],
    ) -> [Option<Result<Range<u64>, Unclear>>; N] {
        let mut offsets = [None; N];
        for at in memmem::find_iter(self.names, prefix) {
            if at > 0 && self.names[at - 1] != 0 {
                continue;
            }
            let rest = &self.names[at + prefix.len()..];
            let name = &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())];
            if let Some(index) = names.iter().position(|n| n.as_bytes() == name) {
                offsets[index] = u32::try_from(at).ok();
            }
        }
        // A name without a function: it was inlined wherever it is called.
        let mut found = offsets.map(|offset| offset.map(|_| Err(Unclear::Inlined)));
        for index in 0..self.count {
            let Some((name, range)) = self.function(index) else { continue };
            if let Some(which) = offsets.iter().position(|o| *o == Some(name)) {
                found[which] = Some(match found[which] {
                    Some(Err(Unclear::Inlined)) => Ok(range),
                    _ => Err(Unclear::Several),
                });
            }
        }
        found
    }

    /// Where its name stands among the names, and where the function lies.
    fn function(&self, index: usize) -> Option<(u32, Range<u64>)> {
        let start = self.number(index * 2)?;
        let description = usize::try_from(self.number(index * 2 + 1)?).ok()?;
        let end = self.number(index * 2 + 2)?;
        let name = u32_at(self.functions, description.checked_add(self.width())?)?;
        Some((name, start..end))
    }

    /// Addresses that places may be relative to, most likely first.
    pub(super) fn bases<R: ReadRef<'d>>(&self, image: &Image<'d, R>) -> Vec<u64> {
        if self.layout == Layout::Addresses {
            return vec![0];
        }
        let module = image.section(b".go.module").and_then(|(_, bytes)| u64_at(bytes, MODULE_TEXT));
        let text = image.section_range(b".text").map(|range| range.start);
        let mut bases: Vec<u64> = [Some(self.text), module, text].into_iter().flatten().collect();
        bases.retain(|base| *base != 0);
        bases.dedup();
        bases
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
