//! The prediction_interval: demand over time, and what the forecasters wanted for it one bin before.

use super::arrivals::Arrival;
use super::series::{Add, Series};
use cortex_core::time::Millis;
use cortex_planning::{Forecaster, Horizon, Quantile};

/// The widths of bins, the wanted one first.
const BIN_WIDTHS: [Millis; 2] = [Millis::from_seconds(300), Millis::from_seconds(10)];

/// With at least so many bins a width is taken.
const BINS_MIN: u64 = 100;

/// The bins of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IntervalPoint {
    /// How many bins.
    bins: u64,
    /// How many tasks came in them.
    tasks: u64,
    /// For how many bins something was wanted.
    wanted_bins: u64,
    /// What was wanted for these, added up.
    wanted: f64,
}

impl Add for IntervalPoint {
    fn add(&mut self, other: &Self) {
        self.bins += other.bins;
        self.tasks += other.tasks;
        self.wanted_bins += other.wanted_bins;
        self.wanted += other.wanted;
    }
}

impl IntervalPoint {
    /// How many tasks came in a bin, in the mean.
    #[must_use]
    pub fn demand(&self) -> f64 {
        if self.bins == 0 { 0.0 } else { self.tasks as f64 / self.bins as f64 }
    }

    /// How many were to be reckoned with in a bin, in the mean; nothing while there was too little history.
    #[must_use]
    pub fn wanted(&self) -> Option<f64> {
        (self.wanted_bins > 0).then(|| self.wanted / self.wanted_bins as f64)
    }
}

/// Demand, and the 0.9 quantile of it that was to be expected a bin before.
#[derive(Clone, Debug)]
pub struct PredictionInterval {
    bin_width: Millis,
    series: Series<IntervalPoint>,
}

impl PredictionInterval {
    /// That of these arrivals, in bins of 300 s, or of 10 s if there would be fewer than 100 bins. The last bin is left out,
    /// since the arrivals may end within it.
    ///
    /// # Errors
    /// The first one among the arrivals.
    pub fn of<E>(arrivals: impl Iterator<Item = Result<Arrival, E>>) -> Result<Self, E> {
        let [mut wide, mut narrow] = BIN_WIDTHS.map(Counting::new);
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

    /// The width of a bin.
    #[must_use]
    pub const fn bin_width(&self) -> Millis {
        self.bin_width
    }

    /// Demand over time.
    #[must_use]
    pub const fn series(&self) -> &Series<IntervalPoint> {
        &self.series
    }
}

/// Bins of one width, on the way.
struct Counting {
    width: Millis,
    forecaster: Forecaster,
    horizon: Option<Horizon>,
    /// The bin that is being counted, and how many came in it.
    bin: u64,
    tasks: u64,
    series: Series<IntervalPoint>,
}

impl Counting {
    fn new(width: Millis) -> Self {
        let horizon = Horizon::new(1);
        let forecaster = Forecaster::new(Quantile::NINE_TENTHS, horizon.as_slice());
        Self { width, forecaster, horizon, bin: 0, tasks: 0, series: Series::new(width) }
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

    /// One every so many milliseconds.
    fn every(millis: u64, count: u64) -> PredictionInterval {
        let arrivals = (0..count).map(|number| Ok::<_, ()>(Arrival { at: Millis(number * millis), tokens: None }));
        PredictionInterval::of(arrivals).expect("good arrivals")
    }

    #[test]
    fn steady_demand_has_a_narrow_band() {
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
