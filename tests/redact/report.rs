//! `tls2pcap report`: what is in a bundle, and what is not.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::files::{Capture, End, Link, Talk, block, half, option, padded, section, word};
use super::{Place, SECRET, assert_hidden, gate, text, tls2pcap, tshark};

/// Several connections: of two processes, to two hosts; one with a failed exchange, one without an answer, one of TLS.
fn connections(link: Link) -> Capture {
    let mut capture = Capture::new(link);
    let get = |path: &str, host: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: sid={SECRET}\r\n\r\n").into_bytes()
    };
    let answer = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    for (port, path, host, status) in
        [(3000, "/ok", "a.example", "200 OK"), (3001, "/broken|x", "b.example:8443", "503 Down")]
    {
        let mut talk = Talk::open(&mut capture, port);
        talk.say(End::Client, &get(path, host), 50);
        talk.say(End::Server, &answer(status, &format!("{{\"token\":\"{SECRET}\"}}")), 1000);
        talk.close();
    }
    let mut talk = Talk::open(&mut capture, 3002);
    talk.say(End::Client, &get("/silent", "a.example"), 1000);
    talk.close();
    let mut talk = Talk::open(&mut capture, 3003);
    talk.say(End::Client, &[&[0, 1, 2][..], SECRET.as_bytes()].concat(), 1000);
    talk.close();
    capture.packets[0].comment = format!(
        "tls2pcap=1 conn=1 pid=7 comm=curl exe=/usr/bin/curl library=/x?token={SECRET} sni=a.example proto=http/1"
    );
    capture
}

/// As pcapng, packets of the second connection on an interface of another process.
fn pcapng(capture: &Capture) -> Vec<u8> {
    let named =
        |name: &str| [half(false, 1), vec![0; 6], option(false, 2, name.as_bytes()), vec![0; 4]].concat();
    let head =
        [section(false), option(false, 3, b"Linux 6.1"), option(false, 4, b"tls2pcap 0.1.0"), vec![0; 4]]
            .concat();
    let mut file = block(false, 0x0a0d_0d0a, &head);
    file.extend(block(false, 1, &named("wget[8]")));
    file.extend(block(false, 1, &named("curl[7]")));
    for (i, packet) in capture.packets.iter().enumerate() {
        let is_second = packet.bytes.windows(2).any(|two| two == 3001u16.to_be_bytes());
        let words =
            [u32::from(!is_second), 0x0006_0b00, i as u32 * 10, packet.bytes.len() as u32, packet.len as u32];
        let mut body: Vec<u8> = words.iter().flat_map(|w| word(false, *w)).collect();
        body.extend(padded(&packet.bytes));
        if !packet.comment.is_empty() {
            body.extend(option(false, 1, packet.comment.as_bytes()));
            body.extend([0; 4]);
        }
        file.extend(block(false, 6, &body));
    }
    let lost = format!("tls2pcap=1 missing=100 reason=ring-full exe=/x?token={SECRET}");
    for interface in [0, 1] {
        let statistics =
            [word(false, interface), vec![0; 8], option(false, 1, lost.as_bytes()), vec![0; 4]].concat();
        file.extend(block(false, 5, &statistics));
    }
    file
}

/// Makes a bundle; gives what is in it, and checks what must hold of any.
fn bundle(place: &Place, input: &Path, args: &[&str]) -> HashMap<String, Vec<u8>> {
    let path = place.path("bundle.zip");
    let done = tls2pcap(&["report", text(input), "-o", text(&path)], args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    let mut zip = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
    let mut files = HashMap::new();
    for i in 0..zip.len() {
        let mut file = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let name = file.name().unwrap().into_owned();
        assert_hidden(&bytes, &name);
        files.insert(name, bytes);
    }
    assert_hidden(&done.stderr, "what is said");
    let name = if files.contains_key("capture.pcap") { "capture.pcap" } else { "capture.pcapng" };
    let capture = place.write(name, &files[name]);
    let check = tls2pcap(&["redact", "--check", text(&capture)], &[]);
    assert_eq!(check.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&check.stdout));
    serde_json::from_slice::<serde_json::Value>(&files["doctor.json"]).unwrap();
    files.insert("capture".into(), files[name].clone());
    files
}

fn summary(files: &HashMap<String, Vec<u8>>) -> String {
    String::from_utf8(files["summary.md"].clone()).unwrap()
}

