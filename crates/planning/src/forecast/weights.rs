//! How much each forecaster counts: more, the less its forecasts have cost.

use super::method::{PerMethod, all};
use super::quantile::Quantile;
use serde::{Deserialize, Serialize};

/// By how much the past fades with each bin, so that the weights follow when another forecaster becomes the best: what is 200
/// bins old counts about a third.
const MEMORY: f64 = 0.995;

/// The part of the weight that all share evenly, so that nobody ever starts from nothing (Herbster and Warmuth, "Tracking the
/// best expert", Machine Learning 32, 1998).
const SHARED: f64 = 0.01;

/// Where a sum of squares has faded to this, no number is left to go by: after months without a regret, a rate would be infinite.
const FORGOTTEN: f64 = 1e-100;

/// Bernstein online aggregation with a learning rate for each forecaster that follows from its own past (Wintenberger, "Optimal
/// learning with Bernstein online aggregation", Machine Learning 106, 2017, section 3.2), with a past that fades and a share for
/// all. The rates are in proportion to one over the losses, so that no scale of demand is better than another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Weights(PerMethod<Record>);

/// What is known of one forecaster. A regret is what the combined forecast cost over what this one did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    /// The sum of regrets, less what their spread takes off.
    regret: f64,
    /// The sum of their squares.
    squares: f64,
    /// The largest.
    largest: f64,
}

impl Record {
    fn note(&mut self, regret: f64) {
        self.largest = (MEMORY * self.largest).max(regret.abs());
        self.squares = MEMORY * self.squares + regret * regret;
        self.regret = MEMORY * self.regret + regret - self.rate().unwrap_or(0.0) * regret * regret;
        if self.squares < FORGOTTEN {
            *self = Self::default();
        }
    }

    /// How fast the weight follows the regret; nothing where there never was any.
    fn rate(&self) -> Option<f64> {
        let forecasters = all::<()>().len() as f64;
        (self.squares > 0.0).then(|| (0.5 / self.largest).min((forecasters.ln() / self.squares).sqrt()))
    }

    /// The logarithm of the weight, which the exponential of a regret might not fit into.
    fn logarithm(&self) -> Option<f64> {
        self.rate().map(|rate| rate.ln() + rate * self.regret)
    }
}

impl Weights {
    /// The weights of the forecasters that have a forecast, which sum to 1; all 0 if none has.
    pub(super) fn among(&self, forecasts: &PerMethod<Option<f64>>) -> PerMethod<f64> {
        let awake = forecasts.iter().flatten().count();
        if awake == 0 {
            return all();
        }
        // Who was never wrong otherwise than all together learns as fast as the fastest, and has no regret.
        let fastest = self.0.iter().filter_map(Record::rate).max_by(f64::total_cmp).unwrap_or(1.0).ln();
        let logarithms = self.0.map(|record| record.logarithm().unwrap_or(fastest));
        let awake_logarithms = logarithms.iter().zip(forecasts).filter(|(_, forecast)| forecast.is_some());
        let most = awake_logarithms.map(|(logarithm, _)| *logarithm).fold(f64::MIN, f64::max);
        let mut weights = logarithms.map(|logarithm| (logarithm - most).exp());
        for (weight, forecast) in weights.iter_mut().zip(forecasts) {
            if forecast.is_none() {
                *weight = 0.0;
            }
        }
        // At least 1, which is the weight of the best.
        let sum: f64 = weights.iter().sum();
        for (weight, forecast) in weights.iter_mut().zip(forecasts) {
            let share = if forecast.is_some() { SHARED / awake as f64 } else { 0.0 };
            *weight = (1.0 - SHARED) * *weight / sum + share;
        }
        weights
    }

    /// The mean of the forecasts by weight.
    pub(super) fn combine(&self, forecasts: &PerMethod<Option<f64>>) -> Option<f64> {
        let parts = forecasts.iter().zip(self.among(forecasts));
        let mean: f64 = parts.filter_map(|(forecast, weight)| forecast.map(|forecast| forecast * weight)).sum();
        let least = forecasts.iter().flatten().copied().min_by(f64::total_cmp)?;
        let most = forecasts.iter().flatten().copied().max_by(f64::total_cmp)?;
        // Where all say the same, rounding must not put the mean a hair below: that would be a bin not covered.
        Some(mean.clamp(least, most))
    }

