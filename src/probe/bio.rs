//! Probes of the BIO functions, in processes that encrypt into memory: see `bpf/ciphertext.bpf.h`.

use std::path::Path;

use libbpf_rs::{Link, MapCore, MapFlags, UprobeMultiOpts, UprobeOpts};

use super::sites::Programs;
use super::skeleton::types;
use super::{AT_RETURN, Backend, Probe, bytes_of, from_bytes};
use crate::discover::Bio;
use crate::event::ProcessKey;

const PROCESS_NO_SOCKET: u32 = 32;
const PROCESS_WATCHED: u32 = 64;
const PROCESS_SOCKET: u32 = 128;
const PROCESS_IDLE: u32 = 256;

impl Probe {
    /// Probes BIO_write and BIO_read, at these offsets of a file, in one process or in all (-1).
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub(super) fn attach_records(
        &self,
        pid: i32,
        path: &Path,
        (write, read): (u64, u64),
    ) -> Result<Vec<Link>, libbpf_rs::Error> {
        let mut links = Vec::new();
        if self.programs == Programs::Session {
            let options =
                UprobeMultiOpts { offsets: vec![read as usize], session: true, ..UprobeMultiOpts::default() };
            let program = self.program("bio_session_read");
            links.push(program.attach_uprobe_multi_with_opts(pid, path, "", options)?);
        } else if !self.by_returns {
            // The return first: an entry that is seen has its return probed. It would do harm on other stacks.
            for program in ["bio_return_read", "bio_entry_read"] {
                let options =
                    UprobeOpts { retprobe: program.starts_with("bio_return"), ..UprobeOpts::default() };
                links.push(self.program(program).attach_uprobe_with_opts(
                    pid,
                    path,
                    read as usize,
                    options,
                )?);
            }
        }
        let options = UprobeOpts::default();
        links.push(self.program("bio_entry_write").attach_uprobe_with_opts(
            pid,
            path,
            write as usize,
            options,
        )?);
        Ok(links)
    }

    /// Probes the BIO functions of a process that encrypts into memory, in that process only.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn attach_bio(&mut self, process: ProcessKey, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        let mut links = Vec::new();
        for bio in bios {
            let offsets = (bio.write, bio.read);
            links.append(&mut self.attach_records(process.pid as i32, &bio.attach_path(), offsets)?);
        }
        self.follow_ciphertext();
        self.bios.insert(process, links);
        Ok(())
    }

    /// From now on records are looked at where they go through sockets.
    pub(super) fn follow_ciphertext(&mut self) {
        if self.received.is_none() && self.backend != Backend::Tracepoint {
            // Without it, records that a program receives bind nothing; those that it sends do.
            let name = format!("{}{}", self.backend.as_str(), AT_RETURN);
            self.received = self.program(&name).attach().ok();
        }
        let bss = self.skeleton.maps.bss_data.as_deref_mut().expect("the object has variables");
        // SAFETY: as in `set_gate`.
        unsafe { std::ptr::from_mut(&mut bss.ciphertext_wanted).write_volatile(1) };
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

    /// Whether another program runs under the process's pid by now.
    pub fn is_replaced(&self, process: ProcessKey) -> bool {
        self.process(process.pid).is_some_and(|now| now.generation != process.generation)
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
