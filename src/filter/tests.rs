use super::*;

struct Machine;

impl Names for Machine {
    fn user(&self, name: &str) -> Option<u32> {
        (name == "alice").then_some(1000)
    }
    fn port(&self, name: &str) -> Option<u16> {
        [("https", 443), ("http-alt", 8080)].iter().find(|(known, _)| *known == name).map(|(_, port)| *port)
    }
}

fn filter(text: &str) -> Filter {
    Filter::new(text, &Machine).unwrap_or_else(|error| panic!("{error}"))
}

fn facts() -> Facts<'static> {
    Facts {
        client: Some("10.1.2.3:50000".parse().unwrap()),
        server: Some("192.0.2.1:443".parse().unwrap()),
        pid: Some(7),
        comm: Some("curl"),
        exe: Some("/usr/bin/curl"),
        uid: Some(1000),
        container: Some("0123456789abcdef web-1"),
        netns: Some(4),
        sni: Some("WWW.example.org"),
        alpn: Some("h2"),
        library: Some("/usr/lib/libssl.so.3"),
        library_version: "OpenSSL 3.0.19",
        is_client: Some(true),
        proto: Some("http/2"),
    }
}

#[test]
fn each_word_decides() {
    for (text, wanted) in [
        ("host 10.1.2.3", true),
        ("src 10.1.2.3", true),
        ("dst host 10.1.2.3", false),
        ("src and dst host 10.1.2.3", false),
        ("src or dst host 10.1.2.3", true),
        ("net 10", true),
        ("net 10.1", true),
        ("net 10.2", false),
        ("src net 10.1.2.0/24", true),
        ("net 10.1.0.0 mask 255.255.0.0", true),
        ("net 0.0.0.0/0", true),
        ("net ::/0", false),
        ("port 443", true),
        ("port https", true),
        ("src port 443", false),
        ("tcp dst port 443", true),
        ("portrange 440-450", true),
        ("portrange 450-440", true),
        ("portrange https-http-alt", true),
        ("portrange 8000-9000", false),
        ("port 80 or 443", true),
        ("port (80 or 443)", true),
        ("not port 80 and 443", true),
        ("port 80 or 81 or pid 8", false),
        ("tcp", true),
        ("ip", true),
        ("ip6", false),
        ("ip host 10.1.2.3", true),
        ("pid 7", true),
        ("pid 8 or 7", true),
        ("comm curl", true),
        ("comm cur?", true),
        ("comm Curl", false),
        ("exe curl", true),
        ("exe /usr/bin/*", true),
        ("exe /usr/bin", false),
        ("user alice", true),
        ("user 1000", true),
        ("uid 33", false),
        ("container 0123456", true),
        ("container web-*", true),
        ("container 012", false),
        ("netns 4", true),
        ("sni www.example.org.", true),
        ("sni *.EXAMPLE.org", true),
        ("sni example.org", false),
        ("alpn H2", true),
        ("library openssl", true),
        ("library libssl.so.1", false),
        ("role client", true),
        ("role server", false),
        ("proto http", true),
        ("proto http/1", false),
        ("proto h2", true),
        ("! pid 8 && ! ( port 80 || port 81 )", true),
        ("not not pid 7", true),
        // As in pcap-filter, from the left.
        ("pid 7 or pid 8 and pid 9", false),
        ("pid 7 or (pid 8 and pid 9)", true),
        ("comm 'curl'", true),
        ("comm \"and\"", false),
    ] {
        assert_eq!(filter(text).verdict(&facts()), Some(wanted), "{text}");
    }
}

#[test]
fn what_is_not_known_decides_nothing_unless_the_rest_does() {
    let facts = Facts { sni: None, client: None, ..facts() };
    for (text, verdict) in [
        ("sni a", None),
        ("not sni a", None),
        ("sni a or pid 7", Some(true)),
        ("sni a or pid 8", None),
        ("sni a and pid 7", None),
        ("sni a and pid 8", Some(false)),
        ("src port 1", None),
        ("port 443", Some(true)),
        ("port 444", None),
        ("src and dst port 444", Some(false)),
    ] {
        assert_eq!(filter(text).verdict(&facts), verdict, "{text}");
    }
    // Every expression decides if all is known, and nothing it decides is changed by knowing more.
    let all = Facts { sni: Some("b"), client: "10.0.0.1:1".parse().ok(), ..facts };
    for text in ["sni a or pid 7", "sni a and pid 8", "port 443", "src and dst port 444"] {
        assert_eq!(filter(text).verdict(&all), filter(text).verdict(&facts), "{text}");
    }
}

