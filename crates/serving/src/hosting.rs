//! What is run for leases, as the settings say.

use super::{StartupError, state_path, with_ending};
use cortex_config::{EndpointAuth, Settings, WorkerReady};
use cortex_engine::EngineHandle;
use cortex_runtime::{Host, HostError, HostOptions, PoolOptions, Prepared, Ready, WorkerCommand};
use cortex_util::lock::OwnerRecord;
use cortex_util::program;
use std::path::Path;
use std::time::Duration;

/// Gets ready to run servers and workers; nothing, where none are to be real. The state is owned by now.
pub(super) fn prepare(settings: &Settings, owner: &OwnerRecord) -> Result<Option<Prepared>, StartupError> {
    let worker = worker_of(settings);
    if settings.catalog.is_none() && worker.is_none() {
        return Ok(None);
    }
    let state = settings.state.as_deref().map(state_path).transpose()?;
    // A process that serves by itself and keeps nothing leaves no record: its guardians end what it ran.
    let beside = state.as_deref().or(owner.socket.as_deref());
    let options = HostOptions {
        record: beside.map(|path| with_ending(path, "children")),
        // Leases that end with the process need no key that outlives it.
        key: state.as_deref().map(|path| with_ending(path, "key")),
        asks_for_token: settings.endpoint_auth == EndpointAuth::Token,
        worker,
        // A process that serves by itself has one client, and no agent can come to it.
        pool: owner.socket.is_some().then(|| pool_of(settings, state.as_deref())),
        ..HostOptions::new(settings.catalog.clone())
    };
    Prepared::prepare(options).map(Some).map_err(unusable)
}

/// Begins to run what the books hold.
pub(super) async fn start(prepared: Option<Prepared>, engine: &EngineHandle) -> Result<Option<Host>, StartupError> {
    match prepared {
        Some(prepared) => prepared.start(engine.clone()).await.map(Some).map_err(unusable),
        None => Ok(None),
    }
}

/// What workers run, if they are to be real.
fn worker_of(settings: &Settings) -> Option<WorkerCommand> {
    let (command, arguments) = settings.worker_command.split_first()?;
    Some(WorkerCommand {
        command: command.clone(),
        arguments: arguments.to_vec(),
        environment: settings.worker_env.clone(),
        ready: match &settings.worker_ready {
            WorkerReady::Tcp => Ready::Tcp,
            WorkerReady::None => Ready::AtOnce,
            WorkerReady::Http(path) => Ready::Http(path.clone()),
        },
        grace: Duration::from_secs(settings.worker_grace_seconds),
    })
}

/// How an agent of the pool reaches this manager: it starts this program, which finds the daemon by these variables.
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

/// In one line, with what caused it.
fn unusable(error: HostError) -> StartupError {
    StartupError::new(format!("{:#}", anyhow::Error::from(error)))
}
