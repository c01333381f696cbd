//! Tests of the whole forecaster: what it forecasts, when it forecasts nothing, and its invariants.

use super::test_rng::TestRng;
use super::track::{ERRORS_MAX, SCORED_BINS_MAX};
use super::*;
use proptest::prelude::*;
use std::f64::consts::TAU;

const NEAR: Horizon = horizon(1);
const MIDDLE: Horizon = horizon(3);
const FAR: Horizon = horizon(6);

const fn horizon(bins: u16) -> Horizon {
    Horizon::new(bins).expect("within bounds")
}

fn forecaster() -> Forecaster {
    Forecaster::new(Quantile::NINE_TENTHS, &[NEAR, MIDDLE, FAR])
}

/// Daily demand with noise.
fn daily(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = TestRng::with_seed(seed);
    let mean = |bin: usize| 100.0 + 80.0 * (bin as f64 * TAU / 96.0).sin();
    (0..bins).map(|bin| (mean(bin) * (0.5 + random.fraction())) as u64).collect()
}

/// Demand that alternates between off and on for random periods.
fn bursts(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = TestRng::with_seed(seed);
    let mut is_on = false;
    let mut next = || {
        is_on ^= random.fraction() < 0.15;
        if is_on { random.in_range(20..200) } else { 0 }
    };
    (0..bins).map(|_| next()).collect()
}

fn noise(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = TestRng::with_seed(seed);
    (0..bins).map(|_| random.in_range(0..200)).collect()
}

/// Demand that grows, and drops to a tenth suddenly.
fn ramp(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = TestRng::with_seed(seed);
    let grown = |bin: usize| 50 + if bin < bins / 2 { bin as u64 } else { bin as u64 / 10 };
    (0..bins).map(|bin| grown(bin) + random.in_range(0..40)).collect()
}

/// Returns the pinball losses of the combined forecast, of the last value with its margin, and of the trend rule, and
/// the coverage of the combined forecast; over all bins from the hundredth on.
fn evaluate(demand: &[u64], horizon: Horizon) -> (f64, f64, f64, f64) {
    let (mut forecaster, quantile) = (forecaster(), Quantile::NINE_TENTHS);
    let mut issued: Vec<(Option<f64>, Option<f64>, f64)> = Vec::new();
    let (mut ours, mut last, mut rule, mut covered, mut bins) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (bin, now) in demand.iter().enumerate() {
        if let Some(from) = bin.checked_sub(horizon.bins()).filter(|_| bin >= 100) {
            let (wanted, by_last, by_rule) = issued[from];
            let (wanted, now) = (wanted.expect("enough history"), *now as f64);
            ours += quantile.loss(wanted, now);
            last += quantile.loss(by_last.expect("enough history"), now);
            rule += quantile.loss(by_rule, now);
            covered += f64::from(u8::from(now <= wanted));
            bins += 1.0;
        }
        forecaster.observe(*now);
        let previous = bin.checked_sub(1).map(|before| demand[before] as f64);
        let by_rule = TrendForecast::from_rates(previous, *now as f64).predicted_rate_per_minute;
        issued.push((forecaster.wanted(horizon), forecaster.wanted_by_method(Method::LastValue, horizon), by_rule));
    }
    (ours, last, rule, covered / bins)
}

#[test]
fn it_reaches_its_coverage_and_costs_less_than_simpler_methods() {
    let check = |name: &str, demand: &[u64], of_last_max: f64, of_rule_max: f64| {
        for horizon in [NEAR, MIDDLE, FAR] {
            let (ours, last, rule, coverage) = evaluate(demand, horizon);
            assert!((0.87..=0.93).contains(&coverage), "{name}, {horizon} ahead: {coverage} is covered");
            let (of_last, of_rule) = (ours / last, ours / rule);
            assert!(of_last <= of_last_max && of_rule <= of_rule_max, "{name}, {horizon} ahead: {of_last}, {of_rule}");
        }
    };
    for seed in 1..=3 {
        check("daily", &daily(2_000, seed), 0.85, 0.50);
        check("bursts", &bursts(2_000, seed), 1.05, 0.80);
        check("noise", &noise(2_000, seed), 0.85, 0.50);
        check("ramp", &ramp(2_000, seed), 0.95, 0.50);
    }
}

