//! Puts files and links in their place in one step: whoever looks sees the old or the new.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file: all of it or nothing.
pub(super) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    in_its_place(path, |new| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(new)?;
        file.write_all(contents)
    })
}

/// Makes something beside `path`, then moves it there.
pub(super) fn in_its_place(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(folder)?;
    let mut new = std::ffi::OsString::from(".");
    new.push(name);
    new.push(format!(".{}.new", std::process::id()));
    let new = folder.join(new);
    let result = make(&new).and_then(|()| fs::rename(&new, path));
    if result.is_err() {
        // Whether it was made or not, the first error is the one to tell.
        let _ = fs::remove_file(&new);
    }
    result
}
