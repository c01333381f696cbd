//! Samples of the request and task counters, from which rates are computed.

use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Demand;
use std::collections::VecDeque;

/// The period over which requests are counted, and the minimum for tasks: a few simultaneous arrivals in a shorter
/// period do not make a meaningful rate.
pub(super) const COUNT_WINDOW: Millis = Millis::from_seconds(30);

/// The maximum number of samples: one per second over twelve times the default scale-in window. More frequent samples
/// cover a shorter period.
const SAMPLES_MAX: usize = 3_600;

/// The counters at one moment, all since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) granted: u64,
    pub(super) refused: u64,
    submitted: u64,
}

/// The samples in order of time, oldest first: the newest one that is at least as old as the window, and all after
/// it.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(VecDeque<Sample>);

impl Sample {
    pub(super) const fn new(at: Timestamp, demand: &Demand) -> Self {
        Self { at, granted: demand.granted, refused: demand.refused, submitted: demand.fleet.submitted }
    }
}

impl Samples {
    /// Adds a sample, and drops those that are not needed to look back over `window`.
    pub(super) fn push(&mut self, sample: Sample, window: Millis) {
        let window = window.max(COUNT_WINDOW);
        self.0.push_back(sample);
        while self.0.len() > SAMPLES_MAX || self.0.get(1).is_some_and(|next| sample.at.since(next.at) >= window) {
            self.0.pop_front();
        }
    }

    /// Returns the newest sample that is at least `window` old, or the oldest sample.
    pub(super) fn sample_before(&self, at: Timestamp, window: Millis) -> Option<Sample> {
        let is_old_enough = |sample: &&Sample| at.since(sample.at) >= window;
        self.0.iter().rev().find(is_old_enough).or(self.0.front()).copied()
    }

    /// Returns the tasks per second over `window`, or since the first sample; `None` without an earlier sample.
    pub(super) fn tasks_per_second(&self, now: &Sample, window: Millis) -> Option<f64> {
        let then = self.sample_before(now.at, window)?;
        let span = now.at.since(then.at);
        let millis = span.max(COUNT_WINDOW).0 as f64;
        (!span.is_zero()).then(|| now.submitted.saturating_sub(then.submitted) as f64 * 1_000.0 / millis)
    }
}
