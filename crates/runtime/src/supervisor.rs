//! The supervisor: it has what really runs follow the books.
//!
//! It hears which allocations changed, looks at how they stand, and starts and ends what they hold; that it looks, rather
//! than being told what to do, makes it the same work after a restart, after it missed something, and at any other time.
//! When all of an allocation is there it says so, and again when nothing is left of it.

mod answers;
mod holds;
mod pool;
mod reports;

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
use super::leases::{Leases, Run};
use super::ports::Ports;
use super::process::child::Spawner;
use super::service::{Kind, SERVER_GRACE, Service, Timing, wait_until_running, without_lines};
use super::worker::{WORKER_START_TIMEOUT, WorkerCommand, servers_text};
use cortex_core::allocation::{Reservation, ServerHold, State};
use cortex_core::ids::{AllocationId, JobId};
use cortex_core::ports::Port;
use cortex_core::provisioning::Provisioning;
use cortex_core::time::Millis;
use cortex_core::view::{AllocationView, Filter};
use cortex_engine::{EngineError, EngineHandle, Listing, Record, RecordPosition};
use cortex_managed::RuntimeRequest;
use holds::Held;
pub(super) use pool::Pool;

/// How often what nobody holds is looked over.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How many allocations one page of the books has.
const PAGE: usize = 1_000;

/// How many looks at processes there are at once. Each goes through all processes of the machine and keeps a core busy
/// meanwhile, so that more would only take the cores from what is run.
const LOOKS_MAX: usize = 2;

/// What really runs, and for whom.
pub(super) struct Supervisor {
    pub(super) engine: EngineHandle,
    /// Absent where servers are only in the books.
    pub(super) catalog: Option<watch::Receiver<Arc<Catalog>>>,
    pub(super) spawner: Arc<Spawner>,
    pub(super) timing: Timing,
    pub(super) leases: Arc<Leases>,
    pub(super) ports: Ports,
    pub(super) asked: mpsc::Receiver<RuntimeRequest>,
    /// How many processes there are, for whoever asks whether they are needed.
    pub(super) running: watch::Sender<usize>,
    runs: BTreeMap<Run, Held>,
    /// What workers run; nothing where they are only in the books.
    worker: Option<Arc<WorkerCommand>>,
    /// Workers by their ids.
    workers: BTreeMap<String, HeldWorker>,
    /// Agents that are run; nothing where they could not reach the manager.
    pool: Option<Pool>,
    allocations: BTreeMap<AllocationId, Part>,
    /// Starts that are waited for, and what they came to.
    starting: JoinSet<(AllocationId, Result<(), String>)>,
    /// Ends that are waited for, each of all that was an allocation's own, and what is said then.
    ending: JoinSet<(AllocationId, Over)>,
    /// Ends of servers that nobody holds any more.
    leaving: BTreeMap<Run, JoinHandle<()>>,
    /// Who may look at processes.
    looks: Arc<Semaphore>,
}

/// A worker of an allocation.
struct HeldWorker {
    service: Service,
    allocation: AllocationId,
    job: JobId,
    port: Port,
}

/// Something that a grant waits for: what it is, and that it is there, or why not.
type Wait = (String, BoxFuture<'static, Result<(), String>>);

/// What is done for an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Starting,
    Held,
    Ending,
}

struct Part {
    job: JobId,
    step: Step,
    runs: BTreeSet<Run>,
    workers: Vec<String>,
}

/// What is said of an allocation of which nothing is left.
enum Over {
    Failed(String),
    Released,
}

impl Supervisor {
    pub(super) fn new(
        engine: EngineHandle,
        catalog: Option<watch::Receiver<Arc<Catalog>>>,
        (spawner, timing): (Arc<Spawner>, Timing),
        (leases, ports): (Arc<Leases>, Ports),
        (asked, running): (mpsc::Receiver<RuntimeRequest>, watch::Sender<usize>),
        (worker, pool): (Option<Arc<WorkerCommand>>, Option<Pool>),
    ) -> Self {
        Self {
            engine,
            catalog,
            spawner,
            timing,
            leases,
            ports,
            asked,
            running,
            runs: BTreeMap::new(),
            worker,
            workers: BTreeMap::new(),
            pool,
            allocations: BTreeMap::new(),
            starting: JoinSet::new(),
            ending: JoinSet::new(),
            leaving: BTreeMap::new(),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        }
    }

