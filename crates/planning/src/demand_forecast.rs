//! The demand_forecast: what demand to expect, from the bins of demand in the books.

use super::forecast::{Forecaster, HISTORY_BINS_MAX, HISTORY_BINS_MIN, Horizon, Quantile};
use cortex_core::demand::{DEMAND_BIN, DemandBin};
use cortex_core::time::Timestamp;
use std::collections::VecDeque;

/// The horizons that are forecast, in bins of five minutes: the bin in progress, the next, and a quarter and half an hour ahead.
const HORIZONS: [Horizon; 4] = [horizon(1), horizon(2), horizon(3), horizon(6)];

/// The horizons that capacity is planned for: it would be there at the end of the bin in progress, or in the next.
const PLANNED: [Horizon; 2] = [horizon(1), horizon(2)];

/// How many of the last bins tell how bursty demand is: those of an hour, in which the rate itself has hardly changed.
const BURST_BINS: usize = 12;

/// How many forecasts must have come due before their coverage says anything: those of an hour.
pub const SCORED_BINS_MIN: usize = 12;

/// From this part of bins covered on forecasts are acted on: the confidence of the Resource Allocation Module.
pub const CONFIDENCE_MIN: f64 = 0.7;

const fn horizon(bins: u16) -> Horizon {
    match Horizon::new(bins) {
        Some(horizon) => horizon,
        None => panic!("a horizon is 1 to 288 bins"),
    }
}

/// Whether so much coverage is enough to act on a forecast.
pub(super) fn is_enough(confidence: f64) -> bool {
    confidence >= CONFIDENCE_MIN
}

/// What is forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Requests for resources, granted and refused.
    Requests,
    /// Tasks that are submitted.
    TaskSubmissions,
    /// The most workers that are wanted at once.
    Workers,
}

impl Series {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Requests, Self::TaskSubmissions, Self::Workers];

    /// Its name on the wire.
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

/// What is expected when new capacity would be there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The quantile of demand in a bin, in its units.
    pub wanted: f64,
    /// The part of past bins in which demand stayed at or below what was forecast for them, from 0 to 1.
    pub confidence: f64,
}

impl Expected {
    /// Whether it may be acted on.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        is_enough(self.confidence)
    }
}

/// Forecasts demand from the bins that it is shown.
#[derive(Clone, Debug)]
pub struct DemandForecast {
    /// In the order of [`Series::ALL`].
    forecasters: [Forecaster; 3],
    /// When the next bin begins; nothing before the first was seen.
    next: Option<Timestamp>,
    /// The submissions of the last bins, oldest first.
    submissions: VecDeque<u64>,
}

impl Default for DemandForecast {
    fn default() -> Self {
        let forecasters = [(); 3].map(|()| Forecaster::new(Quantile::NINE_TENTHS, &HORIZONS));
        Self { forecasters, next: None, submissions: VecDeque::with_capacity(BURST_BINS) }
    }
}

impl DemandForecast {
    /// After which bin the next one is to be shown; nothing before the first.
    #[must_use]
    pub fn shown_until(&self) -> Option<Timestamp> {
        self.next.map(|next| next.before(DEMAND_BIN))
    }

    /// Takes in the next bins, as far as they are over at `now`. Those that are left out between them had no demand.
    pub fn take_in(&mut self, bins: &[DemandBin], now: Timestamp) {
        for bin in bins.iter().filter(|bin| bin.end() <= now) {
            self.fill(bin.from);
            if self.next.is_none_or(|next| next <= bin.from) {
                self.observe(bin);
            }
        }
    }

    /// Takes in that nothing was asked for up to the bin that `now` is in, once all bins up to there were shown.
    pub fn catch_up(&mut self, now: Timestamp) {
        if self.next.is_some() {
            self.fill(DemandBin::start_of(now));
        }
    }

    fn fill(&mut self, until: Timestamp) {
        let Some(next) = self.next else { return };
        // Of what lies behind a pause as long as the whole history nothing would be left.
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
        for (series, forecaster) in Series::ALL.into_iter().zip(&mut self.forecasters) {
            forecaster.observe(series.of(bin));
        }
        if self.submissions.len() == BURST_BINS {
            self.submissions.pop_front();
        }
        self.submissions.push_back(bin.task_submissions);
        self.next = Some(bin.end());
    }

