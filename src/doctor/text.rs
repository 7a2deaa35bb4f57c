//! The report for people: the verdict, then what is not captured, what is, and the machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::{Cost, Library, Linked, Process, Report, Symbols};
use crate::printable;

/// Longest line, in characters, where words can be parted.
const WIDTH: usize = 100;
/// Most pids of programs of one name.
const PIDS_MAX: usize = 5;
/// Most names of programs for one library.
const NAMES_MAX: usize = 12;

/// Many lines, the worst first. `asked`: the pids that it is about; empty for all processes.
pub(super) fn render(report: &Report, asked: &[u32]) -> String {
    let mut out = String::new();
    verdict(&mut out, report);
    let (captured, not): (Vec<&Library>, Vec<_>) =
        report.libraries.iter().partition(|library| library.captured);
    section(&mut out, report, "NOT CAPTURED", not);
    section(&mut out, report, "CAPTURED", captured);
    if report.libraries.is_empty() {
        nothing(&mut out, report, asked);
    }
    if !report.hidden.is_empty() {
        heading(&mut out, "NOT INSPECTED");
        for hidden in &report.hidden {
            let who = match hidden.processes {
                Some(1) => "1 process".into(),
                Some(n) => format!("{n} processes"),
                None => "processes".into(),
            };
            line(&mut out, 2, &format!("{who} {}: {}", hidden.reason, hidden.help));
        }
    }
    kernel(&mut out, report);
    privileges(&mut out, report);
    out
}

/// No process carries TLS code.
fn nothing(out: &mut String, report: &Report, asked: &[u32]) {
    let looked_at: Vec<String> = report.processes.iter().map(|process| process.pid.to_string()).collect();
    let text = match &looked_at[..] {
        _ if asked.is_empty() => "No process that can be inspected has known TLS code.".to_owned(),
        // That none is there, or may be looked at, is told elsewhere.
        [] => return,
        [pid] => format!("Process {pid} has no known TLS code."),
        pids => format!("None of the processes {} has known TLS code.", pids.join(", ")),
    };
    out.push('\n');
    line(out, 0, &text);
}

fn verdict(out: &mut String, report: &Report) {
    let verdict = &report.verdict;
    let works = match (verdict.works, &verdict.reason) {
        (true, None) => "A capture works here.\n",
        (true, Some(_)) => "\nCaptures of other processes work here.\n",
        (false, _) => "A capture does not work here.\n",
    };
    // What was asked for goes first.
    let mut reason = String::new();
    if let Some(text) = &verdict.reason {
        line(&mut reason, if verdict.works { 0 } else { 2 }, &sentence(text, verdict.works));
    }
    // Commands to type are not parted.
    for text in verdict.help.iter().flat_map(|help| help.lines()) {
        let _ = writeln!(reason, "    {text}");
    }
    out.push_str(&if verdict.works { reason + works } else { works.to_owned() + &reason });
    for text in &verdict.warnings {
        line(out, 2, text);
    }
}

/// With a capital and a full stop, if it stands by itself.
fn sentence(text: &str, by_itself: bool) -> String {
    let mut rest = text.chars();
    match rest.next() {
        Some(first) if by_itself => format!("{}{}.", first.to_uppercase(), rest.as_str()),
        _ => text.to_owned(),
    }
}

fn section(out: &mut String, report: &Report, title: &str, mut libraries: Vec<&Library>) {
    let users =
        |library: &Library| report.processes.iter().filter(|p| p.libraries.contains(&library.id)).count();
    libraries.sort_by_key(|library| std::cmp::Reverse(users(library)));
    if !libraries.is_empty() {
        heading(out, title);
    }
    for library in libraries {
        let mut head = library.name.clone();
        if let Some(version) = &library.version {
            let _ = write!(head, " {version}");
        }
        let _ = write!(head, "  {}", printable::line(&library.path));
        let mut marks = Vec::new();
        marks.extend(library.linked.map(|linked| match linked {
            Linked::Shared => "shared",
            Linked::Bundled => "bundled",
            Linked::Static => "static",
        }));
        marks.extend(library.symbols.and_then(|symbols| match symbols {
            Symbols::Symtab => Some("full symbol table"),
            Symbols::MiniDebugInfo => Some("by its mini debug info"),
            Symbols::DebugFile => Some("by a separate debug file"),
            Symbols::Code => Some("stripped, by its code"),
            Symbols::Dynsym | Symbols::Pclntab => None,
        }));
        marks.extend(library.deleted.then_some("deleted, but probed"));
        if !marks.is_empty() {
            let _ = write!(head, "  ({})", marks.join(", "));
        }
        // A path is not parted.
        let _ = writeln!(out, "  {head}");
        for text in [&library.reason, &library.help].into_iter().flatten() {
            line(out, 4, text);
        }
        if library.captured {
            line(out, 4, &probes(library));
        }
        for part in processes(report, library) {
            line(out, 6, &part);
        }
    }
}

