//! Scoring of forecasts against the observed demand.

use cortex_planning::{Forecaster, Horizon, Method, Quantile, TrendForecast};
use std::collections::VecDeque;

/// The number of most recent bins that are plotted.
const RECENT_BINS: usize = 1_000;

/// A scored forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The trend rule without a margin: a rising rate rises by another 20 %, a falling one falls by another 20 %.
    BareRule,
    /// One method with its margin.
    Method(Method),
    /// The forecast that the planner uses: all methods combined and corrected.
    Combined,
}

impl Contender {
    /// Returns all contenders in the order of the table.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::BareRule].into_iter().chain(Method::ALL.map(Self::Method)).chain([Self::Combined])
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::BareRule => "trend rule without margin".to_owned(),
            Self::Method(Method::LastValue) => "last plus margin".to_owned(),
            Self::Method(method @ Method::MovingQuantile) => method.as_str().replace('_', " "),
            Self::Method(method) => format!("{} plus margin", method.as_str().replace('_', " ")),
            Self::Combined => "ours".to_owned(),
        }
    }
}

/// The sums over the bins for which a contender had a forecast.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) bins: u64,
    pub(crate) loss: f64,
    pub(crate) covered: u64,
    pub(crate) provisioned: f64,
    pub(crate) demand: f64,
    /// The losses of the bare rule and of "last plus margin" over the same bins.
    pub(crate) rule_loss: f64,
    pub(crate) last_loss: f64,
}

/// The pending forecasts of one horizon, oldest first, and the sums of the scored ones.
pub(crate) struct HorizonScores {
    pub(crate) horizon: Horizon,
    pending: VecDeque<Vec<Option<f64>>>,
    pub(crate) sums: Vec<Sums>,
}

/// A plotted bin: its demand and its forecast at the nearest horizon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlottedBin {
    pub(crate) bin: u64,
    pub(crate) demand: f64,
    pub(crate) wanted: Option<f64>,
}

/// The evaluation of a trace up to the last observed bin.
pub(crate) struct Evaluation {
    forecaster: Forecaster,
    warm_up_bins: u64,
    previous: Option<f64>,
    pub(crate) horizons: Vec<HorizonScores>,
    recent: VecDeque<PlottedBin>,
}

impl Evaluation {
    pub(crate) fn new(horizons: [u16; 3], warm_up_bins: u32) -> Self {
        let horizons: Vec<Horizon> = horizons.into_iter().filter_map(Horizon::new).collect();
        let forecaster = Forecaster::new(Quantile::NINE_TENTHS, &horizons);
        let sums = || vec![Sums::default(); Contender::all().count()];
        let horizon_scores = |horizon| HorizonScores { horizon, pending: VecDeque::new(), sums: sums() };
        Self {
            forecaster,
            warm_up_bins: u64::from(warm_up_bins),
            previous: None,
            horizons: horizons.into_iter().map(horizon_scores).collect(),
            recent: VecDeque::new(),
        }
    }

    /// Scores the forecasts for the next bin, observes it, and issues new forecasts.
    pub(crate) fn observe(&mut self, demand: u64) {
        let (bin, demand_now) = (self.forecaster.bins(), demand as f64);
        let mut plotted = PlottedBin { bin, demand: demand_now, wanted: None };
        for (index, at) in self.horizons.iter_mut().enumerate() {
            let due = at.due();
            if index == 0 {
                plotted.wanted = due.last().copied().flatten();
            }
            if bin >= self.warm_up_bins {
                at.score(&due, demand_now);
            }
        }
        self.forecaster.observe(demand);
        let rule = TrendForecast::from_rates(self.previous.replace(demand_now), demand_now).predicted_rate_per_minute;
        for at in &mut self.horizons {
            let forecast = |contender| match contender {
                Contender::BareRule => Some(rule),
                Contender::Method(method) => self.forecaster.wanted_by_method(method, at.horizon),
                Contender::Combined => self.forecaster.wanted(at.horizon),
            };
            at.pending.push_back(Contender::all().map(forecast).collect());
        }
        if self.recent.len() == RECENT_BINS {
            self.recent.pop_front();
        }
        self.recent.push_back(plotted);
    }

    /// Returns the number of observed bins.
    pub(crate) const fn bins(&self) -> u64 {
        self.forecaster.bins()
    }

    /// Returns the present season, in bins.
    pub(crate) const fn season(&self) -> Option<usize> {
        self.forecaster.season()
    }

    /// Returns the last bins.
    pub(crate) const fn recent(&self) -> &VecDeque<PlottedBin> {
        &self.recent
    }
}

impl HorizonScores {
    /// Returns the forecasts issued one horizon ago; none at the start.
    fn due(&mut self) -> Vec<Option<f64>> {
        if self.pending.len() < usize::from(self.horizon.as_bins()) {
            return Vec::new();
        }
        self.pending.pop_front().unwrap_or_default()
    }

    fn score(&mut self, due: &[Option<f64>], demand: f64) {
        let loss = |forecast| Quantile::NINE_TENTHS.loss(forecast, demand);
        let loss_of = |wanted| {
            let mut all = Contender::all().zip(due);
            all.find(|(contender, _)| *contender == wanted).and_then(|(_, forecast)| *forecast).map_or(0.0, loss)
        };
        let (rule_loss, last_loss) = (loss_of(Contender::BareRule), loss_of(Contender::Method(Method::LastValue)));
        for (sums, forecast) in self.sums.iter_mut().zip(due) {
            let Some(forecast) = forecast else { continue };
            sums.bins += 1;
            sums.loss += loss(*forecast);
            sums.covered += u64::from(demand <= *forecast);
            sums.provisioned += forecast;
            sums.demand += demand;
            sums.rule_loss += rule_loss;
            sums.last_loss += last_loss;
        }
    }
}
