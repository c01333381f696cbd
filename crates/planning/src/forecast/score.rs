//! How good forecasts were.

use super::horizon::Horizon;
use super::method::Method;
use super::quantile::Quantile;
use serde::{Deserialize, Serialize};

/// How forecasts did over the last bins, up to [`SCORED_BINS_MAX`](super::SCORED_BINS_MAX).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// How many forecasts this is about; at least 1.
    pub bins: usize,
    /// Their mean pinball loss, in units of demand.
    pub pinball_loss: f64,
    /// The part of bins in which demand was not above the forecast, from 0 to 1.
    pub coverage: f64,
    /// What was forecast in all, divided by demand in all; nothing where there was no demand.
    pub provisioned_over_mean: Option<f64>,
}

impl Score {
    /// The score of these forecasts, each with what demand became; nothing if there are none.
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

/// What one forecaster says, and how it has done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MethodForecast {
    /// Which.
    pub method: Method,
    /// What it wants, margin included, in units of demand; nothing while it knows too little, or if it needs a season where
    /// none was found.
    pub wanted: Option<f64>,
    /// How much it counts, from 0 to 1.
    pub weight: f64,
    /// How it did; nothing while no forecast of it has come due.
    pub score: Option<Score>,
}

/// What is wanted one horizon ahead, with what led to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HorizonForecast {
    /// How many bins ahead.
    pub horizon: Horizon,
    /// The capacity wanted then: the quantile of demand in that bin. Nothing while there is too little history.
    pub wanted: Option<f64>,
    /// How such forecasts did; nothing while none has come due. Its coverage is how far they can be trusted.
    pub score: Option<Score>,
    /// All forecasters, in the order of [`Method::ALL`].
    pub methods: Vec<MethodForecast>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_what_it_says() {
        let score = |forecasts: &[(f64, f64)]| Score::of(forecasts.iter().copied(), Quantile::NINE_TENTHS);
        assert_eq!(score(&[]), None);
        let three = score(&[(10.0, 10.0), (10.0, 20.0), (40.0, 10.0)]).expect("three forecasts");
        assert_eq!(three.bins, 3);
        assert!((three.pinball_loss - 4.0).abs() < 1e-12, "nothing, 9 and 3");
        assert!((three.coverage - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(three.provisioned_over_mean, Some(1.5));
        let idle = score(&[(1.0, 0.0)]).expect("a forecast");
        assert_eq!(idle.provisioned_over_mean, None, "there was nothing to provide for");
    }
}
