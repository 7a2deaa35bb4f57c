use std::collections::HashMap;

use super::*;

/// A block is its time, its connection, its number and its length, then zeros.
const HEAD: usize = 32;

fn block(time: WallTime, connection: u64, number: u64, len: usize) -> Vec<u8> {
    let len = len.max(HEAD);
    let words = [time, connection, number, len as u64];
    let mut block: Vec<u8> = words.iter().flat_map(|n| n.to_le_bytes()).collect();
    block.resize(len, 0);
    block
}

/// What went on: time, connection and number of each block.
#[derive(Default)]
struct Out {
    blocks: Vec<[u64; 3]>,
    pieces: usize,
}

impl Out {
    fn take(&mut self, mut blocks: &[u8], count: u64) {
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        self.pieces += 1;
        for _ in 0..count {
            self.blocks.push([word(blocks, 0), word(blocks, 8), word(blocks, 16)]);
            blocks = &blocks[word(blocks, 24) as usize..];
        }
        assert!(blocks.is_empty());
    }

    fn times(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block[0]).collect()
    }
}

fn add(sorted: &mut Sorted, time: WallTime) {
    sorted.add(time, |blocks| blocks.extend(block(time, 0, 0, 0)));
}

#[test]
fn what_comes_in_order_goes_on_in_one_piece() {
    let (mut sorted, mut out) = (Sorted::default(), Out::default());
    (1..=100).for_each(|time| add(&mut sorted, time));
    sorted.up_to(60, |blocks, count| out.take(blocks, count));
    assert_eq!((out.times(), out.pieces), ((1..=60).collect(), 1));
    sorted.up_to(WallTime::MAX, |blocks, count| out.take(blocks, count));
    assert_eq!((out.times(), out.pieces), ((1..=100).collect(), 2));
    assert_eq!(sorted.size(), 0);
}

#[test]
fn what_comes_too_late_goes_first_and_it_is_known() {
    let (mut sorted, mut out) = (Sorted::default(), Out::default());
    [10, 30, 20].iter().for_each(|time| add(&mut sorted, *time));
    sorted.up_to(20, |blocks, count| out.take(blocks, count));
    assert_eq!([5, 20, 25].map(|time| sorted.late(time, 0)), [15, 0, 0]);
    assert_eq!(sorted.late(25, 40), 15, "behind its own connection");
    [5, 25].iter().for_each(|time| add(&mut sorted, *time));
    sorted.up_to(30, |blocks, count| out.take(blocks, count));
    assert_eq!(out.times(), [10, 20, 5, 25, 30]);
}

#[test]
fn a_clock_that_was_set_back_makes_nobody_wait() {
    const HOUR: u64 = 3_600_000_000_000;
    let (mut sorted, mut out) = (Sorted::default(), Out::default());
    sorted.tick(2 * HOUR, 2 * HOUR - 10, |_, _| unreachable!());
    add(&mut sorted, 2 * HOUR + 5);
    sorted.tick(HOUR, HOUR - 10, |blocks, count| out.take(blocks, count));
    assert_eq!(out.times(), [2 * HOUR + 5]);
    // A connection goes on where its time stood; others are in the new one, and not late.
    add(&mut sorted, 2 * HOUR + 5);
    assert_eq!(sorted.late(HOUR + 1, 0), 0);
    add(&mut sorted, HOUR + 1);
    sorted.tick(HOUR + 20, HOUR + 10, |blocks, count| out.take(blocks, count));
    assert_eq!(out.times()[1..], [HOUR + 1, 2 * HOUR + 5]);
    assert_eq!(sorted.late(HOUR + 21, 0), 0);
}

#[test]
fn too_much_goes_on_from_the_earliest_on() {
    let (mut sorted, mut out) = (Sorted::default(), Out::default());
    // Odd ones come behind even ones, and one in the far future keeps its piece.
    let mut most = 0;
    for n in 0..5_000_u64 {
        let time = if n % 500 == 3 { u64::MAX - n } else { 100 * (n ^ 1) };
        sorted.add(time, |blocks| blocks.extend(block(time, 0, n, 20_000)));
        if sorted.is_full() {
            sorted.make_room(|blocks, count| out.take(blocks, count));
            assert!(sorted.size() <= SORT_LEFT);
        }
        let kept: usize = sorted.pieces.iter().map(|piece| piece.blocks.len()).sum();
        assert_eq!(kept, sorted.bytes);
        most = most.max(sorted.size());
    }
    assert!(most > SORT_LEFT && most < SORT_MAX + 40_000, "{most}");
    sorted.up_to(WallTime::MAX, |blocks, count| out.take(blocks, count));
    assert_eq!(out.blocks.len(), 5_000);
    assert!(out.times().is_sorted());
    assert!(sorted.spare.len() <= SPARE_MAX && sorted.pieces.is_empty());
}

/// Deterministic: xorshift with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Whatever comes: each block goes on once; those of a connection in the order in which they came; no one that is not
/// late stands behind a later one; and no one is late that came in time.
#[test]
fn any_order_is_mended_within_the_time() {
    const WAIT: u64 = 500;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for story in 0..40 {
        let (mut sorted, mut out) = (Sorted::default(), Out::default());
        let delay = if story % 2 == 0 { WAIT } else { 3 * WAIT };
        let (mut now, mut ticked) = (10_000, 10_000);
        let mut latest: HashMap<u64, u64> = HashMap::new();
        let mut late: HashMap<u64, u64> = HashMap::new();
        for number in 0..600 {
            now += random.below(20);
            if now >= ticked + 100 {
                ticked = now;
                sorted.tick(now, now - WAIT, |blocks, count| out.take(blocks, count));
            }
            let connection = random.below(7);
            let time = now - random.below(delay);
            let before = latest.entry(connection).or_default();
            let by = sorted.late(time, *before);
            if by > 0 {
                late.insert(number, by);
                assert!(story % 2 == 1 || *before > time, "it came in time");
            }
            let place = time.max(*before);
            *before = place;
            let len = random.below(4_000) as usize;
            sorted.add(place, |blocks| blocks.extend(block(time, connection, number, len)));
        }
        sorted.up_to(WallTime::MAX, |blocks, count| out.take(blocks, count));
        assert_eq!(out.blocks.len(), 600);
        let mut last: HashMap<u64, u64> = HashMap::new();
        let mut high = 0;
        for [time, connection, number] in out.blocks {
            assert!(last.insert(connection, number).is_none_or(|before| before < number));
            let by = late.get(&number).copied().unwrap_or(0);
            assert_eq!(high > time, by > 0, "{number} of story {story}");
            assert!(high.saturating_sub(time) <= by, "{number} of story {story}");
            high = high.max(time);
        }
    }
}
