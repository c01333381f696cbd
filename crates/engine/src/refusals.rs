//! The bounded memory of refused requests. It is no part of the books: whoever refused remembers, for a while.

use cortex_core::allocation::{Metadata, State};
use cortex_core::command::{Denied, Request};
use cortex_core::ids::{AllocationId, FencingToken, JobId};
use cortex_core::priority::Priority;
use cortex_core::time::{Timestamp, TtlSeconds};
use cortex_core::view::Filter;
use std::collections::{HashSet, VecDeque};

/// How many refusals are remembered.
pub const REFUSALS_MAX: usize = 1_000;

/// A request that was refused for want of room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The id under which it can be read back.
    pub allocation: AllocationId,
    /// Whose request it was.
    pub job: JobId,
    /// How urgent the job is.
    pub priority: Priority,
    /// The time to live asked for.
    pub ttl_seconds: TtlSeconds,
    /// What the client noted.
    pub metadata: Metadata,
    /// Why it was refused.
    pub error: String,
    /// When.
    pub refused_at: Timestamp,
    /// When enough leases will have run out, if that is known.
    pub retry_at: Option<Timestamp>,
    /// Its place in a list: behind the last grant before it, and behind the refusals before it.
    pub(super) place: Place,
}

/// A place in the list of allocations and refusals, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The last grant up to here.
    pub grant: u64,
    /// The last refusal up to here; 0 for the grant itself.
    pub refusal: u64,
}

/// The refusals remembered, oldest first.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kept: VecDeque<Refusal>,
    ids: HashSet<AllocationId>,
    count: u64,
    /// The count up to which their callers were told.
    settled: u64,
}

impl Refusals {
    pub(super) fn contains(&self, id: AllocationId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn find(&self, id: AllocationId) -> Option<&Refusal> {
        if self.contains(id) { self.kept.iter().find(|refusal| refusal.allocation == id) } else { None }
    }

    /// Remembers a refusal under an id that nothing else has, and forgets the oldest if there are too many.
    pub(super) fn remember(
        &mut self,
        allocation: AllocationId,
        request: &Request,
        (error, retry_at): (&Denied, Option<Timestamp>),
        refused_at: Timestamp,
        last_grant: FencingToken,
    ) -> Refusal {
        self.count += 1;
        let refusal = Refusal {
            allocation,
            job: request.job.clone(),
            priority: request.priority,
            ttl_seconds: request.ttl_seconds,
            metadata: request.metadata.clone(),
            error: error.to_string(),
            refused_at,
            retry_at,
            place: Place { grant: last_grant.as_u64(), refusal: self.count },
        };
        if self.kept.len() == REFUSALS_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            self.ids.remove(&oldest.allocation);
        }
        self.ids.insert(allocation);
        self.kept.push_back(refusal.clone());
        refusal
    }

    /// Keeps those that were remembered so far: their callers are told now.
    pub(super) const fn settle(&mut self) {
        self.settled = self.count;
    }

    /// Forgets those whose callers were not told.
    pub(super) fn take_back(&mut self) {
        while let Some(refusal) = self.kept.pop_back_if(|refusal| refusal.place.refusal > self.settled) {
            self.ids.remove(&refusal.allocation);
        }
    }

    /// The refusals behind a place that the filter admits, oldest first.
    pub(super) fn list<'a>(&'a self, filter: &'a Filter, after: Place) -> impl Iterator<Item = &'a Refusal> {
        let first = self.kept.partition_point(|refusal| refusal.place <= after);
        let admits_state = filter.state.is_none_or(|state| state == State::Failed);
        let admits =
            move |refusal: &&Refusal| admits_state && filter.job.as_ref().is_none_or(|job| *job == refusal.job);
        self.kept.range(first..).filter(admits)
    }
}
