//! A virtual machine with another kernel, and what it has on board.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::{PAGE, big_file};
use crate::support::programs::{compiled, source};
use crate::support::{Test, gate, run};

/// Length of `/mega`.
pub const MEGA: usize = 1 << 20;
/// Length of `/big`, which an emulated machine takes its time for.
pub const BIG: usize = 8 << 20;
/// Longest time that a guest may take, in seconds: others compute beside it.
const LIMIT: &str = "3600";

/// A kernel that can be booted, and a scratch folder.
pub struct Guest {
    /// Its scratch folder.
    pub test: Test,
    kernel: String,
}

impl Guest {
    /// `None`, with a report, if this machine cannot boot the kernel.
    pub fn new(kernel: &str) -> Option<Guest> {
        let name = format!("linux {kernel}");
        if let Some(why) = missing(kernel) {
            gate::skipped(&name, &why, "T2P_REQUIRE_VMS");
            return None;
        }
        Some(Guest { test: Test::unprivileged(&name), kernel: kernel.into() })
    }

    /// Boots, runs a command as root, and returns the folder of what it left in its `/out`. The scripts of
    /// tests/vm/guest are in its `/vm`.
    #[track_caller]
    pub fn run(&self, words: &[String]) -> PathBuf {
        let out = self.test.path("out");
        let mut command = Command::new(vm("run-in"));
        command.args(["-t", LIMIT, "-m", "1200", "-o"]).arg(&out);
        command.arg(&self.kernel).arg("--").args(self.files()).arg("--").args(words);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{}: {words:?}: {}\n{}\n{}",
            self.kernel,
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        if std::env::var_os("T2P_KEEP").is_some() {
            eprintln!("{}:\n{}", self.kernel, text(&output.stdout));
        }
        out
    }

    /// What is on board, as run-in takes it: SRC=DST.
    fn files(&self) -> Vec<OsString> {
        let mut files = vec![pair(&stripped(), "/usr/local/bin/tls2pcap"), pair(&vm("guest"), "/vm")];
        files.push(pair(&self.site(), "/site"));
        for program in ["exchange", "duplex"] {
            files.push(pair(Path::new(&compiled(program)), &format!("/usr/local/bin/{program}")));
        }
        for program in ["answer", "letters"] {
            files.push(pair(&built(program), &format!("/usr/local/bin/{program}")));
        }
        for program in ["nginx", "curl", "openssl", "setpriv"] {
            let path = tool(program).unwrap_or_else(|| panic!("{program} is missing: run tests/setup test"));
            files.push(pair(&path, &format!("/usr/bin/{program}")));
        }
        if let Some(script) = gate::cached_tool("openssl-1.1.1") {
            let program =
                script.parent().unwrap().parent().unwrap().join("suites/openssl-1.1.1/usr/bin/openssl");
            files.push(pair(&script, "/vm/openssl-1.1.1"));
            files.push(program.into());
        } else {
            let why = "openssl-1.1.1 not found (run tests/oracles)";
            gate::skipped("openssl 1.1.1 in the guests", why, "T2P_REQUIRE_ORACLES");
        }
        files
    }

    /// What nginx serves, and how.
    fn site(&self) -> PathBuf {
        let site = self.test.path("site");
        let root = site.join("root");
        if !site.exists() {
            fs::create_dir_all(&root).unwrap();
            let (cert, key) = self.test.certificate();
            fs::copy(cert, site.join("cert.pem")).unwrap();
            fs::copy(key, site.join("key.pem")).unwrap();
            fs::copy(vm("guest/nginx.conf"), site.join("nginx.conf")).unwrap();
            fs::write(root.join("page.html"), PAGE).unwrap();
            for (name, len) in [("mega", MEGA), ("big", BIG)] {
                fs::write(root.join(name), &fs::read(big_file()).unwrap()[..len]).unwrap();
            }
        }
        site
    }
}

fn pair(from: &Path, to: &str) -> OsString {
    let mut pair = from.as_os_str().to_owned();
    pair.push("=");
    pair.push(to);
    pair
}

/// Why this machine cannot boot a kernel.
fn missing(kernel: &str) -> Option<String> {
    for name in ["qemu-system-x86_64", "busybox", "cpio", "readelf", "strip"] {
        if tool(name).is_none() {
            return Some(format!("{name} not found (run tests/setup vm)"));
        }
    }
    let cache = match std::env::var_os("T2P_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache"),
    };
    let there = cache.join("kernels").join(kernel).join("modules").exists();
    (!there).then(|| format!("kernel {kernel} not found (run tests/vm/kernels {kernel})"))
}

fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|p| p.exists())
}

/// A path in tests/vm.
fn vm(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm").join(name)
}

/// tls2pcap without its debugging information, which would take most of the guest's memory.
fn stripped() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls2pcap-stripped");
        run(Command::new("strip").args(["-g", "-o"]).arg(&path).arg(TLS2PCAP));
        path
    };
    MADE.get_or_init(make).clone()
}

/// A program of tests/vm/programs, compiled at its first use.
fn built(name: &str) -> PathBuf {
    static MADE: OnceLock<()> = OnceLock::new();
    let path = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    MADE.get_or_init(|| {
        for name in ["answer", "letters"] {
            run(Command::new("cc")
                .args(["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-pthread"])
                .arg("-I")
                .arg(Path::new(&source("peer.h")).parent().unwrap())
                .arg("-o")
                .arg(path(name))
                .arg(vm("programs").join(format!("{name}.c")))
                .args(["-lssl", "-lcrypto"]));
        }
    });
    path(name)
}
