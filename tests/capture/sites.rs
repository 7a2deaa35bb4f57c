//! Where libraries are probed: cheap sites on real libraries, and none where the guess would be wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::capture::Running;
use crate::support::programs::{Told, compiled, source, transcript};
use crate::support::view::{Connection, View};
use crate::support::{Finished, Test, assert_same_bytes, begin, gate, run, until};

/// The system's libssl, as a file of its own.
pub fn own_copy(test: &Test) -> PathBuf {
    let found =
        run(Command::new("sh").args(["-c", "ldconfig -p | sed -n 's/.*libssl.so.3 .*x86-64.* => //p'"]));
    let found = String::from_utf8(found).unwrap();
    let copy = test.path("libssl.so.3");
    std::fs::copy(found.lines().next().expect("libssl.so.3 is installed"), &copy).unwrap();
    copy
}

/// fixtures/programs/hostile.c in one of its variants.
fn hostile(test: &Test, variant: &str) -> PathBuf {
    let library = test.path(&format!("libssl-{variant}.so"));
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-s"])
        .arg(format!("-DVARIANT={variant}"))
        .arg("-o")
        .arg(&library)
        .arg(source("hostile.c")));
    library
}

/// A program that talks through a library until it is told.
pub struct Talk {
    /// Loader and libcrypto that go with the library; empty if it is the system's.
    loader: Vec<String>,
    crypto: String,
    pub library: PathBuf,
    functions: &'static str,
    threads: usize,
    rounds: usize,
}

impl Talk {
    pub fn through(library: PathBuf) -> Talk {
        Talk { loader: vec![], crypto: "-".into(), library, functions: "both", threads: 2, rounds: 50 }
    }

    pub fn words(&self, test: &Test) -> Vec<String> {
        self.words_in(test, "client")
    }

    /// The same; what it moves stands in another folder.
    pub fn words_in(&self, test: &Test, folder: &str) -> Vec<String> {
        let (cert, key) = test.certificate();
        let library = self.library.to_str().unwrap().to_string();
        let rest = [self.crypto.clone(), library, cert, key, test.folder(folder), self.functions.into()];
        let numbers = [self.threads.to_string(), self.rounds.to_string()];
        [self.loader.clone(), vec![compiled("library")], rest.to_vec(), numbers.to_vec()].concat()
    }

    /// What stands on stderr of the capture about the library.
    pub fn said(&self, stderr: &str) -> Vec<String> {
        let name = self.library.file_name().unwrap().to_str().unwrap();
        let name = format!("/{name}: ");
        stderr.lines().filter(|l| l.contains(&name)).map(String::from).collect()
    }

    /// Captures the program; what is talked last begins when `enough` has been said.
    fn captured(&self, test: &Test, enough: impl Fn(&[String]) -> bool) -> (Finished, Vec<Told>) {
        let running = test.capture().args(&["-v"]).start(&self.words(test));
        self.finished(running, enough)
    }

    pub fn finished(
        &self,
        mut running: Running,
        enough: impl Fn(&[String]) -> bool,
    ) -> (Finished, Vec<Told>) {
        until("the probes to be settled", || {
            assert!(running.process.ended().is_none(), "{}", running.process.stderr());
            enough(&self.said(&running.process.stderr())).then_some(())
        });
        running.process.go_on();
        let finished = running.finish().ok();
        let told = Told::all(&finished.text());
        assert_eq!(told.len(), self.threads, "{finished:?}");
        (finished, told)
    }
}

/// A connection, of which either end may be the one that is written.
#[track_caller]
fn of<'a>(view: &'a View, told: &Told) -> &'a Connection {
    let ends = [told.local, told.remote];
    let is_it = |c: &&Connection| ends.contains(&c.comment.local()) && ends.contains(&c.comment.remote());
    view.connections.iter().find(is_it).unwrap_or_else(|| panic!("no {told:?}"))
}

