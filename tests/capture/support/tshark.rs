//! The judge: stock tshark of the releases that must read the files, with no setting at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::gate;
use super::view::View;

/// One release of tshark.
#[derive(Debug)]
pub struct Tshark {
    /// Such as `4.0`.
    pub version: String,
    path: PathBuf,
}

/// Each release that is at hand. Reports, once, those that are not.
pub fn oracles() -> &'static [Tshark] {
    static ORACLES: OnceLock<Vec<Tshark>> = OnceLock::new();
    ORACLES.get_or_init(|| {
        let system = gate::system_tshark();
        let mut found = Vec::new();
        for release in gate::RELEASES {
            let path = match gate::cached_tool(&format!("tshark-{release}")) {
                Some(path) => path,
                None if system.as_deref() == Some(release) => "tshark".into(),
                None => {
                    let why = format!("tshark {release} not found (run tests/oracles)");
                    gate::skipped("every check with that release", &why, "T2P_REQUIRE_ORACLES");
                    continue;
                }
            };
            found.push(Tshark { version: release.into(), path });
        }
        match system {
            Some(version) if !gate::RELEASES.contains(&version.as_str()) => {
                found.push(Tshark { version, path: "tshark".into() });
            }
            _ => {}
        }
        assert!(!found.is_empty(), "no tshark at all: install tshark, or run tests/oracles");
        found
    })
}

/// The last release at hand, which starts fastest, where one is enough.
pub fn any() -> &'static Tshark {
    &oracles()[oracles().len() - 1]
}

impl Tshark {
    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn command(&self, file: &Path) -> Command {
        let mut command = Command::new(&self.path);
        // A folder that does not exist: no preferences, profiles or plugins of the user.
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-home");
        command.env("HOME", &home).env("WIRESHARK_CONFIG_DIR", &home).env("XDG_CONFIG_HOME", &home);
        command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command.arg("-r").arg(file);
        command
    }

    #[track_caller]
    fn output(&self, command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|e| panic!("tshark {}: {e}", self.version));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let complaints: Vec<&str> =
            stderr.lines().filter(|l| !l.is_empty() && !l.starts_with("Running as user")).collect();
        assert!(
            output.status.success() && complaints.is_empty(),
            "tshark {}: {}\n{}",
            self.version,
            output.status,
            complaints.join("\n")
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The fields of each packet that passes a display filter (empty: all); several occurrences of
    /// a field are joined by U+001F.
    #[track_caller]
    pub fn fields(&self, file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut command = self.command(file);
        command.args(["-T", "fields", "-E", "separator=/t", "-E", "aggregator=\x1f"]);
        if !filter.is_empty() {
            command.args(["-Y", filter]);
        }
        for field in fields {
            command.args(["-e", field]);
        }
        self.output(&mut command).lines().map(|l| l.split('\t').map(String::from).collect()).collect()
    }

    /// All that a test may ask of a file, in one pass.
    #[track_caller]
    pub fn read(&self, file: &Path) -> View {
        View::new(self.fields(file, "", super::view::FIELDS))
    }

    /// The number of packets that it can read: of a file that is still written, or cut short.
    pub fn count_so_far(&self, file: &Path, filter: &str) -> usize {
        let output = self.command(file).args(["-Y", filter, "-T", "fields", "-e", "frame.number"]).output();
        output.map_or(0, |o| o.stdout.iter().filter(|b| **b == b'\n').count())
    }

    /// The bodies of the HTTP messages, sorted: what File > Export Objects > HTTP saves, but for
    /// the HTTP/2 preface, which each release saves too. Release 4.0 exports nothing of HTTP/2,
    /// so there the bodies are those that it has put together. Uses the new folder `dir`.
    #[track_caller]
    pub fn objects(&self, file: &Path, dir: &Path) -> Vec<Vec<u8>> {
        let dir = dir.with_extension(&self.version);
        let export = format!("http,{}", dir.display());
        self.output(self.command(file).args(["-q", "--export-objects", &export]));
        let mut objects: Vec<Vec<u8>> = match fs::read_dir(&dir) {
            Ok(entries) => entries.map(|e| fs::read(e.unwrap().path()).unwrap()).collect(),
            Err(_) => Vec::new(),
        };
        objects.retain(|o| !o.starts_with(b"PRI * HTTP/2.0"));
        if self.version == "4.0" {
            objects.extend(self.http2_bodies(file));
        }
        objects.sort();
        objects
    }

    /// The body of each HTTP/2 stream that has one.
    #[track_caller]
    fn http2_bodies(&self, file: &Path) -> impl Iterator<Item = Vec<u8>> {
        let fields = ["tcp.stream", "http2.type", "http2.streamid", "http2.length", "http2.data.data"];
        let mut bodies = BTreeMap::new();
        for row in self.fields(file, "http2.data.data", &fields) {
            let values: Vec<Vec<&str>> = row.iter().map(|v| v.split('\x1f').collect()).collect();
            let frames = values[1].iter().zip(&values[2]).zip(&values[3]);
            // The body stands with a stream's last frame, even if that is empty.
            let all = values[1].iter().filter(|kind| **kind == "0").count() == values[4].len();
            let with_data = frames.filter(|((kind, _), length)| **kind == "0" && (all || **length != "0"));
            for (((_, id), _), data) in with_data.zip(&values[4]) {
                // With a stream's last frame, tshark shows the whole body that it put together.
                bodies.insert((row[0].clone(), id.to_string()), super::view::unhex(data));
            }
        }
        bodies.into_values()
    }

    /// What Follow > TCP Stream shows, raw: the client's bytes and the server's.
    #[track_caller]
    pub fn follow(&self, file: &Path, stream: u32) -> (Vec<u8>, Vec<u8>) {
        let text = self.output(self.command(file).args(["-q", "-z", &format!("follow,tcp,raw,{stream}")]));
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let (to, hex) = match line.strip_prefix('\t') {
                Some(hex) => (&mut server, hex),
                None => (&mut client, line),
            };
            if !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                to.extend(super::view::unhex(hex));
            }
        }
        (client, server)
    }
}
