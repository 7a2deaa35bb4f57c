//! Reads what is needed of an ELF file: headers, sections, symbols, code.
//!
//! The file is read, not mapped: a file that is cut while it is mapped would end this process
//! with SIGBUS, and these files belong to others.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym};
use object::{Endian, Endianness, ReadRef, SectionIndex};

use super::bounded::Deadline;
use super::starts::Starts;

/// Most places of [`Image::pointers`]; Chrome has about a million.
const POINTERS_MAX: usize = 7 << 18;
/// Most parts of a file that are loaded to be written to; linkers make one or two.
const SEGMENTS_MAX: usize = 16;
/// Most section or program headers.
const HEADERS_MAX: u32 = 1 << 16;
/// Most entries of the table for the loader that are read.
const ENTRIES_MAX: usize = 4096;
/// Longest name of a symbol, in bytes. Without a limit, many symbols that share one very long name take
/// quadratic time.
const NAME_MAX: usize = 4096;
/// Symbols between two looks at the clock.
const SYMBOLS_AT_ONCE: usize = 1 << 12;

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotImage {
    /// Not an ELF file.
    NotElf,
    /// For another processor, or a 32-bit file.
    OtherMachine,
    /// Headers or tables contradict each other, or are longer than what is read.
    Damaged,
}

/// The parsed outline of a file.
pub(super) struct Image<'d, R: ReadRef<'d>> {
    data: R,
    deadline: Deadline,
    pub(super) endian: Endianness,
    pub(super) machine: elf::Machine,
    segments: &'d [ProgramHeader64<Endianness>],
    sections: SectionTable<'d, FileHeader64<Endianness>, R>,
    pointers: OnceCell<HashMap<u64, Pointer<'d>>>,
    starts: OnceCell<Option<Rc<Starts>>>,
}

