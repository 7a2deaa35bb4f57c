//! How much memory this process may still use, so that a ring that does not fit is refused with a message: the
//! kernel charges a map to the control group of the process that makes it, and kills processes of a group that
//! is at its limit.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// The tightest limit on memory, and what it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Bytes.
    pub left: u64,
    /// What limits, for people.
    pub by: String,
}

/// The tightest limit on memory; `None` if none is known.
pub fn room() -> Option<Headroom> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let mut rooms = Vec::new();
    rooms.extend(of_system(&read(Path::new("/proc/meminfo")).unwrap_or_default()));
    rooms.extend(of_process());
    for line in read(Path::new("/proc/self/cgroup")).unwrap_or_default().lines() {
        rooms.extend(groups(line).iter().filter_map(|group| of_group(group, &read)));
    }
    rooms.into_iter().min_by_key(|room| room.left)
}

fn of_system(meminfo: &str) -> Option<Headroom> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(Headroom { left: kib.saturating_mul(1024), by: "the memory that is free on this machine".into() })
}

fn of_process() -> Option<Headroom> {
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok().filter(|(soft, _)| *soft != libc::RLIM_INFINITY)?;
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').next()?.parse().ok()?;
    let left = limit.saturating_sub(pages.saturating_mul(page_size() as u64));
    Some(Headroom { left, by: "the limit on this process's address space (ulimit -v)".into() })
}

/// The folder of a control group and those above it, of a line of /proc/self/cgroup: of version 2, or of memory.
fn groups(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (Some(number), Some(what), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let roots: &[&str] = match (number, what) {
        ("0", "") => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
        (_, what) if what.split(',').any(|what| what == "memory") => &["/sys/fs/cgroup/memory"],
        _ => return Vec::new(),
    };
    let group = Path::new(path.trim_start_matches('/'));
    roots.iter().flat_map(|root| group.ancestors().map(|group| Path::new(root).join(group))).collect()
}

/// Of one group, in the files of either version.
fn of_group(group: &Path, read: &impl Fn(&Path) -> Option<String>) -> Option<Headroom> {
    let number = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
    let (limit, used) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?),
        None => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?),
    };
    let stat = read(&group.join("memory.stat")).unwrap_or_default();
    // The kernel drops cached files before it kills. Version 1 counts those of child groups separately.
    let cached = |name: &str| {
        let of =
            |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        of(&format!("total_{name} ")).or_else(|| of(&format!("{name} "))).unwrap_or(0)
    };
    let used = used.saturating_sub(cached("inactive_file")).saturating_sub(cached("active_file"));
    Some(Headroom {
        left: limit.saturating_sub(used),
        by: format!("the memory limit of the control group {}", group.display()),
    })
}

/// Size of a memory page in bytes: of the smallest ring.
pub fn page_size() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_and_those_above() {
        let paths = |line| groups(line).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        let v2 = paths("0::/a/b");
        assert!(
            ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"]
                .iter()
                .all(|p| v2.contains(&(*p).into())),
            "{v2:?}"
        );
        assert_eq!(paths("4:cpu,memory:/x"), ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory/"]);
        assert!(paths("3:cpuset:/x").is_empty() && paths("nonsense").is_empty());
    }

    #[test]
    fn what_a_group_leaves() {
        let room = |files: &'static [(&str, &str)]| {
            let read = |path: &Path| {
                let name = path.file_name()?.to_str()?;
                files.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_owned())
            };
            of_group(Path::new("/g"), &read).map(|room| room.left)
        };
        const MAX: (&str, &str) = ("memory.max", "100\n");
        assert_eq!(
            room(&[MAX, ("memory.current", "70\n"), ("memory.stat", "inactive_file 20\nactive_file 10\n")]),
            Some(60)
        );
        assert_eq!(room(&[("memory.max", "max\n"), ("memory.current", "70\n")]), None);
        assert_eq!(
            room(&[
                ("memory.limit_in_bytes", "100"),
                ("memory.usage_in_bytes", "150"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 9\n"),
            ]),
            Some(0)
        );
        assert_eq!(
            of_system("MemFree: 1 kB\nMemAvailable:   2048 kB\n").map(|room| room.left),
            Some(2 << 20)
        );
        assert_eq!(of_system(""), None);
    }
}
