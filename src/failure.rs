//! How a run ends: exit statuses, and errors in words that help.

use std::{fmt, io};

use crate::limits;

/// Exit status of tls2pcap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// Capturing or writing failed; what was captured before is kept.
    Io,
    /// The command line makes no sense.
    Usage,
    /// Privileges are missing, or the kernel is locked down.
    NotPermitted,
    /// The kernel lacks what is needed.
    Kernel,
    /// No such process, or no TLS library in it.
    NoTarget,
    /// Something is missing from the capture, and that was to be an error.
    Loss,
    /// A check has found a secret.
    Secrets,
    /// The command cannot be executed.
    NotExecutable,
    /// The command was not found.
    NotFound,
    /// The command's own status; 128 + n if signal n ended it.
    Command(u8),
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Io => 1,
            Exit::Usage => 2,
            Exit::NotPermitted => 3,
            Exit::Kernel => 4,
            Exit::NoTarget => 5,
            Exit::Loss => 6,
            Exit::Secrets => 7,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
            Exit::Command(status) => status,
        }
    }
}

impl Exit {
    /// As the shell shows the end by a signal.
    pub fn of_signal(signal: i32) -> Exit {
        Exit::Command(u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }

    /// This, or that there was a loss, if there was one and all else went well.
    #[must_use]
    pub fn or_loss(self, lost: bool) -> Exit {
        if lost && self.code() == 0 { Exit::Loss } else { self }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a run ends, for people: what failed, on what, why; and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status for it.
    pub exit: Exit,
    /// What failed, on what, and why.
    pub message: String,
    /// What to do; empty if nothing can be done.
    pub cure: String,
}

impl Failure {
    /// A failure with a hint. If the message reports a limit on resources, the hint is about that.
    pub fn new(exit: Exit, message: impl Into<String>, cure: impl Into<String>) -> Failure {
        let message = message.into();
        match limits::hint(&message) {
            // The kernel lacks nothing.
            Some(cure) if exit == Exit::Kernel => Failure { exit: Exit::Io, message, cure },
            Some(cure) => Failure { exit, message, cure },
            None => Failure { exit, message, cure: cure.into() },
        }
    }

    /// The capture file, named `name`, could not be written.
    pub fn of_output(name: impl fmt::Display, error: &io::Error) -> Failure {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let cure = match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => "free some space, or choose another file with -o",
            _ => "choose another file with -o",
        };
        Failure::new(Exit::Io, format!("{name}: cannot be written: {error}"), cure)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.cure.is_empty() {
            write!(f, "\n  {}", self.cure.replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
