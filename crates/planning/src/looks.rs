//! Looks: what was counted at which moment, so that rates can be told from it.

use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Demand;
use std::collections::VecDeque;

/// Over how long requests are counted, and tasks at least: what a few that came at once make of a shorter time is no rate.
pub(super) const COUNT_WINDOW: Millis = Millis::from_seconds(30);

/// How many looks are remembered at most: one a second over twelve times the usual time that is looked back over. With more,
/// it is a shorter time.
const LOOKS_MAX: usize = 3_600;

/// What was counted at a look, all since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) at: Timestamp,
    pub(super) granted: u64,
    pub(super) refused: u64,
    submitted: u64,
}

/// The last look that is as long ago as it is looked back, and those since, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks(VecDeque<Look>);

impl Look {
    pub(super) const fn new(at: Timestamp, demand: &Demand) -> Self {
        Self { at, granted: demand.granted, refused: demand.refused, submitted: demand.fleet.submitted }
    }
}

impl Looks {
    /// Remembers a look, and as many before it as it takes to look back over `window`.
    pub(super) fn push(&mut self, look: Look, window: Millis) {
        let window = window.max(COUNT_WINDOW);
        self.0.push_back(look);
        while self.0.len() > LOOKS_MAX || self.0.get(1).is_some_and(|next| look.at.since(next.at) >= window) {
            self.0.pop_front();
        }
    }

    /// The newest look that is so long ago, or the oldest there is.
    pub(super) fn before(&self, at: Timestamp, window: Millis) -> Option<Look> {
        let is_long_ago = |look: &&Look| at.since(look.at) >= window;
        self.0.iter().rev().find(is_long_ago).or(self.0.front()).copied()
    }

    /// How many tasks a second came over `window`, or since the first look.
    pub(super) fn tasks_per_second(&self, now: &Look, window: Millis) -> Option<f64> {
        let then = self.before(now.at, window)?;
        let span = now.at.since(then.at);
        let millis = span.max(COUNT_WINDOW).0 as f64;
        (!span.is_zero()).then(|| now.submitted.saturating_sub(then.submitted) as f64 * 1_000.0 / millis)
    }
}
