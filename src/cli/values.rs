//! Values of options that are numbers, sizes, times and addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Bytes to keep.
pub(super) fn snaplen(text: &str) -> Result<u32, String> {
    let (digits, shift) = match (text.strip_suffix(['K', 'k']), text.strip_suffix(['M', 'm'])) {
        (Some(digits), _) => (digits, 10),
        (_, Some(digits)) => (digits, 20),
        _ => (text, 0),
    };
    let number: u32 = digits.parse().map_err(|_| "not a number of bytes, such as 256 or 1K".to_owned())?;
    u32::try_from(u64::from(number) << shift).map_err(|_| "longer than any call".to_owned())
}

/// Bytes of a ring.
pub(super) fn ring_size(text: &str) -> Result<u32, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 20),
    };
    let number: u32 = digits.parse().map_err(|_| "not a number, such as 64 or 512K".to_owned())?;
    let bytes = u64::from(number) << shift;
    let page = crate::memory::page_size() as u64;
    if !bytes.is_power_of_two() {
        return Err("not a power of two, such as 64, 128 or 512K".into());
    }
    if bytes < page {
        return Err(format!("less than a memory page, which is {}K", page >> 10));
    }
    u32::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 30).ok_or_else(|| "more than 1024 MiB".into())
}

/// Where to listen; a port alone is one of this machine's loopback.
pub(super) fn serve_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        "neither a port nor a numeric address with a port, such as 0.0.0.0:57012 or [::]:57012".into()
    })
}

/// Seconds, as 30s, 5m or 2h.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let unit = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)].into_iter();
    let mut parts = unit.filter_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = parts.next().unwrap_or((text, 1));
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(factor)).ok_or_else(|| "not a time, such as 30s, 5m or 2h".into())
}
