//! The parts of every process that owns a cluster state: engine, background loops, managed processes, and MCP
//! connections.
//!
//! A process that serves a single client in-process and the daemon differ only in the source of their connections.
//! Invariant: a process acquires the lock of a state before it opens the state, and holds it until the process ends.

#[cfg(unix)]
mod provisioning;
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
use cortex_core::view::CapacityView;
use cortex_engine::clock::EngineClock;
use cortex_engine::{Engine, EngineHandle, EngineOptions, StartError, TokenBudget, Totals};
use cortex_journal::{
    Journal, JournalError, NullJournal, SNAPSHOT_EVENTS_MIN, SqliteJournal, SqliteOptions, Synchronous,
};
use cortex_loops::{LoopStatus, PlannerOutputs, plan_capacity, sweep_expired};
use cortex_managed::RuntimeHandle;
use cortex_mcp::transport::{ConnectionHandle, LineTransport};
use cortex_mcp::{PlannerFeed, Server, ServerOptions};
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

/// How long the process may take to end once the input has ended. Calls in flight are answered and all output is
/// flushed within it, or dropped. Together with the flush of the log it stays under a second.
pub const END_WAIT_MAX: Duration = Duration::from_millis(700);

/// The exit code of a process whose state or daemon cannot be used.
pub const STARTUP_ERROR_EXIT_CODE: u8 = 3;

/// A state or daemon that cannot be used. The text is one line: what is wrong, the value, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StartupError {
    pub text: String,
    /// Whether the cause is another process that owns the state. A retry can succeed once that process ends.
    pub held: bool,
}

impl StartupError {
    /// Creates an error that a retry does not resolve.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), held: false }
    }
}

/// The engine of this process, with its background loops and managed processes.
pub struct Manager {
    engine: EngineHandle,
    shown: PlannerFeed,
    settings: Settings,
    sweep: Arc<LoopStatus>,
    planner: Arc<LoopStatus>,
    /// Runs managed servers and workers, if any are configured.
    #[cfg(unix)]
    host: Option<Host>,
    /// The engine's task. When it ends, the state is released.
    engine_task: JoinHandle<()>,
}

impl Manager {
    /// Opens the state of the settings, or an empty state in memory. The returned future runs the background loops; it
    /// ends with the reason if the engine fails. `owner` is written into the state's lock; the lock is waited for up to
    /// `lock_wait_max`. At the end, the engine may take `close_within` to write a snapshot, which makes the next start
    /// faster.
    ///
    /// # Errors
    /// [`StartupError`] if the state cannot be used, or does not fit the settings.
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub async fn open(
        configuration: &Configuration,
        owner: &OwnerRecord,
        lock_wait_max: Duration,
        close_within: Duration,
    ) -> Result<(Self, impl Future<Output = anyhow::Error> + use<>), StartupError> {
        let mut settings = configuration.settings.clone();
        let options = engine_options(configuration, close_within);
        let journal = open_journal(&settings, owner, lock_wait_max)?;
        // From here on this process is the owner. Processes that the last owner left behind are ended before its leases
        // continue.
        #[cfg(unix)]
        let prepared = provisioning::prepare(&settings, owner)?;
        let (engine, engine_task, failed) = match journal {
            Some(journal) => start(options, journal).await,
            None => start(options, NullJournal).await,
        }
        .map_err(startup_error)?;
        let capacity = engine.read(|state, now| state.cluster.capacity(now)).await.ok();
        #[cfg(unix)]
        if let (Some(state), Some(capacity)) = (&settings.state, &capacity) {
            RuntimeRecord::update(&settings, &state_path(state)?, capacity)?;
        }
        #[cfg(unix)]
        let host = provisioning::start(prepared, &engine).await?;
        follow_state(&mut settings, configuration, &engine, capacity.as_ref()).await;

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
        let host_failed = host_failed(host.as_ref());
        #[cfg(not(unix))]
        let host_failed = std::future::pending::<()>();
        let ended = async move {
            tokio::select! {
                () = host_failed => anyhow!("internal error: the host of managed servers and workers failed"),
                failed = failed => failed.unwrap_or_else(|_| anyhow!("internal error: the engine failed")),
                // The loops run until the engine has ended.
                _ = async { tokio::join!(sweep, plan_ahead) } => anyhow!("the engine ended"),
            }
        };
        tracing::info!(
            version = program::VERSION,
            workers = settings.total_workers,
            cpu_cores = settings.total_cpu.as_cores(),
            memory_mb = settings.total_memory.0,
            "manager ready"
        );
        let shown = PlannerFeed { plan, bottlenecks, forecast, planner };
        let manager = Self {
            engine,
            shown,
            settings,
            sweep: sweep_status,
            planner: planner_status,
            #[cfg(unix)]
            host,
            engine_task,
        };
        Ok((manager, ended))
    }