/// Every byte of every connection is in the file, and once.
#[track_caller]
pub fn assert_whole(test: &Test, finished: &Finished, told: &[Told]) {
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, tshark) in finished.views() {
        assert_eq!(view.connections.len(), told.len(), "tshark {}", tshark.version);
        for told in told {
            let truth = transcript(&test.text("client"), "client", told.index);
            let connection = of(&view, told);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
    }
}

/// Whether so many exports have been taken over.
pub fn proven(count: usize) -> impl Fn(&[String]) -> bool {
    move |said| said.iter().filter(|l| l.contains(" proven after ")).count() >= count
}

/// Whether nothing is on trial.
fn untried(said: &[String]) -> bool {
    said.iter().filter(|l| l.contains("SSL_")).count() >= 4 && !said.iter().any(|l| l.contains("on trial"))
}

fn condemned(said: &[String]) -> bool {
    said.iter().any(|l| l.contains("not what they seemed"))
}

#[test]
fn exports_are_taken_over_while_threads_are_calling() {
    let test = begin!();
    let talk = Talk { threads: 8, ..Talk::through(own_copy(&test)) };
    let (finished, told) = talk.captured(&test, proven(4));
    assert_whole(&test, &finished, &told);
    let said = talk.said(&finished.stderr);
    for function in ["SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex"] {
        let line =
            |what: &str| said.iter().any(|l| l.contains(&format!(" {function} of ")) && l.contains(what));
        assert!(line("on trial: "), "{said:?}");
        assert!(line(": cheap site +0x") && line(" proven after "), "{said:?}");
    }
}

/// An export that is not called stays, and what is called counts once.
#[test]
fn each_export_is_proven_by_its_own_calls() {
    for functions in ["plain", "ex"] {
        let test = begin!();
        let talk = Talk { functions, ..Talk::through(own_copy(&test)) };
        let (finished, told) = talk.captured(&test, proven(2));
        assert_whole(&test, &finished, &told);
        let said = talk.said(&finished.stderr);
        let ex = said.iter().filter(|l| l.contains("_ex of ") && l.contains(" proven ")).count();
        assert_eq!(ex, if functions == "ex" { 2 } else { 0 }, "{said:?}");
    }
}

/// Where probes are for one process only, which runs already.
#[test]
fn exports_are_taken_over_in_a_running_process() {
    let test = begin!();
    let talk = Talk::through(own_copy(&test));
    let words = talk.words(&test);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("wait");
    let mut program = crate::support::Process::start(&mut command, test.path("program.err"));
    let told: Vec<Told> = (0..talk.threads).map(|_| Told::parse(&program.line()).unwrap()).collect();
    let mut running = test.capture().args(&["-v"]).attach(&[program.pid()]);
    program.go_on();
    until("the exports to be taken over", || {
        assert!(running.process.ended().is_none(), "{}", running.process.stderr());
        proven(4)(&talk.said(&running.process.stderr())).then_some(())
    });
    program.go_on();
    program.wait_ok();
    let finished = running.stop().ok();
    assert_whole(&test, &finished, &told);
}

/// A release of OpenSSL that tests/oracles fetches, with its own loader if it needs one.
fn release(test: &Test, name: &str, library: &str) -> Option<Talk> {
    let Some(program) = gate::cached_tool(name) else {
        let why = format!("{name} not found (run tests/oracles)");
        gate::skipped(&test.name, &why, "T2P_REQUIRE_ORACLES");
        return None;
    };
    let cache = program.parent().and_then(Path::parent).unwrap();
    let libraries = cache.join(format!("suites/{name}/usr/lib/x86_64-linux-gnu"));
    let path = |file: &str| libraries.join(file).to_str().unwrap().to_string();
    let mut talk = Talk::through(libraries.join(library));
    match library {
        // Older than this system's loader, which loads it.
        "libssl.so.1.1" => talk.crypto = path("libcrypto.so.1.1"),
        "libssl.so.1.0.2" | "libssl.so" => {
            talk.loader = vec!["env".into(), format!("LD_LIBRARY_PATH={}", path(""))];
        }
        _ => talk.loader = vec![path("ld-linux-x86-64.so.2"), "--library-path".into(), path("")],
    }
    Some(talk)
}

