//! Programs that come late, die early, or run as somebody else.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::capture::TLS2PCAP;
use crate::support::process::children;
use crate::support::programs::{
    PYTHON, Told, blocks_in_read, blocks_in_write, compiled, connect, exchange_server, transcript,
};
use crate::support::view::{FIN, Packet};
use crate::support::{Process, Test, assert_same_bytes, begin, copy_program, gate, until};

/// Where the dynamic linker finds a library.
pub fn library(name: &str) -> String {
    let output = Command::new("sh").args(["-c", "PATH=$PATH:/sbin ldconfig -p"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|l| l.trim_start().starts_with(name)).unwrap();
    line.rsplit(" => ").next().unwrap().to_string()
}

/// A library file that nobody on this machine has ever mapped, loaded with the connection open.
#[test]
fn library_that_is_new_and_loaded_late() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let dir = test.folder("lib");
    for name in ["libssl.so.3", "libcrypto.so.3"] {
        std::fs::copy(library(name), format!("{dir}/{name}")).unwrap();
    }
    let words = [
        compiled("late"),
        format!("{dir}/libssl.so.3"),
        "127.0.0.1".into(),
        port.to_string(),
        "hello".into(),
    ];
    let finished = test.capture().variable("LD_LIBRARY_PATH", &dir).run(&words).ok();
    server.wait_ok();
    let truth = transcript(&test.text("server"), "server", 0);
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, b"hello");
        assert_same_bytes("server", &connection.sent_by_server, &truth.sent);
        assert!(connection.comment.get("library").contains(&dir), "{:?}", connection.comment);
        assert_eq!(connection.comment.number("from_start"), 1);
    }
}

