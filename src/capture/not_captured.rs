//! Why nothing is captured of a target, if known: reported when it is found, and again at the end if there was
//! no connection.

use std::path::Path;

use super::Say;
use crate::config::Targets;
use crate::discover::go::NotGo;
use crate::discover::reason::NotTls;
use crate::discover::{has_known_name, process};
use crate::printable;

/// Most reasons, and most libraries, that are remembered.
const MAX: usize = 16;

/// What was found in the targets.
pub(super) struct NotCaptured {
    say: Say,
    /// The capture has targets: what cannot be captured of them is reported without -v.
    aloud: bool,
    of_command: bool,
    /// Files that cannot be probed: the process in which each was found first, and why.
    unprobed: Vec<(String, String)>,
    /// Libraries that targets have mapped and that are probed, and whether a target ran on before they were.
    libraries: Vec<(String, bool)>,
}

impl NotCaptured {
    pub(super) fn new(targets: &Targets, say: Say) -> NotCaptured {
        NotCaptured {
            say,
            aloud: targets.are_processes(),
            of_command: matches!(targets, Targets::Command(_)),
            unprobed: Vec::new(),
            libraries: Vec::new(),
        }
    }

    /// Whether code that can only be guessed at is reported: finding it costs time.
    pub(super) fn are_wanted(&self) -> bool {
        self.aloud || self.say.is_verbose()
    }

    /// A process has TLS code that cannot be probed. Each file is reported once.
    pub(super) fn unprobed(&mut self, pid: u32, path: &Path, why: &NotTls) {
        let Some(text) = self.remember(pid, path, why) else { return };
        // Most of these have no TLS at all: it only counts if nothing is captured.
        let may_have_none = match why {
            NotTls::Go(NotGo::NoTls) => true,
            NotTls::OtherMachine => !has_known_name(path),
            _ => false,
        };
        if may_have_none { self.say.detail(&text) } else { self.say(&text) }
    }

    /// The same, to be reported later; `None`: it is already known.
    pub(super) fn remember(&mut self, pid: u32, path: &Path, why: &NotTls) -> Option<String> {
        let what = format!("{}: {why}", printable::path(path));
        if self.unprobed.len() >= MAX || self.unprobed.iter().any(|(_, known)| *known == what) {
            return None;
        }
        let who = who(pid);
        let help = why.help();
        let text = format!("not captured of {who}: {what}{}{help}", if help.is_empty() { "" } else { "; " });
        self.unprobed.push((who, what));
        Some(text)
    }

    pub(super) fn say(&self, text: &str) {
        if self.aloud { self.say.warn(text) } else { self.say.detail(text) }
    }

    /// A target has mapped a library that is probed. `late`: only now, and the target has not waited for that.
    pub(super) fn library(&mut self, path: &Path, late: bool) {
        let path = printable::path(path);
        if let Some((_, was_late)) = self.libraries.iter_mut().find(|(known, _)| *known == path) {
            *was_late |= late;
        } else if self.libraries.len() < MAX {
            self.libraries.push((path, late));
        }
    }

    /// A target has mapped a library that cannot be probed, which is reported immediately.
    pub(super) fn not_attached(&mut self, pid: u32, path: &Path) {
        let who = who(pid);
        let what = format!("{}: its probes could not be attached", printable::path(path));
        if self.unprobed.len() < MAX && !self.unprobed.iter().any(|(_, known)| *known == what) {
            self.unprobed.push((who, what));
        }
    }

    /// Why there was no connection, in lines. Of a capture of all programs nothing is known. `lost`: something
    /// is missing or was not watched, which is reported elsewhere, and may be what the user expects here.
    pub(super) fn of_nothing(&self, lost: bool) -> String {
        if !self.aloud {
            return String::new();
        }
        let mut text: String = self
            .unprobed
            .iter()
            .map(|(who, what)| format!("note: not captured of {who}: {what}\n"))
            .collect();
        if lost {
            return text;
        }
        let of = |wanted: bool| {
            let paths = self.libraries.iter().filter(|(_, late)| *late == wanted).map(|(path, _)| &**path);
            paths.collect::<Vec<_>>().join(", ")
        };
        let (in_time, late) = (of(false), of(true));
        if !in_time.is_empty() {
            text.push_str(&format!("note: no TLS data was seen in {in_time}\n"));
        }
        if !late.is_empty() {
            text.push_str(&format!(
                "note: no TLS data was seen in {late}, from a moment after it was loaded: the program did not wait for the probes\n"
            ));
        }
        if self.libraries.is_empty() && self.unprobed.is_empty() && self.of_command {
            text.push_str("note: the command and its children mapped no known TLS library\n");
        }
        text
    }
}

fn who(pid: u32) -> String {
    format!("{}[{pid}]", printable::line(&process::name(pid).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Verbosity;

    fn of_command() -> NotCaptured {
        NotCaptured::new(&Targets::Command(vec!["x".into()]), Say(Verbosity::Quiet))
    }

    #[test]
    fn nothing_has_a_reason() {
        let none = "note: the command and its children mapped no known TLS library\n";
        assert_eq!(of_command().of_nothing(false), none);
        assert_eq!(NotCaptured::new(&Targets::Everything, Say(Verbosity::Quiet)).of_nothing(false), "");

        let mut idle = of_command();
        (0..2).for_each(|_| idle.library(Path::new("/lib/libssl.so.3"), false));
        let in_time = "note: no TLS data was seen in /lib/libssl.so.3\n";
        assert_eq!(idle.of_nothing(false), in_time);
        idle.library(Path::new("/opt/a"), true);
        idle.library(Path::new("/opt/b"), false);
        idle.library(Path::new("/opt/b"), true);
        let late = "note: no TLS data was seen in /opt/a, /opt/b, from a moment after ";
        let text = idle.of_nothing(false);
        assert!(text.starts_with(&format!("{in_time}{late}")), "{text}");
        assert_eq!(idle.of_nothing(true), "");

        let mut refused = of_command();
        (0..2).for_each(|_| refused.not_attached(u32::MAX, Path::new("/opt/a")));
        let told = "note: not captured of [4294967295]: /opt/a: its probes could not be attached\n";
        assert_eq!(refused.of_nothing(false), told);

        let mut go = of_command();
        let why = NotTls::Go(NotGo::StackAbi);
        (0..2).for_each(|_| go.unprobed(u32::MAX, Path::new("/bin/old"), &why));
        (0..100).for_each(|n| go.unprobed(u32::MAX, Path::new(&format!("/bin/{n}")), &why));
        let text = go.of_nothing(false);
        assert!(
            text.starts_with(
                "note: not captured of [4294967295]: /bin/old: a Go program: its arguments are on the stack"
            ),
            "{text}"
        );
        assert_eq!(text.lines().count(), MAX);
    }
}
