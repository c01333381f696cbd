//! Connects a child that was spawned: its handshake, and then the first calls.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connected_child::InvalidOutputHandler,
    handshake::{HandshakeError, shake_hands},
    link::{Link, LinkError},
};
use crate::bridge::endpoint::Endpoint;

impl Endpoint {
    /// Connects to a child that was just spawned, by its standard input and output, performs the handshake, and starts
    /// sending calls. Subscriptions of existing sessions are renewed. `on_invalid_output` receives lines that are not
    /// JSON-RPC.
    ///
    /// # Errors
    /// The child has no supported protocol version, rejects the handshake, or closes its pipes.
    pub async fn connect<I, O>(
        self: &Arc<Self>,
        input: I,
        output: O,
        on_invalid_output: InvalidOutputHandler,
    ) -> Result<Link, HandshakeError>
    where
        I: AsyncWrite + Send + Unpin + 'static,
        O: AsyncRead + Send + Unpin + 'static,
    {
        let previous = self.multiplexer().child.as_ref().map(|child| child.generation);
        if let Some(previous) = previous {
            self.child_lost(previous, &LinkError::Replaced);
        }
        let (generation, writer, roots) = {
            let mut multiplexer = self.multiplexer();
            let generation = multiplexer.register_child(on_invalid_output);
            let writer =
                multiplexer.child(generation).map(|child| Arc::clone(&child.writer_wakeup)).unwrap_or_default();
            (generation, writer, multiplexer.roots().to_vec())
        };
        let link = Link::start(Arc::clone(self), generation, writer, input, output);
        let info = shake_hands(&link, &roots).await?;
        tracing::debug!(version = info.version, "server handshake completed");
        if !self.multiplexer().child_ready(link.generation(), info) {
            return Err(link.closed().await.into());
        }
        self.notify_waiters();
        Ok(link)
    }
}
