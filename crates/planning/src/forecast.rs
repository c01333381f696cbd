//! Demand forecasting: several forecasting methods, each with a safety margin from its past errors, combined by their
//! past loss and corrected so that the coverage holds.
//!
//! Demand is counted in bins of equal width and observed one bin at a time. The forecast for a bin is a quantile of
//! its demand rather than the mean, because missing capacity costs more than idle capacity. Nothing here depends on
//! the width of a bin or on the scale of demand, and all retained state is bounded. A forecast is scored only after
//! its bin was observed, and is always issued before.

mod backtest;
mod correction;
mod horizon;
mod method;
mod quantile;
mod score;
mod season;
mod seasonal;
mod sliding_window;
mod smoothing;
#[cfg(test)]
mod test_rng;
mod track;
mod trend;
mod weights;

pub use horizon::Horizon;
pub use method::Method;
pub use quantile::Quantile;
pub use score::{HorizonForecast, MethodForecast, Score};
pub use trend::{Trend, TrendForecast};

use method::{Model, PerMethod};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use track::HorizonTrack;

/// The number of observed bins that the first forecast requires. At the usual horizons of up to 6 bins, a margin then
/// rests on more than 20 errors, and the margin of the 0.9 quantile is no longer the largest error.
pub const HISTORY_BINS_MIN: u64 = 32;

/// The number of most recent bins that are searched for a season: 14 days of five-minute bins.
pub const HISTORY_BINS_MAX: usize = 4_032;

/// The interval between two searches for a season: at least this many bins, and at least this fraction (one
/// `SEARCH_DIVISOR`th) of the history. A search takes as long as many updates, and more frequent searches would see
/// nearly the same data.
const SEARCH_BINS_MIN: usize = 16;
const SEARCH_DIVISOR: usize = 32;

/// Forecasts demand at several horizons. The state is plain data: it can be serialized, and continues after
/// deserialization without any difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecaster {
    quantile: Quantile,
    /// The number of observed bins.
    bins: u64,
    /// The demand of the last [`HISTORY_BINS_MAX`] bins, oldest first.
    history: VecDeque<f64>,
    /// The number of bins observed since the last search for a season.
    unsearched: usize,
    season: Option<usize>,
    models: PerMethod<Model>,
    /// One track per horizon, the nearest horizon first.
    tracks: Vec<HorizonTrack>,
}

impl Forecaster {
    /// Creates a forecaster without history for the given horizons; duplicates are ignored.
    #[must_use]
    pub fn new(quantile: Quantile, horizons: &[Horizon]) -> Self {
        let mut horizons = horizons.to_vec();
        horizons.sort_unstable();
        horizons.dedup();
        Self {
            quantile,
            bins: 0,
            history: VecDeque::new(),
            unsearched: 0,
            season: None,
            models: Method::ALL.map(|method| Model::new(method, None)),
            tracks: horizons.into_iter().map(HorizonTrack::new).collect(),
        }
    }

    /// Observes the demand of the next bin. The caller supplies every bin, with 0 where nothing was counted.
    pub fn observe(&mut self, demand: u64) {
        // Above 2^53 the lowest digits are lost, which is irrelevant for a forecast.
        let demand = demand as f64;
        for track in &mut self.tracks {
            track.resolve(demand, self.quantile);
        }
        if self.history.len() == HISTORY_BINS_MAX {
            self.history.pop_front();
        }
        self.history.push_back(demand);
        self.bins = self.bins.saturating_add(1);
        for model in &mut self.models {
            model.observe(demand);
        }
        self.unsearched += 1;
        if self.unsearched >= SEARCH_BINS_MIN.max(self.history.len() / SEARCH_DIVISOR) {
            self.unsearched = 0;
            self.adopt_season(season::find(&self.history));
        }
        let enough_history = self.bins >= HISTORY_BINS_MIN;
        for track in &mut self.tracks {
            track.issue(&self.models, enough_history, self.quantile);
        }
    }

    /// Returns the capacity wanted `horizon` bins after the last observed bin: the quantile of the expected demand,
    /// in units of demand, finite and at least 0.
    ///
    /// Returns `None` while fewer than [`HISTORY_BINS_MIN`] bins were observed, while there are too few errors for a
    /// margin at this horizon and quantile, and for a horizon that was not requested in [`new`](Self::new).
    #[must_use]
    pub fn wanted(&self, horizon: Horizon) -> Option<f64> {
        self.track(horizon)?.wanted()
    }

    /// Returns the forecast of one method alone, including its margin.
    #[must_use]
    pub fn wanted_by_method(&self, method: Method, horizon: Horizon) -> Option<f64> {
        self.track(horizon)?.wanted_by_method(method)
    }

    /// Returns the score of the [`wanted`](Self::wanted) capacity over at most the last 288 bins; `None` until the
    /// first forecast can be scored.
    #[must_use]
    pub fn score(&self, horizon: Horizon) -> Option<Score> {
        self.track(horizon)?.score(self.quantile)
    }

    /// Returns the forecast of each horizon with the forecasts and weights of all methods, the nearest horizon first.
    #[must_use]
    pub fn horizon_forecasts(&self) -> Vec<HorizonForecast> {
        self.tracks.iter().map(|track| track.forecast(self.quantile)).collect()
    }

    /// Returns the quantile of demand that is forecast.
    #[must_use]
    pub const fn quantile(&self) -> Quantile {
        self.quantile
    }

    /// Returns the number of observed bins.
    #[must_use]
    pub const fn bins(&self) -> u64 {
        self.bins
    }

    /// Returns the length of the detected season in bins, if there is one.
    #[must_use]
    pub const fn season(&self) -> Option<usize> {
        self.season
    }

    fn track(&self, horizon: Horizon) -> Option<&HorizonTrack> {
        self.tracks.iter().find(|track| track.horizon() == horizon)
    }

    /// Switches to another season. The seasonal methods start anew and are trained on the whole history.
    fn adopt_season(&mut self, season: Option<usize>) {
        if season == self.season {
            return;
        }
        self.season = season;
        let horizons: Vec<Horizon> = self.tracks.iter().map(HorizonTrack::horizon).collect();
        for method in Method::ALL.into_iter().filter(|method| method.is_seasonal()) {
            let mut model = Model::new(method, season);
            let errors = backtest::backtest(&mut model, &self.history, &horizons, self.quantile);
            self.models[method.index()] = model;
            for (track, errors) in self.tracks.iter_mut().zip(errors) {
                track.replace_errors(method.index(), errors);
            }
        }
    }
}

#[cfg(test)]
mod tests;