/// What the handles tell of themselves: the library's version, the side, server name and protocol.
#[track_caller]
fn assert_told(finished: &Finished, told: &[Told], version: &str) {
    for (view, _) in finished.views() {
        for told in told {
            let comment = &of(&view, told).comment;
            let library = comment.get("library");
            assert!(library.split_once(' ').is_some_and(|(_, v)| v.starts_with(version)), "{library}");
            let side = if comment.local() == told.local { "client" } else { "server" };
            assert_eq!(comment.get("role"), side);
            assert_eq!(comment.get("tuple"), "same-call");
            assert_eq!(comment.get("sni"), format!("server-{}", told.index));
            assert_eq!(comment.get("alpn"), format!("chosen-{}", told.index));
        }
    }
}

fn on_release(test: &Test, name: &str, library: &str, version: &str, site: &str) {
    let Some(talk) = release(test, name, library) else { return };
    let (finished, told) = talk.captured(test, proven(4));
    assert_whole(test, &finished, &told);
    assert_told(&finished, &told, version);
    let said = talk.said(&finished.stderr);
    let at = said.iter().filter(|l| l.contains(" proven ") && l.contains(site)).count();
    // And SSL_write_ex2, if there was time for enough of its calls.
    assert!(at >= 4, "{said:?}");
}

/// The same, where nothing behind the exports can be proven: they are probed themselves.
fn on_exports(test: &Test, name: &str, library: &str, functions: &'static str, version: &str) {
    let Some(talk) = release(test, name, library) else { return };
    let talk = Talk { functions, ..talk };
    let (finished, told) =
        talk.captured(test, |said| untried(said) || talk.functions == "plain" && said.len() >= 2);
    assert_whole(test, &finished, &told);
    assert_told(&finished, &told, version);
    let said = talk.said(&finished.stderr);
    assert!(!said.iter().any(|l| l.contains("on trial")), "{said:?}");
}

/// What is behind SSL_read and SSL_write is called by pointer.
#[test]
fn openssl_1_0_2() {
    on_exports(&begin!(), "openssl-1.0.2", "libssl.so.1.0.2", "plain", "OpenSSL 1.0.2");
}

#[test]
fn openssl_1_1_1() {
    on_release(&begin!(), "openssl-1.1.1", "libssl.so.1.1", "OpenSSL 1.1.1", ": cheap site +");
}

#[test]
fn openssl_3_5() {
    on_release(&begin!(), "openssl-3.5", "libssl.so.3", "OpenSSL 3.5.", ": cheap site +");
}

/// The internal functions of 3.6 begin with an instruction that is single-stepped, as the exports do.
#[test]
fn openssl_of_debian_sid() {
    on_release(&begin!(), "openssl-sid", "libssl.so.3", "OpenSSL 3.", " site +");
}

/// Behind SSL_read and SSL_write there is more than one way.
#[test]
fn openssl_4() {
    on_exports(&begin!(), "openssl-4", "libssl.so.4", "both", "OpenSSL 4.");
}

#[test]
fn aws_lc() {
    on_exports(&begin!(), "aws-lc", "libssl.so", "both", "AWS-LC ");
}

