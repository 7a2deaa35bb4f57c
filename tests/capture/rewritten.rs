//! Files that change while they are probed, and files that nobody uses any more.

use crate::support::programs::{compiled_as, connect, exchange_server, transcript};
use crate::support::view::View;
use crate::support::{Test, assert_same_bytes, begin, gate};

const SERVES: &str = "r:1000 w:20000 r:10 z S";
const ASKS: &str = "w:1000 r:20000 x:10 S";

/// Two programs that contain OpenSSL, each at another place; `None`, with a report, where they cannot be built.
fn programs(test: &Test) -> Option<[String; 2]> {
    let archive = std::process::Command::new("cc").arg("-print-file-name=libssl.a").output();
    if !archive.is_ok_and(|out| out.stdout.starts_with(b"/")) {
        gate::skipped(&test.name, "OpenSSL's libssl.a is not installed", "T2P_REQUIRE_TOOLS");
        return None;
    }
    let libraries = ["-Wl,-Bstatic", "-lssl", "-lcrypto", "-Wl,-Bdynamic", "-ldl"];
    let built = |name, more: &[&str]| compiled_as(name, "exchange", &[more, &libraries].concat());
    // Some code more or less moves all that follows it.
    Some([built("exchange-one", &["-O2"]), built("exchange-two", &["-O0"])])
}

/// A line of shell that runs a program as a client; what it moves stands in the folder `name`.
fn line(test: &Test, program: &str, port: u16, name: &str) -> String {
    let words = connect("127.0.0.1", port, &test.folder(name), ASKS);
    format!("{program} {} || exit 7", words.join(" "))
}

/// The connections in the file, in order of time, are those of these folders.
#[track_caller]
fn assert_whole(test: &Test, view: &View, names: &[&str]) {
    assert_eq!(view.connections.len(), names.len());
    for (connection, name) in view.connections.iter().zip(names) {
        let truth = transcript(&test.text(name), "client", 0);
        assert_same_bytes(name, &connection.sent_by_client, &truth.sent);
        assert_same_bytes(name, &connection.sent_by_server, &truth.received);
    }
}

/// Captures a script whose clients use these folders.
#[track_caller]
fn captured(test: &Test, script: &[String], names: &[&str]) -> String {
    let finished = test.capture().run(&["sh", "-c", &script.join("\n")]).ok();
    assert!(finished.stderr.contains("nothing lost"), "{}", finished.stderr);
    for (view, _) in finished.views() {
        assert_whole(test, &view, names);
    }
    finished.text()
}

#[test]
fn a_program_written_anew_in_place_runs_and_is_captured() {
    let test = begin!();
    let Some([one, two]) = programs(&test) else { return };
    let (mut server, port) = exchange_server(&test, &format!("--times 4 {SERVES}"));
    let program = test.text("program");
    let run = |name: &str| line(&test, &program, port, name);
    let script = [
        format!("cp {one} {program}"),
        run("first"),
        format!("cp {two} {program}"),
        run("second"),
        run("third"),
        format!("cp {one} {program}"),
        run("fourth"),
    ];
    captured(&test, &script, &["first", "second", "third", "fourth"]);
    server.wait_ok();
}

#[test]
fn a_file_that_held_no_tls_at_first_is_looked_at_anew() {
    let test = begin!();
    let Some([one, _]) = programs(&test) else { return };
    let (mut server, port) = exchange_server(&test, SERVES);
    let program = test.text("program");
    let script = [
        format!("cp /bin/true {program}"),
        program.clone(),
        // As old as the first.
        format!("cp {one} {program}; touch -r /bin/true {program}"),
        line(&test, &program, port, "client"),
    ];
    captured(&test, &script, &["client"]);
    server.wait_ok();
}

#[test]
fn nothing_is_kept_of_programs_that_were_run_and_removed() {
    const COUNT: usize = 6;
    let test = begin!();
    let Some([one, _]) = programs(&test) else { return };
    let (mut server, port) = exchange_server(&test, &format!("--times {COUNT} {SERVES}"));
    let names: Vec<String> = (0..COUNT).map(|n| format!("client{n}")).collect();
    let mut script = Vec::new();
    for name in &names {
        let program = test.text(&format!("{name}.program"));
        script.extend([
            format!("cp {one} {program}"),
            line(&test, &program, port, name),
            format!("rm {program}"),
        ]);
    }
    // Nobody waits for it, so it takes a moment.
    script.push(
        "for n in $(seq 200); do ls -l /proc/$PPID/fd | grep -q '(deleted)' || break; sleep 0.05; done"
            .into(),
    );
    script.push("ls -l /proc/$PPID/fd".into());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let open = captured(&test, &script, &names);
    assert!(open.contains("anon_inode:"), "{open}");
    assert!(!open.contains("(deleted)"), "{open}");
    server.wait_ok();
}

#[test]
fn the_file_system_of_a_program_that_has_ended_can_be_unmounted() {
    let test = begin!();
    let Some([one, _]) = programs(&test) else { return };
    let (mut server, port) = exchange_server(&test, SERVES);
    let (folder, client) = (test.folder("mounted"), test.folder("client"));
    let words = connect("127.0.0.1", port, &client, ASKS).join(" ");
    let script = format!(
        "mount -t tmpfs -o size=50m none {folder} && cp {one} {folder}/program && {folder}/program {words} && umount {folder}"
    );
    let finished = test.capture().run(&["unshare", "--mount", "sh", "-c", &script]).ok();
    for (view, _) in finished.views() {
        assert_whole(&test, &view, &["client"]);
    }
    server.wait_ok();
}
