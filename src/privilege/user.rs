//! Users: who called sudo, and whom names mean.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::fs::fchown;
use std::path::PathBuf;

use nix::unistd::{self, Gid, Uid};

/// A user, as far as running a command as that user needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name; empty if the user has none.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// The user who called sudo; `None` if this is not root under sudo, or root called it.
pub fn invoking_user() -> Option<User> {
    // Only root's environment is believed: sudo set it, and root needs no deceiving.
    if !unistd::geteuid().is_root() {
        return None;
    }
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    lookup(number("SUDO_UID")?, number("SUDO_GID"))
}

fn lookup(uid: u32, gid: Option<u32>) -> Option<User> {
    if uid == 0 || uid == u32::MAX {
        return None;
    }
    let known = unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let gid = gid.or_else(|| known.as_ref().map(|k| k.gid.as_raw()))?;
    let Some(known) = known else {
        let (home, shell) = ("/".into(), "/bin/sh".into());
        return Some(User { name: String::new(), uid, gid, groups: vec![gid], home, shell });
    };
    let groups = CString::new(known.name.as_str())
        .ok()
        .and_then(|name| unistd::getgrouplist(&name, Gid::from_raw(gid)).ok())
        .map_or_else(|| vec![gid], |groups| groups.into_iter().map(Gid::as_raw).collect());
    Some(User { name: known.name, uid, gid, groups, home: known.dir, shell: known.shell })
}

/// Makes a file that this process has just created the user's.
///
/// # Errors
/// If the file system refuses; the file then stays root's.
pub fn give_to(user: &User, file: &File) -> io::Result<()> {
    fchown(file, Some(user.uid), Some(user.gid))
}

/// The id of the user with this login name.
pub fn user_id(name: &str) -> Option<u32> {
    unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_known_and_unknown() {
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_id("no-such-user-here"), None);
        assert_eq!(user_id("nul\0inside"), None);
        assert_eq!(lookup(0, Some(0)), None);
        // No system gives this id to anybody.
        let stranger = lookup(4_000_000_123, Some(7)).unwrap();
        assert_eq!((stranger.groups, stranger.name.as_str()), (vec![7], ""));
        assert_eq!(lookup(4_000_000_123, None), None);
        let nobody = user_id("nobody").and_then(|uid| lookup(uid, None)).unwrap();
        assert!(nobody.groups.contains(&nobody.gid));
    }
}
