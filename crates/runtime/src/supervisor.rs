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

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use thiserror::Error;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::leases::{InstanceKey, Leases};
use super::ports::Ports;
use super::service::{Failure, SERVER_GRACE, Service, ServiceKind, ServiceOptions, wait_until_running};
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
    pub(super) services: ServiceOptions,
    pub(super) leases: Arc<Leases>,
    pub(super) ports: Ports,
    instances: BTreeMap<InstanceKey, ServerInstance>,
    /// The command of workers; absent if no workers are run.
    worker: Option<Arc<WorkerCommand>>,
    /// Workers by their ids.
    workers: BTreeMap<String, LeasedWorker>,
    /// The agents of the pool; absent if agents could not reach the manager.
    pool: Option<Pool>,
    allocations: BTreeMap<AllocationId, AllocationState>,
    /// Waits for all that an allocation holds to be ready, and their results.
    starting: JoinSet<(AllocationId, Result<(), StartFailure>)>,
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

/// The wait of a grant until a server or worker is ready.
type ReadyWait = BoxFuture<'static, Result<(), StartFailure>>;

/// Why a server or worker that a grant waits for cannot be used. `Display` has nothing that the process wrote, which
/// may be secret: it is recorded in the state.
#[derive(Debug, Error)]
#[error("{subject} cannot be used: {failure}")]
struct StartFailure {
    /// The server or worker.
    subject: String,
    failure: Arc<Failure>,
}

impl StartFailure {
    /// Returns the text for the client that requested the grant, with the last lines of standard error.
    fn with_stderr(&self) -> String {
        format!("{} cannot be used: {}", self.subject, self.failure.with_stderr())
    }
}

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
    /// A server or worker did not start.
    Failed(StartFailure),
    Released,
}

impl Supervisor {
    pub(super) fn new(
        engine: EngineHandle,
        catalog: Option<watch::Receiver<Arc<Catalog>>>,
        services: ServiceOptions,
        leases: Arc<Leases>,
        ports: Ports,
        worker: Option<Arc<WorkerCommand>>,
        pool: Option<Pool>,
    ) -> Self {
        Self {
            engine,
            catalog,
            services,
            leases,
            ports,
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

    /// Reconciles and handles requests until `stop` is cancelled or the engine ends, and then ends everything that
    /// runs. `running` publishes the number of processes.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<RuntimeRequest>,
        running: watch::Sender<usize>,
        stop: CancellationToken,
    ) {
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
                Some(request) = requests.recv() => self.handle_request(request),
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
            running.send_replace(self.instances.len() + self.workers.len() + pool + ending);
        }
        self.end().await;
        running.send_replace(0);
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
            let subject = format!("MCP server {:?}", hold.name.as_str());
            waits.push(match instance.unserved() {
                // Its clients would connect to a foreign process, and send it their tokens.
                Some(failure) => std::future::ready(Err(StartFailure { subject, failure })).boxed(),
                None => ready_wait(subject, wait_until_running(instance.server.watch(), starts, within)),
            });
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
            let service = Service::start(id.clone(), ServiceKind::Worker(worker), self.services.clone(), None);
            let within = WORKER_START_TIMEOUT + command.grace + SERVER_GRACE;
            waits.push(ready_wait(format!("worker {id}"), wait_until_running(service.watch(), 0, within)));
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
    async fn handle_started(&mut self, allocation: AllocationId, started: Result<(), StartFailure>) {
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
            Err(failure) => self.stop_allocation(allocation, Ended::Failed(failure)),
        }
    }

    /// Reports to the engine that nothing of an allocation is left.
    async fn handle_ended(&mut self, allocation: AllocationId, ended: Ended) {
        let reported = match ended {
            Ended::Failed(failure) => {
                let (error, caller_error) = (failure.to_string().into(), failure.with_stderr().into());
                match self.engine.fail_activation(allocation, error, caller_error).await {
                    // It was released while it failed.
                    Err(EngineError::Denied(_)) => self.engine.finish_release(allocation).await,
                    reported => reported,
                }
            }
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

fn ready_wait(subject: String, running: impl Future<Output = Result<(), Arc<Failure>>> + Send + 'static) -> ReadyWait {
    running.map_err(|failure| StartFailure { subject, failure }).boxed()
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
