//! The thread on which real things are run, apart from the one that decides.
//!
//! What a crash of the manager before left behind is ended first, before the books are gone on with; then the catalog is
//! read, and the supervisor follows the books until the host is told to end.

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
use super::service::{SERVER_GRACE, Timing};
use super::supervisor::{Pool, Supervisor, provisioning};
use super::worker::{PoolOptions, WorkerCommand};
use cortex_engine::{EngineError, EngineHandle};
use cortex_managed::{AccessKey, RuntimeHandle, RuntimeRequest};

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The file of the catalog; MCP servers are only in the books if absent.
    pub catalog: Option<PathBuf>,
    /// What workers run; they are only in the books if absent.
    pub worker: Option<WorkerCommand>,
    /// How agents of the pool reach the manager; none are run if absent.
    pub pool: Option<PoolOptions>,
    /// Where it is recorded that this manager may have children; nowhere if absent.
    pub record: Option<PathBuf>,
    /// Where the key of access tokens is kept; in memory if absent.
    pub key: Option<PathBuf>,
    /// Whether endpoints ask for an access token.
    pub asks_for_token: bool,
    /// The program of the guardians, if it is not this one.
    pub program: Option<PathBuf>,
    /// The periods by which servers are looked after.
    pub timing: Timing,
}

impl HostOptions {
    /// For a catalog, with all else as it is by default.
    #[must_use]
    pub fn new(catalog: Option<PathBuf>) -> Self {
        let timing = Timing::default();
        Self { catalog, worker: None, pool: None, record: None, key: None, asks_for_token: true, program: None, timing }
    }
}

/// Why nothing can be run.
#[derive(Debug, Error)]
pub enum HostError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file of the manager's own cannot be used.
    #[error("{} cannot be used: make its folder and file writable, and yours alone", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("no thread can be started")]
    Thread(#[source] io::Error),
    /// The engine has ended.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What a host has before it runs anything.
pub struct Prepared {
    options: HostOptions,
    catalog: Option<CatalogFile>,
    key: Option<AccessKey>,
    instance: Uuid,
    record: Option<ProcessRecord>,
}

impl Prepared {
    /// Ends what a manager before left behind, and reads the catalog. It blocks for as long as the first takes: some seconds
    /// at most, and mostly nothing. The caller owns the state that the record and the key lie beside.
    ///
    /// # Errors
    /// [`HostError`], if nothing can be run.
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
            // Its guardian ends all that descends from it.
            tracing::warn!(
                "this manager was started by a worker or server of another, and ends with that one's lease: start it elsewhere to have it stay"
            );
        }
        let instance = Uuid::new_v4();
        let record = begin_record(options.record.as_deref(), instance)?;
        let key = match &options.key {
            _ if !options.asks_for_token => None,
            None => Some(AccessKey::random()),
            Some(path) => {
                let failed = |source| HostError::File { path: path.clone(), source };
                Some(AccessKey::load_or_create(path).map_err(failed)?)
            }
        };
        Ok(Self { options, catalog, key, instance, record })
    }

    /// Runs what the books of this engine hold from now on.
    ///
    /// # Errors
    /// [`HostError`], if no thread can be started or the engine has ended.
    pub async fn start(self, engine: EngineHandle) -> Result<Host, HostError> {
        let Self { options, catalog, key, instance, record } = self;
        let (ports, known) = (Ports::default(), catalog.as_ref().map(|file| file.catalog().clone()));
        let provisioning = provisioning(known.as_deref(), options.worker.as_ref());
        engine.set_provisioning(provisioning, Some(ports.claimer(known))).await?;
        let mut spawner = Spawner::new(instance).with_limiter(MemoryLimiter::detect());
        if let Some(program) = options.program {
            spawner = spawner.with_program(program);
        }
        let (managed, asked) = RuntimeHandle::new(key.clone());
        let (count, running) = watch::channel(0);
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let leases = Leases::new(engine.clone(), key);
        let worker = options.worker.map(Arc::new);
        let pool = options.pool;
        let prefix = format!("agent-{}", &instance.simple().to_string()[..8]);
        let start = Start {
            engine,
            catalog,
            spawner: Arc::new(spawner),
            timing: options.timing,
            pool: pool.zip(worker.clone()).map(|(pool, worker)| Pool::new(pool, worker, prefix)),
            worker,
            leases,
            ports,
            asked,
            count,
            stop: stop.clone(),
            over: over.clone().drop_guard(),
        };
        let thread =
            thread::Builder::new().name("runtime".to_owned()).spawn(|| start.run()).map_err(HostError::Thread)?;
        Ok(Host { managed, running, stop, over, thread, record })
    }
}

fn begin_record(path: Option<&Path>, instance: Uuid) -> Result<Option<ProcessRecord>, HostError> {
    let Some(path) = path else { return Ok(None) };
    let failed = |source| HostError::File { path: path.to_owned(), source };
    let (record, _) = ProcessRecord::begin(path, instance, SERVER_GRACE).map_err(failed)?;
    Ok(Some(record))
}

/// What the thread begins with.
struct Start {
    engine: EngineHandle,
    catalog: Option<CatalogFile>,
    spawner: Arc<Spawner>,
    timing: Timing,
    worker: Option<Arc<WorkerCommand>>,
    pool: Option<Pool>,
    leases: Arc<Leases>,
    ports: Ports,
    asked: mpsc::Receiver<RuntimeRequest>,
    count: watch::Sender<usize>,
    stop: CancellationToken,
    /// Tells that the thread is over, however it ended.
    over: DropGuard,
}

impl Start {
    fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "nothing can be run"),
        };
        let Self { engine, catalog, spawner, timing, worker, pool, leases, ports, asked, count, stop, over } = self;
        runtime.block_on(async {
            let catalog = catalog.map(CatalogFile::watch);
            let with = (leases, ports);
            Supervisor::new(engine, catalog, (spawner, timing), with, (asked, count), (worker, pool)).run(stop).await;
        });
        runtime.shutdown_background();
        drop(over);
    }
}

/// Runs what the books hold.
#[derive(Debug)]
pub struct Host {
    managed: RuntimeHandle,
    running: watch::Receiver<usize>,
    stop: CancellationToken,
    over: CancellationToken,
    thread: JoinHandle<()>,
    record: Option<ProcessRecord>,
}

impl Host {
    /// A way to ask how servers and workers stand.
    #[must_use]
    pub const fn managed(&self) -> &RuntimeHandle {
        &self.managed
    }

    /// How many processes there are.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<usize> {
        self.running.clone()
    }

    /// Is cancelled when nothing is run any more, because of the end or of a fault.
    #[must_use]
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Ends all that runs, for as long as `within`. What has not ended by then is ended by its guardians.
    pub async fn end(self, within: Duration) {
        let Self { stop, over, thread, record, .. } = self;
        stop.cancel();
        if timeout(within, over.cancelled()).await.is_err() {
            tracing::debug!("what still runs is ended by its guardians");
            return;
        }
        if thread.join().is_err() {
            tracing::error!("the thread that runs servers and workers met a fault of this program");
        }
        if let Some(Err(error)) = record.map(ProcessRecord::end) {
            tracing::warn!(%error, "the record of what was run cannot be removed: the next start looks for it");
        }
    }
}
