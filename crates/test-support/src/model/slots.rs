//! Worker slots that agents hold without an allocation, and what else the fleet's reference needs from that of the
//! leases.

use super::Model;
use super::lease::{Lease, amount, sum};
use cortex_core::allocation::EndReason;
use cortex_core::command::{Denied, Release};
use cortex_core::event::Limits;
use cortex_core::ids::{FencingToken, NodeId};
use cortex_core::time::Timestamp;
use cortex_core::units::{Resources, WorkerSize};

/// A worker slot that an agent holds without an allocation.
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
    /// Reserves a worker slot for an agent, and returns its node and the leases that ended for it.
    pub fn reserve_slot(&mut self, now: Timestamp, size: WorkerSize) -> Result<(NodeId, Vec<Release>), Denied> {
        let node = self.nodes.first().cloned().ok_or(Denied::NoNode)?;
        let (reclaimed, pending_shortage) = self.plan_reclaim(now, &node, None, size)?;
        if let Some(shortage) = pending_shortage {
            return Err(Denied::InsufficientCapacity { shortage, retry_at: None });
        }
        let reclaimed = reclaimed.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
        self.slots.push(WorkerSlot { node: node.id.clone(), size });
        Ok((node.id, reclaimed))
    }

    /// Returns how many workers agents may have on the node that they use.
    pub fn worker_capacity(&self, now: Timestamp, size: WorkerSize) -> u64 {
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

    /// Releases the worker slot of an agent.
    pub fn release_slot(&mut self, node: &NodeId, size: WorkerSize) {
        let slot = WorkerSlot { node: node.clone(), size };
        let position = self.slots.iter().position(|held| *held == slot);
        self.slots.remove(position.expect("a reserved worker slot"));
    }

    /// Returns the token of the next lease of any kind.
    pub fn next_token(&mut self) -> FencingToken {
        self.tokens += 1;
        FencingToken::new(self.tokens)
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the number of workers of all nodes.
    pub fn workers(&self) -> u64 {
        self.nodes.iter().map(|node| node.capacity.workers).sum()
    }

    /// Returns what agents hold on a node.
    pub(super) fn slots_of(&self, node: &NodeId) -> impl Iterator<Item = Resources> {
        self.slots.iter().filter(move |slot| slot.node == *node).map(WorkerSlot::held)
    }
}
