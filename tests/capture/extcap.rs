//! Wireshark's own interface list: captures that an ordinary user's tshark and Wireshark start.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::desk::Desk;
use crate::support::nginx::Nginx;
use crate::support::{Process, begin, gate, run, tshark, until};

/// A quarter of a second, usually; on a machine that does much else, more. Whoever waited for something would not end.
const SOON: Duration = Duration::from_secs(5);

/// A capture of nginx by its pid, while somebody asks nginx again and again, until tshark has enough.
fn capture_worker(desk: &Desk<'_>, nginx: &Nginx, mut capture: Process) {
    until("tshark to have its packets", || {
        let url = nginx.site.url("/page.html");
        run(Command::new("curl").args([
            "-sS",
            "--http1.1",
            "--cacert",
            &nginx.site.cert,
            "-o",
            "/dev/null",
            &url,
        ]));
        capture.ended()
    });
    capture.wait_ok();
    let took = desk.wait_until_gone();
    assert!(took < SOON, "tls2pcap took {took:?} to end after tshark\n{}", capture.stderr());
    assert!(!capture.stderr().contains("extcap pipe"), "{}", capture.stderr());
}

#[test]
fn a_process_that_is_captured_live_until_there_is_enough() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let Some(desk) = Desk::new(&test, "") else { return };
    for tshark in desk.tsharks() {
        let release = &tshark.version;
        let listed = String::from_utf8(run(desk.command(tshark.path()).arg("-D"))).unwrap();
        assert!(listed.contains("tls2pcap (TLS plaintext: this host)"), "{release}: {listed}");
        let file = desk.home.join("live.pcapng");
        let pid = nginx.worker().to_string();
        let options = [("pid", pid.as_str()), ("processblocks", "true"), ("comments", "all")];
        let capture = desk.start(tshark, &options, &["-c", "12"], file.to_str().unwrap());
        capture_worker(&desk, &nginx, capture);
        let requests = desk.fields(
            tshark,
            &file,
            "http.request",
            &["tls2pcap.pid", "tls2pcap.comm", "http.request.uri"],
        );
        assert!(!requests.is_empty(), "{release}");
        assert!(requests.iter().all(|r| *r == format!("{pid}|nginx|/page.html")), "{release}: {requests:?}");
        let all = desk.fields(tshark, &file, "frame", &["frame.comment"]);
        assert_eq!(all.len(), 12, "{release}");
        assert!(all.iter().all(|comment| comment.contains(&format!("pid={pid}"))), "{release}: {all:?}");
        if release == "4.6" {
            let named = desk.fields(tshark, &file, "frame.darwin.process_info.pid", &["frame.number"]);
            assert_eq!(named.len(), 12, "process blocks");
        }
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_command_is_run_as_the_user_with_the_options_given_and_nothing_to_inherit() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let Some(desk) = Desk::new(&test, ",cap_dac_read_search") else { return };
    let url = nginx.site.url("/page.html");
    let command = format!(
        "sh -c 'curl -sS --http1.1 --cacert {} -o page \"$0\"; cat /proc/self/status >status; cat; echo unseen' {url}",
        nginx.site.cert
    );
    for tshark in desk.tsharks() {
        let release = &tshark.version;
        let file = desk.home.join("command.pcapng");
        let options =
            [("command", command.as_str()), ("snaplen", "16"), ("comments", "none"), ("ports", "keep")];
        let mut capture = desk.start(tshark, &options, &[], file.to_str().unwrap());
        capture.wait_ok();
        assert!(desk.wait_until_gone() < SOON);
        assert!(!capture.stderr().contains("extcap pipe"), "{release}: {}", capture.stderr());
        // The command's arguments may hold secrets.
        let bytes = fs::read(&file).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        assert!(has(b"--command sh \xe2\x80\xa6 ") && !has(b"echo unseen"), "{release}");
        assert_eq!(fs::read(desk.home.join("page")).unwrap().len(), crate::support::nginx::PAGE.len());
        let status = fs::read_to_string(desk.home.join("status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
        }
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{status}");
        let rows = desk.fields(
            tshark,
            &file,
            "frame",
            &["frame.len", "frame.cap_len", "frame.comment", "tcp.dstport"],
        );
        let cut = |row: &&String| {
            let mut fields = row.split('|');
            fields.next() != fields.next()
        };
        assert!(rows.iter().filter(cut).count() >= 2, "{release}: snaplen did not arrive: {rows:?}");
        assert!(rows.iter().all(|row| row.split('|').nth(2) == Some("")), "{release}: comments: {rows:?}");
        let port = nginx.site.address.port();
        assert!(rows[0].ends_with(&format!("|{port}")), "{release}: {rows:?}");
        for name in ["command.pcapng", "page", "status"] {
            fs::remove_file(desk.home.join(name)).unwrap();
        }
    }
}

#[test]
fn what_goes_wrong_is_shown_in_a_sentence() {
    let test = begin!();
    let Some(desk) = Desk::new(&test, "") else { return };
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let gone = gone.id().to_string();
    let no_process = format!("there is no process {gone}");
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c [&'c str], &'c str);
    let cases: [Case<'_>; 6] = [
        (&[("pid", "1"), ("ports", "sideways")], &[], "invalid value 'sideways' for '--ports <HOW>'"),
        (&[("command", "curl 'x")], &[], "an unclosed quote"),
        (&[("command", "no-such-command-here")], &[], "no-such-command-here: command not found"),
        (&[("command", "sh -c 'echo its own words >&2; exit 3'")], &[], "its own words"),
        (&[("pid", gone.as_str())], &[], &no_process),
        (&[("pid", "1")], &["-f", "tcp port 80"], "TLS plaintext has no capture filter"),
    ];
    let said = |tshark, options, more, expected: &str| {
        let mut capture = desk.start(tshark, options, more, desk.home.join("x.pcapng").to_str().unwrap());
        until(&format!("tshark to say: {expected}"), || {
            (capture.stderr().contains(expected) || capture.ended().is_some()).then_some(())
        });
        if capture.ended().is_none() {
            capture.signal(Signal::SIGINT);
        }
        capture.wait();
        assert!(capture.stderr().contains(expected), "{expected}: {}", capture.stderr());
        assert!(desk.wait_until_gone() < SOON);
    };
    for tshark in desk.tsharks() {
        for (options, more, sentence) in cases {
            said(tshark, options, more, sentence);
        }
    }
    desk.take_rights();
    for tshark in desk.tsharks() {
        said(
            tshark,
            &[("command", "true")],
            &[],
            "capturing is not permitted; missing: cap_bpf, cap_perfmon",
        );
        said(tshark, &[("command", "true")], &[], "`tls2pcap wireshark status` says how");
    }
}

/// Without a word of the captured process, and with a command that does not want to end.
#[test]
fn a_stop_is_heard_at_once() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let Some(desk) = Desk::new(&test, "") else { return };
    let pid = nginx.worker().to_string();
    let stubborn = "sh -c 'trap \"\" TERM INT; touch started; while :; do sleep 0.2; done'";
    for tshark in desk.tsharks() {
        for options in [[("pid", pid.as_str())], [("command", stubborn)]] {
            let file = desk.home.join("stopped.pcapng");
            let started = desk.home.join("started");
            let mut capture = desk.start(tshark, &options, &[], file.to_str().unwrap());
            if options[0].0 == "command" {
                until("the command to run", || started.exists().then_some(()));
                fs::remove_file(&started).unwrap();
            } else {
                // Its first block is there when the probes are about to be.
                until("tshark to have the header", || fs::metadata(&file).ok().filter(|m| m.len() > 0));
            }
            let began = Instant::now();
            capture.signal(Signal::SIGINT);
            let took = {
                capture.wait();
                desk.wait_until_gone();
                began.elapsed()
            };
            assert!(
                took < SOON,
                "tshark {} and tls2pcap took {took:?}: {}",
                tshark.version,
                capture.stderr()
            );
            run(Command::new("capinfos").arg(&file));
            fs::remove_file(&file).unwrap();
        }
        end_stubborn(&desk);
    }
}

