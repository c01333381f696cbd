//! Exponential smoothing: a level, and a level with a damped trend.

use super::horizon::Horizon;
use serde::{Deserialize, Serialize};

/// The decay of past errors per bin when smoothing weights are compared: an error that is a hundred bins old has a
/// third of its weight.
const ERROR_DECAY: f64 = 0.99;

/// The candidate smoothing weights of the newest bin, each about twice the one before: from a mean over some forty
/// bins to little more than the last value.
pub(super) const LEVEL_WEIGHTS: [f64; 5] = [0.05, 0.1, 0.2, 0.4, 0.7];

/// The weight of the newest level change in the trend, relative to the weight of the level. A trend must adapt more
/// slowly than the level, or it follows noise (Gardner, "Exponential smoothing: the state of the art, part II",
/// 2006).
const TREND_WEIGHT_RATIO: f64 = 0.3;

/// The damping factor of the trend per bin. With 0.9, a trend adds at most nine times its size (Gardner and McKenzie,
/// "Forecasting trends in time series", 1985, recommend 0.8 to 1 in most cases).
pub(super) const TREND_DAMPING: f64 = 0.9;

/// The exponentially weighted sum of the absolute errors of forecasts one bin ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TrailingError(f64);

impl TrailingError {
    /// Adds the error of the newest forecast.
    pub(super) fn add(&mut self, error: f64) {
        self.0 = ERROR_DECAY * self.0 + error.abs();
    }
}

/// Returns the variant with the lowest recent error; of equal ones the first.
pub(super) fn most_accurate<V>(variants: &[V], error: impl Fn(&V) -> TrailingError) -> Option<&V> {
    variants.iter().min_by(|one, other| error(one).0.total_cmp(&error(other).0))
}

/// Simple exponential smoothing with the smoothing weight that has the lowest recent error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SimpleSmoothing(Vec<LevelVariant>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct LevelVariant {
    level: f64,
    error: TrailingError,
}

impl SimpleSmoothing {
    pub(super) fn observe(&mut self, demand: f64) {
        if self.0.is_empty() {
            self.0 = vec![LevelVariant { level: demand, error: TrailingError::default() }; LEVEL_WEIGHTS.len()];
            return;
        }
        for (variant, weight) in self.0.iter_mut().zip(LEVEL_WEIGHTS) {
            let error = demand - variant.level;
            variant.error.add(error);
            variant.level += weight * error;
        }
    }

    pub(super) fn point(&self) -> Option<f64> {
        most_accurate(&self.0, |variant| variant.error).map(|variant| variant.level)
    }
}

/// Holt's linear method with a damped trend, with the smoothing weight that has the lowest recent error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct DampedHolt(Vec<HoltVariant>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct HoltVariant {
    level: f64,
    trend: f64,
    error: TrailingError,
}

impl DampedHolt {
    pub(super) fn observe(&mut self, demand: f64) {
        if self.0.is_empty() {
            let first = HoltVariant { level: demand, trend: 0.0, error: TrailingError::default() };
            self.0 = vec![first; LEVEL_WEIGHTS.len()];
            return;
        }
        for (variant, weight) in self.0.iter_mut().zip(LEVEL_WEIGHTS) {
            let error = demand - (variant.level + TREND_DAMPING * variant.trend);
            variant.error.add(error);
            // The error correction form, which is equivalent to the usual recursions (Gardner, 2006).
            variant.level += TREND_DAMPING * variant.trend + weight * error;
            variant.trend = TREND_DAMPING * variant.trend + weight * TREND_WEIGHT_RATIO * error;
        }
    }

    pub(super) fn point(&self, horizon: Horizon) -> Option<f64> {
        most_accurate(&self.0, |variant| variant.error)
            .map(|variant| variant.level + damped_steps(horizon) * variant.trend)
    }
}

/// Returns the total of a damped trend of 1 at this horizon: the sum of the powers of the damping factor.
pub(super) fn damped_steps(horizon: Horizon) -> f64 {
    TREND_DAMPING * (1.0 - TREND_DAMPING.powi(i32::from(horizon.as_bins()))) / (1.0 - TREND_DAMPING)
}
