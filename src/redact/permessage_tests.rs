use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::*;
use crate::redact::{Key, RulesBuilder};

const SECRET: &str = "hunter2Correct77Horse";

fn engine() -> Engine {
    Engine::new(RulesBuilder::default().build(Key([9; 16])).unwrap())
}

fn packed(sender: &mut Compress, text: &str) -> Vec<u8> {
    let before = sender.total_out();
    let mut out = vec![0; text.len() + 1024];
    sender.compress(text.as_bytes(), &mut out, FlushCompress::Sync).unwrap();
    out.truncate((sender.total_out() - before) as usize - TAIL.len());
    out
}

/// What a reader shows who goes on from message to message, as tshark does.
fn shown(reader: &mut Decompress, message: &[u8]) -> Option<String> {
    let before = reader.total_out();
    let mut out = vec![0; 1 << 20];
    let bytes = [message, &TAIL].concat();
    reader.decompress(&bytes, &mut out, FlushDecompress::Sync).ok()?;
    out.truncate((reader.total_out() - before) as usize);
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// Talk as it is: the same words again and again, some with secrets; a third of them never seen before.
fn text(i: usize) -> String {
    match i % 6 {
        0 => {
            format!("{{\"type\":\"hello\",\"seq\":{i},\"token\":\"{SECRET}{}\",\"room\":\"lobby\"}}", i / 12)
        }
        1 => format!("{{\"type\":\"note\",\"seq\":{i},\"text\":\"nothing to hide here {i}\"}}"),
        2 => format!("{{\"type\":\"auth\",\"seq\":{i},\"password\":\"{:x}{SECRET}\"}}", i * 7_919 * 104_729),
        3 => format!(
            "{{\"type\":\"mail\",\"seq\":{i},\"to\":\"user{i}@corp{}.example\",\"text\":\"hi\"}}",
            i % 5
        ),
        4 => format!(
            "{{\"type\":\"list\",\"seq\":{i},\"items\":[{}0]}}",
            "{\"id\":12345,\"name\":\"x\"},".repeat(40)
        ),
        _ => format!("{{\"type\":\"ping\",\"seq\":{i}}}"),
    }
}

/// Sends 300 messages. Gives how many of them were changed beyond their values.
fn masked(agreed: Deflate, level: u32) -> usize {
    let (mut engine, mut messages) = (engine(), Messages::new(agreed));
    let bits = agreed.window().trailing_zeros() as u8;
    let sender = || Compress::new_with_window_bits(Compression::new(level), false, bits);
    let (mut writer, mut reader) = (sender(), Decompress::new(false));
    let mut again = Messages::new(agreed);
    let mut masked = 0;
    for i in 0..300 {
        let text = text(i);
        if !agreed.takes_over {
            (writer, reader) = (sender(), Decompress::new(false));
        }
        let mut message = packed(&mut writer, &text);
        let len = message.len();
        messages.message(&mut engine, &mut message, true);
        engine.take_found();
        assert_eq!(message.len(), len);
        let shown = shown(&mut reader, &message).unwrap_or_else(|| panic!("{i} cannot be read"));
        assert_eq!(shown.len(), text.len(), "{i} {shown}");
        // The names of members, and numbers, are no secrets.
        let plain = |text: &str| text.split('"').step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let is_same =
            plain(&shown) == plain(&text) && serde_json::from_str::<serde_json::Value>(&shown).is_ok();
        let is_kept = i % 6 != 1 || shown == text;
        if !is_same || !is_kept {
            masked += 1;
        }
        for start in 0..SECRET.len() - 6 {
            assert!(!shown.contains(&SECRET[start..start + 6]), "{i}: {shown}");
        }
        // Once more changes nothing.
        let mut twice = message.clone();
        engine.recognise(true);
        again.message(&mut engine, &mut twice, true);
        engine.recognise(false);
        assert_eq!((twice, engine.take_found()), (message, vec![]), "{i}: {shown}");
    }
    masked
}

#[test]
fn later_messages_refer_to_what_was_replaced() {
    for level in [1, 6, 9] {
        for extensions in ["", "; client_no_context_takeover", "; client_max_window_bits=9"] {
            let agreed = Deflate::agreed(&format!("permessage-deflate{extensions}"), true).unwrap();
            let masked = masked(agreed, level);
            assert!(masked <= 3, "{masked} of 300 are masked with level {level}{extensions}");
        }
    }
}

/// What refers to a message that was lost is masked, and what comes after that is readable again.
#[test]
fn a_lost_message_costs_those_that_refer_to_it() {
    let (mut engine, mut messages) = (engine(), Messages::new(Deflate::default()));
    let (mut writer, mut reader) = (Compress::new(Compression::best(), false), Decompress::new(false));
    let mut seed = 3u64;
    let mut all = String::new();
    for i in 0..30 {
        let mut text = format!("{{\"seq\":{i},\"token\":\"{SECRET}\"}}");
        if i == 20 {
            // So long that nothing before it can be referred to.
            text.clear();
            while text.len() < 40_000 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push(char::from(b'A' + (seed >> 33) as u8 % 26));
            }
        }
        let mut message = packed(&mut writer, &text);
        match i {
            10 => messages.lose(),
            _ => messages.message(&mut engine, &mut message, true),
        }
        if i != 10 {
            let shown = shown(&mut reader, &message).unwrap_or_else(|| panic!("{i} cannot be read"));
            all += &format!("{}\n", &shown[..20.min(shown.len())]);
            assert!(!shown.contains(&SECRET[..6]), "{shown}");
            let is_kept = shown.starts_with(&format!("{{\"seq\":{i},")) || shown == text;
            assert_eq!(is_kept, !(11..20).contains(&i), "{all}");
        }
    }
}

#[test]
fn damaged_messages_do_no_harm() {
    let mut seed = 3u64;
    let mut random = move |most: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % most
    };
    for _ in 0..30 {
        let (mut engine, mut messages) = (engine(), Messages::new(Deflate::default()));
        let (mut writer, mut reader) = (Compress::new(Compression::best(), false), Decompress::new(false));
        for i in 0..60 {
            let mut message = packed(&mut writer, &text(i));
            if random(4) == 0 {
                let at = random(message.len());
                message[at] ^= 1 << random(8);
            }
            messages.message(&mut engine, &mut message, true);
            // A damaged one may say anything; what follows an unreadable one must be readable.
            if shown(&mut reader, &message).is_none() {
                reader = Decompress::new(false);
            }
        }
    }
}
