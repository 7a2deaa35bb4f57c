//! Logins and what follows them, in each protocol.

use crate::redact::tests::{SECRET, lossy, redacted};
use crate::redact::{Conversation, Engine, Key, Kind, RulesBuilder, Side};

const A: Side = Side::A;
const B: Side = Side::B;

/// A talk; gives what is left of it, as text. The secret must be gone, and what is kept be there.
fn judged(talk: &[(Side, Vec<u8>)], kept: &[&[u8]]) -> Vec<Vec<u8>> {
    let all: Vec<(Side, &[u8])> = talk.iter().map(|(side, bytes)| (*side, &bytes[..])).collect();
    let (outs, found) = redacted(&all);
    for out in &outs {
        for at in 0..SECRET.len() - 9 {
            assert!(memchr::memmem::find(out, &SECRET.as_bytes()[at..at + 9]).is_none(), "{}", lossy(out));
        }
    }
    let both = outs.concat();
    for kept in kept {
        assert!(memchr::memmem::find(&both, kept).is_some(), "{} is missing: {}", lossy(kept), lossy(&both));
    }
    assert!(!found.contains(&Kind::Protocol) && !found.contains(&Kind::Lost), "{found:?}: {}", lossy(&both));
    beside_holes(talk);
    outs
}

/// Wherever bytes are missing, no secret is shown.
fn beside_holes(talk: &[(Side, Vec<u8>)]) {
    for (i, (_, bytes)) in talk.iter().enumerate() {
        for start in (0..bytes.len()).step_by(1 + bytes.len() / 40) {
            for len in [1, 7] {
                let end = (start + len).min(bytes.len());
                let mut engine = Engine::new(RulesBuilder::default().build(Key([4; 16])).unwrap());
                let mut conversation = Conversation::new(true);
                let mut outs = [Vec::new(), Vec::new()];
                let mut found = Vec::new();
                for (j, (side, bytes)) in talk.iter().enumerate() {
                    let out = &mut outs[*side as usize];
                    if i != j {
                        conversation.push(&mut engine, *side, bytes, out, &mut found);
                        continue;
                    }
                    conversation.push(&mut engine, *side, &bytes[..start], out, &mut found);
                    conversation.hole(&mut engine, *side, Some((end - start) as u64), out, &mut found);
                    conversation.push(&mut engine, *side, &bytes[end..], out, &mut found);
                }
                for side in [A, B] {
                    conversation.end(&mut engine, side, &mut outs[side as usize], &mut found);
                }
                let all: usize = talk.iter().map(|(_, bytes)| bytes.len()).sum();
                assert_eq!(outs[0].len() + outs[1].len(), all - (end - start));
                for out in outs {
                    for at in 0..SECRET.len() - 9 {
                        let part = &SECRET.as_bytes()[at..at + 9];
                        assert!(
                            memchr::memmem::find(&out, part).is_none(),
                            "{i} {start} {len}: {}",
                            lossy(&out)
                        );
                    }
                }
            }
        }
    }
}

pub(super) fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| out += &format!("${}\r\n{word}\r\n", word.len()));
    out.into_bytes()
}

