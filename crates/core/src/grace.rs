//! The grace after an outage: leases that expired in the outage, or would expire soon after it, expire later, so that
//! their holders can renew them.
//!
//! The deadlines are spread over the time behind the grace, in their order. Each holder gets the whole grace, and not
//! all leases expire in the same moment. A deadline is spared once: a lease that nobody renews ends, however often
//! the manager restarts.

use super::time::{Millis, Timestamp};

/// The period in which leases that expired during an outage count as live.
///
/// Deadlines between `since` and the end of the spread are mapped linearly to the time between `until` and the end of
/// the spread: a third of the way in the first interval becomes a third of the way in the second. No deadline becomes
/// earlier, none overtakes another, and those at the end of the spread and later do not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grace {
    /// The last moment before the outage. Leases that had expired by then stay expired.
    pub(super) since: Timestamp,
    /// Until when nothing more expires.
    pub(super) until: Timestamp,
    /// The time after `until` over which the spared leases expire.
    pub(super) spread: Millis,
}

impl Grace {
    /// Returns the moment from which on deadlines are unchanged.
    pub(super) fn end(self) -> Timestamp {
        self.until.after(self.spread)
    }

    /// Returns when a nominal deadline takes effect.
    pub(super) fn deadline(self, nominal: Timestamp) -> Timestamp {
        if nominal <= self.since || nominal >= self.end() {
            return nominal;
        }
        // Rounded up, so that this is the first moment whose horizon covers the deadline.
        let later = (millis(self.since, nominal) * u128::from(self.spread.0)).div_ceil(self.covered());
        self.until.after(Millis(u64::try_from(later).unwrap_or(u64::MAX)))
    }

    /// Returns the last nominal deadline that has passed at `now`.
    pub(super) fn horizon(self, now: Timestamp) -> Timestamp {
        if now >= self.end() {
            return now;
        }
        if now < self.until {
            return self.since;
        }
        // The spread is not empty here: `now` lies in it.
        let covered = millis(self.until, now) * self.covered() / u128::from(self.spread.0);
        self.since.after(Millis(u64::try_from(covered).unwrap_or(u64::MAX)))
    }

    /// Returns the length of the interval whose deadlines move; at least 1.
    fn covered(self) -> u128 {
        millis(self.since, self.end()).max(1)
    }
}

/// The most graces at the same time. If all have the same length, there are two at most: a third outage is recorded
/// only when the first grace is over.
const GRACES_MAX: usize = 16;

/// The graces that are not over, oldest first. Each covers deadlines later than the end of the one before, so that no
/// deadline is spared twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Graces(Vec<Grace>);

impl Graces {
    pub(super) const fn new(graces: Vec<Grace>) -> Self {
        Self(graces)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Grace> + '_ {
        self.0.iter().copied()
    }

    /// Adds the grace of an outage that ends at `at`.
    pub(super) fn add(&mut self, at: Timestamp, grace: Grace) {
        self.0.retain(|earlier| earlier.end() > at);
        self.0.push(grace);
    }

    /// Returns whether another grace can be added.
    pub(super) fn can_add(&self, now: Timestamp) -> bool {
        self.0.iter().filter(|grace| grace.end() > now).count() < GRACES_MAX
    }

    /// Returns the latest deadline that a grace covers.
    pub(super) fn end(&self) -> Option<Timestamp> {
        self.0.iter().map(|grace| grace.end()).max()
    }

    /// Returns when a nominal deadline takes effect.
    pub(super) fn deadline(&self, nominal: Timestamp) -> Timestamp {
        let grace = self.0.iter().rfind(|grace| nominal > grace.since);
        grace.map_or(nominal, |grace| grace.deadline(nominal))
    }

    /// Returns the last nominal deadline that has passed at `now`.
    pub(super) fn horizon(&self, now: Timestamp) -> Timestamp {
        let mut last = now;
        for grace in self.0.iter().rev() {
            let horizon = grace.horizon(now);
            if horizon > grace.since {
                return horizon.min(last);
            }
            // No deadline that this grace covers has passed; some that an earlier grace covers may have.
            last = last.min(grace.since);
        }
        last
    }
}

/// Returns the span between two moments. A product of two spans fits into `u128`.
fn millis(from: Timestamp, to: Timestamp) -> u128 {
    u128::try_from(i128::from(to.as_millis()) - i128::from(from.as_millis())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn deadlines_are_spread_in_their_order() {
        // The outage lasts from 1,000 to 4,000, the grace until 5,000, and the spread until 6,000.
        let grace = Grace { since: at(1_000), until: at(5_000), spread: Millis(1_000) };
        let check = |nominal, counts| assert_eq!(grace.deadline(at(nominal)), at(counts), "{nominal}");
        check(900, 900);
        check(1_000, 1_000);
        check(1_001, 5_001);
        check(2_000, 5_200);
        check(3_500, 5_500);
        check(5_999, 6_000);
        check(6_000, 6_000);
        check(7_000, 7_000);
    }

    #[test]
    fn without_a_spread_all_expire_at_the_end_of_the_grace() {
        let grace = Grace { since: at(10), until: at(50), spread: Millis(0) };
        assert_eq!([10, 11, 49, 50, 51].map(|nominal| grace.deadline(at(nominal)).as_millis()), [10, 50, 50, 50, 51]);
        assert_eq!([20, 49, 50, 60].map(|now| grace.horizon(at(now)).as_millis()), [10, 10, 50, 60]);
    }

    #[test]
    fn the_horizon_covers_a_deadline_from_the_moment_at_which_it_counts() {
        for (since, until, spread) in [(0, 60, 60), (-500, 20, 7), (3, 3, 10), (0, 10_000, 3), (5, 9, 0)] {
            let grace = Grace { since: at(since), until: at(until), spread: Millis(spread) };
            let mut last = Timestamp::MIN;
            for nominal in (since - 3)..(grace.end().as_millis() + 3) {
                let counts = grace.deadline(at(nominal));
                assert!(counts >= at(nominal) && counts >= last, "{grace:?}: {nominal} counts as {counts:?}");
                assert!(grace.horizon(counts) >= at(nominal), "{grace:?}: {nominal} has passed at {counts:?}");
                if nominal > since {
                    let before = counts.before(Millis(1));
                    assert!(grace.horizon(before) < at(nominal), "{grace:?}: {nominal} has not passed at {before:?}");
                }
                last = counts;
            }
        }
    }

    #[test]
    fn extreme_moments_do_not_overflow() {
        let grace = Grace { since: Timestamp::MIN, until: at(i64::MAX), spread: Millis(u64::MAX) };
        let _ = (grace.deadline(at(0)), grace.horizon(at(0)), grace.horizon(at(i64::MAX)));
    }
}
