//! The socket of the daemon: accepts connections and handles their requests.
//!
//! Invariants: no data is read from a process of another user; at most [`SESSIONS_MAX`] sessions are served, and at
//! most [`HANDSHAKES_MAX`] connections are in their handshake, each for a bounded time.

use cortex_util::program;
use std::{
    cell::RefCell,
    io::{self, Write},
    net::Shutdown,
    os::fd::AsFd,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use tokio::{
    io::AsyncWrite,
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    handshake::{self, HandshakeRequest, HandshakeResponse, PROTOCOL, Purpose, SHUTDOWN_NOTICE},
    managed_processes::ManagedProcesses,
    refusal::Refusal,
    runtime_directory::own_user,
    settings::{SessionSettings, compare},
    state_label,
    status::{StateSummary, Status},
    stop_command,
};
use cortex_mcp::transport::LineTransport;
use cortex_serving::{END_WAIT_MAX, Manager, serve_connection, server_options};

/// The maximum number of concurrent sessions.
pub(super) const SESSIONS_MAX: usize = 256;

/// The maximum number of connections in their handshake.
const HANDSHAKES_MAX: usize = 64;

/// How long a status request waits for the engine; shorter than the wait of the requesting process.
const STATUS_WAIT_MAX: Duration = Duration::from_secs(2);

/// The pause after a failed accept, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The parts of the daemon that every connection shares.
pub(super) struct DaemonContext {
    pub(super) manager: Manager,
    /// The canonical path of the state; `None` for the in-memory state.
    pub(super) state: Option<PathBuf>,
    /// The file of the log; `None` if the daemon logs to its own standard error.
    pub(super) log: Option<PathBuf>,
    pub(super) instance: String,
    pub(super) started: Instant,
    /// The number of sessions.
    pub(super) sessions: watch::Sender<usize>,
    /// Cancelled when the daemon is stopped by a command or a signal, rather than by idling.
    pub(super) stop: CancellationToken,
    /// Cancelled when the sessions have to end.
    pub(super) ending: CancellationToken,
    /// The connections of stop commands. They close when the daemon has ended, which is how the commands detect it.
    pub(super) awaiting_end: Mutex<Vec<UnixStream>>,
}

/// Accepts connections. Dropping it ends the connections that are left.
pub(super) struct Listener {
    connections: RefCell<JoinSet<()>>,
    /// Permits for connections in their handshake.
    handshake_permits: Arc<Semaphore>,
}

impl Listener {
    pub(super) fn new() -> Self {
        Self { connections: RefCell::default(), handshake_permits: Arc::new(Semaphore::new(HANDSHAKES_MAX)) }
    }

    /// Accepts connections without an end. Dropping the future keeps the accepted connections.
    pub(super) async fn run(&self, socket: &UnixListener, shared: &Arc<DaemonContext>) {
        loop {
            let stream = match socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let mut connections = self.connections.borrow_mut();
            while connections.try_join_next().is_some() {}
            if !is_own_user(&stream) {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.handshake_permits).try_acquire_owned() else {
                tracing::warn!(HANDSHAKES_MAX, "connection closed: too many connections are in their handshake");
                continue;
            };
            let shared = Arc::clone(shared);
            connections.spawn(async move {
                let result = handle_connection(stream, &shared, permit).await;
                if let Err(error) = result {
                    tracing::info!("connection failed: {error:#}");
                }
            });
        }
    }

    /// Waits for the sessions to end, after `ending` was cancelled.
    pub(super) async fn end(self) {
        let mut connections = self.connections.into_inner();
        let all = async { while connections.join_next().await.is_some() {} };
        // A session limits the time of its own end; a client that does not read may use all of it.
        if timeout(END_WAIT_MAX * 2, all).await.is_err() {
            tracing::warn!("sessions were aborted at shutdown");
        }
    }
}

/// Returns whether the peer process runs as the same user. The mode of the directory already excludes others; this is a
/// second check.
pub(super) fn is_own_user(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own_user() => true,
        Ok(peer) => {
            tracing::warn!(user = peer.uid(), "connection refused: the peer runs as another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "connection refused: the user of the peer is unknown");
            false
        }
    }
}

/// Reads the request of a connection and handles it.
async fn handle_connection(
    mut stream: UnixStream,
    shared: &DaemonContext,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> anyhow::Result<()> {
    let mut lines = handshake::buffer();
    let request = tokio::select! {
        request = handshake::read::<HandshakeRequest>(&mut stream, &mut lines) => {
            request.context("the first line is not a handshake request")?
        }
        () = shared.ending.cancelled() => return Ok(()),
    };
    drop(permit);
    if lines.unread_bytes() > 0 {
        return Err(anyhow!("data was sent before the handshake response"));
    }
    let mut response = shared.response();
    if request.state != shared.state {
        let [meant, own] = [&request.state, &shared.state].map(|state| state_label(state.as_deref()));
        tracing::info!("connection refused: it requests the daemon for {meant}");
        response.other_state = true;
        response.refused = Some(format!("this is the daemon for {own}, not for {meant}"));
        return Ok(handshake::write(&mut stream, &response).await?);
    }
    match request.ask {
        Purpose::Stop => {
            tracing::info!("stop requested through the socket");
            handshake::write(&mut stream, &response).await?;
            let mut awaiting = shared.awaiting_end.lock().unwrap_or_else(PoisonError::into_inner);
            awaiting.push(stream);
            shared.stop.cancel();
            Ok(())
        }
        Purpose::Status => {
            response.status = serde_json::to_value(shared.status().await)?;
            Ok(handshake::write(&mut stream, &response).await?)
        }
        Purpose::Session => serve(stream, request, shared, response).await,
    }
}

/// Serves a session, or sends the reason why it is refused.
async fn serve(
    mut stream: UnixStream,
    request: HandshakeRequest,
    shared: &DaemonContext,
    mut response: HandshakeResponse,
) -> anyhow::Result<()> {
    let accepted = match accept(&request, shared, &mut response) {
        Ok(accepted) => accepted,
        Err(refusal) => {
            tracing::info!("session refused: {refusal}");
            response.refused = Some(refusal.to_string());
            return Ok(handshake::write(&mut stream, &response).await?);
        }
    };
    let (session, settings, limits) = accepted;
    // Everything that can fail comes before the response, so that an accepted session is served.
    let options = server_options(&settings)?;
    let end = stream.as_fd().try_clone_to_owned().map(std::os::unix::net::UnixStream::from)?;
    handshake::write(&mut stream, &response).await?;
    tracing::info!(sessions = session.count(), version = request.version, "session started");

    let (reader, writer) = stream.into_split();
    let (transport, connection) = LineTransport::new(reader, SessionWriter(Some(writer)), limits);
    let server = shared.manager.server(&options, connection.closing());
    let stopping = async {
        shared.ending.cancelled().await;
        connection.stop();
        std::future::pending().await
    };
    let written = tokio::select! {
        written = serve_connection(server, transport, &connection) => written,
        never = stopping => never,
    };
    if shared.stop.is_cancelled() && matches!(written, Ok(true)) {
        // All output is flushed, so that the socket has capacity. If the write fails, the relay treats the end as a
        // crash and connects to another daemon.
        let _ = (&end).write_all(&[SHUTDOWN_NOTICE, b"\n"].concat());
    }
    // Closes the connection even if a blocked writer still holds it.
    let _ = end.shutdown(Shutdown::Both);
    drop(session);
    written?;
    tracing::info!("session ended");
    Ok(())
}

/// Checks whether a session can be served, and returns its slot, settings and limits.
fn accept<'a>(
    request: &HandshakeRequest,
    shared: &'a DaemonContext,
    response: &mut HandshakeResponse,
) -> Result<(SessionSlot<'a>, cortex_config::Settings, cortex_mcp::transport::WireLimits), Refusal> {
    let settings = shared.manager.settings();
    let (stop, state) = (stop_command(settings.state.as_deref()), state_label(settings.state.as_deref()));
    if request.protocol != PROTOCOL {
        return Err(Refusal::OtherProtocol { protocol: request.protocol, version: request.version.clone(), stop });
    }
    let session = SessionSettings::deserialize(&request.session).map_err(Refusal::InvalidSettings)?;
    response.warnings = compare(&request.given, settings, &state, &stop)?;
    let (session_settings, limits) = session.apply_to(settings)?;
    let slot = SessionSlot::new(&shared.sessions).ok_or(Refusal::TooManySessions { state })?;
    Ok((slot, session_settings, limits))
}

/// The write half of a connection. Dropping it does not shut down the stream, so that a shutdown notice can follow.
struct SessionWriter(Option<OwnedWriteHalf>);

impl SessionWriter {
    fn half(self: Pin<&mut Self>) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        self.get_mut().0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for SessionWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.half()?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half()?.poll_shutdown(context)
    }
}

