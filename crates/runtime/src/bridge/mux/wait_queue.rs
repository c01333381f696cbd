//! The calls that wait to be sent to the child.
//!
//! Invariants: calls of one allocation leave in the order of their arrival; allocations whose calls may be sent take
//! turns, one call each; and no allocation has more than its fair share of the queue.

use std::collections::{BTreeMap, VecDeque};

use super::call::Call;
use crate::bridge::limits::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most calls that wait.
pub(crate) const WAITING_MAX: usize = 1_024;

/// The most bytes of calls that wait.
const WAITING_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// The waiting calls of each allocation that has any.
    queues: BTreeMap<Option<AllocationId>, VecDeque<Box<Call>>>,
    /// The allocations with waiting calls, in the order of their turns.
    turns: VecDeque<Option<AllocationId>>,
    calls: FairShares<AllocationId>,
    bytes: FairShares<AllocationId>,
}

impl WaitQueue {
    pub(crate) fn new() -> Self {
        Self {
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            calls: FairShares::new(WAITING_MAX),
            bytes: FairShares::new(WAITING_BYTES_MAX),
        }
    }

    pub(crate) fn has_any_of(&self, allocation: Option<AllocationId>) -> bool {
        self.queues.contains_key(&allocation)
    }

    /// Adds a call.
    ///
    /// # Errors
    /// Returns the call if the limits do not allow it.
    pub(crate) fn push(&mut self, call: Box<Call>) -> Result<(), Box<Call>> {
        let (allocation, bytes) = (call.allocation, call.text.len());
        if !self.bytes.may_take(allocation, bytes) || !self.calls.take(allocation, 1) {
            return Err(call);
        }
        self.bytes.add(allocation, bytes);
        let queue = self.queues.entry(allocation).or_default();
        if queue.is_empty() {
            self.turns.push_back(allocation);
        }
        queue.push_back(call);
        Ok(())
    }

    /// Returns the error text for a call that was not added.
    pub(crate) fn limit_message(&self, allocation: Option<AllocationId>) -> String {
        let limit = format!("{WAITING_MAX} calls or {} MiB", WAITING_BYTES_MAX >> 20);
        if allocation.is_none() {
            return format!("the limit of {limit} of waiting calls is reached; try again later");
        }
        let (calls, bytes) = (self.calls.held(allocation), self.bytes.held(allocation) >> 10);
        format!(
            "{calls} calls of this lease with {bytes} KiB are waiting, and the limit for all leases is {limit}; \
            wait for some responses, then try again"
        )
    }

    /// Removes the next call of an allocation that may send one.
    pub(crate) fn next(&mut self, may_send: impl Fn(Option<AllocationId>) -> bool) -> Option<Box<Call>> {
        let position = self.turns.iter().position(|allocation| may_send(*allocation))?;
        let allocation = self.turns.remove(position)?;
        let queue = self.queues.get_mut(&allocation)?;
        let call = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&allocation);
        } else {
            self.turns.push_back(allocation);
        }
        self.release_shares(&call);
        Some(call)
    }

    /// Removes the calls that match.
    pub(crate) fn take(&mut self, matches: impl Fn(&Call) -> bool) -> Vec<Call> {
        let mut taken = Vec::new();
        for queue in self.queues.values_mut() {
            for call in std::mem::take(queue) {
                if matches(&call) {
                    taken.push(*call);
                } else {
                    queue.push_back(call);
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        self.turns.retain(|allocation| self.queues.contains_key(allocation));
        for call in &taken {
            self.release_shares(call);
        }
        taken
    }

    fn release_shares(&mut self, call: &Call) {
        self.calls.release(call.allocation, 1);
        self.bytes.release(call.allocation, call.text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(waiting: &mut WaitQueue, allocation: u64, number: u64, bytes: usize) -> bool {
        let mut call = Call::for_test(Some(AllocationId::from_bits(allocation)), number);
        call.text = vec![b' '; bytes];
        waiting.push(Box::new(call)).is_ok()
    }

    fn all(waiting: &mut WaitQueue, may_send: impl Fn(u64) -> bool) -> Vec<u64> {
        let may_send =
            |allocation| (1..=9).any(|draw| allocation == Some(AllocationId::from_bits(draw)) && may_send(draw));
        std::iter::from_fn(|| waiting.next(may_send)).map(|call| call.number).collect()
    }

    #[test]
    fn allocations_that_may_send_take_turns() {
        let mut waiting = WaitQueue::new();
        for (allocation, number) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
            assert!(push(&mut waiting, allocation, number, 1));
        }
        assert_eq!(all(&mut waiting, |draw| draw == 3), [30, 31]);
        assert_eq!(all(&mut waiting, |_| true), [10, 20, 11, 12]);
        assert!(waiting.turns.is_empty() && waiting.queues.is_empty());
        assert_eq!((waiting.calls.held(None), waiting.bytes.held(None)), (0, 0));
    }

    #[test]
    fn one_allocation_cannot_fill_the_queue_and_removed_calls_free_it() {
        let mut waiting = WaitQueue::new();
        let many = (0..2_000).filter(|number| push(&mut waiting, 1, *number, 1)).count();
        assert_eq!(many, 819);
        assert!(push(&mut waiting, 2, 5_000, 1));
        assert!(
            waiting
                .limit_message(Some(AllocationId::from_bits(1)))
                .starts_with("819 calls of this lease with 0 KiB are waiting")
        );
        assert_eq!(waiting.take(|call| call.number < 5_000).len(), 819);
        assert!((0..3).all(|number| push(&mut waiting, 1, number, 16 << 20)));
        assert!(!push(&mut waiting, 1, 3, 16 << 20), "bytes");
        assert_eq!(all(&mut waiting, |_| true), [5_000, 0, 1, 2]);
    }
}
