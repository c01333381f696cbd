//! Task durations, which depend on the task and not on the agent.

use cortex_core::ids::TaskId;
use cortex_core::time::Millis;
use fastrand::Rng;

/// Exponentially distributed durations with a given mean, generated from the seed and the id of the task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Durations {
    seed: u64,
    mean: f64,
}

impl Durations {
    pub(super) const fn new(seed: u64, mean: Millis) -> Self {
        Self { seed, mean: mean.0 as f64 }
    }

    /// Returns the duration of a task; at least 1 ms.
    pub(super) fn of(self, task: &TaskId) -> Millis {
        // FNV-1a, which is stable across platforms; the generator mixes it further.
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = task.as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64 ^ self.seed, step);
        let uniform = 1.0 - Rng::with_seed(hash).f64();
        Millis(((-uniform.ln() * self.mean).round() as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exponential_and_depend_on_the_task() {
        let durations = Durations::new(1, Millis::from_seconds(30));
        let of = |draw: u64| durations.of(&TaskId::from_bits(draw)).0;
        let mut all: Vec<u64> = (0..100_000).map(of).collect();
        all.sort_unstable();
        let mean = all.iter().sum::<u64>() as f64 / all.len() as f64;
        assert!((mean - 30_000.0).abs() < 500.0, "a mean of {mean} ms");
        // Half of the values are below ln 2 of the mean, and 5 % above ln 20.
        let (median, p95) = (all[50_000] as f64 / 30_000.0, all[95_000] as f64 / 30_000.0);
        assert!((median - 2_f64.ln()).abs() < 0.02, "{median}");
        assert!((p95 - 20_f64.ln()).abs() < 0.06, "{p95}");
        assert_eq!(of(7), of(7));
        assert_ne!(Durations::new(2, Millis::from_seconds(30)).of(&TaskId::from_bits(7)).0, of(7), "another seed");
    }
}
