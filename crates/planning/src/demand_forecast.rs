//! The demand forecast, from the demand bins of the cluster state.

use super::forecast::{Forecaster, HISTORY_BINS_MAX, HISTORY_BINS_MIN, Horizon, Quantile};
use cortex_core::demand::{DEMAND_BIN, DemandBin};
use cortex_core::time::Timestamp;
use std::collections::VecDeque;
use thiserror::Error;

/// The forecast horizons in five-minute bins: the bin in progress, the next one, and a quarter and half an hour
/// ahead.
const HORIZONS: [Horizon; 4] = [horizon(1), horizon(2), horizon(3), horizon(6)];

/// The horizons that capacity is planned for: new capacity is available at the end of the bin in progress, or in the
/// next one.
const PLANNED_HORIZONS: [Horizon; 2] = [horizon(1), horizon(2)];

/// The number of most recent bins that measure burstiness: those of an hour, in which the rate itself hardly changes.
const BURST_BINS: usize = 12;

/// The number of scored forecasts that a confidence requires: those of an hour.
const SCORED_BINS_MIN: usize = 12;

/// The coverage from which forecasts are trusted: the confidence threshold of the Resource Allocation Module.
pub const CONFIDENCE_MIN: f64 = 0.7;

const fn horizon(bins: u16) -> Horizon {
    match Horizon::new(bins) {
        Some(horizon) => horizon,
        None => panic!("a horizon is 1 to 288 bins"),
    }
}

/// Returns whether this coverage is high enough to use a forecast.
pub(super) fn is_confident(confidence: f64) -> bool {
    confidence >= CONFIDENCE_MIN
}

/// A series of demand that is forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemandSeries {
    /// Requests for resources, granted or refused.
    Requests,
    /// Submitted tasks.
    TaskSubmissions,
    /// The maximum number of workers needed concurrently.
    Workers,
}

impl DemandSeries {
    /// All series, in wire order.
    pub const ALL: [Self; 3] = [Self::Requests, Self::TaskSubmissions, Self::Workers];

    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::TaskSubmissions => "task_submissions",
            Self::Workers => "workers",
        }
    }

    const fn of(self, bin: &DemandBin) -> u64 {
        match self {
            Self::Requests => bin.requests,
            Self::TaskSubmissions => bin.task_submissions,
            Self::Workers => bin.workers_max,
        }
    }
}

/// The demand expected by the time new capacity is available.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedDemand {
    /// The quantile of the demand in a bin, in units of demand.
    pub wanted: f64,
    /// The fraction of past bins in which demand did not exceed its forecast, from 0 to 1.
    pub confidence: f64,
}

impl ExpectedDemand {
    /// Returns whether plans use this forecast.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        is_confident(self.confidence)
    }
}

/// Why the demand cannot be forecast yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoForecast {
    #[error("{seen} of {HISTORY_BINS_MIN} bins of {} s were seen", DEMAND_BIN.as_seconds())]
    TooFewBins { seen: u64 },
    #[error("fewer than {SCORED_BINS_MIN} forecasts can be compared with observed demand")]
    TooFewScores,
}

/// Forecasts each series of demand from its bins.
#[derive(Clone, Debug)]
pub struct DemandForecast {
    /// In the order of [`DemandSeries::ALL`].
    forecasters: [Forecaster; 3],
    /// The start of the next bin; `None` before the first bin.
    next_bin_at: Option<Timestamp>,
    /// The submissions of the last [`BURST_BINS`] bins, oldest first.
    submissions: VecDeque<u64>,
}

impl Default for DemandForecast {
    fn default() -> Self {
        let forecasters = [(); 3].map(|()| Forecaster::new(Quantile::NINE_TENTHS, &HORIZONS));
        Self { forecasters, next_bin_at: None, submissions: VecDeque::with_capacity(BURST_BINS) }
    }
}

impl DemandForecast {
    /// Returns the start of the last observed bin; `None` before the first bin. The caller supplies the bins after
    /// it.
    #[must_use]
    pub fn last_bin_start(&self) -> Option<Timestamp> {
        self.next_bin_at.map(|next| next.before(DEMAND_BIN))
    }

    /// Observes the next bins that have ended by `now`. Missing bins between them count as bins without demand.
    pub fn ingest(&mut self, bins: &[DemandBin], now: Timestamp) {
        for bin in bins.iter().filter(|bin| bin.end() <= now) {
            self.fill_gap(bin.from);
            if self.next_bin_at.is_none_or(|next| next <= bin.from) {
                self.observe(bin);
            }
        }
    }

    /// Observes bins without demand up to the bin that contains `now`. Call it once all recorded bins were ingested.
    pub fn catch_up(&mut self, now: Timestamp) {
        if self.next_bin_at.is_some() {
            self.fill_gap(DemandBin::start_of(now));
        }
    }

    fn fill_gap(&mut self, until: Timestamp) {
        let Some(next) = self.next_bin_at else { return };
        // After a pause longer than the retained history, nothing of the history would remain.
        if until.since(next).0 / DEMAND_BIN.0 > HISTORY_BINS_MAX as u64 {
            *self = Self::default();
            return;
        }
        let mut from = next;
        while from < until {
            self.observe(&DemandBin::empty(from));
            from = from.after(DEMAND_BIN);
        }
    }

