//! Compiles `bpf/`, generates its skeleton, and makes Rust enums of the numbers in ring records.

use std::collections::HashMap;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::btf::types::Enum;
use libbpf_rs::btf::{Btf, HasSize};

/// The enums of `bpf/tls2pcap.h` that `src/event/numbers.rs` has, which must not know the skeleton. Of the last, which
/// are quantities, it has constants.
const ENUMS: [&str; 9] =
    ["type", "direction", "missing", "tuple_source", "fact", "role", "state", "family", "counter"];
const CONSTANTS: [&str; 3] = ["limit", "handle_bit", "socket_flag"];

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = out.join("tls2pcap.bpf.o");
    let mut builder = SkeletonBuilder::new();
    builder.source("bpf/tls2pcap.bpf.c").obj(&object).clang_args(["-Ibpf"]);
    if let Err(error) = builder.build_and_generate(out.join("tls2pcap.skel.rs")) {
        panic!(
            "compiling bpf/tls2pcap.bpf.c: {error:#}\nclang and the libelf headers are needed: run tests/setup build"
        );
    }
    let enums = enums(&object);
    check_flags(&enums);
    fs::write(out.join("numbers.rs"), numbers(&enums)).expect("cargo made OUT_DIR");
}

/// An enum of C: the size of its values in bytes, and the values by name.
struct Numbers {
    size: usize,
    values: Vec<(String, i64)>,
}

/// All enums of the object, by name.
fn enums(object: &Path) -> HashMap<String, Numbers> {
    let btf = Btf::from_path(object).expect("clang describes the object's types");
    let of = |e: Enum<'_>| {
        let text = |name: Option<&std::ffi::OsStr>| Some(name?.to_str()?.to_owned());
        let values = e.iter().filter_map(|value| Some((text(value.name)?, value.value))).collect();
        Some((text(e.name())?, Numbers { size: e.size(), values }))
    };
    btf.type_by_kind::<Enum<'_>>().filter_map(of).collect()
}

/// Refuses two flags that are the same bit.
fn check_flags(enums: &HashMap<String, Numbers>) {
    let flags = enums.iter().filter(|(name, _)| name.ends_with("_flag"));
    let mut count = 0;
    for (name, numbers) in flags {
        count += 1;
        let mut taken: HashMap<i64, &str> = HashMap::new();
        for (flag, value) in &numbers.values {
            assert!(value.count_ones() == 1, "bpf/: enum {name}: {flag} is not one bit");
            if let Some(other) = taken.insert(*value, flag) {
                panic!("bpf/: enum {name}: {flag} is the same bit as {other}");
            }
        }
    }
    assert!(count > 0, "the object's type information has no enum of flags");
}

/// The module that `src/event/numbers.rs` includes.
fn numbers(enums: &HashMap<String, Numbers>) -> String {
    let find = |name: &str| {
        let name = format!("t2p_{name}");
        enums
            .get(&name)
            .unwrap_or_else(|| panic!("no type in bpf/ uses enum {name}: see the end of tls2pcap.bpf.c"))
    };
    let mut out = String::new();
    for name in ENUMS {
        let Numbers { size, values } = find(name);
        let (all, integer) = (camel_case(name), format!("u{}", size * 8));
        // What ends so is the number of the others.
        let values: Vec<&(String, i64)> =
            values.iter().filter(|(variant, _)| !variant.ends_with("_MAX")).collect();
        let variants: Vec<(String, i64)> =
            values.iter().map(|(variant, n)| (camel_case(&variant[prefix(&values)..]), *n)).collect();
        writeln!(out, "/// `enum t2p_{name}`.\n#[derive(Clone, Copy, Debug, PartialEq, Eq)]\n#[repr({integer})]\npub enum {all} {{").unwrap();
        for (variant, n) in &variants {
            writeln!(out, "    {variant} = {n},").unwrap();
        }
        writeln!(out, "}}\nimpl {all} {{\n    /// The one with this number, if there is one.").unwrap();
        writeln!(out, "    pub fn of(number: {integer}) -> Option<{all}> {{\n        Some(match number {{")
            .unwrap();
        for (variant, n) in &variants {
            writeln!(out, "            {n} => {all}::{variant},").unwrap();
        }
        writeln!(out, "            _ => return None,\n        }})\n    }}\n}}").unwrap();
    }
    for name in CONSTANTS {
        for (constant, n) in &find(name).values {
            writeln!(out, "/// Of `enum t2p_{name}`.").unwrap();
            writeln!(out, "pub const {}: u64 = {n};", constant.trim_start_matches("T2P_")).unwrap();
        }
    }
    out
}

/// Length of what all names begin with, up to an underscore.
fn prefix(values: &[&(String, i64)]) -> usize {
    let first = values.first().map_or("", |(name, _)| name);
    let ends = first.match_indices('_').map(|(at, _)| at + 1);
    ends.filter(|end| values.iter().all(|(name, _)| name.starts_with(&first[..*end]))).max().unwrap_or(0)
}

/// `RING_FULL` and `ring_full` are `RingFull`.
fn camel_case(name: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..].to_lowercase();
    name.split('_').map(word).collect()
}
