//! The runner of seeded simulations: runs with consecutive seeds, on all processors, until enough steps are done.

use crate::setting::setting;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often each situation occurred.
pub type SituationCounts = BTreeMap<&'static str, u64>;

/// The runs of a simulation.
pub struct SeededRuns {
    /// The seed of the first run, unless `CORTEX_SIM_SEED` sets another.
    pub seed: u64,
    /// The number of steps that `cargo test` runs, unless `CORTEX_SIM_STEPS` sets another.
    pub steps: u64,
    /// The situations that have to occur within that number of steps.
    pub situations: &'static [&'static str],
    /// How often each of these has to occur.
    pub times_min: u64,
}

impl SeededRuns {
    /// Runs the simulation. `steps_of` returns the number of steps for a seed, and `run` runs a seed for a number of
    /// steps.
    pub fn run(&self, steps_of: impl Fn(u64) -> u64 + Sync, run: impl Fn(u64, u64) -> SituationCounts + Sync) {
        let seed = setting("CORTEX_SIM_SEED", self.seed);
        let steps = setting("CORTEX_SIM_STEPS", self.steps);
        let (next_run, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        let seen = Mutex::new(SituationCounts::new());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while begun.load(Ordering::Relaxed) < steps {
                        let run_seed = seed.wrapping_add(next_run.fetch_add(1, Ordering::Relaxed));
                        let wanted = steps_of(run_seed);
                        let before = begun.fetch_add(wanted, Ordering::Relaxed);
                        let seen_here = run(run_seed, wanted.min(steps.saturating_sub(before)));
                        let mut seen = seen.lock().expect("no other run has failed");
                        for (what, times) in seen_here {
                            *seen.entry(what).or_default() += times;
                        }
                    }
                });
            }
        });
        if steps >= self.steps {
            let seen = seen.into_inner().expect("no run has failed");
            let is_rare = |what: &&&str| seen.get(**what).is_none_or(|times| *times < self.times_min);
            let rare: Vec<_> = self.situations.iter().filter(is_rare).collect();
            assert!(rare.is_empty(), "these were hardly met, so hardly tested: {rare:?} of {seen:?}");
        }
    }
}
