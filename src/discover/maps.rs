//! Which files a process has mapped, as code above all.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::process;

/// Longest /proc/PID/maps that is read, in bytes; a process with more mappings is seen in part.
const MAPS_MAX: u64 = 64 << 20;
/// Most different files that are told of one process.
const FILES_MAX: usize = 4096;

/// Where a file stands, so that what belongs to it can be looked for.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// Root folder in which the path holds, as this process can reach it.
    pub root: PathBuf,
    /// Path in there.
    pub path: PathBuf,
}

/// A file as /proc/PID/maps shows it: device (major, minor) and inode.
pub type Mapped = ((u32, u32), u64);

/// A file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Device (major, minor) as /proc/PID/maps shows it. On overlayfs and btrfs `stat` of the
    /// same file may give another one.
    pub device: (u32, u32),
    /// Inode as /proc/PID/maps shows it.
    pub inode: u64,
    /// Path in the mount namespace of the process.
    pub path: PathBuf,
    /// The path no longer leads to the file.
    pub deleted: bool,
    /// First mapping of the file: name of its link in /proc/PID/map_files.
    link: String,
}

/// Executable file mappings of a process, each file once. `fresh`: inode of a file of which only
/// the first part may be mapped yet, which is not executable: it counts as well.
///
/// # Errors
/// If the process is gone or may not be looked at.
pub fn mapped_files(pid: u32, fresh: Option<u64>) -> io::Result<Vec<MappedFile>> {
    let read = || {
        let mut text = Vec::new();
        File::open(format!("/proc/{pid}/maps"))?.take(MAPS_MAX).read_to_end(&mut text)?;
        io::Result::Ok(parse(&text, fresh))
    };
    let files = read()?;
    if fresh.is_some_and(|inode| !is_among(&files, inode)) {
        await_mmap(pid);
        return read();
    }
    Ok(files)
}

/// Whether a process has mapped a file, in whatever way. A mapping that is being made counts.
///
/// # Errors
/// If the process is gone, or may not be looked at.
pub fn has_mapped(pid: u32, file: Mapped) -> io::Result<bool> {
    Ok(all_mapped(pid)?.contains(&file))
}

/// A process that has mapped each of these files, if one has. `None`: it cannot be known.
pub fn users_of(files: &[Mapped]) -> Option<HashMap<Mapped, u32>> {
    /// Passes over all processes, of which only the first takes long.
    const PASSES: usize = 16;
    let mut users = HashMap::new();
    let mut seen = HashSet::new();
    for _ in 0..PASSES {
        // A process that has ended since may have left a child.
        let new: Vec<u32> = process::processes().into_iter().filter(|pid| seen.insert(*pid)).collect();
        // Where processes of others are hidden, the first one is.
        if new.is_empty() && seen.contains(&1) {
            return Some(users);
        }
        for pid in new {
            match all_mapped(pid) {
                Ok(mapped) => {
                    users.extend(files.iter().filter(|file| mapped.contains(file)).map(|file| (*file, pid)));
                }
                Err(_) if process::is_gone(pid) => {}
                Err(_) => return None,
            }
        }
    }
    None
}

/// All files that a process has mapped.
fn all_mapped(pid: u32) -> io::Result<HashSet<Mapped>> {
    let read = |path: &Path| {
        let mut text = Vec::new();
        let len = File::open(path)?.take(MAPS_MAX).read_to_end(&mut text)? as u64;
        if len < MAPS_MAX { Ok(text) } else { Err(io::Error::other("too many mappings")) }
    };
    await_mmap(pid);
    let mut text = read(Path::new(&format!("/proc/{pid}/maps")))?;
    if text.is_empty() {
        // Its first thread has ended, and others go on. Or it is a thread of the kernel, which has none.
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            text.extend(read(&task.path().join("maps")).unwrap_or_default());
        }
    }
    let of_line = |line: &[u8]| {
        let mut fields = std::str::from_utf8(line.get(..line.len().min(128))?).ok()?.split_ascii_whitespace();
        let (major, minor) = fields.nth(3)?.split_once(':')?;
        let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        Some((device, fields.next()?.parse().ok().filter(|inode| *inode != 0)?))
    };
    Ok(text.split(|b| *b == b'\n').filter_map(of_line).collect())
}

