//! Pseudonyms of addresses and names: the same wherever the same thing is, and nothing left of what they stand for.

use super::files::{Capture, End, Link, Talk, block, half, option, padded, section};
use super::secrets::{frame, literal};
use super::{Place, gate, judge, text, tls2pcap, tshark};

const BOTH: [&str; 4] = ["--addresses", "pseudonyms", "--names", "pseudonyms"];

/// Addresses and names of both ends, as they are written.
const FOURS: [&str; 2] = ["198.51.77.43", "93.184.216.34"];
const SIXES: [&str; 2] = ["2001:db8:77:34::9", "2001:db8:cafe::53"];
const NAME: &str = "shop.corp.example";
const USER: &str = "bertram";

fn capture(link: Link, six: bool) -> Capture {
    let mut capture = Capture::new(link);
    capture.six = six;
    capture.fours = FOURS.map(|text| text.parse::<std::net::Ipv4Addr>().unwrap().octets());
    capture.sixes = SIXES.map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    capture.hardware = [[0, 0x1b, 0x21, 0x77, 0x34, 0x99], [0, 0x1b, 0x21, 0x84, 0x53, 0x66]];
    let (client, server) = match six {
        true => (SIXES[0].to_owned(), format!("[{}]", SIXES[1])),
        false => (FOURS[0].to_owned(), FOURS[1].to_owned()),
    };
    let mut talk = Talk::open(&mut capture, 3000);
    for host in [&server, NAME] {
        let body = format!(
            "{{\"user\":\"{USER}\",\"from\":\"{client}\",\"home\":\"/home/{USER}/x\",\"url\":\"http://{NAME}/{USER}\"}}"
        )
        .replace(&format!("/{USER}\"}}"), "/\"}");
        let request = format!(
            "POST http://{NAME}:80/a?user={USER} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}, {}\r\n\
             Forwarded: for={client};host={NAME}\r\nUser-Agent: Chrome/126.0.0.0\r\nOrigin: http://{NAME}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            FOURS[0],
            body.len()
        );
        let answer = format!(
            "HTTP/1.1 302 Found\r\nSet-Cookie: a=b; Domain=.{NAME}; Path=/\r\nLocation: http://{server}/\r\n\
             Content-Length: 0\r\n\r\n"
        );
        talk.say(End::Client, request.as_bytes(), 111);
        talk.say(End::Server, answer.as_bytes(), 111);
    }
    talk.close();
    let mut talk = Talk::open(&mut capture, 3001);
    let hosts = [(true, server.as_str()), (false, &server), (true, NAME), (false, NAME)];
    for (i, (huffman, host)) in hosts.into_iter().enumerate() {
        let stream = 1 + 2 * i as u8;
        let mut block = vec![0x82, 0x86, 0x84];
        for (name, value) in [(":authority", host), ("x-forwarded-for", &client)] {
            match huffman {
                true => {
                    let code = encoded(value);
                    block.extend(
                        [&[0x40, name.len() as u8], name.as_bytes(), &[0x80 | code.len() as u8], &code]
                            .concat(),
                    );
                }
                false => block.extend(literal(0x40, name, value)),
            }
        }
        if stream == 1 {
            talk.say(End::Client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1000);
            talk.say(End::Client, &frame(4, 0, 0, &[]), 1000);
            talk.say(End::Server, &frame(4, 0, 0, &[]), 1000);
        }
        talk.say(End::Client, &frame(1, 5, stream, &block), 1000);
        talk.say(End::Server, &frame(1, 5, stream, &[0x88]), 1000);
    }
    talk.close();
    capture.packets[0].comment = format!(
        "tls2pcap=1 conn=1 pid=7 comm=curl exe=/home/{USER}/bin/x local={client}:3000 remote={server}:80 sni={NAME}"
    )
    .replace(&format!("local={}:", SIXES[0]), &format!("local=[{}]:", SIXES[0]));
    capture
}

/// In Huffman code (RFC 7541, Appendix B), for the characters of hosts.
fn encoded(text: &str) -> Vec<u8> {
    let mut bits = String::new();
    for c in text.chars() {
        let (code, len) = match c {
            '[' => (0x1ffb, 13),
            ']' => (0x1ffc, 13),
            ':' => (0x5c, 7),
            'k' => (0x75, 7),
            'x' => (0x79, 7),
            _ => {
                let five = "012aceiost".find(c).map(|at| (at, 5));
                five.or("%-./3456789=A_bdfghlmnpru".find(c).map(|at| (at + 0x15, 6))).unwrap()
            }
        };
        bits += &format!("{code:0len$b}");
    }
    bits.extend(std::iter::repeat_n('1', bits.len().next_multiple_of(8) - bits.len()));
    bits.as_bytes()
        .chunks(8)
        .map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap())
        .collect()
}

fn assert_gone(bytes: &[u8], what: &str) {
    let octets = |address: &str| {
        address.parse::<std::net::IpAddr>().map(|ip| match ip {
            std::net::IpAddr::V4(four) => four.octets().to_vec(),
            std::net::IpAddr::V6(six) => six.octets().to_vec(),
        })
    };
    let mut all: Vec<Vec<u8>> =
        [NAME, "shop", "corp", USER].iter().map(|text| text.as_bytes().to_vec()).collect();
    for address in FOURS.iter().chain(&SIXES) {
        all.push(address.as_bytes().to_vec());
        all.push(octets(address).unwrap());
    }
    all.extend([vec![0x77, 0x34, 0x99], vec![0x84, 0x53, 0x66], b"77:34:99".to_vec()]);
    for one in all {
        assert!(
            memchr::memmem::find(bytes, &one).is_none(),
            "{what} shows {:?}",
            String::from_utf8_lossy(&one)
        );
    }
}