/// The command that did not want to end was left behind.
fn end_stubborn(desk: &Desk<'_>) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let at_home = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == desk.home);
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if let (true, Some(pid)) = (at_home && line.starts_with(b"sh\0-c\0trap"), entry.file_name().to_str())
        {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL)
                .unwrap();
        }
    }
}

/// Wireshark dies without a word.
#[test]
fn a_pipe_that_nobody_reads_ends_the_capture_without_a_packet() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let pid = nginx.worker().to_string();
    let fifo = test.text("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let words = ["--capture", "--extcap-interface", "tls2pcap", "--fifo", &fifo, "--pid", &pid];
    let mut capture = Process::start(
        Command::new(crate::support::capture::TLS2PCAP).args(words),
        test.path("tls2pcap.err"),
    );
    let mut reader = fs::File::open(&fifo).unwrap();
    std::io::Read::read_exact(&mut reader, &mut [0; 100]).unwrap();
    assert!(capture.ended().is_none());
    drop(reader);
    let began = Instant::now();
    capture.wait_ok();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(capture.stderr(), "");
}

#[test]
fn the_end_of_the_process_is_the_end_of_the_capture() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let pid = nginx.worker();
    let fifo = test.text("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let words = ["--capture", "--extcap-interface", "tls2pcap", "--fifo", &fifo, "--pid", &pid.to_string()];
    let mut capture = Process::start(
        Command::new(crate::support::capture::TLS2PCAP).args(words),
        test.path("tls2pcap.err"),
    );
    let file = test.path("out.pcapng");
    let (from, to) = (fs::File::open(&fifo).unwrap(), fs::File::create(&file).unwrap());
    let reader = std::thread::spawn(move || std::io::copy(&mut { from }, &mut { to }));
    let url = nginx.site.url("/page.html");
    let ask = || {
        let words = ["-sS", "--http1.1", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
        run(Command::new("curl").args(words))
    };
    let tshark = tshark::any();
    until("the first packets", || {
        ask();
        (tshark.count_so_far(&file, "http.response.code == 200") > 0).then_some(())
    });
    ask();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    capture.wait_ok();
    assert_eq!(capture.stderr(), "");
    reader.join().unwrap().unwrap();
    run(Command::new("capinfos").arg(&file));
    let asked = nginx.site.logged(1).len();
    for tshark in tshark::oracles() {
        let answered = tshark.fields(&file, "http.response.code == 200", &["frame.number"]).len();
        assert!((2..=asked).contains(&answered), "{answered} of {asked}");
    }
}

/// The picker shows who carries a TLS library, and nobody else.
#[test]
fn processes_to_choose_from() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let sleeper = Process::start(Command::new("sleep").arg("1000"), test.path("sleep.err"));
    let Some(desk) = Desk::new(&test, "") else { return };
    let ask = |more: &[&str]| {
        let words = ["--extcap-interface", "tls2pcap", "--extcap-config"];
        String::from_utf8(run(desk.command(&desk.program).args(words).args(more))).unwrap()
    };
    let line = format!("{{value={0}}}{{display=nginx ({0}), OpenSSL ", nginx.worker());
    for said in [ask(&[]), ask(&["--extcap-reload-option", "pid"])] {
        assert!(said.contains(&line), "{said}");
        assert!(!said.contains(&format!("{{value={}}}", sleeper.pid())), "{said}");
    }
    // Who may not look into a process is not offered it.
    desk.take_rights();
    assert!(!ask(&[]).contains(&line));
}

