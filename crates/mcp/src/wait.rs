//! Waiting for an answer that takes as long as processes take to start or to end.

use super::progress::Progress;
use cortex_engine::EngineHandle;
use futures_util::FutureExt;
use std::pin::Pin;
use tokio_util::sync::CancellationToken;

/// What a call has that may wait: somebody who wants to hear of it, and an end.
pub(super) struct Wait {
    pub(super) engine: EngineHandle,
    /// Present if the caller wants to hear of the progress.
    pub(super) progress: Option<Progress>,
    /// Is cancelled when the connection comes to its end.
    pub(super) closing: CancellationToken,
}

impl Wait {
    /// What `work` comes to, which is something that was asked of the engine; nothing if the connection comes to its end
    /// before. What the engine answers without waiting is still given out then, as it is to any other call before the end
    /// of the input.
    ///
    /// `work` is looked at first of all, so that what it sends is sent in the order of the calls.
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
        // This is answered behind what was sent before it. If it cannot be, neither can that.
        drop(engine.capacity().await);
        work.now_or_never()
    }
}
