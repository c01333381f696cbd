//! Whose the connections of an endpoint are.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] have a place, and of one lease no more than its share of them. A connection is
//! of the lease whose token it showed last. Those that showed none yet have a share together; when that is used up the
//! oldest of them gives way, so that nobody is kept out by those who show none.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::fair_share::FairShares;
use cortex_core::ids::AllocationId;

/// The most connections of one endpoint.
pub(crate) const CONNECTIONS_MAX: usize = 256;

/// How long one that has shown no token may keep a place that another needs. Those who have one show it at once.
const AUTHENTICATION_WAIT: Duration = Duration::from_millis(250);

/// How many of them may keep one for that long, so that opening ever more of them does not help.
const UNAUTHENTICATED_KEPT_MAX: usize = 16;

/// Who shares the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PermitHolder {
    /// All who showed no token yet.
    Unauthenticated,
    Lease(AllocationId),
}

pub(crate) struct ConnectionPermits(Mutex<PermitTable>);

#[derive(Debug)]
struct PermitTable {
    shares: FairShares<PermitHolder>,
    /// The oldest first.
    by_number: BTreeMap<u64, PermitEntry>,
    next_number: u64,
}

#[derive(Debug)]
struct PermitEntry {
    /// None where no token is asked for.
    holder: Option<PermitHolder>,
    since: Instant,
    end: Arc<Notify>,
}

/// What a connection is asked to do that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseMode {
    /// Its lease has ended: what is answered already may be sent.
    Graceful,
    /// Its place is another's by now.
    Immediate,
}

/// One connection's place, left when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    number: u64,
    end: Arc<Notify>,
}

impl fmt::Debug for ConnectionPermits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table().shares.fmt(formatter)
    }
}

impl ConnectionPermits {
    pub(crate) fn new() -> Arc<Self> {
        let table =
            PermitTable { shares: FairShares::new(CONNECTIONS_MAX), by_number: BTreeMap::new(), next_number: 0 };
        Arc::new(Self(Mutex::new(table)))
    }

    fn table(&self) -> MutexGuard<'_, PermitTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection. None if there is none.
    pub(crate) fn acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut table = self.table();
        let holder = Some(PermitHolder::Unauthenticated);
        if !table.shares.may_take(holder, 1) {
            let over_kept_limit = table.shares.held(holder) > UNAUTHENTICATED_KEPT_MAX;
            let (oldest, entry) = table.by_number.iter().find(|(_, entry)| entry.holder == holder)?;
            let may_evict = over_kept_limit || entry.since.elapsed() > AUTHENTICATION_WAIT;
            let oldest = may_evict.then_some(*oldest)?;
            table.remove(oldest);
        }
        let (number, end) = (table.next_number, Arc::new(Notify::new()));
        table.next_number += 1;
        table.shares.add(holder, 1);
        table.by_number.insert(number, PermitEntry { holder, since: Instant::now(), end: Arc::clone(&end) });
        Some(ConnectionPermit { permits: Arc::clone(self), number, end })
    }

    /// Ends the connections of a lease.
    pub(crate) fn end(&self, allocation: AllocationId) {
        for entry in
            self.table().by_number.values().filter(|entry| entry.holder == Some(PermitHolder::Lease(allocation)))
        {
            entry.end.notify_one();
        }
    }
}

impl PermitTable {
    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.by_number.remove(&number) {
            self.shares.release(entry.holder, 1);
            entry.end.notify_one();
        }
    }
}

impl ConnectionPermit {
    /// A request was let in as one of this allocation.
    ///
    /// # Errors
    /// The allocation has as many connections as its share is, which is how many.
    pub(crate) fn assign(&self, allocation: Option<AllocationId>) -> Result<(), usize> {
        let mut table = self.permits.table();
        let PermitTable { shares, by_number, .. } = &mut *table;
        let holder = allocation.map(PermitHolder::Lease);
        // One that has lost its place is about to end.
        let Some(entry) = by_number.get_mut(&self.number).filter(|entry| entry.holder != holder) else {
            return Ok(());
        };
        shares.release(entry.holder, 1);
        if !shares.may_take(holder, 1) {
            shares.add(entry.holder, 1);
            return Err(shares.held(holder));
        }
        shares.add(holder, 1);
        entry.holder = holder;
        Ok(())
    }

    /// Waits until the connection is to end.
    pub(crate) async fn close_requested(&self) -> CloseMode {
        self.end.notified().await;
        if self.permits.table().by_number.contains_key(&self.number) {
            CloseMode::Graceful
        } else {
            CloseMode::Immediate
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.permits.table().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_leaves_room_and_strangers_give_way() {
        let permits = ConnectionPermits::new();
        let lease = |draw| Some(AllocationId::from_draw(draw));
        let acquire = || permits.acquire().expect("a place");
        let mut held = Vec::new();
        let refused = loop {
            let permit = acquire();
            match permit.assign(lease(1)) {
                Ok(()) => held.push(permit),
                Err(held) => break held,
            }
        };
        assert_eq!((refused, held.len()), (204, 204));
        let unauthenticated: Vec<_> = (0..60).map(|_| acquire()).collect();
        assert_eq!(unauthenticated[0].close_requested().await, CloseMode::Immediate);
        let newcomer = acquire();
        newcomer.assign(lease(2)).expect("a place for the next lease");
        newcomer.assign(None).expect("no token is asked for any more");
        permits.end(AllocationId::from_draw(1));
        assert_eq!(held[7].close_requested().await, CloseMode::Graceful);
        drop((held, unauthenticated, newcomer));
        assert_eq!(permits.table().shares.held(None), 0);
        // Where all are taken, one that has just come is given the time to show its token.
        let full: Vec<_> =
            (0..255).map(|_| acquire()).inspect(|permit| permit.assign(None).expect("a place")).collect();
        let newest = acquire();
        assert!(permits.acquire().is_none());
        tokio::time::advance(2 * AUTHENTICATION_WAIT).await;
        let next = acquire();
        assert_eq!(newest.close_requested().await, CloseMode::Immediate);
        drop((full, newest, next));
        assert!(permits.table().by_number.is_empty());
    }
}
