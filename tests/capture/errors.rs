//! What goes wrong: one clear message with the cure, the right exit status, what was captured is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::files::{AS_NOBODY, blocks, public_copy};
use crate::support::capture::{Finished, TLS2PCAP};
use crate::support::nginx::Nginx;
use crate::support::{Process, Test, begin, gate, run, tshark};

/// Runs a whole command line.
fn finish(command: &mut Command) -> Finished {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Finished {
        status: crate::support::process::code(output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        file: "".into(),
    }
}

/// A shell script that sees mounts of its own.
fn with_own_mounts(script: &str) -> Finished {
    finish(Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", script]))
}

#[test]
fn wrong_usage() {
    for args in [&["--no-such-option"][..], &["-o"], &["-p", "no-number", "-o", "x", "--", "true"]] {
        let finished = finish(Command::new(TLS2PCAP).args(args));
        finished.failed(2, &["--no-such-option", "-o", "--output", "no-number"]);
        assert!(finished.stdout.is_empty());
    }
}

#[test]
fn not_root() {
    let test = begin!();
    let room = test.folder("room");
    fs::set_permissions(&room, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(AS_NOBODY[0]);
    command.args(&AS_NOBODY[1..]).args([
        &public_copy(&test),
        "-o",
        &format!("{room}/x.pcapng"),
        "--",
        "true",
    ]);
    let finished = finish(&mut command);
    finished.failed(3, &["sudo", "root", "cap_bpf"]);
}

#[test]
fn output_not_writable() {
    let test = begin!();
    for out in [test.text("no/such/folder/x.pcapng"), test.folder("a-folder")] {
        let marker = test.path("the-command-ran");
        let finished = test.capture().output(&out).run(&["touch", marker.to_str().unwrap()]);
        finished.failed(1, &[&out.to_lowercase()]);
        assert!(!marker.exists(), "the command was run although nothing can be written");
    }
}

#[test]
fn read_only_file_system() {
    let test = begin!();
    let dir = test.folder("ro");
    let finished =
        with_own_mounts(&format!("mount -t tmpfs -o ro none {dir} && exec {TLS2PCAP} -o {dir}/x -- true"));
    finished.failed(1, &["read-only"]);
}

/// The summary of a capture that could not be written to its end: how many packets are said to be in the file.
#[track_caller]
fn ends_early(finished: &Finished) -> usize {
    let said = &finished.stderr;
    assert!(
        said.contains("lost: everything after the write error") && !said.contains("nothing lost"),
        "{said}"
    );
    assert!(!said.contains("\nnote: "), "{said}");
    let line = said.lines().find(|line| line.contains(" of plaintext in ")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at - 1].replace(',', "").parse().unwrap()
}

#[test]
fn disk_full_keeps_what_was_captured() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (dir, kept, body) = (test.folder("small"), test.text("kept.pcapng"), test.text("body"));
    let finished = with_own_mounts(&format!(
        "mount -t tmpfs -o size=1m none {dir} || exit 99; \
         {TLS2PCAP} -o {dir}/x.pcapng -- curl -sS --http1.1 --cacert {cert} -o {body} {url}; \
         status=$?; cp {dir}/x.pcapng {kept}; exit $status",
        cert = nginx.site.cert,
        url = nginx.site.url("/big"),
    ));
    finished.failed(1, &["no space left", "disk is full", "disk full"]);
    let packets = ends_early(&finished);
    assert!(fs::metadata(&kept).unwrap().len() > 500_000, "what was captured before is not kept");
    for tshark in tshark::oracles() {
        let asked = "http.request.method && http.request.uri == \"/big\"";
        assert_eq!(tshark.count_so_far(kept.as_ref(), asked), 1);
        assert_eq!(tshark.count_so_far(kept.as_ref(), "frame"), packets);
    }
    // The command is not to suffer from it.
    assert_eq!(fs::metadata(&body).unwrap().len() as usize, crate::support::nginx::BIG);
}

#[test]
fn stdout_full() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let script = format!(
        "exec {TLS2PCAP} -o - -- curl -sS --http1.1 --cacert {} -o /dev/null {} >/dev/full",
        nginx.site.cert,
        nginx.site.url("/page.html")
    );
    finish(Command::new("sh").args(["-c", &script])).failed(1, &["no space left"]);
}

/// The message names the file that is to blame.
#[test]
fn recording_full() {
    let test = begin!();
    let finished = test.capture().args(&["--record", "/dev/full"]).run(&["true"]);
    finished.failed(1, &["/dev/full: the recording cannot be written", "--record"]);
}

/// The capture file is none the worse.
#[test]
fn recording_that_ends_early_ends_the_capture() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (dir, file) = (test.folder("small"), test.text("x.pcapng"));
    let finished = with_own_mounts(&format!(
        "mount -t tmpfs -o size=1m none {dir} || exit 99; \
         exec {TLS2PCAP} -o {file} --record {dir}/r.t2p -- curl -sS --http1.1 --cacert {cert} -o /dev/null {url}",
        cert = nginx.site.cert,
        url = nginx.site.url("/big"),
    ));
    finished.failed(1, &["r.t2p: the recording cannot be written"]);
    let packets = ends_early(&finished);
    assert!(packets > 4, "{packets}");
    for tshark in tshark::oracles() {
        assert_eq!(tshark.fields(file.as_ref(), "frame", &["frame.number"]).len(), packets);
    }
}

