//! The forecaster as a whole: what it says, when it says nothing, and what it must never do.

use super::draws::Draws;
use super::track::ERRORS_MAX;
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

/// Demand that goes up and down with the day, under noise.
fn daily(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = Draws::with_seed(seed);
    let mean = |bin: usize| 100.0 + 80.0 * (bin as f64 * TAU / 96.0).sin();
    (0..bins).map(|bin| (mean(bin) * (0.5 + random.part())) as u64).collect()
}

/// Demand that is off for a while, and on for a while.
fn bursts(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = Draws::with_seed(seed);
    let mut is_on = false;
    let mut next = || {
        is_on ^= random.part() < 0.15;
        if is_on { random.among(20..200) } else { 0 }
    };
    (0..bins).map(|_| next()).collect()
}

fn noise(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = Draws::with_seed(seed);
    (0..bins).map(|_| random.among(0..200)).collect()
}

/// Demand that grows, and falls to a tenth at once.
fn ramp(bins: usize, seed: u64) -> Vec<u64> {
    let mut random = Draws::with_seed(seed);
    let grown = |bin: usize| 50 + if bin < bins / 2 { bin as u64 } else { bin as u64 / 10 };
    (0..bins).map(|bin| grown(bin) + random.among(0..40)).collect()
}

/// The pinball losses of what was wanted, of the last value with its margin, and of the rule of the planner as it is, and the
/// coverage of the first; over all bins from the hundredth on.
fn judge(demand: &[u64], horizon: Horizon) -> (f64, f64, f64, f64) {
    let (mut forecaster, quantile) = (forecaster(), Quantile::NINE_TENTHS);
    let mut said: Vec<(Option<f64>, Option<f64>, f64)> = Vec::new();
    let (mut ours, mut last, mut rule, mut covered, mut bins) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (bin, now) in demand.iter().enumerate() {
        if let Some(about) = bin.checked_sub(horizon.bins()).filter(|_| bin >= 100) {
            let (wanted, by_last, by_rule) = said[about];
            let (wanted, now) = (wanted.expect("enough history"), *now as f64);
            ours += quantile.loss(wanted, now);
            last += quantile.loss(by_last.expect("enough history"), now);
            rule += quantile.loss(by_rule, now);
            covered += f64::from(u8::from(now <= wanted));
            bins += 1.0;
        }
        forecaster.observe(*now);
        let previous = bin.checked_sub(1).map(|before| demand[before] as f64);
        let by_rule = Forecast::by_trend(previous, *now as f64).predicted_rate_per_minute;
        said.push((forecaster.wanted(horizon), forecaster.wanted_by(Method::LastValue, horizon), by_rule));
    }
    (ours, last, rule, covered / bins)
}

