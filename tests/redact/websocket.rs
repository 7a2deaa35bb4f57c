//! Compressed messages of WebSocket that refer to earlier ones, as tshark unpacks them.

use flate2::{Compress, Compression, FlushCompress};

use super::files::{Capture, End, Link, Talk};
use super::{Place, SECRET, assert_hidden, gate, judge, tshark};

/// What a client and a server say in the same words, each compressed by its sender.
struct Chat {
    senders: [Compress; 2],
    takes_over: bool,
}

impl Chat {
    fn open(talk: &mut Talk<'_>, extensions: &str) -> Chat {
        let request = format!(
            "GET /s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
        );
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
        );
        talk.say(End::Client, request.as_bytes(), 1000);
        talk.say(End::Server, answer.as_bytes(), 1000);
        Chat { senders: [0; 2].map(|_| sender()), takes_over: !extensions.contains("no_context") }
    }

    fn say(&mut self, talk: &mut Talk<'_>, end: End, text: &str) {
        let sender = &mut self.senders[usize::from(matches!(end, End::Server))];
        if !self.takes_over {
            *sender = self::sender();
        }
        let before = sender.total_out();
        let mut message = vec![0; text.len() + 1024];
        sender.compress(text.as_bytes(), &mut message, FlushCompress::Sync).unwrap();
        message.truncate((sender.total_out() - before) as usize - 4);
        let mask = if matches!(end, End::Client) { 0x80 } else { 0 };
        let mut frame = vec![0xc1];
        match message.len() {
            len @ ..126 => frame.push(mask | len as u8),
            len => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        if mask > 0 {
            let key = [7, 1, 9, 3];
            frame.extend_from_slice(&key);
            message.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= key[at % 4]);
        }
        frame.extend_from_slice(&message);
        talk.say(end, &frame, 500);
    }
}

fn sender() -> Compress {
    Compress::new(Compression::new(6), false)
}

#[test]
fn compressed_messages_are_readable_after_others_were_replaced() {
    for extensions in
        ["permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"]
    {
        let place = Place::new();
        let mut capture = Capture::new(Link::Ethernet);
        let mut talk = Talk::open(&mut capture, 3000);
        let mut chat = Chat::open(&mut talk, extensions);
        for i in 0..60 {
            let text = match i % 4 {
                3 => format!("{{\"n\":{i},\"kept\":\"nothing to hide here {i}\"}}"),
                2 => format!(
                    "{{\"n\":{i},\"password\":\"{i}{SECRET}\",\"kept\":\"{}\"}}",
                    "some text ".repeat(i)
                ),
                _ => {
                    format!("{{\"n\":{i},\"token\":\"{SECRET}{}\",\"kept\":\"more text of it {i}\"}}", i / 8)
                }
            };
            chat.say(&mut talk, End::Server, &text);
            chat.say(&mut talk, End::Client, &text);
        }
        talk.close();
        let input = place.write("in.pcapng", &capture.pcapng(false));
        let output = place.redact(&input, &[]);
        judge(&input, &output);
        assert_hidden(&std::fs::read(&output).unwrap(), "the file");
        for (release, program) in gate::tsharks() {
            let [before, after] = [&input, &output].map(|file| tshark(program, file, &["-V"]));
            for what in
                ["nothing to hide here", "some text some text", "more text of it", "\"password\"", "\"n\":"]
            {
                let count = |text: &str| text.lines().filter(|line| line.contains(what)).count();
                assert_eq!(count(&after), count(&before), "tshark {release}: {what}");
                assert!(count(&before) >= 28, "tshark {release}: {what}");
            }
        }
    }
}
