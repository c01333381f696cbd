//! What a connection is doing, so that one that only takes up room can be told from one that waits for an answer.

use std::{io, sync::Arc};
use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::farewell::Farewell;

/// How long a client may take to send the head of a request.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a connection is kept open on which nothing is asked.
const REST_MAX: Duration = Duration::from_secs(300);

/// How long a client may take nothing of what is to be written to it.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);

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
pub(crate) struct Activity(Mutex<Doing>);

#[derive(Debug)]
struct Doing {
    phase: Phase,
    /// Since when something waits to be written, and nothing could be.
    stuck_since: Option<Instant>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Doing { phase: Phase::Head(Instant::now()), stuck_since: None }))
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(crate) fn work(&self) {
        self.doing().phase = Phase::Work;
    }

    /// It was answered.
    pub(crate) fn rest(&self) {
        self.doing().phase = Phase::Rest(Instant::now());
    }

    fn heard(&self) {
        let mut doing = self.doing();
        if matches!(doing.phase, Phase::Rest(_)) {
            doing.phase = Phase::Head(Instant::now());
        }
    }

    fn stuck(&self, is_stuck: bool) {
        self.doing().stuck_since = is_stuck.then(Instant::now);
    }

    /// Whether the connection has taken up room for long enough.
    pub(crate) fn is_stale(&self) -> bool {
        let doing = self.doing();
        if doing.stuck_since.is_some_and(|since| since.elapsed() > WRITE_WAIT_MAX) {
            return true;
        }
        match doing.phase {
            Phase::Head(since) => since.elapsed() > HEAD_WAIT_MAX,
            Phase::Rest(since) => since.elapsed() > REST_MAX,
            Phase::Work => false,
        }
    }
}

/// A socket that notes when something is heard on it, and when nothing can be written, and that is closed in order.
#[derive(Debug)]
pub(crate) struct Heard {
    socket: TcpStream,
    activity: Arc<Activity>,
    is_stuck: bool,
    /// Its end, once that has begun.
    farewell: Option<Farewell>,
}

impl Heard {
    pub(crate) fn new(socket: TcpStream, activity: Arc<Activity>) -> Self {
        Self { socket, activity, is_stuck: false, farewell: None }
    }

    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if self.is_stuck != written.is_pending() {
            self.is_stuck = written.is_pending();
            self.activity.stuck(self.is_stuck);
        }
        written
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
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A request that was answered before it was read may still be on its way.
        let Self { socket, farewell, .. } = &mut *self;
        farewell.get_or_insert_with(Farewell::new).poll(socket, context).map(Ok)
    }
}
