//! Benchmarks of planning, against target figures.
//!
//! `cargo bench --bench planning` prints a markdown table; words after `--` select the rows whose name contains one
//! of them. Times are medians of several samples.

use cortex_core::policy::Policy;
use cortex_core::time::Millis;
use cortex_planning::{Forecaster, HISTORY_BINS_MAX, Horizon, Quantile};
use cortex_simulation::{Arrival, Operator, Options, Simulator};
use cortex_test_support::table::{Measurement, median, milliseconds, resident_bytes, thousands};
use fastrand::Rng;
use std::f64::consts::TAU;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The forecast horizons, in bins.
const HORIZONS: [u16; 3] = [1, 3, 6];
/// The number of five-minute bins in a day, which is the season to detect.
const DAY: usize = 288;

/// All rows. The memory row is first, because it measures the resident memory of the process.
const MEASUREMENTS: [Measurement; 5] = [
    ("memory of a forecaster after 14 days, 3 horizons", "none", memory),
    ("a forecast update, 14 days of 5-minute bins, 3 horizons, season found", "≤ 100 µs", updating),
    ("a forecast update while demand wanders and seasons come and go", "≤ 100 µs", updating_unsteady),
    ("a forecaster as JSON, after 14 days", "none", writing),
    ("simulating a day of 1,000,000 tasks", "≤ 10 s", simulating),
];

fn main() {
    cortex_test_support::table::print(&MEASUREMENTS);
}

/// Generates daily demand with noise.
fn daily(random: &mut Rng, bin: usize) -> u64 {
    let mean = 100.0 + 80.0 * (bin as f64 * TAU / DAY as f64).sin();
    (mean * (0.5 + random.f64())) as u64
}

/// Returns a forecaster with a full history.
fn forecaster(demand: &mut impl FnMut(usize) -> u64) -> Forecaster {
    let horizons = HORIZONS.map(|bins| Horizon::new(bins).expect("within bounds"));
    let mut forecaster = Forecaster::new(Quantile::NINE_TENTHS, &horizons);
    (0..HISTORY_BINS_MAX).for_each(|bin| forecaster.observe(demand(bin)));
    forecaster
}

/// Measures the mean time of an update, including occasional searches for a season, and the longest update of a
/// sample.
fn update(mut demand: impl FnMut(usize) -> u64) -> String {
    let mut forecaster = forecaster(&mut demand);
    let mut bin = HISTORY_BINS_MAX;
    let mut longest_of_samples = Vec::new();
    let mean = median(|| {
        let (mut spent, mut longest) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..HISTORY_BINS_MAX {
            let next = demand(bin);
            let start = Instant::now();
            forecaster.observe(next);
            let took = start.elapsed();
            (spent, longest) = (spent + took, longest.max(took));
            bin += 1;
        }
        longest_of_samples.push(longest.as_secs_f64());
        spent.as_secs_f64() / HISTORY_BINS_MAX as f64
    });
    black_box(&forecaster);
    longest_of_samples.sort_by(f64::total_cmp);
    let longest = milliseconds(longest_of_samples[longest_of_samples.len() / 2]);
    format!("{:.1} µs; the longest of 4,032, with a search for a season, {longest}", mean * 1e6)
}

fn updating() -> String {
    let mut random = Rng::with_seed(1);
    update(|bin| daily(&mut random, bin))
}

fn updating_unsteady() -> String {
    let mut random = Rng::with_seed(2);
    let mut level = 500.0_f64;
    update(|bin| {
        level = (level + 40.0 * (random.f64() - 0.5)).clamp(0.0, 1_000.0);
        level as u64 + if (bin / DAY).is_multiple_of(2) { daily(&mut random, bin) } else { 0 }
    })
}

fn memory() -> String {
    const COPIES: usize = 100;
    let mut random = Rng::with_seed(3);
    let forecaster = forecaster(&mut |bin| daily(&mut random, bin));
    let Some(before) = resident_bytes() else { return "not measured on this system".to_owned() };
    let copies = vec![forecaster; COPIES + 1];
    let after = resident_bytes().unwrap_or(before);
    black_box(&copies);
    format!("{} bytes", thousands((after - before) as f64 / COPIES as f64))
}

fn writing() -> String {
    let mut random = Rng::with_seed(3);
    let forecaster = forecaster(&mut |bin| daily(&mut random, bin));
    let mut bytes = 0;
    let spent = median(|| {
        let start = Instant::now();
        let text = serde_json::to_string(&forecaster).expect("plain data");
        bytes = black_box(text).len();
        start.elapsed().as_secs_f64()
    });
    format!("{} bytes in {}", thousands(bytes as f64), milliseconds(spent))
}

/// Simulates a day of a million tasks of 30 s on average, with a peak at noon, under the balanced policy.
fn simulating() -> String {
    const TASKS: u64 = 1_000_000;
    const DAY_MILLIS: f64 = 86_400_000.0;
    let arrivals = || {
        (0..TASKS).map(|number| {
            // The fraction of the day's tasks that have arrived is a straight line plus a wave.
            let fraction = (number as f64 + 0.5) / TASKS as f64;
            let at = DAY_MILLIS * (fraction + 0.4 / TAU * (fraction * TAU).sin());
            Ok::<_, ()>(Arrival { at: Millis(at as u64), tokens: None })
        })
    };
    let mut agents = 0;
    let spent = median(|| {
        let start = Instant::now();
        let simulator = Simulator::new(&Options::default(), Operator::Planner(Policy::BALANCED));
        let outcome = black_box(simulator.run(arrivals())).expect("generated arrivals");
        assert_eq!((outcome.tasks, outcome.done), (TASKS, TASKS));
        agents = outcome.agents_most;
        start.elapsed().as_secs_f64()
    });
    format!("{spent:.2} s, with up to {agents} agents")
}
