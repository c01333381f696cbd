//! The buffer of bytes to write to the client, and the task that writes them.
//!
//! Messages are serialized directly into one buffer, which the writer takes as a whole: replies that
//! are ready together leave in one write. Invariants: `flushed <= written <= appended`, all
//! three counting bytes since the start, and no bytes are kept once the writer has failed.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Poll, Waker},
};

use serde::Serialize;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::oneshot,
};

use super::connection::Connection;

/// The number of unwritten bytes from which on nothing more is read from the client.
pub const OUTBOX_HIGH_WATER_BYTES: usize = 1_048_576;

/// The capacity that an empty buffer keeps, so that the memory of a large reply is freed.
const BUFFER_BYTES_KEPT: usize = 262_144;

/// The unwritten bytes, and the senders that wait for them.
#[derive(Default)]
pub(super) struct Outbox {
    pending: Vec<u8>,
    appended: u64,
    written: u64,
    flushed: u64,
    /// Each is resolved once that many bytes are written; in ascending order.
    write_waiters: VecDeque<(u64, oneshot::Sender<()>)>,
    writer: Option<Waker>,
    broken: bool,
    closed: bool,
}

impl Outbox {
    /// Appends one message and its newline. On failure nothing is appended.
    pub(super) fn append(&mut self, message: &impl Serialize) -> io::Result<()> {
        if self.broken {
            return Err(broken_pipe());
        }
        let before = self.pending.len();
        if let Err(error) = serde_json::to_writer(&mut self.pending, message) {
            self.pending.truncate(before);
            return Err(error.into());
        }
        self.pending.push(b'\n');
        self.appended += (self.pending.len() - before) as u64;
        Ok(())
    }

    /// Returns a receiver that resolves once everything appended so far is written, or fails with the connection.
    pub(super) fn written(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.write_waiters.push_back((self.appended, sender));
        receiver
    }

    /// Returns the waker of the writer, if it sleeps and there is something to do.
    pub(super) fn take_writer(&mut self) -> Option<Waker> {
        if self.pending.is_empty() && !self.closed { None } else { self.writer.take() }
    }

    pub(super) fn is_over_high_water(&self) -> bool {
        self.appended - self.written >= OUTBOX_HIGH_WATER_BYTES as u64
    }

    /// Returns whether everything is flushed, or the writer has failed.
    pub(super) fn is_flushed(&self) -> bool {
        self.broken || self.flushed == self.appended
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends the writer once everything is written. Nothing may be appended after this.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    fn advance(&mut self, bytes: usize) {
        self.written += bytes as u64;
        while self.write_waiters.front().is_some_and(|(count, _)| *count <= self.written) {
            if let Some((_, sender)) = self.write_waiters.pop_front() {
                // The receiver may be dropped.
                let _ = sender.send(());
            }
        }
    }

    fn fail(&mut self) {
        self.broken = true;
        self.pending = Vec::new();
        self.written = self.appended;
        // Dropping the senders fails their receivers.
        self.write_waiters.clear();
    }
}

/// Returns the error of a message for a client that has closed its end.
pub(super) fn broken_pipe() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client closed its end")
}

/// Writes the outbox of `connection` until it is closed and empty, or a write fails.
pub(super) async fn write_out<W>(connection: Arc<Connection>, mut writer: W)
where
    W: AsyncWrite + Unpin,
{
    let mut chunk = Vec::new();
    while next_chunk(&connection, &mut chunk).await {
        if let Err(error) = write_chunk(&connection, &mut writer, &chunk).await {
            tracing::debug!(%error, "write to the client failed");
            connection.with_outbox(Outbox::fail);
            connection.announce_broken();
            return;
        }
        chunk.clear();
        chunk.shrink_to(BUFFER_BYTES_KEPT);
    }
}

/// Waits for pending bytes and moves them into `chunk`, which is empty. Returns false once the outbox is
/// closed and empty.
async fn next_chunk(connection: &Connection, chunk: &mut Vec<u8>) -> bool {
    std::future::poll_fn(|context| {
        connection.with_outbox(|outbox| {
            if !outbox.pending.is_empty() {
                std::mem::swap(&mut outbox.pending, chunk);
                Poll::Ready(true)
            } else if outbox.closed {
                Poll::Ready(false)
            } else {
                outbox.writer = Some(context.waker().clone());
                Poll::Pending
            }
        })
    })
    .await
}

async fn write_chunk<W>(connection: &Connection, writer: &mut W, chunk: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut rest = chunk;
    while !rest.is_empty() {
        let bytes = writer.write(rest).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[bytes..];
        connection.with_outbox(|outbox| outbox.advance(bytes));
        connection.announce_capacity();
    }
    // With more bytes pending, a flush would only separate two writes.
    if connection.with_outbox(|outbox| outbox.pending.is_empty()) {
        writer.flush().await?;
        connection.with_outbox(|outbox| outbox.flushed = outbox.written);
        connection.announce_flushed();
    }
    Ok(())
}
