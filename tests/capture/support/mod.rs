//! What the tests stand on: gates, scratch folders, processes, servers, and tshark as the judge.

pub mod capture;
pub mod comment;
pub mod desk;
pub mod each;
pub mod gate;
pub mod netns;
pub mod nginx;
pub mod process;
pub mod programs;
pub mod tshark;
pub mod view;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub use capture::{Capture, Finished};
pub use process::{Process, until};

/// Begins a test that captures; returns from it, with a report, where that cannot be done.
macro_rules! begin {
    () => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
        match $crate::support::Test::begin(name) {
            Some(test) => test,
            None => return,
        }
    }};
}
pub(crate) use begin;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running test: its name and its scratch folder, which is removed at the end unless
/// `T2P_KEEP=1`.
pub struct Test {
    /// Path of the test function.
    pub name: String,
    dir: PathBuf,
}

impl Test {
    /// A test that captures; `None`, with a report, where the machine does not permit it.
    pub fn begin(name: &str) -> Option<Test> {
        match gate::cannot_capture() {
            Some(why) => {
                gate::skipped(name, &why, "T2P_REQUIRE_ROOT");
                None
            }
            None => Some(Test::unprivileged(name)),
        }
    }

    /// A test that needs no privileges.
    pub fn unprivileged(name: &str) -> Test {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("t2p-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Test { name: name.to_string(), dir }
    }

    /// A path in the scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A path in the scratch folder as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// A new folder in the scratch folder, as text.
    pub fn folder(&self, name: &str) -> String {
        fs::create_dir(self.path(name)).unwrap();
        self.text(name)
    }

    /// A capture that writes to `out.pcapng` in the scratch folder.
    pub fn capture(&self) -> Capture {
        Capture::new(self.path("out.pcapng"), &self.dir)
    }

    /// A self-signed certificate for localhost, and its key; made at the first call.
    pub fn certificate(&self) -> (String, String) {
        let (cert, key) = (self.text("cert.pem"), self.text("key.pem"));
        if !Path::new(&cert).exists() {
            run(Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
                .args([
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-subj",
                    "/CN=localhost",
                    "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1,IP:10.211.0.2",
                    "-keyout",
                    &key,
                    "-out",
                    &cert,
                ]));
        }
        (cert, key)
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        if std::env::var_os("T2P_KEEP").is_some() {
            eprintln!("kept {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Runs a command to its end and returns its stdout; anything but success fails the test.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Copies a program that is to be executed. Written by this process, it would be busy while a child that another
/// test begins has the descriptor.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    run(Command::new("cp").arg(from.as_ref()).arg(to.as_ref()));
}

/// Fails with the place of the first difference, not with megabytes of both.
#[track_caller]
pub fn assert_same_bytes(what: &str, got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let near = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[at.min(bytes.len())..(at + 80).min(bytes.len())]).into_owned()
    };
    panic!(
        "{what}: {} bytes instead of {}; they differ from byte {at} on: {:?} instead of {:?}",
        got.len(),
        expected.len(),
        near(got),
        near(expected)
    );
}
