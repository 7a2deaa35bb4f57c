//! Where tls2pcap must refuse, and with how few rights it works.

use std::fs;
use std::path::Path;

use crate::support::Finished;

/// What a script left of one attempt.
#[track_caller]
fn attempt(out: &Path, name: &str) -> Finished {
    let read = |kind: &str| {
        let path = out.join(format!("{name}.{kind}"));
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let text = |kind: &str| String::from_utf8_lossy(&read(kind)).into_owned();
    Finished {
        status: text("status").trim().parse().unwrap(),
        stdout: read("out"),
        stderr: text("err"),
        file: out.join(format!("{name}.pcapng")),
    }
}

/// The capture was refused: this status, one message with one of `words`, and nothing else.
#[track_caller]
fn refused(out: &Path, name: &str, status: i32, words: &[&str]) {
    let finished = attempt(out, name);
    finished.failed(status, words);
    assert!(finished.stdout.is_empty(), "{finished:?}");
    let lines = finished.stderr.lines().count();
    assert!(
        (1..=3).contains(&lines),
        "{lines} lines instead of a message and its cure:\n{}",
        finished.stderr
    );
}

/// `lacks` are the back ends that the kernel does not have.
pub fn refused_or_with_few_rights(out: &Path, lacks: &[&str]) {
    for backend in lacks {
        refused(out, &format!("no-{backend}"), 4, &[backend]);
    }
    refused(out, "no-btf", 4, &["btf"]);
    refused(out, "no-rights", 3, &["sudo", "cap_bpf"]);
    let report: serde_json::Value =
        serde_json::from_slice(&attempt(out, "doctor").stdout).expect("doctor writes JSON");
    assert_eq!(report["kernel"]["tried"]["refused"], serde_json::json!([]));
    for name in ["few-command", "few-pid"] {
        let finished = attempt(out, name).ok();
        for (view, tshark) in finished.views() {
            assert_eq!(view.responses(), [200], "{name}, says tshark {}", tshark.version);
            assert_eq!(view.only().comment.number("uid"), 1000, "{name}");
        }
    }
}

/// A kernel that lets nobody read the memory of programs.
pub fn locked_down(out: &Path) {
    refused(out, "lockdown", 3, &["lockdown"]);
}
