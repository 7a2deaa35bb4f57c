//! What is said of a redaction: how much of what kind was replaced; in a check, where it stands. Never what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::redact::Kind;

/// Places that are named.
const PLACES_MAX: usize = 10_000;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// As Wireshark numbers packets; `None`: what is no packet.
    pub(super) packet: Option<u64>,
    /// As Wireshark numbers TCP streams.
    pub(super) connection: Option<u64>,
    pub(super) kind: Kind,
}

/// Counts, and places.
#[derive(Debug, Default)]
pub(super) struct Report {
    kinds: BTreeMap<Kind, u64>,
    places: Vec<Place>,
    keeps_places: bool,
    packets: u64,
    packets_changed: u64,
    bytes_changed: u64,
    /// What the file does not say that it has pseudonyms for.
    without_pseudonyms: BTreeSet<&'static str>,
}

impl Report {
    /// `keeps_places`: they are wanted in the end.
    pub(super) fn new(keeps_places: bool) -> Report {
        Report { keeps_places, ..Report::default() }
    }

    pub(super) fn found(&mut self, packet: Option<u64>, connection: Option<u64>, kind: Kind) {
        *self.kinds.entry(kind).or_default() += 1;
        if self.keeps_places && self.places.len() < PLACES_MAX {
            self.places.push(Place { packet, connection, kind });
        }
    }

    /// A packet, or another block, has its final form.
    /// `has_pseudonyms`: addresses in its headers were replaced.
    pub(super) fn packet_done(&mut self, is_packet: bool, has_pseudonyms: bool, bytes_changed: u64) {
        self.packets += u64::from(is_packet);
        self.packets_changed += u64::from(bytes_changed > 0 || has_pseudonyms);
        self.bytes_changed += bytes_changed;
    }

    /// A section does not say that these have pseudonyms, as they are to.
    pub(super) fn lacks_pseudonyms(&mut self, of: Vec<&'static str>) {
        self.without_pseudonyms.extend(of);
    }

    /// What lacks them: `addresses`, `names`.
    pub(super) fn without_pseudonyms(&self) -> impl Iterator<Item = &'static str> {
        self.without_pseudonyms.iter().copied()
    }

    /// Whether anything was found.
    pub(super) fn is_clean(&self) -> bool {
        self.kinds.is_empty() && self.without_pseudonyms.is_empty()
    }

    /// How often each kind was found.
    pub(super) fn kinds(&self) -> Vec<(Kind, u64)> {
        self.kinds.iter().map(|(kind, n)| (*kind, *n)).collect()
    }

    /// One line for each place, in order of packets.
    pub(super) fn places(&mut self) -> String {
        self.places.sort_unstable();
        let mut text = String::new();
        for place in &self.places {
            let packet = place.packet.map_or("-".to_owned(), |n| n.to_string());
            let connection = place.connection.map_or("-".to_owned(), |n| n.to_string());
            // Memory takes all.
            let _ = writeln!(text, "{packet}\t{connection}\t{}", place.kind);
        }
        text
    }

    /// How many places are not named.
    pub(super) fn unnamed(&self) -> u64 {
        self.kinds.values().sum::<u64>() - self.places.len() as u64
    }

    /// What was done, in words.
    pub(super) fn summary(&self) -> String {
        let mut text = format!(
            "{} of {} packets changed, {} in all\n",
            self.packets_changed,
            self.packets,
            count(self.bytes_changed, "byte")
        );
        for (title, masked) in [("replaced", false), ("masked whole", true)] {
            let mut kinds: Vec<(&Kind, &u64)> =
                self.kinds.iter().filter(|(kind, _)| kind.is_masked_whole() == masked).collect();
            kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} ({n})")).collect();
            if !kinds.is_empty() {
                let _ = writeln!(text, "{title}: {}", kinds.join(", "));
            }
        }
        text
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
