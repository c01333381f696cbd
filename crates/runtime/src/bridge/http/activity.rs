//! Tracks what a connection does, to tell a stale connection from one that waits for a response.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::lingering_close::LingeringClose;

/// The longest time a client may take to send the head of a request.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// The longest time a connection may stay open without a request.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(300);

/// The longest time a client may leave a response unread while bytes wait to be written.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum ConnectionPhase {
    /// A request head is expected or being received, since this time.
    ReadingHead(Instant),
    /// A request is being handled.
    Working,
    /// No request has begun since this time.
    Idle(Instant),
}

/// The activity of one connection.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<ActivityState>);

#[derive(Debug)]
struct ActivityState {
    phase: ConnectionPhase,
    /// When the last write could not make progress; `None` while writes succeed.
    write_stalled_since: Option<Instant>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(ActivityState {
            phase: ConnectionPhase::ReadingHead(Instant::now()),
            write_stalled_since: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the start of a request, which ends when the guard is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.state().phase = ConnectionPhase::Working;
        RequestGuard(Arc::clone(self))
    }

    fn received(&self) {
        let mut state = self.state();
        if matches!(state.phase, ConnectionPhase::Idle(_)) {
            state.phase = ConnectionPhase::ReadingHead(Instant::now());
        }
    }

    fn set_write_stalled(&self, is_write_stalled: bool) {
        self.state().write_stalled_since = is_write_stalled.then(Instant::now);
    }

    /// Returns whether the connection has exceeded the time limit of its phase, or its writes have stalled for too
    /// long.
    pub(crate) fn is_stale(&self) -> bool {
        let state = self.state();
        if state.write_stalled_since.is_some_and(|since| since.elapsed() > WRITE_WAIT_MAX) {
            return true;
        }
        match state.phase {
            ConnectionPhase::ReadingHead(since) => since.elapsed() > HEAD_WAIT_MAX,
            ConnectionPhase::Idle(since) => since.elapsed() > CONNECTION_IDLE_MAX,
            ConnectionPhase::Working => false,
        }
    }
}

/// Until this is dropped, a request is being handled or its response is being sent.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.state().phase = ConnectionPhase::Idle(Instant::now());
    }
}

/// A socket that records reads and stalled writes in an [`Activity`], and closes with a [`LingeringClose`].
#[derive(Debug)]
pub(crate) struct TrackedSocket {
    socket: TcpStream,
    activity: Arc<Activity>,
    is_write_stalled: bool,
    /// The close in progress, once shutdown has begun.
    lingering_close: Option<LingeringClose>,
}

impl TrackedSocket {
    pub(crate) fn new(socket: TcpStream, activity: Arc<Activity>) -> Self {
        Self { socket, activity, is_write_stalled: false, lingering_close: None }
    }

    fn track_write<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if self.is_write_stalled != written.is_pending() {
            self.is_write_stalled = written.is_pending();
            self.activity.set_write_stalled(self.is_write_stalled);
        }
        written
    }
}

impl AsyncRead for TrackedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TrackedSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.track_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.track_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The client may still be sending a request that was answered before it was read.
        let Self { socket, lingering_close, .. } = &mut *self;
        lingering_close.get_or_insert_with(LingeringClose::new).poll(socket, context).map(Ok)
    }
}