#[test]
fn recording_not_writable() {
    let test = begin!();
    let record = test.text("no/such/folder/r.t2p");
    let finished = test.capture().args(&["--record", &record]).run(&["true"]);
    finished.failed(1, &[&record.to_lowercase()]);
}

#[test]
fn command_not_found() {
    let test = begin!();
    for word in ["no-such-command-anywhere", "/no/such/command"] {
        test.capture().run(&[word]).failed(127, &[word]);
    }
}

#[test]
fn command_not_executable() {
    let test = begin!();
    let file = test.text("plain-file");
    fs::write(&file, "no program\n").unwrap();
    test.capture().run(&[&file]).failed(126, &["plain-file"]);
    test.capture().run(&[&test.folder("a-folder")]).failed(126, &["a-folder"]);
}

#[test]
fn pid_gone() {
    let test = begin!();
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let pid = child.id();
    test.capture().attach_in_vain(&[pid]).failed(5, &[&pid.to_string()]);
}

#[test]
fn pid_of_a_thread() {
    let test = begin!();
    let thread = nix::unistd::gettid().as_raw() as u32;
    let finished = test.capture().attach_in_vain(&[thread]);
    finished.failed(5, &[&format!("{thread} is a thread of process {}", std::process::id())]);
}

#[test]
fn pid_without_a_tls_library() {
    let test = begin!();
    let sleeper = Process::start(Command::new("sleep").arg("1000"), test.path("sleep.err"));
    let finished = test.capture().attach_in_vain(&[sleeper.pid()]);
    finished.failed(5, &["tls", "openssl", "libssl"]);
    assert!(finished.stderr.contains(&sleeper.pid().to_string()), "{}", finished.stderr);
}

#[test]
fn kernel_without_btf() {
    let test = begin!();
    let out = test.text("x.pcapng");
    let finished =
        with_own_mounts(&format!("mount -t tmpfs none /sys/kernel/btf && exec {TLS2PCAP} -o {out} -- true"));
    finished.failed(4, &["btf"]);
}

#[test]
fn not_a_recording() {
    let test = Test::unprivileged("not_a_recording");
    let (input, out) = (test.text("in.t2p"), test.text("out.pcapng"));
    for content in [&b""[..], b"hello, this is no recording at all"] {
        fs::write(&input, content).unwrap();
        let finished = finish(Command::new(TLS2PCAP).args(["replay", &input, "-o", &out]));
        finished.failed(1, &["not a recording"]);
    }
    let missing = finish(Command::new(TLS2PCAP).args(["replay", "/no/such/file", "-o", &out]));
    missing.failed(1, &["/no/such/file"]);
}

#[test]
fn recording_cut_short_replays_up_to_there() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let record = test.text("r.t2p");
    let url = nginx.site.url("/page.html");
    let words = ["curl", "-sS", "--http1.1", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    test.capture().args(&["--record", &record]).run(&words).ok();
    let bytes = fs::read(&record).unwrap();
    for end in [bytes.len() - 1, bytes.len() / 2, 13] {
        let (cut, out) = (test.text("cut.t2p"), test.text("cut.pcapng"));
        fs::write(&cut, &bytes[..end]).unwrap();
        let finished = finish(Command::new(TLS2PCAP).args(["replay", &cut, "-o", &out]));
        finished.failed(1, &["cut short"]);
        run(Command::new("capinfos").arg(&out));
    }
}

/// Whoever reads the capture, or what is said about it, may go away: the command is none the worse.
#[test]
fn nobody_reads_any_more() {
    let test = begin!();
    let (out, status) = (test.text("x.pcapng"), test.text("status"));
    let command = "-- sh -c 'exit 7'";
    for command in [format!("{TLS2PCAP} -q -o - {command}"), format!("{TLS2PCAP} -v -o {out} {command} 2>&1")]
    {
        let script = format!("{{ {command}; echo $? >{status}; }} | true");
        finish(Command::new("sh").args(["-c", &script]));
        assert_eq!(fs::read_to_string(&status).unwrap(), "7\n", "{command}");
    }
}

