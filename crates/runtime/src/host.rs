//! The host: runs the supervisor on a thread of its own, apart from the one that decides.
//!
//! Orphans of an earlier manager are ended before the engine serves its state. After that the supervisor reconciles
//! with the engine until the host ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::catalog::{CatalogError, CatalogFile};
use super::leases::Leases;
use super::ports::Ports;
use super::process::child::Spawner;
use super::process::memory_limit::MemoryLimiter;
use super::process::orphans::ProcessRecord;
use super::process::tree::MARKER_VARIABLE;
use super::service::{SERVER_GRACE, ServiceOptions, Timing};
use super::supervisor::{Pool, Supervisor, provisioning};
use super::worker::{PoolOptions, WorkerCommand};
use cortex_engine::{EngineError, EngineHandle};
use cortex_managed::{AccessKey, RuntimeHandle, RuntimeRequest};

/// What the host runs, and how.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The catalog file; no MCP servers are run if absent.
    pub catalog: Option<PathBuf>,
    /// The command of workers; none are run if absent.
    pub worker: Option<WorkerCommand>,
    /// The pool of agents; none are run if absent.
    pub pool: Option<PoolOptions>,
    /// The file that records managers with children; none is written if absent.
    pub record: Option<PathBuf>,
    /// The file with the key of access tokens; the key is kept in memory if absent.
    pub key: Option<PathBuf>,
    /// Whether endpoints require an access token.
    pub requires_token: bool,
    /// The program that runs as guardian; this one if absent.
    pub program: Option<PathBuf>,
    pub timing: Timing,
}

impl HostOptions {
    /// Returns the default options with a catalog.
    #[must_use]
    pub fn new(catalog: Option<PathBuf>) -> Self {
        let timing = Timing::default();
        Self { catalog, worker: None, pool: None, record: None, key: None, requires_token: true, program: None, timing }
    }
}

