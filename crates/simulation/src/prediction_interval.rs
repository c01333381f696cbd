//! Demand over time, with the forecast made for it one bin before.

use super::arrivals::Arrival;
use super::time_series::{Accumulate, TimeSeries};
use cortex_core::time::Millis;
use cortex_planning::{Forecaster, Horizon, Quantile};

/// The bin widths, the preferred one first.
const BIN_WIDTHS: [Millis; 2] = [Millis::from_seconds(300), Millis::from_seconds(10)];

/// The number of bins from which the preferred width is used.
const BINS_MIN: u64 = 100;

/// The bins of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IntervalPoint {
    /// The number of bins.
    bins: u64,
    /// The number of tasks that arrived.
    tasks: u64,
    /// The number of bins with a forecast.
    wanted_bins: u64,
    /// The sum of the forecasts.
    wanted: f64,
}

impl Accumulate for IntervalPoint {
    fn add(&mut self, other: &Self) {
        self.bins += other.bins;
        self.tasks += other.tasks;
        self.wanted_bins += other.wanted_bins;
        self.wanted += other.wanted;
    }
}

impl IntervalPoint {
    /// Returns the mean number of tasks per bin.
    #[must_use]
    pub fn demand(&self) -> f64 {
        if self.bins == 0 { 0.0 } else { self.tasks as f64 / self.bins as f64 }
    }

    /// Returns the mean forecast per bin; `None` while there was too little history.
    #[must_use]
    pub fn wanted(&self) -> Option<f64> {
        (self.wanted_bins > 0).then(|| self.wanted / self.wanted_bins as f64)
    }
}

/// Demand, and the 0.9 quantile forecast for it one bin before.
#[derive(Clone, Debug)]
pub struct PredictionInterval {
    bin_width: Millis,
    series: TimeSeries<IntervalPoint>,
}

impl PredictionInterval {
    /// Computes demand and forecasts in bins of 300 s, or of 10 s if there would be fewer than 100 bins. The last bin
    /// is left out, because the arrivals may end within it.
    ///
    /// # Errors
    /// The first error among the arrivals.
    pub fn of<E>(arrivals: impl Iterator<Item = Result<Arrival, E>>) -> Result<Self, E> {
        let [mut wide, mut narrow] = BIN_WIDTHS.map(BinCounter::new);
        for arrival in arrivals {
            let at = arrival?.at;
            wide.count(at);
            if wide.bin < BINS_MIN {
                narrow.count(at);
            }
        }
        let chosen = if wide.bin < BINS_MIN { narrow } else { wide };
        Ok(Self { bin_width: chosen.width, series: chosen.series })
    }

    /// Returns the width of a bin.
    #[must_use]
    pub const fn bin_width(&self) -> Millis {
        self.bin_width
    }

    /// Returns the demand over time.
    #[must_use]
    pub const fn series(&self) -> &TimeSeries<IntervalPoint> {
        &self.series
    }
}

/// The bins of one width while they are counted.
struct BinCounter {
    width: Millis,
    forecaster: Forecaster,
    horizon: Option<Horizon>,
    /// The current bin and the number of tasks in it.
    bin: u64,
    tasks: u64,
    series: TimeSeries<IntervalPoint>,
}

impl BinCounter {
    fn new(width: Millis) -> Self {
        let horizon = Horizon::new(1);
        let forecaster = Forecaster::new(Quantile::NINE_TENTHS, horizon.as_slice());
        Self { width, forecaster, horizon, bin: 0, tasks: 0, series: TimeSeries::new(width) }
    }

    fn count(&mut self, at: Millis) {
        while self.bin < at.0 / self.width.0 {
            let wanted = self.horizon.and_then(|horizon| self.forecaster.wanted(horizon));
            let tasks = std::mem::take(&mut self.tasks);
            self.forecaster.observe(tasks);
            let (wanted_bins, wanted) = (u64::from(wanted.is_some()), wanted.unwrap_or(0.0));
            let bin = IntervalPoint { bins: 1, tasks, wanted_bins, wanted };
            self.series.at(Millis(self.bin * self.width.0)).add(&bin);
            self.bin += 1;
        }
        self.tasks += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_planning::HISTORY_BINS_MIN;

    /// Returns the result of one arrival every `millis` milliseconds.
    fn every(millis: u64, count: u64) -> PredictionInterval {
        let arrivals = (0..count).map(|number| Ok::<_, ()>(Arrival { at: Millis(number * millis), tokens: None }));
        PredictionInterval::of(arrivals).expect("valid arrivals")
    }

    #[test]
    fn steady_demand_has_a_narrow_interval() {
        let prediction_interval = every(1_000, 3_601);
        assert_eq!(
            (prediction_interval.bin_width(), prediction_interval.series().points().len()),
            (Millis(10_000), 360)
        );
        for (bin, point) in prediction_interval.series().points().iter().enumerate() {
            assert!((point.demand() - 10.0).abs() < 1e-9);
            assert_eq!(point.wanted().is_some(), bin as u64 >= HISTORY_BINS_MIN, "bin {bin}");
            assert!(point.wanted().is_none_or(|wanted| (9.9..12.0).contains(&wanted)), "{:?}", point.wanted());
        }
    }

    #[test]
    fn long_traces_have_wide_bins_and_short_ones_narrow_ones() {
        assert_eq!(every(10_000, 3_000).bin_width(), Millis(10_000), "29,990 s are 99 bins");
        assert_eq!(every(10_000, 3_001).bin_width(), Millis(300_000));
        assert_eq!(every(1, 1).series().points(), []);
    }
}
