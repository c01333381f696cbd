//! What the messages take that an endpoint holds for clients: one account for all of them.
//!
//! Invariant: whatever counts is given back when what it stands for is dropped, since only its [`Charge`] can count it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::body::Bytes;

use super::share::Shares;
use cortex_core::ids::AllocationId;

/// The most bytes of messages of one endpoint: requests while they are read, notices that wait, and answers until they are
/// written. It is four of the longest answers: one lease may hold three of them, and leaves the next more than most answers
/// ever have. It is little beside what a machine has that runs servers, also if there are several of them.
pub(crate) const BYTES_MAX: usize = 64 << 20;

/// What a message takes beside its text, in bytes, at most: what is written around it.
const FRAME_BYTES: usize = 64;

/// The bytes of all allocations.
pub(crate) struct Account(Mutex<Shares<AllocationId>>);

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shares().fmt(formatter)
    }
}

impl Account {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shares::new(BYTES_MAX))))
    }

    /// Nothing else is locked by whoever holds this.
    fn shares(&self) -> MutexGuard<'_, Shares<AllocationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holder(self: &Arc<Self>, allocation: Option<AllocationId>) -> Holder {
        Holder { account: Arc::clone(self), allocation }
    }
}

/// One allocation, as the account knows it.
#[derive(Clone)]
pub(crate) struct Holder {
    account: Arc<Account>,
    pub(crate) allocation: Option<AllocationId>,
}

impl fmt::Debug for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.allocation.fmt(formatter)
    }
}

impl Holder {
    /// Counts a message of so many bytes. None if there is no room for it.
    pub(crate) fn message(&self, bytes: usize) -> Option<Charge> {
        self.bytes(bytes + FRAME_BYTES)
    }

    /// Counts so many bytes. None if there is no room for them.
    pub(crate) fn bytes(&self, bytes: usize) -> Option<Charge> {
        let taken = self.account.shares().take(self.allocation, bytes);
        taken.then(|| Charge { holder: self.clone(), bytes })
    }

    /// Why there was no room.
    pub(crate) fn crowded(&self) -> String {
        let held = self.account.shares().held(self.allocation) >> 10;
        let whose = if self.allocation.is_some() { "of this lease" } else { "of all clients" };
        format!(
            "{held} KiB of answers that were not read yet, notices and requests {whose} are held, and there are {} MiB for \
             those of all leases: read what was answered, have less under way, and try again",
            BYTES_MAX >> 20
        )
    }
}

/// Bytes that count until this is dropped.
pub(crate) struct Charge {
    holder: Holder,
    bytes: usize,
}

impl fmt::Debug for Charge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.fmt(formatter)
    }
}

impl Charge {
    /// Counts so many bytes in all from now on, if there is room for what is new.
    pub(crate) fn reach(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.holder.account.shares().take(self.holder.allocation, more);
        if fits {
            self.bytes += more;
        }
        fits
    }

    /// Counts from now on what another did, which is of the same allocation.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.holder.account.shares().give(self.holder.allocation, self.bytes);
    }
}

/// A text that counts for as long as anybody has it.
struct Charged<T> {
    text: T,
    _charge: Charge,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Charged<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

/// Has a text count until all of it was dropped, if it is one that counts.
pub(crate) fn charged<T: AsRef<[u8]> + Into<Bytes> + Send + 'static>(text: T, charge: Option<Charge>) -> Bytes {
    match charge {
        Some(charge) => Bytes::from_owner(Charged { text, _charge: charge }),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counted_is_given_back_with_the_last_who_has_it() {
        let account = Account::new();
        let holder = account.holder(Some(AllocationId::from_draw(1)));
        let held = || account.shares().held(None);
        let mut charge = holder.message(6).expect("room");
        charge.join(holder.bytes(30).expect("room"));
        assert!(charge.reach(200) && charge.reach(100));
        assert!(!charge.reach(BYTES_MAX + 1), "more than there is");
        assert_eq!(held(), 200);
        let text = charged(b"answer".to_vec(), Some(charge));
        let part = text.slice(2..4);
        drop(text);
        assert_eq!((held(), part.as_ref()), (200, &b"sw"[..]));
        drop(part);
        assert_eq!(held(), 0);
        assert!(holder.bytes(BYTES_MAX + 1).is_none());
        assert_eq!(held(), 0);
    }
}
