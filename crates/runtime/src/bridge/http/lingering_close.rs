//! The end of a connection to which the other side may still write.
//!
//! A socket that is closed with something unread, or to which something comes after that, has the other side fail where it
//! writes on, so that it may never read what it was told at last. So the side that writes is closed first, and what comes
//! then is dropped, until the other side closes as well: for a while, and up to so many bytes.

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

/// How long the other side has to close.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// How much of what still comes is taken, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// How much of it is taken at once, in bytes.
const PIECE_BYTES: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct LingeringClose {
    wait: Pin<Box<Sleep>>,
    bytes_left: usize,
    is_shut: bool,
}

impl LingeringClose {
    pub(crate) fn new() -> Self {
        Self { wait: Box::pin(sleep(WAIT_MAX)), bytes_left: BYTES_MAX, is_shut: false }
    }

    /// Is ready when the socket may be dropped.
    pub(crate) fn poll(&mut self, socket: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_shut {
            if ready!(Pin::new(&mut *socket).poll_shutdown(context)).is_err() {
                return Poll::Ready(());
            }
            self.is_shut = true;
        }
        let mut room = [0; PIECE_BYTES];
        while self.bytes_left > 0 && self.wait.as_mut().poll(context).is_pending() {
            let mut item = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(&mut *socket).poll_read(context, &mut item));
            if read.is_err() || item.filled().is_empty() {
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(item.filled().len());
        }
        Poll::Ready(())
    }
}
