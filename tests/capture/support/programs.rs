//! The programs of fixtures/programs, and what they say about themselves.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::{Process, Test, run};

static BUILT: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);

/// A C program, compiled at its first use.
pub fn compiled(name: &str) -> String {
    compiled_with(name, &["-lssl", "-lcrypto", "-ldl", "-Wl,--as-needed"])
}

/// The same, with these libraries and options.
pub fn compiled_with(name: &str, libraries: &[&str]) -> String {
    compiled_as(name, name, libraries)
}

/// The same, as a program of another name.
pub fn compiled_as(name: &str, of: &str, libraries: &[&str]) -> String {
    const OPTIONS: [&str; 3] = ["-Wall", "-Wextra", "-Werror"];
    compiled_by("cc", name, &format!("{of}.c"), &[&OPTIONS, libraries].concat())
}

/// A C++ program, with these libraries and options.
pub fn compiled_cpp(name: &str, libraries: &[&str]) -> String {
    compiled_by("c++", name, &format!("{name}.cc"), libraries)
}

fn compiled_by(compiler: &str, name: &str, file: &str, options: &[&str]) -> String {
    let mut built = BUILT.lock().unwrap_or_else(|e| e.into_inner());
    let built = built.get_or_insert_default();
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let path = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    let fresh = format!("{path}.{}", std::process::id());
    run(Command::new(compiler).args(["-O1", "-g", "-pthread", "-o", &fresh]).arg(source(file)).args(options));
    std::fs::rename(fresh, &path).unwrap();
    built.insert(name.to_string(), path.clone());
    path
}

/// A Go program, built by a release of Go that tests/oracles brings (`go-1.24`) with more arguments for
/// `go build`. `None`: that release is not there.
pub fn built_by_go(go: &str, name: &str, more: &[&str]) -> Option<String> {
    let tool = super::gate::cached_tool(go)?;
    let mut built = BUILT.lock().unwrap_or_else(|e| e.into_inner());
    let built = built.get_or_insert_default();
    let key = format!("{go}{}-{name}", more.join(""));
    if let Some(path) = built.get(&key) {
        return Some(path.clone());
    }
    let path = format!("{}/{name}.{go}.{}", env!("CARGO_TARGET_TMPDIR"), built.len());
    let fresh = format!("{path}.{}", std::process::id());
    run(Command::new(tool)
        .env("CGO_ENABLED", "0")
        .args(["build", "-o", &fresh])
        .args(more)
        .arg(source(&format!("{name}.go"))));
    std::fs::rename(fresh, &path).unwrap();
    built.insert(key, path.clone());
    Some(path)
}

/// A program that is a crate in fixtures/programs, with more arguments for `cargo build`. `None`: the crates that
/// it needs, which tests/oracles brings, are not there.
pub fn built_by_cargo(name: &str, more: &[&str]) -> Option<String> {
    let tool = super::gate::cached_tool("cargo-crates")?;
    let mut built = BUILT.lock().unwrap_or_else(|e| e.into_inner());
    let built = built.get_or_insert_default();
    let key = format!("{name} {}", more.join(" "));
    if let Some(path) = built.get(&key) {
        return Some(path.clone());
    }
    // Other programs may build it at the same time, with other options: cargo has them wait for each other.
    let target = format!("{}/crates/{}", env!("CARGO_TARGET_TMPDIR"), more.join("").replace('/', "-"));
    run(Command::new(tool)
        .args(["build", "--quiet", "--release", "--locked", "--offline", "--target-dir", &target])
        .args(["--manifest-path", &source(&format!("{name}/Cargo.toml"))])
        .args(more));
    let path = format!("{target}/release/{}", name.replace('.', "-"));
    built.insert(key, path.clone());
    Some(path)
}

/// Path of a file in fixtures/programs.
pub fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/programs").join(name);
    path.to_str().unwrap().to_string()
}

/// The system's Python, which uses the system's OpenSSL.
pub const PYTHON: &str = "/usr/bin/python3";

/// A connection as a test program tells it, from getsockname and its own descriptor.
#[derive(Clone, Debug)]
pub struct Told {
    /// Number of its transcripts.
    pub index: u32,
    /// Of the program.
    pub pid: u32,
    /// Of the thread that made the connection.
    pub tid: u32,
    /// Of the socket.
    pub fd: u32,
    /// From getsockname.
    pub local: SocketAddr,
    /// From getpeername.
    pub remote: SocketAddr,
}

