//! The kernel side's keeper: loads it, attaches it, fills its filter, reads its ring and its
//! counters. The only user of libbpf-rs.
//!
//! Which probes there should be is written down in one place (`parts.rs`), and one other makes it so (`attach.rs`).

mod attach;
mod backend;
mod bio;
mod blueprint;
mod clock;
mod files;
mod gate;
mod held_threads;
mod holders;
mod kernel;
mod kernel_counters;
mod layout;
mod leases;
mod libbpf_messages;
mod load;
mod map_value;
mod parts;
mod probation;
mod programs;
mod proving;
mod returns;
mod ring;
mod sites;
mod stacks;
mod stale_entries;
mod survey;
mod table_sizes;
mod unreported_ends;
mod unused;

#[allow(missing_docs, unused_imports, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/tls2pcap.skel.rs"));
}

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapFlags};

use self::attach::{Attached, Going, detach, links_of};
use self::kernel::Kernel;
use self::leases::{FileId, Leases};
use self::map_value::bytes_of;
use self::parts::Desired;
use self::sites::Programs;
use self::skeleton::types::{self, process_flag, t2p_cookie_bit, t2p_site};
use crate::discover::FileKey;
use crate::event::LibraryId;

pub use self::backend::Backend;
pub use self::clock::{clocks, monotonic, realtime};
pub use self::gate::Gate;
pub use self::held_threads::{HeldThreads, Hold, HoldWay, Holds, SyscallReturn};
pub use self::holders::Attachment;
pub use self::load::{is_denied, may_choose_returns};
pub use self::proving::{News, described, note, unseen_return};
pub use self::returns::Unfollowed;
#[cfg(test)]
pub use self::ring::ring_of_file;
pub use self::ring::{Disposition, Record, Rings, is_before};
pub use self::survey::Survey;
pub use self::unreported_ends::{Handle, UnreportedEnds, exit_of, process_of};
pub use self::unused::Candidate;

/// What is captured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only this back end; `None`: the first that works.
    pub backend: Option<Backend>,
    /// Only processes given to [`Probe::add_target`] and, where asked for, their children.
    pub targets_only: bool,
    /// Only processes of these users; empty: all. At most 16.
    pub uids: Vec<u32>,
    /// Attach to single processes, each of which is passed to [`Probe::attach`], so that others pay nothing;
    /// otherwise to all.
    pub by_process: bool,
    /// Children of targets are targets too.
    pub follow: bool,
    /// Bytes of one call that are captured.
    pub call_limit: u64,
    /// Bytes of one record that are captured, at least 1; `None`: all.
    pub snaplen: Option<u32>,
    /// Size of the ring in bytes; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Wake the reader of the ring for each record, not when some have come together.
    pub wake_for_each: bool,
    /// Use the kernel's return probes where functions return, which harm programs that unwind their stacks.
    pub return_probes: bool,
    /// A library in C is there to be probed: what it needs is loaded with all else, which is sooner done than later.
    pub has_c: bool,
    /// Show what libbpf has to say if nothing can be loaded.
    pub verbose: bool,
}

/// Why the kernel side cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel has no type information, which CO-RE and typed tracepoints need.
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux)")]
    NoBtf,
    /// The kernel refuses BPF to this user.
    #[error("the kernel refuses to load BPF programs: {0}")]
    NotPermitted(String),
    /// The back end that was asked for does not work here, others do.
    #[error("back end {backend} does not work on this kernel: {reason}")]
    BackendMissing {
        /// What was asked for.
        backend: Backend,
        /// What it lacks, and its message.
        reason: String,
        /// Whether it has none such, rather than refuse what is there.
        lacking: bool,
        /// Names of those that work.
        others: String,
    },
    /// No back end works; the reasons by back end.
    #[error("no way to follow sockets works on this kernel: {0}")]
    NoBackend(String),
    /// Something else that is needed failed.
    #[error("{0}: {1}")]
    Failed(&'static str, libbpf_rs::Error),
}

/// What happens to a target, and to its children that are targets too, when it maps a file that was not
/// inspected yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// It runs on.
    GoesOn,
    /// It waits until the file has been inspected.
    Waits,
}

/// The loaded kernel side, and what is probed. Everything detaches when it is dropped.
pub struct Probe {
    kernel: Kernel,
    /// Why the back ends before it were not taken.
    refused: Vec<String>,
    /// Each process gets its own probes.
    by_process: bool,
    /// Children of targets are targets too.
    follow: bool,
    libraries: HashMap<FileKey, LibraryId>,
    /// The last number that was given to a library.
    last_id: LibraryId,
    /// The number of rustls in a file that holds another library too, by that one's.
    beside: HashMap<LibraryId, LibraryId>,
    /// Which probes there should be.
    desired: Desired,
    /// Those that there are.
    attached: Attached,
    /// Those that are being removed.
    going: Vec<Going>,
    /// So that files lose their probes before they are written to.
    leases: Leases,
    /// Who uses files that all processes have probes in.
    users: unused::Users,
    /// Some child has breakpoints from its parent, and is no target.
    has_heirs: bool,
    unheld: kernel_counters::Unheld,
    /// What [`Probe::settle`] will report.
    unsaid: Vec<News>,
    is_loaded_ahead: bool,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let of_libraries = links_of(std::mem::take(&mut self.attached));
        detach(of_libraries.chain(self.kernel.own_links.drain(..)).collect());
    }
}