impl<'d, R: ReadRef<'d>> Image<'d, R> {
    /// Reads the headers. After the deadline the symbol tables end early.
    ///
    /// # Errors
    /// [`NotImage`], if it is not an ELF file of this machine.
    pub(super) fn parse(data: R, deadline: Deadline) -> Result<Self, NotImage> {
        let ident = data.read_bytes_at(0, 16).map_err(|()| NotImage::NotElf)?;
        if !ident.starts_with(&elf::ELFMAG) {
            return Err(NotImage::NotElf);
        }
        let header = FileHeader64::<Endianness>::parse(data)
            .map_err(|_| if ident[4] == 1 { NotImage::OtherMachine } else { NotImage::Damaged })?;
        let outline = || -> object::Result<Option<Self>> {
            let endian = header.endian()?;
            if header.shnum(endian, data)? > HEADERS_MAX || header.phnum(endian, data)? > HEADERS_MAX {
                return Ok(None);
            }
            let machine = header.e_machine(endian);
            let segments = header.program_headers(endian, data)?;
            let sections = header.sections(endian, data)?;
            let (pointers, starts) = (OnceCell::new(), OnceCell::new());
            Ok(Some(Image { data, deadline, endian, machine, segments, sections, pointers, starts }))
        };
        let image = outline().ok().flatten().ok_or(NotImage::Damaged)?;
        let native = match std::env::consts::ARCH {
            "x86_64" => elf::EM_X86_64,
            "aarch64" => elf::EM_AARCH64,
            "riscv64" => elf::EM_RISCV,
            "powerpc64" => elf::EM_PPC64,
            "s390x" => elf::EM_S390,
            _ => elf::EM_NONE,
        };
        if image.machine != native { Err(NotImage::OtherMachine) } else { Ok(image) }
    }

    /// Whether its time is over.
    pub(super) fn is_late(&self) -> bool {
        self.deadline.is_over()
    }

    /// Where functions begin, by the unwind table or the code. That is found out once.
    pub(super) fn starts(&self) -> Option<Rc<Starts>> {
        self.starts.get_or_init(|| Starts::of_code(self).map(Rc::new)).clone()
    }

    /// File offset of the code at this virtual address.
    pub(super) fn file_offset(&self, address: u64) -> Option<u64> {
        let executable = |s: &&ProgramHeader64<Endianness>| {
            s.p_type(self.endian) == elf::PT_LOAD && s.p_flags(self.endian).0 & elf::PF_X.0 != 0
        };
        self.segments.iter().filter(executable).find_map(|segment| {
            let within = address.checked_sub(segment.p_vaddr(self.endian))?;
            if within >= segment.p_filesz(self.endian) {
                return None;
            }
            let offset = segment.p_offset(self.endian).checked_add(within)?;
            (offset < self.data.len().ok()?).then_some(offset)
        })
    }

    /// Virtual address of the code at this file offset.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        let executable = |s: &&ProgramHeader64<Endianness>| {
            s.p_type(self.endian) == elf::PT_LOAD && s.p_flags(self.endian).0 & elf::PF_X.0 != 0
        };
        self.segments.iter().filter(executable).find_map(|segment| {
            let within = offset.checked_sub(segment.p_offset(self.endian))?;
            let is_there = within < segment.p_filesz(self.endian);
            is_there.then(|| segment.p_vaddr(self.endian).checked_add(within)).flatten()
        })
    }

    /// The machine code of the function at `address`.
    pub(super) fn code(&self, address: u64, len: u64) -> Option<&'d [u8]> {
        self.data.read_bytes_at(self.file_offset(address)?, len).ok()
    }

    /// Bytes that the loader puts at this virtual address.
    pub(super) fn bytes_at(&self, address: u64, len: u64) -> Option<&'d [u8]> {
        self.segments.iter().filter(|s| s.p_type(self.endian) == elf::PT_LOAD).find_map(|segment| {
            let within = address.checked_sub(segment.p_vaddr(self.endian))?;
            if within.checked_add(len)? > segment.p_filesz(self.endian) {
                return None;
            }
            self.data.read_bytes_at(segment.p_offset(self.endian).checked_add(within)?, len).ok()
        })
    }

    /// Address and bytes of a section.
    pub(super) fn section(&self, name: &[u8]) -> Option<(u64, &'d [u8])> {
        let header = self.header(name)?;
        Some((header.sh_addr(self.endian), self.contents(header)?))
    }

    /// Address range of a section.
    pub(super) fn section_range(&self, name: &[u8]) -> Option<std::ops::Range<u64>> {
        let header = self.header(name)?;
        let start = header.sh_addr(self.endian);
        Some(start..start.checked_add(header.sh_size(self.endian))?)
    }

    fn header(&self, name: &[u8]) -> Option<&'d SectionHeader64<Endianness>> {
        self.sections.section_by_name(self.endian, name).map(|(_, header)| header)
    }

    fn contents(&self, header: &'d SectionHeader64<Endianness>) -> Option<&'d [u8]> {
        header.data(self.endian, self.data).ok()
    }

    /// Names of the libraries that the loader is to map with this file, and lists of folders where it is to look.
    pub(super) fn needed(&self) -> (Vec<&'d [u8]>, Vec<&'d [u8]>) {
        const NEEDED: u64 = elf::DT_NEEDED.0 as u64;
        const FOLDERS: [u64; 2] = [elf::DT_RPATH.0 as u64, elf::DT_RUNPATH.0 as u64];
        let (mut names, mut folders) = (Vec::new(), Vec::new());
        let (Some((_, entries)), Some((_, strings))) = (self.section(b".dynamic"), self.section(b".dynstr"))
        else {
            return (names, folders);
        };
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |n| u64::from_ne_bytes(*n));
        for entry in entries.chunks_exact(16).take(ENTRIES_MAX) {
            let (tag, at) = (number(entry), number(&entry[8..]));
            let text = || {
                let from = strings.get(usize::try_from(at).ok()?..)?;
                Some(&from[..memchr::memchr(0, &from[..from.len().min(NAME_MAX)])?])
            };
            match tag {
                NEEDED => names.extend(text()),
                tag if FOLDERS.contains(&tag) => folders.extend(text()),
                _ => {}
            }
        }
        (names, folders)
    }

    /// What tells this build of the file from all others, if its linker wrote that.
    pub(super) fn build_id(&self) -> Option<&'d [u8]> {
        let header = self.header(b".note.gnu.build-id")?;
        let mut notes = header.notes(self.endian, self.data).ok()??;
        while let Some(note) = notes.next().ok()? {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(self.endian) == elf::NT_GNU_BUILD_ID {
                return Some(note.desc()).filter(|id| !id.is_empty());
            }
        }
        None
    }

    /// Places that the loader fills with the address of a function, and the function's name.
    pub(super) fn imports(&self) -> HashMap<u64, &'d [u8]> {
        let mut imports = HashMap::new();
        let Some(symbols) = self.symbols(elf::SHT_DYNSYM) else { return imports };
        for header in self.sections.iter().filter(|s| s.sh_type(self.endian) == elf::SHT_RELA) {
            let table = header.data_as_array::<Rela64<Endianness>, _>(self.endian, self.data);
            for entry in table.unwrap_or_default() {
                let kind = entry.r_type(self.endian, false);
                if kind != elf::R_X86_64_JUMP_SLOT && kind != elf::R_X86_64_GLOB_DAT {
                    continue;
                }
                if let Some(name) = symbols.name(entry.r_sym(self.endian, false)) {
                    imports.insert(entry.r_offset.get(self.endian), name);
                }
            }
        }
        imports
    }

    /// Places that the loader fills with an address, and what is put there; none if they are too many. They are read once.
    pub(super) fn pointers(&self) -> &HashMap<u64, Pointer<'d>> {
        self.pointers.get_or_init(|| self.relocated())
    }

    fn relocated(&self) -> HashMap<u64, Pointer<'d>> {
        let mut pointers = HashMap::new();
        // All tables together, whatever they say: several may be the same part of the file.
        let is_table = |s: &&SectionHeader64<Endianness>| {
            matches!(s.sh_type(self.endian), elf::SHT_RELA | elf::SHT_RELR)
        };
        let sizes = self.sections.iter().filter(is_table).map(|header| header.sh_size(self.endian));
        if sizes.fold(0, u64::saturating_add) > (POINTERS_MAX * size_of::<Rela64<Endianness>>()) as u64 {
            return pointers;
        }
        let symbols = self.symbols(elf::SHT_DYNSYM);
        for header in self.sections.iter().filter(|s| s.sh_type(self.endian) == elf::SHT_RELA) {
            let table = header.data_as_array::<Rela64<Endianness>, _>(self.endian, self.data);
            for entry in table.unwrap_or_default() {
                let addend = entry.r_addend.get(self.endian) as u64;
                let value = match entry.r_type(self.endian, false) {
                    elf::R_X86_64_RELATIVE => Some(Pointer::Address(addend)),
                    elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_64 => symbols
                        .as_ref()
                        .and_then(|symbols| symbols.pointer(entry.r_sym(self.endian, false), addend)),
                    _ => None,
                };
                if let Some(value) = value {
                    pointers.insert(entry.r_offset.get(self.endian), value);
                    if pointers.len() > POINTERS_MAX {
                        return HashMap::new();
                    }
                }
            }
        }
        let stored = self.stored();
        let tables =
            self.sections.iter().filter_map(|header| header.relr(self.endian, self.data).ok().flatten());
        // A bitmap stands for many places.
        for (count, at) in tables.flatten().enumerate() {
            if let Some(address) = stored.word(at) {
                pointers.insert(at, Pointer::Address(address));
            }
            if count >= POINTERS_MAX || pointers.len() > POINTERS_MAX {
                return HashMap::new();
            }
        }
        pointers
    }

    /// What stands in the file of the memory that the loader may write to.
    pub(super) fn stored(&self) -> Stored<'d> {
        let writable = |s: &&ProgramHeader64<Endianness>| {
            s.p_type(self.endian) == elf::PT_LOAD && s.p_flags(self.endian).0 & elf::PF_W.0 != 0
        };
        let segments = self.segments.iter().filter(writable).filter_map(|segment| {
            let (offset, len) = (segment.p_offset(self.endian), segment.p_filesz(self.endian));
            Some((segment.p_vaddr(self.endian), self.data.read_bytes_at(offset, len).ok()?))
        });
        Stored { endian: self.endian, segments: segments.take(SEGMENTS_MAX).collect() }
    }

    /// The symbol table of this kind.
    pub(super) fn symbols(&self, kind: elf::SectionType) -> Option<Symbols<'d>> {
        let header = self.sections.iter().find(|s| s.sh_type(self.endian) == kind)?;
        let table = header.data_as_array(self.endian, self.data).ok()?;
        let link = SectionIndex(usize::try_from(header.sh_link(self.endian)).ok()?);
        let strings = self.contents(self.sections.section(link).ok()?)?;
        Some(Symbols { kind, endian: self.endian, table, strings, deadline: self.deadline })
    }
}

