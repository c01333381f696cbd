//! What demand to expect: forecasters that compete, each with the margin that its past errors ask for, combined by what they
//! have cost, and corrected until the coverage is right.
//!
//! Demand is counted in bins of one width, and observed one bin at a time. What is wanted for a bin ahead is a quantile of the
//! demand in it and not its mean, since what is missing costs more than what is idle. Nothing here depends on the width of a bin
//! or on the scale of demand, and everything kept has a bound. A forecast is held against a bin only once that bin was observed,
//! and forecasts for the bin are made before.

mod correction;
#[cfg(test)]
mod draws;
mod horizon;
mod method;
mod quantile;
mod rehearsal;
mod score;
mod season;
mod seasonal;
mod smoothing;
mod track;
mod trend;
mod weights;
mod window;

pub use horizon::Horizon;
pub use method::Method;
pub use quantile::Quantile;
pub use score::{HorizonForecast, MethodForecast, Score};
pub use track::SCORED_BINS_MAX;
pub use trend::{Forecast, TREND_CHANGE_MIN, Trend};

use method::{Model, PerMethod};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use track::Track;

/// How many bins must have been observed before anything is said to be wanted: at the usual horizons of up to 6 bins, margins are
/// then taken of over 20 errors, and that of the 0.9 quantile is no longer the largest of them.
pub const HISTORY_BINS_MIN: u64 = 32;

/// How many of the last bins a season is looked for in: 14 days of bins of five minutes.
pub const HISTORY_BINS_MAX: usize = 4_032;

/// After how many bins a season is looked for again at the least, and after which part of the history: a search takes as long
/// as many updates, and what it looks at has hardly changed before.
const SEARCH_BINS_MIN: usize = 16;
const SEARCH_PART: usize = 32;

/// Forecasts demand, and remembers all it takes to go on. Plain data: it may be written, and read again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecaster {
    quantile: Quantile,
    /// How many bins were observed.
    bins: u64,
    /// The last of them, oldest first.
    history: VecDeque<f64>,
    /// How many bins came since a season was last looked for.
    unsearched: usize,
    season: Option<usize>,
    models: PerMethod<Model>,
    /// One for each horizon, the nearest first.
    tracks: Vec<Track>,
}

impl Forecaster {
    /// One that has observed nothing, for these horizons. The same one twice counts once.
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
            tracks: horizons.into_iter().map(Track::new).collect(),
        }
    }

    /// Takes in the demand of the next bin. A bin that nobody counted is the caller's to fill, with 0 if there was none.
    pub fn observe(&mut self, demand: u64) {
        // Above 2^53 the last digits are lost, which no forecast would notice.
        let demand = demand as f64;
        for track in &mut self.tracks {
            track.settle(demand, self.quantile);
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
        if self.unsearched >= SEARCH_BINS_MIN.max(self.history.len() / SEARCH_PART) {
            self.unsearched = 0;
            self.adopt(season::find(&self.history));
        }
        let enough_history = self.bins >= HISTORY_BINS_MIN;
        for track in &mut self.tracks {
            track.issue(&self.models, enough_history, self.quantile);
        }
    }

    /// The capacity wanted so far ahead of the last bin: the quantile of the demand to expect, in its units, finite and not below
    /// 0. Nothing while fewer than [`HISTORY_BINS_MIN`] bins were observed, or too few to know a margin for this horizon and
    /// quantile; nor for a horizon that was not asked for.
    #[must_use]
    pub fn wanted(&self, horizon: Horizon) -> Option<f64> {
        self.track(horizon)?.wanted()
    }

    /// What one forecaster alone wants then, margin included.
    #[must_use]
    pub fn wanted_by(&self, method: Method, horizon: Horizon) -> Option<f64> {
        self.track(horizon)?.wanted_by(method)
    }

    /// How what was [`wanted`](Self::wanted) did over the last [`SCORED_BINS_MAX`] bins; nothing while none of it has come due.
    #[must_use]
    pub fn score(&self, horizon: Horizon) -> Option<Score> {
        self.track(horizon)?.score(self.quantile)
    }

    /// What is wanted at each horizon, the nearest first, and what led to it.
    #[must_use]
    pub fn horizon_forecasts(&self) -> Vec<HorizonForecast> {
        self.tracks.iter().map(|track| track.demand_forecast(self.quantile)).collect()
    }

    /// The quantile that is wanted.
    #[must_use]
    pub const fn quantile(&self) -> Quantile {
        self.quantile
    }

    /// How many bins were observed.
    #[must_use]
    pub const fn bins(&self) -> u64 {
        self.bins
    }

    /// After how many bins demand repeats itself, if it does.
    #[must_use]
    pub const fn season(&self) -> Option<usize> {
        self.season
    }

    fn track(&self, horizon: Horizon) -> Option<&Track> {
        self.tracks.iter().find(|track| track.horizon() == horizon)
    }

    /// Goes by another season from now on. Who needs one begins anew, and is shown all of history.
    fn adopt(&mut self, season: Option<usize>) {
        if season == self.season {
            return;
        }
        self.season = season;
        let horizons: Vec<Horizon> = self.tracks.iter().map(Track::horizon).collect();
        for method in Method::ALL.into_iter().filter(|method| method.is_seasonal()) {
            let mut model = Model::new(method, season);
            let errors = rehearsal::rehearse(&mut model, &self.history, &horizons, self.quantile);
            self.models[method.place()] = model;
            for (track, errors) in self.tracks.iter_mut().zip(errors) {
                track.replace_errors(method.place(), errors);
            }
        }
    }
}

#[cfg(test)]
mod tests;
