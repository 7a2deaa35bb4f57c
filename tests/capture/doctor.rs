//! What doctor says of processes of the test. It probes none of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::files::{AS_NOBODY, public_copy};
use crate::support::capture::TLS2PCAP;
use crate::support::programs::{PYTHON, built_by_go, exchange_server};
use crate::support::{Process, Test, begin, gate, process, run};

/// A process's entry, and those of its libraries.
pub struct Told {
    pub status: i32,
    pub report: Value,
}

impl Told {
    /// Asks about these processes, with these words before `doctor`.
    fn by(words: &[&str], pids: &[u32]) -> Told {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["doctor", "--json"]).stdin(Stdio::null());
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.is_empty(), "{error}");
        let report = serde_json::from_slice(&output.stdout).expect("doctor writes JSON");
        Told { status: process::code(output.status), report }
    }

    pub fn of(pid: u32) -> Told {
        Told::by(&[TLS2PCAP], &[pid])
    }

    fn process(&self, pid: u32) -> &Value {
        let all = self.report["processes"].as_array().unwrap();
        all.iter().find(|p| p["pid"] == pid).unwrap_or_else(|| panic!("no {pid} in {:#}", self.report))
    }

    /// The library of this name in the process.
    #[track_caller]
    pub fn library(&self, pid: u32, name: &str) -> &Value {
        let ids = self.process(pid)["libraries"].as_array().unwrap();
        let libraries = ids.iter().map(|id| &self.report["libraries"][id.as_u64().unwrap() as usize]);
        let found = libraries.into_iter().find(|library| library["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#}", self.report))
    }
}

/// A process that has loaded this library, and waits; `None`, with a report, where there is none.
fn with_library(test: &Test, library: &str) -> Option<Process> {
    let script = "import ctypes, sys\n\
                  try: ctypes.CDLL(sys.argv[1])\n\
                  except OSError as e: print('missing', e, flush=True)\n\
                  print('port 0', flush=True)\n\
                  sys.stdin.readline()";
    let mut command = Command::new(PYTHON);
    command.args(["-c", script, library]);
    let mut process = Process::start(&mut command, test.path("loader.err"));
    let line = process.line();
    if line.starts_with("missing") {
        gate::skipped(&test.name, &line, "T2P_REQUIRE_TOOLS");
        return None;
    }
    Some(process)
}

/// A program that contains OpenSSL and no symbols; `None`, with a report, where it cannot be built.
fn stripped(test: &Test) -> Option<String> {
    let (source, program) = (test.path("static.c"), test.text("static"));
    fs::write(
        &source,
        "#include <openssl/ssl.h>\n#include <stdio.h>\n\
         int main(void) {\n\
             SSL *s = SSL_new(SSL_CTX_new(TLS_method()));\n\
             char b = 0;\n\
             int n = SSL_read(s, &b, 1) + SSL_write(s, &b, 1);\n\
             printf(\"port 0 %d\\n\", n);\n\
             fflush(stdout);\n\
             return getchar() == 7;\n\
         }\n",
    )
    .unwrap();
    let mut command = Command::new("cc");
    command.args(["-static", "-s", "-w", "-o", &program]).arg(&source).args(["-lssl", "-lcrypto"]);
    let output = command.output().unwrap();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let why = format!("no static OpenSSL: {}", error.lines().next().unwrap_or_default());
        gate::skipped(&test.name, &why, "T2P_REQUIRE_TOOLS");
        return None;
    }
    Some(program)
}

