//! Files of a profile. Wireshark writes them anew whenever any of its preferences changes: with a header of its own,
//! in another order, and with each preference that has its default as a comment.

use std::fs;
use std::path::Path;

/// Preferences that Wireshark adds to what was there.
const ADDED: [&str; 3] = ["gui.column.hidden:", "gui.column.hide:", "gui.qt.font_name:"];
/// Where Wireshark keeps the layout of its window.
const LAYOUT: &str = "recent";
/// Longest file that is looked at, bytes.
const LONGEST: u64 = 1 << 20;

/// What a file says, in the same form whoever wrote it. Comments say nothing.
pub(super) fn meaning(contents: &[u8]) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for line in contents.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end) {
        match line.first() {
            None | Some(b'#') => {}
            Some(b' ' | b'\t') if !entries.is_empty() => {
                let entry = &mut entries[..];
                entry[entry.len() - 1].extend_from_slice(line.trim_ascii());
            }
            Some(_) => entries.push(line.to_vec()),
        }
    }
    entries.retain(|entry| !ADDED.iter().any(|added| entry.starts_with(added.as_bytes())));
    // Of colours and buttons the order counts.
    if entries.iter().all(|entry| entry[0].is_ascii_lowercase()) {
        entries.sort();
    }
    entries.join(&b'\n')
}

/// Removes what Wireshark has put into the folder of a profile by itself, if nothing else is in it: otherwise the
/// profile would remain, with nothing in it.
pub(super) fn remove_leftovers(profile: &Path) {
    let Ok(entries) = fs::read_dir(profile) else { return };
    let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    let is_left = |path: &Path| {
        let is_short = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() <= LONGEST);
        let says_nothing = || fs::read(path).is_ok_and(|contents| meaning(&contents).is_empty());
        is_short && (path.file_name().is_some_and(|name| name == LAYOUT) || says_nothing())
    };
    if paths.iter().all(|path| is_left(path)) {
        for path in paths {
            // What stays is reported with the folder.
            let _ = fs::remove_file(path);
        }
    }
}