#[test]
fn redis() {
    let numbers = [(A, command(&["SET", "n", "593860"])), (A, command(&["SET", "otp", "593860"]))];
    assert!(!lossy(&judged(&numbers, &[b"otp"])[0]).contains("593860"));
    let rules = format!(">{SECRET}");
    let json = format!("{{\"a\":1,\"token\":\"{SECRET}\"}}");
    let talk = [
        (A, command(&["AUTH", SECRET])),
        (B, b"+OK\r\n".to_vec()),
        (
            A,
            [
                command(&["AUTH", "bert", SECRET]),
                command(&["HELLO", "3", "AUTH", "bert", SECRET, "SETNAME", "app"]),
            ]
            .concat(),
        ),
        (
            B,
            format!(
                "-WRONGPASS invalid '{SECRET}'\r\n%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
            )
            .into_bytes(),
        ),
        (A, command(&["ACL", "SETUSER", "carl", "on", &rules, "~*", "+@all"])),
        (A, command(&["CONFIG", "SET", "requirepass", SECRET])),
        (A, command(&["CONFIG", "SET", "maxmemory", "100mb"])),
        (A, command(&["MIGRATE", "h", "6379", "k", "0", "100", "AUTH2", "bert", SECRET])),
        (A, command(&["SET", "user:7", SECRET, "EX", "60"])),
        (A, command(&["HSET", "user:7", "password", SECRET])),
        (A, command(&["SET", "doc", &json])),
        (A, command(&["EXPIRE", "user:7", "60"])),
        (A, command(&["SET", "otp", "593860"])),
        (A, command(&["GET", "user:7"])),
        (
            B,
            format!(
                "${}\r\n{SECRET}\r\n*2\r\n$-1\r\n${}\r\n{json}\r\n_\r\n,1.5\r\n#t\r\n",
                SECRET.len(),
                json.len()
            )
            .into_bytes(),
        ),
    ];
    judged(
        &talk,
        &[
            b"$4\r\nAUTH\r\n$4\r\nbert\r\n",
            b"SETNAME\r\n$3\r\napp\r\n",
            b"-WRONGPASS invalid '",
            b"proto\r\n:3\r\n".as_slice().get(7..).unwrap(),
            b"SETUSER\r\n$4\r\ncarl\r\n$2\r\non\r\n$22\r\n>",
            b"\r\n$2\r\n~*\r\n$5\r\n+@all\r\n",
            b"requirepass\r\n",
            b"maxmemory\r\n$5\r\n100mb\r\n",
            b"AUTH2\r\n$4\r\nbert\r\n",
            b"SET\r\n$6\r\nuser:7\r\n",
            b"EXPIRE\r\n$6\r\nuser:7\r\n$2\r\n60\r\n",
            b"\r\n$3\r\notp\r\n$6\r\n",
            b"{\"a\":1,\"token\":\"",
            b"_\r\n,1.5\r\n#t\r\n",
        ],
    );
}

pub(super) fn sized(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text].concat()
}

pub(super) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    assert!(body.len() < 128 * 128);
    let len = match body.len() {
        len @ 0..128 => vec![len as u8],
        len => vec![0x80 | (len & 127) as u8, (len >> 7) as u8],
    };
    [vec![first], len, body].concat()
}

#[test]
fn mqtt() {
    let s = SECRET.as_bytes();
    for level in [4, 5] {
        let properties = |all: &[&[u8]]| match level {
            5 => [vec![all.concat().len() as u8], all.concat()].concat(),
            _ => vec![],
        };
        let own = [&[0x15][..], &sized(b"SCRAM"), &[0x16], &sized(s), &[0x26], &sized(b"token"), &sized(s)]
            .concat();
        let talk = [
            (
                A,
                packet(
                    0x10,
                    &[
                        b"\0\x04MQTT",
                        &[level, 0xc4, 0, 60],
                        &properties(&[&own]),
                        &sized(b"client-7"),
                        &properties(&[]),
                        &sized(b"will/topic"),
                        &sized(s),
                        &sized(b"bert"),
                        &sized(s),
                    ],
                ),
            ),
            (B, packet(0x20, &[&[0, 0], &properties(&[])])),
            (A, packet(0x82, &[&[0, 1], &properties(&[]), &sized(b"a/+/b"), &[1]])),
            (B, packet(0x90, &[&[0, 1], &properties(&[]), &[1]])),
            (A, packet(0x32, &[&sized(b"a/7/b"), &[0, 2], &properties(&[]), s])),
            (B, packet(0x40, &[&[0, 2]])),
            (
                B,
                packet(
                    0x30,
                    &[
                        &sized(b"a/8/b"),
                        &properties(&[]),
                        format!("{{\"t\":20,\"token\":\"{SECRET}\"}}").as_bytes(),
                    ],
                ),
            ),
            (A, packet(0xc0, &[])),
            (A, packet(0xe0, &[])),
        ];
        judged(
            &talk,
            &[
                b"\0\x08client-7",
                b"\0\x04bert\0\x15",
                b"\0\x0awill/topic",
                b"a/+/b",
                b"\0\x05a/7/b\0\x02",
                b"{\"t\":20,\"token\":\"",
            ],
        );
    }
}

pub(super) fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = match body.len() {
        len @ 0..128 => vec![len as u8],
        len => vec![0x82, (len >> 8) as u8, len as u8],
    };
    [vec![tag], len, body].concat()
}

