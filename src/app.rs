//! The commands of the program: serving, the daemon, and the subcommands that inspect a state.

mod simulate;

pub(crate) use simulate::simulate;

use crate::audit::{self, EventFilter};
use anyhow::Context;
use cortex_config::{Configuration, DaemonMode, Settings};
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

/// How long a process without a daemon may take at its end to write the state. Together with the wait for the client it
/// stays under a second.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(150);

/// Serves one client on standard input and output, in-process or through the daemon, until the client disconnects or a
/// signal stops the process.
///
/// # Errors
/// [`StartupError`] if the state or the daemon cannot be used; another error if the settings cannot be used, or the
/// handshake fails for another reason than a disconnect.
pub(crate) fn run(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    let settings = &configuration.settings;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        // Managed processes outlive a session and are shared by all, so that they need a daemon, as a state does.
        let is_shared = settings.state.is_some() || settings.is_managed();
        match settings.daemon {
            DaemonMode::Always => relay(configuration).await,
            DaemonMode::Auto if is_shared => relay(configuration).await,
            DaemonMode::Never | DaemonMode::Auto => serve(configuration).await,
        }
    });
    // A blocking read from a terminal cannot be cancelled, and must not delay the end of the process.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// Runs the daemon until it is stopped or idle for long enough.
///
/// # Errors
/// [`StartupError`] if the state or the runtime directory cannot be used, or another daemon is running; another error
/// if the settings cannot be used.
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

/// Returns the status of the daemon, or else of the state alone, as lines of `name: value`.
///
/// # Errors
/// [`StartupError`] if the runtime directory cannot be used, or a daemon does not respond as expected.
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

/// Stops the daemon and returns a line that reports it.
///
/// # Errors
/// [`StartupError`] if the daemon does not stop, the state does not exist, a process that is not a daemon owns it, or
/// the runtime directory cannot be used.
pub(crate) fn stop(configuration: &Configuration) -> anyhow::Result<String> {
    #[cfg(unix)]
    {
        let settings = &configuration.settings;
        match runtime()?.block_on(cortex_daemon::stop(settings))? {
            Some(report) => Ok(report),
            None => nothing_to_stop(settings),
        }
    }
    #[cfg(not(unix))]
    Err(no_daemon(configuration).into())
}

/// Prints the events of the state as JSON lines to standard output.
///
/// # Errors
/// [`StartupError`] if no state is given, or it cannot be read.
pub(crate) fn events(configuration: &Configuration, filter: &EventFilter) -> anyhow::Result<ExitCode> {
    let state = required_state(configuration)?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    audit::print_events(&state, filter, &mut output).map_err(unreadable)?;
    Ok(ExitCode::SUCCESS)
}

/// Replays and checks the state, and prints the report. The exit code is that of a startup error if the state is not
/// sound.
///
/// # Errors
/// [`StartupError`] if no state is given, or it cannot be read at all.
pub(crate) fn verify(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    let state = required_state(configuration)?;
    let mut terminal = io::stderr();
    let mut progress = |done: u64, total: u64| {
        if terminal.is_terminal() {
            // Progress is optional, so that a write error is ignored.
            let _ = write!(terminal, "\rverified {done} of {total} events");
        }
    };
    let report = audit::verify(&state, &mut progress).map_err(|error| unreadable(error.into()))?;
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let written = io::stdout().lock().write_all(report.to_string().as_bytes());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(STARTUP_ERROR_EXIT_CODE) })
}

/// Returns the path of the state that a command inspects.
fn required_state(configuration: &Configuration) -> Result<PathBuf, StartupError> {
    let state = configuration.settings.state.as_deref();
    let state = state.ok_or_else(|| StartupError::new("no state given: use --state FILE or set CORTEX_STATE"))?;
    cortex_serving::state_path(state)
}

/// Converts an error to that of a state that cannot be read, in one line.
fn unreadable(error: anyhow::Error) -> StartupError {
    StartupError::new(format!("{error:#}"))
}

/// Describes the state from its files while no daemon is running.
#[cfg(unix)]
fn status_without_daemon(settings: &Settings) -> anyhow::Result<String> {
    let no_daemon = no_daemon_line(settings);
    let Some(state) = &settings.state else { return Ok(no_daemon) };
    let path = cortex_serving::state_path(state)?;
    let owner = held_lock(&path).map(|held| format!("owner: {held}\n")).unwrap_or_default();
    let description = audit::describe(&path).map_err(unreadable)?;
    Ok(format!("{no_daemon}{owner}{description}"))
}

/// Returns the report that no daemon is running. It is an error if another process owns the state or it does not exist.
#[cfg(unix)]
fn nothing_to_stop(settings: &Settings) -> anyhow::Result<String> {
    let no_daemon = no_daemon_line(settings);
    let Some(state) = &settings.state else { return Ok(no_daemon) };
    let path = cortex_serving::state_path(state)?;
    if let Some(held) = held_lock(&path) {
        let no_daemon = no_daemon.trim_end();
        return Err(StartupError::new(format!(
            "{no_daemon}, but {held}: end that process, or the client that started it"
        ))
        .into());
    }
    // The content is not checked, since the user may want to remove the state.
    if path.exists() { Ok(no_daemon) } else { Err(unreadable(JournalError::NoState { path }.into()).into()) }
}

#[cfg(unix)]
fn no_daemon_line(settings: &Settings) -> String {
    format!("no daemon is running for {}\n", cortex_daemon::state_label(settings.state.as_deref()))
}

/// Returns the lock of a state if a process holds it.
#[cfg(unix)]
fn held_lock(state: &Path) -> Option<LockError> {
    OwnerLock::check_free(&lock_path(state)).err().filter(|error| matches!(error, LockError::Held { .. }))
}

#[cfg(not(unix))]
fn no_daemon(_: &Configuration) -> StartupError {
    StartupError::new("the daemon needs a Unix system: use --daemon never to serve in-process")
}

/// Builds a runtime with one thread for transport and engine, so that calls take effect in the order in which they are
/// sent and are not passed between threads.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the async runtime")
}

/// Serves the client in-process, as the only owner of the state.
async fn serve(configuration: &Configuration) -> anyhow::Result<()> {
    let settings = &configuration.settings;
    let mut owner = OwnerRecord::of_this_process();
    owner.state = settings.state.as_deref().map(cortex_serving::state_path).transpose()?;
    let (manager, failed) = Manager::open(configuration, &owner, LOCK_WAIT_MAX, CLOSE_WAIT_MAX).await?;
    let (reader, writer) = stdio::open();
    tracing::debug!(input = reader.kind(), output = writer.kind(), "transport opened");
    let (transport, connection) = LineTransport::new(reader, writer, wire_limits(settings));
    let server = manager.server(&cortex_serving::server_options(settings)?, connection.closing());
    let stop = Signals::stop().context("failed to install signal handlers")?;
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
    tracing::info!("session ended");
    Ok(())
}

/// Relays the session between the client and the daemon.
async fn relay(configuration: &Configuration) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        let stop = Signals::stop().context("failed to install signal handlers")?;
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
