//! Capacity: how many tasks have to be worked on at once for the work that comes, by Little's law and by the chance to wait.

use cortex_core::time::Millis;

/// The work that comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// How many tasks a second; at least 0.
    pub tasks_per_second: f64,
    /// How long a task is worked on, in the mean.
    pub duration_mean: Millis,
    /// The squared coefficient of variation of the times between two tasks: 1 for tasks that come independently, more for
    /// bursts, 0 for a steady beat. [`dispersion`] tells it from counts.
    pub arrival_variability: f64,
    /// The same of how long tasks are worked on; 1 for the exponential distribution.
    pub duration_variability: f64,
}

/// What is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    /// The part of the places that should be in use; above 0, at most 1.
    pub utilization: f64,
    /// How long a task may wait.
    pub wait_max: Millis,
    /// The chance that it waits longer.
    pub wait_chance_max: f64,
}

impl Aim {
    /// 70 % in use, the 30 % headroom of the capacity plan of the Resource Allocation Module, and at most one task in ten that
    /// waits over its 5 s.
    pub const DEFAULT: Self = Self { utilization: 0.7, wait_max: Millis::from_seconds(5), wait_chance_max: 0.1 };
}

/// How many tasks have to be worked on at once, with the figures it follows from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// How many are under way at once, in the mean: by Little's law, the rate times the duration.
    pub tasks_under_way: f64,
    /// How many places that takes for the part that should be in use.
    pub for_utilization: u64,
    /// How many it takes for the chance to wait.
    pub for_waiting: u64,
    /// The larger of both; at most as many as were allowed.
    pub required: u64,
    /// The chance to wait longer than may be, with so many.
    pub wait_chance: f64,
}

impl Capacity {
    /// What this work takes, and at most `most` places. The cost is in proportion to their number.
    #[must_use]
    pub fn of(work: &Work, aim: &Aim, most: u64) -> Self {
        let tasks_under_way = (work.tasks_per_second * work.duration_mean.0 as f64 / 1_000.0).clamp(0.0, most as f64);
        let for_utilization = ((tasks_under_way / aim.utilization).ceil() as u64).min(most);
        let mut delays = Delays::new(tasks_under_way);
        let mut for_waiting = 0;
        while for_waiting < most && delays.chance(work, aim.wait_max) > aim.wait_chance_max {
            delays.add_place();
            for_waiting += 1;
        }
        while delays.places < for_utilization.max(for_waiting) {
            delays.add_place();
        }
        let wait_chance = delays.chance(work, aim.wait_max);
        Self { tasks_under_way, for_utilization, for_waiting, required: for_utilization.max(for_waiting), wait_chance }
    }
}

/// The chance that a task has to wait, for one place after the other.
struct Delays {
    /// The mean number of tasks under way, in Erlang.
    load: f64,
    places: u64,
    /// The chance that all places are taken, if nobody could wait: Erlang's formula B, by its recursion.
    blocking: f64,
}

impl Delays {
    const fn new(load: f64) -> Self {
        Self { load, places: 0, blocking: 1.0 }
    }

    fn add_place(&mut self) {
        self.places += 1;
        let taken = self.load * self.blocking;
        self.blocking = taken / (self.places as f64 + taken);
    }

    /// The chance to wait longer than `wait`: Erlang's formula C, and behind it an exponential tail, which is exact for tasks
    /// that come independently and take exponentially long. Where they vary otherwise, the tail is as much longer as the mean
    /// wait is by the approximation of Allen and Cunneen (A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd ed.
    /// 1990, section 5.3): the mean of both variabilities.
    fn chance(&self, work: &Work, wait: Millis) -> f64 {
        if self.load <= 0.0 {
            return 0.0;
        }
        let spare = self.places as f64 - self.load;
        if spare <= 0.0 {
            return 1.0;
        }
        let delayed = self.blocking / (1.0 - self.load / self.places as f64 * (1.0 - self.blocking));
        let variability = f64::midpoint(work.arrival_variability, work.duration_variability).max(f64::MIN_POSITIVE);
        let durations = wait.0 as f64 / (work.duration_mean.0 as f64).max(1.0);
        delayed * (-spare * durations / variability).exp()
    }
}

