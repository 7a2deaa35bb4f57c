//! Recordings of real captures (`fixtures/recordings`), replayed without privileges: what stock
//! tshark reads in the result is what it read when they were made, and no damage to a recording
//! makes the program fall over.
//!
//! `T2P_BLESS=1` writes the expected listings anew. The releases of tshark that tests/oracles fetched judge.

#[allow(dead_code)]
#[path = "capture/support/gate.rs"]
mod gate;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tls2pcap::event::recording::{Player, RecordingError};
use tls2pcap::pipeline::Pipeline;
use tls2pcap::synth::Ports;

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings");
    let mut all: Vec<PathBuf> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "t2p"))
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

/// Where a replay writes.
#[derive(Clone, Default)]
struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The capture file that a recording gives, and how reading the recording ended.
fn replay(recording: &[u8]) -> (Vec<u8>, Result<(), RecordingError>) {
    let file = Shared::default();
    let mut pipeline = Pipeline::new(file.clone(), Ports::Decode, None);
    let mut read = || {
        let mut player = Player::new(bytes::Bytes::copy_from_slice(recording))?;
        while let Some(record) = player.next_record()? {
            pipeline.record(&record).unwrap();
        }
        Ok(())
    };
    let end = read();
    if !pipeline.is_stopped() {
        pipeline.cut_short().unwrap();
    }
    pipeline.finish().unwrap();
    (file.0.take(), end)
}

/// Redaction in the line of rooms gives what redaction of the file gives: nothing to find, and the same packets.
#[test]
fn a_redacted_replay_has_the_same_packets() {
    let scratch = tempfile::tempdir().unwrap();
    let rules = scratch.path().join("rules");
    std::fs::write(&rules, "addresses pseudonyms\nnames pseudonyms\n").unwrap();
    let rules = rules.to_str().unwrap();
    for recording in recordings() {
        let mut listings = Vec::new();
        for args in [&[][..], &["--redact"], &["--redact", "--redact-rules", rules]] {
            let capture = scratch.path().join("out.pcapng");
            let tool = |args: &[&str]| {
                Command::new(env!("CARGO_BIN_EXE_tls2pcap")).args(args).arg(&capture).output().unwrap()
            };
            let replayed = Command::new(env!("CARGO_BIN_EXE_tls2pcap"))
                .arg("replay")
                .arg(&recording)
                .args(["-q", "-o"])
                .arg(&capture)
                .args(args)
                .output()
                .unwrap();
            assert!(replayed.status.success());
            if !args.is_empty() {
                let check = match args.len() {
                    1 => tool(&["redact", "--check"]),
                    _ => tool(&["redact", "--check", "--rules", rules]),
                };
                assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stdout));
                let marked = std::fs::read(&capture).unwrap();
                assert!(memchr::memmem::find(&marked, b"tls2pcap=1 redacted=").is_some());
            }
            for (_, tshark) in gate::tsharks() {
                let fields = ["-T", "fields", "-e", "frame.time", "-e", "frame.len", "-e", "frame.protocols"];
                let output =
                    Command::new(tshark).args(["-n", "-r"]).arg(&capture).args(fields).output().unwrap();
                listings.push(output.stdout);
            }
        }
        let mut kinds = listings.chunks(listings.len() / 3);
        let plain = kinds.next().unwrap();
        assert!(kinds.all(|redacted| plain == redacted) && !plain[0].is_empty(), "{}", recording.display());
        let filtered = Command::new(env!("CARGO_BIN_EXE_tls2pcap"))
            .arg("replay")
            .arg(&recording)
            .args(["-q", "-o", "-", "--redact", "--redact-rules", rules, "--host", "10.0.0.5"])
            .output()
            .unwrap();
        assert_eq!(filtered.status.code(), Some(2), "a filter would see pseudonyms");
    }
}

/// A part of a redacted capture is as clean as the whole: what is in another file, or was left out, does not count as
/// not understood.
#[test]
fn each_part_of_a_redacted_capture_passes_the_check() {
    let run =
        |args: &[&std::ffi::OsStr]| Command::new(env!("CARGO_BIN_EXE_tls2pcap")).args(args).output().unwrap();
    let several = [
        "-b packets:1",
        "-b packets:5 --framing tls",
        "-b packets:2 --comments none",
        "-b packets:3 --head 300",
        "-C 2k",
    ];
    let one = ["--head 40", "--head 150", "--no-reads", "--no-writes", "--sample 2"];
    for recording in recordings() {
        for name in ["out.pcapng", "out.pcap", "out.pcap.gz"] {
            for options in several.iter().chain(one.iter().filter(|_| name.ends_with("ng"))).chain(&[""]) {
                let scratch = tempfile::tempdir().unwrap();
                let out = scratch.path().join(name);
                let mut args =
                    vec!["replay".as_ref(), recording.as_os_str(), "-q".as_ref(), "--redact".as_ref()];
                args.extend(["-o".as_ref(), out.as_os_str()]);
                args.extend(options.split_whitespace().map(std::ffi::OsStr::new));
                let replayed = run(&args);
                assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
                let mut files: Vec<_> =
                    scratch.path().read_dir().unwrap().map(|file| file.unwrap().path()).collect();
                files.sort();
                assert!(!files.is_empty());
                for file in files {
                    let check = run(&["redact".as_ref(), "--check".as_ref(), file.as_os_str()]);
                    let said = String::from_utf8_lossy(&check.stdout).into_owned();
                    assert_eq!(check.status.code(), Some(0), "{} {options} {said}", file.display());
                }
            }
        }
    }
}

