//! One allocator for all sessions of a user: a process in the background that owns the state, or memory that is shared.
//!
//! A session's process ([`relay()`]) carries lines between its client and the daemon's socket; the first that finds no daemon
//! starts it. Invariants:
//!
//! - there is one daemon for each state, and one for the shared memory of each user: whoever holds the lock is it;
//! - only its holder removes or makes the socket and the record beside it;
//! - what a session does or suffers reaches no other, and its leases outlive it.

#![cfg(unix)]

mod hello;
mod idle;
mod launch;
mod listener;
mod log;
mod presence;
mod process;
mod relay;
mod running;
mod runtime_directory;
mod settings;
mod starts;
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
    hello::{Ask, Hello, PROTOCOL},
    launch::find_patiently,
    runtime_directory::Place,
    settings::SessionSettings,
    status::Status,
};
use cortex_config::{Configuration, Settings};
use cortex_serving::StartupError;
use cortex_util::lock::{LockError, OwnerLock};

/// How long a daemon may take to end in order: sessions are answered, and its books are written down.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);

/// The time between two looks whether the daemon is gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Carries lines between the client and the daemon until the client goes away or `stop` is cancelled.
///
/// # Errors
/// The daemon cannot be found or started, or refuses the session; or too many were lost in a row.
pub async fn relay(configuration: &Configuration, stop: CancellationToken) -> Result<(), StartupError> {
    let settings = &configuration.settings;
    let place = Place::of(settings.state.as_deref())?;
    let mut hello = Hello::new(Ask::Session, place.state.as_deref());
    hello.session = serde_json::to_value(SessionSettings::of(settings)).unwrap_or_default();
    hello.given = settings::given(configuration);
    relay::run(place, hello, settings, stop).await
}

/// How the daemon stands, as lines of `name: value`; nothing if none runs.
///
/// # Errors
/// There is a daemon and it does not answer, or the runtime directory or what answers in it cannot be used.
pub async fn status(settings: &Settings) -> Result<Option<String>, StartupError> {
    let place = Place::of(settings.state.as_deref())?;
    let Some(attached) = find_patiently(&place, Ask::Status).await? else { return Ok(None) };
    let answer = attached.answer;
    match serde_json::from_value::<Status>(answer.status) {
        Ok(status) => Ok(Some(status.to_string())),
        Err(_) => {
            let (ours, stop) = (program::VERSION, stop_command(place.state.as_deref()));
            Err(StartupError::new(other_protocol(PROTOCOL, ours, answer.protocol, &answer.version, &stop)))
        }
    }
}

/// Ends the daemon in order, waits until it is gone, and says so; nothing if none runs.
///
/// # Errors
/// It does not answer or is not gone in time, or the runtime directory or what answers in it cannot be used.
pub async fn stop(settings: &Settings) -> Result<Option<String>, StartupError> {
    let place = Place::of(settings.state.as_deref())?;
    let subject = subject(place.state.as_deref());
    let Some(mut attached) = find_patiently(&place, Ask::Stop).await? else { return Ok(None) };
    let (pid, deadline) = (attached.answer.pid, Instant::now() + STOP_WAIT_MAX);
    // The daemon keeps the connection until it has let go of everything.
    let gone = async {
        while matches!(attached.stream.read(&mut [0; 64]).await, Ok(1..)) {}
        while is_held_by(pid, &place.lock) {
            sleep(LOOK_INTERVAL).await;
        }
    };
    match timeout_at(deadline, gone).await {
        Ok(()) => Ok(Some(format!("the daemon on {subject} has ended (process {pid})\n"))),
        Err(_) => Err(StartupError::new(format!(
            "the daemon on {subject}, process {pid}, has not ended within {} s: see its log {}, or kill it",
            STOP_WAIT_MAX.as_secs(),
            place.log.display()
        ))),
    }
}

/// Whether this process still holds the lock, and not another that was started since.
fn is_held_by(pid: u32, lock: &Path) -> bool {
    match OwnerLock::check_free(lock) {
        Err(LockError::Held { owner, .. }) => owner.is_none_or(|owner| owner.pid == pid),
        _ => false,
    }
}

/// What is shared, in words.
#[must_use]
pub fn subject(state: Option<&Path>) -> String {
    state.map_or_else(|| "the shared memory".to_owned(), |state| state.display().to_string())
}

/// The command that ends the daemon.
fn stop_command(state: Option<&Path>) -> String {
    let program = program::NAME;
    state.map_or_else(|| format!("{program} stop"), |state| format!("{program} stop --state {}", state.display()))
}

/// What is wrong when two versions do not understand each other, and what to do. A session's comes first.
fn other_protocol(session: u32, session_version: &str, daemon: u32, daemon_version: &str, stop: &str) -> String {
    format!(
        "the daemon (version {daemon_version}) speaks protocol {daemon} and this program (version {session_version}) protocol \
         {session}: end the daemon with `{stop}` and start again; leases stay in the state, if there is one"
    )
}
