//! How connections end: which side's FIN comes first, and who sends a RST, as tcpdump sees the same connection.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::capture::Running;
use crate::support::nginx::{Nginx, PAGE};
use crate::support::programs::{compiled, connect, listen};
use crate::support::{Finished, Process, Test, begin, run, tshark, until};

/// How the only connection in a file ends: `C` is who sent the SYN. What was sent again counts once.
fn ends(tshark: &tshark::Tshark, file: &Path) -> Vec<String> {
    let filter = "tcp.flags.syn == 1 || tcp.flags.fin == 1 || tcp.flags.reset == 1";
    let rows = tshark.fields(file, filter, &["tcp.srcport", "tcp.flags.syn", "tcp.flags.reset"]);
    let yes = |value: &str| value == "1" || value == "True";
    let client = &rows.first().expect("a SYN")[0];
    let mut ends: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| !yes(&row[1])) {
        let side = if row[0] == *client { "C" } else { "S" };
        let end = format!("{side}:{}", if yes(&row[2]) { "rst" } else { "fin" });
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    ends
}

/// Whether the second FIN was sent before the first had come: then each side has its own order.
fn crossed(file: &Path) -> bool {
    let rows = tshark::any().fields(file, "tcp.flags.fin == 1", &["tcp.nxtseq", "tcp.ack", "tcp.srcport"]);
    let number = |text: &str| text.parse::<u64>().unwrap();
    let second = rows.iter().find(|row| row[2] != rows[0][2]);
    second.is_some_and(|second| number(&second[1]) < number(&rows[0][0]))
}

/// tcpdump on the loopback, of one port of this test only.
struct Wire {
    tcpdump: Process,
    file: std::path::PathBuf,
}

impl Wire {
    fn start(test: &Test, port: u16) -> Wire {
        let file = test.path("wire.pcap");
        let mut command = Command::new("tcpdump");
        command.args(["-i", "lo", "-U", "--immediate-mode", "-w"]).arg(&file);
        command.args(["-Z", "root", "tcp", "and", "port", &port.to_string()]);
        let tcpdump = Process::start(&mut command, test.path("tcpdump.err"));
        until("tcpdump to listen", || tcpdump.stderr().contains("listening on lo").then_some(()));
        Wire { tcpdump, file }
    }

    /// Waits until it has seen the end, in so many packets.
    #[track_caller]
    fn stop(&mut self, count: usize) -> Vec<String> {
        let tshark = tshark::any();
        until("the end on the wire", || {
            let filter = "(tcp.flags.fin == 1 || tcp.flags.reset == 1) && !tcp.analysis.retransmission";
            (tshark.count_so_far(&self.file, filter) >= count).then_some(())
        });
        self.end()
    }

    /// Waits until each side has ended, or one has reset. On a busy machine a FIN may come once more, and what tshark
    /// takes for a retransmission may be all that there is of it.
    #[track_caller]
    fn stop_at_both_ends(&mut self, port: u16) -> Vec<String> {
        let tshark = tshark::any();
        let has = |filter: &str| tshark.count_so_far(&self.file, filter) > 0;
        until("the end on the wire", || {
            let fin = |side: &str| has(&format!("tcp.flags.fin == 1 && tcp.{side}port == {port}"));
            (has("tcp.flags.reset == 1") || (fin("src") && fin("dst"))).then_some(())
        });
        self.end()
    }

    fn end(&mut self) -> Vec<String> {
        let tshark = tshark::any();
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.wait_ok();
        ends(tshark, &self.file)
    }
}

