//! What the kernel side could do here, found by trying.
//!
//! It captures nothing: no library is probed, the only probe in a program is one in this program itself
//! (`load.rs`), the gate (`ready`) stays shut, and the filter lets only targets through, of which there are
//! none. The probes of sockets and of new processes are attached, as in a capture, because loading proves
//! nothing; their programs return immediately, and they are removed before this returns.

use std::path::Path;

use libbpf_rs::ProgramType;

use libbpf_rs::libbpf_sys::{BPF_FUNC_get_attach_cookie, BPF_FUNC_loop};

use super::kernel::Kernel;
use super::load::{Refusal, is_not_permitted, why_missing};
use super::sites::Programs;
use super::{Backend, Options, ProbeError, libbpf_messages};
use crate::limits;
use crate::memory::page_size;

/// What works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Each back end in the order in which they are taken, and why it does not work. The first that does is taken.
    pub backends: Vec<(Backend, Option<String>)>,
    /// Whether probes attach in bulk: for all processes, and for one.
    pub bulk: (bool, bool),
    /// Whether a program is told which library it was attached to (Linux 5.15).
    pub cookies: bool,
    /// What the kernel does not take of what is loaded when it is first needed: for which programs, and why.
    pub refused: Vec<(&'static str, String)>,
    /// Whether programs can loop (`bpf_loop`, Linux 5.17): else calls are captured up to 1,096,704 bytes.
    pub loops: bool,
}

impl Survey {
    /// The back end that a capture takes.
    pub fn taken(&self) -> Option<Backend> {
        self.backends.iter().find(|(_, why_not)| why_not.is_none()).map(|(backend, _)| *backend)
    }

    /// Tries everything, which takes a second or so.
    ///
    /// # Errors
    /// [`ProbeError`], if no back end works.
    pub fn make() -> Result<Survey, ProbeError> {
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(ProbeError::NoBtf);
        }
        limits::raise();
        libbpf_messages::listen(false);
        let has = |helper| ProgramType::Kprobe.is_helper_supported(helper).unwrap_or(false);
        let (cookies, loops) = (has(BPF_FUNC_get_attach_cookie), has(BPF_FUNC_loop));
        let each = if loops { Programs::Each } else { Programs::EachUnrolled };
        let mut survey =
            Survey { backends: Vec::new(), bulk: (false, false), cookies, refused: Vec::new(), loops };
        let mut errors = Vec::new();
        for backend in Backend::ALL {
            let is_first = survey.taken().is_none();
            let first_way = if loops { Programs::Bulk } else { each };
            let result = match Kernel::try_load(&options(false), backend, first_way) {
                Ok(probe) => Ok((Some(probe), loops)),
                // What is attached one by one are other programs.
                Err(Refusal::Bulk) if is_first => {
                    Kernel::try_load(&options(false), backend, each).map(|probe| (Some(probe), false))
                }
                Err(Refusal::Bulk) => Ok((None, false)),
                Err(refusal) => Err(refusal),
            };
            let why_not = match result {
                Ok((probe, bulk)) => {
                    if is_first {
                        let sets = probe.map_or_else(Vec::new, |probe| probe.refused_sets());
                        survey.refused =
                            sets.into_iter().map(|(serves, error)| (serves, format!("{error:#}"))).collect();
                        let for_one = || Kernel::try_load(&options(true), backend, Programs::Bulk).is_ok();
                        survey.bulk = (bulk, bulk && for_one());
                    }
                    None
                }
                Err(Refusal::Backend(error)) => {
                    let why = why_missing(backend, &error);
                    errors.push((backend, error));
                    Some(why)
                }
                Err(Refusal::All(error)) => return Err(error),
                Err(Refusal::Bulk) => Some("probes cannot be attached one by one".into()),
            };
            survey.backends.push((backend, why_not));
        }
        if survey.taken().is_some() {
            return Ok(survey);
        }
        let reasons: Vec<String> = errors.iter().map(|(b, e)| format!("{b}: {e:#}")).collect();
        let reasons = reasons.join("; ");
        Err(match errors.iter().all(|(_, error)| is_not_permitted(error)) {
            true => ProbeError::NotPermitted(reasons),
            false => ProbeError::NoBackend(reasons),
        })
    }
}

fn options(by_process: bool) -> Options {
    Options {
        backend: None,
        targets_only: true,
        uids: Vec::new(),
        by_process,
        follow: false,
        call_limit: 1 << 20,
        snaplen: None,
        ring_bytes: u32::try_from(page_size()).unwrap_or(4096),
        wake_for_each: false,
        return_probes: false,
        has_c: true,
        verbose: false,
    }
}
