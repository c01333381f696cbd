//! What every process that owns the books does: engine, loops, and a conversation with each client.
//!
//! A process that serves its one client itself and the daemon that serves many are the same up to where their connections
//! come from. Invariant: whoever opens a state holds its lock first, and until the end of the process.

#[cfg(unix)]
mod hosting;
#[cfg(unix)]
mod runtime_record;
mod signals;

#[cfg(unix)]
pub use runtime_record::RuntimeRecord;
pub use signals::Signals;

use anyhow::{Context, anyhow};
use cortex_config::{Configuration, Durability, Settings, Source};
use cortex_core::event::Limits;
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::time::{Millis, TtlSeconds};
use cortex_core::units::{Resources, WorkerSize};
use cortex_engine::clock::EngineClock;
use cortex_engine::{Engine, EngineHandle, EngineOptions, StartError, TokenBudget, Totals};
use cortex_journal::{
    Journal, JournalError, NullJournal, SNAPSHOT_EVENTS_MIN, SqliteJournal, SqliteOptions, Synchronous,
};
use cortex_loops::{LoopStatus, PlannerOutputs, plan_capacity, sweep_expired};
use cortex_managed::Managed;
use cortex_mcp::transport::{ConnectionHandle, LineTransport};
use cortex_mcp::{Server, ServerOptions, Shown};
use cortex_planning::{Bounds, Planner};
#[cfg(unix)]
use cortex_runtime::Host;
use cortex_util::lock::{LockError, OwnerRecord};
use cortex_util::program;
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long the end may take once the input has ended: calls in flight are answered and everything is flushed within it,
/// or left. Together with the flush of the log it stays under a second.
pub const END_WAIT_MAX: Duration = Duration::from_millis(700);

/// The exit code of a process whose state or daemon cannot be used.
pub const STARTUP_ERROR_EXIT_CODE: u8 = 3;

/// A state or a daemon that cannot be used. The text is one line: what, the value, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StartupError {
    /// The line.
    pub text: String,
    /// Whether it cannot be used because another process owns it, which may end.
    pub held: bool,
}

impl StartupError {
    /// One that no waiting will mend.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), held: false }
    }
}

/// The books of this process with all that runs on them.
pub struct Manager {
    engine: EngineHandle,
    shown: Shown,
    settings: Settings,
    sweep: Arc<LoopStatus>,
    planner: Arc<LoopStatus>,
    /// Runs servers and workers, where they are real.
    #[cfg(unix)]
    host: Option<Host>,
    /// Ends with the engine, which lets go of the state.
    running: JoinHandle<()>,
}

