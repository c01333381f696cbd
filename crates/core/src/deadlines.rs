//! The nominal deadlines of the live allocations that have one, soonest first.

use super::allocation::{Allocation, State};
use super::ids::FencingToken;
use super::table::Slot;
use super::time::Timestamp;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A deadline, and the token of its lease.
pub(super) type DeadlineKey = (Timestamp, FencingToken);

/// The deadlines of reservations are kept apart from those of active leases. Most reservations become active in the
/// batch that made them, so their tree is almost empty, while the other may hold a million. This way each deadline is
/// inserted into the large tree and removed from it once, not twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deadlines {
    pending: BTreeMap<DeadlineKey, Slot>,
    active: BTreeMap<DeadlineKey, Slot>,
    /// Leases with a deadline up to here are counted as overdue by their node.
    pub(super) observed: Timestamp,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { pending: BTreeMap::new(), active: BTreeMap::new(), observed: Timestamp::MIN }
    }
}

impl Deadlines {
    /// Adds the deadline of a lease, if it has one. Returns whether the lease counts as overdue.
    pub(super) fn insert(&mut self, lease: &Allocation, slot: Slot) -> bool {
        let (Some(deadline), Some(tree)) = (lease.nominal_deadline(), self.tree_of(lease.state())) else {
            return false;
        };
        tree.insert((deadline, lease.reservation.fencing_token), slot);
        deadline <= self.observed
    }

    /// Removes the deadline of a lease, if it has one. Returns whether the lease counted as overdue.
    pub(super) fn remove(&mut self, lease: &Allocation) -> bool {
        let (Some(deadline), Some(tree)) = (lease.nominal_deadline(), self.tree_of(lease.state())) else {
            return false;
        };
        tree.remove(&(deadline, lease.reservation.fencing_token));
        deadline <= self.observed
    }

    fn tree_of(&mut self, state: State) -> Option<&mut BTreeMap<DeadlineKey, Slot>> {
        match state {
            State::Pending => Some(&mut self.pending),
            State::Active => Some(&mut self.active),
            State::Releasing | State::Released | State::Failed => None,
        }
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.len() as u64
    }

    pub(super) fn active(&self) -> u64 {
        self.active.len() as u64
    }

    /// Returns all deadlines, soonest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DeadlineKey, Slot)> + '_ {
        self.within(Bound::Unbounded, Bound::Unbounded)
    }

    /// Returns the deadlines up to and including a moment, soonest first.
    pub(super) fn until(&self, last: Timestamp) -> impl Iterator<Item = (DeadlineKey, Slot)> + '_ {
        self.within(Bound::Unbounded, Bound::Included(last_key_at(last)))
    }

    /// Returns the deadlines that are not counted as overdue, soonest first.
    pub(super) fn upcoming(&self) -> impl Iterator<Item = (DeadlineKey, Slot)> + '_ {
        self.within(Bound::Excluded(last_key_at(self.observed)), Bound::Unbounded)
    }

    /// Returns the deadlines up to and including a moment that are not yet counted as overdue, soonest first.
    pub(super) fn newly_overdue(&self, last: Timestamp) -> impl Iterator<Item = (DeadlineKey, Slot)> + '_ {
        self.upcoming().take_while(move |((deadline, _), _)| *deadline <= last)
    }

    fn within(
        &self,
        from: Bound<DeadlineKey>,
        to: Bound<DeadlineKey>,
    ) -> impl Iterator<Item = (DeadlineKey, Slot)> + '_ {
        let walk = |tree| BTreeMap::range(tree, (from, to)).map(|(key, slot)| (*key, *slot));
        merge(walk(&self.pending), walk(&self.active))
    }
}

/// Returns the last possible key of a deadline at this moment.
const fn last_key_at(moment: Timestamp) -> DeadlineKey {
    (moment, FencingToken::new(u64::MAX))
}

/// Merges two ordered iterators. No key is in both.
fn merge<K: Ord, V>(
    first: impl Iterator<Item = (K, V)>,
    second: impl Iterator<Item = (K, V)>,
) -> impl Iterator<Item = (K, V)> {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    std::iter::from_fn(move || match (first.peek(), second.peek()) {
        (Some((a, _)), Some((b, _))) if a < b => first.next(),
        (Some(_), None) => first.next(),
        _ => second.next(),
    })
}
