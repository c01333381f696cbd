//! One request of a client on its way to the child, and the table of all of them.
//!
//! Invariants: each has a number of its own, by which the child knows it; at most so many as the server takes are at the
//! child, at most [`WAITING_MAX`] wait, in their order; and each leaves the table once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{level::Level, mailbox::Mailbox, session::SessionId, version::Era};
use crate::core::AllocationId;

/// The most calls that wait for their turn.
pub(super) const WAITING_MAX: usize = 1_024;

/// The most bytes of calls that wait; a single longer one is let in where nothing else waits.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// The most numbers that are remembered because an answer to them is nothing to wonder at.
const FORGOTTEN_MAX: usize = 1_024;

/// Whether clients of 2026-07-28 may keep the result, so that it must say for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Not,
    WithHints,
}

/// A request of a client.
#[derive(Debug)]
pub(super) struct Call {
    /// Its id at the child, and its progress token there.
    pub(super) number: u64,
    /// What the child is given.
    pub(super) text: Vec<u8>,
    /// The id that the client gave, as JSON.
    pub(super) client_id: Box<str>,
    /// The progress token that the client gave, as JSON.
    pub(super) progress_token: Option<Box<str>>,
    pub(super) session: Option<SessionId>,
    pub(super) allocation: Option<AllocationId>,
    /// How the client speaks.
    pub(super) era: Era,
    pub(super) kept: Kept,
    /// The resource that its session hears of if this succeeds.
    pub(super) subscribes: Option<Arc<str>>,
    /// The least grave messages that a client without a session wants while this runs.
    pub(super) level: Option<Level>,
    /// Where the answer goes. None while nobody may answer it.
    pub(super) mailbox: Option<Arc<Mailbox>>,
    /// When the child was given it.
    pub(super) sent_at: Option<Instant>,
}

/// The calls of one child.
#[derive(Debug)]
pub(super) struct Calls {
    next_number: u64,
    in_flight_max: usize,
    pub(super) in_flight: BTreeMap<u64, Box<Call>>,
    waiting: VecDeque<Box<Call>>,
    waiting_bytes: usize,
    forgotten: VecDeque<u64>,
}

impl Calls {
    pub(super) fn new(in_flight_max: usize) -> Self {
        Self {
            next_number: 1,
            in_flight_max: in_flight_max.max(1),
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            forgotten: VecDeque::new(),
        }
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    pub(super) fn may_send(&self) -> bool {
        self.in_flight.len() < self.in_flight_max
    }

    pub(super) fn nobody_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a call in to wait.
    ///
    /// # Errors
    /// Too much waits already.
    pub(super) fn wait(&mut self, call: Box<Call>) -> Result<(), Box<Call>> {
        let bytes = self.waiting_bytes + call.text.len();
        if self.waiting.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX && !self.waiting.is_empty() {
            return Err(call);
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back(call);
        Ok(())
    }

    /// The first that waits leaves to be sent.
    pub(super) fn next(&mut self) -> Option<Box<Call>> {
        let call = self.waiting.pop_front()?;
        self.waiting_bytes -= call.text.len();
        Some(call)
    }

    /// Takes out what waits and is chosen.
    pub(super) fn take_waiting(&mut self, chosen: impl Fn(&Call) -> bool) -> Vec<Call> {
        let mut taken = Vec::new();
        for call in std::mem::take(&mut self.waiting) {
            if chosen(&call) {
                self.waiting_bytes -= call.text.len();
                taken.push(*call);
            } else {
                self.waiting.push_back(call);
            }
        }
        taken
    }

    /// Takes out what is at the child and is chosen.
    pub(super) fn take_in_flight(&mut self, chosen: impl Fn(&Call) -> bool) -> Vec<Call> {
        self.in_flight.extract_if(.., |_, call| chosen(call)).map(|(_, call)| *call).collect()
    }

    /// Remembers that nobody waits any longer for the answer to this number.
    pub(super) fn forget(&mut self, number: u64) {
        if self.forgotten.len() >= FORGOTTEN_MAX {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(number);
    }

    /// Whether the number was forgotten: true once.
    pub(super) fn was_forgotten(&mut self, number: u64) -> bool {
        let place = self.forgotten.iter().position(|forgotten| *forgotten == number);
        place.is_some_and(|place| self.forgotten.remove(place).is_some())
    }
}
