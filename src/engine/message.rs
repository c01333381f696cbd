//! What is sent to the engine, and what it answers.

use super::refusals::{Place, Refusal};
use crate::core::{
    AllocationId, AllocationView, CapacityView, Denied, FencingToken, Filter, Release, Request, Timestamp, TtlSeconds,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use thiserror::Error;
use tokio::sync::oneshot;

/// A value with the moment at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// The moment.
    pub at: Timestamp,
    /// The value.
    pub value: T,
}

/// An answer to a request that was granted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The allocation as it stands.
    pub view: AllocationView,
    /// Whether this request made it, rather than an earlier one with the same request id.
    pub is_new: bool,
}

/// An answer to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was released by this call.
    Now(Release),
    /// It had ended before.
    Before {
        /// Which.
        allocation: AllocationId,
        /// When it ended.
        released_at: Timestamp,
    },
}

/// What can be read back under an allocation's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An allocation.
    Allocation(Box<AllocationView>),
    /// A request that was refused.
    Refusal(Box<Refusal>),
}

/// Which part of the list of allocations and refusals is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Only those it admits; refusals are in the state `failed`.
    pub filter: Filter,
    /// Only those behind this place.
    pub after: Place,
    /// At most so many.
    pub limit: usize,
}

/// A page of the list, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// When it was read.
    pub at: Timestamp,
    /// The entries.
    pub entries: Vec<Record>,
    /// How many entries the filter admits in all.
    pub total: u64,
    /// The place to go on from, if there is more.
    pub next: Option<Place>,
}

/// What the planner looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The capacity.
    pub capacity: CapacityView,
    /// Requests granted since the start; repeats of one request count once.
    pub granted: u64,
    /// Requests refused for want of room since the start.
    pub refused: u64,
    /// The most workers that a request asked for that was refused for want of workers since the last look.
    pub refused_workers_max: u64,
}

/// What a batch of events changed of the things that clients watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the capacity or what is taken of it.
    pub capacity: bool,
    /// Which allocations.
    pub allocations: BTreeSet<AllocationId>,
}

/// Why the engine did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The lease machine refused. Nothing has changed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There was no room; the refusal is remembered.
    #[error("{}", .0.error)]
    Refused(Box<Refusal>),
    /// The id is that of a refused request, which holds nothing.
    #[error("Allocation {0} failed and holds nothing to release or renew: its request was refused")]
    NothingHeld(AllocationId),
    /// The program has a fault. Nothing has changed.
    #[error("internal error: the request could not be decided on and nothing has changed; the log says more")]
    Fault,
    /// The caller called the request off before it was decided on.
    #[error("the request was called off before it was decided on: nothing was granted")]
    CalledOff,
    /// The change could not be made lasting, or it is not known whether it was.
    #[error(
        "the manager could not make this lasting, or does not know whether it did: ask again, \
         with the same request_id if one was given; the manager's log says why"
    )]
    NotCommitted,
    /// The engine has ended: the server is going down.
    #[error("the server is shutting down: look whether this has taken effect before asking for it again")]
    Stopped,
}

/// What a request can be called off by, from before it is sent until its caller hears of the grant.
#[derive(Clone, Debug, Default)]
pub struct Ticket(Arc<Fate>);

#[derive(Debug, Default)]
struct Fate {
    is_called_off: AtomicBool,
    granted: OnceLock<AllocationId>,
}

impl Ticket {
    pub(super) fn call_off(&self) {
        self.0.is_called_off.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_called_off(&self) -> bool {
        self.0.is_called_off.load(Ordering::Relaxed)
    }

    /// Notes what was granted for this request; a repeat of an earlier one is granted nothing.
    pub(super) fn note(&self, allocation: AllocationId) {
        // A ticket goes with one request, so that nothing is noted twice.
        let _ = self.0.granted.set(allocation);
    }

    pub(super) fn granted(&self) -> Option<AllocationId> {
        self.0.granted.get().copied()
    }
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// Everything that can be asked of the engine.
pub(super) enum Message {
    Request {
        request: Box<Request>,
        ticket: Ticket,
        reply: Reply<Result<Grant, EngineError>>,
    },
    Release {
        allocation: AllocationId,
        reply: Reply<Result<Released, EngineError>>,
    },
    CallOff {
        ticket: Ticket,
    },
    Renew {
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        fencing_token: Option<FencingToken>,
        reply: Reply<Result<AllocationView, EngineError>>,
    },
    Sweep {
        reply: Reply<Result<(Vec<AllocationId>, bool), EngineError>>,
    },
    TrimHistory,
    SetWorkers {
        workers: u64,
        reply: Reply<Result<(), EngineError>>,
    },
    Capacity {
        reply: Reply<Reading<CapacityView>>,
    },
    Demand {
        reply: Reply<Reading<Demand>>,
    },
    Allocation {
        allocation: AllocationId,
        reply: Reply<Option<Reading<Record>>>,
    },
    List {
        listing: Box<Listing>,
        reply: Reply<Page>,
    },
}
