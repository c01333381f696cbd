//! Cancelling a call, and revoking what it led to.

use cortex_core::ids::{AllocationId, FencingToken, TaskId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What a call led to, to be revoked if the call is cancelled or its reply is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revocable {
    Allocation(AllocationId),
    /// A task whose id the engine chose, so that its submitter cannot know it yet.
    Submitted(TaskId),
    /// The tasks leased by a claim, each with its fencing token.
    Claimed(Vec<(TaskId, FencingToken)>),
}

/// Cancels one request, from before it is sent until its caller has received the reply.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<CancelState>);

#[derive(Debug, Default)]
struct CancelState {
    is_cancelled: AtomicBool,
    granted: OnceLock<Revocable>,
}

impl CancelHandle {
    pub(super) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// Notes what this request was granted. A repeat of an earlier request is granted nothing.
    pub(super) fn note(&self, grants: Revocable) {
        // Each cancel handle belongs to one request, so this is set at most once.
        let _ = self.0.granted.set(grants);
    }

    pub(super) fn granted(&self) -> Option<&Revocable> {
        self.0.granted.get()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