/// The summary does not claim what was not watched. The reader has seen enough, so nothing is lost.
#[test]
fn reader_that_has_seen_enough() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (status, said, body) = (test.text("status"), test.text("said"), test.text("body"));
    let (cert, url) = (&nginx.site.cert, nginx.site.url("/big"));
    let fetched = format!("-- curl -sS --http1.1 --cacert {cert} -o {body} {url}");
    for target in [fetched, format!("-p {}", nginx.worker())] {
        let script = format!(
            "{{ {TLS2PCAP} -v --fail-on-loss -o - {target} 2>{said}; echo $? >{status}; }} | head -c 100 >/dev/null"
        );
        finish(Command::new("sh").args(["-c", &script]));
        let said = fs::read_to_string(&said).unwrap();
        assert_eq!(fs::read_to_string(&status).unwrap(), "0\n", "{said}");
        let note = "note: the reader closed standard output: nothing was captured after that\n";
        assert!(said.contains(note), "{said}");
        for wrong in ["nothing lost", "mapped no known TLS library", "no TLS data was seen", "lost:"] {
            assert!(!said.contains(wrong), "{said}");
        }
    }
    assert_eq!(fs::metadata(&body).unwrap().len() as usize, crate::support::nginx::BIG);
}

/// A limit on the size of files is an ordinary error of writing, and the command does not inherit how it is met.
#[test]
fn a_file_that_may_not_grow_any_further() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let (file, record, body) = (test.text("x.pcapng"), test.text("r.t2p"), test.text("body"));
    let (cert, url) = (&nginx.site.cert, nginx.site.url("/big"));
    let fetch = format!("curl -sS --http1.1 --cacert {cert} {url} | head -c 100000000 >/dev/null");
    let signals = test.text("signals");
    let command = format!("sh -c 'grep SigIgn /proc/$$/status >{signals}; {fetch}'");
    // In blocks of 512 or 1024 bytes, as the shell has it.
    let limited = |output: &str| {
        finish(
            Command::new("sh").args(["-c", &format!("ulimit -f 400; exec {TLS2PCAP} {output} -- {command}")]),
        )
    };
    let finished = limited(&format!("-o {file}"));
    finished.failed(1, &["x.pcapng: cannot be written: file too large"]);
    let packets = ends_early(&finished);
    assert!(packets > 4 && blocks(&fs::read(&file).unwrap()) > packets);
    for tshark in tshark::oracles() {
        assert_eq!(tshark.fields(file.as_ref(), "frame", &["frame.number"]).len(), packets);
    }
    let ignored = fs::read_to_string(&signals).unwrap();
    let ignored = u64::from_str_radix(ignored.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(ignored & 1 << (libc::SIGXFSZ - 1), 0, "{ignored:x}");
    let finished = limited(&format!("-o {body} --record {record}"));
    finished.failed(1, &["cannot be written: file too large"]);
    let replayed = finish(Command::new("sh").args([
        "-c",
        &format!("ulimit -f 100; exec {TLS2PCAP} replay {record} -o {}", test.text("again.pcapng")),
    ]));
    replayed.failed(1, &["again.pcapng: cannot be written: file too large"]);
    assert!(blocks(&fs::read(test.path("again.pcapng")).unwrap()) > 4);
}