impl Probe {
    /// Loads the kernel side and attaches what does not depend on a library.
    ///
    /// # Errors
    /// [`ProbeError`]; nothing stays loaded.
    pub fn load(options: &Options) -> Result<Probe, ProbeError> {
        let (kernel, refused) = Kernel::load(options)?;
        let without_return_probes = kernel.way.without_return_probes;
        let desired = Desired {
            by_returns: without_return_probes,
            without_return_probes,
            chooses_returns: kernel.way.programs == Programs::Session,
            ..Desired::default()
        };
        let mut probe = Probe {
            kernel,
            refused,
            by_process: options.by_process,
            follow: options.follow,
            libraries: HashMap::new(),
            last_id: 0,
            beside: HashMap::new(),
            desired,
            attached: Attached::new(),
            going: Vec::new(),
            leases: Leases::default(),
            users: unused::Users::new(),
            has_heirs: false,
            unheld: kernel_counters::Unheld::default(),
            unsaid: Vec::new(),
            is_loaded_ahead: false,
        };
        probe.tell_by_returns();
        Ok(probe)
    }

    /// Leaves the detaching to a process that outlives this one for as long as that takes: up to seconds if
    /// each probe is detached separately. For the very end of this process.
    pub fn leave(self) {
        let Ok((parent_ended, held)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) else { return };
        // SAFETY: the child calls nothing but what is async-signal-safe, and never returns.
        match unsafe { libc::fork() } {
            // SAFETY: numbers of descriptors, and one byte of this frame.
            0 => unsafe {
                libc::setsid();
                // Whoever waits for their end must not wait for this process.
                for fd in 0..3 {
                    libc::close(fd);
                }
                libc::close(held.as_raw_fd());
                let mut byte = 0u8;
                while libc::read(parent_ended.as_raw_fd(), (&raw mut byte).cast(), 1) < 0
                    && *libc::__errno_location() == libc::EINTR
                {}
                libc::_exit(0)
            },
            -1 => {}
            _ => {
                std::mem::forget(self);
                // Open until this process has ended.
                std::mem::forget(held);
            }
        }
    }

    /// Loads what the first library in C will need, once. For captures in which nothing waits for the loading.
    pub fn load_ahead(&mut self) {
        if !std::mem::replace(&mut self.is_loaded_ahead, true) {
            // If it fails, so does the first library.
            let _ = self.kernel.load_for_c();
        }
    }

    /// The back end in use.
    pub fn backend(&self) -> Backend {
        self.kernel.backend
    }

    /// Why the back ends before it were not taken.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Whether uprobes are attached in bulk (uprobe.multi, Linux 6.6).
    pub fn bulk(&self) -> bool {
        self.kernel.way.programs.in_bulk()
    }

    /// Captures this process from now on.
    ///
    /// # Errors
    /// If the table of processes is full.
    pub fn add_target(&self, pid: u32, target: Target) -> Result<(), libbpf_rs::Error> {
        use process_flag as of;
        let follow = if self.follow { of::PROCESS_FOLLOW.0 } else { 0 };
        let waits = if target == Target::Waits { of::PROCESS_STOP.0 } else { 0 };
        let flags = process_flag(of::PROCESS_TARGET.0 | follow | waits);
        let process = types::process { generation: monotonic(), flags, ..Default::default() };
        self.kernel.skeleton.maps.processes.update(&pid.to_ne_bytes(), bytes_of(&process), MapFlags::ANY)
    }

    /// Whether any process is still a target.
    pub fn has_targets(&self) -> bool {
        self.kernel.skeleton.maps.processes.keys().next().is_some()
    }

    /// Captures this process no more: it has ended.
    pub fn remove_target(&mut self, pid: u32) {
        self.let_process_go(pid);
        // Gone already is as good.
        let _ = self.kernel.skeleton.maps.processes.delete(&pid.to_ne_bytes());
    }

    /// The handles that still live.
    pub fn handles(&self) -> Vec<Handle> {
        unreported_ends::handles(&self.kernel.skeleton.maps.handles).collect()
    }

    /// The offsets of handles that are not in the ring; moves with its reader.
    ///
    /// # Errors
    /// If no descriptor is available.
    pub fn ended(&self) -> io::Result<UnreportedEnds> {
        let maps = &self.kernel.skeleton.maps;
        UnreportedEnds::new(&maps.ended, &maps.handles, &maps.losses)
    }

    /// A reader of the rings, to be moved to a separate thread.
    ///
    /// # Errors
    /// If they cannot be mapped.
    pub fn rings(&self) -> io::Result<Rings> {
        let (ring, notices) = (&self.kernel.skeleton.maps.ring, &self.kernel.skeleton.maps.notices);
        Rings::new(
            (ring.as_fd(), ring.max_entries() as usize),
            (notices.as_fd(), notices.max_entries() as usize),
        )
    }
}

/// The number by which a program knows the library and, in bulk, the function.
fn cookie(site: t2p_site, library: LibraryId) -> u64 {
    u64::from(library) << t2p_cookie_bit::T2P_COOKIE_LIBRARY.0 | u64::from(site.0)
}

/// Of an attach cookie: the site is a return instruction.
const COOKIE_RETURN: u64 = 1 << t2p_cookie_bit::T2P_COOKIE_RETURN.0;
/// The return of this function is of no interest.
const COOKIE_ENTRY_ONLY: u64 = 1 << t2p_cookie_bit::T2P_COOKIE_ENTRY_ONLY.0;
