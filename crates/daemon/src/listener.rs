//! The socket: who is let in, and what each of them gets.
//!
//! Invariants: nothing of another user's process is read; at most [`SESSIONS_MAX`] sessions are served, and at most
//! [`GREETINGS_MAX`] connections wait for their first line to be read, each for a bounded time.

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
    hello::{self, Answer, Ask, GOODBYE, Hello, PROTOCOL},
    running::Running,
    runtime_directory::own_user,
    settings::{SessionSettings, compare},
    status::{Books, Status},
    stop_command, subject,
};
use cortex_mcp::transport::LineTransport;
use cortex_serving::{END_WAIT_MAX, Manager, serve_connection, server_options};

/// How many sessions are served at once.
pub(super) const SESSIONS_MAX: usize = 256;

/// How many connections may be about to say what they want.
const GREETINGS_MAX: usize = 64;

/// How long the status waits for the books: those who ask wait longer.
const BOOKS_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long nobody is let in after the system could not let one in, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs to know of the daemon.
pub(super) struct Shared {
    pub(super) manager: Manager,
    /// What is shared: the state's path as it really is, or nothing for memory.
    pub(super) state: Option<PathBuf>,
    /// The file of the log; nothing if that goes to a standard error of somebody else's choice.
    pub(super) log: Option<PathBuf>,
    pub(super) instance: String,
    pub(super) started: Instant,
    /// How many sessions there are.
    pub(super) sessions: watch::Sender<usize>,
    /// Is cancelled when the daemon is to end because somebody wants it to, and not by itself.
    pub(super) stop: CancellationToken,
    /// Is cancelled when the sessions have to end.
    pub(super) ending: CancellationToken,
    /// The connections of those who asked for the end. They see it when these close, which is when the process is gone.
    pub(super) awaiting_end: Mutex<Vec<UnixStream>>,
}

/// Lets connections in until it is dropped, which ends those that are left.
pub(super) struct Listener {
    connections: RefCell<JoinSet<()>>,
    /// For the connections that are about to say what they want.
    greetings: Arc<Semaphore>,
}

impl Listener {
    pub(super) fn new() -> Self {
        Self { connections: RefCell::default(), greetings: Arc::new(Semaphore::new(GREETINGS_MAX)) }
    }

    /// Lets connections in, for ever. Those that are in stay when this is dropped and called anew.
    pub(super) async fn run(&self, socket: &UnixListener, shared: &Arc<Shared>) {
        loop {
            let stream = match socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let mut connections = self.connections.borrow_mut();
            while connections.try_join_next().is_some() {}
            if !is_own_user(&stream) {
                continue;
            }
            let Ok(greeting) = Arc::clone(&self.greetings).try_acquire_owned() else {
                tracing::warn!(GREETINGS_MAX, "too many connections say nothing: one more is closed");
                continue;
            };
            let shared = Arc::clone(shared);
            connections.spawn(async move {
                let result = greet(stream, &shared, greeting).await;
                if let Err(error) = result {
                    tracing::info!("a connection ended: {error:#}");
                }
            });
        }
    }

    /// Waits for the sessions to end, which they were told to.
    pub(super) async fn end(self) {
        let mut connections = self.connections.into_inner();
        let all = async { while connections.join_next().await.is_some() {} };
        // A session bounds its own end; a client that does not read may use that up.
        if timeout(END_WAIT_MAX * 2, all).await.is_err() {
            tracing::warn!("sessions were cut off");
        }
    }
}

/// Whether whoever is at the other end runs as the same user. The directory lets no other in; this is the second lock.
pub(super) fn is_own_user(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own_user() => true,
        Ok(peer) => {
            tracing::warn!(user = peer.uid(), "the other end of the socket is another user's: refused");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "the system does not say whose the other end of the socket is: refused");
            false
        }
    }
}

/// Hears what a connection wants, and gives it that.
async fn greet(
    mut stream: UnixStream,
    shared: &Shared,
    greeting: tokio::sync::OwnedSemaphorePermit,
) -> anyhow::Result<()> {
    let mut lines = hello::buffer();
    let said = tokio::select! {
        said = hello::read::<Hello>(&mut stream, &mut lines) => said.context("its first line is no hello")?,
        () = shared.ending.cancelled() => return Ok(()),
    };
    drop(greeting);
    if lines.unread_bytes() > 0 {
        return Err(anyhow!("it did not wait for the answer to its hello"));
    }
    let mut answer = shared.answer();
    if said.state != shared.state {
        let [meant, own] = [&said.state, &shared.state].map(|state| subject(state.as_deref()));
        tracing::info!("a connection means {meant}: nothing is done for it");
        answer.other_state = true;
        answer.refused = Some(format!("this is the daemon on {own}, and not on {meant}"));
        return Ok(hello::write(&mut stream, &answer).await?);
    }
    match said.ask {
        Ask::Stop => {
            tracing::info!("told to end through the socket");
            hello::write(&mut stream, &answer).await?;
            let mut awaiting = shared.awaiting_end.lock().unwrap_or_else(PoisonError::into_inner);
            awaiting.push(stream);
            shared.stop.cancel();
            Ok(())
        }
        Ask::Status => {
            answer.status = serde_json::to_value(shared.status().await)?;
            Ok(hello::write(&mut stream, &answer).await?)
        }
        Ask::Session => serve(stream, said, shared, answer).await,
    }
}

