//! The calls of one child.
//!
//! Invariants: each has a number of its own, by which the child knows it; at most so many as the server takes are at the
//! child, and of one allocation no more than its share of them; and each leaves the table once.

use std::collections::{BTreeMap, VecDeque};

use super::{call::Call, waiting::Waiting};
use crate::bridge::limits::share::Shares;
use cortex_core::ids::AllocationId;

/// The most numbers that are remembered because an answer to them is nothing to wonder at.
const FORGOTTEN_MAX: usize = 1_024;

/// The calls of one child.
#[derive(Debug)]
pub(crate) struct Calls {
    next_number: u64,
    in_flight: BTreeMap<u64, Box<Call>>,
    places: Shares<AllocationId>,
    pub(crate) waiting: Waiting,
    forgotten: VecDeque<u64>,
}

impl Calls {
    pub(crate) fn new(in_flight_max: usize) -> Self {
        Self {
            next_number: 1,
            in_flight: BTreeMap::new(),
            places: Shares::new(in_flight_max.max(1)),
            waiting: Waiting::new(),
            forgotten: VecDeque::new(),
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
        self.places.may_take(allocation, 1)
    }

    /// The next that waits and may be sent leaves to be sent.
    pub(crate) fn next(&mut self) -> Option<Box<Call>> {
        self.waiting.next(|allocation| self.places.may_take(allocation, 1))
    }

    /// Notes that the child was given one that might be sent.
    pub(crate) fn sent(&mut self, call: Box<Call>) {
        self.places.add(call.allocation, 1);
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
        self.places.give(call.allocation, 1);
        Some(*call)
    }

    /// Takes out what is at the child and is chosen.
    pub(crate) fn take_in_flight(&mut self, chosen: impl Fn(&Call) -> bool) -> Vec<Call> {
        let taken: Vec<_> = self.in_flight.extract_if(.., |_, call| chosen(call)).map(|(_, call)| *call).collect();
        for call in &taken {
            self.places.give(call.allocation, 1);
        }
        taken
    }

    /// Remembers that nobody waits any longer for the answer to this number.
    pub(crate) fn forget(&mut self, number: u64) {
        if self.forgotten.len() >= FORGOTTEN_MAX {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(number);
    }

    /// Whether the number was forgotten: true once.
    pub(crate) fn was_forgotten(&mut self, number: u64) -> bool {
        let place = self.forgotten.iter().position(|forgotten| *forgotten == number);
        place.is_some_and(|place| self.forgotten.remove(place).is_some())
    }
}
