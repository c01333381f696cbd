//! Finding the daemon, and starting it where there is none.
//!
//! Whoever finds no daemon starts one. Several may do so at once: the lock decides whose lives, and each then connects to
//! that one, whoever started it.

use cortex_util::program;
use std::{io, path::PathBuf, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use super::{
    hello::{self, Answer, Ask, Hello, PROTOCOL},
    listener::is_own_user,
    runtime_directory::Place,
    starts::Starts,
    stop_command, subject,
};
use cortex_lines::LineBuffer;
use cortex_serving::{RuntimeRecord, StartupError, not_owned};
use cortex_util::lock::{LOCK_WAIT_MAX, LockError, OwnerLock, OwnerRecord};

/// How long a session waits for a daemon that answers.
const ATTACH_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a command waits for a daemon that is there and does not answer. Longer than the daemon looks after its socket,
/// and than it waits for connections that say nothing.
const FIND_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a session leaves it to others to start the daemon, where that should run what this session does not name. After
/// a crash all sessions look for the next daemon at once.
const OTHERS_WAIT: Duration = Duration::from_secs(2);

/// The time between two attempts to connect.
const RETRY_WAIT: Duration = Duration::from_millis(10);

/// The longest line of a daemon, in bytes: a page of a list is far below.
const DAEMON_LINE_BYTES_MAX: usize = 64 * 1_048_576;

/// A connection on which the daemon has answered.
pub(super) struct Attached {
    pub(super) stream: UnixStream,
    /// What was read and not looked at.
    pub(super) lines: LineBuffer,
    pub(super) answer: Answer,
}

/// Connects to the daemon if there is one, and says `hello`.
///
/// # Errors
/// What answers is no daemon, or one of another user.
pub(super) async fn find(place: &Place, hello: &Hello) -> Result<Option<Attached>, StartupError> {
    let socket = socket(place);
    let mut stream = match UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => {
            return Err(StartupError::new(format!(
                "the daemon's socket {} cannot be reached ({error}): look whether it is yours",
                socket.display()
            )));
        }
    };
    let shown = socket.display();
    if !is_own_user(&stream) {
        return Err(StartupError::new(format!("the daemon behind {shown} is another user's: use a state of your own")));
    }
    let mut lines = LineBuffer::new(DAEMON_LINE_BYTES_MAX);
    let answer = match hello::write(&mut stream, hello).await {
        Ok(()) => hello::read::<Answer>(&mut stream, &mut lines).await,
        Err(error) => Err(error),
    };
    match answer {
        // It is another's that was found by mistake, and did nothing.
        Ok(answer) if answer.other_state => Ok(None),
        Ok(answer) => Ok(Some(Attached { stream, lines, answer })),
        // It ended while it was spoken to.
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => {
            let way_out = match held_by_daemon(place) {
                Some(held) => format!("{held}: end that process"),
                None => format!("nobody holds {}: remove the socket", place.lock.display()),
            };
            Err(StartupError::new(format!("the daemon behind {shown} does not answer as one ({error}), and {way_out}")))
        }
    }
}

/// The same for a command. While the lock is held by a daemon that does not answer, it is tried again for a while: it may be
/// about to make its socket anew, be busy with too many connections, or be ending.
///
/// # Errors
/// As for [`find`], or a daemon is there and does not answer in time.
pub(super) async fn find_patiently(place: &Place, ask: Ask) -> Result<Option<Attached>, StartupError> {
    let hello = Hello::new(ask, place.state.as_deref());
    let deadline = Instant::now() + FIND_WAIT_MAX;
    loop {
        if let Some(attached) = find(place, &hello).await? {
            return Ok(Some(attached));
        }
        let Some(held) = held_by_daemon(place) else { return Ok(None) };
        if Instant::now() >= deadline {
            return Err(silent(place, FIND_WAIT_MAX, Some(&held)));
        }
        sleep(RETRY_WAIT).await;
    }
}

/// Connects to the daemon, and starts one first if there is none. `hello` asks for a session.
///
/// # Errors
/// None can be started, none answers in time, the state is owned by a process that is none, or the session is refused.
pub(super) async fn attach(place: &Place, hello: &Hello) -> Result<Attached, StartupError> {
    let now = Instant::now();
    let deadline = now + ATTACH_WAIT_MAX;
    let start_at = if is_for_others(place, hello) { now + OTHERS_WAIT } else { now };
    let mut starts = Starts::new();
    let mut held_since = None;
    loop {
        if let Some(attached) = find(place, hello).await? {
            return accepted(place, attached);
        }
        if starts.may_start(place)? && is_free(place, &mut held_since)? && Instant::now() >= start_at {
            starts.start(place)?;
        }
        if Instant::now() >= deadline {
            return Err(silent(place, ATTACH_WAIT_MAX, held_by_daemon(place).as_ref()));
        }
        sleep(RETRY_WAIT).await;
    }
}

