//! The engine's clock: the wall clock, which never goes back.
//!
//! After a step back, time advances by the monotonic clock from the last reading until the wall clock has caught up. A
//! jump forward of over `OUTAGE_MILLIS_MIN` against the monotonic clock (the machine slept, or a wrong clock was
//! corrected) is reported as an outage, since clients could not renew their leases during it.

use cortex_core::time::{Millis, Timestamp};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A jump forward of more than this against the monotonic clock is an outage.
const OUTAGE_MILLIS_MIN: Millis = Millis::from_seconds(60);

/// A reading of the engine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockReading {
    /// Never before the `now` of an earlier reading.
    pub(super) now: Timestamp,
    /// If an outage has just ended: the last reading before it.
    pub(super) outage_since: Option<Timestamp>,
}

/// Derives the engine's time from the two clocks of the system.
#[derive(Debug, Default)]
struct Clock {
    last: Option<(Timestamp, Duration)>,
}

impl Clock {
    /// Returns the engine's time, given the wall clock and the time on the monotonic clock since any fixed start.
    fn read(&mut self, wall: Timestamp, monotonic: Duration) -> ClockReading {
        let Some((last, last_monotonic)) = self.last else {
            self.last = Some((wall, monotonic));
            return ClockReading { now: wall, outage_since: None };
        };
        let passed = Millis(u64::try_from(monotonic.saturating_sub(last_monotonic).as_millis()).unwrap_or(u64::MAX));
        let expected = last.after(passed);
        if wall < last {
            // The fraction of a millisecond is carried over to the next reading.
            self.last = Some((expected, last_monotonic.saturating_add(Duration::from_millis(passed.0))));
            return ClockReading { now: expected, outage_since: None };
        }
        let outage_since = (wall.since(expected) > OUTAGE_MILLIS_MIN).then_some(last);
        self.last = Some((wall, monotonic));
        ClockReading { now: wall, outage_since }
    }
}

/// The engine's clock with the source of its readings: the wall clock, and the time on the monotonic clock.
pub struct EngineClock {
    clock: Clock,
    source: Box<dyn FnMut() -> (Timestamp, Duration) + Send>,
}

impl EngineClock {
    /// A clock that reads the clocks of the system.
    #[must_use]
    pub fn system() -> Self {
        let start = Instant::now();
        Self::from_source(move || {
            // A wall clock before 1970 is wrong: it counts as 1970.
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let wall = Timestamp::since_1970(since_epoch);
            (wall, start.elapsed())
        })
    }

    /// A clock that the caller controls, for tests and simulations.
    #[must_use]
    pub fn from_source(source: impl FnMut() -> (Timestamp, Duration) + Send + 'static) -> Self {
        Self { clock: Clock::default(), source: Box::new(source) }
    }

    /// Continues from a time that an earlier process reached: no reading is before it.
    pub(super) fn resume(&mut self, last: Timestamp) {
        let (_, monotonic) = (self.source)();
        self.clock.last = Some((last, monotonic));
    }

    pub(super) fn read(&mut self) -> ClockReading {
        let (wall, monotonic) = (self.source)();
        self.clock.read(wall, monotonic)
    }
}

impl fmt::Debug for EngineClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineClock").field("clock", &self.clock).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds on the wall clock and on the monotonic clock.
    type Given = (i64, u64);
    /// The engine's time in seconds, and the start of the outage.
    type Expected = (i64, Option<i64>);

    /// Reads a clock at each pair of seconds given, and compares.
    fn check(readings: &[(Given, Expected)]) {
        let mut clock = Clock::default();
        for ((wall, monotonic), (now, outage)) in readings {
            let seconds = |s: &i64| Timestamp::from_millis(s * 1000);
            let reading = clock.read(seconds(wall), Duration::from_secs(*monotonic));
            let expected = ClockReading { now: seconds(now), outage_since: outage.as_ref().map(seconds) };
            assert_eq!(reading, expected, "at wall {wall}, monotonic {monotonic}");
        }
    }

    #[test]
    fn it_follows_the_wall_clock() {
        check(&[((1000, 0), (1000, None)), ((1010, 10), (1010, None)), ((1075, 20), (1075, None))]);
    }

    #[test]
    fn it_goes_on_by_the_monotonic_clock_after_a_step_back() {
        check(&[
            ((10_000, 0), (10_000, None)),
            ((6_400, 10), (10_010, None)),
            ((6_410, 20), (10_020, None)),
            // The clock is corrected.
            ((10_030, 30), (10_030, None)),
        ]);
    }

    #[test]
    fn a_small_step_back_that_time_has_outrun_is_no_step_back() {
        check(&[((1000, 0), (1000, None)), ((1020, 50), (1020, None))]);
    }

    #[test]
    fn a_jump_forward_of_over_a_minute_is_an_outage() {
        check(&[
            ((1000, 0), (1000, None)),
            ((1065, 5), (1065, None)),
            ((1131, 10), (1131, Some(1065))),
            ((1141, 20), (1141, None)),
            ((87_541, 21), (87_541, Some(1141))),
        ]);
    }

    #[test]
    fn fractions_of_a_millisecond_add_up() {
        let mut clock = Clock::default();
        let start = Timestamp::from_millis(5_000);
        clock.read(start, Duration::ZERO);
        let behind = Timestamp::from_millis(0);
        let mut now = start;
        for step in 1..=20_u32 {
            now = clock.read(behind, Duration::from_micros(400) * step).now;
        }
        assert_eq!(now, Timestamp::from_millis(5_008));
    }
}