/// The file tells the same as the wire; what it tells more is `presumed`.
#[track_caller]
fn assert_ends(finished: &Finished, expected: &[&str], presumed: usize) {
    for tshark in tshark::oracles() {
        let found = ends(tshark, &finished.file);
        let seen = found.len().saturating_sub(presumed);
        assert_eq!(found[..seen], *expected, "tshark {}", tshark.version);
        let rst = |row: &Vec<String>| row[1] == "1" || row[1] == "True";
        let mut rows =
            tshark.fields(&finished.file, "tcp.analysis.flags", &["frame.number", "tcp.flags.reset"]);
        rows.retain(|row| !rst(row));
        assert!(rows.is_empty(), "tshark {} finds fault: {rows:?}", tshark.version);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Captured {
    Client,
    Server,
}

/// Has a client and a server do these things, and captures one of them: as a command, or by its pid.
fn converse(test: &Test, who: Captured, as_command: bool, (client, server): (&str, &str), expected: &[&str]) {
    let program = compiled("exchange");
    let serve = listen(test, "127.0.0.1", 0, &test.folder("server"), &format!("--eof 1 {server}"));
    let start = |words: &[String], name: &str| {
        let mut command = Command::new(&words[0]);
        Process::start(command.args(&words[1..]), test.path(&format!("{name}.err")))
    };
    let attach = |process: &Process| test.capture().attach(&[process.pid()]);
    let words = [vec![program.clone()], serve].concat();
    let (mut running, mut process): (Option<Running>, Option<Process>) = (None, None);
    let port = if who == Captured::Server && as_command {
        running.insert(test.capture().start(&words)).process.port()
    } else {
        process.insert(start(&words, "server")).port()
    };
    if who == Captured::Server && !as_command {
        running = process.as_ref().map(attach);
    }
    let mut wire = Wire::start(test, port);
    // The client waits for its capture, if that is by its pid.
    let client = if who == Captured::Client && !as_command { format!("i {client}") } else { client.into() };
    let words = [vec![program], connect("127.0.0.1", port, &test.folder("client"), &client)].concat();
    match who {
        Captured::Client if as_command => running = Some(test.capture().start(&words)),
        _ => {
            let mut client = start(&words, "client");
            if who == Captured::Client {
                client.line_after("waiting");
                running = Some(attach(&client));
                client.go_on();
            }
            client.wait();
        }
    }
    let finished = running.unwrap().finish();
    assert!(finished.file.exists(), "{}", finished.stderr);
    assert_eq!(wire.stop(expected.len()), expected, "on the wire");
    assert_ends(&finished, expected, 0);
}

/// Captures each side, one as a command and the other by its pid.
fn check(test: &Test, talk: (&str, &str), expected: &[&str]) {
    let client_is_command = talk.0.len().is_multiple_of(2);
    for (who, as_command) in [(Captured::Client, client_is_command), (Captured::Server, !client_is_command)] {
        eprintln!("{who:?}, as a command: {as_command}");
        converse(&Test::unprivileged(&test.name), who, as_command, talk, expected);
    }
}

#[test]
fn the_client_closes_first() {
    check(&begin!(), ("w:100 r:1000 s", "r:100 w:1000 z f"), &["C:fin", "S:fin"]);
}

#[test]
fn the_server_closes_first() {
    check(&begin!(), ("w:100 r:1000 z f", "r:100 w:1000 s"), &["S:fin", "C:fin"]);
}

#[test]
fn a_client_that_closes_with_unread_data_resets() {
    check(&begin!(), ("w:100 u", "r:100 w:1000 f"), &["C:rst"]);
}

#[test]
fn a_server_that_closes_with_unread_data_resets() {
    check(&begin!(), ("r:1000 w:100 f", "w:1000 u"), &["S:rst"]);
}

#[test]
fn a_process_that_is_killed_with_unread_data_resets() {
    check(&begin!(), ("w:100 u K", "r:100 w:1000 f"), &["C:rst"]);
}

/// The FIN that is among what is not read stands before the RST, or nobody could show a body without length.
#[test]
fn a_reset_hides_no_fin_that_was_there_before() {
    let test = begin!();
    for as_command in [true, false] {
        let own = Test::unprivileged(&test.name);
        let talk = ("w:100 f", "r:100 w:1000 s");
        converse(&own, Captured::Client, as_command, talk, &["S:fin", "C:rst"]);
    }
}

#[test]
fn half_a_connection_is_closed() {
    let test = begin!();
    for (who, as_command) in [(Captured::Client, true), (Captured::Server, false)] {
        let own = Test::unprivileged(&test.name);
        let talk = ("w:100 h r:1000 f", "r:100 z w:1000");
        converse(&own, who, as_command, talk, &["C:fin", "S:fin"]);
        for tshark in tshark::oracles() {
            let rows =
                tshark.fields(&own.path("out.pcapng"), "tcp.len > 0 || tcp.flags.fin == 1", &["tcp.len"]);
            let lengths: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
            assert_eq!(lengths, ["100", "0", "1000", "0"], "{who:?}: the answer follows the client's FIN");
        }
    }
    // With a close_notify, behind which nobody reads.
    check(&test, ("w:100 s h r:1000 f", "r:100 z w:1000 s"), &["C:fin", "S:fin"]);
}

/// Whoever closes first sees no more of the connection: what the other side did then is known on its side only.
#[test]
fn curl_and_a_server_that_closes() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let port = nginx.site.address.port();
    let mut judged = 0;
    for header in ["X-None: 1", "Connection: close"] {
        for by_server in [false, true] {
            eprintln!("{header}, by the server: {by_server}");
            let own = Test::unprivileged(&test.name);
            let mut wire = Wire::start(&own, port);
            let (body, url) = (own.text("body"), nginx.site.url("/page.html"));
            let words =
                ["curl", "-sS", "--http1.1", "-H", header, "--cacert", &nginx.site.cert, "-o", &body, &url];
            let (finished, seen) = if by_server {
                let running = own.capture().attach(&[nginx.worker()]);
                run(Command::new(words[0]).args(&words[1..]));
                let seen = wire.stop_at_both_ends(port);
                (running.stop(), seen)
            } else {
                (own.capture().run(&words), wire.stop_at_both_ends(port))
            };
            assert_eq!(std::fs::read(&body).unwrap(), PAGE.as_bytes());
            let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
            let finished = finished.ok();
            // What was the order is not to be seen then.
            if crossed(&wire.file) || seen.len() < 2 {
                continue;
            }
            let closes_first = by_server == (seen[0] == "S:fin");
            let known = if closes_first { &seen[..1] } else { &seen };
            assert_ends(&finished, known, seen.len() - known.len());
            judged += 1;
        }
    }
    assert!(judged > 0, "the wire showed the order of no connection's end");
}
