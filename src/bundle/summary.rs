//! `summary.md`: what an issue tracker shows. All text from the capture is in code spans, so that nothing in it is a link, a mention or
//! HTML.

use std::fmt::Write;

use super::Made;
use crate::config::Filter;
use crate::redact::Kind;
use crate::rewrite::seen::{Exchange, Flow};
use crate::rewrite::select::Taken;

/// Rows of the tables.
const FAILED_MAX: usize = 50;
const EXCHANGES_MAX: usize = 200;
const FLOWS_MAX: usize = 100;
/// Longest text in a cell.
const CELL_MAX: usize = 100;

pub(super) struct Summary<'a> {
    pub(super) made: &'a Made,
    /// The capture was made for this report.
    pub(super) is_live: bool,
    pub(super) filter: &'a Filter,
}

/// Text from the capture as a code span that fits into a table.
fn code(text: &str) -> String {
    let mut out = String::from("`");
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == CELL_MAX => {
                out.push('…');
                break;
            }
            '`' => out.push('\''),
            '|' => out.push_str("\\|"),
            c if c.is_control() || c.is_whitespace() => out.push(' '),
            // These turn text around.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('?'),
            c => out.push(c),
        }
    }
    // A span may neither be empty nor end in a backslash.
    out.push_str(if text.trim().is_empty() {
        "-`"
    } else if out.ends_with('\\') {
        " `"
    } else {
        "`"
    });
    out
}

fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

