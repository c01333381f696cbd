//! A seeded simulation of the engine over its SQLite journal, with failures: commits that fail or whose reply is lost,
//! loads that fail, crashes at every step, and a clock that jumps. After each failure, everything that was acknowledged
//! is still there.

mod calls;
mod faulty;
mod known;
mod run;

use cortex_test_support::seeded_simulation::{SeededRun, SeededSimulation, SituationCounts};
use run::{Run, RunningEngine};
use tokio::runtime::{Builder, Runtime};

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
    let simulation = SeededSimulation {
        command: "cargo test -p cortex-engine --test it durable_simulation::",
        seed: SEED,
        steps: STEPS,
        situations: &SITUATIONS,
        times_min: 5,
    };
    simulation.check::<DurableRun>();
}

/// A run, and the runtime of its engines.
struct DurableRun {
    runtime: Runtime,
    run: Run,
    running: Option<RunningEngine>,
}

impl SeededRun for DurableRun {
    fn steps_of(_: u64) -> u64 {
        RUN_STEPS
    }

    fn start(seed: u64) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let mut run = Run::new(seed);
        let running = Some(runtime.block_on(run.start()));
        Self { runtime, run, running }
    }

    fn step(&mut self, _: u64) {
        let running = self.running.take().expect("each step leaves an engine");
        self.running = Some(self.runtime.block_on(self.run.step(running)));
    }

    fn finish(self) -> SituationCounts {
        let running = self.running.expect("each step leaves an engine");
        self.runtime.block_on(self.run.finish(running))
    }
}