impl Told {
    /// Reads a line that begins with `connection`.
    pub fn parse(line: &str) -> Option<Told> {
        let mut values: HashMap<&str, &str> =
            line.trim().strip_prefix("connection ")?.split(' ').filter_map(|w| w.split_once('=')).collect();
        Some(Told {
            index: values.remove("index")?.parse().ok()?,
            pid: values.remove("pid")?.parse().ok()?,
            tid: values.remove("tid")?.parse().ok()?,
            fd: values.remove("fd")?.parse().ok()?,
            local: values.remove("local")?.parse().ok()?,
            remote: values.remove("remote")?.parse().ok()?,
        })
    }

    /// All that stand in a program's output.
    pub fn all(output: &str) -> Vec<Told> {
        output.lines().filter_map(Told::parse).collect()
    }
}

/// Whether the thread that made a connection is in read(2) on its socket.
pub fn blocks_in_read(told: &Told) -> bool {
    blocks_in(told, libc::SYS_read)
}

/// Whether the thread that made a connection waits in write(2) for room in its socket's buffer.
pub fn blocks_in_write(told: &Told) -> bool {
    blocks_in(told, libc::SYS_write)
}

fn blocks_in(told: &Told, call: libc::c_long) -> bool {
    let now = std::fs::read_to_string(format!("/proc/{}/task/{}/syscall", told.pid, told.tid));
    now.is_ok_and(|now| now.starts_with(&format!("{call} 0x{:x} ", told.fd)))
}

/// Arguments of `exchange` for a server on `host` that keeps transcripts in the folder `dir`.
pub fn listen(test: &Test, host: &str, port: u16, dir: &str, ops: &str) -> Vec<String> {
    let (cert, key) = test.certificate();
    let head = format!("listen {host} {port} --cert {cert} --key {key} --dir {dir}");
    head.split(' ').chain(ops.split_whitespace()).map(String::from).collect()
}

/// Arguments of `exchange` for a client.
pub fn connect(host: &str, port: u16, dir: &str, ops: &str) -> Vec<String> {
    let head = format!("connect {host} {port} --dir {dir}");
    head.split(' ').chain(ops.split_whitespace()).map(String::from).collect()
}

/// Whether there is a Node of this release or a later one; else it is reported.
pub fn has_node(test: &Test, oldest: u32) -> bool {
    let said = Command::new("node").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let release = said.strip_prefix('v').and_then(|said| said.split('.').next()?.parse::<u32>().ok());
    let why = match release {
        Some(release) if release >= oldest => return true,
        Some(_) => format!("Node {said} is older than {oldest}"),
        None => "Node is not installed".into(),
    };
    super::gate::skipped(&test.name, &why, "T2P_REQUIRE_TOOLS");
    false
}

/// A running `exchange` server on 127.0.0.1, with transcripts in the folder `server`.
pub fn exchange_server(test: &Test, ops: &str) -> (Process, u16) {
    let dir = test.folder("server");
    let mut command = Command::new(compiled("exchange"));
    command.args(listen(test, "127.0.0.1", 0, &dir, ops));
    let mut server = Process::start(&mut command, test.path("server.err"));
    let port = server.port();
    (server, port)
}

/// A running Python program of fixtures/programs that serves with the test's certificate.
pub fn python_server(test: &Test, name: &str, more: &[&str]) -> (Process, u16) {
    let (cert, key) = test.certificate();
    let mut command = Command::new(PYTHON);
    command.arg(source(name)).args([cert, key]).args(more);
    let mut server = Process::start(&mut command, test.path(&format!("{name}.err")));
    let port = server.port();
    (server, port)
}

/// What one end of one connection really moved.
pub struct Transcript {
    /// Bytes sent.
    pub sent: Vec<u8>,
    /// Bytes received.
    pub received: Vec<u8>,
}

/// The transcripts of the connection `index` of the `role` (`client` or `server`) in a folder.
pub fn transcript(dir: &str, role: &str, index: u32) -> Transcript {
    let read = |what: &str| {
        let path = format!("{dir}/{role}.{index}.{what}");
        std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    Transcript { sent: read("sent"), received: read("received") }
}
