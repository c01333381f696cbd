//! The frame of the seeded simulations: runs of seeds that follow each other, on all processors, until enough steps are run.

use crate::setting::setting;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often each situation was met.
pub type Seen = BTreeMap<&'static str, u64>;

/// What is to be run.
pub struct Plan {
    /// The seed of the first run; `CORTEX_SIM_SEED` gives another.
    pub seed: u64,
    /// How many steps `cargo test` runs; `CORTEX_SIM_STEPS` gives another number.
    pub steps: u64,
    /// What that many steps have to meet to be worth their time.
    pub situations: &'static [&'static str],
    /// How often each of these has to be met.
    pub times_min: u64,
}

impl Plan {
    /// Runs it: `steps_of` says how many steps the run of a seed has, `run` runs a seed for so many.
    pub fn run(&self, steps_of: impl Fn(u64) -> u64 + Sync, run: impl Fn(u64, u64) -> Seen + Sync) {
        let seed = setting("CORTEX_SIM_SEED", self.seed);
        let steps = setting("CORTEX_SIM_STEPS", self.steps);
        let (next_run, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        let seen = Mutex::new(Seen::new());
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
