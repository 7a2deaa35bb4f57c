//! The kernel's clocks, by which records and packets have their times.

use crate::event::Clock;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970, `CLOCK_REALTIME`.
pub fn realtime() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

/// Both clocks at one moment.
pub fn clocks() -> Clock {
    // The realtime of the middle of two monotonic readings.
    let before = monotonic();
    let realtime = realtime();
    let after = monotonic();
    Clock { monotonic: before + (after - before) / 2, realtime }
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; these clocks always exist.
    unsafe { libc::clock_gettime(which, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
