//! The calls that wait for their turn.
//!
//! Invariants: those of one allocation leave in the order in which they came; allocations whose calls may be sent take
//! turns, one call each; and none has more than its share of the room.

use std::collections::{BTreeMap, VecDeque};

use super::call::Call;
use crate::bridge::limits::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most calls that wait for their turn.
pub(crate) const WAITING_MAX: usize = 1_024;

/// The most bytes of calls that wait.
const WAITING_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// Those of each allocation that has any.
    queues: BTreeMap<Option<AllocationId>, VecDeque<Box<Call>>>,
    /// The allocations that have any, the one whose turn is next first.
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

    /// Takes a call in.
    ///
    /// # Errors
    /// There is no room for it.
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

    /// Why there was no room.
    pub(crate) fn limit_message(&self, allocation: Option<AllocationId>) -> String {
        let most = format!("{WAITING_MAX} calls, or {} MiB of them", WAITING_BYTES_MAX >> 20);
        if allocation.is_none() {
            return format!("{most}, wait already; try again later");
        }
        let (calls, bytes) = (self.calls.held(allocation), self.bytes.held(allocation) >> 10);
        format!(
            "{calls} calls of this lease with {bytes} KiB wait already, and all leases together may have {most}; \
            wait for some of their answers, then try again"
        )
    }

    /// The next leaves whose allocation may send one.
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

    /// Takes out those that are chosen.
    pub(crate) fn take(&mut self, chosen: impl Fn(&Call) -> bool) -> Vec<Call> {
        let mut taken = Vec::new();
        for queue in self.queues.values_mut() {
            for call in std::mem::take(queue) {
                if chosen(&call) {
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
        let mut call = Call::of(Some(AllocationId::from_draw(allocation)), number);
        call.text = vec![b' '; bytes];
        waiting.push(Box::new(call)).is_ok()
    }

    fn all(waiting: &mut WaitQueue, may_send: impl Fn(u64) -> bool) -> Vec<u64> {
        let may_send =
            |allocation| (1..=9).any(|draw| allocation == Some(AllocationId::from_draw(draw)) && may_send(draw));
        std::iter::from_fn(|| waiting.next(may_send)).map(|call| call.number).collect()
    }

    #[test]
    fn those_who_may_send_take_turns() {
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
    fn one_does_not_take_all_the_room_and_those_taken_out_leave_it() {
        let mut waiting = WaitQueue::new();
        let many = (0..2_000).filter(|number| push(&mut waiting, 1, *number, 1)).count();
        assert_eq!(many, 819);
        assert!(push(&mut waiting, 2, 5_000, 1));
        assert!(
            waiting
                .limit_message(Some(AllocationId::from_draw(1)))
                .starts_with("819 calls of this lease with 0 KiB wait")
        );
        assert_eq!(waiting.take(|call| call.number < 5_000).len(), 819);
        assert!((0..3).all(|number| push(&mut waiting, 1, number, 16 << 20)));
        assert!(!push(&mut waiting, 1, 3, 16 << 20), "bytes");
        assert_eq!(all(&mut waiting, |_| true), [5_000, 0, 1, 2]);
    }
}
