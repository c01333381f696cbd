//! The planner: looks at demand, learns from it, looks for bottlenecks, makes one plan of it all, carries it out, and shows it.

use super::bottlenecks::Lookout;
use super::{LoopStatus, every, once};
use cortex_core::time::Timestamp;
use cortex_engine::{EngineError, EngineHandle};
use cortex_planning::{Action, Bottlenecks, Plan, Planner};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many bins of demand are taken in at a time: less than a millisecond of work, after which others are served.
const BINS_AT_ONCE: usize = 32;

/// Where the planner shows what it has done.
#[derive(Debug)]
pub struct Show {
    /// The last plan.
    pub plan: watch::Sender<Option<Arc<Plan>>>,
    /// The bottlenecks of the last look.
    pub bottlenecks: watch::Sender<Option<Arc<Bottlenecks>>>,
    /// When the last bin of demand began that forecasts are made from.
    pub forecast: watch::Sender<Option<Timestamp>>,
}

/// Plans at once, then every period of `status` and whenever the engine calls for it, until the engine has ended.
pub async fn plan_capacity(engine: EngineHandle, planner: Arc<Mutex<Planner>>, status: Arc<LoopStatus>, show: Show) {
    let mut planning = Planning { lookout: Lookout::new(show.bottlenecks), plan: show.plan, forecast: show.forecast };
    let mut tick = async || planning.once(&engine, &planner).await;
    if once(&status, &mut tick).await.is_continue() {
        every(&status, async || engine.planner_called().await, tick).await;
    }
}

struct Planning {
    lookout: Lookout,
    plan: watch::Sender<Option<Arc<Plan>>>,
    forecast: watch::Sender<Option<Timestamp>>,
}

impl Planning {
    /// Observes, learns, looks for bottlenecks, plans, and carries the plan out. A step that fails is logged and the others go on;
    /// only without an observation there is nothing to go on with.
    async fn once(&mut self, engine: &EngineHandle, planner: &Mutex<Planner>) -> Result<(), EngineError> {
        let demand = engine.demand(true).await?;
        let learned = step("learning from demand", learn(engine, planner, demand.at)).await;
        let looked = step("the look for bottlenecks", self.lookout.look(engine)).await;
        // Held for no longer than it takes to plan: whoever asks what would be done waits for that at most.
        let (plan, scaling) = {
            let mut planner = hold(planner);
            let seen = planner.sample(demand.at, &demand.value);
            let plan = planner.plan(&seen, looked.as_deref().ok());
            let scaling = planner.scaling(&plan);
            (plan, scaling)
        };
        self.log(&plan);
        let made = if plan.failed_steps.is_empty() { Ok(()) } else { Err(EngineError::Fault) };
        let carried_out = match scaling {
            Some(scaling) => step("carrying the plan out", engine.scale(scaling)).await,
            None => Ok(()),
        };
        let shown_until = {
            let mut planner = hold(planner);
            planner.record(&plan, plan.action != Action::Hold && carried_out.is_ok());
            planner.demand_forecast().last_bin_start()
        };
        self.plan.send_replace(Some(Arc::new(plan)));
        self.forecast.send_if_modified(|shown| std::mem::replace(shown, shown_until) != shown_until);
        learned.and(looked.map(drop)).and(carried_out).and(made)
    }

    /// Tells of a plan that is another than the last one.
    fn log(&self, plan: &Plan) {
        let goals = |plan: &Plan| (plan.action, plan.target_workers, plan.target_agents);
        if !plan.failed_steps.is_empty() {
            tracing::error!(steps = plan.failed_steps.join(", "), "steps of the plan failed: it was made without them");
        }
        if self.plan.borrow().as_ref().is_none_or(|shown| goals(shown) != goals(plan)) {
            tracing::info!(
                action = ?plan.action,
                policy = %plan.policy,
                current_workers = plan.current_workers,
                target_workers = plan.target_workers,
                current_agents = plan.current_agents,
                target_agents = plan.target_agents,
                utilization = plan.utilization,
                refused = plan.refused_requests,
                predicted_rate_per_minute = plan.forecast.predicted_rate_per_minute,
                reasons = plan.reasons.join("; "),
                "plan"
            );
        }
    }
}

fn hold(planner: &Mutex<Planner>) -> MutexGuard<'_, Planner> {
    planner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes in the bins of demand that are over since the last look. At a start these may be those of two weeks.
async fn learn(engine: &EngineHandle, planner: &Mutex<Planner>, now: Timestamp) -> Result<(), EngineError> {
    let after = hold(planner).demand_forecast().last_bin_start();
    let bins = engine.demand_bins(after).await?.value;
    for some in bins.chunks(BINS_AT_ONCE) {
        hold(planner).ingest(some, now);
        tokio::task::yield_now().await;
    }
    hold(planner).catch_up(now);
    Ok(())
}

