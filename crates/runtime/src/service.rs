//! A service: an MCP server or a worker that is kept running, from its start over health checks and restarts to its
//! end.
//!
//! Each service has a task of its own that publishes its status. A service whose first start fails has failed. One that
//! ran and failed later is restarted with exponential backoff, until it counts as crash looping and has failed as well.
//! Invariant: a service is restarted only after the whole process tree of its last run has ended.

mod failure;
mod remote;
mod restart;
mod server;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::bridge::{ChildState, Endpoint};
use super::catalog::CatalogEntry;
use super::process::child::{ExitReason, LastLines, Spawner};
use super::process::tree::ProcessTree;
use super::worker::Worker;
use cortex_core::ids::AllocationId;
use cortex_core::time::Timestamp;
use cortex_core::units::MemoryMb;
use cortex_managed::{MemoryLimit, ProcessState};
use remote::RemoteServer;
use server::ServerProcess;
use worker::WorkerProcess;

pub(super) use failure::{Failure, FailureReason};
pub(super) use restart::{wait_until_restarted, wait_until_running};

/// The time between asking a server to end and killing it.
pub const SERVER_GRACE: Duration = Duration::from_secs(5);

/// The periods and limits of the supervision of servers and workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time between two health checks of a server, and the time limit of each.
    pub health: Duration,
    /// The number of failed health checks in a row after which a server counts as failed.
    pub misses_max: u32,
    /// The wait before the first restart. It doubles before each further one.
    pub backoff: Duration,
    /// The longest wait before a restart.
    pub backoff_max: Duration,
    /// The running time after which the count of failures in a row begins anew.
    pub stable_after: Duration,
    /// The most failures in a row after which a service is restarted. One more, and it is crash looping.
    pub failures_max: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            health: Duration::from_secs(10),
            misses_max: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            stable_after: Duration::from_secs(30),
            failures_max: 5,
        }
    }
}

impl Timing {
    /// Returns the wait before a restart after this number of failures in a row.
    fn backoff_after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        (self.backoff * (1 << doublings)).min(self.backoff_max)
    }
}

/// The published status of a service.
#[derive(Clone, Debug)]
pub(super) struct ServiceStatus {
    pub(super) state: ProcessState,
    /// Why it is restarting or failed.
    pub(super) reason: Option<Arc<Failure>>,
    pub(super) running_since: Option<Timestamp>,
    /// The number of automatic restarts.
    pub(super) restarts: u64,
    /// The number of starts that have succeeded or failed.
    pub(super) starts: u64,
    /// The number of the latest requested restart that has been completed, whether it succeeded or failed. A restart
    /// completes all earlier requests as well.
    ///
    /// Absent while a requested restart is in progress, since that ends what the completed ones started.
    restarts_served: Option<u64>,
    /// The last lines that its last process wrote.
    pub(super) lines: LastLines,
    /// Its process tree, while it has one.
    pub(super) tree: Option<ProcessTree>,
    pub(super) memory_limit: Option<MemoryLimit>,
}

impl Default for ServiceStatus {
    fn default() -> Self {
        Self {
            state: ProcessState::Starting,
            reason: None,
            running_since: None,
            restarts: 0,
            starts: 0,
            restarts_served: None,
            lines: LastLines::default(),
            tree: None,
            memory_limit: None,
        }
    }
}

/// What all services of a manager are run with.
#[derive(Clone, Debug)]
pub(super) struct ServiceOptions {
    pub(super) spawner: Arc<Spawner>,
    pub(super) timing: Timing,
}

/// What a service runs.
#[derive(Debug)]
pub(super) enum ServiceKind {
    /// A server of this machine with its endpoint, and the allocation that owns it if it is not shared.
    Server(Arc<CatalogEntry>, Arc<Endpoint>, Option<AllocationId>),
    /// A server that is reached by a URL. Only its health is checked.
    Remote(Arc<CatalogEntry>),
    Worker(Worker),
}

