//! What a program file lets those do who run it: file capabilities, as dumpcap has them.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{self, AccessFlags, Gid};

use super::{Capability, version, wanted};

/// Longest attribute with capabilities: that of revision 3 has 24 bytes.
const ATTRIBUTE_MAX: usize = 64;

/// What becomes of a program when a user runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Names of the capabilities that it lacks; none: it may capture.
    pub missing: Vec<&'static str>,
    /// All that it should have, as setcap takes them.
    pub wanted: String,
    /// The file system gives no program capabilities (it is mounted with nosuid).
    pub nosuid: bool,
    /// This process's user may run it.
    pub runnable: bool,
    /// Everybody may run it.
    pub by_all: bool,
    /// Name or number of its group.
    pub group: String,
}

impl Rights {
    /// Those of a program file.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn of(program: &Path) -> io::Result<Rights> {
        let metadata = fs::metadata(program)?;
        let has = attribute(program).map_or(0, |bytes| permitted(&bytes));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let wanted = wanted(version(release.trim()));
        let lacks = |capability: &&Capability| has & 1 << **capability as u32 == 0;
        let group = Gid::from_raw(metadata.gid());
        let group = unistd::Group::from_gid(group).ok().flatten().map_or(group.to_string(), |g| g.name);
        Ok(Rights {
            missing: wanted.iter().filter(lacks).map(|c| c.name()).collect(),
            wanted: wanted.iter().map(|c| c.name()).collect::<Vec<_>>().join(","),
            nosuid: statvfs(program).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID)),
            runnable: unistd::eaccess(program, AccessFlags::X_OK).is_ok(),
            by_all: metadata.mode() & 0o001 != 0,
            group,
        })
    }
}

/// The attribute with a file's capabilities.
fn attribute(program: &Path) -> Option<Vec<u8>> {
    let path = CString::new(program.as_os_str().as_bytes()).ok()?;
    let mut bytes = vec![0; ATTRIBUTE_MAX];
    // SAFETY: two strings that end in NUL, and a buffer of the length that is told.
    let len = unsafe {
        libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), bytes.as_mut_ptr().cast(), bytes.len())
    };
    bytes.truncate(usize::try_from(len).ok()?);
    Some(bytes)
}

/// Capabilities that are in effect right after exec, or can be made so.
fn permitted(attribute: &[u8]) -> u64 {
    let word = |at: usize| Some(u32::from_le_bytes(*attribute.get(at..)?.first_chunk()?));
    // Revision 1, of old kernels, has only the lower half.
    let (low, high) = (word(4).unwrap_or(0), word(12).unwrap_or(0));
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_an_attribute() {
        // As `setcap cap_bpf,cap_sys_ptrace=ep` writes it.
        let mut bytes = Vec::new();
        for word in [0x0200_0001_u32, 1 << 19, 0, 1 << (39 - 32), 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(permitted(&bytes), 1 << 39 | 1 << 19);
        for end in 0..bytes.len() {
            let _ = permitted(&bytes[..end]);
        }
        assert_eq!(permitted(&[]), 0);
    }

    #[test]
    fn a_program_without_capabilities_lacks_all() {
        let rights = Rights::of(&std::env::current_exe().unwrap()).unwrap();
        assert!(rights.runnable);
        assert_eq!(rights.missing.join(","), rights.wanted);
        assert!(rights.wanted.starts_with("cap_bpf,cap_perfmon"));
    }
}
