//! The closed loop: what each policy makes of bursts, ramps, days, lost agents and traces, beside a fleet of as many agents as
//! the balanced policy has in the mean.
//!
//! Run it with `cargo run --release --example closed_loop -- TRACE.csv …`. Traces are files as `simulate` takes them. It prints a
//! table in markdown. A task takes 30 s in the mean, and there is a plan every 30 s.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

use anyhow::Context;
use cortex_simulation::{Options, Question, ReportRow, Source, TraceFile, compare};
use cortex_test_support::scenarios;
use std::path::{Path, PathBuf};

/// What arrivals and durations are drawn from.
const SEED: u64 = 20_261_126;

fn main() -> anyhow::Result<()> {
    println!("| what comes | fleet | tasks | wait p50 | wait p95 | agent-hours | agents mean | most | scalings |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    for scenario in scenarios::all(1.0, SEED) {
        let losses = scenario.losses.to_vec();
        show(scenario.name, Options { seed: SEED, losses, ..Options::default() }, &scenario)?;
    }
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let named = || format!("cannot go on with {}", path.display());
        let trace = TraceFile::open(&path, SEED).with_context(named)?;
        let name = path.file_stem().unwrap_or(Path::new("trace").as_os_str()).to_string_lossy();
        show(&format!("`{name}`"), Options { seed: SEED, ..Options::default() }, &trace).with_context(named)?;
    }
    Ok(())
}

fn show(name: &str, options: Options, source: &impl Source) -> anyhow::Result<()> {
    let question = Question { options, policy: None, agents: None };
    for (fleet, outcome) in compare(&question, source, &mut |_| {})? {
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
