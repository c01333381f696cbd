//! The nominal deadlines of the live allocations that have one, soonest first.

use super::allocation::{Allocation, State};
use super::ids::FencingToken;
use super::table::Slot;
use super::time::Timestamp;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A deadline, and the token of the lease that it is of.
pub(super) type Key = (Timestamp, FencingToken);

/// The deadlines of reservations are kept apart from those of active leases. A reservation mostly becomes active in the
/// batch that made it, so its own tree is all but empty, while the other may hold a million: there, each deadline is
/// written and removed once, not twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deadlines {
    pending: BTreeMap<Key, Slot>,
    active: BTreeMap<Key, Slot>,
    /// Leases with a deadline up to here are counted as overdue by their node.
    pub(super) observed: Timestamp,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { pending: BTreeMap::new(), active: BTreeMap::new(), observed: Timestamp::MIN }
    }
}

impl Deadlines {
    /// Notes the deadline of a lease, if it has one, and says whether it is one of those counted as overdue.
    pub(super) fn insert(&mut self, lease: &Allocation, slot: Slot) -> bool {
        let (Some(deadline), Some(tree)) = (lease.nominal_deadline(), self.tree_of(lease.state())) else {
            return false;
        };
        tree.insert((deadline, lease.reservation.fencing_token), slot);
        deadline <= self.observed
    }

    /// Drops the deadline of a lease, if it has one, and says whether it was one of those counted as overdue.
    pub(super) fn remove(&mut self, lease: &Allocation) -> bool {
        let (Some(deadline), Some(tree)) = (lease.nominal_deadline(), self.tree_of(lease.state())) else {
            return false;
        };
        tree.remove(&(deadline, lease.reservation.fencing_token));
        deadline <= self.observed
    }

    fn tree_of(&mut self, state: State) -> Option<&mut BTreeMap<Key, Slot>> {
        match state {
            State::Pending => Some(&mut self.pending),
            State::Active => Some(&mut self.active),
            State::Releasing | State::Released | State::Failed => None,
        }
    }

    /// How many allocations are pending.
    pub(super) fn pending(&self) -> u64 {
        self.pending.len() as u64
    }

    /// How many allocations are active.
    pub(super) fn active(&self) -> u64 {
        self.active.len() as u64
    }

    /// All of them, soonest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Slot)> + '_ {
        self.within(Bound::Unbounded, Bound::Unbounded)
    }

    /// Those up to and including a moment, soonest first.
    pub(super) fn until(&self, last: Timestamp) -> impl Iterator<Item = (Key, Slot)> + '_ {
        self.within(Bound::Unbounded, Bound::Included(end_of(last)))
    }

    /// Those not counted as overdue, soonest first.
    pub(super) fn ahead(&self) -> impl Iterator<Item = (Key, Slot)> + '_ {
        self.within(Bound::Excluded(end_of(self.observed)), Bound::Unbounded)
    }

    /// Those up to and including a moment that are not yet counted as overdue, soonest first.
    pub(super) fn newly_overdue(&self, last: Timestamp) -> impl Iterator<Item = (Key, Slot)> + '_ {
        self.ahead().take_while(move |((deadline, _), _)| *deadline <= last)
    }

    fn within(&self, from: Bound<Key>, to: Bound<Key>) -> impl Iterator<Item = (Key, Slot)> + '_ {
        let walk = |tree| BTreeMap::range(tree, (from, to)).map(|(key, slot)| (*key, *slot));
        merged(walk(&self.pending), walk(&self.active))
    }
}

/// The last key that a deadline at this moment can have.
const fn end_of(moment: Timestamp) -> Key {
    (moment, FencingToken::new(u64::MAX))
}

/// Two ordered walks made one. No key is in both.
fn merged<K: Ord, V>(
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
