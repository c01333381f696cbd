//! Waiting for a reply that takes as long as processes take to start or to end.

use super::progress::Progress;
use cortex_engine::EngineHandle;
use futures_util::FutureExt;
use std::pin::Pin;
use tokio_util::sync::CancellationToken;

/// A call that waits: it reports progress, and ends with its connection.
pub(super) struct Wait {
    pub(super) engine: EngineHandle,
    /// Present if the caller asked for progress.
    pub(super) progress: Option<Progress>,
    /// Is cancelled when the connection begins to close.
    pub(super) closing: CancellationToken,
}

impl Wait {
    /// Returns the result of `work`, which is a request to the engine, or nothing if the connection closes before. A
    /// result that the engine has without waiting is still returned then, as to any other call before the end of the
    /// input.
    ///
    /// `work` is polled first, so that calls reach the engine in their order.
    pub(super) async fn for_reply<T>(self, message: &str, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let Self { engine, progress, closing } = self;
        let waiting = async {
            match progress {
                Some(progress) => progress.while_waiting(message, None, work.as_mut()).await,
                None => work.as_mut().await,
            }
        };
        tokio::select! {
            biased;
            done = waiting => return Some(done),
            () = closing.cancelled() => {}
        }
        // The engine replies in order: after this reply, one to `work` is there unless `work` has to wait. If the
        // engine has ended, neither gets a reply.
        drop(engine.read(|_, _| ()).await);
        work.now_or_never()
    }
}
