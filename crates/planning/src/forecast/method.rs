//! The forecasters, each by its name.

use super::horizon::Horizon;
use super::quantile::Quantile;
use super::seasonal::{HoltWinters, SeasonalNaive};
use super::smoothing::{DampedHolt, Smoothed};
use super::trend::Forecast;
use super::window::Window;
use serde::{Deserialize, Serialize};

/// Of how many of the last bins the moving quantile is taken: ten are above a 0.9 quantile, which is enough to tell it by, and
/// more would make it slow to follow.
const MOVING_BINS: usize = 100;

/// Something for each forecaster, in the order of [`Method::ALL`].
pub(super) type PerMethod<T> = [T; Method::ALL.len()];

/// The same for all.
pub(super) fn all<T: Default>() -> PerMethod<T> {
    std::array::from_fn(|_| T::default())
}

/// A way to forecast demand. All but the last forecast the middle, and get as a margin the quantile of what they were wrong by at
/// the same horizon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// As much as in the last bin.
    LastValue,
    /// The rule of [`Forecast::by_trend`]: 20 % more while demand rises, 20 % less while it falls.
    Trend,
    /// An exponentially weighted mean.
    Smoothed,
    /// Holt's linear method with a damped trend.
    DampedHolt,
    /// As much as one season ago.
    SeasonalNaive,
    /// Holt-Winters with an additive season and a damped trend.
    HoltWinters,
    /// The quantile of the last bins, which needs no margin.
    MovingQuantile,
}

impl Method {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::LastValue,
        Self::Trend,
        Self::Smoothed,
        Self::DampedHolt,
        Self::SeasonalNaive,
        Self::HoltWinters,
        Self::MovingQuantile,
    ];

    /// The name it is shown by.
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

    /// Its place in [`ALL`](Self::ALL).
    pub(super) const fn place(self) -> usize {
        self as usize
    }

    /// Whether it needs a season.
    pub(super) const fn is_seasonal(self) -> bool {
        matches!(self, Self::SeasonalNaive | Self::HoltWinters)
    }

    /// Whether its forecasts are quantiles, and not of the middle.
    pub(super) const fn is_quantile(self) -> bool {
        matches!(self, Self::MovingQuantile)
    }
}

/// A forecaster with what it remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Model {
    LastValue(Option<f64>),
    Trend {
        previous: Option<f64>,
        current: Option<f64>,
    },
    Smoothed(Smoothed),
    DampedHolt(DampedHolt),
    SeasonalNaive(SeasonalNaive),
    HoltWinters(HoltWinters),
    MovingQuantile(Window),
    /// One that needs a season, where there is none.
    Asleep,
}

impl Model {
    /// One that has seen nothing yet.
    pub(super) fn new(method: Method, season: Option<usize>) -> Self {
        match (method, season) {
            (Method::LastValue, _) => Self::LastValue(None),
            (Method::Trend, _) => Self::Trend { previous: None, current: None },
            (Method::Smoothed, _) => Self::Smoothed(Smoothed::default()),
            (Method::DampedHolt, _) => Self::DampedHolt(DampedHolt::default()),
            (Method::SeasonalNaive, Some(period)) => Self::SeasonalNaive(SeasonalNaive::new(period)),
            (Method::HoltWinters, Some(period)) => Self::HoltWinters(HoltWinters::new(period)),
            (Method::SeasonalNaive | Method::HoltWinters, None) => Self::Asleep,
            (Method::MovingQuantile, _) => Self::MovingQuantile(Window::new(MOVING_BINS)),
        }
    }

    /// Takes in the demand of the next bin.
    pub(super) fn observe(&mut self, demand: f64) {
        match self {
            Self::LastValue(last) => *last = Some(demand),
            Self::Trend { previous, current } => *previous = current.replace(demand),
            Self::Smoothed(model) => model.observe(demand),
            Self::DampedHolt(model) => model.observe(demand),
            Self::SeasonalNaive(model) => model.observe(demand),
            Self::HoltWinters(model) => model.observe(demand),
            Self::MovingQuantile(window) => window.push(demand),
            Self::Asleep => {}
        }
    }

