//! The output of a capture: a private file, a pipe, standard output.

use std::fs::File;
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::Format;
use super::place;
use super::rotate::Enough;
use super::whereabouts::Whereabouts;
use crate::privilege;

/// Only the owner may read plaintext.
const MODE: u32 = 0o600;
/// A ready file holds no secret.
const MODE_OF_ALL: u32 = 0o666;

/// An open output for whole pcapng blocks, which it writes in its format.
///
/// A regular file always ends at the border of a block, a packet or a gzip member, even if the disk is full.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    format: Format,
    /// Length of the file so far, if it is regular.
    regular: Option<Arc<AtomicU64>>,
    /// Bytes that were written to it, whatever it is.
    sent: u64,
    created: bool,
    /// A file that is regular ends at the border of a block.
    in_blocks: bool,
    /// It was opened by its name, so no other process shares it.
    is_named: bool,
    /// If it is a regular file with a name.
    whereabouts: Option<Whereabouts>,
}

impl OutputFile {
    /// Opens `path`; `-` is standard output.
    ///
    /// A new file gets mode 0600. An existing regular file is truncated and loses the permissions of group and
    /// others. FIFOs and character devices are written to as they are; opening a FIFO waits for its reader.
    ///
    /// # Errors
    /// The system's error; `InvalidInput` for a terminal and for files of other types; `PermissionDenied` for
    /// what another user may have put there.
    pub fn create(path: &Path, format: Format) -> io::Result<OutputFile> {
        if path.as_os_str() == "-" {
            let stdout = io::stdout();
            refuse_terminal(&stdout)?;
            let mut file = File::from(stdout.as_fd().try_clone_to_owned()?);
            // Not emptied, and written where the shell left off: `>> file` works.
            let metadata = file.metadata()?;
            let at_end = metadata.is_file() && file.stream_position()? == metadata.len();
            let regular = at_end.then(|| Arc::new(metadata.len().into()));
            return Ok(OutputFile {
                file,
                format,
                regular,
                sent: 0,
                created: false,
                is_named: false,
                in_blocks: true,
                whereabouts: None,
            });
        }
        let place::Opened { file, created } = place::open(path, MODE)?;
        refuse_terminal(&file)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(OutputFile {
                file,
                format,
                regular: None,
                sent: 0,
                created,
                is_named: true,
                in_blocks: true,
                whereabouts: None,
            });
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & !0o700 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(mode & 0o700))?;
        }
        file.set_len(0)?;
        let written = Arc::new(AtomicU64::new(0));
        let whereabouts = Whereabouts::new(&file, path, Arc::clone(&written))?;
        Ok(OutputFile {
            file,
            format,
            regular: Some(written),
            sent: 0,
            created,
            is_named: true,
            in_blocks: true,
            whereabouts,
        })
    }

    /// The same for a recording, which may end anywhere.
    pub fn of_records(self) -> OutputFile {
        OutputFile { in_blocks: false, ..self }
    }

    /// Whether a reader may follow the output while it is written: a pipe, not a regular file.
    pub fn is_live(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| !metadata.is_file())
    }

    /// What it is written as.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The pipe that this writes to, if it is one.
    pub fn pipe(&self) -> Option<OwnedFd> {
        let pipe = self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        pipe.then(|| self.file.as_fd().try_clone_to_owned().ok())?
    }

    /// The file, if it did not exist before.
    pub fn created(&self) -> Option<&File> {
        self.created.then_some(&self.file)
    }

    /// Bytes that were written to it, file or pipe, without those that it had before.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Gives a file that was just created to the user who called sudo. An existing file keeps its owner,
    /// because it may be another user's.
    pub fn give_to_user(&self) {
        if let (Some(file), Some(user)) = (self.created(), privilege::invoking_user()) {
            // Some file systems know no owners; the file then stays root's.
            let _ = privilege::give_to(&user, file);
        }
    }

    /// To see later what became of the file, if it is a regular one with a name. Can be taken once.
    pub fn take_whereabouts(&mut self) -> Option<Whereabouts> {
        self.whereabouts.take()
    }

    /// Whether this is the same regular file as `path` leads to.
    pub fn is_same_as(&self, path: &Path) -> bool {
        let own = self.file.metadata().ok().filter(std::fs::Metadata::is_file);
        let other = std::fs::metadata(path).ok();
        own.zip(other).is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// Another program that writes to the file, or cuts it, would leave nothing that can be read.
    fn check_unchanged(&self) -> io::Result<()> {
        let (Some(expected), true) = (&self.regular, self.is_named) else { return Ok(()) };
        let expected = expected.load(Ordering::Relaxed);
        match self.file.metadata()?.len() {
            len if len == expected => Ok(()),
            len => Err(io::Error::other(format!(
                "another program has changed the file: it has {len} bytes, and {expected} were written"
            ))),
        }
    }
}