/// What another user has put into a shared folder is neither written to nor followed.
#[test]
fn an_output_that_another_user_has_made() {
    let test = begin!();
    let shared = test.folder("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let victim = test.text("victim");
    fs::write(&victim, "precious").unwrap();
    let traps = [
        ("file", "umask 0; echo theirs >file", "belongs to another user (nobody)"),
        ("link", "ln -s ../victim link", "is a symbolic link of another user (nobody)"),
        ("dangling", "ln -s ../new dangling", "is a symbolic link of another user (nobody)"),
        ("fifo", "umask 0; mkfifo fifo", "is a fifo that belongs to another user (nobody)"),
    ];
    for (name, script, why) in traps {
        let mut command = Command::new(AS_NOBODY[0]);
        run(command.args(&AS_NOBODY[1..]).args(["sh", "-c", script]).current_dir(&shared));
        let path = format!("{shared}/{name}");
        let ok = test.text("ok.pcapng");
        for args in [&["-o", &path][..], &["-o", &ok, "--record", &path], &["-o", &ok, "--ready-file", &path]]
        {
            let finished = finish(Command::new(TLS2PCAP).args(args).args(["--", "true"]));
            finished.failed(1, &[why]);
        }
    }
    fs::hard_link(&victim, format!("{shared}/hard")).unwrap();
    test.capture().output(format!("{shared}/hard")).run(&["true"]).failed(1, &["another name (a hard link)"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_to_string(format!("{shared}/file")).unwrap(), "theirs\n");
    assert!(!test.path("new").exists());
    // One's own, and root's, are followed and written to, as are the descriptors of whoever calls.
    std::os::unix::fs::symlink("own.pcapng", format!("{shared}/own-link")).unwrap();
    for _ in 0..2 {
        test.capture().output(format!("{shared}/own-link")).run(&["true"]).ok();
    }
    let own = fs::metadata(format!("{shared}/own.pcapng")).unwrap();
    assert!(own.len() > 0 && own.permissions().mode() & 0o777 == 0o600);
    for path in ["/dev/stdout", "/proc/self/fd/1", "/dev/null"] {
        let script = format!("exec {TLS2PCAP} -o {path} -- true >{}", test.text("through.pcapng"));
        let finished = finish(Command::new("sh").args(["-c", &script]));
        assert_eq!(finished.status, 0, "{path}: {}", finished.stderr);
        let len = fs::metadata(test.path("through.pcapng")).unwrap().len();
        assert_eq!(len > 0, path != "/dev/null", "{path}: {len}");
    }
    // What a user keeps in a folder of that user alone, under sudo.
    let home = test.folder("home");
    run(Command::new("chown").args(["nobody", &home]));
    let under_sudo = || test.capture().variable("SUDO_UID", "65534").variable("SUDO_GID", "65534");
    for _ in 0..2 {
        under_sudo().output(format!("{home}/x.pcapng")).run(&["true"]).ok();
    }
    under_sudo().output(format!("{shared}/file")).run(&["true"]).ok();
    let theirs = fs::metadata(format!("{shared}/file")).unwrap();
    assert_eq!(theirs.permissions().mode() & 0o777, 0o600);
}

/// The file that the capture goes to is not overwritten by what else is written.
#[test]
fn a_ready_file_that_is_the_output() {
    let test = begin!();
    let link = test.text("link");
    std::os::unix::fs::symlink("out.pcapng", &link).unwrap();
    let finished = test.capture().args(&["--ready-file", &link]).run(&["true"]);
    finished.failed(2, &["--ready-file names a file that the capture is written to"]);
}

/// Each limit that is reached is named, with what to do about it.
#[test]
fn too_few_descriptors() {
    let test = begin!();
    let out = test.text("x.pcapng");
    let script = format!("ulimit -n 20; exec {TLS2PCAP} -o {out} -- true");
    let finished = finish(Command::new("sh").args(["-c", &script]));
    finished.failed(1, &["this process may have 20 files open: raise that limit (ulimit -hn"]);
    // A soft limit is raised, and the command gets its own.
    let script = format!("ulimit -Sn 20; exec {TLS2PCAP} -q -o {out} -- sh -c 'ulimit -Sn; ulimit -l'");
    let finished = finish(Command::new("sh").args(["-c", &script]));
    assert_eq!(finished.status, 0, "{}", finished.stderr);
    let locked = finish(Command::new("sh").args(["-c", "ulimit -l"])).text();
    assert_eq!(finished.text(), format!("20\n{locked}"));
}

/// A ring that does not fit is refused, and not given to a process that is killed for it; the default fits.
#[test]
fn a_ring_beyond_the_memory_limit() {
    let test = begin!();
    let out = test.text("x.pcapng");
    let Some(group) = Group::new(192 << 20) else {
        return gate::skipped(&test.name, "no control group can be made here", "T2P_REQUIRE_TOOLS");
    };
    let limited = |options: &str| {
        let script = format!("echo $$ >{}/cgroup.procs; exec {TLS2PCAP} {options} -o {out} -- true", group.0);
        finish(Command::new("sh").args(["-c", &script]))
    };
    let refused = limited("--ring-size 1024");
    refused.failed(1, &["a ring buffer of 1024 mib does not fit: the memory limit of the control group"]);
    for options in ["", "--ring-size 4M"] {
        let finished = limited(options);
        assert_eq!(finished.status, 0, "{options}: {}", finished.stderr);
    }
    let script = format!("ulimit -v 900000; exec {TLS2PCAP} --ring-size 1024 -o {out} -- true");
    finish(Command::new("sh").args(["-c", &script]))
        .failed(1, &["does not fit: the limit on this process's address"]);
}

/// A control group with a limit on memory, beside or below that of the test; removed when dropped.
struct Group(String);

impl Group {
    fn new(limit: u64) -> Option<Group> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("t2p-test-{}", std::process::id());
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (folder, file) = match (fields.next()?, fields.next()?) {
                ("0", "") => ("/sys/fs/cgroup".to_owned(), "memory.max"),
                (_, "memory") => {
                    (format!("/sys/fs/cgroup/memory{}", fields.next()?), "memory.limit_in_bytes")
                }
                _ => return None,
            };
            let group = Group(format!("{folder}/{name}"));
            fs::create_dir(&group.0).ok()?;
            fs::write(format!("{}/{file}", group.0), limit.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
