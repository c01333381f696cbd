//! The planner: looks at demand, makes a plan, carries it out, and shows the last one; and looks for bottlenecks of the fleet.

use super::bottlenecks::Lookout;
use super::{LoopStatus, every, once};
use crate::engine::{EngineError, EngineHandle};
use crate::planning::{Action, Bottlenecks, Plan, Planner};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Plans at once and then every period of `status` until the engine has ended. Each plan is shown to whoever watches `shown`,
/// and the bottlenecks of the fleet to whoever watches `bottlenecks`.
pub async fn plan_capacity(
    engine: EngineHandle,
    planner: Arc<Mutex<Planner>>,
    status: Arc<LoopStatus>,
    shown: watch::Sender<Option<Arc<Plan>>>,
    bottlenecks: watch::Sender<Option<Arc<Bottlenecks>>>,
) {
    let mut lookout = Lookout::new(bottlenecks);
    let mut tick = async || {
        let planned = plan_once(&engine, &planner, &shown).await;
        // A plan that could not be carried out is no reason to look away.
        lookout.look(&engine).await.and(planned)
    };
    if once(&status, &mut tick).await.is_continue() {
        every(&status, tick).await;
    }
}

async fn plan_once(
    engine: &EngineHandle,
    planner: &Mutex<Planner>,
    shown: &watch::Sender<Option<Arc<Plan>>>,
) -> Result<(), EngineError> {
    let demand = engine.demand(true).await?;
    // Held for no longer than it takes to plan: whoever asks what would be done waits for that at most.
    let held = || planner.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = {
        let mut planner = held();
        let seen = planner.look(demand.at, &demand.value);
        planner.plan(&seen)
    };
    let is_new = shown
        .borrow()
        .as_ref()
        .is_none_or(|shown| (shown.action, shown.target_workers) != (plan.action, plan.target_workers));
    if is_new {
        tracing::info!(
            action = ?plan.action,
            current_workers = plan.current_workers,
            target_workers = plan.target_workers,
            utilization = plan.utilization,
            refused = plan.refused_requests,
            predicted_rate_per_minute = plan.forecast.predicted_rate_per_minute,
            reasons = plan.reasons.join("; "),
            "plan"
        );
    }
    let carried_out = if plan.action == Action::Hold {
        Ok(false)
    } else {
        engine.set_workers(plan.target_workers).await.map(|()| true)
    };
    held().note(&plan, *carried_out.as_ref().unwrap_or(&false));
    shown.send_replace(Some(Arc::new(plan)));
    carried_out.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        CpuMillis, DistinctServers, FleetSettings, JobId, Limits, MemoryMb, Metadata, Millis, Priority, Request,
        Resources, TtlSeconds, WorkerSize,
    };
    use crate::engine::clock::EngineClock;
    use crate::engine::{Engine, EngineOptions, Ticket, TokenBudget, Totals};
    use crate::journal::Nowhere;
    use crate::planning::{Bounds, Policy};
    use futures_util::FutureExt;
    use std::time::Duration;

    fn start(workers: u64) -> EngineHandle {
        let options = EngineOptions {
            totals: Totals::fixed(Resources {
                cpu_millis: CpuMillis::from_millis(100_000),
                memory_mb: MemoryMb(1_000_000),
                workers,
            }),
            worker_size: WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) },
            limits: Limits::default(),
            history_age: Millis::from_seconds(60),
            outage_grace: Millis::from_seconds(60),
            fleet: FleetSettings::default(),
            token_budget: TokenBudget::lasting(200_000),
            close_within: Duration::ZERO,
        };
        let started = Engine::start(options, Nowhere, EngineClock::system()).now_or_never();
        let (engine, handle) = started.expect("nothing to wait for").expect("books that can be set up");
        tokio::spawn(engine.run());
        handle
    }

    fn request(workers: u64) -> Request {
        Request {
            job: JobId::new("job").expect("a name"),
            servers: DistinctServers::default(),
            workers,
            priority: Priority::Normal,
            ttl_seconds: TtlSeconds::new(3_600).expect("a time to live"),
            request_id: None,
            metadata: Metadata::empty(),
        }
    }

    #[tokio::test]
    async fn a_busy_cluster_grows_and_an_idle_one_shrinks() {
        let engine = start(4);
        let policy = Policy { cooldown: Millis(0), scale_in_window: Millis(0), ..Policy::BALANCED };
        let planner = Mutex::new(Planner::new(policy, Bounds { workers_min: 2, workers_max: 10 }));
        let (show, shown) = watch::channel(None);
        // A look an hour before each: the first has nothing to go by.
        let look_before = async || {
            let demand = engine.demand(false).await.expect("a running engine");
            planner.lock().expect("nobody panics").look(demand.at.before(Millis::from_seconds(3_600)), &demand.value);
        };
        look_before().await;
        let workers = async || engine.capacity().await.expect("a running engine").value.total.workers;

        let grant = engine.request(request(4), Ticket::default()).await.expect("room");
        assert!(engine.request(request(1), Ticket::default()).await.is_err());
        plan_once(&engine, &planner, &show).await.expect("a plan");
        assert_eq!(workers().await, 6, "4 leased workers at 70 %");
        let plan = shown.borrow().clone().expect("a plan");
        assert_eq!((plan.action, plan.target_workers, plan.refused_requests), (Action::ScaleUp, 6, 1));

        look_before().await;
        engine.request(request(1), Ticket::default()).await.expect("room, now that there is more");
        engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
        plan_once(&engine, &planner, &show).await.expect("a plan");
        assert_eq!(workers().await, 2, "1 leased worker at 70 %");
        let plan = shown.borrow().clone().expect("a plan");
        assert_eq!((plan.action, plan.granted_requests, plan.refused_requests), (Action::ScaleDown, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_plans_at_once_and_then_every_period() {
        let engine = start(4);
        let (show, mut shown) = watch::channel(None::<Arc<Plan>>);
        let (show_bottlenecks, bottlenecks) = watch::channel(None);
        let planner = Planner::new(Policy::BALANCED, Bounds { workers_min: 4, workers_max: 4 });
        let planner = Arc::new(Mutex::new(planner));
        let start = tokio::time::Instant::now();
        let looking = async {
            for expected_seconds in [0, 30, 60] {
                shown.changed().await.expect("a planner");
                assert_eq!(start.elapsed(), Duration::from_secs(expected_seconds));
                assert_eq!(shown.borrow().as_ref().expect("a plan").action, Action::Hold);
            }
        };
        let status = Arc::new(LoopStatus::new("planner", Duration::from_secs(30)));
        tokio::select! {
            () = looking => {}
            () = plan_capacity(engine, planner, Arc::clone(&status), show, show_bottlenecks) => panic!("the loop ended"),
        }
        assert!(status.seen().runs >= 2, "the first run counts too");
        let looked = bottlenecks.borrow().clone().expect("a look");
        assert_eq!(looked.found, [], "nothing is asked of the fleet");
    }
}
