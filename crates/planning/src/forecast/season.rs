//! After how many bins demand repeats itself, found from its autocorrelation.

use std::collections::VecDeque;

/// The most points that are searched for a season, so that a search takes about a millisecond. A longer history is searched
/// twice: the newest part as it is, for short seasons, and all of it with several bins taken as one, for long ones.
const POINTS_MAX: usize = 1_024;

/// The shortest season, in points. A shorter one cannot be told from the jitter of bins.
const PERIOD_MIN: usize = 4;

/// How many whole seasons a history must have: with fewer, anything that rose and fell twice looks like one.
const SEASONS_MIN: usize = 3;

/// By how many standard errors an autocorrelation must be above 0, and above its lowest at shorter lags: demand that wanders is
/// like itself at short lags too, but does not become so again. The largest of 500 values of noise is rarely further out.
const SIGNIFICANT: f64 = 3.5;

/// Of peaks nearly as high as the highest, the first is taken: twice a season is a season too.
const NEARLY: f64 = 0.9;

/// How far from where it was first seen a season may be, as a part of it: peaks are flat, and noise moves them.
const DOUBT: usize = 16;

/// How many seasons a longer one may have within it: a month of days is the most that calendars know.
const MULTIPLE_MAX: usize = 31;

/// How many bins a season takes, if there is one.
pub(super) fn find(history: &VecDeque<f64>) -> Option<usize> {
    let roots = evened(history);
    let all = Centred::new(&roots);
    let newest = Centred::new(&roots[roots.len().saturating_sub(POINTS_MAX)..]);
    let short = newest.first_peak().map(|period| all.refined(period, 1));
    let fold = roots.len().div_ceil(POINTS_MAX);
    let period = if fold <= 1 {
        short?
    } else {
        // What does not fill a point is left out, at the old end.
        let bins = roots[roots.len() % fold..].chunks_exact(fold);
        let folded: Vec<f64> = bins.map(|bins| bins.iter().sum::<f64>() / fold as f64).collect();
        let long = Centred::new(&folded).first_peak().map(|period| all.refined(period * fold, fold));
        match (short, long) {
            (Some(short), Some(long)) if all.likeness(short) < NEARLY * all.likeness(long) => long,
            (Some(one), _) | (None, Some(one)) => one,
            (None, None) => return None,
        }
    };
    Some(all.longer(period))
}

/// The roots of all bins. A root evens out the spread of counts, which grows with them (Bartlett, "The square root transformation
/// in analysis of variance", 1936), whatever their scale.
fn evened(history: &VecDeque<f64>) -> Vec<f64> {
    let mut roots: Vec<f64> = history.iter().map(|demand| demand.sqrt()).collect();
    if roots.len() >= SEASONS_MIN {
        // What was as high less often than a season comes is no part of one, and would drown everything else.
        let mut ordered = roots.clone();
        let (_, often, _) = ordered.select_nth_unstable_by(SEASONS_MIN - 1, |one, other| other.total_cmp(one));
        roots.iter_mut().for_each(|root| *root = root.min(*often));
    }
    roots
}

/// Points less the straight line through them, since a line is like itself at every lag.
struct Centred {
    points: Vec<f64>,
    /// The sum of their squares; 0 if they are but a line.
    squares: f64,
}

impl Centred {
    fn new(points: &[f64]) -> Self {
        let count = points.len() as f64;
        let mean = points.iter().sum::<f64>() / count.max(1.0);
        let middle = (count - 1.0) / 2.0;
        let (mut along, mut square) = (0.0, 0.0);
        for (place, point) in points.iter().enumerate() {
            let offset = place as f64 - middle;
            along += offset * (point - mean);
            square += offset * offset;
        }
        let slope = if square > 0.0 { along / square } else { 0.0 };
        let centred = points.iter().enumerate().map(|(place, point)| point - mean - slope * (place as f64 - middle));
        let points: Vec<f64> = centred.collect();
        let squares = product(&points, &points);
        // What rounding leaves of a line has no season in it.
        let rounding = mean * mean * count * f64::EPSILON;
        Self { squares: if squares > rounding { squares } else { 0.0 }, points }
    }

    /// The usual autocorrelation, which makes less of long lags, as fewer points speak for them.
    fn autocorrelation(&self, lag: usize) -> f64 {
        if self.squares == 0.0 || lag >= self.points.len() {
            return 0.0;
        }
        product(&self.points, &self.points[lag..]) / self.squares
    }

    /// The same in the mean of the points that there are for a lag, to hold different lags against each other.
    fn likeness(&self, lag: usize) -> f64 {
        let count = self.points.len();
        self.autocorrelation(lag) * count as f64 / count.saturating_sub(lag).max(1) as f64
    }

    /// By how much the autocorrelations of two lags differ that noise alone does not explain, if points do not wander: their
    /// standard error is one over the root of the number of points.
    fn significant(&self) -> f64 {
        SIGNIFICANT / (self.points.len() as f64).sqrt()
    }

