//! Two pairs of processes on one preemptible processor, each with nothing but its own letter to say.

use std::collections::HashMap;
use std::path::Path;

use tls2pcap::event::record::decode;
use tls2pcap::event::recording::Player;
use tls2pcap::event::{Direction, Event, HandleKey, Missing};

use crate::judge;
use crate::support::Test;
use crate::support::programs::Told;

/// Bytes of a call of the program `letters`.
const CALL: u64 = 16384;
/// Calls of each client.
const CALLS: u64 = 1000;

/// What the guest runs for this.
pub fn part() -> String {
    format!("preempt.sh {CALLS}")
}

/// Every record of every call holds that process's letter only, and stands at its place. What the file's
/// writer was too slow for, on an emulated processor, is marked; most must be there.
pub fn no_foreign_byte(test: &Test, out: &Path) {
    let backend = "fentry";
    let dir = out.join("preempt");
    let finished = judge::finished(&dir, "letters", backend);
    judge::replays(test, &dir, "letters", &finished);
    let mut letters = HashMap::new();
    for letter in ["A", "B"] {
        for file in ["told", "server.out"] {
            let text = std::fs::read_to_string(dir.join(letter).join(file)).unwrap();
            let told = Told::all(&text).pop().unwrap_or_else(|| panic!("{letter}/{file}: {text}"));
            letters.insert(told.pid, (letter.as_bytes()[0], file == "told"));
        }
    }
    assert_eq!(letters.len(), 4);
    records_hold_only(&dir.join("letters.t2p"), &letters);
}

/// `letters`: by pid, the letter, and whether it is the process that writes.
fn records_hold_only(recording: &Path, letters: &HashMap<u32, (u8, bool)>) {
    let mut player = Player::new(std::fs::read(recording).unwrap().into()).unwrap();
    let mut ends: HashMap<(HandleKey, bool), u64> = HashMap::new();
    let mut seen = 0;
    while let Some(record) = player.next_record().unwrap() {
        let Ok(Event::Data(data)) = decode(&record) else { continue };
        let writes = data.direction == Direction::Write;
        let Some((letter, writer)) = letters.get(&data.task.process.pid) else {
            panic!("a record of process {}, which was not there", data.task.process.pid)
        };
        assert_eq!(writes, *writer);
        let at = data.call_offset + data.chunk_offset;
        let foreign = data.payload.iter().position(|b| b != letter);
        assert_eq!(
            foreign.map(|n| data.payload[n] as char),
            None,
            "a foreign byte at {} of the stream of {}",
            at + foreign.unwrap_or(0) as u64,
            *letter as char
        );
        match data.missing {
            None => assert_eq!(data.payload.len() as u64, data.chunk_len),
            reason => assert_eq!(reason, Some(Missing::WriterBehind)),
        }
        seen += data.payload.len() as u64;
        let end = ends.entry((data.handle, writes)).or_default();
        assert_eq!(at, *end, "the records of {} do not follow each other", *letter as char);
        *end += data.chunk_len;
    }
    assert_eq!(ends.len(), letters.len(), "one direction of one handle for each process");
    assert!(ends.values().all(|end| *end == CALL * CALLS), "{ends:?}");
    let all = CALL * CALLS * ends.len() as u64;
    assert!(seen > all / 2, "{seen} bytes of {all}");
}
