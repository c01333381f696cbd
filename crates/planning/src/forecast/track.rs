//! The forecasts of one horizon: pending and scored forecasts, and the state learned from them.

use super::correction::Correction;
use super::horizon::Horizon;
use super::method::{Method, Model, PerMethod, defaults};
use super::quantile::Quantile;
use super::score::{HorizonForecast, MethodForecast, Score};
use super::sliding_window::SlidingWindow;
use super::weights::Weights;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The number of most recent errors from which the margin of a method is computed: enough for the 0.99 quantile, and
/// about a day of five-minute bins, so that a margin reflects neither the busy nor the quiet hours alone.
pub(super) const ERRORS_MAX: usize = 300;

/// The number of most recent bins that are scored: a day of five-minute bins.
pub(super) const SCORED_BINS_MAX: usize = 288;

/// The forecasts issued at one bin for the bin one horizon later.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct IssuedForecasts {
    /// The point forecast of each method.
    points: PerMethod<Option<f64>>,
    /// The point forecasts plus their margins.
    uppers: PerMethod<Option<f64>>,
    /// The weighted combination.
    combined: Option<f64>,
    /// The corrected combination.
    wanted: Option<f64>,
}

/// The forecasts for one bin with its observed demand.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct ScoredForecasts {
    demand: f64,
    uppers: PerMethod<Option<f64>>,
    wanted: Option<f64>,
}

/// The forecasting state of one horizon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HorizonTrack {
    horizon: Horizon,
    /// The most recent errors of each method: demand minus the point forecast.
    errors: PerMethod<SlidingWindow>,
    weights: Weights,
    correction: Correction,
    /// The pending forecasts, oldest first: as many as the horizon has bins.
    issued: VecDeque<IssuedForecasts>,
    settled: VecDeque<ScoredForecasts>,
}

impl HorizonTrack {
    pub(super) fn new(horizon: Horizon) -> Self {
        Self {
            horizon,
            errors: std::array::from_fn(|_| SlidingWindow::new(ERRORS_MAX)),
            weights: Weights::default(),
            correction: Correction::new(),
            issued: VecDeque::new(),
            settled: VecDeque::new(),
        }
    }

    pub(super) const fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// Learns from the demand of a bin, using only the forecasts issued for it one horizon ago.
    pub(super) fn resolve(&mut self, demand: f64, quantile: Quantile) {
        if self.issued.len() < self.horizon.bins() {
            return;
        }
        let Some(IssuedForecasts { points, uppers, combined, wanted }) = self.issued.pop_front() else { return };
        for (errors, point) in self.errors.iter_mut().zip(points) {
            if let Some(point) = point {
                errors.push(demand - point);
            }
        }
        if let (Some(combined), Some(wanted)) = (combined, wanted) {
            self.weights.update(&uppers, combined, demand, quantile);
            self.correction.update(combined, wanted, demand, quantile);
        }
        if self.settled.len() == SCORED_BINS_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(ScoredForecasts { demand, uppers, wanted });
    }

    /// Issues the forecasts for the bin one horizon ahead. Without enough history only the forecasts of the single
    /// methods are issued.
    pub(super) fn issue(&mut self, models: &PerMethod<Model>, enough_history: bool, quantile: Quantile) {
        let points = std::array::from_fn(|index| models[index].point(self.horizon, quantile));
        let uppers = std::array::from_fn(|index| {
            let margin = if Method::ALL[index].is_quantile() {
                Some(0.0)
            } else {
                self.errors[index].quantile(quantile.as_fraction())
            };
            points[index].zip(margin).map(|(point, margin): (f64, f64)| (point + margin).max(0.0))
        });
        let combined = self.weights.combine(&uppers).filter(|_| enough_history);
        let wanted = combined.map(|combined| self.correction.correct(combined));
        self.issued.push_back(IssuedForecasts { points, uppers, combined, wanted });
    }

    /// Replaces the errors of a method that was trained anew.
    pub(super) fn replace_errors(&mut self, index: usize, errors: SlidingWindow) {
        self.errors[index] = errors;
    }

    /// Returns the corrected forecast one horizon after the last bin.
    pub(super) fn wanted(&self) -> Option<f64> {
        self.issued.back()?.wanted
    }

    /// Returns the forecast of one method, including its margin.
    pub(super) fn wanted_by_method(&self, method: Method) -> Option<f64> {
        self.issued.back()?.uppers[method.index()]
    }

    pub(super) fn score(&self, quantile: Quantile) -> Option<Score> {
        Score::of(self.settled.iter().filter_map(|one| Some((one.wanted?, one.demand))), quantile)
    }

    pub(super) fn forecast(&self, quantile: Quantile) -> HorizonForecast {
        let uppers = self.issued.back().map_or_else(defaults, |issued| issued.uppers);
        let weights = self.weights.normalized(&uppers);
        let of_method = |method: Method| {
            let index = method.index();
            let scored = self.settled.iter().filter_map(|one| Some((one.uppers[index]?, one.demand)));
            MethodForecast { method, wanted: uppers[index], weight: weights[index], score: Score::of(scored, quantile) }
        };
        HorizonForecast {
            horizon: self.horizon,
            wanted: self.wanted(),
            score: self.score(quantile),
            methods: Method::ALL.map(of_method).into(),
        }
    }
}
