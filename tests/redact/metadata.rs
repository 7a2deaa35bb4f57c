//! What a file says beside its packets, and how the command is used.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::files::{Capture, End, Link, Talk, block, half, option, padded, section, word};
use super::{Place, SECRET, assert_hidden, gate, text, tls2pcap, tshark};

fn talk(link: Link) -> Capture {
    let mut capture = Capture::new(link);
    let mut talk = Talk::open(&mut capture, 2000);
    talk.say(
        End::Client,
        format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a={SECRET}\r\n\r\n").as_bytes(),
        1000,
    );
    capture.packets[0].comment = format!(
        "tls2pcap=1 conn=1 pid=7 comm=curl exe=/usr/bin/curl cookie=123 start=1.0 library=/x?token={SECRET}"
    );
    capture.packets[3].comment = format!("my note: password: {SECRET}");
    capture
}

#[test]
fn comments_names_and_blocks() {
    let place = Place::new();
    for big in [false, true] {
        let end = [0; 4];
        let head = [
            section(big),
            option(big, 1, format!("tls2pcap -o x -- curl -u me:{SECRET} https://a/").as_bytes()),
            option(big, 4, b"tls2pcap 0.1.0"),
            option(big, 77, SECRET.as_bytes()),
            end.to_vec(),
        ]
        .concat();
        let interface = [
            half(big, 1),
            vec![0; 6],
            option(big, 2, b"curl[7]"),
            option(
                big,
                3,
                format!("curl -H 'X-Api-Key: {SECRET}' --oauth2-bearer {SECRET} https://a/").as_bytes(),
            ),
            end.to_vec(),
        ]
        .concat();
        let keys = format!("CLIENT_RANDOM {SECRET} {SECRET}\n");
        let blocks = [
            block(big, 0x0a0d_0d0a, &head),
            block(big, 1, &interface),
            block(
                big,
                10,
                &[word(big, 0x544c_534b), word(big, keys.len() as u32), padded(keys.as_bytes())].concat(),
            ),
            block(big, 0x0bad, &[word(big, 32_473), padded(SECRET.as_bytes())].concat()),
            block(big, 0x7777, &padded(SECRET.as_bytes())),
            talk(Link::Ethernet).pcapng(big)[28 + 20..].to_vec(),
        ]
        .concat();
        let input = place.write("in.pcapng", &blocks);
        let output = place.redact(&input, &[]);
        let bytes = std::fs::read(&output).unwrap();
        assert_hidden(&bytes, "the file");
        let mark = format!("tls2pcap=1 redacted={} level=secrets redact_format=1", env!("CARGO_PKG_VERSION"));
        // Two packets have a comment more: with options before, and without.
        let said = ["named-value", "cookie,named-value"].map(|kind| format!("tls2pcap=1 redacted={kind}"));
        let comments: usize = said.iter().map(|said| 4 + said.len().next_multiple_of(4)).sum();
        assert!(said.iter().all(|said| memchr::memmem::find(&bytes, said.as_bytes()).is_some()));
        assert_eq!(bytes.len(), blocks.len() + 4 + mark.len().next_multiple_of(4) + comments);
        for kept in [
            mark.as_bytes(),
            b"-- curl -u ",
            b" https://a/",
            b"curl[7]",
            b"cookie=123 start=1.0 library=/x?token=",
        ] {
            assert!(memchr::memmem::find(&bytes, kept).is_some(), "{}", String::from_utf8_lossy(kept));
        }
        for (_, program) in gate::tsharks() {
            assert_eq!(
                tshark(program, &output, &[]).lines().count(),
                tshark(program, &input, &[]).lines().count()
            );
        }
        let check = tls2pcap(&["redact", "--check", text(&input)], &[]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(said.contains("-\t-\tprivate key") && said.contains("4\t-\tnamed value"), "{said}");
    }
}

#[test]
fn files_pipes_and_compression() {
    let place = Place::new();
    let pcapng = talk(Link::Raw).pcapng(false);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&pcapng).unwrap();
    let packed = place.write("in.pcapng.gz", &packer.finish().unwrap());
    let key = place.write("key", &[1; 16]);
    let (plain, again) = (place.path("out.pcapng"), place.path("out.pcapng.gz"));
    for output in [&plain, &again] {
        let done = tls2pcap(&["redact", text(&packed), "-o", text(output), "--key", text(&key)], &[]);
        assert!(done.status.success());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains("packets changed") && said.contains("cookie (1)"), "{said}");
        assert_eq!(std::fs::metadata(output).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut unpacked = Vec::new();
    let bytes = std::fs::read(&again).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut unpacked).unwrap();
    assert!(unpacked == std::fs::read(&plain).unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_tls2pcap"))
        .args(["redact", "-", "-o", "-", "-q", "--key", text(&key)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&pcapng).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout == unpacked && output.stderr.is_empty());
}

#[test]
fn what_cannot_be_is_refused() {
    let place = Place::new();
    let pcap = place.write("in.pcap", &talk(Link::Raw).pcap());
    let before = std::fs::read(&pcap).unwrap();
    std::os::unix::fs::symlink(&pcap, place.path("link.pcap")).unwrap();
    let link = place.path("link.pcap");
    let other = place.path("out.pcapng");
    let nothing = place.write("text.pcap", b"no capture at all");
    for (args, status, says) in [
        (vec!["redact", text(&pcap), "-o", text(&pcap)], 2, "overwritten"),
        (vec!["redact", text(&pcap), "-o", text(&link)], 2, "overwritten"),
        (vec!["redact", text(&pcap), "-o", text(&other)], 2, "name the output .pcap"),
        (vec!["redact", text(&pcap)], 2, "--output"),
        (vec!["redact", text(&nothing), "-o", "x.pcap"], 1, "neither pcapng nor pcap"),
        (vec!["redact", "/nonexistent", "-o", "x.pcap"], 1, "No such file"),
        (vec!["redact", text(&pcap), "-o", "x.pcap", "--pattern", "("], 2, "--pattern"),
        (vec!["redact", text(&pcap), "--check", "-o", "x.pcap"], 2, "--check"),
    ] {
        let done = tls2pcap(&args, &[]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    assert!(std::fs::read(&pcap).unwrap() == before);
}
