//! What is to be replaced.

use std::collections::HashSet;
use std::hash::Hasher;

use regex::bytes::{Regex, RegexBuilder};
use siphasher::sip::SipHasher24;

/// How much is taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What is known or likely to be a secret, and what is not understood.
    #[default]
    Secrets,
    /// All but structure: methods, paths, status, names, sizes and frame types stay.
    Shape,
}

impl Level {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Secrets => "secrets",
            Level::Shape => "shape",
        }
    }
}

/// What becomes of what tells hosts and users apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// It stays.
    #[default]
    Keep,
    /// Each has a pseudonym, the same throughout.
    Pseudonyms,
}

impl Identity {
    fn of(word: &str) -> Option<Identity> {
        match word {
            "keep" => Some(Identity::Keep),
            "pseudonyms" => Some(Identity::Pseudonyms),
            _ => None,
        }
    }

    /// The stronger of what two sources ask for.
    fn or(self, other: Identity) -> Identity {
        if self == Identity::Keep { other } else { self }
    }
}

/// Who has it can tell which value a replacement stands for, by trying.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 16]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A pattern that is no regular expression, or too large.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BadPattern {
    reason: String,
}

/// Largest compiled pattern in bytes.
const PATTERN_MAX: usize = 1 << 20;

/// What the user wants, as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesBuilder {
    /// How much is taken out.
    pub level: Level,
    /// Headers that are secrets too.
    pub headers: Vec<String>,
    /// Fields of queries, forms, JSON, XML and multipart that are secrets too.
    pub fields: Vec<String>,
    /// Regular expressions; what their first group matches is replaced, or all if they have none.
    pub patterns: Vec<String>,
    /// Names of headers and fields that are no secrets.
    pub allowed: Vec<String>,
    /// What becomes of addresses.
    pub addresses: Identity,
    /// What becomes of names of hosts and users.
    pub names: Identity,
}

/// A line of a rules file that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    line: usize,
    reason: &'static str,
}

/// What is to be replaced, checked.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) level: Level,
    pub(super) headers: HashSet<String>,
    pub(super) fields: HashSet<String>,
    pub(super) patterns: Vec<Regex>,
    pub(super) allowed: HashSet<String>,
    pub(super) addresses: Identity,
    pub(super) names: Identity,
    pub(super) key: Key,
}

