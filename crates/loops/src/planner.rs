//! The planner loop: samples demand, updates the forecast, checks for bottlenecks, makes a plan, applies and publishes
//! it.

use super::bottlenecks::BottleneckMonitor;
use super::{LoopStatus, every, once};
use cortex_core::command::Command;
use cortex_core::time::Timestamp;
use cortex_engine::{EngineError, EngineHandle, EngineState};
use cortex_planning::{Action, Bottlenecks, Plan, Planner};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many bins of demand are learned between two yields: less than a millisecond of work.
const BINS_PER_YIELD: usize = 32;

/// The channels on which the planner publishes its results.
#[derive(Debug)]
pub struct PlannerOutputs {
    /// The last plan.
    pub plan: watch::Sender<Option<Arc<Plan>>>,
    /// The bottlenecks of the last check.
    pub bottlenecks: watch::Sender<Option<Arc<Bottlenecks>>>,
    /// The start of the last bin of demand that the forecasts include.
    pub forecast: watch::Sender<Option<Timestamp>>,
}

/// Plans immediately, then once per period of `status` and whenever a replan trigger is raised, until the engine has
/// stopped.
pub async fn plan_capacity(
    engine: EngineHandle,
    planner: Arc<Mutex<Planner>>,
    status: Arc<LoopStatus>,
    outputs: PlannerOutputs,
) {
    let mut planning = PlannerLoop::new(outputs);
    let mut tick = async || planning.run(&engine, &planner).await;
    if once(&status, &mut tick).await.is_continue() {
        every(&status, async || engine.wait_for_replan().await, tick).await;
    }
}

struct PlannerLoop {
    monitor: BottleneckMonitor,
    plan: watch::Sender<Option<Arc<Plan>>>,
    forecast: watch::Sender<Option<Timestamp>>,
}

impl PlannerLoop {
    fn new(PlannerOutputs { plan, bottlenecks, forecast }: PlannerOutputs) -> Self {
        Self { monitor: BottleneckMonitor::new(bottlenecks), plan, forecast }
    }

    /// Samples demand, learns, checks for bottlenecks, plans, and applies the plan. A step that fails is logged and the
    /// others continue. Without a sample of the demand the run fails.
    async fn run(&mut self, engine: &EngineHandle, planner: &Mutex<Planner>) -> Result<(), EngineError> {
        let (now, demand) = engine.sample_demand().await?;
        let learned = step("update of the forecast", learn(engine, planner, now)).await;
        let bottlenecks = step("check for bottlenecks", self.monitor.check(engine)).await;
        // Locked only while it plans, since calls of `get_plan` wait for the lock.
        let (plan, scaling) = {
            let mut planner = lock(planner);
            let seen = planner.sample(now, &demand);
            let plan = planner.plan(&seen, bottlenecks.as_deref().ok());
            let scaling = planner.scaling(&plan);
            (plan, scaling)
        };
        self.log(&plan);
        let planned = if plan.failed_steps.is_empty() { Ok(()) } else { Err(EngineError::Fault) };
        let applied = match scaling {
            Some(scaling) => {
                let scale = engine.execute(Command::Scale(scaling), |_, _, _| ());
                step("application of the plan", scale).await
            }
            None => Ok(()),
        };
        let shown_until = {
            let mut planner = lock(planner);
            planner.record(&plan, plan.action != Action::Hold && applied.is_ok());
            planner.demand_forecast().last_bin_start()
        };
        self.plan.send_replace(Some(Arc::new(plan)));
        self.forecast.send_if_modified(|shown| std::mem::replace(shown, shown_until) != shown_until);
        learned.and(bottlenecks.map(drop)).and(applied).and(planned)
    }

    /// Logs a plan whose targets differ from those of the last one.
    fn log(&self, plan: &Plan) {
        let goals = |plan: &Plan| (plan.action, plan.target_workers, plan.target_agents);
        if !plan.failed_steps.is_empty() {
            tracing::error!(
                steps = plan.failed_steps.join(", "),
                "steps of the planner failed: the plan was made without them"
            );
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
                "plan changed"
            );
        }
    }
}

fn lock(planner: &Mutex<Planner>) -> MutexGuard<'_, Planner> {
    planner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the bins of demand that are complete to the forecast. After a start these may cover two weeks.
async fn learn(engine: &EngineHandle, planner: &Mutex<Planner>, now: Timestamp) -> Result<(), EngineError> {
    let after = lock(planner).demand_forecast().last_bin_start();
    let read = move |state: &EngineState<'_>, _| state.cluster.demand_bins(after).copied().collect::<Vec<_>>();
    let bins = engine.read(read).await?;
    for chunk in bins.chunks(BINS_PER_YIELD) {
        lock(planner).ingest(chunk, now);
        tokio::task::yield_now().await;
    }
    lock(planner).catch_up(now);
    Ok(())
}