    /// Creates an MCP server for a connection, which ends when `closing` is cancelled.
    #[must_use]
    pub fn server(&self, options: &ServerOptions, closing: CancellationToken) -> Server {
        Server::new(self.engine.clone(), self.shown.clone(), self.managed(), options, closing)
    }

    /// Returns a handle of the engine.
    #[must_use]
    pub const fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Returns the effective settings; the totals are those of the state.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the status of the background loops.
    #[must_use]
    pub fn loops(&self) -> [&LoopStatus; 2] {
        [&self.sweep, &self.planner]
    }

    /// Returns a handle of the host of managed servers and workers, if any are configured.
    #[must_use]
    pub fn managed(&self) -> Option<RuntimeHandle> {
        #[cfg(unix)]
        return self.host.as_ref().map(|host| host.handle().clone());
        #[cfg(not(unix))]
        None
    }

    /// Returns the number of running managed processes; `None` if none are configured.
    #[must_use]
    pub fn processes(&self) -> Option<watch::Receiver<usize>> {
        #[cfg(unix)]
        return self.host.as_ref().map(Host::running);
        #[cfg(not(unix))]
        None
    }

    /// Ends the managed processes within `host_within`, writes the rest of the state within `within`, and releases the
    /// state. All connections must have ended before.
    pub async fn close(self, within: Duration, host_within: Duration) {
        #[cfg(unix)]
        if let Some(host) = self.host {
            host.end(host_within).await;
            let state = self.settings.state.as_deref().and_then(|state| state_path(state).ok());
            let capacity = self.engine.read(|state, now| state.cluster.capacity(now)).await;
            if let (Some(state), Ok(capacity)) = (state, capacity) {
                RuntimeRecord::remove_if_unused(&state, &capacity);
            }
        }
        #[cfg(not(unix))]
        let _ = host_within;
        let Self { engine, engine_task, .. } = self;
        // The engine ends when its last handle is dropped.
        drop(engine);
        if timeout(within, engine_task).await.is_err() {
            tracing::debug!("the engine did not end in time: the next start replays more events");
        }
    }
}

fn open_journal(
    settings: &Settings,
    owner: &OwnerRecord,
    lock_wait_max: Duration,
) -> Result<Option<SqliteJournal>, StartupError> {
    let Some(state) = &settings.state else { return Ok(None) };
    let options = sqlite_options(settings, state_path(state)?);
    let journal = SqliteJournal::open(options, owner, lock_wait_max);
    Ok(Some(journal.map_err(StartError::from).map_err(startup_error)?))
}

/// Sets the settings that follow the state: its totals and token budget, and bounds that were not given.
async fn follow_state(
    settings: &mut Settings,
    configuration: &Configuration,
    engine: &EngineHandle,
    capacity: Option<&CapacityView>,
) {
    let is_given = |key| *configuration.source(key) != Source::Default;
    if let Some(CapacityView { total, .. }) = capacity {
        settings.total_cpu = total.cpu_millis;
        settings.total_memory = total.memory_mb;
        // A given total stays in the settings even if the planner has scaled the workers since: other sessions give the
        // same value.
        if !is_given("total_workers") {
            settings.total_workers = u32::try_from(total.workers).unwrap_or(u32::MAX);
        }
    }
    if let Ok(usage) = engine.read(|state, now| state.usage(now)).await {
        settings.token_budget = usage.tokens.all.total;
        settings.token_window_seconds = usage.tokens.window.as_seconds();
    }
    // Bounds that were not given follow the state, so that the planner does not scale by default. A bound that was
    // given limits the other one.
    if !is_given("min_workers") {
        let max = is_given("max_workers").then_some(settings.max_workers);
        settings.min_workers = max.map_or(settings.total_workers, |max| settings.total_workers.min(max));
    }
    if !is_given("max_workers") {
        settings.max_workers = settings.total_workers.max(settings.min_workers);
    }
}

