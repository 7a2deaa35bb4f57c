//! Which files carry the functions of a TLS library, or Go's, and where in them the functions lie.

pub mod boring;
mod bounded;
pub mod code;
mod container;
pub mod debug;
pub mod elf;
pub mod flow;
pub mod function;
pub mod go;
mod image;
pub mod internal;
pub mod likely;
pub mod maps;
mod needed;
pub mod nss;
mod openssl;
pub mod process;
pub mod reason;
pub mod returns;
pub mod rustls;
mod starts;
pub mod stores;
mod text;
pub mod unnamed;
mod version;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::bounded::Deadline;
use self::elf::TlsLibrary;
use self::function::Family;
use self::maps::Whereabouts;
use self::maps::{Mapped, MappedFile};
pub use self::needed::Plain;
use self::reason::NotTls;
use self::returns::{Return, Returns};

/// Most files whose classification is remembered; beyond it the memory starts anew.
const CACHE_MAX: usize = 1 << 14;
/// Files that begin so are attached ahead, in these folders:
const NAMES: [&str; 3] = ["libssl.so", "libgnutls.so", "libssl3.so"];
/// `*` standing for the multiarch name.
const FOLDERS: [&str; 9] = [
    "/lib",
    "/lib64",
    "/lib/*-linux-gnu",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/*-linux-gnu",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/lib/*-linux-gnu",
];

/// Which file, and in which state. A file written anew in place gets another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// Which file, in whatever state: `st_dev`, `st_ino`.
pub type FileId = (u64, u64);

impl FileKey {
    /// Without its state.
    pub fn id(&self) -> FileId {
        (self.device, self.inode)
    }

    fn of(metadata: &Metadata) -> FileKey {
        FileKey {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.size(),
        }
    }
}

/// A file that was looked at, and when it was last changed in any way. That time nobody can set, but it changes when a
/// name of the file goes too, so it is no part of the key.
type FileState = (FileKey, (i64, i64));

fn state_of(file: &File) -> io::Result<FileState> {
    let metadata = file.metadata()?;
    Ok((FileKey::of(&metadata), (metadata.ctime(), metadata.ctime_nsec())))
}

/// A TLS library that was found, held open.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where its functions lie.
    pub library: Arc<TlsLibrary>,
    /// Which file it is.
    pub key: FileKey,
    /// Device (major, minor) and inode as the kernel's mappings show them, if it was found there.
    pub mapped: Option<Mapped>,
    /// Path for people to read: as its process names it.
    pub path: PathBuf,
    /// Version, such as `OpenSSL 3.0.17`; empty if unknown.
    pub version: String,
    /// Its path no longer leads to it: it was removed or replaced on disk.
    pub deleted: bool,
    file: Arc<File>,
}

impl Found {
    /// Whose TLS code it is, as its constants tell: a library with OpenSSL's functions may be another's.
    pub fn makers(&self) -> Option<likely::Likely> {
        likely::find(&self.file)
    }

    /// The file, held open.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Path that leads to the file as long as this value lives, whatever becomes of the process
    /// in which it was found and of the path there. For this process only.
    pub fn attach_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The functions through which a TLS library gives and takes its records.
#[derive(Clone, Debug)]
pub struct Bio {
    /// File offset of `BIO_write`.
    pub write: u64,
    /// File offset of `BIO_read`.
    pub read: u64,
    /// Where that returns; empty if it is not known.
    pub returns: Vec<Return>,
    /// Path of their file for people to read.
    pub path: PathBuf,
    /// Which file it is.
    pub id: FileId,
    file: Arc<File>,
}

impl Bio {
    /// As [`Found::file`].
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// As [`Found::attach_path`].
    pub fn attach_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// What was found in a process.
#[derive(Debug, Default)]
pub struct InProcess {
    /// TLS libraries.
    pub found: Vec<Found>,
    /// Files that could not be looked at, and why.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Files that speak TLS in a way that cannot be probed, and why.
    pub unprobed: Vec<(PathBuf, NotTls)>,
    /// Files that it is going to map, and that have nothing to probe.
    pub plain: Vec<Plain>,
}

/// Whether a file of this name is, by its name, a library that is captured.
pub fn has_known_name(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| NAMES.iter().any(|known| name.as_bytes().starts_with(known.as_bytes())))
}

/// Finds TLS libraries; remembers what it has looked at.
#[derive(Debug, Default)]
pub struct Discovery {
    seen: HashMap<FileState, Result<Arc<TlsLibrary>, NotTls>>,
    explains: bool,
    /// Files that were looked at for functions that switch stacks, and whether they have any.
    switchers: Option<HashMap<FileState, bool>>,
    has_seen_switcher: bool,
}

impl Discovery {
    /// From now on, looks for TLS code in files that cannot be probed, too: see [`NotTls::Likely`]. That
    /// reads their constants.
    pub fn explaining(self) -> Discovery {
        Discovery { explains: true, ..self }
    }

    /// From now on, looks for programs that may have coroutines: see [`Discovery::has_seen_switcher`].
    pub fn noticing_switchers(self) -> Discovery {
        Discovery { switchers: Some(HashMap::new()), ..self }
    }

    /// Whether a process that was looked at can switch stacks, as far as names of functions tell.
    pub fn has_seen_switcher(&self) -> bool {
        self.has_seen_switcher
    }

    fn is_switcher(&mut self, state: FileState, file: &File, path: &Path) -> bool {
        let Some(switchers) = &mut self.switchers else { return false };
        // OpenSSL's jobs never switch inside of what is probed.
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"libcrypto")) {
            return false;
        }
        if switchers.len() >= CACHE_MAX {
            switchers.clear();
        }
        *switchers.entry(state).or_insert_with(|| elf::switches_stacks(file))
    }

    /// TLS libraries that a process has mapped, its own program among them. `fresh`: inode of a
    /// file whose mapping has just begun.
    ///
    /// # Errors
    /// If the process is gone or has the fresh file not mapped any more (`NotFound`), or its mappings may
    /// not be read.
    pub fn libraries_of(&mut self, pid: u32, fresh: Option<u64>) -> io::Result<InProcess> {
        match maps::mapped_files(pid, fresh) {
            Ok(files) if fresh.is_some_and(|inode| !files.is_empty() && !maps::is_among(&files, inode)) => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the file is not mapped any more"))
            }
            Ok(files) if !files.is_empty() => self.libraries_among(&files, pid, fresh.is_some()),
            _ if process::is_gone(pid) => Err(gone()),
            other => other.map(|_| InProcess::default()),
        }
    }

    fn libraries_among(&mut self, files: &[MappedFile], pid: u32, fresh: bool) -> io::Result<InProcess> {
        let mut result = InProcess::default();
        let mut switches = false;
        for mapped in files {
            let open = mapped.open(pid).and_then(|file| Ok((state_of(&file)?, file)));
            let (state, file) = match open {
                Ok(opened) => opened,
                // It has ended meanwhile, which is no news of its files.
                Err(_) if process::is_gone(pid) => return Err(gone()),
                Err(error) => {
                    result.unreadable.push((mapped.path.clone(), error));
                    continue;
                }
            };
            let (key, _) = state;
            if result.found.iter().any(|f| f.key == key) {
                continue;
            }
            switches |= self.is_switcher(state, &file, &mapped.path);
            let library = match self.classify(state, &file, &mapped.whereabouts(pid)) {
                Ok(library) => library,
                Err(why) => {
                    // All that a 32-bit program maps is for 32 bits.
                    let is_other_program =
                        || why == NotTls::OtherMachine && maps::is_program_of(pid, mapped.inode);
                    if is_worth_telling(&why, &mapped.path) || is_other_program() {
                        result.unprobed.push((mapped.path.clone(), why));
                    }
                    continue;
                }
            };
            result.unprobed.extend(library.also.clone().map(|why| (mapped.path.clone(), why)));
            let crypto = || match sibling(files, mapped) {
                Some(crypto) => crypto.open(pid).ok(),
                // The loader maps it later.
                None if !mapped.deleted => {
                    let name = crypto_name(mapped.path.file_name()?.as_bytes())?;
                    maps::open_regular(&maps::path_of(pid, &mapped.path.with_file_name(name))).ok()
                }
                None => None,
            };
            result.found.push(Found {
                version: version_of(&library, crypto),
                library,
                key,
                mapped: Some((mapped.device, mapped.inode)),
                path: mapped.path.clone(),
                deleted: mapped.deleted,
                file: Arc::new(file),
            });
        }
        self.has_seen_switcher |= switches && (fresh || !result.found.is_empty());
        Ok(result)
    }

    /// Which of the libraries that a process's program names, and those name, have nothing to probe. `program`: inode
    /// of a file; if it is no program, there are none.
    pub fn plain_ahead_of(&mut self, pid: u32, program: u64) -> Vec<Plain> {
        let is_program = maps::is_program_of(pid, program);
        let opened = || {
            let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            Some((path, maps::open_regular(Path::new(&format!("/proc/{pid}/exe"))).ok()?))
        };
        let Some(program) = is_program.then(opened).flatten() else { return Vec::new() };
        let told = needed::folders_of_environment(pid);
        let standard = folders();
        let deadline = Deadline::after(needed::TIME_MAX);
        let (mut plain, mut seen, mut left) = (Vec::new(), HashSet::new(), VecDeque::from([program]));
        while let Some((path, file)) = left.pop_front() {
            let needed = needed::of_file(&file, &path);
            let folders = || needed.folders.iter().chain(&told).chain(&standard);
            for name in &needed.names {
                if seen.len() >= needed::FILES_MAX || deadline.is_over() {
                    return plain;
                }
                let Some((path, file)) = needed::find(pid, name, folders()) else { continue };
                let Ok(state) = state_of(&file) else { continue };
                if !seen.insert(state) {
                    continue;
                }
                // Before it is read: what is written to it meanwhile is not what was looked at.
                let this = Plain::of(&file);
                let at = Whereabouts { root: maps::root_of(pid), path: path.clone() };
                let has_nothing =
                    self.classify(state, &file, &at).is_err_and(|why| !is_worth_telling(&why, &path));
                if has_nothing && !self.is_switcher(state, &file, &path) {
                    plain.extend(this);
                }
                left.push_back((path, file));
            }
        }
        plain
    }

    /// The BIO functions of a process's TLS libraries: each library's own, or its libcrypto's.
    ///
    /// # Errors
    /// If the process is gone or its mappings may not be read.
    pub fn bios_of(&mut self, pid: u32) -> io::Result<Vec<Bio>> {
        let files = maps::mapped_files(pid, None)?;
        let mut bios: Vec<Bio> = Vec::new();
        for mapped in &files {
            let Ok(file) = mapped.open(pid) else { continue };
            let state = state_of(&file)?;
            let Ok(library) = self.classify(state, &file, &mapped.whereabouts(pid)) else { continue };
            if library.family != Some(Family::OpenSsl) {
                continue;
            }
            let of = |(write, read), returns: &Returns, path: &Path, id, file| Bio {
                write,
                read,
                returns: returns.of(read).unwrap_or_default().to_vec(),
                path: path.to_owned(),
                id,
                file: Arc::new(file),
            };
            let own =
                library.bio.map(|places| of(places, &library.returns, &mapped.path, state.0.id(), file));
            let mut near = files.iter().filter(|f| is_crypto_of(f, mapped));
            let bio = own.or_else(|| {
                near.find_map(|candidate| {
                    let file = candidate.open(pid).ok()?;
                    let id = FileKey::of(&file.metadata().ok()?).id();
                    let (places, returns) = elf::bio(&file)?;
                    Some(of(places, &returns, &candidate.path, id, file))
                })
            });
            bios.extend(bio.filter(|new| !bios.iter().any(|known| known.path == new.path)));
        }
        Ok(bios)
    }

    /// The TLS library at a path.
    ///
    /// # Errors
    /// If there is no such file, it may not be read, or ([`NotTls`] inside) is not a TLS library.
    pub fn at(&mut self, path: &Path) -> io::Result<Found> {
        let file = maps::open_regular(path)?;
        let state = state_of(&file)?;
        let path = path.canonicalize()?;
        let at = Whereabouts { root: PathBuf::from("/"), path: path.clone() };
        let library =
            self.classify(state, &file, &at).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let crypto = || {
            let name = crypto_name(path.file_name()?.as_bytes())?;
            maps::open_regular(&path.with_file_name(name)).ok()
        };
        let version = version_of(&library, crypto);
        Ok(Found { library, key: state.0, mapped: None, path, version, deleted: false, file: Arc::new(file) })
    }

    /// Every `libssl.so*`, `libgnutls.so*` and `libssl3.so` in the standard folders and those that the dynamic loader is told of.
    pub fn installed(&mut self) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        for folder in folders() {
            let Ok(entries) = folder.read_dir() else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if !NAMES.iter().any(|known| name.as_bytes().starts_with(known.as_bytes())) {
                    continue;
                }
                match self.at(&entry.path()) {
                    Ok(library) if !found.iter().any(|f| f.key == library.key) => found.push(library),
                    _ => {}
                }
            }
        }
        found
    }

    fn classify(
        &mut self,
        state: FileState,
        file: &File,
        at: &Whereabouts,
    ) -> Result<Arc<TlsLibrary>, NotTls> {
        if let Some(known) = self.seen.get(&state) {
            return known.clone();
        }
        if self.seen.len() >= CACHE_MAX {
            self.seen.clear();
        }
        let mut result = elf::classify(file, at).map(Arc::new);
        if self.explains
            && let Err(NotTls::NoSymbols) = &result
            && let Some(likely) = likely::find(file)
        {
            result = Err(NotTls::Likely(likely));
        }
        self.seen.insert(state, result.clone());
        result
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended")
}

/// Whether a file that cannot be probed speaks TLS all the same.
fn is_worth_telling(why: &NotTls, path: &Path) -> bool {
    match why {
        NotTls::Go(_) | NotTls::Nss(_) | NotTls::Rustls(_) | NotTls::Likely(_) => true,
        NotTls::TooCostly => true,
        NotTls::OtherMachine | NotTls::Damaged | NotTls::NoSymbols => has_known_name(path),
        NotTls::NotElf | NotTls::Wrapper => false,
    }
}

/// A shared libssl does not know its version: its libcrypto does.
fn version_of(library: &TlsLibrary, crypto: impl FnOnce() -> Option<File>) -> String {
    match library.family {
        Some(Family::OpenSsl) => {
            let version = library.version.clone().or_else(|| elf::version(&crypto()?));
            version.or_else(|| Some(library.make?.to_owned())).unwrap_or_default()
        }
        // Their names are no part of a path that tells them.
        family => library.version.clone().unwrap_or_else(|| family.map_or("Go", Family::as_str).to_owned()),
    }
}

/// Name of the libcrypto that goes with this libssl.
fn crypto_name(ssl: &[u8]) -> Option<String> {
    let suffix = ssl.strip_prefix(b"libssl")?;
    Some(format!("libcrypto{}", std::str::from_utf8(suffix).ok()?))
}

fn sibling<'f>(files: &'f [MappedFile], ssl: &MappedFile) -> Option<&'f MappedFile> {
    let name = crypto_name(ssl.path.file_name()?.as_bytes())?;
    files.iter().find(|f| f.path.file_name().is_some_and(|n| n.as_bytes() == name.as_bytes()))
}

/// Whether a file is the libcrypto in a libssl's folder. Wheels give each a name of its own.
fn is_crypto_of(file: &MappedFile, ssl: &MappedFile) -> bool {
    file.path.parent() == ssl.path.parent()
        && file.path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"libcrypto"))
}

fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for pattern in FOLDERS {
        match pattern.split_once("/*") {
            None => folders.push(PathBuf::from(pattern)),
            Some((parent, suffix)) => folders.extend(matching(Path::new(parent), suffix)),
        }
    }
    for file in matching(Path::new("/etc/ld.so.conf.d"), ".conf") {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        folders.extend(text.lines().map(str::trim).filter(|l| l.starts_with('/')).map(PathBuf::from));
    }
    // /lib is a link to /usr/lib on most systems: each folder once.
    let mut real: Vec<PathBuf> = folders.iter().filter_map(|f| f.canonicalize().ok()).collect();
    real.sort();
    real.dedup();
    real
}

fn matching(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.as_os_str().as_bytes().ends_with(suffix.as_bytes()))
        .collect()
}

#[cfg(test)]
mod tests;
