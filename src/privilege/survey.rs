//! What doctor shows of privileges.

use std::fs;

use super::{Capability, Facts, Lockdown, wanted};

/// Privileges of this process, and what the kernel grants on top of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Effective user id.
    pub uid: u32,
    /// Capabilities that a capture uses, and whether this process has them.
    pub capabilities: Vec<(&'static str, bool)>,
    /// Not in the initial user namespace: its root has no power over the kernel.
    pub user_namespace: bool,
    /// `none`, `integrity`, `confidentiality`; `None`: not told.
    pub lockdown: Option<&'static str>,
    /// Whether a seccomp filter is on this process, which may refuse system calls.
    pub seccomp: bool,
    /// Release of the kernel.
    pub release: String,
    /// Whether the kernel tells its types.
    pub btf: bool,
    /// Files of /proc/sys/kernel and what stands in them.
    pub settings: Vec<(&'static str, String)>,
}

/// Asks /proc.
pub fn survey() -> Survey {
    use Capability::*;
    let facts = Facts::read();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // CAP_SYS_ADMIN, the old way, stands for those that were taken out of it.
    let has = |c| facts.has(c) || facts.has(SysAdmin) && matches!(c, Bpf | Perfmon | CheckpointRestore);
    let settings = ["perf_event_paranoid", "unprivileged_bpf_disabled"];
    Survey {
        uid: nix::unistd::geteuid().as_raw(),
        capabilities: wanted(facts.kernel).into_iter().map(|c| (c.name(), has(c))).collect(),
        user_namespace: facts.user_namespace,
        lockdown: match facts.lockdown {
            Lockdown::None => Some("none"),
            Lockdown::Integrity => Some("integrity"),
            Lockdown::Confidentiality => Some("confidentiality"),
            Lockdown::Unknown => None,
        },
        seccomp: status
            .lines()
            .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| !matches!(mode.trim(), "" | "0"))),
        release: facts.release,
        btf: facts.btf,
        settings: settings
            .into_iter()
            .filter_map(|name| {
                let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
                Some((name, text.trim().to_owned()))
            })
            .collect(),
    }
}
