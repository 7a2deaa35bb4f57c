//! Why nothing is captured of a target, as far as it is known: told when it is found, and again at the end if
//! there was no connection.

use std::path::Path;

use super::Say;
use crate::config::Targets;
use crate::discover::go::NotGo;
use crate::discover::process;
use crate::discover::reason::NotTls;

/// Most reasons, and most libraries, that are remembered.
const MAX: usize = 16;

/// What was found in the targets.
pub(super) struct Reasons {
    say: Say,
    /// The capture has targets: what cannot be captured of them is said aloud.
    aloud: bool,
    of_command: bool,
    /// Files that cannot be probed: the process in which each was found first, and why.
    unprobed: Vec<(String, String)>,
    /// Libraries that targets have mapped.
    libraries: Vec<String>,
}

impl Reasons {
    pub(super) fn new(targets: &Targets, say: Say) -> Reasons {
        Reasons {
            say,
            aloud: matches!(targets, Targets::Pids(_) | Targets::Command(_)),
            of_command: matches!(targets, Targets::Command(_)),
            unprobed: Vec::new(),
            libraries: Vec::new(),
        }
    }

    /// Whether anybody wants to hear of code that can only be guessed at: to find it costs time.
    pub(super) fn are_wanted(&self) -> bool {
        self.aloud || self.say.is_verbose()
    }

    /// A process carries TLS code that cannot be probed. Each file is told of once.
    pub(super) fn unprobed(&mut self, pid: u32, path: &Path, why: &NotTls) {
        let Some(text) = self.remember(pid, path, why) else { return };
        // Most of these have no TLS at all: it only counts if nothing is captured.
        if *why == NotTls::Go(NotGo::NoTls) { self.say.detail(&text) } else { self.say(&text) }
    }

    /// The same, to be said later; `None`: it is known already.
    pub(super) fn remember(&mut self, pid: u32, path: &Path, why: &NotTls) -> Option<String> {
        let what = format!("{}: {why}", path.display());
        if self.unprobed.len() >= MAX || self.unprobed.iter().any(|(_, known)| *known == what) {
            return None;
        }
        let who = format!("{}[{pid}]", process::name(pid).unwrap_or_default());
        let help = why.help();
        let text = format!("not captured of {who}: {what}{}{help}", if help.is_empty() { "" } else { "; " });
        self.unprobed.push((who, what));
        Some(text)
    }

    pub(super) fn say(&self, text: &str) {
        if self.aloud { self.say.warn(text) } else { self.say.detail(text) }
    }

    /// A target has mapped a library that is probed.
    pub(super) fn library(&mut self, path: &Path) {
        let path = path.display().to_string();
        if self.libraries.len() < MAX && !self.libraries.contains(&path) {
            self.libraries.push(path);
        }
    }

    /// Why there was no connection, in lines. Of a capture of all programs nothing is known.
    pub(super) fn of_nothing(&self) -> String {
        if !self.aloud {
            return String::new();
        }
        let mut text: String = self
            .unprobed
            .iter()
            .map(|(who, what)| format!("note: not captured of {who}: {what}\n"))
            .collect();
        if !self.libraries.is_empty() {
            text.push_str(&format!("note: no TLS data went through {}\n", self.libraries.join(", ")));
        } else if self.unprobed.is_empty() && self.of_command {
            text.push_str("note: the command and its children mapped no TLS library that is known\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Verbosity;

    fn of_command() -> Reasons {
        Reasons::new(&Targets::Command(vec!["x".into()]), Say(Verbosity::Quiet))
    }

    #[test]
    fn nothing_has_a_reason() {
        let none = "note: the command and its children mapped no TLS library that is known\n";
        assert_eq!(of_command().of_nothing(), none);
        assert_eq!(Reasons::new(&Targets::Everything, Say(Verbosity::Quiet)).of_nothing(), "");

        let mut idle = of_command();
        (0..2).for_each(|_| idle.library(Path::new("/lib/libssl.so.3")));
        assert_eq!(idle.of_nothing(), "note: no TLS data went through /lib/libssl.so.3\n");

        let mut go = of_command();
        let why = NotTls::Go(NotGo::StackAbi);
        (0..2).for_each(|_| go.unprobed(u32::MAX, Path::new("/bin/old"), &why));
        (0..100).for_each(|n| go.unprobed(u32::MAX, Path::new(&format!("/bin/{n}")), &why));
        let text = go.of_nothing();
        assert!(
            text.starts_with(
                "note: not captured of [4294967295]: /bin/old: a Go program: its arguments are on the stack"
            ),
            "{text}"
        );
        assert_eq!(text.lines().count(), MAX);
    }
}