    /// Takes in what demand became where these were the forecasts, and their combination. Who had no forecast is taken to have
    /// been as good as the combination.
    pub(super) fn learn(&mut self, forecasts: &PerMethod<Option<f64>>, combined: f64, demand: f64, quantile: Quantile) {
        let loss = quantile.loss(combined, demand);
        for (record, forecast) in self.0.iter_mut().zip(forecasts) {
            record.note(forecast.map_or(0.0, |forecast| loss - quantile.loss(forecast, demand)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draws::Draws;
    use super::*;

    /// A sequence of numbers from 0 to 1 that looks like chance.
    fn draws(seed: u64) -> impl Iterator<Item = f64> {
        let mut random = Draws::with_seed(seed);
        std::iter::repeat_with(move || random.part())
    }

    /// The total losses of all forecasters and of the combination.
    fn play(
        demands: impl Iterator<Item = f64>,
        forecasts: impl Fn(usize) -> PerMethod<Option<f64>>,
    ) -> (Vec<f64>, f64) {
        let (mut weights, quantile) = (Weights::default(), Quantile::NINE_TENTHS);
        let (mut of_each, mut of_all) = (vec![0.0; all::<()>().len()], 0.0);
        for (bin, demand) in demands.enumerate() {
            let forecasts = forecasts(bin);
            let combined = weights.combine(&forecasts).expect("somebody has a forecast");
            weights.learn(&forecasts, combined, demand, quantile);
            of_all += quantile.loss(combined, demand);
            for (sum, forecast) in of_each.iter_mut().zip(forecasts) {
                *sum += quantile.loss(forecast.unwrap_or(combined), demand);
            }
        }
        (of_each, of_all)
    }

    #[test]
    fn who_knows_nothing_counts_for_nothing() {
        let weights = Weights::default();
        let forecasts = [Some(1.0), None, Some(3.0), None, None, None, None];
        assert_eq!(weights.among(&forecasts), [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(weights.combine(&forecasts), Some(2.0));
        assert_eq!(weights.combine(&all()), None);
    }

    #[test]
    fn it_costs_hardly_more_than_the_best() {
        // Demand is even from 0 to 100, so that 90 is the right forecast.
        for best in 0..all::<()>().len() {
            let mut forecasts = [Some(20.0), Some(40.0), Some(60.0), Some(75.0), Some(140.0), Some(200.0), Some(300.0)];
            forecasts[best] = Some(90.0);
            let (of_each, of_all) = play(draws(best as u64).take(2_000).map(|draw| draw * 100.0), |_| forecasts);
            let least = of_each.iter().copied().fold(f64::MAX, f64::min);
            assert!(of_all <= 1.05 * least, "{of_all} where the best of {of_each:?} was no. {best}");
        }
    }

    #[test]
    fn it_follows_when_another_becomes_the_best() {
        let scale = |bin| if bin < 2_000 { 100.0 } else { 10.0 };
        let demands: Vec<f64> = draws(1).take(4_000).enumerate().map(|(bin, draw)| draw * scale(bin)).collect();
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
        weights.learn(&forecasts, 50.0, 10.0, Quantile::NINE_TENTHS);
        for _ in 0..300_000 {
            weights.learn(&all(), 0.0, 0.0, Quantile::NINE_TENTHS);
            assert!(weights.among(&forecasts).iter().all(|weight| weight.is_finite()), "{weights:?}");
        }
        assert_eq!(weights, Weights::default());
    }

    #[test]
    fn the_scale_of_demand_is_all_one() {
        let forecasts = [Some(70.0), Some(95.0), Some(120.0), None, None, None, None];
        let (mut small, mut large) = (Weights::default(), Weights::default());
        let scale = 1_048_576.0;
        let scaled = forecasts.map(|forecast| forecast.map(|forecast| forecast * scale));
        for demand in draws(5).take(500).map(|draw| draw * 100.0) {
            small.learn(&forecasts, 100.0, demand, Quantile::NINE_TENTHS);
            large.learn(&scaled, 100.0 * scale, demand * scale, Quantile::NINE_TENTHS);
        }
        for (one, other) in small.among(&forecasts).into_iter().zip(large.among(&scaled)) {
            assert!((one - other).abs() < 1e-9, "{small:?} and {large:?}");
        }
    }
}