#[test]
fn a_server_with_the_system_s_openssl() {
    let test = begin!();
    let (server, _) = exchange_server(&test, "r:1");
    let pid = server.pid();
    let told = Told::of(pid);
    assert_eq!(told.status, 0, "{:#}", told.report);
    let library = told.library(pid, "OpenSSL");
    assert_eq!(library["captured"], true);
    assert_eq!(library["linked"], "shared");
    assert_eq!(library["symbols"], "dynsym");
    assert_eq!(library["deleted"], false);
    assert!(library["version"].as_str().unwrap().starts_with("3."), "{library:#}");
    let functions = library["functions"].as_array().unwrap();
    let read = functions.iter().find(|f| f["name"] == "SSL_read").unwrap();
    assert!(["cheap", "single-stepped", "unknown"].contains(&read["cost"].as_str().unwrap()));
    assert!(read["offset"].as_u64().unwrap() > 0);
    let process = told.process(pid);
    assert_eq!((&process["name"], &process["uid"]), (&"exchange".into(), &0.into()));
    assert_eq!(process["user"], "root");
    // What the kernel offers was tried, and says the same as a capture does.
    let tried = &told.report["kernel"]["tried"];
    let works = |b: &&Value| b["works"] == true;
    let taken = tried["backends"].as_array().unwrap().iter().find(works).unwrap();
    assert_eq!(tried["backend"], taken["name"]);
    let finished = test.capture().args(&["-v"]).run(&["true"]).ok();
    let line = format!("sockets are followed by {}", taken["name"].as_str().unwrap());
    assert!(finished.stderr.contains(&line), "{}", finished.stderr);
    assert!(!finished.stderr.contains("libbpf:"), "{}", finished.stderr);

    let text = run(Command::new(TLS2PCAP).args(["doctor", "-p", &pid.to_string()]));
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("A capture works here.\n"), "{text}");
    assert!(text.contains(&format!("exchange[{pid}] root")), "{text}");
}

#[test]
fn gnutls_and_nss() {
    let test = begin!();
    for (library, name) in [("libgnutls.so.30", "GnuTLS"), ("libssl3.so", "NSS")] {
        let Some(process) = with_library(&test, library) else { continue };
        let told = Told::of(process.pid());
        assert_eq!(told.status, 0, "{:#}", told.report);
        let library = told.library(process.pid(), name);
        assert_eq!(library["captured"], true);
        assert!(library["version"].as_str().unwrap().starts_with("3."), "{library:#}");
        assert!(library["functions"].as_array().unwrap().len() > 5);
    }
}

#[test]
fn a_program_in_go() {
    let test = begin!();
    let Some(program) = built_by_go("go-1.24", "gotls", &["-ldflags=-s -w"]) else {
        gate::skipped(&test.name, "go-1.24 is not there: run tests/oracles", "T2P_REQUIRE_ORACLES");
        return;
    };
    let (cert, key) = test.certificate();
    let mut command = Command::new(&program);
    command.args(["listen", &cert, &key, &test.folder("server"), "1"]);
    let mut server = Process::start(&mut command, test.path("server.err"));
    server.port();
    let told = Told::of(server.pid());
    let library = told.library(server.pid(), "Go");
    assert_eq!((&library["captured"], &library["linked"]), (&true.into(), &"static".into()));
    assert_eq!(library["symbols"], "pclntab");
    assert!(library["version"].as_str().unwrap().starts_with("1.24"), "{library:#}");
    let functions = library["functions"].as_array().unwrap();
    assert!(functions.iter().all(|function| function["cost"] == "unknown"), "{library:#}");
    assert_eq!(library["cost"], "unknown");
}

#[test]
fn a_stripped_program_with_openssl_inside() {
    let test = begin!();
    let Some(program) = stripped(&test) else { return };
    let mut process = Process::start(&mut Command::new(&program), test.path("static.err"));
    process.line();
    let told = Told::of(process.pid());
    let library = told.library(process.pid(), "OpenSSL");
    assert_eq!((&library["captured"], &library["linked"]), (&true.into(), &"static".into()));
    assert_eq!(library["symbols"], "code", "{library:#}");
}

/// Doctor says why, and so do captures of it.
#[test]
fn a_stripped_program_with_openssl_inside_that_is_not_understood() {
    let test = begin!();
    let Some(program) = stripped(&test) else { return };
    let mut bytes = fs::read(&program).unwrap();
    let at = memchr::memmem::find(&bytes, b"ssl_read_internal\0").expect("the name of a function");
    bytes[at] = b'x';
    fs::write(&program, bytes).unwrap();
    let mut process = Process::start(&mut Command::new(&program), test.path("static.err"));
    process.line();
    let pid = process.pid();
    let told = Told::of(pid);
    assert_eq!(told.status, 5, "{:#}", told.report);
    assert_eq!(told.report["verdict"]["works"], true);
    let library = told.library(pid, "OpenSSL");
    assert_eq!((&library["captured"], &library["linked"]), (&false.into(), &"static".into()));
    assert!(library["reason"].as_str().unwrap().contains("stripped"), "{library:#}");
    assert!(library["help"].as_str().unwrap().contains("symbols"), "{library:#}");

    let reason = "contains openssl";
    test.capture().attach_in_vain(&[pid]).failed(5, &[reason]);
    let finished = test.capture().run(&["sh", "-c", &format!("echo | {program} >/dev/null; true")]).ok();
    let said = finished.stderr.to_lowercase();
    assert!(said.contains(&format!("{program}: {reason}").to_lowercase()), "{said}");
    let summary = said.split("0 connections").nth(1).unwrap();
    assert!(summary.contains(reason), "the summary gives no reason:\n{said}");
}

