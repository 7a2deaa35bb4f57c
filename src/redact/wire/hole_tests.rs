//! Behind holes: masked until a segment is certainly made of messages.

use super::tests::{
    ber, command, dns_answer, ldap_message, mysql_packet, packet, postgres_message, sized, startup,
};
use crate::redact::tests::{SECRET, lossy};
use crate::redact::{Conversation, Engine, Key, RulesBuilder, Side};

const A: Side = Side::A;
const B: Side = Side::B;

enum Step<'a> {
    Says(Side, Vec<u8>),
    /// Bytes are missing.
    Hole(Side),
    /// What is said next is masked, but for white space.
    Masked(Side, Vec<u8>),
    /// What is said next shows this.
    Shows(Side, Vec<u8>, &'a [u8]),
}
use Step::{Hole, Masked, Says, Shows};

fn judge(steps: &[Step<'_>]) {
    let mut engine = Engine::new(RulesBuilder::default().build(Key([4; 16])).unwrap());
    let mut conversation = Conversation::new(true);
    let mut found = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let mut out = Vec::new();
        match step {
            Hole(side) => conversation.hole(&mut engine, *side, Some(100), &mut out, &mut found),
            Says(side, bytes) | Masked(side, bytes) | Shows(side, bytes, _) => {
                conversation.push(&mut engine, *side, bytes, &mut out, &mut found);
                assert_eq!(out.len(), bytes.len(), "{i}: {} becomes {}", lossy(bytes), lossy(&out));
            }
        }
        match step {
            Masked(..) => assert!(out.iter().all(|b| b"xX1. \r\n".contains(b)), "{i}: {}", lossy(&out)),
            Shows(_, _, what) => {
                assert!(memchr::memmem::find(&out, what).is_some(), "{i}: {}", lossy(&out));
            }
            _ => {}
        }
        assert!(!lossy(&out).contains(&SECRET[..9]), "{i}: {}", lossy(&out));
    }
}

#[test]
fn redis_goes_on_behind_a_hole() {
    judge(&[
        Says(A, command(&["SET", "a", "b"])),
        Says(B, b"+OK\r\n".to_vec()),
        Hole(A),
        Masked(A, format!("{SECRET}\r\n$3\r\nabc\r\n").into_bytes()),
        Masked(A, command(&["HELLOWORLD", SECRET])),
        Masked(A, command(&["GET", "key"])[..15].to_vec()),
        Shows(
            A,
            command(&["HSET", "user:7", "password", SECRET]),
            b"HSET\r\n$6\r\nuser:7\r\n$8\r\npassword\r\n",
        ),
        Hole(B),
        Masked(B, format!("+{SECRET}\r\n+more text\r\n").into_bytes()),
        Shows(B, b"*2\r\n$-1\r\n:12\r\n".to_vec(), b"*2\r\n$-1\r\n:12\r\n"),
        Shows(B, b"-ERR no such key\r\n".to_vec(), b"-ERR no such key\r\n"),
    ]);
}

#[test]
fn databases_go_on_behind_a_hole() {
    let ready = postgres_message(b'Z', &[b"I"]);
    let row = postgres_message(b'D', &[&[0, 1, 0, 0, 0, SECRET.len() as u8], SECRET.as_bytes()]);
    let answer = [row.clone(), postgres_message(b'C', &[b"SELECT 1\0"]), ready.clone()].concat();
    let query =
        postgres_message(b'Q', &[b"SELECT name FROM users WHERE token = '", SECRET.as_bytes(), b"'\0"]);
    judge(&[
        Says(A, startup(&[&[0, 3, 0, 0], b"user\0bert\0\0"])),
        Says(B, [postgres_message(b'R', &[&[0, 0, 0, 0]]), ready].concat()),
        Hole(A),
        Masked(A, query[9..].to_vec()),
        // A password may be anything.
        Masked(A, postgres_message(b'p', &[SECRET.as_bytes(), b"\0"])),
        Shows(A, query, b"SELECT name FROM users WHERE token = '"),
        Hole(B),
        Masked(B, row[3..].to_vec()),
        Shows(B, answer, b"SELECT 1\0"),
    ]);
    let capabilities = 0x00a8_820du32.to_le_bytes();
    let login = [&capabilities[..], &[0, 0, 0, 1, 33], &[0; 23], b"bert\0\x03abcshop\0p\0"].concat();
    let fine = mysql_packet(1, &[&[0, 0, 0, 2, 0, 0, 0]]);
    let query = mysql_packet(0, &[b"\x03SELECT '", SECRET.as_bytes(), b"' FROM users"]);
    judge(&[
        Says(A, mysql_packet(1, &[&login])),
        Says(B, mysql_packet(2, &[&[0, 0, 0, 2, 0, 0, 0]])),
        Hole(A),
        Masked(A, mysql_packet(3, &[SECRET.as_bytes()])),
        Masked(A, query[6..].to_vec()),
        Shows(A, query, b"' FROM users"),
        Hole(B),
        Masked(B, mysql_packet(7, &[SECRET.as_bytes()])),
        Shows(B, fine, &[7, 0, 0, 1, 0, 0, 0, 2]),
    ]);
}

