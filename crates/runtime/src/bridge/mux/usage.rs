//! Usage counters of each allocation at a server.
//!
//! Invariant: an allocation that has ended is not admitted again while its entry is kept.

use std::{collections::BTreeMap, time::Duration};

use cortex_core::ids::AllocationId;

/// The most allocations with counters for one server.
const ALLOCATIONS_MAX: usize = 4_096;

/// Usage of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of requests that got a response.
    pub calls: u64,
    /// The number of responses that were errors.
    pub errors: u64,
    /// The bytes of messages from clients.
    pub bytes_in: u64,
    /// The bytes of responses and notifications to clients.
    pub bytes_out: u64,
    /// The sum of the times that calls were in flight.
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

/// The counters of one server.
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
    /// Admits an allocation. Returns false if it has ended, or if the table is full.
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

    /// Counts a request that the bridge itself answered with an error of `bytes_out` bytes.
    pub(crate) fn add_error(&mut self, allocation: Option<AllocationId>, bytes_out: usize) {
        self.add(allocation, &Usage { calls: 1, errors: 1, bytes_out: bytes_out as u64, ..Usage::default() });
    }

    /// Returns the usage of an allocation. Removes the entry of an allocation that has ended.
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
    fn an_ended_allocation_is_rejected_and_returned_once() {
        let mut usages = UsageTable::default();
        let allocation = AllocationId::from_bits(7);
        assert!(usages.admit(None) && usages.admit(Some(allocation)) && usages.admit(Some(allocation)));
        usages.add(Some(allocation), &Usage { calls: 2, ..Usage::default() });
        usages.add(None, &Usage { calls: 1, ..Usage::default() });
        assert_eq!(usages.take(allocation).calls, 2);
        usages.end(allocation);
        assert!(!usages.admit(Some(allocation)) && usages.is_ended(Some(allocation)));
        assert_eq!((usages.take(allocation).calls, usages.take(allocation).calls, usages.total().calls), (2, 0, 3));
    }

    #[test]
    fn ended_allocations_are_evicted() {
        let mut usages = UsageTable::default();
        for draw in 0..ALLOCATIONS_MAX as u64 {
            assert!(usages.admit(Some(AllocationId::from_bits(draw))));
        }
        assert!(!usages.admit(Some(AllocationId::from_bits(1 << 40))));
        usages.end(AllocationId::from_bits(3));
        assert!(usages.admit(Some(AllocationId::from_bits(1 << 40))));
        assert!(!usages.admit(Some(AllocationId::from_bits(1 << 41))));
    }
}
