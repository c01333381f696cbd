//! Holding forecasts against what came.

use cortex_planning::{Forecaster, Horizon, Method, Quantile, TrendForecast};
use std::collections::VecDeque;

/// How many of the last bins are kept to be drawn.
const RECENT_BINS: usize = 1_000;

/// Who is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The rule of the trend as it is: a rate that grows goes on to grow by 20 %, without a margin.
    BareRule,
    /// One forecaster with its margin.
    Method(Method),
    /// What the planner goes by: all of them combined and corrected.
    Combined,
}

impl Contender {
    /// All, in the order of the table.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::BareRule].into_iter().chain(Method::ALL.map(Self::Method)).chain([Self::Combined])
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::BareRule => "the trend's rule, bare".to_owned(),
            Self::Method(Method::LastValue) => "last plus margin".to_owned(),
            Self::Method(method @ Method::MovingQuantile) => method.as_str().replace('_', " "),
            Self::Method(method) => format!("{} plus margin", method.as_str().replace('_', " ")),
            Self::Combined => "ours".to_owned(),
        }
    }
}

/// What one contender's forecasts add up to, over the bins it had one for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) bins: u64,
    pub(crate) loss: f64,
    pub(crate) covered: u64,
    pub(crate) provisioned: f64,
    pub(crate) demand: f64,
    /// What the bare rule and "last plus margin" cost over the same bins.
    pub(crate) rule_loss: f64,
    pub(crate) last_loss: f64,
}

/// One horizon: what was said and has not come due, oldest first, and the sums of what has.
pub(crate) struct AtHorizon {
    pub(crate) horizon: Horizon,
    said: VecDeque<Vec<Option<f64>>>,
    pub(crate) sums: Vec<Sums>,
}

/// A bin as it is drawn: its demand, and what was wanted for it at the nearest horizon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    pub(crate) bin: u64,
    pub(crate) demand: f64,
    pub(crate) wanted: Option<f64>,
}

/// The evaluation of a trace as far as it was replayed.
pub(crate) struct Evaluation {
    forecaster: Forecaster,
    warm_up_bins: u64,
    previous: Option<f64>,
    pub(crate) horizons: Vec<AtHorizon>,
    recent: VecDeque<Drawn>,
}

impl Evaluation {
    pub(crate) fn new(horizons: [u16; 3], warm_up_bins: u32) -> Self {
        let horizons: Vec<Horizon> = horizons.into_iter().filter_map(Horizon::new).collect();
        let forecaster = Forecaster::new(Quantile::NINE_TENTHS, &horizons);
        let sums = || vec![Sums::default(); Contender::all().count()];
        let at_horizon = |horizon| AtHorizon { horizon, said: VecDeque::new(), sums: sums() };
        Self {
            forecaster,
            warm_up_bins: u64::from(warm_up_bins),
            previous: None,
            horizons: horizons.into_iter().map(at_horizon).collect(),
            recent: VecDeque::new(),
        }
    }

    /// Scores what was said about the next bin, shows it to the forecasters, and asks what they say now.
    pub(crate) fn observe(&mut self, demand: u64) {
        let (bin, demand_now) = (self.forecaster.bins(), demand as f64);
        let mut drawn = Drawn { bin, demand: demand_now, wanted: None };
        for (place, at) in self.horizons.iter_mut().enumerate() {
            let said = at.due();
            if place == 0 {
                drawn.wanted = said.last().copied().flatten();
            }
            if bin >= self.warm_up_bins {
                at.score(&said, demand_now);
            }
        }
        self.forecaster.observe(demand);
        let rule = TrendForecast::from_rates(self.previous.replace(demand_now), demand_now).predicted_rate_per_minute;
        for at in &mut self.horizons {
            let say = |contender| match contender {
                Contender::BareRule => Some(rule),
                Contender::Method(method) => self.forecaster.wanted_by_method(method, at.horizon),
                Contender::Combined => self.forecaster.wanted(at.horizon),
            };
            at.said.push_back(Contender::all().map(say).collect());
        }
        if self.recent.len() == RECENT_BINS {
            self.recent.pop_front();
        }
        self.recent.push_back(drawn);
    }

    /// How many bins were replayed.
    pub(crate) const fn bins(&self) -> u64 {
        self.forecaster.bins()
    }

    /// The season in the end, in bins.
    pub(crate) const fn season(&self) -> Option<usize> {
        self.forecaster.season()
    }

    /// The last bins.
    pub(crate) const fn recent(&self) -> &VecDeque<Drawn> {
        &self.recent
    }
}

impl AtHorizon {
    /// What was said one horizon ago; nothing at the start.
    fn due(&mut self) -> Vec<Option<f64>> {
        if self.said.len() < usize::from(self.horizon.as_bins()) {
            return Vec::new();
        }
        self.said.pop_front().unwrap_or_default()
    }

    fn score(&mut self, said: &[Option<f64>], demand: f64) {
        let loss = |forecast| Quantile::NINE_TENTHS.loss(forecast, demand);
        let loss_of = |wanted| {
            let mut all = Contender::all().zip(said);
            all.find(|(contender, _)| *contender == wanted).and_then(|(_, said)| *said).map_or(0.0, loss)
        };
        let (rule_loss, last_loss) = (loss_of(Contender::BareRule), loss_of(Contender::Method(Method::LastValue)));
        for (sums, said) in self.sums.iter_mut().zip(said) {
            let Some(forecast) = said else { continue };
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