/// Writes `text` to a file that any user may read; creates or truncates it.
///
/// # Errors
/// As those of [`OutputFile::create`].
pub fn write_public(path: &Path, text: &str) -> io::Result<()> {
    let mut file = place::open(path, MODE_OF_ALL)?.file;
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}

/// Whether two paths lead to one regular file, however they are spelled.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    let key = |path: &Path| {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    key(a).is_some_and(|of_a| key(b) == Some(of_a))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn refuse_terminal(file: &impl IsTerminal) -> io::Result<()> {
    if file.is_terminal() {
        return Err(invalid(
            "refusing to write a capture to a terminal: name a file, or pipe it into a program",
        ));
    }
    Ok(())
}

impl Write for OutputFile {
    /// All of `blocks`, or an error.
    fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
        self.write_all(blocks).map(|()| blocks.len())
    }

    fn write_all(&mut self, blocks: &[u8]) -> io::Result<()> {
        self.check_unchanged()?;
        let bytes = &self.format.encode(blocks)[..];
        let mut done = 0;
        while done < bytes.len() {
            let error = match self.file.write(&bytes[done..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(n) => {
                    done += n;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            // A recording is not in blocks.
            let (whole, packets) = if self.in_blocks { self.format.whole(bytes, done) } else { (done, 0) };
            self.sent += whole as u64;
            if let Some(len) = &self.regular {
                let len = len.fetch_add(whole as u64, Ordering::Relaxed) + whole as u64;
                // If this fails too, the first error is still the one to report.
                let _ = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
            }
            let taken = self.format.taken(blocks, whole, packets);
            return Err(io::Error::new(error.kind(), Partly { error, packets, taken }));
        }
        self.sent += bytes.len() as u64;
        if let Some(len) = &self.regular {
            len.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Inside an [`io::Error`]: how many packets were written before it, and how many bytes of the blocks that were
/// given.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Partly {
    error: io::Error,
    packets: u64,
    taken: usize,
}

/// The packets of a failed write that are in the file nevertheless.
pub(super) fn packets_before(error: &io::Error) -> u64 {
    let enough = error.get_ref().and_then(|error| error.downcast_ref::<Enough>());
    enough.map(|enough| enough.packets).or(of(error).map(|partly| partly.packets)).unwrap_or(0)
}

/// The bytes of the blocks of a failed write that are in the file nevertheless: whole blocks.
pub(super) fn taken_before(error: &io::Error) -> usize {
    of(error).map_or(0, |partly| partly.taken)
}

/// The same error, with another number of packets.
pub(super) fn partly(error: io::Error, packets: u64) -> io::Error {
    io::Error::new(error.kind(), Partly { error, packets, taken: 0 })
}

fn of(error: &io::Error) -> Option<&Partly> {
    error.get_ref().and_then(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tls2pcap-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn create(path: &Path) -> io::Result<OutputFile> {
        OutputFile::create(path, Format::default())
    }

    fn block(len: usize) -> Vec<u8> {
        let mut block = vec![0; len];
        block[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        block
    }

    #[test]
    fn a_file_is_private_new_or_not() {
        let folder = Folder::new("private");
        let path = folder.0.join("out");
        for _ in 0..2 {
            let mut output = create(&path).unwrap();
            output.write_all(&block(16)).unwrap();
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, 16));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
    }

    #[test]
    fn only_sensible_files_are_opened() {
        let folder = Folder::new("types");
        assert!(create(&folder.0).is_err());
        let socket = folder.0.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(create(&socket).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(create(&folder.0.join("none/out")).is_err());
        create(Path::new("/dev/null")).unwrap().write_all(&block(16)).unwrap();
        let full = create(Path::new("/dev/full")).unwrap().write_all(&block(16)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    /// In a separate process, because a limit on file sizes applies to the whole process.
    #[test]
    fn a_full_disk_leaves_whole_blocks() {
        const NAME: &str = "TLS2PCAP_TEST_FULL";
        if let Some(path) = std::env::var_os(NAME) {
            let limit = libc::rlimit { rlim_cur: 100, rlim_max: 100 };
            // SAFETY: both calls take plain values or a pointer to a live struct, and nothing else runs
            // in this process.
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
            }
            let mut output = create(Path::new(&path)).unwrap();
            output.write_all(&block(40)).unwrap();
            let more = [block(40), block(40)].concat();
            assert_eq!(output.write_all(&more).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
            return;
        }
        let folder = Folder::new("full");
        let path = folder.0.join("out");
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sink::output::tests::a_full_disk_leaves_whole_blocks"])
            .env(NAME, &path)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 80, "one more block fits into 100 bytes");
    }
}
