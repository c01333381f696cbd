//! What is known of a job while an allocation of it is live or on record.

use super::allocation::Reservation;
use super::ids::{FencingToken, JobId, WorkerNumber};
use super::table::{Keyed, Slot};
use std::collections::BTreeMap;

/// A job in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: JobId,
    /// Its live allocations.
    pub(super) live: u64,
    /// The number of its next worker. It starts again from 0 when nothing of the job is live.
    pub(super) next_worker: WorkerNumber,
    allocations: Allocations,
}

/// The allocations of a job, live and on record, oldest first. Most jobs have one, which needs no tree; equal sets are
/// kept in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Allocations {
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
    /// A job without allocations.
    pub(super) const fn new(id: JobId) -> Self {
        Self { id, live: 0, next_worker: WorkerNumber(0), allocations: Allocations::None }
    }

    /// Notes a new live allocation.
    pub(super) fn reserve(&mut self, reservation: &Reservation, slot: Slot) {
        self.live += 1;
        self.next_worker = WorkerNumber(reservation.workers.first.0 + reservation.workers.count());
        self.add(reservation.fencing_token, slot);
    }

    /// Notes the end of a live allocation. It stays on record.
    pub(super) fn end(&mut self) {
        self.live -= 1;
        if self.live == 0 {
            self.next_worker = WorkerNumber::default();
        }
    }

    /// Drops the record of an allocation.
    pub(super) fn forget(&mut self, token: FencingToken) {
        match &mut self.allocations {
            Allocations::One(one, _) if *one == token => self.allocations = Allocations::None,
            Allocations::None | Allocations::One(..) => {}
            Allocations::Many(tree) => {
                tree.remove(&token);
                if let (1, Some((token, slot))) = (tree.len(), tree.first_key_value()) {
                    self.allocations = Allocations::One(*token, *slot);
                }
            }
        }
    }

    /// Whether nothing is known of it any more.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self.allocations, Allocations::None)
    }

    /// How many allocations it has, live and on record.
    pub(super) fn len(&self) -> u64 {
        match &self.allocations {
            Allocations::None => 0,
            Allocations::One(..) => 1,
            Allocations::Many(tree) => tree.len() as u64,
        }
    }

    /// Its allocations from this token on, oldest first.
    pub(super) fn since(&self, from: FencingToken) -> impl Iterator<Item = (FencingToken, Slot)> + '_ {
        let (one, many) = match &self.allocations {
            Allocations::None => (None, None),
            Allocations::One(token, slot) => (Some((*token, *slot)), None),
            Allocations::Many(tree) => (None, Some(tree.range(from..).map(|(token, slot)| (*token, *slot)))),
        };
        one.into_iter().filter(move |(token, _)| *token >= from).chain(many.into_iter().flatten())
    }

    /// All its allocations, oldest first.
    pub(super) fn allocations(&self) -> impl Iterator<Item = (FencingToken, Slot)> + '_ {
        self.since(FencingToken::new(0))
    }

    fn add(&mut self, token: FencingToken, slot: Slot) {
        match &mut self.allocations {
            Allocations::None => self.allocations = Allocations::One(token, slot),
            Allocations::One(first, first_slot) => {
                self.allocations = Allocations::Many(BTreeMap::from([(*first, *first_slot), (token, slot)]));
            }
            Allocations::Many(tree) => {
                tree.insert(token, slot);
            }
        }
    }
}
