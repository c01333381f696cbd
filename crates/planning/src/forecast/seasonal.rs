//! Forecasters that know of a season.

use super::horizon::Horizon;
use super::smoothing::{LEVEL_WEIGHTS, TREND_DAMPING, TrailingError, damped_steps, least_wrong};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The value of one season ago.
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
        // The first of the recent ones is one season before the next bin.
        self.recent.get((horizon.bins() - 1) % self.period).copied()
    }
}

/// How much of the newest bin goes into its place in the season, once the season was seen ten times. Until then each time counts
/// the same: with less, the noise of the first would stay for weeks.
const SEASON_WEIGHT_MIN: f64 = 0.1;

/// How much of the newest change of the level goes into the trend, as a part of the level's own weight. The season explains most
/// of what would be a trend without it.
const TREND_PART: f64 = 0.1;

/// Holt-Winters, additive, with a damped trend (Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", 2021, section
/// 8.3), and with the weights that have been least wrong of late. All variants share the season, which is what is above the
/// level of the slowest one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HoltWinters {
    period: usize,
    /// The bins of the first season, until it is whole.
    first: Vec<f64>,
    /// How many bins were observed after the first season.
    observed: u64,
    variants: Vec<Variant>,
    /// What each place in the season is above the level.
    season: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Variant {
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
                self.begin();
            }
            return;
        }
        let place = self.place(1);
        for (variant, weight) in self.variants.iter_mut().zip(LEVEL_WEIGHTS) {
            let error = demand - (variant.level + TREND_DAMPING * variant.trend + self.season[place]);
            variant.error.note(error);
            variant.level += TREND_DAMPING * variant.trend + weight * error;
            variant.trend = TREND_DAMPING * variant.trend + weight * TREND_PART * error;
        }
        let seen_before = 1 + self.observed / self.period as u64;
        let weight = (1.0 / (1.0 + seen_before as f64)).max(SEASON_WEIGHT_MIN);
        if let Some(slowest) = self.variants.first() {
            self.season[place] += weight * (demand - slowest.level - self.season[place]);
        }
        self.observed += 1;
    }

    pub(super) fn point(&self, horizon: Horizon) -> Option<f64> {
        let best = least_wrong(&self.variants, |variant| variant.error)?;
        Some(best.level + damped_steps(horizon) * best.trend + self.season[self.place(horizon.bins())])
    }

    fn begin(&mut self) {
        let level = self.first.iter().sum::<f64>() / self.period as f64;
        self.season = self.first.iter().map(|demand| demand - level).collect();
        self.variants = vec![Variant { level, trend: 0.0, error: TrailingError::default() }; LEVEL_WEIGHTS.len()];
        self.first = Vec::new();
    }

    /// The place in the season of the bin so many ahead.
    fn place(&self, ahead: usize) -> usize {
        ((self.observed + ahead as u64 - 1) % self.period as u64) as usize
    }
}