/// Where an answer is missing, no request gets that of another.
#[test]
fn answers_behind_a_missing_one() {
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    let mut talk = Talk::open(&mut capture, 3000);
    let answer = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi").into_bytes();
    for (path, status) in
        [("/zero", Some("204 No")), ("/one", None), ("/two", Some("503 Down")), ("/three", Some("200 OK"))]
    {
        talk.say(End::Client, format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes(), 1000);
        match status {
            Some(status) => talk.say(End::Server, &answer(status), 1000),
            None => talk.skip(End::Server, answer("500 Lost").len()),
        }
    }
    talk.close();
    let input = place.write("in.pcap", &capture.pcap());
    let text = summary(&bundle(&place, &input, &[]));
    let row = |what: &str| {
        let rows = text[text.find("## Exchanges").unwrap()..].lines();
        let mut rows = rows.filter(|line| line.contains(what));
        rows.next().unwrap_or_else(|| panic!("{what} is not in {text}")).to_owned()
    };
    assert!(row("/zero").contains("| 204 |"), "{text}");
    assert!(row("/one").contains("| - ✗ |"), "{text}");
    assert!(!row("/two").contains("200"), "{text}");
    assert!(row("/three").contains("| 200 |"), "{text}");
    assert!(row("503").contains("/two") || row("503").contains("not captured"), "{text}");
    assert!(text.contains("no answer in the capture") && !text.contains("connection closed"), "{text}");
}

/// What each tshark says of a field in the capture of the bundle; each value once.
fn shown(place: &Place, field: &str) -> Vec<String> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for (_, program) in gate::tsharks() {
        let said = tshark(program, &place.path("capture.pcapng"), &["-T", "fields", "-e", field]);
        let mut values: Vec<String> =
            said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        values.sort();
        values.dedup();
        all.push(values);
    }
    all.dedup();
    assert_eq!(all.len(), 1, "releases of tshark differ: {all:?}");
    all.remove(0)
}

#[test]
fn a_bundle_says_what_failed_and_shows_no_secret() {
    let place = Place::new();
    let input = place.write("in.pcapng", &pcapng(&connections(Link::Ethernet)));
    let files = bundle(&place, &input, &[]);
    let text = summary(&files);
    for row in [
        "3 exchanges on 4 connections",
        "**2 failed**",
        "| 1 | `GET /broken\\|x` | `b.example:8443` | status 503 |",
        "| 2 | `GET /silent` | `a.example` | connection closed before the answer |",
        "| 0 | `GET /ok` | `a.example` | 200 |",
        "| 0 | `curl[7]` | `10.0.0.1:3000` | `10.0.0.2:80` | `a.example` | `http/1` |",
        "`missing=100 reason=ring-full",
        "kernel: `Linux 6.1",
        "| cookie | 3 |",
        "| protocol-not-understood | 1 |",
    ] {
        assert!(text.contains(row), "{row} is missing:\n{text}");
    }
    let failed = text.split("## Exchanges").next().unwrap();
    assert!(failed.contains("/broken") && !failed.contains("/ok"), "failures come first:\n{text}");
    let places = String::from_utf8(files["replaced.tsv"].clone()).unwrap();
    assert!(places.lines().any(|line| line.ends_with("\t0\tcookie")), "{places}");
    assert_eq!(shown(&place, "tcp.stream"), ["0", "1", "2", "3"]);
}

#[test]
fn choices_keep_whole_connections() {
    let place = Place::new();
    let input = place.write("in.pcapng", &pcapng(&connections(Link::Ethernet)));
    for (args, hosts, interfaces) in [
        (&["--errors"][..], &["a.example", "b.example:8443"][..], &["curl[7]", "wget[8]"][..]),
        (&["--process", "wget"], &["b.example:8443"], &["wget[8]"]),
        (&["--process", "7", "--errors"], &["a.example"], &["curl[7]"]),
        (&["--host", "B.example"], &["b.example:8443"], &["wget[8]"]),
        (&["--conn", "0"], &["a.example"], &["curl[7]"]),
        (&["--host", "10.0.0.2", "--conn", "1"], &[], &[]),
        (&["--host", "10.0.0.2:80", "--conn", "1"], &["b.example:8443"], &["wget[8]"]),
        (&["--since", "1s"], &["a.example", "b.example:8443"], &["curl[7]", "wget[8]"]),
    ] {
        if hosts.is_empty() {
            continue;
        }
        let files = bundle(&place, &input, args);
        let whole = memchr::memmem::find(&files["capture"], b"wget[8]").is_some();
        assert_eq!(whole, interfaces.contains(&"wget[8]"), "{args:?}: names of other processes go");
        assert_eq!(shown(&place, "http.host"), hosts, "{args:?}");
        assert_eq!(shown(&place, "frame.interface_name"), interfaces, "{args:?}");
        assert!(shown(&place, "_ws.malformed").is_empty());
    }
    for (args, hint) in [
        (&["--host", "c.example"][..], "hosts in it: a.example, b.example:8443"),
        (&["--process", "nobody"], "processes in it: curl[7], wget[8]"),
        (&["--conn", "9"], "numbered from 0 to 3"),
    ] {
        let output = place.path("none.zip");
        let done = tls2pcap(&["report", text(&input), "-o", text(&output)], args);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(2) && said.contains(hint), "{said}");
        assert!(!output.exists());
    }
}

