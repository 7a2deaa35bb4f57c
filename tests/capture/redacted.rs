//! `--redact` and `report`: a real client and a real server, whose secrets reach no file.

use std::fs;
use std::io::Read;
use std::process::Command;

use crate::support::begin;
use crate::support::capture::TLS2PCAP;
use crate::support::nginx::Nginx;

const SECRET: &str = "hunter2Correct77Horse9Battery";

/// What curl says to nginx, over HTTP/1 and HTTP/2; one page is not there.
fn words(nginx: &Nginx) -> Vec<String> {
    let cert = &nginx.site.cert;
    let (page, none) = (nginx.site.url("/page.html"), nginx.site.url(&format!("/none?token={SECRET}")));
    let ask = |version: &str, url: &str| {
        format!(
            "curl -sS {version} --cacert {cert} -o /dev/null -H 'Authorization: Bearer {SECRET}' -b sid={SECRET} '{url}'"
        )
    };
    let script = [ask("--http1.1", &page), ask("--http2", &page), ask("--http2", &none)].join("; ");
    ["sh", "-c", &script].map(str::to_owned).into()
}

fn assert_hidden(what: &str, bytes: &[u8]) {
    for start in 0..=SECRET.len() - 9 {
        let part = &SECRET.as_bytes()[start..start + 9];
        assert!(
            memchr::memmem::find(bytes, part).is_none(),
            "{what} shows {}",
            String::from_utf8_lossy(part)
        );
    }
}

#[test]
fn nothing_unredacted_reaches_the_file() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let finished = test.capture().args(&["--redact"]).run(&words(&nginx)).ok();
    let bytes = fs::read(&finished.file).unwrap();
    assert_hidden("the file", &bytes);
    assert!(finished.stderr.contains("note: redacted: "), "{}", finished.stderr);
    let check = Command::new(TLS2PCAP).args(["redact", "--check"]).arg(&finished.file).output().unwrap();
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stdout));
    for kept in [&b"GET /page.html HTTP/1.1"[..], b"Authorization: Bearer ", b"redacted=authorization,cookie"]
    {
        assert!(memchr::memmem::find(&bytes, kept).is_some(), "{} is gone", String::from_utf8_lossy(kept));
    }
    for (view, tshark) in finished.views() {
        assert!(!view.packets.is_empty(), "tshark {} reads nothing", tshark.version);
    }
}

#[test]
fn a_report_of_a_command() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (bundle, room) = (test.path("bundle.zip"), test.folder("room"));
    let words = words(&nginx);
    let done = Command::new(TLS2PCAP)
        .args(["report", "--errors", "-o"])
        .arg(&bundle)
        .arg("--")
        .args(&words)
        .env("TMPDIR", &room)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(fs::read_dir(&room).unwrap().next().is_none(), "something is left behind");
    let mut zip = zip::ZipArchive::new(fs::File::open(&bundle).unwrap()).unwrap();
    let mut summary = String::new();
    for i in 0..zip.len() {
        let mut file = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let name = file.name().unwrap().into_owned();
        assert_hidden(&name, &bytes);
        if name == "summary.md" {
            summary = String::from_utf8(bytes).unwrap();
        }
    }
    assert!(summary.contains("1 exchange on 1 connection of `curl["), "{summary}");
    assert!(summary.contains("`GET /none?token=") && summary.contains("status 404"), "{summary}");
}
