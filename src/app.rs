//! The application: what the process does for each way of starting it.

mod simulate;

pub(crate) use simulate::simulate;

use crate::audit::{self, EventFilter};
use anyhow::Context;
use cortex_config::{Configuration, DaemonMode, Settings};
#[cfg(unix)]
#[cfg(unix)]
use cortex_journal::{JournalError, lock_path};
use cortex_mcp::transport::{LineTransport, WireLimits, stdio};
use cortex_serving::{Manager, STARTUP_ERROR_EXIT_CODE, Signals, StartupError};
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
#[cfg(unix)]
use cortex_util::lock::{LockError, OwnerLock};
use std::io::{self, IsTerminal, Write};
#[cfg(unix)]
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long the books of a process that serves by itself may take to be written down at the end. With the wait for the
/// client it stays under a second.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(150);

/// Serves one client on standard input and output until it goes away or the process is told to end: by itself, or through
/// the daemon.
///
/// # Errors
/// [`cortex_serving::StartupError`] if the state or the daemon cannot be used; another error if the settings cannot be served, or the handshake
/// with the client fails in a way that is not its going away.
pub(crate) fn run(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    let settings = &configuration.settings;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        // What is run outlives a session, and is shared by all: it needs a process of its own as a state does.
        let is_shared = settings.state.is_some() || settings.is_managed();
        match settings.daemon {
            DaemonMode::Always => relay(configuration).await,
            DaemonMode::Auto if is_shared => relay(configuration).await,
            DaemonMode::Never | DaemonMode::Auto => serve(configuration).await,
        }
    });
    // A read from a terminal cannot be called off; it must not hold up the end.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// Serves sessions through the socket until the process is told to end or nobody needs it any more.
///
/// # Errors
/// [`cortex_serving::StartupError`] if the state or the runtime directory cannot be used, or another daemon is there; another error if the
/// settings cannot be served.
pub(crate) fn daemon(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    #[cfg(unix)]
    {
        let runtime = runtime()?;
        let result = runtime.block_on(cortex_daemon::run(configuration));
        runtime.shutdown_background();
        result.map(|()| ExitCode::SUCCESS)
    }
    #[cfg(not(unix))]
    Err(no_daemon(configuration).into())
}

/// What runs on the state, or on the memory that is shared without one: lines of `name: value`.
///
/// # Errors
/// [`cortex_serving::StartupError`] if the runtime directory or what answers in it cannot be used.
pub(crate) fn status(configuration: &Configuration) -> anyhow::Result<String> {
    #[cfg(unix)]
    {
        let settings = &configuration.settings;
        match runtime()?.block_on(cortex_daemon::status(settings))? {
            Some(lines) => Ok(lines),
            None => status_without_daemon(settings),
        }
    }
    #[cfg(not(unix))]
    Err(no_daemon(configuration).into())
}

/// Ends the daemon in order and says so.
///
/// # Errors
/// [`cortex_serving::StartupError`] if it does not end, there is no such state, a process without a daemon serves it, or the runtime
/// directory or what answers in it cannot be used.
pub(crate) fn stop(configuration: &Configuration) -> anyhow::Result<String> {
    #[cfg(unix)]
    {
        let settings = &configuration.settings;
        match runtime()?.block_on(cortex_daemon::stop(settings))? {
            Some(said) => Ok(said),
            None => nothing_to_stop(settings),
        }
    }
    #[cfg(not(unix))]
    Err(no_daemon(configuration).into())
}

/// Prints the events of the state as JSON lines to standard output.
///
/// # Errors
/// [`StartupError`] if there is no state, or it cannot be read.
pub(crate) fn events(configuration: &Configuration, filter: &EventFilter) -> anyhow::Result<ExitCode> {
    let state = state_of(configuration)?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    audit::print_events(&state, filter, &mut output).map_err(unreadable)?;
    Ok(ExitCode::SUCCESS)
}

/// Replays the state, checks it, and says what was seen. The exit code is that of an unusable state if it is not sound.
///
/// # Errors
/// [`StartupError`] if there is no state, or it cannot be read at all.
pub(crate) fn verify(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    let state = state_of(configuration)?;
    let mut terminal = io::stderr();
    let mut progress = |done: u64, all: u64| {
        if terminal.is_terminal() {
            // A progress that cannot be shown is no reason to stop.
            let _ = write!(terminal, "\rverified {done} of {all} events");
        }
    };
    let verdict = audit::verify(&state, &mut progress).map_err(|error| unreadable(error.into()))?;
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let written = io::stdout().lock().write_all(verdict.to_string().as_bytes());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if verdict.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(STARTUP_ERROR_EXIT_CODE) })
}

