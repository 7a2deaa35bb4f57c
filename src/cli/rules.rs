//! Options that say what is to be redacted.

use std::path::PathBuf;

use clap::Args;

use crate::config::Redaction;
use crate::redact::{Identity, Level, RulesBuilder};

#[derive(Args)]
pub(super) struct Rules {
    /// How much to remove
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "secrets")]
    level: Level,

    /// Replace the value of this HTTP header too; may be repeated
    #[arg(long = "header", value_name = "NAME")]
    headers: Vec<String>,

    /// Replace fields of this name too, in queries, forms, JSON, XML and multipart; may be repeated
    #[arg(long = "field", value_name = "NAME")]
    fields: Vec<String>,

    /// Replace what this regular expression matches too, or its first group; may be repeated
    #[arg(long = "pattern", value_name = "REGEX")]
    patterns: Vec<String>,

    /// Keep the header or field of this name; may be repeated
    #[arg(long = "allow", value_name = "NAME")]
    allowed: Vec<String>,

    /// What to do with addresses: IP and hardware, in headers, text and comments
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    addresses: Identity,

    /// What to do with names of hosts and users, and users' folders in paths
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    names: Identity,

    /// Read more such rules from this file, one per line, such as: field nickname
    ///
    /// A line is one of header, field, pattern, allow, level, addresses and names, and its value; # begins a comment.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Make replacements with the bytes of this file, so that several captures get the same ones
    ///
    /// Anyone who has it can find the value behind a replacement by trying. Without it a random key is
    /// used and discarded.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl From<Rules> for Redaction {
    fn from(rules: Rules) -> Redaction {
        let Rules { level, headers, fields, patterns, allowed, addresses, names, rules: file, key } = rules;
        let rules = RulesBuilder { level, headers, fields, patterns, allowed, addresses, names };
        Redaction { rules, file, key }
    }
}

/// Those of a capture.
#[derive(Args)]
pub(super) struct Live {
    /// Remove secrets before anything is written, as `tls2pcap redact` does
    ///
    /// Nothing else reaches a file, a pipe or a client. Data that belongs together, such as a compressed body, waits for
    /// up to a second, and is masked if it takes longer. Not with --record, which keeps everything.
    #[arg(long)]
    redact: bool,

    /// With --redact, read rules from this file, one per line, such as: field nickname
    #[arg(long, value_name = "FILE", requires = "redact")]
    redact_rules: Option<PathBuf>,
}

impl From<Live> for Option<Redaction> {
    fn from(live: Live) -> Option<Redaction> {
        live.redact.then_some(Redaction { file: live.redact_rules, ..Redaction::default() })
    }
}
