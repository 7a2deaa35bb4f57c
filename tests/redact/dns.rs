//! DNS over TCP, as tshark dissects it: what stays, and pseudonyms that are those of everywhere else.

use super::files::{Capture, End, Link, Talk};
use super::{Place, SECRET, gate, judge, text, tls2pcap, tshark};

const NAME: &str = "shop.corp.example";
const FOUR: [u8; 4] = [93, 184, 216, 34];
const SIX: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0xca, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
const BOTH: [&str; 4] = ["--addresses", "pseudonyms", "--names", "pseudonyms"];

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    out.push(0);
    out
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    [owner, &kind.to_be_bytes(), &[0, 1, 0, 0, 1, 44], &(data.len() as u16).to_be_bytes(), data].concat()
}

/// A message with its length: a question, and records of the answer and beyond.
fn message(
    is_answer: bool,
    question: &str,
    kind: u16,
    answers: &[Vec<u8>],
    additional: &[Vec<u8>],
) -> Vec<u8> {
    let flags: [u8; 2] = if is_answer { [0x81, 0x80] } else { [1, 0] };
    let counts = [0, answers.len() as u8, 0, 0, 0, additional.len() as u8];
    let head = [&[0x12, 0x34][..], &flags, &[0, 1], &counts].concat();
    let body = [
        head,
        name(question),
        kind.to_be_bytes().to_vec(),
        vec![0, 1],
        answers.concat(),
        additional.concat(),
    ]
    .concat();
    [&(body.len() as u16).to_be_bytes()[..], &body].concat()
}

