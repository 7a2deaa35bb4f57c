//! Processes of a command wait while their files are looked at. Nobody sees that, and nobody is left waiting.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libbpf_rs::libbpf_sys::bpf_prog_get_fd_by_id;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tls2pcap::event::recording::Player;
use tls2pcap::event::{Event, FileSeen, record};

use crate::lives::library;
use crate::support::capture::{Finished, TLS2PCAP};
use crate::support::process::children;
use crate::support::programs::{compiled, exchange_server, transcript};
use crate::support::{Process, Test, assert_same_bytes, begin, copy_program, tshark, until};

/// A copy of a file, which nobody has ever mapped.
fn fresh(test: &Test, file: &str, name: &str) -> String {
    let copy = test.text(name);
    copy_program(file, &copy);
    copy
}

/// A program that nobody has ever run, which loads a libssl that nobody has ever mapped and talks at once.
fn talker(test: &Test, port: u16) -> Vec<String> {
    let program = fresh(test, &compiled("late"), "talker");
    let libssl = fresh(test, &library("libssl.so.3"), "libssl.so.3");
    vec![program, libssl, "127.0.0.1".into(), port.to_string(), "hello".into()]
}

/// What it said is in the file, from the first byte on.
fn assert_whole(test: &Test, finished: &Finished) {
    let truth = transcript(&test.text("server"), "server", 0);
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, b"hello");
        assert_same_bytes("server", &connection.sent_by_server, &truth.sent);
        assert_eq!(connection.comment.number("from_start"), 1);
    }
}

fn joined(words: &[String]) -> String {
    words.join(" ")
}

#[test]
fn a_parent_that_waits_when_it_hears_of_its_child() {
    let test = begin!();
    let library = fresh(&test, &library("libssl.so.3"), "libssl.so.3");
    let mut running = test.capture().start(&[compiled("parent"), "reap".into(), library]);
    running.process.line_after("loaded");
    for _ in 0..2 {
        running.process.go_on();
        running.process.line_after("alive");
    }
    running.process.close_stdin();
    running.process.line_after("reaped 1");
    running.finish().ok();
}

#[test]
fn a_parent_sees_the_end_of_its_child_and_nothing_else() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let words = [vec![compiled("parent"), "watch".into()], talker(&test, port)].concat();
    let finished = test.capture().run(&words).ok();
    server.wait_ok();
    assert!(finished.text().ends_with("ended 0, signals 1\n"), "{}", finished.text());
    assert!(!finished.text().contains("stopped"), "{}", finished.text());
    assert_whole(&test, &finished);
}

#[test]
fn a_shell_with_job_control() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let script = format!("set -m; {}; echo \" status $?\"; jobs; true", joined(&talker(&test, port)));
    let finished = test.capture().run(&["bash", "-c", &script]).ok();
    server.wait_ok();
    assert!(finished.text().ends_with(" status 0\n"), "{}", finished.text());
    assert!(!finished.stderr.contains("Stopped"), "{}", finished.stderr);
    assert_whole(&test, &finished);
}

/// sudo and su on a terminal pass a stop of theirs on to the shell that they came from.
#[test]
fn a_program_on_a_terminal_that_minds_its_child() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let script = test.text("script.sh");
    fs::write(&script, format!("{}\necho \" status $?\"\n", joined(&talker(&test, port)))).unwrap();
    let su = format!("su root -s /bin/bash -c 'bash --norc -i {script}'");
    let finished = test.capture().run(&["script", "-qec", &su, "/dev/null"]).ok();
    server.wait_ok();
    assert!(finished.text().trim_end().ends_with("status 0"), "{}", finished.text());
    assert_whole(&test, &finished);
}

/// Something more urgent keeps one processor busy for 10 ms, then another one, and so on, until this is dropped.
struct Bursts(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Bursts {
    fn begin() -> Bursts {
        const BURST: Duration = Duration::from_millis(10);
        let (over, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let processors = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap()).take(2);
        let threads = (0..).zip(processors).map(|(turn, processor)| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut set = CpuSet::new();
                set.set(processor).unwrap();
                sched_setaffinity(Pid::from_raw(0), &set).unwrap();
                let priority = libc::sched_param { sched_priority: 2 };
                // SAFETY: a plain system call with a parameter of this frame, about this thread only.
                let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
                Errno::result(done).unwrap();
                while !over.load(Relaxed) {
                    if began.elapsed().as_millis() / BURST.as_millis() % 2 != turn {
                        thread::sleep(BURST / 10);
                    }
                }
            })
        });
        let threads = threads.collect();
        Bursts(over, threads)
    }
}

