//! What /proc tells of processes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use super::container::Container;
use crate::event::ProcessFacts;

/// Longest command line that is read, in bytes.
const ARGS_MAX: u64 = 64 << 10;
/// Bytes of /proc/PID/status that are read.
const STATUS_MAX: u64 = 4 << 10;
/// Longest /proc/PID/cgroup that is read, in bytes.
const CGROUP_MAX: u64 = 64 << 10;

/// Pids of all processes in this pid namespace.
pub fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The children of these processes, and theirs.
pub fn descendants(of: &[u32]) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = text(&read(pid, "stat", STATUS_MAX));
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        Some((pid, parent))
    };
    let parents: Vec<(u32, u32)> = processes().into_iter().filter_map(parent).collect();
    let mut all = of.to_vec();
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        at += 1;
        let children = parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child);
        let new: Vec<u32> = children.filter(|child| !all.contains(child)).collect();
        all.extend(new);
    }
    all.split_off(of.len())
}

/// Name that the process has given itself; `None` if it is gone.
pub fn name(pid: u32) -> Option<String> {
    let name = read(pid, "comm", 64);
    let name = name.strip_suffix(b"\n")?;
    Some(text(name))
}

/// The process that a thread belongs to, if that has another number.
pub fn process_of_thread(tid: u32) -> Option<u32> {
    let status = text(&read(tid, "status", STATUS_MAX));
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())?;
    (process != tid).then_some(process)
}

/// Path of the executable, arguments and container; what cannot be read stays empty. Arguments
/// end at 64 KiB.
pub fn process_facts(pid: u32) -> ProcessFacts {
    let exe = executable(pid).ok().flatten();
    let args = read(pid, "cmdline", ARGS_MAX);
    let args = args.strip_suffix(b"\0").unwrap_or(&args);
    let args = if args.is_empty() { Vec::new() } else { args.split(|b| *b == 0).map(text).collect() };
    ProcessFacts { exe, args, container: container(pid).map(|container| container.text()) }
}

/// The container that a process runs in.
pub fn container(pid: u32) -> Option<Container> {
    let id = container_of(&text(&read(pid, "cgroup", CGROUP_MAX)))?;
    // In a container that sees the pids of its host, the host's files are those of the first process.
    Some(Container::find(id, &[Path::new("/proc/1/root"), Path::new("/")]))
}

/// Path of the executable; `None` for threads of the kernel.
///
/// # Errors
/// If the process is gone, or this one may not look into it.
pub fn executable(pid: u32) -> io::Result<Option<String>> {
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => {
            let path = path.to_string_lossy();
            Ok(Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()))
        }
        // A thread of the kernel has a folder, and no program.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && Path::new(&format!("/proc/{pid}/stat")).exists() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the process has ended, or has no program any more because it is about to.