/// Memory as it stands in the file.
pub(super) struct Stored<'d> {
    endian: Endianness,
    /// Where they are loaded, and their bytes.
    segments: Vec<(u64, &'d [u8])>,
}

impl Stored<'_> {
    /// The eight bytes at this virtual address, as a number.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(address.checked_sub(*start)?).ok()?;
            let bytes = bytes.get(from..)?.first_chunk::<8>()?;
            Some(self.endian.read_u64(*bytes))
        })
    }
}

/// What stands at a place once the loader has filled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pointer<'d> {
    /// An address in the same file.
    Address(u64),
    /// The address of what another file defines under this name.
    Import(&'d [u8]),
}

/// A symbol table.
pub(super) struct Symbols<'d> {
    pub(super) kind: elf::SectionType,
    endian: Endianness,
    table: &'d [Sym64<Endianness>],
    strings: &'d [u8],
    deadline: Deadline,
}

impl<'d> Symbols<'d> {
    /// Names and addresses of the functions that the file defines.
    pub(super) fn functions(&self) -> impl Iterator<Item = (&'d [u8], u64)> + '_ {
        let defined = |s: &&'d Sym64<Endianness>| {
            s.st_type() == elf::STT_FUNC && !s.is_undefined(self.endian) && s.st_value(self.endian) != 0
        };
        self.entries()
            .filter(defined)
            .filter_map(|symbol| Some((self.name_of(symbol)?, symbol.st_value(self.endian))))
    }

