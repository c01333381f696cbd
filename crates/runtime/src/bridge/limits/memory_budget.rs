//! The memory budget of an endpoint: one limit for the bytes of all messages that it holds for clients.
//!
//! Invariant: only a [`MemoryReservation`] counts bytes, and dropping it returns them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::body::Bytes;

use super::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most bytes of messages that one endpoint holds: requests while they are read, notifications that wait, and
/// responses until they are written. The limit is four times the longest response: one lease may hold three such
/// responses and still leaves enough for most responses of the next lease.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The most bytes that framing adds to the text of a message.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// The bytes held, with the share of each allocation.
pub(crate) struct MemoryBudget(Mutex<FairShares<AllocationId>>);

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(formatter)
    }
}

impl MemoryBudget {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(FairShares::new(MESSAGE_BYTES_MAX))))
    }

    /// Nothing else may be locked while this lock is held.
    fn lock(&self) -> MutexGuard<'_, FairShares<AllocationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn for_lease(self: &Arc<Self>, allocation: Option<AllocationId>) -> LeaseMemory {
        LeaseMemory { budget: Arc::clone(self), allocation }
    }
}

/// The part of the budget that one allocation may use. Without an allocation, only the total counts.
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
    /// Reserves the bytes of a message and its framing. Returns `None` if the budget does not allow them.
    pub(crate) fn reserve_message(&self, bytes: usize) -> Option<MemoryReservation> {
        self.reserve(bytes + MESSAGE_OVERHEAD_BYTES)
    }

    /// Reserves bytes. Returns `None` if the budget does not allow them.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<MemoryReservation> {
        let taken = self.budget.lock().take(self.allocation, bytes);
        taken.then(|| MemoryReservation { memory: self.clone(), bytes })
    }

    /// Returns the error text for a reservation that was not possible.
    pub(crate) fn exhausted_message(&self) -> String {
        let held = self.budget.lock().held(self.allocation) >> 10;
        let scope = if self.allocation.is_some() { "of this lease" } else { "of all clients" };
        format!(
            "{held} KiB of unread answers, notifications and requests {scope} are held, and the limit for all leases \
             is {} MiB: read the answers, keep fewer requests in flight, and try again",
            MESSAGE_BYTES_MAX >> 20
        )
    }
}

/// Bytes that count against the budget until this is dropped.
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
    /// Grows to `bytes` in total, if the budget allows the difference. Never shrinks. Returns whether the reservation
    /// is large enough.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.memory.budget.lock().take(self.memory.allocation, more);
        if fits {
            self.bytes += more;
        }
        fits
    }

    /// Takes over the bytes of another reservation of the same allocation.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.memory.budget.lock().release(self.memory.allocation, self.bytes);
    }
}

/// A text with the reservation that lasts as long as the text.
struct Reserved<T> {
    text: T,
    _reservation: MemoryReservation,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Reserved<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

/// Returns bytes that keep the reservation until all slices of them are dropped.
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
    fn a_reservation_is_released_with_the_last_slice() {
        let budget = MemoryBudget::new();
        let memory = budget.for_lease(Some(AllocationId::from_bits(1)));
        let held = || budget.lock().held(None);
        let mut reservation = memory.reserve_message(6).expect("capacity");
        reservation.merge(memory.reserve(30).expect("capacity"));
        assert!(reservation.grow_to(200) && reservation.grow_to(100));
        assert!(!reservation.grow_to(MESSAGE_BYTES_MAX + 1), "more than there is");
        assert_eq!(held(), 200);
        let text = with_reservation(b"answer".to_vec(), Some(reservation));
        let part = text.slice(2..4);
        drop(text);
        assert_eq!((held(), part.as_ref()), (200, &b"sw"[..]));
        drop(part);
        assert_eq!(held(), 0);
        assert!(memory.reserve(MESSAGE_BYTES_MAX + 1).is_none());
        assert_eq!(held(), 0);
    }
}
