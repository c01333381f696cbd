//! The bounded record of refused requests. It is not part of the cluster state and is lost at a restart.

use cortex_core::allocation::{Metadata, State};
use cortex_core::command::{Denied, Request};
use cortex_core::ids::{AllocationId, FencingToken, JobId};
use cortex_core::priority::Priority;
use cortex_core::time::{Timestamp, TtlSeconds};
use cortex_core::view::Filter;
use std::collections::{HashSet, VecDeque};

/// The largest number of refusals on record; the oldest is dropped first.
pub(super) const REFUSALS_MAX: usize = 1_000;

/// A request that was refused for lack of capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The id under which clients read the refusal.
    pub allocation: AllocationId,
    pub job: JobId,
    pub priority: Priority,
    pub ttl_seconds: TtlSeconds,
    pub metadata: Metadata,
    /// The reason, as the client sees it.
    pub error: String,
    pub refused_at: Timestamp,
    /// When enough leases will have expired, if that can be known.
    pub retry_at: Option<Timestamp>,
    /// Its position in a list: after the last grant and the refusals before it.
    pub(super) position: RecordPosition,
}

/// A position in the list of allocations and refusals, which is sorted oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordPosition {
    /// The fencing token of the last grant up to here.
    pub grant: u64,
    /// The number of the last refusal up to here; 0 for the grant itself.
    pub refusal: u64,
}

/// The refusals on record, oldest first.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kept: VecDeque<Refusal>,
    ids: HashSet<AllocationId>,
    count: u64,
    /// The number of the last refusal whose reply was sent.
    committed: u64,
}

impl Refusals {
    pub(super) fn contains(&self, id: AllocationId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn find(&self, id: AllocationId) -> Option<&Refusal> {
        if self.contains(id) { self.kept.iter().find(|refusal| refusal.allocation == id) } else { None }
    }

    /// Records a refusal under an unused id, and drops the oldest if there are too many.
    pub(super) fn remember(
        &mut self,
        allocation: AllocationId,
        request: &Request,
        denied: &Denied,
        refused_at: Timestamp,
        last_grant: FencingToken,
    ) -> Refusal {
        self.count += 1;
        let retry_at = match denied {
            Denied::InsufficientCapacity { retry_at, .. } => *retry_at,
            _ => None,
        };
        let refusal = Refusal {
            allocation,
            job: request.job.clone(),
            priority: request.priority,
            ttl_seconds: request.ttl_seconds,
            metadata: request.metadata.clone(),
            error: denied.to_string(),
            refused_at,
            retry_at,
            position: RecordPosition { grant: last_grant.as_u64(), refusal: self.count },
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

    /// Keeps the refusals so far: their replies are sent now.
    pub(super) const fn commit(&mut self) {
        self.committed = self.count;
    }

    /// Removes the refusals whose replies were not sent.
    pub(super) fn rollback(&mut self) {
        while let Some(refusal) = self.kept.pop_back_if(|refusal| refusal.position.refusal > self.committed) {
            self.ids.remove(&refusal.allocation);
        }
    }

    /// The refusals after a position that match the filter, oldest first.
    pub(super) fn list<'a>(&'a self, filter: &'a Filter, after: RecordPosition) -> impl Iterator<Item = &'a Refusal> {
        let first = self.kept.partition_point(|refusal| refusal.position <= after);
        let matches_state = filter.state.is_none_or(|state| state == State::Failed);
        let matches =
            move |refusal: &&Refusal| matches_state && filter.job.as_ref().is_none_or(|job| *job == refusal.job);
        self.kept.range(first..).filter(matches)
    }
}
