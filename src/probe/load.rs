//! Loads the kernel side, by the first way that this kernel takes.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Func;
use libbpf_rs::libbpf_sys::{BPF_FUNC_get_attach_cookie, BPF_FUNC_loop};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ErrorKind, Link, ProgramType, UprobeMultiOpts};

use super::blueprint::Way;
use super::kernel::Kernel;
use super::programs::{Choice, Job};
use super::sites::Programs;
use super::skeleton::Tls2pcapSkelBuilder;
use super::{Backend, Options, ProbeError, bio, libbpf_messages, table_sizes};
use crate::limits;
use crate::privilege::version;

/// There from Linux 4.17 on, if the kernel has kprobes.
const KPROBE_EVENTS: &str = "/sys/bus/event_source/devices/kprobe";

/// Why a combination of back end and attachment is not taken.
pub(super) enum Refusal {
    /// Attaching uprobes in bulk does not work.
    Bulk,
    /// The back end does not work.
    Backend(libbpf_rs::Error),
    /// Nothing will.
    All(ProbeError),
}

impl Options {
    /// Machine code is decoded for x86-64 only: elsewhere it is unknown where functions return.
    fn avoids_return_probes(&self) -> bool {
        cfg!(target_arch = "x86_64") && !self.return_probes
    }
}

impl Kernel {
    /// Loads the kernel side and attaches what does not depend on a library. Also why the ways before the one that is
    /// taken were not.
    ///
    /// # Errors
    /// [`ProbeError`]; nothing stays loaded.
    pub(super) fn load(options: &Options) -> Result<(Kernel, Vec<String>), ProbeError> {
        libbpf_messages::listen(options.verbose);
        let result = Kernel::load_some_way(options);
        let said = libbpf_messages::end();
        // Otherwise our own message says everything.
        if let Err(
            ProbeError::NoBackend(_)
            | ProbeError::Failed(..)
            | ProbeError::BackendMissing { lacking: false, .. },
        ) = result
        {
            crate::printable::say(&said);
        }
        result
    }

