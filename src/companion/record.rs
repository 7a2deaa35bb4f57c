//! What was installed: a hash of each file as it was written, so that a later change shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::atomic::replace;

/// Longest record that is read: far beyond any that was written.
const MAX: u64 = 1 << 20;

/// In the file a line for each: the hash in 16 hexadecimal digits, a blank, the path.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    hashes: BTreeMap<PathBuf, u64>,
}

impl Record {
    /// The record at `path`; empty if there is none. Lines that make no sense are left out: what they
    /// told of then counts as changed.
    pub(super) fn read(path: PathBuf) -> io::Result<Record> {
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX => Vec::new(),
            Ok(_) => fs::read(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let line = |line: &[u8]| {
            let (hash, path) = line.split_at_checked(17)?;
            let hash = u64::from_str_radix(str::from_utf8(hash).ok()?.trim_end(), 16).ok()?;
            Some((PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())), hash))
        };
        let hashes = text.split(|b| *b == b'\n').filter_map(line).collect();
        Ok(Record { path, hashes })
    }

    /// Writes it; an empty one is removed.
    pub(super) fn write(&self) -> io::Result<()> {
        if self.hashes.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => {
                    // Ours alone; it stays if somebody put something into it.
                    let _ = self.path.parent().map(fs::remove_dir);
                    Ok(())
                }
            };
        }
        let mut text = Vec::new();
        for (path, hash) in &self.hashes {
            let mut start = String::new();
            let _ = write!(start, "{hash:016x} ");
            text.extend_from_slice(start.as_bytes());
            text.extend_from_slice(path.as_os_str().as_bytes());
            text.push(b'\n');
        }
        replace(&self.path, &text)
    }

    /// Whether these are the contents that were installed there.
    pub(super) fn knows(&self, path: &Path, contents: &[u8]) -> bool {
        self.hashes.get(path) == Some(&hash(contents))
    }

    /// A file with these contents is in place.
    pub(super) fn note(&mut self, path: &Path, contents: &[u8]) {
        // A line of the record ends at the end of the line.
        if !path.as_os_str().as_bytes().contains(&b'\n') {
            self.hashes.insert(path.to_owned(), hash(contents));
        }
    }

    /// What was at the path is gone.
    pub(super) fn forget(&mut self, path: &Path) {
        self.hashes.remove(path);
    }
}

/// FNV-1a. Nobody gains by a collision in a folder of their own.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