impl Manager {
    /// Opens the books: those of the state, if the settings name one, or fresh ones. The future runs the loops; it ends with
    /// the reason if the books cannot go on. `owner` is written into the state's lock, which another may hold for as long
    /// as `patience`. The end may take `close_within` to write down what makes the next start faster.
    ///
    /// # Errors
    /// [`StartupError`] if the state cannot be used, or the settings do not go together with it.
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub async fn open(
        configuration: &Configuration,
        owner: &OwnerRecord,
        patience: Duration,
        close_within: Duration,
    ) -> Result<(Self, impl Future<Output = anyhow::Error> + use<>), StartupError> {
        let mut settings = configuration.settings.clone();
        let options = engine_options(configuration, close_within);
        let journal = match &settings.state {
            Some(state) => {
                let options = sqlite_options(&settings, state_path(state)?);
                Some(SqliteJournal::open(options, owner, patience).map_err(StartError::from).map_err(unusable)?)
            }
            None => None,
        };
        // From here on this process is the owner. What the one before left behind is ended before its leases go on.
        #[cfg(unix)]
        let prepared = hosting::prepare(&settings, owner)?;
        let (engine, running, failed) = match journal {
            Some(journal) => start(options, journal).await,
            None => start(options, NullJournal).await,
        }
        .map_err(unusable)?;
        let capacity = engine.capacity().await.ok().map(|reading| reading.value);
        #[cfg(unix)]
        if let (Some(state), Some(books)) = (&settings.state, &capacity) {
            RuntimeRecord::take_over(&settings, &state_path(state)?, books)?;
        }
        #[cfg(unix)]
        let host = hosting::start(prepared, &engine).await?;
        if let Some(capacity) = capacity {
            let total = capacity.total;
            settings.total_cpu = total.cpu_millis;
            settings.total_memory = total.memory_mb;
            // Where the planner has moved them, they are still those that were named: others may name the same.
            if *configuration.source("total_workers") == Source::Default {
                settings.total_workers = u32::try_from(total.workers).unwrap_or(u32::MAX);
            }
        }
        if let Ok(usage) = engine.usage().await {
            settings.token_budget = usage.tokens.all.total;
            settings.token_window_seconds = usage.tokens.window.as_seconds();
        }
        // What nobody gave follows the books, so that the planner moves nothing unasked; but no end of the range is beyond the
        // other, which somebody gave.
        let is_given = |key| *configuration.source(key) != Source::Default;
        if !is_given("min_workers") {
            settings.min_workers =
                settings.total_workers.min(if is_given("max_workers") { settings.max_workers } else { u32::MAX });
        }
        if !is_given("max_workers") {
            settings.max_workers = settings.total_workers.max(settings.min_workers);
        }

        let (show_plan, plan) = watch::channel(None);
        let (show_bottlenecks, bottlenecks) = watch::channel(None);
        let (show_forecast, forecast) = watch::channel(None);
        let planner = Arc::new(Mutex::new(Planner::new(Bounds {
            workers_min: u64::from(settings.min_workers),
            workers_max: u64::from(settings.max_workers),
        })));
        let sweep_status = Arc::new(LoopStatus::new("sweep", Duration::from_secs(settings.sweep_seconds)));
        let planner_status = Arc::new(LoopStatus::new("planner", Duration::from_secs(settings.plan_seconds)));
        let sweep = sweep_expired(engine.clone(), Arc::clone(&sweep_status));
        let outputs = PlannerOutputs { plan: show_plan, bottlenecks: show_bottlenecks, forecast: show_forecast };
        let plan_ahead = plan_capacity(engine.clone(), Arc::clone(&planner), Arc::clone(&planner_status), outputs);
        #[cfg(unix)]
        let over = host.as_ref().map(Host::over);
        let host_over = async move {
            #[cfg(unix)]
            if let Some(over) = over {
                return over.cancelled().await;
            }
            std::future::pending::<()>().await;
        };
        let ended = async move {
            tokio::select! {
                () = host_over => anyhow!("whoever runs servers and workers met a fault of this program"),
                failed = failed => failed.unwrap_or_else(|_| anyhow!("the engine met a fault of this program")),
                // The loops go on until the engine has ended, and so does this.
                _ = async { tokio::join!(sweep, plan_ahead) } => anyhow!("the engine ended"),
            }
        };
        tracing::info!(
            version = program::VERSION,
            workers = settings.total_workers,
            cpu_cores = settings.total_cpu.as_cores(),
            memory_mb = settings.total_memory.0,
            "ready"
        );
        let shown = Shown { plan, bottlenecks, forecast, planner };
        let manager = Self {
            engine,
            shown,
            settings,
            sweep: sweep_status,
            planner: planner_status,
            #[cfg(unix)]
            host,
            running,
        };
        Ok((manager, ended))
    }

    /// A server for a connection that ends when `closing` is cancelled.
    #[must_use]
    pub fn server(&self, options: &ServerOptions, closing: CancellationToken) -> Server {
        Server::new(self.engine.clone(), self.shown.clone(), self.managed(), options, closing)
    }

    /// A way to the engine.
    #[must_use]
    pub const fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// The settings in force: the totals are those of the books.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The loops that run by themselves.
    #[must_use]
    pub fn loops(&self) -> [&LoopStatus; 2] {
        [&self.sweep, &self.planner]
    }

    /// A way to whoever runs servers and workers, where they are real.
    #[must_use]
    pub fn managed(&self) -> Option<Managed> {
        #[cfg(unix)]
        return self.host.as_ref().map(|host| host.managed().clone());
        #[cfg(not(unix))]
        None
    }

