//! Go programs: where the functions of their `crypto/tls` lie, which the linker puts into each program.
//!
//! Go's stacks move, so return probes, which change the return address on the stack, crash Go. What is
//! probed instead is each RET instruction of a function. Where these are, the machine code must tell, and
//! before that the table by which Go's own runtime finds its functions (pclntab), which no stripping
//! removes. A function counts only if every instruction of it is understood: see `code`.

mod build;
mod code;
mod table;

use std::ops::Range;

use object::{ReadRef, elf};

use self::code::Checked;
pub use self::code::Unclear;
use self::table::Table;
use super::image::Image;

/// A function of `crypto/tls` that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GoFunction {
    /// `(*Conn).Read`.
    Read,
    /// `(*Conn).writeRecordLocked`: what `Write` calls with the lock of the direction held, so that
    /// the order of its calls is the order of the bytes.
    Write,
    /// `(*Conn).Close`.
    Close,
    /// `(*Conn).closeNotify`, behind `Close` and `CloseWrite`.
    CloseNotify,
    /// `(*Conn).clientHandshake`.
    Client,
    /// `(*Conn).serverHandshake`.
    Server,
}

impl GoFunction {
    /// All of them, in the order of their discriminants.
    pub const ALL: [GoFunction; 6] = [
        GoFunction::Read,
        GoFunction::Write,
        GoFunction::Close,
        GoFunction::CloseNotify,
        GoFunction::Client,
        GoFunction::Server,
    ];

    /// Its name behind `crypto/tls.(*Conn).`
    pub const fn name(self) -> &'static str {
        match self {
            GoFunction::Read => "Read",
            GoFunction::Write => "writeRecordLocked",
            GoFunction::Close => "Close",
            GoFunction::CloseNotify => "closeNotify",
            GoFunction::Client => "clientHandshake",
            GoFunction::Server => "serverHandshake",
        }
    }
}

/// Where a function is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoPlace {
    /// Which it is.
    pub function: GoFunction,
    /// File offset of the probe at its entry.
    pub entry: u64,
    /// File offsets of its RET instructions.
    pub returns: Vec<u64>,
}

/// The `crypto/tls` of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Go {
    /// The functions that are probed: writes, and what else the program has. The linker drops what is never called.
    pub places: Vec<GoPlace>,
    /// Functions that the program has, but that are not probed, and why.
    pub left_out: Vec<(GoFunction, Unclear)>,
}

/// Why the TLS connections of a Go program cannot be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGo {
    /// Machine code is decoded for x86-64 only.
    #[error("machine code of this processor is not decoded")]
    Machine,
    /// Before Go 1.16, whose table of functions is not read.
    #[error("its arguments are on the stack (built with Go before 1.17)")]
    StackAbi,
    /// No table that is understood.
    #[error("its table of functions (pclntab) is not found or not understood")]
    NoTable,
    /// Neither reads nor writes.
    #[error("it has no crypto/tls, or one whose names are obscured")]
    NoTls,
    /// A function is not as expected.
    #[error("crypto/tls.(*Conn).{}: {}", .0.name(), .1)]
    Unclear(GoFunction, Unclear),
}

/// Looks for `crypto/tls`. `None`: this is no Go program. Costs nothing more than a look at the names of
/// the sections if it is none.
pub(super) fn find<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Result<Go, NotGo>> {
    let marks: [&[u8]; 3] = [b".go.buildinfo", b".note.go.buildid", b".gopclntab"];
    marks.iter().any(|name| image.section_range(name).is_some()).then(|| {
        if image.machine != elf::EM_X86_64 {
            return Err(NotGo::Machine);
        }
        let mut why = if Table::is_old(image) { NotGo::StackAbi } else { NotGo::NoTable };
        // Later reasons are those of better candidates.
        for table in Table::candidates(image) {
            match in_table(image, &table) {
                Ok(go) => return Ok(go),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    })
}

/// Version of Go that the program was built with, such as `Go 1.22.5`.
pub(super) fn version<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> String {
    build::version(image).map_or_else(|| "Go".to_owned(), |version| format!("Go {version}"))
}

fn in_table<'d, R: ReadRef<'d>>(image: &Image<'d, R>, table: &Table<'d>) -> Result<Go, NotGo> {
    let wanted = GoFunction::ALL.map(GoFunction::name);
    let ranges = table.methods(b"crypto/tls.(*Conn).", &wanted);
    if ranges[GoFunction::Write as usize].is_none() {
        return Err(match ranges[GoFunction::Read as usize] {
            None => NotGo::NoTls,
            Some(_) => NotGo::Unclear(GoFunction::Write, Unclear::Missing),
        });
    }
    let mut why = NotGo::NoTable;
    for base in table.bases(image) {
        let mut go = Go { places: Vec::new(), left_out: Vec::new() };
        let mut read_and_write = Ok(());
        for (function, range) in GoFunction::ALL.into_iter().zip(&ranges) {
            let Some(range) = range else { continue };
            let absolute = |range: Range<u64>| {
                let (start, end) = base.checked_add(range.start).zip(base.checked_add(range.end))?;
                Some(start..end)
            };
            let checked = range
                .clone()
                .and_then(|range| absolute(range).ok_or(Unclear::Outside))
                .and_then(|range| code::check(image, range));
            match checked {
                Ok(Checked { entry, returns }) => go.places.push(GoPlace { function, entry, returns }),
                Err(unclear) if matches!(function, GoFunction::Read | GoFunction::Write) => {
                    read_and_write = read_and_write.and(Err(NotGo::Unclear(function, unclear)));
                }
                Err(unclear) => go.left_out.push((function, unclear)),
            }
        }
        match read_and_write {
            Ok(()) => return Ok(go),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests;
