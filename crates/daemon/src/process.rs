//! The daemon's own life, from taking the lock to letting go of it.
//!
//! Whoever started it hears on standard output, in one line of JSON, that it is ready or why it is not.

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
    hello::PROTOCOL,
    idle::wait_until_idle,
    listener::{Listener, Shared},
    log,
    presence::{Presence, not_owned},
    runtime_directory::Place,
};
use cortex_config::{Configuration, Settings};
use cortex_runtime::SERVER_GRACE;
use cortex_serving::{Manager, STARTUP_ERROR_EXIT_CODE, Signals, StartupError};
use cortex_util::lock::{OwnerLock, OwnerRecord};

/// How long it waits for an owner before it. Short, since whoever started it tries again for as long as it wants; and not
/// none, since those who only look hold the lock for a moment.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(200);

/// How long the books may take to be written down at the end: a second or two for a million leases.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long what is run may take to end: its grace, and a moment.
fn host_wait_max(settings: &Settings) -> Duration {
    SERVER_GRACE.max(Duration::from_secs(settings.worker_grace_seconds)) + Duration::from_secs(1)
}

/// The line for whoever started the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Started {
    Ready { ready: bool, pid: u32 },
    Failed { error: String, code: u8, held: bool },
}

/// Serves sessions until nobody needs it or it is told to end.
///
/// # Errors
/// [`StartupError`] if the state or the runtime directory cannot be used or another owns it, other errors if the settings cannot
/// be served or the engine fails.
pub async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    // A leader of a process group cannot leave it: so it is where a shell or a service manager started it, and fine.
    let _ = rustix::process::setsid();
    let opened = open(configuration).await;
    tell(&match &opened {
        Ok(_) => Started::Ready { ready: true, pid: std::process::id() },
        Err(error) => {
            let unusable = error.downcast_ref::<StartupError>();
            Started::Failed {
                error: format!("{error:#}"),
                code: if unusable.is_some() { STARTUP_ERROR_EXIT_CODE } else { 1 },
                held: unusable.is_some_and(|unusable| unusable.held),
            }
        }
    });
    serve(opened?).await
}

/// What a daemon has once it can serve.
struct Opened<E> {
    shared: Arc<Shared>,
    socket: UnixListener,
    /// Lets go of the shared memory when the daemon has ended.
    presence: Presence,
    failed: E,
    idle_wait: Duration,
    told: CancellationToken,
    _log: cortex_telemetry::LogGuard,
}

async fn open(configuration: &Configuration) -> anyhow::Result<Opened<impl Future<Output = anyhow::Error> + use<>>> {
    let settings = &configuration.settings;
    let place = Place::of(settings.state.as_deref())?;
    let log_path = log::is_standard_error(&place.log).then(|| place.log.clone());
    let log = if log_path.is_some() {
        let file = log::Rotating::new(place.log.clone()).context("the log cannot be written")?;
        cortex_telemetry::init_to(file, settings.log_level, settings.log_format)?
    } else {
        cortex_telemetry::init(settings.log_level, settings.log_format)?
    };
    // Relative to where it was started, as the rest of its settings.
    let mut configuration = configuration.clone();
    configuration.settings.state = place.state.clone();
    if let Some(catalog) = &mut configuration.settings.catalog {
        *catalog = std::path::absolute(&catalog).context("the path of the catalog cannot be made out")?;
    }
    // No folder is kept from being removed or unmounted.
    std::env::set_current_dir("/").context("the root folder cannot be entered")?;
    let told = Signals::stop().context("signals cannot be handled")?;

    let record = OwnerRecord {
        protocol: Some(PROTOCOL),
        socket: Some(place.socket.clone()),
        state: place.state.clone(),
        ..OwnerRecord::of_this_process()
    };
    let lock = if place.state.is_none() {
        Some(OwnerLock::acquire(&place.lock, &record, LOCK_WAIT_MAX).map_err(not_owned)?)
    } else {
        None
    };
    let (manager, failed) = Manager::open(&configuration, &record, LOCK_WAIT_MAX, CLOSE_WAIT_MAX).await?;
    // From here on this process is the owner.
    let state = place.state.clone();
    let instance = Uuid::new_v4().to_string();
    let (pid, path) = (record.pid, place.socket.clone());
    let (presence, socket) = Presence::make(place, record, lock)?;
    tracing::info!(instance, pid, socket = %path.display(), "the daemon is ready");
    let shared = Arc::new(Shared {
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
    Ok(Opened { shared, socket, presence, failed, idle_wait, told, _log: log })
}

async fn serve(opened: Opened<impl Future<Output = anyhow::Error>>) -> anyhow::Result<()> {
    let Opened { shared, mut socket, mut presence, failed, idle_wait, told, _log } = opened;
    let listener = Listener::new();
    let (sessions, engine) = (shared.sessions.subscribe(), shared.manager.engine().clone());
    let processes = shared.manager.processes();
    let idle = wait_until_idle(sessions, (engine, processes), idle_wait, shared.state.is_some());
    let (place, door, inside) = (&mut presence, &listener, &shared);
    // The socket goes with this, so that nobody waits at it while the rest ends.
    let serving = async move {
        loop {
            let replaced = tokio::select! {
                replaced = place.keep() => replaced,
                () = door.run(&socket, inside) => return Ok(()),
            };
            socket = replaced.inspect_err(|error| tracing::error!("this daemon ends: {error}"))?;
        }
    };
    let ended = tokio::select! {
        served = serving => served,
        () = shared.stop.cancelled() => Ok(()),
        () = told.cancelled() => {
            // The sessions' relays are told that this was wanted, as by the command.
            shared.stop.cancel();
            Ok(())
        }
        () = idle => {
            tracing::info!(idle_seconds = idle_wait.as_secs(), "nobody needs the daemon any more");
            Ok(())
        }
        error = failed => Err(error),
    };
    presence.remove();
    shared.ending.cancel();
    listener.end().await;
    match Arc::try_unwrap(shared) {
        Ok(Shared { manager, awaiting_end, .. }) => {
            let host_wait = host_wait_max(manager.settings());
            manager.close(CLOSE_WAIT_MAX, host_wait).await;
            drop(presence);
            // Last of all, those who asked for the end hear of it.
            drop(awaiting_end);
        }
        Err(_) => tracing::error!("a session did not end: the books are left as they are"),
    }
    tracing::info!("the daemon has ended");
    ended
}

/// Writes the line for whoever started this. If nobody listens, it serves all the same.
fn tell(started: &Started) {
    if let Ok(mut line) = serde_json::to_vec(started) {
        line.push(b'\n');
        let mut output = io::stdout().lock();
        let _ = output.write_all(&line).and_then(|()| output.flush());
    }
}
