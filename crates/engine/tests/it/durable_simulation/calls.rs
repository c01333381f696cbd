//! The calls of simulated clients.

use cortex_core::command::{Command, Request};
use cortex_core::ids::AllocationId;
use cortex_core::view::AllocationView;
use cortex_engine::{CancelHandle, EngineError, EngineHandle, Expired, Grant, Released};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// A call to the engine.
pub(crate) enum Call {
    Request(Box<Request>),
    Release(AllocationId),
    Renew(AllocationId),
    Sweep,
    ReadCapacity,
}

/// The reply to a call, with the call's arguments.
pub(crate) enum Answer {
    Request(Box<Request>, Result<Grant, EngineError>),
    Release(AllocationId, Result<Released, EngineError>),
    Renew(AllocationId, Result<AllocationView, EngineError>),
    Sweep(Result<Expired, EngineError>),
    ReadCapacity(Result<u64, EngineError>),
}

/// Makes a call and returns its reply.
pub(crate) fn make(handle: &EngineHandle, call: Call) -> BoxFuture<'_, Answer> {
    async move {
        match call {
            Call::Request(request) => {
                let answer = handle.request(Request::clone(&request), CancelHandle::default()).await;
                Answer::Request(request, answer)
            }
            Call::Release(id) => Answer::Release(id, handle.release(id).await),
            Call::Renew(id) => {
                let renew = Command::Renew { allocation: id, ttl_seconds: None, fencing_token: None };
                let renewed = handle.execute(renew, move |_, state, now| state.cluster.allocation(now, id));
                Answer::Renew(id, renewed.await.map(|view| view.expect("a renewed lease")))
            }
            Call::Sweep => Answer::Sweep(handle.sweep().await),
            Call::ReadCapacity => {
                Answer::ReadCapacity(handle.read(|state, now| state.cluster.capacity(now).leased.workers).await)
            }
        }
    }
    .boxed()
}
