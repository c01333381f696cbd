//! Who may use which server: the leases that live, and the gates in front of the servers.
//!
//! A lease is let in from before its grant is answered until it is taken back or runs out, whichever is first.

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
use cortex_engine::{EngineHandle, Record};
use cortex_managed::{AccessKey, allocation_of};

/// How many leases that ended are remembered, so that their holders hear that they did.
const ENDED_MAX: usize = 1_000;

/// A run of a server: one for all who hold the name, or the own one of an allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) name: ServerName,
    pub(super) owner: Option<AllocationId>,
}

impl Run {
    /// Who shares it.
    pub(super) const fn sharing(&self) -> Sharing {
        match self.owner {
            None => Sharing::Shared,
            Some(_) => Sharing::PerAllocation,
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            None => write!(f, "{}", self.name),
            Some(owner) => write!(f, "{} of {owner}", self.name),
        }
    }
}

/// The leases that are let in.
pub(super) struct Leases {
    /// Let go of at the end, so that the engine can come to its own.
    engine: Mutex<Option<EngineHandle>>,
    /// Absent where no token is asked for.
    key: Option<AccessKey>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    live: BTreeMap<AllocationId, Lease>,
    ended: VecDeque<(AllocationId, FencingToken)>,
}

struct Lease {
    fencing_token: FencingToken,
    runs: BTreeSet<Run>,
    /// When it runs out; nothing while that is not known.
    ends_at: Option<Instant>,
}

impl Leases {
    pub(super) fn new(engine: EngineHandle, key: Option<AccessKey>) -> Arc<Self> {
        Arc::new(Self { engine: Mutex::new(Some(engine)), key, held: Mutex::default() })
    }

    /// Goes by what is known, and asks the books no more.
    pub(super) fn close(&self) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The access token of a lease; nothing where none is asked for.
    pub(super) fn token(&self, allocation: AllocationId, fencing_token: FencingToken) -> Option<String> {
        self.key.as_ref().map(|key| key.token(allocation, fencing_token))
    }

    /// Lets a lease in to these servers.
    pub(super) fn admit(&self, view: &AllocationView, runs: BTreeSet<Run>) {
        let reservation = &view.allocation.reservation;
        let lease = Lease { fencing_token: reservation.fencing_token, runs, ends_at: ends_at(view) };
        self.lock().live.insert(reservation.allocation, lease);
    }

    /// Goes by what a lease is now, if it is let in.
    pub(super) fn update(&self, view: &AllocationView) {
        if let Some(lease) = self.lock().live.get_mut(&view.allocation.reservation.allocation) {
            lease.ends_at = ends_at(view);
        }
    }

    /// Lets a lease in no more.
    pub(super) fn end(&self, allocation: AllocationId) {
        let mut held = self.lock();
        if let Some(lease) = held.live.remove(&allocation) {
            if held.ended.len() == ENDED_MAX {
                held.ended.pop_front();
            }
            held.ended.push_back((allocation, lease.fencing_token));
        }
    }

    /// The leases that have run out and are not taken back yet, with what they may not use any more.
    pub(super) fn run_out(&self) -> Vec<(AllocationId, BTreeSet<Run>)> {
        let now = Instant::now();
        let held = self.lock();
        let is_out = |lease: &&Lease| lease.ends_at.is_some_and(|at| at <= now);
        let out = held.live.iter().filter(|(_, lease)| is_out(lease));
        out.map(|(allocation, lease)| (*allocation, lease.runs.clone())).collect()
    }

    /// The gate of a run.
    pub(super) fn gate(self: &Arc<Self>, run: Run) -> Arc<dyn Authenticator> {
        Arc::new(RunGate { leases: Arc::clone(self), run })
    }

    async fn look(&self, bearer: Option<&str>, run: &Run) -> Result<Option<AllocationId>, AuthError> {
        let Some(key) = &self.key else { return Ok(None) };
        let refused = |why: String| Err(AuthError(why));
        let Some(bearer) = bearer else {
            return refused(
                "an access token is needed: send the access_token of your allocation as a bearer token".into(),
            );
        };
        let made_up = || refused("the bearer token is not the access_token of a live allocation".into());
        let Some(allocation) = allocation_of(bearer) else { return made_up() };
        let (ends_at, is_of_run) = {
            let held = self.lock();
            let ended = || held.ended.iter().rev().find(|(id, _)| *id == allocation);
            let lease = held.live.get(&allocation);
            let Some(fencing_token) = lease.map(|lease| lease.fencing_token).or_else(|| ended().map(|ended| ended.1))
            else {
                return made_up();
            };
            if !key.is_token_of(bearer, allocation, fencing_token) {
                return made_up();
            }
            let Some(lease) = lease else {
                return refused(format!("the lease of {allocation} has ended: request resources anew"));
            };
            (lease.ends_at, lease.runs.contains(run))
        };
        if !is_of_run {
            return refused(format!("{allocation} does not hold this MCP server: request it with request_resources"));
        }
        // It may have been renewed just now, or spared after an outage: the books know.
        if ends_at.is_some_and(|at| at <= Instant::now()) && self.has_run_out(allocation).await {
            return refused(format!(
                "the lease of {allocation} has expired: request resources anew, and renew in time"
            ));
        }
        Ok(Some(allocation))
    }

    async fn has_run_out(&self, allocation: AllocationId) -> bool {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(engine) = engine else { return true };
        let Ok(Some(reading)) = engine.allocation(allocation).await else { return true };
        let Record::Allocation(view) = reading.value else { return true };
        self.update(&view);
        ends_at(&view).is_none_or(|at| at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a lease runs out by the monotonic clock, by which the engine's time goes too.
fn ends_at(view: &AllocationView) -> Option<Instant> {
    let left = Duration::from_millis(view.expires_at?.since(view.at).0);
    Instant::now().checked_add(left)
}

struct RunGate {
    leases: Arc<Leases>,
    run: Run,
}

impl Authenticator for RunGate {
    fn authenticate<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, AuthError>> {
        self.leases.look(bearer, &self.run).boxed()
    }
}
