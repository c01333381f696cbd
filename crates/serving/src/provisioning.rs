//! Provisioning of managed servers and workers, as configured by the settings.

use super::{StartupError, state_path, with_suffix};
use cortex_config::{EndpointAuth, Settings, WorkerReady};
use cortex_engine::EngineHandle;
use cortex_runtime::{Host, HostError, HostOptions, PoolOptions, PreparedHost, Ready, WorkerCommand};
use cortex_util::lock::OwnerRecord;
use cortex_util::program;
use std::path::Path;
use std::time::Duration;

/// Prepares the host of managed servers and workers; `None` if none are configured. The caller already owns the state.
pub(super) fn prepare(settings: &Settings, owner: &OwnerRecord) -> Result<Option<PreparedHost>, StartupError> {
    let worker = worker_of(settings);
    if settings.catalog.is_none() && worker.is_none() {
        return Ok(None);
    }
    let state = settings.state.as_deref().map(state_path).transpose()?;
    // A process without a daemon and without a state leaves no record: its guardians end the processes that it started.
    let base = state.as_deref().or(owner.socket.as_deref());
    let options = HostOptions {
        record: base.map(|path| with_suffix(path, "children")),
        // Without a state, leases end with the process, and so can the key.
        key: state.as_deref().map(|path| with_suffix(path, "key")),
        requires_token: settings.endpoint_auth == EndpointAuth::Token,
        worker,
        // A process without a daemon has a single client, so that no agent could connect to it.
        pool: owner.socket.is_some().then(|| pool_of(settings, state.as_deref())),
        ..HostOptions::new(settings.catalog.clone())
    };
    PreparedHost::prepare(options).map(Some).map_err(startup_error)
}

/// Starts the host, which runs the processes of the current leases.
pub(super) async fn start(prepared: Option<PreparedHost>, engine: &EngineHandle) -> Result<Option<Host>, StartupError> {
    match prepared {
        Some(prepared) => prepared.start(engine.clone()).await.map(Some).map_err(startup_error),
        None => Ok(None),
    }
}

/// Returns the command of managed workers, if one is configured.
fn worker_of(settings: &Settings) -> Option<WorkerCommand> {
    let (command, arguments) = settings.worker_command.split_first()?;
    Some(WorkerCommand {
        command: command.clone(),
        arguments: arguments.to_vec(),
        environment: settings.worker_env.clone(),
        ready: match &settings.worker_ready {
            WorkerReady::Tcp => Ready::Tcp,
            WorkerReady::None => Ready::Immediately,
            WorkerReady::Http(path) => Ready::Http(path.clone()),
        },
        grace: Duration::from_secs(settings.worker_grace_seconds),
    })
}

/// Returns the options of the agent pool. An agent connects to this manager by starting this program, which finds the
/// daemon through these variables.
fn pool_of(settings: &Settings, state: Option<&Path>) -> PoolOptions {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let shared = match state {
        Some(state) => ("CORTEX_STATE", text(state)),
        None => ("CORTEX_DAEMON", "always".to_owned()),
    };
    let own = [("CORTEX_MANAGER", text(&program::path())), shared, ("CORTEX_TOOLSETS", "agents,tasks".to_owned())];
    PoolOptions {
        environment: own.map(|(name, value)| (name.to_owned(), value)).into(),
        agents_max: settings.max_workers.try_into().unwrap_or(usize::MAX),
    }
}

/// Converts an error and its causes to a startup error of one line.
fn startup_error(error: HostError) -> StartupError {
    StartupError::new(format!("{:#}", anyhow::Error::from(error)))
}
