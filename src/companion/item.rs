//! One file or link that is installed.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::atomic::{in_its_place, replace};
use super::record::Record;
use super::settings::meaning;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file with these contents.
    File {
        /// Where.
        path: PathBuf,
        /// What is in it.
        contents: &'static str,
        /// Wireshark writes it anew, too.
        is_settings: bool,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
}

/// What is there in the place of an [`Item`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Absent,
    /// Just the item.
    Same,
    /// What an earlier version installed, as it was.
    Older,
    /// Something else, which is the user's.
    Changed,
}

impl Item {
    pub(super) fn file(path: PathBuf, contents: &'static str) -> Item {
        Item::File { path, contents, is_settings: false }
    }

    pub(super) fn settings(path: PathBuf, contents: &'static str) -> Item {
        Item::File { path, contents, is_settings: true }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Item::File { path, .. } | Item::Link { path, .. } => path,
        }
    }

    /// What is in its place.
    pub(super) fn look(&self, record: &Record) -> io::Result<Found> {
        let metadata = match fs::symlink_metadata(self.path()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            Err(error) => return Err(error),
        };
        Ok(match self {
            Item::File { path, contents, is_settings } if metadata.is_file() => {
                // Nothing of ours is longer than twice this.
                let there = if metadata.len() > 1 << 20 { Vec::new() } else { fs::read(self.path())? };
                let what_counts = compared(&there, *is_settings);
                if what_counts == compared(contents.as_bytes(), *is_settings) {
                    Found::Same
                } else if record.knows(path, &there) || record.knows(path, &what_counts) {
                    Found::Older
                } else {
                    Found::Changed
                }
            }
            Item::Link { path, target } if metadata.is_symlink() => {
                let there = fs::read_link(path)?;
                if there == *target {
                    Found::Same
                } else if record.knows(path, there.as_os_str().as_bytes()) {
                    // To a tls2pcap in another place.
                    Found::Older
                } else {
                    Found::Changed
                }
            }
            _ => Found::Changed,
        })
    }

    /// Has the record know what was written, or where a link leads.
    pub(super) fn note_in(&self, record: &mut Record) {
        match self {
            Item::File { path, contents, is_settings } => {
                record.note(path, &compared(contents.as_bytes(), *is_settings));
            }
            Item::Link { path, target } => record.note(path, target.as_os_str().as_bytes()),
        }
    }

    /// Puts it in place, whatever is there, but for a folder.
    pub(super) fn put(&self) -> io::Result<()> {
        match self {
            Item::File { path, contents, .. } => replace(path, contents.as_bytes()),
            Item::Link { path, target } => in_its_place(path, |new| symlink(target, new)),
        }
    }
}

/// What of a file shows whether the user changed it.
fn compared(contents: &[u8], is_settings: bool) -> Cow<'_, [u8]> {
    if is_settings { meaning(contents).into() } else { contents.into() }
}