impl RulesBuilder {
    /// Adds the rules of a file: one a line, as `field nickname`, `header X-Customer`, `allow session_state`, `level shape`,
    /// `addresses pseudonyms`, `names pseudonyms`, or `pattern` and a regular expression up to the end of the line. Empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// [`BadLine`] for the first line that is none of these.
    pub fn add_file(&mut self, text: &str) -> Result<(), BadLine> {
        for (at, line) in text.lines().enumerate() {
            let bad = |reason| BadLine { line: at + 1, reason };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once([' ', '\t']).ok_or(bad("a word and a value are expected"))?;
            let rest = rest.trim().to_owned();
            match (word, rest.as_str()) {
                ("header", _) => self.headers.push(rest),
                ("field", _) => self.fields.push(rest),
                ("pattern", _) => self.patterns.push(rest),
                ("allow", _) => self.allowed.push(rest),
                ("level", "shape") => self.level = Level::Shape,
                // The command line may ask for more.
                ("level", "secrets") => {}
                ("level", _) => return Err(bad("the level is neither secrets nor shape")),
                ("addresses" | "names", what) => {
                    let own = if word == "names" { &mut self.names } else { &mut self.addresses };
                    *own = own.or(Identity::of(what).ok_or(bad("neither keep nor pseudonyms"))?);
                }
                _ => {
                    return Err(bad(
                        "it begins with none of header, field, pattern, allow, level, addresses and names",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks and compiles.
    ///
    /// # Errors
    /// [`BadPattern`], in the words of the crate regex.
    pub fn build(&self, key: Key) -> Result<Rules, BadPattern> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let compile = |pattern: &String| {
            let compiled = RegexBuilder::new(pattern).unicode(false).size_limit(PATTERN_MAX).build();
            compiled.map_err(|error| BadPattern { reason: error.to_string() })
        };
        Ok(Rules {
            level: self.level,
            headers: lower(&self.headers),
            fields: lower(&self.fields),
            patterns: self.patterns.iter().map(compile).collect::<Result<_, _>>()?,
            allowed: lower(&self.allowed),
            addresses: self.addresses,
            names: self.names,
            key,
        })
    }
}

impl Rules {
    /// How much is taken out.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether addresses or names are to have pseudonyms.
    pub fn have_pseudonyms(&self) -> bool {
        [self.addresses, self.names].contains(&Identity::Pseudonyms)
    }

    /// What a file says of the rules that it was made by. Names and patterns of the user may be secrets: only
    /// their number is said, and 8 bits of a hash, which tell one set of rules from another and nobody what they are.
    pub fn summary(&self) -> String {
        let own = [
            ("headers", self.headers.len()),
            ("fields", self.fields.len()),
            ("patterns", self.patterns.len()),
            ("allowed", self.allowed.len()),
        ];
        let own = own.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!(" redact_{name}={n}"));
        let mut text = format!("level={} redact_format={FORMAT}", self.level.name());
        text.extend(own);
        for (name, identity) in [("addresses", self.addresses), ("names", self.names)] {
            if identity == Identity::Pseudonyms {
                text += &format!(" redact_{name}=pseudonyms");
            }
        }
        for (name, hash) in [("rules", self.added()), ("exceptions", self.exceptions())] {
            if let Some(hash) = hash {
                text += &format!(" redact_{name}={hash:02x}");
            }
        }
        text
    }

    /// The comment by which a file says that it was redacted.
    pub fn mark(&self) -> String {
        format!("{MARK}{} {}", env!("CARGO_PKG_VERSION"), self.summary())
    }

    /// Whether a file that says this of itself holds no more than these rules let stay. `mark`: as [`Rules::summary`]
    /// gives it.
    pub fn are_met_by(&self, mark: &str) -> bool {
        let value = |key| value(mark, key);
        let hash = |key| value(key).map(|hex| u8::from_str_radix(hex, 16).ok());
        let level = match value("level") {
            Some("secrets") => self.level == Level::Secrets,
            Some("shape") => true,
            _ => false,
        };
        let added = self.added().is_none_or(|own| hash("redact_rules") == Some(Some(own)));
        let exceptions =
            hash("redact_exceptions").is_none_or(|theirs| theirs.is_some() && theirs == self.exceptions());
        let hides = |key, own| own == Identity::Keep || value(key) == Some("pseudonyms");
        let identities = hides("redact_addresses", self.addresses) && hides("redact_names", self.names);
        level && added && exceptions && identities && value("redact_format") == Some(FORMAT)
    }

    /// What is to have pseudonyms by these rules, and has none by what a file says of itself: `addresses`, `names`.
    pub fn without_pseudonyms(&self, marks: &[String]) -> Vec<&'static str> {
        let says = |key| marks.iter().any(|mark| value(mark, key) == Some("pseudonyms"));
        let both = [
            ("addresses", self.addresses, says("redact_addresses")),
            ("names", self.names, says("redact_names")),
        ];
        self.unsaid(both)
    }

    /// The same, of a brand.
    pub fn without_pseudonyms_of_brand(&self, theirs: [u8; 4]) -> Vec<&'static str> {
        let says = |bit| theirs[..2] == *b"T2" && theirs[2] & bit != 0;
        self.unsaid([("addresses", self.addresses, says(ADDRESSES)), ("names", self.names, says(NAMES))])
    }

    fn unsaid(&self, all: [(&'static str, Identity, bool); 2]) -> Vec<&'static str> {
        all.into_iter()
            .filter(|(_, wanted, is_said)| *wanted == Identity::Pseudonyms && !is_said)
            .map(|(name, ..)| name)
            .collect()
    }

    /// The mark of a file in classic pcap, which has four bytes that readers must ignore. `is_one_of_several`: it is a part of a
    /// capture.
    pub fn brand(&self, is_one_of_several: bool) -> [u8; 4] {
        let bits = [
            (self.level == Level::Shape, SHAPE),
            (self.addresses == Identity::Pseudonyms, ADDRESSES),
            (self.names == Identity::Pseudonyms, NAMES),
            (is_one_of_several, SEVERAL),
        ];
        brand(bits, self.added(), self.exceptions())
    }

    /// The same as [`Rules::are_met_by`], of a brand.
    pub fn are_met_by_brand(&self, theirs: [u8; 4]) -> bool {
        let own = self.brand(false);
        let is_ours = theirs[..2] == own[..2] && theirs[2] & 0xc0 == 0x80;
        // What these rules take out, so must theirs.
        let level = own[2] & LEVELS & !theirs[2] == 0;
        let same = theirs[2] & 6 == own[2] & 6 && theirs[3] == own[3];
        is_ours && level && (same || (self.added().is_none() && theirs[2] & 4 == 0))
    }

    /// Names and patterns that are secrets too.
    fn added(&self) -> Option<u8> {
        let patterns = self.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        hash([(1, &self.headers), (2, &self.fields), (3, &patterns)])
    }

    fn exceptions(&self) -> Option<u8> {
        hash([(4, &self.allowed)])
    }
}

/// Of the third byte of a brand: the level, whether addresses and names have pseudonyms, and whether the file is one of several.
const SHAPE: u8 = 1;
const SEVERAL: u8 = 8;
const ADDRESSES: u8 = 16;
const NAMES: u8 = 32;
const LEVELS: u8 = SHAPE | ADDRESSES | NAMES;

fn brand(bits: [(bool, u8); 4], added: Option<u8>, exceptions: Option<u8>) -> [u8; 4] {
    let flags = u8::from(added.is_some()) << 1
        | u8::from(exceptions.is_some()) << 2
        | bits.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, bit)| flags | bit);
    [b'T', b'2', 0x80 | flags, added.unwrap_or(0) ^ exceptions.unwrap_or(0).rotate_left(3)]
}

fn value<'a>(mark: &'a str, key: &str) -> Option<&'a str> {
    mark.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// What stands in classic pcap for a mark; see [`Rules::brand`]. `None` if that is no mark.
pub fn brand_of(mark: &str, is_one_of_several: bool) -> Option<[u8; 4]> {
    mark.strip_prefix(MARK)?;
    let hash = |key| value(mark, key).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let is = |key, word| value(mark, key) == Some(word);
    let bits = [
        (is("level", "shape"), SHAPE),
        (is("redact_addresses", "pseudonyms"), ADDRESSES),
        (is("redact_names", "pseudonyms"), NAMES),
        (is_one_of_several, SEVERAL),
    ];
    Some(brand(bits, hash("redact_rules"), hash("redact_exceptions")))
}

/// Whether a brand says that the file is one of several.
pub fn is_one_of_several(brand: [u8; 4]) -> bool {
    brand[..2] == *b"T2" && brand[2] & SEVERAL != 0
}

/// How the comment begins that says a file was redacted. Its version follows.
pub const MARK: &str = "tls2pcap=1 redacted=";

/// How replacements look: whoever changes that, changes this.
const FORMAT: &str = "1";

/// `None` if there is nothing.
fn hash<'a>(all: impl IntoIterator<Item = (u8, &'a HashSet<String>)>) -> Option<u8> {
    let mut texts: Vec<(u8, &str)> = Vec::new();
    for (kind, set) in all {
        texts.extend(set.iter().map(|text| (kind, text.as_str())));
    }
    texts.sort_unstable();
    let mut hasher = SipHasher24::new();
    for (kind, text) in &texts {
        hasher.write_u8(*kind);
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    (!texts.is_empty()).then(|| hasher.finish() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_from_a_file() {
        let mut rules = RulesBuilder::default();
        rules
            .add_file("# ours\n\nfield nick\n header  X-A \npattern order (\\d+) #\nallow sid\nlevel shape\naddresses pseudonyms\nnames keep\n")
            .unwrap();
        let expected = RulesBuilder {
            level: Level::Shape,
            headers: vec!["X-A".into()],
            fields: vec!["nick".into()],
            patterns: vec!["order (\\d+) #".into()],
            allowed: vec!["sid".into()],
            addresses: Identity::Pseudonyms,
            names: Identity::Keep,
        };
        assert_eq!(rules, expected);
        for (text, line) in [("field", 1), ("\nlevel all", 2), ("names x", 1), ("nouns x", 1)] {
            assert_eq!(RulesBuilder::default().add_file(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn a_mark_is_met_by_the_same_rules_and_by_weaker_ones() {
        let rules = |builder: RulesBuilder| builder.build(Key([1; 16])).unwrap();
        let plain = rules(RulesBuilder::default());
        let field = rules(RulesBuilder { fields: vec!["a".into()], ..Default::default() });
        let other = rules(RulesBuilder { fields: vec!["b".into()], ..Default::default() });
        let pattern = rules(RulesBuilder { patterns: vec!["a".into()], ..Default::default() });
        let allow = rules(RulesBuilder { allowed: vec!["a".into()], ..Default::default() });
        let shape = rules(RulesBuilder { level: Level::Shape, ..Default::default() });
        let addresses = rules(RulesBuilder { addresses: Identity::Pseudonyms, ..Default::default() });
        let both = rules(RulesBuilder {
            addresses: Identity::Pseudonyms,
            names: Identity::Pseudonyms,
            ..Default::default()
        });
        for (mine, theirs, met) in [
            (&addresses, &plain, false),
            (&plain, &addresses, true),
            (&addresses, &both, true),
            (&both, &addresses, false),
            (&both, &both, true),
            (&plain, &plain, true),
            (&plain, &field, true),
            (&field, &plain, false),
            (&field, &field, true),
            (&field, &other, false),
            (&pattern, &field, false),
            (&plain, &allow, false),
            (&allow, &allow, true),
            (&allow, &plain, true),
            (&plain, &shape, true),
            (&shape, &plain, false),
        ] {
            assert_eq!(mine.are_met_by(&theirs.summary()), met, "{} {}", mine.summary(), theirs.summary());
            assert_eq!(
                mine.are_met_by_brand(theirs.brand(false)),
                met,
                "{} {}",
                mine.summary(),
                theirs.summary()
            );
        }
        let says = |mine: &Rules, theirs: &Rules| {
            let by_brand = mine.without_pseudonyms_of_brand(theirs.brand(false));
            assert_eq!(mine.without_pseudonyms(&[theirs.summary()]), by_brand);
            by_brand
        };
        assert_eq!((says(&plain, &plain), says(&both, &both)), (vec![], vec![]));
        assert_eq!((says(&both, &addresses), says(&addresses, &plain)), (vec!["names"], vec!["addresses"]));
        assert_eq!(both.without_pseudonyms(&[]), ["addresses", "names"]);
        assert!(!plain.are_met_by("level=secrets") && !plain.are_met_by(""));
        assert!(!plain.are_met_by_brand([0; 4]) && !plain.are_met_by_brand(*b"T2\0\0"));
        for rules in [&plain, &field, &allow, &shape, &both] {
            assert_eq!(brand_of(&rules.mark(), true), Some(rules.brand(true)));
            assert!(rules.are_met_by_brand(rules.brand(true)) && is_one_of_several(rules.brand(true)));
        }
        assert_ne!(plain.brand(false), field.brand(false));
        assert_ne!(plain.brand(false), shape.brand(false));
    }
}
