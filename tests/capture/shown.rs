//! What is shown while a capture goes on (`-f`): the same as the file shows later.

use std::process::Command;

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::{Nginx, PAGE};
use crate::support::{Test, begin, run};

fn command(nginx: &Nginx, protocol: &str, test: &Test) -> Vec<String> {
    let words = [
        "curl",
        "-sS",
        "--cacert",
        &nginx.site.cert,
        protocol,
        "-o",
        &test.text("body"),
        &nginx.site.url("/page.html"),
    ];
    words.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_shown_live_is_what_the_file_shows() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    for protocol in ["--http1.1", "--http2"] {
        for format in ["text", "json", "hex"] {
            let finished = test.capture().args(&["-f", format]).run(&command(&nginx, protocol, &test)).ok();
            let mut read = Command::new(TLS2PCAP);
            let later = run(read.arg("read").arg(&finished.file).args(["-f", format]));
            let later = String::from_utf8(later).unwrap();
            assert_eq!(finished.text(), later, "{protocol} {format}");
            assert!(later.contains(if format == "hex" { "|" } else { "/page.html" }), "{later}");
        }
    }
}

#[test]
fn no_file_is_needed_and_the_command_does_not_write_between() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let mut words = command(&nginx, "--http1.1", &test);
    words.retain(|word| *word != "-o" && *word != test.text("body"));
    let mut capture = Command::new(TLS2PCAP);
    capture.args(["-f", "json", "--body", "1M", "--"]).args(&words).current_dir(test.path("."));
    let output = capture.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let records: Vec<serde_json::Value> = shown.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let response = records.iter().find(|record| record["kind"] == "response").unwrap();
    assert_eq!(response["body"]["text"], PAGE);
    assert!(String::from_utf8_lossy(&output.stderr).contains(PAGE), "the command's own output");
}

#[test]
fn a_reader_that_leaves_ends_a_capture_that_goes_nowhere_else() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let words = command(&nginx, "--http1.1", &test);
    // `true` reads nothing.
    let line = format!("{TLS2PCAP} -f text -- {} | true; exit ${{PIPESTATUS[0]}}", words.join(" "));
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
