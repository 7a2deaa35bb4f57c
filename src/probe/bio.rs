//! Probes of the BIO functions, in processes that encrypt into memory: see `bpf/ciphertext.bpf.h`.

use libbpf_rs::{MapCore, MapFlags, UprobeMultiOpts, UprobeOpts};

use super::sites::Programs;
use super::skeleton::types;
use super::{AT_RETURN, Backend, Probe, READ_APART, bytes_of, from_bytes};
use crate::discover::Bio;
use crate::event::ProcessKey;

const PROCESS_NO_SOCKET: u32 = 32;
const PROCESS_WATCHED: u32 = 64;
const PROCESS_SOCKET: u32 = 128;
const PROCESS_IDLE: u32 = 256;

impl Probe {
    /// Probes the BIO functions of a process that encrypts into memory, in that process only.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn attach_bio(&mut self, process: ProcessKey, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        let mut links = Vec::new();
        for bio in bios {
            // The return first: an entry that is seen has its return probed.
            let sites =
                [("bio_return_read", bio.read), ("bio_entry_read", bio.read), ("bio_entry_write", bio.write)];
            let read_in_session = self.programs == Programs::Session;
            if read_in_session {
                let options = UprobeMultiOpts {
                    offsets: vec![bio.read as usize],
                    session: true,
                    ..UprobeMultiOpts::default()
                };
                let program = self.program("bio_session_read");
                links.push(program.attach_uprobe_multi_with_opts(
                    process.pid as i32,
                    bio.attach_path(),
                    "",
                    options,
                )?);
            }
            // A return probe would do harm on other stacks.
            let only_writes = read_in_session || self.by_returns;
            for (program, offset) in sites.into_iter().skip(if only_writes { READ_APART.len() } else { 0 }) {
                let options =
                    UprobeOpts { retprobe: program.starts_with("bio_return"), ..UprobeOpts::default() };
                let program = self.program(program);
                links.push(program.attach_uprobe_with_opts(
                    process.pid as i32,
                    bio.attach_path(),
                    offset as usize,
                    options,
                )?);
            }
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
        // SAFETY: as in `set_ready`.
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