fn probes(library: &Library) -> String {
    let functions = library.functions.len();
    let cost = match library.cost {
        Some(Cost::Cheap) => "reads and writes at cheap sites".to_owned(),
        Some(Cost::SingleStepped) => {
            let dear = library.functions.iter().filter(|f| f.cost == Cost::SingleStepped && f.note.is_some());
            let notes = dear.map(|f| format!("{}: {}", f.name, f.note.as_deref().unwrap_or_default()));
            let notes: Vec<String> = notes.take(2).collect();
            match notes.is_empty() {
                true => "reads or writes are single-stepped, which costs more".to_owned(),
                false => {
                    format!("reads or writes are single-stepped, which costs more ({})", notes.join("; "))
                }
            }
        }
        _ if library.symbols == Some(Symbols::Pclntab) => "at entries and RET instructions".to_owned(),
        Some(Cost::Unknown) | None => "cost of the probes unknown".to_owned(),
    };
    format!("{functions} function{}, {cost}", if functions == 1 { "" } else { "s" })
}

/// `nginx[1,2,3 and 9 more] www-data in web`: a line for each name, user and container.
fn processes(report: &Report, library: &Library) -> Vec<String> {
    let mut by_name: BTreeMap<String, (String, Vec<u32>)> = BTreeMap::new();
    for process in report.processes.iter().filter(|p| p.libraries.contains(&library.id)) {
        let whose = whose(process);
        let key = format!("{}\0{whose}", process.name);
        by_name.entry(key).or_insert_with(|| (whose, Vec::new())).1.push(process.pid);
    }
    let more = by_name.len().saturating_sub(NAMES_MAX);
    let mut lines: Vec<String> = by_name
        .iter()
        .take(NAMES_MAX)
        .map(|(key, (whose, pids))| {
            let name = key.split('\0').next().unwrap_or_default();
            let shown: Vec<String> = pids.iter().take(PIDS_MAX).map(u32::to_string).collect();
            let rest = match pids.len().saturating_sub(PIDS_MAX) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            format!("{}[{}{rest}]{whose}", printable::line(name), shown.join(","))
        })
        .collect();
    if more > 0 {
        lines.push(format!("and programs of {more} more names"));
    }
    lines
}

fn whose(process: &Process) -> String {
    let mut text = String::new();
    match (&process.user, process.uid) {
        (Some(user), _) => text = format!(" {user}"),
        (None, Some(uid)) => text = format!(" uid {uid}"),
        (None, None) => {}
    }
    if let Some(container) = &process.container {
        let short: String = container.id.chars().take(12).collect();
        let _ = write!(text, " in container {}", printable::line(container.name.as_ref().unwrap_or(&short)));
    }
    text
}

fn kernel(out: &mut String, report: &Report) {
    let kernel = &report.kernel;
    heading(out, "KERNEL");
    let mut row = |name: &str, text: &str| line_with(out, &format!("  {name:<13}"), 15, text);
    row(
        "release",
        &format!(
            "{}, {}",
            kernel.release,
            if kernel.btf { "BTF" } else { "no BTF (/sys/kernel/btf/vmlinux)" }
        ),
    );
    match &kernel.tried {
        Some(tried) => {
            row("back end", &format!("{} is used", tried.backend));
            for backend in tried.backends.iter().filter(|backend| backend.name != tried.backend) {
                let why = backend.reason.as_deref().unwrap_or("works too");
                row("", &format!("{}: {why}", backend.name));
            }
            row(
                "probes",
                match (tried.bulk, tried.bulk_one_process) {
                    (true, true) => "attach in bulk (uprobe.multi)",
                    (true, false) => "attach in bulk (uprobe.multi); of a command and with -p one by one",
                    (false, _) => "attach one by one: no uprobe.multi (Linux 6.6)",
                },
            );
            row(
                "",
                "are only in processes of the command or of -p; with --all and -u in every process that has mapped a TLS library",
            );
            if !tried.attach_cookies {
                row("", "no attach cookies (Linux 5.15): cheap sites in internal functions are not used");
            }
            for kind in &tried.refused {
                row("", &format!("{}: not on this kernel: {}", kind.programs, kind.reason));
            }
            let calls = format!("captured up to {} bytes", grouped(tried.call_limit));
            row("calls", &if tried.bpf_loop { calls } else { format!("{calls}: no bpf_loop (Linux 5.17)") });
        }
        None => row("back end", "not tried: privileges or required kernel features are missing"),
    }
    row("lockdown", kernel.lockdown.unwrap_or("unknown"));
    for (name, value) in [
        ("perf_event_paranoid", &kernel.perf_event_paranoid),
        ("unprivileged_bpf_disabled", &kernel.unprivileged_bpf_disabled),
    ] {
        if let Some(value) = value {
            row("sysctl", &format!("kernel.{name} = {value}"));
        }
    }
}

