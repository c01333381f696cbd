//! Leases at the endpoints: which lease may use which server instance, checked for each request.
//!
//! A lease is admitted from before its grant is answered until it is released, reclaimed or expired.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::bridge::{AuthError, Authenticator};
use cortex_core::ids::{AllocationId, FencingToken, ServerName};
use cortex_core::provisioning::Sharing;
use cortex_core::view::AllocationView;
use cortex_engine::EngineHandle;
use cortex_managed::{AccessKey, allocation_of};

/// The most ended leases that are remembered, so that their tokens get a precise error.
const ENDED_MAX: usize = 1_000;

/// Identifies an instance of a server: the shared one, or the one that an allocation owns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InstanceKey {
    pub(super) name: ServerName,
    pub(super) owner: Option<AllocationId>,
}

impl InstanceKey {
    pub(super) const fn sharing(&self) -> Sharing {
        match self.owner {
            None => Sharing::Shared,
            Some(_) => Sharing::PerAllocation,
        }
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            None => write!(f, "{}", self.name),
            Some(owner) => write!(f, "{} of {owner}", self.name),
        }
    }
}

/// The leases that are admitted at the endpoints.
pub(super) struct Leases {
    /// Dropped by [`Self::close`], so that the engine can end.
    engine: Mutex<Option<EngineHandle>>,
    /// Absent where endpoints require no token.
    key: Option<AccessKey>,
    table: Mutex<LeaseTable>,
}

#[derive(Default)]
struct LeaseTable {
    live: BTreeMap<AllocationId, Lease>,
    ended: VecDeque<(AllocationId, FencingToken)>,
}

struct Lease {
    fencing_token: FencingToken,
    instances: BTreeSet<InstanceKey>,
    /// When it expires; absent while that is not known.
    expires_at: Option<Instant>,
}

impl Leases {
    pub(super) fn new(engine: EngineHandle, key: Option<AccessKey>) -> Arc<Self> {
        Arc::new(Self { engine: Mutex::new(Some(engine)), key, table: Mutex::default() })
    }

    /// Drops the engine. From now on only the known expiry of a lease counts.
    pub(super) fn close(&self) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the access token of a lease; none where endpoints require none.
    pub(super) fn token(&self, allocation: AllocationId, fencing_token: FencingToken) -> Option<String> {
        self.key.as_ref().map(|key| key.token(allocation, fencing_token))
    }

    /// Admits a lease to these instances.
    pub(super) fn admit(&self, view: &AllocationView, instances: BTreeSet<InstanceKey>) {
        let reservation = &view.allocation.reservation;
        let lease = Lease { fencing_token: reservation.fencing_token, instances, expires_at: expires_at(view) };
        self.lock().live.insert(reservation.allocation, lease);
    }

    /// Updates the expiry of a lease, if it is admitted.
    pub(super) fn update(&self, view: &AllocationView) {
        if let Some(lease) = self.lock().live.get_mut(&view.allocation.reservation.allocation) {
            lease.expires_at = expires_at(view);
        }
    }

    /// Ends the admission of a lease.
    pub(super) fn end(&self, allocation: AllocationId) {
        let mut table = self.lock();
        if let Some(lease) = table.live.remove(&allocation) {
            if table.ended.len() == ENDED_MAX {
                table.ended.pop_front();
            }
            table.ended.push_back((allocation, lease.fencing_token));
        }
    }

    /// Returns the leases that have expired but were not reclaimed yet, with the instances that they may no longer use.
    pub(super) fn expired(&self) -> Vec<(AllocationId, BTreeSet<InstanceKey>)> {
        let now = Instant::now();
        let table = self.lock();
        let is_expired = |lease: &&Lease| lease.expires_at.is_some_and(|at| at <= now);
        let expired = table.live.iter().filter(|(_, lease)| is_expired(lease));
        expired.map(|(allocation, lease)| (*allocation, lease.instances.clone())).collect()
    }

    /// Returns the check of an instance's endpoint.
    pub(super) fn gate(self: &Arc<Self>, instance: InstanceKey) -> Arc<dyn Authenticator> {
        Arc::new(InstanceGate { leases: Arc::clone(self), instance })
    }

    /// Returns the allocation of a bearer token, or why the token is refused.
    async fn check(&self, bearer: Option<&str>, instance: &InstanceKey) -> Result<Option<AllocationId>, AuthError> {
        let Some(key) = &self.key else { return Ok(None) };
        let refused = |why: String| Err(AuthError(why));
        let Some(bearer) = bearer else {
            return refused(
                "an access token is needed: send the access_token of your allocation as a bearer token".into(),
            );
        };
        let unknown = || refused("the bearer token is not the access_token of a live allocation".into());
        let Some(allocation) = allocation_of(bearer) else { return unknown() };
        let (expires_at, is_held) = {
            let table = self.lock();
            let ended = || table.ended.iter().rev().find(|(id, _)| *id == allocation);
            let lease = table.live.get(&allocation);
            let Some(fencing_token) = lease.map(|lease| lease.fencing_token).or_else(|| ended().map(|ended| ended.1))
            else {
                return unknown();
            };
            if !key.is_token_of(bearer, allocation, fencing_token) {
                return unknown();
            }
            let Some(lease) = lease else {
                return refused(format!("the lease of {allocation} has ended: call request_resources again"));
            };
            (lease.expires_at, lease.instances.contains(instance))
        };
        if !is_held {
            return refused(format!("{allocation} does not hold this MCP server: request it with request_resources"));
        }
        // It may have been renewed just now, or its deadline extended after an outage: only the engine knows.
        if expires_at.is_some_and(|at| at <= Instant::now()) && self.has_expired(allocation).await {
            return refused(format!(
                "the lease of {allocation} has expired: call request_resources again, and renew_allocation in time"
            ));
        }
        Ok(Some(allocation))
    }

    /// Returns whether a lease has expired according to the engine, and updates its expiry.
    async fn has_expired(&self, allocation: AllocationId) -> bool {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(engine) = engine else { return true };
        let read = engine.read(move |state, now| state.cluster.allocation(now, allocation));
        let Ok(Some(view)) = read.await else { return true };
        self.update(&view);
        expires_at(&view).is_none_or(|at| at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, LeaseTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when a lease expires, on the monotonic clock, which the engine's time follows as well.
fn expires_at(view: &AllocationView) -> Option<Instant> {
    let left = Duration::from_millis(view.expires_at?.since(view.at).0);
    Instant::now().checked_add(left)
}

struct InstanceGate {
    leases: Arc<Leases>,
    instance: InstanceKey,
}

impl Authenticator for InstanceGate {
    fn authenticate<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, AuthError>> {
        self.leases.check(bearer, &self.instance).boxed()
    }
}
