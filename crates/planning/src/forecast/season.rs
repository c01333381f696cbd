//! Season detection: the period of demand, found from its autocorrelation.

use std::collections::VecDeque;

/// The maximum number of points in one search, so that a search takes about a millisecond. A longer history is
/// searched twice: the newest part at full resolution for short seasons, and all of it with several bins merged into
/// one point for long ones.
const POINTS_MAX: usize = 1_024;

/// The shortest season, in points. A shorter one is indistinguishable from the jitter of bins.
const PERIOD_MIN: usize = 4;

/// The number of complete seasons that a history must contain. With fewer, anything that rises and falls twice looks
/// seasonal.
const SEASONS_MIN: usize = 3;

/// The number of standard errors by which an autocorrelation peak must exceed 0 and the lowest autocorrelation at
/// shorter lags. Wandering demand is autocorrelated at short lags too, but without a second peak. The largest of 500
/// values of noise rarely exceeds this.
const STANDARD_ERRORS_MIN: f64 = 3.5;

/// The first peak of at least this fraction of the highest is selected: multiples of a season are peaks too.
const PEAK_RATIO_MIN: f64 = 0.9;

/// The refinement searches within one `REFINEMENT_DIVISOR`th of the first estimate of the period: peaks are flat, and
/// noise moves them.
const REFINEMENT_DIVISOR: usize = 16;

/// The maximum number of seasons in a longer one: a month of days.
const MULTIPLE_MAX: usize = 31;

/// Returns the length of the season in bins, if there is one.
pub(super) fn find(history: &VecDeque<f64>) -> Option<usize> {
    let roots = stabilized(history);
    let all = Detrended::new(&roots);
    let newest = Detrended::new(&roots[roots.len().saturating_sub(POINTS_MAX)..]);
    let short = newest.first_peak().map(|period| all.refine(period, 1));
    let merged_bins = roots.len().div_ceil(POINTS_MAX);
    let period = if merged_bins <= 1 {
        short?
    } else {
        // The oldest bins that do not fill a point are dropped.
        let bins = roots[roots.len() % merged_bins..].chunks_exact(merged_bins);
        let merged: Vec<f64> = bins.map(|bins| bins.iter().sum::<f64>() / merged_bins as f64).collect();
        let long = Detrended::new(&merged).first_peak().map(|period| all.refine(period * merged_bins, merged_bins));
        match (short, long) {
            (Some(short), Some(long))
                if all.scaled_autocorrelation(short) < PEAK_RATIO_MIN * all.scaled_autocorrelation(long) =>
            {
                long
            }
            (Some(one), _) | (None, Some(one)) => one,
            (None, None) => return None,
        }
    };
    Some(all.multiple_of(period))
}

/// Returns the square roots of all bins. The square root stabilizes the variance of counts, which grows with their
/// mean (Bartlett, "The square root transformation in analysis of variance", 1936), at any scale.
fn stabilized(history: &VecDeque<f64>) -> Vec<f64> {
    let mut roots: Vec<f64> = history.iter().map(|demand| demand.sqrt()).collect();
    if roots.len() >= SEASONS_MIN {
        // Values reached less often than once per season are not seasonal, and would dominate everything else.
        let mut ordered = roots.clone();
        let (_, cap, _) = ordered.select_nth_unstable_by(SEASONS_MIN - 1, |one, other| other.total_cmp(one));
        roots.iter_mut().for_each(|root| *root = root.min(*cap));
    }
    roots
}

/// Points minus their linear trend, because a line is autocorrelated at every lag.
struct Detrended {
    points: Vec<f64>,
    /// The sum of the squared points; 0 if nothing but rounding errors remains.
    squares: f64,
}

impl Detrended {
    fn new(points: &[f64]) -> Self {
        let count = points.len() as f64;
        let mean = points.iter().sum::<f64>() / count.max(1.0);
        let middle = (count - 1.0) / 2.0;
        let (mut cross_sum, mut square_sum) = (0.0, 0.0);
        for (index, point) in points.iter().enumerate() {
            let offset = index as f64 - middle;
            cross_sum += offset * (point - mean);
            square_sum += offset * offset;
        }
        let slope = if square_sum > 0.0 { cross_sum / square_sum } else { 0.0 };
        let detrended = points.iter().enumerate().map(|(index, point)| point - mean - slope * (index as f64 - middle));
        let points: Vec<f64> = detrended.collect();
        let squares = dot_product(&points, &points);
        // The rounding errors of a line contain no season.
        let rounding = mean * mean * count * f64::EPSILON;
        Self { squares: if squares > rounding { squares } else { 0.0 }, points }
    }

