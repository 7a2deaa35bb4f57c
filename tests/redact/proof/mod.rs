//! The proof: secrets of every kind in everything that carries them, and none left in any form.
//!
//! `T2P_PROOF=400 cargo test --release --test redact -- proof --nocapture` plants so many of each kind in each carrier;
//! without it a few are.

mod carry;
pub mod draw;
mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use self::carry::Said;
use self::carry::{Coding, Form};
use self::draw::{Draw, Index};
use self::kinds::{BODIES, HEADS, Spot};
use super::files::{Capture, End, Link, Talk};
use super::{Place, gate, servers, text, tls2pcap, tree, tshark};

/// Secrets of each kind in each carrier, where the environment does not say how many.
const FEW: usize = 2;
/// Connections in one capture.
const AT_ONCE: usize = 500;

fn how_many() -> usize {
    std::env::var("T2P_PROOF").ok().map_or(FEW, |text| text.parse().expect("T2P_PROOF is a number"))
}

/// A connection in the making.
struct Message {
    said: Said,
    /// So much of it the client says before the server answers.
    first: usize,
    /// What is in it may look otherwise afterwards.
    is_other: bool,
    label: String,
}

/// Draws messages of a kind in a carrier until so many secrets are planted.
fn messages(
    draw: &mut Draw,
    label: String,
    kind: fn(&mut Draw) -> Vec<Spot>,
    most: usize,
    mut carry: impl FnMut(&[Spot], bool) -> Option<(Said, bool)>,
    out: &mut Vec<Message>,
) {
    let before = draw.planted.len();
    draw.label.clone_from(&label);
    let mut is_answer = false;
    while draw.planted.len() < before + most {
        let spots = kind(draw);
        let Some((said, is_compressed)) = carry(&spots, is_answer) else { return };
        let first = match memchr::memmem::find(&said[0], b"Sec-WebSocket-Version: 13\r\n\r\n") {
            Some(at) => at + 29,
            None => said[0].len(),
        };
        // What the dissectors of these decode is not readable any more.
        let is_other =
            is_compressed || ["negotiate", "compressed and"].iter().any(|name| label.starts_with(name));
        out.push(Message { said, first, is_other, label: label.clone() });
        is_answer = !is_answer;
    }
}

fn all_messages(draw: &mut Draw, most: usize) -> Vec<Message> {
    let mut all = Vec::new();
    for form in Form::ALL {
        for (name, kind) in HEADS {
            let carry = |spots: &[Spot], is_answer| {
                Some(match form {
                    Form::Lines => (carry::http1(spots, Coding::Plain, is_answer), false),
                    form => (carry::http2(spots, form, Coding::Plain, is_answer), false),
                })
            };
            messages(draw, format!("{name} in {form:?}"), *kind, most, carry, &mut all);
        }
    }
    for coding in Coding::ALL {
        for (name, kind) in BODIES {
            let carry = |spots: &[Spot], is_answer| {
                let is_compressed = coding.is_compressed();
                Some(match (coding, spots) {
                    (Coding::Frames | Coding::GzipFrames, _) => {
                        (carry::http2(spots, Form::Indexed, coding, is_answer), is_compressed)
                    }
                    // Its messages have no type: what is not seen in the text itself is unknown.
                    (Coding::WebSocket, [Spot::Body(media, body)]) => {
                        let is_plain = ["application/json", "text/xml", "text/plain"].contains(media)
                            && body.iter().take(16).all(|b| *b >= b' ');
                        if !is_plain {
                            return None;
                        }
                        (carry::websocket(body), false)
                    }
                    _ => (carry::http1(spots, coding, is_answer), is_compressed),
                })
            };
            messages(draw, format!("{name} in {coding:?}"), *kind, most, carry, &mut all);
        }
    }
    all
}

/// One connection of each kind in each carrier, and of each protocol.
pub fn samples(draw: &mut Draw) -> Vec<Said> {
    let mut all: Vec<Said> = all_messages(draw, 1).into_iter().map(|message| message.said).collect();
    let secret = draw.long(29);
    for (_, _, turns) in servers::talks(&secret) {
        let mut said = [Vec::new(), Vec::new()];
        turns.iter().for_each(|(end, bytes)| said[*end as usize].extend_from_slice(bytes));
        all.push(said);
    }
    all.extend(mail(&secret).map(|(greeting, said)| [said.into_bytes(), greeting.as_bytes().to_vec()]));
    all
}

/// One connection for each message, in segments of a length that changes from one to the next.
fn capture<'a>(messages: impl IntoIterator<Item = &'a Message>, link: Link) -> Capture {
    let mut capture = Capture::new(link);
    for (i, message) in messages.into_iter().enumerate() {
        let whole = message.said[0].len().max(message.said[1].len());
        let at_most = [1460, 700, 97, 31, 13].map(|len| len.max(whole / 60))[i % 5];
        let mut talk = Talk::open(&mut capture, 10_000 + i as u16);
        let (first, rest) = message.said[0].split_at(message.first);
        talk.say(End::Client, first, at_most);
        talk.say(End::Server, &message.said[1], at_most);
        talk.say(End::Client, rest, at_most);
        talk.close();
    }
    capture
}

