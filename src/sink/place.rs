//! Opens the file that the user named, and not one of another user.
//!
//! In a folder where others may write, such as /tmp, another user may have put a file, a FIFO or a link in
//! place of the output: the file would stay theirs, and a link may lead to anything that this process has
//! permission to write. The kernel refuses some of that if `fs.protected_*` are set, which not all systems do.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::unistd::{self, Uid};

use crate::privilege;

/// Links that are followed one after the other, as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// Group or others may write.
const SHARED: u32 = 0o022;

/// An open file.
pub(super) struct Opened {
    pub(super) file: File,
    /// It was not there before.
    pub(super) created: bool,
}

/// Opens `path` for writing, without truncating it; creates it with `mode` if it does not exist.
///
/// # Errors
/// The system's error; `InvalidInput` for files of other types than regular ones, FIFOs and character devices;
/// `PermissionDenied`, with the reason, for what another user could have put there.
pub(super) fn open(path: &Path, mode: u32) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    options.write(true).mode(mode);
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let found = match std::fs::symlink_metadata(&at) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match options.clone().create_new(true).open(&at) {
                    Ok(file) => return Ok(Opened { file, created: true }),
                    // Somebody was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        if !found.is_symlink() {
            check_type(&found)?;
            check_owner(&found, &folder_of(&at))?;
            let file = options.clone().custom_flags(libc::O_NOFOLLOW).open(&at)?;
            let opened = file.metadata()?;
            if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
                return Err(refused("was just replaced by another file"));
            }
            return Ok(Opened { file, created: false });
        }
        if statfs(&folder_of(&at)).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC) {
            // An open descriptor, such as /dev/stdout: the process that opened it had permission.
            check_type(&std::fs::metadata(&at)?)?;
            return Ok(Opened { file: options.open(&at)?, created: false });
        }
        if !is_trusted(found.uid()) {
            return Err(refused(format!(
                "is a symbolic link of another user ({}), which may lead anywhere",
                name(found.uid())
            )));
        }
        at = folder_of(&at).join(std::fs::read_link(&at)?);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) => ".".into(),
        None => "/".into(),
    }
}

/// Looked at before opening, since opening a device can do things.
fn check_type(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_file() || kind.is_fifo() || kind.is_char_device() {
        return Ok(());
    }
    Err(invalid(if kind.is_dir() {
        "is a directory"
    } else {
        "neither a regular file nor a FIFO nor a character device"
    }))
}

fn check_owner(found: &Metadata, folder: &Path) -> io::Result<()> {
    if found.file_type().is_char_device() {
        return Ok(());
    }
    let folder = std::fs::metadata(folder)?;
    let is_shared = folder.mode() & SHARED != 0;
    if !is_trusted(found.uid()) && (is_shared || folder.uid() != found.uid()) {
        let what = if found.is_file() { "belongs" } else { "is a FIFO that belongs" };
        return Err(refused(format!(
            "{what} to another user ({}), who could read what is written to it",
            name(found.uid())
        )));
    }
    if found.is_file() && found.nlink() > 1 && (is_shared || !is_trusted(folder.uid())) {
        return Err(refused(
            "has another name (a hard link), which another user may have made; its contents would be overwritten",
        ));
    }
    Ok(())
}

/// Whether files of this user are trusted: this process's user, the user who called sudo, and root.
fn is_trusted(uid: u32) -> bool {
    let own = unistd::geteuid();
    uid == 0 || uid == own.as_raw() || privilege::invoking_user().is_some_and(|user| user.uid == uid)
}

fn name(uid: u32) -> String {
    let user = unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn refused(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, message.into())
}