#[test]
fn tshark_reads_what_it_read_when_the_recordings_were_made() {
    let scratch = tempfile::tempdir().unwrap();
    for recording in recordings() {
        let (file, end) = replay(&std::fs::read(&recording).unwrap());
        end.unwrap();
        let capture = scratch.path().join("out.pcapng");
        std::fs::write(&capture, file).unwrap();
        let expected = recording.with_extension("txt");
        let bless = std::env::var_os("T2P_BLESS").is_some();
        for (i, (version, tshark)) in gate::tsharks().iter().enumerate() {
            let output = Command::new(tshark)
                .args(["-n", "-r"])
                .arg(&capture)
                .args(["-T", "fields", "-E", "separator=|"])
                .args(
                    [
                        "frame.number",
                        "frame.time_epoch",
                        "frame.interface_name",
                        "frame.packet_flags_direction",
                    ]
                    .iter()
                    .flat_map(|f| ["-e", f]),
                )
                .args(
                    ["tcp.srcport", "tcp.dstport", "tcp.len", "tcp.analysis.flags", "http.request.method"]
                        .iter()
                        .flat_map(|f| ["-e", f]),
                )
                .args(
                    ["http.response.code", "http2.headers.path", "http2.headers.status", "frame.comment"]
                        .iter()
                        .flat_map(|f| ["-e", f]),
                )
                .output()
                .unwrap();
            assert!(output.status.success(), "tshark {version}: {}", String::from_utf8_lossy(&output.stderr));
            let listing = String::from_utf8(output.stdout).unwrap();
            if bless && i == 0 {
                std::fs::write(&expected, &listing).unwrap();
            }
            let expected = std::fs::read_to_string(&expected).unwrap();
            assert_eq!(listing, expected, "tshark {version} of {}", recording.display());
        }
    }
}

#[test]
fn replay_gives_the_same_bytes_each_time() {
    for recording in recordings() {
        let bytes = std::fs::read(recording).unwrap();
        assert_eq!(replay(&bytes).0, replay(&bytes).0);
    }
}

#[test]
fn recording_cut_anywhere_keeps_what_came_before() {
    for recording in recordings() {
        let bytes = std::fs::read(&recording).unwrap();
        for end in (0..bytes.len()).step_by(7) {
            let (file, result) = replay(&bytes[..end]);
            // Where a record happens to end the rest is not missed.
            if let Err(error) = result {
                assert!(matches!(error, RecordingError::CutShort | RecordingError::NotARecording), "{error}");
            }
            assert!(file.is_empty() || file.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
        }
    }
}

/// Deterministic: xorshift with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn damaged_recordings_never_make_it_fall_over() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for recording in recordings() {
        let bytes = std::fs::read(&recording).unwrap();
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(8) {
                let at = random.below(damaged.len());
                damaged[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => damaged[at] ^ 1 << random.below(8),
                    _ => random.below(256) as u8,
                };
            }
            // Whatever it ends with, it ends.
            let _ = replay(&damaged);
        }
    }
}

#[test]
fn a_recording_is_not_overwritten_by_another_name() {
    let folder = std::env::temp_dir().join(format!("t2p-replay-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let recording = std::fs::read(&recordings()[0]).unwrap();
    std::fs::write(folder.join("r.t2p"), &recording).unwrap();
    std::os::unix::fs::symlink("r.t2p", folder.join("link")).unwrap();
    std::fs::hard_link(folder.join("r.t2p"), folder.join("hard")).unwrap();
    for output in ["r.t2p", "./r.t2p", "link", "hard"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
        let told = command.current_dir(&folder).args(["replay", "r.t2p", "-o", output]).output().unwrap();
        let text = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(2), "{output}: {text}");
        assert!(text.contains("the recording would be overwritten"), "{output}: {text}");
        assert_eq!(std::fs::read(folder.join("r.t2p")).unwrap(), recording, "{output}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_recording_without_its_end_is_told_from_a_whole_one() {
    let folder = std::env::temp_dir().join(format!("t2p-cut-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    for path in recordings() {
        let bytes = std::fs::read(&path).unwrap();
        let mut player = Player::new(bytes::Bytes::from(bytes.clone())).unwrap();
        let header = bytes.len() - player.records().len();
        let ends: Vec<usize> =
            std::iter::from_fn(|| player.next_at().unwrap()).map(|at| header + at.end).collect();
        let replayed = |len: usize| {
            std::fs::write(folder.join("r.t2p"), &bytes[..len]).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
            let told = command.current_dir(&folder).args(["replay", "r.t2p", "-o", "o"]).output().unwrap();
            (told.status.code(), String::from_utf8(told.stderr).unwrap())
        };
        let (status, whole) = replayed(bytes.len());
        assert_eq!(status, Some(0), "{whole}");
        // Behind the last record but one, and in the middle of the last.
        for end in [ends[ends.len() - 2], bytes.len() - 1] {
            let (status, text) = replayed(end);
            assert_eq!(status, Some(1), "{text}");
            assert!(text.contains("amount unknown") && !text.contains("nothing lost"), "{text}");
            assert!(text.contains("r.t2p: the recording is cut short"), "{text}");
            let counts = |text: &str| text.split(" over ").next().unwrap().to_owned();
            assert_eq!(counts(&text), counts(&whole), "what came before the end is written");
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_reader_of_a_replay_that_has_seen_enough_is_no_failure() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tls2pcap"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let told = command.args(["replay", "-o", "-"]).arg(&recordings()[0]).stdout(writer).output().unwrap();
    let text = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(0), "{text}");
    assert!(text.contains("the reader closed") && !text.contains("nothing lost"), "{text}");
}