/// Names of files and programs are their owners' to choose. They neither control a terminal nor imitate messages.
#[test]
fn names_that_would_control_a_terminal() {
    let test = begin!();
    let dir = test.folder("\u{1b}]0;title\u{7}\ntls2pcap: forged \u{202e}");
    let copy = format!("{dir}/libssl.so.3");
    std::fs::copy(library("libssl.so.3"), &copy).unwrap();
    let script = "import ctypes, sys\n\
                  ctypes.CDLL(sys.argv[1])\n\
                  open('/proc/self/comm', 'w').write(sys.argv[2])\n\
                  print('port 0', flush=True)\n\
                  sys.stdin.readline()";
    let words = [PYTHON, "-I", "-c", script, &copy, "\u{1b}[31m\nforged"];
    let mut running = test.capture().args(&["-v"]).start(&words);
    running.process.port();
    let pid = children(running.process.pid())[0].to_string();
    let doctor = Command::new(TLS2PCAP).args(["doctor", "-p", &pid]).output().unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    running.process.go_on();
    let said = running.finish().ok().stderr;
    for text in [&said, &doctor] {
        assert!(text.contains("\\u{1b}") && text.contains("libssl.so.3"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert!(text.lines().all(|line| !line.starts_with("tls2pcap: forged")), "{text}");
    }
}

/// Processor time that a process has taken so far, in seconds.
fn processor_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// A file that takes long to look at, here for a huge debug file that its section names, delays no signal.
#[test]
fn a_signal_reaches_a_command_that_maps_an_expensive_file() {
    let test = begin!();
    let (source, library, debug) = (test.text("x.c"), test.text("x.so"), test.path("x.debug"));
    std::fs::write(&source, "const char label[] = \"tls13 c hs traffic\"; int f(void) { return 1; }")
        .unwrap();
    std::fs::write(&debug, "x").unwrap();
    let link = format!("--add-gnu-debuglink={}", debug.display());
    for words in [&["cc", "-shared", "-fPIC", "-o", &library, &source][..], &["objcopy", &link, &library]] {
        assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{words:?}");
    }
    // Its checksum is asked for. On disk it is small.
    std::fs::File::options().write(true).open(&debug).unwrap().set_len(2 << 30).unwrap();
    let script = "import ctypes, signal, sys\n\
                  signal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True))\n\
                  print('begin', flush=True)\n\
                  ctypes.CDLL(sys.argv[1])\n\
                  print('loaded', flush=True)\n\
                  sys.stdin.readline()";
    let mut running = test.capture().start(&[PYTHON, "-I", "-c", script, &library]);
    running.process.line_after("begin");
    let loader = children(running.process.pid())[0];
    until("the command to wait", || {
        let stat = std::fs::read_to_string(format!("/proc/{loader}/stat")).ok()?;
        let maps = std::fs::read_to_string(format!("/proc/{loader}/maps")).ok()?;
        (stat.contains(") t ") && maps.contains(&library)).then_some(())
    });
    running.process.signal(Signal::SIGTERM);
    running.process.line_after("heard");
    let busy = processor_time(running.process.pid());
    assert!(busy < 8.0, "the signal came after {busy} s");
    running.process.line_after("loaded");
    running.process.go_on();
    running.finish().ok();
}

/// A process is killed while it waits for a library to be looked at: that of the next is looked at.
#[test]
fn library_whose_first_user_is_gone_too_soon() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let (known, copy, fresh) = (library("libssl.so.3"), test.text("libssl.so.3"), test.text("fresh"));
    std::fs::copy(&known, &copy).unwrap();
    copy_program("/bin/true", &fresh);
    let load = format!("{PYTHON} -I -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])'");
    // When the fresh program goes on, the one before it was looked at.
    let script = format!(
        "{load} {known}; echo begin; read line; {load} {copy}; echo killed; {fresh}; \
         {late} {copy} 127.0.0.1 {port} hello",
        late = compiled("late")
    );
    let mut running = test.capture().start(&["sh", "-c", &script]);
    running.process.line_after("begin");
    let shell = children(running.process.pid())[0];
    let frozen = running.process.freeze_but("holder");
    running.process.go_on();
    let loader = until("the loader to wait", || {
        let loader = *children(shell).first()?;
        let stat = std::fs::read_to_string(format!("/proc/{loader}/stat")).ok()?;
        let maps = std::fs::read_to_string(format!("/proc/{loader}/maps")).ok()?;
        (stat.contains(") t ") && maps.contains("python")).then_some(loader)
    });
    kill(Pid::from_raw(loader as i32), Signal::SIGKILL).unwrap();
    running.process.line_after("killed");
    frozen.thaw();
    let finished = running.finish().ok();
    server.wait_ok();
    for (view, _) in finished.views() {
        let connection = view.only();
        assert_same_bytes("client", &connection.sent_by_client, b"hello");
        assert!(connection.comment.get("library").contains(&copy), "{:?}", connection.comment);
    }
}

/// What no data was seen in is said, and of a library that a process did not wait for, no more than is known.
#[test]
fn what_is_said_of_libraries_without_data() {
    let test = begin!();
    let copy = test.text("libssl.so.3");
    std::fs::copy(library("libssl.so.3"), &copy).unwrap();
    let script = "import ctypes, sys\n\
                  for path in sys.argv[1:]:\n    \
                      ctypes.CDLL(path)\n    \
                      print('port 0', flush=True)\n    \
                      sys.stdin.readline()";
    let first = library("libssl.so.3");
    let mut command = Command::new(PYTHON);
    command.args(["-I", "-c", script, &first, &copy]);
    let mut process = Process::start(&mut command, test.path("loader.err"));
    process.port();
    // It does not wait then.
    let running = test.capture().args(&["-v", "--no-follow"]).attach(&[process.pid()]);
    process.go_on();
    process.port();
    until("the copy to be probed", || {
        running.process.stderr().contains(&format!("probed: {copy} ")).then_some(())
    });
    process.go_on();
    process.wait_ok();
    let stderr = running.finish().ok().stderr;
    let first = std::fs::canonicalize(first).unwrap();
    assert!(stderr.contains(&format!("note: no TLS data was seen in {}\n", first.display())), "{stderr}");
    let late = format!("note: no TLS data was seen in {copy}, from a moment after it was loaded: ");
    assert!(stderr.contains(&late), "{stderr}");
}

/// As in a container: a path that only the program sees, on a file system that lies over another.
#[test]
fn library_in_the_mounts_of_a_container() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "--times 2 r:5 w:40 z S");
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|d| test.folder(d));
    for name in ["libssl.so.3", "libcrypto.so.3"] {
        std::fs::copy(library(name), format!("{lower}/{name}")).unwrap();
    }
    // The same file once through the overlay, and once directly.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {merged} || exit 99; \
         LD_LIBRARY_PATH={merged} {late} {merged}/libssl.so.3 127.0.0.1 {port} hello && \
         LD_LIBRARY_PATH={lower} {late} {lower}/libssl.so.3 127.0.0.1 {port} hello",
        late = compiled("late")
    );
    let finished = test.capture().run(&["unshare", "-m", "sh", "-c", &script]);
    if finished.status == 99 {
        return gate::skipped(&test.name, "overlay cannot be mounted here", "T2P_REQUIRE_TOOLS");
    }
    let finished = finished.ok();
    server.wait_ok();
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), 2);
        for (n, connection) in view.connections.iter().enumerate() {
            let truth = transcript(&test.text("server"), "server", n as u32);
            assert_same_bytes("client", &connection.sent_by_client, b"hello");
            assert_same_bytes("server", &connection.sent_by_server, &truth.sent);
        }
    }
}

