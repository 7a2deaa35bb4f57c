//! The formats of capture files, and who reads them.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::files::{blocks, halfway, sees_the_page};
use crate::support::capture::{Finished, TLS2PCAP};
use crate::support::nginx::Nginx;
use crate::support::{Test, assert_same_bytes, begin, run, tshark};

/// What is in a compressed file; fails if that is not whole.
#[track_caller]
fn unzipped(file: &Path) -> Vec<u8> {
    run(Command::new("gzip").arg("-dc").arg(file))
}

#[test]
fn gzip_is_whole_while_it_grows_and_after_kill_9() {
    let test = begin!();
    let file = test.path("out.pcapng.gz");
    let (_nginx, mut client, mut running) = halfway(&test, test.capture().output(&file));
    sees_the_page(&file);
    assert!(blocks(&unzipped(&file)) > 5);
    running.process.signal(Signal::SIGKILL);
    running.process.wait();
    sees_the_page(&file);
    assert!(blocks(&unzipped(&file)) > 5);
    client.go_on();
    client.wait_ok();
}

/// Captures as many programs as there are URLs, one after the other.
fn programs(test: &Test, nginx: &Nginx, name: &str, args: &[&str], count: usize) -> Finished {
    let (cert, url) = (&nginx.site.cert, nginx.site.url("/page.html"));
    let curl = format!("curl -sS --http1.1 --cacert {cert} -o /dev/null {url};");
    let script = format!("{} true", curl.repeat(count));
    test.capture().output(test.path(name)).args(args).run(&["sh", "-c", &script]).ok()
}

/// How many packets tcpdump, and so whatever uses libpcap, reads in a file that it must read to its end.
#[track_caller]
fn of_libpcap(file: &Path) -> usize {
    run(Command::new("tcpdump").arg("-nr").arg(file)).split(|b| *b == b'\n').filter(|l| !l.is_empty()).count()
}

#[test]
fn libpcap_reads_files_of_none_one_and_three_programs() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    for count in [0, 1, 3] {
        for name in ["a.pcapng", "a.pcap"] {
            let finished = programs(&test, &nginx, name, &[], count);
            for tshark in tshark::oracles() {
                let answers = tshark.fields(&finished.file, "http.response", &["http.response.code"]);
                assert_eq!(answers, vec![["200"]; count], "{name} {}", tshark.version);
                let all = tshark.fields(&finished.file, "", &["frame.number"]).len();
                assert_eq!(of_libpcap(&finished.file), all, "{name} of {count}");
            }
        }
    }
}

#[test]
fn classic_pcap_has_the_packets_of_the_recording() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let record = test.text("r.t2p");
    let finished = programs(&test, &nginx, "live.pcap", &["--record", &record], 3);
    assert!(finished.stderr.contains("classic pcap"), "{}", finished.stderr);
    let replay = |name: &str, args: &[&str]| {
        let file = test.path(name);
        run(Command::new(TLS2PCAP).args(["replay", &record, "-q", "-o"]).arg(&file).args(args));
        file
    };
    let live = fs::read(&finished.file).unwrap();
    assert_same_bytes("the replayed pcap", &fs::read(replay("b.pcap", &[])).unwrap(), &live);
    assert_same_bytes("the compressed pcap", &unzipped(&replay("b.pcap.gz", &[])), &live);
    let plain = fs::read(replay("b.pcapng", &[])).unwrap();
    assert_same_bytes("the compressed pcapng", &unzipped(&replay("b.pcapng.gz", &[])), &plain);
    let shown = ["frame.time_epoch", "frame.len", "ip.src", "tcp.seq_raw", "tcp.len", "http.request.uri"];
    for tshark in tshark::oracles() {
        let expected = tshark.fields(&test.path("b.pcapng"), "", &shown);
        // Without those that acknowledge, of which there are fewer if several fall on one moment.
        assert!(expected.len() > 24);
        for name in ["live.pcap", "b.pcap.gz", "b.pcapng.gz"] {
            assert_eq!(tshark.fields(&test.path(name), "", &shown), expected, "{name} {}", tshark.version);
        }
        // What makes classic pcap of a pcapng that is there already.
        let editcap = tshark.path().to_string_lossy().replace("tshark", "editcap");
        let made = test.path("made.pcap");
        run(Command::new(editcap).args(["-F", "nsecpcap"]).arg(test.path("b.pcapng")).arg(&made));
        assert_eq!(tshark.fields(&made, "", &shown), expected, "{}", tshark.version);
        assert_eq!(of_libpcap(&made), expected.len());
    }
}

#[test]
fn names_of_other_formats_are_refused() {
    for name in ["x.pcapng.zst", "x.cap", "x.json"] {
        let test = Test::unprivileged(name);
        let file = test.path(name);
        let finished = test.capture().output(&file).run(&["true"]);
        finished.failed(2, &["name it .pcapng"]);
        assert!(!file.exists());
    }
}
