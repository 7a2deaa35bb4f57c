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
    Ok(wanted(filter, seen))
}

fn wanted(filter: &Filter, seen: &Seen) -> Vec<bool> {
    let end = seen.end();
    let mut failed = vec![false; seen.flows.len()];
    for exchange in seen.exchanges.iter().filter(|exchange| exchange.failure().is_some()) {
        if let Some(failed) = failed.get_mut(exchange.flow as usize) {
            *failed = true;
        }
    }
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
    seen.flows.iter().enumerate().map(wants).collect()
}

/// An option that no connection meets, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unmet {
    Process,
    Connection,
    Host,
    Since,
    Errors,
}

/// The first such; `None`: each is met, but not all by the same connection.
fn unmet(filter: &Filter, seen: &Seen) -> Option<Unmet> {
    let own = filter.clone();
    let alone = [
        (Unmet::Process, Filter { processes: own.processes, ..Filter::default() }),
        (Unmet::Connection, Filter { connections: own.connections, ..Filter::default() }),
        (Unmet::Host, Filter { hosts: own.hosts, ..Filter::default() }),
        (Unmet::Since, Filter { since: own.since, ..Filter::default() }),
        (Unmet::Errors, Filter { errors: own.errors, ..Filter::default() }),
    ];
    let none = |filter: &Filter| !filter.is_empty() && !wanted(filter, seen).contains(&true);
    alone.into_iter().find(|(_, filter)| none(filter)).map(|(unmet, _)| unmet)
}

/// Why no connection is wanted. `given`: the filter in the words of the user.
pub(super) fn reason(filter: &Filter, given: &Filter, seen: &Seen) -> String {
    if seen.flows.is_empty() {
        return "it has no TCP connection".into();
    }
    match unmet(filter, seen) {
        Some(Unmet::Process) => format!("no connection is of the process {}", given.processes.join(", ")),
        Some(Unmet::Connection) => {
            let numbers: Vec<String> = given.connections.iter().map(u64::to_string).collect();
            format!("it has no connection {}", numbers.join(", "))
        }
        Some(Unmet::Host) => format!("no connection is to or from {}", given.hosts.join(", ")),
        Some(Unmet::Since) => "no connection was active so late".into(),
        Some(Unmet::Errors) => "no exchange has failed".into(),
        None => "no connection meets all these options at once".into(),
    }
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
pub(super) fn hint(filter: &Filter, given: &Filter, seen: &Seen) -> String {
    let some = |mut names: Vec<String>| {
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(8);
        names.truncate(8);
        names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    let of = |what: &str, names: Vec<String>| match some(names) {
        names if names.is_empty() => format!("the capture names no {what}"),
        names => format!("{what} in it: {names}"),
    };
    if seen.flows.is_empty() {
        return if *given == Filter::default() {
            String::new()
        } else {
            "leave the options out that choose connections".into()
        };
    }
    match unmet(filter, seen) {
        Some(Unmet::Process) => {
            of("processes", seen.interfaces.iter().map(|(name, _)| name.clone()).collect())
        }
        Some(Unmet::Host) => {
            let hosts = seen.exchanges.iter().map(|exchange| exchange.host.clone());
            let names = seen.flows.iter().filter_map(|flow| flow.about.get("sni").cloned());
            let all: Vec<String> = hosts.chain(names).filter(|name| !name.is_empty()).collect();
            let addresses = || seen.flows.iter().map(|flow| flow.ends[1].ip().to_string()).collect();
            of("hosts", if all.is_empty() { addresses() } else { all })
        }
        Some(Unmet::Connection) => match seen.flows.len() {
            1 => "the only one has number 0, as tcp.stream in Wireshark".into(),
            more => format!("they are numbered from 0 to {}, as tcp.stream in Wireshark", more - 1),
        },
        Some(Unmet::Errors) => "leave --errors out".into(),
        Some(Unmet::Since) => "leave --since out, or give more time".into(),
        None => "leave one of them out".into(),
    }
}