    /// Returns the standard (biased) autocorrelation, which shrinks at long lags because fewer pairs of points
    /// support them.
    fn autocorrelation(&self, lag: usize) -> f64 {
        if self.squares == 0.0 || lag >= self.points.len() {
            return 0.0;
        }
        dot_product(&self.points, &self.points[lag..]) / self.squares
    }

    /// Returns the autocorrelation scaled by the number of pairs at this lag, so that different lags are comparable.
    fn scaled_autocorrelation(&self, lag: usize) -> f64 {
        let count = self.points.len();
        self.autocorrelation(lag) * count as f64 / count.saturating_sub(lag).max(1) as f64
    }

    /// Returns the significance threshold for autocorrelations of independent points: their standard error is one
    /// over the square root of the number of points.
    fn significance_threshold(&self) -> f64 {
        STANDARD_ERRORS_MIN / (self.points.len() as f64).sqrt()
    }

    /// Returns the lag of the first significant autocorrelation peak.
    fn first_peak(&self) -> Option<usize> {
        let longest = self.points.len() / SEASONS_MIN;
        // One more lag at the end, to decide whether the last is a peak.
        let of_lag: Vec<f64> = (0..=longest + 1).map(|lag| self.autocorrelation(lag)).collect();
        // The standard error grows with the autocorrelation at short lags (Bartlett's formula: Box and Jenkins, "Time
        // Series Analysis", 1970, section 2.1.6).
        let squared_autocorrelations: f64 =
            of_lag[1..].iter().take_while(|here| **here > 0.0).map(|here| here * here).sum();
        let enough = self.significance_threshold() * (1.0 + 2.0 * squared_autocorrelations).sqrt();
        let mut lowest = of_lag[0];
        let mut peaks = Vec::new();
        for lag in 1..=longest {
            let (before, here, after) = (of_lag[lag - 1], of_lag[lag], of_lag[lag + 1]);
            lowest = lowest.min(before);
            let is_peak = here >= before && here > after;
            if is_peak && lag >= PERIOD_MIN && here >= enough && here - lowest >= enough {
                peaks.push(lag);
            }
        }
        let highest = peaks.iter().map(|lag| of_lag[*lag]).fold(0.0, f64::max);
        let first = peaks.iter().copied().find(|lag| of_lag[*lag] >= PEAK_RATIO_MIN * highest)?;
        // Noise splits a peak into several: the next season is at twice the lag.
        let same = peaks.into_iter().filter(|lag| (first..first + first.div_ceil(2)).contains(lag));
        same.max_by(|one, other| of_lag[*one].total_cmp(&of_lag[*other]))
    }

    /// Returns the best period near the estimate, to the bin, by comparing several seasons: an error of one bin in
    /// one season is an error of six bins after six seasons.
    fn refine(&self, period: usize, step: usize) -> usize {
        let fit = |period: usize| -> f64 {
            (1..=2 * SEASONS_MIN).map(|seasons| self.scaled_autocorrelation(seasons * period)).sum()
        };
        let radius = step.max(period / REFINEMENT_DIVISOR);
        let fits = (period - radius..=period + radius).map(|period| (period, fit(period)));
        fits.max_by(|one, other| one.1.total_cmp(&other.1)).map_or(period, |(period, _)| period)
    }

    /// Returns a multiple of the season (such as a week of days) if demand is more strongly autocorrelated there, or
    /// the season itself.
    fn multiple_of(&self, period: usize) -> usize {
        let longest = (self.points.len() / SEASONS_MIN / period).min(MULTIPLE_MAX);
        let of_multiple: Vec<f64> = (1..=longest).map(|times| self.scaled_autocorrelation(times * period)).collect();
        let most = of_multiple.iter().copied().fold(0.0, f64::max);
        // The first multiple that does not differ significantly from the best. The shortest is the season itself.
        let times =
            of_multiple.iter().position(|autocorrelation| *autocorrelation >= most - self.significance_threshold());
        period * (times.unwrap_or(0) + 1)
    }
}