    fn observe(&mut self, bin: &DemandBin) {
        for (series, forecaster) in DemandSeries::ALL.into_iter().zip(&mut self.forecasters) {
            forecaster.observe(series.of(bin));
        }
        if self.submissions.len() == BURST_BINS {
            self.submissions.pop_front();
        }
        self.submissions.push_back(bin.task_submissions);
        self.next_bin_at = Some(bin.end());
    }

    /// Returns the forecaster of a series.
    #[must_use]
    pub const fn forecaster(&self, series: DemandSeries) -> &Forecaster {
        &self.forecasters[series as usize]
    }

    /// Returns the submissions of the last hour, bin by bin.
    pub(super) fn last_submissions(&self) -> impl Iterator<Item = u64> {
        self.submissions.iter().copied()
    }

    /// Returns the demand expected by the time new capacity is available.
    ///
    /// # Errors
    /// [`NoForecast`] while there is too little history.
    pub fn expected(&self, series: DemandSeries) -> Result<ExpectedDemand, NoForecast> {
        let forecaster = self.forecaster(series);
        let seen = forecaster.bins();
        if seen < HISTORY_BINS_MIN {
            return Err(NoForecast::TooFewBins { seen });
        }
        let mut wanted: f64 = 0.0;
        let mut confidence: f64 = 1.0;
        for horizon in PLANNED_HORIZONS {
            let scored = forecaster.score(horizon).filter(|score| score.bins >= SCORED_BINS_MIN);
            let (Some(of_horizon), Some(score)) = (forecaster.wanted(horizon), scored) else {
                return Err(NoForecast::TooFewScores);
            };
            (wanted, confidence) = (wanted.max(of_horizon), confidence.min(score.coverage));
        }
        Ok(ExpectedDemand { wanted, confidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(number: i64, task_submissions: u64) -> DemandBin {
        let from = Timestamp::from_millis(number * i64::try_from(DEMAND_BIN.0).expect("a few minutes"));
        DemandBin { task_submissions, ..DemandBin::empty(from) }
    }

    fn bins_observed(demand_forecast: &DemandForecast) -> u64 {
        demand_forecast.forecaster(DemandSeries::TaskSubmissions).bins()
    }

    #[test]
    fn bins_are_ingested_after_their_end_and_gaps_have_no_demand() {
        let mut demand_forecast = DemandForecast::default();
        demand_forecast.catch_up(bin(7, 0).from);
        assert_eq!((bins_observed(&demand_forecast), demand_forecast.last_bin_start()), (0, None));
        demand_forecast.ingest(&[bin(0, 5), bin(3, 7), bin(4, 1)], bin(4, 0).from);
        assert_eq!(bins_observed(&demand_forecast), 4, "two with demand, two without, and one in progress");
        assert_eq!(demand_forecast.last_bin_start(), Some(bin(3, 0).from));
        assert_eq!(demand_forecast.last_submissions().collect::<Vec<_>>(), [5, 0, 0, 7]);
        demand_forecast.ingest(&[bin(3, 7), bin(4, 1)], bin(5, 0).from);
        assert_eq!(demand_forecast.last_submissions().collect::<Vec<_>>(), [5, 0, 0, 7, 1], "no bin counts twice");
        demand_forecast.catch_up(bin(7, 0).from);
        assert_eq!(bins_observed(&demand_forecast), 7);
    }

    #[test]
    fn it_starts_anew_after_a_pause_of_two_weeks() {
        let mut demand_forecast = DemandForecast::default();
        demand_forecast.ingest(&[bin(0, 5), bin(1, 5)], bin(2, 0).from);
        demand_forecast.ingest(&[bin(10_000, 5)], bin(10_001, 0).from);
        assert_eq!(bins_observed(&demand_forecast), 1);
    }

    #[test]
    fn it_reports_what_is_missing_until_there_is_enough() {
        let mut demand_forecast = DemandForecast::default();
        let mut number = 0;
        let mut ingest_until = |demand_forecast: &mut DemandForecast, until| {
            while number < until {
                number += 1;
                demand_forecast.ingest(&[bin(number, 100 + number.unsigned_abs() % 3)], bin(number + 1, 0).from);
            }
            demand_forecast.expected(DemandSeries::TaskSubmissions)
        };
        let mut missing = |demand_forecast: &mut DemandForecast, until| {
            ingest_until(demand_forecast, until).expect_err("too little history").to_string()
        };
        assert_eq!(missing(&mut demand_forecast, 0), "0 of 32 bins of 300 s were seen");
        assert_eq!(missing(&mut demand_forecast, 31), "31 of 32 bins of 300 s were seen");
        assert_eq!(missing(&mut demand_forecast, 32), "fewer than 12 forecasts can be compared with observed demand");
        let expected = ingest_until(&mut demand_forecast, 200).expect("enough");
        assert!((101.0..=103.0).contains(&expected.wanted), "{expected:?}");
        assert!(expected.is_trusted(), "{expected:?}");
    }
}
