//! From what the user asked for to what a capture needs: the kernel side, libraries, files.

use std::ffi::OsString;
use std::io;

use super::Say;
use super::not_captured::NotCaptured;
use super::target_pids::no_process;
use crate::config::{self, Capture, Follow, Targets, Verbosity};
use crate::discover::process::{self, processes};
use crate::discover::{Discovery, Found, InProcess};
use crate::event::numbers;
use crate::event::{SORT_TIME, SORT_TIME_LIVE, Start};
use crate::failure::{Exit, Failure};
use crate::memory::{self, Headroom};
use crate::probe::{Backend, Options, Probe, ProbeError, monotonic};
use crate::{extcap, printable, privilege};

/// Default size of the ring, and that on machines with little memory.
const RING_BYTES: u32 = 64 << 20;
const RING_BYTES_SMALL: u32 = 16 << 20;
/// Less memory than this, in bytes, is little.
const MEMORY_SMALL: u64 = 4 << 30;
/// By default the ring takes no more than this part of the available memory, but at least this many bytes.
const RING_SHARE: u64 = 8;
const RING_BYTES_LEAST: u64 = 1 << 20;
/// What a capture uses beside the ring: tables in the kernel, programs, the hand-over.
const MEMORY_BESIDE: u64 = 64 << 20;
/// Bytes of one call that are captured. Half of the ring at most: see [`call_limit`].
const CALL_LIMIT: u64 = numbers::CALL_MAX;

/// `found`: what is to be probed first of all.
pub(super) fn load(config: &Capture, found: &[(Option<u32>, Found)]) -> Result<Probe, Failure> {
    let ring_bytes = ring_for(config.ring_size, memory::room())?;
    let options = Options {
        backend: match config.backend {
            config::Backend::Auto => None,
            config::Backend::Kprobe => Some(Backend::Kprobe),
            config::Backend::Fentry => Some(Backend::Fentry),
            config::Backend::Tracepoint => Some(Backend::Tracepoint),
        },
        targets_only: config.targets.are_processes(),
        uids: match &config.targets {
            Targets::Users(uids) => uids.clone(),
            _ => Vec::new(),
        },
        by_process: config.targets.are_processes(),
        follow: config.targets.are_followed(),
        call_limit: call_limit(ring_bytes),
        snaplen: config.snaplen,
        ring_bytes,
        wake_for_each: config.packet_buffered,
        return_probes: config.return_probes,
        has_c: found.iter().any(|(_, found)| found.library.family.is_some()),
        verbose: config.verbosity == Verbosity::Verbose,
    };
    Probe::load(&options).map_err(|error| refusal(&error))
}

/// What to report if the kernel side cannot run.
pub(crate) fn refusal(error: &ProbeError) -> Failure {
    match error {
        ProbeError::NoBtf => Failure::new(
            Exit::Kernel,
            error.to_string(),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, like those of all current distributions",
        ),
        ProbeError::NotPermitted(_) => {
            Failure::new(Exit::NotPermitted, error.to_string(), "run it with sudo")
        }
        ProbeError::NoBackend(_) => Failure::new(Exit::Kernel, error.to_string(), ""),
        ProbeError::BackendMissing { others, .. } => Failure::new(
            Exit::Kernel,
            error.to_string(),
            format!("leave --backend out, or choose one that works here: {others}"),
        ),
        ProbeError::Failed(..) => Failure::new(Exit::Kernel, error.to_string(), ""),
    }
}

/// Bytes of the longest call that is captured whole, with the default ring.
pub(crate) fn longest_call(has_loop: bool) -> u64 {
    /// What the programs copy without `bpf_loop`.
    const UNROLLED: u64 = numbers::CHUNKS_UNROLLED * numbers::CHUNK_MAX;
    if has_loop { call_limit(ring_bytes()) } else { UNROLLED }
}

fn ring_bytes() -> u32 {
    let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
    if memory < MEMORY_SMALL { RING_BYTES_SMALL } else { RING_BYTES }
}