fn privileges(out: &mut String, report: &Report) {
    let own = &report.privileges;
    heading(out, "PRIVILEGES");
    let mut row = |name: &str, text: &str| line_with(out, &format!("  {name:<13}"), 15, text);
    row("user", &if own.uid == 0 { "root".to_owned() } else { format!("uid {}", own.uid) });
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    row("has", &list(&own.held));
    if !own.missing.is_empty() {
        row("lacks", &list(&own.missing));
    }
    if own.user_namespace {
        row("namespace", "a user namespace: its root has no privileges over the kernel");
    }
    if own.seccomp {
        row("seccomp", "this process has a filter, which may refuse bpf and perf_event_open");
    }
    if let Some(why) = &own.no_tracing {
        let text = "a command is stopped by signals while its files are inspected, which its parent sees";
        row("tracing", &format!("refused ({why}): {text}"));
    }
}

fn heading(out: &mut String, title: &str) {
    let _ = writeln!(out, "\n{title}");
}

fn line(out: &mut String, indent: usize, text: &str) {
    line_with(out, &" ".repeat(indent), indent + 2, text);
}

/// A text behind `head`, parted between words; what follows is indented.
fn line_with(out: &mut String, head: &str, indent: usize, text: &str) {
    let mut now = head.to_owned();
    let mut is_empty = true;
    for word in printable::line(text).split(' ').filter(|word| !word.is_empty()) {
        if !is_empty && now.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{now}");
            now = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            now.push(' ');
        }
        now.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(out, "{}", now.trim_end());
}

