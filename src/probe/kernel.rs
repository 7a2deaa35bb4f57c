//! What is loaded into the kernel, and how probes are attached. Does not know which process should have which:
//! see `attach.rs`.

use std::path::Path;

use libbpf_rs::skel::Skel;
use libbpf_rs::{ErrorExt, Link, ProgramMut, UprobeMultiOpts, UprobeOpts};

use super::Backend;
use super::attach::detach;
use super::blueprint::{Spot, Way};
use super::load::is_denied;
use super::parts::What;
use super::programs::{Choice, Job, Later, ProgramSet};
use super::returns::probed_at;
use super::sites::{Kind, Programs};
use super::skeleton::{Tls2pcapSkel, types};
use crate::discover::returns::Return;

/// Why a single probe is refused, and the hint.
const SINGLE_NEEDS: &str =
    "on this kernel it needs cap_sys_admin too: run it with sudo, or give the program that capability";

/// The loaded kernel side.
pub(super) struct Kernel {
    pub skeleton: Tls2pcapSkel<'static>,
    pub backend: Backend,
    pub way: Way,
    choice: Choice,
    /// Programs that are loaded when they are needed.
    pub later: Later,
    /// Of what does not depend on a library.
    pub own_links: Vec<Link>,
    /// Of what sees what a socket has received.
    received: Option<Link>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        detach(self.own_links.drain(..).chain(self.received.take()).collect());
    }
}

impl Kernel {
    pub(super) fn new(skeleton: Tls2pcapSkel<'static>, backend: Backend, way: Way, choice: Choice) -> Kernel {
        let later = Later::new(choice);
        Kernel { skeleton, backend, way, choice, later, own_links: Vec::new(), received: None }
    }

