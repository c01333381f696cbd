//! Newline-delimited JSON-RPC for rmcp: fast, bounded, and with replies to lines that rmcp ignores.
//!
//! [`LineTransport`] connects byte streams to rmcp's service loop. It reads lines into messages, replies
//! to a line that is not a message, and batches replies into as few writes as the client's reading
//! allows. Invariants:
//!
//! - no input of a client ends the process, and memory stays bounded by [`WireLimits`] and
//!   [`OUTBOX_HIGH_WATER_BYTES`];
//! - every request gets exactly one reply, or none if the client cancelled it first; one point decides
//!   which, and the [`Call`] of the request shows it;
//! - messages are delivered in the order sent.

mod call;
mod cancelled;
mod connection;
mod handle;
mod message;
mod outbox;
mod params;
pub mod stdio;
#[cfg(test)]
mod tests;
mod text;

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rmcp::{
    RoleServer,
    model::{ClientJsonRpcMessage, ClientNotification, ErrorData, JsonRpcMessage, ServerJsonRpcMessage},
    transport::Transport,
};
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{call::Call, cancelled::CANCELLED_IDS_MAX, handle::ConnectionHandle, outbox::OUTBOX_HIGH_WATER_BYTES};
use self::{
    connection::{Admission, Connection, ReadGate},
    message::{Incoming, IncomingRequest},
};
pub use cortex_lines::ID_BYTES_MAX;
use cortex_lines::{Line, LineBuffer};

/// The default of [`WireLimits::line_bytes_max`].
pub const LINE_BYTES_MAX: usize = 1_048_576;

/// The default of [`WireLimits::calls_in_flight_max`].
pub const CALLS_IN_FLIGHT_MAX: usize = 256;

/// The default of [`WireLimits::listens_max`].
pub const LISTENS_MAX: usize = 64;

/// The most bytes of input read ahead while no message can be delivered, so that its end is seen.
const READ_AHEAD_BYTES_MAX: usize = 65_536;

/// The limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// The longest line in bytes, without its newline. A longer one is refused without being buffered.
    pub line_bytes_max: usize,
    /// The most calls in flight, at least 1. At the limit, reading pauses.
    pub calls_in_flight_max: usize,
    /// The most open `subscriptions/listen` requests. One more is refused. They do not count as calls
    /// in flight, because they stay open.
    pub listens_max: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self { line_bytes_max: LINE_BYTES_MAX, calls_in_flight_max: CALLS_IN_FLIGHT_MAX, listens_max: LISTENS_MAX }
    }
}

/// The server's end of a connection that carries one JSON-RPC message on each line.
pub struct LineTransport<R> {
    reader: R,
    lines: LineBuffer,
    /// The request that was read and waits for its admission.
    pending_request: Option<IncomingRequest>,
    /// Whether the next poll yields to rmcp without a message. rmcp drops the replies of cancelled
    /// calls one by one between messages: without a pause for each cancellation they would pile up
    /// for a client that cancels all that it sends.
    must_yield: bool,
    connection: Arc<Connection>,
    limits: WireLimits,
}

impl<R> LineTransport<R>
where
    R: AsyncRead + Unpin + Send,
{
    /// Creates a transport over a pair of byte streams, and its handle.
    ///
    /// A task of its own drives the writer. It ends once the transport is dropped and everything is
    /// written.
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub fn new<W>(reader: R, writer: W, limits: WireLimits) -> (Self, ConnectionHandle)
    where
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Connection::new(limits);
        tokio::spawn(outbox::write_out(connection.clone(), writer));
        let transport = Self {
            reader,
            lines: LineBuffer::new(limits.line_bytes_max),
            pending_request: None,
            must_yield: false,
            connection: connection.clone(),
            limits,
        };
        (transport, ConnectionHandle::new(connection))
    }

    /// Keeps all progress in `self`, so that it can be dropped after any poll: rmcp does so when another
    /// branch of its `select!` is ready first.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<ClientJsonRpcMessage>> {
        if std::mem::take(&mut self.must_yield) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.connection.gate(context) {
                ReadGate::Open => {}
                ReadGate::Full => return self.read_ahead(context),
                ReadGate::Over => break,
            }
            if let Some(request) = &mut self.pending_request {
                match self.connection.admit(request, context) {
                    Admission::Delivered => {}
                    Admission::Refused => {
                        self.pending_request = None;
                        continue;
                    }
                    Admission::Waits => return self.read_ahead(context),
                }
                if let Some(request) = self.pending_request.take() {
                    return Poll::Ready(Some(JsonRpcMessage::Request(request.message)));
                }
            }
            let incoming = match self.lines.next_line() {
                Line::Text(line) => message::parse(line),
                Line::TooLong { id, bytes, .. } => {
                    Incoming::Refused { id, error: too_long(bytes, self.limits.line_bytes_max) }
                }
                Line::Incomplete => {
                    ready!(self.poll_fill(context));
                    continue;
                }
                Line::End => break,
            };
            match incoming {
                Incoming::Request(request) => self.pending_request = Some(request),
                Incoming::Other(message) => {
                    if let Some(message) = self.admit_other(message) {
                        return Poll::Ready(Some(message));
                    }
                }
                Incoming::Refused { id, error } => {
                    tracing::debug!(?id, message = %error.message, "line refused");
                    self.connection.refuse(id.as_ref(), &error);
                }
                Incoming::Ignored(why) => tracing::debug!(why, "line ignored"),
            }
        }
        self.connection.announce_ended();
        Poll::Ready(None)
    }

    /// Returns a notification or reply for delivery, or nothing during the handshake, where rmcp would
    /// end the process. A cancelled call is undone before rmcp receives the cancellation.
    fn admit_other(&mut self, message: ClientJsonRpcMessage) -> Option<ClientJsonRpcMessage> {
        if !self.connection.is_established() {
            tracing::debug!("notification or reply before the first request ignored");
            return None;
        }
        if let JsonRpcMessage::Notification(notification) = &message
            && let ClientNotification::CancelledNotification(cancelled) = &notification.notification
            && let Some(id) = &cancelled.params.request_id
        {
            self.connection.cancel(id);
            self.must_yield = true;
        }
        Some(message)
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.lines.poll_fill(&mut self.reader, context));
        if self.lines.is_ended() {
            self.connection.announce_closing();
        }
        Poll::Ready(())
    }

    /// Reads up to [`READ_AHEAD_BYTES_MAX`] while nothing can be delivered, so that the end of the input
    /// is seen and calls that wait for it end.
    fn read_ahead<T>(&mut self, context: &mut Context<'_>) -> Poll<T> {
        while !self.lines.is_ended() && self.lines.unread_bytes() < READ_AHEAD_BYTES_MAX {
            ready!(self.poll_fill(context));
        }
        Poll::Pending
    }
}

impl<R> Transport<RoleServer> for LineTransport<R>
where
    R: AsyncRead + Unpin + Send + 'static,
{
    type Error = io::Error;

    fn send(&mut self, item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let put = self.connection.put(&item);
        async move {
            match put? {
                None => Ok(()),
                Some(written) => written.await.map_err(|_| outbox::broken_pipe()),
            }
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        std::future::poll_fn(|context| self.poll_receive(context)).await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.connection.wait_flushed().await
    }
}

impl<R> Drop for LineTransport<R> {
    fn drop(&mut self) {
        self.connection.close_outbox();
    }
}

/// Returns the error for a line over the limit.
pub fn too_long(bytes: u64, line_bytes_max: usize) -> ErrorData {
    let text = format!("the line is {bytes} bytes long: send at most {line_bytes_max} bytes on a line");
    ErrorData::invalid_request(text, None)
}
