//! Closes a connection to which the client may still write.
//!
//! If a socket is closed with unread bytes, or receives bytes after that, the kernel resets the connection and the
//! client may lose a response that it has not read yet. So the write side is shut down first, and what still arrives is
//! discarded until the client closes its side, for at most [`LINGER_WAIT_MAX`] and [`LINGER_BYTES_MAX`].

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// How long the client has to close its side.
const LINGER_WAIT_MAX: Duration = Duration::from_millis(500);

/// How many bytes are discarded before the socket is dropped anyway.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// How many bytes one read discards.
const READ_BYTES: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct LingeringClose {
    wait: Pin<Box<Sleep>>,
    bytes_left: usize,
    is_shut_down: bool,
}

impl LingeringClose {
    pub(crate) fn new() -> Self {
        Self { wait: Box::pin(sleep(LINGER_WAIT_MAX)), bytes_left: LINGER_BYTES_MAX, is_shut_down: false }
    }

    /// Becomes ready when the socket may be dropped.
    pub(crate) fn poll(&mut self, socket: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_shut_down {
            if ready!(Pin::new(&mut *socket).poll_shutdown(context)).is_err() {
                return Poll::Ready(());
            }
            self.is_shut_down = true;
        }
        let mut buffer = [0; READ_BYTES];
        while self.bytes_left > 0 && self.wait.as_mut().poll(context).is_pending() {
            let mut received = ReadBuf::new(&mut buffer);
            let read = ready!(Pin::new(&mut *socket).poll_read(context, &mut received));
            if read.is_err() || received.filled().is_empty() {
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(received.filled().len());
        }
        Poll::Ready(())
    }
}