/// Takes a step, and logs it if it fails or panics, so that the next can be taken.
async fn step<T>(name: &str, step: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    let outcome = AssertUnwindSafe(step).catch_unwind().await.unwrap_or(Err(EngineError::Fault));
    if let Err(error) = &outcome
        && *error != EngineError::Stopped
    {
        tracing::error!(%error, "{name} failed: the planner goes on without it");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::allocation::Metadata;
    use cortex_core::command::{DistinctServers, Request};
    use cortex_core::ids::JobId;
    use cortex_core::policy::{Policy, PolicyName};
    use cortex_core::priority::Priority;
    use cortex_core::time::{Millis, TtlSeconds};
    use cortex_core::units::{CpuMillis, MemoryMb, Resources};
    use cortex_engine::clock::EngineClock;
    use cortex_engine::{CancelHandle, Engine, EngineOptions};
    use cortex_journal::NullJournal;
    use cortex_planning::Bounds;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    fn start(workers: u64) -> EngineHandle {
        start_by(workers, EngineClock::system())
    }

    fn start_by(workers: u64, clock: EngineClock) -> EngineHandle {
        let (cpu_millis, memory_mb) = (CpuMillis::from_millis(100_000), MemoryMb(1_000_000));
        let options = EngineOptions::fixed(Resources { cpu_millis, memory_mb, workers });
        let started = Engine::start(options, NullJournal, clock).now_or_never();
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

    type Shown<T> = watch::Receiver<Option<Arc<T>>>;

    fn show() -> (Show, Shown<Plan>, Shown<Bottlenecks>) {
        let (plan, shown_plan) = watch::channel(None);
        let (bottlenecks, shown_bottlenecks) = watch::channel(None);
        let (forecast, _) = watch::channel(None);
        (Show { plan, bottlenecks, forecast }, shown_plan, shown_bottlenecks)
    }

    fn planning() -> (Planning, Shown<Plan>, Shown<Bottlenecks>) {
        let (Show { plan, bottlenecks, forecast }, shown, looked) = show();
        (Planning { lookout: Lookout::new(bottlenecks), plan, forecast }, shown, looked)
    }

    #[tokio::test]
    async fn a_busy_cluster_grows_and_an_idle_one_shrinks() {
        let engine = start(4);
        let impatient = Policy { cooldown_ms: Millis(0), scale_in_window_ms: Millis(0), ..PolicyName::Custom.policy() };
        engine.set_policy(impatient).await.expect("a running engine");
        let planner = Mutex::new(Planner::new(Bounds { workers_min: 2, workers_max: 10 }));
        let (mut planning, shown, ..) = planning();
        // A look an hour before each: the first has nothing to go by.
        let look_before = async || {
            let demand = engine.demand(false).await.expect("a running engine");
            planner.lock().expect("nobody panics").sample(demand.at.before(Millis::from_seconds(3_600)), &demand.value);
        };
        look_before().await;
        let workers = async || engine.capacity().await.expect("a running engine").value.total.workers;

        let grant = engine.request(request(4), CancelHandle::default()).await.expect("room");
        assert!(engine.request(request(1), CancelHandle::default()).await.is_err());
        planning.once(&engine, &planner).await.expect("a plan");
        assert_eq!(workers().await, 6, "4 leased workers at 70 %");
        let plan = shown.borrow().clone().expect("a plan");
        assert_eq!((plan.action, plan.target_workers, plan.refused_requests), (Action::ScaleUp, 6, 1));

        look_before().await;
        engine.request(request(1), CancelHandle::default()).await.expect("room, now that there is more");
        engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
        planning.once(&engine, &planner).await.expect("a plan");
        assert_eq!(workers().await, 2, "1 leased worker at 70 %");
        let plan = shown.borrow().clone().expect("a plan");
        assert_eq!((plan.action, plan.granted_requests, plan.refused_requests), (Action::ScaleDown, 1, 0));
    }

    #[tokio::test]
    async fn a_bin_that_is_over_is_learned_from_and_told() {
        let seconds = Arc::new(AtomicI64::new(600));
        let clock = Arc::clone(&seconds);
        let engine = start_by(
            4,
            EngineClock::from_source(move || {
                (Timestamp::from_millis(clock.load(Ordering::Relaxed) * 1_000), Duration::ZERO)
            }),
        );
        let planner = Mutex::new(Planner::new(Bounds { workers_min: 4, workers_max: 4 }));
        let (Show { plan, bottlenecks, forecast }, ..) = show();
        let mut told = forecast.subscribe();
        let mut planning = Planning { lookout: Lookout::new(bottlenecks), plan, forecast };
        engine.request(request(2), CancelHandle::default()).await.expect("room");
        planning.once(&engine, &planner).await.expect("a plan");
        assert!(!told.has_changed().expect("a planner"), "the bin is not over");
        seconds.store(900, Ordering::Relaxed);
        planning.once(&engine, &planner).await.expect("a plan");
        assert!(told.has_changed().expect("a planner"));
        assert_eq!(*told.borrow_and_update(), Some(Timestamp::from_millis(600_000)));
        let bins = |series| hold(&planner).demand_forecast().forecaster(series).bins();
        assert_eq!(cortex_planning::DemandSeries::ALL.map(bins), [1; 3]);
        planning.once(&engine, &planner).await.expect("a plan");
        assert!(!told.has_changed().expect("a planner"), "nothing is new");
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_plans_at_once_and_then_every_period() {
        let engine = start(4);
        let (show, mut shown, bottlenecks) = show();
        let planner = Planner::new(Bounds { workers_min: 4, workers_max: 4 });
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
            () = plan_capacity(engine, planner, Arc::clone(&status), show) => panic!("the loop ended"),
        }
        assert!(status.seen().runs >= 2, "the first run counts too");
        let looked = bottlenecks.borrow().clone().expect("a look");
        assert_eq!(looked.found, [], "nothing is asked of the fleet");
    }
}
