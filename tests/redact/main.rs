//! `tls2pcap redact`, judged by what stock tshark reads before and after: the same packets and trees, other values; and no
//! planted secret in any form.
//!
//! The releases of tshark that tests/oracles fetched judge.

mod dns;
mod files;
#[allow(dead_code)]
#[path = "../capture/support/gate.rs"]
mod gate;
mod identities;
mod metadata;
mod mutated;
mod proof;
mod report;
mod secrets;
mod servers;
mod streams;
mod websocket;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What is planted. No part of it looks like a replacement.
const SECRET: &str = "hunter2Correct77Horse9Battery";

/// A folder for one test.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// Redacts a file, and that once more, and checks what must hold of any: the same packets, nothing new the second
    /// time, and a check that finds nothing. Gives the path of the result.
    fn redact(&self, input: &Path, args: &[&str]) -> PathBuf {
        let ending = input.extension().unwrap().to_str().unwrap();
        let (once, twice) = (self.path(&format!("once.{ending}")), self.path(&format!("twice.{ending}")));
        for (from, to) in [(input, &once), (&once, &twice)] {
            let output = tls2pcap(&["redact", text(from), "-o", text(to)], args);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let (first, second) = (std::fs::read(&once).unwrap(), std::fs::read(&twice).unwrap());
        if let Some(at) = first.iter().zip(&second).position(|(a, b)| a != b) {
            let near = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(99)..bytes.len().min(at + 99)]).into_owned()
            };
            panic!("once more changes something: {}\n\nbecomes\n{}", near(&first), near(&second));
        }
        assert_eq!(first.len(), second.len());
        let check = tls2pcap(&["redact", "--check", text(&once)], args);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!((check.status.code(), said.as_str()), (Some(0), ""));
        once
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the program.
fn tls2pcap(args: &[&str], more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
    command.args(args).args(more).stdin(Stdio::null()).output().unwrap()
}

/// Runs a tshark. Gives what it writes.
fn tshark(program: &Path, file: &Path, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(["-n", "-o", "tcp.check_checksum:TRUE", "-r", text(file)]).args(args);
    let output = command.env("HOME", "/nonexistent").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names, positions and sizes of all fields, without their values.
fn tree(pdml: &str) -> Vec<String> {
    let attribute = |line: &str, name: &str| {
        let begin = line.find(&format!(" {name}=\""))? + name.len() + 3;
        Some(line[begin..].split('"').next().unwrap_or_default().to_owned())
    };
    // Comments say what was replaced; there are none of that before.
    let mut in_comment = false;
    pdml.lines()
        .filter(|line| {
            in_comment |= line.contains("<proto name=\"pkt_comment\"");
            let is_comment = in_comment;
            in_comment &= !line.contains("</proto>");
            !is_comment
        })
        .filter_map(|line| {
            let name = attribute(line, "name")?;
            // What a value decodes to, and how it is spelled, are values.
            let is_value = name.is_empty() || name.starts_with("geninfo") || name.contains("time");
            let size = |of| if is_value { None } else { attribute(line, of) };
            Some(format!("{name} {:?} {:?}", size("pos"), size("size")))
        })
        .collect()
}

/// Compares what each tshark reads in two files, and looks for the secret in it.
fn judge(before: &Path, after: &Path) {
    for (release, program) in gate::tsharks() {
        let read = |file| tshark(program, file, &["-T", "pdml"]);
        let (before, after) = (read(before), read(after));
        let (old, new) = (tree(&before), tree(&after));
        let differs = old.iter().zip(&new).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let near = |tree: &[String]| tree[at.saturating_sub(3)..tree.len().min(at + 4)].join("\n");
            panic!("tshark {release} reads another tree:\n{}\n\nwas\n{}", near(&new), near(&old));
        }
        assert_eq!(old.len(), new.len(), "tshark {release}");
        let count = |pdml: &str| {
            let is_bad = |line: &str| line.contains("_ws.malformed") || line.contains("Bad checksum");
            pdml.lines().filter(|line| is_bad(line)).count()
        };
        assert_eq!(count(&after), count(&before), "tshark {release}: malformed, or a bad checksum");
        assert_hidden(after.as_bytes(), &format!("tshark {release}"));
    }
    assert_hidden(&std::fs::read(after).unwrap(), "the file");
}

/// The planted secret must not be there in any form.
fn assert_hidden(bytes: &[u8], what: &str) {
    // Parts count as well: nine characters say too much.
    for start in 0..=SECRET.len() - 9 {
        let part = &SECRET.as_bytes()[start..start + 9];
        let hex: String = part.iter().map(|b| format!("{b:02x}")).collect();
        let forms = [part.to_vec(), hex.clone().into_bytes(), hex.to_uppercase().into_bytes()];
        for form in forms {
            if let Some(at) = memchr::memmem::find(bytes, &form) {
                panic!(
                    "{what} shows {}",
                    String::from_utf8_lossy(&bytes[at.saturating_sub(200)..at + form.len()])
                );
            }
        }
    }
    for shift in 0..3 {
        let code = base64(&SECRET.as_bytes()[shift..]);
        let whole = &code.as_bytes()[..code.len() - 4];
        assert!(memchr::memmem::find(bytes, &whole[..16]).is_none(), "{what} shows {code}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}