    /// The forecaster of a series.
    #[must_use]
    pub const fn forecaster(&self, series: Series) -> &Forecaster {
        &self.forecasters[series as usize]
    }

    /// The submissions of the last hour, bin by bin.
    pub(super) fn last_submissions(&self) -> impl Iterator<Item = u64> {
        self.submissions.iter().copied()
    }

    /// What is expected when new capacity would be there.
    ///
    /// # Errors
    /// What is missing yet, in words.
    pub fn expected(&self, series: Series) -> Result<Expected, String> {
        let forecaster = self.forecaster(series);
        let bins = forecaster.bins();
        if bins < HISTORY_BINS_MIN {
            return Err(format!("{bins} of {HISTORY_BINS_MIN} bins of {} s were seen", DEMAND_BIN.as_seconds()));
        }
        let mut wanted: f64 = 0.0;
        let mut confidence: f64 = 1.0;
        for horizon in PLANNED {
            let scored = forecaster.score(horizon).filter(|score| score.bins >= SCORED_BINS_MIN);
            let (Some(of_horizon), Some(score)) = (forecaster.wanted(horizon), scored) else {
                return Err(format!("fewer than {SCORED_BINS_MIN} forecasts have come due"));
            };
            (wanted, confidence) = (wanted.max(of_horizon), confidence.min(score.coverage));
        }
        Ok(Expected { wanted, confidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(number: i64, task_submissions: u64) -> DemandBin {
        let from = Timestamp::from_millis(number * i64::try_from(DEMAND_BIN.0).expect("a few minutes"));
        DemandBin { task_submissions, ..DemandBin::empty(from) }
    }

    fn bins_seen(demand_forecast: &DemandForecast) -> u64 {
        demand_forecast.forecaster(Series::TaskSubmissions).bins()
    }

    #[test]
    fn bins_are_taken_in_once_they_are_over_and_gaps_are_nothing() {
        let mut demand_forecast = DemandForecast::default();
        demand_forecast.catch_up(bin(7, 0).from);
        assert_eq!((bins_seen(&demand_forecast), demand_forecast.shown_until()), (0, None));
        demand_forecast.take_in(&[bin(0, 5), bin(3, 7), bin(4, 1)], bin(4, 0).from);
        assert_eq!(bins_seen(&demand_forecast), 4, "two with demand, two without, and one in progress");
        assert_eq!(demand_forecast.shown_until(), Some(bin(3, 0).from));
        assert_eq!(demand_forecast.last_submissions().collect::<Vec<_>>(), [5, 0, 0, 7]);
        demand_forecast.take_in(&[bin(3, 7), bin(4, 1)], bin(5, 0).from);
        assert_eq!(demand_forecast.last_submissions().collect::<Vec<_>>(), [5, 0, 0, 7, 1], "none twice");
        demand_forecast.catch_up(bin(7, 0).from);
        assert_eq!(bins_seen(&demand_forecast), 7);
    }

    #[test]
    fn after_a_pause_of_two_weeks_it_begins_anew() {
        let mut demand_forecast = DemandForecast::default();
        demand_forecast.take_in(&[bin(0, 5), bin(1, 5)], bin(2, 0).from);
        demand_forecast.take_in(&[bin(10_000, 5)], bin(10_001, 0).from);
        assert_eq!(bins_seen(&demand_forecast), 1);
    }

    #[test]
    fn it_says_what_is_missing_until_there_is_enough() {
        let mut demand_forecast = DemandForecast::default();
        let mut number = 0;
        let mut show = |demand_forecast: &mut DemandForecast, until| {
            while number < until {
                number += 1;
                demand_forecast.take_in(&[bin(number, 100 + number.unsigned_abs() % 3)], bin(number + 1, 0).from);
            }
            demand_forecast.expected(Series::TaskSubmissions)
        };
        assert_eq!(show(&mut demand_forecast, 0), Err("0 of 32 bins of 300 s were seen".to_owned()));
        assert_eq!(show(&mut demand_forecast, 31), Err("31 of 32 bins of 300 s were seen".to_owned()));
        assert_eq!(show(&mut demand_forecast, 32), Err("fewer than 12 forecasts have come due".to_owned()));
        let expected = show(&mut demand_forecast, 200).expect("enough");
        assert!((101.0..=103.0).contains(&expected.wanted), "{expected:?}");
        assert!(expected.is_trusted(), "{expected:?}");
    }
}
