//! Libraries that a program names, found as the dynamic loader finds them, so that they can be looked at before the
//! program maps them.
//!
//! Nothing depends on finding the right ones: a wrong one is looked at in vain, and who maps one that was missed waits.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounded::{Bounded, Deadline};
use super::image::Image;
use super::maps;

/// Most libraries of one program.
pub(super) const FILES_MAX: usize = 256;
/// Processor time for all of them, but for the last.
pub(super) const TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of a process's environment that are read.
const ENVIRONMENT_MAX: u64 = 128 << 10;

/// A file that was looked at, in this state, and has nothing to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// `st_dev`: major and minor number.
    pub device: (u32, u32),
    /// `st_ino`.
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// When it was changed last, as `st_ctime` and its nanoseconds.
    pub changed: (i64, i64),
    /// The inode's generation.
    pub generation: u32,
}

impl Plain {
    /// `None`: the file system does not tell all of it.
    pub(super) fn of(file: &File) -> Option<Plain> {
        let metadata = file.metadata().ok()?;
        let mut generation: libc::c_long = 0;
        // SAFETY: the kernel writes a number of four bytes to a variable of this frame, which has as many or more.
        let asked = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETVERSION, &raw mut generation) };
        (asked == 0).then(|| Plain {
            device: (libc::major(metadata.dev()), libc::minor(metadata.dev())),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            // The rest stays zero.
            generation: generation as u32,
        })
    }
}

/// What a file says of the libraries that it needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// Their names.
    pub(super) names: Vec<Vec<u8>>,
    /// Folders to look in first.
    pub(super) folders: Vec<PathBuf>,
}

/// `path`: of the file, which may name folders by its own.
pub(super) fn of_file(file: &File, path: &Path) -> Needed {
    let deadline = Deadline::start();
    let data = Bounded::file(file, deadline);
    let Ok(image) = Image::parse(&data, deadline) else { return Needed::default() };
    let (mut names, lists) = image.needed();
    names.truncate(FILES_MAX);
    let origin = path.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes();
    let folders = lists.iter().flat_map(|list| folders(list, origin)).collect();
    Needed { names: names.into_iter().map(<[u8]>::to_vec).collect(), folders }
}

/// The folders of a list with colons.
fn folders<'l>(list: &'l [u8], origin: &'l [u8]) -> impl Iterator<Item = PathBuf> + 'l {
    list.split(|byte| *byte == b':' || *byte == b';').take(FILES_MAX).filter_map(move |folder| {
        let rest = folder.strip_prefix(b"$ORIGIN").or_else(|| folder.strip_prefix(b"${ORIGIN}"));
        let folder = rest.map_or_else(|| folder.to_vec(), |rest| [origin, rest].concat());
        folder.starts_with(b"/").then(|| PathBuf::from(std::ffi::OsStr::from_bytes(&folder)))
    })
}

/// The folders that a process's environment names.
pub(super) fn folders_of_environment(pid: u32) -> Vec<PathBuf> {
    let mut text = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/environ")) {
        // What was read is good.
        let _ = file.take(ENVIRONMENT_MAX).read_to_end(&mut text);
    }
    let list = text.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"LD_LIBRARY_PATH="));
    list.map(|list| folders(list, b"/").collect()).unwrap_or_default()
}

/// The first file of this name in the folders, as the process sees them, and its path there.
pub(super) fn find<'f>(
    pid: u32,
    name: &[u8],
    folders: impl Iterator<Item = &'f PathBuf>,
) -> Option<(PathBuf, File)> {
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    let open = |path: PathBuf| maps::open_regular(&maps::path_of(pid, &path)).ok().map(|file| (path, file));
    match name.as_os_str().as_bytes().contains(&b'/') {
        true => Some(name.to_owned()).filter(|name| name.is_absolute()).and_then(open),
        false => folders.map(|folder| folder.join(name)).find_map(open),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_file_needs_and_where_to_look() {
        let folder = tempfile::tempdir().unwrap();
        let build = |name: &str, options: &[&str]| {
            let file = folder.path().join(name);
            let mut cc = Command::new("cc");
            cc.current_dir(&folder).args(["-x", "c", "-", "-shared", "-nostdlib", "-o", name]).args(options);
            assert!(cc.stdin(std::process::Stdio::null()).status().unwrap().success());
            file
        };
        build("libone.so", &[]);
        let two = build(
            "two.so",
            &["-Wl,--no-as-needed", "-L.", "-lone", "-Wl,-rpath,$ORIGIN/lib:/opt/x:relative:${ORIGIN}"],
        );
        let needed = of_file(&File::open(&two).unwrap(), &two);
        assert_eq!(needed.names, [b"libone.so"]);
        let own = folder.path();
        assert_eq!(needed.folders, [own.join("lib"), "/opt/x".into(), own.into()]);
        let found = find(std::process::id(), b"libone.so", needed.folders.iter()).unwrap();
        assert_eq!(found.0, own.join("libone.so"));
        assert!(find(std::process::id(), b"libnone.so", needed.folders.iter()).is_none());
        assert!(find(std::process::id(), b"relative/libone.so", needed.folders.iter()).is_none());
        let script = own.join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(of_file(&File::open(&script).unwrap(), &script), Needed::default());
    }
}