#[test]
fn library_loaded_late_by_a_child() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let script = format!("true; ({} {} 127.0.0.1 {port} hello)", compiled("late"), library("libssl.so.3"));
    let finished = test.capture().run(&["sh", "-c", &script]).ok();
    server.wait_ok();
    for (view, _) in finished.views() {
        assert_same_bytes("client", &view.only().sent_by_client, b"hello");
        assert_eq!(view.only().comment.get("comm"), "late");
    }
}

/// The command ends while its children are still mapping files that have to be looked at first.
#[test]
fn child_that_outlives_the_command_is_not_left_stopped() {
    let test = begin!();
    let done = test.path("done");
    let script = format!("/usr/bin/python3 -c 'import ssl, json; open(\"{}\", \"w\")' &", done.display());
    test.capture().run(&["sh", "-c", &script]).ok();
    until("the child to end", || done.exists().then_some(()));
}

/// su stops itself when its child is stopped, as sudo does.
#[test]
fn program_that_minds_its_child() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:5 w:40 z S");
    let child = format!("{} {} 127.0.0.1 {port} hello", compiled("late"), library("libssl.so.3"));
    let finished = test.capture().run(&["su", "root", "-s", "/bin/sh", "-c", &child]).ok();
    server.wait_ok();
    for (view, _) in finished.views() {
        assert_same_bytes("client", &view.only().sent_by_client, b"hello");
    }
}

/// Killed while it is blocked in SSL_read: what it said before is in the file.
#[test]
fn program_killed_inside_a_call() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:3000 w:50 z");
    let dir = test.folder("client");
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, "w:3000 r:50 r:1")].concat();
    let mut running = test.capture().start(&words);
    let told = Told::parse(&running.process.line()).unwrap();
    // Both lengths are in the transcript, and its thread is in read(2) on the socket.
    until("the program to block in its last read", || {
        let received = std::fs::metadata(format!("{dir}/client.0.received")).ok()?.len();
        (received == 50 && blocks_in_read(&told)).then_some(())
    });
    kill(Pid::from_raw(told.pid as i32), Signal::SIGKILL).unwrap();
    let finished = running.finish();
    server.wait_ok();
    assert_eq!(finished.status, 128 + Signal::SIGKILL as i32, "{}", finished.stderr);
    let truth = transcript(&dir, "client", 0);
    for (view, _) in finished.views() {
        let connection = view.of(told.local, told.remote);
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        assert_same_bytes("server", &connection.sent_by_server, &truth.received);
    }
}

