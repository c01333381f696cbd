//! Connections to the daemon, which is started if there is none.
//!
//! Several sessions may start a daemon concurrently. The lock decides which daemon stays, and all sessions connect to
//! it.

use cortex_util::program;
use std::{io, path::PathBuf, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use super::{
    handshake::{self, HandshakeRequest, HandshakeResponse, PROTOCOL, Purpose},
    launcher::Launcher,
    listener::is_own_user,
    runtime_directory::DaemonFiles,
    state_label, stop_command,
};
use cortex_lines::LineBuffer;
use cortex_serving::{RuntimeRecord, StartupError, not_owned};
use cortex_util::lock::{LOCK_WAIT_MAX, LockError, OwnerLock, OwnerRecord};

/// How long a session waits for a daemon that responds.
const SESSION_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a command waits for a daemon that does not respond. It is longer than the daemon's interval for checking
/// its socket.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a session lets others start the daemon, if the previous daemon managed processes that this session does not
/// configure. After a crash, all sessions try to start the next daemon concurrently.
const OTHERS_WAIT: Duration = Duration::from_secs(2);

/// The interval between two attempts to connect.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The maximum length of a daemon's line, in bytes: far above the size of a page of a list.
const DAEMON_LINE_BYTES_MAX: usize = 64 * 1_048_576;

/// A connection on which the daemon has responded to the handshake.
pub(super) struct DaemonConnection {
    pub(super) stream: UnixStream,
    /// Bytes that were read after the response.
    pub(super) lines: LineBuffer,
    pub(super) response: HandshakeResponse,
}

/// Connects to the daemon if there is one, and sends `request`.
///
/// # Errors
/// The response is invalid, or the daemon belongs to another user.
async fn try_connect(
    files: &DaemonFiles,
    request: &HandshakeRequest,
) -> Result<Option<DaemonConnection>, StartupError> {
    let socket = socket_path(files);
    let mut stream = match UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => {
            return Err(StartupError::new(format!(
                "failed to connect to the daemon's socket {} ({error}): check that it is yours",
                socket.display()
            )));
        }
    };
    let shown = socket.display();
    if !is_own_user(&stream) {
        return Err(StartupError::new(format!(
            "the daemon at {shown} belongs to another user: use a state of your own"
        )));
    }
    let mut lines = LineBuffer::new(DAEMON_LINE_BYTES_MAX);
    let response = match handshake::write(&mut stream, request).await {
        Ok(()) => handshake::read::<HandshakeResponse>(&mut stream, &mut lines).await,
        Err(error) => Err(error),
    };
    match response {
        // The daemon of another state, which did nothing.
        Ok(response) if response.other_state => Ok(None),
        Ok(response) => Ok(Some(DaemonConnection { stream, lines, response })),
        // The daemon ended during the handshake.
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => {
            let way_out = match held_by_daemon(files) {
                Some(held) => format!("{held}; end that process"),
                None => format!("no process holds {}: remove the socket", files.lock.display()),
            };
            Err(StartupError::new(format!("invalid response from the daemon at {shown} ({error}): {way_out}")))
        }
    }
}