#[test]
fn directories_and_messages_go_on_behind_a_hole() {
    let bind = ber(0x60, &[&ber(2, &[&[3]]), &ber(4, &[b"cn=a"]), &ber(0x80, &[SECRET.as_bytes()])]);
    let delete =
        ldap_message(7, &ber(0x6c, &[&ber(4, &[b"cn=bert,dc=a"]), &ber(4, &[b"cn=c"]), &ber(1, &[&[1]])]));
    let result =
        |text: &[u8]| ldap_message(7, &ber(0x6d, &[&ber(10, &[&[0]]), &ber(4, &[]), &ber(4, &[text])]));
    judge(&[
        Says(A, ldap_message(1, &bind)),
        Says(B, ldap_message(1, &ber(0x61, &[&ber(10, &[&[0]]), &ber(4, &[]), &ber(4, &[])]))),
        Hole(A),
        Masked(A, ldap_message(2, &bind)[4..].to_vec()),
        Shows(A, delete, b"cn=bert,dc=a"),
        Hole(B),
        Masked(B, result(b"well done")[5..].to_vec()),
        Shows(B, result(b"well done"), b"well done"),
    ]);
    judge(&[
        Says(A, dns_answer(0)),
        Hole(B),
        Masked(B, dns_answer(0x80)[1..].to_vec()),
        Shows(B, dns_answer(0x80), b"\x04shop\x07example\0"),
    ]);
    let connect = packet(
        0x10,
        &[b"\0\x04MQTT", &[4, 0xc2, 0, 60], &sized(b"c"), &sized(b"u"), &sized(SECRET.as_bytes())],
    );
    let publish = packet(0x30, &[&sized(b"rooms/7/light"), SECRET.as_bytes()]);
    judge(&[
        Says(A, connect.clone()),
        Hole(A),
        Masked(A, publish[3..].to_vec()),
        Masked(A, packet(0x36, &[&sized(b"rooms/7/light"), SECRET.as_bytes()])),
        Masked(A, connect),
        Shows(A, publish, b"rooms/7/light"),
    ]);
    let frame = |kind: u8, body: &[u8]| {
        [&[kind, 0, 1][..], &(body.len() as u32).to_be_bytes(), body, &[0xce]].concat()
    };
    let publish = frame(1, &[&[0, 60, 0, 40, 0, 0, 8][..], b"exchange", &[3], b"key", &[0]].concat());
    judge(&[
        Says(A, b"AMQP\0\0\x09\x01".to_vec()),
        Hole(A),
        Masked(A, frame(3, SECRET.as_bytes())),
        Masked(A, publish[9..].to_vec()),
        Shows(A, publish, b"\x08exchange\x03key"),
    ]);
}

#[test]
fn mail_and_files_go_on_behind_a_hole() {
    let line = |text: &str| format!("{text}\r\n").into_bytes();
    judge(&[
        Says(B, line("220 mail.example ESMTP")),
        Says(A, line("EHLO a.example")),
        Hole(A),
        Masked(A, line(SECRET)),
        Masked(A, line(&format!("Help with the password {SECRET}"))),
        Masked(A, line(&format!("MAIL FROM:<a@b.example>\r\n{SECRET}"))),
        Shows(A, line("RCPT TO:<a@b.example>"), b"RCPT TO:<"),
        Shows(A, line("DATA"), b"DATA"),
        Says(B, line("354 go on")),
        Hole(A),
        // Whether the letter has ended is not known before the server says so.
        Masked(A, line("QUIT")),
        Says(B, line("250 queued")),
        Shows(A, line("QUIT"), b"QUIT"),
        Hole(B),
        Masked(B, line(&format!("the rest of a line {SECRET}"))),
        Shows(B, line("221-bye\r\n221 and thanks"), b"221-bye\r\n221 and thanks"),
    ]);
    judge(&[
        Says(B, line("* OK ready")),
        Says(A, line("a1 SELECT INBOX")),
        Hole(A),
        Masked(A, line(&format!("a list of {SECRET}"))),
        Shows(A, line("a3 FETCH 1:4 FLAGS"), b"a3 FETCH 1:4 FLAGS"),
        Hole(B),
        Masked(B, line("The list of passwords")),
        Shows(B, line("* 3 EXISTS\r\na3 OK done"), b"* 3 EXISTS\r\na3 OK done"),
    ]);
    judge(&[
        Says(B, line("+OK ready")),
        Hole(A),
        Masked(A, line(&format!("PASS {SECRET}"))),
        Shows(A, line("RETR 2"), b"RETR 2"),
        Hole(B),
        Masked(B, line(&format!("Subject: {SECRET}"))),
        Shows(B, line("-ERR no such message"), b"-ERR no such message"),
    ]);
}
