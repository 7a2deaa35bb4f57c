//! The floor: probes with nothing in them, where tls2pcap could place its own.

use std::path::Path;
use std::process::Command;

use libbpf_rs::{Link, Object, ObjectBuilder, ProgramMut, UprobeMultiOpts, UprobeOpts};
use tls2pcap::discover::Discovery;
use tls2pcap::discover::function::Function;
use tls2pcap::discover::internal::{Behind, NoInternal};
use tls2pcap::discover::returns::Return;

use crate::Res;

/// Where empty probes stand, and of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Entry and return of the exported SSL_read and SSL_write.
    Exports,
    /// A session, or entry and return, of the functions behind them.
    Internal,
    /// The instructions that tls2pcap probes: where those functions begin, and where they return.
    Instructions,
}

impl Place {
    /// Where reads and writes are probed in a library.
    pub fn offsets(self, library: &Path) -> Res<[usize; 2]> {
        let found = Discovery::default().at(library)?.library;
        let (exports, internal) = (&found.offsets, &found.internal);
        match self {
            Place::Exports => match (exports.get(Function::Read), exports.get(Function::Write)) {
                (Some(read), Some(write)) => Ok([read as usize, write as usize]),
                _ => Err("the library lacks SSL_read or SSL_write".into()),
            },
            Place::Internal | Place::Instructions => {
                let of = |side: &Result<Behind, NoInternal>| {
                    side.clone().map(|behind| behind.place.offset as usize)
                };
                Ok([of(&internal.read)?, of(&internal.write)?])
            }
        }
    }
}

/// Where the functions that are probed at these offsets return: one cheap instruction before each return, or itself.
fn returns(library: &Path, offsets: [usize; 2]) -> Res<Vec<usize>> {
    let found = Discovery::default().at(library)?.library;
    let mut all = Vec::new();
    for offset in offsets {
        for place in found.returns.of(offset as u64)? {
            match place {
                Return::Ret { cheap, .. } if !cheap.is_empty() => {
                    all.extend(cheap.iter().map(|cheap| cheap.at as usize));
                }
                Return::Ret { at, .. } | Return::Behind { at, .. } => all.push(*at as usize),
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The loaded empty programs.
pub struct Floor {
    object: Object,
    /// The kernel has sessions (6.13 and later).
    pub sessions: bool,
    /// It attaches in bulk (6.6 and later).
    bulk: bool,
}

impl Floor {
    /// Compiles and loads them.
    pub fn load(work: &Path) -> Res<Floor> {
        let file = work.join("floor.o");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/live/floor.bpf.c");
        let done = Command::new("clang")
            .args(["-O2", "-g", "-target", "bpf", "-c", source, "-o"])
            .arg(&file)
            .status();
        if !done.map_err(|e| format!("clang: {e}"))?.success() {
            return Err("clang cannot compile the empty probes".into());
        }
        libbpf_rs::set_print(None);
        let load = |sessions: bool, bulk: bool| -> libbpf_rs::Result<Floor> {
            let mut open = ObjectBuilder::default().open_file(&file)?;
            for mut program in open.progs_mut() {
                match program.name().to_str() {
                    Some("session") => program.set_autoload(sessions),
                    Some("bulk") => program.set_autoload(bulk),
                    _ => {}
                }
            }
            Ok(Floor { object: open.load()?, sessions, bulk })
        };
        Ok(load(true, true).or_else(|_| load(false, true)).or_else(|_| load(false, false))?)
    }

    /// Attaches to one process, in a library of its own. They detach when the links are dropped.
    pub fn attach(&self, place: Place, pid: u32, library: &Path) -> Res<Vec<Link>> {
        let offsets = place.offsets(library)?;
        if place == Place::Internal && self.sessions {
            let options = UprobeMultiOpts { offsets: offsets.to_vec(), session: true, ..Default::default() };
            return Ok(vec![
                self.program("session").attach_uprobe_multi_with_opts(pid as i32, library, "", options)?,
            ]);
        }
        let mut links = Vec::new();
        if place == Place::Instructions {
            let offsets = [&offsets[..], &returns(library, offsets)?].concat();
            if self.bulk {
                let options = UprobeMultiOpts { offsets, ..Default::default() };
                return Ok(vec![
                    self.program("bulk").attach_uprobe_multi_with_opts(pid as i32, library, "", options)?,
                ]);
            }
            let single = |offset| self.single(pid, library, offset, UprobeOpts::default());
            return offsets.into_iter().map(single).collect();
        }
        for offset in offsets {
            for retprobe in [true, false] {
                links.push(self.single(
                    pid,
                    library,
                    offset,
                    UprobeOpts { retprobe, ..Default::default() },
                )?);
            }
        }
        Ok(links)
    }

    /// Attaches to the entry of one function of a program.
    pub fn attach_entry(&self, pid: u32, program: &Path, function: &str) -> Res<Link> {
        self.single(pid, program, 0, UprobeOpts { func_name: Some(function.into()), ..Default::default() })
    }

    fn single(&self, pid: u32, path: &Path, offset: usize, options: UprobeOpts) -> Res<Link> {
        Ok(self.program("single").attach_uprobe_with_opts(pid as i32, path, offset, options)?)
    }

    fn program(&self, name: &str) -> ProgramMut<'_> {
        self.object.progs_mut().find(|p| p.name() == name).expect("the object has it")
    }
}