/// Wireshark itself, on a display that nobody sees, told to capture by its command line.
#[test]
fn wireshark_captures_from_the_interface() {
    let test = begin!();
    for tool in ["wireshark", "Xvfb"] {
        if Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return gate::skipped(&test.name, &format!("{tool} is not installed"), "T2P_REQUIRE_TOOLS");
        }
    }
    let nginx = Nginx::start(&test);
    let Some(desk) = Desk::new(&test, "") else { return };
    let mut display = Process::start(Command::new("Xvfb").args(["-displayfd", "1"]), test.path("Xvfb.err"));
    let file = desk.home.join("window.pcapng");
    let mut command = desk.command("wireshark");
    command.env("DISPLAY", format!(":{}", display.line())).env("XDG_RUNTIME_DIR", &desk.home);
    command.args(["-k", "-i", "tls2pcap", "-c", "12", "-w"]).arg(&file);
    command.arg("-o").arg(format!("extcap.tls2pcap.pid:{}", nginx.worker()));
    let mut window = Process::start(&mut command, test.path("wireshark.err"));
    let tshark = tshark::any();
    until("Wireshark to have its packets", || {
        assert!(window.ended().is_none(), "{}", window.stderr());
        let url = nginx.site.url("/page.html");
        run(Command::new("curl").args([
            "-sS",
            "--http1.1",
            "--cacert",
            &nginx.site.cert,
            "-o",
            "/dev/null",
            &url,
        ]));
        (tshark.count_so_far(&file, "frame") == 12).then_some(())
    });
    assert!(desk.wait_until_gone() < SOON);
    let requests = desk.fields(tshark, &file, "http.request", &["tls2pcap.comm"]);
    assert!(!requests.is_empty() && requests.iter().all(|comm| comm == "nginx"), "{requests:?}");
}
