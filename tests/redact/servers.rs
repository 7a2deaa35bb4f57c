//! Protocols of databases, messages and directories, as tshark takes them apart: the same trees, and no password.

use super::files::{Capture, End, Link, Talk};
use super::{Place, SECRET, judge, text, tls2pcap};

pub type Talks = Vec<(&'static str, u16, Vec<(End, Vec<u8>)>)>;

fn sized(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| out += &format!("${}\r\n{word}\r\n", word.len()));
    out.into_bytes()
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [vec![first, body.len() as u8], body].concat()
}

fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    assert!(body.len() < 256);
    match body.len() {
        len @ 0..128 => [vec![tag, len as u8], body].concat(),
        len => [vec![tag, 0x81, len as u8], body].concat(),
    }
}

fn postgres(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
}

fn mysql(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32).to_le_bytes()[..3], &[number], &body].concat()
}

fn amqp(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[kind, 0, 1][..], &(body.len() as u32).to_be_bytes(), &body, &[0xce]].concat()
}

/// A connection of each, with its port. What is secret has 29 bytes.
pub fn talks(secret: &str) -> Talks {
    use End::{Client as A, Server as B};
    let s = secret.as_bytes();
    let redis = vec![
        (A, command(&["HELLO", "3", "AUTH", "bert", secret])),
        (B, b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_vec()),
        (A, command(&["CONFIG", "SET", "requirepass", secret])),
        (B, b"+OK\r\n".to_vec()),
        (A, command(&["SET", "user:7", secret, "EX", "60"])),
        (B, format!("${}\r\n{secret}\r\n", secret.len()).into_bytes()),
    ];
    let mut all: Talks = vec![("redis", 6379, redis)];
    for level in [4u8, 5] {
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        let own = [&[0x26][..], &sized(b"token"), &sized(s)].concat();
        let own = if level == 5 { [vec![own.len() as u8], own].concat() } else { vec![] };
        let mqtt = vec![
            (
                A,
                packet(
                    0x10,
                    &[b"\0\x04MQTT", &[level, 0xc2, 0, 60], &own, &sized(b"c7"), &sized(b"bert"), &sized(s)],
                ),
            ),
            (B, packet(0x20, &[&[0, 0], properties])),
            (A, packet(0x82, &[&[0, 1], properties, &sized(b"a/+/b"), &[1]])),
            (B, packet(0x90, &[&[0, 1], properties, &[1]])),
            (A, packet(0x32, &[&sized(b"a/7/b"), &[0, 2], properties, s])),
            (B, packet(0x40, &[&[0, 2]])),
            (A, packet(0xe0, &[])),
        ];
        all.push(("mqtt", 1883, mqtt));
    }
    let entry = |number: u8, operation: &[u8]| ber(0x30, &[&ber(2, &[&[number]]), operation]);
    let attribute =
        |name: &[u8], value: &[u8]| ber(0x30, &[&ber(4, &[name]), &ber(0x31, &[&ber(4, &[value])])]);
    let filter =
        ber(0xa0, &[&ber(0xa3, &[&ber(4, &[b"uid"]), &ber(4, &[s])]), &ber(0x87, &[b"objectClass"])]);
    let search = [
        &ber(4, &[b"dc=corp"])[..],
        &ber(10, &[&[2]]),
        &ber(10, &[&[0]]),
        &ber(2, &[&[0]]),
        &ber(2, &[&[0]]),
        &ber(1, &[&[0]]),
        &filter,
        &ber(0x30, &[&ber(4, &[b"cn"])]),
    ]
    .concat();
    let found = ber(
        0x64,
        &[
            &ber(4, &[b"uid=bert,dc=corp"]),
            &ber(0x30, &[&attribute(b"cn", b"Bert"), &attribute(b"userPassword", s)]),
        ],
    );
    let changed = [
        &ber(0x80, &[b"1.3.6.1.4.1.4203.1.11.1"])[..],
        &ber(0x81, &[&ber(0x30, &[&ber(0x81, &[s]), &ber(0x82, &[s])])]),
    ]
    .concat();
    let ldap = vec![
        (A, entry(1, &ber(0x60, &[&ber(2, &[&[3]]), &ber(4, &[b"cn=admin,dc=corp"]), &ber(0x80, &[s])]))),
        (B, entry(1, &ber(0x61, &[&ber(10, &[&[0]]), &ber(4, &[]), &ber(4, &[])]))),
        (A, entry(2, &ber(0x63, &[&search]))),
        (B, entry(2, &found)),
        (B, entry(2, &ber(0x65, &[&ber(10, &[&[0]]), &ber(4, &[]), &ber(4, &[])]))),
        (A, entry(3, &ber(0x77, &[&changed]))),
        (A, entry(4, &ber(0x42, &[]))),
    ];
    all.push(("ldap", 389, ldap));
    let start = b"\0\x03\0\0user\0bert\0database\0shop\0\0";
    let sql = vec![
        (A, [&(start.len() as u32 + 4).to_be_bytes()[..], start].concat()),
        (B, postgres(b'R', &[&[0, 0, 0, 10], b"SCRAM-SHA-256\0\0"])),
        (A, postgres(b'p', &[b"SCRAM-SHA-256\0", &long(&[b"n,,n=,r=", s].concat())])),
        (B, postgres(b'R', &[&[0, 0, 0, 11], b"r=", s, b",s=", s, b",i=4096"])),
        (A, postgres(b'p', &[b"c=biws,r=", s, b",p=", s])),
        (
            B,
            [postgres(b'R', &[&[0; 4]]), postgres(b'K', &[&[0, 0, 1, 2], &s[..4]]), postgres(b'Z', &[b"I"])]
                .concat(),
        ),
        (A, postgres(b'Q', &[format!("ALTER USER bert PASSWORD '{secret}'\0").as_bytes()])),
        (B, postgres(b'T', &[&[0, 1], b"name\0", &[0; 18]])),
        (B, postgres(b'D', &[&[0, 2], &long(s), &[255; 4]])),
        (B, [postgres(b'C', &[b"SELECT 1\0"]), postgres(b'Z', &[b"I"])].concat()),
        (A, postgres(b'P', &[b"s1\0", format!("SELECT '{secret}' WHERE a = $1\0").as_bytes(), &[0, 0]])),
        (A, postgres(b'B', &[b"\0s1\0", &[0, 1, 0, 0, 0, 1], &long(s), &[0, 0]])),
        (A, [postgres(b'E', &[b"\0", &[0; 4]]), postgres(b'S', &[])].concat()),
        (B, postgres(b'E', &[b"SERROR\0C23505\0Mduplicate\0DKey (a)=(", s, b")\0\0"])),
        (A, postgres(b'X', &[])),
    ];
    all.push(("postgres", 5432, sql));
    let column = [
        &short(b"def")[..],
        &short(b"shop"),
        &short(b"users"),
        &short(b"users"),
        &short(b"name"),
        &short(b"name"),
        &[12, 33, 0, 0, 1, 0, 0, 253, 0, 0, 0, 0, 0],
    ]
    .concat();
    let sql = vec![
        (
            B,
            mysql(
                0,
                &[
                    b"\x0a8.4.3\0",
                    &[1, 0, 0, 0],
                    &s[..8],
                    &[0],
                    &[0x0d, 0x82, 33, 2, 0, 0xa8, 0, 21],
                    &[0; 10],
                    &s[8..20],
                    b"\0caching_sha2_password\0",
                ],
            ),
        ),
        (
            A,
            mysql(
                1,
                &[
                    &0x00a8_820du32.to_le_bytes(),
                    &[0, 0, 0, 1, 33],
                    &[0; 23],
                    b"bert\0",
                    &short(s),
                    b"shop\0caching_sha2_password\0",
                ],
            ),
        ),
        (B, mysql(2, &[b"\xfemysql_native_password\0", &s[..20], &[0]])),
        (A, mysql(3, &[&s[..20]])),
        (B, mysql(4, &[&[0, 0, 0, 2, 0, 0, 0]])),
        (A, mysql(0, &[b"\x03SELECT '", s, b"'"])),
        (
            B,
            [
                mysql(1, &[&[1]]),
                mysql(2, &[&column]),
                mysql(3, &[&[0xfe, 0, 0, 2, 0]]),
                mysql(4, &[&short(s)]),
                mysql(5, &[&[0xfe, 0, 0, 2, 0]]),
            ]
            .concat(),
        ),
        (A, mysql(0, &[&[1]])),
    ];
    all.push(("mysql", 3306, sql));
    let sip = vec![
        (A, format!("REGISTER sip:a.example SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.5:5060;branch=z9hG4bK1\r\nFrom: <sip:bert@a.example>;tag=1\r\nTo: <sip:bert@a.example>\r\nCall-ID: 1@h\r\nCSeq: 1 REGISTER\r\nAuthorization: Digest username=\"bert\", realm=\"r\", nonce=\"{secret}\", uri=\"sip:a.example\", response=\"{secret}\", algorithm=MD5\r\nContent-Length: 0\r\n\r\n").into_bytes()),
        (B, format!("SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/TCP 10.0.0.5:5060;branch=z9hG4bK1\r\nFrom: <sip:bert@a.example>;tag=1\r\nTo: <sip:bert@a.example>;tag=2\r\nCall-ID: 1@h\r\nCSeq: 1 REGISTER\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"{secret}\"\r\nContent-Length: 0\r\n\r\n").into_bytes()),
    ];
    all.push(("sip", 5060, sip));
    let table =
        long(&[&short(b"product")[..], b"S", &long(b"rabbit"), &short(b"secret_x"), b"S", &long(s)].concat());
    let queue = vec![
        (A, b"AMQP\0\0\x09\x01".to_vec()),
        (B, amqp(1, &[&[0, 10, 0, 10, 0, 9], &table, &long(b"PLAIN"), &long(b"en_US")])),
        (
            A,
            amqp(
                1,
                &[
                    &[0, 10, 0, 11],
                    &table,
                    &short(b"PLAIN"),
                    &long(&[b"\0bert\0", s].concat()),
                    &short(b"en_US"),
                ],
            ),
        ),
        (B, amqp(1, &[&[0, 10, 0, 30, 0, 0, 0, 0, 0, 0, 0, 60]])),
        (A, amqp(1, &[&[0, 10, 0, 31, 0, 0, 0, 0, 0, 0, 0, 60]])),
        (
            A,
            [
                amqp(1, &[&[0, 60, 0, 40, 0, 0], &short(b"exchange"), &short(b"key"), &[0]]),
                amqp(
                    2,
                    &[
                        &[0, 60, 0, 0],
                        &(s.len() as u64).to_be_bytes(),
                        &[0xa0, 0],
                        &short(b"text/plain"),
                        &table,
                    ],
                ),
                amqp(3, &[s]),
            ]
            .concat(),
        ),
    ];
    all.push(("amqp", 5672, queue));
    all
}

#[test]
fn logins_and_data_are_replaced_and_the_trees_are_the_same() {
    let place = Place::new();
    for (name, port, turns) in talks(SECRET) {
        let mut capture = Capture::new(Link::Ethernet);
        for (i, at_most) in [1460, 11, 3].into_iter().enumerate() {
            let mut talk = Talk::open_at(&mut capture, 3000 + i as u16, port);
            turns.iter().for_each(|(end, bytes)| talk.say(*end, bytes, at_most));
            talk.close();
        }
        let input = place.write("in.pcapng", &capture.pcapng(false));
        let check = tls2pcap(&["redact", "--check", text(&input)], &[]);
        let said = String::from_utf8(check.stdout).unwrap();
        let is_known = !said.contains("not understood") && !said.contains("behind a hole");
        assert!(check.status.code() == Some(7) && is_known, "{name}: {said}");
        println!("{name}");
        judge(&input, &place.redact(&input, &[]));
        place.redact(&input, &["--addresses", "pseudonyms", "--names", "pseudonyms"]);
        place.redact(&input, &["--level", "shape"]);
    }
}