/// Why the host cannot start.
#[derive(Debug, Error)]
pub enum HostError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The record of children or the key file cannot be used.
    #[error("{} cannot be used: make the file and its folder writable for this user only", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the system has no random numbers for the key of access tokens")]
    Random(#[source] io::Error),
    #[error("the thread for servers and workers cannot be started")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A host that is ready to start: the catalog is read, and no orphans are left.
pub struct PreparedHost {
    options: HostOptions,
    catalog: Option<CatalogFile>,
    key: Option<AccessKey>,
    instance: Uuid,
    record: Option<ProcessRecord>,
}

impl PreparedHost {
    /// Reads the catalog and ends the orphans of an earlier manager. Blocks the thread for some seconds if there are
    /// orphans. The caller must own the state that the record and the key belong to.
    ///
    /// # Errors
    /// The catalog, the record or the key cannot be used.
    pub fn prepare(options: HostOptions) -> Result<Self, HostError> {
        let catalog = match options.catalog.clone() {
            Some(path) => {
                let (file, warnings) = CatalogFile::open(path, Arc::new(|name| std::env::var(name).ok()))?;
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                Some(file)
            }
            None => None,
        };
        if std::env::var_os(MARKER_VARIABLE).is_some() {
            // The guardian of that worker or server ends all its descendants.
            tracing::warn!(
                "this manager was started by a worker or server of another manager, and ends with its lease: start it \
                 from outside to keep it running"
            );
        }
        let instance = Uuid::new_v4();
        let record = begin_record(options.record.as_deref(), instance)?;
        let key = match &options.key {
            _ if !options.requires_token => None,
            None => Some(AccessKey::random().map_err(HostError::Random)?),
            Some(path) => {
                let failed = |source| HostError::File { path: path.clone(), source };
                Some(AccessKey::load_or_create(path).map_err(failed)?)
            }
        };
        Ok(Self { options, catalog, key, instance, record })
    }

    /// Starts to run the servers and workers of the engine's allocations.
    ///
    /// # Errors
    /// The thread cannot be started, or the engine has ended.
    pub async fn start(self, engine: EngineHandle) -> Result<Host, HostError> {
        let Self { options, catalog, key, instance, record } = self;
        let (ports, known) = (Ports::default(), catalog.as_ref().map(|file| file.catalog().clone()));
        let provisioning = provisioning(known.as_deref(), options.worker.as_ref());
        engine.set_provisioning(provisioning, Some(ports.claimer(known))).await?;
        let mut spawner = Spawner::new(instance).with_limiter(MemoryLimiter::detect());
        if let Some(program) = options.program {
            spawner = spawner.with_program(program);
        }
        let (handle, requests) = RuntimeHandle::new(key.clone());
        let (running_publisher, running) = watch::channel(0);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let leases = Leases::new(engine.clone(), key);
        let worker = options.worker.map(Arc::new);
        let pool = options.pool;
        let prefix = format!("agent-{}", &instance.simple().to_string()[..8]);
        let thread = HostThread {
            engine,
            catalog,
            services: ServiceOptions { spawner: Arc::new(spawner), timing: options.timing },
            pool: pool.zip(worker.clone()).map(|(pool, worker)| Pool::new(pool, worker, prefix)),
            worker,
            leases,
            ports,
            requests,
            running: running_publisher,
            stop: stop.clone(),
            ended: ended.clone().drop_guard(),
        };
        let thread =
            thread::Builder::new().name("runtime".to_owned()).spawn(|| thread.run()).map_err(HostError::Thread)?;
        Ok(Host { handle, running, stop, ended, thread, record })
    }
}

fn begin_record(path: Option<&Path>, instance: Uuid) -> Result<Option<ProcessRecord>, HostError> {
    let Some(path) = path else { return Ok(None) };
    let failed = |source| HostError::File { path: path.to_owned(), source };
    let (record, _) = ProcessRecord::begin(path, instance, SERVER_GRACE).map_err(failed)?;
    Ok(Some(record))
}

/// The thread that runs the supervisor.
struct HostThread {
    engine: EngineHandle,
    catalog: Option<CatalogFile>,
    services: ServiceOptions,
    worker: Option<Arc<WorkerCommand>>,
    pool: Option<Pool>,
    leases: Arc<Leases>,
    ports: Ports,
    requests: mpsc::Receiver<RuntimeRequest>,
    running: watch::Sender<usize>,
    stop: CancellationToken,
    /// Cancels the token when the thread ends, even by a panic.
    ended: DropGuard,
}

impl HostThread {
    fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "supervisor could not be started"),
        };
        let Self { engine, catalog, services, worker, pool, leases, ports, requests, running, stop, ended } = self;
        runtime.block_on(async {
            let catalog = catalog.map(CatalogFile::watch);
            let supervisor = Supervisor::new(engine, catalog, services, leases, ports, worker, pool);
            supervisor.run(requests, running, stop).await;
        });
        runtime.shutdown_background();
        drop(ended);
    }
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    handle: RuntimeHandle,
    running: watch::Receiver<usize>,
    stop: CancellationToken,
    ended: CancellationToken,
    thread: JoinHandle<()>,
    record: Option<ProcessRecord>,
}

impl Host {
    /// Returns the handle for requests about servers and workers.
    #[must_use]
    pub const fn handle(&self) -> &RuntimeHandle {
        &self.handle
    }

    /// Returns the number of running servers and workers.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<usize> {
        self.running.clone()
    }

    /// Returns a token that is cancelled when the host has ended, by [`Self::end`] or by a fault.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Ends all servers and workers, and waits up to `within`. Their guardians end those that are left.
    pub async fn end(self, within: Duration) {
        let Self { stop, ended, thread, record, .. } = self;
        stop.cancel();
        if timeout(within, ended.cancelled()).await.is_err() {
            tracing::debug!("not all servers and workers ended in time: their guardians end them");
            return;
        }
        if thread.join().is_err() {
            tracing::error!("thread of servers and workers panicked");
        }
        if let Some(Err(error)) = record.map(ProcessRecord::end) {
            tracing::warn!(%error, "record of children could not be removed: the next start will look for orphans");
        }
    }
}
