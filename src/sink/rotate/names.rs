//! What the files of a capture are called.

use std::ffi::{CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::plan::{Names, Plan};
use crate::track::segment::WallTime;

/// Longest name that a file system takes, which a pattern may grow to.
const NAME_MAX: usize = 4096;

/// The name of file `number`, from 1, that begins at `time`. `within`: its number, from 0, among the files of one
/// period of [`Plan::seconds`].
pub(super) fn of(template: &Path, plan: &Plan, number: u64, within: u64, time: WallTime) -> PathBuf {
    if !plan.rotates() {
        return template.to_owned();
    }
    match plan.names {
        Names::NumberTime => numbered(template, &format!("_{number:05}_{}", stamp(time))),
        Names::TimeNumber => numbered(template, &format!("_{}_{number:05}", stamp(time))),
        Names::Tcpdump if plan.seconds.is_some() && template.as_os_str().as_bytes().contains(&b'%') => {
            let path = expand(template, time);
            if within == 0 { path } else { numbered(&path, &within.to_string()) }
        }
        Names::Tcpdump => match plan.keep {
            // As many digits as the highest number has, so that they sort.
            Some(keep) => {
                let digits = keep.saturating_sub(1).to_string().len();
                numbered(template, &format!("{:0digits$}", (number - 1) % keep))
            }
            None if number == 1 => template.to_owned(),
            None => numbered(template, &(number - 1).to_string()),
        },
    }
}

/// The name with `text` before its extension, which determines the format.
pub(super) fn numbered(path: &Path, text: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let bare = name.strip_suffix(b".gz").unwrap_or(name);
    let at = bare.iter().rposition(|b| *b == b'.').filter(|at| *at > 0).unwrap_or(bare.len());
    let (stem, ending) = name.split_at(at);
    path.with_file_name(OsStr::from_bytes(&[stem, text.as_bytes(), ending].concat()))
}

fn stamp(time: WallTime) -> String {
    expand(Path::new("%Y%m%d%H%M%S"), time).to_string_lossy().into_owned()
}

/// The name with strftime's conversions, in local time. As it is if that makes no name.
fn expand(template: &Path, time: WallTime) -> PathBuf {
    let Ok(pattern) = CString::new(template.as_os_str().as_bytes()) else { return template.to_owned() };
    let seconds = i64::try_from(time / 1_000_000_000).unwrap_or(i64::MAX) as libc::time_t;
    let mut parts = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both point to what the function wants, and it fills the second unless it gives null.
    if unsafe { libc::localtime_r(&seconds, parts.as_mut_ptr()) }.is_null() {
        return template.to_owned();
    }
    let mut name = vec![0u8; NAME_MAX];
    // SAFETY: the buffer has that many bytes, the pattern ends in a zero, and `parts` was filled.
    let len =
        unsafe { libc::strftime(name.as_mut_ptr().cast(), name.len(), pattern.as_ptr(), parts.as_ptr()) };
    if len == 0 {
        return template.to_owned();
    }
    name.truncate(len);
    OsString::from_vec(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(template: &str, plan: &Plan, number: u64, within: u64) -> String {
        of(Path::new(template), plan, number, within, 1_796_000_000_000_000_000).display().to_string()
    }

    #[test]
    fn each_way_of_naming() {
        let one = Plan::default();
        assert_eq!(name("d/a%b.pcapng", &one, 1, 0), "d/a%b.pcapng");
        let size = Plan { bytes: Some(1), ..Plan::default() };
        assert_eq!(name("d/a.pcapng", &size, 1, 0), "d/a.pcapng");
        assert_eq!(name("d/a.pcapng.gz", &size, 3, 0), "d/a2.pcapng.gz");
        assert_eq!(name(".hidden", &size, 2, 0), ".hidden1");
        let ring = Plan { keep: Some(11), ..size };
        assert_eq!(name("a.pcap", &ring, 1, 0), "a00.pcap");
        assert_eq!(name("a.pcap", &ring, 13, 0), "a01.pcap");
        let time = Plan { seconds: Some(1), ..Plan::default() };
        let year = name("a-%Y.pcapng", &time, 7, 0);
        assert_eq!(year, "a-2026.pcapng");
        assert_eq!(name("a-%Y.pcapng", &time, 7, 2), "a-20262.pcapng");
        assert_eq!(name("a.pcapng", &time, 2, 0), "a1.pcapng");
        let dumpcap = Plan { packets: Some(1), names: Names::NumberTime, ..Plan::default() };
        let told = name("a.pcapng", &dumpcap, 2, 0);
        assert!(told.starts_with("a_00002_2026") && told.len() == "a_00002_20261130093000.pcapng".len());
        let dumpcap = Plan { names: Names::TimeNumber, ..dumpcap };
        assert!(name("a.pcapng", &dumpcap, 2, 0).ends_with("_00002.pcapng"));
    }
}
