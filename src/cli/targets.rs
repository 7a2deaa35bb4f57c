//! The targets that the command line selects.

use std::ffi::OsString;

use super::usage;
use crate::config::{Follow, Targets};
use crate::event::numbers;
use crate::failure::Failure;
use crate::privilege;
use crate::synth::Selection;

/// What was given. `all`: every program was asked for.
pub(super) fn targets(
    mut pids: Vec<u32>,
    follow: Follow,
    users: &[String],
    all: bool,
    command: Vec<OsString>,
    selection: &Selection,
) -> Result<Targets, Failure> {
    let given = [!pids.is_empty(), !users.is_empty(), all, !command.is_empty()];
    let names: Vec<_> =
        given.iter().zip(["-p", "-u", "--all", "a command"]).filter(|(g, _)| **g).map(|(_, n)| n).collect();
    match names.len() {
        // Every program must not be captured by mistake, such as a forgotten option.
        0 => {
            if let Some(targets) = super::selection::narrowed(None, selection) {
                return Ok(targets);
            }
            return Err(usage(
                "nothing is selected to capture",
                "give -p PID, -u USER, a command after --, or --all for every program on this machine; an expression selects some of their connections",
            ));
        }
        1 => {}
        _ => {
            return Err(usage(
                format!("{} cannot be given together", names.join(" and ")),
                "each selects the processes to capture: keep one of them",
            ));
        }
    }
    if command.first().is_some_and(|name| name.is_empty()) {
        return Err(usage("the command's name is empty", "name a command after --"));
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(match given {
        [true, ..] => Targets::Pids { pids, follow },
        [_, true, ..] => {
            let mut ids = users.iter().map(|name| user_id(name)).collect::<Result<Vec<u32>, Failure>>()?;
            ids.sort_unstable();
            ids.dedup();
            if ids.len() > numbers::UIDS_MAX as usize {
                return Err(usage(
                    format!(
                        "-u is given for {} users, and at most {} are possible",
                        ids.len(),
                        numbers::UIDS_MAX
                    ),
                    "name fewer, or use --all for the processes of all users",
                ));
            }
            Targets::Users(ids)
        }
        [.., true] => Targets::Command(command),
        _ => super::selection::narrowed(Some(Targets::Everything), selection).unwrap_or(Targets::Everything),
    })
}

fn user_id(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse::<u32>() {
        // The kernel's "no such user".
        return match number {
            u32::MAX => Err(usage(format!("-u {name}: not a user number"), "")),
            _ => Ok(number),
        };
    }
    privilege::user_id(name).ok_or_else(|| {
        usage(format!("-u {name}: there is no user with this name"), "give a user's name or number")
    })
}
