//! The commands of the README, run as they are written but for addresses and pids. Stand-ins are only: `sudo`, since
//! tests run as root or do not run, `wireshark`, which needs a display and is tshark here, and `-p` in place of `--all`,
//! which the virtual machines try.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::capture::TLS2PCAP;
use crate::support::nginx::Nginx;
use crate::support::{Process, Test, begin, gate, run, until};

const README: &str = include_str!("../../README.md");

/// The command lines of a section.
fn commands(section: &str) -> Vec<&'static str> {
    let start = README.find(&format!("\n## {section}\n")).unwrap() + 1;
    let text = &README[start..];
    let end = text[1..].find("\n## ").map_or(text.len(), |at| at + 1);
    let lines = text[..end].lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(|line| line.split("  #").next().unwrap().trim()).collect()
}

/// A folder with the programs that the commands name.
fn programs(test: &Test) -> String {
    let folder = test.folder("bin");
    let script = |name: &str, text: String| {
        let path = Path::new(&folder).join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    symlink(TLS2PCAP, Path::new(&folder).join("tls2pcap")).unwrap();
    script("sudo", "#!/bin/sh\nexec \"$@\"\n".into());
    let tshark = gate::cached_tool("tshark-4.6").unwrap_or_else(|| "tshark".into());
    script("wireshark", format!("#!/bin/sh\nshift\nexec {} -l -Y http \"$@\" >watched\n", tshark.display()));
    folder
}

/// A shell for one command, in the test's folder.
fn shell(test: &Test, nginx: &Nginx, bin: &str, line: &str) -> Command {
    let line = line
        .replace("https://example.org/", &nginx.site.url("/page.html"))
        .replace("--all", "-p 1234")
        .replace("-p 1234", &format!("-p {}", nginx.worker()));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(line).current_dir(test.path("."));
    shell.env("CURL_CA_BUNDLE", &nginx.site.cert);
    shell.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
    shell
}

/// What shows that a command has done its work: a file, and a word in it.
fn result(line: &str) -> (&'static str, &'static str) {
    let results = [
        ("-o curl.pcapng", ("curl.pcapng", "page.html")),
        ("-o web.pcapng -p", ("web.pcapng", "page.html")),
        ("-o all.pcapng", ("all.pcapng", "page.html")),
        ("| wireshark", ("watched", "page.html")),
        ("-w web.pcapng", ("web0.pcapng", "page.html")),
        ("-f text", ("shown", "page.html")),
        ("redact", ("share.pcapng", "page.html")),
    ];
    let found = results.iter().find(|(part, _)| line.contains(part));
    found.unwrap_or_else(|| panic!("the README has a command that this test does not know: {line}")).1
}

#[test]
fn each_command_does_what_the_readme_says() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let bin = programs(&test);
    let request = || {
        let url = nginx.site.url("/page.html");
        run(Command::new("curl").args(["-sS", "--http1.1", "--cacert", &nginx.site.cert, &url]));
    };
    let lines = commands("Use");
    assert!(lines.len() >= 7, "{lines:?}");
    for line in lines.into_iter().filter(|line| line.starts_with("sudo ") || line.starts_with("tls2pcap ")) {
        let (file, word) = result(line);
        let file = test.path(file);
        let holds = || fs::read(&file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(word));
        let line = line.replace("-f text", "-f text >shown");
        // The filter is about port 443, which is not the server's.
        let line = line.replace("port 443", &format!("port {}", nginx.site.address.port()));
        let mut command = shell(&test, &nginx, &bin, &line);
        if !line.contains("-p 1234") && !line.contains("--all") {
            run(&mut command);
            assert!(holds(), "{line}");
            continue;
        }
        // It goes on until Ctrl-C.
        let mut running = Process::start(&mut command, test.path("capture.err"));
        until(&line, || {
            assert!(running.ended().is_none(), "{line}: {}", running.stderr());
            request();
            holds().then_some(())
        });
        // As the terminal does, to all of them.
        killpg(Pid::from_raw(running.pid() as i32), Signal::SIGINT).unwrap();
        running.wait();
    }
}

#[test]
fn doctor_and_report_do_what_the_readme_says() {
    let test = begin!();
    let nginx = Nginx::start(&test);
    let bin = programs(&test);
    for line in ["sudo tls2pcap doctor", "doctor -p 1234"] {
        assert!(README.contains(&format!("`{line}`")), "{line}");
        let line = if line.starts_with("sudo") { line.to_owned() } else { format!("tls2pcap {line}") };
        // All processes of a machine are looked at, none is captured.
        let said = String::from_utf8(run(&mut shell(&test, &nginx, &bin, &line))).unwrap();
        assert!(said.contains("nginx") && said.contains("OpenSSL"), "{line}: {said}");
    }
    let line = "sudo tls2pcap report --errors -o bundle.zip -- COMMAND";
    assert!(README.contains(&format!("`{line}`")));
    let failing = line.replace("COMMAND", &format!("curl -sS {}", nginx.site.url("/missing")));
    run(&mut shell(&test, &nginx, &bin, &failing));
    let summary = run(Command::new("python3")
        .current_dir(test.path("."))
        .args(["-c", "import zipfile; print(zipfile.ZipFile('bundle.zip').read('summary.md').decode())"]));
    let summary = String::from_utf8(summary).unwrap();
    assert!(summary.contains("/missing") && summary.contains("404"), "{summary}");
}
