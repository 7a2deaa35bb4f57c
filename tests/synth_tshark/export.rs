//! What *Export Objects* saves of HTTP/2, which is a matter of the release and not of the file: each
//! does the same with a capture of encrypted packets that brings its keys.

use std::fs;

use super::*;

/// Packets of curl asking nginx for `/fx1` to `/fx3` over TLS, taken by tcpdump, and the secrets.
const ENCRYPTED: &str = "fixtures/captures/http2-with-keys.pcapng";

/// Whether a release knows objects of HTTP/2; `None` if that was not measured (between 4.0 and 4.4).
fn exports_http2(tshark: &Path) -> Option<bool> {
    let output = Command::new(tshark).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    match (numbers.next()?, numbers.next()?) {
        (..=3, _) | (4, 0) => Some(false),
        (4, 1..=3) => None,
        _ => Some(true),
    }
}

/// The bodies that *Export Objects* saves, sorted.
fn exported(tshark: &Path, file: &Path) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let to = format!("http,{}", dir.path().display());
    let mut command = Command::new(tshark);
    let output = command.arg("-r").arg(file).args(["-q", "--export-objects", &to]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", tshark.display());
    let files = fs::read_dir(dir.path()).unwrap();
    let mut objects: Vec<_> = files.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    objects.sort();
    objects
}

/// The body that is shown with the last frame of each stream.
fn shown(tshark: &Path, file: &Path) -> Vec<Vec<u8>> {
    let mut command = Command::new(tshark);
    command.arg("-r").arg(file).args(["-Y", "http2.type == 0 && http2.flags.end_stream == 1"]);
    let output = command.args(["-T", "fields", "-e", "http2.data.data"]).output().unwrap();
    assert!(output.status.success(), "{}", tshark.display());
    let text = String::from_utf8(output.stdout).unwrap();
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    let hex = text.lines().flat_map(|line| line.split(','));
    let mut bodies: Vec<Vec<u8>> = hex
        .map(|body| body.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect())
        .collect();
    bodies.sort();
    bodies
}

/// Each judge saves the bodies if its release knows how, and shows them in any case.
fn check(file: &Path, bodies: &[Vec<u8>], more: Option<&[u8]>) {
    for tshark in judges() {
        let judge = tshark.display();
        assert_eq!(shown(&tshark, file), bodies, "{judge} shows of {}", file.display());
        let Some(knows) = exports_http2(&tshark) else {
            skipped(&format!("what {judge} saves"), "its release was not measured");
            continue;
        };
        let mut expected = if knows { bodies.to_vec() } else { Vec::new() };
        expected.extend(more.map(<[u8]>::to_vec));
        expected.sort();
        assert_eq!(exported(&tshark, file), expected, "{judge} saves of {}", file.display());
        // Which answer belongs to which request is known by the same releases.
        let mut command = Command::new(&tshark);
        command.arg("-r").arg(file).args(["-Y", "http2.request_in && http2.time", "-T", "fields"]);
        let output = command.args(["-e", "http2.streamid"]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let streams = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(streams, if knows { bodies.len() } else { 0 }, "{judge}: {errors}");
        assert_eq!(errors.contains("http2.request_in"), !knows, "{judge}: {errors}");
    }
}

#[test]
fn objects_of_http2() {
    let settings = frame(4, 0, 0, b"");
    let bodies: Vec<Vec<u8>> = (0..50u8).map(|n| vec![b'a' + n % 26; 10 + usize::from(n)]).collect();
    for carrier in [Carrier::Plain, Carrier::Tls] {
        let synthesizer = Synthesizer::new(Ports::Decode).with_carrier(carrier);
        let mut capture = Capture::of(&format!("export-{carrier:?}"), synthesizer);
        capture.open(connection(1, "10.0.0.1:41000", "10.0.0.2:443"));
        let first = [PREFACE, &settings].concat();
        capture.say(1, Client, &first);
        capture.say(1, Server, &settings);
        for (n, body) in bodies.iter().enumerate() {
            let stream = 2 * n as u32 + 1;
            capture.say(1, Client, &request(stream, &format!("/{n}")));
            // In one frame, or in two of two calls.
            if n % 2 == 0 {
                capture.say(1, Server, &response(stream, body));
            } else {
                let (begin, end) = body.split_at(5);
                capture.say(1, Server, &[frame(1, 4, stream, &[0x88]), frame(0, 0, stream, begin)].concat());
                capture.say(1, Server, &frame(0, 1, stream, end));
            }
        }
        capture.end(1);
        capture.close();
        capture.is_clean();
        let mut sorted = bodies.clone();
        sorted.sort();
        // The client's first packet looks like a request of HTTP/1 to each release.
        check(&capture.path, &sorted, (carrier == Carrier::Plain).then_some(&first));
    }
}

#[test]
fn objects_of_encrypted_http2() {
    let bodies: Vec<_> = (1..=3).map(|n| format!("object {n}\n").into_bytes()).collect();
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join(ENCRYPTED), &bodies, None);
}
