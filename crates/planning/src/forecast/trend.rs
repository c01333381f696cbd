//! The trend of the request rate, and the rate to expect next.

use serde::Serialize;

/// The smallest relative change of the rate that is a trend. The Resource Allocation Module names three trends
/// without a threshold; a tenth is the tolerance within which rates of two planning periods are considered equal.
const TREND_CHANGE_MIN: f64 = 0.1;

/// The factor of an increasing rate: 20 % more, from the demand prediction of the Resource Allocation Module.
const INCREASE: f64 = 1.2;

/// The factor of a decreasing rate: 20 % less, from the same source.
const DECREASE: f64 = 0.8;

/// The direction of the request rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// The rate rises by more than the threshold.
    Increasing,
    /// The rate is within the threshold, or there is no previous rate.
    Stable,
    /// The rate falls by more than the threshold.
    Decreasing,
}

/// The current request rate, its trend, and the rate to expect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrendForecast {
    /// Requests per minute in the last period, including refused ones.
    pub current_rate_per_minute: f64,
    /// The direction compared with the period before.
    pub trend: Trend,
    /// Requests per minute to expect in the next period.
    pub predicted_rate_per_minute: f64,
}

impl TrendForecast {
    /// Predicts the next rate by the rule of the Resource Allocation Module: a rising rate rises by another 20 %, a
    /// falling one falls by another 20 %.
    #[must_use]
    pub fn from_rates(previous: Option<f64>, current: f64) -> Self {
        let trend = match previous {
            Some(previous) if current > previous * (1.0 + TREND_CHANGE_MIN) => Trend::Increasing,
            Some(previous) if current < previous * (1.0 - TREND_CHANGE_MIN) => Trend::Decreasing,
            _ => Trend::Stable,
        };
        Self { current_rate_per_minute: current, trend, predicted_rate_per_minute: current * trend.factor() }
    }
}

impl Trend {
    /// Returns the factor from the current to the predicted rate.
    #[must_use]
    pub const fn factor(self) -> f64 {
        match self {
            Self::Increasing => INCREASE,
            Self::Stable => 1.0,
            Self::Decreasing => DECREASE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trend_goes_on() {
        let check = |previous, current, trend, predicted: f64| {
            let forecast = TrendForecast::from_rates(previous, current);
            assert_eq!(forecast.trend, trend, "{previous:?} then {current}");
            assert!((forecast.predicted_rate_per_minute - predicted).abs() < 1e-9, "{previous:?} then {current}");
        };
        check(None, 10.0, Trend::Stable, 10.0);
        check(Some(10.0), 10.9, Trend::Stable, 10.9);
        check(Some(10.0), 20.0, Trend::Increasing, 24.0);
        check(Some(10.0), 5.0, Trend::Decreasing, 4.0);
        check(Some(0.0), 0.0, Trend::Stable, 0.0);
        check(Some(0.0), 2.0, Trend::Increasing, 2.4);
        check(Some(4.0), 0.0, Trend::Decreasing, 0.0);
    }
}
