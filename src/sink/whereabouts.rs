//! What became of an output file while it was written.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A regular file that has a name.
#[derive(Debug)]
pub struct Whereabouts {
    file: File,
    path: PathBuf,
    /// How many bytes were written to it.
    written: Arc<AtomicU64>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is where it was.
    Kept,
    /// It has another name now.
    Renamed(PathBuf),
    /// Its name no longer exists, or is another file's.
    Deleted,
    /// Its length is not what was written: another program wrote to it, or truncated it.
    Changed,
}

impl Whereabouts {
    /// Of a file that `path` leads to; `None` if it has no name even now.
    pub(super) fn new(file: &File, path: &Path, written: Arc<AtomicU64>) -> io::Result<Option<Whereabouts>> {
        if file.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        Ok(Some(Whereabouts { file: file.try_clone()?, path: path.to_owned(), written }))
    }

    /// The name that it had.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it can be read as long as this process runs, whatever its name is.
    pub fn descriptor(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// What became of its name.
    pub fn name_fate(&self) -> Fate {
        let Ok(own) = self.file.metadata() else { return Fate::Kept };
        if own.nlink() == 0 {
            return Fate::Deleted;
        }
        let is_own = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))
        };
        if is_own(&self.path) {
            return Fate::Kept;
        }
        let Ok(now) = std::fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())) else {
            return Fate::Kept;
        };
        // Some file systems assign a new number each time.
        if std::fs::canonicalize(&self.path).is_ok_and(|path| path == now) {
            return Fate::Kept;
        }
        // What network file systems and FUSE make of a file that is deleted while it is open.
        let name = now.file_name().unwrap_or_default().as_bytes();
        let is_leftover = name.starts_with(b".nfs") || name.starts_with(b".fuse_hidden");
        if is_own(&now) && !is_leftover { Fate::Renamed(now) } else { Fate::Deleted }
    }

    /// What became of it. For the end, when nothing is written any more.
    pub fn fate(&self) -> Fate {
        match self.name_fate() {
            Fate::Deleted => Fate::Deleted,
            _ if self.file.metadata().is_ok_and(|m| m.len() != self.written.load(Ordering::Relaxed)) => {
                Fate::Changed
            }
            fate => fate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate_after(name: &str, act: impl FnOnce(&Path)) -> Fate {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, "four").unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let whereabouts = Whereabouts::new(&file, &path, Arc::new(4.into())).unwrap().unwrap();
        act(&path);
        match whereabouts.fate() {
            Fate::Renamed(to) => Fate::Renamed(to.file_name().unwrap().into()),
            fate => fate,
        }
    }

    #[test]
    fn each_fate_is_told_from_the_others() {
        let remove = |path: &Path| std::fs::remove_file(path).unwrap();
        let rename = |path: &Path| std::fs::rename(path, path.with_file_name("b")).unwrap();
        assert_eq!(fate_after("a", |_| {}), Fate::Kept);
        assert_eq!(fate_after("a", remove), Fate::Deleted);
        assert_eq!(fate_after("a", rename), Fate::Renamed("b".into()));
        let replaced = |path: &Path| {
            remove(path);
            std::fs::write(path, "four").unwrap();
        };
        assert_eq!(fate_after("a", replaced), Fate::Deleted);
        let rotated = |path: &Path| {
            rename(path);
            std::fs::write(path, "").unwrap();
        };
        assert_eq!(fate_after("a", rotated), Fate::Renamed("b".into()));
        let linked = |path: &Path| {
            std::fs::hard_link(path, path.with_file_name("b")).unwrap();
            remove(path);
        };
        assert_eq!(fate_after("a", linked), Fate::Deleted, "nobody knows its other name");
        assert_eq!(fate_after("a", |path| std::fs::write(path, "").unwrap()), Fate::Changed);
        assert_eq!(fate_after("a", |path| std::fs::write(path, "longer").unwrap()), Fate::Changed);
        assert_eq!(fate_after(".a (deleted)", |_| {}), Fate::Kept);
    }
}
