//! The order of the modules, which ARCHITECTURE.md describes: who may use whom, and what pure code is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Rooms without I/O, threads and clocks. That they have no unsafe code the compiler checks.
const PURE: [&str; 7] = ["event", "filter", "proto", "redact", "synth", "track", "view"];

/// What reaches out of a pure module, in the standard library.
const IMPURE: [&str; 6] = ["env", "fs", "net::(Tcp|Udp)", "os", "process", "thread"];
/// And its clocks.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let of_product = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        path.extension().is_some_and(|ending| ending == "rs") && !name.ends_with("tests") && name != "random"
    };
    let inner = folders.iter().filter(|path| !path.ends_with("tests")).flat_map(|path| sources(path));
    files.into_iter().filter(of_product).chain(inner).collect()
}

/// The code of each module, without comments and tests.
fn modules() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let comment = Regex::new(r"(?m)^ *//.*$").unwrap();
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for path in sources(&src) {
        let first = path.strip_prefix(&src).unwrap().components().next().unwrap();
        let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        modules.entry(module).or_default().push_str(&comment.replace_all(product, ""));
    }
    modules
}

/// Which modules a module names.
fn used(code: &str) -> BTreeSet<String> {
    let path = Regex::new(r"(?-u:\b)crate::([a-z0-9_]+)").unwrap();
    let mut used: BTreeSet<String> = path.captures_iter(code).map(|found| found[1].to_owned()).collect();
    for group in Regex::new(r"(?s)use crate::\{(.*?)\};").unwrap().captures_iter(code) {
        let mut depth = 0;
        for part in group[1].split_inclusive(['{', '}', ',']) {
            if depth == 0 {
                let name = part.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next();
                used.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
            }
            depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
        }
    }
    used
}

#[test]
fn no_two_modules_use_each_other() {
    let modules = modules();
    let mut left: BTreeMap<&str, BTreeSet<String>> = modules
        .iter()
        .map(|(module, code)| {
            (
                module.as_str(),
                used(code)
                    .into_iter()
                    .filter(|other| other != module && modules.contains_key(other))
                    .collect(),
            )
        })
        .collect();
    // Who uses none of those that are left is no part of a circle.
    loop {
        let done: BTreeSet<String> =
            left.iter().filter(|(_, uses)| uses.is_empty()).map(|(module, _)| (*module).to_owned()).collect();
        if done.is_empty() {
            break;
        }
        left.retain(|module, _| !done.contains(*module));
        left.values_mut().for_each(|uses| uses.retain(|other| !done.contains(other)));
    }
    assert!(left.is_empty(), "circles: {left:?}");
}

#[test]
fn pure_modules_reach_nothing_outside() {
    let modules = modules();
    for module in PURE {
        for name in IMPURE {
            let reaching = Regex::new(&format!(r"std::(\{{[^;]*[^a-z_])?(?:{name})(?:[^a-z_]|$)")).unwrap();
            let found = reaching.find(&modules[module]);
            assert!(found.is_none(), "{module}: {}", found.unwrap().as_str());
        }
        let clock = CLOCKS.iter().find(|name| modules[module].contains(**name));
        assert!(clock.is_none(), "{module}: {}", clock.unwrap());
        let others: Vec<_> =
            used(&modules[module]).into_iter().filter(|other| modules.contains_key(other)).collect();
        let allowed = |other: &String| PURE.contains(&other.as_str()) || other == "printable";
        assert!(others.iter().all(allowed), "{module} uses {others:?}");
    }
}

#[test]
fn the_kernel_side_compiles_for_arm64_too() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let include = format!("-I{}", root.join("bpf").display());
    let mut builder = libbpf_cargo::SkeletonBuilder::new();
    builder.source(root.join("bpf/tls2pcap.bpf.c")).obj(folder.path().join("arm64.o"));
    builder.clang_args([include.as_str(), "-D__TARGET_ARCH_arm64", "-Werror"]).build().unwrap();
}
