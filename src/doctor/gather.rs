//! Looks at processes.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};

use super::report::{Container, Cost, Function, Hidden, Library, Linked, Process, Symbols};
use crate::discover::code;
use crate::discover::elf::NamedBy;
use crate::discover::function::{self, Family};
use crate::discover::go::NotGo;
use crate::discover::reason::NotTls;
use crate::discover::{Discovery, Found, InProcess, has_known_name, process};
use crate::failure::{Exit, Failure};
use crate::probe;

/// Where distributions put libraries; the folder of a multiarch name in them counts too.
const FOLDERS: [&str; 6] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"];
/// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    pub libraries: Vec<Library>,
    pub processes: Vec<Process>,
    pub hidden: Vec<Hidden>,
    /// Of the processes that were asked for, those that are not there.
    gone: Vec<u32>,
    /// The same, those that are threads, with their process.
    threads: Vec<(u32, u32)>,
    numbers: HashMap<Library, usize>,
    users: HashMap<u32, Option<String>>,
}

/// Looks at these processes, or at all.
pub(super) fn processes(pids: &[u32]) -> Seen {
    let mut seen = Seen::default();
    let mut discovery = Discovery::default().explaining();
    let all = pids.is_empty();
    let mut wanted = if all { process::processes() } else { pids.to_vec() };
    wanted.sort_unstable();
    let (mut others, mut protected) = (0, 0);
    // Its own libraries are of no interest, unless somebody asks.
    for pid in wanted.into_iter().filter(|pid| !all || *pid != std::process::id()) {
        if let (false, Some(process)) = (all, process::process_of_thread(pid)) {
            seen.threads.push((pid, process));
            continue;
        }
        match look(pid, &mut discovery) {
            Ok(Some((exe, in_process))) => seen.add(pid, exe, &in_process, !all),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                *(if uid_of(pid) == Some(geteuid().as_raw()) { &mut protected } else { &mut others }) += 1;
            }
            Err(_) => seen.gone.push(pid),
        }
    }
    // Root is refused by what stands above it, and sudo is no cure for that.
    let help = if geteuid().is_root() {
        "even root may not (cap_sys_ptrace, a security module)"
    } else {
        "run it with sudo"
    };
    let hidden = [
        (others, "of other users", help),
        (protected, "protected from inspection (setuid, not dumpable)", help),
    ];
    seen.hidden = hidden
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, reason, help)| Hidden { reason, help, processes: Some(count) })
        .collect();
    if all {
        seen.hidden.extend(unseen());
    }
    seen
}

/// Those of whom not even the number is known.
fn unseen() -> Vec<Hidden> {
    let mut unseen = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !geteuid().is_root() && hides_pids(&mounts) {
        let (reason, help) = ("of other users, which /proc does not show (hidepid)", "run it with sudo");
        unseen.push(Hidden { reason, help, processes: None });
    }
    if std::fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() != INITIAL_PID_NAMESPACE) {
        let reason = "outside this container (pid namespace)";
        unseen.push(Hidden { reason, help: "run it on the host, or with --pid=host", processes: None });
    }
    unseen
}

/// Whether /proc shows a user's own processes only, as these mounts say.
fn hides_pids(mounts: &str) -> bool {
    let proc = mounts.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>());
    let options =
        proc.filter(|fields| fields.get(1) == Some(&"/proc")).find_map(|fields| fields.get(3).copied());
    options.is_some_and(|options| {
        options.split(',').any(|option| {
            option
                .strip_prefix("hidepid=")
                .is_some_and(|mode| !matches!(mode, "0" | "off" | "1" | "noaccess"))
        })
    })
}

/// `None`: it has no program, as threads of the kernel.
fn look(pid: u32, discovery: &mut Discovery) -> io::Result<Option<(String, InProcess)>> {
    // Some kernels show no mappings, rather than an error, to who may not look at them.
    let Some(exe) = process::executable(pid)? else { return Ok(None) };
    Ok(Some((exe, discovery.libraries_of(pid, None)?)))
}

/// Effective user.
fn uid_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
}

impl Seen {
    /// Which of those who were asked for are not there.
    pub(super) fn gone(&self, pids: &[u32]) -> Option<Failure> {
        if pids.is_empty() {
            return None;
        }
        if let Some((thread, process)) = self.threads.first() {
            let message = format!("{thread} is a thread of process {process}");
            return Some(Failure::new(
                Exit::NoTarget,
                message,
                format!("give the process instead: -p {process}"),
            ));
        }
        let message = match &self.gone[..] {
            [] => return None,
            [pid] => format!("there is no process {pid}"),
            gone => {
                let pids: Vec<String> = gone.iter().map(u32::to_string).collect();
                format!("there are no processes {}", pids.join(", "))
            }
        };
        Some(Failure::new(Exit::NoTarget, message, "find it with: pgrep -a NAME"))
    }

