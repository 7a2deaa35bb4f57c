//! The kernel side's keeper: loads it, attaches it, fills its filter, reads its ring and its
//! counters. The only user of libbpf-rs.

mod backend;
mod bio;
mod clock;
mod counts;
mod ended;
mod files;
mod forget;
mod holders;
mod layout;
mod leases;
mod probation;
mod programs;
mod proving;
mod returns;
mod ring;
mod room;
mod sites;
mod stacks;
mod stops;
mod survey;
mod words;

#[allow(missing_docs, unused_imports, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/tls2pcap.skel.rs"));
}

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Func;
use libbpf_rs::libbpf_sys::{BPF_FUNC_get_attach_cookie, BPF_FUNC_loop};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{ErrorKind, Link, MapCore, MapFlags, ProgramMut, ProgramType, UprobeMultiOpts, UprobeOpts};

use self::leases::{FileId, Leases};
use self::probation::Probation;
use self::programs::{AT_BIRTH, AT_RETURN, Choice, Later, OF_MPTCP};
use self::proving::Trial;
use self::sites::{Group, Kind, Programs, Role, Site};
use self::skeleton::types::{self, process_flag, t2p_cookie_bit, t2p_gate, t2p_site};
use self::skeleton::{Tls2pcapSkel, Tls2pcapSkelBuilder};
use crate::discover::{FileKey, Found};
use crate::event::{LibraryId, ProcessKey};
use crate::limits;
use crate::privilege::version;

pub use self::backend::Backend;
pub use self::clock::{clocks, monotonic, realtime};
pub use self::ended::{Ended, Handle, exit_of, process_of};
pub use self::proving::{News, described, note, unseen_return};
pub use self::returns::Unfollowed;
#[cfg(test)]
pub use self::ring::ring_of_file;
pub use self::ring::{Record, Rings, Verdict, is_before, page_size};
pub use self::stops::{Hold, HoldWay, Holds, Place, Stops};
pub use self::survey::Survey;

/// What is captured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only this back end; `None`: the first that works.
    pub backend: Option<Backend>,
    /// Only processes given to [`Probe::add_target`] and, where asked for, their children.
    pub targets_only: bool,
    /// Only processes of these users; empty: all. At most 16.
    pub uids: Vec<u32>,
    /// Attach to single processes, each of which [`Probe::attach`] is told of, so that others pay nothing; else to all.
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
    /// Show what libbpf has to say if nothing can be loaded.
    pub verbose: bool,
}

/// Why the kernel side cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel has no type information, which CO-RE and typed tracepoints need.
    #[error("the kernel offers no BTF (/sys/kernel/btf/vmlinux)")]
    NoBtf,
    /// The kernel refuses BPF to this user.
    #[error("the kernel refuses to load BPF programs: {0}")]
    NotPermitted(String),
    /// The back end that was asked for does not work here, others do.
    #[error("back end {backend} does not work on this kernel: {reason}")]
    BackendMissing {
        /// What was asked for.
        backend: Backend,
        /// What it lacks, and what it says.
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

/// Which calls the kernel side follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// None.
    Shut,
    /// All.
    Open,
    /// Those that have begun, to their return.
    Ending,
}

/// What happens to a target, and to its children that are targets too, when it maps a file that has not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// It goes on.
    GoesOn,
    /// It waits until the file has been looked at.
    Waits,
}

/// Names of programs that go into libraries begin with one of these.
const IN_LIBRARY: [&str; 3] = ["ssl_", IN_GO, IN_RUSTLS];
/// Those that only Go programs need.
const IN_GO: &str = "go_";
/// Those that only programs with rustls need.
const IN_RUSTLS: &str = "rustls_";
/// Names of programs that are attached when the first process needs them begin so.
const IN_BIO: &str = "bio_";
/// There from Linux 4.17 on, if the kernel has kprobes.
const KPROBE_EVENTS: &str = "/sys/bus/event_source/devices/kprobe";

