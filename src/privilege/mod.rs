//! What this process may do, and on whose behalf it runs.

mod capabilities;
mod program;
mod survey;
mod user;

use std::fs;

pub use self::capabilities::{as_user, lower, raise};
pub use self::program::Rights;
pub use self::survey::{Survey, survey};
pub use self::user::{User, give_to, invoking_user, user_id};

use crate::failure::{Exit, Failure};

/// First kernel with what every part needs: the ring buffer and CAP_BPF.
const OLDEST_KERNEL: (u32, u32) = (5, 8);

/// First kernel that can probe one process in bulk.
const BULK_BY_PROCESS: (u32, u32) = (6, 10);

/// A capability, by its bit in `CapEff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capability {
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

impl Capability {
    fn name(self) -> &'static str {
        match self {
            Capability::SysPtrace => "cap_sys_ptrace",
            Capability::SysAdmin => "cap_sys_admin",
            Capability::SysResource => "cap_sys_resource",
            Capability::Perfmon => "cap_perfmon",
            Capability::Bpf => "cap_bpf",
            Capability::CheckpointRestore => "cap_checkpoint_restore",
        }
    }
}

/// What a program file needs so that whoever may run it can capture all processes. Kernels whose bulk
/// attachment cannot be limited to a process need CAP_SYS_ADMIN for single probes, and before 5.11 BPF
/// memory counts as locked.
fn wanted(kernel: Option<(u32, u32)>) -> Vec<Capability> {
    use Capability::*;
    let mut wanted = vec![Bpf, Perfmon, SysPtrace, CheckpointRestore];
    let before = |version| kernel.is_some_and(|kernel| kernel < version);
    wanted.extend(before(BULK_BY_PROCESS).then_some(SysAdmin));
    wanted.extend(before((5, 11)).then_some(SysResource));
    wanted
}

/// How far the kernel protects itself from root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lockdown {
    None,
    Integrity,
    Confidentiality,
    /// securityfs is not mounted, or the kernel has no lockdown.
    Unknown,
}

/// What the judgement rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    root: bool,
    capabilities: u64,
    user_namespace: bool,
    lockdown: Lockdown,
    btf: bool,
    /// `None`: the release could not be understood.
    kernel: Option<(u32, u32)>,
    release: String,
}

/// The capture may start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// What will not be seen for lack of a privilege, and how to get it.
    pub warnings: Vec<String>,
}

/// Whether this process may capture on this kernel.
///
/// # Errors
/// A [`Failure`] that names what is missing, and the cure.
pub fn check() -> Result<Allowed, Failure> {
    judge(&Facts::read())
}

impl Facts {
    fn read() -> Facts {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Facts {
            root: nix::unistd::geteuid().is_root(),
            capabilities: effective(&read("/proc/self/status")),
            user_namespace: in_user_namespace(&read("/proc/self/uid_map")),
            lockdown: lockdown(&read("/sys/kernel/security/lockdown")),
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            kernel: version(&release),
            release,
        }
    }

