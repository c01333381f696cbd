//! Workers that agents have by themselves, and what else the fleet needs of the reference of the leases.

use super::Model;
use super::lease::{Lease, amount, sum};
use cortex_core::allocation::EndReason;
use cortex_core::command::{Denied, Release};
use cortex_core::event::Limits;
use cortex_core::ids::{FencingToken, NodeId};
use cortex_core::time::Timestamp;
use cortex_core::units::{Resources, WorkerSize};

/// A worker that an agent has without an allocation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WorkerSlot {
    node: NodeId,
    size: WorkerSize,
}

impl WorkerSlot {
    pub(super) fn held(&self) -> Resources {
        amount(1, self.size)
    }
}

impl Model {
    /// Takes a worker for an agent: where it is, and which leases had to go for it.
    pub fn take_slot(&mut self, now: Timestamp, size: WorkerSize) -> Result<(NodeId, Vec<Release>), Denied> {
        let node = self.nodes.first().cloned().ok_or(Denied::NoNode)?;
        let (taken, until_gone) = self.make_room(now, &node, None, size)?;
        if let Some(shortage) = until_gone {
            return Err(Denied::NoRoom { shortage, retry_at: None });
        }
        let reclaimed = taken.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
        self.slots.push(WorkerSlot { node: node.id.clone(), size });
        Ok((node.id, reclaimed))
    }

    /// How many workers there is room for where agents take theirs.
    pub fn room_for_workers(&self, now: Timestamp, size: WorkerSize) -> u64 {
        let Some(node) = self.nodes.first() else { return 0 };
        let overdue: Vec<_> = self.overdue(now).iter().map(|lease| lease.id()).collect();
        let is_here = |lease: &&&Lease| lease.record.reservation.node == node.id && !overdue.contains(&lease.id());
        let held = || self.live().iter().filter(is_here).map(|lease| lease.held()).collect::<Vec<_>>();
        let fits = |workers: &u64| {
            let more = [amount(*workers, size)];
            node.capacity.covers(&sum(held().into_iter().chain(self.slots_of(&node.id)).chain(more)))
        };
        (0..=node.capacity.workers).rev().find(fits).unwrap_or(0)
    }

    /// Gives back the worker of an agent.
    pub fn give_slot_back(&mut self, node: &NodeId, size: WorkerSize) {
        let slot = WorkerSlot { node: node.clone(), size };
        let place = self.slots.iter().position(|held| *held == slot);
        self.slots.remove(place.expect("a worker that was taken"));
    }

    /// The token of the next lease, of whatever kind.
    pub fn next_token(&mut self) -> FencingToken {
        self.tokens += 1;
        FencingToken::new(self.tokens)
    }

    /// The bounds of the books.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How many workers there are in all.
    pub fn workers(&self) -> u64 {
        self.nodes.iter().map(|node| node.capacity.workers).sum()
    }

    /// What agents hold of a node.
    pub(super) fn slots_of(&self, node: &NodeId) -> impl Iterator<Item = Resources> {
        self.slots.iter().filter(move |slot| slot.node == *node).map(WorkerSlot::held)
    }
}