/// The path of the state that a command is to look at.
fn state_of(configuration: &Configuration) -> Result<PathBuf, StartupError> {
    let state = configuration.settings.state.as_deref();
    let state = state.ok_or_else(|| StartupError::new("no state is named: give --state FILE, or set CORTEX_STATE"))?;
    cortex_serving::state_path(state)
}

/// A state that cannot be read, in one line.
fn unreadable(error: anyhow::Error) -> StartupError {
    StartupError::new(format!("{error:#}"))
}

/// What the files tell while no daemon runs.
#[cfg(unix)]
fn status_without_daemon(settings: &Settings) -> anyhow::Result<String> {
    let none = no_daemon_on(settings);
    let Some(state) = &settings.state else { return Ok(none) };
    let path = cortex_serving::state_path(state)?;
    let owner = owner_of(&path).map(|held| format!("owner: {held}\n")).unwrap_or_default();
    let found = audit::describe(&path).map_err(unreadable)?;
    Ok(format!("{none}{owner}{found}"))
}

/// What is said where there is no daemon to end: that is fine if nothing else serves the state, and it is one.
#[cfg(unix)]
fn nothing_to_stop(settings: &Settings) -> anyhow::Result<String> {
    let none = no_daemon_on(settings);
    let Some(state) = &settings.state else { return Ok(none) };
    let path = cortex_serving::state_path(state)?;
    if let Some(held) = owner_of(&path) {
        let none = none.trim_end();
        return Err(
            StartupError::new(format!("{none}, but {held}: end that process, or the client that started it")).into()
        );
    }
    // Whatever it is like: who stops may want to remove it.
    if path.exists() { Ok(none) } else { Err(unreadable(JournalError::NoState { path }.into()).into()) }
}

#[cfg(unix)]
fn no_daemon_on(settings: &Settings) -> String {
    format!("no daemon runs on {}\n", cortex_daemon::subject(settings.state.as_deref()))
}

/// Who holds the lock of a state, if anybody does.
#[cfg(unix)]
fn owner_of(state: &Path) -> Option<LockError> {
    OwnerLock::check_free(&lock_path(state)).err().filter(|error| matches!(error, LockError::Held { .. }))
}

#[cfg(not(unix))]
fn no_daemon(_: &Configuration) -> StartupError {
    StartupError::new("there is no daemon on this system: use --daemon never, which serves in the process itself")
}

/// One thread for transport and engine: calls take effect in the order sent, and none is handed between threads.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime could not be started")
}

/// Serves from books of this process alone.
async fn serve(configuration: &Configuration) -> anyhow::Result<()> {
    let settings = &configuration.settings;
    let mut owner = OwnerRecord::of_this_process();
    owner.state = settings.state.as_deref().map(cortex_serving::state_path).transpose()?;
    let (manager, failed) = Manager::open(configuration, &owner, LOCK_WAIT_MAX, CLOSE_WAIT_MAX).await?;
    let (reader, writer) = stdio::open();
    tracing::debug!(input = reader.kind(), output = writer.kind(), "transport");
    let (transport, connection) = LineTransport::new(reader, writer, wire_limits(settings));
    let server = manager.server(&cortex_serving::server_options(settings)?, connection.closing());
    let stop = Signals::stop().context("signals cannot be handled")?;
    let stopped = connection.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        stopped.stop();
    });

    tokio::select! {
        result = cortex_serving::serve_connection(server, transport, &connection) => result.map(drop)?,
        error = failed => return Err(error),
    }
    manager.close(CLOSE_WAIT_MAX / 2, CLOSE_WAIT_MAX / 2).await;
    tracing::info!("ended");
    Ok(())
}

/// Carries lines between the client and the daemon.
async fn relay(configuration: &Configuration) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        let stop = Signals::stop().context("signals cannot be handled")?;
        Ok(cortex_daemon::relay(configuration, stop).await?)
    }
    #[cfg(not(unix))]
    Err(no_daemon(configuration).into())
}

fn wire_limits(settings: &Settings) -> WireLimits {
    WireLimits {
        line_bytes_max: settings.max_line_bytes,
        calls_in_flight_max: settings.max_calls_in_flight,
        ..WireLimits::default()
    }
}