#[test]
fn too_little_history_forecasts_nothing() {
    let mut forecaster = forecaster();
    assert_eq!(forecaster.wanted(NEAR), None);
    for (bin, demand) in (1..).zip(noise(200, 1)) {
        forecaster.observe(demand);
        assert_eq!(forecaster.bins(), bin);
        for horizon in [NEAR, MIDDLE, FAR] {
            assert_eq!(forecaster.wanted(horizon).is_some(), bin >= HISTORY_BINS_MIN, "after {bin} bins");
            let scored = bin.checked_sub(HISTORY_BINS_MIN + u64::from(horizon.as_bins()) - 1).filter(|bins| *bins > 0);
            let score = forecaster.score(horizon).map(|score| score.bins as u64);
            assert_eq!(score, scored, "after {bin} bins, {horizon} ahead");
        }
    }
    assert_eq!(forecaster.wanted(horizon(2)), None, "it was not requested");
}

#[test]
fn a_high_quantile_takes_longer_to_know() {
    let mut forecaster = Forecaster::new(Quantile::new(0.99).expect("within bounds"), &[NEAR, NEAR]);
    assert_eq!(forecaster.horizon_forecasts().len(), 1, "the same horizon counts once");
    let known: Vec<bool> = noise(150, 1)
        .into_iter()
        .map(|demand| {
            forecaster.observe(demand);
            forecaster.wanted(NEAR).is_some()
        })
        .collect();
    assert_eq!(known.iter().position(|known| *known), Some(98), "the moving quantile has 99 bins then");
}

#[test]
fn margins_are_those_of_forecasts_that_were_made_in_time() {
    let demand = noise(500, 3);
    let mut forecaster = forecaster();
    for bin in 0..demand.len() {
        forecaster.observe(demand[bin]);
        for horizon in [NEAR, MIDDLE, FAR] {
            let mut errors = sliding_window::SlidingWindow::new(ERRORS_MAX);
            for made in 0..(bin + 1).saturating_sub(horizon.bins()) {
                errors.push(demand[made + horizon.bins()] as f64 - demand[made] as f64);
            }
            let expected = errors.quantile(0.9).map(|margin| (demand[bin] as f64 + margin).max(0.0));
            assert_eq!(forecaster.wanted_by_method(Method::LastValue, horizon), expected, "bin {bin}, {horizon} ahead");
        }
    }
}

#[test]
fn later_demand_changes_no_earlier_forecast() {
    let demand = daily(700, 4);
    let run = |demand: &[u64]| {
        let mut forecaster = forecaster();
        let horizon_forecasts = demand.iter().map(|demand| {
            forecaster.observe(*demand);
            forecaster.horizon_forecasts()
        });
        horizon_forecasts.collect::<Vec<_>>()
    };
    let mut poisoned = demand.clone();
    poisoned[600..].fill(1_000_000);
    let (original, poisoned) = (run(&demand), run(&poisoned));
    assert_eq!(original[..600], poisoned[..600]);
    assert_ne!(original[600], poisoned[600]);
}

#[test]
fn a_season_enables_the_seasonal_methods() {
    let demand = daily(1_000, 5);
    let mut forecaster = forecaster();
    let mut found = None;
    for (bin, demand) in demand.iter().enumerate() {
        forecaster.observe(*demand);
        let is_seasonal = forecaster.season().is_some();
        for method in [Method::SeasonalNaive, Method::HoltWinters] {
            let forecasts = forecaster.wanted_by_method(method, NEAR).is_some();
            assert_eq!(forecasts, is_seasonal, "{method:?} at bin {bin}: it is trained on the history");
        }
        found = found.or(is_seasonal.then_some(bin));
    }
    assert!(found.is_some_and(|bin| (250..500).contains(&bin)), "a season of 96 was seen at {found:?}");
    assert!(forecaster.season().is_some_and(|season| season.abs_diff(96) <= 2), "{:?}", forecaster.season());
    // The season is dropped once demand no longer repeats.
    noise(HISTORY_BINS_MAX, 6).into_iter().for_each(|demand| forecaster.observe(demand));
    assert_eq!(forecaster.season(), None);
    assert_eq!(forecaster.wanted_by_method(Method::HoltWinters, NEAR), None);
}

#[test]
fn constant_demand_is_wanted_as_it_is() {
    let mut forecaster = forecaster();
    (0..400).for_each(|_| forecaster.observe(7));
    for forecast in forecaster.horizon_forecasts() {
        assert_eq!(forecast.wanted, Some(7.0), "{forecast:?}");
    }
    let score = forecaster.score(FAR).expect("many forecasts are scored");
    assert_eq!((score.bins, score.coverage, score.pinball_loss), (SCORED_BINS_MAX, 1.0, 0.0));
}