/// Waits until the host has failed; without a host, for ever.
#[cfg(unix)]
fn host_failed(host: Option<&Host>) -> impl Future<Output = ()> + use<> {
    let failed = host.map(Host::ended);
    async move {
        match failed {
            Some(failed) => failed.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

/// Starts an engine in a separate task. The receiver gets the reason if the engine fails.
async fn start<J: Journal>(
    options: EngineOptions,
    journal: J,
) -> Result<(EngineHandle, JoinHandle<()>, oneshot::Receiver<anyhow::Error>), StartError> {
    let (engine, handle) = Engine::start(options, journal, EngineClock::system()).await?;
    let (failed_sender, failed) = oneshot::channel();
    let engine_task = tokio::spawn(async move {
        if let Err(error) = engine.run().await {
            // If the receiver was dropped, the process is ending anyway.
            let _ = failed_sender.send(anyhow::Error::from(startup_error(StartError::from(error))));
        } else {
            // Dropped only at the end, so that an orderly end is not taken for a failure.
            drop(failed_sender);
        }
    });
    Ok((handle, engine_task, failed))
}

/// Serves a client until the connection has ended. Returns whether all output was written.
///
/// # Errors
/// The MCP handshake fails for another reason than a disconnect.
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
                        tracing::warn!("replies dropped: the client did not read them in time");
                    }
                    deadline
                }
            }
        }
        // A disconnect before the first request is not an error.
        Err(ServerInitializeError::ConnectionClosed(_)) => end_deadline(),
        Err(error) => return Err(error).context("the MCP handshake failed"),
    };
    // If the client has closed its end, no output can be lost.
    Ok(timeout_at(deadline, connection.flushed()).await.is_ok_and(|flushed| flushed.is_ok()))
}

/// Returns the deadline of an end that begins now. All waits during the end share it.
fn end_deadline() -> Instant {
    Instant::now() + END_WAIT_MAX
}

/// Returns the options of an MCP server.
///
/// # Errors
/// A duration of leases is 0.
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

/// Returns the canonical path of a state: absolute and without links. The file need not exist.
///
/// # Errors
/// The folder does not exist, or the path is not that of a file.
pub fn state_path(path: &Path) -> Result<PathBuf, StartupError> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let refused = |why: &str| StartupError::new(format!("the state {} {why}", path.display()));
    if path.is_symlink() {
        return Err(refused("is a dangling symbolic link: create its target, or give another path"));
    }
    let name = path.file_name().ok_or_else(|| refused("is not a file: give the path of a file"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder
        .canonicalize()
        .map_err(|error| refused(&format!("is in a folder that cannot be used ({error}): create it first")))?;
    Ok(folder.join(name))
}

/// Returns the path of a file with a suffix added to its name.
#[cfg(unix)]
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

/// Converts an error of the lock of the state at `path`.
#[must_use]
pub fn not_owned(path: &Path, error: LockError) -> StartupError {
    match error {
        error @ LockError::Held { .. } => StartupError {
            text: format!(
                "the state {} is in use: {error}; end that process first, or share the state through a daemon \
                 (--daemon auto)",
                path.display()
            ),
            held: true,
        },
        LockError::Failed { path, error } => {
            StartupError::new(format!("failed to lock {} ({error}): make its folder and file writable", path.display()))
        }
    }
}

/// Converts an error of the engine and its causes to a startup error of one line.
fn startup_error(error: StartError) -> StartupError {
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
        keep_events: Duration::from_secs(settings.keep_events * 86_400),
        snapshot_events_min: SNAPSHOT_EVENTS_MIN,
    }
}

fn engine_options(configuration: &Configuration, close_within: Duration) -> EngineOptions {
    let settings = &configuration.settings;
    let is_given = |key| *configuration.source(key) != Source::Default;
    EngineOptions {
        totals: Totals {
            capacity: Resources {
                cpu_millis: settings.total_cpu,
                memory_mb: settings.total_memory,
                workers: u64::from(settings.total_workers),
            },
            is_cpu_explicit: is_given("total_cpu"),
            is_memory_explicit: is_given("total_memory"),
            are_workers_explicit: is_given("total_workers"),
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
            are_tokens_explicit: is_given("token_budget"),
            is_window_explicit: is_given("token_window_seconds"),
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
