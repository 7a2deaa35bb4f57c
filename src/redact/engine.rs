//! What all parsers share: the rules, the replacements, and what was found.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use foldhash::fast::RandomState;

use super::address::Addresses;
use super::cloak::{Cloak, Escape};
use super::facts::{FACTS_MAX, Fact};
use super::kind::{Found, Kind};
use super::patterns::Patterns;
use super::rules::{Identity, Level, Rules};
use super::{fill, names, patterns, text};

/// Names whose meaning is remembered. At the bound all are forgotten.
const NAMES_MAX: usize = 32_768;
/// Longest name that is looked at; a longer one is a secret.
const NAME_MAX: usize = 128;

/// Replaces values as the rules say. One for a file, so that the same value has the same replacement throughout.
pub struct Engine {
    rules: Rules,
    cloak: Cloak,
    addresses: Addresses,
    /// See [`Engine::recognise`].
    recognises: bool,
    /// See [`Engine::spare_addresses`].
    spares_addresses: bool,
    patterns: Patterns,
    names: HashMap<Box<[u8]>, bool, RandomState>,
    /// See [`Engine::trust`].
    trusts: bool,
    /// Relative to whatever slice the innermost parser works on.
    found: Vec<Found>,
    /// What parsers see on their way; `None`: nobody asks.
    facts: Option<Vec<Fact>>,
    /// Where that slice begins in the outermost one.
    base: usize,
    /// Replacements in the outermost slice, by where they begin: several parsers may look at the same value, but it is replaced
    /// once.
    done: BTreeMap<usize, Vec<u8>>,
}

impl Engine {
    /// An engine that works by these rules.
    pub fn new(rules: Rules) -> Engine {
        let cloak = Cloak::new(rules.key.clone());
        let addresses = Addresses::new(rules.key.clone());
        let patterns = Patterns::new(rules.patterns.clone());
        Engine {
            rules,
            cloak,
            addresses,
            recognises: false,
            spares_addresses: false,
            patterns,
            names: HashMap::default(),
            trusts: false,
            found: Vec::new(),
            facts: None,
            base: 0,
            done: BTreeMap::new(),
        }
    }

    /// From now on, remembers what it sees of exchanges.
    pub fn observe(&mut self) {
        self.facts = Some(Vec::new());
    }

