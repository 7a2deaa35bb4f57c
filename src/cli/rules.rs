//! Options that say what is to be redacted.

use std::path::PathBuf;

use clap::Args;

use crate::config::Redaction;
use crate::redact::{Identity, Level, RulesBuilder};

#[derive(Args)]
pub(super) struct Rules {
    /// How much is taken out
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "secrets")]
    level: Level,

    /// Replace the value of this HTTP header too; may be given several times
    #[arg(long = "header", value_name = "NAME")]
    headers: Vec<String>,

    /// Replace fields of this name too, in queries, forms, JSON, XML and multipart; may be given several times
    #[arg(long = "field", value_name = "NAME")]
    fields: Vec<String>,

    /// Replace what this regular expression matches too, or its first group; may be given several times
    #[arg(long = "pattern", value_name = "REGEX")]
    patterns: Vec<String>,

    /// Let the header or field of this name stay; may be given several times
    #[arg(long = "allow", value_name = "NAME")]
    allowed: Vec<String>,

    /// What becomes of addresses: IP and hardware, in headers, text and comments
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    addresses: Identity,

    /// What becomes of names of hosts and users, and of users' folders in paths
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    names: Identity,

    /// Take more such rules from this file, one a line, as: field nickname
    ///
    /// A line is one of header, field, pattern, allow, level, addresses and names, and its value; # begins a comment.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Make replacements with the bytes of this file, so that several captures get the same ones
    ///
    /// Whoever has it can find out what a replacement stands for, by trying. Without it a random key is
    /// taken, and forgotten.
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
    /// Take secrets out before anything is written, as `tls2pcap redact` does
    ///
    /// Nothing else reaches a file, a pipe or a client. What belongs together, as a compressed body, is waited for up to
    /// a second, and masked if it takes longer. Not with --record, which keeps all as it was.
    #[arg(long)]
    redact: bool,

    /// With --redact, take rules from this file, one a line, as: field nickname
    #[arg(long, value_name = "FILE", requires = "redact")]
    redact_rules: Option<PathBuf>,
}

impl From<Live> for Option<Redaction> {
    fn from(live: Live) -> Option<Redaction> {
        live.redact.then_some(Redaction { file: live.redact_rules, ..Redaction::default() })
    }
}
