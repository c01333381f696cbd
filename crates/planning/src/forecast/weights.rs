//! The weights of the forecasting methods: the lower the past loss, the higher the weight.

use super::method::{PerMethod, defaults};
use super::quantile::Quantile;
use serde::{Deserialize, Serialize};

/// The decay of past regrets per bin, so that the weights follow when another method becomes the best: a regret that
/// is 200 bins old has about a third of its weight.
const REGRET_DECAY: f64 = 0.995;

/// The fraction of the weight that all methods share evenly, so that none ever restarts from 0 (Herbster and Warmuth,
/// "Tracking the best expert", Machine Learning 32, 1998).
const UNIFORM_SHARE: f64 = 0.01;

/// The sum of squared regrets below which a record is reset: after months without a regret, the learning rate would
/// become infinite.
const SQUARES_MIN: f64 = 1e-100;

/// Bernstein online aggregation with a learning rate for each method from its own past (Wintenberger, "Optimal
/// learning with Bernstein online aggregation", Machine Learning 106, 2017, section 3.2), with exponential forgetting
/// and a minimum share for each method. The learning rates are inversely proportional to the losses, so the weights
/// do not depend on the scale of demand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Weights(PerMethod<MethodRegret>);

/// The regrets of one method. A regret is the loss of the combined forecast minus the loss of this method's forecast,
/// in units of demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct MethodRegret {
    /// The decayed sum of regrets, minus a penalty for their variance.
    regret: f64,
    /// The decayed sum of squared regrets.
    squares: f64,
    /// The largest absolute regret, decayed.
    largest: f64,
}

impl MethodRegret {
    fn add(&mut self, regret: f64) {
        self.largest = (REGRET_DECAY * self.largest).max(regret.abs());
        self.squares = REGRET_DECAY * self.squares + regret * regret;
        self.regret = REGRET_DECAY * self.regret + regret - self.learning_rate().unwrap_or(0.0) * regret * regret;
        if self.squares < SQUARES_MIN {
            *self = Self::default();
        }
    }

    /// Returns the learning rate; `None` if there was never a regret.
    fn learning_rate(&self) -> Option<f64> {
        let methods = defaults::<()>().len() as f64;
        (self.squares > 0.0).then(|| (0.5 / self.largest).min((methods.ln() / self.squares).sqrt()))
    }

    /// Returns the logarithm of the weight; the weight itself might overflow.
    fn log_weight(&self) -> Option<f64> {
        self.learning_rate().map(|rate| rate.ln() + rate * self.regret)
    }
}

impl Weights {
    /// Returns the weights of the methods that have a forecast, which sum to 1; all 0 if none has.
    pub(super) fn normalized(&self, forecasts: &PerMethod<Option<f64>>) -> PerMethod<f64> {
        let available_count = forecasts.iter().flatten().count();
        if available_count == 0 {
            return defaults();
        }
        // A method whose loss never differed from the combined loss has no regret, and learns as fast as the fastest.
        let fastest = self.0.iter().filter_map(MethodRegret::learning_rate).max_by(f64::total_cmp).unwrap_or(1.0).ln();
        let log_weights = self.0.map(|record| record.log_weight().unwrap_or(fastest));
        let available = log_weights.iter().zip(forecasts).filter(|(_, forecast)| forecast.is_some());
        let most = available.map(|(log_weight, _)| *log_weight).fold(f64::MIN, f64::max);
        let mut weights = log_weights.map(|log_weight| (log_weight - most).exp());
        for (weight, forecast) in weights.iter_mut().zip(forecasts) {
            if forecast.is_none() {
                *weight = 0.0;
            }
        }
        // At least 1: the best method has a weight of 1 here.
        let sum: f64 = weights.iter().sum();
        for (weight, forecast) in weights.iter_mut().zip(forecasts) {
            let share = if forecast.is_some() { UNIFORM_SHARE / available_count as f64 } else { 0.0 };
            *weight = (1.0 - UNIFORM_SHARE) * *weight / sum + share;
        }
        weights
    }

    /// Returns the weighted mean of the forecasts; `None` if there are none.
    pub(super) fn combine(&self, forecasts: &PerMethod<Option<f64>>) -> Option<f64> {
        let parts = forecasts.iter().zip(self.normalized(forecasts));
        let mean: f64 = parts.filter_map(|(forecast, weight)| forecast.map(|forecast| forecast * weight)).sum();
        let least = forecasts.iter().flatten().copied().min_by(f64::total_cmp)?;
        let most = forecasts.iter().flatten().copied().max_by(f64::total_cmp)?;
        // If all forecasts are equal, rounding must not put the mean slightly below them: the bin would count as not
        // covered.
        Some(mean.clamp(least, most))
    }