/// Killed while it is blocked in SSL_write: what that call had sent is not known, and is said so.
#[test]
fn program_killed_inside_a_long_write() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:3000 i z");
    let dir = test.folder("client");
    let words = [vec![compiled("exchange")], connect("127.0.0.1", port, &dir, "w:3000 w:30000000")].concat();
    let mut running = test.capture().start(&words);
    let told = Told::parse(&running.process.line()).unwrap();
    server.line_after("waiting");
    until("the program to block in its second write", || blocks_in_write(&told).then_some(()));
    kill(Pid::from_raw(told.pid as i32), Signal::SIGKILL).unwrap();
    let finished = running.finish();
    server.go_on();
    server.wait();
    let truth = transcript(&dir, "client", 0);
    assert_eq!(truth.sent.len(), 3000);
    // The gap shows, and the FINs tell of bytes that no packet holds.
    let expected = |packet: &Packet| packet.flags & FIN != 0 || !packet.comments.is_empty();
    for (view, tshark) in finished.views_but(expected) {
        let connection = view.of(told.local, told.remote);
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        let gaps = tshark.fields(&finished.file, "frame.comment contains \"missing=\"", &["frame.comment"]);
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert!(gaps[0][0].contains("missing=unknown reason=unfinished-call"), "{gaps:?}");
    }
}

/// The capture ends while a program is blocked in SSL_write: the same.
#[test]
fn capture_that_ends_inside_a_long_write() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "r:3000 i z");
    let dir = test.folder("client");
    let mut command = Command::new(compiled("exchange"));
    command.args(connect("127.0.0.1", port, &dir, "i w:3000 w:30000000"));
    let mut client = Process::start(&mut command, test.path("client.err"));
    let told = Told::parse(&client.line()).unwrap();
    client.line_after("waiting");
    let running = test.capture().args(&["--fail-on-loss"]).attach(&[told.pid]);
    client.go_on();
    server.line_after("waiting");
    until("the program to block in its second write", || blocks_in_write(&told).then_some(()));
    let finished = running.stop();
    client.signal(Signal::SIGKILL);
    server.go_on();
    server.wait();
    assert_eq!(finished.status, 6, "{}", finished.stderr);
    assert!(finished.stderr.contains("lost: 1 call: the return was not seen"), "{}", finished.stderr);
    let truth = transcript(&dir, "client", 0);
    assert_eq!(truth.sent.len(), 3000);
    let expected = |packet: &Packet| !packet.comments.is_empty();
    for (view, tshark) in finished.views_but(expected) {
        let connection = view.of(told.local, told.remote);
        assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
        let gaps = tshark.fields(&finished.file, "frame.comment contains \"missing=\"", &["frame.comment"]);
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert!(gaps[0][0].contains("missing=unknown reason=unfinished-call"), "{gaps:?}");
    }
}

/// A client that has shaken hands and waits for a line before it talks.
pub fn waiting_client(test: &Test, name: &str, port: u16) -> (Process, Told) {
    let mut command = Command::new(compiled("exchange"));
    command.args(connect("127.0.0.1", port, &test.folder(name), "i w:10 r:20 S"));
    let mut client = Process::start(&mut command, test.path(&format!("{name}.err")));
    let told = Told::parse(&client.line()).unwrap();
    client.line_after("waiting");
    (client, told)
}

/// Runs two waiting clients and captures the first `captured` of them.
fn two_clients(test: Test, captured: usize) {
    let (mut server, port) = exchange_server(&test, "--threads 2 r:10 w:20 S");
    let mut clients = ["client0", "client1"].map(|name| waiting_client(&test, name, port));
    let pids: Vec<u32> = clients[..captured].iter().map(|(_, told)| told.pid).collect();
    let running = test.capture().attach(&pids);
    for (client, _) in &mut clients {
        client.go_on();
        client.wait_ok();
    }
    server.wait_ok();
    let finished = running.stop().ok();
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), captured);
        for (n, (_, told)) in clients[..captured].iter().enumerate() {
            let truth = transcript(&test.text(&format!("client{n}")), "client", 0);
            let connection = view.of(told.local, told.remote);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
    }
}

