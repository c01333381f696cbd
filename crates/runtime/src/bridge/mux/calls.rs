//! The table of all calls of one endpoint.
//!
//! Invariants: each call has a unique number, which is its id at the child; the calls in flight do not exceed the
//! server's limit, nor those of one allocation its fair share; and each call leaves the table exactly once.

use std::collections::{BTreeMap, VecDeque};

use super::{call::Call, wait_queue::WaitQueue};
use crate::bridge::limits::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most numbers that are kept in order to drop late responses without a report.
const ABANDONED_MAX: usize = 1_024;

/// The calls that wait or are in flight.
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

    /// Returns a number that was not used before.
    pub(crate) fn next_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Returns whether the allocation may have one more call in flight.
    pub(crate) fn may_send(&self, allocation: Option<AllocationId>) -> bool {
        self.in_flight_shares.may_take(allocation, 1)
    }

    /// Removes the next waiting call that may be sent.
    pub(crate) fn next(&mut self) -> Option<Box<Call>> {
        self.wait_queue.next(|allocation| self.in_flight_shares.may_take(allocation, 1))
    }

    /// Adds a call that was sent. The caller has checked that it may be.
    pub(crate) fn insert_in_flight(&mut self, call: Box<Call>) {
        self.in_flight_shares.add(call.allocation, 1);
        self.in_flight.insert(call.number, call);
    }

    /// Returns the calls in flight, ordered by number.
    pub(crate) fn in_flight(&self) -> impl DoubleEndedIterator<Item = &Call> {
        self.in_flight.values().map(|call| &**call)
    }

    /// Returns the call in flight with this number.
    pub(crate) fn get(&self, number: u64) -> Option<&Call> {
        self.in_flight.get(&number).map(|call| &**call)
    }

    /// Removes the call in flight with this number.
    pub(crate) fn take(&mut self, number: u64) -> Option<Call> {
        let call = self.in_flight.remove(&number)?;
        self.in_flight_shares.release(call.allocation, 1);
        Some(*call)
    }

    /// Removes the calls in flight that match.
    pub(crate) fn take_in_flight(&mut self, matches: impl Fn(&Call) -> bool) -> Vec<Call> {
        let taken: Vec<_> = self.in_flight.extract_if(.., |_, call| matches(call)).map(|(_, call)| *call).collect();
        for call in &taken {
            self.in_flight_shares.release(call.allocation, 1);
        }
        taken
    }

    /// Records that the response to this number is not awaited any more.
    pub(crate) fn abandon(&mut self, number: u64) {
        if self.abandoned.len() >= ABANDONED_MAX {
            self.abandoned.pop_front();
        }
        self.abandoned.push_back(number);
    }

    /// Returns whether the number was abandoned, and removes it.
    pub(crate) fn take_abandoned(&mut self, number: u64) -> bool {
        let position = self.abandoned.iter().position(|abandoned| *abandoned == number);
        position.is_some_and(|position| self.abandoned.remove(position).is_some())
    }
}
