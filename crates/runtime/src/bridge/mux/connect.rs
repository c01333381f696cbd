//! The start of a child's link, from its handshake to the first call that it is given.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{child::Garbage, handshake, link::Link};
use crate::bridge::endpoint::Endpoint;

impl Endpoint {
    /// Gets to know a child that was just spawned, by its standard input and output, and lets calls through to it.
    /// What sessions had asked for is asked of it too. `garbage` hears of lines that were no JSON-RPC.
    ///
    /// # Errors
    /// The child speaks no known version, refuses, or closes its pipes; in words.
    pub async fn connect<I, O>(self: &Arc<Self>, input: I, output: O, garbage: Garbage) -> Result<Link, String>
    where
        I: AsyncWrite + Send + Unpin + 'static,
        O: AsyncRead + Send + Unpin + 'static,
    {
        let before = self.exchange().child.as_ref().map(|child| child.generation);
        if let Some(before) = before {
            self.lose(before, "it was replaced");
        }
        let (generation, writer, roots) = {
            let mut exchange = self.exchange();
            let generation = exchange.begin(garbage);
            let writer = exchange.child(generation).map(|child| Arc::clone(&child.writer)).unwrap_or_default();
            (generation, writer, exchange.roots().to_vec())
        };
        let link = Link::start(Arc::clone(self), generation, writer, input, output);
        let about = handshake::greet(&link, &roots).await?;
        tracing::debug!(version = about.version, "a server said what it is");
        if !self.exchange().open(link.generation(), about) {
            return Err(link.closed().await);
        }
        self.note_change();
        Ok(link)
    }
}
