use super::*;
use crate::config::{self, Follow, Targets};
use crate::redact::{self, RulesBuilder};
use crate::{sink, synth};

fn parse_line(line: &str) -> Result<Config, Stop> {
    parse(std::iter::once("tls2pcap").chain(line.split_whitespace()).map(OsString::from))
}

fn capture_of(line: &str) -> Capture {
    match parse_line(line) {
        Ok(Config::Capture(capture)) => capture,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_plainest_capture() {
    let expected = Capture {
        files: sink::Plan::default(),
        selection: Default::default(),
        duration: None,
        show: None,
        output: Some(Output::File("x.pcapng".into())),
        targets: Targets::Everything,
        libraries: vec![],
        backend: config::Backend::Auto,
        return_probes: false,
        ports: synth::Ports::Decode,
        framing: synth::Carrier::Plain,
        link: sink::Link::Ethernet,
        process_blocks: false,
        redact: None,
        is_interim: false,
        record: None,
        ready_file: None,
        ready_fd: None,
        show_args: false,
        ring_size: None,
        snaplen: None,
        fail_on_loss: false,
        packet_buffered: false,
        comments: sink::Comments::Syn,
        serve: None,
        for_wireshark: false,
        verbosity: Verbosity::Normal,
    };
    assert_eq!(capture_of("-o x.pcapng --all"), expected);
}

#[test]
fn every_option_arrives() {
    let expected = Capture {
        files: sink::Plan::default(),
        selection: Default::default(),
        duration: None,
        show: Some(config::Show { format: config::View::Hex, body: 512 }),
        output: Some(Output::File("x.pcapng".into())),
        targets: Targets::Pids { pids: vec![7, 9], follow: Follow::Tree },
        libraries: vec!["/a".into(), "/b".into()],
        backend: config::Backend::Tracepoint,
        return_probes: true,
        ports: synth::Ports::Keep,
        framing: synth::Carrier::Tls,
        link: sink::Link::Raw,
        process_blocks: false,
        redact: None,
        is_interim: false,
        record: Some("r".into()),
        ready_file: Some("f".into()),
        ready_fd: Some(3),
        show_args: true,
        ring_size: Some(128 << 20),
        snaplen: Some(96),
        fail_on_loss: true,
        packet_buffered: true,
        comments: sink::Comments::All,
        serve: Some("127.0.0.1:57012".parse().unwrap()),
        for_wireshark: false,
        verbosity: Verbosity::Verbose,
    };
    let line = "-o x.pcapng -f hex --body 512 -p 9 -p 7 --pid 9 --follow --lib /a --lib /b --return-probes --backend tracepoint --ports keep --framing tls --link raw \
                --record r \
                --ready-file f --ready-fd 3 --show-args --ring-size 128 -s 96 --fail-on-loss -U -v \
                --comments all --pcap-over-ip 57012";
    assert_eq!(capture_of(line), expected);
}

#[test]
fn a_capture_may_only_be_served() {
    let of = |line| capture_of(line).serve.unwrap().to_string();
    let only = capture_of("--pcap-over-ip 57012 -p 1");
    assert_eq!(only.output, None);
    assert_eq!(of("-o x --all --pcap-over-ip 0.0.0.0:1"), "0.0.0.0:1");
    assert_eq!(of("-o x --all --pcap-over-ip [::1]:1"), "[::1]:1");
    let shown = capture_of("-f text --all");
    assert_eq!((shown.output, shown.show.map(|show| show.format)), (None, Some(config::View::Text)));
    for line in [
        "-f text -o - --all",
        "-o x --body 1K --all",
        "--all",
        "-f text --body 2M --all",
        "-f text -c 3 --all",
    ] {
        assert!(parse_line(line).is_err(), "{line}");
    }
}

#[test]
fn lengths_to_keep() {
    let length = |text| capture_of(&format!("-o x --all --snaplen {text}")).snaplen;
    assert_eq!(["0", "96", "1k", "2M"].map(length), [None, Some(96), Some(1024), Some(2 << 20)]);
    for text in ["1G", "-1", "k", "4096M"] {
        assert!(parse(["tls2pcap", "-o", "x", "--all", "-s", text].map(Into::into)).is_err(), "{text}");
    }
}

#[test]
fn ring_sizes() {
    let size = |text| capture_of(&format!("-o x --all --ring-size {text}")).ring_size;
    for (text, bytes) in [("64K", 64 << 10), ("512k", 512 << 10), ("1", 1 << 20), ("8M", 8 << 20)] {
        assert_eq!(size(text), Some(bytes), "{text}");
    }
    assert_eq!((size("1048576K"), size("1024")), (Some(1 << 30), Some(1 << 30)));
}

#[test]
fn options_after_the_dashes_are_the_commands() {
    let command = |line| capture_of(line).targets;
    let words = |text: &str| Targets::Command(text.split(' ').map(OsString::from).collect());
    assert_eq!(command("-o x -- curl -o y -p 1 -- z"), words("curl -o y -p 1 -- z"));
    assert_eq!(command("-o x -- replay -q"), words("replay -q"));
    assert_eq!(command("-q -o x -u 0 -u root -u 5"), Targets::Users(vec![0, 5]));
}

#[test]
fn more_users_than_the_kernel_side_has_room_for_are_refused() {
    let users = |n: u32| (0..n).map(|id| format!("-u {id} ")).collect::<String>() + "-o x";
    assert_eq!(capture_of(&users(16)).targets, Targets::Users((0..16).collect()));
    let Err(Stop(Reason::Failure(failure))) = parse_line(&users(17)) else { panic!() };
    assert!(failure.message.contains("17 users"), "{failure}");
}

#[test]
fn replay() {
    let expected = Replay {
        files: sink::Plan::default(),
        selection: Default::default(),
        input: "r".into(),
        output: Output::File("x".into()),
        redact: None,
        ports: synth::Ports::Keep,
        framing: synth::Carrier::Tls,
        link: sink::Link::Raw,
        fail_on_loss: true,
        process_blocks: false,
        comments: sink::Comments::None,
        verbosity: Verbosity::Quiet,
    };
    assert_eq!(
        parse_line("replay r -o x --ports keep --framing tls --link raw --fail-on-loss --comments none -q")
            .unwrap(),
        Config::Replay(expected)
    );
}

#[test]
fn what_makes_no_sense_is_refused_as_usage_with_a_cure() {
    let cases = [
        ("-p 1", "no output file"),
        ("--all", "no output file"),
        ("-o x curl -s https://h", "'curl' is not expected here"),
        ("-o x replay r", "'replay' is not expected here"),
        ("-o x --", "no command follows --"),
        ("-o x -p 1 -- curl", "-p and a command"),
        ("-o x -u 1 -- curl", "-u and a command"),
        ("-o x -u 1 -p 1", "-p and -u"),
        ("-o x -p 1 --all", "-p and --all"),
        ("-o x --all -- curl", "--all and a command"),
        ("-o x", "selected to capture"),
        ("--pcap-over-ip 57012", "selected to capture"),
        ("-o x -u no-such-user-here", "no user with this name"),
        ("-o x -u 4294967295", "not a user number"),
        ("-o x --record x", "same file"),
        ("-o x --ready-file x", "same file"),
        ("-o x --record r --ready-file r", "same file"),
        ("-o - --record -", "cannot be standard output"),
        ("replay r -o r", "overwritten"),
    ];
    for (line, text) in cases {
        let Err(Stop(Reason::Failure(failure))) = parse_line(line) else { panic!("{line} is accepted") };
        assert_eq!(failure.exit, Exit::Usage, "{line}");
        assert!(failure.message.contains(text), "{line}: {failure}");
    }
    for line in [
        "-o x -p 0",
        "-o x -p 2147483648",
        "-o x -p -1",
        "-o x --backend other",
        "-o x -v -q",
        "-o x --ready-fd 1",
        "-o x --ring-size 2048",
        "-o x --ring-size 48",
        "-o x --ring-size 0",
        "-o x --ring-size 4294967296",
        "-o x --ring-size 2K",
        "-o x --ring-size -4K",
        "-o x --ring-size K",
        "-o x --ring-size 4G",
        "replay r",
    ] {
        let Err(Stop(Reason::Clap(error))) = parse_line(line) else { panic!("{line} is accepted") };
        assert!(error.use_stderr(), "{line}");
    }
    assert!(matches!(parse_line(""), Err(Stop(Reason::NoArguments))));
}

#[test]
fn a_file_to_read() {
    let of = |line: &str| match parse_line(line) {
        Ok(Config::Read(read)) => read,
        other => panic!("{line}: {other:?}"),
    };
    let read = of("read -f json --body 2K -q --unknown leave x.pcapng port 443 and comm curl");
    assert_eq!(read.show, config::Show { format: config::View::Json, body: 2048 });
    assert_eq!((read.input, read.leaves_unknown, read.summary), ("x.pcapng".into(), true, false));
    assert_eq!(read.filter.unwrap().text(), "port 443 and comm curl");
    let read = of("read - --summary");
    assert_eq!((read.show.format, read.summary, read.filter), (config::View::Text, true, None));
    for line in ["read", "read x -f xml", "read x --summary -f hex", "read x --body 2M", "read x frobnicate"]
    {
        assert!(parse_line(line).is_err(), "{line}");
    }
}

#[test]
fn a_redaction_and_a_check() {
    let of = |line: &str| match parse_line(line) {
        Ok(Config::Redact(redact)) => redact,
        other => panic!("{line}: {other:?}"),
    };
    let rules = RulesBuilder {
        level: redact::Level::Shape,
        headers: vec!["a".into(), "b".into()],
        fields: vec!["c".into()],
        patterns: vec!["d".into()],
        allowed: vec!["e".into()],
        ..RulesBuilder::default()
    };
    let expected = Redact {
        input: "x.pcapng".into(),
        output: Some(Output::File("y.pcapng".into())),
        redaction: config::Redaction { rules, file: Some("r".into()), key: Some("k".into()) },
        verbosity: Verbosity::Quiet,
    };
    let line = "redact x.pcapng -o y.pcapng --level shape --header a --header b --field c --pattern d --allow e --key k --rules r -q";
    assert_eq!(of(line), expected);
    let check = of("redact --check x.pcapng");
    assert_eq!((check.output, check.redaction), (None, config::Redaction::default()));
    let capture = |line: &str| match parse_line(line) {
        Ok(Config::Capture(capture)) => capture.redact,
        Ok(Config::Replay(replay)) => replay.redact,
        other => panic!("{line}: {other:?}"),
    };
    let with = config::Redaction { file: Some("r".into()), ..Default::default() };
    assert_eq!(capture("-o x.pcapng --all --redact"), Some(config::Redaction::default()));
    assert_eq!(capture("replay r -o x.pcapng --redact --redact-rules r"), Some(with));
    assert_eq!(capture("-o x.pcapng --all"), None);
    for line in
        ["-o x --all --redact --record r", "-o x --all --redact --show-args", "-o x --all --redact-rules r"]
    {
        assert!(parse_line(line).is_err(), "{line}");
    }
    for line in [
        "redact x.pcapng",
        "redact x.pcapng -o x.pcapng",
        "redact x -o y.json",
        "redact --check x -o y.pcapng",
    ] {
        assert!(parse_line(line).is_err(), "{line}");
    }
}

#[test]
fn a_report() {
    let of = |line: &str| match parse_line(line) {
        Ok(Config::Report(report)) => report,
        other => panic!("{line}: {other:?}"),
    };
    let file = of("report x.pcapng -o b.zip --process curl --conn 3 --host a --since 5m --errors --field n");
    assert_eq!(file.source, config::Source::File("x.pcapng".into()));
    let filter = config::Filter {
        processes: vec!["curl".into()],
        connections: vec![3],
        hosts: vec!["a".into()],
        since: Some(300),
        errors: true,
    };
    assert_eq!((file.filter, file.redaction.rules.fields), (filter, vec!["n".to_owned()]));
    for (line, expected) in [
        ("report -o b.zip -- curl -o x", "-o capture.pcapng --redact -- curl -o x"),
        ("report -p 1 -p 2 -o b.zip -q", "-o capture.pcapng --redact -p 1 -p 2 -q"),
    ] {
        let Ok(Config::Capture(capture)) = parse_line(expected) else { panic!("{expected}") };
        assert_eq!(of(line).source, config::Source::Capture(Box::new(capture)), "{line}");
    }
    for line in [
        "report -o b.zip",
        "report x.pcapng",
        "report x.pcapng -o x.pcapng",
        "report x.pcapng -o -",
        "report x.pcapng -p 1 -o b.zip",
        "report x.pcapng -o b.zip -- curl",
        "report x.pcapng -o b.zip --since soon",
    ] {
        assert!(parse_line(line).is_err(), "{line}");
    }
}

/// The help is part of the interface: a change shows in review. `TLS2PCAP_BLESS=1` accepts it.
#[test]
fn help_is_as_agreed() {
    let mut command = Arguments::command().term_width(100);
    command.build();
    let replay = command.find_subcommand_mut("replay").unwrap().render_long_help().to_string();
    let read = command.find_subcommand_mut("read").unwrap().render_long_help().to_string();
    let redact = command.find_subcommand_mut("redact").unwrap().render_long_help().to_string();
    let wireshark = command.find_subcommand_mut("wireshark").unwrap().render_long_help().to_string();
    let report = command.find_subcommand_mut("report").unwrap().render_long_help().to_string();
    let help =
        [command.render_long_help().to_string(), replay, read, redact, report, wireshark].join("\n----\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/help.txt");
    if std::env::var_os("TLS2PCAP_BLESS").is_some() {
        std::fs::write(path, &help).unwrap();
    }
    let agreed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(help, agreed, "if this is meant, run the test with TLS2PCAP_BLESS=1");
    Arguments::command().debug_assert();
}

#[test]
fn names_that_promise_another_format_are_refused() {
    for (line, cure) in [
        (
            "-o x.pcapng.zst --all",
            "name it .pcapng.gz, or compress it on the way: tls2pcap -o - | zstd >FILE.pcapng.zst",
        ),
        ("-o x.cap --all", "name it .pcapng, or .pcap for classic pcap"),
        ("replay r -o x.json", "name it .pcapng and convert it: tshark -r FILE.pcapng -T json"),
        ("-o x --record r.t2p.gz --all", "give it another name, such as FILE.t2p, and compress it later"),
    ] {
        let Stop(Reason::Failure(failure)) = parse_line(line).unwrap_err() else { panic!("{line}") };
        assert_eq!((failure.exit, failure.cure.as_str()), (Exit::Usage, cure), "{line}");
    }
    for line in
        ["-o x.pcap --all", "-o x.pcapng.gz --all", "replay r -o x.pcap.gz", "-o x --all --record r.txt"]
    {
        parse_line(line).unwrap();
    }
}

#[test]
fn files_as_tcpdump_and_dumpcap_have_them() {
    let files = |line: &str| match parse(line.split(' ').map(Into::into)) {
        Ok(Config::Capture(capture)) => Ok((capture.files, capture.duration)),
        Ok(_) => panic!("{line}"),
        Err(Stop(Reason::Failure(failure))) => Err(failure.to_string()),
        Err(other) => panic!("{line}: {other:?}"),
    };
    let none = sink::Plan::default;
    let ok = |line: &str| files(&format!("tls2pcap -w a.pcapng --all {line}")).unwrap();
    let ring = sink::Plan { bytes: Some(10_000_000), keep: Some(5), ..none() };
    assert_eq!(ok("-C 10 -W 5"), (ring, None));
    assert_eq!(ok("-C 2m").0.bytes, Some(2 << 20));
    let hours = sink::Plan { seconds: Some(3600), files_max: Some(24), then: Some("gzip".into()), ..none() };
    assert_eq!(ok("-G 3600 -W 24 -z gzip"), (hours, None));
    let dumpcap = sink::Plan {
        bytes: Some(1_000_000),
        keep: Some(3),
        packets_max: Some(9),
        names: sink::Names::TimeNumber,
        ..none()
    };
    let minute = Some(std::time::Duration::from_secs(60));
    let line = "-b nametimenum:2 -b filesize:1000 -b files:3 -a duration:60 -a packets:9";
    assert_eq!(ok(line), (dumpcap, minute));
    assert_eq!(ok("--duration 1.5m").1, Some(std::time::Duration::from_secs(90)));
    for (line, word) in [
        ("-W 5", "-C or -G"),
        ("-C 1 -G 1 -W 5", "-b filesize"),
        ("-C 1 -b packets:5", "-b and -C"),
        ("-b files:3", "when a file ends"),
        ("-b colour:3", "filesize"),
        ("-a duration:-1", "time above 0"),
        ("-b packets:0", "above 0"),
        ("--disk-full drop-oldest", "several files"),
        ("-i eth0", "programs are captured"),
        ("-nn", "leave it out"),
        ("-Y http", "tshark"),
    ] {
        let told = files(&format!("tls2pcap -w a.pcapng --all {line}")).unwrap_err();
        assert!(told.contains(word), "{line}: {told}");
    }
    let told = files("tls2pcap --pcap-over-ip 5000 --all -c 5").unwrap_err();
    assert!(told.contains("also use -o"), "{told}");
    let told = files("tls2pcap -w - --all -C 1").unwrap_err();
    assert!(told.contains("several files need a name"), "{told}");
}

#[test]
fn an_expression_chooses_and_says_whom_to_capture() {
    let targets = |line: &str| match parse(line.split(' ').map(Into::into)) {
        Ok(Config::Capture(capture)) => capture.targets,
        other => panic!("{line}: {other:?}"),
    };
    let only = |pids: &[u32]| Targets::Pids { pids: pids.into(), follow: Follow::Nobody };
    assert_eq!(targets("tls2pcap -o x pid 7 and port 443"), only(&[7]));
    assert_eq!(targets("tls2pcap -o x --all pid 7 or pid 9"), only(&[7, 9]));
    assert_eq!(targets("tls2pcap -o x user root and port 443"), Targets::Users(vec![0]));
    assert_eq!(targets("tls2pcap -o x --all not pid 7"), Targets::Everything);
    assert_eq!(
        targets("tls2pcap -o x port 443 -- curl x"),
        Targets::Command(vec!["curl".into(), "x".into()])
    );
    let refused = |line: &str| match parse(line.split(' ').map(Into::into)) {
        Err(Stop(Reason::Failure(failure))) => failure.to_string(),
        other => panic!("{line}: {other:?}"),
    };
    assert!(refused("tls2pcap -o x port 443").contains("nothing is selected to capture"));
    assert!(refused("tls2pcap -o x --all tcp port htps").contains("\n           ^^^^"));
    assert!(refused("tls2pcap -o x --all --port htps").contains("--port"));
    assert!(refused("tls2pcap -d").contains("no expression"));
    let capture = capture_of(
        "-o x --all --comm a --comm b --port 443 not role server --head 1K --sample 10 --no-reads",
    );
    let selection = capture.selection;
    assert_eq!(
        selection.filter.unwrap().text(),
        "(not role server) and (port \"443\") and (comm \"a\" or comm \"b\")"
    );
    assert_eq!((selection.head, selection.sample, selection.no_reads), (Some(1024), Some(10), true));
    let Ok(Config::Explain(text)) =
        parse_line("tls2pcap -d pid 7 and port 443".trim_start_matches("tls2pcap "))
    else {
        panic!()
    };
    assert!(text.contains("kernel") && text.contains("user space"), "{text}");
}
