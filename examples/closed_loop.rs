//! Compares the scaling policies on bursts, ramps, daily waves, lost agents and traces with a fixed fleet that has as
//! many agents as the balanced policy has on average.
//!
//! Run it with `cargo run --release --example closed_loop -- TRACE.csv …`. Traces have the format of `simulate`. It
//! prints a markdown table. A task takes 30 s on average, and a plan is made every 30 s.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use anyhow::Context;
use cortex_simulation::{ArrivalSource, Comparison, Options, ReportRow, TraceFile, compare};
use cortex_test_support::scenarios;
use std::path::{Path, PathBuf};

/// The seed of arrivals and durations.
const SEED: u64 = 20_261_126;

fn main() -> anyhow::Result<()> {
    println!("| demand | fleet | tasks | wait p50 | wait p95 | agent-hours | agents mean | most | scalings |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    for scenario in scenarios::all(1.0, SEED) {
        let losses = scenario.losses.to_vec();
        show(scenario.name, Options { seed: SEED, losses, ..Options::default() }, &scenario)?;
    }
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let context = || format!("cannot read {}", path.display());
        let trace = TraceFile::open(&path, SEED).with_context(context)?;
        let name = path.file_stem().unwrap_or(Path::new("trace").as_os_str()).to_string_lossy();
        show(&format!("`{name}`"), Options { seed: SEED, ..Options::default() }, &trace).with_context(context)?;
    }
    Ok(())
}

fn show(name: &str, options: Options, source: &impl ArrivalSource) -> anyhow::Result<()> {
    let comparison = Comparison { options, policy: None, agents: None };
    for (fleet, outcome) in compare(&comparison, source, &mut |_| {})? {
        let row = ReportRow::of(fleet, &outcome);
        println!(
            "| {name} | {} | {} | {:.1} s | {:.1} s | {:.1} | {:.1} | {} | {} |",
            row.fleet,
            row.tasks,
            row.wait_p50_seconds,
            row.wait_p95_seconds,
            row.agent_hours,
            row.agents_mean,
            row.agents_most,
            row.scalings
        );
    }
    Ok(())
}