#[test]
fn one_of_two_targets_ends() {
    two_clients(begin!(), 2);
}

/// Nobody has to end the capture, which has all that they said.
#[test]
fn the_end_of_all_processes_given_ends_the_capture() {
    let test = begin!();
    let (mut server, port) = exchange_server(&test, "--threads 2 r:10 w:20 S");
    let mut clients = ["client0", "client1"].map(|name| waiting_client(&test, name, port));
    let mut running = test.capture().attach(&clients.each_ref().map(|(_, told)| told.pid));
    let ended = |told: &Told| format!("tls2pcap: process {} has ended\n", told.pid);
    let [(first, first_told), (second, second_told)] = &mut clients;
    first.go_on();
    until("the end of the first to be said", || {
        running.process.stderr().contains(&ended(first_told)).then_some(())
    });
    first.wait_ok();
    assert!(running.process.ended().is_none(), "one process is left");
    second.go_on();
    // It is not waited for before the capture has ended.
    let finished = running.finish().ok();
    second.wait_ok();
    server.wait_ok();
    for told in [first_told, second_told] {
        assert_eq!(finished.stderr.matches(&ended(told)).count(), 1, "{}", finished.stderr);
    }
    for (view, _) in finished.views() {
        assert_eq!(view.connections.len(), 2);
        for (n, (_, told)) in clients.iter().enumerate() {
            let truth = transcript(&test.text(&format!("client{n}")), "client", 0);
            let connection = view.of(told.local, told.remote);
            assert_same_bytes("client", &connection.sent_by_client, &truth.sent);
            assert_same_bytes("server", &connection.sent_by_server, &truth.received);
        }
    }
}

#[test]
fn processes_that_are_no_targets_are_not_captured() {
    two_clients(begin!(), 1);
}

#[test]
fn under_sudo_the_command_runs_as_the_invoking_user() {
    let test = begin!();
    let capture = test.capture().variable("SUDO_UID", "65534").variable("SUDO_GID", "65534");
    let record = test.text("r.t2p");
    let capture = capture.variable("SUDO_USER", "nobody").args(&["--record", &record]);
    let finished = capture.run(&["sh", "-c", "id -u; id -g; id -G"]).ok();
    assert_eq!(finished.text(), "65534\n65534\n65534\n");
    let owner = |file: &str| {
        let metadata = std::fs::metadata(file).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
    };
    for file in [&record, &test.text("out.pcapng")] {
        assert_eq!(owner(file), (65534, 65534, 0o600), "{file} is that user's alone");
    }
    // What was there before may be another's, and stays so.
    let before = test.text("before.pcapng");
    std::fs::write(&before, "").unwrap();
    let capture = test.capture().variable("SUDO_UID", "65534").variable("SUDO_GID", "65534");
    capture.output(&before).run(&["true"]).ok();
    assert_eq!(owner(&before), (0, 0, 0o600));
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let test = begin!();
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        let out = test.path(&format!("{status}.pcapng"));
        let finished = test.capture().output(out).run(&["sh", "-c", script]);
        assert_eq!(finished.status, status, "{script}: {}", finished.stderr);
        assert!(finished.file.exists(), "{script}");
    }
}

/// As on a host with many containers, each with its own library.
#[test]
fn many_libraries() {
    let test = begin!();
    let libraries: Vec<String> = (0..40)
        .map(|n| {
            let copy = test.text(&format!("libssl-{n}.so.3"));
            std::fs::copy(library("libssl.so.3"), &copy).unwrap();
            format!("--lib={copy}")
        })
        .collect();
    let args: Vec<&str> = libraries.iter().map(String::as_str).collect();
    test.capture().args(&args).run(&["true"]).ok();
}
