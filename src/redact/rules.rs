//! What is to be replaced.

use std::collections::HashSet;

use regex::bytes::{Regex, RegexBuilder};

/// How much is taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What is known or likely to be a secret, and what is not understood.
    #[default]
    Secrets,
    /// All but structure: methods, paths, status, names, sizes and frame types stay.
    Shape,
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
}

/// What is to be replaced, checked.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) level: Level,
    pub(super) headers: HashSet<String>,
    pub(super) fields: HashSet<String>,
    pub(super) patterns: Vec<Regex>,
    pub(super) allowed: HashSet<String>,
    pub(super) key: Key,
}

impl RulesBuilder {
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
            key,
        })
    }
}

impl Rules {
    /// How much is taken out.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What a file says of the rules that it was made by. Names and patterns of the user may be secrets: only
    /// their number is said.
    pub fn summary(&self) -> String {
        let level = match self.level {
            Level::Secrets => "secrets",
            Level::Shape => "shape",
        };
        let own = [
            ("headers", self.headers.len()),
            ("fields", self.fields.len()),
            ("patterns", self.patterns.len()),
            ("allowed", self.allowed.len()),
        ];
        let own = own.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!(" redact_{name}={n}"));
        format!("level={level}{}", own.collect::<String>())
    }
}