    /// Updates the regrets from the observed demand, given the forecasts and their combination. A method without a
    /// forecast gets a regret of 0.
    pub(super) fn update(
        &mut self,
        forecasts: &PerMethod<Option<f64>>,
        combined: f64,
        demand: f64,
        quantile: Quantile,
    ) {
        let loss = quantile.loss(combined, demand);
        for (record, forecast) in self.0.iter_mut().zip(forecasts) {
            record.add(forecast.map_or(0.0, |forecast| loss - quantile.loss(forecast, demand)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_rng::TestRng;
    use super::*;

    /// Returns a sequence of random numbers from 0 to 1.
    fn random_values(seed: u64) -> impl Iterator<Item = f64> {
        let mut random = TestRng::with_seed(seed);
        std::iter::repeat_with(move || random.fraction())
    }

    /// Returns the total losses of each method and of the combination.
    fn play(
        demands: impl Iterator<Item = f64>,
        forecasts: impl Fn(usize) -> PerMethod<Option<f64>>,
    ) -> (Vec<f64>, f64) {
        let (mut weights, quantile) = (Weights::default(), Quantile::NINE_TENTHS);
        let (mut of_each, mut of_all) = (vec![0.0; defaults::<()>().len()], 0.0);
        for (bin, demand) in demands.enumerate() {
            let forecasts = forecasts(bin);
            let combined = weights.combine(&forecasts).expect("a method has a forecast");
            weights.update(&forecasts, combined, demand, quantile);
            of_all += quantile.loss(combined, demand);
            for (sum, forecast) in of_each.iter_mut().zip(forecasts) {
                *sum += quantile.loss(forecast.unwrap_or(combined), demand);
            }
        }
        (of_each, of_all)
    }

    #[test]
    fn a_method_without_a_forecast_has_no_weight() {
        let weights = Weights::default();
        let forecasts = [Some(1.0), None, Some(3.0), None, None, None, None];
        assert_eq!(weights.normalized(&forecasts), [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(weights.combine(&forecasts), Some(2.0));
        assert_eq!(weights.combine(&defaults()), None);
    }

    #[test]
    fn it_costs_hardly_more_than_the_best() {
        // Demand is uniform from 0 to 100, so 90 is the right forecast.
        for best in 0..defaults::<()>().len() {
            let mut forecasts = [Some(20.0), Some(40.0), Some(60.0), Some(75.0), Some(140.0), Some(200.0), Some(300.0)];
            forecasts[best] = Some(90.0);
            let (of_each, of_all) =
                play(random_values(best as u64).take(2_000).map(|value| value * 100.0), |_| forecasts);
            let least = of_each.iter().copied().fold(f64::MAX, f64::min);
            assert!(of_all <= 1.05 * least, "{of_all} where the best of {of_each:?} was no. {best}");
        }
    }

    #[test]
    fn it_follows_when_another_becomes_the_best() {
        let scale = |bin| if bin < 2_000 { 100.0 } else { 10.0 };
        let demands: Vec<f64> =
            random_values(1).take(4_000).enumerate().map(|(bin, value)| value * scale(bin)).collect();
        let right =
            demands.iter().enumerate().map(|(bin, demand)| Quantile::NINE_TENTHS.loss(0.9 * scale(bin), *demand));
        let right: f64 = right.sum();
        let forecasts = [Some(90.0), Some(9.0), None, None, None, None, None];
        let (of_each, of_all) = play(demands.into_iter(), |_| forecasts);
        assert!(of_all < 1.25 * right, "{of_all} where changing in time takes {right}");
        assert!(of_all < of_each[0] && of_all < of_each[1], "{of_all} of {of_each:?}");
    }

    #[test]
    fn a_long_quiet_is_forgotten_like_anything_else() {
        let forecasts = [Some(90.0), Some(9.0), Some(0.0), None, None, None, None];
        let mut weights = Weights::default();
        weights.update(&forecasts, 50.0, 10.0, Quantile::NINE_TENTHS);
        for _ in 0..300_000 {
            weights.update(&defaults(), 0.0, 0.0, Quantile::NINE_TENTHS);
            assert!(weights.normalized(&forecasts).iter().all(|weight| weight.is_finite()), "{weights:?}");
        }
        assert_eq!(weights, Weights::default());
    }

    #[test]
    fn the_scale_of_demand_does_not_matter() {
        let forecasts = [Some(70.0), Some(95.0), Some(120.0), None, None, None, None];
        let (mut small, mut large) = (Weights::default(), Weights::default());
        let scale = 1_048_576.0;
        let scaled = forecasts.map(|forecast| forecast.map(|forecast| forecast * scale));
        for demand in random_values(5).take(500).map(|value| value * 100.0) {
            small.update(&forecasts, 100.0, demand, Quantile::NINE_TENTHS);
            large.update(&scaled, 100.0 * scale, demand * scale, Quantile::NINE_TENTHS);
        }
        for (one, other) in small.normalized(&forecasts).into_iter().zip(large.normalized(&scaled)) {
            assert!((one - other).abs() < 1e-9, "{small:?} and {large:?}");
        }
    }
}