/// A handle on a service.
#[derive(Debug)]
pub(super) struct Service {
    status: watch::Receiver<ServiceStatus>,
    /// The number of requested restarts. Sending the same number again requests only a start, if the service does not
    /// run.
    restarts: watch::Sender<u64>,
    /// Dropped to end the service.
    keep_alive: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Service {
    /// Starts a service after the task `after` has ended.
    pub(super) fn start(
        name: String,
        kind: ServiceKind,
        ServiceOptions { spawner, timing }: ServiceOptions,
        after: Option<JoinHandle<()>>,
    ) -> Self {
        let (publisher, status) = watch::channel(ServiceStatus::default());
        let (restarts, requested) = watch::channel(0);
        let (keep_alive, stop) = oneshot::channel();
        let process =
            SupervisedProcess { name, kind, spawner, timing, status: publisher, requested, serves: 0, failures: 0 };
        let task = tokio::spawn(async move {
            if let Some(after) = after {
                // A task that panicked has ended as well.
                let _ = after.await;
            }
            process.supervise(stop).await;
        });
        Self { status, restarts, keep_alive, task }
    }

    pub(super) fn status(&self) -> ServiceStatus {
        self.status.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<ServiceStatus> {
        self.status.clone()
    }

    /// Ends the service. The returned task ends when none of its processes is left.
    pub(super) fn end(self) -> JoinHandle<()> {
        drop(self.keep_alive);
        self.task
    }
}

/// Why a run ended that was ready before.
enum RunEnd {
    /// A restart was requested.
    Restart,
    /// It ended or no longer answers, for this reason.
    Failed(FailureReason),
    /// The service is to end.
    Stop,
}

/// The task of a service.
struct SupervisedProcess {
    name: String,
    kind: ServiceKind,
    spawner: Arc<Spawner>,
    timing: Timing,
    status: watch::Sender<ServiceStatus>,
    /// The number of requested restarts.
    requested: watch::Receiver<u64>,
    /// That number when the last start began, which serves all of them.
    serves: u64,
    /// The number of failures in a row.
    failures: u32,
}

/// How the process of a run ended.
struct ProcessEnd {
    exit_reason: ExitReason,
    /// The last lines that it wrote.
    lines: Vec<String>,
}

enum RunningService {
    Server(ServerProcess),
    Remote(RemoteServer),
    Worker(WorkerProcess),
}

impl SupervisedProcess {
    /// Starts, watches and restarts the service until `stop` is closed.
    async fn supervise(mut self, mut stop: oneshot::Receiver<()>) {
        let mut has_run = false;
        loop {
            self.serves = *self.requested.borrow_and_update();
            let mut running = match self.start(&mut stop).await {
                None => break,
                Some(Ok(running)) => running,
                Some(Err(failure)) => {
                    let is_started_again = if has_run {
                        self.wait_for_restart(self.failures + 1, failure, &mut stop).await
                    } else {
                        // A service that was never ready is probably misconfigured: a restart would fail as well.
                        self.wait_for_request(failure, &mut stop).await
                    };
                    if !is_started_again {
                        break;
                    }
                    continue;
                }
            };
            has_run = true;
            let since = Instant::now();
            self.change(|status| {
                status.state = ProcessState::Running;
                (status.reason, status.starts) = (None, status.starts + 1);
                status.restarts_served = Some(self.serves);
                status.running_since = Some(now());
            });
            tracing::info!(name = %self.name, "service is running");
            let run_end = tokio::select! {
                run_end = running.watch(&self.timing, &mut self.requested, self.serves) => run_end,
                _ = &mut stop => RunEnd::Stop,
            };
            match &run_end {
                RunEnd::Stop => self.change(|status| status.state = ProcessState::Stopping),
                // Set before the run is ended, so that from now on no reader sees the service as running.
                RunEnd::Restart => self.change(|status| {
                    let requested = Failure::from(FailureReason::RestartRequested);
                    (status.state, status.reason) = (ProcessState::Restarting, Some(Arc::new(requested)));
                    status.restarts_served = None;
                }),
                RunEnd::Failed(_) => {}
            }
            let ended = running.end().await;
            self.change(|status| (status.tree, status.running_since) = (None, None));
            match run_end {
                RunEnd::Stop => break,
                RunEnd::Restart => {
                    self.failures = 0;
                    let why = FailureReason::RestartRequested.to_string();
                    self.set_endpoint_state(ChildState::Restarting { why, since: Instant::now() });
                }
                RunEnd::Failed(reason) => {
                    let failures = if since.elapsed() >= self.timing.stable_after { 1 } else { self.failures + 1 };
                    let failure = Failure::of_run(reason, ended);
                    if !self.wait_for_restart(failures, failure, &mut stop).await {
                        break;
                    }
                }
            }
        }
        self.change(|status| status.state = ProcessState::Stopped);
        tracing::info!(name = %self.name, "service stopped");
    }

    /// Starts a run and waits until it is ready. Returns none if it is to stop before that, after ending the run.
    async fn start(&mut self, stop: &mut oneshot::Receiver<()>) -> Option<Result<RunningService, Failure>> {
        match &self.kind {
            ServiceKind::Server(entry, endpoint, owner) => {
                let started = ServerProcess::start(self, entry, endpoint, *owner, stop).await?;
                Some(started.map(RunningService::Server))
            }
            ServiceKind::Remote(entry) => {
                let started = RemoteServer::start(entry);
                tokio::select! {
                    started = started => Some(started.map(RunningService::Remote).map_err(Failure::from)),
                    _ = stop => None,
                }
            }
            ServiceKind::Worker(worker) => {
                let started = WorkerProcess::start(self, worker, stop).await?;
                Some(started.map(RunningService::Worker))
            }
        }
    }

    /// Waits for the backoff to pass, or for a request after too many failures in a row. Returns whether to start it
    /// again; otherwise it is to end.
    async fn wait_for_restart(&mut self, failures: u32, failure: Failure, stop: &mut oneshot::Receiver<()>) -> bool {
        if failures > self.timing.failures_max {
            return self.wait_for_request(failure.crash_looping(failures), stop).await;
        }
        self.failures = failures;
        tracing::warn!(name = %self.name, is_crash_looping = false, why = ?failure.to_string(), "service failed");
        self.set_endpoint_state(ChildState::Restarting { why: failure.with_stderr(), since: Instant::now() });
        self.change(|status| {
            (status.state, status.reason) = (ProcessState::Restarting, Some(Arc::new(failure)));
            status.restarts_served = Some(self.serves);
        });
        let is_started_again = tokio::select! {
            () = sleep(self.timing.backoff_after(failures)) => true,
            // Each request means that it is needed now. A closed channel means that its handle was dropped.
            requested = self.requested.changed() => requested.is_ok(),
            _ = stop => false,
        };
        if is_started_again {
            self.change(|status| status.restarts += 1);
        }
        is_started_again
    }

    /// Gives the service up until a request starts it. Returns whether to start it again; otherwise it is to end.
    async fn wait_for_request(&mut self, failure: Failure, stop: &mut oneshot::Receiver<()>) -> bool {
        self.failures = 0;
        tracing::warn!(name = %self.name, is_crash_looping = true, why = ?failure.to_string(), "service failed");
        self.set_endpoint_state(ChildState::Failed { why: failure.with_stderr() });
        self.change(|status| {
            (status.state, status.reason) = (ProcessState::Failed, Some(Arc::new(failure)));
            (status.starts, status.restarts_served) = (status.starts + 1, Some(self.serves));
        });
        let is_started_again = tokio::select! {
            requested = self.requested.changed() => requested.is_ok(),
            _ = stop => false,
        };
        if is_started_again {
            self.set_endpoint_state(ChildState::Starting);
            self.change(|status| status.state = ProcessState::Starting);
        }
        is_started_again
    }

    fn set_endpoint_state(&self, state: ChildState) {
        if let ServiceKind::Server(_, endpoint, _) = &self.kind {
            endpoint.set_state(state);
        }
    }

    fn change(&self, change: impl FnOnce(&mut ServiceStatus)) {
        self.status.send_modify(change);
    }
}

impl RunningService {
    /// Waits until the run fails, or until more restarts are requested than its start serves.
    async fn watch(&mut self, timing: &Timing, requested: &mut watch::Receiver<u64>, serves: u64) -> RunEnd {
        let restart = async {
            if requested.wait_for(|requested| *requested > serves).await.is_err() {
                // The handle was dropped: the service is about to be ended.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            reason = async {
                match self {
                    Self::Server(server) => server.failed(timing).await,
                    Self::Remote(remote) => remote.failed(timing).await,
                    Self::Worker(worker) => worker.failed().await,
                }
            } => RunEnd::Failed(reason),
            () = restart => RunEnd::Restart,
        }
    }

    /// Ends the run, and returns how its process ended, if it has one. Calls in flight are answered with an error.
    async fn end(self) -> Option<ProcessEnd> {
        match self {
            Self::Server(server) => Some(server.end().await),
            Self::Worker(worker) => Some(worker.end().await),
            Self::Remote(remote) => {
                remote.end().await;
                None
            }
        }
    }
}

/// Counts the health checks in a row that failed.
struct MissedChecks {
    count: u32,
    max: u32,
}

impl MissedChecks {
    /// Counts the result of a check. After too many failures in a row, returns the reason.
    fn add<E: Into<FailureReason>>(&mut self, checked: Result<(), E>) -> Option<FailureReason> {
        match checked {
            Ok(()) => self.count = 0,
            Err(error) => {
                self.count += 1;
                if self.count >= self.max {
                    return Some(FailureReason::Unhealthy { last: Box::new(error.into()), checks: self.count });
                }
            }
        }
        None
    }
}

fn now() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::since_1970(since_1970.unwrap_or_default())
}

fn memory_limit(
    memory: Option<MemoryMb>,
    enforced: Option<&super::process::memory_limit::Enforcement>,
) -> Option<MemoryLimit> {
    use super::process::memory_limit::Enforcement;
    let held_by = match enforced? {
        Enforcement::Cgroup => "cgroup",
        Enforcement::Rlimit => "rlimit",
        Enforcement::Unenforced(_) => "none",
    };
    Some(MemoryLimit { memory: memory?, held_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_a_minute() {
        let waits: Vec<u64> = (1..=9).map(|failures| Timing::default().backoff_after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(Timing::default().backoff_after(u32::MAX).as_secs(), 60);
    }
}
