//! The daemon: a background process that owns a state, on disk or in memory, and serves all sessions of a user.
//!
//! The process of a session ([`relay()`]) forwards lines between its client and the daemon's socket; the first one that
//! finds no daemon starts it. Invariants:
//!
//! - There is one daemon per state, and one for the in-memory state of each user: the holder of the lock.
//! - Only the holder of the lock creates or removes the socket and the record next to it.
//! - A failure of one session does not affect other sessions, and leases outlive their session.

#![cfg(unix)]

mod connection;
mod discovery_files;
mod handshake;
mod idle;
mod launcher;
mod listener;
mod log;
mod managed_processes;
mod process;
mod refusal;
mod relay;
mod runtime_directory;
mod settings;
mod status;

pub use process::run;

use cortex_util::program;
use std::{path::Path, time::Duration};

use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    connection::connect_for_command,
    handshake::{HandshakeRequest, PROTOCOL, Purpose},
    runtime_directory::DaemonFiles,
    settings::SessionSettings,
    status::Status,
};
use cortex_config::{Configuration, Settings};
use cortex_serving::StartupError;
use cortex_util::lock::{LockError, OwnerLock};

/// How long a daemon may take for an orderly stop, in which it answers pending calls and writes its state.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);

/// The interval between two checks whether the daemon has ended.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Forwards lines between the client and the daemon until the client disconnects or `stop` is cancelled.
///
/// # Errors
/// The daemon cannot be found or started, or refuses the session; or too many daemons were lost in a row.
pub async fn relay(configuration: &Configuration, stop: CancellationToken) -> Result<(), StartupError> {
    let settings = &configuration.settings;
    let files = DaemonFiles::of(settings.state.as_deref())?;
    let mut request = HandshakeRequest::new(Purpose::Session, files.state.as_deref());
    request.session = serde_json::to_value(SessionSettings::of(settings)).unwrap_or_default();
    request.given = settings::given_daemon_settings(configuration);
    relay::run(files, request, settings, stop).await
}

/// Returns the status of the daemon as lines of `name: value`; `None` if no daemon is running.
///
/// # Errors
/// The daemon does not respond, its response is invalid, or the runtime directory cannot be used.
pub async fn status(settings: &Settings) -> Result<Option<String>, StartupError> {
    let files = DaemonFiles::of(settings.state.as_deref())?;
    let Some(connection) = connect_for_command(&files, Purpose::Status).await? else { return Ok(None) };
    let response = connection.response;
    match serde_json::from_value::<Status>(response.status) {
        Ok(status) => Ok(Some(status.to_string())),
        Err(_) => {
            let (ours, stop) = (program::VERSION, stop_command(files.state.as_deref()));
            Err(StartupError::new(protocol_mismatch(PROTOCOL, ours, response.protocol, &response.version, &stop)))
        }
    }
}

/// Stops the daemon, waits until it has ended, and returns a line that reports it; `None` if no daemon is running.
///
/// # Errors
/// The daemon does not respond or does not end in time, or the runtime directory cannot be used.
pub async fn stop(settings: &Settings) -> Result<Option<String>, StartupError> {
    let files = DaemonFiles::of(settings.state.as_deref())?;
    let state = state_label(files.state.as_deref());
    let Some(mut connection) = connect_for_command(&files, Purpose::Stop).await? else { return Ok(None) };
    let (pid, deadline) = (connection.response.pid, Instant::now() + STOP_WAIT_MAX);
    // The daemon keeps the connection open until it has released everything.
    let ended = async {
        while matches!(connection.stream.read(&mut [0; 64]).await, Ok(1..)) {}
        while is_held_by(pid, &files.lock) {
            sleep(STOP_CHECK_INTERVAL).await;
        }
    };
    match timeout_at(deadline, ended).await {
        Ok(()) => Ok(Some(format!("the daemon for {state} has stopped (process {pid})\n"))),
        Err(_) => Err(StartupError::new(format!(
            "the daemon for {state}, process {pid}, did not stop within {} s: see its log {}, or kill it",
            STOP_WAIT_MAX.as_secs(),
            files.log.display()
        ))),
    }
}

/// Returns whether this process still holds the lock, rather than one that was started since.
fn is_held_by(pid: u32, lock: &Path) -> bool {
    match OwnerLock::check_free(lock) {
        Err(LockError::Held { owner, .. }) => owner.is_none_or(|owner| owner.pid == pid),
        _ => false,
    }
}

/// What is shared, in words.
#[must_use]
pub fn state_label(state: Option<&Path>) -> String {
    state.map_or_else(|| "the in-memory state".to_owned(), |state| state.display().to_string())
}

/// Returns the command that stops the daemon.
fn stop_command(state: Option<&Path>) -> String {
    let program = program::NAME;
    state.map_or_else(|| format!("{program} stop"), |state| format!("{program} stop --state {}", state.display()))
}

/// Returns the error for two versions with different protocols. The session's version comes first.
fn protocol_mismatch(session: u32, session_version: &str, daemon: u32, daemon_version: &str, stop: &str) -> String {
    format!(
        "the daemon (version {daemon_version}) uses protocol {daemon}, and this program (version {session_version}) \
         protocol {session}: stop the daemon with `{stop}` and start again; leases stay in the state, if there is one"
    )
}
