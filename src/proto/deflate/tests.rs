use flate2::{Compress, Compression, FlushCompress, FlushDecompress};

use super::*;

/// What a sender makes of a text, up to the end of a byte.
fn packed(sender: &mut Compress, text: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut out = vec![0; text.len() * 2 + 4096];
    let before = sender.total_out();
    sender.compress(text, &mut out, flush).unwrap();
    out.truncate((sender.total_out() - before) as usize);
    out
}

/// What the library reads in a stream that refers to `past`.
fn unpacked(past: &[u8], bytes: &[u8], len: usize) -> Vec<u8> {
    let mut reader = flate2::Decompress::new(false);
    let mut store = Vec::new();
    for part in past.chunks(0xffff) {
        let len = part.len() as u16;
        store.push(0);
        store.extend_from_slice(&len.to_le_bytes());
        store.extend_from_slice(&(!len).to_le_bytes());
        store.extend_from_slice(part);
    }
    let mut out = vec![0; past.len() + len + 1];
    reader.decompress(&store, &mut out, FlushDecompress::Sync).unwrap();
    assert_eq!(reader.total_out() as usize, past.len());
    reader.decompress(bytes, &mut out[past.len()..], FlushDecompress::Sync).unwrap();
    assert_eq!(reader.total_in() as usize, store.len() + bytes.len());
    out.truncate(reader.total_out() as usize);
    out.split_off(past.len())
}

/// Numbers that look random.
fn random() -> impl FnMut(usize) -> usize {
    let mut seed = 7u64;
    move |most| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % most
    }
}

/// Text with words that come again, and numbers that do not.
fn words(random: &mut impl FnMut(usize) -> usize, len: usize) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "{\"id\":",
        ",\"name\":\"",
        "\"}",
        "\u{e4}\u{20ac}",
        "hello ",
        "world ",
        "\"items\":[",
        "]",
        "true",
        ",",
        "GET",
        "x-",
    ];
    let mut text = Vec::new();
    while text.len() < len {
        match random(3) {
            0 => text.extend_from_slice(random(1 << 24).to_string().as_bytes()),
            _ => text.extend_from_slice(WORDS[random(WORDS.len())].as_bytes()),
        }
    }
    text.truncate(len);
    text
}

#[test]
fn what_is_read_is_what_was_written() {
    let mut random = random();
    for round in 0..200 {
        let len = random(if round < 150 { 600 } else { 90_000 }) + 1;
        let text = words(&mut random, len);
        let level = Compression::new(random(10) as u32);
        let flush = if round % 2 == 0 { FlushCompress::Finish } else { FlushCompress::Sync };
        let bytes = packed(&mut Compress::new(level, false), &text, flush);
        let stream = read(&bytes, text.len()).unwrap();
        assert_eq!(stream.text(&[]).unwrap(), text, "{round}");
        assert_eq!(read(&bytes, text.len() - 1), Err(Invalid));
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
            // It may end there by chance, but not say the same.
            let less = read(&bytes[..cut], text.len()).ok().and_then(|stream| stream.text(&[]));
            assert!(
                less.is_none_or(|less| less.len() < text.len() || cut + 5 >= bytes.len()),
                "{round} {cut}"
            );
        }
    }
}

#[test]
fn mutated_streams_are_refused_or_read() {
    let mut random = random();
    let text = words(&mut random, 3000);
    let bytes = packed(&mut Compress::new(Compression::best(), false), &text, FlushCompress::Sync);
    for _ in 0..20_000 {
        let mut bytes = bytes.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        if let Ok(stream) = read(&bytes, 1 << 20)
            && let Some(text) = stream.text(&[])
        {
            assert_eq!(unpacked(&[], &bytes, text.len()), text);
        }
    }
}

/// Another number for each of some digits: the same for the same.
fn replaced(text: &[u8]) -> Vec<u8> {
    let mut new = text.to_vec();
    let mut at = 0;
    while at < text.len() {
        let len = text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let number = text[at..at + len].iter().fold(7u64, |n, b| n.wrapping_mul(31) + u64::from(*b));
        for (i, byte) in new[at..at + len].iter_mut().enumerate().filter(|_| len > 4) {
            *byte = b"1247"[(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (40 + i % 20)) as usize & 3];
        }
        at += len + 1;
    }
    new
}

#[test]
fn a_stream_says_another_text_in_as_many_bytes() {
    let mut random = random();
    let (mut fitted, mut all) = (0, 0);
    for round in 0..400 {
        let len = random(if round < 350 { 500 } else { 70_000 }) + 1;
        let level = Compression::new(1 + random(9) as u32);
        let flush = if round % 2 == 0 { FlushCompress::Finish } else { FlushCompress::Sync };
        let past = words(&mut random, 2000);
        let text = words(&mut random, len);
        let mut sender = Compress::new(level, false);
        packed(&mut sender, &past, FlushCompress::Sync);
        let bytes = packed(&mut sender, &text, flush);
        let stream = read(&bytes, text.len()).unwrap();
        assert_eq!(stream.text(&past).unwrap(), text);
        let new = replaced(&text);
        let new_past = replaced(&past);
        for past in [&past, &new_past] {
            all += 1;
            if let Some(out) = rewrite(&stream, &bytes, past, WINDOW, &new) {
                assert_eq!(out.len(), bytes.len());
                assert_eq!(unpacked(past, &out, new.len()), new, "{round}");
                if flush == FlushCompress::Sync {
                    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
                }
                fitted += 1;
            }
        }
        // Something of few bits fits in each length.
        let filled = vec![b'x'; text.len()];
        if text.len() > 60 {
            let out = rewrite(&stream, &bytes, &past, WINDOW, &filled).unwrap_or_else(|| panic!("{round}"));
            assert_eq!((out.len(), unpacked(&past, &out, filled.len())), (bytes.len(), filled));
        }
    }
    assert!(fitted * 10 >= all * 7, "{fitted} of {all} fit");
}

/// Every number of bytes that is to be made up for, in front of a last block and of what ends a message.
#[test]
fn each_length_can_be_made() {
    let text = b"{\"token\":\"aaaaaaaaaaaaaaaaaaaaaaaaaa\",\"n\":1}";
    for flush in [FlushCompress::Finish, FlushCompress::Sync] {
        for extra in 0..300 {
            let noise: Vec<u8> = (0..extra).map(|i| (i * 7 + i / 5) as u8 | 0x80).collect();
            let old = [&text[..], &noise].concat();
            let new = [&text[..], &vec![b'x'; extra]].concat();
            let bytes = packed(&mut Compress::new(Compression::best(), false), &old, flush);
            let stream = read(&bytes, old.len()).unwrap();
            let out = rewrite(&stream, &bytes, &[], WINDOW, &new).unwrap_or_else(|| panic!("{extra}"));
            assert_eq!(unpacked(&[], &out, new.len()), new, "{extra}");
        }
    }
}
