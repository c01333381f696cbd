//! Exponential smoothing: a level, and a level with a trend that fades.

use super::horizon::Horizon;
use serde::{Deserialize, Serialize};

/// By how much errors fade with each bin when smoothing weights are compared: what is a hundred bins old counts a third.
const ERROR_MEMORY: f64 = 0.99;

/// The weights of the newest bin among which the best is chosen, each about twice the one before: from a mean over some forty
/// bins to little more than the last value.
pub(super) const LEVEL_WEIGHTS: [f64; 5] = [0.05, 0.1, 0.2, 0.4, 0.7];

/// How much of the newest change of the level goes into the trend, as a part of the level's own weight. Trends are to be
/// slower than levels, or they follow noise (Gardner, "Exponential smoothing: the state of the art, part II", 2006).
const TREND_PART: f64 = 0.3;

/// What is left of a trend a bin later: with 0.9, a trend adds at most nine times its size (Gardner and McKenzie,
/// "Forecasting trends in time series", 1985, who leave it between 0.8 and 1 in most cases).
pub(super) const TREND_DAMPING: f64 = 0.9;

/// How wrong forecasts of one bin ahead have been of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TrailingError(f64);

impl TrailingError {
    /// Takes in what a forecast was wrong by.
    pub(super) fn note(&mut self, error: f64) {
        self.0 = ERROR_MEMORY * self.0 + error.abs();
    }
}

/// The one of several variants of a forecaster that has been least wrong; of equals the first.
pub(super) fn least_wrong<V>(variants: &[V], error: impl Fn(&V) -> TrailingError) -> Option<&V> {
    variants.iter().min_by(|one, other| error(one).0.total_cmp(&error(other).0))
}

/// An exponentially weighted mean, with the weight that has been least wrong of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Smoothed(Vec<Level>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Level {
    level: f64,
    error: TrailingError,
}

impl Smoothed {
    pub(super) fn observe(&mut self, demand: f64) {
        if self.0.is_empty() {
            self.0 = vec![Level { level: demand, error: TrailingError::default() }; LEVEL_WEIGHTS.len()];
            return;
        }
        for (variant, weight) in self.0.iter_mut().zip(LEVEL_WEIGHTS) {
            let error = demand - variant.level;
            variant.error.note(error);
            variant.level += weight * error;
        }
    }

    pub(super) fn point(&self) -> Option<f64> {
        least_wrong(&self.0, |variant| variant.error).map(|variant| variant.level)
    }
}

/// Holt's linear method with a damped trend, with the weights that have been least wrong of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct DampedHolt(Vec<LevelAndTrend>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct LevelAndTrend {
    level: f64,
    trend: f64,
    error: TrailingError,
}

impl DampedHolt {
    pub(super) fn observe(&mut self, demand: f64) {
        if self.0.is_empty() {
            let first = LevelAndTrend { level: demand, trend: 0.0, error: TrailingError::default() };
            self.0 = vec![first; LEVEL_WEIGHTS.len()];
            return;
        }
        for (variant, weight) in self.0.iter_mut().zip(LEVEL_WEIGHTS) {
            let error = demand - (variant.level + TREND_DAMPING * variant.trend);
            variant.error.note(error);
            // The form that corrects by the error: the same as the usual recursions (Gardner, 2006).
            variant.level += TREND_DAMPING * variant.trend + weight * error;
            variant.trend = TREND_DAMPING * variant.trend + weight * TREND_PART * error;
        }
    }

    pub(super) fn point(&self, horizon: Horizon) -> Option<f64> {
        least_wrong(&self.0, |variant| variant.error)
            .map(|variant| variant.level + damped_steps(horizon) * variant.trend)
    }
}

/// What a trend of 1 adds up to so far ahead: the sum of the powers of the damping.
pub(super) fn damped_steps(horizon: Horizon) -> f64 {
    TREND_DAMPING * (1.0 - TREND_DAMPING.powi(i32::from(horizon.as_bins()))) / (1.0 - TREND_DAMPING)
}
