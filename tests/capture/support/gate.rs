//! What a machine must have for a test, and the report where it has not. Every test program has this.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The releases of tshark that judge.
pub const RELEASES: [&str; 3] = ["4.0", "4.4", "4.6"];

/// Says that a test, or a part of it, was not run. Fails if the variable `require` is set to 1.
pub fn skipped(what: &str, why: &str, require: &str) {
    assert!(std::env::var(require).as_deref() != Ok("1"), "{what} cannot run, and {require}=1: {why}");
    // Not eprintln!: the report must be seen although the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {why}");
}

/// Why this machine does not let a test capture.
pub fn cannot_capture() -> Option<String> {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_PERFMON: u32 = 38;
    const CAP_BPF: u32 = 39;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let caps = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |cap: u32| caps & (1 << cap) != 0;
    if !status.lines().any(|l| l.starts_with("Uid:\t0\t")) {
        return Some("not root".into());
    }
    if !(has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON)) {
        return Some("no right to use BPF (CAP_SYS_ADMIN, or CAP_BPF and CAP_PERFMON)".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF".into());
    }
    None
}

/// Each release of tshark that tests/oracles fetched. Reports, once, those that are missing. Fails if all are: without
/// a judge a test would show nothing.
#[allow(dead_code)] // Captures are judged by the system's release too: see `tshark::oracles`.
pub fn tsharks() -> &'static [(&'static str, PathBuf)] {
    static FOUND: OnceLock<Vec<(&str, PathBuf)>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let find = |release| {
            let path = cached_tool(&format!("tshark-{release}"));
            if path.is_none() {
                let why = format!("tshark-{release} not found (run tests/oracles)");
                skipped(&format!("every check with tshark {release}"), &why, "T2P_REQUIRE_ORACLES");
            }
            Some((release, path?))
        };
        RELEASES.into_iter().filter_map(find).collect()
    });
    assert!(!found.is_empty(), "no release of tshark is there to judge: run tests/oracles");
    found
}

/// Release of the system's own tshark, such as `4.0`; `None`: there is none.
pub fn system_tshark() -> Option<String> {
    let output = Command::new("tshark").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(number.split('.').take(2).collect::<Vec<_>>().join("."))
}

/// A tool that tests/oracles fetches.
pub fn cached_tool(name: &str) -> Option<PathBuf> {
    let cache = match std::env::var_os("T2P_CACHE") {
        Some(cache) => cache.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache"),
    };
    Some(cache.join("bin").join(name)).filter(|p| p.exists())
}