#[test]
fn other_captures_and_rules() {
    let place = Place::new();
    let capture = connections(Link::Cooked);
    let pcap = place.write("in.pcap", &capture.pcap());
    let text_of = summary(&bundle(&place, &pcap, &["--errors"]));
    assert!(text_of.contains("status 503") && text_of.contains("cookie"), "{text_of}");
    let done = tls2pcap(&["report", text(&pcap), "-o", text(&place.path("x.zip"))], &["--process", "curl"]);
    assert_eq!(done.status.code(), Some(2));
    let rules = place.write("rules", b"# ours\npattern /br[a-z]+\n");
    let text_of = summary(&bundle(&place, &pcap, &["--rules", text(&rules), "--level", "shape"]));
    assert!(!text_of.contains("/broken") && text_of.contains("level=shape"), "{text_of}");
    // A file that is cut short is taken as far as it goes.
    let bytes = capture.pcap();
    let cut = place.write("cut.pcap", &bytes[..bytes.len() - 5]);
    assert!(summary(&bundle(&place, &cut, &[])).contains("The capture is damaged"));
    let empty = place.write("empty.pcap", &Capture::new(Link::Ethernet).pcap());
    let fine = place.write("fine.pcap", &{
        let mut capture = Capture::new(Link::Ethernet);
        let mut talk = Talk::open(&mut capture, 3000);
        talk.say(End::Client, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 1000);
        talk.say(End::Server, b"HTTP/1.1 204 No Content\r\n\r\n", 1000);
        talk.close();
        capture.pcap()
    });
    let missing = place.path("missing.pcap");
    let same = place.path("./fine.pcap");
    for (input, output, args, status, message) in [
        (&empty, "x.zip", &[][..], 0, "the capture has no TCP connection"),
        (&empty, "x.zip", &["--errors"], 2, "it has no TCP connection\n  leave the options out"),
        (&fine, "x.zip", &[], 0, " kB: the check found no secret"),
        (&fine, "x.zip", &["--errors"], 2, "no exchange has failed\n  leave --errors out"),
        (&fine, "x.zip", &["--conn", "7"], 2, "it has no connection 7\n  the only one has number 0"),
        (
            &fine,
            "x.zip",
            &["--host", "b.example"],
            2,
            "no connection is to or from b.example\n  hosts in it: a.example",
        ),
        (&fine, "x.zip", &["--host", "a.example", "--errors"], 2, "no exchange has failed"),
        (&pcap, "x.zip", &["--host", "a.example", "--conn", "1"], 2, "at once\n  leave one of them out"),
        (&fine, "no/x.zip", &[], 1, "x.zip: cannot be written: No such file or directory (os error 2)\n"),
        (&fine, "x.pcap", &[], 2, "the bundle is a zip file, not a capture"),
        (&missing, "x.zip", &[], 1, "No such file or directory (os error 2)\n  check its name"),
    ] {
        let _ = std::fs::remove_file(place.path("x.zip"));
        let done = tls2pcap(&["report", text(input), "-o", text(&place.path(output))], args);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains(message), "{args:?} {output}: {message} is not in {said}");
        assert_eq!(done.status.code(), Some(status), "{args:?} {output}: {said}");
        assert!(status == 0 || !place.path(output).exists(), "{said}");
    }
    let before = std::fs::read(&fine).unwrap();
    let link = place.path("link.zip");
    std::os::unix::fs::symlink(&fine, &link).unwrap();
    let done = tls2pcap(&["report", text(&fine), "-o", text(&link)], &[]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("the capture would be overwritten"));
    assert_eq!((done.status.code(), std::fs::read(&same).unwrap()), (Some(2), before));
    let nothing = place.write("nothing.pcap", b"no capture");
    let done = tls2pcap(&["report", text(&nothing), "-o", text(&place.path("x.zip"))], &[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(!place.path("x.zip").exists());
    // Nothing is left in the folder for temporary files either.
    let room = place.path("room");
    std::fs::create_dir(&room).unwrap();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_tls2pcap"))
        .args(["report", text(&pcap), "-o", text(&place.path("y.zip"))])
        .env("TMPDIR", &room)
        .output()
        .unwrap();
    assert!(done.status.success() && room.read_dir().unwrap().next().is_none());
}
