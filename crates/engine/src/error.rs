//! Why a call to the engine failed.

use super::refusals::Refusal;
use cortex_core::command::Denied;
use cortex_core::fleet::command::FleetDenied;
use cortex_core::ids::AllocationId;
use std::sync::Arc;
use thiserror::Error;

/// Why a call to the engine failed. Clients see these texts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The cluster denied the command. Nothing has changed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There was not enough capacity. The refusal is on record under its own allocation id.
    #[error("{}", .0.error)]
    Refused(Box<Refusal>),
    /// The allocation id belongs to a refused request, which has no lease.
    #[error("Allocation {0} failed and holds nothing to release or renew: its request was refused")]
    NothingHeld(AllocationId),
    /// A server or worker of the allocation did not start, so the whole allocation failed and holds nothing.
    #[error("Allocation {allocation} failed: {error}")]
    NotStarted { allocation: AllocationId, error: Arc<str> },
    /// The program has a bug. Nothing has changed.
    #[error("internal error: the request could not be processed and nothing has changed; see the server's log")]
    Fault,
    /// The caller cancelled the request before it was decided.
    #[error("the request was cancelled before it was processed: nothing was granted")]
    Cancelled,
    /// The commit failed, or its outcome is unknown.
    #[error(
        "the change may not have been persisted: retry the call, with the same request_id or task_id \
         if one was given; the server's log has the cause"
    )]
    NotCommitted,
    /// The engine has stopped: the server is shutting down.
    #[error("the server is shutting down: check whether the call took effect before you retry it")]
    Stopped,
}

impl From<FleetDenied> for EngineError {
    fn from(denied: FleetDenied) -> Self {
        Self::Denied(Denied::Fleet(denied))
    }
}