/// Connects to the daemon for a command. While a daemon holds the lock and does not respond, this retries for up to
/// [`COMMAND_WAIT_MAX`]: the daemon may be about to recreate its socket, have too many connections, or be ending.
///
/// # Errors
/// As for [`try_connect`], or the daemon does not respond in time.
pub(super) async fn connect_for_command(
    files: &DaemonFiles,
    purpose: Purpose,
) -> Result<Option<DaemonConnection>, StartupError> {
    let request = HandshakeRequest::new(purpose, files.state.as_deref());
    let deadline = Instant::now() + COMMAND_WAIT_MAX;
    loop {
        if let Some(connection) = try_connect(files, &request).await? {
            return Ok(Some(connection));
        }
        let Some(held) = held_by_daemon(files) else { return Ok(None) };
        if Instant::now() >= deadline {
            return Err(no_response(files, COMMAND_WAIT_MAX, Some(&held)));
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// Connects a session to the daemon, which is started if there is none. `request` is that of a session.
///
/// # Errors
/// No daemon can be started or responds in time, a process that is not a daemon owns the state, or the session is
/// refused.
pub(super) async fn attach(files: &DaemonFiles, request: &HandshakeRequest) -> Result<DaemonConnection, StartupError> {
    let now = Instant::now();
    let deadline = now + SESSION_WAIT_MAX;
    let start_at = if defers_to_others(files, request) { now + OTHERS_WAIT } else { now };
    let mut launcher = Launcher::new();
    let mut held_since = None;
    loop {
        if let Some(connection) = try_connect(files, request).await? {
            return check_accepted(files, connection);
        }
        if launcher.may_start(files)? && is_free(files, &mut held_since)? && Instant::now() >= start_at {
            launcher.start(files)?;
        }
        if Instant::now() >= deadline {
            return Err(no_response(files, SESSION_WAIT_MAX, held_by_daemon(files).as_ref()));
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// Returns whether the previous daemon managed servers or workers that this session does not configure, so that a
/// daemon started by it could not keep their leases.
fn defers_to_others(files: &DaemonFiles, request: &HandshakeRequest) -> bool {
    let is_given = |key| request.given.contains_key(key);
    files
        .state
        .as_deref()
        .is_some_and(|state| RuntimeRecord::has_more_than(state, is_given("catalog"), is_given("worker_command")))
}

/// Returns the socket from the record of the state's owner, or else the default path. A record that names another state
/// was copied with the file, and is ignored.
fn socket_path(files: &DaemonFiles) -> PathBuf {
    let record = OwnerRecord::read(&files.lock).ok().flatten();
    let own = record.filter(|record| record.state == files.state);
    own.and_then(|record| record.socket).unwrap_or_else(|| files.socket.clone())
}

/// Returns whether no process owns the state. An owner that accepts no sessions may be ending, so that it is an error
/// only after [`LOCK_WAIT_MAX`].
fn is_free(files: &DaemonFiles, held_since: &mut Option<Instant>) -> Result<bool, StartupError> {
    match OwnerLock::check_free(&files.lock) {
        Ok(()) => Ok(true),
        Err(error @ LockError::Failed { .. }) => Err(not_owned(files.state.as_deref().unwrap_or(&files.lock), error)),
        // A daemon is starting or ending, or an owner is writing its record, unless its record has no socket.
        Err(LockError::Held { .. }) => match exclusive_owner(files) {
            Some(error) if held_since.get_or_insert_with(Instant::now).elapsed() >= LOCK_WAIT_MAX => Err(error),
            _ => Ok(false),
        },
    }
}

/// Returns the error if the state is owned by a process that accepts no sessions for it, according to its record.
pub(super) fn exclusive_owner(files: &DaemonFiles) -> Option<StartupError> {
    let Err(held) = OwnerLock::check_free(&files.lock) else { return None };
    let LockError::Held { owner: Some(owner), .. } = &held else { return None };
    let state = files.state.as_deref().unwrap_or(&files.lock);
    if owner.socket.is_none() {
        return Some(not_owned(state, held));
    }
    (owner.state != files.state).then(|| StartupError {
        text: format!(
            "the state {} is served under another path, {}: {held}; use that path, or end that process first",
            state.display(),
            state_label(owner.state.as_deref())
        ),
        held: true,
    })
}

/// Returns the held lock, unless its owner accepts no sessions.
fn held_by_daemon(files: &DaemonFiles) -> Option<LockError> {
    match OwnerLock::check_free(&files.lock) {
        Err(held @ LockError::Held { .. }) => {
            let is_other = matches!(&held, LockError::Held { owner: Some(owner), .. } if owner.socket.is_none());
            (!is_other).then_some(held)
        }
        _ => None,
    }
}

/// Returns the error for a daemon that did not respond within `waited`.
fn no_response(files: &DaemonFiles, waited: Duration, held: Option<&LockError>) -> StartupError {
    let (state, seconds, log) = (state_label(files.state.as_deref()), waited.as_secs(), files.log.display());
    match held {
        Some(held) => StartupError {
            text: format!(
                "no daemon for {state} responded within {seconds} s, although {held}: end that process and start \
                 again; see its log {log}"
            ),
            held: true,
        },
        None => StartupError::new(format!("no daemon for {state} responded within {seconds} s: see its log {log}")),
    }
}

/// Checks whether the daemon has accepted the session, and logs its warnings.
fn check_accepted(files: &DaemonFiles, connection: DaemonConnection) -> Result<DaemonConnection, StartupError> {
    let HandshakeResponse { protocol, version, refused, warnings, .. } = &connection.response;
    let (ours, stop) = (program::VERSION, stop_command(files.state.as_deref()));
    if *protocol != PROTOCOL {
        return Err(StartupError::new(super::protocol_mismatch(PROTOCOL, ours, *protocol, version, &stop)));
    }
    if let Some(refused) = refused {
        return Err(StartupError::new(refused.clone()));
    }
    if version != ours {
        tracing::warn!(
            "the daemon is version {version} and this program {ours}: to update the daemon, stop it with `{stop}` \
             and start again; leases stay in the state, if there is one"
        );
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(connection)
}

/// Returns whether an error means that no daemon is running, rather than a failure.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof, WouldBlock};
    // A socket whose queue of connections is full is tried again.
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof | WouldBlock)
}
