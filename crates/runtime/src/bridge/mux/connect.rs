//! The start of a child's link, from its handshake to the first call that it is given.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{connected_child::InvalidOutputHandler, handshake, link::Link};
use crate::bridge::endpoint::Endpoint;

impl Endpoint {
    /// Gets to know a child that was just spawned, by its standard input and output, and lets calls through to it.
    /// What sessions had asked for is asked of it too. `on_invalid_output` hears of lines that were no JSON-RPC.
    ///
    /// # Errors
    /// The child speaks no known version, refuses, or closes its pipes; in words.
    pub async fn connect<I, O>(
        self: &Arc<Self>,
        input: I,
        output: O,
        on_invalid_output: InvalidOutputHandler,
    ) -> Result<Link, String>
    where
        I: AsyncWrite + Send + Unpin + 'static,
        O: AsyncRead + Send + Unpin + 'static,
    {
        let before = self.multiplexer().child.as_ref().map(|child| child.generation);
        if let Some(before) = before {
            self.child_lost(before, "it was replaced");
        }
        let (generation, writer, roots) = {
            let mut multiplexer = self.multiplexer();
            let generation = multiplexer.register_child(on_invalid_output);
            let writer =
                multiplexer.child(generation).map(|child| Arc::clone(&child.writer_wakeup)).unwrap_or_default();
            (generation, writer, multiplexer.roots().to_vec())
        };
        let link = Link::start(Arc::clone(self), generation, writer, input, output);
        let info = handshake::shake_hands(&link, &roots).await?;
        tracing::debug!(version = info.version, "a server said what it is");
        if !self.multiplexer().child_ready(link.generation(), info) {
            return Err(link.closed().await);
        }
        self.notify_waiters();
        Ok(link)
    }
}