    fn load_some_way(options: &Options) -> Result<(Kernel, Vec<String>), ProbeError> {
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
                match Kernel::try_load(options, backend, programs) {
                    Ok(kernel) => return Ok(Some(kernel)),
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
        // The requested one is tried first; the others then show whether the fault is its own.
        let asked = options.backend;
        let mut order = Backend::ALL;
        order.sort_by_key(|b| asked.is_some_and(|a| a != *b));
        let mut others = Vec::new();
        for backend in order {
            match try_backend(backend)? {
                Some(_) if asked.is_some_and(|a| a != backend) => others.push(backend.as_str()),
                Some(kernel) => {
                    let of_backends = refused.iter().map(|(b, e)| format!("{b}: {}", why_missing(*b, e)));
                    return Ok((kernel, of_backends.chain(not_in_bulk).collect()));
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

    pub(super) fn try_load(
        options: &Options,
        backend: Backend,
        programs: Programs,
    ) -> Result<Kernel, Refusal> {
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
        table_sizes::prepare(&mut open).map_err(failed("sizing the tables"))?;
        let bio_in_bulk = bio::in_bulk(options, programs);
        let has_ipv6 = backend != Backend::Fentry || has_function("udpv6_sendmsg");
        open.maps.ring.set_max_entries(options.ring_bytes).map_err(failed("sizing the ring"))?;
        let sees_births =
            options.follow && (backend != Backend::Fentry || has_function("calculate_sigpending"));
        let has_mptcp = Path::new("/proc/sys/net/mptcp").exists();
        // Attaching one by one takes long enough anyway. Where bulk attachment is likely to fail, this object is loaded
        // only to be replaced, so less of it is verified.
        let bulk_works = is_since(if options.by_process { (6, 10) } else { (6, 6) });
        let c_at_once = options.has_c && bulk_works || programs == Programs::Session || !programs.in_bulk();
        let choice = Choice { backend, programs, bio_in_bulk, has_ipv6, has_mptcp, sees_births, c_at_once };
        choice.prepare(open.open_object_mut().progs_mut());
        let skeleton = open.load().map_err(Refusal::Backend)?;
        let way = Way {
            programs,
            has_cookie: ProgramType::Kprobe.is_helper_supported(BPF_FUNC_get_attach_cookie).unwrap_or(false),
            without_return_probes: options.avoids_return_probes(),
        };
        let mut kernel = Kernel::new(skeleton, backend, way, choice);
        kernel.attach_own().map_err(Refusal::Backend)?;
        if programs.in_bulk() && !kernel.attaches_in_bulk(options.by_process).unwrap_or(false) {
            return Err(Refusal::Bulk);
        }
        if programs == Programs::Session {
            drop(kernel.attach_to_self("ssl_session", -1).map_err(|_| Refusal::Bulk)?);
        }
        Ok(kernel)
    }

    /// Tries a probe in bulk on a function of our own: whether all threads meet it if it is for one
    /// process, and not only the first (before Linux 6.10, 46ba0e49b642).
    fn attaches_in_bulk(&self, for_one: bool) -> Result<bool, Box<dyn std::error::Error>> {
        let pid = if for_one { i32::try_from(std::process::id())? } else { -1 };
        let program = Job::Trial.programs().next().ok_or("there is no program for it")?;
        let _link = self.attach_to_self(program, pid)?;
        if !for_one {
            return Ok(true);
        }
        std::thread::spawn(|| marker()).join().map_err(|_| "the thread failed")?;
        let seen = &self.skeleton.maps.bss_data.as_deref().ok_or("the object has no variables")?.self_seen;
        // SAFETY: a valid, aligned place in the mapped .bss; the kernel writes it.
        Ok(unsafe { std::ptr::from_ref(seen).read_volatile() } != 0)
    }

    /// Attaches a program in bulk to a function of our own.
    fn attach_to_self(&self, program: &str, pid: i32) -> libbpf_rs::Result<Link> {
        let offset = own_offset(marker as *const () as usize)?;
        let session = program == "ssl_session";
        let options =
            UprobeMultiOpts { offsets: vec![offset as usize], session, ..UprobeMultiOpts::default() };
        self.program(program)?.attach_uprobe_multi_with_opts(pid, Path::new("/proc/self/exe"), "", options)
    }
}

/// Whether one program can see entry and return and choose at each entry (Linux 6.13).
pub fn may_choose_returns() -> bool {
    is_since((6, 13))
}

/// Whether the kernel is of this release or a later one, as its number tells.
fn is_since(since: (u32, u32)) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release).is_some_and(|version| version >= since)
}

/// Whether the kernel itself, without its modules, has this function.
fn has_function(name: &str) -> bool {
    Btf::from_vmlinux().is_ok_and(|btf| btf.type_by_name::<Func<'_>>(name).is_some())
}

/// Whether the kernel refused for lack of a privilege.
pub fn is_denied(error: &libbpf_rs::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

/// The kernel refuses BPF to us (EPERM), which is not the verifier that refuses a program (EACCES).
pub(super) fn is_not_permitted(error: &libbpf_rs::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && has_code(error, libc::EPERM)
}

/// libbpf-rs keeps the number to itself, but prints it.
fn has_code(error: &libbpf_rs::Error, code: i32) -> bool {
    format!("{error:#}").contains(&format!("(os error {code})"))
}

/// Why a back end does not work where others do.
pub(super) fn why_missing(backend: Backend, error: &libbpf_rs::Error) -> String {
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
pub(super) fn own_pid_namespace() -> u32 {
    /// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
    const INITIAL: u64 = 0xEFFF_FFFC;
    let inode = std::fs::metadata("/proc/self/ns/pid").map_or(INITIAL, |m| m.ino());
    if inode == INITIAL { 0 } else { inode as u32 }
}
