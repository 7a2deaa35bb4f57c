//! What stands in front of the IP packets, and who reads it.

use tls2pcap::sink::Link;

use super::*;

/// HTTP of two processes, over IPv4 and IPv6.
fn capture(name: &str, link: Link) -> Capture {
    let mut capture = Capture::new(name, Ports::Decode);
    capture.writer = capture.writer.take().map(|writer| writer.with_link(link));
    for (id, client, server) in
        [(1, "10.0.0.1:41000", "10.0.0.2:443"), (2, "[2001:db8::1]:41000", "[2001:db8::2]:443")]
    {
        capture.open(connection(id, client, server));
        capture.say(id, Client, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n";
        capture.cut(id, Server, &[&head[..], &[b'x'; 60_000]].concat(), head.len() as u64 + 70_000);
        capture.say(id, Client, format!("GET /{id}/2 HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        capture.end(id);
    }
    capture.close();
    capture
}

/// Runs a tool, of those in the cache if it has a version; `None`, with a report, if it is not there.
pub(super) fn run(program: &str, args: &[&str]) -> Option<String> {
    let path = if program.contains("-4.") { gate::cached_tool(program) } else { Some(program.into()) };
    let output = match path.map(|path| Command::new(path).args(args).output()) {
        Some(Ok(output)) => output,
        Some(Err(error)) => {
            skipped(&format!("what {program} reads"), &error.to_string());
            return None;
        }
        None => {
            skipped(&format!("what {program} reads"), "it was not found (run tests/oracles)");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn wireshark_reads_made_up_ethernet() {
    let capture = capture("ethernet", Link::Ethernet);
    capture.is_clean();
    let uris = ["/1", "/1/2", "/2", "/2/2"];
    capture.shows("http.request", &["http.request.uri"], &uris);
    capture.shows(
        "tcp.flags.syn == 1 && tcp.flags.ack == 0",
        &["eth.src", "eth.dst", "eth.type"],
        &["02:00:0a:00:00:01 02:00:0a:00:00:02 0x0800", "06:f9:71:61:b7:a3 06:f9:71:64:b7:a3 0x86dd"],
    );
    capture.shows("eth.ig == 1 || eth.lg == 0", &["frame.number"], &[]);
}

#[test]
fn other_tools_read_it() {
    for link in [Link::Ethernet, Link::Raw] {
        let capture = capture(&format!("tools-{link:?}"), link);
        let file = capture.path.to_str().unwrap();
        let mut packets = 0;
        for version in ["-4.0", "-4.4", "-4.6", ""] {
            if let Some(text) = run(&format!("capinfos{version}"), &["-Mcr", file]) {
                packets = text.trim().rsplit(' ').next().unwrap().parse::<usize>().unwrap();
            }
            let copy = format!("{file}.copy");
            if run(&format!("editcap{version}"), &[file, &copy]).is_some() {
                let both = format!("{file}.both");
                if run(&format!("mergecap{version}"), &["-w", &both, file, &copy]).is_some() {
                    let text = run("capinfos", &["-Mcr", &both]).unwrap();
                    assert!(text.trim().ends_with(&(2 * packets).to_string()), "{text}");
                    std::fs::remove_file(both).unwrap();
                }
                std::fs::remove_file(copy).unwrap();
            }
        }
        // It takes no second interface with raw IP.
        if link == Link::Ethernet
            && let Some(text) = run("tcpdump", &["-nr", file])
        {
            assert_eq!(text.lines().count(), packets, "{text}");
            assert!(text.contains("GET /1 HTTP/1.1"), "{text}");
        }
    }
}
