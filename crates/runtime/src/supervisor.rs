//! The supervisor: reconciles the running servers and workers with the state of the engine.
//!
//! It receives the ids of changed allocations, reads their state, and starts or ends what they hold. Because it reads
//! the whole state of an allocation rather than the change, the same code works after a restart and after missed
//! changes. It reports to the engine when everything that an allocation holds is ready, and when nothing of it is left.

mod instances;
mod pool;
mod reports;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::leases::{InstanceKey, Leases};
use super::ports::Ports;
use super::process::child::Spawner;
use super::service::{SERVER_GRACE, Service, ServiceKind, Timing, wait_until_running, without_lines};
use super::worker::{WORKER_START_TIMEOUT, WorkerCommand, servers_json};
use cortex_core::allocation::{Reservation, ServerHold, State};
use cortex_core::ids::{AllocationId, FencingToken, JobId};
use cortex_core::ports::Port;
use cortex_core::provisioning::Provisioning;
use cortex_core::time::Millis;
use cortex_core::view::{AllocationView, Filter};
use cortex_engine::{EngineError, EngineHandle};
use cortex_managed::RuntimeRequest;
use instances::ServerInstance;
pub(super) use pool::Pool;

/// The time between two reconciliations of instances and of the pool.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// The allocations of one page of a listing.
const PAGE: usize = 1_000;

/// The most concurrent measurements of processes. Each reads the whole process table of the machine and keeps a core
/// busy, so that more would only take cores from the servers and workers.
const MEASUREMENTS_MAX: usize = 2;

/// The running servers and workers, and the allocations that hold them.
pub(super) struct Supervisor {
    pub(super) engine: EngineHandle,
    /// Absent if no servers are run.
    pub(super) catalog: Option<watch::Receiver<Arc<Catalog>>>,
    pub(super) spawner: Arc<Spawner>,
    pub(super) timing: Timing,
    pub(super) leases: Arc<Leases>,
    pub(super) ports: Ports,
    pub(super) requests: mpsc::Receiver<RuntimeRequest>,
    /// The published number of processes.
    pub(super) running: watch::Sender<usize>,
    instances: BTreeMap<InstanceKey, ServerInstance>,
    /// The command of workers; absent if no workers are run.
    worker: Option<Arc<WorkerCommand>>,
    /// Workers by their ids.
    workers: BTreeMap<String, LeasedWorker>,
    /// The agents of the pool; absent if agents could not reach the manager.
    pool: Option<Pool>,
    allocations: BTreeMap<AllocationId, AllocationState>,
    /// Waits for all that an allocation holds to be ready, and their results.
    starting: JoinSet<(AllocationId, Result<(), String>)>,
    /// Waits for the end of all that belongs to an allocation, and what to report then.
    ending: JoinSet<(AllocationId, Ended)>,
    /// Tasks of instances that are ending because no allocation holds them.
    ending_instances: BTreeMap<InstanceKey, JoinHandle<()>>,
    /// The permits for measurements of processes.
    measurements: Arc<Semaphore>,
}

/// A worker of an allocation.
struct LeasedWorker {
    service: Service,
    allocation: AllocationId,
    job: JobId,
    port: Port,
}

/// A server or worker that a grant waits for: its name, and the wait until it is ready, or the reason why it is not.
type ReadyWait = (String, BoxFuture<'static, Result<(), String>>);

/// The phase of an allocation in the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AllocationPhase {
    /// Its servers and workers are being started, and the engine waits for them.
    Starting,
    /// The engine has activated it.
    Active,
    /// Its workers and the instances that it owns are being ended.
    Ending,
}

/// The server instances and workers of an allocation.
struct AllocationState {
    job: JobId,
    phase: AllocationPhase,
    instances: BTreeSet<InstanceKey>,
    workers: Vec<String>,
}

/// What to report to the engine when nothing of an allocation is left.
enum Ended {
    /// A server or worker did not start, for this reason.
    Failed(String),
    Released,
}

impl Supervisor {
    pub(super) fn new(
        engine: EngineHandle,
        catalog: Option<watch::Receiver<Arc<Catalog>>>,
        (spawner, timing): (Arc<Spawner>, Timing),
        (leases, ports): (Arc<Leases>, Ports),
        (requests, running): (mpsc::Receiver<RuntimeRequest>, watch::Sender<usize>),
        (worker, pool): (Option<Arc<WorkerCommand>>, Option<Pool>),
    ) -> Self {
        Self {
            engine,
            catalog,
            spawner,
            timing,
            leases,
            ports,
            requests,
            running,
            instances: BTreeMap::new(),
            worker,
            workers: BTreeMap::new(),
            pool,
            allocations: BTreeMap::new(),
            starting: JoinSet::new(),
            ending: JoinSet::new(),
            ending_instances: BTreeMap::new(),
            measurements: Arc::new(Semaphore::new(MEASUREMENTS_MAX)),
        }
    }

