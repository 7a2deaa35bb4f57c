//! Compiles `bpf/` and generates its skeleton.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("tls2pcap.skel.rs");
    if let Err(error) =
        SkeletonBuilder::new().source("bpf/tls2pcap.bpf.c").clang_args(["-Ibpf"]).build_and_generate(&out)
    {
        panic!(
            "compiling bpf/tls2pcap.bpf.c: {error:#}\nclang and the libelf headers are needed: run tests/setup build"
        );
    }
}