#[test]
fn a_library_that_was_removed_from_disk() {
    let test = begin!();
    let copy = test.text("libssl.so.3");
    let installed = ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib64/libssl.so.3"];
    fs::copy(installed.into_iter().find(|path| Path::new(path).exists()).unwrap(), &copy).unwrap();
    let Some(process) = with_library(&test, &copy) else { return };
    fs::remove_file(&copy).unwrap();
    let told = Told::of(process.pid());
    let library = told.library(process.pid(), "OpenSSL");
    assert_eq!((&library["captured"], &library["deleted"]), (&true.into(), &true.into()));
    assert_eq!((&library["path"], &library["linked"]), (&copy.into(), &"bundled".into()));
    // And it is probed.
    test.capture().attach(&[process.pid()]).stop().ok();
}

#[test]
fn processes_without_tls_and_without_life() {
    let test = begin!();
    let sleeper = Process::start(Command::new("sleep").arg("1000"), test.path("sleep.err"));
    let told = Told::of(sleeper.pid());
    assert_eq!(told.status, 5, "{:#}", told.report);
    assert_eq!(told.process(sleeper.pid())["libraries"], Value::Array(Vec::new()));

    let text_of = |pids: &[u32]| {
        let mut command = Command::new(TLS2PCAP);
        command.arg("doctor").args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let text = text_of(&[sleeper.pid()]);
    let nothing = format!("\nProcess {} has no known TLS code.\n", sleeper.pid());
    assert!(text.contains(&nothing) && !text.contains("No process"), "{text}");

    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let told = Told::of(gone.id());
    assert_eq!(told.status, 5);
    assert!(told.report["verdict"]["reason"].as_str().unwrap().contains(&gone.id().to_string()));
    let text = text_of(&[gone.id()]);
    assert!(text.starts_with(&format!("There is no process {}.\n", gone.id())), "{text}");
    assert!(!text.contains("TLS code"), "{text}");

    let thread = nix::unistd::gettid().as_raw() as u32;
    let told = Told::of(thread);
    assert_eq!(told.status, 5);
    let reason = format!("{thread} is a thread of process {}", std::process::id());
    assert_eq!(told.report["verdict"]["reason"], reason);

    // It looks for texts that it must not hold itself.
    let own = Process::start(
        Command::new(TLS2PCAP).args(["-q", "-o", "-", "--", "sleep", "1000"]),
        test.path("own.err"),
    );
    assert_eq!(Told::of(own.pid()).process(own.pid())["libraries"], Value::Array(Vec::new()));
    drop(own);

    let finished = test.capture().run(&["true"]).ok();
    assert!(finished.stderr.contains("mapped no known TLS library"), "{}", finished.stderr);
}

#[test]
fn without_privileges() {
    let test = begin!();
    let (server, _) = exchange_server(&test, "r:1");
    let copy = public_copy(&test);
    fs::set_permissions(test.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let words: Vec<&str> = AS_NOBODY.iter().copied().chain([copy.as_str()]).collect();
    let told = Told::by(&words, &[]);
    assert_eq!(told.status, 3, "{:#}", told.report);
    let report = &told.report;
    assert_eq!(report["verdict"]["works"], false);
    assert!(report["verdict"]["help"].as_str().unwrap().contains("sudo"));
    assert!(report["kernel"]["tried"].is_null());
    assert!(report["privileges"]["missing"].as_array().unwrap().contains(&"cap_bpf".into()));
    let others =
        report["hidden"].as_array().unwrap().iter().find(|h| h["reason"] == "of other users").unwrap();
    assert!(others["processes"].as_u64().unwrap() >= 1 && others["help"] == "run it with sudo");
    assert!(report["processes"].as_array().unwrap().iter().all(|p| p["pid"] != server.pid()));
}
