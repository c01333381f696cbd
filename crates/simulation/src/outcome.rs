//! The outcome of a simulation: what was done, how long it waited, and what it took.

use super::series::{Add, Series};
use cortex_core::time::Millis;
use hdrhistogram::Histogram;

/// How many digits of a wait are kept.
const WAIT_DIGITS: u8 = 3;

/// How many scalings are kept one by one; later ones are only counted.
const SCALINGS_MAX: usize = 10_000;

/// The width of the points at first.
const POINT_WIDTH: Millis = Millis::from_seconds(1);

/// A change of how many agents there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// When, from the start on.
    pub at: Millis,
    /// How many there were.
    pub from: u64,
    /// How many there should be.
    pub to: u64,
}

/// What was seen over a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// How long the span is as far as it was lived, in milliseconds.
    pub millis: u64,
    /// How many tasks came.
    pub arrivals: u64,
    /// For how long agents were there, in milliseconds, all of them together.
    pub agent_millis: u64,
    /// For how long tasks waited, in milliseconds, all of them together.
    pub queue_millis: u64,
    /// How many tasks were done.
    pub done: u64,
    /// How long these had waited, in milliseconds, all of them together.
    pub wait_millis: u64,
}

impl Point {
    /// How many agents there were, in the mean.
    #[must_use]
    pub fn agents(&self) -> f64 {
        ratio(self.agent_millis, self.millis)
    }

    /// How many tasks waited, in the mean.
    #[must_use]
    pub fn queue(&self) -> f64 {
        ratio(self.queue_millis, self.millis)
    }

    /// How long the tasks that were done had waited, in the mean, in seconds; nothing if none was.
    #[must_use]
    pub fn wait_seconds(&self) -> Option<f64> {
        (self.done > 0).then(|| ratio(self.wait_millis, self.done) / 1_000.0)
    }
}

impl Add for Point {
    fn add(&mut self, other: &Self) {
        self.millis += other.millis;
        self.arrivals += other.arrivals;
        self.agent_millis = self.agent_millis.saturating_add(other.agent_millis);
        self.queue_millis = self.queue_millis.saturating_add(other.queue_millis);
        self.done += other.done;
        self.wait_millis = self.wait_millis.saturating_add(other.wait_millis);
    }
}

/// What came of a trace under one way to run agents.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many tasks came, refused ones included.
    pub tasks: u64,
    /// How many of them were done.
    pub done: u64,
    /// How many were refused, since the queue was full.
    pub refused: u64,
    /// How long tasks that were done had waited, in milliseconds: from their submission to the start of the attempt that did
    /// them.
    pub waits: Histogram<u64>,
    /// From the first arrival to the last report.
    pub lasted: Millis,
    /// For how long agents were there, in milliseconds, all of them together. Those who vanished count until then.
    pub agent_millis: u128,
    /// The most agents at once.
    pub agents_most: u64,
    /// How many times the number of agents that there should be was changed.
    pub scalings: u64,
    /// The first 10,000 of these.
    pub first_scalings: Vec<Scaling>,
    /// How many agents vanished.
    pub vanished: u64,
    /// How many times a task went back to the queue since its agent had vanished.
    pub returned: u64,
    /// The most tasks that waited for tokens, as the planner saw it.
    pub deferred_most: u64,
    /// What was seen over time.
    pub series: Series<Point>,
}

impl Outcome {
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
            series: Series::new(POINT_WIDTH),
        }
    }

    /// How many tasks were neither done nor refused: there were no tokens for them.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.tasks - self.done - self.refused
    }

    /// How long a task waited in seconds that `part` of all waited no longer than; 0 if none was done.
    #[must_use]
    pub fn wait_seconds(&self, part: f64) -> f64 {
        if self.waits.is_empty() { 0.0 } else { self.waits.value_at_quantile(part) as f64 / 1_000.0 }
    }

    /// How many hours agents were there, all of them together.
    #[must_use]
    pub fn agent_hours(&self) -> f64 {
        self.agent_millis as f64 / 3_600_000.0
    }

    /// How many agents there were, in the mean.
    #[must_use]
    pub fn agents_mean(&self) -> f64 {
        if self.lasted.is_zero() { self.agents_most as f64 } else { self.agent_millis as f64 / self.lasted.0 as f64 }
    }

    /// Lets so much time pass from a moment on, with so many agents and waiting tasks.
    pub(super) fn pass(&mut self, from: Millis, to: Millis, agents: u64, waiting: u64) {
        let millis = to.0 - from.0;
        self.agent_millis += u128::from(millis) * u128::from(agents);
        let mut at = from;
        while at < to {
            // Widening moves the end away, so it is asked for behind.
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

    pub(super) fn note_arrival(&mut self, at: Millis) {
        self.tasks += 1;
        self.series.at(at).arrivals += 1;
    }

    pub(super) fn note_done(&mut self, at: Millis, waited: Millis) {
        self.done += 1;
        // It grows as it has to, so that no wait is beyond it.
        let _ = self.waits.record(waited.0);
        let point = self.series.at(at);
        point.done += 1;
        point.wait_millis = point.wait_millis.saturating_add(waited.0);
    }

    pub(super) fn note_scaling(&mut self, scaling: Scaling) {
        self.scalings += 1;
        if self.first_scalings.len() < SCALINGS_MAX {
            self.first_scalings.push(scaling);
        }
    }
}

/// A part of a whole; 0 of nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
