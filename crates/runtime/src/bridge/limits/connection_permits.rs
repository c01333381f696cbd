//! The permits for the connections of an endpoint, and the lease that each belongs to.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] connections have a permit, and each lease has at most its fair share of
//! them. A connection belongs to the lease whose token it sent last. The connections that have not sent a token yet
//! count as one holder. When that share is used up, the oldest of them loses its permit, so that they cannot keep other
//! clients out.

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

/// How long an unauthenticated connection keeps a permit that another one needs. A client that has a token sends it
/// with its first request.
const AUTHENTICATION_WAIT: Duration = Duration::from_millis(250);

/// How many unauthenticated connections may keep their permits for that long, so that a client gains nothing by opening
/// more of them.
const UNAUTHENTICATED_KEPT_MAX: usize = 16;

/// A holder of connection permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PermitHolder {
    /// All connections that have not sent a valid token yet.
    Unauthenticated,
    Lease(AllocationId),
}

pub(crate) struct ConnectionPermits(Mutex<PermitTable>);

#[derive(Debug)]
struct PermitTable {
    shares: FairShares<PermitHolder>,
    /// Ordered by age, the oldest first.
    by_number: BTreeMap<u64, PermitEntry>,
    next_number: u64,
}

#[derive(Debug)]
struct PermitEntry {
    /// `None` if the endpoint does not require a token.
    holder: Option<PermitHolder>,
    since: Instant,
    close: Arc<Notify>,
}

/// How a connection must close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseMode {
    /// Its lease has ended: responses that are ready may still be sent.
    Graceful,
    /// Its permit was given to another connection.
    Immediate,
}

/// The permit of one connection, released when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    number: u64,
    close: Arc<Notify>,
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

    /// Returns a permit for a new connection, or `None` if none is free. May take the permit of the oldest
    /// unauthenticated connection.
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
        let (number, close) = (table.next_number, Arc::new(Notify::new()));
        table.next_number += 1;
        table.shares.add(holder, 1);
        table.by_number.insert(number, PermitEntry { holder, since: Instant::now(), close: Arc::clone(&close) });
        Some(ConnectionPermit { permits: Arc::clone(self), number, close })
    }

    /// Requests a graceful close of all connections of a lease.
    pub(crate) fn close_lease(&self, allocation: AllocationId) {
        for entry in
            self.table().by_number.values().filter(|entry| entry.holder == Some(PermitHolder::Lease(allocation)))
        {
            entry.close.notify_one();
        }
    }
}

impl PermitTable {
    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.by_number.remove(&number) {
            self.shares.release(entry.holder, 1);
            entry.close.notify_one();
        }
    }
}

impl ConnectionPermit {
    /// Assigns the connection to the allocation of an authenticated request.
    ///
    /// # Errors
    /// Returns the number of connections that the allocation has, if its fair share is used up.
    pub(crate) fn assign(&self, allocation: Option<AllocationId>) -> Result<(), usize> {
        let mut table = self.permits.table();
        let PermitTable { shares, by_number, .. } = &mut *table;
        let holder = allocation.map(PermitHolder::Lease);
        // A connection that has lost its permit is about to close.
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

    /// Waits until the connection must close.
    pub(crate) async fn close_requested(&self) -> CloseMode {
        self.close.notified().await;
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
    async fn a_lease_leaves_permits_and_unauthenticated_connections_lose_theirs() {
        let permits = ConnectionPermits::new();
        let lease = |draw| Some(AllocationId::from_bits(draw));
        let acquire = || permits.acquire().expect("a permit");
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
        newcomer.assign(lease(2)).expect("a permit for the next lease");
        newcomer.assign(None).expect("no token is required");
        permits.close_lease(AllocationId::from_bits(1));
        assert_eq!(held[7].close_requested().await, CloseMode::Graceful);
        drop((held, unauthenticated, newcomer));
        assert_eq!(permits.table().shares.held(None), 0);
        // If all permits are taken, a new connection gets time to authenticate.
        let full: Vec<_> =
            (0..255).map(|_| acquire()).inspect(|permit| permit.assign(None).expect("a permit")).collect();
        let newest = acquire();
        assert!(permits.acquire().is_none());
        tokio::time::advance(2 * AUTHENTICATION_WAIT).await;
        let next = acquire();
        assert_eq!(newest.close_requested().await, CloseMode::Immediate);
        drop((full, newest, next));
        assert!(permits.table().by_number.is_empty());
    }
}
