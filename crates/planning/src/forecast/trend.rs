//! The rate of requests to expect next.

use serde::Serialize;

/// A change of the rate by less than this part of it is no trend. The rule below names three trends but not where one begins;
/// a tenth is the width within which rates counted over one planning period are taken as equal.
pub const TREND_CHANGE_MIN: f64 = 0.1;

/// What an increasing rate is multiplied by: 20 % more, from the demand prediction of the Resource Allocation Module this follows.
const INCREASE: f64 = 1.2;

/// What a decreasing rate is multiplied by: 20 % less, from the same place.
const DECREASE: f64 = 0.8;

/// Which way the rate of requests goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// More than before.
    Increasing,
    /// As before, or nothing to compare with.
    Stable,
    /// Less than before.
    Decreasing,
}

/// The rate of requests now and the rate to expect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Requests a minute in the last period, refused ones included.
    pub current_rate_per_minute: f64,
    /// Which way it goes against the period before.
    pub trend: Trend,
    /// Requests a minute to expect in the next period.
    pub predicted_rate_per_minute: f64,
}

impl Forecast {
    /// The rule of the same document: a rate that grows goes on to grow by 20 %, one that shrinks to shrink by 20 %.
    #[must_use]
    pub fn by_trend(previous: Option<f64>, current: f64) -> Self {
        let trend = match previous {
            Some(previous) if current > previous * (1.0 + TREND_CHANGE_MIN) => Trend::Increasing,
            Some(previous) if current < previous * (1.0 - TREND_CHANGE_MIN) => Trend::Decreasing,
            _ => Trend::Stable,
        };
        Self { current_rate_per_minute: current, trend, predicted_rate_per_minute: current * trend.factor() }
    }
}

impl Trend {
    /// What a rate that goes this way is multiplied by.
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
            let forecast = Forecast::by_trend(previous, current);
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
