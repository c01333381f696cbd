//! A seeded simulation of the engine over its SQLite journal, with failures: commits that fail or whose answer is lost,
//! loads that fail, crashes at every step, and a clock that is turned. What was acknowledged is there after each.
//!
//! Seed and length come from `CORTEX_SIM_SEED` and `CORTEX_SIM_STEPS`; `.ci/simulate` runs more steps. A failure prints
//! the seed of its run, and the command that repeats it.

#[path = "durable_simulation/calls.rs"]
mod calls;
#[path = "durable_simulation/faulty.rs"]
mod faulty;
#[path = "durable_simulation/known.rs"]
mod known;
#[path = "durable_simulation/run.rs"]
mod run;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many steps `cargo test` runs; several calls are made at once in each.
const STEPS: u64 = 6_000;
/// The seed of the first run; the next run has the next number.
const SEED: u64 = 20_260_301;
/// Steps of one run.
const RUN_STEPS: u64 = 100;

/// What a simulation has to meet to be worth its time.
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
    "orphan seen after a crash",
    "refused",
    "released",
    "renewed",
    "repeated",
    "retried and granted before",
];

/// How often each situation was met.
pub(crate) type Seen = BTreeMap<&'static str, u64>;

#[test]
fn nothing_acknowledged_is_lost() {
    let seed = setting("CORTEX_SIM_SEED", SEED);
    let steps = setting("CORTEX_SIM_STEPS", STEPS);
    let (next_run, begun) = (AtomicU64::new(0), AtomicU64::new(0));
    let seen = Mutex::new(Seen::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.load(Ordering::Relaxed) < steps {
                    let run_seed = seed.wrapping_add(next_run.fetch_add(1, Ordering::Relaxed));
                    let before = begun.fetch_add(RUN_STEPS, Ordering::Relaxed);
                    let seen_here = run_seeded(run_seed, RUN_STEPS.min(steps.saturating_sub(before)));
                    let mut seen = seen.lock().expect("no other run has failed");
                    for (what, times) in seen_here {
                        *seen.entry(what).or_default() += times;
                    }
                }
            });
        }
    });
    if steps >= STEPS {
        let seen = seen.into_inner().expect("no run has failed");
        let rare: Vec<_> = SITUATIONS.iter().filter(|what| seen.get(**what).is_none_or(|times| *times < 5)).collect();
        assert!(rare.is_empty(), "these were hardly met, so hardly tested: {rare:?} of {seen:?}");
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: give a whole number"))
}

/// Runs one seed. A failure ends with the command that repeats it.
fn run_seeded(seed: u64, steps: u64) -> Seen {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run::run(seed, steps))));
    outcome.unwrap_or_else(|_| {
        panic!(
            "the run of seed {seed} failed, for the reason above. To repeat it: \
         CORTEX_SIM_SEED={seed} CORTEX_SIM_STEPS={steps} cargo test --test durable_simulation"
        )
    })
}