    /// What it expects so far ahead: the quantile if it is a forecaster of quantiles. Nothing while it knows too little.
    pub(super) fn point(&self, horizon: Horizon, quantile: Quantile) -> Option<f64> {
        match self {
            Self::LastValue(last) => *last,
            Self::Trend { previous, current } => {
                current.map(|current| Forecast::by_trend(*previous, current).predicted_rate_per_minute)
            }
            Self::Smoothed(model) => model.point(),
            Self::DampedHolt(model) => model.point(horizon),
            Self::SeasonalNaive(model) => model.point(horizon),
            Self::HoltWinters(model) => model.point(horizon),
            Self::MovingQuantile(window) => window.quantile(quantile.as_part()),
            Self::Asleep => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What forecasters say one, two and three bins ahead, after this demand.
    fn check(method: Method, season: Option<usize>, demand: &[u32], expected: [Option<f64>; 3]) {
        let mut model = Model::new(method, season);
        demand.iter().for_each(|demand| model.observe(f64::from(*demand)));
        for (bins, expected) in (1..).zip(expected) {
            let horizon = Horizon::new(bins).expect("within bounds");
            let point = model.point(horizon, Quantile::NINE_TENTHS);
            let fits =
                point.zip(expected).map_or(point == expected, |(point, expected)| (point - expected).abs() < 1e-9);
            assert!(fits, "{method:?} after {demand:?}, {bins} ahead: {point:?}");
        }
    }

    /// The same for all horizons.
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
        // All were as wrong, and the slowest is the first.
        check_flat(Method::Smoothed, &[10, 20], Some(10.5));
        // From 10.5 and 17 on, the fastest was nearer to 30: 17 + 0.7 * 13.
        check_flat(Method::Smoothed, &[10, 20, 30], Some(26.1));
    }

    #[test]
    fn a_damped_trend_fades() {
        check(Method::DampedHolt, None, &[10], [Some(10.0); 3]);
        // The slowest: a level of 10.5, and a trend of 0.05 * 0.3 * 10 that fades by a tenth with each bin.
        let ahead = [10.5 + 0.15 * 0.9, 10.5 + 0.15 * (0.9 + 0.81), 10.5 + 0.15 * (0.9 + 0.81 + 0.729)];
        check(Method::DampedHolt, None, &[10, 20], ahead.map(Some));
    }

    #[test]
    fn a_season_ago_is_what_comes() {
        check(Method::SeasonalNaive, None, &[1, 2, 3], [None; 3]);
        check(Method::SeasonalNaive, Some(4), &[1, 2, 3], [None; 3]);
        check(Method::SeasonalNaive, Some(4), &[1, 2, 3, 4], [1.0, 2.0, 3.0].map(Some));
        check(Method::SeasonalNaive, Some(4), &[1, 2, 3, 4, 5, 6], [3.0, 4.0, 5.0].map(Some));
        check(Method::SeasonalNaive, Some(2), &[7, 9], [7.0, 9.0, 7.0].map(Some));
    }

    #[test]
    fn a_season_is_learnt_beside_the_level() {
        check(Method::HoltWinters, None, &[1, 2, 3], [None; 3]);
        check(Method::HoltWinters, Some(2), &[10], [None; 3]);
        // A level of 15, and 5 below and above it.
        check(Method::HoltWinters, Some(2), &[10, 20], [10.0, 20.0, 10.0].map(Some));
        check(Method::HoltWinters, Some(2), &[10, 20, 10, 20, 10], [20.0, 10.0, 20.0].map(Some));
        // Wrong by 10: the level of the slowest goes up by 0.5, its trend to 0.05, and the season at this place half the way
        // from -5 to the 4.5 that it was above the level.
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
    fn each_has_its_place() {
        for (place, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method.place(), place, "{method:?}");
            let name = serde_json::to_value(method).expect("a name");
            assert_eq!(name, method.as_str());
        }
    }
}
