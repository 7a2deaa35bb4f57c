//! Probes of the BIO functions, in processes that encrypt into memory: see `bpf/ciphertext.bpf.h`.

use std::path::Path;

use libbpf_rs::{ErrorExt, Link, MapCore, MapFlags, UprobeMultiOpts, UprobeOpts};

use super::sites::Programs;
use super::skeleton::types::{self, process_flag};
use super::{AT_RETURN, Backend, Options, Probe, bytes_of, from_bytes, is_denied};
use crate::discover::Bio;
use crate::discover::returns::Return;
use crate::event::ProcessKey;
use crate::privilege;

/// Why a probe by itself is refused, and the cure.
const SINGLE_NEEDS: &str =
    "on this kernel it needs cap_sys_admin too: run it with sudo, or give the program that capability";

const NO_SOCKET: u32 = process_flag::PROCESS_NO_SOCKET.0;
const WATCHED: u32 = process_flag::PROCESS_WATCHED.0;
const SOCKET: u32 = process_flag::PROCESS_SOCKET.0;
const IDLE: u32 = process_flag::PROCESS_IDLE.0;

/// Whether the probes of BIO functions, which are for one process, are attached as those in bulk: single probes
/// need CAP_SYS_ADMIN.
pub(super) fn in_bulk(options: &Options, programs: Programs) -> bool {
    // With processes of their own it is tried before anything is captured: see `attaches_in_bulk`.
    programs == Programs::Session
        || programs.in_bulk() && (options.by_process || privilege::has_bulk_by_process())
}

impl Probe {
    /// Probes BIO_write and BIO_read, at these offsets of a file, in one process or in all (-1). `returns`: of the
    /// latter.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub(super) fn attach_records(
        &self,
        pid: i32,
        path: &Path,
        (write, read): (u64, u64),
        returns: &[Return],
    ) -> Result<Vec<Link>, libbpf_rs::Error> {
        let mut links = Vec::new();
        if self.without_return_probes {
            // Without its returns nothing is seen of what it reads.
            for at in returns.iter().flat_map(|at| self.probed_at(at)) {
                links.push(self.attach_bio_program("bio_return_read", pid, path, at, false)?);
            }
            if !links.is_empty() {
                links.push(self.attach_bio_program("bio_entry_read", pid, path, (read, 0), false)?);
            }
        } else if self.programs == Programs::Session {
            let options =
                UprobeMultiOpts { offsets: vec![read as usize], session: true, ..UprobeMultiOpts::default() };
            let program = self.program("bio_session_read")?;
            links.push(program.attach_uprobe_multi_with_opts(pid, path, "", options)?);
        } else if !self.by_returns {
            // The return first: an entry that is seen has its return probed. It would do harm on other stacks.
            links.push(self.attach_bio_program("bio_return_read", pid, path, (read, 0), true)?);
            links.push(self.attach_bio_program("bio_entry_read", pid, path, (read, 0), false)?);
        }
        links.push(self.attach_bio_program("bio_entry_write", pid, path, (write, 0), false)?);
        Ok(links)
    }

    fn attach_bio_program(
        &self,
        name: &str,
        pid: i32,
        path: &Path,
        (offset, cookie): (u64, u64),
        retprobe: bool,
    ) -> Result<Link, libbpf_rs::Error> {
        let program = self.program(name)?;
        if self.bio_in_bulk {
            let (offsets, cookies) = (vec![offset as usize], vec![cookie]);
            let options = UprobeMultiOpts { offsets, cookies, retprobe, ..UprobeMultiOpts::default() };
            return program.attach_uprobe_multi_with_opts(pid, path, "", options);
        }
        let cookie = if self.has_cookie { cookie } else { 0 };
        let options = UprobeOpts { cookie, retprobe, ..UprobeOpts::default() };
        program.attach_uprobe_with_opts(pid, path, offset as usize, options).map_err(|error| match is_denied(
            &error,
        ) {
            true => error.context(SINGLE_NEEDS),
            false => error,
        })
    }

    /// Probes the BIO functions of a process that encrypts into memory, in that process only.
    ///
    /// # Errors
    /// If a probe cannot be attached.
    pub fn attach_bio(&mut self, process: ProcessKey, bios: &[Bio]) -> Result<(), libbpf_rs::Error> {
        let mut links = Vec::new();
        for bio in bios {
            let offsets = (bio.write, bio.read);
            let (pid, path) = (process.pid as i32, bio.attach_path());
            let of_bio = self.attach_records(pid, &path, offsets, &bio.returns)?;
            links.extend(of_bio.into_iter().map(|link| (bio.id, link)));
            self.leases.take(bio.id, bio.file());
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
            self.received = self.program(&name).and_then(|program| program.attach()).ok();
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
            self.change(pid, |process| types::process {
                flags: process_flag(process.flags.0 | WATCHED),
                ..process
            });
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
            let flags = process.flags.0;
            let has_sockets = flags & (WATCHED | SOCKET | NO_SOCKET) == WATCHED | SOCKET;
            if has_sockets || flags & IDLE != 0 {
                self.bios.remove(&key);
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