#[test]
fn a_horizon_forecast_shows_its_methods() {
    let mut forecaster = forecaster();
    daily(800, 8).into_iter().for_each(|demand| forecaster.observe(demand));
    let horizon_forecasts = forecaster.horizon_forecasts();
    assert_eq!(horizon_forecasts.iter().map(|forecast| forecast.horizon).collect::<Vec<_>>(), [NEAR, MIDDLE, FAR]);
    for forecast in horizon_forecasts {
        assert_eq!(forecast.wanted, forecaster.wanted(forecast.horizon));
        assert_eq!(forecast.score, forecaster.score(forecast.horizon));
        let weights: f64 = forecast.methods.iter().map(|method| method.weight).sum();
        assert!((weights - 1.0).abs() < 1e-9, "{forecast:#?}");
        for one in forecast.methods {
            assert_eq!(one.wanted, forecaster.wanted_by_method(one.method, forecast.horizon));
            assert!(one.score.is_some_and(|score| (0.6..=1.0).contains(&score.coverage)), "{one:?}");
        }
    }
}

#[test]
fn it_continues_after_serialization_without_a_difference() {
    let mut whole = forecaster();
    let mut parts = forecaster();
    for (bin, demand) in daily(900, 9).into_iter().enumerate() {
        whole.observe(demand);
        parts.observe(demand);
        if bin % 100 == 99 {
            let text = serde_json::to_string(&parts).expect("plain data");
            parts = serde_json::from_str(&text).expect("what was written");
        }
    }
    assert_eq!(whole, parts);
}

#[test]
fn the_scale_of_demand_does_not_matter() {
    let scale = 1_024;
    for demand in [daily(700, 2), bursts(700, 2), ramp(700, 2)] {
        let (mut small, mut large) = (forecaster(), forecaster());
        for demand in demand {
            small.observe(demand);
            large.observe(demand * scale);
            for horizon in [NEAR, MIDDLE, FAR] {
                let pair = small.wanted(horizon).zip(large.wanted(horizon));
                let is_close =
                    pair.is_none_or(|(small, large)| (small * scale as f64 - large).abs() <= 1e-6 * large.max(1.0));
                assert!(is_close, "{pair:?}");
            }
        }
    }
}

/// A run of bins with one kind of demand.
fn run_of_demand() -> impl Strategy<Value = Vec<u64>> {
    let constant = (prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..10_u64], 1..80_usize)
        .prop_map(|(demand, bins)| vec![demand; bins]);
    let quiet = prop::collection::vec(0..20_u64, 1..80);
    let wild = prop::collection::vec(any::<u64>(), 1..30);
    let pulses = (1..1_000_000_u64, 2..30_usize, 1..80_usize)
        .prop_map(|(height, period, bins)| (0..bins).map(|bin| if bin % period == 0 { height } else { 0 }).collect());
    prop_oneof![constant, quiet, wild, pulses]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_demand_leads_to_finite_forecasts_of_at_least_0(
        runs in prop::collection::vec(run_of_demand(), 1..16),
        quantile in Quantile::MIN..=Quantile::MAX,
    ) {
        let quantile = Quantile::new(quantile).expect("within bounds");
        let mut forecaster = Forecaster::new(quantile, &[NEAR, MIDDLE, horizon(Horizon::BINS_MAX)]);
        for demand in runs.into_iter().flatten() {
            forecaster.observe(demand);
            for forecast in forecaster.horizon_forecasts() {
                let of_methods = forecast.methods.iter().flat_map(|one| [one.wanted, Some(one.weight)]);
                let scores = forecast.methods.iter().map(|one| one.score).chain([forecast.score]).flatten();
                let of_scores = scores
                    .flat_map(|score| [Some(score.pinball_loss), Some(score.coverage), score.provisioned_over_mean]);
                for number in of_methods.chain(of_scores).chain([forecast.wanted]).flatten() {
                    prop_assert!(number.is_finite() && number >= 0.0, "{forecast:?}");
                }
            }
        }
        // A number that is not finite would be serialized as null, and could not be read again.
        let text = serde_json::to_string(&forecaster).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<Forecaster>(&text).expect("what was written"), forecaster);
    }
}