impl Drop for SessionWriter {
    fn drop(&mut self) {
        if let Some(half) = self.0.take() {
            half.forget();
        }
    }
}

impl DaemonContext {
    fn response(&self) -> HandshakeResponse {
        HandshakeResponse {
            protocol: PROTOCOL,
            version: program::VERSION.to_owned(),
            pid: std::process::id(),
            instance: self.instance.clone(),
            other_state: false,
            refused: None,
            warnings: Vec::new(),
            status: serde_json::Value::Null,
        }
    }

    /// Returns the status, also while the engine waits for the disk or a commit has failed.
    async fn status(&self) -> Status {
        let engine = self.manager.engine();
        let state = engine.read(|state, now| StateSummary::of(&state.cluster.capacity(now), state.fleet_summary(now)));
        let managed = self.manager.managed();
        let running = async { ManagedProcesses::read(managed.as_ref()?).await };
        let (state, running) = tokio::join!(timeout(STATUS_WAIT_MAX, state), timeout(STATUS_WAIT_MAX, running));
        let state = state.ok().and_then(Result::ok);
        Status {
            instance: self.instance.clone(),
            pid: std::process::id(),
            version: program::VERSION.to_owned(),
            state: self.manager.settings().state.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            sessions: *self.sessions.borrow() as u64,
            books: state,
            running: running.ok().flatten(),
            log: self.log.clone(),
            loops: self.manager.loops().map(cortex_loops::LoopStatus::report).into(),
        }
    }
}

/// A slot among the maximum number of sessions, released when dropped.
struct SessionSlot<'a>(&'a watch::Sender<usize>);

impl<'a> SessionSlot<'a> {
    /// Acquires a slot; `None` if all are in use.
    fn new(sessions: &'a watch::Sender<usize>) -> Option<Self> {
        let is_acquired = sessions.send_if_modified(|count| {
            let is_free = *count < SESSIONS_MAX;
            *count += usize::from(is_free);
            is_free
        });
        is_acquired.then_some(Self(sessions))
    }

    fn count(&self) -> usize {
        *self.0.borrow()
    }
}

impl Drop for SessionSlot<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
