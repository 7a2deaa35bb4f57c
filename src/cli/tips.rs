//! What users of other tools type, and our option with the same meaning.

/// Options of tcpdump, tshark and dumpcap, eCapture, and bcc's sslsniff that are not ours, with what to do instead.
const TIPS: &[(&[&str], &str)] = &[
    // tcpdump, tshark and dumpcap.
    (
        &["-i", "--interface"],
        "programs are captured, not interfaces: use -p PID, -u USER, --all, or a command after --",
    ),
    (
        &["-D", "--list-interfaces", "-L", "--list-data-link-types"],
        "tls2pcap doctor lists the programs that can be captured",
    ),
    (
        &["-r", "--read-file"],
        "to make a capture file from a recording: tls2pcap replay RECORDING -o FILE; to show a capture file: tls2pcap read FILE, or tshark -r FILE",
    ),
    (
        &["-n", "-nn", "-N"],
        "leave it out: names are not resolved, addresses and ports are written as numbers",
    ),
    (&["-l", "--line-buffered"], "use -U to write each packet immediately"),
    (
        &["-A", "-X", "-XX", "-x", "-xx"],
        "write to standard output and let tshark show it: tls2pcap -o - … | tshark -r - -x",
    ),
    (
        &["-t", "-tt", "-ttt", "-tttt", "-ttttt", "-e", "-S", "-K"],
        "leave it out: tls2pcap writes a file; give such options to tshark or tcpdump, which read it",
    ),
    (
        &["-Y", "--display-filter", "-R", "--read-filter"],
        "write to standard output and let tshark filter it: tls2pcap -o - … | tshark -r - -Y FILTER",
    ),
    (
        &["-T", "-V", "-O"],
        "write to standard output and let tshark show it: tls2pcap -o - … | tshark -r - -T json",
    ),
    (&["-B", "--buffer-size"], "use --ring-size SIZE, in MiB"),
    (
        &["-Z", "--relinquish-privileges"],
        "leave it out: under sudo, files and commands are yours, not root's",
    ),
    (
        &["-I", "--monitor-mode", "--no-promiscuous-mode"],
        "leave it out: programs are captured, not interfaces",
    ),
    (&["-f"], "put the expression after all options: tls2pcap -o FILE -p PID port 443 and not comm curl"),
    (&["-Q", "--direction"], "use --no-writes or --no-reads to leave out what the programs send or receive"),
    (&["--immediate-mode"], "use -U to write each packet immediately"),
    (&["-#", "--number"], "leave it out: the summary at the end has the number of packets"),
    (&["-E", "-M"], "leave it out: the file has plaintext, which needs no keys"),
    (&["-F"], "the name determines the format: FILE.pcapng, FILE.pcap, FILE.pcapng.gz"),
    (&["-y", "--linktype"], "use --link ethernet or --link raw"),
    (
        &["-j", "-J", "--time-stamp-type", "--time-stamp-precision", "--nano", "--micro"],
        "leave it out: times are the kernel's, in nanoseconds",
    ),
    (
        &["--print"],
        "write to standard output and let tshark show it: tls2pcap -o - … | tee FILE.pcapng | tshark -r -",
    ),
    (&["--capture-comment"], "leave it out, or add a comment later: editcap --capture-comment TEXT"),
    (&["--autostop"], "use -a, or --duration, -c, --max-bytes"),
    (&["--ring-buffer"], "use -b"),
    (&["--snapshot-length"], "use -s BYTES or --snaplen BYTES"),
    // eCapture.
    (&["--pcapfile"], "use -o FILE.pcapng"),
    (&["-m", "--model"], "leave it out: a capture file is what tls2pcap writes"),
    (
        &["--libssl", "--gnutls", "--nspr", "--openssl", "--bash", "--elfpath"],
        "use --lib PATH for a library or program that is not found automatically",
    ),
    (&["--cgroup_path"], "use -p PID --follow for the processes of a service, or -u USER"),
    (&["-k", "--keylogfile"], "leave it out: the file has plaintext, which needs no keys"),
    (&["--mapsize"], "use --ring-size SIZE, in MiB"),
    (
        &["--hex", "--hexdump"],
        "write to standard output and let tshark show it: tls2pcap -o - … | tshark -r - -x",
    ),
    // sslsniff.
    (
        &["--no-openssl", "--no-gnutls", "--no-nss"],
        "leave it out: only libraries that a program calls are captured",
    ),
    (&["--max-buffer-size"], "use -s BYTES to keep this much of each piece of a call"),
    (&["--extra-lib"], "use --lib PATH"),
    (&["--latency", "--handshake"], "leave it out: times are in the file, see docs/wireshark.md"),
    (&["--extra"], "leave it out: user and thread are in the comments of the file"),
];

/// What to say for an option that is not ours.
pub(super) fn ours_for(option: &str) -> Option<&'static str> {
    let name = option.split(['=', ' ']).next().unwrap_or_default();
    TIPS.iter().find(|(names, _)| names.contains(&name)).map(|(_, tip)| *tip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_directions_of_others_have_a_tip() {
        for option in ["-f", "-Q", "--direction=in", "--immediate-mode", "-#", "-E", "--pcapfile=x"] {
            assert!(ours_for(option).is_some(), "{option}");
        }
    }
}