/// Whether the daemon before ran servers or workers that this session does not name, so that one of its own could not go on
/// with their leases.
fn is_for_others(place: &Place, hello: &Hello) -> bool {
    let names = |key| hello.given.contains_key(key);
    place
        .state
        .as_deref()
        .is_some_and(|state| RuntimeRecord::has_more_than(state, names("catalog"), names("worker_command")))
}

/// Where the owner of the state says that it listens, else where it would. A record that names another state came here with
/// a copy of the file, and is nobody's.
fn socket(place: &Place) -> PathBuf {
    let record = OwnerRecord::read(&place.lock).ok().flatten();
    let own = record.filter(|record| record.state == place.state);
    own.and_then(|record| record.socket).unwrap_or_else(|| place.socket.clone())
}

/// Whether nobody owns what the daemon would. An owner that takes no sessions is waited for as long as one may take to end.
fn is_free(place: &Place, held_since: &mut Option<Instant>) -> Result<bool, StartupError> {
    match OwnerLock::check_free(&place.lock) {
        Ok(()) => Ok(true),
        Err(error @ LockError::Failed { .. }) => Err(not_owned(place.state.as_deref().unwrap_or(&place.lock), error)),
        // A daemon begins or ends, or an owner is just writing its record, unless it is one that takes no sessions.
        Err(LockError::Held { .. }) => match excluded(place) {
            Some(unusable) if held_since.get_or_insert_with(Instant::now).elapsed() >= LOCK_WAIT_MAX => Err(unusable),
            _ => Ok(false),
        },
    }
}

/// Why nobody else can own the state: its owner takes no sessions for it, as far as its record tells.
pub(super) fn excluded(place: &Place) -> Option<StartupError> {
    let Err(held) = OwnerLock::check_free(&place.lock) else { return None };
    let LockError::Held { owner: Some(owner), .. } = &held else { return None };
    let state = place.state.as_deref().unwrap_or(&place.lock);
    if owner.socket.is_none() {
        return Some(not_owned(state, held));
    }
    (owner.state != place.state).then(|| StartupError {
        text: format!(
            "the state {} is served under another name, {}: {held}; use that name, or end that process first",
            state.display(),
            subject(owner.state.as_deref())
        ),
        held: true,
    })
}

/// The held lock, if it is not held by an owner that takes no sessions.
fn held_by_daemon(place: &Place) -> Option<LockError> {
    match OwnerLock::check_free(&place.lock) {
        Err(held @ LockError::Held { .. }) => {
            let is_other = matches!(&held, LockError::Held { owner: Some(owner), .. } if owner.socket.is_none());
            (!is_other).then_some(held)
        }
        _ => None,
    }
}

/// Why there is no answer after `waited`.
fn silent(place: &Place, waited: Duration, held: Option<&LockError>) -> StartupError {
    let (subject, seconds, log) = (subject(place.state.as_deref()), waited.as_secs(), place.log.display());
    match held {
        Some(held) => StartupError {
            text: format!(
                "no daemon answers on {subject} within {seconds} s, though {held}: end that process and start again; its log is {log}"
            ),
            held: true,
        },
        None => StartupError::new(format!("no daemon answers on {subject} within {seconds} s: see its log {log}")),
    }
}

/// Takes the daemon's answer to the wish for a session.
fn accepted(place: &Place, attached: Attached) -> Result<Attached, StartupError> {
    let Answer { protocol, version, refused, warnings, .. } = &attached.answer;
    let (ours, stop) = (program::VERSION, stop_command(place.state.as_deref()));
    if *protocol != PROTOCOL {
        return Err(StartupError::new(super::other_protocol(PROTOCOL, ours, *protocol, version, &stop)));
    }
    if let Some(refused) = refused {
        return Err(StartupError::new(refused.clone()));
    }
    if version != ours {
        tracing::warn!(
            "the daemon is version {version} and this program {ours}: to run the daemon on {ours} too, end it with `{stop}` and start \
             again; leases stay in the state, if there is one"
        );
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(attached)
}

/// Whether an error says that there is no daemon (any more), rather than that something is wrong.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof, WouldBlock};
    // A socket whose queue is full of others who connect is tried again.
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof | WouldBlock)
}