/// The size of the ring that is `wanted`, or one that fits.
fn ring_for(wanted: Option<u32>, room: Option<Headroom>) -> Result<u32, Failure> {
    let Some(wanted) = wanted else {
        let fitting = room.map_or(u64::MAX, |room| room.left / RING_SHARE).max(RING_BYTES_LEAST);
        // A power of two that is not above it; the default is one, and small enough.
        let fitting = 1u64 << (u64::BITS - 1 - fitting.leading_zeros());
        return Ok(u32::try_from(fitting).unwrap_or(u32::MAX).min(ring_bytes()));
    };
    match room {
        Some(room) if u64::from(wanted).saturating_add(MEMORY_BESIDE) > room.left => Err(Failure::new(
            Exit::Io,
            format!(
                "a ring buffer of {} MiB does not fit: {} leaves {} MiB, and {} are needed beside it",
                wanted.div_ceil(1 << 20),
                room.by,
                room.left >> 20,
                MEMORY_BESIDE >> 20
            ),
            "use a smaller --ring-size, or raise that limit",
        )),
        _ => Ok(wanted),
    }
}

/// A call is read in one go when it returns, so it must fit into the ring.
fn call_limit(ring_bytes: u32) -> u64 {
    CALL_LIMIT.min(u64::from(ring_bytes) / 2).max(1 << 20)
}

/// The libraries to probe from the start, those of -p with their process. `tree`: see there.
pub(super) fn libraries(
    config: &Capture,
    tree: &[u32],
    discovery: &mut Discovery,
    say: &Say,
    not_captured: &mut NotCaptured,
) -> Result<Vec<(Option<u32>, Found)>, Failure> {
    let mut all = Vec::new();
    for path in &config.libraries {
        let found = privilege::as_user(|| discovery.at(path)).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("--lib {}: {error}", path.display()),
                "name a library with the functions of OpenSSL, GnuTLS or NSS, a program that contains one, or a Go program",
            )
        })?;
        match &config.targets {
            Targets::Pids { .. } => all.extend(tree.iter().map(|pid| (Some(*pid), found.clone()))),
            _ => all.push((None, found)),
        }
    }
    match &config.targets {
        Targets::Pids { pids, follow } => {
            let (mut without, mut texts) = (Vec::new(), Vec::new());
            for pid in tree {
                let InProcess { found, unprobed, .. } = match of_pid(*pid, discovery) {
                    // A child may have ended since the tree was read.
                    Err(_) if !pids.contains(pid) => continue,
                    looked => looked?,
                };
                let new = unprobed.iter().filter_map(|(path, why)| not_captured.remember(*pid, path, why));
                texts.extend(new);
                if found.is_empty() && pids.contains(pid) {
                    without.push(pid.to_string());
                }
                found.iter().for_each(|found| not_captured.library(&found.path, false));
                all.extend(found.into_iter().map(|found| (Some(*pid), found)));
            }
            // Of a tree, as of a shell, more is to come.
            if all.is_empty() && *follow != Follow::Tree {
                let texts: Vec<String> = texts.iter().map(|text| format!("; {text}")).collect();
                return Err(no_library(&without, &texts.concat()));
            }
            texts.iter().for_each(|text| not_captured.say(text));
            if config.libraries.is_empty() {
                for pid in without {
                    say.warn(&format!("process {pid} has no TLS library; it is captured if it loads one"));
                }
            }
        }
        // Each of its processes waits when it maps a file that was not inspected yet.
        Targets::Command(_) => {}
        Targets::Everything | Targets::Users(_) => {
            let mut found = discovery.installed();
            for pid in processes() {
                // Processes may end meanwhile.
                found.extend(discovery.libraries_of(pid, None).map(|p| p.found).unwrap_or_default());
            }
            all.extend(found.into_iter().map(|found| (None, found)));
        }
    }
    Ok(all)
}

/// The processes of -p, first those that were given, then the children that are captured with them from the start.
pub(super) fn tree(targets: &Targets) -> Vec<u32> {
    match targets {
        Targets::Pids { pids, follow: Follow::Tree } => [&pids[..], &process::descendants(pids)].concat(),
        Targets::Pids { pids, .. } => pids.clone(),
        _ => Vec::new(),
    }
}

