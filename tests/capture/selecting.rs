//! Filter expressions on real programs.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::Nginx;
use crate::support::{Process, begin, tshark, until};

#[test]
fn a_pid_in_an_expression_says_whom_to_capture() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (file, ready) = (test.path("out.pcapng"), test.path("ready"));
    let (worker, port) = (nginx.worker().to_string(), nginx.site.address.port().to_string());
    let mut command = Command::new(TLS2PCAP);
    command.arg("-w").arg(&file).arg("--ready-file").arg(&ready);
    command.args(["pid", &worker, "and", "role", "server", "and", "dst", "port", &port]);
    let mut running = Process::start(&mut command, test.path("tls2pcap.err"));
    until("tls2pcap to be ready", || {
        assert!(running.ended().is_none(), "{}", running.stderr());
        (fs::read(&ready).ok()? == b"ready\n").then_some(())
    });
    let url = nginx.site.url("/page.html");
    let curl = Command::new("curl").args(["-sS", "--cacert", &nginx.site.cert, &url]).output().unwrap();
    assert!(curl.status.success(), "{curl:?}");
    running.signal(Signal::SIGINT);
    assert!(running.wait().success());
    for tshark in tshark::oracles() {
        let view = tshark.read(&file);
        view.assert_clean_but(&tshark.version, |_| false);
        let connection = view.only();
        assert_eq!((connection.comment.get("pid"), connection.comment.get("role")), (&worker[..], "server"));
    }
}

#[test]
fn what_an_expression_leaves_out_is_counted() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (cert, page) = (&nginx.site.cert, nginx.site.url("/page.html"));
    let script = format!(
        "curl -sS --http1.1 --cacert {cert} -o /dev/null {page}; curl -sS --http2 --cacert {cert} -o /dev/null {page}"
    );
    let words = ["proto", "http/2", "or", "comm", "wget"];
    let finished = test.capture().args(&words).run(&["sh", "-c", &script]).ok();
    assert!(finished.stderr.contains("1 connection left out by the filter"), "{}", finished.stderr);
    for (view, _) in finished.views() {
        assert_eq!(view.only().comment.get("proto"), "http/2");
    }
}