#[test]
fn addresses_and_names_are_gone_and_the_trees_are_the_same() {
    let place = Place::new();
    for link in Link::ALL {
        for six in [false, true] {
            let capture = capture(link, six);
            for (name, bytes) in [("in.pcapng", capture.pcapng(false)), ("in.pcap", capture.pcap())] {
                let input = place.write(name, &bytes);
                let output = place.redact(&input, &BOTH);
                judge(&input, &output);
                assert_gone(&std::fs::read(&output).unwrap(), &format!("{link:?}"));
            }
        }
    }
}

#[test]
fn the_same_thing_has_the_same_pseudonym_everywhere() {
    let place = Place::new();
    for six in [false, true] {
        let input = place.write("in.pcapng", &capture(Link::Ethernet, six).pcapng(false));
        let output = place.redact(&input, &BOTH);
        for (release, program) in gate::tsharks() {
            let shown = |filter: &str, field: &str| {
                let said = tshark(program, &output, &["-Y", filter, "-T", "fields", "-e", field]);
                let mut all: Vec<String> =
                    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
                all.dedup();
                all
            };
            let version = if six { "ipv6" } else { "ip" };
            let server = shown("tcp.flags.syn == 1 and tcp.flags.ack == 0", &format!("{version}.dst"));
            let client = shown("tcp.flags.syn == 1 and tcp.flags.ack == 0", &format!("{version}.src"));
            assert_eq!((server.len(), client.len()), (1, 1), "tshark {release}");
            let hosts = shown("http.request", "http.host");
            assert_eq!(hosts[0].trim_matches(['[', ']']), server[0]);
            assert!(shown("http.request", "http.x_forwarded_for")[0].starts_with(&client[0]));
            let authorities = shown("http2.headers.authority", "http2.headers.authority");
            assert_eq!(authorities[0].trim_matches(['[', ']']), server[0], "in Huffman code");
            assert_eq!(authorities[1], hosts[1], "the name in both versions of HTTP");
            assert!(hosts[1].ends_with(".example"));
            assert!(shown("http.user_agent", "http.user_agent")[0].contains("Chrome/126.0.0.0"));
        }
    }
}

#[test]
fn a_key_makes_the_same_pseudonyms_and_a_check_finds_each_before() {
    let place = Place::new();
    let key = place.write("key", &[7; 32]);
    let input = place.write("in.pcapng", &capture(Link::Ethernet, false).pcapng(false));
    let check = tls2pcap(&["redact", "--check", text(&input)], &BOTH);
    let said = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(7));
    assert!(said.contains("\taddress\n") && said.contains("\thost or user name\n"), "{said}");
    let keyed = [&BOTH[..], &["--key", text(&key)]].concat();
    let [one, two] = ["one.pcapng", "two.pcapng"].map(|name| {
        let output = place.path(name);
        let done = tls2pcap(&["redact", text(&input), "-o", text(&output)], &keyed);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(output).unwrap()
    });
    assert_eq!(one, two);
    // A file that was redacted without is not taken for one that has pseudonyms.
    let output = place.redact(&input, &[]);
    assert_eq!(tls2pcap(&["redact", "--check", text(&output)], &BOTH).status.code(), Some(7));
}

#[test]
fn interfaces_resolved_names_and_arp() {
    let place = Place::new();
    let end = [0; 4];
    let (four, six) = ([93, 184, 216, 34], SIXES[1].parse::<std::net::Ipv6Addr>().unwrap().octets());
    for big in [false, true] {
        let interface = [
            half(big, 1),
            vec![0; 6],
            option(big, 2, b"curl[7]"),
            option(big, 3, format!("curl --cacert /home/{USER}/ca.pem http://{NAME}/").as_bytes()),
            option(big, 4, &[&four[..], &[255, 255, 255, 0]].concat()),
            option(big, 5, &[&six[..], &[64]].concat()),
            option(big, 6, &[0, 0x1b, 0x21, 0x77, 0x34, 0x99]),
            end.to_vec(),
        ]
        .concat();
        let record = |kind: u16, address: &[u8]| {
            let value = [address, NAME.as_bytes(), &[0]].concat();
            [half(big, kind), half(big, value.len() as u16), padded(&value)].concat()
        };
        let names = [record(1, &four), record(2, &six), end.to_vec()].concat();
        let arp = [
            vec![0xff; 6],
            vec![0, 0x1b, 0x21, 0x77, 0x34, 0x99, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            vec![0, 0x1b, 0x21, 0x77, 0x34, 0x99],
            vec![198, 51, 77, 43],
            vec![0; 6],
            four.to_vec(),
        ]
        .concat();
        let words = [0u32, 0, 0, arp.len() as u32, arp.len() as u32];
        let mut packet: Vec<u8> = words.iter().flat_map(|word| super::files::word(big, *word)).collect();
        packet.extend(padded(&arp));
        let bytes = [
            block(big, 0x0a0d_0d0a, &section(big)),
            block(big, 1, &interface),
            block(big, 4, &names),
            block(big, 6, &packet),
        ]
        .concat();
        let input = place.write("in.pcapng", &bytes);
        let output = place.redact(&input, &BOTH);
        judge(&input, &output);
        assert_gone(&std::fs::read(&output).unwrap(), "a block");
    }
}
