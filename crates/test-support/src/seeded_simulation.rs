//! The driver of the seeded simulations: runs with consecutive seeds, on all processors, until enough steps are done.
//!
//! `CORTEX_SIM_SEED` and `CORTEX_SIM_STEPS` set seed and length; `.ci/simulate` runs many more steps than `cargo test`.
//! A failure prints the seed of its run, and the command that repeats the run up to the step that failed.

use crate::setting::setting;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often each situation occurred.
#[derive(Debug, Default)]
pub struct SituationCounts(BTreeMap<&'static str, u64>);

impl SituationCounts {
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }
}

/// A run of a simulation. It depends on its seed alone.
pub trait SeededRun: Sized {
    /// Returns the number of steps of the run with a seed.
    fn steps_of(seed: u64) -> u64;

    fn start(seed: u64) -> Self;

    /// Takes the next step, and checks everything that must hold after it.
    fn step(&mut self, step: u64);

    /// Checks what must hold at the end. Returns the situations that occurred.
    fn finish(self) -> SituationCounts;
}

/// What identifies a simulation, and what it has to reach.
pub struct SeededSimulation {
    /// The command that runs it alone.
    pub command: &'static str,
    /// The seed of the first run, unless `CORTEX_SIM_SEED` sets another.
    pub seed: u64,
    /// The number of steps that `cargo test` runs, unless `CORTEX_SIM_STEPS` sets another.
    pub steps: u64,
    /// The situations that have to occur within that number of steps.
    pub situations: &'static [&'static str],
    /// How often each of these has to occur.
    pub times_min: u64,
}

impl SeededSimulation {
    pub fn check<R: SeededRun>(&self) {
        let seed = setting("CORTEX_SIM_SEED", self.seed);
        let steps = setting("CORTEX_SIM_STEPS", self.steps);
        let (next_run, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        let seen = Mutex::new(SituationCounts::default());
        let run_seeds = || {
            while begun.load(Ordering::Relaxed) < steps {
                let run_seed = seed.wrapping_add(next_run.fetch_add(1, Ordering::Relaxed));
                let wanted = R::steps_of(run_seed);
                let before = begun.fetch_add(wanted, Ordering::Relaxed);
                let Err(failed_step) = Self::run::<R>(run_seed, wanted.min(steps.saturating_sub(before)), &seen) else {
                    continue;
                };
                // A long simulation ends at its first failure.
                begun.store(steps, Ordering::Relaxed);
                panic!(
                    "the run of seed {run_seed} failed, for the reason above. To repeat it: \
                     CORTEX_SIM_SEED={run_seed} CORTEX_SIM_STEPS={failed_step} {}",
                    self.command
                );
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(run_seeds);
            }
        });
        if steps >= self.steps {
            let seen = seen.into_inner().expect("no run has failed").0;
            let is_rare = |what: &&&str| seen.get(**what).is_none_or(|times| *times < self.times_min);
            let rare: Vec<_> = self.situations.iter().filter(is_rare).collect();
            assert!(rare.is_empty(), "these were hardly met, so hardly tested: {rare:?} of {seen:?}");
        }
    }

    /// Runs one seed.
    ///
    /// # Errors
    /// The number of steps up to and including the one that failed.
    fn run<R: SeededRun>(seed: u64, steps: u64, seen: &Mutex<SituationCounts>) -> Result<(), u64> {
        let mut reached = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut run = R::start(seed);
            for step in 0..steps {
                reached = step + 1;
                run.step(step);
            }
            run.finish()
        }));
        let seen_here = outcome.map_err(|_| reached)?;
        let mut seen = seen.lock().expect("the lock is held without a panic");
        seen_here.0.into_iter().for_each(|(what, times)| seen.add(what, times));
        Ok(())
    }
}
