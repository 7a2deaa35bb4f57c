//! Which connections of a capture are wanted.

use crate::config::Filter;
use crate::failure::{Exit, Failure};
use crate::rewrite::seen::{Flow, Seen};

impl Filter {
    /// Whether everything is wanted.
    pub(super) fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// Of each connection, whether it is wanted.
pub(super) fn choose(filter: &Filter, seen: &Seen, is_classic: bool) -> Result<Vec<bool>, Failure> {
    if is_classic && !filter.processes.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "--process: classic pcap does not say which process a packet is of",
            "select connections with --conn or --host",
        ));
    }
    let end = seen.end();
    let failed: Vec<bool> = {
        let mut failed: Vec<bool> = seen.flows.iter().map(|_| false).collect();
        for exchange in seen.exchanges.iter().filter(|exchange| exchange.failure().is_some()) {
            if let Some(failed) = failed.get_mut(exchange.flow as usize) {
                *failed = true;
            }
        }
        failed
    };
    let wants = |(number, flow): (usize, &Flow)| {
        let of_process = |wanted: &String| flow.interfaces.iter().any(|i| is_process(seen, *i, wanted));
        let of_host = |wanted: &String| is_host(seen, number, flow, wanted);
        (filter.processes.is_empty() || filter.processes.iter().any(of_process))
            && (filter.connections.is_empty() || filter.connections.contains(&(number as u64)))
            && (filter.hosts.is_empty() || filter.hosts.iter().any(of_host))
            && filter
                .since
                .is_none_or(|since| flow.last >= end.saturating_sub(since.saturating_mul(1_000_000_000)))
            && (!filter.errors || failed[number] || (flow.is_reset && !has_exchange(seen, number)))
    };
    Ok(seen.flows.iter().enumerate().map(wants).collect())
}

fn has_exchange(seen: &Seen, flow: usize) -> bool {
    seen.exchanges.iter().any(|exchange| exchange.flow == flow as u64)
}

/// Interfaces of processes are called `name[pid]`.
fn is_process(seen: &Seen, interface: u32, wanted: &str) -> bool {
    let Some((name, _)) = seen.interfaces.get(interface as usize) else { return false };
    let (comm, pid) = name.strip_suffix(']').and_then(|name| name.rsplit_once('[')).unwrap_or((name, ""));
    [name.as_str(), comm, pid].contains(&wanted)
}

fn is_host(seen: &Seen, number: usize, flow: &Flow, wanted: &str) -> bool {
    let is = |host: &str| {
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        host.eq_ignore_ascii_case(wanted)
            || name.is_some_and(|(name, _)| name.trim_matches(['[', ']']).eq_ignore_ascii_case(wanted))
    };
    let said = |key: &str| flow.about.get(key).is_some_and(|value| is(value));
    said("sni")
        || said("remote")
        || said("local")
        || flow.ends.iter().any(|end| is(&end.to_string()))
        || seen.exchanges.iter().any(|exchange| exchange.flow == number as u64 && is(&exchange.host))
}

/// What there is to choose from.
pub(super) fn hint(filter: &Filter, seen: &Seen) -> String {
    let some = |mut names: Vec<String>| {
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(8);
        names.truncate(8);
        names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    if seen.flows.is_empty() {
        return "the capture has no TCP connection".into();
    }
    if !filter.processes.is_empty() {
        let names = seen.interfaces.iter().map(|(name, _)| name.clone()).collect();
        return format!("processes in it: {}", some(names));
    }
    if !filter.hosts.is_empty() {
        let hosts = seen.exchanges.iter().map(|exchange| exchange.host.clone());
        let names = seen.flows.iter().filter_map(|flow| flow.about.get("sni").cloned());
        return format!("hosts in it: {}", some(hosts.chain(names).collect()));
    }
    if !filter.connections.is_empty() {
        return format!(
            "connections are numbered from 0 to {}, as tcp.stream in Wireshark",
            seen.flows.len() - 1
        );
    }
    if filter.errors {
        return "no exchange has failed; leave --errors out".into();
    }
    "leave --since out, or give more time".into()
}