pub(super) fn ldap_message(number: u8, operation: &[u8]) -> Vec<u8> {
    ber(0x30, &[&ber(2, &[&[number]]), operation])
}

#[test]
fn ldap() {
    let s = SECRET.as_bytes();
    let attribute =
        |name: &[u8], value: &[u8]| ber(0x30, &[&ber(4, &[name]), &ber(0x31, &[&ber(4, &[value])])]);
    let filter =
        ber(0xa0, &[&ber(0xa3, &[&ber(4, &[b"uid"]), &ber(4, &[s])]), &ber(0x87, &[b"objectClass"])]);
    let talk = [
        (
            A,
            ldap_message(
                1,
                &ber(0x60, &[&ber(2, &[&[3]]), &ber(4, &[b"cn=admin,dc=corp"]), &ber(0x80, &[s])]),
            ),
        ),
        (B, ldap_message(1, &ber(0x61, &[&ber(10, &[&[0]]), &ber(4, &[]), &ber(4, &[b"fine"])]))),
        (
            A,
            ldap_message(
                2,
                &ber(
                    0x60,
                    &[
                        &ber(2, &[&[3]]),
                        &ber(4, &[]),
                        &ber(0xa3, &[&ber(4, &[b"PLAIN"]), &ber(4, &[b"\0bert\0", s])]),
                    ],
                ),
            ),
        ),
        (B, ldap_message(2, &ber(0x61, &[&ber(10, &[&[14]]), &ber(4, &[]), &ber(4, &[]), &ber(0x87, &[s])]))),
        (
            A,
            ldap_message(
                3,
                &ber(
                    0x63,
                    &[
                        &ber(4, &[b"dc=corp"]),
                        &ber(10, &[&[2]]),
                        &ber(10, &[&[0]]),
                        &ber(2, &[&[0]]),
                        &ber(2, &[&[0]]),
                        &ber(1, &[&[0]]),
                        &filter,
                        &ber(0x30, &[&ber(4, &[b"cn"])]),
                    ],
                ),
            ),
        ),
        (
            B,
            [
                ldap_message(
                    3,
                    &ber(
                        0x64,
                        &[
                            &ber(4, &[b"uid=bert,dc=corp"]),
                            &ber(0x30, &[&attribute(b"cn", b"Bert"), &attribute(b"userPassword", s)]),
                        ],
                    ),
                ),
                ldap_message(3, &ber(0x65, &[&ber(10, &[&[0]]), &ber(4, &[]), &ber(4, &[])])),
            ]
            .concat(),
        ),
        (
            A,
            ldap_message(
                4,
                &ber(
                    0x66,
                    &[
                        &ber(4, &[b"uid=bert"]),
                        &ber(0x30, &[&ber(0x30, &[&ber(10, &[&[2]]), &attribute(b"userPassword", s)])]),
                    ],
                ),
            ),
        ),
        (
            A,
            ldap_message(
                5,
                &ber(
                    0x77,
                    &[
                        &ber(0x80, &[b"1.3.6.1.4.1.4203.1.11.1"]),
                        &ber(0x81, &[&ber(0x30, &[&ber(0x81, &[s]), &ber(0x82, &[s])])]),
                    ],
                ),
            ),
        ),
        (A, ldap_message(6, &ber(0x42, &[]))),
    ];
    judged(
        &talk,
        &[
            b"cn=admin,dc=corp",
            b"fine",
            b"PLAIN",
            b"\x04\x03uid",
            b"objectClass",
            b"uid=bert,dc=corp",
            b"userPassword",
            b"1.3.6.1.4.1.4203.1.11.1",
        ],
    );
}

pub(super) fn postgres_message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
}