pub fn is_gone(pid: u32) -> bool {
    match executable(pid) {
        Ok(exe) => exe.is_none() && !is_kernel_thread(&text(&read(pid, "stat", STATUS_MAX))),
        Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// By the text of /proc/PID/stat.
fn is_kernel_thread(stat: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let flags = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

fn read(pid: u32, name: &str, max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/{name}")) {
        // A process that ends meanwhile leaves what was read so far.
        let _ = file.take(max).read_to_end(&mut bytes);
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Container id in the text of /proc/PID/cgroup: 64 hexadecimal digits for Docker, containerd,
/// Podman and CRI-O (also under Kubernetes), the name for LXC and systemd-nspawn.
fn container_of(cgroup: &str) -> Option<String> {
    // Lines are `hierarchy:controllers:path`; the deepest container of the first line that has one.
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(|path| {
        let parts: Vec<&str> = path.split('/').collect();
        parts.iter().rev().find_map(|part| hexadecimal_id(part)).or_else(|| named(&parts))
    })
}

/// `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-ID.scope`,
/// `kubepods-…:cri-containerd:ID`, `ID` with a suffix for a payload (`libpod-payload-ID`).
fn hexadecimal_id(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".service")).unwrap_or(part);
    // CRI-O's and Podman's monitors are no containers.
    if part.contains("conmon") {
        return None;
    }
    let id = part.rsplit(['-', ':']).next()?;
    (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

fn named(parts: &[&str]) -> Option<String> {
    parts.iter().enumerate().rev().find_map(|(at, part)| {
        let name = match at.checked_sub(1).map(|before| parts[before]) {
            Some("lxc" | "lxc.payload") => part,
            _ => part.strip_prefix("lxc.payload.").or_else(|| {
                let unit = part.strip_suffix(".service").or_else(|| part.strip_suffix(".scope"))?;
                unit.strip_prefix("systemd-nspawn@").or_else(|| unit.strip_prefix("machine-"))
            })?,
        };
        (!name.is_empty()).then(|| name.replace("\\x2d", "-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_by_cgroup() {
        let id = "4f5e6d7c8b9a4f5e6d7c8b9a4f5e6d7c8b9a4f5e6d7c8b9a4f5e6d7c8b9a4f5e";
        let cases = [
            ("0::/\n".to_owned(), None),
            ("0::/user.slice/user-1000.slice/session-2.scope\n".to_owned(), None),
            ("0::/system.slice/nginx.service".to_owned(), None),
            (format!("0::/system.slice/docker-{id}.scope"), Some(id)),
            (format!("12:cpu:/docker/{id}\n0::/x"), Some(id)),
            (format!("1:name=systemd:/\n0::/docker/{id}/init.scope"), Some(id)),
            (format!("0::/docker/0{}/docker/{id}", &id[1..]), Some(id)),
            (format!("0::/kubepods/besteffort/pod0a-1b/{id}"), Some(id)),
            (format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), Some(id)),
            (
                format!(
                    "0::/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{id}"
                ),
                Some(id),
            ),
            (format!("0::/kubepods.slice/crio-{id}.scope"), Some(id)),
            (format!("0::/kubepods.slice/crio-conmon-{id}.scope"), None),
            (format!("0::/machine.slice/libpod-{id}.scope/container"), Some(id)),
            (
                format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
                Some(id),
            ),
            ("0::/lxc/web1/system.slice/ssh.service".to_owned(), Some("web1")),
            ("0::/lxc.payload.web1/system.slice".to_owned(), Some("web1")),
            ("0::/lxc.monitor.web1".to_owned(), None),
            ("0::/machine.slice/systemd-nspawn@web1.service/payload".to_owned(), Some("web1")),
            (r"0::/machine.slice/machine-web\x2d1.scope".to_owned(), Some("web-1")),
            ("0::/lxc/".to_owned(), None),
            ("rubbish\n:\n::".to_owned(), None),
        ];
        for (cgroup, container) in &cases {
            assert_eq!(container_of(cgroup).as_deref(), *container, "{cgroup}");
        }
    }

    #[test]
    fn who_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // SAFETY: a place for what is told, of a child that is not reaped.
        unsafe {
            let mut told = std::mem::zeroed();
            let ended = libc::waitid(libc::P_PID, child.id(), &mut told, libc::WEXITED | libc::WNOWAIT);
            assert_eq!(ended, 0);
        }
        assert!(is_gone(child.id()), "a zombie");
        child.wait().unwrap();
        assert!(is_gone(child.id()));
        assert!(!is_gone(std::process::id()));
        assert!(is_kernel_thread("2 (kthr) x) S 0 0 0 0 -1 2129984 0 0"));
        assert!(!is_kernel_thread("2 (sh) S 0 0 0 0 -1 4194304 0 0") && !is_kernel_thread(""));
    }

    #[test]
    fn facts_of_this_process_and_of_none() {
        let facts = process_facts(std::process::id());
        let own = std::env::current_exe().unwrap();
        assert_eq!(facts.exe.as_deref(), own.to_str());
        assert_eq!(facts.args, std::env::args().collect::<Vec<_>>());
        assert!(processes().contains(&std::process::id()));
        // Larger than any pid that Linux gives.
        assert_eq!(process_facts(u32::MAX), ProcessFacts::default());
    }
}
