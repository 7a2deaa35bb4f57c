//! `tls2pcap read`, judged by what was truly said, and by stock tshark.

mod agree;
#[allow(dead_code)]
#[path = "../redact/files.rs"]
mod files;
#[allow(dead_code)]
#[path = "../capture/support/gate.rs"]
mod gate;
mod make;
mod views;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `tls2pcap read`.
fn read(file: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
    command.arg("read").arg(file).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(file: &Path, args: &[&str]) -> String {
    let output = read(file, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(file: &Path, args: &[&str]) -> Vec<Value> {
    let args = [&["-f", "json"], args].concat();
    text(file, &args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those of a type.
fn of<'a>(records: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["type"] == kind)
}