#[test]
fn errors_point_at_the_place() {
    for (text, marked, word) in [
        ("tcp port htps", "htps", "neither a port"),
        ("port", "", "a value is expected"),
        ("", "", "is expected here"),
        ("pid 7 and", "", "is expected here"),
        ("pid 7 foo", "foo", "and, or, or the end"),
        ("(pid 7", "(", "not closed"),
        ("pid 7)", ")", "no parenthesis is open"),
        ("host example.org", "example.org", "sni"),
        ("net 10.0.0.1/8", "10.0.0.1/8", "bits beyond"),
        ("net 10.0.0.0/33", "10.0.0.0/33", "from 0 to 32"),
        ("net 10.0.0.0 mask 255.0.255.0", "255.0.255.0", "a mask"),
        ("ip host ::1", "::1", "does not go with"),
        ("src pid 7", "src pid", "go with host"),
        ("tcp host 1.2.3.4", "tcp", "port and portrange"),
        ("pid x", "x", "not a number"),
        ("user bob", "bob", "not a user"),
        ("role peer", "peer", "neither client"),
        ("proto gopher", "gopher", "not a recognised protocol"),
        ("udp port 53", "udp", "TLS over TCP"),
        ("pid 7 and cgroup /x", "cgroup", "container"),
        ("greater 100", "greater", "whole"),
        ("tcp.port == 443", "=", "cannot be compared"),
        ("tcp.port 443", "tcp.port", "not a word"),
        ("pid == 7", "=", "cannot be compared"),
        ("pid 7 & pid 8", "&", "use &&"),
        ("comm 'x", "'", "is not closed"),
        ("src or 10.0.0.1", "or", "a value"),
    ] {
        let error = Filter::new(text, &Machine).unwrap_err();
        assert_eq!(&text[error.at.clone()], marked, "{text}: {error}");
        assert!(error.message.contains(word), "{text}: {error}");
    }
    let told = Filter::new("tcp port htps", &Machine).unwrap_err().to_string();
    assert!(told.ends_with("\n  tcp port htps\n           ^^^^"), "{told}");
}

#[test]
fn no_text_makes_it_fall_over() {
    let deep = format!("{}pid 7{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(Filter::new(&deep, &Machine).unwrap_err().message.contains("deep"));
    assert!(Filter::new(&"!".repeat(60_000), &Machine).is_err());
    assert!(Filter::new(&"pid 1 or ".repeat(20_000), &Machine).is_err());
    let words = [
        "pid",
        "7",
        "(",
        ")",
        "not",
        "and",
        "or",
        "src",
        "dst",
        "port",
        "80",
        "é",
        "'",
        "\"",
        "ip6",
        "net",
        "1/",
        "::/0",
        "mask",
        "-",
        "!",
        "portrange",
        "1-",
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..20_000 {
        let text: Vec<&str> = (0..random % 9)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                words[(random % words.len() as u64) as usize]
            })
            .collect();
        random = random.wrapping_add(1);
        let text = text.join(if random.is_multiple_of(2) { " " } else { "" });
        match Filter::new(&text, &Machine) {
            Ok(filter) => drop((filter.verdict(&facts()), filter.explained())),
            Err(error) => drop(error.to_string()),
        }
    }
    let long = "*a".repeat(2000);
    let facts = Facts { comm: Some(&"a".repeat(4000)[..]), ..facts() };
    let began = std::time::Instant::now();
    assert_eq!(filter(&format!("comm {long}b")).verdict(&facts), Some(false));
    assert!(began.elapsed().as_secs() < 5);
}

#[test]
fn the_kernel_is_told_what_it_can_decide() {
    for (text, needs) in [
        ("pid 7", Needs::Pids(vec![7])),
        ("port 443 and (pid 9 or pid 7)", Needs::Pids(vec![7, 9])),
        ("pid 7 or port 443", Needs::Nothing),
        ("not pid 7", Needs::Nothing),
        ("user alice and not pid 7", Needs::Uids(vec![1000])),
        ("(pid 1 and sni a) or (pid 2 and sni b)", Needs::Pids(vec![1, 2])),
    ] {
        assert_eq!(filter(text).needs(), needs, "{text}");
    }
    let told = filter("pid 7 and (port 443 or sni a)").explained();
    assert!(told.contains("pid 7") && told.contains("kernel") && told.contains("any of"), "{told}");
}