    /// How many servers and workers are run; nothing where none are real.
    #[must_use]
    pub fn processes(&self) -> Option<watch::Receiver<usize>> {
        #[cfg(unix)]
        return self.host.as_ref().map(Host::running);
        #[cfg(not(unix))]
        None
    }

    /// Ends what is run, for as long as `host_within`; writes down what is not yet, and lets go of the state. Nobody may be
    /// served any more.
    pub async fn close(self, within: Duration, host_within: Duration) {
        #[cfg(unix)]
        if let Some(host) = self.host {
            host.end(host_within).await;
            let state = self.settings.state.as_deref().and_then(|state| state_path(state).ok());
            if let (Some(state), Ok(books)) = (state, self.engine.capacity().await) {
                RuntimeRecord::give_up(&state, &books.value);
            }
        }
        #[cfg(not(unix))]
        let _ = host_within;
        let Self { engine, running, .. } = self;
        // With the last handle gone the engine ends.
        drop(engine);
        if timeout(within, running).await.is_err() {
            tracing::debug!("the journal was left as it is: the next start reads more of it");
        }
    }
}

/// Starts an engine as a task of its own. The receiver hears why it could not go on, if that happens.
async fn start<J: Journal>(
    options: EngineOptions,
    journal: J,
) -> Result<(EngineHandle, JoinHandle<()>, oneshot::Receiver<anyhow::Error>), StartError> {
    let (engine, handle) = Engine::start(options, journal, EngineClock::system()).await?;
    let (tell, failed) = oneshot::channel();
    let running = tokio::spawn(async move {
        if let Err(error) = engine.run().await {
            // Whoever served is ending by itself if it does not listen.
            let _ = tell.send(anyhow::Error::from(unusable(StartError::from(error))));
        } else {
            // Kept until the end, so that an end in order is not taken for a failure.
            drop(tell);
        }
    });
    Ok((handle, running, failed))
}

/// Speaks with a client until the connection has ended. Says whether all was written that there was to write.
///
/// # Errors
/// If the handshake fails in a way that is not the client's going away.
pub async fn serve_connection<R>(
    server: Server,
    transport: LineTransport<R>,
    connection: &ConnectionHandle,
) -> anyhow::Result<bool>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let deadline = match server.serve(transport).await {
        Ok(running) => {
            connection.established();
            let ended = connection.ended();
            let mut waiting = std::pin::pin!(running.waiting());
            tokio::select! {
                _ = &mut waiting => end_deadline(),
                () = ended.cancelled() => {
                    let deadline = end_deadline();
                    if timeout_at(deadline, waiting).await.is_err() {
                        tracing::warn!("the client did not take all replies in time");
                    }
                    deadline
                }
            }
        }
        // A client that goes away before its first request is no error.
        Err(ServerInitializeError::ConnectionClosed(_)) => end_deadline(),
        Err(error) => return Err(error).context("the handshake failed"),
    };
    // Nothing is lost if the client closed its end before: it does not listen any more.
    Ok(timeout_at(deadline, connection.flushed()).await.is_ok_and(|flushed| flushed.is_ok()))
}

/// By when all that is left to do has to be done, if the end begins now. The waits of the end share it.
#[must_use]
pub fn end_deadline() -> Instant {
    Instant::now() + END_WAIT_MAX
}

/// What a server is to know of the settings.
///
/// # Errors
/// If they allow no lease at all.
pub fn server_options(settings: &Settings) -> anyhow::Result<ServerOptions> {
    Ok(ServerOptions {
        toolsets: settings.toolsets.clone(),
        default_ttl: TtlSeconds::new(settings.default_ttl_seconds)
            .context("default_ttl_seconds is 0: give 1 or more")?,
        ttl_seconds_max: settings.max_ttl_seconds,
        heartbeat_seconds: settings.heartbeat_seconds,
        task_lease: TtlSeconds::new(settings.task_lease_seconds).context("task_lease_seconds is 0: give 1 or more")?,
        claims_waiting_max: settings.max_calls_in_flight / 2,
    })
}