pub(super) fn startup(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

#[test]
fn postgres() {
    let s = SECRET.as_bytes();
    let value = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
    let talk = [
        (A, startup(&[&80_877_103u32.to_be_bytes()])),
        (B, b"N".to_vec()),
        (A, startup(&[&[0, 3, 0, 0], b"user\0bert\0database\0shop\0application_name\0psql\0\0"])),
        (B, postgres_message(b'R', &[&[0, 0, 0, 5], b"salt"])),
        (A, postgres_message(b'p', &[s, b"\0"])),
        (B, postgres_message(b'R', &[&[0, 0, 0, 10], b"SCRAM-SHA-256\0\0"])),
        (A, postgres_message(b'p', &[b"SCRAM-SHA-256\0", &value(&[b"n,,n=,r=", s].concat())])),
        (B, postgres_message(b'R', &[&[0, 0, 0, 11], b"r=", s, b",s=", s, b",i=4096"])),
        (A, postgres_message(b'p', &[b"c=biws,r=", s, b",p=", s])),
        (
            B,
            [
                postgres_message(b'R', &[&[0; 4]]),
                postgres_message(b'S', &[b"server_version\x0017.2\0"]),
                postgres_message(b'K', &[&[0, 0, 1, 2], &s[..4]]),
                postgres_message(b'Z', &[b"I"]),
            ]
            .concat(),
        ),
        (
            A,
            postgres_message(
                b'Q',
                &[format!("ALTER USER bert PASSWORD '{SECRET}'; SELECT $${SECRET}$$, 1\0").as_bytes()],
            ),
        ),
        (B, postgres_message(b'T', &[&[0, 1], b"name\0", &[0; 18]])),
        (B, postgres_message(b'D', &[&[0, 2], &value(s), &[255; 4]])),
        (B, [postgres_message(b'C', &[b"SELECT 1\0"]), postgres_message(b'Z', &[b"I"])].concat()),
        (
            A,
            postgres_message(
                b'P',
                &[b"s1\0", format!("SELECT '{SECRET}' WHERE a = $1\0").as_bytes(), &[0, 0]],
            ),
        ),
        (A, postgres_message(b'B', &[b"\0s1\0", &[0, 1, 0, 0, 0, 1], &value(s), &[0, 0]])),
        (A, [postgres_message(b'E', &[b"\0", &[0; 4]]), postgres_message(b'S', &[])].concat()),
        (
            B,
            postgres_message(
                b'E',
                &[b"SERROR\0C23505\0Mduplicate key \"", s, b"\"\0DKey (a)=(", s, b")\0Fx.c\0\0"],
            ),
        ),
        (A, postgres_message(b'X', &[])),
    ];
    judged(
        &talk,
        &[
            b"user\0bert\0database\0shop\0",
            b"SCRAM-SHA-256\0",
            b"server_version\x0017.2\0",
            b"ALTER USER bert PASSWORD '",
            b"SELECT $$",
            b"name\0",
            b"SELECT 1\0",
            b"s1\0SELECT '",
            b" WHERE a = $1\0",
            b"SERROR\0C23505\0Mduplicate key \"",
        ],
    );
}

pub(super) fn mysql_packet(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32).to_le_bytes()[..3], &[number], &body].concat()
}

#[test]
fn mysql() {
    let s = SECRET.as_bytes();
    let counted = |text: &[u8]| [&[text.len() as u8], text].concat();
    let column = [
        counted(b"def"),
        counted(b"shop"),
        counted(b"users"),
        counted(b"users"),
        counted(b"name"),
        counted(b"name"),
        vec![12, 33, 0, 0, 1, 0, 0, 253, 0, 0, 0, 0, 0],
    ]
    .concat();
    let capabilities = 0x00a8_820du32.to_le_bytes();
    let greeting = mysql_packet(
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
    );
    let login = |number| {
        mysql_packet(
            number,
            &[
                &capabilities,
                &[0, 0, 0, 1, 33],
                &[0; 23],
                b"bert\0",
                &counted(s),
                b"shop\0caching_sha2_password\0",
            ],
        )
    };
    let then = [
        (B, mysql_packet(2, &[b"\xfemysql_native_password\0", &s[..20], &[0]])),
        (A, mysql_packet(3, &[s])),
        (B, mysql_packet(4, &[&[0, 0, 0, 2, 0, 0, 0]])),
        (A, mysql_packet(0, &[b"\x03ALTER USER bert IDENTIFIED BY '", s, b"'; SELECT \"", s, b"\", 1"])),
        (
            B,
            [
                mysql_packet(1, &[&[1]]),
                mysql_packet(2, &[&column]),
                mysql_packet(3, &[&[0xfe, 0, 0, 2, 0]]),
                mysql_packet(4, &[&counted(s)]),
                mysql_packet(5, &[&[0xfe, 0, 0, 2, 0]]),
            ]
            .concat(),
        ),
        (A, mysql_packet(0, &[b"\x17", &[1, 0, 0, 0, 0, 1, 0, 0, 0], s])),
        (B, mysql_packet(1, &[b"\xff\x28\x04#42000near '", s, b"' at"])),
        (A, mysql_packet(0, &[&[1]])),
    ];
    let kept: &[&[u8]] = &[
        b"bert\0",
        b"shop\0caching_sha2_password\0",
        b"mysql_native_password\0",
        b"ALTER USER bert IDENTIFIED BY '",
        b"'; SELECT \"",
        b"\x03def\x04shop\x05users",
        b"#42000near '",
    ];
    judged(&[&[(B, greeting), (A, login(1))][..], &then].concat(), &[&[&b"8.4.3\0"[..]][..], kept].concat());
    // What was said before TLS is not in the capture.
    judged(&[&[(A, login(2))][..], &then].concat(), kept);
}

