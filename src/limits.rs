//! Resource limits: which of them this program raises for itself, what the command that it runs gets instead, and
//! what to do when one is reached.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use libc::{RLIM_INFINITY, c_int, rlim_t};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::memory;

/// A limit that was found: of what, and its soft and hard value.
type Found = (Resource, rlim_t, rlim_t);

/// The limits that [`raise`] changes, as this process found them.
static FOUND: OnceLock<Vec<Found>> = OnceLock::new();

/// Lets this process open as many files as it may: probes that are attached one by one take two descriptors
/// each, about eighty for each library and process. Also lets it lock memory, against which kernels before 5.11
/// count maps.
pub fn raise() {
    let found = FOUND.get_or_init(|| {
        let raised = [Resource::RLIMIT_NOFILE, Resource::RLIMIT_MEMLOCK];
        raised.into_iter().filter_map(|r| getrlimit(r).ok().map(|(soft, hard)| (r, soft, hard))).collect()
    });
    for (resource, _, hard) in found {
        let wanted = if *resource == Resource::RLIMIT_MEMLOCK { RLIM_INFINITY } else { *hard };
        // Refused, the failure shows when the limit is reached.
        let _ = setrlimit(*resource, wanted, wanted);
    }
}

/// Gives the limits back that [`raise`] changed, to a command in a child just forked: only system calls are made.
pub fn restore() {
    for (resource, soft, hard) in FOUND.get().into_iter().flatten() {
        let _ = setrlimit(*resource, *soft, *hard);
    }
}

/// A file that may not grow any further gives a write error instead of killing this process.
pub fn survive_file_size_limit() {
    if !is_ignored(libc::SIGXFSZ) {
        // A handler, which exec resets, so that a command does not inherit it. If it cannot be set, nothing
        // changes.
        let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::default()));
    }
}

/// A hint for a failure whose message says that a limit was reached; otherwise `None`.
pub(crate) fn hint(message: &str) -> Option<String> {
    let says =
        |code: c_int, words: &str| message.contains(&format!("(os error {code})")) || message.contains(words);
    if says(libc::ENFILE, "Too many open files in system") {
        return Some("all processes together have too many files open: raise fs.file-max with sysctl".into());
    }
    if says(libc::EMFILE, "Too many open files") {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        return Some(format!(
            "this process may have {limit} files open: raise that limit (ulimit -Hn, or LimitNOFILE= of a service), or capture fewer processes with -p"
        ));
    }
    says(libc::ENOMEM, "Cannot allocate memory").then(|| {
        let left = memory::room()
            .map_or_else(String::new, |room| format!("{} leaves {} MiB: ", room.by, room.left >> 20));
        format!(
            "{left}use a smaller --ring-size, or raise the limit on memory (memory.max, ulimit -v, ulimit -l)"
        )
    })
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: c_int) -> bool {
    // SAFETY: all zeroes is a valid value, and the call only reads.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_limit_that_is_reached_is_named() {
        for (code, words) in
            [(libc::EMFILE, "ulimit -Hn"), (libc::ENFILE, "fs.file-max"), (libc::ENOMEM, "--ring-size")]
        {
            let error = io::Error::from_raw_os_error(code);
            let hint = hint(&format!("x: probes cannot be attached: {error}")).unwrap();
            assert!(hint.contains(words), "{hint}");
        }
        assert_eq!(hint("x: cannot be written: No space left on device (os error 28)"), None);
    }
}
