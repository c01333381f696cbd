//! What the application and the handlers may know of a connection, and do to it.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::connection::Connection;

/// A handle on a connection, for the application and for handlers that wait.
#[derive(Clone)]
pub struct ConnectionHandle(Arc<Connection>);

impl ConnectionHandle {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self(connection)
    }

    /// Says that the handshake is over: from now on notifications and responses are delivered.
    ///
    /// Until then they are dropped, since rmcp ends the process over one. To be called as soon as
    /// `service.serve(transport).await` has returned, before anything else is awaited.
    pub fn established(&self) {
        self.0.establish();
    }

    /// Stops reading. The transport behaves as at the end of the input: calls already delivered
    /// are answered, what the client sent after them is not looked at.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Is cancelled once the connection is coming to its end: the end of the input was seen,
    /// [`stop`](Self::stop) was called, or the client closed its end. A handler that waits for
    /// something returns then, because rmcp waits for it for up to five seconds.
    pub fn closing(&self) -> CancellationToken {
        self.0.closing().clone()
    }

    /// Is cancelled once rmcp was told that no further message will come. What remains is to
    /// answer the calls in flight and to flush, which the application bounds in time.
    pub fn ended(&self) -> CancellationToken {
        self.0.ended().clone()
    }

    /// Resolves once everything handed over so far was written and flushed.
    ///
    /// # Errors
    /// If the client closed its end before.
    pub async fn flushed(&self) -> io::Result<()> {
        self.0.wait_flushed().await
    }

    /// How many calls are in flight, those of `subscriptions/listen` left out.
    pub fn calls_in_flight(&self) -> usize {
        self.0.calls_in_flight()
    }

    /// How many `subscriptions/listen` requests are in flight.
    pub fn listens_in_flight(&self) -> usize {
        self.0.listens_in_flight()
    }
}
