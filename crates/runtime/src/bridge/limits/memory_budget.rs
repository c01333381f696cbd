//! What the messages take that an endpoint holds for clients: one account for all of them.
//!
//! Invariant: whatever counts is given back when what it stands for is dropped, since only its [`MemoryReservation`] can count it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::body::Bytes;

use super::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most bytes of messages of one endpoint: requests while they are read, notices that wait, and answers until they are
/// written. It is four of the longest answers: one lease may hold three of them, and leaves the next more than most answers
/// ever have. It is little beside what a machine has that runs servers, also if there are several of them.
pub(crate) const BYTES_MAX: usize = 64 << 20;

/// What a message takes beside its text, in bytes, at most: what is written around it.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// The bytes of all allocations.
pub(crate) struct MemoryBudget(Mutex<FairShares<AllocationId>>);

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(formatter)
    }
}

impl MemoryBudget {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(FairShares::new(BYTES_MAX))))
    }

    /// Nothing else is locked by whoever holds this.
    fn lock(&self) -> MutexGuard<'_, FairShares<AllocationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn for_lease(self: &Arc<Self>, allocation: Option<AllocationId>) -> LeaseMemory {
        LeaseMemory { budget: Arc::clone(self), allocation }
    }
}

/// One allocation, as the account knows it.
#[derive(Clone)]
pub(crate) struct LeaseMemory {
    budget: Arc<MemoryBudget>,
    pub(crate) allocation: Option<AllocationId>,
}

impl fmt::Debug for LeaseMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.allocation.fmt(formatter)
    }
}

impl LeaseMemory {
    /// Counts a message of so many bytes. None if there is no room for it.
    pub(crate) fn reserve_message(&self, bytes: usize) -> Option<MemoryReservation> {
        self.reserve(bytes + MESSAGE_OVERHEAD_BYTES)
    }

    /// Counts so many bytes. None if there is no room for them.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<MemoryReservation> {
        let taken = self.budget.lock().take(self.allocation, bytes);
        taken.then(|| MemoryReservation { memory: self.clone(), bytes })
    }

    /// Why there was no room.
    pub(crate) fn exhausted_message(&self) -> String {
        let held = self.budget.lock().held(self.allocation) >> 10;
        let whose = if self.allocation.is_some() { "of this lease" } else { "of all clients" };
        format!(
            "{held} KiB of answers that were not read yet, notices and requests {whose} are held, and there are {} MiB for \
             those of all leases: read what was answered, have less under way, and try again",
            BYTES_MAX >> 20
        )
    }
}

/// Bytes that count until this is dropped.
pub(crate) struct MemoryReservation {
    memory: LeaseMemory,
    bytes: usize,
}

impl fmt::Debug for MemoryReservation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.fmt(formatter)
    }
}

impl MemoryReservation {
    /// Counts so many bytes in all from now on, if there is room for what is new.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.memory.budget.lock().take(self.memory.allocation, more);
        if fits {
            self.bytes += more;
        }
        fits
    }

    /// Counts from now on what another did, which is of the same allocation.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.memory.budget.lock().release(self.memory.allocation, self.bytes);
    }
}

/// A text that counts for as long as anybody has it.
struct Reserved<T> {
    text: T,
    _reservation: MemoryReservation,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Reserved<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

/// Has a text count until all of it was dropped, if it is one that counts.
pub(crate) fn with_reservation<T: AsRef<[u8]> + Into<Bytes> + Send + 'static>(
    text: T,
    reservation: Option<MemoryReservation>,
) -> Bytes {
    match reservation {
        Some(reservation) => Bytes::from_owner(Reserved { text, _reservation: reservation }),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counted_is_given_back_with_the_last_who_has_it() {
        let budget = MemoryBudget::new();
        let memory = budget.for_lease(Some(AllocationId::from_draw(1)));
        let held = || budget.lock().held(None);
        let mut reservation = memory.reserve_message(6).expect("room");
        reservation.merge(memory.reserve(30).expect("room"));
        assert!(reservation.grow_to(200) && reservation.grow_to(100));
        assert!(!reservation.grow_to(BYTES_MAX + 1), "more than there is");
        assert_eq!(held(), 200);
        let text = with_reservation(b"answer".to_vec(), Some(reservation));
        let part = text.slice(2..4);
        drop(text);
        assert_eq!((held(), part.as_ref()), (200, &b"sw"[..]));
        drop(part);
        assert_eq!(held(), 0);
        assert!(memory.reserve(BYTES_MAX + 1).is_none());
        assert_eq!(held(), 0);
    }
}
