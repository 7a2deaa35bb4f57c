//! Options about which connections are wanted: a filter expression, single ones of its words, and how much of each.

use clap::{Args, ValueEnum};

use super::usage;
use crate::config::{Follow, Targets};
use crate::event::numbers;
use crate::failure::Failure;
use crate::filter::{Filter, FilterError, Names, Needs};
use crate::privilege;
use crate::synth::Selection;

/// See the module.
#[derive(Args)]
#[command(next_help_heading = "Selecting")]
pub(super) struct SelectionOptions {
    /// Only connections with this address at either end; like all of these, may be repeated
    ///
    /// Each of these options is the keyword of the same name in an expression: --port 443 is `port 443`.
    #[arg(long, value_name = "ADDRESS")]
    host: Vec<String>,

    /// Only connections with this network, such as 10.0.0.0/8, at either end
    #[arg(long, value_name = "NETWORK")]
    net: Vec<String>,

    /// Only connections with this port at either end
    #[arg(long, value_name = "PORT")]
    port: Vec<String>,

    /// Only connections of processes with this command name (* and ? as in a shell)
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,

    /// Only connections of this executable: its name, or its path
    #[arg(long, value_name = "NAME|PATH")]
    exe: Vec<String>,

    /// Only connections of this container: its name, or the beginning of its id
    #[arg(long, value_name = "NAME|ID")]
    container: Vec<String>,

    /// Only connections to this server name, such as *.example.org
    #[arg(long, value_name = "NAME")]
    sni: Vec<String>,

    /// Only connections with this negotiated protocol, such as h2
    #[arg(long, value_name = "NAME")]
    alpn: Vec<String>,

    /// Only connections with this recognised protocol, such as http or imap
    #[arg(long, value_name = "NAME")]
    proto: Vec<String>,

    /// Only connections where the process is this end: client or server
    #[arg(long, value_name = "END")]
    role: Vec<String>,

    /// What to do with a connection if something that the expression asks for is unknown
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    unknown: Unknown,

    /// Keep one connection in N, completely
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,

    /// Keep this many bytes of each direction of a connection; of the rest, only the length
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = super::values::snaplen)]
    head: Option<u32>,

    /// Keep only the length of what the processes send
    #[arg(long, conflicts_with = "no_reads")]
    no_writes: bool,

    /// Keep only the length of what the processes receive
    #[arg(long)]
    no_reads: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Unknown {
    /// Keep it, with filter=unknown in the comment
    Keep,
    /// Leave it out
    Leave,
}

/// The names of this machine.
pub(crate) struct Machine;

impl Names for Machine {
    fn user(&self, name: &str) -> Option<u32> {
        privilege::user_id(name)
    }

    fn port(&self, name: &str) -> Option<u16> {
        let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
        services.lines().find_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let (first, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
            (first == name || words.any(|alias| alias == name)).then(|| port.parse().ok())?
        })
    }
}

impl SelectionOptions {
    /// What is wanted; `words` are those of the expression.
    pub(super) fn checked(self, words: &[String]) -> Result<Selection, Failure> {
        let mut parts = Vec::new();
        if !words.is_empty() {
            parts.push(words.join(" "));
        }
        let options = [
            ("host", self.host),
            ("net", self.net),
            ("port", self.port),
            ("comm", self.comm),
            ("exe", self.exe),
            ("container", self.container),
            ("sni", self.sni),
            ("alpn", self.alpn),
            ("proto", self.proto),
            ("role", self.role),
        ];
        for (name, values) in options {
            let quoted = values.iter().map(|value| format!("{name} {}", quoted(value)));
            let any = quoted.collect::<Vec<_>>().join(" or ");
            if !any.is_empty() {
                // Each separately, so that an error names the option.
                Filter::new(&any, &Machine).map_err(|error| usage(format!("--{name}: {error}"), ""))?;
                parts.push(any);
            }
        }
        if let [expression, ..] = &parts[..]
            && !words.is_empty()
        {
            Filter::new(expression, &Machine).map_err(|error| refused(&error, &words[0]))?;
        }
        let text = match &parts[..] {
            [] => None,
            [one] => Some(one.clone()),
            all => Some(all.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" and ")),
        };
        let filter = text.map(|text| Filter::new(&text, &Machine)).transpose();
        Ok(Selection {
            filter: filter.map_err(|error| usage(error.to_string(), ""))?,
            leaves_unknown: matches!(self.unknown, Unknown::Leave),
            sample: self.sample,
            head: self.head.map(u64::from),
            no_writes: self.no_writes,
            no_reads: self.no_reads,
        })
    }
}

/// An expression alone.
pub(super) fn filter(words: &[String]) -> Result<Option<Filter>, Failure> {
    let Some(first) = words.first() else { return Ok(None) };
    Filter::new(&words.join(" "), &Machine).map(Some).map_err(|error| refused(&error, first))
}

fn quoted(value: &str) -> String {
    let mark = if value.contains('"') { '\'' } else { '"' };
    format!("{mark}{value}{mark}")
}

/// A command without `--` before it is the likeliest mistake.
fn refused(error: &FilterError, word: &str) -> Failure {
    if !error.is_no_filter {
        return usage(error.to_string(), "docs/filter.md describes the expressions");
    }
    let cure = match word {
        "redact" => "put redact first: tls2pcap redact CAPTURE -o FILE".to_owned(),
        "read" => "put read first: tls2pcap read CAPTURE".to_owned(),
        "replay" => "put replay first: tls2pcap replay RECORDING -o FILE".to_owned(),
        _ => format!(
            "to run a command, put -- before it: tls2pcap -o FILE -- {word} …\nto select connections: docs/filter.md"
        ),
    };
    usage(format!("'{word}' is not expected here"), cure)
}

/// Why a word is not expected, if no expression begins with it.
pub(super) fn is_stray(word: &str) -> Option<Failure> {
    let error = Filter::new(word, &Machine).err().filter(|error| error.is_no_filter)?;
    Some(refused(&error, word))
}

/// The targets, if only the expression selects them; with `--all`, only the programs that it can match.
pub(super) fn narrowed(given: Option<Targets>, selection: &Selection) -> Option<Targets> {
    let needs = selection.filter.as_ref().map_or(Needs::Nothing, Filter::needs);
    match (given, needs) {
        (None | Some(Targets::Everything), Needs::Pids(pids)) if !pids.is_empty() => {
            Some(Targets::Pids { pids, follow: Follow::Nobody })
        }
        (None | Some(Targets::Everything), Needs::Uids(uids))
            if !uids.is_empty() && uids.len() <= numbers::UIDS_MAX as usize =>
        {
            Some(Targets::Users(uids))
        }
        (given, _) => given,
    }
}
