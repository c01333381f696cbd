//! The outcome of a simulation: completed tasks, wait times, and agent time.

use super::time_series::{Accumulate, TimeSeries};
use cortex_core::time::Millis;
use hdrhistogram::Histogram;

/// The significant digits of recorded wait times.
const WAIT_DIGITS: u8 = 3;

/// The maximum number of recorded scaling changes; later ones are only counted.
const SCALINGS_MAX: usize = 10_000;

/// The initial width of the points.
const POINT_WIDTH: Millis = Millis::from_seconds(1);

/// A change of the target number of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingChange {
    /// The time since the start.
    pub at: Millis,
    /// The number of agents before.
    pub from: u64,
    /// The target number of agents.
    pub to: u64,
}

/// The figures of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomePoint {
    /// The simulated length of the interval, in milliseconds.
    pub millis: u64,
    /// The number of arrivals.
    pub arrivals: u64,
    /// The sum of the live times of all agents, in milliseconds.
    pub agent_millis: u64,
    /// The sum of the times that tasks waited within the interval, in milliseconds.
    pub queue_millis: u64,
    /// The number of tasks completed.
    pub done: u64,
    /// The sum of the total wait times of the completed tasks, in milliseconds.
    pub wait_millis: u64,
}

impl OutcomePoint {
    /// Returns the mean number of agents.
    #[must_use]
    pub fn agents(&self) -> f64 {
        ratio(self.agent_millis, self.millis)
    }

    /// Returns the mean number of waiting tasks.
    #[must_use]
    pub fn queue(&self) -> f64 {
        ratio(self.queue_millis, self.millis)
    }

    /// Returns the mean wait time of the completed tasks, in seconds; `None` if there were none.
    #[must_use]
    pub fn wait_seconds(&self) -> Option<f64> {
        (self.done > 0).then(|| ratio(self.wait_millis, self.done) / 1_000.0)
    }
}

impl Accumulate for OutcomePoint {
    fn add(&mut self, other: &Self) {
        self.millis += other.millis;
        self.arrivals += other.arrivals;
        self.agent_millis = self.agent_millis.saturating_add(other.agent_millis);
        self.queue_millis = self.queue_millis.saturating_add(other.queue_millis);
        self.done += other.done;
        self.wait_millis = self.wait_millis.saturating_add(other.wait_millis);
    }
}

/// The outcome of a trace under one way to scale agents.
#[derive(Clone, Debug)]
pub struct SimulationOutcome {
    /// The number of tasks, including refused ones.
    pub tasks: u64,
    /// The number of completed tasks.
    pub done: u64,
    /// The number of tasks refused because the queue was full.
    pub refused: u64,
    /// The wait times of completed tasks in milliseconds, from submission to the start of the attempt that completed
    /// them.
    pub waits: Histogram<u64>,
    /// The time from the first arrival to the last report.
    pub lasted: Millis,
    /// The sum of the live times of all agents, in milliseconds. Agents that vanish count until then.
    pub agent_millis: u128,
    /// The maximum number of concurrent agents.
    pub agents_most: u64,
    /// The number of changes of the target number of agents.
    pub scalings: u64,
    /// The first 10,000 changes.
    pub first_scalings: Vec<ScalingChange>,
    /// The number of agents that vanished.
    pub vanished: u64,
    /// The number of times that a task was returned to the queue because its agent was lost.
    pub returned: u64,
    /// The maximum number of tasks that waited for tokens when a plan was made.
    pub deferred_most: u64,
    /// The figures over time.
    pub series: TimeSeries<OutcomePoint>,
}

impl SimulationOutcome {
    pub(super) fn new() -> Self {
        let waits = Histogram::new(WAIT_DIGITS).unwrap_or_else(|error| panic!("3 digits are allowed: {error}"));
        Self {
            tasks: 0,
            done: 0,
            refused: 0,
            waits,
            lasted: Millis(0),
            agent_millis: 0,
            agents_most: 0,
            scalings: 0,
            first_scalings: Vec::new(),
            vanished: 0,
            returned: 0,
            deferred_most: 0,
            series: TimeSeries::new(POINT_WIDTH),
        }
    }

    /// Returns the number of tasks neither completed nor refused, for lack of tokens.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.tasks - self.done - self.refused
    }

    /// Returns a quantile of the wait times, in seconds; 0 if no task was completed.
    #[must_use]
    pub fn wait_seconds(&self, quantile: f64) -> f64 {
        if self.waits.is_empty() { 0.0 } else { self.waits.value_at_quantile(quantile) as f64 / 1_000.0 }
    }

    /// Returns the sum of the live times of all agents, in hours.
    #[must_use]
    pub fn agent_hours(&self) -> f64 {
        self.agent_millis as f64 / 3_600_000.0
    }

    /// Returns the mean number of agents.
    #[must_use]
    pub fn agents_mean(&self) -> f64 {
        if self.lasted.is_zero() { self.agents_most as f64 } else { self.agent_millis as f64 / self.lasted.0 as f64 }
    }

    /// Accounts for an interval with a constant number of agents and waiting tasks.
    pub(super) fn add_interval(&mut self, from: Millis, to: Millis, agents: u64, waiting: u64) {
        let millis = to.0 - from.0;
        self.agent_millis += u128::from(millis) * u128::from(agents);
        let mut at = from;
        while at < to {
            // The end is computed after `at`, which may widen the points.
            self.series.at(at);
            let end = self.series.end_of(at).min(to);
            let spent = end.0 - at.0;
            let point = self.series.at(at);
            point.millis += spent;
            point.agent_millis = point.agent_millis.saturating_add(spent.saturating_mul(agents));
            point.queue_millis = point.queue_millis.saturating_add(spent.saturating_mul(waiting));
            at = end;
        }
        self.lasted = to;
    }

    pub(super) fn record_arrival(&mut self, at: Millis) {
        self.tasks += 1;
        self.series.at(at).arrivals += 1;
    }

    pub(super) fn record_completion(&mut self, at: Millis, waited: Millis) {
        self.done += 1;
        // The histogram resizes automatically, so no wait time is out of range.
        let _ = self.waits.record(waited.0);
        let point = self.series.at(at);
        point.done += 1;
        point.wait_millis = point.wait_millis.saturating_add(waited.0);
    }

    pub(super) fn record_scaling(&mut self, scaling: ScalingChange) {
        self.scalings += 1;
        if self.first_scalings.len() < SCALINGS_MAX {
            self.first_scalings.push(scaling);
        }
    }
}

/// Returns the fraction; 0 if the whole is 0.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
