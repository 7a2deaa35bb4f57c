//! What doctor found. Its JSON is this, field by field: docs/doctor.md tells what each means.

use serde::Serialize;

/// Version of the JSON: fields may be added to it, none change their meaning.
pub const FORMAT: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of tls2pcap.
    pub tls2pcap: &'static str,
    /// Whether a capture would work.
    pub verdict: Conclusion,
    /// Files with TLS code, each once.
    pub libraries: Vec<Library>,
    /// Processes with TLS code, by pid.
    pub processes: Vec<Process>,
    /// Whom this process may not look at.
    pub hidden: Vec<Hidden>,
    /// The kernel.
    pub kernel: Kernel,
    /// What this process may do.
    pub privileges: Privileges,
}

/// See [`Report::verdict`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conclusion {
    /// Whether a capture would start.
    pub works: bool,
    /// The exit status of doctor.
    pub exit: u8,
    /// Why not.
    pub reason: Option<String>,
    /// What would help.
    pub help: Option<String>,
    /// What a capture would not see for lack of a privilege.
    pub warnings: Vec<String>,
}

/// A file with TLS code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Library {
    /// Its place in the list.
    pub id: usize,
    /// Whether it can be probed.
    pub captured: bool,
    /// What its makers call it: `OpenSSL`.
    pub name: String,
    /// As `3.0.17`.
    pub version: Option<String>,
    /// As the process names it.
    pub path: String,
    /// Whether the path no longer leads to it.
    pub deleted: bool,
    /// How it comes into its processes.
    pub linked: Option<Linked>,
    /// What names its functions.
    pub symbols: Option<Symbols>,
    /// What is probed.
    pub functions: Vec<Function>,
    /// The dearest of its reads and writes, once sites on trial are proven.
    pub cost: Option<Cost>,
    /// Why it is not captured.
    pub reason: Option<String>,
    /// What would help.
    pub help: Option<String>,
}

/// See [`Library::linked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Linked {
    /// A library of the system.
    Shared,
    /// A library that came with the program.
    Bundled,
    /// A part of a program, or of a shared object of another name.
    Static,
}

/// See [`Library::symbols`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symbols {
    /// `.dynsym`.
    Dynsym,
    /// `.symtab`.
    Symtab,
    /// `.gnu_debugdata`.
    MiniDebugInfo,
    /// A separate debug file.
    DebugFile,
    /// Go's own table.
    Pclntab,
    /// Nothing: its code.
    Code,
}

/// What a probe costs at each hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// The kernel emulates the instruction.
    Cheap,
    /// Not told by the code.
    Unknown,
    /// The kernel single-steps it, which costs several times more.
    SingleStepped,
}

/// A function that is probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Function {
    /// Its symbol.
    pub name: String,
    /// File offset of the probe.
    pub offset: u64,
    /// Of that probe.
    pub cost: Cost,
    /// What else is known: a better site, or why there is none.
    pub note: Option<String>,
}

/// A process with TLS code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Pid.
    pub pid: u32,
    /// Name of its main thread.
    pub name: String,
    /// Effective user id.
    pub uid: Option<u32>,
    /// That user's name.
    pub user: Option<String>,
    /// Path of the executable.
    pub exe: Option<String>,
    /// The container that it runs in.
    pub container: Option<Container>,
    /// [`Library::id`]s.
    pub libraries: Vec<usize>,
    /// How many of its files could not be opened, so that they may hold TLS code.
    pub unreadable: usize,
}

/// See [`Process::container`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Id.
    pub id: String,
    /// Name, if the runtime tells it.
    pub name: Option<String>,
}

/// Processes that are not in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hidden {
    /// Whose, or why.
    pub reason: &'static str,
    /// What would help.
    pub help: &'static str,
    /// How many; `None`: not even that can be seen.
    pub processes: Option<usize>,
}

/// See [`Report::kernel`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// As `6.12.0`.
    pub release: String,
    /// Whether it tells its types.
    pub btf: bool,
    /// `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<&'static str>,
    /// Of /proc/sys/kernel.
    pub perf_event_paranoid: Option<String>,
    /// The same.
    pub unprivileged_bpf_disabled: Option<String>,
    /// What was found by trying; `None`: it was not permitted to try.
    pub tried: Option<Tried>,
}

/// See [`Kernel::tried`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Name of the back end that a capture takes.
    pub backend: &'static str,
    /// Each back end.
    pub backends: Vec<BackEnd>,
    /// Whether a capture of all processes attaches its probes in bulk.
    pub bulk: bool,
    /// Whether a capture with `-p` does.
    pub bulk_one_process: bool,
    /// Whether programs have attach cookies.
    pub attach_cookies: bool,
    /// What cannot be captured because the kernel does not take its programs.
    pub refused: Vec<Refused>,
    /// Whether programs have `bpf_loop`.
    pub bpf_loop: bool,
    /// Bytes of the longest call that is captured whole, without `--ring-size`.
    pub call_limit: u64,
}

/// See [`Tried::refused`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// A library, or a kind of program.
    pub programs: &'static str,
    /// What the kernel says.
    pub reason: String,
}

/// See [`Tried::backends`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackEnd {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether it works.
    pub works: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// See [`Report::privileges`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// Effective user id.
    pub uid: u32,
    /// Capabilities of use to a capture that this process has.
    pub held: Vec<&'static str>,
    /// Those that it lacks.
    pub missing: Vec<&'static str>,
    /// Whether this is a user namespace, whose root has no power over the kernel.
    pub user_namespace: bool,
    /// Whether a seccomp filter is on this process.
    pub seccomp: bool,
    /// Why it may not trace a process, so that whoever starts a command sees that it has to wait.
    pub no_tracing: Option<String>,
}