#[test]
fn sip() {
    let digest = format!(
        "Digest username=\"bert\", realm=\"r\", nonce=\"{SECRET}\", uri=\"sip:a.example\", response=\"{SECRET}\", algorithm=MD5"
    );
    let message = format!(
        "MESSAGE sip:carl@a.example SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:5061\r\nl: {}\r\nc: text/plain\r\n\r\npassword: {SECRET}",
        SECRET.len() + 10
    );
    let talk = [
        (A, b"REGISTER sip:a.example SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:5061\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n".to_vec()),
        (B, format!("SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"{SECRET}\"\r\nContent-Length: 0\r\n\r\n").into_bytes()),
        (A, format!("REGISTER sip:a.example SIP/2.0\r\nAuthorization: {digest}\r\nl: 0\r\n\r\n{message}").into_bytes()),
        (B, b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\nOPTIONS sip:b SIP/2.0\r\n\r\n".to_vec()),
        (A, b"\r\n\r\nSIP/2.0 200 OK\r\n\r\n".to_vec()),
    ];
    judged(
        &talk,
        &[
            b"REGISTER sip:a.example SIP/2.0\r\n",
            b"SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"",
            b"realm=\"r\", nonce=\"",
            b"\r\npassword: ".as_slice().get(2..).unwrap(),
            b"OPTIONS sip:b SIP/2.0\r\n",
        ],
    );
}

#[test]
fn amqp() {
    let s = SECRET.as_bytes();
    let frame = |kind: u8, parts: &[&[u8]]| {
        let body = parts.concat();
        [&[kind, 0, 1][..], &(body.len() as u32).to_be_bytes(), &body, &[0xce]].concat()
    };
    let long = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
    let short = |text: &[u8]| [&[text.len() as u8], text].concat();
    let table =
        long(&[&short(b"product")[..], b"S", &long(b"rabbit"), &short(b"secret_x"), b"S", &long(s)].concat());
    let talk = [
        (A, b"AMQP\0\0\x09\x01".to_vec()),
        (B, frame(1, &[&[0, 10, 0, 10, 0, 9], &table, &long(b"PLAIN"), &long(b"en_US")])),
        (
            A,
            frame(
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
        (B, frame(1, &[&[0, 10, 0, 30, 0, 0, 0, 0, 0, 0, 0, 60]])),
        (A, frame(1, &[&[0, 10, 0, 70], &long(s), &short(b"reason")])),
        (
            A,
            [
                frame(1, &[&[0, 60, 0, 40, 0, 0], &short(b"exchange"), &short(b"key"), &[0]]),
                frame(
                    2,
                    &[
                        &[0, 60, 0, 0],
                        &(s.len() as u64).to_be_bytes(),
                        &[0xa0, 0],
                        &short(b"text/plain"),
                        &table,
                    ],
                ),
                frame(3, &[s]),
                frame(8, &[]),
            ]
            .concat(),
        ),
    ];
    judged(&talk, &[b"product", b"rabbit", b"secret_x", b"\0bert\0", b"exchange", b"text/plain"]);
    // 1.0: layers of SASL and then the protocol itself.
    let one = |kind: u8, parts: &[&[u8]]| {
        let body = parts.concat();
        [&(body.len() as u32 + 8).to_be_bytes()[..], &[2, kind, 0, 0], &body].concat()
    };
    let init =
        [&[0xc0, s.len() as u8 + 16, 2, 0xa3, 5][..], b"PLAIN", &[0xa0, s.len() as u8 + 6], b"\0bert\0", s]
            .concat();
    let talk = [
        (A, b"AMQP\x03\x01\0\0".to_vec()),
        (
            B,
            [b"AMQP\x03\x01\0\0".to_vec(), one(1, &[&[0, 0x53, 0x40, 0xc0, 8, 1, 0xa3, 5], b"PLAIN"])]
                .concat(),
        ),
        (A, one(1, &[&[0, 0x53, 0x41], &init])),
        (B, one(1, &[&[0, 0x53, 0x44, 0xc0, 3, 1, 0x50, 0]])),
        (
            A,
            [
                b"AMQP\0\x01\0\0".to_vec(),
                one(0, &[&[0, 0x53, 0x10, 0xc0, s.len() as u8 + 3, 1, 0xa1, s.len() as u8], s]),
            ]
            .concat(),
        ),
    ];
    judged(&talk, &[b"PLAIN", b"\0\x53\x44\xc0"]);
}

/// A query of a name and a text, or what answers it.
pub(super) fn dns_answer(flags: u8) -> Vec<u8> {
    let answers = u8::from(flags > 0);
    let mut body =
        [&[7, 7, flags | 1, 0, 0, 1, 0, answers, 0, 0, 0, 0][..], b"\x04shop\x07example\0\0\x10\0\x01"]
            .concat();
    if answers > 0 {
        let text = format!("token={SECRET}");
        body.extend(
            [
                &[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 9, 0, text.len() as u8 + 1, text.len() as u8],
                text.as_bytes(),
            ]
            .concat(),
        );
    }
    [&(body.len() as u16).to_be_bytes()[..], &body].concat()
}

#[test]
fn dns() {
    let talk = [(A, dns_answer(0)), (B, dns_answer(0x80)), (A, [dns_answer(0), dns_answer(0)].concat())];
    judged(&talk, &[b"\x04shop\x07example\0", b"token="]);
}

#[test]
fn noise_neither_hangs_nor_changes_its_length() {
    let mut seed = 11u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let begins: [Vec<u8>; 7] = [
        command(&["AUTH", "bert", SECRET]),
        packet(0x10, &[b"\0\x04MQTT", &[5, 0xc2, 0, 60, 0], &sized(b"c"), &sized(b"u"), &sized(b"p")]),
        ldap_message(1, &ber(0x60, &[&ber(2, &[&[3]]), &ber(4, &[b"cn=a"]), &ber(0x80, &[b"pw"])])),
        startup(&[&[0, 3, 0, 0], b"user\0bert\0\0"]),
        mysql_packet(
            1,
            &[&0x00a8_820du32.to_le_bytes(), &[0, 0, 0, 1, 33], &[0; 23], b"bert\0\x03abcshop\0p\0"],
        ),
        dns_answer(0),
        [b"AMQP\0\0\x09\x01".to_vec(), vec![1, 0, 0, 0, 0, 0, 6, 0, 10, 0, 11, 0, 0, 0xce]].concat(),
    ];
    for round in 0..6000 {
        let mut talk = begins[round % begins.len()].clone();
        talk.extend((0..random() % 60).map(|_| random() as u8));
        talk.extend(&begins[round % begins.len()]);
        for _ in 0..random() % 6 {
            let at = random() % talk.len();
            talk[at] = random() as u8;
        }
        let mut engine = Engine::new(RulesBuilder::default().build(Key([4; 16])).unwrap());
        let mut conversation = Conversation::new(true);
        let (mut outs, mut found) = ([Vec::new(), Vec::new()], Vec::new());
        let at_most = 1 + random() % 50;
        for side in [A, B] {
            talk.chunks(at_most).for_each(|part| {
                conversation.push(&mut engine, side, part, &mut outs[side as usize], &mut found)
            });
        }
        for side in [A, B] {
            conversation.end(&mut engine, side, &mut outs[side as usize], &mut found);
            assert_eq!(outs[side as usize].len(), talk.len());
        }
    }
}
