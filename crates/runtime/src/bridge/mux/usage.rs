//! What each allocation did with a server.
//!
//! Invariant: an allocation that has ended is let in no more, for as long as its entry is kept.

use std::{collections::BTreeMap, time::Duration};

use cortex_core::ids::AllocationId;

/// The most allocations that are counted for one server.
const ALLOCATIONS_MAX: usize = 4_096;

/// What was done with one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The requests that were answered, whatever the answer.
    pub calls: u64,
    /// How many of the answers were errors.
    pub errors: u64,
    /// The bytes of messages from clients.
    pub bytes_in: u64,
    /// The bytes of answers and notices to clients.
    pub bytes_out: u64,
    /// The time that the calls took at the server, added up.
    pub busy: Duration,
}

impl Usage {
    pub(crate) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.busy += other.busy;
    }
}

/// The counts of one server.
#[derive(Debug, Default)]
pub(crate) struct UsageTable {
    total: Usage,
    by_allocation: BTreeMap<AllocationId, AllocationUsage>,
}

#[derive(Debug, Default)]
struct AllocationUsage {
    usage: Usage,
    ended: bool,
}

impl UsageTable {
    /// Lets an allocation in. False if it has ended, or too many are counted.
    pub(crate) fn admit(&mut self, allocation: Option<AllocationId>) -> bool {
        let Some(allocation) = allocation else {
            return true;
        };
        if let Some(entry) = self.by_allocation.get(&allocation) {
            return !entry.ended;
        }
        if self.by_allocation.len() >= ALLOCATIONS_MAX {
            let ended = self.by_allocation.iter().find(|(_, entry)| entry.ended).map(|(allocation, _)| *allocation);
            let Some(ended) = ended else {
                return false;
            };
            self.by_allocation.remove(&ended);
        }
        self.by_allocation.insert(allocation, AllocationUsage::default());
        true
    }

    pub(crate) fn is_ended(&self, allocation: Option<AllocationId>) -> bool {
        allocation.and_then(|allocation| self.by_allocation.get(&allocation)).is_some_and(|entry| entry.ended)
    }

    pub(crate) fn end(&mut self, allocation: AllocationId) {
        if let Some(entry) = self.by_allocation.get_mut(&allocation) {
            entry.ended = true;
        }
    }

    pub(crate) fn add(&mut self, allocation: Option<AllocationId>, usage: &Usage) {
        self.total.add(usage);
        if let Some(entry) = allocation.and_then(|allocation| self.by_allocation.get_mut(&allocation)) {
            entry.usage.add(usage);
        }
    }

    /// Counts a request that was answered with an error of the bridge's own, of so many bytes.
    pub(crate) fn add_error(&mut self, allocation: Option<AllocationId>, bytes_out: usize) {
        self.add(allocation, &Usage { calls: 1, errors: 1, bytes_out: bytes_out as u64, ..Usage::default() });
    }

    /// What an allocation did. The entry of one that has ended is given out once.
    pub(crate) fn take(&mut self, allocation: AllocationId) -> Usage {
        match self.by_allocation.get(&allocation) {
            Some(entry) if entry.ended => self.by_allocation.remove(&allocation).map(|entry| entry.usage),
            entry => entry.map(|entry| entry.usage),
        }
        .unwrap_or_default()
    }

    pub(crate) fn total(&self) -> Usage {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_allocation_is_refused_and_given_out_once() {
        let mut usages = UsageTable::default();
        let allocation = AllocationId::from_draw(7);
        assert!(usages.admit(None) && usages.admit(Some(allocation)) && usages.admit(Some(allocation)));
        usages.add(Some(allocation), &Usage { calls: 2, ..Usage::default() });
        usages.add(None, &Usage { calls: 1, ..Usage::default() });
        assert_eq!(usages.take(allocation).calls, 2);
        usages.end(allocation);
        assert!(!usages.admit(Some(allocation)) && usages.is_ended(Some(allocation)));
        assert_eq!((usages.take(allocation).calls, usages.take(allocation).calls, usages.total().calls), (2, 0, 3));
    }

    #[test]
    fn the_ended_make_room() {
        let mut usages = UsageTable::default();
        for draw in 0..ALLOCATIONS_MAX as u64 {
            assert!(usages.admit(Some(AllocationId::from_draw(draw))));
        }
        assert!(!usages.admit(Some(AllocationId::from_draw(1 << 40))));
        usages.end(AllocationId::from_draw(3));
        assert!(usages.admit(Some(AllocationId::from_draw(1 << 40))));
        assert!(!usages.admit(Some(AllocationId::from_draw(1 << 41))));
    }
}