    /// Why those who were asked for cannot be captured, if that is so with all of them.
    pub(super) fn missing(&self, pids: &[u32]) -> Option<Failure> {
        if let Some(gone) = self.gone(pids) {
            return Some(gone);
        }
        if let Some(hidden) = self.hidden.first().filter(|_| !pids.is_empty() && self.processes.is_empty()) {
            let message = "the requested process may not be inspected";
            return Some(Failure::new(Exit::NotPermitted, message, hidden.help));
        }
        let captured = |process: &Process| process.libraries.iter().any(|id| self.libraries[*id].captured);
        let asked: Vec<&Process> = self.processes.iter().filter(|p| pids.contains(&p.pid)).collect();
        if pids.is_empty() || asked.iter().any(|p| captured(p)) {
            return None;
        }
        let text = |pids: &mut dyn Iterator<Item = u32>| {
            pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(", ")
        };
        Some(Failure::new(
            Exit::NoTarget,
            format!("nothing that can be captured is in process {}", text(&mut pids.iter().copied())),
            "a library that it loads later can be captured: tls2pcap -o FILE -- COMMAND",
        ))
    }

    /// `always`: also if it carries no TLS code.
    fn add(&mut self, pid: u32, exe: String, in_process: &InProcess, always: bool) {
        let mut libraries: Vec<usize> = Vec::new();
        for found in &in_process.found {
            libraries.push(self.number(probed(found, &exe)));
        }
        for (path, why) in &in_process.unprobed {
            // Most programs in Go without TLS are just that.
            if always || *why != NotTls::Go(NotGo::NoTls) {
                libraries.push(self.number(unprobed(path, why, &exe)));
            }
        }
        for (path, error) in in_process.unreadable.iter().filter(|(path, _)| has_known_name(path)) {
            libraries.push(self.number(unreadable(path, error)));
        }
        if libraries.is_empty() && !always {
            return;
        }
        let uid = uid_of(pid);
        let user = uid.and_then(|uid| {
            let name = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
            self.users.entry(uid).or_insert_with(name).clone()
        });
        let container = process::container(pid).map(|c| Container { id: c.id, name: c.name });
        self.processes.push(Process {
            pid,
            name: process::name(pid).unwrap_or_default(),
            uid,
            user,
            exe: Some(exe),
            container,
            libraries,
            unreadable: in_process.unreadable.len(),
        });
    }

    fn number(&mut self, library: Library) -> usize {
        if let Some(known) = self.numbers.get(&library) {
            return *known;
        }
        let id = self.libraries.len();
        self.numbers.insert(library.clone(), id);
        self.libraries.push(Library { id, ..library });
        id
    }
}

fn probed(found: &Found, exe: &str) -> Library {
    let library = &found.library;
    let (name, version) = match found.version.split_once(' ') {
        Some((name, version)) => (name.to_owned(), Some(version.to_owned())),
        // BoringSSL has no version to tell.
        None if found.version.is_empty() => match found.makers() {
            Some(makers) => (makers.stack.as_str().to_owned(), makers.version),
            None => ("OpenSSL or a library with its functions".to_owned(), None),
        },
        None => (found.version.clone(), None),
    };
    Library {
        captured: true,
        name,
        version,
        path: text(&found.path),
        deleted: found.deleted,
        linked: Some(linked(&found.path, exe)),
        symbols: Some(match &library.named_by {
            NamedBy::Dynamic => Symbols::Dynsym,
            NamedBy::Full => Symbols::Symtab,
            NamedBy::MiniDebugInfo => Symbols::MiniDebugInfo,
            NamedBy::DebugFile(_) => Symbols::DebugFile,
            NamedBy::Pclntab => Symbols::Pclntab,
            NamedBy::Code => Symbols::Code,
        }),
        functions: functions(found),
        cost: cost_of(found),
        ..Library::default()
    }
}

fn functions(found: &Found) -> Vec<Function> {
    let exports = found.library.offsets.places().map(|(function, place)| Function {
        name: function.symbol().into(),
        offset: place.offset,
        cost: place.cost.into(),
        note: match (probe::note(found, function), probe::unseen_return(found, function)) {
            (Some(note), Some(unseen)) => Some(format!("{note}; {unseen}")),
            (note, unseen) => note.or(unseen),
        },
    });
    let go = found.library.go.iter().flat_map(|go| &go.places).map(|place| Function {
        name: format!("crypto/tls.(*Conn).{}", place.function.name()),
        offset: place.entry,
        cost: Cost::Unknown,
        note: Some(match place.returns.len() {
            1 => "and 1 return".into(),
            n => format!("and {n} returns"),
        }),
    });
    let rustls = found.library.rustls.iter().flat_map(|rustls| &rustls.places).map(|place| Function {
        name: place.name.clone(),
        offset: place.entry,
        cost: Cost::Unknown,
        note: None,
    });
    exports.chain(go).chain(rustls).collect()
}

