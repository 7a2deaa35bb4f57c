//! The processes to choose from.

use crate::discover::Discovery;
use crate::discover::process::{name, processes};
use crate::printable;
use crate::privilege;

/// Most processes that are offered: more than anybody looks through.
const MAX: usize = 4096;

/// A process that carries a TLS library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) pid: u32,
    /// Its name, its pid, its library, for people.
    pub(super) shown: String,
}

/// All that this process may look into, by name.
pub(super) fn candidates() -> Vec<Candidate> {
    privilege::raise();
    let mut discovery = Discovery::default();
    let own = std::process::id();
    let mut all: Vec<Candidate> = processes()
        .into_iter()
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            // A process that has gone, or that may not be looked into, is no choice.
            let found = discovery.libraries_of(pid, None).ok()?.found;
            let first = found.first()?;
            let library = match first.version.as_str() {
                "" => first.path.file_name()?.to_string_lossy().into_owned(),
                version => version.to_owned(),
            };
            Some(Candidate {
                pid,
                shown: printable::line(&format!("{} ({pid}), {library}", name(pid)?)).into_owned(),
            })
        })
        .take(MAX)
        .collect();
    privilege::lower();
    all.sort_by(|a, b| (&a.shown, a.pid).cmp(&(&b.shown, b.pid)));
    all
}
