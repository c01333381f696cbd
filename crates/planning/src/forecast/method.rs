//! The forecasting methods and their models.

use super::horizon::Horizon;
use super::quantile::Quantile;
use super::seasonal::{HoltWinters, SeasonalNaive};
use super::sliding_window::SlidingWindow;
use super::smoothing::{DampedHolt, SimpleSmoothing};
use super::trend::TrendForecast;
use serde::{Deserialize, Serialize};

/// The number of most recent bins of the moving quantile: ten of them lie above the 0.9 quantile, which is enough to
/// estimate it, and more bins would make it slow to follow.
const MOVING_BINS: usize = 100;

/// One value per method, in the order of [`Method::ALL`].
pub(super) type PerMethod<T> = [T; Method::ALL.len()];

/// Returns the default value for each method.
pub(super) fn defaults<T: Default>() -> PerMethod<T> {
    std::array::from_fn(|_| T::default())
}

/// A forecasting method. Each method except [`MovingQuantile`](Self::MovingQuantile) forecasts the center of demand,
/// and its margin is the quantile of its past errors at the same horizon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The demand of the last bin.
    LastValue,
    /// The rule of [`TrendForecast::from_rates`]: 20 % more while demand rises, 20 % less while it falls.
    Trend,
    /// An exponentially weighted mean.
    Smoothed,
    /// Holt's linear method with a damped trend.
    DampedHolt,
    /// The demand one season ago.
    SeasonalNaive,
    /// Holt-Winters with an additive season and a damped trend.
    HoltWinters,
    /// The quantile of the last bins, without a margin.
    MovingQuantile,
}

impl Method {
    /// All methods, in display order.
    pub const ALL: [Self; 7] = [
        Self::LastValue,
        Self::Trend,
        Self::Smoothed,
        Self::DampedHolt,
        Self::SeasonalNaive,
        Self::HoltWinters,
        Self::MovingQuantile,
    ];

    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LastValue => "last_value",
            Self::Trend => "trend",
            Self::Smoothed => "smoothed",
            Self::DampedHolt => "damped_holt",
            Self::SeasonalNaive => "seasonal_naive",
            Self::HoltWinters => "holt_winters",
            Self::MovingQuantile => "moving_quantile",
        }
    }

    /// Returns the position in [`ALL`](Self::ALL).
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// Returns whether the method requires a season.
    pub(super) const fn is_seasonal(self) -> bool {
        matches!(self, Self::SeasonalNaive | Self::HoltWinters)
    }

    /// Returns whether the method forecasts the quantile itself, so that no margin is added.
    pub(super) const fn is_quantile(self) -> bool {
        matches!(self, Self::MovingQuantile)
    }
}

/// A forecasting method with its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Model {
    LastValue(Option<f64>),
    Trend {
        previous: Option<f64>,
        current: Option<f64>,
    },
    Smoothed(SimpleSmoothing),
    DampedHolt(DampedHolt),
    SeasonalNaive(SeasonalNaive),
    HoltWinters(HoltWinters),
    MovingQuantile(SlidingWindow),
    /// A seasonal method while no season is known.
    #[serde(rename = "asleep")]
    SeasonUnknown,
}

impl Model {
    /// Creates a model without observations.
    pub(super) fn new(method: Method, season: Option<usize>) -> Self {
        match (method, season) {
            (Method::LastValue, _) => Self::LastValue(None),
            (Method::Trend, _) => Self::Trend { previous: None, current: None },
            (Method::Smoothed, _) => Self::Smoothed(SimpleSmoothing::default()),
            (Method::DampedHolt, _) => Self::DampedHolt(DampedHolt::default()),
            (Method::SeasonalNaive, Some(period)) => Self::SeasonalNaive(SeasonalNaive::new(period)),
            (Method::HoltWinters, Some(period)) => Self::HoltWinters(HoltWinters::new(period)),
            (Method::SeasonalNaive | Method::HoltWinters, None) => Self::SeasonUnknown,
            (Method::MovingQuantile, _) => Self::MovingQuantile(SlidingWindow::new(MOVING_BINS)),
        }
    }

    /// Observes the demand of the next bin.
    pub(super) fn observe(&mut self, demand: f64) {
        match self {
            Self::LastValue(last) => *last = Some(demand),
            Self::Trend { previous, current } => *previous = current.replace(demand),
            Self::Smoothed(model) => model.observe(demand),
            Self::DampedHolt(model) => model.observe(demand),
            Self::SeasonalNaive(model) => model.observe(demand),
            Self::HoltWinters(model) => model.observe(demand),
            Self::MovingQuantile(window) => window.push(demand),
            Self::SeasonUnknown => {}
        }
    }

