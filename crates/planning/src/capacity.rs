//! Required capacity: how many task slots a workload requires, by Little's law and by the probability to wait.

use cortex_core::time::Millis;

/// The expected workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// The arrival rate; at least 0.
    pub tasks_per_second: f64,
    /// The mean time that a task is processed.
    pub duration_mean: Millis,
    /// The squared coefficient of variation of the times between two arrivals: 1 for independent arrivals, more for
    /// bursts, 0 for constant intervals. `dispersion` estimates it from counts.
    pub arrival_variability: f64,
    /// The squared coefficient of variation of the processing times; 1 for the exponential distribution.
    pub duration_variability: f64,
}

/// The service level to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceTarget {
    /// The target utilization of the task slots; above 0, at most 1.
    pub utilization: f64,
    /// The wait limit of a task.
    pub wait_max: Millis,
    /// The maximum probability that a task waits longer than `wait_max`.
    pub wait_probability_max: f64,
}

impl ServiceTarget {
    /// A utilization of 70 %, which is the 30 % headroom of the capacity plan of the Resource Allocation Module, and
    /// at most one task in ten that waits longer than 5 s.
    pub const DEFAULT: Self = Self { utilization: 0.7, wait_max: Millis::from_seconds(5), wait_probability_max: 0.1 };
}

/// The task slots that a workload requires, with the figures behind them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequiredCapacity {
    /// The mean number of concurrent tasks: by Little's law, the arrival rate times the mean processing time.
    pub concurrent_tasks: f64,
    /// The slots required for the target utilization.
    pub slots_for_utilization: u64,
    /// The slots required for the maximum wait probability.
    pub slots_for_waiting: u64,
    /// The larger of both; at most the limit given.
    pub required: u64,
    /// The probability to wait longer than the wait limit with the required slots.
    pub wait_probability: f64,
}

impl RequiredCapacity {
    /// Computes the required slots, at most `slots_max`. The cost is proportional to the result.
    #[must_use]
    pub fn of(workload: &Workload, target: &ServiceTarget, slots_max: u64) -> Self {
        let concurrent_tasks =
            (workload.tasks_per_second * workload.duration_mean.0 as f64 / 1_000.0).clamp(0.0, slots_max as f64);
        let slots_for_utilization = ((concurrent_tasks / target.utilization).ceil() as u64).min(slots_max);
        let mut queue = ErlangQueue::new(concurrent_tasks);
        let mut slots_for_waiting = 0;
        while slots_for_waiting < slots_max
            && queue.wait_probability(workload, target.wait_max) > target.wait_probability_max
        {
            queue.add_slot();
            slots_for_waiting += 1;
        }
        while queue.slots < slots_for_utilization.max(slots_for_waiting) {
            queue.add_slot();
        }
        let wait_probability = queue.wait_probability(workload, target.wait_max);
        Self {
            concurrent_tasks,
            slots_for_utilization,
            slots_for_waiting,
            required: slots_for_utilization.max(slots_for_waiting),
            wait_probability,
        }
    }
}

/// The probability that a task has to wait, computed by adding one slot at a time.
struct ErlangQueue {
    /// The mean number of concurrent tasks, in Erlang.
    load: f64,
    slots: u64,
    /// The probability that all slots are busy if tasks could not wait: the Erlang B formula, by its recursion.
    blocking: f64,
}

impl ErlangQueue {
    const fn new(load: f64) -> Self {
        Self { load, slots: 0, blocking: 1.0 }
    }

    fn add_slot(&mut self) {
        self.slots += 1;
        let blocked_load = self.load * self.blocking;
        self.blocking = blocked_load / (self.slots as f64 + blocked_load);
    }

    /// Returns the probability to wait longer than `wait`: the Erlang C formula with an exponential tail, which is
    /// exact for independent arrivals and exponential processing times.
    ///
    /// For other variabilities the tail is stretched by the factor that the approximation of Allen and Cunneen gives
    /// for the mean wait (A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd ed. 1990, section 5.3): the
    /// mean of both variabilities.
    fn wait_probability(&self, workload: &Workload, wait: Millis) -> f64 {
        if self.load <= 0.0 {
            return 0.0;
        }
        let spare = self.slots as f64 - self.load;
        if spare <= 0.0 {
            return 1.0;
        }
        let erlang_c = self.blocking / (1.0 - self.load / self.slots as f64 * (1.0 - self.blocking));
        let variability =
            f64::midpoint(workload.arrival_variability, workload.duration_variability).max(f64::MIN_POSITIVE);
        let durations = wait.0 as f64 / (workload.duration_mean.0 as f64).max(1.0);
        erlang_c * (-spare * durations / variability).exp()
    }
}

