use super::*;

fn args(line: &[&str]) -> Vec<OsString> {
    std::iter::once("tls2pcap").chain(line.iter().copied()).map(OsString::from).collect()
}

fn captured(more: &[&str]) -> Result<Vec<String>, Failure> {
    let line = [&["--capture", "--extcap-interface", "tls2pcap", "--fifo", "/f"], more].concat();
    match parse(&args(&line))? {
        Call::Capture(line) => Ok(line.into_iter().map(|word| word.into_string().unwrap()).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_of_wireshark_are_told_from_those_of_people() {
    for line in [&["--extcap-interfaces", "--extcap-version=4.4"][..], &["--capture"], &["--extcap-config"]] {
        assert!(is_call(&args(line)), "{line:?}");
    }
    for line in
        [&["-o", "x", "--", "sshdump", "--capture"][..], &["wireshark", "install"], &["-o", "--", "x"]]
    {
        assert!(!is_call(&args(line)), "{line:?}");
    }
}

#[test]
fn queries() {
    let query = |line: &[&str]| parse(&args(line));
    let on = |more: &[&'static str]| [&["--extcap-interface", "tls2pcap"], more].concat();
    assert_eq!(query(&["--extcap-interfaces", "--extcap-version=4.0"]), Ok(Call::Query(Query::Interfaces)));
    assert_eq!(query(&on(&["--extcap-dlts"])), Ok(Call::Query(Query::Links)));
    assert_eq!(query(&on(&["--extcap-config"])), Ok(Call::Query(Query::Options)));
    for line in [
        ["--extcap-config", "--extcap-reload-option", "pid"],
        ["--extcap-reload-option", "pid", "--extcap-config"],
    ] {
        assert_eq!(query(&on(&line)), Ok(Call::Query(Query::Reload("pid".into()))));
    }
    let filter = Query::Filter("tcp".into());
    assert_eq!(query(&on(&["--extcap-capture-filter", "tcp"])), Ok(Call::Query(filter)));
    assert!(objection("tcp").is_some() && objection(" ").is_none());
    for line in
        [&["--extcap-config"][..], &["--extcap-config", "--extcap-interface", "eth0"], &["--extcap-version"]]
    {
        assert_eq!(query(line).unwrap_err().exit, Exit::Usage, "{line:?}");
    }
}

#[test]
fn a_capture_has_the_options_of_the_command_line() {
    let base = ["tls2pcap", "--quiet", "--output", "/f"];
    let line = ["--pid", "", "--command", "", "--all", "--snaplen", "96", "--process-blocks", "--ports=keep"];
    assert_eq!(captured(&["--all"]).unwrap(), [&base[..], &["--all"]].concat());
    let expected = [&base[..], &["--all", "--snaplen", "96", "--process-blocks", "--ports", "keep"]].concat();
    assert_eq!(captured(&line).unwrap(), expected, "what is empty was not chosen");
    let line = ["--command", "sh -c 'echo \"a b\"' x", "--extcap-capture-filter", ""];
    assert_eq!(captured(&line).unwrap(), [&base[..], &["--", "sh", "-c", "echo \"a b\"", "x"]].concat());
    for line in [
        &["--record", "/x"][..],
        &["--output", "/x"],
        &["-p", "1"],
        &["--pid"],
        &["--command", "it's"],
        &["--command", "  "],
        &["--extcap-capture-filter", "tcp port 80"],
        &["--fifo", ""],
    ] {
        assert_eq!(captured(line).unwrap_err().exit, Exit::Usage, "{line:?}");
    }
}

/// Whatever the dialog passes on, the command line understands.
#[test]
fn every_default_is_understood() {
    let mut line = vec!["--capture", "--extcap-interface", "tls2pcap", "--fifo", "/f", "--pid", "1"];
    let sentences = options::sentences();
    let value = |line: &str, key: &str| {
        let (_, rest) = line.split_once(&format!("{{{key}="))?;
        Some(rest.split_once('}')?.0.to_owned())
    };
    let mut calls = Vec::new();
    for sentence in sentences.lines() {
        if sentence.starts_with("arg ") {
            calls.push((
                value(sentence, "call").unwrap(),
                value(sentence, "default"),
                value(sentence, "type").unwrap(),
            ));
        } else if value(sentence, "default").as_deref() == Some("true") {
            let number: usize = value(sentence, "arg").unwrap().parse().unwrap();
            calls[number].1 = value(sentence, "value");
        }
    }
    for (call, default, kind) in &calls {
        match default {
            Some(default) if !default.is_empty() && kind != "boolflag" => {
                line.extend([call.as_str(), default])
            }
            // Every program instead of one.
            _ if call == "--all" => {}
            _ if kind == "boolflag" => line.push(call),
            _ => {}
        }
    }
    assert!(line.len() > 12, "{line:?}");
    let config = crate::cli::parse(args(&line)).unwrap();
    assert!(matches!(config, crate::config::Config::Capture(c) if c.for_wireshark && c.process_blocks));
}

/// As it comes from Wireshark when that has changed to another profile, of which it has no options.
#[test]
fn nobody_to_capture_is_refused_in_a_sentence() {
    let line = ["--capture", "--extcap-interface", "tls2pcap", "--fifo", "/f"];
    for more in [&[][..], &["--pid", "", "--command", "", "--uid", ""]] {
        let refused = crate::cli::parse(args(&[&line, more].concat())).unwrap_err();
        let text = format!("{refused:?}");
        assert!(text.contains("nothing is selected to capture") && text.contains("options"), "{text}");
    }
    let all = crate::cli::parse(args(&[&line[..], &["--all"]].concat())).unwrap();
    let crate::config::Config::Capture(all) = all else { panic!("{all:?}") };
    assert_eq!(all.targets, crate::config::Targets::Everything);
}

#[test]
fn arguments_of_the_command_are_not_shown() {
    let long = "curl -u alice:hunter2 -H 'X: a' -H 'X: b' -H 'X: c' -H 'X: d' https://example.org/";
    let start = "tls2pcap --capture --fifo /f";
    for (line, expected) in [
        (&["--command", long][..], "--command curl …"),
        (
            &["--command", long, "--ports", "keep", "--snaplen", "16"],
            "--command curl … --ports keep --snaplen 16",
        ),
        (&[&format!("--command={long}"), "--ports", "keep"], "--command=curl … --ports keep"),
        (&["--command", "true", "--ports", "keep"], "--command true --ports keep"),
        (&["--command", "an 'open hunter2", "--ports", "keep"], "--command  --ports keep"),
        (&["--pid", "17"], "--pid 17"),
    ] {
        let line = [&["--capture", "--fifo", "/f"], line].concat();
        assert_eq!(shown(&args(&line)), format!("{start} {expected}"));
    }
}