    fn has(&self, capability: Capability) -> bool {
        self.capabilities & 1 << capability as u32 != 0
    }
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// In the initial user namespace every id stands for itself.
fn in_user_namespace(uid_map: &str) -> bool {
    let fields: Vec<&str> = uid_map.split_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

/// `none [integrity] confidentiality`: the one in brackets holds.
fn lockdown(text: &str) -> Lockdown {
    match text.split_whitespace().find(|word| word.starts_with('[')) {
        Some("[none]") => Lockdown::None,
        Some("[integrity]") => Lockdown::Integrity,
        Some("[confidentiality]") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

/// Whether this kernel can probe one process in bulk, as far as its release tells.
pub(crate) fn has_bulk_by_process() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release).is_some_and(|kernel| kernel >= BULK_BY_PROCESS)
}

/// Major and minor number of a kernel's release: `6.1.0-56-cloud-amd64` is (6, 1).
pub(crate) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn judge(facts: &Facts) -> Result<Allowed, Failure> {
    use Capability::*;

    // A release that is not understood is left to the attempt itself.
    if facts.kernel.is_some_and(|kernel| kernel < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        return Err(Failure::new(
            Exit::Kernel,
            format!("kernel {} is too old: it has no BPF ring buffer", facts.release),
            format!("use kernel {major}.{minor} or later"),
        ));
    }
    let admin = facts.has(SysAdmin);
    let missing: Vec<_> =
        [Bpf, Perfmon].into_iter().filter(|c| !admin && !facts.has(*c)).map(Capability::name).collect();
    if !missing.is_empty() {
        let wanted = wanted(facts.kernel).into_iter().map(Capability::name).collect::<Vec<_>>().join(",");
        let cure = if facts.root {
            "root lacks these capabilities here, as in a container: start it with --privileged --pid=host, or run tls2pcap on the host"
                .to_owned()
        } else {
            format!(
                "run it with sudo; or give the program these capabilities: {wanted}\n`tls2pcap wireshark status` says how, for Wireshark and for a group"
            )
        };
        return Err(Failure::new(
            Exit::NotPermitted,
            format!("capturing is not permitted; missing: {}", missing.join(", ")),
            cure,
        ));
    }
    if facts.user_namespace {
        return Err(Failure::new(
            Exit::NotPermitted,
            "this is root only inside a user namespace (a rootless container): the kernel does not allow it probes",
            "run tls2pcap on the host, as root",
        ));
    }
    if facts.lockdown == Lockdown::Confidentiality {
        return Err(Failure::new(
            Exit::NotPermitted,
            "the kernel is locked down (lockdown=confidentiality): it lets no process read the memory of programs",
            "boot with lockdown=integrity or without lockdown; some kernels turn it on with Secure Boot",
        ));
    }
    if !facts.btf {
        return Err(Failure::new(
            Exit::Kernel,
            "the kernel does not describe its types: /sys/kernel/btf/vmlinux is missing",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as current distributions have it; in a container, mount /sys",
        ));
    }
    let mut warnings = Vec::new();
    if !admin && !facts.has(SysPtrace) {
        warnings.push("without cap_sys_ptrace, libraries in other users' processes are not found".to_owned());
    }
    if !admin && !facts.has(CheckpointRestore) {
        warnings.push("without cap_checkpoint_restore, libraries replaced on disk since their process started are not found".to_owned());
    }
    if !admin && facts.kernel.is_some_and(|kernel| kernel < BULK_BY_PROCESS) {
        warnings.push("without cap_sys_admin, which single probes need before Linux 6.10, -p does not work, and connections of programs that encrypt into memory (Node, asyncio) get synthetic addresses".to_owned());
    }
    Ok(Allowed { warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Facts {
        Facts {
            root: true,
            capabilities: 0x1ff_ffff_ffff,
            user_namespace: false,
            lockdown: Lockdown::Integrity,
            btf: true,
            kernel: Some((6, 1)),
            release: "6.1.0".into(),
        }
    }

    fn with(list: &[Capability]) -> u64 {
        list.iter().map(|c| 1 << *c as u32).sum()
    }

    #[test]
    fn each_lack_has_its_exit_status_and_names_itself() {
        use Capability::*;
        let user = Facts { root: false, capabilities: 0, ..root() };
        let cases = [
            (Facts { kernel: Some((5, 7)), release: "5.7.1".into(), ..root() }, Exit::Kernel, "5.7.1"),
            (user.clone(), Exit::NotPermitted, "missing: cap_bpf, cap_perfmon"),
            (user.clone(), Exit::NotPermitted, "sudo"),
            (
                Facts { capabilities: with(&[Bpf]), ..user.clone() },
                Exit::NotPermitted,
                "missing: cap_perfmon",
            ),
            (Facts { capabilities: 0, ..root() }, Exit::NotPermitted, "container"),
            (Facts { user_namespace: true, ..root() }, Exit::NotPermitted, "user namespace"),
            (
                Facts { lockdown: Lockdown::Confidentiality, ..root() },
                Exit::NotPermitted,
                "lockdown=integrity",
            ),
            (Facts { btf: false, ..root() }, Exit::Kernel, "CONFIG_DEBUG_INFO_BTF"),
        ];
        for (facts, exit, text) in cases {
            let failure = judge(&facts).unwrap_err();
            assert_eq!(failure.exit, exit, "{facts:?}");
            assert!(failure.to_string().contains(text), "{failure}");
        }
        assert_eq!(judge(&root()), Ok(Allowed::default()));
        assert_eq!(
            judge(&Facts { kernel: None, lockdown: Lockdown::Unknown, ..root() }),
            Ok(Allowed::default())
        );
        let few = Facts { capabilities: with(&[Bpf, Perfmon]), ..user.clone() };
        let warnings = judge(&few).unwrap().warnings;
        assert_eq!(warnings.len(), 3);
        assert!(
            warnings[2].contains("without cap_sys_admin") && warnings[2].contains("synthetic"),
            "{warnings:?}"
        );
        let later = Facts { kernel: Some(BULK_BY_PROCESS), ..few.clone() };
        assert_eq!(judge(&later).unwrap().warnings, warnings[..2]);
        let old_way = Facts { capabilities: with(&[SysAdmin]), ..user };
        assert_eq!(judge(&old_way), Ok(Allowed::default()));
    }

    #[test]
    fn files_of_proc_and_sys() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\t0\nCapEff:\t000000c000000000\n"),
            with(&[Capability::Perfmon, Capability::Bpf])
        );
        assert_eq!(effective("CapEff:\tz"), 0);
        assert_eq!(lockdown("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(lockdown("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        assert_eq!(lockdown(""), Lockdown::Unknown);
        assert!(!in_user_namespace("         0          0 4294967295\n"));
        assert!(in_user_namespace("0 1000 1\n"));
        assert!(in_user_namespace("0 0 4294967295\n1 1 1"));
        assert!(!in_user_namespace(""));
        for (release, expected) in [
            ("6.1.0-56-cloud-amd64", Some((6, 1))),
            ("5.10", Some((5, 10))),
            ("7.3.4+deb13", Some((7, 3))),
            ("x", None),
            ("6", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
