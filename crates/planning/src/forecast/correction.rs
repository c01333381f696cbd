//! Online correction that keeps the coverage of a forecast at its target, even when demand shifts.

use super::quantile::Quantile;
use super::sliding_window::SlidingWindow;
use serde::{Deserialize, Serialize};

/// The number of most recent errors from which the spread is computed. The spread is the scale of a step.
const SPREAD_ERRORS_MAX: usize = 300;

/// The step size per bin as a fraction of the error spread. A larger step tracks the coverage more tightly but costs
/// more. With this value and the 0.9 quantile, fifty covered bins in a row lower the forecast by a tenth of the
/// spread, and five uncovered bins in a row raise it by about as much.
const STEP_RATIO: f64 = 0.02;

/// The quantiles between which the spread is measured: one burst in ten bins does not change them.
const SPREAD_QUANTILES: (f64, f64) = (0.1, 0.9);

/// Adaptive conformal inference (Gibbs and Candès, "Adaptive conformal inference under distribution shift", NeurIPS
/// 2021), in the form that tracks the quantile itself on the scale of the errors (Angelopoulos, Candès and
/// Tibshirani, "Conformal PID control for time series prediction", NeurIPS 2023, section 2.1).
///
/// The offset rises when demand was above the forecast and falls otherwise. The steps balance where the coverage
/// equals the target, whatever the distribution of demand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Correction {
    added: f64,
    errors: SlidingWindow,
}

impl Correction {
    pub(super) const fn new() -> Self {
        Self { added: 0.0, errors: SlidingWindow::new(SPREAD_ERRORS_MAX) }
    }

    /// Returns the corrected forecast; at least 0.
    pub(super) fn correct(&self, forecast: f64) -> f64 {
        (forecast + self.added).max(0.0)
    }

    /// Updates the offset from the observed demand, given the forecast before and after correction.
    pub(super) fn update(&mut self, forecast: f64, corrected: f64, demand: f64, quantile: Quantile) {
        self.errors.push(demand - forecast);
        let (low, high) = (self.errors.quantile(SPREAD_QUANTILES.0), self.errors.quantile(SPREAD_QUANTILES.1));
        let spread = low.zip(high).map_or(0.0, |(low, high)| high - low);
        let missed = if demand > corrected { 1.0 } else { 0.0 };
        let step = STEP_RATIO * spread * (missed - (1.0 - quantile.as_fraction()));
        // A corrected forecast of 0 cannot fall further: additional steps would only delay the recovery when demand
        // returns.
        if step > 0.0 || corrected > 0.0 {
            self.added += step;
        }
        // For the same reason the offset stays within the recent errors: the right quantile lies between their median
        // and their maximum.
        if let Some((median, largest)) = self.errors.quantile(Quantile::MIN).zip(self.errors.largest()) {
            self.added = self.added.clamp(median.min(0.0), largest.max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_rng::TestRng;
    use super::*;

    /// Returns the coverage of each block of `block_bins` bins.
    fn coverages(
        bins: usize,
        block_bins: usize,
        forecast: impl Fn(usize) -> f64,
        scale: impl Fn(usize) -> f64,
    ) -> Vec<f64> {
        let mut random = TestRng::with_seed(7);
        let mut correction = Correction::new();
        let mut covered = vec![0.0; bins / block_bins];
        for bin in 0..bins {
            let demand = random.fraction() * scale(bin);
            let corrected = correction.correct(forecast(bin));
            if demand <= corrected {
                covered[bin / block_bins] += 1.0 / block_bins as f64;
            }
            correction.update(forecast(bin), corrected, demand, Quantile::NINE_TENTHS);
        }
        covered
    }

    #[test]
    fn coverage_is_held_where_the_forecast_is_wrong_and_demand_shifts() {
        let check = |forecast: &dyn Fn(usize) -> f64, scale: &dyn Fn(usize) -> f64| {
            for coverage in coverages(6_000, 2_000, forecast, scale) {
                assert!((0.87..=0.93).contains(&coverage), "{coverage}");
            }
        };
        check(&|_| 90.0, &|_| 100.0);
        check(&|_| 50.0, &|_| 100.0);
        check(&|_| 120.0, &|_| 100.0);
        // Demand doubles and falls back.
        check(&|_| 90.0, &|bin| if (2_000..4_000).contains(&bin) { 200.0 } else { 100.0 });
        // The forecast becomes wrong while demand grows steadily.
        check(&|bin| if bin < 3_000 { 90.0 } else { 60.0 }, &|bin| 100.0 + bin as f64 / 50.0);
    }

    #[test]
    fn a_long_quiet_does_not_keep_it_low() {
        // Demand alternates between off and on every 400 bins, which the forecast does not anticipate.
        let mut random = TestRng::with_seed(3);
        let mut correction = Correction::new();
        let (mut covered, mut bins) = (0.0, 0.0);
        for bin in 0..8_000 {
            let is_on = bin / 400 % 2 == 1;
            let demand = if is_on { random.fraction() * 100.0 } else { 0.0 };
            let forecast = 90.0 * if is_on { 1.0 } else { 0.02 * random.fraction() };
            let corrected = correction.correct(forecast);
            if is_on {
                bins += 1.0;
                covered += if demand <= corrected { 1.0 } else { 0.0 };
            }
            correction.update(forecast, corrected, demand, Quantile::NINE_TENTHS);
        }
        let coverage = covered / bins;
        assert!((0.85..=0.93).contains(&coverage), "{coverage} of the busy bins are covered");
    }

    #[test]
    fn a_step_follows_its_rule() {
        let mut correction = Correction::new();
        let update = |correction: &mut Correction, demand| {
            let corrected = correction.correct(50.0);
            correction.update(50.0, corrected, demand, Quantile::NINE_TENTHS);
        };
        for demand in [10.0, 20.0, 30.0, 40.0, 10.0, 20.0, 30.0, 40.0] {
            update(&mut correction, demand);
            assert!(correction.added.abs() < 1e-12, "eight errors have no 0.9 quantile");
        }
        // The errors of nine forecasts range from -40 to 10.
        update(&mut correction, 60.0);
        assert!((correction.added - 0.02 * 50.0 * 0.9).abs() < 1e-9, "{correction:?}");
        let before = correction.added;
        update(&mut correction, 10.0);
        assert!((correction.added - before + 0.02 * 50.0 * 0.1).abs() < 1e-9, "{correction:?}");
    }
}
