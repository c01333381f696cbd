//! The two loops that run by themselves: the sweep and the planner. They are idempotent, take no input, and run on a
//! period. A tick that fails is logged, and the loop runs again at its next.

mod planner;
mod sweep;

pub use planner::plan_capacity;
pub use sweep::sweep_expired;

use crate::engine::EngineError;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Runs `tick` every `period`, the first time after one, until the engine has ended.
async fn every(name: &'static str, period: Duration, mut tick: impl AsyncFnMut() -> Result<(), EngineError>) {
    let mut interval = interval_at(Instant::now() + period, period);
    // After a pause of the whole process one tick makes up for all that were missed.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match AssertUnwindSafe(tick()).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(EngineError::Stopped)) => return,
            Ok(Err(error)) => tracing::error!(%error, "the {name} failed; it runs again in {} s", period.as_secs()),
            Err(_) => tracing::error!("the {name} panicked; it runs again in {} s", period.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_fails_or_panics_runs_again_at_its_next_tick() {
        let ticks = Cell::new(0);
        let start = Instant::now();
        every("test", Duration::from_secs(300), async || {
            ticks.set(ticks.get() + 1);
            match ticks.get() {
                1 => Err(EngineError::Fault),
                2 => panic!("on purpose"),
                3 => Ok(()),
                _ => Err(EngineError::Stopped),
            }
        })
        .await;
        assert_eq!(ticks.get(), 4);
        assert_eq!(start.elapsed(), Duration::from_secs(1200));
    }
}