    /// Follows the books until it is told to stop, and ends all that runs then.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.engine.changes();
        self.look_at_all().await;
        let mut looks = interval(LOOK_INTERVAL);
        let mut is_catalog_watched = self.catalog.is_some();
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                change = changes.recv() => match change {
                    Ok(change) => {
                        for allocation in &change.allocations {
                            self.look_at(*allocation).await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.look_at_all().await,
                    Err(RecvError::Closed) => break,
                },
                Some(started) = self.starting.join_next() => {
                    if let Ok((allocation, started)) = started {
                        self.started(allocation, started).await;
                    }
                }
                Some(ended) = self.ending.join_next() => {
                    if let Ok((allocation, over)) = ended {
                        self.ended(allocation, over).await;
                    }
                }
                Some(ask) = self.asked.recv() => self.answer(ask),
                _ = looks.tick() => {
                    self.look_over();
                    self.tend_pool().await;
                }
                changed = changed(&mut self.catalog), if is_catalog_watched => {
                    is_catalog_watched = changed.is_ok();
                    self.take_catalog().await;
                }
            }
            let pool = self.pool.as_ref().map_or(0, Pool::processes);
            let leaving = self.leaving.len() + self.ending.len();
            self.running.send_replace(self.runs.len() + self.workers.len() + pool + leaving);
        }
        self.end().await;
    }

    /// Ends everything, side by side.
    async fn end(mut self) {
        // The engine ends when nobody can ask it any more, and that need not wait for processes.
        drop(self.engine);
        self.leases.close();
        self.starting.abort_all();
        for held in self.runs.values_mut() {
            held.serving = None;
        }
        let mut ends: JoinSet<()> = JoinSet::new();
        let runs = std::mem::take(&mut self.runs).into_values().map(|held| held.server.end());
        let workers = std::mem::take(&mut self.workers).into_values().map(|held| held.service.end());
        let agents = self.pool.take().into_iter().flat_map(Pool::end);
        for end in runs.chain(workers).chain(agents).chain(std::mem::take(&mut self.leaving).into_values()) {
            ends.spawn(async move { drop(end.await) });
        }
        while ends.join_next().await.is_some() {}
        while self.ending.join_next().await.is_some() {}
        self.running.send_replace(0);
    }

    /// Looks at every allocation that lives, and at those that were known to.
    async fn look_at_all(&mut self) {
        let mut live: BTreeSet<AllocationId> = self.allocations.keys().copied().collect();
        for state in [State::Pending, State::Active, State::Releasing] {
            let filter = Filter { state: Some(state), job: None };
            let mut after = RecordPosition::default();
            loop {
                let listing = Listing { filter: filter.clone(), after, limit: PAGE };
                let Ok(page) = self.engine.list(listing).await else { break };
                live.extend(page.entries.iter().filter_map(|record| match record {
                    Record::Allocation(view) => Some(view.allocation.reservation.allocation),
                    Record::Refusal(_) => None,
                }));
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        for allocation in live {
            self.look_at(allocation).await;
        }
    }

    /// Has what runs for an allocation follow how it stands.
    async fn look_at(&mut self, allocation: AllocationId) {
        let view = match self.engine.allocation(allocation).await {
            Ok(Some(reading)) => match reading.value {
                Record::Allocation(view) => Some(view),
                Record::Refusal(_) => None,
            },
            Ok(None) => None,
            // Its batch failed, and another look will be called for.
            Err(_) => return,
        };
        let step = self.allocations.get(&allocation).map(|part| part.step);
        match (view.as_ref().map(|view| view.allocation.state()), step) {
            (Some(State::Pending | State::Active), None) => {
                if let Some(view) = view {
                    self.begin(&view);
                }
            }
            (Some(State::Active), Some(_)) => {
                if let Some(view) = view {
                    self.leases.update(&view);
                }
            }
            (Some(State::Releasing), None | Some(Step::Starting | Step::Held)) => {
                self.let_go(allocation, Over::Released);
            }
            // It ended without a second half: it was never ours, or its books are others now.
            (None | Some(State::Released | State::Failed), Some(Step::Starting | Step::Held)) => {
                self.let_go(allocation, Over::Released);
            }
            _ => {}
        }
    }

    /// Starts what an allocation holds, and waits for it if nobody was told yet that it is there.
    fn begin(&mut self, view: &AllocationView) {
        let reservation = &view.allocation.reservation;
        let allocation = reservation.allocation;
        let is_new = view.allocation.state() == State::Pending;
        let has_workers = self.worker.is_some() && reservation.workers.count() > 0;
        let holds = if self.catalog.is_some() { &reservation.servers[..] } else { &[] };
        if !is_new && !has_workers && holds.is_empty() {
            return;
        }
        let mut runs = BTreeSet::new();
        let mut waits = Vec::new();
        for hold in holds {
            let run = Run { name: hold.name.clone(), owner: hold.is_private.then_some(allocation) };
            let held = self.hold(&run, hold, allocation);
            // One that does not answer in time has to be ended before it has failed.
            let within = held.entry.start_timeout + 2 * SERVER_GRACE;
            let starts = held.server.status().starts;
            let what = format!("MCP server {:?}", hold.name.as_str());
            let wait = match held.unserved() {
                // Its clients would reach a stranger, and show it their tokens.
                Some(why) => std::future::ready(Err(why)).boxed(),
                None => wait_until_running(held.server.watch(), starts, within).boxed(),
            };
            waits.push((what, wait));
            runs.insert(run);
        }
        // From here on, since a worker may ask its servers before the grant is answered.
        self.leases.admit(view, runs.clone());
        let workers = self.begin_workers(reservation, &mut waits);
        let step = if is_new { Step::Starting } else { Step::Held };
        self.allocations.insert(allocation, Part { job: reservation.job.clone(), step, runs, workers });
        if is_new {
            self.starting.spawn(async move {
                let waits = waits.into_iter().map(|(what, wait)| async move {
                    wait.await.map_err(|why| format!("{what} cannot be used: {why}"))
                });
                let started = futures_util::future::try_join_all(waits).await;
                (allocation, started.map(drop))
            });
        }
    }

    /// Starts the workers of an allocation, if they are real, and names them.
    fn begin_workers(&mut self, reservation: &Reservation, waits: &mut Vec<Wait>) -> Vec<String> {
        let Some(command) = self.worker.clone() else { return Vec::new() };
        let endpoint = |hold: &ServerHold| {
            let run = Run { name: hold.name.clone(), owner: hold.is_private.then_some(reservation.allocation) };
            let remote = self.runs.get(&run).and_then(|held| reports::url(&held.entry));
            (hold.name.to_string(), remote.unwrap_or_else(|| hold.port.endpoint()))
        };
        let servers: Vec<_> = reservation.servers.iter().map(endpoint).collect();
        let token = self.leases.token(reservation.allocation, reservation.fencing_token);
        let servers = servers_text(&servers, token.as_deref());
        let mut ids = Vec::new();
        for (number, port) in reservation.workers.iter() {
            let id = number.worker_id(&reservation.job);
            let worker = command.worker(reservation, number, port, servers.clone());
            let with = (Arc::clone(&self.spawner), self.timing);
            let service = Service::start(id.clone(), Kind::Worker(worker), with, None);
            let within = WORKER_START_TIMEOUT + command.grace + SERVER_GRACE;
            waits.push((format!("worker {id}"), wait_until_running(service.watch(), 0, within).boxed()));
            let (allocation, job) = (reservation.allocation, reservation.job.clone());
            self.workers.insert(id.clone(), HeldWorker { service, allocation, job, port });
            ids.push(id);
        }
        ids
    }

    /// Takes what an allocation holds from it, and ends what is its own. `over` is said when nothing of that is left.
    fn let_go(&mut self, allocation: AllocationId, over: Over) {
        self.leases.end(allocation);
        let (runs, workers) = match self.allocations.get_mut(&allocation) {
            Some(part) => {
                part.step = Step::Ending;
                (std::mem::take(&mut part.runs), std::mem::take(&mut part.workers))
            }
            None => (BTreeSet::new(), Vec::new()),
        };
        let workers = workers.iter().filter_map(|id| self.workers.remove(id));
        let mut ends: Vec<JoinHandle<()>> = workers.map(|held| held.service.end()).collect();
        for run in runs {
            let Some(held) = self.runs.get_mut(&run) else { continue };
            held.holders.remove(&allocation);
            if let Some(endpoint) = &held.endpoint {
                endpoint.end_allocation(allocation);
            }
            if run.owner.is_some() {
                ends.extend(self.remove(&run));
            } else if held.holders.is_empty() {
                held.idle_since = Some(Instant::now());
            }
        }
        self.end_idle();
        self.ending.spawn(async move {
            for end in ends {
                // However it ended, nothing is left of it.
                let _ = end.await;
            }
            (allocation, over)
        });
    }

    async fn started(&mut self, allocation: AllocationId, started: Result<(), String>) {
        let Some(part) = self.allocations.get_mut(&allocation).filter(|part| part.step == Step::Starting) else {
            return;
        };
        match started {
            Ok(()) => match self.engine.activate(allocation).await {
                Ok(()) => part.step = Step::Held,
                // It is being taken back, or its batch failed: another look follows.
                Err(error) => {
                    tracing::debug!(%allocation, %error, "not activated");
                    if matches!(error, EngineError::NotCommitted) {
                        self.allocations.remove(&allocation);
                        self.look_at(allocation).await;
                    }
                }
            },
            Err(why) => self.let_go(allocation, Over::Failed(why)),
        }
    }

    async fn ended(&mut self, allocation: AllocationId, over: Over) {
        let said = match over {
            Over::Failed(why) => match self
                .engine
                .fail_activation(allocation, Arc::from(without_lines(&why)), Arc::from(why.as_str()))
                .await
            {
                // It was taken back while it failed.
                Err(EngineError::Denied(_)) => self.engine.finish_release(allocation).await,
                said => said,
            },
            Over::Released => self.engine.finish_release(allocation).await,
        };
        self.allocations.remove(&allocation);
        if let Err(EngineError::NotCommitted) = said {
            self.look_at(allocation).await;
        }
    }

    /// Has new grants go by the catalog as it is now. What runs goes on as it is until nobody holds it.
    async fn take_catalog(&mut self) {
        let Some(watched) = &mut self.catalog else { return };
        let catalog = watched.borrow_and_update().clone();
        tracing::info!(servers = catalog.entries.len(), "the catalog changed");
        let provisioning = provisioning(Some(&catalog), self.worker.as_deref());
        // An engine that has ended needs no provisioning.
        let _ = self.engine.set_provisioning(provisioning, Some(self.ports.claimer(Some(catalog)))).await;
    }

    /// The catalog as it is now.
    fn known(&self) -> Option<Arc<Catalog>> {
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

/// What stands behind leases with this catalog and this command of workers.
pub(super) fn provisioning(catalog: Option<&Catalog>, worker: Option<&WorkerCommand>) -> Provisioning {
    let entries = || catalog.iter().flat_map(|catalog| &catalog.entries);
    let servers = entries().map(|(_, entry)| entry.start_timeout + 2 * SERVER_GRACE);
    let workers = worker.map(|command| WORKER_START_TIMEOUT + command.grace + SERVER_GRACE);
    let longest = servers.chain(workers).max().unwrap_or_default();
    let default = Provisioning::default();
    let start_max = Millis(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)).max(default.start_max);
    let sharing = entries().map(|(name, entry)| (name.clone(), entry.sharing)).collect();
    Provisioning { catalog: catalog.map(|_| sharing), workers_are_real: worker.is_some(), start_max, ..default }
}