/// The path of a state as it is however the process came to it: absolute and without links. The file need not be there.
///
/// # Errors
/// Its folder is not there, or it names no file.
pub fn state_path(path: &Path) -> Result<PathBuf, StartupError> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let refused = |why: &str| StartupError::new(format!("the state {} {why}", path.display()));
    if path.is_symlink() {
        return Err(refused("is a link to nothing: make what it leads to, or give another path"));
    }
    let name = path.file_name().ok_or_else(|| refused("names no file: give the path of one"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder
        .canonicalize()
        .map_err(|error| refused(&format!("lies in a folder that cannot be used ({error}): make it first")))?;
    Ok(folder.join(name))
}

/// The path of what lies beside a file under its name and an ending.
#[cfg(unix)]
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}

/// Why the state at `path` cannot be owned.
#[must_use]
pub fn not_owned(path: &Path, error: LockError) -> StartupError {
    match error {
        error @ LockError::Held { .. } => StartupError {
            text: format!(
                "the state {} has an owner: {error}; end that process first, or share its state with a daemon (--daemon auto)",
                path.display()
            ),
            held: true,
        },
        LockError::Failed { path, error } => StartupError::new(format!(
            "{} cannot be locked ({error}): make its folder and file writable",
            path.display()
        )),
    }
}

/// Why the books cannot be had or gone on with, in one line.
fn unusable(error: StartError) -> StartupError {
    match error {
        StartError::Journal(JournalError::Owned { path, source }) => not_owned(&path, source),
        error => StartupError::new(format!("{:#}", anyhow::Error::from(error))),
    }
}

fn sqlite_options(settings: &Settings, path: PathBuf) -> SqliteOptions {
    SqliteOptions {
        path,
        synchronous: match settings.durability {
            Durability::Full => Synchronous::Full,
            Durability::Normal => Synchronous::Normal,
        },
        keep_events: Duration::from_secs(settings.keep_events_days * 86_400),
        snapshot_events_min: SNAPSHOT_EVENTS_MIN,
    }
}

fn engine_options(configuration: &Configuration, close_within: Duration) -> EngineOptions {
    let settings = &configuration.settings;
    let names = |key| *configuration.source(key) != Source::Default;
    EngineOptions {
        totals: Totals {
            capacity: Resources {
                cpu_millis: settings.total_cpu,
                memory_mb: settings.total_memory,
                workers: u64::from(settings.total_workers),
            },
            is_cpu_explicit: names("total_cpu"),
            is_memory_explicit: names("total_memory"),
            are_workers_explicit: names("total_workers"),
            workers_scalable: u64::from(settings.min_workers)..=u64::from(settings.max_workers),
            resize: settings.resize,
        },
        worker_size: WorkerSize { cpu_millis: settings.worker_cpu, memory_mb: settings.worker_memory },
        limits: Limits {
            live_allocations_max: settings.max_live_allocations as u64,
            history_records_max: settings.history_count as u64,
        },
        history_age: Millis::from_seconds(settings.history_seconds),
        outage_grace: Millis::from_seconds(settings.recovery_grace_seconds),
        fleet: FleetSettings {
            tasks_max: settings.max_tasks,
            task_bytes_max: settings.max_task_bytes,
            heartbeat_ms: Millis::from_seconds(settings.heartbeat_seconds),
            priority_aging_ms: Millis::from_seconds(settings.priority_aging_seconds),
            response_target_ms: Millis(settings.response_target_ms),
            ..FleetSettings::default()
        },
        token_budget: TokenBudget {
            tokens: settings.token_budget,
            window: Millis::from_seconds(settings.token_window_seconds),
            are_tokens_explicit: names("token_budget"),
            is_window_explicit: names("token_window_seconds"),
        },
        close_within,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_engine_are_those_of_the_settings() {
        let of_settings = engine_options(&Configuration::default(), Duration::ZERO);
        let capacity = of_settings.totals.capacity;
        let EngineOptions { totals, .. } = of_settings.clone();
        assert_eq!(
            of_settings,
            EngineOptions { totals, close_within: Duration::ZERO, ..EngineOptions::fixed(capacity) }
        );
    }
}
