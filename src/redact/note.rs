//! What a capture file says beside its packets: comments, names and command lines. All keep their length.

use std::ops::Range;

use super::arguments;
use super::cloak::Escape;
use super::engine::Engine;
use super::identity;
use super::kind::{Found, Kind};
use super::text::{self, Sort};

/// Keys of our comments whose value is text from elsewhere.
const FREE_TEXT: [&[u8]; 10] = [
    b"comm",
    b"exe",
    b"container",
    b"library",
    b"sni",
    b"caller_comm",
    b"caller_exe",
    b"peer_comm",
    b"peer_exe",
    b"note",
];

/// Those whose value is an address and a port.
const ADDRESSES: [&[u8]; 4] = [b"local", b"remote", b"written_client", b"written_server"];

/// Works on a comment. Gives what was found.
pub fn comment(engine: &mut Engine, text: &mut [u8]) -> Vec<Found> {
    if !text.starts_with(b"tls2pcap=1 ") && text != b"tls2pcap=1" {
        return command_line(engine, text);
    }
    // Of our own grammar: `cookie=` is a socket's.
    let mut at = 0;
    while at < text.len() {
        let end = text[at..].iter().position(|b| *b == b' ').map_or(text.len(), |len| at + len);
        if let Some(sign) = text[at..end].iter().position(|b| *b == b'=') {
            let begin = at + sign + 1;
            let key = text[at..at + sign].to_vec();
            let value = &mut text[begin..end];
            if ADDRESSES.contains(&&key[..]) || key == b"sni" {
                engine.within(begin, |engine| identity::host(engine, value, 0..value.len()));
            }
            if FREE_TEXT.contains(&&key[..]) {
                engine.within(begin, |engine| text::scan(engine, value, Sort::Plain));
            }
        }
        at = end + 1;
    }
    engine.take_found()
}

/// Works on the name of a host. Gives what was found.
pub fn host(engine: &mut Engine, text: &mut [u8]) -> Vec<Found> {
    text::scan(engine, text, Sort::Plain);
    identity::host(engine, text, 0..text.len());
    engine.take_found()
}

/// Works on a name or description. Gives what was found.
pub fn note(engine: &mut Engine, text: &mut [u8]) -> Vec<Found> {
    text::scan(engine, text, Sort::Plain);
    engine.take_found()
}

/// Works on text that may be a command line. Gives what was found.
pub fn command_line(engine: &mut Engine, text: &mut [u8]) -> Vec<Found> {
    for range in secrets(text) {
        engine.cloak(text, range, Kind::Assignment, Escape::Backslash);
    }
    text::scan(engine, text, Sort::Plain);
    engine.take_found()
}

/// What [`arguments`] masks of a line: in each word, all but the beginning and end that it leaves.
fn secrets(text: &[u8]) -> Vec<Range<usize>> {
    let Ok(line) = str::from_utf8(text) else { return vec![] };
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut at = 0;
    let mut ranges = Vec::new();
    for (word, masked) in words.iter().zip(arguments(&words)) {
        // Quotation marks around a word stay.
        let quotes = |b: &u8| *b == b'\'' || *b == b'"';
        if *word != masked && !word.is_empty() {
            let (old, new) = (word.as_bytes(), masked.as_bytes());
            let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
            let most = (old.len() - same).min(new.len() - same.min(new.len()));
            let same_end =
                old.iter().rev().zip(new.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
            let (mut begin, mut end) = (at + same, at + word.len() - same_end);
            if text[begin..end].first().is_some_and(quotes) {
                begin += 1;
            }
            if text[begin..end].last().is_some_and(quotes) {
                end -= 1;
            }
            ranges.push(begin..end);
        }
        at += word.len() + 1;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::rules::{Key, RulesBuilder};

    fn done(text: &str, work: impl Fn(&mut Engine, &mut [u8]) -> Vec<Found>) -> (String, usize) {
        let mut engine = Engine::new(RulesBuilder::default().build(Key([3; 16])).unwrap());
        let mut bytes = text.as_bytes().to_vec();
        let found = work(&mut engine, &mut bytes);
        let once = bytes.clone();
        engine.recognise(true);
        assert!(work(&mut engine, &mut bytes).is_empty(), "{text}: twice changes nothing");
        assert_eq!(once, bytes);
        (String::from_utf8(once).unwrap(), found.len())
    }

    #[test]
    fn command_lines_keep_their_length_and_options() {
        for (line, kept) in [
            ("curl -u 'me:Hunter2x' https://a.example/", "curl -u '"),
            ("mysql -pHunter2x db", "mysql -p"),
            ("curl -H 'Authorization: Bearer Hunter2x'", "curl -H 'Authorization:"),
            ("psql postgres://me:Hunter2x@db/x", "psql postgres://"),
            ("x --token=Hunter2x -v", "x --token="),
        ] {
            let (text, found) = done(line, command_line);
            assert!(text.starts_with(kept) && !text.contains("Hunter2x"), "{text}");
            assert!(found > 0 && text.len() == line.len());
        }
    }

    #[test]
    fn our_comments_keep_their_grammar() {
        let comment_of =
            "tls2pcap=1 conn=1 pid=7 comm=curl exe=/usr/bin/curl cookie=12345 sni=a.example start=1.0";
        assert_eq!(done(comment_of, comment), (comment_of.into(), 0));
        let (text, _) = done("tls2pcap=1 conn=1 exe=/home/me@corp.example/x", comment);
        assert!(!text.contains("corp"), "{text}");
        let (text, _) = done("password: Hunter2x, and more", comment);
        assert!(!text.contains("Hunter2x") && text.ends_with(", and more"), "{text}");
    }
}
