//! Seasonal forecasting methods.

use super::horizon::Horizon;
use super::smoothing::{LEVEL_WEIGHTS, TREND_DAMPING, TrailingError, damped_steps, most_accurate};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The seasonal naive method: the demand one season ago.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SeasonalNaive {
    period: usize,
    recent: VecDeque<f64>,
}

impl SeasonalNaive {
    pub(super) const fn new(period: usize) -> Self {
        Self { period, recent: VecDeque::new() }
    }

    pub(super) fn observe(&mut self, demand: f64) {
        if self.recent.len() == self.period {
            self.recent.pop_front();
        }
        self.recent.push_back(demand);
    }

    pub(super) fn point(&self, horizon: Horizon) -> Option<f64> {
        if self.recent.len() < self.period {
            return None;
        }
        // The oldest retained value is one season before the next bin.
        self.recent.get((horizon.bins() - 1) % self.period).copied()
    }
}

/// The lowest weight of the newest bin in its seasonal component, reached after ten seasons. Until then all seasons
/// have the same weight: with a constant weight, the noise of the first season would persist for weeks.
const SEASON_WEIGHT_MIN: f64 = 0.1;

/// The weight of the newest level change in the trend, relative to the weight of the level. The season explains most
/// of what would otherwise be a trend.
const TREND_WEIGHT_RATIO: f64 = 0.1;

/// The additive Holt-Winters method with a damped trend (Hyndman and Athanasopoulos, "Forecasting: Principles and
/// Practice", 2021, section 8.3). Several variants with different smoothing weights run in parallel, and the one with
/// the lowest recent error forecasts. All variants share the seasonal components, which are relative to the level of
/// the slowest variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HoltWinters {
    period: usize,
    /// The bins of the first season until it is complete.
    first: Vec<f64>,
    /// The number of bins observed after the first season.
    observed: u64,
    variants: Vec<HoltWintersVariant>,
    /// The seasonal components: the offset from the level at each position of the season.
    season: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct HoltWintersVariant {
    level: f64,
    trend: f64,
    error: TrailingError,
}

impl HoltWinters {
    pub(super) const fn new(period: usize) -> Self {
        Self { period, first: Vec::new(), observed: 0, variants: Vec::new(), season: Vec::new() }
    }

    pub(super) fn observe(&mut self, demand: f64) {
        if self.variants.is_empty() {
            self.first.push(demand);
            if self.first.len() == self.period {
                self.initialize();
            }
            return;
        }
        let position = self.position(1);
        for (variant, weight) in self.variants.iter_mut().zip(LEVEL_WEIGHTS) {
            let error = demand - (variant.level + TREND_DAMPING * variant.trend + self.season[position]);
            variant.error.add(error);
            variant.level += TREND_DAMPING * variant.trend + weight * error;
            variant.trend = TREND_DAMPING * variant.trend + weight * TREND_WEIGHT_RATIO * error;
        }
        let seasons_seen = 1 + self.observed / self.period as u64;
        let weight = (1.0 / (1.0 + seasons_seen as f64)).max(SEASON_WEIGHT_MIN);
        if let Some(slowest) = self.variants.first() {
            self.season[position] += weight * (demand - slowest.level - self.season[position]);
        }
        self.observed += 1;
    }

    pub(super) fn point(&self, horizon: Horizon) -> Option<f64> {
        let best = most_accurate(&self.variants, |variant| variant.error)?;
        Some(best.level + damped_steps(horizon) * best.trend + self.season[self.position(horizon.bins())])
    }

    fn initialize(&mut self) {
        let level = self.first.iter().sum::<f64>() / self.period as f64;
        self.season = self.first.iter().map(|demand| demand - level).collect();
        self.variants =
            vec![HoltWintersVariant { level, trend: 0.0, error: TrailingError::default() }; LEVEL_WEIGHTS.len()];
        self.first = Vec::new();
    }

    /// Returns the position in the season of the bin that is `ahead` bins after the last.
    fn position(&self, ahead: usize) -> usize {
        ((self.observed + ahead as u64 - 1) % self.period as u64) as usize
    }
}