fn text_record(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn capture() -> Capture {
    let mut capture = Capture::new(Link::Ethernet);
    capture.fours = [[198, 51, 77, 43], FOUR];
    let mut talk = Talk::open_at(&mut capture, 3000, 53);
    // The name of the question, and from its second label on.
    let (own, zone) = ([0xc0, 12], [0xc0, 17]);
    // The network of the client: 198.51.77.0/24.
    let subnet = record(&[0], 41, &[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 77]);
    talk.say(End::Client, &message(false, NAME, 255, &[], &[subnet]), 1000);
    let hint =
        [&[0, 1][..], &name(&format!("cdn.{NAME}")), &[0, 4, 0, 4], &FOUR, &[0, 6, 0, 16], &SIX].concat();
    let answers = [
        record(&own, 5, &[&[3][..], b"www", &zone].concat()),
        record(&own, 1, &FOUR),
        record(&own, 28, &SIX),
        record(&zone, 15, &[&[0, 10, 4][..], b"mail", &zone].concat()),
        record(&zone, 6, &[&[2][..], b"ns", &zone, &[5], b"admin", &zone, &[0; 20]].concat()),
        record(&name("_ldap._tcp.corp.example"), 33, &[&[0, 1, 0, 2, 1, 133][..], &name(NAME)].concat()),
        record(&zone, 16, &text_record(&format!("v=spf1 ip4:93.184.216.34 a:{NAME} token={SECRET}"))),
        record(&own, 65, &hint),
    ];
    talk.say(End::Server, &message(true, NAME, 255, &answers, &[]), 100);
    for (question, answer) in [
        ("34.216.184.93.in-addr.arpa", NAME),
        ("3.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.f.a.c.8.b.d.0.1.0.0.2.ip6.arpa", NAME),
        ("localhost", "localhost"),
    ] {
        talk.say(End::Client, &message(false, question, 12, &[], &[]), 1000);
        talk.say(
            End::Server,
            &message(true, question, 12, &[record(&[0xc0, 12], 12, &name(answer))], &[]),
            1000,
        );
    }
    talk.close();
    let mut talk = Talk::open(&mut capture, 3001);
    talk.say(End::Client, format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes(), 1000);
    talk.close();
    capture
}

/// All values of a field in a file.
fn values(program: &std::path::Path, file: &std::path::Path, field: &str) -> Vec<String> {
    let said = tshark(program, file, &["-T", "fields", "-E", "separator=,", "-e", field]);
    said.lines()
        .flat_map(|line| line.split(','))
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn dns_stays_but_for_texts() {
    let place = Place::new();
    let input = place.write("in.pcapng", &capture().pcapng(false));
    let output = place.redact(&input, &[]);
    judge(&input, &output);
    for (release, program) in gate::tsharks() {
        for field in
            ["dns.qry.name", "dns.cname", "dns.a", "dns.aaaa", "dns.mx.mail_exchange", "dns.ptr.domain_name"]
        {
            let [before, after] = [&input, &output].map(|file| values(program, file, field));
            assert!(!before.is_empty() && before == after, "tshark {release} {field}: {before:?} {after:?}");
        }
        let texts = values(program, &output, "dns.txt").concat();
        assert!(texts.contains("token=") && texts.contains("ip4:93.184.216.34"), "tshark {release}: {texts}");
    }
}

#[test]
fn dns_has_the_same_pseudonyms_as_everything_else() {
    let place = Place::new();
    let input = place.write("in.pcapng", &capture().pcapng(false));
    let output = place.redact(&input, &BOTH);
    judge(&input, &output);
    for (release, program) in gate::tsharks() {
        let all = tshark(program, &output, &["-V"]);
        for part in ["93.184.216", "2001:db8:cafe", "shop.", "corp", "mail.", "198.51.77", "184.93.in-addr"] {
            assert!(!all.contains(part), "tshark {release} shows {part}");
        }
        let of = |field: &str| values(program, &output, field);
        let host = of("http.host").remove(0);
        assert!(host.ends_with(".example") && host != NAME, "{host}");
        let server = of("ip.dst").remove(0);
        let zone = host.split_once('.').unwrap().1;
        for (field, expected) in [
            ("dns.qry.name", &host[..]),
            ("dns.ptr.domain_name", &host),
            ("dns.srv.target", &host),
            ("dns.a", &server),
            ("dns.qry.name", "localhost"),
        ] {
            assert!(
                of(field).iter().any(|value| value == expected),
                "tshark {release} {field}: {:?}",
                of(field)
            );
        }
        assert!(
            of("dns.cname")[0].ends_with(zone) && of("dns.mx.mail_exchange")[0].ends_with(zone),
            "{zone}"
        );
        let texts = of("dns.txt").concat();
        assert!(texts.contains(&format!("ip4:{server}")) && texts.contains(&format!("a:{host}")), "{texts}");
        let mut octets: Vec<&str> = server.split('.').collect();
        octets.reverse();
        let reverse = format!("{}.in-addr.arpa", octets.join("."));
        assert!(
            of("dns.qry.name").contains(&reverse),
            "tshark {release}: {reverse} {:?}",
            of("dns.qry.name")
        );
        let six: std::net::Ipv6Addr = of("dns.aaaa")[0].parse().unwrap();
        let digits: Vec<String> = six
            .octets()
            .iter()
            .rev()
            .flat_map(|b| [b & 15, b >> 4])
            .map(|digit| format!("{digit:x}"))
            .collect();
        let reverse = format!("{}.ip6.arpa", digits.join("."));
        assert!(
            of("dns.qry.name").contains(&reverse),
            "tshark {release}: {reverse} {:?}",
            of("dns.qry.name")
        );
    }
}

/// `--check` wants the file to say that it has pseudonyms, as they cannot be told from what they stand for.
#[test]
fn a_check_wants_pseudonyms_to_be_said() {
    for ending in ["pcap", "pcapng"] {
        let place = Place::new();
        let capture = capture();
        let bytes = if ending == "pcap" { capture.pcap() } else { capture.pcapng(false) };
        let input = place.write(&format!("in.{ending}"), &bytes);
        for (made, asked, lacks) in [
            (&[][..], &BOTH[..], &["addresses", "names"][..]),
            (&BOTH[..2], &BOTH[..], &["names"]),
            (&BOTH[..], &BOTH[..], &[]),
            (&BOTH[..], &[][..], &[]),
        ] {
            let output = place.redact(&input, made);
            let check = tls2pcap(&["redact", "--check", text(&output)], asked);
            let said = String::from_utf8_lossy(&check.stderr).into_owned();
            assert_eq!(
                check.status.code(),
                Some(if lacks.is_empty() { 0 } else { 7 }),
                "{ending} {asked:?}: {said}"
            );
            for what in ["addresses", "names"] {
                let reason = format!("does not say that its {what} have pseudonyms");
                assert_eq!(said.contains(&reason), lacks.contains(&what), "{ending} {asked:?}: {said}");
            }
        }
    }
    // Nothing in it could have one.
    let place = Place::new();
    let input = place.write("in.pcap", &Capture::new(Link::Ethernet).pcap());
    let check = tls2pcap(&["redact", "--check", text(&input)], &BOTH[..2]);
    assert_eq!((check.status.code(), &check.stdout[..]), (Some(7), &b""[..]));
}