/// How far counts of equal times vary: their variance over their mean, which for long times comes to the squared coefficient
/// of variation of the times between arrivals (D. R. Cox and P. A. W. Lewis, The Statistical Analysis of Series of Events,
/// 1966, section 4.5). 1 where there is nothing to tell it from.
#[must_use]
pub fn dispersion(counts: impl IntoIterator<Item = u64>) -> f64 {
    let (mut number, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for count in counts {
        // Welford's way, which loses nothing where the mean is large.
        number += 1.0;
        let before = count as f64 - mean;
        mean += before / number;
        squares += before * (count as f64 - mean);
    }
    if number < 2.0 || mean <= 0.0 { 1.0 } else { squares / (number - 1.0) / mean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(tasks_per_second: f64, duration_ms: u64) -> Work {
        Work {
            tasks_per_second,
            duration_mean: Millis(duration_ms),
            arrival_variability: 1.0,
            duration_variability: 1.0,
        }
    }

    /// The chance to wait longer than this with so many places.
    fn chance(work: &Work, places: u64, wait_ms: u64) -> f64 {
        let mut delays = Delays::new(work.tasks_per_second * work.duration_mean.0 as f64 / 1_000.0);
        (0..places).for_each(|_| delays.add_place());
        delays.chance(work, Millis(wait_ms))
    }

    #[test]
    fn the_chance_to_wait_is_that_of_the_tables() {
        // 100 calls in half an hour of three minutes each, and 14 agents: 17.4 % wait, 11.2 % over 20 s.
        let calls = work(100.0 / 1_800.0, 180_000);
        assert!((chance(&calls, 14, 0) - 0.174).abs() < 0.000_5, "{}", chance(&calls, 14, 0));
        assert!((chance(&calls, 14, 20_000) - 0.112).abs() < 0.000_5, "{}", chance(&calls, 14, 20_000));
        // Two Erlang and three servers: 4/9, as is worked out by hand.
        assert!((chance(&work(2.0, 1_000), 3, 0) - 4.0 / 9.0).abs() < 1e-12);
        assert!((chance(&work(2.0, 1_000), 2, 0) - 1.0).abs() < 1e-12, "without a place to spare");
        // One server: the load is the chance.
        assert!((chance(&work(0.3, 1_000), 1, 0) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn the_larger_of_both_counts() {
        let check = |work: Work, for_utilization, for_waiting| {
            let capacity = Capacity::of(&work, &Aim::DEFAULT, 100_000);
            assert_eq!((capacity.for_utilization, capacity.for_waiting), (for_utilization, for_waiting), "{work:?}");
            assert_eq!(capacity.required, for_utilization.max(for_waiting));
            assert!(capacity.wait_chance <= Aim::DEFAULT.wait_chance_max, "{capacity:?}");
        };
        check(work(0.0, 3_000), 0, 0);
        // Tasks of minutes wait for minutes: the chance to wait at all counts.
        check(work(1.0 / 60.0, 60_000), 2, 3);
        check(work(10.0, 1_000), 15, 11);
        // Bursts take more.
        check(Work { arrival_variability: 20.0, ..work(10.0, 1_000) }, 15, 13);
        check(Work { arrival_variability: 200.0, ..work(10.0, 1_000) }, 15, 15);
    }

    #[test]
    fn no_more_than_allowed_are_required() {
        let capacity = Capacity::of(&work(1e12, u64::MAX), &Aim::DEFAULT, 50);
        assert_eq!((capacity.required, capacity.for_utilization), (50, 50));
        assert!(capacity.wait_chance.is_finite());
    }

    #[test]
    fn counts_tell_of_bursts() {
        let close = |counts: &[u64], expected: f64| {
            let told = dispersion(counts.iter().copied());
            assert!((told - expected).abs() < 1e-9, "{counts:?}: {told}");
        };
        close(&[], 1.0);
        close(&[7], 1.0);
        close(&[0, 0, 0], 1.0);
        close(&[5, 5, 5, 5], 0.0);
        // Mean 5, variance 100 / 3.
        close(&[0, 10, 0, 10], 100.0 / 3.0 / 5.0);
    }
}