#[test]
fn it_covers_what_it_should_and_costs_less_than_simpler_ways() {
    let check = |name: &str, demand: &[u64], of_last_max: f64, of_rule_max: f64| {
        for horizon in [NEAR, MIDDLE, FAR] {
            let (ours, last, rule, coverage) = judge(demand, horizon);
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
fn too_little_history_says_nothing() {
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
    assert_eq!(forecaster.wanted(horizon(2)), None, "it was not asked for");
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
    assert_eq!(known.iter().position(|known| *known), Some(98), "the moving quantile knows 99 bins then");
}

#[test]
fn margins_are_those_of_forecasts_that_were_made_in_time() {
    let demand = noise(500, 3);
    let mut forecaster = forecaster();
    for bin in 0..demand.len() {
        forecaster.observe(demand[bin]);
        for horizon in [NEAR, MIDDLE, FAR] {
            let mut errors = window::Window::new(ERRORS_MAX);
            for made in 0..(bin + 1).saturating_sub(horizon.bins()) {
                errors.push(demand[made + horizon.bins()] as f64 - demand[made] as f64);
            }
            let expected = errors.quantile(0.9).map(|margin| (demand[bin] as f64 + margin).max(0.0));
            assert_eq!(forecaster.wanted_by(Method::LastValue, horizon), expected, "bin {bin}, {horizon} ahead");
        }
    }
}

#[test]
fn the_future_changes_nothing_that_was_said() {
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
    let (true_ones, poisoned) = (run(&demand), run(&poisoned));
    assert_eq!(true_ones[..600], poisoned[..600]);
    assert_ne!(true_ones[600], poisoned[600]);
}

#[test]
fn a_season_wakes_those_that_need_one() {
    let demand = daily(1_000, 5);
    let mut forecaster = forecaster();
    let mut found = None;
    for (bin, demand) in demand.iter().enumerate() {
        forecaster.observe(*demand);
        let is_seasonal = forecaster.season().is_some();
        for method in [Method::SeasonalNaive, Method::HoltWinters] {
            let speaks = forecaster.wanted_by(method, NEAR).is_some();
            assert_eq!(speaks, is_seasonal, "{method:?} at bin {bin}: it is shown what came before");
        }
        found = found.or(is_seasonal.then_some(bin));
    }
    assert!(found.is_some_and(|bin| (250..500).contains(&bin)), "a season of 96 was seen at {found:?}");
    assert!(forecaster.season().is_some_and(|season| season.abs_diff(96) <= 2), "{:?}", forecaster.season());
    // What was learnt is forgotten where demand stops to repeat itself.
    noise(HISTORY_BINS_MAX, 6).into_iter().for_each(|demand| forecaster.observe(demand));
    assert_eq!(forecaster.season(), None);
    assert_eq!(forecaster.wanted_by(Method::HoltWinters, NEAR), None);
}

#[test]
fn constant_demand_is_wanted_as_it_is() {
    let mut forecaster = forecaster();
    (0..400).for_each(|_| forecaster.observe(7));
    for demand_forecast in forecaster.horizon_forecasts() {
        assert_eq!(demand_forecast.wanted, Some(7.0), "{demand_forecast:?}");
    }
    let score = forecaster.score(FAR).expect("many have come due");
    assert_eq!((score.bins, score.coverage, score.pinball_loss), (SCORED_BINS_MAX, 1.0, 0.0));
}

#[test]
fn the_outlook_shows_who_led_to_it() {
    let mut forecaster = forecaster();
    daily(800, 8).into_iter().for_each(|demand| forecaster.observe(demand));
    let horizon_forecasts = forecaster.horizon_forecasts();
    assert_eq!(
        horizon_forecasts.iter().map(|demand_forecast| demand_forecast.horizon).collect::<Vec<_>>(),
        [NEAR, MIDDLE, FAR]
    );
    for demand_forecast in horizon_forecasts {
        assert_eq!(demand_forecast.wanted, forecaster.wanted(demand_forecast.horizon));
        assert_eq!(demand_forecast.score, forecaster.score(demand_forecast.horizon));
        let weights: f64 = demand_forecast.methods.iter().map(|method| method.weight).sum();
        assert!((weights - 1.0).abs() < 1e-9, "{demand_forecast:#?}");
        for one in demand_forecast.methods {
            assert_eq!(one.wanted, forecaster.wanted_by(one.method, demand_forecast.horizon));
            assert!(one.score.is_some_and(|score| (0.6..=1.0).contains(&score.coverage)), "{one:?}");
        }
    }
}

#[test]
fn it_goes_on_after_it_was_written_as_if_it_had_not_been() {
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
fn the_scale_of_demand_is_all_one() {
    let scale = 1_024;
    for demand in [daily(700, 2), bursts(700, 2), ramp(700, 2)] {
        let (mut small, mut large) = (forecaster(), forecaster());
        for demand in demand {
            small.observe(demand);
            large.observe(demand * scale);
            for horizon in [NEAR, MIDDLE, FAR] {
                let pair = small.wanted(horizon).zip(large.wanted(horizon));
                let fits =
                    pair.is_none_or(|(small, large)| (small * scale as f64 - large).abs() <= 1e-6 * large.max(1.0));
                assert!(fits, "{pair:?}");
            }
        }
    }
}

/// So many bins of one kind of demand.
fn stretch() -> impl Strategy<Value = Vec<u64>> {
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
    fn whatever_comes_what_is_wanted_is_a_number_of_at_least_0(
        stretches in prop::collection::vec(stretch(), 1..16),
        quantile in Quantile::MIN..=Quantile::MAX,
    ) {
        let quantile = Quantile::new(quantile).expect("within bounds");
        let mut forecaster = Forecaster::new(quantile, &[NEAR, MIDDLE, horizon(Horizon::BINS_MAX)]);
        for demand in stretches.into_iter().flatten() {
            forecaster.observe(demand);
            for demand_forecast in forecaster.horizon_forecasts() {
                let of_methods = demand_forecast.methods.iter().flat_map(|one| [one.wanted, Some(one.weight)]);
                let scores = demand_forecast.methods.iter().map(|one| one.score).chain([demand_forecast.score]).flatten();
                let of_scores = scores.flat_map(|it| [Some(it.pinball_loss), Some(it.coverage), it.provisioned_over_mean]);
                for number in of_methods.chain(of_scores).chain([demand_forecast.wanted]).flatten() {
                    prop_assert!(number.is_finite() && number >= 0.0, "{demand_forecast:?}");
                }
            }
        }
        // Were a number in it not finite, it would be written as nothing, and not be read again.
        let text = serde_json::to_string(&forecaster).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<Forecaster>(&text).expect("what was written"), forecaster);
    }
}