/// Whether a file of this inode is among those of a process, or may be among those that are not told.
pub fn is_among(files: &[MappedFile], inode: u64) -> bool {
    files.len() >= FILES_MAX || files.iter().any(|file| file.inode == inode)
}

/// Until a change of the process's mappings that is under way is made. The mappings themselves are shown
/// meanwhile (from Linux 6.17 on: "read proc/pid/maps under per-vma lock"), but the arguments are read under the
/// lock that `mmap` holds.
fn await_mmap(pid: u32) {
    if let Ok(mut arguments) = File::open(format!("/proc/{pid}/cmdline")) {
        let _ = arguments.read(&mut [0]);
    }
}

/// Parses the text of /proc/PID/maps. Lines that are not understood are left out.
pub(super) fn parse(text: &[u8], fresh: Option<u64>) -> Vec<MappedFile> {
    let mut files: Vec<MappedFile> = Vec::new();
    // The mappings of a file stand together, but for rare cases that only cost a second look.
    for file in text.split(|b| *b == b'\n').filter_map(|line| parse_line(line, fresh)) {
        if files.len() >= FILES_MAX {
            break;
        }
        let same = |f: &MappedFile| (f.device, f.inode, &f.path) == (file.device, file.inode, &file.path);
        if !files.iter().rev().take(16).any(same) {
            files.push(file);
        }
    }
    files
}

/// `7f0a1000-7f0b2000 r-xp 00002000 08:01 1234    /usr/lib/libssl.so.3 (deleted)`
fn parse_line(line: &[u8], fresh: Option<u64>) -> Option<MappedFile> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|b| *b == b' ')?;
        let (field, after) = rest.split_at(end);
        rest = &after[1..];
        std::str::from_utf8(field).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let hex = |s: &str| u64::from_str_radix(s, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let executable = field()?.as_bytes().get(2) == Some(&b'x');
    let _offset = field()?;
    let (major, minor) = field()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = field()?.parse().ok()?;
    let path = rest.trim_ascii_start();
    if !(executable || fresh == Some(inode)) || inode == 0 || !path.starts_with(b"/") {
        return None;
    }
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    Some(MappedFile { device, inode, path: unescape(path), deleted, link: format!("{start:x}-{end:x}") })
}

/// The kernel writes a newline in a path as `\012`, and nothing else so.
fn unescape(mut path: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(path.len());
    while let Some((first, rest)) = path.split_first() {
        path = match path.strip_prefix(b"\\012") {
            Some(rest) => {
                out.push(b'\n');
                rest
            }
            None => {
                out.push(*first);
                rest
            }
        };
    }
    PathBuf::from(OsString::from_vec(out))
}

impl MappedFile {
    /// Opens the very file that is mapped: through the mapping, which works for deleted files and
    /// in any mount namespace, or else by path with the inode compared.
    ///
    /// # Errors
    /// If the process is gone, neither way is permitted, or the path now leads to another file.
    pub fn open(&self, pid: u32) -> io::Result<File> {
        let by_link = Path::new("/proc").join(pid.to_string()).join("map_files").join(&self.link);
        match open_regular(&by_link) {
            Ok(file) => return Ok(file),
            Err(error) if self.deleted => return Err(error),
            Err(_) => {}
        }
        let file = open_regular(&path_of(pid, &self.path))?;
        // Only the inode: overlayfs and btrfs show another device here than in the maps.
        if file.metadata()?.ino() != self.inode {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the path leads to another file by now"));
        }
        Ok(file)
    }

    /// Where what belongs to the file can be looked for.
    pub(super) fn whereabouts(&self, pid: u32) -> Whereabouts {
        Whereabouts { root: root_of(pid), path: self.path.clone() }
    }
}

/// The root folder of a process. It leads to this process's own if the two are the same.
pub(super) fn root_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root"))
}