/// Returns the index of dispersion of counts over equal intervals: the variance over the mean. For long intervals it
/// approaches the squared coefficient of variation of the times between arrivals (D. R. Cox and P. A. W. Lewis, The
/// Statistical Analysis of Series of Events, 1966, section 4.5). Returns 1 for fewer than two counts and for a mean
/// of 0.
#[must_use]
pub(super) fn dispersion(counts: impl IntoIterator<Item = u64>) -> f64 {
    let (mut number, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for count in counts {
        // Welford's algorithm, which keeps its precision for large means.
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

    fn workload(tasks_per_second: f64, duration_ms: u64) -> Workload {
        Workload {
            tasks_per_second,
            duration_mean: Millis(duration_ms),
            arrival_variability: 1.0,
            duration_variability: 1.0,
        }
    }

    /// Returns the probability to wait longer than `wait_ms` with this number of slots.
    fn wait_probability(workload: &Workload, slots: u64, wait_ms: u64) -> f64 {
        let mut queue = ErlangQueue::new(workload.tasks_per_second * workload.duration_mean.0 as f64 / 1_000.0);
        (0..slots).for_each(|_| queue.add_slot());
        queue.wait_probability(workload, Millis(wait_ms))
    }

    #[test]
    fn the_wait_probability_equals_published_tables() {
        // 100 calls of three minutes each in half an hour, and 14 agents: 17.4 % wait, 11.2 % longer than 20 s.
        let calls = workload(100.0 / 1_800.0, 180_000);
        assert!((wait_probability(&calls, 14, 0) - 0.174).abs() < 0.000_5, "{}", wait_probability(&calls, 14, 0));
        assert!(
            (wait_probability(&calls, 14, 20_000) - 0.112).abs() < 0.000_5,
            "{}",
            wait_probability(&calls, 14, 20_000)
        );
        // Two Erlang and three servers: 4/9, calculated by hand.
        assert!((wait_probability(&workload(2.0, 1_000), 3, 0) - 4.0 / 9.0).abs() < 1e-12);
        assert!((wait_probability(&workload(2.0, 1_000), 2, 0) - 1.0).abs() < 1e-12, "without a spare slot");
        // One server: the probability equals the load.
        assert!((wait_probability(&workload(0.3, 1_000), 1, 0) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn the_larger_of_both_counts() {
        let check = |workload: Workload, slots_for_utilization, slots_for_waiting| {
            let capacity = RequiredCapacity::of(&workload, &ServiceTarget::DEFAULT, 100_000);
            assert_eq!(
                (capacity.slots_for_utilization, capacity.slots_for_waiting),
                (slots_for_utilization, slots_for_waiting),
                "{workload:?}"
            );
            assert_eq!(capacity.required, slots_for_utilization.max(slots_for_waiting));
            assert!(capacity.wait_probability <= ServiceTarget::DEFAULT.wait_probability_max, "{capacity:?}");
        };
        check(workload(0.0, 3_000), 0, 0);
        // Tasks of a minute wait for about a minute: the probability to wait at all decides.
        check(workload(1.0 / 60.0, 60_000), 2, 3);
        check(workload(10.0, 1_000), 15, 11);
        // Bursts require more slots.
        check(Workload { arrival_variability: 20.0, ..workload(10.0, 1_000) }, 15, 13);
        check(Workload { arrival_variability: 200.0, ..workload(10.0, 1_000) }, 15, 15);
    }

    #[test]
    fn no_more_than_allowed_are_required() {
        let capacity = RequiredCapacity::of(&workload(1e12, u64::MAX), &ServiceTarget::DEFAULT, 50);
        assert_eq!((capacity.required, capacity.slots_for_utilization), (50, 50));
        assert!(capacity.wait_probability.is_finite());
    }

    #[test]
    fn counts_show_bursts() {
        let close = |counts: &[u64], expected: f64| {
            let found = dispersion(counts.iter().copied());
            assert!((found - expected).abs() < 1e-9, "{counts:?}: {found}");
        };
        close(&[], 1.0);
        close(&[7], 1.0);
        close(&[0, 0, 0], 1.0);
        close(&[5, 5, 5, 5], 0.0);
        // Mean 5, variance 100 / 3.
        close(&[0, 10, 0, 10], 100.0 / 3.0 / 5.0);
    }
}
