//! The quantile of demand to forecast, and the loss of a forecast.

use serde::{Deserialize, Serialize};

/// The fraction of bins in which demand should not exceed the forecast.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Quantile(f64);

impl Quantile {
    /// The lowest quantile: enough in one of two bins.
    pub const MIN: f64 = 0.5;

    /// The highest quantile. Its margin requires at least 99 errors, and at most 300 are kept.
    pub const MAX: f64 = 0.99;

    /// The 0.9 quantile: enough in nine of ten bins.
    pub const NINE_TENTHS: Self = Self(0.9);

    /// Creates a quantile from [`MIN`](Self::MIN) to [`MAX`](Self::MAX); returns `None` for any other number.
    #[must_use]
    pub fn new(fraction: f64) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&fraction).then_some(Self(fraction))
    }

    /// Returns the fraction, from 0.5 to 0.99.
    #[must_use]
    pub const fn as_fraction(self) -> f64 {
        self.0
    }

    /// Returns the pinball loss of a forecast, in units of demand: missing capacity is weighted by the quantile,
    /// excess capacity by one minus the quantile. The mean loss is minimal for the true quantile (Koenker and
    /// Bassett, "Regression quantiles", Econometrica 46, 1978).
    #[must_use]
    pub fn loss(self, forecast: f64, demand: f64) -> f64 {
        if demand > forecast { self.0 * (demand - forecast) } else { (1.0 - self.0) * (forecast - demand) }
    }
}

impl TryFrom<f64> for Quantile {
    type Error = String;

    fn try_from(fraction: f64) -> Result<Self, Self::Error> {
        Self::new(fraction).ok_or_else(|| format!("quantile is {fraction}: give {} to {}", Self::MIN, Self::MAX))
    }
}

impl From<Quantile> for f64 {
    fn from(quantile: Quantile) -> Self {
        quantile.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_costs_nine_times_what_is_too_much() {
        let check = |forecast, demand, expected: f64| {
            let loss = Quantile::NINE_TENTHS.loss(forecast, demand);
            assert!((loss - expected).abs() < 1e-12, "{forecast} for {demand} costs {loss}");
        };
        check(10.0, 10.0, 0.0);
        check(10.0, 20.0, 9.0);
        check(20.0, 10.0, 1.0);
        check(0.0, 1.0, 0.9);
    }

    #[test]
    fn only_upper_quantiles_are_taken() {
        let check = |fraction, is_valid| assert_eq!(Quantile::new(fraction).is_some(), is_valid, "{fraction}");
        check(0.5, true);
        check(0.9, true);
        check(0.99, true);
        check(0.49, false);
        check(0.991, false);
        check(f64::NAN, false);
        let read = serde_json::from_str::<Quantile>("2.0").expect_err("over the highest").to_string();
        assert!(read.contains("quantile is 2: give 0.5 to 0.99"), "{read}");
    }
}
