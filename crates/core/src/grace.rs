//! The grace after an outage: what runs out in it, or soon after, runs out later, so that its holder can renew.
//!
//! Deadlines in the outage and shortly after are drawn apart, in their order, over the time behind the grace: whoever
//! was away is spared for the whole grace, and not all run out in the same moment. A deadline is spared once: however
//! often the manager is restarted, a lease that nobody renews ends.

use super::time::{Millis, Timestamp};

/// A time in which what ran out during an outage is not yet expired.
///
/// Deadlines between `since` and the end of the spread run out between `until` and the end of the spread: a moment that
/// lies a third of the way in one interval lies a third of the way in the other. No deadline moves forward, none
/// overtakes another, and those at the end of the spread and behind it stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grace {
    /// The last moment before the outage: what had run out by then is expired.
    pub(super) since: Timestamp,
    /// Until when nothing more runs out.
    pub(super) until: Timestamp,
    /// How long after that what was spared runs out, bit by bit.
    pub(super) spread: Millis,
}

impl Grace {
    /// From when on deadlines are as they were.
    pub(super) fn end(self) -> Timestamp {
        self.until.after(self.spread)
    }

    /// A nominal deadline as it counts.
    pub(super) fn deadline(self, nominal: Timestamp) -> Timestamp {
        if nominal <= self.since || nominal >= self.end() {
            return nominal;
        }
        // Rounded up, so that it is the first moment whose horizon covers the deadline.
        let later = (millis(self.since, nominal) * u128::from(self.spread.0)).div_ceil(self.covered());
        self.until.after(Millis(u64::try_from(later).unwrap_or(u64::MAX)))
    }

    /// The last nominal deadline that has passed at `now`.
    pub(super) fn horizon(self, now: Timestamp) -> Timestamp {
        if now >= self.end() {
            return now;
        }
        if now < self.until {
            return self.since;
        }
        // Here the spread is not empty: `now` lies in it.
        let covered = millis(self.until, now) * self.covered() / u128::from(self.spread.0);
        self.since.after(Millis(u64::try_from(covered).unwrap_or(u64::MAX)))
    }

    /// How long the interval is whose deadlines are moved; more than nothing where one is.
    fn covered(self) -> u128 {
        millis(self.since, self.end()).max(1)
    }
}

/// How many graces may be running at once. With one setting there are two at most: a third outage is noted only when the
/// first grace is over.
const GRACES_MAX: usize = 16;

/// The graces that are not over, oldest first. Each is for deadlines behind the end of the one before: no deadline is
/// spared twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Graces(Vec<Grace>);

impl Graces {
    /// The graces as they were kept.
    pub(super) const fn new(graces: Vec<Grace>) -> Self {
        Self(graces)
    }

    /// All that are kept.
    pub(super) fn iter(&self) -> impl Iterator<Item = Grace> + '_ {
        self.0.iter().copied()
    }

    /// Notes the grace of an outage that ends at `at`.
    pub(super) fn add(&mut self, at: Timestamp, grace: Grace) {
        self.0.retain(|earlier| earlier.end() > at);
        self.0.push(grace);
    }

    /// Whether another can be noted.
    pub(super) fn has_room(&self, now: Timestamp) -> bool {
        self.0.iter().filter(|grace| grace.end() > now).count() < GRACES_MAX
    }

    /// Up to where deadlines were spared already.
    pub(super) fn end(&self) -> Option<Timestamp> {
        self.0.iter().map(|grace| grace.end()).max()
    }

    /// A nominal deadline as it counts.
    pub(super) fn deadline(&self, nominal: Timestamp) -> Timestamp {
        let grace = self.0.iter().rfind(|grace| nominal > grace.since);
        grace.map_or(nominal, |grace| grace.deadline(nominal))
    }

    /// The last nominal deadline that has passed at `now`.
    pub(super) fn horizon(&self, now: Timestamp) -> Timestamp {
        let mut last = now;
        for grace in self.0.iter().rev() {
            let horizon = grace.horizon(now);
            if horizon > grace.since {
                return horizon.min(last);
            }
            // Nothing that this one spares has passed; of what those before it spared, some may have.
            last = last.min(grace.since);
        }
        last
    }
}

/// The span between two moments; products of two fit.
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
    fn deadlines_are_drawn_apart_in_their_order() {
        // Away from 1,000 to 4,000; spared until 5,000, and what was spared runs out until 6,000.
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
    fn without_a_spread_all_run_out_at_the_end_of_the_grace() {
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
    fn the_ends_of_time_are_no_trouble() {
        let grace = Grace { since: Timestamp::MIN, until: at(i64::MAX), spread: Millis(u64::MAX) };
        let _ = (grace.deadline(at(0)), grace.horizon(at(0)), grace.horizon(at(i64::MAX)));
    }
}