/// The loaded kernel side. Everything detaches when it is dropped.
pub struct Probe {
    skeleton: Tls2pcapSkel<'static>,
    backend: Backend,
    /// Why the back ends before it were not taken.
    refused: Vec<String>,
    programs: Programs,
    /// See [`bio::in_bulk`].
    bio_in_bulk: bool,
    /// Programs that are loaded when they are needed.
    later: Later,
    /// Each process gets probes of its own.
    by_process: bool,
    /// Children of targets are targets too.
    follow: bool,
    /// Whether the kernel tells a program which library it was attached to (Linux 5.15).
    has_cookie: bool,
    libraries: HashMap<FileKey, LibraryId>,
    /// The last number that was given to a library.
    last_id: LibraryId,
    /// The number of rustls in a file that holds another library too, by that one's.
    beside: HashMap<LibraryId, LibraryId>,
    attached: Vec<Attached>,
    /// So that files lose their probes before they are written to.
    leases: Leases,
    /// Probes that are being taken away.
    going: Vec<holders::Going>,
    /// Some child has breakpoints from its parent, and is no target.
    has_heirs: bool,
    unheld: counts::Unheld,
    trials: Vec<Trial>,
    probations: Vec<Probation>,
    links: Vec<Link>,
    /// Probes of the BIO functions, by process.
    bios: HashMap<ProcessKey, Vec<(FileId, Link)>>,
    received: Option<Link>,
    /// Probes of return instructions, by process: see `stacks`.
    stacks: HashMap<ProcessKey, stacks::Followed>,
    /// There are no return probes of libraries in C, now or ever: see [`Probe::avoid_return_probes`].
    by_returns: bool,
    /// There never are any.
    without_return_probes: bool,
    /// What [`Probe::settle`] is to tell.
    unsaid: Vec<News>,
    /// So many of the links, the first, do not depend on a library.
    own_links: usize,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let of_libraries = self.attached.drain(..).flat_map(|a| a.links).map(|(_, _, link)| link);
        detach(of_libraries.chain(self.links.drain(..)).collect());
    }
}

/// For each link the kernel waits until nobody runs its program: for many at once that takes no longer.
fn detach(links: Vec<Link>) {
    const THREADS: usize = 16;
    let mut shares: Vec<Vec<Link>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (index, link) in links.into_iter().enumerate() {
        shares[index % THREADS].push(link);
    }
    thread::scope(|scope| {
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            scope.spawn(move || drop(share));
        }
    });
}

impl Probe {
    /// Leaves the detaching to a process that outlives this one by as long as it takes: up to seconds where
    /// each probe is detached by itself. For the very end of this process.
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
}

/// A library that is probed, in one process or in all (-1).
struct Attached {
    found: Found,
    pid: i32,
    /// That of the process.
    generation: u64,
    id: LibraryId,
    /// With each, which group it belongs to, and what it is for.
    links: Vec<(Group, Role, Link)>,
}

impl Options {
    /// Machine code is decoded for x86-64 only: elsewhere nobody knows where functions return.
    fn avoids_return_probes(&self) -> bool {
        cfg!(target_arch = "x86_64") && !self.return_probes
    }
}

impl Probe {
    /// Loads the kernel side and attaches what does not depend on a library.
    ///
    /// # Errors
    /// [`ProbeError`]; nothing stays loaded.
    pub fn load(options: &Options) -> Result<Probe, ProbeError> {
        words::listen(options.verbose);
        let result = Probe::load_some_way(options);
        let said = words::end();
        // Else our own words tell all there is.
        if let Err(
            ProbeError::NoBackend(_)
            | ProbeError::Failed(..)
            | ProbeError::BackendMissing { lacking: false, .. },
        ) = result
        {
            crate::status::say(&said);
        }
        result
    }