impl Drop for Bursts {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        self.1.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// A virtual machine may be left without a processor for a while: a process waits longer then.
#[test]
fn a_tracer_that_gets_no_processor() {
    let test = begin!();
    let libssl = fresh(&test, &library("libssl.so.3"), "libssl.so.3");
    let script = format!("for i in $(seq 60); do LD_PRELOAD={libssl} /bin/true || exit 1; done");
    let bursts = Bursts::begin();
    let finished = test.capture().args(&["-v"]).run(&["sh", "-c", &script]).ok();
    drop(bursts);
    assert!(!finished.stderr.contains("was not held"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("lost:"), "{}", finished.stderr);
}

/// What a debugger says of a program is what it says without us.
#[test]
fn debuggers() {
    let test = begin!();
    let debuggers: [(&str, &[&str]); 2] = [
        ("strace", &["strace", "-f", "-e", "trace=none", "-o"]),
        ("gdb", &["gdb", "-nx", "-batch", "-ex", "set startup-with-shell on", "-ex", "run", "-ex"]),
    ];
    let (_server, port) = exchange_server(&test, "--times 2 r:5 w:40 z S");
    for (name, words) in debuggers {
        if Command::new(name).arg("--version").output().is_err() {
            crate::support::gate::skipped(name, "it is not installed", "T2P_REQUIRE_TOOLS");
            continue;
        }
        let log = test.text(&format!("{name}.log"));
        let mut words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        words.push(if name == "gdb" { "info program".into() } else { log.clone() });
        words.extend((name == "gdb").then(|| "--args".to_string()));
        words.extend(talker(&test, port));
        let finished = test.capture().run(&words).ok();
        let said = finished.text() + &finished.stderr + &fs::read_to_string(&log).unwrap_or_default();
        assert!(said.contains("exited"), "{name}: {said}");
        // It cannot be held too.
        let late = "not inspected before the process ran on: TLS calls may be missing";
        assert!(finished.stderr.contains(late), "{name}: {}", finished.stderr);
        for word in ["SIGSTOP", "SIGCONT", "SIGTRAP", "stopped", "Operation not permitted"] {
            assert!(!said.contains(word), "{name}: {said}");
        }
    }
}

/// It cannot be held, and its processes are gone before they are looked at: each counts.
#[test]
fn what_a_traced_program_runs_is_counted_as_not_held() {
    const TIMES: u64 = 40;
    let test = begin!();
    if Command::new("strace").arg("--version").output().is_err() {
        return crate::support::gate::skipped("strace", "it is not installed", "T2P_REQUIRE_TOOLS");
    }
    let (libssl, log) = (fresh(&test, &library("libssl.so.3"), "libssl.so.3"), test.text("strace.log"));
    let script = format!("for i in $(seq {TIMES}); do LD_PRELOAD={libssl} /bin/true || exit 1; done");
    let words = ["strace", "-f", "-e", "trace=none", "-o", &log, "sh", "-c", &script];
    let finished = test.capture().run(&words).ok();
    let line = finished.stderr.lines().find_map(|line| line.strip_prefix("lost: "));
    let count = line.and_then(|line| line.split_once(" mapped files: not inspected")?.0.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count >= TIMES), "{}", finished.stderr);
}

/// Of the libraries that a program names, those that have nothing to probe make it wait once, all together.
#[test]
fn libraries_that_a_program_names() {
    let test = begin!();
    let (folder, recording) = (test.folder("lib"), test.text("held.t2p"));
    let library = |name: &str, needed: &[&str]| {
        let mut cc = Command::new("cc");
        cc.current_dir(&folder).args(["-x", "c", "-", "-shared", "-nostdlib", "-o", name]);
        cc.args(["-Wl,--no-as-needed", "-L."]).args(needed).stdin(Stdio::null());
        assert!(cc.status().unwrap().success());
    };
    // A chain: the program names the first only.
    const COUNT: usize = 12;
    library("libn0.so", &[]);
    for n in 1..COUNT {
        library(&format!("libn{n}.so"), &[&format!("-ln{}", n - 1)]);
    }
    let program = test.text("program");
    let mut cc = Command::new("cc");
    cc.args(["-Wl,--no-as-needed", "-L", &folder, &format!("-ln{}", COUNT - 1), "-o", &program]);
    cc.args(["-x", "c", "-"]).stdin(Stdio::piped());
    let mut cc = cc.spawn().unwrap();
    cc.stdin.take().unwrap().write_all(b"int main(void) { return 0; }").unwrap();
    assert!(cc.wait().unwrap().success());
    let capture = test.capture().variable("LD_LIBRARY_PATH", &folder).args(&["--record", &recording]);
    capture.run(&[&program]).ok();
    let mut player = Player::new(fs::read(recording).unwrap().into()).unwrap();
    let records = std::iter::from_fn(|| player.next_record().unwrap());
    let files: Vec<FileSeen> = records
        .filter_map(|record| match record::decode(&record) {
            Ok(Event::File(file)) => Some(file),
            _ => None,
        })
        .collect();
    let is = |file: &&FileSeen, path: String| fs::metadata(path).unwrap().ino() == file.inode;
    assert_eq!(files.iter().filter(|file| is(file, program.clone())).count(), 1, "{files:?}");
    let named = |file: &&FileSeen| (0..COUNT).any(|n| is(file, format!("{folder}/libn{n}.so")));
    assert_eq!(files.iter().filter(named).count(), 0, "{files:?}");
}

/// Then it is stopped by signals, which is worse, and is said.
#[test]
fn a_command_that_cannot_be_traced() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let file = test.path("untraced.pcapng");
    let mut command = Command::new(compiled("untraceable"));
    command.arg(TLS2PCAP).arg("-o").arg(&file).arg("--").args(talker(&test, port));
    let mut running = Process::start(&mut command, test.path("untraced.err"));
    running.wait_ok();
    server.wait_ok();
    assert!(running.stderr().contains("cannot be traced"), "{}", running.stderr());
    let view = tshark::any().read(&file);
    assert_same_bytes("client", &view.only().sent_by_client, b"hello");
    assert_eq!(view.only().comment.number("from_start"), 1);
}

