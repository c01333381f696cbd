//! A seeded simulation of the engine over its SQLite journal, with failures: commits that fail or whose reply is lost,
//! loads that fail, crashes at every step, and a clock that jumps. After each failure, everything that was acknowledged
//! is still there.
//!
//! Seed and length come from `CORTEX_SIM_SEED` and `CORTEX_SIM_STEPS`; `.ci/simulate` runs more steps. A failure prints
//! the seed of its run, and the command that repeats it.

mod calls;
mod faulty;
mod known;
mod run;

use cortex_test_support::seeded_runs::SeededRuns;
pub(crate) use cortex_test_support::seeded_runs::SituationCounts;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The number of steps that `cargo test` runs. Each step makes several concurrent calls.
const STEPS: u64 = 6_000;
/// The seed of the first run. Each further run has the next number.
const SEED: u64 = 20_260_301;
/// Steps of one run.
const RUN_STEPS: u64 = 100;

/// The situations that the simulation must reach.
const SITUATIONS: [&str; 17] = [
    "commit answered with an error, done",
    "commit failed",
    "crash after a commit",
    "crash at the end",
    "crash before a commit",
    "crash between batches",
    "end in order",
    "expired",
    "granted",
    "load failed",
    "not committed",
    "undelivered grant seen after a crash",
    "refused",
    "released",
    "renewed",
    "repeated",
    "retried and granted before",
];

#[test]
fn nothing_acknowledged_is_lost() {
    let plan = SeededRuns { seed: SEED, steps: STEPS, situations: &SITUATIONS, times_min: 5 };
    plan.run(|_| RUN_STEPS, run_seeded);
}

/// Runs one seed. A failure prints the command that repeats it.
fn run_seeded(seed: u64, steps: u64) -> SituationCounts {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run::run(seed, steps))));
    outcome.unwrap_or_else(|_| {
        panic!(
            "the run of seed {seed} failed, for the reason above. To repeat it: \
         CORTEX_SIM_SEED={seed} CORTEX_SIM_STEPS={steps} cargo test -p cortex-engine --test it durable_simulation::"
        )
    })
}
