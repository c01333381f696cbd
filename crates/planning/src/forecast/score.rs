//! Scores of past forecasts, and the forecasts of one horizon.

use super::horizon::Horizon;
use super::method::Method;
use super::quantile::Quantile;
use serde::{Deserialize, Serialize};

/// The score of the forecasts of at most the last 288 bins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The number of scored forecasts; at least 1.
    pub bins: usize,
    /// The mean pinball loss, in units of demand.
    pub pinball_loss: f64,
    /// The fraction of bins in which demand did not exceed the forecast, from 0 to 1.
    pub coverage: f64,
    /// The sum of the forecasts divided by the sum of the demand; `None` if there was no demand.
    pub provisioned_over_mean: Option<f64>,
}

impl Score {
    /// Scores pairs of a forecast and the observed demand; returns `None` if there are none.
    pub(super) fn of(forecasts: impl Iterator<Item = (f64, f64)>, quantile: Quantile) -> Option<Self> {
        let (mut bins, mut covered) = (0_usize, 0_usize);
        let (mut loss, mut provisioned, mut demanded) = (0.0, 0.0, 0.0);
        for (forecast, demand) in forecasts {
            bins += 1;
            covered += usize::from(demand <= forecast);
            loss += quantile.loss(forecast, demand);
            provisioned += forecast;
            demanded += demand;
        }
        (bins > 0).then(|| Self {
            bins,
            pinball_loss: loss / bins as f64,
            coverage: covered as f64 / bins as f64,
            provisioned_over_mean: (demanded > 0.0).then(|| provisioned / demanded),
        })
    }
}

/// The forecast of one method at one horizon, with its past score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MethodForecast {
    pub method: Method,
    /// The forecast including the margin, in units of demand; `None` while there are too few observations, or for a
    /// seasonal method without a season.
    pub wanted: Option<f64>,
    /// The weight in the combined forecast, from 0 to 1.
    pub weight: f64,
    /// The score of past forecasts; `None` until the first can be scored.
    pub score: Option<Score>,
}

/// The combined forecast at one horizon and the forecasts it is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HorizonForecast {
    pub horizon: Horizon,
    /// The quantile of demand in that bin, in units of demand; `None` while there is too little history.
    pub wanted: Option<f64>,
    /// The score of past combined forecasts; `None` until the first can be scored. The coverage tells how far to
    /// trust the forecast.
    pub score: Option<Score>,
    /// All methods, in the order of [`Method::ALL`].
    pub methods: Vec<MethodForecast>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_summarizes_its_forecasts() {
        let score = |forecasts: &[(f64, f64)]| Score::of(forecasts.iter().copied(), Quantile::NINE_TENTHS);
        assert_eq!(score(&[]), None);
        let three = score(&[(10.0, 10.0), (10.0, 20.0), (40.0, 10.0)]).expect("three forecasts");
        assert_eq!(three.bins, 3);
        assert!((three.pinball_loss - 4.0).abs() < 1e-12, "nothing, 9 and 3");
        assert!((three.coverage - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(three.provisioned_over_mean, Some(1.5));
        let idle = score(&[(1.0, 0.0)]).expect("a forecast");
        assert_eq!(idle.provisioned_over_mean, None, "there was no demand");
    }
}