    /// Sets a variable of the kernel side, which only reads it.
    pub(super) fn set<T: Copy>(&mut self, which: impl FnOnce(&mut types::bss) -> &mut T, value: T) {
        if let Some(variables) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: a valid, aligned place in the mapped .bss.
            unsafe { std::ptr::from_mut(which(variables)).write_volatile(value) };
        }
    }

    /// A program of this name, which is loaded if it is not yet.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(super) fn program(&self, name: &str) -> libbpf_rs::Result<ProgramMut<'_>> {
        self.later.program(self.skeleton.object(), name)
    }

    /// Loads what sees the functions of libraries in C.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(super) fn load_for_c(&self) -> libbpf_rs::Result<()> {
        self.later.object(self.skeleton.object(), ProgramSet::C).map(drop)
    }

    /// The kinds of programs that cannot be captured on this kernel, and why. Loads all that is loaded when the first
    /// program of its kind comes.
    pub(super) fn refused_sets(&self) -> Vec<(&'static str, libbpf_rs::Error)> {
        self.later.try_all(self.skeleton.object())
    }

    /// Attaches what does not depend on a library.
    ///
    /// # Errors
    /// If something is refused without which nothing can be captured.
    pub(super) fn attach_own(&mut self) -> libbpf_rs::Result<()> {
        let mut sees_births = false;
        for program in self.skeleton.object().progs_mut() {
            let job = Job::of(&program.name().to_string_lossy());
            let Some(job) = job.filter(|job| job.is_for_all() && self.choice.takes(*job)) else { continue };
            match program.attach() {
                Ok(link) => {
                    sees_births |= matches!(job, Job::Births(_));
                    self.own_links.push(link);
                }
                // Without it QUIC and DTLS cannot be recognised, new processes wait as soon as they are seen,
                // or MPTCP sockets are not seen.
                Err(_) if job.is_optional() => {}
                Err(error) => return Err(error),
            }
        }
        self.set(|variables| &mut variables.births_seen, u32::from(sees_births));
        Ok(())
    }

    /// From now on records are examined when they pass through sockets.
    pub(super) fn follow_ciphertext(&mut self) {
        if self.received.is_none() {
            // Without it, records that a program receives bind nothing; those that it sends do.
            let mut programs = Job::Received(self.backend).programs();
            self.received = programs.next().and_then(|name| self.program(name).ok()?.attach().ok());
        }
        self.set(|variables| &mut variables.ciphertext_wanted, 1);
    }

    /// Attaches probes of one part, in a process or in all (-1).
    ///
    /// # Errors
    /// If one cannot be attached; none stays.
    pub(super) fn attach_spots(
        &self,
        what: What,
        pid: i32,
        path: &Path,
        spots: &[Spot],
    ) -> libbpf_rs::Result<Vec<Link>> {
        let retprobe = matches!(what, What::ReturnProbes(..));
        let is_of_c = matches!(what, What::Returns(_, Kind::C) | What::Entries(_, Kind::C));
        let Some(first) = spots.first() else { return Ok(Vec::new()) };
        if self.way.programs.in_bulk() {
            let options = UprobeMultiOpts {
                offsets: spots.iter().map(|spot| spot.offset as usize).collect(),
                cookies: spots.iter().map(|spot| spot.cookie).collect(),
                retprobe,
                session: is_of_c && self.way.programs == Programs::Session,
                ..UprobeMultiOpts::default()
            };
            return Ok(vec![
                self.program(first.program)?.attach_uprobe_multi_with_opts(pid, path, "", options)?,
            ]);
        }
        let attach = |spot: &Spot| {
            let options = UprobeOpts { cookie: spot.cookie, retprobe, ..UprobeOpts::default() };
            self.program(spot.program)?.attach_uprobe_with_opts(pid, path, spot.offset as usize, options)
        };
        spots.iter().map(attach).collect()
    }

    /// Probes BIO_write and BIO_read, at these offsets of a file, in one process or in all (-1). `returns`: of the
    /// latter. `by_returns`: there are no return probes.
    ///
    /// # Errors
    /// If a probe cannot be attached; none stays.
    pub(super) fn attach_records(
        &self,
        pid: i32,
        path: &Path,
        (write, read): (u64, u64),
        returns: &[Return],
        by_returns: bool,
    ) -> libbpf_rs::Result<Vec<Link>> {
        let mut links = Vec::new();
        if self.way.without_return_probes {
            // Without its returns nothing is seen of what it reads.
            for at in returns.iter().flat_map(|at| probed_at(at, self.way.has_cookie)) {
                links.push(self.attach_record("bio_return_read", pid, path, at, false)?);
            }
            if !links.is_empty() {
                links.push(self.attach_record("bio_entry_read", pid, path, (read, 0), false)?);
            }
        } else if self.way.programs == Programs::Session {
            let options =
                UprobeMultiOpts { offsets: vec![read as usize], session: true, ..UprobeMultiOpts::default() };
            let program = self.program("bio_session_read")?;
            links.push(program.attach_uprobe_multi_with_opts(pid, path, "", options)?);
        } else if !by_returns {
            // The return first: an entry that is seen has its return probed. It would do harm on other stacks.
            links.push(self.attach_record("bio_return_read", pid, path, (read, 0), true)?);
            links.push(self.attach_record("bio_entry_read", pid, path, (read, 0), false)?);
        }
        links.push(self.attach_record("bio_entry_write", pid, path, (write, 0), false)?);
        Ok(links)
    }

    fn attach_record(
        &self,
        name: &str,
        pid: i32,
        path: &Path,
        (offset, cookie): (u64, u64),
        retprobe: bool,
    ) -> libbpf_rs::Result<Link> {
        let program = self.program(name)?;
        if self.choice.bio_in_bulk {
            let (offsets, cookies) = (vec![offset as usize], vec![cookie]);
            let options = UprobeMultiOpts { offsets, cookies, retprobe, ..UprobeMultiOpts::default() };
            return program.attach_uprobe_multi_with_opts(pid, path, "", options);
        }
        let cookie = if self.way.has_cookie { cookie } else { 0 };
        let options = UprobeOpts { cookie, retprobe, ..UprobeOpts::default() };
        program.attach_uprobe_with_opts(pid, path, offset as usize, options).map_err(|error| match is_denied(
            &error,
        ) {
            true => error.context(SINGLE_NEEDS),
            false => error,
        })
    }

    /// Attaches probes at these offsets in this process, which has no such code mapped. `None`: probes are
    /// attached one by one, or the file no longer exists.
    pub(super) fn attach_to_none(&self, path: &Path, offsets: &[u64]) -> Option<Link> {
        let program = Job::Trial.programs().next().filter(|_| self.way.programs.in_bulk())?;
        let options = UprobeMultiOpts {
            offsets: offsets.iter().map(|offset| *offset as usize).collect(),
            ..UprobeMultiOpts::default()
        };
        let pid = i32::try_from(std::process::id()).ok()?;
        self.program(program).ok()?.attach_uprobe_multi_with_opts(pid, path, "", options).ok()
    }
}