/// Which children of these processes talk TLS, it seems, and are left out by `-p` alone.
pub(crate) fn children_left_out(pids: &[u32], discovery: &mut Discovery) -> Option<String> {
    /// Most that are inspected, and named.
    const LOOKED_AT: usize = 64;
    const NAMED: usize = 5;
    let mut children = process::descendants(pids);
    children.truncate(LOOKED_AT);
    children.retain(|pid| discovery.libraries_of(*pid, None).is_ok_and(|found| !found.found.is_empty()));
    let count = if children.len() > 1 { "children" } else { "a child" };
    let who = match pids {
        [pid] => format!("process {pid} has"),
        _ => "the processes of -p have".into(),
    };
    let more = if children.len() > NAMED { ", …" } else { "" };
    children.truncate(NAMED);
    let name = |pid: &u32| format!("{}[{pid}]", printable::line(&process::name(*pid).unwrap_or_default()));
    let named: Vec<String> = children.iter().map(name).collect();
    (!named.is_empty()).then(|| {
        format!("{who} {count} with a TLS library, captured only with --follow: {}{more}", named.join(", "))
    })
}

/// Waiting for a library that may never be loaded would look like a working capture.
fn no_library(pids: &[String], reasons: &str) -> Failure {
    let (who, has) = if pids.len() == 1 { ("process", "has") } else { ("processes", "have") };
    Failure::new(
        Exit::NoTarget,
        format!(
            "{who} {} {has} no known TLS library (OpenSSL, BoringSSL, AWS-LC, GnuTLS, NSS, Go, rustls){reasons}",
            pids.join(", ")
        ),
        "if it loads one later, start it under the capture: tls2pcap -o FILE -- COMMAND\n\
         if it has one elsewhere, name that library or program: --lib PATH\n\
         if programs that it runs have one: --follow",
    )
}

fn of_pid(pid: u32, discovery: &mut Discovery) -> Result<InProcess, Failure> {
    let hidden = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let may_look = || match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Err(error) if hidden(&error) => Err(error),
        _ => Ok(()),
    };
    // To processes without permission some kernels show no mappings, rather than an error.
    match may_look().and_then(|()| discovery.libraries_of(pid, None)) {
        Ok(in_process) => Ok(in_process),
        Err(error) if !process::is_gone(pid) => Err(Failure::new(
            Exit::NotPermitted,
            format!("the mappings of process {pid} cannot be read: {error}"),
            "run it with sudo",
        )),
        Err(_) => Err(no_process(pid)),
    }
}

pub(super) fn start(config: &Capture, probe: &Probe, live: bool) -> Start {
    let (os, hardware) = machine();
    Start {
        application: concat!("tls2pcap ", env!("CARGO_PKG_VERSION")).into(),
        os,
        hardware,
        command_line: command_line(config),
        backend: probe.backend().to_string(),
        show_args: config.show_args,
        time: monotonic(),
        sort_time: match (config.packet_buffered, live) {
            (true, _) => 0,
            (false, true) => SORT_TIME_LIVE,
            (false, false) => SORT_TIME,
        },
    }
}

/// The command line as written in the file: the arguments of the command only if requested.
fn command_line(config: &Capture) -> String {
    let args: Vec<OsString> = std::env::args_os().collect();
    if extcap::is_call(&args) {
        return extcap::shown(&args);
    }
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let own = match &config.targets {
        Targets::Command(command) if !config.show_args => args.len() - command.len() + 1,
        _ => args.len(),
    };
    let mut line = args[..own.min(args.len())].join(" ");
    if own < args.len() {
        line.push_str(" …");
    }
    line
}

fn machine() -> (String, String) {
    let Ok(name) = nix::sys::utsname::uname() else { return Default::default() };
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    (format!("{} {}", text(name.sysname()), text(name.release())), text(name.machine()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_fits_or_is_refused_with_the_figures() {
        let room = |mib: u64| Some(Headroom { left: mib << 20, by: "the limit".into() });
        assert_eq!(ring_for(None, room(100)), Ok(8 << 20));
        assert_eq!(ring_for(None, room(2)), Ok(1 << 20));
        assert_eq!(ring_for(None, room(1 << 20)), Ok(ring_bytes()));
        assert_eq!(ring_for(None, None), Ok(ring_bytes()));
        assert_eq!(ring_for(Some(4 << 20), room(100)), Ok(4 << 20));
        assert_eq!(ring_for(Some(1 << 30), None), Ok(1 << 30));
        let refused = ring_for(Some(1 << 30), room(1000)).unwrap_err().to_string();
        assert!(refused.contains("1024 MiB does not fit: the limit leaves 1000 MiB"), "{refused}");
    }
}
