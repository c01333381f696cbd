//! Jobs: what the state keeps of a job while one of its allocations is live or on record.

use super::allocation::Reservation;
use super::ids::{FencingToken, JobId, WorkerNumber};
use super::table::{Keyed, Slot};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: JobId,
    /// The number of its live allocations.
    pub(super) live: u64,
    /// The number of its next worker. It starts again from 0 when no allocation of the job is live.
    pub(super) next_worker: WorkerNumber,
    allocations: JobAllocations,
}

/// The allocations of a job, live and on record, oldest first. Most jobs have one, which needs no tree. Equal sets
/// always use the same variant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum JobAllocations {
    None,
    One(FencingToken, Slot),
    /// Two or more.
    Many(BTreeMap<FencingToken, Slot>),
}

impl Keyed for Job {
    type Key = JobId;

    fn key(&self) -> &JobId {
        &self.id
    }
}

impl Job {
    pub(super) const fn new(id: JobId) -> Self {
        Self { id, live: 0, next_worker: WorkerNumber(0), allocations: JobAllocations::None }
    }

    /// Adds a new live allocation.
    pub(super) fn reserve(&mut self, reservation: &Reservation, slot: Slot) {
        self.live += 1;
        self.next_worker = WorkerNumber(reservation.workers.first.0 + reservation.workers.count());
        self.add(reservation.fencing_token, slot);
    }

    /// Counts a live allocation as ended. It stays on record.
    pub(super) fn end(&mut self) {
        self.live -= 1;
        if self.live == 0 {
            self.next_worker = WorkerNumber::default();
        }
    }

    /// Drops the record of an allocation.
    pub(super) fn forget(&mut self, token: FencingToken) {
        match &mut self.allocations {
            JobAllocations::One(one, _) if *one == token => self.allocations = JobAllocations::None,
            JobAllocations::None | JobAllocations::One(..) => {}
            JobAllocations::Many(tree) => {
                tree.remove(&token);
                if let (1, Some((token, slot))) = (tree.len(), tree.first_key_value()) {
                    self.allocations = JobAllocations::One(*token, *slot);
                }
            }
        }
    }

    /// Returns whether the job has no allocation left.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self.allocations, JobAllocations::None)
    }

    /// Returns the number of its allocations, live and on record.
    pub(super) fn len(&self) -> u64 {
        match &self.allocations {
            JobAllocations::None => 0,
            JobAllocations::One(..) => 1,
            JobAllocations::Many(tree) => tree.len() as u64,
        }
    }

    /// Returns its allocations from this token on, oldest first.
    pub(super) fn since(&self, from: FencingToken) -> impl Iterator<Item = (FencingToken, Slot)> + '_ {
        let (one, many) = match &self.allocations {
            JobAllocations::None => (None, None),
            JobAllocations::One(token, slot) => (Some((*token, *slot)), None),
            JobAllocations::Many(tree) => (None, Some(tree.range(from..).map(|(token, slot)| (*token, *slot)))),
        };
        one.into_iter().filter(move |(token, _)| *token >= from).chain(many.into_iter().flatten())
    }

    /// Returns all its allocations, oldest first.
    pub(super) fn allocations(&self) -> impl Iterator<Item = (FencingToken, Slot)> + '_ {
        self.since(FencingToken::new(0))
    }

    fn add(&mut self, token: FencingToken, slot: Slot) {
        match &mut self.allocations {
            JobAllocations::None => self.allocations = JobAllocations::One(token, slot),
            JobAllocations::One(first, first_slot) => {
                self.allocations = JobAllocations::Many(BTreeMap::from([(*first, *first_slot), (token, slot)]));
            }
            JobAllocations::Many(tree) => {
                tree.insert(token, slot);
            }
        }
    }
}
