//! The calls of one child.
//!
//! Invariants: each has a number of its own, by which the child knows it; at most so many as the server takes are at the
//! child, and of one allocation no more than its share of them; and each leaves the table once.

use std::collections::{BTreeMap, VecDeque};

use super::{call::Call, wait_queue::WaitQueue};
use crate::bridge::limits::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most numbers that are remembered because an answer to them is nothing to wonder at.
const ABANDONED_MAX: usize = 1_024;

/// The calls of one child.
#[derive(Debug)]
pub(crate) struct Calls {
    next_number: u64,
    in_flight: BTreeMap<u64, Box<Call>>,
    in_flight_shares: FairShares<AllocationId>,
    pub(crate) wait_queue: WaitQueue,
    abandoned: VecDeque<u64>,
}

impl Calls {
    pub(crate) fn new(in_flight_max: usize) -> Self {
        Self {
            next_number: 1,
            in_flight: BTreeMap::new(),
            in_flight_shares: FairShares::new(in_flight_max.max(1)),
            wait_queue: WaitQueue::new(),
            abandoned: VecDeque::new(),
        }
    }

    /// A number that was never given before.
    pub(crate) fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Whether the child may be given one more of an allocation.
    pub(crate) fn may_send(&self, allocation: Option<AllocationId>) -> bool {
        self.in_flight_shares.may_take(allocation, 1)
    }

    /// The next that waits and may be sent leaves to be sent.
    pub(crate) fn next(&mut self) -> Option<Box<Call>> {
        self.wait_queue.next(|allocation| self.in_flight_shares.may_take(allocation, 1))
    }

    /// Notes that the child was given one that might be sent.
    pub(crate) fn sent(&mut self, call: Box<Call>) {
        self.in_flight_shares.add(call.allocation, 1);
        self.in_flight.insert(call.number, call);
    }

    /// What is at the child, in the order in which it was taken in.
    pub(crate) fn in_flight(&self) -> impl DoubleEndedIterator<Item = &Call> {
        self.in_flight.values().map(|call| &**call)
    }

    /// What is at the child under this number.
    pub(crate) fn get(&self, number: u64) -> Option<&Call> {
        self.in_flight.get(&number).map(|call| &**call)
    }

    /// Takes out what is at the child under this number.
    pub(crate) fn take(&mut self, number: u64) -> Option<Call> {
        let call = self.in_flight.remove(&number)?;
        self.in_flight_shares.release(call.allocation, 1);
        Some(*call)
    }

    /// Takes out what is at the child and is chosen.
    pub(crate) fn take_in_flight(&mut self, chosen: impl Fn(&Call) -> bool) -> Vec<Call> {
        let taken: Vec<_> = self.in_flight.extract_if(.., |_, call| chosen(call)).map(|(_, call)| *call).collect();
        for call in &taken {
            self.in_flight_shares.release(call.allocation, 1);
        }
        taken
    }

    /// Remembers that nobody waits any longer for the answer to this number.
    pub(crate) fn abandon(&mut self, number: u64) {
        if self.abandoned.len() >= ABANDONED_MAX {
            self.abandoned.pop_front();
        }
        self.abandoned.push_back(number);
    }

    /// Whether the number was forgotten: true once.
    pub(crate) fn take_abandoned(&mut self, number: u64) -> bool {
        let position = self.abandoned.iter().position(|abandoned| *abandoned == number);
        position.is_some_and(|position| self.abandoned.remove(position).is_some())
    }
}