    /// Reconciles until `stop` is cancelled or the engine ends, and then ends everything that runs.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.engine.changes();
        self.reconcile_all().await;
        let mut ticks = interval(RECONCILE_INTERVAL);
        let mut is_catalog_watched = self.catalog.is_some();
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                change = changes.recv() => match change {
                    Ok(change) => {
                        for allocation in &change.allocations {
                            self.reconcile(*allocation).await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.reconcile_all().await,
                    Err(RecvError::Closed) => break,
                },
                Some(started) = self.starting.join_next() => {
                    if let Ok((allocation, started)) = started {
                        self.handle_started(allocation, started).await;
                    }
                }
                Some(ended) = self.ending.join_next() => {
                    if let Ok((allocation, ended)) = ended {
                        self.handle_ended(allocation, ended).await;
                    }
                }
                Some(request) = self.requests.recv() => self.handle_request(request),
                _ = ticks.tick() => {
                    self.reconcile_instances();
                    self.reconcile_pool().await;
                }
                changed = changed(&mut self.catalog), if is_catalog_watched => {
                    is_catalog_watched = changed.is_ok();
                    self.apply_catalog().await;
                }
            }
            let pool = self.pool.as_ref().map_or(0, Pool::processes);
            let ending = self.ending_instances.len() + self.ending.len();
            self.running.send_replace(self.instances.len() + self.workers.len() + pool + ending);
        }
        self.end().await;
    }

    /// Ends everything that runs, concurrently.
    async fn end(mut self) {
        // The engine ends when its last handle is dropped, and need not wait for the processes.
        drop(self.engine);
        self.leases.close();
        self.starting.abort_all();
        for instance in self.instances.values_mut() {
            instance.serving = None;
        }
        let mut ends: JoinSet<()> = JoinSet::new();
        let instances = std::mem::take(&mut self.instances).into_values().map(|instance| instance.server.end());
        let workers = std::mem::take(&mut self.workers).into_values().map(|worker| worker.service.end());
        let agents = self.pool.take().into_iter().flat_map(Pool::end);
        let ending = std::mem::take(&mut self.ending_instances).into_values();
        for end in instances.chain(workers).chain(agents).chain(ending) {
            ends.spawn(async move { drop(end.await) });
        }
        while ends.join_next().await.is_some() {}
        while self.ending.join_next().await.is_some() {}
        self.running.send_replace(0);
    }

    /// Reconciles all live allocations, and those that were live before.
    async fn reconcile_all(&mut self) {
        let mut live: BTreeSet<AllocationId> = self.allocations.keys().copied().collect();
        for state in [State::Pending, State::Active, State::Releasing] {
            let mut after = FencingToken::new(0);
            loop {
                let page = self.engine.read(move |state_now, now| {
                    let filter = Filter { state: Some(state), job: None };
                    let views = state_now.cluster.list(now, &filter, after).take(PAGE);
                    let reservations = views.map(|view| view.allocation.reservation);
                    reservations.map(|reserved| (reserved.fencing_token, reserved.allocation)).collect::<Vec<_>>()
                });
                let Ok(page) = page.await else { break };
                let Some((last, _)) = page.last() else { break };
                after = *last;
                live.extend(page.into_iter().map(|(_, allocation)| allocation));
            }
        }
        for allocation in live {
            self.reconcile(allocation).await;
        }
    }

    /// Reconciles the servers and workers of an allocation with its state in the engine.
    async fn reconcile(&mut self, allocation: AllocationId) {
        let read = self.engine.read(move |state, now| state.cluster.allocation(now, allocation));
        // After an error its batch was not committed: the next change causes another reconciliation.
        let Ok(view) = read.await else { return };
        let phase = self.allocations.get(&allocation).map(|allocation| allocation.phase);
        match (view.as_ref().map(|view| view.allocation.state()), phase) {
            (Some(State::Pending | State::Active), None) => {
                if let Some(view) = view {
                    self.start_allocation(&view);
                }
            }
            (Some(State::Active), Some(_)) => {
                if let Some(view) = view {
                    self.leases.update(&view);
                }
            }
            (Some(State::Releasing), None | Some(AllocationPhase::Starting | AllocationPhase::Active)) => {
                self.stop_allocation(allocation, Ended::Released);
            }
            // It ended without waiting for the runtime: it was granted without provisioning, or the state was replaced.
            (
                None | Some(State::Released | State::Failed),
                Some(AllocationPhase::Starting | AllocationPhase::Active),
            ) => {
                self.stop_allocation(allocation, Ended::Released);
            }
            _ => {}
        }
    }

    /// Starts the servers and workers of an allocation, and waits for them unless the allocation is active already.
    fn start_allocation(&mut self, view: &AllocationView) {
        let reservation = &view.allocation.reservation;
        let allocation = reservation.allocation;
        let is_new = view.allocation.state() == State::Pending;
        let has_workers = self.worker.is_some() && reservation.workers.count() > 0;
        let holds = if self.catalog.is_some() { &reservation.servers[..] } else { &[] };
        if !is_new && !has_workers && holds.is_empty() {
            return;
        }
        let mut instances = BTreeSet::new();
        let mut waits = Vec::new();
        for hold in holds {
            let key = InstanceKey { name: hold.name.clone(), owner: hold.is_private.then_some(allocation) };
            let instance = self.hold(&key, hold, allocation);
            // A server that does not answer in time counts as failed only after it was ended.
            let within = instance.entry.start_timeout + 2 * SERVER_GRACE;
            let starts = instance.server.status().starts;
            let name = format!("MCP server {:?}", hold.name.as_str());
            let wait = match instance.unserved() {
                // Its clients would connect to a foreign process, and send it their tokens.
                Some(why) => std::future::ready(Err(why)).boxed(),
                None => wait_until_running(instance.server.watch(), starts, within).boxed(),
            };
            waits.push((name, wait));
            instances.insert(key);
        }
        // Before the grant is answered, since a worker may call its servers as soon as it starts.
        self.leases.admit(view, instances.clone());
        let workers = self.start_workers(reservation, &mut waits);
        let phase = if is_new { AllocationPhase::Starting } else { AllocationPhase::Active };
        let job = reservation.job.clone();
        self.allocations.insert(allocation, AllocationState { job, phase, instances, workers });
        if is_new {
            self.starting.spawn(async move {
                let waits = waits.into_iter().map(|(name, wait)| async move {
                    wait.await.map_err(|why| format!("{name} cannot be used: {why}"))
                });
                let started = futures_util::future::try_join_all(waits).await;
                (allocation, started.map(drop))
            });
        }
    }

    /// Starts the workers of an allocation, if a command for them is set, and returns their ids.
    fn start_workers(&mut self, reservation: &Reservation, waits: &mut Vec<ReadyWait>) -> Vec<String> {
        let Some(command) = self.worker.clone() else { return Vec::new() };
        let endpoint = |hold: &ServerHold| {
            let key = InstanceKey { name: hold.name.clone(), owner: hold.is_private.then_some(reservation.allocation) };
            let remote = self.instances.get(&key).and_then(|instance| reports::url(&instance.entry));
            (hold.name.to_string(), remote.unwrap_or_else(|| hold.port.endpoint()))
        };
        let servers: Vec<_> = reservation.servers.iter().map(endpoint).collect();
        let token = self.leases.token(reservation.allocation, reservation.fencing_token);
        let servers = servers_json(&servers, token.as_deref());
        let mut ids = Vec::new();
        for (number, port) in reservation.workers.iter() {
            let id = number.worker_id(&reservation.job);
            let worker = command.worker(reservation, number, port, servers.clone());
            let with = (Arc::clone(&self.spawner), self.timing);
            let service = Service::start(id.clone(), ServiceKind::Worker(worker), with, None);
            let within = WORKER_START_TIMEOUT + command.grace + SERVER_GRACE;
            waits.push((format!("worker {id}"), wait_until_running(service.watch(), 0, within).boxed()));
            let (allocation, job) = (reservation.allocation, reservation.job.clone());
            self.workers.insert(id.clone(), LeasedWorker { service, allocation, job, port });
            ids.push(id);
        }
        ids
    }

    /// Releases the instances of an allocation, and ends its workers and the instances that it owns. Reports `ended` to
    /// the engine when none of them is left.
    fn stop_allocation(&mut self, allocation: AllocationId, ended: Ended) {
        self.leases.end(allocation);
        let (keys, workers) = match self.allocations.get_mut(&allocation) {
            Some(state) => {
                state.phase = AllocationPhase::Ending;
                (std::mem::take(&mut state.instances), std::mem::take(&mut state.workers))
            }
            None => (BTreeSet::new(), Vec::new()),
        };
        let workers = workers.iter().filter_map(|id| self.workers.remove(id));
        let mut ends: Vec<JoinHandle<()>> = workers.map(|worker| worker.service.end()).collect();
        for key in keys {
            let Some(instance) = self.instances.get_mut(&key) else { continue };
            instance.holders.remove(&allocation);
            if let Some(endpoint) = &instance.endpoint {
                endpoint.end_allocation(allocation);
            }
            if key.owner.is_some() {
                ends.extend(self.remove(&key));
            } else if instance.holders.is_empty() {
                instance.idle_since = Some(Instant::now());
            }
        }
        self.end_idle();
        self.ending.spawn(async move {
            for end in ends {
                // A task that panicked has ended as well.
                let _ = end.await;
            }
            (allocation, ended)
        });
    }

    /// Reports to the engine that all of an allocation is ready, or stops the allocation if something did not start.
    async fn handle_started(&mut self, allocation: AllocationId, started: Result<(), String>) {
        let state = self.allocations.get_mut(&allocation).filter(|state| state.phase == AllocationPhase::Starting);
        let Some(state) = state else { return };
        match started {
            Ok(()) => match self.engine.activate(allocation).await {
                Ok(()) => state.phase = AllocationPhase::Active,
                // It is being released, or its batch was not committed: another reconciliation follows.
                Err(error) => {
                    tracing::debug!(%allocation, %error, "allocation was not activated");
                    if matches!(error, EngineError::NotCommitted) {
                        self.allocations.remove(&allocation);
                        self.reconcile(allocation).await;
                    }
                }
            },
            Err(why) => self.stop_allocation(allocation, Ended::Failed(why)),
        }
    }

    /// Reports to the engine that nothing of an allocation is left.
    async fn handle_ended(&mut self, allocation: AllocationId, ended: Ended) {
        let reported = match ended {
            Ended::Failed(why) => match self
                .engine
                .fail_activation(allocation, Arc::from(without_lines(&why)), Arc::from(why.as_str()))
                .await
            {
                // It was released while it failed.
                Err(EngineError::Denied(_)) => self.engine.finish_release(allocation).await,
                reported => reported,
            },
            Ended::Released => self.engine.finish_release(allocation).await,
        };
        self.allocations.remove(&allocation);
        if let Err(EngineError::NotCommitted) = reported {
            self.reconcile(allocation).await;
        }
    }

    /// Applies the current catalog to new grants. Instances that run keep their entry until no allocation holds them.
    async fn apply_catalog(&mut self) {
        let Some(watched) = &mut self.catalog else { return };
        let catalog = watched.borrow_and_update().clone();
        tracing::info!(servers = catalog.entries.len(), "catalog applied");
        let provisioning = provisioning(Some(&catalog), self.worker.as_deref());
        // An engine that has ended needs no provisioning.
        let _ = self.engine.set_provisioning(provisioning, Some(self.ports.claimer(Some(catalog)))).await;
    }

    fn current_catalog(&self) -> Option<Arc<Catalog>> {
        self.catalog.as_ref().map(|catalog| catalog.borrow().clone())
    }
}

/// Waits until the catalog changes.
async fn changed(catalog: &mut Option<watch::Receiver<Arc<Catalog>>>) -> Result<(), watch::error::RecvError> {
    match catalog {
        Some(catalog) => catalog.changed().await,
        None => std::future::pending().await,
    }
}

/// Returns the provisioning that the engine uses with this catalog and command of workers.
pub(super) fn provisioning(catalog: Option<&Catalog>, worker: Option<&WorkerCommand>) -> Provisioning {
    let entries = || catalog.iter().flat_map(|catalog| &catalog.entries);
    let servers = entries().map(|(_, entry)| entry.start_timeout + 2 * SERVER_GRACE);
    let workers = worker.map(|command| WORKER_START_TIMEOUT + command.grace + SERVER_GRACE);
    let longest = servers.chain(workers).max().unwrap_or_default();
    let default = Provisioning::default();
    let start_max = Millis(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)).max(default.start_max);
    let sharing = entries().map(|(name, entry)| (name.clone(), entry.sharing)).collect();
    Provisioning { catalog: catalog.map(|_| sharing), manages_workers: worker.is_some(), start_max, ..default }
}
