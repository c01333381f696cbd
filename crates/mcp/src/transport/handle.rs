//! The handle on a connection for the application and its handlers.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::connection::Connection;

/// A handle on a connection.
#[derive(Clone)]
pub struct ConnectionHandle(Arc<Connection>);

impl ConnectionHandle {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self(connection)
    }

    /// Ends the handshake: from now on notifications and responses are delivered.
    ///
    /// Until then they are dropped, because rmcp would end the process on one. Call this as soon as
    /// `service.serve(transport).await` has returned, before awaiting anything else.
    pub fn established(&self) {
        self.0.establish();
    }

    /// Stops reading. The transport behaves as at the end of the input: calls already delivered are
    /// answered, and later input is ignored.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Returns a token that is cancelled once the connection begins to close: at the end of the input,
    /// by [`stop`](Self::stop), or when the client closes its end. A handler that waits returns then,
    /// because rmcp waits up to five seconds for it.
    pub fn closing(&self) -> CancellationToken {
        self.0.closing().clone()
    }

    /// Returns a token that is cancelled once rmcp has received the end of the input. The calls in
    /// flight and a flush remain, which the application bounds in time.
    pub fn ended(&self) -> CancellationToken {
        self.0.ended().clone()
    }

    /// Waits until everything sent so far is written and flushed.
    ///
    /// # Errors
    /// The client closed its end before.
    pub async fn flushed(&self) -> io::Result<()> {
        self.0.wait_flushed().await
    }

    /// Returns the number of calls in flight, without `subscriptions/listen` requests.
    pub fn calls_in_flight(&self) -> usize {
        self.0.calls_in_flight()
    }

    /// Returns the number of `subscriptions/listen` requests in flight.
    pub fn listens_in_flight(&self) -> usize {
        self.0.listens_in_flight()
    }
}
