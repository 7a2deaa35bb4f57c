//! From `CLOCK_MONOTONIC` to wall-clock time.

use std::collections::VecDeque;

use super::segment::WallTime;
use crate::event::{Clock, Monotonic};

/// Samples that are kept: enough for every record that can still be held, and no more.
const SAMPLES: usize = 128;

/// The latest samples of both clocks.
///
/// A time is converted by the latest sample at or before it, so an adjustment of the wall clock affects only
/// what happens after it. A time before all kept samples is converted by the oldest.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    samples: VecDeque<Clock>,
}

impl WallClock {
    /// Takes a sample. One that is older than the last is of no use and is left out.
    pub fn sample(&mut self, clock: Clock) {
        if self.samples.back().is_some_and(|last| clock.monotonic <= last.monotonic) {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(clock);
    }

    /// The wall-clock time of `time`; `time` itself while there is no sample.
    pub fn wall(&self, time: Monotonic) -> WallTime {
        let after = self.samples.iter().rev().find(|s| s.monotonic <= time);
        match after.or_else(|| self.samples.front()) {
            Some(s) if s.monotonic <= time => s.realtime.saturating_add(time - s.monotonic),
            Some(s) => s.realtime.saturating_sub(s.monotonic - time),
            None => time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adjustment_moves_only_what_comes_after_it() {
        let mut clock = WallClock::default();
        assert_eq!(clock.wall(7), 7);
        clock.sample(Clock { monotonic: 100, realtime: 1_100 });
        clock.sample(Clock { monotonic: 200, realtime: 5_000 });
        clock.sample(Clock { monotonic: 150, realtime: 9_999 });
        assert_eq!([40, 100, 199, 200, 230].map(|t| clock.wall(t)), [1_040, 1_100, 1_199, 5_000, 5_030]);
    }

    #[test]
    fn samples_are_bounded_and_extremes_do_not_overflow() {
        let mut clock = WallClock::default();
        for i in 0..1_000 {
            clock.sample(Clock { monotonic: 1_000 + i, realtime: 10 });
        }
        assert_eq!(clock.samples.len(), SAMPLES);
        assert_eq!(clock.wall(0), 0);
        clock.sample(Clock { monotonic: 3_000, realtime: u64::MAX });
        assert_eq!(clock.wall(u64::MAX), u64::MAX);
    }
}
