//! The daemon process, from acquiring the lock to releasing it.
//!
//! It reports to its parent on standard output, in one line of JSON, that it is ready or why it failed.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    discovery_files::{DiscoveryFiles, not_owned},
    handshake::PROTOCOL,
    idle::wait_until_idle,
    listener::{DaemonContext, Listener},
    log,
    runtime_directory::DaemonFiles,
};
use cortex_config::{Configuration, Settings};
use cortex_runtime::SERVER_GRACE;
use cortex_serving::{Manager, STARTUP_ERROR_EXIT_CODE, Signals, StartupError};
use cortex_util::lock::{OwnerLock, OwnerRecord};

/// How long the daemon waits for the lock. It is short, since the session that started the daemon retries by itself,
/// and not zero, since a check of the lock holds it for a moment.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(200);

/// How long the state may take to be written at the end: a second or two for a million leases.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Returns how long managed processes may take to end: their grace period and one second.
fn host_wait_max(settings: &Settings) -> Duration {
    SERVER_GRACE.max(Duration::from_secs(settings.worker_grace_seconds)) + Duration::from_secs(1)
}

/// The line for the process that started the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum StartupReport {
    Ready { ready: bool, pid: u32 },
    Failed { error: String, code: u8, held: bool },
}

/// Serves sessions until the daemon is idle or stopped.
///
/// # Errors
/// [`StartupError`] if the state or the runtime directory cannot be used or another process owns the state; another
/// error if the settings cannot be used or the engine fails.
pub async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    // This fails for the leader of a process group, as started by a shell or a service manager, and is not needed
    // there.
    let _ = rustix::process::setsid();
    let opened = open(configuration).await;
    report(&match &opened {
        Ok(_) => StartupReport::Ready { ready: true, pid: std::process::id() },
        Err(error) => {
            let startup_error = error.downcast_ref::<StartupError>();
            StartupReport::Failed {
                error: format!("{error:#}"),
                code: if startup_error.is_some() { STARTUP_ERROR_EXIT_CODE } else { 1 },
                held: startup_error.is_some_and(|error| error.held),
            }
        }
    });
    serve(opened?).await
}

/// A daemon that is ready to serve.
struct OpenDaemon<E> {
    shared: Arc<DaemonContext>,
    socket: UnixListener,
    /// Holds the lock of the in-memory state until the daemon has ended.
    discovery: DiscoveryFiles,
    failed: E,
    idle_wait: Duration,
    stop_signal: CancellationToken,
    _log: cortex_telemetry::LogGuard,
}

async fn open(
    configuration: &Configuration,
) -> anyhow::Result<OpenDaemon<impl Future<Output = anyhow::Error> + use<>>> {
    let settings = &configuration.settings;
    let files = DaemonFiles::of(settings.state.as_deref())?;
    let log_path = log::is_standard_error(&files.log).then(|| files.log.clone());
    let log = if log_path.is_some() {
        let file = log::RotatingLog::new(files.log.clone()).context("failed to open the log")?;
        cortex_telemetry::init_to(file, settings.log_level, settings.log_format)?
    } else {
        cortex_telemetry::init(settings.log_level, settings.log_format)?
    };
    // Resolves paths in the settings before the working directory changes.
    let mut configuration = configuration.clone();
    configuration.settings.state = files.state.clone();
    if let Some(catalog) = &mut configuration.settings.catalog {
        *catalog = std::path::absolute(&catalog).context("failed to resolve the path of the catalog")?;
    }
    // The daemon must not keep a folder from being removed or unmounted.
    std::env::set_current_dir("/").context("failed to change to the root folder")?;
    let stop_signal = Signals::stop().context("failed to install signal handlers")?;

    let record = OwnerRecord {
        protocol: Some(PROTOCOL),
        socket: Some(files.socket.clone()),
        state: files.state.clone(),
        ..OwnerRecord::of_this_process()
    };
    let lock = if files.state.is_none() {
        Some(OwnerLock::acquire(&files.lock, &record, LOCK_WAIT_MAX).map_err(not_owned)?)
    } else {
        None
    };
    let (manager, failed) = Manager::open(&configuration, &record, LOCK_WAIT_MAX, CLOSE_WAIT_MAX).await?;
    // From here on this process is the owner.
    let state = files.state.clone();
    let instance = Uuid::new_v4().to_string();
    let (pid, path) = (record.pid, files.socket.clone());
    let (discovery, socket) = DiscoveryFiles::create(files, record, lock)?;
    tracing::info!(instance, pid, socket = %path.display(), "daemon ready");
    let shared = Arc::new(DaemonContext {
        manager,
        state,
        log: log_path,
        instance,
        started: Instant::now(),
        sessions: watch::Sender::new(0),
        stop: CancellationToken::new(),
        ending: CancellationToken::new(),
        awaiting_end: Mutex::default(),
    });
    let idle_wait = Duration::from_secs(configuration.settings.daemon_idle_seconds);
    Ok(OpenDaemon { shared, socket, discovery, failed, idle_wait, stop_signal, _log: log })
}

async fn serve(opened: OpenDaemon<impl Future<Output = anyhow::Error>>) -> anyhow::Result<()> {
    let OpenDaemon { shared, mut socket, mut discovery, failed, idle_wait, stop_signal, _log } = opened;
    let listener = Listener::new();
    let (sessions, engine) = (shared.sessions.subscribe(), shared.manager.engine().clone());
    let processes = shared.manager.processes();
    let idle = wait_until_idle(sessions, engine, processes, idle_wait, shared.state.is_some());
    let (files, listening, context) = (&mut discovery, &listener, &shared);
    // The future owns the socket, which is therefore closed before the rest ends.
    let serving = async move {
        loop {
            let replaced = tokio::select! {
                replaced = files.maintain() => replaced,
                () = listening.run(&socket, context) => return Ok(()),
            };
            socket = replaced.inspect_err(|error| tracing::error!("daemon stopping: {error}"))?;
        }
    };
    let ended = tokio::select! {
        served = serving => served,
        () = shared.stop.cancelled() => Ok(()),
        () = stop_signal.cancelled() => {
            // As for the stop command, the relays of sessions receive a shutdown notice.
            shared.stop.cancel();
            Ok(())
        }
        () = idle => {
            tracing::info!(idle_seconds = idle_wait.as_secs(), "daemon was idle");
            Ok(())
        }
        error = failed => Err(error),
    };
    discovery.remove();
    shared.ending.cancel();
    listener.end().await;
    match Arc::try_unwrap(shared) {
        Ok(DaemonContext { manager, awaiting_end, .. }) => {
            let host_wait = host_wait_max(manager.settings());
            manager.close(CLOSE_WAIT_MAX, host_wait).await;
            drop(discovery);
            // Closes the connections of stop commands last of all.
            drop(awaiting_end);
        }
        Err(_) => tracing::error!("a session did not end: the state was not closed"),
    }
    tracing::info!("daemon stopped");
    ended
}

/// Writes the line for the parent process. A write error is ignored, since the parent may be gone.
fn report(report: &StartupReport) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let mut output = io::stdout().lock();
        let _ = output.write_all(&line).and_then(|()| output.flush());
    }
}