/// A Python package that brings its own OpenSSL.
#[test]
fn bundled_in_a_wheel() {
    let test = begin!();
    let wheel = test.folder("wheel");
    let pip =
        ["-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--only-binary=:all:"];
    let fetched = ["python3", "/usr/bin/python3"].iter().any(|python| {
        let mut command = Command::new(python);
        command.args(pip).args(["--target", &wheel, "psycopg2-binary"]);
        command.output().is_ok_and(|output| output.status.success())
    });
    if !fetched {
        gate::skipped(&test.name, "psycopg2-binary cannot be fetched by pip", "T2P_REQUIRE_ORACLES");
        return;
    }
    let folder = Path::new(&wheel).join("psycopg2_binary.libs");
    let is_ssl = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with("libssl");
    let library = folder.read_dir().unwrap().map(|e| e.unwrap().path()).find(is_ssl).expect("a libssl");
    let talk = Talk::through(library);
    let (finished, told) = talk.captured(&test, proven(4));
    assert_whole(&test, &finished, &told);
}

#[test]
fn a_library_in_openssl_s_shape_is_taken_for_what_it_is() {
    let test = begin!();
    let talk = Talk::through(hostile(&test, "HONEST"));
    let (finished, told) = talk.captured(&test, proven(4));
    assert_whole(&test, &finished, &told);
}

/// Guesses that machine code refutes.
#[test]
fn wrong_guesses_are_not_even_tried() {
    for (variant, functions, reads_only) in [
        ("LENGTH", "both", false),
        ("CHECKED", "both", false),
        ("BUFFER", "both", true),
        ("SWALLOWS", "plain", true),
    ] {
        let test = begin!();
        let talk = Talk { functions, ..Talk::through(hostile(&test, variant)) };
        let (finished, told) = talk.captured(&test, |said| {
            let about: Vec<String> =
                said.iter().filter(|l| !reads_only || l.contains("SSL_read")).cloned().collect();
            reads_only && about.len() >= 2 || untried(&about)
        });
        assert_whole(&test, &finished, &told);
        let said = talk.said(&finished.stderr);
        let wrong = said.iter().any(|l| l.contains("SSL_read") && !l.contains("no other site: "));
        assert!(!wrong, "{variant}: {said:?}");
    }
}

/// A guess that only the running library refutes.
#[test]
fn a_wrong_guess_is_condemned_and_costs_no_byte() {
    let test = begin!();
    let talk = Talk { functions: "plain", ..Talk::through(hostile(&test, "TWO")) };
    let (finished, told) = talk.captured(&test, condemned);
    assert_whole(&test, &finished, &told);
    assert!(!talk.said(&finished.stderr).iter().any(|l| l.contains(" proven ")));
}

/// A library that changes its ways after it was believed: what is missed is told, and what comes
/// later is whole.
#[test]
fn a_site_that_turns_out_wrong_is_given_up() {
    let test = begin!();
    let talk = Talk { functions: "turn", threads: 1, rounds: 200, ..Talk::through(hostile(&test, "LATE")) };
    let mut running = test.capture().args(&["-v"]).start(&talk.words(&test));
    until("the exports to be taken over", || {
        assert!(running.process.ended().is_none(), "{}", running.process.stderr());
        proven(2)(&talk.said(&running.process.stderr())).then_some(())
    });
    running.process.go_on();
    let (finished, told) = talk.finished(running, condemned);
    assert!(finished.stderr.contains("lost: "), "{}", finished.stderr);
    let truth = transcript(&test.text("client"), "client", told[0].index);
    for (view, tshark) in finished.views_but(|_| true) {
        let connection = of(&view, &told[0]);
        for (what, got, all) in [
            ("client", &connection.sent_by_client, &truth.sent),
            ("server", &connection.sent_by_server, &truth.received),
        ] {
            let first = got.iter().zip(all).take_while(|(a, b)| a == b).count();
            let rest = &got[first..];
            assert!(
                first > 0 && !rest.is_empty() && got.len() < all.len(),
                "{what}: {first} of {}",
                got.len()
            );
            assert_same_bytes(what, rest, &all[all.len() - rest.len()..]);
        }
        let gaps =
            tshark.fields(&finished.file, "frame.comment contains \"missing=unknown\"", &["frame.number"]);
        assert!(!gaps.is_empty(), "no gap is told");
    }
}