/// What is wrong, by kind and carrier: the first of each is shown.
#[derive(Default)]
struct Faults(BTreeMap<String, (usize, String)>);

impl Faults {
    fn add(&mut self, label: &str, what: impl FnOnce() -> String) {
        self.0.entry(label.to_owned()).or_insert_with(|| (0, what())).0 += 1;
    }

    fn leaks(&mut self, seen: Vec<(String, String)>, what: &str) {
        for (label, near) in seen {
            self.add(&format!("leak: {label}"), || format!("{what}: {near}"));
        }
    }

    fn judge(self) {
        let all: Vec<String> =
            self.0.iter().map(|(label, (n, what))| format!("{label} ({n}): {what}")).collect();
        assert!(all.is_empty(), "{} faults:\n{}", all.len(), all.join("\n"));
    }
}

fn is_bad(pdml: &str) -> bool {
    pdml.contains("_ws.malformed") || pdml.contains("Bad checksum")
}

/// Redacts, and judges by the bytes and by each tshark. `labels`: of each connection, in order; `keeps_tree`: no body of it may become another one.
fn prove(
    place: &Place,
    name: &str,
    capture: &Capture,
    labels: &[&str],
    (index, keeps_tree): (&Index, bool),
    faults: &mut Faults,
) {
    let bytes = if name.ends_with("ng") { capture.pcapng(false) } else { capture.pcap() };
    let input = place.write(name, &bytes);
    let [once, twice] = ["once", "twice"].map(|other| place.path(&name.replace("in", other)));
    for (from, to) in [(&input, &once), (&once, &twice)] {
        let output = tls2pcap(&["redact", "-q", text(from), "-o", text(to)], &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (first, second) = (std::fs::read(&once).unwrap(), std::fs::read(&twice).unwrap());
    let check = String::from_utf8(tls2pcap(&["redact", "--check", text(&once)], &[]).stdout).unwrap();
    for line in check.lines() {
        let (connection, kind) = line.split_once('\t').unwrap().1.split_once('\t').unwrap();
        let label = connection.parse().ok().and_then(|i: usize| labels.get(i)).unwrap_or(&"-");
        faults.add(&format!("once more: {label}"), || kind.to_owned());
    }
    if first != second && check.is_empty() {
        faults.add("once more: a change that no check finds", String::new);
    }
    faults.leaks(index.seen_in(&first), "the file");
    // The connection of each packet.
    let mut connection = 0;
    let mut connections = Vec::new();
    for packet in &capture.packets {
        connections.push(connection);
        connection += usize::from(packet.is_last);
    }
    for (release, program) in gate::tsharks() {
        let read = |file: &Path| tshark(program, file, &["-T", "pdml"]);
        let (before, after) = (read(&input), read(&once));
        faults.leaks(index.seen_in(after.as_bytes()), &format!("tshark {release}"));
        let count = |pdml: &str| pdml.matches("<packet>").count();
        assert_eq!(count(&before), count(&after));
        for (i, (before, after)) in before.split("<packet>").zip(after.split("<packet>")).enumerate().skip(1)
        {
            let label = || labels[connections[i - 1]];
            if is_bad(after) && !is_bad(before) {
                faults.add(&format!("malformed: {}", label()), || format!("tshark {release}, packet {i}"));
            }
            let (old, new) = (tree(before), tree(after));
            if keeps_tree && let Some(at) = old.iter().zip(&new).position(|(a, b)| a != b) {
                faults.add(&format!("tree: {}", label()), || {
                    let near =
                        |tree: &[String]| tree[at.saturating_sub(3)..tree.len().min(at + 3)].join("; ");
                    format!("tshark {release}, packet {i}: {}\n    was {}", near(&new), near(&old))
                });
            }
        }
    }
}

#[test]
fn no_secret_is_left_in_any_carrier() {
    let mut draw = Draw::new(13);
    let all = all_messages(&mut draw, how_many());
    let index = Index::new(&draw.planted);
    let place = Place::new();
    let mut faults = Faults::default();
    let (packed, plain): (Vec<&Message>, Vec<&Message>) = all.iter().partition(|message| message.is_other);
    for (messages, keeps_tree) in [(plain, true), (packed, false)] {
        for (i, part) in messages.chunks(AT_ONCE).enumerate() {
            let name = if i % 2 == 0 { "in.pcapng" } else { "in.pcap" };
            let link = [Link::Ethernet, Link::Cooked, Link::Raw][i % 3];
            let labels: Vec<&str> = part.iter().map(|message| message.label.as_str()).collect();
            let capture = capture(part.iter().copied(), link);
            prove(&place, name, &capture, &labels, (&index, keeps_tree), &mut faults);
        }
    }
    println!("{} secrets in {} connections", draw.planted.len(), all.len());
    faults.judge();
}

/// Each connection in which something was planted is named.
#[test]
fn a_check_names_each_connection_with_a_secret() {
    let mut draw = Draw::new(14);
    let all = all_messages(&mut draw, how_many().min(20));
    let place = Place::new();
    let mut missing = BTreeSet::new();
    for part in all.chunks(AT_ONCE) {
        let input = place.write("in.pcapng", &capture(part, Link::Ethernet).pcapng(false));
        let check = tls2pcap(&["redact", "--check", text(&input)], &[]);
        let said = String::from_utf8(check.stdout).unwrap();
        let named: BTreeSet<usize> =
            said.lines().filter_map(|line| line.split('\t').nth(1)?.parse().ok()).collect();
        missing.extend(
            part.iter().enumerate().filter(|(i, _)| !named.contains(i)).map(|(_, message)| &message.label),
        );
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// Cut into two segments at every place, and with a hole at every place.
#[test]
fn at_every_border_and_beside_every_hole() {
    let most = how_many();
    let step = if most > FEW { 3 } else { 61 };
    let mut draw = Draw::new(15);
    let all = all_messages(&mut draw, 1);
    let index = Index::new(&draw.planted);
    let place = Place::new();
    let mut faults = Faults::default();
    let mut out = Capture::new(Link::Raw);
    let mut port = 1000;
    for (i, message) in all.iter().enumerate() {
        let whole = message.said[0].len().max(message.said[1].len());
        for cut in (1 + i % step..whole).step_by(step.max(whole / 400)) {
            for hole in [0, 1, 9] {
                port = if port == u16::MAX { 1000 } else { port + 1 };
                let mut talk = Talk::open(&mut out, port);
                for (end, bytes) in [(End::Client, &message.said[0]), (End::Server, &message.said[1])] {
                    let (one, two) = bytes.split_at(cut.min(bytes.len()));
                    talk.say(end, one, 1460);
                    let hole = hole.min(two.len());
                    talk.skip(end, hole);
                    talk.say(end, &two[hole..], 1460);
                }
                talk.close();
            }
        }
        if out.packets.len() > 200_000 || i + 1 == all.len() {
            let input = place.write("in.pcap", &out.pcap());
            let output = place.path("once.pcap");
            assert!(tls2pcap(&["redact", "-q", text(&input), "-o", text(&output)], &[]).status.success());
            faults.leaks(index.seen_in(&std::fs::read(&output).unwrap()), "the file");
            out.packets.clear();
        }
    }
    faults.judge();
}

/// Databases, messages, directories: what logs in there.
#[test]
fn no_login_is_left_in_any_protocol() {
    let mut draw = Draw::new(16);
    let mut faults = Faults::default();
    let place = Place::new();
    let mut capture = Capture::new(Link::Ethernet);
    let mut labels = Vec::new();
    for round in 0..how_many() {
        draw.label = "logins".into();
        let secret = draw.long(29);
        for (i, (name, port, turns)) in servers::talks(&secret).into_iter().enumerate() {
            let mut talk = Talk::open_at(&mut capture, 2000 + (round * 32 + i) as u16, port);
            turns.iter().for_each(|(end, bytes)| talk.say(*end, bytes, [1460, 11, 3][round % 3]));
            talk.close();
            labels.push(name);
        }
        for (i, (greeting, said)) in mail(&secret).into_iter().enumerate() {
            let mut talk = Talk::open_at(&mut capture, 2020 + (round * 32 + i) as u16, [25, 110, 143, 21][i]);
            talk.say(End::Server, greeting.as_bytes(), 1460);
            talk.say(End::Client, said.as_bytes(), [1460, 11, 3][round % 3]);
            talk.close();
            labels.push("mail or FTP");
        }
    }
    let index = Index::new(&draw.planted);
    prove(&place, "in.pcapng", &capture, &labels, (&index, true), &mut faults);
    faults.judge();
}

/// What a server says first, and what a client says then.
fn mail(secret: &str) -> [(&'static str, String); 4] {
    let plain = draw::base64(format!("\0me\0{secret}").as_bytes());
    let login = draw::base64(secret.as_bytes());
    [
        (
            "220 mail ESMTP\r\n",
            format!(
                "EHLO a\r\nAUTH PLAIN {plain}\r\nAUTH LOGIN\r\nbWU=\r\n{login}\r\nMAIL FROM:<{secret}@corp.example>\r\nQUIT\r\n"
            ),
        ),
        ("+OK ready\r\n", format!("USER me\r\nPASS {secret}\r\nAPOP me {secret}\r\nAUTH PLAIN {plain}\r\n")),
        (
            "* OK ready\r\n",
            format!(
                "a LOGIN me {secret}\r\nb LOGIN \"me\" \"{secret}\"\r\nc AUTHENTICATE PLAIN {plain}\r\nd LOGIN {{2}}\r\nme {{{}}}\r\n{secret}\r\n",
                secret.len()
            ),
        ),
        ("220 ftp\r\n", format!("USER me\r\nPASS {secret}\r\nACCT {secret}\r\n")),
    ]
}