    fn load_some_way(options: &Options) -> Result<Probe, ProbeError> {
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(ProbeError::NoBtf);
        }
        limits::raise();
        // A program that was loaded for bulk attachment attaches in no other way.
        let has_loop = ProgramType::Kprobe.is_helper_supported(BPF_FUNC_loop).unwrap_or(false);
        let each = if has_loop { Programs::Each } else { Programs::EachUnrolled };
        let ways: &[Programs] = match has_loop {
            true if may_choose_returns() && !options.avoids_return_probes() => {
                &[Programs::Session, Programs::Bulk, each]
            }
            true => &[Programs::Bulk, each],
            false => &[each],
        };
        let mut refused = Vec::new();
        let mut not_in_bulk = Vec::new();
        let mut try_backend = |backend: Backend| {
            for &programs in ways {
                match Probe::try_load(options, backend, programs) {
                    Ok(probe) => return Ok(Some(probe)),
                    Err(Refusal::Bulk) => {}
                    // The verifier refuses the programs for bulk attachment, which are larger than the others.
                    Err(Refusal::Backend(error)) if programs.in_bulk() && has_code(&error, libc::EACCES) => {
                        let way =
                            if programs == Programs::Session { "uprobe sessions" } else { "uprobes in bulk" };
                        not_in_bulk.push(format!("{way} beside {}: {error:#}", backend.as_str()));
                    }
                    Err(Refusal::Backend(error)) => {
                        refused.push((backend, error));
                        break;
                    }
                    Err(Refusal::All(error)) => return Err(error),
                }
            }
            Ok(None)
        };
        // The one that is asked for is tried first; the others then tell whether it is its fault.
        let asked = options.backend;
        let mut order = Backend::ALL;
        order.sort_by_key(|b| asked.is_some_and(|a| a != *b));
        let mut others = Vec::new();
        for backend in order {
            match try_backend(backend)? {
                Some(_) if asked.is_some_and(|a| a != backend) => others.push(backend.as_str()),
                Some(mut probe) => {
                    let of_backends = refused.iter().map(|(b, e)| format!("{b}: {}", why_missing(*b, e)));
                    probe.refused = of_backends.chain(not_in_bulk).collect();
                    return Ok(probe);
                }
                None => {}
            }
        }
        if let (Some(backend), false) = (asked, others.is_empty()) {
            let reason = refused.first().map_or_else(String::new, |(_, e)| why_missing(backend, e));
            let lacking = refused.first().is_some_and(|(_, e)| is_lacking(e));
            return Err(ProbeError::BackendMissing { backend, reason, lacking, others: others.join(", ") });
        }
        let reasons: Vec<String> = refused.iter().map(|(b, e)| format!("{b}: {e:#}")).collect();
        let reasons = reasons.join("; ");
        Err(match refused.iter().all(|(_, error)| is_not_permitted(error)) {
            true => ProbeError::NotPermitted(reasons),
            false => ProbeError::NoBackend(reasons),
        })
    }

    fn try_load(options: &Options, backend: Backend, programs: Programs) -> Result<Probe, Refusal> {
        let failed = |what| move |e| Refusal::All(ProbeError::Failed(what, e));
        if backend == Backend::Kprobe && !Path::new(KPROBE_EVENTS).exists() {
            let missing = io::Error::new(io::ErrorKind::Unsupported, "the kernel is built without kprobes");
            return Err(Refusal::Backend(missing.into()));
        }
        // The object lives until the program ends; there are a handful at most.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open =
            Tls2pcapSkelBuilder::default().open(storage).map_err(failed("opening the BPF object"))?;
        let knobs = open.maps.rodata_data.as_deref_mut().expect("the object has constants");
        knobs.targets_only = u32::from(options.targets_only);
        knobs.own_tgid = std::process::id();
        knobs.own_pidns = own_pid_namespace();
        knobs.call_limit = options.call_limit;
        knobs.snaplen = options.snaplen.map_or(u64::MAX, |n| u64::from(n).max(1));
        if options.wake_for_each {
            knobs.wake_bytes = 0;
        }
        for (knob, uid) in knobs.uids.iter_mut().zip(&options.uids) {
            *knob = *uid;
        }
        knobs.uid_count = options.uids.len() as u32;
        room::prepare(&mut open).map_err(failed("sizing the tables"))?;
        let bio_in_bulk = bio::in_bulk(options, programs);
        let has_ipv6 = backend != Backend::Fentry || has_function("udpv6_sendmsg");
        open.maps.ring.set_max_entries(options.ring_bytes).map_err(failed("sizing the ring"))?;
        let sees_births =
            options.follow && (backend != Backend::Fentry || has_function("calculate_sigpending"));
        let has_mptcp = Path::new("/proc/sys/net/mptcp").exists();
        let choice = Choice { backend, programs, bio_in_bulk, has_ipv6, has_mptcp, sees_births };
        choice.prepare(open.open_object_mut().progs_mut());
        let skeleton = open.load().map_err(Refusal::Backend)?;
        let mut probe = Probe {
            skeleton,
            backend,
            refused: Vec::new(),
            programs,
            bio_in_bulk,
            later: Later::new(choice),
            by_process: options.by_process,
            follow: options.follow,
            has_cookie: ProgramType::Kprobe.is_helper_supported(BPF_FUNC_get_attach_cookie).unwrap_or(false),
            libraries: HashMap::new(),
            last_id: 0,
            beside: HashMap::new(),
            attached: Vec::new(),
            leases: Leases::default(),
            going: Vec::new(),
            has_heirs: false,
            unheld: counts::Unheld::default(),
            trials: Vec::new(),
            probations: Vec::new(),
            links: Vec::new(),
            bios: HashMap::new(),
            received: None,
            stacks: HashMap::new(),
            by_returns: options.avoids_return_probes(),
            without_return_probes: options.avoids_return_probes(),
            unsaid: Vec::new(),
            own_links: 0,
        };
        probe.tell_by_returns();
        let mut births_seen = false;
        for program in probe.skeleton.object().progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            if name.starts_with(IN_BIO)
                || name.ends_with(AT_RETURN)
                || is_in_library(&name)
                || name.ends_with(AT_BIRTH) && !sees_births
                || name.contains(OF_MPTCP) && !has_mptcp
                || Backend::of_program(&name).is_some_and(|b| b != backend)
            {
                continue;
            }
            match program.attach() {
                Ok(link) => {
                    births_seen |= name.ends_with(AT_BIRTH);
                    probe.links.push(link);
                }
                // Without it QUIC and DTLS are not told apart, which the kernel may not have.
                Err(_) if name.contains("udp") => {}
                // Then new processes wait as soon as they are seen; and MPTCP sockets are not seen.
                Err(_) if name.ends_with(AT_BIRTH) || name.contains(OF_MPTCP) => {}
                Err(error) => return Err(Refusal::Backend(error)),
            }
        }
        probe.own_links = probe.links.len();
        if let (true, Some(bss)) = (births_seen, probe.skeleton.maps.bss_data.as_deref_mut()) {
            // SAFETY: a valid, aligned place in the mapped .bss; the kernel only reads it.
            unsafe { std::ptr::from_mut(&mut bss.births_seen).write_volatile(1) };
        }
        if programs.in_bulk() && !probe.attaches_in_bulk().unwrap_or(false) {
            return Err(Refusal::Bulk);
        }
        Ok(probe)
    }

    /// Tries a probe in bulk on a function of our own: whether all threads meet it if it is for one
    /// process, and not only the first (before Linux 6.10, 46ba0e49b642).
    fn attaches_in_bulk(&self) -> Result<bool, Box<dyn std::error::Error>> {
        let offset = own_offset(marker as *const () as usize)?;
        let site = Site {
            site: t2p_site::T2P_SITE_SELF,
            offset,
            entry: Some("ssl_any_entry"),
            kind: Kind::C,
            group: Group::Base,
            alone: true,
        };
        let for_one = self.by_process;
        let pid = if for_one { i32::try_from(std::process::id())? } else { -1 };
        let _link = self.attach_bulk(pid, Path::new("/proc/self/exe"), &[site], 0)?;
        if !for_one {
            return Ok(true);
        }
        std::thread::spawn(|| marker()).join().map_err(|_| "the thread failed")?;
        let seen = &self.skeleton.maps.bss_data.as_deref().ok_or("the object has no variables")?.self_seen;
        // SAFETY: a valid, aligned place in the mapped .bss; the kernel writes it.
        Ok(unsafe { std::ptr::from_ref(seen).read_volatile() } != 0)
    }

    /// The back end in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why the back ends before it were not taken.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Whether uprobes are attached in bulk (uprobe.multi, Linux 6.6).
    pub fn bulk(&self) -> bool {
        self.programs.in_bulk()
    }

    fn program(&self, name: &str) -> libbpf_rs::Result<ProgramMut<'_>> {
        self.later.program(self.skeleton.object(), name)
    }

    /// The kinds of programs that cannot be captured on this kernel, and why. Loads all that is loaded when the first
    /// program of its kind comes.
    fn refused_sets(&self) -> Vec<(&'static str, libbpf_rs::Error)> {
        self.later.try_all(self.skeleton.object())
    }

    /// Probes a library in one process, or in all (-1).
    fn attach_in(
        &mut self,
        found: &Found,
        id: LibraryId,
        (pid, generation): (i32, u64),
    ) -> Result<(Attached, Vec<Unfollowed>), libbpf_rs::Error> {
        self.begin_probation(found, id, pid)?;
        let mut attached = Attached { found: found.clone(), pid, generation, id, links: Vec::new() };
        let is_wanted = |group| self.is_wanted(id, group);
        let unclear =
            if self.by_returns { self.probe_returns(&mut attached, is_wanted)? } else { Vec::new() };
        for run in self.sites_of(found).chunk_by(together(self.programs)) {
            if self.is_wanted(id, run[0].group) {
                self.attach_run(&mut attached, run)?;
            }
        }
        Ok((attached, unclear))
    }

    /// Attaches sites that are attached together.
    fn attach_run(&self, attached: &mut Attached, run: &[Site]) -> Result<(), libbpf_rs::Error> {
        let path = attached.found.attach_path();
        let is_return_probe = self.programs.is_return_probe(&run[0]);
        // Nothing yields inside the functions of rustls.
        let stays = run[0].kind == Kind::Rustls && !self.without_return_probes;
        let id = self.number_of(attached.id, run[0].kind);
        if is_return_probe && self.by_returns && !stays {
            return Ok(());
        }
        let link = match (self.programs, run) {
            (Programs::Bulk | Programs::Session, _) => self.attach_bulk(attached.pid, &path, run, id)?,
            (_, [site]) => {
                let options = UprobeOpts {
                    cookie: if self.has_cookie { cookie(site.site, id) } else { 0 },
                    retprobe: is_return_probe,
                    ..UprobeOpts::default()
                };
                let program = self.program(self.programs.name(site))?;
                program.attach_uprobe_with_opts(attached.pid, &path, site.offset as usize, options)?
            }
            _ => unreachable!("one by one"),
        };
        let role = if is_return_probe && !stays { Role::ReturnProbe } else { Role::Entry };
        attached.links.push((run[0].group, role, link));
        Ok(())
    }

    /// Where a library is probed for as long as it is.
    fn offsets_of(&self, attached: &Attached) -> Vec<u64> {
        let found = &attached.found;
        let wanted = |group| self.is_wanted(attached.id, group);
        let sites =
            self.sites_of(found).into_iter().filter(|site| wanted(site.group)).map(|site| site.offset);
        let (returns, _) = self.returns_of(found);
        sites.chain(returns.into_iter().map(|at| at.offset)).collect()
    }

    /// Attaches probes in this process, which has no such code mapped.
    fn attach_to_none(&self, attached: &Attached, offsets: &[u64]) -> Option<Link> {
        let options = UprobeMultiOpts {
            offsets: offsets.iter().map(|offset| *offset as usize).collect(),
            session: self.programs == Programs::Session,
            ..UprobeMultiOpts::default()
        };
        let name = if self.programs == Programs::Session { "ssl_session" } else { "ssl_any_entry" };
        let pid = i32::try_from(std::process::id()).ok()?;
        let path = attached.found.attach_path();
        self.program(name).ok()?.attach_uprobe_multi_with_opts(pid, &path, "", options).ok()
    }

    /// The number by which programs know a library, or the rustls beside it.
    fn number_of(&self, id: LibraryId, kind: Kind) -> LibraryId {
        let beside = self.beside.get(&id).filter(|_| kind == Kind::Rustls);
        self.cookie_of(*beside.unwrap_or(&id))
    }

    /// Attaches entries only, or returns only.
    fn attach_bulk(
        &self,
        pid: i32,
        path: &Path,
        sites: &[Site],
        id: LibraryId,
    ) -> Result<Link, libbpf_rs::Error> {
        let of_session = self.programs == Programs::Session;
        let entry_only = |site: &Site| if site.alone && of_session { COOKIE_ENTRY_ONLY } else { 0 };
        let options = UprobeMultiOpts {
            offsets: sites.iter().map(|s| s.offset as usize).collect(),
            cookies: sites.iter().map(|s| cookie(s.site, id) | entry_only(s)).collect(),
            retprobe: sites.iter().any(|s| self.programs.is_return_probe(s)),
            session: of_session && sites.iter().any(|s| s.kind == Kind::C),
            ..UprobeMultiOpts::default()
        };
        let name = sites.first().map_or("ssl_any_entry", |site| self.programs.name(site));
        self.program(name)?.attach_uprobe_multi_with_opts(pid, path, "", options)
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
        self.skeleton.maps.processes.update(&pid.to_ne_bytes(), bytes_of(&process), MapFlags::ANY)
    }

    /// Whether any process is still a target.
    pub fn has_targets(&self) -> bool {
        self.skeleton.maps.processes.keys().next().is_some()
    }

    /// Captures this process no more: it has ended.
    pub fn remove_target(&mut self, pid: u32) {
        let is_its = |attached: &Attached| attached.pid == pid as i32;
        let files = self.files_of(is_its);
        let links = self.take_away(is_its);
        self.discard(links, files);
        // Gone already is as good.
        let _ = self.skeleton.maps.processes.delete(&pid.to_ne_bytes());
    }

    /// Opens or shuts the gate. Once this returns the kernel side acts on it.
    pub fn set_gate(&mut self, gate: Gate) {
        let ready = match gate {
            Gate::Shut => t2p_gate::T2P_GATE_SHUT,
            Gate::Open => t2p_gate::T2P_GATE_OPEN,
            Gate::Ending => t2p_gate::T2P_GATE_ENDING,
        };
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: `ready` is a valid, aligned place in the mapped .bss; the kernel only reads it.
            unsafe { std::ptr::from_mut(&mut bss.ready).write_volatile(ready) };
        }
        await_programs();
    }

    /// Shuts the gate for calls that begin, waits a moment for the writes that have begun, and shuts it.
    pub fn end(&mut self) {
        /// Far longer than a write takes that does not wait for its peer.
        const PATIENCE: Duration = Duration::from_millis(100);
        const INTERVAL: Duration = Duration::from_millis(2);
        self.set_gate(Gate::Ending);
        let since = Instant::now();
        while since.elapsed() < PATIENCE && self.handles().iter().any(|handle| handle.is_writing) {
            std::thread::sleep(INTERVAL);
        }
        self.set_gate(Gate::Shut);
    }

    /// From now on a socket may be used by a goroutine.
    fn follow_goroutines(&mut self) {
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            // SAFETY: as in `set_gate`.
            unsafe { std::ptr::from_mut(&mut bss.go_wanted).write_volatile(1) };
        }
    }

    /// The handles that still live.
    pub fn handles(&self) -> Vec<Handle> {
        ended::handles(&self.skeleton.maps.handles).collect()
    }

    /// How far handles came of which the ring does not say it; goes with its reader.
    ///
    /// # Errors
    /// If no descriptor can be had.
    pub fn ended(&self) -> io::Result<Ended> {
        let maps = &self.skeleton.maps;
        Ended::new(&maps.ended, &maps.handles, &maps.losses)
    }

    /// A reader of the rings, to be moved to a thread of its own.
    ///
    /// # Errors
    /// If they cannot be mapped.
    pub fn rings(&self) -> io::Result<Rings> {
        let (ring, notices) = (&self.skeleton.maps.ring, &self.skeleton.maps.notices);
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

/// Whether one program can see entry and return and choose at each entry (Linux 6.13).
pub fn may_choose_returns() -> bool {
    const SINCE: (u32, u32) = (6, 13);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release).is_some_and(|version| version >= SINCE)
}

