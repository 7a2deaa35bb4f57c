//! What a Go program tells of how it was built.

use object::ReadRef;

use super::super::image::Image;

/// Longest version that is believed, in bytes.
const VERSION_MAX: u64 = 64;
const MAGIC: &[u8] = b"\xff Go buildinf:";

/// Version of Go, such as `1.22.5`.
pub(super) fn version<'d, R: ReadRef<'d>>(image: &Image<'d, R>) -> Option<String> {
    let (_, info) = image.section(b".go.buildinfo")?;
    let text = text_of(info).or_else(|| {
        // Before 1.18 the section has the address of a string: its address and length.
        let string = u64_at(info, 16)?;
        let header = image.bytes_at(string, 16)?;
        let len = u64_at(header, 8).filter(|len| *len <= VERSION_MAX)?;
        image.bytes_at(u64_at(header, 0)?, len)
    })?;
    let text = std::str::from_utf8(text).ok()?;
    let version = text.strip_prefix("go")?.split(' ').next()?;
    let good = version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+_".contains(c));
    good.then(|| version.to_owned())
}

/// From 1.18 on the version stands in the section, behind its length.
fn text_of(info: &[u8]) -> Option<&[u8]> {
    const INLINE: u8 = 2;
    if !info.starts_with(MAGIC) || info.get(15)? & INLINE == 0 {
        return None;
    }
    // A length of two bytes is none of a version.
    let len = usize::from(*info.get(32)?);
    (len as u64 <= VERSION_MAX).then(|| info.get(33..33 + len))?
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
