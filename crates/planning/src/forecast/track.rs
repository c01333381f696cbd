//! One horizon: the forecasts that were made for it, what became of them, and what follows from that.

use super::correction::Correction;
use super::horizon::Horizon;
use super::method::{Method, Model, PerMethod, all};
use super::quantile::Quantile;
use super::score::{HorizonForecast, MethodForecast, Score};
use super::weights::Weights;
use super::window::Window;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Of how many of its last errors a forecaster's margin is taken: enough for a 0.99 quantile, and a day of bins of five minutes,
/// so that a margin is neither that of the busy hours alone nor that of the quiet ones.
pub(super) const ERRORS_MAX: usize = 300;

/// Over how many of the last bins forecasts are scored: a day of bins of five minutes.
pub const SCORED_BINS_MAX: usize = 288;

/// What was said at one bin about the bin one horizon later.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Issued {
    /// What each forecaster expected.
    points: PerMethod<Option<f64>>,
    /// The same with its margin.
    uppers: PerMethod<Option<f64>>,
    /// The combination.
    combined: Option<f64>,
    /// The combination, corrected.
    wanted: Option<f64>,
}

/// What was said about one bin, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Settled {
    demand: f64,
    uppers: PerMethod<Option<f64>>,
    wanted: Option<f64>,
}

/// One horizon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Track {
    horizon: Horizon,
    /// The last errors of each forecaster: demand less what it expected.
    errors: PerMethod<Window>,
    weights: Weights,
    correction: Correction,
    /// What has not come due, oldest first: as many as the horizon has bins.
    issued: VecDeque<Issued>,
    settled: VecDeque<Settled>,
}

impl Track {
    pub(super) fn new(horizon: Horizon) -> Self {
        Self {
            horizon,
            errors: std::array::from_fn(|_| Window::new(ERRORS_MAX)),
            weights: Weights::default(),
            correction: Correction::new(),
            issued: VecDeque::new(),
            settled: VecDeque::new(),
        }
    }

    pub(super) const fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// Learns from the demand of a bin by what was said about it one horizon ago, and only by that.
    pub(super) fn settle(&mut self, demand: f64, quantile: Quantile) {
        if self.issued.len() < self.horizon.bins() {
            return;
        }
        let Some(Issued { points, uppers, combined, wanted }) = self.issued.pop_front() else { return };
        for (errors, point) in self.errors.iter_mut().zip(points) {
            if let Some(point) = point {
                errors.push(demand - point);
            }
        }
        if let (Some(combined), Some(wanted)) = (combined, wanted) {
            self.weights.learn(&uppers, combined, demand, quantile);
            self.correction.learn(combined, wanted, demand, quantile);
        }
        if self.settled.len() == SCORED_BINS_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(Settled { demand, uppers, wanted });
    }

    /// Says what is wanted one horizon ahead; nothing, while there is too little history, but what each forecaster expects.
    pub(super) fn issue(&mut self, models: &PerMethod<Model>, enough_history: bool, quantile: Quantile) {
        let points = std::array::from_fn(|place| models[place].point(self.horizon, quantile));
        let uppers = std::array::from_fn(|place| {
            let margin = if Method::ALL[place].is_quantile() {
                Some(0.0)
            } else {
                self.errors[place].quantile(quantile.as_part())
            };
            points[place].zip(margin).map(|(point, margin): (f64, f64)| (point + margin).max(0.0))
        });
        let combined = self.weights.combine(&uppers).filter(|_| enough_history);
        let wanted = combined.map(|combined| self.correction.correct(combined));
        self.issued.push_back(Issued { points, uppers, combined, wanted });
    }

    /// Takes these for the last errors of a forecaster that begins anew.
    pub(super) fn replace_errors(&mut self, place: usize, errors: Window) {
        self.errors[place] = errors;
    }

    /// What is wanted one horizon after the last bin.
    pub(super) fn wanted(&self) -> Option<f64> {
        self.issued.back()?.wanted
    }

    /// What one forecaster wants then.
    pub(super) fn wanted_by(&self, method: Method) -> Option<f64> {
        self.issued.back()?.uppers[method.place()]
    }

    pub(super) fn score(&self, quantile: Quantile) -> Option<Score> {
        Score::of(self.settled.iter().filter_map(|one| Some((one.wanted?, one.demand))), quantile)
    }

    pub(super) fn demand_forecast(&self, quantile: Quantile) -> HorizonForecast {
        let uppers = self.issued.back().map_or_else(all, |issued| issued.uppers);
        let weights = self.weights.among(&uppers);
        let of_method = |method: Method| {
            let place = method.place();
            let due = self.settled.iter().filter_map(|one| Some((one.uppers[place]?, one.demand)));
            MethodForecast { method, wanted: uppers[place], weight: weights[place], score: Score::of(due, quantile) }
        };
        HorizonForecast {
            horizon: self.horizon,
            wanted: self.wanted(),
            score: self.score(quantile),
            methods: Method::ALL.map(of_method).into(),
        }
    }
}