/// Runs new files all the time, in several children: for each one more byte in a file. Prints its pid.
const STARTER: &str = r#"
echo "pid $$"
for worker in 1 2 3; do
    (
        while :; do
            cp "$0/tool" "$0/tool.$worker.new" && mv "$0/tool.$worker.new" "$0/tool.$worker" &&
                "$0/tool.$worker" && printf x >>"$0/done.$worker"
        done
    ) &
done
wait
"#;

/// Ids of the kernel programs that a process holds.
fn programs_of(pid: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let ids = |text: String| {
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse();
        id.ok()
    };
    texts.filter_map(ids).collect()
}

fn is_loaded(program: u32) -> bool {
    // SAFETY: a number goes in, and a new descriptor or an error comes out.
    let fd = unsafe { bpf_prog_get_fd_by_id(program) };
    if fd >= 0 {
        // SAFETY: it was just made, and nobody else has it.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    }
    fd >= 0
}

/// A number that looks random: the same in each run of the test.
fn scattered(run: u32, below: u64) -> u64 {
    let mut x = u64::from(run) + 0x9e37_79b9_7f4a_7c15;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) % below
}

/// T2P_KILLS: how often (6).
#[test]
fn nothing_is_left_by_a_tls2pcap_that_is_killed() {
    let test = begin!();
    let kills = std::env::var("T2P_KILLS").map_or(6, |n| n.parse().unwrap());
    let dir = test.folder("files");
    copy_program("/bin/true", format!("{dir}/tool"));
    for run in 0..kills {
        let mut running = test.capture().start(&["sh", "-c", STARTER, &dir]);
        let command: u32 = running.process.line_after("pid").parse().unwrap();
        let progress = || (1..=3).map(|n| size(&format!("{dir}/done.{n}"))).collect::<Vec<_>>();
        let before = progress();
        until("the command to start something", || (progress() != before).then_some(()));
        let programs = programs_of(running.process.pid());
        assert!(programs.len() > 3, "{programs:?}");
        // The moment is what is tested: it is no wait for anything.
        std::thread::sleep(Duration::from_micros(scattered(run, 50_000)));
        let group = Group(Pid::from_raw(running.process.pid() as i32));
        running.process.signal(Signal::SIGKILL);
        running.process.wait();
        // Each goes on.
        let before = progress();
        until(&format!("all to go on after kill {run}"), || {
            progress().iter().zip(&before).all(|(now, then)| *now >= then + 2).then_some(())
        });
        until("the kernel to let the programs go", || {
            (!programs.iter().any(|id| is_loaded(*id))).then_some(())
        });
        drop(group);
        until("the command to end", || {
            (children(command).is_empty() && !Path::new(&format!("/proc/{command}/exe")).exists())
                .then_some(())
        });
    }
}

/// What is left of a process group is killed when this is dropped.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

fn size(path: &str) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
