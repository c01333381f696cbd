//! What keeps the coverage of a forecast at its target, whatever demand does.

use super::quantile::Quantile;
use super::window::Window;
use serde::{Deserialize, Serialize};

/// Of how many of the last forecasts the spread of errors is taken, which is the scale of a step.
const ERRORS_MAX: usize = 300;

/// How far a forecast that was always too low rises with each bin, as a part of that spread. A larger step holds the coverage
/// more tightly and costs more: with this one, fifty bins in a row that are covered lower a forecast of the 0.9 quantile by a
/// tenth of the spread, and five that are not raise it by about as much.
const STEP: f64 = 0.02;

/// The quantiles between which the spread is taken: one burst in ten bins does not move them.
const SPREAD: (f64, f64) = (0.1, 0.9);

/// Adaptive conformal inference (Gibbs and Candès, "Adaptive conformal inference under distribution shift", NeurIPS 2021) in the
/// form that tracks the quantile itself, on the scale of the errors (Angelopoulos, Candès and Tibshirani, "Conformal PID control
/// for time series prediction", NeurIPS 2023, section 2.1): what is added to the forecast rises when demand was above it, and
/// sinks when it was not, by steps that balance where the coverage is right, whatever demand does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Correction {
    added: f64,
    errors: Window,
}

impl Correction {
    pub(super) const fn new() -> Self {
        Self { added: 0.0, errors: Window::new(ERRORS_MAX) }
    }

    /// The forecast as it should be; never below 0.
    pub(super) fn correct(&self, forecast: f64) -> f64 {
        (forecast + self.added).max(0.0)
    }

    /// Takes in what demand became, where this was the forecast before and after correction.
    pub(super) fn learn(&mut self, forecast: f64, corrected: f64, demand: f64, quantile: Quantile) {
        self.errors.push(demand - forecast);
        let (low, high) = (self.errors.quantile(SPREAD.0), self.errors.quantile(SPREAD.1));
        let spread = low.zip(high).map_or(0.0, |(low, high)| high - low);
        let missed = if demand > corrected { 1.0 } else { 0.0 };
        let step = STEP * spread * (missed - (1.0 - quantile.as_part()));
        // A forecast of 0 cannot sink: steps beyond would only have to be taken back when demand returns.
        if step > 0.0 || corrected > 0.0 {
            self.added += step;
        }
        // For the same reason it stays where the errors of late are: the right quantile is between their middle and the largest.
        if let Some((middle, largest)) = self.errors.quantile(Quantile::MIN).zip(self.errors.largest()) {
            self.added = self.added.clamp(middle.min(0.0), largest.max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draws::Draws;
    use super::*;

    /// The coverage of each so many bins.
    fn coverages(bins: usize, each: usize, forecast: impl Fn(usize) -> f64, scale: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut random = Draws::with_seed(7);
        let mut correction = Correction::new();
        let mut covered = vec![0.0; bins / each];
        for bin in 0..bins {
            let demand = random.part() * scale(bin);
            let corrected = correction.correct(forecast(bin));
            if demand <= corrected {
                covered[bin / each] += 1.0 / each as f64;
            }
            correction.learn(forecast(bin), corrected, demand, Quantile::NINE_TENTHS);
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
        // Demand becomes twice what it was, and falls back.
        check(&|_| 90.0, &|bin| if (2_000..4_000).contains(&bin) { 200.0 } else { 100.0 });
        // The forecast becomes wrong, and demand grows all the time.
        check(&|bin| if bin < 3_000 { 90.0 } else { 60.0 }, &|bin| 100.0 + bin as f64 / 50.0);
    }

    #[test]
    fn a_long_quiet_does_not_keep_it_low() {
        // Demand is off and on in turns of 400 bins, and the forecast does not know when.
        let mut random = Draws::with_seed(3);
        let mut correction = Correction::new();
        let (mut covered, mut bins) = (0.0, 0.0);
        for bin in 0..8_000 {
            let is_on = bin / 400 % 2 == 1;
            let demand = if is_on { random.part() * 100.0 } else { 0.0 };
            let forecast = 90.0 * if is_on { 1.0 } else { 0.02 * random.part() };
            let corrected = correction.correct(forecast);
            if is_on {
                bins += 1.0;
                covered += if demand <= corrected { 1.0 } else { 0.0 };
            }
            correction.learn(forecast, corrected, demand, Quantile::NINE_TENTHS);
        }
        let coverage = covered / bins;
        assert!((0.85..=0.93).contains(&coverage), "{coverage} of the busy bins is covered");
    }

    #[test]
    fn a_step_is_as_its_rule_says() {
        let mut correction = Correction::new();
        let learn = |correction: &mut Correction, demand| {
            let corrected = correction.correct(50.0);
            correction.learn(50.0, corrected, demand, Quantile::NINE_TENTHS);
        };
        for demand in [10.0, 20.0, 30.0, 40.0, 10.0, 20.0, 30.0, 40.0] {
            learn(&mut correction, demand);
            assert!(correction.added.abs() < 1e-12, "eight errors have no 0.9 quantile");
        }
        // The errors of nine forecasts are from -40 to 10.
        learn(&mut correction, 60.0);
        assert!((correction.added - 0.02 * 50.0 * 0.9).abs() < 1e-9, "{correction:?}");
        let before = correction.added;
        learn(&mut correction, 10.0);
        assert!((correction.added - before + 0.02 * 50.0 * 0.1).abs() < 1e-9, "{correction:?}");
    }
}
