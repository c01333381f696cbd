//! What clients ask of the engine.

use cortex_core::command::Request;
use cortex_core::ids::AllocationId;
use cortex_core::view::AllocationView;
use cortex_engine::{CancelHandle, EngineError, EngineHandle, Expired, Grant, Released};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// A call whose answer is not there yet.
pub(crate) enum Call {
    Request(Box<Request>),
    Release(AllocationId),
    Renew(AllocationId),
    Sweep,
    Look,
}

pub(crate) enum Answer {
    Request(Box<Request>, Result<Grant, EngineError>),
    Release(AllocationId, Result<Released, EngineError>),
    Renew(AllocationId, Result<AllocationView, EngineError>),
    Sweep(Result<Expired, EngineError>),
    Look(Result<u64, EngineError>),
}

/// Makes a call, and gives its answer once it is there.
pub(crate) fn make(handle: &EngineHandle, call: Call) -> BoxFuture<'_, Answer> {
    async move {
        match call {
            Call::Request(request) => {
                let answer = handle.request(Request::clone(&request), CancelHandle::default()).await;
                Answer::Request(request, answer)
            }
            Call::Release(id) => Answer::Release(id, handle.release(id).await),
            Call::Renew(id) => Answer::Renew(id, handle.renew(id, None, None).await),
            Call::Sweep => Answer::Sweep(handle.sweep().await),
            Call::Look => Answer::Look(handle.capacity().await.map(|reading| reading.value.leased.workers)),
        }
    }
    .boxed()
}