/// Returns the dot product over the length of the shorter sequence.
fn dot_product(one: &[f64], other: &[f64]) -> f64 {
    // Eight partial sums in a fixed order, which the compiler can vectorize.
    const SUMS: usize = 8;
    let length = one.len().min(other.len());
    let (one, other) = (&one[..length], &other[..length]);
    let mut sums = [0.0; SUMS];
    for (ones, others) in one.chunks_exact(SUMS).zip(other.chunks_exact(SUMS)) {
        for (sum, (one, other)) in sums.iter_mut().zip(ones.iter().zip(others)) {
            *sum += one * other;
        }
    }
    let whole = length - length % SUMS;
    let rest: f64 = one[whole..].iter().zip(&other[whole..]).map(|(one, other)| one * other).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::super::test_rng::TestRng;
    use super::*;
    use std::f64::consts::TAU;

    fn history(bins: usize, demand: impl Fn(usize, &mut TestRng) -> f64) -> VecDeque<f64> {
        let mut random = TestRng::with_seed(11);
        (0..bins).map(|bin| demand(bin, &mut random).round().max(0.0)).collect()
    }

    fn wave(bin: usize, period: usize) -> f64 {
        (bin as f64 * TAU / period as f64).sin()
    }

    /// Checks that a season is found within `tolerance` bins.
    fn check(history: &VecDeque<f64>, expected: usize, tolerance: usize) {
        let found = find(history);
        assert!(found.is_some_and(|found| found.abs_diff(expected) <= tolerance), "{found:?} instead of {expected}");
    }

    #[test]
    fn a_daily_wave_is_found_under_noise() {
        let noisy = |bin, random: &mut TestRng| 100.0 + 40.0 * wave(bin, 288) + 120.0 * (random.fraction() - 0.5);
        check(&history(1_500, noisy), 288, 8);
        check(&history(2_500, noisy), 288, 4);
        check(&history(4_032, noisy), 288, 3);
        check(&history(4_032, |bin, _| 100.0 + 40.0 * wave(bin, 288)), 288, 0);
    }

    #[test]
    fn jobs_on_the_hour_are_found() {
        let hourly = |bin: usize, random: &mut TestRng| {
            random.fraction() * 10.0 + if bin.is_multiple_of(12) { 80.0 } else { 0.0 }
        };
        for bins in [100, 1_000, 1_025, 4_032] {
            check(&history(bins, hourly), 12, 0);
        }
        let bursts = |bin: usize, random: &mut TestRng| hourly(bin, random) + if bin == 700 { 1e9 } else { 0.0 };
        check(&history(1_000, bursts), 12, 0);
    }

    #[test]
    fn a_week_is_found_where_its_days_differ() {
        let weekly = |bin: usize, random: &mut TestRng| {
            let weekday = bin / 24 % 7 < 5;
            (if weekday { 100.0 } else { 40.0 }) * (1.2 + wave(bin, 24)) + 20.0 * random.fraction()
        };
        check(&history(1_500, weekly), 168, 0);
        // Three weeks are required.
        check(&history(400, weekly), 24, 0);
    }

    #[test]
    fn what_does_not_repeat_has_no_season() {
        let none = |history: VecDeque<f64>| assert_eq!(find(&history), None);
        none(VecDeque::new());
        none(history(3, |_, _| 5.0));
        none(history(4_032, |_, _| 5.0));
        none(history(4_032, |bin, _| bin as f64));
        none(history(4_032, |bin, _| if bin == 2_000 { 1e18 } else { 0.0 }));
        for bins in [50, 500, 1_024, 3_000] {
            none(history(bins, |_, random| 100.0 * random.fraction()));
            none(history(bins, |bin, random| 50.0 + bin as f64 + 20.0 * random.fraction()));
        }
        for seed in 1..=10 {
            let mut random = TestRng::with_seed(seed);
            let mut level = 0.0;
            let mut wander = || {
                level = 0.9 * level + random.fraction() - 0.5;
                100.0 * (2.0 + level).max(0.0)
            };
            none((0..3_000).map(|_| wander()).collect());
        }
        // Two waves are too few.
        none(history(500, |bin, random| 100.0 + 40.0 * wave(bin, 288) + 20.0 * random.fraction()));
    }
}