/// Whether the program that a process runs has this inode.
pub(super) fn is_program_of(pid: u32, inode: u64) -> bool {
    std::fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|metadata| metadata.ino() == inode)
}

/// A path of a process, as this process can open it.
pub(super) fn path_of(pid: u32, path: &Path) -> PathBuf {
    let mut full = root_of(pid).into_os_string();
    full.push(OsStr::from_bytes(path.as_os_str().as_bytes()));
    PathBuf::from(full)
}

/// Opens a regular file, and nothing else: opening a device can do things.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let kind = place.metadata()?.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_char_device() || kind.is_block_device() => "a device",
            () => "not a regular file",
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}")));
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
55d0c0a00000-55d0c0a01000 r--p 00000000 fe:01 131 /usr/bin/x\n\
55d0c0a01000-55d0c0a02000 r-xp 00001000 fe:01 131                        /usr/bin/x\n\
7f1000000000-7f1000001000 r-xp 00000000 fe:01 140 /opt/with space/lib ssl.so (deleted)\n\
7f1000002000-7f1000003000 r-xp 00000000 fe:01 140 /opt/with space/lib ssl.so (deleted)\n\
7f1000004000-7f1000005000 r-xp 00000000 00:1ff 141 /a\\012b\\x\n\
7f1000006000-7f1000007000 rwxp 00000000 00:00 0 \n\
7f1000008000-7f1000009000 r-xp 00000000 00:05 9 anon_inode:[x]\n\
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

    #[test]
    fn executable_files_once_each_with_odd_names() {
        let files = parse(SAMPLE, None);
        let seen: Vec<_> = files
            .iter()
            .map(|f| (f.device, f.inode, f.path.to_str().unwrap(), f.deleted, &*f.link))
            .collect();
        assert_eq!(
            seen,
            [
                ((0xfe, 1), 131, "/usr/bin/x", false, "55d0c0a01000-55d0c0a02000"),
                ((0xfe, 1), 140, "/opt/with space/lib ssl.so", true, "7f1000000000-7f1000001000"),
                ((0, 0x1ff), 141, "/a\nb\\x", false, "7f1000004000-7f1000005000"),
            ]
        );
    }

    #[test]
    fn fresh_file_counts_before_its_code_is_mapped() {
        let begun = b"7f1000000000-7f1000001000 r--p 00000000 fe:01 140 /usr/lib/libssl.so.3\n";
        assert_eq!(parse(begun, None), []);
        assert_eq!(parse(begun, Some(141)), []);
        assert_eq!(parse(begun, Some(140))[0].path, Path::new("/usr/lib/libssl.so.3"));
    }

    #[test]
    fn text_cut_anywhere_or_made_of_rubbish_never_panics() {
        for end in 0..SAMPLE.len() {
            assert!(parse(&SAMPLE[..end], None).len() <= 3);
        }
        for rubbish in
            [&b"- x - : 1 /"[..], b"1-2 r-xp 0 1:2 99999999999999999999999 /x", b"\xff-\xff r-xp", b"1-2  "]
        {
            assert_eq!(parse(rubbish, None), []);
        }
    }

    #[test]
    fn own_program_opens_by_its_mapping() {
        let own = std::fs::metadata("/proc/self/exe").unwrap();
        let files = mapped_files(std::process::id(), None).unwrap();
        let file = files.iter().find(|f| f.inode == own.ino()).expect("own program is mapped");
        let opened = file.open(std::process::id()).unwrap().metadata().unwrap();
        assert_eq!((opened.dev(), opened.ino()), (own.dev(), own.ino()));
        // By path alone, as where map_files may not be used.
        let by_path = MappedFile { link: "0-0".into(), ..file.clone() };
        assert_eq!(by_path.open(std::process::id()).unwrap().metadata().unwrap().ino(), own.ino());
        let replaced = MappedFile { inode: own.ino() + 1, ..by_path };
        assert!(replaced.open(std::process::id()).is_err());
    }

    #[test]
    fn devices_are_not_opened() {
        assert!(open_regular(Path::new("/dev/null")).is_err());
        assert!(open_regular(Path::new("/")).is_err());
    }
}
