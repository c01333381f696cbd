//! What a connection is doing, so that one that only takes up room can be told from one that waits for an answer.

use std::{io, sync::Arc};
use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How long a client may take to send the head of a request.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a connection is kept open on which nothing is asked.
const REST_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A request is being sent since then.
    Head(Instant),
    /// A request is being answered.
    Work,
    /// Nothing was asked since then.
    Rest(Instant),
}

/// The doings of one connection.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Phase>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Phase::Head(Instant::now())))
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(super) fn work(&self) {
        *self.phase() = Phase::Work;
    }

    /// It was answered.
    pub(super) fn rest(&self) {
        *self.phase() = Phase::Rest(Instant::now());
    }

    fn heard(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Rest(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Whether the connection has taken up room for long enough.
    pub(super) fn is_stale(&self) -> bool {
        match *self.phase() {
            Phase::Head(since) => since.elapsed() > HEAD_WAIT_MAX,
            Phase::Rest(since) => since.elapsed() > REST_MAX,
            Phase::Work => false,
        }
    }
}

/// A socket that notes when something is heard on it.
#[derive(Debug)]
pub(super) struct Heard {
    socket: TcpStream,
    activity: Arc<Activity>,
}

impl Heard {
    pub(super) fn new(socket: TcpStream, activity: Arc<Activity>) -> Self {
        Self { socket, activity }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.activity.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
