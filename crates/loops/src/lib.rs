//! The two loops that run by themselves: the sweep and the planner. They are idempotent, take no input, and run on a
//! period, the planner on a call too. A tick that fails is logged, and the loop runs again at its next.

mod bottlenecks;
mod planner;
mod status;
mod sweep;

pub use planner::{Show, plan_capacity};
pub use status::{LastRun, LoopSeen, LoopStatus};
pub use sweep::sweep_expired;

use cortex_engine::EngineError;
use cortex_planning::REPLAN_INTERVAL_MIN;
use futures_util::FutureExt;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

/// Runs `tick` a period of the loop after the last one, the first time after one, and whenever it is `called` for (but no sooner than so long after the last), until the engine has ended.
async fn every(
    status: &LoopStatus,
    mut called: impl AsyncFnMut(),
    mut tick: impl AsyncFnMut() -> Result<(), EngineError>,
) {
    let mut interval = interval_at(Instant::now() + status.period(), status.period());
    // After a pause of the whole process one tick makes up for all that were missed.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let earliest = Instant::now() + Duration::from_millis(REPLAN_INTERVAL_MIN.0);
        tokio::select! {
            _ = interval.tick() => {}
            () = async {
                sleep_until(earliest).await;
                called().await;
                // The next one is due a period from here, and not a moment later.
            } => interval.reset(),
        }
        if once(status, &mut tick).await.is_break() {
            return;
        }
    }
}

/// Runs `tick` now and notes how it ended; breaks if the engine has ended.
async fn once(status: &LoopStatus, tick: &mut impl AsyncFnMut() -> Result<(), EngineError>) -> ControlFlow<()> {
    let (name, seconds) = (status.name(), status.period().as_secs());
    let outcome = match AssertUnwindSafe(tick()).catch_unwind().await {
        Ok(Ok(())) => "fine".to_owned(),
        Ok(Err(EngineError::Stopped)) => return ControlFlow::Break(()),
        Ok(Err(error)) => {
            tracing::error!(%error, "the {name} failed; it runs again in {seconds} s");
            format!("failed: {error}")
        }
        Err(_) => {
            tracing::error!("the {name} panicked; it runs again in {seconds} s");
            "panicked".to_owned()
        }
    };
    status.note(outcome);
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_fails_or_panics_runs_again_at_its_next_tick() {
        let ticks = Cell::new(0);
        let start = Instant::now();
        let status = LoopStatus::new("test", Duration::from_secs(300));
        let outcome = || status.seen().last.map(|last| last.outcome);
        every(&status, pending, async || {
            ticks.set(ticks.get() + 1);
            match ticks.get() {
                1 => Err(EngineError::Fault),
                2 => {
                    assert!(outcome().expect("a run").starts_with("failed: "));
                    panic!("on purpose")
                }
                3 => {
                    assert_eq!(outcome().as_deref(), Some("panicked"));
                    Ok(())
                }
                _ => Err(EngineError::Stopped),
            }
        })
        .await;
        assert_eq!(ticks.get(), 4);
        assert_eq!(start.elapsed(), Duration::from_secs(1200));
        let seen = status.seen();
        assert_eq!((seen.name.as_str(), seen.period_seconds, seen.runs), ("test", 300, 3));
        assert_eq!(outcome().as_deref(), Some("fine"));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_bring_ticks_forward_but_no_more_than_one_a_second() {
        let start = Instant::now();
        let status = LoopStatus::new("test", Duration::from_secs(30));
        let calls = Cell::new(3);
        let mut at = Vec::new();
        let called = async || {
            if calls.get() == 0 {
                pending::<()>().await;
            }
            calls.set(calls.get() - 1);
        };
        every(&status, called, async || {
            at.push(start.elapsed().as_secs());
            if at.len() == 5 { Err(EngineError::Stopped) } else { Ok(()) }
        })
        .await;
        assert_eq!(at, [1, 2, 3, 33, 63]);
    }
}