fn span(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// A time in UTC; with milliseconds and without the day, if `short`.
fn time(ns: u64, short: bool) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(i128::from(ns)) else { return "-".into() };
    let format = if short { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S UTC" };
    time.strftime(format).to_string()
}

/// Where what was replaced, one packet a line.
pub(super) fn places(taken: &Taken) -> String {
    let mut text = String::from("packet\ttcp.stream\treplaced\n");
    for (packet, stream, kinds) in &taken.places {
        let stream = stream.map_or("-".into(), |stream| stream.to_string());
        let _ = writeln!(text, "{packet}\t{stream}\t{kinds}");
    }
    text
}

impl Summary<'_> {
    fn exchanges(&self) -> impl Iterator<Item = (&Exchange, u64)> {
        let streams = &self.made.taken.streams;
        self.made.seen.exchanges.iter().filter_map(|e| Some((e, *streams.get(&(e.flow as usize))?)))
    }

    /// Connections with their numbers, in order.
    fn flows(&self) -> Vec<(&Flow, u64)> {
        let made = self.made;
        let all = made.taken.streams.iter();
        let mut flows: Vec<_> =
            all.filter_map(|(flow, number)| Some((made.seen.flows.get(*flow)?, *number))).collect();
        flows.sort_by_key(|(_, number)| *number);
        flows
    }

    fn processes(&self) -> Vec<String> {
        let seen = &self.made.seen;
        let mut names: Vec<String> = Vec::new();
        for (flow, _) in self.flows() {
            for interface in &flow.interfaces {
                let name = seen.interfaces.get(*interface as usize).map(|(name, _)| name.clone());
                if let Some(name) = name.filter(|name| !name.is_empty() && !names.contains(name)) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// One line for the terminal.
    pub(super) fn line(&self) -> String {
        let failed = self.exchanges().filter(|(e, _)| e.failure().is_some()).count() as u64;
        let exchanges = self.exchanges().count() as u64;
        format!(
            "{}, {} failed, on {} in {}\n",
            count(exchanges, "exchange", "exchanges"),
            failed,
            count(self.made.taken.streams.len() as u64, "connection", "connections"),
            count(self.made.taken.packets, "packet", "packets"),
        )
    }

    /// What makes it smaller.
    pub(super) fn how_to_shrink(&self) -> String {
        let flows = self.flows();
        let all: u64 = flows.iter().map(|(flow, _)| flow.bytes).sum();
        let largest = flows.iter().max_by_key(|(flow, _)| flow.bytes);
        let mut hints = Vec::new();
        if !self.filter.errors && self.exchanges().any(|(e, _)| e.failure().is_some()) {
            hints.push("--errors keeps only connections with a failed exchange".to_owned());
        }
        if self.filter.since.is_none() {
            hints.push("--since 30s keeps what was active at the end".into());
        }
        hints.push("--host and --conn select connections".into());
        if let Some((flow, number)) = largest {
            let share = flow.bytes * 100 / all.max(1);
            hints.push(format!(
                "{share} % is on tcp.stream {number}, to {}",
                flow.about.get("sni").cloned().unwrap_or_else(|| flow.ends[1].to_string())
            ));
        }
        hints.push("--snaplen while capturing leaves large bodies out".into());
        hints.join("\n  ")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::from("# Capture report\n\n");
        self.overview(&mut text);
        self.failures(&mut text);
        self.all_exchanges(&mut text);
        self.connections(&mut text);
        self.missing(&mut text);
        self.environment(&mut text);
        self.replaced(&mut text);
        text
    }

    fn overview(&self, text: &mut String) {
        let flows = self.flows();
        let first = flows.iter().map(|(flow, _)| flow.first).min().unwrap_or(0);
        let last = flows.iter().map(|(flow, _)| flow.last).max().unwrap_or(first);
        let names: Vec<String> = self.processes().iter().take(8).map(|name| code(name)).collect();
        let of = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
        let exchanges = self.exchanges().count() as u64;
        let failed = self.exchanges().filter(|(e, _)| e.failure().is_some()).count();
        let _ = writeln!(
            text,
            "{} on {}{of}, **{failed} failed**, from {} on for {}.",
            count(exchanges, "exchange", "exchanges"),
            count(flows.len() as u64, "connection", "connections"),
            time(first, false),
            span(last - first),
        );
        let left = self.made.seen.flows.len().saturating_sub(flows.len()) as u64;
        if left > 0 {
            let _ = writeln!(text, "Left out: {}.", count(left, "other connection", "other connections"));
        }
        if let Some(damage) = &self.made.damage {
            let _ = writeln!(text, "The capture is damaged: {}.", code(damage));
        }
        let _ = writeln!(
            text,
            "\nOpen `{}` in Wireshark 4.0 or later: it shows what is inside TLS, without keys. Passwords, cookies, tokens and \
             similar values were replaced before, by values of the same length.",
            self.made.name
        );
    }

    fn table(&self, text: &mut String, rows: &[(&Exchange, u64)], with_failure: bool) {
        text.push_str("| time (UTC) | tcp.stream | request | host | result | sent | received | took |\n");
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        for (e, stream) in rows {
            let status = e.status.map_or("-".into(), |status| status.to_string());
            let result = match e.failure().filter(|_| with_failure) {
                Some(failure) => failure,
                None if e.failure().is_some() => format!("{status} ✗"),
                None => status,
            };
            let took = e.ended.or(e.answered).map_or("-".into(), |end| span(end.saturating_sub(e.began)));
            let _ = writeln!(
                text,
                "| {} | {stream} | {} | {} | {result} | {} | {} | {took} |",
                time(e.began, true),
                if e.method.is_empty() {
                    "not captured".into()
                } else {
                    code(&format!("{} {}", e.method, e.target))
                },
                code(&e.host),
                bytes(e.sent),
                bytes(e.received),
            );
        }
    }

    fn failures(&self, text: &mut String) {
        let failed: Vec<_> = self.exchanges().filter(|(e, _)| e.failure().is_some()).collect();
        if failed.is_empty() {
            return;
        }
        text.push_str("\n## Failed\n\n");
        self.table(text, &failed[..failed.len().min(FAILED_MAX)], true);
        more(text, failed.len(), FAILED_MAX);
    }

    fn all_exchanges(&self, text: &mut String) {
        let all: Vec<_> = self.exchanges().collect();
        if all.is_empty() {
            return;
        }
        text.push_str("\n## Exchanges\n\n");
        self.table(text, &all[..all.len().min(EXCHANGES_MAX)], false);
        more(text, all.len(), EXCHANGES_MAX);
        if self.made.seen.dropped > 0 {
            let _ = writeln!(text, "\n{} more were not recorded individually.", self.made.seen.dropped);
        }
    }

    fn connections(&self, text: &mut String) {
        let flows = self.flows();
        if flows.is_empty() {
            return;
        }
        text.push_str("\n## Connections\n\n");
        text.push_str("| tcp.stream | process | from | to | server name | protocol | payload | packets | end | missing |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        for (flow, number) in flows.iter().take(FLOWS_MAX) {
            let names = &self.made.seen.interfaces;
            let process =
                flow.interfaces.first().and_then(|i| names.get(*i as usize)).map_or("", |(name, _)| name);
            let about = |key: &str| flow.about.get(key).map_or("-".into(), |value| code(value));
            let protocol = match (flow.is_http2, flow.about.get("proto")) {
                (_, Some(proto)) => code(proto),
                (true, _) => "http/2".into(),
                _ => "-".into(),
            };
            // The true addresses, where the written ones are not.
            let (local, remote) = (flow.about.get("local"), flow.about.get("remote"));
            let is_server = flow.about.get("role").is_some_and(|role| role == "server");
            let [from, to] = match (local, remote, is_server) {
                (Some(local), Some(remote), false) => [local.clone(), remote.clone()],
                (Some(local), Some(remote), true) => [remote.clone(), local.clone()],
                _ => flow.ends.map(|end| end.to_string()),
            };
            let end = match (flow.is_reset, flow.fins) {
                (true, _) => "RST",
                (_, 3) => "FIN",
                (_, 0) => "open",
                _ => "half open",
            };
            let missing = match (flow.holes, flow.missing) {
                (0, _) => "-".into(),
                (holes, Some(missing)) => format!("{} in {}", bytes(missing), count(holes, "hole", "holes")),
                (holes, None) => format!("unknown, in {}", count(holes, "hole", "holes")),
            };
            let _ = writeln!(
                text,
                "| {number} | {} | {} | {} | {} | {protocol} | {} | {} | {end} | {missing} |",
                code(process),
                code(&from),
                code(&to),
                about("sni"),
                bytes(flow.bytes),
                flow.packets,
            );
        }
        more(text, flows.len(), FLOWS_MAX);
    }

    fn missing(&self, text: &mut String) {
        if self.made.seen.losses.is_empty() {
            return;
        }
        text.push_str("\n## Not captured\n\n");
        for loss in self.made.seen.losses.iter().take(20) {
            let _ = writeln!(text, "- {}", code(loss.strip_prefix("tls2pcap=1 ").unwrap_or(loss)));
        }
        more(text, self.made.seen.losses.len(), 20);
    }

    fn environment(&self, text: &mut String) {
        let seen = &self.made.seen;
        text.push_str("\n## Environment\n\n");
        let mut row = |name: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(text, "- {name}: {}", code(value));
            }
        };
        row("captured by", &seen.program);
        row("report by", concat!("tls2pcap ", env!("CARGO_PKG_VERSION")));
        row("kernel", &format!("{} {}", seen.system, seen.hardware));
        let mut libraries: Vec<&String> = Vec::new();
        let mut programs: Vec<&String> = Vec::new();
        for (flow, _) in self.flows() {
            for (list, key) in [(&mut libraries, "library"), (&mut programs, "exe")] {
                if let Some(value) = flow.about.get(key).filter(|value| !list.contains(value)) {
                    list.push(value);
                }
            }
        }
        programs.iter().take(8).for_each(|program| row("program", program));
        libraries.iter().take(8).for_each(|library| row("TLS library", library));
        for comment in seen.comments.iter().filter(|comment| !comment.starts_with("tls2pcap=1")).take(4) {
            row("comment in the capture", comment);
        }
        let whose =
            if self.is_live { "of this machine" } else { "of the machine where this report was made" };
        let _ = writeln!(text, "- `doctor.json`: what tls2pcap can capture, {whose}");
    }

    fn replaced(&self, text: &mut String) {
        text.push_str("\n## What was replaced\n\n");
        let mut kinds: Vec<(&String, &u64)> = self.made.taken.kinds.iter().collect();
        kinds.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        if kinds.is_empty() {
            // Classic pcap has no place for it.
            for (kind, n) in &self.made.kinds {
                let _ = writeln!(text, "- {kind}{}: {n} in the whole capture", masked(*kind));
            }
            if self.made.kinds.is_empty() {
                text.push_str("Nothing: no secret was found.\n");
            }
        } else {
            text.push_str("| kind | packets |\n|---|---|\n");
            for (kind, n) in kinds {
                let _ = writeln!(text, "| {kind} | {n} |");
            }
            text.push_str("\n`replaced.tsv` says in which packets. ");
            text.push_str("In Wireshark, `tls2pcap.redacted` finds them, or their comments.\n");
        }
        let rules = self.made.mark.split_once(" level=").map_or("", |(_, rules)| rules);
        let _ = writeln!(
            text,
            "\nRules: {}. After that a check found nothing that these rules replace. It cannot find a secret \
             in free text or under an innocuous name: docs/sharing.md of tls2pcap says what redaction cannot promise.",
            code(&format!("level={rules}"))
        );
    }
}

fn masked(kind: Kind) -> &'static str {
    if kind.is_masked_whole() { " (masked whole)" } else { "" }
}

fn more(text: &mut String, all: usize, most: usize) {
    if all > most {
        let _ = writeln!(text, "\n… and {} more.", all - most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_capture_stays_text() {
        for (text, expected) in [
            ("GET /a|b", "`GET /a\\|b`"),
            ("`x` @me #1 <b>", "`'x' @me #1 <b>`"),
            ("a\r\nb\u{202e}", "`a  b?`"),
            ("", "`-`"),
            ("a\\", "`a\\ `"),
        ] {
            assert_eq!(code(text), expected);
        }
        assert_eq!(code(&"x".repeat(300)).chars().count(), CELL_MAX + 3);
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_796_043_561_111_688_946, false), "2026-11-30 12:59:21 UTC");
        assert_eq!(time(1_796_043_561_111_688_946, true), "12:59:21.111");
    }
}
