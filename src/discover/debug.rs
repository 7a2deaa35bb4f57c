//! Symbols that do not stand in a file's own tables: its compressed mini debug info (`.gnu_debugdata`), and
//! separate debug files, found by build-id or by `.gnu_debuglink`.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use lzma_rust2::XzReader;
use object::{Endianness, ReadRef};

use super::bounded::Deadline;
use super::image::Image;
use super::maps::{Whereabouts, open_regular};

/// Most bytes of mini debug info once it is unpacked.
pub(super) const UNPACKED_MAX: u64 = 64 << 20;
/// Largest dictionary of mini debug info, in KiB; xz -9 takes 64 MiB.
const DICTIONARY_MAX: u32 = 128 << 10;
/// Largest separate debug file whose checksum is computed, in bytes.
const SUMMED_MAX: u64 = 2 << 30;
/// Where separate debug files are kept.
const FOLDER: &str = "usr/lib/debug";

impl Whereabouts {
    /// Separate debug files that belong to the file. The process's own root goes first, then this host's.
    pub(super) fn debug_files<'d, R: ReadRef<'d>>(
        &self,
        image: &Image<'d, R>,
        deadline: Deadline,
    ) -> Vec<(PathBuf, File)> {
        let host = Path::new("/");
        let mut roots = vec![self.root.as_path()];
        if self.root != host {
            roots.push(host);
        }
        let mut found = Vec::new();
        let build_id = image.build_id();
        if let Some((first, rest)) = build_id.and_then(<[u8]>::split_first) {
            let rest: String = rest.iter().map(|b| format!("{b:02x}")).collect();
            let name = format!("{FOLDER}/.build-id/{first:02x}/{rest}.debug");
            found.extend(roots.iter().filter_map(|root| opened(root.join(&name))));
        }
        let Some((name, sum)) = debug_link(image) else { return found };
        let folder = relative(self.path.parent().unwrap_or(host));
        for root in roots {
            let candidates = [
                root.join(&folder).join(name),
                root.join(&folder).join(".debug").join(name),
                root.join(FOLDER).join(&folder).join(name),
            ];
            let good = |(_, file): &(PathBuf, File)| checksum(file, deadline) == Some(sum);
            found.extend(candidates.into_iter().filter_map(opened).filter(good));
        }
        found
    }
}

/// The file that is packed into `.gnu_debugdata`; `None` if there is none, it is damaged or too large.
pub(super) fn embedded<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<Vec<u8>> {
    let (_, packed) = image.section(b".gnu_debugdata")?;
    let mut unpacked = Vec::new();
    let reader = XzReader::new_mem_limit(packed, false, DICTIONARY_MAX);
    let length = reader.take(UNPACKED_MAX + 1).read_to_end(&mut unpacked).ok()? as u64;
    (length <= UNPACKED_MAX).then_some(unpacked)
}

/// Name of the debug file, and its checksum.
fn debug_link<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<(&'d Path, u32)> {
    let (_, link) = image.section(b".gnu_debuglink")?;
    let end = memchr::memchr(0, link)?;
    let sum = link.get((end + 1).next_multiple_of(4)..)?.first_chunk::<4>()?;
    let name = Path::new(std::ffi::OsStr::from_bytes(&link[..end]));
    // A name, and no way to other places.
    let mut parts = name.components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    let sum = match image.endian {
        Endianness::Little => u32::from_le_bytes(*sum),
        Endianness::Big => u32::from_be_bytes(*sum),
    };
    plain.then_some((name, sum))
}

fn opened(path: PathBuf) -> Option<(PathBuf, File)> {
    let file = open_regular(&path).ok()?;
    Some((path, file))
}

/// The path without what leads to the root or up.
fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// CRC-32 of the whole file, if it takes no longer than until the deadline.
fn checksum(file: &File, deadline: Deadline) -> Option<u32> {
    if file.metadata().ok()?.len() > SUMMED_MAX {
        return None;
    }
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut rest = file.take(SUMMED_MAX);
    while !deadline.is_over() {
        match rest.read(&mut buffer).ok()? {
            0 => return Some(sum.finalize()),
            n => sum.update(&buffer[..n]),
        }
    }
    None
}