/// Runs a step, and logs it if it fails or panics, so that the other steps still run.
async fn step<T>(name: &str, step: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    let outcome = AssertUnwindSafe(step).catch_unwind().await.unwrap_or(Err(EngineError::Fault));
    if let Err(error) = &outcome
        && *error != EngineError::Stopped
    {
        tracing::error!(%error, "{name} failed: the planner continues without it");
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
        let (engine, handle) = started.expect("nothing to wait for").expect("a state that can be set up");
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

    type Published<T> = watch::Receiver<Option<Arc<T>>>;

    fn outputs() -> (PlannerOutputs, Published<Plan>, Published<Bottlenecks>) {
        let (plan, published_plan) = watch::channel(None);
        let (bottlenecks, published_bottlenecks) = watch::channel(None);
        let (forecast, _) = watch::channel(None);
        (PlannerOutputs { plan, bottlenecks, forecast }, published_plan, published_bottlenecks)
    }

    #[tokio::test]
    async fn a_busy_cluster_grows_and_an_idle_one_shrinks() {
        let engine = start(4);
        let impatient = Policy { cooldown_ms: Millis(0), scale_in_window_ms: Millis(0), ..PolicyName::Custom.policy() };
        engine.execute(Command::SetPolicy(impatient), |_, _, _| ()).await.expect("a running engine");
        let planner = Mutex::new(Planner::new(Bounds { workers_min: 2, workers_max: 10 }));
        let (outputs, published, _) = outputs();
        let mut planning = PlannerLoop::new(outputs);
        // A sample an hour before each plan: the first sample has no earlier one to compare with.
        let sample_before = async || {
            let read = engine.read(|state, now| (now, state.demand(now)));
            let (now, demand) = read.await.expect("a running engine");
            planner.lock().expect("no panic").sample(now.before(Millis::from_seconds(3_600)), &demand);
        };
        sample_before().await;
        let workers = async || {
            let read = engine.read(|state, now| state.cluster.capacity(now).total.workers);
            read.await.expect("a running engine")
        };

        let grant = engine.request(request(4), CancelHandle::default()).await.expect("enough capacity");
        assert!(engine.request(request(1), CancelHandle::default()).await.is_err());
        planning.run(&engine, &planner).await.expect("a plan");
        assert_eq!(workers().await, 6, "4 leased workers at 70 %");
        let plan = published.borrow().clone().expect("a plan");
        assert_eq!((plan.action, plan.target_workers, plan.refused_requests), (Action::ScaleUp, 6, 1));

        sample_before().await;
        engine.request(request(1), CancelHandle::default()).await.expect("capacity, now that there is more");
        engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
        planning.run(&engine, &planner).await.expect("a plan");
        assert_eq!(workers().await, 2, "1 leased worker at 70 %");
        let plan = published.borrow().clone().expect("a plan");
        assert_eq!((plan.action, plan.granted_requests, plan.refused_requests), (Action::ScaleDown, 1, 0));
    }

    #[tokio::test]
    async fn a_complete_bin_is_learned_and_published() {
        let seconds = Arc::new(AtomicI64::new(600));
        let clock = Arc::clone(&seconds);
        let engine = start_by(
            4,
            EngineClock::from_source(move || {
                (Timestamp::from_millis(clock.load(Ordering::Relaxed) * 1_000), Duration::ZERO)
            }),
        );
        let planner = Mutex::new(Planner::new(Bounds { workers_min: 4, workers_max: 4 }));
        let (outputs, ..) = outputs();
        let mut published = outputs.forecast.subscribe();
        let mut planning = PlannerLoop::new(outputs);
        engine.request(request(2), CancelHandle::default()).await.expect("enough capacity");
        planning.run(&engine, &planner).await.expect("a plan");
        assert!(!published.has_changed().expect("a planner"), "the bin is not over");
        seconds.store(900, Ordering::Relaxed);
        planning.run(&engine, &planner).await.expect("a plan");
        assert!(published.has_changed().expect("a planner"));
        assert_eq!(*published.borrow_and_update(), Some(Timestamp::from_millis(600_000)));
        let bins = |series| lock(&planner).demand_forecast().forecaster(series).bins();
        assert_eq!(cortex_planning::DemandSeries::ALL.map(bins), [1; 3]);
        planning.run(&engine, &planner).await.expect("a plan");
        assert!(!published.has_changed().expect("a planner"), "nothing is new");
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_plans_immediately_and_then_every_period() {
        let engine = start(4);
        let (outputs, mut published, bottlenecks) = outputs();
        let planner = Planner::new(Bounds { workers_min: 4, workers_max: 4 });
        let planner = Arc::new(Mutex::new(planner));
        let start = tokio::time::Instant::now();
        let watching = async {
            for expected_seconds in [0, 30, 60] {
                published.changed().await.expect("a planner");
                assert_eq!(start.elapsed(), Duration::from_secs(expected_seconds));
                assert_eq!(published.borrow().as_ref().expect("a plan").action, Action::Hold);
            }
        };
        let status = Arc::new(LoopStatus::new("planner", Duration::from_secs(30)));
        tokio::select! {
            () = watching => {}
            () = plan_capacity(engine, planner, Arc::clone(&status), outputs) => panic!("the loop ended"),
        }
        assert!(status.report().runs >= 2, "the first run counts too");
        let checked = bottlenecks.borrow().clone().expect("a check");
        assert_eq!(checked.found, [], "the fleet has no work");
    }
}
