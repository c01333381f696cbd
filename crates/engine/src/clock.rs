//! The time the engine stamps on what it does: the wall clock, made never to go back.
//!
//! After a step back time goes on by the monotonic clock from the last reading, until the wall clock has caught up. A
//! jump forward of over [`OUTAGE_MILLIS_MIN`] against the monotonic clock (the machine slept, or a wrong clock was
//! mended) is told as an outage: nobody could renew meanwhile.

use cortex_core::time::{Millis, Timestamp};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A jump forward of more than this against the monotonic clock is an outage.
pub const OUTAGE_MILLIS_MIN: Millis = Millis::from_seconds(60);

/// A moment as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The moment; never before that of an earlier reading.
    pub now: Timestamp,
    /// If there was an outage just before: the last moment ahead of it.
    pub outage_since: Option<Timestamp>,
}

/// Turns readings of the system's two clocks into the engine's time.
#[derive(Debug, Default)]
pub struct Clock {
    last: Option<(Timestamp, Duration)>,
}

impl Clock {
    /// The moment, given what the wall clock says and how far the monotonic clock has run since any fixed start.
    pub fn read(&mut self, wall: Timestamp, monotonic: Duration) -> Reading {
        let Some((last, last_monotonic)) = self.last else {
            self.last = Some((wall, monotonic));
            return Reading { now: wall, outage_since: None };
        };
        let passed = Millis(u64::try_from(monotonic.saturating_sub(last_monotonic).as_millis()).unwrap_or(u64::MAX));
        let expected = last.after(passed);
        if wall < last {
            // What is less than a millisecond counts towards the next.
            self.last = Some((expected, last_monotonic.saturating_add(Duration::from_millis(passed.0))));
            return Reading { now: expected, outage_since: None };
        }
        let outage_since = (wall.since(expected) > OUTAGE_MILLIS_MIN).then_some(last);
        self.last = Some((wall, monotonic));
        Reading { now: wall, outage_since }
    }
}

/// A clock with the source of its two readings: the wall clock, and how far the monotonic clock has run.
pub struct EngineClock {
    clock: Clock,
    source: Box<dyn FnMut() -> (Timestamp, Duration) + Send>,
}

impl EngineClock {
    /// The system's clocks.
    #[must_use]
    pub fn system() -> Self {
        let start = Instant::now();
        Self::from_source(move || {
            // A wall clock before 1970 is as wrong as any other: it counts as 1970.
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let wall = Timestamp::since_1970(since_epoch);
            (wall, start.elapsed())
        })
    }

    /// Clocks that somebody else turns.
    #[must_use]
    pub fn from_source(source: impl FnMut() -> (Timestamp, Duration) + Send + 'static) -> Self {
        Self { clock: Clock::default(), source: Box::new(source) }
    }

    /// Lets time go on from a moment that was reached before: no reading lies before it.
    pub(super) fn resume(&mut self, last: Timestamp) {
        let (_, monotonic) = (self.source)();
        self.clock.last = Some((last, monotonic));
    }

    pub(super) fn read(&mut self) -> Reading {
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
    /// The moment in seconds, and since when there was an outage.
    type Expected = (i64, Option<i64>);

    /// Reads a clock at each pair of seconds given, and compares.
    fn check(readings: &[(Given, Expected)]) {
        let mut clock = Clock::default();
        for ((wall, monotonic), (now, outage)) in readings {
            let seconds = |s: &i64| Timestamp::from_millis(s * 1000);
            let reading = clock.read(seconds(wall), Duration::from_secs(*monotonic));
            let expected = Reading { now: seconds(now), outage_since: outage.as_ref().map(seconds) };
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
            // The clock is mended: it shows again what it would have.
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