    /// All names, and whether the file defines what they stand for.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'d [u8], bool)> + '_ {
        self.entries().filter_map(|symbol| Some((self.name_of(symbol)?, !symbol.is_undefined(self.endian))))
    }

    /// The symbols, up to the deadline.
    fn entries(&self) -> impl Iterator<Item = &'d Sym64<Endianness>> + '_ {
        let in_time = |_: &&[Sym64<Endianness>]| !self.deadline.is_over();
        self.table.chunks(SYMBOLS_AT_ONCE).take_while(in_time).flatten()
    }

    /// Name of the symbol with this number.
    fn name(&self, index: u32) -> Option<&'d [u8]> {
        self.name_of(self.table.get(index as usize)?)
    }

    /// Where the symbol with this number leads.
    fn pointer(&self, index: u32, addend: u64) -> Option<Pointer<'d>> {
        let symbol = self.table.get(index as usize)?;
        if symbol.is_undefined(self.endian) {
            return (addend == 0).then(|| self.name_of(symbol)).flatten().map(Pointer::Import);
        }
        Some(Pointer::Address(symbol.st_value(self.endian).wrapping_add(addend)))
    }

    fn name_of(&self, symbol: &'d Sym64<Endianness>) -> Option<&'d [u8]> {
        let from = self.strings.get(symbol.st_name(self.endian) as usize..)?;
        let end = memchr::memchr(0, &from[..from.len().min(NAME_MAX)])?;
        Some(&from[..end])
    }
}