/// 1234567 is `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|part| std::str::from_utf8(part).unwrap_or_default())
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::report::*;
    use super::*;

    fn process(pid: u32, name: &str, user: &str, libraries: &[usize]) -> Process {
        Process {
            pid,
            name: name.into(),
            uid: Some(33),
            user: Some(user.into()),
            libraries: libraries.to_vec(),
            ..Process::default()
        }
    }

    fn report() -> Report {
        let openssl = Library {
            id: 0,
            captured: true,
            name: "OpenSSL".into(),
            version: Some("3.0.17".into()),
            path: "/usr/lib/x86_64-linux-gnu/libssl.so.3".into(),
            linked: Some(Linked::Shared),
            symbols: Some(Symbols::Dynsym),
            functions: vec![Function { name: "SSL_read".into(), offset: 7, cost: Cost::Cheap, note: None }],
            cost: Some(Cost::Cheap),
            ..Library::default()
        };
        let rustls = Library {
            id: 1,
            name: "rustls".into(),
            version: Some("0.23.37".into()),
            path: "/opt/agent".into(),
            linked: Some(Linked::Static),
            reason: Some("the names of its functions are stripped".into()),
            ..Library::default()
        };
        let dear = Library {
            id: 2,
            path: "/opt/libssl.so.1.1".into(),
            linked: Some(Linked::Bundled),
            deleted: true,
            cost: Some(Cost::SingleStepped),
            functions: vec![Function {
                name: "SSL_read".into(),
                offset: 7,
                cost: Cost::SingleStepped,
                note: Some("no other site: the exports call no function in common".into()),
            }],
            ..openssl.clone()
        };
        let container = Some(Container { id: "4f".repeat(32), name: None });
        let mut processes: Vec<Process> =
            (1..=7).map(|pid| process(pid, "nginx", "www-data", &[0])).collect();
        processes.push(Process { container, user: None, ..process(9, "a\x1b[2J", "x", &[0, 2]) });
        processes.push(process(10, "agent", "root", &[1]));
        Report {
            format: FORMAT,
            tls2pcap: "0",
            verdict: Conclusion { works: true, ..Conclusion::default() },
            libraries: vec![openssl, rustls, dear],
            processes,
            hidden: vec![
                Hidden { reason: "of other users", help: "run it with sudo", processes: Some(41) },
                Hidden { reason: "outside this container", help: "run it on the host", processes: None },
            ],
            kernel: Kernel {
                release: "6.12.0".into(),
                btf: true,
                tried: Some(Tried {
                    backend: "kprobe",
                    backends: vec![
                        BackEnd {
                            name: "fentry",
                            works: false,
                            reason: Some("it has no BPF trampolines".into()),
                        },
                        BackEnd { name: "kprobe", works: true, reason: None },
                        BackEnd { name: "tracepoint", works: true, reason: None },
                    ],
                    bulk: true,
                    bulk_one_process: false,
                    attach_cookies: true,
                    bpf_loop: true,
                    refused: vec![Refused { programs: "Go", reason: "no".into() }],
                    call_limit: 33_554_432,
                }),
                ..Kernel::default()
            },
            privileges: Privileges { held: vec!["cap_bpf"], ..Privileges::default() },
        }
    }

    #[test]
    fn the_worst_first_and_many_processes_in_one_line() {
        let expected = "\
A capture works here.

NOT CAPTURED
  rustls 0.23.37  /opt/agent  (static)
    the names of its functions are stripped
      agent[10] root

CAPTURED
  OpenSSL 3.0.17  /usr/lib/x86_64-linux-gnu/libssl.so.3  (shared)
    1 function, reads and writes at cheap sites
      a\\u{1b}[2J[9] uid 33 in container 4f4f4f4f4f4f
      nginx[1,2,3,4,5 and 2 more] www-data
  OpenSSL 3.0.17  /opt/libssl.so.1.1  (bundled, deleted, but probed)
    1 function, reads or writes are single-stepped, which costs more (SSL_read: no other site: the
      exports call no function in common)
      a\\u{1b}[2J[9] uid 33 in container 4f4f4f4f4f4f

NOT INSPECTED
  41 processes of other users: run it with sudo
  processes outside this container: run it on the host

KERNEL
  release      6.12.0, BTF
  back end     kprobe is used
               fentry: it has no BPF trampolines
               tracepoint: works too
  probes       attach in bulk (uprobe.multi); of a command and with -p one by one
               are only in processes of the command or of -p; with --all and -u in every process
               that has mapped a TLS library
               Go: not on this kernel: no
  calls        captured up to 33,554,432 bytes
  lockdown     unknown

PRIVILEGES
  user         root
  has          cap_bpf
";
        assert_eq!(render(&report(), &[]), expected);
    }

    #[test]
    fn what_was_asked_for_comes_first() {
        let verdict = Conclusion {
            works: true,
            exit: 5,
            reason: Some("there is no process 999999".into()),
            help: Some("find it with: pgrep -a NAME".into()),
            warnings: vec!["containers have no names".into()],
        };
        let text = render(&Report { verdict, ..report() }, &[999_999]);
        let first = "There is no process 999999.\n    find it with: pgrep -a NAME\n\n\
                     Captures of other processes work here.\n  containers have no names\n\nNOT CAPTURED";
        assert!(text.starts_with(first), "{text}");
    }

    #[test]
    fn three_hundred_processes_are_few_lines() {
        let mut report = report();
        report.processes = (0..300).map(|n| process(n, &format!("p{}", n % 100), "u", &[0])).collect();
        let text = render(&report, &[]);
        assert!(text.contains("and programs of 88 more names"), "{text}");
        assert!(text.lines().count() < 60, "{text}");
    }

    #[test]
    fn without_privileges_the_cure_comes_first() {
        let verdict = Conclusion {
            works: false,
            exit: 3,
            reason: Some("capturing is not permitted".into()),
            help: Some("run it with sudo".into()),
            warnings: Vec::new(),
        };
        let none = Report {
            verdict,
            libraries: Vec::new(),
            processes: Vec::new(),
            hidden: Vec::new(),
            kernel: Kernel::default(),
            privileges: Privileges {
                uid: 1000,
                missing: vec!["cap_bpf"],
                seccomp: true,
                ..Privileges::default()
            },
            ..report()
        };
        let text = render(&none, &[]);
        assert!(
            text.starts_with(
                "A capture does not work here.\n  capturing is not permitted\n    run it with sudo\n\nNo process"
            ),
            "{text}"
        );
        assert!(
            text.ends_with(
                "seccomp      this process has a filter, which may refuse bpf and perf_event_open\n"
            )
        );
    }
}