/// The dearest of those that most data goes through.
fn cost_of(found: &Found) -> Option<Cost> {
    use function::Function::*;
    let library = &found.library;
    let of = |function: function::Function| {
        let (_, place) = library.offsets.places().find(|(f, _)| *f == function)?;
        let behind = match function {
            Read | ReadEx => library.internal.read.as_ref().ok(),
            Write | WriteEx => library.internal.write.as_ref().ok(),
            _ => None,
        };
        // Once it is proven, it takes the place of the other.
        let returns = |place: code::Place| library.returns.of(place.offset);
        let taken = behind.filter(|behind| behind.exports.contains(&function)).map(|behind| behind.place);
        let place = taken.filter(|place| returns(*place).is_ok()).unwrap_or(place);
        let at_return = returns(place).into_iter().flatten().map(|at| Cost::from(at.cost()));
        at_return.chain([Cost::from(place.cost)]).max()
    };
    [Read, Write, GnutlsRecv, GnutlsSend, GnutlsSend2, NssRead, NssRecv, NssWrite, NssSend]
        .into_iter()
        .filter_map(of)
        .max()
        // Go, rustls.
        .or(Some(Cost::Unknown))
}

impl From<code::Cost> for Cost {
    fn from(cost: code::Cost) -> Cost {
        match cost {
            code::Cost::Emulated => Cost::Cheap,
            code::Cost::Stepped => Cost::SingleStepped,
            code::Cost::Unknown => Cost::Unknown,
        }
    }
}

fn unprobed(path: &Path, why: &NotTls, exe: &str) -> Library {
    let (name, version, reason) = match why {
        NotTls::Likely(likely) => (likely.stack.as_str().to_owned(), likely.version.clone(), likely.why()),
        NotTls::Go(why) => ("Go".to_owned(), None, why.to_string()),
        NotTls::Nss(why) => ("NSS".to_owned(), None, why.to_string()),
        _ => (by_name(path).to_owned(), None, why.to_string()),
    };
    Library {
        name,
        version,
        path: text(path),
        linked: Some(linked(path, exe)),
        reason: Some(reason),
        help: Some(why.help().to_owned()).filter(|help| !help.is_empty()),
        ..Library::default()
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Library {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    Library {
        name: by_name(path).to_owned(),
        path: text(path),
        reason: Some(format!("its file cannot be opened: {error}")),
        help: denied.then(|| "run it with sudo".into()),
        ..Library::default()
    }
}

/// What a library with a known name is called.
fn by_name(path: &Path) -> &'static str {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    match () {
        () if name.starts_with("libgnutls") => Family::GnuTls.as_str(),
        () if name.starts_with("libssl3") => Family::Nss.as_str(),
        () => Family::OpenSsl.as_str(),
    }
}

fn linked(path: &Path, exe: &str) -> Linked {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if path == Path::new(exe) || !(name.starts_with("libssl") || name.starts_with("libgnutls")) {
        return Linked::Static;
    }
    let is_standard = |folder: &Path| FOLDERS.iter().any(|known| folder == Path::new(known));
    let folder = path.parent().unwrap_or(Path::new("/"));
    let multiarch =
        || folder.to_string_lossy().ends_with("-linux-gnu") && folder.parent().is_some_and(is_standard);
    if is_standard(folder) || multiarch() { Linked::Shared } else { Linked::Bundled }
}

fn text(path: &Path) -> String {
    PathBuf::from(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_library_is_linked() {
        let cases = [
            ("/usr/lib/x86_64-linux-gnu/libssl.so.3", Linked::Shared),
            ("/lib64/libgnutls.so.30.40.0", Linked::Shared),
            ("/usr/lib/python3/psycopg2_binary.libs/libssl-81ffa89e.so.3", Linked::Bundled),
            ("/usr/lib/firefox-esr/libssl3.so", Linked::Bundled),
            ("/usr/bin/node", Linked::Static),
            ("/opt/x/cygrpc.cpython-311-x86_64-linux-gnu.so", Linked::Static),
        ];
        for (path, expected) in cases {
            assert_eq!(linked(Path::new(path), "/usr/bin/node"), expected, "{path}");
        }
    }

    #[test]
    fn hidepid_of_the_mount_that_counts() {
        let line = |options: &str| format!("proc /proc proc {options} 0 0\n");
        assert!(!hides_pids(""));
        assert!(!hides_pids(&line("rw,nosuid,relatime")));
        assert!(!hides_pids(&line("rw,hidepid=off")));
        assert!(hides_pids(&line("rw,hidepid=2")));
        assert!(hides_pids(&format!("tmpfs /tmp tmpfs rw 0 0\n{}", line("rw,hidepid=invisible,gid=4"))));
        // The later mount covers the earlier one.
        assert!(!hides_pids(&(line("rw,hidepid=2") + &line("rw"))));
    }
}
