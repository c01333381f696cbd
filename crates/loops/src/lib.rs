//! The two periodic loops: the sweep and the planner. They are idempotent and take no input. The planner also runs when
//! a replan trigger is raised. A run that fails is logged, and the loop continues with the next one.

mod bottlenecks;
mod planner;
mod status;
mod sweep;

pub use planner::{PlannerOutputs, plan_capacity};
pub use status::{LastRun, LoopReport, LoopStatus};
pub use sweep::sweep_expired;

use cortex_engine::EngineError;
use cortex_planning::REPLAN_INTERVAL_MIN;
use futures_util::FutureExt;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

/// Runs `tick` once per period of the loop, starting one period from now, and each time `trigger` returns, but no
/// sooner than [`REPLAN_INTERVAL_MIN`] after the last run. Returns when the engine has stopped.
async fn every(
    status: &LoopStatus,
    mut trigger: impl AsyncFnMut(),
    mut tick: impl AsyncFnMut() -> Result<(), EngineError>,
) {
    let mut interval = interval_at(Instant::now() + status.period(), status.period());
    // After the whole process was suspended, one run replaces all that were missed.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let earliest = Instant::now() + Duration::from_millis(REPLAN_INTERVAL_MIN.0);
        tokio::select! {
            _ = interval.tick() => {}
            () = async {
                sleep_until(earliest).await;
                trigger().await;
                // The next run is due one period from here.
            } => interval.reset(),
        }
        if once(status, &mut tick).await.is_break() {
            return;
        }
    }
}

/// Runs `tick` now and records its outcome. Breaks if the engine has stopped.
async fn once(status: &LoopStatus, tick: &mut impl AsyncFnMut() -> Result<(), EngineError>) -> ControlFlow<()> {
    let (name, seconds) = (status.name(), status.period().as_secs());
    let outcome = match AssertUnwindSafe(tick()).catch_unwind().await {
        Ok(Ok(())) => "fine".to_owned(),
        Ok(Err(EngineError::Stopped)) => return ControlFlow::Break(()),
        Ok(Err(error)) => {
            tracing::error!(%error, "{name} failed: next run in {seconds} s");
            format!("failed: {error}")
        }
        Err(_) => {
            tracing::error!("{name} panicked: next run in {seconds} s");
            "panicked".to_owned()
        }
    };
    status.record(outcome);
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
        let outcome = || status.report().last.map(|last| last.outcome);
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
        let report = status.report();
        assert_eq!((report.name.as_str(), report.period_seconds, report.runs), ("test", 300, 3));
        assert_eq!(outcome().as_deref(), Some("fine"));
    }

    #[tokio::test(start_paused = true)]
    async fn triggers_bring_runs_forward_but_not_more_than_one_a_second() {
        let start = Instant::now();
        let status = LoopStatus::new("test", Duration::from_secs(30));
        let triggers = Cell::new(3);
        let mut at = Vec::new();
        let trigger = async || {
            if triggers.get() == 0 {
                pending::<()>().await;
            }
            triggers.set(triggers.get() - 1);
        };
        every(&status, trigger, async || {
            at.push(start.elapsed().as_secs());
            if at.len() == 5 { Err(EngineError::Stopped) } else { Ok(()) }
        })
        .await;
        assert_eq!(at, [1, 2, 3, 33, 63]);
    }
}
