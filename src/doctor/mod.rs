//! Which processes speak TLS, whether they can be captured, and if not, why.
//!
//! Nothing is captured: /proc and files are read, and [`crate::probe::Survey`] tries the kernel.

mod gather;
mod report;
mod text;

use std::io::{self, Write as _};

use crate::capture;
use crate::config::Doctor;
use crate::discover::Discovery;
use crate::failure::{Exit, Failure};
use crate::printable;
use crate::privilege;
use crate::probe::Survey;

use self::report::{BackEnd, Conclusion, FORMAT, Kernel, Privileges, Refused, Report, Tried};

/// Says all on standard output. The status tells whether a capture would work.
///
/// # Errors
/// A [`Failure`] for the user: standard output cannot be written.
pub fn run(config: &Doctor) -> Result<Exit, Failure> {
    let (report, exit) = examine(config);
    let said = if config.json {
        json(&report)?
    } else {
        printable::lines(&text::render(&report, &config.pids)).into_owned()
    };
    match io::stdout().write_all(said.as_bytes()).and_then(|()| io::stdout().flush()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, format!("standard output cannot be written: {error}"), ""))
        }
        _ => Ok(exit),
    }
}

fn json(report: &Report) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(report);
    Ok(json.map_err(|error| Failure::new(Exit::Io, format!("the report is not valid JSON: {error}"), ""))?
        + "\n")
}

/// The JSON for others than the user: of this machine, but of no processes except these.
///
/// # Errors
/// A [`Failure`] for the user: there is no JSON of it.
pub(crate) fn of(pids: &[u32]) -> Result<String, Failure> {
    let (mut report, _) = examine(&Doctor { pids: vec![], json: true });
    report.processes.retain(|process| pids.contains(&process.pid));
    let used: Vec<usize> = report.processes.iter().flat_map(|process| &process.libraries).copied().collect();
    report.libraries.retain(|library| used.contains(&library.id));
    report.hidden.clear();
    json(&report)
}

fn examine(config: &Doctor) -> (Report, Exit) {
    privilege::raise();
    let allowed = privilege::check();
    let survey = match &allowed {
        Ok(_) => Survey::make().map_err(|error| capture::refusal(&error)),
        Err(failure) => Err(failure.clone()),
    };
    let found = gather::processes(&config.pids);
    let mut verdict = Conclusion { works: survey.is_ok(), ..Conclusion::default() };
    let failure = match (survey.as_ref().err().cloned(), found.gone(&config.pids)) {
        (Some(failure), Some(gone)) => {
            Some(Failure { message: format!("{}; {}", gone.message, failure.message), ..failure })
        }
        (Some(failure), None) => Some(failure),
        (None, _) => found.missing(&config.pids),
    };
    let exit = failure.as_ref().map_or(Exit::Success, |failure| failure.exit);
    if let Some(failure) = failure {
        verdict.reason = Some(failure.message);
        verdict.help = Some(failure.cure).filter(|cure| !cure.is_empty());
    }
    verdict.exit = exit.code();
    verdict.warnings = allowed.map(|allowed| allowed.warnings).unwrap_or_default();
    verdict.warnings.extend(capture::children_left_out(&config.pids, &mut Discovery::default()));
    let own = privilege::survey();
    let report = Report {
        format: FORMAT,
        tls2pcap: env!("CARGO_PKG_VERSION"),
        verdict,
        kernel: kernel(&own, survey.ok().as_ref()),
        privileges: privileges(&own),
        libraries: found.libraries,
        processes: found.processes,
        hidden: found.hidden,
    };
    (report, exit)
}

fn kernel(own: &privilege::Survey, survey: Option<&Survey>) -> Kernel {
    let setting =
        |name: &str| own.settings.iter().find(|(known, _)| *known == name).map(|(_, text)| text.clone());
    Kernel {
        release: own.release.clone(),
        btf: own.btf,
        lockdown: own.lockdown,
        perf_event_paranoid: setting("perf_event_paranoid"),
        unprivileged_bpf_disabled: setting("unprivileged_bpf_disabled"),
        tried: survey.map(|survey| Tried {
            backend: survey.taken().map_or("", |backend| backend.as_str()),
            backends: survey
                .backends
                .iter()
                .map(|(backend, why_not)| BackEnd {
                    name: backend.as_str(),
                    works: why_not.is_none(),
                    reason: why_not.clone(),
                })
                .collect(),
            bulk: survey.bulk.0,
            bulk_one_process: survey.bulk.1,
            attach_cookies: survey.cookies,
            bpf_loop: survey.loops,
            refused: survey
                .refused
                .iter()
                .map(|(programs, reason)| Refused { programs, reason: reason.clone() })
                .collect(),
            call_limit: capture::longest_call(survey.loops),
        }),
    }
}

fn privileges(own: &privilege::Survey) -> Privileges {
    let of = |has: bool| own.capabilities.iter().filter(move |(_, held)| *held == has).map(|(name, _)| *name);
    Privileges {
        uid: own.uid,
        held: of(true).collect(),
        missing: of(false).collect(),
        user_namespace: own.user_namespace,
        seccomp: own.seccomp,
        no_tracing: capture::may_trace().err().map(|error| error.desc().to_owned()),
    }
}
