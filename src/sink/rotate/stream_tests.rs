use super::*;

fn names(stream: &Stream) -> Vec<(usize, &'static str)> {
    stream.beginning().into_iter().map(|(side, (name, _))| (side, name)).collect()
}

#[test]
fn whatever_comes_gives_a_beginning() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let begins: [&[u8]; 4] =
        [h2::PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", b"\0"];
    for n in 0..2000 {
        let mut stream = Stream::default();
        stream.take(n % 2, begins[n / 2 % 4], 0);
        for _ in 0..20 {
            let len = next() % 60;
            // Short frames of all types.
            let bytes: Vec<u8> =
                (0..len).map(|at| if at % 9 < 2 { 0 } else { (next() % 16) as u8 }).collect();
            match next() % 8 {
                0 => stream.jump(n % 2),
                1 => stream.take(n % 2, &bytes, next() % 100),
                _ => stream.take(n % 2, &bytes, 0),
            }
            let _ = stream.beginning();
            assert!(stream.weight() < 1 << 20);
        }
    }
}

#[test]
fn a_preface_in_pieces_is_one() {
    let mut stream = Stream::default();
    for piece in h2::PREFACE.chunks(5) {
        stream.take(0, piece, 0);
    }
    stream.take(0, &frame(DATA, 0, &[1; 100])[..50], 0);
    assert_eq!(names(&stream), [(0, "h2-preface"), (0, "h2-frame-header")]);
    stream.take(0, &[], 1000);
    assert_eq!(names(&stream), [(0, "h2-preface")], "the place is lost");
    stream.jump(0);
    stream.take(0, &frame(HEADERS, 0, b"\x40\x01a\x01b"), 0);
    assert_eq!(names(&stream), [(0, "h2-preface"), (0, "h2-frame-begin")], "a block without its end");
    stream.take(0, &frame(CONTINUATION, END_HEADERS, &[]), 0);
    assert_eq!(names(&stream), [(0, "h2-preface"), (0, "h2-header-table")]);
}
