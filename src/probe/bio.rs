//! Probes of the BIO functions, in processes that encrypt into memory: see `bpf/ciphertext.bpf.h`.

use std::path::Path;

use libbpf_rs::{Link, MapCore, MapFlags, UprobeOpts};

use super::skeleton::types;
use super::{AT_RETURN, Backend, Probe, bytes_of, from_bytes};
use crate::discover::Bio;
use crate::event::ProcessKey;

const PROCESS_NO_SOCKET: u32 = 32;
const PROCESS_WATCHED: u32 = 64;
const PROCESS_SOCKET: u32 = 128;
const PROCESS_IDLE: u32 = 256;

/// Which program goes where. The return first: an entry that is seen has its return probed.
pub(super) fn programs((write, read): (u64, u64)) -> [(&'static str, u64); 3] {
    [("bio_return_read", read), ("bio_entry_read", read), ("bio_entry_write", write)]
}

impl Probe {
    /// Attaches one of [`programs`], in one process or in all (-1).
    pub(super) fn attach_at(
        &self,
        program: &str,
        pid: i32,
        path: &Path,
        offset: u64,
    ) -> Result<Link, libbpf_rs::Error> {
        let options = UprobeOpts { retprobe: program.starts_with("bio_return"), ..UprobeOpts::default() };
        self.program(program).attach_uprobe_with_opts(pid, path, offset as usize, options)
    }

    /// Probes the BIO functions of a process that encrypts into memory, in that process only.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn attach_bio(&mut self, process: ProcessKey, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        let mut links = Vec::new();
        for bio in bios {
            let sites = programs((bio.write, bio.read));
            for (program, offset) in sites {
                links.push(self.attach_at(program, process.pid as i32, &bio.attach_path(), offset)?);
            }
        }
        if self.received.is_none() && self.backend != Backend::Tracepoint {
            // Without it, records that a program receives bind nothing; those that it sends do.
            let name = format!("{}{}", self.backend.as_str(), AT_RETURN);
            self.received = self.program(&name).attach().ok();
        }
        self.bios.insert(process, links);
        let bss = self.skeleton.maps.bss_data.as_deref_mut().expect("the object has variables");
        // SAFETY: as in `set_ready`.
        unsafe { std::ptr::from_mut(&mut bss.ciphertext_wanted).write_volatile(1) };
        Ok(())
    }

    /// Probes the BIO functions of a target ahead, so that connections which it has already are known
    /// by their next record. [`Probe::stop_watching`] ends it where it is not needed.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn watch_bio(&mut self, pid: u32, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        if let Some(process) = self.process(pid) {
            self.attach_bio(ProcessKey { pid, generation: process.generation }, bios)?;
            self.change(pid, |process| types::process { flags: process.flags | PROCESS_WATCHED, ..process });
        }
        Ok(())
    }

    /// Takes the probes of BIO functions away where they tell nothing: from a process that uses its
    /// sockets itself, and where all handles are known. A new handle brings them back.
    pub fn stop_watching(&mut self) {
        let watched: Vec<ProcessKey> = self.bios.keys().copied().collect();
        for key in watched {
            let Some(process) = self.process(key.pid).filter(|p| p.generation == key.generation) else {
                continue;
            };
            let has_sockets = process.flags & (PROCESS_WATCHED | PROCESS_SOCKET | PROCESS_NO_SOCKET)
                == PROCESS_WATCHED | PROCESS_SOCKET;
            if has_sockets || process.flags & PROCESS_IDLE != 0 {
                self.bios.remove(&key);
                const ALL: u32 = PROCESS_WATCHED | PROCESS_NO_SOCKET | PROCESS_IDLE;
                self.change(key.pid, |process| types::process {
                    flags: process.flags & !ALL,
                    idle: 0,
                    ..process
                });
            }
        }
    }

    fn process(&self, pid: u32) -> Option<types::process> {
        from_bytes(&self.skeleton.maps.processes.lookup(&pid.to_ne_bytes(), MapFlags::ANY).ok()??)
    }

    /// A flag that the kernel side sets just now may get lost: then what it stands for is told again.
    fn change(&self, pid: u32, change: impl Fn(types::process) -> types::process) {
        if let Some(process) = self.process(pid) {
            let process = change(process);
            // If it fails the process is gone, or goes on as it was.
            let _ =
                self.skeleton.maps.processes.update(&pid.to_ne_bytes(), bytes_of(&process), MapFlags::EXIST);
        }
    }
}