    /// The lag at which the points are like themselves again.
    fn first_peak(&self) -> Option<usize> {
        let longest = self.points.len() / SEASONS_MIN;
        // One more at the end, to see whether the last is a peak.
        let of_lag: Vec<f64> = (0..=longest + 1).map(|lag| self.autocorrelation(lag)).collect();
        // What wanders differs more, by all it is like itself before it is no longer (Bartlett's formula: Box and Jenkins, "Time
        // Series Analysis", 1970, section 2.1.6).
        let wandering: f64 = of_lag[1..].iter().take_while(|here| **here > 0.0).map(|here| here * here).sum();
        let enough = self.significant() * (1.0 + 2.0 * wandering).sqrt();
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
        let first = peaks.iter().copied().find(|lag| of_lag[*lag] >= NEARLY * highest)?;
        // Noise makes several peaks of one: the next season is at twice the lag.
        let same = peaks.into_iter().filter(|lag| (first..first + first.div_ceil(2)).contains(lag));
        same.max_by(|one, other| of_lag[*one].total_cmp(&of_lag[*other]))
    }

    /// The period near this one that fits best, to the bin, by several seasons at once: an error of one bin in a season is one of
    /// six bins in six.
    fn refined(&self, period: usize, step: usize) -> usize {
        let fit = |period: usize| -> f64 { (1..=2 * SEASONS_MIN).map(|seasons| self.likeness(seasons * period)).sum() };
        let doubt = step.max(period / DOUBT);
        let fits = (period - doubt..=period + doubt).map(|period| (period, fit(period)));
        fits.max_by(|one, other| one.1.total_cmp(&other.1)).map_or(period, |(period, _)| period)
    }

    /// The season of seasons, as a week is of days, if demand is more like itself after that; else the season itself.
    fn longer(&self, period: usize) -> usize {
        let longest = (self.points.len() / SEASONS_MIN / period).min(MULTIPLE_MAX);
        let likeness: Vec<f64> = (1..=longest).map(|times| self.likeness(times * period)).collect();
        let most = likeness.iter().copied().fold(0.0, f64::max);
        // The first that noise alone could keep from being the best. The shortest is the season itself.
        let times = likeness.iter().position(|likeness| *likeness >= most - self.significant());
        period * (times.unwrap_or(0) + 1)
    }
}

/// The sum of the products of two sequences, as far as both go.
fn product(one: &[f64], other: &[f64]) -> f64 {
    // Eight sums side by side, in a fixed order, which the processor can add at once.
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
    use super::super::draws::Draws;
    use super::*;
    use std::f64::consts::TAU;

    fn history(bins: usize, demand: impl Fn(usize, &mut Draws) -> f64) -> VecDeque<f64> {
        let mut random = Draws::with_seed(11);
        (0..bins).map(|bin| demand(bin, &mut random).round().max(0.0)).collect()
    }

    fn wave(bin: usize, period: usize) -> f64 {
        (bin as f64 * TAU / period as f64).sin()
    }

    /// Checks that a season is found, give or take so many bins.
    fn check(history: &VecDeque<f64>, expected: usize, tolerance: usize) {
        let found = find(history);
        assert!(found.is_some_and(|found| found.abs_diff(expected) <= tolerance), "{found:?} instead of {expected}");
    }

    #[test]
    fn a_daily_wave_is_found_under_noise() {
        let noisy = |bin, random: &mut Draws| 100.0 + 40.0 * wave(bin, 288) + 120.0 * (random.part() - 0.5);
        check(&history(1_500, noisy), 288, 8);
        check(&history(2_500, noisy), 288, 4);
        check(&history(4_032, noisy), 288, 3);
        check(&history(4_032, |bin, _| 100.0 + 40.0 * wave(bin, 288)), 288, 0);
    }

    #[test]
    fn jobs_on_the_hour_are_found() {
        let hourly =
            |bin: usize, random: &mut Draws| random.part() * 10.0 + if bin.is_multiple_of(12) { 80.0 } else { 0.0 };
        for bins in [100, 1_000, 1_025, 4_032] {
            check(&history(bins, hourly), 12, 0);
        }
        let bursts = |bin: usize, random: &mut Draws| hourly(bin, random) + if bin == 700 { 1e9 } else { 0.0 };
        check(&history(1_000, bursts), 12, 0);
    }

    #[test]
    fn a_week_is_found_where_its_days_differ() {
        let weekly = |bin: usize, random: &mut Draws| {
            let weekday = bin / 24 % 7 < 5;
            (if weekday { 100.0 } else { 40.0 }) * (1.2 + wave(bin, 24)) + 20.0 * random.part()
        };
        check(&history(1_500, weekly), 168, 0);
        // Three weeks are needed to know.
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
            none(history(bins, |_, random| 100.0 * random.part()));
            none(history(bins, |bin, random| 50.0 + bin as f64 + 20.0 * random.part()));
        }
        for seed in 1..=10 {
            let mut random = Draws::with_seed(seed);
            let mut level = 0.0;
            let mut wander = || {
                level = 0.9 * level + random.part() - 0.5;
                100.0 * (2.0 + level).max(0.0)
            };
            none((0..3_000).map(|_| wander()).collect());
        }
        // Two waves are too few.
        none(history(500, |bin, random| 100.0 + 40.0 * wave(bin, 288) + 20.0 * random.part()));
    }
}