    /// What was seen since the last call.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        self.facts.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn tell(&mut self, fact: impl FnOnce() -> Fact) {
        if let Some(facts) = self.facts.as_mut().filter(|facts| facts.len() < FACTS_MAX) {
            facts.push(fact());
        }
    }

    /// Whether what comes was redacted before, by these rules or stricter ones: then what looks like a replacement is one.
    pub fn recognise(&mut self, recognises: bool) {
        self.recognises = recognises;
        self.cloak.recognise(recognises);
    }

    /// Whether what comes is a part of what was redacted as a whole, by these rules or stricter ones: then what no parser
    /// understands may be the rest of something that one has understood, and stays.
    pub fn trust(&mut self, trusts: bool) {
        self.trusts = trusts;
    }

    pub(super) fn trusts(&self) -> bool {
        self.trusts
    }

    /// Whether addresses are to have pseudonyms, and have none yet.
    pub fn hides_addresses(&self) -> bool {
        self.rules.addresses == Identity::Pseudonyms && !self.recognises && !self.spares_addresses
    }

    /// Whether what looks like an address is none for now. Gives whether it was before.
    pub(super) fn spare_addresses(&mut self, spares: bool) -> bool {
        std::mem::replace(&mut self.spares_addresses, spares)
    }

    /// Whether names have no pseudonyms yet, though they are to.
    pub(super) fn hides_names(&self) -> bool {
        self.rules.names == Identity::Pseudonyms && !self.recognises
    }

    /// What makes pseudonyms of addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// By what rules it works.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn is_shape(&self) -> bool {
        self.rules.level == Level::Shape
    }

    pub(super) fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// Takes what was found since the last call. The bytes that it was found in are not looked at again.
    pub(super) fn take_found(&mut self) -> Vec<Found> {
        self.done.clear();
        std::mem::take(&mut self.found)
    }

    /// Puts back what was taken.
    pub(super) fn put_back(&mut self, found: Vec<Found>) {
        self.found = found;
    }

    pub(super) fn found_so_far(&self) -> usize {
        self.found.len()
    }

    /// Takes back what was found since then. Gives what the first was.
    pub(super) fn forget_since(&mut self, mark: usize) -> Option<Kind> {
        self.found.drain(mark..).next().map(|found| found.kind)
    }

    /// Where what was replaced can be cut at `border` or before: behind no replacement that begins less than `context` bytes
    /// after it, and within none.
    pub(super) fn border(&self, border: usize, context: usize) -> usize {
        let mut border = self.base + border;
        for (start, made) in self.done.iter().rev() {
            if *start < border + context && start + made.len() > border {
                border = start.saturating_sub(context).max(self.base);
            }
        }
        border - self.base
    }

    /// Where the last replacement ends that does so before `border`.
    pub(super) fn last_end(&self, border: usize) -> usize {
        let ends = self.done.iter().rev().map(|(start, made)| start + made.len());
        ends.map(|end| end.saturating_sub(self.base)).find(|end| *end <= border).unwrap_or(0)
    }

    /// Takes back what was found since `mark` and is not before `border`.
    pub(super) fn retract(&mut self, mark: usize, border: usize) {
        let since = self.found.split_off(mark);
        self.found.extend(since.into_iter().filter(|found| found.at < border as u64));
        self.done.split_off(&(self.base + border));
    }

    /// Says that the bytes at `at` were replaced.
    pub(super) fn note(&mut self, at: usize, kind: Kind) {
        self.found.push(Found { at: at as u64, kind });
    }

    /// Lets a parser work on what begins at `start` of the caller's bytes.
    pub(super) fn within<T>(&mut self, start: usize, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mark = self.found.len();
        self.base += start;
        let result = work(self);
        self.base -= start;
        self.found[mark..].iter_mut().for_each(|found| found.at += start as u64);
        result
    }

    /// Lets a parser work on a copy of what stands at `at`: all that it finds is there.
    pub(super) fn all_at<T>(&mut self, at: usize, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mark = self.found.len();
        let outer = (std::mem::take(&mut self.done), std::mem::take(&mut self.base));
        let result = work(self);
        (self.done, self.base) = outer;
        self.found[mark..].iter_mut().for_each(|found| found.at = at as u64);
        result
    }

    /// Replaces a value, but for a known prefix that says what it is.
    pub(super) fn cloak(&mut self, bytes: &mut [u8], range: Range<usize>, kind: Kind, escape: Escape) {
        let start = range.start + patterns::public_prefix(&bytes[range.clone()]);
        let value = &mut bytes[start..range.end];
        if self.is_done(start, value) {
            return;
        }
        let is_new = self.cloak.replace(value, escape);
        if is_new || self.recognises {
            // Another parser, to which other characters are escapes, must leave it alone too.
            self.done.insert(self.base + start, value.to_vec());
        }
        if is_new {
            self.note(range.start, kind);
        }
    }

    /// Puts a pseudonym where a name or address begins, unless one is there already.
    pub(super) fn place(&mut self, bytes: &mut [u8], start: usize, new: &[u8], kind: Kind) {
        let value = &mut bytes[start..start + new.len()];
        if self.is_done(start, value) || value == new {
            return;
        }
        value.copy_from_slice(new);
        self.done.insert(self.base + start, new.to_vec());
        self.note(start, kind);
    }

    /// Replaces a label of a host's name, by what is behind it.
    pub(super) fn label(&self, label: &mut [u8], behind: &[u8]) {
        self.cloak.replace_in(label, Escape::Header, behind);
    }

    /// Whether a value that begins at `start` is a replacement, or a part of one, that was just made.
    fn is_done(&self, start: usize, value: &[u8]) -> bool {
        let start = self.base + start;
        self.done.range(..=start).next_back().is_some_and(|(at, made)| {
            let from = start - at;
            made.get(from..from + value.len()).is_some_and(|part| part == value)
        })
    }

    /// Fills text that nobody understands.
    pub(super) fn fill_text(&mut self, bytes: &mut [u8], range: Range<usize>, kind: Kind) {
        if self.trusts {
            return text::tokens(self, bytes, range);
        }
        if let Some(at) = fill::text(&mut bytes[range.clone()]) {
            self.note(range.start + at, kind);
        }
    }

    /// Fills what is no text.
    pub(super) fn fill_whole(&mut self, bytes: &mut [u8], range: Range<usize>, kind: Kind) {
        if self.trusts {
            return text::tokens(self, bytes, range);
        }
        if let Some(at) = fill::whole(&mut bytes[range.clone()]) {
            self.note(range.start + at, kind);
        }
    }

    /// Whether a field of this name is a secret.
    pub(super) fn is_secret_field(&mut self, name: &[u8]) -> bool {
        // Most names are short words of no interest; there is none of this length.
        if name.len() < 2 {
            return !name.is_empty()
                && self.rules.fields.contains(&String::from_utf8_lossy(name).to_ascii_lowercase());
        }
        if name.len() > NAME_MAX {
            return true;
        }
        if self.rules.fields.is_empty() && !names::may_be_secret_field(name) {
            return false;
        }
        if let Some(secret) = self.names.get(name) {
            return *secret;
        }
        let text = String::from_utf8_lossy(name);
        let lower = text.to_ascii_lowercase();
        let secret = !self.rules.allowed.contains(&lower)
            && (self.rules.fields.contains(&lower) || names::is_secret_field(&text));
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(name.into(), secret);
        secret
    }

    /// Whether a field of this name is a user's, and users are to have pseudonyms.
    pub(super) fn is_user_field(&self, name: &[u8]) -> bool {
        self.hides_names()
            && name.len() <= NAME_MAX
            && names::is_user_field(&String::from_utf8_lossy(name))
            && !self.is_allowed(&String::from_utf8_lossy(name).to_ascii_lowercase())
    }

    /// Whether a header of this name, in lower case, is a secret.
    pub(super) fn is_secret_header(&self, lower: &str) -> bool {
        !self.rules.allowed.contains(lower)
            && (self.rules.headers.contains(lower) || names::is_secret_header(lower))
    }

    /// Whether the user wants a header or field, in lower case, to stay.
    pub(super) fn is_allowed(&self, lower: &str) -> bool {
        self.rules.allowed.contains(lower)
    }
}
