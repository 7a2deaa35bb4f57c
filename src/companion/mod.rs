//! The Wireshark companion: puts Lua plugin, profile and capture interface where Wireshark looks for a user's own, and
//! takes them away again. What the user changed is never overwritten.

mod atomic;
mod item;
mod places;
mod record;
mod settings;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{self, Gid, Uid};

use self::item::{Found, Item};
use self::places::Places;
use self::record::Record;
use crate::config::Companion;
use crate::failure::{Exit, Failure};
use crate::privilege::{Rights, User, invoking_user};

const PLUGIN: &str = include_str!("../../wireshark/tls2pcap.lua");
const REDACT: &str = include_str!("../../wireshark/redact.lua");
const PROFILE: [(&str, &str); 4] = [
    ("preferences", include_str!("../../wireshark/profile/preferences")),
    ("colorfilters", include_str!("../../wireshark/profile/colorfilters")),
    ("dfilter_buttons", include_str!("../../wireshark/profile/dfilter_buttons")),
    ("profile_settings", include_str!("../../wireshark/profile/profile_settings")),
];

/// What Wireshark opens for help on the interface.
const HELP: &str = include_str!("../../wireshark/help.html");

/// The page that helps with the capture interface, if it is installed.
pub fn help_page() -> Option<PathBuf> {
    Places::find(None).map(|places| places.help()).filter(|page| page.is_file())
}

/// Installs, removes, or says what is there.
///
/// # Errors
/// A [`Failure`] for the user: no home folder, or a file that cannot be written.
pub fn run(task: Companion) -> Result<Exit, Failure> {
    let caller = invoking_user();
    if let Some(user) = &caller {
        become_user(user)?;
    }
    let places = Places::find(caller.as_ref()).ok_or_else(|| {
        Failure::new(Exit::Io, "your home folder is unknown", "set HOME to an absolute path")
    })?;
    let (mut said, failed) = perform(task, &items(&places), &places);
    if task == Companion::Status {
        said.push_str(&releases());
        if let Ok(program) = std::env::current_exe() {
            said.push_str(&rights(&program, caller.as_ref()));
        }
    }
    if matches!(task, Companion::Install { .. }) && failed.is_none() {
        said.push_str("Restart Wireshark. 4.4 and later switch to the profile tls2pcap automatically when they open a capture of tls2pcap;\nin earlier releases, choose it at the bottom right.\n");
        if unistd::geteuid().is_root() {
            said.push_str(
                "Wireshark 4.4 and later load no plugins as root: run it, and this, as another user.\n",
            );
        }
    }
    // Nobody is left to tell that standard output is closed.
    let _ = io::stdout().write_all(said.as_bytes());
    failed.map_or(Ok(Exit::Success), Err)
}

/// From here on everything is done with the rights of whoever called sudo: files are theirs, and
/// no link in their folders leads root astray.
fn become_user(user: &User) -> Result<(), Failure> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // For good: nothing here needs root any more.
    unistd::setgroups(&groups)
        .and_then(|()| unistd::setresgid(gid, gid, gid))
        .and_then(|()| unistd::setresuid(uid, uid, uid))
        .map_err(|error| {
            Failure::new(
                Exit::NotPermitted,
                format!("cannot act for user {}: {error}", user.uid),
                "run it without sudo",
            )
        })
}

/// What is installed.
fn items(places: &Places) -> Vec<Item> {
    let plugins = places.plugins();
    let mut items = vec![
        Item::file(plugins.join("tls2pcap.lua"), PLUGIN),
        Item::file(plugins.join("tls2pcap_redact.lua"), REDACT),
    ];
    let profile = places.profile();
    items.extend(PROFILE.map(|(name, contents)| Item::settings(profile.join(name), contents)));
    items.push(Item::file(places.help(), HELP));
    // A program whose place nobody knows could not be led to.
    items.extend(std::env::current_exe().iter().flat_map(|program| extcap_items(places, program)));
    items
}

/// Links to this program in the folders where Wireshark looks for capture interfaces: one for 4.0,
/// one for later releases.
fn extcap_items(places: &Places, program: &Path) -> Vec<Item> {
    let links = places.extcap().map(|folder| folder.join("tls2pcap"));
    links.map(|path| Item::Link { path, target: program.to_owned() }).into()
}

