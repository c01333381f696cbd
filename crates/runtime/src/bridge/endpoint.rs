//! One endpoint: a place for clients that outlives the children behind it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::bridge::{
    http::auth::Authenticator,
    limits::{connection_permits::ConnectionPermits, memory_budget::MemoryBudget},
    mux::{
        connected_child::ChildInfo,
        multiplexer::{ChildState, ChildUnavailable, Multiplexer},
        usage::Usage,
    },
};

use cortex_core::ids::{AllocationId, ServerName};

/// How an endpoint is to behave.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// The name that errors say.
    pub name: ServerName,
    /// The most calls of clients that the child is given at once.
    pub calls_in_flight_max: usize,
    /// How long a call waits for a child that is not up.
    pub start_wait: Duration,
    /// What the child is told when it asks for roots, as `file://` URIs. None: it is told that there are none to be had.
    pub roots: Vec<String>,
}

/// Serves the clients of one server.
pub struct Endpoint {
    start_wait: Duration,
    pub(super) authenticator: Arc<dyn Authenticator>,
    multiplexer: Mutex<Multiplexer>,
    /// What is held of clients' messages.
    pub(super) memory_budget: Arc<MemoryBudget>,
    pub(super) connection_permits: Arc<ConnectionPermits>,
    /// Told whenever the child comes, goes, or will not come, and when a lease ends.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Endpoint");
        debug
            .field("multiplexer", &self.multiplexer)
            .field("connections", &self.connection_permits)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint without a child.
    #[must_use]
    pub fn new(options: EndpointOptions, authenticator: Arc<dyn Authenticator>) -> Arc<Self> {
        let EndpointOptions { name, calls_in_flight_max, start_wait, roots } = options;
        let memory_budget = MemoryBudget::new();
        Arc::new(Self {
            start_wait,
            authenticator,
            multiplexer: Mutex::new(Multiplexer::new(name, calls_in_flight_max, roots, Arc::clone(&memory_budget))),
            memory_budget,
            connection_permits: ConnectionPermits::new(),
            changed: watch::Sender::new(()),
        })
    }

    /// Ends what an allocation has here: its sessions, its streams and its calls, with an error, and then its connections.
    pub fn end_allocation(&self, allocation: AllocationId) {
        self.multiplexer().end_allocation(allocation);
        self.connection_permits.end(allocation);
        // Those that wait for a child need wait no longer.
        self.changed.send_replace(());
    }

    /// What an allocation did here. Once it has ended, this is given out once more and then forgotten.
    #[must_use]
    pub fn usage(&self, allocation: AllocationId) -> Usage {
        self.multiplexer().usages.take(allocation)
    }

    /// What all clients did here together.
    #[must_use]
    pub fn total_usage(&self) -> Usage {
        self.multiplexer().usages.total()
    }

    /// Says what becomes of a server that does not run. One that is connected is not concerned.
    pub fn set_state(&self, state: ChildState) {
        self.multiplexer().set_state(state);
        self.changed.send_replace(());
    }

    /// Wakes the calls that wait for the child.
    pub(super) fn notify_waiters(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn multiplexer(&self) -> MutexGuard<'_, Multiplexer> {
        self.multiplexer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn child_lost(self: &Arc<Self>, generation: u64, why: &str) {
        let mut multiplexer = self.multiplexer();
        // Where nothing runs any more there is nobody to wait either.
        if multiplexer.child_lost(generation, why)
            && !multiplexer.has_failed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (endpoint, until) = (Arc::downgrade(self), self.start_deadline());
            let timeout = runtime.spawn(async move {
                tokio::time::sleep_until(until).await;
                if let Some(endpoint) = endpoint.upgrade() {
                    endpoint.multiplexer().fail_waiting_calls();
                }
            });
            multiplexer.set_start_timeout(timeout.abort_handle());
        }
        drop(multiplexer);
        self.changed.send_replace(());
    }

    /// Until when a call that comes now waits for a child.
    pub(super) fn start_deadline(&self) -> Instant {
        Instant::now() + self.start_wait
    }

    /// Waits until the child is up, for a call of this allocation.
    ///
    /// # Errors
    /// It is not by then, or will not be; or the lease ends.
    pub(super) async fn wait_for_child(
        &self,
        until: Instant,
        allocation: Option<AllocationId>,
    ) -> Result<Arc<ChildInfo>, ChildUnavailable> {
        let check = || {
            let multiplexer = self.multiplexer();
            if multiplexer.usages.is_ended(allocation) {
                return Some(Err(ChildUnavailable::lease_ended()));
            }
            match multiplexer.child_info() {
                Some(info) => Some(Ok(Arc::clone(info))),
                None => multiplexer.has_failed().then(|| Err(multiplexer.unavailable())),
            }
        };
        if let Some(found) = check() {
            return found;
        }
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = check() {
                return found;
            }
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                return Err(self.multiplexer().unavailable());
            }
        }
    }
}
