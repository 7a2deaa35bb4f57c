//! Several files, and the end of a capture that has enough: real programs, and replays of what they said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::{BIG, Nginx};
use crate::support::{assert_same_bytes, begin, tshark};

/// The files of a folder, by name.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Path::new(folder).read_dir().unwrap().map(|f| f.unwrap().path()).collect();
    all.sort();
    all
}

/// What the server said in files, in hexadecimal, one behind the other, without what is made up.
fn said(tshark: &tshark::Tshark, files: &[PathBuf]) -> String {
    let filter = "tcp.srcport == 80 && tcp.len > 0 && !(frame.comment contains \"synthetic=\")";
    files.iter().flat_map(|file| tshark.fields(file, filter, &["tcp.payload"])).flatten().collect()
}

fn replay(record: &str, args: &[&str]) -> Output {
    Command::new(TLS2PCAP).args(["replay", record]).args(args).output().unwrap()
}

#[test]
fn a_download_over_many_files_is_whole() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (folder, record, url) = (test.folder("many"), test.text("r.t2p"), nginx.site.url("/big"));
    let words = ["curl", "-sS", "--http2", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    let args = ["-C", "4m", "-z", "true", "--record", &record];
    let capture = test.capture().output(format!("{folder}/a.pcapng")).args(&args);
    let finished = capture.run(&words).ok();
    let live = files(&folder);
    assert!(live.len() > 4, "only {live:?}");
    assert!(
        finished.stderr.contains(&format!("written to {} files, the last of them", live.len())),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for file in &live {
        let metadata = fs::metadata(file).unwrap();
        assert!(metadata.len() <= 4 << 20, "{} has {} bytes", file.display(), metadata.len());
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600);
    }
    let whole = test.path("whole.pcapng");
    let told = replay(&record, &["-w", whole.to_str().unwrap()]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    for tshark in tshark::oracles() {
        let expected = said(tshark, std::slice::from_ref(&whole));
        assert!(expected.len() > 2 * BIG && said(tshark, &live) == expected, "tshark {}", tshark.version);
        live.iter().for_each(|file| tshark.read(file).assert_clean_but(&tshark.version, |_| false));
    }

    let again = test.folder("again");
    let told = replay(&record, &["-w", &format!("{again}/a.pcapng"), "-C", "4m"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    for (one, other) in live.iter().zip(files(&again)) {
        assert_same_bytes("a file of the replay", &fs::read(other).unwrap(), &fs::read(one).unwrap());
    }

    let gzip = test.folder("gzip");
    let told = replay(
        &record,
        &["-w", &format!("{gzip}/a.pcapng.gz"), "-b", "packets:40", "-b", "files:3", "-a", "files:9"],
    );
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && text.contains("6 files were deleted to make room"), "{text}");
    assert_eq!(files(&gzip).len(), 3);
    for file in files(&gzip) {
        assert!(file.to_str().unwrap().ends_with(".pcapng.gz"));
        for tshark in tshark::oracles() {
            tshark.read(&file).assert_clean_but(&tshark.version, |_| false);
        }
    }

    let one = test.text("one.pcapng");
    let told = replay(&record, &["-w", &one, "-c", "25"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    for tshark in tshark::oracles() {
        assert_eq!(tshark.read(Path::new(&one)).packets.len(), 25);
    }

    // The recording is never written over, whatever a file of several is called.
    let wanted = fs::read(&record).unwrap();
    fs::copy(&record, test.path("x1")).unwrap();
    let told = replay(&test.text("x1"), &["-w", &test.text("x"), "-C", "4m"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("is the recording"), "{told:?}");
    assert!(fs::read(test.path("x1")).unwrap() == wanted);
}

#[test]
fn a_full_disk_ends_the_capture_or_costs_the_oldest_files() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (record, url) = (test.text("r.t2p"), nginx.site.url("/big"));
    let words = ["curl", "-sS", "--http2", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    test.capture().args(&["--record", &record]).run(&words).ok();
    let (disk, room) = (test.folder("disk"), test.folder("room"));
    for (choice, status) in [("end", 1), ("drop-oldest", 0)] {
        let script = format!(
            "mount -t tmpfs -o size=400k tmpfs {disk} || exit 99\n\
             {TLS2PCAP} replay {record} -w {disk}/a.pcapng -b filesize:100 --disk-full {choice}\n\
             status=$?; mkdir -p {room}/{choice}; cp {disk}/* {room}/{choice}; exit $status"
        );
        let told = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(status), "{choice}: {text}");
        let left = files(&format!("{room}/{choice}"));
        assert!((2..6).contains(&left.len()), "{left:?}");
        if choice == "drop-oldest" {
            assert!(text.contains("the disk was full"), "{text}");
        }
        for file in left {
            for tshark in tshark::oracles() {
                tshark.read(&file).assert_clean_but(&tshark.version, |_| false);
            }
        }
    }
}

#[test]
fn a_capture_ends_after_its_time() {
    let test = begin!();
    let (_nginx, mut client, running) =
        crate::files::halfway(&test, test.capture().args(&["--duration", "1.5s"]));
    running.finish().ok();
    client.go_on();
    client.wait_ok();
}
