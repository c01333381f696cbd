//! Newline-delimited JSON-RPC under rmcp: fast, bounded, and answering what rmcp would ignore.
//!
//! [`LineTransport`] stands between any byte streams and rmcp's service loop. It reads lines into
//! messages, answers by itself what is no message, and writes replies in as few writes as the
//! client's pace allows. Invariants:
//!
//! - whatever bytes a client sends, the process lives on, and memory stays bounded by
//!   [`WireLimits`] and [`OUTBOX_HIGH_WATER_BYTES`];
//! - every request gets exactly one reply, or none if the client cancelled it first; which of the
//!   two is decided at one point, and the [`Call`] of the request knows;
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

/// The longest line a client may send unless told otherwise, its newline left out.
pub const LINE_BYTES_MAX: usize = 1_048_576;

/// How many calls may be in flight on a connection unless told otherwise.
pub const CALLS_IN_FLIGHT_MAX: usize = 256;

/// How many `subscriptions/listen` requests may be open on a connection unless told otherwise.
pub const LISTENS_MAX: usize = 64;

/// How far nothing is given out, the input is still read ahead, so that its end is seen.
const READ_AHEAD_BYTES_MAX: usize = 65_536;

/// What one connection may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// The longest line, in bytes, without its newline. A longer one is refused, and never kept.
    pub line_bytes_max: usize,
    /// How many calls may be in flight, at least 1. With so many nothing more is read.
    pub calls_in_flight_max: usize,
    /// How many `subscriptions/listen` requests may be open. One more is refused. They do not
    /// count as calls in flight, because they last.
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
    /// The request that was read and waits to be taken in flight.
    pending_request: Option<IncomingRequest>,
    /// Whether rmcp is to look at other things before the next message. It drops the replies of
    /// cancelled calls one by one, between messages taken: without a pause for each cancellation
    /// they would pile up behind a client that cancels all it sends.
    must_yield: bool,
    connection: Arc<Connection>,
    limits: WireLimits,
}

impl<R> LineTransport<R>
where
    R: AsyncRead + Unpin + Send,
{
    /// Makes a transport over a pair of byte streams, and the handle that goes with it.
    ///
    /// The writer is driven by a task of its own, which ends once the transport is dropped and
    /// all is written.
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

    /// All that is underway is kept in `self`, so a poll may be the last: rmcp polls this among
    /// other things and drops it when one of those comes first.
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
                    tracing::debug!(?id, message = %error.message, "a line is refused");
                    self.connection.refuse(id.as_ref(), &error);
                }
                Incoming::Ignored(why) => tracing::debug!(why, "a line is ignored"),
            }
        }
        self.connection.announce_ended();
        Poll::Ready(None)
    }

    /// Delivers a notification or a reply, unless rmcp is still in the handshake: it would end
    /// the process over one. What a cancelled call did is taken back before rmcp hears of it.
    fn admit_other(&mut self, message: ClientJsonRpcMessage) -> Option<ClientJsonRpcMessage> {
        if !self.connection.is_established() {
            tracing::debug!("a notification or reply before the first request is ignored");
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

    /// While nothing can be delivered, reads a little so that the end of the input is seen, and
    /// those who wait for it make room.
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

/// The answer to a line over the limit.
pub fn too_long(bytes: u64, line_bytes_max: usize) -> ErrorData {
    let text = format!("the line is {bytes} bytes long: send at most {line_bytes_max} bytes on a line");
    ErrorData::invalid_request(text, None)
}