/// Serves a session, or says why not.
async fn serve(mut stream: UnixStream, said: Hello, shared: &Shared, mut answer: Answer) -> anyhow::Result<()> {
    let accepted = match accept(&said, shared, &mut answer) {
        Ok(accepted) => accepted,
        Err(refused) => {
            tracing::info!("a session is refused: {refused}");
            answer.refused = Some(refused);
            return Ok(hello::write(&mut stream, &answer).await?);
        }
    };
    let (session, settings, limits) = accepted;
    // All that can fail comes before the answer: a session that was accepted is served.
    let options = server_options(&settings)?;
    let end = stream.as_fd().try_clone_to_owned().map(std::os::unix::net::UnixStream::from)?;
    hello::write(&mut stream, &answer).await?;
    tracing::info!(sessions = session.count(), version = said.version, "a session began");

    let (reader, writer) = stream.into_split();
    let (transport, connection) = LineTransport::new(reader, Writer(Some(writer)), limits);
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
        // All else is written, so that there is room; if there is not, the relay takes the end for a crash and goes on.
        let _ = (&end).write_all(&[GOODBYE, b"\n"].concat());
    }
    // A writer that is stuck lets go of the connection too.
    let _ = end.shutdown(Shutdown::Both);
    drop(session);
    written?;
    tracing::info!("a session ended");
    Ok(())
}

/// Whether a session can be served, and with which settings and limits.
fn accept<'a>(
    said: &Hello,
    shared: &'a Shared,
    answer: &mut Answer,
) -> Result<(Counted<'a>, cortex_config::Settings, cortex_mcp::transport::WireLimits), String> {
    let in_force = shared.manager.settings();
    let (stop, subject) = (stop_command(in_force.state.as_deref()), subject(in_force.state.as_deref()));
    if said.protocol != PROTOCOL {
        return Err(super::other_protocol(said.protocol, &said.version, PROTOCOL, program::VERSION, &stop));
    }
    let session = SessionSettings::deserialize(&said.session)
        .map_err(|error| format!("the hello has no settings of a session: {error}"))?;
    let differences = compare(&said.given, in_force, &subject, &stop);
    if let Some(refused) = differences.refused {
        return Err(refused);
    }
    answer.warnings = differences.warnings;
    let (settings, limits) = session.over(in_force)?;
    let counted = Counted::new(&shared.sessions)
        .ok_or_else(|| format!("{SESSIONS_MAX} sessions are served on {subject}, the most: end one first"))?;
    Ok((counted, settings, limits))
}

/// The writing half of a connection, which does not end what the other side reads when it is dropped: a last line comes.
struct Writer(Option<OwnedWriteHalf>);

impl Writer {
    fn half(self: Pin<&mut Self>) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        self.get_mut().0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Writer {
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

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(half) = self.0.take() {
            half.forget();
        }
    }
}

impl Shared {
    fn answer(&self) -> Answer {
        Answer {
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

    /// How it stands, even while the engine waits for the disk or has a commit that failed.
    async fn status(&self) -> Status {
        let engine = self.manager.engine();
        // Both are sent before either is answered, so that they are of one batch, unless that is full.
        let books = async { tokio::try_join!(engine.capacity(), engine.fleet_summary()) };
        let managed = self.manager.managed();
        let running = async { Running::told_by(managed.as_ref()?).await };
        let (books, running) = tokio::join!(timeout(BOOKS_WAIT_MAX, books), timeout(BOOKS_WAIT_MAX, running));
        let books = books.ok().and_then(Result::ok);
        Status {
            instance: self.instance.clone(),
            pid: std::process::id(),
            version: program::VERSION.to_owned(),
            state: self.manager.settings().state.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            sessions: *self.sessions.borrow() as u64,
            books: books.map(|(capacity, fleet)| Books::of(&capacity.value, fleet)),
            running: running.ok().flatten(),
            log: self.log.clone(),
            loops: self.manager.loops().map(cortex_loops::LoopStatus::report).into(),
        }
    }
}

/// A session that counts until it is dropped.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    /// Nothing if there are too many.
    fn new(sessions: &'a watch::Sender<usize>) -> Option<Self> {
        let counted = sessions.send_if_modified(|count| {
            let room = *count < SESSIONS_MAX;
            *count += usize::from(room);
            room
        });
        counted.then_some(Self(sessions))
    }

    fn count(&self) -> usize {
        *self.0.borrow()
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