/// Does the task for all items; what there is to say, and what failed first: one that fails keeps no other.
fn perform(task: Companion, items: &[Item], places: &Places) -> (String, Option<Failure>) {
    let mut record = match Record::read(places.record()) {
        Ok(record) => record,
        Err(error) => return (String::new(), Some(failed(&places.record(), &error))),
    };
    let mut said = String::new();
    let mut changed = false;
    let mut first = None;
    for item in items {
        match one(task, item, &mut record) {
            Ok((word, kept)) => {
                changed |= kept;
                let _ = writeln!(said, "{word:<12} {}", item.path().display());
            }
            Err(error) => {
                let _ = writeln!(said, "{:<12} {}: {error}", "failed", item.path().display());
                first.get_or_insert_with(|| failed(item.path(), &error));
            }
        }
    }
    // Also after an error: what was done is done.
    if task != Companion::Status
        && let Err(error) = record.write()
    {
        first.get_or_insert_with(|| failed(&places.record(), &error));
    }
    if matches!(task, Companion::Uninstall { .. }) {
        if !changed {
            settings::remove_leftovers(&places.profile());
        }
        // Stays if there is anything else in it.
        if std::fs::remove_dir(places.profile()).is_err() && places.profile().exists() {
            let _ = writeln!(said, "{:<12} {} (other files are in it)", "kept", places.profile().display());
        }
    }
    if changed {
        let cure = match task {
            Companion::Install { .. } => ": --force overwrites them",
            Companion::Uninstall { .. } => ": --force removes them",
            Companion::Status => "",
        };
        let _ = writeln!(
            said,
            "Files that were changed after they were installed, or are not tls2pcap's, are kept{cure}."
        );
    }
    (said, first)
}

/// Does the task for one item; a word for it, and whether it is kept because somebody changed it.
fn one(task: Companion, item: &Item, record: &mut Record) -> io::Result<(&'static str, bool)> {
    let found = item.look(record)?;
    Ok(match (task, found) {
        (Companion::Status, Found::Absent) => ("absent", false),
        (Companion::Status, Found::Same) => ("installed", false),
        (Companion::Status, Found::Older) => ("older", false),
        (Companion::Status, Found::Changed) => ("changed", true),
        (Companion::Install { .. }, Found::Same) => {
            item.note_in(record);
            ("up to date", false)
        }
        (Companion::Install { force: false }, Found::Changed) => ("kept", true),
        (Companion::Install { .. }, found) => {
            item.put()?;
            item.note_in(record);
            (if found == Found::Absent { "installed" } else { "updated" }, false)
        }
        (Companion::Uninstall { .. }, Found::Absent) => {
            record.forget(item.path());
            ("absent", false)
        }
        (Companion::Uninstall { force: false }, Found::Changed) => ("kept", true),
        (Companion::Uninstall { .. }, _) => {
            std::fs::remove_file(item.path())?;
            record.forget(item.path());
            ("removed", false)
        }
    })
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Io,
        format!("{}: {error}", path.display()),
        "make sure that you may write there, or set HOME or XDG_CONFIG_HOME as for Wireshark",
    )
}

/// Whether Wireshark may capture with this program, and how it may.
fn rights(program: &Path, caller: Option<&User>) -> String {
    if unistd::geteuid().is_root() {
        return "rights       Wireshark may capture as root; for another user, run this as that user\n"
            .into();
    }
    let rights = match Rights::of(program) {
        Ok(rights) => rights,
        Err(error) => return format!("no rights    {}: {error}\n", program.display()),
    };
    let shown = program.display();
    let mut said = String::new();
    let may = rights.missing.is_empty() && !rights.nosuid && rights.runnable;
    let _ = match &rights {
        _ if may => writeln!(said, "rights       Wireshark may capture with {shown}"),
        Rights { nosuid: true, .. } => writeln!(
            said,
            "no rights    {shown} is on a file system that is mounted with nosuid: move it elsewhere, for example to /usr/local/bin"
        ),
        Rights { missing, .. } if !missing.is_empty() => {
            writeln!(
                said,
                "no rights    Wireshark cannot capture with {shown}: it lacks {}",
                missing.join(", ")
            )
        }
        Rights { group, .. } => {
            writeln!(said, "no rights    you may not run {shown}: only group {group} may")
        }
    };
    let open = rights.missing.is_empty() && rights.by_all;
    if open {
        let _ = writeln!(said, "open         everyone on this machine may read all plaintext with {shown}");
    }
    if !may || open {
        let name = caller.map(|user| user.name.clone()).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| "\"$USER\"".to_owned());
        let wanted = &rights.wanted;
        let _ = writeln!(
            said,
            "To let a group capture without root (it can then read what any program sends and receives over TLS):\n    \
             sudo groupadd -f wireshark\n    sudo chgrp wireshark {shown}\n    sudo chmod 750 {shown}\n    \
             sudo setcap {wanted}=p {shown}\n    sudo usermod -aG wireshark {name}     # then log in anew"
        );
    }
    said
}

/// The releases of Wireshark that are found, for people.
fn releases() -> String {
    let mut said = String::new();
    for program in ["wireshark", "tshark"] {
        let output = Command::new(program)
            .arg("--version")
            .env("QT_QPA_PLATFORM", "minimal")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let line =
            output.ok().and_then(|o| String::from_utf8(o.stdout).ok()?.lines().next().map(str::to_owned));
        let _ = match line.as_deref().map(|line| (line, release(line))) {
            Some((line, Some(number))) if number >= (4, 0) => writeln!(said, "found        {line}"),
            Some((line, _)) => writeln!(said, "found        {line} (too old: 4.0 or later is needed)"),
            None => writeln!(said, "not found    {program}"),
        };
    }
    said
}

/// `TShark (Wireshark) 4.0.17 (Git ...).` is (4, 0).
fn release(line: &str) -> Option<(u32, u32)> {
    let version = line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where an environment variable leads, if it is an absolute path.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests;