/// Returns when no program runs any more that began before.
fn await_programs() {
    /// Far longer than any takes that is not interrupted.
    const LONG: Duration = Duration::from_millis(20);
    // SAFETY: a plain system call.
    if unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // Kernels with nohz_full refuse it.
        std::thread::sleep(LONG);
    }
}

/// Whether a program goes into libraries.
fn is_in_library(program: &str) -> bool {
    IN_LIBRARY.iter().any(|prefix| program.starts_with(prefix))
}

/// Which neighbours are attached at once.
fn together(programs: Programs) -> impl FnMut(&Site, &Site) -> bool {
    let kind = move |site: &Site| (site.group, site.kind, programs.is_return_probe(site));
    move |a, b| {
        programs.in_bulk() && a.kind == b.kind && kind(a) == kind(b) && programs.name(a) == programs.name(b)
    }
}

/// Whether the kernel itself, without its modules, has this function.
fn has_function(name: &str) -> bool {
    Btf::from_vmlinux().is_ok_and(|btf| btf.type_by_name::<Func<'_>>(name).is_some())
}

/// Why a combination of back end and attachment is not taken.
enum Refusal {
    /// Attaching uprobes in bulk does not work.
    Bulk,
    /// The back end does not work.
    Backend(libbpf_rs::Error),
    /// Nothing will.
    All(ProbeError),
}

/// Whether the kernel refused for lack of a privilege.
pub fn is_denied(error: &libbpf_rs::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

/// The kernel refuses BPF to us (EPERM), which is not the verifier that refuses a program (EACCES).
fn is_not_permitted(error: &libbpf_rs::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && has_code(error, libc::EPERM)
}

/// libbpf-rs keeps the number to itself, but prints it.
fn has_code(error: &libbpf_rs::Error, code: i32) -> bool {
    format!("{error:#}").contains(&format!("(os error {code})"))
}

/// Why a back end does not work where others do.
fn why_missing(backend: Backend, error: &libbpf_rs::Error) -> String {
    format!("{} {}: {error:#}", if is_lacking(error) { "it has no" } else { "it needs" }, backend.needs())
}

fn is_lacking(error: &libbpf_rs::Error) -> bool {
    /// The kernel's own ENOTSUPP, which is no number of libc.
    const ENOTSUPP: i32 = 524;
    [libc::EPERM, libc::ENOENT, libc::EOPNOTSUPP, ENOTSUPP].iter().any(|c| has_code(error, *c))
}

/// A function of our own that a probe can be tried on.
#[inline(never)]
extern "C" fn marker() -> u32 {
    std::hint::black_box(std::process::id())
}

/// File offset of an address in our own executable.
fn own_offset(address: usize) -> io::Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    maps.lines()
        .find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let start = usize::from_str_radix(start, 16).ok()?;
            let end = usize::from_str_radix(end, 16).ok()?;
            let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
            (start..end).contains(&address).then_some(offset + (address - start) as u64)
        })
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Inode of our pid namespace; 0 for the initial one, where the kernel numbers tasks as we do.
fn own_pid_namespace() -> u32 {
    /// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
    const INITIAL: u64 = 0xEFFF_FFFC;
    let inode = std::fs::metadata("/proc/self/ns/pid").map_or(INITIAL, |m| m.ino());
    if inode == INITIAL { 0 } else { inode as u32 }
}

/// The bytes of a plain C struct of a map.
fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: only used with the generated map types, which have no padding that is not a field.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A plain C struct of a map.
fn from_bytes<T: Copy>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, and the generated map types hold integers only.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