    /// Returns the point forecast at a horizon: the quantile for [`Model::MovingQuantile`], the center otherwise.
    /// Returns `None` while there are too few observations.
    pub(super) fn point(&self, horizon: Horizon, quantile: Quantile) -> Option<f64> {
        match self {
            Self::LastValue(last) => *last,
            Self::Trend { previous, current } => {
                current.map(|current| TrendForecast::from_rates(*previous, current).predicted_rate_per_minute)
            }
            Self::Smoothed(model) => model.point(),
            Self::DampedHolt(model) => model.point(horizon),
            Self::SeasonalNaive(model) => model.point(horizon),
            Self::HoltWinters(model) => model.point(horizon),
            Self::MovingQuantile(window) => window.quantile(quantile.as_fraction()),
            Self::SeasonUnknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the forecasts one, two and three bins ahead after this demand.
    fn check(method: Method, season: Option<usize>, demand: &[u32], expected: [Option<f64>; 3]) {
        let mut model = Model::new(method, season);
        demand.iter().for_each(|demand| model.observe(f64::from(*demand)));
        for (bins, expected) in (1..).zip(expected) {
            let horizon = Horizon::new(bins).expect("within bounds");
            let point = model.point(horizon, Quantile::NINE_TENTHS);
            let is_close =
                point.zip(expected).map_or(point == expected, |(point, expected)| (point - expected).abs() < 1e-9);
            assert!(is_close, "{method:?} after {demand:?}, {bins} ahead: {point:?}");
        }
    }

    /// Checks that all horizons have the same forecast.
    fn check_flat(method: Method, demand: &[u32], expected: Option<f64>) {
        check(method, None, demand, [expected; 3]);
    }

    #[test]
    fn the_last_value_stays() {
        check_flat(Method::LastValue, &[], None);
        check_flat(Method::LastValue, &[3, 8], Some(8.0));
    }

    #[test]
    fn the_trend_is_the_rule_of_the_planner() {
        check_flat(Method::Trend, &[], None);
        check_flat(Method::Trend, &[10], Some(10.0));
        check_flat(Method::Trend, &[10, 20], Some(24.0));
        check_flat(Method::Trend, &[20, 10], Some(8.0));
        check_flat(Method::Trend, &[100, 105], Some(105.0));
    }

    #[test]
    fn the_mean_takes_the_weight_that_was_least_wrong() {
        check_flat(Method::Smoothed, &[], None);
        check_flat(Method::Smoothed, &[10], Some(10.0));
        // All variants have the same error, and the slowest is the first.
        check_flat(Method::Smoothed, &[10, 20], Some(10.5));
        // From 10.5 and 17 on, the fastest variant was nearer to 30: 17 + 0.7 * 13.
        check_flat(Method::Smoothed, &[10, 20, 30], Some(26.1));
    }

    #[test]
    fn a_damped_trend_fades() {
        check(Method::DampedHolt, None, &[10], [Some(10.0); 3]);
        // The slowest variant: a level of 10.5, and a trend of 0.05 * 0.3 * 10 that is damped by a tenth per bin.
        let ahead = [10.5 + 0.15 * 0.9, 10.5 + 0.15 * (0.9 + 0.81), 10.5 + 0.15 * (0.9 + 0.81 + 0.729)];
        check(Method::DampedHolt, None, &[10, 20], ahead.map(Some));
    }

    #[test]
    fn the_demand_of_a_season_ago_is_forecast() {
        check(Method::SeasonalNaive, None, &[1, 2, 3], [None; 3]);
        check(Method::SeasonalNaive, Some(4), &[1, 2, 3], [None; 3]);
        check(Method::SeasonalNaive, Some(4), &[1, 2, 3, 4], [1.0, 2.0, 3.0].map(Some));
        check(Method::SeasonalNaive, Some(4), &[1, 2, 3, 4, 5, 6], [3.0, 4.0, 5.0].map(Some));
        check(Method::SeasonalNaive, Some(2), &[7, 9], [7.0, 9.0, 7.0].map(Some));
    }

    #[test]
    fn a_season_is_learned_along_with_the_level() {
        check(Method::HoltWinters, None, &[1, 2, 3], [None; 3]);
        check(Method::HoltWinters, Some(2), &[10], [None; 3]);
        // A level of 15, with seasonal offsets of -5 and 5.
        check(Method::HoltWinters, Some(2), &[10, 20], [10.0, 20.0, 10.0].map(Some));
        check(Method::HoltWinters, Some(2), &[10, 20, 10, 20, 10], [20.0, 10.0, 20.0].map(Some));
        // An error of 10: the level of the slowest variant rises by 0.5, its trend to 0.05, and this seasonal offset
        // moves half way from -5 to the observed 4.5 above the level.
        let (level, trend) = (15.5, 0.05);
        let ahead = [level + trend * 0.9 + 5.0, level + trend * (0.9 + 0.81) - 0.25];
        let third = level + trend * (0.9 + 0.81 + 0.729) + 5.0;
        check(Method::HoltWinters, Some(2), &[10, 20, 20], [ahead[0], ahead[1], third].map(Some));
    }

    #[test]
    fn a_moving_quantile_forgets() {
        check_flat(Method::MovingQuantile, &[1; 8], None);
        check_flat(Method::MovingQuantile, &[1, 2, 3, 4, 5, 6, 7, 8, 9], Some(9.0));
        let mut demand = vec![1_000; 50];
        demand.extend(1..=100);
        check_flat(Method::MovingQuantile, &demand, Some(91.0));
    }

    #[test]
    fn each_has_its_index() {
        for (index, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method.index(), index, "{method:?}");
            let name = serde_json::to_value(method).expect("a name");
            assert_eq!(name, method.as_str());
        }
    }
}
