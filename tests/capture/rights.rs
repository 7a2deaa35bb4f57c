//! What an ordinary user can do with a tls2pcap that has file capabilities, and what not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::desk::Desk;
use crate::support::each::assert_each_on_its_socket;
use crate::support::nginx::Nginx;
use crate::support::programs::{PYTHON, exchange_server, source};
use crate::support::{Finished, begin, copy_program, process, run, until};

/// The program may read and look into everything; the files that its user names it may not.
#[test]
fn files_are_opened_with_the_users_own_rights() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let Some(desk) = Desk::new(&test, ",cap_dac_read_search,cap_dac_override") else { return };
    // A file that anybody could write, in a folder that only root may enter; a library; a recording.
    let closed = test.folder("closed");
    let inside = |name: &str| format!("{closed}/{name}");
    let url = nginx.site.url("/page.html");
    let words = ["curl", "-sS", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    test.capture().args(&["--record", &inside("r.t2p")]).run(&words).ok();
    for name in ["out.pcapng", "library"] {
        fs::write(inside(name), "mine").unwrap();
        fs::set_permissions(inside(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let ok = desk.home.join("ok.pcapng");
    let ok = ok.to_str().unwrap();
    let worker = nginx.worker();
    // Standard output of nginx's worker, by way of /proc.
    let of_another = format!("/proc/{worker}/fd/1");
    let (out, record, ready, library) =
        (inside("out.pcapng"), inside("r.t2p"), inside("ready"), inside("library"));
    let cases: [&[&str]; 7] = [
        &["-o", &out, "--", "true"],
        &["-o", &of_another, "--", "true"],
        &["-o", ok, "--record", &out, "--", "true"],
        &["-o", ok, "--ready-file", &ready, "--", "true"],
        &["-o", ok, "--lib", &library, "--", "true"],
        &["-o", ok, "--", &inside("program")],
        &["replay", &record, "-o", ok],
    ];
    copy_program("/bin/true", inside("program"));
    for args in cases {
        let output = desk.command(&desk.program).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}");
        assert!(said.contains("Permission denied"), "{args:?}: {said}");
    }
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
    assert!(!std::path::Path::new(&ready).exists());
    // The same program, with what the user may have: it works.
    let url = nginx.site.url("/page.html");
    let words = ["-q", "-o", ok, "--", "curl", "-sS", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url];
    run(desk.command(&desk.program).args(words));
    let metadata = fs::metadata(ok).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(metadata.len() > 1000, "{} bytes", metadata.len());
}

/// The set that `tls2pcap wireshark status` names lets a user capture another user's process.
#[test]
fn the_rights_that_status_names_are_enough() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let Some(desk) = Desk::new(&test, "") else { return };
    let status =
        || String::from_utf8(run(desk.command(&desk.program).args(["wireshark", "status"]))).unwrap();
    let said = status();
    assert!(said.contains("rights       Wireshark may capture with "), "{said}");
    assert!(said.contains("open         everyone on this machine"), "{said}");

    let (file, ready) = (desk.home.join("x.pcapng"), desk.home.join("ready"));
    let mut command = desk.command(&desk.program);
    command.args(["-q", "-p", &nginx.worker().to_string(), "-o"]).arg(&file).arg("--ready-file").arg(&ready);
    let mut capture = crate::support::Process::start(&mut command, test.path("capture.err"));
    until("tls2pcap to be ready", || {
        assert!(capture.ended().is_none(), "{}", capture.stderr());
        ready.exists().then_some(())
    });
    let url = nginx.site.url("/page.html");
    run(Command::new("curl").args(["-sS", "--cacert", &nginx.site.cert, "-o", "/dev/null", &url]));
    capture.signal(nix::sys::signal::Signal::SIGINT);
    capture.wait_ok();
    let tshark = crate::support::tshark::any();
    assert_eq!(tshark.fields(&file, "http.response || http2.headers.status", &["frame.number"]).len(), 1);

    // What a user may not look into is said to be so.
    desk.give("cap_bpf,cap_perfmon=p");
    let mut command = desk.command(&desk.program);
    let refused = command.args(["-o", "y.pcapng", "-p", &nginx.worker().to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(3) && said.contains("Permission denied"), "{said}");

    desk.take_rights();
    let said = status();
    assert!(said.contains("it lacks cap_bpf, cap_perfmon"), "{said}");
    assert!(said.contains("sudo setcap cap_bpf,cap_perfmon"), "{said}");
    // Its group's only.
    fs::set_permissions(&desk.program, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(desk.command(&desk.program).arg("--version").output().is_err());
}

/// They are enough for a program that encrypts into memory, too: its BIO functions are probed while it runs.
#[test]
fn the_rights_that_status_names_are_enough_for_an_event_loop() {
    const COUNT: usize = 4;
    let test = begin!();
    let Some(desk) = Desk::new(&test, "") else { return };
    let (mut server, port) =
        exchange_server(&test, &format!("--threads {COUNT} r:1000 w:2000 r:10 w:10 z S"));
    let at_home = |name: &str| desk.home.join(name).to_str().unwrap().to_owned();
    let (script, dir, file) = (at_home("eventloop.py"), at_home("client"), at_home("x.pcapng"));
    fs::copy(source("eventloop.py"), &script).unwrap();
    run(desk.command("mkdir").arg(&dir));
    let mut command = desk.command(&desk.program);
    command.args([
        "-v",
        "-o",
        &file,
        "--",
        PYTHON,
        &script,
        "connect",
        &port.to_string(),
        &COUNT.to_string(),
        &dir,
    ]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("encrypts into memory: probed the BIO functions"), "{stderr}");
    server.wait_ok();
    let status = process::code(output.status);
    let finished = Finished { status, stdout: output.stdout, stderr, file: file.into() }.ok();
    assert_each_on_its_socket(&finished, &dir, "client", COUNT, |told, connection| {
        assert_eq!(connection.comment.get("tuple"), "ciphertext", "{told:?}");
    });
}
