//! Probes of the BIO functions, in processes that encrypt into memory: see `bpf/ciphertext.bpf.h`.

use libbpf_rs::{MapCore, MapFlags};

use super::attach::Leaving;
use super::map_value::{bytes_of, from_bytes};
use super::parts::{Holder, Part, Where};
use super::sites::Programs;
use super::skeleton::types::{self, process_flag};
use super::{Options, Probe};
use crate::discover::Bio;
use crate::event::ProcessKey;
use crate::privilege;

const NO_SOCKET: u32 = process_flag::PROCESS_NO_SOCKET.0;
const WATCHED: u32 = process_flag::PROCESS_WATCHED.0;
const SOCKET: u32 = process_flag::PROCESS_SOCKET.0;
const IDLE: u32 = process_flag::PROCESS_IDLE.0;

/// Whether the probes of BIO functions, which are for one process, are attached as those in bulk: single probes
/// need CAP_SYS_ADMIN.
pub(super) fn in_bulk(options: &Options, programs: Programs) -> bool {
    // If each process has its own probes, this is tried before anything is captured: see `attaches_in_bulk`.
    programs == Programs::Session
        || programs.in_bulk() && (options.by_process || privilege::has_bulk_by_process())
}

impl Probe {
    /// Probes the BIO functions of a process that encrypts into memory, in that process only.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn attach_bio(&mut self, process: ProcessKey, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        let holder = Holder::from(process);
        let before = self.desired.into_memory.insert(process, bios.to_vec());
        let failures = self.bring_about_in(Some(holder.pid), Leaving::Unwatched);
        let is_its = |part: &Part| part.holder == holder && matches!(part.place, Where::Bio(..));
        if let Err(error) = failures.of(is_its) {
            match before {
                Some(before) => drop(self.desired.into_memory.insert(process, before)),
                None => drop(self.desired.into_memory.remove(&process)),
            }
            self.bring_about_in(Some(holder.pid), Leaving::Awaited);
            return Err(error);
        }
        if !self.desired.into_memory.contains_key(&process) {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH).into());
        }
        bios.iter().for_each(|bio| self.leases.take(bio.id, bio.file()));
        self.kernel.follow_ciphertext();
        Ok(())
    }

    /// Probes the BIO functions of a target early, so that its existing connections are known by their next
    /// record. [`Probe::stop_watching`] ends it if it is not needed.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn watch_bio(&mut self, pid: u32, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        if let Some(process) = self.process(pid) {
            self.attach_bio(ProcessKey { pid, generation: process.generation }, bios)?;
            self.change(pid, |process| types::process {
                flags: process_flag(process.flags.0 | WATCHED),
                ..process
            });
        }
        Ok(())
    }

    /// Removes the probes of BIO functions where they reveal nothing: from a process that uses its sockets
    /// itself, and where all handles are known. A new handle brings them back.
    pub fn stop_watching(&mut self) {
        let watched: Vec<ProcessKey> = self.desired.into_memory.keys().copied().collect();
        for key in watched {
            let Some(process) = self.process(key.pid).filter(|p| p.generation == key.generation) else {
                continue;
            };
            let flags = process.flags.0;
            let has_sockets = flags & (WATCHED | SOCKET | NO_SOCKET) == WATCHED | SOCKET;
            if has_sockets || flags & IDLE != 0 {
                self.desired.into_memory.remove(&key);
                self.bring_about_in(Some(Holder::from(key).pid), Leaving::Awaited);
                const ALL: u32 = WATCHED | NO_SOCKET | IDLE;
                self.change(key.pid, |process| types::process {
                    flags: process_flag(process.flags.0 & !ALL),
                    idle: 0,
                    ..process
                });
            }
        }
    }

    /// Whether another program runs under the process's pid by now.
    pub fn is_replaced(&self, process: ProcessKey) -> bool {
        self.process(process.pid).is_some_and(|now| now.generation != process.generation)
    }

    pub(super) fn process(&self, pid: u32) -> Option<types::process> {
        from_bytes(&self.kernel.skeleton.maps.processes.lookup(&pid.to_ne_bytes(), MapFlags::ANY).ok()??)
    }

    /// A flag that the kernel side sets at this moment may get lost: then it is reported again.
    fn change(&self, pid: u32, change: impl Fn(types::process) -> types::process) {
        if let Some(process) = self.process(pid) {
            let process = change(process);
            // If it fails, the process has exited, or continues as it was.
            let _ = self.kernel.skeleton.maps.processes.update(
                &pid.to_ne_bytes(),
                bytes_of(&process),
                MapFlags::EXIST,
            );
        }
    }
}
